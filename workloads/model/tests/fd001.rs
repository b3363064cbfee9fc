//! Accuracy on real FD001, trained on the training engines only, the epoch chosen on held-out
//! training engines. Skipped where the data is absent (`CMAPSS_DIR`) and in unoptimised builds.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::ops::ControlFlow;

use model::{Model, Options, Scaler, Windows, train};

#[path = "fd001/data.rs"]
mod data;

#[test]
fn three_seeds_reach_the_target() {
    let Some(folder) = data::folder() else {
        eprintln!("skipped: no FD001 (set CMAPSS_DIR)");
        return;
    };
    if cfg!(debug_assertions) {
        eprintln!("skipped: needs an optimised build");
        return;
    }
    let engines = data::engines(&folder.join("train_FD001.txt.gz")).unwrap();
    let set = data::windows(&engines);
    assert_eq!(set.targets.len(), 17_731);
    let test = data::test(&folder).unwrap();
    let features = data::COLUMNS.len();
    let held = |engine: usize| data::HELD.contains(&(engine + 1));
    let (validate, fit): (Vec<usize>, Vec<usize>) = (0..set.targets.len()).partition(|w| held(set.engines[*w]));
    assert_eq!((fit.len(), validate.len()), (14_459, 3_272));
    let rows: Vec<f32> = engines
        .iter()
        .enumerate()
        .filter(|(engine, _)| !held(*engine))
        .flat_map(|(_, e)| e.rows.iter().copied())
        .collect();
    let scaler = Scaler::fit(&rows, features).unwrap();
    let windows = Windows { inputs: &set.inputs, targets: &set.targets, window: data::WINDOW, features };
    let mut total = 0.0;
    for seed in [42, 123, 456] {
        let options = Options { seed, ..Options::default() };
        let mut go = |_: &model::EpochReport| ControlFlow::Continue(());
        let trained = train(&windows, &fit, &validate, &scaler, &options, None, &mut go).unwrap();
        let (best, seconds) = (trained.best, trained.seconds);
        let predictions = Model::new(trained.network).unwrap().predict_all(&test.inputs).unwrap();
        let uncapped = data::rmse(&predictions, &test.targets, f32::INFINITY);
        let capped = data::rmse(&predictions, &test.targets, options.cap);
        eprintln!(
            "seed {seed}: epoch {}, validation {:.2}, test {uncapped:.2} ({capped:.2} capped), {seconds:.1} s",
            best.epoch, best.val_rmse
        );
        assert!(best.val_rmse <= 13.5, "seed {seed}: validation RMSE {}", best.val_rmse);
        assert!(uncapped <= 15.0, "seed {seed}: test RMSE {uncapped}");
        total += seconds;
    }
    eprintln!("three seeds: {total:.1} s");
}
