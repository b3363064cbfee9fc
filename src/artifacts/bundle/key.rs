//! Keys and signatures in minisign's format: ed25519 over the BLAKE2b hash of the manifest.

use std::fs::OpenOptions;
use std::io::{Cursor, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use minisign::{KeyPair, PublicKeyBox, SecretKeyBox, SignatureBox};

use crate::diagnostic::Diagnostic;

/// The password of a secret key that has one (those of `minisign -G` do, ours do not).
const PASSWORD: &str = "PROVISION_BUNDLE_PASSWORD";

/// The first line of signatures; nobody relies on it. The second comment is signed, and has no time in it.
const COMMENT: &str = "signature of a provision bundle";
const TRUSTED_COMMENT: &str = "file:manifest.json";

/// A key that signs bundles.
pub struct SecretKey(minisign::SecretKey);

/// A key that verifies them.
#[derive(Debug)]
pub struct PublicKey(minisign::PublicKey);

/// Where the key that signs lies: `$PROVISION_BUNDLE_KEY`, else `provision/bundle.key` in the user's configuration folder.
pub fn default_secret_key() -> PathBuf {
    if let Some(path) = std::env::var_os("PROVISION_BUNDLE_KEY") {
        return path.into();
    }
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    config.unwrap_or_else(|| PathBuf::from("/root/.config")).join("provision/bundle.key")
}

/// Where the public half of a secret key lies: beside it, with the ending `.pub`.
pub fn public_beside(secret: &Path) -> PathBuf {
    secret.with_extension("pub")
}

impl SecretKey {
    /// Makes a key pair: the secret half at `path` (mode 0600, without a password), the public one beside it. Never overwrites.
    ///
    /// # Errors
    /// When one of the files exists or cannot be made.
    pub fn create(path: &Path) -> Result<PublicKey> {
        let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().context("making a key pair")?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let public = public_beside(path);
        let files = [
            (path, 0o600, sk.to_box(Some("provision bundle secret key"))?.into_string()),
            (&public, 0o644, pk.to_box()?.into_string()),
        ];
        if let Some((there, ..)) = files.iter().find(|(path, ..)| path.exists()) {
            return Err(Diagnostic::new(format!("{} is there already and is not overwritten", there.display()))
                .hint("use it, or name another place with --secret-key")
                .into());
        }
        for (path, mode, text) in files {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(path)
                .with_context(|| format!("making {}", path.display()))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
        Ok(PublicKey(pk))
    }

    /// Reads a secret key of ours or of `minisign -G`.
    ///
    /// # Errors
    /// When it is missing, readable by others, no such key, or its password is missing or wrong.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Diagnostic::new(format!("cannot read the key that signs bundles, {shown}: {error}"))
                .hint("`provision bundle keygen` makes one; or name yours with --secret-key")
        })?;
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Diagnostic::new(format!("the secret key {shown} can be read by others (mode {mode:04o})"))
                .hint(format!("chmod 0600 {shown}"))
                .into());
        }
        let parse = || SecretKeyBox::from_string(text.trim_end());
        let fault = |error| anyhow!("{shown} is no secret key of minisign: {error}");
        if let Ok(key) = parse().map_err(fault)?.into_unencrypted_secret_key() {
            return Ok(Self(key));
        }
        let password = std::env::var(PASSWORD).map_err(|_| {
            Diagnostic::new(format!("the secret key {shown} has a password"))
                .hint(format!("put it into the environment as {PASSWORD}"))
        })?;
        let key = parse().map_err(fault)?.into_secret_key(Some(password)).map_err(|error| {
            Diagnostic::new(format!("the secret key {shown} does not open: {error}"))
                .hint(format!("is the password in {PASSWORD} right?"))
        })?;
        Ok(Self(key))
    }

    /// Its other half.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn public(&self) -> Result<PublicKey> {
        let key = minisign::PublicKey::from_secret_key(&self.0);
        Ok(PublicKey(key.context("the secret key has no public half in it")?))
    }

    /// The signature of `content`, as the text of a `.minisig` file. Minisign adds chance to each one, which protects the key of
    /// a machine that miscalculates: two signatures of the same content differ.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(&self, content: &[u8]) -> Result<String> {
        let signed = minisign::sign(None, &self.0, content, Some(TRUSTED_COMMENT), Some(COMMENT));
        Ok(signed.context("signing the manifest")?.into_string())
    }
}

impl PublicKey {
    /// From the path of a `.pub` file, or the key itself (`RW…`).
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        if let Ok(key) = minisign::PublicKey::from_base64(text.trim()) {
            return Ok(Self(key));
        }
        let hint = "it is the second line of a .pub file of minisign (RW…), or the path of such a file";
        let file = std::fs::read_to_string(text)
            .map_err(|error| Diagnostic::new(format!("no public key: cannot read {text}: {error}")).hint(hint))?;
        let key = PublicKeyBox::from_string(file.trim_end()).and_then(PublicKeyBox::into_public_key);
        key.map(Self).map_err(|error| Diagnostic::new(format!("{text} is no public key: {error}")).hint(hint).into())
    }

    /// Whether `signature` (the text of a `.minisig` file) is this key's of `content`.
    ///
    /// # Errors
    /// Why not.
    pub fn verify(&self, content: &[u8], signature: &str) -> Result<(), String> {
        let signature =
            SignatureBox::from_string(signature).map_err(|error| format!("the signature is damaged: {error}"))?;
        if signature.keynum() != self.0.keynum() {
            return Err(format!(
                "it is signed by the key {}, not by {}",
                key_id(signature.keynum()),
                key_id(self.0.keynum())
            ));
        }
        minisign::verify(&self.0, &signature, Cursor::new(content), true, false, false)
            .map_err(|error| format!("the signature does not fit: {error}"))
    }

    /// The key itself: `RW…`.
    pub fn text(&self) -> String {
        self.0.to_base64()
    }

    /// How minisign names it.
    pub fn id(&self) -> String {
        key_id(self.0.keynum())
    }
}

/// minisign shows the number as little-endian.
fn key_id(number: &[u8]) -> String {
    number.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_other_half_of_a_key_accepts_its_signature() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("a/one.key"), dir.path().join("two.key"));
        let public = SecretKey::create(&one).unwrap();
        let other = SecretKey::create(&two).unwrap();
        let key = SecretKey::load(&one).unwrap();
        let signature = key.sign(b"content").unwrap();
        assert_eq!(key.public().unwrap().id(), public.id());
        public.verify(b"content", &signature).unwrap();
        let read = PublicKey::parse(public_beside(&one).to_str().unwrap()).unwrap();
        read.verify(b"content", &signature).unwrap();
        PublicKey::parse(&public.text()).unwrap().verify(b"content", &signature).unwrap();
        assert!(public.verify(b"Content", &signature).unwrap_err().contains("does not fit"));
        let error = other.verify(b"content", &signature).unwrap_err();
        assert_eq!(error, format!("it is signed by the key {}, not by {}", public.id(), other.id()));
        assert!(public.verify(b"content", "nonsense").unwrap_err().contains("damaged"));
    }

    #[test]
    fn keys_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.key");
        SecretKey::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(SecretKey::create(&path).unwrap_err().to_string().contains("is not overwritten"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = SecretKey::load(&path).err().unwrap().to_string();
        assert!(error.contains("can be read by others (mode 0640)") && error.contains("chmod 0600"), "{error}");
        let error = SecretKey::load(&dir.path().join("none")).err().unwrap().to_string();
        assert!(error.contains("bundle keygen"), "{error}");
        assert!(PublicKey::parse("nothing").unwrap_err().to_string().contains("no public key"));
    }
}
