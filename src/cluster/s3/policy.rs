//! Policies: who may do what with which buckets. Pure.

use serde_json::{Map, Value, json};

/// Where checks write: they take back what they wrote, versions included.
pub const PROBE_FOLDER: &str = ".provision";

/// What may be done with the objects of a bucket that one may write to. Versions are not among it: what a leaked key deletes
/// or overwrites in a bucket that keeps versions can be had back.
const WRITE: [&str; 6] = [
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:GetObjectVersion",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
];

const READ: [&str; 2] = ["s3:GetObject", "s3:GetObjectVersion"];

const LOOK: [&str; 4] =
    ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:ListBucketVersions"];

/// A policy of a user: all objects of `read_write`, reading those of `read_only`, and nothing else.
pub fn limited_to(read_write: &[String], read_only: &[String]) -> Value {
    let arn = |buckets: &mut dyn Iterator<Item = &String>, rest: &str| -> Vec<String> {
        let mut arns: Vec<String> = buckets.map(|bucket| format!("arn:aws:s3:::{bucket}{rest}")).collect();
        arns.sort();
        arns
    };
    let statements = [
        (&LOOK[..], arn(&mut read_write.iter().chain(read_only), "")),
        (&READ[..], arn(&mut read_only.iter(), "/*")),
        (&WRITE[..], arn(&mut read_write.iter(), "/*")),
        (&["s3:DeleteObjectVersion"][..], arn(&mut read_write.iter(), &format!("/{PROBE_FOLDER}/*"))),
    ];
    let statements: Vec<Value> = statements
        .into_iter()
        .filter(|(_, resources)| !resources.is_empty())
        .map(|(actions, resources)| json!({"Effect": "Allow", "Action": actions, "Resource": resources}))
        .collect();
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// The one form of all that mean the same: lists in place of single values, sorted; everybody as `{"AWS": ["*"]}`; empty
/// names left out; keys and statements in order.
pub fn normal(policy: &Value) -> Value {
    let Value::Object(fields) = policy else { return policy.clone() };
    let mut out = Map::new();
    out.insert("Version".into(), fields.get("Version").cloned().unwrap_or_else(|| json!("2012-10-17")));
    for (key, value) in sorted(fields) {
        match (key.as_str(), value) {
            ("Version", _) => {}
            ("Id" | "ID", Value::String(text)) if text.is_empty() => {}
            ("Statement", Value::Array(statements)) => {
                let mut statements: Vec<Value> = statements.iter().map(statement).collect();
                statements.sort_by_cached_key(Value::to_string);
                out.insert(key.clone(), Value::Array(statements));
            }
            ("Statement", one) => {
                out.insert(key.clone(), Value::Array(vec![statement(one)]));
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}

fn statement(value: &Value) -> Value {
    let Value::Object(fields) = value else { return value.clone() };
    let mut out = Map::new();
    for (key, value) in sorted(fields) {
        let value = match key.as_str() {
            "Sid" if value.as_str() == Some("") => continue,
            "Condition" if value.as_object().is_some_and(Map::is_empty) => continue,
            "Action" | "NotAction" | "Resource" | "NotResource" => list(value),
            "Principal" => match value {
                Value::String(who) => json!({"AWS": [who]}),
                other => inner_lists(other, 1),
            },
            "Condition" => inner_lists(value, 2),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

/// Lists `depth` keys below.
fn inner_lists(value: &Value, depth: usize) -> Value {
    match value {
        Value::Object(fields) if depth > 0 => {
            Value::Object(sorted(fields).map(|(key, value)| (key.clone(), inner_lists(value, depth - 1))).collect())
        }
        other => list(other),
    }
}

fn list(value: &Value) -> Value {
    let mut items = match value {
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    };
    items.sort_by_cached_key(Value::to_string);
    items.dedup();
    Value::Array(items)
}

fn sorted(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(key, _)| *key);
    fields.into_iter()
}

/// For people: one value per line.
pub fn shown(policy: Option<&Value>) -> String {
    policy.map_or_else(String::new, |policy| format!("{:#}\n", normal(policy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_has_one_form() {
        let short = json!({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
            "Resource": ["arn:aws:s3:::b/*", "arn:aws:s3:::a/*"], "Condition": {"StringEquals": {"s3:prefix": "x"}}},
            "Version": "2012-10-17"});
        let long = json!({"ID": "", "Version": "2012-10-17", "Statement": [{"Sid": "", "Effect": "Allow",
            "Principal": {"AWS": ["*"]}, "Resource": ["arn:aws:s3:::a/*", "arn:aws:s3:::b/*"],
            "Action": ["s3:GetObject"], "Condition": {"StringEquals": {"s3:prefix": ["x"]}}}]});
        assert_eq!(shown(Some(&short)), shown(Some(&long)));
        let other = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny"}]});
        assert_ne!(shown(Some(&short)), shown(Some(&other)));
        assert_eq!(shown(None), "");
    }

    #[test]
    fn a_user_gets_only_its_own_buckets() {
        let buckets = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let policy = limited_to(&buckets(&["models"]), &buckets(&["data"]));
        let text = policy.to_string();
        assert_eq!(text.matches("Allow").count(), 4);
        assert!(!text.contains("s3:*") && !text.contains(":::*"), "{text}");
        let statements = policy["Statement"].as_array().cloned().unwrap_or_default();
        let writers: Vec<_> = statements.iter().filter(|it| it["Action"].to_string().contains("PutObject")).collect();
        assert_eq!(writers.len(), 1);
        assert_eq!(writers[0]["Resource"], json!(["arn:aws:s3:::models/*"]));
        assert_eq!(limited_to(&[], &buckets(&["data"]))["Statement"].as_array().map(Vec::len), Some(2));
    }
}
