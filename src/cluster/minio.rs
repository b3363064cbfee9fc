//! MinIO's admin interface: users and their policies, which S3 has no requests for.
//!
//! It is spoken here rather than by `mc` inside the server's pod: there is no client in that image on every machine, a secret
//! key would be an argument that every process list shows, and a difference needs answers that a program can read. Only few
//! of its requests are needed, and of those just one has a sealed body (see [`sealed`]).

mod sealed;
#[cfg(test)]
pub mod testing;

use serde::Deserialize;
use serde_json::{Value, json};

use super::s3::{Client, Error, Writer, policy};

/// Where all its requests are.
const PREFIX: &str = "/minio/admin/v3";

/// A user as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub enabled: bool,
    /// Names of the policies that it has by itself, sorted.
    pub policies: Vec<String>,
    /// Groups, sorted: it has their policies as well.
    pub groups: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserDocument {
    #[serde(default)]
    policy_name: String,
    status: String,
    #[serde(default)]
    member_of: Vec<String>,
}

impl Client {
    /// A user; `None` when there is none of this name.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn user(&self, name: &str) -> Result<Option<User>, Error> {
        let path = format!("{PREFIX}/user-info");
        let answer = match self.get(&path, &[("accessKey", name)]).await {
            Err(error) if error.code() == Some("XMinioAdminNoSuchUser") => return Ok(None),
            other => other?,
        };
        let user: UserDocument = serde_json::from_slice(&answer.body).map_err(|error| self.unexpected(&path, error))?;
        let mut policies: Vec<String> = split(&user.policy_name);
        let mut groups = user.member_of;
        policies.sort();
        groups.sort();
        Ok(Some(User { enabled: user.status == "enabled", policies, groups }))
    }

    /// A policy that users can have; `None` when there is none of this name.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn policy(&self, name: &str) -> Result<Option<Value>, Error> {
        let path = format!("{PREFIX}/info-canned-policy");
        match self.get(&path, &[("name", name)]).await {
            Err(error) if error.code() == Some("XMinioAdminNoSuchPolicy") => Ok(None),
            Err(error) => Err(error),
            Ok(answer) => serde_json::from_slice(&answer.body).map(Some).map_err(|error| self.unexpected(&path, error)),
        }
    }
}

impl Writer {
    /// Makes a user, or gives one that is there this secret key and lets it in again.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn set_user(&self, name: &str, secret_key: &str) -> Result<(), Error> {
        let path = format!("{PREFIX}/add-user");
        let body = json!({"secretKey": secret_key, "status": "enabled"}).to_string();
        let body = sealed::seal(self.secret_key(), body.as_bytes()).map_err(|error| self.unexpected(&path, error))?;
        self.put(&path, &[("accessKey", name)], body).await.map(|_| ())
    }

    /// Makes or replaces a policy.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn set_policy(&self, name: &str, policy: &Value) -> Result<(), Error> {
        let path = format!("{PREFIX}/add-canned-policy");
        self.put(&path, &[("name", name)], policy::normal(policy).to_string().into_bytes()).await.map(|_| ())
    }

    /// Gives a user this policy and no other.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn attach_policy(&self, user: &str, policy: &str) -> Result<(), Error> {
        let path = format!("{PREFIX}/set-user-or-group-policy");
        let query = [("policyName", policy), ("userOrGroup", user), ("isGroup", "false")];
        self.put(&path, &query, Vec::new()).await.map(|_| ())
    }

    /// Takes a user out of a group.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn leave_group(&self, user: &str, group: &str) -> Result<(), Error> {
        let path = format!("{PREFIX}/update-group-members");
        let body = json!({"group": group, "members": [user], "isRemove": true}).to_string();
        self.put(&path, &[], body.into_bytes()).await.map(|_| ())
    }
}

fn split(names: &str) -> Vec<String> {
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
