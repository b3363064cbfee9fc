//! Sandbox hosts: throw-away blank Debian 12 machines on this machine (mmdebstrap + systemd-nspawn), with their own
//! PID 1, network and SSH server, for trying and testing everything.
//!
//! The module prints nothing: what happens is told to a callback, in lower-case phrases without a final full stop.
//!
//! Files: `<cache>/rootfs/<key>` is the cached root filesystem, `<cache>/sandbox/hosts/<name>` belongs to one host,
//! `/run/provision-sandbox` records machine-wide which address belongs to whom.

mod cgroup;
mod guest;
mod inventory;
mod machine;
mod name;
mod network;
mod outer;
mod rootfs;
mod ssh;
mod state;
mod tool;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use network::Lock;
use state::{Phase, Process, State};

pub use state::Status;

/// The name of the host when none is given.
pub const DEFAULT_NAME: &str = "sandbox";
/// The inventory file when none is given, relative to the project folder.
pub const DEFAULT_INVENTORY: &str = "inventory/sandbox.yml";

/// What `up` should make.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// A DNS label of at most 32 characters.
    pub name: String,
    /// Written for this host and all others that were made with the same path.
    pub inventory: PathBuf,
    /// The inventory's `artifacts:`, relative to the inventory's folder.
    pub artifacts: Vec<String>,
    /// No default route, and nothing lets it out or to this machine: it reaches its own network only.
    pub offline: bool,
}

impl Default for UpOptions {
    fn default() -> Self {
        Self {
            name: DEFAULT_NAME.into(),
            inventory: DEFAULT_INVENTORY.into(),
            artifacts: vec!["../sandbox/artifacts.yml".into()],
            offline: false,
        }
    }
}

/// A running host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    pub name: String,
    pub address: Ipv4Addr,
    /// Private key for `root`, `ops` (may use sudo) and `plain` (may not).
    pub identity_file: PathBuf,
    /// `ssh-ed25519 AAAA…`
    pub host_key: String,
    /// A known_hosts file with that key and nothing else.
    pub known_hosts: PathBuf,
    pub inventory: PathBuf,
    /// It was there before: `up` made nothing.
    pub already_running: bool,
}

/// One line of `list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostStatus {
    pub name: String,
    pub status: Status,
    /// Unknown for a host whose record is damaged.
    pub address: Option<Ipv4Addr>,
    pub inventory: Option<PathBuf>,
    /// Seconds since 1970.
    pub created: Option<u64>,
}

/// Where the progress of long steps is told.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// The sandbox hosts whose files are below one cache folder.
#[derive(Clone, Debug)]
pub struct Sandbox {
    cache_dir: PathBuf,
}

