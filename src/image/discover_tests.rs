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
            - { name: LAUNCHER_IMAGE, value: 'local/launcher:2' }
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
            "docker.io/local/launcher:2 <- containers[0].env[1].value, LAUNCHER_IMAGE",
            "quay.io/x/sidecar:v3 <- containers[0].env[6].value, SIDECAR",
            "docker.io/library/busybox:1.36 <- containers[0].command[1]",
            "docker.io/library/tools:v2 <- containers[0].command[3]",
            "quay.io/prometheus-operator/prometheus-config-reloader:v0.80.0 <- containers[0].args[0]",
            "docker.io/argoproj/argoexec:v4.0.8 <- containers[0].args[2]",
            "docker.io/argo/executor:v1 <- containers[0].args[3]",
        ]
    );
}

/// `size`, `tag` and `gc` are in these words, not words of their own.
#[test]
fn keys_are_read_by_their_words() {
    for key in [
        "IMAGE",
        "CSI_RESIZER_IMAGE",
        "STAGING_IMAGE",
        "GC_IMAGE",
        "SECRET_SYNC_IMAGE",
        "thanosImage",
        "CSIImage",
        "--helper-image",
        "IMAGE_NAME",
        "sandbox_image",
        "baseimage",
        "image-config.yaml",
        "images.json",
        "imageV2",
    ] {
        assert!(says_image(key), "{key}");
    }
    for key in [
        "IMAGE_DIR",
        "imagePullPolicy",
        "imagePullSecrets",
        "image-gc-high-threshold",
        "IMAGE_TAG",
        "IMAGE_SIZE",
        "imageUrl",
        "IMAGE_FORMAT",
        "images_path",
        "imagenet",
        "IMAGINE",
        "name",
    ] {
        assert!(!says_image(key), "{key}");
    }
}

#[test]
fn volumes_lists_and_texts_under_keys_that_say_images() {
    let text = r#"
apiVersion: v1
kind: Pod
metadata: { name: a }
spec:
  containers:
    - name: c
      image: ghcr.io/a/c:v1
      env:
        - { name: CSI_RESIZER_IMAGE, value: 'longhornio/csi-resizer:v1.13.2' }
        - { name: SIDECAR_IMAGES, value: 'myorg/a:v1,myorg/b:v2 postgres:17' }
        - { name: IMAGES, value: '{"trainer":"myorg/trainer:v2","at":"12:30","db":"minio:9000"}' }
      args: ['--images=myorg/c:v1,myorg/d:v2', --worker-images, 'myorg/e:1', 'host:80', --port, '80:80']
  volumes:
    - { name: model, image: { reference: 'myorg/model:v1', pullPolicy: Always } }
    - { name: other, image: { reference: myorg/weights } }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: m }
data:
  images.json: '{"a": {"image": "ghcr.io/x/trainer:v3"}, "b": "myorg/b:v1"}'
  image-config.yaml: |
    trainer:
      image: ghcr.io/x/trainer:v3
      cache: data/cache
  settings.yaml: |
    images:
      - myorg/one:v1
      - "myorg/two:v1"
    paths:
      - myorg/three:v1
    worker_image: myorg/four:v1
    workerImages: [myorg/five:v1, busybox:1]
    base: myorg/my-image:v1
