//! Prediction. Two ways through the same cells:
//! - few rows: the input side of a layer is computed for all steps at once (its weights then pass
//!   through the registers once instead of once per step), and only the recurrent side step by step;
//! - many rows: step by step, every weight used for a whole tile of rows.

use super::buffer::Buffer;
use super::tile::{Spill, Tile, accumulate, start, store, tiles};
use super::vector::{GATE_SCALE, Vector, cell};
use crate::{Lstm, Network, Regimes, Scaler};

/// Rows that go through the network together: their states stay in the first two caches.
const GROUP: usize = 48;

/// The weights of one layer for one vector length: blocks of `LANES` units; in a block, one row per
/// number that comes in (input first, then hidden), each row the four gates of the block's units.
/// Everything is scaled by [`GATE_SCALE`]. Units that fill up the last block have zero weights, so
/// their state stays zero.
#[derive(Debug)]
struct Packed {
    input: usize,
    hidden: usize,
    blocks: usize,
    weights: Buffer,
    bias: Buffer,
}

impl Packed {
    fn new(layer: &Lstm, lanes: usize) -> Self {
        let (input, hidden) = (layer.input, layer.hidden);
        let blocks = hidden.div_ceil(lanes);
        let depth = input + hidden;
        let mut weights = Buffer::zeros(blocks * depth * 4 * lanes);
        let mut bias = Buffer::zeros(blocks * 4 * lanes);
        for unit in 0..hidden {
            let (block, lane) = (unit / lanes, unit % lanes);
            for (gate, scale) in GATE_SCALE.iter().enumerate() {
                let scaled = |w: f32| (f64::from(w) * f64::from(*scale)) as f32;
                let row = gate * hidden + unit;
                let column = gate * lanes + lane;
                bias[block * 4 * lanes + column] = scaled(layer.b[row]);
                let from_input = layer.w[row * input..][..input].iter();
                let from_hidden = layer.r[row * hidden..][..hidden].iter();
                for (k, w) in from_input.chain(from_hidden).enumerate() {
                    weights[(block * depth + k) * 4 * lanes + column] = scaled(*w);
                }
            }
        }
        Self { input, hidden, blocks, weights, bias }
    }
}

/// Offset and factor per regime and feature: both stages of the scaler in one.
fn scaling(scaler: &Scaler) -> (Vec<f32>, Vec<f32>) {
    let features = scaler.mean.len();
    let outer = |k: usize| (f64::from(scaler.mean[k % features]), f64::from(scaler.scale[k % features]));
    match &scaler.regimes {
        None => (scaler.mean.clone(), (0..features).map(|k| (1.0 / outer(k).1) as f32).collect()),
        Some(regimes) => {
            let inner = |k: usize| (f64::from(regimes.mean[k]), f64::from(regimes.scale[k]));
            let all = 0..regimes.mean.len();
            let mean = all.clone().map(|k| (inner(k).0 + inner(k).1 * outer(k).0) as f32).collect();
            (mean, all.map(|k| (1.0 / (inner(k).1 * outer(k).1)) as f32).collect())
        }
    }
}

/// A network packed for prediction.
#[derive(Debug)]
pub(super) struct Plan {
    window: usize,
    features: usize,
    /// `[regime][feature]`; without regimes there is one.
    mean: Vec<f32>,
    /// `[regime][feature]`: one over the scale.
    factor: Vec<f32>,
    regimes: Option<Regimes>,
    layers: Vec<Packed>,
    head: Buffer,
    bias: f32,
    cap: f32,
    /// Numbers between two rows of states: the widest layer in whole vectors.
    stride: usize,
}

/// Working memory; every part grows to what the largest batch needed.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    scaled: Buffer,
    sums: Buffer,
    sequence: Buffer,
    cells: Buffer,
    states: Buffer,
}

impl Plan {
    pub(super) fn new(network: &Network, lanes: usize) -> Self {
        let layers: Vec<Packed> = network.layers.iter().map(|l| Packed::new(l, lanes)).collect();
        let stride = layers.iter().map(|l| l.blocks * lanes).max().unwrap_or(lanes);
        let mut head = Buffer::zeros(stride);
        head[..network.head.len()].copy_from_slice(&network.head);
        let (mean, factor) = scaling(&network.scaler);
        Self {
            window: network.window,
            features: network.features(),
            mean,
            factor,
            regimes: network.scaler.regimes.clone(),
            layers,
            head,
            bias: network.bias,
            cap: network.cap,
            stride,
        }
    }

