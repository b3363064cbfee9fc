//! `secrets/secrets.yml`: recipients in clear, each value its own age ciphertext.
//!
//! The plaintext of a ciphertext carries the key's name, so that one cannot be moved to another key. Unchanged values keep
//! their ciphertext: one value changed is one line changed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Identity, Secret};
use crate::diagnostic::{Diagnostic, Place, did_you_mean};
use crate::project::yaml::{self, Data, Node};

const HEADER: &str = "# Secrets of this project, safe to commit: every value is encrypted with age to all recipients.\n\
# Change it with `provision secret set|edit|rekey`, never by hand.\n";

/// The store as read: nothing is decrypted yet.
#[derive(Debug, Clone, Default)]
pub struct Store {
    path: PathBuf,
    recipients: Vec<String>,
    /// Base64 of the age ciphertext, by dotted key.
    values: BTreeMap<String, String>,
    places: BTreeMap<String, Place>,
}

/// Whether `key` can name a secret: dotted lower-case words.
pub fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        })
}

impl Store {
    /// An empty store for `recipients`, not yet written.
    ///
    /// # Errors
    /// When a recipient is none.
    pub fn new(path: &Path, recipients: Vec<String>) -> Result<Self> {
        let store = Self { path: path.to_path_buf(), recipients, ..Self::default() };
        store.parsed_recipients()?;
        Ok(store)
    }

