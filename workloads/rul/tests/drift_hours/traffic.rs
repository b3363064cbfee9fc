//! Hours of traffic, and what the two rules make of them.

use drift_stats::decision::{Decision, Measurement, Memory, Policy, Record, Reference, State, Window, decide, look};
use drift_stats::rng::Rng;
use rul::drift::seed::{self, Limits, SeedBaseline};

use crate::world::Pool;

pub const HOUR: u64 = 3600;

/// How many engines fly, and how many consecutive cycles each in an hour.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub engines: usize,
    pub cycles: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{} x {}", self.engines, self.cycles))
    }
}

/// Few engines with many cycles each, to many engines with few.
pub const SHAPES: [Shape; 5] = [
    Shape { engines: 5, cycles: 60 },
    Shape { engines: 10, cycles: 30 },
    Shape { engines: 20, cycles: 15 },
    Shape { engines: 30, cycles: 20 },
    Shape { engines: 100, cycles: 3 },
];

/// Engines that go on flying from hour to hour: what is near the threshold in one hour is so in the next. An engine whose
/// record ends is replaced by another one, new from the overhaul or in the middle of its life.
pub struct Flying<'a> {
    pool: &'a Pool,
    shape: Shape,
    rng: Rng,
    next_id: u64,
    fleet: Vec<Flight>,
}

#[derive(Clone, Copy)]
struct Flight {
    id: u64,
    engine: usize,
    at: usize,
}

impl<'a> Flying<'a> {
    pub fn new(pool: &'a Pool, shape: Shape, seed: u64) -> Self {
        let mut flying = Self { pool, shape, rng: Rng::new(seed), next_id: 0, fleet: Vec::new() };
        flying.fleet = (0..shape.engines).map(|_| flying.take_off(true)).collect();
        flying
    }

    fn take_off(&mut self, anywhere: bool) -> Flight {
        self.next_id += 1;
        let engine = self.rng.below(self.pool.len());
        let at = if anywhere { self.rng.below(self.pool[engine].len()) } else { 0 };
        Flight { id: self.next_id, engine, at }
    }

    /// The next hour: rounds of one cycle per engine, as they would arrive.
    pub fn hour(&mut self) -> Vec<Record> {
        let mut records = Vec::with_capacity(self.shape.engines * self.shape.cycles);
        for _ in 0..self.shape.cycles {
            for slot in 0..self.fleet.len() {
                if self.fleet[slot].at >= self.pool[self.fleet[slot].engine].len() {
                    let anywhere = self.rng.uniform() < 0.5;
                    self.fleet[slot] = self.take_off(anywhere);
                }
                let flight = &mut self.fleet[slot];
                let record = &self.pool[flight.engine][flight.at];
                flight.at += 1;
                records.push(Record { engine: Some(flight.id), ..record.clone() });
            }
        }
        records
    }

    /// Other engines altogether.
    pub fn land(&mut self) {
        self.fleet = (0..self.shape.engines).map(|_| self.take_off(true)).collect();
    }
}

/// As `rul drift` decides by default.
pub fn policy() -> Policy {
    Policy { spacing_s: HOUR * 9 / 10, ..Policy::default() }
}

/// One look.
pub fn judge(reference: &Reference, policy: &Policy, records: Vec<Record>, memory: &mut Memory, now: u64) -> Decision {
    let window = Window { model_version: reference.model_version.clone(), is_stub: false, records };
    let measured = look(reference, &window, policy).unwrap();
    let (decision, next) = decide(policy, &measured, memory, now);
    *memory = next;
    decision
}

/// Whether the earlier rule alarms on an hour.
pub fn seed_alarms(baseline: &SeedBaseline, records: &[Record]) -> bool {
    let values: Vec<f64> = records.iter().map(|r| r.prediction).collect();
    let cumulative = seed::cumulative(&values, &baseline.edges);
    seed::check(baseline, &cumulative, Limits { psi: 0.2, ks_p: 0.05 }, "ring").unwrap().drift
}

/// What happened in many hours.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub hours: u64,
    /// Hours in which `rul drift` paged, and what for: regime, sensors, prediction.
    pub pages: u64,
    pub by_cause: [u64; 3],
    pub suspect: u64,
    pub drift: u64,
    /// Hours with too little to judge predictions.
    pub insufficient: u64,
    pub seed: u64,
}

impl Tally {
    fn count(&mut self, decision: &Decision, seed: bool) {
        self.hours += 1;
        if decision.page {
            self.pages += 1;
            if let Some(cause) = decision.cause {
                self.by_cause[cause as usize] += 1;
            }
        }
        self.suspect += u64::from(decision.state == State::Suspect);
        self.drift += u64::from(decision.state == State::Drift);
        self.insufficient += u64::from(decision.state == State::InsufficientData);
        self.seed += u64::from(seed);
    }

