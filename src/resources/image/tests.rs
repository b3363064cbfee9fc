//! The tables are recorded from containerd 2.2.9 with images of our builder, one imported and one pulled by digest; the row by
//! configuration (`sha256:…`) has the form that the kubelet's interface of containerd gives it.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::containerd::{parse_containers, parse_images};
use super::*;
use crate::cluster::testing::FixedApi;
use crate::hash;
use crate::host::fake::{FakeHost, Files, failed, ok};
use crate::image::BuiltImage;

const IMAGES: &str = "\
REF                                                                                             TYPE                                       DIGEST                                                                  SIZE     PLATFORMS   LABELS                          
docker.io/library/hello@sha256:6a761c44f7fda6f48c3689a253122af1e447ccfb1078f086d984f07b58b0c739 application/vnd.oci.image.manifest.v1+json sha256:6a761c44f7fda6f48c3689a253122af1e447ccfb1078f086d984f07b58b0c739 1.9 MiB  linux/amd64 io.cri-containerd.pinned=pinned 
provision.local/postgres:0a5d942292a7c9ae                                                       application/vnd.oci.image.manifest.v1+json sha256:0a5d942292a7c9aeb2cf0b00ee712ff9726bbbab07554c7e1c335b5541f0d821 83.4 MiB linux/amd64 -                               
sha256:5d3b4e40c6ee7d060483d325b444e331dae0f406413f1db077f00899ba06d6d5                         application/vnd.oci.image.manifest.v1+json sha256:6a761c44f7fda6f48c3689a253122af1e447ccfb1078f086d984f07b58b0c739 1.9 MiB  linux/amd64 io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned 
";

const CONTAINERS: &str = "\
CONTAINER    IMAGE                                     RUNTIME                  
c1           provision.local/hello:6a761c44f7fda6f4    io.containerd.runc.v2    
";

const K3S: &str = "/usr/local/bin/k3s";
const STATE: &str = "/run/images";

fn digest(content: &str) -> String {
    format!("sha256:{}", hash::sha256(content))
}

/// The reference of build `content` of the recipe `rul`.
fn reference(content: &str) -> String {
    format!("provision.local/rul:{}", &hash::sha256(content)[..16])
}

fn built(content: &str) -> Image {
    let archive = ArtifactPin {
        name: "image rul".into(),
        version: "v".into(),
        sha256: hash::sha256(format!("archive of {content}")),
        url: None,
    };
    let image = BuiltImage { reference: reference(content), digest: digest(content), archive };
    Image {
        recipe: Some("rul/image.yml".into()),
        artifact: None,
        docker: Docker::default(),
        resolved: Some(ImageSource::Built(image)),
        keep: vec![],
    }
}

fn pulled() -> Image {
    let source = ImageSource::Registry {
        reference: "docker.io/library/postgres:17.11-bookworm".into(),
        digest: digest("postgres"),
        archive: None,
    };
    Image {
        recipe: None,
        artifact: Some("postgres".into()),
        docker: Docker::default(),
        resolved: Some(source),
        keep: vec![],
    }
}

fn row(name: &str, digest: &str, labels: &str) -> String {
    format!("{name} application/vnd.oci.image.manifest.v1+json {digest} 1.9 MiB linux/amd64 {labels} \n")
}

