//! A copy of the project and a sandbox host of its own, for tests that go through the command line as a user would.
// Each suite is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

/// A copy of the project's tracked files, with an identity of its own, and a host of this name.
pub struct World {
    pub folder: tempfile::TempDir,
    binary: PathBuf,
    host: &'static str,
}

impl Drop for World {
    fn drop(&mut self) {
        // Also when a step failed: nothing stays behind.
        let _ = self.command(&["sandbox", "down", self.host]).output();
    }
}

pub fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl World {
    /// With a blank host and secrets. `None`, with a word, where that is not possible.
    pub fn new(host: &'static str) -> Option<Self> {
        let Some(binary) = std::env::var_os("PROVISION_BIN").map(PathBuf::from) else {
            eprintln!("skipped: PROVISION_BIN names no release binary; `make test` runs this");
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: sandbox hosts need root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
        let names = String::from_utf8(listed.stdout).unwrap();
        for name in names.split('\0').filter(|name| !name.is_empty() && root.join(name).exists()) {
            let to = folder.path().join(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(root.join(name), to).unwrap();
        }
        let world = Self { folder, binary, host };
        world.expect(0, &["sandbox", "up", host, "-i", &format!("inventory/{host}.yml")]);
        world.expect(0, &["secret", "init"]);
        Some(world)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PROVISION_IDENTITY", self.folder.path().join("identity.txt"))
            .env("PROVISION_INVENTORY", format!("inventory/{}.yml", self.host))
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        command
    }

    /// Runs and insists on the exit code.
    #[track_caller]
    pub fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let start = Instant::now();
        let output = self.command(arguments).output().unwrap();
        let text = both(&output);
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("-- provision {} -> {:?} in {seconds:.1} s", arguments.join(" "), output.status.code());
        assert_eq!(output.status.code(), Some(code), "provision {}:\n{text}", arguments.join(" "));
        text
    }

    #[track_caller]
    pub fn json(&self, code: i32, arguments: &[&str]) -> Vec<Value> {
        let text = self.expect(code, &[arguments, &["--json"]].concat());
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What a plan would do, or a run did: `stage/resource`, sorted.
    #[track_caller]
    pub fn changes(&self, code: i32, arguments: &[&str]) -> Vec<String> {
        let plan = arguments.first() == Some(&"plan");
        let is_change = |line: &Value| if plan { line["action"] != "none" } else { line["result"] == "changed" };
        named(&self.json(code, arguments), is_change)
    }

    /// Writes a file of the project.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Runs on the host as root.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        let output = self.command(&["sandbox", "shell", self.host, "--", "sh", "-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}:\n{}", both(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Resources that `keep` keeps, as `stage/resource`, sorted.
pub fn named(lines: &[Value], keep: impl Fn(&Value) -> bool) -> Vec<String> {
    let mut named: Vec<_> = lines
        .iter()
        .filter(|line| line["type"] == "resource" && keep(line))
        .map(|line| format!("{}/{}", line["stage"].as_str().unwrap(), line["resource"].as_str().unwrap()))
        .collect();
    named.sort();
    named
}
