//! Promise 1, for the kinds that deal with files, on a real file system: from random states before, plan changes not one byte,
//! apply does what was planned, and the plan after it is empty.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{AnyResource, Planned, registry};
use crate::hash;
use crate::host::BlobSource;
use crate::host::real::tests::{Rooted, me};

/// What was at a path before.
#[derive(Debug, Clone)]
enum Before {
    Nothing,
    /// A file that already has the content which it must have.
    RightFile {
        mode: u32,
        other: bool,
    },
    File {
        content: Vec<u8>,
        mode: u32,
        other: bool,
    },
    Directory {
        mode: u32,
        other: bool,
        inside: bool,
    },
    LinkToFile,
    LinkToDirectory,
    LinkToNowhere,
}

fn mode() -> impl Strategy<Value = u32> {
    // Only root can look into a file that nobody may read.
    let least = if me().uid == 0 { 0 } else { 0o400 };
    prop::sample::select(vec![0o600, 0o644, 0o755, 0o700, 0o4755, 0o2750, least])
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        b"".to_vec(),
        b"a\n".to_vec(),
        b"a\nb".to_vec(),
        b"a\r\nb\n".to_vec(),
        vec![0xff, 0x00],
        vec![b'x'; 300_000],
    ])
}

fn before() -> impl Strategy<Value = Before> {
    prop_oneof![
        Just(Before::Nothing),
        (mode(), any::<bool>()).prop_map(|(mode, other)| Before::RightFile { mode, other }),
        (content(), mode(), any::<bool>()).prop_map(|(content, mode, other)| Before::File { content, mode, other }),
        (mode(), any::<bool>(), any::<bool>())
            .prop_map(|(mode, other, inside)| { Before::Directory { mode, other, inside } }),
        Just(Before::LinkToFile),
        Just(Before::LinkToDirectory),
        Just(Before::LinkToNowhere),
    ]
}

fn make(path: &Path, before: &Before, right: &[u8]) {
    // Only root may give files away.
    let give = |other: bool| {
        if other && me().uid == 0 {
            chown(path, Some(12_345), Some(54_321)).unwrap();
        }
    };
    let set = |mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    match before {
        Before::Nothing => {}
        Before::RightFile { mode, other } => {
            fs::write(path, right).unwrap();
            give(*other);
            set(*mode);
        }
        Before::File { content, mode, other } => {
            fs::write(path, content).unwrap();
            give(*other);
            set(*mode);
        }
        Before::Directory { mode, other, inside } => {
            fs::create_dir(path).unwrap();
            if *inside {
                fs::write(path.join("inside"), "x").unwrap();
            }
            give(*other);
            // Who is not root cannot look into it otherwise.
            set(*mode | 0o700);
        }
        Before::LinkToFile => symlink("a-file", path).unwrap(),
        Before::LinkToDirectory => symlink("a-directory", path).unwrap(),
        Before::LinkToNowhere => symlink("nowhere", path).unwrap(),
    }
}

/// The controller with one file.
struct Blob(Vec<u8>);

#[async_trait]
impl BlobSource for Blob {
    async fn fetch(&self, _: &str, dest: &mut tokio::fs::File) -> Result<bool> {
        dest.write_all(&self.0).await?;
        Ok(true)
    }
}

