//! Bodies of every prediction path: an answer, or a 4xx with a reason. The first byte chooses the path.
#![no_main]

use libfuzzer_sys::fuzz_target;

const PATHS: [&str; 3] = ["/predict", "/v1/models/cmapss-rul:predict", "/v2/models/cmapss-rul/infer"];

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let path = PATHS[usize::from(*first) % PATHS.len()];
    let (status, answer) = rul::serve::fuzzing::post(path, body);
    assert!(status == 200 || (400..500).contains(&status), "{path}: {status}");
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("the answer is JSON");
    if status != 200 {
        let reason = answer["detail"].as_str().or(answer["error"].as_str()).unwrap_or_default();
        assert!(reason.len() > 5, "{path}: {status} without a reason: {answer}");
    }
});