    /// Reads a store.
    ///
    /// # Errors
    /// When there is none or its form is wrong, with the place.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Diagnostic::new(format!("cannot read {}: {error}", path.display()))
                .hint("`provision secret init` makes it, with random values for everything the stages ask for")
        })?;
        let tree = yaml::parse(&shown(path), &text)?;
        let mut store = Self { path: path.to_path_buf(), ..Self::default() };
        let Data::Map(entries) = &tree.data else {
            return Err(Diagnostic::at(tree.place.clone(), "expected `recipients` and `values`").into());
        };
        for (key, node) in entries {
            match key.name.as_str() {
                "recipients" => store.recipients = strings(node)?,
                "values" => store.read_values(node)?,
                other => {
                    let fault = Diagnostic::at(key.place.clone(), format!("unknown key `{other}`"));
                    return Err(fault.hint("known: recipients, values").into());
                }
            }
        }
        store.parsed_recipients()?;
        Ok(store)
    }

    fn read_values(&mut self, node: &Node) -> Result<()> {
        let Data::Map(entries) = &node.data else {
            return Err(Diagnostic::at(node.place.clone(), format!("`values` is a map, not {}", node.kind())).into());
        };
        for (key, value) in entries {
            let text = value.as_str().filter(|_| is_key(&key.name)).ok_or_else(|| {
                Diagnostic::at(key.place.clone(), format!("`{}` is not a secret's name with its ciphertext", key.name))
            })?;
            self.values.insert(key.name.clone(), text.to_owned());
            self.places.insert(key.name.clone(), value.place.clone());
        }
        Ok(())
    }

    pub fn recipients(&self) -> &[String] {
        &self.recipients
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Decrypts one value.
    ///
    /// # Errors
    /// When there is none of this name, the identity is no recipient, or the ciphertext belongs to another key.
    pub fn get(&self, key: &str, identity: &Identity) -> Result<Secret> {
        let Some(text) = self.values.get(key) else {
            let fault = Diagnostic::new(format!("there is no secret `{key}`"));
            let hint = did_you_mean(key, self.keys()).unwrap_or_else(|| "`provision secret list` names all".into());
            return Err(fault.hint(hint).into());
        };
        let place = self.places.get(key).cloned();
        let fault =
            |message: String, hint: &str| Diagnostic { place: place.clone(), message, hint: Some(hint.to_owned()) };
        let damaged = "restore the line from version control, or set the value anew";
        let cipher =
            STANDARD.decode(text).map_err(|_| fault(format!("the ciphertext of `{key}` is damaged"), damaged))?;
        let plain = age::decrypt(identity.key(), &cipher).map_err(|error| match error {
            age::DecryptError::NoMatchingKeys => fault(
                format!("the identity {} is not a recipient of `{key}`", identity.recipient()),
                "ask a recipient to run `provision secret rekey` with your public key",
            ),
            other => fault(format!("the ciphertext of `{key}` is damaged: {other}"), damaged),
        })?;
        let plain = String::from_utf8(plain).map_err(|_| fault(format!("`{key}` does not hold text"), damaged))?;
        match plain.split_once('\n') {
            Some((name, value)) if name == key => Ok(Secret::new(value)),
            _ => Err(fault(
                format!("the ciphertext of `{key}` was made for another key"),
                "it was moved or swapped: restore the file, or set the value anew",
            )
            .into()),
        }
    }

    /// Decrypts everything.
    ///
    /// # Errors
    /// As [`Store::get`], for the first value that fails.
    pub fn all(&self, identity: &Identity) -> Result<BTreeMap<String, Secret>> {
        self.keys().map(|key| Ok((key.to_owned(), self.get(key, identity)?))).collect()
    }

    /// Encrypts a value. One that is already stored with the same plaintext keeps its ciphertext.
    ///
    /// # Errors
    /// A key that cannot be one.
    pub fn set(&mut self, key: &str, value: &Secret, identity: Option<&Identity>) -> Result<bool> {
        if !is_key(key) {
            return Err(Diagnostic::new(format!("`{key}` cannot name a secret"))
                .hint("use dotted lower-case words: postgres.password")
                .into());
        }
        if let Some(identity) = identity
            && self.contains(key)
            && self.get(key, identity).is_ok_and(|old| old == *value)
        {
            return Ok(false);
        }
        self.values.insert(key.to_owned(), self.encrypt(key, value)?);
        Ok(true)
    }

    /// Forgets a value; `false` when there was none.
    pub fn remove(&mut self, key: &str) -> bool {
        self.values.remove(key).is_some()
    }

    /// Takes a new list of recipients and encrypts everything anew to exactly them.
    ///
    /// # Errors
    /// When a value cannot be decrypted, or a recipient is none; then nothing has changed.
    pub fn rekey(&mut self, recipients: Vec<String>, identity: &Identity) -> Result<()> {
        let plain = self.all(identity)?;
        let mut rekeyed = Self::new(&self.path, recipients)?;
        for (key, value) in &plain {
            rekeyed.set(key, value, None)?;
        }
        *self = rekeyed;
        Ok(())
    }

    /// Values whose ciphertext is not for exactly the listed number of recipients: someone removed keeps access, or someone
    /// added has none yet.
    pub fn stale(&self) -> Vec<&str> {
        let stanzas = |text: &String| {
            let cipher = STANDARD.decode(text).unwrap_or_default();
            let header = String::from_utf8_lossy(&cipher);
            header
                .lines()
                .take_while(|line| !line.starts_with("---"))
                .filter(|line| line.starts_with("-> X25519 "))
                .count()
        };
        self.values
            .iter()
            .filter(|(_, text)| stanzas(text) != self.recipients.len())
            .map(|(key, _)| key.as_str())
            .collect()
    }

    /// Replaces the file atomically, after decrypting what is to be written.
    ///
    /// # Errors
    /// When a value could not be read back, or the file cannot be written; then the old file is untouched.
    pub fn save(&self, identity: &Identity) -> Result<()> {
        let folder = self.path.parent().context("the store has no folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut file =
            tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
        file.write_all(self.render().as_bytes())?;
        file.as_file().sync_all()?;
        Self::load(file.path())
            .and_then(|written| written.all(identity))
            .context("the new store could not be read back")?;
        file.persist(&self.path).with_context(|| format!("cannot replace {}", self.path.display()))?;
        Ok(())
    }

    fn render(&self) -> String {
        let mut text = format!("{HEADER}recipients:\n");
        for recipient in &self.recipients {
            text.push_str(&format!("  - {recipient}\n"));
        }
        text.push_str(if self.values.is_empty() { "values: {}\n" } else { "values:\n" });
        for (key, cipher) in &self.values {
            text.push_str(&format!("  {key}: {cipher}\n"));
        }
        text
    }

    fn encrypt(&self, key: &str, value: &Secret) -> Result<String> {
        let recipients = self.parsed_recipients()?;
        let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients)?;
        let mut cipher = Vec::new();
        let mut writer = encryptor.wrap_output(&mut cipher)?;
        writer.write_all(key.as_bytes())?;
        writer.write_all(b"\n")?;
        writer.write_all(value.expose().as_bytes())?;
        writer.finish()?;
        Ok(STANDARD.encode(cipher))
    }

    fn parsed_recipients(&self) -> Result<Vec<age::x25519::Recipient>> {
        if self.recipients.is_empty() {
            return Err(Diagnostic::new(format!("{} has no recipients", shown(&self.path)))
                .hint("list at least one public key age1… under `recipients`")
                .into());
        }
        self.recipients
            .iter()
            .map(|text| {
                text.parse().map_err(|reason: &str| {
                    let hint = if text.starts_with("age1pq1") {
                        "post-quantum recipients are not supported by this age library; use an X25519 key (age1…)"
                    } else {
                        "a recipient is a public key age1…, as age-keygen prints it"
                    };
                    Diagnostic::new(format!("`{text}` is not an age recipient: {reason}")).hint(hint).into()
                })
            })
            .collect()
    }
}

