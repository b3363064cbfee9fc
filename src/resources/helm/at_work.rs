//! Whether somebody else's Helm is, or may be, in the middle of something with the release.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;

use super::{Helm, READY_LABEL, YES};
use crate::cluster::helm::{Revision, Status};
use crate::host::ReadHost;

/// Words of Helm that change a release.
const CHANGING: &[&str] = &["install", "upgrade", "rollback", "uninstall", "delete", "del", "un", "test"];

impl Helm {
    /// # Errors
    /// When a release that is in the middle of something may still have its Helm: which process, or until when.
    pub(super) fn ensure_alone(&self, host: &dyn ReadHost, latest: &Revision) -> Result<()> {
        if !latest.status.is_pending() {
            return Ok(());
        }
        let what = format!("release {}/{} is {}", self.namespace, self.release, latest.status.word());
        if let Some(process) = self.helm_at_work(host)? {
            bail!("{what} and process {process} is at work on it; wait until it has ended, or end it");
        }
        if let Some(end) = self.may_be_alive_until(latest, Timestamp::now()) {
            let since = &latest.since;
            bail!(
                "{what} since {since}, and not by this program: a Helm on another machine may be at work on it; run this \
                 again after {end:.0}, when it can be no longer (`timeout` is {} s)",
                self.timeout
            );
        }
        Ok(())
    }

    /// A Helm of somebody else may be on a machine whose processes are not seen here. One of this program ran on this host,
    /// and its revision says so.
    fn may_be_alive_until(&self, latest: &Revision, now: Timestamp) -> Option<Timestamp> {
        let ours = latest.labels.get(READY_LABEL).is_some_and(|ready| ready != YES);
        let begins = matches!(latest.status, Status::PendingInstall | Status::PendingUpgrade);
        let since: Timestamp = latest.since.parse().ok()?;
        let end = since.checked_add(Duration::from_secs(self.timeout)).ok()?;
        (begins && !ours && now < end).then_some(end)
    }

    /// A Helm that works on this release on this host: its process number.
    fn helm_at_work(&self, host: &dyn ReadHost) -> Result<Option<String>> {
        for process in host.list_dir(Path::new("/proc"))? {
            if !process.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            // It may have ended meanwhile.
            let Ok(Some(line)) = host.read_text(&Path::new("/proc").join(&process).join("cmdline")) else { continue };
            let words: Vec<&str> = line.split('\0').collect();
            if self.is_at_work(&words) {
                return Ok(Some(process));
            }
        }
        Ok(None)
    }

    /// Whether a command line is that of a Helm that changes this release.
    fn is_at_work(&self, words: &[&str]) -> bool {
        let Some((program, words)) = words.split_first() else { return false };
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let helm = name(program) == "helm" || name(program) == name(&self.program());
        helm && words.iter().any(|word| CHANGING.contains(word))
            && words.contains(&self.release.as_str())
            && namespace_in(words).is_none_or(|namespace| namespace == self.namespace)
    }
}

/// The namespace that a command line of Helm names; `None` when it leaves that to the environment.
fn namespace_in<'a>(words: &[&'a str]) -> Option<&'a str> {
    words.iter().enumerate().find_map(|(index, word)| match *word {
        "-n" | "--namespace" => words.get(index + 1).copied(),
        word => word.strip_prefix("--namespace=").or_else(|| word.strip_prefix("-n=")),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn helm() -> Helm {
        serde_json::from_value(json!({"release": "demo", "namespace": "a", "chart": {"path": "x"}, "timeout": 100,
            "helm": "/usr/local/bin/helm3"}))
        .unwrap()
    }

    #[test]
    fn a_helm_at_work_is_one_that_changes_this_release() {
        for (line, expected) in [
            ("helm upgrade --install demo /x --namespace=a", true),
            ("/usr/local/bin/helm3 rollback demo 2 -n a", true),
            ("/opt/helm --namespace a uninstall demo", true),
            ("helm install demo x", true),
            ("helm upgrade demo x -n b", false),
            ("helm upgrade demo x --namespace=b", false),
            ("helm upgrade other x -n a", false),
            ("helm status demo -n a", false),
            ("vim upgrade demo", false),
            ("", false),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(helm().is_at_work(&words), expected, "{line}");
        }
    }

    #[test]
    fn a_helm_on_another_machine_is_given_its_time() {
        let revision = |status: Status, ready: Option<&str>| Revision {
            number: 1,
            status,
            since: "2026-11-29T08:00:00.5+00:00".into(),
            chart: "web 1.0.0".into(),
            values: json!({}),
            objects: Vec::new(),
            labels: ready.map(|ready| (READY_LABEL.to_owned(), ready.to_owned())).into_iter().collect(),
            server_side: true,
        };
        let at = |time: &str| format!("2026-11-29T{time}Z").parse::<Timestamp>().unwrap();
        let (during, after) = (at("08:01:40"), at("08:01:41"));
        for (status, ready, expected) in [
            (Status::PendingInstall, None, true),
            // The mark of the revision before: a person's upgrade of a release of ours.
            (Status::PendingUpgrade, Some(YES), true),
            (Status::PendingInstall, Some(super::super::NOT_YET), false),
            (Status::PendingUpgrade, Some(super::super::UNASKED), false),
            // Rolling back once more, or removing what is being removed, harms nothing.
            (Status::PendingRollback, None, false),
            (Status::Uninstalling, None, false),
        ] {
            let revision = revision(status, ready);
            assert_eq!(helm().may_be_alive_until(&revision, during).is_some(), expected, "{revision:?}");
            assert_eq!(helm().may_be_alive_until(&revision, after), None);
        }
    }
}
