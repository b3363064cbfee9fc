#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::hash;
use crate::host::real::tests::{NoBlobs, Small};

/// Has one file.
struct OneBlob {
    content: Vec<u8>,
    claimed: String,
    asked: AtomicUsize,
}

impl OneBlob {
    fn new(content: &[u8], claimed: String) -> Arc<Self> {
        Arc::new(Self { content: content.to_vec(), claimed, asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl BlobSource for OneBlob {
    async fn fetch(&self, sha256: &str, dest: &mut File) -> Result<bool> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if sha256 != self.claimed {
            return Ok(false);
        }
        dest.write_all(&self.content).await?;
        dest.flush().await?;
        Ok(true)
    }
}

/// An HTTP server that answers connection after connection with what `answer` makes of number and request.
async fn serve(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            stream.write_all(&answer(number, &request)).await.unwrap();
        }
    });
    format!("http://user:password@{address}/k3s?token=abc")
}

fn response(head: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn pin(content: &[u8], url: Option<String>) -> ArtifactPin {
    ArtifactPin { name: "k3s".into(), version: "v1".into(), sha256: hash::sha256(content), url }
}

fn fetcher(blobs: Arc<dyn BlobSource>) -> (TempDir, Fetcher) {
    let dir = tempfile::tempdir().unwrap();
    let mut fetcher = Fetcher::new(dir.path().join("cache"), blobs);
    fetcher.pause = Duration::from_millis(1);
    (dir, fetcher)
}

fn cached(fetcher: &Fetcher) -> Vec<String> {
    files::list(&fetcher.cache).unwrap()
}

#[tokio::test]
async fn the_controller_first_then_the_cache() {
    let blobs = OneBlob::new(b"binary", hash::sha256("binary"));
    let (_dir, fetcher) = fetcher(blobs.clone());
    let artifact = pin(b"binary", Some("http://127.0.0.1:1/".into()));
    let path = fetcher.fetch(&artifact, &|_| ()).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"binary");
    fetcher.fetch(&artifact, &|_| ()).await.unwrap();
    assert_eq!(blobs.asked.load(Ordering::SeqCst), 1);
    assert_eq!(cached(&fetcher).join(" "), artifact.sha256);
    std::fs::write(&path, "damaged").unwrap();
    fetcher.fetch(&artifact, &|_| ()).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"binary");
}

