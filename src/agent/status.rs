//! What the ledger says of the last runs: for `provision status`.

use serde::{Deserialize, Serialize};

use super::ledger::{Entry, Record};
use crate::engine::{Outcome, Summary};

/// The last word on a host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    pub last_run: Option<LastRun>,
    pub stages: Vec<StageStatus>,
    /// Steps that were begun and never ended: a run was cut off in them. The next `up` looks at them anew.
    pub unfinished: Vec<String>,
}

/// The last run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastRun {
    pub run: String,
    pub by: String,
    pub started: String,
    /// `None` when it was cut off.
    pub ended: Option<String>,
    pub summary: Option<Summary>,
}

/// The last end of a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageStatus {
    pub stage: String,
    pub result: Outcome,
    pub at: String,
    pub changed: usize,
    pub seconds: f64,
}

impl Status {
    /// Sums up a ledger.
    pub fn of(records: &[Record]) -> Self {
        let mut status = Self::default();
        for record in records {
            match &record.entry {
                Entry::RunStarted { by, .. } => {
                    status.unfinished.clear();
                    let (run, by, started) = (record.run.clone(), by.clone(), record.at.clone());
                    status.last_run = Some(LastRun { run, by, started, ended: None, summary: None });
                }
                Entry::Intent { stage, resource, .. } => status.unfinished.push(format!("{stage}: {resource}")),
                Entry::Result { stage, resource, .. } => {
                    let step = format!("{stage}: {resource}");
                    status.unfinished.retain(|open| *open != step);
                }
                Entry::Stage { stage, result, changed, seconds } => {
                    status.stages.retain(|known| known.stage != *stage);
                    let (stage, at) = (stage.clone(), record.at.clone());
                    let (result, changed, seconds) = (*result, *changed, *seconds);
                    status.stages.push(StageStatus { stage, result, at, changed, seconds });
                }
                Entry::RunEnded { summary } => {
                    if let Some(run) = &mut status.last_run {
                        run.ended = Some(record.at.clone());
                        run.summary = Some(summary.clone());
                    }
                }
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::Diff;

    #[test]
    fn a_cut_run_leaves_its_step_unfinished() {
        let record = |entry| Record { at: "t".into(), run: "r".into(), entry };
        let intent =
            |resource: &str| Entry::Intent { stage: "s".into(), resource: resource.into(), diff: Diff::none() };
        let records = [
            record(Entry::RunStarted { by: "me".into(), stages: vec![] }),
            record(intent("file /a")),
            record(Entry::Result {
                stage: "s".into(),
                resource: "file /a".into(),
                result: Outcome::Changed,
                seconds: 0.1,
                failure: None,
            }),
            record(intent("file /b")),
        ];
        let status = Status::of(&records);
        assert_eq!(status.unfinished, ["s: file /b"]);
        assert!(status.last_run.is_some_and(|run| run.ended.is_none()));
    }
}
