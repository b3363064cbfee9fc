//! Our ONNX files in the hands of others: `onnx.checker` accepts them, onnxruntime predicts the same.
//!
//! Needs a Python with `bench/kernel/requirements.txt` installed: `ONNX_PYTHON`, or
//! `~/.cache/provision/venv-onnx`. Without one the test says so and passes, unless
//! `PROVISION_REQUIRE_PEERS=1`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::Command;

use model::{Error, Lstm, Model, Network, Scaler};

fn python() -> Option<PathBuf> {
    let given = std::env::var_os("ONNX_PYTHON").map(PathBuf::from);
    let found = given.or_else(|| {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        Some(home.join(".cache/provision/venv-onnx/bin/python")).filter(|p| p.exists())
    });
    if found.is_none() {
        let required = std::env::var("PROVISION_REQUIRE_PEERS").is_ok_and(|v| v == "1");
        assert!(!required, "no Python with onnx and onnxruntime (set ONNX_PYTHON)");
        eprintln!("skipped: no Python with onnx and onnxruntime (set ONNX_PYTHON)");
    }
    found
}

/// Repeatable numbers in -1 .. 1: the golden ratio's multiples.
fn noise(i: usize) -> f32 {
    ((i as f64 * 0.618_033_988_749_894_9).fract() * 2.0 - 1.0) as f32
}

fn network(hidden: &[usize]) -> Network {
    let weights = |count: usize, size: f32| (0..count).map(|i| noise(i) * size).collect::<Vec<_>>();
    let mut input = 16;
    let layers = hidden
        .iter()
        .map(|&hidden| {
            let layer = Lstm {
                input,
                hidden,
                w: weights(4 * hidden * input, 0.3),
                r: weights(4 * hidden * hidden, 0.2),
                b: weights(4 * hidden, 0.5),
            };
            input = hidden;
            layer
        })
        .collect();
    Network {
        window: 30,
        scaler: Scaler { mean: weights(16, 500.0), scale: (0..16).map(|i| 0.5 + i as f32).collect(), regimes: None },
        layers,
        head: weights(input, 20.0),
        bias: 70.0,
        cap: 125.0,
    }
}

/// The same for engines that fly in six regimes, told apart by the first feature.
fn in_regimes(mut network: Network) -> Network {
    network.scaler.mean.fill(0.0);
    network.scaler.scale.fill(1.0);
    network.scaler.regimes = Some(model::Regimes {
        column: 0,
        centres: vec![0.0, 10.0, 20.0, 25.0, 35.0, 42.0],
        mean: (0..96).map(|i| if i % 16 == 0 { 20.0 } else { noise(i) * 500.0 }).collect(),
        scale: (0..96).map(|i| 0.5 + (i % 16) as f32).collect(),
    });
    network
}

fn numbers(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let (words, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    words.iter().map(|w| f32::from_le_bytes(*w)).collect()
}

fn agree(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let spread = ours.iter().copied().fold(f32::MIN, f32::max) - ours.iter().copied().fold(f32::MAX, f32::min);
    eprintln!("{what}: largest difference {worst:e} over a spread of {spread}");
    assert!(spread > 0.1, "{what}: all predictions alike, nothing is compared");
    assert!(worst < 1e-3, "{what}: {worst}");
}

#[test]
fn onnxruntime_agrees() {
    let Some(python) = python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/peer.py");
    for (hidden, regimes) in [(&[64, 64][..], false), (&[20], false), (&[33, 16, 8], false), (&[64], true)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let network = if regimes { in_regimes(network(hidden)) } else { network(hidden) };
        let names: Vec<String> = (0..16).map(|i| format!("s{i}")).collect();
        Model::save_dir(folder, &network, "rul", "1", &names).unwrap();
        let input: Vec<f32> = (0..40 * 30)
            .flat_map(|row| {
                let scaler = &network.scaler;
                let columns = scaler.mean.iter().zip(&scaler.scale).enumerate();
                columns.map(move |(i, (m, s))| match &scaler.regimes {
                    None => m + 2.5 * s * noise(row * 16 + i),
                    // The first feature wanders through all regimes, the others stay near their own level there.
                    Some(r) => {
                        let centre = r.centres[row % 6];
                        let own = (row % 6) * 16 + i;
                        let level = if i == 0 { centre } else { r.mean[own] };
                        level + 2.5 * noise(row * 16 + i) * if i == 0 { 0.1 } else { r.scale[own] }
                    }
                })
            })
            .collect();
        let bytes: Vec<u8> = input.iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(folder.join("input.f32"), bytes).unwrap();
        let run = Command::new(&python).arg(&script).arg(folder).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        eprint!("{}", String::from_utf8_lossy(&run.stdout));
        let (model, _) = Model::load_dir(folder).unwrap();
        let ours = model.predict_all(&input).unwrap();
        agree(&ours, &numbers(&folder.join("output.f32")), &format!("{hidden:?}, regimes: {regimes}"));

        let foreign = std::fs::read(folder.join("foreign.onnx")).unwrap();
        assert!(matches!(model::onnx::read(&foreign), Err(Error::Foreign { .. })));
        #[cfg(feature = "rten")]
        {
            let model = Model::from_onnx(&foreign).unwrap();
            assert_eq!(model.backend(), model::Backend::Rten);
            let ours = model.predict_all(&input).unwrap();
            agree(&ours, &numbers(&folder.join("foreign.f32")), "rten");
        }
    }
}
