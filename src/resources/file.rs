//! `file`: a file with content, mode and owner.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mode::Mode;
use super::path::HostPath;
use super::placement::{Placed, Placement, file_or_link};
use super::{Observed, Resolve, Resource};
use crate::diff::{Action, Diff};
use crate::hash;
use crate::host::{Cmd, ReadHost, WriteHost};

/// Larger files belong into an artifact and a `download`.
const LARGEST: usize = 8 * 1024 * 1024;

/// A file exists with this content, or does not exist. It is replaced atomically; its directory must exist.
///
/// The content comes from exactly one of `content`, `template` and `source`.
///
/// ```yaml
/// - file: { path: /etc/motd, content: "welcome\n" }
/// - file: { path: /etc/rancher/k3s/config.yaml, template: k3s/config.yaml, mode: "0600" }
/// - file: { path: /etc/sudoers.d/app, source: files/sudoers, mode: "0440", check_command: [visudo, -cf, "{}"] }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where.
    path: HostPath,
    /// The text itself. A final newline is not added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// A template below `templates/`, rendered with the values of the inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    /// A file of the project, verbatim, at most 8 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// Content that is not text, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_base64: Option<String>,
    /// Permission bits in quotes. Default: `"0644"`, with `secret` `"0600"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    /// User, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Group, by name or number. Default: the primary group of `owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// `true`: the file is removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    absent: bool,
    /// `true`: the content is never shown, only that it differs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    secret: bool,
    /// A program that must accept new content before it replaces the old; `{}` stands for the path of the new file, which is
    /// in the same directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check_command: Option<Vec<String>>,
}

/// What is there.
pub enum State {
    /// For a file that must be absent: what is there, if anything.
    Unwanted(bool),
    Wanted {
        placed: Placed,
        content: Content,
    },
}

/// Content as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Nothing,
    Bytes(Vec<u8>),
    /// Too large to be held: its SHA-256.
    Large(String),
}

impl File {
    fn path(&self) -> &Path {
        self.path.as_ref()
    }

    fn placement(&self) -> Placement<'_> {
        let default = if self.secret { 0o600 } else { 0o644 };
        Placement {
            path: self.path(),
            mode: self.mode.unwrap_or(Mode(default)),
            owner: self.owner.as_deref(),
            group: self.group.as_deref(),
        }
    }

    /// The content of a resolved spec.
    fn wanted(&self) -> Result<Cow<'_, [u8]>> {
        match (&self.content, &self.content_base64) {
            (Some(text), _) => Ok(Cow::Borrowed(text.as_bytes())),
            (None, Some(encoded)) => {
                Ok(Cow::Owned(STANDARD.decode(encoded).context("`content_base64` is not base64")?))
            }
            (None, None) => bail!("the content of {} was not resolved", self.path),
        }
    }

    fn compare(&self, diff: &mut Diff, before: &Content, after: &[u8]) {
        let (text, same) = match before {
            Content::Nothing => (Some(""), false),
            Content::Bytes(bytes) => (text(bytes), bytes == after),
            Content::Large(digest) => (None, *digest == hash::sha256(after)),
        };
        if same {
            return;
        }
        match (text, std::str::from_utf8(after)) {
            _ if self.secret => diff.push("content", "(hidden, changed)"),
            (Some(""), Ok("")) => diff.push("content", "(empty)"),
            (Some(before), Ok(after)) if !after.contains('\0') => {
                diff.compare_text("content", before, after);
            }
            _ => diff.push("content", format!("{} -> {}", brief(before), described(after))),
        }
    }

    async fn write(&self, host: &dyn WriteHost) -> Result<()> {
        let placement = self.placement();
        let owner = placement.owner(host.as_read()).await?;
        let content = self.wanted()?;
        let Some(check) = &self.check_command else {
            return host.write_file(self.path(), &content, placement.mode.0, owner);
        };
        let candidate = self.candidate();
        host.write_file(&candidate, &content, placement.mode.0, owner)?;
        let shown = candidate.to_string_lossy();
        let argv = check.iter().map(|argument| argument.replace("{}", &shown));
        let accepted = host.run(&Cmd::new(argv)).await;
        if let Err(error) = accepted {
            host.remove_file(&candidate)?;
            return Err(error.context(format!(
                "{} was left as it is: its `check_command` did not accept the new content",
                self.path
            )));
        }
        host.rename(&candidate, self.path())
    }

    /// Where new content is while it is checked.
    fn candidate(&self) -> PathBuf {
        let name = self.path().file_name().unwrap_or_default();
        self.path().with_file_name(format!(".{}.provision-check", name.to_string_lossy()))
    }
}

