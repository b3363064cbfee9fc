//! The HTTP client of all sub-commands.

use std::error::Error as _;
use std::time::Duration;

/// A client that gives up on a whole exchange after `timeout`.
///
/// # Errors
/// When TLS cannot be set up; a sentence.
pub fn client(timeout: Duration) -> Result<reqwest::Client, String> {
    // An error says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("rul/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeout.min(Duration::from_secs(5)))
        .timeout(timeout)
        // What listens inside a cluster does not send elsewhere; a token must not follow.
        .redirect(reqwest::redirect::Policy::none())
        .build()
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
    let Ok(mut parsed) = reqwest::Url::parse(url) else {
        return "an address that cannot be read".to_owned();
    };
    // They fail for addresses that cannot have them.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.set_query(None);
    parsed.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn addresses_are_shown_without_secrets() {
        assert_eq!(shown("http://u:p@host:1/a/?token=x"), "http://host:1/a");
        assert_eq!(shown("http://host"), "http://host");
        assert_eq!(shown("u:p@host"), "an address that cannot be read");
    }
}
