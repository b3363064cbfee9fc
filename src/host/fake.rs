//! A machine in memory, for tests: files with modes and owners, scripted programs, and a record of all that was done to it.
//!
//! ```ignore
//! let host = FakeHost::new()
//!     .file("/etc/hostname", "old\n", 0o644)
//!     .answer(&["systemctl", "show"], ok("ActiveState=active\n"))
//!     .on_run(&["hostnamectl", "set-hostname"], |files, cmd| {
//!         files.put_file("/etc/hostname", cmd.argv[2].as_bytes(), 0o644);
//!         ok("")
//!     });
//! ```
//! The script that was added last wins. Programs without a script are not installed (a query answers 127, a run fails), except
//! `getent passwd|group`, which reads the fake's own `/etc/passwd` and `/etc/group`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::io::{Cursor, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;

use super::{ArtifactPin, Cmd, CommandFailed, Facts, FileType, Output, Owner, Query, ReadHost, Stat, WriteHost};
use crate::{cluster, hash};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    File(Vec<u8>),
    Directory,
    Symlink(PathBuf),
}

/// A path of the fake machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub content: Content,
    pub mode: u32,
    pub owner: Owner,
}

/// All paths of the fake machine. Comparing two of them tells whether anything changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Files {
    fn new() -> Self {
        let mut files = Self { nodes: BTreeMap::new() };
        for path in ["/etc", "/opt", "/root", "/run", "/tmp", "/usr/local/bin", "/var/lib"] {
            files.put_dir(path, 0o755);
        }
        files.put_file("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n", 0o644);
        files.put_file("/etc/group", "root:x:0:\n", 0o644);
        files
    }

    /// The node at exactly this path (links are not followed).
    pub fn node(&self, path: impl AsRef<Path>) -> Option<&Node> {
        self.nodes.get(path.as_ref())
    }

    /// Text of a file; panics when there is none.
    pub fn text(&self, path: impl AsRef<Path>) -> String {
        match self.node(&path).map(|node| &node.content) {
            Some(Content::File(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{}: not a file but {other:?}", path.as_ref().display()),
        }
    }

    /// A file of root, with the directories above it.
    pub fn put_file(&mut self, path: impl AsRef<Path>, content: impl AsRef<[u8]>, mode: u32) {
        self.put(path.as_ref(), Content::File(content.as_ref().to_vec()), mode);
    }

    /// A directory of root, with the directories above it.
    pub fn put_dir(&mut self, path: impl AsRef<Path>, mode: u32) {
        self.put(path.as_ref(), Content::Directory, mode);
    }

    /// A symbolic link, with the directories above it.
    pub fn put_link(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) {
        self.put(path.as_ref(), Content::Symlink(target.as_ref().to_path_buf()), 0o777);
    }

    /// Gives a path another owner; panics when nothing is there.
    pub fn put_owner(&mut self, path: impl AsRef<Path>, owner: Owner) {
        match self.nodes.get_mut(path.as_ref()) {
            Some(node) => node.owner = owner,
            None => panic!("{}: nothing there", path.as_ref().display()),
        }
    }

    /// Removes a path and all below it.
    pub fn remove(&mut self, path: impl AsRef<Path>) {
        self.nodes.retain(|other, _| !other.starts_with(path.as_ref()));
    }

    fn put(&mut self, path: &Path, content: Content, mode: u32) {
        for ancestor in path.ancestors().skip(1) {
            self.nodes.entry(ancestor.to_path_buf()).or_insert_with(|| Node {
                content: Content::Directory,
                mode: 0o755,
                owner: Owner::ROOT,
            });
        }
        let node = Node { content, mode, owner: Owner::ROOT };
        self.nodes.insert(path.to_path_buf(), node);
    }

    /// `path` with every link on the way followed; a link in the last component only when `last`.
    fn resolve(&self, path: &Path, last: bool) -> Result<PathBuf> {
        let mut rest: VecDeque<OsString> = names(path);
        let mut here = PathBuf::from("/");
        let mut followed = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            match self.node(&next).map(|node| &node.content) {
                Some(Content::Symlink(target)) if last || !rest.is_empty() => {
                    followed += 1;
                    if followed > 40 {
                        bail!("{}: too many links", path.display());
                    }
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    for name in names(target).into_iter().rev() {
                        rest.push_front(name);
                    }
                }
                _ => here = next,
            }
        }
        Ok(here)
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

type OnQuery = Arc<dyn Fn(&Files, &[String]) -> Output + Send + Sync>;
type OnRun = Arc<dyn Fn(&mut Files, &Cmd) -> Output + Send + Sync>;

#[derive(Default)]
struct Record {
    queries: Vec<Vec<String>>,
    runs: Vec<Cmd>,
    changes: Vec<String>,
    progress: Vec<String>,
    slept: Duration,
}

/// The machine. Cheap builder methods make it; the traits of [`super`] use it; the `…s()` methods tell what was done.
pub struct FakeHost {
    facts: Facts,
    files: Mutex<Files>,
    on_query: Vec<(Vec<String>, OnQuery)>,
    on_run: Vec<(Vec<String>, OnRun)>,
    artifacts: HashMap<String, Vec<u8>>,
    cluster: Option<cluster::Reader>,
    record: Mutex<Record>,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

/// A program that ended well.
pub fn ok(stdout: &str) -> Output {
    Output { status: 0, stdout: stdout.to_owned(), stderr: String::new() }
}

/// A program that ended with `status`.
pub fn failed(status: i32, stderr: &str) -> Output {
    Output { status, stdout: String::new(), stderr: stderr.to_owned() }
}

impl FakeHost {
    /// An Ubuntu 22.04 machine with a few directories, root in `/etc/passwd` and `/etc/group`, and no programs.
    pub fn new() -> Self {
        let facts = Facts {
            os: "ubuntu".into(),
            os_version: "22.04".into(),
            arch: "x86_64".into(),
            kernel: "5.15.0-190-generic".into(),
            hostname: "fake".into(),
            memory_mib: 16_000,
            cpus: 4,
            ..Facts::default()
        };
        Self {
            facts,
            files: Mutex::new(Files::new()),
            on_query: Vec::new(),
            on_run: Vec::new(),
            artifacts: HashMap::new(),
            cluster: None,
            record: Mutex::default(),
        }
    }

    /// Changes the facts.
    #[must_use]
    pub fn with_facts(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(&mut self.facts);
        self
    }

    /// See [`Files::put_file`].
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Self {
        self.files().put_file(path, content, mode);
        self
    }

    /// See [`Files::put_dir`].
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.files().put_dir(path, mode);
        self
    }

    /// See [`Files::put_link`].
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.files().put_link(path, target);
        self
    }

    /// Queries and runs whose arguments begin with `prefix` answer this.
    #[must_use]
    pub fn answer(self, prefix: &[&str], output: Output) -> Self {
        let again = output.clone();
        self.on_query(prefix, move |_, _| output.clone()).on_run(prefix, move |_, _| again.clone())
    }

    /// Queries whose arguments begin with `prefix` are answered from the files.
    #[must_use]
    pub fn on_query(
        mut self,
        prefix: &[&str],
        answer: impl Fn(&Files, &[String]) -> Output + Send + Sync + 'static,
    ) -> Self {
        self.on_query.push((owned(prefix), Arc::new(answer)));
        self
    }

    /// Runs whose arguments begin with `prefix` do this to the files and answer.
    #[must_use]
    pub fn on_run(
        mut self,
        prefix: &[&str],
        effect: impl Fn(&mut Files, &Cmd) -> Output + Send + Sync + 'static,
    ) -> Self {
        self.on_run.push((owned(prefix), Arc::new(effect)));
        self
    }

    /// [`WriteHost::fetch`] finds an artifact with this content.
    #[must_use]
    pub fn artifact(mut self, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref().to_vec();
        self.artifacts.insert(hash::sha256(&content), content);
        self
    }

    /// It has this cluster.
    #[must_use]
    pub fn with_cluster(mut self, reader: cluster::Reader) -> Self {
        self.cluster = Some(reader);
        self
    }

    /// The files, to look at or to change behind the resource's back. Do not hold it across a call of the host.
    pub fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    /// Arguments of all queries, in order.
    pub fn queries(&self) -> Vec<Vec<String>> {
        lock(&self.record).queries.clone()
    }

    /// All programs that were run, in order.
    pub fn runs(&self) -> Vec<Cmd> {
        lock(&self.record).runs.clone()
    }

    /// Everything that was done to the machine, in order, one line each: `write /etc/x 0644 0:0`, `run apt-get update`,
    /// `mkdir`, `mode`, `owner`, `link`, `remove`, `rename`, `fetch`. Empty when nothing could have changed.
    pub fn changes(&self) -> Vec<String> {
        lock(&self.record).changes.clone()
    }

    /// What was said to be waited for.
    pub fn progress_texts(&self) -> Vec<String> {
        lock(&self.record).progress.clone()
    }

    /// How long resources slept; no time passes for it.
    pub fn slept(&self) -> Duration {
        lock(&self.record).slept
    }

    fn changed(&self, what: String) {
        lock(&self.record).changes.push(what);
    }

    /// `path` with the links in its parent followed; an error when the parent is no directory.
    fn in_parent(&self, path: &Path) -> Result<PathBuf> {
        let files = self.files();
        let path = files.resolve(path, false)?;
        let parent = path.parent().context("the root has no parent")?;
        match files.node(parent).map(|node| &node.content) {
            Some(Content::Directory) => Ok(path),
            Some(_) => bail!("{}: {} is not a directory", path.display(), parent.display()),
            None => bail!("{}: {} does not exist", path.display(), parent.display()),
        }
    }
}

/// A test that panicked while it held the lock has failed already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn owned(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|&arg| arg.to_owned()).collect()
}

