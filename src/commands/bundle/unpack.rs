//! A bundle that was verified, unpacked into the cache, and answers for what it has and nothing else.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::artifacts::bundle::{self, BundledImage, Manifest, MemberKind, PACKAGE_INDEX, PublicKey};
use crate::artifacts::debian::Shipped;
use crate::artifacts::{Inputs, Progress, Source, Store};
use crate::host::ArtifactPin;
use crate::image::archive;
use crate::image::{BuiltImage, ImageSource, Sources};

/// Changes when the same image would be put together differently.
const JOINER: &str = "bundle image 1";

/// A verified bundle. Its files are in the cache.
pub struct Unpacked {
    manifest: Manifest,
    file: PathBuf,
    /// The archive of each image, by its name.
    archives: BTreeMap<String, ArtifactPin>,
}

/// Why the bundle cannot give something.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} {reason}; with --bundle nothing is downloaded or built: make the bundle again where there is a network (`provision bundle create`)"
)]
pub struct Lacking {
    what: String,
    reason: String,
}

impl Unpacked {
    /// Verifies all of the bundle, and only then brings what the cache lacks into it.
    ///
    /// # Errors
    /// What is wrong with the bundle; then the cache is as it was.
    pub fn open(file: &Path, key: &PublicKey, store: &Store, progress: Progress<'_>) -> Result<Self> {
        let work = store.work("bundle")?;
        let blobs = work.path().join("blobs");
        std::fs::create_dir(&blobs)?;
        let lacks_image = OnceCell::new();
        let mut files = Vec::new();
        let manifest = bundle::read(
            file,
            key,
            &mut |manifest, member| {
                if member.kind == MemberKind::Image {
                    let lacks = |image| Ok::<_, anyhow::Error>(store.built(&image_key(image))?.is_none());
                    if lacks_image.get().is_none() {
                        let mut any = false;
                        for image in &manifest.images {
                            any |= lacks(image)?;
                        }
                        let _ = lacks_image.set(any);
                    }
                    let blob = member.path.strip_prefix("images/blobs/sha256/");
                    let wanted = blob.filter(|sha256| lacks_image.get() == Some(&true) && *sha256 == member.sha256);
                    return Ok(wanted.map(|sha256| blobs.join(sha256)));
                }
                if store.get(&member.sha256)?.is_some() {
                    return Ok(None);
                }
                let path = work.path().join(&member.sha256);
                files.push(path.clone());
                Ok(Some(path))
            },
            progress,
        )?;
        if manifest.arch != std::env::consts::ARCH {
            bail!(
                "the bundle {} is for {} and this machine is {}: make one on a machine of the same kind",
                file.display(),
                manifest.arch,
                std::env::consts::ARCH
            );
        }
        for path in files {
            store.put(&path)?;
        }
        let mut archives = BTreeMap::new();
        for image in &manifest.images {
            archives.insert(image.name.clone(), archive_of(image, &blobs, work.path(), store, progress)?);
        }
        Ok(Self { manifest, file: file.to_owned(), archives })
    }

    /// Names of all images that it brings.
    pub fn image_names(&self) -> impl Iterator<Item = &str> {
        self.manifest.image_names()
    }

    /// The packages it brings.
    pub fn packages(&self) -> Option<Shipped> {
        let system = self.manifest.system.clone()?;
        let index = self.manifest.member(PACKAGE_INDEX)?;
        Some(Shipped {
            index: ArtifactPin {
                name: "packages of the bundle".into(),
                version: system.to_string(),
                sha256: index.sha256.clone(),
                url: None,
            },
            system,
            files: self.manifest.packages.iter().map(|it| (it.file.clone(), it.sha256.clone())).collect(),
        })
    }

    fn lacking(&self, what: &str, reason: &str) -> Lacking {
        Lacking { what: what.to_owned(), reason: format!("{reason} (bundle {})", self.file.display()) }
    }

