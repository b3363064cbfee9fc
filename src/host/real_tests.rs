#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Mutex;
use std::time::Instant;

use tempfile::TempDir;
use tokio::fs::File;

use super::*;
use crate::hash;
use crate::host::FileType;

/// A controller without files.
pub(crate) struct NoBlobs;

#[async_trait]
impl BlobSource for NoBlobs {
    async fn fetch(&self, _: &str, _: &mut File) -> Result<bool> {
        Ok(false)
    }
}

/// This machine, with its files below a temporary directory.
pub(crate) struct Rooted {
    pub dir: TempDir,
    pub host: RealHost,
    pub events: Arc<Mutex<Vec<HostEvent>>>,
    pub cancel: watch::Sender<bool>,
}

impl Rooted {
    pub fn new() -> Self {
        Self::with(Arc::new(NoBlobs))
    }

    pub fn with(blobs: Arc<dyn BlobSource>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (cancel, cancelled) = watch::channel(false);
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let host = RealHost::new(RealHostOptions {
            root: dir.path().to_path_buf(),
            cache_dir: "/var/lib/provision/cache".into(),
            blobs,
            events: Arc::new(move |event| sink.lock().unwrap().push(event)),
            cancel: cancelled,
        })
        .unwrap();
        Self { dir, host, events, cancel }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        below(self.dir.path(), Path::new(path))
    }

    /// Every path below the root with all that can be seen of it, times included.
    pub fn tree(&self) -> String {
        let mut lines = Vec::new();
        let mut todo = vec![self.dir.path().to_path_buf()];
        while let Some(path) = todo.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                hash::sha256(fs::read(&path).unwrap())
            } else if meta.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else {
                todo.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
                String::new()
            };
            lines.push(format!(
                "{path:?} {:o} {}:{} {}.{} {content}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.ctime(),
                meta.ctime_nsec()
            ));
        }
        lines.sort();
        lines.join("\n")
    }
}

/// Who runs the tests: files may always be given to oneself.
pub(crate) fn me() -> Owner {
    Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

fn names(path: &Path) -> Vec<String> {
    files::list(path).unwrap()
}

fn shell(script: &str) -> Cmd {
    Cmd::new(["sh", "-c", script])
}

async fn failure(host: &RealHost, cmd: &Cmd) -> CommandFailed {
    let error = host.run(cmd).await.unwrap_err();
    error.downcast_ref::<CommandFailed>().unwrap().clone()
}

fn alive(pid: &str) -> bool {
    // A zombie has ended, too.
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_file_is_replaced_with_exactly_this_mode_and_nothing_else_remains() {
    let rooted = Rooted::new();
    let path = Path::new("/secret");
    let before = rooted.path("/secret");
    fs::write(&before, "old").unwrap();
    let inode = fs::metadata(&before).unwrap().ino();
    rooted.host.write_file(path, b"new", 0o600, me()).unwrap();
    assert_eq!(rooted.host.read_file(path).unwrap().unwrap(), b"new");
    let stat = rooted.host.stat(path).unwrap().unwrap();
    assert_eq!((stat.mode, stat.file_type), (0o600, FileType::File));
    assert_ne!(fs::metadata(&before).unwrap().ino(), inode, "written in place");
    assert_eq!(names(rooted.dir.path()), ["secret"]);
}

#[test]
fn writing_replaces_a_link_not_what_it_points_to() {
    let rooted = Rooted::new();
    fs::write(rooted.path("/target"), "target").unwrap();
    symlink("target", rooted.path("/link")).unwrap();
    let path = Path::new("/link");
    rooted.host.write_file(path, b"own", 0o644, me()).unwrap();
    assert_eq!(fs::read_to_string(rooted.path("/target")).unwrap(), "target");
    assert_eq!(rooted.host.stat(path).unwrap().unwrap().file_type, FileType::File);
    rooted.host.symlink(path, Path::new("target")).unwrap();
    assert_eq!(rooted.host.read_link(path).unwrap().unwrap(), Path::new("target"));
    assert_eq!(names(rooted.dir.path()), ["link", "target"]);
}

#[test]
fn what_a_killed_run_left_is_replaced_by_the_next() {
    let rooted = Rooted::new();
    let digest = hash::sha256("x");
    let left = rooted.path(&format!("/.provision-{}.tmp", &digest[..16]));
    fs::write(&left, "half").unwrap();
    rooted.host.write_file(Path::new("/x"), b"whole", 0o644, me()).unwrap();
    assert_eq!(names(rooted.dir.path()), ["x"]);
}

#[test]
fn errors_of_files_say_what_to_do() {
    let rooted = Rooted::new();
    let write = |path: &str| {
        let error = rooted.host.write_file(Path::new(path), b"", 0o644, me()).unwrap_err();
        format!("{error:#}").replace(&rooted.dir.path().display().to_string(), "")
    };
    assert_eq!(
        write("/no/where"),
        "cannot write /no/where: its directory /no does not exist; add a `directory` resource before it: No such file or directory (os error 2)"
    );
    fs::create_dir(rooted.path("/dir")).unwrap();
    assert_eq!(
        write("/dir"),
        "cannot write /dir: a directory is there; move it away or choose another path: Is a directory (os error 21)"
    );
    fs::write(rooted.path("/file"), "").unwrap();
    assert_eq!(
        write("/file/below"),
        "cannot write /file/below: a part of the path /file is a file, not a directory: Not a directory (os error 20)"
    );
    assert_eq!(names(rooted.dir.path()), ["dir", "file"]);
}

/// A file system with very little space; `None` where it cannot be mounted.
pub(crate) struct Small(TempDir);

impl Small {
    pub fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success());
    }
}

