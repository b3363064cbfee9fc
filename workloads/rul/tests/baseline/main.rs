//! `rul baseline` as its users run it: the program, a registry in a directory, files, a cluster.
//!
//! The cluster is a stand-in here ([`cluster`]): a whole Kubernetes takes a machine of its own.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use cmapss::synth::{Flavour, Generator};
use cmapss::write::write_fleet;
use rul::artifact::{Artifact, Baseline};
use rul::registry::{PRODUCTION, Registry, RunInfo};
use serde_json::{Value, json};

const MODEL: &str = "cmapss-rul";

/// A registry, and the data that its models are trained on.
struct Bench {
    dir: tempfile::TempDir,
    registry: Registry,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let uri = dir.path().join("registry").display().to_string();
        let bench = Self { dir, registry: Registry::open(&uri, rul::http::unhurried().unwrap()).unwrap() };
        bench.write_data(24);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_data(&self, engines: u32) {
        let mut file = std::fs::File::create(self.path("data/train_FD001.txt")).unwrap();
        write_fleet(&mut file, &Generator::new(Flavour::Fd001).train(engines, 3).unwrap()).unwrap();
    }

    /// Trains a model, without registering it.
    fn train(&self, epochs: &str) -> PathBuf {
        let out = self.path(&format!("model-{epochs}"));
        let done = rul(&["train", "--seeds", "1", "--epochs", epochs, "--data"])
            .arg(self.path("data"))
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
        out
    }

