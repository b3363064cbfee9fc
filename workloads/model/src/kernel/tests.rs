#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{network, windows};

/// Every instruction set of this machine against the definition in `f64`, over shapes that fill
/// blocks and tiles and shapes that do not.
#[test]
fn every_instruction_set_agrees_with_the_definition() {
    for (seed, window, features, hidden) in [
        (1, 30, 16, &[64, 64][..]),
        (2, 7, 3, &[5]),
        (3, 12, 17, &[33, 20, 9]),
        (4, 1, 1, &[1]),
        (5, 9, 4, &[16, 48]),
    ] {
        let network = network(seed, window, features, hidden);
        for batch in [1, 2, 5, 6, 7, 11, 50, 97] {
            let input = windows(seed, &network, batch);
            let exact: Vec<f64> = input
                .chunks_exact(window * features)
                .map(|w| network.forward_exact(w).unwrap())
                .collect();
            for set in InstructionSet::available() {
                let kernel = Kernel::with(&network, set);
                let mut out = vec![0.0; batch];
                kernel.predict(&mut Workspace::default(), &input, &mut out);
                for (got, want) in out.iter().zip(&exact) {
                    let difference = (f64::from(*got) - want).abs();
                    assert!(
                        difference < 1e-3,
                        "{set:?} {hidden:?} batch {batch}: {got} instead of {want}"
                    );
                }
            }
        }
    }
}
