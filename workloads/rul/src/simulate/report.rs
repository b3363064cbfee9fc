//! What came of it: counts, latencies, who answered, and how wrong the answers were.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

/// Remaining lives above this are not told apart by the models: errors count up to here.
const CAP: f64 = 125.0;

/// One answered window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds after the start at which it was due.
    pub at: f64,
    pub engine: String,
    pub cycle: u32,
    /// True remaining life, cycles.
    pub truth: f64,
    /// Predicted, cycles.
    pub rul: f64,
    pub drifted: bool,
    pub model_version: String,
    /// From the moment due to the answer.
    pub latency_ms: f64,
}

/// Windows that one model version answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Served {
    pub windows: u64,
    /// Seconds after the start.
    pub first: f64,
    pub last: f64,
}

/// How wrong the answers were in one part of the traffic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    pub drifted: bool,
    pub model_version: String,
    pub windows: u64,
    /// Against the true life capped at 125 cycles.
    pub rmse: f64,
}

/// The end of a simulation.
#[derive(Debug, Clone)]
pub struct Report {
    pub seconds: f64,
    /// Requests answered with predictions.
    pub answered: u64,
    pub windows: u64,
    /// Failed requests by kind: `refused`, `timeout`, `connection`, `status_503`, `answer`.
    pub errors: BTreeMap<String, u64>,
    /// Connections opened.
    pub connections: u64,
    /// Milliseconds at the 50th, 90th, 99th and 99.9th percentile, and the largest.
    pub latency_ms: [f64; 5],
    pub versions: BTreeMap<String, Served>,
    pub phases: Vec<Phase>,
    pub samples: Vec<Sample>,
}

