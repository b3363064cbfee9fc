//! Starting a unit and waiting until it is up.

use std::time::Duration;

use anyhow::{Error, Result};

use super::show::{Shown, show};
use crate::host::{Cmd, CommandFailed, Query, WriteHost};

const PAUSE: Duration = Duration::from_millis(200);
/// systemd calls a service without a protocol for readiness active as soon as its process exists: it must live this long.
const SETTLE: Duration = Duration::from_secs(1);
/// A service that systemd had to restart this often while we waited will not come up.
const RESTARTS: u32 = 5;
const JOURNAL_LINES: usize = 20;

/// Starts or restarts a unit and waits until it is active.
///
/// # Errors
/// [`CommandFailed`] with the last lines of its journal, when it failed, keeps crashing, or is not up after `timeout` seconds.
pub(super) async fn start(host: &dyn WriteHost, name: &str, restart: bool, timeout: u64) -> Result<Shown> {
    let before = show(host.as_read(), name).await?;
    if before.active_state == "failed" {
        // Too many failures in a row would make systemd refuse.
        host.run(&Cmd::new(["systemctl", "reset-failed", "--", name])).await?;
    }
    // A start would wait until systemd's own pause between restarts is over.
    let verb = if restart || before.sub_state == "auto-restart" { "restart" } else { "start" };
    // Without --no-block it would wait by itself, but as long as the unit says, and without a word.
    let argv = ["systemctl", verb, "--no-block", "--", name];
    host.run(&Cmd::new(argv)).await?;
    let mut waited = Duration::ZERO;
    loop {
        let unit = show(host.as_read(), name).await?;
        let is_new = verb == "start" || unit.invocation != before.invocation;
        if unit.active() && !unit.has_job && is_new {
            match settled(host, name, unit).await? {
                Ok(unit) => return Ok(unit),
                Err(reason) => return Err(failure(host, &argv, name, reason).await),
            }
        }
        if let Some(reason) = hopeless(&unit, is_new) {
            return Err(failure(host, &argv, name, reason).await);
        }
        if waited >= Duration::from_secs(timeout) {
            let reason = format!("did not bring it up within {timeout} s: {}", unit.describe());
            return Err(failure(host, &argv, name, reason).await);
        }
        let (state, sub_state) = (&unit.active_state, &unit.sub_state);
        let said = match unit.status_text.as_str() {
            "" => String::new(),
            text => format!(": {text}"),
        };
        let seconds = waited.as_secs();
        host.progress(&format!("{name} is {state} ({sub_state}){said}, {seconds} s"));
        host.sleep(PAUSE).await;
        waited += PAUSE;
    }
}

/// Why waiting longer cannot help.
fn hopeless(unit: &Shown, is_new: bool) -> Option<String> {
    if unit.has_job {
        return None;
    }
    match unit.active_state.as_str() {
        "failed" => Some(format!("left it {}", unit.describe())),
        "inactive" if is_new && unit.service_type == "oneshot" => Some(
            "ran it, but a unit of Type=oneshot does not stay active: set `running: leave`, or RemainAfterExit=yes in the unit".into(),
        ),
        "inactive" if is_new => Some(format!("started it, but it ended at once: {}", unit.describe())),
        "activating" if unit.restarts >= RESTARTS => Some(format!(
            "started it, but systemd had to restart it {} times: {}",
            unit.restarts,
            unit.describe()
        )),
        _ => None,
    }
}

/// The unit when it stays up, else why it does not count.
async fn settled(host: &dyn WriteHost, name: &str, unit: Shown) -> Result<Result<Shown, String>> {
    if !matches!(unit.service_type.as_str(), "simple" | "exec" | "idle") {
        return Ok(Ok(unit));
    }
    host.sleep(SETTLE).await;
    let later = show(host.as_read(), name).await?;
    if later.active() && later.invocation == unit.invocation {
        return Ok(Ok(later));
    }
    let seconds = SETTLE.as_secs();
    Ok(Err(format!("started it, but it died within {seconds} s: {}", later.describe())))
}

async fn failure(host: &dyn WriteHost, argv: &[&str], name: &str, reason: String) -> Error {
    let tail = match host.query(&Query::journal(name, JOURNAL_LINES)).await {
        Ok(answer) => answer.stdout.lines().map(str::to_owned).collect(),
        Err(error) => vec![format!("its journal cannot be read: {error:#}")],
    };
    CommandFailed { argv: argv.iter().map(|&arg| arg.to_owned()).collect(), reason, status: None, tail }.into()
}
