//! One bridge for all hosts of the machine, an address for each, and the way out (NAT).
//!
//! Which address belongs to whom is recorded machine-wide in [`RUN_DIR`], as several users' or tests' cache
//! folders share the one bridge. The folder goes with the last host.

use std::fs::{self, File, TryLockError};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::tool::run;

pub(super) const BRIDGE: &str = "pv-br0";
pub(super) const PREFIX: u8 = 24;
const RUN_DIR: &str = "/run/provision-sandbox";
const COMMENT: &str = "provision-sandbox";
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// Tried in this order; the first that nothing else on the machine uses is taken.
const SUBNETS: [[u8; 3]; 4] = [[10, 99, 0], [10, 98, 7], [172, 30, 99], [192, 168, 199]];
/// The last byte of the hosts' addresses; `.1` is the bridge.
const HOST_BYTES: std::ops::RangeInclusive<u8> = 2..=17;

/// The bridge's own address in the network of `address`: the hosts' gateway.
pub(super) fn gateway(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// systemd-nspawn's machine name. It also decides the link's name (`vb-pv-2`), so it has to be short.
pub(super) fn machine(address: Ipv4Addr) -> String {
    format!("pv-{}", address.octets()[3])
}

/// Held while addresses, the bridge, NAT or the records of hosts change. Released on drop and at process end.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    dir: PathBuf,
}

impl Lock {
    /// # Errors
    /// When another process has held the lock for two minutes.
    pub fn acquire() -> Result<Self> {
        Self::acquire_in(Path::new(RUN_DIR), Duration::from_secs(120))
    }

