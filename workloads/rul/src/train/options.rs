//! Options of `rul train`.

use std::path::{Path, PathBuf};

use clap::builder::FalseyValueParser;

use crate::data::Source;

/// Options of `rul train`. Every one is also an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Directory, or s3://bucket/prefix, with train_FD001.txt (or .txt.gz), and test_FD001 and RUL_FD001 to test on.
    #[arg(long, env = "RUL_DATA", value_name = "DIR|s3://BUCKET/PREFIX", required_unless_present = "generate")]
    pub data: Option<String>,
    /// Make data up that looks like NASA's, where there is none.
    #[arg(long, env = "RUL_GENERATE", conflicts_with = "data", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub generate: bool,
    /// With --generate: engines to train on, and as many to test on, per data set.
    #[arg(long, env = "RUL_GENERATE_ENGINES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub engines: u32,
    /// With --generate: the same seed gives the same data.
    #[arg(long, env = "RUL_GENERATE_SEED", default_value_t = 42)]
    pub generate_seed: u64,
    /// Data set, or several to train on together: FD001+FD002.
    #[arg(long, env = "RUL_DATASET", default_value = "FD001")]
    pub dataset: String,
    /// Directory to write the model into: a new one, an empty one, or one with an earlier model, which is replaced.
    #[arg(long, env = "RUL_OUT", required_unless_present = "registry")]
    pub out: Option<PathBuf>,
    /// How many times to train, each time from other weights; the best on the validation engines is kept.
    #[arg(long, env = "RUL_SEEDS", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub seeds: u8,
    /// Most passes over the data; validation chooses among them. As many as were found to do without the option.
    #[arg(long, env = "RUL_EPOCHS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub epochs: Option<u16>,
    /// Threads that share each step. Another number gives another, equally good model.
    #[arg(long, env = "RUL_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
    /// Begin with the weights of this model's directory.
    #[arg(long, env = "RUL_WARM_START", value_name = "DIR")]
    pub warm_start: Option<PathBuf>,
    /// Seed of the choice of validation engines, a fifth. 42 on engines 1 to 100 is the earlier system's choice.
    #[arg(long, env = "RUL_SPLIT_SEED", default_value_t = cmapss::split::EARLIER_SEED)]
    pub split_seed: u64,
    /// Registry to file the model in, with the alias staging: http://mlflow:5000, or file:///a/directory.
    #[arg(long, env = "MLFLOW_TRACKING_URI", hide_env_values = true)]
    pub registry: Option<String>,
    /// Name of the model, there and in its files.
    #[arg(long, visible_alias = "model-name", env = "MODEL_NAME", default_value = "cmapss-rul")]
    pub model: String,
    /// Experiment that the run belongs to in the registry.
    #[arg(long, env = "MLFLOW_EXPERIMENT_NAME", default_value = "cmapss-baseline")]
    pub experiment: String,
    /// One line of JSON on stdout instead of sentences.
    #[arg(long, env = "RUL_JSON", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub json: bool,
}

impl Options {
    /// Where the data comes from.
    #[must_use]
    pub fn source(&self) -> Source<'_> {
        match self.data.as_deref() {
            Some(place) if !self.generate => Source::Place(place),
            _ => Source::Generated { engines: self.engines, seed: self.generate_seed },
        }
    }

    /// The directory to write, if one is named: an empty variable is how a manifest says none.
    #[must_use]
    pub fn out(&self) -> Option<&Path> {
        self.out.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    /// The model to begin with, if one is named.
    #[must_use]
    pub fn warm_start(&self) -> Option<&Path> {
        self.warm_start.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    /// Seeds of the runs: the earlier system's three, and on from there.
    pub fn run_seeds(&self) -> impl Iterator<Item = u64> {
        std::iter::once(42).chain((0..).map(|i| 123 + 333 * i)).take(usize::from(self.seeds))
    }
}
