//! The table, one row per kind of traffic.

use crate::traffic::{Shape, Tally};

pub fn head(title: &str) {
    println!("\n{title}");
    println!(
        "{:<40} {:>8} {:>6} {:>7} {:>9} {:>9} {:>8} {:>7} {:>8}",
        "traffic", "e x c", "hours", "page %", "r/s/p", "suspect %", "drift %", "few %", "seed %"
    );
}

/// `page %`: hours in which `rul drift` alarms, and how often for regimes/sensors/predictions; `suspect %`, `drift %`, `few %`: its
/// state at the end of the hour; `seed %`: hours in which the earlier system's rule alarms.
pub fn row(what: &str, shape: Shape, t: &Tally) {
    let share = |n: u64| 100.0 * n as f64 / t.hours as f64;
    println!(
        "{what:<40} {:>8} {:>6} {:>7.2} {:>9} {:>9.1} {:>8.1} {:>7.1} {:>8.1}",
        shape.to_string(),
        t.hours,
        share(t.pages),
        format!("{}/{}/{}", t.by_cause[0], t.by_cause[1], t.by_cause[2]),
        share(t.suspect),
        share(t.drift),
        share(t.insufficient),
        share(t.seed)
    );
}

pub fn times_head(title: &str) {
    println!("\n{title}");
    println!("{:<40} {:>8} {:>6} {:>8} {:>8} {:>8}", "traffic", "e x c", "trials", "never", "median", "95 %");
}

/// `times`: minutes until the first page, `None` where none came.
pub fn times_row(what: &str, shape: Shape, times: &[Option<f64>]) {
    let mut found: Vec<f64> = times.iter().map(|t| t.unwrap_or(f64::INFINITY)).collect();
    found.sort_by(f64::total_cmp);
    let at = |q: f64| found[((found.len() - 1) as f64 * q).ceil() as usize];
    let never = times.iter().filter(|t| t.is_none()).count();
    println!("{what:<40} {:>8} {:>6} {never:>8} {:>8.0} {:>8.0}", shape.to_string(), times.len(), at(0.5), at(0.95));
}
