#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use serde_json::json;

use super::*;
use crate::host::fake::{FakeHost, failed, ok};
use crate::resources::{AnyResource, Planned};

// /etc/ufw/user.rules and user6.rules of UFW 0.36.2 on Debian 12, after rules were added by hand. UFW 0.36.1 of Ubuntu
// 22.04 writes the same lines.
const V4: &str = "\
### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in comment=737368206974206973
### tuple ### allow any any 0.0.0.0/0 any 10.42.0.0/16 in
### tuple ### route:allow any any 0.0.0.0/0 any 10.42.0.0/16 in
### tuple ### allow tcp 8000:8100 0.0.0.0/0 any 192.168.1.0/24 in
### tuple ### allow any 53 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in
### tuple ### deny any any 0.0.0.0/0 any 1.2.3.4 in_eth0
### tuple ### limit tcp 2222 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 in
";
const V6: &str = "\
### tuple ### allow tcp 22 ::/0 any ::/0 in comment=737368206974206973
### tuple ### allow any 53 ::/0 any ::/0 in
### tuple ### allow tcp 22 ::/0 any ::/0 OpenSSH - in
### tuple ### limit tcp 2222 ::/0 any ::/0 in
### tuple ### allow tcp 80,443 ::/0 any ::/0 in
### tuple ### allow any any ::/0 any fd00::/8 in
";
// The files of a fresh installation.
const DEFAULT: &str = "IPV6=yes\nDEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_OUTPUT_POLICY=\"ACCEPT\"\nDEFAULT_FORWARD_POLICY=\"DROP\"\nDEFAULT_APPLICATION_POLICY=\"SKIP\"\nMANAGE_BUILTINS=no\n";

fn spec() -> Ufw {
    serde_json::from_value(json!({
        "allow": [{ "port": 22, "proto": "tcp", "comment": "ssh" }],
        "trusted_networks": ["10.42.0.0/16"],
    }))
    .unwrap()
}

/// A host with sshd, reached from 10.99.0.1, on which `ufw` does what it is told to the files that it keeps.
fn blank() -> FakeHost {
    FakeHost::new()
        .file("/etc/ssh/sshd_config", "Port 22\n", 0o644)
        .file("/proc/self/environ", "SSH_CONNECTION=10.99.0.1 51324 10.99.0.2 22\0", 0o400)
        .on_query(&["iptables", "-S"], |files, _| match files.node("/fake/chain") {
            Some(_) => ok(&files.text("/fake/chain")),
            None => failed(1, "iptables: No chain/target/match by that name."),
        })
}

fn installed() -> FakeHost {
    blank()
        .file(PROGRAM, "", 0o755)
        .file(DEFAULTS, DEFAULT, 0o644)
        .file(CONF, "ENABLED=no\nLOGLEVEL=low\n", 0o644)
        .file(RULES_V4, "", 0o640)
        .file(RULES_V6, "", 0o640)
        .on_run(&["ufw"], |files, cmd| {
            let words: Vec<_> = cmd.argv[1..].iter().map(String::as_str).collect();
            let mut add = |path: &str, tuple: String| {
                let text = files.text(path) + "### tuple ### " + &tuple + "\n";
                files.put_file(path, text, 0o640);
            };
            match words[..] {
                ["--force", "enable"] => {
                    files.put_file(CONF, "ENABLED=yes\n", 0o644);
                    files.put_file("/fake/chain", "-N ufw-user-input\n-A ufw-user-input -j ACCEPT\n", 0o644);
                }
                ["disable"] => {
                    files.put_file(CONF, "ENABLED=no\n", 0o644);
                    files.remove("/fake/chain");
                }
                ["default", "deny", "incoming"] => files.put_file(DEFAULTS, DEFAULT, 0o644),
                ["allow", "proto", "tcp", "from", "any", "to", "any", "port", "22", "comment", "ssh"] => {
                    add(RULES_V4, "allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in comment=737368".into());
                    add(RULES_V6, "allow tcp 22 ::/0 any ::/0 in comment=737368".into());
                }
                ["allow", "from", net, "to", "any"] => add(RULES_V4, format!("allow any any 0.0.0.0/0 any {net} in")),
                ["route", "allow", "from", net, "to", "any"] => {
                    add(RULES_V4, format!("route:allow any any 0.0.0.0/0 any {net} in"));
                }
                _ => return failed(1, "ERROR: Invalid syntax"),
            }
            ok("")
        })
}

async fn plan(spec: &Ufw, host: &FakeHost) -> Diff {
    match spec.plan(host).await.unwrap() {
        Planned::Change(diff) => diff,
        other => panic!("{other:?}"),
    }
}

fn lines(diff: &Diff) -> Vec<String> {
    let line = |c: &crate::diff::Change| format!("{}: {}", c.field, c.detail);
    diff.changes.iter().map(line).collect()
}

#[tokio::test]
async fn a_blank_host_is_planned_although_ufw_is_not_there() {
    let diff = plan(&spec(), &blank()).await;
    assert_eq!(diff.action, Some(Action::Create));
    assert_eq!(
        lines(&diff),
        [
            "enabled: inactive -> active",
            "default_incoming: (none) -> deny",
            "default_outgoing: (none) -> allow",
            "default_routed: (none) -> deny",
            "allow 22/tcp: (none) -> allow (ssh)",
            "allow from 10.42.0.0/16: (none) -> allow",
            "route allow from 10.42.0.0/16: (none) -> allow"
        ]
    );
    let error = AnyResource::apply(&spec(), &blank(), &diff).await.unwrap_err();
    assert!(error.to_string().starts_with("UFW is not installed"));
}

