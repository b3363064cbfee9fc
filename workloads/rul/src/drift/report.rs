//! One look for human eyes.

use std::fmt::Write;

use super::baseline::short;
use super::evaluate::{CauseReport, Evaluation};

/// One block: who faces whom, how much was seen, every number with its n and its threshold, and the verdict.
pub fn text(e: &Evaluation, more: &[String]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let o = &mut out;
    let model = &e.model;
    let of = |version: Option<&String>, sha: Option<&str>| {
        let version = version.map_or("(not registered)", String::as_str);
        sha.map_or_else(|| version.to_owned(), |sha| format!("{version} (sha256 {})", short(sha)))
    };
    let name = model.name.as_deref().unwrap_or("no model");
    let serving = of(model.serving_version.as_ref(), model.serving_sha256.as_deref());
    let baseline = of(model.baseline_version.as_ref(), Some(&model.baseline_sha256));
    let _ = writeln!(o, "serving    {name} {serving}{}", if model.is_stub { ", a stub" } else { "" });
    let _ = writeln!(o, "baseline   {baseline}, from {}", model.baseline);
    let w = &e.window;
    let _ = writeln!(
        o,
        "window     {} s: {} records of {} engines, {} compared (at most 3 per engine)",
        w.seconds, w.records, w.engines, w.compared
    );
    let left_out: Vec<String> = [
        (w.other_versions, "of other versions"),
        (w.unusable, "unusable"),
        (w.without_engine, "without an engine"),
        (usize::try_from(w.missed).unwrap_or(usize::MAX), "overwritten unread"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, what)| format!("{n} {what}"))
    .collect();
    if !left_out.is_empty() {
        let _ = writeln!(o, "           {}", left_out.join(", "));
    }
    if w.outside_share > 0.0 {
        let most = w.outside_most.as_deref().unwrap_or("?");
        let _ = writeln!(
            o,
            "           {:.1} % far outside the training range, most often {most}",
            w.outside_share * 100.0
        );
    }
    for cause in &e.causes {
        let _ = writeln!(o, "{:<10} {}", cause.cause, numbers(cause));
    }
    for sensor in e.sensors.iter().take(3) {
        let _ = writeln!(
            o,
            "           {:<12} D {:.3}, p {:.1e}, adjusted {:.1e}",
            sensor.name, sensor.d, sensor.p, sensor.p_adjusted
        );
    }
    if let Some(all) = &e.overall {
        let median = |m: Option<f64>| m.map_or_else(|| "?".to_owned(), |m| format!("{m:.1}"));
        let _ = writeln!(
            o,
            "all ages   KS D {:.3} to {:.3}, p {:.1e} to {:.1e} (n {}, from the {}); median {} against {} cycles. For information: ages are mixed",
            all.d_low,
            all.d_up,
            all.p_low,
            all.p_up,
            all.n,
            all.source,
            median(all.production_median),
            median(all.baseline_median)
        );
    }
    if let Some(seed) = &e.seed {
        let _ = writeln!(
            o,
            "seed rule  PSI {:.3} (threshold {}), KS D {:.3}, p {:.3} (threshold {}), n {:.0}, from {}: {}",
            seed.psi,
            seed.psi_threshold,
            seed.ks_statistic,
            seed.ks_pvalue,
            seed.ks_pvalue_threshold,
            seed.n,
            seed.source,
            if seed.drift { "it alarms" } else { "no alarm" }
        );
    }
    if let Some(check) = &e.crosscheck {
        let _ = writeln!(
            o,
            "crosscheck {} in the ring, {} counted: {}",
            check.ring,
            check.counted,
            if check.agree { "they agree" } else { check.detail.as_str() }
        );
    }
    for line in e.notes.iter().chain(more) {
        let _ = writeln!(o, "note       {line}");
    }
    let _ = writeln!(o, "{:<10} {}", e.state, e.sentence);
    out
}

fn numbers(cause: &CauseReport) -> String {
    let Some(value) = cause.value else {
        let memory = if cause.active { "; in drift since earlier" } else { "" };
        return format!("{}: not measured{memory}", cause.statistic);
    };
    let mut text = format!("{} {value:.3}", cause.statistic);
    for (label, number) in [("threshold", cause.threshold), ("at once beyond", cause.strong)] {
        if let Some(number) = number {
            let _ = write!(text, ", {label} {number:.3}");
        }
    }
    if let (Some(q95), Some(q99)) = (cause.null_95, cause.null_99) {
        let _ = write!(text, ", drift-free 95/99 % {q95:.3}/{q99:.3}");
    }
    if let Some(p) = cause.p {
        let _ = write!(text, ", p {p:.1e}");
    }
    if let Some(bins) = cause.bins {
        let _ = write!(text, ", {bins} bins");
    }
    let _ = write!(text, ", n {}", cause.n);
    if cause.over {
        let _ = write!(text, ": OVER, {} in a row", cause.windows);
    }
    if cause.active {
        text.push_str(", in drift");
    }
    text
}
