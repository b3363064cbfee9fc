//! Counts of a window out of Prometheus, from raw samples.
//!
//! `increase()` extrapolates to the window's edges and so gives fractions; here the samples themselves are subtracted, resets are
//! added across, and the counts stay whole numbers.

use std::collections::BTreeMap;

use drift_stats::histogram::Histogram;
use reqwest::Client;
use serde::Deserialize;

use super::ask::Peer;
use super::error::Error;
use super::exposition::{Labels, le, whole};

/// How far before the window a sample may lie that stands for its beginning: a few scrapes.
const LOOKBACK_S: f64 = 300.0;

#[derive(Debug, Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Vec<Series>,
}

#[derive(Debug, Clone, Deserialize)]
struct Series {
    metric: Labels,
    #[serde(default)]
    values: Vec<(f64, String)>,
    #[serde(default)]
    value: Option<(f64, String)>,
}

/// A Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    peer: Peer,
}

impl Prometheus {
    pub fn new(address: &str, client: &Client) -> Self {
        Self { peer: Peer::new("Prometheus", address, client) }
    }

    async fn query(&self, query: &str, at: f64, kind: &str) -> Result<Vec<Series>, Error> {
        let path = "/api/v1/query";
        // Prometheus' own way of writing times.
        let request = self.peer.get(path).query(&[("query", query), ("time", &format!("{at:.3}"))]);
        let (status, body) = self.peer.send(request).await?;
        let Ok(answer) = serde_json::from_slice::<Answer>(&body) else {
            return Err(self.peer.refused(status, &body));
        };
        match answer.data {
            Some(data) if answer.status == "success" && data.result_type == kind => Ok(data.result),
            Some(data) if answer.status == "success" => {
                Err(self.peer.answer(format!("{path}: a {}, not a {kind}", data.result_type)))
            }
            _ => Err(self.peer.refused(status, answer.error.as_bytes())),
        }
    }

    /// What the buckets of `rul_prediction` of one version counted between `start` and `end` (seconds since 1970), all pods together;
    /// `None` when there is no such series.
    ///
    /// # Errors
    /// When Prometheus does not answer as it should, or the series contradict each other.
    pub async fn counts(&self, version: &str, start: f64, end: f64) -> Result<Option<Histogram>, Error> {
        let seconds = (end - start + LOOKBACK_S).ceil();
        let query = format!("rul_prediction_bucket{{model_version=\"{}\"}}[{seconds}s]", quoted(version));
        let series = self.query(&query, end, "matrix").await?;
        counts(&series, start).map_err(|reason| self.peer.answer(reason))
    }

    /// The earlier system's own question: `increase(rul_prediction_value_bucket[window])`, summed by bound, fractions and all.
    ///
    /// # Errors
    /// When Prometheus does not answer as it should.
    pub async fn increase(&self, window_s: f64, end: f64) -> Result<Vec<(f64, f64)>, Error> {
        let query = format!("increase(rul_prediction_value_bucket[{}s])", window_s.round());
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for series in self.query(&query, end, "vector").await? {
            let Some(le) = le(&series.metric) else { continue };
            let value = series.value.as_ref().and_then(|(_, v)| v.parse::<f64>().ok()).filter(|v| v.is_finite());
            let value = value.ok_or_else(|| self.peer.answer(format!("bucket le={le} has no number")))?;
            match sums.iter_mut().find(|(bound, _)| *bound == le) {
                Some((_, sum)) => *sum += value,
                None => sums.push((le, value)),
            }
        }
        Ok(sums)
    }
}

fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Per pod, from the last sample at or before `start` (else the first one there is) to the last one.
fn counts(series: &[Series], start: f64) -> Result<Option<Histogram>, String> {
    // All buckets of one pod belong together: a reset is seen in any of them and happened to all.
    let mut pods: BTreeMap<Labels, Vec<(f64, &Series)>> = BTreeMap::new();
    for series in series {
        let le = le(&series.metric).ok_or("a bucket without le")?;
        let mut labels = series.metric.clone();
        labels.remove("le");
        pods.entry(labels).or_default().push((le, series));
    }
    let mut sum: Option<Histogram> = None;
    for mut buckets in pods.into_values() {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some(found) = pod_counts(&buckets, start)? else { continue };
        match &mut sum {
            None => sum = Some(found),
            Some(sum) => sum.merge(&found).map_err(|e| e.to_string())?,
        }
    }
    Ok(sum)
}