/// A machine whose containerd has these rows, and does what `ctr images` does to them.
fn host(rows: &str, containers: &'static str) -> FakeHost {
    let change = |files: &mut Files, keep: &dyn Fn(&str) -> bool, add: &str| {
        let rows: String =
            files.text(STATE).lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect();
        files.put_file(STATE, rows + add, 0o600);
    };
    FakeHost::new()
        .file(STATE, rows, 0o600)
        .artifact("archive of new")
        .on_query(&[K3S, "ctr", "-n", "k8s.io", "images", "ls"], |files, _| {
            ok(&format!("REF TYPE DIGEST SIZE PLATFORMS LABELS \n{}", files.text(STATE)))
        })
        .on_query(&[K3S, "ctr", "-n", "k8s.io", "containers", "ls"], move |_, _| ok(containers))
        .on_run(&[K3S, "ctr", "-n", "k8s.io", "images", "import"], move |files, cmd| {
            let labels = &cmd.argv[cmd.argv.iter().position(|a| a == "--label").unwrap() + 1];
            let name = reference("new");
            change(files, &|line| !line.starts_with(&name), &row(&name, &digest("new"), labels));
            ok("")
        })
        .on_run(&[K3S, "ctr", "-n", "k8s.io", "images", "pull"], move |files, cmd| {
            let name = cmd.argv.last().unwrap();
            let (_, digest) = name.split_once('@').unwrap();
            change(files, &|_| true, &row(name, digest, PINNED));
            ok("")
        })
        .on_run(&[K3S, "ctr", "-n", "k8s.io", "images", "label"], move |files, cmd| {
            let name = format!("{} ", cmd.argv[6]);
            let digest = parse_images(&format!("REF\n{}", files.text(STATE)))
                .unwrap()
                .into_iter()
                .find(|image| image.name == cmd.argv[6])
                .unwrap()
                .digest;
            change(files, &|line| !line.starts_with(&name), &row(&cmd.argv[6], &digest, &cmd.argv[7]));
            ok("")
        })
        .on_run(&[K3S, "ctr", "-n", "k8s.io", "images", "rm"], move |files, cmd| {
            let name = format!("{} ", cmd.argv[6]);
            change(files, &|line| !line.starts_with(&name), "");
            ok("")
        })
}

/// With a cluster that has these objects (path of the list, object).
async fn with_cluster(host: FakeHost, objects: &[(&str, serde_json::Value)]) -> FakeHost {
    let lists = objects.iter().map(|(path, object)| ((*path).to_owned(), json!({ "items": [object] })));
    host.with_cluster(FixedApi::serve(lists).await.0)
}

async fn diff(image: &Image, host: &FakeHost) -> Diff {
    match image.observe(host).await.unwrap() {
        Observed::Known(state) => image.diff(&state),
        Observed::Pending(reason) => panic!("pending: {reason}"),
    }
}

/// Plans, applies, and asks that nothing is left to do; answers with what was planned.
async fn settle(image: &Image, host: &FakeHost) -> Vec<String> {
    let before = host.changes();
    let planned = diff(image, host).await;
    assert_eq!(host.changes(), before, "planning changes nothing");
    image.apply(host, &planned).await.unwrap();
    assert_eq!(diff(image, host).await, Diff::none());
    planned.changes.into_iter().map(|change| format!("{}: {}", change.field, change.detail)).collect()
}

#[test]
fn the_recorded_tables_are_understood() {
    let images = parse_images(IMAGES).unwrap();
    assert_eq!(images.len(), 3);
    assert!(images[0].pinned && !images[1].pinned && images[2].pinned);
    assert_eq!(images[1].name, "provision.local/postgres:0a5d942292a7c9ae");
    assert!(images[1].digest.starts_with("sha256:0a5d942292a7c9ae"));
    assert_eq!(parse_containers(CONTAINERS).unwrap(), ["provision.local/hello:6a761c44f7fda6f4"]);
    assert_eq!(parse_images("REF TYPE DIGEST SIZE PLATFORMS LABELS \n").unwrap(), []);
    assert!(parse_images("something else\n").is_err());
}

#[tokio::test]
async fn from_every_prior_state_one_apply_is_enough() {
    let name = reference("new");
    let stale = row(&name, &digest("stale"), PINNED);
    let loose = row(&name, &digest("new"), "-");
    for (rows, expected) in [
        (String::new(), vec![format!("image: {name} imported")]),
        (loose, vec!["pinned: not pinned -> pinned against image garbage collection".to_owned()]),
        (stale, vec![format!("digest: {} -> {}", digest("stale"), digest("new"))]),
        (row(&name, &digest("new"), &format!("io.cri-containerd.image=managed,{PINNED}")), vec![]),
    ] {
        let host = host(&rows, "CONTAINER IMAGE RUNTIME\n");
        assert_eq!(settle(&built("new"), &host).await, expected);
    }
}

