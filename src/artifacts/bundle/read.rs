//! Reading a bundle: the signature first, then every byte of every member, before anything of it is used.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tar::Header;

use super::write::{BLOCK, TRAILER, header, padding};
use super::{MANIFEST, Manifest, Member, PublicKey, SIGNATURE};
use crate::artifacts::Progress;
use crate::diagnostic::Diagnostic;

/// A manifest larger than this is none.
const LARGEST_TEXT: u64 = 64 << 20;
/// Memory that a frame may ask for to be unpacked, as a power of two; those that [`super::write()`] makes ask for less.
const LARGEST_WINDOW: u32 = 23;

/// Where a member goes; `None`: it is only verified.
pub type Take<'a> = &'a mut dyn FnMut(&Manifest, &Member) -> Result<Option<PathBuf>>;

/// Verifies a whole bundle, and writes the members that `take` wants to the paths that it names. Whoever calls it uses none of
/// these files before it has returned.
///
/// # Errors
/// What is wrong, with the member that it is wrong in: a signature that is not this key's, a damaged or missing member, a file that was cut, something behind its end.
pub fn read(path: &Path, key: &PublicKey, take: Take<'_>, progress: Progress<'_>) -> Result<Manifest> {
    let mut bundle = Bundle::open(path)?;
    let (text, signature) = bundle.start()?;
    key.verify(&text, &signature).map_err(|reason| {
        Diagnostic::new(format!("the bundle {} is refused: {SIGNATURE}: {reason}", path.display())).hint(
            "use the public key of whoever made it (--public-key), or ask for the bundle again; nothing was changed",
        )
    })?;
    let manifest = bundle.parse(&text)?;
    let total: u64 = manifest.members.iter().map(|member| member.size).sum();
    let mut done = 0;
    for member in &manifest.members {
        progress(&format!("verifying {}, {} of {} MB", member.path, done / 1_000_000, total / 1_000_000));
        let mut sink: Box<dyn Write> = match take(&manifest, member)? {
            None => Box::new(io::sink()),
            Some(to) => {
                Box::new(BufWriter::new(File::create(&to).with_context(|| format!("making {}", to.display()))?))
            }
        };
        let mut hasher = Sha256::new();
        bundle.member(&member.path, member.size, &mut |bytes| {
            hasher.update(bytes);
            sink.write_all(bytes).with_context(|| format!("unpacking {}", member.path))
        })?;
        sink.flush().with_context(|| format!("unpacking {}", member.path))?;
        if hex::encode(hasher.finalize()) != member.sha256 {
            return Err(bundle.damaged(&member.path, "its content is not what the manifest says").into());
        }
        done += member.size;
    }
    bundle.end()?;
    Ok(manifest)
}

/// What a bundle says is in it, unverified: for looking only.
///
/// # Errors
/// When it is no bundle.
pub fn read_manifest(path: &Path) -> Result<Manifest> {
    let mut bundle = Bundle::open(path)?;
    let (text, _) = bundle.start()?;
    bundle.parse(&text)
}

/// The signature of the bundle at `path`, when it is `key`'s and of exactly this manifest.
pub(super) fn signature_of(path: &Path, manifest: &[u8], key: &PublicKey) -> Option<String> {
    let (text, signature) = Bundle::open(path).ok()?.start().ok()?;
    (text == manifest && key.verify(&text, &signature).is_ok()).then_some(signature)
}

struct Bundle<'a> {
    path: &'a Path,
    from: BufReader<File>,
}

