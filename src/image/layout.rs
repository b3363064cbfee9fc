//! An OCI image layout in one file: `oci-layout`, `index.json`, `blobs/sha256/*`, the whole compressed with zstd.
//!
//! The layers inside are plain tars: the digest does not depend on the version of a compressor.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::Header;

use super::base::BaseImage;
use super::layer::Written;
use super::recipe::Recipe;
use crate::hash;

/// The registry part of the references of our own images. It does not resolve, so nothing ever pulls them.
pub const REGISTRY: &str = "provision.local";

/// An image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub reference: String,
    pub digest: String,
}

/// Writes the archive of an image with these layers (lowest first) over those of its base to `to`.
///
/// # Errors
/// When reading or writing fails.
pub fn write(recipe: &Recipe, base: Option<&BaseImage>, layers: &[(PathBuf, Written)], to: &Path) -> Result<Image> {
    let config = config(recipe, base, layers).to_string().into_bytes();
    let config_hash = hash::sha256(&config);
    let descriptor = |media_type: &str, sha256: &str, size: u64| json!({ "mediaType": media_type, "digest": format!("sha256:{sha256}"), "size": size });
    let lower = base.into_iter().flat_map(|base| &base.layers);
    let own = "application/vnd.oci.image.layer.v1.tar";
    let descriptors: Vec<Value> = lower
        .clone()
        .map(|layer| descriptor(&layer.media_type, &layer.sha256, layer.size))
        .chain(layers.iter().map(|(_, layer)| descriptor(own, &layer.sha256, layer.size)))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config_hash}"),
            "size": config.len(),
        },
        "layers": descriptors,
    })
    .to_string()
    .into_bytes();
    let manifest_hash = hash::sha256(&manifest);
    let tag = &manifest_hash[..16];
    let reference = format!("{REGISTRY}/{}:{tag}", recipe.name.value);
    let digest = format!("sha256:{manifest_hash}");
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": manifest.len(),
            "annotations": {
                "io.containerd.image.name": reference,
                "org.opencontainers.image.ref.name": tag,
            },
            "platform": platform(),
        }],
    })
    .to_string()
    .into_bytes();

    let context = || format!("writing {}", to.display());
    let file = BufWriter::new(File::create(to).with_context(context)?);
    let mut tar = tar::Builder::new(zstd::Encoder::new(file, 3)?);
    let blob = |hash: &str| format!("blobs/sha256/{hash}");
    append(&mut tar, "oci-layout", 30, &b"{\"imageLayoutVersion\":\"1.0.0\"}"[..])?;
    append(&mut tar, "index.json", index.len() as u64, &index[..])?;
    append(&mut tar, &blob(&manifest_hash), manifest.len() as u64, &manifest[..])?;
    append(&mut tar, &blob(&config_hash), config.len() as u64, &config[..])?;
    let lower = lower.map(|layer| (&layer.path, &layer.sha256, layer.size));
    let mut written = BTreeSet::new();
    for (path, sha256, size) in lower.chain(layers.iter().map(|(path, layer)| (path, &layer.sha256, layer.size))) {
        // A base may have the same layer twice.
        if written.insert(sha256) {
            let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
            append(&mut tar, &blob(sha256), size, file)?;
        }
    }
    tar.into_inner().and_then(zstd::Encoder::finish).and_then(|mut file| file.flush()).with_context(context)?;
    Ok(Image { reference, digest })
}

pub(super) fn append(tar: &mut tar::Builder<impl Write>, name: &str, size: u64, content: impl Read) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_mode(0o644);
    header.set_size(size);
    tar.append_data(&mut header, name, content).with_context(|| format!("writing {name} into an image archive"))
}

fn platform() -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({ "architecture": architecture, "os": "linux" })
}

fn config(recipe: &Recipe, base: Option<&BaseImage>, layers: &[(PathBuf, Written)]) -> Value {
    let mut config = base.map(|base| base.config.clone()).filter(Value::is_object).unwrap_or_else(|| json!({}));
    if let Some(user) = &recipe.user {
        let user = user.named();
        config["User"] = json!(format!("{}:{}", user.uid, user.gid.unwrap_or(user.uid)));
    }
    let ports = recipe.ports.iter().map(|port| (format!("{port}/tcp"), json!({})));
    extend(&mut config, "ExposedPorts", ports);
    config["Env"] = json!(environment(recipe, &config["Env"]));
    if !recipe.entrypoint.is_empty() {
        config["Entrypoint"] = json!(recipe.entrypoint);
        // The base's arguments are those of another program, as Docker has it.
        config.as_object_mut().map(|config| config.remove("Cmd"));
    }
    if !recipe.cmd.is_empty() {
        config["Cmd"] = json!(recipe.cmd);
    }
    if let Some(workdir) = &recipe.workdir {
        config["WorkingDir"] = json!(workdir);
    }
    if let Some(signal) = &recipe.stop_signal {
        config["StopSignal"] = json!(signal);
    }
    extend(&mut config, "Labels", recipe.labels.iter().map(|(name, value)| (name.clone(), json!(value))));
    let lower = base.into_iter().flat_map(|base| base.diff_ids.iter().cloned());
    let own = layers.iter().map(|(_, layer)| json!(format!("sha256:{}", layer.sha256)));
    let mut image = platform();
    image["created"] = json!("1970-01-01T00:00:00Z");
    image["config"] = config;
    image["rootfs"] = json!({ "type": "layers", "diff_ids": lower.chain(own).collect::<Vec<_>>() });
    image
}

/// Adds to a map of the configuration; without anything to add, it stays as it is.
fn extend(config: &mut Value, key: &str, entries: impl Iterator<Item = (String, Value)>) {
    for (name, value) in entries {
        config[key][name] = value;
    }
}

/// The base's environment with that of the recipe over it.
fn environment(recipe: &Recipe, base: &Value) -> Vec<String> {
    let base = base.as_array().into_iter().flatten().filter_map(Value::as_str);
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut all: Vec<String> = base.filter(|entry| !recipe.env.contains_key(&name(entry))).map(str::to_owned).collect();
    if !recipe.env.contains_key("PATH") && !all.iter().any(|entry| name(entry) == "PATH") {
        // Without it an entry point that is not a path is not found.
        all.insert(0, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    all.extend(recipe.env.iter().map(|(name, value)| format!("{name}={value}")));
    all
}
