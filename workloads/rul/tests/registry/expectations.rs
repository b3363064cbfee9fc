//! What every registry does.

use std::collections::BTreeMap;
use std::path::Path;

use rul::registry::{Error, PREVIOUS, PRODUCTION, Registry, RunInfo, RunMetric, SHA256_TAG};

use crate::directories;

const MODEL: &str = "cmapss-rul";

pub async fn all(registry: &Registry) {
    let scratch = tempfile::tempdir().unwrap();
    let artifact = |seed: u64| {
        let dir = scratch.path().join(format!("artifact-{seed}"));
        std::fs::create_dir_all(dir.join("extra/deep")).unwrap();
        let model = directories::write(&dir, seed, "0");
        directories::write_golden(&dir, &model, 0.0);
        std::fs::write(dir.join("extra/deep/ä b.txt"), b"\0\xff").unwrap();
        dir
    };
    let first = artifact(1);

    // Nothing is there yet, which is no error.
    assert_eq!(registry.alias(MODEL, PRODUCTION).await.unwrap(), None);
    assert_eq!(registry.version(MODEL, "1").await.unwrap(), None);
    assert_eq!(registry.versions(MODEL).await.unwrap(), []);

    let info = RunInfo {
        experiment: "cmapss-baseline".into(),
        name: "seed 1".into(),
        params: BTreeMap::from([("epochs".into(), "8".into())]),
        metrics: vec![
            RunMetric { key: "val_rmse".into(), value: 14.0, step: 1, at: 1 },
            RunMetric { key: "val_rmse".into(), value: 13.5, step: 2, at: 2 },
        ],
        tags: BTreeMap::from([("code".into(), "abc".into())]),
        version_tags: BTreeMap::from([("data.sha256".into(), "00".into())]),
    };
    let one = registry.register(MODEL, &first, &info).await.unwrap();
    let two = registry.register(MODEL, &artifact(2), &RunInfo::default()).await.unwrap();
    assert_eq!((one.version.as_str(), two.version.as_str()), ("1", "2"));
    assert_eq!(one.tags.get("data.sha256").unwrap(), "00");
    assert_eq!(registry.metrics(&one).await.unwrap(), BTreeMap::from([("val_rmse".into(), 13.5)]));
    let newest: Vec<_> = registry.versions(MODEL).await.unwrap().into_iter().map(|v| v.version).collect();
    assert_eq!(newest, ["2", "1"]);

    // Aliases.
    assert_eq!(registry.alias(MODEL, PRODUCTION).await.unwrap(), None, "a model without the alias");
    registry.set_alias(MODEL, PRODUCTION, "1").await.unwrap();
    assert_eq!(registry.alias(MODEL, PRODUCTION).await.unwrap().unwrap().version, "1");
    registry.set_alias(MODEL, PRODUCTION, "2").await.unwrap();
    registry.set_alias(MODEL, PREVIOUS, "1").await.unwrap();
    assert_eq!(registry.alias(MODEL, PRODUCTION).await.unwrap().unwrap().version, "2");
    assert_eq!(registry.alias(MODEL, PREVIOUS).await.unwrap().unwrap(), one);
    registry.delete_alias(MODEL, PREVIOUS).await.unwrap();
    registry.delete_alias(MODEL, PREVIOUS).await.unwrap();
    assert_eq!(registry.alias(MODEL, PREVIOUS).await.unwrap(), None);
    for unknown in ["99", "x", ""] {
        registry.set_alias(MODEL, PRODUCTION, unknown).await.unwrap_err();
        assert_eq!(registry.version(MODEL, unknown).await.unwrap(), None);
    }
    for bad in ["../m", "", "a/b"] {
        assert!(matches!(registry.alias(bad, PRODUCTION).await.unwrap_err(), Error::Name { .. }), "{bad}");
        assert!(matches!(registry.set_alias(MODEL, bad, "1").await.unwrap_err(), Error::Name { .. }), "{bad}");
    }

    // Tags.
    registry.set_tag(&one, "promotion.decision", "promoted").await.unwrap();
    registry.set_tag(&one, "promotion.decision", "ä / = %").await.unwrap();
    assert_eq!(registry.tags(&one).await.unwrap().get("promotion.decision").unwrap(), "ä / = %");
    assert_eq!(registry.tags(&two).await.unwrap().get("promotion.decision"), None);

    // Artifacts come back byte for byte.
    let back = scratch.path().join("back/1");
    registry.download(&one, &back).await.unwrap();
    assert_eq!(files(&back), files(&first));
    let error = registry.download(&two, &back).await.unwrap_err();
    assert!(error.to_string().contains("back/1"), "what exists is not overwritten: {error}");
    let mut other = two.clone();
    other.tags.insert(SHA256_TAG.into(), "00".into());
    let error = registry.download(&other, &scratch.path().join("back/2")).await.unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    let left: Vec<_> =
        std::fs::read_dir(scratch.path().join("back")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["1"], "nothing half done is left");
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}
