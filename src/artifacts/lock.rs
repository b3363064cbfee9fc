//! `artifacts.yml`: every artifact by its name, fixed by its content.
//!
//! ```yaml
//! k3s:
//!   version: v1.36.4+k3s1
//!   kind: binary
//!   url: https://…
//!   sha256: 8358…
//! postgres:
//!   version: 17.11-bookworm
//!   kind: image
//!   ref: docker.io/library/postgres:17.11-bookworm
//!   digest: sha256:0bfb…
//! ```
//!
//! A later file replaces whole entries of an earlier one; there an entry may have a `recipe` in place of a hash:
//! `recipe: { script: sandbox/k3s/build.sh, inputs: [sandbox/k3s] }` or `recipe: { image: sandbox/images/postgres/image.yml }`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_yaml::Spanned;

use super::document;
use crate::diagnostic::{Diagnostic, Diagnostics, Place, did_you_mean};
use crate::hash;
use crate::host::ArtifactPin;

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One program.
    Binary,
    /// A tar or zip with several files, or an archive of images.
    Archive,
    /// A container image.
    Image,
    /// A Helm chart.
    Chart,
    /// Kubernetes objects.
    Manifest,
}

/// One artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub name: String,
    pub version: String,
    pub kind: Kind,
    pub source: Source,
    /// Licence as SPDX has it, where it is known.
    pub license: Option<String>,
    /// What one should know about it.
    pub note: Option<String>,
    /// Where it is pinned.
    pub place: Place,
}

/// Where an artifact comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file behind a URL.
    Url { url: String, sha256: String },
    /// An image of a registry; `reference` has a tag and no digest.
    Registry { reference: String, digest: String },
    /// A file that a script builds.
    Script(ScriptRecipe),
    /// An image that our own builder builds; the path of its `image.yml`, relative to the project.
    Image(String),
}

/// A file that a script builds: `bash SCRIPT OUT`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptRecipe {
    /// Relative to the project.
    pub script: String,
    /// Files and folders that it reads, relative to the project: when one changes, it is built again.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Name of the file at `OUT`, where the script cares.
    #[serde(default = "output")]
    pub output: String,
}

fn output() -> String {
    "out".to_owned()
}

/// All artifacts by their names.
#[derive(Debug, Clone, Default)]
pub struct Lock {
    artifacts: BTreeMap<String, Artifact>,
}

impl Lock {
    /// Reads these files; a later one replaces entries of the earlier ones.
    ///
    /// # Errors
    /// Everything that is wrong, with file:line:col: among it every artifact without a hash, by name.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Diagnostics> {
        let mut lock = Self::default();
        let mut faults = Diagnostics::default();
        for path in paths {
            let file = path.display().to_string();
            let text = match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) => {
                    faults.0.push(Diagnostic::new(format!("{file}: {error}")));
                    continue;
                }
            };
            match Self::parse(&file, &text) {
                Ok(layer) => lock.artifacts.extend(layer.artifacts),
                Err(Diagnostics(more)) => faults.0.extend(more),
            }
        }
        faults.into_result(lock)
    }

    /// Reads one file from its text.
    ///
    /// # Errors
    /// As [`Lock::load`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let raw: BTreeMap<String, Spanned<Entry>> =
            document::parse(file, text).map_err(|fault| Diagnostics(vec![fault]))?;
        let mut lock = Self::default();
        let mut faults = Diagnostics::default();
        for (name, entry) in raw {
            let place = document::place(file, entry.referenced);
            match entry.value.source(&name, &place) {
                Err(fault) => faults.0.push(fault),
                Ok(source) => {
                    let artifact = Artifact {
                        name: name.clone(),
                        version: entry.value.version,
                        kind: entry.value.kind,
                        license: entry.value.license,
                        note: entry.value.note,
                        source,
                        place,
                    };
                    lock.artifacts.insert(name, artifact);
                }
            }
        }
        faults.into_result(lock)
    }

    /// The artifact of this name.
    ///
    /// # Errors
    /// When there is none, with a suggestion.
    pub fn get(&self, name: &str) -> Result<&Artifact> {
        self.artifacts.get(name).ok_or_else(|| {
            let near = did_you_mean(name, self.artifacts.keys().map(String::as_str));
            let hint = near.map(|near| format!("; {near}")).unwrap_or_default();
            anyhow!("artifacts.yml has no artifact {name:?}{hint}")
        })
    }

    /// All artifacts, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Artifact> {
        self.artifacts.values()
    }

    /// The pin of an artifact whose file is known without building anything.
    ///
    /// # Errors
    /// When there is none of this name, or it is an image of a registry or comes from a recipe.
    pub fn pin(&self, name: &str) -> Result<ArtifactPin> {
        let artifact = self.get(name)?;
        match &artifact.source {
            Source::Url { url, sha256 } => Ok(ArtifactPin {
                name: name.to_owned(),
                version: artifact.version.clone(),
                sha256: sha256.clone(),
                url: Some(url.clone()),
            }),
            Source::Registry { .. } => Err(anyhow!(
                "{}: artifact {name} is an image of a registry, not a file; use it as `image: {{ artifact: {name} }}`",
                artifact.place
            )),
            Source::Script(_) | Source::Image(_) => {
                Err(anyhow!("{}: artifact {name} comes from a recipe and is not built yet", artifact.place))
            }
        }
    }
}

