//! What can go wrong with a request to the API server, in the words of the user.

use std::error::Error as StdError;
use std::fmt;

use kube::core::Status;

use super::object::ObjectRef;

/// A request to the API server failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No answer: refused, timed out, or the server is shutting down.
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
    /// The kind is not served: its CustomResourceDefinition is missing.
    #[error("the cluster serves no kind {kind} ({api_version}): the stage that installs it must run first")]
    UnknownKind { api_version: String, kind: String },
    /// The namespace of the object does not exist, or is being deleted.
    #[error("{object}: namespace {namespace:?} does not exist (any more): declare `namespace: {namespace}` before it")]
    NamespaceMissing { object: String, namespace: String },
    /// Another field manager owns fields that the object wants to set.
    #[error(transparent)]
    Conflict(Conflict),
    /// A field that cannot be changed differs.
    #[error(
        "{object}: {message}\n  hint: this cannot be changed in place; delete it (`k3s kubectl delete {hint}`) and run again"
    )]
    Immutable { object: String, message: String, hint: String },
    /// The server refused the request.
    #[error("{object}: {message}")]
    Rejected {
        object: String,
        /// HTTP status.
        code: u16,
        message: String,
    },
}

/// Shorthand of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether waiting or starting the server may help.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// What `error` means for a request about `object`.
    pub(super) fn about(object: &ObjectRef, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(object, &status),
            other => Self::from_transport(&other),
        }
    }

    /// What `error` means for a request about no object in particular.
    pub(super) fn about_server(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if overloaded(status.code) => Self::Unreachable(describe(status)),
            kube::Error::Api(status) => {
                Self::Rejected { object: "the API server".into(), code: status.code, message: describe(status) }
            }
            other => Self::from_transport(other),
        }
    }

    fn from_transport(error: &kube::Error) -> Self {
        Self::Unreachable(root_cause(error))
    }

    fn from_status(object: &ObjectRef, status: &Status) -> Self {
        let text = object.to_string();
        let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
        if overloaded(status.code) {
            return Self::Unreachable(describe(status));
        }
        if status.code == 409 && causes.iter().any(|c| c.reason == "FieldManagerConflict") {
            let fields = causes
                .iter()
                .map(|cause| ContestedField {
                    field: cause.field.trim_start_matches('.').to_owned(),
                    manager: quoted(&cause.message).unwrap_or(&cause.message).to_owned(),
                })
                .collect();
            return Self::Conflict(Conflict { object: text, fields });
        }
        if status.code == 404
            && let Some(details) = &status.details
            && details.kind == "namespaces"
        {
            return Self::NamespaceMissing { object: text, namespace: details.name.clone() };
        }
        if status.code == 403 && causes.iter().any(|c| c.reason == "NamespaceTerminating") {
            return Self::NamespaceMissing { object: text, namespace: object.namespace.clone().unwrap_or_default() };
        }
        if status.code == 422 && status.message.contains("immutable") {
            let message = fields_and_reasons(causes).unwrap_or_else(|| describe(status));
            return Self::Immutable { object: text, message, hint: object.kubectl_words() };
        }
        Self::Rejected { object: text, code: status.code, message: describe(status) }
    }
}

/// The server answers, but only that it cannot answer now.
fn overloaded(code: u16) -> bool {
    matches!(code, 429 | 503 | 504)
}

fn describe(status: &Status) -> String {
    let message = status.message.trim();
    if message.is_empty() { format!("HTTP status {} {}", status.code, status.reason) } else { message.to_owned() }
}

/// `spec.template: field is immutable`, without the values between, which may be a whole pod.
fn fields_and_reasons(causes: &[kube::core::response::StatusCause]) -> Option<String> {
    let reason = |message: &str| message.rsplit_once(": ").map_or(message, |(_, reason)| reason).to_owned();
    let lines: Vec<String> = causes
        .iter()
        .map(|cause| format!("{}: {}", cause.field.trim_start_matches('.'), reason(&cause.message)))
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// The innermost error: `Connection refused (os error 111)` instead of four wrappings of it.
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// `kubectl-edit` of `conflict with "kubectl-edit" using apps/v1`.
fn quoted(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('"')?;
    rest.split_once('"').map(|(inner, _)| inner)
}

/// Fields that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// `Deployment mlops/inference`.
    pub object: String,
    pub fields: Vec<ContestedField>,
}

/// One field and who owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContestedField {
    /// `spec.replicas`.
    pub field: String,
    /// `kubectl-edit`.
    pub manager: String,
}

