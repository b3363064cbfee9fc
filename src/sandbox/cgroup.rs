//! One cgroup per host in *every* hierarchy. Two hosts in one cgroup would share it inside too, and the second
//! kubelet would take the first one's pods for its own orphans and delete them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// A mounted hierarchy and the place in it where hosts' cgroups belong.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// `memory`, `name=systemd`, or empty for cgroup v2.
    kind: String,
    parent: PathBuf,
}

/// Whether the machine has cgroup v2 only, without any v1 controller.
pub(super) fn is_v2_only() -> Result<bool> {
    Ok(hierarchies()?.iter().all(|h| h.kind.is_empty()))
}

/// The paths of a host's cgroup, one per hierarchy; nothing is made.
pub(super) fn paths_for(machine: &str) -> Result<Vec<PathBuf>> {
    let found = hierarchies()?;
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted below {MOUNT_POINT}");
    }
    Ok(found.into_iter().map(|h| h.parent.join(machine)).collect())
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse_hierarchies(&own, &mounts))
}

fn parse_hierarchies(own: &str, mountinfo: &str) -> Vec<Hierarchy> {
    let own: Vec<(&str, &str)> = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')).collect();
    let v2_only = own.iter().all(|(kind, _)| kind.is_empty());
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mount: Vec<_> = mount.split(' ').collect();
        let filesystem: Vec<_> = filesystem.split(' ').collect();
        let ([_, _, _, root, point, ..], [fs_type, _, options]) = (&mount[..], &filesystem[..]) else {
            continue;
        };
        if !point.starts_with(MOUNT_POINT) || !matches!(*fs_type, "cgroup" | "cgroup2") {
            continue;
        }
        let member = own.iter().find(|(kind, _)| match *fs_type {
            "cgroup2" => kind.is_empty(),
            // A hierarchy's controllers are all among the options of its mount.
            _ => !kind.is_empty() && kind.split(',').all(|k| options.split(',').any(|o| o == k)),
        });
        let Some((kind, path)) = member else { continue };
        if found.iter().any(|h| h.kind == *kind) {
            continue;
        }
        // v1: below our own cgroup, since we may not leave it (memory). v2: directly below the top, as a cgroup
        // with processes of its own (ours) cannot hand controllers down.
        let below = if v2_only { "/" } else { *path };
        let below = below.strip_prefix(*root).unwrap_or("");
        found
            .push(Hierarchy { kind: (*kind).to_owned(), parent: Path::new(point).join(below.trim_start_matches('/')) });
    }
    found
}

/// Makes `<path>/loop` and `<path>/host` for every path (see `guest/supervise.sh`).
pub(super) fn create(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        for dir in [path.clone(), path.join("loop"), path.join("host")] {
            fs::create_dir(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
            inherit(&dir)?;
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process; a v2 cgroup has only the controllers its parent hands down.
fn inherit(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if parent.join("cgroup.controllers").exists() || !dir.join(file).exists() {
            continue;
        }
        let value = fs::read_to_string(parent.join(file))?;
        fs::write(dir.join(file), value).with_context(|| format!("cannot set {file} of {}", dir.display()))?;
    }
    if let Ok(controllers) = fs::read_to_string(dir.join("cgroup.controllers"))
        && dir.file_name().is_some_and(|name| name != "loop" && name != "host")
    {
        for controller in controllers.split_whitespace() {
            // Best effort: what cannot be handed down is missing inside, as it would be on a small machine.
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(())
}

/// Cgroups of `machine` wherever they are, for a host whose records are lost.
pub(super) fn find(machine: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, machine: &str, depth: u8, found: &mut Vec<PathBuf>) {
        for child in children(dir) {
            if child.file_name().is_some_and(|name| name == machine) && child.join("loop").is_dir() {
                found.push(child);
            } else if depth > 0 {
                walk(&child, machine, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(MOUNT_POINT), machine, 5, &mut found);
    found
}

/// Every live process in these cgroups or below.
pub(super) fn processes(paths: &[PathBuf]) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<PathBuf> = paths.to_vec();
    while let Some(dir) = todo.pop() {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(
            text.lines()
                .filter_map(|line| line.parse::<i32>().ok())
                .filter(|pid| super::state::Process::of(*pid).is_some()),
        );
        todo.extend(children(&dir));
    }
    found
}

/// Kills what still runs in these cgroups, then removes them with everything below.
///
/// # Errors
/// Names what survives after ten seconds: a process in an uninterruptible wait, or a busy cgroup.
pub(super) fn destroy(paths: &[PathBuf]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        for pid in processes(paths) {
            signal(pid, Signal::KILL);
        }
        let left: Vec<_> = paths.iter().filter(|path| !remove(path)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("cannot remove the cgroup {}; processes left in it: {:?}", left[0].display(), processes(paths));
        }
        sleep(Duration::from_millis(20));
    }
}

pub(super) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // The process may have ended since it was listed.
        let _ = kill_process(pid, signal);
    }
}

/// Removes a cgroup, deepest first; true when it is gone.
fn remove(path: &Path) -> bool {
    for child in children(path) {
        remove(&child);
    }
    let _ = fs::remove_dir(path);
    !path.exists()
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parents(own: &str, mounts: &str) -> Vec<(String, String)> {
        parse_hierarchies(own, mounts).into_iter().map(|h| (h.kind, h.parent.display().to_string())).collect()
    }

    #[test]
    fn hybrid_machine_has_one_parent_per_hierarchy_below_our_own_cgroup() {
        let own = "4:memory:/app/7\n3:cpu,cpuacct:/\n9:name=systemd:/\n0::/\n";
        let mounts = "\
30 20 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:30 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory
33 30 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:32 / /elsewhere rw - cgroup2 cgroup2 rw
";
        assert_eq!(
            parents(own, mounts),
            [
                ("cpu,cpuacct", "/sys/fs/cgroup/cpu/"),
                ("memory", "/sys/fs/cgroup/memory/app/7"),
                ("name=systemd", "/sys/fs/cgroup/systemd/"),
                ("", "/sys/fs/cgroup/unified/"),
            ]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    #[test]
    fn unified_machine_uses_the_top() {
        let own = "0::/user.slice/session-1.scope\n";
        let mounts = "30 20 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(parents(own, mounts), [(String::new(), "/sys/fs/cgroup/".to_owned())]);
    }

    #[test]
    fn a_mount_of_a_part_of_the_hierarchy_is_taken_relative_to_that_part() {
        let own = "4:memory:/docker/abc/job\n0::/\n";
        let mounts = "32 30 0:30 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(parents(own, mounts), [("memory".to_owned(), "/sys/fs/cgroup/memory/job".to_owned())]);
    }
}
