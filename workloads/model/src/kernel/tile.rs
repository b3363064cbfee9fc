//! The one inner loop: a tile of `M` rows by four vectors of sums.

use std::mem::MaybeUninit;

use super::vector::Vector;

/// Adds `depth` products to a tile: `sums[m][g] += a[m * row + k * step] * b[k * stride + g * LANES]`.
///
/// # Safety
/// As [`Vector`]; the pointers reach as far as the formula.
#[inline(always)]
pub(super) unsafe fn accumulate<V: Vector, const M: usize>(
    sums: &mut [[V; 4]; M],
    depth: usize,
    (a, row, step): (*const f32, usize, usize),
    (b, stride): (*const f32, usize),
) {
    // SAFETY: every address is one of the formula's.
    unsafe {
        let mut k = 0;
        while k < depth {
            let b = b.add(k * stride);
            let weights: [V; 4] =
                [V::load(b), V::load(b.add(V::LANES)), V::load(b.add(2 * V::LANES)), V::load(b.add(3 * V::LANES))];
            let mut m = 0;
            while m < M {
                let x = V::splat(*a.add(m * row + k * step));
                sums[m][0] = x.fma(weights[0], sums[m][0]);
                sums[m][1] = x.fma(weights[1], sums[m][1]);
                sums[m][2] = x.fma(weights[2], sums[m][2]);
                sums[m][3] = x.fma(weights[3], sums[m][3]);
                m += 1;
            }
            k += 1;
        }
    }
}

/// Loads a tile of sums to start from; rows `row` apart (0: the same for all, as a bias is).
///
/// # Safety
/// As [`accumulate`].
#[inline(always)]
pub(super) unsafe fn start<V: Vector, const M: usize>(from: *const f32, row: usize) -> [[V; 4]; M] {
    // SAFETY: the caller promises `M` rows of four vectors.
    unsafe {
        let mut sums = [[V::splat(0.0); 4]; M];
        let mut m = 0;
        while m < M {
            let mut g = 0;
            while g < 4 {
                sums[m][g] = V::load(from.add(m * row + g * V::LANES));
                g += 1;
            }
            m += 1;
        }
        sums
    }
}

/// # Safety
/// As [`accumulate`].
#[inline(always)]
pub(super) unsafe fn store<V: Vector, const M: usize>(sums: &[[V; 4]; M], to: *mut f32, row: usize) {
    // SAFETY: the caller promises `M` rows of four vectors.
    unsafe {
        let mut m = 0;
        while m < M {
            let mut g = 0;
            while g < 4 {
                sums[m][g].store(to.add(m * row + g * V::LANES));
                g += 1;
            }
            m += 1;
        }
    }
}

/// Room for the largest tile of any instruction set, on the stack.
#[repr(C, align(64))]
pub(super) struct Spill(MaybeUninit<[f32; 6 * 4 * 16]>);

impl Spill {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline(always)]
    pub(super) fn ptr(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }

    /// The four vectors of row `m`.
    ///
    /// # Safety
    /// As [`Vector`]; the row was stored, rows `4 x LANES` apart.
    #[inline(always)]
    pub(super) unsafe fn row<V: Vector>(&self, m: usize) -> [V; 4] {
        // SAFETY: as promised by the caller.
        unsafe {
            let at = self.0.as_ptr().cast::<f32>().add(m * 4 * V::LANES);
            [V::load(at), V::load(at.add(V::LANES)), V::load(at.add(2 * V::LANES)), V::load(at.add(3 * V::LANES))]
        }
    }
}

/// Work on a tile whose height the compiler knows.
pub(super) trait Tile {
    /// # Safety
    /// As [`Vector`]; rows `first .. first + M` exist.
    unsafe fn run<V: Vector, const M: usize>(&self, first: usize);
}

/// Runs `work` over `rows` rows in tiles as equal as possible, none higher than `V::ROWS`.
///
/// # Safety
/// As [`Tile::run`].
#[inline(always)]
pub(super) unsafe fn tiles<V: Vector, T: Tile>(work: &T, rows: usize) {
    let count = rows.div_ceil(V::ROWS);
    let mut first = 0;
    for tile in 0..count {
        let height = (rows - first).div_ceil(count - tile);
        // SAFETY: `first + height <= rows`.
        unsafe {
            match height {
                1 => work.run::<V, 1>(first),
                2 => work.run::<V, 2>(first),
                3 => work.run::<V, 3>(first),
                4 => work.run::<V, 4>(first),
                5 => work.run::<V, 5>(first),
                _ => work.run::<V, 6>(first),
            }
        }
        first += height;
    }
}
