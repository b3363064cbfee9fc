//! Against a real API server where there is one (see `cluster::testing::real_cluster`); it has no kubelet, so pods do not
//! run, and the tests write the status that kubelet would.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::*;
use crate::cluster::testing::{TestHost, real_cluster};
use crate::cluster::{Reader, Writer, changed_fields};
use crate::diff::Action;
use crate::host::ArtifactPin;
use crate::resources::{AnyResource, BuiltImage, Planned};

/// A project with one template.
struct OneTemplate(String);

impl Resolve for OneTemplate {
    fn template(&mut self, _: &str) -> Result<String> {
        Ok(self.0.clone())
    }

    fn source(&mut self, _: &str) -> Result<Vec<u8>> {
        bail!("no source")
    }

    fn folder(&mut self, _: &str) -> Result<Vec<(String, Vec<u8>)>> {
        bail!("no folder")
    }

    fn artifact(&mut self, _: &str) -> Result<ArtifactPin> {
        bail!("no artifact")
    }

    fn image(&mut self, _: &str) -> Result<BuiltImage> {
        bail!("no image")
    }

    fn image_artifact(&mut self, name: &str) -> anyhow::Result<crate::resources::ImageSource> {
        anyhow::bail!("no image {name}")
    }
}

fn manifest(spec: Value, content: &str) -> Manifest {
    let mut manifest: Manifest = serde_json::from_value(spec).unwrap();
    Resource::resolve(&mut manifest, &mut OneTemplate(content.to_owned())).unwrap();
    manifest
}

fn refused(spec: Value, content: &str) -> String {
    let mut manifest: Manifest = serde_json::from_value(spec).unwrap();
    format!("{:#}", Resource::resolve(&mut manifest, &mut OneTemplate(content.to_owned())).unwrap_err())
}

#[test]
fn forms_and_defaults() {
    let short: Manifest = serde_json::from_value(json!("a/b.yml")).unwrap();
    assert_eq!((short.wait, short.force, short.prune), (300, false, true));
    let error = serde_json::from_value::<Manifest>(json!({"path": "a", "wiat": 1})).err().unwrap();
    assert!(error.to_string().contains("unknown field `wiat`"), "{error}");
}

