//! The target end: the same binary, running on the host, spoken to over standard input and output.

mod blobs;
pub mod ledger;
pub mod lock;
pub mod protocol;
mod serve;
pub mod status;
pub mod usage;

pub use serve::{Paths, serve};