#[tokio::test]
async fn with_a_new_build_unused_old_ones_go_and_used_ones_stay() {
    let by_config = format!("sha256:{}", hash::sha256("configuration of unused"));
    let other = row("provision.local/rul-jobs:0000", &digest("jobs"), PINNED);
    let rows = row(&reference("unused"), &digest("unused"), PINNED)
        + &row(&by_config, &digest("unused"), PINNED)
        + &row(&reference("used"), &digest("used"), PINNED)
        + &row("sha256:abc", &digest("used"), PINNED)
        + &other;
    // The container names its image by its configuration.
    let host = host(&rows, "CONTAINER IMAGE RUNTIME\nc1 sha256:abc io.containerd.runc.v2\n");
    let host = with_cluster(host, &[]).await;
    let planned = settle(&built("new"), &host).await;
    let old = reference("unused");
    assert_eq!(planned[1..], [format!("old image {old}: removed, nothing uses it")]);
    let left = host.files().text(STATE);
    assert!(!left.contains(&old) && !left.contains(&by_config), "{left}");
    assert!(left.contains(&reference("used")) && left.contains("sha256:abc ") && left.contains(&other), "{left}");
    assert_eq!(host.changes().iter().filter(|change| change.contains(" rm ")).count(), 2);
}

#[tokio::test]
async fn what_the_cluster_may_start_again_is_in_use_and_what_is_over_is_not() {
    let names = ["cronjob", "scaled-down", "finished", "replaced", "rolling"];
    let rows: String = names.iter().map(|name| row(&reference(name), &digest(name), PINNED)).collect();
    let pod = |name: &str| json!({ "spec": { "containers": [{ "name": "c", "image": reference(name) }] } });
    let cron = json!({ "spec": { "suspend": true, "jobTemplate": { "spec": { "template": pod("cronjob") } } } });
    let down = json!({ "spec": { "replicas": 0, "template": pod("scaled-down") } });
    let condition = json!([{ "type": "Complete", "status": "True" }]);
    let finished = json!({ "spec": { "template": pod("finished") }, "status": { "conditions": condition } });
    let replaced = json!({ "spec": { "replicas": 0, "template": pod("replaced") } });
    let rolling = json!({ "spec": { "replicas": 1, "template": pod("rolling") } });
    let host = host(&rows, "").with_cluster(
        FixedApi::serve([
            ("/apis/batch/v1/cronjobs".to_owned(), json!({ "items": [cron] })),
            ("/apis/apps/v1/deployments".to_owned(), json!({ "items": [down] })),
            ("/apis/batch/v1/jobs".to_owned(), json!({ "items": [finished] })),
            ("/apis/apps/v1/replicasets".to_owned(), json!({ "items": [replaced, rolling] })),
        ])
        .await
        .0,
    );
    let planned = settle(&built("new"), &host).await;
    let gone = |name: &str| format!("old image {}: removed, nothing uses it", reference(name));
    assert_eq!(planned[1..], [gone("finished"), gone("replaced")]);
}

#[tokio::test]
async fn while_nobody_can_say_what_is_used_nothing_goes() {
    let host = host(&row(&reference("old"), &digest("old"), PINNED), "");
    assert_eq!(settle(&built("new"), &host).await, [format!("image: {} imported", reference("new"))]);
    assert!(host.files().text(STATE).contains(&reference("old")));
}

#[tokio::test]
async fn old_versions_from_a_registry_go_if_they_are_ours_and_nobody_wants_them() {
    let name = |content: &str| format!("docker.io/library/postgres@{}", digest(content));
    let rows = row(&name("old"), &digest("old"), PINNED)
        + &row(&name("used"), &digest("used"), PINNED)
        + &row(&name("wanted"), &digest("wanted"), PINNED)
        + &row(&name("of somebody else"), &digest("of somebody else"), "-")
        + &row("docker.io/library/postgres:17", &digest("of somebody else"), "-")
        + &row(&format!("docker.io/library/postgres-exporter@{}", digest("x")), &digest("x"), PINNED);
    // With a tag, as templates write it.
    let image = format!("postgres:15@{}", digest("used"));
    let set = json!({ "spec": { "template": { "spec": { "containers": [{ "image": image }] } } } });
    let host = with_cluster(host(&rows, ""), &[("/apis/apps/v1/statefulsets", set)]).await;
    let image = Image { keep: vec![name("wanted")], ..pulled() };
    let planned = settle(&image, &host).await;
    assert_eq!(planned[1..], [format!("old image {}: removed, nothing uses it", name("old"))]);
    let sent = serde_json::to_value(&image).unwrap();
    assert_eq!(serde_json::from_value::<Image>(sent).unwrap(), image);
}

