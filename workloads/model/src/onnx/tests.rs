#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::testing::{network, windows, with_regimes};
use crate::{Error, Model};

fn labels(features: usize) -> Labels {
    Labels {
        name: "cmapss-rul".into(),
        version: "7".into(),
        features: (0..features).map(|i| format!("s{i} \"µ\"")).collect(),
    }
}

#[test]
fn what_is_written_is_read_back() {
    for (seed, window, features, hidden) in [(1, 30, 16, &[64, 64][..]), (2, 1, 1, &[1]), (3, 5, 3, &[7, 20, 4])] {
        let network = network(seed, window, features, hidden);
        let bytes = write(&network, &labels(features)).unwrap();
        let parsed = read(&bytes).unwrap();
        assert_eq!(parsed.network, network);
        assert_eq!(parsed.labels, labels(features));
        let input = windows(seed, &network, 9);
        let before = Model::new(network).unwrap().predict_all(&input).unwrap();
        let after = Model::from_onnx(&bytes).unwrap().predict_all(&input).unwrap();
        assert_eq!(before, after);
    }
}

#[test]
fn regimes_are_written_and_read_back() {
    for count in [1, 2, 6] {
        let network = with_regimes(11, network(10, 30, 16, &[20]), count);
        let bytes = write(&network, &labels(16)).unwrap();
        assert_eq!(read(&bytes).unwrap().network, network);
        for length in 0..bytes.len() {
            if let Ok(parsed) = read(&bytes[..length]) {
                assert_eq!(parsed.network, network, "{length}");
            }
        }
    }
    let bytes = write(&with_regimes(11, network(10, 6, 3, &[4]), 3), &Labels::default()).unwrap();
    for (from, to, why) in [
        ("Abs", "Neg", "node 2 is Neg, not Abs"),
        ("ArgMin", "ArgMax", "node 3 is ArgMax"),
        ("keepdims", "keepdimz", "other attributes"),
        ("own_mean", "own_maen", "not normalised by their own regime"),
    ] {
        match read(&replaced(&bytes, from, to)) {
            Err(Error::Foreign { reason }) => assert!(reason.contains(why), "{from}: {reason}"),
            other => panic!("{from}: {other:?}"),
        }
    }
    let mut bad = with_regimes(11, network(10, 6, 3, &[4]), 3);
    if let Some(regimes) = &mut bad.scaler.regimes {
        regimes.column = 3;
    }
    assert!(write(&bad, &Labels::default()).unwrap_err().to_string().contains("column 3"));
}

#[test]
fn a_recurrent_bias_is_added() {
    let network = network(4, 5, 3, &[4]);
    let mut bytes = write(&network, &Labels::default()).unwrap();
    // The bias tensor: 16 numbers, then 16 zeros. Give the zeros a value.
    let mut half: Vec<u8> = network.layers[0].b.iter().flat_map(|x| x.to_le_bytes()).collect();
    half.extend([0; 64]);
    let at = bytes.windows(128).position(|w| w == half).unwrap();
    bytes[at + 64..at + 68].copy_from_slice(&0.5f32.to_le_bytes());
    let read = read(&bytes).unwrap().network;
    assert_eq!(read.layers[0].b[0], network.layers[0].b[0] + 0.5);
    assert_eq!(read.layers[0].b[1..], network.layers[0].b[1..]);
}

#[test]
fn impossible_networks_are_not_written() {
    let good = network(5, 6, 3, &[4]);
    for (what, break_it) in [
        ("cap", (|n| n.cap = f32::NAN) as fn(&mut Network)),
        ("head", |n| n.head.truncate(3)),
        ("not a finite", |n| n.layers[0].w[0] = f32::INFINITY),
        ("scale is zero", |n| n.scaler.scale[1] = 0.0),
        ("layers", |n| n.layers.clear()),
        ("window", |n| n.window = 0),
        ("takes", |n| n.layers[0].input = 2),
    ] {
        let mut bad = good.clone();
        break_it(&mut bad);
        let text = write(&bad, &Labels::default()).unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    }
    let text = write(&good, &labels(2)).unwrap_err().to_string();
    assert!(text.contains("2 names for 3 features"), "{text}");
}

/// Replaces one text of the file by another of the same length.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    let mut out = bytes.to_vec();
    out[at..at + to.len()].copy_from_slice(to.as_bytes());
    out
}

#[test]
fn another_graph_is_foreign() {
    let bytes = write(&network(6, 6, 3, &[4, 5]), &Labels::default()).unwrap();
    for (from, to, why) in [
        ("Sub", "Add", "node 0 is Add, not Sub"),
        ("Clip", "Relu", "Relu, not Clip"),
        ("perm", "porm", "steps first"),
        ("transB", "transA", "Gemm has transA"),
        ("hidden_size", "hidden_sise", "hidden_sise"),
        ("steps1", "stepz1", "other inputs"),
    ] {
        match read(&replaced(&bytes, from, to)) {
            Err(Error::Foreign { reason }) => assert!(reason.contains(why), "{from}: {reason}"),
            other => panic!("{from}: {other:?}"),
        }
    }
}

#[test]
fn broken_bytes_are_malformed_with_a_place() {
    let bytes = write(&network(7, 6, 3, &[4]), &labels(3)).unwrap();
    for (broken, why) in [
        (vec![], "no graph"),
        (b"not an onnx file at all".to_vec(), ""),
        (bytes[..bytes.len() / 2].to_vec(), "left"),
        (vec![0xff; 40], "longer than 64 bits"),
        (vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f], "0 are left"),
        (vec![0x00, 0x00], "field number 0"),
    ] {
        match read(&broken) {
            Err(Error::Malformed { offset, reason }) => {
                assert!(offset <= broken.len());
                assert!(reason.contains(why), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn no_prefix_of_a_file_is_taken_for_one() {
    let network = network(8, 6, 3, &[4]);
    let bytes = write(&network, &labels(3)).unwrap();
    for length in 0..bytes.len() {
        if let Ok(parsed) = read(&bytes[..length]) {
            // Only the labels at the very end may be missing, never a number.
            assert_eq!(parsed.network, network, "{length}");
            assert!(length + 120 > bytes.len());
        }
    }
}

/// `PROPTEST_CASES` for long runs, else enough for a build.
fn cases() -> ProptestConfig {
    let given = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig::with_cases(given.and_then(|c| c.parse().ok()).unwrap_or(2000))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&bytes);
    }

    /// Damage at a few places: an error, or a network that passes its own check and predicts.
    #[test]
    fn a_damaged_file_is_survived(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        regimes in any::<bool>(),
    ) {
        let mut network = network(9, 4, 2, &[3, 2]);
        if regimes {
            network = with_regimes(12, network, 3);
        }
        let mut bytes = write(&network, &labels(2)).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(parsed) = read(&bytes) {
            prop_assert!(parsed.network.check().is_ok());
            let input = vec![0.5; parsed.network.window * parsed.network.features()];
            let out = Model::new(parsed.network).unwrap().predict_all(&input);
            prop_assert_eq!(out.unwrap().len(), 1);
        }
    }
}
