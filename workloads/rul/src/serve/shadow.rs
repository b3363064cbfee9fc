//! Shadow mode: a challenger predicts on a share of the requests, beside the model that answers.
//! It works on a thread of its own behind a short queue, so it can neither change nor delay an
//! answer; what does not fit into the queue is counted and forgotten.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};

use super::histogram::{Histogram, line};
use super::live::Live;

/// Requests waiting. A batch of 512 windows is a megabyte.
const QUEUE: usize = 16;
/// Edges of the difference between the two models, in cycles.
const DIFFERENCE_EDGES: [f64; 8] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];

const RESULTS: [&str; 3] = ["predicted", "dropped", "failed"];

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Predicted,
    /// The queue was full.
    Dropped,
    /// Another shape than the model that answers, or no number.
    Failed,
}

/// The challenger, and its queue.
#[derive(Debug)]
pub struct Shadow {
    live: RwLock<Option<Arc<Live>>>,
    /// Of 2^64.
    share: u64,
    turn: AtomicU64,
    queue: SyncSender<Job>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    results: [AtomicU64; RESULTS.len()],
    difference: Histogram,
}

#[derive(Debug)]
struct Job {
    challenger: Arc<Live>,
    numbers: Vec<f32>,
    /// What was answered.
    cycles: Vec<f32>,
}

impl Shadow {
    /// `share` of the requests, 0 to 1.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn new(share: f64) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let counts = Arc::new(Counts { results: Default::default(), difference: Histogram::new(&DIFFERENCE_EDGES) });
        let for_thread = Arc::clone(&counts);
        std::thread::Builder::new().name("shadow".into()).spawn(move || work(&jobs, &for_thread))?;
        Ok(Self {
            live: RwLock::default(),
            // Saturates: a share of 1 is every request but one in 2^64.
            share: (share * u64::MAX as f64) as u64,
            turn: AtomicU64::new(0),
            queue,
            counts,
        })
    }

    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, live: Option<Arc<Live>>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// Perhaps lets the challenger predict what was just answered.
    pub fn offer(&self, numbers: Vec<f32>, cycles: &[f32]) {
        let Some(challenger) = self.live() else { return };
        if scatter(self.turn.fetch_add(1, Relaxed)) > self.share {
            return;
        }
        if self.queue.try_send(Job { challenger, numbers, cycles: cycles.to_vec() }).is_err() {
            self.counts.count(Outcome::Dropped, cycles.len());
        }
    }

    pub fn write(&self, out: &mut String) {
        line(out, format_args!("# HELP rul_shadow_total Windows for the challenger, by what became of them."));
        line(out, format_args!("# TYPE rul_shadow_total counter"));
        for (result, counter) in RESULTS.iter().zip(&self.counts.results) {
            line(out, format_args!("rul_shadow_total{{result=\"{result}\"}} {}", counter.load(Relaxed)));
        }
        let help = "How far the challenger is from the answer, in cycles.";
        line(out, format_args!("# HELP rul_shadow_difference_cycles {help}"));
        line(out, format_args!("# TYPE rul_shadow_difference_cycles histogram"));
        self.counts.difference.write(out, "rul_shadow_difference_cycles", "");
    }
}

impl Counts {
    fn count(&self, outcome: Outcome, windows: usize) {
        if let Some(counter) = self.results.get(outcome as usize) {
            counter.fetch_add(windows as u64, Relaxed);
        }
    }
}

fn work(jobs: &Receiver<Job>, counts: &Counts) {
    while let Ok(job) = jobs.recv() {
        let windows = job.cycles.len();
        let fits = job.numbers.len() == windows * job.challenger.shape.numbers();
        let predicted = if fits { job.challenger.predict(&job.numbers, windows).ok() } else { None };
        let Some(predicted) = predicted.filter(|all| all.iter().all(|value| value.is_finite())) else {
            counts.count(Outcome::Failed, windows);
            continue;
        };
        for (theirs, answered) in predicted.iter().zip(&job.cycles) {
            job.challenger.histogram.observe(f64::from(*theirs));
            counts.difference.observe(f64::from((theirs - answered).abs()));
        }
        counts.count(Outcome::Predicted, windows);
    }
}

/// Spreads a counter over all of 64 bits (SplitMix64), so that a share of the requests is not
/// every tenth of engines that take turns.
fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::scatter;

    #[test]
    fn a_share_is_a_share_of_every_engine() {
        // Ten engines take turns; a tenth of the requests must come from all of them.
        let mut taken = [0; 10];
        for n in 0..10_000u64 {
            if scatter(n) <= u64::MAX / 10 {
                taken[(n % 10) as usize] += 1;
            }
        }
        assert!(taken.iter().all(|&count| (60..150).contains(&count)), "{taken:?}");
    }
}
