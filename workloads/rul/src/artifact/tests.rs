#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use cmapss::scale::Unscaled;
use cmapss::synth::{Flavour, Generator};
use cmapss::windows::{WindowSpec, Windows};
use cmapss::{FeatureSet, Fleet};
use model::{Network, Options, Scaler};

use super::*;

/// A few engines, and a network that has seen them for one epoch.
struct World {
    fleet: Fleet,
    features: FeatureSet,
    network: Network,
}

fn world() -> World {
    let fleet = Generator::new(Flavour::Fd001).train(24, 1).unwrap();
    let features = FeatureSet::served();
    let windows = Windows::run_to_failure(&fleet.engines, &Unscaled(features.clone()), WindowSpec::training()).unwrap();
    let scaler = Scaler::fit(&windows.values, features.len()).unwrap();
    let data = model::Windows {
        inputs: &windows.values,
        targets: &windows.labels,
        window: windows.length,
        features: windows.features,
    };
    let (train, validate): (Vec<_>, Vec<_>) = (0..windows.len()).partition(|&i| windows.origins[i].engine <= 20);
    let options = Options { hidden: vec![8], epochs: 1, ..Options::default() };
    let mut go = |_: &model::EpochReport| ControlFlow::Continue(());
    let trained = model::train(&data, &train, &validate, &scaler, &options, None, &mut go).unwrap();
    World { fleet, features, network: trained.network }
}

fn metrics() -> Metrics {
    Metrics {
        schema: 1,
        dataset: "FD001".to_owned(),
        data_sha256: "ab".repeat(32),
        data_origin: "generated".to_owned(),
        val_rmse: 20.0,
        val_mae: 15.0,
        val_bias: 1.0,
        test_rmse: None,
        test_rmse_capped: None,
        nasa_score: None,
        test: BTreeMap::new(),
        epoch: 1,
        seed: 42,
        seeds: Vec::new(),
        seconds: 1.0,
        engines: 24,
        train_windows: 1,
        val_windows: 1,
        val_engines: BTreeMap::new(),
        window: 30,
        cap: 125.0,
        parameters: 1,
        export_difference: 0.0,
        code_version: "0.1.0".to_owned(),
        warm_start: false,
    }
}

fn write_to(dir: &Path, world: &World) -> Result<Artifact, Error> {
    write(
        dir,
        &Draft {
            name: "cmapss-rul",
            network: &world.network,
            features: &world.features,
            fleet: &world.fleet,
            metrics: &metrics(),
            created: "2026-01-02T03:04:05Z".parse().unwrap(),
            generator: "test",
        },
    )
}

fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn an_artifact_is_whole_repeatable_and_replaced_at_once() {
    let world = world();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("model");
    let artifact = write_to(&dir, &world).unwrap();
    let baseline = artifact.baseline.unwrap();
    assert_eq!(baseline.model.sha256, artifact.manifest.sha256);
    assert_eq!(baseline.training_set_size as usize, world.fleet.row_count() - 24 * 29);
    assert!(baseline.histogram.buckets.contains(&124.5) && baseline.histogram.buckets.contains(&5.0));
    assert_eq!(baseline.seed_histogram.counts.iter().sum::<u64>(), baseline.training_set_size);
    let reference = baseline.reference().unwrap();
    assert_eq!(reference.features.len(), 15);
    assert_eq!(reference.regimes[0] as usize, world.fleet.row_count() - 24 * 29);
    assert!(reference.null_for(20).unwrap().sensor.q99 > 0.0);
    assert_eq!(artifact.golden.unwrap().windows.len(), 8);
    assert!(artifact.metrics.unwrap().export_difference < 1e-3);
    let before = content(&dir);
    assert_eq!(before.len(), 9);
    assert!(before["baseline.json"].len() < 400 << 10, "{} bytes", before["baseline.json"].len());
    // Again in the same place: the same bytes, and nothing left lying about.
    write_to(&dir, &world).unwrap();
    assert!(content(&dir) == before);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn what_contradicts_itself_is_refused_with_its_place() {
    let world = world();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("model");
    write_to(&dir, &world).unwrap();
    let whole = content(&dir);
    let refused = |file: &str, edit: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::from_slice(&whole[file]).unwrap();
        edit(&mut value);
        fs::write(dir.join(file), value.to_string()).unwrap();
        let error = Artifact::read(&dir).unwrap_err().to_string();
        fs::write(dir.join(file), &whole[file]).unwrap();
        assert!(error.contains(file), "{error}");
        error
    };
    assert!(refused("baseline.json", &|v| v["model"]["sha256"] = "00".into()).contains("belongs to a model"));
    assert!(refused("baseline.json", &|v| v["schema"] = 9.into()).contains("schema 9"));
    assert!(refused("baseline.json", &|v| v["training_set_size"] = 3.into()).contains("training_set_size is 3"));
    assert!(
        refused("baseline.json", &|v| v["reference"]["records"]["cycle"] = serde_json::json!([])).contains("columns")
    );
    assert!(refused("baseline.json", &|v| v["histogram"]["counts"][0] = (-1).into()).contains("invalid value"));
    assert!(refused("golden.json", &|v| v["expected"][3] = 1000.0.into()).contains("window 3"));
    assert!(refused("golden.json", &|v| v["windows"][0] = serde_json::json!([[1.0]])).contains("window 0"));
    Artifact::read(&dir).unwrap();
}

#[test]
fn the_readers_of_services_accept_it_and_strangers_are_not_replaced() {
    let world = world();
    let home = tempfile::tempdir().unwrap();
    let full = home.path().join("documents");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("thesis.tex"), "x").unwrap();
    let error = write_to(&full, &world).unwrap_err().to_string();
    assert!(error.contains("thesis.tex") && error.contains("choose an empty"), "{error}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    // An empty directory is a place, as a mounted volume is.
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    write_to(&empty, &world).unwrap();
}

#[test]
fn golden_windows_span_the_range_of_answers() {
    let model = model::Model::new(world().network).unwrap();
    let size = 30 * 16;
    let inputs = vec![0.0; size * 100];
    let predictions: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32).collect();
    let golden = Golden::choose(&model, &inputs, &predictions, 5);
    assert_eq!(golden.expected, [0.0, 24.0, 49.0, 74.0, 99.0]);
    assert_eq!(Golden::choose(&model, &inputs[..size], &predictions, 5).expected, [0.0]);
}

#[test]
fn bounds_rise_and_end_below_the_cap() {
    let predictions: Vec<f64> = (0..1000).map(|i| f64::from(i).min(125.0)).collect();
    let bounds = bounds(&predictions, 125.0).unwrap();
    assert!(bounds.windows(2).all(|w| w[0] < w[1]));
    assert_eq!((bounds[0], *bounds.last().unwrap()), (5.0, 124.5));
    assert!(super::bounds(&[], 125.0).is_err());
}
