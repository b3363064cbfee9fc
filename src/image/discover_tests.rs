#![allow(clippy::unwrap_used)]

use super::*;
use crate::cluster::parse_manifest;

fn found(text: &str, known: &[&str]) -> Vec<String> {
    let known = Known::new(known.iter().copied());
    let named = in_objects(&parse_manifest(text).unwrap(), &known);
    named
        .iter()
        .map(|named| {
            let always = if named.always { " always" } else { "" };
            format!("{} <- {}{always}", named.reference.stored_name(), named.at)
        })
        .collect()
}

#[test]
fn containers_of_every_sort_and_every_depth() {
    let text = "
apiVersion: batch/v1
kind: CronJob
metadata: { name: dump, namespace: mlops }
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers:
            - { name: wait, image: busybox }
          containers:
            - { name: dump, image: 'postgres:17', imagePullPolicy: Always }
            - { name: other, image: 'ghcr.io/a/b:latest', imagePullPolicy: IfNotPresent }
          ephemeralContainers:
            - { name: debug, image: 'ghcr.io/a/debug:v1' }
";
    let at = "CronJob mlops/dump: spec.jobTemplate.spec.template.spec";
    assert_eq!(
        found(text, &[]),
        [
            format!("docker.io/library/busybox:latest <- {at}.initContainers[0].image always"),
            format!("docker.io/library/postgres:17 <- {at}.containers[0].image always"),
            format!("ghcr.io/a/b:latest <- {at}.containers[1].image"),
            format!("ghcr.io/a/debug:v1 <- {at}.ephemeralContainers[0].image"),
        ]
    );
}

#[test]
fn environment_and_arguments() {
    let text = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: api, namespace: kfp }
spec:
  template:
    spec:
      containers:
        - name: api
          image: ghcr.io/kfp/api:2.17
          env:
            - { name: V2_DRIVER_IMAGE, value: 'ghcr.io/kfp/driver:2.17' }
            - { name: LAUNCHER_IMAGE, value: 'local/launcher' }
            - { name: IMAGE_PULL_POLICY, value: IfNotPresent }
            - { name: DB_ADDRESS, value: 'postgres:5432' }
            - { name: STORE, value: 'http://minio:9000/a:b' }
            - { name: FROM_FIELD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
            - { name: SIDECAR, value: 'quay.io/x/sidecar:v3' }
          command: [/bin/api, --helper-image=busybox:1.36, --image, tools:v2, --listen, ':8080']
          args:
            - --prometheus-config-reloader=quay.io/prometheus-operator/prometheus-config-reloader:v0.80.0
            - --log=quay.io
            - argoproj/argoexec:v4.0.8
            - exec start --executor-image argo/executor:v1 --port 80
";
    let names: Vec<_> = found(text, &["docker.io/library/postgres:17", "argoproj/argoexec:v4.0.7"]);
    let names: Vec<_> = names.iter().map(|line| line.replace("Deployment kfp/api: spec.template.spec.", "")).collect();
    assert_eq!(
        names,
        [
            "ghcr.io/kfp/api:2.17 <- containers[0].image",
            "ghcr.io/kfp/driver:2.17 <- containers[0].env[0].value, V2_DRIVER_IMAGE",
            "docker.io/local/launcher:latest <- containers[0].env[1].value, LAUNCHER_IMAGE",
            "quay.io/x/sidecar:v3 <- containers[0].env[6].value, SIDECAR",
            "docker.io/library/busybox:1.36 <- containers[0].command[1]",
            "docker.io/library/tools:v2 <- containers[0].command[3]",
            "quay.io/prometheus-operator/prometheus-config-reloader:v0.80.0 <- containers[0].args[0]",
            "docker.io/argoproj/argoexec:v4.0.8 <- containers[0].args[2]",
            "docker.io/argo/executor:v1 <- containers[0].args[3]",
        ]
    );
}

