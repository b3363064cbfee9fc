//! The form in which MinIO's admin interface takes secrets: encrypted with the administrator's own secret key, because the
//! interface may be spoken without TLS.
//!
//! `salt (32) | 2 | nonce (8) | sealed`, where the key is PBKDF2-HMAC-SHA256 of the secret key, and `sealed` is AES-256-GCM in
//! the way of github.com/secure-io/sio-go: the nonce is followed by a little-endian counter; 0 makes a tag over nothing, which
//! behind a byte 0x80 ("last fragment") is the associated data of the one fragment that a short text is. Of the three
//! algorithms that the server takes it is the one for machines in FIPS mode, whose parts `ring` has.

use std::num::NonZeroU32;

use anyhow::{Result, ensure};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};

const SALT: usize = 32;
const NONCE: usize = 8;

/// PBKDF2 with AES-256-GCM.
const ALGORITHM: u8 = 2;

/// Rounds of PBKDF2, fixed by the server.
const ROUNDS: NonZeroU32 = NonZeroU32::new(8192).unwrap();

/// The longest text of one fragment.
const FRAGMENT: usize = 16 * 1024;

/// Seals a short text.
///
/// # Errors
/// When it is longer than 16 KiB, or the machine has no random numbers.
pub fn seal(secret_key: &str, text: &[u8]) -> Result<Vec<u8>> {
    let mut random = [0; SALT + NONCE];
    SystemRandom::new().fill(&mut random).map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    let (salt, nonce) = random.split_at(SALT);
    seal_with(secret_key, text, salt, nonce)
}

fn seal_with(secret_key: &str, text: &[u8], salt: &[u8], nonce: &[u8]) -> Result<Vec<u8>> {
    ensure!(text.len() <= FRAGMENT, "it is longer than {FRAGMENT} bytes");
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, secret_key.as_bytes(), &mut key);
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| anyhow::anyhow!("the key does not fit"))?;
    let key = LessSafeKey::new(key);
    let encrypt = |counter: u32, text: &[u8], associated: &[u8]| -> Result<Vec<u8>> {
        let mut full = [0; 12];
        full[..NONCE].copy_from_slice(nonce);
        full[NONCE..].copy_from_slice(&counter.to_le_bytes());
        let mut out = text.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(full), Aad::from(associated), &mut out)
            .map_err(|_| anyhow::anyhow!("it cannot be encrypted"))?;
        Ok(out)
    };
    let mut associated = vec![0x80];
    associated.extend(encrypt(0, &[], &[])?);
    let sealed = encrypt(1, text, &associated)?;
    Ok([salt, &[ALGORITHM], nonce, &sealed].concat())
}
