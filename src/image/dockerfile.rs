//! Images of Dockerfiles: BuildKit on the host builds them, from a context that the controller packs.
//!
//! Their tag is the hash of everything that goes in (context, arguments, stage), not of what comes out: a Dockerfile that
//! downloads something gives another image each time it is built, and it is built when one of its inputs changes.

pub mod bases;

use std::collections::BTreeMap;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::build::changed;
use super::dockerignore::Ignored;
use super::layer::Layer;
use super::layout::REGISTRY;
use super::recipe::Owner;
use crate::artifacts::tree::{self, Choice};
use crate::artifacts::{Inputs, Progress, Store};
use crate::host::ArtifactPin;

/// Changes when the same folder would be packed differently.
const PACKER: &str = "docker context 2";

/// What a stage file says about such an image; paths are relative to the project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerSpec {
    pub dockerfile: String,
    /// By default the folder of the Dockerfile.
    pub context: Option<String>,
    /// By default the name of the context's folder.
    pub name: Option<String>,
    pub build_args: BTreeMap<String, String>,
    pub target: Option<String>,
}

/// What the host needs to build it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DockerBuild {
    /// Full reference with the hash of all inputs as tag.
    pub reference: String,
    /// The context, as a tar.
    pub context: ArtifactPin,
    /// Path of the Dockerfile in the context.
    pub dockerfile: String,
    #[serde(default)]
    pub build_args: BTreeMap<String, String>,
    #[serde(default)]
    pub target: Option<String>,
}

/// Packs the context, unless the cache has it, and names the image.
///
/// # Errors
/// When a path leads out of the project or is not there, the Dockerfile is outside of its context, or the name does not fit.
pub fn prepare(spec: &DockerSpec, root: &Path, store: &Store, progress: Progress<'_>) -> Result<DockerBuild> {
    let folder = match &spec.context {
        Some(context) => context.trim_end_matches('/').to_owned(),
        None => Path::new(&spec.dockerfile).parent().unwrap_or(Path::new("")).to_string_lossy().into_owned(),
    };
    for path in [&folder, &spec.dockerfile] {
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(path).components().all(inside) {
            bail!("{path:?} leads out of the project; give a path below {}", root.display());
        }
    }
    let dockerfile = Path::new(&spec.dockerfile).strip_prefix(&folder).map_err(|_| {
        anyhow::anyhow!("{} is not in its context {folder}; name a context that has it", spec.dockerfile)
    })?;
    if !root.join(&spec.dockerfile).is_file() {
        bail!("there is no file {} in the project", spec.dockerfile);
    }
    let default = Path::new(&folder).file_name().map(|name| name.to_string_lossy().into_owned());
    let name = spec.name.clone().or(default).context("an image in the project's own folder needs a `name`")?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.chars().all(fits) || name.starts_with('-') || name.ends_with('-') {
        bail!("the image name {name:?} does not fit; give a `name` of lower-case letters, digits and dashes inside");
    }
    let dockerfile = dockerfile.to_string_lossy().into_owned();
    let context = pack(&name, &root.join(&folder), &dockerfile, store, progress)?;
    let mut inputs = Inputs::new(PACKER);
    inputs.add("context", &context.sha256);
    inputs.add("dockerfile", &dockerfile);
    for (key, value) in &spec.build_args {
        inputs.add(key, value);
    }
    inputs.add("target", spec.target.as_deref().unwrap_or_default());
    let tag = &inputs.key()[..16];
    Ok(DockerBuild {
        reference: format!("{REGISTRY}/{name}:{tag}"),
        context,
        dockerfile,
        build_args: spec.build_args.clone(),
        target: spec.target.clone(),
    })
}

/// The folder as a tar of sorted entries with fixed times, without version control and what its `.dockerignore` leaves out.
fn pack(name: &str, folder: &Path, dockerfile: &str, store: &Store, progress: Progress<'_>) -> Result<ArtifactPin> {
    let folder = std::fs::canonicalize(folder).with_context(|| format!("reading {}", folder.display()))?;
    let look = || {
        let ignored = Ignored::read(&folder, dockerfile)?;
        let choose = |path: &str, source: &Path| {
            // BuildKit needs these two, and itself keeps them from being copied into the image.
            let needed = path == dockerfile || path == ".dockerignore";
            match tree::all_but_git(path, source) {
                Choice::Take if needed || !ignored.leaves_out(path) => Choice::Take,
                Choice::Take if ignored.brings_back() || leads_to(path, dockerfile) => Choice::Look,
                _ => Choice::Leave,
            }
        };
        let found = tree::walk(&folder, &choose)?;
        let mut inputs = Inputs::new(PACKER);
        inputs.add_found("context", &found)?;
        anyhow::Ok((found, inputs.key()))
    };
    let (found, key) = look()?;
    let built = match store.built(&key)? {
        Some(built) => built,
        None => {
            progress(&format!("{name}: packing its context"));
            let mut layer = Layer::default();
            layer.insert_found(&found, "", None, Owner::default());
            let work = store.work(name)?;
            let tar = work.path().join("context.tar");
            layer.write(&tar)?;
            if look()?.1 != key {
                bail!(changed(&folder));
            }
            store.put_built(&key, name, &tar)?
        }
    };
    Ok(ArtifactPin {
        name: format!("context of {name}"),
        version: built.sha256[..16].to_owned(),
        sha256: built.sha256,
        url: None,
    })
}

