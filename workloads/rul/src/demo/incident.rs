//! The incident as data: the line of `--json`, and what a person reads.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::course::{Findings, seconds};
use super::scores::Model;

/// The last line on standard output.
#[derive(Debug, Clone, Serialize)]
pub struct Incident {
    pub r#type: &'static str,
    pub schema: u32,
    pub ok: bool,
    pub detected: bool,
    pub t0: Timestamp,
    pub t1: Timestamp,
    pub t2: Timestamp,
    pub t3: Timestamp,
    pub t4: Timestamp,
    pub t5: Timestamp,
    /// The challenger's first answer.
    pub live_at: Timestamp,
    /// From the alert to the challenger's first answer.
    pub core_recovery_s: f64,
    /// From the first request of a new engine to the second all-clear.
    pub total_s: f64,
    /// Of the answers to the new engines' requests, by the champion and by the challenger.
    pub rmse_drifted_before: Option<f64>,
    pub rmse_drifted_after: Option<f64>,
    /// On the held-out engines of the new conditions.
    pub champion_rmse: f64,
    pub challenger_rmse: f64,
    pub champion_version: String,
    pub promoted_version: String,
    pub champion_sha256: String,
    pub challenger_sha256: String,
    pub requests: u64,
    pub failed_requests: u64,
    pub decision: Value,
    /// The watch's states in their order, each once per change.
    pub states: Vec<String>,
    pub cause: Option<String>,
    pub generated_data: bool,
    pub seconds: f64,
    pub rul_version: &'static str,
}

impl Incident {
    pub fn new(found: &Findings, champion: &Model, challenger: &Model, seconds_in_all: f64) -> Self {
        let m = &found.moments;
        let phase = |version: &str| {
            let phases = found.traffic["phases"].as_array()?;
            phases.iter().find(|p| p["drifted"] == true && p["model_version"] == version)?["rmse"].as_f64()
        };
        let mut states: Vec<String> = found.looks.iter().map(|look| look.state.clone()).collect();
        states.dedup();
        let count = |key: &str| found.traffic[key].as_u64().unwrap_or(0);
        Self {
            r#type: "incident",
            schema: 1,
            ok: true,
            detected: true,
            t0: m.t0,
            t1: m.t1,
            t2: m.t2,
            t3: m.t3,
            t4: m.t4,
            t5: m.t5,
            live_at: m.live,
            core_recovery_s: seconds(m.t2, m.live),
            total_s: seconds(m.t1, m.t5),
            rmse_drifted_before: phase(&found.champion),
            rmse_drifted_after: phase(&found.challenger),
            champion_rmse: champion.new.rmse(),
            challenger_rmse: challenger.new.rmse(),
            champion_version: found.champion.clone(),
            promoted_version: found.challenger.clone(),
            champion_sha256: champion.sha256().to_owned(),
            challenger_sha256: challenger.sha256().to_owned(),
            requests: count("requests"),
            failed_requests: count("failed"),
            decision: found.decision.clone(),
            states,
            cause: found.looks.iter().find(|look| look.state == "drift").and_then(|look| look.cause.clone()),
            generated_data: found.data.generated,
            seconds: seconds_in_all,
            rul_version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// What a person wants to know.
    pub fn verdict(&self) -> String {
        format!(
            "The drift was found after {:.1} s and its alert sent. {:.0} s later a retrained model answered, and no request of {} failed.",
            seconds(self.t1, self.t2),
            self.core_recovery_s,
            thousands(self.requests)
        )
    }
}

/// 12 345 with a narrow space.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join("\u{202f}")
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!(
            [thousands(7), thousands(1234), thousands(1_234_567)],
            ["7", "1\u{202f}234", "1\u{202f}234\u{202f}567"]
        );
    }
}
