use std::ops::ControlFlow;
use std::time::Instant;

use super::batch::fill;
use super::checks::check;
use super::rng::Rng;
use super::{Best, EpochReport, Options, Schedule, Trained, Windows};
use crate::kernel::{Adam, InstructionSet, Layout, Rates, Shard, Transposed, Workspace};
use crate::{Error, Lstm, Network, Scaler};

/// Windows predicted at a time in validation.
const VALIDATION_BATCH: usize = 240;

/// Trains on the windows `train`, keeps the weights of the epoch that is best on the windows
/// `validate` (split them by engine: windows of one engine are not independent). Starts from `from`
/// where given, whose first layer is converted to `scaler`. `on_epoch` may stop the run; what was best
/// until then is returned.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Invalid`] for data, splits or options that do not fit,
/// [`Error::Diverged`] when the loss is no longer a number.
pub fn train(
    data: &Windows<'_>,
    train: &[usize],
    validate: &[usize],
    scaler: &Scaler,
    options: &Options,
    from: Option<&Network>,
    on_epoch: &mut dyn FnMut(&EpochReport) -> ControlFlow<()>,
) -> Result<Trained, Error> {
    check(data, train, validate, scaler, options, from)?;
    let start = Instant::now();
    let mut rng = Rng::new(options.seed);
    let first = match from {
        Some(network) => Network { cap: options.cap, ..network.rescaled(scaler) },
        None => fresh(data, train, scaler, options, &mut rng),
    };
    let mut run = Run::new(data, scaler, options, &first);
    let steps = train.len().div_ceil(options.batch);
    let mut order = train.to_vec();
    let mut history = Vec::with_capacity(options.epochs);
    let mut best: Option<(Best, Network)> = None;
    let mut reference = f32::INFINITY;
    let mut stale = 0;
    for epoch in 1..=options.epochs {
        rng.shuffle(&mut order);
        let mut squares = 0.0;
        for (step, batch) in order.chunks(options.batch).enumerate() {
            let done = ((epoch - 1) * steps + step) as f32 / (options.epochs * steps) as f32;
            squares += run.step(batch, done);
        }
        let network = run.network();
        let val_rmse = run.validate(&network, validate);
        if !(squares.is_finite() && val_rmse.is_finite()) {
            return Err(Error::Diverged { epoch, learning_rate: options.learning_rate });
        }
        let report = EpochReport {
            epoch,
            train_rmse: options.cap * (squares / train.len() as f64).sqrt() as f32,
            val_rmse,
            seconds: start.elapsed().as_secs_f64(),
        };
        history.push(report);
        if best.as_ref().is_none_or(|(b, _)| val_rmse < b.val_rmse) {
            best = Some((Best { epoch, val_rmse }, network));
        }
        // Many tiny improvements count once they add up to one worth waiting for.
        if val_rmse <= reference - options.min_improvement {
            reference = val_rmse;
            stale = 0;
        } else {
            stale += 1;
        }
        if on_epoch(&report).is_break() || stale >= options.patience {
            break;
        }
    }
    let Some((best, network)) = best else {
        return Err(Error::invalid("training options", "no epoch was run"));
    };
    network.check()?;
    Ok(Trained { network, best, history, seconds: start.elapsed().as_secs_f64() })
}

/// Small uniform weights, forget gates open, the head at the mean target.
fn fresh(data: &Windows<'_>, train: &[usize], scaler: &Scaler, options: &Options, rng: &mut Rng) -> Network {
    let mut input = data.features;
    let layers = options
        .hidden
        .iter()
        .map(|&hidden| {
            let size = 1.0 / (hidden as f32).sqrt();
            let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| (2.0 * rng.unit() - 1.0) * size).collect() };
            let mut b = vec![0.0; 4 * hidden];
            b[2 * hidden..3 * hidden].fill(1.0);
            let layer = Lstm { input, hidden, w: draw(4 * hidden * input), r: draw(4 * hidden * hidden), b };
            input = hidden;
            layer
        })
        .collect();
    let size = options.cap / (input as f32).sqrt();
    let targets = train.iter().map(|i| data.targets[*i].clamp(0.0, options.cap));
    Network {
        window: data.window,
        scaler: scaler.clone(),
        layers,
        head: (0..input).map(|_| (2.0 * rng.unit() - 1.0) * size).collect(),
        bias: targets.map(f64::from).sum::<f64>() as f32 / train.len() as f32,
        cap: options.cap,
    }
}

