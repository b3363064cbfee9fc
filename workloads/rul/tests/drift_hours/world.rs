//! A model trained on real FD001 (or on data that looks like it), its baseline, and engines that neither has seen.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cmapss::files::{TestSet, Text};
use cmapss::regimes::Regimes;
use cmapss::scale::Unscaled;
use cmapss::split::{self, EARLIER_VALIDATION};
use cmapss::synth::{Flavour, Generator};
use cmapss::windows::{WindowSpec, Windows};
use cmapss::{Engine, FeatureSet, Fleet};
use drift_stats::decision::{Record, Reference};
use model::{Model, Scaler};
use rul::drift::fit;
use rul::drift::record::{Inputs, Recorder};

/// Engines as a service would see them: one record per cycle.
pub type Pool = Vec<Vec<Record>>;

pub struct World {
    /// NASA's files, or what looks like them.
    pub real: bool,
    pub reference: Reference,
    /// The engines that model and baseline are made of.
    pub train: Pool,
    /// For choosing thresholds: the validation engines, and the test engines with odd numbers.
    pub tuning: Pool,
    /// For the proof: the test engines with even numbers.
    pub unseen: Pool,
    pub fd002: Pool,
    /// Second fault mode. Always generated: there is no such training file here.
    pub fd003: Pool,
    /// The generator's FD001, to tell its own distance from NASA's.
    pub like_fd001: Pool,
    pub val_rmse: f32,
}

/// `CMAPSS_DIR`, or `shared/data/cmapss` beside the project or above it.
fn folder() -> Option<PathBuf> {
    let beside = || {
        let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        above.find_map(|dir| Some(dir.join("shared/data/cmapss")).filter(|d| d.is_dir()))
    };
    std::env::var_os("CMAPSS_DIR").map(PathBuf::from).or_else(beside)
}

struct Files {
    real: bool,
    train: Fleet,
    test: Fleet,
    fd002: Fleet,
}

fn files() -> Files {
    if let Some(dir) = folder() {
        let read = |stem: &str| Text::find(&dir, stem).and_then(|t| t.fleet());
        if let (Ok(train), Ok(test), Ok(fd002)) = (
            read("train_FD001"),
            TestSet::read(&dir, "FD001"),
            read("train_FD002").or_else(|_| read("train_FD002_first85")),
        ) {
            return Files { real: true, train, test: test.fleet, fd002 };
        }
    }
    Files {
        real: false,
        train: Generator::new(Flavour::Fd001).train(100, 1).unwrap(),
        test: Generator::new(Flavour::Fd001).test(100, 1).unwrap().fleet,
        fd002: Generator::new(Flavour::Fd002).train(85, 1).unwrap(),
    }
}

fn learn(features: &FeatureSet, train: &Fleet, validation: &Fleet) -> (Model, f32) {
    let whole: Vec<Engine> = train.engines.iter().chain(&validation.engines).cloned().collect();
    let windows = Windows::run_to_failure(&whole, &Unscaled(features.clone()), WindowSpec::training()).unwrap();
    let held: Vec<u32> = validation.engines.iter().map(|e| e.id).collect();
    let (validate, fitted): (Vec<usize>, Vec<usize>) =
        (0..windows.len()).partition(|&w| held.contains(&windows.origins[w].engine));
    let rows: Vec<f32> =
        train.rows().flat_map(|r| features.columns().iter().map(|&c| r.get(c) as f32).collect::<Vec<_>>()).collect();
    let scaler = Scaler::fit(&rows, features.len()).unwrap();
    let set = model::Windows {
        inputs: &windows.values,
        targets: &windows.labels,
        window: windows.length,
        features: windows.features,
    };
    let options = model::Options { threads: 2, ..model::Options::default() };
    let mut go = |_: &model::EpochReport| ControlFlow::Continue(());
    let trained = model::train(&set, &fitted, &validate, &scaler, &options, None, &mut go).unwrap();
    (Model::new(trained.network).unwrap(), trained.best.val_rmse)
}

pub fn world() -> World {
    let files = files();
    let features = FeatureSet::served();
    let split = split::by_ids(&files.train, &EARLIER_VALIDATION).unwrap();
    let (model, val_rmse) = learn(&features, &split.train, &split.validation);
    let inputs = Inputs::fit(&features, &split.train).unwrap();
    let recorder = inputs.recorder().unwrap();
    let reference = fit::reference("7", &model, &recorder, &features, &split.train).unwrap();
    let pool = |fleet: &Fleet| fit::records(&model, &recorder, &features, fleet).unwrap();
    let generate = |flavour| Generator::new(flavour).train(80, 5).unwrap();
    let (odd, even): (Vec<Engine>, Vec<Engine>) = files.test.engines.into_iter().partition(|e| e.id % 2 == 1);
    let mut tuning = pool(&split.validation);
    tuning.extend(pool(&Fleet { engines: odd }));
    World {
        real: files.real,
        train: pool(&split.train),
        tuning,
        unseen: pool(&Fleet { engines: even }),
        fd002: pool(&files.fd002),
        fd003: pool(&generate(Flavour::Fd003)),
        like_fd001: pool(&generate(Flavour::Fd001)),
        val_rmse,
        reference,
    }
}

/// Only the records of one regime, engines with none left out.
pub fn of_regime(pool: &Pool, regime: usize) -> Pool {
    let only = |e: &Vec<Record>| e.iter().filter(|r| r.regime == Some(regime)).cloned().collect::<Vec<_>>();
    pool.iter().map(only).filter(|e| !e.is_empty()).collect()
}

/// Regimes other than the one that FD001 was flown in.
pub fn other_regimes() -> std::ops::Range<usize> {
    1..Regimes::six().centres.len()
}

/// What `rul drift` makes of a raw row; kept in reach of the examples.
#[allow(dead_code)]
pub type Rows = Recorder;
