//! What is told to Pushgateway and Prometheus, and what is read from them.

use cmapss::synth::Flavour;

use crate::client::Server;
use crate::fixture::{artifacts, drift, look, send, serve, traffic};
use crate::peers::{Running, get_json, programs, until};

const GROUP: &str = "{instance=\"\",job=\"evidently_drift_check\"}";

#[test]
fn a_failed_look_takes_the_old_numbers_away_but_not_the_last_success() {
    if programs().is_none() {
        return;
    }
    let [artifact, _] = artifacts();
    let gateway = Running::pushgateway();
    let server = serve(artifact);
    send(&server, &traffic(Flavour::Fd001, 40, 60, 10));
    let pushed = |command: &mut std::process::Command| look(command.args(["--pushgateway", &gateway.url])).0;
    assert_eq!(pushed(&mut drift(&server, artifact)), 0);
    let of = |name: &str| gateway.gauge(&format!("{name}{GROUP}"));
    for name in [
        "drift_psi",
        "drift_ks_statistic",
        "drift_ks_pvalue",
        "drift_baseline_median",
        "drift_production_median",
        "drift_seed_rule_psi",
    ] {
        assert!(of(name).is_some_and(f64::is_finite), "{name}");
    }
    let state = |state: &str| {
        gateway.gauge(&format!("drift_state{{instance=\"\",job=\"evidently_drift_check\",state=\"{state}\"}}"))
    };
    assert_eq!(
        (of("drift_detected"), of("drift_check_no_data"), of("drift_check_up")),
        (Some(0.0), Some(0.0), Some(1.0))
    );
    assert_eq!((state("ok"), state("drift"), of("drift_records")), (Some(1.0), Some(0.0), Some(400.0)));
    let succeeded =
        "drift_last_success_timestamp_seconds{instance=\"\",job=\"evidently_drift_check\",of=\"last_success\"}";
    let success = gateway.gauge(succeeded).unwrap();
    assert!(success > 1.7e9);

    drop(server);
    let mut blind = std::process::Command::new(env!("CARGO_BIN_EXE_rul"));
    blind.env_clear().args(["drift", "--service", "http://127.0.0.1:9", "--baseline"]).arg(artifact);
    assert_eq!(pushed(&mut blind), 1);
    assert_eq!((of("drift_psi"), state("ok")), (None, None), "numbers of another time");
    assert_eq!((of("drift_check_up"), of("drift_check_no_data")), (Some(0.0), Some(1.0)));
    assert_eq!(gateway.gauge(succeeded), Some(success));
}

#[test]
fn raw_samples_give_whole_numbers_across_a_restart() {
    if programs().is_none() {
        return;
    }
    let [artifact, _] = artifacts();
    let closed = |listen: &str| {
        let server = Server::start(&["--model-dir", artifact.to_str().unwrap(), "--listen", listen]);
        until("a model", || (server.get("/v1/model").status == 200).then_some(()));
        server
    };
    let server = closed("127.0.0.1:0");
    let address = server.address;
    let prometheus = Running::prometheus(address);
    let version = server.get("/v1/model").json()["version"].as_str().unwrap().to_owned();
    let scraped = |count: u64| {
        until(&format!("{count} scraped"), || {
            let query = format!("rul_prediction_count%7Bmodel_version%3D%22{version}%22%7D");
            let answer = get_json(&format!("{}/api/v1/query?query={query}", prometheus.url));
            (answer["data"]["result"][0]["value"][1] == *count.to_string()).then_some(())
        });
    };
    // The first scrape finds the histogram at zero, as it is made with the model.
    scraped(0);
    send(&server, &traffic(Flavour::Fd001, 37, 60, 3));
    scraped(111);
    drop(server);
    let server = closed(&address.to_string());
    send(&server, &traffic(Flavour::Fd001, 37, 70, 1));
    scraped(37);
    let (code, line, _) = look(drift(&server, artifact).args(["--prometheus", &prometheus.url]));
    let e = &line["evaluation"];
    assert_eq!(
        (code, &e["overall"]["n"], &e["overall"]["source"]),
        (0, &148.into(), &"histogram in Prometheus".into()),
        "{line:#}"
    );
    // The service's own counters know of one life only.
    assert_eq!(e["crosscheck"], serde_json::Value::Null);
    let (code, line, _) = look(drift(&server, artifact).args(["--prometheus", &prometheus.url, "--seed-compat"]));
    let seed = &line["evaluation"]["seed"];
    assert_eq!((code, &seed["source"]), (0, &"Prometheus".into()), "{line:#}");
    // increase() invents: it extrapolates to the edges of the window, and its sum is hardly ever whole.
    let n = seed["n"].as_f64().unwrap();
    assert!((100.0..400.0).contains(&n), "{n}");
}

#[test]
fn the_earlier_rule_decides_when_it_is_asked_to() {
    let [artifact, _] = artifacts();
    let server = serve(artifact);
    // Five engines near their end: no drift, and the earlier rule's daily bread.
    send(&server, &traffic(Flavour::Fd001, 5, 110, 15));
    let ours = look(&mut drift(&server, artifact)).1;
    assert_eq!(ours["evaluation"]["state"], "insufficient_data", "{ours:#}");
    let theirs = look(drift(&server, artifact).arg("--seed-compat")).1;
    let seed = &theirs["evaluation"]["seed"];
    assert_eq!(
        (&seed["drift"], &seed["n"], &seed["psi_threshold"]),
        (&true.into(), &75.0.into(), &0.2.into()),
        "{theirs:#}"
    );
    assert_eq!(theirs["alert_firing"], true);
}
