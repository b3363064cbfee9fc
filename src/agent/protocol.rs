//! What controller and agent say to each other over the agent's standard input and output.
//!
//! A frame is one byte of type, four bytes of length (big endian), and the payload: type 0 is a message as JSON, type 1 is
//! bytes of the blob that is on its way. Both ends are the same binary, so there is no version to negotiate.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::engine::{Event, Program, Summary};
use crate::host::Facts;

/// Larger messages are refused: no honest program comes near.
const MAX_MESSAGE: u32 = 64 << 20;
/// Bytes of a blob per frame.
pub const BLOB_CHUNK: usize = 256 << 10;
/// The agent shows at least this often that it is alive.
pub const BEAT_SECONDS: u64 = 5;
/// Silence after which the controller gives the agent up.
pub const SILENCE_SECONDS: u64 = 30;

/// Controller to agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Request {
    /// The first message.
    Start(Box<Job>),
    /// The answer to [`Reply::NeedBlob`]: chunks follow until an empty one, when `found`.
    Blob { sha256: String, found: bool },
    /// First interruption: finish the current step. Second: stop now.
    Interrupt,
}

/// What the agent is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    pub run_id: String,
    pub task: Task,
    pub program: Program,
    /// Values that must appear in no output. They travel inside the encrypted connection only.
    pub secrets: Vec<String>,
    /// Who started it, for the lock and the ledger.
    pub by: String,
}

/// Kinds of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    Plan,
    Up,
    Probe,
    /// Facts and the ledger's last words.
    Status,
    /// Where the cluster's Services can be reached.
    Services,
    /// What the host and everything on it uses.
    Usage,
}

/// A Service of the cluster, as it is reached from its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub address: IpAddr,
    pub ports: Vec<(Option<String>, u16)>,
}

/// Agent to controller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Reply {
    Hello {
        facts: Facts,
    },
    Event {
        event: Event,
    },
    NeedBlob {
        sha256: String,
    },
    Beat,
    /// For [`Task::Status`].
    Status {
        status: Box<super::status::Status>,
    },
    /// For [`Task::Services`].
    Services {
        services: Vec<Service>,
    },
    /// For [`Task::Usage`].
    Usage {
        usage: Box<super::usage::Usage>,
    },
    Done {
        summary: Summary,
    },
    /// The job could not be started: lock held, no root...
    Refused {
        message: String,
    },
}

/// One frame as read.
#[derive(Debug)]
pub enum Frame<M> {
    Message(M),
    /// Bytes of a blob; empty at its end.
    Blob(Vec<u8>),
}

/// Sends a message.
///
/// # Errors
/// When the other end is gone.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(message)?;
    write(to, 0, &bytes).await
}

/// Sends bytes of a blob; empty ends it.
///
/// # Errors
/// When the other end is gone.
pub async fn send_blob(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    write(to, 1, bytes).await
}

async fn write(to: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> Result<()> {
    let length = u32::try_from(payload.len()).context("frame too long")?;
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.push(kind);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    to.write_all(&frame).await?;
    to.flush().await?;
    Ok(())
}

/// Reads a frame; `None` at a clean end.
///
/// # Errors
/// When the stream ends inside a frame, or is not this protocol.
pub async fn receive<M: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame<M>>> {
    let mut head = [0; 5];
    match from.read(&mut head[..1]).await? {
        0 => return Ok(None),
        _ => from.read_exact(&mut head[1..]).await.context("the connection ended inside a message")?,
    };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] > 1 || length > MAX_MESSAGE {
        bail!("the other end does not speak the agent's protocol (it began with {head:?})");
    }
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).await.context("the connection ended inside a message")?;
    Ok(Some(match head[0] {
        0 => Frame::Message(serde_json::from_slice(&payload).context("message of an unknown form")?),
        _ => Frame::Blob(payload),
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_garbage_is_refused() {
        let mut pipe = Vec::new();
        send(&mut pipe, &Request::Interrupt).await.unwrap();
        send_blob(&mut pipe, b"abc").await.unwrap();
        let mut read = pipe.as_slice();
        assert!(matches!(receive::<Request>(&mut read).await.unwrap(), Some(Frame::Message(Request::Interrupt))));
        assert!(matches!(receive::<Request>(&mut read).await.unwrap(), Some(Frame::Blob(b)) if b == b"abc"));
        assert!(receive::<Request>(&mut read).await.unwrap().is_none());
        assert!(receive::<Request>(&mut &b"Welcome to host"[..]).await.is_err());
        assert!(receive::<Request>(&mut &pipe[..3]).await.is_err());
    }
}
