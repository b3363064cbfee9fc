//! What is different between the desired and the observed state of one resource.
//!
//! A [`Diff`] is what `plan` prints and what `apply` must do, no more and no less.

use serde::{Deserialize, Serialize};
use similar::TextDiff;

/// What will happen to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It does not exist yet.
    Create,
    /// It exists and differs.
    Change,
    /// It exists and must not.
    Delete,
    /// A command that cannot tell whether it is done: it runs every time.
    Run,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What differs, in the words of the stage file: `mode`, `content`, `Deployment mlops/inference`.
    pub field: String,
    /// How it differs: one line, or a unified diff of several lines.
    pub detail: String,
}

/// The difference of one resource; empty means nothing to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// `None` when there is nothing to do.
    pub action: Option<Action>,
    /// Every field that differs, in a stable order.
    pub changes: Vec<Change>,
}

impl Diff {
    /// Nothing to do.
    pub fn none() -> Self {
        Self::default()
    }

    /// A diff of the given kind, to be filled with [`Diff::push`] and its siblings.
    pub fn new(action: Action) -> Self {
        Self { action: Some(action), changes: Vec::new() }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.action.is_none()
    }

    /// Whether `field` is among the changes: what `apply` asks to do exactly the diff.
    pub fn has(&self, field: &str) -> bool {
        self.changes.iter().any(|change| change.field == field)
    }

    /// Records a change. A diff without an action becomes a [`Action::Change`].
    pub fn push(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.action.get_or_insert(Action::Change);
        self.changes.push(Change { field: field.into(), detail: detail.into() });
    }

    /// Records `before -> after` when they differ.
    pub fn compare(&mut self, field: &str, before: &str, after: &str) {
        if before != after {
            self.push(field, format!("{before} -> {after}"));
        }
    }

    /// Records a unified diff when two texts differ.
    pub fn compare_text(&mut self, field: &str, before: &str, after: &str) {
        if before != after {
            self.push(field, unified(before, after));
        }
    }
}

/// A unified diff with three lines of context and no file header.
pub fn unified(before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    diff.unified_diff().context_radius(3).missing_newline_hint(false).to_string().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_until_something_differs() {
        let mut diff = Diff::none();
        diff.compare("mode", "0644", "0644");
        assert!(diff.is_empty());
        diff.compare("mode", "0600", "0644");
        assert_eq!(diff.action, Some(Action::Change));
        assert!(diff.has("mode"));
        assert_eq!(diff.changes[0].detail, "0600 -> 0644");
    }

    #[test]
    fn text_is_shown_as_a_unified_diff() {
        let mut diff = Diff::none();
        diff.compare_text("content", "a\nb\n", "a\nc\n");
        assert_eq!(diff.changes[0].detail, "@@ -1,2 +1,2 @@\n a\n-b\n+c");
    }
}