    pub fn page_share(&self) -> f64 {
        self.pages as f64 / self.hours as f64
    }

    pub fn seed_share(&self) -> f64 {
        self.seed as f64 / self.hours as f64
    }
}

/// Drift-free hours in a row, looked at once an hour with memory. `fresh`: other engines every hour.
pub fn quiet_hours(
    (reference, baseline): (&Reference, &SeedBaseline),
    policy: &Policy,
    pool: &Pool,
    shape: Shape,
    hours: u64,
    fresh: bool,
) -> Tally {
    let mut flying = Flying::new(pool, shape, 5);
    let mut memory = Memory::default();
    let mut tally = Tally::default();
    for hour in 0..hours {
        if fresh {
            flying.land();
        }
        let records = flying.hour();
        let alarms = seed_alarms(baseline, &records);
        let decision = judge(reference, policy, records, &mut memory, hour * HOUR);
        tally.count(&decision, alarms);
    }
    tally
}

/// Drift-free hours, looked at `looks` times an hour over a sliding window of an hour. Hours with at least one page count.
pub fn sliding_hours(
    reference: &Reference,
    policy: &Policy,
    pool: &Pool,
    shape: Shape,
    hours: u64,
    looks: usize,
) -> Tally {
    let mut flying = Flying::new(pool, shape, 6);
    let mut memory = Memory::default();
    let mut tally = Tally::default();
    let mut before = flying.hour();
    for hour in 0..hours {
        let now = flying.hour();
        let mut worst: Option<Decision> = None;
        for k in 1..=looks {
            let cut = now.len() * k / looks;
            let window: Vec<Record> = before[cut.min(before.len())..].iter().chain(&now[..cut]).cloned().collect();
            let at = hour * HOUR + HOUR * k as u64 / looks as u64;
            let decision = judge(reference, policy, window, &mut memory, at);
            if decision.page || worst.is_none() {
                worst = Some(decision);
            }
        }
        if let Some(decision) = worst {
            tally.count(&decision, false);
        }
        before = now;
    }
    tally
}

/// First evaluation windows of drifted traffic, each judged without memory: how many page at once.
pub fn first_windows(
    (reference, baseline): (&Reference, &SeedBaseline),
    policy: &Policy,
    mut traffic: impl FnMut() -> Vec<Record>,
    windows: u64,
) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..windows {
        let records = traffic();
        let alarms = seed_alarms(baseline, &records);
        let decision = judge(reference, policy, records, &mut Memory::default(), 0);
        tally.count(&decision, alarms);
    }
    tally
}

/// An hour without drift, then every engine drifts: minutes until the first page of a watch that looks every minute over the
/// last hour; `None` where none comes within `hours`.
pub fn times_to_page(
    reference: &Reference,
    policy: &Policy,
    (quiet, drifted): (&Pool, &Pool),
    shape: Shape,
    trials: u64,
    hours: u64,
) -> Vec<Option<f64>> {
    const LOOKS: usize = 60;
    let (mut usual, mut moved) = (Flying::new(quiet, shape, 7), Flying::new(drifted, shape, 8));
    let mut trial = || {
        usual.land();
        moved.land();
        let mut memory = Memory::default();
        let mut before = usual.hour();
        for hour in 0..hours {
            let now = moved.hour();
            for k in 1..=LOOKS {
                let cut = now.len() * k / LOOKS;
                let window: Vec<Record> = before[cut..].iter().chain(&now[..cut]).cloned().collect();
                let at = HOUR + hour * HOUR + HOUR * k as u64 / LOOKS as u64;
                if judge(reference, policy, window, &mut memory, at).page {
                    return Some((hour as usize * LOOKS + k) as f64);
                }
            }
            before = now;
        }
        None
    };
    (0..trials).map(|_| trial()).collect()
}

/// How far drift-free hours stray: per hour, PSI and largest sensor distance as multiples of what counts as a bad window.
pub fn strays(
    reference: &Reference,
    policy: &Policy,
    pool: &Pool,
    shape: Shape,
    hours: u64,
    fresh: bool,
) -> Vec<(f64, f64)> {
    let mut flying = Flying::new(pool, shape, 5);
    let mut out = Vec::new();
    for _ in 0..hours {
        if fresh {
            flying.land();
        }
        let window = Window { model_version: reference.model_version.clone(), is_stub: false, records: flying.hour() };
        let Measurement::Compared(found) = look(reference, &window, policy).unwrap() else { continue };
        if let (Some(p), Some(s)) = (&found.prediction, &found.sensors) {
            let sensor = s.features.first().map_or(0.0, |f| f.d / policy.sensor_distance.max(s.null_99));
            out.push((p.psi / p.threshold(policy), sensor));
        }
    }
    out
}