    /// A file of `artifacts.yml`.
    ///
    /// # Errors
    /// [`Lacking`] when it is not in the bundle, or the project means another one by now.
    pub fn artifact(&self, sources: &Sources, name: &str) -> Result<ArtifactPin> {
        let artifact = sources.lock().get(name)?;
        if matches!(artifact.source, Source::Image(_)) {
            return match self.image_artifact(sources, name)? {
                ImageSource::Built(image) => Ok(image.archive),
                ImageSource::Registry { .. } | ImageSource::Dockerfile(_) => {
                    Err(anyhow!("artifact {name} is an image, not a file"))
                }
            };
        }
        let what = format!("artifact {name} {}", artifact.version);
        if matches!(artifact.source, Source::Registry { .. }) {
            // The same error as without a bundle.
            return sources.lock().pin(name);
        }
        let Some(bundled) = self.manifest.artifact(name) else {
            return Err(self.lacking(&what, "is not in the bundle").into());
        };
        let same = match &artifact.source {
            Source::Url { sha256, .. } => *sha256 == bundled.sha256,
            _ => sources.inputs(artifact)? == bundled.inputs,
        };
        if !same {
            let reason = format!(
                "is not what the bundle has of it ({}): artifacts.yml or its recipe has changed since",
                bundled.version
            );
            return Err(self.lacking(&what, &reason).into());
        }
        Ok(ArtifactPin {
            name: name.to_owned(),
            version: artifact.version.clone(),
            sha256: bundled.sha256.clone(),
            url: None,
        })
    }

    /// The image of a recipe of the project.
    ///
    /// # Errors
    /// As [`Unpacked::artifact`].
    pub fn image(&self, sources: &Sources, recipe: &str) -> Result<BuiltImage> {
        let (image, archive) = self.find(&format!("image {recipe}"), recipe, Some(sources.recipe_inputs(recipe)?))?;
        Ok(BuiltImage { reference: image.reference.clone(), digest: image.digest.clone(), archive: archive.clone() })
    }

    /// An image of `artifacts.yml`.
    ///
    /// # Errors
    /// As [`Unpacked::artifact`], or when it is no image.
    pub fn image_artifact(&self, sources: &Sources, name: &str) -> Result<ImageSource> {
        let artifact = sources.lock().get(name)?;
        let what = format!("image {name} {}", artifact.version);
        match &artifact.source {
            Source::Image(_) => {
                let (image, archive) = self.find(&what, name, sources.inputs(artifact)?)?;
                let (reference, digest) = (image.reference.clone(), image.digest.clone());
                Ok(ImageSource::Built(BuiltImage { reference, digest, archive: archive.clone() }))
            }
            Source::Registry { reference, digest } => {
                let (image, archive) = self.find(&what, name, None)?;
                if image.digest != *digest {
                    return Err(self.lacking(&what, "has another digest in artifacts.yml than in the bundle").into());
                }
                let (reference, digest) = (reference.clone(), digest.clone());
                Ok(ImageSource::Registry { reference, digest, archive: Some(archive.clone()) })
            }
            Source::Url { .. } | Source::Script(_) => {
                bail!("{}: artifact {name} is a file, not an image", artifact.place)
            }
        }
    }

    fn find(&self, what: &str, name: &str, inputs: Option<String>) -> Result<(&BundledImage, &ArtifactPin), Lacking> {
        let image = self.manifest.image(name).ok_or_else(|| self.lacking(what, "is not in the bundle"))?;
        if image.inputs != inputs {
            return Err(
                self.lacking(what, "is not what the bundle has of it: its recipe or its files have changed since")
            );
        }
        let archive = self.archives.get(name).ok_or_else(|| self.lacking(what, "is not in the bundle"))?;
        Ok((image, archive))
    }
}

fn image_key(image: &BundledImage) -> String {
    let mut inputs = Inputs::new(JOINER);
    inputs.add("digest", &image.digest);
    inputs.add("names", image.names.join("\n"));
    inputs.key()
}

/// The archive that hosts import, put together from the blobs unless it was before.
fn archive_of(
    image: &BundledImage,
    blobs: &Path,
    work: &Path,
    store: &Store,
    progress: Progress<'_>,
) -> Result<ArtifactPin> {
    let key = image_key(image);
    let built = match store.built(&key)? {
        Some(built) => built,
        None => {
            progress(&format!("unpacking the image {}", image.reference));
            let path = work.join("image.tar.zst");
            archive::join(blobs, &image.digest, &image.names, &path)
                .with_context(|| format!("unpacking the image {} of the bundle", image.reference))?;
            store.put_built(&key, &image.name, &path)?
        }
    };
    Ok(ArtifactPin {
        name: format!("image {}", image.name),
        version: image.reference.clone(),
        sha256: built.sha256,
        url: None,
    })
}
