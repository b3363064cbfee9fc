//! What k3s's containerd has, asked and changed with its `ctr`.

use anyhow::{Result, bail};

use crate::host::{Cmd, Output, Query, ReadHost};

/// The label that keeps an image from the kubelet's garbage collection, and its value.
pub(super) const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// One image of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub name: String,
    pub digest: String,
    pub pinned: bool,
}

/// All images, or why they cannot be asked for yet.
pub(super) async fn images(host: &dyn ReadHost) -> Result<Result<Vec<Stored>, String>> {
    Ok(match answer(host.query(&Query::k3s_images()).await?)? {
        Answer::Table(table) => Ok(parse_images(&table)?),
        Answer::NotYet(reason) => Err(reason),
    })
}

/// The name of the image of every container.
pub(super) async fn containers(host: &dyn ReadHost) -> Result<Vec<String>> {
    match answer(host.query(&Query::k3s_containers()).await?)? {
        Answer::Table(table) => parse_containers(&table),
        Answer::NotYet(reason) => bail!("containerd does not answer any more: {reason}"),
    }
}

/// The names to remove for these images: their own, and the one by configuration (`sha256:…`) that the kubelet's interface keeps
/// beside, unless another image has the same content.
pub(super) fn names_of(old: &[&str], images: &[Stored]) -> Vec<String> {
    let by_config = |image: &Stored| image.name.starts_with("sha256:");
    let mut names = Vec::new();
    for image in images.iter().filter(|image| old.contains(&image.name.as_str())) {
        let same: Vec<&Stored> = images.iter().filter(|other| other.digest == image.digest).collect();
        names.push(image.name.clone());
        if same.iter().all(|other| by_config(other) || old.contains(&other.name.as_str())) {
            names.extend(same.iter().filter(|other| by_config(other)).map(|other| other.name.clone()));
        }
    }
    names.sort();
    names.dedup();
    names
}

pub(super) fn ctr<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Cmd {
    Cmd::new(["/usr/local/bin/k3s", "ctr", "-n", "k8s.io", "images"].into_iter().chain(arguments))
}

/// What containerd answered.
enum Answer {
    Table(String),
    /// It cannot be asked yet, and why.
    NotYet(String),
}

fn answer(output: Output) -> Result<Answer> {
    if output.success() {
        return Ok(Answer::Table(output.stdout));
    }
    if output.status == 127 {
        return Ok(Answer::NotYet("needs k3s".to_owned()));
    }
    let reason = output.stderr.trim();
    let not_running = ["no such file", "connection refused", "failed to dial", "deadline exceeded"];
    if not_running.iter().any(|text| reason.contains(text)) {
        return Ok(Answer::NotYet("needs k3s: its containerd does not run".to_owned()));
    }
    bail!("asking containerd ended with status {}: {reason}", output.status)
}

/// Rows of `ctr images ls`: REF TYPE DIGEST SIZE PLATFORMS LABELS. Only the size has a space in it.
pub(super) fn parse_images(table: &str) -> Result<Vec<Stored>> {
    rows(table, "REF")?
        .map(|row| {
            let columns: Vec<&str> = row.split_whitespace().collect();
            let (Some(name), Some(digest), Some(labels)) = (columns.first(), columns.get(2), columns.last()) else {
                bail!("containerd's list of images has a line that does not fit: {row:?}");
            };
            Ok(Stored {
                name: (*name).to_owned(),
                digest: (*digest).to_owned(),
                pinned: labels.split(',').any(|label| label == PINNED),
            })
        })
        .collect()
}

/// The images in `ctr containers ls`: CONTAINER IMAGE RUNTIME.
pub(super) fn parse_containers(table: &str) -> Result<Vec<String>> {
    Ok(rows(table, "CONTAINER")?.filter_map(|row| row.split_whitespace().nth(1).map(str::to_owned)).collect())
}

fn rows<'a>(table: &'a str, first_column: &str) -> Result<impl Iterator<Item = &'a str>> {
    let mut lines = table.lines();
    // An empty list has no heading in some versions.
    if let Some(heading) = lines.next()
        && heading.split_whitespace().next() != Some(first_column)
    {
        bail!("containerd's list starts with {heading:?} where {first_column} was expected");
    }
    Ok(lines.filter(|line| !line.trim().is_empty()))
}
