//! The firewall UFW.

mod rules;
mod ssh;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::rules::{Network, Rule};
use self::ssh::Ssh;
use super::{Observed, Resolve, Resource};
use crate::diagnostic::Diagnostic;
use crate::diff::{Action, Diff};
use crate::host::{Cmd, Query, ReadHost, WriteHost};

const PROGRAM: &str = "/usr/sbin/ufw";
const DEFAULTS: &str = "/etc/default/ufw";
const CONF: &str = "/etc/ufw/ufw.conf";
const RULES_V4: &str = "/etc/ufw/user.rules";
const RULES_V6: &str = "/etc/ufw/user6.rules";

/// The firewall UFW. Needs the package `ufw`.
///
/// A spec that would lock you out is refused before anything changes: unless incoming traffic is allowed by default, some
/// rule (of the spec, or one that is there already) must admit the port of your present SSH connection from where you are,
/// and every port that sshd listens on. Rules that are not in the spec stay, and are shown when something else changes. New
/// rules are in place before the firewall is enabled or its defaults become stricter.
///
/// Put it before Kubernetes: enabling a firewall under a running cluster puts its rules before the cluster's.
///
/// ```yaml
/// - ufw:
///     default_incoming: deny
///     default_routed: deny
///     allow:
///       - { port: 22, proto: tcp, comment: ssh }
///     trusted_networks: ["{{ network.pod_cidr }}", "{{ network.service_cidr }}"]
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ufw {
    /// Whether the firewall is on, now and after every boot. Default: true. With false, nothing else is looked at.
    #[serde(default = "yes")]
    enabled: bool,
    /// What happens to incoming connections that no rule names: `deny`, `reject` or `allow`. Default: `deny`.
    #[serde(default = "deny")]
    default_incoming: Policy,
    /// The same for outgoing connections. Default: `allow`.
    #[serde(default = "allow")]
    default_outgoing: Policy,
    /// The same for connections that the host forwards, for example to containers. Default: `deny`.
    #[serde(default = "deny")]
    default_routed: Policy,
    /// Incoming connections to allow.
    #[serde(default)]
    allow: Vec<Allow>,
    /// Networks that may connect to this host and through it: those of pods and services, and the addresses of other
    /// nodes. Example: `[10.42.0.0/16, 10.43.0.0/16]`.
    #[serde(default)]
    trusted_networks: Vec<String>,
}

const fn yes() -> bool {
    true
}

const fn deny() -> Policy {
    Policy::Deny
}

const fn allow() -> Policy {
    Policy::Allow
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Policy {
    /// Dropped without an answer.
    Deny,
    /// Refused with an answer.
    Reject,
    Allow,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Allow => "allow",
        })
    }
}

/// Incoming connections to allow.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Allow {
    /// Port, or a range `8000:8100`. Default: every port.
    #[serde(default)]
    port: Option<Port>,
    /// `tcp` or `udp`. Default: both; a range needs one.
    #[serde(default)]
    proto: Option<Proto>,
    /// Address or network that they come from. Example: `192.168.1.0/24`. Default: anywhere.
    #[serde(default)]
    from: Option<String>,
    /// Shown by `ufw status`. Default: none.
    #[serde(default)]
    comment: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a port (22) or a range (\"8000:8100\")")]
enum Port {
    One(u16),
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Proto {
    Tcp,
    Udp,
}

/// What the firewall is set to, and what it must not cut.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The kernel has UFW's chains, with rules in them when there are rules.
    loaded: Loaded,
    at_boot: bool,
    /// Of /etc/default/ufw: incoming, outgoing, routed.
    defaults: [Option<Policy>; 3],
    ipv6: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    No,
    /// Active, but somebody emptied the chain (`iptables -F`).
    Emptied,
    Yes,
}

#[async_trait]
impl Resource for Ufw {
    const KIND: &'static str = "ufw";
    type State = State;

    fn name(&self) -> String {
        if self.enabled { "enabled" } else { "disabled" }.into()
    }

