//! The cached root filesystem: made once by mmdebstrap, the lower layer of every host.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::outer::{Outer, SUITE};
use super::state::replace_file;
use super::tool;
use crate::hash::sha256;

/// What a minimal server installation has, no more: the stages have to bring what they need.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "openssh-server",
    "sudo",
    "iproute2",
    "iputils-ping",
    "iptables",
    "kmod",
    "procps",
    "ca-certificates",
];
const PREPARE: &str = include_str!("guest/prepare.sh");
/// Our own files in the root filesystem: path and content.
const OVERLAY: &[(&str, &str)] = &[
    ("usr/local/lib/provision-sandbox/boot", include_str!("guest/boot.sh")),
    ("etc/systemd/system/provision-sandbox-boot.service", include_str!("guest/boot.service")),
    ("etc/ssh/sshd_config.d/10-sandbox.conf", include_str!("guest/sshd.conf")),
    ("etc/sudoers.d/ops", "ops ALL=(ALL:ALL) NOPASSWD: ALL\n"),
];

/// Everything that decides the content of the root filesystem.
struct Recipe {
    outer: Outer,
}

impl Recipe {
    fn key(&self) -> String {
        let mut text = format!("1\n{SUITE}\n{}\n{PREPARE}\n", PACKAGES.join(","));
        for (path, content) in OVERLAY {
            text.push_str(&format!("{path}\n{content}\n"));
        }
        text.push_str(&format!("{}\n{}\n", self.outer.sources, self.outer.apt_options));
        for (name, content) in self.outer.certificates.iter().chain(&self.outer.apt_logins) {
            text.push_str(&format!("{name} {}\n", sha256(content)));
        }
        sha256(text)[..16].to_owned()
    }

    /// Lays out what `prepare.sh` puts into the new root, and what mmdebstrap reads.
    fn write(&self, dir: &Path) -> Result<()> {
        let mut files: Vec<(String, &[u8], u32)> = vec![
            ("prepare".into(), PREPARE.as_bytes(), 0o755),
            ("apt.conf".into(), self.outer.apt_options.as_bytes(), 0o644),
            ("sources.list".into(), self.outer.sources.as_bytes(), 0o644),
        ];
        for (path, content) in OVERLAY {
            files.push((format!("overlay/{path}"), content.as_bytes(), 0o644));
        }
        for (name, content) in &self.outer.certificates {
            files.push((format!("overlay/usr/local/share/ca-certificates/{name}"), content, 0o644));
        }
        for (name, content) in &self.outer.apt_logins {
            files.push((format!("overlay/etc/apt/auth.conf.d/{name}"), content, 0o600));
        }
        for (path, content, mode) in files {
            let path = dir.join(path);
            let parent = path.parent().unwrap_or(dir);
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            replace_file(&path, content, mode)?;
        }
        Ok(())
    }
}

/// The cached root filesystem for this machine, built first if it is not there.
///
/// # Errors
/// mmdebstrap's own last lines when it fails; nothing half-built stays usable.
pub(super) fn cached(cache_dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let recipe = Recipe { outer: Outer::read()? };
    let dir = cache_dir.join("rootfs");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let finished = dir.join(recipe.key());
    if finished.exists() {
        return Ok(finished);
    }
    let lock_path = dir.join("lock");
    let lock = File::create(&lock_path).with_context(|| format!("cannot open {}", lock_path.display()))?;
    if lock.try_lock().is_err() {
        progress("another process is building the root filesystem: waiting for it");
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    }
    if finished.exists() {
        return Ok(finished);
    }
    // Whoever left this behind is dead, as it held the lock.
    let building = dir.join("building");
    remove_tree(&building)?;
    fs::create_dir(&building).with_context(|| format!("cannot make {}", building.display()))?;
    let result = build(&recipe, &building, progress);
    if result.is_ok() {
        fs::rename(building.join("root"), &finished).with_context(|| format!("cannot make {}", finished.display()))?;
    }
    remove_tree(&building)?;
    result.map(|()| finished)
}

/// Removes what a killed build left, unless a live one is at work. True when there was something.
pub(super) fn sweep(cache_dir: &Path) -> Result<bool> {
    let dir = cache_dir.join("rootfs");
    let building = dir.join("building");
    let Ok(lock) = File::open(dir.join("lock")) else {
        return Ok(false);
    };
    if !building.exists() || lock.try_lock().is_err() {
        return Ok(false);
    }
    remove_tree(&building)?;
    Ok(true)
}

fn build(recipe: &Recipe, dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    recipe.write(dir)?;
    progress("building the Debian 12 root filesystem, once (about 20 seconds and 150 MB of packages)");
    // Its own mount and process namespaces, and a death signal: whatever kills us, no process and no mount of
    // mmdebstrap stays.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .args(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(format!("--aptopt={}", dir.join("apt.conf").display()))
        .arg(format!("--customize-hook={}", dir.join("prepare").display()))
        .arg(SUITE)
        .arg(dir.join("root"))
        .args((!recipe.outer.sources.is_empty()).then(|| dir.join("sources.list")))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start mmdebstrap")?;
    let mut log = String::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.context("cannot read what mmdebstrap says")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(step) = line.strip_prefix("I: ") {
                progress(step.trim());
            }
            log.push_str(&line);
            log.push('\n');
        }
    }
    let status = child.wait().context("cannot wait for mmdebstrap")?;
    if !status.success() {
        bail!(
            "mmdebstrap could not build the root filesystem ({status}); its last lines:\n{}\ncheck that `apt-get update` works on this machine",
            tool::last_lines(&log, 20)
        );
    }
    Ok(())
}

