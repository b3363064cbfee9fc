//! The bearer token of those who may, and where secrets are read from.

use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, header};

/// A token; compared, never shown.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a secret that was named cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the {what} from {}: {source}", path.display())]
    Read { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the {what} is empty: give {variable} or its file a value, or leave both out")]
    Empty { what: &'static str, variable: &'static str },
}

/// A secret from a file, else from a variable (not an option: options are in the list of processes); `None` where neither is
/// given. `what` it is called in errors.
///
/// # Errors
/// A file that cannot be read, an empty secret.
pub fn secret(what: &'static str, file: Option<&Path>, variable: &'static str) -> Result<Option<String>, TokenError> {
    // An empty variable with the file's name is how a manifest says "none".
    let text = match file.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            read.map_err(|source| TokenError::Read { what, path: path.to_owned(), source })?
        }
        None => match std::env::var(variable) {
            Ok(text) => text,
            Err(_) => return Ok(None),
        },
    };
    let text = text.trim();
    if text.is_empty() { Err(TokenError::Empty { what, variable }) } else { Ok(Some(text.to_owned())) }
}

impl Token {
    /// One that is known already, not read from anywhere.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// From a file, else from RUL_TOKEN.
    ///
    /// # Errors
    /// A file that cannot be read, an empty token.
    pub fn load(file: Option<&Path>) -> Result<Option<Self>, TokenError> {
        Ok(secret("token", file, "RUL_TOKEN")?.map(Self))
    }

    /// What to send to the service that asks for it.
    pub fn value(&self) -> &str {
        &self.0
    }

    /// Whether the request carries `authorization: Bearer TOKEN`.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = given.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        given.is_some_and(|(_, given)| same(given.trim().as_bytes(), self.0.as_bytes()))
    }
}

/// Takes as long for a wrong first byte as for a wrong last one.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_allowed() {
        let token = Token::new("secret");
        let allowed = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token.allows(&headers)
        };
        assert!(allowed("Bearer secret") && allowed("bearer  secret"));
        for wrong in ["", "secret", "Basic secret", "Bearer", "Bearer secre", "Bearer secrets", "Bearer Secret"] {
            assert!(!allowed(wrong), "{wrong}");
        }
        assert!(!token.allows(&HeaderMap::new()));
        assert!(!format!("{token:?}").contains("secret"));
    }

    #[test]
    fn a_file_with_nothing_in_it_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Token::load(Some(file.path())), Err(TokenError::Empty { .. })));
        std::fs::write(file.path(), "abc\n").unwrap();
        assert_eq!(Token::load(Some(file.path())).unwrap().unwrap().0, "abc");
        let error = Token::load(Some(Path::new("/nonexistent/token"))).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the token from /nonexistent/token: "), "{error}");
    }
}
