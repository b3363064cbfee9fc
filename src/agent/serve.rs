//! The agent's loop: takes one job, runs it, streams what happens, and ends. When the controller goes away, everything that
//! runs is ended: nothing of ours stays behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::ledger::{Entry, FileLedger};
use super::lock::{Holder, Lock};
use super::protocol::{self, BEAT_SECONDS, Frame, Job, Reply, Request, Service, Task};
use super::status::Status;
use super::{blobs, ledger, usage};
use crate::engine::cancel::Urgency;
use crate::engine::{Cancel, Event, Summary, plan, probe, up};
use crate::host::real::{HostEvent, RealHost, RealHostOptions};
use crate::host::{ReadHost, WriteHost};
use crate::secrets::Redactor;

/// Where the agent keeps what it keeps.
#[derive(Debug, Clone)]
pub struct Paths {
    /// What survives a reboot: ledger, artifacts.
    pub state: PathBuf,
    /// What must not: the lock.
    pub runtime: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { state: "/var/lib/provision".into(), runtime: "/run/provision".into() }
    }
}

/// Serves one job over a pair of streams.
///
/// # Errors
/// When the other end does not speak the protocol.
pub async fn serve(
    mut input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
    paths: &Paths,
) -> Result<()> {
    let Some(Frame::Message(Request::Start(job))) = protocol::receive(&mut input).await? else {
        bail!("this is the target end of provision; it is started by `provision up`, not by hand");
    };
    let cancel = Cancel::default();
    let (replies, queue) = mpsc::unbounded_channel();
    let (blob_sender, blob_receiver) = mpsc::channel(8);
    let listener = tokio::spawn(listen(input, cancel.clone(), blob_sender));
    let beat = tokio::spawn(beat(replies.clone()));
    let writer = tokio::spawn(write(output, queue, cancel.clone()));
    let blobs = Arc::new(blobs::Controller::new(replies.clone(), blob_receiver));
    let last = match work(*job, &replies, blobs, &cancel, paths).await {
        Ok(last) => last,
        Err(error) => Reply::Refused { message: format!("{error:#}") },
    };
    // A controller that has gone reads no answer.
    let _ = replies.send(last);
    beat.abort();
    listener.abort();
    drop(replies);
    let _ = tokio::time::timeout(Duration::from_secs(5), writer).await;
    Ok(())
}

/// Interruptions and blobs from the controller; its end is an interruption too.
async fn listen(mut input: impl AsyncRead + Send + Unpin, cancel: Cancel, blobs: mpsc::Sender<blobs::Piece>) {
    loop {
        let piece = match protocol::receive::<Request>(&mut input).await {
            Ok(Some(Frame::Message(Request::Interrupt))) => {
                let next = if cancel.is_cancelled() { Urgency::Now } else { Urgency::Finish };
                cancel.raise(next);
                continue;
            }
            Ok(Some(Frame::Message(Request::Blob { sha256, found }))) => blobs::Piece::Answer { sha256, found },
            Ok(Some(Frame::Blob(bytes))) => blobs::Piece::Bytes(bytes),
            Ok(Some(Frame::Message(Request::Start(_))) | None) | Err(_) => {
                cancel.raise(Urgency::Now);
                return;
            }
        };
        // Nobody waits for blobs any more: the job is over.
        let _ = blobs.send(piece).await;
    }
}

async fn beat(replies: mpsc::UnboundedSender<Reply>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(BEAT_SECONDS));
    loop {
        ticks.tick().await;
        if replies.send(Reply::Beat).is_err() {
            return;
        }
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut queue: mpsc::UnboundedReceiver<Reply>, cancel: Cancel) {
    while let Some(reply) = queue.recv().await {
        if protocol::send(&mut output, &reply).await.is_err() {
            cancel.raise(Urgency::Now);
            return;
        }
        if matches!(reply, Reply::Done { .. } | Reply::Refused { .. }) {
            return;
        }
    }
}

/// Sends events, redacted, under the name of a stage.
#[derive(Clone)]
struct Teller {
    replies: mpsc::UnboundedSender<Reply>,
    redactor: Redactor,
}

impl Teller {
    fn tell(&self, event: Event) {
        let Ok(mut value) = serde_json::to_value(&event) else {
            return;
        };
        self.redactor.redact_json(&mut value);
        if let Ok(event) = serde_json::from_value(value) {
            let _ = self.replies.send(Reply::Event { event });
        }
    }

