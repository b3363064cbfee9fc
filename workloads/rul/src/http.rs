//! The one HTTP client of all sub-commands.

use std::time::Duration;

/// To a server that is there, connecting takes a moment; to one that is not, it never ends.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// The client cannot be built: a broken TLS setup.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}; SSL_CERT_FILE may name the file with the trusted certificates")]
pub struct Error(#[from] reqwest::Error);

/// A client that resolves names itself (a static program cannot rely on the C library for that),
/// follows no redirects with credentials elsewhere, and gives up on peers that fall silent. The
/// time for a whole request is set by the one who sends it.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client() -> Result<reqwest::Client, Error> {
    // Another part of the program may have installed it already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("rul/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tcp_nodelay(true)
    };
    builder().build().or_else(|error| {
        // An image without trusted certificates can still speak plain HTTP inside a cluster, and
        // an https address then fails with a reason of its own.
        builder().tls_certs_only([]).build().map_err(|_| Error(error))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn there_is_a_client_also_after_another() {
        super::client().unwrap();
        super::client().unwrap();
    }
}
