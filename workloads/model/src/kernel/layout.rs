//! All trainable numbers of a network in one buffer, in the order the kernels want them, so that the
//! optimiser sees one long vector and no step needs repacking.

use super::buffer::Buffer;
use super::{InstructionSet, Kernel};
use crate::{Lstm, Network, Scaler};

/// Where one layer lies. Blocks as in prediction: a block is `LANES` units; its rows are the numbers
/// that come in (input, then hidden), each row four gates. Not scaled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub input: usize,
    pub hidden: usize,
    pub blocks: usize,
    pub weights: usize,
    pub bias: usize,
}

impl Place {
    pub(super) fn depth(&self) -> usize {
        self.input + self.hidden
    }
}

/// The map of the buffer. Places that no parameter uses (units that fill up a vector) hold zero and
/// get no gradient.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(super) set: InstructionSet,
    pub(super) lanes: usize,
    pub(super) features: usize,
    pub(super) window: usize,
    pub(super) layers: Vec<Place>,
    pub(super) head: usize,
    pub(super) bias: usize,
    /// Of the whole buffer, whole vectors.
    pub(super) len: usize,
    /// Numbers between two rows of states: the widest layer in whole tiles.
    pub(super) stride: usize,
}

impl Layout {
    pub(crate) fn new(set: InstructionSet, window: usize, features: usize, hidden: &[usize]) -> Self {
        let lanes = set.lanes();
        let tile = 4 * lanes;
        let (mut at, mut input, mut widest) = (0, features, 1);
        let layers = hidden
            .iter()
            .map(|&hidden| {
                let blocks = hidden.div_ceil(lanes);
                let weights = at;
                let bias = weights + blocks * (input + hidden) * tile;
                at = bias + blocks * tile;
                let place = Place { input, hidden, blocks, weights, bias };
                input = hidden;
                widest = widest.max(hidden);
                place
            })
            .collect();
        let stride = widest.div_ceil(tile) * tile;
        Self { set, lanes, features, window, layers, head: at, bias: at + stride, len: at + stride + lanes, stride }
    }

    /// Position of every parameter of a layer: `(gate row, incoming number or None for the bias)`.
    fn position(&self, place: &Place, gate: usize, unit: usize, k: Option<usize>) -> usize {
        let tile = 4 * self.lanes;
        let (block, column) = (unit / self.lanes, gate * self.lanes + unit % self.lanes);
        match k {
            Some(k) => place.weights + (block * place.depth() + k) * tile + column,
            None => place.bias + block * tile + column,
        }
    }

    /// The network's numbers; the head in shares of the cap.
    pub(crate) fn load(&self, network: &Network) -> Buffer {
        let mut out = Buffer::zeros(self.len);
        for (place, layer) in self.layers.iter().zip(&network.layers) {
            for gate in 0..4 {
                for unit in 0..place.hidden {
                    let row = gate * place.hidden + unit;
                    for k in 0..place.input {
                        out[self.position(place, gate, unit, Some(k))] = layer.w[row * place.input + k];
                    }
                    for k in 0..place.hidden {
                        out[self.position(place, gate, unit, Some(place.input + k))] = layer.r[row * place.hidden + k];
                    }
                    out[self.position(place, gate, unit, None)] = layer.b[row];
                }
            }
        }
        for (to, from) in out[self.head..].iter_mut().zip(&network.head) {
            *to = from / network.cap;
        }
        out[self.bias] = network.bias / network.cap;
        out
    }

    /// The other way.
    pub(crate) fn network(&self, values: &[f32], scaler: &Scaler, cap: f32) -> Network {
        let layers: Vec<Lstm> = self
            .layers
            .iter()
            .map(|place| {
                let rows = || (0..4).flat_map(|g| (0..place.hidden).map(move |u| (g, u)));
                let pick = |from: usize, count: usize| -> Vec<f32> {
                    rows()
                        .flat_map(|(g, u)| (from..from + count).map(move |k| (g, u, k)))
                        .map(|(g, u, k)| values[self.position(place, g, u, Some(k))])
                        .collect()
                };
                Lstm {
                    input: place.input,
                    hidden: place.hidden,
                    w: pick(0, place.input),
                    r: pick(place.input, place.hidden),
                    b: rows().map(|(g, u)| values[self.position(place, g, u, None)]).collect(),
                }
            })
            .collect();
        let last = layers.last().map_or(0, |l| l.hidden);
        Network {
            window: self.window,
            scaler: scaler.clone(),
            head: values[self.head..][..last].iter().map(|w| w * cap).collect(),
            bias: values[self.bias] * cap,
            layers,
            cap,
        }
    }

    /// One where weight decay applies: weights, not biases.
    pub(crate) fn decayed(&self) -> Buffer {
        let mut out = Buffer::zeros(self.len);
        for place in &self.layers {
            out[place.weights..place.bias].fill(1.0);
        }
        out[self.head..self.bias].fill(1.0);
        out
    }

    /// For validation while training.
    pub(crate) fn kernel(&self, network: &Network) -> Kernel {
        Kernel::with(network, self.set)
    }
}
