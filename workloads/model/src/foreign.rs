//! Any other ONNX graph with one window input and one number per window, through `rten`. It runs on
//! the calling thread's behalf in a pool of one thread: a server's threads are its own business.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rten::{Dimension, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensorView, Tensor};

use crate::Error;
use crate::model::{Model, Runner};

/// Numbers in the largest window accepted.
const MAX_WINDOW_SIZE: usize = 1 << 24;

pub(crate) struct Foreign {
    model: rten::Model,
    input: NodeId,
    output: NodeId,
    window: usize,
    features: usize,
    /// Windows per run; `None` is any number.
    batch: Option<usize>,
    options: RunOptions,
}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Foreign")
            .field("window", &self.window)
            .field("features", &self.features)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Runtime { reason: reason.into() })
}

/// The runtime's own panics are errors here: its input is a file from outside.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| refuse("it panicked"))
}

/// `why` says why it is not our own graph, for the message.
pub(crate) fn load(bytes: &[u8], why: &str) -> Result<Model, Error> {
    let model = guarded(|| rten::Model::load(bytes.to_vec()).or_else(|e| refuse(format!("{e} (ours? {why})"))))?;
    let (&[input], &[output]) = (model.input_ids(), model.output_ids()) else {
        return refuse(format!(
            "it has {} inputs and {} outputs, one each is needed",
            model.input_ids().len(),
            model.output_ids().len()
        ));
    };
    let shape = model.input_shape(0).unwrap_or_default();
    let [batch, Dimension::Fixed(window), Dimension::Fixed(features)] = shape.as_slice() else {
        return refuse(format!("its input is {shape:?}, not [batch, window, features]"));
    };
    let (window, features) = (*window, *features);
    match window.checked_mul(features) {
        Some(1..=MAX_WINDOW_SIZE) => {}
        _ => return refuse(format!("windows of {window} x {features} numbers")),
    }
    let batch = match batch {
        Dimension::Fixed(0) => return refuse("its batch is 0"),
        Dimension::Fixed(n) => Some(*n),
        Dimension::Symbolic(_) => None,
    };
    let pool = Arc::new(ThreadPool::with_num_threads(1));
    let foreign = Foreign {
        model,
        input,
        output,
        window,
        features,
        batch,
        options: RunOptions::default().with_thread_pool(Some(pool)),
    };
    // A graph that cannot run at all is found out now, not at the first request.
    let zeros = vec![0.0; batch.unwrap_or(1) * window * features];
    foreign.predict(&zeros, &mut vec![0.0; batch.unwrap_or(1)])?;
    Ok(Model { window, features, cap: f32::INFINITY, runner: Runner::Foreign(foreign) })
}

impl Foreign {
    pub(crate) fn predict(&self, input: &[f32], out: &mut [f32]) -> Result<(), Error> {
        let per_run = self.batch.unwrap_or(out.len()).max(1);
        let size = self.window * self.features;
        for (input, out) in input.chunks(per_run * size).zip(out.chunks_mut(per_run)) {
            if out.len() == per_run {
                self.run(input, out)?;
            } else {
                // A fixed batch that is not full: the rest is zeros, and their answers are dropped.
                let mut full = input.to_vec();
                full.resize(per_run * size, 0.0);
                let mut answers = vec![0.0; per_run];
                self.run(&full, &mut answers)?;
                let used = out.len();
                out.copy_from_slice(&answers[..used]);
            }
        }
        Ok(())
    }

    fn run(&self, input: &[f32], out: &mut [f32]) -> Result<(), Error> {
        guarded(|| {
            let shape = [out.len(), self.window, self.features];
            let view = NdTensorView::from_data(shape, input);
            let inputs = vec![(self.input, view.into())];
            let options = Some(self.options.clone());
            let results = self.model.run(inputs, &[self.output], options);
            let value: Value = match results.map(|mut r| r.pop()) {
                Ok(Some(value)) => value,
                Ok(None) => return refuse("it gave no output"),
                Err(e) => return refuse(e.to_string()),
            };
            let tensor: Tensor<f32> = match value.try_into() {
                Ok(tensor) => tensor,
                Err(_) => return refuse("its output is not float32"),
            };
            if tensor.len() != out.len() {
                return refuse(format!("{} numbers for {} windows", tensor.len(), out.len()));
            }
            out.iter_mut().zip(tensor.iter()).for_each(|(to, y)| *to = *y);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::testing::{network, windows};
    use crate::{Backend, Error, Model, onnx};

    /// Our graph with its first node turned from a difference into a sum is no longer ours, but it is
    /// ours with the means negated.
    #[test]
    fn another_graph_predicts_what_it_says() {
        let network = network(40, 7, 3, &[6, 5]);
        let mut bytes = onnx::write(&network, &onnx::Labels::default()).unwrap();
        let at = bytes.windows(3).position(|w| w == b"Sub").unwrap();
        bytes[at..at + 3].copy_from_slice(b"Add");
        let model = Model::from_onnx(&bytes).unwrap();
        assert_eq!(model.backend(), Backend::Rten);
        assert_eq!((model.window(), model.features()), (7, 3));
        let mut same = network.clone();
        same.scaler.mean.iter_mut().for_each(|m| *m = -*m);
        let input = windows(41, &same, 11);
        let want = Model::new(same).unwrap().predict_all(&input).unwrap();
        for (a, b) in model.predict_all(&input).unwrap().iter().zip(want) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
    }

    #[test]
    fn a_graph_that_cannot_run_is_refused() {
        let mut bytes = onnx::write(&network(42, 7, 3, &[6]), &onnx::Labels::default()).unwrap();
        let at = bytes.windows(4).position(|w| w == b"Clip").unwrap();
        bytes[at..at + 4].copy_from_slice(b"Clop");
        let error = Model::from_onnx(&bytes).unwrap_err();
        assert!(matches!(error, Error::Runtime { .. }), "{error}");
    }
}
