use std::path::PathBuf;

/// Everything that can go wrong here. `Malformed` is a broken file; `Foreign` is a sound ONNX file
/// that is not the graph this crate writes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A buffer has the wrong length.
    #[error("{what}: expected {expected} numbers, got {got}")]
    Shape { what: &'static str, expected: usize, got: usize },
    /// The parameters of a network or of a training run do not fit together.
    #[error("invalid {what}: {reason}")]
    Invalid { what: &'static str, reason: String },
    /// The bytes are not a sound ONNX protobuf.
    #[error("malformed ONNX at byte {offset}: {reason}")]
    Malformed { offset: usize, reason: String },
    /// Sound ONNX, another graph.
    #[error("not the graph this program writes: {reason}")]
    Foreign { reason: String },
    /// The general ONNX runtime refused the model or its input.
    #[error("general ONNX runtime: {reason}")]
    Runtime { reason: String },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A model directory contradicts itself.
    #[error("{}: {reason}", path.display())]
    Directory { path: PathBuf, reason: String },
    /// A written model does not predict what the trained one does.
    #[error(
        "{}: the exported model differs by {difference} cycles on window {window} (at most {allowed} allowed)",
        path.display()
    )]
    Disagrees { path: PathBuf, window: usize, difference: f32, allowed: f32 },
    /// The training loss stopped being a number.
    #[error("training diverged in epoch {epoch}: lower the learning rate (now {learning_rate})")]
    Diverged { epoch: usize, learning_rate: f32 },
}

impl Error {
    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { what, reason: reason.into() }
    }

    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
