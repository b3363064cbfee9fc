//! `postgres_database`: a database of a PostgreSQL server in the cluster belongs to its owner, and to nobody else.

use anyhow::{Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::postgres_role::{
    Looked, RoleState, change_role, check_role, default_admin_secret, default_admin_user, look, open_to_change,
    role_diff, role_state,
};
use super::{Observed, Resolve, Resource};
use crate::cluster::postgres::{Access, ServiceName, Session, name_fault, quote_name, sql_error};
use crate::diff::{Action, Diff};
use crate::host::{ReadHost, WriteHost};

/// A database of a PostgreSQL server that runs in the cluster, also of one whose volume existed before. Only its owner (and
/// superusers) may connect to it. It is never deleted.
///
/// ```yaml
/// - postgres_database: { service: mlops/postgres, name: mlflow, owner: mlflow, password: "{{ secret.postgres.mlflow_password }}" }
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresDatabase {
    /// The server's Service: `mlops/postgres`.
    pub service: ServiceName,
    /// The database: `mlflow`.
    pub name: String,
    /// The role it belongs to: `mlflow`.
    pub owner: String,
    /// The owner's password: the role is then made and kept as by `postgres_role`. When not given the role must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Other roles that may connect, which must exist: `[backup]`. What they may do there is up to their own rights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connect: Vec<String>,
    /// Whom to change it as: a superuser; `postgres` when not given.
    #[serde(default = "default_admin_user")]
    pub admin_user: String,
    /// The superuser's password; when not given it is read from `admin_secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_password: Option<String>,
    /// A Secret in the namespace of the service whose key `POSTGRES_PASSWORD` is the superuser's password;
    /// `postgres-credentials` when not given.
    #[serde(default = "default_admin_secret")]
    pub admin_secret: String,
}

/// A database and its owner as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The role that should own it.
    pub role: Option<RoleState>,
    pub database: Option<DatabaseState>,
}

/// A database as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseState {
    pub owner: String,
    /// Every role may connect.
    pub open_to_all: bool,
    /// The wanted owner may connect.
    pub open_to_owner: bool,
    /// Which of the others that should may not connect by a right of their own.
    pub shut_to: Vec<String>,
}

/// Fields of the difference.
const DATABASE: &str = "database";
const OWNER: &str = "owner";
const PUBLIC: &str = "access of everybody";
const ACCESS: &str = "access of the owner";
const CONNECT: &str = "access of others";

impl PostgresDatabase {
    fn access(&self) -> Access<'_> {
        Access {
            service: &self.service,
            user: &self.admin_user,
            password: self.admin_password.as_deref(),
            secret: &self.admin_secret,
            read_only: true,
        }
    }

    async fn state(&self, session: &Session) -> Result<State> {
        let role = role_state(session, &self.owner, self.password.as_deref()).await?;
        // 'c' is short for CONNECT in the list of rights; grantee 0 is everybody.
        let row = session
            .query_opt(
                "SELECT pg_catalog.pg_get_userbyid(d.datdba)::text,
                        EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
                                WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT'),
                        EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = $2
                                AND pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')),
                        ARRAY(SELECT wanted.name FROM unnest($3::text[]) AS wanted (name) WHERE NOT EXISTS (
                                SELECT FROM pg_catalog.aclexplode(d.datacl) a
                                JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
                                WHERE r.rolname = wanted.name AND a.privilege_type = 'CONNECT'))
                 FROM pg_catalog.pg_database d WHERE d.datname = $1",
                &[&self.name, &self.owner, &self.connect],
            )
            .await
            .map_err(|error| sql_error("reading the databases", &error))?;
        Ok(State {
            role,
            database: row.map(|row| DatabaseState {
                owner: row.get(0),
                open_to_all: row.get(1),
                open_to_owner: row.get(2),
                shut_to: row.get(3),
            }),
        })
    }

    async fn execute(&self, session: &Session, what: &str, statement: String) -> Result<()> {
        session.batch_execute(&statement).await.map_err(|error| sql_error(&format!("{what} {:?}", self.name), &error))
    }
}