impl<'a> Bundle<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| {
            Diagnostic::new(format!("cannot open the bundle {}: {error}", path.display()))
                .hint("`provision bundle create FILE` on a machine with a network makes one")
        })?;
        Ok(Self { path, from: BufReader::with_capacity(1 << 20, file) })
    }

    /// The manifest's text and its signature.
    fn start(&mut self) -> Result<(Vec<u8>, String)> {
        let text = self.text(MANIFEST)?;
        let signature = self.text(SIGNATURE)?;
        let signature = String::from_utf8(signature).map_err(|_| self.damaged(SIGNATURE, "it is no text"))?;
        Ok((text, signature))
    }

    fn parse(&self, text: &[u8]) -> Result<Manifest> {
        let manifest: Manifest =
            serde_json::from_slice(text).map_err(|error| self.damaged(MANIFEST, &error.to_string()))?;
        manifest.check().map_err(|fault| self.damaged(MANIFEST, &fault))?;
        Ok(manifest)
    }

    /// A member that is text and whose size only its own header tells.
    fn text(&mut self, name: &str) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        self.frame(name, None, &mut |bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(text)
    }

    fn member(&mut self, name: &str, size: u64, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.frame(name, Some(size), sink)
    }

    /// One frame: exactly this member, or an error that names it.
    fn frame(&mut self, name: &str, size: Option<u64>, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let path = self.path;
        if self.from.fill_buf().with_context(|| format!("reading {}", path.display()))?.is_empty() {
            return Err(cut(path, name, "before").into());
        }
        let fault = |error: io::Error| unreadable(path, name, &error);
        let mut from = decoder(&mut self.from).map_err(fault)?;
        let mut block = [0; BLOCK as usize];
        from.read_exact(&mut block).map_err(fault)?;
        let size = match size {
            Some(size) => size,
            None => {
                let size = Header::from_byte_slice(&block).entry_size().unwrap_or(u64::MAX);
                if size > LARGEST_TEXT {
                    return Err(no_bundle(path, name).into());
                }
                size
            }
        };
        if block != *header(name, size)?.as_bytes() {
            // A whole tar of something else begins with a member of another name.
            let error =
                if name == MANIFEST { no_bundle(path, name) } else { damaged(path, name, "its header is wrong") };
            return Err(error.into());
        }
        let mut left = size;
        let mut buffer = vec![0; 256 << 10];
        while left > 0 {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            match from.read(&mut buffer[..most]).map_err(fault)? {
                0 => return Err(cut(path, name, "in the middle of").into()),
                n => {
                    sink(&buffer[..n])?;
                    left -= n as u64;
                }
            }
        }
        // Only so far as one can say that it is too much: whoever wrote this is not known yet.
        let mut rest = Vec::new();
        from.take(BLOCK + 1).read_to_end(&mut rest).map_err(fault)?;
        if rest.len() as u64 != padding(size) || rest.iter().any(|byte| *byte != 0) {
            return Err(damaged(path, name, "there is more in it than the manifest says").into());
        }
        Ok(())
    }

    /// The end of the tar, and nothing behind it.
    fn end(&mut self) -> Result<()> {
        let path = self.path;
        let name = "its end";
        if self.from.fill_buf()?.is_empty() {
            return Err(cut(path, name, "before").into());
        }
        let mut trailer = Vec::new();
        let fault = |error: io::Error| unreadable(path, name, &error);
        let from = decoder(&mut self.from).map_err(fault)?;
        from.take(TRAILER.len() as u64 + 1).read_to_end(&mut trailer).map_err(fault)?;
        if trailer != TRAILER || !self.from.fill_buf()?.is_empty() {
            return Err(damaged(path, name, "something follows the last member").into());
        }
        Ok(())
    }

    fn damaged(&self, name: &str, reason: &str) -> Diagnostic {
        damaged(self.path, name, reason)
    }
}

fn decoder<R: BufRead>(from: R) -> io::Result<zstd::Decoder<'static, R>> {
    let mut decoder = zstd::Decoder::with_buffer(from)?.single_frame();
    decoder.window_log_max(LARGEST_WINDOW)?;
    Ok(decoder)
}

const AGAIN: &str = "copy the bundle again, or make it again; nothing was changed";

fn unreadable(path: &Path, name: &str, error: &io::Error) -> Diagnostic {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => cut(path, name, "in the middle of"),
        _ if name == MANIFEST => no_bundle(path, name),
        _ => damaged(path, name, &error.to_string()),
    }
}

fn cut(path: &Path, name: &str, whence: &str) -> Diagnostic {
    Diagnostic::new(format!("the bundle {} is refused: it ends {whence} {name}", path.display())).hint(AGAIN)
}

fn damaged(path: &Path, name: &str, reason: &str) -> Diagnostic {
    Diagnostic::new(format!("the bundle {} is refused: {name} is damaged: {reason}", path.display())).hint(AGAIN)
}

fn no_bundle(path: &Path, name: &str) -> Diagnostic {
    Diagnostic::new(format!("{} is no bundle: it does not begin with {name}", path.display()))
        .hint("bundles are made by `provision bundle create FILE`")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
