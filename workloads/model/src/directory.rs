//! A model as a directory: `model.onnx`, and `model.json` that says what it is and what its bytes
//! hash to. Written so that a reader never sees half of it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Model, Network, onnx};

pub const MODEL_FILE: &str = "model.onnx";
pub const MANIFEST_FILE: &str = "model.json";

/// `model.json`. Unknown fields are kept out on purpose: a typo must not pass silently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    /// Names of the columns, in the order of the input.
    pub features: Vec<String>,
    /// Rows per window.
    pub window: usize,
    /// Largest prediction, in cycles. Absent for a foreign graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<f32>,
    /// Of `model.onnx`, lower-case hexadecimal.
    pub sha256: String,
}

impl Model {
    /// Writes `network` into `dir` (created when absent) and returns its manifest. The manifest is
    /// renamed into place last, so that a crash leaves a directory that does not load rather than
    /// one that loads wrongly.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the network or the names do not fit, [`Error::Io`] for the files.
    pub fn save_dir(
        dir: &Path,
        network: &Network,
        name: &str,
        version: &str,
        features: &[String],
    ) -> Result<Manifest, Error> {
        let labels = onnx::Labels { name: name.into(), version: version.into(), features: features.to_vec() };
        let bytes = onnx::write(network, &labels)?;
        let manifest = Manifest {
            name: name.into(),
            version: version.into(),
            features: features.to_vec(),
            window: network.window,
            cap: Some(network.cap),
            sha256: hex::encode(Sha256::digest(&bytes)),
        };
        let json = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::invalid("manifest", e.to_string()))?;
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        replace(dir, MODEL_FILE, &bytes)?;
        replace(dir, MANIFEST_FILE, &json)?;
        Ok(manifest)
    }

    /// Loads what [`Model::save_dir`] wrote (or a foreign `model.onnx` with a manifest beside it).
    ///
    /// # Errors
    /// [`Error::Io`] when a file is missing, [`Error::Directory`] when hash, window, features or
    /// cap contradict each other, and those of [`Model::from_onnx`].
    pub fn load_dir(dir: &Path) -> Result<(Self, Manifest), Error> {
        let manifest_path = dir.join(MANIFEST_FILE);
        let text = std::fs::read(&manifest_path).map_err(|e| Error::io(&manifest_path, e))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| Error::Directory { path: manifest_path.clone(), reason: e.to_string() })?;
        let path = dir.join(MODEL_FILE);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let refuse = |reason: String| Error::Directory { path: path.clone(), reason };
        if sha256 != manifest.sha256 {
            return Err(refuse(format!("sha256 is {sha256}, {MANIFEST_FILE} says {}", manifest.sha256)));
        }
        let model = Self::from_onnx(&bytes)?;
        if model.window() != manifest.window {
            return Err(refuse(format!(
                "takes windows of {}, {MANIFEST_FILE} says {}",
                model.window(),
                manifest.window
            )));
        }
        if model.features() != manifest.features.len() {
            return Err(refuse(format!(
                "takes {} features, {MANIFEST_FILE} names {}",
                model.features(),
                manifest.features.len()
            )));
        }
        if let (Some(network), Some(cap)) = (model.network(), manifest.cap)
            && network.cap != cap
        {
            return Err(refuse(format!("clips at {}, {MANIFEST_FILE} says {cap}", network.cap)));
        }
        Ok((model, manifest))
    }
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    // A temporary file is private by default; a served model is read by another user.
    let mut file = tempfile::Builder::new()
        .prefix(".model-")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(|e| Error::io(dir, e))?;
    let path = dir.join(name);
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| Error::io(&path, e))?;
    file.persist(&path).map_err(|e| Error::io(&path, e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{network, windows};

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("s{i}")).collect()
    }

    #[test]
    fn a_directory_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/place");
        let network = network(30, 6, 3, &[9]);
        let written = Model::save_dir(&dir, &network, "rul", "3", &names(3)).unwrap();
        let (model, manifest) = Model::load_dir(&dir).unwrap();
        assert_eq!(manifest, written);
        assert_eq!((manifest.window, manifest.cap), (6, Some(125.0)));
        assert_eq!(model.network(), Some(&network));
        let mode = std::fs::metadata(dir.join(MODEL_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        // Nothing but the two files is left behind.
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
        let input = windows(30, &network, 4);
        let trained = Model::new(network).unwrap();
        let difference = crate::verify_export(&dir.join(MODEL_FILE), &trained, &input).unwrap();
        assert_eq!(difference, 0.0);
    }

    #[test]
    fn a_directory_that_contradicts_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let network = network(31, 6, 3, &[9]);
        let refused = |edit: &dyn Fn(&mut Manifest)| {
            let mut manifest = Model::save_dir(dir, &network, "rul", "3", &names(3)).unwrap();
            edit(&mut manifest);
            let json = serde_json::to_vec(&manifest).unwrap();
            std::fs::write(dir.join(MANIFEST_FILE), json).unwrap();
            Model::load_dir(dir).unwrap_err().to_string()
        };
        assert!(refused(&|m| m.window = 7).contains("windows of 6"));
        assert!(refused(&|m| m.features = names(2)).contains("names 2"));
        assert!(refused(&|m| m.cap = Some(130.0)).contains("clips at 125"));
        assert!(refused(&|m| m.sha256 = "00".into()).contains("sha256"));
        std::fs::write(dir.join(MANIFEST_FILE), b"{\"nmae\": 1}").unwrap();
        assert!(Model::load_dir(dir).unwrap_err().to_string().contains("nmae"));
        std::fs::remove_file(dir.join(MANIFEST_FILE)).unwrap();
        assert!(matches!(Model::load_dir(dir), Err(Error::Io { .. })));
    }

    #[test]
    fn a_file_that_predicts_otherwise_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let network = network(32, 6, 3, &[9]);
        let mut other = network.clone();
        other.bias += 0.01;
        Model::save_dir(dir.path(), &other, "rul", "3", &[]).unwrap();
        let path = dir.path().join(MODEL_FILE);
        let input = windows(32, &network, 40);
        let model = Model::new(network).unwrap();
        let error = crate::verify_export(&path, &model, &input).unwrap_err();
        assert!(matches!(error, Error::Disagrees { .. }), "{error}");
        assert!(crate::verify_export(&path, &model, &[]).is_err());
    }
}
