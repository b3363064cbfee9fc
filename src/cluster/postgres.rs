//! Reaching a PostgreSQL server that runs in the cluster, from the host, through the address of its Service.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::error::Error as ClusterError;
use super::object::ObjectRef;
use super::read::Reader;
pub use super::scram::{matches as password_matches, new_verifier};
use crate::host::ReadHost;

/// No connection attempt takes longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// No statement takes longer; milliseconds.
const STATEMENT_TIMEOUT: u32 = 30_000;

const PORT: u16 = 5432;

/// Key of the administrator's password in its Secret, as the official image names it.
const PASSWORD_KEY: &str = "POSTGRES_PASSWORD";

/// A Service: `mlops/postgres`, or `mlops/postgres:5433` for one with several ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
    pub port: Option<u16>,
}

impl TryFrom<String> for ServiceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a service: write `namespace/name` or `namespace/name:port`");
        let (namespace, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| wrong())?)),
            None => (rest, None),
        };
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(wrong());
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port })
    }
}

impl From<ServiceName> for String {
    fn from(service: ServiceName) -> Self {
        service.to_string()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl schemars::JsonSchema for ServiceName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ServiceName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A Service of the cluster: `namespace/name` or `namespace/name:port`.",
            "type": "string",
            "pattern": "^[^/:]+/[^/:]+(:[0-9]+)?$",
            "examples": ["mlops/postgres"]
        })
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// What is needed does not exist yet: the cluster, the Service, the Secret.
    #[error("{0}")]
    Missing(String),
    /// The server does not answer or is starting.
    #[error("service {service} does not answer: {reason}")]
    NotAnswering { service: String, reason: String },
    /// The server refuses the password.
    #[error("service {service}: {message}{hint}")]
    WrongPassword { service: String, message: String, hint: String },
    /// The server refuses for another reason: no such database.
    #[error("service {service}: {message}{hint}")]
    Refused { service: String, message: String, hint: String },
    #[error(transparent)]
    Cluster(ClusterError),
}

impl ConnectError {
    /// Whether an earlier step, or a moment of patience, will mend it.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Missing(_) | Self::NotAnswering { .. } => true,
            Self::WrongPassword { .. } | Self::Refused { .. } => false,
            Self::Cluster(error) => error.is_unreachable(),
        }
    }
}

/// Whom to connect as.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    pub service: &'a ServiceName,
    pub user: &'a str,
    /// `None`: the value of `POSTGRES_PASSWORD` in `secret`.
    pub password: Option<&'a str>,
    /// Name of a Secret in the namespace of the service.
    pub secret: &'a str,
    /// Refuses statements that would change anything.
    pub read_only: bool,
}

