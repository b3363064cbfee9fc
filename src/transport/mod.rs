//! How to reach the agent of a host: as a child on this machine, or over one SSH connection.

mod local;
pub mod session;
mod ssh;

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::project::{HostSpec, TransportKind};

/// The standard input and output of a running agent. Dropping it closes them: the agent sees the end and stops.
pub struct Connection {
    pub from: Box<dyn AsyncRead + Send + Unpin>,
    pub to: Box<dyn AsyncWrite + Send + Unpin>,
    /// What the agent's process and the connection write to standard error, for when they fail.
    pub errors: tokio::task::JoinHandle<String>,
    /// Keeps the process or session alive as long as the connection.
    pub keep: Box<dyn Keep>,
}

/// Something that lives as long as the connection and is closed in the end.
#[async_trait::async_trait]
pub trait Keep: Send {
    /// Ends it; nothing of ours stays behind.
    async fn close(self: Box<Self>);

    /// Passes connections to `127.0.0.1:local` on to `to`, as seen from the host.
    ///
    /// # Errors
    /// When the local port cannot be had, or the connection is gone.
    async fn forward(&mut self, local: u16, to: SocketAddr) -> Result<()>;

    /// Returns when the way to the host is lost.
    async fn lost(&mut self);
}

/// Starts an agent on a host.
///
/// # Errors
/// Why the host cannot be reached or worked on, with a way out.
pub async fn connect(name: &str, host: &HostSpec, say: &(dyn Fn(&str) + Send + Sync)) -> Result<Connection> {
    match host.transport {
        TransportKind::Local => local::connect(name).await,
        TransportKind::Ssh => ssh::connect(name, host, say).await,
    }
}

/// Reads a stream of errors to its end, keeping the last 4 KiB.
fn collect(mut stream: impl AsyncRead + Send + Unpin + 'static) -> tokio::task::JoinHandle<String> {
    tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let mut kept = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(n) = stream.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            kept.extend_from_slice(&buffer[..n]);
            let excess = kept.len().saturating_sub(4096);
            kept.drain(..excess);
        }
        String::from_utf8_lossy(&kept).trim().to_owned()
    })
}
