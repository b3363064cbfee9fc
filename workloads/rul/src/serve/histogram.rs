//! A histogram without locks, and its lines in Prometheus' text.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A histogram that many threads may observe into.
#[derive(Debug)]
pub struct Histogram {
    edges: Vec<f64>,
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    pub fn new(edges: &[f64]) -> Self {
        Self {
            edges: edges.to_vec(),
            counts: (0..=edges.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0f64.to_bits()),
        }
    }

    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    pub fn observe(&self, value: f64) {
        let bucket = self.edges.partition_point(|edge| *edge < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        let add = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        // The closure never refuses.
        let _ = self.sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// `labels` is `a="b"` pairs without braces, or empty.
    pub fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let mut total = 0;
        for (i, count) in self.counts.iter().enumerate() {
            total += count.load(Relaxed);
            // Debug prints 25 as "25.0", which is what readers of the seed's metrics compare with.
            let edge = self.edges.get(i).map_or_else(|| "+Inf".to_owned(), |edge| format!("{edge:?}"));
            line(out, format_args!("{name}_bucket{{{labels}{comma}le=\"{edge}\"}} {total}"));
        }
        let sum = f64::from_bits(self.sum.load(Relaxed));
        line(out, format_args!("{name}_sum{braces} {sum:?}"));
        line(out, format_args!("{name}_count{braces} {total}"));
    }
}

/// One line of text.
pub fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn buckets_are_cumulative_and_edges_belong_to_the_lower_one() {
        let histogram = Histogram::new(&[0.0, 25.0, 0.5e3]);
        for value in [-1.0, 0.0, 0.1, 25.0, 25.1, 501.0, 1e9] {
            histogram.observe(value);
        }
        let mut out = String::new();
        histogram.write(&mut out, "x", "v=\"1\"");
        let expected = "x_bucket{v=\"1\",le=\"0.0\"} 2\nx_bucket{v=\"1\",le=\"25.0\"} 4\n\
                        x_bucket{v=\"1\",le=\"500.0\"} 5\nx_bucket{v=\"1\",le=\"+Inf\"} 7\n\
                        x_sum{v=\"1\"} 1000000550.2\nx_count{v=\"1\"} 7\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let histogram = Histogram::new(&[1.0]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| histogram.observe(2.0)));
            }
        });
        let mut out = String::new();
        histogram.write(&mut out, "x", "");
        assert_eq!(out, "x_bucket{le=\"1.0\"} 0\nx_bucket{le=\"+Inf\"} 40000\nx_sum 80000.0\nx_count 40000\n");
    }
}
