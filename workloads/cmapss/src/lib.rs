//! NASA's C-MAPSS turbofan data: read it, cut it into windows, score predictions, and make data that looks like it.
//!
//! | module | gives |
//! |---|---|
//! | [`data`] | rows, engines, fleets; the columns and their names |
//! | [`parse`], [`files`] | the 26-column text format with line/column errors; plain or gzip files; known checksums |
//! | [`write`](mod@write) | the same format back, byte for byte |
//! | [`regimes`] | the six operating regimes, and normalisation within each |
//! | [`scale`] | min-max and z-score scalers, fitted on the training engines only |
//! | [`windows`] | windows with labels, padding policy for short engines |
//! | [`split`] | engine-wise splits |
//! | [`metrics`] | RMSE, MAE, bias, NASA score |
//! | [`synth`] | the look-alike generator |
//!
//! Nothing here panics on any input; errors name the place, the reason and a way out.

pub mod data;
mod eigen;
pub mod error;
pub mod files;
pub mod metrics;
pub mod parse;
pub mod regimes;
pub mod rng;
pub mod scale;
pub mod split;
pub mod synth;
pub mod windows;
pub mod write;

pub use data::{Column, Engine, FeatureSet, Fleet, Row};
pub use error::Error;
