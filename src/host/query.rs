//! The programs that observing may ask: a closed list, so that reading this file shows that none of them changes anything.

/// A question to a program that only looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Query {
    argv: Vec<String>,
}

impl Query {
    fn of<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect() }
    }

    /// Program and arguments.
    pub fn argv(&self) -> &[String] {
        &self.argv
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

    /// The `unless` of a `command` resource, or a `command` check: the author of the stage promises that it only looks.
    pub fn by_author(argv: &[String]) -> Self {
        Self::of(argv.iter().cloned())
    }
}
