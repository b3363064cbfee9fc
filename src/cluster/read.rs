//! Reading the cluster.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::core::dynamic::ApiResource;
use kube::core::params::{GetParams, ListParams, Patch, PatchParams, ValidationDirective};
use kube::core::request::Request;
use kube::core::subresource::LogParams;
use kube::core::{DynamicObject, GroupVersionKind, Resource as _};
use kube::discovery::{Discovery, Scope};
use serde_json::Value;
use tokio::sync::Mutex;

use super::error::{Error, Result};
use super::object::ObjectRef;
use super::owned::Owned;

/// The name under which this program owns fields.
pub(super) const FIELD_MANAGER: &str = "provision";

/// No request takes longer, else the server counts as unreachable.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the cluster; nothing it offers changes a stored object (a server-side dry run is reading).
#[derive(Clone)]
pub struct Reader {
    client: Client,
    shared: Arc<Shared>,
}

/// What all clones of one reader know together.
#[derive(Default)]
struct Shared {
    discovery: Mutex<Option<Arc<Discovery>>>,
    owned: Mutex<Option<Vec<Owned>>>,
}

/// Where a Service can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddress {
    /// Its cluster address, which kube-proxy serves on the host as well.
    pub ip: String,
    /// Name (if it has one) and number of each port.
    pub ports: Vec<(Option<String>, u16)>,
}

impl ServiceAddress {
    /// The port of this name, else the port of this number, else the only port.
    pub fn port(&self, wanted: Option<&str>) -> Option<u16> {
        match wanted {
            Some(wanted) => self
                .ports
                .iter()
                .find(|(name, number)| name.as_deref() == Some(wanted) || number.to_string() == wanted)
                .map(|(_, number)| *number),
            None => match self.ports.as_slice() {
                [(_, number)] => Some(*number),
                _ => None,
            },
        }
    }
}

impl Reader {
    pub fn new(client: Client) -> Self {
        Self { client, shared: Arc::default() }
    }

    /// Asks the server whether it is ready to serve.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) async fn ping(&self, timeout: Duration) -> Result<()> {
        let request = Request::new("")
            .get("readyz", &GetParams::default())
            .map_err(|error| Error::Unreachable(error.to_string()))?;
        match tokio::time::timeout(timeout, self.client.request_text(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code >= 500 => {
                Err(Error::Unreachable(unready_parts(&status.message)))
            }
            Ok(Err(error)) => Err(Error::about_server(&error)),
            Err(_) => Err(Error::Unreachable(format!("no answer within {} s", timeout.as_secs()))),
        }
    }

    /// An object as it is; `None` when there is none.
    ///
    /// # Errors
    /// When the server does not answer, refuses, or does not know the kind.
    pub async fn get(&self, object: &ObjectRef) -> Result<Option<Value>> {
        let (url, _) = self.url(object).await?;
        let request = built(Request::new(url).get(&object.name, &GetParams::default()))?;
        match self.send(object, self.client.request::<Value>(request)).await {
            Ok(value) => Ok(Some(value)),
            Err(Error::Rejected { code: 404, .. } | Error::NamespaceMissing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Objects of a kind, in one namespace or in all, by label (`app=inference`; empty for all).
    ///
    /// # Errors
    /// When the server does not answer, refuses, or does not know the kind.
    pub async fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        labels: &str,
    ) -> Result<Vec<Value>> {
        let mut params = ListParams::default();
        if !labels.is_empty() {
            params = params.labels(labels);
        }
        self.list_with(api_version, kind, namespace, &params).await
    }

    async fn list_with(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        params: &ListParams,
    ) -> Result<Vec<Value>> {
        let (resource, _) = self.resource(api_version, kind).await?;
        let what = ObjectRef::new(api_version, kind, namespace, "(list)");
        let url = DynamicObject::url_path(&resource, namespace);
        let request = built(Request::new(url).list(params))?;
        let mut list: Value = self.send(&what, self.client.request(request)).await?;
        let mut items = match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        // Items of a list do not repeat what the list says.
        for item in &mut items {
            if let Some(map) = item.as_object_mut() {
                map.insert("apiVersion".into(), api_version.into());
                map.insert("kind".into(), kind.into());
            }
        }
        Ok(items)
    }

    /// What the server would store if `desired` were applied. With `force`, fields that others own are taken over.
    ///
    /// # Errors
    /// What the apply would fail with: a conflict, a field that does not exist, a namespace that does not exist...
    pub async fn dry_run_apply(&self, desired: &Value, force: bool) -> Result<Value> {
        self.patch(desired, force, true).await
    }

    /// Server-side apply. Only [`super::Writer`] calls it without `dry_run`.
    pub(super) async fn patch(&self, desired: &Value, force: bool, dry_run: bool) -> Result<Value> {
        let object = ObjectRef::of(desired).map_err(|error| Error::Rejected {
            object: "manifest".into(),
            code: 400,
            message: error.to_string(),
        })?;
        let (url, _) = self.url(&object).await?;
        let params = PatchParams {
            dry_run,
            force,
            field_manager: Some(FIELD_MANAGER.into()),
            field_validation: Some(ValidationDirective::Strict),
        };
        let request = built(Request::new(url).patch(&object.name, &params, &Patch::Apply(desired)))?;
        self.send(&object, self.client.request(request)).await
    }

    /// Where a Service can be reached from the host; `None` when it does not exist or has no cluster address.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn service_address(&self, namespace: &str, name: &str) -> Result<Option<ServiceAddress>> {
        let object = ObjectRef::new("v1", "Service", Some(namespace), name);
        Ok(self.get(&object).await?.as_ref().and_then(address_of))
    }

    /// All Services with a cluster address, as (namespace, name, address).
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn service_addresses(&self) -> Result<Vec<(String, String, ServiceAddress)>> {
        let services = self.list("v1", "Service", None, "").await?;
        let named = |service: &Value| {
            let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            Some((text("/metadata/namespace")?, text("/metadata/name")?, address_of(service)?))
        };
        Ok(services.iter().filter_map(named).collect())
    }

    /// The newest warnings about an object, oldest first, as `Reason: message`, each once.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn events_of(&self, object: &Value) -> Result<Vec<String>> {
        let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let Some(uid) = field("/metadata/uid") else {
            return Ok(Vec::new());
        };
        let selector = format!("involvedObject.uid={uid},type=Warning");
        let events = self
            .list_with("v1", "Event", field("/metadata/namespace"), &ListParams::default().fields(&selector))
            .await?;
        Ok(warnings(&events))
    }

