//! JSON lines: a contract. `"schema": 1` is on the first line; new fields may come, none change meaning.

use serde_json::{Value, json};

use super::View;
use crate::diff::Diff;
use crate::engine::{Event, Outcome, Summary};

pub const SCHEMA: u32 = 1;

pub fn begin(view: View, hosts: &[String], run_id: &str) -> Value {
    json!({"schema": SCHEMA, "type": "start", "command": view.name(), "hosts": hosts, "run": run_id, "version": env!("CARGO_PKG_VERSION")})
}

fn diff_value(diff: &Diff) -> Value {
    diff.changes.iter().map(|change| json!({"field": change.field, "detail": change.detail})).collect()
}

fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

pub fn event(view: View, host: &str, event: &Event) -> Option<Value> {
    Some(match event {
        Event::Planned { stage, resource, plan, diff, reason } => {
            let mut line =
                json!({"type": "resource", "host": host, "stage": stage, "resource": resource, "action": plan});
            if !diff.changes.is_empty() {
                line["diff"] = diff_value(diff);
            }
            if let Some(reason) = reason {
                line["reason"] = json!(reason);
            }
            line
        }
        Event::StepDone { stage, resource, result, diff, seconds, failure, reason } => {
            let mut line = json!({"type": "resource", "host": host, "stage": stage, "resource": resource});
            line[if view == View::Plan { "action" } else { "result" }] = json!(result);
            line["seconds"] = json!(round(*seconds));
            if !diff.changes.is_empty() {
                line["diff"] = diff_value(diff);
            }
            if let Some(reason) = reason {
                line["reason"] = json!(reason);
            }
            if let Some(failure) = failure {
                line["error"] = json!({
                    "message": failure.message, "place": failure.place.as_ref().map(ToString::to_string),
                    "argv": failure.argv, "status": failure.status, "tail": failure.tail, "hint": failure.hint,
                });
            }
            line
        }
        Event::Check { stage, layer, check, status, detail, seconds, place } => json!({
            "type": "check", "host": host, "layer": layer, "stage": stage, "check": check, "status": status,
            "detail": detail, "seconds": round(*seconds), "place": place.to_string(),
        }),
        Event::StageDone { stage, result, seconds, changed, reason } => json!({
            "type": "stage", "host": host, "stage": stage, "result": result, "seconds": round(*seconds),
            "changed": changed, "ok": !matches!(result, Outcome::Failed | Outcome::Skipped), "reason": reason,
        }),
        _ => return None,
    })
}

pub fn end(view: View, summary: &Summary) -> Value {
    let seconds = round(summary.seconds);
    let ok = summary.ok();
    match view {
        View::Plan => json!({
            "type": "summary", "create": summary.create, "change": summary.change, "delete": summary.delete,
            "run": summary.run, "pending": summary.pending, "unchanged": summary.unchanged, "failed": summary.failed,
            "seconds": seconds, "ok": ok,
        }),
        View::Up => json!({
            "type": "summary", "changed": summary.changed, "unchanged": summary.unchanged, "failed": summary.failed,
            "skipped": summary.skipped, "checks_failed": summary.fail, "seconds": seconds, "ok": ok,
            "interrupted": summary.interrupted,
        }),
        View::Healthcheck => json!({
            "type": "summary", "pass": summary.pass, "warn": summary.warn, "fail": summary.fail, "skip": summary.skip,
            "seconds": seconds, "ok": ok,
        }),
    }
}