    fn acquire_in(dir: &Path, patience: Duration) -> Result<Self> {
        let path = dir.join("lock");
        let deadline = Instant::now() + patience;
        loop {
            fs::create_dir_all(dir.join("addresses")).with_context(|| format!("cannot make {}", dir.display()))?;
            // Whoever removes the last host removes the folder: then start over.
            if let Ok(file) = File::create(&path) {
                match file.try_lock() {
                    Ok(()) if same_file(&file, &path) => {
                        return Ok(Self { _file: file, dir: dir.to_owned() });
                    }
                    Ok(()) | Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => {
                        return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                    }
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "another provision process has been changing sandbox hosts for {} s (it holds {}): wait for it, or stop it",
                    patience.as_secs(),
                    path.display()
                );
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The recorded addresses with the directory of the host that has each.
    pub fn claims(&self) -> Vec<(Ipv4Addr, PathBuf)> {
        let Ok(entries) = fs::read_dir(self.dir.join("addresses")) else {
            return Vec::new();
        };
        let mut claims: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let address = entry.file_name().to_str()?.parse().ok()?;
                Some((address, fs::read_link(entry.path()).ok()?))
            })
            .collect();
        claims.sort();
        claims
    }

    /// The next free address; [`Lock::claim`] makes it ours.
    ///
    /// # Errors
    /// No free address, or no free subnet.
    pub fn free_address(&self) -> Result<Ipv4Addr> {
        let subnet = match bridge_subnet()? {
            Some(subnet) => subnet,
            None => choose_subnet(&used_networks()?)?,
        };
        let taken: Vec<_> = self.claims().into_iter().map(|(address, _)| address).collect();
        choose_address(subnet, &taken)
    }

    pub fn claim(&self, address: Ipv4Addr, host_dir: &Path) -> Result<()> {
        let entry = self.dir.join("addresses").join(address.to_string());
        symlink(host_dir, &entry).with_context(|| format!("cannot record {}", entry.display()))
    }

    /// Lets `address` neither out nor to this machine, except for answers.
    pub fn isolate(&self, address: Ipv4Addr) -> Result<()> {
        for rule in isolation(address) {
            let mut argv = vec!["iptables", "-w", "10", "-t", rule.table, rule.verb, rule.chain];
            argv.extend(rule.spec.iter().map(String::as_str));
            run(&argv)?;
        }
        Ok(())
    }

    /// Gives the address back, with what kept it isolated.
    pub fn release(&self, address: Ipv4Addr) -> Result<()> {
        let source = format!("{address}/32");
        for chain in ["FORWARD", "INPUT"] {
            let listed = run(&["iptables", "-w", "10", "-t", "filter", "-S", chain])?;
            for rule in
                listed.lines().filter(|line| is_ours(line) && line.split_whitespace().any(|word| word == source))
            {
                let mut argv = vec!["iptables", "-w", "10", "-t", "filter", "-D"];
                argv.extend(rule.split_whitespace().skip(1));
                run(&argv)?;
            }
        }
        let entry = self.dir.join("addresses").join(address.to_string());
        match fs::remove_file(&entry) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", entry.display()))
            }
            _ => Ok(()),
        }
    }

    /// Makes the bridge and the way out, whatever part of them is there already.
    pub fn connect(&self, gateway: Ipv4Addr) -> Result<()> {
        if !link_exists(BRIDGE) {
            // A fixed hardware address: else it changes as hosts come and go, and neighbours lose the gateway.
            run(&["ip", "link", "add", BRIDGE, "address", "02:70:76:62:72:30", "type", "bridge"])?;
        }
        run(&["ip", "address", "replace", &format!("{gateway}/{PREFIX}"), "dev", BRIDGE])?;
        run(&["ip", "link", "set", BRIDGE, "up"])?;
        let forward = fs::read_to_string(IP_FORWARD).context("cannot read ip_forward")?;
        if forward.trim() == "0" {
            // Recorded first: a crash in between must not make us forget that it was off.
            fs::write(self.dir.join("ip_forward_was_off"), "")?;
            fs::write(IP_FORWARD, "1").context("cannot switch on ip_forward")?;
        }
        for rule in rules(gateway) {
            let with = |verb: &'static str| -> Vec<&str> {
                let mut argv = vec!["iptables", "-w", "10", "-t", rule.table, verb, rule.chain];
                argv.extend(rule.spec.iter().map(String::as_str));
                argv
            };
            if run(&with("-C")).is_err() {
                run(&with(rule.verb))?;
            }
        }
        Ok(())
    }

    /// Removes bridge, rules and records when no host is left.
    pub fn disconnect_if_unused(self) -> Result<()> {
        if !self.claims().is_empty() {
            return Ok(());
        }
        for (table, chain) in [("nat", "POSTROUTING"), ("filter", "FORWARD"), ("filter", "INPUT")] {
            let listed = run(&["iptables", "-w", "10", "-t", table, "-S", chain])?;
            for rule in listed.lines().filter(|line| is_ours(line)) {
                let mut argv = vec!["iptables", "-w", "10", "-t", table, "-D"];
                argv.extend(rule.split_whitespace().skip(1));
                run(&argv)?;
            }
        }
        if link_exists(BRIDGE) {
            run(&["ip", "link", "delete", BRIDGE])?;
        }
        if self.dir.join("ip_forward_was_off").exists() {
            fs::write(IP_FORWARD, "0").context("cannot switch ip_forward off again")?;
        }
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}

/// Removes the host's link, should systemd-nspawn have left it.
pub(super) fn delete_link(machine: &str) -> Result<()> {
    let link = format!("vb-{machine}");
    // It may vanish by itself, together with the host's network namespace, at any moment.
    if link_exists(&link) && run(&["ip", "link", "delete", &link]).is_err() && link_exists(&link) {
        bail!("cannot remove the network link {link}");
    }
    Ok(())
}

fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

struct Rule {
    table: &'static str,
    verb: &'static str,
    chain: &'static str,
    spec: Vec<String>,
}

