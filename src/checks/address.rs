//! Where a Kubernetes Service can be reached from the host.

use std::borrow::Cow;
use std::fmt;

use anyhow::Result;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::cluster::Reader;
use crate::host::ReadHost;

/// A Kubernetes Service: `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

impl TryFrom<String> for ServiceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is no service: write namespace/name, such as mlops/inference")),
        }
    }
}

impl From<ServiceName> for String {
    fn from(service: ServiceName) -> Self {
        service.to_string()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl JsonSchema for ServiceName {
    fn schema_name() -> Cow<'static, str> {
        "ServiceName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A Kubernetes Service: `namespace/name`.",
            "type": "string",
            "pattern": "^[^/]+/[^/]+$",
        })
    }
}

/// A port, by number or by its name in the Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a port: a number up to 65535, or its name in the Service")]
pub enum Port {
    Number(u16),
    Name(String),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What the cluster knows of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its cluster address, which can be reached from the host.
    pub ip: String,
    /// Its ports, with the names that they have.
    pub ports: Vec<(Option<String>, u16)>,
}

/// Host and port to connect to; `Err` of the inner result says why there is none.
///
/// # Errors
/// When the cluster does not answer.
pub async fn locate(
    host: &dyn ReadHost,
    service: &ServiceName,
    port: Option<&Port>,
) -> Result<Result<(String, u16), String>> {
    let cluster = match host.cluster().await {
        Ok(cluster) => cluster,
        Err(unavailable) => return Ok(Err(format!("Kubernetes cannot be asked: {unavailable}"))),
    };
    match ask(&cluster, service).await? {
        None => Ok(Err(format!("the Service {service} does not exist or has no cluster address"))),
        Some(found) => Ok(pick(&found, service, port)),
    }
}

/// The one place where the cluster module is asked for a Service.
async fn ask(cluster: &Reader, service: &ServiceName) -> Result<Option<Service>> {
    let found = cluster.service_address(&service.namespace, &service.name).await?;
    Ok(found.map(|found| Service { ip: found.ip, ports: found.ports }))
}

fn pick(found: &Service, service: &ServiceName, port: Option<&Port>) -> Result<(String, u16), String> {
    let number = match port {
        None => match found.ports.as_slice() {
            [(_, number)] => Some(*number),
            _ => None,
        },
        Some(port) => found
            .ports
            .iter()
            .find(|(name, number)| match port {
                Port::Number(wanted) => wanted == number,
                Port::Name(wanted) => name.as_ref() == Some(wanted) || *wanted == number.to_string(),
            })
            .map(|(_, number)| *number),
    };
    number.map(|number| (found.ip.clone(), number)).ok_or_else(|| {
        let has: Vec<String> = found
            .ports
            .iter()
            .map(|(name, number)| match name {
                Some(name) => format!("{name} ({number})"),
                None => number.to_string(),
            })
            .collect();
        let has = has.join(", ");
        match port {
            Some(port) => format!("the Service {service} has no port {port}; it has {has}"),
            None => format!("the Service {service} has not just one port; choose one of {has}"),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn service() -> ServiceName {
        ServiceName::try_from("mlops/inference".to_owned()).unwrap()
    }

    #[test]
    fn a_service_is_named_with_its_namespace() {
        assert_eq!(service().to_string(), "mlops/inference");
        for text in ["inference", "/x", "x/", "a/b/c"] {
            assert!(ServiceName::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_by_number_by_name_or_the_only_one() {
        let mut found =
            Service { ip: "10.43.0.7".into(), ports: vec![(Some("http".into()), 8000), (Some("grpc".into()), 8001)] };
        let pick = |found: &Service, port: Option<&str>| {
            let port = port.map(|it| it.parse().map_or(Port::Name(it.into()), Port::Number));
            pick(found, &service(), port.as_ref()).map(|(_, number)| number)
        };
        assert_eq!(pick(&found, Some("8001")), Ok(8001));
        assert_eq!(pick(&found, Some("http")), Ok(8000));
        assert_eq!(
            pick(&found, Some("9000")).unwrap_err(),
            "the Service mlops/inference has no port 9000; it has http (8000), grpc (8001)"
        );
        assert!(pick(&found, None).unwrap_err().contains("choose one of"));
        found.ports.pop();
        assert_eq!(pick(&found, None), Ok(8000));
    }

    #[tokio::test]
    async fn without_a_cluster_the_reason_is_told() {
        let found = locate(&FakeHost::new(), &service(), None).await.unwrap();
        assert_eq!(found.unwrap_err(), "Kubernetes cannot be asked: a fake host has no cluster");
    }
}
