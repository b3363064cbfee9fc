//! Finding the API server of the host, and saying why it cannot be asked.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Mutex;

use super::error::{Error, root_cause};
use super::{Reader, Unavailable};
use crate::hash::sha256;
use crate::host::{Query, ReadHost};

/// What k3s writes once its API server has certificates.
pub const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// The unit that runs the API server.
const UNIT: &str = "k3s.service";

/// How long the server may take to say that it is ready.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A reader for the API server of `host`, after it has said that it is ready. Hosts that are asked more than once keep a
/// [`Connector`] instead.
///
/// # Errors
/// Why the server cannot be asked, with the state of its unit and since when.
pub async fn connect(host: &dyn ReadHost) -> Result<Reader, Unavailable> {
    Connector::default().connect(host).await
}

/// Keeps the client (its TLS session, what it knows of the server) for as long as the kubeconfig stays the same.
#[derive(Default)]
pub struct Connector {
    cached: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    kubeconfig: String,
    url: String,
    reader: Reader,
}

impl Connector {
    /// See [`connect`]. Asks the server every time, so that a server that went away is noticed.
    ///
    /// # Errors
    /// Why the server cannot be asked.
    pub async fn connect(&self, host: &dyn ReadHost) -> Result<Reader, Unavailable> {
        let text = host
            .read_file(Path::new(KUBECONFIG))
            .map_err(|error| Unavailable { reason: format!("{KUBECONFIG} cannot be read: {error:#}") })?
            .ok_or_else(|| Unavailable { reason: format!("k3s is not installed yet (no {KUBECONFIG})") })?;
        let hash = sha256(&text);
        let known = self.cached.lock().await.clone().filter(|connection| connection.kubeconfig == hash);
        let connection = match known {
            Some(connection) => connection,
            None => {
                let (url, client) = client_from(&text).await?;
                Connection { kubeconfig: hash, url, reader: Reader::new(client) }
            }
        };
        match connection.reader.ping(CONNECT_TIMEOUT).await {
            Ok(()) => {
                let reader = connection.reader.clone();
                *self.cached.lock().await = Some(connection);
                Ok(reader)
            }
            Err(error) => Err(Unavailable { reason: outage(host, &connection.url, &error).await }),
        }
    }
}

async fn client_from(kubeconfig: &[u8]) -> Result<(String, Client), Unavailable> {
    let wrong = |error: &(dyn std::error::Error + 'static)| Unavailable {
        reason: format!("{KUBECONFIG} is not a usable kubeconfig: {}", root_cause(error)),
    };
    let text = String::from_utf8_lossy(kubeconfig);
    let parsed = Kubeconfig::from_yaml(&text).map_err(|error| wrong(&error))?;
    let config =
        Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await.map_err(|error| wrong(&error))?;
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| wrong(&error))?;
    Ok((url.trim_end_matches('/').to_owned(), client))
}

/// `k3s.service is inactive (dead) since 14:02:11 UTC (38 s): https://127.0.0.1:6443 refuses connections`.
async fn outage(host: &dyn ReadHost, url: &str, error: &Error) -> String {
    let why = match error {
        Error::Unreachable(why) if why.contains("refused") => format!("{url} refuses connections"),
        Error::Unreachable(why) => format!("{url}: {why}"),
        other => format!("{url}: {other}"),
    };
    match unit_state(host, UNIT).await {
        Some(state) => format!("{state}: {why}"),
        None => why,
    }
}

/// State of a systemd unit and since when: `k3s.service is inactive (dead) since 14:02:11 UTC (38 s)`; `None` when systemd
/// cannot be asked.
pub async fn unit_state(host: &dyn ReadHost, unit: &str) -> Option<String> {
    let query = Query::systemctl_show(
        unit,
        &["LoadState", "ActiveState", "SubState", "StateChangeTimestamp", "StateChangeTimestampMonotonic"],
    );
    let output = host.query(&query).await.ok()?;
    if !output.success() {
        return None;
    }
    let uptime = host.read_file(Path::new("/proc/uptime")).ok().flatten().and_then(|text| uptime_of(&text));
    describe_unit(unit, &output.stdout, uptime, Timestamp::now())
}

