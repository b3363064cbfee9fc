//! Options of `rul demo`.

use std::path::PathBuf;
use std::time::Duration;

use crate::simulate::{Pace, duration};

/// Options of `rul demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Directory with C-MAPSS files (train_FD001.txt, plain or .gz, and the test and RUL files, where there are any); without it look-alike
    /// engines are generated.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Data set that the champion learns, and that the usual traffic comes from.
    #[arg(long, default_value = "FD001")]
    pub dataset: String,
    /// Data set whose engines come into service later.
    #[arg(long, default_value = "FD002")]
    pub new_dataset: String,
    /// Engines to generate of the first data set, for training and again for testing; of the new one twice as many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(20..=1000), conflicts_with = "data")]
    pub engines: u32,
    /// Everything random depends on this alone.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Epochs of the champion's training.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub epochs: u16,
    /// Epochs of the retraining, which begins with the champion's weights.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub retrain_epochs: u16,
    /// Requests per second, as 120/s.
    #[arg(long, default_value = "120/s", value_parser = rate)]
    pub rate: f64,
    /// How long the usual traffic goes on before the new engines come.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub calm: Duration,
    /// How long each wait for another program may take, before the demo gives up.
    #[arg(long, default_value = "3m", value_parser = duration)]
    pub patience: Duration,
    /// Where the report goes.
    #[arg(long, default_value = "rul-demo.html", value_name = "FILE")]
    pub report: PathBuf,
    /// Work in this new or empty directory, and leave it: data, registry, models, logs.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Leave the temporary work directory, and say where it is.
    #[arg(long, conflicts_with = "out")]
    pub keep: bool,
    /// Print the incident as one JSON line.
    #[arg(long)]
    pub json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<Pace>()? {
        // The drift watch needs 300 requests in its window, and the service's memory must outlast the demo.
        Pace::PerSecond(rate) if (60.0..=500.0).contains(&rate) => Ok(rate),
        _ => Err("from 60/s to 500/s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates_that_the_drift_watch_can_live_with() {
        assert_eq!(rate("120/s"), Ok(120.0));
        for wrong in ["59/s", "501/s", "max", "", "NaN"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
