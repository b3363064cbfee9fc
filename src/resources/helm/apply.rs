//! Making the change, and what is done when it fails.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::json;

use super::compare::{NAMESPACE, READINESS, Recovery, is_another, recovery};
use super::look::{Given, Look, differs};
use super::{Helm, NOT_YET, READY_LABEL, YES};
use crate::cluster::helm::Revision;
use crate::cluster::{KUBECONFIG, ObjectRef, Takeover, Writer};
use crate::diff::Diff;
use crate::host::query::helm_env;
use crate::host::{Cmd, CommandFailed, WriteHost};
use crate::resources::Observed;

/// How long a CustomResourceDefinition may take to be established.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Beyond its own time, Helm may take this long to end.
const GRACE: Duration = Duration::from_secs(60);

/// Fields that somebody else set are set back, as the plan said; only Helm 4 on the server's side asks about it.
const FORCE: &str = "--force-conflicts";

/// One change of one release.
pub struct Apply<'a> {
    spec: &'a Helm,
    host: &'a dyn WriteHost,
    writer: Writer,
    look: Look,
    given: Given,
    /// The newest revision before the change.
    before: u64,
}

impl<'a> Apply<'a> {
    /// Looks again: what is done depends on how things are now.
    ///
    /// # Errors
    /// When looking failed, or the chart cannot be brought to the host.
    pub async fn begin(spec: &'a Helm, host: &'a dyn WriteHost) -> Result<Self> {
        let writer = host.cluster_mut().await?;
        if let Some(artifact) = &spec.chart.artifact {
            // From now on this host has it, also where nobody else does.
            host.fetch(artifact.pin()?).await?;
        }
        let look = match spec.look(host.as_read()).await? {
            Observed::Known(look) => look,
            Observed::Pending(reason) => bail!(reason),
        };
        let given = spec.given(host.as_read()).await?;
        let before = look.history.latest().map_or(0, |latest| latest.number);
        Ok(Self { spec, host, writer, look, given, before })
    }

