//! What a host and everything on it uses: for `provision status --resources`.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::host::ReadHost;

/// Bytes everywhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub memory_total: u64,
    /// What starting programs could still get (`MemAvailable`).
    pub memory_available: u64,
    pub disk_total: u64,
    pub disk_available: u64,
    /// The whole host first, then what is no pod, then every pod, largest first.
    pub memory: Vec<Memory>,
    /// By folder, largest first; each once, and nothing of other file systems.
    pub disk: Vec<Disk>,
}

/// Memory of one control group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// `host`, `system`, or a pod's `namespace/name`.
    pub name: String,
    /// Without file cache that the kernel would give back: what `kubectl top` calls the working set.
    pub working_set: u64,
    /// The most that the kernel ever counted here, file cache included; `None` where it keeps no record
    /// (control groups of version 2 before Linux 5.19).
    pub peak: Option<u64>,
    /// Sum of the largest resident sizes that the processes running now ever had (`VmHWM`): shared pages count in each.
    pub resident_peak: u64,
}

/// Disk space under a folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    pub what: String,
    pub path: PathBuf,
    pub bytes: u64,
}

/// Folders that the platform fills.
const FOLDERS: &[(&str, &str)] = &[
    ("container images and layers", "/var/lib/rancher/k3s/agent/containerd"),
    ("volumes", "/var/lib/rancher/k3s/storage"),
    ("temporary volumes of pods", "/var/lib/kubelet"),
    ("k3s programs", "/var/lib/rancher/k3s/data"),
    ("image archives that k3s imports", "/var/lib/rancher/k3s/agent/images"),
    ("cluster database", "/var/lib/rancher/k3s/server"),
    ("artifacts and ledger", "/var/lib/provision"),
    ("programs", "/usr"),
    ("logs", "/var/log"),
];

/// Looks; changes nothing.
///
/// # Errors
/// When /proc cannot be read. Without a cluster pods go by their UID.
pub async fn usage(host: &dyn ReadHost) -> Result<Usage> {
    let names = pod_names(host).await;
    tokio::task::spawn_blocking(move || look(Path::new("/"), &names))
        .await
        .context("the look at the host was cut off")?
}

async fn pod_names(host: &dyn ReadHost) -> BTreeMap<String, String> {
    let Ok(cluster) = host.cluster().await else {
        return BTreeMap::new();
    };
    let pods = cluster.list("v1", "Pod", None, "").await.unwrap_or_default();
    let text = |pod: &Value, pointer: &str| pod.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let named = |pod: &Value| {
        let name = format!("{}/{}", text(pod, "/metadata/namespace")?, text(pod, "/metadata/name")?);
        Some((text(pod, "/metadata/uid")?, name))
    };
    pods.iter().filter_map(named).collect()
}

fn look(root: &Path, names: &BTreeMap<String, String>) -> Result<Usage> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).context("cannot read /proc/meminfo")?;
    let space = rustix::fs::statvfs(root).context("cannot ask for the space of /")?;
    let mut disk: Vec<_> = FOLDERS
        .iter()
        .map(|(what, path)| (what, path, root.join(path.trim_start_matches('/'))))
        .filter(|(.., folder)| folder.is_dir())
        .map(|(what, path, folder)| Disk { what: (*what).into(), path: path.into(), bytes: size(&folder) })
        .collect();
    disk.sort_by_key(|disk| std::cmp::Reverse(disk.bytes));
    Ok(Usage {
        memory_total: kib(&meminfo, "MemTotal:"),
        memory_available: kib(&meminfo, "MemAvailable:"),
        disk_total: space.f_blocks * space.f_frsize,
        disk_available: space.f_bavail * space.f_frsize,
        memory: memory(root, names),
        disk,
    })
}

/// A line such as `VmHWM:  1234 kB`, in bytes.
fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

