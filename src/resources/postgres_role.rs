//! `postgres_role`: a role of a PostgreSQL server in the cluster may log in with its password.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Observed, Resolve, Resource};
use crate::cluster::postgres::{
    Access, ConnectError, ServiceName, Session, name_fault, new_verifier, password_matches, quote_name, quote_text,
    sql_error,
};
use crate::diff::{Action, Diff};
use crate::host::{ReadHost, WriteHost};

/// How long a server whose Service exists may take to answer when it is looked at: what was just applied may still start.
const OBSERVE_PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take when something is to be done.
const APPLY_PATIENCE: Duration = Duration::from_secs(60);

/// The database that every server has.
const MAINTENANCE_DATABASE: &str = "postgres";

/// A role of a PostgreSQL server that runs in the cluster: it may log in with this password and is no superuser. The password
/// reaches the server only as a SCRAM-SHA-256 verifier, so it is in none of its logs.
///
/// ```yaml
/// - postgres_role: { service: mlops/postgres, name: mlflow, password: "{{ secret.postgres.mlflow_password }}" }
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresRole {
    /// The server's Service: `mlops/postgres`.
    pub service: ServiceName,
    /// The role: `mlflow`.
    pub name: String,
    /// Its password: `"{{ secret.postgres.mlflow_password }}"`.
    pub password: String,
    /// Roles whose rights it has: `[pg_read_all_data]` for one that makes backups. Others that it was given by hand stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_of: Vec<String>,
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

pub(super) fn default_admin_user() -> String {
    "postgres".into()
}

pub(super) fn default_admin_secret() -> String {
    "postgres-credentials".into()
}

/// A role as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleState {
    pub can_login: bool,
    pub superuser: bool,
    /// The stored verifier is one of the wanted password.
    pub password_matches: bool,
}

impl PostgresRole {
    async fn missing_memberships(&self, session: &Session) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for role in &self.member_of {
            let member = session
                .query_one(
                    "SELECT EXISTS (SELECT FROM pg_catalog.pg_auth_members m
                        JOIN pg_catalog.pg_roles role ON role.oid = m.roleid
                        JOIN pg_catalog.pg_roles member ON member.oid = m.member
                        WHERE role.rolname = $1 AND member.rolname = $2)",
                    &[role, &self.name],
                )
                .await
                .map_err(|error| sql_error("reading the memberships", &error))?;
            if !member.get::<_, bool>(0) {
                missing.push(role.clone());
            }
        }
        Ok(missing)
    }

    fn access(&self) -> Access<'_> {
        Access {
            service: &self.service,
            user: &self.admin_user,
            password: self.admin_password.as_deref(),
            secret: &self.admin_secret,
            read_only: true,
        }
    }
}

#[async_trait]
impl Resource for PostgresRole {
    const KIND: &'static str = "postgres_role";

    /// The role, and which of `member_of` it is no member of.
    type State = (Option<RoleState>, Vec<String>);

    fn name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        for role in &self.member_of {
            if let Some(fault) = name_fault("role", role) {
                bail!(fault);
            }
        }
        check_role(&self.name, &self.admin_user, &self.password)
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<Self::State>> {
        match look(self.access(), host).await? {
            // A changed one is set by `postgres_superuser` before it is this one's turn.
            Looked::Pending(reason) | Looked::WrongPassword(reason) => Ok(Observed::Pending(reason)),
            Looked::At(session) => {
                let role = role_state(&session, &self.name, Some(&self.password)).await?;
                Ok(Observed::Known((role, self.missing_memberships(&session).await?)))
            }
        }
    }

