//! `s3_newest`: the newest object below a prefix is not too old. What backups promise.

use anyhow::Result;
use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Check, Verdict};
use crate::cluster::postgres::ServiceName;
use crate::cluster::s3::object::Listed;
use crate::cluster::s3::{Access, Keys};
use crate::cluster::{ObjectRef, Rollout, failed_job};
use crate::host::ReadHost;

/// `namespace/name` of a CronJob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CronJobName {
    pub namespace: String,
    pub name: String,
}

impl TryFrom<String> for CronJobName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("{text:?} is not a CronJob: write `namespace/name`")),
        }
    }
}

impl From<CronJobName> for String {
    fn from(name: CronJobName) -> Self {
        name.to_string()
    }
}

impl std::fmt::Display for CronJobName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl JsonSchema for CronJobName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CronJobName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[^/]+/[^/]+$"})
    }
}

/// The newest object of a bucket (below a prefix, with an ending) is younger than so many hours. With `cronjob`, none at all is fine
/// as long as that CronJob is young and has not succeeded yet, and what its last run died of is part of the answer; without it,
/// there must be one.
///
/// ```yaml
/// - s3_newest:
///     service: mlops/minio
///     bucket: thesis-backup
///     prefix: postgres/
///     suffix: /complete
///     max_age_hours: 26
///     cronjob: mlops/postgres-backup
///     access_key: backup
///     secret_key: "{{ secret.minio.backup_secret_key }}"
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Newest {
    /// The server's Service: `mlops/minio`, or `mlops/minio:9000`.
    pub service: ServiceName,
    /// The bucket: `thesis-backup`.
    pub bucket: String,
    /// Only objects whose names begin so: `postgres/`; all when not given.
    #[serde(default)]
    pub prefix: String,
    /// Only objects whose names end so: `/complete`; all when not given.
    #[serde(default)]
    pub suffix: String,
    /// How old the newest may be, in hours: `26`.
    pub max_age_hours: u32,
    /// Who makes them, `namespace/name`: `mlops/postgres-backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cronjob: Option<CronJobName>,
    /// Whose key: `backup`.
    pub access_key: String,
    /// `"{{ secret.minio.backup_secret_key }}"`.
    pub secret_key: String,
}

#[async_trait]
impl Check for S3Newest {
    const KIND: &'static str = "s3_newest";

    fn name(&self) -> String {
        format!("newest of {}/{}/{}", self.service, self.bucket, self.prefix)
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let keys = Keys::Given { access_key: &self.access_key, secret_key: &self.secret_key };
        let listed = match (Access { service: &self.service, keys }).connect(host).await {
            Ok(client) => client.list(&self.bucket, &self.prefix).await,
            Err(error) => Err(error),
        };
        let objects = match listed {
            Ok(objects) => objects,
            Err(error) => return Ok(Verdict::fail(error.to_string())),
        };
        let newest = objects.iter().filter(|object| object.key.ends_with(&self.suffix)).max_by_key(|it| it.modified);
        let maker = match &self.cronjob {
            None => None,
            Some(name) => match Maker::look(host, name).await {
                Ok(maker) => Some(maker),
                Err(reason) => return Ok(Verdict::fail(reason)),
            },
        };
        Ok(judge(newest, self.max_age_hours, maker.as_ref(), Timestamp::now()))
    }
}

fn judge(newest: Option<&Listed>, max_age_hours: u32, maker: Option<&Maker>, now: Timestamp) -> Verdict {
    let hours = |since: Timestamp| now.duration_since(since).as_hours();
    let most = i64::from(max_age_hours);
    let tried = maker.and_then(|maker| maker.failure.as_deref());
    let because = tried.map_or_else(String::new, |failure| format!("; the last run failed: {failure}"));
    let again = maker.map_or_else(String::new, |maker| {
        format!(
            "{because}\n  hint: one more run: k3s kubectl -n {} create job again-{} --from=cronjob/{}",
            maker.name.namespace,
            now.as_second(),
            maker.name.name
        )
    });
    let Some(newest) = newest else {
        return match maker {
            Some(Maker { last_success: None, created, name, .. }) if hours(*created) < most => {
                let text = format!("there is none yet; CronJob {name} is {} h old", hours(*created));
                if tried.is_some() { Verdict::fail(text + &again) } else { Verdict::pass(text) }
            }
            _ => Verdict::fail(format!("there is none{again}")),
        };
    };
    let text = format!("{}, {} bytes, is {} h old", newest.key, newest.size, hours(newest.modified));
    if newest.size == 0 {
        Verdict::fail(format!("{text}: it is empty{again}"))
    } else if hours(newest.modified) >= most {
        Verdict::fail(format!("{text}; it may be {max_age_hours} h{again}"))
    } else if tried.is_some() {
        Verdict::warn(text + &because)
    } else {
        Verdict::pass(text)
    }
}

/// The CronJob that makes the objects.
struct Maker {
    name: CronJobName,
    created: Timestamp,
    last_success: Option<Timestamp>,
    /// Why its newest Job failed; `None` when it did not, or still runs.
    failure: Option<String>,
}