    fn host_event(&self, stage: &str, event: HostEvent) {
        let stage = stage.to_owned();
        self.tell(match event {
            HostEvent::Output { line, .. } => Event::Output { stage, line },
            HostEvent::Progress(text) => Event::Progress { stage, text },
        });
    }
}

async fn work(
    job: Job,
    replies: &mpsc::UnboundedSender<Reply>,
    blobs: Arc<blobs::Controller>,
    cancel: &Cancel,
    paths: &Paths,
) -> Result<Reply> {
    let teller = Teller { replies: replies.clone(), redactor: Redactor::new(&job.secrets) };
    let (stop, stopped) = watch::channel(false);
    let watched = cancel.clone();
    let stopper = tokio::spawn(async move {
        watched.reached(Urgency::Now).await;
        let _ = stop.send(true);
        // The channel must stay open: a closed one says nothing to those who wait.
        std::future::pending::<()>().await;
    });
    let host = RealHost::new(RealHostOptions {
        root: PathBuf::from("/"),
        cache_dir: paths.state.join("cache"),
        blobs,
        events: Arc::new(|_| {}),
        cancel: stopped,
    })?;
    let _ = replies.send(Reply::Hello { facts: host.facts().clone() });
    let emit = |event| teller.tell(event);
    let summary = match job.task {
        Task::Plan => until_gone(cancel, plan::plan(&job.program, &host, &emit)).await,
        Task::Probe => until_gone(cancel, probe::probe(&job.program, &host, &emit)).await,
        Task::Status => {
            let status = Status::of(&ledger::read(&paths.state)?);
            let _ = replies.send(Reply::Status { status: Box::new(status) });
            Summary::default()
        }
        Task::Services => {
            let _ = replies.send(Reply::Services { services: services(&host).await? });
            Summary::default()
        }
        Task::Usage => {
            let usage = usage::usage(&host).await?;
            let _ = replies.send(Reply::Usage { usage: Box::new(usage) });
            Summary::default()
        }
        Task::Up => run_up(&job, &host, &teller, cancel, paths).await?,
    };
    stopper.abort();
    Ok(Reply::Done { summary })
}

async fn services(host: &RealHost) -> Result<Vec<Service>> {
    let cluster =
        host.cluster().await.map_err(|unavailable| anyhow::anyhow!("Kubernetes cannot be asked: {unavailable}"))?;
    let found = cluster.service_addresses().await?.into_iter();
    let reachable = found.filter_map(|(namespace, name, found)| {
        Some(Service { namespace, name, address: found.ip.parse().ok()?, ports: found.ports })
    });
    Ok(reachable.collect())
}

/// Work that only looks is simply left when it is interrupted.
async fn until_gone(cancel: &Cancel, work: impl Future<Output = Summary>) -> Summary {
    tokio::select! {
        summary = work => summary,
        () = cancel.reached(Urgency::Finish) => Summary { interrupted: true, ..Summary::default() },
    }
}

async fn run_up(job: &Job, host: &RealHost, teller: &Teller, cancel: &Cancel, paths: &Paths) -> Result<Summary> {
    if !rustix::process::geteuid().is_root() {
        bail!("root is needed to change this host");
    }
    let since = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let holder = Holder { run_id: job.run_id.clone(), pid: std::process::id(), by: job.by.clone(), since };
    let _lock = Lock::take(&paths.runtime, &holder)?;
    let ledger = FileLedger::open(&paths.state, &job.run_id, teller.redactor.clone())?;
    let stages = job.program.stages.iter().map(|stage| stage.name.clone()).collect();
    ledger.append(Entry::RunStarted { by: job.by.clone(), stages }).context("the host's ledger cannot be written")?;
    let host_of = |stage: &str| -> Arc<dyn WriteHost> {
        let (teller, stage) = (teller.clone(), stage.to_owned());
        Arc::new(host.with_events(Arc::new(move |event| teller.host_event(&stage, event))))
    };
    let emit = |event| teller.tell(event);
    let summary = up::up(&job.program, &host_of, &ledger, cancel, &emit).await;
    ledger.append(Entry::RunEnded { summary: summary.clone() })?;
    Ok(summary)
}