fn pod_counts(buckets: &[(f64, &Series)], start: f64) -> Result<Option<Histogram>, String> {
    // Scrapes: all buckets at one moment. A bucket that misses a scrape makes that scrape useless.
    let mut scrapes: BTreeMap<u64, Vec<Option<u64>>> = BTreeMap::new();
    for (i, (le, series)) in buckets.iter().enumerate() {
        for (at, value) in &series.values {
            let count = value.parse().ok().and_then(whole).ok_or_else(|| format!("bucket le={le} counts {value}"))?;
            let millis = (at * 1000.0).round().max(0.0) as u64;
            if let Some(slot) = scrapes.entry(millis).or_insert_with(|| vec![None; buckets.len()]).get_mut(i) {
                *slot = Some(count);
            }
        }
    }
    let bounds: Vec<f64> = buckets.iter().map(|(le, _)| *le).collect();
    let histogram = |counts: Vec<u64>| {
        let pairs: Vec<(f64, u64)> = bounds.iter().copied().zip(counts).collect();
        Histogram::from_cumulative(&pairs).map_err(|e| e.to_string())
    };
    let start = (start * 1000.0).max(0.0) as u64;
    let mut before: Option<Histogram> = None;
    let mut sum: Option<Histogram> = None;
    for (at, counts) in scrapes {
        let Some(counts) = counts.into_iter().collect::<Option<Vec<u64>>>() else { continue };
        let now = histogram(counts)?;
        if let Some(earlier) = &before
            && at > start
        {
            let gained = now.since(earlier).unwrap_or_else(|_| now.clone());
            match &mut sum {
                None => sum = Some(gained),
                Some(sum) => sum.merge(&gained).map_err(|e| e.to_string())?,
            }
        }
        before = Some(now);
    }
    Ok(sum)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// One pod: per bucket, its samples every 30 s from second 0.
    fn pod(name: &str, buckets: &[(&str, &[u64])]) -> Vec<Series> {
        buckets
            .iter()
            .map(|(le, values)| Series {
                metric: [("pod", name), ("le", le)].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                values: values.iter().zip(0..).map(|(v, i)| (f64::from(i) * 30.0, v.to_string())).collect(),
                value: None,
            })
            .collect()
    }

    #[test]
    fn counts_run_from_the_scrape_before_the_window_to_the_last() {
        let series = pod("a", &[("25", &[1, 2, 4, 8]), ("+Inf", &[1, 3, 6, 11])]);
        let from = |start| counts(&series, start).unwrap().unwrap().counts().to_vec();
        assert_eq!(from(30.0), [6, 2], "from the scrape at 30");
        assert_eq!(from(59.0), [6, 2], "the one at 30 is the last before 59");
        assert_eq!(from(60.0), [4, 1]);
        assert_eq!(counts(&series, 90.0).unwrap(), None, "nothing after it");
    }

    #[test]
    fn a_reset_in_any_bucket_is_one_of_the_pod() {
        // Restarted between 30 and 60; the total grew meanwhile, so only the first bucket shows it.
        let series = pod("a", &[("25", &[5, 6, 1, 2]), ("+Inf", &[6, 7, 9, 11])]);
        let found = counts(&series, 0.0).unwrap().unwrap();
        assert_eq!(found.counts(), [1 + 1 + 1, 8 + 1]);
    }

    #[test]
    fn pods_are_summed_and_must_agree_on_bounds() {
        let mut series = pod("a", &[("25", &[0, 2]), ("+Inf", &[0, 3])]);
        series.extend(pod("b", &[("+Inf", &[0, 5]), ("25.0", &[0, 1])]));
        assert_eq!(counts(&series, 0.0).unwrap().unwrap().counts(), [3, 5]);
        series.extend(pod("c", &[("30", &[0, 2]), ("+Inf", &[0, 3])]));
        assert!(counts(&series, 0.0).unwrap_err().contains("bounds differ"));
        assert_eq!(counts(&[], 0.0).unwrap(), None);
        assert!(counts(&pod("d", &[("25", &[1, 2])]), 0.0).unwrap_err().contains("+Inf"));
    }

    #[test]
    fn a_scrape_that_lacks_a_bucket_is_left_out() {
        let mut series = pod("a", &[("25", &[0, 2, 4]), ("+Inf", &[0, 3, 6])]);
        series[0].values.remove(1);
        assert_eq!(counts(&series, 0.0).unwrap().unwrap().counts(), [4, 2]);
    }
}
