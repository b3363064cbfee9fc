//! The programs of the demo: this very executable with other sub-commands, as child processes. All of them are stopped and waited
//! for in the end, whatever the end is.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::error::Error;

/// How often is looked whether something has come.
const BEAT: Duration = Duration::from_millis(40);
/// Time in which a program that was asked to end must have ended.
const FAREWELL: Duration = Duration::from_secs(10);
/// Log lines shown of a program that failed.
const LAST_LINES: usize = 12;

/// What a program wrote, with the time at which it was read.
type Lines = Arc<Mutex<Vec<(Timestamp, String)>>>;

/// One running or ended program.
#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    pub command: String,
    child: Child,
    out: Lines,
    log: Lines,
    started: Instant,
    readers: Vec<tokio::task::JoinHandle<()>>,
    ended: Option<ExitStatus>,
    /// That it ends is no failure: it was asked to, or it has only one thing to do.
    may_end: bool,
    /// After the start of the demo.
    pub from_s: f64,
    pub seconds: f64,
}

/// Names one of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who(usize);

/// All of them, and what they share.
#[derive(Debug)]
pub struct House {
    exe: PathBuf,
    pub dir: PathBuf,
    /// Guards the programs' doors; made for this run.
    pub token: String,
    begun: Instant,
    patience: Duration,
    /// What is going on, for errors.
    pub step: String,
    programs: Vec<Program>,
}

