#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse;
use serde_json::json;

use super::*;

/// An image of one small layer, as an index for two platforms of which one exists.
struct Image {
    blobs: BTreeMap<String, Vec<u8>>,
    index: String,
    layer: String,
}

fn image() -> Image {
    let mut blobs = BTreeMap::new();
    let mut add = |content: &[u8]| {
        let digest = format!("sha256:{}", hash::sha256(content));
        blobs.insert(digest.clone(), content.to_vec());
        json!({"digest": digest, "size": content.len(), "mediaType": "application/octet-stream"})
    };
    let layer = add(&[7; 100_000]);
    let config = add(b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}");
    let typed = |mut descriptor: Value, media_type: &str| {
        descriptor["mediaType"] = json!(media_type);
        descriptor
    };
    let layer = typed(layer, "application/vnd.oci.image.layer.v1.tar");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": typed(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    });
    let mut ours = typed(add(manifest.to_string().as_bytes()), "application/vnd.oci.image.manifest.v1+json");
    ours["platform"] = json!({"os": "linux", "architecture": architecture()});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [ours],
    });
    let index = add(index.to_string().as_bytes())["digest"].as_str().unwrap().to_owned();
    Image { index, layer: layer["digest"].as_str().unwrap().to_owned(), blobs }
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("blobs")).unwrap();
        let store = Store::at(dir.path().join("cache")).unwrap();
        Self { dir, store }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("blobs")
    }

    async fn pull(&self, address: &str, digest: &str) -> Result<()> {
        pull(&format!("{address}/team/app:v1"), digest, &self.store, &self.folder(), &|_| {}).await
    }
}

/// A blob with this content is answered with [`CHUNKS`] chunks of something else.
const ENDLESS: &[u8] = b"endless";
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 1024;

/// As the documentation of the token handshake has it: a challenge, a token for the scope, then the blobs. The layer's first answer
/// is cut in the middle.
#[derive(Clone)]
struct Fake {
    blobs: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// Chunks of endless answers that were made.
    sent: Arc<AtomicUsize>,
    address: String,
}

async fn answer(State(fake): State<Fake>, uri: Uri, headers: HeaderMap) -> axum::response::Response {
    let path = uri.path().to_owned();
    let range = headers.get("range").map(|range| format!(" {}", range.to_str().unwrap())).unwrap_or_default();
    fake.asked.lock().unwrap().push(format!("{uri}{range}"));
    if path == "/token" {
        return axum::Json(json!({"token": "secret-token"})).into_response();
    }
    if headers.get("authorization").is_none_or(|value| value != "Bearer secret-token") {
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"registry.test\",scope=\"repository:team/app:pull\"",
            fake.address
        );
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
    }
    let digest = path.rsplit('/').next().unwrap();
    let Some(content) = fake.blobs.lock().unwrap().get(digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if content == ENDLESS {
        let sent = fake.sent.clone();
        let chunks = std::iter::repeat_with(move || {
            sent.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![7_u8; CHUNK])
        });
        return axum::body::Body::from_stream(futures::stream::iter(chunks.take(CHUNKS))).into_response();
    }
    let from = headers
        .get("range")
        .and_then(|range| range.to_str().unwrap().strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        None => content.into_response(),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            (StatusCode::PARTIAL_CONTENT, [("content-range", range)], content[from..].to_vec()).into_response()
        }
    }
}

