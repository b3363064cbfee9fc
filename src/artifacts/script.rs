//! Recipes that are scripts: `bash build.sh OUT`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use super::lock::{Artifact, ScriptRecipe};
use super::{Built, Inputs, Progress, Store};

/// Changes when the same inputs would give another file.
const BUILDER: &str = "script 1";

/// Builds what a script recipe makes, or finds it in the cache.
///
/// The script runs as `bash SCRIPT OUT` in the project's folder: it must leave the artifact (a file) at `OUT`. `WORK` and
/// `TMPDIR` name an empty folder for its scratch files, which is removed afterwards. Everything it prints goes to a log file; the last line is shown.
///
/// # Errors
/// When an input is missing, or the script fails or leaves nothing; the error has the last lines and the log's path.
pub fn ensure(
    artifact: &Artifact,
    recipe: &ScriptRecipe,
    root: &Path,
    store: &Store,
    progress: Progress<'_>,
) -> Result<Built> {
    let name = &artifact.name;
    let key = key(artifact, recipe, root).with_context(|| format!("{}: artifact {name}", artifact.place))?;
    if let Some(built) = store.built(&key)? {
        return Ok(built);
    }
    let _held = store.lock(&key, name, progress)?;
    if let Some(built) = store.built(&key)? {
        return Ok(built);
    }
    progress(&format!("{name}: building {} (once)", artifact.version));
    let work = store.work(name)?;
    let scratch = work.path().join("work");
    std::fs::create_dir(&scratch)?;
    let out = work.path().join(&recipe.output);
    let argv = ["bash".to_owned(), recipe.script.clone(), out.display().to_string()];
    let env = [("WORK", scratch.clone()), ("TMPDIR", scratch)];
    let step = Step { name, argv: &argv, cwd: root, env: &env, missing: "install it: apt-get install bash" };
    run(&step, store, progress).with_context(|| format!("{}: artifact {name}", artifact.place))?;
    if !out.is_file() {
        bail!("{}: artifact {name}: `bash {}` ended well but left no file at OUT", artifact.place, recipe.script);
    }
    if self::key(artifact, recipe, root)? != key {
        bail!(
            "{}: artifact {name}: an input of it changed while it was built; run the same command again",
            artifact.place
        );
    }
    let built = store.put_built(&key, name, &out)?;
    progress(&format!("{name}: built, {} MB", built.size / 1_000_000));
    Ok(built)
}

/// What was built of it and may still be in the cache. Only looks.
///
/// # Errors
/// When an input or the cache cannot be read.
pub fn cached(artifact: &Artifact, recipe: &ScriptRecipe, root: &Path, store: &Store) -> Result<Option<Built>> {
    store.record(&key(artifact, recipe, root)?)
}

/// Key of everything that it is built from.
///
/// # Errors
/// When an input cannot be read.
pub fn key(artifact: &Artifact, recipe: &ScriptRecipe, root: &Path) -> Result<String> {
    let mut inputs = Inputs::new(BUILDER);
    inputs.add("arch", std::env::consts::ARCH);
    inputs.add("version", &artifact.version);
    inputs.add("script", &recipe.script);
    inputs.add("output", &recipe.output);
    inputs.add_file("script", &root.join(&recipe.script))?;
    for input in &recipe.inputs {
        inputs.add_sources(input, &root.join(input))?;
    }
    Ok(inputs.key())
}

/// A program that is part of building something.
pub struct Step<'a> {
    /// What is built, for progress and the log's name.
    pub name: &'a str,
    pub argv: &'a [String],
    pub cwd: &'a Path,
    pub env: &'a [(&'a str, PathBuf)],
    /// What to do when the program is not installed.
    pub missing: &'a str,
}

