//! AVX2 with FMA, and AVX-512.

use std::arch::x86_64::*;

use super::vector::{EXP2, Vector};

#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

// SAFETY of every block below: the caller of a `Vector` method has the instruction set, and
// promises the memory behind the pointers of `load` and `store`.
macro_rules! lanes {
    ($name:ident, $lanes:expr, $rows:expr, $splat:ident, $load:ident, $store:ident, $add:ident,
     $sub:ident, $mul:ident, $div:ident, $fma:ident, $min:ident, $sqrt:ident, $exp2:expr) => {
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Vector for $name {
            const LANES: usize = $lanes;
            const ROWS: usize = $rows;

            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                Self(unsafe { $splat(x) })
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                Self(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                Self(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                Self(unsafe { $sub(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn mul(self, other: Self) -> Self {
                Self(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn div(self, other: Self) -> Self {
                Self(unsafe { $div(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn fma(self, factor: Self, plus: Self) -> Self {
                Self(unsafe { $fma(self.0, factor.0, plus.0) })
            }
            #[inline(always)]
            unsafe fn at_most(self, high: Self) -> Self {
                // The instruction returns its second operand when one is NaN.
                Self(unsafe { $min(high.0, self.0) })
            }
            #[inline(always)]
            unsafe fn exp2(self) -> Self {
                unsafe { $exp2(self) }
            }
            #[inline(always)]
            unsafe fn sqrt(self) -> Self {
                Self(unsafe { $sqrt(self.0) })
            }
        }
    };
}

lanes!(
    Avx2,
    8,
    3,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_div_ps,
    _mm256_fmadd_ps,
    _mm256_min_ps,
    _mm256_sqrt_ps,
    exp2_avx2
);
lanes!(
    Avx512,
    16,
    6,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_div_ps,
    _mm512_fmadd_ps,
    _mm512_min_ps,
    _mm512_sqrt_ps,
    exp2_avx512
);

/// # Safety
/// Needs AVX2 and FMA.
#[inline(always)]
unsafe fn exp2_avx2(x: Avx2) -> Avx2 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    // SAFETY: as promised by the caller.
    unsafe {
        // Below this the exponent field would wrap. NaN comes through, it is the second operand.
        let x = _mm256_max_ps(_mm256_set1_ps(-126.0), x.0);
        let n = _mm256_round_ps::<NEAREST>(x);
        let r = _mm256_sub_ps(x, n);
        let mut p = _mm256_set1_ps(EXP2[0]);
        for c in &EXP2[1..] {
            p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(*c));
        }
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
        Avx2(_mm256_mul_ps(p, scale))
    }
}

/// # Safety
/// Needs AVX-512F.
#[inline(always)]
unsafe fn exp2_avx512(x: Avx512) -> Avx512 {
    // SAFETY: as promised by the caller.
    unsafe {
        let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x.0);
        let r = _mm512_sub_ps(x.0, n);
        let mut p = _mm512_set1_ps(EXP2[0]);
        for c in &EXP2[1..] {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
        }
        Avx512(_mm512_scalef_ps(p, n))
    }
}
