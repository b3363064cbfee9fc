//! Kernel parameters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Observed, Resolve, Resource};
use crate::diagnostic::Diagnostic;
use crate::diff::{Diff, unified};
use crate::host::{Cmd, Owner, ReadHost, WriteHost};

const HEADER: &str = "# Written by provision; changes made here are undone by its next run.\n";

/// Kernel parameters: live, and after every boot by `/etc/sysctl.d/NAME.conf`.
///
/// ```yaml
/// - sysctl:
///     name: 90-provision
///     values: { net.ipv4.ip_forward: 1 }
///     at_least: { vm.max_map_count: 262144 }
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// Name of the file in /etc/sysctl.d, without `.conf`; files are read in alphabetical order, the last one wins.
    name: String,
    /// Parameters with exactly these values (numbers or strings). A dot inside a name (`eth0.1`) is written as `/`.
    #[serde(default, deserialize_with = "texts")]
    #[schemars(with = "BTreeMap<String, Value>")]
    values: BTreeMap<String, String>,
    /// Limits that are raised to this number when they are lower, and left alone when they are higher.
    #[serde(default)]
    at_least: BTreeMap<String, u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number or a string (1 for yes, 0 for no)")]
enum Value {
    Number(i64),
    Text(String),
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let text = |value| match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => words(&text),
    };
    let values = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|(k, v)| (k, text(v))).collect())
}

/// What the file and the kernel say.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// `None` when there is no file.
    file: Option<String>,
    /// Values of the wanted keys; a key that the kernel does not have is missing.
    live: BTreeMap<String, String>,
}

