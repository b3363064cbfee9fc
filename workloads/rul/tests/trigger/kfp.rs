//! The part of KFP's v2beta1 API that the trigger uses.

use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

#[derive(Default)]
struct Inner {
    down: bool,
    runs: Vec<Value>,
}

type Shared = Arc<Mutex<Inner>>;

pub struct Kfp {
    pub address: String,
    inner: Shared,
    _runtime: tokio::runtime::Runtime,
}

impl Kfp {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inner = Shared::default();
        let router = Router::new()
            .route("/apis/v2beta1/pipelines", get(pipelines))
            .route("/apis/v2beta1/pipelines/names/{name}", get(pipeline))
            .route("/apis/v2beta1/pipelines/{id}/versions", get(versions))
            .route("/apis/v2beta1/runs", get(list).post(create))
            .route("/apis/v2beta1/runs/{id}", get(one))
            .with_state(Arc::clone(&inner));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, inner, _runtime: runtime }
    }

    pub fn down(&self, down: bool) {
        self.inner.lock().unwrap().down = down;
    }

    pub fn runs(&self) -> Vec<Value> {
        self.inner.lock().unwrap().runs.clone()
    }

    pub fn finish(&self, id: &str, state: &str) {
        let mut inner = self.inner.lock().unwrap();
        inner.runs.iter_mut().find(|run| run["run_id"] == id).unwrap()["state"] = state.into();
    }
}

/// With its database down KFP answers 500 with code 13.
fn up(shared: &Shared, answer: impl FnOnce(&mut Inner) -> Response) -> Response {
    let mut inner = shared.lock().unwrap();
    if inner.down {
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"code": 13, "message": "database", "details": []})))
            .into_response();
    }
    answer(&mut inner)
}

async fn pipelines(State(shared): State<Shared>) -> Response {
    up(&shared, |_| Json(json!({"pipelines": [], "total_size": 0})).into_response())
}

async fn pipeline(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    up(&shared, |_| {
        if name != "cmapss-rul-retraining" {
            return (StatusCode::NOT_FOUND, Json(json!({"code": 5, "message": "not found", "details": []})))
                .into_response();
        }
        Json(json!({"pipeline_id": "p-1", "display_name": name})).into_response()
    })
}

async fn versions(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    up(&shared, |_| {
        Json(json!({"pipeline_versions": [{"pipeline_id": id, "pipeline_version_id": "v-9"}]})).into_response()
    })
}

async fn list(State(shared): State<Shared>) -> Response {
    up(&shared, |inner| Json(json!({"runs": inner.runs})).into_response())
}

async fn one(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    up(&shared, |inner| match inner.runs.iter().find(|run| run["run_id"] == id.as_str()) {
        Some(run) => Json(run.clone()).into_response(),
        None => {
            (StatusCode::NOT_FOUND, Json(json!({"code": 5, "message": "not found", "details": []}))).into_response()
        }
    })
}

async fn create(State(shared): State<Shared>, Json(mut run): Json<Value>) -> Response {
    up(&shared, |inner| {
        let versions = &run["pipeline_version_reference"];
        if versions["pipeline_id"] != "p-1" || versions["pipeline_version_id"] != "v-9" {
            return (StatusCode::BAD_REQUEST, Json(json!({"code": 3, "message": "no such version", "details": []})))
                .into_response();
        }
        run["run_id"] = format!("run-{}", inner.runs.len() + 1).into();
        run["state"] = "PENDING".into();
        inner.runs.push(run.clone());
        Json(run).into_response()
    })
}
