//! SIMD kernels: the only module that may use `unsafe`, for intrinsics and for pointers into the
//! packed buffers. The instruction set is chosen once, when weights are packed; all of them run the
//! same generic code, and tests hold each against the exact definition.
#![allow(unsafe_code)]

mod buffer;
mod infer;
mod portable;
mod tile;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

use infer::Plan;
pub(crate) use infer::Workspace;

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
        Self {
            set,
            plan: Plan::new(network, set.lanes()),
        }
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

/// # Safety
/// Needs AVX2 and FMA; see [`Plan::predict`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn predict_avx2(plan: &Plan, workspace: &mut Workspace, input: &[f32], out: &mut [f32]) {
    // SAFETY: as promised by the caller.
    unsafe { plan.predict::<x86::Avx2>(workspace, input, out) }
}

/// # Safety
/// Needs AVX-512F; see [`Plan::predict`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn predict_avx512(plan: &Plan, workspace: &mut Workspace, input: &[f32], out: &mut [f32]) {
    // SAFETY: as promised by the caller.
    unsafe { plan.predict::<x86::Avx512>(workspace, input, out) }
}

#[cfg(test)]
mod tests;