#[tokio::test]
async fn an_imported_archive_is_not_kept_a_second_time() {
    let machine = host("", "");
    let archive = format!("/var/lib/provision/cache/{}", hash::sha256("archive of new"));
    settle(&built("new"), &machine).await;
    assert!(machine.files().node(&archive).is_none());
    // An archive that does not have what it should is kept: somebody will want to look at it.
    let host = host("", "").on_run(&[K3S, "ctr", "-n", "k8s.io", "images", "import"], |_, _| ok(""));
    let image = built("new");
    let planned = diff(&image, &host).await;
    image.apply(&host, &planned).await.unwrap();
    assert!(host.files().node(&archive).is_some());
    assert_ne!(diff(&image, &host).await, Diff::none());
}

#[tokio::test]
async fn an_image_of_a_registry_is_pulled_by_its_digest_through_the_mirrors_of_k3s() {
    let name = format!("docker.io/library/postgres@{}", digest("postgres"));
    let plain = host("", "");
    assert_eq!(settle(&pulled(), &plain).await, [format!("image: {name} pulled")]);
    assert!(!plain.runs()[0].argv.contains(&"--hosts-dir".to_owned()));
    let mirrored = host("", "").dir(HOSTS_DIR, 0o755);
    settle(&pulled(), &mirrored).await;
    assert!(mirrored.runs()[0].argv.join(" ").contains(&format!("--hosts-dir {HOSTS_DIR}")));
    let source = pulled().resolved.unwrap();
    assert_eq!(source.reference(), format!("docker.io/library/postgres:17.11-bookworm@{}", digest("postgres")));
}

#[tokio::test]
async fn before_k3s_runs_it_is_pending_and_another_failure_is_an_error() {
    let stopped = "ctr: cannot access socket /run/k3s/containerd/containerd.sock: no such file or directory";
    for (answer, expected) in
        [(failed(127, ""), "needs k3s"), (failed(1, stopped), "needs k3s: its containerd does not run")]
    {
        let host = FakeHost::new().answer(&[K3S], answer);
        assert_eq!(built("new").observe(&host).await.unwrap(), Observed::Pending(expected.to_owned()));
    }
    let host = FakeHost::new().answer(&[K3S], failed(1, "ctr: permission denied"));
    let error = built("new").observe(&host).await.unwrap_err().to_string();
    assert_eq!(error, "asking containerd ended with status 1: ctr: permission denied");
}

