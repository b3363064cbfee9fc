//! Two-sample Kolmogorov-Smirnov test, two-sided.

use crate::error::{StatError, check_ordered};
use crate::kstwo::kstwo_sf;

/// How to turn D into a p-value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Exact when both samples have at most 10,000 values, else asymptotic: scipy's default.
    Auto,
    /// Exact; asymptotic only where the lattice is too large (lcm(n1, n2) does not fit in 31 bits), as in scipy.
    Exact,
    /// The finite-n one-sample law at n = round(n1 n2 / (n1 + n2)), as scipy's `asymp`.
    Asymptotic,
}

/// Largest sample for which [`Method::Auto`] is exact.
pub const AUTO_EXACT_LIMIT: usize = 10_000;

/// Result of a two-sample test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KsTest {
    /// Largest difference between the two empirical distribution functions, 0..=1.
    pub d: f64,
    /// Probability of a D at least this large when both samples come from one continuous distribution.
    pub p: f64,
    /// Where the largest difference lies.
    pub location: f64,
    /// Sizes of the reference and the current sample.
    pub n: (usize, usize),
    /// Whether `p` is exact or asymptotic ([`Method::Auto`] never appears here).
    pub method: Method,
}

/// Compares two samples of any order. Ties count as scipy counts them (right-continuous distribution functions).
///
/// # Errors
/// An empty sample or a NaN.
pub fn ks_test(reference: &[f64], current: &[f64], method: Method) -> Result<KsTest, StatError> {
    let (lattice, h, location) = largest_gap(reference, current)?;
    let (p, method) = lattice.p_value(h, method);
    Ok(KsTest { d: lattice.statistic(h), p, location, n: (reference.len(), current.len()), method })
}

/// D alone, without the cost of a p-value.
///
/// # Errors
/// As [`ks_test`].
pub fn ks_distance(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let (lattice, h, _) = largest_gap(reference, current)?;
    Ok(lattice.statistic(h))
}

/// The largest gap in lattice units, and where it lies.
fn largest_gap(reference: &[f64], current: &[f64]) -> Result<(Lattice, u128, f64), StatError> {
    check_ordered("reference", reference)?;
    check_ordered("current", current)?;
    let sorted = |values: &[f64]| {
        let mut v = values.to_vec();
        v.sort_unstable_by(f64::total_cmp);
        v
    };
    let (a, b) = (sorted(reference), sorted(current));
    let (mut i, mut j) = (0, 0);
    let lattice = Lattice::new(a.len(), b.len());
    let (mut h, mut location) = (0, a[0].min(b[0]));
    while i < a.len() || j < b.len() {
        let value = match (a.get(i), b.get(j)) {
            (Some(&x), Some(&y)) => x.min(y),
            (Some(&x), None) => x,
            (None, Some(&y)) => y,
            (None, None) => break,
        };
        while a.get(i).is_some_and(|&x| x == value) {
            i += 1;
        }
        while b.get(j).is_some_and(|&y| y == value) {
            j += 1;
        }
        let gap = lattice.gap(i as u64, j as u64);
        if gap > h {
            h = gap;
            location = value;
        }
    }
    Ok((lattice, h, location))
}

/// The lattice of a two-sample test: a merged sample is a path from (0, 0) to (n1, n2), D is a whole number of steps of
/// 1 / lcm(n1, n2), so comparisons are exact in integers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lattice {
    n1: usize,
    n2: usize,
    /// n1 and n2 divided by their greatest common divisor.
    g1: i128,
    g2: i128,
}

impl Lattice {
    /// Both sizes must be positive; callers check that for their error message.
    pub(crate) fn new(n1: usize, n2: usize) -> Self {
        let (mut a, mut b) = (n1, n2);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        let divisor = a.max(1);
        Self { n1, n2, g1: (n1 / divisor) as i128, g2: (n2 / divisor) as i128 }
    }

    /// |i/n1 - j/n2| in units of 1/lcm.
    pub(crate) fn gap(&self, i: u64, j: u64) -> u128 {
        self.signed_gap(i, j).unsigned_abs()
    }

    /// i/n1 - j/n2 in units of 1/lcm.
    pub(crate) fn signed_gap(&self, i: u64, j: u64) -> i128 {
        i128::from(i) * self.g2 - i128::from(j) * self.g1
    }

