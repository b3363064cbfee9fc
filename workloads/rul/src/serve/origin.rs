//! Whom a window is from: the optional engine and cycle of a request.
//!
//! They are kept for the drift watch only, which must not take many windows of one engine for many
//! engines; predictions do not depend on them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

/// Longest name of an engine, in bytes.
const MAX_NAME: usize = 256;

/// One entry per window, or none at all.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Origins {
    pub engines: Vec<Option<u64>>,
    /// Cycle of a window's newest row.
    pub cycles: Vec<Option<u32>>,
}

impl Origins {
    pub fn engine(&self, window: usize) -> Option<u64> {
        self.engines.get(window).copied().flatten()
    }

    pub fn cycle(&self, window: usize) -> Option<u32> {
        self.cycles.get(window).copied().flatten()
    }
}

/// The first 64 bits of SHA-256 of the name: the same in every process and replica. 7 and "7" are
/// one engine.
fn hash(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |all, &byte| (all << 8) | u64::from(byte))
}

/// An engine or a cycle; `null` is absent.
#[derive(Debug, Clone, Copy)]
pub struct Engine;
#[derive(Debug, Clone, Copy)]
pub struct Cycle;

/// A list of them, of at most `limit`.
#[derive(Debug, Clone, Copy)]
pub struct List<T> {
    pub one: T,
    pub limit: usize,
}

impl<'de> DeserializeSeed<'de> for Engine {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Engine {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an engine: a string or a whole number")
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
        if v.is_empty() || v.len() > MAX_NAME {
            return Err(E::custom(format!("engine: a name has 1 to {MAX_NAME} bytes, this one {}", v.len())));
        }
        Ok(Some(hash(v)))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Self::Value, E> {
        Ok(Some(hash(&v.to_string())))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Self::Value, E> {
        Ok(Some(hash(&v.to_string())))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

impl<'de> DeserializeSeed<'de> for Cycle {
    type Value = Option<u32>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Cycle {
    type Value = Option<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a cycle: a whole number from 0")
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Self::Value, E> {
        u32::try_from(v).map(Some).map_err(|_| E::custom(format!("cycle: {v} is more than {}", u32::MAX)))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

impl<'de, T, V> DeserializeSeed<'de> for List<T>
where
    T: DeserializeSeed<'de, Value = Option<V>> + Visitor<'de> + Copy,
{
    type Value = Option<Vec<Option<V>>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, V> Visitor<'de> for List<T>
where
    T: DeserializeSeed<'de, Value = Option<V>> + Visitor<'de> + Copy,
{
    type Value = Option<Vec<Option<V>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, each ")?;
        self.one.expecting(f)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = seq.next_element_seed(self.one)? {
            if all.len() == self.limit {
                return Err(A::Error::custom(format!("a list of more than {} entries", self.limit)));
            }
            all.push(value);
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn the_hash_of_an_engine_never_changes() {
        // printf 7 | sha256sum
        assert_eq!(hash("7"), 0x7902_699b_e42c_8a8e);
    }
}
