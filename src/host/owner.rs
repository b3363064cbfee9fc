//! Owners of files by name.

use anyhow::{Result, bail};

use super::{Owner, Query, ReadHost};

/// An owner as stage files name it, looked up on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    Found(Owner),
    /// What does not exist yet: `user "app"`.
    Missing(String),
}

/// Looks up user and group, each a name or a number. Without a user it is root; without a group it is the user's primary
/// group, or the group of the same number where the host knows no such user.
///
/// # Errors
/// When the host cannot be asked.
pub async fn lookup(host: &dyn ReadHost, user: Option<&str>, group: Option<&str>) -> Result<Lookup> {
    let user = user.unwrap_or("root");
    let (uid, primary) = match (user, user.parse()) {
        ("root", _) => (0, 0),
        (_, Ok(uid)) if group.is_some() => (uid, uid),
        (_, number) => match (entry(host, "passwd", user).await?, number) {
            (Some(fields), _) => (id(&fields, 2)?, id(&fields, 3)?),
            (None, Ok(uid)) => (uid, uid),
            (None, Err(_)) => return Ok(Lookup::Missing(format!("user {user:?}"))),
        },
    };
    let gid = match (group, group.map(str::parse)) {
        (None, _) => primary,
        (Some("root"), _) => 0,
        (_, Some(Ok(gid))) => gid,
        (Some(group), _) => match entry(host, "group", group).await? {
            Some(fields) => id(&fields, 2)?,
            None => return Ok(Lookup::Missing(format!("group {group:?}"))),
        },
    };
    Ok(Lookup::Found(Owner { uid, gid }))
}

/// `user:group`, by name where they have one.
///
/// # Errors
/// When the host cannot be asked.
pub async fn describe(host: &dyn ReadHost, owner: Owner) -> Result<String> {
    let user = name(host, "passwd", owner.uid).await?;
    let group = name(host, "group", owner.gid).await?;
    Ok(format!("{user}:{group}"))
}

async fn name(host: &dyn ReadHost, database: &str, id: u32) -> Result<String> {
    if id == 0 {
        return Ok("root".into());
    }
    let id = id.to_string();
    let fields = entry(host, database, &id).await?;
    Ok(fields.and_then(|fields| fields.into_iter().next()).unwrap_or(id))
}

async fn entry(host: &dyn ReadHost, database: &str, key: &str) -> Result<Option<Vec<String>>> {
    let answer = host.query(&Query::getent(database, key)).await?;
    match answer.status {
        0 => Ok(answer.stdout.lines().next().map(|line| line.split(':').map(str::to_owned).collect())),
        2 => Ok(None),
        status => bail!("`getent {database} {key}` ended with status {status}: {}", answer.stderr.trim()),
    }
}

fn id(fields: &[String], index: usize) -> Result<u32> {
    match fields.get(index).map(|field| field.parse()) {
        Some(Ok(id)) => Ok(id),
        _ => bail!("`getent` answered {:?}, which has no id", fields.join(":")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[tokio::test]
    async fn names_and_numbers() {
        let host = FakeHost::new().file("/etc/passwd", "app:x:1001:1002::/:/bin/sh\n", 0o644).file(
            "/etc/group",
            "staff:x:50:\n",
            0o644,
        );
        let found = |uid, gid| Lookup::Found(Owner { uid, gid });
        for (user, group, expected) in [
            (None, None, found(0, 0)),
            (Some("app"), None, found(1001, 1002)),
            (Some("1001"), None, found(1001, 1002)),
            (Some("999"), None, found(999, 999)),
            (Some("app"), Some("staff"), found(1001, 50)),
            (None, Some("7"), found(0, 7)),
            (Some("nobody"), None, Lookup::Missing("user \"nobody\"".into())),
            (None, Some("x"), Lookup::Missing("group \"x\"".into())),
        ] {
            assert_eq!(lookup(&host, user, group).await.unwrap(), expected);
        }
        let owner = Owner { uid: 1001, gid: 51 };
        assert_eq!(describe(&host, owner).await.unwrap(), "app:51");
    }

    #[tokio::test]
    async fn root_needs_no_question() {
        let host = FakeHost::new();
        lookup(&host, None, Some("root")).await.unwrap();
        assert_eq!(describe(&host, Owner::ROOT).await.unwrap(), "root:root");
        assert!(host.queries().is_empty());
    }
}
