//! `provision secret init|set|get|list|edit|remove|rekey|check`.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Exit, Invalid, load};
use crate::cli::{Global, SecretCommand};
use crate::diagnostic::Diagnostic;
use crate::project::yaml::{self, Data};
use crate::secrets::{Identity, Redactor, Secret, Store, default_path, is_key};
use crate::ui::Ui;

pub fn secret(global: &Global, command: &SecretCommand, ui: &Ui) -> Result<Exit> {
    let path = load::secrets_path(&load::root(global)?);
    match command {
        SecretCommand::Init => init(global, &path, ui),
        SecretCommand::Set { key } => set(&path, key, ui),
        SecretCommand::Get { key } => {
            ui.reveal(&Store::load(&path)?.get(key, &Identity::load(&default_path())?)?);
            Ok(Exit::Ok)
        }
        SecretCommand::List => {
            Store::load(&path)?.keys().for_each(|key| ui.data(key));
            Ok(Exit::Ok)
        }
        SecretCommand::Edit => edit(&path, ui),
        SecretCommand::Remove { key } => remove(&path, key, ui),
        SecretCommand::Rekey { recipients } => rekey(&path, recipients, ui),
        SecretCommand::Check => check(global, &path, ui),
    }
}

fn init(global: &Global, path: &Path, ui: &Ui) -> Result<Exit> {
    let identity_path = default_path();
    let identity = if identity_path.exists() {
        ui.say(&format!("identity: {} (was there)", identity_path.display()));
        Identity::load(&identity_path)?
    } else {
        let identity = Identity::create(&identity_path)?;
        ui.say(&format!("identity: {} (new; keep a copy of it in a safe place)", identity_path.display()));
        identity
    };
    let mut store = if path.exists() { Store::load(path)? } else { Store::new(path, vec![identity.recipient()])? };
    // Values that this identity cannot read would stay unreadable beside new ones.
    if let Some(key) = store.keys().next() {
        store.get(key, &identity)?;
    }
    let project = load_any(global)?;
    let mut made = Vec::new();
    for key in load::all_wanted(&project) {
        if !store.contains(&key) {
            store.set(&key, &Secret::random(), None)?;
            made.push(key);
        }
    }
    if !made.is_empty() || !path.exists() {
        store.save(&identity)?;
    }
    ui.data(&format!(
        "{} random values made: {}",
        made.len(),
        if made.is_empty() { "-".into() } else { made.join(", ") }
    ));
    Ok(Exit::Ok)
}

/// The project, whatever the inventory: what the stages ask for does not depend on it.
fn load_any(global: &Global) -> Result<crate::project::Project> {
    if global.inventory.is_some() {
        return load::load(global);
    }
    let root = load::root(global)?;
    let example = Global { inventory: Some(root.join("inventory/example.yml")), ..global.clone() };
    load::load(&example)
}

fn set(path: &Path, key: &str, ui: &Ui) -> Result<Exit> {
    let identity = Identity::load(&default_path())?;
    if !is_key(key) {
        let fault = Diagnostic::new(format!("`{key}` cannot name a secret"))
            .hint("use dotted lower-case words: postgres.password");
        return Err(Invalid::from(fault).into());
    }
    let mut store = if path.exists() { Store::load(path)? } else { Store::new(path, vec![identity.recipient()])? };
    if std::io::stdin().is_terminal() {
        ui.say("type the value, then Enter and Ctrl-D (or pipe it in)");
    }
    let mut value = String::new();
    std::io::stdin().read_to_string(&mut value).context("the value is read from standard input, as UTF-8 text")?;
    let value = value.strip_suffix('\n').unwrap_or(&value);
    if value.is_empty() {
        bail!(Diagnostic::new("the value is empty").hint("pipe it in: printf %s VALUE | provision secret set KEY"));
    }
    let changed = store.set(key, &Secret::new(value), Some(&identity))?;
    if changed {
        store.save(&identity)?;
    }
    ui.say(&format!("{key} {}", if changed { "set" } else { "unchanged" }));
    Ok(Exit::Ok)
}

fn remove(path: &Path, key: &str, ui: &Ui) -> Result<Exit> {
    let identity = Identity::load(&default_path())?;
    let mut store = Store::load(path)?;
    // `get` names the nearest key when there is none of this name.
    store.get(key, &identity)?;
    store.remove(key);
    store.save(&identity)?;
    ui.say(&format!("{key} removed"));
    Ok(Exit::Ok)
}

fn rekey(path: &Path, recipients: &[String], ui: &Ui) -> Result<Exit> {
    let identity = Identity::load(&default_path())?;
    let mut store = Store::load(path)?;
    let wanted = if recipients.is_empty() { store.recipients().to_vec() } else { recipients.to_vec() };
    if !wanted.contains(&identity.recipient()) {
        bail!(
            Diagnostic::new("your own key is not among the recipients: you could not read the result")
                .hint(format!("add --recipient {}", identity.recipient()))
        );
    }
    store.rekey(wanted, &identity)?;
    store.save(&identity)?;
    ui.data(&format!("{} values encrypted anew to {} recipients", store.keys().count(), store.recipients().len()));
    ui.say("a removed recipient still knows the old values: change those that matter");
    Ok(Exit::Ok)
}

