//! The text format: 26 numbers per line (unit, cycle, 3 settings, 21 sensors), separated by spaces, no header.
//!
//! NASA's own files end their lines with two spaces; CRLF line ends and empty lines at the end are accepted too. Everything else
//! is refused with its place, because a silently skipped row shifts every label of its engine.

use crate::data::{COLUMNS, Engine, Fleet, Row};
use crate::error::Error;
use std::collections::HashSet;

/// Numbers per line.
const FIELDS: usize = COLUMNS + 2;

/// Parses a `train_FD00x` or `test_FD00x` text. `file` only names the place in errors.
///
/// # Errors
/// [`Error::Parse`] with line and column: a wrong number of fields, a field that is no finite number, cycles that do not count
/// 1, 2, 3, ..., an engine that comes back after another one, a text without rows.
pub fn parse_fleet(file: &str, text: &[u8]) -> Result<Fleet, Error> {
    let mut engines: Vec<Engine> = Vec::new();
    let mut seen = HashSet::new();
    for line in Lines::new(file, text) {
        let line = line?;
        let fields = line.fields::<FIELDS>()?;
        let id = line.count(&fields[0], "unit number")?;
        let cycle = line.count(&fields[1], "cycle")?;
        let mut values = [0.0; COLUMNS];
        for (value, field) in values.iter_mut().zip(&fields[2..]) {
            *value = line.number(field)?;
        }
        let expected = match engines.last() {
            Some(engine) if engine.id == id => engine.rows.len() as u64 + 1,
            _ => {
                if !seen.insert(id) {
                    return Err(line.error(
                        fields[0].column,
                        format!(
                            "engine {id} comes back after another engine: rows of one engine belong together, or two engines share a number"
                        ),
                    ));
                }
                engines.push(Engine { id, rows: Vec::new() });
                1
            }
        };
        if u64::from(cycle) != expected {
            return Err(line.error(
                fields[1].column,
                format!("engine {id} is at cycle {cycle} where {expected} was expected: cycles count 1, 2, 3, ... without gaps"),
            ));
        }
        if let Some(engine) = engines.last_mut() {
            engine.rows.push(Row { cycle, values });
        }
    }
    if engines.is_empty() {
        return Err(empty(file));
    }
    Ok(Fleet { engines })
}

/// Parses a `RUL_FD00x` text: the remaining cycles of each test engine at its last row, one integer per line.
///
/// # Errors
/// [`Error::Parse`] with line and column.
pub fn parse_rul(file: &str, text: &[u8]) -> Result<Vec<u32>, Error> {
    let mut rul = Vec::new();
    for line in Lines::new(file, text) {
        let line = line?;
        let fields = line.fields::<1>()?;
        rul.push(line.integer(&fields[0], "remaining life")?);
    }
    if rul.is_empty() {
        return Err(empty(file));
    }
    Ok(rul)
}

fn empty(file: &str) -> Error {
    Error::Parse { file: file.to_owned(), line: 1, column: 1, reason: "the file has no rows".to_owned() }
}

/// A field and the byte column where it starts.
#[derive(Clone, Copy)]
struct Field<'a> {
    text: &'a str,
    column: usize,
}

struct Line<'a> {
    file: &'a str,
    number: usize,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn error(&self, column: usize, reason: String) -> Error {
        Error::Parse { file: self.file.to_owned(), line: self.number, column, reason }
    }

    fn fields<const N: usize>(&self) -> Result<[Field<'a>; N], Error> {
        let mut fields = [Field { text: "", column: 1 }; N];
        let mut found = 0;
        let mut rest = self.text;
        let mut column = 1;
        loop {
            let trimmed = rest.trim_start_matches([' ', '\t']);
            column += rest.len() - trimmed.len();
            if trimmed.is_empty() {
                break;
            }
            let end = trimmed.find([' ', '\t']).unwrap_or(trimmed.len());
            let Some(slot) = fields.get_mut(found) else {
                let extra = trimmed.split_ascii_whitespace().count();
                return Err(self.error(column, format!("{} fields where {N} belong: this one is too many", N + extra)));
            };
            *slot = Field { text: &trimmed[..end], column };
            found += 1;
            column += end;
            rest = &trimmed[end..];
        }
        if found < N {
            return Err(self.error(column, format!("the line ends after {found} of {N} fields")));
        }
        Ok(fields)
    }

    fn number(&self, field: &Field<'_>) -> Result<f64, Error> {
        match field.text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            Ok(_) => Err(self.error(field.column, format!("{:?} is not a finite number", field.text))),
            Err(_) => Err(self.error(field.column, not_a_number(field.text))),
        }
    }

    fn integer(&self, field: &Field<'_>, what: &str) -> Result<u32, Error> {
        if !field.text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.error(field.column, format!("{what} {:?} is not a whole number", shown(field.text))));
        }
        field.text.parse().map_err(|_| self.error(field.column, format!("{what} {:?} is too large", shown(field.text))))
    }

    /// An integer from 1 on.
    fn count(&self, field: &Field<'_>, what: &str) -> Result<u32, Error> {
        match self.integer(field, what)? {
            0 => Err(self.error(field.column, format!("{what} 0: they count from 1"))),
            n => Ok(n),
        }
    }
}

fn not_a_number(text: &str) -> String {
    let hint = if text.contains([',', ';']) { ": fields are separated by spaces, decimals by a point" } else { "" };
    format!("{:?} is not a number{hint}", shown(text))
}

