//! The reference of a model: its own training engines, replayed through it.

use cmapss::Fleet;
use cmapss::scale::Unscaled;
use cmapss::windows::{Short, WindowSpec, Windows};
use drift_stats::StatError;
use drift_stats::decision::{Fit, Policy, Record, Reference};
use drift_stats::edges::deciles;
use model::{Model, Scratch};

use super::record::{InputsError, Recorder};

/// Windows predicted at once.
const BATCH: usize = 256;

/// Why there is no reference.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error(transparent)]
    Data(#[from] cmapss::Error),
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error(transparent)]
    Inputs(#[from] InputsError),
    #[error(transparent)]
    Statistics(#[from] StatError),
}

/// What a service would have seen of each engine: one record per cycle from the first full window on. Engines that are shorter
/// than a window give none. The model takes raw rows.
///
/// # Errors
/// A model of other features than the recorder's.
pub fn records(
    model: &Model,
    recorder: &Recorder,
    features: &cmapss::FeatureSet,
    fleet: &Fleet,
) -> Result<Vec<Vec<Record>>, FitError> {
    let spec = WindowSpec { length: model.window(), short: Short::Skip, cap: None, ..WindowSpec::training() };
    let windows = Windows::run_to_failure(&fleet.engines, &Unscaled(features.clone()), spec)?;
    let size = windows.length * windows.features;
    let mut scratch = Scratch::default();
    let mut predictions = vec![0.0f32; windows.len()];
    for (input, out) in windows.values.chunks(BATCH * size.max(1)).zip(predictions.chunks_mut(BATCH)) {
        model.predict(&mut scratch, input, out.len(), out)?;
    }
    let mut engines: Vec<Vec<Record>> = Vec::new();
    let mut last = None;
    for (i, (origin, prediction)) in windows.origins.iter().zip(&predictions).enumerate() {
        if last != Some(origin.engine) {
            engines.push(Vec::new());
            last = Some(origin.engine);
        }
        let window = windows.get(i).unwrap_or_default();
        let row: Vec<f64> = window[window.len() - windows.features..].iter().map(|&v| f64::from(v)).collect();
        let record =
            recorder.record(&row, Some(u64::from(origin.engine)), Some(origin.last_cycle), f64::from(*prediction))?;
        if let Some(engine) = engines.last_mut() {
            engine.push(record);
        }
    }
    Ok(engines)
}

/// Bounds of the prediction histogram: a grid of five cycles (which holds the earlier system's edges), the deciles, and one
/// for the cap, where a tenth of all predictions sit.
///
/// # Errors
/// No predictions.
pub fn bounds(engines: &[Vec<Record>], cap: f64) -> Result<Vec<f64>, StatError> {
    let all: Vec<f64> = engines.iter().flatten().map(|r| r.prediction).collect();
    let top = if cap.is_finite() && cap > 5.0 { cap } else { 125.0 };
    let mut bounds: Vec<f64> = (1..).map(|i| f64::from(i) * 5.0).take_while(|&b| b < top).collect();
    // Whole tenths: a bound is compared as text in some places.
    bounds.extend(deciles(&all)?.into_iter().map(|b| (b * 10.0).round() / 10.0).filter(|&b| b > 0.0 && b < top));
    bounds.push(top - 0.5);
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    Ok(bounds)
}

/// How the platform fits: six regimes, age groups of 25 cycles, nulls for fleets of 20 engines and more.
#[must_use]
pub fn recipe(bounds: Vec<f64>, regimes: usize) -> Fit {
    Fit {
        bounds,
        regimes,
        age_width: 25,
        keep_every: 10,
        shapes: vec![(20, 15), (30, 20), (50, 10), (100, 3)],
        draws: 400,
        min_expected: Policy::default().min_expected,
        seed: 1,
    }
}

/// Fits on training engines.
///
/// # Errors
/// Fewer than two engines with a full window, or records that do not fit.
pub fn reference(
    version: &str,
    model: &Model,
    recorder: &Recorder,
    features: &cmapss::FeatureSet,
    train: &Fleet,
) -> Result<Reference, FitError> {
    let engines = records(model, recorder, features, train)?;
    let bounds = bounds(&engines, f64::from(model.cap()))?;
    Ok(Reference::fit(version, recorder.names(), &engines, &recipe(bounds, recorder.regimes()))?)
}
