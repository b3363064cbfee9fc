//! The files that make a copied root filesystem one particular host: name, address, keys, name look-up.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::network::{PREFIX, gateway};
use super::outer;
use super::rootfs::write_new;
use super::state::replace_file;
use super::tool::run;

const BLOCK_BEGIN: &str = "# begin: other sandbox hosts";
const BLOCK_END: &str = "# end: other sandbox hosts";
/// Users that the generated key opens, with their home folders.
const USERS: [(&str, &str); 3] = [("root", "root"), ("ops", "home/ops"), ("plain", "home/plain")];

/// The private key that opens the host whose directory is `host_dir`.
pub(super) fn identity_file(host_dir: &Path) -> PathBuf {
    host_dir.join("id_ed25519")
}

pub(super) fn known_hosts(host_dir: &Path) -> PathBuf {
    host_dir.join("known_hosts")
}

/// Makes the copied root at `host_dir/rootfs` the host `name`. Returns its public host key.
pub(super) fn personalise(host_dir: &Path, name: &str, address: Ipv4Addr, offline: bool) -> Result<String> {
    let root = host_dir.join("rootfs");
    let host_key = key_pair(&root.join("etc/ssh/ssh_host_ed25519_key"), name)?;
    let user_key = key_pair(&identity_file(host_dir), "provision sandbox")?;
    write_new(&known_hosts(host_dir), format!("{address} {host_key}\n").as_bytes(), 0o644)?;
    for (user, home) in USERS {
        let home = root.join(home);
        let ssh = home.join(".ssh");
        let authorized = ssh.join("authorized_keys");
        write_new(&authorized, format!("{user_key}\n").as_bytes(), 0o600)?;
        let owner = fs::metadata(&home).with_context(|| format!("user {user} has no home in the root filesystem"))?;
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700))?;
        for path in [&ssh, &authorized] {
            std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    let machine_id =
        fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot read a random machine id")?.replace('-', "");
    let gateway = if offline { String::new() } else { gateway(address).to_string() };
    let network = format!("ADDRESS={address}\nPREFIX={PREFIX}\nGATEWAY={gateway}\n");
    for (path, content) in [
        ("etc/hostname", format!("{name}\n")),
        // Not the "uninitialized" that would make this a first boot, with all its waiting.
        ("etc/machine-id", machine_id),
        ("etc/hosts", hosts_file(name, address)),
        ("etc/resolv.conf", outer::resolv_conf()),
        ("etc/provision-sandbox/network", network),
    ] {
        let path = root.join(path);
        // A symbolic link in the template must not lead outside.
        let _ = fs::remove_file(&path);
        write_new(&path, content.as_bytes(), 0o644)?;
    }
    Ok(host_key)
}

/// Generates an ed25519 key pair at `path` (0600) and returns the public part, without comment.
fn key_pair(path: &Path, comment: &str) -> Result<String> {
    let file = path.to_string_lossy();
    run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", &file])?;
    let public = fs::read_to_string(path.with_extension("pub")).with_context(|| format!("cannot read {file}.pub"))?;
    match public.split_whitespace().collect::<Vec<_>>()[..] {
        [kind, key, ..] => Ok(format!("{kind} {key}")),
        _ => bail!("{file}.pub is not a public key"),
    }
}

fn hosts_file(name: &str, address: Ipv4Addr) -> String {
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {name}\n")
}

/// Tells the running host in `host_dir` the names of the others (`peers`), leaving the rest of its file alone.
///
/// # Errors
/// When the host's `/etc/hosts` is not a plain file any more: we are outside, and do not follow its links.
pub(super) fn update_peers(host_dir: &Path, peers: &[(String, Ipv4Addr)]) -> Result<()> {
    let etc = host_dir.join("rootfs/etc");
    let hosts = etc.join("hosts");
    let plain =
        fs::symlink_metadata(&etc).is_ok_and(|m| m.is_dir()) && fs::symlink_metadata(&hosts).is_ok_and(|m| m.is_file());
    if !plain {
        bail!("{} is not a plain file: not touched", hosts.display());
    }
    let old = fs::read_to_string(&hosts).with_context(|| format!("cannot read {}", hosts.display()))?;
    let new = with_peers(&old, peers);
    if new != old {
        replace_file(&hosts, new.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn with_peers(old: &str, peers: &[(String, Ipv4Addr)]) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in old.lines() {
        match line {
            BLOCK_BEGIN => inside = true,
            BLOCK_END => inside = false,
            _ if inside => {}
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    if peers.is_empty() {
        return text;
    }
    text.push_str(&format!("{BLOCK_BEGIN}\n"));
    for (name, address) in peers {
        text.push_str(&format!("{address} {name}\n"));
    }
    text + BLOCK_END + "\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn peer(name: &str, byte: u8) -> (String, Ipv4Addr) {
        (name.to_owned(), Ipv4Addr::new(10, 99, 0, byte))
    }

    #[test]
    fn peers_come_change_and_go_without_touching_other_lines() {
        let own = hosts_file("a", Ipv4Addr::new(10, 99, 0, 2)) + "192.0.2.9 mirror\n";
        let two = with_peers(&own, &[peer("b", 3), peer("c", 4)]);
        assert!(two.starts_with(&own));
        assert!(two.contains("10.99.0.3 b\n10.99.0.4 c\n"), "{two}");
        let one = with_peers(&two, &[peer("c", 4)]);
        assert!(!one.contains(" b\n") && one.contains(" c\n"), "{one}");
        assert_eq!(with_peers(&one, &[]), own);
    }

    #[test]
    fn a_link_in_the_host_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("rootfs/etc");
        fs::create_dir_all(&etc).unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "mine\n").unwrap();
        std::os::unix::fs::symlink(&outside, etc.join("hosts")).unwrap();
        assert!(update_peers(dir.path(), &[peer("b", 3)]).is_err());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "mine\n");
    }

    #[test]
    fn key_pairs_are_private_and_parse() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id_ed25519");
        let public = key_pair(&path, "c").unwrap();
        assert!(public.starts_with("ssh-ed25519 AAAA") && !public.ends_with(" c"), "{public}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
