//! `provision agent`: the target end.

use anyhow::Result;

use super::Exit;

pub async fn agent() -> Result<Exit> {
    crate::agent::serve(tokio::io::stdin(), tokio::io::stdout(), &crate::agent::Paths::default()).await?;
    Ok(Exit::Ok)
}
