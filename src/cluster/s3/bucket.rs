//! Buckets and their settings, as the S3 interface has them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Client, Error, Writer, policy};

/// What happens to objects of a bucket by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    /// Objects whose names begin so; empty for all.
    pub prefix: String,
    /// Days after which an object goes.
    pub expire_days: Option<u32>,
    /// Days after which a version that is not the newest goes.
    pub old_versions_days: Option<u32>,
}

/// Rules of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle {
    /// Sorted by name; empty for none.
    Rules(Vec<Rule>),
    /// Somebody made rules of a form that this program never writes.
    Foreign,
}

/// Whether a bucket keeps what is overwritten and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    Never,
    Enabled,
    Suspended,
}

#[derive(Deserialize)]
struct VersioningDocument {
    #[serde(rename = "Status", default)]
    status: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "LifecycleConfiguration")]
struct LifecycleDocument {
    #[serde(rename = "Rule", default)]
    rules: Vec<RuleDocument>,
}

// Unknown elements are refused, not passed over: they would be rules that nobody sees.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RuleDocument {
    #[serde(rename = "ID")]
    id: String,
    status: String,
    filter: Filter,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiration: Option<Expiration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noncurrent_version_expiration: Option<NoncurrentVersionExpiration>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    prefix: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Expiration {
    days: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct NoncurrentVersionExpiration {
    noncurrent_days: u32,
}

impl From<&Rule> for RuleDocument {
    fn from(rule: &Rule) -> Self {
        Self {
            id: rule.name.clone(),
            status: "Enabled".into(),
            filter: Filter { prefix: rule.prefix.clone() },
            expiration: rule.expire_days.map(|days| Expiration { days }),
            noncurrent_version_expiration: rule
                .old_versions_days
                .map(|noncurrent_days| NoncurrentVersionExpiration { noncurrent_days }),
        }
    }
}

/// `None` for what a server says of rules that are not ours.
fn rules_of(text: &str) -> Option<Vec<Rule>> {
    let document: LifecycleDocument = quick_xml::de::from_str(text).ok()?;
    let mut rules = Vec::new();
    for rule in document.rules {
        if rule.status != "Enabled" {
            return None;
        }
        rules.push(Rule {
            name: rule.id,
            prefix: rule.filter.prefix,
            expire_days: rule.expiration.map(|expiration| expiration.days),
            old_versions_days: rule.noncurrent_version_expiration.map(|expiration| expiration.noncurrent_days),
        });
    }
    rules.sort_by(|a, b| a.name.cmp(&b.name));
    Some(rules)
}

/// The answer, or `None` when the server says that there is no such thing.
fn unless<T>(absent: &str, outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Err(error) if error.code() == Some(absent) => Ok(None),
        other => other.map(Some),
    }
}

impl Client {
    /// Whether there is such a bucket.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn has_bucket(&self, bucket: &str) -> Result<bool, Error> {
        let answer = self.get(&format!("/{bucket}"), &[("location", "")]).await;
        Ok(unless("NoSuchBucket", answer)?.is_some())
    }

    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn versioning(&self, bucket: &str) -> Result<Versioning, Error> {
        let path = format!("/{bucket}");
        let answer = self.get(&path, &[("versioning", "")]).await?;
        let document: VersioningDocument =
            quick_xml::de::from_str(&answer.text()).map_err(|error| self.unexpected(&path, error))?;
        Ok(match document.status.as_str() {
            "Enabled" => Versioning::Enabled,
            "Suspended" => Versioning::Suspended,
            _ => Versioning::Never,
        })
    }

    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn lifecycle(&self, bucket: &str) -> Result<Lifecycle, Error> {
        let answer = self.get(&format!("/{bucket}"), &[("lifecycle", "")]).await;
        let Some(answer) = unless("NoSuchLifecycleConfiguration", answer)? else {
            return Ok(Lifecycle::Rules(Vec::new()));
        };
        Ok(rules_of(&answer.text()).map_or(Lifecycle::Foreign, Lifecycle::Rules))
    }

    /// What those without a key may do; `None` for nothing.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn bucket_policy(&self, bucket: &str) -> Result<Option<Value>, Error> {
        let path = format!("/{bucket}");
        let answer = self.get(&path, &[("policy", "")]).await;
        let Some(answer) = unless("NoSuchBucketPolicy", answer)? else { return Ok(None) };
        serde_json::from_slice(&answer.body).map(Some).map_err(|error| self.unexpected(&path, error))
    }
}

impl Writer {
    /// Makes a bucket; one that is ours already is fine.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), Error> {
        unless("BucketAlreadyOwnedByYou", self.put(&format!("/{bucket}"), &[], Vec::new()).await).map(|_| ())
    }

    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn set_versioning(&self, bucket: &str, enabled: bool) -> Result<(), Error> {
        let status = if enabled { "Enabled" } else { "Suspended" };
        let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        self.put(&format!("/{bucket}"), &[("versioning", "")], body.into_bytes()).await.map(|_| ())
    }

    /// Puts these rules in the place of all others; none removes all.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn set_lifecycle(&self, bucket: &str, rules: &[Rule]) -> Result<(), Error> {
        let path = format!("/{bucket}");
        let query = [("lifecycle", "")];
        if rules.is_empty() {
            return self.delete(&path, &query).await.map(|_| ());
        }
        let document = LifecycleDocument { rules: rules.iter().map(RuleDocument::from).collect() };
        let body = quick_xml::se::to_string(&document).map_err(|error| self.unexpected(&path, error))?;
        self.put(&path, &query, body.into_bytes()).await.map(|_| ())
    }

    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn set_bucket_policy(&self, bucket: &str, policy: Option<&Value>) -> Result<(), Error> {
        let path = format!("/{bucket}");
        let query = [("policy", "")];
        match policy {
            Some(policy) => self.put(&path, &query, policy::normal(policy).to_string().into_bytes()).await.map(|_| ()),
            None => self.delete(&path, &query).await.map(|_| ()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive_the_way_to_the_server_and_back() {
        let rules = [
            Rule { name: "a".into(), prefix: "x & <y>/".into(), expire_days: Some(14), old_versions_days: None },
            Rule { name: "b".into(), prefix: String::new(), expire_days: None, old_versions_days: Some(7) },
        ];
        let document = LifecycleDocument { rules: rules.iter().map(RuleDocument::from).collect() };
        let text = quick_xml::se::to_string(&document).unwrap();
        assert_eq!(rules_of(&text).unwrap(), rules);
    }

    #[test]
    fn rules_that_would_not_be_seen_are_foreign() {
        let rule = |inner: &str| {
            format!(
                "<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><ExpiryUpdatedAt>2026-11-25T10:00:00Z\
                 </ExpiryUpdatedAt><Rule><ID>a</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>{inner}</Rule>\
                 </LifecycleConfiguration>"
            )
        };
        assert_eq!(rules_of(&rule("<Expiration><Days>3</Days></Expiration>")).unwrap()[0].expire_days, Some(3));
        let transition = "<Transition><Days>1</Days><StorageClass>COLD</StorageClass></Transition>";
        assert_eq!(rules_of(&rule(transition)), None);
        assert_eq!(rules_of(&rule("<Expiration><Date>2027-01-01T00:00:00Z</Date></Expiration>")), None);
        assert_eq!(rules_of(&rule("").replace("Enabled", "Disabled")), None);
    }
}
