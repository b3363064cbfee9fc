//! Options of `rul drift`, and the policy that they make.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use drift_stats::decision::Policy;

use super::seed::Limits;

/// Options of `rul drift`. Every one is also an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address of the prediction service; several, separated by commas, where it has several pods.
    #[arg(
        long,
        env = "RUL_SERVICE_URL",
        hide_env_values = true,
        default_value = "http://localhost:8000",
        value_delimiter = ','
    )]
    pub service: Vec<String>,
    /// Name of the service in the alert.
    #[arg(long, env = "RUL_SERVICE_NAME", default_value = "fastapi")]
    pub service_name: String,
    /// File with the bearer token of /v1/recent. The variable RUL_TOKEN may hold the token itself.
    #[arg(long, env = "RUL_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// baseline.json of the served model, or the directory of its artifact.
    #[arg(long, env = "BASELINE_PATH")]
    pub baseline: Option<PathBuf>,
    /// Registry that has the served version's own baseline: asked when --baseline is not named or belongs to another model.
    #[arg(long, env = "MLFLOW_TRACKING_URI", hide_env_values = true)]
    pub registry: Option<String>,
    /// Prometheus: counts of the window when /v1/recent is closed, and the numbers of --seed-compat.
    #[arg(long, env = "PROMETHEUS_URL", hide_env_values = true)]
    pub prometheus: Option<String>,
    /// Pushgateway to push the gauges to.
    #[arg(long, env = "PUSHGATEWAY_URL", hide_env_values = true)]
    pub pushgateway: Option<String>,
    /// Alertmanager to raise the alert at; several members, separated by commas.
    #[arg(long, env = "ALERTMANAGER_URL", hide_env_values = true)]
    pub alertmanager: Option<String>,
    /// Name of the model in the registry and in the alert.
    #[arg(long, env = "MODEL_NAME", default_value = "cmapss-rul")]
    pub model_name: String,
    /// Alias of the served version in the registry.
    #[arg(long, env = "MODEL_ALIAS", default_value = "production")]
    pub model_alias: String,
    /// Look once and exit (for a CronJob): 0 when it looked, whatever it found, 1 when it could not. The default without --interval.
    #[arg(long)]
    pub once: bool,
    /// Look again and again, so often; serves /metrics.
    #[arg(long, env = "RUL_DRIFT_INTERVAL", value_parser = span)]
    pub interval: Option<Duration>,
    /// Where /metrics is served with --interval.
    #[arg(long, env = "RUL_DRIFT_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// How far back a look goes. Two looks count as two windows when nine tenths of it lie between them.
    #[arg(long, env = "WINDOW", default_value = "1h", value_parser = span)]
    pub window: Duration,
    /// File that keeps the rows of bad windows from one look to the next. Without it a look that stands alone can only find drift
    /// that is strong enough in one window.
    #[arg(long, env = "RUL_DRIFT_STATE")]
    pub state_file: Option<PathBuf>,
    /// How long the alert fires without being renewed [default: two windows and 5 minutes, with --interval four of those but at
    /// least 5 minutes].
    #[arg(long, env = "RUL_ALERT_TTL", value_parser = span)]
    pub alert_ttl: Option<Duration>,
    /// Seconds that a peer has to answer.
    #[arg(long, env = "RUL_HTTP_TIMEOUT", default_value = "10s", value_parser = span)]
    pub timeout: Duration,
    /// Let the earlier system's rule decide (PSI or KS of all predictions of the window): for comparison.
    #[arg(long, env = "RUL_SEED_COMPAT", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub seed_compat: bool,
    /// PSI from which predictions may count as drifted.
    #[arg(long, env = "PSI_THRESHOLD", default_value_t = 0.2, value_parser = positive)]
    pub psi_threshold: f64,
    /// p-value of the earlier system's KS test, with --seed-compat.
    #[arg(long, env = "KS_PVALUE_THRESHOLD", default_value_t = 0.05, value_parser = positive)]
    pub ks_pvalue_threshold: f64,
    /// Fewest records to judge sensors and predictions.
    #[arg(long, env = "RUL_DRIFT_MIN_RECORDS", default_value_t = 300)]
    pub min_records: usize,
    /// Fewest engines to judge sensors and predictions.
    #[arg(long, env = "RUL_DRIFT_MIN_ENGINES", default_value_t = 20)]
    pub min_engines: usize,
    /// Bad windows in a row that make drift, where one is not strong enough.
    #[arg(long, env = "RUL_DRIFT_WINDOWS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: u32,
    /// Input distance (0..1) beyond which one window is enough.
    #[arg(long, env = "RUL_DRIFT_STRONG", default_value_t = 0.5, value_parser = positive)]
    pub strong_distance: f64,
    /// Time between two alerts for the same model version and cause.
    #[arg(long, env = "RUL_DRIFT_COOL_DOWN", default_value = "1h", value_parser = span)]
    pub cool_down: Duration,
    /// Print the evaluation as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// Thresholds and floors.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            min_records: self.min_records,
            min_engines: self.min_engines,
            psi: self.psi_threshold,
            strong_distance: self.strong_distance,
            // A job that runs every hour never runs exactly every hour.
            spacing_s: self.window.mul_f64(0.9).as_secs(),
            windows_to_drift: self.windows,
            cool_down_s: self.cool_down.as_secs(),
            ..Policy::default()
        }
    }

    /// Limits of the earlier system's rule.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { psi: self.psi_threshold, ks_p: self.ks_pvalue_threshold }
    }

    /// The interval, unless `--once` says otherwise.
    #[must_use]
    pub fn repeat(&self) -> Option<Duration> {
        self.interval.filter(|_| !self.once)
    }

    /// How long an alert lives without renewal.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        let least = Duration::from_secs(300);
        self.alert_ttl.unwrap_or_else(|| match self.repeat() {
            Some(interval) => (interval * 4).max(least),
            None => self.window * 2 + least,
        })
    }
}

/// An empty variable is how a manifest says "none".
#[must_use]
pub fn given(address: Option<&String>) -> Option<&str> {
    address.map(|a| a.trim()).filter(|a| !a.is_empty())
}

/// `90`, `90s`, `15m`, `1h`, `500ms`.
fn span(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err("a time such as 500ms, 15s, 30m or 1h".to_owned()),
    };
    match number.parse::<f64>().map(|n| n * seconds) {
        Ok(seconds) if (0.001..=31.0 * 86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a time from 1ms to 31d, such as 15s, 30m or 1h".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::span;
    use std::time::Duration;

    #[test]
    fn times_have_units() {
        for (text, seconds) in
            [("1h", 3600.0), ("15s", 15.0), ("90", 90.0), ("500ms", 0.5), ("1.5m", 90.0), ("1d", 86_400.0)]
        {
            assert_eq!(span(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "h", "-1s", "0s", "1y", "1h30m", "999999d"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
