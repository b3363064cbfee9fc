//! The private key of a person: an age X25519 identity in a file of mode 0600, outside the project.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use anyhow::{Context, Result};

use crate::diagnostic::Diagnostic;

/// An age identity.
pub struct Identity(age::x25519::Identity);

/// Where the identity lies: `$PROVISION_IDENTITY`, else `provision/identity.txt` in the user's configuration folder.
pub fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os("PROVISION_IDENTITY") {
        return path.into();
    }
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    config.unwrap_or_else(|| PathBuf::from("/root/.config")).join("provision/identity.txt")
}

impl Identity {
    /// Reads an identity file (the format of `age-keygen`).
    ///
    /// # Errors
    /// When it is missing, readable by others, or not an identity.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Diagnostic::new(format!("cannot read the identity {}: {error}", path.display())).hint(
                "`provision secret init` makes one; or point PROVISION_IDENTITY at the file that belongs to a recipient in secrets/secrets.yml",
            )
        })?;
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Diagnostic::new(format!(
                "the identity {} can be read by others (mode {mode:04o})",
                path.display()
            ))
            .hint(format!("chmod 0600 {}", path.display()))
            .into());
        }
        let line =
            text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
        line.parse().map(Self).map_err(|reason: &str| {
            let hint = if line.starts_with("AGE-SECRET-KEY-PQ-") {
                "post-quantum identities are not supported by this age library; use an X25519 identity (age-keygen)"
            } else {
                "the file holds one line AGE-SECRET-KEY-1…, as age-keygen writes it"
            };
            Diagnostic::new(format!("{} is not an age identity: {reason}", path.display())).hint(hint).into()
        })
    }

    /// Makes a new identity file; never overwrites one.
    ///
    /// # Errors
    /// When the file exists or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let identity = age::x25519::Identity::generate();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot make the identity {}", path.display()))?;
        let public = identity.to_public();
        writeln!(file, "# public key: {public}\n{}", identity.to_string().expose_secret())?;
        file.sync_all()?;
        Ok(Self(identity))
    }

    /// The public key, `age1…`.
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    pub(super) fn key(&self) -> &age::x25519::Identity {
        &self.0
    }
}