    fn resolve(&mut self, _project: &mut dyn Resolve) -> Result<()> {
        for entry in &self.allow {
            entry.check()?;
        }
        for network in &self.trusted_networks {
            Network::parse(network)?;
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let state = observe(host).await?;
        if self.enabled && self.default_incoming != Policy::Allow {
            self.refuse_lockout(&state, &Ssh::find(host)?)?;
        }
        Ok(Observed::Known(state))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        if !self.enabled {
            if state.loaded != Loaded::No || state.at_boot {
                diff = Diff::new(Action::Delete);
                diff.push("enabled", "active -> inactive");
            }
            return diff;
        }
        match (state.loaded, state.at_boot) {
            (Loaded::Yes, true) => {}
            (Loaded::Emptied, _) => diff.push("enabled", "active, but its rules are gone -> loaded"),
            (Loaded::Yes, false) => diff.push("enabled", "active until the next boot -> active"),
            (Loaded::No, true) => diff.push("enabled", "not loaded -> active"),
            (Loaded::No, false) => {
                diff = Diff::new(Action::Create);
                diff.push("enabled", "inactive -> active");
            }
        }
        for ((name, wanted), now) in self.defaults().into_iter().zip(state.defaults) {
            let now = now.map_or("(none)".to_owned(), |policy| policy.to_string());
            diff.compare(&format!("default_{name}"), &now, &wanted.to_string());
        }
        for (rule, present) in self.missing(state) {
            let now = match present {
                None => "(none)".to_owned(),
                Some(present) => format!("comment {:?}", present.comment.unwrap_or_default()),
            };
            diff.push(rule.to_string(), format!("{now} -> {}", rule.shown()));
        }
        if !diff.is_empty() {
            for rule in self.by_hand(state) {
                diff.push("kept", format!("{rule} (not in this spec)"));
            }
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let ufw = async |arguments: &[String]| {
            let argv = ["ufw".to_owned()].into_iter().chain(arguments.iter().cloned());
            host.run(&Cmd::new(argv)).await
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        if !self.enabled {
            ufw(&words("disable")).await?;
            return Ok(());
        }
        if host.stat(Path::new(PROGRAM))?.is_none() {
            return Err(Diagnostic::new("UFW is not installed").hint("put `apt: [ufw]` before this resource").into());
        }
        // First what opens, then what closes.
        for rule in self.rules()?.into_iter().filter(|rule| diff.has(&rule.to_string())) {
            ufw(&rule.arguments()).await?;
        }
        for (name, wanted) in self.defaults() {
            if diff.has(&format!("default_{name}")) {
                ufw(&words(&format!("default {wanted} {name}"))).await?;
            }
        }
        if diff.has("enabled") {
            ufw(&words("--force enable")).await?;
            if matches!(observe(host.as_read()).await?.loaded, Loaded::Emptied) {
                ufw(&words("reload")).await?;
            }
        }
        Ok(())
    }
}

impl Ufw {
    fn defaults(&self) -> [(&'static str, Policy); 3] {
        [("incoming", self.default_incoming), ("outgoing", self.default_outgoing), ("routed", self.default_routed)]
    }

    /// The rules of the spec, in order, each once.
    fn rules(&self) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for entry in &self.allow {
            rules.push(entry.rule()?);
        }
        for network in &self.trusted_networks {
            let network = Network::parse(network)?;
            rules.push(Rule::allow_from(network.clone(), false));
            // Only *from* these networks: whoever is outside and sends to a pod's address stays outside. Answers to
            // connections from inside come back anyway.
            rules.push(Rule::allow_from(network, true));
        }
        let mut unique: Vec<Rule> = Vec::new();
        for rule in rules {
            if !unique.iter().any(|other| other.same(&rule)) {
                unique.push(rule);
            }
        }
        Ok(unique)
    }

    /// Rules that are not there, or with another comment (then with the one that is there).
    fn missing(&self, state: &State) -> Vec<(Rule, Option<Rule>)> {
        // `resolve` has checked the networks.
        let rules = self.rules().unwrap_or_default();
        rules
            .into_iter()
            .filter_map(|rule| {
                let mut present = rule
                    .families(state.ipv6)
                    .into_iter()
                    .map(|family| state.rules.iter().find(|other| other.same(&family)));
                if present.clone().any(|found| found.is_none()) {
                    return Some((rule, None));
                }
                let other = present
                    .find_map(|found| found.filter(|found| rule.comment.is_some() && found.comment != rule.comment));
                other.cloned().map(|other| (rule, Some(other)))
            })
            .collect()
    }

    /// IPv4 rules, and those of IPv6 that have no twin there, that are not of this spec.
    fn by_hand(&self, state: &State) -> Vec<Rule> {
        let own: Vec<Rule> = self.rules().unwrap_or_default().iter().flat_map(|rule| rule.families(true)).collect();
        let mut by_hand: Vec<Rule> = Vec::new();
        for rule in &state.rules {
            let known = own.iter().any(|other| other.same(rule));
            if !known && !by_hand.iter().any(|other| other.to_string() == rule.to_string()) {
                by_hand.push(rule.clone());
            }
        }
        by_hand
    }

    fn refuse_lockout(&self, state: &State, ssh: &Ssh) -> Result<()> {
        let mut rules = self.rules()?;
        rules.extend(state.rules.iter().cloned());
        if let Some((client, port)) = ssh.connection
            && !rules.iter().any(|rule| rule.admits(port, Some(client)))
        {
            return Err(lockout(&format!("your SSH connection from {client} to port {port}"), port).into());
        }
        // Pods may reach every port, but nobody logs in from there.
        let trusted: Vec<Network> =
            self.trusted_networks.iter().map(|network| Network::parse(network)).collect::<Result<_>>()?;
        rules.retain(|rule| !trusted.contains(&rule.source));
        for &port in &ssh.ports {
            if !rules.iter().any(|rule| rule.admits(port, None)) {
                return Err(lockout(&format!("port {port}, which sshd listens on"), port).into());
            }
        }
        Ok(())
    }
}

fn lockout(what: &str, port: u16) -> Diagnostic {
    Diagnostic::new(format!("this would lock you out: no rule allows {what}"))
        .hint(format!("add `{{ port: {port}, proto: tcp }}` to `allow`"))
}

impl Allow {
    fn check(&self) -> Result<()> {
        self.rule()?;
        if let Some(comment) = &self.comment
            && (comment.contains('\'') || comment.chars().any(char::is_control))
        {
            bail!("comment {comment:?}: UFW allows no quotes and no control characters");
        }
        if self.port.is_none() && self.from.is_none() {
            bail!("an entry of `allow` needs a `port` or a `from`; to allow everything, set `default_incoming: allow`");
        }
        Ok(())
    }

    fn rule(&self) -> Result<Rule> {
        let network = match &self.from {
            Some(from) => Network::parse(from)?,
            None => Network::any(),
        };
        let port = match &self.port {
            None => "any".to_owned(),
            Some(Port::One(port)) => port.to_string(),
            Some(Port::Text(text)) => text.clone(),
        };
        let range = port.split_once(':');
        let valid = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
        if let Some((low, high)) = range {
            if !valid(low) || !valid(high) {
                bail!("{port:?} is no range of ports (like \"8000:8100\")");
            }
            if self.proto.is_none() {
                bail!("the range of ports {port} needs a `proto`: tcp or udp");
            }
        } else if port != "any" && !valid(&port) {
            bail!("{port:?} is no port");
        }
        let proto = match self.proto {
            None => "any",
            Some(Proto::Tcp) => "tcp",
            Some(Proto::Udp) => "udp",
        };
        let mut rule = Rule::allow_from(network, false);
        rule.proto = proto.to_owned();
        rule.port = port;
        rule.comment = self.comment.clone();
        Ok(rule)
    }
}

async fn observe(host: &dyn ReadHost) -> Result<State> {
    let read = |path: &str| -> Result<String> { Ok(host.read_text(Path::new(path))?.unwrap_or_default()) };
    let defaults = assignments(&read(DEFAULTS)?);
    let conf = assignments(&read(CONF)?);
    let mut rules = rules::parse(&read(RULES_V4)?)?;
    rules.extend(rules::parse(&read(RULES_V6)?)?);
    let policy = |name: &str| match defaults.get(name).map(String::as_str) {
        Some("ACCEPT") => Some(Policy::Allow),
        Some("DROP") => Some(Policy::Deny),
        Some("REJECT") => Some(Policy::Reject),
        _ => None,
    };
    let is = |map: &BTreeMap<String, String>, name: &str| {
        map.get(name).is_some_and(|value| value.eq_ignore_ascii_case("yes"))
    };
    // This is how `ufw status` itself tells whether it is active. Asking iptables directly is ten times faster and does
    // not make /run/ufw.lock; the unit `ufw.service` is no help, it is a oneshot that `ufw enable` does not start.
    let chain = host.query(&Query::iptables_chain("ufw-user-input")).await?;
    let has_input = rules.iter().any(|rule| !rule.routed && !rule.v6() && rule.incoming());
    let loaded = match chain.status {
        0 if has_input && !chain.stdout.lines().any(|line| line.starts_with("-A ")) => Loaded::Emptied,
        0 => Loaded::Yes,
        1 | 127 => Loaded::No,
        _ => bail!("iptables cannot be asked: {}", chain.stderr.trim()),
    };
    Ok(State {
        loaded,
        at_boot: is(&conf, "ENABLED"),
        defaults: [policy("DEFAULT_INPUT_POLICY"), policy("DEFAULT_OUTPUT_POLICY"), policy("DEFAULT_FORWARD_POLICY")],
        ipv6: is(&defaults, "IPV6"),
        rules,
    })
}

/// `NAME=value` lines of a shell file.
fn assignments(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
