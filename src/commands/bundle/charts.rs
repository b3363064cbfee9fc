//! What Helm makes of the charts of stages, on this machine and without a cluster: for the images that are named in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use crate::artifacts::Store;
use crate::cluster::yaml;
use crate::engine::{Program, Step};
use crate::host::{ArtifactPin, MemoryFile};
use crate::image::archive;

/// Where hosts have Helm unless a release says otherwise.
const HELM: &str = "/usr/local/bin/helm";

/// What honest charts need by far, and what no honest chart makes.
const LONGEST: Duration = Duration::from_secs(120);
const LARGEST: u64 = 64 << 20;

/// Renders the charts of releases.
pub struct Charts {
    store: Store,
    /// The archive with the Helm that hosts have at a path, or why there is none.
    programs: BTreeMap<String, Result<ArtifactPin, String>>,
    /// The version that charts are told, where the stages say which one it is.
    kubernetes: Option<String>,
    /// Several hosts get the same releases, from one unpacked program.
    done: RefCell<BTreeMap<String, Vec<Value>>>,
    work: TempDir,
}

impl Charts {
    /// For the releases of `stages`. Helm is the one that one of their `archive` resources brings, else `otherwise`, which is asked
    /// only when there is a release.
    ///
    /// # Errors
    /// When the cache has no room.
    pub fn of<'a>(
        stages: impl IntoIterator<Item = &'a Program>,
        store: &Store,
        mut otherwise: impl FnMut() -> Result<ArtifactPin>,
    ) -> Result<Self> {
        let stages: Vec<_> = stages.into_iter().flat_map(|program| &program.stages).collect();
        let steps: Vec<&Step> = stages.iter().flat_map(|stage| &stage.resources).collect();
        let mut programs = BTreeMap::new();
        for release in steps.iter().filter(|step| step.kind == "helm" && remote(step).is_none()) {
            let path = program_of(release);
            programs.entry(path.to_owned()).or_insert_with(|| {
                let archive = steps.iter().find_map(|step| brings(step, Path::new(path)));
                archive.map_or_else(|| otherwise().map_err(|error| format!("{error:#}")), Ok)
            });
        }
        let kubernetes = steps.iter().find_map(|step| kubernetes_of(step));
        Ok(Self { store: store.clone(), programs, kubernetes, done: RefCell::default(), work: store.work("charts")? })
    }

    /// The archives that must be in the cache.
    pub fn archives(&self) -> impl Iterator<Item = &ArtifactPin> {
        self.programs.values().filter_map(|pin| pin.as_ref().ok())
    }

    /// All objects of a release: those of the chart, its definitions, hooks and tests.
    ///
    /// # Errors
    /// Why they cannot be known.
    pub fn objects(&self, release: &Step) -> Result<Vec<Value>> {
        let key = release.spec.to_string();
        if let Some(objects) = self.done.borrow().get(&key) {
            return Ok(objects.clone());
        }
        let objects = self.render(release)?;
        self.done.borrow_mut().insert(key, objects.clone());
        Ok(objects)
    }

    fn render(&self, release: &Step) -> Result<Vec<Value>> {
        let program = self.program(program_of(release)).context("there is no Helm for this machine")?;
        let spec = &release.spec;
        let packed = match spec["chart"]["packed"]["content_base64"].as_str() {
            Some(content) => Some(MemoryFile::new(&STANDARD.decode(content).context("the packed chart is damaged")?)?),
            None => None,
        };
        let chart = match (&packed, spec["chart"]["artifact"]["sha256"].as_str()) {
            (Some(file), _) => file.path(),
            (None, Some(sha256)) => self.cached(sha256, "the chart")?.display().to_string(),
            (None, None) => bail!("the chart was not resolved"),
        };
        // Not on disk: there may be secrets in it. JSON is YAML.
        let values = MemoryFile::new(spec.get("values").map_or_else(|| "{}".to_owned(), Value::to_string).as_bytes())?;
        let text = |key: &str| spec[key].as_str().unwrap_or_default();
        let mut command = Command::new(program);
        command.args(["template", text("release"), &chart, "--include-crds", "--namespace", text("namespace")]);
        command.args(["--values", &values.path()]);
        if let Some(version) = &self.kubernetes {
            command.args(["--kube-version", version]);
        }
        let rendered = self.run(command)?;
        yaml::read(&rendered).map_err(|fault| anyhow!("Helm's output cannot be read: {fault}"))
    }

    /// Runs Helm, with nothing of the user's configuration and no way to a network.
    fn run(&self, mut command: Command) -> Result<String> {
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(self.work.path());
        for name in ["HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.work.path());
        }
        for name in ["HTTP_PROXY", "HTTPS_PROXY"] {
            command.env(name, "http://127.0.0.1:1");
        }
        command.env("KUBECONFIG", "/dev/null").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting Helm")?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (ended, out, err) = std::thread::scope(|scope| {
            let (out, err) = (scope.spawn(|| read(out)), scope.spawn(|| read(err)));
            (wait(&mut child), out.join(), err.join())
        });
        let text = |read: std::thread::Result<io::Result<String>>| {
            read.map_err(|_| anyhow!("reading from Helm broke off"))?.context("reading from Helm")
        };
        let (out, err) = (text(out)?, text(err)?);
        if !ended? {
            let error = err.split_once("Error: ").map_or(err.as_str(), |(_, error)| error).trim();
            bail!("Helm says: {error}");
        }
        if out.len() as u64 > LARGEST {
            bail!("Helm makes more than {} MiB of it", LARGEST >> 20);
        }
        Ok(out)
    }

    /// The program, unpacked for this run.
    fn program(&self, path: &str) -> Result<PathBuf> {
        let pin = match self.programs.get(path) {
            Some(Ok(pin)) => pin,
            Some(Err(reason)) => bail!("{reason}"),
            None => bail!("no release needs {path}"),
        };
        let program = self.work.path().join(format!("helm-{}", pin.sha256));
        if program.exists() {
            return Ok(program);
        }
        let what = format!("the artifact {}", pin.name);
        let file = self.cached(&pin.sha256, &what)?;
        let context = || format!("unpacking {what}");
        let name = Path::new(path).file_name().unwrap_or_default();
        for entry in tar::Archive::new(archive::open(&file)?).entries().with_context(context)? {
            let mut entry = entry.with_context(context)?;
            let found = entry.path().with_context(context)?.file_name() == Some(name);
            if found && entry.header().entry_type().is_file() {
                let partial = program.with_extension("partial");
                let mut to = File::create(&partial).with_context(context)?;
                io::copy(&mut entry, &mut to).with_context(context)?;
                fs::set_permissions(&partial, Permissions::from_mode(0o700)).with_context(context)?;
                fs::rename(&partial, &program).with_context(context)?;
                return Ok(program);
            }
        }
        bail!("{what} has no file {} in it", name.display())
    }

    fn cached(&self, sha256: &str, what: &str) -> Result<PathBuf> {
        self.store.get(sha256)?.with_context(|| format!("{what} is not in the cache of this machine"))
    }
}

