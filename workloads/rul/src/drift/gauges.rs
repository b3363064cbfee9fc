//! The numbers of a look as Prometheus' text: the earlier system's names, and the rest.

use std::fmt::Write;

use super::evaluate::Evaluation;

/// Names of all states, for one gauge each.
const STATES: [&str; 6] = ["insufficient_data", "baseline_mismatch", "stub", "ok", "suspect", "drift"];

/// What is known besides the evaluation.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// The last look succeeded.
    pub up: bool,
    /// Let the earlier system's rule fill its own gauges.
    pub seed_compat: bool,
    pub alert_firing: bool,
    pub memory_kept: bool,
    pub memory_lost: bool,
    /// Seconds since 1970.
    pub last_success: Option<u64>,
    pub seconds: f64,
    /// Looks and failed ones since the start of this process; only shown by a process that goes on.
    pub looks: Option<(u64, u64)>,
}

/// Families in the order of their first sample.
#[derive(Debug, Default)]
struct Text {
    out: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.out.push_str(name);
        for (i, (key, text)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{key}=\"{}\"", if i == 0 { "{" } else { "," }, escape(text));
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value:?}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value.into());
    }

    fn maybe(&mut self, name: &str, help: &str, value: Option<f64>) {
        // A value that was not measured is left out: any number would be taken for one.
        if let Some(value) = value.filter(|v| v.is_finite()) {
            self.gauge(name, help, value);
        }
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `drift_last_success_timestamp_seconds` alone: it has its own group at the Pushgateway, so that a failure does not take it away.
pub fn success(last: u64) -> String {
    let mut text = Text::default();
    text.gauge(
        "drift_last_success_timestamp_seconds",
        "When a look last succeeded; alert when this grows old.",
        last as f64,
    );
    text.out
}

/// Everything else. Without an evaluation (a look that failed) only what is still true.
pub fn text(evaluation: Option<&Evaluation>, circumstances: &Circumstances) -> String {
    let mut text = Text::default();
    let t = &mut text;
    t.gauge("drift_check_up", "1 when the last look succeeded, 0 when it could not look.", u8::from(circumstances.up));
    t.gauge("drift_check_duration_seconds", "Duration of the last look.", circumstances.seconds);
    t.gauge(
        "drift_memory_kept",
        "1 when the rows of windows outlive the process.",
        u8::from(circumstances.memory_kept),
    );
    t.gauge(
        "drift_memory_lost",
        "1 when the file of the memory could not be read.",
        u8::from(circumstances.memory_lost),
    );
    if let Some((looks, failures)) = circumstances.looks {
        t.family("drift_looks_total", "counter", "Looks since the start.");
        t.sample("drift_looks_total", &[], looks as f64);
        t.family("drift_look_failures_total", "counter", "Looks that could not look.");
        t.sample("drift_look_failures_total", &[], failures as f64);
    }
    let Some(evaluation) = evaluation else {
        // What the earlier system says when it cannot look.
        t.gauge("drift_check_no_data", "1 when no prediction was seen in the window.", 1);
        return text.out;
    };
    t.gauge("drift_alert_firing", "1 while the alert is raised.", u8::from(circumstances.alert_firing));
    seed_names(t, evaluation, circumstances.seed_compat);
    t.family("drift_state", "gauge", "1 for the state that the last look found.");
    for state in STATES {
        t.sample("drift_state", &[("state", state)], f64::from(u8::from(state == evaluation.state)));
    }
    let window = &evaluation.window;
    t.gauge("drift_records", "Predictions of the served version in the window.", window.records as f64);
    t.gauge("drift_engines", "Engines in the window.", window.engines as f64);
    t.gauge("drift_records_compared", "Records left after thinning to three per engine.", window.compared as f64);
    t.gauge("drift_records_without_engine", "Records that say no engine.", window.without_engine as f64);
    t.gauge("drift_records_missed", "Predictions overwritten before they were read.", window.missed as f64);
    t.gauge(
        "drift_records_outside_share",
        "Share of records with a feature far outside its training range.",
        window.outside_share,
    );
    per_cause(t, evaluation);
    t.maybe(
        "drift_crosscheck_agrees",
        "1 when the ring of recent predictions is part of what the service counted.",
        evaluation.crosscheck.as_ref().map(|c| f64::from(u8::from(c.agree))),
    );
    t.family("drift_model_info", "gauge", "Which versions face each other; always 1.");
    let model = &evaluation.model;
    let labels = [
        ("model_name", model.name.as_deref().unwrap_or_default()),
        ("serving_version", model.serving_version.as_deref().unwrap_or_default()),
        ("baseline_version", model.baseline_version.as_deref().unwrap_or_default()),
        ("baseline_sha256", model.baseline_sha256.as_str()),
    ];
    t.sample("drift_model_info", &labels, 1.0);
    text.out
}

/// The seven of the earlier system. The KS test is that of all predictions, ages mixed, as it was there.
fn seed_names(t: &mut Text, evaluation: &Evaluation, compat: bool) {
    let seed = evaluation.seed.as_ref().filter(|_| compat);
    let overall = evaluation.overall.as_ref();
    let ours = evaluation.causes.iter().find(|c| c.cause == "prediction").and_then(|c| c.value);
    let psi = if compat { seed.map(|s| s.psi) } else { ours };
    t.maybe("drift_psi", "Population stability index of the predictions.", psi);
    let (d, p) = if compat {
        (seed.map(|s| s.ks_statistic), seed.map(|s| s.ks_pvalue))
    } else {
        (overall.map(|o| o.d_low), overall.map(|o| o.p_up))
    };
    t.maybe("drift_ks_statistic", "KS distance of all predictions; ages are not told apart.", d);
    t.maybe("drift_ks_pvalue", "p-value of that distance.", p);
    let detected = if compat { seed.is_some_and(|s| s.drift) } else { evaluation.state == "drift" };
    t.gauge("drift_detected", "1 when there is drift.", u8::from(detected));
    let medians = overall.map(|o| (o.baseline_median, o.production_median));
    t.maybe("drift_baseline_median", "Median prediction in training, cycles.", medians.and_then(|m| m.0));
    t.maybe("drift_production_median", "Median prediction in the window, cycles.", medians.and_then(|m| m.1));
    let silent = evaluation.window.records == 0 && overall.is_none();
    t.gauge("drift_check_no_data", "1 when no prediction was seen in the window.", u8::from(silent));
    if !compat && let Some(seed) = &evaluation.seed {
        t.gauge("drift_seed_rule_psi", "PSI by the earlier system's rule, for comparison.", seed.psi);
        t.gauge(
            "drift_seed_rule_detected",
            "What the earlier system's rule says, for comparison.",
            u8::from(seed.drift),
        );
    }
}

fn per_cause(t: &mut Text, evaluation: &Evaluation) {
    type Get = fn(&super::evaluate::CauseReport) -> Option<f64>;
    let families: [(&str, &str, Get); 6] = [
        ("drift_cause_distance", "Distance from the baseline.", |c| c.value),
        ("drift_cause_threshold", "Distance that counts as a bad window.", |c| c.threshold),
        ("drift_cause_records", "Records behind the distance.", |c| c.value.map(|_| c.n as f64)),
        ("drift_cause_over", "1 when this look is over the threshold.", |c| {
            c.value.map(|_| f64::from(u8::from(c.over)))
        }),
        ("drift_cause_windows", "Bad windows in a row.", |c| Some(f64::from(c.windows))),
        ("drift_cause_active", "1 while the cause is in drift.", |c| Some(f64::from(u8::from(c.active)))),
    ];
    for (name, help, get) in families {
        t.family(name, "gauge", help);
        for cause in &evaluation.causes {
            if let Some(value) = get(cause) {
                t.sample(name, &[("cause", cause.cause)], value);
            }
        }
    }
    t.family("drift_cause_null", "gauge", "Quantiles of the distance on drift-free traffic of the same shape.");
    for cause in &evaluation.causes {
        for (quantile, value) in [("0.95", cause.null_95), ("0.99", cause.null_99)] {
            if let Some(value) = value {
                t.sample("drift_cause_null", &[("cause", cause.cause), ("quantile", quantile)], value);
            }
        }
    }
}
