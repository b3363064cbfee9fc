//! Alertmanager's deliveries to `rul trigger`: taken, or a 4xx with a reason; what was taken is written down, readable again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let (status, answer, written) = rul::trigger::fuzzing::post(bytes);
    let answer: Value = serde_json::from_slice(&answer).expect("the answer is JSON");
    match status {
        200 => {
            assert!(answer["decision"] == "skipped", "nothing can be started here: {answer}");
            assert!(answer["reason"].as_str().is_some_and(|reason| reason.len() > 5), "{answer}");
        }
        // The run could not be started, so the sender is asked to come again; until then it is on disk.
        503 => assert!(written > 0 && answer["detail"].as_str().is_some_and(|reason| reason.len() > 5), "{answer}"),
        400..500 => {
            assert!(answer["detail"].as_str().is_some_and(|reason| reason.len() > 10), "{status}: {answer}");
            assert_eq!(written, 0, "refused and yet written down");
        }
        _ => panic!("{status}: {answer}"),
    }
});
