//! Forward with everything kept, backward through time, and the optimiser's step.

use super::buffer::Buffer;
use super::layout::{Layout, Place};
use super::tile::{Spill, Tile, accumulate, start, store, tiles};
use super::vector::{Vector, cell_parts};

/// One thread's part of a batch: its activations and its gradient.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    rows: usize,
    /// `[step][row][feature]`, scaled.
    pub(crate) inputs: Buffer,
    /// `[row]`, shares of the cap.
    pub(crate) targets: Vec<f32>,
    layers: Vec<Kept>,
    /// Gradient of what a layer was given at the step being worked on, `[row][stride]`.
    below: Buffer,
    /// Gradient of the sums of the gates at that step, `[row][gates]`.
    gates: Buffer,
    pub(crate) gradient: Buffer,
}

/// What the backward pass needs of one layer.
#[derive(Debug, Default)]
struct Kept {
    /// `[step][row][gates]`: input, output, forget, candidate.
    gates: Buffer,
    /// `[step][row][stride]`.
    cells: Buffer,
    tanh: Buffer,
    states: Buffer,
    /// What is handed on: the states times the mask. Empty without dropout.
    dropped: Buffer,
    /// `[row][stride]`: 0 or one over the share that is kept. Empty without dropout.
    mask: Buffer,
    /// Gradients that flow from one step to the one before, `[row][stride]`.
    cell_back: Buffer,
    state_back: Buffer,
}

/// Weights turned round for the backward pass: for every tile of incoming numbers, one row per gate.
#[derive(Debug, Default)]
pub(crate) struct Transposed {
    /// Per layer: input side (empty for the first layer, whose input needs no gradient), hidden side.
    sides: Vec<[Buffer; 2]>,
}

impl Transposed {
    pub(crate) fn update(&mut self, layout: &Layout, values: &[f32]) {
        let tile = 4 * layout.lanes;
        self.sides.resize_with(layout.layers.len(), Default::default);
        for (index, (place, sides)) in layout.layers.iter().zip(&mut self.sides).enumerate() {
            let gates = place.blocks * tile;
            for (side, buffer) in sides.iter_mut().enumerate() {
                let (from, count) = [(0, place.input), (place.input, place.hidden)][side];
                if side == 0 && index == 0 {
                    continue;
                }
                buffer.grow(count.div_ceil(tile) * tile * gates);
                for block in 0..place.blocks {
                    for k in 0..count {
                        let row = place.weights + (block * place.depth() + from + k) * tile;
                        let to = (k / tile) * gates * tile + k % tile + block * tile * tile;
                        for (column, w) in values[row..row + tile].iter().enumerate() {
                            buffer[to + column * tile] = *w;
                        }
                    }
                }
            }
        }
    }
}

impl Shard {
    /// Makes room for `rows` windows.
    pub(crate) fn resize(&mut self, layout: &Layout, rows: usize, dropout: bool) {
        self.rows = rows;
        self.targets.resize(rows, 0.0);
        let all = layout.window * rows;
        self.inputs.grow(all * layout.features);
        self.below.grow(rows * layout.stride);
        self.gradient.grow(layout.len);
        self.layers.resize_with(layout.layers.len(), Kept::default);
        for (place, kept) in layout.layers.iter().zip(&mut self.layers) {
            let gates = place.blocks * 4 * layout.lanes;
            self.gates.grow(rows * gates);
            kept.gates.grow(all * gates);
            for buffer in [&mut kept.cells, &mut kept.tanh, &mut kept.states] {
                buffer.grow(all * layout.stride);
            }
            for buffer in [&mut kept.cell_back, &mut kept.state_back] {
                buffer.grow(rows * layout.stride);
            }
            if dropout {
                kept.dropped.grow(all * layout.stride);
                kept.mask.grow(rows * layout.stride);
            }
        }
    }

    /// The masks of every layer, `rows x stride` each; empty when made without dropout.
    pub(crate) fn masks(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.layers.iter_mut().map(|kept| &mut *kept.mask)
    }

