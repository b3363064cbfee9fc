//! `script:PATH`: a program that a script beside the recipe builds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::build::changed;
use crate::artifacts::script::{self, Step};
use crate::artifacts::{Inputs, Progress, Store};

/// Changes when the same script would leave another file.
const BUILDER: &str = "image script 1";

/// A script that leaves one file. It is run again only when its own text changes, so it must name exact versions of all that it
/// fetches. Its result is kept apart from the image's: a changed label does not compile a server again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    path: PathBuf,
}

impl Script {
    /// `path` is a file.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Adds what the file is built from.
    ///
    /// # Errors
    /// When the script cannot be read.
    pub fn add_inputs(&self, inputs: &mut Inputs) -> Result<()> {
        inputs.add_file("script", &self.path)
    }

    /// The file, built or from the cache. Runs `bash SCRIPT OUT` in the script's folder; `WORK` and `TMPDIR` name an empty
    /// folder that is removed afterwards.
    ///
    /// # Errors
    /// When the script fails or leaves nothing at `OUT`; the error has its last lines and the log's path.
    pub fn build(&self, store: &Store, progress: Progress<'_>) -> Result<PathBuf> {
        let key = self.key()?;
        let name = self.name();
        if let Some(built) = store.built(&key)? {
            return Ok(store.blob_path(&built.sha256));
        }
        let _held = store.lock(&key, &name, progress)?;
        if let Some(built) = store.built(&key)? {
            return Ok(store.blob_path(&built.sha256));
        }
        let work = store.work(&name)?;
        let scratch = work.path().join("work");
        std::fs::create_dir(&scratch)?;
        let out = work.path().join("out");
        let path = std::fs::canonicalize(&self.path).with_context(|| format!("reading {}", self.path.display()))?;
        let argv = ["bash".to_owned(), path.display().to_string(), out.display().to_string()];
        let env = [("WORK", scratch.clone()), ("TMPDIR", scratch)];
        let cwd = path.parent().unwrap_or(Path::new("/"));
        let step = Step { name: &name, argv: &argv, cwd, env: &env, missing: "install it: apt-get install bash" };
        script::run(&step, store, progress)?;
        if !out.is_file() {
            bail!("`bash {}` ended well but left no file at OUT", self.path.display());
        }
        if self.key()? != key {
            bail!(changed(&self.path));
        }
        Ok(store.blob_path(&store.put_built(&key, &name, &out)?.sha256))
    }

    fn key(&self) -> Result<String> {
        let mut inputs = Inputs::new(BUILDER);
        inputs.add("arch", std::env::consts::ARCH);
        self.add_inputs(&mut inputs)?;
        Ok(inputs.key())
    }

    /// `minio-build` for sandbox/images/minio/build.sh: names the log and the lines of progress.
    fn name(&self) -> String {
        let part = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        let folder = part(self.path.parent().and_then(Path::file_name));
        let stem = part(self.path.file_stem());
        folder.into_iter().chain(stem).collect::<Vec<_>>().join("-")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn run_once_per_text_of_the_script() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("server");
        fs::create_dir(&folder).unwrap();
        let store = Store::at(dir.path().join("cache")).unwrap();
        let path = folder.join("build.sh");
        let script = Script::at(path.clone());
        let runs = || fs::read_to_string(folder.join("runs")).unwrap();
        fs::write(&path, "echo ran >> runs\ntest -d \"$WORK\"\necho one > \"$1\"\n").unwrap();
        let first = script.build(&store, &|_| {}).unwrap();
        assert_eq!(fs::read_to_string(&first).unwrap(), "one\n");
        assert_eq!(script.build(&store, &|_| {}).unwrap(), first);
        assert_eq!(runs(), "ran\n", "the same text is not run again");
        assert!(store.log_path("server-build").exists());

        fs::write(&path, "echo ran >> runs\necho two > \"$1\"\n").unwrap();
        assert_eq!(fs::read_to_string(script.build(&store, &|_| {}).unwrap()).unwrap(), "two\n");
        assert_eq!(runs(), "ran\nran\n");

        fs::write(&path, "echo no such module >&2\nexit 3\n").unwrap();
        let error = format!("{:#}", script.build(&store, &|_| {}).unwrap_err());
        assert!(error.contains("exit status: 3") && error.contains("no such module"), "{error}");
        fs::write(&path, "true\n").unwrap();
        let error = format!("{:#}", script.build(&store, &|_| {}).unwrap_err());
        assert!(error.contains("left no file at OUT"), "{error}");
        assert_eq!(fs::read_dir(store.root().join("work")).unwrap().count(), 0, "nothing is left behind");
    }
}