#[async_trait]
impl Resource for PostgresDatabase {
    const KIND: &'static str = "postgres_database";

    type State = State;

    fn name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        let others = self.connect.iter().map(|role| ("role", role));
        for (what, name) in [("database", &self.name), ("role", &self.owner)].into_iter().chain(others) {
            if let Some(fault) = name_fault(what, name) {
                bail!(fault);
            }
        }
        if ["postgres", "template0", "template1"].contains(&self.name.as_str()) {
            bail!("the database {:?} belongs to the server: choose another name", self.name);
        }
        match &self.password {
            Some(password) => check_role(&self.owner, &self.admin_user, password),
            None => Ok(()),
        }
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        match look(self.access(), host).await? {
            Looked::Pending(reason) | Looked::WrongPassword(reason) => Ok(Observed::Pending(reason)),
            Looked::At(session) => Ok(Observed::Known(self.state(&session).await?)),
        }
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        if self.password.is_some() {
            role_diff(&mut diff, &self.owner, state.role);
        }
        let Some(database) = &state.database else {
            diff.action = Some(Action::Create);
            diff.push(DATABASE, format!("create {:?} for {:?} alone", self.name, self.owner));
            if !self.connect.is_empty() {
                diff.push(CONNECT, format!("CONNECT for {}", self.connect.join(", ")));
            }
            return diff;
        };
        // The database is there: whatever else is made, it changes.
        if diff.action == Some(Action::Create) {
            diff.action = Some(Action::Change);
        }
        diff.compare(OWNER, &database.owner, &self.owner);
        if database.open_to_all {
            diff.push(PUBLIC, "CONNECT -> none");
        }
        if !database.open_to_owner && database.owner == self.owner {
            diff.push(ACCESS, "none -> CONNECT");
        }
        if !database.shut_to.is_empty() {
            diff.push(CONNECT, format!("CONNECT for {}", database.shut_to.join(", ")));
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let session = open_to_change(self.access(), host).await?;
        match &self.password {
            Some(password) => change_role(&session, &self.owner, password, diff).await?,
            None => {
                if role_state(&session, &self.owner, None).await?.is_none() {
                    bail!(
                        "the role {:?} does not exist on {}\n  hint: give its `password` here, or declare `postgres_role` before \
                         it",
                        self.owner,
                        self.service
                    );
                }
            }
        }
        let (name, owner) = (quote_name(&self.name), quote_name(&self.owner));
        let create = diff.has(DATABASE);
        if create {
            self.execute(&session, "CREATE DATABASE", format!("CREATE DATABASE {name} OWNER {owner}")).await?;
        }
        if diff.has(OWNER) {
            self.execute(&session, "ALTER DATABASE", format!("ALTER DATABASE {name} OWNER TO {owner}")).await?;
        }
        if create || diff.has(PUBLIC) || diff.has(OWNER) || diff.has(ACCESS) {
            // In one transaction: never a moment in which the owner is shut out.
            self.execute(
                &session,
                "rights of",
                format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {owner}"),
            )
            .await?;
        }
        if diff.has(CONNECT) {
            let roles: Vec<String> = self.connect.iter().map(|role| quote_name(role)).collect();
            let grant = format!("GRANT CONNECT ON DATABASE {name} TO {}", roles.join(", "));
            self.execute(&session, "rights of", grant).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::{Postgres, TestHost};
    use crate::resources::{AnyResource, Planned};

    fn database(password: Option<&str>) -> PostgresDatabase {
        let mut spec = json!({"service": "mlops/postgres", "name": "mlflow", "owner": "mlflow"});
        if let Some(password) = password {
            spec["password"] = json!(password);
        }
        serde_json::from_value(spec).unwrap()
    }

    async fn changed(resource: &PostgresDatabase, host: &TestHost) -> Vec<String> {
        let Planned::Change(diff) = resource.plan(host).await.unwrap() else { panic!("nothing to do") };
        Resource::apply(resource, host, &diff).await.unwrap();
        assert_eq!(resource.plan(host).await.unwrap(), Planned::InSync);
        diff.changes.into_iter().map(|change| format!("{}: {}", change.field, change.detail)).collect()
    }

    #[tokio::test]
    async fn made_with_its_owner_and_repaired() {
        let Some(server) = Postgres::start() else {
            return;
        };
        let host = server.host().await;

        let without = database(None);
        let Planned::Change(diff) = without.plan(&host).await.unwrap() else { panic!("nothing to do") };
        let error = Resource::apply(&without, &host, &diff).await.unwrap_err().to_string();
        assert!(error.contains("the role \"mlflow\" does not exist on mlops/postgres"), "{error}");

        let resource = database(Some("canary-pw"));
        assert_eq!(
            changed(&resource, &host).await,
            ["role: create \"mlflow\" with login and password •••", "database: create \"mlflow\" for \"mlflow\" alone"]
        );
        assert_eq!(without.plan(&host).await.unwrap(), Planned::InSync);

        // The owner may make tables in it; another role may not even connect.
        let as_user = |user: &'static str, password: &'static str| Access {
            user,
            password: Some(password),
            read_only: false,
            ..resource.access()
        };
        let owner = as_user("mlflow", "canary-pw").connect(&host, "mlflow").await.unwrap();
        owner.batch_execute("CREATE TABLE t (a int)").await.unwrap();
        let admin = open_to_change(resource.access(), &host).await.unwrap();
        admin.batch_execute("CREATE ROLE other LOGIN PASSWORD 'x'").await.unwrap();
        let refused = as_user("other", "x").connect(&host, "mlflow").await.err().unwrap().to_string();
        assert!(refused.contains("permission denied for database"), "{refused}");

        // Changed by hand, one thing after the other, and all at once.
        admin.batch_execute("GRANT CONNECT ON DATABASE mlflow TO PUBLIC").await.unwrap();
        assert_eq!(changed(&resource, &host).await, ["access of everybody: CONNECT -> none"]);
        admin.batch_execute("REVOKE CONNECT ON DATABASE mlflow FROM mlflow").await.unwrap();
        assert_eq!(changed(&resource, &host).await, ["access of the owner: none -> CONNECT"]);
        admin
            .batch_execute("ALTER DATABASE mlflow OWNER TO other; GRANT CONNECT ON DATABASE mlflow TO PUBLIC; ALTER ROLE mlflow PASSWORD 'y'")
            .await
            .unwrap();
        assert_eq!(
            changed(&resource, &host).await,
            ["password: ••• (changed)", "owner: other -> mlflow", "access of everybody: CONNECT -> none"]
        );
        as_user("mlflow", "canary-pw").connect(&host, "mlflow").await.unwrap();

        // A role that makes backups may connect too, also to a database that was there before.
        let shared = PostgresDatabase { connect: vec!["other".into()], ..database(Some("canary-pw")) };
        assert_eq!(changed(&shared, &host).await, ["access of others: CONNECT for other"]);
        as_user("other", "x").connect(&host, "mlflow").await.unwrap();
        let later = PostgresDatabase { name: "later".into(), ..shared };
        let made = changed(&later, &host).await;
        assert_eq!(made, ["database: create \"later\" for \"mlflow\" alone", "access of others: CONNECT for other"]);
        as_user("other", "x").connect(&host, "later").await.unwrap();
        assert!(!server.log().contains("canary"), "{}", server.log());
    }

    #[test]
    fn a_new_role_for_an_old_database_is_a_change() {
        let state = State {
            role: None,
            database: Some(DatabaseState {
                owner: "postgres".into(),
                open_to_all: true,
                open_to_owner: false,
                shut_to: Vec::new(),
            }),
        };
        let diff = database(Some("x")).diff(&state);
        assert_eq!(diff.action, Some(Action::Change));
        assert_eq!(diff.changes.len(), 3, "{diff:?}");
    }
}