/// A connection; closed when dropped.
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Access<'_> {
    /// Connects to `database`.
    ///
    /// # Errors
    /// Why there is no connection; [`ConnectError::may_pass`] tells what to do about it.
    pub async fn connect(&self, host: &dyn ReadHost, database: &str) -> Result<Session, ConnectError> {
        let reader = host.cluster().await.map_err(|unavailable| ConnectError::Missing(unavailable.reason))?;
        let (address, port) = self.locate(&reader).await?;
        let password = match self.password {
            Some(password) => password.to_owned(),
            None => self.password_from_secret(&reader).await?,
        };
        let mut config = Config::new();
        config
            .host(&address)
            .port(port)
            .user(self.user)
            .password(password)
            .dbname(database)
            .application_name("provision")
            .connect_timeout(CONNECT_TIMEOUT)
            .options(format!(
                "-c statement_timeout={STATEMENT_TIMEOUT} -c default_transaction_read_only={}",
                if self.read_only { "on" } else { "off" }
            ));
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls)).await;
        match answer {
            Ok(Ok((client, connection))) => Ok(Session {
                client,
                driver: tokio::spawn(async move {
                    // What goes wrong with the connection shows in the next statement.
                    let _ = connection.await;
                }),
            }),
            Ok(Err(error)) => Err(self.refused(&error, database)),
            Err(_) => Err(self.not_answering(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    /// Connects, trying again for `patience` while that may help.
    ///
    /// # Errors
    /// The last reason.
    pub async fn connect_patiently(
        &self,
        host: &dyn ReadHost,
        database: &str,
        patience: Duration,
    ) -> Result<Session, ConnectError> {
        let started = tokio::time::Instant::now();
        loop {
            match self.connect(host, database).await {
                Err(error) if error.may_pass() && started.elapsed() < patience => {
                    host.progress(&format!("waiting for PostgreSQL: {error}"));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                other => return other,
            }
        }
    }

    async fn locate(&self, reader: &Reader) -> Result<(String, u16), ConnectError> {
        let service = self.service;
        let address = reader
            .service_address(&service.namespace, &service.name)
            .await
            .map_err(ConnectError::Cluster)?
            .ok_or_else(|| ConnectError::Missing(format!("needs service {service}")))?;
        let wanted = service.port.map(|port| port.to_string());
        let port =
            address.port(wanted.as_deref()).or_else(|| address.port(Some(&PORT.to_string()))).ok_or_else(|| {
                let ports: Vec<String> = address.ports.iter().map(|(_, n)| n.to_string()).collect();
                ConnectError::Refused {
                    service: service.to_string(),
                    message: format!("it has no such port (it has {})", ports.join(", ")),
                    hint: format!("\n  hint: write `{}/{}:PORT`", service.namespace, service.name),
                }
            })?;
        Ok((address.ip, port))
    }

    async fn password_from_secret(&self, reader: &Reader) -> Result<String, ConnectError> {
        use base64::Engine as _;
        let namespace = &self.service.namespace;
        let secret = ObjectRef::new("v1", "Secret", Some(namespace), self.secret);
        let place = format!("key {PASSWORD_KEY} of secret {namespace}/{}", self.secret);
        let value = reader
            .get(&secret)
            .await
            .map_err(ConnectError::Cluster)?
            .as_ref()
            .and_then(|secret| secret.pointer(&format!("/data/{PASSWORD_KEY}")))
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| ConnectError::Missing(format!("needs {place} (or `admin_password`)")))?;
        base64::engine::general_purpose::STANDARD
            .decode(value)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| ConnectError::Refused {
                service: self.service.to_string(),
                message: format!("{place} is not text"),
                hint: String::new(),
            })
    }

    fn not_answering(&self, reason: String) -> ConnectError {
        ConnectError::NotAnswering { service: self.service.to_string(), reason }
    }

    fn refused(&self, error: &tokio_postgres::Error, database: &str) -> ConnectError {
        let Some(answer) = error.as_db_error() else {
            // Refused, reset, or closed while the server starts.
            return self.not_answering(super::error::root_cause(error));
        };
        let starting = [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::TOO_MANY_CONNECTIONS];
        if starting.contains(answer.code()) {
            return self.not_answering(answer.message().to_owned());
        }
        let service = self.service.to_string();
        if *answer.code() == SqlState::INVALID_PASSWORD {
            let hint = format!(
                "\n  hint: the data directory keeps the password it was first made with; declare `postgres_superuser` (or \
                 `postgres_role`) before it, or change it in the server: ALTER ROLE {} PASSWORD ...",
                quote_name(self.user)
            );
            return ConnectError::WrongPassword { service, message: answer.message().to_owned(), hint };
        }
        let hint = match answer.code() {
            code if *code == SqlState::INVALID_CATALOG_NAME => {
                format!("\n  hint: declare `postgres_database` {database:?} before it")
            }
            _ => String::new(),
        };
        ConnectError::Refused { service, message: answer.message().to_owned(), hint }
    }
}

/// What a statement failed with, as the server says it. The statement itself is not part of it.
pub fn sql_error(what: &str, error: &tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(answer) => anyhow::anyhow!("{what}: {} ({})", answer.message(), answer.code().code()),
        None => anyhow::anyhow!("{what}: {}", super::error::root_cause(error)),
    }
}

/// An identifier in a statement.
pub fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string in a statement (`standard_conforming_strings` is on since PostgreSQL 9.1).
pub fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What is wrong with the name of a role or a database, if anything is.
pub fn name_fault(what: &str, name: &str) -> Option<String> {
    if name.is_empty() {
        return Some(format!("the {what} has no name"));
    }
    // NAMEDATALEN - 1: the server would cut it off, and never find it again under the full name.
    if name.len() > 63 {
        return Some(format!("the {what} {name:?} is longer than 63 bytes"));
    }
    name.contains('\0').then(|| format!("the name of the {what} holds a zero byte"))
}

/// Where PostgreSQL's own tools are on Debian, for tests that start a server.
#[cfg(test)]
pub fn server_tools() -> Option<std::path::PathBuf> {
    let mut versions: Vec<std::path::PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn service_names() {
        let parse = |text: &str| ServiceName::try_from(text.to_owned());
        let plain = parse("mlops/postgres").unwrap();
        assert_eq!((plain.namespace.as_str(), plain.name.as_str()), ("mlops", "postgres"));
        assert_eq!(parse("mlops/postgres:5433").unwrap().port, Some(5433));
        for wrong in ["postgres", "/postgres", "mlops/", "a/b/c", "a/b:x", "a/b:99999"] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains("write `namespace/name`"), "{error}");
        }
    }

    #[test]
    fn quoting() {
        assert_eq!(quote_name("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_text("it's"), "'it''s'");
        assert!(name_fault("role", &"x".repeat(64)).is_some());
        assert!(name_fault("role", "mlflow").is_none());
    }
}
