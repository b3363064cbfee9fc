//! Whoever may look at objects must not find a secret in them: templates may hold fingerprints of secrets, nothing else of them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// Expressions of a template that ask for a secret and give away more than a fingerprint.
fn open_secrets(text: &str) -> Vec<&str> {
    let expressions = text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(str::trim);
    let tags = text.split("{%").skip(1).filter_map(|rest| rest.split("%}").next()).map(str::trim);
    // A filter binds tighter than `~`: without parentheses only the last of several is hidden.
    let hidden = |expression: &str| match expression.strip_suffix("| fingerprint").map(str::trim) {
        Some(inner) if inner.starts_with('(') && inner.ends_with(')') => {
            !inner[1..inner.len() - 1].contains(['(', ')'])
        }
        Some(inner) => !inner.contains('~'),
        None => false,
    };
    expressions.chain(tags).filter(|text| text.contains("secret.") && !hidden(text)).collect()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn templates_hold_no_secret() {
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("templates"), &mut found);
    assert!(found.len() > 3);
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(open_secrets(&text), Vec::<&str>::new(), "{}", path.display());
    }
}

#[test]
fn the_search_can_fail() {
    assert_eq!(open_secrets("x: {{ secret.a }}"), ["secret.a"]);
    assert_eq!(open_secrets("x: {{ secret.a ~ secret.b | fingerprint }}").len(), 1);
    assert_eq!(open_secrets("{% set x = secret.a %}").len(), 1);
    assert!(
        open_secrets("x: {{ (secret.a ~ secret.b) | fingerprint }} {{ secret.a | fingerprint }} {{ b }}").is_empty()
    );
}
