#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::IntoResponse;
use serde_json::json;

use std::io::Read;

use super::*;
use crate::hash;
use crate::image::BuiltImage;

const LOW: &str = "\
name: low
files: [{ content: low, to: /usr/bin/low }]
links: [{ path: /bin, target: usr/bin }]
user: { name: app, uid: 1000 }
env: { A: '1', B: '1' }
entrypoint: [/bin/low]
cmd: [serve]
labels: { low: '1' }
workdir: /srv
ports: [80]
";

const HIGH: &str = "\
name: high
base: { artifact: low }
files: [{ content: high, to: /bin/high }]
env: { B: '2', C: '3' }
entrypoint: [/bin/high]
labels: { high: '1' }
ports: [81]
";

struct Bench {
    dir: tempfile::TempDir,
    lock: Lock,
    store: Store,
}

impl Bench {
    /// With `low` as an artifact that this says where to find.
    fn new(low: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("low.yml"), LOW).unwrap();
        fs::write(dir.path().join("high.yml"), HIGH).unwrap();
        let lock = Lock::parse("artifacts.yml", &format!("low:\n  version: v1\n  kind: image\n  {low}\n")).unwrap();
        let store = Store::at(dir.path().join("cache")).unwrap();
        Self { dir, lock, store }
    }

    fn build(&self, recipe: &str) -> Result<BuiltImage> {
        let workshop = Workshop { root: self.dir.path(), lock: &self.lock, store: &self.store };
        build::build(&self.dir.path().join(recipe), &workshop, &|_| {})
    }

    fn image(&self, recipe: &str) -> Image {
        let built = self.build(recipe).unwrap();
        let blobs = self.dir.path().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        archive::split(&self.store.blob_path(&built.archive.sha256), &blobs).unwrap();
        assert_eq!(archive::blobs(&blobs, &built.digest).unwrap().len(), 2 + layers_of(&blobs, &built).len());
        let manifest = json(&blobs, &built.digest).unwrap();
        let config = json(&blobs, manifest["config"]["digest"].as_str().unwrap()).unwrap();
        Image { layers: layers_of(&blobs, &built), built, config, blobs }
    }
}

fn layers_of(blobs: &Path, built: &BuiltImage) -> Vec<Value> {
    json(blobs, &built.digest).unwrap()["layers"].as_array().unwrap().clone()
}

struct Image {
    built: BuiltImage,
    layers: Vec<Value>,
    config: Value,
    blobs: PathBuf,
}

impl Image {
    /// Paths and contents of what is no folder in its topmost layer.
    fn top(&self) -> BTreeMap<String, String> {
        let digest = self.layers.last().unwrap()["digest"].as_str().unwrap();
        let tar = archive::open(&self.blobs.join(pull::sha256_of(digest).unwrap())).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            if !path.ends_with('/') {
                files.insert(path, text);
            }
        }
        files
    }
}

