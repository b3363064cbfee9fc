//! From a trained network and its data to a whole artifact.

use std::path::Path;

use cmapss::{FeatureSet, Fleet};
use drift_stats::decision::{Fit, Policy, Record, Reference};
use drift_stats::histogram::Histogram;
use jiff::Timestamp;
use model::{MANIFEST_FILE, MODEL_FILE, Model, Network, verify_export};
use sha2::{Digest, Sha256};

use super::baseline::{BASELINE_SCHEMA, Baseline, BaselineModel, BucketCounts, PredictionStats};
use super::place::Part;
use super::prediction::{Predicted, bounds, predict_engines};
use super::{Artifact, BASELINE_FILE, Error, GOLDEN_FILE, Golden, METRICS_FILE, MLMODEL_FILE, Metrics, mlmodel};
use crate::drift::record::Inputs;

/// Windows in `golden.json`.
const GOLDEN_WINDOWS: usize = 8;
/// Cycles per age group of the reference.
const AGE_WIDTH: u32 = 25;
/// Most records kept for the sensors: enough for any test's power, and the file stays far below what a ConfigMap holds.
const MOST_RECORDS: usize = 2000;
/// Traffic that thresholds are computed for: engines, and consecutive cycles of each.
const SHAPES: [(usize, usize); 8] = [(20, 10), (20, 60), (30, 10), (30, 60), (50, 10), (50, 60), (100, 10), (100, 60)];
const DRAWS: usize = 200;

/// Everything that an artifact is made of.
#[derive(Debug, Clone)]
pub struct Draft<'a> {
    /// Name in the registry.
    pub name: &'a str,
    pub network: &'a Network,
    pub features: &'a FeatureSet,
    /// Engines that ran to failure, training and validation together; their numbers are unique.
    pub fleet: &'a Fleet,
    /// `export_difference` is filled in here.
    pub metrics: &'a Metrics,
    pub created: Timestamp,
    /// The program that writes, as `rul-train/0.1.0`.
    pub generator: &'a str,
}

/// Makes the directory `dir`, all files or none, and reads it back as a service would. An artifact that is there already is
/// replaced; anything else is not.
///
/// # Errors
/// Data that do not fit the network, a written file that predicts otherwise than the network, and those of the file system.
pub fn write(dir: &Path, draft: &Draft<'_>) -> Result<Artifact, Error> {
    let part = Part::beside(dir)?;
    let at = part.path();
    let names = draft.features.names();
    // A service tells models apart by version, and one from training has no number yet: its content gives one.
    let unnamed = model::onnx::Labels { name: draft.name.into(), version: String::new(), features: names.clone() };
    let content = hex::encode(Sha256::digest(model::onnx::write(draft.network, &unnamed)?));
    let version = format!("sha-{}", &content[..12]);
    let manifest = Model::save_dir(at, draft.network, draft.name, &version, &names)?;
    let model = Model::new(draft.network.clone())?;
    let predicted = predict_engines(&model, draft.features, &draft.fleet.engines)?;

    let (inputs, answers) = golden_pool(&predicted, model.window() * model.features());
    let difference = verify_export(&at.join(MODEL_FILE), &model, &inputs)?;
    let golden = Golden::choose(&model, &inputs, &answers, GOLDEN_WINDOWS);
    save(&at.join(GOLDEN_FILE), &golden, false)?;

    let about = BaselineModel { name: draft.name.to_owned(), version: None, sha256: manifest.sha256.clone() };
    let origin = Origin {
        dataset: &draft.metrics.dataset,
        data_sha256: &draft.metrics.data_sha256,
        generated_at: draft.created,
        generator: draft.generator,
    };
    let baseline = fit(&predicted, about, draft.features, draft.fleet, f64::from(draft.network.cap), origin)?;
    save(&at.join(BASELINE_FILE), &baseline, false)?;
    let metrics = Metrics { export_difference: f64::from(difference), ..draft.metrics.clone() };
    save(&at.join(METRICS_FILE), &metrics, true)?;
    for (name, text) in [
        ("requirements.txt", mlmodel::requirements()),
        ("conda.yaml", mlmodel::conda()),
        ("python_env.yaml", mlmodel::python_env()),
        (MLMODEL_FILE, mlmodel::mlmodel(&manifest, draft.created, part.size()?)),
    ] {
        std::fs::write(at.join(name), text).map_err(Error::io(&at.join(name)))?;
    }
    // What was written is what will be served: it is read back before it appears under its name.
    Artifact::read(at)?;
    part.take_place(dir, MANIFEST_FILE)?;
    Artifact::read(dir)
}

