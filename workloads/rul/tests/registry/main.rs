//! The registry: the same expectations of a directory and of a real MLflow server.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../serve/directories.rs"]
#[allow(dead_code)]
mod directories;
mod expectations;
#[path = "../../../mlflow-client/tests/server/mlflow.rs"]
#[allow(dead_code)]
mod mlflow;

use rul::registry::Registry;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path().to_str().unwrap(), rul::http::unhurried().unwrap()).unwrap();
    runtime().block_on(expectations::all(&registry));
}

#[test]
fn a_real_mlflow() {
    let Some(server) = mlflow::Server::start() else { return };
    let registry = Registry::open(&server.uri(), rul::http::unhurried().unwrap()).unwrap();
    runtime().block_on(expectations::all(&registry));
}

#[test]
fn registrations_at_the_same_time_get_different_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path().to_str().unwrap(), rul::http::unhurried().unwrap()).unwrap();
    let artifact = dir.path().join("artifact");
    std::fs::create_dir(&artifact).unwrap();
    directories::write(&artifact, 1, "0");
    let mut numbers: Vec<u32> = std::thread::scope(|scope| {
        let (registry, artifact) = (&registry, &artifact);
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let register = async || registry.register("m", artifact, &Default::default()).await.unwrap();
                    (0..5).map(|_| runtime().block_on(register()).version.parse().unwrap()).collect::<Vec<u32>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<u32>>());
}
