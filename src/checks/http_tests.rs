#![allow(clippy::unwrap_used)]

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use serde_json::json;

use super::*;
use crate::checks::Status;
use crate::host::fake::FakeHost;

fn check(spec: Value) -> Http {
    serde_json::from_value(spec).unwrap()
}

async fn server() -> String {
    let app = axum::Router::new()
        .route("/ok", get(|| async { "all\nis well" }))
        .route("/busy", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "x".repeat(500)) }))
        .route("/json", get(|| async { r#"{"is_stub": true, "n": 1.0, "list": [{"a": null}]}"# }))
        .route(
            "/echo",
            post(|headers: HeaderMap, body: Bytes| async move {
                let header = |name: &str| headers.get(name).map_or("-", |it| it.to_str().unwrap()).to_owned();
                let body = String::from_utf8_lossy(&body).into_owned();
                format!("{} {} {body}", header("content-type"), header("authorization"))
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}")
}

/// The verdict on a spec whose `url` is a path at the server, with the server's address taken out.
async fn verdict(mut spec: Value) -> Verdict {
    let server = server().await;
    spec["url"] = format!("{server}{}", spec["url"].as_str().unwrap()).into();
    let mut verdict = check(spec).run(&FakeHost::new()).await.unwrap();
    verdict.detail = verdict.detail.replace(&server, "");
    verdict
}

#[tokio::test]
async fn what_is_promised_passes() {
    for spec in [
        json!({"url": "/ok"}),
        json!({"url": "/ok", "contains": "is well"}),
        json!({"url": "/json", "json": {"pointer": "/is_stub", "equals": true}}),
        json!({"url": "/json", "json": [{"pointer": "/n", "equals": 1}, {"pointer": "/list/0/a"}]}),
        json!({"url": "/busy", "status": [200, 503]}),
        json!({"url": "/missing", "status": 404}),
    ] {
        let verdict = verdict(spec.clone()).await;
        assert_eq!(verdict.status, Status::Pass, "{spec}: {}", verdict.detail);
    }
    assert_eq!(verdict(json!({"url": "/ok"})).await.detail, "GET /ok answered 200");
}

#[tokio::test]
async fn what_is_broken_is_told_in_one_line() {
    let x = "x".repeat(200);
    let stub = r#"{"is_stub": true, "n": 1.0, "list": [{"a": null}]}"#;
    for (spec, expected) in [
        (json!({"url": "/busy"}), format!("GET /busy answered 503, expected 200: {x}…")),
        (json!({"url": "/missing?token=abc"}), "GET /missing answered 404, expected 200: (empty)".to_owned()),
        (json!({"url": "/ok", "contains": "ill"}), "GET /ok answered 200 without \"ill\": all is well".to_owned()),
        (
            json!({"url": "/ok", "json": {"pointer": "/a"}}),
            "GET /ok answered 200, which is not JSON: all is well".to_owned(),
        ),
        (
            json!({"url": "/json", "json": {"pointer": "/is_stub", "equals": false}}),
            format!("GET /json answered 200 with /is_stub = true, expected false: {stub}"),
        ),
        (
            json!({"url": "/json", "json": {"pointer": "/model"}}),
            format!("GET /json answered 200 without /model: {stub}"),
        ),
    ] {
        assert_eq!(verdict(spec).await, Verdict::fail(expected));
    }
}

#[tokio::test]
async fn a_body_is_sent_as_text_or_as_json() {
    let header = json!({"Authorization": "Bearer secret"});
    let spec = json!({"url": "/echo", "method": "POST", "body": {"a": [1]}, "header": header,
        "contains": "application/json Bearer secret {\"a\":[1]}"});
    let verdict_of_json = verdict(spec).await;
    assert_eq!(verdict_of_json, Verdict::pass("POST /echo answered 200"));
    let spec = json!({"url": "/echo", "method": "POST", "body": "text", "contains": "- - text"});
    assert_eq!(verdict(spec).await.status, Status::Pass);
}

#[tokio::test]
async fn no_answer_is_a_failure_with_the_reason() {
    let http = check(json!({"url": "http://user:password@127.0.0.1:1/x?token=abc"}));
    assert_eq!(http.name(), "GET http://127.0.0.1:1/x");
    let verdict = http.run(&FakeHost::new()).await.unwrap();
    assert_eq!(verdict.status, Status::Fail);
    assert!(verdict.detail.starts_with("GET http://127.0.0.1:1/x: "), "{}", verdict.detail);
    assert!(verdict.detail.contains("onnection refused"), "{}", verdict.detail);
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let start = std::time::Instant::now();
    let verdict = check(json!({"url": url})).run(&FakeHost::new()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(verdict, Verdict::fail(format!("GET {url}: no answer within 8 s")));
}

#[tokio::test]
async fn a_service_is_asked_for_in_the_cluster() {
    let http = check(json!({"service": "mlops/inference", "port": 8000, "path": "/readyz"}));
    assert_eq!(http.name(), "GET http://mlops/inference:8000/readyz");
    let verdict = http.run(&FakeHost::new()).await.unwrap();
    assert_eq!(verdict, Verdict::fail("Kubernetes cannot be asked: a fake host has no cluster"));
    let again: Http = serde_json::from_value(serde_json::to_value(&http).unwrap()).unwrap();
    assert_eq!(again, http);
}

#[test]
fn specs_that_make_no_sense_are_refused() {
    for (spec, reason) in [
        (json!({}), "needs one of `url` and `service`"),
        (json!({"url": "http://a", "service": "b/c"}), "needs one of"),
        (json!({"url": "ftp://a"}), "is neither http nor https"),
        (json!({"url": "nonsense"}), "is no URL"),
        (json!({"url": "http://a", "path": "/x"}), "belong to a `service`"),
        (json!({"service": "a/b", "path": "x"}), "`path` must begin with `/`"),
        (json!({"url": "http://a", "method": "get"}), "the method \"get\" is none of GET"),
        (json!({"url": "http://a", "header": {"a b": "c"}}), "the header \"a b\""),
        (json!({"url": "http://a", "json": {"pointer": "x"}}), "must begin with `/`"),
        (json!({"url": "http://a", "statsu": 200}), "unknown field `statsu`"),
    ] {
        let error = serde_json::from_value::<Http>(spec).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn numbers_are_compared_as_numbers_and_null_is_a_value() {
    for (equals, body, passes) in
        [(json!(0), "0.0", true), (json!(0), "null", false), (json!(null), "null", true), (json!(null), "0", false)]
    {
        let http = check(json!({"url": "http://a", "json": {"pointer": "", "equals": equals}}));
        let http = check(serde_json::to_value(&http).unwrap());
        let passed = http.judge("GET", 200, body).status == Status::Pass;
        assert_eq!(passed, passes, "{equals} {body}");
    }
}
