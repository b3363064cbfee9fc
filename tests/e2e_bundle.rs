//! A bundle made on one machine brings up a host that reaches nothing. Needs root and the release binary: `scripts/test` sets
//! PROVISION_BIN; without it this says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::Value;

const HOST: &str = "e2e-offline";
const STAGES: &str = "system,k3s,tools,images,minio,postgres,mlflow,inference";

/// Two controllers with the same project: one that has a network and the user's cache, and one that has neither.
struct World {
    folder: tempfile::TempDir,
    binary: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        // Also when a step failed: nothing stays behind.
        let _ = self.offline(&["sandbox", "down", HOST]).output();
    }
}

fn cache() -> PathBuf {
    match std::env::var_os("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
    }
    .join("provision")
}

impl World {
    fn new(binary: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
        let names = String::from_utf8(listed.stdout).unwrap();
        for name in names.split('\0').filter(|name| !name.is_empty() && root.join(name).exists()) {
            let to = folder.path().join("project").join(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(root.join(name), to).unwrap();
        }
        // The sandbox's own packages are the machine's business; everything else of the second controller's cache is empty.
        let own = folder.path().join("cache/provision");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::create_dir_all(cache().join("rootfs")).unwrap();
        symlink(cache().join("rootfs"), own.join("rootfs")).unwrap();
        Self { folder, binary }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn online(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .current_dir(self.path("project"))
            .env("PROVISION_IDENTITY", self.path("identity.txt"))
            .env("PROVISION_BUNDLE_KEY", self.path("bundle.key"))
            .env("PROVISION_INVENTORY", format!("inventory/{HOST}.yml"))
            .env_remove("PROVISION_BUNDLE")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// The controller without a network: whatever it would ask goes to a closed port, and it has no compiler and no package
    /// manager to build anything with.
    fn offline(&self, arguments: &[&str]) -> Command {
        let mut command = self.online(arguments);
        let nowhere = "http://127.0.0.1:9";
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, nowhere);
        }
        for name in ["no_proxy", "NO_PROXY"] {
            command.env(name, "");
        }
        command.env("XDG_CACHE_HOME", self.path("cache")).env("CARGO_HOME", self.path("none")).env("GOPROXY", "off");
        command
    }

    /// A `PATH` with ssh and what it needs, and nothing that builds.
    fn bare_path(&self) -> PathBuf {
        let bin = self.path("bin");
        if !bin.exists() {
            std::fs::create_dir(&bin).unwrap();
            for tool in ["ssh", "sh", "env"] {
                let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
                symlink(String::from_utf8(found.stdout).unwrap().trim(), bin.join(tool)).unwrap();
            }
        }
        bin
    }

    fn with_bundle(&self, file: &Path, arguments: &[&str]) -> Command {
        let mut command = self.offline(arguments);
        command.arg("--bundle").arg(file).env("PATH", self.bare_path());
        command
    }

    fn shell(&self, script: &str) -> (i32, String) {
        run(&mut self.offline(&["sandbox", "shell", HOST, "--", "sh", "-c", script]))
    }

    /// Every file below these folders, with size, mode, owner and time of change.
    fn tree(&self, folders: &str) -> String {
        let script = "for d in FOLDERS; do find $d -xdev \\( -path /var/log -o -path /run \\) -prune -o -printf '%p %s %m %U %T@ %y\\n'; done | sort | sha256sum";
        let (code, text) = self.shell(&script.replace("FOLDERS", folders));
        assert_eq!(code, 0, "{text}");
        text
    }
}

/// All of a host that nothing runs on.
const BLANK: &str = "/ /var";

/// Where this program changes a host; a running cluster writes to its own folders all the time.
const OURS: &str = "/etc /usr /opt /root /home /var/lib/provision /var/lib/dpkg /var/lib/apt /var/cache/apt";

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(command: &mut Command) -> (i32, String) {
    let start = Instant::now();
    let output = command.output().unwrap();
    let shown: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    eprintln!("-- {} -> {:?} in {:.1} s", shown.join(" "), output.status.code(), start.elapsed().as_secs_f64());
    (output.status.code().unwrap_or(-1), both(&output))
}

#[track_caller]
fn expect(code: i32, command: &mut Command) -> String {
    let (got, text) = run(command);
    assert_eq!(got, code, "{text}");
    text
}

fn summary(text: &str) -> Value {
    let last = text.lines().rfind(|line| line.contains("\"summary\"")).unwrap();
    serde_json::from_str(last).unwrap()
}

#[test]
fn a_bundle_brings_up_a_host_that_reaches_nothing() {
    let Some(binary) = std::env::var_os("PROVISION_BIN").map(PathBuf::from) else {
        eprintln!("skipped: PROVISION_BIN names no release binary; `make test` runs this");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: sandbox hosts need root");
        return;
    }
    let world = World::new(binary);
    let file = world.path("site.tar.zst");
    let bundle = file.to_str().unwrap();
    // The inventory, which names the host, comes with the host; the bundle is the same for any of them.
    expect(0, &mut world.offline(&["sandbox", "up", HOST, "--offline"]));
    expect(0, &mut world.online(&["secret", "init"]));
    expect(2, &mut world.online(&["bundle", "create", bundle, "--only", STAGES]));
    let public_key = expect(0, &mut world.online(&["bundle", "keygen"])).lines().next().unwrap().to_owned();
    expect(0, &mut world.online(&["bundle", "create", bundle, "--only", STAGES]));
    the_file_is_the_same_again(&world, &file);
    reaches_nothing(&world);
    what_is_tampered_with_is_refused(&world, &file);

    let own_only = |text: &str| assert!(!text.contains("not-in-the-bundle"), "{text}");
    own_only(&expect(3, &mut world.with_bundle(&file, &["plan", "--public-key", &public_key, "--only", STAGES])));
    let text = expect(0, &mut world.with_bundle(&file, &["up", "--only", STAGES, "--json"]));
    own_only(&text);
    assert_eq!(summary(&text)["ok"], true);
    let text = expect(0, &mut world.with_bundle(&file, &["up", "--only", STAGES, "--json"]));
    assert_eq!(summary(&text)["changed"], 0, "{text}");
    expect(0, &mut world.with_bundle(&file, &["plan", "--only", STAGES]));
    expect(0, &mut world.with_bundle(&file, &["healthcheck", "--only", STAGES]));
    a_prediction(&world);
    reaches_nothing(&world);

    // The packages came from the bundle: the host has no list of any mirror, and nothing of the way they came is left.
    let (code, text) = world.shell(
        "ls /var/lib/apt/lists | grep -c Packages; test ! -e /var/lib/provision/packages && dpkg -s conntrack ufw",
    );
    assert!(code == 0 && text.starts_with('0'), "{text}");
    what_the_bundle_lacks_is_named(&world, &file);
    after_a_reboot_the_node_is_there(&world, &file);
}

fn the_file_is_the_same_again(world: &World, file: &Path) {
    let before = std::fs::read(file).unwrap();
    expect(0, &mut world.online(&["bundle", "create", file.to_str().unwrap(), "--only", STAGES]));
    assert!(before == std::fs::read(file).unwrap(), "the same content made another file");
    expect(0, &mut world.online(&["bundle", "verify", file.to_str().unwrap()]));
    let text = expect(0, &mut world.online(&["bundle", "list", file.to_str().unwrap()]));
    for name in ["k3s-airgap-images", "download /usr/local/bin/k3s", "provision.local/rul", "conntrack"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    let folder = file.parent().unwrap();
    let left = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".bundle"));
    assert_eq!(left.count(), 0);
}

