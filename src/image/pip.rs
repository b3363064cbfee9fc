//! A layer of Python packages from wheels, fixed by a lock file with a hash for each of them.
//!
//! pip only unpacks: it resolves nothing, builds nothing, and runs none of the packages' code. Which wheels fit is decided by the
//! recipe (version of Python, age of the C library), not by the Python of this machine, so that everybody gets the same layer.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::below::Below;
use super::build::changed;
use super::layer::{Entry, Layer, Written};
use super::links::Last;
use super::recipe::Owner;
use crate::artifacts::script::{self, Step};
use crate::artifacts::{Built, Inputs, Progress, Store};
use crate::diagnostic::{Diagnostic, Place};

/// Changes when the same inputs would give another layer.
const BUILDER: &str = "pip layer 1";

/// The second number of the C library of Debian 12.
const DEFAULT_GLIBC: u32 = 36;

/// The oldest C library (2.5) that wheels are made for.
const OLDEST_GLIBC: u32 = 5;

/// Python packages of a lock file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pip {
    /// The lock file, relative to the recipe: `NAME==VERSION --hash=sha256:…` for every package, those that others need included.
    /// Nothing is resolved: what is not in it is not in the image.
    pub requirements: String,
    /// Version of Python in the image: `"3.11"`.
    pub python: String,
    /// Folder for the packages; one that this Python looks into: `/usr/local/lib/python3.11/dist-packages` on Debian.
    pub to: String,
    /// Version of the C library in the image; by default `"2.36"`, Debian 12's. Wheels for newer ones are not taken.
    pub glibc: Option<String>,
    /// Files and folders below `to` to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// What to take nevertheless of what `exclude` leaves out.
    #[serde(default)]
    pub keep: Vec<String>,
    /// The image's own interpreter (`/usr/bin/python3.11`): it compiles the packages and its own library, which makes programs
    /// start in half the time. Its files must come from `debian`. By default nothing is compiled.
    pub compile: Option<String>,
}

impl Pip {
    /// What is wrong with it, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        if !super::recipe::is_plain_absolute(&self.to) {
            return Some(format!("`to: {}` is not an absolute path without `.` and `..`", self.to));
        }
        if self.minor().is_none() {
            return Some(format!("`python: {}` is not a version of Python 3, like \"3.11\"", self.python));
        }
        if self.newest_glibc().is_none() {
            let glibc = self.glibc.as_deref().unwrap_or_default();
            return Some(format!("`glibc: {glibc}` is not a version of the C library, like \"2.36\""));
        }
        let interpreter = self.compile.as_ref().filter(|path| !super::recipe::is_plain_absolute(path))?;
        Some(format!("`compile: {interpreter}` is not an absolute path without `.` and `..`"))
    }

    fn minor(&self) -> Option<u32> {
        self.python.strip_prefix("3.")?.parse().ok()
    }

    fn newest_glibc(&self) -> Option<u32> {
        match &self.glibc {
            None => Some(DEFAULT_GLIBC),
            Some(version) => version.strip_prefix("2.")?.parse().ok().filter(|minor| *minor >= OLDEST_GLIBC),
        }
    }

    fn excludes(&self, path: &str) -> bool {
        let within = |entry: &String| {
            let entry = entry.trim_matches('/');
            path == entry || path.strip_prefix(entry).is_some_and(|rest| rest.starts_with('/'))
        };
        self.exclude.iter().any(within) && !self.keep.iter().any(within)
    }
}

/// Makes the layer, or finds it in the cache. `lock` is the lock file, `below` are the layers of the recipe that are under this one,
/// `under` is what is in all that are.
///
/// # Errors
/// When pip is missing, a package cannot be had or has another hash, or the interpreter cannot compile.
pub fn layer(
    pip: &Pip,
    lock: &Path,
    below: &[(PathBuf, Written)],
    under: Below,
    store: &Store,
    progress: Progress<'_>,
) -> Result<(PathBuf, Written)> {
    let key = key(pip, lock, below, &under)?;
    let what = "Python packages";
    let found = |built: Built| {
        let path = store.blob_path(&built.sha256);
        (path, Written { sha256: built.sha256, size: built.size })
    };
    if let Some(built) = store.built(&key)? {
        return Ok(found(built));
    }
    let _held = store.lock(&key, what, progress)?;
    if let Some(built) = store.built(&key)? {
        return Ok(found(built));
    }
    let work = store.work("pip")?;
    let root = work.path().join("root");
    let site = root.join(pip.to.trim_start_matches('/'));
    for (path, _) in below.iter().filter(|_| pip.compile.is_some()) {
        unpack(path, &root)?;
    }
    fs::create_dir_all(&site)?;
    install(pip, lock, &site, store, progress)?;
    // Small programs with the path of this machine's Python in their first line.
    remove(&site.join("bin"))?;
    forget_programs(&site)?;
    let mut layer = Layer::over(under);
    if let Some(interpreter) = &pip.compile {
        let library = format!("/usr/lib/python{}", pip.python);
        compile(interpreter, &[&pip.to, &library], &root, store, progress)?;
        let library = root.join(library.trim_start_matches('/'));
        insert_compiled(&mut layer, &library, &format!("/usr/lib/python{}", pip.python))?;
    }
    insert_kept(&mut layer, pip, &site, "")?;
    let tar = work.path().join("layer.tar");
    layer.write(&tar)?;
    if self::key(pip, lock, below, layer.below())? != key {
        bail!(changed(lock));
    }
    Ok(found(store.put_built(&key, what, &tar)?))
}

