//! Users of the host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::short_form::{ShortForm, or_text, short_form};
use super::{Observed, Resolve, Resource};
use crate::diagnostic::Diagnostic;
use crate::diff::{Action, Diff};
use crate::host::{Cmd, FileType, Owner, Query, ReadHost, WriteHost};

const KEYS: &str = "ssh_authorized_keys";

/// A user of the host, with a group of the same name and no password.
///
/// Groups and keys that others gave it stay. With `absent: true` the user is removed; its home stays.
///
/// ```yaml
/// - user: { name: ada, groups: [sudo], ssh_authorized_keys: ["ssh-ed25519 AAAA... ada@laptop"] }
/// - user: { name: app, system: true, home: /var/lib/app, shell: /usr/sbin/nologin }
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_text)]
pub struct User {
    /// Login name: lower-case letters, digits, `_` and `-`, at most 32 characters.
    name: String,
    /// A user for a service: with an id below 1000, and without a home unless one is given. Only for creation. Default: false.
    #[serde(default)]
    system: bool,
    /// Numeric id. Default: the next free one.
    #[serde(default)]
    uid: Option<u32>,
    /// Home directory; made when the user is created. Default: /home/NAME.
    #[serde(default)]
    home: Option<PathBuf>,
    /// Login shell. Default: /bin/bash, for a system user /usr/sbin/nologin.
    #[serde(default)]
    shell: Option<PathBuf>,
    /// Groups that it is a member of, besides its own and those that others added it to. They must exist.
    #[serde(default)]
    groups: Vec<String>,
    /// Public keys that may log in by SSH, one whole line each.
    #[serde(default)]
    ssh_authorized_keys: Vec<String>,
    /// Remove the user. Default: false.
    #[serde(default)]
    absent: bool,
}

short_form!(User);

impl ShortForm for User {
    const EXPECTING: &'static str = "the name of a user, or a mapping with the key `name`";

    fn full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(name: String) -> Result<Self, String> {
        Ok(Self {
            name,
            system: false,
            uid: None,
            home: None,
            shell: None,
            groups: Vec::new(),
            ssh_authorized_keys: Vec::new(),
            absent: false,
        })
    }
}

/// A user as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    account: Option<Account>,
    groups: Vec<String>,
    authorized_keys: String,
}

/// A line of passwd.
#[derive(Debug, Clone, PartialEq)]
struct Account {
    uid: u32,
    gid: u32,
    home: PathBuf,
    shell: PathBuf,
}

