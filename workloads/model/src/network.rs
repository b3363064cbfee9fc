//! The parameters, as ONNX orders them, and a slow exact forward pass that everything fast is
//! tested against.

use crate::Error;

/// Limits that keep a hostile or mistaken file from asking for the machine's memory.
pub(crate) const MAX_WIDTH: usize = 4096;
pub(crate) const MAX_LAYERS: usize = 16;
pub(crate) const MAX_WINDOW: usize = 4096;

/// Most regimes that a file may have.
pub(crate) const MAX_REGIMES: usize = 256;

/// What is done to every feature before the first layer: `(x - mean) / scale`, of what the regimes make of it where there are some.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaler {
    /// One per feature, in the units of the input, or of the regimes' output.
    pub mean: Vec<f32>,
    /// One per feature, never zero.
    pub scale: Vec<f32>,
    /// Where engines fly in several operating regimes, a sensor's level says more about altitude than about wear.
    pub regimes: Option<Regimes>,
}

/// Operating regimes: every row is first normalised within its own, `(x - mean) / scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct Regimes {
    /// Place in a row of the feature that tells them apart.
    pub column: usize,
    /// What it is in the middle of each regime, in the units of the input. A row belongs to the nearest; to the first of two that are
    /// equally near.
    pub centres: Vec<f32>,
    /// `[regime][feature]`.
    pub mean: Vec<f32>,
    /// `[regime][feature]`, never zero.
    pub scale: Vec<f32>,
}

impl Regimes {
    /// The regime of a row, by the value of its column.
    #[must_use]
    pub fn of(&self, value: f32) -> usize {
        let mut best = (0, f32::INFINITY);
        for (regime, centre) in self.centres.iter().enumerate() {
            let distance = (value - centre).abs();
            if distance < best.1 {
                best = (regime, distance);
            }
        }
        best.0
    }
}

impl Scaler {
    /// Leaves `features` numbers as they are.
    #[must_use]
    pub fn identity(features: usize) -> Self {
        Self { mean: vec![0.0; features], scale: vec![1.0; features], regimes: None }
    }

    /// Mean and standard deviation of every column of `rows` (row-major, `features` wide). A column
    /// that does not vary is only centred.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no row, a partial row, or a number that is not finite.
    pub fn fit(rows: &[f32], features: usize) -> Result<Self, Error> {
        if features == 0 || rows.is_empty() || !rows.len().is_multiple_of(features) {
            return Err(Error::invalid("scaler data", format!("{} numbers are not rows of {features}", rows.len())));
        }
        let count = (rows.len() / features) as f64;
        let mut mean = vec![0.0f64; features];
        for row in rows.chunks_exact(features) {
            for (m, x) in mean.iter_mut().zip(row) {
                *m += f64::from(*x);
            }
        }
        mean.iter_mut().for_each(|m| *m /= count);
        let mut square = vec![0.0f64; features];
        for row in rows.chunks_exact(features) {
            for ((s, x), m) in square.iter_mut().zip(row).zip(&mean) {
                *s += (f64::from(*x) - m).powi(2);
            }
        }
        if let Some(at) = square.iter().position(|s| !s.is_finite()) {
            return Err(Error::invalid("scaler data", format!("feature {at} has a number that is not finite")));
        }
        let scale = square
            .iter()
            .zip(&mean)
            .map(|(s, m)| {
                let sd = (s / count).sqrt();
                // Below the resolution of f32 the spread is rounding, not signal.
                if sd <= m.abs() * 1e-6 || sd < 1e-12 { 1.0 } else { sd as f32 }
            })
            .collect();
        Ok(Self { mean: mean.iter().map(|m| *m as f32).collect(), scale, regimes: None })
    }