/// The moving parts of a run.
struct Run<'a> {
    data: &'a Windows<'a>,
    scaler: &'a Scaler,
    options: &'a Options,
    layout: Layout,
    adam: Adam,
    transposed: Transposed,
    /// One per thread, each with its own numbers for noise and dropout.
    shards: Vec<(Shard, Rng)>,
    workspace: Workspace,
}

impl<'a> Run<'a> {
    fn new(data: &'a Windows<'a>, scaler: &'a Scaler, options: &'a Options, first: &Network) -> Self {
        let set = InstructionSet::best();
        let layout = Layout::new(set, data.window, data.features, &options.hidden);
        Self {
            data,
            scaler,
            options,
            adam: Adam::new(&layout, layout.load(first)),
            layout,
            transposed: Transposed::default(),
            // Not drawn from the run's own numbers: the order of windows must not depend on the
            // number of threads.
            shards: (1..=options.threads as u64)
                .map(|thread| {
                    let seed = options.seed ^ thread.wrapping_mul(0xd134_2543_de82_ef95);
                    (Shard::default(), Rng::new(seed))
                })
                .collect(),
            workspace: Workspace::default(),
        }
    }

    /// One batch; `done` is the share of the run behind it. Returns the sum of squared errors in
    /// shares of the cap.
    fn step(&mut self, batch: &[usize], done: f32) -> f64 {
        let (layout, options) = (&self.layout, self.options);
        let (data, scaler) = (self.data, self.scaler);
        self.transposed.update(layout, &self.adam.values);
        let (values, transposed) = (&self.adam.values, &self.transposed);
        let part = batch.len().div_ceil(self.shards.len());
        let work = |(shard, rng): &mut (Shard, Rng), indices: &[usize]| {
            fill(shard, layout, data, scaler, options, indices, rng);
            shard.learn(layout, values, transposed, batch.len())
        };
        let parts = batch.chunks(part);
        let used = parts.len();
        let squares: f64 = if used == 1 {
            work(&mut self.shards[0], batch)
        } else {
            std::thread::scope(|scope| {
                let running: Vec<_> = self
                    .shards
                    .iter_mut()
                    .zip(parts)
                    .map(|(shard, indices)| scope.spawn(|| work(shard, indices)))
                    .collect();
                // Added up in the order of the shards, whichever finishes first.
                running
                    .into_iter()
                    .map(|thread| match thread.join() {
                        Ok(squares) => squares,
                        Err(panic) => std::panic::resume_unwind(panic),
                    })
                    .sum()
            })
        };
        let (first, others) = self.shards.split_at_mut(1);
        let gradient = &mut first[0].0.gradient;
        for (other, _) in &others[..used - 1] {
            for (sum, x) in gradient.iter_mut().zip(other.gradient.iter()) {
                *sum += x;
            }
        }
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
        let rates = Rates {
            learning_rate: options.learning_rate * options.schedule.factor(done),
            weight_decay: options.weight_decay,
            gradient: (options.clip_norm / norm).min(1.0),
            average: options.average,
        };
        self.adam.update(layout, gradient, rates);
        squares
    }

    /// The weights as they are validated and kept.
    fn network(&self) -> Network {
        let values = if self.options.average > 0.0 { &self.adam.average } else { &self.adam.values };
        self.layout.network(values, self.scaler, self.options.cap)
    }

    fn validate(&mut self, network: &Network, validate: &[usize]) -> f32 {
        let kernel = self.layout.kernel(network);
        let size = self.data.size();
        let mut input = Vec::with_capacity(VALIDATION_BATCH * size);
        let mut out = vec![0.0; VALIDATION_BATCH];
        let mut squares = 0.0;
        for part in validate.chunks(VALIDATION_BATCH) {
            input.clear();
            for &i in part {
                input.extend_from_slice(&self.data.inputs[i * size..][..size]);
            }
            let out = &mut out[..part.len()];
            kernel.predict(&mut self.workspace, &input, out);
            for (y, &i) in out.iter().zip(part) {
                let target = self.data.targets[i].clamp(0.0, network.cap);
                squares += f64::from(y - target).powi(2);
            }
        }
        (squares / validate.len() as f64).sqrt() as f32
    }
}

impl Schedule {
    fn factor(self, done: f32) -> f32 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine { floor } => floor + (1.0 - floor) * 0.5 * (1.0 + (std::f32::consts::PI * done).cos()),
        }
    }
}
