//! One job over one connection: sends it, answers the agent's questions for blobs, passes its events on.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;

use super::{Connection, Keep};
use crate::agent::protocol::{self, Frame, Job, Reply, Request, Service};
use crate::agent::status::Status;
use crate::agent::usage::Usage;
use crate::diagnostic::Diagnostic;
use crate::engine::cancel::Urgency;
use crate::engine::{Cancel, Event, Summary};
use crate::host::Facts;

/// Finds the file of a blob by its SHA-256, if this machine has it.
pub type FindBlob<'a> = &'a (dyn Fn(&str) -> Option<PathBuf> + Send + Sync);

/// What a job came to.
#[derive(Debug, Default)]
pub struct Ended {
    pub summary: Summary,
    pub facts: Facts,
    pub status: Option<Status>,
    pub services: Vec<Service>,
    pub usage: Option<Usage>,
}

/// Runs `job` to its end and closes the connection.
///
/// # Errors
/// When the agent refuses the job, falls silent, or the connection breaks.
pub async fn run(
    name: &str,
    connection: Connection,
    job: Job,
    find_blob: FindBlob<'_>,
    cancel: &Cancel,
    on_event: impl FnMut(Event),
) -> Result<Ended> {
    let (ended, keep) = run_open(name, connection, job, find_blob, cancel, on_event).await?;
    keep.close().await;
    Ok(ended)
}

/// Runs `job` to its end and leaves the way to the host open.
///
/// # Errors
/// Those of [`run`]; the connection is closed then.
pub async fn run_open(
    name: &str,
    mut connection: Connection,
    job: Job,
    find_blob: FindBlob<'_>,
    cancel: &Cancel,
    mut on_event: impl FnMut(Event),
) -> Result<(Ended, Box<dyn Keep>)> {
    let (control, control_queue) = mpsc::unbounded_channel();
    let (blobs, blob_queue) = mpsc::unbounded_channel();
    let to = std::mem::replace(&mut connection.to, Box::new(tokio::io::sink()));
    let writer = tokio::spawn(write(to, control_queue, blob_queue));
    let from = std::mem::replace(&mut connection.from, Box::new(tokio::io::empty()));
    let (replies, mut replies_queue) = mpsc::channel(64);
    // A task of its own: reading must not be torn in the middle of a frame when an interruption comes.
    let reader = tokio::spawn(read(from, replies));
    // A broken writer shows at the reader, whose message is the better one.
    let _ = control.send(Request::Start(Box::new(job)));
    let mut ended = Ended::default();
    let mut told = Urgency::None;
    let result = loop {
        let next = tokio::select! {
            frame = replies_queue.recv() => frame.unwrap_or(Ok(None)),
            () = cancel.reached(next_urgency(told)), if told < Urgency::Now => {
                told = cancel.urgency();
                let _ = control.send(Request::Interrupt);
                if told == Urgency::Now {
                    let _ = control.send(Request::Interrupt);
                }
                continue;
            }
            () = tokio::time::sleep(Duration::from_secs(protocol::SILENCE_SECONDS)) => {
                break Err(silent(name));
            }
        };
        match next {
            Ok(Some(Frame::Message(reply))) => match reply {
                Reply::Hello { facts } => ended.facts = facts,
                Reply::Event { event } => on_event(event),
                Reply::Beat => {}
                Reply::NeedBlob { sha256 } => {
                    let _ = blobs.send((find_blob(&sha256), sha256));
                }
                Reply::Status { status } => ended.status = Some(*status),
                Reply::Services { services } => ended.services = services,
                Reply::Usage { usage } => ended.usage = Some(*usage),
                Reply::Refused { message } => break Err(anyhow!("host {name}: {message}")),
                Reply::Done { summary } => {
                    ended.summary = summary;
                    break Ok(());
                }
            },
            Ok(Some(Frame::Blob(_))) => break Err(anyhow!("host {name}: the agent sent a blob")),
            Ok(None) => break Err(anyhow!("the agent ended without a result")),
            Err(error) => break Err(error),
        }
    };
    writer.abort();
    reader.abort();
    match result {
        Ok(()) => Ok((ended, connection.keep)),
        Err(error) => {
            connection.keep.close().await;
            Err(with_stderr(name, error, connection.errors).await)
        }
    }
}

fn next_urgency(told: Urgency) -> Urgency {
    if told == Urgency::None { Urgency::Finish } else { Urgency::Now }
}

fn silent(name: &str) -> anyhow::Error {
    let seconds = protocol::SILENCE_SECONDS;
    Diagnostic::new(format!("host {name}: no sign of life for {seconds} s; the connection or the machine hangs"))
        .hint("look at the machine, then run the same command again: it continues where it stopped")
        .into()
}

async fn with_stderr(name: &str, error: anyhow::Error, errors: tokio::task::JoinHandle<String>) -> anyhow::Error {
    if error.downcast_ref::<Diagnostic>().is_some() {
        return error;
    }
    let said = tokio::time::timeout(Duration::from_secs(2), errors).await;
    let said = said.ok().and_then(Result::ok).unwrap_or_default();
    let error = format!("{error:#}");
    let prefix = if error.contains(&format!("host {name}")) { String::new() } else { format!("host {name}: ") };
    let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
    Diagnostic::new(format!("{prefix}{error}{said}"))
        .hint("run the same command again: it continues where it stopped")
        .into()
}

async fn read(mut from: Box<dyn AsyncRead + Send + Unpin>, to: mpsc::Sender<Result<Option<Frame<Reply>>>>) {
    loop {
        let frame = protocol::receive(&mut from).await;
        let last = !matches!(frame, Ok(Some(_)));
        if to.send(frame).await.is_err() || last {
            return;
        }
    }
}

async fn write(
    mut to: Box<dyn AsyncWrite + Send + Unpin>,
    mut control: mpsc::UnboundedReceiver<Request>,
    mut blobs: mpsc::UnboundedReceiver<(Option<PathBuf>, String)>,
) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            message = control.recv() => match message {
                Some(message) => protocol::send(&mut to, &message).await?,
                None => return Ok(()),
            },
            wanted = blobs.recv() => {
                let Some((path, sha256)) = wanted else { return Ok(()) };
                send_blob(&mut to, path, sha256, &mut control).await?;
            }
        }
    }
}

async fn send_blob(
    to: &mut (dyn AsyncWrite + Send + Unpin),
    path: Option<PathBuf>,
    sha256: String,
    control: &mut mpsc::UnboundedReceiver<Request>,
) -> Result<()> {
    let mut to = to;
    let file = match path {
        Some(path) => tokio::fs::File::open(path).await.ok(),
        None => None,
    };
    let Some(mut file) = file else {
        return protocol::send(&mut to, &Request::Blob { sha256, found: false }).await;
    };
    protocol::send(&mut to, &Request::Blob { sha256, found: true }).await?;
    let mut buffer = vec![0; protocol::BLOB_CHUNK];
    loop {
        // An interruption must not wait behind a long transfer.
        while let Ok(message) = control.try_recv() {
            protocol::send(&mut to, &message).await?;
        }
        let n = file.read(&mut buffer).await?;
        protocol::send_blob(&mut to, &buffer[..n]).await?;
        if n == 0 {
            return Ok(());
        }
    }
}
