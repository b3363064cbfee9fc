//! The promise of `Model::predict`: once the scratch has seen a batch size, nothing is allocated.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use model::{Lstm, Model, Network, Scaler, Scratch};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn prediction_allocates_nothing() {
    let layer = |input: usize, hidden: usize| Lstm {
        input,
        hidden,
        w: vec![0.1; 4 * hidden * input],
        r: vec![-0.1; 4 * hidden * hidden],
        b: vec![0.2; 4 * hidden],
    };
    let network = Network {
        window: 10,
        scaler: Scaler::identity(5),
        layers: vec![layer(5, 20), layer(20, 9)],
        head: vec![3.0; 9],
        bias: 50.0,
        cap: 125.0,
    };
    let model = Model::new(network).unwrap();
    let mut scratch = Scratch::default();
    let (input, mut out) = (vec![0.3; 100 * 50], vec![0.0; 100]);
    let mut predict = |batch: usize| {
        model.predict(&mut scratch, &input[..batch * 50], batch, &mut out[..batch]).unwrap();
    };
    let before = COUNT.get();
    for batch in [100, 1, 5, 6] {
        predict(batch);
    }
    assert!(COUNT.get() > before, "the counter does not count");
    let before = COUNT.get();
    for batch in [1, 6, 5, 100, 64, 1] {
        predict(batch);
    }
    assert_eq!(COUNT.get(), before);
}