/// Neither name server nor any other address beyond its own network answers, and neither does the machine that it runs on.
fn reaches_nothing(world: &World) {
    let outer = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let servers = outer.lines().filter_map(|line| line.strip_prefix("nameserver ")).map(str::trim);
    let servers: Vec<_> = servers.filter(|server| server.contains('.')).map(str::to_owned).collect();
    // Written by the test where the outer machine asks no other: then its own addresses on the bridge do.
    let gateway = "10.99.0.1".to_owned();
    for address in servers.iter().chain([&gateway]) {
        let (code, text) = world.shell(&format!("ping -c 1 -W 2 {address}"));
        assert!(code != 0, "{address} answers:\n{text}");
        for port in [53, 80, 443] {
            let script = format!("timeout 3 bash -c '</dev/tcp/{address}/{port}'");
            let (code, text) = world.shell(&script);
            assert!(code != 0, "{address}:{port} answers:\n{text}");
        }
    }
    let (code, text) = world.shell("timeout 8 getent ahosts www.example.com");
    assert!(code != 0, "a name was resolved:\n{text}");
    // The test can fail: its own network is there.
    let (code, text) = world.shell("ip -4 -o address show dev host0 && ping -c 1 -W 2 127.0.0.1");
    assert_eq!(code, 0, "{text}");
}