    fn diff(&self, (role, missing): &Self::State) -> Diff {
        let mut diff = Diff::none();
        role_diff(&mut diff, &self.name, *role);
        if !missing.is_empty() {
            diff.push(MEMBER, missing.join(", "));
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let session = open_to_change(self.access(), host).await?;
        change_role(&session, &self.name, &self.password, diff).await?;
        if diff.has(MEMBER) {
            let roles: Vec<String> =
                self.missing_memberships(&session).await?.iter().map(|it| quote_name(it)).collect();
            let statement = format!("GRANT {} TO {}", roles.join(", "), quote_name(&self.name));
            session.batch_execute(&statement).await.map_err(|error| sql_error("GRANT", &error))?;
        }
        Ok(())
    }
}

/// What is wrong with the names and the password of a role.
pub(super) fn check_role(name: &str, admin_user: &str, password: &str) -> Result<()> {
    if let Some(fault) = name_fault("role", name) {
        bail!(fault);
    }
    ensure!(
        name != admin_user,
        "the role {name:?} is the superuser that the change is made as: it cannot take its own rights away\n  hint: choose \
         another name"
    );
    ensure!(!name.starts_with("pg_"), "role names that begin with `pg_` belong to PostgreSQL");
    ensure!(!password.is_empty(), "the password of role {name:?} is empty: PostgreSQL would let it never log in");
    ensure!(!password.contains('\0'), "the password of role {name:?} holds a zero byte");
    Ok(())
}

/// A server that was looked at, or what is missing for it.
pub(super) enum Looked {
    At(Session),
    /// It answers and refuses the password; says so.
    WrongPassword(String),
    Pending(String),
}

/// Connects for looking: with little patience, and nothing can be changed through it.
pub(super) async fn look(access: Access<'_>, host: &dyn ReadHost) -> Result<Looked> {
    // What does not exist will not exist in five seconds either; what does not answer may just be starting.
    match access.connect(host, MAINTENANCE_DATABASE).await {
        Ok(session) => return Ok(Looked::At(session)),
        Err(ConnectError::Missing(reason)) => return Ok(Looked::Pending(reason)),
        Err(error @ ConnectError::WrongPassword { .. }) => return Ok(Looked::WrongPassword(error.to_string())),
        Err(error) if !error.may_pass() => return Err(error.into()),
        Err(_) => {}
    }
    match access.connect_patiently(host, MAINTENANCE_DATABASE, OBSERVE_PATIENCE).await {
        Ok(session) => Ok(Looked::At(session)),
        Err(error @ ConnectError::WrongPassword { .. }) => Ok(Looked::WrongPassword(error.to_string())),
        Err(error) if error.may_pass() => Ok(Looked::Pending(format!("needs service {}: {error}", access.service))),
        Err(error) => Err(error.into()),
    }
}

/// Connects for changing.
pub(super) async fn open_to_change(access: Access<'_>, host: &dyn WriteHost) -> Result<Session> {
    let access = Access { read_only: false, ..access };
    access
        .connect_patiently(host.as_read(), MAINTENANCE_DATABASE, APPLY_PATIENCE)
        .await
        .with_context(|| format!("no connection within {} s", APPLY_PATIENCE.as_secs()))
}

/// A role as it is; `None` when there is none.
pub(super) async fn role_state(session: &Session, name: &str, password: Option<&str>) -> Result<Option<RoleState>> {
    let row = session
        .query_opt(
            "SELECT rolcanlogin, rolsuper, coalesce(rolpassword, '') FROM pg_catalog.pg_authid WHERE rolname = $1",
            &[&name],
        )
        .await
        .map_err(|error| {
            let error = sql_error("reading the roles", &error);
            error.context("only a superuser may see whether a password is right: `admin_user` must be one")
        })?;
    Ok(row.map(|row| {
        let stored: String = row.get(2);
        RoleState {
            can_login: row.get(0),
            superuser: row.get(1),
            password_matches: password.is_none_or(|password| password_matches(&stored, password)),
        }
    }))
}

/// Fields of the difference of a role.
const CREATE: &str = "role";
const LOGIN: &str = "login";
const SUPERUSER: &str = "superuser";
const PASSWORD: &str = "password";
const MEMBER: &str = "member of";

pub(super) fn role_diff(diff: &mut Diff, name: &str, state: Option<RoleState>) {
    let Some(state) = state else {
        diff.action = Some(Action::Create);
        diff.push(CREATE, format!("create {name:?} with login and password •••"));
        return;
    };
    if !state.can_login {
        diff.push(LOGIN, "no -> yes");
    }
    if state.superuser {
        diff.push(SUPERUSER, "yes -> no");
    }
    if !state.password_matches {
        diff.push(PASSWORD, "••• (changed)");
    }
}

/// Does what [`role_diff`] found.
pub(super) async fn change_role(session: &Session, name: &str, password: &str, diff: &Diff) -> Result<()> {
    let mut options: Vec<String> = Vec::new();
    let create = diff.has(CREATE);
    if create || diff.has(LOGIN) {
        options.push("LOGIN".into());
    }
    if create || diff.has(SUPERUSER) {
        options.push("NOSUPERUSER".into());
    }
    if create || diff.has(PASSWORD) {
        options.push(format!("PASSWORD {}", quote_text(&new_verifier(password))));
    }
    if options.is_empty() {
        return Ok(());
    }
    let verb = if create { "CREATE" } else { "ALTER" };
    let statement = format!("{verb} ROLE {} {}", quote_name(name), options.join(" "));
    session.batch_execute(&statement).await.map_err(|error| sql_error(&format!("{verb} ROLE {name:?}"), &error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::{FixedApi, Postgres, TestHost};
    use crate::resources::{AnyResource, Planned};

    fn role(password: &str) -> PostgresRole {
        serde_json::from_value(json!({"service": "mlops/postgres", "name": "ml\"flow", "password": password})).unwrap()
    }

    async fn changed(role: &PostgresRole, host: &TestHost) -> Vec<String> {
        let Planned::Change(diff) = role.plan(host).await.unwrap() else { panic!("nothing to do") };
        Resource::apply(role, host, &diff).await.unwrap();
        assert_eq!(role.plan(host).await.unwrap(), Planned::InSync);
        diff.changes.into_iter().map(|change| format!("{}: {}", change.field, change.detail)).collect()
    }

    #[test]
    fn faults_of_the_spec() {
        assert!(check_role("postgres", "postgres", "x").unwrap_err().to_string().contains("superuser"));
        assert!(check_role("pg_x", "postgres", "x").is_err());
        assert!(check_role("a", "postgres", "").is_err());
        assert!(check_role("a", "postgres", "x").is_ok());
    }

    #[tokio::test]
    async fn without_the_service_it_is_pending() {
        let (reader, api) = FixedApi::serve([]).await;
        let host = TestHost::new().cluster(reader);
        assert_eq!(role("x").plan(&host).await.unwrap(), Planned::Pending("needs service mlops/postgres".into()));
        api.set(
            "/api/v1/namespaces/mlops/services/postgres",
            json!({"spec": {"clusterIP": "127.0.0.1", "ports": [{"port": 5432}]}}),
        );
        assert_eq!(
            role("x").plan(&host).await.unwrap(),
            Planned::Pending(
                "needs key POSTGRES_PASSWORD of secret mlops/postgres-credentials (or `admin_password`)".into()
            )
        );
    }

    #[tokio::test]
    async fn made_repaired_and_no_password_in_the_servers_log() {
        let Some(server) = Postgres::start() else {
            return;
        };
        let host = server.host().await;
        assert_eq!(
            changed(&role("canary-a"), &host).await,
            ["role: create \"ml\\\"flow\" with login and password •••"]
        );
        // It really can log in.
        let service = ServiceName::try_from("mlops/postgres".to_owned()).unwrap();
        let as_role = |password: &'static str| {
            let service = service.clone();
            let host = &host;
            async move {
                Access { service: &service, user: "ml\"flow", password: Some(password), secret: "", read_only: true }
                    .connect(host, "postgres")
                    .await
            }
        };
        as_role("canary-a").await.unwrap();

        assert_eq!(changed(&role("canary-b"), &host).await, ["password: ••• (changed)"]);
        as_role("canary-b").await.unwrap();
        let refused = as_role("canary-a").await.err().unwrap();
        assert!(!refused.may_pass());
        assert!(refused.to_string().contains("password authentication failed"), "{refused}");

        // Changed by hand.
        let admin = role("canary-b");
        let session = open_to_change(admin.access(), &host).await.unwrap();
        session.batch_execute("ALTER ROLE \"ml\"\"flow\" NOLOGIN SUPERUSER").await.unwrap();
        assert_eq!(changed(&role("canary-b"), &host).await, ["login: no -> yes", "superuser: yes -> no"]);
        session.batch_execute("ALTER ROLE \"ml\"\"flow\" PASSWORD NULL").await.unwrap();
        assert_eq!(changed(&role("canary-b"), &host).await, ["password: ••• (changed)"]);

        let reading = PostgresRole { member_of: vec!["pg_read_all_data".into()], ..role("canary-b") };
        assert_eq!(changed(&reading, &host).await, ["member of: pg_read_all_data"]);

        // Looking cannot change anything, even if it tried to.
        let Looked::At(looking) = look(admin.access(), &host).await.unwrap() else { panic!("pending") };
        let error = looking.batch_execute("CREATE TABLE t ()").await.unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains("read-only transaction"));

        let log = server.log();
        assert!(log.contains("ALTER ROLE"), "statements are logged");
        assert!(!log.contains("canary"), "{log}");

        // The server has another administrator's password than we have.
        let wrong = PostgresRole { admin_password: Some("wrong".into()), ..role("canary-b") };
        let Planned::Pending(reason) = wrong.plan(&host).await.unwrap() else { panic!("not pending") };
        assert!(reason.contains("the data directory keeps the password it was first made with"), "{reason}");
        assert!(!reason.contains("wrong\""), "{reason}");
    }
}
