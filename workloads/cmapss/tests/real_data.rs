//! Against NASA's own files, where `shared/data/cmapss` lies beside the project or above it; skipped elsewhere.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use cmapss::files::{TestSet, Text};
use cmapss::regimes::Regimes;
use cmapss::scale::{Scaler, Scaling};
use cmapss::split::{self, EARLIER_VALIDATION};
use cmapss::synth::{Flavour, Generator};
use cmapss::windows::{WindowSpec, Windows};
use cmapss::write::{write_fleet, write_rul};
use cmapss::{Column, Engine, FeatureSet, Fleet, Row};
use std::path::{Path, PathBuf};

fn data() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared/data/cmapss"))
        .find(|dir| dir.is_dir());
    if found.is_none() {
        eprintln!("skipped: no shared/data/cmapss above this crate");
    }
    found
}

fn lives(fleet: &Fleet) -> Vec<f64> {
    fleet.engines.iter().map(|e| e.rows.len() as f64).collect()
}

fn mean_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
}

#[test]
fn checksums_counts_and_byte_exact_writing() {
    let Some(dir) = data() else { return };
    for (stem, rows) in [("train_FD001", 20_631), ("test_FD001", 13_096)] {
        let text = Text::find(&dir, stem).unwrap();
        assert_eq!(text.known_as(), Some(stem));
        let fleet = text.fleet().unwrap();
        assert_eq!((fleet.engines.len(), fleet.row_count()), (100, rows));
        let mut again = Vec::new();
        write_fleet(&mut again, &fleet).unwrap();
        assert!(again == text.bytes, "{stem} is not written as it was read");
    }
    let text = Text::find(&dir, "RUL_FD001").unwrap();
    assert_eq!(text.known_as(), Some("RUL_FD001"));
    let mut again = Vec::new();
    write_rul(&mut again, &text.rul().unwrap()).unwrap();
    assert_eq!(again, text.bytes);

    let train = Text::find(&dir, "train_FD001").unwrap().fleet().unwrap();
    let lives = lives(&train);
    assert_eq!(lives.iter().copied().fold(f64::INFINITY, f64::min), 128.0);
    assert_eq!(lives.iter().copied().fold(0.0, f64::max), 362.0);
    assert_eq!(mean_sd(&lives).0, 206.31);
    let test = TestSet::read(&dir, "FD001").unwrap();
    assert_eq!(test.rul.iter().min(), Some(&7));
    assert_eq!(test.rul.iter().max(), Some(&145));
    assert_eq!(test.fleet.engines.iter().map(|e| e.rows.len()).min(), Some(31));
}

#[test]
fn windows_and_the_earlier_systems_split() {
    let Some(dir) = data() else { return };
    let train = Text::find(&dir, "train_FD001").unwrap().fleet().unwrap();
    let split = split::by_ids(&train, &EARLIER_VALIDATION).unwrap();
    let scaler = Scaler::fit(FeatureSet::served(), Scaling::MinMax, &split.train).unwrap();
    let cut = |fleet: &Fleet| Windows::run_to_failure(&fleet.engines, &scaler, WindowSpec::training()).unwrap();
    let (fitted, held) = (cut(&split.train), cut(&split.validation));
    assert_eq!((fitted.len(), held.len()), (14_459, 3_272));
    assert!(fitted.values.iter().all(|v| (0.0..=1.0).contains(v)));
    assert!(held.values.iter().any(|v| !(0.0..=1.0).contains(v)), "the scaler saw the validation engines");
    assert_eq!(cut(&train).len(), 17_731);
    let test = TestSet::read(&dir, "FD001").unwrap();
    let last = Windows::with_rul(&test.fleet.engines, &test.rul, &scaler, WindowSpec::scoring()).unwrap();
    assert_eq!(last.len(), 100);
    assert_eq!(last.labels[0], 112.0);
}

#[test]
fn regimes_of_fd002() {
    let Some(dir) = data() else { return };
    let fleet = Text::find(&dir, "train_FD002_first85").unwrap().fleet().unwrap();
    assert_eq!(fleet.engines.len(), 85);
    let counts = Regimes::six().counts(fleet.rows());
    let n = fleet.row_count() as f64;
    for (count, share) in counts.iter().zip([0.149, 0.147, 0.153, 0.152, 0.149, 0.250]) {
        assert!((*count as f64 / n - share).abs() < 0.0006, "{counts:?}");
    }
    assert_eq!(counts[6], 0, "rows in no regime");
    let fd001 = Text::find(&dir, "train_FD001").unwrap().fleet().unwrap();
    assert_eq!(Regimes::six().counts(fd001.rows()), [20_631, 0, 0, 0, 0, 0, 0]);
}

/// Correlation of two columns over all rows.
fn correlation(fleet: &Fleet, a: Column, b: Column) -> f64 {
    let column = |c: Column| fleet.rows().map(|r| r.get(c)).collect::<Vec<_>>();
    let (x, y) = (column(a), column(b));
    let ((mx, sx), (my, sy)) = (mean_sd(&x), mean_sd(&y));
    let cross: f64 = x.iter().zip(&y).map(|(x, y)| (x - mx) * (y - my)).sum();
    cross / x.len() as f64 / sx / sy
}

