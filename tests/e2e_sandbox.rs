//! Real sandbox hosts: made, entered, broken and removed. Needs root; says so and passes without.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use provision::sandbox::{Host, Sandbox, Status, UpOptions};

/// Hosts of these tests only, on the cached root filesystem of the user.
struct Bench {
    dir: tempfile::TempDir,
    sandbox: Sandbox,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Bench {
    /// `None`, with a message, when the tests cannot run here.
    fn new() -> Option<Self> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: sandbox hosts need root");
            return None;
        }
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let cache = match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        }
        .join("provision");
        fs::create_dir_all(cache.join("rootfs")).unwrap();
        let dir = tempfile::Builder::new().prefix("e2e-").tempdir_in(&cache).unwrap();
        symlink(cache.join("rootfs"), dir.path().join("rootfs")).unwrap();
        Some(Self { sandbox: Sandbox::in_cache(dir.path().to_owned()), dir, _one_at_a_time: guard })
    }

    fn options(&self, name: &str) -> UpOptions {
        options(self.dir.path(), name)
    }

    fn up(&self, name: &str) -> Host {
        self.sandbox.up(&self.options(name), &mut |text| eprintln!("{name}: {text}")).unwrap()
    }

    fn down(&self, name: &str) {
        self.sandbox.down(name, &mut |text| eprintln!("{name}: {text}")).unwrap();
    }

    fn host_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join("sandbox/hosts").join(name)
    }

    /// Everything on the machine that still belongs to hosts of these tests.
    fn leftovers(&self, addresses: &[Ipv4Addr]) -> Vec<String> {
        let ours = self.dir.path().to_str().unwrap();
        let mut found = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(ours)).map(str::to_owned));
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            if arguments.contains(ours) {
                found.push(format!("process {arguments}"));
            }
        }
        for entry in ["sandbox", "inventory.yml"] {
            if self.dir.path().join(entry).exists() {
                found.push(format!("file {entry}"));
            }
        }
        for address in addresses {
            if Path::new("/run/provision-sandbox/addresses").join(address.to_string()).exists() {
                // Another user of this machine has it by now.
                continue;
            }
            let machine = format!("pv-{}", address.octets()[3]);
            for path in [format!("/sys/class/net/vb-{machine}"), format!("/run/systemd/nspawn/propagate/{machine}")] {
                if Path::new(&path).exists() {
                    found.push(path);
                }
            }
            let cgroups =
                Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &machine]).output().unwrap();
            found.extend(text(&cgroups).lines().map(str::to_owned));
        }
        if !Path::new("/run/provision-sandbox").exists() {
            if Path::new("/sys/class/net/pv-br0").exists() {
                found.push("bridge pv-br0".to_owned());
            }
            let rules = text(&Command::new("iptables-save").output().unwrap());
            found.extend(rules.lines().filter(|line| line.contains("provision-sandbox")).map(str::to_owned));
        }
        found
    }
}

fn options(dir: &Path, name: &str) -> UpOptions {
    UpOptions { name: name.to_owned(), inventory: dir.join("inventory.yml"), ..UpOptions::default() }
}

