//! The programs that observing may ask: a closed list, so that reading this file shows that none of them changes anything.

use std::time::Duration;

/// A question is answered within this time, or not at all.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One that has to bring something over the network first.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(180);

/// A question to a program that only looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Query {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    /// How many of `argv` say what is asked; the others are too many to be read.
    telling: usize,
    timeout: Duration,
}

/// Where Helm finds a chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelmChart {
    /// An archive or a folder.
    Path(String),
    /// `oci://…`; the version may be in the reference.
    Oci { reference: String, version: Option<String> },
    /// A chart of an index at a URL.
    Repository { url: String, name: String, version: String },
}

impl HelmChart {
    /// The chart as arguments of `helm template`, `helm upgrade`...
    pub fn arguments(&self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Path(path) => &[path],
            Self::Oci { reference, version: Some(version) } => &[reference, "--version", version],
            Self::Oci { reference, version: None } => &[reference],
            Self::Repository { url, name, version } => &[name, "--repo", url, "--version", version],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }
}

/// What `helm template` is asked.
pub struct HelmTemplate<'a> {
    /// `/usr/local/bin/helm`.
    pub program: &'a str,
    pub release: &'a str,
    pub namespace: &'a str,
    pub chart: &'a HelmChart,
    /// Paths of files that are there while it is asked.
    pub values: &'a str,
    pub kubeconfig: &'a str,
    /// As the server says them: `v1.36.4+k3s1`, `apps/v1`, `apps/v1/Deployment`.
    pub kube_version: &'a str,
    pub api_versions: &'a [String],
    /// As an upgrade of a release that exists.
    pub upgrade: bool,
    /// Templates may look up objects of the cluster.
    pub lookup: bool,
}

/// Can be neither found nor made: what Helm would keep there is not kept.
const NOWHERE: &str = "/proc/helm";

/// Charts that Helm brings itself are kept here, in memory, until the machine starts again.
const HELM_CACHE: &str = "/run/provision/helm";

/// How a program finds its way out where there is only a proxy. Helm goes to this host's own API server without.
const PROXIES: &[&str] = &["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"];

/// Environment in which Helm keeps nothing but charts that it had to bring itself: no configuration, no plugins, no record of
/// what the server serves.
pub fn helm_env(kubeconfig: &str) -> Vec<(String, String)> {
    helm_env_in(kubeconfig, |name| std::env::var(name).ok())
}

fn helm_env_in(kubeconfig: &str, given: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let proxies = PROXIES.iter().filter_map(|name| Some(((*name).to_owned(), given(name)?)));
    let own = [
        ("KUBECONFIG", kubeconfig),
        ("HOME", NOWHERE),
        ("KUBECACHEDIR", NOWHERE),
        ("HELM_CACHE_HOME", HELM_CACHE),
        ("HELM_CONFIG_HOME", NOWHERE),
        ("HELM_DATA_HOME", NOWHERE),
        ("HELM_NO_PLUGINS", "1"),
    ];
    own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).chain(proxies).collect()
}