/// A field as an error may show it: a binary file must not flood the terminal.
fn shown(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Lines with their numbers; empty lines are accepted at the end only.
struct Lines<'a> {
    file: &'a str,
    rest: &'a [u8],
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(file: &'a str, text: &'a [u8]) -> Self {
        Self { file, rest: text, number: 0 }
    }

    fn error(&self, column: usize, reason: &str) -> Error {
        Error::Parse { file: self.file.to_owned(), line: self.number, column, reason: reason.to_owned() }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        // Nothing but white space left: the end.
        if self.rest.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        self.number += 1;
        let end = self.rest.iter().position(|&b| b == b'\n');
        let (line, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &self.rest[self.rest.len()..]),
        };
        self.rest = rest;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            return Some(Err(
                self.error(1, "the file starts with a byte-order mark: save it as plain text without one")
            ));
        }
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(bad) => {
                return Some(Err(
                    self.error(bad.valid_up_to() + 1, "not text: is this a compressed file without .gz in its name?")
                ));
            }
        };
        if text.trim().is_empty() {
            return Some(Err(self.error(1, "an empty line between rows: is the file damaged?")));
        }
        Some(Ok(Line { file: self.file, number: self.number, text }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(unit: u32, cycle: u32) -> String {
        let mut line = format!("{unit} {cycle}");
        for i in 0..COLUMNS {
            line += &format!(" {}.5", i);
        }
        line
    }

    fn fails(text: &str) -> String {
        parse_fleet("train.txt", text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn trailing_spaces_crlf_and_missing_last_newline_are_fine() {
        let text = format!("{}  \r\n{}  \n{}\t\n\n  \n", row(1, 1), row(1, 2), row(7, 1));
        let fleet = parse_fleet("x", text.as_bytes()).unwrap();
        assert_eq!(fleet.engines.len(), 2);
        assert_eq!(fleet.engines[1].id, 7);
        assert_eq!(fleet.row_count(), 3);
        assert_eq!(fleet.engines[0].rows[1].values[23], 23.5);
        assert!(parse_fleet("x", row(1, 1).as_bytes()).is_ok());
    }

    #[test]
    fn every_fault_has_a_place_and_a_reason() {
        let first = row(1, 1);
        let cases = [
            (String::new(), "train.txt:1:1: the file has no rows"),
            ("1 1 0.5".into(), "train.txt:1:8: the line ends after 3 of 26 fields"),
            (format!("{first} 9 9"), "train.txt:1:115: 28 fields where 26 belong: this one is too many"),
            (first.replace(" 3.5", " x3.5"), "train.txt:1:17: \"x3.5\" is not a number"),
            (
                first.replace(" 3.5", " 3,5"),
                "train.txt:1:17: \"3,5\" is not a number: fields are separated by spaces, decimals by a point",
            ),
            (first.replace(" 3.5", " NaN"), "train.txt:1:17: \"NaN\" is not a finite number"),
            (first.replace(" 3.5", " -inf"), "train.txt:1:17: \"-inf\" is not a finite number"),
            (first.replace(" 3.5", " 1e999"), "train.txt:1:17: \"1e999\" is not a finite number"),
            (
                format!("{first}\n{}", row(1, 3)),
                "train.txt:2:3: engine 1 is at cycle 3 where 2 was expected: cycles count 1, 2, 3, ... without gaps",
            ),
            (
                format!("{first}\n{}", row(2, 2)),
                "train.txt:2:3: engine 2 is at cycle 2 where 1 was expected: cycles count 1, 2, 3, ... without gaps",
            ),
            (
                format!("{first}\n{}\n{first}", row(2, 1)),
                "train.txt:3:1: engine 1 comes back after another engine: rows of one engine belong together, or two engines share a number",
            ),
            (format!("{first}\n\n{}", row(1, 2)), "train.txt:2:1: an empty line between rows: is the file damaged?"),
            (row(0, 1), "train.txt:1:1: unit number 0: they count from 1"),
            (row(1, 1).replacen("1 ", "1.0 ", 1), "train.txt:1:1: unit number \"1.0\" is not a whole number"),
            (row(1, 1).replacen("1 ", "99999999999 ", 1), "train.txt:1:1: unit number \"99999999999\" is too large"),
            (
                format!("\u{feff}{first}"),
                "train.txt:1:1: the file starts with a byte-order mark: save it as plain text without one",
            ),
        ];
        for (text, want) in cases {
            assert_eq!(fails(&text), want);
        }
        let binary = parse_fleet("a.txt", b"1 1 \xff").unwrap_err().to_string();
        assert_eq!(binary, "a.txt:1:5: not text: is this a compressed file without .gz in its name?");
    }

    #[test]
    fn rul_files() {
        assert_eq!(parse_rul("r", b"112 \n98 \r\n0\n").unwrap(), [112, 98, 0]);
        let error = parse_rul("RUL.txt", b"112\n-3\n").unwrap_err().to_string();
        assert_eq!(error, "RUL.txt:2:1: remaining life \"-3\" is not a whole number");
        let error = parse_rul("RUL.txt", b"112 3\n").unwrap_err().to_string();
        assert_eq!(error, "RUL.txt:1:5: 2 fields where 1 belong: this one is too many");
        assert!(parse_rul("RUL.txt", b"\n \n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_fleet_or_a_place(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Err(error) = parse_fleet("f", &bytes) {
                prop_assert!(error.to_string().starts_with("f:"));
            }
            let _ = parse_rul("f", &bytes);
        }

        #[test]
        fn nearly_right_text_gives_a_fleet_or_a_place(
            text in "([0-9]{1,3}[ .\t-]{0,2}){20,60}\r?\n?",
        ) {
            if let Err(error) = parse_fleet("f", text.as_bytes()) {
                prop_assert!(error.to_string().starts_with("f:1:"));
            }
        }
    }
}
