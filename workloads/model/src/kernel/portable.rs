//! Eight lanes in plain Rust, for machines without AVX2. The compiler vectorises it as it can.

use super::vector::{EXP2, Vector};

#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Plain {
    const LANES: usize = 8;
    const ROWS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises eight readable numbers.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises eight writable numbers.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, plus: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(plus, |ab, c| ab + c)
    }
    #[inline(always)]
    unsafe fn at_most(self, high: Self) -> Self {
        self.zip(high, |x, h| if x > h { h } else { x })
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        Self(self.0.map(|x| {
            let x = if x < -126.0 { -126.0 } else { x };
            // Adding and taking away 1.5 x 2^23 rounds to the nearest whole number.
            let n = (x + 12_582_912.0) - 12_582_912.0;
            let r = x - n;
            let p = EXP2[1..].iter().fold(EXP2[0], |p, c| p * r + c);
            p * f32::from_bits(((n as i32 + 127) as u32) << 23)
        }))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }
}
