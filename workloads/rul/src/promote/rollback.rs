//! Going back to what was served before.

use serde_json::Value;

use super::{Error, Options, rolled_back};
use crate::registry::{PREVIOUS, Registry};

/// Swaps the served alias and `previous`, so that a second rollback goes forward again. The served
/// one first: it is what hurts. When this is cut off in between, both point to the same version and
/// the next rollback says so.
pub async fn rollback(registry: &Registry, options: &Options) -> Result<Value, Error> {
    let (model, alias) = (&options.model_name, &options.alias);
    let place = registry.shown();
    let now = registry.alias(model, alias).await?.ok_or_else(|| {
        Error::Missing(format!("the model {model:?} has no alias {alias:?} in {place}: nothing is served from there"))
    })?;
    let before = registry.alias(model, PREVIOUS).await?.filter(|v| v.version != now.version).ok_or_else(|| {
        Error::Missing(format!(
            "the model {model:?} has no other version under the alias {PREVIOUS:?} in {place}; set it to the version to \
             go back to, or promote that one with --version N --force"
        ))
    })?;
    if !options.dry_run {
        registry.set_alias(model, alias, &before.version).await?;
        registry.set_alias(model, PREVIOUS, &now.version).await?;
        let at = jiff::Timestamp::now().to_string();
        registry.set_tag(&now, "promotion.rolled_back_at", &at).await?;
        registry.set_tag(&now, "promotion.rolled_back_to", &before.version).await?;
    }
    Ok(rolled_back(options, &now.version, &before.version))
}
