//! The target end: the same binary, running on the host, spoken to over standard input and output.

pub mod ledger;
pub mod lock;
pub mod protocol;
pub mod status;
