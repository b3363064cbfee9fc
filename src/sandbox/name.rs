//! Host names: they become host names inside, folder names here and keys in the inventory.

use anyhow::{Result, bail};

/// One DNS label (RFC 1123), kept short enough for a Kubernetes node and for socket paths below its folder.
const LONGEST: usize = 32;

/// # Errors
/// Says which rule `name` breaks.
pub(super) fn validate(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > LONGEST {
        format!("has {} characters, at most {LONGEST} are allowed", name.len())
    } else if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        format!("contains {bad:?}")
    } else if name.starts_with('-') || name.ends_with('-') {
        "begins or ends with '-'".to_owned()
    } else if name == "localhost" {
        "already means the host itself".to_owned()
    } else {
        return Ok(());
    };
    bail!(
        "sandbox host name {name:?} {reason}\nuse lower-case letters, digits and '-' inside, for example: sandbox, node-2"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for name in ["sandbox", "node-2", "t-12345", "a", &"x".repeat(32)] {
            validate(name).unwrap();
        }
    }

    #[test]
    fn bad_names_say_why() {
        for (name, reason) in [
            ("", "is empty"),
            ("Node", "contains 'N'"),
            ("a/b", "contains '/'"),
            ("..", "contains '.'"),
            ("a b", "contains ' '"),
            ("-a", "begins or ends"),
            ("a-", "begins or ends"),
            ("localhost", "the host itself"),
            (&"x".repeat(33), "has 33 characters"),
        ] {
            let error = validate(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name:?}: {error}");
        }
    }
}
