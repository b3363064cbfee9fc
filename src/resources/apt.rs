//! Debian packages.

mod locks;
mod shipped;

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Error, Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::short_form::{ShortForm, or_text_or_list, short_form};
use super::{Observed, Resolve, Resource, Shipped};
use crate::diagnostic::Diagnostic;
use crate::diff::{Action, Diff};
use crate::host::{Cmd, CommandFailed, Facts, Output, Query, ReadHost, WriteHost};

const LISTS: &str = "/var/lib/apt/lists";
/// Here dpkg keeps what it was doing when it was cut.
const UPDATES: &str = "/var/lib/dpkg/updates";
/// Field of the diff for a dpkg that was cut.
const INTERRUPTED: &str = "dpkg";
/// A large installation on a slow mirror; APT shows progress all the while.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Debian packages that are installed, or not.
///
/// Waits for other users of APT (unattended-upgrades on a fresh machine) and says who they are. Asks nothing, keeps changed
/// configuration files, installs no recommended packages. `apt-get update` runs only when a package is to be installed and
/// the lists are missing, too old or do not know it.
///
/// ```yaml
/// - apt: [curl, "jq=1.6-2.1"]
/// - apt: { packages: [curl], absent: [snapd], update_cache_older_than: 86400 }
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_text_or_list)]
pub struct Apt {
    /// Names of packages, with `=version` to pin one. Example: `[curl, "jq=1.6-2.1"]`.
    #[serde(default)]
    packages: Vec<String>,
    /// Names of packages that must not be installed. Their configuration files stay.
    #[serde(default)]
    absent: Vec<String>,
    /// Before an installation, refresh package lists older than this, in seconds. Default: 86400, a day.
    #[serde(default = "a_day")]
    update_cache_older_than: u64,
    /// How long to wait for another user of APT, in seconds. Default: 600.
    #[serde(default = "ten_minutes")]
    lock_timeout: u64,
    /// Filled on the controller, where packages come along: then no mirror is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    shipped: Option<Shipped>,
}

const fn a_day() -> u64 {
    86_400
}

const fn ten_minutes() -> u64 {
    600
}

short_form!(Apt);

impl ShortForm for Apt {
    const EXPECTING: &'static str = "a package, a list of packages, or a mapping with the keys `packages` and `absent`";

    fn full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(package: String) -> Result<Self, String> {
        Self::from_list(vec![package])
    }

    fn from_list(packages: Vec<String>) -> Result<Self, String> {
        Ok(Self {
            packages,
            absent: Vec::new(),
            update_cache_older_than: a_day(),
            lock_timeout: ten_minutes(),
            shipped: None,
        })
    }
}

/// What dpkg knows of the packages.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    packages: Vec<Package>,
    /// dpkg was cut in the middle and must finish before it does anything else.
    interrupted: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Package {
    name: String,
    /// Second and third letter of dpkg's abbreviation: what is (`i` installed, `c` only configuration files...) and
    /// whether it is broken (`R`).
    status: char,
    broken: bool,
    version: String,
}

#[async_trait]
impl Resource for Apt {
    const KIND: &'static str = "apt";
    type State = State;