fn memory(root: &Path, names: &BTreeMap<String, String>) -> Vec<Memory> {
    let groups = root.join("sys/fs/cgroup");
    let (base, version) = match groups.join("cgroup.controllers").exists() {
        true => (groups, Version::Two),
        false => (groups.join("memory"), Version::One),
    };
    let mut pods = Vec::new();
    find_pods(&base, 0, &mut pods);
    let resident = resident_by_group(root, version);
    let below = |group: &str| {
        let inside =
            |other: &str| other == group || other.strip_prefix(group).is_some_and(|rest| rest.starts_with('/'));
        resident.iter().filter(|(other, _)| inside(other)).map(|(_, bytes)| bytes).sum::<u64>()
    };
    let mut rows: Vec<_> = pods
        .into_iter()
        .map(|(uid, path)| {
            let group = format!("/{}", path.strip_prefix(&base).unwrap_or(&path).display());
            let name = names.get(&uid).cloned().unwrap_or_else(|| format!("pod {uid}"));
            version.measure(name, &path, below(&group))
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.working_set));
    let host = version.measure("host".into(), &base, resident.iter().map(|(_, bytes)| bytes).sum());
    let of_pods = |of: &dyn Fn(&Memory) -> u64| rows.iter().map(of).sum::<u64>();
    let system = Memory {
        name: "system".into(),
        working_set: host.working_set.saturating_sub(of_pods(&|row| row.working_set)),
        peak: None,
        resident_peak: host.resident_peak.saturating_sub(of_pods(&|row| row.resident_peak)),
    };
    [host, system].into_iter().chain(rows).collect()
}

/// Version of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    fn measure(self, name: String, group: &Path, resident_peak: u64) -> Memory {
        let (usage, peak, inactive) = match self {
            Self::One => ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "total_inactive_file"),
            Self::Two => ("memory.current", "memory.peak", "inactive_file"),
        };
        let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let of_stat = |key: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line.and_then(|rest| rest.trim().parse::<u64>().ok())
        };
        // The root group of version 2 counts no `memory.current`.
        let counted =
            number(usage).or_else(|| Some(of_stat("anon")? + of_stat("file")? + of_stat("kernel").unwrap_or(0)));
        let working_set = counted.unwrap_or_default().saturating_sub(of_stat(inactive).unwrap_or_default());
        Memory { name, working_set, peak: number(peak), resident_peak }
    }
}

/// Groups of pods: `pod<uid>` with the cgroupfs driver, `kubepods-burstable-pod<uid>.slice` with systemd's.
fn find_pods(folder: &Path, depth: usize, found: &mut Vec<(String, PathBuf)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(uid) = pod_uid(&name) {
            found.push((uid, entry.path()));
        } else if depth < 3 && (depth > 0 || name.starts_with("kubepods")) {
            find_pods(&entry.path(), depth + 1, found);
        }
    }
}

fn pod_uid(name: &str) -> Option<String> {
    let (_, uid) = name.strip_suffix(".slice").unwrap_or(name).rsplit_once("pod")?;
    let uid = uid.replace('_', "-");
    let hexadecimal = uid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    (hexadecimal && uid.len() >= 32).then_some(uid)
}

/// Largest resident size ever of every process, with its control group.
fn resident_by_group(root: &Path, version: Version) -> Vec<(String, u64)> {
    let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let processes = entries.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    processes
        .filter_map(|entry| {
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let groups = fs::read_to_string(entry.path().join("cgroup")).ok()?;
            let of = |line: &str| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let wanted = match version {
                    Version::One => controllers.split(',').any(|controller| controller == "memory"),
                    Version::Two => controllers.is_empty(),
                };
                wanted.then(|| path.to_owned())
            };
            Some((groups.lines().find_map(of)?, kib(&status, "VmHWM:")))
        })
        .collect()
}

