//! Starting, watching and ending the systemd-nspawn machine of one host.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::cgroup;
use super::network::{BRIDGE, delete_link, machine};
use super::rootfs::var_dir;
use super::state::{Process, State};
use super::tool::{last_lines, run};

const SUPERVISE: &str = include_str!("guest/supervise.sh");
/// A boot takes two seconds on an idle machine; this leaves room for a loaded one.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// Starts the host in `host_dir` in a session and cgroups of its own, so that it outlives us.
/// Returns its supervising process.
pub(super) fn start(state: &State, host_dir: &Path) -> Result<Process> {
    cgroup::create(&state.cgroups)?;
    let cgroup_list = host_dir.join("cgroups");
    let lines: String = state.cgroups.iter().map(|path| format!("{}\n", path.display())).collect();
    fs::write(&cgroup_list, lines).with_context(|| format!("cannot write {}", cgroup_list.display()))?;
    let pid_file = host_dir.join("leader.pid");
    let log = File::create(console_log(host_dir)).context("cannot make the console log")?;
    let mut command = Command::new("setsid");
    command
        .args(["--fork", "sh", "-c", SUPERVISE, "sh"])
        .args([&cgroup_list, &pid_file])
        .arg("systemd-nspawn")
        .args(nspawn_arguments(state, host_dir, |device| Path::new(device).exists()))
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        // Which cgroup layout the host sees: the one of this machine, as the kernel is shared.
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", if cgroup::is_v2_only()? { "1" } else { "0" })
        // /proc/sys and /sys writable, as on a real machine.
        .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the console log")?)
        .stderr(log);
    let status = command.status().context("cannot start setsid")?;
    if !status.success() {
        bail!("setsid failed ({status})");
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let pid = fs::read_to_string(&pid_file).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse()
            && let Some(process) = Process::of(pid)
        {
            return Ok(process);
        }
        if Instant::now() > deadline {
            bail!("systemd-nspawn did not start\n{}", console_tail(host_dir));
        }
        sleep(Duration::from_millis(5));
    }
}

fn nspawn_arguments(state: &State, host_dir: &Path, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--quiet",
        "--boot",
        // There may be no machined here, and the cgroup is the one we are in.
        "--register=no",
        "--keep-unit",
        // Container runtimes inside need all of these; the host is no security boundary.
        "--capability=all",
        "--system-call-filter=@keyring bpf @module",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=pipe",
        // SIGTERM ends the host at once: it is thrown away, nothing in it needs an orderly stop.
        "--kill-signal=SIGKILL",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--network-bridge={BRIDGE}"));
    arguments.push(format!("--machine={}", machine(state.address)));
    arguments.push(format!("--hostname={}", state.name));
    arguments.push(format!("--directory={}", host_dir.join("rootfs").display()));
    if exists(&var_dir(host_dir).to_string_lossy()) {
        arguments.push(format!("--bind={}:/var", var_dir(host_dir).display()));
    }
    // The kubelet reads kernel messages; fuse-overlayfs and the like want fuse; and which modules the kernel has
    // can be seen on every real machine.
    for path in ["/dev/kmsg", "/dev/fuse", "/sys/module"] {
        if exists(path) {
            arguments.push(format!("--bind={path}"));
        }
    }
    arguments
}

/// Waits until the SSH server of a starting host says its greeting.
///
/// # Errors
/// When the host dies or the time is up, with the end of its console.
pub(super) fn wait_for_ssh(leader: Process, address: Ipv4Addr, host_dir: &Path) -> Result<()> {
    let deadline = Instant::now() + BOOT_PATIENCE;
    loop {
        let reason = match greeting(address) {
            Ok(text) if text.starts_with("SSH-") => return Ok(()),
            Ok(text) => format!("port 22 said {text:?}"),
            Err(error) => error.to_string(),
        };
        if !leader.is_alive() {
            bail!("the host stopped while it booted\n{}", console_tail(host_dir));
        }
        if Instant::now() > deadline {
            bail!(
                "the host's SSH server at {address} did not answer within {} s (last: {reason})\n{}",
                BOOT_PATIENCE.as_secs(),
                console_tail(host_dir)
            );
        }
        sleep(Duration::from_millis(50));
    }
}

