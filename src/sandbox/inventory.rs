//! The inventory file that `sandbox up` writes: the same shape that a user writes for real machines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::state::{State, replace_file};

const FIRST_LINE: &str = "# written by `provision sandbox up`; `provision sandbox down` removes it";

/// What differs from a real VM: only this machine reaches the host, so its service may be reached on a port of the host.
const VALUES: &str = "values:\n  inference:\n    expose: true\n";

/// A host without a way out has no default route, and Kubernetes needs one.
const OFFLINE_VALUES: &str = "  network:\n    dummy_default_route: true\n";

/// Checks that `path` may be written: its folder exists and a file there is one of ours.
///
/// # Errors
/// Says what is in the way.
pub(super) fn check(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    if !dir.is_dir() {
        bail!(
            "the inventory {} cannot be written: there is no folder {}\nrun this in the project folder, or choose another file for the inventory",
            path.display(),
            dir.display()
        );
    }
    if let Ok(text) = fs::read_to_string(path)
        && text.lines().next() != Some(FIRST_LINE)
    {
        bail!(
            "{} was not written by `provision sandbox up`, so it is not overwritten\nmove it away, or choose another file for the inventory",
            path.display()
        );
    }
    Ok(())
}

/// Writes `path` for `hosts` (state and directory of each), or removes it when there are none.
pub(super) fn write(path: &Path, hosts: &[(State, &Path)]) -> Result<()> {
    let ours = || fs::read_to_string(path).is_ok_and(|text| text.lines().next() == Some(FIRST_LINE));
    if hosts.is_empty() {
        if ours() {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        return Ok(());
    }
    replace_file(path, text(hosts).as_bytes(), 0o644)
}

fn text(hosts: &[(State, &Path)]) -> String {
    let mut hosts: Vec<_> = hosts.iter().collect();
    hosts.sort_by(|a, b| (a.0.created, &a.0.name).cmp(&(b.0.created, &b.0.name)));
    let mut text = format!("{FIRST_LINE}\nhosts:\n");
    let mut artifacts: Vec<&str> = Vec::new();
    for (state, dir) in &hosts {
        text.push_str(&format!(
            "  {}:\n    transport: ssh\n    address: {}\n    port: 22\n    user: root\n    identity_file: {}\n    host_key: {}\n",
            scalar(&state.name),
            state.address,
            scalar(&dir.join("id_ed25519").to_string_lossy()),
            scalar(&state.host_key),
        ));
        for artifact in &state.artifacts {
            if !artifacts.contains(&artifact.as_str()) {
                artifacts.push(artifact);
            }
        }
    }
    if !artifacts.is_empty() {
        let list: Vec<_> = artifacts.iter().map(|artifact| scalar(artifact)).collect();
        text.push_str(&format!("artifacts: [{}]\n", list.join(", ")));
    }
    text.push_str(VALUES);
    if hosts.iter().any(|(state, _)| state.offline) {
        text.push_str(OFFLINE_VALUES);
    }
    text
}

/// A YAML string: plain where it can only be a string, else quoted.
fn scalar(text: &str) -> String {
    const OTHER_MEANING: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        || text.starts_with("./")
        || text.starts_with("../");
    let plain = starts_well
        && !text.ends_with(' ')
        && !OTHER_MEANING.iter().any(|word| text.eq_ignore_ascii_case(word))
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '=' | ' '));
    if plain {
        text.to_owned()
    } else {
        // JSON's strings are YAML's double-quoted ones.
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sandbox::state::tests::example;

    #[test]
    fn one_host() {
        let dir = Path::new("/home/ann/.cache/provision/sandbox/hosts/sandbox");
        assert_eq!(
            text(&[(example("sandbox", 2), dir)]),
            "\
# written by `provision sandbox up`; `provision sandbox down` removes it
hosts:
  sandbox:
    transport: ssh
    address: 10.99.0.2
    port: 22
    user: root
    identity_file: /home/ann/.cache/provision/sandbox/hosts/sandbox/id_ed25519
    host_key: ssh-ed25519 AAAA
artifacts: [../sandbox/artifacts.yml]
values:
  inference:
    expose: true
"
        );
    }

    #[test]
    fn several_hosts_stand_in_the_order_of_their_making_and_share_the_overlay() {
        let text = text(&[(example("a-2", 3), Path::new("/c/a-2")), (example("b-1", 2), Path::new("/c/b-1"))]);
        assert!(text.find("b-1:").unwrap() < text.find("a-2:").unwrap(), "{text}");
        assert_eq!(text.matches("artifacts.yml").count(), 1);
    }

    #[test]
    fn values_that_yaml_would_read_as_something_else_are_quoted() {
        assert_eq!(scalar("no"), "\"no\"");
        assert_eq!(scalar("1e3"), "\"1e3\"");
        assert_eq!(scalar("a: b"), "\"a: b\"");
        assert_eq!(scalar("/home/a \"b\"/x"), "\"/home/a \\\"b\\\"/x\"");
        assert_eq!(scalar("ssh-ed25519 AAAAC3Nz+/="), "ssh-ed25519 AAAAC3Nz+/=");
        let parsed: std::collections::BTreeMap<String, String> =
            serde_yaml::from_str(&format!("{}: {}", scalar("null"), scalar("# x"))).unwrap();
        assert_eq!(parsed["null"], "# x");
    }

    #[test]
    fn a_foreign_file_is_neither_overwritten_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sandbox.yml");
        fs::write(&path, "hosts: {}\n").unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("not overwritten"));
        write(&path, &[]).unwrap();
        assert!(path.exists());
    }

    #[test]
    fn the_file_goes_with_the_last_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sandbox.yml");
        check(&path).unwrap();
        write(&path, &[(example("a-1", 2), Path::new("/c/a"))]).unwrap();
        check(&path).unwrap();
        write(&path, &[]).unwrap();
        assert!(!path.exists());
        write(&path, &[]).unwrap();
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = check(Path::new("/no/such/inventory/sandbox.yml")).unwrap_err().to_string();
        assert!(error.contains("there is no folder /no/such/inventory"), "{error}");
    }
}
