//! Archives of images taken apart into blobs and put together from them, so that layers which images share exist once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::layout::append;
use super::pull::sha256_of;
use super::reference::Reference;
use crate::hash;

/// No honest manifest, index or list of images is larger.
pub(super) const LARGEST_MANIFEST: u64 = 8 << 20;

/// Unpacks the blobs of an OCI layout archive into `folder`, each under its hash; what is there already stays.
///
/// # Errors
/// When it cannot be read, or a blob is not what its name says.
pub fn split(archive: &Path, folder: &Path) -> Result<()> {
    let context = || format!("reading the image archive {}", archive.display());
    for entry in tar::Archive::new(open(archive)?).entries().with_context(context)? {
        let mut entry = entry.with_context(context)?;
        let name = entry.path().with_context(context)?.to_string_lossy().into_owned();
        let Some(sha256) = name.trim_start_matches("./").strip_prefix("blobs/sha256/") else {
            continue;
        };
        if !hash::is_sha256(sha256) {
            continue;
        }
        let to = folder.join(sha256);
        if to.exists() {
            continue;
        }
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::copy(&mut entry, &mut file).with_context(context)?;
        file.rewind()?;
        if hash::sha256_reader(&mut file)? != sha256 {
            bail!("the image archive {} is damaged: its blob {sha256} has another content", archive.display());
        }
        file.persist(&to).with_context(|| format!("writing {}", to.display()))?;
    }
    Ok(())
}

/// The hashes of all blobs below an image's manifest or index, itself first. Platforms of an index that are not there are left
/// out: one is enough.
///
/// # Errors
/// When a blob is missing or not what an image has.
pub fn blobs(folder: &Path, digest: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut todo = vec![sha256_of(digest)?.to_owned()];
    while let Some(sha256) = todo.pop() {
        if !seen.insert(sha256.clone()) {
            continue;
        }
        let path = folder.join(&sha256);
        let file = File::open(&path).with_context(|| format!("the image {digest} lacks its blob {sha256}"))?;
        let text = limited(file).with_context(|| format!("the blob {sha256} is no manifest of an image"))?;
        found.push(sha256.clone());
        let manifest: Value =
            serde_json::from_slice(&text).with_context(|| format!("the blob {sha256} is no manifest of an image"))?;
        let mut there = false;
        for below in manifest["manifests"].as_array().into_iter().flatten() {
            let below = sha256_of(below["digest"].as_str().unwrap_or_default())?;
            if folder.join(below).exists() {
                there = true;
                todo.push(below.to_owned());
            }
        }
        if manifest["manifests"].is_array() && !there {
            bail!("the image {digest} has no platform's manifest with it");
        }
        for part in manifest["layers"].as_array().into_iter().flatten().chain([&manifest["config"]]) {
            let Some(part) = part["digest"].as_str() else { continue };
            let part = sha256_of(part)?;
            if !folder.join(part).exists() {
                bail!("the image {digest} lacks its blob {part}");
            }
            if seen.insert(part.to_owned()) {
                found.push(part.to_owned());
            }
        }
    }
    Ok(found)
}

