//! Writes the format that [`crate::parse`] reads: NASA's decimals, two spaces before the line end.

use crate::data::{COLUMNS, Fleet};
use std::io::{self, Write};

/// Decimals per column in NASA's files.
pub(crate) const DECIMALS: [usize; COLUMNS] = [4, 4, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 4, 2, 0, 0, 2, 2, 4];

/// Writes all engines. A value with more decimals than NASA's keeps them, so reading back gives the same numbers.
///
/// # Errors
/// Those of `out`. Wrap a file in a `BufWriter`: this writes line by line.
pub fn write_fleet(out: &mut impl Write, fleet: &Fleet) -> io::Result<()> {
    let mut line = String::new();
    for engine in &fleet.engines {
        for row in &engine.rows {
            line.clear();
            line += &format!("{} {}", engine.id, row.cycle);
            for (&value, &decimals) in row.values.iter().zip(&DECIMALS) {
                let usual = format!(" {value:.decimals$}");
                if usual[1..].parse() == Ok(value) {
                    line += &usual;
                } else {
                    line += &format!(" {value}");
                }
            }
            line += "  \n";
            out.write_all(line.as_bytes())?;
        }
    }
    Ok(())
}

/// Writes a RUL file.
///
/// # Errors
/// Those of `out`.
pub fn write_rul(out: &mut impl Write, rul: &[u32]) -> io::Result<()> {
    rul.iter().try_for_each(|r| writeln!(out, "{r} "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{Engine, Row};
    use crate::parse::{parse_fleet, parse_rul};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(values in prop::collection::vec(-1e9f64..1e9, COLUMNS)) {
            let values: [f64; COLUMNS] = values.try_into().unwrap();
            let fleet = Fleet {
                engines: vec![Engine { id: 4, rows: vec![Row { cycle: 1, values }] }],
            };
            let mut text = Vec::new();
            write_fleet(&mut text, &fleet).unwrap();
            prop_assert_eq!(parse_fleet("x", &text).unwrap(), fleet);
        }
    }

    #[test]
    fn rul_reads_back() {
        let mut text = Vec::new();
        write_rul(&mut text, &[112, 7]).unwrap();
        assert_eq!(text, b"112 \n7 \n");
        assert_eq!(parse_rul("x", &text).unwrap(), [112, 7]);
    }
}
