//! Which images building a Dockerfile asks for: those of `FROM`, `COPY --from`, `RUN --mount=from=`, and its own syntax.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::DockerBuild;
use crate::artifacts::Store;
use crate::image::archive;
use crate::image::reference::Reference;

/// No honest Dockerfile is larger.
const LARGEST: u64 = 1 << 20;

/// An image that a build asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub reference: Reference,
    /// Of the Dockerfile, from 1.
    pub line: usize,
}

/// The images that this build asks for, read from its packed context.
///
/// # Errors
/// When the context or the Dockerfile cannot be read, or the name of an image cannot be known.
pub fn of_build(build: &DockerBuild, store: &Store) -> Result<Vec<Base>> {
    let pin = &build.context;
    let tar = store.get(&pin.sha256)?.with_context(|| format!("the {} is not in the cache", pin.name))?;
    let context = || format!("reading the {}", pin.name);
    for entry in tar::Archive::new(archive::open(&tar)?).entries().with_context(context)? {
        let entry = entry.with_context(context)?;
        let path = entry.path().with_context(context)?;
        if path.strip_prefix("/").unwrap_or(&path) == Path::new(&build.dockerfile) {
            let mut text = String::new();
            entry.take(LARGEST).read_to_string(&mut text).with_context(context)?;
            return of_text(&text, &build.build_args, build.target.as_deref());
        }
    }
    bail!("the {} has no {}", pin.name, build.dockerfile)
}

/// A stage of a Dockerfile: what it is built on, and what else it takes files from.
#[derive(Debug, Default)]
struct Stage {
    name: String,
    from: Vec<(String, usize)>,
}

fn of_text(text: &str, build_args: &BTreeMap<String, String>, target: Option<&str>) -> Result<Vec<Base>> {
    let mut args = platform();
    let mut stages: Vec<Stage> = Vec::new();
    let mut wanted = Vec::new();
    if let Some((syntax, line)) = directive(text, "syntax") {
        wanted.push((syntax.to_owned(), line));
    }
    for (line, instruction) in instructions(text) {
        let mut words = instruction.split_whitespace();
        match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "ARG" if stages.is_empty() => {
                for word in words {
                    let (name, default) = word.split_once('=').unwrap_or((word, ""));
                    let default = expanded(default.trim_matches(['"', '\'']), &args);
                    args.insert(name.to_owned(), build_args.get(name).cloned().unwrap_or(default));
                }
            }
            "FROM" => {
                let mut words = words.skip_while(|word| word.starts_with("--"));
                let base = expanded(words.next().unwrap_or_default(), &args);
                let name = words.nth(1).unwrap_or_default().to_ascii_lowercase();
                stages.push(Stage { name, from: vec![(base, line)] });
            }
            "COPY" | "ADD" | "RUN" => {
                let flags = words.take_while(|word| word.starts_with("--"));
                let from = flags.filter_map(taken_from).map(|from| (from.to_owned(), line));
                if let Some(stage) = stages.last_mut() {
                    stage.from.extend(from);
                }
            }
            _ => {}
        }
    }
    wanted.extend(reached(&stages, target));
    let mut bases = Vec::new();
    for (name, line) in wanted.into_iter().filter(|(name, _)| name != "scratch") {
        let reference = Reference::parse(&name)
            .with_context(|| format!("line {line} of the Dockerfile: which image {name:?} is cannot be known"))?;
        bases.push(Base { reference, line });
    }
    Ok(bases)
}

/// What the target (by default the last stage) takes from others than stages, directly or through them. Others are not built.
fn reached(stages: &[Stage], target: Option<&str>) -> Vec<(String, usize)> {
    // A stage sees those before it, by name or by number.
    let find = |name: &str, before: usize| {
        let by_name = stages[..before]
            .iter()
            .rposition(|stage| !stage.name.is_empty() && stage.name == name.to_ascii_lowercase());
        by_name.or_else(|| name.parse().ok().filter(|number| *number < before))
    };
    let last = stages.len().checked_sub(1);
    let mut todo: Vec<_> = target.and_then(|target| find(target, stages.len())).or(last).into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut images = BTreeSet::new();
    while let Some(index) = todo.pop() {
        if !seen.insert(index) {
            continue;
        }
        for (name, line) in &stages[index].from {
            match find(name, index) {
                Some(stage) => todo.push(stage),
                None => drop(images.insert((*line, name.clone()))),
            }
        }
    }
    images.into_iter().map(|(line, name)| (name, line)).collect()
}

/// `--from=NAME`, or `--mount=type=bind,from=NAME,…`.
fn taken_from(flag: &str) -> Option<&str> {
    match flag.strip_prefix("--mount=") {
        Some(mount) => mount.split(',').find_map(|part| part.strip_prefix("from=")),
        None => flag.strip_prefix("--from="),
    }
}

/// Arguments that BuildKit sets itself.
fn platform() -> BTreeMap<String, String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut args = BTreeMap::new();
    for side in ["TARGET", "BUILD"] {
        args.insert(format!("{side}OS"), "linux".to_owned());
        args.insert(format!("{side}ARCH"), architecture.to_owned());
        args.insert(format!("{side}PLATFORM"), format!("linux/{architecture}"));
    }
    args
}

