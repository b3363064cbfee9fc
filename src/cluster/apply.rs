//! Server-side apply: what it would change, doing it, and taking things away.
//!
//! Who wins when somebody else set a field? The manifest, over people: fields that were changed by hand (`kubectl edit`,
//! `scale`, `patch`, `apply`, k9s) are found as differences and set back. Not over controllers: a field that an autoscaler
//! or an operator owns is a conflict, and an error that names it, unless the manifest says `force: true`.

use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::core::params::{DeleteParams, PropagationPolicy};
use kube::core::request::Request;
use serde_json::Value;

use super::compare::{Found, ObjectState, changed_fields};
use super::error::{Error, Result};
use super::object::ObjectRef;
use super::read::{Reader, built};
use super::readiness::failed_job;
use super::{Writer, owned};
use crate::host::WriteHost;

/// Whose fields an apply may take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// Those that were changed by hand.
    ByHand,
    /// Everybody's.
    Always,
}

/// Objects looked at at the same time.
const CONCURRENCY: usize = 8;

/// How often an object that changes while it is looked at is looked at again.
const ATTEMPTS: usize = 10;

/// How long an object may take to go away.
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the server may take to serve a kind whose definition is established.
const SERVE_TIMEOUT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(250);

impl Reader {
    /// Each object as it is and as applying would make it, in the given order.
    ///
    /// An object whose namespace does not exist is absent; so is one whose kind is defined by one of `desired` that is not
    /// there yet.
    ///
    /// # Errors
    /// When the server does not answer, or would refuse the apply: the same errors that the apply would have.
    pub async fn look_at(&self, desired: &[Value], takeover: Takeover) -> Result<Vec<ObjectState>> {
        let defined = defined_kinds(desired);
        let mut looks = Vec::with_capacity(desired.len());
        for object in desired {
            looks.push(self.look_at_one(object, takeover, &defined));
        }
        stream::iter(looks).buffered(CONCURRENCY).try_collect().await
    }

    async fn look_at_one(
        &self,
        desired: &Value,
        takeover: Takeover,
        defined: &[(String, String)],
    ) -> Result<ObjectState> {
        let reference = reference_of(desired)?;
        let found = match self.find(&reference, desired, takeover).await {
            Ok(found) => found,
            Err(Error::UnknownKind { .. })
                if defined.contains(&(reference.group().to_owned(), reference.kind.clone())) =>
            {
                Found::Absent
            }
            Err(Error::NamespaceMissing { .. }) => Found::Absent,
            Err(error) => return Err(error),
        };
        Ok(ObjectState { reference, found })
    }

    async fn find(&self, reference: &ObjectRef, desired: &Value, takeover: Takeover) -> Result<Found> {
        let mut live = self.get(reference).await?;
        for _ in 0..ATTEMPTS {
            let Some(before) = live else {
                // Asked all the same: a spec that the server would refuse is an error of the plan, not of the apply.
                self.apply_as(desired, takeover, true).await?;
                return Ok(Found::Absent);
            };
            if before.pointer("/metadata/deletionTimestamp").is_some() {
                return Ok(Found::Deleting);
            }
            let predicted = match self.apply_as(desired, takeover, true).await {
                Err(Error::Immutable { .. }) if is_job(reference) => {
                    return Ok(Found::Outdated { live: before, desired: desired.clone() });
                }
                other => other?,
            };
            if version(&before) == version(&predicted) || changed_fields(&before, &predicted).is_empty() {
                return Ok(Found::Present { live: before, predicted });
            }
            // A controller wrote to it between the two requests: its change is not one that applying would make.
            live = self.get(reference).await?;
        }
        Err(Error::Rejected {
            object: reference.to_string(),
            code: 409,
            message: "it changes faster than it can be compared: somebody else keeps writing to it".into(),
        })
    }

    /// Applies without force; with force when all that is in the way may be taken over.
    async fn apply_as(&self, desired: &Value, takeover: Takeover, dry_run: bool) -> Result<Value> {
        if takeover == Takeover::Always {
            return self.patch(desired, true, dry_run).await;
        }
        match self.patch(desired, false, dry_run).await {
            Err(Error::Conflict(conflict)) if conflict.by_hand() => self.patch(desired, true, dry_run).await,
            other => other,
        }
    }
}

impl Writer {
    /// Applies one object (server-side apply as `provision`, strict field validation). An object of the same name that is
    /// being deleted is waited for; a Job that failed, or that is another one, makes room first. Returns what the server stored.
    ///
    /// # Errors
    /// When the server does not answer or refuses; a conflict names the other manager, the fields and the way out.
    pub async fn apply(&self, host: &dyn WriteHost, desired: &Value, takeover: Takeover) -> Result<Value> {
        let reference = reference_of(desired)?;
        self.wait_served(host, &reference).await?;
        if let Some(live) = self.reader().get(&reference).await? {
            if live.pointer("/metadata/deletionTimestamp").is_some() {
                self.wait_gone(host, &reference, live.pointer("/metadata/uid")).await?;
            } else if failed_job(&live).is_some() {
                self.delete(host, &reference).await?;
            }
        }
        let stored = match self.reader().apply_as(desired, takeover, false).await {
            Err(Error::Immutable { .. }) if is_job(&reference) => {
                self.delete(host, &reference).await?;
                self.reader().apply_as(desired, takeover, false).await?
            }
            other => other?,
        };
        self.reader().note_applied(&reference, desired).await;
        Ok(stored)
    }

