//! Data in a bucket of a real MinIO.

use mlflow_client::{Client, Location};

use crate::minio::{KEY, Minio, SECRET, make_bucket};
use crate::program::{entries, line, rul, stderr, train, write_data};

#[test]
fn a_bucket_is_as_good_as_a_directory() {
    let Some(minio) = Minio::start() else { return };
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    write_data(&data, 12);
    std::fs::write(data.join("train_FD004.txt"), "1 1 nonsense\n").unwrap();
    let http = rul::http::unhurried().unwrap();
    let place = Location::S3 { bucket: "thesis-data".into(), key: "raw/cmapss".into() };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        make_bucket(&http, &minio.endpoint, "thesis-data").await;
        let client = Client::storage(http.clone()).unwrap().with_s3(minio.settings(SECRET));
        client.upload(&data, &place).await.unwrap();
    });
    let from_bucket = |secret: &str, args: &[&str]| {
        let mut command =
            rul(&["train", "--json", "--epochs", "1", "--seeds", "1", "--data", "s3://thesis-data/raw/cmapss/"]);
        command
            .args(args)
            .arg("--out")
            .arg(home.path().join("model"))
            .env("MLFLOW_S3_ENDPOINT_URL", &minio.endpoint)
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", secret);
        command
    };
    let said = line(&mut from_bucket(SECRET, &[]));
    let local = train(&home.path().join("local"), &["--data", data.to_str().unwrap(), "--epochs", "1", "--seeds", "1"]);
    assert_eq!((&said["model_sha256"], &said["data_sha256"]), (&local["model_sha256"], &local["data_sha256"]));
    let refused = |secret: &str, dataset: &str, words: &[&str]| {
        let output = from_bucket(secret, &["--dataset", dataset]).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in {text}"));
        assert!(!text.contains("hunter2"), "{text}");
    };
    refused(SECRET, "FD004", &["s3://thesis-data/raw/cmapss/train_FD004.txt:1:13: "]);
    refused(SECRET, "FD009", &["s3://thesis-data/raw/cmapss", "no train_FD009.txt", "it has FD001, FD004"]);
    refused("hunter2 hunter2", "FD001", &["SignatureDoesNotMatch"]);
    assert_eq!(entries(home.path()), ["data", "local", "model"]);
}
