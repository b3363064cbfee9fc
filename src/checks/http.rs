//! `http`: an HTTP request is answered as promised.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::address::{Port, ServiceName, locate};
use super::{Check, Verdict};
use crate::host::{ReadHost, http_client, shown};

/// Every probe ends within about ten seconds.
const TIMEOUT: Duration = Duration::from_secs(8);
/// More of a body is not read.
const LARGEST_BODY: usize = 8 * 1024 * 1024;
/// Of a body in a verdict.
const EXCERPT: usize = 200;

/// A request from the host is answered with the expected status within 8 seconds, and with the expected content.
///
/// ```yaml
/// - http: { service: mlops/inference, port: 8000, path: /readyz }
/// - http: { url: "https://127.0.0.1:6443/livez", status: [200, 401] }
/// - http:
///     service: mlops/inference
///     path: /predict
///     method: POST
///     body: { features: [1, 2, 3] }
///     json: { pointer: /is_stub, equals: false }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Http {
    /// The address; this or `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// A Kubernetes Service, reached by its cluster address; this or `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<ServiceName>,
    /// Port of the Service, by number or name. May be left out when it has a single one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<Port>,
    /// Path (and query) at the Service. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Default: `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// Headers of the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    header: BTreeMap<String, String>,
    /// Body of the request: a text is sent as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    /// Expected status, or a list of them. Default: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<OneOrMany<u16>>,
    /// Text that the answer must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    contains: Option<String>,
    /// What the answer, read as JSON, must hold: one condition, or a list of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    json: Option<OneOrMany<Condition>>,
}

/// One value, or a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "one value, or a list of them")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A value in a JSON document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Condition {
    /// Where: a JSON Pointer, such as `/data/0/name`.
    pointer: String,
    /// What must be there. Without it, only that something is there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "also_null")]
    #[schemars(with = "Value")]
    equals: Option<Value>,
}

/// `equals: null` is a condition, too.
fn also_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Http {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let http = Self::deserialize(deserializer)?;
        http.validate().map_err(D::Error::custom)?;
        Ok(http)
    }
}

impl Serialize for Http {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl Http {
    fn validate(&self) -> Result<(), String> {
        match (&self.url, &self.service) {
            (Some(url), None) => {
                let url = Url::parse(url).map_err(|error| format!("{url:?} is no URL: {error}"))?;
                if !matches!(url.scheme(), "http" | "https") {
                    return Err(format!("{:?} is neither http nor https", shown(&url)));
                }
                if self.port.is_some() || self.path.is_some() {
                    return Err("`port` and `path` belong to a `service`; a `url` holds them".into());
                }
            }
            (None, Some(_)) => {}
            _ => return Err("needs one of `url` and `service`".into()),
        }
        if self.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err("`path` must begin with `/`".into());
        }
        for condition in self.conditions() {
            if !condition.pointer.is_empty() && !condition.pointer.starts_with('/') {
                return Err(format!("the pointer {:?} must begin with `/`", condition.pointer));
            }
        }
        self.parsed_method()?;
        self.headers()?;
        Ok(())
    }

    fn parsed_method(&self) -> Result<Method, String> {
        let method = self.method.as_deref().unwrap_or("GET");
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        match Method::from_bytes(method.as_bytes()) {
            Ok(parsed) if known.contains(&method) => Ok(parsed),
            _ => Err(format!("the method {method:?} is none of {}", known.join(", "))),
        }
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.header {
            // The value may be a secret.
            let bad = || format!("the header {name:?} or its value cannot be sent");
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            headers.insert(parsed, HeaderValue::from_str(value).map_err(|_| bad())?);
        }
        Ok(headers)
    }

    fn conditions(&self) -> &[Condition] {
        self.json.as_ref().map_or(&[], OneOrMany::as_slice)
    }

    async fn located(&self, host: &dyn ReadHost) -> Result<Result<Url, String>> {
        let Some(service) = &self.service else {
            return Ok(Ok(Url::parse(self.url.as_deref().unwrap_or_default())?));
        };
        Ok(match locate(host, service, self.port.as_ref()).await? {
            Err(reason) => Err(reason),
            Ok((ip, port)) => {
                // An IPv6 address stands in brackets.
                let ip = if ip.contains(':') { format!("[{ip}]") } else { ip };
                let path = self.path.as_deref().unwrap_or("/");
                Ok(Url::parse(&format!("http://{ip}:{port}{path}"))?)
            }
        })
    }

