//! False alarms and detection, `rul drift` and the earlier system's rule side by side:
//! `cargo run --release -p rul --example drift_hours -- [HOURS [tune]]`. Data: `CMAPSS_DIR`, else generated.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../tests/drift_hours/table.rs"]
#[allow(dead_code)]
mod table;
// The test has uses for more of them.
#[allow(dead_code)]
#[path = "../tests/drift_hours/traffic.rs"]
mod traffic;
#[allow(dead_code)]
#[path = "../tests/drift_hours/world.rs"]
mod world;

use std::time::Instant;

use drift_stats::decision::{Policy, Record};
use drift_stats::rng::Rng;
use table::{head, row};
use traffic::{Flying, SHAPES, Shape, first_windows, policy, quiet_hours, sliding_hours, strays};
use world::{Pool, World, of_regime, other_regimes, world};

fn main() {
    let hours: u64 = std::env::args().nth(1).map_or(1000, |n| n.parse().unwrap());
    let tune = std::env::args().nth(2).is_some_and(|a| a == "tune");
    let started = Instant::now();
    let world = world();
    let policy = policy();
    let both = (&world.reference, &world.seed);
    println!(
        "{} FD001; model: validation RMSE {:.2}; baseline of {} engines; made in {:.1} s",
        if world.real { "NASA's" } else { "generated" },
        world.val_rmse,
        world.train.len(),
        started.elapsed().as_secs_f64()
    );
    for null in &world.reference.nulls {
        println!(
            "drift-free {} x {}: PSI 95/99 % {:.3}/{:.3}, largest sensor D {:.3}/{:.3}",
            null.engines, null.cycles, null.psi.q95, null.psi.q99, null.sensor.q95, null.sensor.q99
        );
    }
    let pools: &[(&str, &Pool)] = if tune {
        &[("engines for tuning", &world.tuning)]
    } else {
        &[("engines that model and baseline saw", &world.train), ("unseen engines (test_FD001)", &world.unseen)]
    };
    for (fresh, title) in [
        (false, "No drift, one look an hour; the same fleet flies on from hour to hour"),
        (true, "No drift, one look an hour; other engines every hour"),
    ] {
        head(title);
        for (name, pool) in pools {
            for shape in SHAPES {
                row(name, shape, &quiet_hours(both, &policy, pool, shape, hours, fresh));
            }
        }
    }
    head("No drift, a look every minute over the last hour; hours in which it paged, state at the end of each");
    for (name, pool) in pools {
        for shape in [SHAPES[2], SHAPES[3]] {
            row(name, shape, &sliding_hours(&world.reference, &policy, pool, shape, hours / 5, 60));
        }
    }
    if tune {
        margins(&world, &policy, hours);
        return;
    }
    head("Drift, the first window judged without memory");
    let windows = hours / 2;
    let drifted = |name: &str, pool: &Pool| {
        for shape in [SHAPES[0], SHAPES[3]] {
            let mut flying = Flying::new(pool, shape, 9);
            let traffic = || {
                flying.land();
                flying.hour()
            };
            row(name, shape, &first_windows(both, &policy, traffic, windows));
        }
    };
    drifted("FD002", &world.fd002);
    for regime in other_regimes() {
        drifted(&format!("FD002, regime {} only", regime + 1), &of_regime(&world.fd002, regime));
    }
    for percent in [60, 25, 10] {
        let shape = SHAPES[3];
        let mixed = mix(&world.unseen, &world.fd002, shape, percent);
        row(&format!("{percent} % of the flights from FD002"), shape, &first_windows(both, &policy, mixed, windows));
    }
    drifted("generated FD001 (how far it is from NASA's)", &world.like_fd001);
    drifted("generated FD003 (second fault)", &world.fd003);
    println!("\n{:.1} s in all", started.elapsed().as_secs_f64());
}

/// How near drift-free hours come to the thresholds.
fn margins(world: &World, policy: &Policy, hours: u64) {
    println!("\nPSI and largest sensor distance as multiples of their thresholds: median, 95 %, 99 %, largest");
    for (name, pool) in [("tuning", &world.tuning), ("seen", &world.train)] {
        for (fresh, how) in [(false, "same fleet"), (true, "other engines")] {
            for shape in &SHAPES[2..] {
                let strays = strays(&world.reference, policy, pool, *shape, hours, fresh);
                let quantiles = |of: fn(&(f64, f64)) -> f64| {
                    let mut values: Vec<f64> = strays.iter().map(of).collect();
                    values.sort_by(f64::total_cmp);
                    let at = |q: f64| values[((values.len() - 1) as f64 * q) as usize];
                    format!("{:.2} {:.2} {:.2} {:.2}", at(0.5), at(0.95), at(0.99), at(1.0))
                };
                let of = format!("{} x {}", shape.engines, shape.cycles);
                println!("{name:<8} {how:<14} {of:>8}   {}   {}", quantiles(|s| s.0), quantiles(|s| s.1));
            }
        }
    }
}

/// Every flight is from `other` with a chance of `percent`.
fn mix<'a>(usual: &'a Pool, other: &'a Pool, shape: Shape, percent: usize) -> impl FnMut() -> Vec<Record> + 'a {
    let (mut a, mut b) = (Flying::new(usual, shape, 1), Flying::new(other, shape, 2));
    let mut rng = Rng::new(3);
    move || {
        a.land();
        b.land();
        a.hour().into_iter().zip(b.hour()).map(|(a, b)| if rng.below(100) < percent { b } else { a }).collect()
    }
}
