//! Reaching an S3 server that runs in the cluster, from the host, through the address of its Service.
//!
//! A [`Client`] only reads, a [`Writer`] changes. Requests are signed with AWS Signature Version 4 in their headers, over the
//! whole body: MinIO's admin interface (see [`super::minio`]) accepts nothing else.

pub mod bucket;
pub mod object;
pub mod policy;

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::error::Error as ClusterError;
use super::object::ObjectRef;
use super::postgres::ServiceName;
use super::read::Reader;
use crate::host::{ReadHost, WriteHost};

/// No request takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The port of the API where the Service does not say: MinIO's.
const PORT: u16 = 9000;

/// What servers without regions call theirs.
const REGION: &str = "us-east-1";

/// Keys of an administrator in its Secret, as the image names them.
const SECRET_KEYS: (&str, &str) = ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD");

/// Why a request had no success.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// What is needed does not exist yet: the cluster, the Service, the Secret.
    #[error("{0}")]
    Missing(String),
    /// The server does not answer or is starting.
    #[error("service {service} does not answer: {reason}")]
    NotAnswering { service: String, reason: String },
    /// The server refuses.
    #[error("service {service}: {what}: {message} ({code})")]
    Refused {
        service: String,
        /// What was asked: `GET /thesis-data`.
        what: String,
        /// The server's word for it: `AccessDenied`.
        code: String,
        message: String,
    },
    /// The server answers, but not with what the protocol says.
    #[error("service {service}: {what}: {reason}")]
    Unexpected { service: String, what: String, reason: String },
    #[error(transparent)]
    Cluster(ClusterError),
}

impl Error {
    /// The server's word for what it refuses.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether an earlier step, or a moment of patience, will mend it.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Missing(_) | Self::NotAnswering { .. } => true,
            Self::Refused { .. } | Self::Unexpected { .. } => false,
            Self::Cluster(error) => error.is_unreachable(),
        }
    }

    /// The server does not know the access key, or has another secret key for it.
    pub fn is_wrong_key(&self) -> bool {
        matches!(self.code(), Some("InvalidAccessKeyId" | "SignatureDoesNotMatch"))
    }
}

/// Whom to ask as.
#[derive(Clone, Copy)]
pub enum Keys<'a> {
    Given {
        access_key: &'a str,
        secret_key: &'a str,
    },
    /// `MINIO_ROOT_USER` and `MINIO_ROOT_PASSWORD` of the Secret of this name in the namespace of the service.
    OfSecret(&'a str),
}

/// Where, and whom to ask as.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    pub service: &'a ServiceName,
    pub keys: Keys<'a>,
}

/// Asks an S3 server without changing anything.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// `http://10.43.7.9:9000`.
    base: String,
    service: String,
    access_key: String,
    secret_key: String,
}

/// Changes what is in an S3 server.
#[derive(Clone)]
pub struct Writer(Client);

impl std::ops::Deref for Writer {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl Writer {
    /// # Errors
    /// As [`Access::connect_patiently`].
    pub async fn connect(access: Access<'_>, host: &dyn WriteHost, patience: Duration) -> Result<Self, Error> {
        access.connect_patiently(host.as_read(), patience).await.map(Self)
    }

    /// For a check, whose promise is that writing works: it removes what it wrote.
    ///
    /// # Errors
    /// As [`Access::connect`].
    pub async fn for_probe(access: Access<'_>, host: &dyn ReadHost) -> Result<Self, Error> {
        access.connect(host).await.map(Self)
    }
}

impl Access<'_> {
    /// Finds the server. Asks it nothing yet.
    ///
    /// # Errors
    /// What is missing.
    pub async fn connect(&self, host: &dyn ReadHost) -> Result<Client, Error> {
        let reader = host.cluster().await.map_err(|unavailable| Error::Missing(unavailable.reason))?;
        let (address, port) = self.locate(&reader).await?;
        let (access_key, secret_key) = match self.keys {
            Keys::Given { access_key, secret_key } => (access_key.to_owned(), secret_key.to_owned()),
            Keys::OfSecret(name) => keys_of_secret(&reader, &self.service.namespace, name).await?,
        };
        // An address inside the cluster is never behind a proxy.
        let http =
            crate::host::http_client().no_proxy().timeout(TIMEOUT).build().map_err(|error| Error::Unexpected {
                service: self.service.to_string(),
                what: "making an HTTP client".into(),
                reason: super::error::root_cause(&error),
            })?;
        let base = format!("http://{address}:{port}");
        Ok(Client { http, base, service: self.service.to_string(), access_key, secret_key })
    }

    /// Finds the server and asks it who we are, again for `patience` while that may help.
    ///
    /// # Errors
    /// The last reason.
    pub async fn connect_patiently(&self, host: &dyn ReadHost, patience: Duration) -> Result<Client, Error> {
        let started = tokio::time::Instant::now();
        loop {
            let outcome = match self.connect(host).await {
                Ok(client) => client.greet().await.map(|()| client),
                Err(error) => Err(error),
            };
            match outcome {
                // What does not exist will not exist in a moment either.
                Err(error @ Error::NotAnswering { .. }) if started.elapsed() < patience => {
                    host.progress(&format!("waiting for the object store: {error}"));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                other => return other,
            }
        }
    }

    async fn locate(&self, reader: &Reader) -> Result<(String, u16), Error> {
        let service = self.service;
        let address = reader
            .service_address(&service.namespace, &service.name)
            .await
            .map_err(Error::Cluster)?
            .ok_or_else(|| Error::Missing(format!("needs service {service}")))?;
        let port = match service.port {
            Some(port) => address.port(Some(&port.to_string())),
            None => address.port(Some(&PORT.to_string())).or_else(|| address.port(None)),
        };
        let port = port.ok_or_else(|| {
            let ports: Vec<String> = address.ports.iter().map(|(_, number)| number.to_string()).collect();
            Error::Unexpected {
                service: service.to_string(),
                what: "its ports".into(),
                reason: format!("it has {}; write `{}/{}:PORT`", ports.join(", "), service.namespace, service.name),
            }
        })?;
        Ok((address.ip, port))
    }
}

async fn keys_of_secret(reader: &Reader, namespace: &str, name: &str) -> Result<(String, String), Error> {
    let object = ObjectRef::new("v1", "Secret", Some(namespace), name);
    let secret = reader.get(&object).await.map_err(Error::Cluster)?;
    let value = |key: &str| {
        let encoded = secret.as_ref()?.pointer(&format!("/data/{key}")).and_then(Value::as_str)?;
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).ok()?).ok()
    };
    let value = |key: &str| {
        value(key).ok_or_else(|| Error::Missing(format!("needs key {key} of secret {namespace}/{name} (as text)")))
    };
    Ok((value(SECRET_KEYS.0)?, value(SECRET_KEYS.1)?))
}

