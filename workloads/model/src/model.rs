use crate::kernel::{Kernel, Workspace};
use crate::{Error, Network};

/// Which code runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Our own kernels; the instruction set in use.
    Native(&'static str),
    /// The general ONNX runtime.
    Rten,
}

/// A model ready to predict. Share it freely between threads; give every thread its own
/// [`Scratch`].
#[derive(Debug)]
pub struct Model {
    pub(crate) runner: Runner,
    pub(crate) window: usize,
    pub(crate) features: usize,
    pub(crate) cap: f32,
}

#[derive(Debug)]
pub(crate) enum Runner {
    Native {
        network: Network,
        kernel: Kernel,
    },
    #[cfg(feature = "rten")]
    Foreign(crate::foreign::Foreign),
}

/// Working memory of one predicting thread. Grows to the largest batch seen, then stays.
#[derive(Debug, Default)]
pub struct Scratch {
    workspace: Workspace,
}

impl Model {
    /// Checks the network and packs its weights for this machine's instruction set.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the parameters do not fit together.
    pub fn new(network: Network) -> Result<Self, Error> {
        network.check()?;
        Ok(Self {
            window: network.window,
            features: network.features(),
            cap: network.cap,
            runner: Runner::Native { kernel: Kernel::new(&network), network },
        })
    }

    /// Reads an ONNX file's bytes: our own graph natively, any other one through `rten` where that
    /// feature is on.
    ///
    /// # Errors
    /// [`Error::Malformed`] for broken bytes, [`Error::Foreign`] for another graph (without the
    /// feature), [`Error::Runtime`] when the general runtime refuses it.
    pub fn from_onnx(bytes: &[u8]) -> Result<Self, Error> {
        match crate::onnx::read(bytes) {
            Ok(parsed) => Self::new(parsed.network),
            #[cfg(feature = "rten")]
            Err(Error::Foreign { reason }) => crate::foreign::load(bytes, &reason),
            Err(other) => Err(other),
        }
    }

    /// Rows per window.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// Columns per row.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// Largest prediction, in cycles; infinite for a foreign graph, whose cap is unknown.
    #[must_use]
    pub fn cap(&self) -> f32 {
        self.cap
    }

    #[must_use]
    pub fn backend(&self) -> Backend {
        match &self.runner {
            Runner::Native { kernel, .. } => Backend::Native(kernel.instruction_set()),
            #[cfg(feature = "rten")]
            Runner::Foreign(_) => Backend::Rten,
        }
    }

    /// The parameters; `None` for a foreign graph.
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        match &self.runner {
            Runner::Native { network, .. } => Some(network),
            #[cfg(feature = "rten")]
            Runner::Foreign(_) => None,
        }
    }

    /// Predicts `batch` windows (`batch x window x features` numbers) into `out` (`batch` numbers,
    /// cycles). Allocates nothing when `scratch` has already seen a batch of this size (native
    /// backend).
    ///
    /// # Errors
    /// [`Error::Shape`] for a wrong length; [`Error::Runtime`] from the general runtime.
    pub fn predict(&self, scratch: &mut Scratch, input: &[f32], batch: usize, out: &mut [f32]) -> Result<(), Error> {
        let expected = batch.saturating_mul(self.window * self.features);
        if input.len() != expected {
            return Err(Error::Shape { what: "input", expected, got: input.len() });
        }
        if out.len() != batch {
            return Err(Error::Shape { what: "output", expected: batch, got: out.len() });
        }
        match &self.runner {
            Runner::Native { kernel, .. } => {
                kernel.predict(&mut scratch.workspace, input, out);
                Ok(())
            }
            #[cfg(feature = "rten")]
            Runner::Foreign(foreign) => foreign.predict(input, out),
        }
    }

    /// [`Model::predict`] with its own scratch and output, for callers that are not in a hurry.
    ///
    /// # Errors
    /// As [`Model::predict`]; also when `input` is not whole windows.
    pub fn predict_all(&self, input: &[f32]) -> Result<Vec<f32>, Error> {
        let batch = input.len() / (self.window * self.features);
        let mut out = vec![0.0; batch];
        self.predict(&mut Scratch::default(), input, batch, &mut out)?;
        Ok(out)
    }
}