/// A spec of one of the kinds, with the artifact that it needs.
fn specs() -> impl Strategy<Value = (&'static str, serde_json::Value, Vec<u8>)> {
    let owner = || {
        let other = if me().uid == 0 { "4321".to_owned() } else { me().uid.to_string() };
        let (user, group) = (me().uid.to_string(), me().gid.to_string());
        prop::sample::select(vec![(user, group.clone()), (other, group)])
    };
    let text = |mode: u32| format!("{mode:04o}");
    let archive = {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in [("bin/a", "a"), ("bin/b", "bb"), ("c", "")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let pin = |content: &[u8]| json!({"name": "it", "version": "1", "sha256": hash::sha256(content), "url": null});
    let pinned = pin(&archive);
    prop_oneof![
        (prop::option::of(mode()), owner()).prop_map(move |(mode, (owner, group))| {
            let spec = json!({"path": "/x", "mode": mode.map(text), "owner": owner, "group": group});
            ("directory", spec, Vec::new())
        }),
        Just(("directory", json!({"path": "/etc/x/y", "absent": true}), Vec::new())),
        (content(), mode(), owner(), any::<bool>()).prop_map(move |(content, mode, (owner, group), secret)| {
            let content = STANDARD.encode(content);
            let spec = json!({"path": "/x", "content_base64": content, "mode": text(mode), "owner": owner, "group": group, "secret": secret});
            ("file", spec, Vec::new())
        }),
        Just(("file", json!({"path": "/x", "absent": true}), Vec::new())),
        prop::sample::select(vec!["a-file", "/elsewhere"])
            .prop_map(|target| ("link", json!({"path": "/x", "target": target}), Vec::new())),
        (content(), mode(), owner()).prop_map(move |(content, mode, (owner, group))| {
            let spec = json!({"artifact": pin(&content), "path": "/x", "mode": text(mode), "owner": owner, "group": group});
            ("download", spec, content)
        }),
        prop::sample::select(vec![vec![], vec!["bin"], vec!["bin/a", "c"]]).prop_map(move |include| {
            ("archive", json!({"artifact": pinned, "path": "/x", "include": include}), archive.clone())
        }),
    ]
}

async fn holds(kind: &str, spec: serde_json::Value, artifact: Vec<u8>, before: &Before) {
    let right = match spec["content_base64"].as_str() {
        Some(encoded) => STANDARD.decode(encoded).unwrap(),
        None => artifact.clone(),
    };
    let rooted = Rooted::with(Arc::new(Blob(artifact)));
    fs::write(rooted.path("/a-file"), "linked").unwrap();
    fs::create_dir(rooted.path("/a-directory")).unwrap();
    fs::create_dir_all(rooted.path("/etc/x")).unwrap();
    for path in ["/x", "/etc/x/y"] {
        make(&rooted.path(path), before, &right);
    }
    if kind == "archive" && me().uid != 0 {
        return; // All of it belongs to root.
    }
    let resource: Box<dyn AnyResource> = registry::kind(kind).unwrap().parse(spec).unwrap();
    let untouched = rooted.tree();
    let planned = resource.plan(&rooted.host).await;
    assert_eq!(rooted.tree(), untouched, "the plan changed something");
    let diff = match planned {
        Ok(Planned::Change(diff)) => diff,
        Ok(Planned::InSync) => return,
        Ok(Planned::Pending(reason)) => panic!("{reason}"),
        // What is not ours is not replaced.
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("choose another path"), "{error}");
            return;
        }
    };
    let applied = resource.apply(&rooted.host, &diff).await;
    if kind == "archive" && !matches!(before, Before::Nothing | Before::Directory { .. } | Before::LinkToDirectory) {
        applied.unwrap_err();
        return;
    }
    applied.unwrap();
    let after = rooted.tree();
    assert_eq!(resource.plan(&rooted.host).await.unwrap(), Planned::InSync);
    assert_eq!(rooted.tree(), after, "the second plan changed something");
    assert!(!after.contains(".tmp\" "), "{after}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plan_is_apply((kind, spec, artifact) in specs(), before in before()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(holds(kind, spec, artifact, &before));
    }
}

#[test]
fn every_kind_is_documented_for_its_users() {
    let mut generator = schemars::SchemaGenerator::default();
    for kind in registry::KINDS {
        let reference = kind.schema(&mut generator);
        let name = reference.as_value()["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        let schema = &generator.definitions()[name];
        assert!(schema["description"].as_str().unwrap().contains(&format!("- {}:", kind.name)), "{}", kind.name);
        // A kind with a short form has its full form last.
        let full = schema["anyOf"].as_array().and_then(|forms| forms.last()).unwrap_or(schema);
        let named = full["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        let full = named.map_or(full, |name| &generator.definitions()[name]);
        assert_eq!(full["additionalProperties"], false, "{}", kind.name);
        for (key, property) in full["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{}.{key}", kind.name);
        }
    }
}

/// Too rare to be met by chance: a new owner costs a file its set-user-id bit, which then has to be set again.
#[tokio::test]
async fn a_new_owner_and_a_set_user_id_bit() {
    let (owner, group) = (me().uid.to_string(), me().gid.to_string());
    let spec = json!({"path": "/x", "content_base64": "", "mode": "4755", "owner": owner, "group": group});
    let before = Before::RightFile { mode: 0o4755, other: true };
    holds("file", spec, Vec::new(), &before).await;
}
