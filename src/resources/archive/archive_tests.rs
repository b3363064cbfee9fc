#![allow(clippy::unwrap_used)]

use std::io::Write;

use super::*;
use crate::hash;
use crate::host::ArtifactPin;
use crate::host::fake::FakeHost;
use crate::resources::testing::{changes, nothing, spec};
use crate::resources::{AnyResource, Planned};

enum Member<'a> {
    File(&'a str, u32, &'a [u8]),
    Dir(&'a str, u32),
    Symlink(&'a str, &'a str),
    Hardlink(&'a str, &'a str),
    Device(&'a str),
}

fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_gnu();
        let (name, kind, mode, content, target) = match *member {
            Member::File(name, mode, content) => (name, tar::EntryType::Regular, mode, content, ""),
            Member::Dir(name, mode) => (name, tar::EntryType::Directory, mode, &b""[..], ""),
            Member::Symlink(name, to) => (name, tar::EntryType::Symlink, 0o777, &b""[..], to),
            Member::Hardlink(name, to) => (name, tar::EntryType::Link, 0o755, &b""[..], to),
            Member::Device(name) => (name, tar::EntryType::Char, 0o600, &b""[..], ""),
        };
        // Written byte by byte: the crate would refuse the bad names that are tested here.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn archive(content: &[u8], version: &str, options: &str) -> Archive {
    let pin = ArtifactPin { name: "helm".into(), version: version.into(), sha256: hash::sha256(content), url: None };
    let pin = serde_json::to_string(&pin).unwrap();
    spec(&format!(r#"{{"artifact": {pin}, "path": "/opt/helm"{options}}}"#))
}

fn typical() -> Vec<u8> {
    tar(&[
        Member::Dir("./linux/", 0o775),
        Member::File("./linux/helm", 0o4777, b"binary"),
        Member::File("./linux/doc/README", 0o644, b"text"),
        Member::Symlink("./linux/doc/link", "../helm"),
        Member::Hardlink("./linux/copy", "./linux/helm"),
    ])
}

async fn unpack_error(members: &[Member<'_>], options: &str) -> String {
    let content = tar(members);
    let host = FakeHost::new().artifact(&content);
    let resource = archive(&content, "1", options);
    let Planned::Change(diff) = resource.plan(&host).await.unwrap() else { panic!() };
    let error = Resource::apply(&resource, &host, &diff).await.unwrap_err();
    assert!(host.files().node("/opt/helm").is_none(), "something was written");
    format!("{error:#}")
}

#[tokio::test]
async fn all_compressions_unpack_alike() {
    let plain = typical();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for content in [plain, gzip.finish().unwrap(), xz.finish().unwrap(), zstd] {
        let host = FakeHost::new().artifact(&content);
        let resource = archive(&content, "v1", r#", "strip": 1"#);
        let shown = changes(&resource, &host).await;
        assert_eq!(shown, ["create", "artifact: helm v1"]);
        let files = host.files();
        assert_eq!(files.text("/opt/helm/helm"), "binary");
        assert_eq!(files.node("/opt/helm/helm").unwrap().mode, 0o755);
        assert_eq!(files.text("/opt/helm/copy"), "binary");
        assert_eq!(files.text("/opt/helm/doc/README"), "text");
        let link = &files.node("/opt/helm/doc/link").unwrap().content;
        assert_eq!(*link, crate::host::fake::Content::Symlink("../helm".into()));
    }
}

#[tokio::test]
async fn only_what_is_included() {
    let content = typical();
    let host = FakeHost::new().artifact(&content);
    let resource = archive(&content, "1", r#", "strip": 1, "include": ["helm"]"#);
    changes(&resource, &host).await;
    let names = host.list_dir(Path::new("/opt/helm")).unwrap();
    assert_eq!(names, [".provision-helm.json", "helm"]);
    let error = unpack_error(&[Member::File("linux/helm", 0o755, b"")], r#", "strip": 1, "include": ["helmm"]"#).await;
    assert_eq!(error, "artifact helm 1: the archive has no \"helmm\"; did you mean \"helm\"?");
}

#[tokio::test]
async fn a_new_version_is_shown_and_takes_the_old_files_with_it() {
    let old = tar(&[
        Member::File("helm", 0o755, b"one"),
        Member::File("gone/a", 0o644, b""),
        Member::Dir("shared", 0o755),
        Member::File("turns", 0o644, b""),
    ]);
    let new =
        tar(&[Member::File("helm", 0o755, b"two!"), Member::Dir("turns", 0o755), Member::File("turns/x", 0o644, b"")]);
    let host = FakeHost::new().artifact(&old);
    changes(&archive(&old, "1", ""), &host).await;
    host.files().put_file("/opt/helm/shared/own", "mine", 0o644);
    let files = host.files().clone();
    let host = FakeHost::new().artifact(&new);
    *host.files() = files;
    let shown = changes(&archive(&new, "2", ""), &host).await;
    let (a, b) = (&hash::sha256(&old)[..12], &hash::sha256(&new)[..12]);
    assert_eq!(shown, ["change", &format!("artifact: helm 1 (sha256 {a}) -> 2 (sha256 {b})")]);
    let files = host.files();
    assert_eq!(files.text("/opt/helm/helm"), "two!");
    assert!(files.node("/opt/helm/gone/a").is_none());
    assert_eq!(files.text("/opt/helm/shared/own"), "mine");
}

#[tokio::test]
async fn damage_by_hand_is_named_and_repaired() {
    let content = typical();
    let host = FakeHost::new().artifact(&content);
    let resource = archive(&content, "1", r#", "strip": 1"#);
    changes(&resource, &host).await;
    let files = host.files().clone();
    let host = FakeHost::new().artifact(&content);
    *host.files() = files;
    host.files().remove("/opt/helm/helm");
    host.files().put_file("/opt/helm/doc/README", "longer text", 0o644);
    host.files().put_link("/opt/helm/doc/link", "/etc/passwd");
    let shown = changes(&resource, &host).await;
    assert_eq!(shown, ["change", "helm: is missing", "doc/README: has another size", "doc/link: leads elsewhere"]);
    nothing(&resource, &host).await;
}

#[tokio::test]
async fn other_options_unpack_again() {
    let content = typical();
    let host = FakeHost::new().artifact(&content);
    changes(&archive(&content, "1", ""), &host).await;
    let files = host.files().clone();
    let host = FakeHost::new().artifact(&content);
    *host.files() = files;
    let shown = changes(&archive(&content, "1", r#", "strip": 1"#), &host).await;
    assert_eq!(shown, ["change", "strip: 0 -> 1"]);
    assert!(host.files().node("/opt/helm/linux/helm").is_none());
}

#[tokio::test]
async fn what_leaves_the_directory_is_refused_before_anything_is_written() {
    let good = || Member::File("good", 0o644, b"");
    for (bad, reason) in [
        (vec![Member::File("../evil", 0o644, b"")], "leads out of its directory"),
        (vec![Member::File("/etc/evil", 0o644, b"")], "leads out of its directory"),
        (vec![Member::File("a/../../evil", 0o644, b"")], "leads out of its directory"),
        (vec![Member::Symlink("link", "/etc")], "leads out of its directory, to \"/etc\""),
        (vec![Member::Symlink("a/link", "../../etc")], "leads out of its directory"),
        (vec![Member::Hardlink("link", "/etc/shadow")], "leads out of its directory"),
        (vec![Member::Symlink("a", "."), Member::Symlink("a/b", "..")], "through its own link \"a\""),
        (vec![Member::Device("null")], "is neither file, directory nor link"),
    ] {
        let members: Vec<_> = std::iter::once(good()).chain(bad).collect();
        let error = unpack_error(&members, "").await;
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_cut_archive_writes_nothing() {
    let whole = tar(&[Member::File("a", 0o644, b"a"), Member::File("b", 0o644, &[7; 5000])]);
    let content = &whole[..3000];
    let host = FakeHost::new().artifact(content);
    let resource = archive(content, "1", "");
    let Planned::Change(diff) = resource.plan(&host).await.unwrap() else { panic!() };
    assert!(Resource::apply(&resource, &host, &diff).await.is_err());
    assert!(host.files().node("/opt/helm").is_none());
}

#[tokio::test]
async fn too_much_stripping_and_zip_are_told() {
    let error = unpack_error(&[Member::File("a/b", 0o644, b"")], r#", "strip": 2"#).await;
    assert!(error.ends_with("is `strip` too large?"), "{error}");
    let error = entries::list(&b"PK\x03\x04"[..], 0, &[]).unwrap_err();
    assert!(error.to_string().contains("is a zip file"), "{error}");
}
