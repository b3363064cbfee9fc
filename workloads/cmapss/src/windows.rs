//! Windows of consecutive cycles with their label: the remaining life after the window's last cycle.

use crate::data::{Engine, Row};
use crate::error::Error;
use crate::scale::Transform;

/// What to do with an engine that has fewer cycles than a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// Fail, naming the engine.
    Refuse,
    /// Leave the engine out; [`Windows::skipped`] counts them.
    Skip,
    /// Repeat its first cycle in front, as if it had stood in that state before: one window per engine.
    RepeatFirst,
}

/// Which windows to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpec {
    /// Cycles per window.
    pub length: usize,
    /// Cycles between the ends of neighbouring windows, counted back from the last cycle, so that the last window,
    /// the one that matters most, is always there.
    pub stride: usize,
    pub short: Short,
    /// Labels above this become this: wear cannot be seen before it begins. `None` keeps them.
    pub cap: Option<u32>,
    /// Only the last window of each engine: the way test sets are scored.
    pub last_only: bool,
}

impl WindowSpec {
    /// Length 30, stride 1, cap 125, short engines refused: what the served model is trained on.
    #[must_use]
    pub fn training() -> Self {
        Self { length: 30, stride: 1, short: Short::Refuse, cap: Some(125), last_only: false }
    }

    /// The last window of each engine, uncapped labels, short engines padded: how test sets are scored.
    #[must_use]
    pub fn scoring() -> Self {
        Self { short: Short::RepeatFirst, cap: None, last_only: true, ..Self::training() }
    }
}

/// Where a window comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Unit number of the engine.
    pub engine: u32,
    /// Cycle of the window's last row.
    pub last_cycle: u32,
}

/// Windows in one block, ready for a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    /// Window after window, cycle after cycle, feature after feature: n x length x features.
    pub values: Vec<f32>,
    /// Remaining life after each window, in cycles.
    pub labels: Vec<f32>,
    pub origins: Vec<Origin>,
    /// Cycles per window.
    pub length: usize,
    /// Features per cycle.
    pub features: usize,
    /// Engines that were too short and left out.
    pub skipped: usize,
}

