//! ONNX files: a model that answers within its cap, or an error; never a panic, never memory without end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::{Model, Scratch};

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::from_onnx(bytes) else { return };
    let (window, features) = (model.window(), model.features());
    if window * features > 1 << 16 {
        return;
    }
    let mut out = [0.0];
    let input = vec![0.5; window * features];
    if model.predict(&mut Scratch::default(), &input, 1, &mut out).is_ok()
        && let Some(network) = model.network()
    {
        assert!(out[0].is_nan() || (0.0..=network.cap).contains(&out[0]), "{} of {}", out[0], network.cap);
    }
});
