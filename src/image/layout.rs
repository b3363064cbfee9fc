//! An OCI image layout in one file: `oci-layout`, `index.json`, `blobs/sha256/*`, the whole compressed with zstd.
//!
//! The layers inside are plain tars: the digest does not depend on the version of a compressor.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::Header;

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

/// Writes the archive of an image with these layers (lowest first) to `to`.
///
/// # Errors
/// When reading or writing fails.
pub fn write(recipe: &Recipe, layers: &[(PathBuf, Written)], to: &Path) -> Result<Image> {
    let config = config(recipe, layers).to_string().into_bytes();
    let config_hash = hash::sha256(&config);
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|(_, layer)| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": format!("sha256:{}", layer.sha256),
                "size": layer.size,
            })
        })
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
    for (path, layer) in layers {
        let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
        append(&mut tar, &blob(&layer.sha256), layer.size, file)?;
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

fn config(recipe: &Recipe, layers: &[(PathBuf, Written)]) -> Value {
    let mut config = json!({});
    if let Some(user) = &recipe.user {
        let user = user.named();
        config["User"] = json!(format!("{}:{}", user.uid, user.gid.unwrap_or(user.uid)));
    }
    if !recipe.ports.is_empty() {
        let ports = recipe.ports.iter().map(|port| (format!("{port}/tcp"), json!({})));
        config["ExposedPorts"] = Value::Object(ports.collect());
    }
    // Without PATH an entry point that is not a path is not found.
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let own = recipe.env.iter().map(|(name, value)| format!("{name}={value}"));
    let default = (!recipe.env.contains_key("PATH")).then_some(path);
    config["Env"] = json!(default.into_iter().chain(own).collect::<Vec<_>>());
    for (key, argv) in [("Entrypoint", &recipe.entrypoint), ("Cmd", &recipe.cmd)] {
        if !argv.is_empty() {
            config[key] = json!(argv);
        }
    }
    if let Some(workdir) = &recipe.workdir {
        config["WorkingDir"] = json!(workdir);
    }
    if let Some(signal) = &recipe.stop_signal {
        config["StopSignal"] = json!(signal);
    }
    if !recipe.labels.is_empty() {
        config["Labels"] = json!(recipe.labels);
    }
    let mut image = platform();
    image["created"] = json!("1970-01-01T00:00:00Z");
    image["config"] = config;
    image["rootfs"] = json!({
        "type": "layers",
        "diff_ids": layers.iter().map(|(_, layer)| format!("sha256:{}", layer.sha256)).collect::<Vec<_>>(),
    });
    image
}
