//! `sql`: a PostgreSQL server in the cluster answers a query.

use anyhow::Result;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;

use super::{Check, Verdict};
use crate::cluster::postgres::{Access, ServiceName, sql_error};
use crate::host::ReadHost;

/// A PostgreSQL server in the cluster answers a query, which cannot change anything (its transaction is read-only).
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    /// The server's Service: `mlops/postgres`.
    pub service: ServiceName,
    /// The database: `mlflow`.
    pub database: String,
    /// Whom to connect as; `postgres` when not given.
    #[serde(default = "default_user")]
    pub user: String,
    /// The password; when not given it is the value of `POSTGRES_PASSWORD` in `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// A Secret in the namespace of the service; `postgres-credentials` when not given.
    #[serde(default = "default_secret")]
    pub secret: String,
    /// The query: `select 1`.
    pub query: String,
    /// What the first column of the first row must be: a text, a number or a truth value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
}

fn default_user() -> String {
    "postgres".into()
}

fn default_secret() -> String {
    "postgres-credentials".into()
}

/// A value as PostgreSQL writes it.
fn as_text(value: &Value) -> String {
    match value {
        Value::Bool(true) => "t".into(),
        Value::Bool(false) => "f".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[async_trait]
impl Check for Sql {
    const KIND: &'static str = "sql";

    fn name(&self) -> String {
        format!("{} in {}/{}", self.query, self.service, self.database)
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let access = Access {
            service: &self.service,
            user: &self.user,
            password: self.password.as_deref(),
            secret: &self.secret,
            read_only: true,
        };
        let session = match access.connect(host, &self.database).await {
            Ok(session) => session,
            Err(error) => return Ok(Verdict::fail(error.to_string())),
        };
        let rows = match session.simple_query(&self.query).await {
            Ok(rows) => rows,
            Err(error) => {
                return Ok(Verdict::fail(sql_error("the query failed", &error).to_string()));
            }
        };
        let first = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0)),
            _ => None,
        });
        let Some(wanted) = self.equals.as_ref().map(as_text) else {
            return Ok(Verdict::pass(format!("{} as {} answers", self.database, self.user)));
        };
        Ok(match first {
            Some(Some(found)) if found == wanted => Verdict::pass(format!("answers {wanted}")),
            Some(Some(found)) => Verdict::fail(format!("answers {found}, not {wanted}")),
            Some(None) => Verdict::fail(format!("answers NULL, not {wanted}")),
            None => Verdict::fail(format!("answers no row, not {wanted}")),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Status;
    use crate::cluster::testing::{Postgres, TestHost};

    fn check(changes: &Value) -> Sql {
        let mut spec = json!({"service": "mlops/postgres", "database": "postgres", "query": "select 1"});
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    async fn verdict(host: &TestHost, changes: Value) -> (Status, String) {
        let verdict = check(&changes).run(host).await.unwrap();
        (verdict.status, verdict.detail)
    }

    #[tokio::test]
    async fn passes_and_fails_for_the_right_reasons() {
        let Some(server) = Postgres::start() else {
            return;
        };
        let host = server.host().await;
        for (changes, status, detail) in [
            (json!({}), Status::Pass, "postgres as postgres answers"),
            (json!({"equals": 1}), Status::Pass, "answers 1"),
            (json!({"equals": 2}), Status::Fail, "answers 1, not 2"),
            (json!({"query": "select true", "equals": true}), Status::Pass, "answers t"),
            (json!({"query": "select null", "equals": 1}), Status::Fail, "answers NULL, not 1"),
            (json!({"query": "select 1 where false", "equals": 1}), Status::Fail, "answers no row, not 1"),
            (
                json!({"query": "select * from runs"}),
                Status::Fail,
                "the query failed: relation \"runs\" does not exist (42P01)",
            ),
            (
                json!({"query": "create table t ()"}),
                Status::Fail,
                "the query failed: cannot execute CREATE TABLE in a read-only transaction (25006)",
            ),
            (
                json!({"database": "mlflow"}),
                Status::Fail,
                "service mlops/postgres: database \"mlflow\" does not exist\n  hint: declare `postgres_database` \"mlflow\" before it",
            ),
        ] {
            assert_eq!(verdict(&host, changes.clone()).await, (status, detail.to_owned()), "{changes}");
        }
        let (status, detail) = verdict(&host, json!({"password": "wrong-canary"})).await;
        assert_eq!(status, Status::Fail);
        assert!(detail.contains("password authentication failed") && !detail.contains("canary"), "{detail}");

        drop(server);
        let (status, detail) = verdict(&host, json!({})).await;
        assert_eq!(status, Status::Fail);
        assert!(detail.starts_with("service mlops/postgres does not answer: Connection refused"), "{detail}");
    }

    #[tokio::test]
    async fn without_a_cluster_it_fails_with_the_reason() {
        let (status, detail) = verdict(&TestHost::new(), json!({})).await;
        assert_eq!(status, Status::Fail);
        assert_eq!(detail, "k3s is not installed yet (no /etc/rancher/k3s/k3s.yaml)");
    }
}