/// An entry as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: String,
    kind: Kind,
    url: Option<String>,
    sha256: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    digest: Option<String>,
    recipe: Option<RecipeEntry>,
    license: Option<String>,
    note: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeEntry {
    script: Option<String>,
    #[serde(default)]
    inputs: Vec<String>,
    output: Option<String>,
    image: Option<String>,
}

impl Entry {
    fn source(&self, name: &str, place: &Place) -> Result<Source, Diagnostic> {
        let fault = |message: String| Diagnostic::at(place.clone(), message);
        match (&self.url, &self.reference, &self.recipe) {
            (Some(url), None, None) => {
                if !url.starts_with("https://") && !url.starts_with("http://") {
                    return Err(fault(format!("artifact {name}: {url:?} is not an http(s) URL")));
                }
                let Some(sha256) = &self.sha256 else {
                    return Err(fault(format!("artifact {name} has no sha256, so its content is not fixed"))
                        .hint("add the SHA-256 that its publisher gives; an artifact without a hash is never used"));
                };
                if !hash::is_sha256(sha256) {
                    return Err(fault(format!("artifact {name}: sha256 {sha256:?} is not 64 lower-case hex digits")));
                }
                Ok(Source::Url { url: url.clone(), sha256: sha256.clone() })
            }
            (None, Some(reference), None) => {
                if self.kind != Kind::Image {
                    return Err(fault(format!("artifact {name}: only `kind: image` has a `ref`")));
                }
                let Some(digest) = &self.digest else {
                    return Err(fault(format!("artifact {name} has no digest, so its content is not fixed")).hint(
                        "add the digest of its manifest, `digest: sha256:…`; an artifact without a hash is never used",
                    ));
                };
                if !digest.strip_prefix("sha256:").is_some_and(hash::is_sha256) {
                    return Err(fault(format!(
                        "artifact {name}: digest {digest:?} is not sha256: and 64 lower-case hex digits"
                    )));
                }
                if !is_full_reference(reference) {
                    return Err(fault(format!("artifact {name}: ref {reference:?} is not REGISTRY/NAME:TAG"))
                        .hint("write all of it, like docker.io/library/postgres:17.11-bookworm"));
                }
                Ok(Source::Registry { reference: reference.clone(), digest: digest.clone() })
            }
            (None, None, Some(recipe)) => match (&recipe.script, &recipe.image) {
                (Some(script), None) => Ok(Source::Script(ScriptRecipe {
                    script: script.clone(),
                    inputs: recipe.inputs.clone(),
                    output: recipe.output.clone().unwrap_or_else(output),
                })),
                (None, Some(image)) if self.kind == Kind::Image => Ok(Source::Image(image.clone())),
                (None, Some(_)) => Err(fault(format!("artifact {name}: an image recipe makes a `kind: image`"))),
                _ => Err(fault(format!("artifact {name}: a recipe has either `script` or `image`"))),
            },
            _ => Err(fault(format!(
                "artifact {name} has no source: give it one of `url` (with `sha256`), `ref` (with `digest`), `recipe`"
            ))),
        }
    }
}

