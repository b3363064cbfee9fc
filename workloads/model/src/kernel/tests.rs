#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{network, windows, with_regimes};

/// Every instruction set of this machine against the definition in `f64`, over shapes that fill
/// blocks and tiles and shapes that do not.
#[test]
fn every_instruction_set_agrees_with_the_definition() {
    for (seed, window, features, hidden) in
        [(1, 12, 16, &[64, 64][..]), (2, 7, 3, &[5]), (3, 12, 17, &[33, 20, 9]), (4, 1, 1, &[1]), (5, 9, 4, &[16, 48])]
    {
        let plain = network(seed, window, features, hidden);
        let regimes = with_regimes(seed, plain.clone(), 4);
        for (network, batch) in [1, 2, 5, 6, 7, 13, 50].into_iter().flat_map(|b| [(&plain, b), (&regimes, b)]) {
            let input = windows(seed, network, batch);
            let exact: Vec<f64> =
                input.chunks_exact(window * features).map(|w| network.forward_exact(w).unwrap()).collect();
            for set in InstructionSet::available() {
                let kernel = Kernel::with(network, set);
                let mut out = vec![0.0; batch];
                kernel.predict(&mut Workspace::default(), &input, &mut out);
                for (got, want) in out.iter().zip(&exact) {
                    let difference = (f64::from(*got) - want).abs();
                    assert!(difference < 1e-3, "{set:?} {hidden:?} batch {batch}: {got} instead of {want}");
                }
            }
        }
    }
}

/// A window with a NaN must not get a number that looks healthy, and must not spoil its neighbours.
#[test]
fn nan_stays_nan_in_its_own_window() {
    let network = network(6, 10, 5, &[20, 12]);
    for batch in [3, 14] {
        let mut input = windows(6, &network, batch);
        let clean = input.clone();
        input[50 + 22] = f32::NAN;
        for set in InstructionSet::available() {
            let kernel = Kernel::with(&network, set);
            let (mut got, mut want) = (vec![0.0; batch], vec![0.0; batch]);
            kernel.predict(&mut Workspace::default(), &input, &mut got);
            kernel.predict(&mut Workspace::default(), &clean, &mut want);
            assert!(got[1].is_nan(), "{set:?}: {}", got[1]);
            for i in (0..batch).filter(|i| *i != 1) {
                assert_eq!(got[i], want[i], "{set:?} window {i}");
            }
        }
    }
}

/// Infinite and huge inputs saturate the gates; the answer is a number in range or NaN, never junk.
#[test]
fn huge_inputs_saturate() {
    let network = network(7, 8, 3, &[18]);
    for set in InstructionSet::available() {
        let kernel = Kernel::with(&network, set);
        for size in [1e6f32, 1e20, 3e38] {
            let input: Vec<f32> = windows(7, &network, 9).iter().map(|x| x.signum() * size).collect();
            let mut out = vec![0.0; 9];
            kernel.predict(&mut Workspace::default(), &input, &mut out);
            for y in out {
                assert!((0.0..=125.0).contains(&y) || y.is_nan(), "{set:?}: {y}");
            }
        }
    }
}

/// A workspace that has seen a larger batch, or another network, gives the same bits.
#[test]
fn a_used_workspace_changes_nothing() {
    let (big, small) = (network(8, 20, 9, &[40, 40]), network(9, 11, 4, &[7, 19]));
    for set in InstructionSet::available() {
        let mut used = Workspace::default();
        let mut out = vec![0.0; 60];
        Kernel::with(&big, set).predict(&mut used, &windows(8, &big, 60), &mut out);
        for batch in [1, 13] {
            let input = windows(9, &small, batch);
            let (mut a, mut b) = (vec![0.0; batch], vec![0.0; batch]);
            let kernel = Kernel::with(&small, set);
            kernel.predict(&mut used, &input, &mut a);
            kernel.predict(&mut Workspace::default(), &input, &mut b);
            assert_eq!(a, b, "{set:?}");
        }
    }
}

/// Mean half squared error in `f64`, with each layer's output times its mask (one row only).
fn loss(network: &Network, masks: &[Vec<f32>], input: &[f32], targets: &[f32]) -> f64 {
    let mut network = network.clone();
    for (index, mask) in masks.iter().enumerate() {
        // A mask that is the same at every step is a factor on the weights above it.
        match network.layers.get_mut(index + 1) {
            Some(next) => {
                for row in next.w.chunks_exact_mut(next.input) {
                    row.iter_mut().zip(mask).for_each(|(w, m)| *w *= m);
                }
            }
            None => network.head.iter_mut().zip(mask).for_each(|(w, m)| *w *= m),
        }
    }
    let size = network.window * network.features();
    let sum: f64 = input
        .chunks_exact(size)
        .zip(targets)
        .map(|(w, t)| {
            let y = network.forward_exact(w).unwrap() / f64::from(network.cap);
            (y - f64::from(*t)).powi(2)
        })
        .sum();
    sum / (2 * targets.len()) as f64
}

