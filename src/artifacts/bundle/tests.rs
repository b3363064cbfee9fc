#![allow(clippy::unwrap_used)]

use std::fs;

use super::super::{BundledArtifact, Content, MemberKind, SecretKey, Source, public_beside, write};
use super::*;
use crate::artifacts::Kind;
use crate::hash;

struct Bench {
    dir: tempfile::TempDir,
}

/// Does not compress, so that every byte of it is a byte of the file.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| byte()).collect()
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        SecretKey::create(&dir.path().join("bundle.key")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self) -> PublicKey {
        PublicKey::parse(public_beside(&self.path("bundle.key")).to_str().unwrap()).unwrap()
    }

    /// Two members of noise, given in the wrong order.
    fn make(&self, name: &str) -> PathBuf {
        let (one, two) = (noise(1, 5000), noise(2, 300_000));
        fs::write(self.path("two"), &two).unwrap();
        let sha256 = hash::sha256(&one);
        let artifact = BundledArtifact {
            name: "one".into(),
            version: "v1".into(),
            kind: Kind::Binary,
            sha256: sha256.clone(),
            size: 5000,
            source: "https://example.org/one".into(),
            inputs: None,
            targets: vec!["download /one".into()],
            images: Vec::new(),
            license: None,
        };
        let manifest = Manifest { arch: "x86_64".into(), artifacts: vec![artifact], ..Manifest::default() };
        let blob = format!("images/blobs/sha256/{}", hash::sha256(&two));
        let sources = vec![
            Source { path: blob, kind: MemberKind::Image, content: Content::File(self.path("two")) },
            Source { path: format!("artifacts/{sha256}"), kind: MemberKind::Artifact, content: Content::Text(one) },
        ];
        let key = SecretKey::load(&self.path("bundle.key")).unwrap();
        write(&self.path(name), manifest, sources, &key, &|_| {}).unwrap();
        self.path(name)
    }

    fn error(&self, path: &Path) -> String {
        read(path, &self.key(), &mut |_, _| Ok(None), &|_| {}).unwrap_err().to_string()
    }
}

#[test]
fn what_was_packed_is_unpacked_and_the_same_content_makes_the_same_file() {
    let bench = Bench::new();
    let file = bench.make("a.tar.zst");
    let before = fs::read(&file).unwrap();
    assert!(before == fs::read(bench.make("a.tar.zst")).unwrap(), "the same content makes another file");
    // Elsewhere all but the signature is the same, which has chance in it.
    assert_eq!(read_manifest(&bench.make("b.tar.zst")).unwrap(), read_manifest(&file).unwrap());
    let mut taken = Vec::new();
    let manifest = read(
        &file,
        &bench.key(),
        &mut |_, member| {
            taken.push(member.path.clone());
            Ok(Some(bench.path(&member.sha256)))
        },
        &|_| {},
    )
    .unwrap();
    assert!(taken[0].starts_with("artifacts/") && taken[1].starts_with("images/"), "{taken:?}");
    assert_eq!(fs::read(bench.path(&manifest.members[1].sha256)).unwrap(), noise(2, 300_000));
    assert_eq!(read_manifest(&file).unwrap(), manifest);
    assert_eq!(manifest.artifact("one").unwrap().version, "v1");
}

#[test]
fn ordinary_tools_unpack_it() {
    let bench = Bench::new();
    let file = bench.make("a.tar.zst");
    let reader = zstd::Decoder::new(File::open(&file).unwrap()).unwrap();
    let mut archive = tar::Archive::new(reader);
    let names: Vec<_> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(&names[..2], [MANIFEST, SIGNATURE]);
    assert_eq!(names.len(), 4);
}

#[test]
fn one_changed_byte_anywhere_is_refused_and_its_member_named() {
    let bench = Bench::new();
    let file = bench.make("a.tar.zst");
    let good = fs::read(&file).unwrap();
    let manifest = read_manifest(&file).unwrap();
    let broken = bench.path("broken");
    let mut named = std::collections::BTreeSet::new();
    for at in (0..good.len()).step_by(997).chain(good.len() - 5..good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&broken, &bytes).unwrap();
        let error = bench.error(&broken);
        let members = manifest.members.iter().map(|member| member.path.as_str());
        let name = members.chain([MANIFEST, SIGNATURE, "its end"]).find(|name| error.contains(name));
        named.insert(name.unwrap_or_else(|| panic!("byte {at}: {error}")).to_owned());
        assert!(error.contains("hint:"), "{error}");
    }
    for member in &manifest.members {
        assert!(named.contains(&member.path), "{} in {named:?}", member.path);
    }
    // In the middle of the large one: its name and no other.
    let mut bytes = good.clone();
    let middle = good.len() - 100_000;
    bytes[middle] ^= 0x10;
    fs::write(&broken, &bytes).unwrap();
    assert!(bench.error(&broken).contains(&manifest.members[1].path));
}