/// NAT for what leaves the sandbox network, and free passage where the machine's default is to drop (Docker, UFW).
fn rules(gateway: Ipv4Addr) -> Vec<Rule> {
    let [a, b, c, _] = gateway.octets();
    let network = format!("{a}.{b}.{c}.0/{PREFIX}");
    let rule = |table, verb, chain, spec| Rule { table, verb, chain, spec };
    vec![
        rule("nat", "-A", "POSTROUTING", spec(&["-s", &network, "!", "-d", &network], "MASQUERADE")),
        rule("filter", "-I", "FORWARD", spec(&["-i", BRIDGE], "ACCEPT")),
        rule("filter", "-I", "FORWARD", spec(&["-o", BRIDGE], "ACCEPT")),
    ]
}

/// Before the rules that let everybody through. This machine still reaches the host: answers are no new connections.
fn isolation(address: Ipv4Addr) -> Vec<Rule> {
    let source = format!("{address}/32");
    let rule = |chain, spec| Rule { table: "filter", verb: "-I", chain, spec };
    vec![
        rule("FORWARD", spec(&["-s", &source], "DROP")),
        rule(
            "INPUT",
            spec(&["-s", &source, "-i", BRIDGE, "-m", "conntrack", "!", "--ctstate", "ESTABLISHED,RELATED"], "DROP"),
        ),
    ]
}

fn spec(matches: &[&str], target: &str) -> Vec<String> {
    let comment = ["-m", "comment", "--comment", COMMENT, "-j", target];
    matches.iter().chain(&comment).map(|s| (*s).to_owned()).collect()
}

/// Whether a line of `iptables -S` is a rule of ours.
fn is_ours(line: &str) -> bool {
    let words: Vec<_> = line.split_whitespace().collect();
    words.first() == Some(&"-A")
        && words.windows(2).any(|pair| pair[0] == "--comment" && pair[1].trim_matches('"') == COMMENT)
}

fn bridge_subnet() -> Result<Option<[u8; 3]>> {
    if !link_exists(BRIDGE) {
        return Ok(None);
    }
    let text = run(&["ip", "-4", "-o", "address", "show", "dev", BRIDGE])?;
    Ok(text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "inet").skip(1);
        let address: Ipv4Addr = words.next()?.split('/').next()?.parse().ok()?;
        let [a, b, c, _] = address.octets();
        Some([a, b, c])
    }))
}

/// Destinations of all routes but the default one, as first and last address.
fn used_networks() -> Result<Vec<(u32, u32)>> {
    Ok(parse_routes(&run(&["ip", "-4", "route", "show", "table", "all"])?))
}

fn parse_routes(text: &str) -> Vec<(u32, u32)> {
    const KINDS: [&str; 6] = ["local", "broadcast", "unicast", "unreachable", "blackhole", "prohibit"];
    text.lines()
        .filter_map(|line| {
            let destination = line.split_whitespace().find(|word| !KINDS.contains(word))?;
            let (address, length) = destination.split_once('/').unwrap_or((destination, "32"));
            let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
            let mask = u32::MAX.checked_shr(length.parse().ok()?).unwrap_or(0);
            // 0.0.0.0/0 and its two halves (as VPNs set them) are ways out, not networks in use.
            (mask < u32::MAX >> 1).then_some((address & !mask, address | mask))
        })
        .collect()
}

fn choose_subnet(used: &[(u32, u32)]) -> Result<[u8; 3]> {
    SUBNETS
        .into_iter()
        .find(|[a, b, c]| {
            let first = u32::from(Ipv4Addr::new(*a, *b, *c, 0));
            used.iter().all(|(from, to)| *to < first || *from > first + 255)
        })
        .with_context(|| {
            let tried = SUBNETS.map(|[a, b, c]| format!("{a}.{b}.{c}.0/{PREFIX}"));
            format!(
                "no free address: this machine already has routes into every network that sandbox hosts could use ({}): see `ip route`, and free one",
                tried.join(", ")
            )
        })
}