/// Mean of a column over the rows that a condition keeps.
fn mean_where(engines: &[Engine], column: Column, keep: impl Fn(&Engine, &Row) -> bool) -> f64 {
    let kept: Vec<f64> =
        engines.iter().flat_map(|e| e.rows.iter().filter(|r| keep(e, r))).map(|r| r.get(column)).collect();
    mean_sd(&kept).0
}

#[test]
fn the_generator_looks_like_fd001() {
    let Some(dir) = data() else { return };
    let real = Text::find(&dir, "train_FD001").unwrap().fleet().unwrap();
    // Many engines, so that what differs is the law and not the luck of the draw.
    let made = Generator::new(Flavour::Fd001).train(400, 20_240_607).unwrap();
    let columns = FeatureSet::literature();
    let sampling = (1.0f64 / 100.0 + 1.0 / 400.0).sqrt();
    let (real_life, made_life) = (mean_sd(&lives(&real)), mean_sd(&lives(&made)));
    assert!((real_life.0 - made_life.0).abs() < 3.0 * sampling * real_life.1, "{real_life:?} {made_life:?}");
    assert!((made_life.1 / real_life.1 - 1.0).abs() < 0.25, "{real_life:?} {made_life:?}");
    for &c in columns.columns() {
        let values = |fleet: &Fleet| fleet.rows().map(|r| r.get(c)).collect::<Vec<_>>();
        let ((m, s), (mm, ms)) = (mean_sd(&values(&real)), mean_sd(&values(&made)));
        // 100 engines move a column's mean by about a tenth of its spread.
        assert!((m - mm).abs() < 0.15 * s, "{c}: mean {m} {mm}, sd {s}");
        assert!((ms / s - 1.0).abs() < 0.15, "{c}: sd {s} {ms}");
        let late = |e: &Engine, r: &Row| e.rows.len() as u32 - r.cycle < 5;
        let (at_end, made_end) = (mean_where(&real.engines, c, late), mean_where(&made.engines, c, late));
        assert!((at_end - made_end).abs() < 0.3 * s, "{c}: at failure {at_end} {made_end}, sd {s}");
    }
    let mut worst: f64 = 0.0;
    for (i, &a) in columns.columns().iter().enumerate() {
        for &b in &columns.columns()[..i] {
            let gap = (correlation(&real, a, b) - correlation(&made, a, b)).abs();
            worst = worst.max(gap);
            assert!(gap < 0.15, "{a} {b}: correlations differ by {gap}");
        }
    }
    eprintln!("largest difference of a correlation: {worst:.3}");
}

#[test]
fn the_generator_looks_like_fd002() {
    let Some(dir) = data() else { return };
    let real = Text::find(&dir, "train_FD002_first85").unwrap().fleet().unwrap();
    let made = Generator::new(Flavour::Fd002).train(170, 1).unwrap();
    let six = Regimes::six();
    let counts = six.counts(made.rows());
    let n = made.row_count() as f64;
    for (count, share) in counts.iter().zip([0.149, 0.147, 0.153, 0.152, 0.149, 0.250]) {
        assert!((*count as f64 / n - share).abs() < 0.01, "{counts:?}");
    }
    assert_eq!(counts[6], 0);
    let (real, made) = (Phases::of(&real), Phases::of(&made));
    for regime in 0..6 {
        for column in Column::all().skip(3) {
            // A nearly constant column (sensor 6) may be off by one in its last digit.
            let spread = column_of(&real.all[regime], column).1.max(0.0125);
            let means = |real: &[&Row], made: &[&Row]| (column_of(real, column).0, column_of(made, column).0);
            let before = means(&real.healthy[regime], &made.healthy[regime]);
            assert!(
                (before.0 - before.1).abs() < 0.35 * spread,
                "regime {regime} {column}: healthy {before:?}, sd {spread}"
            );
            let after = means(&real.failing[regime], &made.failing[regime]);
            assert!(
                (after.0 - after.1).abs() < 0.9 * spread,
                "regime {regime} {column}: failing {after:?}, sd {spread}"
            );
        }
    }
}

/// Rows by regime: all, those of the first third of a life, those of its last ten cycles.
#[derive(Default)]
struct Phases<'a> {
    all: [Vec<&'a Row>; 6],
    healthy: [Vec<&'a Row>; 6],
    failing: [Vec<&'a Row>; 6],
}

impl<'a> Phases<'a> {
    fn of(fleet: &'a Fleet) -> Self {
        let six = Regimes::six();
        let mut phases = Self::default();
        for engine in &fleet.engines {
            for row in &engine.rows {
                let regime = six.place(row.settings()).known().unwrap();
                phases.all[regime].push(row);
                if row.cycle as usize * 3 < engine.rows.len() {
                    phases.healthy[regime].push(row);
                }
                if engine.rows.len() as u32 - row.cycle < 10 {
                    phases.failing[regime].push(row);
                }
            }
        }
        phases
    }
}

fn column_of(rows: &[&Row], column: Column) -> (f64, f64) {
    mean_sd(&rows.iter().map(|r| r.get(column)).collect::<Vec<_>>())
}