#[test]
fn a_recipe_starts_from_the_image_of_another() {
    let bench = Bench::new("recipe: { image: low.yml }");
    let (low, high) = (bench.image("low.yml"), bench.image("high.yml"));
    assert_eq!((high.layers.len(), &high.layers[0]), (2, &low.layers[0]));
    let diff_ids: Vec<_> = high.layers.iter().map(|layer| layer["digest"].clone()).collect();
    assert_eq!(high.config["rootfs"]["diff_ids"], json!(diff_ids));
    insta::assert_snapshot!(high.config["config"], @r#"{"User":"1000:1000","ExposedPorts":{"80/tcp":{},"81/tcp":{}},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","A=1","B=2","C=3"],"Entrypoint":["/bin/high"],"Labels":{"low":"1","high":"1"},"WorkingDir":"/srv"}"#);
    // Its own layer has nothing that the base has: no users, and no folder over the link /bin.
    assert_eq!(high.top(), [("usr/bin/high".to_owned(), "high".to_owned())].into());

    let elsewhere = Bench::new("recipe: { image: low.yml }");
    assert_eq!(elsewhere.build("high.yml").unwrap(), high.built);
    fs::write(bench.dir.path().join("low.yml"), LOW.replace("content: low", "content: new")).unwrap();
    assert_ne!(bench.build("high.yml").unwrap().reference, high.built.reference);
}

#[test]
fn a_user_of_ones_own_is_added_to_those_of_the_base() {
    let bench = Bench::new("recipe: { image: low.yml }");
    fs::write(
        bench.dir.path().join("high.yml"),
        "name: high\nbase: { artifact: low }\nuser: { name: me, uid: 2000 }\n",
    )
    .unwrap();
    let high = bench.image("high.yml");
    assert_eq!(high.config["config"]["User"], "2000:2000");
    assert_eq!(high.config["config"]["Entrypoint"], json!(["/bin/low"]));
    assert_eq!(high.config["config"]["Cmd"], json!(["serve"]));
    let passwd = &high.top()["etc/passwd"];
    assert!(passwd.contains("app:x:1000:") && passwd.ends_with("me:x:2000:2000:me:/:/sbin/nologin\n"), "{passwd}");
    assert!(high.top()["etc/group"].ends_with("app:x:1000:\nme:x:2000:\n"));
}

#[test]
fn circles_and_unknown_artifacts_are_said() {
    let bench = Bench::new("recipe: { image: low.yml }");
    fs::write(bench.dir.path().join("low.yml"), "name: low\nbase: { artifact: low }\n").unwrap();
    let error = format!("{:#}", bench.build("high.yml").unwrap_err());
    let circle = "high.yml -> DIR/low.yml -> DIR/low.yml";
    assert!(error.replace(&bench.dir.path().display().to_string(), "DIR").contains(circle), "{error}");
    fs::write(bench.dir.path().join("low.yml"), "name: low\nbase: { artifact: lov }\n").unwrap();
    let error = format!("{:#}", bench.build("low.yml").unwrap_err());
    assert!(error.contains("no artifact \"lov\"; did you mean \"low\"?"), "{error}");
}

/// An image as Docker makes it: a compressed layer under Docker's names, in an index with another platform.
struct Foreign {
    blobs: BTreeMap<String, Vec<u8>>,
    index: Value,
    layer: String,
}

fn foreign(architecture: &str) -> Foreign {
    let mut blobs = BTreeMap::new();
    let mut add = |content: &[u8], media_type: &str| {
        let digest = format!("sha256:{}", hash::sha256(content));
        blobs.insert(digest.clone(), content.to_vec());
        json!({ "digest": digest, "size": content.len(), "mediaType": media_type })
    };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "bin", "usr/bin").unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar).unwrap();
    let layer = add(&gzip.finish().unwrap(), "application/vnd.docker.image.rootfs.diff.tar.gzip");
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": ["PATH=/x", "A=0"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hash::sha256(&tar))] },
    });
    let config = add(config.to_string().as_bytes(), "application/vnd.docker.container.image.v1+json");
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let mut ours = add(manifest.to_string().as_bytes(), "application/vnd.docker.distribution.manifest.v2+json");
    ours["platform"] = json!({ "os": "linux", "architecture": architecture });
    let mut absent = ours.clone();
    absent["digest"] = json!(format!("sha256:{}", hash::sha256("absent")));
    absent["platform"]["architecture"] = json!("s390x");
    let list = json!({ "schemaVersion": 2, "manifests": [absent, ours] });
    let index = add(list.to_string().as_bytes(), "application/vnd.oci.image.index.v1+json");
    Foreign { blobs, index, layer: layer["digest"].as_str().unwrap().to_owned() }
}

impl Foreign {
    /// As the archive of an OCI layout.
    fn archive(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, content: &[u8]| {
            super::super::layout::append(&mut tar, name, content.len() as u64, content).unwrap();
        };
        add("index.json", json!({ "schemaVersion": 2, "manifests": [self.index] }).to_string().as_bytes());
        for (digest, content) in &self.blobs {
            add(&format!("blobs/{}", digest.replace(':', "/")), content);
        }
        tar.into_inner().unwrap()
    }

    /// Serves its blobs as a registry does, and its archive; answers with the address.
    async fn serve(&self) -> String {
        async fn answer(State(files): State<Arc<BTreeMap<String, Vec<u8>>>>, uri: Uri) -> axum::response::Response {
            let name = uri.path().rsplit('/').next().unwrap_or_default();
            match files.get(name) {
                Some(content) => content.clone().into_response(),
                None => axum::http::StatusCode::NOT_FOUND.into_response(),
            }
        }
        let mut files = self.blobs.clone();
        files.insert("low.tar".to_owned(), self.archive());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = axum::Router::new().fallback(answer).with_state(Arc::new(files));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_starts_from_an_image_of_a_registry_or_from_an_archive() {
    let foreign = foreign(pull::architecture());
    let address = foreign.serve().await;
    let digest = foreign.index["digest"].as_str().unwrap();
    let sha256 = hash::sha256(foreign.archive());
    let mut built = Vec::new();
    for low in [
        format!("ref: {address}/team/low:v1\n  digest: {digest}"),
        format!("url: http://{address}/low.tar\n  sha256: {sha256}"),
    ] {
        let bench = Bench::new(&low);
        let high = tokio::task::block_in_place(|| bench.image("high.yml"));
        assert_eq!(high.layers[0]["digest"], foreign.layer.as_str());
        assert_eq!(high.layers[0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let config = &high.config["config"];
        assert_eq!(config["Env"], json!(["PATH=/x", "A=0", "B=2", "C=3"]));
        assert_eq!(config["Cmd"], Value::Null, "the arguments were the base's program's");
        assert!(high.top().contains_key("usr/bin/high"), "{:?}", high.top());
        built.push(high.built);
    }
    assert_eq!(built[0], built[1], "the way that it came makes no difference");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_processor_is_refused() {
    let foreign = foreign("s390x");
    let address = foreign.serve().await;
    let bench = Bench::new(&format!("url: http://{address}/low.tar\n  sha256: {}", hash::sha256(foreign.archive())));
    let error = tokio::task::block_in_place(|| format!("{:#}", bench.build("high.yml").unwrap_err()));
    let expected =
        format!("artifacts.yml:2:3: low as the base of an image: it is not made for linux/{}", pull::architecture());
    assert!(error.contains(&expected), "{error}");
}
