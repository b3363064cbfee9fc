//! Takes secret values out of text, also in the forms that they take on their way: base64, URL and JSON encoded.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// What is shown in place of a secret.
pub const MASK: &str = "•••";

/// Shorter values are no secrets, and masking them would tear holes into all output.
const SHORTEST: usize = 6;

/// Replaces every registered value by [`MASK`]. Cheap to clone.
#[derive(Clone, Default)]
pub struct Redactor(Arc<Vec<String>>);

impl Redactor {
    /// Registers `values` with all their forms; of a value of several lines also each line.
    pub fn new<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Self {
        let mut needles = Vec::new();
        for value in values {
            let value = value.as_ref();
            for part in std::iter::once(value).chain(value.lines().map(str::trim)) {
                if part.len() >= SHORTEST {
                    needles.extend(forms(part));
                }
            }
        }
        // Longest first, so that no form is torn by a shorter one inside it.
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Self(Arc::new(needles))
    }

    /// `text` without any registered value.
    pub fn redact(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for needle in self.0.iter() {
            if out.contains(needle.as_str()) {
                out = out.replace(needle.as_str(), MASK);
            }
        }
        out
    }
}

impl Redactor {
    /// Masks every string of a JSON value, keys included. Unlike [`Redactor::redact`] on its text, it cannot break the form.
    pub fn redact_json(&self, value: &mut serde_json::Value) {
        use serde_json::Value;
        match value {
            Value::String(text) => *text = self.redact(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact_json(item)),
            Value::Object(entries) => {
                let old = std::mem::take(entries);
                for (key, mut item) in old {
                    self.redact_json(&mut item);
                    entries.insert(self.redact(&key), item);
                }
            }
            _ => {}
        }
    }
}

fn forms(value: &str) -> Vec<String> {
    let mut forms = vec![value.to_owned(), url_encoded(value)];
    if let Ok(json) = serde_json::to_string(value) {
        forms.push(json[1..json.len() - 1].to_owned());
    }
    // Base64 of text that contains the value depends on where it starts: the part that no neighbour touches, for the
    // three alignments.
    for skip in 0..3usize {
        let padded = [vec![0u8; skip], value.as_bytes().to_vec()].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&padded);
            let start = (skip * 8).div_ceil(6);
            let end = padded.len() * 8 / 6;
            if end > start + SHORTEST {
                forms.push(encoded[start..end].to_owned());
            }
        }
    }
    forms.push(STANDARD.encode(value));
    forms.push(URL_SAFE.encode(value));
    forms
}

fn url_encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_masked() {
        let secret = "p@ss \"word\"/1";
        let redactor = Redactor::new([secret]);
        for shown in [
            secret.to_owned(),
            "p%40ss%20%22word%22%2F1".to_owned(),
            serde_json::to_string(secret).unwrap(),
            STANDARD.encode(secret),
            STANDARD.encode(format!("user:{secret}")),
        ] {
            let out = redactor.redact(&format!("x {shown} y"));
            assert!(out.contains(MASK), "{shown} -> {out}");
        }
    }

    #[test]
    fn lines_of_a_long_value_and_short_values() {
        let redactor = Redactor::new(["first line\nsecond line", "abc"]);
        assert_eq!(redactor.redact("a second line b abc"), "a ••• b abc");
    }

    #[test]
    fn json_stays_json() {
        let redactor = Redactor::new(["123456"]);
        let mut value = serde_json::json!({"n": 123456, "t": ["x123456", {"k123456": 1}]});
        redactor.redact_json(&mut value);
        assert_eq!(value, serde_json::json!({"n": 123456, "t": ["x•••", {"k•••": 1}]}));
    }

    proptest! {
        #[test]
        fn nothing_of_a_value_is_left(value in "[a-zA-Z0-9+/=@ ]{8,40}", before in ".{0,20}", after in ".{0,20}") {
            let redactor = Redactor::new([&value]);
            let out = redactor.redact(&format!("{before}{value}{after}"));
            prop_assert!(!out.contains(&value) || MASK.contains(&value));
            let encoded = STANDARD.encode(format!("{before}{value}{after}"));
            prop_assert!(redactor.redact(&encoded) != encoded || value.len() < 10);
        }
    }
}