fn key(pip: &Pip, lock: &Path, below: &[(PathBuf, Written)], under: &Below) -> Result<String> {
    let mut inputs = Inputs::new(BUILDER);
    inputs.add("arch", std::env::consts::ARCH);
    inputs.add_file("requirements", lock)?;
    for (name, value) in [("python", &pip.python), ("to", &pip.to)] {
        inputs.add(name, value);
    }
    inputs.add("glibc", pip.glibc.as_deref().unwrap_or_default());
    inputs.add("exclude", pip.exclude.join("\n"));
    inputs.add("keep", pip.keep.join("\n"));
    if let Some(interpreter) = &pip.compile {
        inputs.add("compile", interpreter);
        for (_, layer) in below {
            inputs.add("below", &layer.sha256);
        }
    }
    // Where it lies, if links of the layers below lead it elsewhere.
    let at = under.resolve(&pip.to, Last::Followed);
    if at != pip.to.trim_matches('/') {
        inputs.add("at", at);
    }
    Ok(inputs.key())
}

fn install(pip: &Pip, lock: &Path, site: &Path, store: &Store, progress: Progress<'_>) -> Result<()> {
    let minor = pip.minor().context("no version of Python")?;
    let machine = std::env::consts::ARCH;
    let mut argv: Vec<String> = ["python3", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        .into_iter()
        .chain(["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile", "--no-warn-conflicts"])
        .chain(["--root-user-action=ignore", "--implementation=cp", "--abi=abi3", "--abi=none"])
        .map(str::to_owned)
        .collect();
    argv.push(format!("--python-version=3.{minor}"));
    argv.push(format!("--abi=cp3{minor}"));
    // pip does not know that what fits an old C library fits a newer one, too.
    for glibc in (OLDEST_GLIBC..=pip.newest_glibc().context("no version of the C library")?).rev() {
        argv.push(format!("--platform=manylinux_2_{glibc}_{machine}"));
    }
    for name in ["manylinux2014", "manylinux2010", "manylinux1", "linux"] {
        argv.push(format!("--platform={name}_{machine}"));
    }
    argv.push("--platform=any".to_owned());
    argv.extend(["--target".to_owned(), site.display().to_string()]);
    argv.extend(["--requirement".to_owned(), std::path::absolute(lock)?.display().to_string()]);
    let env = [("PYTHONDONTWRITEBYTECODE", PathBuf::from("1"))];
    let missing = "install it: apt-get install python3-pip";
    script::run(&Step { name: "pip", argv: &argv, cwd: store.root(), env: &env, missing }, store, progress)
}

/// Takes the programs out of the packages' lists of files: they are not in the layer, and their hashes differ by machine.
fn forget_programs(site: &Path) -> Result<()> {
    for entry in fs::read_dir(site)? {
        let record = entry?.path().join("RECORD");
        let Ok(text) = fs::read_to_string(&record) else { continue };
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("../../bin/")).collect();
        fs::write(&record, kept.join("\n") + "\n").with_context(|| format!("writing {}", record.display()))?;
    }
    Ok(())
}