    /// Predicts `out.len()` windows.
    ///
    /// # Safety
    /// The instruction set of `V` is available, `V::LANES` is what the plan was made for, and
    /// `input` is `out.len()` whole windows.
    #[inline(always)]
    pub(super) unsafe fn predict<V: Vector>(&self, workspace: &mut Workspace, input: &[f32], out: &mut [f32]) {
        let size = self.window * self.features;
        // Groups of one size, so that the last one is not a lonely row.
        let groups = out.len().div_ceil(GROUP).max(1);
        let group = out.len().div_ceil(groups).max(1);
        for (input, out) in input.chunks(group * size).zip(out.chunks_mut(group)) {
            // SAFETY: the lengths are `out.len()` windows again.
            unsafe {
                if out.len() < V::ROWS {
                    self.few::<V>(workspace, input, out);
                } else {
                    self.many::<V>(workspace, input, out);
                }
            }
        }
    }

    /// Copies step `step` of every row, scaled, to `to`.
    fn scale_step(&self, input: &[f32], step: usize, to: &mut [f32]) {
        let features = self.features;
        let windows = input.chunks_exact(self.window * features);
        for (window, to) in windows.zip(to.chunks_exact_mut(features)) {
            let row = &window[step * features..][..features];
            let at = self.regimes.as_ref().map_or(0, |r| r.of(row[r.column]) * features);
            let (mean, factor) = (&self.mean[at..][..features], &self.factor[at..][..features]);
            for (((to, x), mean), factor) in to.iter_mut().zip(row).zip(mean).zip(factor) {
                *to = (x - mean) * factor;
            }
        }
    }

    /// # Safety
    /// As [`Plan::predict`].
    #[inline(always)]
    unsafe fn few<V: Vector>(&self, ws: &mut Workspace, input: &[f32], out: &mut [f32]) {
        let (rows, features) = (out.len(), self.features);
        let steps = self.window * rows;
        ws.scaled.grow(steps * features);
        ws.sequence.grow(steps * self.stride);
        ws.cells.grow(rows * self.stride);
        ws.sums.grow(steps * 4 * self.stride);
        for step in 0..self.window {
            let to = &mut ws.scaled[step * rows * features..][..rows * features];
            self.scale_step(input, step, to);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let (from, from_row) =
                if index == 0 { (ws.scaled.ptr(), features) } else { (ws.sequence.ptr(), self.stride) };
            let wide = layer.blocks * 4 * V::LANES;
            ws.cells[..rows * self.stride].fill(0.0);
            // SAFETY: the buffers were grown to `steps` rows of `stride` (sums: four times that);
            // a layer reads the sequence below it before it writes its own over it, because the
            // input side of all steps is done first.
            unsafe {
                let project = Project { layer, from, from_row, to: ws.sums.ptr_mut(), to_row: wide };
                tiles::<V, _>(&project, steps);
                for step in 0..self.window {
                    let here = ws.sequence.ptr_mut().add(step * rows * self.stride);
                    let recur = Step {
                        layer,
                        start: ws.sums.ptr().add(step * rows * wide),
                        start_row: wide,
                        input: (from, 0, 0),
                        hidden: here.wrapping_sub(rows * self.stride),
                        has_hidden: step > 0,
                        cells: ws.cells.ptr_mut(),
                        out: here,
                        stride: self.stride,
                    };
                    for index in 0..layer.blocks {
                        // There and back again: what was used last is still in the first cache.
                        let back = layer.blocks - 1 - index;
                        let block = if step % 2 == 0 { index } else { back };
                        tiles::<V, _>(&recur.block(block), rows);
                    }
                }
            }
        }
        let last = &ws.sequence[(self.window - 1) * rows * self.stride..];
        // SAFETY: the caller has the instruction set.
        unsafe { self.finish::<V>(last, out) };
    }

    /// # Safety
    /// As [`Plan::predict`].
    #[inline(always)]
    unsafe fn many<V: Vector>(&self, ws: &mut Workspace, input: &[f32], out: &mut [f32]) {
        let (rows, features) = (out.len(), self.features);
        let size = rows * self.stride;
        ws.scaled.grow(rows * features);
        ws.cells.grow(self.layers.len() * size);
        // Two states per layer: the one before and the one being made.
        ws.states.grow(self.layers.len() * 2 * size);
        ws.cells[..self.layers.len() * size].fill(0.0);
        for step in 0..self.window {
            self.scale_step(input, step, &mut ws.scaled[..rows * features]);
            let (now, before) = (step % 2, (step + 1) % 2);
            let mut from = (ws.scaled.ptr(), features);
            for (index, layer) in self.layers.iter().enumerate() {
                // SAFETY: the buffers were grown for every layer; `now` and `before` differ.
                unsafe {
                    let states = ws.states.ptr_mut().add(index * 2 * size);
                    let here = states.add(now * size);
                    let work = Step {
                        layer,
                        start: layer.bias.ptr(),
                        start_row: 0,
                        input: (from.0, from.1, layer.input),
                        hidden: states.add(before * size),
                        has_hidden: step > 0,
                        cells: ws.cells.ptr_mut().add(index * size),
                        out: here,
                        stride: self.stride,
                    };
                    for block in 0..layer.blocks {
                        tiles::<V, _>(&work.block(block), rows);
                    }
                    from = (here.cast_const(), self.stride);
                }
            }
        }
        let now = (self.window - 1) % 2;
        let last = &ws.states[((self.layers.len() - 1) * 2 + now) * size..];
        // SAFETY: the caller has the instruction set.
        unsafe { self.finish::<V>(last, out) };
    }

