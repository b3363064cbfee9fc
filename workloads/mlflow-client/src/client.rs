//! The client: an address, an HTTP client, and how patient to be.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::address::Address;
use crate::error::Error;
use crate::s3::S3;
use crate::send::{ATTEMPTS, Place, Repeat, pause, send};

/// How long one call may take; artifacts are not bound by it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of one MLflow server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) address: Arc<Address>,
    pub(crate) s3: Arc<S3>,
    pub(crate) attempts: u32,
    pub(crate) patience: Duration,
}

/// One call of the REST API.
pub(crate) struct Call<'a> {
    pub method: Method,
    /// Below `/api/2.0/mlflow/`.
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    pub body: Option<Value>,
    pub repeat: Repeat,
}

impl<'a> Call<'a> {
    pub fn get(path: &'a str, query: &'a [(&'a str, &'a str)]) -> Self {
        Self { method: Method::GET, path, query, body: None, repeat: Repeat::Safe }
    }

    /// A POST that may be made twice.
    pub fn set(path: &'a str, body: Value) -> Self {
        Self { method: Method::POST, path, query: &[], body: Some(body), repeat: Repeat::Safe }
    }

    /// A POST that makes something new each time.
    pub fn create(path: &'a str, body: Value) -> Self {
        Self { repeat: Repeat::OnlyUnsent, ..Self::set(path, body) }
    }

    pub fn delete(path: &'a str, body: Value) -> Self {
        Self { method: Method::DELETE, ..Self::set(path, body) }
    }
}

impl Client {
    /// A client for a tracking URI; credentials from it or from the environment, S3 from the
    /// environment. Nothing is sent yet.
    ///
    /// # Errors
    /// When the address is not one.
    pub fn new(http: reqwest::Client, tracking_uri: &str) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        let address = Address::parse(tracking_uri, variable)?;
        Ok(Self {
            http,
            address: Arc::new(address),
            s3: Arc::new(S3::from_variables(variable)?),
            attempts: ATTEMPTS,
            patience: PATIENCE,
        })
    }

    /// A client for [`Location::S3`](crate::Location) alone, set up by the environment: there is no server that it could ask.
    ///
    /// # Errors
    /// When the environment's endpoint is no address.
    pub fn storage(http: reqwest::Client) -> Result<Self, Error> {
        // A name that is reserved for leading nowhere.
        Self::new(http, "http://mlflow.invalid")
    }

    /// Other S3 settings than the environment's.
    #[must_use]
    pub fn with_s3(mut self, s3: S3) -> Self {
        self.s3 = Arc::new(s3);
        self
    }

    /// Attempts in all (1: nothing is tried again) and the time for each.
    #[must_use]
    pub fn with_patience(mut self, attempts: u32, each: Duration) -> Self {
        self.attempts = attempts.max(1);
        self.patience = each;
        self
    }

    /// Where it asks, without credentials.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The server's version, such as `3.17.2`. Answered also where the host name is refused.
    ///
    /// # Errors
    /// No answer.
    pub async fn server_version(&self) -> Result<String, Error> {
        let place = self.place("GET version");
        let url = self.address.url(["version"]);
        let response = send(&place, self.attempts, Repeat::Safe, || {
            self.address.login(self.http.get(url.clone())).timeout(self.patience)
        })
        .await?;
        let text = response.text().await.map_err(|e| place.unreachable(&e))?;
        let version = text.trim();
        if version.is_empty() || version.len() > 40 {
            return Err(place.answer("a text that is no version"));
        }
        Ok(version.to_owned())
    }

    pub(crate) fn place(&self, call: impl Into<String>) -> Place {
        Place { server: self.address.shown().to_owned(), call: call.into() }
    }

    /// Calls, and reads the answer.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Error> {
        let place = self.place(format!("{} {}", call.method, call.path));
        let mut url = self.address.url(["api", "2.0", "mlflow"].into_iter().chain(call.path.split('/')));
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let answer = send(&place, self.attempts, call.repeat, || {
            let request =
                self.address.login(self.http.request(call.method.clone(), url.clone())).timeout(self.patience);
            match &call.body {
                Some(body) => request.json(body),
                None => request,
            }
        })
        .await;
        let response = answer.map_err(|error| self.explain(error))?;
        let body = response.bytes().await.map_err(|e| place.unreachable(&e))?;
        serde_json::from_slice(&body).map_err(|e| place.answer(format!("a body that does not fit ({e})")))
    }

    /// Makes something new, once: when it is not known whether an attempt worked, `look` tells.
    pub(crate) async fn create<T, Look>(
        &self,
        path: &str,
        body: &Value,
        mut look: impl FnMut() -> Look,
    ) -> Result<T, Error>
    where
        T: DeserializeOwned,
        Look: Future<Output = Result<Option<T>, Error>>,
    {
        let mut attempt = 1;
        loop {
            let error = match self.call(Call::create(path, body.clone())).await {
                Err(error) if error.is_temporary() => error,
                done => return done,
            };
            // Whether it was done is asked even after the last attempt.
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if attempt >= self.attempts {
                return Err(error);
            }
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    /// The refusal of a host name has a text of its own, and a way out.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Refused { status: 403, message, server, call, .. } if message.contains("Invalid Host header") => {
                Error::HostRefused { server, host: self.address.host(), call }
            }
            other => other,
        }
    }
}