impl House {
    /// # Errors
    /// When this executable cannot be found, or no random token can be made.
    pub fn new(dir: PathBuf, patience: Duration) -> Result<Self, Error> {
        let exe = std::env::current_exe().map_err(Error::io("cannot find this program to start it again"))?;
        let mut random = [0u8; 16];
        let read = std::fs::File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut random));
        read.map_err(Error::io("/dev/urandom"))?;
        std::fs::create_dir_all(dir.join("logs")).map_err(Error::io("the directory for logs"))?;
        let token = hex::encode(random);
        let (begun, step) = (Instant::now(), "T0".to_owned());
        Ok(Self { exe, dir, token, begun, patience, step, programs: Vec::new() })
    }

    pub fn exe(&self) -> String {
        self.exe.display().to_string()
    }

    /// Seconds since the demo began.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// One line of progress.
    pub fn say(&self, text: &str) {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "{:6.1} s  {text}", self.seconds());
    }

    /// Starts `rul ARGS` in the background. It sees nothing of this program's environment but the path.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, name: &'static str, args: &[String]) -> Result<Who, Error> {
        let file = |end: &str| {
            let path = self.dir.join("logs").join(format!("{}-{name}.{end}", self.programs.len() + 1));
            std::fs::File::create(&path).map_err(Error::io(path.display().to_string()))
        };
        let (out_file, log_file) = (file("out")?, file("log")?);
        let mut command = Command::new(&self.exe);
        command.args(args).env_clear().env("RUL_TOKEN", &self.token);
        for kept in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        // A group of its own: Ctrl-C reaches the demo alone, which then ends the others in order.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::io(format!("cannot start rul {name}")))?;
        let (out, said) = (Lines::default(), Lines::default());
        let mut readers = Vec::new();
        if let Some(stream) = child.stdout.take() {
            readers.push(tokio::spawn(keep(stream, Arc::clone(&out), out_file)));
        }
        if let Some(stream) = child.stderr.take() {
            readers.push(tokio::spawn(keep(stream, Arc::clone(&said), log_file)));
        }
        let command = std::iter::once("rul").chain(args.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
        self.programs.push(Program {
            name,
            command,
            child,
            out,
            log: said,
            started: Instant::now(),
            readers,
            ended: None,
            may_end: false,
            from_s: self.seconds(),
            seconds: 0.0,
        });
        Ok(Who(self.programs.len() - 1))
    }

    /// Runs `rul ARGS` to its end and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be started, or fails.
    pub async fn run(&mut self, name: &'static str, args: &[String]) -> Result<Vec<String>, Error> {
        let who = self.start(name, args)?;
        self.programs[who.0].may_end = true;
        let status = self.until(&format!("rul {name} to end"), |house| house.programs[who.0].ended).await?;
        self.drained(who).await;
        if status.success() {
            Ok(self.out(who).into_iter().map(|(_, line)| line).collect())
        } else {
            Err(self.ended_badly(who, status))
        }
    }

    /// Waits until `seen` sees it, while all programs that should run do.
    ///
    /// # Errors
    /// A program ended; patience ended.
    pub async fn until<T>(&mut self, what: &str, mut seen: impl FnMut(&Self) -> Option<T>) -> Result<T, Error> {
        let begin = Instant::now();
        loop {
            self.look()?;
            if let Some(found) = seen(self) {
                return Ok(found);
            }
            if begin.elapsed() > self.patience {
                return Err(Error::Waited {
                    step: self.step.clone(),
                    what: what.to_owned(),
                    seconds: self.patience.as_secs(),
                    last: "--patience gives more time".to_owned(),
                    tail: self.tails(),
                });
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Notes who has ended.
    fn look(&mut self) -> Result<(), Error> {
        for index in 0..self.programs.len() {
            let program = &mut self.programs[index];
            if program.ended.is_some() {
                continue;
            }
            let Some(status) = program.child.try_wait().map_err(Error::io(program.name))? else { continue };
            program.ended = Some(status);
            program.seconds = program.started.elapsed().as_secs_f64();
            if !program.may_end {
                return Err(self.ended_badly(Who(index), status));
            }
        }
        Ok(())
    }

    /// Where a service listens, as it says itself.
    ///
    /// # Errors
    /// When it ends before it says so.
    pub async fn address(&mut self, who: Who) -> Result<String, Error> {
        let name = self.programs[who.0].name;
        self.until(&format!("rul {name} to listen"), |house| {
            let (_, event) = house.event(who, "listening")?;
            event["address"].as_str().map(str::to_owned)
        })
        .await
    }

    /// The first event of this name in a program's log, and when it was logged.
    pub fn event(&self, who: Who, name: &str) -> Option<(Timestamp, Value)> {
        self.log(who).into_iter().find_map(|(read, line)| {
            let event: Value = serde_json::from_str(&line).ok()?;
            let at = event["at"].as_str().and_then(|at| at.parse().ok()).unwrap_or(read);
            (event["event"] == name).then_some((at, event))
        })
    }

    pub fn out(&self, who: Who) -> Vec<(Timestamp, String)> {
        self.programs[who.0].out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn log(&self, who: Who) -> Vec<(Timestamp, String)> {
        self.programs[who.0].log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks a program to end as Ctrl-C does, waits for it, and gives its standard output and whether it succeeded.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn finish(&mut self, who: Who) -> Result<(Vec<String>, bool), Error> {
        let program = &mut self.programs[who.0];
        program.may_end = true;
        ask(&program.child, Signal::INT);
        let name = program.name;
        let status = self.until(&format!("rul {name} to end"), |house| house.programs[who.0].ended).await?;
        self.drained(who).await;
        Ok((self.out(who).into_iter().map(|(_, line)| line).collect(), status.success()))
    }

    async fn drained(&mut self, who: Who) {
        for reader in self.programs[who.0].readers.drain(..) {
            // A grandchild may hold the pipe; what it writes now nobody needs.
            let _ = tokio::time::timeout(Duration::from_secs(1), reader).await;
        }
    }

    /// Ends everything that still runs, youngest first, and waits for it.
    pub async fn stop(&mut self) {
        for program in self.programs.iter_mut().rev() {
            program.may_end = true;
            if program.ended.is_some() {
                continue;
            }
            ask(&program.child, Signal::TERM);
            let waited = tokio::time::timeout(FAREWELL, program.child.wait()).await;
            program.ended = match waited {
                Ok(status) => status.ok(),
                Err(_) => {
                    // It is gone after this, or was already.
                    let _ = program.child.kill().await;
                    program.child.try_wait().ok().flatten()
                }
            };
            program.seconds = program.started.elapsed().as_secs_f64();
        }
    }

    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// An outcome that is not what it should be, with the logs of everybody.
    pub fn outcome(&self, reason: impl Into<String>) -> Error {
        Error::Outcome { step: self.step.clone(), reason: reason.into(), tail: self.tails() }
    }

    fn ended_badly(&self, who: Who, status: ExitStatus) -> Error {
        let (name, tail) = (self.programs[who.0].name, self.tail(who));
        Error::Ended { step: self.step.clone(), name, status: status.to_string(), tail }
    }

    fn tail(&self, who: Who) -> String {
        let program = &self.programs[who.0];
        let mut last: VecDeque<String> = VecDeque::new();
        for (_, line) in self.log(who) {
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        let mut text = String::new();
        if !last.is_empty() {
            let _ = write!(text, "\n  last lines of rul {}:", program.name);
        }
        for line in last {
            let line: String = line.chars().take(400).collect();
            let _ = write!(text, "\n    {line}");
        }
        text
    }

    fn tails(&self) -> String {
        (0..self.programs.len()).map(|index| self.tail(Who(index))).collect()
    }
}

impl Program {
    /// How it ended, in words.
    pub fn status(&self) -> String {
        match self.ended {
            None => "running".to_owned(),
            Some(status) if status.success() => "ok".to_owned(),
            Some(status) => status.to_string(),
        }
    }
}

/// A program that has ended just now does not mind.
fn ask(child: &Child, signal: Signal) {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(id) = id {
        let _ = kill_process(id, signal);
    }
}

async fn keep(stream: impl AsyncRead + Unpin, lines: Lines, mut file: std::fs::File) {
    let mut read = BufReader::new(stream).lines();
    while let Ok(Some(line)) = read.next_line().await {
        // The copy in memory is what counts.
        let _ = writeln!(file, "{line}");
        lines.lock().unwrap_or_else(PoisonError::into_inner).push((Timestamp::now(), line));
    }
}
