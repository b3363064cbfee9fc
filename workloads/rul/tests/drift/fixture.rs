//! A small trained artifact, traffic for it, and both programs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use cmapss::scale::Unscaled;
use cmapss::synth::{Flavour, Generator};
use cmapss::windows::{WindowSpec, Windows};
use cmapss::{FeatureSet, Fleet};
use model::{Network, Options, Scaler};
use rul::artifact::{self, Draft, Metrics};
use serde_json::{Value, json};

use crate::client::Server;
use crate::peers::post;

pub const TOKEN: &str = "a-token-for-tests";
/// Windows per request.
const BATCH: usize = 100;

fn network(fleet: &Fleet, seed: u64) -> Network {
    let features = FeatureSet::served();
    let windows = Windows::run_to_failure(&fleet.engines, &Unscaled(features.clone()), WindowSpec::training()).unwrap();
    let scaler = Scaler::fit(&windows.values, features.len()).unwrap();
    let data = model::Windows {
        inputs: &windows.values,
        targets: &windows.labels,
        window: windows.length,
        features: windows.features,
    };
    let (validate, train): (Vec<_>, Vec<_>) =
        (0..windows.len()).partition(|&i| windows.origins[i].engine.is_multiple_of(5));
    let options = Options { hidden: vec![8], epochs: 2, seed, ..Options::default() };
    let mut go = |_: &model::EpochReport| ControlFlow::Continue(());
    model::train(&data, &train, &validate, &scaler, &options, None, &mut go).unwrap().network
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
        epoch: 2,
        seed: 42,
        seeds: Vec::new(),
        seconds: 1.0,
        engines: 60,
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

/// Two artifacts of different training runs: the served one, and another.
pub fn artifacts() -> &'static [PathBuf; 2] {
    static ARTIFACTS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    ARTIFACTS.get_or_init(|| {
        let fleet = Generator::new(Flavour::Fd001).train(60, 1).unwrap();
        let root = tempfile::tempdir().unwrap().keep();
        [42, 123].map(|seed| {
            let dir = root.join(format!("seed-{seed}"));
            let draft = Draft {
                name: "cmapss-rul",
                network: &network(&fleet, seed),
                features: &FeatureSet::served(),
                fleet: &fleet,
                metrics: &metrics(),
                created: "2026-01-02T03:04:05Z".parse().unwrap(),
                generator: "test",
            };
            artifact::write(&dir, &draft).unwrap();
            dir
        })
    })
}

/// Copies an artifact's files into a directory that a service watches, `model.json` last.
pub fn publish(artifact: &Path, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    for name in ["golden.json", "baseline.json", "model.onnx", "model.json"] {
        let part = dir.join(format!(".{name}"));
        std::fs::copy(artifact.join(name), &part).unwrap();
        std::fs::rename(part, dir.join(name)).unwrap();
    }
}

/// `rul serve` on an artifact, its ring open.
pub fn serve(dir: &Path) -> Server {
    let server = Server::start_with(&["--model-dir", dir.to_str().unwrap()], &[("RUL_TOKEN", TOKEN)]);
    crate::peers::until("a model", || (server.get("/v1/model").status == 200).then_some(()));
    server
}

/// One window of an engine: raw rows, who it is, how old.
pub struct Shot {
    pub window: Vec<Vec<f64>>,
    pub engine: String,
    pub cycle: u32,
}

/// Consecutive cycles of engines that the model has not seen: `cycles` of each, from its cycle `from` on.
pub fn traffic(flavour: Flavour, engines: u32, from: usize, cycles: usize) -> Vec<Shot> {
    let fleet = Generator::new(flavour).train(engines, 77).unwrap();
    let columns = FeatureSet::served();
    let mut shots = Vec::new();
    for k in 0..cycles {
        for engine in &fleet.engines {
            let end = from + k;
            let rows = &engine.rows[end - 30..end];
            let row = |r: &cmapss::Row| columns.columns().iter().map(|&c| r.get(c)).collect();
            shots.push(Shot {
                window: rows.iter().map(row).collect(),
                engine: format!("{flavour:?}-{}", engine.id),
                cycle: rows[29].cycle,
            });
        }
    }
    shots
}

/// Sends windows as a batch client does.
pub fn send(server: &Server, shots: &[Shot]) {
    for part in shots.chunks(BATCH) {
        let body = json!({
            "instances": part.iter().map(|s| &s.window).collect::<Vec<_>>(),
            "engines": part.iter().map(|s| &s.engine).collect::<Vec<_>>(),
            "cycles": part.iter().map(|s| s.cycle).collect::<Vec<_>>(),
        });
        let answer = post(&format!("http://{}/v1/models/cmapss-rul:predict", server.address), body);
        assert_eq!(answer["predictions"].as_array().unwrap().len(), part.len());
    }
}

/// `rul drift` on this service; nothing else from the environment.
pub fn drift(server: &Server, baseline: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rul"));
    command.env_clear().env("RUL_TOKEN", TOKEN).arg("drift");
    command.arg("--service").arg(format!("http://{}", server.address));
    command.arg("--baseline").arg(baseline);
    command
}

/// Looks once; exit status, the JSON line, and what stood on stderr.
pub fn look(command: &mut Command) -> (i32, Value, String) {
    let Output { status, stdout, stderr } = command.args(["--once", "--json"]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    let line = serde_json::from_str(stdout.trim()).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"));
    (status.code().unwrap(), line, stderr)
}