    /// Forward and backward over this shard. The gradient is that of `sum(error^2) / (2 x total)`;
    /// returns the sum of squared errors. A prediction beyond the cap of a capped target is right:
    /// it will be clipped.
    ///
    /// # Safety
    /// The instruction set of `V` is available and is the layout's; `values` has the layout's
    /// length; the shard was resized for the layout; `transposed` was updated from `values`.
    #[inline(always)]
    pub(super) unsafe fn pass<V: Vector>(
        &mut self,
        layout: &Layout,
        values: &Buffer,
        transposed: &Transposed,
        total: usize,
    ) -> f64 {
        self.gradient.fill(0.0);
        // SAFETY: handed on.
        unsafe {
            self.forward::<V>(layout, values);
            let loss = self.head::<V>(layout, values, total);
            self.backward::<V>(layout, transposed);
            loss
        }
    }

    /// # Safety
    /// As [`Shard::pass`].
    #[inline(always)]
    unsafe fn forward<V: Vector>(&mut self, layout: &Layout, values: &Buffer) {
        let (rows, stride) = (self.rows, layout.stride);
        for step in 0..layout.window {
            // SAFETY: `resize` made every buffer large enough for all steps and rows.
            unsafe {
                let mut from = (self.inputs.ptr().add(step * rows * layout.features), layout.features);
                for (place, kept) in layout.layers.iter().zip(&mut self.layers) {
                    let gates = place.blocks * 4 * V::LANES;
                    let at = step * rows * stride;
                    let before = at.wrapping_sub(rows * stride);
                    let drops = !kept.mask.is_empty();
                    let mut work = Forward {
                        place,
                        weights: values.ptr().add(place.weights),
                        bias: values.ptr().add(place.bias),
                        input: from,
                        first: step == 0,
                        hidden: kept.states.ptr().wrapping_add(before),
                        old_cells: kept.cells.ptr().wrapping_add(before),
                        gates: (kept.gates.ptr_mut().add(step * rows * gates), gates),
                        cells: kept.cells.ptr_mut().add(at),
                        tanh: kept.tanh.ptr_mut().add(at),
                        states: kept.states.ptr_mut().add(at),
                        dropped: drops.then(|| (kept.dropped.ptr_mut().add(at), kept.mask.ptr())),
                        stride,
                        block: 0,
                    };
                    for block in 0..place.blocks {
                        work.block = block;
                        tiles::<V, _>(&work, rows);
                    }
                    let on = if drops { &kept.dropped } else { &kept.states };
                    from = (on.ptr().add(at), stride);
                }
            }
        }
    }

    /// The linear layer, the loss, and their gradients; leaves in `below` what the last layer's
    /// output owes.
    ///
    /// # Safety
    /// As [`Shard::pass`].
    #[inline(always)]
    unsafe fn head<V: Vector>(&mut self, layout: &Layout, values: &Buffer, total: usize) -> f64 {
        let stride = layout.stride;
        let Some((place, kept)) = layout.layers.last().zip(self.layers.last()) else {
            return 0.0;
        };
        let on = if kept.mask.is_empty() { &kept.states } else { &kept.dropped };
        let width = place.blocks * V::LANES;
        let mut loss = 0.0;
        for row in 0..self.rows {
            // SAFETY: the last step's rows and the head are at least `width` numbers, whole vectors.
            unsafe {
                let h = on.ptr().add(((layout.window - 1) * self.rows + row) * stride);
                let head = values.ptr().add(layout.head);
                let head_gradient = self.gradient.ptr_mut().add(layout.head);
                let mut sum = V::splat(0.0);
                for k in (0..width).step_by(V::LANES) {
                    sum = V::load(h.add(k)).fma(V::load(head.add(k)), sum);
                }
                let (y, target) = (sum.sum() + values[layout.bias], self.targets[row]);
                let clipped = (target >= 1.0 && y > 1.0) || (target <= 0.0 && y < 0.0);
                let error = if clipped { 0.0 } else { y - target };
                loss += f64::from(error) * f64::from(error);
                let slope = error / total as f32;
                let slopes = V::splat(slope);
                for k in (0..width).step_by(V::LANES) {
                    let to = head_gradient.add(k);
                    V::load(h.add(k)).fma(slopes, V::load(to)).store(to);
                    let below = self.below.ptr_mut().add(row * stride + k);
                    V::load(head.add(k)).mul(slopes).store(below);
                }
                self.gradient[layout.bias] += slope;
            }
        }
        loss
    }

