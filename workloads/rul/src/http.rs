//! The HTTP client of all sub-commands.

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
    use super::shown;
    use std::time::Duration;

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
