//! `bucket`: a bucket of an S3 server in the cluster is there, with its settings.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Observed, Resolve, Resource};
use crate::cluster::postgres::ServiceName;
use crate::cluster::s3::bucket::{Lifecycle, Rule, Versioning};
use crate::cluster::s3::{Access, Client, Error, Keys, Writer, policy};
use crate::diff::{Action, Diff};
use crate::host::{ReadHost, WriteHost};

/// How long a server whose Service exists may take to answer when it is looked at: what was just applied may still start.
const OBSERVE_PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take when something is to be done.
const APPLY_PATIENCE: Duration = Duration::from_secs(60);

/// A bucket of an S3 server that runs in the cluster (MinIO, or another one with the S3 interface). It is never deleted: a
/// bucket that is taken out of a stage stays, with all that is in it.
///
/// ```yaml
/// - bucket: { service: mlops/minio, name: thesis-data, versioning: true }
/// - bucket:
///     service: mlops/minio
///     name: thesis-backup
///     lifecycle: [{ name: backups, prefix: postgres/, expire_days: 14 }]
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// The server's Service: `mlops/minio`, or `mlops/minio:9000`.
    pub service: ServiceName,
    /// The bucket: `thesis-data`.
    pub name: String,
    /// Keep what is overwritten or deleted; `false` when not given. A bucket that kept versions once only stops to make new
    /// ones.
    #[serde(default)]
    pub versioning: bool,
    /// What goes by itself, and when. All rules of the bucket: others are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lifecycle: Vec<LifecycleRule>,
    /// What may be done without a key, as an S3 bucket policy. Nothing when not given: a policy that the bucket has is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Value>,
    /// A Secret in the namespace of the service with the keys `MINIO_ROOT_USER` and `MINIO_ROOT_PASSWORD`, the access key and
    /// the secret key of an administrator; `minio-root` when not given.
    #[serde(default = "default_admin_secret")]
    pub admin_secret: String,
}

pub(super) fn default_admin_secret() -> String {
    "minio-root".into()
}

/// One rule of a bucket's lifecycle.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LifecycleRule {
    /// Its name: `backups`.
    pub name: String,
    /// Only objects whose names begin so: `postgres/`; all when not given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Days after which an object goes: `14`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_days: Option<u32>,
    /// Days after which a version goes that was overwritten or deleted: `30`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_versions_days: Option<u32>,
}

/// A bucket as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    versioning: Versioning,
    lifecycle: Lifecycle,
    policy: Option<Value>,
}

/// Fields of the difference.
const BUCKET: &str = "bucket";
const VERSIONING: &str = "versioning";
const LIFECYCLE: &str = "lifecycle";
const POLICY: &str = "policy";

/// A server that was looked at, or what is missing for it.
pub(super) enum Looked {
    At(Client),
    Pending(String),
}

