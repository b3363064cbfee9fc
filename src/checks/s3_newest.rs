//! `s3_newest`: the newest object below a prefix is not too old. What backups promise.

use anyhow::Result;
use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Check, Verdict};
use crate::cluster::postgres::ServiceName;
use crate::cluster::s3::object::Listed;
use crate::cluster::s3::{Access, Keys};
use crate::host::ReadHost;

/// The newest object of a bucket (below a prefix) is younger than so many hours. As long as there is none at all it passes: the
/// first one is still to come.
///
/// ```yaml
/// - s3_newest:
///     service: mlops/minio
///     bucket: thesis-backup
///     prefix: postgres/
///     max_age_hours: 26
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
    /// How old the newest may be, in hours: `26`.
    pub max_age_hours: u32,
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
        Ok(match listed {
            Ok(objects) => judge(&objects, self.max_age_hours, Timestamp::now()),
            Err(error) => Verdict::fail(error.to_string()),
        })
    }
}

fn judge(objects: &[Listed], max_age_hours: u32, now: Timestamp) -> Verdict {
    let Some(newest) = objects.iter().max_by_key(|object| object.modified) else {
        return Verdict::pass("there is none yet");
    };
    let hours = now.duration_since(newest.modified).as_hours();
    let text = format!("{}, {} bytes, is {hours} h old", newest.key, newest.size);
    if newest.size == 0 {
        Verdict::fail(format!("{text}: it is empty"))
    } else if hours >= i64::from(max_age_hours) {
        Verdict::fail(format!("{text}; it may be {max_age_hours} h"))
    } else {
        Verdict::pass(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Status;

    #[test]
    fn the_newest_counts() {
        let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(100);
        let object = |key: &str, hour: i64, size: u64| Listed {
            key: key.into(),
            modified: Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(hour),
            size,
        };
        let verdict = |objects: &[Listed]| {
            let verdict = judge(objects, 26, now);
            (verdict.status, verdict.detail)
        };
        assert_eq!(verdict(&[]), (Status::Pass, "there is none yet".into()));
        let (old, new) = (object("a", 50, 9), object("b", 90, 9));
        assert_eq!(verdict(&[old.clone(), new]), (Status::Pass, "b, 9 bytes, is 10 h old".into()));
        assert_eq!(verdict(&[old]), (Status::Fail, "a, 9 bytes, is 50 h old; it may be 26 h".into()));
        assert_eq!(verdict(&[object("c", 99, 0)]), (Status::Fail, "c, 0 bytes, is 1 h old: it is empty".into()));
    }
}