    /// Does what `diff` says.
    ///
    /// # Errors
    /// What did not work, with the reasons that were found before anything was taken back, and what was taken back.
    pub async fn run(mut self, diff: &Diff) -> Result<()> {
        if self.look.namespace_missing && diff.has(NAMESPACE) {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.spec.namespace}});
            self.writer.apply(self.host, &namespace, Takeover::ByHand).await?;
        }
        self.apply_definitions(diff).await?;
        let definition = |field: &str| self.look.definitions.iter().any(|state| state.reference.to_string() == field);
        let fields = diff.changes.iter().map(|change| change.field.as_str());
        let rest: Vec<&str> = fields.filter(|field| *field != NAMESPACE && !definition(field)).collect();
        let done = match rest[..] {
            [] => return Ok(()),
            [READINESS] => {
                // That revision is the change; it is there already.
                self.before = self.before.saturating_sub(1);
                self.wait().await
            }
            _ => self.change().await,
        };
        match done {
            Ok(()) if self.spec.wait > 0 => self.mark(YES).await,
            Ok(()) => Ok(()),
            Err(error) if was_cancelled(&error) => Err(error),
            Err(error) => Err(self.failed(error).await),
        }
    }

    async fn change(&mut self) -> Result<()> {
        self.recover().await?;
        // Helm would change a Job in place, which the server refuses, and leave one that failed as it is.
        for job in self.look.objects.iter().filter(|state| state.makes_room()) {
            self.host.progress(&format!("deleting {}: another one takes its place", job.reference));
            self.writer.delete(self.host, &job.reference).await?;
        }
        self.upgrade().await?;
        self.wait().await
    }

    async fn wait(&self) -> Result<()> {
        if self.spec.wait > 0 {
            let objects = references(&self.look.rendered.objects);
            self.writer.wait_ready(self.host, &objects, Duration::from_secs(self.spec.wait)).await?;
        }
        Ok(())
    }

    /// Notes on the record of the newest revision whether its objects were seen ready: a run that ends before that leaves
    /// the next one something to do.
    async fn mark(&self, ready: &str) -> Result<()> {
        let (namespace, release) = (&self.spec.namespace, &self.spec.release);
        let number = self.newest().await?;
        self.writer.label_helm_record(namespace, release, number, (READY_LABEL, ready)).await?;
        Ok(())
    }

    async fn apply_definitions(&self, diff: &Diff) -> Result<()> {
        let definitions = self.look.rendered.definitions.iter().zip(&self.look.definitions);
        let mut applied = Vec::new();
        for (definition, state) in definitions {
            if diff.has(&state.reference.to_string()) {
                self.host.progress(&format!("applying {}", state.reference));
                self.writer.apply(self.host, definition, Takeover::Always).await?;
                applied.push(state.reference.clone());
            }
        }
        self.writer.wait_ready(self.host, &applied, ESTABLISH_TIMEOUT).await?;
        Ok(())
    }

    /// Repairs what a killed `helm` left.
    async fn recover(&mut self) -> Result<()> {
        let Some(latest) = self.look.history.latest().filter(|latest| latest.status.is_pending()) else {
            return Ok(());
        };
        match recovery(&self.look, latest) {
            Recovery::GoBack(number) => {
                let revision = self.look.history.0.iter().find(|revision| revision.number == number);
                self.roll_back(number, revision.is_some_and(|revision| revision.server_side)).await?;
            }
            Recovery::Uninstall => self.uninstall().await?,
        }
        self.before = self.newest().await?;
        Ok(())
    }

    /// Number of the newest revision; 0 when there is none.
    async fn newest(&self) -> Result<u64> {
        let history = self.writer.reader().helm_history(&self.spec.namespace, &self.spec.release).await?;
        Ok(history.latest().map_or(0, |latest| latest.number))
    }

    async fn upgrade(&self) -> Result<()> {
        let spec = self.spec;
        self.host.progress(&format!("helm upgrade {}", spec.release));
        let mut words = vec!["upgrade".to_owned(), "--install".into(), spec.release.clone()];
        words.extend(self.given.chart.arguments());
        words.extend([
            format!("--values={}", self.given.values.path()),
            format!("--labels={}", spec.labels()),
            format!("--history-max={}", spec.history),
            // All values every time, whatever an earlier revision had.
            "--reset-values".into(),
            // They are applied before, and then kept up to date.
            "--skip-crds".into(),
            "--hide-notes".into(),
        ]);
        if spec.take_ownership {
            words.push("--take-ownership".into());
        }
        // A new release of Helm 4 is applied on the server's side; an older one stays as it was made.
        let server_side = self.is_helm_4() && self.look.history.latest().is_none_or(|latest| latest.server_side);
        if server_side {
            words.push(FORCE.into());
        }
        self.helm(words).await?;
        if server_side { Ok(()) } else { self.set_back().await }
    }

    /// Sets back what Helm left as it was. On the client's side it compares objects of kinds that it does not know (custom
    /// resources) only with what it applied last, not with what is there.
    async fn set_back(&self) -> Result<()> {
        let Observed::Known(look) = self.spec.look(self.host.as_read()).await? else { return Ok(()) };
        for (object, state) in look.steady.iter().zip(&look.objects) {
            if differs(state) {
                self.host.progress(&format!("applying {}", state.reference));
                self.writer.apply(self.host, object, Takeover::Always).await?;
            }
        }
        Ok(())
    }

    async fn roll_back(&self, number: u64, server_side: bool) -> Result<()> {
        self.host.progress(&format!("helm rollback {} to revision {number}", self.spec.release));
        let mut words = vec!["rollback".to_owned(), self.spec.release.clone(), number.to_string()];
        words.push(format!("--history-max={}", self.spec.history));
        if self.is_helm_4() && server_side {
            words.push(FORCE.into());
        }
        self.helm(words).await
    }

    async fn uninstall(&self) -> Result<()> {
        self.host.progress(&format!("helm uninstall {}", self.spec.release));
        let words = ["uninstall", &self.spec.release, "--ignore-not-found", "--wait"];
        self.helm(words.map(str::to_owned).to_vec()).await
    }

    fn is_helm_4(&self) -> bool {
        !self.look.version.starts_with("v3.")
    }

    async fn helm(&self, words: Vec<String>) -> Result<()> {
        let spec = self.spec;
        let mut argv = vec![spec.program()];
        argv.extend(words);
        argv.push(format!("--namespace={}", spec.namespace));
        argv.push(format!("--timeout={}s", spec.timeout));
        let mut cmd = Cmd::new(argv).timeout(Duration::from_secs(spec.timeout) + GRACE);
        cmd.env = helm_env(&self.given.kubeconfig.path());
        self.host.run(&cmd).await?;
        Ok(())
    }

    /// The error with all that can be found out, collected and shown before anything is taken back.
    async fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        let mut report = format!("release {}/{}: {error:#}", self.spec.namespace, self.spec.release);
        if let Some(failed) = error.downcast_ref::<CommandFailed>() {
            let said: Vec<&str> = failed.tail.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
            report.push_str(&format!("\n  {}", said.join("\n  ")));
        }
        let mut objects = references(&self.look.rendered.objects);
        objects.extend(references(&self.look.rendered.hooks));
        for (object, why) in self.writer.reader().not_ready(&objects).await {
            let text = format!("{object}: {}", why.replace('\n', "\n  "));
            // The first one is the error itself.
            if !report.contains(&why) && why != "it does not exist" {
                report.push_str(&format!("\n{text}"));
            }
        }
        for line in report.lines() {
            self.host.progress(line);
        }
        let outcome = self.take_back().await;
        anyhow!("{report}\n{outcome}")
    }

    /// Says what was done.
    async fn take_back(&self) -> String {
        let spec = self.spec;
        let newest = match self.newest().await {
            Ok(newest) if newest <= self.before => return "Helm changed nothing".into(),
            Ok(newest) => newest,
            Err(error) => return format!("nothing was taken back: {error:#}"),
        };
        match self.good().await {
            Err(error) => format!("nothing was taken back: {error:#}"),
            Ok(Some(good)) if spec.rollback && is_another(spec, &good) => {
                match self.roll_back(good.number, good.server_side).await {
                    Ok(()) => self.state_after(&good).await,
                    Err(error) => format!("going back to revision {} failed as well: {error:#}", good.number),
                }
            }
            Ok(None) if spec.uninstall_failed && spec.remembers(newest) => match self.uninstall().await {
                Ok(()) => "the failed install was removed".into(),
                Err(error) => format!("removing the failed install failed as well: {error:#}"),
            },
            Ok(None) => format!(
                "it was left as it is, to be looked at: `helm status {} -n {} --kubeconfig {KUBECONFIG}`; the next `up` tries \
                 again",
                spec.release, spec.namespace
            ),
            Ok(Some(_)) => "it was left as it is; the next `up` tries again".into(),
        }
    }

    /// The newest revision that was ready, or that nobody waited for.
    async fn good(&self) -> Result<Option<Revision>> {
        let labels = format!("{READY_LABEL}!={NOT_YET}");
        let reader = self.writer.reader();
        Ok(reader.helm_newest_deployed(&self.spec.namespace, &self.spec.release, &labels).await?)
    }

    async fn state_after(&self, good: &Revision) -> String {
        let back = format!("went back to revision {} ({})", good.number, good.chart);
        match self.settle(good).await {
            Ok(()) => format!("{back}, which is ready"),
            Err(error) => format!("{back}, which is not ready either: {error:#}"),
        }
    }

    async fn settle(&self, good: &Revision) -> Result<()> {
        // The rollback took the old revision's labels along.
        self.mark(NOT_YET).await?;
        let wait = Duration::from_secs(self.spec.wait.max(1));
        self.writer.wait_ready(self.host, &references(&good.objects), wait).await?;
        self.mark(YES).await
    }
}

fn references(objects: &[serde_json::Value]) -> Vec<ObjectRef> {
    objects.iter().filter_map(|object| ObjectRef::of(object).ok()).collect()
}

fn was_cancelled(error: &anyhow::Error) -> bool {
    error.downcast_ref::<CommandFailed>().is_some_and(|failed| failed.reason == "was cancelled")
}
