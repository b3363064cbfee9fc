//! One exchange with a peer, and what its refusal means.

use reqwest::{Client, RequestBuilder};
use serde::de::DeserializeOwned;

use super::error::Error;
use crate::http::{self, Failure};

/// Longest answer that is read, in bytes: a full ring of a service has a few megabytes.
const LARGEST: usize = 64 << 20;

/// A peer: what it is called in errors, and where it is.
#[derive(Debug, Clone)]
pub struct Peer {
    pub what: &'static str,
    pub address: String,
    client: Client,
}

impl Peer {
    pub fn new(what: &'static str, address: &str, client: &Client) -> Self {
        Self { what, address: address.trim_end_matches('/').to_owned(), client: client.clone() }
    }

    pub fn shown(&self) -> String {
        http::shown(&self.address)
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.address))
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.address))
    }

    pub fn answer(&self, reason: impl Into<String>) -> Error {
        Error::Answer { what: self.what, address: self.shown(), reason: reason.into() }
    }

    /// Sends, once more where the connection failed; gives status and body.
    ///
    /// # Errors
    /// [`Error::Unreachable`], or an answer that is too long.
    pub async fn send(&self, request: RequestBuilder) -> Result<(u16, Vec<u8>), Error> {
        http::exchange(request, LARGEST).await.map_err(|failure| match failure {
            Failure::Broken(reason) => Error::Unreachable { what: self.what, address: self.shown(), reason },
            Failure::TooLong(_) => self.answer(failure.to_string()),
        })
    }

    /// Sends and wants 2xx.
    ///
    /// # Errors
    /// As [`Self::send`]; [`Error::Refused`] with the beginning of the answer.
    pub async fn expect(&self, request: RequestBuilder) -> Result<Vec<u8>, Error> {
        let (status, body) = self.send(request).await?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(self.refused(status, &body))
    }

    pub fn refused(&self, status: u16, body: &[u8]) -> Error {
        let reason = http::said(body);
        Error::Refused { what: self.what, address: self.shown(), status, reason }
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// [`Error::Answer`] with the place.
    pub fn json<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|e| self.answer(format!("{path}: {e}")))
    }
}
