//! Microseconds per prediction of LSTM(16 -> 64 x 2) -> 1 over windows of 30, one thread.
//!
//! `cargo run --release -p model --example kernel -- [--write FILE.onnx] [--rounds N]`
//! prints one line per batch size: `batch  median_us  best_us`. Asserts nothing.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use model::{Lstm, Model, Network, Scaler, Scratch, onnx};

fn main() -> Result<(), Box<dyn Error>> {
    let mut write = None;
    let mut rounds = 101usize;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or("an option needs a value")?;
        match arg.as_str() {
            "--write" => write = Some(value),
            "--rounds" => rounds = value.parse()?,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let network = network();
    if let Some(path) = write {
        std::fs::write(path, onnx::write(&network, &onnx::Labels::default())?)?;
    }
    let size = network.window * network.features();
    let model = Model::new(network)?;
    println!("# {:?}", model.backend());
    let mut scratch = Scratch::default();
    for batch in [1usize, 32, 256] {
        let input: Vec<f32> = (0..batch * size).map(noise).collect();
        let mut out = vec![0.0; batch];
        // Short rounds: the best one is then undisturbed even on a busy machine.
        let calls = (64 / batch).max(1);
        let mut times: Vec<f64> = (0..rounds + 2)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..calls {
                    let input = std::hint::black_box(&input);
                    if let Err(e) = model.predict(&mut scratch, input, batch, &mut out) {
                        println!("{e}");
                    }
                    std::hint::black_box(&out);
                }
                start.elapsed().as_secs_f64() * 1e6 / (calls * batch) as f64
            })
            .skip(2)
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{batch} {:.2} {:.2}", times[times.len() / 2], times[0]);
    }
    Ok(())
}

/// Repeatable numbers in -1 .. 1: the golden ratio's multiples.
fn noise(i: usize) -> f32 {
    ((i as f64 * 0.618_033_988_749_894_9).fract() * 2.0 - 1.0) as f32
}

fn network() -> Network {
    let weights = |count: usize, size: f32| (0..count).map(|i| noise(i) * size).collect::<Vec<_>>();
    let layer = |input: usize| Lstm {
        input,
        hidden: 64,
        w: weights(256 * input, 0.2),
        r: weights(256 * 64, 0.2),
        b: weights(256, 0.2),
    };
    Network {
        window: 30,
        scaler: Scaler::identity(16),
        layers: vec![layer(16), layer(64)],
        head: weights(64, 10.0),
        bias: 60.0,
        cap: 125.0,
    }
}