/// A directive such as `# syntax=docker/dockerfile:1`: they stand before everything else.
fn directive<'a>(text: &'a str, name: &str) -> Option<(&'a str, usize)> {
    for (index, line) in text.lines().enumerate() {
        let (key, value) = line.trim().strip_prefix('#')?.split_once('=')?;
        if key.trim().eq_ignore_ascii_case(name) {
            return Some((value.trim(), index + 1));
        }
    }
    None
}

/// Instructions with the number of the line that each begins in: continued lines joined, comments and here-documents left out.
fn instructions(text: &str) -> Vec<(usize, String)> {
    let escape = directive(text, "escape").map_or("\\", |(escape, _)| escape);
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (at, before) = open.take().unwrap_or((index + 1, String::new()));
        if let Some(line) = line.strip_suffix(escape) {
            open = Some((at, before + line + " "));
            continue;
        }
        let instruction = before + line;
        for end in here_documents(&instruction) {
            lines.by_ref().find(|(_, line)| line.trim_start_matches('\t') == end);
        }
        found.push((at, instruction));
    }
    found.extend(open);
    found
}

/// The words that end the here-documents of an instruction: `RUN <<EOF`, `COPY <<-"END" /x`.
fn here_documents(instruction: &str) -> Vec<String> {
    let takes = ["RUN", "COPY", "ADD"]
        .iter()
        .any(|name| instruction.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)));
    let words = instruction.split_whitespace().filter_map(|word| word.split_once("<<")).map(|(_, word)| word);
    let words = words.map(|word| word.trim_start_matches('-').trim_matches(['"', '\''])).filter(|_| takes);
    words.filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_')).map(str::to_owned).collect()
}

/// `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}`; nothing for what is not set.
fn expanded(text: &str, args: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some((inside, after)) = after.strip_prefix('{').and_then(|it| it.split_once('}')) {
            let end = inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len());
            let (name, operator) = inside.split_at(end);
            let value = args.get(name).map(String::as_str).unwrap_or_default();
            let (default, other) =
                (operator.strip_prefix(":-").or(operator.strip_prefix('-')), operator.strip_prefix(":+"));
            match (value, default, other) {
                ("", Some(default), _) => out.push_str(default),
                ("", _, Some(_)) => {}
                (_, _, Some(other)) => out.push_str(other),
                _ => out.push_str(value),
            }
            rest = after;
        } else {
            let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
            out.push_str(args.get(&after[..end]).map(String::as_str).unwrap_or_default());
            rest = &after[end..];
        }
    }
    out + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bases(text: &str, args: &[(&str, &str)], target: Option<&str>) -> Vec<String> {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let bases = of_text(text, &args, target).unwrap();
        bases.iter().map(|base| format!("{} {}", base.line, base.reference.stored_name())).collect()
    }

    const TEXT: &str = "\
# syntax=docker/dockerfile:1.7
# A comment with FROM nothing:1
ARG VERSION=3.12
ARG REGISTRY
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.93 AS Build
RUN --mount=type=cache,target=/x --mount=type=bind,from=ghcr.io/x/tools:v1,target=/t \\
    # in between
    cargo build && \\
    echo FROM nothing:2
RUN <<EOF
FROM nothing:3
EOF
FROM scratch AS empty
FROM ghcr.io/x/dev:v1 AS dev
FROM ${REGISTRY:-quay.io}/lib/python:${VERSION}-slim
COPY --from=build /a /b
COPY --chown=0:0 --from=ghcr.io/astral-sh/uv:0.9 /uv /bin/
from build as other
FROM 2
COPY --from=empty / /
";

    #[test]
    fn what_the_last_stage_needs_and_nothing_else() {
        let build = ["1 docker.io/docker/dockerfile:1.7", "5 docker.io/library/rust:1.93", "6 ghcr.io/x/tools:v1"];
        let text = TEXT.rsplit_once("from build").unwrap().0;
        let ends = ["15 quay.io/lib/python:3.12-slim", "17 ghcr.io/astral-sh/uv:0.9"];
        assert_eq!(bases(text, &[], None), [&build[..], &ends].concat());
        let ends = ["15 ghcr.io/lib/python:3.13-slim", "17 ghcr.io/astral-sh/uv:0.9"];
        assert_eq!(bases(text, &[("VERSION", "3.13"), ("REGISTRY", "ghcr.io")], None), [&build[..], &ends].concat());
        assert_eq!(bases(TEXT, &[], Some("other")), build);
        assert_eq!(bases(TEXT, &[], Some("dev")), [build[0], "14 ghcr.io/x/dev:v1"]);
        assert_eq!(bases(TEXT, &[], None), [build[0], "14 ghcr.io/x/dev:v1"], "by number, and nothing of scratch");
    }

    #[test]
    fn names_that_cannot_be_known_are_errors() {
        let error = of_text("ARG BASE\nFROM ${BASE}\n", &BTreeMap::new(), None).unwrap_err().to_string();
        assert_eq!(error, "line 2 of the Dockerfile: which image \"\" is cannot be known");
        assert_eq!(
            bases("ARG BASE\nFROM ${BASE}\n", &[("BASE", "busybox:1")], None),
            ["2 docker.io/library/busybox:1"]
        );
        assert_eq!(bases("# escape=`\nFROM `\n  busybox:1\n", &[], None), ["2 docker.io/library/busybox:1"]);
        assert_eq!(expanded("a${X:+b}${Y:+c}-$X.", &[("X".to_owned(), "1".to_owned())].into()), "ab-1.");
    }
}
