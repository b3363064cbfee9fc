//! UFW's rules: as it keeps them in /etc/ufw/user.rules, as its command line wants them, and what they admit.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

/// An address with a prefix length, as UFW writes it: host bits cleared, no length when it is one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Network {
    /// Anywhere, in both families.
    Any,
    Of(IpAddr, u8),
}

impl Network {
    pub(super) fn any() -> Self {
        Self::Any
    }

    /// Reads `10.42.0.0/16`, `fd00::/8`, `192.168.1.7`, `any`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if text == "any" {
            return Ok(Self::Any);
        }
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let parsed = || -> Option<(IpAddr, u8)> {
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length = match length {
                Some(length) => length.parse().ok().filter(|&length| length <= most)?,
                None => most,
            };
            Some((address, length))
        };
        let (address, length) =
            parsed().with_context(|| format!("{text:?} is no network (like 10.42.0.0/16) and no address"))?;
        Ok(Self::Of(masked(address, length), length))
    }

    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Of(network, length) => network.is_ipv4() == address.is_ipv4() && masked(address, *length) == *network,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Of(address, 32) if address.is_ipv4() => write!(f, "{address}"),
            Self::Of(address, 128) => write!(f, "{address}"),
            Self::Of(address, length) => write!(f, "{address}/{length}"),
        }
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from(v6.to_bits() & mask).into()
        }
    }
}

/// One rule. `Any` as source or destination means both families in a spec, and one family in UFW's files.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) routed: bool,
    /// `allow`, `deny`, `reject`, `limit`, with `_log` or `_log-all` after it where it logs.
    action: String,
    /// `any`, `tcp`, `udp`...
    pub(super) proto: String,
    /// Destination port: `any`, `22`, `8000:8100`, `80,443`.
    pub(super) port: String,
    destination: Network,
    source_port: String,
    pub(super) source: Network,
    /// `in`, `out`, with `_eth0` after it where it is for one interface.
    direction: String,
    /// Application profiles (`OpenSSH -`), which UFW keeps apart from rules with the same ports.
    application: Option<String>,
    pub(super) comment: Option<String>,
    /// Which family a rule of UFW's files is for; `None` for a rule of a spec, which may be for both.
    family: Option<Family>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Rule {
    pub(super) fn allow_from(source: Network, routed: bool) -> Self {
        let family = match source {
            Network::Any => None,
            Network::Of(address, _) if address.is_ipv4() => Some(Family::V4),
            Network::Of(..) => Some(Family::V6),
        };
        Self {
            routed,
            action: "allow".into(),
            proto: "any".into(),
            port: "any".into(),
            destination: Network::Any,
            source_port: "any".into(),
            source,
            direction: "in".into(),
            application: None,
            comment: None,
            family,
        }
    }

    pub(super) fn v6(&self) -> bool {
        self.family == Some(Family::V6)
    }

    pub(super) fn incoming(&self) -> bool {
        self.direction.starts_with("in")
    }

    /// Equal but for the comment.
    pub(super) fn same(&self, other: &Self) -> bool {
        let bare = |rule: &Self| Self { comment: None, ..rule.clone() };
        bare(self) == bare(other)
    }

    /// The rule in each family that it is for.
    pub(super) fn families(&self, ipv6: bool) -> Vec<Self> {
        let families = match self.family {
            Some(family) => vec![family],
            None if ipv6 => vec![Family::V4, Family::V6],
            None => vec![Family::V4],
        };
        let of = |family| Self { family: Some(family), ..self.clone() };
        families.into_iter().map(of).collect()
    }

    /// Whether it lets a TCP connection from `client` to `port` of this host in. Without a client: from anywhere at all,
    /// be it only one network.
    pub(super) fn admits(&self, port: u16, client: Option<IpAddr>) -> bool {
        let port_fits = self.port.split(',').any(|part| match part.split_once(':') {
            Some((low, high)) => {
                let bound = |text: &str| text.parse::<u16>().unwrap_or(0);
                (bound(low)..=bound(high)).contains(&port)
            }
            None => part == "any" || part.parse() == Ok(port),
        });
        let client_fits = client.is_none_or(|client| {
            let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
            self.family.is_none_or(|own| own == family) && self.source.contains(client)
        });
        !self.routed
            && (self.action.starts_with("allow") || self.action.starts_with("limit"))
            && matches!(self.proto.as_str(), "any" | "tcp")
            && self.incoming()
            && self.source_port == "any"
            && self.destination == Network::Any
            && port_fits
            && client_fits
    }

    /// Arguments of `ufw` that add it.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut words: Vec<&str> = Vec::new();
        if self.routed {
            words.push("route");
        }
        words.push(&self.action);
        if self.proto != "any" {
            words.extend(["proto", &self.proto]);
        }
        let source = self.source.to_string();
        words.extend(["from", &source, "to", "any"]);
        if self.port != "any" {
            words.extend(["port", &self.port]);
        }
        if let Some(comment) = &self.comment {
            words.extend(["comment", comment]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// What it does, for people.
    pub(super) fn shown(&self) -> String {
        let comment = self.comment.as_ref();
        let comment = comment.map(|text| format!(" ({text})")).unwrap_or_default();
        format!("{}{comment}", self.action)
    }
}

/// Like `ufw show added`: `allow 22/tcp`, `route allow from 10.42.0.0/16`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.routed {
            f.write_str("route ")?;
        }
        f.write_str(&self.action.replace('_', " "))?;
        if self.direction != "in" {
            match self.direction.split_once('_') {
                Some((direction, interface)) => write!(f, " {direction} on {interface}")?,
                None => write!(f, " {}", self.direction)?,
            }
        }
        if let Some(application) = &self.application {
            write!(f, " {application}")?;
        } else if self.port != "any" {
            write!(f, " {}", self.port)?;
            if self.proto != "any" {
                write!(f, "/{}", self.proto)?;
            }
        } else if self.proto != "any" {
            write!(f, " proto {}", self.proto)?;
        }
        if self.source != Network::Any {
            write!(f, " from {}", self.source)?;
        }
        if self.source_port != "any" {
            write!(f, " from port {}", self.source_port)?;
        }
        if self.destination != Network::Any {
            write!(f, " to {}", self.destination)?;
        }
        Ok(())
    }
}