#[test]
fn the_forms_in_stage_files_and_what_travels_to_the_agent() {
    let parse = |value: serde_json::Value| serde_json::from_value::<Image>(value).map_err(|error| error.to_string());
    let short = parse("rul/image.yml".into()).unwrap();
    assert_eq!(short, parse(serde_json::json!({ "recipe": "rul/image.yml" })).unwrap());
    assert_eq!(Resource::name(&parse(serde_json::json!({ "artifact": "postgres" })).unwrap()), "postgres");
    for (wrong, reason) in [
        (serde_json::json!({}), "an image has one of `recipe`, `artifact` and `dockerfile`"),
        (
            serde_json::json!({ "recipe": "a", "artifact": "b" }),
            "an image has one of `recipe`, `artifact` and `dockerfile`",
        ),
        (serde_json::json!({ "recipe": "a", "target": "b" }), "belong to a `dockerfile`"),
        (serde_json::json!({ "recipee": "a" }), "unknown field `recipee`"),
        (
            serde_json::json!(3),
            "expected the path of a recipe, { recipe: PATH }, { artifact: NAME } or { dockerfile: PATH }",
        ),
    ] {
        let error = parse(wrong).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let sent = serde_json::to_value(built("new")).unwrap();
    assert_eq!(serde_json::from_value::<Image>(sent).unwrap(), built("new"));
}

#[tokio::test]
async fn an_image_of_a_registry_that_comes_with_a_bundle_is_imported() {
    let mut image = pulled();
    if let Some(ImageSource::Registry { archive, .. }) = &mut image.resolved {
        let sha256 = hash::sha256("archive of new");
        *archive = Some(ArtifactPin { name: "image".into(), version: "v".into(), sha256, url: None });
    }
    let host = host("", "").on_run(&[K3S, "ctr", "-n", "k8s.io", "images", "import"], |files, cmd| {
        let name = format!("docker.io/library/postgres@{}", digest("postgres"));
        assert!(cmd.argv.contains(&PINNED.to_owned()));
        files.put_file(STATE, row(&name, &digest("postgres"), PINNED), 0o600);
        ok("")
    });
    let name = format!("docker.io/library/postgres@{}", digest("postgres"));
    assert_eq!(settle(&image, &host).await, [format!("image: {name} imported")]);
    assert!(!host.runs().iter().any(|run| run.argv.contains(&"pull".to_owned())));
}

mod dockerfile {
    use super::*;
    use crate::image::dockerfile::DockerBuild;

    const NAME: &str = "provision.local/web:0123456789abcdef";

    fn image() -> Image {
        let build = DockerBuild {
            reference: NAME.into(),
            context: ArtifactPin {
                name: "context".into(),
                version: "v".into(),
                sha256: hash::sha256("archive of new"),
                url: None,
            },
            dockerfile: "docker/Web.dockerfile".into(),
            build_args: [("A".to_owned(), "1 2".to_owned())].into(),
            target: Some("final".into()),
        };
        let docker = Docker { dockerfile: Some("web/docker/Web.dockerfile".into()), ..Docker::default() };
        Image { recipe: None, artifact: None, docker, resolved: Some(ImageSource::Dockerfile(build)), keep: vec![] }
    }

    #[tokio::test]
    async fn without_buildkit_it_is_pending() {
        let Observed::Pending(reason) = image().observe(&host("", "")).await.unwrap() else { panic!() };
        assert!(reason.contains("buildkit.enabled"), "{reason}");
    }

    const FOLDER: &str = "/var/lib/provision/build/web-0123456789abcdef";

    fn buildkit(rows: &str) -> FakeHost {
        host(rows, "CONTAINER IMAGE RUNTIME\n").file("/run/buildkit/buildkitd.sock", "", 0o600).on_run(
            &["tar"],
            |files, cmd| {
                assert_eq!(cmd.argv[1..3], ["--touch", "-xf"], "BuildKit goes by times: {:?}", cmd.argv);
                files.put_file(format!("{}/docker/Web.dockerfile", cmd.argv.last().unwrap()), "FROM scratch\n", 0o644);
                ok("")
            },
        )
    }

    #[tokio::test]
    async fn it_is_built_on_the_host_pinned_and_old_builds_go() {
        let old = row("provision.local/web:old", &digest("old"), PINNED);
        let host = buildkit(&old).file("/var/lib/provision/build/of-a-cut-run/.env", "secret", 0o600).on_run(
            &["/usr/local/bin/buildctl"],
            |files, cmd| {
                for argument in [
                    format!("context={FOLDER}"),
                    format!("dockerfile={FOLDER}/docker"),
                    "filename=Web.dockerfile".to_owned(),
                    "build-arg:A=1 2".to_owned(),
                    "target=final".to_owned(),
                ] {
                    assert!(cmd.argv.contains(&argument), "{:?}", cmd.argv);
                }
                assert!(files.node(format!("{FOLDER}/docker/Web.dockerfile")).is_some());
                assert!(files.node("/var/lib/provision/build/of-a-cut-run").is_none());
                let rows = files.text(STATE) + &row(NAME, &digest("whatever comes out"), "-");
                files.put_file(STATE, rows, 0o600);
                ok("")
            },
        );
        let host = with_cluster(host, &[]).await;
        let planned = settle(&image(), &host).await;
        assert_eq!(
            planned,
            [format!("image: {NAME} built"), "old image provision.local/web:old: removed, nothing uses it".to_owned()]
        );
        assert!(host.files().node("/var/lib/provision/build").is_none());
        let sent = serde_json::to_value(image()).unwrap();
        assert_eq!(serde_json::from_value::<Image>(sent).unwrap(), image());
    }

    #[tokio::test]
    async fn a_failed_build_leaves_no_context_behind() {
        let host = buildkit("").on_run(&["/usr/local/bin/buildctl"], |_, _| failed(1, "no such stage"));
        let planned = diff(&image(), &host).await;
        let error = image().apply(&host, &planned).await.unwrap_err();
        assert!(error.to_string().contains("buildctl"), "{error:#}");
        assert!(host.files().node("/var/lib/provision/build").is_none());
    }
}
