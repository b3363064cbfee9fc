//! The program, and the data it is given.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cmapss::synth::{Flavour, Generator};
use cmapss::write::{write_fleet, write_rul};
use serde_json::Value;

/// `rul`, with nothing from its surroundings but what it needs to run.
pub fn rul(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rul"));
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The line on stdout of a run that must work.
pub fn line(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// `rul train --json` into `out`.
pub fn train(out: &Path, args: &[&str]) -> Value {
    line(rul(&["train", "--json", "--out", out.to_str().unwrap()]).args(args))
}

/// Files that look like FD001's.
pub fn write_data(dir: &Path, engines: u32) {
    std::fs::create_dir_all(dir).unwrap();
    let generator = Generator::new(Flavour::Fd001);
    let file = |name: &str| std::fs::File::create(dir.join(name)).unwrap();
    let test = generator.test(engines, 3).unwrap();
    write_fleet(&mut file("train_FD001.txt"), &generator.train(engines, 3).unwrap()).unwrap();
    write_fleet(&mut file("test_FD001.txt"), &test.fleet).unwrap();
    write_rul(&mut file("RUL_FD001.txt"), &test.rul).unwrap();
}

/// NASA's files: `CMAPSS_DIR`, or `shared/data/cmapss` beside the project or above it.
pub fn real_data() -> Option<PathBuf> {
    let beside = || {
        let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        above.find_map(|dir| Some(dir.join("shared/data/cmapss")).filter(|d| d.is_dir()))
    };
    let found = std::env::var_os("CMAPSS_DIR").map(PathBuf::from).or_else(beside);
    found.filter(|dir| dir.join("train_FD001.txt").is_file() || dir.join("train_FD001.txt.gz").is_file())
}

/// Names in a directory, hidden ones too.
pub fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
