//! The stage `tools` and a chart on a sandbox host, through the command line. Needs root and the binary that PROVISION_BIN names;
//! without them it says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::Value;

const HOST: &str = "e2e-helm";

/// A copy of the project's tracked files with `tests/helm-demo` laid over it, and an identity of its own.
struct World {
    folder: tempfile::TempDir,
    binary: PathBuf,
    printed: String,
}

impl Drop for World {
    fn drop(&mut self) {
        // Also when a step failed: nothing stays behind.
        let _ = self.command(&["sandbox", "down", HOST]).output();
    }
}

impl World {
    fn new(binary: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
        for name in String::from_utf8(listed.stdout).unwrap().split('\0').filter(|name| root.join(name).is_file()) {
            let to = folder.path().join(name.strip_prefix("tests/helm-demo/").unwrap_or(name));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(root.join(name), to).unwrap();
        }
        let defaults = folder.path().join("inventory/defaults.yml");
        let mut text = std::fs::read_to_string(&defaults).unwrap();
        text.push_str("demo:\n  replicas: 1\n  image: docker.io/rancher/mirrored-pause:3.10.2\n");
        std::fs::write(defaults, text).unwrap();
        Self { folder, binary, printed: String::new() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PROVISION_IDENTITY", self.folder.path().join("identity.txt"))
            .env("PROVISION_INVENTORY", format!("inventory/{HOST}.yml"))
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs and insists on the exit code.
    #[track_caller]
    fn expect(&mut self, code: i32, arguments: &[&str]) -> String {
        let start = Instant::now();
        let output = self.command(arguments).output().unwrap();
        eprintln!("-- provision {} in {:.1} s", arguments.join(" "), start.elapsed().as_secs_f64());
        let text = both(&output);
        assert_eq!(output.status.code(), Some(code), "provision {}:\n{text}", arguments.join(" "));
        self.printed.push_str(&text);
        text
    }

    /// Resources of a plan or run, as `stage/resource: what`.
    #[track_caller]
    fn resources(&mut self, code: i32, arguments: &[&str], what: &str) -> Vec<String> {
        let text = self.expect(code, &[arguments, &["--json"]].concat());
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["type"] == "resource" && line[what] != "none" && line[what] != "unchanged")
            .map(|line| {
                let word = |key: &str| line[key].as_str().unwrap().to_owned();
                format!("{}/{}: {}", word("stage"), word("resource"), word(what))
            })
            .collect()
    }

    fn shell(&mut self, script: &str) -> String {
        let output = self.command(&["sandbox", "shell", HOST, "--", "sh", "-c", script]).output().unwrap();
        let text = both(&output);
        assert!(output.status.success(), "{script}: {text}");
        text
    }

    /// Path, size, mode, owner and time of change of every file on the host's disks but logs, and of what we keep in memory.
    fn tree(&mut self) -> String {
        self.shell(
            "for d in / /var; do find $d -xdev \\( -path /var/log -o -path /run -o -path /var/lib/rancher -o -path /var/lib/kubelet \\) -prune -o -printf '%p %s %m %U %T@ %y\\n'; done | sort > /dev/shm/tree; \
             ls -R /run/provision | grep -i helm >> /dev/shm/tree; sha256sum < /dev/shm/tree",
        )
    }
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn tools_and_a_chart_on_a_host() {
    let Some(binary) = std::env::var_os("PROVISION_BIN").map(PathBuf::from) else {
        eprintln!("skipped: PROVISION_BIN names no binary; `make test` runs this");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: sandbox hosts need root");
        return;
    }
    let mut world = World::new(binary);
    let only = "--only=system,k3s,tools,helm-demo";
    let demo = "--only=tools,helm-demo";
    world.expect(0, &["sandbox", "up", HOST, "-i", &format!("inventory/{HOST}.yml")]);
    world.expect(0, &["secret", "init"]);
    let lines = world.resources(3, &["plan", only], "action");
    assert!(lines.contains(&"helm-demo/helm helm-demo/demo: pending".into()), "{lines:?}");
    world.expect(0, &["up", only]);
    a_plan_changes_nothing(&mut world, demo);

    // One value: the plan names it, the run does it, nothing else.
    let more = ["--set=demo.replicas=2", demo];
    let text = world.expect(3, &[&["plan"], &more[..]].concat());
    for part in ["values.replicas: 1 -> 2", "spec.replicas: 1 -> 2", "Widget helm-demo/demo", "spec.size: 1 -> 2"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("ConfigMap") && !text.contains("Secret"), "{text}");
    let changed = world.resources(0, &[&["up"], &more[..]].concat(), "result");
    assert_eq!(changed, ["helm-demo/helm helm-demo/demo: changed"]);

    // An image that is nowhere: the reason, then back.
    let broken = ["up", "--set=demo.replicas=2", "--set=demo.image=docker.io/library/nope:1", demo];
    let text = world.expect(1, &broken);
    assert!(text.contains("ErrImageNeverPull") && text.contains("which is ready"), "{text}");
    assert_eq!(world.resources(0, &[&["plan"], &more[..]].concat(), "action"), Vec::<String>::new());

    // As somebody who has just logged in.
    assert!(world.shell("bash --login -c 'helm status demo -n helm-demo'").contains("STATUS: deployed"));
    another_helm(&mut world, demo);
    let password = world.shell("k3s kubectl get secret -n helm-demo demo -o jsonpath='{.data.password}' | base64 -d");
    assert!(password.len() > 8 && !world.printed.contains(password.trim()), "a secret was printed");
    world.expect(0, &["sandbox", "down", HOST]);
}

fn a_plan_changes_nothing(world: &mut World, demo: &str) {
    let before = world.tree();
    assert_eq!(world.resources(0, &["plan", demo], "action"), Vec::<String>::new());
    assert_eq!(world.tree(), before, "a plan changed something on the host");
}

/// Another artifact behind the same program: shown by the plan, applied by the next run, and the release stays as it is.
fn another_helm(world: &mut World, demo: &str) {
    let older = ["--set=tools.helm=helm3", "--set=demo.replicas=2", demo];
    let lines = world.resources(3, &[&["plan"], &older[..]].concat(), "action");
    assert_eq!(lines, ["tools/archive helm3 in /usr/local/bin: create"]);
    let changed = world.resources(0, &[&["up"], &older[..]].concat(), "result");
    assert_eq!(changed, ["tools/archive helm3 in /usr/local/bin: changed"]);
    assert!(world.shell("helm version --short").starts_with("v3."));
}
