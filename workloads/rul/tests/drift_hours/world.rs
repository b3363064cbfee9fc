//! A model trained on real FD001 (or on data that looks like it), its baseline, and engines that neither has seen.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cmapss::files::{TestSet, Text};
use cmapss::regimes::Regimes;
use cmapss::scale::Unscaled;
use cmapss::split::{self, EARLIER_VALIDATION};
use cmapss::synth::{Flavour, Generator};
use cmapss::windows::{Short, WindowSpec, Windows};
use cmapss::{Column, Engine, FeatureSet, Fleet};
use drift_stats::decision::{Record, Reference};
use model::{Model, Scaler};
use rul::artifact::{Baseline, BaselineModel, Origin, fit_baseline};
use rul::drift::baseline;
use rul::drift::record::Recorder;
use rul::drift::seed::SeedBaseline;

/// Engines as a service would see them: one record per cycle.
pub type Pool = Vec<Vec<Record>>;

pub struct World {
    /// NASA's files, or what looks like them.
    pub real: bool,
    sight: Sight,
    /// The engines of `unseen`, and the spread of each column over the training rows.
    unseen_fleet: Fleet,
    spreads: Vec<f64>,
    pub reference: Reference,
    /// What the earlier system's rule compares with.
    pub seed: SeedBaseline,
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

/// A service and the watch behind it.
struct Sight {
    model: Model,
    recorder: Recorder,
    features: FeatureSet,
}

impl Sight {
    /// What they would see of engines.
    fn of(&self, fleet: &Fleet) -> Pool {
        let spec = WindowSpec { short: Short::Skip, cap: None, ..WindowSpec::training() };
        let windows = Windows::run_to_failure(&fleet.engines, &Unscaled(self.features.clone()), spec).unwrap();
        let predictions = self.model.predict_all(&windows.values).unwrap();
        let mut pool: Pool = Vec::new();
        let mut last = None;
        for (i, (origin, prediction)) in windows.origins.iter().zip(predictions).enumerate() {
            if last.replace(origin.engine) != Some(origin.engine) {
                pool.push(Vec::new());
            }
            let window = windows.get(i).unwrap();
            let row: Vec<f64> = window[window.len() - self.features.len()..].iter().map(|&v| f64::from(v)).collect();
            let (engine, cycle) = (u64::from(origin.engine), origin.last_cycle);
            let record = self.recorder.record(&row, Some(engine), Some(cycle), f64::from(prediction)).unwrap();
            pool.last_mut().unwrap().push(record);
        }
        pool
    }
}

fn spread(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (values.map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt()
}

pub fn world() -> World {
    let files = files();
    let features = FeatureSet::served();
    let split = split::by_ids(&files.train, &EARLIER_VALIDATION).unwrap();
    let (model, val_rmse) = learn(&features, &split.train, &split.validation);
    let about = BaselineModel { name: "cmapss-rul".into(), version: Some("7".into()), sha256: "0".repeat(64) };
    let origin =
        Origin { dataset: "FD001", data_sha256: "", generated_at: jiff::Timestamp::UNIX_EPOCH, generator: "test" };
    let written = fit_baseline(&model, about, &features, &split.train, origin).unwrap();
    // As it comes out of the file, with all its rounding.
    let stored: Baseline = serde_json::from_slice(&serde_json::to_vec(&written).unwrap()).unwrap();
    let baseline = baseline::Baseline::new("test".into(), &stored).unwrap();
    let sight = Sight { model, recorder: baseline.recorder.clone(), features };
    let pool = |fleet: &Fleet| sight.of(fleet);
    let generate = |flavour| Generator::new(flavour).train(80, 5).unwrap();
    let (odd, even): (Vec<Engine>, Vec<Engine>) = files.test.engines.into_iter().partition(|e| e.id % 2 == 1);
    let mut tuning = pool(&split.validation);
    tuning.extend(pool(&Fleet { engines: odd }));
    let unseen_fleet = Fleet { engines: even };
    let spreads = Column::all().map(|c| spread(split.train.rows().map(move |r| r.get(c)))).collect();
    World {
        real: files.real,
        train: pool(&split.train),
        tuning,
        unseen: pool(&unseen_fleet),
        fd002: pool(&files.fd002),
        fd003: pool(&generate(Flavour::Fd003)),
        like_fd001: pool(&generate(Flavour::Fd001)),
        val_rmse,
        seed: baseline.seed.clone(),
        reference: baseline.reference.clone(),
        sight,
        unseen_fleet,
        spreads,
    }
}

impl World {
    /// The unseen engines with one sensor that reads so many of its training spreads too high; the model sees that, too.
    pub fn with_sensor_off(&self, name: &str, spreads: f64) -> Pool {
        let at = Column::by_name(name).unwrap().index();
        let mut fleet = self.unseen_fleet.clone();
        for row in fleet.engines.iter_mut().flat_map(|e| &mut e.rows) {
            row.values[at] += spreads * self.spreads[at];
        }
        self.sight.of(&fleet)
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