#[tokio::test]
async fn two_at_once_fetch_once() {
    let blobs = OneBlob::new(b"binary", hash::sha256("binary"));
    let (_dir, fetcher) = fetcher(blobs.clone());
    let artifact = pin(b"binary", None);
    let (one, two) = tokio::join!(fetcher.fetch(&artifact, &|_| ()), fetcher.fetch(&artifact, &|_| ()));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(blobs.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_source_is_told() {
    let (_dir, fetcher) = fetcher(Arc::new(NoBlobs));
    let error = fetcher.fetch(&pin(b"x", None), &|_| ()).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.starts_with("artifact k3s v1: neither the cache of the host nor the controller has it"), "{text}");
    assert!(cached(&fetcher).is_empty());
}

#[tokio::test]
async fn a_wrong_checksum_names_both_and_the_source_and_leaves_nothing() {
    let url = serve(|_, _| response("200 OK", 4, b"evil")).await;
    let artifact = pin(b"good", Some(url));
    let wrong = hash::sha256("evil");
    let (_dir, own) = fetcher(Arc::new(NoBlobs));
    let error = format!("{:#}", own.fetch(&artifact, &|_| ()).await.unwrap_err());
    assert!(error.contains("wrong checksum: http://127.0.0.1:"), "{error}");
    assert!(error.contains(&wrong) && error.contains(&artifact.sha256), "{error}");
    assert!(!error.contains("password") && !error.contains("abc"), "{error}");
    assert!(cached(&own).is_empty());

    let (_dir, own) = fetcher(OneBlob::new(b"evil", artifact.sha256.clone()));
    let error = format!("{:#}", own.fetch(&artifact, &|_| ()).await.unwrap_err());
    assert!(error.contains("the controller gave sha256"), "{error}");
    assert!(cached(&own).is_empty());
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_stopped() {
    let content: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
    let body = content.clone();
    let url = serve(move |number, request| {
        let size = body.len();
        match number {
            0 => response("200 OK", size, &body[..20_000]),
            1 => response("503 Busy", 0, b""),
            _ => {
                assert!(request.contains("range: bytes=20000-"), "{request}");
                let head = format!("206 Partial\r\ncontent-range: bytes 20000-49999/{size}");
                response(&head, size - 20_000, &body[20_000..])
            }
        }
    })
    .await;
    let (_dir, fetcher) = fetcher(Arc::new(NoBlobs));
    let texts = Mutex::new(Vec::new());
    let path = fetcher
        .fetch(&pin(&content, Some(url)), &|text| {
            texts.lock().unwrap().push(text.to_owned());
        })
        .await
        .unwrap();
    assert_eq!(std::fs::read(path).unwrap(), content);
    assert_eq!(cached(&fetcher).len(), 1);
    let texts = texts.into_inner().unwrap().join("\n");
    assert!(texts.contains("it answered 503"), "{texts}");
    assert!(!texts.contains("password"), "{texts}");
}

#[tokio::test]
async fn a_damaged_part_of_an_earlier_run_is_thrown_away() {
    let url = serve(|_, request| {
        if request.contains("range: bytes=3-") {
            response("206 Partial\r\ncontent-range: bytes 3-3/4", 1, b"d")
        } else {
            response("200 OK", 4, b"good")
        }
    })
    .await;
    let (_dir, fetcher) = fetcher(Arc::new(NoBlobs));
    let artifact = pin(b"good", Some(url));
    std::fs::create_dir(&fetcher.cache).unwrap();
    let part = fetcher.cache.join(format!("{}.part", artifact.sha256));
    std::fs::write(part, "bad").unwrap();
    let path = fetcher.fetch(&artifact, &|_| ()).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"good");
}

#[tokio::test]
async fn what_will_never_work_is_not_tried_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let url = serve(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        response("404 Not Found", 0, b"")
    })
    .await;
    let (_dir, fetcher) = fetcher(Arc::new(NoBlobs));
    let error = fetcher.fetch(&pin(b"x", Some(url)), &|_| ()).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.ends_with("/k3s: it answered 404 Not Found"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_unreachable_server_is_given_up_after_three_tries() {
    let (_dir, fetcher) = fetcher(Arc::new(NoBlobs));
    let artifact = pin(b"x", Some("http://u:password@127.0.0.1:1/k3s".into()));
    let error = format!("{:#}", fetcher.fetch(&artifact, &|_| ()).await.unwrap_err());
    assert!(error.contains("gave up after 3 tries"), "{error}");
    assert!(error.contains("onnection refused"), "{error}");
    assert!(!error.contains("password"), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_remains() {
    let content = vec![1; 200_000];
    for from_controller in [true, false] {
        let Some(small) = Small::mount("size=64k") else {
            return;
        };
        let body = content.clone();
        // Without a length, so that it is found while writing.
        let url = serve(move |_, _| {
            let mut bytes = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
            bytes.extend_from_slice(&body);
            bytes
        })
        .await;
        let blobs: Arc<dyn BlobSource> =
            if from_controller { OneBlob::new(&content, hash::sha256(&content)) } else { Arc::new(NoBlobs) };
        let fetcher = Fetcher::new(small.path().to_path_buf(), blobs);
        let error = fetcher.fetch(&pin(&content, Some(url)), &|_| ()).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("the disk is full ("), "{error}");
        assert!(cached(&fetcher).is_empty());
    }
}

#[tokio::test]
async fn too_little_space_is_known_before_the_download() {
    let Some(small) = Small::mount("size=64k") else {
        return;
    };
    let url = serve(|_, _| response("200 OK", 5_000_000, b"")).await;
    let fetcher = Fetcher::new(small.path().to_path_buf(), Arc::new(NoBlobs));
    let error = fetcher.fetch(&pin(b"x", Some(url)), &|_| ()).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("4.7 MiB are needed and 0.0 MiB are free"), "{error}");
}

#[tokio::test]
async fn looking_into_an_artifact_leaves_nothing_behind() {
    let blobs = OneBlob::new(b"binary", hash::sha256("binary"));
    let (dir, fetcher) = fetcher(blobs);
    assert_eq!(fetcher.peek(&pin(b"binary", None), &|_| ()).await.unwrap(), b"binary");

    let url = serve(|_, _| response("200 OK", 5, b"chart")).await;
    assert_eq!(fetcher.peek(&pin(b"chart", Some(url.clone())), &|_| ()).await.unwrap(), b"chart");
    let error = format!("{:#}", fetcher.peek(&pin(b"other", Some(url)), &|_| ()).await.unwrap_err());
    assert!(error.contains("wrong checksum: http://127.0.0.1:") && error.contains("but artifacts.yml pins"), "{error}");
    assert!(!error.contains("password") && !error.contains("token"), "{error}");

    let url = serve(|_, _| response("404 Not Found", 0, b"")).await;
    let error = format!("{:#}", fetcher.peek(&pin(b"other", Some(url)), &|_| ()).await.unwrap_err());
    assert!(error.contains("it answered 404 Not Found"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
