//! What is known about one host: `state.json` in its directory, written before anything else is made, so that a
//! killed run can be found and removed.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// A process that is certainly the one meant: ids are reused, but not together with the start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since the machine's boot.
    pub start_time: u64,
}

impl Process {
    /// The live process with this id; `None` when there is none or it is only waiting to be reaped.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        start_time_of_live(&stat).map(|start_time| Self { pid, start_time })
    }

    pub fn current() -> Result<Self> {
        let pid = i32::try_from(std::process::id()).context("process id out of range")?;
        Self::of(pid).context("cannot read this process's own entry in /proc")
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// `None` for a zombie or text that is not a stat line. The command name (in parentheses) may contain anything.
fn start_time_of_live(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let state = *fields.first()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // `rest` starts at field 3.
    fields.get(19)?.parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// `owner` is still making it.
    Starting,
    /// It answered over SSH once.
    Running,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub name: String,
    pub phase: Phase,
    /// The `provision` process that makes or made the host.
    pub owner: Process,
    pub address: Ipv4Addr,
    /// The supervising shell of systemd-nspawn.
    pub leader: Option<Process>,
    /// The host's own cgroup, one per hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// `ssh-ed25519 AAAA…`
    pub host_key: String,
    /// The inventory file that names this host, and the artifact overlays that file asks for.
    pub inventory: PathBuf,
    pub artifacts: Vec<String>,
    /// Has no way out of its own network.
    #[serde(default)]
    pub offline: bool,
    /// Seconds since 1970.
    pub created: u64,
}

impl State {
    /// Whether the host is running, being started by a live process, or dead.
    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Starting if self.owner.is_alive() => Status::Starting,
            Phase::Starting => Status::Dead,
            Phase::Running if self.leader.is_some_and(Process::is_alive) => Status::Running,
            Phase::Running => Status::Dead,
        }
    }

    /// Reads `state.json` of the host directory `dir`; `Ok(None)` when there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("state.json");
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).with_context(|| format!("{} is damaged", path.display())).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let state: Self = serde_json::from_str(text)?;
        if let Some(bad) = state.cgroups.iter().find(|path| !path.starts_with("/sys/fs/cgroup")) {
            // These directories get emptied by force: never by a path from elsewhere.
            bail!("cgroup outside /sys/fs/cgroup: {}", bad.display());
        }
        Ok(state)
    }

    pub fn write(&self, dir: &Path) -> Result<()> {
        replace_file(&dir.join("state.json"), &serde_json::to_vec_pretty(self)?, 0o600)
    }
}

/// See [`State::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// A live `provision sandbox up` is making it.
    Starting,
    Running,
    /// Stopped from inside, or left by a killed run; the next `up` or sweep removes it.
    Dead,
}

/// Writes a file so that readers see the old or the new content, never a part.
pub(super) fn replace_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let write = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(content)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    pub fn example(name: &str, last: u8) -> State {
        State {
            name: name.into(),
            phase: Phase::Running,
            owner: Process { pid: 1, start_time: 2 },
            address: Ipv4Addr::new(10, 99, 0, last),
            leader: Some(Process { pid: 3, start_time: 4 }),
            cgroups: vec!["/sys/fs/cgroup/cpu/pv-2".into()],
            host_key: "ssh-ed25519 AAAA".into(),
            inventory: "/project/inventory/sandbox.yml".into(),
            artifacts: vec!["../sandbox/artifacts.yml".into()],
            offline: false,
            created: u64::from(last),
        }
    }

    #[test]
    fn state_survives_writing_and_reading() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
        let state = example("a", 2);
        state.write(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), Some(state));
    }

    #[test]
    fn damaged_state_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state.json"), "{\"name\":").unwrap();
        let error = format!("{:#}", State::read(dir.path()).unwrap_err());
        assert!(error.contains("state.json is damaged"), "{error}");
    }

    #[test]
    fn cgroups_from_elsewhere_are_refused() {
        let mut state = example("a", 2);
        state.cgroups = vec!["/etc".into()];
        let text = serde_json::to_string(&state).unwrap();
        assert!(State::parse(&text).is_err());
    }

    #[test]
    fn a_process_is_told_from_another_with_the_same_id() {
        let me = Process::current().unwrap();
        assert!(me.is_alive());
        assert!(!Process { start_time: me.start_time + 1, ..me }.is_alive());
    }

    #[test]
    fn stat_lines_with_odd_names_and_zombies() {
        let tail = "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 4711 19";
        assert_eq!(start_time_of_live(&format!("7 (a) Z b) S {tail}")), Some(4711));
        assert_eq!(start_time_of_live(&format!("7 (a) Z {tail}")), None);
        assert_eq!(start_time_of_live("7 (a"), None);
    }

    #[test]
    fn a_dead_owner_or_leader_makes_a_dead_host() {
        let me = Process::current().unwrap();
        let gone = Process { start_time: me.start_time + 1, ..me };
        let mut state = example("a", 2);
        state.leader = Some(me);
        assert_eq!(state.status(), Status::Running);
        state.leader = Some(gone);
        assert_eq!(state.status(), Status::Dead);
        state.phase = Phase::Starting;
        state.owner = me;
        assert_eq!(state.status(), Status::Starting);
        state.owner = gone;
        assert_eq!(state.status(), Status::Dead);
    }
}
