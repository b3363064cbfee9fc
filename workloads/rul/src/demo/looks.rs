//! What the drift watch said, look by look.

use jiff::Timestamp;
use serde_json::Value;

/// One line of `rul drift --json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub at: Timestamp,
    /// `ok`, `suspect`, `drift`, `insufficient_data`, ...; `failed` where it could not look.
    pub state: String,
    pub cause: Option<String>,
    /// The model version that is served and compared.
    pub version: Option<String>,
    /// Of which version the baseline is.
    pub baseline: Option<String>,
    pub records: u64,
    pub sentence: String,
    pub measures: Vec<Measure>,
    /// The sensor that moved most at equal age, and its KS distance.
    pub most: Option<(String, f64)>,
}

/// One statistic against its threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    pub cause: String,
    pub value: f64,
    pub threshold: f64,
    pub strong: Option<f64>,
}

impl Look {
    /// `None` for what is no look.
    pub fn read(at: Timestamp, line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        if line["type"] != "drift" {
            return None;
        }
        let seen = &line["evaluation"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let measure = |value: &Value| {
            Some(Measure {
                cause: text(&value["cause"])?,
                value: value["value"].as_f64()?,
                threshold: value["threshold"].as_f64()?,
                strong: value["strong"].as_f64(),
            })
        };
        let first = &seen["sensors"][0];
        Some(Self {
            at,
            state: text(&seen["state"]).unwrap_or_else(|| "failed".to_owned()),
            cause: text(&seen["cause"]),
            version: text(&seen["model"]["serving_version"]),
            baseline: text(&seen["model"]["baseline_version"]),
            records: seen["window"]["records"].as_u64().unwrap_or(0),
            sentence: text(&seen["sentence"]).unwrap_or_else(|| line["failures"].to_string()),
            measures: seen["causes"].as_array().into_iter().flatten().filter_map(measure).collect(),
            most: text(&first["name"]).zip(first["d"].as_f64()),
        })
    }

    /// All of a program's output.
    pub fn all(lines: Vec<(Timestamp, String)>) -> Vec<Self> {
        lines.iter().filter_map(|(at, line)| Self::read(*at, line)).collect()
    }

    pub fn measure(&self, cause: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.cause == cause)
    }

    /// Compared with the served version's own baseline, and nothing moved.
    pub fn is_ok_with(&self, version: &str) -> bool {
        let own = [&self.version, &self.baseline].iter().all(|side| side.as_deref() == Some(version));
        self.state == "ok" && own
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_watch_is_read_and_others_are_not() {
        let at = Timestamp::UNIX_EPOCH;
        let line = r#"{"type":"drift","failures":[],"evaluation":{"state":"ok","cause":null,"sentence":"No drift.",
            "model":{"serving_version":"2","baseline_version":"2"},"window":{"records":600},"sensors":[{"name":"sensor_04","d":0.1}],
            "causes":[{"cause":"regime","value":0.02,"threshold":0.1,"strong":0.5},{"cause":"sensors","value":null,"threshold":null}]}}"#;
        let look = Look::read(at, &line.replace('\n', "")).unwrap();
        assert!(look.is_ok_with("2") && !look.is_ok_with("1"));
        assert_eq!((look.records, look.measures.len()), (600, 1));
        assert_eq!(look.measure("regime").and_then(|m| m.strong), Some(0.5));
        assert_eq!(look.most, Some(("sensor_04".to_owned(), 0.1)));
        let failed = Look::read(at, r#"{"type":"drift","evaluation":null,"failures":["nobody answers"]}"#).unwrap();
        assert_eq!(failed.state, "failed");
        assert!(failed.sentence.contains("nobody answers"));
        assert_eq!(Look::read(at, "note: x"), None);
    }
}
