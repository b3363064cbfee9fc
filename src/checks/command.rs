//! `command`: a program that only looks ends as it should.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use super::http::excerpt;
use super::{Check, Verdict};
use crate::host::{Query, ReadHost};

/// Every probe ends within about ten seconds.
const TIMEOUT: Duration = Duration::from_secs(9);

/// A program, run on the host without a shell, ends with the expected status within 9 seconds. It must not change anything.
///
/// ```yaml
/// - command: { argv: [timedatectl, show, --property=NTPSynchronized], contains: "NTPSynchronized=yes" }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Command {
    /// Program and arguments.
    argv: Vec<String>,
    /// Expected exit status. Default: 0.
    #[serde(default)]
    status: i32,
    /// Text that its output must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    contains: Option<String>,
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let command = Self::deserialize(deserializer)?;
        if command.argv.first().is_none_or(String::is_empty) {
            return Err(D::Error::custom("`argv` needs at least the name of a program"));
        }
        Ok(command)
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

#[async_trait]
impl Check for Command {
    const KIND: &'static str = "command";

    fn name(&self) -> String {
        self.argv.join(" ")
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let program = &self.argv[0];
        let query = Query::by_author(&self.argv);
        let Ok(answer) = tokio::time::timeout(TIMEOUT, host.query(&query)).await else {
            return Ok(Verdict::fail(format!("`{program}` did not end within {} s", TIMEOUT.as_secs())));
        };
        let answer = answer?;
        let printed = format!("{}{}", answer.stdout, answer.stderr);
        if answer.status == 127 && self.status != 127 {
            return Ok(Verdict::fail(format!("`{program}` is not installed: {}", excerpt(&printed))));
        }
        if answer.status != self.status {
            return Ok(Verdict::fail(format!(
                "`{program}` ended with status {}, expected {}: {}",
                answer.status,
                self.status,
                excerpt(&printed)
            )));
        }
        Ok(match &self.contains {
            Some(text) if !printed.contains(text) => {
                Verdict::fail(format!("`{program}` did not print {text:?} but: {}", excerpt(&printed)))
            }
            Some(text) => Verdict::pass(format!("`{program}` printed {text:?}")),
            None => Verdict::pass(format!("`{program}` ended with status {}", answer.status)),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, failed, ok};

    async fn verdict(json: &str) -> Verdict {
        let check: Command = serde_json::from_str(json).unwrap();
        let host = FakeHost::new().answer(&["good"], ok("all\nis well\n")).answer(&["bad"], failed(3, "broken\n"));
        check.run(&host).await.unwrap()
    }

    #[tokio::test]
    async fn status_and_output_are_judged() {
        for (json, expected) in [
            (r#"{"argv": ["good"]}"#, Verdict::pass("`good` ended with status 0")),
            (r#"{"argv": ["good", "x"], "contains": "is well"}"#, Verdict::pass("`good` printed \"is well\"")),
            (
                r#"{"argv": ["good"], "contains": "ill"}"#,
                Verdict::fail("`good` did not print \"ill\" but: all is well"),
            ),
            (r#"{"argv": ["bad"], "status": 3}"#, Verdict::pass("`bad` ended with status 3")),
            (r#"{"argv": ["bad"]}"#, Verdict::fail("`bad` ended with status 3, expected 0: broken")),
            (r#"{"argv": ["none"]}"#, Verdict::fail("`none` is not installed: command not found")),
        ] {
            assert_eq!(verdict(json).await, expected);
        }
    }

    #[test]
    fn a_program_must_be_named() {
        let error = serde_json::from_str::<Command>(r#"{"argv": []}"#).unwrap_err();
        assert!(error.to_string().contains("needs at least the name of a program"));
    }
}