    /// The linear layer and the clip, on rows of `stride`.
    ///
    /// # Safety
    /// As [`Plan::predict`].
    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, last: &[f32], out: &mut [f32]) {
        for (out, row) in out.iter_mut().zip(last.chunks_exact(self.stride)) {
            // SAFETY: a row and the head are `stride` numbers, whole vectors.
            let y = unsafe {
                let mut sum = V::splat(0.0);
                // The widest layer may be wider than the last one: only its own units count.
                let width = self.layers.last().map_or(0, |l| l.blocks * V::LANES);
                for k in (0..width).step_by(V::LANES) {
                    let h = V::load(row.as_ptr().add(k));
                    sum = h.fma(V::load(self.head.ptr().add(k)), sum);
                }
                sum.sum() + self.bias
            };
            // `clamp` keeps NaN.
            *out = y.clamp(0.0, self.cap);
        }
    }
}

/// The input side of a layer for rows of any step.
struct Project<'a> {
    layer: &'a Packed,
    from: *const f32,
    from_row: usize,
    to: *mut f32,
    to_row: usize,
}

impl Tile for Project<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, const M: usize>(&self, first: usize) {
        let wide = 4 * V::LANES;
        let depth = self.layer.input + self.layer.hidden;
        for block in 0..self.layer.blocks {
            // SAFETY: rows `first .. first + M` exist on both sides.
            unsafe {
                let mut sums = start::<V, M>(self.layer.bias.ptr().add(block * wide), 0);
                accumulate::<V, M>(
                    &mut sums,
                    self.layer.input,
                    (self.from.add(first * self.from_row), self.from_row, 1),
                    (self.layer.weights.ptr().add(block * depth * wide), wide),
                );
                let to = self.to.add(first * self.to_row + block * wide);
                store(&sums, to, self.to_row);
            }
        }
    }
}

/// One step of one layer.
#[derive(Clone, Copy)]
struct Step<'a> {
    layer: &'a Packed,
    /// What the sums start from, `start_row` apart.
    start: *const f32,
    start_row: usize,
    /// Rows, their distance, and how many numbers of them to take.
    input: (*const f32, usize, usize),
    hidden: *const f32,
    /// False at the first step, where the state is zero.
    has_hidden: bool,
    cells: *mut f32,
    out: *mut f32,
    stride: usize,
}

impl<'a> Step<'a> {
    fn block(self, block: usize) -> Block<'a> {
        Block { step: self, block }
    }
}

struct Block<'a> {
    step: Step<'a>,
    block: usize,
}

impl Tile for Block<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, const M: usize>(&self, first: usize) {
        let s = &self.step;
        let wide = 4 * V::LANES;
        let depth = s.layer.input + s.layer.hidden;
        // SAFETY: rows `first .. first + M` exist in every buffer, `block` in the weights.
        unsafe {
            let start_at = s.start.add(first * s.start_row + self.block * wide);
            let mut sums = start::<V, M>(start_at, s.start_row);
            let weights = s.layer.weights.ptr().add(self.block * depth * wide);
            let (input, row, count) = s.input;
            accumulate::<V, M>(&mut sums, count, (input.add(first * row), row, 1), (weights, wide));
            if s.has_hidden {
                let hidden = s.hidden.add(first * s.stride);
                let weights = weights.add(s.layer.input * wide);
                accumulate::<V, M>(&mut sums, s.layer.hidden, (hidden, s.stride, 1), (weights, wide));
            }
            // Through memory on purpose: indexing the tile in a loop would keep it out of registers
            // above, where it matters.
            let mut tile = Spill::new();
            store(&sums, tile.ptr(), wide);
            for m in 0..M {
                let at = (first + m) * s.stride + self.block * V::LANES;
                let (c, h) = cell(tile.row::<V>(m), V::load(s.cells.add(at)));
                c.store(s.cells.add(at));
                h.store(s.out.add(at));
            }
        }
    }
}