fn describe_unit(unit: &str, properties: &str, uptime: Option<Duration>, now: Timestamp) -> Option<String> {
    let property = |name: &str| {
        properties.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).filter(|value| !value.is_empty())
    };
    if property("LoadState") == Some("not-found") {
        return Some(format!("{unit} does not exist"));
    }
    let mut text = format!("{unit} is {} ({})", property("ActiveState")?, property("SubState").unwrap_or("unknown"));
    // The monotonic time needs no knowledge of the host's time zone, and no trust in its clock.
    let changed = property("StateChangeTimestampMonotonic")
        .and_then(|micros| micros.parse().ok())
        .filter(|micros| *micros > 0)
        .map(Duration::from_micros);
    if let (Some(changed), Some(uptime)) = (changed, uptime) {
        let ago = uptime.saturating_sub(changed);
        text.push_str(&format!(" since {}", since(now, ago)));
    } else if let Some(timestamp) = property("StateChangeTimestamp") {
        text.push_str(&format!(" since {timestamp}"));
    }
    Some(text)
}

/// `14:02:11 UTC (38 s)`; with the date when it is longer ago than a day.
pub fn since(now: Timestamp, ago: Duration) -> String {
    let then = SignedDuration::try_from(ago).ok().and_then(|ago| now.checked_sub(ago).ok()).unwrap_or(now);
    let format = if ago < Duration::from_secs(24 * 3600) { "%H:%M:%S UTC" } else { "%Y-%m-%d %H:%M UTC" };
    format!("{} ({})", then.strftime(format), length(ago))
}

/// `38 s`, `12 min`, `3 h`, `2 days`.
fn length(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Seconds since the kernel started, of `/proc/uptime`.
fn uptime_of(text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cluster::testing::{TestHost, kubeconfig};

    const STOPPED: &str = "LoadState=loaded\nActiveState=inactive\nSubState=dead\n\
        StateChangeTimestamp=Wed 2026-11-25 15:02:11 CET\nStateChangeTimestampMonotonic=5000000000\n";

    fn now() -> Timestamp {
        "2026-11-25T14:02:49Z".parse().unwrap()
    }

    #[test]
    fn a_stopped_unit_says_since_when_whatever_the_time_zone() {
        let uptime = uptime_of(b"5038.00 9000.00\n");
        assert_eq!(
            describe_unit(UNIT, STOPPED, uptime, now()).unwrap(),
            "k3s.service is inactive (dead) since 14:02:11 UTC (38 s)"
        );
        assert_eq!(
            describe_unit(UNIT, STOPPED, None, now()).unwrap(),
            "k3s.service is inactive (dead) since Wed 2026-11-25 15:02:11 CET"
        );
    }

    #[test]
    fn a_unit_that_never_was_started_or_does_not_exist() {
        let never = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nStateChangeTimestamp=\nStateChangeTimestampMonotonic=0\n";
        assert_eq!(describe_unit(UNIT, never, uptime_of(b"10 1"), now()).unwrap(), "k3s.service is inactive (dead)");
        let missing = "LoadState=not-found\nActiveState=inactive\nSubState=dead\n";
        assert_eq!(describe_unit(UNIT, missing, None, now()).unwrap(), "k3s.service does not exist");
    }

    #[test]
    fn long_ago_has_a_date() {
        assert_eq!(since(now(), Duration::from_secs(3 * 86_400)), "2026-11-22 14:02 UTC (3 days)");
        assert_eq!(since(now(), Duration::from_secs(180)), "13:59:49 UTC (3 min)");
    }

    #[tokio::test]
    async fn without_a_kubeconfig_k3s_is_not_installed() {
        let reason = connect(&TestHost::new()).await.err().unwrap().reason;
        assert_eq!(reason, "k3s is not installed yet (no /etc/rancher/k3s/k3s.yaml)");
    }

    #[tokio::test]
    async fn a_server_that_is_stopped_is_named_with_its_unit() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = TestHost::new()
            .file(KUBECONFIG, &kubeconfig(port))
            .file("/proc/uptime", "5038.20 1.0\n")
            .answer("systemctl", STOPPED);
        let reason = connect(&host).await.err().unwrap().reason;
        let url = format!("https://127.0.0.1:{port}");
        assert!(reason.starts_with("k3s.service is inactive (dead) since "), "{reason}");
        assert!(reason.ends_with(&format!(" UTC (38 s): {url} refuses connections")), "{reason}");
    }

    #[tokio::test]
    async fn a_server_that_is_silent_is_given_up_after_three_seconds() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let host = TestHost::new().file(KUBECONFIG, &kubeconfig(port));
        let started = std::time::Instant::now();
        let reason = connect(&host).await.err().unwrap().reason;
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(reason, format!("https://127.0.0.1:{port}: no answer within 3 s"));
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_is_named() {
        let host = TestHost::new().file(KUBECONFIG, "clusters: 7\n");
        let reason = connect(&host).await.err().unwrap().reason;
        assert!(reason.starts_with("/etc/rancher/k3s/k3s.yaml is not a usable kubeconfig: "), "{reason}");
    }
}