impl Conflict {
    /// Whether every owner is a person at a terminal: what the manifest says then goes before what was typed.
    ///
    /// Such owners are `kubectl` in all its forms (edit, scale, patch, set, apply on the client's side) and `k9s`. A
    /// controller, an autoscaler or an operator is never among them.
    pub fn by_hand(&self) -> bool {
        self.fields.iter().all(|field| {
            let manager = field.manager.as_str();
            manager == "kubectl" || manager.starts_with("kubectl-") || manager == "k9s"
        })
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        for (i, field) in self.fields.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{} is owned by {:?}", field.field, field.manager)?;
        }
        f.write_str("\n  hint: leave the field out of the template, or take it over with `force: true` on the manifest")
    }
}

impl StdError for Conflict {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> ObjectRef {
        ObjectRef::new("apps/v1", "Deployment", Some("mlops"), "inference")
    }

    fn error(status: serde_json::Value) -> Error {
        let status: Status = serde_json::from_value(status).unwrap();
        Error::about(&deployment(), kube::Error::Api(status.boxed()))
    }

    fn conflict(manager: &str) -> Error {
        error(json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "Conflict",
            "message": format!("Apply failed with 1 conflict: conflict with {manager:?} using apps/v1: .spec.replicas"),
            "details": {"causes": [{
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {manager:?} using apps/v1"),
                "field": ".spec.replicas"
            }]}
        }))
    }

    #[test]
    fn a_conflict_names_the_manager_the_field_and_the_way_out() {
        let error = conflict("horizontal-pod-autoscaler");
        assert_eq!(
            error.to_string(),
            "Deployment mlops/inference: spec.replicas is owned by \"horizontal-pod-autoscaler\"\n  hint: leave the \
             field out of the template, or take it over with `force: true` on the manifest"
        );
        let Error::Conflict(conflict) = error else { panic!("not a conflict") };
        assert!(!conflict.by_hand());
    }

    #[test]
    fn kubectl_is_a_person_and_a_name_that_only_looks_like_it_is_not() {
        for (manager, expected) in [
            ("kubectl", true),
            ("kubectl-edit", true),
            ("kubectl-client-side-apply", true),
            ("k9s", true),
            ("kubectlish-operator", false),
            ("kube-controller-manager", false),
        ] {
            let Error::Conflict(conflict) = conflict(manager) else { panic!("not a conflict") };
            assert_eq!(conflict.by_hand(), expected, "{manager}");
        }
    }

    #[test]
    fn a_missing_namespace_is_told_from_a_missing_object() {
        let missing = error(json!({
            "status": "Failure", "code": 404, "reason": "NotFound", "message": "namespaces \"mlops\" not found",
            "details": {"name": "mlops", "kind": "namespaces"}
        }));
        assert_eq!(
            missing.to_string(),
            "Deployment mlops/inference: namespace \"mlops\" does not exist (any more): declare `namespace: mlops` before it"
        );
        let terminating = error(json!({
            "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "configmaps \"a\" is forbidden: unable to create new content in namespace mlops because it is being terminated",
            "details": {"name": "a", "kind": "configmaps", "causes": [
                {"reason": "NamespaceTerminating", "message": "namespace mlops is being terminated", "field": "metadata.namespace"}]}
        }));
        assert!(matches!(terminating, Error::NamespaceMissing { namespace, .. } if namespace == "mlops"));
    }

    #[test]
    fn a_whole_pod_is_not_shown_for_one_field() {
        let pod = format!("{{\"labels\":{{\"app\":\"x\"}},\"Spec\":{:?}}}", "y: z".repeat(1000));
        let immutable = error(json!({
            "kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid",
            "message": format!("Job.batch \"migrate\" is invalid: spec.template: Invalid value: {pod}: field is immutable"),
            "details": {"causes": [{"reason": "FieldValueInvalid", "field": "spec.template",
                "message": format!("Invalid value: {pod}: field is immutable")}]}
        }));
        let text = immutable.to_string();
        assert!(text.starts_with("Deployment mlops/inference: spec.template: field is immutable\n"), "{text}");
    }

    #[test]
    fn an_immutable_field_says_what_to_delete() {
        let immutable = error(json!({
            "status": "Failure", "code": 422, "reason": "Invalid",
            "message": "Deployment.apps \"inference\" is invalid: spec.selector: Invalid value: {}: field is immutable"
        }));
        assert!(
            immutable.to_string().ends_with("(`k3s kubectl delete deployment inference -n mlops`) and run again"),
            "{immutable}"
        );
    }

    #[test]
    fn a_busy_server_is_worth_waiting_for() {
        let busy =
            error(json!({"status": "Failure", "code": 503, "reason": "ServiceUnavailable", "message": "starting"}));
        assert!(busy.is_unreachable());
        let refused = error(json!({"status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"}));
        assert!(!refused.is_unreachable());
    }
}
