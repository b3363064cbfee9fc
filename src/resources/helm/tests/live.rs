use super::*;
use crate::cluster::Takeover;
use crate::cluster::helm::Status;

const DEPLOYMENT: (&str, &str, &str) = ("apps/v1", "Deployment", "demo");

/// A namespace of its own in a real cluster, a Helm, and a host that is this machine with other files.
struct Place {
    rooted: Rooted,
    reader: Reader,
    namespace: String,
    program: PathBuf,
}

impl Place {
    async fn new(major: u32) -> Option<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let reader = real_cluster().await?;
        let program = helm_program(major)?;
        let rooted = Rooted::new();
        let kubeconfig = std::fs::read(std::env::var("PROVISION_TEST_KUBECONFIG").unwrap()).unwrap();
        let file = rooted.path(KUBECONFIG);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, kubeconfig).unwrap();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("provision-helm-{}-{number}", std::process::id());
        Some(Self { rooted, reader, namespace, program })
    }

    fn spec(&self, values: Value) -> Value {
        let mut all = json!({"password": "canary-1"});
        all.as_object_mut().unwrap().extend(values.as_object().unwrap().clone());
        json!({
            "release": "demo", "namespace": self.namespace, "create_namespace": true, "chart": {"path": "charts/demo"},
            "values": all, "wait": 60, "timeout": 60, "helm": self.program
        })
    }

    fn helm(&self, values: Value) -> Helm {
        resolved(self.spec(values))
    }

    /// The changes as `field: detail`, without the namespace's name. The plan leaves nothing behind.
    async fn plan(&self, helm: &Helm) -> (Diff, Vec<String>) {
        let before = self.rooted.tree();
        let planned = helm.plan(&self.rooted.host).await.unwrap();
        assert_eq!(self.rooted.tree(), before);
        let diff = match planned {
            Planned::Change(diff) => diff,
            Planned::InSync => Diff::none(),
            Planned::Pending(reason) => panic!("pending: {reason}"),
        };
        let lines = diff.changes.iter().map(|change| format!("{}: {}", change.field, change.detail));
        let lines: Vec<String> = lines.map(|line| line.replace(&self.namespace, "NS")).collect();
        assert!(!lines.iter().any(|line| line.contains("canary")), "{lines:?}");
        (diff, lines)
    }

    /// Plans, applies as the agent would, and plans again: nothing is left to do.
    async fn up(&self, helm: &Helm) -> Vec<String> {
        let (diff, lines) = self.plan(helm).await;
        let sent: Helm = serde_json::from_value(AnyResource::spec(helm).unwrap()).unwrap();
        Resource::apply(&sent, &self.rooted.host, &diff).await.unwrap();
        assert_eq!(self.plan(helm).await.1, Vec::<String>::new());
        lines
    }

    async fn fails(&self, helm: &Helm) -> String {
        let (diff, _) = self.plan(helm).await;
        let error = Resource::apply(helm, &self.rooted.host, &diff).await.unwrap_err();
        format!("{error:#}").replace(&self.namespace, "NS")
    }

    async fn live(&self, api_version: &str, kind: &str, name: &str) -> Option<Value> {
        self.reader.get(&ObjectRef::new(api_version, kind, Some(&self.namespace), name)).await.unwrap()
    }

    async fn latest(&self) -> Option<(u64, Status)> {
        let history = self.reader.helm_history(&self.namespace, "demo").await.unwrap();
        history.latest().map(|latest| (latest.number, latest.status))
    }

    /// As somebody who works by hand.
    async fn patch(&self, (api_version, kind, name): (&str, &str, &str), patch: Value) {
        use kube::api::{Api, DynamicObject, Patch, PatchParams};
        let (resource, _) = self.reader.resource(api_version, kind).await.unwrap();
        let api: Api<DynamicObject> = Api::namespaced_with(self.reader.client().clone(), &self.namespace, &resource);
        let params = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
        api.patch(name, &params, &Patch::Merge(&patch)).await.unwrap();
    }

    /// Helm as this program would start it; without its labels, as somebody on another machine would.
    fn command(&self, given: &super::look::Given, labels: Option<String>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["upgrade", "--install", "demo"])
            .args(given.chart.arguments())
            .args(["--namespace", &self.namespace, "--create-namespace", "--values", &given.values.path()])
            .args(labels.map(|labels| format!("--labels={labels}")))
            .env("KUBECONFIG", given.kubeconfig.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs Helm to its end, and nothing after it: as when the agent is killed then.
    async fn cut_off_after_helm(&self, helm: &Helm) {
        let given = helm.given(&self.rooted.host).await.unwrap();
        self.command(&given, Some(helm.labels())).status().unwrap();
    }

    /// Starts the change and kills Helm in the middle of it, as a crash would.
    async fn killed(&self, helm: &Helm, expected: Status, labels: Option<String>) {
        let given = helm.given(&self.rooted.host).await.unwrap();
        let mut child = self.command(&given, labels).spawn().unwrap();
        let job = || self.live("batch/v1", "Job", "demo-hold");
        while self.latest().await.is_none_or(|(_, status)| status != expected) || job().await.is_none() {
            assert!(child.try_wait().unwrap().is_none(), "helm ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // It is at work: nobody else may be.
        let error = format!("{:#}", helm.plan(&self.rooted_with_processes(child.id())).await.unwrap_err());
        assert!(error.contains(&format!("process {} is at work on it", child.id())), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir_all(self.rooted.path("/proc")).unwrap();
    }

    /// The host with the entry of one process of this machine.
    fn rooted_with_processes(&self, id: u32) -> crate::host::RealHost {
        let folder = self.rooted.path(&format!("/proc/{id}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(format!("/proc/{id}/cmdline"), folder.join("cmdline")).unwrap();
        self.rooted.host.clone()
    }

    fn uninstall(&self) {
        let kubeconfig = self.rooted.path(KUBECONFIG);
        let words = ["uninstall", "demo", "--namespace", &self.namespace];
        let done = Command::new(&self.program).args(words).env("KUBECONFIG", kubeconfig).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    async fn end(self) {
        let events = self.rooted.events.lock().unwrap().clone();
        let said = |event: &HostEvent| format!("{event:?}");
        assert!(!events.iter().any(|event| said(event).contains("canary")), "{events:?}");
        let namespace = ObjectRef::new("v1", "Namespace", None, &self.namespace);
        Writer::new(self.reader.clone()).delete(&self.rooted.host, &namespace).await.unwrap();
    }
}

fn not_seen_ready(number: u64) -> String {
    format!("readiness: revision {number} is deployed, but was not seen ready: is waited for")
}

async fn lifecycle(major: u32) {
    let Some(place) = Place::new(major).await else { return };
    let first = place.helm(json!({}));
    let lines = place.up(&first).await;
    assert_eq!(
        lines,
        [
            "namespace: create NS".to_owned(),
            format!("release: install demo 0.1.0 with Helm {}", if major == 3 { "v3.22.0" } else { "v4.3.1" }),
            "Secret NS/demo: create".into(),
            "ConfigMap NS/demo: create".into(),
            "Deployment NS/demo: create".into(),
        ]
    );
    assert_eq!(place.latest().await, Some((1, Status::Deployed)));

    // A value.
    let two = place.helm(json!({"replicas": 2, "extra": true}));
    let lines = place.up(&two).await;
    assert_eq!(
        lines,
        [
            "values.replicas: (not given) -> 2",
            "values.extra: (not given) -> true",
            "ConfigMap NS/demo-extra: create",
            "Deployment NS/demo: spec.replicas: 1 -> 2"
        ]
    );

    // Something that the chart no longer makes, and a secret.
    let other = place.helm(json!({"replicas": 2, "extra": false, "password": "canary-2"}));
    assert_eq!(
        place.up(&other).await,
        [
            "values.extra: true -> false",
            "values.password: ••• (changed)",
            "Secret NS/demo: data.password: ••• (changed)",
            "ConfigMap NS/demo-extra: delete (no longer in the manifest)"
        ]
    );
    assert_eq!(place.live("v1", "ConfigMap", "demo-extra").await, None);

    // By hand.
    place.patch(DEPLOYMENT, json!({"spec": {"replicas": 3}})).await;
    assert_eq!(place.up(&other).await, ["Deployment NS/demo: spec.replicas: 3 -> 2"]);

    // An upgrade that cannot start: the reason, and back.
    let (before, _) = place.latest().await.unwrap();
    let broken = place.helm(json!({"replicas": 2, "password": "canary-2", "image": "docker.io/library/nope:1"}));
    let error = place.fails(&broken).await;
    assert!(error.starts_with("release NS/demo: Deployment NS/demo cannot become ready: "), "{error}");
    assert!(error.contains("container main: ErrImageNeverPull: "), "{error}");
    assert!(error.ends_with(&format!("went back to revision {before} (demo 0.1.0), which is ready")), "{error}");
    assert_eq!(place.latest().await, Some((before + 2, Status::Deployed)));
    let progress = place.rooted.events.lock().unwrap().clone();
    let at = |text: &str| {
        progress.iter().rposition(|event| matches!(event, HostEvent::Progress(line) if line.contains(text))).unwrap()
    };
    assert!(at("ErrImageNeverPull") < at("helm rollback"), "{progress:?}");
    assert_eq!(place.plan(&other).await.1, Vec::<String>::new());
    assert_eq!(place.plan(&broken).await.1.len(), 3);

    // The same, but nobody was there to see that it cannot start: the next run waits, and goes back.
    let (before, _) = place.latest().await.unwrap();
    place.cut_off_after_helm(&broken).await;
    assert_eq!(place.latest().await, Some((before + 1, Status::Deployed)));
    assert_eq!(place.plan(&broken).await.1, [not_seen_ready(before + 1)]);
    let error = place.fails(&broken).await;
    assert!(error.starts_with("release NS/demo: Deployment NS/demo cannot become ready: "), "{error}");
    assert!(error.ends_with(&format!("went back to revision {before} (demo 0.1.0), which is ready")), "{error}");
    assert_eq!(place.latest().await, Some((before + 2, Status::Deployed)));
    assert_eq!(place.plan(&other).await.1, Vec::<String>::new());

    // A hook that fails: what it printed.
    let (before, _) = place.latest().await.unwrap();
    let checked = place.helm(json!({"replicas": 2, "password": "canary-2", "check": true}));
    let error = place.fails(&checked).await;
    assert!(error.contains("Job NS/demo-check: ") && error.contains("no such table"), "{error}");
    assert!(error.ends_with(&format!("went back to revision {before} (demo 0.1.0), which is ready")), "{error}");

    // The same, but nobody was there to go back: the next run tries again, and does.
    let (before, _) = place.latest().await.unwrap();
    place.cut_off_after_helm(&checked).await;
    assert_eq!(place.latest().await, Some((before + 1, Status::Failed)));
    let lines = place.plan(&checked).await.1;
    assert!(lines[0].starts_with("release: failed since 20"), "{lines:?}");
    assert_eq!(lines[1..], ["values.extra: false -> (not given)", "values.check: (not given) -> true"]);
    let error = place.fails(&checked).await;
    assert!(error.ends_with(&format!("went back to revision {before} (demo 0.1.0), which is ready")), "{error}");

    // Killed in the middle of an upgrade.
    let held = place.helm(json!({"replicas": 1, "hold": true}));
    let (good, _) = place.latest().await.unwrap();
    place.killed(&held, Status::PendingUpgrade, Some(held.labels())).await;
    let lines = place.up(&other).await;
    assert!(lines[0].starts_with("release: pending-upgrade since 20"), "{lines:?}");
    assert!(
        lines[0].ends_with(&format!(
            "(revision {}), left by a helm that was ended: goes back to revision {good} first",
            good + 1
        )),
        "{lines:?}"
    );
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_changed_broken_and_killed_with_helm_4() {
    lifecycle(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_changed_broken_and_killed_with_helm_3() {
    lifecycle(3).await;
}

async fn first_install(major: u32) {
    let Some(place) = Place::new(major).await else { return };
    let held = place.helm(json!({"hold": true}));
    // Somebody else's, on another machine for all that is known here: it has its time.
    place.killed(&held, Status::PendingInstall, None).await;
    let error = format!("{:#}", held.plan(&place.rooted.host).await.unwrap_err());
    assert!(error.contains("is pending-install since 20") && error.contains("on another machine"), "{error}");
    let mut impatient = place.spec(json!({"hold": true}));
    impatient["timeout"] = json!(1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (_, lines) = place.plan(&resolved(impatient)).await;
    assert!(lines[0].ends_with("(revision 1), left by a helm that was ended: is uninstalled first"), "{lines:?}");
    place.uninstall();
    // Killed in the middle.
    place.killed(&held, Status::PendingInstall, Some(held.labels())).await;
    let broken = json!({"image": "docker.io/library/nope:1"});
    let (_, lines) = place.plan(&place.helm(broken.clone())).await;
    assert!(lines[0].ends_with("(revision 1), left by a helm that was ended: is uninstalled first"), "{lines:?}");

    // It fails: what there is to see stays.
    let error = place.fails(&place.helm(broken.clone())).await;
    assert!(error.contains("ErrImageNeverPull"), "{error}");
    let left = "it was left as it is, to be looked at: `helm status demo -n NS --kubeconfig /etc/rancher/k3s/k3s.yaml`; \
                the next `up` tries again";
    assert!(error.ends_with(left), "{error}");
    assert!(place.live("apps/v1", "Deployment", "demo").await.is_some());
    // It is not ready the second time either; there is nothing to upgrade.
    assert_eq!(place.plan(&place.helm(broken.clone())).await.1, [not_seen_ready(1)]);
    let error = place.fails(&place.helm(broken.clone())).await;
    assert!(error.contains("ErrImageNeverPull") && error.ends_with(left), "{error}");
    assert_eq!(place.latest().await, Some((1, Status::Deployed)));
    let mended = place.helm(json!({"message": "mended"}));
    place.up(&mended).await;
    // Ready, but the run was cut off before it said so.
    let (number, _) = place.latest().await.unwrap();
    let label = (READY_LABEL, NOT_YET);
    Writer::new(place.reader.clone()).label_helm_record(&place.namespace, "demo", number, label).await.unwrap();
    assert_eq!(place.up(&mended).await, [not_seen_ready(number)]);
    assert_eq!(place.latest().await, Some((number, Status::Deployed)));
    let map = place.live("v1", "ConfigMap", "demo").await.unwrap();
    assert_eq!(map["data"]["message"], "mended");
    place.end().await;

    // Unless that is not wanted.
    let Some(place) = Place::new(major).await else { return };
    let mut spec = place.spec(broken);
    spec["uninstall_failed"] = json!(true);
    let error = place.fails(&resolved(spec)).await;
    assert!(error.contains("ErrImageNeverPull") && error.ends_with("the failed install was removed"), "{error}");
    assert_eq!(place.latest().await, None);
    assert_eq!(place.live("apps/v1", "Deployment", "demo").await, None);
    // A chart that cannot be rendered is a fault of the plan.
    let mut spec = place.spec(json!({}));
    spec["values"].as_object_mut().unwrap().insert("replicas".into(), json!("two: three: four"));
    let error = format!("{:#}", resolved(spec).plan(&place.rooted.host).await.unwrap_err());
    assert!(error.starts_with("the chart demo 0.1.0 cannot be rendered with these values: "), "{error}");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_install_that_does_not_work_with_helm_4() {
    first_install(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_install_that_does_not_work_with_helm_3() {
    first_install(3).await;
}

async fn definitions(major: u32) {
    let Some(place) = Place::new(major).await else { return };
    let group = format!("{}.example.dev", place.namespace);
    let definition = |kind: &str, more: &str| {
        let plural = format!("{}s", kind.to_lowercase());
        format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {plural}.{group}}}\nspec:\n  group: {group}\n  \
             names: {{kind: {kind}, plural: {plural}}}\n  scope: Namespaced\n  versions:\n  - name: v1\n    served: true\n    storage: true\n    \
             schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {{size: {{type: integer}}{more}}}}}}}}}}}\n"
        )
    };
    let with = |more: &str| {
        let mut project = project();
        project.sources.insert("charts/demo/crds/widgets.yaml".into(), definition("Widget", more).into_bytes());
        // A template like any other, whatever its folder is called.
        project.sources.insert("charts/demo/templates/crds/gadgets.yaml".into(), definition("Gadget", "").into_bytes());
        let mut helm: Helm = serde_json::from_value(place.spec(json!({"group": group, "random": true}))).unwrap();
        Resource::resolve(&mut helm, &mut project).unwrap();
        helm
    };
    // A kind and its objects, and a secret that is another one in each rendering.
    let lines = place.up(&with("")).await;
    let kinds: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let definition = "CustomResourceDefinition";
    let expected =
        ["namespace:", definition, "release:", "Secret", "Secret", "ConfigMap", definition, "Deployment", "Widget"];
    assert_eq!(kinds, expected);
    // By hand, in an object of a kind that Helm does not know.
    place.patch((&format!("{group}/v1"), "Widget", "w"), json!({"spec": {"size": 5}})).await;
    assert_eq!(place.up(&with("")).await, ["Widget NS/w: spec.size: 5 -> 3"]);
    // Helm itself would never touch it again. The release is as it was but for the chart's content.
    let lines = place.up(&with(", color: {type: string}")).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("properties.color.type: (absent) -> string"), "{lines:?}");
    assert!(lines[1].starts_with("chart: demo 0.1.0 (content "), "{lines:?}");
    for plural in ["widgets", "gadgets"] {
        let object = ObjectRef::new("apiextensions.k8s.io/v1", definition, None, &format!("{plural}.{group}"));
        Writer::new(place.reader.clone()).delete(&place.rooted.host, &object).await.unwrap();
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_come_first_and_are_kept_up_to_date_with_helm_4() {
    definitions(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_come_first_and_are_kept_up_to_date_with_helm_3() {
    definitions(3).await;
}

async fn jobs(major: u32) {
    let Some(place) = Place::new(major).await else { return };
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: {{ .Release.Name }}-once}\nspec:\n  activeDeadlineSeconds: {{ .Values.seconds }}\n  \
               template:\n    spec:\n      restartPolicy: Never\n      containers:\n      - {name: once, image: {{ .Values.once }}, imagePullPolicy: Never}\n";
    let with = |once: &str, seconds: u32| {
        let mut project = project();
        project.sources.insert("charts/demo/templates/once.yaml".into(), job.into());
        let mut spec = place.spec(json!({"once": once, "seconds": seconds}));
        spec["wait"] = json!(0);
        let mut helm: Helm = serde_json::from_value(spec).unwrap();
        Resource::resolve(&mut helm, &mut project).unwrap();
        helm
    };
    place.up(&with("nowhere:1", 600)).await;
    let uid = async || place.live("batch/v1", "Job", "demo-once").await.unwrap()["metadata"]["uid"].clone();
    let first = uid().await;
    // Nothing of a Job can be changed: another one takes its place.
    let lines = place.up(&with("nowhere:2", 600)).await;
    let expected = "Job NS/demo-once: is replaced and run again\nspec.template.spec.containers[once].image: nowhere:1 -> nowhere:2";
    assert!(lines.contains(&expected.to_owned()), "{lines:?}");
    assert_ne!(uid().await, first);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_chart_is_replaced() {
    jobs(4).await;
    jobs(3).await;
}

async fn taken_over(major: u32) {
    let Some(place) = Place::new(major).await else { return };
    let writer = Writer::new(place.reader.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace}});
    let mine = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"message": "mine"},
        "metadata": {"name": "demo", "namespace": place.namespace}});
    for object in [&namespace, &mine] {
        writer.apply(&place.rooted.host, object, Takeover::ByHand).await.unwrap();
    }
    let error = format!("{:#}", place.helm(json!({})).plan(&place.rooted.host).await.unwrap_err());
    let error = error.replace(&place.namespace, "NS");
    assert!(error.starts_with("ConfigMap NS/demo exists already; it is written by provision\n  hint: "), "{error}");
    let mut spec = place.spec(json!({}));
    spec["take_ownership"] = json!(true);
    let lines = place.up(&resolved(spec)).await;
    assert_eq!(lines[1], "ownership: ConfigMap NS/demo is taken over; it is written by provision");
    assert!(lines.contains(&"ConfigMap NS/demo: data.message: mine -> hello".into()), "{lines:?}");
    assert_eq!(place.live("v1", "ConfigMap", "demo").await.unwrap()["data"]["message"], "hello");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_releases_is_taken_over_only_when_asked() {
    taken_over(4).await;
    taken_over(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_4_goes_on_with_a_release_of_helm_3() {
    let (Some(mut place), Some(newer)) = (Place::new(3).await, helm_program(4)) else { return };
    place.up(&place.helm(json!({"message": null}))).await;
    place.program = newer;
    assert_eq!(place.plan(&place.helm(json!({"message": null}))).await.1, Vec::<String>::new());
    place.patch(DEPLOYMENT, json!({"spec": {"replicas": 3}})).await;
    let lines = place.up(&place.helm(json!({"message": "new"}))).await;
    let expected = [
        "values.message: ••• (changed)",
        "ConfigMap NS/demo: data.message: \"\" -> new",
        "Deployment NS/demo: spec.replicas: 3 -> 1",
    ];
    assert_eq!(lines, expected);
    place.end().await;
}

/// Charts that Helm brings itself are kept in memory; here they are removed again.
struct Brought;

impl Drop for Brought {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all("/run/provision/helm");
    }
}

async fn repository(major: u32) {
    use axum::routing::get;
    let Some(place) = Place::new(major).await else { return };
    let archive = place.helm(json!({})).chart.content().unwrap().unwrap();
    let index =
        "apiVersion: v1\nentries:\n  demo:\n  - {apiVersion: v2, name: demo, version: 0.1.0, urls: [demo-0.1.0.tgz]}\n";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new()
        .route("/index.yaml", get(move || async move { index }))
        .route("/demo-0.1.0.tgz", get(move || async move { archive.clone() }));
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let with = |version: &str| {
        let mut spec = place.spec(json!({}));
        spec["chart"] = json!({"repo": url, "name": "demo", "version": version});
        resolved(spec)
    };
    let lines = place.up(&with("0.1.0")).await;
    assert!(lines[1].starts_with("release: install demo 0.1.0 with Helm v"), "{lines:?}");
    let error = format!("{:#}", with("0.2.0").plan(&place.rooted.host).await.unwrap_err());
    assert!(error.starts_with("the chart demo 0.2.0 cannot be rendered with these values: "), "{error}");
    server.abort();
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chart_of_a_repository() {
    let _brought = Brought;
    repository(4).await;
    repository(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chart_of_an_artifact() {
    let Some(place) = Place::new(4).await else { return };
    let with = |chart: &str, content: &[u8]| {
        let pin = ArtifactPin {
            name: "demo-chart".into(),
            version: chart.into(),
            sha256: crate::hash::sha256(content),
            url: None,
        };
        let cache = place.rooted.path("/var/lib/provision/cache");
        std::fs::create_dir_all(&cache).unwrap();
        std::fs::write(cache.join(&pin.sha256), content).unwrap();
        let mut project = project();
        project.artifacts.insert("demo-chart".into(), pin);
        let mut spec = place.spec(json!({}));
        spec["chart"] = json!({"artifact": "demo-chart"});
        let mut helm: Helm = serde_json::from_value(spec).unwrap();
        Resource::resolve(&mut helm, &mut project).unwrap();
        helm
    };
    let first = place.helm(json!({})).chart.content().unwrap().unwrap();
    place.up(&with("0.1.0", &first)).await;
    let mut project = project();
    let values = "replicas: 1\nimage: docker.io/rancher/mirrored-pause:3.10.2\nmessage: bonjour\n";
    project.sources.insert("charts/demo/values.yaml".into(), values.into());
    let mut changed: Helm = serde_json::from_value(place.spec(json!({}))).unwrap();
    Resource::resolve(&mut changed, &mut project).unwrap();
    let lines = place.up(&with("0.2.0", &changed.chart.content().unwrap().unwrap())).await;
    assert!(
        lines[0].starts_with("chart: demo 0.1.0 (content ") && lines[0].contains(" -> demo-chart 0.2.0 ("),
        "{lines:?}"
    );
    assert_eq!(lines[1..], ["ConfigMap NS/demo: data.message: hello -> bonjour"]);
    place.end().await;
}
