//! `minio_user`: a user of a MinIO server in the cluster has its key, and may use its buckets and no others.

use anyhow::{Result, ensure};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bucket::{Looked, check_bucket, default_admin_secret, look, open_to_change};
use super::{Observed, Resolve, Resource};
use crate::cluster::minio::User;
use crate::cluster::postgres::ServiceName;
use crate::cluster::s3::{Access, Keys, policy};
use crate::diff::{Action, Diff};
use crate::host::{ReadHost, WriteHost};

/// A user of a MinIO server that runs in the cluster. Its name is its access key. It has one policy of its own, which gives it
/// the named buckets and nothing else; other policies and groups that it was given by hand are taken away.
///
/// Where versions are kept it cannot destroy them: what it deletes or overwrites can be had back.
///
/// ```yaml
/// - minio_user:
///     service: mlops/minio
///     name: mlflow
///     secret_key: "{{ secret.minio.mlflow_secret_key }}"
///     read_write: [thesis-mlflow]
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MinioUser {
    /// The server's Service: `mlops/minio`, or `mlops/minio:9000`.
    pub service: ServiceName,
    /// The user, which is its access key: `mlflow`.
    pub name: String,
    /// Its secret key, eight characters or more: `"{{ secret.minio.mlflow_secret_key }}"`.
    pub secret_key: String,
    /// Buckets whose objects it may read, write and delete: `[thesis-mlflow]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_write: Vec<String>,
    /// Buckets whose objects it may only read: `[thesis-data]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<String>,
    /// A Secret in the namespace of the service with the keys `MINIO_ROOT_USER` and `MINIO_ROOT_PASSWORD`, the access key and
    /// the secret key of an administrator; `minio-root` when not given.
    #[serde(default = "default_admin_secret")]
    pub admin_secret: String,
}

/// A user as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// With whether the wanted secret key opens the door.
    user: Option<(User, bool)>,
    /// The policy that bears its name.
    policy: Option<Value>,
}

/// Fields of the difference.
const USER: &str = "user";
const SECRET_KEY: &str = "secret_key";
const STATUS: &str = "status";
const POLICY: &str = "policy";
const ATTACHED: &str = "attached policies";
const GROUPS: &str = "groups";