fn what_is_tampered_with_is_refused(world: &World, file: &Path) {
    let before = world.tree(BLANK);
    let good = std::fs::read(file).unwrap();
    let broken = world.path("broken.tar.zst");
    let refused = |bytes: &[u8], expected: &[&str]| {
        std::fs::write(&broken, bytes).unwrap();
        let text = expect(1, &mut world.with_bundle(&broken, &["up", "--only", STAGES]));
        for part in expected {
            assert!(text.contains(part), "{part} in {text}");
        }
    };
    for part in [2, 3, 5] {
        let mut bytes = good.clone();
        let at = good.len() - good.len() / part;
        bytes[at] ^= 1;
        refused(&bytes, &["is refused", "is damaged", "nothing was changed"]);
    }
    refused(&good[..good.len() - 10_000_000], &["is refused: it ends in the middle of packages/"]);
    expect(0, &mut world.online(&["bundle", "keygen", "--secret-key", world.path("other.key").to_str().unwrap()]));
    let other = world.path("other.pub");
    let text = expect(1, &mut world.with_bundle(file, &["up", "--public-key", other.to_str().unwrap()]));
    assert!(text.contains("manifest.json.minisig: it is signed by the key"), "{text}");
    assert_eq!(world.tree(BLANK), before, "a refused bundle changed the host");
}

fn a_prediction(world: &World) {
    let address = expect(0, &mut world.offline(&["sandbox", "address", HOST]));
    let body = format!("{{\"features\": {:?}}}", [0.5; 16]);
    let url = format!("http://{}:30800/predict", address.trim());
    let output = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "-H", "content-type: application/json", "-d", &body, &url])
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", both(&output)));
    assert!(answer["model_version"].is_string(), "{answer}");
}

/// An image, an artifact and a package that no bundle has: each is named, with where it is asked for, before anything is done.
fn what_the_bundle_lacks_is_named(world: &World, file: &Path) {
    let stages = world.path("project/stages");
    let inventory = std::fs::read_to_string(world.path(&format!("project/inventory/{HOST}.yml"))).unwrap();
    assert!(inventory.contains("dummy_default_route: true"), "{inventory}");
    let before = world.tree(OURS);
    let refused = |resource: &str, code: i32, expected: &[&str]| {
        let stage = format!("stage: extra\nneeds: [k3s]\nresources:\n  - {resource}\n");
        std::fs::write(stages.join("extra.yml"), stage).unwrap();
        let text = expect(code, &mut world.with_bundle(file, &["up", "--only", "extra"]));
        for part in expected {
            assert!(text.contains(part), "{part} in {text}");
        }
    };
    refused(
        "download: { artifact: helm3, path: /tmp/helm }",
        2,
        &["stages/extra.yml:4:5", "artifact helm3", "is not in the bundle", "bundle create"],
    );
    std::fs::create_dir_all(world.path("project/templates/extra")).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: a, namespace: default }\nspec:\n  initContainers: [{ name: i, image: 'ghcr.io/a/b:1' }]\n  containers: [{ name: c, image: '{{ image.rul }}', args: ['--image=busybox:1.99'] }]\n";
    std::fs::write(world.path("project/templates/extra/pod.yml"), pod).unwrap();
    refused(
        "manifest: extra/pod.yml",
        2,
        &[
            "no image of the bundle is ghcr.io/a/b:1; manifest extra/pod.yml names it (Pod default/a: spec.initContainers[0].image)",
            "docker.io/library/busybox:1.99",
        ],
    );
    refused("image: { artifact: alpine }", 2, &["image alpine", "is not in the bundle"]);
    refused("apt: [hello]", 2, &["stages/extra.yml:4:5", "the bundle does not have the packages hello"]);
    assert_eq!(world.tree(OURS), before, "a refused run changed the host");
    std::fs::remove_file(stages.join("extra.yml")).unwrap();
}

fn after_a_reboot_the_node_is_there(world: &World, file: &Path) {
    let _ = world.shell("systemctl reboot");
    std::thread::sleep(std::time::Duration::from_secs(5));
    let text = expect(0, &mut world.with_bundle(file, &["up", "--only", STAGES, "--json"]));
    assert_eq!(summary(&text)["ok"], true, "{text}");
}
