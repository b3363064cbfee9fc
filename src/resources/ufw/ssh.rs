//! What of SSH the firewall must not cut.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::host::ReadHost;

const CONFIG: &str = "/etc/ssh/sshd_config";
/// Units that listen for sshd where it is started by a connection (Ubuntu 24.04): the administrator's drop-ins, and those
/// that systemd's generator makes from sshd_config.
const SOCKETS: &[&str] = &["/etc/systemd/system/ssh.socket.d", "/run/systemd/generator/ssh.socket.d"];
/// More includes than this are a loop.
const DEPTH: u8 = 8;

/// Ports of sshd, and the connection that we came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ssh {
    /// Empty when sshd is not installed.
    pub(super) ports: BTreeSet<u16>,
    /// The client's address and our port.
    pub(super) connection: Option<(IpAddr, u16)>,
}

impl Ssh {
    pub(super) fn find(host: &dyn ReadHost) -> Result<Self> {
        let mut ports = BTreeSet::new();
        if let Some(config) = host.read_text(Path::new(CONFIG))? {
            configured(host, &config, DEPTH, &mut ports)?;
            for dir in SOCKETS.iter().map(Path::new) {
                for name in host.list_dir(dir)? {
                    let text = host.read_text(&dir.join(name))?.unwrap_or_default();
                    ports.extend(streams(&text));
                }
            }
            if ports.is_empty() {
                ports.insert(22);
            }
        }
        Ok(Self { ports, connection: connection(host)? })
    }
}

/// Ports of `Port` and `ListenAddress` lines, included files too.
fn configured(host: &dyn ReadHost, config: &str, depth: u8, ports: &mut BTreeSet<u16>) -> Result<()> {
    for line in config.lines() {
        let line = line.split('#').next().unwrap_or_default().replacen('=', " ", 1);
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else {
            continue;
        };
        match keyword.to_ascii_lowercase().as_str() {
            "port" => ports.extend(words.next().and_then(|port| port.parse::<u16>().ok())),
            "listenaddress" => ports.extend(words.next().and_then(port_of)),
            "include" if depth > 0 => {
                for pattern in words {
                    for file in matching(host, pattern.trim_matches('"'))? {
                        let text = host.read_text(&file)?.unwrap_or_default();
                        configured(host, &text, depth - 1, ports)?;
                    }
                }
            }
            // From here on lines are for some users or addresses only.
            "match" => break,
            _ => {}
        }
    }
    Ok(())
}

/// `10.0.0.1:2222`, `[::1]:2222`; `None` for an address without a port.
fn port_of(address: &str) -> Option<u16> {
    let is_bare_v6 = address.matches(':').count() > 1 && !address.contains(']');
    let (_, port) = address.rsplit_once(':').filter(|_| !is_bare_v6)?;
    port.parse().ok()
}

/// Files of `sshd_config.d/*.conf`; relative paths are below /etc/ssh, and only the last component may have a `*`.
fn matching(host: &dyn ReadHost, pattern: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new("/etc/ssh").join(pattern);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(dir), Some(name)) = (path.parent(), name) else {
        return Ok(Vec::new());
    };
    let Some((before, after)) = name.split_once('*') else {
        return Ok(vec![path]);
    };
    let fits = |found: &String| {
        found.len() >= before.len() + after.len() && found.starts_with(before) && found.ends_with(after)
    };
    let names = host.list_dir(dir)?;
    Ok(names.into_iter().filter(fits).map(|name| dir.join(name)).collect())
}

fn streams(unit: &str) -> impl Iterator<Item = u16> {
    unit.lines().filter_map(|line| {
        let value = line.trim().strip_prefix("ListenStream=")?.trim();
        value.parse().ok().or_else(|| port_of(value))
    })
}

/// sshd tells its children; sudo hides it from us, so the processes above are asked.
fn connection(host: &dyn ReadHost) -> Result<Option<(IpAddr, u16)>> {
    let mut process = "self".to_owned();
    for _ in 0..20 {
        // Processes above that we may not look at, or that ended, tell nothing.
        let environment = host.read_file(&proc(&process, "environ")).ok().flatten();
        if let Some(found) = environment.and_then(|bytes| of_environment(&bytes)) {
            return Ok(Some(found));
        }
        let status = host.read_text(&proc(&process, "status")).ok().flatten();
        let parent = status.as_deref().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
            Some(line.trim().to_owned())
        });
        match parent {
            Some(parent) if parent != "0" => process = parent,
            _ => break,
        }
    }
    Ok(None)
}

fn proc(process: &str, file: &str) -> PathBuf {
    Path::new("/proc").join(process).join(file)
}

/// `SSH_CONNECTION=client port server port`.
fn of_environment(bytes: &[u8]) -> Option<(IpAddr, u16)> {
    let text = String::from_utf8_lossy(bytes);
    let value = text.split('\0').find_map(|entry| entry.strip_prefix("SSH_CONNECTION="))?;
    let words: Vec<_> = value.split(' ').collect();
    // A link-local address has its interface after a `%`.
    let client = words.first()?.split('%').next()?;
    Some((client.parse().ok()?, words.get(3)?.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn ports_from_all_places() {
        let ports = |host: &FakeHost| Vec::from_iter(Ssh::find(host).unwrap().ports);
        assert_eq!(ports(&FakeHost::new()), [0u16; 0], "no sshd");
        let host = FakeHost::new().file(CONFIG, "#Port 22\nUsePAM yes\n", 0o644);
        assert_eq!(ports(&host), [22]);
        let host = FakeHost::new()
            .file(
                CONFIG,
                "Include /etc/ssh/sshd_config.d/*.conf\nport=2222\nListenAddress 10.0.0.1:2200\nListenAddress [::1]:2201\nListenAddress fe80::1\nMatch User x\n  Port 1\n",
                0o644,
            )
            .file("/etc/ssh/sshd_config.d/50-cloud.conf", "Port 2022 # more\n", 0o644)
            .file("/etc/ssh/sshd_config.d/old.bak", "Port 9\n", 0o644)
            .file(
                "/etc/systemd/system/ssh.socket.d/listen.conf",
                "[Socket]\nListenStream=\nListenStream=0.0.0.0:2300\nListenStream=2301\n",
                0o644,
            );
        assert_eq!(ports(&host), [2022, 2200, 2201, 2222, 2300, 2301]);
    }

    #[test]
    fn the_connection_is_found_above_sudo() {
        let host = FakeHost::new()
            .file("/proc/self/environ", "SUDO_USER=ada\0HOME=/root\0", 0o400)
            .file("/proc/self/status", "Name:\tprovision\nPPid:\t70\n", 0o444)
            .file("/proc/70/environ", "LANG=C\0SSH_CONNECTION=10.99.0.1 51324 10.99.0.2 2222\0", 0o400)
            .file("/proc/70/status", "PPid:\t1\n", 0o444);
        let found = Ssh::find(&host).unwrap().connection;
        assert_eq!(found, Some(("10.99.0.1".parse().unwrap(), 2222)));
        assert_eq!(Ssh::find(&FakeHost::new()).unwrap().connection, None);
    }
}
