//! Published reference values: scipy 1.17.1 and evidently 0.7.23, to a relative 1e-9.

#![allow(clippy::unwrap_used)]

use drift_stats::evidently::{Scores, scores, wasserstein};
use drift_stats::ks::{KsTest, Method, ks_test};

/// The fixtures need no files: a + b u^2 with u running over multiples of the golden ratio.
fn seq(n: u32, a: f64, b: f64) -> Vec<f64> {
    (1..=n)
        .map(|i| {
            let u = (f64::from(i) * 0.618_033_988_749_894_9) % 1.0;
            a + b * u * u
        })
        .collect()
}

fn capped(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|v| v.min(125.0)).collect()
}

fn repeated(groups: &[(f64, usize)]) -> Vec<f64> {
    groups.iter().flat_map(|&(v, n)| std::iter::repeat_n(v, n)).collect()
}

/// Relative where the expected value is not 0 or 1.
fn close(what: &str, got: f64, want: f64) {
    let scale = if want == 0.0 { 1.0 } else { want.abs() };
    assert!((got - want).abs() <= 1e-9 * scale, "{what}: got {got:e}, reference {want:e}");
}

fn ks(a: &[f64], b: &[f64], method: Method) -> KsTest {
    ks_test(a, b, method).unwrap()
}

struct Expected {
    d: f64,
    p: f64,
    asymptotic: f64,
    w1: Option<f64>,
    scores: Scores,
}

fn check(a: &[f64], b: &[f64], want: &Expected) {
    let exact = ks(a, b, Method::Exact);
    assert_eq!(exact.method, Method::Exact);
    close("D", exact.d, want.d);
    close("exact p", exact.p, want.p);
    close("asymptotic p", ks(a, b, Method::Asymptotic).p, want.asymptotic);
    if let Some(w1) = want.w1 {
        close("W1", wasserstein(a, b).unwrap(), w1);
    }
    let got = scores(a, b).unwrap();
    assert_eq!(got.bins, want.scores.bins);
    close("PSI", got.psi, want.scores.psi);
    close("JS", got.jensen_shannon, want.scores.jensen_shannon);
    close("W normed", got.wasserstein_normed, want.scores.wasserstein_normed);
    close("KL", got.kl, want.scores.kl);
    close("Hellinger", got.hellinger, want.scores.hellinger);
    close("KS p", got.ks_p, want.scores.ks_p);
}

#[test]
fn a_shifted_predictions() {
    check(
        &seq(1000, 10.0, 115.0),
        &seq(400, 0.0, 115.0),
        &Expected {
            d: 0.295,
            p: 2.0293610742246737e-22,
            asymptotic: 1.4921041274585006e-22,
            w1: Some(9.92987904189987),
            scores: Scores {
                psi: 0.608040645852054,
                jensen_shannon: 0.2593106356333659,
                wasserstein_normed: 0.2896168804403651,
                kl: 0.2862616945957792,
                hellinger: 0.2667392193751857,
                ks_p: 2.0293610742246737e-22,
                bins: 12,
            },
        },
    );
}

#[test]
fn b_small_samples_of_one_law() {
    check(
        &seq(50, 10.0, 115.0),
        &seq(30, 10.0, 115.0),
        &Expected {
            d: 0.04,
            p: 0.999999999999879,
            asymptotic: 0.9999999999997529,
            w1: Some(1.4629433874375017),
            scores: Scores {
                psi: 0.02199414725166083,
                jensen_shannon: 0.05237412691213498,
                wasserstein_normed: 0.04312076617556724,
                kl: 0.01076672458997499,
                hellinger: 0.033714761879705034,
                ks_p: 0.999999999999879,
                bins: 8,
            },
        },
    );
}

