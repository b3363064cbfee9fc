//! The drift decision on NASA's own engines, where `shared/data/cmapss` lies above this crate; skipped elsewhere.
//!
//! Predictions come from a fixed formula over the sensors (not from a trained model), so that this crate needs no other.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use drift_stats::decision::{
    Cause, Decision, Fit, Measurement, Memory, Policy, Record, Reference, State, Window, decide, measure,
};
use drift_stats::rng::Rng;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Sensors, and the sign of their change with wear.
const SENSORS: [(usize, f64); 12] = [
    (2, 1.0),
    (3, 1.0),
    (4, 1.0),
    (7, -1.0),
    (8, 1.0),
    (11, 1.0),
    (12, -1.0),
    (13, 1.0),
    (15, 1.0),
    (17, 1.0),
    (20, -1.0),
    (21, -1.0),
];
const CENTRES: [[f64; 2]; 6] = [[0.0, 0.0], [10.0, 0.25], [20.0, 0.70], [25.0, 0.62], [35.0, 0.84], [42.0, 0.84]];

type Rows = Vec<Vec<f64>>;

fn read(dir: &Path, name: &str) -> Vec<Rows> {
    let out = Command::new("gzip").arg("-dc").arg(dir.join(name)).output().unwrap();
    assert!(out.status.success());
    let mut engines: Vec<Rows> = Vec::new();
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        let row: Vec<f64> = line.split_whitespace().map(|f| f.parse().unwrap()).collect();
        if row[1] == 1.0 {
            engines.push(Vec::new());
        }
        engines.last_mut().unwrap().push(row);
    }
    engines
}

/// Mean and standard deviation of each sensor in FD001's regime.
struct Norm(Vec<(f64, f64)>);

impl Norm {
    fn fit(engines: &[Rows]) -> Self {
        Self(
            SENSORS
                .iter()
                .map(|&(s, _)| {
                    let v: Vec<f64> = engines.iter().flatten().map(|r| r[4 + s]).collect();
                    let mean = v.iter().sum::<f64>() / v.len() as f64;
                    let var = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64;
                    (mean, var.sqrt())
                })
                .collect(),
        )
    }

    fn features(&self, row: &[f64]) -> Vec<f64> {
        SENSORS.iter().zip(&self.0).map(|(&(s, _), (mean, sd))| (row[4 + s] - mean) / sd).collect()
    }

    /// One record per cycle from 30 on, as a service with a window of 30 would see them.
    fn records(&self, id: u64, rows: &Rows) -> Vec<Record> {
        let wear = |row: &Vec<f64>| {
            let z = self.features(row);
            SENSORS.iter().zip(z).map(|(s, z)| s.1 * z).sum::<f64>() / SENSORS.len() as f64
        };
        let wears: Vec<f64> = rows.iter().map(wear).collect();
        (29..rows.len())
            .map(|i| {
                let level = wears[i - 9..=i].iter().sum::<f64>() / 10.0;
                let regime =
                    CENTRES.iter().position(|c| (rows[i][2] - c[0]).abs() < 1.0 && (rows[i][3] - c[1]).abs() < 0.05);
                Record {
                    engine: Some(id),
                    cycle: Some(rows[i][1] as u32),
                    regime,
                    features: if regime == Some(0) { self.features(&rows[i]) } else { Vec::new() },
                    prediction: (105.0 - 50.0 * level).clamp(0.0, 125.0),
                }
            })
            .collect()
    }
}

struct World {
    reference: Reference,
    /// Engines of train_FD001 that the reference has not seen.
    held: Vec<Vec<Record>>,
    test: Vec<Vec<Record>>,
    fd002: Vec<Vec<Record>>,
}

fn world() -> Option<&'static World> {
    static WORLD: OnceLock<Option<World>> = OnceLock::new();
    WORLD.get_or_init(load).as_ref()
}

fn load() -> Option<World> {
    let dir: Option<PathBuf> = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared/data/cmapss"))
        .find(|dir| dir.is_dir());
    let Some(dir) = dir else {
        eprintln!("skipped: no shared/data/cmapss above this crate");
        return None;
    };
    let train = read(&dir, "train_FD001.txt.gz");
    let norm = Norm::fit(&train);
    let all = |engines: &[Rows]| -> Vec<Vec<Record>> {
        engines.iter().zip(0..).map(|(rows, id)| norm.records(id, rows)).filter(|r| !r.is_empty()).collect()
    };
    let (seen, held) = train.split_at(60);
    let features: Vec<String> = SENSORS.iter().map(|s| format!("sensor_{:02}", s.0)).collect();
    let mut bounds: Vec<f64> = (1..25).map(|i| f64::from(i) * 5.0).collect();
    bounds.push(124.5);
    let fit = Fit {
        bounds,
        regimes: 6,
        age_width: 25,
        keep_every: 10,
        shapes: vec![(20, 20), (30, 20)],
        draws: 200,
        min_expected: Policy::default().min_expected,
        seed: 1,
    };
    Some(World {
        reference: Reference::fit("7", &features, &all(seen), &fit).unwrap(),
        held: all(held),
        test: all(&read(&dir, "test_FD001.txt.gz")),
        fd002: all(&read(&dir, "train_FD002_first85.txt.gz")),
    })
}