    /// The last `lines` lines that a container printed; of its previous run when it has just crashed.
    ///
    /// # Errors
    /// When the server does not answer, or the container has not run.
    pub async fn logs_of(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
        lines: u32,
    ) -> Result<Vec<String>> {
        let object = ObjectRef::new("v1", "Pod", Some(namespace), pod);
        let (url, _) = self.url(&object).await?;
        let params = LogParams {
            container: Some(container.to_owned()),
            previous,
            tail_lines: Some(i64::from(lines)),
            // A program may print lines of any length.
            limit_bytes: Some(64 * 1024),
            ..LogParams::default()
        };
        let request = built(Request::new(url).logs(pod, &params))?;
        let text = self.send(&object, self.client.request_text(request)).await?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// How the server serves a kind, and whether its objects live in namespaces. A kind that is not known yet is looked
    /// for again: it may have been installed since.
    ///
    /// # Errors
    /// When the server does not answer or does not serve it.
    pub async fn resource(&self, api_version: &str, kind: &str) -> Result<(ApiResource, Scope)> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let wanted = GroupVersionKind::gvk(group, version, kind);
        for again in [false, true] {
            let discovery = self.discovery(again).await?;
            if let Some((resource, capabilities)) = discovery.resolve_gvk(&wanted) {
                return Ok((resource, capabilities.scope));
            }
        }
        Err(Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
    }

    /// What the server serves.
    pub(super) async fn discovery(&self, again: bool) -> Result<Arc<Discovery>> {
        let mut cached = self.shared.discovery.lock().await;
        if !again && let Some(discovery) = cached.as_ref() {
            return Ok(Arc::clone(discovery));
        }
        // The aggregated form is two requests, and one extension server that is down does not fail it.
        let discovery = Discovery::new(self.client.clone()).run_aggregated();
        let discovery = match tokio::time::timeout(REQUEST_TIMEOUT, discovery).await {
            Ok(Ok(discovery)) => Arc::new(discovery),
            Ok(Err(error)) => return Err(Error::about_server(&error)),
            Err(_) => return Err(timed_out()),
        };
        *cached = Some(Arc::clone(&discovery));
        Ok(discovery)
    }

    /// The list of owned objects that all clones of this reader share.
    pub(super) fn owned_cache(&self) -> &Mutex<Option<Vec<Owned>>> {
        &self.shared.owned
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Path of the collection that an object belongs to.
    ///
    /// # Errors
    /// When its kind lives in namespaces and it names none.
    pub(super) async fn url(&self, object: &ObjectRef) -> Result<(String, ApiResource)> {
        let (resource, scope) = self.resource(&object.api_version, &object.kind).await?;
        let namespace = match (scope, object.namespace.as_deref()) {
            (Scope::Cluster, _) => None,
            (Scope::Namespaced, Some(namespace)) => Some(namespace),
            (Scope::Namespaced, None) => {
                return Err(Error::Rejected {
                    object: object.to_string(),
                    code: 400,
                    message: "it has no namespace\n  hint: write `metadata.namespace` in the template, or \
                              `namespace:` on the manifest"
                        .into(),
                });
            }
        };
        Ok((DynamicObject::url_path(&resource, namespace), resource))
    }

    /// Runs one request about `object` with the time limit of all requests.
    pub(super) async fn send<T>(
        &self,
        object: &ObjectRef,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(answer) => answer.map_err(|error| Error::about(object, error)),
            Err(_) => Err(timed_out()),
        }
    }
}

pub(super) fn timed_out() -> Error {
    Error::Unreachable(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))
}

