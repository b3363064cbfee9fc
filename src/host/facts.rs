//! What never changes during a run, and what differs between the target systems: all of it in this one place.

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