impl Query {
    fn of<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        Self { telling: argv.len(), argv, env: Vec::new(), timeout: TIMEOUT }
    }

    /// Program and arguments.
    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    /// Environment besides that of all programs.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// What is asked, for messages.
    pub fn asked(&self) -> String {
        self.argv[..self.telling].join(" ")
    }

    /// How long the answer may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Status and version of Debian packages, one `name<TAB>status<TAB>version` line each; unknown names go to standard error.
    pub fn dpkg_status(packages: &[String]) -> Self {
        let format = "--showformat=${binary:Package}\t${db:Status-Abbrev}\t${Version}\n";
        Self::of(["dpkg-query", "--show", format].into_iter().map(str::to_owned).chain(packages.iter().cloned()))
    }

    /// Properties of a systemd unit as `Name=value` lines, times as `Wed 2026-11-25 16:52:31.625024 UTC`.
    pub fn systemctl_show(unit: &str, properties: &[&str]) -> Self {
        let properties = format!("--property={}", properties.join(","));
        let microseconds = "--timestamp=us+utc";
        Self::of(["systemctl", "show", microseconds, &properties, "--", unit])
    }

    /// Unit files of a type (`swap`): name, state and preset per line.
    pub fn systemd_unit_files(unit_type: &str) -> Self {
        let unit_type = format!("--type={unit_type}");
        Self::of(["systemctl", "list-unit-files", &unit_type, "--no-legend", "--plain"])
    }

    /// The last lines that a unit wrote to the journal.
    pub fn journal(unit: &str, lines: usize) -> Self {
        let lines = lines.to_string();
        Self::of(["journalctl", "--no-pager", "--quiet", "--output=short-iso", "-n", &lines, "-u", unit])
    }

    /// When content or metadata of paths last changed (ctime, which nobody can set back): `seconds.fraction path` per line.
    pub fn change_times(paths: &[String]) -> Self {
        Self::of(
            ["stat", "--dereference", "--printf=%.9Z %n\\n", "--"]
                .into_iter()
                .map(str::to_owned)
                .chain(paths.iter().cloned()),
        )
    }

    /// Rules of a chain of the IPv4 filter table as the kernel has them; status 1 when there is no such chain.
    pub fn iptables_chain(chain: &str) -> Self {
        Self::of(["iptables", "-S", chain])
    }

    /// An entry of `passwd`, `group`...
    pub fn getent(database: &str, key: &str) -> Self {
        Self::of(["getent", database, key])
    }

    /// Names of the groups of a user.
    pub fn groups_of(user: &str) -> Self {
        Self::of(["id", "-Gn", "--", user])
    }

    /// Images in k3s's containerd, as a table with digest and labels.
    pub fn k3s_images() -> Self {
        Self::of(["/usr/local/bin/k3s", "ctr", "-n", "k8s.io", "images", "ls"])
    }

    /// Containers in k3s's containerd, as a table with the image of each.
    pub fn k3s_containers() -> Self {
        Self::of(["/usr/local/bin/k3s", "ctr", "-n", "k8s.io", "containers", "ls"])
    }

    /// Version of an installed program.
    pub fn version(program: &str) -> Self {
        Self::of([program, "--version"])
    }

    /// Version of Helm: `v4.3.1`.
    pub fn helm_version(program: &str) -> Self {
        let mut query = Self::of([program, "version", "--template", "{{.Version}}"]);
        query.env = helm_env(NOWHERE);
        query
    }

    /// The objects of a chart with all definitions and hooks, as YAML with a `# Source:` line before each.
    pub fn helm_template(question: &HelmTemplate<'_>) -> Self {
        let mut argv: Vec<String> = vec![question.program.into(), "template".into(), question.release.into()];
        argv.extend(question.chart.arguments());
        let telling = argv.len();
        for (flag, value) in [
            ("--namespace", question.namespace),
            ("--values", question.values),
            ("--kube-version", question.kube_version),
            ("--dry-run", if question.lookup { "server" } else { "client" }),
        ] {
            argv.push(format!("{flag}={value}"));
        }
        argv.extend(["--include-crds".into(), "--skip-tests".into()]);
        if question.upgrade {
            argv.push("--is-upgrade".into());
        }
        argv.extend(question.api_versions.iter().map(|version| format!("--api-versions={version}")));
        let timeout = if matches!(question.chart, HelmChart::Path(_)) { TIMEOUT } else { REMOTE_TIMEOUT };
        Self { argv, env: helm_env(question.kubeconfig), telling, timeout }
    }

    /// The `unless` of a `command` resource, or a `command` check: the author of the stage promises that it only looks.
    pub fn by_author(argv: &[String]) -> Self {
        Self::of(argv.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(chart: &HelmChart) -> Query {
        let question = HelmTemplate {
            program: "helm",
            release: "web",
            namespace: "a",
            chart,
            values: "/values",
            kubeconfig: "/config",
            kube_version: "v1.36.4",
            api_versions: &["v1".to_owned(), "apps/v1".to_owned()],
            upgrade: false,
            lookup: false,
        };
        Query::helm_template(&question)
    }

    #[test]
    fn a_chart_from_afar_has_time_and_the_question_is_short() {
        let oci = HelmChart::Oci { reference: "oci://a/web".into(), version: Some("1.0.0".into()) };
        let (here, afar) = (template(&HelmChart::Path("/chart".into())), template(&oci));
        assert_eq!(here.asked(), "helm template web /chart");
        assert_eq!(afar.asked(), "helm template web oci://a/web --version 1.0.0");
        assert!(afar.argv().contains(&"--api-versions=apps/v1".to_owned()));
        assert!(afar.timeout() > here.timeout());
        assert_eq!(Query::getent("passwd", "root").asked(), "getent passwd root");
    }

    #[test]
    fn helm_is_told_of_proxies() {
        let given = |name: &str| (name == "HTTPS_PROXY" || name == "no_proxy").then(|| format!("value of {name}"));
        let env = helm_env_in("/config", given);
        let proxies: Vec<&str> =
            env.iter().map(|(name, _)| name.as_str()).filter(|name| PROXIES.contains(name)).collect();
        assert_eq!(proxies, ["HTTPS_PROXY", "no_proxy"]);
        assert_eq!(env.first(), Some(&("KUBECONFIG".to_owned(), "/config".to_owned())));
    }
}
