//! What can be wrong with an input.

use std::fmt;

/// Why a statistic could not be computed. Every variant says which input, and what would help.
#[derive(Debug, Clone, PartialEq)]
pub enum StatError {
    /// A sample (or a table of counts) has nothing in it.
    Empty { what: &'static str },
    /// A value is NaN, or infinite where only finite values make sense.
    NotFinite { what: &'static str, index: usize, value: f64 },
    /// Two inputs that must have the same length do not.
    LengthMismatch { what: &'static str, left: usize, right: usize },
    /// Two histograms count different buckets; interpolating would invent data.
    BoundsDiffer { detail: String },
    /// Histogram bounds that are not finite and strictly increasing.
    BadBounds { index: usize, detail: String },
    /// A cumulative or monotone counter went down.
    CountsDecrease { index: usize, before: u64, after: u64 },
    /// Counts whose sum does not fit in 64 bits.
    Overflow { what: &'static str },
    /// A parameter outside its range.
    BadParameter { name: &'static str, detail: String },
}

impl fmt::Display for StatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { what } => {
                write!(f, "{what} is empty: a statistic needs at least one value")
            }
            Self::NotFinite { what, index, value } => {
                write!(f, "{what}[{index}] is {value}: drop or repair such values before comparing")
            }
            Self::LengthMismatch { what, left, right } => {
                write!(f, "{what}: lengths differ, {left} against {right}")
            }
            Self::BoundsDiffer { detail } => {
                write!(f, "histogram bounds differ ({detail}): take both from the same model version")
            }
            Self::BadBounds { index, detail } => {
                write!(f, "histogram bound {index}: {detail}")
            }
            Self::CountsDecrease { index, before, after } => {
                write!(f, "count of bucket {index} went down from {before} to {after}: the counter was reset")
            }
            Self::Overflow { what } => write!(f, "{what}: the counts do not fit in 64 bits"),
            Self::BadParameter { name, detail } => write!(f, "{name}: {detail}"),
        }
    }
}

impl std::error::Error for StatError {}

/// Refuses an empty slice or one with a NaN (infinities keep their order, so rank statistics accept them).
pub(crate) fn check_ordered(what: &'static str, values: &[f64]) -> Result<(), StatError> {
    check(what, values, |v| !v.is_nan())
}

/// Refuses an empty slice or one with a NaN or an infinity.
pub(crate) fn check_finite(what: &'static str, values: &[f64]) -> Result<(), StatError> {
    check(what, values, f64::is_finite)
}

fn check(what: &'static str, values: &[f64], good: impl Fn(f64) -> bool) -> Result<(), StatError> {
    if values.is_empty() {
        return Err(StatError::Empty { what });
    }
    match values.iter().position(|&v| !good(v)) {
        Some(index) => Err(StatError::NotFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

/// Refuses a probability or level outside the open interval (0, 1).
pub(crate) fn check_open_unit(name: &'static str, value: f64) -> Result<(), StatError> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(StatError::BadParameter { name, detail: format!("{value} is not strictly between 0 and 1") })
}

/// Sum of counts, or a typed error instead of a wrap-around; refuses a total of zero.
pub(crate) fn total(what: &'static str, counts: &[u64]) -> Result<u64, StatError> {
    let sum = counts.iter().try_fold(0u64, |sum, &c| sum.checked_add(c)).ok_or(StatError::Overflow { what })?;
    if sum == 0 {
        return Err(StatError::Empty { what });
    }
    Ok(sum)
}
