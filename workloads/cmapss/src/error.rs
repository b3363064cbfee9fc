//! What can be wrong, said so that it can be mended.

use std::path::PathBuf;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file's text is not what the format asks for. Lines and columns count from 1; columns are bytes.
    #[error("{file}:{line}:{column}: {reason}")]
    Parse { file: String, line: usize, column: usize, reason: String },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Neither the plain nor the gzip file is there.
    #[error(
        "no {stem}.txt or {stem}.txt.gz in {}: unpack NASA's C-MAPSS archive there, or generate look-alike data", dir.display()
    )]
    Missing { dir: PathBuf, stem: String },
    /// A file grows beyond what C-MAPSS data can be when unpacked.
    #[error("{}: more than {limit} bytes of text: not a C-MAPSS file", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    /// A column name that no column has.
    #[error("unknown column {name:?}: expected op_setting_1..3 or sensor_01..21")]
    UnknownColumn { name: String },
    /// A value that cannot be computed with.
    #[error("{what} at {index} is {value}: only finite numbers can be used")]
    NotFinite { what: &'static str, index: usize, value: f64 },
    /// Something that must not be empty is.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Two lists that belong together have different lengths.
    #[error("{what}: {left} against {right}")]
    LengthMismatch { what: &'static str, left: usize, right: usize },
    /// An engine with fewer cycles than a window, where padding is refused.
    #[error(
        "engine {engine} has {cycles} cycles, fewer than the window of {length}: choose a padding policy or a shorter window"
    )]
    ShortEngine { engine: u32, cycles: usize, length: usize },
    /// An operating point near none of the known regimes.
    #[error(
        "operating point {settings:?} is near none of the known regimes (nearest: {nearest}, {distance:.1} radii away)"
    )]
    UnknownRegime { settings: [f64; 3], nearest: usize, distance: f64 },
    /// A regime that the training data never visited.
    #[error("regime {regime} has {rows} rows in the training data: too few to normalise by")]
    UnfittedRegime { regime: usize, rows: usize },
    /// A parameter out of its range.
    #[error("{name} = {value}: {reason}")]
    BadParameter { name: &'static str, value: String, reason: &'static str },
}
