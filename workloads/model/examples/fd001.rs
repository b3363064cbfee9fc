//! Trains on real FD001: `cargo run --release -p model --example fd001 -- [KEY=VALUE ...]`.
//! Keys: the training options, `folds=K` (cross-validation on the training engines; the test set is
//! not read), `seeds=A,B`, `verbose=true`. Data: `CMAPSS_DIR`.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::ops::ControlFlow;

use model::{Model, Options, Scaler, Schedule, Trained, Windows};

#[path = "../tests/fd001/data.rs"]
mod data;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = data::folder().ok_or("no data: set CMAPSS_DIR")?;
    let mut options = Options::default();
    let (mut folds, mut seeds, mut verbose) = (0usize, vec![42u64, 123, 456], false);
    for arg in std::env::args().skip(1) {
        let (key, value) = arg.split_once('=').ok_or("KEY=VALUE")?;
        match key {
            "hidden" => options.hidden = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "cap" => options.cap = value.parse()?,
            "epochs" => options.epochs = value.parse()?,
            "batch" => options.batch = value.parse()?,
            "lr" => options.learning_rate = value.parse()?,
            "floor" => options.schedule = Schedule::Cosine { floor: value.parse()? },
            "dropout" => options.dropout = value.parse()?,
            "noise" => options.input_noise = value.parse()?,
            "offset" => options.input_offset = value.parse()?,
            "decay" => options.weight_decay = value.parse()?,
            "clip" => options.clip_norm = value.parse()?,
            "average" => options.average = value.parse()?,
            "patience" => options.patience = value.parse()?,
            "threads" => options.threads = value.parse()?,
            "seeds" => seeds = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "folds" => folds = value.parse()?,
            "verbose" => verbose = value.parse()?,
            _ => return Err(format!("unknown key {key}").into()),
        }
    }
    let engines = data::engines(&folder.join("train_FD001.txt.gz"))?;
    let set = data::windows(&engines);
    let run = |held: &dyn Fn(usize) -> bool, options: &Options| -> Result<Trained, Box<dyn Error>> {
        let (validate, train): (Vec<usize>, Vec<usize>) = (0..set.targets.len()).partition(|w| held(set.engines[*w]));
        let rows: Vec<f32> =
            engines.iter().enumerate().filter(|(i, _)| !held(*i)).flat_map(|(_, e)| e.rows.iter().copied()).collect();
        let windows =
            Windows { inputs: &set.inputs, targets: &set.targets, window: data::WINDOW, features: data::COLUMNS.len() };
        let scaler = Scaler::fit(&rows, data::COLUMNS.len())?;
        let mut progress = |e: &model::EpochReport| {
            if verbose {
                println!("  {:2} train {:.2} val {:.2} {:.1} s", e.epoch, e.train_rmse, e.val_rmse, e.seconds);
            }
            ControlFlow::Continue(())
        };
        Ok(model::train(&windows, &train, &validate, &scaler, options, None, &mut progress)?)
    };
    if folds > 0 {
        for &seed in &seeds {
            options.seed = seed;
            let results = (0..folds)
                .map(|fold| run(&|e| (e * 7 + 3) % 100 % folds == fold, &options))
                .collect::<Result<Vec<_>, _>>()?;
            let mean = results.iter().map(|r| f64::from(r.best.val_rmse)).sum::<f64>() / folds as f64;
            let last = results.iter().filter_map(|r| r.history.last());
            let end = last.map(|e| f64::from(e.val_rmse)).sum::<f64>() / folds as f64;
            let each: Vec<String> =
                results.iter().map(|r| format!("{:.2}@{}", r.best.val_rmse, r.best.epoch)).collect();
            let seconds = results.iter().map(|r| r.seconds).sum::<f64>() / folds as f64;
            println!("seed {seed}: mean best {mean:.3} mean last {end:.3} [{}] {seconds:.1} s each", each.join(" "));
        }
        return Ok(());
    }
    let test = data::test(&folder)?;
    for &seed in &seeds {
        options.seed = seed;
        let trained = run(&|e| data::HELD.contains(&(e + 1)), &options)?;
        let (best, seconds, cap) = (trained.best, trained.seconds, trained.network.cap);
        let predictions = Model::new(trained.network)?.predict_all(&test.inputs)?;
        println!(
            "seed {seed}: epoch {} val {:.3} test uncapped {:.3} capped {:.3} in {seconds:.1} s",
            best.epoch,
            best.val_rmse,
            data::rmse(&predictions, &test.targets, f32::INFINITY),
            data::rmse(&predictions, &test.targets, cap),
        );
    }
    Ok(())
}
