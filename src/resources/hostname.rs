//! The name of the host.

use std::path::Path;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::short_form::{ShortForm, or_text, short_form};
use super::{Observed, Resolve, Resource};
use crate::diff::Diff;
use crate::host::{Cmd, Owner, ReadHost, WriteHost};

const STATIC: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";
const LIVE: &str = "/proc/sys/kernel/hostname";
const CLOUD_DIR: &str = "/etc/cloud/cloud.cfg.d";
const CLOUD: &str = "/etc/cloud/cloud.cfg.d/90-provision-hostname.cfg";
const CLOUD_TEXT: &str =
    "# Written by provision: the host name is set there.\npreserve_hostname: true\nmanage_etc_hosts: false\n";

/// The name of the host: now, after the next boot, and resolvable from the host itself.
///
/// Where cloud-init is installed it is told to leave the name alone, else it would set its own at the next boot.
///
/// ```yaml
/// - hostname: ml-1
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_text)]
pub struct Hostname {
    /// The name, RFC 1123: lower-case letters, digits and hyphens, at most 64 characters. Example: `ml-1`.
    name: String,
}

short_form!(Hostname);

impl ShortForm for Hostname {
    const EXPECTING: &'static str = "a host name, or a mapping with the key `name`";

    fn full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(name: String) -> Result<Self, String> {
        Ok(Self { name })
    }
}

/// What names the host has.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    live: String,
    /// `None` when the file is missing.
    at_boot: Option<String>,
    hosts: String,
    /// `None` without cloud-init, else what our file for it says.
    cloud: Option<String>,
}

