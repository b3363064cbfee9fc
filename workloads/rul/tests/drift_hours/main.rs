//! False alarms and detection, `rul drift` and the earlier system's rule side by side, on engines that neither the model nor its
//! baseline nor the choice of thresholds has seen. `--nocapture` shows the tables; bench/drift/README.md explains them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod table;
// The example has uses for more of these two.
#[allow(dead_code)]
mod traffic;
#[allow(dead_code)]
mod world;

use std::sync::LazyLock;

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

const FEW: Shape = SHAPES[0];
const MANY: Shape = SHAPES[3];
const HUNDRED: Shape = SHAPES[4];

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
    let both = (&WORLD.reference, &WORLD.seed);
    for (fresh, title) in [
        (false, "No drift, one look an hour; the same fleet flies on from hour to hour"),
        (true, "No drift, one look an hour; other engines every hour"),
    ] {
        let of = |pool: &Pool, hours| SHAPES.map(|shape| quiet_hours(both, &policy(), pool, shape, hours, fresh));
        let (unseen, seen) = (of(&WORLD.unseen, 1000), of(&WORLD.train, 300));
        head(title);
        for (name, tallies) in [("unseen engines", &unseen), ("engines that the model learnt from", &seen)] {
            for (shape, tally) in SHAPES.iter().zip(tallies) {
                row(name, *shape, tally);
            }
        }
        for tally in unseen.iter().chain(&seen) {
            assert!(tally.page_share() <= FALSE_PAGES, "{tally:?}");
        }
        // What this replaces.
        let seed: Vec<f64> = unseen.iter().map(Tally::seed_share).collect();
        let mean = seed.iter().sum::<f64>() / seed.len() as f64;
        println!("the earlier rule alarms in {:.1} % of the hours of unseen engines", 100.0 * mean);
        assert!(mean > if fresh { 0.9 } else { 0.7 }, "{seed:?}");
    }
}

#[test]
fn looking_every_minute_does_not_page_more_often() {
    let tally = sliding_hours(&WORLD.reference, &policy(), &WORLD.unseen, MANY, 100, 60);
    head("No drift, a look every minute over the last hour; hours in which it paged, state at the end of each");
    row("unseen engines", MANY, &tally);
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
        for shape in [FEW, MANY] {
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
    let mut tallies = Vec::new();
    for (spreads, least) in [(0.5, 0.0), (1.0, 0.0), (2.0, DETECTED), (3.0, DETECTED)] {
        let pool = WORLD.with_sensor_off("sensor_11", spreads);
        tallies.push((format!("sensor 11 reads {spreads} sd too high"), first(&pool, MANY, 250), least));
    }
    head("One sensor of unseen engines off, the first window judged without memory");
    for (name, tally, _) in &tallies {
        row(name, MANY, tally);
    }
    for (name, tally, least) in &tallies {
        assert!(tally.page_share() >= *least, "{name}: {tally:?}");
        assert_eq!(tally.by_cause[0], 0, "{name}: the regimes are the same: {tally:?}");
    }
}

#[test]
fn a_second_fault_mode_is_drift() {
    let rows = [("generated FD003", &WORLD.fd003), ("generated FD001 (no second fault)", &WORLD.like_fd001)];
    let tallies = rows.map(|(name, pool)| (name, first(pool, MANY, 250), first(pool, HUNDRED, 250)));
    head("A second fault mode, the first window judged without memory");
    for (name, many, hundred) in &tallies {
        row(name, MANY, many);
        row(name, HUNDRED, hundred);
    }
    let [(_, _, second), (_, first, other_first)] = &tallies;
    // Half of the engines have the old fault, and young ones have none: one window is rarely enough.
    assert!(second.suspect + second.drift >= second.hours / 2, "{second:?}");
    for quiet in [first, other_first] {
        assert!(quiet.page_share() <= FALSE_PAGES, "the generator's own distance: {quiet:?}");
    }
}

#[test]
fn time_until_it_pages() {
    let off = |spreads| WORLD.with_sensor_off("sensor_11", spreads);
    // Minutes by which every trial must have paged: the first window, where one is enough.
    let window = Some(60.0);
    let rows = [
        ("FD002", FEW, WORLD.fd002.clone(), window),
        ("FD002", MANY, WORLD.fd002.clone(), window),
        ("FD002, regime 2 only", MANY, of_regime(&WORLD.fd002, 1), window),
        ("sensor 11 reads 2 sd too high", MANY, off(2.0), window),
        ("sensor 11 reads 1 sd too high", MANY, off(1.0), None),
        ("generated FD003", MANY, WORLD.fd003.clone(), None),
        ("generated FD003", HUNDRED, WORLD.fd003.clone(), None),
    ];
    let both = |pool| (&WORLD.unseen, pool);
    let all: Vec<_> = rows
        .iter()
        .map(|(_, shape, pool, _)| times_to_page(&WORLD.reference, &policy(), both(pool), *shape, 12, 4))
        .collect();
    times_head("Minutes from the first drifted flight to the page, a look every minute over the last hour");
    for ((name, shape, _, _), times) in rows.iter().zip(&all) {
        times_row(name, *shape, times);
    }
    for ((name, shape, _, by), times) in rows.iter().zip(&all) {
        let late = times.iter().filter(|t| by.is_some_and(|by| t.is_none_or(|t| t > by))).count();
        assert_eq!(late, 0, "{name}, {shape}: {times:?}");
    }
}