/// Reads the rules of /etc/ufw/user.rules or user6.rules: its `### tuple ###` lines, from which UFW itself reads them.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>> {
    text.lines()
        .filter_map(|line| line.strip_prefix("### tuple ### "))
        .map(|line| tuple(line).with_context(|| format!("UFW has a rule that cannot be read: {line:?}")))
        .collect()
}

fn tuple(line: &str) -> Result<Rule> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let mut comment = None;
    if let Some(hexadecimal) = words.last().and_then(|word| word.strip_prefix("comment=")) {
        comment = Some(String::from_utf8_lossy(&hex::decode(hexadecimal)?).into_owned());
        words.pop();
    }
    let (fixed, application, direction) = match &words[..] {
        [fixed @ .., direction] if fixed.len() == 6 => (fixed, None, direction),
        [fixed @ .., to, from, direction] if fixed.len() == 6 => {
            let names = [*to, *from].into_iter().filter(|name| *name != "-");
            // UFW writes a blank in a profile's name as %20.
            let names: Vec<_> = names.map(|name| name.replace("%20", " ")).collect();
            (fixed, Some(names.join(" from ")), direction)
        }
        _ => bail!("it has {} words", words.len()),
    };
    let (routed, action) = match fixed[0].strip_prefix("route:") {
        Some(action) => (true, action),
        None => (false, fixed[0]),
    };
    let v6 = [fixed[3], fixed[5]].iter().any(|address| address.contains(':'));
    Ok(Rule {
        routed,
        action: action.to_owned(),
        proto: fixed[1].to_owned(),
        port: fixed[2].to_owned(),
        destination: address(fixed[3])?,
        source_port: fixed[4].to_owned(),
        source: address(fixed[5])?,
        direction: (*direction).to_owned(),
        application,
        comment,
        family: Some(if v6 { Family::V6 } else { Family::V4 }),
    })
}

fn address(text: &str) -> Result<Network> {
    match text {
        "0.0.0.0/0" | "::/0" => Ok(Network::Any),
        text => Network::parse(text),
    }
}
