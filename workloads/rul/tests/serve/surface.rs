//! Every path and every refusal, as a client sees them.

use std::fmt::Write;

use crate::client::{Reply, Server};

/// `GET /x -> 200 {...}`, with what differs between runs replaced.
fn show(out: &mut String, request: &str, reply: &Reply) {
    let mut body = reply.text();
    if let Some(at) = body.find("\"loaded_at\":\"") {
        let start = at + "\"loaded_at\":\"".len();
        let end = start + body[start..].find('"').unwrap();
        body.replace_range(start..end, "TIME");
    }
    // Whether the registry, which nobody answers for here, was already asked.
    if let Some(at) = body.find("\"last_error\":") {
        body.replace_range(at.., "\"last_error\":ERROR}");
    }
    let _ = writeln!(out, "{request}\n  {} {body}", reply.status);
    for name in ["retry-after", "www-authenticate", "allow", "connection", "x-model-version"] {
        if let Some(value) = reply.header(name) {
            let _ = writeln!(out, "  {name}: {value}");
        }
    }
}

#[test]
fn every_path_of_a_stub() {
    let server = Server::start(&["--mlflow-tracking-uri", "http://user:canary@mlflow:5000/x"]);
    let mut out = String::new();
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/v1/model",
        "/v1/models",
        "/v1/models/cmapss-rul",
        "/v1/models/other",
        "/v1/recent",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/cmapss-rul",
        "/v2/models/cmapss-rul/ready",
        "/v2/models/cmapss-rul/versions/stub",
        "/v2/models/cmapss-rul/versions/stub/ready",
        "/v2/models/cmapss-rul/versions/7",
        "/v2/models/other/ready",
        "/nowhere",
        "/predict",
    ] {
        show(&mut out, &format!("GET {path}"), &server.get(path));
    }
    show(&mut out, "POST /-/reload", &server.post("/-/reload", ""));
    show(&mut out, "POST /healthz", &server.post("/healthz", ""));
    assert!(!out.contains("canary"), "credentials of the registry are shown: {out}");
    insta::assert_snapshot!(out);
}

const SIXTEEN: &str = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]";

