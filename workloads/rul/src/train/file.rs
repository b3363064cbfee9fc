//! A trained model's way into the registry: where it comes from, as parameters, metrics and tags.

use std::collections::BTreeMap;

use model::{Options as Hyper, Schedule};

use super::Options;
use super::learn::{Run, Start};
use crate::artifact::Metrics;
use crate::registry::{RunInfo, RunMetric};

/// The run that a registry keeps of a training.
#[must_use]
pub fn run_info(
    options: &Options,
    hyper: &Hyper,
    start: Option<&Start>,
    runs: &[Run],
    metrics: &Metrics,
    began: i64,
) -> RunInfo {
    let origin = origin(metrics);
    RunInfo {
        experiment: options.experiment.clone(),
        name: format!("rul-train {} seed {}", metrics.dataset, metrics.seed),
        params: params(options, hyper, start, metrics),
        metrics: curves(runs, metrics, began).into_iter().chain(results(metrics, began)).collect(),
        tags: origin.clone(),
        version_tags: origin
            .into_iter()
            .chain([("val_rmse".to_owned(), metrics.val_rmse.to_string())])
            .chain(metrics.test_rmse.map(|rmse| ("test_rmse".to_owned(), rmse.to_string())))
            .collect(),
    }
}

/// Data, code and cause: what the same model could be made of again.
fn origin(metrics: &Metrics) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::from([
        ("data.sha256".to_owned(), metrics.data_sha256.clone()),
        ("data.dataset".to_owned(), metrics.dataset.clone()),
        ("data.origin".to_owned(), metrics.data_origin.clone()),
        ("code.version".to_owned(), metrics.code_version.clone()),
    ]);
    // Set by `rul trigger`.
    for (variable, key) in [
        ("RUL_TRIGGER_CAUSE", "trigger.cause"),
        ("RUL_TRIGGER_RUN", "trigger.run"),
        ("RUL_TRIGGER_BASELINE_VERSION", "trigger.baseline_version"),
    ] {
        if let Some(value) = std::env::var(variable).ok().filter(|value| !value.is_empty()) {
            tags.insert(key.to_owned(), value);
        }
    }
    tags
}

fn params(options: &Options, hyper: &Hyper, start: Option<&Start>, metrics: &Metrics) -> BTreeMap<String, String> {
    let schedule = match hyper.schedule {
        Schedule::Constant => "constant".to_owned(),
        Schedule::Cosine { floor } => format!("cosine to {floor}"),
    };
    let hidden: Vec<String> = hyper.hidden.iter().map(ToString::to_string).collect();
    [
        ("dataset", metrics.dataset.clone()),
        ("data_sha256", metrics.data_sha256.clone()),
        ("code_version", metrics.code_version.clone()),
        ("seed", metrics.seed.to_string()),
        ("seeds", options.seeds.to_string()),
        ("split_seed", options.split_seed.to_string()),
        ("window", metrics.window.to_string()),
        ("hidden", hidden.join(",")),
        ("cap", hyper.cap.to_string()),
        ("epochs", hyper.epochs.to_string()),
        ("batch", hyper.batch.to_string()),
        ("learning_rate", hyper.learning_rate.to_string()),
        ("schedule", schedule),
        ("dropout", hyper.dropout.to_string()),
        ("input_noise", hyper.input_noise.to_string()),
        ("input_offset", hyper.input_offset.to_string()),
        ("weight_decay", hyper.weight_decay.to_string()),
        ("clip_norm", hyper.clip_norm.to_string()),
        ("average", hyper.average.to_string()),
        ("patience", hyper.patience.to_string()),
        ("threads", hyper.threads.to_string()),
        ("warm_start", start.map_or_else(|| "no".to_owned(), |s| s.sha256.clone())),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Per epoch: the best seed's under plain names, every seed's under its own.
fn curves(runs: &[Run], metrics: &Metrics, began: i64) -> Vec<RunMetric> {
    let mut all = Vec::new();
    let mut began = began;
    for run in runs {
        for epoch in &run.trained.history {
            let (step, at) = (epoch.epoch as i64, began + (1000.0 * epoch.seconds) as i64);
            for (name, value) in [("val_rmse", epoch.val_rmse), ("train_rmse", epoch.train_rmse)] {
                let value = f64::from(value);
                all.push(RunMetric { key: format!("seed_{}/{name}", run.seed), value, step, at });
                if run.seed == metrics.seed {
                    all.push(RunMetric { key: name.to_owned(), value, step, at });
                }
            }
        }
        began += (1000.0 * run.trained.seconds) as i64;
    }
    all
}

/// Of the model that is kept.
fn results(metrics: &Metrics, began: i64) -> impl Iterator<Item = RunMetric> + use<> {
    let at = began + (1000.0 * metrics.seconds) as i64;
    let step = metrics.epoch as i64;
    [
        ("best_val_rmse", Some(metrics.val_rmse)),
        ("best_val_mae", Some(metrics.val_mae)),
        ("best_val_bias", Some(metrics.val_bias)),
        ("best_epoch", Some(metrics.epoch as f64)),
        ("test_rmse", metrics.test_rmse),
        ("test_rmse_capped", metrics.test_rmse_capped),
        ("nasa_score", metrics.nasa_score),
        ("seconds", Some(metrics.seconds)),
    ]
    .into_iter()
    .filter_map(move |(key, value)| Some(RunMetric { key: key.to_owned(), value: value?, step, at }))
}
