//! Absolute paths of a host, and what lies on the way to them.

use std::borrow::Cow;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::host::{FileType, ReadHost, Stat, WriteHost};

/// An absolute path without `.` and `..`: `/etc/rancher/k3s/config.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPath(PathBuf);

impl TryFrom<String> for HostPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = PathBuf::from(&text);
        if !path.is_absolute() {
            return Err(format!("the path {text:?} must begin with `/`"));
        }
        if text.split('/').any(|part| part == "." || part == "..") {
            return Err(format!("the path {text:?} must not hold `.` or `..`"));
        }
        if text.contains('\0') {
            return Err(format!("the path {text:?} must not hold a zero byte"));
        }
        // Without double and final slashes.
        Ok(Self(path.components().collect()))
    }
}

impl AsRef<Path> for HostPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl JsonSchema for HostPath {
    fn schema_name() -> Cow<'static, str> {
        "HostPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An absolute path on the host.",
            "type": "string",
            "pattern": "^/",
        })
    }
}

/// Makes the directories above `path` that are missing, for root and with mode 0755.
///
/// # Errors
/// When one cannot be made.
pub fn make_parents(host: &dyn WriteHost, path: &Path) -> Result<()> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for directory in above {
        if directory.parent().is_some() && host.stat(directory)?.is_none() {
            host.create_dir(directory, 0o755)?;
        }
    }
    Ok(())
}

/// What a path leads to when its last component is a link (or a chain of links), and that place; `None` when nothing is there.
///
/// # Errors
/// When links lead in a circle.
pub fn follow(host: &dyn ReadHost, path: &Path) -> Result<Option<(PathBuf, Stat)>> {
    let mut here = path.to_path_buf();
    for _ in 0..40 {
        match host.stat(&here)? {
            None => return Ok(None),
            Some(stat) if stat.file_type == FileType::Symlink => {
                let target = host.read_link(&here)?.unwrap_or_default();
                here = here.parent().unwrap_or(Path::new("/")).join(target);
            }
            Some(stat) => return Ok(Some((here, stat))),
        }
    }
    bail!("{}: its links lead in a circle", path.display())
}

/// Whether a relative path stays below where it starts, at every step of it.
pub fn stays_below(path: &Path) -> bool {
    let mut depth = 0_usize;
    path.components().all(|component| match component {
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::ParentDir if depth > 0 => {
            depth -= 1;
            true
        }
        _ => false,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn absolute_and_plain() {
        let parse = |text: &str| HostPath::try_from(text.to_owned());
        assert_eq!(parse("/etc//k3s/").unwrap().to_string(), "/etc/k3s");
        assert!(parse("etc").unwrap_err().contains("must begin with `/`"));
        assert!(parse("/a/../b").unwrap_err().contains("must not hold"));
        assert!(parse("/a/./b").is_err());
    }

    #[test]
    fn parents_are_made_from_the_top_and_links_to_directories_will_do() {
        let host = FakeHost::new().dir("/mnt/disk", 0o755).link("/data", "/mnt/disk");
        make_parents(&host, Path::new("/data/a/b/file")).unwrap();
        assert_eq!(host.changes(), ["mkdir /data/a 0755", "mkdir /data/a/b 0755"]);
        let (place, _) = follow(&host, Path::new("/data")).unwrap().unwrap();
        assert_eq!(place, Path::new("/mnt/disk"));
        let host = FakeHost::new().link("/a", "b").link("/b", "a");
        assert!(follow(&host, Path::new("/a")).is_err());
    }

    #[test]
    fn a_path_may_go_up_only_as_far_as_it_went_down() {
        for (path, stays) in [("a/b", true), ("a/../b", true), ("../a", false), ("a/../../b", false), ("/a", false)] {
            assert_eq!(stays_below(Path::new(path)), stays, "{path}");
        }
    }
}
