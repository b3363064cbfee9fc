//! The moving part of a terminal: one line per running topic with what it does, for how long, and what it waits for.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Live lines; does nothing where standard error is no terminal.
pub struct Live {
    multi: Option<MultiProgress>,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Live {
    pub fn new(enabled: bool) -> Self {
        let multi = enabled.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self { multi, bars: Mutex::default() }
    }

    /// Shows what a topic does now and starts its clock anew. `false` when nothing is shown.
    pub fn set(&self, topic: &str, text: &str) -> bool {
        self.with(topic, |bar| {
            bar.reset_elapsed();
            bar.set_message(shorten(text));
        })
    }

    /// Adds what the topic waits for or prints, the clock going on.
    pub fn note(&self, topic: &str, text: &str) {
        self.with(topic, |bar| {
            let message = bar.message();
            let head = message.split("  ·  ").next().unwrap_or_default();
            bar.set_message(shorten(&format!("{head}  ·  {}", text.trim())));
        });
    }

    fn with(&self, topic: &str, change: impl FnOnce(&ProgressBar)) -> bool {
        let (Some(multi), Ok(mut bars)) = (&self.multi, self.bars.lock()) else {
            return false;
        };
        let bar = bars.entry(topic.to_owned()).or_insert_with(|| {
            let bar = multi.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:.bold} {elapsed:>4} {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(topic.rsplit('/').next().unwrap_or(topic).to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        change(bar);
        true
    }

    /// Removes a topic's line.
    pub fn clear(&self, topic: &str) {
        if let (Some(multi), Ok(mut bars)) = (&self.multi, self.bars.lock())
            && let Some(bar) = bars.remove(topic)
        {
            bar.finish_and_clear();
            multi.remove(&bar);
        }
    }

    /// Removes all lines.
    pub fn finish(&self) {
        let topics: Vec<_> = self.bars.lock().map(|bars| bars.keys().cloned().collect()).unwrap_or_default();
        topics.iter().for_each(|topic| self.clear(topic));
    }

    /// Runs `print` with the live lines out of the way.
    pub fn suspend(&self, print: impl FnOnce()) {
        match &self.multi {
            Some(multi) => multi.suspend(print),
            None => print(),
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
