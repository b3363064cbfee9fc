//! Objects: what checks write, read and look for.

use jiff::Timestamp;
use serde::Deserialize;

use super::{Client, Error, Writer};

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub modified: Timestamp,
    /// Bytes.
    pub size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListDocument {
    #[serde(default)]
    contents: Vec<ListedDocument>,
    #[serde(default)]
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedDocument {
    key: String,
    last_modified: String,
    size: u64,
}

impl Client {
    /// All objects whose names begin with `prefix`.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<Listed>, Error> {
        let path = format!("/{bucket}");
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            query.extend(token.as_deref().map(|token| ("continuation-token", token)));
            let answer = self.get(&path, &query).await?;
            let page: ListDocument =
                quick_xml::de::from_str(&answer.text()).map_err(|error| self.unexpected(&path, error))?;
            for object in page.contents {
                let modified = object.last_modified.parse().map_err(|error| self.unexpected(&path, error))?;
                found.push(Listed { key: object.key, modified, size: object.size });
            }
            token = page.next_continuation_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The content of an object.
    ///
    /// # Errors
    /// When there is none (`NoSuchKey`), or the server does not answer or refuses.
    pub async fn read(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Error> {
        Ok(self.get(&format!("/{bucket}/{key}"), &[]).await?.body)
    }
}

impl Writer {
    /// Writes an object. Returns its version where the bucket keeps versions.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn write(&self, bucket: &str, key: &str, content: Vec<u8>) -> Result<Option<String>, Error> {
        Ok(self.put(&format!("/{bucket}/{key}"), &[], content).await?.version)
    }

    /// Removes an object; with `version` this version of it, so that nothing is kept.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn remove(&self, bucket: &str, key: &str, version: Option<&str>) -> Result<(), Error> {
        let query: Vec<(&str, &str)> = version.map(|version| ("versionId", version)).into_iter().collect();
        self.delete(&format!("/{bucket}/{key}"), &query).await.map(|_| ())
    }
}
