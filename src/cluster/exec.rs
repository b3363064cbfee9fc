//! Running a program in a container, with its input. For what can be changed only from inside.

use std::time::Duration;

use futures::future::join3;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::error::{Error, Result};
use super::object::ObjectRef;
use super::readiness::condition_status;
use super::{Reader, Writer};

/// No program takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most that is kept of what it prints: bytes.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// What a program left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Reader {
    /// The name of a ready pod behind a Service; `None` when there is no such pod.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn ready_pod_of(&self, namespace: &str, service: &str) -> Result<Option<String>> {
        let object = ObjectRef::new("v1", "Service", Some(namespace), service);
        let service = self.get(&object).await?;
        let Some(Value::Object(selector)) = service.as_ref().and_then(|service| service.pointer("/spec/selector"))
        else {
            return Ok(None);
        };
        let labels: Vec<String> =
            selector.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
        let pods = self.list("v1", "Pod", Some(namespace), &labels.join(",")).await?;
        let ready = |pod: &&Value| {
            condition_status(pod, "Ready") == Some("True") && pod.pointer("/metadata/deletionTimestamp").is_none()
        };
        Ok(pods.iter().find(ready).and_then(|pod| pod.pointer("/metadata/name")?.as_str().map(str::to_owned)))
    }
}

impl Writer {
    /// Runs a program in the first container of a pod, with `input` as its standard input. Arguments show in process lists:
    /// secrets go in by the input. The program should end by what is in its input, as old servers cannot tell it where that
    /// ends.
    ///
    /// # Errors
    /// When it could not be run, or does not end in half a minute. A program that fails is no error.
    pub async fn exec(&self, namespace: &str, pod: &str, argv: &[&str], input: &str) -> Result<Executed> {
        let object = ObjectRef::new("v1", "Pod", Some(namespace), pod);
        match tokio::time::timeout(TIMEOUT, self.exec_in(&object, argv, input)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed(&object, format!("{} did not end in {} s", argv[0], TIMEOUT.as_secs()))),
        }
    }

    async fn exec_in(&self, object: &ObjectRef, argv: &[&str], input: &str) -> Result<Executed> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.reader().client().clone(), namespace);
        let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
        let mut process = pods
            .exec(&object.name, argv.iter().copied(), &params)
            .await
            .map_err(|error| Error::about(object, error))?;
        let lost = || failed(object, format!("{}: the connection has no streams", argv[0]));
        let (mut stdin, stdout, stderr) =
            (process.stdin().ok_or_else(lost)?, process.stdout().ok_or_else(lost)?, process.stderr().ok_or_else(lost)?);
        let status = process.take_status().ok_or_else(lost)?;
        let write = async move {
            // A program that ended early does not read all; its status tells why.
            stdin.write_all(input.as_bytes()).await.ok();
            stdin.shutdown().await.ok();
        };
        let ((), stdout, stderr) = join3(write, text(stdout), text(stderr)).await;
        let success = status.await.and_then(|status| status.status).as_deref() == Some("Success");
        Ok(Executed { success, stdout, stderr })
    }
}

async fn text(stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let mut limited = stream.take(OUTPUT_LIMIT);
    // What came until the connection broke is what there is.
    limited.read_to_end(&mut bytes).await.ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn failed(object: &ObjectRef, message: String) -> Error {
    Error::Rejected { object: object.to_string(), code: 500, message }
}
