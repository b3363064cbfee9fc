//! The numbers: the same model gives the same answer by every path, and the counters agree.

use serde_json::{Value, json};

use crate::client::Server;
use crate::directories::{FEATURES, WINDOW, numbers, rows, sequence, write, write_golden};

fn as_f32(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

#[test]
fn a_stub_says_so() {
    let server = Server::start(&["--stub-rul", "99.5"]);
    let reply = server.post("/predict", &sequence(&numbers(1, WINDOW * FEATURES)));
    assert_eq!(reply.text(), r#"{"rul":99.5,"model_version":"stub","is_stub":true}"#);
    assert_eq!(reply.header("x-model-version"), Some("stub"));
    assert_eq!(server.metric("rul_stub"), 1.0);
    assert_eq!(server.metric("rul_prediction_value_bucket{le=\"75.0\"}"), 0.0);
    assert_eq!(server.metric("rul_prediction_value_bucket{le=\"100.0\"}"), 1.0);
    assert_eq!(server.metric("rul_prediction_value_bucket{le=\"+Inf\"}"), 1.0);
}

#[test]
fn every_path_gives_the_models_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let model = write(dir.path(), 7, "62");
    write_golden(dir.path(), &model, 0.0);
    let server = Server::start(&["--model-dir", dir.path().to_str().unwrap()]);
    let size = WINDOW * FEATURES;
    let windows = numbers(3, 3 * size);
    let expected = model.predict_all(&windows).unwrap();
    assert!(expected.iter().any(|x| *x != expected[0]), "the model does not depend on its input: {expected:?}");

    for (window, expected) in windows.chunks(size).zip(&expected) {
        let reply = server.post("/predict", &sequence(window));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-model-version"), Some("62"));
        let body = reply.json();
        assert_eq!(as_f32(&body["rul"]), *expected);
        assert_eq!((&body["model_version"], &body["is_stub"]), (&json!("62"), &json!(false)));
    }
    let row = &windows[..FEATURES];
    let reply = server.post("/predict", &json!({ "features": row, "note": ["ignored"] }).to_string());
    assert_eq!(as_f32(&reply.json()["rul"]), model.predict_all(&row.repeat(WINDOW)).unwrap()[0]);

    let batch: Vec<_> = windows.chunks(size).map(rows).collect();
    for path in ["/predict", "/v1/models/cmapss-rul:predict"] {
        let body = server.post(path, &json!({ "instances": batch }).to_string()).json();
        let got: Vec<_> = body["predictions"].as_array().unwrap().iter().map(as_f32).collect();
        assert_eq!(got, expected, "{path}");
    }
    for data in [json!(windows), json!(batch)] {
        let tensor = json!({ "data": data, "shape": [3, WINDOW, FEATURES], "datatype": "FP32", "name": "input" });
        let body = json!({ "id": "a1", "inputs": [tensor], "outputs": [{ "name": "output" }] }).to_string();
        let answer = server.post("/v2/models/cmapss-rul/versions/62/infer", &body).json();
        assert_eq!((&answer["id"], &answer["model_version"]), (&json!("a1"), &json!("62")));
        assert_eq!(answer["outputs"][0]["shape"], json!([3]));
        let got: Vec<_> = answer["outputs"][0]["data"].as_array().unwrap().iter().map(as_f32).collect();
        assert_eq!(got, expected);
    }
    let predictions = 3.0 + 1.0 + 2.0 * 3.0 + 2.0 * 3.0;
    assert_eq!(server.metric("rul_prediction_count{model=\"cmapss-rul\",model_version=\"62\"}"), predictions);
    assert_eq!(server.metric("rul_prediction_count{model=\"cmapss-rul\",model_version=\"stub\"}"), 0.0);
    assert_eq!(server.metric("rul_prediction_value_count"), predictions);
    assert_eq!(server.metric("rul_requests_total{status=\"ok\"}"), 8.0);
    assert_eq!(server.metric("rul_request_latency_seconds_count"), 8.0);
    assert_eq!(server.metric("rul_stub"), 0.0);
    assert_eq!(server.metric("rul_inflight"), 0.0);
    let described = server.get("/v1/model").json();
    assert_eq!((&described["golden_windows"], &described["golden_difference"]), (&json!(2), &json!(0.0)));
    assert_eq!(described["last_error"], Value::Null);
}

#[test]
fn a_number_that_no_sensor_sends_is_refused_or_predicted_never_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 7, "1");
    let server = Server::start(&["--model-dir", dir.path().to_str().unwrap()]);
    for value in [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0] {
        let reply = server.post("/predict", &json!({ "features": vec![value; FEATURES] }).to_string());
        assert!(matches!(reply.status, 200 | 422), "{value:e}: {}", reply.text());
        if reply.status == 200 {
            assert!((0.0..=125.0).contains(&as_f32(&reply.json()["rul"])));
        }
    }
}

#[test]
fn edges_of_a_versions_histogram_come_from_its_baseline() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 7, "5");
    let baseline = json!({ "model_version": "5", "histogram": { "buckets": [10.0, 110.5], "counts": [1, 2] } });
    std::fs::write(dir.path().join("baseline.json"), baseline.to_string()).unwrap();
    let server = Server::start(&["--model-dir", dir.path().to_str().unwrap()]);
    let series = |le: &str| format!("rul_prediction_bucket{{model=\"cmapss-rul\",model_version=\"5\",le=\"{le}\"}}");
    for le in ["10.0", "110.5", "+Inf"] {
        assert_eq!(server.metric(&series(le)), 0.0, "there before the first prediction");
    }
    server.post("/predict", &sequence(&numbers(1, WINDOW * FEATURES)));
    assert_eq!(server.metric(&series("+Inf")), 1.0);
}

#[test]
fn recent_predictions_are_behind_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let model = write(dir.path(), 7, "5");
    let args = ["--model-dir", dir.path().to_str().unwrap(), "--recent", "3"];
    let server = Server::start_with(&args, &[("RUL_TOKEN", "s3cret")]);
    let read = |query: &str, token: &str| {
        let header = format!("Bearer {token}");
        server.open().send("GET", &format!("/v1/recent{query}"), &[("authorization", &header)], b"")
    };
    let refused = server.get("/v1/recent");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    for wrong in ["", "s3cre", "s3cret1", "S3cret"] {
        assert_eq!(read("", wrong).status, 401, "{wrong}");
    }
    assert_eq!(read("?since=x", "s3cret").status, 400);
    assert_eq!(read("", "s3cret").json(), json!({ "next": 0, "missed": 0, "entries": [] }));

    let windows: Vec<_> = (0..5).map(|seed| numbers(seed, WINDOW * FEATURES)).collect();
    for window in &windows {
        server.post("/predict", &sequence(window));
    }
    let page = read("?since=1", "s3cret").json();
    assert_eq!((&page["next"], &page["missed"]), (&json!(5), &json!(1)), "number 2 was overwritten");
    let entries = page["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    for (entry, window) in entries.iter().zip(&windows[2..]) {
        let row: Vec<_> = entry["row"].as_array().unwrap().iter().map(as_f32).collect();
        assert_eq!(row, window[(WINDOW - 1) * FEATURES..]);
        assert_eq!(as_f32(&entry["rul"]), model.predict_all(window).unwrap()[0]);
        assert_eq!(entry["model_version"], "5");
    }
    let page = read("?since=3&limit=1", "s3cret").json();
    assert_eq!((&page["next"], &page["entries"][0]["seq"]), (&json!(4), &json!(4)));
    assert_eq!(read("?since=99", "s3cret").json()["entries"].as_array().unwrap().len(), 3, "after a restart");
}
