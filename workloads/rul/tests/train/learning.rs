//! What comes out of a training.

use rul::artifact::{Artifact, Metrics};

use crate::program::{entries, line, real_data, rul, train, write_data};

/// Quick: a few engines, one pass.
const QUICK: [&str; 7] = ["--generate", "--engines", "24", "--epochs", "1", "--seeds", "1"];

#[test]
fn generated_data_gives_a_whole_artifact_and_the_same_one_again() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (home.path().join("first"), home.path().join("second"));
    let said = train(&first, &QUICK);
    let artifact = Artifact::read(&first).unwrap();
    let metrics: Metrics = serde_json::from_value(said.clone()).unwrap();
    assert_eq!(artifact.metrics.as_ref(), Some(&metrics), "what is said is what is written");
    assert_eq!(said["model_sha256"], artifact.manifest.sha256.as_str());
    assert_eq!(
        (metrics.engines, metrics.val_engines["FD001"].len(), metrics.data_origin.as_str()),
        (24, 5, "generated")
    );
    let baseline = artifact.baseline.unwrap();
    assert_eq!(baseline.training_set_size as usize, metrics.train_windows + metrics.val_windows);
    assert_eq!(baseline.data_sha256, metrics.data_sha256);
    assert_eq!(artifact.golden.unwrap().windows.len(), 8);
    assert_eq!(entries(&first).len(), 9);
    for number in [metrics.test_rmse, metrics.test_rmse_capped, metrics.nasa_score] {
        assert!(number.is_some_and(|x| x > 0.0), "{metrics:?}");
    }

    assert_eq!(train(&second, &QUICK)["model_sha256"], said["model_sha256"]);
    let other = train(&second, &[&QUICK[..], &["--generate-seed", "7"]].concat());
    assert_ne!(other["model_sha256"], said["model_sha256"]);
    assert_eq!(entries(home.path()), ["first", "second"], "nothing half done is left");
}

#[test]
fn several_threads_give_the_same_model_again() {
    let home = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        train(&home.path().join(name), &[&QUICK[..], &["--threads", "2"]].concat())["model_sha256"].clone()
    };
    assert_eq!(run("a"), run("b"));
}