#[async_trait]
impl Resource for Sysctl {
    const KIND: &'static str = "sysctl";
    type State = State;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&mut self, _project: &mut dyn Resolve) -> Result<()> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b'*');
        if self.name.is_empty() || self.name.contains('/') || !self.name.bytes().all(fits) {
            bail!("{:?} is no name for a file in /etc/sysctl.d", self.name);
        }
        if self.values.is_empty() && self.at_least.is_empty() {
            bail!("give at least one parameter in `values` or `at_least`");
        }
        for key in self.keys() {
            if key.contains('*') || key.split(['.', '/']).any(str::is_empty) || !key.bytes().all(fits) {
                bail!("{key:?} is no name of a kernel parameter (like net.ipv4.ip_forward)");
            }
            if self.values.contains_key(key) && self.at_least.contains_key(key) {
                bail!("{key} is in `values` and in `at_least`: keep one");
            }
        }
        if let Some((key, _)) = self.values.iter().find(|(_, value)| value.is_empty()) {
            bail!("{key} has an empty value");
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let mut live = BTreeMap::new();
        for key in self.keys() {
            if let Some(text) = host.read_text(&proc_path(key))? {
                live.insert(key.clone(), words(&text));
            }
        }
        Ok(Observed::Known(State { file: host.read_text(&self.path())?, live }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        let in_file = parse(state.file.as_deref().unwrap_or_default());
        for key in self.keys() {
            let wanted = self.wanted(key);
            let live = state.live.get(key);
            let raised = |value: &str| self.is_enough(key, value);
            let live_ok = live.is_some_and(|value| raised(value));
            let file_ok = match in_file.get(key.as_str()) {
                Some(value) => raised(value),
                // A limit that is high enough by itself needs no line.
                None => self.at_least.contains_key(key) && live_ok,
            };
            let mut differs = Vec::new();
            if !live_ok {
                let now = live.map_or("(not there yet)", String::as_str);
                differs.push(format!("live {now} -> {wanted}"));
            }
            if !file_ok {
                let now = in_file.get(key.as_str()).map_or("(none)", String::as_str);
                differs.push(format!("file {now} -> {wanted}"));
            }
            if !differs.is_empty() {
                diff.push(key, differs.join(", "));
            }
        }
        let before = state.file.clone().unwrap_or_default();
        let after = self.file_text(&in_file, &diff);
        // Strange lines in our file; the keys themselves were named above.
        if diff.is_empty() && before != after {
            diff.push(self.path().to_string_lossy(), unified(&before, &after));
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        // The file comes last: what the kernel does not take must not wait there for the next boot.
        for key in self.keys().filter(|key| diff.has(key)) {
            match host.read_text(&proc_path(key))?.map(|text| words(&text)) {
                None => return Err(no_parameter(key).into()),
                Some(now) if self.is_enough(key, &now) => {}
                Some(now) => self.write_live(host, key, &now).await?,
            }
        }
        let path = self.path();
        let before = host.read_text(&path)?.unwrap_or_default();
        let after = self.file_text(&parse(&before), diff);
        if before != after {
            host.create_dirs(Path::new("/etc/sysctl.d"), 0o755)?;
            host.write_file(&path, after.as_bytes(), 0o644, Owner::ROOT)?;
        }
        Ok(())
    }
}

impl Sysctl {
    fn path(&self) -> PathBuf {
        format!("/etc/sysctl.d/{}.conf", self.name).into()
    }

    fn keys(&self) -> impl Iterator<Item = &String> {
        self.values.keys().chain(self.at_least.keys())
    }

    fn wanted(&self, key: &str) -> String {
        let number = self.at_least.get(key).map(u64::to_string);
        number.unwrap_or_else(|| self.values.get(key).cloned().unwrap_or_default())
    }

    fn is_enough(&self, key: &str, value: &str) -> bool {
        match self.at_least.get(key) {
            Some(least) => value.parse::<u64>().is_ok_and(|value| value >= *least),
            None => self.values.get(key).is_some_and(|wanted| wanted == value),
        }
    }

    /// The file after `diff`: a limit has a line when it was raised, or had one that is high enough.
    fn file_text(&self, in_file: &BTreeMap<String, String>, diff: &Diff) -> String {
        let mut text = HEADER.to_owned();
        for (key, value) in &self.values {
            text += &format!("{key} = {value}\n");
        }
        for key in self.at_least.keys() {
            let present = in_file.get(key).filter(|value| self.is_enough(key, value));
            if let Some(value) = present {
                text += &format!("{key} = {value}\n");
            } else if diff.has(key) {
                text += &format!("{key} = {}\n", self.wanted(key));
            }
        }
        text
    }

    /// Not `sysctl -w`: it is in a package (procps) that a minimal host does not have.
    async fn write_live(&self, host: &dyn WriteHost, key: &str, now: &str) -> Result<()> {
        let path = proc_path(key);
        let wanted = self.wanted(key);
        let write = Cmd::new(["tee", &path.to_string_lossy()]).stdin(format!("{wanted}\n"));
        let Err(error) = host.run(&write).await else {
            return Ok(());
        };
        let mut problem = Diagnostic::new(format!("the kernel does not take {wanted} for {key}, which is {now}"));
        if host.facts().container {
            problem = problem
                .hint(format!("a container may not set it: run `sysctl -w {key}={wanted}` on the machine outside"));
        }
        Err(error.context(problem))
    }
}

fn no_parameter(key: &str) -> Diagnostic {
    let problem = Diagnostic::new(format!("this kernel has no parameter {key}"));
    if key.starts_with("net.bridge.") || key.starts_with("net/bridge/") {
        problem.hint("it comes with the module br_netfilter: put a `kernel_module: br_netfilter` before")
    } else {
        problem.hint("check its spelling, and whether a kernel module brings it")
    }
}

/// `net.ipv4.ip_forward` is a file; a name with a dot in it is written with `/` between the parts, as sysctl.d does.
fn proc_path(key: &str) -> PathBuf {
    let first = key.find(['.', '/']).map(|at| key.as_bytes()[at]);
    let relative = match first {
        Some(b'/') => key.to_owned(),
        _ => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    };
    Path::new("/proc/sys").join(relative)
}

/// Lists of numbers have tabs in /proc and spaces in files.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn parse(file: &str) -> BTreeMap<String, String> {
    file.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.trim_start_matches('-').split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), words(value)))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, failed, ok};
    use crate::resources::{AnyResource, Planned};

    const FILE: &str = "/etc/sysctl.d/90-provision.conf";

    fn spec() -> Sysctl {
        serde_json::from_value(serde_json::json!({
            "name": "90-provision",
            "values": { "net.ipv4.ip_forward": 1, "net.ipv4.tcp_rmem": "4096 131072 6291456" },
            "at_least": { "vm.max_map_count": 262_144 },
        }))
        .unwrap()
    }

    fn host() -> FakeHost {
        FakeHost::new()
            .file("/proc/sys/net/ipv4/ip_forward", "0\n", 0o644)
            .file("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n", 0o644)
            .file("/proc/sys/vm/max_map_count", "65530\n", 0o644)
            .on_run(&["tee"], |files, cmd| {
                files.put_file(&cmd.argv[1], cmd.stdin.clone().unwrap(), 0o644);
                ok("")
            })
    }

    async fn plan(host: &FakeHost) -> Diff {
        match spec().plan(host).await.unwrap() {
            Planned::Change(diff) => diff,
            other => panic!("{other:?}"),
        }
    }

    fn lines(diff: &Diff) -> Vec<String> {
        let line = |c: &crate::diff::Change| format!("{}: {}", c.field, c.detail);
        diff.changes.iter().map(line).collect()
    }

    #[tokio::test]
    async fn plan_apply_plan() {
        let host = host();
        let diff = plan(&host).await;
        assert_eq!(
            lines(&diff),
            [
                "net.ipv4.ip_forward: live 0 -> 1, file (none) -> 1",
                "net.ipv4.tcp_rmem: file (none) -> 4096 131072 6291456",
                "vm.max_map_count: live 65530 -> 262144, file (none) -> 262144"
            ]
        );
        assert!(host.changes().is_empty());
        AnyResource::apply(&spec(), &host, &diff).await.unwrap();
        assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
        assert_eq!(
            host.files().text(FILE),
            format!(
                "{HEADER}net.ipv4.ip_forward = 1\nnet.ipv4.tcp_rmem = 4096 131072 6291456\nvm.max_map_count = 262144\n"
            )
        );
        assert_eq!(host.runs().len(), 2, "only what differed was written live");
    }

    #[tokio::test]
    async fn drift_by_hand_is_named_and_mended() {
        let host = host();
        AnyResource::apply(&spec(), &host, &plan(&host).await).await.unwrap();
        let text = host.files().text(FILE).replace("ip_forward = 1", "ip_forward = 0");
        host.files().put_file(FILE, text + "kernel.panic = 10\n", 0o644);
        let diff = plan(&host).await;
        assert_eq!(lines(&diff), ["net.ipv4.ip_forward: file 0 -> 1"]);
        AnyResource::apply(&spec(), &host, &diff).await.unwrap();
        assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);

        let text = host.files().text(FILE) + "kernel.panic = 10\n";
        host.files().put_file(FILE, text, 0o644);
        let diff = plan(&host).await;
        assert_eq!(diff.changes[0].field, FILE);
        assert!(diff.changes[0].detail.ends_with("-kernel.panic = 10"));
        AnyResource::apply(&spec(), &host, &diff).await.unwrap();
        assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
    }

    #[tokio::test]
    async fn a_limit_that_is_higher_stays() {
        let host = host();
        host.files().put_file("/proc/sys/vm/max_map_count", "1048576\n", 0o644);
        let diff = plan(&host).await;
        assert!(!diff.has("vm.max_map_count"));
        AnyResource::apply(&spec(), &host, &diff).await.unwrap();
        assert!(!host.files().text(FILE).contains("max_map_count"));
        assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
    }

    #[tokio::test]
    async fn absent_and_read_only_parameters_are_clear_errors() {
        let host = host().answer(&["tee"], failed(1, "tee: Read-only file system"));
        let host = host.with_facts(|facts| facts.container = true);
        let diff = plan(&host).await;
        let error = AnyResource::apply(&spec(), &host, &diff).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("does not take 1 for net.ipv4.ip_forward, which is 0"), "{text}");
        assert!(text.contains("on the machine outside"), "{text}");

        let bridge: Sysctl = serde_json::from_value(serde_json::json!({
            "name": "x", "values": { "net.bridge.bridge-nf-call-iptables": 1 },
        }))
        .unwrap();
        let Planned::Change(diff) = bridge.plan(&host).await.unwrap() else {
            panic!("nothing planned");
        };
        assert!(diff.changes[0].detail.starts_with("live (not there yet) -> 1"));
        let error = AnyResource::apply(&bridge, &host, &diff).await.unwrap_err();
        assert!(error.to_string().contains("br_netfilter"));
        assert!(host.files().node("/etc/sysctl.d/x.conf").is_none(), "nothing is left behind");
    }

    #[test]
    fn keys_become_paths() {
        let path = |key: &str| proc_path(key).to_string_lossy().into_owned();
        assert_eq!(path("vm.swappiness"), "/proc/sys/vm/swappiness");
        assert_eq!(path("net/ipv4/conf/eth0.1/rp_filter"), "/proc/sys/net/ipv4/conf/eth0.1/rp_filter");
        assert_eq!(path("net.ipv4.conf.eth0/1.rp_filter"), "/proc/sys/net/ipv4/conf/eth0.1/rp_filter");
    }

    #[test]
    fn bad_specs() {
        let error = serde_json::from_value::<Sysctl>(serde_json::json!({
            "name": "x", "values": { "net.ipv4.ip_forward": true },
        }))
        .unwrap_err();
        assert!(error.to_string().contains("1 for yes"), "{error}");
    }
}
