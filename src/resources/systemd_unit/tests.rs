#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::show::tests::{NOT_FOUND, RUNNING};
use super::*;
use crate::host::fake::{FakeHost, Files, failed, ok};
use crate::host::{CommandFailed, Output};
use crate::resources::{AnyResource, Planned};

const UNIT: &str = "/etc/systemd/system/app.service";
const CONFIG: &str = "/etc/app.yaml";
const RECORD: &str = "/run/provision/units/app.service.inputs";
/// What systemd would answer now, and the clock of the fake in seconds.
const SHOW: &str = "/fake/show";
const CLOCK: &str = "/fake/clock";

fn spec() -> SystemdUnit {
    serde_json::from_value(json!({
        "name": "app.service",
        "content": "[Service]\nExecStart=/usr/bin/app\n[Install]\nWantedBy=multi-user.target\n",
        "inputs": [CONFIG, "/etc/app.d"],
    }))
    .unwrap()
}

fn now(files: &Files) -> u64 {
    files.text(CLOCK).parse().unwrap()
}

fn set(files: &mut Files, name: &str, value: &str) {
    let line = |line: &str| match line.split_once('=') {
        Some((found, _)) if found == name => format!("{name}={value}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = files.text(SHOW).lines().map(line).collect();
    files.put_file(SHOW, text, 0o644);
}

/// A start at the present time, with a new invocation.
fn started(files: &mut Files) -> Output {
    let (text, time) = (files.text(SHOW), now(files));
    if !text.contains("InactiveExitTimestamp=W") {
        files.put_file(SHOW, RUNNING, 0o644);
    }
    set(files, "ActiveState", "active");
    set(files, "SubState", "running");
    set(files, "InvocationID", &format!("{time:032x}"));
    let clock = jiff::Timestamp::from_second(time.try_into().unwrap()).unwrap();
    let clock = clock.strftime("%a %Y-%m-%d %H:%M:%S.000000 UTC").to_string();
    set(files, "InactiveExitTimestamp", &clock);
    ok("")
}

/// Every path of the fake was changed at the second that stands in /fake/ctime/PATH#, else at 0.
fn touch(files: &mut Files, path: &str, content: &str) {
    let time = (now(files) + 10).to_string();
    files.put_file(path, content, 0o644);
    files.put_file(format!("/fake/ctime{path}#"), &time, 0o644);
    files.put_file(CLOCK, (now(files) + 20).to_string(), 0o644);
}

fn blank() -> FakeHost {
    FakeHost::new()
        .dir("/etc/systemd/system", 0o755)
        .file(SHOW, NOT_FOUND, 0o644)
        .file(CLOCK, "1000", 0o644)
        .file(CONFIG, "a: 1\n", 0o644)
        .on_query(&["systemctl", "show"], |files, _| ok(&files.text(SHOW)))
        .on_query(&["stat"], |files, argv| {
            let line = |path: &String| {
                let time = format!("/fake/ctime{path}#");
                let time = files.node(&time).map_or("0".into(), |_| files.text(&time));
                files.node(path).map(|_| format!("{time}.000000000 {path}\n"))
            };
            ok(&argv[4..].iter().filter_map(line).collect::<String>())
        })
        .on_query(&["journalctl"], |_, _| ok("2026-11-25 app[7]: no such table\n"))
        .on_run(&["systemctl", "daemon-reload"], |_, _| ok(""))
        .on_run(&["systemctl", "enable"], |files, _| {
            files.put_file(SHOW, RUNNING.replace("ActiveState=active", "ActiveState=inactive"), 0o644);
            ok("")
        })
        .on_run(&["systemctl", "start"], |files, _| started(files))
        .on_run(&["systemctl", "restart"], |files, _| started(files))
        .on_run(&["systemctl", "unmask"], |files, _| {
            set(files, "LoadState", "loaded");
            ok("")
        })
        .on_run(&["systemctl", "stop"], |files, _| {
            set(files, "ActiveState", "inactive");
            ok("")
        })
}

async fn plan(host: &FakeHost) -> Diff {
    match spec().plan(host).await.unwrap() {
        Planned::Change(diff) => diff,
        other => panic!("{other:?}"),
    }
}

fn fields(diff: &Diff) -> Vec<&str> {
    diff.changes.iter().map(|c| c.field.as_str()).collect()
}

async fn up() -> FakeHost {
    let host = blank();
    let diff = plan(&host).await;
    AnyResource::apply(&spec(), &host, &diff).await.unwrap();
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
    host
}

#[tokio::test]
async fn a_blank_host() {
    let host = blank();
    let diff = plan(&host).await;
    assert_eq!(diff.action, Some(Action::Create));
    assert_eq!(fields(&diff), [UNIT, "enabled", "state"]);
    assert_eq!(diff.changes[2].detail, "inactive (dead) -> running");
    assert!(host.changes().is_empty());
    let host = up().await;
    assert_eq!(
        host.changes(),
        [
            "write /etc/systemd/system/app.service 0644 0:0",
            "run systemctl daemon-reload",
            "run systemctl enable -- app.service",
            "run systemctl start --no-block -- app.service",
            "mkdir /run/provision 0700",
            "mkdir /run/provision/units 0700",
            "write /run/provision/units/app.service.inputs 0600 0:0"
        ]
    );
}

#[tokio::test]
async fn changed_inputs_are_named_and_restart_once() {
    let host = up().await;
    touch(&mut host.files(), CONFIG, "a: 2\n");
    let diff = plan(&host).await;
    assert_eq!(fields(&diff), ["inputs"]);
    assert_eq!(diff.changes[0].detail, "changed: /etc/app.yaml -> restart");
    AnyResource::apply(&spec(), &host, &diff).await.unwrap();
    assert_eq!(host.runs().last().unwrap().argv[1], "restart");
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);

    touch(&mut host.files(), CONFIG, "a: 2\n");
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync, "the same content again");
    touch(&mut host.files(), "/etc/app.d/x.yaml", "");
    let diff = plan(&host).await;
    assert_eq!(diff.changes[0].detail, "changed: /etc/app.d, /etc/app.d/x.yaml -> restart");
}