#[test]
fn the_spec_travels_with_its_content() {
    let manifest = manifest(json!("a.yml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: b}\n");
    let sent = AnyResource::spec(&manifest).unwrap();
    let received: Manifest = serde_json::from_value(sent).unwrap();
    assert_eq!(received.objects().unwrap(), manifest.objects().unwrap());
    let labels = &received.objects().unwrap()[0]["metadata"]["labels"];
    assert_eq!(labels["provision.dev/manifest"], "a.yml");
    assert_eq!(labels["app.kubernetes.io/managed-by"], "provision");
}

#[test]
fn faults_are_found_on_the_controller() {
    assert_eq!(refused(json!("a.yml"), "# nothing\n"), "template a.yml, as rendered, holds no object");
    assert_eq!(
        refused(json!("a.yml"), "apiVersion: v1\nkind: Pod\n"),
        "template a.yml, as rendered: Pod without a name: `metadata.name` is missing"
    );
    assert!(refused(json!({"path": "a.yml", "content": "x"}), "").contains("`content` cannot be given"));
}

#[tokio::test]
async fn without_a_cluster_it_is_pending() {
    let manifest = manifest(json!("a.yml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: b}\n");
    assert_eq!(
        manifest.plan(&TestHost::new()).await.unwrap(),
        Planned::Pending("k3s is not installed yet (no /etc/rancher/k3s/k3s.yaml)".into())
    );
}

/// A namespace of its own in a real cluster, removed at the end.
struct Place {
    host: TestHost,
    reader: Reader,
    namespace: String,
}

impl Place {
    async fn new() -> Option<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let reader = real_cluster().await?;
        let namespace = format!("provision-test-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let host = TestHost::new().cluster(reader.clone());
        Some(Self { host, reader, namespace })
    }

    fn reference(&self, api_version: &str, kind: &str, name: &str) -> ObjectRef {
        ObjectRef::new(api_version, kind, Some(&self.namespace), name)
    }

    fn config_map(&self, name: &str, value: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {ns}}}\ndata: {{k: {value}}}\n",
            ns = self.namespace
        )
    }

    fn in_namespace(&self, rest: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n{rest}", self.namespace)
    }

    fn deployment(&self, replicas: u32) -> String {
        format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: inference, namespace: {ns}}}\nspec:\n  replicas: {replicas}\n  \
             selector: {{matchLabels: {{app: inference}}}}\n  template:\n    metadata: {{labels: {{app: inference}}}}\n    spec:\n      \
             containers:\n      - {{name: serve, image: 'rul:1', imagePullPolicy: Never, resources: {{requests: {{cpu: 0.5, memory: 1024Mi}}}}}}\n",
            ns = self.namespace
        )
    }

    async fn up(&self, manifest: &Manifest) -> Diff {
        let Planned::Change(diff) = manifest.plan(&self.host).await.unwrap() else { panic!("nothing to do") };
        Resource::apply(manifest, &self.host, &diff).await.unwrap();
        assert_eq!(manifest.plan(&self.host).await.unwrap(), Planned::InSync);
        diff
    }

    /// Changes something as another field manager would.
    async fn as_manager(&self, manager: &str, object: &ObjectRef, patch: Value, subresource: Option<&str>) {
        use kube::api::{Api, DynamicObject, Patch, PatchParams};
        let (resource, _) = self.reader.resource(&object.api_version, &object.kind).await.unwrap();
        let api: Api<DynamicObject> = Api::namespaced_with(self.reader.client().clone(), &self.namespace, &resource);
        let params = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
        match subresource {
            Some(name) => {
                api.patch_subresource(name, &object.name, &params, &Patch::Merge(&patch)).await.map(drop).unwrap()
            }
            None => api.patch(&object.name, &params, &Patch::Merge(&patch)).await.map(drop).unwrap(),
        }
    }

    async fn end(self) {
        let namespace = ObjectRef::new("v1", "Namespace", None, &self.namespace);
        Writer::new(self.reader.clone()).delete(&self.host, &namespace).await.unwrap();
    }
}

#[tokio::test]
async fn from_nothing_to_in_sync_and_pruned() {
    let Some(place) = Place::new().await else {
        return;
    };
    let both = place.config_map("a", "one") + &place.config_map("b", "two");
    let spec = json!({"path": format!("{}.yml", place.namespace), "wait": 20});
    let first = manifest(spec.clone(), &place.in_namespace(&both));

    // The namespace is in the same file and does not exist: its objects are planned all the same, and a plan changes nothing.
    let diff = place.up(&first).await;
    assert_eq!(diff.action, Some(Action::Create));
    assert_eq!(diff.changes.len(), 3);

    // Changed by hand, one object removed by hand.
    let a = place.reference("v1", "ConfigMap", "a");
    place.as_manager("kubectl-edit", &a, json!({"data": {"k": "by hand"}}), None).await;
    let writer = Writer::new(place.reader.clone());
    writer.delete(&place.host, &place.reference("v1", "ConfigMap", "b")).await.unwrap();
    let diff = place.up(&first).await;
    let found: Vec<(&str, &str)> =
        diff.changes.iter().map(|change| (change.field.as_str(), change.detail.as_str())).collect();
    assert_eq!(
        found,
        [
            (a.to_string().as_str(), "data.k: by hand -> one"),
            (format!("ConfigMap {}/b", place.namespace).as_str(), "create")
        ]
    );

    // Taken out of the file: deleted, also by a process that was not there when it was made.
    let later = place.in_namespace(&place.config_map("a", "one"));
    let fresh = Place {
        reader: real_cluster().await.unwrap(),
        host: TestHost::new().cluster(real_cluster().await.unwrap()),
        namespace: place.namespace.clone(),
    };
    let keep = manifest(json!({"path": format!("{}.yml", place.namespace), "prune": false}), &later);
    assert_eq!(keep.plan(&fresh.host).await.unwrap(), Planned::InSync);
    let diff = fresh.up(&manifest(spec.clone(), &later)).await;
    assert_eq!(diff.action, Some(Action::Delete));
    assert_eq!(diff.changes[0].detail, "delete (no longer in the manifest)");

    // The namespace is taken out of the file: kept, with what is in it.
    let without = manifest(spec, &place.config_map("a", "one"));
    assert_eq!(without.plan(&fresh.host).await.unwrap(), Planned::InSync);
    place.end().await;
}

