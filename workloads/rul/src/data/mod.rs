//! Data sets as training and the baseline take them: C-MAPSS files of a directory or a bucket, or made up.

mod bucket;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cmapss::files::{TestSet, Text};
use cmapss::synth::{Flavour, Generator};
use cmapss::write::{write_fleet, write_rul};
use cmapss::{Engine, Fleet};
use sha2::{Digest, Sha256};

/// Why there is no data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Data(#[from] cmapss::Error),
    #[error(transparent)]
    Store(#[from] mlflow_client::Error),
    #[error("the data set {name:?}: {reason}")]
    Name { name: String, reason: String },
    #[error("{place}: {reason}")]
    Place { place: String, reason: String },
}

/// Where data comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// A directory, or `s3://bucket/prefix` (MinIO's address and keys from the environment).
    Place(&'a str),
    /// Look-alike data: so many training and so many test engines per data set.
    Generated { engines: u32, seed: u64 },
}

/// One data set, such as FD001.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    pub name: String,
    /// Engines that ran to failure.
    pub train: Fleet,
    /// `None` where there are neither test engines nor their remaining lives.
    pub test: Option<TestSet>,
}

/// Data sets that are used together.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    pub sets: Vec<Set>,
    /// Of the list `SHA256  STEM` of all files, uncompressed, in the order they were read.
    pub sha256: String,
    /// `real` (NASA's own files, by checksum), `given` or `generated`.
    pub origin: &'static str,
}

/// Names of data sets: `FD001`, or several joined by `+`.
///
/// # Errors
/// None, one twice, or one that could not be part of a file's name.
pub fn names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(['+', ',']).map(|name| name.trim().to_owned()).collect();
    let plain = |name: &String| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) && name.len() < 64
    };
    if let Some(bad) = names.iter().find(|name| !plain(name)) {
        return Err(format!("{bad:?} is no name of a data set; write FD001, or FD001+FD002"));
    }
    if let Some(twice) = names.iter().find(|name| names.iter().filter(|other| other == name).count() > 1) {
        return Err(format!("{twice} is named twice"));
    }
    Ok(names)
}

impl Data {
    /// Reads `train_NAME`, and `test_NAME` with `RUL_NAME` where they are, for every name.
    ///
    /// # Errors
    /// Files that are missing or broken (`file:line:column`), a store that does not answer, a name that the generator does not know.
    pub async fn read(source: Source<'_>, names: &[String]) -> Result<Self, Error> {
        match source {
            Source::Generated { engines, seed } => Self::assemble(names, "generated", &mut |stem| {
                let (part, name) = stem.split_once('_').unwrap_or(("", stem));
                generate(part, name, engines, seed).map(Some)
            }),
            Source::Place(place) if place.starts_with("s3://") => {
                let copy = bucket::copy(place, names).await?;
                Self::assemble(names, "given", &mut |stem| {
                    let text = find(copy.path(), place, stem)?;
                    // Messages name the place that the user knows.
                    Ok(text.map(|text| Text { path: shown(place, &text.path), ..text }))
                })
            }
            Source::Place(place) => Self::assemble(names, "given", &mut |stem| find(Path::new(place), place, stem)),
        }
    }

    fn assemble(
        names: &[String],
        origin: &'static str,
        find: &mut dyn FnMut(&str) -> Result<Option<Text>, Error>,
    ) -> Result<Self, Error> {
        let mut hash = Sha256::new();
        let mut real = true;
        let mut read = |stem: String| -> Result<Option<Text>, Error> {
            let text = find(&stem)?;
            if let Some(text) = &text {
                hash.update(format!("{}  {stem}\n", text.sha256));
                real &= text.known_as() == Some(stem.as_str());
            }
            Ok(text)
        };
        let mut sets = Vec::with_capacity(names.len());
        for name in names {
            let missing = |what: String| Error::Name { name: name.clone(), reason: what };
            let train = read(format!("train_{name}"))?.ok_or_else(|| missing("there is no train file".to_owned()))?;
            let test = match (read(format!("test_{name}"))?, read(format!("RUL_{name}"))?) {
                (Some(test), Some(rul)) => Some(TestSet::new(test.fleet()?, rul.rul()?)?),
                (None, None) => None,
                (Some(_), None) => {
                    return Err(missing(format!("test_{name} is there, RUL_{name} is not: add it, or take both away")));
                }
                (None, Some(_)) => {
                    return Err(missing(format!("RUL_{name} is there, test_{name} is not: add it, or take both away")));
                }
            };
            sets.push(Set { name: name.clone(), train: train.fleet()?, test });
        }
        let origin = if real { "real" } else { origin };
        Ok(Self { sets, sha256: hex::encode(hash.finalize()), origin })
    }

    /// Names joined by `+`.
    #[must_use]
    pub fn name(&self) -> String {
        self.sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>().join("+")
    }

    /// The training engines of all sets. Those of several sets are numbered anew, from 1, so that no two share a number.
    #[must_use]
    pub fn fleet(&self) -> Fleet {
        let all = self.sets.iter().flat_map(|set| &set.train.engines).cloned();
        match self.sets.as_slice() {
            [_] => Fleet { engines: all.collect() },
            _ => Fleet { engines: (1..).zip(all).map(|(id, engine)| Engine { id, ..engine }).collect() },
        }
    }
}

