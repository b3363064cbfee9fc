//! Both models on all held-out engines, window by window: what the report draws. `rul promote` decides with the same engines.

use std::path::Path;

use cmapss::FeatureSet;
use cmapss::files::TestSet;
use cmapss::scale::Unscaled;
use cmapss::windows::{Short, WindowSpec, Windows};

use super::data::{Data, Set};
use super::error::Error;
use crate::artifact::Artifact;

/// Windows predicted in one go.
const BATCH: usize = 256;

/// True and predicted remaining life, cycles; the truth is capped as the model's answers are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub truth: f64,
    pub predicted: f64,
}

/// One model on one data set.
#[derive(Debug, Clone)]
pub struct Scored {
    pub points: Vec<Point>,
}

impl Scored {
    /// Root of the mean squared error over all windows, cycles.
    pub fn rmse(&self) -> f64 {
        rmse(self.points.iter())
    }

    /// The same by true remaining life, in steps of `step` cycles: middle of the step and error.
    pub fn by_truth(&self, step: f64, cap: f64) -> Vec<(f64, f64)> {
        let steps = (cap / step).ceil() as usize;
        let of = |k: usize| {
            let (low, high) = (k as f64 * step, (k + 1) as f64 * step);
            let last = k + 1 == steps;
            let inside = |p: &&Point| p.truth >= low && (p.truth < high || last);
            let points: Vec<&Point> = self.points.iter().filter(inside).collect();
            (!points.is_empty()).then(|| ((low + high.min(cap)) / 2.0, rmse(points.into_iter())))
        };
        (0..steps).filter_map(of).collect()
    }
}

fn rmse<'a>(points: impl Iterator<Item = &'a Point>) -> f64 {
    let (sum, n) = points.fold((0.0, 0), |(sum, n), p| (sum + (p.predicted - p.truth).powi(2), n + 1));
    (sum / f64::from(n.max(1))).sqrt()
}

/// One model on both data sets.
#[derive(Debug)]
pub struct Model {
    pub artifact: Artifact,
    pub usual: Scored,
    pub new: Scored,
}

impl Model {
    /// # Errors
    /// An artifact that cannot be read, or does not fit the data.
    pub fn score(artifact: &Path, data: &Data) -> Result<Self, Error> {
        let artifact = Artifact::read(artifact)?;
        let (usual, new) = (scored(&artifact, &data.usual)?, scored(&artifact, &data.new)?);
        Ok(Self { artifact, usual, new })
    }

    pub fn sha256(&self) -> &str {
        &self.artifact.manifest.sha256
    }
}

fn scored(artifact: &Artifact, set: &Set) -> Result<Scored, Error> {
    let model = &artifact.model;
    let features = FeatureSet::by_names(artifact.manifest.features.iter().map(String::as_str))?;
    let cap = model.cap();
    let TestSet { fleet, rul } = &set.test;
    let spec = WindowSpec { length: model.window(), stride: 1, short: Short::RepeatFirst, cap: None, last_only: false };
    let windows = Windows::with_rul(&fleet.engines, rul, &Unscaled(features), spec)?;
    let size = windows.length * windows.features;
    let mut points = Vec::with_capacity(windows.len());
    for (values, labels) in windows.values.chunks(BATCH * size).zip(windows.labels.chunks(BATCH)) {
        let predicted = model.predict_all(values).map_err(crate::artifact::Error::from)?;
        let point = |(p, t): (f32, &f32)| Point { truth: f64::from(t.min(cap)), predicted: f64::from(p) };
        points.extend(predicted.into_iter().zip(labels).map(point));
    }
    Ok(Scored { points })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_by_true_life() {
        let point = |truth, predicted| Point { truth, predicted };
        let scored = Scored { points: vec![point(0.0, 3.0), point(24.9, -1.1 + 24.0), point(125.0, 120.0)] };
        let by = scored.by_truth(25.0, 125.0);
        assert_eq!(by.iter().map(|b| b.0).collect::<Vec<_>>(), [12.5, 112.5]);
        assert!((by[1].1 - 5.0).abs() < 1e-12 && (by[0].1 - (6.5f64).sqrt()).abs() < 1e-9, "{by:?}");
        assert!((scored.rmse() - (38.0f64 / 3.0).sqrt()).abs() < 1e-9);
    }
}
