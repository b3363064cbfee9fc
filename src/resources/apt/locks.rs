//! Who holds APT's locks, and waiting for them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::host::{Cmd, CommandFailed, Output, ReadHost, WriteHost};

const LOCKS: &[(&str, &str)] = &[
    ("dpkg", "/var/lib/dpkg/lock-frontend"),
    ("dpkg", "/var/lib/dpkg/lock"),
    ("APT's lists", "/var/lib/apt/lists/lock"),
    ("APT's cache", "/var/cache/apt/archives/lock"),
];
const PAUSE: Duration = Duration::from_secs(1);
/// cloud-init that takes longer is stuck; the locks themselves still protect us.
const CLOUD_INIT_PATIENCE: Duration = Duration::from_secs(300);

/// A process that has one of the locks.
#[derive(Debug, Clone, PartialEq)]
struct Holder {
    lock: &'static str,
    pid: u32,
    program: String,
}

/// Waits until nobody uses APT or dpkg, at most `patience`.
///
/// # Errors
/// When the time is up, naming the holder.
pub(super) async fn wait(host: &dyn WriteHost, patience: Duration) -> Result<()> {
    wait_for_cloud_init(host, patience.min(CLOUD_INIT_PATIENCE)).await?;
    let mut waited = Duration::ZERO;
    while let Some(Holder { lock, pid, program }) = holder(host.as_read())? {
        let seconds = waited.as_secs();
        if waited >= patience {
            bail!(
                "the lock of {lock} is still held by pid {pid} ({program}) after {seconds} s; wait until it is done or stop it, then run this again"
            );
        }
        host.progress(&format!("waiting for the lock of {lock} held by pid {pid} ({program}), {seconds} s"));
        host.sleep(PAUSE).await;
        waited += PAUSE;
    }
    Ok(())
}

/// Runs APT. It waits for dpkg's lock by itself, but gives up at once when another has the lists' or the cache's.
///
/// # Errors
/// As [`wait`], or APT's failure.
pub(super) async fn retrying(host: &dyn WriteHost, patience: Duration, cmd: &Cmd) -> Result<Output> {
    const ATTEMPTS: u32 = 5;
    let mut attempt = 1;
    loop {
        wait(host, patience).await?;
        match host.run(cmd).await {
            Err(error) if attempt < ATTEMPTS && lost_a_race(&error) => attempt += 1,
            other => return other,
        }
    }
}

fn lost_a_race(error: &anyhow::Error) -> bool {
    error.downcast_ref::<CommandFailed>().is_some_and(|failed| {
        let signs = ["Could not get lock", "Unable to lock", "Unable to acquire the dpkg"];
        failed.tail.iter().any(|line| signs.iter().any(|sign| line.contains(sign)))
    })
}

/// On its first boot a cloud machine installs packages itself, with pauses in which no lock is held.
async fn wait_for_cloud_init(host: &dyn WriteHost, patience: Duration) -> Result<()> {
    let is_there = |path: &str| host.stat(Path::new(path)).map(|stat| stat.is_some());
    let mut waited = Duration::ZERO;
    while is_there("/run/cloud-init/enabled")? && !is_there("/run/cloud-init/result.json")? && waited < patience {
        let seconds = waited.as_secs();
        host.progress(&format!("waiting for cloud-init to finish the first boot, {seconds} s"));
        host.sleep(PAUSE).await;
        waited += PAUSE;
    }
    Ok(())
}

/// The kernel lists who has a lock; which file it is, one sees by what the process has open.
fn holder(host: &dyn ReadHost) -> Result<Option<Holder>> {
    let locks = host.read_text(Path::new("/proc/locks"))?.unwrap_or_default();
    for pid in pids(&locks) {
        let process = format!("/proc/{pid}");
        let descriptors = Path::new(&process).join("fd");
        // A process that ended meanwhile holds nothing.
        for descriptor in host.list_dir(&descriptors).unwrap_or_default() {
            let target = host.read_link(&descriptors.join(descriptor)).ok().flatten();
            let is_open = |path: &str| target.as_deref() == Some(Path::new(path));
            if let Some((lock, _)) = LOCKS.iter().find(|(_, path)| is_open(path)) {
                let name = host.read_text(Path::new(&format!("{process}/comm"))).ok();
                return Ok(Some(Holder { lock, pid, program: name.flatten().unwrap_or_default().trim().to_owned() }));
            }
        }
    }
    Ok(None)
}

/// Processes with a POSIX write lock in `/proc/locks`, each once. Those who wait for one (`->`) do not count.
fn pids(locks: &str) -> Vec<u32> {
    let mut pids: Vec<u32> = locks
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                [_, "POSIX", _, "WRITE", pid, ..] => pid.parse().ok(),
                _ => None,
            }
        })
        // 0: a process outside of our container.
        .filter(|&pid| pid != 0)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, failed};

    // Recorded while `apt-get install` ran.
    const RECORDED: &str = "1: FLOCK  ADVISORY  WRITE 812 00:19:1105 0 EOF\n2: POSIX  ADVISORY  WRITE 5043 fe:00:868358 0 EOF\n2: -> POSIX  ADVISORY  WRITE 6001 fe:00:868358 0 EOF\n3: POSIX  ADVISORY  READ  77 00:19:1300 4 4\n4: OFDLCK ADVISORY  WRITE -1 fe:00:10067998 0 EOF\n5: POSIX  ADVISORY  WRITE 0 fe:00:2 0 EOF\n";

    fn busy() -> FakeHost {
        FakeHost::new()
            .file("/proc/locks", RECORDED, 0o444)
            .file("/proc/5043/comm", "unattended-upgr\n", 0o444)
            .link("/proc/5043/fd/1", "/dev/null")
            .link("/proc/5043/fd/5", "/var/lib/dpkg/lock-frontend")
    }

    #[test]
    fn only_holders_of_write_locks_are_asked() {
        assert_eq!(pids(RECORDED), [5043]);
    }

    #[tokio::test]
    async fn the_holder_is_named_and_the_wait_has_an_end() {
        let host = busy();
        let error = wait(&host, Duration::from_secs(12)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the lock of dpkg is still held by pid 5043 (unattended-upgr) after 12 s; wait until it is done or stop it, then run this again"
        );
        assert_eq!(host.slept(), Duration::from_secs(12));
        assert_eq!(
            host.progress_texts().last().unwrap(),
            "waiting for the lock of dpkg held by pid 5043 (unattended-upgr), 11 s"
        );
    }

    #[tokio::test]
    async fn a_lock_file_that_is_only_open_does_not_count() {
        let host = busy();
        host.files().put_file("/proc/locks", "", 0o444);
        wait(&host, Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn cloud_init_is_waited_for() {
        let host = FakeHost::new().file("/run/cloud-init/enabled", "", 0o644);
        wait(&host, Duration::from_secs(3)).await.unwrap();
        assert_eq!(host.slept(), Duration::from_secs(3));
        assert!(host.progress_texts()[0].contains("cloud-init"));
        let host = host.file("/run/cloud-init/result.json", "{}", 0o644);
        wait(&host, Duration::from_secs(3)).await.unwrap();
        assert_eq!(host.slept(), Duration::from_secs(3));
    }

    #[tokio::test]
    async fn a_lost_race_is_run_again() {
        let host = FakeHost::new().answer(
            &["apt-get"],
            failed(100, "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"),
        );
        let cmd = Cmd::new(["apt-get", "update"]);
        retrying(&host, Duration::ZERO, &cmd).await.unwrap_err();
        assert_eq!(host.runs().len(), 5);
    }
}
