//! A layer of files from Debian packages, with the shared libraries that the programs among them need.
//!
//! The packages are only unpacked: none of their scripts run, nothing is configured. Which libraries a program needs is asked of
//! the unpacked dynamic loader itself, so its search rules are the real ones.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::layer::{Entry, Layer, Written};
use super::links::{self, Last};
use super::recipe::{Debian, Owner};
use crate::artifacts::script::{self, Step};
use crate::artifacts::{Inputs, Progress, Store};

/// Changes when the same inputs would give another layer.
const BUILDER: &str = "debian layer 1";

/// Where the kernel looks for the dynamic loader of this architecture.
const LOADER: &str =
    if cfg!(target_arch = "aarch64") { "/lib/ld-linux-aarch64.so.1" } else { "/lib64/ld-linux-x86-64.so.2" };

/// What is unpacked but never wanted: it would only make the unpacking slower.
const UNWANTED: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

/// Makes the layer, or finds it in the cache.
///
/// # Errors
/// When not root, mmdebstrap is missing or fails, or a path or library is not in the packages.
pub fn layer(debian: &Debian, store: &Store, progress: Progress<'_>) -> Result<(PathBuf, Written)> {
    let mut inputs = Inputs::new(BUILDER);
    inputs.add("arch", std::env::consts::ARCH);
    inputs.add("suite", &debian.suite);
    for (name, list) in [("packages", &debian.packages), ("paths", &debian.paths), ("exclude", &debian.exclude)] {
        inputs.add(name, list.join("\n"));
    }
    inputs.add("busybox", debian.busybox.to_string());
    let key = inputs.key();
    let what = debian.packages.join(", ");
    let found = |built: crate::artifacts::Built| {
        let path = store.blob_path(&built.sha256);
        (path, Written { sha256: built.sha256, size: built.size })
    };
    if let Some(built) = store.built(&key)? {
        return Ok(found(built));
    }
    let _held = store.lock(&key, &what, progress)?;
    if let Some(built) = store.built(&key)? {
        return Ok(found(built));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("building from Debian packages ({what}) needs root; run it with sudo");
    }
    let work = store.work("debian")?;
    let stage = work.path().join("stage");
    unpack(debian, &stage, store, progress)?;
    let mut closure = Closure::new(&stage);
    closure.merged_usr();
    for path in &debian.paths {
        closure.add(path, &debian.exclude)?;
    }
    if debian.busybox {
        closure.busybox()?;
    }
    let tar = work.path().join("layer.tar");
    closure.layer.write(&tar)?;
    Ok(found(store.put_built(&key, &what, &tar)?))
}

fn unpack(debian: &Debian, stage: &Path, store: &Store, progress: Progress<'_>) -> Result<()> {
    let mut argv = vec![
        "mmdebstrap".to_owned(),
        "--variant=extract".to_owned(),
        format!("--include={}", debian.packages.join(",")),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
    ];
    argv.extend(UNWANTED.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    argv.push(debian.suite.clone());
    argv.push(stage.display().to_string());
    let name = debian.packages.first().map_or("debian", String::as_str);
    script::run(
        &Step { name, argv: &argv, cwd: store.root(), env: &[], missing: "install it: apt-get install mmdebstrap" },
        store,
        progress,
    )
}

/// Files of an unpacked system, with what they need.
struct Closure<'a> {
    stage: &'a Path,
    layer: Layer,
    done: BTreeSet<String>,
}

impl<'a> Closure<'a> {
    fn new(stage: &'a Path) -> Self {
        Self { stage, layer: Layer::default(), done: BTreeSet::new() }
    }

    /// `/bin`, `/lib`... as links into `/usr` where the unpacked system has them so.
    fn merged_usr(&mut self) {
        for name in ["bin", "sbin", "lib", "lib64"] {
            if let Ok(target) = fs::read_link(self.stage.join(name)) {
                let target = target.to_string_lossy().into_owned();
                let owner = Owner::default();
                self.layer.insert(&format!("usr/{name}"), Entry::Directory { mode: 0o755, owner });
                self.layer.insert(name, Entry::Link { target });
            }
        }
    }