#[tokio::test]
async fn a_cut_between_change_and_restart_is_finished_by_the_next_run() {
    let host = up().await;
    // The file was changed, then the run was killed: nothing was recorded.
    touch(&mut host.files(), CONFIG, "a: 2\n");
    host.files().remove(RECORD);
    let diff = plan(&host).await;
    assert_eq!(diff.changes[0].detail, "changed: /etc/app.yaml -> restart");
    // Killed after the restart, before the record: the time of the start tells that it is done.
    started(&mut host.files());
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
}

#[tokio::test]
async fn starts_that_are_not_ours() {
    // A crash that systemd mended, or a restart by hand, with unchanged inputs.
    let host = up().await;
    host.files().put_file(CLOCK, "2000", 0o644);
    started(&mut host.files());
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
    // A change after such a start: the old record must not be believed.
    touch(&mut host.files(), CONFIG, "a: 2\n");
    assert_eq!(fields(&plan(&host).await), ["inputs"]);
    // Changed back: it cannot be known what it read in between.
    touch(&mut host.files(), CONFIG, "a: 1\n");
    assert_eq!(fields(&plan(&host).await), ["inputs"]);
    // A restart by hand counts.
    started(&mut host.files());
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
}

#[tokio::test]
async fn another_list_of_inputs_is_no_change_of_the_inputs() {
    let host = up().await;
    touch(&mut host.files(), CONFIG, "a: 2\n");
    let mut fewer = spec();
    fewer.inputs.clear();
    assert_eq!(fewer.plan(&host).await.unwrap(), Planned::InSync);
    let mut more = spec();
    more.inputs = vec!["/etc/hostname".into()];
    host.files().put_file("/etc/hostname", "a\n", 0o644);
    assert_eq!(more.plan(&host).await.unwrap(), Planned::InSync, "older than the start");
    touch(&mut host.files(), "/etc/hostname", "b\n");
    assert!(matches!(more.plan(&host).await.unwrap(), Planned::Change(_)));
}

