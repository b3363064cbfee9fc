//! What a host takes over from the machine it runs on, so that `apt-get` and name look-up work inside as they do
//! outside: Debian sources, apt's network options, own CA certificates, name servers.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tool::run;

/// The Debian release of sandbox hosts.
pub(super) const SUITE: &str = "bookworm";

/// Settings that are built into the cached root filesystem (and into its key).
#[derive(Debug)]
pub(super) struct Outer {
    /// Lines in the one-line format of `sources.list`; empty on a machine that has none of the release: then mmdebstrap
    /// knows where it comes from.
    pub sources: String,
    /// Lines for `apt.conf.d`.
    pub apt_options: String,
    /// File name and PEM text of each own CA certificate.
    pub certificates: Vec<(String, Vec<u8>)>,
    /// Login data for mirrors, as in `/etc/apt/auth.conf.d`.
    pub apt_logins: Vec<(String, Vec<u8>)>,
}

impl Outer {
    /// # Errors
    /// When a file that exists cannot be read.
    pub fn read() -> Result<Self> {
        let mut sources = String::new();
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        files.extend(files_in(Path::new("/etc/apt/sources.list.d"), &["list", "sources"])?);
        for file in files.iter().filter(|file| file.exists()) {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            match file.extension() {
                Some(end) if end == "sources" => sources.push_str(&from_deb822(&text)),
                _ => sources.push_str(&from_list(&text)),
            }
        }
        if !has_main_suite(&sources) {
            // Another distribution, or only extra repositories: Debian's own mirrors.
            sources.clear();
        }
        let proxy = |name: &str| std::env::var(name).or_else(|_| std::env::var(name.to_uppercase())).ok();
        Ok(Self {
            sources,
            apt_options: apt_options(
                &run(&["apt-config", "dump"])?,
                proxy("http_proxy").as_deref(),
                proxy("https_proxy").as_deref(),
            ),
            certificates: contents(&files_in(Path::new("/usr/local/share/ca-certificates"), &["crt"])?)?,
            apt_logins: contents(&files_in(Path::new("/etc/apt/auth.conf.d"), &["conf"])?)?,
        })
    }
}

fn files_in(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .filter(|path| path.extension().is_some_and(|end| endings.iter().any(|e| end == *e)))
        .collect();
    files.sort();
    Ok(files)
}

fn contents(files: &[PathBuf]) -> Result<Vec<(String, Vec<u8>)>> {
    files
        .iter()
        .map(|file| {
            let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            Ok((name.into_owned(), content))
        })
        .collect()
}

/// Whether a suite belongs to the hosts' release and the components look like Debian itself, not like a third
/// party's repository for it: those do not belong on a blank host.
fn wanted(suites: &[&str], components: &[&str]) -> bool {
    !suites.is_empty()
        && components.contains(&"main")
        && suites.iter().all(|suite| {
            let rest = suite.strip_prefix(SUITE);
            matches!(rest, Some("" | "-updates" | "-security" | "-backports" | "/updates"))
        })
}

fn has_main_suite(sources: &str) -> bool {
    sources.lines().any(|line| line.split_whitespace().any(|word| word == SUITE))
}

