//! The agent of this machine: a child process, through sudo when we are not root.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::{Connection, Keep, collect};
use crate::diagnostic::Diagnostic;

pub async fn connect(name: &str) -> Result<Connection> {
    let own = std::env::current_exe().context("cannot find the running binary")?;
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(&own)
    } else {
        sudo_works(name).await?;
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "--"]).arg(&own);
        sudo
    };
    // Its own process group: Ctrl-C at the terminal reaches the controller alone, which tells the agent.
    command.arg("agent").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("cannot start the agent")?;
    let (Some(to), Some(from), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
        anyhow::bail!("the agent has no pipes");
    };
    let keep = Box::new(Process { child, forwards: JoinSet::new() });
    Ok(Connection { from: Box::new(from), to: Box::new(to), errors: collect(errors), keep })
}

async fn sudo_works(name: &str) -> Result<()> {
    let answer = Command::new("sudo").args(["-n", "true"]).output().await;
    if answer.is_ok_and(|answer| answer.status.success()) {
        return Ok(());
    }
    Err(Diagnostic::new(format!("host {name}: root is needed, and `sudo -n true` is refused"))
        .hint("run provision as root, or allow this user sudo without a password")
        .into())
}

struct Process {
    child: Child,
    /// Ended with this.
    forwards: JoinSet<()>,
}

#[async_trait::async_trait]
impl Keep for Process {
    async fn close(mut self: Box<Self>) {
        // Its input is closed: it ends by itself. A hanging one is not waited for long.
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    async fn forward(&mut self, local: u16, to: SocketAddr) -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local))
            .await
            .with_context(|| format!("cannot listen on 127.0.0.1:{local}"))?;
        self.forwards.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(to).await {
                        // Either side may end as it likes.
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Ok(())
    }

    async fn lost(&mut self) {
        std::future::pending().await
    }
}