impl Report {
    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Without the samples.
    pub fn json(&self) -> Value {
        let [p50, p90, p99, p999, max] = self.latency_ms;
        json!({
            "seconds": self.seconds, "requests": self.answered + self.failed(), "answered": self.answered,
            "failed": self.failed(), "errors": self.errors, "windows": self.windows, "connections": self.connections,
            "requests_per_second": self.answered as f64 / self.seconds.max(1e-9),
            "latency_ms": {"p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": max},
            "versions": self.versions, "phases": self.phases,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.answered as f64 / self.seconds.max(1e-9);
        writeln!(
            f,
            "{} requests answered in {:.1} s ({rate:.1}/s), {} failed",
            self.answered,
            self.seconds,
            self.failed()
        )?;
        for (kind, count) in &self.errors {
            writeln!(f, "  {kind}: {count}")?;
        }
        let [p50, p90, p99, p999, max] = self.latency_ms;
        writeln!(
            f,
            "latency from the moment due: p50 {p50:.2} ms, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}"
        )?;
        for (version, served) in &self.versions {
            let (first, last) = (served.first, served.last);
            writeln!(f, "model version {version}: {} windows, {first:.1} s to {last:.1} s", served.windows)?;
        }
        for (index, phase) in self.phases.iter().enumerate() {
            let (kind, end) = (
                if phase.drifted { "drifted" } else { "usual" },
                if index + 1 < self.phases.len() { "\n" } else { "" },
            );
            write!(
                f,
                "RMSE of version {} on {kind} engines: {:.2} cycles ({} windows){end}",
                phase.model_version, phase.rmse, phase.windows
            )?;
        }
        Ok(())
    }
}

/// Collects while the simulation runs.
#[derive(Debug)]
pub struct Recorder {
    /// Microseconds.
    latencies: Vec<u32>,
    errors: BTreeMap<String, u64>,
    connections: u64,
    samples: Vec<Sample>,
}

impl Recorder {
    pub fn new() -> Self {
        Self { latencies: Vec::new(), errors: BTreeMap::new(), connections: 0, samples: Vec::new() }
    }

    pub fn failed(&mut self, kind: String) {
        *self.errors.entry(kind).or_default() += 1;
    }

    pub fn opened(&mut self, connections: u64) {
        self.connections += connections;
    }

    pub fn answered(&mut self, latency: Duration, samples: impl Iterator<Item = Sample>) {
        self.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        self.samples.extend(samples);
    }

    /// How it stands, in a line.
    pub fn line(&self, elapsed: Duration) -> String {
        let failed: u64 = self.errors.values().sum();
        let (version, drifted) = self.samples.last().map_or(("-", ""), |last| {
            (last.model_version.as_str(), if last.drifted { ", drifted engines" } else { "" })
        });
        let seconds = elapsed.as_secs();
        format!("{seconds} s: {} answered, {failed} failed, model version {version}{drifted}", self.latencies.len())
    }

    pub fn finish(&mut self, elapsed: Duration) -> Report {
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let last = self.latencies.len().saturating_sub(1);
            let index = ((self.latencies.len() as f64 * share).ceil() as usize).saturating_sub(1).min(last);
            self.latencies.get(index).map_or(0.0, |us| f64::from(*us) / 1000.0)
        };
        let mut versions: BTreeMap<String, Served> = BTreeMap::new();
        let mut errors: BTreeMap<(bool, String), (u64, f64)> = BTreeMap::new();
        for sample in &self.samples {
            let new = Served { windows: 0, first: sample.at, last: sample.at };
            let served = versions.entry(sample.model_version.clone()).or_insert(new);
            served.windows += 1;
            // Answers of several connections do not come in the order in which they were due.
            served.first = served.first.min(sample.at);
            served.last = served.last.max(sample.at);
            let (count, sum) = errors.entry((sample.drifted, sample.model_version.clone())).or_default();
            *count += 1;
            *sum += (sample.rul.min(CAP) - sample.truth.min(CAP)).powi(2);
        }
        let phase = |((drifted, model_version), (windows, sum)): ((bool, String), (u64, f64))| Phase {
            drifted,
            model_version,
            windows,
            rmse: (sum / windows as f64).sqrt(),
        };
        Report {
            seconds: elapsed.as_secs_f64(),
            answered: self.latencies.len() as u64,
            windows: self.samples.len() as u64,
            errors: std::mem::take(&mut self.errors),
            connections: self.connections,
            latency_ms: [at(0.5), at(0.9), at(0.99), at(0.999), at(1.0)],
            versions,
            phases: errors.into_iter().map(phase).collect(),
            samples: std::mem::take(&mut self.samples),
        }
    }
}

/// The samples as a CSV file.
pub fn csv(samples: &[Sample]) -> String {
    let mut text = "at,engine,cycle,truth,rul,drifted,model_version,latency_ms\n".to_owned();
    for s in samples {
        let version = s.model_version.replace(['"', ',', '\n'], "_");
        let _ = writeln!(
            text,
            "{:.6},{},{},{},{},{},{version},{:.3}",
            s.at, s.engine, s.cycle, s.truth, s.rul, s.drifted, s.latency_ms
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, rul: f64, drifted: bool, version: &str) -> Sample {
        Sample {
            at,
            engine: "e".into(),
            cycle: 30,
            truth: 150.0,
            rul,
            drifted,
            model_version: version.into(),
            latency_ms: 1.0,
        }
    }

    #[test]
    fn percentiles_versions_and_errors() {
        let mut recorder = Recorder::new();
        for ms in 1..=100u32 {
            let sample = sample(f64::from(ms), 115.0, ms > 50, if ms > 50 { "2" } else { "1" });
            recorder.answered(Duration::from_millis(ms.into()), [sample].into_iter());
        }
        recorder.failed("refused".into());
        let report = recorder.finish(Duration::from_secs(10));
        assert_eq!(report.latency_ms, [50.0, 90.0, 99.0, 100.0, 100.0]);
        assert_eq!(report.versions["1"], Served { windows: 50, first: 1.0, last: 50.0 });
        assert_eq!(report.phases.len(), 2);
        assert!((report.phases[0].rmse - 10.0).abs() < 1e-9, "a true life above the cap counts as the cap");
        assert_eq!((report.answered, report.failed()), (100, 1));
        assert_eq!(csv(&report.samples).lines().count(), 101);
    }

    #[test]
    fn nothing_answered_is_no_division_by_zero() {
        let report = Recorder::new().finish(Duration::ZERO);
        assert_eq!((report.latency_ms, report.answered), ([0.0; 5], 0));
        assert!(report.to_string().contains("0 requests answered"));
        assert!(report.json()["requests_per_second"].as_f64().is_some_and(|rate| rate == 0.0));
    }
}
