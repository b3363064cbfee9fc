//! `provision artifact list|fetch|verify`.

use anyhow::Result;

use super::Exit;
use crate::cli::{ArtifactCommand, Global};
use crate::ui::Ui;

pub fn artifact(_global: &Global, _command: &ArtifactCommand, _ui: &Ui) -> Result<Exit> {
    anyhow::bail!("follows")
}