fn from_list(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()) {
        // deb [option=value ...] URI suite component...
        let after_options = match (line.find('['), line.find(']')) {
            (Some(open), Some(close)) if open < close => &line[close + 1..],
            _ => line.strip_prefix("deb").unwrap_or(""),
        };
        let words: Vec<_> = after_options.split_whitespace().collect();
        if line.split_whitespace().next() == Some("deb")
            && let [_, suite, components @ ..] = &words[..]
            && wanted(&[suite], components)
        {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    lines
}

fn from_deb822(text: &str) -> String {
    let mut lines = String::new();
    let without_comments: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in without_comments.join("\n").split("\n\n") {
        // A line that starts with white space continues the field above it.
        let stanza = stanza.replace("\n ", " ").replace("\n\t", " ");
        let field = |name: &str| -> Vec<&str> {
            stanza
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                .map(|(_, value)| value.split_whitespace().collect())
                .unwrap_or_default()
        };
        let (suites, components) = (field("Suites"), field("Components"));
        if !field("Types").contains(&"deb")
            || field("Enabled").first().is_some_and(|value| value.eq_ignore_ascii_case("no"))
        {
            continue;
        }
        let mut options = Vec::new();
        // A key that is written out in the stanza itself has no place in the one-line format; Debian's own is
        // installed on every host anyway.
        if let [keyring] = field("Signed-By")[..]
            && keyring.starts_with('/')
        {
            options.push(format!("signed-by={keyring}"));
        }
        if field("Trusted").first().is_some_and(|value| value.eq_ignore_ascii_case("yes")) {
            options.push("trusted=yes".to_owned());
        }
        let options = match options.is_empty() {
            true => String::new(),
            false => format!("[{}] ", options.join(" ")),
        };
        for suite in suites.iter().filter(|suite| wanted(&[suite], &components)) {
            for uri in field("URIs") {
                lines.push_str(&format!("deb {options}{uri} {suite} {}\n", components.join(" ")));
            }
        }
    }
    lines
}

/// The network settings among `apt-config dump`'s lines, and the proxies of the environment where apt has none.
fn apt_options(dump: &str, http_proxy: Option<&str>, https_proxy: Option<&str>) -> String {
    const TAKEN: [&str; 9] = [
        "acquire::http::",
        "acquire::https::",
        "acquire::ftp::",
        "acquire::retries",
        "acquire::check-",
        "acquire::forceipv",
        "acquire::max-validtime",
        "acquire::min-validtime",
        "acquire::queue-mode",
    ];
    let mut lines: Vec<String> = dump
        .lines()
        .filter(|line| {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            let key = key.to_lowercase();
            // A program of the outer machine, or a proxy that listens only there, is of no use inside.
            let useless = key.contains("auto-detect")
                || (key.contains("::proxy") && is_loopback_url(value.trim_matches(['"', ';'])));
            let set = !matches!(value, "" | "\"\";");
            set && !useless && TAKEN.iter().any(|start| key.starts_with(start))
        })
        .map(str::to_owned)
        .collect();
    for (scheme, proxy) in [("http", http_proxy), ("https", https_proxy)] {
        let key = format!("Acquire::{scheme}::Proxy");
        let known = lines.iter().any(|line| line.to_lowercase().starts_with(&format!("{} ", key.to_lowercase())));
        if let Some(proxy) = proxy
            && !known
            && !proxy.is_empty()
            && !proxy.contains(['"', '\n'])
            && !is_loopback_url(proxy)
        {
            lines.push(format!("{key} \"{proxy}\";"));
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn is_loopback_url(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or("");
    let host = host.rsplit('@').next().unwrap_or("");
    host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]")
}

/// The `resolv.conf` for a host: the outer machine's name servers where a host can reach them.
pub(super) fn resolv_conf() -> String {
    let candidates = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let texts: Vec<_> = candidates.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    resolv_conf_from(&texts)
}

fn resolv_conf_from(texts: &[String]) -> String {
    // Short waits: a name server that is away must not make every command in the host hang.
    const OPTIONS: &str = "options timeout:1 attempts:2\n";
    for text in texts {
        let servers: Vec<_> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver"))
            .filter_map(|rest| rest.split_whitespace().next())
            .filter(|server| {
                // IPv6: hosts have no IPv6 way out. Loopback: a server that only the outer machine can ask.
                matches!(server.parse(), Ok(IpAddr::V4(address)) if !address.is_loopback())
            })
            .collect();
        if servers.is_empty() {
            continue;
        }
        let mut result = String::new();
        for server in servers {
            result.push_str(&format!("nameserver {server}\n"));
        }
        for line in text.lines().filter(|line| line.starts_with("search ")) {
            result.push_str(&format!("{line}\n"));
        }
        return result + OPTIONS;
    }
    format!("# The outer machine has no name server that a sandbox host could ask.\n{OPTIONS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_sources_keep_debian_and_drop_third_parties() {
        let text = "\
# deb http://mirror/debian bookworm main
deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror/debian bookworm main contrib # near
deb-src http://mirror/debian bookworm main
deb http://mirror/debian-security bookworm-security main
deb http://mirror/debian trixie main
deb https://download.docker.com/linux/debian bookworm stable
deb https://packages.example/apt cloud-sdk-bookworm main
";
        assert_eq!(
            from_list(text),
            "deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror/debian bookworm main contrib\n\
             deb http://mirror/debian-security bookworm-security main\n"
        );
    }

    #[test]
    fn deb822_sources_become_lines() {
        let text = "\
Types: deb deb-src
# a snapshot
URIs: http://mirror/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: https://deb.example/node
Suites: nodistro
Components: main
";
        assert_eq!(
            from_deb822(text),
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror/debian bookworm main\n\
             deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror/debian bookworm-updates main\n"
        );
        assert!(has_main_suite(&from_deb822(text)));
        assert!(!has_main_suite("deb http://m/d bookworm-updates main\n"));
    }

    #[test]
    fn apt_options_take_the_network_and_nothing_else() {
        let dump = "\
APT::Update::Post-Invoke:: \"rm -f /x\";
Acquire::http \"\";
Acquire::http::Proxy \"http://127.0.0.1:3142\";
Acquire::https::CaInfo \"/etc/ssl/own.pem\";
Acquire::http::Proxy-Auto-Detect \"/usr/bin/auto\";
Acquire::Check-Date \"false\";
Acquire::Languages \"none\";
";
        assert_eq!(
            apt_options(dump, Some("http://proxy:3128"), Some("http://localhost:1")),
            "Acquire::https::CaInfo \"/etc/ssl/own.pem\";\nAcquire::Check-Date \"false\";\nAcquire::http::Proxy \"http://proxy:3128\";\n"
        );
        let configured = "Acquire::http::Proxy \"http://p:1\";\n";
        assert_eq!(apt_options(configured, Some("http://q:2"), None), configured);
    }

    #[test]
    fn name_servers_that_a_host_cannot_reach_are_left_out() {
        let stub = "nameserver 127.0.0.53\noptions edns0\n".to_owned();
        let real = "nameserver fd00::1\nnameserver 192.0.2.53 # lan\nsearch lan\n".to_owned();
        assert_eq!(
            resolv_conf_from(&[stub.clone(), real]),
            "nameserver 192.0.2.53\nsearch lan\noptions timeout:1 attempts:2\n"
        );
        let none = resolv_conf_from(&[stub]);
        assert!(!none.contains("nameserver ") && none.contains("timeout:1"), "{none}");
    }
}
