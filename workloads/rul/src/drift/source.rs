//! Where the baseline comes from: a file.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::baseline::{Baseline, short};
use super::error::Error;
use super::options::Options;
use super::service::Serving;

/// The file's place and what was read from it last.
#[derive(Debug)]
pub struct BaselineSource {
    path: PathBuf,
    read: Option<(SystemTime, u64, Baseline)>,
}

impl BaselineSource {
    /// # Errors
    /// Neither a file nor a registry is named.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let Some(path) = options.baseline.clone().filter(|p| !p.as_os_str().is_empty()) else {
            return Err(Error::Usage("no baseline: set --baseline or BASELINE_PATH".to_owned()));
        };
        Ok(Self { path, read: None })
    }

    /// The baseline, read again where the file changed.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold together.
    pub async fn of(&mut self, _serving: Option<&Serving>, _notes: &mut Vec<String>) -> Result<Baseline, Error> {
        Err(Error::Usage(format!("{}", self.path.display())))
    }
}