    /// Deletes an object and what belongs to it, and waits until it is gone; nothing to delete is fine.
    ///
    /// # Errors
    /// When the server does not answer or refuses, or when it is still there after two minutes (naming its finalizers).
    pub async fn delete(&self, host: &dyn WriteHost, object: &ObjectRef) -> Result<()> {
        let reader = self.reader();
        let (url, _) = reader.url(object).await?;
        let params =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        let request = built(Request::new(url).delete(&object.name, &params))?;
        match reader.send(object, reader.client().request::<Value>(request)).await {
            // The object where it takes its time, else a status about it.
            Ok(answer) => {
                let uid = answer.pointer("/metadata/uid").or_else(|| answer.pointer("/details/uid"));
                self.wait_gone(host, object, uid).await?;
            }
            Err(Error::Rejected { code: 404, .. }) => {}
            Err(error) => return Err(error),
        }
        reader.note_deleted(object).await;
        Ok(())
    }

    /// `uid` tells it from another one of its name, which somebody else may make at once.
    async fn wait_gone(&self, host: &dyn WriteHost, object: &ObjectRef, uid: Option<&Value>) -> Result<()> {
        let started = tokio::time::Instant::now();
        while let Some(live) = self.reader().get(object).await? {
            if uid.is_some_and(|uid| live.pointer("/metadata/uid") != Some(uid)) {
                break;
            }
            if started.elapsed() > DELETE_TIMEOUT {
                let finalizers = live.pointer("/metadata/finalizers").map_or_else(|| "none".into(), Value::to_string);
                return Err(Error::Rejected {
                    object: object.to_string(),
                    code: 409,
                    message: format!(
                        "still being deleted after {} s (finalizers: {finalizers})",
                        DELETE_TIMEOUT.as_secs()
                    ),
                });
            }
            host.progress(&format!("waiting for {object} to be deleted"));
            host.sleep(POLL).await;
        }
        Ok(())
    }

    /// A kind is served a moment after its definition is established.
    async fn wait_served(&self, host: &dyn WriteHost, object: &ObjectRef) -> Result<()> {
        let started = tokio::time::Instant::now();
        loop {
            match self.reader().resource(&object.api_version, &object.kind).await {
                Ok(_) => return Ok(()),
                Err(Error::UnknownKind { .. }) if started.elapsed() < SERVE_TIMEOUT => {
                    host.progress(&format!("waiting for the kind {} to be served", object.kind));
                    host.sleep(POLL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Objects that carry the label of a manifest and are not in it (any more): what pruning deletes.
///
/// # Errors
/// When the server does not answer.
pub async fn unwanted(reader: &Reader, manifest: &str, desired: &[ObjectRef]) -> Result<Vec<ObjectState>> {
    let mut unwanted = Vec::new();
    for object in reader.owned_by(manifest).await? {
        if desired.iter().any(|wanted| wanted.is_same_object(&object)) || owned::is_kept(&object) {
            continue;
        }
        // The list may be older than what happened since: the object itself decides.
        let Some(live) = reader.get(&object).await? else {
            continue;
        };
        let labelled = live
            .pointer("/metadata/labels")
            .and_then(|labels| labels.get(owned::MANIFEST_LABEL))
            .and_then(Value::as_str);
        if labelled == Some(manifest) && live.pointer("/metadata/deletionTimestamp").is_none() {
            unwanted.push(ObjectState { reference: object, found: Found::Unwanted });
        }
    }
    Ok(unwanted)
}

/// In which order objects are applied: namespaces, definitions of kinds, then the others as they come.
pub fn rank(object: &ObjectRef) -> u8 {
    match (object.group(), object.kind.as_str()) {
        ("", "Namespace") => 0,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => 1,
        _ => 2,
    }
}

/// Nothing of a Job can be changed, and it is over when it has done its work: another one may take its place.
fn is_job(object: &ObjectRef) -> bool {
    object.group() == "batch" && object.kind == "Job"
}

/// Group and kind of everything that `objects` define.
fn defined_kinds(objects: &[Value]) -> Vec<(String, String)> {
    objects
        .iter()
        .filter(|object| object.get("kind").and_then(Value::as_str) == Some("CustomResourceDefinition"))
        .filter_map(|object| {
            let text = |pointer: &str| object.pointer(pointer)?.as_str().map(str::to_owned);
            Some((text("/spec/group")?, text("/spec/names/kind")?))
        })
        .collect()
}

/// The stored version that an answer is about; that of a dry run is the version it started from.
fn version(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/resourceVersion")
}

fn reference_of(desired: &Value) -> Result<ObjectRef> {
    ObjectRef::of(desired).map_err(|error| Error::Rejected {
        object: "manifest".into(),
        code: 400,
        message: error.to_string(),
    })
}