/// Whether `path` is a folder above `file`.
fn leads_to(path: &str, file: &str) -> bool {
    file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn project() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("apps/web/files")).unwrap();
        fs::write(dir.path().join("apps/web/Dockerfile"), "FROM scratch\nCOPY files /\n").unwrap();
        fs::write(dir.path().join("apps/web/files/a"), "a").unwrap();
        let store = Store::at(dir.path().join("cache")).unwrap();
        (dir, store)
    }

    fn spec() -> DockerSpec {
        DockerSpec { dockerfile: "apps/web/Dockerfile".into(), ..DockerSpec::default() }
    }

    #[test]
    fn the_tag_follows_everything_that_goes_in() {
        let (dir, store) = project();
        let prepare = |spec: &DockerSpec| prepare(spec, dir.path(), &store, &|_| {}).unwrap();
        let first = prepare(&spec());
        assert!(first.reference.starts_with("provision.local/web:"), "{}", first.reference);
        assert_eq!(first.dockerfile, "Dockerfile");
        assert_eq!(prepare(&spec()), first);
        let mut seen = vec![first.reference];
        let with = |change: &dyn Fn(&mut DockerSpec)| {
            let mut spec = spec();
            change(&mut spec);
            prepare(&spec).reference
        };
        seen.push(with(&|spec| spec.build_args = [("A".to_owned(), "1".to_owned())].into()));
        seen.push(with(&|spec| spec.target = Some("final".into())));
        seen.push(with(&|spec| spec.context = Some("apps".into())));
        assert!(seen[3].starts_with("provision.local/apps:"));
        fs::write(dir.path().join("apps/web/files/a"), "b").unwrap();
        seen.push(prepare(&spec()).reference);
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    /// The files of a packed context.
    fn packed(store: &Store, build: &DockerBuild) -> Vec<String> {
        let file = store.open_blob(&build.context.sha256).unwrap().unwrap();
        let mut archive = tar::Archive::new(file);
        let paths = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        paths.filter(|path| !path.ends_with('/')).collect()
    }

    #[test]
    fn what_is_packed_is_in_the_tag_and_version_control_is_in_neither() {
        let (dir, store) = project();
        let prepare = || prepare(&spec(), dir.path(), &store, &|_| {}).unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join("apps/web").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("target/app.jar", "1");
        write("files/target/o", "1");
        write("files/.git/config", "1");
        let first = prepare();
        assert_eq!(packed(&store, &first), ["Dockerfile", "files/a", "files/target/o", "target/app.jar"]);
        for path in ["target/app.jar", "files/target/o"] {
            write(path, "2");
            assert_ne!(prepare().reference, first.reference, "{path}");
            write(path, "1");
        }
        write("files/.git/config", "2");
        assert_eq!(prepare(), first);
    }

    #[test]
    fn what_dockerignore_leaves_out_is_neither_packed_nor_in_the_tag() {
        let (dir, store) = project();
        let write = |path: &str, text: &str| {
            let path = dir.path().join("apps/web").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".dockerignore", "**\n!files/a\n!data/keep\n");
        for path in [".env", "data/large", "data/keep/x"] {
            write(path, "1");
        }
        let prepare = |spec: &DockerSpec| prepare(spec, dir.path(), &store, &|_| {}).unwrap();
        let first = prepare(&spec());
        assert_eq!(packed(&store, &first), [".dockerignore", "Dockerfile", "data/keep/x", "files/a"]);
        write(".env", "2");
        write("data/large", "2");
        assert_eq!(prepare(&spec()), first);
        write("data/keep/x", "2");
        assert_ne!(prepare(&spec()).reference, first.reference);
        // One beside the Dockerfile counts in its place; a Dockerfile that is left out is there nevertheless.
        write("docker/Web", "FROM scratch\n");
        write("docker/Web.dockerignore", "*\n");
        let mut other = spec();
        (other.dockerfile, other.context) = ("apps/web/docker/Web".into(), Some("apps/web".into()));
        assert_eq!(packed(&store, &prepare(&other)), [".dockerignore", "docker/Web"]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (dir, store) = project();
        let error = |change: &dyn Fn(&mut DockerSpec)| {
            let mut spec = spec();
            change(&mut spec);
            prepare(&spec, dir.path(), &store, &|_| {}).unwrap_err().to_string()
        };
        assert!(error(&|spec| spec.dockerfile = "../Dockerfile".into()).contains("leads out of the project"));
        assert!(error(&|spec| spec.dockerfile = "apps/web/none".into()).contains("there is no file"));
        assert!(error(&|spec| spec.context = Some("apps/web/files".into())).contains("is not in its context"));
        assert!(error(&|spec| spec.name = Some("Web".into())).contains("does not fit"));
    }
}
