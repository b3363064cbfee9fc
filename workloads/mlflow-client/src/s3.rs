//! S3 as far as artifacts need it: where it is, who asks, signed addresses.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

use crate::error::Error;

/// How long a signed address is good for; it is used at once.
const VALID: Duration = Duration::from_secs(900);

/// An S3 service and the credentials for it.
#[derive(Clone)]
pub struct S3 {
    /// `None`: Amazon's, by region.
    endpoint: Option<Url>,
    region: String,
    credentials: Option<Credentials>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("endpoint", &self.shown())
            .field("region", &self.region)
            .field("credentials", &self.credentials.is_some())
            .finish()
    }
}

impl S3 {
    /// `MLFLOW_S3_ENDPOINT_URL` (or `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`), `AWS_DEFAULT_REGION`
    /// (or `AWS_REGION`; `us-east-1`), `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`. Without a key, requests are not signed.
    ///
    /// # Errors
    /// When the endpoint is no address.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let given = |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
        let endpoint = given(&["MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        let region = given(&["AWS_DEFAULT_REGION", "AWS_REGION"]).unwrap_or_else(|| "us-east-1".to_owned());
        let login = given(&["AWS_ACCESS_KEY_ID"]).zip(given(&["AWS_SECRET_ACCESS_KEY"]));
        Self::new(endpoint.as_deref(), &region, login, given(&["AWS_SESSION_TOKEN"]))
    }

    /// `login` is key and secret.
    ///
    /// # Errors
    /// When the endpoint is no `http` or `https` address.
    pub fn new(
        endpoint: Option<&str>,
        region: &str,
        login: Option<(String, String)>,
        session: Option<String>,
    ) -> Result<Self, Error> {
        let parsed = endpoint.map(Url::parse).transpose();
        let endpoint = match parsed {
            Ok(Some(url)) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
                Err("not http or https".to_owned())
            }
            Ok(url) => Ok(url),
            Err(error) => Err(error.to_string()),
        }
        .map_err(|reason| Error::Source {
            // The value is left out: it might carry a password.
            uri: "MLFLOW_S3_ENDPOINT_URL".to_owned(),
            reason: format!("is no address of an S3 service ({reason}); it looks like http://minio:9000"),
        })?;
        let credentials = login.map(|(key, secret)| match session {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        });
        Ok(Self { endpoint, region: region.to_owned(), credentials })
    }

    /// Who answers, without credentials; for errors.
    pub(crate) fn shown(&self) -> String {
        match &self.endpoint {
            Some(url) => {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
            }
            None => format!("https://s3.{}.amazonaws.com", self.region),
        }
    }

    fn bucket(&self, name: &str) -> Result<Bucket, Error> {
        let amazon = format!("https://s3.{}.amazonaws.com", self.region);
        let (endpoint, style) = match &self.endpoint {
            // Servers of one's own rarely have a name per bucket.
            Some(url) => (url.clone(), UrlStyle::Path),
            None => {
                let url = Url::parse(&amazon).map_err(|e| self.wrong(name, e.to_string()))?;
                // A certificate covers only one label before Amazon's name.
                (url, if name.contains('.') { UrlStyle::Path } else { UrlStyle::VirtualHost })
            }
        };
        Bucket::new(endpoint, style, name.to_owned(), self.region.clone()).map_err(|e| self.wrong(name, e.to_string()))
    }

    fn wrong(&self, bucket: &str, reason: String) -> Error {
        Error::Artifacts { place: format!("s3://{bucket} at {}", self.shown()), reason }
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> Result<Url, Error> {
        Ok(self.bucket(bucket)?.get_object(self.credentials.as_ref(), key).sign(VALID))
    }

    pub(crate) fn put(&self, bucket: &str, key: &str) -> Result<Url, Error> {
        Ok(self.bucket(bucket)?.put_object(self.credentials.as_ref(), key).sign(VALID))
    }

    /// A page of the keys that begin with `prefix`.
    pub(crate) fn list(&self, bucket: &str, prefix: &str, from: Option<&str>) -> Result<Url, Error> {
        let bucket = self.bucket(bucket)?;
        let mut list = bucket.list_objects_v2(self.credentials.as_ref());
        list.with_prefix(prefix);
        if let Some(token) = from {
            list.with_continuation_token(token);
        }
        Ok(list.sign(VALID))
    }

    /// Keys with sizes, and where the next page begins.
    pub(crate) fn read_list(text: &str) -> Result<Page, String> {
        let page = ListObjectsV2::parse_response(text).map_err(|e| e.to_string())?;
        let objects = page.contents.into_iter().map(|o| (o.key, o.size.unwrap_or_default())).collect();
        Ok(Page { objects, next: page.next_continuation_token })
    }
}

/// Part of a listing.
pub(crate) struct Page {
    pub objects: Vec<(String, u64)>,
    pub next: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::S3;

    fn login() -> Option<(String, String)> {
        Some(("AKIDEXAMPLE".into(), "hunter2secret".into()))
    }

    #[test]
    fn own_servers_by_path_and_amazon_by_name() {
        let own = S3::new(Some("http://minio:9000"), "us-east-1", login(), None).unwrap();
        let url = own.get("models", "1/r/a b+c.onnx").unwrap();
        assert!(url.as_str().starts_with("http://minio:9000/models/1/r/a%20b%2Bc.onnx?"), "{url}");
        let amazon = S3::new(None, "eu-west-1", None, None).unwrap();
        assert_eq!(amazon.get("models", "k").unwrap().as_str(), "https://models.s3.eu-west-1.amazonaws.com/k");
        assert_eq!(amazon.get("a.b", "k").unwrap().as_str(), "https://s3.eu-west-1.amazonaws.com/a.b/k");
    }

    #[test]
    fn no_form_shows_the_secret() {
        let s3 =
            S3::new(Some("http://u:hunter2secret@minio:9000"), "r", login(), Some("hunter2secret".into())).unwrap();
        let errors = [
            S3::new(Some("ftp://u:hunter2secret@h"), "r", login(), None).unwrap_err().to_string(),
            S3::new(Some("u:hunter2secret@h:x"), "r", login(), None).unwrap_err().to_string(),
        ];
        for text in errors.into_iter().chain([s3.shown()]) {
            assert!(!text.contains("hunter2secret"), "{text}");
        }
        assert!(!format!("{:?}", S3::new(None, "r", login(), None).unwrap()).contains("hunter2secret"));
    }

    #[test]
    fn empty_variables_are_no_variables() {
        let s3 = S3::from_variables(|_| Some(String::new())).unwrap();
        assert!(s3.endpoint.is_none() && s3.credentials.is_none());
        assert_eq!(s3.region, "us-east-1");
    }
}
