//! The data of the demo: one directory that training, traffic and promotion read, as if NASA's archive had been unpacked there.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use cmapss::files::{TestSet, Text};
use cmapss::synth::{Flavour, Generator};
use cmapss::write::{write_fleet, write_rul};
use cmapss::{Engine, Fleet};

use super::error::Error;
use super::options::Options;
use crate::simulate::WINDOW;

/// Of given engines, every so many-th is kept from training.
const HELD_OUT: usize = 4;

/// Far from the seeds of the engines to learn from.
const OTHER_ENGINES: u64 = 1_000_000;

/// Both data sets, on disk.
#[derive(Debug)]
pub struct Data {
    /// What training and comparison read.
    pub dir: PathBuf,
    /// What the traffic reads.
    pub traffic: PathBuf,
    pub generated: bool,
    pub usual: Set,
    pub new: Set,
}

/// One data set.
#[derive(Debug)]
pub struct Set {
    pub name: String,
    pub train: Fleet,
    /// What models are compared on.
    pub test: TestSet,
    /// Where `test` is from, in words.
    pub held_out: &'static str,
    /// Engines in service: no model learns from them, and they run to their failure. Those of a test set stop before it, so that
    /// at equal age the healthier ones are left: to the drift watch that is a shift of the predictions.
    pub traffic: Fleet,
}

impl Set {
    /// What there is, in words.
    pub fn told(&self) -> String {
        let (train, test, traffic) =
            (self.train.engines.len(), self.test.fleet.engines.len(), self.traffic.engines.len());
        let (name, held_out) = (&self.name, self.held_out);
        format!("{name}: {train} engines to learn from, {test} to compare on ({held_out}), {traffic} in service")
    }

    /// Windows that training cuts.
    pub fn train_windows(&self) -> usize {
        self.train.engines.iter().map(|engine| (engine.rows.len() + 1).saturating_sub(WINDOW)).sum()
    }
}

impl Data {
    /// Reads or generates both sets and writes them to `dir`.
    ///
    /// # Errors
    /// Files that are missing or broken; a data set that cannot be generated; a full disk.
    pub fn prepare(options: &Options, dir: &Path) -> Result<Self, Error> {
        if options.dataset == options.new_dataset {
            return Err(wrong(format!(
                "{}: the new engines must be of another data set than the usual ones",
                options.dataset
            )));
        }
        std::fs::create_dir_all(dir).map_err(Error::io(dir.display().to_string()))?;
        let (usual, new) = match &options.data {
            Some(from) => (read(from, &options.dataset)?, read(from, &options.new_dataset)?),
            None => {
                let seed = options.seed;
                // Six regimes take more engines to learn than one.
                let more = 2 * options.engines;
                (generate(&options.dataset, options.engines, seed)?, generate(&options.new_dataset, more, seed + 1)?)
            }
        };
        let traffic = dir.join("traffic");
        std::fs::create_dir_all(&traffic).map_err(Error::io(traffic.display().to_string()))?;
        for set in [&usual, &new] {
            write(dir, &traffic, set)?;
        }
        Ok(Self { dir: dir.to_owned(), traffic, generated: options.data.is_none(), usual, new })
    }

    /// The new engines' share of what the retraining learns from: so much of the traffic they will be.
    pub fn new_share(&self) -> f64 {
        let (usual, new) = (self.usual.train_windows() as f64, self.new.train_windows() as f64);
        new / (usual + new)
    }
}

fn wrong(reason: String) -> Error {
    Error::Outcome { step: "T0 data".to_owned(), reason, tail: String::new() }
}

fn generate(name: &str, engines: u32, seed: u64) -> Result<Set, Error> {
    let flavour = match name {
        "FD001" => Flavour::Fd001,
        "FD002" => Flavour::Fd002,
        "FD003" => Flavour::Fd003,
        _ => {
            let rest = "only FD001, FD002 and FD003 can be generated: choose one of them, or give --data DIR";
            return Err(wrong(format!("{name}: {rest}")));
        }
    };
    let generator = Generator::new(flavour);
    let (train, test) = (generator.train(engines, seed)?, generator.test(engines, seed)?);
    let traffic = generator.train(engines, seed + OTHER_ENGINES)?;
    Ok(Set { name: name.to_owned(), train, test, held_out: "generated test engines", traffic })
}

fn read(dir: &Path, name: &str) -> Result<Set, Error> {
    let (train, traffic) = hold_out(Text::find(dir, &format!("train_{name}"))?.fleet()?);
    let (test, held_out) = match TestSet::read(dir, name) {
        Ok(test) => (test, "the official test engines"),
        Err(cmapss::Error::Missing { .. }) => {
            let lives = vec![0; traffic.engines.len()];
            (TestSet::new(traffic.clone(), lives)?, "every fourth training engine, kept from training")
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Set { name: name.to_owned(), train, test, held_out, traffic })
}

/// Whole engines: neighbouring cycles of one engine in both parts would make every model look good.
fn hold_out(fleet: Fleet) -> (Fleet, Fleet) {
    let indexed = fleet.engines.into_iter().enumerate();
    let (held, kept): (Vec<_>, Vec<_>) = indexed.partition(|(index, _)| index % HELD_OUT == HELD_OUT - 1);
    let plain = |engines: Vec<(usize, Engine)>| Fleet { engines: engines.into_iter().map(|(_, e)| e).collect() };
    (plain(kept), plain(held))
}

fn write(dir: &Path, traffic: &Path, set: &Set) -> Result<(), Error> {
    let save = |dir: &Path, name: String, fill: &dyn Fn(&mut BufWriter<File>) -> std::io::Result<()>| {
        let path = dir.join(&name);
        let result = File::create(&path).map(BufWriter::new).and_then(|mut file| {
            fill(&mut file)?;
            std::io::Write::flush(&mut file)
        });
        result.map_err(Error::io(path.display().to_string()))
    };
    save(dir, format!("train_{}.txt", set.name), &|file| write_fleet(file, &set.train))?;
    save(dir, format!("test_{}.txt", set.name), &|file| write_fleet(file, &set.test.fleet))?;
    save(dir, format!("RUL_{}.txt", set.name), &|file| write_rul(file, &set.test.rul))?;
    save(traffic, format!("train_{}.txt", set.name), &|file| write_fleet(file, &set.traffic))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn engines_without_a_test_set_are_split_whole() {
        let fleet = Generator::new(Flavour::Fd001).train(21, 5).unwrap();
        let (train, held) = hold_out(fleet);
        assert_eq!((train.engines.len(), held.engines.len()), (16, 5));
        assert!(train.engines.iter().all(|kept| held.engines.iter().all(|held| held.id != kept.id)));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let set = generate("FD002", 20, 3).unwrap();
        write(dir.path(), dir.path(), &set).unwrap();
        let again = TestSet::read(dir.path(), "FD002").unwrap();
        assert_eq!((again.fleet.row_count(), &again.rul), (set.test.fleet.row_count(), &set.test.rul));
        assert!(generate("FD004", 20, 3).unwrap_err().to_string().contains("--data"));
    }
}