impl MinioUser {
    fn access(&self) -> Access<'_> {
        Access { service: &self.service, keys: Keys::OfSecret(&self.admin_secret) }
    }

    /// Users choose names of policies too: ours are told apart.
    fn policy_name(&self) -> String {
        format!("provision-{}", self.name)
    }

    fn policy(&self) -> Value {
        policy::limited_to(&self.read_write, &self.read_only)
    }

    /// Whether the wanted secret key is the user's. Asked by using it: the server tells nobody what it is.
    async fn key_fits(&self, host: &dyn ReadHost) -> Result<bool> {
        let keys = Keys::Given { access_key: &self.name, secret_key: &self.secret_key };
        match (Access { service: &self.service, keys }).connect_patiently(host, std::time::Duration::ZERO).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_wrong_key() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Resource for MinioUser {
    const KIND: &'static str = "minio_user";

    type State = State;

    fn name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(
            self.name.len() >= 3 && self.name.chars().all(plain),
            "the user name {:?} does not fit\n  hint: three or more letters, digits, dashes and underscores",
            self.name
        );
        ensure!(
            self.secret_key.chars().count() >= 8,
            "the secret key of user {:?} is shorter than 8 characters",
            self.name
        );
        for bucket in self.read_write.iter().chain(&self.read_only) {
            check_bucket(bucket)?;
        }
        ensure!(
            !self.read_write.is_empty() || !self.read_only.is_empty(),
            "the user {:?} may do nothing\n  hint: name buckets in `read_write` or `read_only`",
            self.name
        );
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let client = match look(self.access(), host).await? {
            Looked::Pending(reason) => return Ok(Observed::Pending(reason)),
            Looked::At(client) => client,
        };
        let user = match client.user(&self.name).await? {
            // The key of a user who is shut out cannot be tried; letting it in sets the key anyway.
            Some(user) if !user.enabled => Some((user, true)),
            Some(user) => Some((user, self.key_fits(host).await?)),
            None => None,
        };
        Ok(Observed::Known(State { user, policy: client.policy(&self.policy_name()).await? }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        let (before, after) = (policy::shown(state.policy.as_ref()), policy::shown(Some(&self.policy())));
        let Some((user, key_fits)) = &state.user else {
            diff = Diff::new(Action::Create);
            diff.push(USER, format!("create {:?} with secret key •••", self.name));
            diff.compare_text(POLICY, &before, &after);
            diff.push(ATTACHED, format!("none -> {}", self.policy_name()));
            return diff;
        };
        if !user.enabled {
            diff.push(STATUS, "disabled -> enabled");
        }
        if !key_fits {
            diff.push(SECRET_KEY, "••• (changed)");
        }
        diff.compare_text(POLICY, &before, &after);
        let word = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        diff.compare(ATTACHED, &word(&user.policies), &self.policy_name());
        diff.compare(GROUPS, &word(&user.groups), "none");
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let writer = open_to_change(self.access(), host).await?;
        let policy_name = self.policy_name();
        // The policy before the user: never a moment with more rights than wanted.
        if diff.has(POLICY) {
            writer.set_policy(&policy_name, &self.policy()).await?;
        }
        if diff.has(USER) || diff.has(SECRET_KEY) || diff.has(STATUS) {
            writer.set_user(&self.name, &self.secret_key).await?;
        }
        if diff.has(ATTACHED) {
            writer.attach_policy(&self.name, &policy_name).await?;
        }
        if diff.has(GROUPS) {
            for group in writer.user(&self.name).await?.map(|user| user.groups).unwrap_or_default() {
                writer.leave_group(&self.name, &group).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::minio::testing::{Minio, python_with_boto3};
    use crate::cluster::testing::TestHost;
    use crate::resources::testing::Project;
    use crate::resources::{AnyResource, Planned};

    fn user(secret_key: &str, read_only: &[&str]) -> MinioUser {
        serde_json::from_value(json!({"service": "mlops/minio", "name": "mlflow", "secret_key": secret_key,
            "read_write": ["thesis-mlflow"], "read_only": read_only}))
        .unwrap()
    }

    async fn changed(user: &MinioUser, host: &TestHost) -> Vec<String> {
        let Planned::Change(diff) = user.plan(host).await.unwrap() else { panic!("nothing to do") };
        Resource::apply(user, host, &diff).await.unwrap();
        assert_eq!(user.plan(host).await.unwrap(), Planned::InSync);
        assert!(!format!("{diff:?}").contains("canary"), "{diff:?}");
        diff.changes.into_iter().map(|change| format!("{}: {}", change.field, change.detail)).collect()
    }

    #[test]
    fn faults_of_the_spec() {
        let fault = |name: &str, secret_key: &str, buckets: &[&str]| {
            let mut user: MinioUser = serde_json::from_value(json!({"service": "mlops/minio", "name": name,
                "secret_key": secret_key, "read_write": buckets}))
            .unwrap();
            Resource::resolve(&mut user, &mut Project::default()).unwrap_err().to_string()
        };
        assert!(fault("a/b", "long-enough", &["abc"]).contains("does not fit"));
        let short = fault("mlflow", "canary", &["abc"]);
        assert!(short.contains("shorter than 8 characters") && !short.contains("canary"), "{short}");
        assert!(fault("mlflow", "long-enough", &["*"]).contains("bucket name \"*\""));
        assert!(fault("mlflow", "long-enough", &[]).contains("may do nothing"));
    }

    #[tokio::test]
    async fn made_repaired_and_kept_in_its_buckets_on_a_real_server() {
        let Some(mut server) = Minio::start() else { return };
        let host = server.host().await;
        let admin = server.writer(&host, None).await;
        for bucket in ["thesis-mlflow", "thesis-data"] {
            admin.create_bucket(bucket).await.unwrap();
            admin.write(bucket, "there", b"x".to_vec()).await.unwrap();
        }
        let made = changed(&user("canary-one", &[]), &host).await;
        assert_eq!(made[0], "user: create \"mlflow\" with secret key •••");
        assert_eq!(made[2], "attached policies: none -> provision-mlflow");

        let denied = |outcome: Result<(), crate::cluster::s3::Error>| {
            assert_eq!(outcome.unwrap_err().code(), Some("AccessDenied"));
        };
        let mlflow = server.writer(&host, Some(("mlflow", "canary-one"))).await;
        mlflow.write("thesis-mlflow", "a", b"mine".to_vec()).await.unwrap();
        assert_eq!(mlflow.read("thesis-mlflow", "a").await.unwrap(), b"mine");
        mlflow.remove("thesis-mlflow", "a", None).await.unwrap();
        denied(mlflow.read("thesis-data", "there").await.map(|_| ()));
        denied(mlflow.list("thesis-data", "").await.map(|_| ()));
        denied(mlflow.write("thesis-data", "b", Vec::new()).await.map(|_| ()));
        denied(mlflow.create_bucket("own").await);
        denied(mlflow.policy("provision-mlflow").await.map(|_| ()));
        denied(mlflow.set_bucket_policy("thesis-mlflow", None).await);

        // A changed key is exactly that, and the old one opens nothing.
        assert_eq!(changed(&user("canary-two", &[]), &host).await, ["secret_key: ••• (changed)"]);
        assert!(mlflow.read("thesis-mlflow", "there").await.unwrap_err().is_wrong_key());
        let mlflow = server.writer(&host, Some(("mlflow", "canary-two"))).await;

        let wider = changed(&user("canary-two", &["thesis-data"]), &host).await;
        assert!(wider.len() == 1 && wider[0].starts_with("policy: "), "{wider:?}");
        assert_eq!(mlflow.read("thesis-data", "there").await.unwrap(), b"x");
        denied(mlflow.write("thesis-data", "b", Vec::new()).await.map(|_| ()));
        changed(&user("canary-two", &[]), &host).await;
        denied(mlflow.read("thesis-data", "there").await.map(|_| ()));

        // What was given by hand is taken away.
        admin.attach_policy("mlflow", "readwrite").await.unwrap();
        assert_eq!(
            changed(&user("canary-two", &[]), &host).await,
            ["attached policies: readwrite -> provision-mlflow"]
        );
        let group = json!({"group": "friends", "members": ["mlflow"], "isRemove": false, "groupStatus": "enabled"});
        admin.put("/minio/admin/v3/update-group-members", &[], group.to_string().into()).await.unwrap();
        assert_eq!(changed(&user("canary-two", &[]), &host).await, ["groups: friends -> none"]);
        admin
            .put("/minio/admin/v3/set-user-status", &[("accessKey", "mlflow"), ("status", "disabled")], Vec::new())
            .await
            .unwrap();
        assert_eq!(changed(&user("canary-two", &[]), &host).await, ["status: disabled -> enabled"]);

        // The administrator's password changes: users stay, and in between it is said what is wrong.
        server.restart("another-canary");
        let stale = user("canary-two", &[]).plan(&host).await.unwrap();
        let Planned::Pending(reason) = stale else { panic!("{stale:?}") };
        assert!(reason.contains("other root credentials than its Secret has"), "{reason}");
        let host = server.host().await;
        assert_eq!(user("canary-two", &[]).plan(&host).await.unwrap(), Planned::InSync);
        assert!(!server.log().contains("canary"), "{}", server.log());
    }

    /// What Python programs see: the official client, with a user's key, in its own bucket and in another's.
    const BOTO3: &str = r#"
import sys, boto3
from botocore.client import Config
from botocore.exceptions import ClientError
s3 = boto3.client("s3", endpoint_url=sys.argv[1], aws_access_key_id="mlflow", aws_secret_access_key=sys.stdin.read(),
                  region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))
s3.put_object(Bucket="thesis-mlflow", Key="1/run/artifacts/a b.txt", Body=b"x" * 1000)
assert s3.get_object(Bucket="thesis-mlflow", Key="1/run/artifacts/a b.txt")["Body"].read() == b"x" * 1000
assert s3.list_objects_v2(Bucket="thesis-mlflow", Prefix="1/run/")["KeyCount"] == 1
upload = s3.create_multipart_upload(Bucket="thesis-mlflow", Key="big")
s3.abort_multipart_upload(Bucket="thesis-mlflow", Key="big", UploadId=upload["UploadId"])
s3.delete_object(Bucket="thesis-mlflow", Key="1/run/artifacts/a b.txt")
for name, call in {
    "list": lambda: s3.list_objects_v2(Bucket="thesis-data"),
    "head": lambda: s3.head_bucket(Bucket="thesis-data"),
    "get": lambda: s3.get_object(Bucket="thesis-data", Key="there"),
    "put": lambda: s3.put_object(Bucket="thesis-data", Key="there", Body=b""),
    "delete": lambda: s3.delete_object(Bucket="thesis-data", Key="there"),
    "remove bucket": lambda: s3.delete_bucket(Bucket="thesis-mlflow"),
    "open bucket": lambda: s3.put_bucket_policy(Bucket="thesis-mlflow", Policy="{}"),
}.items():
    try:
        call()
        sys.exit(name + " was allowed")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in ("AccessDenied", "403"):
            sys.exit(name + ": " + code)
print([bucket["Name"] for bucket in s3.list_buckets()["Buckets"]])
"#;

    #[tokio::test]
    async fn boto3_is_let_in_and_refused() {
        let (Some(server), Some(python)) = (Minio::start(), python_with_boto3()) else { return };
        let host = server.host().await;
        let admin = server.writer(&host, None).await;
        for bucket in ["thesis-mlflow", "thesis-data"] {
            admin.create_bucket(bucket).await.unwrap();
            admin.write(bucket, "there", b"x".to_vec()).await.unwrap();
        }
        // Every character that a shell, an address or a policy could stumble over.
        let secret_key = "a/+=&%$'\"\\ @:é#";
        changed(&user(secret_key, &[]), &host).await;
        let mut child = std::process::Command::new(python)
            .args(["-c", BOTO3, &format!("http://127.0.0.1:{}", server.port)])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), secret_key.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "['thesis-mlflow']");
        assert_eq!(admin.read("thesis-data", "there").await.unwrap(), b"x");
    }
}
