//! What systemd says about a unit.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use jiff::civil::DateTime;

use crate::host::{Query, ReadHost};

const PROPERTIES: &[&str] = &[
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NeedDaemonReload",
    "InvocationID",
    "InactiveExitTimestamp",
    "StateChangeTimestamp",
    "Job",
    // Of services only.
    "Type",
    "NRestarts",
    "Result",
    "ExecMainStatus",
    "StatusText",
];

/// A unit, as `systemctl show` prints it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    pub(super) load_state: String,
    pub(super) active_state: String,
    pub(super) sub_state: String,
    unit_file_state: String,
    pub(super) need_daemon_reload: bool,
    /// Changes with every start; empty when it never ran since the boot.
    pub(super) invocation: String,
    /// When it last began to start: what it reads, it reads after that.
    pub(super) started: Option<Timestamp>,
    since: Option<Timestamp>,
    /// A start or stop is on its way.
    pub(super) has_job: bool,
    /// `notify`, `oneshot`...; empty when it is no service.
    pub(super) service_type: String,
    /// Restarts by systemd itself since it was last started by somebody.
    pub(super) restarts: u32,
    result: String,
    exit_status: String,
    pub(super) status_text: String,
}

/// Asks systemd.
///
/// # Errors
/// When there is no systemd to ask, or it answers strangely.
pub(super) async fn show(host: &dyn ReadHost, unit: &str) -> Result<Shown> {
    let answer = host.query(&Query::systemctl_show(unit, PROPERTIES)).await?;
    if !answer.success() {
        bail!("systemd cannot be asked about {unit}: {}", answer.stderr.trim());
    }
    parse(&answer.stdout).with_context(|| format!("systemd's answer about {unit}"))
}

fn parse(text: &str) -> Result<Shown> {
    let mut values: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let mut take = |name| values.remove(name).unwrap_or_default().to_owned();
    let load_state = take("LoadState");
    if load_state.is_empty() {
        bail!("it has no LoadState: {text:?}");
    }
    let job = take("Job");
    Ok(Shown {
        load_state,
        active_state: take("ActiveState"),
        sub_state: take("SubState"),
        unit_file_state: take("UnitFileState"),
        need_daemon_reload: take("NeedDaemonReload") == "yes",
        invocation: take("InvocationID"),
        started: timestamp(&take("InactiveExitTimestamp"))?,
        since: timestamp(&take("StateChangeTimestamp"))?,
        has_job: !job.is_empty() && job != "0",
        service_type: take("Type"),
        restarts: take("NRestarts").parse().unwrap_or(0),
        result: take("Result"),
        exit_status: take("ExecMainStatus"),
        status_text: take("StatusText"),
    })
}

/// `Wed 2026-11-25 16:52:31.625024 UTC`; empty or `n/a` for never.
fn timestamp(text: &str) -> Result<Option<Timestamp>> {
    if text.is_empty() || text == "n/a" {
        return Ok(None);
    }
    let without_weekday = text.split_once(' ').map_or(text, |(_, rest)| rest);
    let civil: DateTime =
        without_weekday.trim_end_matches(" UTC").parse().with_context(|| format!("cannot read the time {text:?}"))?;
    Ok(Some(civil.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp()))
}

impl Shown {
    pub(super) fn active(&self) -> bool {
        matches!(self.active_state.as_str(), "active" | "reloading")
    }

    /// It has a process or is about to get one: not inactive, not failed.
    pub(super) fn started(&self) -> bool {
        !matches!(self.active_state.as_str(), "inactive" | "failed" | "deactivating")
    }

    pub(super) fn masked(&self) -> bool {
        self.load_state == "masked"
    }

    /// Starts at boot. A generated unit does so by whatever it was generated from.
    pub(super) fn enabled(&self) -> bool {
        matches!(self.unit_file_state.as_str(), "enabled" | "alias" | "generated")
    }

    pub(super) fn file_state(&self) -> &str {
        match self.unit_file_state.as_str() {
            "" => "not installed",
            state => state,
        }
    }

    /// `failed (exit-code, status 1) since 2026-11-25 14:02:11 UTC`.
    pub(super) fn describe(&self) -> String {
        let why = match self.active_state.as_str() {
            "failed" if self.result == "exit-code" => {
                format!("exit-code, status {}", self.exit_status)
            }
            "failed" => self.result.clone(),
            _ => self.sub_state.clone(),
        };
        let since = self.since.map(|time| {
            let time = time.strftime("%Y-%m-%d %H:%M:%S");
            format!(" since {time} UTC")
        });
        let since = since.unwrap_or_default();
        format!("{} ({why}){since}", self.active_state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    // Recorded on Debian 12 (systemd 252); properties that are not asked for left out.
    pub(crate) const RUNNING: &str = "Type=notify\nStatusText=\nResult=success\nNRestarts=0\nExecMainStatus=0\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nStateChangeTimestamp=Wed 2026-11-25 16:52:31.700195 UTC\nInactiveExitTimestamp=Wed 2026-11-25 16:52:31.625024 UTC\nJob=\nNeedDaemonReload=no\nInvocationID=558b19b378114fb288263ddd23e89356\n";
    pub(crate) const NOT_FOUND: &str = "Type=\nNRestarts=0\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\nInactiveExitTimestamp=\nNeedDaemonReload=no\nInvocationID=\n";
    const TIMER: &str = "Result=success\nLoadState=loaded\nActiveState=active\nSubState=waiting\nUnitFileState=enabled\nStateChangeTimestamp=Wed 2026-11-25 16:52:31.506990 UTC\nInactiveExitTimestamp=Wed 2026-11-25 16:52:31.506990 UTC\nJob=\nNeedDaemonReload=no\nInvocationID=305ddfbfbed147ea9b47e998593897bc\n";

    #[test]
    fn recorded_answers() {
        let unit = parse(RUNNING).unwrap();
        assert!(unit.active() && unit.enabled() && !unit.masked() && !unit.has_job);
        assert_eq!(unit.started.unwrap().to_string(), "2026-11-25T16:52:31.625024Z");
        assert_eq!(unit.describe(), "active (running) since 2026-11-25 16:52:31 UTC");
        let unit = parse(NOT_FOUND).unwrap();
        assert_eq!(unit.describe(), "inactive (dead)");
        assert!(!unit.started() && unit.started.is_none());
        let unit = parse(TIMER).unwrap();
        assert!(unit.active() && unit.service_type.is_empty());
        let failed = RUNNING
            .replace("=active", "=failed")
            .replace("Result=success", "Result=exit-code")
            .replace("ExecMainStatus=0", "ExecMainStatus=203");
        let text = parse(&failed).unwrap().describe();
        assert!(text.starts_with("failed (exit-code, status 203) since"), "{text}");
        assert!(parse("").is_err());
        assert!(timestamp("yesterday").is_err());
    }
}
