//! The command lines of the programs.

use std::path::{Path, PathBuf};

use super::course::{MODEL, WINDOW};
use super::data::Data;
use super::options::Options;

/// Engines in service at the same time. The watch judges from 20 on; the more there are, the less a few of them can look like drift.
const PLACES: u32 = 100;
const LOOPBACK: &str = "127.0.0.1:0";

/// What all command lines have in common.
#[derive(Debug)]
pub struct Commands<'a> {
    pub options: &'a Options,
    pub data: &'a Data,
    /// The work directory.
    pub dir: PathBuf,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Flags, and options with their values.
fn line(flags: &[&str], options: &[(&str, String)]) -> Vec<String> {
    let mut all: Vec<String> = flags.iter().map(|&word| word.to_owned()).collect();
    all.extend(options.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]));
    all
}

impl Commands<'_> {
    pub fn registry(&self) -> PathBuf {
        self.dir.join("registry")
    }

    pub fn samples(&self) -> PathBuf {
        self.dir.join("traffic.csv")
    }

    fn uri(&self) -> String {
        format!("file://{}", self.registry().display())
    }

    /// The champion's training on the usual engines.
    pub fn train(&self) -> Vec<String> {
        self.training(self.data.usual.name.clone(), self.options.epochs, "champion")
    }

    /// The retraining on all engines, from the champion's weights.
    fn retrain(&self) -> Vec<String> {
        let both = format!("{}+{}", self.data.usual.name, self.data.new.name);
        let mut line = self.training(both, self.options.retrain_epochs, "challenger");
        line.extend(["--warm-start".to_owned(), text(&self.dir.join("champion"))]);
        line
    }

    fn training(&self, datasets: String, epochs: u16, out: &str) -> Vec<String> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        line(
            &["train", "--json"],
            &[
                ("--data", text(&self.data.dir)),
                ("--dataset", datasets),
                ("--out", text(&self.dir.join(out))),
                ("--registry", self.uri()),
                ("--model", MODEL.to_owned()),
                ("--experiment", "rul-demo".to_owned()),
                ("--seeds", "1".to_owned()),
                ("--epochs", epochs.to_string()),
                ("--threads", threads.to_string()),
            ],
        )
    }

    /// `version` on the held-out engines of `dataset`; without one, the newest.
    pub fn promote(&self, dataset: &str, version: Option<&str>) -> Vec<String> {
        let mut line = line(
            &["promote"],
            &[
                ("--registry", self.uri()),
                ("--model-name", MODEL.to_owned()),
                ("--data", text(&self.data.dir)),
                ("--dataset", dataset.to_owned()),
                ("--held-out", "test".to_owned()),
            ],
        );
        line.extend(version.map(|version| ["--version".to_owned(), version.to_owned()]).into_iter().flatten());
        line
    }

    pub fn serve(&self) -> Vec<String> {
        line(
            &["serve", "--no-stub", "--require-golden"],
            &[
                ("--listen", LOOPBACK.to_owned()),
                ("--mlflow-tracking-uri", self.uri()),
                ("--model-name", MODEL.to_owned()),
                ("--cache-dir", text(&self.dir.join("cache"))),
                ("--reload-interval", "0.5".to_owned()),
                ("--drain-delay", "0".to_owned()),
                ("--threads", "2".to_owned()),
                // Nothing is forgotten before it is read.
                ("--recent", "50000".to_owned()),
            ],
        )
    }

    /// The trigger, which starts the retraining with `exe`.
    pub fn trigger(&self, exe: &str) -> Vec<String> {
        let mut line = line(
            &["trigger"],
            &[
                ("--listen", LOOPBACK.to_owned()),
                ("--state", text(&self.dir.join("trigger.json"))),
                // A retraining that fails once is what the demo must tell.
                ("--attempts", "1".to_owned()),
                ("--exec", exe.to_owned()),
            ],
        );
        line.extend(self.retrain());
        line
    }

    /// Usual engines, and after a while the new ones, as large a part as they are of the retraining's data.
    pub fn simulate(&self, service: &str) -> Vec<String> {
        let (share, at) = (self.data.new_share(), self.options.calm.as_secs_f64());
        line(
            &["simulate", "--json"],
            &[
                ("--url", service.to_owned()),
                ("--data", text(&self.data.traffic)),
                ("--dataset", self.data.usual.name.clone()),
                ("--drift", format!("{}:{share:.3}@{at}s", self.data.new.name)),
                ("--engines", PLACES.to_string()),
                ("--rate", format!("{}/s", self.options.rate)),
                ("--duration", "1h".to_owned()),
                ("--seed", self.options.seed.to_string()),
                ("--samples", text(&self.samples())),
            ],
        )
    }

    pub fn drift(&self, service: &str, alertmanager: &str) -> Vec<String> {
        line(
            &["drift", "--json"],
            &[
                ("--listen", LOOPBACK.to_owned()),
                ("--service", service.to_owned()),
                ("--registry", self.uri()),
                ("--model-name", MODEL.to_owned()),
                ("--alertmanager", alertmanager.to_owned()),
                ("--interval", "1s".to_owned()),
                ("--window", format!("{}s", WINDOW.as_secs())),
                ("--state-file", text(&self.dir.join("drift.json"))),
            ],
        )
    }
}
