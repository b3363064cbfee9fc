//! systemd units.

mod inputs;
mod show;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use self::inputs::RunsWith;
use self::show::Shown;
use super::short_form::{ShortForm, or_text, short_form};
use super::{Observed, Resolve, Resource};
use crate::diff::{Action, Diff};
use crate::host::{Cmd, Owner, ReadHost, WriteHost};

const UNITS: &str = "/etc/systemd/system";
const TYPES: &[&str] = &["service", "timer", "socket", "path", "mount", "target", "slice"];

/// A systemd unit: its file, whether it starts at boot, whether it runs, and that it runs **with its present inputs**.
///
/// A unit is restarted when its file, a drop-in or one of its `inputs` is another than the one it was started with. That is
/// part of the observed state, not a notification: a run that is cut between a change and its restart is finished by the
/// next one, and a restart by hand or by a reboot counts. A unit of a package needs no `content`.
///
/// The files are readable by everybody on the host: secrets belong into an `EnvironmentFile` with mode "0600".
///
/// ```yaml
/// - systemd_unit: logrotate.timer
/// - systemd_unit:
///     name: k3s.service
///     template: k3s/k3s.service
///     inputs: [/usr/local/bin/k3s, /etc/rancher/k3s/config.yaml]
///     start_timeout: 300
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_text)]
pub struct SystemdUnit {
    /// Name with its type. Example: `k3s.service`.
    name: String,
    /// Text of the unit file, /etc/systemd/system/NAME. Default: the unit comes from elsewhere, for example a package.
    #[serde(default)]
    content: Option<String>,
    /// Instead of `content`, a template under `templates/`.
    #[serde(default)]
    template: Option<String>,
    /// Drop-ins, /etc/systemd/system/NAME.d/FILE, by file name. Example: `{ 10-limits.conf: "[Service]\nLimitNOFILE=65536\n" }`.
    #[serde(default)]
    drop_ins: BTreeMap<String, String>,
    /// Whether it starts at boot. Default: true.
    #[serde(default = "yes")]
    enabled: bool,
    /// Whether it runs: `true`, `false`, or `leave` for what a timer starts. Default: true.
    #[serde(default)]
    running: Running,
    /// Files, and directories of files, that the unit reads when it starts.
    #[serde(default)]
    inputs: Vec<PathBuf>,
    /// How long it may take to become active, in seconds. Default: 120.
    #[serde(default = "two_minutes")]
    start_timeout: u64,
}

const fn yes() -> bool {
    true
}

const fn two_minutes() -> u64 {
    120
}

/// Whether a unit runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected true, false or `leave`")]
enum Running {
    Must(bool),
    Leave(Leave),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Leave {
    Leave,
}

impl Default for Running {
    fn default() -> Self {
        Self::Must(true)
    }
}

short_form!(SystemdUnit);

impl ShortForm for SystemdUnit {
    const EXPECTING: &'static str = "the name of a unit, or a mapping with the key `name`";

    fn full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(name: String) -> Result<Self, String> {
        Ok(Self {
            name,
            content: None,
            template: None,
            drop_ins: BTreeMap::new(),
            enabled: true,
            running: Running::default(),
            inputs: Vec::new(),
            start_timeout: two_minutes(),
        })
    }
}

/// The unit as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    unit: Shown,
    /// Text and mode of the wanted files; `None` for one that is missing.
    files: BTreeMap<PathBuf, Option<(String, u32)>>,
    runs_with: RunsWith,
}

