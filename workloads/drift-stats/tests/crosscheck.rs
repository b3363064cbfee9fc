//! Runs crosscheck/scipy_check.py on seeded random cases where a Python with scipy is at hand (`PYTHON`, else `python3`).

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use drift_stats::edges::{NumpyRule, numpy_edges};
use drift_stats::ks::{Method, ks_test};
use drift_stats::kstwo::kstwo_sf;
use drift_stats::rng::Rng;
use drift_stats::special::{chi2_quantile, chi2_sf};
use drift_stats::{chi2, evidently, multiple};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// A sample of 1..=largest values: shifted, sometimes rounded (ties) or capped.
fn sample(rng: &mut Rng, largest: usize, shift: f64) -> Vec<f64> {
    let n = 1 + rng.below(largest);
    let shape = rng.below(3);
    (0..n)
        .map(|_| {
            let v = shift + 100.0 * rng.uniform().powi(2);
            match shape {
                0 => v,
                1 => v.round(),
                _ => v.min(70.0),
            }
        })
        .collect()
}

fn cases(rng: &mut Rng) -> String {
    let mut out = String::new();
    let line = |out: &mut String, text: String| writeln!(out, "{{{text}}}").unwrap();
    for i in 0..150 {
        let largest = if i % 10 == 0 { 2000 } else { 150 };
        let shift = [0.0, 3.0, 15.0, 60.0][rng.below(4)];
        let (a, b) = (sample(rng, largest, 0.0), sample(rng, largest, shift));
        let exact = ks_test(&a, &b, Method::Exact).unwrap();
        // Below one effective observation scipy's law is not defined.
        let (n, m) = (a.len() as f64, b.len() as f64);
        if n * m / (n + m) > 0.5 {
            let p = |m| ks_test(&a, &b, m).unwrap().p;
            line(
                &mut out,
                format!(
                    r#""kind":"ks","a":{a:?},"b":{b:?},"d":{:?},"exact":{:?},"asymptotic":{:?},"auto":{:?}"#,
                    exact.d,
                    exact.p,
                    p(Method::Asymptotic),
                    p(Method::Auto)
                ),
            );
        }
        let s = evidently::scores(&a, &b).unwrap();
        line(
            &mut out,
            format!(
                r#""kind":"evidently","a":{a:?},"b":{b:?},"psi":{:?},"js":{:?},"w":{:?},"kl":{:?},"hellinger":{:?},"ks_p":{:?}"#,
                s.psi, s.jensen_shannon, s.wasserstein_normed, s.kl, s.hellinger, s.ks_p
            ),
        );
        for (rule, name) in [(NumpyRule::Sturges, "sturges"), (NumpyRule::Doane, "doane")] {
            let edges = numpy_edges(&a, rule).unwrap();
            line(&mut out, format!(r#""kind":"edges","rule":"{name}","values":{a:?},"edges":{edges:?}"#));
        }
    }
    for _ in 0..200 {
        let n = 10f64.powf(rng.uniform() * 6.2) as u64 + 1;
        let x = (rng.uniform() * 4.0 / (n as f64).sqrt()).min(0.999);
        let sf = kstwo_sf(n, x).unwrap();
        line(&mut out, format!(r#""kind":"kstwo","n":{n},"x":{x:?},"sf":{sf:?}"#));
    }
    for _ in 0..200 {
        let df = 1.0 + rng.below(60) as f64;
        let x = df * 3.0 * rng.uniform();
        line(&mut out, format!(r#""kind":"chi2","x":{x:?},"df":{df:?},"sf":{:?}"#, chi2_sf(x, df)));
        let q = 0.001 + 0.998 * rng.uniform();
        line(&mut out, format!(r#""kind":"chi2_quantile","q":{q:?},"df":{df:?},"x":{:?}"#, chi2_quantile(q, df)));
    }
    for _ in 0..50 {
        let cells = 2 + rng.below(8);
        let mut counts = || (0..cells).map(|_| 1 + rng.below(300) as u64).collect::<Vec<_>>();
        let (a, b) = (counts(), counts());
        let test = chi2::homogeneity(&a, &b).unwrap();
        line(
            &mut out,
            format!(r#""kind":"homogeneity","a":{a:?},"b":{b:?},"statistic":{:?},"p":{:?}"#, test.statistic, test.p),
        );
        let p: Vec<f64> = (0..18).map(|_| rng.uniform().powi(4)).collect();
        let adjusted = multiple::benjamini_hochberg(&p).unwrap();
        line(&mut out, format!(r#""kind":"bh","p":{p:?},"adjusted":{adjusted:?}"#));
    }
    out
}

#[test]
fn scipy_agrees() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_scipy = Command::new(&python)
        .args(["-c", "import scipy.stats"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !has_scipy {
        eprintln!("skipped: {python} has no scipy (set PYTHON to one that has)");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/crosscheck/scipy_check.py");
    let mut child = Command::new(&python).arg(script).stdin(Stdio::piped()).spawn().unwrap();
    let input = cases(&mut Rng::new(20_240_607));
    let sent = child.stdin.take().unwrap().write_all(input.as_bytes());
    let status = child.wait().unwrap();
    assert!(status.success(), "scipy disagrees, see the lines above");
    sent.unwrap();
}
