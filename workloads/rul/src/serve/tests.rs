//! Any bytes, any JSON, against every path: a reason, never a panic, never a 5xx.

use std::sync::{Arc, LazyLock};

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::routes::router;
use super::service::{Service, Settings};
use crate::token::Token;

const PATHS: [&str; 4] = [
    "/predict",
    "/v1/models/cmapss-rul:predict",
    "/v2/models/cmapss-rul/infer",
    "/v2/models/cmapss-rul/versions/stub/infer",
];

pub fn service() -> Arc<Service> {
    let settings = Settings {
        model_name: "cmapss-rul".into(),
        model_stage: "production".into(),
        mlflow_tracking_uri: None,
        model_dir: None,
        require_golden: false,
        stub: Some(125.0),
        body_limit: 64 << 10,
        batch_body_limit: 4 << 20,
        max_batch: 4,
        concurrency: 1024,
        request_timeout: std::time::Duration::from_secs(10),
        recent: 16,
        token: Some(Token::new("t")),
        webhook_secret: None,
    };
    Arc::new(Service::new(settings, None, None))
}

/// Status and body of one request.
fn post(path: &str, body: Vec<u8>) -> (StatusCode, Vec<u8>) {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    static SERVICE: LazyLock<Arc<Service>> = LazyLock::new(service);
    let request = Request::post(path).header("content-type", "application/json").body(Body::from(body)).unwrap();
    RUNTIME.block_on(async {
        let response = router(Arc::clone(&SERVICE)).oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    })
}

/// The invariant: a prediction within bounds, or a client error with a reason.
fn check(path: &str, body: Vec<u8>) -> Result<(), TestCaseError> {
    let (status, answer) = post(path, body);
    let answer: Value = serde_json::from_slice(&answer).map_err(|e| TestCaseError::fail(format!("{status}: {e}")))?;
    if status == StatusCode::OK {
        return Ok(());
    }
    prop_assert!(status.is_client_error(), "{status} {answer}");
    let reason = answer["detail"].as_str().or(answer["error"].as_str()).unwrap_or_default();
    prop_assert!(reason.len() > 5, "{answer}");
    Ok(())
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (-1.0e3..1.0e3f64).prop_map(|x| json!(x)),
        1 => any::<f64>().prop_map(|x| json!(x)),
        1 => any::<i64>().prop_map(|x| json!(x)),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number(), ".{0,8}".prop_map(Value::from)];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::from),
            vec((key(), inner), 0..6).prop_map(|pairs| pairs.into_iter().collect()),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let known = ["sequence", "features", "instances", "inputs", "outputs", "name", "shape", "datatype", "data", "id"];
    prop_oneof![9 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,6}"]
}

/// Nearly right: a window with rows and columns about as many as they should be.
fn nearly() -> impl Strategy<Value = Value> {
    let window = vec(vec(number(), 15..18), 29..32);
    let right = vec(vec(number(), 16), 30);
    let instances = || vec(vec(vec(number(), 16), 30), 0..6);
    let tensor = |data: Value, n: i64| json!({ "inputs": [{ "name": "input", "shape": [n, 30, 16], "datatype": "FP32", "data": data }] });
    prop_oneof![
        window.prop_map(|w| json!({ "sequence": w })),
        right.prop_map(|w| json!({ "sequence": w })),
        vec(number(), 15..18).prop_map(|r| json!({ "features": r })),
        instances().prop_map(|i| json!({ "instances": i })),
        (instances(), -1..6i64).prop_map(move |(i, n)| tensor(json!(i), n)),
        (vec(number(), 479..482), 0..3i64).prop_map(move |(d, n)| tensor(json!(d), n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes(body in vec(any::<u8>(), 0..400), path in proptest::sample::select(PATHS.to_vec())) {
        check(path, body)?;
    }

    #[test]
    fn any_json(body in anything(), path in proptest::sample::select(PATHS.to_vec())) {
        check(path, body.to_string().into_bytes())?;
    }

    #[test]
    fn nearly_right_json(body in nearly(), path in proptest::sample::select(PATHS.to_vec())) {
        check(path, body.to_string().into_bytes())?;
    }

    #[test]
    fn right_json_with_one_byte_changed(at in any::<prop::sample::Index>(), byte: u8, path in proptest::sample::select(PATHS.to_vec())) {
        let mut body = match path {
            "/predict" => json!({ "sequence": vec![vec![0.25; 16]; 30] }),
            path if path.starts_with("/v1") => json!({ "instances": [vec![vec![0.25; 16]; 30]] }),
            _ => json!({ "inputs": [{ "name": "input", "shape": [1, 30, 16], "datatype": "FP32", "data": vec![0.25; 480] }] }),
        }
        .to_string()
        .into_bytes();
        prop_assert_eq!(post(path, body.clone()).0, StatusCode::OK);
        let at = at.index(body.len());
        body[at] = byte;
        check(path, body)?;
    }
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    for path in PATHS {
        for open in ["[", "{\"sequence\":", "{\"inputs\":[{\"data\":[["] {
            let (status, _) = post(path, open.repeat(3000).into_bytes());
            assert!(status.is_client_error(), "{path} {open}: {status}");
        }
        let deep = format!("{{\"inputs\":[{{\"data\":{}", "[".repeat(30_000));
        assert_eq!(post("/v2/models/cmapss-rul/infer", deep.into_bytes()).0, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn a_prediction_is_the_same_with_keys_in_any_order() {
    let data = vec![0.5; 480];
    let forms = [
        format!(r#"{{"inputs":[{{"data":{data:?},"name":"input","datatype":"FP32","shape":[1,30,16]}}],"id":"q"}}"#),
        format!(
            r#"{{"id":"q","inputs":[{{"shape":[1,30,16],"parameters":{{}},"datatype":"FP64","name":"input","data":{data:?}}}]}}"#
        ),
    ];
    let answers = forms.map(|body| post("/v2/models/cmapss-rul/infer", body.into_bytes()));
    assert_eq!(answers[0].0, StatusCode::OK);
    assert_eq!(answers[0], answers[1]);
}