#[async_trait]
impl Resource for User {
    const KIND: &'static str = "user";
    type State = State;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&mut self, _project: &mut dyn Resolve) -> Result<()> {
        for name in [&self.name].into_iter().chain(&self.groups) {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
            let first = |c: char| c.is_ascii_lowercase() || c == '_';
            if name.len() > 32 || !name.starts_with(first) || !name.bytes().all(fits) {
                bail!("{name:?} is no name: use lower-case letters, digits, `_` and `-`, at most 32 characters");
            }
        }
        let paths = self.home.iter().chain(&self.shell);
        if let Some(path) = paths.into_iter().find(|path| !path.is_absolute() || has_colon(path)) {
            bail!("{}: it must be an absolute path without a colon", path.display());
        }
        for key in &self.ssh_authorized_keys {
            if key.contains(['\n', '\r']) || key.split_whitespace().nth(1).is_none() {
                bail!("{key:?} is no public key: use the whole line of the .pub file");
            }
        }
        if self.name == "root" && self.absent {
            bail!("root cannot be removed");
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let account = account(host, &self.name).await?;
        if !self.absent {
            for group in &self.groups {
                if !host.query(&Query::getent("group", group)).await?.success() {
                    return Ok(Observed::Pending(format!("needs the group {group}, which is not there yet")));
                }
            }
        }
        let mut groups = Vec::new();
        let mut authorized_keys = String::new();
        if let Some(account) = &account {
            if !self.groups.is_empty() {
                let answer = host.query(&Query::groups_of(&self.name)).await?;
                if !answer.success() {
                    bail!("cannot list the groups of {}: {}", self.name, answer.stderr.trim());
                }
                groups = answer.stdout.split_whitespace().map(str::to_owned).collect();
            }
            if !self.ssh_authorized_keys.is_empty() {
                let keys = host.read_text(&keys_file(&account.home))?;
                authorized_keys = keys.unwrap_or_default();
            }
        }
        Ok(Observed::Known(State { account, groups, authorized_keys }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        match (&state.account, self.absent) {
            (None, true) => {}
            (Some(account), true) => {
                diff = Diff::new(Action::Delete);
                diff.push("user", format!("uid {} -> absent", account.uid));
            }
            (None, false) => {
                diff = Diff::new(Action::Create);
                let uid = self.uid.map(|uid| format!(" with uid {uid}"));
                diff.push("user", format!("absent -> there{}", uid.unwrap_or_default()));
            }
            (Some(account), false) => {
                let now = |path: &Path| path.display().to_string();
                if let Some(uid) = self.uid {
                    diff.compare("uid", &account.uid.to_string(), &uid.to_string());
                }
                if let Some(home) = &self.home {
                    diff.compare("home", &now(&account.home), &now(home));
                }
                if let Some(shell) = &self.shell {
                    diff.compare("shell", &now(&account.shell), &now(shell));
                }
            }
        }
        if self.absent {
            return diff;
        }
        let missing: Vec<_> =
            self.groups.iter().filter(|group| !state.groups.contains(group)).map(String::as_str).collect();
        if !missing.is_empty() {
            diff.push("groups", format!("not in {0} -> in {0}", missing.join(", ")));
        }
        for key in self.missing_keys(&state.authorized_keys) {
            diff.push(KEYS, format!("(none) -> {}", key_name(key)));
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        if self.absent {
            host.run(&Cmd::new(["userdel", "--", &self.name])).await?;
            return Ok(());
        }
        if diff.has("user") {
            host.run(&self.useradd()).await?;
        } else {
            let mut argv = vec!["usermod".to_owned()];
            let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
            if let Some(uid) = self.uid.filter(|_| diff.has("uid")) {
                option("--uid", uid.to_string());
            }
            if let Some(home) = self.home.as_ref().filter(|_| diff.has("home")) {
                option("--home", home.display().to_string());
            }
            if let Some(shell) = self.shell.as_ref().filter(|_| diff.has("shell")) {
                option("--shell", shell.display().to_string());
            }
            if diff.has("groups") {
                option("--groups", self.groups.join(","));
                argv.push("--append".to_owned());
            }
            if argv.len() > 1 {
                argv.extend(["--".to_owned(), self.name.clone()]);
                host.run(&Cmd::new(argv)).await?;
            }
        }
        if diff.has(KEYS) {
            self.write_keys(host).await?;
        }
        Ok(())
    }
}

impl User {
    fn useradd(&self) -> Cmd {
        let mut argv: Vec<String> = vec!["useradd".into(), "--user-group".into()];
        let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
        if let Some(uid) = self.uid {
            option("--uid", uid.to_string());
        }
        if let Some(home) = &self.home {
            option("--home-dir", home.display().to_string());
        }
        let default = if self.system { "/usr/sbin/nologin" } else { "/bin/bash" };
        let shell = self.shell.as_ref().map(|shell| shell.display().to_string());
        option("--shell", shell.unwrap_or_else(|| default.into()));
        if !self.groups.is_empty() {
            option("--groups", self.groups.join(","));
        }
        if self.system {
            argv.push("--system".into());
        }
        let home = if self.system && self.home.is_none() { "--no-create-home" } else { "--create-home" };
        argv.extend([home.to_owned(), "--".to_owned(), self.name.clone()]);
        Cmd::new(argv)
    }

    fn missing_keys<'a>(&'a self, present: &str) -> Vec<&'a str> {
        let wanted = self.ssh_authorized_keys.iter().map(|key| key.trim());
        wanted.filter(|key| !present.lines().any(|line| line.trim() == *key)).collect()
    }

    async fn write_keys(&self, host: &dyn WriteHost) -> Result<()> {
        let account = account(host.as_read(), &self.name)
            .await?
            .with_context(|| format!("the user {} is not there", self.name))?;
        let owner = Owner { uid: account.uid, gid: account.gid };
        let file = keys_file(&account.home);
        let dir = account.home.join(".ssh");
        // The user can put links there, and we write as root.
        for path in [&dir, &file] {
            let stat = host.stat(path)?;
            if stat.is_some_and(|stat| stat.file_type == FileType::Symlink) {
                return Err(Diagnostic::new(format!(
                    "{} is a symbolic link; keys are not written through it",
                    path.display()
                ))
                .hint("replace it by what it points to, or remove it")
                .into());
            }
        }
        if host.stat(&dir)?.is_none() {
            if host.stat(&account.home)?.is_none() {
                bail!("the home {} of {} does not exist", account.home.display(), self.name);
            }
            host.create_dir(&dir, 0o700)?;
            host.set_owner(&dir, owner)?;
        }
        let mut text = host.read_text(&file)?.unwrap_or_default();
        for key in self.missing_keys(&text.clone()) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text += &format!("{key}\n");
        }
        host.write_file(&file, text.as_bytes(), 0o600, owner)
    }
}

