//! For fuzz targets: one delivery to a trigger without sockets, which remembers nothing from one to the next.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use tower::ServiceExt;

use super::desk::Desk;
use super::exec::Exec;
use super::routes::{Events, Front, router};
use super::starter::Starter;
use super::state::{self, Policy, State};

/// Status and body of the answer, and how many firings were written down.
///
/// # Panics
/// When there is no answer, when what was written down cannot be read again, or a run would have a name that Kubernetes refuses:
/// that is what fuzzing looks for.
#[allow(clippy::unwrap_used)]
pub fn post(body: &[u8]) -> (u16, Vec<u8>, usize) {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    // In memory where there is such a folder: every delivery is synced.
    static FOLDER: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
    let path = FOLDER.path().join("state.json");
    let _ = std::fs::remove_file(&path);
    let policy = Policy { cool_down: 300, pause: 30, attempts: 5 };
    // Names no program, so every start is refused.
    let starter = Starter::Exec(Exec::new(Vec::new()));
    let front = Front {
        desk: Desk::new(path.clone(), policy, State::default(), starter),
        token: None,
        alertname: "ModelDriftDetected".to_owned(),
        events: Events::default(),
    };
    let request = Request::post("/webhook/drift").body(Body::from(body.to_vec())).unwrap();
    let (status, answer) = RUNTIME.block_on(async {
        let response = router(Arc::new(front)).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    });
    (status, answer, written(&path))
}

fn written(path: &Path) -> usize {
    let state = state::load(path).expect("a trigger must start from what it wrote");
    for incident in state.incidents.values() {
        let name = incident.firing.run_name(incident.failures);
        assert!(name.len() <= 63, "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
    }
    state.incidents.len()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Path, post};

    #[test]
    fn what_fuzzing_begins_with_is_answered() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/trigger_webhook");
        let answer = |name: &str| post(&std::fs::read(seeds.join(name)).unwrap());
        for (name, status, written) in [("firing", 503, 1), ("two", 503, 1), ("resolved", 200, 0), ("none", 200, 0)] {
            let (got, body, noted) = answer(name);
            assert_eq!((got, noted), (status, written), "{name}: {}", String::from_utf8_lossy(&body));
        }
        let (status, body, written) = post(b"{\"version\":\"4\"");
        assert_eq!((status, written), (422, 0), "{}", String::from_utf8_lossy(&body));
    }
}