    fn name(&self) -> String {
        let absent = self.absent.iter().map(|name| format!("no {name}"));
        let all: Vec<_> = self.packages.iter().cloned().chain(absent).collect();
        all.join(", ")
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        if self.packages.is_empty() && self.absent.is_empty() {
            bail!("no package is named");
        }
        for spec in self.packages.iter().chain(&self.absent) {
            let (name, version) = split(spec);
            if !is_name(name) || version.is_some_and(|version| !is_version(version)) {
                bail!("{spec:?} is no name of a package (like `curl` or `curl=7.88.1-10`)");
            }
        }
        for name in &self.absent {
            if split(name).1.is_some() {
                bail!("{name:?}: a package that must be absent has no version");
            }
            if self.packages.iter().any(|spec| split(spec).0 == name) {
                bail!("{name} is in `packages` and in `absent`: keep one");
            }
        }
        self.shipped = project.packages();
        match &self.shipped {
            Some(shipped) => shipped::has_all(shipped, self.packages.iter().map(|spec| split(spec).0)),
            None => Ok(()),
        }
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        if let Some(shipped) = &self.shipped {
            shipped::fits(shipped, host.facts())?;
        }
        let names = self.packages.iter().chain(&self.absent);
        let names: Vec<_> = names.map(|spec| split(spec).0.to_owned()).collect();
        let answer = host.query(&Query::dpkg_status(&names)).await?;
        let interrupted =
            host.list_dir(Path::new(UPDATES))?.iter().any(|name| name.bytes().all(|b| b.is_ascii_digit()));
        Ok(Observed::Known(State { packages: parse(&answer)?, interrupted }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        let find = |name: &str| state.packages.iter().find(|package| package.name == name);
        if state.interrupted {
            diff.push(INTERRUPTED, "interrupted -> finished");
        }
        for spec in &self.packages {
            let (name, pinned) = split(spec);
            match find(name) {
                Some(package) if package.is_installed() => {
                    if let Some(pinned) = pinned {
                        diff.compare(name, &package.version, pinned);
                    }
                }
                Some(package) if package.is_halfway() => {
                    diff.push(name, format!("{} -> installed", describe(package.status)))
                }
                _ => diff.push(
                    name,
                    match pinned {
                        Some(version) => format!("absent -> {version}"),
                        None => "absent -> installed".to_owned(),
                    },
                ),
            }
        }
        for name in &self.absent {
            if let Some(package) = find(name)
                && (package.is_installed() || package.is_halfway())
            {
                diff.push(name, format!("{} -> absent", package.version));
            }
        }
        if let Some(action) = &mut diff.action {
            let of = |end: &str| diff.changes.iter().all(|c| c.detail.ends_with(end));
            if of("-> absent") {
                *action = Action::Delete;
            } else if diff.changes.iter().all(|c| c.detail.starts_with("absent ->")) {
                *action = Action::Create;
            }
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let patience = Duration::from_secs(self.lock_timeout);
        locks::wait(host, patience).await?;
        let halfway = |change: &crate::diff::Change| change.detail.starts_with("half");
        if diff.has(INTERRUPTED) || diff.changes.iter().any(halfway) {
            let configure = ["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"];
            host.run(&quiet(Cmd::new(configure)).timeout(PATIENCE))
                .await
                .context("cannot finish what dpkg was doing when it was cut")?;
        }
        let absent: Vec<_> = self.absent.iter().filter(|name| diff.has(name)).collect();
        if !absent.is_empty() {
            let cmd = self.apt(["remove"], absent);
            let removed = locks::retrying(host, patience, &cmd).await;
            removed.map_err(|error| explain(error, host.facts()))?;
        }
        let wanted = self.packages.iter();
        let wanted: Vec<_> = wanted.filter(|spec| diff.has(split(spec).0)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        match &self.shipped {
            Some(shipped) => self.install_shipped(host, &wanted, shipped).await?,
            None => self.install(host, &wanted).await.map_err(|error| explain(error, host.facts()))?,
        }
        self.check_real(host, &wanted).await
    }
}

impl Apt {
    async fn install(&self, host: &dyn WriteHost, wanted: &[&String]) -> Result<()> {
        let patience = Duration::from_secs(self.lock_timeout);
        let update = self.apt(["update"], []);
        let mut fresh = false;
        if self.lists_are_old(host).await? {
            locks::retrying(host, patience, &update).await?;
            fresh = true;
        }
        let options = ["install", "--no-install-recommends", "--allow-downgrades"];
        let install = self.apt(options, wanted.iter().copied());
        match locks::retrying(host, patience, &install).await {
            Err(error) if !fresh && lists_are_to_blame(&error) => {
                locks::retrying(host, patience, &update).await?;
                locks::retrying(host, patience, &install).await?;
            }
            other => {
                other?;
            }
        }
        Ok(())
    }

    async fn lists_are_old(&self, host: &dyn WriteHost) -> Result<bool> {
        let names = host.list_dir(Path::new(LISTS))?;
        if !names.iter().any(|name| name.contains("_Packages")) {
            return Ok(true);
        }
        let paths = [LISTS.to_owned()];
        let answer = host.query(&Query::change_times(&paths)).await?;
        let first = answer.stdout.split(['.', ' ']).next();
        let changed: u64 = first
            .and_then(|seconds| seconds.parse().ok())
            .with_context(|| format!("cannot tell the age of {LISTS}: {}", answer.stderr.trim()))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(now.as_secs().saturating_sub(changed) > self.update_cache_older_than)
    }

    fn apt<'a>(
        &self,
        action: impl IntoIterator<Item = &'a str>,
        packages: impl IntoIterator<Item = &'a String>,
    ) -> Cmd {
        let lock = format!("DPkg::Lock::Timeout={}", self.lock_timeout);
        let mut argv: Vec<String> = vec!["apt-get".into(), "--yes".into()];
        for option in [
            lock.as_str(),
            "Dpkg::Options::=--force-confdef",
            "Dpkg::Options::=--force-confold",
            // A mirror that fails must fail the update, not leave old lists with a warning.
            "APT::Update::Error-Mode=any",
            "Acquire::Retries=3",
        ] {
            argv.extend(["-o".to_owned(), option.to_owned()]);
        }
        argv.extend(action.into_iter().map(str::to_owned));
        argv.extend(packages.into_iter().cloned());
        quiet(Cmd::new(argv)).timeout(PATIENCE)
    }

    /// A virtual package is never installed itself: it would be planned again for ever.
    async fn check_real(&self, host: &dyn WriteHost, wanted: &[&String]) -> Result<()> {
        let names: Vec<_> = wanted.iter().map(|spec| split(spec).0.to_owned()).collect();
        let packages = parse(&host.query(&Query::dpkg_status(&names)).await?)?;
        let missing = names.iter().find(|name| {
            let found = packages.iter().find(|package| package.name == **name);
            !found.is_some_and(Package::is_installed)
        });
        match missing {
            Some(name) => Err(Diagnostic::new(format!(
                "APT installed what provides {name}, but there is no real package of this name"
            ))
            .hint(format!("`apt-cache showpkg {name}` lists what provides it: name one of these"))
            .into()),
            None => Ok(()),
        }
    }
}

impl Package {
    fn is_installed(&self) -> bool {
        self.status == 'i' && !self.broken
    }

    fn is_halfway(&self) -> bool {
        self.broken || !matches!(self.status, 'i' | 'n' | 'c')
    }
}

/// The words begin with "half", so that apply can tell what dpkg must finish.
fn describe(status: char) -> &'static str {
    match status {
        'U' => "half installed (not configured)",
        'F' => "half configured",
        'H' => "half installed",
        'W' | 't' => "half configured (triggers are missing)",
        _ => "half installed (broken)",
    }
}

/// Nothing may ask: nobody would answer.
fn quiet(cmd: Cmd) -> Cmd {
    cmd.env("DEBIAN_FRONTEND", "noninteractive")
        .env("APT_LISTCHANGES_FRONTEND", "none")
        // needrestart on Ubuntu: list what should be restarted, do not do it in the middle of a run.
        .env("NEEDRESTART_MODE", "l")
}

fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (spec, None),
    }
}

