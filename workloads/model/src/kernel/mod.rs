//! SIMD kernels: the only module that may use `unsafe`, for intrinsics and for pointers into the
//! packed buffers. The instruction set is chosen once, when weights are packed; all of them run the
//! same generic code, and tests hold each against the exact definition.
#![allow(unsafe_code)]

mod buffer;
mod infer;
mod layout;
mod learn;
mod portable;
mod tile;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use buffer::Buffer;
use infer::Plan;
pub(crate) use infer::Workspace;
pub(crate) use layout::Layout;
pub(crate) use learn::{Adam, Rates, Shard, Transposed};

use crate::Network;

/// What the machine offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstructionSet {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl InstructionSet {
    /// All that this machine has, the best one last.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut out = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                out.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                out.push(Self::Avx512);
            }
        }
        out
    }

    pub(crate) fn best() -> Self {
        Self::available().pop().unwrap_or(Self::Portable)
    }

    fn lanes(self) -> usize {
        match self {
            Self::Portable => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 16,
        }
    }
}

/// A network packed for one instruction set.
#[derive(Debug)]
pub(crate) struct Kernel {
    set: InstructionSet,
    plan: Plan,
}

impl Kernel {
    pub(crate) fn new(network: &Network) -> Self {
        Self::with(network, InstructionSet::best())
    }

    /// `set` must be one of [`InstructionSet::available`].
    fn with(network: &Network, set: InstructionSet) -> Self {
        Self { set, plan: Plan::new(network, set.lanes()) }
    }

    pub(crate) fn instruction_set(&self) -> &'static str {
        match self.set {
            InstructionSet::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => "avx512",
        }
    }

    /// `input` must be `out.len()` whole windows.
    pub(crate) fn predict(&self, workspace: &mut Workspace, input: &[f32], out: &mut [f32]) {
        // SAFETY: `set` was detected, and the plan was packed for its vector length.
        unsafe {
            match self.set {
                InstructionSet::Portable => {
                    self.plan.predict::<portable::Plain>(workspace, input, out);
                }
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => predict_avx2(&self.plan, workspace, input, out),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => predict_avx512(&self.plan, workspace, input, out),
            }
        }
    }
}

impl Shard {
    /// One shard forward and backward; see `Shard::pass`. Panics when the lengths are not the
    /// layout's.
    pub(crate) fn learn(&mut self, layout: &Layout, values: &Buffer, transposed: &Transposed, total: usize) -> f64 {
        assert_eq!(values.len(), layout.len);
        // SAFETY: the layout's set was detected and its vector length is the layout's.
        unsafe {
            match layout.set {
                InstructionSet::Portable => self.pass::<portable::Plain>(layout, values, transposed, total),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => learn_avx2(self, layout, values, transposed, total),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => learn_avx512(self, layout, values, transposed, total),
            }
        }
    }
}

impl Adam {
    /// One step. Panics when the gradient is not as long as the values.
    pub(crate) fn update(&mut self, layout: &Layout, gradient: &Buffer, rates: Rates) {
        assert_eq!(gradient.len(), self.values.len());
        // SAFETY: as above.
        unsafe {
            match layout.set {
                InstructionSet::Portable => self.step::<portable::Plain>(gradient, rates),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => step_avx2(self, gradient, rates),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => step_avx512(self, gradient, rates),
            }
        }
    }
}

/// The generic code compiled once per instruction set. A macro, because `target_feature` wants a
/// literal.
macro_rules! compiled {
    ($features:literal, $vector:ty, $predict:ident, $learn:ident, $step:ident) => {
        /// # Safety
        /// Needs the features; see [`Plan::predict`].
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        unsafe fn $predict(plan: &Plan, ws: &mut Workspace, input: &[f32], out: &mut [f32]) {
            // SAFETY: as promised by the caller.
            unsafe { plan.predict::<$vector>(ws, input, out) }
        }

        /// # Safety
        /// Needs the features; see `Shard::pass`.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        unsafe fn $learn(
            shard: &mut Shard,
            layout: &Layout,
            values: &Buffer,
            transposed: &Transposed,
            total: usize,
        ) -> f64 {
            // SAFETY: as promised by the caller.
            unsafe { shard.pass::<$vector>(layout, values, transposed, total) }
        }

        /// # Safety
        /// Needs the features; see `Adam::step`.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        unsafe fn $step(adam: &mut Adam, gradient: &Buffer, rates: Rates) {
            // SAFETY: as promised by the caller.
            unsafe { adam.step::<$vector>(gradient, rates) }
        }
    };
}

compiled!("avx2,fma", x86::Avx2, predict_avx2, learn_avx2, step_avx2);
compiled!("avx512f", x86::Avx512, predict_avx512, learn_avx512, step_avx512);

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vector_tests;