#[tokio::test]
async fn a_person_is_overruled_and_a_controller_is_not() {
    let Some(place) = Place::new().await else {
        return;
    };
    let content = place.in_namespace(&place.deployment(1));
    let spec = |force: bool| json!({"path": format!("{}.yml", place.namespace), "wait": 0, "force": force});
    let careful = manifest(spec(false), &content);
    place.up(&careful).await;

    let deployment = place.reference("apps/v1", "Deployment", "inference");
    place.as_manager("kubectl", &deployment, json!({"spec": {"replicas": 3}}), Some("scale")).await;
    let diff = place.up(&careful).await;
    assert_eq!(diff.changes[0].detail, "spec.replicas: 3 -> 1");

    place.as_manager("my-autoscaler", &deployment, json!({"spec": {"replicas": 4}}), Some("scale")).await;
    let error = format!("{:#}", careful.plan(&place.host).await.unwrap_err());
    assert!(error.contains("spec.replicas is owned by \"my-autoscaler\""), "{error}");
    assert!(error.contains("`force: true`"), "{error}");
    let diff = place.up(&manifest(spec(true), &content)).await;
    assert_eq!(diff.changes[0].detail, "spec.replicas: 4 -> 1");

    // What the template does not speak of is nobody's business here.
    place.as_manager("kubectl-annotate", &deployment, json!({"metadata": {"annotations": {"note": "x"}}}), None).await;
    assert_eq!(careful.plan(&place.host).await.unwrap(), Planned::InSync);

    // A selector cannot be changed: the error says what to do.
    let other = content.replace("app: inference", "app: other");
    let error = format!("{:#}", manifest(spec(false), &other).plan(&place.host).await.unwrap_err());
    assert!(error.contains(&format!("k3s kubectl delete deployment inference -n {}", place.namespace)), "{error}");
    // A field that does not exist.
    let typo = content.replace("replicas: 1", "replcas: 1");
    let error = format!("{:#}", manifest(spec(false), &typo).plan(&place.host).await.unwrap_err());
    assert!(error.contains(".spec.replcas"), "{error}");
    place.end().await;
}

