//! Inventories: which hosts, how to reach them, which artifacts overlay, which values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::yaml::Node;
use crate::diagnostic::{Diagnostic, Place};

/// An inventory file.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// The machines to provision, by name.
    pub hosts: BTreeMap<String, HostSpec>,
    /// Stages to run; all of the project when absent.
    #[serde(default)]
    pub stages: Option<Vec<String>>,
    /// Files that overlay `artifacts.yml`, relative to this inventory.
    #[serde(default)]
    pub artifacts: Vec<PathBuf>,
    /// Values over those of `inventory/defaults.yml`.
    #[serde(default)]
    pub values: serde_json::Map<String, serde_json::Value>,
}

/// How to reach one machine.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// `ssh`, or `local` for the machine that `provision` runs on.
    pub transport: TransportKind,
    /// Name or IP address (ssh).
    #[serde(default)]
    pub address: Option<String>,
    /// Default 22.
    #[serde(default)]
    pub port: Option<u16>,
    /// Login name; one other than root needs `sudo` without a password. Default root.
    #[serde(default)]
    pub user: Option<String>,
    /// Private key; default: what ssh would use.
    #[serde(default)]
    pub identity_file: Option<PathBuf>,
    /// The host's public key as in known_hosts, without the name: `ssh-ed25519 AAAA…`. Without it, known_hosts must have it.
    #[serde(default)]
    pub host_key: Option<String>,
    /// `user@jump:port`, as for `ssh -J`.
    #[serde(default)]
    pub jump_host: Option<String>,
}

/// Ways to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransportKind {
    Local,
    Ssh,
}

impl Inventory {
    /// Reads an inventory from its tree.
    ///
    /// # Errors
    /// What does not fit, with its place.
    pub fn from_node(tree: &Node) -> Result<Self, Vec<Diagnostic>> {
        let inventory: Self = super::typed(tree).map_err(|error| vec![error])?;
        let mut faults = Vec::new();
        if inventory.hosts.is_empty() {
            let place = tree.get("hosts").map_or_else(|| tree.place.clone(), |node| node.place.clone());
            faults.push(Diagnostic::at(place, "no host is listed").hint("add one below `hosts:`"));
        }
        for (name, host) in &inventory.hosts {
            let node = tree.at("hosts").and_then(|hosts| hosts.get(name));
            let place = node.map_or_else(|| tree.place.clone(), |node| node.place.clone());
            faults.extend(host.faults(name, &place));
        }
        if faults.is_empty() { Ok(inventory) } else { Err(faults) }
    }
}

impl HostSpec {
    fn faults(&self, name: &str, place: &Place) -> Option<Diagnostic> {
        match self.transport {
            TransportKind::Ssh if self.address.is_none() => {
                Some(Diagnostic::at(place.clone(), format!("host `{name}` has no `address`")))
            }
            TransportKind::Local if self.address.is_some() => Some(
                Diagnostic::at(place.clone(), format!("host `{name}` is local but has an `address`"))
                    .hint("write `transport: ssh`, or remove the address"),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::yaml;
    use super::*;

    #[test]
    fn reads_and_refuses() {
        let read = |text| Inventory::from_node(&yaml::parse("i.yml", text).unwrap());
        let good = read("hosts:\n  a:\n    transport: ssh\n    address: 10.0.0.1\n").unwrap();
        assert_eq!(good.hosts["a"].transport, TransportKind::Ssh);
        let typo = &read("hosts:\n  a:\n    transport: ssh\n    adress: 10.0.0.1\n").unwrap_err()[0];
        assert_eq!(typo.to_string(), "i.yml:4:5: unknown key `adress`\n  hint: did you mean \"address\"?");
        let missing = &read("hosts:\n  a:\n    transport: ssh\n").unwrap_err()[0];
        assert!(missing.to_string().starts_with("i.yml:3:5: host `a` has no `address`"), "{missing}");
        assert!(read("hosts: {}\n").unwrap_err()[0].message.contains("no host"));
    }
}
