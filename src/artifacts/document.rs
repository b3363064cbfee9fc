//! Reading the YAML files of this floor, with the place in every error.

use std::fmt::Display;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::diagnostic::{Diagnostic, Place};

/// A place in a file as the YAML reader counts it.
pub fn place(file: &str, location: serde_yaml::Location) -> Place {
    let number = |value: u64| u32::try_from(value.max(1)).unwrap_or(u32::MAX);
    Place { file: file.to_owned(), line: number(location.line()), column: number(location.column()) }
}

/// Parses `text`; `file` is how the file is called in errors.
///
/// # Errors
/// What does not fit, with its place: syntax, a duplicate or unknown key, a wrong type.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Diagnostic> {
    serde_yaml::from_str(text).map_err(|error| {
        let location = error.location();
        let message = message(error.without_snippet());
        match location {
            Some(location) => Diagnostic::at(place(file, location), message),
            None => Diagnostic::new(format!("{file}: {message}")),
        }
    })
}

/// Reads and parses a file.
///
/// # Errors
/// When it cannot be read, or as [`parse`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(String, T), Diagnostic> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Diagnostic::new(format!("{file}: {error}")))?;
    let value = parse(&file, &text)?;
    Ok((text, value))
}

/// The reader's message without what is for programmers, and without the place that it repeats at its end.
fn message(error: impl Display) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let ends = [" at line ", ", set DuplicateKeyPolicy"];
    let end = ends.iter().filter_map(|end| line.find(end)).min();
    line[..end.unwrap_or(line.len())].to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Doc {
        name: String,
        size: Option<u32>,
    }

    fn error(text: &str) -> String {
        parse::<Doc>("doc.yml", text).unwrap_err().to_string()
    }

    #[test]
    fn errors_have_their_place() {
        assert_eq!(error("name: a\nsise: 3\n"), "doc.yml:2:1: unknown field `sise`, expected one of name, size");
        assert_eq!(error("name: a\nname: b\n"), "doc.yml:2:1: duplicate mapping key: name");
        assert!(error("name: a\nsize: many\n").starts_with("doc.yml:2:7: "));
        assert!(error("name: [\n").starts_with("doc.yml:"));
    }
}