#[tokio::test]
async fn a_file_that_left_an_input_directory_is_named() {
    let host = blank();
    touch(&mut host.files(), "/etc/app.d/x.yaml", "");
    let diff = plan(&host).await;
    AnyResource::apply(&spec(), &host, &diff).await.unwrap();
    host.files().remove("/etc/app.d/x.yaml");
    let diff = plan(&host).await;
    assert_eq!(diff.changes[0].detail, "changed: /etc/app.d/x.yaml -> restart");
}

#[tokio::test]
async fn large_inputs_are_read_once() {
    let host = up().await;
    // Changed content under the same ctime cannot be on a real host; here it shows that the file is not read.
    host.files().put_file(CONFIG, "a: 3\n", 0o644);
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
}

#[tokio::test]
async fn drift_of_the_unit_itself() {
    let host = up().await;
    {
        let mut files = host.files();
        touch(&mut files, UNIT, "[Service]\nExecStart=/bin/true\n");
        set(&mut files, "NeedDaemonReload", "yes");
    }
    let diff = plan(&host).await;
    assert_eq!(fields(&diff), [UNIT, "inputs"]);
    assert_eq!(diff.changes[1].detail, "changed: /etc/systemd/system/app.service -> restart");
    let host = up().await;
    set(&mut host.files(), "NeedDaemonReload", "yes");
    assert_eq!(fields(&plan(&host).await), ["loaded"]);
    let host = up().await;
    host.files().put_file(UNIT, spec().content.unwrap(), 0o600);
    assert_eq!(plan(&host).await.changes[0].detail, "mode 0600 -> 0644");
    let host = up().await;
    set(&mut host.files(), "ActiveState", "inactive");
    set(&mut host.files(), "SubState", "dead");
    let diff = plan(&host).await;
    assert_eq!(diff.changes[0].detail, "inactive (dead) since 2026-11-25 16:52:31 UTC -> running");
    let host = up().await;
    set(&mut host.files(), "LoadState", "masked");
    let diff = plan(&host).await;
    assert_eq!(fields(&diff), ["masked"]);
    AnyResource::apply(&spec(), &host, &diff).await.unwrap();
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
}

#[tokio::test]
async fn a_failure_brings_the_journal() {
    let host = blank().on_run(&["systemctl", "start"], |files, _| {
        set(files, "ActiveState", "failed");
        set(files, "Result", "exit-code");
        set(files, "ExecMainStatus", "1");
        ok("")
    });
    let diff = plan(&host).await;
    let error = AnyResource::apply(&spec(), &host, &diff).await.unwrap_err();
    let failed = error.downcast_ref::<CommandFailed>().unwrap();
    assert_eq!(failed.tail, ["2026-11-25 app[7]: no such table"]);
    assert_eq!(failed.reason, "left it failed (exit-code, status 1) since 2026-11-25 16:52:31 UTC");
    assert!(host.files().node(RECORD).is_none(), "what failed is not recorded");
}

#[tokio::test]
async fn waiting_has_an_end_and_says_why() {
    let host = blank().on_run(&["systemctl", "start"], |files, _| {
        set(files, "ActiveState", "activating");
        set(files, "SubState", "start");
        set(files, "StatusText", "waiting for the database");
        ok("")
    });
    let diff = plan(&host).await;
    let error = AnyResource::apply(&spec(), &host, &diff).await.unwrap_err();
    assert!(error.to_string().contains("did not bring it up within 120 s: activating (start)"));
    let said = host.progress_texts();
    assert_eq!(said.last().unwrap(), "app.service is activating (start): waiting for the database, 119 s");

    let host = blank().on_run(&["systemctl", "start"], |files, _| {
        set(files, "ActiveState", "activating");
        set(files, "SubState", "auto-restart");
        set(files, "NRestarts", "5");
        ok("")
    });
    let error = AnyResource::apply(&spec(), &host, &diff).await.unwrap_err();
    assert!(error.to_string().contains("had to restart it 5 times"), "{error}");
    assert!(host.slept().is_zero());
}

