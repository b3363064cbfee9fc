//! `rul promote` as its users run it: the program, a registry (a directory and a real MLflow), data.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../../../mlflow-client/tests/server/mlflow.rs"]
#[allow(dead_code)]
mod mlflow;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cmapss::FeatureSet;
use cmapss::synth::{Flavour, Generator};
use cmapss::write::{write_fleet, write_rul};
use model::{Lstm, Model, Network, Scaler};
use rul::registry::{PREVIOUS, PRODUCTION, Registry, RunInfo, STAGING, Version};
use serde_json::Value;

const MODEL: &str = "cmapss-rul";

/// Data, and models that always predict the same number: one glance tells which is better.
struct Bench {
    dir: tempfile::TempDir,
    uri: String,
    registry: Registry,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(uri: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uri = uri.unwrap_or_else(|| format!("file://{}", dir.path().join("registry").display()));
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let generator = Generator::new(Flavour::Fd001);
        let test = generator.test(40, 3).unwrap();
        let file = |name: &str| std::fs::File::create(data.join(name)).unwrap();
        write_fleet(&mut file("test_FD001.txt"), &test.fleet).unwrap();
        write_rul(&mut file("RUL_FD001.txt"), &test.rul).unwrap();
        write_fleet(&mut file("train_FD001.txt"), &generator.train(60, 3).unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let registry = Registry::open(&uri, rul::http::unhurried().unwrap()).unwrap();
        Self { dir, uri, registry, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A version that always predicts `cycles`.
    fn register(&self, cycles: f32) -> String {
        let artifact = self.path(&format!("artifact-{cycles}"));
        constant(&artifact, cycles, &FeatureSet::served().names());
        self.runtime.block_on(self.registry.register(MODEL, &artifact, &RunInfo::default())).unwrap().version
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rul"));
        command.arg("promote").args(args).env_clear().env("MLFLOW_TRACKING_URI", &self.uri);
        if !args.contains(&"--rollback") {
            command.env("RUL_DATA", self.path("data"));
        }
        command.output().unwrap()
    }

    /// The line on stdout of a run that must work.
    fn line(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    fn alias(&self, alias: &str) -> Option<String> {
        self.runtime.block_on(self.registry.alias(MODEL, alias)).unwrap().map(|v| v.version)
    }

    /// production, previous, staging; `-` for none.
    fn aliases(&self) -> String {
        [PRODUCTION, PREVIOUS, STAGING].map(|a| self.alias(a).unwrap_or_else(|| "-".into())).join(" ")
    }

    fn version(&self, version: &str) -> Version {
        self.runtime.block_on(self.registry.version(MODEL, version)).unwrap().unwrap()
    }
}

fn constant(dir: &Path, cycles: f32, features: &[String]) {
    let (input, hidden) = (features.len(), 2);
    let network = Network {
        window: 30,
        scaler: Scaler::identity(input),
        layers: vec![Lstm {
            input,
            hidden,
            w: vec![0.0; 4 * hidden * input],
            r: vec![0.0; 4 * hidden * hidden],
            b: vec![0.0; 4 * hidden],
        }],
        head: vec![0.0; hidden],
        bias: cycles,
        cap: 125.0,
    };
    Model::save_dir(dir, &network, MODEL, "0", features).unwrap();
}

fn the_life_of_a_model(bench: &Bench) {
    let missing = bench.run(&[]);
    assert_eq!(missing.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("register one first"));

    // The first always.
    assert_eq!(bench.register(20.0), "1");
    let first = bench.line(&[]);
    assert_eq!(bench.aliases(), "1 - -");
    for (key, value) in [("new_version", "1"), ("alias_assigned", "production"), ("decision", "first_model")] {
        assert_eq!(first[key], value, "{first}");
    }
    assert!(first["promoted"] == true && first["champion_version"].is_null() && first["challenger_rmse"].is_number());
    let again = bench.line(&[]);
    assert_eq!((again["decision"].as_str(), again["promoted"].as_bool()), (Some("already_served"), Some(false)));

    // A better one; first only asked about.
    assert_eq!(bench.register(60.0), "2");
    let asked = bench.line(&["--dry-run"]);
    assert_eq!((asked["promoted"].as_bool(), asked["dry_run"].as_bool()), (Some(true), Some(true)), "{asked}");
    assert_eq!(bench.aliases(), "1 - -");
    assert_eq!(bench.version("2").tags.get("promotion.decision"), None);
    let better = bench.line(&[]);
    assert_eq!(bench.aliases(), "2 1 -");
    assert!(better["champion_rmse"].as_f64() > better["challenger_rmse"].as_f64(), "{better}");
    assert_eq!((better["champion_version"].as_str(), better["engines"].as_u64()), (Some("1"), Some(40)));
    let tags = bench.version("2").tags;
    assert_eq!(tags["promotion.decision"], "better");
    assert_eq!(tags["promotion.champion_version"], "1");
    let (tagged, told): (f64, _) =
        (tags["promotion.challenger_rmse"].parse().unwrap(), better["challenger_rmse"].as_f64());
    assert!((tagged - told.unwrap()).abs() < 1e-9, "{tagged} {told:?}");
    assert_eq!(tags["promotion.data_sha256"].len(), 64);
    assert_eq!(bench.line(&["--version", "1"])["decision"], "not_better");
    assert_eq!(bench.aliases(), "2 1 1");

    // Better, but not by enough.
    assert_eq!(bench.register(61.0), "3");
    let hardly = bench.line(&[]);
    assert_eq!((hardly["decision"].as_str(), hardly["alias_assigned"].as_str()), (Some("not_better"), Some("staging")));
    assert_eq!(bench.aliases(), "2 1 3");
    assert_eq!(bench.version("3").tags["promotion.promoted"], "false");
    let enough = bench.line(&["--version", "3", "--min-improvement", "0"]);
    assert_eq!(enough["promoted"], true, "{enough}");
    assert_eq!(bench.aliases(), "3 2 -", "it waits no longer");

    // Less error on average, and far too late where it matters.
    assert_eq!(bench.register(100.0), "4");
    let late = bench.line(&["--min-improvement", "0"]);
    assert_eq!(late["decision"], "nasa_score", "{late}");
    assert_eq!(bench.aliases(), "3 2 4");
    let held = bench.line(&["--held-out", "validation", "--min-improvement", "0.01"]);
    assert_eq!(held["engines"], 12, "a fifth of the training engines: {held}");
    assert_eq!(bench.aliases(), "3 2 4");

    // Back, and forth again.
    let dry = bench.line(&["--rollback", "--dry-run"]);
    assert_eq!((dry["from_version"].as_str(), dry["to_version"].as_str()), (Some("3"), Some("2")));
    assert_eq!(bench.aliases(), "3 2 4");
    bench.line(&["--rollback"]);
    assert_eq!(bench.aliases(), "2 3 4");
    assert_eq!(bench.version("3").tags["promotion.rolled_back_to"], "2");
    bench.line(&["--rollback"]);
    assert_eq!(bench.aliases(), "3 2 4");

    let forced = bench.line(&["--version", "1", "--force"]);
    assert_eq!((forced["decision"].as_str(), forced["promoted"].as_bool()), (Some("forced"), Some(true)), "{forced}");
    assert_eq!(bench.aliases(), "1 3 4");
}

#[test]
fn in_a_directory() {
    the_life_of_a_model(&Bench::new(None));
}

#[test]
fn in_a_real_mlflow() {
    let Some(server) = mlflow::Server::start() else { return };
    let bench = Bench::new(Some(server.uri()));
    the_life_of_a_model(&bench);
    let run = bench.version("4").run_id.unwrap();
    let chosen = bench.line(&["--run-id", &run, "--dry-run"]);
    assert_eq!(chosen["new_version"], "4");
}

#[test]
fn what_cannot_be_decided_says_why_and_changes_nothing() {
    let bench = Bench::new(None);
    bench.register(60.0);
    bench.line(&[]);
    bench.register(70.0);
    let refused = |args: &[&str], word: &str, code: i32| {
        let output = bench.run(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(word), "{args:?}: {text}");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(output.stdout.is_empty());
        assert_eq!(bench.aliases(), "1 - -", "{args:?}");
    };
    refused(&["--dataset", "FD009"], "test_FD009", 1);
    refused(&["--version", "77"], "77", 3);
    refused(&["--min-improvement", "1"], "threshold_factor", 2);
    refused(&["--rollback"], "previous", 3);
    refused(&["--run-id", "abc"], "MLflow", 3);
    refused(&["--registry", "http://127.0.0.1:1"], "127.0.0.1:1", 1);
    refused(&["--data", "/nowhere"], "/nowhere", 1);

    // A challenger for other data, one that is broken, a champion that is broken.
    let artifact = bench.path("other");
    constant(&artifact, 1.0, &["speed".to_owned()]);
    let register =
        |dir: &Path| bench.runtime.block_on(bench.registry.register(MODEL, dir, &RunInfo::default())).unwrap();
    register(&artifact);
    refused(&[], "speed", 1);
    std::fs::write(artifact.join("golden.json"), r#"{"windows":[[[1.0]]],"expected":[5.0]}"#).unwrap();
    register(&artifact);
    refused(&[], "golden.json", 1);
    let champion = bench.path("registry/cmapss-rul/versions/1/artifact/model.onnx");
    std::fs::write(champion, "not ONNX").unwrap();
    refused(&["--version", "2"], "--force promotes all the same", 1);
    let forced = bench.line(&["--version", "2", "--force"]);
    assert_eq!((forced["promoted"].as_bool(), bench.aliases().as_str()), (Some(true), "2 1 -"));
}
