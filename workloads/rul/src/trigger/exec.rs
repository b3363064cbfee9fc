//! A program on this machine as the run: for trials and the demonstration.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use super::alert::Firing;
use super::starter::{Going, Trouble, told};

/// Runs of one program. They end with this process; what was under way at a restart counts as failed and is repeated.
#[derive(Debug)]
pub struct Exec {
    argv: Vec<String>,
    children: BTreeMap<String, Child>,
}

impl Exec {
    pub fn new(argv: Vec<String>) -> Self {
        Self { argv, children: BTreeMap::new() }
    }

    pub fn start(&mut self, name: &str, firing: &Firing) -> Result<String, Trouble> {
        if self.children.contains_key(name) {
            return Ok(name.to_owned());
        }
        let Some((program, arguments)) = self.argv.split_first() else {
            return Err(Trouble::Refused("--exec names no program".into()));
        };
        let mut command = Command::new(program);
        command.args(arguments).envs(told(name, firing)).stdin(Stdio::null());
        let child = command.spawn().map_err(|error| Trouble::Refused(format!("cannot start {program}: {error}")))?;
        self.children.insert(name.to_owned(), child);
        Ok(name.to_owned())
    }

    pub fn look(&mut self, run: &str) -> Going {
        let Some(child) = self.children.get_mut(run) else {
            return Going::Failed("the trigger was restarted while it ran".into());
        };
        let going = match child.try_wait() {
            Ok(None) => return Going::On,
            Ok(Some(status)) if status.success() => Going::Succeeded,
            Ok(Some(status)) => Going::Failed(format!("it ended with {status}")),
            Err(error) => Going::Failed(format!("it cannot be watched: {error}")),
        };
        self.children.remove(run);
        going
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            // One that has ended already is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