fn choose_address([a, b, c]: [u8; 3], taken: &[Ipv4Addr]) -> Result<Ipv4Addr> {
    HOST_BYTES
        .map(|byte| Ipv4Addr::new(a, b, c, byte))
        .find(|address| !taken.contains(address))
        .with_context(|| {
            format!(
                "no free address: all {} addresses of the sandbox network {a}.{b}.{c}.0/{PREFIX} are taken: remove a host with `provision sandbox down NAME` (`provision sandbox list` shows them)",
                HOST_BYTES.count()
            )
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_in_order_and_reused() {
        let at = |byte| Ipv4Addr::new(10, 99, 0, byte);
        assert_eq!(choose_address([10, 99, 0], &[]).unwrap(), at(2));
        assert_eq!(choose_address([10, 99, 0], &[at(2), at(4)]).unwrap(), at(3));
        assert_eq!(gateway(at(9)), at(1));
        assert_eq!(machine(at(9)), "pv-9");
    }

    #[test]
    fn the_seventeenth_host_is_refused_with_a_way_out() {
        let taken: Vec<_> = HOST_BYTES.map(|byte| Ipv4Addr::new(10, 99, 0, byte)).collect();
        let error = choose_address([10, 99, 0], &taken).unwrap_err().to_string();
        assert!(error.starts_with("no free address: all 16 addresses"), "{error}");
        assert!(error.contains("sandbox down"), "{error}");
    }

    #[test]
    fn a_subnet_in_use_is_passed_over() {
        let routes = "default via 192.0.2.1 dev eth0\n\
            10.99.0.128/25 dev vpn0 scope link\n\
            local 172.30.99.7 dev eth1 table local scope host\n\
            broadcast 10.98.7.255 dev eth2 table local\n\
            0.0.0.0/1 dev vpn0\n128.0.0.0/1 dev vpn0\n";
        let used = parse_routes(routes);
        assert_eq!(used.len(), 3);
        assert_eq!(choose_subnet(&used).unwrap(), [192, 168, 199]);
        assert_eq!(choose_subnet(&parse_routes("default dev eth0\n")).unwrap(), [10, 99, 0]);
    }

    #[test]
    fn a_wide_route_over_everything_is_an_error_that_lists_what_was_tried() {
        let used = parse_routes("10.0.0.0/8 dev a\n172.16.0.0/12 dev a\n192.168.0.0/16 dev a\n");
        let error = choose_subnet(&used).unwrap_err().to_string();
        assert!(error.contains("no free address") && error.contains("10.99.0.0/24"), "{error}");
    }

    #[test]
    fn only_our_own_rules_are_recognised() {
        assert!(is_ours("-A FORWARD -i pv-br0 -m comment --comment provision-sandbox -j ACCEPT"));
        assert!(is_ours("-A FORWARD -i pv-br0 -m comment --comment \"provision-sandbox\" -j ACCEPT"));
        assert!(!is_ours("-A FORWARD -i pv-br0 -m comment --comment provision-sandbox-2 -j ACCEPT"));
        assert!(!is_ours("-P FORWARD ACCEPT"));
    }

    #[test]
    fn claims_are_seen_until_released_and_the_lock_excludes() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let lock = Lock::acquire_in(&run_dir, Duration::ZERO).unwrap();
        let address = Ipv4Addr::new(10, 99, 0, 2);
        lock.claim(address, Path::new("/cache/hosts/a")).unwrap();
        assert_eq!(lock.claims(), [(address, PathBuf::from("/cache/hosts/a"))]);
        assert!(lock.claim(address, Path::new("/cache/hosts/b")).is_err());
        let error = Lock::acquire_in(&run_dir, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("another provision process"));
        lock.release(address).unwrap();
        lock.release(address).unwrap();
        assert!(lock.claims().is_empty());
        drop(lock);
        Lock::acquire_in(&run_dir, Duration::ZERO).unwrap();
    }
}