    /// [`Scaler::fit`] within regimes: rows are told apart by the nearest of `centres` in `column`. Centres that no row is
    /// nearest to are left out; a single one that remains makes no regimes.
    ///
    /// # Errors
    /// As [`Scaler::fit`]; also without a finite centre and for a column that is not there.
    pub fn fit_regimes(rows: &[f32], features: usize, column: usize, centres: &[f32]) -> Result<Self, Error> {
        let whole = Self::fit(rows, features)?;
        if column >= features || centres.is_empty() || centres.iter().any(|c| !c.is_finite()) {
            return Err(Error::invalid(
                "regimes",
                format!("{} centres in column {column} of {features}", centres.len()),
            ));
        }
        let tell = Regimes { column, centres: centres.to_vec(), mean: Vec::new(), scale: Vec::new() };
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); centres.len()];
        for row in rows.chunks_exact(features) {
            parts[tell.of(row[column])].extend_from_slice(row);
        }
        let mut regimes = Regimes { centres: Vec::new(), ..tell };
        for (part, centre) in parts.iter().zip(centres).filter(|(part, _)| !part.is_empty()) {
            let fitted = Self::fit(part, features)?;
            regimes.centres.push(*centre);
            regimes.mean.extend(fitted.mean);
            regimes.scale.extend(fitted.scale);
        }
        if regimes.centres.len() < 2 {
            return Ok(whole);
        }
        Ok(Self { regimes: Some(regimes), ..Self::identity(features) })
    }

    /// Scales one row into `to`, both one number per feature.
    pub(crate) fn apply(&self, row: &[f32], to: &mut [f32]) {
        let columns = to.iter_mut().zip(row).zip(self.mean.iter().zip(&self.scale));
        let Some(regimes) = &self.regimes else {
            columns.for_each(|((to, x), (mean, scale))| *to = (x - mean) / scale);
            return;
        };
        let at = regimes.of(row[regimes.column]) * row.len();
        let inner = regimes.mean[at..].iter().zip(&regimes.scale[at..]);
        for (((to, x), (mean, scale)), (inner_mean, inner_scale)) in columns.zip(inner) {
            *to = ((x - inner_mean) / inner_scale - mean) / scale;
        }
    }

    /// One row in `f64`.
    fn exact(&self, row: &[f32]) -> Vec<f64> {
        let scaled = |x: f64, mean: f32, scale: f32| (x - f64::from(mean)) / f64::from(scale);
        let inner = |k: usize| match &self.regimes {
            None => f64::from(row[k]),
            Some(r) => {
                let at = r.of(row[r.column]) * row.len() + k;
                scaled(f64::from(row[k]), r.mean[at], r.scale[at])
            }
        };
        (0..row.len()).map(|k| scaled(inner(k), self.mean[k], self.scale[k])).collect()
    }

    /// Lengths and numbers that may not be.
    pub(crate) fn check(&self, features: usize) -> Result<(), Error> {
        let bad = |reason: String| Err(Error::invalid("scaler", reason));
        if self.mean.len() != features || self.scale.len() != features {
            return bad(format!("{} means and {} scales for {features} features", self.mean.len(), self.scale.len()));
        }
        let none = (&Vec::new(), &Vec::new());
        let (means, scales) = self.regimes.as_ref().map_or(none, |r| (&r.mean, &r.scale));
        if let Some(r) = &self.regimes {
            let count = r.centres.len();
            if count == 0 || count > MAX_REGIMES || r.column >= features {
                return bad(format!("{count} regimes (allowed 1 to {MAX_REGIMES}) told apart by column {}", r.column));
            }
            if means.len() != count * features || scales.len() != count * features {
                return bad(format!("{} means and {} scales for {count} regimes", means.len(), scales.len()));
            }
            if r.centres.iter().any(|c| !c.is_finite()) {
                return bad("the centre of a regime is not a finite number".into());
            }
        }
        let all = || self.mean.iter().chain(&self.scale).chain(means).chain(scales);
        if all().any(|x| !x.is_finite()) {
            return bad("a parameter is not a finite number".into());
        }
        if self.scale.contains(&0.0) || scales.contains(&0.0) {
            return bad("a scale is zero".into());
        }
        Ok(())
    }

    /// The same scaling for clients that send `(x - low) / (high - low)` instead of `x`. Where
    /// `high == low` such a client sends 0 and the feature is taken as its mean.
    ///
    /// # Errors
    /// [`Error::Shape`] when the bounds are not one per feature, [`Error::Invalid`] for a scaler with regimes.
    pub fn for_min_max_clients(&self, low: &[f32], high: &[f32]) -> Result<Self, Error> {
        if self.regimes.is_some() {
            return Err(Error::invalid("scaler", "with regimes it takes raw numbers only"));
        }
        for bound in [low, high] {
            if bound.len() != self.mean.len() {
                return Err(Error::Shape { what: "min-max bounds", expected: self.mean.len(), got: bound.len() });
            }
        }
        let mut out = Self::identity(self.mean.len());
        for (i, (&lo, &hi)) in low.iter().zip(high).enumerate() {
            let range = f64::from(hi) - f64::from(lo);
            if range > 0.0 {
                out.mean[i] = ((f64::from(self.mean[i]) - f64::from(lo)) / range) as f32;
                out.scale[i] = (f64::from(self.scale[i]) / range) as f32;
            }
        }
        Ok(out)
    }
}

