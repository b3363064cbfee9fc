//! Debian packages with everything that they depend on, as an APT repository of files.
//!
//! APT itself resolves them, with its own idea of what is installed: nothing. So the answer does not depend on the machine that
//! asks, and a host finds what it lacks in the repository whatever it has already. The price is that the base system (the C
//! library, perl-base…) is in it too: some 30 MB. Nothing is installed and nothing of this machine's APT is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::bundle::{BundledPackage, System};
use super::script::{self, Step};
use super::{Progress, Store};
use crate::hash;
use crate::host::ArtifactPin;

/// Packages that the controller brings along, for hosts that reach no mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shipped {
    /// What they are for.
    pub system: System,
    /// The index of the repository, `Packages`.
    pub index: ArtifactPin,
    /// SHA-256 of each file that the index names.
    pub files: BTreeMap<String, String>,
}

/// A repository of packages in a folder.
#[derive(Debug)]
pub struct Repository {
    /// The folder with the files.
    pub folder: PathBuf,
    /// Its index, `Packages`.
    pub index: String,
    pub packages: Vec<BundledPackage>,
}

/// Downloads `packages` (names, or `name=version`) and all that they depend on.
///
/// The sources, keys and options of APT are those in `etc`, by default /etc/apt; everything else goes into `work`.
///
/// # Errors
/// When APT is not installed, its mirrors cannot be reached, or it does not know a package; the error has APT's last lines.
pub fn repository(
    packages: &[String],
    etc: Option<&Path>,
    work: &Path,
    store: &Store,
    progress: Progress<'_>,
) -> Result<Repository> {
    let path = |name: &str| work.join(name);
    for folder in ["lists/partial", "archives/partial", "packages"] {
        fs::create_dir_all(path(folder)).with_context(|| format!("making {}", path(folder).display()))?;
    }
    fs::write(path("status"), "")?;
    let options = options(etc, work);
    let apt = |step: &str, arguments: &[String]| {
        let mut argv = vec!["apt-get".to_owned(), "--yes".to_owned()];
        argv.extend(options.iter().flat_map(|option| ["-o".to_owned(), option.clone()]));
        argv.extend_from_slice(arguments);
        let missing = "bundles with packages are made on a Debian or Ubuntu machine";
        script::run(&Step { name: "packages", argv: &argv, cwd: work, env: &[], missing }, store, progress)
            .with_context(|| format!("{step} the Debian packages of the bundle"))
    };
    apt("looking up", &["update".to_owned()])?;
    let install = ["--download-only", "--no-install-recommends", "install"].map(str::to_owned);
    apt("bringing", &[&install[..], packages].concat())?;

    let folder = path("packages");
    let mut repository = Repository { folder: folder.clone(), index: String::new(), packages: Vec::new() };
    for name in deb_files(&path("archives"))? {
        let file = without_epoch(&name);
        fs::rename(path("archives").join(&name), folder.join(&file))?;
        repository.add(&file).with_context(|| format!("reading the package {name}"))?;
    }
    if repository.packages.is_empty() {
        bail!(
            "APT brought no package for {}; its output is in {}",
            packages.join(", "),
            store.log_path("packages").display()
        );
    }
    Ok(repository)
}

fn options(etc: Option<&Path>, work: &Path) -> Vec<String> {
    let path = |name: &str| work.join(name).display().to_string();
    let mut options = vec![
        format!("Dir::State::status={}", path("status")),
        format!("Dir::State::extended_states={}", path("extended_states")),
        format!("Dir::State::lists={}/", path("lists")),
        format!("Dir::Cache::archives={}/", path("archives")),
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
        // The folder is ours alone, and its path need not be open to APT's own user.
        "Debug::NoLocking=1".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
        "APT::Update::Error-Mode=any".to_owned(),
        "Acquire::Retries=3".to_owned(),
        "Acquire::Languages=none".to_owned(),
        // Only colours and a bar.
        "Dpkg::Use-Pty=0".to_owned(),
    ];
    if let Some(etc) = etc {
        options.push(format!("Dir::Etc={}/", etc.display()));
    }
    options
}

fn deb_files(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|it| it.ends_with(".deb"))
        .collect();
    names.sort();
    Ok(names)
}

/// `conntrack_1%3a1.4.7_amd64.deb` as `conntrack_1.4.7_amd64.deb`: in an index, a percent sign would be read as an escape.
fn without_epoch(name: &str) -> String {
    match (name.split_once('_'), name.split_once("%3a")) {
        (Some((package, _)), Some((_, rest))) => format!("{package}_{rest}"),
        _ => name.to_owned(),
    }
}

impl Repository {
    fn add(&mut self, file: &str) -> Result<()> {
        let path = self.folder.join(file);
        let output = Command::new("dpkg-deb").arg("--field").arg(&path).output().context("starting dpkg-deb")?;
        if !output.status.success() {
            bail!("dpkg-deb: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let control = String::from_utf8(output.stdout).context("its control file is no text")?;
        let content = fs::File::open(&path)?;
        let size = content.metadata()?.len();
        let sha256 = hash::sha256_reader(content)?;
        self.index.push_str(&stanza(&control, file, size, &sha256));
        self.packages.push(BundledPackage {
            name: field(&control, "Package")?,
            version: field(&control, "Version")?,
            architecture: field(&control, "Architecture")?,
            file: file.to_owned(),
            sha256,
        });
        Ok(())
    }
}

/// A package in the index: its control file, and where it lies.
fn stanza(control: &str, file: &str, size: u64, sha256: &str) -> String {
    format!("{}\nFilename: ./{file}\nSize: {size}\nSHA256: {sha256}\n\n", control.trim_end())
}

fn field(control: &str, name: &str) -> Result<String> {
    let value = control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("its control file has no {name}"))?.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn file_names_need_no_escape() {
        assert_eq!(without_epoch("conntrack_1%3a1.4.7-1+b2_amd64.deb"), "conntrack_1.4.7-1+b2_amd64.deb");
        assert_eq!(without_epoch("libc6_2.36-9+deb12u14_amd64.deb"), "libc6_2.36-9+deb12u14_amd64.deb");
    }

    #[test]
    fn the_index_has_what_apt_reads() {
        let control = "Package: curl\nVersion: 7.88\nArchitecture: amd64\nDescription: x\n long\n";
        let sha256 = hash::sha256("x");
        let expected = format!(
            "Package: curl\nVersion: 7.88\nArchitecture: amd64\nDescription: x\n long\nFilename: ./curl.deb\nSize: 3\nSHA256: {sha256}\n\n"
        );
        assert_eq!(stanza(control, "curl.deb", 3, &sha256), expected);
        assert_eq!(field(control, "Version").unwrap(), "7.88");
        assert!(field(control, "Depends").is_err());
    }

    #[test]
    fn another_folder_of_sources_can_be_named() {
        let with = options(Some(Path::new("/srv/jammy")), Path::new("/work"));
        assert!(with.contains(&"Dir::Etc=/srv/jammy/".to_owned()), "{with:?}");
        assert!(!options(None, Path::new("/work")).iter().any(|option| option.starts_with("Dir::Etc")));
    }
}