async fn account(host: &dyn ReadHost, name: &str) -> Result<Option<Account>> {
    let answer = host.query(&Query::getent("passwd", name)).await?;
    match answer.status {
        0 => {}
        2 => return Ok(None),
        _ => bail!("getent cannot be asked: {}", answer.stderr.trim()),
    }
    let line = answer.stdout.trim_end_matches('\n');
    let fields: Vec<_> = line.split(':').collect();
    match fields[..] {
        [_, _, uid, gid, _, home, shell] => Ok(Some(Account {
            uid: uid.parse().context("passwd: uid")?,
            gid: gid.parse().context("passwd: gid")?,
            home: home.into(),
            shell: shell.into(),
        })),
        _ => bail!("passwd has a strange line: {line:?}"),
    }
}

fn keys_file(home: &Path) -> PathBuf {
    home.join(".ssh/authorized_keys")
}

fn has_colon(path: &Path) -> bool {
    path.to_string_lossy().contains(':')
}

/// Type and comment of a key, which is what people tell keys apart by; after options, where it has some.
fn key_name(key: &str) -> String {
    let words: Vec<_> = key.split_whitespace().collect();
    let is_type = |word: &&str| ["ssh-", "ecdsa-", "sk-"].iter().any(|p| word.starts_with(p));
    let at = words.iter().position(is_type).unwrap_or(0);
    let comment = words.get(at + 2..).unwrap_or_default().join(" ");
    format!("{} {comment}", words[at]).trim_end().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::fake::{FakeHost, failed, ok};
    use crate::resources::{AnyResource, Planned};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB ada@laptop";

    fn spec(value: serde_json::Value) -> User {
        serde_json::from_value(value).unwrap()
    }

    fn ada() -> User {
        spec(json!({
            "name": "ada", "uid": 1500, "shell": "/bin/bash", "groups": ["sudo"], "ssh_authorized_keys": [KEY],
        }))
    }

    fn host() -> FakeHost {
        FakeHost::new()
            .file("/etc/group", "root:x:0:\nsudo:x:27:\n", 0o644)
            .on_query(&["id", "-Gn"], |files, argv| {
                let member = files.text("/etc/group").contains(&format!("27:{}", argv[3]));
                ok(if member { "ada sudo\n" } else { "ada\n" })
            })
            .on_run(&["useradd"], |files, cmd| {
                let passwd = files.text("/etc/passwd") + "ada:x:1500:1500::/home/ada:/bin/bash\n";
                files.put_file("/etc/passwd", passwd, 0o644);
                files.put_dir("/home/ada", 0o755);
                if cmd.argv.contains(&"sudo".to_owned()) {
                    files.put_file("/etc/group", "sudo:x:27:ada\n", 0o644);
                }
                ok("")
            })
            .on_run(&["usermod"], |files, cmd| {
                let passwd = files.text("/etc/passwd");
                let at = cmd.argv.iter().position(|word| word == "--shell").unwrap();
                files.put_file("/etc/passwd", passwd.replace("/bin/sh\n", &format!("{}\n", cmd.argv[at + 1])), 0o644);
                files.put_file("/etc/group", "sudo:x:27:ada\n", 0o644);
                ok("")
            })
            .on_run(&["userdel"], |files, _| {
                files.put_file("/etc/passwd", "", 0o644);
                ok("")
            })
    }

    async fn change(spec: &User, host: &FakeHost) -> Diff {
        match spec.plan(host).await.unwrap() {
            Planned::Change(diff) => diff,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn created_with_group_and_key() {
        let host = host();
        let diff = change(&ada(), &host).await;
        assert_eq!(diff.action, Some(Action::Create));
        assert_eq!(diff.changes[2].detail, "(none) -> ssh-ed25519 ada@laptop");
        assert!(host.changes().is_empty());
        AnyResource::apply(&ada(), &host, &diff).await.unwrap();
        assert_eq!(ada().plan(&host).await.unwrap(), Planned::InSync);
        let files = host.files().clone();
        let keys = files.node("/home/ada/.ssh/authorized_keys").unwrap();
        assert_eq!((keys.mode, keys.owner), (0o600, Owner { uid: 1500, gid: 1500 }));
        assert_eq!(files.node("/home/ada/.ssh").unwrap().owner.uid, 1500);
        assert_eq!(
            host.runs()[0].argv.join(" "),
            "useradd --user-group --uid 1500 --shell /bin/bash --groups sudo --create-home -- ada"
        );
    }

    #[tokio::test]
    async fn changed_and_removed() {
        let host = host().file("/etc/passwd", "ada:x:1500:1500::/home/ada:/bin/sh\n", 0o644).file(
            "/home/ada/.ssh/authorized_keys",
            "ssh-rsa AAAA other",
            0o600,
        );
        let diff = change(&ada(), &host).await;
        let fields: Vec<_> = diff.changes.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(fields, ["shell", "groups", KEYS]);
        AnyResource::apply(&ada(), &host, &diff).await.unwrap();
        assert_eq!(ada().plan(&host).await.unwrap(), Planned::InSync);
        assert_eq!(host.files().text("/home/ada/.ssh/authorized_keys"), format!("ssh-rsa AAAA other\n{KEY}\n"));
        let gone = spec(json!({ "name": "ada", "absent": true }));
        let diff = change(&gone, &host).await;
        assert_eq!(diff.action, Some(Action::Delete));
        AnyResource::apply(&gone, &host, &diff).await.unwrap();
        assert_eq!(gone.plan(&host).await.unwrap(), Planned::InSync);
    }

    #[tokio::test]
    async fn a_link_in_the_home_is_not_followed() {
        let host =
            host().file("/etc/passwd", "ada:x:1500:1500::/home/ada:/bin/bash\n", 0o644).link("/home/ada/.ssh", "/etc");
        let spec = spec(json!({ "name": "ada", "ssh_authorized_keys": [KEY] }));
        let diff = change(&spec, &host).await;
        let error = AnyResource::apply(&spec, &host, &diff).await.unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert!(host.files().node("/etc/authorized_keys").is_none());
    }

    #[tokio::test]
    async fn a_group_may_come_later_and_getent_may_fail() {
        let docker = spec(json!({ "name": "ada", "groups": ["docker"] }));
        let planned = docker.plan(&host()).await.unwrap();
        assert!(matches!(planned, Planned::Pending(reason) if reason.contains("docker")));
        let broken = host().answer(&["getent"], failed(3, "enumeration not supported"));
        assert!(docker.plan(&broken).await.is_err());
    }

    #[test]
    fn a_system_user_has_no_home_and_no_shell() {
        let argv = spec(json!({ "name": "app", "system": true })).useradd().argv.join(" ");
        assert_eq!(argv, "useradd --user-group --shell /usr/sbin/nologin --system --no-create-home -- app");
        assert_eq!(key_name("no-pty ssh-rsa AAAA x y"), "ssh-rsa x y");
    }
}