#[test]
fn the_best_seed_by_validation_is_kept_and_progress_is_told() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("model");
    let output = rul(&["train", "--generate", "--engines", "20", "--epochs", "2", "--seeds", "2", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    let (told, result) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert!(output.status.success(), "{told}");
    for word in ["20 engines, 4 of them held out", "seed 42 (1 of 2), epoch 1 of 2", "seed 123 (2 of 2), epoch 2 of 2"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(result.contains("seed protocol (80/20 by engine, labels capped at 125"), "{result}");
    let metrics = Artifact::read(&out).unwrap().metrics.unwrap();
    let best = metrics.seeds.iter().min_by(|a, b| a.val_rmse.total_cmp(&b.val_rmse)).unwrap();
    assert_eq!((metrics.seeds.len(), metrics.seed, metrics.epoch), (2, best.seed, best.epoch));
    assert!((metrics.val_rmse - best.val_rmse).abs() < 1e-9);
}

#[test]
fn real_engines_reach_the_bounds() {
    let home = tempfile::tempdir().unwrap();
    let real = real_data();
    let place = real.clone().unwrap_or_else(|| home.path().join("data"));
    if real.is_none() {
        eprintln!("no FD001 (set CMAPSS_DIR): data that looks like it, and a wider bound");
        write_data(&place, 100);
    }
    let said =
        train(&home.path().join("model"), &["--data", place.to_str().unwrap(), "--dataset", "FD001", "--seeds", "3"]);
    let number = |key: &str| said[key].as_f64().unwrap();
    eprintln!(
        "validation {:.2}, test {:.2} ({:.2} capped), NASA {:.0}, {:.1} s",
        number("val_rmse"),
        number("test_rmse"),
        number("test_rmse_capped"),
        number("nasa_score"),
        number("seconds")
    );
    let (uncapped, validation) = if real.is_some() { (15.0, 13.5) } else { (18.0, 17.0) };
    assert!(number("test_rmse") <= uncapped, "{said}");
    assert!(number("val_rmse") <= validation, "{said}");
    assert!(number("test_rmse_capped") < number("test_rmse"));
    let seeds = said["seeds"].as_array().unwrap();
    assert_eq!(seeds.len(), 3);
    if real.is_some() {
        assert_eq!(said["data_origin"], "real");
        assert_eq!((said["train_windows"].as_u64(), said["val_windows"].as_u64()), (Some(14_459), Some(3_272)));
        assert_eq!(said["val_engines"]["FD001"], serde_json::json!(cmapss::split::EARLIER_VALIDATION));
        for seed in seeds {
            assert!(
                seed["test_rmse"].as_f64().unwrap() <= 15.0 && seed["val_rmse"].as_f64().unwrap() <= 13.5,
                "{seed}"
            );
        }
    }
}

#[test]
fn the_test_set_decides_nothing() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    write_data(&data, 20);
    let args = ["--data", data.to_str().unwrap(), "--epochs", "4", "--seeds", "2"];
    let before = train(&home.path().join("model"), &args);
    let lives = std::fs::read_to_string(data.join("RUL_FD001.txt")).unwrap();
    let other: String = lives.lines().map(|life| format!("{}\n", 150 - life.trim().parse::<u32>().unwrap())).collect();
    std::fs::write(data.join("RUL_FD001.txt"), other).unwrap();
    let after = train(&home.path().join("model"), &args);
    for same in ["model_sha256", "epoch", "seed", "val_rmse"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    for changed in ["test_rmse", "nasa_score", "data_sha256"] {
        assert_ne!(before[changed], after[changed], "{changed}");
    }
    for file in ["RUL_FD001.txt", "test_FD001.txt"] {
        std::fs::remove_file(data.join(file)).unwrap();
    }
    let without = train(&home.path().join("model"), &args);
    assert_eq!(without["model_sha256"], before["model_sha256"]);
    assert!(without["test_rmse"].is_null());
}

#[test]
fn a_mixture_is_split_set_by_set_and_knows_its_regimes() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("model");
    let said = train(&out, &[&QUICK[..], &["--dataset", "FD001+FD002"]].concat());
    assert_eq!((said["dataset"].as_str(), said["engines"].as_u64()), (Some("FD001+FD002"), Some(48)));
    for set in ["FD001", "FD002"] {
        assert_eq!(said["val_engines"][set].as_array().unwrap().len(), 5);
        assert_eq!(said["test"][set]["engines"], 24);
    }
    let artifact = Artifact::read(&out).unwrap();
    assert_eq!(artifact.model.network().unwrap().scaler.regimes.as_ref().unwrap().centres.len(), 6);
    assert!(artifact.baseline.unwrap().inputs.regimes.iter().all(|regime| regime.share > 0.0));
}

#[test]
fn a_warm_start_that_has_seen_the_held_out_engines_is_told() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (home.path().join("first"), home.path().join("second"));
    train(&first, &QUICK);
    let warned = |split: &str| {
        let mut command = rul(&["train", "--split-seed", split, "--warm-start", first.to_str().unwrap(), "--out"]);
        let output = command.arg(&second).args(QUICK).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap().contains("warning: the model to begin with was trained on")
    };
    assert!(!warned("42"), "the same split");
    assert!(warned("43"), "another one");
}

#[test]
fn a_warm_start_begins_where_the_other_ended() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (home.path().join("first"), home.path().join("second"));
    let cold = train(&first, &["--generate", "--engines", "24", "--epochs", "5", "--seeds", "1"]);
    let from = first.to_str().unwrap();
    let warm = train(&second, &[&QUICK[..], &["--warm-start", from]].concat());
    let one_epoch = train(&home.path().join("third"), &QUICK);
    let rmse = |said: &serde_json::Value| said["val_rmse"].as_f64().unwrap();
    assert!(rmse(&warm) < rmse(&one_epoch), "{} {}", rmse(&warm), rmse(&one_epoch));
    assert_eq!((&cold["warm_start"], &warm["warm_start"]), (&false.into(), &true.into()));
    // Into its own place: it is read before it is replaced.
    let again = train(&second, &[&QUICK[..], &["--warm-start", second.to_str().unwrap()]].concat());
    assert_ne!(again["model_sha256"], warm["model_sha256"]);
    let version = line(&mut rul(&[
        "train",
        "--json",
        "--generate",
        "--engines",
        "24",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--out",
        from,
    ]));
    assert_eq!(version["model_sha256"], one_epoch["model_sha256"], "an earlier model is replaced");
}