#[test]
fn files_in_config_maps() {
    let text = r##"
apiVersion: v1
kind: ConfigMap
metadata: { name: files, namespace: kube-system }
data:
  helperPod.yaml: |
    apiVersion: v1
    # image: see the manual
    spec:
      containers:
        - name: helper
          image: "rancher/mirrored-library-busybox:1.36.1"
        - image: busybox
        - image: alpine:3 # small
      note: the image: is pulled once
  config.json: '{"launcher": {"image":"ghcr.io/a/launcher:v1","args":["x"]}, "other": "quay.io/b/other@sha256:DIGEST"}'
  config.toml: |
    sandbox_image = "registry.k8s.io/pause:3.10"
    base_image: ghcr.io/c/base:1
  executor: |
    images: [docker.io/library/one:1, ghcr.io/d/two:2]
  docs: |
    See https://ghcr.io/e/f:1, mail me@quay.io, or ghcr.io/g/h for more.
"##
    .replace("DIGEST", &crate::hash::sha256("x"));
    let names: Vec<_> = found(&text, &[]);
    let names: Vec<_> = names.iter().map(|line| line.replace("ConfigMap kube-system/files: data", "")).collect();
    let other = format!("quay.io/b/other@sha256:{} <- [\"config.json\"]", crate::hash::sha256("x"));
    assert_eq!(
        names,
        [
            "docker.io/rancher/mirrored-library-busybox:1.36.1 <- [\"helperPod.yaml\"], line 6",
            "docker.io/library/busybox:latest <- [\"helperPod.yaml\"], line 7",
            "docker.io/library/alpine:3 <- [\"helperPod.yaml\"], line 8",
            "ghcr.io/a/launcher:v1 <- [\"config.json\"]",
            other.as_str(),
            "registry.k8s.io/pause:3.10 <- [\"config.toml\"], line 1",
            "ghcr.io/c/base:1 <- [\"config.toml\"], line 2",
            "docker.io/library/one:1 <- .executor, line 1",
            "ghcr.io/d/two:2 <- .executor, line 1",
        ]
    );
}

#[test]
fn custom_resources_and_what_is_not_looked_into() {
    let text = "
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: { name: main }
spec:
  image: quay.io/prometheus/prometheus:v3
  thanosImage: quay.io/thanos/thanos:v0.40
  sidecar: { image: { registry: ghcr.io, repository: s/sidecar, tag: 2 } }
  plain: { repository: a/b, tag: v1 }
  imagePullPolicy: Always
  baseImage: plainword
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: x.y }
spec: { description: 'for example quay.io/a/b:1', properties: { image: { type: string } } }
---
apiVersion: v1
kind: Secret
metadata: { name: s }
stringData: { IMAGE: 'quay.io/secret/image:1' }
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: { name: r }
spec: { repository: 'https://charts.example.org' }
";
    assert_eq!(
        found(text, &[]),
        [
            "quay.io/prometheus/prometheus:v3 <- Prometheus main: spec.image always",
            "quay.io/thanos/thanos:v0.40 <- Prometheus main: spec.thanosImage",
            "ghcr.io/s/sidecar:2 <- Prometheus main: spec.sidecar.image",
            "docker.io/a/b:v1 <- Prometheus main: spec.plain",
        ]
    );
}

#[test]
fn known_is_what_a_pod_would_find() {
    let digest = format!("sha256:{}", crate::hash::sha256("x"));
    let by_digest = format!("docker.io/library/postgres@{digest}");
    let known = Known::new(["provision.local/rul:12", by_digest.as_str(), "busybox:1"]);
    let has = |text: &str| known.has(&Reference::parse(text).unwrap());
    assert!(has("provision.local/rul:12") && !has("provision.local/rul:13"));
    assert!(has(&format!("postgres:17@{digest}")) && !has("postgres:17"));
    assert!(has("docker.io/library/busybox:1") && !has("busybox"));
}

#[test]
fn unit_files_and_configurations() {
    let value = serde_json::json!({
        "content": "[Service]\nExecStart=/usr/bin/run --pause-image=registry.k8s.io/pause:3.10 postgres:5432\n",
        "path": "/etc/systemd/system/x.service",
        "mode": "0644",
    });
    let named = in_value(&value, &Known::new(["postgres:17"]));
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!(named[0].at, "content, line 2");
}
