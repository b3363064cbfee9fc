//! Programs of the outer machine that the sandbox needs: are they there, run them, say why they failed.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Program and the Debian package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("setsid", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("apt-config", "apt"),
];

/// Checks that we are root and that every program is installed.
///
/// # Errors
/// Names what is missing, all at once, with the command that installs it.
pub(super) fn require() -> Result<()> {
    require_with(rustix::process::geteuid().is_root(), |program| which::which(program).is_ok())
}

fn require_with(root: bool, installed: impl Fn(&str) -> bool) -> Result<()> {
    let missing: Vec<_> = NEEDED.iter().filter(|(p, _)| !installed(p)).collect();
    if !missing.is_empty() {
        let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
        let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        packages.dedup();
        bail!(
            "sandbox hosts need programs that are not installed: {}\ninstall them with: apt-get install {}",
            programs.join(", "),
            packages.join(" ")
        );
    }
    if !root {
        bail!("sandbox hosts need root (mounts, network links, cgroups): run this command as root, or with sudo");
    }
    Ok(())
}

/// Runs `argv` without input and returns its standard output.
///
/// # Errors
/// The command line, the exit status and the last lines of standard error.
pub(super) fn run(argv: &[&str]) -> Result<String> {
    let [program, arguments @ ..] = argv else {
        bail!("empty command");
    };
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", argv.join(" ")))?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({}): {}",
            argv.join(" "),
            output.status,
            last_lines(&String::from_utf8_lossy(&output.stderr), 20)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last `count` lines of `text`, without trailing white space.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_all_named_with_the_command_that_installs_them() {
        let error = require_with(true, |p| !matches!(p, "mmdebstrap" | "ssh" | "ssh-keygen")).unwrap_err().to_string();
        assert!(error.contains("mmdebstrap, ssh, ssh-keygen"), "{error}");
        assert!(error.ends_with("apt-get install mmdebstrap openssh-client"), "{error}");
    }

    #[test]
    fn without_root_the_error_says_so() {
        let error = require_with(false, |_| true).unwrap_err().to_string();
        assert!(error.contains("as root"), "{error}");
        assert!(require_with(true, |_| true).is_ok());
    }

    #[test]
    fn a_failed_command_shows_command_status_and_reason() {
        let error = run(&["ls", "/no/such/place"]).unwrap_err().to_string();
        assert!(error.starts_with("`ls /no/such/place` failed (exit status: 2)"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        assert_eq!(last_lines("a\nb\nc\n\n", 2), "b\nc");
        assert_eq!(last_lines("a", 5), "a");
    }
}