    async fn probe(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let url = match self.located(host).await? {
            Ok(url) => url,
            Err(reason) => return Ok(Verdict::fail(reason)),
        };
        let method = self.parsed_method().map_err(anyhow::Error::msg)?;
        let asked = format!("{method} {}", shown(&url));
        let headers = self.headers().map_err(anyhow::Error::msg)?;
        let typed = headers.contains_key(CONTENT_TYPE);
        let mut request = client()?.request(method, url).headers(headers);
        request = match &self.body {
            None => request,
            Some(Value::String(text)) => request.body(text.clone()),
            Some(value) => {
                let request = request.body(value.to_string());
                if typed { request } else { request.header(CONTENT_TYPE, "application/json") }
            }
        };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Verdict::fail(format!("{asked}: {}", reason(error)))),
        };
        let status = response.status().as_u16();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() < LARGEST_BODY => body.extend_from_slice(&chunk),
                Ok(_) => break,
                Err(error) => {
                    return Ok(Verdict::fail(format!("{asked} answered {status}, then broke off: {}", reason(error))));
                }
            }
        }
        Ok(self.judge(&asked, status, &String::from_utf8_lossy(&body)))
    }

    fn judge(&self, asked: &str, status: u16, body: &str) -> Verdict {
        let expected = self.status.as_ref().map_or(&[200][..], OneOrMany::as_slice);
        let fail = |what: String| Verdict::fail(format!("{asked} answered {status}{what}: {}", excerpt(body)));
        if !expected.contains(&status) {
            let expected: Vec<String> = expected.iter().map(u16::to_string).collect();
            return fail(format!(", expected {}", expected.join(" or ")));
        }
        if let Some(text) = &self.contains
            && !body.contains(text)
        {
            return fail(format!(" without {text:?}"));
        }
        if !self.conditions().is_empty() {
            let Ok(document) = serde_json::from_str::<Value>(body) else {
                return fail(", which is not JSON".into());
            };
            for Condition { pointer, equals } in self.conditions() {
                match (document.pointer(pointer), equals) {
                    (None, _) => return fail(format!(" without {pointer}")),
                    (Some(found), Some(expected)) if !equal(found, expected) => {
                        let found = excerpt(&found.to_string());
                        return fail(format!(" with {pointer} = {found}, expected {expected}"));
                    }
                    _ => {}
                }
            }
        }
        Verdict::pass(format!("{asked} answered {status}"))
    }
}

/// Equal as JSON means it: 1 and 1.0 are the same number.
fn equal(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => found == expected,
    }
}

/// The first characters of a text, in one line.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return "(empty)".into();
    }
    match line.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Why no answer came, without the address (which the caller names without its secrets).
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let error = error.without_url();
    let mut deepest = error.source();
    while let Some(next) = deepest.and_then(std::error::Error::source) {
        deepest = Some(next);
    }
    deepest.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Never by a proxy, and every probe by a connection of its own: what is proved is this host and now.
fn client() -> Result<&'static Client> {
    static CLIENT: LazyLock<reqwest::Result<Client>> =
        LazyLock::new(|| http_client().timeout(TIMEOUT).no_proxy().pool_max_idle_per_host(0).build());
    CLIENT.as_ref().context("cannot start an HTTP client")
}

#[async_trait]
impl Check for Http {
    const KIND: &'static str = "http";

    fn name(&self) -> String {
        let method = self.method.as_deref().unwrap_or("GET");
        let port = self.port.as_ref().map_or_else(String::new, |port| format!(":{port}"));
        match (&self.service, &self.url) {
            (Some(service), _) => {
                let path = self.path.as_deref().unwrap_or("/");
                let path = path.split('?').next().unwrap_or(path);
                format!("{method} http://{service}{port}{path}")
            }
            (None, url) => {
                let url = url.as_deref().unwrap_or_default();
                let url = Url::parse(url).map_or_else(|_| url.to_owned(), |url| shown(&url));
                format!("{method} {url}")
            }
        }
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        // The cluster is asked before, which takes time, too.
        match tokio::time::timeout(TIMEOUT + Duration::from_secs(1), self.probe(host)).await {
            Ok(verdict) => verdict,
            Err(_) => Ok(Verdict::fail(format!("{}: no answer within {} s", self.name(), TIMEOUT.as_secs() + 1))),
        }
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
