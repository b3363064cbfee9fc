//! `s3_roundtrip`: a key can use its bucket, and no other.

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Check, Verdict};
use crate::cluster::postgres::ServiceName;
use crate::cluster::s3::policy::PROBE_FOLDER;
use crate::cluster::s3::{Access, Error, Keys, Writer};
use crate::host::ReadHost;

/// A key writes an object to its bucket (below `.provision/`), reads the same back and deletes it, with nothing left; and it is
/// refused on buckets that are not its own, both for looking and for writing.
///
/// ```yaml
/// - s3_roundtrip:
///     service: mlops/minio
///     bucket: thesis-mlflow
///     access_key: mlflow
///     secret_key: "{{ secret.minio.mlflow_secret_key }}"
///     refused_on: [thesis-data]
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Roundtrip {
    /// The server's Service: `mlops/minio`, or `mlops/minio:9000`.
    pub service: ServiceName,
    /// The bucket: `thesis-mlflow`.
    pub bucket: String,
    /// Whose key: `mlflow`.
    pub access_key: String,
    /// `"{{ secret.minio.mlflow_secret_key }}"`.
    pub secret_key: String,
    /// Buckets that must refuse this key: `[thesis-data]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_on: Vec<String>,
}

impl S3Roundtrip {
    /// Writes, reads and deletes; an error says at which of these it broke.
    async fn use_bucket(&self, writer: &Writer, key: &str) -> Result<(), String> {
        let content: [u8; 64] = rand::rng().random();
        let step = |what: &'static str| move |error: Error| format!("cannot {what}: {error}");
        let version = writer.write(&self.bucket, key, content.to_vec()).await.map_err(step("write"))?;
        let read = writer.read(&self.bucket, key).await;
        // Removed in any case, before anything is said about it.
        let removed = writer.remove(&self.bucket, key, version.as_deref()).await;
        if read.map_err(step("read back"))? != content {
            return Err("what was read back is not what was written".into());
        }
        removed.map_err(step("delete"))?;
        match writer.read(&self.bucket, key).await {
            Err(error) if error.code() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(format!("cannot see that it is deleted: {error}")),
            Ok(_) => Err("what was deleted is still there".into()),
        }
    }

    /// What a bucket that is not ours lets us do, if anything.
    async fn leak(&self, writer: &Writer, bucket: &str, key: &str) -> Option<String> {
        let refused = |error: &Error| error.code() == Some("AccessDenied");
        match writer.list(bucket, "").await {
            Ok(_) => return Some(format!("it may look into {bucket}")),
            Err(error) if !refused(&error) => return Some(format!("cannot tell whether {bucket} refuses it: {error}")),
            Err(_) => {}
        }
        match writer.write(bucket, key, Vec::new()).await {
            Ok(version) => {
                // What may be written may perhaps be removed; the failure is told either way.
                let removed = writer.remove(bucket, key, version.as_deref()).await;
                let left = if removed.is_err() { format!("; {key} is left there") } else { String::new() };
                Some(format!("it may write to {bucket}{left}"))
            }
            Err(error) if !refused(&error) => Some(format!("cannot tell whether {bucket} refuses it: {error}")),
            Err(_) => None,
        }
    }
}

#[async_trait]
impl Check for S3Roundtrip {
    const KIND: &'static str = "s3_roundtrip";

    fn name(&self) -> String {
        format!("{} in {}/{}", self.access_key, self.service, self.bucket)
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let keys = Keys::Given { access_key: &self.access_key, secret_key: &self.secret_key };
        let writer = match Writer::for_probe(Access { service: &self.service, keys }, host).await {
            Ok(writer) => writer,
            Err(error) => return Ok(Verdict::fail(error.to_string())),
        };
        let key = format!("{PROBE_FOLDER}/roundtrip-{:016x}", rand::rng().random::<u64>());
        if let Err(reason) = self.use_bucket(&writer, &key).await {
            return Ok(Verdict::fail(reason));
        }
        for bucket in &self.refused_on {
            if let Some(leak) = self.leak(&writer, bucket, &key).await {
                return Ok(Verdict::fail(leak));
            }
        }
        let refused = match self.refused_on.as_slice() {
            [] => String::new(),
            buckets => format!("; refused on {}", buckets.join(", ")),
        };
        Ok(Verdict::pass(format!("wrote, read back the same, deleted{refused}")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Status;
    use crate::cluster::minio::testing::Minio;
    use crate::cluster::s3::policy::limited_to;
    use crate::cluster::testing::TestHost;

    async fn verdict(host: &TestHost, bucket: &str, secret_key: &str) -> (Status, String) {
        let check: S3Roundtrip = serde_json::from_value(json!({"service": "mlops/minio", "bucket": bucket,
            "access_key": "mlflow", "secret_key": secret_key, "refused_on": ["data"]}))
        .unwrap();
        let verdict = check.run(host).await.unwrap();
        assert!(!verdict.detail.contains("canary"), "{}", verdict.detail);
        (verdict.status, verdict.detail)
    }

    #[tokio::test]
    async fn passes_and_fails_for_the_right_reasons_on_a_real_server() {
        let Some(mut server) = Minio::start() else { return };
        let host = server.host().await;
        let admin = server.writer(&host, None).await;
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for bucket in ["own", "data", "mine"] {
            admin.create_bucket(bucket).await.unwrap();
        }
        admin.set_versioning("own", true).await.unwrap();
        admin.set_user("mlflow", "canary-key").await.unwrap();
        admin.set_policy("p", &limited_to(&names(&["own"]), &[])).await.unwrap();
        admin.attach_policy("mlflow", "p").await.unwrap();

        let passed = (Status::Pass, "wrote, read back the same, deleted; refused on data".to_owned());
        assert_eq!(verdict(&host, "own", "canary-key").await, passed);
        let versions = admin.get("/own", &[("versions", "")]).await.unwrap().text();
        assert!(!versions.contains("roundtrip"), "no version is left: {versions}");

        let failed = |(status, detail): (Status, String), expected: &str| {
            assert!(status == Status::Fail && detail.contains(expected), "{detail}");
        };
        failed(verdict(&host, "own", "canary-wrong").await, "cannot write: ");
        failed(verdict(&host, "mine", "canary-key").await, "cannot write: ");
        failed(verdict(&host, "none", "canary-key").await, "cannot write: ");
        // Rights that the key should not have.
        admin.set_policy("p", &limited_to(&names(&["own"]), &names(&["data"]))).await.unwrap();
        failed(verdict(&host, "own", "canary-key").await, "it may look into data");
        let blind = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:DeleteObjectVersion"],
             "Resource": ["arn:aws:s3:::*"]}]});
        admin.set_policy("p", &blind).await.unwrap();
        failed(verdict(&host, "own", "canary-key").await, "it may write to data");
        assert_eq!(admin.list("data", "").await.unwrap(), [], "what it could write there is removed");

        server.stop();
        failed(verdict(&host, "own", "canary-key").await, "does not answer: Connection refused");
    }
}
