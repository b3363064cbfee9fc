//! MLflow over REST, as far as a platform needs it: experiments and runs, artifacts, the model
//! registry with its aliases, webhooks. Tested against MLflow 3.17.2.
//!
//! ```no_run
//! # async fn example(http: reqwest::Client) -> Result<(), mlflow_client::Error> {
//! let mlflow = mlflow_client::Client::new(http, "http://127.0.0.1:5000")?;
//! if let Some(version) = mlflow.alias("cmapss-rul", "production").await? {
//!     let place = mlflow.resolve(&mlflow.download_uri(&version.name, &version.version).await?).await?;
//!     mlflow.download(&place, std::path::Path::new("/var/cache/model")).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is tried again
//!
//! Calls that may be made twice (everything that reads, sets or uploads) are tried again with
//! growing pauses when the server cannot be reached, is overloaded or fails. Calls that create
//! something are tried again only after a look whether the first attempt did it: experiments and
//! registered models are recognised by name, runs and versions by a tag with a random number.
//!
//! # Names and absence
//!
//! A missing registered model is 404 and a missing alias 400 in MLflow's words; both are `None`
//! here.
//!
//! # Secrets
//!
//! Credentials come from the address (`http://user:password@host`) or from
//! `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD` (or `MLFLOW_TRACKING_TOKEN`), those of
//! S3 from `AWS_*`. They are in no error and in no `Debug`.

mod address;
mod artifacts;
mod client;
mod error;
mod models;
mod runs;
mod s3;
mod send;
mod source;
pub mod webhook;

pub use address::Address;
pub use artifacts::{MAX_BYTES, MAX_FILES, Stored};
pub use client::Client;
pub use error::Error;
pub use models::{ModelVersion, NewVersion, RegisteredModel};
pub use runs::{Batch, Experiment, Metric, NewRun, Run, RunData, RunInfo, RunStatus, Tag};
pub use s3::S3;
pub use source::Location;
