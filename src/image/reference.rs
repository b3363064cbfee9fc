//! Names of images, as Kubernetes and containerd read them.

use crate::hash;

/// A name of an image, with its registry written out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// `docker.io/library/postgres`.
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
    /// Whether the registry was written, or is Docker's because nothing was.
    pub qualified: bool,
}

impl Reference {
    /// Reads `[REGISTRY/]NAME[:TAG][@DIGEST]`; `None` when it is no such name.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 400 {
            return None;
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !digest.strip_prefix("sha256:").is_some_and(hash::is_sha256)) {
            return None;
        }
        // A colon before the last slash belongs to the registry's port.
        let name_at = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[name_at..].split_once(':') {
            Some((name, tag)) => (&rest[..name_at + name.len()], Some(tag)),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return None;
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
            _ => (None, name),
        };
        if !registry.is_none_or(is_registry) || !path.split('/').all(is_component) {
            return None;
        }
        let repository = match registry {
            Some("docker.io" | "index.docker.io") if !path.contains('/') => format!("docker.io/library/{path}"),
            Some("index.docker.io") => format!("docker.io/{path}"),
            Some(registry) => format!("{registry}/{path}"),
            None if path.contains('/') => format!("docker.io/{path}"),
            None => format!("docker.io/library/{path}"),
        };
        let own = |text: &str| text.to_owned();
        Some(Self { repository, tag: tag.map(own), digest: digest.map(own), qualified: registry.is_some() })
    }

    /// The name that containerd looks for when a pod asks for this one.
    pub fn stored_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.repository),
            (None, Some(tag)) => format!("{}:{tag}", self.repository),
            (None, None) => format!("{}:latest", self.repository),
        }
    }

    /// Whether Kubernetes asks the registry each time unless a policy says otherwise.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref().is_none_or(|tag| tag == "latest")
    }

    /// `docker.io`, `ghcr.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        self.repository.split('/').next().unwrap_or_default()
    }
}

/// Letters, digits, `_`, `.`, `-`; at most 128, and neither `.` nor `-` first.
fn is_tag(tag: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !tag.is_empty() && tag.len() <= 128 && tag.chars().all(fits) && !tag.starts_with(['.', '-'])
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Lower-case letters and digits, with single `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = text.starts_with(plain) && text.ends_with(plain);
    let separators = || text.split(plain).filter(|part| !part.is_empty());
    let separator = |part: &str| matches!(part, "." | "_" | "__") || part.chars().all(|c| c == '-');
    edges && text.chars().all(|c| plain(c) || "._-".contains(c)) && separators().all(separator)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stored(text: &str) -> Option<String> {
        Reference::parse(text).map(|reference| reference.stored_name())
    }

    #[test]
    fn short_names_are_docker_hubs() {
        for (text, name) in [
            ("postgres", "docker.io/library/postgres:latest"),
            ("postgres:17", "docker.io/library/postgres:17"),
            ("docker.io/postgres:17", "docker.io/library/postgres:17"),
            ("rancher/klipper-lb:v0.4", "docker.io/rancher/klipper-lb:v0.4"),
            ("ghcr.io/mlflow/mlflow:v3.16.1", "ghcr.io/mlflow/mlflow:v3.16.1"),
            ("localhost/app:v1", "localhost/app:v1"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("registry:5000/a/b", "registry:5000/a/b:latest"),
            ("provision.local/rul:34e924f25337f925", "provision.local/rul:34e924f25337f925"),
        ] {
            assert_eq!(stored(text).unwrap(), name, "{text}");
        }
        let digest = format!("sha256:{}", hash::sha256("x"));
        assert_eq!(stored(&format!("postgres:17@{digest}")).unwrap(), format!("docker.io/library/postgres@{digest}"));
    }

    #[test]
    fn what_is_no_name_is_none() {
        for text in [
            "",
            "/",
            "a//b",
            "Postgres",
            "postgres:",
            "postgres:a b",
            "http://x/y",
            "a/b:c/d",
            "-a",
            "a..b",
            "a/_b",
            "x@y",
            "--helper-image=busybox:1",
            "postgres@sha256:12",
            "{{ image.x }}",
            "$(IMAGE)",
            "user@example.org",
        ] {
            assert_eq!(stored(text), None, "{text}");
        }
    }

    #[test]
    fn without_a_tag_it_is_the_latest() {
        assert!(Reference::parse("a/b").unwrap().is_latest());
        assert!(Reference::parse("a/b:latest").unwrap().is_latest());
        assert!(!Reference::parse("a/b:v1").unwrap().is_latest());
        assert!(!Reference::parse(&format!("a/b@sha256:{}", hash::sha256("x"))).unwrap().is_latest());
        assert_eq!(Reference::parse("ghcr.io/a/b:1").unwrap().registry(), "ghcr.io");
    }
}
