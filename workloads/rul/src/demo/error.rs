//! Why the demo did not come to its end.

use std::path::PathBuf;

/// Each says at which step, why, and where to look.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{} has files in it: choose a new or an empty directory with --out", .0.display())]
    Occupied(PathBuf),
    #[error(transparent)]
    Data(#[from] cmapss::Error),
    #[error(transparent)]
    Artifact(#[from] crate::artifact::Error),
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    #[error("{0}")]
    Watch(#[from] crate::drift::error::Error),
    #[error("{0}")]
    Start(String),
    /// A program ended that should not have, or not so.
    #[error("{step}: rul {name} ended with {status}{tail}")]
    Ended { step: String, name: &'static str, status: String, tail: String },
    #[error("{step}: waited {seconds} s for {what}. {last}{tail}")]
    Waited { step: String, what: String, seconds: u64, last: String, tail: String },
    /// Everything ran, and it did not come out as it should.
    #[error("{step}: {reason}{tail}")]
    Outcome { step: String, reason: String, tail: String },
    #[error("interrupted: everything that was started has been stopped")]
    Interrupted,
}

impl Error {
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
