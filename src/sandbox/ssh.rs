//! Commands on a host through the system's `ssh`, with the generated key and the pinned host key.

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::guest::{identity_file, known_hosts};
use super::tool::last_lines;

fn ssh(host_dir: &Path, address: Ipv4Addr) -> Command {
    let mut command = Command::new("ssh");
    // The user's own configuration has no say: -F /dev/null.
    command.args(["-F", "/dev/null", "-i"]).arg(identity_file(host_dir));
    for option in [
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "ConnectTimeout=10",
        "ServerAliveInterval=15",
        "LogLevel=ERROR",
    ] {
        command.args(["-o", option]);
    }
    // Quoted: ssh splits this option's value at spaces.
    command.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", known_hosts(host_dir).display()));
    command.args(["-l", "root"]);
    command.arg(address.to_string());
    command
}

/// Waits until the host's service manager has finished the boot. Returns the units that failed, usually none.
///
/// # Errors
/// What ssh said when the host cannot be entered, or the state in which the boot hangs.
pub(super) fn wait_booted(host_dir: &Path, address: Ipv4Addr) -> Result<Vec<String>> {
    const REMOTE: &str = "state=$(timeout 60 systemctl is-system-running --wait)
        echo \"$state\"
        [ \"$state\" != degraded ] || systemctl --failed --plain --no-legend";
    let output = ssh(host_dir, address).arg(REMOTE).stdin(Stdio::null()).output().context("cannot start ssh")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines = said.lines();
    match lines.next() {
        Some("running") => Ok(Vec::new()),
        Some("degraded") => Ok(lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()),
        Some(state) => bail!("the host's boot hangs in the state {state:?}"),
        None => bail!(
            "the host cannot be entered over SSH ({}): {}",
            output.status,
            last_lines(&String::from_utf8_lossy(&output.stderr), 20)
        ),
    }
}

/// See [`super::Sandbox::shell`].
pub(super) fn shell(host_dir: &Path, address: Ipv4Addr, argv: &[String]) -> Result<i32> {
    let mut command = ssh(host_dir, address);
    // Without a command ssh asks for a login shell, and for a terminal where we have one.
    if !argv.is_empty() {
        // ssh hands one string to the login shell on the other side: every word is quoted for it.
        let words: Vec<_> = argv.iter().map(|word| quote(word)).collect();
        command.arg(words.join(" "));
    }
    let status = command.status().context("cannot start ssh")?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// One word for a POSIX shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for word in ["", "a b", "it's", "$HOME `x` \\ \"", "*", "-n", "a\nb"] {
            let output = Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output().unwrap();
            // printf takes "-n" as text here, since %s comes first.
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn a_host_is_entered_only_with_its_pinned_key() {
        let command = ssh(Path::new("/c/my hosts/a"), Ipv4Addr::new(10, 99, 0, 2));
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        assert!(arguments.iter().any(|a| a == "StrictHostKeyChecking=yes"));
        assert!(arguments.iter().any(|a| a == "UserKnownHostsFile=\"/c/my hosts/a/known_hosts\""));
        assert_eq!(arguments.last().unwrap(), "10.99.0.2");
    }
}
