//! Counters and histograms, and their text for Prometheus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::histogram::{Histogram, line};
use super::shadow::Shadow;

/// Edges of `rul_prediction_value`, in cycles: those of the seed's service.
pub const PREDICTION_EDGES: [f64; 13] =
    [0.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0, 175.0, 200.0, 250.0, 300.0, 400.0, 500.0];

/// Edges that Python's Prometheus client uses by default, in seconds.
const LATENCY_EDGES: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// A prediction takes tens of microseconds; the default edges would put all of them into one bucket.
const DURATION_EDGES: [f64; 12] = [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0];

/// Versions whose histograms are kept; the oldest goes first.
const MAX_VERSIONS: usize = 8;

/// Why a request got no prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Concurrency,
    NoModel,
    Invalid,
    TooLarge,
    Timeout,
    Failed,
}

const REFUSED: [&str; 6] = ["concurrency", "no_model", "invalid", "too_large", "timeout", "failed"];

/// How an attempt to load a model ended.
#[derive(Debug, Clone, Copy)]
pub enum Reload {
    Ok,
    /// Readable, but not to be served.
    Rejected,
    /// The directory or the registry could not be read.
    Unreadable,
}

/// What became of a delivery from the registry.
#[derive(Debug, Clone, Copy)]
pub enum Delivered {
    /// The registry is asked now.
    Accepted,
    /// About another model or alias.
    Ignored,
    /// Not signed with the secret known here.
    Rejected,
}

const DELIVERED: [&str; 3] = ["accepted", "ignored", "rejected"];

/// Counters by one label.
type Labelled = Mutex<BTreeMap<String, Arc<AtomicU64>>>;

const RELOAD: [&str; 3] = ["ok", "rejected", "unreadable"];

/// Predictions of one version of the model.
#[derive(Debug)]
struct Version {
    labels: String,
    histogram: Arc<Histogram>,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    ok: AtomicU64,
    error: AtomicU64,
    refused: [AtomicU64; REFUSED.len()],
    reloads: [AtomicU64; RELOAD.len()],
    /// Successful requests only, in seconds.
    latency: Histogram,
    /// All prediction requests, in seconds.
    duration: Histogram,
    predictions: Histogram,
    versions: Mutex<Vec<Version>>,
    shadow_versions: Mutex<Vec<Version>>,
    regimes: Labelled,
    out_of_range: Labelled,
    delivered: [AtomicU64; DELIVERED.len()],
    pub inflight: AtomicI64,
    reload_seconds: AtomicU64,
    last_check: AtomicU64,
    started: f64,
}