impl Sandbox {
    /// Hosts below `$XDG_CACHE_HOME/provision`, or `~/.cache/provision`.
    ///
    /// # Errors
    /// When neither variable is set.
    pub fn from_environment() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = set("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME is set: no place for sandbox hosts")?;
        Ok(Self::in_cache(base.join("provision")))
    }

    /// Hosts and root filesystems below `cache_dir` (absolute).
    pub fn in_cache(cache_dir: PathBuf) -> Self {
        Self { cache_dir }
    }

    fn hosts_dir(&self) -> PathBuf {
        self.cache_dir.join("sandbox/hosts")
    }

    fn host_dir(&self, name: &str) -> PathBuf {
        self.hosts_dir().join(name)
    }

    /// Makes a blank host and waits until it answers over SSH; a running one is returned as it is.
    /// Leftovers of killed runs are removed first. The inventory is (re)written in both cases.
    ///
    /// # Errors
    /// Missing programs or root, a bad name, no free address, an inventory that is not ours, or the reason why the
    /// host did not come up; in that case everything of it has been removed again.
    pub fn up(&self, options: &UpOptions, progress: Progress) -> Result<Host> {
        name::validate(&options.name)?;
        tool::require()?;
        let inventory = std::path::absolute(&options.inventory).context("bad inventory path")?;
        inventory::check(&inventory)?;
        let dir = self.host_dir(&options.name);

        let lock = Lock::acquire()?;
        self.sweep_locked(&lock, progress)?;
        match State::read(&dir)? {
            Some(state) if state.status() == Status::Running && state.offline != options.offline => bail!(
                "{} is running {} a network: remove it first (`provision sandbox down {}`)",
                state.name,
                if state.offline { "without" } else { "with" },
                state.name
            ),
            Some(state) if state.status() == Status::Running => {
                progress(&format!("{} is already running", state.name));
                return self.adopt(state, options, inventory);
            }
            Some(state) => bail!(
                "{} is being made right now by process {}: wait for it, or stop that process",
                state.name,
                state.owner.pid
            ),
            None => {}
        }
        let mut state = self.claim(&lock, options, inventory)?;
        let mut connected = lock.connect(network::gateway(state.address));
        if options.offline {
            connected = connected.and_then(|()| lock.isolate(state.address));
        }
        drop(lock);

        let made = connected.and_then(|()| self.make(&mut state, &dir, progress));
        let lock = Lock::acquire()?;
        let done = made.and_then(|()| {
            self.refresh(progress)?;
            Ok(self.host(&state, false))
        });
        if let Err(error) = &done {
            progress("removing what was made so far");
            if let Err(second) = self.remove(&lock, &options.name, progress).and_then(|()| lock.disconnect_if_unused())
            {
                bail!(
                    "sandbox host {} did not come up: {error:#}\nand its remains could not be removed: {second:#}",
                    options.name
                );
            }
        }
        done.with_context(|| format!("sandbox host {} did not come up", options.name))
    }

    /// A running host may have been asked for with another inventory than before.
    fn adopt(&self, mut state: State, options: &UpOptions, inventory: PathBuf) -> Result<Host> {
        let before = std::mem::replace(&mut state.inventory, inventory);
        state.artifacts.clone_from(&options.artifacts);
        state.write(&self.host_dir(&state.name))?;
        self.write_inventory(&before)?;
        self.write_inventory(&state.inventory)?;
        Ok(self.host(&state, true))
    }

    /// Takes an address and records the host, before anything else of it exists.
    fn claim(&self, lock: &Lock, options: &UpOptions, inventory: PathBuf) -> Result<State> {
        let address = lock.free_address()?;
        let state = State {
            name: options.name.clone(),
            phase: Phase::Starting,
            owner: Process::current()?,
            address,
            leader: None,
            cgroups: cgroup::paths_for(&network::machine(address))?,
            host_key: String::new(),
            inventory,
            artifacts: options.artifacts.clone(),
            offline: options.offline,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        };
        let dir = self.host_dir(&options.name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        state.write(&dir)?;
        lock.claim(address, &dir)?;
        Ok(state)
    }

    fn make(&self, state: &mut State, dir: &Path, progress: Progress) -> Result<()> {
        let cached = rootfs::cached(&self.cache_dir, progress)?;
        progress("laying out a blank root filesystem");
        rootfs::lay_out(&cached, dir, progress)?;
        state.host_key = guest::personalise(dir, &state.name, state.address, state.offline)?;
        progress("booting");
        let leader = machine::start(state, dir)?;
        state.leader = Some(leader);
        state.write(dir)?;
        machine::wait_for_ssh(leader, state.address, dir)?;
        progress("waiting until all services run");
        let failed = ssh::wait_booted(dir, state.address)?;
        if !failed.is_empty() {
            progress(&format!("it is up, but these units failed: {}", failed.join(", ")));
        }
        state.phase = Phase::Running;
        state.write(dir)
    }

    /// Removes a host with everything that belongs to it.
    ///
    /// # Errors
    /// An unknown name, a host that a live process is making, or what could not be removed.
    pub fn down(&self, name: &str, progress: Progress) -> Result<()> {
        let dir = self.existing(name)?;
        tool::require()?;
        let lock = Lock::acquire()?;
        if let Ok(Some(state)) = State::read(&dir)
            && state.status() == Status::Starting
            && state.owner != Process::current()?
        {
            bail!("{name} is being made right now by process {}: stop that process first", state.owner.pid);
        }
        progress(&format!("removing {name}"));
        self.remove(&lock, name, progress)?;
        self.refresh(progress)?;
        lock.disconnect_if_unused()
    }

    /// All hosts, sorted by name. Changes nothing.
    ///
    /// # Errors
    /// When the folder of hosts cannot be read.
    pub fn list(&self) -> Result<Vec<HostStatus>> {
        let mut hosts: Vec<_> = self
            .names()?
            .into_iter()
            .map(|name| match State::read(&self.host_dir(&name)) {
                Ok(Some(state)) => HostStatus {
                    status: state.status(),
                    address: Some(state.address),
                    inventory: Some(state.inventory),
                    created: Some(state.created),
                    name,
                },
                _ => HostStatus { name, status: Status::Dead, address: None, inventory: None, created: None },
            })
            .collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    /// The address of a running host.
    ///
    /// # Errors
    /// When there is no such host, or it does not run.
    pub fn address(&self, name: &str) -> Result<Ipv4Addr> {
        Ok(self.running(name)?.address)
    }

    /// Everything needed to reach a running host.
    ///
    /// # Errors
    /// When there is no such host, or it does not run.
    pub fn get(&self, name: &str) -> Result<Host> {
        Ok(self.host(&self.running(name)?, true))
    }

    /// Runs `argv` as root on a running host, on our own standard streams; without `argv` a login shell with a
    /// terminal. Returns its exit status (128 + n for signal n, 255 also when SSH itself fails).
    ///
    /// # Errors
    /// When there is no such host, it does not run, or ssh cannot be started.
    pub fn shell(&self, name: &str, argv: &[String]) -> Result<i32> {
        let state = self.running(name)?;
        ssh::shell(&self.host_dir(name), state.address, argv)
    }

    /// Removes dead hosts, records of hosts whose files are gone, and a half-built root filesystem.
    /// Returns the number of hosts.
    ///
    /// # Errors
    /// Missing root or programs, or what could not be removed.
    pub fn sweep(&self, progress: Progress) -> Result<usize> {
        tool::require()?;
        let lock = Lock::acquire()?;
        let removed = self.sweep_locked(&lock, progress)?;
        lock.disconnect_if_unused()?;
        Ok(removed)
    }

    fn sweep_locked(&self, lock: &Lock, progress: Progress) -> Result<usize> {
        let mut removed = 0;
        if rootfs::sweep(&self.cache_dir)? {
            progress("removed a half-built root filesystem");
        }
        for host in self.list()? {
            if host.status == Status::Dead {
                progress(&format!("removing what a stopped or killed run left of {}", host.name));
                self.remove(lock, &host.name, progress)?;
                removed += 1;
            }
        }
        // Hosts of any cache folder whose files somebody deleted by hand.
        for (address, dir) in lock.claims() {
            if !dir.join("state.json").exists() {
                progress(&format!("removing what is left of the host at {address}"));
                let cgroups = cgroup::find(&network::machine(address));
                machine::destroy(None, &cgroups, Some(address), &dir)?;
                lock.release(address)?;
                removed += 1;
            }
        }
        if removed > 0 {
            self.refresh(progress)?;
        }
        Ok(removed)
    }

    /// Removes one host of any state; the caller holds the lock.
    fn remove(&self, lock: &Lock, name: &str, progress: Progress) -> Result<()> {
        let dir = self.host_dir(name);
        let known = State::read(&dir);
        if let Err(error) = &known {
            progress(&format!("{error:#}; looking for its parts by address"));
        }
        let state = known.ok().flatten();
        let claims = lock.claims();
        let claimed = claims.iter().find(|(_, owner)| *owner == dir).map(|(address, _)| *address);
        let leader = state.as_ref().and_then(|state| state.leader).filter(|leader| leader.is_alive());
        let cgroups = match (&state, claimed) {
            (Some(state), _) if claimed.is_some() || leader.is_some() => state.cgroups.clone(),
            (None, Some(address)) => cgroup::find(&network::machine(address)),
            // Neither an address nor a process (the outer machine was restarted): a cgroup with the recorded name
            // belongs to somebody else by now.
            _ => Vec::new(),
        };
        machine::destroy(leader, &cgroups, claimed, &dir)?;
        rootfs::remove_tree(&dir)?;
        if let Some(address) = claimed {
            lock.release(address)?;
        }
        // Empty parents are ours too; a full one stays.
        let _ = fs::remove_dir(self.hosts_dir());
        let _ = fs::remove_dir(self.cache_dir.join("sandbox"));
        match state {
            Some(state) => self.write_inventory(&state.inventory),
            None => Ok(()),
        }
    }

    /// Brings the inventories and the running hosts' `/etc/hosts` up to date.
    fn refresh(&self, progress: Progress) -> Result<()> {
        let running = self.running_hosts()?;
        let mut inventories: Vec<_> = running.iter().map(|state| &state.inventory).collect();
        inventories.sort();
        inventories.dedup();
        for inventory in inventories {
            self.write_inventory(inventory)?;
        }
        for state in &running {
            let peers: Vec<_> = running
                .iter()
                .filter(|other| other.name != state.name)
                .map(|other| (other.name.clone(), other.address))
                .collect();
            // A host that its user has bent is no reason to fail another one.
            if let Err(error) = guest::update_peers(&self.host_dir(&state.name), &peers) {
                progress(&format!("{} does not learn the others' names: {error:#}", state.name));
            }
        }
        Ok(())
    }

    fn write_inventory(&self, path: &Path) -> Result<()> {
        let hosts: Vec<_> = self
            .running_hosts()?
            .into_iter()
            .filter(|state| state.inventory == path)
            .map(|state| (self.host_dir(&state.name), state))
            .collect();
        let hosts: Vec<_> = hosts.iter().map(|(dir, state)| (state.clone(), dir.as_path())).collect();
        inventory::write(path, &hosts)
    }

    fn running_hosts(&self) -> Result<Vec<State>> {
        let mut states = Vec::new();
        for name in self.names()? {
            if let Ok(Some(state)) = State::read(&self.host_dir(&name))
                && state.status() == Status::Running
            {
                states.push(state);
            }
        }
        Ok(states)
    }

    fn names(&self) -> Result<Vec<String>> {
        let dir = self.hosts_dir();
        match fs::read_dir(&dir) {
            Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", dir.display())),
        }
    }

    fn existing(&self, name: &str) -> Result<PathBuf> {
        name::validate(name)?;
        let dir = self.host_dir(name);
        if dir.is_dir() {
            return Ok(dir);
        }
        let mut names = self.names()?;
        names.sort();
        let known = match names.is_empty() {
            true => "there are none: `provision sandbox up` makes one".to_owned(),
            false => format!("there are: {}", names.join(", ")),
        };
        bail!("no sandbox host is called {name}; {known}")
    }

    fn running(&self, name: &str) -> Result<State> {
        let dir = self.existing(name)?;
        match State::read(&dir)? {
            Some(state) if state.status() == Status::Running => Ok(state),
            Some(state) if state.status() == Status::Starting => bail!(
                "sandbox host {name} is still being made (by process {}): try again when it is up",
                state.owner.pid
            ),
            _ => bail!("sandbox host {name} has stopped: `provision sandbox up {name}` makes a new, blank one"),
        }
    }

    fn host(&self, state: &State, already_running: bool) -> Host {
        let dir = self.host_dir(&state.name);
        Host {
            name: state.name.clone(),
            address: state.address,
            identity_file: guest::identity_file(&dir),
            host_key: state.host_key.clone(),
            known_hosts: guest::known_hosts(&dir),
            inventory: state.inventory.clone(),
            already_running,
        }
    }
}