/// Space on disk under `folder`, without what other file systems hold; a file with several names counts once.
fn size(folder: &Path) -> u64 {
    let Ok(top) = fs::symlink_metadata(folder) else { return 0 };
    let mut seen = HashSet::new();
    let mut todo = vec![folder.to_path_buf()];
    let mut bytes = 0;
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
            if meta.dev() != top.dev() || (meta.nlink() > 1 && meta.is_file() && !seen.insert(meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const UID: &str = "e33cba01-40c9-4f80-9ee3-3f7a14ecfa94";

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(root: &Path, pid: u32, group: &str, kib: u64) {
        write(root, &format!("proc/{pid}/status"), &format!("Name: x\nVmHWM:\t{kib} kB\n"));
        write(root, &format!("proc/{pid}/cgroup"), group);
    }

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/meminfo", "MemTotal:       2048 kB\nMemAvailable:   1024 kB\n");
        root
    }

    #[test]
    fn groups_of_version_one() {
        let dir = root();
        let root = dir.path();
        let base = "sys/fs/cgroup/memory";
        write(root, &format!("{base}/memory.usage_in_bytes"), "1000\n");
        write(root, &format!("{base}/memory.max_usage_in_bytes"), "3000\n");
        write(root, &format!("{base}/memory.stat"), "inactive_file 1\ntotal_inactive_file 100\n");
        let pod = format!("{base}/kubepods/burstable/pod{UID}");
        write(root, &format!("{pod}/memory.usage_in_bytes"), "400\n");
        write(root, &format!("{pod}/memory.stat"), "total_inactive_file 50\n");
        process(root, 7, &format!("4:memory:/kubepods/burstable/pod{UID}/c1\n1:name=systemd:/\n"), 3);
        process(root, 8, "4:cpu,memory:/\n", 5);
        let usage = look(root, &BTreeMap::from([(UID.to_owned(), "mlops/postgres-0".to_owned())])).unwrap();
        let row = |name: &str, working_set, peak, resident_peak| Memory {
            name: name.into(),
            working_set,
            peak,
            resident_peak,
        };
        let expected = [
            row("host", 900, Some(3000), 8192),
            row("system", 550, None, 5120),
            row("mlops/postgres-0", 350, None, 3072),
        ];
        assert_eq!(usage.memory, expected);
        assert_eq!((usage.memory_total, usage.memory_available), (2 << 20, 1 << 20));
    }

    #[test]
    fn groups_of_version_two_by_systemd() {
        let dir = root();
        let root = dir.path();
        write(root, "sys/fs/cgroup/cgroup.controllers", "memory\n");
        write(root, "sys/fs/cgroup/memory.stat", "anon 600\nfile 300\ninactive_file 200\n");
        let slice = format!("kubepods-besteffort-pod{}.slice", UID.replace('-', "_"));
        let pod = format!("sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/{slice}");
        write(root, &format!("{pod}/memory.current"), "70\n");
        write(root, &format!("{pod}/memory.peak"), "90\n");
        process(root, 9, &format!("0::/kubepods.slice/kubepods-besteffort.slice/{slice}/cri-1.scope\n"), 2);
        let memory = look(root, &BTreeMap::new()).unwrap().memory;
        assert_eq!((memory[0].working_set, memory[0].peak), (700, None));
        assert_eq!((memory[2].name.as_str(), memory[2].working_set), (format!("pod {UID}").as_str(), 70));
        assert_eq!((memory[2].peak, memory[2].resident_peak), (Some(90), 2048));
    }

    #[test]
    fn a_file_with_two_names_takes_its_space_once() {
        let dir = root();
        let logs = dir.path().join("var/log");
        fs::create_dir_all(&logs).unwrap();
        fs::write(logs.join("a"), vec![1; 100_000]).unwrap();
        let once = size(&logs);
        fs::hard_link(logs.join("a"), logs.join("b")).unwrap();
        assert_eq!(size(&logs), once);
        assert!(once >= 100_000);
        assert!(look(dir.path(), &BTreeMap::new()).unwrap().disk.iter().any(|disk| disk.what == "logs"));
    }

    #[test]
    fn every_folder_that_the_platform_fills_is_a_row_and_none_lies_in_another() {
        let dir = root();
        write(dir.path(), "var/lib/rancher/k3s/agent/images/k3s-airgap-images-amd64.tar.zst", &"x".repeat(200_000));
        write(dir.path(), "var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/cache/x", &"x".repeat(100_000));
        let disk = look(dir.path(), &BTreeMap::new()).unwrap().disk;
        let rows: Vec<_> = disk.iter().map(|disk| (disk.what.as_str(), disk.bytes / 100_000)).collect();
        assert_eq!(rows, [("image archives that k3s imports", 2), ("temporary volumes of pods", 1)]);
        for (_, folder) in FOLDERS {
            let inside = FOLDERS.iter().find(|(_, other)| other != folder && Path::new(other).starts_with(folder));
            assert_eq!(inside, None, "counted twice, in {folder}");
        }
    }
}
