//! SCRAM-SHA-256 verifiers of PostgreSQL passwords (RFC 5802, RFC 7677), so that a password neither travels in the clear
//! nor has to be tried out: what the server stores is computed here and compared.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

/// What PostgreSQL uses by default.
const ITERATIONS: NonZeroU32 = match NonZeroU32::new(4096) {
    Some(iterations) => iterations,
    None => unreachable!(),
};

const SALT_BYTES: usize = 16;

/// A new verifier for `password`, in the form that `ALTER ROLE ... PASSWORD` takes and `pg_authid` stores.
pub fn new_verifier(password: &str) -> String {
    verifier(password, &rand::random::<[u8; SALT_BYTES]>(), ITERATIONS)
}

/// Whether `stored` (a `pg_authid.rolpassword`) is a SCRAM-SHA-256 verifier of `password`.
pub fn matches(stored: &str, password: &str) -> bool {
    let Some((iterations, salt)) = parameters(stored) else {
        return false;
    };
    verifier(password, &salt, iterations) == stored
}

/// Iterations and salt of `SCRAM-SHA-256$4096:salt$stored:server`.
fn parameters(stored: &str) -> Option<(NonZeroU32, Vec<u8>)> {
    let rest = stored.strip_prefix("SCRAM-SHA-256$")?;
    let (parameters, _) = rest.split_once('$')?;
    let (iterations, salt) = parameters.split_once(':')?;
    Some((iterations.parse().ok()?, STANDARD.decode(salt).ok()?))
}

fn verifier(password: &str, salt: &[u8], iterations: NonZeroU32) -> String {
    // The server falls back to the bytes as they are when they cannot be normalised, and so does its client.
    let prepared = stringprep::saslprep(password).unwrap_or_else(|_| password.into());
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, prepared.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 7677, section 3: user "user", password "pencil".
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let text = verifier("pencil", &salt, ITERATIONS);
        // The server signature that the RFC prints is made with this server key.
        let auth = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server_key = STANDARD.decode(text.rsplit(':').next().unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &server_key);
        assert_eq!(STANDARD.encode(hmac::sign(&key, auth.as_bytes())), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(matches(&text, "pencil"));
        assert!(!matches(&text, "pencil "));
    }

    #[test]
    fn every_verifier_has_its_own_salt() {
        let (a, b) = (new_verifier("x"), new_verifier("x"));
        assert_ne!(a, b);
        assert!(matches(&a, "x") && matches(&b, "x"));
    }

    #[test]
    fn what_is_no_verifier_matches_nothing() {
        for stored in ["", "md5abc", "SCRAM-SHA-256$0:AA==$a:b", "SCRAM-SHA-256$x", "x"] {
            assert!(!matches(stored, "x"), "{stored}");
        }
    }
}
