use super::rng::Rng;
use super::{Options, Windows};
use crate::Scaler;
use crate::kernel::{Layout, Shard};

/// Fills a shard with the windows `indices`: scaled, with noise, laid out step by step; targets in
/// shares of the cap; fresh dropout masks.
pub(super) fn fill(
    shard: &mut Shard,
    layout: &Layout,
    data: &Windows<'_>,
    scaler: &Scaler,
    options: &Options,
    indices: &[usize],
    rng: &mut Rng,
) {
    let (rows, features) = (indices.len(), data.features);
    shard.resize(layout, rows, options.dropout > 0.0);
    for (row, &index) in indices.iter().enumerate() {
        shard.targets[row] = (data.targets[index] / options.cap).clamp(0.0, 1.0);
        let window = &data.inputs[index * data.size()..][..data.size()];
        for (step, from) in window.chunks_exact(features).enumerate() {
            let to = &mut shard.inputs[(step * rows + row) * features..][..features];
            scaler.apply(from, to);
        }
    }
    if options.input_noise > 0.0 {
        let inputs = &mut shard.inputs[..rows * data.size()];
        inputs.iter_mut().for_each(|x| *x += options.input_noise * gaussian(rng));
    }
    if options.input_offset > 0.0 {
        let offsets: Vec<f32> = (0..rows * features).map(|_| options.input_offset * gaussian(rng)).collect();
        let inputs = &mut shard.inputs[..rows * data.size()];
        for step in inputs.chunks_exact_mut(rows * features) {
            step.iter_mut().zip(&offsets).for_each(|(x, o)| *x += o);
        }
    }
    let keep = 1.0 - options.dropout;
    for mask in shard.masks() {
        mask.iter_mut().for_each(|m| *m = if rng.unit() < keep { 1.0 / keep } else { 0.0 });
    }
}

/// Nearly normal, from one draw: the sum of its four 16-bit parts, standardised.
fn gaussian(rng: &mut Rng) -> f32 {
    let x = rng.next();
    let sum = (x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48);
    // Four uniform parts of 0 .. 65535: mean 2 x 65535, variance 4 x (65536^2 - 1) / 12.
    (sum as f32 - 131_070.0) / 37_837.226
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_mean_zero_and_deviation_one() {
        let mut rng = Rng::new(1);
        let draws: Vec<f64> = (0..200_000).map(|_| f64::from(gaussian(&mut rng))).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((variance - 1.0).abs() < 0.01, "{variance}");
    }
}