/// The store's path as in messages: its folder and name.
fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match path.parent().and_then(Path::file_name) {
        Some(folder) => format!("{}/{name}", folder.to_string_lossy()),
        None => name.into_owned(),
    }
}

fn strings(node: &Node) -> Result<Vec<String>> {
    let fault = || Diagnostic::at(node.place.clone(), "`recipients` is a list of public keys");
    let Data::List(items) = &node.data else {
        return Err(fault().into());
    };
    items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| fault().into())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn setup() -> (tempfile::TempDir, Identity, Store) {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::create(&folder.path().join("id/identity.txt")).unwrap();
        let store = Store::new(&folder.path().join("secrets/secrets.yml"), vec![identity.recipient()]).unwrap();
        (folder, identity, store)
    }

    #[test]
    fn round_trip_and_one_line_per_change() {
        let (folder, identity, mut store) = setup();
        store.set("postgres.password", &Secret::new("one: two\n#three"), None).unwrap();
        store.set("minio.root", &Secret::new("x"), None).unwrap();
        store.save(&identity).unwrap();
        let path = folder.path().join("secrets/secrets.yml");
        let before = std::fs::read_to_string(&path).unwrap();
        let mut again = Store::load(&path).unwrap();
        assert_eq!(again.get("postgres.password", &identity).unwrap().expose(), "one: two\n#three");
        assert!(!again.set("minio.root", &Secret::new("x"), Some(&identity)).unwrap());
        assert!(again.set("minio.root", &Secret::new("y"), Some(&identity)).unwrap());
        again.save(&identity).unwrap();
        let after = std::fs::read_to_string(&path).unwrap();
        let changed = before.lines().zip(after.lines()).filter(|(a, b)| a != b).count();
        assert_eq!((changed, before.lines().count()), (1, after.lines().count()));
    }

    #[test]
    fn a_ciphertext_cannot_move_to_another_key() {
        let (folder, identity, mut store) = setup();
        store.set("a.one", &Secret::new("v1"), None).unwrap();
        store.set("b.two", &Secret::new("v2"), None).unwrap();
        store.save(&identity).unwrap();
        let path = folder.path().join("secrets/secrets.yml");
        let text = std::fs::read_to_string(&path).unwrap();
        let cipher = |key: &str| text.lines().find(|l| l.contains(key)).unwrap().split(": ").nth(1).unwrap().to_owned();
        std::fs::write(&path, text.replace(&cipher("b.two"), &cipher("a.one"))).unwrap();
        let error = format!("{:#}", Store::load(&path).unwrap().get("b.two", &identity).err().unwrap());
        assert!(error.contains("secrets/secrets.yml:7:") && error.contains("made for another key"), "{error}");
    }

    #[test]
    fn strangers_are_refused_and_rekey_changes_who_reads() {
        let (folder, identity, mut store) = setup();
        let other = Identity::create(&folder.path().join("other.txt")).unwrap();
        store.set("a.one", &Secret::new("v1"), None).unwrap();
        let refused = format!("{:#}", store.get("a.one", &other).err().unwrap());
        assert!(refused.contains("is not a recipient of `a.one`"), "{refused}");
        store.rekey(vec![other.recipient()], &identity).unwrap();
        assert!(store.get("a.one", &identity).is_err());
        assert_eq!(store.get("a.one", &other).unwrap().expose(), "v1");
        assert!(store.stale().is_empty());
        store.recipients.push(identity.recipient());
        assert_eq!(store.stale(), ["a.one"]);
    }

    #[test]
    fn bad_recipients_identities_and_keys() {
        let (folder, _, mut store) = setup();
        assert!(
            Store::new(Path::new("x"), vec!["age1pq1xyz".into()]).err().unwrap().to_string().contains("post-quantum")
        );
        assert!(store.set("Postgres Password", &Secret::new("x"), None).is_err());
        let path = folder.path().join("bad.txt");
        std::fs::write(&path, "nonsense").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Identity::load(&path).err().unwrap().to_string().contains("read by others"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Identity::load(&path).err().unwrap().to_string().contains("not an age identity"));
    }
}