/// The gradient of every parameter against central differences of the definition.
#[test]
fn gradients_agree_with_differences() {
    for (rows, dropout, hidden) in [(3, false, &[5, 4][..]), (1, true, &[5, 4]), (2, false, &[18])] {
        let mut network = network(10, 6, 3, hidden);
        network.scaler = crate::Scaler::identity(3);
        network.head.iter_mut().for_each(|w| *w *= 0.2);
        let input: Vec<f32> = windows(11, &network, rows);
        let targets: Vec<f32> = (0..rows).map(|i| 0.2 + 0.08 * i as f32).collect();
        for set in InstructionSet::available() {
            let layout = Layout::new(set, 6, 3, hidden);
            let values = layout.load(&network);
            let mut transposed = Transposed::default();
            transposed.update(&layout, &values);
            let mut shard = Shard::default();
            shard.resize(&layout, rows, dropout);
            shard.targets.copy_from_slice(&targets);
            for row in 0..rows {
                for step in 0..6 {
                    let from = &input[(row * 6 + step) * 3..][..3];
                    shard.inputs[(step * rows + row) * 3..][..3].copy_from_slice(from);
                }
            }
            let mut masks = Vec::new();
            for (mask, units) in shard.masks().zip(hidden) {
                mask.iter_mut().enumerate().for_each(|(i, m)| *m = [1.5, 0.0, 1.2][i % 3]);
                if dropout {
                    masks.push(mask[..*units].to_vec());
                }
            }
            let squares = shard.learn(&layout, &values, &transposed, rows);
            let exact = loss(&network, &masks, &input, &targets);
            assert!((squares / (2 * rows) as f64 - exact).abs() < 1e-6 * exact.max(1e-2));
            let at = |values: &[f32]| {
                let network = layout.network(values, &network.scaler, network.cap);
                loss(&network, &masks, &input, &targets)
            };
            let largest = shard.gradient.iter().fold(0.0f32, |a, g| a.max(g.abs()));
            assert!(largest > 1e-4, "nothing to compare");
            for i in 0..layout.len {
                let (mut up, mut down) = (values.clone(), values.clone());
                up[i] += 2e-3;
                down[i] -= 2e-3;
                let difference = (at(&up) - at(&down)) / f64::from(up[i] - down[i]);
                let got = f64::from(shard.gradient[i]);
                assert!(
                    (got - difference).abs() < 2e-5 * f64::from(largest) + 1e-3 * difference.abs(),
                    "{set:?} {hidden:?} parameter {i}: {got} instead of {difference}"
                );
            }
        }
    }
}

#[test]
fn a_layout_gives_back_what_it_took() {
    let network = network(12, 6, 3, &[19, 4]);
    for set in InstructionSet::available() {
        let layout = Layout::new(set, 6, 3, &[19, 4]);
        let back = layout.network(&layout.load(&network), &network.scaler, network.cap);
        assert_eq!(back.layers, network.layers, "{set:?}");
        for (a, b) in back.head.iter().zip(&network.head) {
            assert!((a - b).abs() <= 4.0 * f32::EPSILON * b.abs(), "{a} {b}");
        }
    }
}

/// Splitting a batch between threads must not change its gradient.
#[test]
fn a_gradient_is_the_sum_of_its_parts() {
    let hidden = [16usize];
    let mut network = network(13, 8, 3, &hidden);
    network.scaler = crate::Scaler::identity(3);
    network.head.iter_mut().for_each(|w| *w *= 0.2);
    let input = windows(14, &network, 32);
    for set in InstructionSet::available() {
        let layout = Layout::new(set, 8, 3, &hidden);
        let values = layout.load(&network);
        let mut transposed = Transposed::default();
        transposed.update(&layout, &values);
        let mut shard = Shard::default();
        let mut gradient = |from: usize, rows: usize| {
            shard.resize(&layout, rows, false);
            for row in 0..rows {
                shard.targets[row] = 0.03 * (from + row) as f32;
                for step in 0..8 {
                    let window = &input[((from + row) * 8 + step) * 3..][..3];
                    shard.inputs[(step * rows + row) * 3..][..3].copy_from_slice(window);
                }
            }
            shard.learn(&layout, &values, &transposed, 32);
            shard.gradient.to_vec()
        };
        let whole = gradient(0, 32);
        let parts = [gradient(0, 11), gradient(11, 11), gradient(22, 10)];
        for (i, want) in whole.iter().enumerate() {
            let got: f32 = parts.iter().map(|p| p[i]).sum();
            assert!((got - want).abs() < 1e-6, "{set:?} parameter {i}: {got} {want}");
        }
    }
}