#[tokio::test]
async fn a_simple_service_must_live_for_a_second() {
    let host = blank().on_run(&["systemctl", "start"], |files, _| {
        started(files);
        set(files, "Type", "simple");
        ok("")
    });
    let diff = plan(&host).await;
    AnyResource::apply(&spec(), &host, &diff).await.unwrap();
    assert_eq!(host.slept().as_secs(), 1);

    // The second look after the start finds it dead.
    let looks = std::sync::atomic::AtomicU32::new(0);
    let host = host.on_query(&["systemctl", "show"], move |files, _| {
        let look = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let text = files.text(SHOW);
        ok(&match look {
            0 => text.replace("InvocationID=", "InvocationID=old"),
            1 => text,
            _ => text.replace("ActiveState=active", "ActiveState=failed"),
        })
    });
    let error = AnyResource::apply(&spec(), &host, &diff).await.unwrap_err();
    assert!(error.to_string().contains("died within 1 s: failed"), "{error}");
}

#[tokio::test]
async fn units_of_packages() {
    let timer: SystemdUnit = serde_json::from_value(json!("logrotate.timer")).unwrap();
    let host = blank();
    let planned = timer.plan(&host).await.unwrap();
    assert_eq!(planned, Planned::Pending("needs the unit logrotate.timer, which is not there yet".into()));
    host.files().put_file(SHOW, RUNNING.replace("UnitFileState=enabled", "UnitFileState=disabled"), 0o644);
    let Planned::Change(diff) = timer.plan(&host).await.unwrap() else {
        panic!("nothing planned");
    };
    assert_eq!(diff.changes[0].detail, "disabled -> enabled");
    let off: SystemdUnit = serde_json::from_value(json!({
        "name": "apt-daily.timer", "enabled": false, "running": false,
    }))
    .unwrap();
    let Planned::Change(diff) = off.plan(&host).await.unwrap() else {
        panic!("nothing planned");
    };
    assert_eq!(fields(&diff), ["state"]);
    AnyResource::apply(&off, &host, &diff).await.unwrap();
    assert_eq!(off.plan(&host).await.unwrap(), Planned::InSync);
}

#[tokio::test]
async fn no_systemd_is_an_error() {
    let host = FakeHost::new().answer(
        &["systemctl", "show"],
        failed(1, "System has not been booted with systemd as init system (PID 1). Can't operate."),
    );
    let error = spec().plan(&host).await.unwrap_err();
    assert!(error.to_string().contains("has not been booted with systemd"));
}

#[test]
fn specs_are_checked() {
    let check = |value| serde_json::from_value::<SystemdUnit>(value).unwrap().check();
    check(json!("getty@tty1.service")).unwrap();
    check(json!({ "name": "a.service", "content": "[Service]\n", "enabled": false, "running": "leave" })).unwrap();
    for (value, reason) in [
        (json!("k3s"), "as in `k3s.service`"),
        (json!("../x.service"), "is no name"),
        (json!("--now.service"), "is no name"),
        (json!({ "name": "a.service", "content": "[Service]\n" }), "no [Install] section"),
        (json!({ "name": "a.service", "inputs": ["etc/x"] }), "absolute path"),
        (json!({ "name": "a.service", "drop_ins": { "x": "" } }), "ends with .conf"),
    ] {
        let error = check(value).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let error = serde_json::from_value::<SystemdUnit>(json!({ "name": "a.service", "running": "yes" }));
    assert!(error.unwrap_err().to_string().contains("expected true, false or `leave`"));
}