/// Where Helm would bring the chart of a release from by itself.
pub fn remote(release: &Step) -> Option<&str> {
    let chart = release.spec.get("chart")?;
    chart.get("oci").or(chart.get("repo"))?.as_str()
}

fn program_of(release: &Step) -> &str {
    release.spec["helm"].as_str().unwrap_or(HELM)
}

/// What an `archive` resource unpacks to this path.
fn brings(step: &Step, program: &Path) -> Option<ArtifactPin> {
    let folder = Path::new(step.spec["path"].as_str().filter(|_| step.kind == "archive")?);
    let mut included = step.spec["include"].as_array()?.iter().filter_map(Value::as_str);
    included.find(|name| folder.join(name) == program)?;
    serde_json::from_value(step.spec["artifact"].clone()).ok()
}

/// `v1.35.6` of the k3s that a `download` resource brings.
fn kubernetes_of(step: &Step) -> Option<String> {
    let is_k3s = step.kind == "download" && step.spec["path"].as_str()?.ends_with("/k3s");
    let version = step.spec["artifact"]["version"].as_str().filter(|_| is_k3s)?;
    let version = version.split(['+', '-']).next()?;
    let numbers = version.strip_prefix('v')?;
    numbers.split('.').all(|number| number.parse::<u32>().is_ok()).then(|| version.to_owned())
}

/// Whether it ended well.
fn wait(child: &mut Child) -> Result<bool> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("waiting for Helm")? {
            return Ok(status.success());
        }
        if start.elapsed() > LONGEST {
            child.kill().and_then(|()| child.wait()).context("ending Helm")?;
            bail!("Helm was not done after {} seconds", LONGEST.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A little more than may be; the pipe is closed then, which ends the writer.
fn read(from: Option<impl Read>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(LARGEST + 1).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