    /// # Safety
    /// As [`Shard::pass`].
    #[inline(always)]
    unsafe fn backward<V: Vector>(&mut self, layout: &Layout, transposed: &Transposed) {
        let (rows, stride) = (self.rows, layout.stride);
        for kept in &mut self.layers {
            kept.cell_back[..rows * stride].fill(0.0);
            kept.state_back[..rows * stride].fill(0.0);
        }
        for step in (0..layout.window).rev() {
            for (index, place) in layout.layers.iter().enumerate().rev() {
                let top = index + 1 == layout.layers.len();
                // Above the last layer only its last step counts.
                let owed = !top || step + 1 == layout.window;
                // SAFETY: `resize` made every buffer large enough for all steps and rows.
                unsafe {
                    self.cell_gradient::<V>(layout, index, step, owed);
                    let gates = place.blocks * 4 * V::LANES;
                    let (given, given_row) = if index == 0 {
                        (self.inputs.ptr().add(step * rows * layout.features), layout.features)
                    } else {
                        let kept = &self.layers[index - 1];
                        let on = if kept.mask.is_empty() { &kept.states } else { &kept.dropped };
                        (on.ptr().add(step * rows * stride), stride)
                    };
                    let mut weights = WeightGradient {
                        gradient: self.gradient.ptr_mut().add(place.weights),
                        depth: place.depth(),
                        from: 0,
                        given,
                        given_row,
                        gates: (self.gates.ptr(), gates),
                        rows,
                        block: 0,
                    };
                    let mut turned = InputGradient {
                        gates: (self.gates.ptr(), gates),
                        weights: std::ptr::null(),
                        to: std::ptr::null_mut(),
                        stride,
                        tile: 0,
                    };
                    for block in 0..place.blocks {
                        weights.block = block;
                        tiles::<V, _>(&weights, place.input);
                    }
                    if step > 0 {
                        let kept = &mut self.layers[index];
                        weights.from = place.input;
                        weights.given = kept.states.ptr().add((step - 1) * rows * stride);
                        weights.given_row = stride;
                        for block in 0..place.blocks {
                            weights.block = block;
                            tiles::<V, _>(&weights, place.hidden);
                        }
                        turned.weights = transposed.sides[index][1].ptr();
                        turned.to = kept.state_back.ptr_mut();
                        turned.all::<V>(place.hidden, rows);
                    }
                    if index > 0 {
                        turned.weights = transposed.sides[index][0].ptr();
                        turned.to = self.below.ptr_mut();
                        turned.all::<V>(place.input, rows);
                    }
                }
            }
        }
    }

    /// From the gradient of a layer's output at `step` to that of its gates' sums (into `gates`) and
    /// of its bias.
    ///
    /// # Safety
    /// As [`Shard::pass`].
    #[inline(always)]
    unsafe fn cell_gradient<V: Vector>(&mut self, layout: &Layout, index: usize, step: usize, owed: bool) {
        let (rows, stride) = (self.rows, layout.stride);
        let place = &layout.layers[index];
        let kept = &mut self.layers[index];
        let wide = 4 * V::LANES;
        let gates = place.blocks * wide;
        let drops = !kept.mask.is_empty();
        // SAFETY: every address is inside what `resize` made room for.
        unsafe {
            let one = V::splat(1.0);
            for block in 0..place.blocks {
                let bias = self.gradient.ptr_mut().add(place.bias + block * wide);
                let mut sums = start::<V, 1>(bias, 0);
                for row in 0..rows {
                    let at = row * stride + block * V::LANES;
                    let kept_at = step * rows * stride + at;
                    let kept_gates = kept.gates.ptr().add((step * rows + row) * gates + block * wide);
                    let [i, o, f, g] = start::<V, 1>(kept_gates, 0)[0];
                    let tanh = V::load(kept.tanh.ptr().add(kept_at));
                    let mut dh = V::load(kept.state_back.ptr().add(at));
                    if owed {
                        let above = V::load(self.below.ptr().add(at));
                        dh = if drops { above.fma(V::load(kept.mask.ptr().add(at)), dh) } else { above.add(dh) };
                    }
                    let cell_back = kept.cell_back.ptr_mut().add(at);
                    let through = one.sub(tanh.mul(tanh));
                    let dc = dh.mul(o).fma(through, V::load(cell_back));
                    dc.mul(f).store(cell_back);
                    let old =
                        if step > 0 { V::load(kept.cells.ptr().add(kept_at - rows * stride)) } else { V::splat(0.0) };
                    let sums_of = [
                        dc.mul(g).mul(i.mul(one.sub(i))),
                        dh.mul(tanh).mul(o.mul(one.sub(o))),
                        dc.mul(old).mul(f.mul(one.sub(f))),
                        dc.mul(i).mul(one.sub(g.mul(g))),
                    ];
                    let to = self.gates.ptr_mut().add(row * gates + block * wide);
                    store(&[sums_of], to, 0);
                    for (sum, x) in sums[0].iter_mut().zip(sums_of) {
                        *sum = sum.add(x);
                    }
                }
                store(&sums, bias, 0);
            }
        }
    }
}

