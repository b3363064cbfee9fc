//! Against a real API server and real Helm 3 and 4 where they are (see `cluster::testing::real_cluster`); pods run, their image
//! is the one that every k3s has for itself.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::cluster::testing::{FixedApi, TestHost, helm_program, real_cluster};
use crate::cluster::{KUBECONFIG, ObjectRef, Reader, Writer};
use crate::host::real::tests::Rooted;
use crate::host::{ArtifactPin, HostEvent};
use crate::resources::testing::{Project, pending};
use crate::resources::{AnyResource, Planned};

mod live;

/// A chart with everything that charts have.
fn project() -> Project {
    let files = [
        ("Chart.yaml", "apiVersion: v2\nname: demo\nversion: 0.1.0\n"),
        ("values.yaml", "replicas: 1\nimage: docker.io/rancher/mirrored-pause:3.10.2\nmessage: hello\n"),
        (
            "templates/app.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {message: {{ .Values.message | quote }}}\n\
             ---\napiVersion: v1\nkind: Secret\nmetadata: {name: {{ .Release.Name }}}\nstringData: {password: {{ .Values.password | quote }}}\n\
             ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: {{ .Release.Name }}}\nspec:\n  replicas: {{ .Values.replicas }}\n  \
             selector: {matchLabels: {app: {{ .Release.Name }}}}\n  template:\n    metadata: {labels: {app: {{ .Release.Name }}}}\n    spec:\n      \
             terminationGracePeriodSeconds: 1\n      containers:\n      - {name: main, image: {{ .Values.image | quote }}, imagePullPolicy: Never}\n",
        ),
        (
            "templates/extra.yaml",
            "{{- if .Values.extra }}\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-extra}\n{{- end }}\n",
        ),
        (
            "templates/random.yaml",
            "{{- if .Values.random }}\napiVersion: v1\nkind: Secret\nmetadata: {name: {{ .Release.Name }}-random}\nstringData: {token: {{ randAlphaNum 12 }}}\n{{- end }}\n",
        ),
        (
            "templates/hold.yaml",
            "{{- if .Values.hold }}\napiVersion: batch/v1\nkind: Job\nmetadata:\n  name: {{ .Release.Name }}-hold\n  annotations: {helm.sh/hook: 'pre-install,pre-upgrade'}\n\
             spec:\n  template:\n    spec:\n      restartPolicy: Never\n      terminationGracePeriodSeconds: 1\n      containers:\n      - {name: main, image: {{ .Values.image | quote }}, imagePullPolicy: Never}\n{{- end }}\n",
        ),
        (
            "templates/check.yaml",
            "{{- if .Values.check }}\napiVersion: batch/v1\nkind: Job\nmetadata:\n  name: {{ .Release.Name }}-check\n  annotations: {helm.sh/hook: post-upgrade}\n\
             spec:\n  backoffLimit: 0\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n      - name: main\n        \
             image: docker.io/rancher/mirrored-library-busybox:1.37.0\n        imagePullPolicy: Never\n        command: [sh, -c, 'echo no such table; exit 3']\n{{- end }}\n",
        ),
        (
            "templates/widget.yaml",
            "{{- if .Values.group }}\napiVersion: {{ .Values.group }}/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n{{- end }}\n",
        ),
        ("templates/.hidden.yaml", "this is: {{ not rendered }}\n"),
        ("templates/NOTES.txt", "the password is {{ .Values.password }}\n"),
    ];
    let sources = files.iter().map(|(name, text)| (format!("charts/demo/{name}"), text.as_bytes().to_vec())).collect();
    Project { sources, ..Project::default() }
}

fn resolved(spec: Value) -> Helm {
    let mut helm: Helm = serde_json::from_value(spec).unwrap();
    Resource::resolve(&mut helm, &mut project()).unwrap();
    helm
}

fn refused(spec: Value) -> String {
    let mut helm: Helm = match serde_json::from_value(spec) {
        Ok(helm) => helm,
        Err(error) => return error.to_string(),
    };
    format!("{:#}", Resource::resolve(&mut helm, &mut project()).unwrap_err())
}

fn minimal() -> Value {
    json!({"release": "demo", "namespace": "demo", "chart": {"path": "charts/demo/"}})
}

#[test]
fn a_folder_travels_as_an_archive_that_stays_the_same() {
    let (one, other) = (resolved(minimal()), resolved(minimal()));
    assert_eq!(one.chart.content().unwrap(), other.chart.content().unwrap());
    assert_eq!(one.chart.title(), "demo 0.1.0");
    let sent: Helm = serde_json::from_value(AnyResource::spec(&one).unwrap()).unwrap();
    assert_eq!(sent.chart.label(), one.chart.label());
    let content = sent.chart.content().unwrap().unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(content.as_slice()));
    let mut names: Vec<String> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    names.sort();
    assert_eq!(names[..2], ["demo/Chart.yaml", "demo/templates/NOTES.txt"]);
    assert!(!names.iter().any(|name| name.contains("hidden")), "{names:?}");
}

