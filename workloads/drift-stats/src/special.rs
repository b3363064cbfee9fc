//! The special functions behind the p-values, written to keep relative accuracy in the tails.
//!
//! The common trick (Loader 2000, "Fast and accurate computation of binomial probabilities"): write factorials and powers
//! as Stirling corrections and deviances, so that large logarithms never cancel.

use std::f64::consts::{LN_2, PI};

/// ln n! minus Stirling's leading terms: `lnΓ(a+1) - (a+1/2) ln a + a - ln(2π)/2`, for a > 0.
pub(crate) fn stirling_error(a: f64) -> f64 {
    const DIRECT: f64 = 16.0;
    if a >= DIRECT {
        let inv = 1.0 / a;
        let inv2 = inv * inv;
        // Bernoulli numbers B_2j / (2j (2j-1)).
        return inv
            * (1.0 / 12.0
                - inv2 * (1.0 / 360.0 - inv2 * (1.0 / 1260.0 - inv2 * (1.0 / 1680.0 - inv2 * (1.0 / 1188.0)))));
    }
    // Climb to where the series is good: Γ(a+1) = Γ(a+k+1) / ((a+1)...(a+k)).
    let mut product = 1.0;
    let mut b = a;
    while b < DIRECT {
        b += 1.0;
        product *= b;
    }
    (b + 0.5) * b.ln() - b + stirling_error(b) - f64::ln(product) - (a + 0.5) * a.ln() + a
}

/// `u - ln(1+u)` without cancellation near 0, for u > -1.
pub(crate) fn log1p_deviance(u: f64) -> f64 {
    if u.abs() > 0.25 {
        return u - u.ln_1p();
    }
    // ln(1+u) = 2 atanh(r) with r = u/(2+u); u - 2r = u r.
    let r = u / (2.0 + u);
    let r2 = r * r;
    let (mut sum, mut power, mut k) = (0.0, r * r2, 3.0);
    while power.abs() > f64::EPSILON * 1e-3 * (u * r).abs() && k < 60.0 {
        sum += power / k;
        power *= r2;
        k += 2.0;
    }
    u * r - 2.0 * sum
}