/// Runs a program, its output (both streams, as they come) to the log of this name and line by line to `progress`.
///
/// # Errors
/// When it is not installed or fails; the error has the last 20 lines and the log's path.
pub fn run(step: &Step<'_>, store: &Store, progress: Progress<'_>) -> Result<()> {
    let shown = step.argv.join(" ");
    let (program, arguments) = step.argv.split_first().context("an empty command")?;
    let log_path = store.log_path(step.name);
    let mut log = File::create(&log_path).with_context(|| format!("writing {}", log_path.display()))?;
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(step.cwd)
        .envs(step.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            anyhow!("`{program}` is not installed; {}", step.missing)
        } else {
            anyhow!("starting `{shown}`: {error}")
        }
    })?;
    // Our copy of the writing end must go, or reading never ends.
    drop(command);
    let mut tail = VecDeque::new();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        log.write_all(&line)?;
        let text = String::from_utf8_lossy(&line);
        // Progress bars rewrite one line; its last state is what counts.
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        progress(&format!("{}: {text}", step.name));
        if tail.len() == 20 {
            tail.pop_front();
        }
        tail.push_back(text);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!(
            "`{shown}` failed ({status}); its last lines (all are in {}):\n  {}",
            log_path.display(),
            tail.make_contiguous().join("\n  ")
        );
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::sync::Mutex;

    use super::*;
    use crate::artifacts::{Lock, Source};

    struct Project {
        dir: tempfile::TempDir,
        store: Store,
        said: Mutex<Vec<String>>,
    }

    impl Project {
        fn new(script: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("thing")).unwrap();
            fs::write(dir.path().join("thing/build.sh"), script).unwrap();
            fs::write(dir.path().join("thing/input"), "1").unwrap();
            let store = Store::at(dir.path().join("cache")).unwrap();
            Self { dir, store, said: Mutex::default() }
        }

        fn ensure(&self) -> Result<Built> {
            let text = "thing:\n  version: v1\n  kind: binary\n  recipe: { script: thing/build.sh, inputs: [thing], output: thing.bin }\n";
            let lock = Lock::parse("sandbox/artifacts.yml", text).unwrap();
            let artifact = lock.get("thing").unwrap();
            let Source::Script(recipe) = &artifact.source else {
                panic!("{artifact:?}");
            };
            let say = |line: &str| self.said.lock().unwrap().push(line.to_owned());
            ensure(artifact, recipe, self.dir.path(), &self.store, &say)
        }
    }

    #[test]
    fn built_once_per_content_of_its_inputs_with_its_lines_shown() {
        let script = "set -e\ntest -d \"$WORK\" -a \"$WORK\" = \"$TMPDIR\"\necho compiling\ncase $1 in */thing.bin) ;; *) exit 1 ;; esac\ncp thing/input \"$1\"\n";
        let project = Project::new(script);
        let built = project.ensure().unwrap();
        assert_eq!(fs::read(project.store.blob_path(&built.sha256)).unwrap(), b"1");
        let said = std::mem::take(&mut *project.said.lock().unwrap());
        assert_eq!(said, ["thing: building v1 (once)", "thing: compiling", "thing: built, 0 MB"]);
        assert_eq!(fs::read_to_string(project.store.log_path("thing")).unwrap(), "compiling\n");

        assert_eq!(project.ensure().unwrap(), built);
        assert!(project.said.lock().unwrap().is_empty());
        fs::write(project.dir.path().join("thing/input"), "2").unwrap();
        assert_ne!(project.ensure().unwrap().sha256, built.sha256);
        assert_eq!(fs::read_dir(project.store.root().join("work")).unwrap().count(), 0);
    }

    #[test]
    fn a_failure_shows_the_last_lines_and_the_log() {
        let project = Project::new("for i in $(seq 30); do echo line $i; done\necho broken >&2\nexit 3\n");
        let error = format!("{:#}", project.ensure().unwrap_err());
        assert!(error.starts_with("sandbox/artifacts.yml:2:3: artifact thing: `bash thing/build.sh "), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("logs/thing.log"), "{error}");
        assert!(error.ends_with("line 30\n  broken") && !error.contains("line 11\n"), "{error}");
        assert_eq!(fs::read_dir(project.store.root().join("work")).unwrap().count(), 0);
    }

    #[test]
    fn a_script_that_leaves_nothing_is_an_error() {
        let error = format!("{:#}", Project::new("true\n").ensure().unwrap_err());
        assert!(error.contains("left no file at OUT"), "{error}");
    }
}
