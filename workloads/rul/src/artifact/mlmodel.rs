//! The files that let MLflow's Python load the directory: `MLmodel` and the environment it asks for.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::{MODEL_FILE, Manifest};

/// What the environment pins: the versions that the written files are tested with.
const MLFLOW: &str = "3.17.2";
const ONNX: &str = "1.23.2";
const ONNXRUNTIME: &str = "1.32.0";
const NUMPY: &str = "2.4.6";
const PYTHON: &str = "3.11";

/// `MLmodel`. `bytes` is the size of the directory's other files.
pub fn mlmodel(manifest: &Manifest, created: Timestamp, bytes: u64) -> String {
    let time = created.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.6f");
    // The same model has the same id wherever it is written.
    let uuid = manifest.sha256.get(..32).unwrap_or(&manifest.sha256);
    let (window, features) = (manifest.window, manifest.features.len());
    let tensor = |name: &str, shape: &str| {
        format!(r#"[{{"type": "tensor", "name": "{name}", "tensor-spec": {{"dtype": "float32", "shape": {shape}}}}}]"#)
    };
    let inputs = tensor("input", &format!("[-1, {window}, {features}]"));
    let outputs = tensor("output", "[-1, 1]");
    format!(
        "\
artifact_path: model
flavors:
  onnx:
    code: null
    data: {MODEL_FILE}
    onnx_session_options: null
    onnx_version: {ONNX}
    providers:
    - CPUExecutionProvider
  python_function:
    data: {MODEL_FILE}
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: '{PYTHON}'
mlflow_version: {MLFLOW}
model_size_bytes: {bytes}
model_uuid: {uuid}
signature:
  inputs: '{inputs}'
  outputs: '{outputs}'
  params: null
utc_time_created: '{time}'
"
    )
}

pub fn requirements() -> String {
    format!("mlflow=={MLFLOW}\nnumpy=={NUMPY}\nonnx=={ONNX}\nonnxruntime=={ONNXRUNTIME}\n")
}

pub fn conda() -> String {
    let pins = requirements().lines().map(|line| format!("  - {line}\n")).collect::<String>();
    format!("channels:\n- conda-forge\ndependencies:\n- python={PYTHON}\n- pip\n- pip:\n{pins}name: mlflow-env\n")
}

pub fn python_env() -> String {
    format!(
        "python: '{PYTHON}'\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n"
    )
}