#[async_trait]
impl Resource for Hostname {
    const KIND: &'static str = "hostname";
    type State = State;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&mut self, _project: &mut dyn Resolve) -> Result<()> {
        check(&self.name)
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let read = |path: &str| host.read_text(Path::new(path));
        let cloud = match host.stat(Path::new(CLOUD_DIR))? {
            Some(_) => Some(read(CLOUD)?.unwrap_or_default()),
            None => None,
        };
        Ok(Observed::Known(State {
            live: read(LIVE)?.unwrap_or_default().trim().to_owned(),
            at_boot: read(STATIC)?.map(|text| text.trim().to_owned()),
            hosts: read(HOSTS)?.unwrap_or_default(),
            cloud,
        }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        diff.compare("live", &state.live, &self.name);
        let at_boot = state.at_boot.as_deref().unwrap_or("(none)");
        diff.compare(STATIC, at_boot, &self.name);
        diff.compare_text(HOSTS, &state.hosts, &hosts_with(&state.hosts, &self.name));
        if let Some(cloud) = &state.cloud {
            diff.compare_text(CLOUD, cloud, CLOUD_TEXT);
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        // The name must resolve before it is the name: sudo and others look it up.
        if diff.has(HOSTS) {
            let path = Path::new(HOSTS);
            let mode = host.stat(path)?.map_or(0o644, |stat| stat.mode);
            let before = host.read_text(path)?.unwrap_or_default();
            let after = hosts_with(&before, &self.name);
            host.write_file(path, after.as_bytes(), mode, Owner::ROOT)?;
        }
        if diff.has(CLOUD) {
            let text = CLOUD_TEXT.as_bytes();
            host.write_file(Path::new(CLOUD), text, 0o644, Owner::ROOT)?;
        }
        if diff.has(STATIC) {
            let text = format!("{}\n", self.name);
            host.write_file(Path::new(STATIC), text.as_bytes(), 0o644, Owner::ROOT)?;
        }
        if diff.has("live") {
            // Not hostnamectl: it needs D-Bus, and would write /etc/hostname in its own way.
            host.run(&Cmd::new(["hostname", "--", &self.name])).await.context("cannot change the live host name")?;
        }
        Ok(())
    }
}

/// RFC 1123, within Linux's limit of 64.
fn check(name: &str) -> Result<()> {
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    if name.len() > 64 {
        bail!("host name {name:?} has {} characters, Linux allows 64", name.len());
    }
    if !name.split('.').all(fits) {
        bail!("{name:?} is no host name: use lower-case letters, digits and inner hyphens (RFC 1123), as in `ml-1`");
    }
    Ok(())
}

/// `hosts` so that `name` resolves on the host: unchanged when a line has it, else by Debian's line for 127.0.1.1.
fn hosts_with(hosts: &str, name: &str) -> String {
    let names = |line: &str| -> Vec<String> {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().map(str::to_owned).collect()
    };
    let has = |line: &str| names(line).iter().skip(1).any(|word| word == name);
    if hosts.lines().any(has) {
        return hosts.to_owned();
    }
    let short = name.split('.').next().unwrap_or(name);
    let line = if short == name { format!("127.0.1.1\t{name}") } else { format!("127.0.1.1\t{name} {short}") };
    let mut lines: Vec<String> = hosts.lines().map(str::to_owned).collect();
    let line_of =
        |address: &str| lines.iter().position(|line| names(line).first().is_some_and(|first| first == address));
    let (own, loopback) = (line_of("127.0.1.1"), line_of("127.0.0.1"));
    match own {
        Some(at) => lines[at] = line,
        None => lines.insert(loopback.map_or(0, |at| at + 1), line),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, ok};
    use crate::resources::{AnyResource, Planned};

    fn spec(name: &str) -> Hostname {
        serde_json::from_value(serde_json::json!(name)).unwrap()
    }

    // /etc/hosts of an Ubuntu 22.04 server installation.
    const UBUNTU: &str = "127.0.0.1 localhost\n127.0.1.1 ubuntu\n\n# The following lines are desirable for IPv6 capable hosts\n::1     ip6-localhost ip6-loopback\n";

    #[test]
    fn names_are_checked() {
        for good in ["ml-1", "a", "node.example.org", &"a".repeat(63)] {
            check(good).unwrap();
        }
        for bad in ["", "Ml", "ml_1", "-a", "a-", "a..b", &"a".repeat(64)] {
            check(bad).unwrap_err();
        }
        let error = check("ML_1").unwrap_err().to_string();
        assert!(error.contains("RFC 1123"), "{error}");
        assert!(check(&["a"; 33].join(".")).is_err());
    }

    #[test]
    fn the_hosts_file_gets_one_line() {
        assert_eq!(hosts_with(UBUNTU, "ml-1"), UBUNTU.replace("127.0.1.1 ubuntu", "127.0.1.1\tml-1"));
        assert_eq!(
            hosts_with("127.0.0.1\tlocalhost\n::1 x\n", "ml-1.example.org"),
            "127.0.0.1\tlocalhost\n127.0.1.1\tml-1.example.org ml-1\n::1 x\n"
        );
        assert_eq!(hosts_with("", "a"), "127.0.1.1\ta\n");
        let cloud = "127.0.0.1 localhost\n10.0.0.5 ml-1\n";
        assert_eq!(hosts_with(cloud, "ml-1"), cloud);
        assert!(hosts_with("10.0.0.5 b # ml-1\n", "ml-1").contains("127.0.1.1"));
    }

    #[tokio::test]
    async fn plan_apply_plan() {
        let host = FakeHost::new()
            .file(LIVE, "ubuntu\n", 0o644)
            .file(STATIC, "ubuntu\n", 0o644)
            .file(HOSTS, UBUNTU, 0o644)
            .dir(CLOUD_DIR, 0o755)
            .on_run(&["hostname", "--"], |files, cmd| {
                files.put_file(LIVE, format!("{}\n", cmd.argv[2]), 0o644);
                ok("")
            });
        let spec = spec("ml-1");
        let before = host.files().clone();
        let Planned::Change(diff) = spec.plan(&host).await.unwrap() else {
            panic!("nothing planned");
        };
        assert_eq!(*host.files(), before);
        assert_eq!(diff.changes[0].detail, "ubuntu -> ml-1");
        AnyResource::apply(&spec, &host, &diff).await.unwrap();
        assert_eq!(spec.plan(&host).await.unwrap(), Planned::InSync);
        assert_eq!(host.files().text(STATIC), "ml-1\n");
        assert!(host.files().text(CLOUD).contains("preserve_hostname: true"));
    }

    #[test]
    fn both_forms_are_read_and_the_full_one_written() {
        let full = serde_json::to_value(spec("ml-1")).unwrap();
        assert_eq!(full, serde_json::json!({ "name": "ml-1" }));
        let again: Hostname = serde_json::from_value(full).unwrap();
        assert_eq!(again.name, "ml-1");
        let error = serde_json::from_value::<Hostname>(serde_json::json!({ "nmae": "x" }));
        assert!(error.unwrap_err().to_string().contains("unknown field `nmae`"));
        let error = serde_json::from_value::<Hostname>(serde_json::json!(["x"]));
        assert!(error.unwrap_err().to_string().contains("expected a host name"));
        let schema = schemars::schema_for!(Hostname).to_value();
        assert_eq!(schema["anyOf"][0]["type"], "string");
        assert_eq!(schema["anyOf"][1]["additionalProperties"], false);
    }
}