impl Windows {
    /// Number of windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no window.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// One window, `length` x `features`; `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[f32]> {
        let size = self.length * self.features;
        let start = index.checked_mul(size)?;
        self.values.get(start..start.checked_add(size)?)
    }

    /// Cuts windows from engines that ran to failure: the last cycle has remaining life 0.
    ///
    /// # Errors
    /// A bad spec, a short engine where that is refused, or a row that the transform refuses.
    pub fn run_to_failure(engines: &[Engine], transform: &impl Transform, spec: WindowSpec) -> Result<Self, Error> {
        Self::cut(engines, transform, spec, |_| 0)
    }

    /// Cuts windows from engines that live on for `rul` cycles after their last row.
    ///
    /// # Errors
    /// As [`Self::run_to_failure`]; also when there is not one `rul` per engine.
    pub fn with_rul(
        engines: &[Engine],
        rul: &[u32],
        transform: &impl Transform,
        spec: WindowSpec,
    ) -> Result<Self, Error> {
        if engines.len() != rul.len() {
            return Err(Error::LengthMismatch {
                what: "engines and remaining lives",
                left: engines.len(),
                right: rul.len(),
            });
        }
        Self::cut(engines, transform, spec, |i| rul[i])
    }

    fn cut(
        engines: &[Engine],
        transform: &impl Transform,
        spec: WindowSpec,
        remaining: impl Fn(usize) -> u32,
    ) -> Result<Self, Error> {
        for (name, value) in [("window length", spec.length), ("stride", spec.stride)] {
            if value == 0 {
                return Err(Error::BadParameter { name, value: "0".to_owned(), reason: "must be at least 1" });
            }
        }
        let mut windows = Self {
            values: Vec::new(),
            labels: Vec::new(),
            origins: Vec::new(),
            length: spec.length,
            features: transform.features().len(),
            skipped: 0,
        };
        for (index, engine) in engines.iter().enumerate() {
            windows.cut_engine(engine, transform, spec, remaining(index))?;
        }
        Ok(windows)
    }

    fn cut_engine(
        &mut self,
        engine: &Engine,
        transform: &impl Transform,
        spec: WindowSpec,
        rul: u32,
    ) -> Result<(), Error> {
        let (cycles, length) = (engine.rows.len(), spec.length);
        let padding = length.saturating_sub(cycles);
        let Some(first) = engine.rows.first() else {
            self.skipped += 1;
            return Ok(());
        };
        if padding > 0 {
            match spec.short {
                Short::Refuse => {
                    return Err(Error::ShortEngine { engine: engine.id, cycles, length });
                }
                Short::Skip => {
                    self.skipped += 1;
                    return Ok(());
                }
                Short::RepeatFirst => {}
            }
        }
        // Each row is transformed once, however many windows it stands in.
        let mut scaled = Vec::with_capacity((cycles + padding) * self.features);
        let padded = std::iter::repeat_n(first, padding).chain(&engine.rows);
        for row in padded {
            transform.transform(row, &mut scaled)?;
        }
        let last_end = cycles + padding;
        let first_end = if spec.last_only { last_end } else { length + (last_end - length) % spec.stride };
        for end in (first_end..=last_end).step_by(spec.stride) {
            let row: &Row = &engine.rows[end - padding - 1];
            let left = u64::from(rul) + (last_end - end) as u64;
            let label = spec.cap.map_or(left, |cap| left.min(u64::from(cap)));
            self.values.extend_from_slice(&scaled[(end - length) * self.features..end * self.features]);
            self.labels.push(label as f32);
            self.origins.push(Origin { engine: engine.id, last_cycle: row.cycle });
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{COLUMNS, FeatureSet};
    use crate::scale::Unscaled;
    use proptest::prelude::*;

    /// Setting 1 is the cycle, so a window shows where it was cut.
    fn engine(id: u32, cycles: u32) -> Engine {
        let rows = (1..=cycles)
            .map(|cycle| {
                let mut values = [0.0; COLUMNS];
                values[0] = f64::from(cycle);
                values[1] = f64::from(id);
                Row { cycle, values }
            })
            .collect();
        Engine { id, rows }
    }

    fn features() -> Unscaled {
        Unscaled(FeatureSet::by_names(["setting_1", "setting_2"]).unwrap())
    }

    fn spec(length: usize, stride: usize) -> WindowSpec {
        WindowSpec { length, stride, ..WindowSpec::training() }
    }

    #[test]
    fn by_hand() {
        let w = Windows::run_to_failure(&[engine(4, 7)], &features(), spec(3, 2)).unwrap();
        assert_eq!(w.labels, [4.0, 2.0, 0.0]);
        assert_eq!(w.get(0).unwrap(), [1.0, 4.0, 2.0, 4.0, 3.0, 4.0]);
        assert_eq!(w.get(2).unwrap(), [5.0, 4.0, 6.0, 4.0, 7.0, 4.0]);
        assert_eq!(w.get(3), None);
        assert_eq!(w.get(usize::MAX), None);
        assert_eq!(w.origins[1], Origin { engine: 4, last_cycle: 5 });
    }

    #[test]
    fn the_last_window_is_always_there() {
        let w = Windows::run_to_failure(&[engine(1, 8)], &features(), spec(3, 2)).unwrap();
        assert_eq!(w.labels, [4.0, 2.0, 0.0]);
        let w = Windows::run_to_failure(&[engine(1, 8)], &features(), spec(3, 100)).unwrap();
        assert_eq!(w.labels, [0.0]);
    }

    #[test]
    fn labels_are_capped_and_continue_after_the_cut() {
        let engines = [engine(1, 40), engine(2, 35)];
        let w = Windows::with_rul(&engines, &[110, 20], &features(), WindowSpec::training()).unwrap();
        assert_eq!(w.len(), 11 + 6);
        assert_eq!((w.labels[0], w.labels[10]), (120.0, 110.0));
        assert_eq!((w.labels[11], w.labels[16]), (25.0, 20.0));
        let w = Windows::with_rul(&engines, &[500, 20], &features(), WindowSpec::training()).unwrap();
        assert!(w.labels[..11].iter().all(|&l| l == 125.0));
        let w = Windows::with_rul(&engines, &[500, 20], &features(), WindowSpec::scoring()).unwrap();
        assert_eq!(w.labels, [500.0, 20.0]);
    }

    #[test]
    fn short_engines_by_policy() {
        let engines = [engine(1, 2), engine(2, 5)];
        let cut = |short| Windows::run_to_failure(&engines, &features(), WindowSpec { short, ..spec(4, 1) });
        let error = cut(Short::Refuse).unwrap_err().to_string();
        assert!(error.starts_with("engine 1 has 2 cycles, fewer than the window of 4"), "{error}");
        let skipped = cut(Short::Skip).unwrap();
        assert_eq!((skipped.skipped, skipped.labels.len()), (1, 2));
        let padded = cut(Short::RepeatFirst).unwrap();
        assert_eq!(padded.get(0).unwrap(), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0]);
        assert_eq!(padded.labels, [0.0, 1.0, 0.0]);
        let empty = Engine { id: 3, rows: Vec::new() };
        let none = Windows::run_to_failure(&[empty], &features(), spec(4, 1)).unwrap();
        assert!(none.is_empty() && none.skipped == 1);
    }

    #[test]
    fn bad_specs_are_refused() {
        assert!(Windows::run_to_failure(&[engine(1, 9)], &features(), spec(0, 1)).is_err());
        assert!(Windows::run_to_failure(&[engine(1, 9)], &features(), spec(1, 0)).is_err());
        assert!(Windows::with_rul(&[engine(1, 9)], &[], &features(), spec(1, 1)).is_err());
    }

    proptest! {
        #[test]
        fn counts_and_labels(cycles in 1u32..80, length in 1usize..40, stride in 1usize..50) {
            let w = Windows::run_to_failure(
                &[engine(1, cycles)],
                &features(),
                WindowSpec { short: Short::RepeatFirst, cap: None, ..spec(length, stride) },
            ).unwrap();
            let cycles = (cycles as usize).max(length);
            prop_assert_eq!(w.len(), (cycles - length) / stride + 1);
            prop_assert_eq!(w.values.len(), w.len() * length * 2);
            prop_assert_eq!(*w.labels.last().unwrap(), 0.0);
            prop_assert!(w.labels.windows(2).all(|p| p[0] - p[1] == stride as f32));
        }
    }
}
