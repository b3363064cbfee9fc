#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use super::*;
use crate::testing::{network, windows};
use crate::{Error, Model, Scaler};

const WINDOW: usize = 8;
const FEATURES: usize = 3;

/// A task with an answer: the cycles left are what the mean of the first column says.
fn task(count: usize) -> (Vec<f32>, Vec<f32>) {
    let mut rng = rng::Rng::new(3);
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let level = rng.unit();
        for _ in 0..WINDOW {
            inputs.extend([100.0 + 20.0 * level + rng.unit(), rng.unit(), 7.0]);
        }
        targets.push(150.0 * (1.0 - level));
    }
    (inputs, targets)
}

fn options() -> Options {
    Options {
        hidden: vec![16],
        epochs: 12,
        batch: 32,
        learning_rate: 1e-2,
        dropout: 0.0,
        input_noise: 0.0,
        input_offset: 0.0,
        weight_decay: 0.0,
        average: 0.0,
        ..Options::default()
    }
}

fn run(options: &Options, from: Option<&Network>) -> Result<Trained, Error> {
    let (inputs, targets) = task(600);
    let data = Windows { inputs: &inputs, targets: &targets, window: WINDOW, features: FEATURES };
    let scaler = Scaler::fit(&inputs, FEATURES).unwrap();
    let (fit, held): (Vec<usize>, Vec<usize>) = (0..600).partition(|i| i % 5 != 0);
    train(&data, &fit, &held, &scaler, options, from, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn it_learns() {
    let trained = run(&options(), None).unwrap();
    assert!(trained.best.val_rmse < 6.0, "{:?}", trained.best);
    assert!(trained.history[0].val_rmse > 2.0 * trained.best.val_rmse);
    let (inputs, _) = task(600);
    let model = Model::new(trained.network).unwrap();
    let out = model.predict_all(&inputs).unwrap();
    assert!(out.iter().all(|y| (0.0..=125.0).contains(y)));
}

/// In each of three regimes the first column's level is another; the third column tells them apart.
#[test]
fn what_regimes_hide_is_learnt() {
    let (mut inputs, targets) = task(600);
    let centres = [0.0, 10.0, 25.0];
    for (i, row) in inputs.chunks_exact_mut(FEATURES).enumerate() {
        let regime = i * 7 % 3;
        row[2] = centres[regime] + 0.01 * row[1];
        row[0] = row[0] * [1.0, 0.3, 2.0][regime] + [0.0, 500.0, -800.0][regime];
    }
    let data = Windows { inputs: &inputs, targets: &targets, window: WINDOW, features: FEATURES };
    let (fit, held): (Vec<usize>, Vec<usize>) = (0..600).partition(|i| i % 5 != 0);
    let best = |scaler: &Scaler| {
        let mut go = |_: &EpochReport| ControlFlow::Continue(());
        train(&data, &fit, &held, scaler, &Options { epochs: 6, ..options() }, None, &mut go).unwrap().best.val_rmse
    };
    let apart = Scaler::fit_regimes(&inputs, FEATURES, 2, &[0.0, 10.0, 25.0, 42.0]).unwrap();
    assert_eq!(apart.regimes.as_ref().unwrap().centres, centres);
    let (mixed, apart) = (best(&Scaler::fit(&inputs, FEATURES).unwrap()), best(&apart));
    assert!(apart < 10.0 && mixed > 2.0 * apart, "{apart} with regimes, {mixed} without");
    assert!(Scaler::fit_regimes(&inputs, FEATURES, 3, &centres).is_err());
    // One regime is none.
    assert_eq!(Scaler::fit_regimes(&inputs, FEATURES, 0, &[0.0]).unwrap(), Scaler::fit(&inputs, FEATURES).unwrap());
}

#[test]
fn the_same_seed_and_threads_give_the_same_bits() {
    for threads in [1, 2, 3] {
        let options = Options {
            epochs: 2,
            dropout: 0.3,
            input_noise: 0.1,
            input_offset: 0.1,
            weight_decay: 0.1,
            average: 0.9,
            threads,
            ..options()
        };
        let (a, b) = (run(&options, None).unwrap(), run(&options, None).unwrap());
        assert_eq!(a.network, b.network, "{threads} threads");
        let other = run(&Options { seed: 43, ..options }, None).unwrap();
        assert_ne!(a.network, other.network);
    }
}

#[test]
fn threads_change_only_the_rounding() {
    let options = Options { epochs: 1, ..options() };
    let one = run(&options, None).unwrap();
    let three = run(&Options { threads: 3, ..options }, None).unwrap();
    let difference = (one.best.val_rmse - three.best.val_rmse).abs();
    assert!(difference < 0.05, "{difference}");
}

#[test]
fn a_warm_start_goes_on_where_it_was() {
    let first = run(&options(), None).unwrap();
    // Another scaler: the first layer must take up the difference.
    let mut moved = first.network.clone();
    moved.scaler.mean.iter_mut().for_each(|m| *m -= 3.0);
    moved.scaler.scale.iter_mut().for_each(|s| *s *= 2.0);
    let moved = moved.rescaled(&first.network.scaler).rescaled(&moved.scaler);
    let options = Options { epochs: 1, learning_rate: 1e-5, ..options() };
    let second = run(&options, Some(&first.network)).unwrap();
    assert!((second.best.val_rmse - first.best.val_rmse).abs() < 0.3);
    assert!(moved.check().is_ok());
    let cold = run(&options, None).unwrap();
    assert!(cold.best.val_rmse > 3.0 * second.best.val_rmse);
}

#[test]
fn rescaling_keeps_the_function() {
    let network = network(20, 9, 5, &[12, 6]);
    let scaler = Scaler {
        mean: network.scaler.mean.iter().map(|m| m + 2.5).collect(),
        scale: network.scaler.scale.iter().map(|s| s * 1.7).collect(),
        regimes: None,
    };
    let moved = network.rescaled(&scaler);
    assert_ne!(moved.layers, network.layers);
    for window in windows(21, &network, 5).chunks_exact(45) {
        let (a, b) = (network.forward_exact(window).unwrap(), moved.forward_exact(window).unwrap());
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}

#[test]
fn it_stops_early_and_keeps_the_best_epoch() {
    let options = Options { epochs: 60, patience: 2, min_improvement: 1.0, ..options() };
    let trained = run(&options, None).unwrap();
    assert!(trained.history.len() < 60);
    let least = trained.history.iter().map(|e| e.val_rmse).fold(f32::INFINITY, f32::min);
    assert_eq!(trained.best.val_rmse, least);
    assert_eq!(trained.history[trained.best.epoch - 1].val_rmse, least);
}

#[test]
fn the_caller_can_stop_it() {
    let (inputs, targets) = task(50);
    let data = Windows { inputs: &inputs, targets: &targets, window: WINDOW, features: FEATURES };
    let scaler = Scaler::identity(FEATURES);
    let fit: Vec<usize> = (0..40).collect();
    let held: Vec<usize> = (40..50).collect();
    let mut stop = |_: &EpochReport| ControlFlow::Break(());
    let trained = train(&data, &fit, &held, &scaler, &options(), None, &mut stop).unwrap();
    assert_eq!(trained.history.len(), 1);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (inputs, targets) = task(10);
    let data = Windows { inputs: &inputs, targets: &targets, window: WINDOW, features: FEATURES };
    let good = Scaler::identity(FEATURES);
    let mut go = |_: &EpochReport| ControlFlow::Continue(());
    let mut refused = |data: &Windows<'_>, fit: &[usize], held: &[usize], scaler: &Scaler, o: &Options| {
        train(data, fit, held, scaler, o, None, &mut go).unwrap_err().to_string()
    };
    let o = options();
    assert!(refused(&data, &[], &[1], &good, &o).contains("no training windows"));
    assert!(refused(&data, &[1], &[], &good, &o).contains("no validation windows"));
    assert!(refused(&data, &[10], &[1], &good, &o).contains("window 10 of 10"));
    assert!(refused(&data, &[1, 2], &[2], &good, &o).contains("in training and in validation"));
    assert!(refused(&data, &[1], &[2], &Scaler::identity(2), &o).contains("means"));
    let short = Windows { inputs: &inputs[1..], ..data };
    assert!(refused(&short, &[1], &[2], &good, &o).contains("training windows"));
    let mut broken = inputs.clone();
    broken[WINDOW * FEATURES + 1] = f32::INFINITY;
    let broken = Windows { inputs: &broken, ..data };
    assert!(refused(&broken, &[1], &[2], &good, &o).contains("window 1 has"));
    for (bad, word) in [
        (Options { hidden: vec![], ..options() }, "layers"),
        (Options { batch: 0, ..options() }, "batch"),
        (Options { dropout: 1.0, ..options() }, "dropout"),
        (Options { learning_rate: f32::NAN, ..options() }, "learning_rate"),
        (Options { cap: 0.0, ..options() }, "cap"),
    ] {
        let text = refused(&data, &[1], &[2], &good, &bad);
        assert!(text.contains(word), "{text}");
    }
    let other = network(1, WINDOW, FEATURES, &[15]);
    let text = train(&data, &[1], &[2], &good, &o, Some(&other), &mut go).unwrap_err().to_string();
    assert!(text.contains("warm start"), "{text}");
}