/// One request. Path and query are not encoded yet.
#[derive(Default)]
pub(super) struct Request<'a> {
    pub method: Method,
    /// `/bucket/key`.
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    pub headers: &'a [(&'static str, &'a str)],
    pub body: Vec<u8>,
}

/// What came back.
pub(crate) struct Answer {
    pub body: Vec<u8>,
    /// `x-amz-version-id`.
    pub version: Option<String>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An error document: XML of S3, JSON of MinIO's admin interface.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Client {
    /// Asks whether the server answers and knows our key.
    async fn greet(&self) -> Result<(), Error> {
        match self.get("/", &[]).await {
            // A known key that may not list buckets.
            Err(error) if error.code() == Some("AccessDenied") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, Error> {
        self.send(Request { path, query, ..Request::default() }).await
    }

    /// Signs and sends. Only [`Writer`] asks with another method than GET.
    async fn send(&self, request: Request<'_>) -> Result<Answer, Error> {
        let what = format!("{} {}", request.method, request.path);
        let unexpected =
            |reason: String| Error::Unexpected { service: self.service.clone(), what: what.clone(), reason };
        let not_answering = |reason: String| Error::NotAnswering { service: self.service.clone(), reason };
        let url = self.url(request.path, request.query);
        let mut http = self.http.request(request.method.clone(), &url);
        for (name, value) in self.signature(&url, &request).map_err(unexpected)? {
            http = http.header(name, value);
        }
        for (name, value) in request.headers {
            http = http.header(*name, *value);
        }
        let answer = http.body(request.body).send().await.map_err(|error| {
            let reason = if error.is_timeout() {
                format!("no answer within {} s", TIMEOUT.as_secs())
            } else {
                super::error::root_cause(&error)
            };
            not_answering(reason)
        })?;
        let status = answer.status();
        let version = answer.headers().get("x-amz-version-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = answer.bytes().await.map_err(|error| not_answering(super::error::root_cause(&error)))?.to_vec();
        if status.is_success() {
            return Ok(Answer { body, version });
        }
        let text = String::from_utf8_lossy(&body);
        let refusal: Refusal =
            serde_json::from_str(&text).ok().or_else(|| quick_xml::de::from_str(&text).ok()).unwrap_or_default();
        let starting = status.as_u16() == 503
            || matches!(refusal.code.as_str(), "XMinioServerNotInitialized" | "XMinioStorageResourceInsufficientRead");
        if starting {
            let why = if refusal.message.is_empty() { status.to_string() } else { refusal.message };
            return Err(not_answering(why));
        }
        if refusal.code.is_empty() {
            return Err(unexpected(format!("HTTP {status}")));
        }
        Err(Error::Refused { service: self.service.clone(), what, code: refusal.code, message: refusal.message })
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> String {
        let mut url = format!("{}{}", self.base, encoded(path, true));
        for (index, (name, value)) in query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(&format!("{}={}", encoded(name, false), encoded(value, false)));
        }
        url
    }

    /// The headers that sign a request.
    fn signature(&self, url: &str, request: &Request<'_>) -> Result<Vec<(String, String)>, String> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity =
            Credentials::new(self.access_key.clone(), self.secret_key.clone(), None, None, "provision").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|error| error.to_string())?;
        let body = SignableBody::Bytes(&request.body);
        let signable = SignableRequest::new(request.method.as_str(), url, request.headers.iter().copied(), body)
            .map_err(|error| error.to_string())?;
        let signed = sign(signable, &params.into()).map_err(|error| error.to_string())?;
        let (instructions, _) = signed.into_parts();
        Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    pub(super) fn unexpected(&self, what: &str, reason: impl std::fmt::Display) -> Error {
        Error::Unexpected { service: self.service.clone(), what: what.to_owned(), reason: reason.to_string() }
    }

    /// The administrator's secret key, which MinIO's admin interface wants bodies sealed with.
    pub(super) fn secret_key(&self) -> &str {
        &self.secret_key
    }
}

impl Writer {
    pub(crate) async fn put(&self, path: &str, query: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, Error> {
        // Configurations of buckets must come with a checksum.
        let checksum =
            base64::engine::general_purpose::STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, &body));
        let headers = [("x-amz-checksum-sha256", checksum.as_str())];
        self.send(Request { method: Method::PUT, path, query, headers: &headers, body }).await
    }

    pub(super) async fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, Error> {
        self.send(Request { method: Method::DELETE, path, query, ..Request::default() }).await
    }
}

/// As S3 wants it: everything but letters, digits and `-._~` as %XX; a slash of a path stays.
fn encoded(text: &str, path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (path && byte == b'/') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
