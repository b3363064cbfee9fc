//! Writing a bundle: every member a zstd frame of its own, nothing in it that depends on when or where it was written.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tar::{EntryType, Header};

use super::{FORMAT, MANIFEST, Manifest, Member, MemberKind, SIGNATURE, SecretKey, read};
use crate::artifacts::Progress;
use crate::hash;

/// What a member is made of.
#[derive(Debug, Clone)]
pub enum Content {
    File(PathBuf),
    Text(Vec<u8>),
}

/// A member to be.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: String,
    pub kind: MemberKind,
    pub content: Content,
}

/// Blocks of a tar.
pub(super) const BLOCK: u64 = 512;
/// What ends a tar.
pub(super) const TRAILER: [u8; 1024] = [0; 1024];

/// Where compressing pays, and where the content is compressed already.
const LEVEL: i32 = 6;
const LEVEL_COMPRESSED: i32 = 1;

/// Writes a bundle with these members to `to`, which gets its name when it is complete, and answers with its size. The members of
/// `manifest` are filled in. Where `to` is a bundle with the same manifest already, it keeps its signature: then it gets the same
/// bytes as before.
///
/// # Errors
/// When reading or writing fails; then `to` is as it was.
pub fn write(
    to: &Path,
    mut manifest: Manifest,
    mut sources: Vec<Source>,
    key: &SecretKey,
    progress: Progress<'_>,
) -> Result<(Manifest, u64)> {
    sources.sort_by(|a, b| (a.kind, &a.path).cmp(&(b.kind, &b.path)));
    sources.dedup_by(|a, b| a.path == b.path);
    manifest.format = FORMAT;
    manifest.members = Vec::new();
    for source in &sources {
        progress(&format!("hashing {}", source.path));
        manifest.members.push(source.member()?);
    }
    manifest.check().map_err(|fault| anyhow::anyhow!("the bundle's manifest does not fit together: {fault}"))?;
    let text = serde_json::to_vec_pretty(&manifest)?;
    let signature = match read::signature_of(to, &text, &key.public()?) {
        Some(signature) => signature,
        None => key.sign(&text)?,
    };

    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let context = || format!("writing {}", to.display());
    let file = tempfile::Builder::new()
        .prefix(".bundle-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(context)?;
    let mut out = BufWriter::with_capacity(1 << 20, file.as_file());
    frame(&mut out, MANIFEST, text.len() as u64, &text[..], LEVEL).with_context(context)?;
    frame(&mut out, SIGNATURE, signature.len() as u64, signature.as_bytes(), LEVEL).with_context(context)?;
    let total: u64 = manifest.members.iter().map(|member| member.size).sum();
    let mut done = 0;
    for (source, member) in sources.iter().zip(&manifest.members) {
        progress(&format!("packing {}, {} of {} MB", source.path, done / 1_000_000, total / 1_000_000));
        done += member.size;
        let level = if source.is_compressed()? { LEVEL_COMPRESSED } else { LEVEL };
        let mut content = Hashed::new(source.open()?);
        frame(&mut out, &member.path, member.size, &mut content, level).with_context(context)?;
        if content.sha256() != member.sha256 {
            bail!("{} changed while it was packed; run this again", source.shown());
        }
    }
    let mut encoder = encoder(&mut out, TRAILER.len() as u64, LEVEL)?;
    encoder.write_all(&TRAILER).with_context(context)?;
    encoder.finish().with_context(context)?;
    out.flush().with_context(context)?;
    drop(out);
    file.as_file().sync_all().with_context(context)?;
    let size = file.as_file().metadata()?.len();
    file.persist(to).with_context(context)?;
    Ok((manifest, size))
}

impl Source {
    fn member(&self) -> Result<Member> {
        let (size, sha256) = match &self.content {
            Content::Text(text) => (text.len() as u64, hash::sha256(text)),
            Content::File(path) => {
                let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
                (file.metadata()?.len(), hash::sha256_reader(file)?)
            }
        };
        Ok(Member { path: self.path.clone(), kind: self.kind, size, sha256 })
    }

    fn open(&self) -> Result<Box<dyn Read + '_>> {
        Ok(match &self.content {
            Content::Text(text) => Box::new(&text[..]),
            Content::File(path) => Box::new(File::open(path).with_context(|| format!("reading {}", path.display()))?),
        })
    }

    /// By its first bytes: zstd, gzip, xz, or a Debian package.
    fn is_compressed(&self) -> Result<bool> {
        let mut start = Vec::new();
        self.open()?.take(8).read_to_end(&mut start)?;
        let magic: [&[u8]; 4] = [b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"\xfd7zXZ", b"!<arch>\n"];
        Ok(magic.iter().any(|magic| start.starts_with(magic)))
    }

    fn shown(&self) -> String {
        match &self.content {
            Content::File(path) => path.display().to_string(),
            Content::Text(_) => self.path.clone(),
        }
    }
}

/// One member as a frame.
fn frame(out: &mut impl Write, path: &str, size: u64, content: impl Read, level: i32) -> Result<()> {
    let padding = padding(size);
    let mut encoder = encoder(out, BLOCK + size + padding, level)?;
    encoder.write_all(header(path, size)?.as_bytes())?;
    let copied = io::copy(&mut content.take(size), &mut encoder)?;
    if copied != size {
        bail!("{path} became shorter while it was packed; run this again");
    }
    encoder.write_all(&TRAILER[..usize::try_from(padding)?])?;
    encoder.finish()?;
    Ok(())
}

fn encoder<W: Write>(out: &mut W, size: u64, level: i32) -> io::Result<zstd::Encoder<'static, &mut W>> {
    let mut encoder = zstd::Encoder::new(out, level)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(size))?;
    Ok(encoder)
}

/// Bytes from the end of a content to the next block.
pub(super) fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// The header of a member: the only one that a reader accepts.
pub(super) fn header(path: &str, size: u64) -> Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path).with_context(|| format!("the name {path} is too long for a bundle"))?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// A reader that hashes what it yields.
struct Hashed<R> {
    inner: R,
    hasher: sha2::Sha256,
}

impl<R: Read> Hashed<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: sha2::Sha256::default() }
    }

    fn sha256(self) -> String {
        hex::encode(sha2::Digest::finalize(self.hasher))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        sha2::Digest::update(&mut self.hasher, &buffer[..n]);
        Ok(n)
    }
}