/// Compiles what is in `folders` of `root` by the interpreter that is in it.
fn compile(interpreter: &str, folders: &[&str], root: &Path, store: &Store, progress: Progress<'_>) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("compiling Python packages with the image's own interpreter needs root; run it with sudo");
    }
    progress("pip: compiling");
    // Not by time, which is the same for all files of an image: Python would compile everything again at every start.
    let mut argv: Vec<String> = ["chroot"].map(str::to_owned).to_vec();
    argv.push(root.display().to_string());
    argv.push(interpreter.to_owned());
    argv.extend(["-S", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"].map(str::to_owned));
    argv.extend(folders.iter().map(|folder| (*folder).to_owned()));
    // Without it sets come out in another order every time.
    let env = [("PYTHONHASHSEED", PathBuf::from("0"))];
    // Some packages carry files that are no Python at all: their failures say nothing, what counts is what was compiled.
    let missing = "it is part of coreutils";
    let step = Step { name: "pip-compile", argv: &argv, cwd: store.root(), env: &env, missing };
    let outcome = script::run(&step, store, progress);
    let first = root.join(folders[0].trim_start_matches('/'));
    if has_compiled(&first)? { Ok(()) } else { outcome.and_then(|()| Err(anyhow!("{interpreter} compiled nothing"))) }
}

fn has_compiled(folder: &Path) -> Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && (entry.file_name() == "__pycache__" || has_compiled(&entry.path())?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts the `__pycache__` folders below `folder` into the layer.
fn insert_compiled(layer: &mut Layer, folder: &Path, to: &str) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let inner = format!("{to}/{}", entry.file_name().to_string_lossy());
        if entry.file_name() == "__pycache__" {
            layer.insert_tree(&entry.path(), &inner, Some(0o644), Owner::default())?;
        } else {
            insert_compiled(layer, &entry.path(), &inner)?;
        }
    }
    Ok(())
}

/// Puts what is in `site` below `path` into the layer, but for what the recipe excludes.
fn insert_kept(layer: &mut Layer, pip: &Pip, site: &Path, path: &str) -> Result<()> {
    let folder = site.join(path);
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let inner = if path.is_empty() { name } else { format!("{path}/{name}") };
        if entry.file_type()?.is_dir() {
            insert_kept(layer, pip, site, &inner)?;
        } else if !pip.excludes(&inner) {
            layer.insert_tree(&entry.path(), &format!("{}/{inner}", pip.to), None, Owner::default())?;
        }
    }
    if path.is_empty() {
        layer.insert(&pip.to, Entry::Directory { mode: 0o755, owner: Owner::default() });
    }
    Ok(())
}