/// A file of a directory; `None` for test data that is not there, an error for training data.
fn find(dir: &Path, place: &str, stem: &str) -> Result<Option<Text>, Error> {
    match Text::find(dir, stem) {
        Ok(text) => Ok(Some(text)),
        Err(cmapss::Error::Missing { .. }) if !stem.starts_with("train_") => Ok(None),
        Err(cmapss::Error::Missing { .. }) => Err(absent(dir, place, stem)),
        Err(error) => Err(error.into()),
    }
}

/// Says what is there instead.
fn absent(dir: &Path, place: &str, stem: &str) -> Error {
    let mut there = BTreeSet::new();
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries.flatten() {
                there.extend(set_of(&entry.file_name().to_string_lossy()));
            }
        }
        Err(error) => return Error::Place { place: place.to_owned(), reason: error.to_string() },
    }
    let way_out = if there.is_empty() {
        "unpack NASA's C-MAPSS archive there, or take --generate for look-alike data".to_owned()
    } else {
        format!("it has {}: name one with --dataset", there.into_iter().collect::<Vec<_>>().join(", "))
    };
    Error::Place { place: place.to_owned(), reason: format!("no {stem}.txt or {stem}.txt.gz there; {way_out}") }
}

/// `FD001` of `train_FD001.txt.gz`.
fn set_of(file: &str) -> Option<String> {
    let stem = file.strip_prefix("train_").filter(|stem| !stem.contains('/'))?;
    Some(stem.strip_suffix(".txt").or_else(|| stem.strip_suffix(".txt.gz"))?.to_owned())
}

fn shown(place: &str, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    PathBuf::from(format!("{}/{name}", place.trim_end_matches('/')))
}

/// A file as it would be written, so that generated data has a hash too.
fn generate(part: &str, name: &str, engines: u32, seed: u64) -> Result<Text, Error> {
    let flavour = match name {
        "FD001" => Flavour::Fd001,
        "FD002" => Flavour::Fd002,
        "FD003" => Flavour::Fd003,
        _ => {
            let reason = "it cannot be generated; FD001, FD002 and FD003 can".to_owned();
            return Err(Error::Name { name: name.to_owned(), reason });
        }
    };
    let generator = Generator::new(flavour);
    let mut bytes = Vec::new();
    match part {
        "train" => write_fleet(&mut bytes, &generator.train(engines, seed)?),
        "test" => write_fleet(&mut bytes, &generator.test(engines, seed)?.fleet),
        _ => write_rul(&mut bytes, &generator.test(engines, seed)?.rul),
    }
    .map_err(|e| Error::Name { name: name.to_owned(), reason: e.to_string() })?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    Ok(Text { path: PathBuf::from(format!("generated {part}_{name}")), bytes, sha256 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(source: Source<'_>, dataset: &str) -> Result<Data, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Data::read(source, &names(dataset).unwrap()))
    }

    #[test]
    fn names_are_parts_of_file_names() {
        assert_eq!(names("FD001+ FD002").unwrap(), ["FD001", "FD002"]);
        for bad in ["", "FD001+", "../x", "FD 1", "FD001+FD001"] {
            assert!(names(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_generated_is_what_its_files_would_give() {
        let made = read(Source::Generated { engines: 12, seed: 7 }, "FD001+FD002").unwrap();
        let dir = tempfile::tempdir().unwrap();
        for stem in ["train_FD001", "test_FD001", "RUL_FD001", "train_FD002", "test_FD002", "RUL_FD002"] {
            let (part, name) = stem.split_once('_').unwrap();
            std::fs::write(dir.path().join(format!("{stem}.txt")), generate(part, name, 12, 7).unwrap().bytes).unwrap();
        }
        let given = read(Source::Place(dir.path().to_str().unwrap()), "FD001+FD002").unwrap();
        assert_eq!((made.origin, given.origin), ("generated", "given"));
        assert_eq!((&made.sets, &made.sha256), (&given.sets, &given.sha256));
        assert_eq!(made.name(), "FD001+FD002");
        let ids: Vec<u32> = made.fleet().engines.iter().map(|e| e.id).collect();
        assert_eq!(ids, (1..=24).collect::<Vec<_>>());
        let error = read(Source::Generated { engines: 12, seed: 7 }, "FD004").unwrap_err().to_string();
        assert!(error.contains("FD003 can"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        let error = |dataset: &str| read(Source::Place(place), dataset).unwrap_err().to_string();
        assert!(error("FD001").contains("--generate"), "{}", error("FD001"));
        let train = generate("train", "FD001", 3, 1).unwrap().bytes;
        std::fs::write(dir.path().join("train_FD001.txt"), &train).unwrap();
        assert!(error("FD009").contains("no train_FD009.txt") && error("FD009").contains("it has FD001"));
        assert_eq!(read(Source::Place(place), "FD001").unwrap().sets[0].test, None);
        std::fs::write(dir.path().join("RUL_FD001.txt"), "5\n").unwrap();
        assert!(error("FD001").contains("test_FD001 is not"), "{}", error("FD001"));
        std::fs::write(dir.path().join("test_FD001.txt"), "1 1 0.0 x\n").unwrap();
        assert!(error("FD001").contains("test_FD001.txt:1:"), "{}", error("FD001"));
        assert!(read(Source::Place("/nowhere"), "FD001").unwrap_err().to_string().starts_with("/nowhere: "));
    }
}