#[tokio::test]
async fn a_kind_and_its_objects_in_one_file() {
    let Some(place) = Place::new().await else {
        return;
    };
    let group = format!("{}.example.dev", place.namespace);
    let content = format!(
        "apiVersion: {group}/v1\nkind: Widget\nmetadata: {{name: w}}\nspec: {{size: 3}}\n---\n{}---\n\
         apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: widgets.{group}}}\nspec:\n  group: {group}\n  \
         names: {{kind: Widget, plural: widgets}}\n  scope: Namespaced\n  versions:\n  - name: v1\n    served: true\n    storage: true\n    \
         schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {{size: {{type: integer}}}}}}}}}}}}\n",
        place.in_namespace("")
    );
    let spec = json!({"path": format!("{}.yml", place.namespace), "namespace": place.namespace, "wait": 20});
    let diff = place.up(&manifest(spec.clone(), &content)).await;
    let order: Vec<&str> = diff.changes.iter().map(|c| c.field.split(' ').next().unwrap()).collect();
    assert_eq!(order, ["Namespace", "CustomResourceDefinition", "Widget"]);

    // A kind that nothing defines is not an error of the plan: another stage may bring it.
    let unknown = content.replace("kind: Widget\nmetadata: {name: w}", "kind: Gadget\nmetadata: {name: w}");
    let planned = manifest(spec, &unknown).plan(&place.host).await.unwrap();
    assert!(matches!(&planned, Planned::Pending(why) if why.contains("serves no kind Gadget")), "{planned:?}");
    let definition =
        ObjectRef::new("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, &format!("widgets.{group}"));
    Writer::new(place.reader.clone()).delete(&place.host, &definition).await.unwrap();
    place.end().await;
}

#[tokio::test]
async fn what_cannot_start_ends_the_wait_at_once() {
    let Some(place) = Place::new().await else {
        return;
    };
    let content = place.in_namespace(&place.deployment(1));
    let spec = json!({"path": format!("{}.yml", place.namespace), "wait": 60});
    let hopeless = manifest(spec, &content);
    let Planned::Change(diff) = hopeless.plan(&place.host).await.unwrap() else { panic!("nothing to do") };
    // Where no kubelet runs, this test is the kubelet of the one pod.
    let kubelet = async {
        let pod = loop {
            let pods =
                place.reader.list("v1", "Pod", Some(&place.namespace), "app=inference").await.unwrap_or_default();
            if let Some(pod) = pods.into_iter().next() {
                break pod;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let pod = ObjectRef::of(&pod).unwrap();
        let status = json!({"status": {"phase": "Pending", "containerStatuses": [{
            "name": "serve", "image": "rul:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImageNeverPull",
                "message": "Container image \"rul:1\" is not present with pull policy of Never"}}}]}});
        place.as_manager("kubelet", &pod, status, Some("status")).await;
    };
    let started = std::time::Instant::now();
    let (applied, ()) = tokio::join!(Resource::apply(&hopeless, &place.host, &diff), kubelet);
    let error = format!("{:#}", applied.unwrap_err());
    assert!(started.elapsed() < Duration::from_secs(20), "{error}");
    assert!(
        error.starts_with(&format!("Deployment {}/inference cannot become ready: 0 of 1", place.namespace)),
        "{error}"
    );
    assert!(error.contains("container serve: ErrImageNeverPull: Container image \"rul:1\" is not present"), "{error}");
    assert!(
        place.host.progress_texts().iter().any(|text| text.starts_with("waiting for Deployment")),
        "{:?}",
        place.host.progress_texts()
    );
    // It exists and matches, so there is nothing to change; that it never became ready is not forgotten.
    assert_eq!(hopeless.plan(&place.host).await.unwrap(), Planned::InSync);
    let error = format!("{:#}", Resource::settle(&hopeless, &place.host).await.unwrap_err());
    assert!(error.contains("cannot become ready"), "{error}");
    let patient = manifest(json!({"path": format!("{}.yml", place.namespace), "wait": 0}), &content);
    Resource::settle(&patient, &place.host).await.unwrap();
    place.end().await;
}

#[tokio::test]
async fn a_job_that_failed_is_run_again() {
    let Some(place) = Place::new().await else {
        return;
    };
    let job = format!(
        "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: migrate, namespace: {ns}}}\nspec:\n  activeDeadlineSeconds: 1\n  \
         template:\n    spec:\n      restartPolicy: Never\n      containers:\n      - {{name: once, image: 'nowhere:1', imagePullPolicy: Never}}\n",
        ns = place.namespace
    );
    let manifest_of = |place: &Place, wait: u32, content: &str| {
        manifest(json!({"path": format!("{}.yml", place.namespace), "wait": wait}), &place.in_namespace(content))
    };
    let manifest = manifest_of(&place, 60, &job);
    let Planned::Change(diff) = manifest.plan(&place.host).await.unwrap() else { panic!("nothing to do") };
    Resource::apply(&manifest, &place.host, &diff).await.unwrap_err();
    let reference = place.reference("batch/v1", "Job", "migrate");
    let failed = async || loop {
        let job = place.reader.get(&reference).await.unwrap().unwrap();
        if crate::cluster::failed_job(&job).is_some() {
            break job["metadata"]["uid"].clone();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let first = failed().await;

    let Planned::Change(diff) = manifest.plan(&place.host).await.unwrap() else { panic!("the failure is forgotten") };
    assert_eq!(diff.changes.len(), 1, "{diff:?}");
    assert_eq!(diff.changes[0].field, reference.to_string());
    assert_eq!(diff.changes[0].detail, "failed (Job was active longer than specified deadline): is run again");
    Resource::apply(&manifest, &place.host, &diff).await.unwrap_err();
    let second = failed().await;
    assert_ne!(second, first);

    // Another Job of the same name: nothing of a Job can be changed.
    let job = job.replace("nowhere:1", "nowhere:2").replace("Seconds: 1", "Seconds: 600");
    let diff = place.up(&manifest_of(&place, 0, &job)).await;
    let lines: Vec<&str> = diff.changes[0].detail.lines().collect();
    assert_eq!(
        lines,
        [
            "is replaced and run again",
            "spec.activeDeadlineSeconds: 1 -> 600",
            "spec.template.spec.containers[once].image: nowhere:1 -> nowhere:2"
        ]
    );
    assert_ne!(place.reader.get(&reference).await.unwrap().unwrap()["metadata"]["uid"], second);
    place.end().await;
}

#[tokio::test]
async fn secrets_are_repaired_and_never_shown() {
    use crate::resources::namespace::Namespace;
    use crate::resources::secret::Secret;
    let Some(place) = Place::new().await else {
        return;
    };
    let secret: Secret = serde_json::from_value(json!({
        "name": "creds", "namespace": place.namespace, "data": {"PASSWORD": "canary-1", "USER": "canary-2"}
    }))
    .unwrap();
    // The namespace does not exist yet: a secret in it is still only to be created.
    let Planned::Change(diff) = secret.plan(&place.host).await.unwrap() else { panic!("nothing to do") };
    assert_eq!(diff.action, Some(Action::Create));
    let namespace: Namespace = serde_json::from_value(json!(place.namespace)).unwrap();
    let Planned::Change(made) = namespace.plan(&place.host).await.unwrap() else { panic!("nothing to do") };
    Resource::apply(&namespace, &place.host, &made).await.unwrap();
    assert_eq!(namespace.plan(&place.host).await.unwrap(), Planned::InSync);
    Resource::apply(&secret, &place.host, &diff).await.unwrap();
    assert_eq!(secret.plan(&place.host).await.unwrap(), Planned::InSync);

    let creds = place.reference("v1", "Secret", "creds");
    place.as_manager("kubectl-patch", &creds, json!({"data": {"PASSWORD": "Y2FuYXJ5LTM="}}), None).await;
    let Planned::Change(diff) = secret.plan(&place.host).await.unwrap() else { panic!("nothing to do") };
    assert_eq!(diff.changes[0].detail, "data.PASSWORD: ••• (changed)");
    Resource::apply(&secret, &place.host, &diff).await.unwrap();
    let live = place.reader.get(&creds).await.unwrap().unwrap();
    assert_eq!(live["data"], json!({"PASSWORD": "Y2FuYXJ5LTE=", "USER": "Y2FuYXJ5LTI="}));

    // A key that is taken out of the spec is taken out of the cluster.
    let fewer: Secret = serde_json::from_value(json!({
        "name": "creds", "namespace": place.namespace, "data": {"PASSWORD": "canary-1"}
    }))
    .unwrap();
    let Planned::Change(diff) = fewer.plan(&place.host).await.unwrap() else { panic!("nothing to do") };
    assert_eq!(diff.changes[0].detail, "data.USER: ••• (removed)");
    Resource::apply(&fewer, &place.host, &diff).await.unwrap();
    assert_eq!(fewer.plan(&place.host).await.unwrap(), Planned::InSync);
    place.end().await;
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let Some(place) = Place::new().await else {
        return;
    };
    let spec = json!({"path": format!("{}.yml", place.namespace), "wait": 0});
    place.up(&manifest(spec.clone(), &place.in_namespace(&place.config_map("a", "one")))).await;
    let a = place.reference("v1", "ConfigMap", "a");
    let before = place.reader.get(&a).await.unwrap().unwrap();
    let changed = place.in_namespace(&(place.config_map("a", "two") + &place.config_map("b", "x")));
    for _ in 0..2 {
        let Planned::Change(diff) = manifest(spec.clone(), &changed).plan(&place.host).await.unwrap() else {
            panic!("nothing to do")
        };
        assert_eq!(diff.changes.len(), 2);
    }
    let after = place.reader.get(&a).await.unwrap().unwrap();
    assert_eq!(before, after);
    assert!(changed_fields(&before, &after).is_empty());
    assert_eq!(place.reader.get(&place.reference("v1", "ConfigMap", "b")).await.unwrap(), None);
    place.end().await;
}

#[tokio::test]
async fn a_controller_that_writes_meanwhile_is_no_difference() {
    let Some(place) = Place::new().await else {
        return;
    };
    let spec = json!({"path": format!("{}.yml", place.namespace), "wait": 0});
    let manifest = manifest(spec, &place.in_namespace(&place.config_map("a", "one")));
    place.up(&manifest).await;
    let a = place.reference("v1", "ConfigMap", "a");
    let controller = async {
        for i in 0.. {
            let patch = json!({"metadata": {"annotations": {"revision": i.to_string()}}});
            place.as_manager("some-controller", &a, patch, None).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let plans = async {
        for _ in 0..100 {
            assert_eq!(manifest.plan(&place.host).await.unwrap(), Planned::InSync);
        }
    };
    tokio::select! { () = controller => {}, () = plans => {} }
    place.end().await;
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_is_made_again() {
    use crate::resources::namespace::Namespace;
    let Some(place) = Place::new().await else {
        return;
    };
    let spec = json!({"path": format!("{}.yml", place.namespace), "wait": 0});
    let inside = manifest(spec, &place.config_map("a", "one"));
    let namespace: Namespace = serde_json::from_value(json!(place.namespace)).unwrap();
    let make = |diff: Diff| {
        let (namespace, host) = (&namespace, &place.host);
        async move { Resource::apply(namespace, host, &diff).await.unwrap() }
    };
    let Planned::Change(diff) = namespace.plan(&place.host).await.unwrap() else { panic!("nothing to do") };
    make(diff).await;
    place.up(&inside).await;

    // As `kubectl delete namespace` in another window, with something that takes its time to go.
    let a = place.reference("v1", "ConfigMap", "a");
    let held = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    place.as_manager("holder", &a, held(json!(["example.dev/hold"])), None).await;
    let object = ObjectRef::new("v1", "Namespace", None, &place.namespace);
    let (writer, host) = (Writer::new(place.reader.clone()), &place.host);
    let deleting = async { writer.delete(host, &object).await.unwrap() };
    let repairing = async {
        let diff = loop {
            match namespace.plan(&place.host).await.unwrap() {
                Planned::Change(diff) => break diff,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        assert_eq!(diff.changes[0].detail, "create, once the one that is being deleted is gone");
        let lost = loop {
            match inside.plan(&place.host).await.unwrap() {
                Planned::Change(diff) => break diff,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        assert_eq!(lost.action, Some(Action::Create));
        place.as_manager("holder", &a, held(Value::Null), None).await;
        make(diff).await;
    };
    tokio::join!(deleting, repairing);
    place.up(&inside).await;
    place.end().await;
}