#[test]
fn a_file_that_was_cut_or_has_grown_is_refused() {
    let bench = Bench::new();
    let file = bench.make("a.tar.zst");
    let good = fs::read(&file).unwrap();
    let broken = bench.path("broken");
    for length in [good.len() - 1, good.len() - 50, good.len() - 100_000, 6000, 300, 3] {
        fs::write(&broken, &good[..length]).unwrap();
        let error = bench.error(&broken);
        assert!(error.contains("it ends") || error.contains("is no bundle"), "{length}: {error}");
    }
    fs::write(&broken, [&good[..], b"x"].concat()).unwrap();
    assert!(bench.error(&broken).contains("something follows the last member"));
    fs::write(&broken, b"").unwrap();
    assert!(bench.error(&broken).contains("it ends before manifest.json"));
    fs::write(&broken, b"#!/bin/sh\necho hello\n").unwrap();
    assert!(bench.error(&broken).contains("is no bundle"));
}

/// A small file can hold a frame that never ends: what is too much is refused where it begins, not when it has all been read.
#[test]
fn a_member_that_goes_on_behind_its_size_is_not_read_to_its_end() {
    let bench = Bench::new();
    let text = b"{}";
    let mut encoder = zstd::Encoder::new(Vec::new(), 6).unwrap();
    encoder.write_all(header(MANIFEST, text.len() as u64).unwrap().as_bytes()).unwrap();
    encoder.write_all(text).unwrap();
    encoder.write_all(&vec![0; 8 << 20]).unwrap();
    let frame = encoder.finish().unwrap();
    let file = bench.path("endless");
    // Whoever reads on finds that its end is missing.
    fs::write(&file, &frame[..frame.len() - 8]).unwrap();
    let error = bench.error(&file);
    assert!(error.contains("manifest.json is damaged: there is more in it"), "{error}");
}

#[test]
fn a_frame_that_asks_for_much_memory_is_refused() {
    let bench = Bench::new();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(header(MANIFEST, 2).unwrap().as_bytes()).unwrap();
    encoder.write_all(b"{}").unwrap();
    encoder.write_all(&[0; 510]).unwrap();
    let file = bench.path("wide");
    fs::write(&file, encoder.finish().unwrap()).unwrap();
    assert!(bench.error(&file).contains("is no bundle"), "{}", bench.error(&file));
}

#[test]
fn another_key_is_refused_before_anything_is_unpacked() {
    let bench = Bench::new();
    let file = bench.make("a.tar.zst");
    let other = SecretKey::create(&bench.path("other.key")).unwrap();
    let error = read(&file, &other, &mut |_, _| panic!("nothing may be unpacked"), &|_| {}).unwrap_err().to_string();
    assert!(error.contains("manifest.json.minisig: it is signed by the key"), "{error}");
}

#[test]
fn a_manifest_that_contradicts_itself_is_never_written() {
    let bench = Bench::new();
    let key = SecretKey::load(&bench.path("bundle.key")).unwrap();
    let sources = vec![Source { path: "../x".into(), kind: MemberKind::Package, content: Content::Text(vec![1]) }];
    let to = bench.path("out");
    let error = write(&to, Manifest::default(), sources, &key, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("bad path"), "{error}");
    assert!(!to.exists());
    assert_eq!(fs::read_dir(bench.dir.path()).unwrap().count(), 2, "no half-written file is left");
}

/// The real minisign accepts our signatures and we accept its, where it is installed.
#[test]
fn minisign_itself_agrees() {
    if std::process::Command::new("minisign").arg("-v").output().is_err() {
        assert!(std::env::var_os("PROVISION_REQUIRE_PEERS").is_none(), "minisign is not installed");
        return;
    }
    let bench = Bench::new();
    let minisign = |arguments: &[&str]| {
        let mut command = std::process::Command::new("minisign");
        let output = command.args(arguments).current_dir(bench.dir.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let key = SecretKey::load(&bench.path("bundle.key")).unwrap();
    fs::write(bench.path("manifest.json"), "content").unwrap();
    fs::write(bench.path("manifest.json.minisig"), key.sign(b"content").unwrap()).unwrap();
    minisign(&["-V", "-p", "bundle.pub", "-m", "manifest.json"]);
    minisign(&["-G", "-W", "-p", "theirs.pub", "-s", "theirs.key"]);
    minisign(&["-S", "-s", "theirs.key", "-m", "manifest.json"]);
    let theirs = PublicKey::parse(bench.path("theirs.pub").to_str().unwrap()).unwrap();
    let signature = fs::read_to_string(bench.path("manifest.json.minisig")).unwrap();
    theirs.verify(b"content", &signature).unwrap();
}
