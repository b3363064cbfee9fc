//! Where a chart comes from.

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hash::sha256;
use crate::host::HelmChart;
use crate::resources::Resolve;
use crate::resources::artifact::ArtifactRef;

/// Larger folders belong into an artifact.
const LARGEST: usize = 8 * 1024 * 1024;

/// Where a chart comes from.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chart {
    /// An artifact: the chart's `.tgz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactRef>,
    /// A folder of the project with the chart, its dependencies in `charts/`. Hidden files are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// A reference `oci://…`, which the host brings itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oci: Option<String>,
    /// Address of a chart repository, which the host brings the chart from itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo: Option<String>,
    /// Name of the chart in `repo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Its exact version, for `oci` and `repo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Filled on the controller from `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    packed: Option<Packed>,
}

/// A folder as an archive.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Packed {
    /// `demo 0.1.0`.
    title: String,
    content_base64: String,
    sha256: String,
}

/// What is read of `Chart.yaml`.
#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

impl Chart {
    /// Fills in what the project knows.
    ///
    /// # Errors
    /// What does not fit together, or is missing.
    pub fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        ensure!(self.packed.is_none(), "`packed` cannot be given: the chart comes from the folder that `path` names");
        let given = [self.artifact.is_some(), self.path.is_some(), self.oci.is_some(), self.repo.is_some()];
        ensure!(
            given.iter().filter(|&&given| given).count() == 1,
            "`chart` needs exactly one of `artifact`, `path`, `oci` and `repo`"
        );
        let remote = self.oci.is_some() || self.repo.is_some();
        ensure!(
            remote || self.version.is_none(),
            "`version` is for charts from `oci` and `repo`; this one has its own"
        );
        ensure!(self.repo.is_some() == self.name.is_some(), "`repo` and `name` of the chart belong together");
        if let Some(artifact) = &mut self.artifact {
            artifact.resolve(project)?;
        }
        if let Some(path) = &self.path {
            let path = path.trim_end_matches('/');
            let files = project.folder(path)?;
            self.packed = Some(pack(&files).with_context(|| format!("chart {path}"))?);
        }
        if let Some(reference) = &self.oci {
            ensure!(reference.starts_with("oci://"), "`oci` {reference:?} must begin with oci://");
            ensure!(
                self.version.is_some() != reference.contains('@'),
                "a chart from `oci` needs either a `version` or a digest (oci://…@sha256:…), so that it stays the same"
            );
        }
        if let Some(repo) = &self.repo {
            ensure!(
                repo.starts_with("https://") || repo.starts_with("http://"),
                "`repo` {repo:?} is not an http(s) URL"
            );
            ensure!(self.version.is_some(), "a chart from `repo` needs a `version`, so that it stays the same");
        }
        Ok(())
    }

    /// The archive that travels with the spec.
    ///
    /// # Errors
    /// When it was damaged on the way.
    pub fn content(&self) -> Result<Option<Vec<u8>>> {
        let decoded = self.packed.as_ref().map(|packed| STANDARD.decode(&packed.content_base64));
        decoded.transpose().context("the content of the chart is not base64")
    }

    /// The chart as Helm brings it itself; `None` for one that is handed to it.
    pub fn remote(&self) -> Option<HelmChart> {
        if let Some(reference) = &self.oci {
            return Some(HelmChart::Oci { reference: reference.clone(), version: self.version.clone() });
        }
        let (url, name, version) = (self.repo.clone()?, self.name.clone()?, self.version.clone()?);
        Some(HelmChart::Repository { url, name, version })
    }

    /// A value that changes with the content (of remote ones: with where it comes from), fit for a label.
    pub fn label(&self) -> String {
        let mut digest = match (&self.artifact, &self.packed) {
            (Some(ArtifactRef::Pin(pin)), _) => pin.sha256.clone(),
            (_, Some(packed)) => packed.sha256.clone(),
            _ => sha256(format!("{:?}", self.remote())),
        };
        digest.truncate(40);
        digest
    }

    /// How it is called in a plan: `minio-chart 5.4.0`.
    pub fn title(&self) -> String {
        match (&self.artifact, &self.packed, &self.remote()) {
            (Some(ArtifactRef::Pin(pin)), ..) => format!("{} {}", pin.name, pin.version),
            (_, Some(packed), _) => packed.title.clone(),
            (_, _, Some(HelmChart::Oci { reference, version: Some(version) })) => format!("{reference} {version}"),
            (_, _, Some(HelmChart::Oci { reference, .. })) => reference.clone(),
            (_, _, Some(HelmChart::Repository { name, version, .. })) => format!("{name} {version}"),
            _ => "chart".into(),
        }
    }
}

/// The same files give the same archive.
fn pack(files: &[(String, Vec<u8>)]) -> Result<Packed> {
    let metadata = files.iter().find(|(name, _)| name == "Chart.yaml").context("it has no Chart.yaml")?;
    let text = String::from_utf8_lossy(&metadata.1);
    let metadata: Metadata =
        serde_yaml::from_str(&text).map_err(|error| anyhow!("Chart.yaml: {}", error.without_snippet()))?;
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in files {
        let hidden = name.split('/').any(|part| part.starts_with('.'));
        let backup = ["~", ".bak", ".orig", ".swp", ".tmp"].iter().any(|end| name.ends_with(end));
        if hidden || backup {
            continue;
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive.append_data(&mut header, format!("{}/{name}", metadata.name), content.as_slice())?;
    }
    let bytes = archive.into_inner()?.finish()?;
    if bytes.len() > LARGEST {
        bail!("it is larger than {} MiB; pack it and name it in artifacts.yml", LARGEST / 1024 / 1024);
    }
    Ok(Packed {
        title: format!("{} {}", metadata.name, metadata.version),
        sha256: sha256(&bytes),
        content_base64: STANDARD.encode(&bytes),
    })
}