fn greeting(address: Ipv4Addr) -> std::io::Result<String> {
    let second = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, 22)), second)?;
    stream.set_read_timeout(Some(second))?;
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends every process of the host and removes its mounts, link and cgroups. Works on any half of a host.
pub(super) fn destroy(
    leader: Option<Process>,
    cgroups: &[PathBuf],
    address: Option<Ipv4Addr>,
    host_dir: &Path,
) -> Result<()> {
    // First the shell that would start the machine again.
    if let Some(leader) = leader.filter(|leader| leader.is_alive()) {
        cgroup::signal(leader.pid, Signal::KILL);
    }
    // Then systemd-nspawn itself: on SIGTERM it kills the host's PID 1, with it everything inside, and cleans up.
    for pid in cgroup::processes(cgroups) {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == "systemd-nspawn" {
            cgroup::signal(pid, Signal::TERM);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while !cgroup::processes(cgroups).is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(20));
    }
    cgroup::destroy(cgroups)?;
    remove_nspawn_records(address, host_dir);
    unmount_below(host_dir)?;
    match address {
        Some(address) => delete_link(&machine(address)),
        None => Ok(()),
    }
}

/// What systemd-nspawn leaves in /run when it is killed. It is a convenience: a leftover would harm nobody.
fn remove_nspawn_records(address: Option<Ipv4Addr>, host_dir: &Path) {
    let run_dir = Path::new("/run/systemd/nspawn");
    if let Some(address) = address {
        let name = machine(address);
        let _ = fs::remove_dir(run_dir.join("propagate").join(&name));
        let _ = fs::remove_dir(run_dir.join("unix-export").join(&name));
    }
    if let Ok(root) = fs::metadata(host_dir.join("rootfs")) {
        let lock = format!("inode-{}:{}", root.dev(), root.ino());
        let _ = fs::remove_file(run_dir.join("locks").join(lock));
    }
}

fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read mountinfo")?;
    for point in mount_points_below(&mounts, dir) {
        let point = point.to_string_lossy();
        if run(&["umount", "--", &point]).is_err() {
            run(&["umount", "--lazy", "--", &point])?;
        }
    }
    Ok(())
}

/// Mount points at or below `dir`, the last mounted first.
fn mount_points_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let mut points: Vec<_> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    points
}

pub(super) fn console_log(host_dir: &Path) -> PathBuf {
    host_dir.join("console.log")
}

fn console_tail(host_dir: &Path) -> String {
    let bytes = fs::read(console_log(host_dir)).unwrap_or_default();
    let text = last_lines(&String::from_utf8_lossy(&bytes), 20);
    match text.is_empty() {
        true => "its console is empty".to_owned(),
        false => format!("the end of its console:\n{text}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sandbox::state::tests::example;

    #[test]
    fn only_devices_that_exist_are_bound() {
        let state = example("node-1", 5);
        let with = |device: &'static str| nspawn_arguments(&state, Path::new("/c/node-1"), move |d| d == device);
        let arguments = with("/dev/kmsg");
        assert!(arguments.contains(&"--bind=/dev/kmsg".to_owned()));
        assert!(!arguments.contains(&"--bind=/dev/fuse".to_owned()));
        assert!(arguments.contains(&"--machine=pv-5".to_owned()));
        assert!(arguments.contains(&"--hostname=node-1".to_owned()));
        assert!(arguments.contains(&"--directory=/c/node-1/rootfs".to_owned()));
    }

    #[test]
    fn mounts_are_found_below_the_folder_only_and_innermost_first() {
        let info = "\
1 0 8:1 / / rw - ext4 /dev/vda rw
2 1 8:1 / /c/a rw - tmpfs t rw
3 2 8:1 / /c/a/x\\040y rw - tmpfs t rw
4 1 8:1 / /c/ab rw - tmpfs t rw
";
        assert_eq!(mount_points_below(info, Path::new("/c/a")), [PathBuf::from("/c/a/x y"), PathBuf::from("/c/a")]);
    }

    #[test]
    fn the_console_tail_of_a_silent_host_says_so() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(console_tail(dir.path()), "its console is empty");
        fs::write(console_log(dir.path()), "one\ntwo\n").unwrap();
        assert!(console_tail(dir.path()).ends_with("one\ntwo"));
    }
}