/// One LSTM layer. Gate order everywhere: input, output, forget, cell (that of ONNX).
#[derive(Debug, Clone, PartialEq)]
pub struct Lstm {
    /// Numbers that come in per step.
    pub input: usize,
    /// Numbers that go out per step.
    pub hidden: usize,
    /// `[4 * hidden][input]`.
    pub w: Vec<f32>,
    /// `[4 * hidden][hidden]`.
    pub r: Vec<f32>,
    /// `[4 * hidden]`.
    pub b: Vec<f32>,
}

/// Scaler, LSTM layers, a linear layer on the last step's state, and a clip to `[0, cap]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Rows per window.
    pub window: usize,
    pub scaler: Scaler,
    /// First layer first; at least one.
    pub layers: Vec<Lstm>,
    /// One per unit of the last layer, in cycles.
    pub head: Vec<f32>,
    /// In cycles.
    pub bias: f32,
    /// Largest prediction, in cycles.
    pub cap: f32,
}

impl Network {
    /// Columns per row.
    #[must_use]
    pub fn features(&self) -> usize {
        self.scaler.mean.len()
    }

    /// Trainable numbers (the scaler and the cap are not).
    #[must_use]
    pub fn parameters(&self) -> usize {
        let layers: usize = self.layers.iter().map(|l| l.w.len() + l.r.len() + l.b.len()).sum();
        layers + self.head.len() + 1
    }

    /// Every length, limit and number.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first contradiction.
    pub fn check(&self) -> Result<(), Error> {
        let bad = |reason: String| Err(Error::invalid("network", reason));
        let features = self.features();
        if features == 0 || features > MAX_WIDTH {
            return bad(format!("{features} features, allowed 1 to {MAX_WIDTH}"));
        }
        if self.window == 0 || self.window > MAX_WINDOW {
            return bad(format!("window {}, allowed 1 to {MAX_WINDOW}", self.window));
        }
        self.scaler.check(features)?;
        if self.layers.is_empty() || self.layers.len() > MAX_LAYERS {
            return bad(format!("{} layers, allowed 1 to {MAX_LAYERS}", self.layers.len()));
        }
        let mut width = features;
        for (i, l) in self.layers.iter().enumerate() {
            if l.input != width {
                return bad(format!("layer {i} takes {} numbers, gets {width}", l.input));
            }
            if l.hidden == 0 || l.hidden > MAX_WIDTH {
                return bad(format!("layer {i} has {} units, allowed 1 to {MAX_WIDTH}", l.hidden));
            }
            let gates = 4 * l.hidden;
            for (name, got, want) in
                [("w", l.w.len(), gates * l.input), ("r", l.r.len(), gates * l.hidden), ("b", l.b.len(), gates)]
            {
                if got != want {
                    return bad(format!("layer {i}: {name} has {got} numbers, needs {want}"));
                }
            }
            width = l.hidden;
        }
        if self.head.len() != width {
            return bad(format!("head has {} numbers, needs {width}", self.head.len()));
        }
        if !(self.cap.is_finite() && self.cap > 0.0) {
            return bad(format!("cap {} is not a positive number", self.cap));
        }
        let finite = |xs: &[f32]| xs.iter().all(|x| x.is_finite());
        let all = self.layers.iter().all(|l| finite(&l.w) && finite(&l.r) && finite(&l.b))
            && finite(&self.head)
            && finite(&[self.bias]);
        if !all {
            return bad("a parameter is not a finite number".into());
        }
        Ok(())
    }

    /// The same function behind another scaler: the first layer takes up the difference. `scaler`
    /// must have as many features. With other regimes it cannot be the same function; the layers, which are used to standardised
    /// numbers, then stay as they are.
    #[must_use]
    pub(crate) fn rescaled(&self, scaler: &Scaler) -> Self {
        let mut out = self.clone();
        let old = &self.scaler;
        if old.regimes == scaler.regimes
            && let Some(first) = out.layers.first_mut()
        {
            for (row, b) in first.w.chunks_exact_mut(first.input).zip(&mut first.b) {
                let mut shift = 0.0;
                for (k, w) in row.iter_mut().enumerate() {
                    let wide = f64::from(*w) / f64::from(old.scale[k]);
                    shift += wide * (f64::from(scaler.mean[k]) - f64::from(old.mean[k]));
                    *w = (wide * f64::from(scaler.scale[k])) as f32;
                }
                *b = (f64::from(*b) + shift) as f32;
            }
        }
        out.scaler = scaler.clone();
        out
    }

