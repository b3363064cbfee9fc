//! Which older builds and versions of an image nothing uses any more.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use super::containerd::{self, Stored};
use crate::cluster::{Error, Reader};
use crate::host::ReadHost;
use crate::image::ImageSource;

/// What brings pods about, also those that run only at night. What a custom resource wants is seen by what its controller made.
const KINDS: [(&str, &str); 8] = [
    ("v1", "Pod"),
    ("v1", "ReplicationController"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "ReplicaSet"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
];

/// Names of the older ones among `images` that neither a container nor anything in the cluster uses; none while the cluster cannot
/// be asked. `keep` are those that the project wants.
pub(super) async fn unused(
    host: &dyn ReadHost,
    source: &ImageSource,
    keep: &[String],
    images: &[Stored],
) -> Result<Vec<String>> {
    let old: Vec<&Stored> = images.iter().filter(|image| is_old(source, keep, image)).collect();
    if old.is_empty() {
        return Ok(Vec::new());
    }
    // A container may name its image by any of the names of the same content.
    let containers = containerd::containers(host).await?;
    let run = images.iter().filter(|image| containers.contains(&image.name)).map(|image| image.digest.as_str());
    let run: BTreeSet<&str> = run.collect();
    let old: Vec<&Stored> = old.into_iter().filter(|image| !run.contains(image.digest.as_str())).collect();
    let Ok(reader) = host.cluster().await else {
        host.progress("old images stay: the cluster cannot be asked what uses them");
        return Ok(Vec::new());
    };
    let named = match named(&reader, &old).await {
        Ok(named) => named,
        Err(error) if error.is_unreachable() => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    Ok(old.into_iter().map(|image| image.name.clone()).filter(|name| !named.contains(name)).collect())
}

/// Whether it is another build or version of the same image, which we brought.
fn is_old(source: &ImageSource, keep: &[String], image: &Stored) -> bool {
    let other = image.name != source.stored_name() && !keep.contains(&image.name);
    let Some(rest) = image.name.strip_prefix(source.repository()).filter(|_| other) else {
        return false;
    };
    match source {
        ImageSource::Built(_) | ImageSource::Dockerfile(_) => rest.starts_with(':'),
        // Others may have pulled it, too; only what we bring is pinned under its digest.
        ImageSource::Registry { .. } => rest.starts_with('@') && image.pinned,
    }
}

/// Names of those that something in the cluster names, wherever: as an image, in an argument, in an annotation.
async fn named(reader: &Reader, images: &[&Stored]) -> Result<BTreeSet<String>, Error> {
    let mut named = BTreeSet::new();
    for (api_version, kind) in KINDS {
        let objects = match reader.list(api_version, kind, None, "").await {
            Ok(objects) => objects,
            Err(Error::UnknownKind { .. }) => continue,
            Err(error) => return Err(error),
        };
        for text in objects.iter().filter(|object| !is_over(object)).map(Value::to_string) {
            let names = |image: &&&Stored| text.contains(&image.name) || text.contains(&image.digest);
            named.extend(images.iter().filter(names).map(|image| image.name.clone()));
        }
    }
    Ok(named)
}

/// Whether no pod comes of it any more: a finished pod or job, a revision of a Deployment that was replaced.
fn is_over(object: &Value) -> bool {
    let status = &object["status"];
    match object["kind"].as_str() {
        Some("Pod") => matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")),
        Some("ReplicaSet") => object["spec"]["replicas"] == 0,
        Some("Job") => {
            let ended =
                |it: &Value| matches!(it["type"].as_str(), Some("Complete" | "Failed")) && it["status"] == "True";
            status["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(ended))
        }
        _ => false,
    }
}
