//! False alarms and detection, `rul drift` and the earlier system's rule side by side, on engines that neither the model nor its
//! baseline nor the choice of thresholds has seen. `--nocapture` shows the tables; bench/drift/README.md explains them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod table;
// The example has uses for more of it.
#[allow(dead_code)]
mod traffic;
mod world;

use std::sync::LazyLock;

use drift_stats::rng::Rng;
use table::{head, row, times_head, times_row};
use traffic::{Flying, SHAPES, Shape, Tally, first_windows, policy, quiet_hours, sliding_hours, times_to_page};
use world::{Pool, World, of_regime, other_regimes, world};

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let world = world();
    println!(
        "{} FD001; model: validation RMSE {:.2} cycles; {} engines unseen",
        if world.real { "NASA's" } else { "generated" },
        world.val_rmse,
        world.unseen.len()
    );
    world
});

/// The bounds.
const FALSE_PAGES: f64 = 0.01;
const DETECTED: f64 = 0.99;

const MANY: Shape = SHAPES[3];

/// The first window of drifted traffic, many times.
fn first(pool: &Pool, shape: Shape, windows: u64) -> Tally {
    let mut flying = Flying::new(pool, shape, 9);
    let traffic = || {
        flying.land();
        flying.hour()
    };
    first_windows((&WORLD.reference, &WORLD.seed), &policy(), traffic, windows)
}

#[test]
fn a_thousand_hours_without_drift_hardly_ever_page() {
    for (fresh, title) in [
        (false, "No drift, one look an hour; the same fleet flies on from hour to hour"),
        (true, "No drift, one look an hour; other engines every hour"),
    ] {
        let mut tallies = Vec::new();
        for shape in SHAPES {
            tallies.push(quiet_hours((&WORLD.reference, &WORLD.seed), &policy(), &WORLD.unseen, shape, 1000, fresh));
        }
        head(title);
        for (shape, tally) in SHAPES.iter().zip(&tallies) {
            row("FD001, unseen engines", *shape, tally);
        }
        for (shape, tally) in SHAPES.iter().zip(&tallies) {
            assert!(tally.page_share() <= FALSE_PAGES, "{shape}: {tally:?}");
            // What this replaces. A hundred engines together are nearly the mix of ages that it was made of.
            assert!(shape.engines >= 100 || tally.seed_share() > 0.9, "{shape}: {tally:?}");
        }
    }
}

#[test]
fn looking_every_minute_does_not_page_more_often() {
    let tally = sliding_hours(&WORLD.reference, &policy(), &WORLD.unseen, MANY, 250, 60);
    head("No drift, a look every minute over the last hour; hours in which it paged, state at the end of each");
    row("FD001, unseen engines", MANY, &tally);
    assert!(tally.page_share() <= FALSE_PAGES, "{tally:?}");
}

#[test]
fn other_regimes_are_seen_in_the_first_window() {
    let mut rows = vec![("FD002".to_owned(), WORLD.fd002.clone())];
    for regime in other_regimes() {
        rows.push((format!("FD002, regime {} only", regime + 1), of_regime(&WORLD.fd002, regime)));
    }
    let mut tallies = Vec::new();
    for (name, pool) in &rows {
        for shape in [SHAPES[0], MANY] {
            tallies.push((name, shape, first(pool, shape, 500)));
        }
    }
    head("Other operating regimes, the first window judged without memory");
    for (name, shape, tally) in &tallies {
        row(name, *shape, tally);
    }
    for (name, shape, tally) in &tallies {
        assert!(tally.page_share() >= DETECTED, "{name}, {shape}: {tally:?}");
    }
}

#[test]
fn a_sensor_that_reads_wrong_is_found_and_named() {
    let shape = MANY;
    let mut tallies = Vec::new();
    for (spreads, least) in [(0.5, 0.0), (1.0, 0.0), (2.0, DETECTED), (3.0, DETECTED)] {
        let pool = WORLD.with_sensor_off("sensor_11", spreads);
        tallies.push((format!("sensor 11 reads {spreads} sd too high"), first(&pool, shape, 250), least));
    }
    head("One sensor of unseen engines off, the first window judged without memory");
    for (name, tally, _) in &tallies {
        row(name, shape, tally);
    }
    for (name, tally, least) in &tallies {
        assert!(tally.page_share() >= *least, "{name}: {tally:?}");
        assert_eq!(tally.by_cause[0], 0, "{name}: the regimes are the same: {tally:?}");
    }
}
