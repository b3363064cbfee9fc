//! `tcp`: something accepts connections.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use tokio::net::TcpStream;

use super::address::{Port, ServiceName, locate};
use super::{Check, Verdict};
use crate::host::ReadHost;

/// How long a connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An address accepts a TCP connection within 5 seconds, seen from the host.
///
/// ```yaml
/// - tcp: { address: 127.0.0.1, port: 6443 }
/// - tcp: { service: mlops/postgres, port: 5432 }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Tcp {
    /// Address or name of a machine; this or `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// A Kubernetes Service, reached by its cluster address; this or `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<ServiceName>,
    /// Port: a number; of a Service also its name. May be left out for a Service with a single port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<Port>,
}

impl<'de> Deserialize<'de> for Tcp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut tcp = Self::deserialize(deserializer)?;
        match (&tcp.address, &tcp.service, &tcp.port) {
            (Some(_), None, Some(Port::Number(_))) | (None, Some(_), _) => Ok(tcp),
            (Some(_), None, Some(Port::Name(text))) => match text.parse() {
                Ok(number) => {
                    tcp.port = Some(Port::Number(number));
                    Ok(tcp)
                }
                Err(_) => Err(D::Error::custom(format!("{text:?} is no port number"))),
            },
            (Some(_), None, None) => Err(D::Error::custom("an `address` needs a `port`")),
            _ => Err(D::Error::custom("needs one of `address` and `service`")),
        }
    }
}

impl Serialize for Tcp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

#[async_trait]
impl Check for Tcp {
    const KIND: &'static str = "tcp";

    fn name(&self) -> String {
        let port = self.port.as_ref().map_or_else(String::new, |port| format!(":{port}"));
        match (&self.address, &self.service) {
            (Some(address), _) => format!("TCP {address}{port}"),
            (None, Some(service)) => format!("TCP {service}{port}"),
            (None, None) => format!("TCP{port}"),
        }
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let target = match (&self.address, &self.service, &self.port) {
            (_, Some(service), port) => {
                match tokio::time::timeout(TIMEOUT, locate(host, service, port.as_ref())).await {
                    Ok(located) => located?,
                    Err(_) => Err("the Kubernetes API server did not answer within 5 s".into()),
                }
            }
            (Some(address), _, Some(Port::Number(port))) => Ok((address.clone(), *port)),
            _ => Err("it was not said where".into()),
        };
        let (address, port) = match target {
            Ok(target) => target,
            Err(reason) => return Ok(Verdict::fail(reason)),
        };
        let connect = TcpStream::connect((address.as_str(), port));
        Ok(match tokio::time::timeout(TIMEOUT, connect).await {
            Ok(Ok(_)) => Verdict::pass(format!("{address}:{port} accepts connections")),
            Ok(Err(error)) => Verdict::fail(format!("{address}:{port} does not accept connections: {error}")),
            Err(_) => Verdict::fail(format!("{address}:{port} did not answer within 5 s")),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checks::Status;
    use crate::host::fake::FakeHost;

    fn tcp(json: serde_json::Value) -> Tcp {
        serde_json::from_value(json).unwrap()
    }

    #[tokio::test]
    async fn open_and_closed_ports() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let check = tcp(serde_json::json!({"address": "127.0.0.1", "port": port.to_string()}));
        assert_eq!(check.name(), format!("TCP 127.0.0.1:{port}"));
        let verdict = check.run(&FakeHost::new()).await.unwrap();
        assert_eq!(verdict, Verdict::pass(format!("127.0.0.1:{port} accepts connections")));
        drop(listener);
        let verdict = check.run(&FakeHost::new()).await.unwrap();
        assert_eq!(verdict.status, Status::Fail);
        assert!(verdict.detail.contains("onnection refused"), "{}", verdict.detail);
    }

    #[tokio::test]
    async fn a_service_without_a_cluster_fails() {
        let check = tcp(serde_json::json!({"service": "mlops/postgres", "port": "sql"}));
        assert_eq!(check.name(), "TCP mlops/postgres:sql");
        let verdict = check.run(&FakeHost::new()).await.unwrap();
        assert_eq!(verdict.status, Status::Fail);
        assert!(verdict.detail.starts_with("Kubernetes cannot be asked"));
        let again: Tcp = serde_json::from_value(serde_json::to_value(&check).unwrap()).unwrap();
        assert_eq!(again, check);
    }

    #[test]
    fn specs_that_make_no_sense_are_refused() {
        for (json, reason) in [
            (r#"{"port": 1}"#, "needs one of `address` and `service`"),
            (r#"{"address": "a", "service": "b/c", "port": 1}"#, "needs one of"),
            (r#"{"address": "a"}"#, "an `address` needs a `port`"),
            (r#"{"address": "a", "port": "http"}"#, "\"http\" is no port number"),
            (r#"{"address": "a", "prot": 1}"#, "unknown field `prot`"),
            (r#"{"service": "x", "port": 1}"#, "\"x\" is no service"),
        ] {
            let error = serde_json::from_str::<Tcp>(json).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