/// `REGISTRY/NAME:TAG`, without a digest.
fn is_full_reference(reference: &str) -> bool {
    let Some((registry, rest)) = reference.split_once('/') else {
        return false;
    };
    let qualified = registry.contains(['.', ':']) || registry == "localhost";
    let tagged = rest.rsplit_once(':').is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty());
    qualified && tagged && !reference.contains('@')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        Lock::parse("artifacts.yml", text).unwrap_err().to_string()
    }

    fn url_entry(name: &str, version: &str) -> String {
        let sha256 = hash::sha256(version);
        format!("{name}:\n  version: {version}\n  kind: binary\n  url: https://example.org/x\n  sha256: {sha256}\n")
    }

    #[test]
    fn an_artifact_without_a_hash_is_refused_by_name_and_all_at_once() {
        let text = "helm:\n  version: v4\n  kind: archive\n  url: https://example.org/helm\n\
                    pg:\n  version: v17\n  kind: image\n  ref: docker.io/library/postgres:17\n";
        insta::assert_snapshot!(faults(text), @"
        artifacts.yml:2:3: artifact helm has no sha256, so its content is not fixed
          hint: add the SHA-256 that its publisher gives; an artifact without a hash is never used
        artifacts.yml:6:3: artifact pg has no digest, so its content is not fixed
          hint: add the digest of its manifest, `digest: sha256:…`; an artifact without a hash is never used
        ");
    }

    #[test]
    fn what_does_not_fit_has_a_place() {
        assert!(
            faults("a:\n  version: v1\n  kind: binary\n  sha: x\n")
                .starts_with("artifacts.yml:4:3: unknown field `sha`")
        );
        assert!(faults("a:\n  version: v1\n  kind: program\n").starts_with("artifacts.yml:3:9: "));
        assert!(faults("a:\n  version: v1\n  kind: binary\n").contains("artifact a has no source"));
        let digest = format!("digest: sha256:{}", hash::sha256("x"));
        let text = format!("a:\n  version: v1\n  kind: image\n  ref: postgres:17\n  {digest}\n");
        assert!(faults(&text).contains("is not REGISTRY/NAME:TAG"));
        let twice = url_entry("a", "1.0") + &url_entry("a", "1.0");
        assert!(faults(&twice).starts_with("artifacts.yml:6:1: duplicate"), "{}", faults(&twice));
    }

    #[test]
    fn a_later_file_replaces_entries_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a.yml"), dir.path().join("b.yml"));
        std::fs::write(&first, url_entry("k3s", "v1") + &url_entry("helm", "v4")).unwrap();
        let recipe = "k3s:\n  version: v2\n  kind: binary\n  recipe: { script: k3s/build.sh, inputs: [k3s] }\n";
        std::fs::write(&second, recipe).unwrap();
        let lock = Lock::load(&[first, second]).unwrap();
        assert_eq!(lock.pin("helm").unwrap().sha256, hash::sha256("v4"));
        assert_eq!(lock.get("k3s").unwrap().version, "v2");
        assert!(lock.pin("k3s").unwrap_err().to_string().contains("comes from a recipe"));
        let error = lock.get("helmm").unwrap_err().to_string();
        assert_eq!(error, "artifacts.yml has no artifact \"helmm\"; did you mean \"helm\"?");
    }

    #[test]
    fn the_projects_own_files_fit_and_what_the_sandbox_overlays_is_pinned_upstream() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let upstream = Lock::load(&[root.join("artifacts.yml")]).unwrap();
        let sandbox = Lock::load(&[root.join("sandbox/artifacts.yml")]).unwrap();
        for artifact in sandbox.iter() {
            assert_eq!(upstream.get(&artifact.name).unwrap().kind, artifact.kind, "{}", artifact.name);
            let paths = match &artifact.source {
                Source::Script(recipe) => [&recipe.script].into_iter().chain(&recipe.inputs).collect(),
                Source::Image(recipe) => vec![recipe],
                Source::Url { .. } | Source::Registry { .. } => vec![],
            };
            for path in paths {
                assert!(root.join(path).exists(), "{}: {path}", artifact.name);
            }
        }
    }
}
