//! `cargo:PACKAGE/BIN`: a program of the project's workspace, linked statically.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use toml::{Table, Value};

use crate::artifacts::{Inputs, Progress, Store};
use crate::diagnostic::did_you_mean;

/// A program of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CargoBinary {
    package: String,
    bin: String,
}

impl CargoBinary {
    /// From `PACKAGE/BIN`.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('-')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        let (package, bin) = text.split_once('/')?;
        (plain(package) && plain(bin)).then(|| Self { package: package.to_owned(), bin: bin.to_owned() })
    }

    /// Adds what the program is built from: the package, those of its dependencies that are in the workspace, the workspace's
    /// manifest, lock file and toolchain file. The compiler's version is not among them: a new compiler alone is no reason to
    /// restart what runs.
    ///
    /// # Errors
    /// When the workspace has no such package or a manifest cannot be read.
    pub fn add_inputs(&self, inputs: &mut Inputs, root: &Path) -> Result<()> {
        inputs.add("cargo", format!("{}/{}", self.package, self.bin));
        for name in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo/config.toml"] {
            if root.join(name).exists() {
                inputs.add_file(name, &root.join(name))?;
            }
        }
        for folder in self.folders(root)? {
            let name = folder.strip_prefix(root).unwrap_or(&folder);
            inputs.add_sources(&name.to_string_lossy(), &folder)?;
        }
        Ok(())
    }

    /// The package's folder and those of its dependencies that are in the workspace.
    fn folders(&self, root: &Path) -> Result<BTreeSet<PathBuf>> {
        let workspace = read_manifest(root)?;
        let members = members(root, &workspace)?;
        let package = members.get(&self.package).ok_or_else(|| {
            let hint = did_you_mean(&self.package, members.keys().map(String::as_str));
            anyhow!(
                "the workspace {} has no package {:?}{}",
                root.display(),
                self.package,
                hint.map(|hint| format!("; {hint}")).unwrap_or_default()
            )
        })?;
        closure(root, &workspace, package)
    }

    /// Forgets what was compiled of the workspace. Cargo tells sources of the same package in two checkouts apart by their times
    /// only, and would take what it compiled of newer files in the other one.
    fn forget(&self, root: &Path, target: &Path, triple: &str) -> Result<()> {
        let mut clean = Command::new("cargo");
        clean.args(["clean", "--quiet", "--locked", "--release", "--target", triple]).current_dir(root);
        for folder in self.folders(root)? {
            if let Some(name) = package_name(&read_manifest(&folder)?) {
                clean.args(["--package", name]);
            }
        }
        let output = clean.env("CARGO_TARGET_DIR", target).output().context("starting cargo; is Rust installed?")?;
        if !output.status.success() {
            bail!(
                "`cargo clean` in {} failed:\n{}",
                root.display(),
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(())
    }

    /// Builds the program at `to`. All builds share one folder of cargo's, so each has it to itself until its program is out of it.
    ///
    /// # Errors
    /// When cargo is not installed or fails; the error ends with the last lines that it printed.
    pub fn build(&self, root: &Path, store: &Store, to: &Path, progress: Progress<'_>) -> Result<()> {
        let _held = store.lock("cargo", &self.bin, progress)?;
        // Which C library is in the triple's name matters less than that it is linked statically: the image has none.
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let target = store.root().join("cargo");
        self.forget(root, &target, &triple)?;
        let argv = [
            "build",
            "--release",
            "--locked",
            "--color",
            "never",
            "--target",
            &triple,
            "--package",
            &self.package,
            "--bin",
            &self.bin,
        ];
        let shown = format!("cargo {}", argv.join(" "));
        let mut child = Command::new("cargo")
            .args(argv)
            .current_dir(root)
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
            .env_remove("RUSTFLAGS")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{shown}`; is Rust installed?"))?;
        let mut tail = Vec::new();
        for line in BufReader::new(child.stderr.take().context("no output of cargo")?).lines() {
            let line = line.unwrap_or_default();
            progress(&format!("{}: {}", self.bin, line.trim()));
            tail.push(line);
        }
        let status = child.wait()?;
        if !status.success() {
            let tail = tail[tail.len().saturating_sub(20)..].join("\n");
            bail!("`{shown}` in {} failed ({status}):\n{tail}", root.display());
        }
        let program = target.join(triple).join("release").join(&self.bin);
        fs::copy(&program, to).with_context(|| format!("copying {}", program.display()))?;
        Ok(())
    }
}

/// Static linking, and no path of this machine in the program: another checkout gives the same bytes. Cargo names files of the
/// workspace relative to it; its folder must not be in the flags, or another checkout compiles every dependency again.
fn rustflags() -> String {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    if let Some(home) = cargo_home {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    flags.join("\u{1f}")
}

fn read_manifest(folder: &Path) -> Result<Table> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.parse().with_context(|| format!("reading {}", path.display()))
}

fn package_name(manifest: &Table) -> Option<&str> {
    manifest.get("package")?.get("name")?.as_str()
}

/// Folder of every package of the workspace by its name.
fn members(root: &Path, workspace: &Table) -> Result<BTreeMap<String, PathBuf>> {
    let list = workspace.get("workspace").and_then(|workspace| workspace.get("members")).and_then(Value::as_array);
    let mut folders = vec![root.to_owned()];
    for member in list.into_iter().flatten().filter_map(Value::as_str) {
        match member.strip_suffix("/*") {
            None => folders.push(root.join(member)),
            Some(parent) => {
                let parent = root.join(parent);
                for entry in fs::read_dir(&parent).with_context(|| format!("reading {}", parent.display()))? {
                    let folder = entry?.path();
                    if folder.join("Cargo.toml").exists() {
                        folders.push(folder);
                    }
                }
            }
        }
    }
    let mut members = BTreeMap::new();
    for folder in folders {
        let manifest = read_manifest(&folder)?;
        if let Some(name) = package_name(&manifest) {
            members.insert(name.to_owned(), fs::canonicalize(&folder)?);
        }
    }
    Ok(members)
}

/// `package` and every folder that it depends on by path, sorted.
fn closure(root: &Path, workspace: &Table, package: &Path) -> Result<BTreeSet<PathBuf>> {
    let shared = workspace.get("workspace").and_then(|w| w.get("dependencies"));
    let mut found = BTreeSet::new();
    let mut todo = vec![package.to_owned()];
    while let Some(folder) = todo.pop() {
        if !found.insert(folder.clone()) {
            continue;
        }
        let manifest = read_manifest(&folder)?;
        let targets = manifest.get("target").and_then(Value::as_table);
        let tables = targets.into_iter().flat_map(|targets| targets.values());
        let tables = tables.filter_map(Value::as_table).chain([&manifest]);
        for (name, dependency) in tables.flat_map(|table| {
            ["dependencies", "build-dependencies"].into_iter().filter_map(|key| table.get(key)?.as_table()).flatten()
        }) {
            let inherited = dependency.get("workspace").and_then(Value::as_bool) == Some(true);
            let (base, entry) = if inherited {
                (root, shared.and_then(|shared| shared.get(name)))
            } else {
                (folder.as_path(), Some(dependency))
            };
            if let Some(path) = entry.and_then(|entry| entry.get("path")).and_then(Value::as_str) {
                let path = base.join(path);
                let path = fs::canonicalize(&path)
                    .with_context(|| format!("dependency {name} of {}: {}", folder.display(), path.display()))?;
                todo.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn workspace() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "Cargo.toml",
            "[workspace]\nmembers = ['crates/*', 'app']\n[workspace.dependencies]\nlow = { path = 'crates/low' }\n",
        );
        write("Cargo.lock", "version = 4\n");
        write(
            "app/Cargo.toml",
            "[package]\nname = 'app'\n[dependencies]\nmid = { path = '../crates/mid' }\nserde = '1'\n",
        );
        write("app/src/main.rs", "fn main() {}\n");
        write(
            "crates/mid/Cargo.toml",
            "[package]\nname = 'mid'\n[target.'cfg(unix)'.dependencies]\nlow.workspace = true\n",
        );
        write("crates/mid/src/lib.rs", "");
        write("crates/low/Cargo.toml", "[package]\nname = 'low'\n[dev-dependencies]\nother = { path = '../other' }\n");
        write("crates/low/src/lib.rs", "");
        write("crates/other/Cargo.toml", "[package]\nname = 'other'\n");
        write("crates/other/src/lib.rs", "");
        dir
    }

    fn key(root: &Path) -> String {
        let mut inputs = Inputs::new("test 1");
        let binary = CargoBinary::parse("app/app").unwrap();
        binary.add_inputs(&mut inputs, root).unwrap();
        inputs.key()
    }

    #[test]
    fn only_what_the_program_is_built_from_counts() {
        let dir = workspace();
        let root = fs::canonicalize(dir.path()).unwrap();
        let before = key(&root);
        fs::write(root.join("crates/other/src/lib.rs"), "// changed").unwrap();
        assert_eq!(key(&root), before, "a package that is only used in tests");
        for path in ["crates/low/src/lib.rs", "app/src/main.rs", "Cargo.lock"] {
            let old = fs::read(root.join(path)).unwrap();
            fs::write(root.join(path), "changed").unwrap();
            assert_ne!(key(&root), before, "{path}");
            fs::write(root.join(path), old).unwrap();
        }
        assert_eq!(key(&root), before);
    }

    #[test]
    fn checkouts_share_a_cache_and_never_a_program() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::at(cache.path().to_owned()).unwrap();
        let binary = CargoBinary::parse("app/app").unwrap();
        let build = &|says: &str, age: u64| {
            let dir = tempfile::tempdir().unwrap();
            let root = fs::canonicalize(dir.path()).unwrap();
            fs::create_dir_all(root.join("app/src")).unwrap();
            fs::write(root.join("Cargo.toml"), "[workspace]\nmembers = ['app']\nresolver = '3'\n").unwrap();
            fs::write(root.join("Cargo.lock"), "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"0.0.0\"\n")
                .unwrap();
            fs::write(root.join("app/Cargo.toml"), "[package]\nname = 'app'\nedition = '2024'\n").unwrap();
            let main = root.join("app/src/main.rs");
            fs::write(
                &main,
                format!("fn main() {{ println!({says:?}); if std::env::args().len() > 9 {{ panic!() }} }}"),
            )
            .unwrap();
            let written = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
            fs::File::open(&main).unwrap().set_modified(written).unwrap();
            let program = dir.path().join("program");
            binary.build(&root, &store, &program, &|_| {}).unwrap();
            let said = Command::new(&program).output().unwrap().stdout;
            assert_eq!(String::from_utf8(said).unwrap().trim(), says);
            fs::read(program).unwrap()
        };
        let first = build("one", 0);
        build("two", 3600);
        assert!(build("one", 7200) == first, "another folder gave other bytes");
        // At the same time, too: nobody opens what the other has just built.
        std::thread::scope(|scope| {
            let builds: Vec<_> =
                (0..4).map(|n| scope.spawn(move || build(["one", "two", "three", "four"][n], n as u64))).collect();
            assert!(builds.into_iter().map(|it| it.join().unwrap()).next() == Some(first));
        });
    }

    #[test]
    fn an_unknown_package_is_named_with_a_suggestion() {
        let dir = workspace();
        let binary = CargoBinary::parse("apps/app").unwrap();
        let error = binary.add_inputs(&mut Inputs::new("test 1"), dir.path()).unwrap_err().to_string();
        assert!(error.contains("no package \"apps\"; did you mean \"app\"?"), "{error}");
    }

    #[test]
    fn names_cannot_be_options() {
        assert_eq!(CargoBinary::parse("a/--config"), None);
        assert_eq!(CargoBinary::parse("a"), None);
    }
}