/// Where a baseline comes from, as it is written into the file.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// `FD001`, or several joined by `+`.
    pub dataset: &'a str,
    /// Of all data files, lower-case hexadecimal.
    pub data_sha256: &'a str,
    pub generated_at: Timestamp,
    /// The program that writes, as `rul-train/0.1.0`.
    pub generator: &'a str,
}

/// Makes the baseline of a model from engines that ran to failure: those that it was trained on.
///
/// # Errors
/// Engines without a window, in no known regime, or with other features than the model's.
pub fn fit_baseline(
    model: &Model,
    about: BaselineModel,
    features: &FeatureSet,
    fleet: &Fleet,
    origin: Origin<'_>,
) -> Result<Baseline, Error> {
    let predicted = predict_engines(model, features, &fleet.engines)?;
    fit(&predicted, about, features, fleet, f64::from(model.cap()), origin)
}

fn fit(
    predicted: &[Predicted<'_>],
    about: BaselineModel,
    features: &FeatureSet,
    fleet: &Fleet,
    cap: f64,
    origin: Origin<'_>,
) -> Result<Baseline, Error> {
    let inputs = Inputs::fit(features, fleet)?;
    let recorder = inputs.recorder()?;
    let mut engines: Vec<Vec<Record>> = Vec::with_capacity(predicted.len());
    for one in predicted {
        let from = one.engine.rows.len() - one.predictions.len();
        let rows = one.engine.rows[from..].iter().zip(&one.predictions);
        engines.push(
            rows.map(|(row, &p)| recorder.of_row(row, u64::from(one.engine.id), f64::from(p)))
                .collect::<Result<_, _>>()?,
        );
    }
    let predictions: Vec<f64> = engines.iter().flatten().map(|r| r.prediction).collect();
    let bounds = bounds(&predictions, cap)?;
    let fit = Fit {
        bounds: bounds.clone(),
        regimes: recorder.regimes(),
        age_width: AGE_WIDTH,
        keep_every: predictions.len().div_ceil(MOST_RECORDS).max(10),
        shapes: SHAPES.to_vec(),
        draws: DRAWS,
        min_expected: Policy::default().min_expected,
        seed: 1,
    };
    let reference = Reference::fit("", recorder.names(), &engines, &fit)?;
    let histogram = Histogram::from_values(&bounds, &predictions)?;
    Ok(Baseline {
        schema: BASELINE_SCHEMA,
        model_version: about.version.clone(),
        model: about,
        dataset: origin.dataset.to_owned(),
        data_sha256: origin.data_sha256.to_owned(),
        generated_at: origin.generated_at,
        generator: origin.generator.to_owned(),
        training_set_size: predictions.len() as u64,
        prediction_stats: PredictionStats::of(&predictions),
        histogram: BucketCounts::from(&histogram),
        seed_histogram: BucketCounts::seed(&predictions)?,
        inputs,
        reference: (&reference).into(),
    })
}

/// Windows from all over the fleet, to verify and to choose golden ones from.
fn golden_pool(predicted: &[Predicted<'_>], size: usize) -> (Vec<f32>, Vec<f32>) {
    const MOST: usize = 512;
    let all: usize = predicted.iter().map(|p| p.predictions.len()).sum();
    let step = all.div_ceil(MOST).max(1);
    let each = predicted.iter().flat_map(|p| p.inputs.chunks_exact(size).zip(&p.predictions));
    let (mut inputs, mut answers) = (Vec::new(), Vec::new());
    for (window, &answer) in each.step_by(step) {
        inputs.extend_from_slice(window);
        answers.push(answer);
    }
    (inputs, answers)
}

fn save(path: &Path, value: &impl serde::Serialize, pretty: bool) -> Result<(), Error> {
    let text = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
    let text = text.map_err(|e| Error::Refused { path: path.to_owned(), reason: e.to_string() })?;
    std::fs::write(path, text).map_err(Error::io(path))
}