/// Where a host's own `/var` is, when its root is an overlay.
pub(super) fn var_dir(host_dir: &Path) -> PathBuf {
    host_dir.join("var")
}

/// Makes `host_dir/rootfs` a writable root with the content of `cached`: an overlay, which costs neither time nor
/// memory, or a plain copy where the kernel cannot put an overlay on this file system.
pub(super) fn lay_out(cached: &Path, host_dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let root = host_dir.join("rootfs");
    fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
    match overlay(cached, host_dir, &root) {
        // Overlays cannot be stacked: containerd needs a real file system below /var/lib, as it has on a VM.
        Ok(()) => copy(&cached.join("var"), &var_dir(host_dir)),
        Err(reason) => {
            progress(&format!("no overlay here, copying all files instead ({reason:#})"));
            copy(cached, &root)
        }
    }
}

fn overlay(cached: &Path, host_dir: &Path, root: &Path) -> Result<()> {
    let (upper, work) = (host_dir.join("upper"), host_dir.join("work"));
    let options = overlay_options(cached, &upper, &work)?;
    for dir in [&upper, &work] {
        fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    // The upper folder's owner and mode become those of the host's "/".
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))?;
    let root = root.to_string_lossy();
    tool::run(&["mount", "-t", "overlay", "-o", &options, "--", "provision-sandbox", &root])?;
    Ok(())
}

fn overlay_options(lower: &Path, upper: &Path, work: &Path) -> Result<String> {
    let path = |path: &Path| match path.to_str() {
        Some(text) if !text.contains([',', ':', '\\', '"']) => Ok(text.to_owned()),
        _ => bail!("{} contains a character that mount options cannot", path.display()),
    };
    // redirect_dir: folders of the cached root can be renamed, as on any file system.
    Ok(format!("lowerdir={},upperdir={},workdir={},redirect_dir=on", path(lower)?, path(upper)?, path(work)?))
}

fn copy(source: &Path, target: &Path) -> Result<()> {
    // A copy that outlived us would fill the folder that the next run is removing.
    tool::run(&[
        "setpriv",
        "--pdeathsig",
        "KILL",
        "--",
        "cp",
        "--archive",
        "--reflink=auto",
        "--no-target-directory",
        &source.to_string_lossy(),
        &target.to_string_lossy(),
    ])?;
    Ok(())
}

/// Removes a directory and everything below; fine when there is none.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    // A process that is just being killed may still add a file: then once more.
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {
                sleep(Duration::from_millis(20));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
    }
}

/// Writes a new file below a host's root, with owner root. For use before the host's first boot.
pub(super) fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::create(path)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn recipe(sources: &str) -> Recipe {
        Recipe {
            outer: Outer {
                sources: sources.into(),
                apt_options: String::new(),
                certificates: vec![("own.crt".into(), b"pem".to_vec())],
                apt_logins: vec![("mirror.conf".into(), b"login".to_vec())],
            },
        }
    }

    #[test]
    fn the_key_follows_the_content() {
        assert_eq!(recipe("a").key(), recipe("a").key());
        assert_ne!(recipe("a").key(), recipe("b").key());
        let mut other = recipe("a");
        other.outer.certificates[0].1 = b"new pem".to_vec();
        assert_ne!(other.key(), recipe("a").key());
    }

    #[test]
    fn the_recipe_lays_out_overlay_certificates_and_private_logins() {
        let dir = tempfile::tempdir().unwrap();
        recipe("deb x bookworm main\n").write(dir.path()).unwrap();
        let overlay = dir.path().join("overlay");
        assert!(overlay.join("etc/sudoers.d/ops").is_file());
        assert_eq!(fs::read(overlay.join("usr/local/share/ca-certificates/own.crt")).unwrap(), b"pem");
        let login = fs::metadata(overlay.join("etc/apt/auth.conf.d/mirror.conf")).unwrap();
        assert_eq!(login.permissions().mode() & 0o777, 0o600);
        let prepare = fs::metadata(dir.path().join("prepare")).unwrap();
        assert_eq!(prepare.permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_killed_build_is_swept_and_a_live_one_is_not() {
        let cache = tempfile::tempdir().unwrap();
        assert!(!sweep(cache.path()).unwrap());
        let building = cache.path().join("rootfs/building");
        fs::create_dir_all(building.join("root")).unwrap();
        let lock = File::create(cache.path().join("rootfs/lock")).unwrap();
        lock.lock().unwrap();
        assert!(!sweep(cache.path()).unwrap());
        assert!(building.exists());
        drop(lock);
        assert!(sweep(cache.path()).unwrap());
        assert!(!building.exists());
    }

    #[test]
    fn where_no_overlay_can_be_all_files_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        // A colon separates layers in mount options.
        let cached = dir.path().join("a:b");
        fs::create_dir_all(cached.join("var")).unwrap();
        fs::write(cached.join("var/file"), "x").unwrap();
        let host = dir.path().join("host");
        fs::create_dir(&host).unwrap();
        let mut said = Vec::new();
        lay_out(&cached, &host, &mut |text| said.push(text.to_owned())).unwrap();
        assert_eq!(fs::read_to_string(host.join("rootfs/var/file")).unwrap(), "x");
        assert!(said[0].contains("copying all files instead"), "{said:?}");
        assert!(!var_dir(&host).exists());
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        remove_tree(&dir.path().join("none")).unwrap();
    }
}
