//! `provision bundle create|list|verify|keygen`.

mod charts;
mod create;
mod presence;
mod unpack;

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::{Exit, Invalid};
use crate::artifacts::bundle::{self, Manifest, PublicKey, SecretKey, default_secret_key, public_beside};
use crate::cli::{BundleCommand, Global};
use crate::diagnostic::Diagnostic;
use crate::ui::{Ui, table};

pub use charts::Charts;
pub use presence::check as check_images;
pub use unpack::{Lacking, Unpacked};

pub async fn bundle(global: &Global, command: &BundleCommand, ui: &Ui) -> Result<Exit> {
    match command {
        BundleCommand::Create(options) => {
            refuse(global, "bundle create", "puts in what it finds without one")?;
            create::create(global, options, ui).await
        }
        BundleCommand::List { file } => list(file, ui),
        BundleCommand::Verify { file } => verify(global, file, ui),
        BundleCommand::Keygen { secret_key } => keygen(secret_key.as_deref(), ui),
    }
}

/// The key that bundles are verified with: as given, or the public half of the user's own.
///
/// # Errors
/// When there is none.
pub fn public_key(global: &Global) -> Result<PublicKey> {
    if let Some(text) = &global.public_key {
        return Ok(PublicKey::parse(text).map_err(Invalid)?);
    }
    let own = public_beside(&default_secret_key());
    if own.exists() {
        return PublicKey::parse(&own.display().to_string());
    }
    let fault = Diagnostic::new("a bundle is used only when it is signed by a key that you trust, and no key is named")
        .hint("give the public key of whoever made it: --public-key RW… or --public-key FILE.pub");
    Err(Invalid::from(fault).into())
}

/// For commands that a bundle means nothing to: `--bundle` promises that nothing is asked of a network.
///
/// # Errors
/// When one is given.
pub fn refuse(global: &Global, command: &str, reason: &str) -> Result<(), Invalid> {
    if global.bundle.is_none() {
        return Ok(());
    }
    let fault = Diagnostic::new(format!("`{command}` takes nothing from a bundle: it {reason}"));
    Err(fault
        .hint("leave out --bundle (or unset PROVISION_BUNDLE); `up --bundle FILE` needs no such step before")
        .into())
}

fn keygen(path: Option<&Path>, ui: &Ui) -> Result<Exit> {
    let path = path.map_or_else(default_secret_key, Path::to_path_buf);
    let key = SecretKey::create(&path)?;
    let public = public_beside(&path);
    if ui.is_json() {
        ui.json_line(&json!({"type": "key", "secret_key": path, "public_key": key.text(), "id": key.id()}));
        return Ok(Exit::Ok);
    }
    ui.data(&key.text());
    ui.say(&format!("the secret key is {}: keep it, and nobody else's copy of it", path.display()));
    ui.say(&format!(
        "the public key is {} and the line above: give it to those who use your bundles",
        public.display()
    ));
    Ok(Exit::Ok)
}

fn verify(global: &Global, file: &Path, ui: &Ui) -> Result<Exit> {
    let key = public_key(global)?;
    let result = bundle::read(file, &key, &mut |_, _| Ok(None), &|text| ui.progress("bundle", text));
    ui.progress_done("bundle");
    let manifest = result?;
    let size = std::fs::metadata(file)?.len();
    if ui.is_json() {
        ui.json_line(&json!({"type": "verified", "key": key.id(), "size": size, "members": manifest.members.len()}));
    } else {
        let members = manifest.members.len();
        ui.data(&format!("{}: signed by {}, all {members} members are what they must be", file.display(), key.id()));
    }
    Ok(Exit::Ok)
}

fn list(file: &Path, ui: &Ui) -> Result<Exit> {
    let manifest = bundle::read_manifest(file)?;
    if ui.is_json() {
        ui.json_line(&json!({"type": "bundle", "manifest": manifest}));
        return Ok(Exit::Ok);
    }
    let system = manifest.system.as_ref().map_or_else(|| "no packages".to_owned(), ToString::to_string);
    ui.data(&format!("stages {}; for {system} on {}", manifest.stages.join(", "), manifest.arch));
    let rows = rows(&manifest);
    table::table(&["kind", "name", "version", "sha256", "size", "for"], &rows).iter().for_each(|line| ui.data(line));
    ui.say("not verified; `provision bundle verify FILE` does that");
    Ok(Exit::Ok)
}

fn rows(manifest: &Manifest) -> Vec<Vec<String>> {
    let short = |sha256: &str| sha256.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    let size = |path: &str| manifest.member(path).map_or(0, |member| member.size);
    let mut rows = Vec::new();
    for artifact in &manifest.artifacts {
        rows.push(vec![
            format!("{:?}", artifact.kind).to_lowercase(),
            artifact.name.clone(),
            artifact.version.clone(),
            short(&artifact.sha256),
            megabytes(artifact.size),
            artifact.targets.join(", "),
        ]);
    }
    for image in &manifest.images {
        let (name, tag) = image.reference.rsplit_once(':').unwrap_or((&image.reference, ""));
        rows.push(vec![
            "image".into(),
            name.to_owned(),
            tag.to_owned(),
            short(&image.digest),
            "-".into(),
            format!("image {}", image.name),
        ]);
    }
    for package in &manifest.packages {
        rows.push(vec![
            "package".into(),
            package.name.clone(),
            package.version.clone(),
            short(&package.sha256),
            megabytes(size(&format!("packages/{}", package.file))),
            "apt".into(),
        ]);
    }
    rows
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
