//! A stand-in for the Kubernetes API, as far as one ConfigMap needs it: its paths and status codes, `resourceVersion`, conflicts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::extract::{Path as Segments, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

#[derive(Default)]
struct Inner {
    /// By namespace and name.
    maps: std::collections::BTreeMap<(String, String), Value>,
    writes: usize,
    conflict: bool,
}

type Shared = Arc<Mutex<Inner>>;
type Answer = (StatusCode, Json<Value>);

pub struct Cluster {
    inner: Shared,
    config: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

impl Cluster {
    pub fn start(dir: &Path) -> Self {
        let inner = Shared::default();
        let app = Router::new()
            .route("/api/v1/namespaces/{namespace}/configmaps", post(create))
            .route("/api/v1/namespaces/{namespace}/configmaps/{name}", get(read).put(replace))
            .with_state(inner.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        let config = dir.join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&config, text.to_string()).unwrap();
        Self { inner, config, _runtime: runtime }
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The ConfigMap of the earlier system's name.
    pub fn map(&self) -> Option<Value> {
        self.inner.lock().unwrap().maps.get(&("monitoring".into(), "evidently-baseline".into())).cloned()
    }

    pub fn writes(&self) -> usize {
        self.inner.lock().unwrap().writes
    }

    /// Somebody else's change.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut inner = self.inner.lock().unwrap();
        let map = inner.maps.get_mut(&("monitoring".into(), "evidently-baseline".into())).unwrap();
        change(map);
        bump(map);
    }

    /// The next replacement finds that somebody was faster.
    pub fn conflict_once(&self) {
        self.inner.lock().unwrap().conflict = true;
    }
}

fn bump(map: &mut Value) {
    let version: u64 = map["metadata"]["resourceVersion"].as_str().map_or(1, |v| v.parse::<u64>().unwrap() + 1);
    map["metadata"]["resourceVersion"] = json!(version.to_string());
}

fn status(code: StatusCode, reason: &str, message: String) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    (code, Json(body))
}

async fn read(State(inner): State<Shared>, Segments((namespace, name)): Segments<(String, String)>) -> Answer {
    match inner.lock().unwrap().maps.get(&(namespace, name.clone())) {
        Some(map) => (StatusCode::OK, Json(map.clone())),
        None => status(StatusCode::NOT_FOUND, "NotFound", format!("configmaps {name:?} not found")),
    }
}

async fn create(
    State(inner): State<Shared>,
    Segments(namespace): Segments<String>,
    Json(mut map): Json<Value>,
) -> Answer {
    let mut inner = inner.lock().unwrap();
    let key = (namespace, map["metadata"]["name"].as_str().unwrap().to_owned());
    if inner.maps.contains_key(&key) {
        return status(StatusCode::CONFLICT, "AlreadyExists", format!("configmaps {:?} already exists", key.1));
    }
    bump(&mut map);
    inner.writes += 1;
    inner.maps.insert(key, map.clone());
    (StatusCode::CREATED, Json(map))
}

async fn replace(
    State(inner): State<Shared>,
    Segments(key): Segments<(String, String)>,
    Json(mut map): Json<Value>,
) -> Answer {
    let mut inner = inner.lock().unwrap();
    if std::mem::take(&mut inner.conflict)
        && let Some(known) = inner.maps.get_mut(&key)
    {
        bump(known);
    }
    let known = inner.maps.get(&key).map(|known| known["metadata"]["resourceVersion"].clone());
    if known.as_ref() != Some(&map["metadata"]["resourceVersion"]) {
        let message =
            format!("the object {:?} has been modified; please apply your changes to the latest version", key.1);
        return status(StatusCode::CONFLICT, "Conflict", message);
    }
    bump(&mut map);
    inner.writes += 1;
    inner.maps.insert(key, map.clone());
    (StatusCode::OK, Json(map))
}