#[test]
fn values_come_from_a_template_and_from_the_spec() {
    let mut project = project();
    project
        .templates
        .insert("demo/values.yml".into(), "replicas: 2\nmode: 0440\nauth: {user: a, password: b}\n".into());
    project.templates.insert("two.yml".into(), "a: canary\n---\nb: 1\n".into());
    project.templates.insert("list.yml".into(), "- canary\n".into());
    project.templates.insert("broken.yml".into(), "a: 1\na: canary\n".into());
    let mut spec = minimal();
    spec["template"] = json!("demo/values.yml");
    spec["values"] = json!({"auth": {"user": "c"}});
    let mut helm: Helm = serde_json::from_value(spec.clone()).unwrap();
    Resource::resolve(&mut helm, &mut project).unwrap();
    assert_eq!(Value::Object(helm.values), json!({"replicas": 2, "mode": 288, "auth": {"user": "c", "password": "b"}}));
    for (template, expected) in [
        ("list.yml", "values must be a mapping"),
        ("two.yml", "values must be one document"),
        ("broken.yml", "duplicate"),
    ] {
        spec["template"] = json!(template);
        let mut helm: Helm = serde_json::from_value(spec.clone()).unwrap();
        let error = format!("{:#}", Resource::resolve(&mut helm, &mut project).unwrap_err());
        assert!(
            error.starts_with(&format!("template {template}, as rendered: ")) && error.contains(expected),
            "{error}"
        );
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let with = |key: &str, value: Value| {
        let mut spec = minimal();
        spec[key] = value;
        spec
    };
    for (spec, expected) in [
        (with("chart", json!({})), "`chart` needs exactly one of `artifact`, `path`, `oci` and `repo`"),
        (with("chart", json!({"path": "charts/demo", "oci": "oci://a/b"})), "`chart` needs exactly one of"),
        (
            with("chart", json!({"path": "charts/demo", "version": "1"})),
            "`version` is for charts from `oci` and `repo`",
        ),
        (with("chart", json!({"oci": "oci://a/b"})), "either a `version` or a digest"),
        (with("chart", json!({"oci": "a/b", "version": "1"})), "must begin with oci://"),
        (with("chart", json!({"repo": "https://a", "name": "b"})), "needs a `version`"),
        (with("chart", json!({"repo": "https://a", "version": "1"})), "`repo` and `name` of the chart belong together"),
        (with("chart", json!({"path": "charts/none"})), "no folder \"charts/none\""),
        (with("chart", json!({"artifact": "none"})), "no artifact \"none\""),
        (with("release", json!("Demo")), "`release` \"Demo\" must be"),
        (with("release", json!("--debug")), "`release` \"--debug\" must be"),
        (with("timeout", json!(0)), "a `timeout` of 0 seconds"),
        (with("valeus", json!({})), "unknown field `valeus`"),
    ] {
        let error = refused(spec);
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn without_a_cluster_or_helm_it_is_pending() {
    let helm = resolved(minimal());
    assert!(pending(&helm, &TestHost::new()).await.starts_with("k3s is not installed yet"));
    let (reader, _) = FixedApi::serve([]).await;
    let host = TestHost::new().cluster(reader);
    assert_eq!(pending(&helm, &host).await, "Helm is not installed yet (no /usr/local/bin/helm)");
}

#[tokio::test]
async fn an_artifact_is_peeked_into_and_checked() {
    let content = b"a chart".to_vec();
    let pin = ArtifactPin {
        name: "demo-chart".into(),
        version: "0.1.0".into(),
        sha256: crate::hash::sha256(&content),
        url: None,
    };
    let rooted = Rooted::new();
    let before = rooted.tree();
    let error = format!("{:#}", crate::host::ReadHost::peek(&rooted.host, &pin).await.unwrap_err());
    assert!(error.starts_with("artifact demo-chart 0.1.0: neither this host nor the controller has it"), "{error}");
    assert_eq!(rooted.tree(), before);
    let cache = rooted.path("/var/lib/provision/cache");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(cache.join(&pin.sha256), b"damaged").unwrap();
    crate::host::ReadHost::peek(&rooted.host, &pin).await.unwrap_err();
    std::fs::write(cache.join(&pin.sha256), &content).unwrap();
    assert_eq!(crate::host::ReadHost::peek(&rooted.host, &pin).await.unwrap(), content);
}