fn unpack(tar: &Path, root: &Path) -> Result<()> {
    let file = File::open(tar).with_context(|| format!("reading {}", tar.display()))?;
    let mut archive = tar::Archive::new(file);
    archive.set_overwrite(true);
    archive.unpack(root).with_context(|| format!("unpacking {}", tar.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Every package of a lock file is fixed by version and hash.
///
/// # Errors
/// The first that is not, with its line.
pub(super) fn check_lock(path: &Path) -> Result<(), Diagnostic> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| Diagnostic::new(format!("{file}: {error}")))?;
    let mut entry = String::new();
    let mut first = 0;
    for (index, line) in text.lines().enumerate() {
        if entry.is_empty() {
            first = index as u32 + 1;
        }
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.starts_with('#') {
            continue;
        }
        entry.push(' ');
        entry.push_str(line.trim_end_matches('\\'));
        if line.ends_with('\\') {
            continue;
        }
        let whole = std::mem::take(&mut entry);
        let whole = whole.trim();
        if whole.is_empty() {
            continue;
        }
        let name = whole.split([' ', '=', '<', '>', ';', '[']).next().unwrap_or_default();
        let missing = if name.starts_with('-') {
            Some(format!("the option `{whole}` does not belong into a lock file"))
        } else if !whole.contains("==") {
            Some(format!("{name} is not fixed to a version"))
        } else {
            (!whole.contains("--hash=sha256:")).then(|| format!("{name} has no hash"))
        };
        if let Some(message) = missing {
            return Err(Diagnostic::at(Place { file, line: first, column: 1 }, message)
                .hint("every line is NAME==VERSION --hash=sha256:…, as `pip-compile --generate-hashes` writes it"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pip(exclude: &[&str], keep: &[&str]) -> Pip {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Pip {
            requirements: "requirements.txt".into(),
            python: "3.11".into(),
            to: "/srv/site".into(),
            glibc: None,
            exclude: owned(exclude),
            keep: owned(keep),
            compile: None,
        }
    }

    #[test]
    fn a_lock_file_without_a_version_or_a_hash_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("requirements.txt");
        let error = |text: &str| {
            fs::write(&path, text).unwrap();
            check_lock(&path).err().map(|fault| fault.to_string().replace(&format!("{}/", dir.path().display()), ""))
        };
        assert_eq!(
            error("# words\nsix==1.17.0 \\\n    --hash=sha256:abc \\\n    --hash=sha256:def\n    # via x\n"),
            None
        );
        let hint =
            "\n  hint: every line is NAME==VERSION --hash=sha256:…, as `pip-compile --generate-hashes` writes it";
        for (text, message) in [
            ("six==1.17.0 --hash=sha256:a\nidna==3.20\n", "requirements.txt:2:1: idna has no hash"),
            ("\nflask>=3 --hash=sha256:a\n", "requirements.txt:2:1: flask is not fixed to a version"),
            (
                "--extra-index-url https://x\n",
                "requirements.txt:1:1: the option `--extra-index-url https://x` does not belong into a lock file",
            ),
        ] {
            assert_eq!(error(text).unwrap(), format!("{message}{hint}"));
        }
    }

    #[test]
    fn what_is_kept_of_what_is_excluded() {
        let pip = pip(&["botocore/data", "pandas/tests/"], &["botocore/data/s3"]);
        for (path, excluded) in [
            ("botocore/data/ec2/service.json", true),
            ("botocore/data/s3/service.json", false),
            ("botocore/data/s3control/service.json", true),
            ("botocore/database.py", false),
            ("pandas/tests/a.py", true),
        ] {
            assert_eq!(pip.excludes(path), excluded, "{path}");
        }
    }

    #[test]
    fn versions_are_checked() {
        let fault = |change: &dyn Fn(&mut Pip)| {
            let mut pip = pip(&[], &[]);
            change(&mut pip);
            pip.fault()
        };
        assert_eq!(fault(&|_| {}), None);
        assert!(fault(&|pip| pip.python = "3".into()).unwrap().contains("like \"3.11\""));
        assert!(fault(&|pip| pip.glibc = Some("3.1".into())).unwrap().contains("like \"2.36\""));
        assert!(fault(&|pip| pip.to = "site".into()).unwrap().contains("`to: site`"));
        assert!(fault(&|pip| pip.compile = Some("python3".into())).unwrap().contains("`compile: python3`"));
    }

    /// A wheel of one module and one program, as pip reads it, and its hash.
    fn wheel(folder: &Path) -> String {
        let script = "import sys, zipfile\n\
            w = zipfile.ZipFile(sys.argv[1] + '/tiny-1.0-py3-none-any.whl', 'w')\n\
            w.writestr('tiny/__init__.py', 'def main(): return {1, 2}\\n')\n\
            w.writestr('tiny/data/big', 'x')\n\
            w.writestr('tiny/data/s3', 'x')\n\
            w.writestr('tiny-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\nRequires-Dist: huge\\n')\n\
            w.writestr('tiny-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
            w.writestr('tiny-1.0.dist-info/entry_points.txt', '[console_scripts]\\ntiny = tiny:main\\n')\n\
            w.writestr('tiny-1.0.dist-info/RECORD', '')\n";
        let made = std::process::Command::new("python3").args(["-c", script]).arg(folder).status().unwrap();
        assert!(made.success());
        crate::hash::sha256(fs::read(folder.join("tiny-1.0-py3-none-any.whl")).unwrap())
    }

    /// Names in a layer.
    fn listing(path: &Path) -> Vec<String> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_wheel_is_unpacked_without_what_it_needs_and_once() {
        let has_pip = std::process::Command::new("python3").args(["-m", "pip", "--version"]).output();
        if !has_pip.is_ok_and(|output| output.status.success()) {
            return crate::cluster::testing::missing_peer::<()>("python3 has no pip").unwrap_or_default();
        }
        let dir = tempfile::tempdir().unwrap();
        let hash = wheel(dir.path());
        let lock = dir.path().join("requirements.txt");
        let store = Store::at(dir.path().join("cache")).unwrap();
        // A file in place of a name keeps the test off the network.
        let line = |hash: &str| {
            format!("tiny @ file://{}/tiny-1.0-py3-none-any.whl --hash=sha256:{hash}\n", dir.path().display())
        };
        fs::write(&lock, line(&hash)).unwrap();
        let pip = pip(&["tiny/data"], &["tiny/data/s3"]);
        let first = layer(&pip, &lock, &[], Below::default(), &store, &|_| {}).unwrap();
        let names = listing(&first.0);
        for name in
            ["srv/site/", "srv/site/tiny/__init__.py", "srv/site/tiny/data/s3", "srv/site/tiny-1.0.dist-info/RECORD"]
        {
            assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
        }
        for name in ["srv/site/tiny/data/big", "srv/site/bin/tiny", "srv/site/huge"] {
            assert!(!names.contains(&name.to_owned()), "{name} in {names:?}");
        }
        let said = std::sync::Mutex::new(0);
        assert_eq!(layer(&pip, &lock, &[], Below::default(), &store, &|_| *said.lock().unwrap() += 1).unwrap(), first);
        assert_eq!(*said.lock().unwrap(), 0, "the same lock file is not installed again");

        let elsewhere = Store::at(dir.path().join("elsewhere")).unwrap();
        assert_eq!(
            layer(&pip, &lock, &[], Below::default(), &elsewhere, &|_| {}).unwrap().1,
            first.1,
            "the same bytes"
        );

        fs::write(&lock, line(&"0".repeat(64))).unwrap();
        let error = format!("{:#}", layer(&pip, &lock, &[], Below::default(), &store, &|_| {}).unwrap_err());
        assert!(error.contains("DO NOT MATCH THE HASHES"), "{error}");
    }
}
