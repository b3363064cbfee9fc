//! Whom windows are from, and what comes in.

use cmapss::synth::{Flavour, Generator};
use cmapss::{FeatureSet, Fleet};
use rul::drift::record::Inputs;
use serde_json::{Value, json};

use crate::client::{Reply, Server};
use crate::directories::{FEATURES, WINDOW, numbers, replace, rows, write};

const AUTHORISED: (&str, &str) = ("authorization", "Bearer t");

fn recent(server: &Server) -> Vec<Value> {
    let page = server.open().send("GET", "/v1/recent", &[AUTHORISED], b"").json();
    page["entries"].as_array().unwrap().clone()
}

fn who(server: &Server) -> Vec<(Value, Value)> {
    recent(server).into_iter().map(|e| (e["engine"].clone(), e["cycle"].clone())).collect()
}

#[test]
fn engines_and_cycles_are_kept_for_the_drift_watch() {
    let server = Server::start_with(&[], &[("RUL_TOKEN", "t")]);
    let window = rows(&numbers(1, WINDOW * FEATURES));
    let post = |body: Value| -> Reply { server.post("/predict", &body.to_string()) };
    // SHA-256 of "7" begins with 7902699be42c8a8e.
    let seven = json!("8719647946811673230");
    for (more, expected) in [
        (json!({}), (json!(null), json!(null))),
        (json!({ "engine": 7, "cycle": 31 }), (seven.clone(), json!(31))),
        (json!({ "engine": "7" }), (seven.clone(), json!(null))),
        (json!({ "engine": null, "cycle": 0 }), (json!(null), json!(0))),
    ] {
        let mut body = more.clone();
        body["sequence"] = json!(window);
        assert_eq!(post(body).status, 200, "{more}");
        assert_eq!(who(&server).last().unwrap(), &expected, "{more}");
    }
    let three = json!([window, window, window]);
    let batch = |body: Value| server.post("/v1/models/cmapss-rul:predict", &body.to_string());
    assert_eq!(batch(json!({ "engines": ["7", null, 7], "instances": three, "cycles": [1, 2, null] })).status, 200);
    let last: Vec<_> = who(&server).split_off(4);
    assert_eq!(last, [(seven.clone(), json!(1)), (json!(null), json!(2)), (seven, json!(null))]);

    let count = recent(&server).len();
    for (more, word) in [
        (json!({ "engine": 1.5 }), "an engine: a string or a whole number"),
        (json!({ "engine": true }), "an engine"),
        (json!({ "engine": "" }), "1 to 256 bytes"),
        (json!({ "engine": "x".repeat(257) }), "1 to 256 bytes"),
        (json!({ "cycle": -1 }), "a cycle: a whole number from 0"),
        (json!({ "cycle": "3" }), "a cycle"),
        (json!({ "cycle": 4_294_967_296u64 }), "more than 4294967295"),
        (json!({ "engines": ["7"] }), "for one window give \"engine\""),
        (json!({ "cycles": [7] }), "for one window give \"cycle\""),
    ] {
        let mut body = more.clone();
        body["sequence"] = json!(window);
        let reply = post(body);
        assert!(reply.status == 422 && reply.text().replace("\\\"", "\"").contains(word), "{more}: {}", reply.text());
    }
    for (more, word) in [
        (json!({ "engine": 7 }), "give \"engines\""),
        (json!({ "engines": [7] }), "1 entries for 2 windows"),
        (json!({ "cycles": [7, 8, 9] }), "3 entries for 2 windows"),
        (json!({ "cycles": 7 }), "a list, each a cycle"),
    ] {
        let mut body = more.clone();
        body["instances"] = json!([window, window]);
        let reply = batch(body);
        assert!(reply.status == 422 && reply.text().replace("\\\"", "\"").contains(word), "{more}: {}", reply.text());
    }
    let twice = format!(r#"{{"engine":1,"engine":2,"sequence":{}}}"#, json!(window));
    assert_eq!(server.post("/predict", &twice).status, 422);
    assert_eq!(recent(&server).len(), count, "what is refused is not kept");
}

/// Windows of an engine, raw.
fn windows(fleet: &Fleet, features: &FeatureSet) -> Vec<Vec<Vec<f32>>> {
    let rows: Vec<Vec<f32>> = fleet.engines[0]
        .rows
        .iter()
        .map(|row| features.columns().iter().map(|&c| row.get(c) as f32).collect())
        .collect();
    rows.windows(WINDOW).map(<[Vec<f32>]>::to_vec).collect()
}

#[test]
fn regimes_and_ranges_of_what_comes_in_are_counted() {
    let served = FeatureSet::served();
    let one = Generator::new(Flavour::Fd001).train(20, 1).unwrap();
    let six = Generator::new(Flavour::Fd002).train(2, 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let network = crate::directories::network(3, FEATURES);
    model::Model::save_dir(dir.path(), &network, "cmapss-rul", "1", &served.names()).unwrap();
    let inputs = Inputs::fit(&served, &one).unwrap();
    let baseline = |inputs: &Value| json!({ "histogram": { "buckets": [50.0, 100.0] }, "inputs": inputs }).to_string();
    replace(dir.path(), "baseline.json", &baseline(&json!(inputs)));
    let server = Server::start(&["--model-dir", dir.path().to_str().unwrap()]);
    let regime = |name: &str| server.metric(&format!("rul_input_regime_total{{regime=\"{name}\"}}"));
    let outside = |name: &str| server.metric(&format!("rul_input_out_of_range_total{{feature=\"{name}\"}}"));
    let total = || (0..6).map(|i| regime(&i.to_string())).sum::<f64>() + regime("unknown");
    assert_eq!(total(), 0.0, "there at zero before the first prediction");

    let send = |windows: &[Vec<Vec<f32>>]| {
        let reply = server.post("/v1/models/cmapss-rul:predict", &json!({ "instances": windows }).to_string());
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    let familiar = windows(&one, &served);
    send(&familiar[..100]);
    assert_eq!((regime("0"), total()), (100.0, 100.0));
    assert_eq!(served.names().iter().map(|name| outside(name)).sum::<f64>(), 0.0, "nothing it was not trained on");
    let strange = windows(&six, &served);
    send(&strange[..100]);
    assert_eq!(total(), 200.0);
    assert_eq!(regime("unknown"), 0.0, "all six are known places");
    let new = 200.0 - regime("0");
    assert!(new > 60.0, "{new} of 100 fly elsewhere");
    assert_eq!(outside("sensor_07"), new, "and a pressure there is far from what it was trained on");
    let mut nowhere = familiar[0].clone();
    nowhere[WINDOW - 1][0] = 17.0;
    send(&[nowhere]);
    assert_eq!(regime("unknown"), 1.0);

    // Of other features than the model's: refused as a whole.
    let mut other = json!(inputs);
    other["features"][0]["name"] = json!("s1");
    let _ = write(dir.path(), 3, "2");
    replace(dir.path(), "baseline.json", &baseline(&other));
    let end = std::time::Instant::now() + crate::client::PATIENCE;
    while !server.get("/v1/model").text().contains("baseline.json") {
        assert!(std::time::Instant::now() < end);
    }
}