#[test]
fn every_refusal_of_predict() {
    let server = Server::start(&["--max-batch", "2"]);
    let thirty = |row: &str| format!("[{}]", vec![row; 30].join(","));
    let window = thirty(SIXTEEN);
    let fifteen = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]";
    let late = window.replacen(SIXTEEN, "@", 4).replace("@,@,@,@", &format!("{SIXTEEN},{SIXTEEN},{SIXTEEN},{fifteen}"));
    let bodies = [
        String::new(),
        "{".into(),
        "nonsense".into(),
        "null".into(),
        "[]".into(),
        "3".into(),
        "{}".into(),
        r#"{"sequnce":[]}"#.into(),
        r#"{"sequence":null,"features":null}"#.into(),
        format!(r#"{{"sequence":{window},"features":{SIXTEEN}}}"#),
        r#"{"sequence":[],"features":[],"instances":[]}"#.into(),
        format!(r#"{{"features":{SIXTEEN},"features":{SIXTEEN}}}"#),
        r#"{"features":[]}"#.into(),
        r#"{"features":[1,2]}"#.into(),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace("16]", "16,17,18]")),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace(",4,", ",\"4\",")),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace(",4,", ",null,")),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace(",4,", ",true,")),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace(",4,", ",NaN,")),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace(",4,", ",Infinity,")),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace(",4,", ",1e39,")),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace(",4,", ",-1e400,")),
        format!(r#"{{"features":{}}}"#, SIXTEEN.replace(",4,", ",[4],")),
        r#"{"features":7}"#.into(),
        r#"{"features":"7"}"#.into(),
        r#"{"features":{"a":1}}"#.into(),
        r#"{"sequence":[]}"#.into(),
        format!(r#"{{"sequence":{SIXTEEN}}}"#),
        format!(r#"{{"sequence":[{SIXTEEN}]}}"#),
        format!(r#"{{"sequence":{late}}}"#),
        format!(r#"{{"sequence":{}}}"#, window.replacen(']', "],[]", 1)),
        format!(r#"{{"sequence":[{window}]}}"#),
        r#"{"instances":[]}"#.into(),
        format!(r#"{{"instances":{window}}}"#),
        format!(r#"{{"instances":[{window},{window},{window}]}}"#),
        format!(r#"{{"instances":[{window},{late}]}}"#),
        format!(r#"{{"features":{SIXTEEN}}} and more"#),
    ];
    let mut out = String::new();
    for body in &bodies {
        let shown = body.replace(&window, "WINDOW").replace(SIXTEEN, "ROW");
        let shown = if shown.len() > 120 { format!("{}...", &shown[..120]) } else { shown };
        let reply = server.post("/predict", body);
        assert!((400..500).contains(&reply.status), "{body}: {reply:?}");
        show(&mut out, &format!("POST /predict {shown}"), &reply);
    }
    for (headers, body) in [
        (vec![("content-type", "text/csv")], "1,2,3"),
        (vec![("content-type", "application/json"), ("content-encoding", "gzip")], "x"),
        (vec![("content-type", "application/json"), ("inference-header-content-length", "5")], "{}"),
    ] {
        let reply = server.open().send("POST", "/predict", &headers, body.as_bytes());
        show(&mut out, &format!("POST /predict {headers:?} {body}"), &reply);
    }
    insta::assert_snapshot!(out);
    assert_eq!(server.metric("rul_requests_total{status=\"error\"}"), bodies.len() as f64 + 3.0);
    assert_eq!(server.metric("rul_requests_total{status=\"ok\"}"), 0.0);
}

#[test]
fn every_refusal_of_the_protocols() {
    let server = Server::start(&["--max-batch", "2"]);
    let data = vec!["1"; 480].join(",");
    let tensor = |change: &str, to: &str| {
        let whole = format!(r#"{{"inputs":[{{"name":"input","shape":[1,30,16],"datatype":"FP32","data":[{data}]}}]}}"#);
        assert!(whole.contains(change), "{change}");
        whole.replacen(change, to, 1)
    };
    let infer = "/v2/models/cmapss-rul/infer";
    let requests = [
        (infer, "{}".to_owned()),
        (infer, r#"{"inputs":5}"#.to_owned()),
        (infer, r#"{"inputs":[]}"#.to_owned()),
        (infer, r#"{"inputs":[{},{}]}"#.to_owned()),
        (infer, tensor("\"name\":\"input\",", "")),
        (infer, tensor("\"input\"", "\"x\"")),
        (infer, tensor("FP32", "BYTES")),
        (infer, tensor("[1,30,16]", "[30,16]")),
        (infer, tensor("[1,30,16]", "[1,30,-16]")),
        (infer, tensor("[1,30,16]", "[0,30,16]")),
        (infer, tensor("[1,30,16]", "[3,30,16]")),
        (infer, tensor("[1,30,16]", "[2,30,16]")),
        (infer, tensor("[1,1,", "[\"1\",1,")),
        (infer, tensor("[1,1,", "[[1,1],[1],")),
        (infer, tensor(&format!(",\"data\":[{data}]"), "")),
        (infer, tensor(&format!("[{data}]"), &format!("[{data},{data},1]"))),
        (infer, tensor("}]}", "}],\"outputs\":[{\"name\":\"y\"}]}")),
        (infer, tensor("}]}", "}],\"inputs\":[]}")),
        ("/v2/models/other/infer", tensor("1", "1")),
        ("/v2/models/cmapss-rul/versions/7/infer", tensor("1", "1")),
        ("/v1/models/cmapss-rul", "{}".to_owned()),
        ("/v1/models/other:predict", "{}".to_owned()),
        ("/v1/models/cmapss-rul:predict", "{}".to_owned()),
        ("/v1/models/cmapss-rul:predict", format!(r#"{{"features":{SIXTEEN}}}"#)),
        ("/v1/models/cmapss-rul:predict", r#"{"instances":[[[1]]]}"#.to_owned()),
    ];
    let mut out = String::new();
    for (path, body) in requests {
        let shown = body.replace(&data, "DATA");
        let shown = if shown.len() > 200 { format!("{}...", &shown[..200]) } else { shown };
        let reply = server.post(path, &body);
        assert!((400..500).contains(&reply.status), "{body}: {reply:?}");
        show(&mut out, &format!("POST {path} {shown}"), &reply);
    }
    insta::assert_snapshot!(out);
}
