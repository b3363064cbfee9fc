//! The address of the server, and who asks. Kept apart so that nothing shows the password.

use std::fmt;

use reqwest::{RequestBuilder, Url};

use crate::error::Error;

/// A tracking URI, taken apart.
#[derive(Clone)]
pub struct Address {
    base: Url,
    login: Login,
}

#[derive(Clone)]
enum Login {
    Nobody,
    Basic { user: String, password: String },
    Bearer(String),
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Address {
    /// `http(s)://[user:password@]host[:port][/prefix]`. Without credentials in it, those of
    /// `variable` count (`MLFLOW_TRACKING_USERNAME` and so on); pass `|_| None` for none.
    ///
    /// # Errors
    /// Not such an address.
    pub fn parse(uri: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Address { shown: without_login(uri), reason: reason.to_owned() };
        let mut base = Url::parse(uri.trim()).map_err(|e| wrong(&e.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong("not http or https"));
        }
        if base.host_str().is_none_or(str::is_empty) {
            return Err(wrong("no host"));
        }
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let login = if base.username().is_empty() {
            match (given("MLFLOW_TRACKING_USERNAME"), given("MLFLOW_TRACKING_TOKEN")) {
                (Some(user), _) => {
                    Login::Basic { user, password: given("MLFLOW_TRACKING_PASSWORD").unwrap_or_default() }
                }
                (None, Some(token)) => Login::Bearer(token),
                (None, None) => Login::Nobody,
            }
        } else {
            let decoded = |text: &str| decode(text).ok_or_else(|| wrong("credentials that are not UTF-8"));
            Login::Basic { user: decoded(base.username())?, password: decoded(base.password().unwrap_or_default())? }
        };
        // An http address always takes both.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        base.set_query(None);
        base.set_fragment(None);
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        Ok(Self { base, login })
    }

    /// Without credentials.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// `host:port`, as the server sees it; without a port that is the scheme's own.
    pub(crate) fn host(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The URL of a path below the address; each segment is escaped.
    pub(crate) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    pub(crate) fn login(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Login::Nobody => request,
            Login::Basic { user, password } => request.basic_auth(user, Some(password)),
            Login::Bearer(token) => request.bearer_auth(token),
        }
    }
}

/// The text of an address that may not even parse, without what stands before an `@`.
fn without_login(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.extend(hex::decode(digits).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Address;

    fn nobody(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn no_form_shows_the_password() {
        for uri in ["http://u:hunter2@h:5000/x/", "http://u:hunter2@h:port", "ftp://u:hunter2@h", "u:hunter2@h"] {
            let shown = match Address::parse(uri, nobody) {
                Ok(address) => format!("{address} {address:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn prefixes_and_escapes() {
        let address = Address::parse("https://mlflow.example/a/b/", nobody).unwrap();
        assert_eq!(address.shown(), "https://mlflow.example/a/b");
        assert_eq!(address.url(["api", "x y", "ä/.."]).as_str(), "https://mlflow.example/a/b/api/x%20y/%C3%A4%2F..");
        assert_eq!(address.host(), "mlflow.example");
        let address = Address::parse("http://h:5000", nobody).unwrap();
        assert_eq!(address.url(["health"]).as_str(), "http://h:5000/health");
        assert_eq!(address.host(), "h:5000");
    }

    #[test]
    fn who_asks() {
        let request = |uri: &str, variable: fn(&str) -> Option<String>| {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let http = reqwest::Client::new();
            let address = Address::parse(uri, variable).unwrap();
            let request = address.login(http.get(address.url([]))).build().unwrap();
            request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(request("http://h", nobody), None);
        assert_eq!(request("http://u%40x:p%3Aw@h", nobody).unwrap(), "Basic dUB4OnA6dw==");
        let named = |name: &str| (name == "MLFLOW_TRACKING_USERNAME").then(|| "u".to_owned());
        assert_eq!(request("http://h", named).unwrap(), "Basic dTo=");
        let token = |name: &str| (name == "MLFLOW_TRACKING_TOKEN").then(|| "t".to_owned());
        assert_eq!(request("http://h", token).unwrap(), "Bearer t");
    }
}