impl Maker {
    async fn look(host: &dyn ReadHost, name: &CronJobName) -> Result<Self, String> {
        let reader = host.cluster().await.map_err(|unavailable| unavailable.reason)?;
        let text = |error: crate::cluster::Error| error.to_string();
        let reference = ObjectRef::new("batch/v1", "CronJob", Some(&name.namespace), &name.name);
        let live = reader.get(&reference).await.map_err(text)?.ok_or_else(|| format!("{reference} does not exist"))?;
        let jobs = reader.list("batch/v1", "Job", Some(&name.namespace), "").await.map_err(text)?;
        let newest = newest_of(&jobs, &live["metadata"]["uid"]);
        let failure = match newest.filter(|job| failed_job(job).is_some()).map(ObjectRef::of) {
            Some(Ok(job)) => match reader.rollout(&job).await.map_err(text)? {
                Rollout::Hopeless(trouble) => Some(trouble.to_string()),
                Rollout::Ready | Rollout::Waiting(_) => None,
            },
            _ => None,
        };
        let time = |pointer: &str| live.pointer(pointer).and_then(Value::as_str).and_then(|text| text.parse().ok());
        Ok(Self {
            name: name.clone(),
            created: time("/metadata/creationTimestamp").unwrap_or(Timestamp::UNIX_EPOCH),
            last_success: time("/status/lastSuccessfulTime"),
            failure,
        })
    }
}

/// The newest Job that a CronJob started, or that somebody made from it.
fn newest_of<'a>(jobs: &'a [Value], cronjob: &Value) -> Option<&'a Value> {
    let owned = |job: &&Value| {
        let owners = job.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.is_some_and(|owners| owners.iter().any(|owner| owner.get("uid") == Some(cronjob)))
    };
    // Times of this form are in the order of their letters.
    jobs.iter().filter(owned).max_by_key(|job| job.pointer("/metadata/creationTimestamp").and_then(Value::as_str))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Status;

    const HOUR: fn(i64) -> Timestamp = |hour| Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(hour);

    fn object(key: &str, hour: i64, size: u64) -> Listed {
        Listed { key: key.into(), modified: HOUR(hour), size }
    }

    fn maker(created: i64, last_success: Option<i64>, failure: Option<&str>) -> Maker {
        let name = CronJobName { namespace: "mlops".into(), name: "postgres-backup".into() };
        Maker {
            name,
            created: HOUR(created),
            last_success: last_success.map(HOUR),
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn the_newest_counts() {
        let verdict = |object: &Listed| {
            let verdict = judge(Some(object), 26, None, HOUR(100));
            (verdict.status, verdict.detail)
        };
        assert_eq!(verdict(&object("b", 90, 9)), (Status::Pass, "b, 9 bytes, is 10 h old".into()));
        assert_eq!(verdict(&object("a", 50, 9)), (Status::Fail, "a, 9 bytes, is 50 h old; it may be 26 h".into()));
        assert_eq!(verdict(&object("c", 99, 0)), (Status::Fail, "c, 0 bytes, is 1 h old: it is empty".into()));
    }

    #[test]
    fn none_is_fine_only_before_the_first_can_be_there() {
        let verdict = |maker: Option<Maker>| {
            let verdict = judge(None, 26, maker.as_ref(), HOUR(100));
            (verdict.status, verdict.detail.lines().next().unwrap_or_default().to_owned())
        };
        assert_eq!(verdict(None), (Status::Fail, "there is none".into()));
        let young = "there is none yet; CronJob mlops/postgres-backup is 2 h old";
        assert_eq!(verdict(Some(maker(98, None, None))), (Status::Pass, young.into()));
        // It made some, and they are gone; it never made one; its first one failed.
        assert_eq!(verdict(Some(maker(98, Some(99), None))), (Status::Fail, "there is none".into()));
        assert_eq!(verdict(Some(maker(70, None, None))), (Status::Fail, "there is none".into()));
        let failed = format!("{young}; the last run failed: exit code 1");
        assert_eq!(verdict(Some(maker(98, None, Some("exit code 1")))), (Status::Fail, failed));
    }

    #[test]
    fn a_failed_run_is_told_before_the_promise_is_broken() {
        let maker = maker(0, Some(90), Some("exit code 1"));
        let fresh = judge(Some(&object("b", 90, 9)), 26, Some(&maker), HOUR(100));
        assert_eq!(fresh, Verdict::warn("b, 9 bytes, is 10 h old; the last run failed: exit code 1"));
        let old = judge(Some(&object("b", 50, 9)), 26, Some(&maker), HOUR(100));
        assert_eq!(
            old,
            Verdict::fail(
                "b, 9 bytes, is 50 h old; it may be 26 h; the last run failed: exit code 1\n  hint: one more run: k3s kubectl -n \
                 mlops create job again-360000 --from=cronjob/postgres-backup"
            )
        );
    }

    #[test]
    fn jobs_of_other_cronjobs_are_not_asked() {
        let job = |name: &str, owner: &str, created: &str| json!({"metadata": {"name": name, "creationTimestamp": created, "ownerReferences": [{"uid": owner}]}});
        let jobs = [
            job("a", "1", "2026-11-28T02:30:00Z"),
            job("b", "1", "2026-11-29T02:30:00Z"),
            job("c", "2", "2026-11-29T03:30:00Z"),
            json!({"metadata": {"name": "d", "creationTimestamp": "2026-11-29T04:30:00Z"}}),
        ];
        assert_eq!(newest_of(&jobs, &json!("1")).unwrap()["metadata"]["name"], "b");
        assert_eq!(newest_of(&jobs, &json!("3")), None);
    }

    #[test]
    fn a_cronjob_has_a_namespace() {
        let name: CronJobName = serde_json::from_value(json!("mlops/postgres-backup")).unwrap();
        assert_eq!(serde_json::to_value(&name).unwrap(), json!("mlops/postgres-backup"));
        for wrong in ["postgres-backup", "/a", "a/", "a/b/c"] {
            let error = serde_json::from_value::<CronJobName>(json!(wrong)).unwrap_err().to_string();
            assert!(error.contains("write `namespace/name`"), "{error}");
        }
    }
}
