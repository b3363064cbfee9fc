//! Data sets in S3: the files that are needed are copied into a directory that goes away again.

use mlflow_client::{Client, Location};
use tempfile::TempDir;

use super::{Error, set_of};

/// No C-MAPSS file is a quarter as large, packed or not.
const LARGEST: u64 = 64 << 20;

/// Copies the files of the named data sets. Those that are not there are left to whoever reads the copy.
///
/// # Errors
/// No such place, no answer, no room.
pub async fn copy(place: &str, names: &[String]) -> Result<TempDir, Error> {
    let wrong = |reason: String| Error::Place { place: place.to_owned(), reason };
    let from = location(place).map_err(wrong)?;
    let http = crate::http::unhurried().map_err(wrong)?;
    let client = Client::storage(http)?;
    let dir = tempfile::tempdir().map_err(|e| wrong(format!("no room for a copy: {e}")))?;
    for file in client.list(&from).await? {
        if wanted(&file.path, names) {
            let bytes = client.download_bytes(&from.join(&file.path), LARGEST).await?;
            std::fs::write(dir.path().join(&file.path), bytes).map_err(|e| wrong(format!("cannot be copied: {e}")))?;
        } else if set_of(&file.path).is_some() {
            // Its name alone, for the message about what is there.
            std::fs::write(dir.path().join(&file.path), "").map_err(|e| wrong(format!("cannot be copied: {e}")))?;
        }
    }
    Ok(dir)
}

fn location(place: &str) -> Result<Location, String> {
    let rest = place.strip_prefix("s3://").unwrap_or(place);
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let key = key.trim_matches('/');
    if bucket.is_empty() || bucket.contains('@') || key.split('/').any(|part| part == "..") {
        return Err("write s3://BUCKET/PREFIX; the keys belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into());
    }
    Ok(Location::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
}

fn wanted(file: &str, names: &[String]) -> bool {
    names.iter().any(|name| {
        ["train", "test", "RUL"].iter().any(|part| {
            let rest =
                file.strip_prefix(part).and_then(|f| f.strip_prefix('_')).and_then(|f| f.strip_prefix(name.as_str()));
            matches!(rest, Some(".txt" | ".txt.gz"))
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{location, wanted};

    #[test]
    fn places_and_files() {
        assert_eq!(location("s3://thesis-data/raw/").unwrap().to_string(), "s3://thesis-data/raw");
        for bad in ["s3://", "s3:///a", "s3://b/../c", "s3://key:secret@b/c"] {
            let error = location(bad).unwrap_err();
            assert!(error.contains("s3://BUCKET/PREFIX") && !error.contains("secret@"), "{error}");
        }
        let names = ["FD001".to_owned()];
        for (file, is) in [
            ("train_FD001.txt", true),
            ("RUL_FD001.txt.gz", true),
            ("train_FD0011.txt", false),
            ("x/train_FD001.txt", false),
        ] {
            assert_eq!(wanted(file, &names), is, "{file}");
        }
    }
}