    /// Registers a directory as what is served.
    fn serve(&self, artifact: &Path) -> String {
        runtime().block_on(async {
            let version = self.registry.register(MODEL, artifact, &RunInfo::default()).await.unwrap();
            self.registry.set_alias(MODEL, PRODUCTION, &version.version).await.unwrap();
            version.version
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = rul(&["baseline", "--json"]);
        command.args(args).env("MLFLOW_TRACKING_URI", self.path("registry"));
        command
    }

    fn line(&self, args: &[&str]) -> Value {
        line(&mut self.command(args))
    }
}

fn rul(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rul"));
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn line(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Content and identity of a file: a new one in its place has another.
fn stamp(path: &Path) -> (Vec<u8>, u64) {
    use std::os::unix::fs::MetadataExt;
    (std::fs::read(path).unwrap(), std::fs::metadata(path).unwrap().ino())
}

#[test]
fn a_file_has_the_served_versions_own_baseline_and_is_written_once() {
    let bench = Bench::new();
    let artifact = bench.train("1");
    bench.serve(&artifact);
    let out = bench.path("baseline.json");
    let args = ["--out", out.to_str().unwrap()];
    let first = bench.line(&args);
    assert_eq!(
        (&first["result"], &first["model_version"], &first["from"]),
        (&json!("written"), &json!("1"), &json!("artifact"))
    );
    let published = Baseline::read(&out).unwrap().unwrap();
    let mut own = Artifact::read(&artifact).unwrap().baseline.unwrap();
    assert_eq!(own.model_version, None);
    own.set_version("1");
    assert_eq!(published, own);
    let before = stamp(&out);
    assert_eq!(bench.line(&args)["result"], "unchanged");
    assert_eq!(stamp(&out), before, "nothing was written");

    // Damage, other edges, another version.
    for (from, to) in [("\"buckets\":[5.0,", "\"buckets\":[4.0,"), ("{\"schema\"", "{\"schema")] {
        let text = String::from_utf8(before.0.clone()).unwrap();
        assert!(text.contains(from));
        std::fs::write(&out, text.replacen(from, to, 1)).unwrap();
        assert_eq!(bench.line(&args)["result"], "written");
        assert_eq!(stamp(&out).0, before.0);
    }
    bench.serve(&bench.train("2"));
    let second = bench.line(&args);
    assert_eq!((&second["result"], &second["model_version"]), (&json!("written"), &json!("2")));
    assert_ne!(second["model_sha256"], first["model_sha256"]);
}

#[test]
fn a_version_without_a_baseline_gets_one_from_the_data() {
    let bench = Bench::new();
    let artifact = bench.train("1");
    let own = Artifact::read(&artifact).unwrap().baseline.unwrap();
    std::fs::remove_file(artifact.join("baseline.json")).unwrap();
    bench.serve(&artifact);
    let out = bench.path("baseline.json");
    let args = ["--out", out.to_str().unwrap()];
    let refused = bench.command(&args).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("version 1") && stderr(&refused).contains("--data"), "{}", stderr(&refused));
    assert!(!out.exists());

    let data = bench.path("data");
    let with_data = [&args[..], &["--data", data.to_str().unwrap()]].concat();
    let said = bench.line(&with_data);
    assert_eq!((&said["result"], &said["from"]), (&json!("written"), &json!("data")));
    let mut computed = Baseline::read(&out).unwrap().unwrap();
    // As training would have written it.
    computed.model.version = None;
    computed.model_version = None;
    assert_eq!(Baseline { generated_at: own.generated_at, generator: own.generator.clone(), ..computed }, own);
    let before = stamp(&out);
    assert_eq!(bench.line(&with_data)["result"], "unchanged", "computed at another time, but the same");
    assert_eq!(stamp(&out), before);

    bench.write_data(25);
    let output = bench.command(&with_data).output().unwrap();
    assert!(stderr(&output).contains("warning: version 1 was trained on FD001"), "{}", stderr(&output));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["result"], "written", "other data, another baseline");
}

#[test]
fn what_is_missing_says_so() {
    let bench = Bench::new();
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let output = bench.command(args).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{args:?}: no {word:?} in {text}"));
        assert!(output.stdout.is_empty());
    };
    refused(&[], 3, &["\"cmapss-rul\"", "\"production\"", "rul promote"]);
    let artifact = bench.train("1");
    runtime().block_on(bench.registry.register(MODEL, &artifact, &RunInfo::default())).unwrap();
    refused(&[], 3, &["\"production\"", "rul promote"]);
    bench.serve(&artifact);
    refused(&["--registry", "http://127.0.0.1:1"], 1, &["127.0.0.1:1"]);
    refused(&["--out", "/nowhere/baseline.json"], 1, &["/nowhere/baseline.json", "No such file"]);
    refused(&[], 1, &["ConfigMap monitoring/evidently-baseline", "KUBECONFIG", "--out"]);
}

#[test]
fn the_configmap_has_both_forms_and_is_written_once() {
    let bench = Bench::new();
    let artifact = bench.train("1");
    bench.serve(&artifact);
    let cluster = cluster::Cluster::start(bench.dir.path());
    let publish = |args: &[&str]| line(bench.command(args).env("KUBECONFIG", cluster.config()));
    let first = publish(&[]);
    assert_eq!(
        (&first["result"], &first["place"]),
        (&json!("written"), &json!("ConfigMap monitoring/evidently-baseline"))
    );
    let map = cluster.map().unwrap();
    assert_eq!(map["metadata"]["annotations"]["rul/model-version"], "1");
    earlier_readers_understand(&map);
    our_drift_job_takes_it(&map, &artifact);
    assert_eq!(publish(&[])["result"], "unchanged");
    assert_eq!(cluster.writes(), 1);

    // What others have in it stays; what was changed in ours is put right, even when somebody writes in between.
    cluster.edit(|map| {
        map["data"]["notes"] = json!("by hand");
        map["data"]["baseline.json"] = json!("{}");
        map["metadata"]["labels"] = json!({"team": "ml"});
    });
    cluster.conflict_once();
    assert_eq!(publish(&[])["result"], "written");
    let after = cluster.map().unwrap();
    assert_eq!((&after["data"]["notes"], &after["metadata"]["labels"]["team"]), (&json!("by hand"), &json!("ml")));
    assert_eq!(after["data"]["baseline.json"], map["data"]["baseline.json"]);

    let other = publish(&["--namespace", "ml", "--configmap", "other"]);
    assert_eq!(other["place"], "ConfigMap ml/other");

    // The manifest is the same object.
    let out = bench.path("baseline.yml");
    let args = ["--out", out.to_str().unwrap()];
    assert_eq!(bench.line(&args)["result"], "written");
    let manifest: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!((&manifest["kind"], &manifest["data"]), (&json!("ConfigMap"), &map["data"]));
    assert_eq!(bench.line(&args)["result"], "unchanged");
    assert_eq!(bench.line(&[&args[..], &["--namespace", "ml"]].concat())["result"], "written");
}

/// As the earlier system's check and tests read it.
fn earlier_readers_understand(map: &Value) {
    let text = |key: &str| map["data"][key].as_str().unwrap().to_owned();
    let earlier: Value = serde_json::from_str(&text("baseline.json")).unwrap();
    assert_eq!(
        (&earlier["model_version"], &earlier["model_uri"]),
        (&json!("1"), &json!("models:/cmapss-rul@production"))
    );
    let list = |key: &str| earlier["histogram"][key].as_array().unwrap().clone();
    assert_eq!((list("buckets").len(), list("counts").len()), (13, 12));
    assert_eq!((&list("buckets")[1], &list("buckets")[12]), (&json!(25.0), &json!(500.0)));
    let counted: u64 = list("counts").iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(earlier["training_set_size"], counted);
    for key in ["mean", "std", "min", "max", "median", "q25", "q75"] {
        assert!(earlier["prediction_stats"][key].is_number(), "{key}");
    }
    assert!(earlier["generated_at"].is_string() && earlier["generator"].is_string());
}

/// Our own drift job, asked from the files that the ConfigMap is mounted as.
fn our_drift_job_takes_it(map: &Value, artifact: &Path) {
    let mounted = tempfile::tempdir().unwrap();
    for key in ["baseline.json", "rul-baseline.json"] {
        std::fs::write(mounted.path().join(key), map["data"][key].as_str().unwrap()).unwrap();
    }
    let (mut server, url) = serve(artifact);
    for path in [mounted.path().to_owned(), mounted.path().join("baseline.json")] {
        let mut command = rul(&["drift", "--once", "--json", "--service", &url, "--baseline"]);
        let look = line(command.arg(&path).env("RUL_TOKEN", "t0ken"));
        let model = &look["evaluation"]["model"];
        assert_eq!(model["baseline_version"], "1", "{look}");
        assert_eq!(model["baseline_sha256"], model["serving_sha256"], "{look}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

/// A service of a model directory, and its address.
fn serve(artifact: &Path) -> (Child, String) {
    let mut command = rul(&["serve", "--listen", "127.0.0.1:0", "--model-dir"]);
    let mut child = command.arg(artifact).env("RUL_TOKEN", "t0ken").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| {
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it said: {line}"));
            (event["event"] == "listening").then(|| event["address"].as_str().unwrap().to_owned())
        })
        .unwrap();
    // Whoever stops reading stops the writer.
    std::thread::spawn(move || lines.for_each(drop));
    (child, format!("http://{address}"))
}