/// An image layout's index with these images, each name a descriptor of its own.
///
/// # Errors
/// When the blob of a digest cannot be read.
pub fn index(folder: &Path, images: &[(String, String)]) -> Result<Vec<u8>> {
    let mut manifests = Vec::new();
    for (name, digest) in images {
        let path = folder.join(sha256_of(digest)?);
        let text = fs::read(&path).with_context(|| format!("the image {name} lacks its manifest {digest}"))?;
        let manifest: Value = serde_json::from_slice(&text)?;
        let is_index = manifest["manifests"].is_array();
        let media_type = manifest["mediaType"].as_str().unwrap_or(if is_index {
            "application/vnd.oci.image.index.v1+json"
        } else {
            "application/vnd.oci.image.manifest.v1+json"
        });
        let tag = Reference::parse(name).and_then(|it| it.tag).unwrap_or_else(|| name.clone());
        manifests.push(json!({
            "mediaType": media_type,
            "digest": digest,
            "size": text.len(),
            "annotations": { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag },
        }));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    Ok(index.to_string().into_bytes())
}

/// Writes the archive of one image from its blobs, so that an import names it with all of `names`.
///
/// # Errors
/// When a blob is missing, or writing fails.
pub fn join(folder: &Path, digest: &str, names: &[String], to: &Path) -> Result<()> {
    let named: Vec<_> = names.iter().map(|name| (name.clone(), digest.to_owned())).collect();
    let index = index(folder, &named)?;
    let context = || format!("writing {}", to.display());
    let file = BufWriter::new(File::create(to).with_context(context)?);
    let mut tar = tar::Builder::new(zstd::Encoder::new(file, 3)?);
    append(&mut tar, "oci-layout", LAYOUT.len() as u64, LAYOUT)?;
    append(&mut tar, "index.json", index.len() as u64, &index[..])?;
    for sha256 in blobs(folder, digest)? {
        let path = folder.join(&sha256);
        let file = File::open(&path).with_context(|| format!("reading {}", path.display()))?;
        append(&mut tar, &format!("blobs/sha256/{sha256}"), file.metadata()?.len(), file)?;
    }
    tar.into_inner().and_then(zstd::Encoder::finish).and_then(|mut file| file.flush()).with_context(context)
}

/// The file `oci-layout`.
pub const LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";

/// The full names of the images in an archive: an OCI layout, or what `docker save` writes.
///
/// # Errors
/// When it cannot be read.
pub fn names(archive: &Path) -> Result<Vec<String>> {
    let context = || format!("reading the image archive {}", archive.display());
    let mut names = BTreeSet::new();
    for entry in tar::Archive::new(open(archive)?).entries().with_context(context)? {
        let entry = entry.with_context(context)?;
        let name = entry.path().with_context(context)?.to_string_lossy().trim_start_matches("./").to_owned();
        if name != "index.json" && name != "manifest.json" {
            continue;
        }
        let text = limited(entry).with_context(context)?;
        let value: Value = serde_json::from_slice(&text).with_context(context)?;
        let annotated = value["manifests"].as_array().into_iter().flatten();
        let annotated = annotated.filter_map(|it| it["annotations"]["io.containerd.image.name"].as_str());
        let tagged = value.as_array().into_iter().flatten().filter_map(|image| image["RepoTags"].as_array());
        let tagged = tagged.flatten().filter_map(Value::as_str);
        names.extend(annotated.chain(tagged).filter_map(|it| Some(Reference::parse(it)?.stored_name())));
    }
    Ok(names.into_iter().collect())
}

/// All of a text that may be at most [`LARGEST_MANIFEST`] long.
pub(super) fn limited(from: impl Read) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(LARGEST_MANIFEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_MANIFEST {
        bail!("it is larger than {} MiB", LARGEST_MANIFEST >> 20);
    }
    Ok(text)
}

/// The tar in an archive that may be compressed with zstd or gzip.
///
/// # Errors
/// When it cannot be read.
pub fn open(path: &Path) -> Result<Box<dyn Read>> {
    let mut file = BufReader::new(File::open(path).with_context(|| format!("reading {}", path.display()))?);
    let magic = io::BufRead::fill_buf(&mut file)?;
    Ok(if magic.starts_with(b"\x28\xb5\x2f\xfd") {
        Box::new(zstd::Decoder::with_buffer(file)?)
    } else if magic.starts_with(b"\x1f\x8b") {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    })
}

/// The blobs of all these images: path of each by its hash.
///
/// # Errors
/// As [`blobs`].
pub fn all_blobs(folder: &Path, digests: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut all = BTreeSet::new();
    for digest in digests {
        all.extend(blobs(folder, digest)?);
    }
    Ok(all.into_iter().map(|sha256| (sha256.clone(), folder.join(sha256))).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::artifacts::Store;

    struct Bench {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["a", "b", "blobs", "other"] {
                fs::create_dir(dir.path().join(folder)).unwrap();
            }
            let store = Store::at(dir.path().join("cache")).unwrap();
            Self { dir, store }
        }

        fn image(&self, name: &str, content: &str) -> crate::image::BuiltImage {
            let recipe = self.dir.path().join(name).join("image.yml");
            fs::write(&recipe, format!("name: {name}\nfiles: [{{ content: '{content}', to: /x }}]\n")).unwrap();
            let lock = crate::artifacts::Lock::default();
            let workshop = crate::image::Workshop { root: self.dir.path(), lock: &lock, store: &self.store };
            crate::image::build(&recipe, &workshop, &|_| {}).unwrap()
        }

        fn archive(&self, image: &crate::image::BuiltImage) -> PathBuf {
            self.store.get(&image.archive.sha256).unwrap().unwrap()
        }
    }

    #[test]
    fn taken_apart_and_put_together_again_it_is_the_same_image_and_shared_layers_are_there_once() {
        let bench = Bench::new();
        let (a, b) = (bench.image("a", "same"), bench.image("b", "same"));
        let blobs_dir = bench.dir.path().join("blobs");
        split(&bench.archive(&a), &blobs_dir).unwrap();
        split(&bench.archive(&b), &blobs_dir).unwrap();
        // The two have the same content, so the same layer, configuration and manifest: three blobs in all.
        assert_eq!(a.digest, b.digest);
        assert_eq!(fs::read_dir(&blobs_dir).unwrap().count(), 3);
        let b = bench.image("b", "other");
        split(&bench.archive(&b), &blobs_dir).unwrap();
        assert_eq!(all_blobs(&blobs_dir, &[a.digest.clone(), b.digest.clone()]).unwrap().len(), 6);

        let to = bench.dir.path().join("joined.tar.zst");
        let names_of = vec![a.reference.clone(), "docker.io/library/a:v1".to_owned()];
        join(&blobs_dir, &a.digest, &names_of, &to).unwrap();
        let mut expected = names_of;
        expected.sort();
        assert_eq!(names(&to).unwrap(), expected);
        let other = bench.dir.path().join("other");
        split(&to, &other).unwrap();
        assert_eq!(blobs(&other, &a.digest).unwrap(), blobs(&blobs_dir, &a.digest).unwrap());
    }

    #[test]
    fn a_missing_layer_and_a_damaged_blob_are_errors() {
        let bench = Bench::new();
        let a = bench.image("a", "x");
        let folder = bench.dir.path().join("blobs");
        split(&bench.archive(&a), &folder).unwrap();
        let last = blobs(&folder, &a.digest).unwrap().pop().unwrap();
        fs::remove_file(folder.join(&last)).unwrap();
        assert_eq!(
            blobs(&folder, &a.digest).unwrap_err().to_string(),
            format!("the image {} lacks its blob {last}", a.digest)
        );

        let archive = bench.dir.path().join("bad.tar");
        let mut tar = tar::Builder::new(File::create(&archive).unwrap());
        append(&mut tar, &format!("blobs/sha256/{last}"), 1, &b"x"[..]).unwrap();
        tar.finish().unwrap();
        assert!(split(&archive, &folder).unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn names_of_what_docker_saves_are_made_full() {
        let bench = Bench::new();
        let archive = bench.dir.path().join("docker.tar");
        let mut tar = tar::Builder::new(File::create(&archive).unwrap());
        let text =
            br#"[{"Config":"x","RepoTags":["rancher/mirrored-pause:3.6","docker.io/library/busybox:1"],"Layers":[]}]"#;
        append(&mut tar, "manifest.json", text.len() as u64, &text[..]).unwrap();
        tar.finish().unwrap();
        assert_eq!(names(&archive).unwrap(), ["docker.io/library/busybox:1", "docker.io/rancher/mirrored-pause:3.6"]);
    }

    #[test]
    fn a_manifest_of_many_megabytes_is_not_read() {
        let bench = Bench::new();
        let archive = bench.dir.path().join("huge.tar");
        let mut tar = tar::Builder::new(File::create(&archive).unwrap());
        append(&mut tar, "manifest.json", 2 * LARGEST_MANIFEST, io::repeat(b' ').take(2 * LARGEST_MANIFEST)).unwrap();
        tar.finish().unwrap();
        assert!(format!("{:#}", names(&archive).unwrap_err()).contains("it is larger than 8 MiB"));

        let blob = hash::sha256("a layer that an index names");
        let folder = bench.dir.path().join("blobs");
        File::create(folder.join(&blob)).unwrap().set_len(2 * LARGEST_MANIFEST).unwrap();
        let error = blobs(&folder, &format!("sha256:{blob}")).unwrap_err();
        assert!(format!("{error:#}").contains("it is larger than 8 MiB"), "{error:#}");
    }

    #[test]
    fn one_platform_of_an_index_is_enough() {
        let bench = Bench::new();
        let a = bench.image("a", "x");
        let folder = bench.dir.path().join("blobs");
        split(&bench.archive(&a), &folder).unwrap();
        let absent = format!("sha256:{}", hash::sha256("another platform"));
        let index = json!({"schemaVersion": 2, "manifests": [{"digest": absent}, {"digest": a.digest}]}).to_string();
        let digest = format!("sha256:{}", hash::sha256(&index));
        fs::write(folder.join(hash::sha256(&index)), &index).unwrap();
        assert_eq!(blobs(&folder, &digest).unwrap().len(), 4);
        let none = json!({"schemaVersion": 2, "manifests": [{"digest": absent}]}).to_string();
        fs::write(folder.join(hash::sha256(&none)), &none).unwrap();
        let error = blobs(&folder, &format!("sha256:{}", hash::sha256(&none))).unwrap_err().to_string();
        assert!(error.contains("no platform's manifest"), "{error}");
    }
}