    /// Takes a file, link or folder of the stage, and everything that it leads to. A link inside a folder may lead nowhere, as some
    /// do that the packages' scripts would complete.
    fn add(&mut self, path: &str, exclude: &[String]) -> Result<()> {
        let mut todo = VecDeque::from([(path.to_owned(), true)]);
        while let Some((path, must_exist)) = todo.pop_front() {
            let at = self.locate(&path)?;
            let source = self.stage.join(&at);
            let metadata = match fs::symlink_metadata(&source) {
                Ok(metadata) => metadata,
                Err(_) if must_exist => bail!("the packages have no {path}"),
                Err(_) => continue,
            };
            let excluded = |entry: &String| {
                let entry = entry.trim_matches('/');
                at == entry || at.strip_prefix(entry).is_some_and(|rest| rest.starts_with('/'))
            };
            if exclude.iter().any(excluded) || !self.done.insert(at.clone()) {
                continue;
            }
            if metadata.is_symlink() {
                let target = fs::read_link(&source)?.to_string_lossy().into_owned();
                let folder = at.rsplit_once('/').map_or("", |(folder, _)| folder);
                let next = if target.starts_with('/') { target.clone() } else { format!("/{folder}/{target}") };
                todo.push_back((next, must_exist));
                self.layer.insert(&at, Entry::Link { target });
            } else if metadata.is_dir() {
                let owner = Owner::default();
                self.layer.insert(&at, Entry::Directory { mode: 0o755, owner });
                for entry in fs::read_dir(&source)? {
                    let name = entry?.file_name();
                    todo.push_back((format!("/{at}/{}", name.to_string_lossy()), false));
                }
            } else if metadata.is_file() {
                self.layer.insert_tree(&source, &at, None, Owner::default())?;
                if is_elf(&source) {
                    todo.extend(self.needed(&at)?.into_iter().map(|path| (path, true)));
                }
            }
        }
        Ok(())
    }

    /// The same path with every link among its folders followed inside the stage; no slash in front.
    fn locate(&self, path: &str) -> Result<String> {
        let target = |at: &str| Some(fs::read_link(self.stage.join(at)).ok()?.to_string_lossy().into_owned());
        links::follow(path, Last::Kept, target).with_context(|| format!("{path}: too many links"))
    }

    /// The shared libraries of a program or library, and its loader.
    fn needed(&self, at: &str) -> Result<Vec<String>> {
        let output = Command::new("chroot")
            .arg(self.stage)
            .args([LOADER, "--list", &format!("/{at}")])
            .output()
            .context("starting `chroot`")?;
        parse_needed(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("/{at}"))
    }

    /// The shell and tools of busybox, where no other program has the name.
    fn busybox(&mut self) -> Result<()> {
        let at = self.locate("/bin/busybox")?;
        let program = self.stage.join(&at);
        let output = Command::new(&program)
            .arg("--list")
            .output()
            .context("starting busybox; is busybox-static among the packages?")?;
        self.add("/bin/busybox", &[])?;
        let folder = at.rsplit_once('/').map_or("", |(folder, _)| folder);
        for name in String::from_utf8_lossy(&output.stdout).lines() {
            let link = format!("{folder}/{name}");
            if !self.layer.contains(&link) {
                self.layer.insert(&link, Entry::Link { target: "busybox".to_owned() });
            }
        }
        Ok(())
    }
}

/// Paths in what the loader's `--list` prints: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, the loader itself without an
/// arrow. A static program prints no path.
fn parse_needed(text: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some((name, _)) = line.split_once(" => not found") {
            bail!("it needs {name}, which the packages do not have");
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        if let Some((path, _)) = path.split_once(" (")
            && path.starts_with('/')
        {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_loaders_list_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let paths = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_needed(text).unwrap(), paths);
        assert_eq!(parse_needed("\tstatically linked\n").unwrap(), Vec::<String>::new());
        let error = parse_needed("\tlibLLVM.so.14 => not found\n").unwrap_err();
        assert_eq!(error.to_string(), "it needs libLLVM.so.14, which the packages do not have");
    }

    #[test]
    fn links_are_followed_inside_the_stage_and_taken_along() {
        let dir = tempfile::tempdir().unwrap();
        let stage = dir.path();
        fs::create_dir_all(stage.join("usr/lib/data")).unwrap();
        symlink("usr/lib", stage.join("lib")).unwrap();
        symlink("/lib/data", stage.join("usr/lib/alias")).unwrap();
        symlink("/etc/nowhere", stage.join("usr/lib/data/dangling")).unwrap();
        symlink("/etc/nowhere", stage.join("usr/lib/broken")).unwrap();
        fs::write(stage.join("usr/lib/data/file"), "x").unwrap();
        fs::write(stage.join("usr/lib/data/big"), "x").unwrap();
        let mut closure = Closure::new(stage);
        closure.merged_usr();
        closure.add("/lib/alias", &["/usr/lib/data/big".to_owned()]).unwrap();
        for path in ["lib", "usr/lib/alias", "usr/lib/data", "usr/lib/data/file", "usr/lib/data/dangling"] {
            assert!(closure.layer.contains(path), "{path}: {:?}", closure.layer);
        }
        assert!(!closure.layer.contains("usr/lib/data/big"));
        let error = closure.add("/usr/lib/nope", &[]).unwrap_err().to_string();
        assert_eq!(error, "the packages have no /usr/lib/nope");
        let error = closure.add("/usr/lib/broken", &[]).unwrap_err().to_string();
        assert_eq!(error, "the packages have no /etc/nowhere");
    }
}
