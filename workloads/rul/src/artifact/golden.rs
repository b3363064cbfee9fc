//! `golden.json`: windows with the answers that they must give before a model is served.

use model::Model;
use serde::{Deserialize, Serialize};

/// How far an answer may be off, in cycles: more than any sound arithmetic, far less than another model.
const TOLERANCE: f32 = 0.01;

/// `golden.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// Windows of rows, oldest row first, in the model's units.
    pub windows: Vec<Vec<Vec<f32>>>,
    /// Cycles, one per window.
    pub expected: Vec<f32>,
    /// Cycles.
    pub tolerance: f32,
}

impl Golden {
    /// Spreads `count` windows evenly over the range of predictions, so that young, old and capped engines are among them.
    /// `inputs` are whole windows, `predictions` their answers.
    #[must_use]
    pub fn choose(model: &Model, inputs: &[f32], predictions: &[f32], count: usize) -> Self {
        let size = model.window() * model.features();
        let mut order: Vec<usize> = (0..predictions.len().min(inputs.len() / size)).collect();
        order.sort_by(|&a, &b| predictions[a].total_cmp(&predictions[b]));
        let last = order.len().saturating_sub(1);
        let count = count.min(order.len());
        let chosen = (0..count).map(|i| order[i * last / count.saturating_sub(1).max(1)]);
        let (mut windows, mut expected) = (Vec::new(), Vec::new());
        for index in chosen {
            let window = &inputs[index * size..(index + 1) * size];
            windows.push(window.chunks_exact(model.features()).map(<[f32]>::to_vec).collect());
            expected.push(predictions[index]);
        }
        Self { windows, expected, tolerance: TOLERANCE }
    }

    /// Runs the windows through a model.
    ///
    /// # Errors
    /// The first window that has another shape or another answer, in words.
    pub fn check(&self, model: &Model) -> Result<(), String> {
        if self.windows.is_empty() || self.windows.len() != self.expected.len() {
            return Err(format!("{} windows and {} expected answers", self.windows.len(), self.expected.len()));
        }
        for (i, (window, expected)) in self.windows.iter().zip(&self.expected).enumerate() {
            if window.len() != model.window() || window.iter().any(|row| row.len() != model.features()) {
                return Err(format!(
                    "window {i} is not {} rows of {} numbers, which the model takes",
                    model.window(),
                    model.features()
                ));
            }
            let got = model.predict_all(&window.concat()).map_err(|e| format!("window {i}: {e}"))?;
            let got = got.first().copied().unwrap_or(f32::NAN);
            // Not "difference > tolerance": what is not a number must fail too.
            if !(got - expected).abs().le(&self.tolerance) {
                return Err(format!(
                    "window {i}: the model says {got}, expected {expected} (tolerance {} cycles)",
                    self.tolerance
                ));
            }
        }
        Ok(())
    }
}
