//! MLflow's REST interface, asked as a pod would ask it: under the name of its Service.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::HOST;
use serde_json::{Value, json};

use crate::checks::http::excerpt;
use crate::host::http_client;

/// No request takes longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the server says when it does not know the name that it was asked under.
const WRONG_HOST: &str = "Invalid Host header";

/// A server.
pub(super) struct Api {
    http: reqwest::Client,
    /// `http://10.43.7.9:5000`.
    base: String,
    port: u16,
    /// `mlflow.mlops.svc.cluster.local:5000`.
    host: String,
    login: Option<(String, String)>,
}

/// Why a request had no success.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such thing.
    Missing(String),
    Other(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

impl Api {
    /// `login` is a user and a password, which a server without basic-auth does not look at.
    pub fn new(address: &str, port: u16, host: String, login: Option<(String, String)>) -> Result<Self, String> {
        let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let http = http_client().timeout(TIMEOUT).no_proxy().build();
        let http = http.map_err(|error| format!("cannot start an HTTP client: {error}"))?;
        Ok(Self { http, base: format!("http://{address}:{port}"), port, host, login })
    }

    /// The same server under another name.
    pub fn named(&self, host: String) -> Self {
        let (http, base, login) = (self.http.clone(), self.base.clone(), self.login.clone());
        Self { http, base, port: self.port, host, login }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn get(&self, call: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        let path = format!("/api/2.0/mlflow/{call}");
        let answer = self.send(Method::GET, &path, query, None).await?;
        parsed(call, &answer)
    }

    pub async fn post(&self, call: &str, body: &Value) -> Result<Value, Failure> {
        self.change(Method::POST, call, body).await
    }

    pub async fn change(&self, method: Method, call: &str, body: &Value) -> Result<Value, Failure> {
        let path = format!("/api/2.0/mlflow/{call}");
        let answer = self.send(method, &path, &[], Some((body.to_string().into_bytes(), true))).await?;
        parsed(call, &answer)
    }

    pub async fn upload(&self, path: &str, content: &[u8]) -> Result<(), Failure> {
        self.send(Method::PUT, &artifact(path), &[], Some((content.to_vec(), false))).await.map(|_| ())
    }

    pub async fn download(&self, path: &str) -> Result<Vec<u8>, Failure> {
        self.send(Method::GET, &artifact(path), &[], None).await
    }

    pub async fn remove_artifact(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, &artifact(path), &[], None).await.map(|_| ())
    }

    /// `body` comes with whether it is JSON.
    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<(Vec<u8>, bool)>,
    ) -> Result<Vec<u8>, Failure> {
        let what = format!("{method} {}", path.trim_start_matches("/api/2.0/"));
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.base))
            .map_err(|error| Failure::Other(format!("{what}: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url).header(HOST, &self.host);
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password));
        }
        if let Some((content, json)) = body {
            let kind = if json { "application/json" } else { "application/octet-stream" };
            request = request.header(reqwest::header::CONTENT_TYPE, kind).body(content);
        }
        let answer = request.send().await.map_err(|error| Failure::Other(format!("{what}: {}", reason(&error))))?;
        let status = answer.status().as_u16();
        let body =
            answer.bytes().await.map_err(|error| Failure::Other(format!("{what}: {}", reason(&error))))?.to_vec();
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body);
        let host = &self.host;
        Err(match status {
            403 if text.contains(WRONG_HOST) => Failure::Other(format!(
                "MLflow refuses clients that ask for {host} (403 {WRONG_HOST}): the name, with its port, is not in \
                 MLFLOW_SERVER_ALLOWED_HOSTS; /health is exempt, so its probes are green all the same\n  hint: add it to \
                 `mlflow.extra_hosts`"
            )),
            401 => Failure::Other(format!(
                "{what}: 401, basic-auth does not know this user and password\n  hint: the user is `admin` and its \
                 password the secret mlflow.admin_password; `provision up` sets it"
            )),
            404 => Failure::Missing(format!("{what}: 404 {}", message(&text))),
            _ => Failure::Other(format!("{what}: {status} {}", message(&text))),
        })
    }
}

fn artifact(path: &str) -> String {
    format!("/api/2.0/mlflow-artifacts/artifacts/{path}")
}

fn parsed(call: &str, answer: &[u8]) -> Result<Value, Failure> {
    if answer.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(answer)
        .map_err(|_| Failure::Other(format!("{call} answered no JSON: {}", excerpt(&String::from_utf8_lossy(answer)))))
}

/// `RESOURCE_DOES_NOT_EXIST: No Experiment with…`, or what else was said.
fn message(text: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let field = |name: &str| parsed.as_ref()?.get(name)?.as_str().map(str::to_owned);
    match (field("error_code"), field("message")) {
        (Some(code), Some(message)) => format!("{code}: {}", excerpt(&message)),
        _ => excerpt(text),
    }
}

fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}
