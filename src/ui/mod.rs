//! From events to terminal, plain lines or JSON lines. All output of `provision` goes through here, and through the redactor.
//!
//! Data goes to standard output, everything else to standard error. A closed pipe is not an error.

mod human;
mod json;
mod live;
pub mod table;

use std::io::{IsTerminal, Write};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::engine::{Event, Summary};
use crate::secrets::Redactor;

pub use human::{failure_lines, state};

/// Which command an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Plan,
    Up,
    Healthcheck,
}

impl View {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Up => "up",
            Self::Healthcheck => "healthcheck",
        }
    }
}

/// The one way out.
pub struct Ui {
    json: bool,
    verbose: bool,
    color: bool,
    /// Whether more than one host is worked on: then lines name theirs.
    many: RwLock<bool>,
    redactor: RwLock<Redactor>,
    /// No JSON line was written yet.
    schema_due: AtomicBool,
    live: live::Live,
}

impl Ui {
    pub fn new(json: bool, verbose: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            json,
            verbose,
            color,
            many: RwLock::new(false),
            redactor: RwLock::default(),
            schema_due: AtomicBool::new(true),
            live: live::Live::new(terminal && !json && !verbose),
        }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// From now on these values are masked everywhere.
    pub fn redact_with(&self, redactor: Redactor) {
        if let Ok(mut slot) = self.redactor.write() {
            *slot = redactor;
        }
    }

    fn redacted(&self, text: &str) -> String {
        self.redactor.read().map_or_else(|_| String::new(), |redactor| redactor.redact(text))
    }

    /// A line of data, on standard output.
    pub fn data(&self, line: &str) {
        let line = self.redacted(line);
        self.raw_data(&line);
    }

    /// A secret that the user asked for by name: the only output that is not redacted.
    pub fn reveal(&self, secret: &crate::secrets::Secret) {
        self.raw_data(secret.expose());
    }

    fn raw_data(&self, line: &str) {
        self.live.suspend(|| {
            let color = self.color && std::io::stdout().is_terminal();
            let line = if color { line.to_owned() } else { anstream::adapter::strip_str(line).to_string() };
            // A reader that has gone (`| head`) is fine.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        });
    }

    /// A line of a JSON answer, on standard output. The first one of all has the version of the schema.
    pub fn json_line(&self, value: &Value) {
        let mut value = value.clone();
        if let (true, Some(line)) = (self.schema_due.swap(false, Ordering::Relaxed), value.as_object_mut()) {
            line.entry("schema").or_insert_with(|| json::SCHEMA.into());
        }
        if let Ok(redactor) = self.redactor.read() {
            redactor.redact_json(&mut value);
        }
        self.raw_data(&value.to_string());
    }

    /// A line for the person, on standard error.
    pub fn say(&self, line: &str) {
        let line = self.redacted(line);
        self.live.suspend(|| {
            let color = self.color && std::io::stderr().is_terminal();
            let line = if color { line } else { anstream::adapter::strip_str(&line).to_string() };
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        });
    }

    /// What is being done now: a live line on a terminal; on a pipe a line when `important`.
    pub fn progress(&self, topic: &str, text: &str) {
        let text = self.redacted(text);
        if !self.live.set(topic, &text) && self.verbose {
            self.say(&format!("{topic}: {text}"));
        }
    }

    /// The topic of [`Ui::progress`] is over.
    pub fn progress_done(&self, topic: &str) {
        self.live.clear(topic);
    }

    /// An error that ended the command.
    pub fn error(&self, error: &anyhow::Error) {
        self.live.finish();
        if self.json {
            self.json_line(&serde_json::json!({"type": "error", "message": format!("{error:#}")}));
        }
        let text = format!("{error:#}");
        for (index, line) in text.lines().enumerate() {
            self.say(&if index == 0 { format!("{} {line}", human::red("error:")) } else { line.to_owned() });
        }
    }

    /// The first line of a JSON answer.
    pub fn begin(&self, view: View, hosts: &[String], run_id: &str) {
        if let Ok(mut many) = self.many.write() {
            *many = hosts.len() > 1;
        }
        if self.json {
            self.json_line(&json::begin(view, hosts, run_id));
        }
    }

    /// Something happened on a host.
    pub fn event(&self, view: View, host: &str, event: &Event) {
        self.live_event(host, event);
        if self.json {
            if let Some(line) = json::event(view, host, event) {
                self.json_line(&line);
            }
            return;
        }
        let many = self.many.read().is_ok_and(|many| *many);
        let prefix = if many { format!("{host}: ") } else { String::new() };
        let lines = human::event(view, event, self.verbose);
        for line in lines.data {
            self.data(&format!("{prefix}{line}"));
        }
        for line in lines.notes {
            self.say(&format!("{prefix}{line}"));
        }
    }

    fn live_event(&self, host: &str, event: &Event) {
        let topic = |stage: &str| format!("{host}/{stage}");
        match event {
            Event::StepStarted { stage, resource } => {
                self.live.set(&topic(stage), resource);
            }
            Event::Progress { stage, text } => {
                self.live.note(&topic(stage), &self.redacted(text));
            }
            Event::Output { stage, line } => {
                self.live.note(&topic(stage), &self.redacted(line));
            }
            Event::CheckWaiting { stage, check, detail, .. } => {
                self.live.set(&topic(stage), &self.redacted(&format!("check {check}: {detail}")));
            }
            Event::StageDone { stage, .. } => self.live.clear(&topic(stage)),
            _ => {}
        }
    }

    /// The end of a run over all hosts.
    pub fn end(&self, view: View, summary: &Summary) {
        self.live.finish();
        if self.json {
            self.json_line(&json::end(view, summary));
        } else {
            self.data(&human::end(view, summary));
        }
    }
}