#[test]
fn a_full_and_a_read_only_disk_are_told_and_nothing_remains() {
    let Some(small) = Small::mount("size=64k") else {
        return;
    };
    let path = small.path().join("big");
    let error = files::write(&path, &mut &vec![1; 100_000][..], 0o644, me()).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("the disk is full ("), "{text}");
    assert!(text.contains("free some space and run the same command again"), "{text}");
    assert!(names(small.path()).is_empty());
    let Some(small) = Small::mount("size=64k,ro") else {
        return;
    };
    let error = files::write(&small.path().join("x"), &mut &b""[..], 0o644, me()).unwrap_err();
    assert!(format!("{error:#}").contains("is on a read-only file system; remount it writable"));
}

#[tokio::test]
async fn a_program_gets_a_clean_environment_and_its_lines_are_streamed() {
    let rooted = Rooted::new();
    let cmd = shell("env; echo error >&2; cat").env("OWN", "value").stdin("from stdin");
    let output = rooted.host.run(&cmd).await.unwrap();
    let mut env: Vec<_> = output.stdout.lines().filter(|line| line.contains('=')).collect();
    env.retain(|line| !line.starts_with("HOME=") && !line.starts_with("_=") && !line.starts_with("PWD="));
    env.sort_unstable();
    assert_eq!(env[0], "LANG=C.UTF-8");
    assert_eq!(env[1], "LC_ALL=C.UTF-8");
    assert_eq!(env[2], "OWN=value");
    assert!(env[3].starts_with("PATH=") && env.len() == 4, "{env:?}");
    assert_eq!(output.stderr, "error\n");
    let events = rooted.events.lock().unwrap();
    for (stream, line) in [(Stream::Stderr, "error"), (Stream::Stdout, "from stdin")] {
        let line = line.to_owned();
        assert!(events.contains(&HostEvent::Output { stream, line }), "{events:?}");
    }
}

#[tokio::test]
async fn a_failure_keeps_the_last_lines() {
    let rooted = Rooted::new();
    let failed = failure(&rooted.host, &shell("seq 30; exit 3")).await;
    assert_eq!(failed.status, Some(3));
    assert_eq!(failed.tail.len(), 20);
    assert_eq!(failed.tail[19], "30");
    assert_eq!(failed.to_string(), "`sh -c seq 30; exit 3` ended with status 3");
    let failed = failure(&rooted.host, &shell("kill -9 $$")).await;
    assert_eq!((failed.reason.as_str(), failed.status), ("was ended by signal 9", Some(137)));
    let error = rooted.host.run(&shell("true").cwd("/no/where")).await.unwrap_err();
    assert!(format!("{error:#}").contains("/no/where: No such file"), "{error:#}");
    let failed = failure(&rooted.host, &Cmd::new(["no-such-program"])).await;
    assert_eq!(failed.to_string(), "`no-such-program` is not installed");
}

