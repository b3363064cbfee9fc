//! Prometheus' text format, read: samples of one name, and histograms out of them.

use std::collections::BTreeMap;

use drift_stats::histogram::Histogram;

/// Labels of one series.
pub type Labels = BTreeMap<String, String>;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub labels: Labels,
    pub value: f64,
}

/// All samples of one name.
///
/// # Errors
/// The line that cannot be read, and why.
pub fn samples(text: &str, name: &str) -> Result<Vec<Sample>, String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some(rest) = line.trim_start().strip_prefix(name) else { continue };
        // Another name that only begins the same.
        if !rest.starts_with(['{', ' ', '\t']) {
            continue;
        }
        let sample = sample(rest).ok_or_else(|| format!("line {}: cannot be read: {line:.120}", number + 1))?;
        found.push(sample);
    }
    Ok(found)
}

/// What follows the name: labels, a value, perhaps a time.
fn sample(rest: &str) -> Option<Sample> {
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => self::labels(inner)?,
        None => (Labels::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { labels, value })
}

/// `a="b",c="d"} rest`; quotes, backslashes and newlines in values are escaped.
fn labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, rest) = text.split_once('=')?;
        let mut value = String::new();
        let mut chars = rest.strip_prefix('"')?.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.trim().to_owned(), value);
        // One for the opening quote, one for the closing one.
        text = rest.get(end + 2..)?.trim_start();
        text = text.strip_prefix(',').unwrap_or(text);
    }
}

/// Upper bound of a bucket. Read as a number: `25`, `25.0` and `2.5e1` are one bound.
pub fn le(labels: &Labels) -> Option<f64> {
    labels.get("le")?.parse().ok().filter(|le: &f64| !le.is_nan())
}

/// Sums the buckets of all series and makes a histogram of them; `None` without buckets.
///
/// # Errors
/// Counts that are no whole numbers or fall, bounds that are not in order, a missing `+Inf`.
pub fn histogram(samples: &[Sample]) -> Result<Option<Histogram>, String> {
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    for sample in samples {
        let Some(le) = le(&sample.labels) else { continue };
        let count = whole(sample.value).ok_or_else(|| format!("bucket le={le} counts {}", sample.value))?;
        match buckets.iter_mut().find(|(bound, _)| *bound == le) {
            Some((_, sum)) => *sum = sum.saturating_add(count),
            None => buckets.push((le, count)),
        }
    }
    if buckets.is_empty() {
        return Ok(None);
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    Histogram::from_cumulative(&buckets).map(Some).map_err(|e| e.to_string())
}

/// A counter's value; counters are whole numbers below 2^53.
pub fn whole(value: f64) -> Option<u64> {
    (value >= 0.0 && value.fract() == 0.0 && value < 9e15).then_some(value as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "# HELP rul_prediction x\n# TYPE rul_prediction histogram\n\
        rul_prediction_bucket{model=\"a\\\"b,}\\\\\",model_version=\"7\",le=\"25.0\"} 3\n\
        rul_prediction_bucket{le=\"+Inf\",model_version=\"7\"} 5 1700000000000\n\
        rul_prediction_bucket{model_version=\"7\",le=\"25\",} 1\n\
        rul_prediction_bucket_more 9\nrul_prediction_count 5\nother{x=\"y\"} NaN\n";

    #[test]
    fn labels_values_and_names_that_begin_the_same() {
        let found = samples(TEXT, "rul_prediction_bucket").unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].labels["model"], "a\"b,}\\");
        assert_eq!(found[1].value, 5.0);
        assert_eq!(samples(TEXT, "rul_prediction_count").unwrap()[0].value, 5.0);
        assert!(samples(TEXT, "other").unwrap()[0].value.is_nan());
        assert!(samples("x{a=\"b} 1", "x").unwrap_err().contains("line 1"));
        assert!(samples("x{a=\"b\"} y", "x").is_err());
    }

    #[test]
    fn bounds_are_numbers_and_series_are_summed() {
        let histogram = histogram(&samples(TEXT, "rul_prediction_bucket").unwrap()).unwrap().unwrap();
        assert_eq!((histogram.bounds(), histogram.counts()), (&[25.0][..], &[4, 1][..]));
        assert_eq!(super::histogram(&[]).unwrap(), None);
        let fraction = samples("x{le=\"+Inf\"} 1.5", "x").unwrap();
        assert!(super::histogram(&fraction).unwrap_err().contains("1.5"));
        let open = samples("x{le=\"1\"} 1", "x").unwrap();
        assert!(super::histogram(&open).unwrap_err().contains("+Inf"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}", inner in "[a-z=\",\\\\{} 0-9.\n]{0,60}") {
            let _ = samples(&text, "x");
            let _ = samples(&format!("x{{{inner}"), "x");
        }
    }
}
