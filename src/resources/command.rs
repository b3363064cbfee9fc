//! `command`: a program, run until it has done its work.

use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::path::HostPath;
use super::{Observed, Resolve, Resource};
use crate::diff::{Action, Diff};
use crate::host::{Cmd, Query, ReadHost, WriteHost};

/// A program that is run, without a shell. It should say how to tell that it is done, by `creates` or `unless`; without, it
/// runs every time, and every plan shows that.
///
/// Arguments can be seen by everybody on the host: give secrets by `env`.
///
/// ```yaml
/// - command: { argv: [update-ca-certificates], creates: /etc/ssl/certs/ca-certificates.crt }
/// - command: { argv: [loginctl, enable-linger, app], unless: [test, -e, /var/lib/systemd/linger/app] }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments.
    argv: Vec<String>,
    /// It is done when something is at this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creates: Option<HostPath>,
    /// It is done when this program, which must not change anything, ends with status 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unless: Option<Vec<String>>,
    /// Environment. Besides it there are only `PATH`, `HOME`, `LANG` and `LC_ALL`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    /// Directory in which it runs. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<HostPath>,
    /// Seconds after which it is ended and has failed. Default: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
}

/// Whether it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Done,
    NotDone,
    /// Nobody can tell.
    Unknown,
}

#[async_trait]
impl Resource for Command {
    const KIND: &'static str = "command";
    type State = State;

    fn name(&self) -> String {
        self.argv.join(" ")
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        if self.argv.first().is_none_or(String::is_empty) {
            bail!("`argv` needs at least the name of a program");
        }
        if self.creates.is_some() && self.unless.is_some() {
            bail!("`creates` and `unless` cannot both say whether it is done; keep one of them");
        }
        if self.unless.as_ref().is_some_and(Vec::is_empty) {
            bail!("`unless` needs at least the name of a program");
        }
        if self.timeout == Some(0) {
            bail!("a `timeout` of 0 seconds ends the program at once; give it more or leave it out");
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let done = match (&self.creates, &self.unless) {
            (Some(path), _) => host.stat(path.as_ref())?.is_some(),
            (None, Some(unless)) => host.query(&Query::by_author(unless)).await?.success(),
            (None, None) => return Ok(Observed::Known(State::Unknown)),
        };
        Ok(Observed::Known(if done { State::Done } else { State::NotDone }))
    }

    fn diff(&self, state: &State) -> Diff {
        let (action, why) = match (state, &self.creates, &self.unless) {
            (State::Done, ..) => return Diff::none(),
            (State::NotDone, Some(path), _) => (Action::Create, format!("{path} does not exist")),
            (State::NotDone, None, unless) => (
                Action::Change,
                format!("`{}` says that it is not done", unless.as_deref().unwrap_or_default().join(" ")),
            ),
            (State::Unknown, ..) => (Action::Run, "runs every time".to_owned()),
        };
        let mut diff = Diff::new(action);
        diff.push("run", why);
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, _: &Diff) -> Result<()> {
        let mut cmd = Cmd::new(&self.argv);
        for (name, value) in &self.env {
            cmd = cmd.env(name, value);
        }
        if let Some(cwd) = &self.cwd {
            cmd = cmd.cwd(cwd.as_ref());
        }
        if let Some(seconds) = self.timeout {
            cmd = cmd.timeout(Duration::from_secs(seconds));
        }
        host.run(&cmd).await?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, failed, ok};
    use crate::resources::testing::{Project, changes, nothing, spec};
    use crate::resources::{AnyResource, Planned};

    #[tokio::test]
    async fn runs_until_its_work_is_there() {
        let command: Command = spec(
            r#"{"argv": ["make", "it"], "creates": "/opt/it", "env": {"TOKEN": "secret"}, "cwd": "/opt", "timeout": 5}"#,
        );
        let host = FakeHost::new().on_run(&["make", "it"], |files, cmd| {
            assert_eq!(cmd.env, [("TOKEN".to_owned(), "secret".to_owned())]);
            assert_eq!(cmd.cwd.as_deref(), Some(std::path::Path::new("/opt")));
            assert_eq!(cmd.timeout, Duration::from_secs(5));
            files.put_file("/opt/it", "", 0o644);
            ok("")
        });
        let shown = changes(&command, &host).await;
        assert_eq!(shown, ["create", "run: /opt/it does not exist"]);
        nothing(&command, &host).await;
    }

    #[tokio::test]
    async fn unless_is_asked_before_and_after() {
        let command: Command = spec(r#"{"argv": ["enable"], "unless": ["is-enabled"]}"#);
        let host = FakeHost::new()
            .on_query(&["is-enabled"], |files, _| files.node("/run/on").map_or_else(|| failed(1, ""), |_| ok("")))
            .on_run(&["enable"], |files, _| {
                files.put_file("/run/on", "", 0o644);
                ok("")
            });
        let shown = changes(&command, &host).await;
        assert_eq!(shown, ["change", "run: `is-enabled` says that it is not done"]);
        assert_eq!(host.queries().len(), 2);
    }

    #[tokio::test]
    async fn without_a_way_to_tell_it_runs_every_time() {
        let command: Command = spec(r#"{"argv": ["sync"]}"#);
        let host = FakeHost::new().answer(&["sync"], ok(""));
        for _ in 0..2 {
            let Planned::Change(diff) = command.plan(&host).await.unwrap() else { panic!() };
            assert_eq!(diff.action, Some(Action::Run));
            Resource::apply(&command, &host, &diff).await.unwrap();
        }
        assert_eq!(host.runs().len(), 2);
    }

    #[test]
    fn specs_that_make_no_sense_are_refused() {
        for (json, reason) in [
            (r#"{"argv": []}"#, "`argv` needs at least the name of a program"),
            (r#"{"argv": ["a"], "creates": "/x", "unless": ["b"]}"#, "keep one of them"),
            (r#"{"argv": ["a"], "unless": []}"#, "`unless` needs at least"),
            (r#"{"argv": ["a"], "timeout": 0}"#, "a `timeout` of 0 seconds"),
        ] {
            let mut command: Command = spec(json);
            let error = Resource::resolve(&mut command, &mut Project::default()).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
