//! The agent of another machine: one SSH connection, the own binary pushed once (named by its SHA-256), then standard input
//! and output of the agent. The agent lives in memory (`/dev/shm`): not even `plan` for the first time leaves a byte on disk.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use openssh::{ControlPersist, ForwardType, KnownHosts, Session, SessionBuilder, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Connection, Keep, collect};
use crate::diagnostic::Diagnostic;
use crate::hash;
use crate::project::HostSpec;

/// Folders that may hold the agent, best first: memory, then the user's cache where memory is mounted noexec.
const FOLDERS: [&str; 3] =
    ["/dev/shm/provision-$(id -u)", "${XDG_RUNTIME_DIR:-/nonexistent}/provision", "$HOME/.cache/provision/agent"];

pub async fn connect(name: &str, host: &HostSpec, say: &(dyn Fn(&str) + Send + Sync)) -> Result<Connection> {
    let folder = runtime_folder()?;
    let scratch =
        tempfile::Builder::new().prefix("s").tempdir_in(&folder).context("cannot make a folder for the connection")?;
    let own = std::env::current_exe().context("cannot find the running binary")?;
    let sha256 = hash::sha256_reader(std::fs::File::open(&own)?)?;
    say("connecting");
    let session = open(name, host, scratch.path()).await?;
    let remote = look(name, &session, &sha256).await?;
    let path = match remote.agent {
        Some(path) => path,
        None => {
            say("copying the agent");
            push(name, &session, &own, &sha256).await?
        }
    };
    let session = Arc::new(session);
    let mut command =
        if remote.root { session.clone().arc_command(&path) } else { session.clone().arc_command("sudo") };
    if !remote.root {
        command.args(["-n", "--", &path]);
    }
    command.arg("agent").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().await.with_context(|| format!("host {name}: cannot start the agent"))?;
    let (Some(to), Some(from), Some(errors)) = (child.stdin().take(), child.stdout().take(), child.stderr().take())
    else {
        anyhow::bail!("host {name}: the agent has no pipes");
    };
    let keep = Remote { child, session, idle: None, _scratch: scratch };
    Ok(Connection { from: Box::new(from), to: Box::new(to), errors: collect(errors), keep: Box::new(keep) })
}

/// A private folder with a short path: sockets have at most 108 characters.
fn runtime_folder() -> Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let folder = std::env::temp_dir().join(format!("provision-{uid}"));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    if let Err(error) = made
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).with_context(|| format!("cannot make {}", folder.display()));
    }
    let meta = std::fs::symlink_metadata(&folder)?;
    let own = std::os::unix::fs::MetadataExt::uid(&meta) == uid && meta.is_dir();
    if !own || meta.permissions().mode() & 0o077 != 0 {
        return Err(Diagnostic::new(format!("{} belongs to someone else or is open to others", folder.display()))
            .hint("remove it, or set TMPDIR to a folder of your own")
            .into());
    }
    Ok(folder)
}

async fn open(name: &str, host: &HostSpec, scratch: &Path) -> Result<Session> {
    let address = host.address.as_deref().unwrap_or_default();
    let port = host.port.unwrap_or(22);
    let mut builder = SessionBuilder::default();
    builder
        .port(port)
        .user(host.user.clone().unwrap_or_else(|| "root".into()))
        .known_hosts_check(KnownHosts::Strict)
        .connect_timeout(Duration::from_secs(15))
        .server_alive_interval(Duration::from_secs(10))
        .control_directory(scratch)
        // Should we be killed, the master ends soon after us.
        .control_persist(ControlPersist::IdleFor(std::num::NonZeroUsize::MIN.saturating_add(14)));
    if let Some(key) = &host.identity_file {
        builder.keyfile(expanded(key));
    }
    if let Some(jump) = &host.jump_host {
        builder.jump_hosts([jump]);
    }
    if let Some(key) = &host.host_key {
        let known = scratch.join("known_hosts");
        std::fs::write(&known, format!("{} {key}\n[{address}]:{port} {key}\n", address))?;
        let config = scratch.join("config");
        let include = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh/config"));
        let include =
            include.filter(|path| path.exists()).map_or(String::new(), |path| format!("Include {}\n", path.display()));
        std::fs::write(&config, format!("GlobalKnownHostsFile /dev/null\n{include}"))?;
        builder.user_known_hosts_file(&known).config_file(&config);
    }
    builder.connect_mux(address).await.map_err(|error| explain(name, host, &error).into())
}

/// `~/` as a shell would read it.
fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_path_buf(),
    }
}

/// What ssh says, in words that lead out.
fn explain(name: &str, host: &HostSpec, error: &openssh::Error) -> Diagnostic {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let target = format!("{}:{}", host.address.as_deref().unwrap_or_default(), host.port.unwrap_or(22));
    let lower = text.to_lowercase();
    let (what, hint) = if matches!(error, openssh::Error::Master(_)) && lower.contains("no such file") {
        ("the ssh program is not installed here".to_owned(), "apt-get install openssh-client")
    } else if lower.contains("host key") || lower.contains("host identification") {
        (
            format!("the host key of {target} is not the one that is pinned"),
            "if the machine was made anew, update `host_key` in the inventory (ssh-keyscan shows the key it has now); else someone is in between",
        )
    } else if lower.contains("permission denied") {
        (
            format!("{target} refuses the login of {}", host.user.as_deref().unwrap_or("root")),
            "check `user` and `identity_file` in the inventory, and that the key has no passphrase or is in ssh-agent",
        )
    } else if lower.contains("refused")
        || lower.contains("timed out")
        || lower.contains("no route")
        || lower.contains("unreachable")
    {
        (format!("{target} cannot be reached"), "is the machine on, its address right, and port 22 open for you?")
    } else if lower.contains("resolve") || lower.contains("not known") {
        (format!("the name in {target} cannot be resolved"), "check `address` in the inventory")
    } else {
        (format!("no SSH connection to {target}"), "try the same with `ssh -v`")
    };
    Diagnostic::new(format!("host {name}: {what} ({text})")).hint(hint)
}

