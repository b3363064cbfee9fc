//! What cannot be trained says why, and leaves nothing.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::program::{entries, rul, stderr, write_data};

#[test]
fn every_refusal_has_a_place_and_a_way_out() {
    let home = tempfile::tempdir().unwrap();
    let (data, out) = (home.path().join("data"), home.path().join("out/model"));
    std::fs::create_dir(home.path().join("out")).unwrap();
    write_data(&data, 12);
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let output = rul(&["train", "--epochs", "1", "--seeds", "1", "--out", out.to_str().unwrap()])
            .args(args)
            .output()
            .unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{args:?}: no {word:?} in {text}"));
        assert!(output.stdout.is_empty());
        assert!(entries(&home.path().join("out")).is_empty(), "{args:?}");
    };
    let at = data.to_str().unwrap();
    refused(&[], 2, &["--data"]);
    refused(&["--data", at, "--generate"], 2, &["--generate"]);
    refused(&["--data", at, "--dataset", "../etc/passwd"], 2, &["--dataset", "FD001+FD002"]);
    refused(&["--data", at, "--dataset", "FD003"], 1, &["no train_FD003.txt", "it has FD001", "--dataset"]);
    refused(&["--data", "/nowhere/at/all"], 1, &["/nowhere/at/all", "No such file"]);
    refused(&["--generate", "--dataset", "FD004"], 1, &["FD004", "FD003 can"]);
    refused(&["--generate", "--engines", "9"], 1, &["9 training engines", "at least 10"]);
    refused(&["--data", "s3://"], 1, &["s3://BUCKET/PREFIX"]);
    refused(&["--generate", "--warm-start", at], 1, &["model.json"]);
    refused(&["--generate", "--registry", "http://127.0.0.1:1"], 1, &["127.0.0.1:1"]);
    refused(&["--generate", "--seeds", "0"], 2, &["--seeds"]);

    let rows = std::fs::read_to_string(data.join("train_FD001.txt")).unwrap();
    let bad: String = rows
        .lines()
        .enumerate()
        .map(|(i, row)| if i == 6 { row.replacen("518.67", "518.x7", 1) } else { row.to_owned() } + "\n")
        .collect();
    std::fs::write(data.join("train_FD001.txt"), bad).unwrap();
    let column = rows.lines().nth(6).unwrap().find("518.67").unwrap() + 1;
    refused(&["--data", at], 1, &[&format!("{at}/train_FD001.txt:7:{column}: "), "518.x7"]);
    std::fs::write(data.join("train_FD001.txt"), rows).unwrap();
    std::fs::remove_file(data.join("RUL_FD001.txt")).unwrap();
    refused(&["--data", at], 1, &["RUL_FD001 is not"]);
}

#[test]
fn a_directory_of_somebody_else_is_not_replaced() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("thesis.tex"), "x").unwrap();
    let output = rul(&["train", "--generate", "--out", home.path().to_str().unwrap()]).output().unwrap();
    assert!(stderr(&output).contains("thesis.tex"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("epoch"), "known before training");
    assert_eq!(entries(home.path()), ["thesis.tex"]);
}

#[test]
fn an_interrupted_training_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut child = rul(&["train", "--generate", "--engines", "40", "--epochs", "1000", "--seeds", "50", "--out"])
        .arg(home.path().join("model"))
        .arg("--registry")
        .arg(home.path().join("registry"))
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    lines.by_ref().find(|line| line.contains("epoch 1 of")).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("nothing was written")), "{rest:?}");
    assert!(output.stdout.is_empty());
    assert!(entries(home.path()).is_empty());
}