async fn fake(image: &Image) -> Fake {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let blobs = Arc::new(Mutex::new(image.blobs.clone()));
    let fake = Fake { blobs, asked: Arc::default(), sent: Arc::default(), address };
    let router = Router::new().fallback(answer).with_state(fake.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    fake
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_and_a_broken_transfer_goes_on() {
    let image = image();
    let fake = fake(&image).await;
    let bench = Bench::new();
    // Half of the layer came in an earlier run.
    let layer = image.layer.strip_prefix("sha256:").unwrap();
    fs::write(bench.store.partial_path(layer), [7; 60_000]).unwrap();
    bench.pull(&fake.address, &image.index).await.unwrap();
    let found = super::super::archive::blobs(&bench.folder(), &image.index).unwrap();
    assert_eq!(found.len(), 4);
    let asked = fake.asked.lock().unwrap().clone();
    let tokens: Vec<_> = asked.iter().filter(|line| line.starts_with("/token")).collect();
    assert_eq!(tokens, ["/token?service=registry.test&scope=repository%3Ateam%2Fapp%3Apull"]);
    assert!(asked.iter().any(|line| line.ends_with(&format!("{layer} bytes=60000-"))), "{asked:?}");
    // All is in the cache: nobody is asked again.
    fs::remove_dir_all(bench.folder()).unwrap();
    fs::create_dir(bench.folder()).unwrap();
    bench.pull(&fake.address, &image.index).await.unwrap();
    assert_eq!(fake.asked.lock().unwrap().len(), asked.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_and_a_missing_image_are_found_out() {
    let image = image();
    let fake = fake(&image).await;
    let bench = Bench::new();
    fake.blobs.lock().unwrap().insert(image.layer.clone(), b"evil".to_vec());
    let error = format!("{:#}", bench.pull(&fake.address, &image.index).await.unwrap_err());
    assert!(error.contains("another content than") && error.contains(&image.layer), "{error}");
    let absent = format!("sha256:{}", hash::sha256("absent"));
    let error = format!("{:#}", bench.pull(&fake.address, &absent).await.unwrap_err());
    assert!(error.contains("404") && error.contains("team/app:v1@"), "{error}");
}

/// Neither memory nor disk is filled by a registry that goes on and on: of 64 MiB not even half is taken.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_longer_than_it_may_be_is_not_read_to_its_end() {
    for endless in [image().layer, image().index] {
        let image = image();
        let fake = fake(&image).await;
        let bench = Bench::new();
        fake.blobs.lock().unwrap().insert(endless.clone(), ENDLESS.to_vec());
        let error = format!("{:#}", bench.pull(&fake.address, &image.index).await.unwrap_err());
        let expected =
            if endless == image.layer { "more than the 100000 bytes of sha256:" } else { "is longer than 8 MiB" };
        assert!(error.contains(expected), "{error}");
        let sent = fake.sent.load(Ordering::Relaxed);
        assert!(0 < sent && sent < CHUNKS / 2, "{sent}");
        assert!(!bench.store.partial_path(endless.trim_start_matches("sha256:")).exists());
    }
}

#[test]
fn challenges_are_read() {
    let read = parameters("realm=\"https://auth.example.org/token\", service=\"a,b\",scope=\"repository:x:pull\"");
    let read: Vec<_> = read.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(read, [("realm", "https://auth.example.org/token"), ("service", "a,b"), ("scope", "repository:x:pull")]);
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The real registry (Debian's `docker-registry`), where it is installed: pushed as any client does, and pulled by us.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_gives_what_was_pushed() {
    if Command::new("docker-registry").arg("--version").output().is_err() {
        assert!(std::env::var_os("PROVISION_REQUIRE_PEERS").is_none(), "docker-registry is not installed");
        return;
    }
    let bench = Bench::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let config = bench.dir.path().join("config.yml");
    let data = bench.dir.path().join("data");
    let text = format!(
        "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: '{address}' }}\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let child = Command::new("docker-registry")
        .args(["serve", config.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _peer = Peer(child);
    let client = http_client().build().unwrap();
    let base = format!("http://{address}/v2/team/app");
    let mut tries = 0;
    while client.get(format!("http://{address}/v2/")).send().await.is_err() {
        tries += 1;
        assert!(tries < 100, "the registry does not start");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let image = image();
    // Blobs first, then the manifest, then the index: a registry refuses what leads nowhere.
    let is_manifest = |content: &[u8]| content.starts_with(b"{\"schemaVersion\"");
    for (digest, content) in image.blobs.iter().filter(|(_, content)| !is_manifest(content)) {
        let started = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
        let location = started.headers()["location"].to_str().unwrap().to_owned();
        let url = format!("{location}&digest={digest}");
        let done = client.put(url).body(content.clone()).send().await.unwrap();
        assert!(done.status().is_success(), "{done:?}");
    }
    let mut manifests: Vec<_> = image.blobs.iter().filter(|(_, content)| is_manifest(content)).collect();
    manifests.sort_by_key(|(digest, _)| **digest == image.index);
    for (digest, content) in manifests {
        let value: Value = serde_json::from_slice(content).unwrap();
        let request = client.put(format!("{base}/manifests/{digest}")).body(content.clone());
        let done = request.header("content-type", value["mediaType"].as_str().unwrap()).send().await.unwrap();
        assert!(done.status().is_success(), "{digest}: {}", done.text().await.unwrap());
    }
    bench.pull(&address, &image.index).await.unwrap();
    assert_eq!(super::super::archive::blobs(&bench.folder(), &image.index).unwrap().len(), 4);
}
