//! The time zone of the host.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::short_form::{ShortForm, or_text, short_form};
use super::{Observed, Resolve, Resource};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::diff::Diff;
use crate::host::{Owner, ReadHost, WriteHost};

const ZONES: &str = "/usr/share/zoneinfo";
const LOCALTIME: &str = "/etc/localtime";
const TIMEZONE: &str = "/etc/timezone";

/// The time zone of the host. Needs the package `tzdata`.
///
/// ```yaml
/// - timezone: Europe/Berlin
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_text)]
pub struct Timezone {
    /// Name in the time zone database. Example: `Europe/Berlin`, `Etc/UTC`.
    name: String,
}

short_form!(Timezone);

impl ShortForm for Timezone {
    const EXPECTING: &'static str = "a time zone like Europe/Berlin, or a mapping with the key `name`";

    fn full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(name: String) -> Result<Self, String> {
        Ok(Self { name })
    }
}

/// Which zone the host has.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Zone that /etc/localtime is a link to.
    localtime: Option<String>,
    timezone: Option<String>,
}

#[async_trait]
impl Resource for Timezone {
    const KIND: &'static str = "timezone";
    type State = State;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&mut self, _project: &mut dyn Resolve) -> Result<()> {
        let fits = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+'))
        };
        if !self.name.split('/').all(fits) {
            bail!("{:?} is no name of a time zone: use one like Europe/Berlin or Etc/UTC", self.name);
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        if host.stat(Path::new(ZONES))?.is_none() {
            return Ok(Observed::Pending("needs the package tzdata, which is not installed yet".into()));
        }
        if host.stat(&zone_file(&self.name))?.is_none() {
            return Err(self.unknown(host)?.into());
        }
        let link = host.read_link(Path::new(LOCALTIME))?;
        Ok(Observed::Known(State {
            localtime: link.map(|target| zone_of(&target)),
            timezone: host.read_text(Path::new(TIMEZONE))?.map(|text| text.trim().to_owned()),
        }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        let shown = |zone: &Option<String>| zone.clone().unwrap_or_else(|| "(none)".into());
        diff.compare(LOCALTIME, &shown(&state.localtime), &self.name);
        diff.compare(TIMEZONE, &shown(&state.timezone), &self.name);
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        if diff.has(TIMEZONE) {
            let text = format!("{}\n", self.name);
            host.write_file(Path::new(TIMEZONE), text.as_bytes(), 0o644, Owner::ROOT)?;
        }
        if diff.has(LOCALTIME) {
            host.symlink(Path::new(LOCALTIME), &zone_file(&self.name))?;
        }
        Ok(())
    }
}

impl Timezone {
    fn unknown(&self, host: &dyn ReadHost) -> Result<Diagnostic> {
        let area = self.name.rsplit_once('/').map_or("", |(area, _)| area);
        let near = |area: &str| -> Result<Vec<String>> {
            let names = host.list_dir(&Path::new(ZONES).join(area))?;
            let full = |name| match area {
                "" => name,
                area => format!("{area}/{name}"),
            };
            Ok(names.into_iter().map(full).collect())
        };
        let mut candidates = near(area)?;
        if candidates.is_empty() {
            candidates = near("")?;
        }
        let hint = did_you_mean(&self.name, candidates.iter().map(String::as_str))
            .unwrap_or_else(|| "`timedatectl list-timezones` lists them".into());
        Ok(Diagnostic::new(format!("the host knows no time zone {:?}", self.name)).hint(hint))
    }
}

fn zone_file(zone: &str) -> PathBuf {
    Path::new(ZONES).join(zone)
}

/// `Etc/UTC` for `/usr/share/zoneinfo/Etc/UTC` and for timedatectl's `../usr/share/zoneinfo/Etc/UTC`.
fn zone_of(target: &Path) -> String {
    let text = target.to_string_lossy();
    match text.split_once("usr/share/zoneinfo/") {
        Some(("/" | "../", zone)) => zone.to_owned(),
        _ => text.into_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::resources::{AnyResource, Planned};

    fn spec(name: &str) -> Timezone {
        serde_json::from_value(serde_json::json!(name)).unwrap()
    }

    fn host() -> FakeHost {
        FakeHost::new()
            .file("/usr/share/zoneinfo/Etc/UTC", "TZif", 0o644)
            .file("/usr/share/zoneinfo/Europe/Berlin", "TZif", 0o644)
            .link(LOCALTIME, "/usr/share/zoneinfo/Etc/UTC")
            .file(TIMEZONE, "Etc/UTC\n", 0o644)
    }

    #[tokio::test]
    async fn plan_apply_plan() {
        let host = host();
        let spec = spec("Europe/Berlin");
        let Planned::Change(diff) = spec.plan(&host).await.unwrap() else {
            panic!("nothing planned");
        };
        assert_eq!(diff.changes[0].detail, "Etc/UTC -> Europe/Berlin");
        assert!(host.changes().is_empty());
        AnyResource::apply(&spec, &host, &diff).await.unwrap();
        assert_eq!(spec.plan(&host).await.unwrap(), Planned::InSync);
        assert_eq!(host.files().text(TIMEZONE), "Europe/Berlin\n");
    }

    #[tokio::test]
    async fn timedatectls_link_is_the_same_zone() {
        let host = host().link(LOCALTIME, "../usr/share/zoneinfo/Etc/UTC");
        assert_eq!(spec("Etc/UTC").plan(&host).await.unwrap(), Planned::InSync);
    }

    #[tokio::test]
    async fn unknown_zones_and_a_missing_database() {
        let error = spec("Europe/Belrin").plan(&host()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the host knows no time zone \"Europe/Belrin\"\n  hint: did you mean \"Europe/Berlin\"?"
        );
        let planned = spec("Etc/UTC").plan(&FakeHost::new()).await.unwrap();
        assert!(matches!(planned, Planned::Pending(reason) if reason.contains("tzdata")));
    }
}