#[tokio::test]
async fn a_query_answers_also_when_it_fails_or_is_missing() {
    let rooted = Rooted::new();
    let query = |argv: &[&str]| {
        let argv: Vec<String> = argv.iter().map(|&arg| arg.to_owned()).collect();
        Query::by_author(&argv)
    };
    let missing = rooted.host.query(&query(&["no-such-program"])).await.unwrap();
    assert_eq!((missing.status, missing.stderr.as_str()), (127, "no-such-program: command not found"));
    let failed = rooted.host.query(&query(&["sh", "-c", "echo no; exit 4"])).await.unwrap();
    assert_eq!((failed.status, failed.stdout.as_str()), (4, "no\n"));
    assert!(rooted.events.lock().unwrap().is_empty(), "a query is not shown");
}

#[tokio::test]
async fn too_slow_ends_the_whole_group() {
    let rooted = Rooted::new();
    let pid = rooted.path("/pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let failed = failure(&rooted.host, &shell(&script).timeout(Duration::from_secs(1))).await;
    assert_eq!(failed.reason, "did not finish within 1 s");
    let pid = fs::read_to_string(pid).unwrap();
    until("its child still runs", || !alive(&pid)).await;
}

#[tokio::test]
async fn who_ignores_a_term_is_killed_after_five_seconds() {
    let rooted = Rooted::new();
    let start = Instant::now();
    let cmd = shell("trap '' TERM; while :; do sleep 0.1; done").timeout(Duration::from_millis(500));
    failure(&rooted.host, &cmd).await;
    let took = start.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(9), "{took:?}");
}

#[tokio::test]
async fn a_dropped_future_and_a_cancelled_run_leave_nothing_running() {
    let rooted = Rooted::new();
    for cancel in [false, true] {
        let pid = rooted.path("/pid");
        let script = format!("sleep 1000 & echo $! $$ > {}; wait", pid.display());
        let host = rooted.host.clone();
        let task = tokio::spawn(async move { host.run(&shell(&script)).await });
        until("it does not start", || fs::read_to_string(&pid).is_ok_and(|it| it.contains('\n'))).await;
        let pids = fs::read_to_string(&pid).unwrap();
        fs::remove_file(&pid).unwrap();
        assert!(pids.split_whitespace().all(alive));
        if cancel {
            rooted.cancel.send(true).unwrap();
            let error = task.await.unwrap().unwrap_err();
            assert!(error.to_string().ends_with("was cancelled"), "{error}");
        } else {
            task.abort();
        }
        until("something still runs", || !pids.split_whitespace().any(alive)).await;
    }
}

#[tokio::test]
async fn a_daemon_that_keeps_the_output_open_does_not_hold_us() {
    let rooted = Rooted::new();
    let start = Instant::now();
    let output = rooted.host.run(&shell("sleep 20 & echo $!")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(alive(&output.stdout), "a daemon that a program leaves behind is its own affair");
    let pid: i32 = output.stdout.trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn programs_outlive_the_thread_that_asked_for_them() {
    let rooted = Rooted::new();
    let host = rooted.host.clone();
    let runtime = tokio::runtime::Handle::current();
    // The thread that polls first ends long before the program does.
    let running = std::thread::spawn(move || {
        let _in_runtime = runtime.enter();
        let mut running = Box::pin(async move { host.run(&shell("sleep 1; echo done")).await });
        let first = futures::FutureExt::now_or_never(&mut running);
        assert!(first.is_none());
        running
    })
    .join()
    .unwrap();
    assert_eq!(running.await.unwrap().stdout, "done\n");
}

#[test]
fn children_die_with_us() {
    // This very test, as another process that starts a program and is killed.
    const MARK: &str = "PROVISION_TEST_PID_FILE";
    if let Ok(file) = std::env::var(MARK) {
        let rooted = Rooted::new();
        let script = format!("echo $$ > {file}; exec sleep 1000");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _ = runtime.block_on(rooted.host.run(&shell(&script)));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host::real::tests::children_die_with_us"])
        .env(MARK, &file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(until("it does not start", || fs::read_to_string(&file).is_ok_and(|it| it.ends_with('\n'))));
    let pid = fs::read_to_string(&file).unwrap();
    assert!(alive(&pid));
    child.kill().unwrap();
    child.wait().unwrap();
    runtime.block_on(until("the program outlived us", || !alive(&pid)));
}

#[test]
fn modes_are_not_masked() {
    let rooted = Rooted::new();
    rooted.host.create_dir(Path::new("/shared"), 0o1777).unwrap();
    let mode = fs::metadata(rooted.path("/shared")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
}