/// One step of one block of one layer.
struct Forward<'a> {
    place: &'a Place,
    weights: *const f32,
    bias: *const f32,
    input: (*const f32, usize),
    /// At the first step there is no state yet.
    first: bool,
    hidden: *const f32,
    old_cells: *const f32,
    gates: (*mut f32, usize),
    cells: *mut f32,
    tanh: *mut f32,
    states: *mut f32,
    /// Where to put the state times the mask, and the mask.
    dropped: Option<(*mut f32, *const f32)>,
    stride: usize,
    block: usize,
}

impl Tile for Forward<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, const M: usize>(&self, first: usize) {
        let wide = 4 * V::LANES;
        // SAFETY: rows `first .. first + M` exist in every buffer.
        unsafe {
            let weights = self.weights.add(self.block * self.place.depth() * wide);
            let mut sums = start::<V, M>(self.bias.add(self.block * wide), 0);
            let (input, row) = self.input;
            let input = (input.add(first * row), row, 1);
            accumulate::<V, M>(&mut sums, self.place.input, input, (weights, wide));
            if !self.first {
                let hidden = (self.hidden.add(first * self.stride), self.stride, 1);
                let weights = (weights.add(self.place.input * wide), wide);
                accumulate::<V, M>(&mut sums, self.place.hidden, hidden, weights);
            }
            let mut tile = Spill::new();
            store(&sums, tile.ptr(), wide);
            for m in 0..M {
                let at = (first + m) * self.stride + self.block * V::LANES;
                let old = if self.first { V::splat(0.0) } else { V::load(self.old_cells.add(at)) };
                let (gates, c, tanh) = cell_parts(tile.row::<V>(m), old);
                let (to, row) = self.gates;
                store(&[gates], to.add((first + m) * row + self.block * wide), 0);
                c.store(self.cells.add(at));
                tanh.store(self.tanh.add(at));
                let h = gates[1].mul(tanh);
                h.store(self.states.add(at));
                if let Some((to, mask)) = self.dropped {
                    h.mul(V::load(mask.add(at))).store(to.add(at));
                }
            }
        }
    }
}

/// Adds one step's share to the gradient of the weights of one block; a tile's rows are incoming
/// numbers.
struct WeightGradient {
    gradient: *mut f32,
    depth: usize,
    /// First incoming number: 0 for the input side, after it for the hidden side.
    from: usize,
    given: *const f32,
    given_row: usize,
    gates: (*const f32, usize),
    rows: usize,
    block: usize,
}

impl Tile for WeightGradient {
    #[inline(always)]
    unsafe fn run<V: Vector, const M: usize>(&self, first: usize) {
        let wide = 4 * V::LANES;
        // SAFETY: incoming numbers `first .. first + M` exist in every row and in the gradient.
        unsafe {
            let to = self.gradient.add((self.block * self.depth + self.from + first) * wide);
            let mut sums = start::<V, M>(to, wide);
            let (gates, row) = self.gates;
            accumulate::<V, M>(
                &mut sums,
                self.rows,
                (self.given.add(first), 1, self.given_row),
                (gates.add(self.block * wide), row),
            );
            store(&sums, to, wide);
        }
    }
}

