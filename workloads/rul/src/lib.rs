//! The programs that the platform runs.
pub mod serve;
