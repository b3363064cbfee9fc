//! Starting programs, so that none of them outlives what started it.
//!
//! Every program is the leader of its own process group. The whole group is ended when it takes too long, when the run is
//! cancelled, and when the future that waits for it is dropped. Where `setpriv` is installed, the program also gets a TERM when
//! this process dies, however it dies.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::{Cmd, Output};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Lines that are kept for a failure.
pub const TAIL: usize = 20;
/// Between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);
/// A program may leave a daemon behind that keeps its output open; its last words are waited for only this long.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A line without an end is cut here.
const LONGEST_LINE: usize = 8 * 1024;
/// What is kept of an output.
const LARGEST_OUTPUT: usize = 16 * 1024 * 1024;

/// One of the two outputs of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// How a program ended.
pub enum End {
    Exited(ExitStatus),
    TimedOut,
    Cancelled,
    NotInstalled,
}

/// A program that ended.
pub struct Finished {
    pub end: End,
    pub output: Output,
    /// The last lines of both outputs as they came.
    pub tail: Vec<String>,
    /// More was printed than [`Output`] holds.
    pub truncated: bool,
}

/// Runs `cmd` to its end and hands every line to `on_line`.
///
/// # Errors
/// When the operating system cannot start it; a program that is not there is [`End::NotInstalled`].
pub async fn run(
    cmd: &Cmd,
    cwd: Option<&Path>,
    cancel: &watch::Receiver<bool>,
    on_line: &(dyn Fn(Stream, &str) + Send + Sync),
) -> Result<Finished> {
    let mut finished = Finished {
        end: End::NotInstalled,
        output: Output { status: 127, stdout: String::new(), stderr: String::new() },
        tail: Vec::new(),
        truncated: false,
    };
    let name = cmd.argv.first().context("no program was named")?;
    let cwd = cwd.unwrap_or(Path::new("/"));
    let Some(program) = find(name, cwd) else {
        return Ok(finished);
    };
    let mut child = spawn(command(&program, cmd, cwd))
        .with_context(|| format!("cannot start {} in {}", program.display(), cwd.display()))?;
    let mut group = Group::of(&child);

    let stdin = child.stdin.take();
    let feed = async {
        if let (Some(mut stdin), Some(bytes)) = (stdin, &cmd.stdin) {
            // A program that does not read all of it is not an error of ours.
            let _ = stdin.write_all(bytes).await;
            let _ = stdin.shutdown().await;
        }
        std::future::pending::<()>().await
    };
    let tail = Mutex::new(VecDeque::new());
    let line = |stream: Stream, line: &str| {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line.to_owned());
        on_line(stream, line);
    };
    let (mut stdout, mut stderr) = (Captured::default(), Captured::default());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reading = async {
        tokio::join!(
            stdout.read(out, |text| line(Stream::Stdout, text)),
            stderr.read(err, |text| line(Stream::Stderr, text)),
        );
    };

    let end = {
        let ending = wait(&mut child, &group, cmd.timeout, cancel);
        tokio::pin!(feed, reading, ending);
        let mut read_all = false;
        let end = loop {
            tokio::select! {
                end = &mut ending => break end?,
                () = &mut reading, if !read_all => read_all = true,
                () = &mut feed => {}
            }
        };
        if !read_all {
            // Ends with the pipe, or not at all.
            let _ = tokio::time::timeout(LAST_WORDS, reading).await;
        }
        end
    };
    group.ended();
    stdout.flush(|text| line(Stream::Stdout, text));
    stderr.flush(|text| line(Stream::Stderr, text));
    if let End::Exited(status) = end {
        finished.output.status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    }
    finished.truncated = stdout.truncated || stderr.truncated;
    finished.output.stdout = String::from_utf8_lossy(&stdout.all).into_owned();
    finished.output.stderr = String::from_utf8_lossy(&stderr.all).into_owned();
    finished.tail = tail.into_inner().unwrap_or_else(PoisonError::into_inner).into();
    finished.end = end;
    Ok(finished)
}

/// Waits for the end, and brings it about when it takes too long.
async fn wait(child: &mut Child, group: &Group, timeout: Duration, cancel: &watch::Receiver<bool>) -> Result<End> {
    let end = tokio::select! {
        status = child.wait() => return Ok(End::Exited(status?)),
        () = tokio::time::sleep(timeout) => End::TimedOut,
        () = cancelled(cancel) => End::Cancelled,
    };
    group.signal(Signal::TERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        group.signal(Signal::KILL);
        child.wait().await?;
    } else {
        // The leader is gone; whoever of its group ignored the TERM is not asked again.
        group.signal(Signal::KILL);
    }
    Ok(end)
}

/// Ends when the run is cancelled; never, when nobody is left who could.
pub async fn cancelled(cancel: &watch::Receiver<bool>) {
    if cancel.clone().wait_for(|&cancelled| cancelled).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn find(program: &str, cwd: &Path) -> Option<PathBuf> {
    which::which_in(program, Some(PATH), cwd).ok()
}

fn command(program: &Path, cmd: &Cmd, cwd: &Path) -> Command {
    static SETPRIV: LazyLock<Option<PathBuf>> = LazyLock::new(|| find("setpriv", Path::new("/")));
    let mut command = match &*SETPRIV {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    command
        .args(&cmd.argv[1..])
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", home)
        .envs(cmd.env.iter().map(|(name, value)| (name, value)))
        .current_dir(cwd)
        .stdin(if cmd.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts a program from a thread that never ends.
///
/// The death signal comes when the *thread* that started the program ends, and threads of the runtime may end early.
fn spawn(mut command: Command) -> Result<Child> {
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for job in jobs {
                job();
            }
        });
        Mutex::new(sender)
    });
    let runtime = tokio::runtime::Handle::current();
    let (answer, answered) = mpsc::sync_channel(1);
    let spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    // Were that thread gone, the answer below would be the error.
    let _ = spawner.send(Box::new(move || {
        let _in_runtime = runtime.enter();
        // When nobody waits any more, dropping the child ends it.
        let _ = answer.send(command.spawn());
    }));
    drop(spawner);
    Ok(answered.recv()??)
}

/// A process group that is killed when this is dropped before its leader ended.
struct Group {
    id: Option<Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self { id }
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            // It may be gone already.
            let _ = kill_process_group(id, signal);
        }
    }

    /// The number may soon belong to somebody else.
    fn ended(&mut self) {
        self.id = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// What came out of one output.
#[derive(Default)]
struct Captured {
    all: Vec<u8>,
    line: Vec<u8>,
    truncated: bool,
}

impl Captured {
    async fn read(&mut self, from: Option<impl AsyncRead + Unpin>, on_line: impl Fn(&str)) {
        let Some(mut from) = from else { return };
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let chunk = &buffer[..n];
            let room = LARGEST_OUTPUT - self.all.len();
            self.truncated |= n > room;
            self.all.extend_from_slice(&chunk[..n.min(room)]);
            for &byte in chunk {
                // Progress bars end their lines with a carriage return.
                if byte == b'\n' || byte == b'\r' || self.line.len() == LONGEST_LINE {
                    self.flush(&on_line);
                }
                if byte != b'\n' && byte != b'\r' {
                    self.line.push(byte);
                }
            }
        }
    }

    fn flush(&mut self, on_line: impl Fn(&str)) {
        if !self.line.is_empty() {
            on_line(&String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}