/// Connects for looking, with little patience.
pub(super) async fn look(access: Access<'_>, host: &dyn ReadHost) -> Result<Looked> {
    match access.connect_patiently(host, OBSERVE_PATIENCE).await {
        Ok(client) => Ok(Looked::At(client)),
        Err(Error::Missing(reason)) => Ok(Looked::Pending(reason)),
        Err(error) if error.may_pass() => Ok(Looked::Pending(format!("needs service {}: {error}", access.service))),
        // The Secret was changed and the server still runs with what was in it when it started.
        Err(error) if error.is_wrong_key() => Ok(Looked::Pending(format!(
            "{error}\n  hint: the server runs with other root credentials than its Secret has: it reads them when it starts"
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Connects for changing.
pub(super) async fn open_to_change(access: Access<'_>, host: &dyn WriteHost) -> Result<Writer> {
    Writer::connect(access, host, APPLY_PATIENCE)
        .await
        .with_context(|| format!("no access within {} s", APPLY_PATIENCE.as_secs()))
}

/// What is wrong with the name of a bucket.
pub(super) fn check_bucket(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    ensure!(
        (3..=63).contains(&name.len())
            && name.chars().all(plain)
            && edge(name.chars().next())
            && edge(name.chars().last())
            && !name.contains(".."),
        "the bucket name {name:?} does not fit\n  hint: 3 to 63 lower-case letters, digits, dashes and dots inside"
    );
    Ok(())
}

impl Bucket {
    fn access(&self) -> Access<'_> {
        Access { service: &self.service, keys: Keys::OfSecret(&self.admin_secret) }
    }

    fn rules(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self
            .lifecycle
            .iter()
            .map(|rule| Rule {
                name: rule.name.clone(),
                prefix: rule.prefix.clone(),
                expire_days: rule.expire_days,
                old_versions_days: rule.old_versions_days,
            })
            .collect();
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        rules
    }
}

/// One line per rule.
fn shown(rules: &[Rule]) -> String {
    let mut text = String::new();
    for rule in rules {
        let whose = if rule.prefix.is_empty() { "all objects".into() } else { format!("{}*", rule.prefix) };
        text.push_str(&format!("{}: {whose}", rule.name));
        if let Some(days) = rule.expire_days {
            text.push_str(&format!(" go after {days} days"));
        }
        if let Some(days) = rule.old_versions_days {
            let link = if rule.expire_days.is_some() { "," } else { ":" };
            text.push_str(&format!("{link} old versions go after {days} days"));
        }
        text.push('\n');
    }
    text
}

#[async_trait]
impl Resource for Bucket {
    const KIND: &'static str = "bucket";

    type State = Option<State>;

    fn name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        check_bucket(&self.name)?;
        for (index, rule) in self.lifecycle.iter().enumerate() {
            ensure!(!rule.name.is_empty(), "a lifecycle rule has no name");
            if self.lifecycle[..index].iter().any(|other| other.name == rule.name) {
                bail!("two lifecycle rules are called {:?}", rule.name);
            }
            let days = [rule.expire_days, rule.old_versions_days];
            ensure!(
                days.iter().any(Option::is_some) && !days.contains(&Some(0)),
                "the lifecycle rule {:?} does nothing\n  hint: give `expire_days` or `old_versions_days`, 1 or more",
                rule.name
            );
            ensure!(
                rule.old_versions_days.is_none() || self.versioning,
                "the lifecycle rule {:?} is about old versions, and the bucket keeps none\n  hint: set `versioning: true`",
                rule.name
            );
        }
        if let Some(policy) = &self.policy {
            ensure!(policy.get("Statement").is_some(), "the bucket policy has no `Statement`");
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<Self::State>> {
        let client = match look(self.access(), host).await? {
            Looked::Pending(reason) => return Ok(Observed::Pending(reason)),
            Looked::At(client) => client,
        };
        if !client.has_bucket(&self.name).await? {
            return Ok(Observed::Known(None));
        }
        Ok(Observed::Known(Some(State {
            versioning: client.versioning(&self.name).await?,
            lifecycle: client.lifecycle(&self.name).await?,
            policy: client.bucket_policy(&self.name).await?,
        })))
    }

    fn diff(&self, state: &Self::State) -> Diff {
        let empty = State { versioning: Versioning::Never, lifecycle: Lifecycle::Rules(Vec::new()), policy: None };
        let mut diff = Diff::none();
        if state.is_none() {
            diff = Diff::new(Action::Create);
            diff.push(BUCKET, format!("create {:?}", self.name));
        }
        let state = state.as_ref().unwrap_or(&empty);
        let word = |on: bool| if on { "on" } else { "off" };
        diff.compare(VERSIONING, word(state.versioning == Versioning::Enabled), word(self.versioning));
        let wanted = shown(&self.rules());
        match &state.lifecycle {
            Lifecycle::Rules(rules) => diff.compare_text(LIFECYCLE, &shown(rules), &wanted),
            Lifecycle::Foreign => {
                diff.compare_text(LIFECYCLE, "(rules that were made in another way)\n", &wanted);
            }
        }
        diff.compare_text(POLICY, &policy::shown(state.policy.as_ref()), &policy::shown(self.policy.as_ref()));
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let writer = open_to_change(self.access(), host).await?;
        if diff.has(BUCKET) {
            writer.create_bucket(&self.name).await?;
        }
        if diff.has(VERSIONING) {
            writer.set_versioning(&self.name, self.versioning).await?;
        }
        if diff.has(LIFECYCLE) {
            writer.set_lifecycle(&self.name, &self.rules()).await?;
        }
        if diff.has(POLICY) {
            writer.set_bucket_policy(&self.name, self.policy.as_ref()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::minio::testing::Minio;
    use crate::cluster::testing::{FixedApi, TestHost};
    use crate::resources::{AnyResource, Planned};

    fn bucket(more: Value) -> Bucket {
        let mut spec = json!({"service": "mlops/minio", "name": "thesis-data"});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut bucket: Bucket = serde_json::from_value(spec).unwrap();
        Resource::resolve(&mut bucket, &mut crate::resources::testing::Project::default()).unwrap();
        bucket
    }

    async fn changed(bucket: &Bucket, host: &TestHost) -> Vec<String> {
        let Planned::Change(diff) = bucket.plan(host).await.unwrap() else { panic!("nothing to do") };
        Resource::apply(bucket, host, &diff).await.unwrap();
        assert_eq!(bucket.plan(host).await.unwrap(), Planned::InSync);
        let action = format!("{:?}", diff.action.unwrap());
        let changes = diff.changes.into_iter().map(|change| format!("{}: {}", change.field, change.detail));
        std::iter::once(action).chain(changes).collect()
    }

    #[test]
    fn faults_of_the_spec() {
        let fault = |more: Value| {
            let mut spec = json!({"service": "mlops/minio", "name": "thesis-data"});
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            match serde_json::from_value::<Bucket>(spec) {
                Err(error) => error.to_string(),
                Ok(mut bucket) => {
                    let mut project = crate::resources::testing::Project::default();
                    Resource::resolve(&mut bucket, &mut project).unwrap_err().to_string()
                }
            }
        };
        assert!(fault(json!({"name": "Thesis_Data"})).contains("3 to 63 lower-case letters"));
        assert!(fault(json!({"lifecycle": [{"name": "a"}]})).contains("does nothing"));
        assert!(
            fault(json!({"lifecycle": [{"name": "a", "old_versions_days": 3}]})).contains("set `versioning: true`")
        );
        let twice = json!({"lifecycle": [{"name": "a", "expire_days": 1}, {"name": "a", "expire_days": 2}]});
        assert!(fault(twice).contains("two lifecycle rules are called \"a\""));
        assert!(fault(json!({"polcy": {}})).contains("unknown field `polcy`"));
    }

    #[tokio::test]
    async fn without_service_or_secret_it_is_pending() {
        let (reader, api) = FixedApi::serve([]).await;
        let host = TestHost::new().cluster(reader);
        let resource = bucket(json!({}));
        assert_eq!(resource.plan(&host).await.unwrap(), Planned::Pending("needs service mlops/minio".into()));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        api.set(
            "/api/v1/namespaces/mlops/services/minio",
            json!({"spec": {"clusterIP": "127.0.0.1", "ports": [{"port": free}]}}),
        );
        let Planned::Pending(reason) = resource.plan(&host).await.unwrap() else { panic!("not pending") };
        assert_eq!(reason, "needs key MINIO_ROOT_USER of secret mlops/minio-root (as text)");
        api.set(
            "/api/v1/namespaces/mlops/secrets/minio-root",
            json!({"data": {"MINIO_ROOT_USER": "YWRtaW4=", "MINIO_ROOT_PASSWORD": "c2VjcmV0MTIz"}}),
        );
        let Planned::Pending(reason) = resource.plan(&host).await.unwrap() else { panic!("not pending") };
        assert!(reason.contains("service mlops/minio does not answer: Connection refused"), "{reason}");
    }

    #[tokio::test]
    async fn each_setting_is_made_and_changed_by_itself_on_a_real_server() {
        let Some(server) = Minio::start() else { return };
        let host = server.host().await;
        assert_eq!(changed(&bucket(json!({})), &host).await, ["Create", "bucket: create \"thesis-data\""]);

        let versioned = json!({"versioning": true});
        assert_eq!(changed(&bucket(versioned), &host).await, ["Change", "versioning: off -> on"]);

        let rules = json!({"versioning": true, "lifecycle": [
            {"name": "old", "old_versions_days": 30}, {"name": "backups", "prefix": "postgres/", "expire_days": 14}]});
        assert_eq!(
            changed(&bucket(rules), &host).await,
            [
                "Change",
                "lifecycle: @@ -0,0 +1,2 @@\n+backups: postgres/* go after 14 days\n+old: all objects: old versions go after 30 days"
            ]
        );
        let other = json!({"versioning": true, "lifecycle": [{"name": "old", "old_versions_days": 7}]});
        let change = changed(&bucket(other.clone()), &host).await;
        assert_eq!(change.len(), 2, "{change:?}");
        assert!(change[1].starts_with("lifecycle: ") && change[1].contains("after 7 days"), "{change:?}");

        let mut open = other.clone();
        open["policy"] = json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*",
            "Action": "s3:GetObject", "Resource": "arn:aws:s3:::thesis-data/public/*"}});
        let change = changed(&bucket(open), &host).await;
        assert_eq!(change.len(), 2, "{change:?}");
        assert!(change[1].starts_with("policy: ") && change[1].contains("+      \"Action\": ["), "{change:?}");

        // What was opened by hand is shut again, and data survives every change.
        let admin = server.writer(&host, None).await;
        admin.write("thesis-data", "kept", b"data".to_vec()).await.unwrap();
        let change = changed(&bucket(json!({})), &host).await;
        let fields: Vec<_> = change.iter().filter_map(|line| line.split_once(": ")).map(|(field, _)| field).collect();
        assert_eq!(fields, ["versioning", "lifecycle", "policy"]);
        assert_eq!(admin.read("thesis-data", "kept").await.unwrap(), b"data");
        assert!(!server.log().contains(Minio::ROOT_PASSWORD));
    }

    #[tokio::test]
    async fn rules_made_in_another_way_are_replaced() {
        let Some(server) = Minio::start() else { return };
        let host = server.host().await;
        changed(&bucket(json!({})), &host).await;
        let body = "<LifecycleConfiguration><Rule><ID>x</ID><Status>Enabled</Status><Filter><Tag><Key>a</Key><Value>b</Value></Tag>\
                    </Filter><Expiration><Days>3</Days></Expiration></Rule></LifecycleConfiguration>";
        let admin = server.writer(&host, None).await;
        admin.put("/thesis-data", &[("lifecycle", "")], body.into()).await.unwrap();
        assert_eq!(
            changed(&bucket(json!({})), &host).await,
            ["Change", "lifecycle: @@ -1 +0,0 @@\n-(rules that were made in another way)"]
        );
    }
}
