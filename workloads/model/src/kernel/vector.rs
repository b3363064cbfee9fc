//! A row of `f32` lanes, one implementation per instruction set, and the arithmetic of an LSTM cell
//! on it.

use std::f32::consts::LOG2_E;

/// Exponents above it are cut: three factors of `1 + 2^40` still fit into `f32`, and a sigmoid this
/// far out differs from 0 by less than 1e-12.
const HIGHEST: f32 = 40.0;

/// Minimax coefficients of `2^r` on [-0.5, 0.5], highest power first, least relative error: 1.6e-7
/// after rounding to `f32` (measured end to end in `vector_tests`).
pub(super) const EXP2: [f32; 6] =
    [0.001_327_647_1, 0.009_675_542, 0.055_507_13, 0.240_221_2, 0.693_146_94, 1.000_000_1];

/// # Safety
/// Of every method: the instruction set of the implementation must be available. `load` and `store`
/// touch `LANES` numbers from the pointer on.
pub(super) trait Vector: Copy {
    const LANES: usize;
    /// Rows of a tile: `4 x ROWS` sums, four weights and one broadcast must fit into registers.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + plus`, fused where the machine can.
    unsafe fn fma(self, factor: Self, plus: Self) -> Self;
    /// The smaller of both; NaN when `self` is NaN.
    unsafe fn at_most(self, high: Self) -> Self;
    /// `2^self` for `self <= 127`; NaN stays NaN; 0 (or nearly) far below.
    unsafe fn exp2(self) -> Self;
    unsafe fn sqrt(self) -> Self;

    /// Sum of all lanes, always in the same order.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0.0f32; 16];
        // SAFETY: no implementation has more than 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes[..Self::LANES].iter().sum()
    }
}

/// What the four pre-activations are multiplied with so that `2^y` is what the cell needs:
/// `exp(-x)` for the three sigmoids, `exp(-2x)` for the tanh.
pub(super) const GATE_SCALE: [f32; 4] = [-LOG2_E, -LOG2_E, -LOG2_E, -2.0 * LOG2_E];

/// `2^y`, cut at the top.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn power<V: Vector>(y: V) -> V {
    // SAFETY: the caller has the instruction set.
    unsafe { y.at_most(V::splat(HIGHEST)).exp2() }
}

/// One step of an LSTM cell: (new cell state, new hidden state) from the four sums scaled by
/// [`GATE_SCALE`]. The five activations share two divisions instead of taking one each.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn cell<V: Vector>(gates: [V; 4], c: V) -> (V, V) {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let one = V::splat(1.0);
        let [i, o, f, g] = gates;
        let (i, o, f, g) = (one.add(power(i)), one.add(power(o)), one.add(power(f)), power(g));
        // c s(f) + s(i) tanh(g) = c / f + (1 - g) / (i (1 + g)), over one denominator.
        let ig = i.mul(one.add(g));
        let top = c.fma(ig, one.sub(g).mul(f));
        let c = top.div(f.mul(ig));
        let e = power(c.mul(V::splat(GATE_SCALE[3])));
        let h = one.sub(e).div(o.mul(one.add(e)));
        (c, h)
    }
}

/// The same with every activation kept: (input, output, forget, candidate, new cell state, its tanh).
/// The sums are not scaled here: training keeps the weights as they are.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn cell_parts<V: Vector>(gates: [V; 4], c: V) -> ([V; 4], V, V) {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let one = V::splat(1.0);
        let half = |x: V, scale: f32| power(x.mul(V::splat(scale)));
        let [i, o, f, g] = gates;
        let i = one.div(one.add(half(i, GATE_SCALE[0])));
        let o = one.div(one.add(half(o, GATE_SCALE[1])));
        let f = one.div(one.add(half(f, GATE_SCALE[2])));
        let e = half(g, GATE_SCALE[3]);
        let g = one.sub(e).div(one.add(e));
        let c = f.fma(c, i.mul(g));
        let e = half(c, GATE_SCALE[3]);
        let tanh = one.sub(e).div(one.add(e));
        ([i, o, f, g], c, tanh)
    }
}
