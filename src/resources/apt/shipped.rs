//! Packages that came along with the controller's bundle, installed by APT from files: no mirror is asked, and the host's own
//! lists and sources stay as they are.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Apt, Shipped, locks};
use crate::diagnostic::Diagnostic;
use crate::host::{ArtifactPin, Cmd, Facts, Owner, WriteHost};

/// The repository while APT reads it.
const FOLDER: &str = "/var/lib/provision/packages";

/// Whether the packages are for this host.
///
/// # Errors
/// When they are for another system.
pub(super) fn fits(shipped: &Shipped, facts: &Facts) -> Result<()> {
    let system = &shipped.system;
    if system.os == facts.os && system.version == facts.os_version {
        return Ok(());
    }
    Err(Diagnostic::new(format!(
        "the bundle has packages for {system}, but this host runs {} {}",
        facts.os, facts.os_version
    ))
    .hint(format!(
        "make a bundle for it: provision bundle create FILE --system {}-{} (on that system, or with --apt)",
        facts.os, facts.os_version
    ))
    .into())
}

/// Whether the bundle was made for stages that install these.
///
/// # Errors
/// Naming the packages that it does not have.
pub(super) fn has_all<'a>(shipped: &Shipped, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let has = |name: &str| shipped.files.keys().any(|file| file.split('_').next() == Some(name));
    let missing: Vec<_> = names.filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Diagnostic::new(format!("the bundle does not have the packages {}", missing.join(", ")))
        .hint("make it again for this stage too: provision bundle create FILE")
        .into())
}

impl Apt {
    pub(super) async fn install_shipped(
        &self,
        host: &dyn WriteHost,
        wanted: &[&String],
        shipped: &Shipped,
    ) -> Result<()> {
        let folder = Path::new(FOLDER);
        // What a run that was cut has left.
        host.remove_dir_all(folder)?;
        host.create_dirs(&folder.join("lists/partial"), 0o755)?;
        let index = host.fetch(&shipped.index).await?;
        let mut content = host.open(&index)?.context("the index of the packages went away")?;
        host.write_stream(&folder.join("Packages"), &mut content, 0o644, Owner::ROOT)?;
        // Every file is fixed by its hash, which the bundle's signature covers.
        let source = format!("deb [trusted=yes] file:{FOLDER} ./\n");
        host.write_file(&folder.join("sources.list"), source.as_bytes(), 0o644, Owner::ROOT)?;

        let patience = Duration::from_secs(self.lock_timeout);
        locks::retrying(host, patience, &self.apt_of_folder(["update"], &[])).await?;
        let install = ["install", "--no-install-recommends", "--allow-downgrades"];
        let asked = self.apt_of_folder(["--print-uris"].into_iter().chain(install), wanted);
        let answer = locks::retrying(host, patience, &asked).await.map_err(|error| unsuitable(error, shipped))?;
        for file in files(&answer.stdout) {
            let sha256 = shipped.files.get(&file).with_context(|| {
                format!("APT asks for {file}, which the bundle's index names and the bundle does not have")
            })?;
            let pin = ArtifactPin {
                name: file.clone(),
                version: shipped.system.to_string(),
                sha256: sha256.clone(),
                url: None,
            };
            let fetched = host.fetch(&pin).await?;
            host.symlink(&folder.join(&file), &fetched)?;
        }
        let install = self.apt_of_folder(install, wanted);
        locks::retrying(host, patience, &install).await.map_err(|error| unsuitable(error, shipped))?;
        host.remove_dir_all(folder)
    }

    /// APT with the repository as its only source.
    fn apt_of_folder<'a>(&self, action: impl IntoIterator<Item = &'a str>, packages: &[&'a String]) -> Cmd {
        let options = [
            format!("Dir::Etc::SourceList={FOLDER}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={FOLDER}/lists/"),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            // Our folder need not be open to APT's own user.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut cmd = self.apt(action, packages.iter().copied());
        cmd.argv.splice(1..1, options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        cmd
    }
}

/// The files in the answer to `--print-uris`: `'file:/folder/./NAME' ...` per line. It gives no hashes for what it trusts.
fn files(answer: &str) -> impl Iterator<Item = String> {
    answer.lines().filter_map(|line| {
        let path = line.strip_prefix('\'')?.split('\'').next()?;
        Some(unescaped(path.rsplit('/').next()?))
    })
}

/// `%2b` as `+`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(u8::is_ascii) {
            Some(byte) => {
                result.push(char::from(byte));
                result.push_str(&part[2..]);
            }
            None => {
                result.push('%');
                result.push_str(part);
            }
        }
    }
    result
}

fn unsuitable(error: anyhow::Error, shipped: &Shipped) -> anyhow::Error {
    let problem = Diagnostic::new(format!("the packages of the bundle (for {}) do not do for this host", shipped.system))
        .hint("what the host has may be newer than the bundle: make the bundle again, after `apt-get update` where it is made");
    error.context(problem)
}

#[cfg(test)]
mod unit {
    #[test]
    fn file_names_in_apts_answer() {
        // Recorded from apt 2.6.1.
        let answer = "Reading package lists...\n'file:/var/lib/provision/packages/./curl_7.88.1-10%2bdeb12u15_amd64.deb' curl_7.88.1-10+deb12u15_amd64.deb 315764 \n'file:/x/./a_1%7erc1_all.deb' a 1 \n";
        let files: Vec<_> = super::files(answer).collect();
        assert_eq!(files, ["curl_7.88.1-10+deb12u15_amd64.deb", "a_1~rc1_all.deb"]);
        assert_eq!(super::unescaped("100%"), "100%");
    }
}
