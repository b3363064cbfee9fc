//! The programs that the platform runs, one sub-command of `rul` each; each module says more.
//!
//! | sub-command | what it does | module |
//! |---|---|---|
//! | `rul serve` | answers predictions over HTTP, follows the registry's alias | [`serve`] |
//! | `rul train` | trains a model and registers it | [`train`] |
//! | `rul baseline` | writes down what a model was trained on, for the drift watch | [`baseline`] |
//! | `rul promote` | compares a new model with the served one, and serves the better one | [`promote`] |
//! | `rul drift` | compares what the service sees with what its model was trained on, raises the alert | [`drift`] |
//! | `rul trigger` | turns drift alerts into retraining runs | [`trigger`] |
//! | `rul simulate` | sends engines' windows to a service, with drift at a chosen moment | [`simulate`] |
//! | `rul demo` | the whole loop on one machine, from drift to the new model | [`demo`] |
//!
//! Between them: [`artifact`] is what a version consists of, [`registry`] where versions are, [`http`] how peers are asked,
//! [`token`] who may.

pub mod artifact;
pub mod baseline;
pub mod data;
pub mod demo;
pub mod drift;
pub mod http;
pub mod promote;
pub mod registry;
pub mod serve;
pub mod simulate;
pub mod token;
pub mod train;
pub mod trigger;