/// The gradient of what was given, for one tile of incoming numbers.
struct InputGradient {
    gates: (*const f32, usize),
    weights: *const f32,
    to: *mut f32,
    stride: usize,
    tile: usize,
}

impl InputGradient {
    /// # Safety
    /// As [`Shard::pass`]; the pointers are set for `count` incoming numbers.
    #[inline(always)]
    unsafe fn all<V: Vector>(&mut self, count: usize, rows: usize) {
        for tile in 0..count.div_ceil(4 * V::LANES) {
            self.tile = tile;
            // SAFETY: as promised by the caller.
            unsafe { tiles::<V, _>(self, rows) };
        }
    }
}

impl Tile for InputGradient {
    #[inline(always)]
    unsafe fn run<V: Vector, const M: usize>(&self, first: usize) {
        let wide = 4 * V::LANES;
        // SAFETY: rows `first .. first + M` exist; `stride` is whole tiles.
        unsafe {
            let (gates, row) = self.gates;
            let mut sums = [[V::splat(0.0); 4]; M];
            accumulate::<V, M>(
                &mut sums,
                row,
                (gates.add(first * row), row, 1),
                (self.weights.add(self.tile * row * wide), wide),
            );
            store(&sums, self.to.add(first * self.stride + self.tile * wide), self.stride);
        }
    }
}

/// Adam's state and the running average, one number each per parameter.
#[derive(Debug, Clone)]
pub(crate) struct Adam {
    pub(crate) values: Buffer,
    pub(crate) average: Buffer,
    first: Buffer,
    second: Buffer,
    decayed: Buffer,
    steps: i32,
}

/// What one step of Adam uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub learning_rate: f32,
    pub weight_decay: f32,
    /// The gradient is multiplied with it (norm clipping).
    pub gradient: f32,
    /// Decay of the running average.
    pub average: f32,
}

impl Adam {
    pub(crate) fn new(layout: &Layout, values: Buffer) -> Self {
        Self {
            average: values.clone(),
            first: Buffer::zeros(layout.len),
            second: Buffer::zeros(layout.len),
            decayed: layout.decayed(),
            values,
            steps: 0,
        }
    }

    /// # Safety
    /// The instruction set of `V` is available; `gradient` is as long as the values.
    #[inline(always)]
    pub(super) unsafe fn step<V: Vector>(&mut self, gradient: &Buffer, rates: Rates) {
        const B1: f32 = 0.9;
        const B2: f32 = 0.999;
        self.steps = self.steps.saturating_add(1);
        let fix1 = 1.0 - f64::from(B1).powi(self.steps);
        let fix2 = (1.0 - f64::from(B2).powi(self.steps)).sqrt();
        // Early on the average follows more closely, or it would remember the random start.
        let steps = self.steps as f32;
        let keep = rates.average.min((1.0 + steps) / (10.0 + steps));
        // SAFETY: all buffers are as long as the values, a whole number of vectors.
        unsafe {
            let rate = V::splat((f64::from(rates.learning_rate) * fix2 / fix1) as f32);
            let decay = V::splat(-rates.learning_rate * rates.weight_decay);
            let epsilon = V::splat((1e-8 * fix2) as f32);
            let factor = V::splat(rates.gradient);
            let (b1, n1, n2) = (V::splat(B1), V::splat(1.0 - B1), V::splat(1.0 - B2));
            let (b2, follow) = (V::splat(B2), V::splat(1.0 - keep));
            for at in (0..self.values.len()).step_by(V::LANES) {
                let w = self.values.ptr_mut().add(at);
                let m = self.first.ptr_mut().add(at);
                let v = self.second.ptr_mut().add(at);
                let a = self.average.ptr_mut().add(at);
                let g = V::load(gradient.ptr().add(at)).mul(factor);
                let first = V::load(m).fma(b1, g.mul(n1));
                let second = V::load(v).fma(b2, g.mul(g).mul(n2));
                first.store(m);
                second.store(v);
                let old = V::load(w);
                let decayed = V::load(self.decayed.ptr().add(at)).mul(decay).fma(old, old);
                let new = decayed.sub(rate.mul(first).div(second.sqrt().add(epsilon)));
                new.store(w);
                let average = V::load(a);
                new.sub(average).fma(follow, average).store(a);
            }
        }
    }
}