fn check(global: &Global, path: &Path, ui: &Ui) -> Result<Exit> {
    let store = Store::load(path)?;
    let identity = Identity::load(&default_path())?;
    let mut faults = Vec::new();
    for key in store.keys() {
        if let Err(error) = store.get(key, &identity) {
            faults.push(format!("{error:#}"));
        }
    }
    for key in store.stale() {
        faults.push(format!("`{key}` is not encrypted to the listed recipients\n  hint: provision secret rekey"));
    }
    let project = load_any(global)?;
    for key in load::all_wanted(&project) {
        if !store.contains(&key) {
            faults.push(format!(
                "the secret `{key}` is missing\n  hint: provision secret init, or provision secret set {key}"
            ));
        }
    }
    faults.iter().for_each(|fault| ui.say(fault));
    if faults.is_empty() {
        ui.data(&format!("{} values, {} recipients: all in order", store.keys().count(), store.recipients().len()));
        Ok(Exit::Ok)
    } else {
        Ok(Exit::Failed)
    }
}

fn edit(path: &Path, ui: &Ui) -> Result<Exit> {
    let identity = Identity::load(&default_path())?;
    let mut store = Store::load(path)?;
    let plain = store.all(&identity)?;
    ui.redact_with(Redactor::new(plain.values().map(Secret::expose)));
    let mut text =
        String::from("# One `name: \"value\"` a line. Save and leave to encrypt; leave unchanged to change nothing.\n");
    for (key, value) in &plain {
        text.push_str(&format!("{key}: {}\n", serde_json::to_string(value.expose())?));
    }
    let mut file = tempfile::Builder::new().prefix("secrets-").suffix(".yml").tempfile_in(memory_folder()?)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    let edited = loop {
        open_editor(file.path())?;
        let edited = std::fs::read_to_string(file.path())?;
        if edited == text {
            ui.say("nothing was changed");
            return Ok(Exit::Ok);
        }
        match entries(&edited) {
            Ok(entries) => break entries,
            Err(fault) => {
                ui.say(&fault.to_string());
                if !std::io::stdin().is_terminal() {
                    return Err(Invalid::from(fault).into());
                }
                ui.say("press Enter to edit again, Ctrl-C to give up (nothing is changed then)");
                std::io::stdin().read_line(&mut String::new())?;
            }
        }
    };
    let mut changed = Vec::new();
    for (key, value) in &edited {
        if store.set(key, &Secret::new(value), Some(&identity))? {
            changed.push(key.clone());
        }
    }
    for key in plain.keys().filter(|key| !edited.iter().any(|(name, _)| name == *key)) {
        store.remove(key);
        changed.push(format!("{key} (removed)"));
    }
    store.save(&identity)?;
    ui.say(&format!("changed: {}", if changed.is_empty() { "nothing".into() } else { changed.join(", ") }));
    Ok(Exit::Ok)
}

/// Memory, so that no plain text ever reaches a disk.
fn memory_folder() -> Result<PathBuf> {
    let candidates = [std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(PathBuf::from("/dev/shm"))];
    candidates
        .into_iter()
        .flatten()
        .find(|folder| folder.is_dir())
        .context("neither XDG_RUNTIME_DIR nor /dev/shm is there")
}

fn open_editor(file: &Path) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_else(|| "vi".into());
    // The variable may hold arguments, as in EDITOR="code --wait".
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program)
        .args(words)
        .arg(file)
        .status()
        .with_context(|| format!("cannot start the editor `{editor}`; set EDITOR"))?;
    if !status.success() {
        bail!("the editor `{editor}` ended with {status}; nothing is changed");
    }
    Ok(())
}

fn entries(text: &str) -> Result<Vec<(String, String)>, Diagnostic> {
    let tree = yaml::parse("secrets", text)?;
    let Data::Map(entries) = &tree.data else {
        return Err(Diagnostic::at(tree.place.clone(), "write one `name: \"value\"` a line"));
    };
    entries
        .iter()
        .map(|(key, value)| {
            let fault = |message: String| Diagnostic::at(value.place.clone(), message);
            if !is_key(&key.name) {
                return Err(fault(format!("`{}` cannot name a secret", key.name)).hint("use dotted lower-case words"));
            }
            match value.as_str() {
                Some(text) if !text.is_empty() => Ok((key.name.clone(), text.to_owned())),
                _ => Err(fault(format!("the value of `{}` is not a text", key.name)).hint("put it in double quotes")),
            }
        })
        .collect()
}
