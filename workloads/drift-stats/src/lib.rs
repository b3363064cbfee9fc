//! Drift statistics of the platform: what was measured, how sure it is, and what to conclude.
//!
//! Pure functions over slices, no dependency, no I/O, no panic: an empty sample or a NaN is a [`StatError`].
//!
//! | module | gives |
//! |---|---|
//! | [`ks`] | two-sample Kolmogorov-Smirnov, exact with relative accuracy, or scipy's asymptotic law |
//! | [`kstwo`] | that law: the finite-n one-sample distribution |
//! | [`histogram`] | bounds with integer counts, and the KS interval that a histogram really supports |
//! | [`psi`], [`null`] | PSI with a stated zero rule, and how large it gets without any drift |
//! | [`edges`] | fixed quantile edges, numpy's "sturges" and "doane" |
//! | [`evidently`] | the distances of evidently 0.7, number for number |
//! | [`chi2`], [`multiple`] | chi-squared tests, Benjamini-Hochberg |
//! | [`seed`] | the earlier system's PSI/KS rule, kept for side-by-side comparison |
//! | [`decision`] | from served predictions to `ok`, `suspect`, `drift`, ..., with a memory |

pub mod chi2;
pub mod decision;
pub mod edges;
pub mod error;
pub mod evidently;
pub mod histogram;
pub mod ks;
pub mod kstwo;
pub mod multiple;
pub mod null;
pub mod psi;
pub mod rng;
pub mod seed;
pub mod special;

pub use error::StatError;
