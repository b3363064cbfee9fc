//! Our graph as ONNX (opset 17, IR 8) and back:
//! `Sub(mean) -> Div(scale) -> Transpose -> LSTM -> Squeeze -> ... -> LSTM(Y_h) -> Squeeze -> Gemm ->
//! Clip(0, cap)`, input `input` `[batch, window, features]`, output `output` `[batch, 1]`.
//! With regimes, eight nodes before it look up each row's own mean and scale: `Gather(column) -> Sub(centres) -> Abs -> ArgMin`,
//! `Gather` of both tables, `Sub -> Div`. Scaler and cap travel inside; [`Labels`] travel as metadata.

use crate::Network;

mod graph;
mod read;
mod wire;
mod write;

pub use read::read;
pub use write::write;

/// What the graph itself cannot carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    pub name: String,
    pub version: String,
    /// Names of the columns; empty when unknown.
    pub features: Vec<String>,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub network: Network,
    pub labels: Labels,
}

#[cfg(test)]
mod tests;
