//! The HTTP client of all sub-commands, and one exchange with it.

use std::error::Error as _;
use std::time::Duration;

/// To a server that is there, connecting takes a moment; to one that is not, it never ends.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest pause between two pieces of an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// A client that gives up on a whole exchange after `timeout`.
///
/// # Errors
/// When TLS cannot be set up; a sentence.
pub fn client(timeout: Duration) -> Result<reqwest::Client, String> {
    build(|builder| builder.connect_timeout(timeout.min(CONNECT)).timeout(timeout))
}

/// A client for exchanges whose length is not known beforehand: it gives up on peers that fall
/// silent. The time for a whole exchange, where there is one, is set by the one who sends it.
///
/// # Errors
/// When TLS cannot be set up; a sentence.
pub fn unhurried() -> Result<reqwest::Client, String> {
    build(|builder| builder.connect_timeout(CONNECT).read_timeout(SILENCE))
}

fn build(limits: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Result<reqwest::Client, String> {
    // An error says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("rul/", env!("CARGO_PKG_VERSION")))
            .tcp_nodelay(true)
            // What listens inside a cluster does not send elsewhere; a token must not follow.
            .redirect(reqwest::redirect::Policy::none());
        limits(builder)
    };
    builder()
        .build()
        // An image without trusted certificates can still speak plain HTTP inside a cluster, and
        // an https address then fails with a reason of its own.
        .or_else(|error| builder().tls_certs_only([]).build().map_err(|_| error))
        .map_err(|e| format!("cannot start an HTTP client: {}", reason(&e)))
}

/// Pause before the only second try of a request that did not arrive.
const PAUSE: Duration = Duration::from_millis(300);

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answered, or not to the end. See [`reason`].
    #[error("{0}")]
    Broken(String),
    #[error("more than {0} bytes")]
    TooLong(usize),
}

/// Sends, once more where no connection came about (then nothing was sent); gives status and body, whatever the status. Bodies of
/// more than `largest` bytes are not read.
///
/// # Errors
/// [`Failure`].
pub async fn exchange(request: reqwest::RequestBuilder, largest: usize) -> Result<(u16, Vec<u8>), Failure> {
    let again = request.try_clone();
    let response = match (request.send().await, again) {
        (Err(error), Some(again)) if error.is_connect() => {
            tokio::time::sleep(PAUSE).await;
            again.send().await
        }
        (result, _) => result,
    };
    let broken = |error: reqwest::Error| Failure::Broken(reason(&error));
    let mut response = response.map_err(broken)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > largest {
            return Err(Failure::TooLong(largest));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, body))
}

/// The beginning of what a peer said to its refusal.
#[must_use]
pub fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() { "no reason given".to_owned() } else { text.chars().take(300).collect() }
}

/// What went wrong, down to the last cause, without the address (it may hold a password).
#[must_use]
pub fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if text.is_empty() { "the exchange failed".to_owned() } else { text }
}

/// An address without user, password and query.
#[must_use]
pub fn shown(url: &str) -> String {
    // `user:password@host` is an address without a host, of the scheme `user`.
    let Some(mut parsed) = reqwest::Url::parse(url).ok().filter(reqwest::Url::has_host) else {
        return "an address that cannot be read".to_owned();
    };
    // They fail for addresses that cannot have them.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.set_query(None);
    parsed.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Failure, client, exchange, said, shown};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Gives every caller these bytes.
    async fn peer(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn an_exchange_ends_with_a_status_or_a_reason() {
        let client = client(Duration::from_secs(10)).unwrap();
        let whole = peer("HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nlate").await;
        let ask = |largest| exchange(client.get(&whole), largest);
        assert_eq!(ask(4).await.unwrap(), (503, b"late".to_vec()));
        assert!(matches!(ask(3).await, Err(Failure::TooLong(3))));
        let cut = peer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
        assert!(matches!(exchange(client.get(&cut), 99).await, Err(Failure::Broken(_))));
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = exchange(client.get(format!("http://{nobody}")), 99).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
    }

    #[test]
    fn what_a_peer_said_is_short_and_never_nothing() {
        assert_eq!((said(b" no \n").as_str(), said(b" ").as_str()), ("no", "no reason given"));
        assert_eq!(said("ä".repeat(999).as_bytes()).chars().count(), 300);
    }

    #[test]
    fn there_is_a_client_also_after_another() {
        super::unhurried().unwrap();
        super::client(Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        assert_eq!(shown("http://u:p@host:1/a/?token=x"), "http://host:1/a");
        assert_eq!(shown("http://host"), "http://host");
        assert_eq!(shown("u:p@host"), "an address that cannot be read");
    }
}
