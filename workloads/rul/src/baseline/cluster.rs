//! The ConfigMap in its cluster.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client, Config};

use super::publish::Documents;

const PATIENCE: Duration = Duration::from_secs(15);
/// Somebody else may write at the same moment.
const ATTEMPTS: usize = 3;

pub struct Cluster {
    maps: Api<ConfigMap>,
    namespace: String,
    name: String,
}

impl Cluster {
    /// The cluster that this runs in, else the one of KUBECONFIG.
    ///
    /// # Errors
    /// A sentence: no cluster is configured.
    pub async fn new(namespace: &str, name: &str) -> Result<Self, String> {
        let mut config = Config::infer()
            .await
            .map_err(|error| format!("no cluster is configured: {error}; set KUBECONFIG, or take --out FILE"))?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        let client = Client::try_from(config).map_err(|error| format!("the cluster cannot be asked: {error}"))?;
        Ok(Self { maps: Api::namespaced(client, namespace), namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Makes the ConfigMap say this; other keys, labels and annotations stay. Whether anything had to be written.
    ///
    /// # Errors
    /// A sentence.
    pub async fn publish(&self, documents: &Documents) -> Result<bool, String> {
        let mut attempt = 1;
        loop {
            let known = self.maps.get_opt(&self.name).await.map_err(|error| self.told(&error))?;
            if known.as_ref().is_some_and(|known| documents.same(known.data.as_ref())) {
                return Ok(false);
            }
            let sent = match known {
                None => {
                    let new = documents.manifest(&self.namespace, &self.name);
                    self.maps.create(&PostParams::default(), &new).await
                }
                // It carries the version that was read: what changed since then is not overwritten.
                Some(mut known) => {
                    known.data.get_or_insert_default().extend(documents.data());
                    known.metadata.annotations.get_or_insert_default().extend(documents.annotations());
                    self.maps.replace(&self.name, &PostParams::default(), &known).await
                }
            };
            match sent {
                Ok(_) => return Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(self.told(&error)),
            }
        }
    }

    fn told(&self, error: &kube::Error) -> String {
        match error {
            kube::Error::Api(status) if status.code == 403 => format!(
                "Kubernetes: {}; the account needs get, create and update on ConfigMaps in {}",
                status.message, self.namespace
            ),
            kube::Error::Api(status) if status.code == 404 => {
                format!("Kubernetes: {}; is there a namespace {:?}?", status.message, self.namespace)
            }
            kube::Error::Api(status) => format!("Kubernetes: {}", status.message),
            other => format!("Kubernetes: {other}"),
        }
    }
}
