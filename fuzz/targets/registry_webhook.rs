//! MLflow's signed deliveries to `rul serve`. An even first byte: the rest is a body, signed as MLflow signs. An odd one: lines with
//! id, timestamp and signature, then the body; none of them can be genuine.
#![no_main]

use base64::Engine;
use libfuzzer_sys::fuzz_target;
use ring::hmac;
use rul::serve::fuzzing::{SECRET, webhook};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let (status, answer) = if first % 2 == 0 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
        let now = now.to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let tag = hmac::sign(&key, &[b"id.", now.as_bytes(), b".", rest].concat());
        let signature = format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(tag));
        let (status, answer) = webhook(b"id", now.as_bytes(), signature.as_bytes(), rest);
        assert!(matches!(status, 200 | 400 | 413), "{status}");
        (status, answer)
    } else {
        let mut lines = rest.splitn(4, |&b| b == b'\n');
        let mut line = || lines.next().unwrap_or_default();
        let (status, answer) = webhook(line(), line(), line(), line());
        assert!(matches!(status, 401 | 413), "{status}");
        (status, answer)
    };
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("the answer is JSON");
    let said = if status == 200 { &answer["result"] } else { &answer["detail"] };
    assert!(said.as_str().is_some_and(|said| said.len() > 5), "{status}: {answer}");
});