#[async_trait]
impl Resource for SystemdUnit {
    const KIND: &'static str = "systemd_unit";
    type State = State;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        if let Some(template) = self.template.take() {
            if self.content.is_some() {
                bail!("`content` and `template` exclude each other: keep one");
            }
            self.content = Some(project.template(&template)?);
        }
        self.check()
    }

    fn inputs(&self) -> Vec<PathBuf> {
        self.inputs.clone()
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let unit = show::show(host, &self.name).await?;
        if unit.load_state == "not-found" && self.content.is_none() {
            return Ok(Observed::Pending(format!("needs the unit {}, which is not there yet", self.name)));
        }
        let mut files = BTreeMap::new();
        for path in self.files().into_keys() {
            let text = host.read_text(&path)?;
            let mode = host.stat(&path)?.map_or(0, |stat| stat.mode);
            files.insert(path, text.map(|text| (text, mode)));
        }
        let tracked = self.files().into_keys().chain(self.inputs.iter().cloned());
        let runs_with = inputs::observe(host, &self.name, &unit, tracked.collect()).await?;
        Ok(Observed::Known(State { unit, files, runs_with }))
    }

    fn diff(&self, state: &State) -> Diff {
        let unit = &state.unit;
        let mut diff = Diff::none();
        let is_new = self.content.is_some() && state.files.get(&self.file()) == Some(&None);
        if is_new {
            diff = Diff::new(Action::Create);
        }
        let mut changed = Vec::new();
        for (path, wanted) in self.files() {
            let field = path.to_string_lossy();
            match state.files.get(&path).cloned().flatten() {
                None => diff.compare_text(&field, "", wanted),
                Some((text, mode)) => {
                    diff.compare_text(&field, &text, wanted);
                    if mode != 0o644 && text == wanted {
                        diff.push(field.clone(), format!("mode {mode:04o} -> 0644"));
                    }
                    if text == wanted {
                        continue;
                    }
                }
            }
            changed.push(path);
        }
        if unit.masked() {
            diff.push("masked", "masked -> not masked");
        }
        if unit.need_daemon_reload && changed.is_empty() {
            diff.push("loaded", "changed on disk since it was read -> read again");
        }
        if self.enabled != unit.enabled() {
            let wanted = if self.enabled { "enabled" } else { "disabled" };
            diff.push("enabled", format!("{} -> {wanted}", unit.file_state()));
        }
        match self.running {
            Running::Must(true) if !unit.active() => {
                diff.push("state", format!("{} -> running", unit.describe()));
            }
            Running::Must(false) if unit.started() => {
                diff.push("state", format!("{} -> stopped", unit.describe()));
            }
            Running::Must(_) | Running::Leave(_) => {}
        }
        if self.running == Running::Must(true) && unit.started() {
            let mut reasons: Vec<_> = changed.iter().map(|p| p.display().to_string()).collect();
            if let RunsWith::Others(others) = &state.runs_with {
                let new = others.iter().filter(|other| !reasons.contains(other));
                reasons.extend(new.cloned().collect::<Vec<_>>());
            }
            if !reasons.is_empty() {
                diff.push("inputs", format!("changed: {} -> restart", reasons.join(", ")));
            }
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let systemctl = async |arguments: &[&str]| {
            let argv = ["systemctl"].iter().chain(arguments).copied();
            host.run(&Cmd::new(argv)).await
        };
        if diff.has("masked") {
            systemctl(&["unmask", "--", &self.name]).await?;
            systemctl(&["unmask", "--runtime", "--", &self.name]).await?;
        }
        let mut written = false;
        for (path, text) in self.files() {
            if diff.has(&path.to_string_lossy()) {
                if let Some(dir) = path.parent() {
                    host.create_dirs(dir, 0o755)?;
                }
                host.write_file(&path, text.as_bytes(), 0o644, Owner::ROOT)?;
                written = true;
            }
        }
        if written || diff.has("loaded") || diff.has("masked") {
            systemctl(&["daemon-reload"]).await?;
        }
        if diff.has("enabled") {
            let verb = if self.enabled { "enable" } else { "disable" };
            systemctl(&[verb, "--", &self.name]).await?;
        }
        match self.running {
            Running::Must(false) if diff.has("state") => {
                systemctl(&["stop", "--", &self.name]).await?;
            }
            Running::Must(true) if diff.has("state") || diff.has("inputs") => {
                // What it is started with, hashed before it starts: a change in between is then seen as one.
                let tracked = self.files().into_keys().chain(self.inputs.iter().cloned());
                let with = inputs::now(host.as_read(), &tracked.collect::<Vec<_>>()).await?;
                let unit = start::start(host, &self.name, diff.has("inputs"), self.start_timeout).await?;
                inputs::record(host, &self.name, &unit, with)?;
            }
            Running::Must(_) | Running::Leave(_) => {}
        }
        Ok(())
    }
}

impl SystemdUnit {
    fn check(&self) -> Result<()> {
        let name = &self.name;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b":-_.@\\".contains(&b);
        let (stem, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        if stem.is_empty() || stem.starts_with('-') || !name.bytes().all(fits) {
            bail!("{name:?} is no name of a systemd unit (like `k3s.service`)");
        }
        if !TYPES.contains(&kind) {
            bail!("{name:?}: a unit's name ends with its type, as in `{stem}.service`");
        }
        for file in self.drop_ins.keys() {
            if file.contains('/') || !file.ends_with(".conf") || file.starts_with('.') {
                bail!("drop-in {file:?}: its name must be a file name that ends with .conf");
            }
        }
        if let Some(path) = self.inputs.iter().find(|path| !path.is_absolute()) {
            bail!("input {}: it must be an absolute path on the host", path.display());
        }
        let installable = |text: &String| text.lines().any(|line| line.trim() == "[Install]");
        let texts = || self.content.iter().chain(self.drop_ins.values());
        if self.enabled && self.content.is_some() && !texts().any(installable) {
            bail!(
                "{name} has no [Install] section, so it cannot start at boot: add one (`WantedBy=multi-user.target`), or set `enabled: false`"
            );
        }
        if self.start_timeout == 0 {
            bail!("`start_timeout` must be at least one second");
        }
        Ok(())
    }

    fn file(&self) -> PathBuf {
        Path::new(UNITS).join(&self.name)
    }

    /// The wanted files with their text.
    fn files(&self) -> BTreeMap<PathBuf, &str> {
        let dir = Path::new(UNITS).join(format!("{}.d", self.name));
        let drop_ins = self.drop_ins.iter();
        let mut files: BTreeMap<_, _> = drop_ins.map(|(file, text)| (dir.join(file), text.as_str())).collect();
        if let Some(content) = &self.content {
            files.insert(self.file(), content);
        }
        files
    }
}

#[cfg(test)]
mod tests;