/// An hour: each of `engines` random engines flies `cycles` consecutive cycles.
fn hour(rng: &mut Rng, fleet: &[Vec<Record>], engines: usize, cycles: usize) -> Window {
    let mut order: Vec<usize> = (0..fleet.len()).collect();
    let mut records = Vec::new();
    for k in 0..engines {
        let slot = k % fleet.len();
        let pick = slot + rng.below(fleet.len() - slot);
        order.swap(slot, pick);
        let engine = &fleet[order[slot]];
        let take = cycles.min(engine.len());
        let start = rng.below(engine.len() - take + 1);
        records.extend_from_slice(&engine[start..start + take]);
    }
    Window { model_version: "7".to_owned(), is_stub: false, records }
}

fn evaluate(world: &World, window: &Window, memory: &mut Memory, now: u64) -> Decision {
    let policy = Policy::default();
    let measured = measure(&world.reference, window, &policy).unwrap();
    let (decision, next) = decide(&policy, &measured, memory, now);
    *memory = next;
    decision
}

#[test]
fn drift_free_hours_hardly_page() {
    let Some(world) = world() else { return };
    for (name, fleet, engines, cycles) in [
        ("held-out train engines", &world.held, 30, 20),
        ("held-out train engines, few", &world.held, 5, 60),
        ("test engines", &world.test, 30, 20),
        ("test engines, many", &world.test, 60, 10),
    ] {
        let mut rng = Rng::new(5);
        let mut memory = Memory::default();
        let hours = 400;
        let (mut pages, mut suspect, mut judged) = (0, 0, 0);
        for h in 0..hours {
            let window = hour(&mut rng, fleet, engines, cycles);
            let decision = evaluate(world, &window, &mut memory, h * 3600);
            pages += u32::from(decision.page);
            suspect += u32::from(decision.state == State::Suspect);
            judged += u32::from(decision.state != State::InsufficientData);
        }
        eprintln!("{name}, {engines} x {cycles}: {judged} judged, {suspect} suspect, {pages} pages in {hours} hours");
        assert!(f64::from(pages) <= 0.01 * hours as f64, "{name}: {pages} pages in {hours} hours");
        assert!(engines < 20 || judged == hours as u32, "{name}: {judged}");
    }
}

#[test]
fn another_regime_is_drift_at_once_however_few_engines() {
    let Some(world) = world() else { return };
    let mut rng = Rng::new(6);
    for (engines, cycles) in [(1, 60), (5, 60), (30, 20)] {
        for _ in 0..200 {
            let window = hour(&mut rng, &world.fd002, engines, cycles);
            let decision = evaluate(world, &window, &mut Memory::default(), 0);
            assert_eq!((decision.state, decision.cause), (State::Drift, Some(Cause::Regime)), "{decision:?}");
            assert!(decision.page);
        }
    }
}

#[test]
fn a_shifted_sensor_is_named() {
    let Some(world) = world() else { return };
    let mut rng = Rng::new(7);
    for _ in 0..20 {
        let mut window = hour(&mut rng, &world.held, 30, 20);
        for record in &mut window.records {
            record.features[5] += 2.5;
        }
        let decision = evaluate(world, &window, &mut Memory::default(), 0);
        assert_eq!((decision.state, decision.cause), (State::Drift, Some(Cause::Sensors)), "{decision:?}");
        assert!(decision.reasons.iter().any(|r| r.contains("sensor_11")), "{decision:?}");
    }
}

#[test]
fn predictions_alone_need_two_windows() {
    let Some(world) = world() else { return };
    let mut rng = Rng::new(8);
    let mut memory = Memory::default();
    let mut states = Vec::new();
    for now in 0..3 {
        let mut window = hour(&mut rng, &world.held, 30, 20);
        for record in &mut window.records {
            record.prediction = (record.prediction * 0.5).max(0.0);
        }
        let decision = evaluate(world, &window, &mut memory, now * 60);
        assert_eq!(decision.cause, Some(Cause::Prediction), "{decision:?}");
        states.push((decision.state, decision.page));
    }
    assert_eq!(states, [(State::Suspect, false), (State::Drift, true), (State::Drift, false)]);
}

#[test]
fn stubs_and_other_versions_are_not_compared() {
    let Some(world) = world() else { return };
    let mut window = hour(&mut Rng::new(9), &world.held, 30, 20);
    window.model_version = "8".to_owned();
    let decision = evaluate(world, &window, &mut Memory::default(), 0);
    assert_eq!(decision.state, State::BaselineMismatch);
    assert!(decision.reasons[0].contains("version 7") && decision.reasons[0].contains("runs 8"));
    window.is_stub = true;
    let decision = evaluate(world, &window, &mut Memory::default(), 0);
    assert_eq!(decision.state, State::Stub);
    assert!(!decision.page);
}

#[test]
fn every_number_carries_its_sample_size() {
    let Some(world) = world() else { return };
    let window = hour(&mut Rng::new(10), &world.held, 30, 20);
    let Measurement::Compared(found) = measure(&world.reference, &window, &Policy::default()).unwrap() else {
        panic!("not compared");
    };
    assert_eq!((found.records, found.engines, found.thinned), (600, 30, 90));
    let (sensors, prediction) = (found.sensors.unwrap(), found.prediction.unwrap());
    assert_eq!((sensors.n, prediction.n), (90, 90));
    assert!((2..=9).contains(&prediction.bins), "{}", prediction.bins);
    assert!(prediction.null_95 <= prediction.null_99 && prediction.null_99.is_finite());
    assert!(sensors.null_99 > 0.0 && sensors.null_99 < 1.0);
    let without: Vec<Record> = window.records.iter().cloned().map(|r| Record { engine: None, ..r }).collect();
    let window = Window { records: without, ..window };
    let decision = evaluate(world, &window, &mut Memory::default(), 0);
    assert_eq!(decision.state, State::InsufficientData, "{decision:?}");
}