/// The bytes as text, when they are text.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|it| !it.contains('\0'))
}

fn described(bytes: &[u8]) -> String {
    format!("sha256 {} ({} bytes)", &hash::sha256(bytes)[..12], bytes.len())
}

fn brief(content: &Content) -> String {
    match content {
        Content::Nothing => "nothing".into(),
        Content::Bytes(bytes) => described(bytes),
        Content::Large(digest) => format!("sha256 {}", &digest[..12]),
    }
}

#[async_trait]
impl Resource for File {
    const KIND: &'static str = "file";
    type State = State;

    fn name(&self) -> String {
        self.path.to_string()
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        let given: Vec<&str> = [
            ("content", self.content.is_some()),
            ("template", self.template.is_some()),
            ("source", self.source.is_some()),
            ("content_base64", self.content_base64.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key))
        .collect();
        match (self.absent, given.len()) {
            (true, 0) => return Ok(()),
            (true, _) => bail!("a file that is `absent` has no `{}`; remove one of them", given[0]),
            (false, 1) => {}
            (false, 0) => bail!(
                "{} has no content; give it one of `content`, `template` and `source`, or `absent: true`",
                self.path
            ),
            (false, _) => bail!("{} has more than one content: `{}`; keep one of them", self.path, given.join("`, `")),
        }
        if let Some(check) = &self.check_command
            && !check.iter().any(|argument| argument.contains("{}"))
        {
            bail!("`check_command` needs an argument with `{{}}`, which stands for the path of the new file");
        }
        if let Some(template) = self.template.take() {
            self.content = Some(project.template(&template)?);
        }
        if let Some(source) = self.source.take() {
            let bytes = project.source(&source)?;
            if bytes.len() > LARGEST {
                bail!("{source} has more than 8 MiB; make it an artifact and use `download`");
            }
            match String::from_utf8(bytes) {
                Ok(text) => self.content = Some(text),
                Err(error) => self.content_base64 = Some(STANDARD.encode(error.as_bytes())),
            }
        }
        // Found here rather than on the host.
        self.wanted()?;
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        if self.absent {
            let stat = file_or_link(host, self.path())?;
            return Ok(Observed::Known(State::Unwanted(stat.is_some())));
        }
        self.wanted()?;
        let placed = match self.placement().observe(host).await? {
            Ok(placed) => placed,
            Err(reason) => return Ok(Observed::Pending(reason)),
        };
        let content = match &placed.stat {
            Some(stat) if placed.is_file() && stat.size > LARGEST as u64 => {
                host.sha256(self.path())?.map_or(Content::Nothing, Content::Large)
            }
            Some(_) if placed.is_file() => host.read_file(self.path())?.map_or(Content::Nothing, Content::Bytes),
            _ => Content::Nothing,
        };
        Ok(Observed::Known(State::Wanted { placed, content }))
    }

    fn diff(&self, state: &State) -> Diff {
        match state {
            State::Unwanted(false) => Diff::none(),
            State::Unwanted(true) => {
                let mut diff = Diff::new(Action::Delete);
                diff.push("path", "removed");
                diff
            }
            State::Wanted { placed, content } => {
                let mut diff = self.placement().diff(placed);
                // Observing has made sure that there is one.
                self.compare(&mut diff, content, &self.wanted().unwrap_or_default());
                diff
            }
        }
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        if diff.action == Some(Action::Delete) {
            host.remove_file(self.path())
        } else if diff.has("content") {
            self.write(host).await
        } else {
            self.placement().apply(host, diff).await
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
