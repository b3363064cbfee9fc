//! From a blank sandbox host to a real prediction, and what may happen on the way. Needs root and the release binary:
//! `scripts/test` sets PROVISION_BIN; without it this says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const HOST: &str = "e2e";

/// A copy of the project's tracked files, as a fresh clone would have them, with an identity of its own.
struct World {
    folder: tempfile::TempDir,
    binary: PathBuf,
    /// Everything that was printed, to be searched for secrets.
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
        for name in String::from_utf8(listed.stdout).unwrap().split('\0').filter(|name| !name.is_empty()) {
            let to = folder.path().join(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            if root.join(name).exists() {
                std::fs::copy(root.join(name), to).unwrap();
            }
        }
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

    fn run(&mut self, arguments: &[&str]) -> (i32, String) {
        let start = Instant::now();
        let output = self.command(arguments).output().unwrap();
        let text = both(&output);
        eprintln!(
            "-- provision {} -> {:?} in {:.1} s",
            arguments.join(" "),
            output.status.code(),
            start.elapsed().as_secs_f64()
        );
        self.printed.push_str(&text);
        (output.status.code().unwrap_or(-1), text)
    }

    /// Runs and insists on the exit code.
    #[track_caller]
    fn expect(&mut self, code: i32, arguments: &[&str]) -> String {
        let (got, text) = self.run(arguments);
        assert_eq!(got, code, "provision {}:\n{text}", arguments.join(" "));
        text
    }

    #[track_caller]
    fn json(&mut self, code: i32, arguments: &[&str]) -> Vec<Value> {
        let text = self.expect(code, &[arguments, &["--json"]].concat());
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn shell(&mut self, script: &str) -> (i32, String) {
        let output = self.command(&["sandbox", "shell", HOST, "--", "sh", "-c", script]).output().unwrap();
        (output.status.code().unwrap_or(-1), both(&output))
    }

    /// Path, size, mode, owner and time of change of every file on the host's disks but logs (and `/run`, where logins are noted).
    fn tree(&mut self) -> String {
        let (code, text) = self.shell(
            "for d in / /var; do find $d -xdev \\( -path /var/log -o -path /run \\) -prune -o -printf '%p %s %m %U %T@ %y\\n'; done | sort | sha256sum",
        );
        assert_eq!(code, 0, "{text}");
        text
    }
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Resources with something to do, as `stage/resource`.
fn to_do(lines: &[Value]) -> Vec<String> {
    let mut named: Vec<_> = lines
        .iter()
        .filter(|line| line["type"] == "resource" && line["action"] != "none")
        .map(|line| format!("{}/{}", line["stage"].as_str().unwrap(), line["resource"].as_str().unwrap()))
        .collect();
    named.sort();
    named
}

fn changed(lines: &[Value]) -> Vec<String> {
    let mut named: Vec<_> = lines
        .iter()
        .filter(|line| line["type"] == "resource" && line["result"] == "changed")
        .map(|line| format!("{}/{}", line["stage"].as_str().unwrap(), line["resource"].as_str().unwrap()))
        .collect();
    named.sort();
    named
}

#[test]
fn from_a_blank_host_to_a_prediction() {
    let Some(binary) = std::env::var_os("PROVISION_BIN").map(PathBuf::from) else {
        eprintln!("skipped: PROVISION_BIN names no release binary; `make test` runs this");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: sandbox hosts need root");
        return;
    }
    let mut world = World::new(binary);
    world.expect(0, &["sandbox", "up", HOST, "-i", &format!("inventory/{HOST}.yml")]);
    world.expect(0, &["secret", "init"]);
    a_plan_of_a_blank_host_changes_nothing(&mut world);
    killed_runs_are_continued(&mut world);
    the_second_run_changes_nothing(&mut world);
    it_predicts(&mut world);
    three_faults_are_named_and_repaired(&mut world);
    stages_by_name(&mut world);
    a_stopped_cluster_is_a_broken_promise(&mut world);
    unreachable_in_every_way(&mut world);
    no_secret_left(&mut world);
    world.expect(0, &["sandbox", "down", HOST]);
}

fn a_plan_of_a_blank_host_changes_nothing(world: &mut World) {
    // The first plan brings the agent; it lives in memory, so even that leaves the disks alone.
    let before = world.tree();
    let lines = world.json(3, &["plan"]);
    assert_eq!(world.tree(), before, "plan changed a file of the host");
    assert_eq!(lines[0]["schema"], 1);
    let valid = world.json(0, &["stage", "list"]);
    for stage in valid.iter().filter(|line| line["enabled"] == true) {
        assert!(lines.iter().any(|line| line["stage"] == stage["stage"]), "{} is not in the plan", stage["stage"]);
    }
    let summary = lines.last().unwrap();
    assert!(summary["create"].as_u64().unwrap() > 5 && summary["pending"].as_u64().unwrap() > 3, "{summary}");
}

fn killed_runs_are_continued(world: &mut World) {
    // The controller dies in the middle.
    let mut up = world.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    up.kill().unwrap();
    up.wait().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let (_, left) = world.shell("pgrep -af 'provision.*agent' | grep -v pgrep; true");
    assert_eq!(left.trim(), "", "an agent outlived its controller");
    // The agent dies in the middle.
    let up = world.command(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(6));
    world.shell("pkill -9 -f 'provision.*agent-'; true");
    let output = up.wait_with_output().unwrap();
    let text = both(&output);
    // It may have been quicker than the kill; then this was a whole run.
    assert!(output.status.success() || text.contains("run the same command again"), "{text}");
    let lines = world.json(0, &["up"]);
    let summary = lines.last().unwrap();
    assert_eq!((&summary["ok"], &summary["failed"]), (&Value::Bool(true), &Value::from(0)), "{summary}");
}

fn the_second_run_changes_nothing(world: &mut World) {
    let text = world.expect(0, &["plan"]);
    assert!(text.contains("0 to create, 0 to change, 0 to delete, 0 to run, 0 pending"), "{text}");
    let lines = world.json(0, &["up"]);
    assert_eq!(changed(&lines), Vec::<String>::new());
    assert_eq!(lines.last().unwrap()["changed"], 0);
}

fn it_predicts(world: &mut World) {
    let address = world.expect(0, &["sandbox", "address", HOST]);
    let row: Vec<f32> = (0..16).map(|column| column as f32 / 16.0).collect();
    let window: Vec<_> = (0..30).map(|_| row.clone()).collect();
    let body = serde_json::json!({"sequence": window}).to_string();
    let url = format!("http://{}:30800/predict", address.trim());
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "-H", "content-type: application/json", "-d", &body, &url])
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", both(&output)));
    assert!(
        answer["rul"].is_number() && answer["model_version"].is_string() && answer["is_stub"].is_boolean(),
        "{answer}"
    );
}

fn three_faults_are_named_and_repaired(world: &mut World) {
    let (code, text) = world.shell(
        "kubectl delete deployment -n mlops inference && sed -i s/kernel.panic.*/kernel.panic=99/ /etc/sysctl.d/90-provision.conf && systemctl stop logrotate.timer",
    );
    assert_eq!(code, 0, "{text}");
    let expected = [
        "inference/manifest inference/inference.yml",
        "system/sysctl 90-provision",
        "system/systemd_unit logrotate.timer",
    ];
    let planned = world.json(3, &["plan"]);
    assert_eq!(to_do(&planned), expected);
    let done = world.json(0, &["up"]);
    assert_eq!(changed(&done), expected);
    world.expect(0, &["plan"]);
}

fn stages_by_name(world: &mut World) {
    world.expect(0, &["stage", "rerun", "inference"]);
    let text = world.expect(2, &["stage", "rerun", "inferrence"]);
    assert!(text.contains("did you mean \"inference\"?"), "{text}");
    let text = world.expect(0, &["status"]);
    assert!(text.contains("last run") && text.contains("inference"), "{text}");
}

fn a_stopped_cluster_is_a_broken_promise(world: &mut World) {
    world.expect(0, &["healthcheck"]);
    world.shell("systemctl stop k3s");
    let lines = world.json(1, &["healthcheck"]);
    let broken: Vec<_> =
        lines.iter().filter(|line| line["status"] == "fail").map(|line| line["detail"].to_string()).collect();
    assert!(broken.iter().any(|detail| detail.contains("k3s.service") && detail.contains("since")), "{broken:?}");
    world.expect(0, &["up"]);
    world.expect(0, &["healthcheck"]);
}

fn unreachable_in_every_way(world: &mut World) {
    let inventory = world.folder.path().join(format!("inventory/{HOST}.yml"));
    let good = std::fs::read_to_string(&inventory).unwrap();
    let with = |world: &mut World, text: String, expected: &str| {
        let other = world.folder.path().join("inventory/other.yml");
        std::fs::write(&other, text).unwrap();
        let said = world.expect(1, &["-i", "inventory/other.yml", "plan"]);
        assert!(said.contains(expected) && said.contains("hint:"), "{said}");
    };
    let key = good.lines().find(|line| line.contains("host_key:")).unwrap().to_owned();
    let wrong = "    host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHvfFXvXbHhlqU4QzjsBge8fhu4KJGij9LElGMsLHDzj";
    with(world, good.replace(&key, wrong), "the host key of");
    with(world, good.replace("user: root", "user: plain"), "is refused");
    with(world, good.replace("port: 22", "port: 23"), "cannot be reached");
    // A user with sudo is as good as root.
    std::fs::write(world.folder.path().join("inventory/other.yml"), good.replace("user: root", "user: ops")).unwrap();
    world.expect(0, &["-i", "inventory/other.yml", "plan"]);
}

fn no_secret_left(world: &mut World) {
    let names = world.expect(0, &["secret", "list"]);
    let already_printed = world.printed.clone();
    let (_, host) = world.shell(
        "cat /var/lib/provision/ledger.jsonl; journalctl --no-pager -o cat; find / -xdev -type f -perm -004 -size -1M \
         -not -path '/proc/*' -not -path '/sys/*' -not -path '/usr/*' -exec cat {} + 2>/dev/null",
    );
    assert!(host.contains("intent"), "the ledger was not searched");
    for name in names.lines() {
        let secret = both(&world.command(&["secret", "get", name]).output().unwrap()).trim().to_owned();
        assert!(secret.len() >= 20);
        assert!(!already_printed.contains(&secret), "{name} was printed");
        assert!(!host.contains(&secret), "{name} lies open on the host");
        // The search can fail: where the secret belongs, it is found.
        if name == "postgres.password" {
            let (_, found) = world.shell(
                "kubectl get secret -n mlops postgres-credentials -o jsonpath='{.data.POSTGRES_PASSWORD}' | base64 -d",
            );
            assert_eq!(found.lines().last().unwrap_or_default(), secret);
        }
    }
}