/// What the gauges show; the service knows, not this module.
#[derive(Debug, Default)]
pub struct Gauges<'a> {
    pub stub: bool,
    pub ready: bool,
    pub limit: usize,
    pub name: &'a str,
    pub stage: &'a str,
    pub version: &'a str,
    pub sha256: &'a str,
    pub loaded_at: f64,
    pub shadow: Option<&'a Shadow>,
    /// Version of the challenger; empty without one.
    pub shadow_version: &'a str,
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            ok: AtomicU64::new(0),
            error: AtomicU64::new(0),
            refused: Default::default(),
            reloads: Default::default(),
            latency: Histogram::new(&LATENCY_EDGES),
            duration: Histogram::new(&DURATION_EDGES),
            predictions: Histogram::new(&PREDICTION_EDGES),
            versions: Mutex::default(),
            shadow_versions: Mutex::default(),
            regimes: Mutex::default(),
            out_of_range: Mutex::default(),
            delivered: Default::default(),
            inflight: AtomicI64::new(0),
            reload_seconds: AtomicU64::new(0f64.to_bits()),
            last_check: AtomicU64::new(0f64.to_bits()),
            started: unix_now(),
        }
    }

    /// A histogram for one version, at zero from the moment it is served, so that a rate over it
    /// is right from its first prediction on.
    pub fn version(&self, name: &str, version: &str, edges: &[f64]) -> Arc<Histogram> {
        of_version(&self.versions, name, version, edges)
    }

    /// The same for a challenger in the shadow: what it predicts is no answer.
    pub fn shadow_version(&self, name: &str, version: &str, edges: &[f64]) -> Arc<Histogram> {
        of_version(&self.shadow_versions, name, version, edges)
    }

    /// Counter of rows in an operating regime.
    pub fn regime(&self, regime: &str) -> Arc<AtomicU64> {
        counter(&self.regimes, regime)
    }

    /// Counter of rows with a feature outside of the trained range.
    pub fn out_of_range(&self, feature: &str) -> Arc<AtomicU64> {
        counter(&self.out_of_range, feature)
    }

    pub fn delivered(&self, what: Delivered) {
        if let Some(counter) = self.delivered.get(what as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub fn predicted(&self, of_version: &Histogram, cycles: &[f32]) {
        for value in cycles {
            self.predictions.observe(f64::from(*value));
            of_version.observe(f64::from(*value));
        }
    }

    pub fn answered(&self, took: Duration) {
        self.ok.fetch_add(1, Relaxed);
        self.latency.observe(took.as_secs_f64());
        self.duration.observe(took.as_secs_f64());
    }

    pub fn refused(&self, why: Refused, took: Duration) {
        self.error.fetch_add(1, Relaxed);
        if let Some(counter) = self.refused.get(why as usize) {
            counter.fetch_add(1, Relaxed);
        }
        self.duration.observe(took.as_secs_f64());
    }

    pub fn checked(&self) {
        self.last_check.store(unix_now().to_bits(), Relaxed);
    }

    pub fn reloaded(&self, result: Reload, took: Duration) {
        if let Some(counter) = self.reloads.get(result as usize) {
            counter.fetch_add(1, Relaxed);
        }
        self.reload_seconds.store(took.as_secs_f64().to_bits(), Relaxed);
    }

    /// The exposition text, format 0.0.4.
    pub fn text(&self, gauges: &Gauges<'_>) -> String {
        let mut out = String::with_capacity(8192);
        let o = &mut out;
        head(o, "rul_requests_total", "counter", "Prediction requests by outcome.");
        for (status, counter) in [("ok", &self.ok), ("error", &self.error)] {
            let count = counter.load(Relaxed);
            line(o, format_args!("rul_requests_total{{status=\"{status}\"}} {count}"));
        }
        head(o, "rul_refused_total", "counter", "Prediction requests without a prediction, by reason.");
        for (reason, counter) in REFUSED.iter().zip(&self.refused) {
            let count = counter.load(Relaxed);
            line(o, format_args!("rul_refused_total{{reason=\"{reason}\"}} {count}"));
        }
        head(o, "rul_request_latency_seconds", "histogram", "Duration of successful prediction requests.");
        self.latency.write(o, "rul_request_latency_seconds", "");
        head(o, "rul_request_duration_seconds", "histogram", "Duration of all prediction requests, finer edges.");
        self.duration.write(o, "rul_request_duration_seconds", "");
        head(o, "rul_prediction_value", "histogram", "Predicted cycles of all versions together.");
        self.predictions.write(o, "rul_prediction_value", "");
        head(o, "rul_prediction", "histogram", "Predicted cycles of one version; edges from its baseline.");
        for version in self.versions.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            version.histogram.write(o, "rul_prediction", &version.labels);
        }
        head(o, "rul_input_regime_total", "counter", "Newest rows by operating regime of the training data.");
        labelled(o, "rul_input_regime_total", "regime", &self.regimes);
        let help = "Newest rows with a value outside of the trained range by more than a tenth of it.";
        head(o, "rul_input_out_of_range_total", "counter", help);
        labelled(o, "rul_input_out_of_range_total", "feature", &self.out_of_range);
        if let Some(shadow) = gauges.shadow {
            head(o, "rul_shadow_prediction", "histogram", "Cycles that a challenger in the shadow predicts.");
            for version in self.shadow_versions.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                version.histogram.write(o, "rul_shadow_prediction", &version.labels);
            }
            shadow.write(o);
            head(o, "rul_shadow_info", "gauge", "The challenger in the shadow; always 1.");
            if !gauges.shadow_version.is_empty() {
                let (model, version) = (escape(gauges.name), escape(gauges.shadow_version));
                line(o, format_args!("rul_shadow_info{{model=\"{model}\",version=\"{version}\"}} 1"));
            }
        }
        gauge(o, "rul_stub", "1 while answers are made up because there is no model.", u8::from(gauges.stub));
        gauge(o, "rul_ready", "1 while traffic is wanted.", u8::from(gauges.ready));
        gauge(o, "rul_inflight", "Prediction requests being worked on.", self.inflight.load(Relaxed));
        gauge(o, "rul_concurrency_limit", "Prediction requests allowed at once.", gauges.limit);
        head(o, "rul_model_info", "gauge", "What is served; always 1.");
        if !gauges.version.is_empty() {
            let info = format!(
                "model=\"{}\",stage=\"{}\",version=\"{}\",sha256=\"{}\"",
                escape(gauges.name),
                escape(gauges.stage),
                escape(gauges.version),
                escape(gauges.sha256)
            );
            line(o, format_args!("rul_model_info{{{info}}} 1"));
        }
        gauge(o, "rul_model_loaded_timestamp_seconds", "When what is served was loaded.", gauges.loaded_at);
        head(o, "rul_model_reload_total", "counter", "Attempts to load a model, by result.");
        for (result, counter) in RELOAD.iter().zip(&self.reloads) {
            let count = counter.load(Relaxed);
            line(o, format_args!("rul_model_reload_total{{result=\"{result}\"}} {count}"));
        }
        head(o, "rul_webhook_total", "counter", "Deliveries from the registry, by what became of them.");
        for (result, counter) in DELIVERED.iter().zip(&self.delivered) {
            let count = counter.load(Relaxed);
            line(o, format_args!("rul_webhook_total{{result=\"{result}\"}} {count}"));
        }
        let last = f64::from_bits(self.reload_seconds.load(Relaxed));
        gauge(o, "rul_model_reload_duration_seconds", "Duration of the last attempt to load a model.", last);
        let check = f64::from_bits(self.last_check.load(Relaxed));
        gauge(o, "rul_model_last_check_timestamp_seconds", "When the source of the model was last read.", check);
        head(o, "rul_build_info", "gauge", "The program; always 1.");
        line(o, format_args!("rul_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
        gauge(o, "process_start_time_seconds", "When the process started.", self.started);
        if let Some(bytes) = resident_bytes() {
            gauge(o, "process_resident_memory_bytes", "Resident memory.", bytes);
        }
        out
    }
}

fn of_version(versions: &Mutex<Vec<Version>>, name: &str, version: &str, edges: &[f64]) -> Arc<Histogram> {
    let labels = format!("model=\"{}\",model_version=\"{}\"", escape(name), escape(version));
    let mut versions = versions.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = versions.iter().position(|v| v.labels == labels && v.histogram.edges() == edges) {
        // Served again, so the last to go.
        let known = versions.remove(at);
        let histogram = Arc::clone(&known.histogram);
        versions.push(known);
        return histogram;
    }
    // The same version with other edges: the old series would contradict the new one.
    versions.retain(|v| v.labels != labels);
    if versions.len() == MAX_VERSIONS {
        versions.remove(0);
    }
    let histogram = Arc::new(Histogram::new(edges));
    versions.push(Version { labels, histogram: Arc::clone(&histogram) });
    histogram
}

fn counter(all: &Labelled, label: &str) -> Arc<AtomicU64> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(all.entry(label.to_owned()).or_default())
}