/// Debian policy 5.6.7.
fn is_name(name: &str) -> bool {
    let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.');
    name.len() >= 2 && name.bytes().all(fits) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_version(version: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b".+-:~".contains(&b);
    version.starts_with(|c: char| c.is_ascii_digit()) && version.bytes().all(fits)
}

/// Reads `name<TAB>status<TAB>version` lines. Unknown names are on standard error and make the status 1.
fn parse(answer: &Output) -> Result<Vec<Package>> {
    if answer.status > 1 {
        bail!("dpkg-query cannot be asked: {}", answer.stderr.trim());
    }
    answer
        .stdout
        .lines()
        .map(|line| {
            let mut fields = line.split('\t');
            let (Some(name), Some(status), Some(version)) = (fields.next(), fields.next(), fields.next()) else {
                bail!("dpkg-query printed a strange line: {line:?}");
            };
            let mut letters = status.chars().skip(1);
            Ok(Package {
                name: name.split(':').next().unwrap_or(name).to_owned(),
                status: letters.next().unwrap_or('n'),
                broken: letters.next() == Some('R'),
                version: version.to_owned(),
            })
        })
        .collect()
}

fn tail(error: &Error) -> Vec<String> {
    let failed = error.downcast_ref::<CommandFailed>();
    failed.map(|failed| failed.tail.clone()).unwrap_or_default()
}

/// A list that is too old does not know a package, or points to a file that the mirror has replaced.
fn lists_are_to_blame(error: &Error) -> bool {
    const SIGNS: &[&str] = &[
        "Unable to locate package",
        "has no installation candidate",
        "was not found",
        "404  Not Found",
        "Hash Sum mismatch",
    ];
    let lines = tail(error);
    SIGNS.iter().any(|sign| lines.iter().any(|line| line.contains(sign)))
}

/// What APT's failure means and what to do about it, above what it printed.
fn explain(error: Error, facts: &Facts) -> Error {
    let lines = tail(&error);
    let after = |sign: &str| {
        let rest = lines.iter().find_map(|line| line.split_once(sign))?.1;
        Some(rest.trim().trim_matches(['\'', '"']).to_owned())
    };
    let has = |signs: &[&str]| {
        let line = lines.iter().find(|line| signs.iter().any(|sign| line.contains(sign)))?;
        Some(line.trim().trim_start_matches("E: ").to_owned())
    };
    let system = format!("{} {}", facts.os, facts.os_version);
    let problem = if let Some(name) = after("Unable to locate package ") {
        Diagnostic::new(format!("unknown package {name:?}: no repository of this host ({system}) has it"))
            .hint("check its spelling; package names differ between distributions and their releases")
    } else if let Some(line) = has(&["is a virtual package"]) {
        Diagnostic::new(line.trim_end_matches(" provided by:").to_owned() + ", not a real one")
            .hint("name one of the packages that provide it; APT lists them below")
    } else if let Some(line) = has(&["has no installation candidate"]) {
        Diagnostic::new(format!("{line} on {system}"))
            .hint("another package replaced it, or its repository is not enabled on this host")
    } else if let Some(line) = has(&["was not found"]) {
        Diagnostic::new(line)
            .hint("`apt-cache madison NAME` on the host lists the versions that it can have; pin one of these")
    } else if let Some(line) = has(&["No space left on device", "don't have enough free space"]) {
        Diagnostic::new(format!("the disk is full: {line}"))
            .hint("`apt-get clean` and `journalctl --vacuum-size=100M` on the host free some")
    } else if let Some(line) = has(&[
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "connection timed out",
        "Network is unreachable",
    ]) {
        Diagnostic::new(format!("the host cannot reach its package mirror: {line}"))
            .hint("check its network, name resolution and proxy (/etc/apt/apt.conf.d); without internet, give it a mirror or install the packages beforehand")
    } else if has(&["unmet dependencies", "held broken packages"]).is_some() {
        Diagnostic::new("the packages do not fit to what is installed")
            .hint("`apt-get --fix-broken install` and `apt-mark showhold` on the host show what is in the way")
    } else {
        return error;
    };
    error.context(problem)
}

#[cfg(test)]
mod tests;
