//! Model directories made on the spot: small networks with weights from a fixed sequence.

use std::path::Path;

use model::{Lstm, Model, Network, Scaler};
use serde_json::json;

pub const WINDOW: usize = 30;
pub const FEATURES: usize = 16;

/// Numbers in -1 .. 1, the same for the same seed.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

pub fn network(seed: u64, features: usize) -> Network {
    let hidden = 8;
    let scaled = |seed, count, size: f32| numbers(seed, count).iter().map(|x| x * size).collect();
    Network {
        window: WINDOW,
        scaler: Scaler::identity(features),
        layers: vec![Lstm {
            input: features,
            hidden,
            w: scaled(seed, 4 * hidden * features, 0.4),
            r: scaled(seed + 1, 4 * hidden * hidden, 0.3),
            b: scaled(seed + 2, 4 * hidden, 0.3),
        }],
        head: scaled(seed + 3, hidden, 40.0),
        bias: 70.0,
        cap: 125.0,
    }
}

fn names(features: usize) -> Vec<String> {
    (0..features).map(|i| format!("feature_{i}")).collect()
}

/// Writes a directory and returns its model.
pub fn write(dir: &Path, seed: u64, version: &str) -> Model {
    write_with(dir, seed, version, FEATURES)
}

pub fn write_with(dir: &Path, seed: u64, version: &str, features: usize) -> Model {
    let network = network(seed, features);
    Model::save_dir(dir, &network, "cmapss-rul", version, &names(features)).unwrap();
    Model::new(network).unwrap()
}

/// `golden.json` with answers that are `error` cycles off.
pub fn write_golden(dir: &Path, model: &Model, error: f32) {
    let windows = [numbers(1, WINDOW * FEATURES), numbers(2, WINDOW * FEATURES)];
    let expected: Vec<f32> = windows.iter().map(|w| model.predict_all(w).unwrap()[0] + error).collect();
    let windows: Vec<_> = windows.iter().map(|w| rows(w)).collect();
    replace(dir, "golden.json", &json!({ "windows": windows, "expected": expected }).to_string());
}

pub fn rows(window: &[f32]) -> Vec<Vec<f32>> {
    window.chunks(FEATURES).map(<[f32]>::to_vec).collect()
}

/// Body of a request for one window.
pub fn sequence(window: &[f32]) -> String {
    json!({ "sequence": rows(window) }).to_string()
}

/// Renamed into place: a service that polls must never see half of it.
pub fn replace(dir: &Path, name: &str, content: &str) {
    let new = dir.join("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, dir.join(name)).unwrap();
}