#[test]
fn c_equal_sizes() {
    check(
        &seq(100, 0.0, 1.0),
        &seq(100, 0.05, 1.0),
        &Expected {
            d: 0.22,
            p: 0.015577131622877688,
            asymptotic: 0.013210342591067459,
            w1: Some(0.05),
            scores: Scores {
                psi: 0.0707884561466798,
                jensen_shannon: 0.0933444580572757,
                wasserstein_normed: 0.1688545841594813,
                kl: 0.03358768165431024,
                hellinger: 0.09370051099409427,
                ks_p: 0.015577131622877688,
                bins: 9,
            },
        },
    );
}

#[test]
fn d_ties_at_the_cap() {
    check(
        &capped(seq(1000, 10.0, 200.0)),
        &capped(seq(300, 40.0, 200.0)),
        &Expected {
            d: 0.387,
            p: 2.093727396981559e-31,
            asymptotic: 1.1899880917493703e-31,
            w1: Some(21.28039024519147),
            scores: Scores {
                psi: 3.021381227722901,
                jensen_shannon: 0.404314043533446,
                wasserstein_normed: 0.4796444779497981,
                kl: 2.489621134548405,
                hellinger: 0.4281372377849167,
                ks_p: 2.093727396981559e-31,
                bins: 12,
            },
        },
    );
}

#[test]
fn e_a_sample_against_itself() {
    let e = seq(500, 0.0, 100.0);
    check(
        &e,
        &e,
        &Expected {
            d: 0.0,
            p: 1.0,
            asymptotic: 1.0,
            w1: Some(0.0),
            scores: Scores {
                psi: 0.0,
                jensen_shannon: 0.0,
                wasserstein_normed: 0.0,
                kl: 0.0,
                hellinger: 0.0,
                ks_p: 1.0,
                bins: 11,
            },
        },
    );
}

#[test]
fn f_integers_one_range_inside_the_other() {
    let range = |from: u32, to: u32| (from..=to).map(f64::from).collect::<Vec<_>>();
    check(
        &range(1, 30),
        &range(5, 24),
        &Expected {
            d: 0.2,
            p: 0.6789136721225938,
            asymptotic: 0.6531903820667513,
            w1: Some(2.6),
            scores: Scores {
                psi: 1.4862388656288892,
                jensen_shannon: 0.2966479554385793,
                wasserstein_normed: 0.30038906917692404,
                kl: 1.2052398171008054,
                hellinger: 0.3372925815247385,
                ks_p: 0.6789136721225938,
                bins: 7,
            },
        },
    );
}

#[test]
fn g_few_values_make_a_bin_each() {
    check(
        &repeated(&[(1.0, 10), (2.0, 20), (3.0, 30), (4.0, 40)]),
        &repeated(&[(1.0, 40), (2.0, 30), (3.0, 20), (5.0, 10)]),
        &Expected {
            d: 0.4,
            p: 1.5550790371345692e-07,
            asymptotic: 9.863563364410107e-08,
            w1: None,
            scores: Scores {
                psi: 4.503856533404717,
                jensen_shannon: 0.48118680485937076,
                wasserstein_normed: 1.1,
                kl: 3.2185243027814625,
                hellinger: 0.3318162917087773,
                ks_p: 1.5550790371345692e-07,
                bins: 5,
            },
        },
    );
}

#[test]
fn h_and_i_large_samples_where_auto_is_asymptotic() {
    let (a, b) = (seq(12_000, 10.0, 115.0), seq(400, 9.0, 115.0));
    let exact = ks(&a, &b, Method::Exact);
    close("H D", exact.d, 0.0925);
    close("H exact", exact.p, 0.002485599505128013);
    let auto = ks(&a, &b, Method::Auto);
    assert_eq!(auto.method, Method::Asymptotic);
    close("H auto", auto.p, 0.0024786672937127875);

    let (a, b) = (seq(20_000, 0.0, 1.0), seq(15_000, 0.004, 1.0));
    let exact = ks(&a, &b, Method::Exact);
    assert_eq!(exact.method, Method::Exact);
    close("I D", exact.d, 0.06325);
    close("I exact", exact.p, 3.029939466371324e-30);
    close("I auto", ks(&a, &b, Method::Auto).p, 2.9788061416849717e-30);
}