struct Look {
    root: bool,
    /// The agent, when it is there already.
    agent: Option<String>,
}

async fn look(name: &str, session: &Session, sha256: &str) -> Result<Look> {
    let tests: Vec<_> = FOLDERS
        .iter()
        .map(|folder| {
            format!(
                "f=\"{folder}/agent-{sha256}\"; [ -O \"$f\" ] && \"$f\" --version >/dev/null 2>&1 && echo \"agent=$f\""
            )
        })
        .collect();
    let script = format!(
        "echo \"arch=$(uname -m)\"; echo \"uid=$(id -u)\"; if [ \"$(id -u)\" != 0 ]; then sudo -n true 2>/dev/null && echo sudo=yes; fi; {}; true",
        tests.join("; ")
    );
    let answer = session.shell(&script).output().await.with_context(|| format!("host {name}: cannot run a command"))?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
    let arch = value("arch").ok_or_else(|| {
        let error = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
        Diagnostic::new(format!("host {name}: the login shell does not run commands: {error}"))
            .hint("does the account's start-up file print or end the session?")
    })?;
    if arch != std::env::consts::ARCH {
        return Err(Diagnostic::new(format!(
            "host {name} is {arch}, this provision is for {}",
            std::env::consts::ARCH
        ))
        .hint("run a provision that was built for the host's architecture")
        .into());
    }
    let root = value("uid").as_deref() == Some("0");
    if !root && value("sudo").is_none() {
        return Err(Diagnostic::new(format!("host {name}: the login user is not root, and `sudo -n true` is refused"))
            .hint("allow the user sudo without a password (/etc/sudoers.d), or log in as root")
            .into());
    }
    Ok(Look { root, agent: value("agent") })
}

async fn push(name: &str, session: &Session, own: &Path, sha256: &str) -> Result<String> {
    let mut last = String::new();
    for folder in FOLDERS {
        let script = format!(
            "set -e; umask 077; d=\"{folder}\"; mkdir -p \"$d\"; [ -O \"$d\" ]; t=\"$d/.new.$$\"; trap 'rm -f \"$t\"' EXIT; cat >\"$t\"; \
             echo \"{sha256}  $t\" | sha256sum -c - >/dev/null; chmod 0700 \"$t\"; \"$t\" --version >/dev/null; mv -f \"$t\" \"$d/agent-{sha256}\"; \
             echo \"$d/agent-{sha256}\""
        );
        let mut child = session
            .shell(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .await
            .with_context(|| format!("host {name}: cannot copy the agent"))?;
        if let Some(mut to) = child.stdin().take() {
            let mut from = tokio::fs::File::open(own).await?;
            // A folder that cannot be used ends the command early: its message says why, not the broken pipe.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
        let answer = child.wait_with_output().await.with_context(|| format!("host {name}: cannot copy the agent"))?;
        if answer.status.success() {
            return Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned());
        }
        last = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    }
    Err(Diagnostic::new(format!("host {name}: no folder takes the agent: {last}"))
        .hint("is there space, and one of /dev/shm or the home folder without noexec?")
        .into())
}

struct Remote {
    child: openssh::Child<Arc<Session>>,
    session: Arc<Session>,
    /// Waits on the host as long as something is forwarded: the master ends when it has no session for a while, and forwarded ports
    /// do not count as one.
    idle: Option<openssh::Child<Arc<Session>>>,
    _scratch: tempfile::TempDir,
}

#[async_trait::async_trait]
impl Keep for Remote {
    async fn close(self: Box<Self>) {
        let Self { child, session, idle, _scratch } = *self;
        let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
        if let Some(mut idle) = idle {
            drop(idle.stdin().take());
            let _ = tokio::time::timeout(Duration::from_secs(5), idle.wait()).await;
        }
        if let Some(session) = Arc::into_inner(session) {
            let _ = tokio::time::timeout(Duration::from_secs(5), session.close()).await;
        }
    }

    async fn forward(&mut self, local: u16, to: SocketAddr) -> Result<()> {
        if self.idle.is_none() {
            let mut cat = self.session.clone().arc_command("cat");
            cat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            self.idle = Some(cat.spawn().await.context("cannot keep the connection open")?);
        }
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, local));
        self.session
            .request_port_forward(ForwardType::Local, from, to)
            .await
            .with_context(|| format!("cannot forward {from} to {to}"))
    }

    async fn lost(&mut self) {
        let Some(out) = self.idle.as_mut().and_then(|idle| idle.stdout().as_mut()) else {
            return std::future::pending().await;
        };
        // Nothing is ever sent back: an answer is the end.
        let _ = out.read(&mut [0; 1]).await;
    }
}
