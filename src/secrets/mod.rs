//! Secrets: the age-encrypted store, the [`Secret`] type, the [`Redactor`] that stands before every sink.

mod identity;
mod redact;
mod store;

use zeroize::Zeroizing;

pub use identity::{Identity, default_path};
pub use redact::{MASK, Redactor};
pub use store::{Store, is_key};

/// A value that must not be shown: no Display, no Debug, no Serialize. Wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value itself. Every call is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// 32 random letters and digits (190 bits), safe in URLs, shells, YAML and SQL.
    pub fn random() -> Self {
        use rand::Rng;
        use rand::distr::Alphanumeric;
        Self::new(rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_values_are_long_and_differ() {
        let (one, two) = (Secret::random(), Secret::random());
        assert_eq!(one.expose().len(), 32);
        assert!(one != two);
        assert!(one.expose().chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