/// Regularised lower and upper incomplete gamma functions (P, Q) at shape a > 0 and x >= 0; both keep relative accuracy.
fn incomplete_gamma(a: f64, x: f64) -> (f64, f64) {
    if x <= 0.0 {
        return (0.0, 1.0);
    }
    if x == f64::INFINITY {
        return (1.0, 0.0);
    }
    // x^a e^-x / Γ(a+1), through the deviance a ln(a/x) + x - a.
    let u = (x - a) / a;
    let deviance = if u.abs() <= 0.25 { a * log1p_deviance(u) } else { x - a - a * (x / a).ln() };
    let front = (-stirling_error(a) - deviance).exp() / (2.0 * PI * a).sqrt();
    if x < a + 1.0 {
        let (mut term, mut sum, mut k) = (1.0, 1.0, a);
        for _ in 0..100_000 {
            k += 1.0;
            term *= x / k;
            sum += term;
            if term < sum * f64::EPSILON * 0.1 {
                break;
            }
        }
        let p = (front * sum).min(1.0);
        return (p, 1.0 - p);
    }
    // Modified Lentz for the continued fraction of Q.
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut h = d;
    for i in 1..100_000 {
        let n = f64::from(i);
        let an = -n * (n - a);
        b += 2.0;
        d = an * d + b;
        d = 1.0 / if d.abs() < TINY { TINY } else { d };
        c = b + an / c;
        if c.abs() < TINY {
            c = TINY;
        }
        h *= d * c;
        if (d * c - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    let q = (front * a * h).clamp(0.0, 1.0);
    (1.0 - q, q)
}

/// P(X > x) for a chi-squared variable with `df` > 0 degrees of freedom; NaN for a NaN or a non-positive `df`.
#[must_use]
pub fn chi2_sf(x: f64, df: f64) -> f64 {
    if x.is_nan() || !(df > 0.0 && df.is_finite()) {
        return f64::NAN;
    }
    incomplete_gamma(df / 2.0, x / 2.0).1
}

/// P(X <= x) for a chi-squared variable with `df` > 0 degrees of freedom; NaN for a NaN or a non-positive `df`.
#[must_use]
pub fn chi2_cdf(x: f64, df: f64) -> f64 {
    if x.is_nan() || !(df > 0.0 && df.is_finite()) {
        return f64::NAN;
    }
    incomplete_gamma(df / 2.0, x / 2.0).0
}

/// The x with `chi2_cdf(x, df) = q`; 0 for q <= 0, infinity for q >= 1, NaN for a NaN or a non-positive `df`.
#[must_use]
pub fn chi2_quantile(q: f64, df: f64) -> f64 {
    if q.is_nan() || !(df > 0.0 && df.is_finite()) {
        return f64::NAN;
    }
    if q <= 0.0 {
        return 0.0;
    }
    if q >= 1.0 {
        return f64::INFINITY;
    }
    // Compare in the smaller tail, so that q close to 1 is not rounded away.
    let below = |x: f64| {
        if q > 0.5 { chi2_sf(x, df) > 1.0 - q } else { chi2_cdf(x, df) < q }
    };
    let (mut low, mut high) = (0.0, df + 1.0);
    while below(high) {
        low = high;
        high *= 2.0;
    }
    // Bisection: slow, but it cannot fail, and this runs a handful of times per evaluation.
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return middle;
        }
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// P(D_n+ >= d): survival of the one-sided one-sample Kolmogorov-Smirnov statistic (Smirnov 1944), as scipy's `smirnov`.
///
/// The v-th term of the Birnbaum-Tingey sum is `d/(d+v/n)` times a binomial probability, so all terms are positive and
/// each is computed to full relative accuracy. Above 10^6 the limit form is used, as scipy does.
pub(crate) fn smirnov_sf(n: u64, d: f64) -> f64 {
    const LARGEST_SUM: u64 = 1_000_000;
    if d <= 0.0 {
        return 1.0;
    }
    if d >= 1.0 {
        return 0.0;
    }
    let nf = n as f64;
    if n > LARGEST_SUM {
        let log_p = -(6.0 * nf * d + 1.0).powi(2) / (18.0 * nf);
        return if log_p < -LN_2 { log_p.exp() } else { 1.0 + log_p.exp_m1() };
    }
    let t = nf * d;
    let mut sum = (nf * (-d).ln_1p()).exp();
    let error_n = stirling_error(nf);
    let last = (nf - t).floor() as u64;
    for v in 1..=last.min(n - 1) {
        let vf = v as f64;
        let rest = nf - vf;
        if rest - t <= 0.0 {
            break;
        }
        let log = error_n
            - stirling_error(vf)
            - stirling_error(rest)
            - vf * log1p_deviance(t / vf)
            - rest * log1p_deviance(-t / rest);
        sum += t / (t + vf) * (nf / (2.0 * PI * vf * rest)).sqrt() * log.exp();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64, relative: f64) {
        assert!((got - want).abs() <= relative * want.abs(), "got {got:e}, want {want:e}");
    }

    #[test]
    fn chi2_against_closed_forms() {
        // Two degrees of freedom: exp(-x/2). Four: exp(-x/2)(1 + x/2).
        for x in [1e-6, 0.1, 1.0, 5.0, 50.0, 700.0] {
            close(chi2_sf(x, 2.0), (-x / 2.0f64).exp(), 1e-13);
            close(chi2_sf(x, 4.0), (-x / 2.0f64).exp() * (1.0 + x / 2.0), 1e-13);
            close(chi2_cdf(x, 2.0), -(-x / 2.0f64).exp_m1(), 1e-13);
        }
    }

    #[test]
    fn chi2_against_scipy() {
        // scipy 1.17.1: chi2.sf(x, df), chi2.ppf(q, df)
        let table = [
            (3.2, 1.0, 0.07363827012030258),
            (0.02, 1.0, 0.887537083981715),
            (9.5, 5.0, 0.09070739170404737),
            (80.0, 17.0, 3.835191534442211e-10),
            (1500.0, 3.0, 0.0),
            (250.0, 250.0, 0.488105320047829),
            (1000.0, 700.0, 5.741736307883754e-13),
            (3.0, 9.0, 0.9642949726850891),
        ];
        for (x, df, want) in table {
            close(chi2_sf(x, df), want, 1e-12);
        }
        let table = [
            (0.95, 9.0, 16.918977604620448),
            (0.99, 9.0, 21.665994333461924),
            (0.95, 1.0, 3.841458820694124),
            (0.999, 19.0, 43.82019596451753),
            (0.05, 29.0, 17.70836618282458),
            (0.5, 3.0, 2.3659738843753377),
            (0.95, 400.0, 447.6324678308084),
        ];
        for (q, df, want) in table {
            close(chi2_quantile(q, df), want, 1e-11);
        }
    }

    #[test]
    fn chi2_edges_have_no_panic() {
        assert!(chi2_sf(1.0, 0.0).is_nan() && chi2_sf(f64::NAN, 1.0).is_nan());
        assert!(chi2_quantile(f64::NAN, 1.0).is_nan() && chi2_quantile(0.5, -1.0).is_nan());
        assert_eq!(chi2_sf(-1.0, 3.0), 1.0);
        assert_eq!(chi2_sf(f64::INFINITY, 3.0), 0.0);
        assert_eq!(chi2_quantile(0.0, 3.0), 0.0);
        assert_eq!(chi2_quantile(1.0, 3.0), f64::INFINITY);
    }

    #[test]
    fn smirnov_against_scipy() {
        // scipy 1.17.1: scipy.special.smirnov(n, d)
        let table = [
            (1, 0.3, 0.7),
            (2, 0.5, 0.25),
            (10, 0.55, 0.0011402551607421862),
            (30, 0.1, 0.5150661722374582),
            (286, 0.295, 7.460520637292503e-23),
            (500, 0.2, 2.6284176809729344e-18),
            (8571, 0.06325, 1.4894030708424859e-30),
            (20000, 0.03, 2.258165019335496e-16),
            (2000000, 0.002, 1.1238522468464445e-07),
        ];
        for (n, d, want) in table {
            close(smirnov_sf(n, d), want, 1e-11);
        }
    }

    #[test]
    fn deviance_is_smooth_where_the_formula_changes() {
        close(log1p_deviance(0.25), 0.25 - 0.25f64.ln_1p(), 1e-14);
        close(log1p_deviance(-0.25), -0.25 - (-0.25f64).ln_1p(), 1e-14);
        close(log1p_deviance(1e-9), 5e-19, 1e-8);
    }
}
