//! Lines for people.

use owo_colors::OwoColorize;

use super::View;
use crate::checks::Status;
use crate::diff::Diff;
use crate::engine::event::Verb;
use crate::engine::{Event, Failure, Outcome, Summary};

/// Lines of one event: data for standard output, notes for standard error.
#[derive(Default)]
pub struct Lines {
    pub data: Vec<String>,
    pub notes: Vec<String>,
}

pub fn red(text: &str) -> String {
    text.red().bold().to_string()
}

pub fn event(view: View, event: &Event, verbose: bool) -> Lines {
    let mut lines = Lines::default();
    match event {
        Event::StageStarted { stage, .. } if view == View::Plan => lines.data.push(stage.bold().to_string()),
        Event::Planned { resource, plan, diff, reason, .. } => {
            lines.data.extend(planned(resource, *plan, diff, reason.as_deref(), verbose));
        }
        Event::StepDone { stage, resource, result, diff, seconds, failure, reason } => match result {
            Outcome::Changed => {
                lines.notes.push(format!("{} {stage}: {resource} {}", "~".yellow(), duration(*seconds).dimmed()));
                lines.notes.extend(diff_lines(diff));
            }
            Outcome::Failed => {
                let failure = failure.clone().unwrap_or_default();
                lines.notes.extend(failure_lines(view, stage, resource, &failure));
            }
            Outcome::Skipped if verbose => {
                lines.notes.push(format!("- {stage}: {resource} skipped: {}", reason.as_deref().unwrap_or_default()));
            }
            Outcome::Unchanged if verbose => lines.notes.push(format!("= {stage}: {resource}")),
            Outcome::Unchanged | Outcome::Skipped => {}
        },
        Event::Output { line, .. } | Event::Progress { text: line, .. } if verbose => {
            lines.notes.push(format!("  | {line}"));
        }
        Event::Check { layer, stage, check, status, detail, place, .. } => {
            let line = format!("{} {check}  {}", mark(*status), detail.dimmed());
            match view {
                View::Healthcheck => lines.data.push(format!("{layer:<12} {line}")),
                _ if *status == Status::Fail => {
                    lines.notes.push(format!("{} {stage}: {check}: {detail}", red("check failed")));
                    lines.notes.push(format!("  at {place}"));
                    lines.notes.push(format!("  to continue: provision stage rerun {stage}"));
                }
                _ if verbose => lines.notes.push(format!("  {line}")),
                _ => {}
            }
        }
        Event::StageDone { stage, result, seconds, changed, reason } => {
            let what = match result {
                Outcome::Changed => format!("{changed} changed"),
                Outcome::Unchanged => "unchanged".to_owned(),
                // What failed has been told above, in full.
                Outcome::Failed | Outcome::Skipped => {
                    reason.as_deref().and_then(|reason| reason.lines().next()).unwrap_or_default().to_owned()
                }
            };
            let state = state(*result);
            lines.notes.push(format!("{state} {} {} {}", stage.bold(), what, duration(*seconds).dimmed()));
        }
        _ => {}
    }
    lines
}

/// The coloured mark of a stage's end.
pub fn state(result: Outcome) -> String {
    match result {
        Outcome::Changed | Outcome::Unchanged => "ok".green().to_string(),
        Outcome::Failed => red("failed"),
        Outcome::Skipped => "skipped".yellow().to_string(),
    }
}

fn mark(status: Status) -> String {
    match status {
        Status::Pass => "pass".green().to_string(),
        Status::Warn => "warn".yellow().to_string(),
        Status::Fail => red("FAIL"),
        Status::Skip => "skip".dimmed().to_string(),
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

fn planned(resource: &str, plan: Verb, diff: &Diff, reason: Option<&str>, verbose: bool) -> Vec<String> {
    let (sign, word) = match plan {
        Verb::Create => ("+".green().to_string(), ""),
        Verb::Change => ("~".yellow().to_string(), ""),
        Verb::Delete => ("-".red().to_string(), ""),
        Verb::Run => ("!".yellow().to_string(), "  (runs every time)"),
        Verb::Pending => ("?".cyan().to_string(), ""),
        Verb::None if verbose => ("=".dimmed().to_string(), ""),
        Verb::None => return Vec::new(),
    };
    let mut lines = vec![format!("  {sign} {resource}{word}{}", reason.map_or(String::new(), |r| format!("  ({r})")))];
    lines.extend(diff_lines(diff).into_iter().map(|line| format!("  {line}")));
    lines
}

fn diff_lines(diff: &Diff) -> Vec<String> {
    let mut lines = Vec::new();
    for change in &diff.changes {
        if change.detail.contains('\n') || change.detail.starts_with("@@") {
            lines.push(format!("    {}:", change.field));
            lines.extend(change.detail.lines().map(|line| format!("      {}", colored(line))));
        } else {
            lines.push(format!("    {}: {}", change.field, change.detail));
        }
    }
    lines
}

fn colored(line: &str) -> String {
    match line.chars().next() {
        Some('+') => line.green().to_string(),
        Some('-') => line.red().to_string(),
        Some('@') => line.cyan().to_string(),
        _ => line.to_owned(),
    }
}

/// Everything about a failure: what, where, what was tried, what it said, the way out.
pub fn failure_lines(view: View, stage: &str, resource: &str, failure: &Failure) -> Vec<String> {
    let mut lines = vec![format!("{} {stage}: {resource}", red("failed"))];
    lines.extend(failure.message.lines().map(|line| format!("  {line}")));
    if !failure.argv.is_empty() {
        lines.push(format!("  tried: {}", failure.argv.join(" ")));
    }
    if let Some(status) = failure.status {
        lines.push(format!("  exit status: {status}"));
    }
    if !failure.tail.is_empty() {
        lines.push("  last lines:".into());
        lines.extend(failure.tail.iter().map(|line| format!("  | {line}")));
    }
    if let Some(place) = &failure.place {
        lines.push(format!("  at {place}"));
    }
    if let Some(hint) = &failure.hint {
        lines.push(format!("  hint: {hint}"));
    }
    if view == View::Up {
        lines.push(format!("  to continue: provision stage rerun {stage}"));
    }
    lines
}

pub fn end(view: View, summary: &Summary) -> String {
    match view {
        View::Plan => {
            let mut text = format!(
                "Plan: {} to create, {} to change, {} to delete, {} to run, {} pending, {} unchanged",
                summary.create, summary.change, summary.delete, summary.run, summary.pending, summary.unchanged
            );
            if summary.failed > 0 {
                text.push_str(&format!(", {} cannot be looked at", summary.failed));
            }
            text
        }
        View::Up => format!(
            "{}: {} changed, {} unchanged, {} failed, {} skipped, {} checks passed, {} broken, in {:.1} s",
            if summary.interrupted {
                "Interrupted"
            } else if summary.ok() {
                "Done"
            } else {
                "Failed"
            },
            summary.changed,
            summary.unchanged,
            summary.failed,
            summary.skipped,
            summary.pass,
            summary.fail,
            summary.seconds
        ),
        View::Healthcheck => format!(
            "{}: {} pass, {} warn, {} fail, {} skip, in {:.1} s",
            if summary.ok() { "Healthy" } else { "Broken" },
            summary.pass,
            summary.warn,
            summary.fail,
            summary.skip,
            summary.seconds
        ),
    }
}