    fn lcm(&self) -> f64 {
        self.g1 as f64 * self.n2 as f64
    }

    /// D of a gap of `h` units.
    pub(crate) fn statistic(&self, h: u128) -> f64 {
        (h as f64 / self.lcm()).min(1.0)
    }

    /// P(D >= h units), and the method that was used.
    pub(crate) fn p_value(&self, h: u128, method: Method) -> (f64, Method) {
        let exact = match method {
            Method::Auto => self.n1.max(self.n2) <= AUTO_EXACT_LIMIT,
            Method::Exact => self.lcm() < f64::from(i32::MAX),
            Method::Asymptotic => false,
        };
        if exact { (self.exact(h), Method::Exact) } else { (self.asymptotic(h), Method::Asymptotic) }
    }

    fn asymptotic(&self, h: u128) -> f64 {
        let (a, b) = (self.n1 as f64, self.n2 as f64);
        let n = (a * b / (a + b)).round_ties_even();
        // Two single values round to n = 0, where scipy answers NaN; n = 1 is the smallest law that exists.
        kstwo_sf(n.max(1.0) as u64, self.statistic(h)).unwrap_or(1.0)
    }

    /// Walks all equally likely paths at once, antidiagonal by antidiagonal, and collects the mass that leaves the band
    /// |x/n1 - y/n2| < D. Only positive terms are added, so p keeps its relative accuracy however small it is.
    /// Time O(n1 n2) at most (only the band is visited), memory O(min(n1, n2)).
    fn exact(&self, h: u128) -> f64 {
        if h == 0 {
            return 1.0;
        }
        let Ok(h) = i128::try_from(h) else { return 0.0 };
        // y runs over the smaller sample.
        let (n1, n2, g1, g2) = if self.n1 >= self.n2 {
            (self.n1, self.n2, self.g1, self.g2)
        } else {
            (self.n2, self.n1, self.g2, self.g1)
        };
        let steps = n1 + n2;
        let (nx, ny) = (n1 as f64, n2 as f64);
        let mut mass = vec![0.0f64; n2 + 2];
        mass[0] = 1.0;
        let (mut low, mut high) = (0usize, 0usize);
        let mut absorbed = 0.0;
        for s in 1..=steps {
            // After s steps x = s - y; from (x-1, y) go right with (n1-x+1)/left, from (x, y-1) up with (n2-y+1)/left.
            let inverse_left = 1.0 / (steps - s + 1) as f64;
            let right_base = nx - s as f64 + 1.0;
            let top = (high + 1).min(n2);
            let bottom = low.max(s.saturating_sub(n1));
            for y in (bottom.max(1)..=top).rev() {
                let yf = y as f64;
                mass[y] = (mass[y] * (right_base + yf) + mass[y - 1] * (ny - yf + 1.0)) * inverse_left;
            }
            if bottom == 0 {
                mass[0] *= right_base * inverse_left;
            } else {
                // Nothing may come from below the range again.
                mass[bottom - 1] = 0.0;
            }
            // Inside the band: |s g2 - y (g1 + g2)| < h.
            let centre = s as i128 * g2;
            let sum = g1 + g2;
            let first = (centre - h).div_euclid(sum) + 1;
            let last = (centre + h - 1).div_euclid(sum);
            let first = usize::try_from(first).unwrap_or(0).max(bottom);
            let last = usize::try_from(last).unwrap_or(0).min(top);
            for y in (bottom..first.min(top + 1)).chain((last + 1).max(first)..=top) {
                absorbed += mass[y];
                mass[y] = 0.0;
            }
            if first > last {
                break;
            }
            (low, high) = (first, last);
        }
        absorbed.min(1.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every path counted: the definition itself, for small samples.
    fn p_by_enumeration(n1: usize, n2: usize, h: u128) -> f64 {
        let lattice = Lattice::new(n1, n2);
        let (mut outside, mut all) = (0u64, 0u64);
        for bits in 0u32..1 << (n1 + n2) {
            if bits.count_ones() as usize != n1 {
                continue;
            }
            all += 1;
            let (mut i, mut j, mut reached) = (0, 0, false);
            for step in 0..n1 + n2 {
                if bits >> step & 1 == 1 {
                    i += 1;
                } else {
                    j += 1;
                }
                reached |= lattice.gap(i, j) >= h;
            }
            outside += u64::from(reached);
        }
        outside as f64 / all as f64
    }

    #[test]
    fn exact_is_the_share_of_paths() {
        for (n1, n2) in [(1, 1), (1, 5), (4, 4), (6, 3), (5, 7), (9, 6)] {
            let lattice = Lattice::new(n1, n2);
            for h in 0..=lattice.lcm() as u128 {
                let want = p_by_enumeration(n1, n2, h);
                let got = lattice.exact(h);
                assert!((got - want).abs() < 1e-14, "{n1} {n2} {h}: {got} {want}");
            }
        }
    }

    #[test]
    fn errors_are_typed() {
        let empty = ks_test(&[], &[1.0], Method::Auto);
        assert_eq!(empty, Err(StatError::Empty { what: "reference" }));
        let nan = ks_test(&[1.0], &[0.0, f64::NAN], Method::Auto).unwrap_err();
        assert!(nan.to_string().contains("current[1] is NaN"), "{nan}");
        assert!(ks_test(&[f64::NEG_INFINITY, 1.0], &[f64::INFINITY], Method::Auto).is_ok());
    }

    #[test]
    fn methods_are_chosen_as_scipy_does() {
        let long: Vec<f64> = (0..10_001).map(f64::from).collect();
        let used = |a: &[f64], b: &[f64], m| ks_test(a, b, m).unwrap().method;
        assert_eq!(used(&long, &[5.0], Method::Auto), Method::Asymptotic);
        assert_eq!(used(&long[..10_000], &[5.0], Method::Auto), Method::Exact);
        assert_eq!(used(&long, &[5.0], Method::Exact), Method::Exact);
        let coprime: Vec<f64> = (0..300_007).map(f64::from).collect();
        assert_eq!(used(&coprime, &long, Method::Exact), Method::Asymptotic);
    }

    #[test]
    fn single_values() {
        let test = ks_test(&[1.0], &[2.0], Method::Exact).unwrap();
        assert_eq!((test.d, test.p, test.location), (1.0, 1.0, 1.0));
        assert_eq!(ks_test(&[1.0], &[1.0], Method::Asymptotic).unwrap().p, 1.0);
    }

    #[test]
    fn far_tail_does_not_round_to_zero_or_negative() {
        // D = 1: exactly two of C(200, 100) paths.
        let p = Lattice::new(100, 100).exact(100);
        let want = 2.0 / (1..=100).fold(1.0, |c, i| c * f64::from(100 + i) / f64::from(i));
        assert!((p / want - 1.0).abs() < 1e-12, "{p:e} {want:e}");
    }

    proptest! {
        #[test]
        fn invariant_under_monotone_maps_and_order(
            a in prop::collection::vec(-50.0f64..50.0, 1..60),
            b in prop::collection::vec(-50.0f64..50.0, 1..60),
        ) {
            let plain = ks_test(&a, &b, Method::Auto).unwrap();
            // Powers of two times odd cube: strictly increasing and exact enough to keep ties as ties.
            let map = |v: &[f64]| v.iter().rev().map(|x| (x / 16.0).sinh() + 3.0).collect::<Vec<_>>();
            let mapped = ks_test(&map(&a), &map(&b), Method::Auto).unwrap();
            prop_assert_eq!(plain.d, mapped.d);
            prop_assert_eq!(plain.p, mapped.p);
            let swapped = ks_test(&b, &a, Method::Auto).unwrap();
            prop_assert_eq!(plain.d, swapped.d);
            prop_assert!((plain.p - swapped.p).abs() <= 1e-13 * plain.p);
        }

        #[test]
        fn p_falls_as_d_grows(n1 in 1usize..80, n2 in 1usize..80) {
            let lattice = Lattice::new(n1, n2);
            let lcm = lattice.lcm() as u128;
            let mut last = 1.0;
            for h in (0..=lcm).step_by((lcm as usize / 50).max(1)) {
                let p = lattice.exact(h);
                prop_assert!(p <= last * (1.0 + 1e-12));
                prop_assert!((0.0..=1.0).contains(&p));
                last = p;
            }
        }
    }
}
