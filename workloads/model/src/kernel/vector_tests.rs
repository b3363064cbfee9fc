//! Measured error of the approximations, over the whole range where they are used.
#![allow(clippy::unwrap_used)]

use super::vector::{GATE_SCALE, Vector, cell, cell_parts};

fn lanes<V: Vector>(x: V) -> Vec<f32> {
    let mut out = vec![0.0; V::LANES];
    // SAFETY: only instruction sets of this machine get here (see `on_every_set`).
    unsafe { x.store(out.as_mut_ptr()) };
    out
}

/// Runs a generic check on every instruction set of this machine.
macro_rules! on_every_set {
    ($check:ident) => {{
        $check::<super::portable::Plain>();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                $check::<super::x86::Avx2>();
            }
            if is_x86_feature_detected!("avx512f") {
                $check::<super::x86::Avx512>();
            }
        }
    }};
}

fn exp2_error<V: Vector>() {
    let mut worst = 0.0f64;
    for step in 0..=1_000_000 {
        let x = -60.0 + step as f32 * 1e-4;
        // SAFETY: see `on_every_set`.
        let got = f64::from(lanes(unsafe { V::splat(x).exp2() })[0]);
        let want = f64::from(x).exp2();
        worst = worst.max(((got - want) / want).abs());
    }
    assert!(worst < 2.5e-7, "{}: {worst:e}", std::any::type_name::<V>());
    for (x, low, high) in [(-1e30f32, 0.0f32, 1.2e-38), (-200.0, 0.0, 1.2e-38), (127.0, 1.7e38, 1.8e38)] {
        // SAFETY: see `on_every_set`.
        let got = lanes(unsafe { V::splat(x).exp2() })[0];
        assert!((low..=high).contains(&got), "2^{x} = {got:e}");
    }
    // SAFETY: see `on_every_set`.
    assert!(lanes(unsafe { V::splat(f32::NAN).exp2() })[0].is_nan());
}

/// `2^x` is within 2.5e-7 of the truth, relatively, from 2^-60 to 2^40.
#[test]
fn powers_of_two() {
    on_every_set!(exp2_error);
}

fn cell_error<V: Vector>() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (mut worst, mut apart) = (0.0f64, 0.0f64);
    let points = [-90.0f32, -30.0, -12.0, -6.0, -2.5, -0.7, -1e-3, 0.0, 1e-4, 0.3, 1.9, 5.0, 11.0, 40.0, 90.0];
    for i in points {
        for o in points {
            for f in points {
                for g in points {
                    for c in [-20.0f32, -1.3, 0.0, 0.4, 25.0] {
                        let x = [i, o, f, g].map(f64::from);
                        let new = sigmoid(x[2]) * f64::from(c) + sigmoid(x[0]) * x[3].tanh();
                        let h = sigmoid(x[1]) * new.tanh();
                        let raw = [i, o, f, g];
                        // SAFETY: see `on_every_set`.
                        let ((c1, h1), (parts, c2, tanh)) = unsafe {
                            let scaled = std::array::from_fn(|n| V::splat(raw[n] * GATE_SCALE[n]));
                            (cell(scaled, V::splat(c)), cell_parts(raw.map(|x| V::splat(x)), V::splat(c)))
                        };
                        let h2 = lanes(parts[1])[0] * lanes(tanh)[0];
                        let size = new.abs().max(1.0);
                        worst = worst
                            .max((f64::from(lanes(c1)[0]) - new).abs() / size)
                            .max((f64::from(lanes(h1)[0]) - h).abs());
                        apart = apart.max((f64::from(lanes(c2)[0]) - new).abs() / size).max((f64::from(h2) - h).abs());
                    }
                }
            }
        }
    }
    assert!(worst < 2e-6, "{}: {worst:e}", std::any::type_name::<V>());
    assert!(apart < 2e-6, "{}: {apart:e}", std::any::type_name::<V>());
}

/// One cell step is within 2e-6 of the truth, gates from -90 to 90. (The bound is set by the sums,
/// which are f32: at 30 one rounding is already 2e-6 of a power.)
#[test]
fn cell_step() {
    on_every_set!(cell_error);
}