    /// One window in `f64`, straight from the definition: the oracle for everything fast.
    ///
    /// # Errors
    /// [`Error::Shape`] when `window` is not `window x features` numbers.
    pub fn forward_exact(&self, window: &[f32]) -> Result<f64, Error> {
        let features = self.features();
        if window.len() != self.window * features {
            return Err(Error::Shape { what: "window", expected: self.window * features, got: window.len() });
        }
        let mut sequence: Vec<Vec<f64>> = window.chunks_exact(features).map(|row| self.scaler.exact(row)).collect();
        for layer in &self.layers {
            layer.forward_exact(&mut sequence);
        }
        let last = &sequence[self.window - 1];
        let y = last.iter().zip(&self.head).fold(f64::from(self.bias), |sum, (h, w)| sum + h * f64::from(*w));
        Ok(y.clamp(0.0, f64::from(self.cap)))
    }
}

impl Lstm {
    fn forward_exact(&self, sequence: &mut [Vec<f64>]) {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let dot = |weights: &[f32], xs: &[f64]| -> f64 { weights.iter().zip(xs).map(|(w, x)| f64::from(*w) * x).sum() };
        let n = self.hidden;
        let (mut h, mut c) = (vec![0.0; n], vec![0.0; n]);
        for x in sequence.iter_mut() {
            let gate: Vec<f64> = (0..4 * n)
                .map(|j| {
                    f64::from(self.b[j])
                        + dot(&self.w[j * self.input..][..self.input], x)
                        + dot(&self.r[j * n..][..n], &h)
                })
                .collect();
            for u in 0..n {
                let (i, o, f) = (gate[u], gate[n + u], gate[2 * n + u]);
                c[u] = sigmoid(f) * c[u] + sigmoid(i) * gate[3 * n + u].tanh();
                h[u] = sigmoid(o) * c[u].tanh();
            }
            x.clone_from(&h);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{network, windows};

    #[test]
    fn a_fitted_scaler_standardises() {
        // Second column: constant, as the engines' idle sensors are.
        let rows = [1.0, 518.67, -4.0, 3.0, 518.67, -6.0, 5.0, 518.67, -8.0];
        let scaler = Scaler::fit(&rows, 3).unwrap();
        assert_eq!(scaler.mean, [3.0, 518.67, -6.0]);
        let sd = (8.0f32 / 3.0).sqrt();
        assert_eq!(scaler.scale, [sd, 1.0, sd]);
        for (rows, features) in [(&rows[..8], 3), (&[], 3), (&rows, 0), (&[f32::NAN], 1)] {
            assert!(Scaler::fit(rows, features).is_err());
        }
    }

    /// A client that sends min-max numbers gets what one that sends raw numbers gets.
    #[test]
    fn min_max_clients_get_the_same_predictions() {
        let raw = network(50, 6, 4, &[8]);
        let (low, mut high) = (vec![-130.0, -90.0, -120.0, -115.0], vec![140.0, 120.0, 133.0, 0.0]);
        // A feature without a range: such clients send 0 for it.
        high[3] = low[3];
        let scaler = raw.scaler.for_min_max_clients(&low, &high).unwrap();
        let sent = Network { scaler, ..raw.clone() };
        for window in windows(51, &raw, 6).chunks_exact(24) {
            let (mut plain, mut scaled) = (window.to_vec(), window.to_vec());
            for (a, b) in plain.chunks_exact_mut(4).zip(scaled.chunks_exact_mut(4)) {
                a[3] = raw.scaler.mean[3];
                b[3] = 0.0;
                for k in 0..3 {
                    b[k] = (b[k] - low[k]) / (high[k] - low[k]);
                }
            }
            let (a, b) = (raw.forward_exact(&plain).unwrap(), sent.forward_exact(&scaled).unwrap());
            assert!((a - b).abs() < 1e-2, "{a} {b}");
        }
        assert!(raw.scaler.for_min_max_clients(&low[1..], &high).is_err());
    }
}
