//! What never changes during a run, and what differs between the target systems: all of it in this one place.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Facts of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `ID` of /etc/os-release: `ubuntu`, `debian`.
    pub os: String,
    /// `VERSION_ID`: `22.04`, `12`.
    pub os_version: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    pub hostname: String,
    /// Runs in a container (systemd-nspawn, LXC): no kernel modules of its own.
    pub container: bool,
    /// MiB.
    pub memory_mib: u64,
    pub cpus: u32,
}

/// A system that we can provision, with what sets it apart from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct System {
    /// `ID` of /etc/os-release.
    pub os: &'static str,
    /// `VERSION_ID` of /etc/os-release.
    pub version: &'static str,
    /// How people call it.
    pub name: &'static str,
    /// Names that APT uses.
    pub codename: &'static str,
    /// Where the distribution keeps its own APT sources: one-line format, or deb822 since 24.04.
    pub apt_sources: &'static str,
    /// systemd starts sshd only when somebody connects (`ssh.socket`), so `ssh.service` may be inactive on a healthy host.
    pub ssh_by_socket: bool,
    /// needrestart is installed and asks, in the middle of an installation, which services to restart, unless
    /// `NEEDRESTART_MODE` says otherwise.
    pub needrestart: bool,
    /// The package with time zones of old names (`US/Pacific`), where the main package has only the current ones.
    pub legacy_timezones: Option<&'static str>,
    /// Packages that a minimal image lacks and the other systems come with.
    pub extra_packages: &'static [&'static str],
}

/// All systems that we can provision, the main one first.
///
/// The same on all of them, and therefore not here: iptables is the nft variant (1.8.7 to 1.8.10, past the versions that
/// duplicate rules), cgroups are version 2, UFW is 0.36, sshd's unit is `ssh`, modules are listed in /etc/modules-load.d.
pub const SYSTEMS: &[System] = &[
    System {
        os: "ubuntu",
        version: "22.04",
        name: "Ubuntu 22.04",
        codename: "jammy",
        apt_sources: "/etc/apt/sources.list",
        ssh_by_socket: false,
        needrestart: true,
        legacy_timezones: None,
        extra_packages: &[],
    },
    System {
        os: "ubuntu",
        version: "24.04",
        name: "Ubuntu 24.04",
        codename: "noble",
        apt_sources: "/etc/apt/sources.list.d/ubuntu.sources",
        ssh_by_socket: true,
        needrestart: true,
        legacy_timezones: Some("tzdata-legacy"),
        extra_packages: &[],
    },
    System {
        os: "debian",
        version: "12",
        name: "Debian 12",
        codename: "bookworm",
        apt_sources: "/etc/apt/sources.list",
        ssh_by_socket: false,
        needrestart: false,
        legacy_timezones: None,
        extra_packages: &["iptables", "dbus", "systemd-timesyncd"],
    },
];

impl Facts {
    /// Looks at this machine.
    ///
    /// # Errors
    /// When /etc/os-release or /proc cannot be read.
    pub fn gather() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let uname = rustix::system::uname();
        let os_release = read("/etc/os-release")?;
        Ok(Self {
            os: os_release_value(&os_release, "ID").unwrap_or_default(),
            os_version: os_release_value(&os_release, "VERSION_ID").unwrap_or_default(),
            arch: uname.machine().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            // systemd writes the first in every container that it runs in; Docker writes the second.
            container: Path::new("/run/systemd/container").exists() || Path::new("/.dockerenv").exists(),
            memory_mib: memory_mib(&read("/proc/meminfo")?).context("/proc/meminfo: has no MemTotal")?,
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        })
    }

    /// The entry of [`SYSTEMS`] for this host.
    ///
    /// # Errors
    /// When it is none of them, naming them.
    pub fn system(&self) -> Result<&'static System> {
        SYSTEMS.iter().find(|system| system.os == self.os && system.version == self.os_version).with_context(|| {
            let names: Vec<_> = SYSTEMS.iter().map(|system| system.name).collect();
            format!(
                "the host {} runs {} {}, which cannot be provisioned; use one with {}",
                self.hostname,
                self.os,
                self.os_version,
                names.join(", ")
            )
        })
    }
}

/// The value of a key of /etc/os-release, without its quotes.
fn os_release_value(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (name.trim() == key).then(|| value.to_owned())
    })
}

fn memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// /etc/os-release of each system, as its image has it (the lines that are read).
    const RECORDED: &[(&str, &str)] = &[
        (
            "Ubuntu 22.04",
            "PRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"22.04\"\nVERSION=\"22.04.5 LTS (Jammy Jellyfish)\"\nVERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=jammy\n",
        ),
        (
            "Ubuntu 24.04",
            "PRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nVERSION=\"24.04.3 LTS (Noble Numbat)\"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=noble\nLOGO=ubuntu-logo\n",
        ),
        (
            "Debian 12",
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n",
        ),
    ];

    fn facts(os_release: &str) -> Facts {
        Facts {
            os: os_release_value(os_release, "ID").unwrap(),
            os_version: os_release_value(os_release, "VERSION_ID").unwrap(),
            hostname: "vm".into(),
            ..Facts::default()
        }
    }

    #[test]
    fn every_recorded_system_is_known_by_what_it_says() {
        assert_eq!(RECORDED.len(), SYSTEMS.len());
        for (name, os_release) in RECORDED {
            let system = facts(os_release).system().unwrap();
            assert_eq!(system.name, *name);
            let codename = os_release_value(os_release, "VERSION_CODENAME").unwrap();
            assert_eq!(system.codename, codename);
        }
    }

    #[test]
    fn other_systems_are_refused_with_the_way_out() {
        let error = facts("ID=fedora\nVERSION_ID=41\n").system().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the host vm runs fedora 41, which cannot be provisioned; use one with Ubuntu 22.04, Ubuntu 24.04, Debian 12"
        );
    }

    #[test]
    fn memory_is_read_in_mib() {
        assert_eq!(memory_mib("MemTotal:       16384000 kB\nMemFree: 1 kB\n"), Some(16_000));
        assert_eq!(memory_mib("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = Facts::gather().unwrap();
        assert!(!facts.os.is_empty() && !facts.kernel.is_empty());
        assert!(facts.cpus > 0 && facts.memory_mib > 0);
    }
}
