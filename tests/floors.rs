//! A module imports only from its own floor and those below it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// Top to bottom.
const FLOORS: [&[&str]; 8] = [
    &["main"],
    &["commands", "cli"],
    &["ui", "sandbox"],
    &["agent", "transport"],
    &["engine"],
    &["resources", "checks"],
    &["host", "cluster", "image", "artifacts"],
    &["project", "secrets"],
];
const LEAVES: [&str; 3] = ["diagnostic", "diff", "hash"];
const FORBIDDEN: [&str; 5] = ["utils", "helpers", "common", "misc", "manager"];

fn floor(module: &str) -> Option<usize> {
    if LEAVES.contains(&module) {
        return Some(FLOORS.len());
    }
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Names after `crate::` in a line, also inside `use crate::{a, b}`.
fn imports(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(list) = rest.strip_prefix('{') {
            names.extend(list.split(['}', ';']).next().unwrap_or_default().split(',').map(|item| word(item.trim())));
        } else {
            names.push(word(rest));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn modules_import_only_from_their_floor_and_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for path in &files {
        let relative = path.strip_prefix(&root).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if module == "lib" {
            continue;
        }
        let own = floor(&module).unwrap_or_else(|| panic!("the module {module} has no floor; add it to the list"));
        for (index, line) in std::fs::read_to_string(path).unwrap().lines().enumerate() {
            for name in imports(line) {
                if floor(&name).is_some_and(|other| other < own) {
                    wrong.push(format!(
                        "{}:{}: {module} imports {name}, which is above it",
                        relative.display(),
                        index + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_and_sizes_of_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "workloads"] {
        sources(&root.join(folder), &mut files);
    }
    for path in files {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(!FORBIDDEN.contains(&stem.as_str()), "{} says nothing about what is in it", path.display());
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 800, "{} has {lines} lines; 800 is the most", path.display());
    }
}

#[test]
fn the_test_of_imports_can_fail() {
    assert_eq!(imports("use crate::{agent::x, ui};"), ["agent", "ui"]);
    assert_eq!(imports("let x = crate::commands::run();"), ["commands"]);
    assert!(floor("commands") < floor("engine"));
}