---
apiVersion: example.org/v1
kind: Platform
metadata: { name: p }
spec: { images: { trainer: 'myorg/trainer:v4', registry: 'myorg/registry:1', more: [{ ref: 'myorg/more:v1' }] } }
"#;
    let names: Vec<_> = found(text, &[]);
    let short =
        |line: &String| line.replace("Pod a: spec.", "").replace("containers[0].", "").replace("docker.io/", "");
    let names: Vec<_> = names.iter().map(short).map(|line| line.replace("ConfigMap m: data", "")).collect();
    assert_eq!(
        names,
        [
            "ghcr.io/a/c:v1 <- image",
            "longhornio/csi-resizer:v1.13.2 <- env[0].value, CSI_RESIZER_IMAGE",
            "myorg/a:v1 <- env[1].value, SIDECAR_IMAGES",
            "myorg/b:v2 <- env[1].value, SIDECAR_IMAGES",
            "library/postgres:17 <- env[1].value, SIDECAR_IMAGES",
            "myorg/trainer:v2 <- env[2].value, IMAGES",
            "myorg/c:v1 <- args[0]",
            "myorg/d:v2 <- args[0]",
            "myorg/e:1 <- args[2]",
            "myorg/model:v1 <- volumes[0].image.reference always",
            "myorg/weights:latest <- volumes[1].image.reference always",
            "ghcr.io/x/trainer:v3 <- [\"images.json\"]",
            "myorg/b:v1 <- [\"images.json\"]",
            "ghcr.io/x/trainer:v3 <- [\"image-config.yaml\"], line 2",
            "myorg/one:v1 <- [\"settings.yaml\"], line 2",
            "myorg/two:v1 <- [\"settings.yaml\"], line 3",
            "myorg/four:v1 <- [\"settings.yaml\"], line 6",
            "myorg/five:v1 <- [\"settings.yaml\"], line 7",
            "library/busybox:1 <- [\"settings.yaml\"], line 7",
            "myorg/trainer:v4 <- Platform p: spec.images.trainer",
            "myorg/more:v1 <- Platform p: spec.images.more[0].ref",
        ]
    );
}

#[test]
fn what_only_looks_like_an_image_is_none() {
    let text = "
apiVersion: v1
kind: ConfigMap
metadata: { name: m }
data:
  IMAGE_DIR: data/train
  IMAGE: data/train
  IMAGE_STORE: minio:9000
  settings.yaml: |
    image_dir: data/train:1
    base: myorg/my-image:v1
    image: is pulled once
";
    assert_eq!(found(text, &[]), Vec::<String>::new());
}

/// The policy of NVIDIA's operator, and values of charts.
#[test]
fn images_in_parts() {
    let text = "
apiVersion: nvidia.com/v1
kind: ClusterPolicy
metadata: { name: p }
spec:
  driver:
    repository: nvcr.io/nvidia
    image: driver
    version: '550.54'
    manager: { repository: nvcr.io/nvidia/cloud-native, image: k8s-driver-manager, version: v0.7, env: [] }
  plugin: { repository: nvcr.io/nvidia, image: k8s-device-plugin }
  toolkit: { repository: nvcr.io/nvidia, image: 'nvcr.io/nvidia/k8s/toolkit:v1' }
  ingress: { registry: registry.k8s.io, image: ingress-nginx/controller, tag: v1.11 }
  sub: { image: myorg/sub, tag: 3 }
  source: { repository: 'https://example.org/git', image: 'ghcr.io/a/b:v1' }
  git: { repository: myorg/code, path: x, image: { repository: myorg/inner, tag: v1 } }
";
    let names: Vec<_> = found(text, &[]).iter().map(|line| line.replace("ClusterPolicy p: spec.", "")).collect();
    assert_eq!(
        names,
        [
            "nvcr.io/nvidia/driver:550.54 <- driver",
            "nvcr.io/nvidia/cloud-native/k8s-driver-manager:v0.7 <- driver.manager",
            "nvcr.io/nvidia/k8s/toolkit:v1 <- toolkit.image",
            "registry.k8s.io/ingress-nginx/controller:v1.11 <- ingress",
            "docker.io/myorg/sub:3 <- sub",
            "ghcr.io/a/b:v1 <- source.image",
            "docker.io/myorg/inner:v1 <- git.image",
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

/// As Helm renders it: nothing has to have a name, and lists are not taken apart.
#[test]
fn lists_and_objects_without_a_name() {
    let pod =
        |image: &str| serde_json::json!({"kind": "Pod", "metadata": {"generateName": "x-"}, "spec": {"image": image}});
    let secret = serde_json::json!({"kind": "Secret", "stringData": {"IMAGE": "quay.io/a/secret:1"}});
    let objects = [serde_json::json!({"kind": "List", "items": [pod("a/b:v1"), secret]}), pod("a/c:v1"), Value::Null];
    let named = in_objects(&objects, &Known::default());
    let named: Vec<_> = named.iter().map(|it| (it.reference.stored_name(), it.at.as_str())).collect();
    let at = "Pod x-: spec.image";
    assert_eq!(named, [("docker.io/a/b:v1".to_owned(), at), ("docker.io/a/c:v1".to_owned(), at)]);
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