/// The script that was added last of those that fit.
fn script<'a, T>(scripts: &'a [(Vec<String>, T)], argv: &[String]) -> Option<&'a T> {
    scripts.iter().rev().find(|(prefix, _)| argv.starts_with(prefix)).map(|(_, script)| script)
}

fn getent(files: &Files, argv: &[String]) -> Option<Output> {
    let [program, database, key] = argv else {
        return None;
    };
    if program != "getent" {
        return None;
    }
    let file = match database.as_str() {
        "passwd" => "/etc/passwd",
        "group" => "/etc/group",
        _ => return None,
    };
    let text = files.text(file);
    let line = text.lines().find(|line| {
        let mut fields = line.split(':');
        fields.next() == Some(key) || fields.nth(1) == Some(key)
    });
    Some(line.map_or_else(|| failed(2, ""), |line| ok(&format!("{line}\n"))))
}

#[async_trait]
impl ReadHost for FakeHost {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let files = self.files();
        match files.node(files.resolve(path, true)?).map(|node| &node.content) {
            None => Ok(None),
            Some(Content::File(bytes)) => Ok(Some(bytes.clone())),
            Some(_) => bail!("{}: is a directory", path.display()),
        }
    }

    fn open(&self, path: &Path) -> Result<Option<Box<dyn Read + Send>>> {
        Ok(self.read_file(path)?.map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn Read + Send>))
    }

    fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        let files = self.files();
        let node = files.node(files.resolve(path, false)?);
        Ok(node.map(|node| {
            let (file_type, size) = match &node.content {
                Content::File(bytes) => (FileType::File, bytes.len()),
                Content::Directory => (FileType::Directory, 4096),
                Content::Symlink(target) => (FileType::Symlink, target.as_os_str().len()),
            };
            Stat { file_type, mode: node.mode, uid: node.owner.uid, gid: node.owner.gid, size: size as u64 }
        }))
    }

    fn read_link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let files = self.files();
        match files.node(files.resolve(path, false)?).map(|node| &node.content) {
            Some(Content::Symlink(target)) => Ok(Some(target.clone())),
            _ => Ok(None),
        }
    }

    fn list_dir(&self, path: &Path) -> Result<Vec<String>> {
        let files = self.files();
        let path = files.resolve(path, true)?;
        Ok(files
            .nodes
            .keys()
            .filter(|other| other.parent() == Some(&path))
            .filter_map(|other| other.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    fn sha256(&self, path: &Path) -> Result<Option<String>> {
        Ok(self.read_file(path)?.map(hash::sha256))
    }

    async fn query(&self, query: &Query) -> Result<Output> {
        lock(&self.record).queries.push(query.argv().to_vec());
        let files = self.files();
        Ok(match script(&self.on_query, query.argv()) {
            Some(answer) => answer(&files, query.argv()),
            None => getent(&files, query.argv()).unwrap_or_else(|| failed(127, "command not found")),
        })
    }

    async fn peek(&self, artifact: &ArtifactPin) -> Result<Vec<u8>> {
        let content = self.artifacts.get(&artifact.sha256);
        content.cloned().with_context(|| format!("artifact {} {}: no source has it", artifact.name, artifact.version))
    }

    async fn cluster(&self) -> Result<cluster::Reader, cluster::Unavailable> {
        self.cluster.clone().ok_or_else(|| cluster::Unavailable { reason: "a fake host has no cluster".into() })
    }

    fn progress(&self, text: &str) {
        lock(&self.record).progress.push(text.to_owned());
    }
}

#[async_trait]
impl WriteHost for FakeHost {
    fn as_read(&self) -> &dyn ReadHost {
        self
    }

    fn write_stream(&self, path: &Path, content: &mut dyn Read, mode: u32, owner: Owner) -> Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        let at = self.in_parent(path)?;
        let mut files = self.files();
        if let Some(Content::Directory) = files.node(&at).map(|node| &node.content) {
            bail!("{}: is a directory", path.display());
        }
        files.put_file(&at, bytes, mode);
        files.put_owner(&at, owner);
        self.changed(format!("write {} {mode:04o} {}:{}", path.display(), owner.uid, owner.gid));
        Ok(())
    }

    fn create_dir(&self, path: &Path, mode: u32) -> Result<()> {
        let at = self.in_parent(path)?;
        let mut files = self.files();
        if files.node(&at).is_some() {
            bail!("{}: exists already", path.display());
        }
        files.put_dir(&at, mode);
        self.changed(format!("mkdir {} {mode:04o}", path.display()));
        Ok(())
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        let mut files = self.files();
        let at = files.resolve(path, true)?;
        match files.nodes.get_mut(&at) {
            Some(node) => node.mode = mode,
            None => bail!("{}: does not exist", path.display()),
        }
        self.changed(format!("mode {} {mode:04o}", path.display()));
        Ok(())
    }

    fn set_owner(&self, path: &Path, owner: Owner) -> Result<()> {
        let mut files = self.files();
        let at = files.resolve(path, false)?;
        match files.nodes.get_mut(&at) {
            Some(node) => node.owner = owner,
            None => bail!("{}: does not exist", path.display()),
        }
        self.changed(format!("owner {} {}:{}", path.display(), owner.uid, owner.gid));
        Ok(())
    }

    fn symlink(&self, path: &Path, target: &Path) -> Result<()> {
        let at = self.in_parent(path)?;
        let mut files = self.files();
        if let Some(Content::Directory) = files.node(&at).map(|node| &node.content) {
            bail!("{}: is a directory", path.display());
        }
        files.put_link(&at, target);
        self.changed(format!("link {} -> {}", path.display(), target.display()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let mut files = self.files();
        let at = files.resolve(path, false)?;
        match files.node(&at).map(|node| &node.content) {
            None => return Ok(()),
            Some(Content::Directory) => bail!("{}: is a directory", path.display()),
            Some(_) => files.remove(&at),
        }
        self.changed(format!("remove {}", path.display()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        let mut files = self.files();
        let at = files.resolve(path, false)?;
        match files.node(&at).map(|node| &node.content) {
            None => return Ok(()),
            Some(Content::Directory) => files.remove(&at),
            Some(_) => bail!("{}: is not a directory", path.display()),
        }
        self.changed(format!("remove {}", path.display()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let to_at = self.in_parent(to)?;
        let mut files = self.files();
        let from_at = files.resolve(from, false)?;
        if files.node(&from_at).is_none() {
            bail!("{}: does not exist", from.display());
        }
        files.remove(&to_at);
        let moved: Vec<_> = files
            .nodes
            .iter()
            .filter_map(|(path, node)| Some((path.strip_prefix(&from_at).ok()?, node)))
            .map(|(below, node)| (to_at.components().chain(below.components()).collect(), node))
            .map(|(path, node): (PathBuf, &Node)| (path, node.clone()))
            .collect();
        files.remove(&from_at);
        files.nodes.extend(moved);
        self.changed(format!("rename {} -> {}", from.display(), to.display()));
        Ok(())
    }

    async fn run(&self, cmd: &Cmd) -> Result<Output> {
        lock(&self.record).runs.push(cmd.clone());
        self.changed(format!("run {}", cmd.argv.join(" ")));
        let failure = |reason: String, status, tail| CommandFailed { argv: cmd.argv.clone(), reason, status, tail };
        let Some(effect) = script(&self.on_run, &cmd.argv) else {
            return Err(failure("is not installed".into(), None, Vec::new()).into());
        };
        let output = effect(&mut self.files(), cmd);
        if output.success() {
            return Ok(output);
        }
        let tail = output.stdout.lines().chain(output.stderr.lines());
        Err(failure(
            format!("ended with status {}", output.status),
            Some(output.status),
            tail.map(str::to_owned).collect(),
        )
        .into())
    }

    async fn fetch(&self, artifact: &ArtifactPin) -> Result<PathBuf> {
        let content = self
            .artifacts
            .get(&artifact.sha256)
            .with_context(|| format!("no source has the artifact {}", artifact.name))?;
        let path = Path::new("/var/lib/provision/cache").join(&artifact.sha256);
        self.files().put_file(&path, content, 0o644);
        self.changed(format!("fetch {}", artifact.name));
        Ok(path)
    }

    async fn cluster_mut(&self) -> Result<cluster::Writer, cluster::Unavailable> {
        self.cluster().await.map(cluster::Writer::new)
    }

    async fn sleep(&self, duration: Duration) {
        lock(&self.record).slept += duration;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn scripts_change_files_and_all_is_recorded() {
        let host = FakeHost::new()
            .file("/etc/hostname", "old\n", 0o644)
            .answer(&["hostnamectl"], failed(1, "no"))
            .on_run(&["hostnamectl", "set-hostname"], |files, cmd| {
                files.put_file("/etc/hostname", cmd.argv[2].as_bytes(), 0o644);
                ok("done\n")
            });
        let before = host.files().clone();
        assert_eq!(host.query(&Query::version("k3s")).await.unwrap().status, 127);
        assert_eq!(*host.files(), before);
        host.run(&Cmd::new(["hostnamectl", "set-hostname", "new"])).await.unwrap();
        assert_eq!(host.files().text("/etc/hostname"), "new");
        let error = host.run(&Cmd::new(["hostnamectl", "x"])).await.unwrap_err();
        let error = error.downcast_ref::<CommandFailed>().unwrap();
        assert_eq!(error.status, Some(1));
        assert_eq!(error.tail, ["no"]);
        let error = host.run(&Cmd::new(["reboot"])).await.unwrap_err();
        assert_eq!(error.to_string(), "`reboot` is not installed");
        assert_eq!(host.changes(), ["run hostnamectl set-hostname new", "run hostnamectl x", "run reboot"]);
    }

    #[tokio::test]
    async fn getent_reads_the_fakes_own_database() {
        let host = FakeHost::new().file("/etc/passwd", "app:x:1001:1002::/:/bin/sh\n", 0o644);
        let found = host.query(&Query::getent("passwd", "app")).await.unwrap();
        assert_eq!(found.stdout, "app:x:1001:1002::/:/bin/sh\n");
        let found = host.query(&Query::getent("passwd", "root")).await.unwrap();
        assert_eq!(found.status, 2);
    }

    #[test]
    fn files_behave_like_files() {
        let host = FakeHost::new().link("/etc/link", "../opt/real");
        let path = Path::new("/etc/link");
        assert!(host.read_file(path).unwrap().is_none());
        host.write_file(Path::new("/opt/real"), b"x", 0o600, Owner { uid: 5, gid: 6 }).unwrap();
        assert_eq!(host.read_file(path).unwrap().unwrap(), b"x");
        assert_eq!(host.stat(path).unwrap().unwrap().file_type, FileType::Symlink);
        assert!(host.write_file(Path::new("/nowhere/x"), b"", 0o600, Owner::ROOT).is_err());
        host.create_dir(Path::new("/opt/d"), 0o755).unwrap();
        host.write_file(Path::new("/opt/d/f"), b"y", 0o644, Owner::ROOT).unwrap();
        host.rename(Path::new("/opt/d"), Path::new("/opt/e")).unwrap();
        assert_eq!(host.files().text("/opt/e/f"), "y");
        assert_eq!(host.list_dir(Path::new("/opt")).unwrap(), ["e", "real"]);
        assert!(host.remove_file(Path::new("/opt/e")).is_err());
        host.remove_dir_all(Path::new("/opt/e")).unwrap();
        assert!(host.stat(Path::new("/opt/e/f")).unwrap().is_none());
    }

    #[tokio::test]
    async fn artifacts_come_by_their_hash() {
        let host = FakeHost::new().artifact("binary");
        let mut pin =
            ArtifactPin { name: "k3s".into(), version: "1".into(), sha256: hash::sha256("binary"), url: None };
        let path = host.fetch(&pin).await.unwrap();
        assert_eq!(host.sha256(&path).unwrap().unwrap(), pin.sha256);
        pin.sha256 = hash::sha256("other");
        assert!(host.fetch(&pin).await.is_err());
    }
}