fn name(kind: &str) -> String {
    format!("t-{kind}-{}", std::process::id())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a shell line on `host`, as a client that knows only what `up` returned.
fn ssh_with(host: &Host, user: &str, known_hosts: &Path, line: &str) -> Output {
    Command::new("ssh")
        .args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
        .args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=/dev/null"])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
        .arg("-i")
        .arg(&host.identity_file)
        .arg(format!("{user}@{}", host.address))
        .arg(line)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn ssh(host: &Host, user: &str, line: &str) -> Output {
    ssh_with(host, user, &host.known_hosts, line)
}

fn succeeds(host: &Host, line: &str) -> String {
    let output = ssh(host, "root", line);
    assert!(output.status.success(), "{line}: {}{}", text(&output), String::from_utf8_lossy(&output.stderr));
    text(&output)
}

#[test]
fn a_host_lives_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let name = name("life");
    // Fills the cache, so that the second start shows what a new host takes.
    bench.up(&name);
    bench.down(&name);
    let started = Instant::now();
    let host = bench.up(&name);
    let took = started.elapsed();
    eprintln!("a new host took {took:?}");
    assert!(took < Duration::from_secs(15), "a new host took {took:?}");

    assert_eq!(succeeds(&host, "hostname").trim(), name);
    assert_eq!(succeeds(&host, "cat /proc/1/comm").trim(), "systemd");
    assert_eq!(succeeds(&host, "systemctl is-system-running").trim(), "running");
    assert!(succeeds(&host, "getent hosts $(hostname)").starts_with(&host.address.to_string()));

    // Blank: forwarding is off although the outer machine has to have it on.
    assert_eq!(succeeds(&host, "cat /proc/sys/net/ipv4/ip_forward").trim(), "0");

    let key_mode = fs::metadata(&host.identity_file).unwrap().permissions().mode();
    assert_eq!(key_mode & 0o777, 0o600);
    let inventory = fs::read_to_string(&host.inventory).unwrap();
    assert!(inventory.contains(&format!("  {name}:\n    transport: ssh\n")), "{inventory}");
    assert!(inventory.contains(&host.host_key), "{inventory}");

    // Another host key at this address is refused.
    let wrong = bench.dir.path().join("wrong_known_hosts");
    let other_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIfstA9GWdx1EfxS3cbPfDZpOWJAIU5rOTZtEP5ui+7p";
    fs::write(&wrong, format!("{} {other_key}\n", host.address)).unwrap();
    assert_eq!(ssh_with(&host, "root", &wrong, "true").status.code(), Some(255));

    assert!(ssh(&host, "ops", "sudo -n id -u").status.success());
    assert!(!ssh(&host, "plain", "sudo -n id -u").status.success());

    // What Kubernetes needs: cgroups it can write, / that propagates, a file system that takes overlays.
    succeeds(&host, "set -e; for c in /sys/fs/cgroup/*/; do mkdir $c/probe; rmdir $c/probe; done");
    assert_eq!(succeeds(&host, "findmnt -no PROPAGATION /").trim(), "shared");
    succeeds(
        &host,
        "set -e; mkdir -p /var/lib/o/l /var/lib/o/u /var/lib/o/w /var/lib/o/m; \
         mount -t overlay o -o lowerdir=/var/lib/o/l,upperdir=/var/lib/o/u,workdir=/var/lib/o/w /var/lib/o/m",
    );
    // Packages, as on a VM.
    succeeds(&host, "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y tree");
    succeeds(&host, "tree --version");

    let status = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        bench.sandbox.shell(&name, &words).unwrap()
    };
    assert_eq!(status(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(status(&["test", "it's $HOME", "=", "it's $HOME"]), 0);

    let again = bench.up(&name);
    assert!(again.already_running);
    assert_eq!((again.address, &again.host_key), (host.address, &host.host_key));

    // A reboot keeps what was done.
    let boot = succeeds(&host, "ps -o lstart= -p 1; stat -c %Y /proc/1");
    let _ = ssh(&host, "root", "systemctl reboot");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = ssh(&host, "root", "ps -o lstart= -p 1; stat -c %Y /proc/1");
        if now.status.success() && text(&now) != boot {
            break;
        }
        assert!(Instant::now() < deadline, "the host did not come back from a reboot");
        std::thread::sleep(Duration::from_millis(200));
    }
    succeeds(&host, "tree --version");

    bench.down(&name);
    assert_eq!(bench.leftovers(&[host.address]), Vec::<String>::new());
    let error = bench.sandbox.address(&name).unwrap_err().to_string();
    assert!(error.contains("no sandbox host is called"), "{error}");
}

#[test]
fn two_hosts_find_each_other() {
    let Some(bench) = Bench::new() else { return };
    let (first, second) = (name("a"), name("b"));
    let (a, b) = (bench.up(&first), bench.up(&second));
    assert_ne!(a.address, b.address);
    succeeds(&a, &format!("ping -c 1 -W 2 {second}"));
    succeeds(&b, &format!("ping -c 1 -W 2 {first}"));
    // Their cgroups are not the same, in any hierarchy.
    let cgroups = |name| fs::read_to_string(bench.host_dir(name).join("cgroups")).unwrap();
    for line in cgroups(&first).lines() {
        assert!(!cgroups(&second).contains(line), "{line} is shared");
    }
    bench.down(&first);
    let hosts = succeeds(&b, "cat /etc/hosts");
    assert!(!hosts.contains(&first), "{hosts}");
    let inventory = fs::read_to_string(&b.inventory).unwrap();
    assert!(inventory.contains(&second) && !inventory.contains(&first), "{inventory}");
    bench.down(&second);
    assert_eq!(bench.leftovers(&[a.address, b.address]), Vec::<String>::new());
}

#[test]
fn a_host_whose_supervisor_was_killed_is_removed_whole() {
    let Some(bench) = Bench::new() else { return };
    let name = name("half");
    let host = bench.up(&name);
    let leader = fs::read_to_string(bench.host_dir(&name).join("leader.pid")).unwrap();
    let kill = Command::new("kill").args(["-KILL", leader.trim()]).status().unwrap();
    assert!(kill.success());
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.sandbox.list().unwrap()[0].status != Status::Dead {
        assert!(Instant::now() < deadline, "the host is still taken for alive");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ne!(bench.leftovers(&[host.address]), Vec::<String>::new());
    bench.down(&name);
    assert_eq!(bench.leftovers(&[host.address]), Vec::<String>::new());
}

#[test]
fn a_killed_up_is_cleared_away_by_the_next() {
    let Some(bench) = Bench::new() else { return };
    let name = name("kill");
    bench.up(&name);
    bench.down(&name);
    // Both are more than a second before the end of `up`.
    for point in ["laying out", "booting"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_of_a_killed_up", "--nocapture"])
            .env("PROVISION_TEST_SANDBOX_DIR", bench.dir.path())
            .env("PROVISION_TEST_SANDBOX_NAME", &name)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let reached = lines.map_while(Result::ok).any(|line| line.contains(point));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(reached, "the child never came to {point:?}");
        assert_eq!(bench.sandbox.list().unwrap()[0].status, Status::Dead, "at {point:?}");
    }
    let host = bench.up(&name);
    assert!(!host.already_running);
    assert_eq!(succeeds(&host, "hostname").trim(), name);
    bench.down(&name);
    assert_eq!(bench.leftovers(&[host.address]), Vec::<String>::new());
}

/// Not a test by itself: the process that `a_killed_up_is_cleared_away_by_the_next` kills.
#[test]
fn child_of_a_killed_up() {
    let (Some(dir), Ok(name)) =
        (std::env::var_os("PROVISION_TEST_SANDBOX_DIR"), std::env::var("PROVISION_TEST_SANDBOX_NAME"))
    else {
        return;
    };
    let dir = PathBuf::from(dir);
    Sandbox::in_cache(dir.clone()).up(&options(&dir, &name), &mut |text| eprintln!("{text}")).unwrap();
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_is_made() {
    let Some(bench) = Bench::new() else { return };
    let refused = |options: &UpOptions| {
        let error = bench.sandbox.up(options, &mut |_| {}).unwrap_err();
        format!("{error:#}")
    };
    assert!(refused(&bench.options("Bad Name")).contains("contains 'B'"));
    let nowhere = UpOptions { inventory: bench.dir.path().join("none/sandbox.yml"), ..bench.options("fine") };
    assert!(refused(&nowhere).contains("there is no folder"));
    let error = bench.sandbox.down("nobody", &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("no sandbox host is called nobody; there are none"), "{error}");
    assert_eq!(bench.leftovers(&[]), Vec::<String>::new());
}
