//! Networks and windows for the tests of every module.

use crate::train::rng::Rng;
use crate::{Lstm, Network, Scaler};

pub(crate) fn uniform(rng: &mut Rng, count: usize, size: f32) -> Vec<f32> {
    (0..count).map(|_| (rng.unit() * 2.0 - 1.0) * size).collect()
}

/// A network with weights large enough to drive the gates into saturation.
pub(crate) fn network(seed: u64, window: usize, features: usize, hidden: &[usize]) -> Network {
    let mut rng = Rng::new(seed);
    let mut input = features;
    let layers = hidden
        .iter()
        .map(|&hidden| {
            let layer = Lstm {
                input,
                hidden,
                w: uniform(&mut rng, 4 * hidden * input, 0.4),
                r: uniform(&mut rng, 4 * hidden * hidden, 0.2),
                b: uniform(&mut rng, 4 * hidden, 0.5),
            };
            input = hidden;
            layer
        })
        .collect();
    Network {
        window,
        scaler: Scaler {
            mean: uniform(&mut rng, features, 100.0),
            scale: uniform(&mut rng, features, 5.0).iter().map(|s| s.abs() + 0.5).collect(),
            regimes: None,
        },
        layers,
        head: uniform(&mut rng, input, 30.0),
        bias: 60.0,
        cap: 125.0,
    }
}

/// Windows that the network's scaler brings to about -3 .. 3.
pub(crate) fn windows(seed: u64, network: &Network, count: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let mut out = Vec::new();
    for _ in 0..count * network.window {
        for (mean, scale) in network.scaler.mean.iter().zip(&network.scaler.scale) {
            out.push(mean + scale * (rng.unit() * 6.0 - 3.0));
        }
    }
    out
}

/// The same behind `count` regimes that its first feature tells apart.
pub(crate) fn with_regimes(seed: u64, mut network: Network, count: usize) -> Network {
    let mut rng = Rng::new(seed);
    let features = network.features();
    network.scaler.regimes = Some(crate::Regimes {
        column: 0,
        centres: (0..count).map(|i| i as f32 * 40.0 - 80.0).collect(),
        mean: uniform(&mut rng, count * features, 2.0),
        scale: uniform(&mut rng, count * features, 1.0).iter().map(|s| s.abs() + 0.5).collect(),
    });
    network
}
