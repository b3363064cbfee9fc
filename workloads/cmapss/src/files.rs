//! Files on disk: plain or gzip, found by their usual names, recognised by checksum.

use crate::data::Fleet;
use crate::error::Error;
use crate::parse::{parse_fleet, parse_rul};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest C-MAPSS file has 10 MB; a gzip file may claim anything.
const LARGEST: u64 = 256 << 20;

/// SHA-256 of NASA's own files, uncompressed.
const KNOWN: [(&str, &str); 5] = [
    ("train_FD001", "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8"),
    ("test_FD001", "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851"),
    ("RUL_FD001", "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca"),
    ("test_FD003", "299babd63c8d987cef079c4a425429f33b3a34797d803bbe2ad48c29dbd0d790"),
    ("RUL_FD003", "df1e0566306b174a2de41c67a3e7a51877889598b78643fc3e5685259091b7cb"),
];

/// The uncompressed text of a file, and its fingerprint.
#[derive(Debug, Clone)]
pub struct Text {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// SHA-256 of `bytes`, lower-case hexadecimal.
    pub sha256: String,
}

impl Text {
    /// Reads a file; one that ends in `.gz` is unpacked.
    ///
    /// # Errors
    /// [`Error::Io`] (also for a damaged gzip stream), [`Error::TooLarge`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let mut bytes = Vec::new();
        let packed = path.extension().is_some_and(|e| e == "gz");
        if packed {
            MultiGzDecoder::new(file).take(LARGEST + 1).read_to_end(&mut bytes)
        } else {
            file.take(LARGEST + 1).read_to_end(&mut bytes)
        }
        .map_err(io)?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::TooLarge { path: path.to_owned(), limit: LARGEST });
        }
        let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { path: path.to_owned(), bytes, sha256 })
    }

    /// Reads `STEM.txt` or, where that is not there, `STEM.txt.gz` from a directory.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is neither, else those of [`Self::read`].
    pub fn find(dir: &Path, stem: &str) -> Result<Self, Error> {
        for ending in ["txt", "txt.gz"] {
            let path = dir.join(format!("{stem}.{ending}"));
            if path.is_file() {
                return Self::read(&path);
            }
        }
        Err(Error::Missing { dir: dir.to_owned(), stem: stem.to_owned() })
    }

    /// `train_FD001`, ... when this is NASA's own file, byte for byte. FD002 and FD004 are not known here.
    #[must_use]
    pub fn known_as(&self) -> Option<&'static str> {
        KNOWN.iter().find(|(_, sum)| *sum == self.sha256).map(|(name, _)| *name)
    }

    /// Parses the rows. See [`parse_fleet`].
    ///
    /// # Errors
    /// [`Error::Parse`].
    pub fn fleet(&self) -> Result<Fleet, Error> {
        parse_fleet(&self.path.display().to_string(), &self.bytes)
    }

    /// Parses remaining lives. See [`parse_rul`].
    ///
    /// # Errors
    /// [`Error::Parse`].
    pub fn rul(&self) -> Result<Vec<u32>, Error> {
        parse_rul(&self.path.display().to_string(), &self.bytes)
    }
}

/// A test set: engines cut before failure, and how long each would have lived on.
#[derive(Debug, Clone, PartialEq)]
pub struct TestSet {
    pub fleet: Fleet,
    /// Remaining cycles after the last row, per engine in file order.
    pub rul: Vec<u32>,
}

impl TestSet {
    /// Pairs engines with their remaining lives.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`].
    pub fn new(fleet: Fleet, rul: Vec<u32>) -> Result<Self, Error> {
        if fleet.engines.len() != rul.len() {
            return Err(Error::LengthMismatch {
                what: "test engines and lines of the RUL file",
                left: fleet.engines.len(),
                right: rul.len(),
            });
        }
        Ok(Self { fleet, rul })
    }

    /// Reads `test_NAME` and `RUL_NAME` (as in `FD001`) from a directory.
    ///
    /// # Errors
    /// Those of [`Text::find`], of parsing, and of [`Self::new`].
    pub fn read(dir: &Path, name: &str) -> Result<Self, Error> {
        let fleet = Text::find(dir, &format!("test_{name}"))?.fleet()?;
        Self::new(fleet, Text::find(dir, &format!("RUL_{name}"))?.rul()?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    #[test]
    fn plain_and_gzip_give_the_same_text() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("RUL_a.txt"), "5 \n6 \n").unwrap();
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(b"5 \n6 \n").unwrap();
        std::fs::write(dir.path().join("RUL_b.txt.gz"), gz.finish().unwrap()).unwrap();
        let (a, b) = (Text::find(dir.path(), "RUL_a").unwrap(), Text::find(dir.path(), "RUL_b").unwrap());
        assert_eq!((a.rul().unwrap(), &a.sha256), (vec![5, 6], &b.sha256));
        assert_eq!(a.known_as(), None);
    }

    #[test]
    fn missing_damaged_and_unpaired_files_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = Text::find(dir.path(), "train_FD009").unwrap_err().to_string();
        assert!(error.starts_with("no train_FD009.txt or train_FD009.txt.gz in "), "{error}");
        let bad = dir.path().join("x.txt.gz");
        std::fs::write(&bad, "1 2 3").unwrap();
        let error = Text::read(&bad).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let error = TestSet::new(Fleet::default(), vec![3]).unwrap_err().to_string();
        assert_eq!(error, "test engines and lines of the RUL file: 0 against 1");
    }
}