/// A request that could not even be written: a name with a slash in it.
pub(super) fn built<T, E: std::fmt::Display>(request: Result<T, E>) -> Result<T> {
    request.map_err(|error| Error::Rejected { object: "request".into(), code: 400, message: error.to_string() })
}

/// The failed parts of a `/readyz` answer: `[-]poststarthook/rbac/bootstrap-roles failed: reason withheld`.
fn unready_parts(answer: &str) -> String {
    let failed: Vec<&str> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if failed.is_empty() {
        "it says that it is not ready".into()
    } else {
        format!("it is not ready: {}", failed.join(", "))
    }
}

fn address_of(service: &Value) -> Option<ServiceAddress> {
    let ip = service.pointer("/spec/clusterIP")?.as_str()?;
    if ip.is_empty() || ip == "None" {
        return None;
    }
    let ports = service
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|port| {
            let number = u16::try_from(port.get("port")?.as_u64()?).ok()?;
            let name = port.get("name").and_then(Value::as_str).map(str::to_owned);
            Some((name, number))
        })
        .collect();
    Some(ServiceAddress { ip: ip.to_owned(), ports })
}

/// The last five different warnings by time.
fn warnings(events: &[Value]) -> Vec<String> {
    const MOST: usize = 5;
    let text = |event: &Value, pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut timed: Vec<(String, String)> = events
        .iter()
        .map(|event| {
            let time = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
                .into_iter()
                .map(|pointer| text(event, pointer))
                .find(|time| !time.is_empty())
                .unwrap_or_default();
            let line = format!("{}: {}", text(event, "/reason"), text(event, "/message").trim());
            (time, line)
        })
        .collect();
    timed.sort();
    let mut lines: Vec<String> = Vec::new();
    for (_, line) in timed.into_iter().rev() {
        if lines.len() < MOST && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_of_services() {
        let service = json!({"spec": {"clusterIP": "10.43.7.9", "ports": [
            {"name": "http", "port": 8000}, {"name": "metrics", "port": 9000}]}});
        let address = address_of(&service).into_iter().next();
        let ports = |wanted| address.as_ref().and_then(|address| address.port(wanted));
        assert_eq!(ports(Some("metrics")), Some(9000));
        assert_eq!(ports(Some("8000")), Some(8000));
        assert_eq!(ports(Some("grpc")), None);
        assert_eq!(ports(None), None, "two ports: the name is needed");
        assert_eq!(address_of(&json!({"spec": {"clusterIP": "None"}})), None);
        assert_eq!(address_of(&json!({"spec": {}})), None);
    }

    #[test]
    fn an_unready_server_names_what_it_waits_for() {
        let answer = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/rbac/bootstrap-roles failed: not finished\nreadyz check failed";
        assert_eq!(unready_parts(answer), "it is not ready: etcd, poststarthook/rbac/bootstrap-roles");
        assert_eq!(unready_parts("x"), "it says that it is not ready");
    }

    #[test]
    fn warnings_are_the_newest_each_once() {
        let event = |time: &str, message: &str| json!({"lastTimestamp": time, "reason": "Failed", "message": message});
        let events: Vec<Value> = vec![
            event("2026-11-25T14:00:09Z", "newest"),
            event("2026-11-25T14:00:01Z", "oldest"),
            json!({"lastTimestamp": null, "eventTime": "2026-11-25T14:00:05.000000Z", "reason": "Failed", "message": "middle"}),
            event("2026-11-25T14:00:02Z", "middle"),
            event("2026-11-25T14:00:03Z", "a"),
            event("2026-11-25T14:00:04Z", "b"),
            event("2026-11-25T14:00:02Z", "c"),
        ];
        assert_eq!(warnings(&events), ["Failed: c", "Failed: a", "Failed: b", "Failed: middle", "Failed: newest"]);
    }
}