fn labelled(out: &mut String, name: &str, label: &str, all: &Labelled) {
    for (value, counter) in all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let count = counter.load(Relaxed);
        line(out, format_args!("{name}{{{label}=\"{}\"}} {count}", escape(value)));
    }
}

/// Seconds since 1970.
pub fn unix_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Absent where there is no /proc.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = kib.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

fn gauge(out: &mut String, name: &str, help: &str, value: impl std::fmt::Debug) {
    head(out, name, "gauge", help);
    line(out, format_args!("{name} {value:?}"));
}

#[cfg(test)]
mod tests {
    use super::{Gauges, MAX_VERSIONS, Metrics};

    #[test]
    fn labels_are_escaped() {
        let metrics = Metrics::new();
        metrics.version("a\"b\\c\nd", "1", &[1.0]);
        let text = metrics.text(&Gauges::default());
        assert!(text.contains(r#"rul_prediction_count{model="a\"b\\c\nd",model_version="1"} 0"#), "{text}");
    }

    #[test]
    fn a_version_that_comes_back_goes_on_counting_and_is_the_last_to_go() {
        let metrics = Metrics::new();
        let version = |v: usize| metrics.version("m", &v.to_string(), &[1.0]);
        version(0).observe(0.5);
        for v in 1..MAX_VERSIONS {
            version(v);
        }
        version(0).observe(0.5);
        version(MAX_VERSIONS);
        let text = metrics.text(&Gauges::default());
        assert!(text.contains("rul_prediction_count{model=\"m\",model_version=\"0\"} 2"), "{text}");
        assert!(!text.contains("model_version=\"1\""), "{text}");
    }

    #[test]
    fn every_line_is_a_comment_or_a_number_with_a_declared_type() {
        let metrics = Metrics::new();
        metrics.version("m", "1", &[1.0]);
        let text = metrics.text(&Gauges { version: "1", ..Gauges::default() });
        let declared: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect(line);
            value.parse::<f64>().expect(line);
            let name = series.split('{').next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            assert!(declared.contains(&name) || declared.contains(&family), "{line}");
        }
    }
}
