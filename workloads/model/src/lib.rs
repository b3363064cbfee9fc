//! Remaining useful life from windows of sensor readings: a stacked LSTM with its scaler and its
//! cap inside, so that what was trained is what is served.
//!
//! - [`Model`]: prediction. `predict` allocates nothing once its [`Scratch`] has grown.
//! - [`Network`]: the plain parameters; what the trainer makes and ONNX carries.
//! - [`train`]: back-propagation through time, deterministic for a seed and a thread count.
//! - [`onnx`]: our graph out and in. Any other graph needs the feature `rten`.
//! - [`Model::save_dir`], [`Model::load_dir`]: a directory with `model.onnx` and `model.json`.
//!
//! Shapes: a window is `window x features` numbers, row-major, oldest row first; a batch is windows
//! one after another. Units: the prediction is in cycles, clipped to `[0, cap]`. A NaN in a window
//! gives a NaN for that window (never a number that looks healthy).
//!
//! ```no_run
//! # fn main() -> Result<(), model::Error> {
//! use model::{Model, Scratch};
//!
//! let (model, manifest) = Model::load_dir("models/7".as_ref())?;
//! let window = vec![0.5; manifest.window * manifest.features.len()];
//! let (mut scratch, mut cycles) = (Scratch::default(), [0.0]);
//! model.predict(&mut scratch, &window, 1, &mut cycles)?;
//! # Ok(())
//! # }
//! ```

mod directory;
mod error;
mod kernel;
mod model;
mod network;
pub mod onnx;
#[cfg(test)]
mod testing;
pub mod train;
mod verify;

#[cfg(feature = "rten")]
mod foreign;

pub use directory::{MANIFEST_FILE, MODEL_FILE, Manifest};
pub use error::Error;
pub use model::{Backend, Model, Scratch};
pub use network::{Lstm, Network, Regimes, Scaler};
pub use train::{Best, EpochReport, Options, Schedule, Trained, Windows, train};
pub use verify::{MAX_DIFFERENCE, verify_export};
