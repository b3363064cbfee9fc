//! `postgres_superuser`: the superuser of a PostgreSQL server in the cluster has its password.

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::postgres_role::{Looked, default_admin_user, look};
use super::{Observed, Resolve, Resource};
use crate::cluster::postgres::{Access, ServiceName, name_fault, new_verifier, quote_name, quote_text};
use crate::diff::Diff;
use crate::host::{ReadHost, WriteHost};

/// The superuser of a PostgreSQL server that runs in the cluster has this password. The server itself takes a password from its
/// environment only once, when it makes its data directory; this is how a changed one gets in. It is set from inside the
/// server's pod, through the local socket that asks for none, so that no old password has to be known. Nothing restarts.
///
/// Its place is behind the manifest of the server and before everything that connects as superuser.
///
/// ```yaml
/// - postgres_superuser: { service: mlops/postgres, password: "{{ secret.postgres.password }}" }
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSuperuser {
    /// The server's Service: `mlops/postgres`.
    pub service: ServiceName,
    /// The superuser; `postgres` when not given.
    #[serde(default = "default_admin_user")]
    pub name: String,
    /// Its password: `"{{ secret.postgres.password }}"`.
    pub password: String,
}

/// Fields of the difference.
const PASSWORD: &str = "password";

impl PostgresSuperuser {
    fn access(&self) -> Access<'_> {
        Access { service: &self.service, user: &self.name, password: Some(&self.password), secret: "", read_only: true }
    }
}

#[async_trait]
impl Resource for PostgresSuperuser {
    const KIND: &'static str = "postgres_superuser";

    /// Whether the password opens the door.
    type State = bool;

    fn name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        if let Some(fault) = name_fault("role", &self.name) {
            bail!(fault);
        }
        ensure!(!self.password.is_empty(), "the password of role {:?} is empty", self.name);
        ensure!(!self.password.contains('\0'), "the password of role {:?} holds a zero byte", self.name);
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<bool>> {
        Ok(match look(self.access(), host).await? {
            Looked::At(_) => Observed::Known(true),
            Looked::WrongPassword(_) => Observed::Known(false),
            Looked::Pending(reason) => Observed::Pending(reason),
        })
    }

    fn diff(&self, opens: &bool) -> Diff {
        let mut diff = Diff::none();
        if !opens {
            diff.push(PASSWORD, "••• (changed)");
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, _: &Diff) -> Result<()> {
        let cluster = host.cluster_mut().await?;
        let ServiceName { namespace, name, .. } = &self.service;
        let pod = cluster
            .reader()
            .ready_pod_of(namespace, name)
            .await?
            .with_context(|| format!("the Service {} leads to no ready pod", self.service))?;
        // Only the verifier, and by standard input: the password is in no process list and no log.
        let statement = format!(
            "ALTER ROLE {} PASSWORD {};\n\\q\n",
            quote_name(&self.name),
            quote_text(&new_verifier(&self.password))
        );
        let argv = ["psql", "-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-U", &self.name, "-d", "postgres"];
        let done = cluster.exec(namespace, &pod, &argv, &statement).await?;
        if !done.success {
            bail!(
                "psql in pod {namespace}/{pod} could not set the password of {:?}: {}\n  hint: the local socket of the server must \
                 let its superuser in without a password (`local all all trust` in pg_hba.conf, as the official image has it)",
                self.name,
                done.stderr.trim()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::{FixedApi, Postgres, TestHost};
    use crate::resources::{AnyResource, Planned};

    fn superuser(password: &str) -> PostgresSuperuser {
        serde_json::from_value(json!({"service": "mlops/postgres", "password": password})).unwrap()
    }

    #[tokio::test]
    async fn the_password_is_tried_and_shown_to_nobody() {
        let (reader, _) = FixedApi::serve([]).await;
        let blank = TestHost::new().cluster(reader);
        let plan = superuser("x").plan(&blank).await.unwrap();
        assert_eq!(plan, Planned::Pending("needs service mlops/postgres".into()));

        let Some(server) = Postgres::start() else { return };
        let host = server.host().await;
        assert_eq!(superuser(Postgres::PASSWORD).plan(&host).await.unwrap(), Planned::InSync);
        let Planned::Change(diff) = superuser("canary").plan(&host).await.unwrap() else { panic!("nothing to do") };
        assert_eq!(diff.changes.len(), 1);
        assert!(diff.has(PASSWORD) && !format!("{diff:?}").contains("canary"));
        // The pod is asked for, and its absence named. That the change works is shown on a sandbox host.
        let error = Resource::apply(&superuser("canary"), &host, &diff).await.unwrap_err().to_string();
        assert_eq!(error, "the Service mlops/postgres leads to no ready pod");
    }
}