#[tokio::test]
async fn plan_apply_plan() {
    let host = installed();
    let diff = plan(&spec(), &host).await;
    assert!(host.changes().is_empty());
    AnyResource::apply(&spec(), &host, &diff).await.unwrap();
    assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
    let last = host.runs().last().unwrap().argv.join(" ");
    assert_eq!(last, "ufw --force enable", "rules come before the firewall");

    host.files().put_file("/fake/chain", "-N ufw-user-input\n", 0o644);
    let diff = plan(&spec(), &host).await;
    assert_eq!(lines(&diff), ["enabled: active, but its rules are gone -> loaded"]);
    host.files().remove("/fake/chain");
    let diff = plan(&spec(), &host).await;
    assert_eq!(lines(&diff), ["enabled: not loaded -> active"]);
    AnyResource::apply(&spec(), &host, &diff).await.unwrap();

    let off: Ufw = serde_json::from_value(json!({ "enabled": false })).unwrap();
    let diff = plan(&off, &host).await;
    AnyResource::apply(&off, &host, &diff).await.unwrap();
    assert_eq!(off.plan(&host).await.unwrap(), Planned::InSync);
}

#[tokio::test]
async fn rules_by_hand_stay_and_are_shown() {
    let host = installed().file(RULES_V4, V4, 0o640).file(RULES_V6, V6, 0o640);
    let diff = plan(&spec(), &host).await;
    assert_eq!(
        lines(&diff),
        [
            "enabled: inactive -> active",
            "allow 22/tcp: comment \"ssh it is\" -> allow (ssh)",
            "kept: allow 8000:8100/tcp from 192.168.1.0/24 (not in this spec)",
            "kept: allow 53 (not in this spec)",
            "kept: allow OpenSSH (not in this spec)",
            "kept: deny in on eth0 from 1.2.3.4 (not in this spec)",
            "kept: limit 2222/tcp (not in this spec)",
            "kept: allow 80,443/tcp (not in this spec)",
            "kept: allow from fd00::/8 (not in this spec)"
        ]
    );
}

#[tokio::test]
async fn nobody_is_locked_out() {
    let without: Ufw = serde_json::from_value(json!({ "trusted_networks": ["10.42.0.0/16"] })).unwrap();
    let error = without.plan(&installed()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "this would lock you out: no rule allows your SSH connection from 10.99.0.1 to port 22\n  hint: add `{ port: 22, proto: tcp }` to `allow`"
    );
    let elsewhere: Ufw =
        serde_json::from_value(json!({ "allow": [{ "port": 22, "from": "192.168.0.0/16" }] })).unwrap();
    assert!(elsewhere.plan(&installed()).await.is_err());
    let local = installed().file("/proc/self/environ", "", 0o400);
    assert!(elsewhere.plan(&local).await.is_ok(), "one network is enough for who sits on the host");
    let other_port = local.file("/etc/ssh/sshd_config", "Port 2222\n", 0o644);
    let error = spec().plan(&other_port).await.unwrap_err().to_string();
    assert!(error.contains("port 2222, which sshd listens on"), "{error}");
    let by_hand = installed().file(RULES_V4, V4, 0o640);
    assert!(without.plan(&by_hand).await.is_ok(), "a rule by hand admits it");
    let open: Ufw = serde_json::from_value(json!({ "default_incoming": "allow" })).unwrap();
    assert!(open.plan(&installed()).await.is_ok());
}

#[test]
fn rules_of_one_family_are_not_enough() {
    let state = State {
        loaded: Loaded::Yes,
        at_boot: true,
        defaults: [Some(Policy::Deny), Some(Policy::Allow), Some(Policy::Deny)],
        ipv6: true,
        rules: rules::parse("### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n").unwrap(),
    };
    let ssh: Ufw = serde_json::from_value(json!({ "allow": [{ "port": "22", "proto": "tcp" }] })).unwrap();
    assert_eq!(lines(&ssh.diff(&state)), ["allow 22/tcp: (none) -> allow"]);
    let v4 = State { ipv6: false, ..state };
    assert!(ssh.diff(&v4).is_empty());
}

#[test]
fn networks_are_kept_as_ufw_writes_them() {
    let shown = |text: &str| Network::parse(text).unwrap().to_string();
    assert_eq!(shown("10.42.7.1/16"), "10.42.0.0/16");
    assert_eq!(shown("10.0.0.1/32"), "10.0.0.1");
    assert_eq!(shown("FD00::1/8"), "fd00::/8");
    assert_eq!(shown("any"), "any");
    for bad in ["10.42.0.0/33", "10.42", "pods", "", "::/129"] {
        Network::parse(bad).expect_err(bad);
    }
    let rules = rules::parse(V4).unwrap();
    let client: IpAddr = "192.168.1.9".parse().unwrap();
    assert!(rules[3].admits(8050, Some(client)) && !rules[3].admits(8101, Some(client)));
    assert!(rules[8].admits(443, None) && !rules[6].admits(443, None));
    assert!(!rules[2].admits(22, None), "a route is no way in");
    assert!(rules::parse("### tuple ### allow tcp\n").is_err());
}

#[test]
fn entries_are_checked() {
    for (entry, reason) in [
        (json!({}), "needs a `port` or a `from`"),
        (json!({ "port": "1:2" }), "needs a `proto`"),
        (json!({ "port": "ssh" }), "is no port"),
        (json!({ "port": 0 }), "is no port"),
        (json!({ "from": "x" }), "is no network"),
        (json!({ "port": 1, "comment": "it's" }), "no quotes"),
    ] {
        let entry: Allow = serde_json::from_value(entry).unwrap();
        let error = entry.check().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
