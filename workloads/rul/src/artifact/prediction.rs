//! What a model says about engines that ran to failure, and the buckets that its answers are counted in.

use cmapss::scale::Unscaled;
use cmapss::windows::{Short, WindowSpec, Windows};
use cmapss::{Engine, FeatureSet};
use drift_stats::StatError;
use drift_stats::edges::deciles;
use model::{Model, Scratch};

use super::Error;

/// Windows predicted at a time.
const BATCH: usize = 240;
/// Width of the regular buckets, cycles.
const GRID: f64 = 5.0;
/// The cap has a bucket of its own: many predictions are exactly there.
const BELOW_CAP: f64 = 0.5;

/// Every window of an engine, raw, and the prediction for each.
#[derive(Debug, Clone)]
pub struct Predicted<'a> {
    pub engine: &'a Engine,
    /// Cycle of the first window's last row; the next windows end one cycle later each.
    pub first_cycle: u32,
    pub inputs: Vec<f32>,
    /// Cycles.
    pub predictions: Vec<f32>,
}

/// Predicts all windows of all engines that are long enough for one.
///
/// # Errors
/// Another number of features than the model takes.
pub fn predict_engines<'a>(
    model: &Model,
    features: &FeatureSet,
    engines: &'a [Engine],
) -> Result<Vec<Predicted<'a>>, Error> {
    let spec = WindowSpec { length: model.window(), short: Short::Skip, cap: None, ..WindowSpec::training() };
    let mut scratch = Scratch::default();
    let mut out = Vec::with_capacity(engines.len());
    for engine in engines {
        let windows = Windows::run_to_failure(std::slice::from_ref(engine), &Unscaled(features.clone()), spec)?;
        let Some(first) = windows.origins.first() else { continue };
        let size = model.window() * features.len();
        let mut predictions = vec![0.0; windows.len()];
        for (input, out) in windows.values.chunks(BATCH * size).zip(predictions.chunks_mut(BATCH)) {
            model.predict(&mut scratch, input, out.len(), out)?;
        }
        out.push(Predicted { engine, first_cycle: first.last_cycle, inputs: windows.values, predictions });
    }
    Ok(out)
}

/// Upper bounds of the buckets: the deciles of `predictions`, a grid of 5 cycles, and one just below the cap. A baseline and a
/// service that count in the same buckets can be compared without guessing.
///
/// # Errors
/// No predictions, or one that is not finite.
pub fn bounds(predictions: &[f64], cap: f64) -> Result<Vec<f64>, StatError> {
    let top = cap - BELOW_CAP;
    let steps = (top / GRID).ceil().clamp(1.0, 100.0) as u32;
    let mut bounds: Vec<f64> = (1..steps).map(|i| f64::from(i) * GRID).collect();
    bounds.push(top);
    // Two decimals are as good as any, and shorter in every scrape.
    bounds.extend(deciles(predictions)?.into_iter().map(|d| super::baseline::round(d, 2)).filter(|d| *d < top));
    bounds.sort_unstable_by(f64::total_cmp);
    bounds.dedup();
    Ok(bounds)
}
