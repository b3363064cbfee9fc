//! The command line on small projects: exit codes, and the text of every error that a project can cause.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use assert_cmd::Command;

/// A project in a folder of its own, with an identity of its own.
struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        project.write("inventory/defaults.yml", "web:\n  port: 80\n  enabled: true\n");
        project.write("inventory/mine.yml", "hosts:\n  box:\n    transport: local\n");
        project.write("inventory/example.yml", "hosts:\n  box:\n    transport: local\n");
        project.write("templates/.keep", "");
        project
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("provision").unwrap();
        command
            .current_dir(self.path())
            .args(arguments)
            .env("PROVISION_IDENTITY", self.path().join("identity.txt"))
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("NO_COLOR", "1")
            .env_remove("PROVISION_INVENTORY")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&self.path().display().to_string(), "PROJECT");
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }
}

#[track_caller]
fn invalid(stage: &str, expected: &str) {
    let project = Project::new();
    project.write("stages/web.yml", stage);
    let (code, out, err) = project.run(&["validate"]);
    assert_eq!((code, err.trim_end(), out.as_str()), (2, expected, ""));
}

#[test]
fn a_good_project_is_valid() {
    let project = Project::new();
    project
        .write("stages/web.yml", "stage: web\nresources:\n  - file: { path: /etc/x, content: \"{{ web.port }}\" }\n");
    let (code, out, err) = project.run(&["validate"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "box: valid: 1 stages, 1 resources, 0 checks\n", ""));
}

#[test]
fn typo_in_a_kind() {
    invalid(
        "stage: web\nresources:\n  - flie: { path: /etc/x }\n",
        "error: stages/web.yml:3:5: unknown kind `flie`\n  hint: did you mean \"file\"?",
    );
}

#[test]
fn typo_in_a_key_of_a_spec() {
    invalid(
        "stage: web\nresources:\n  - file: { path: /etc/x, contnet: a }\n",
        "error: stages/web.yml:3:27: unknown key `contnet`\n  hint: did you mean \"content\"?",
    );
}

#[test]
fn undefined_value() {
    invalid(
        "stage: web\nresources:\n  - file: { path: /etc/x, content: \"{{ web.prot }}\" }\n",
        "error: stages/web.yml:3:36: Field `prot` is not defined. Available fields: enabled, port",
    );
}

#[test]
fn mode_without_quotes() {
    let project = Project::new();
    project.write("stages/web.yml", "stage: web\nresources:\n  - file: { path: /etc/x, content: a, mode: 0644 }\n");
    let (code, _, err) = project.run(&["validate"]);
    assert_eq!(code, 2);
    assert!(err.starts_with("error: stages/web.yml:3:") && err.contains("\"0644\""), "{err}");
}

#[test]
fn unknown_need_cycle_and_duplicate() {
    invalid(
        "stage: web\nneeds: [wbe]\n",
        "error: stages/web.yml:2:9: there is no stage `wbe`\n  hint: did you mean \"web\"?",
    );
    invalid(
        "stage: web\nneeds: [web]\n",
        "error: stages/web.yml:2:9: stages need each other in a circle: web -> web\n  hint: remove one of these `needs`",
    );
    invalid(
        "stage: web\nresources:\n  - file: { path: /x, content: a }\n  - file: { path: /x, content: b }\n",
        "error: stages/web.yml:4:5: `file /x` is already in this stage, at stages/web.yml:3:5",
    );
}

#[test]
fn images_that_would_take_each_others_place() {
    let project = Project::new();
    project.write("one/app/Dockerfile", "FROM scratch\n").write("two/app/Dockerfile", "FROM scratch\nUSER 1\n");
    project.write("app.yml", "name: app\n");
    project.write(
        "stages/web.yml",
        "stage: web\nresources:\n  - image: { dockerfile: one/app/Dockerfile }\n  - image: { dockerfile: two/app/Dockerfile }\n  \
         - image: app.yml\n",
    );
    let (code, _, err) = project.run(&["validate"]);
    let error = |line: u32, what: &str| {
        format!(
            "stages/web.yml:{line}:5: two images have the name provision.local/app: {what} and one/app/Dockerfile, at \
             stages/web.yml:3:5\n  hint: give one of them another `name`\n"
        )
    };
    assert_eq!((code, err), (2, format!("error: {}{}", error(4, "two/app/Dockerfile"), error(5, "app.yml"))));
    // With names of their own, templates know them by these.
    project
        .write("app.yml", "name: other\n")
        .write("templates/x", "{{ image.app }} {{ image.second }} {{ image.other }}");
    project.write(
        "stages/web.yml",
        "stage: web\nresources:\n  - image: { dockerfile: one/app/Dockerfile }\n  - image: { dockerfile: two/app/Dockerfile, name: \
         second }\n  - image: app.yml\n  - file: { path: /x, template: x }\n",
    );
    let (code, _, err) = project.run(&["validate"]);
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn a_secret_is_no_build_argument() {
    let project = Project::new();
    project.write("app/Dockerfile", "FROM scratch\n");
    project.write(
        "stages/web.yml",
        "stage: web\nresources:\n  - image:\n      dockerfile: app/Dockerfile\n      build_args: { A: x, TOKEN: \"{{ secret.pypi.token \
         }}\" }\n",
    );
    let (code, _, err) = project.run(&["validate"]);
    let expected = "error: stages/web.yml:5:34: the build argument TOKEN would tell the secret pypi.token\n  hint: arguments stay \
                    readable in the image's history: give the running container the secret instead\n";
    assert_eq!((code, err.as_str()), (2, expected));
}

#[test]
fn duplicate_key_is_an_error_with_a_place() {
    let project = Project::new();
    project.write("stages/web.yml", "stage: web\nsummary: a\nsummary: b\n");
    let (code, _, err) = project.run(&["validate"]);
    assert_eq!(code, 2);
    assert!(err.starts_with("error: stages/web.yml:3:1: "), "{err}");
}

#[test]
fn missing_secrets_are_all_named_before_anything_happens() {
    let project = Project::new();
    project.write(
        "stages/web.yml",
        "stage: web\nresources:\n  - file: { path: /tmp/never, content: \"{{ secret.a.one }} {{ secret.b }}\" }\n",
    );
    let (code, _, err) = project.run(&["plan"]);
    assert_eq!(code, 2);
    assert!(err.contains("secrets/secrets.yml") && err.contains("provision secret init"), "{err}");
    let (code, out, _) = project.run(&["secret", "init"]);
    assert_eq!((code, out.as_str()), (0, "2 random values made: a.one, b\n"));
    project.run(&["secret", "remove", "b"]);
    project.run(&["secret", "remove", "a.one"]);
    let (code, _, err) = project.run(&["plan"]);
    assert_eq!(code, 2);
    assert!(err.contains("the secret `a.one` is missing") && err.contains("the secret `b` is missing"), "{err}");
}

#[test]
fn unknown_stage_and_host_and_inventory() {
    let project = Project::new();
    project.write("stages/web.yml", "stage: web\n");
    let (code, _, err) = project.run(&["stage", "rerun", "wep"]);
    assert_eq!((code, err.as_str()), (2, "error: there is no stage `wep`\n  hint: did you mean \"web\"?\n"));
    let (code, _, err) = project.run(&["plan", "--host", "bax"]);
    assert_eq!((code, err.as_str()), (2, "error: the inventory has no host `bax`\n  hint: did you mean \"box\"?\n"));
    let (code, _, err) = project.run(&["plan", "-i", "inventory/none.yml"]);
    assert_eq!(code, 2);
    assert!(err.starts_with("error: cannot read inventory/none.yml: No such file"), "{err}");
    let (code, _, _) = project.run(&["plan", "--nonsense"]);
    assert_eq!(code, 2);
}

#[test]
fn unreachable_host() {
    let project = Project::new();
    project.write("stages/web.yml", "stage: web\n");
    project.write("inventory/mine.yml", "hosts:\n  far:\n    transport: ssh\n    address: 127.0.0.1\n    port: 1\n    host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHvfFXvXbHhlqU4QzjsBge8fhu4KJGij9LElGMsLHDzj\n");
    let (code, _, err) = project.run(&["plan"]);
    assert_eq!(code, 1);
    assert!(err.contains("host far: 127.0.0.1:1 cannot be reached") && err.contains("hint:"), "{err}");
}

#[test]
fn explain_and_completions_and_schema() {
    let project = Project::new();
    project.write("stages/web.yml", "stage: web\n");
    project.write("inventory/mine.yml", "hosts:\n  box:\n    transport: local\nvalues:\n  web:\n    port: 81\n");
    let (code, out, _) = project.run(&["config", "explain", "web.port", "--set", "web.port=82"]);
    let expected = "web.port = 82  --set:1:1\nweb.port = 81  inventory/mine.yml:6:11  (overridden)\nweb.port = 80  inventory/defaults.yml:2:9  (overridden)\n";
    assert_eq!((code, out.as_str()), (0, expected));
    let (code, out, _) = project.run(&["completions", "bash"]);
    assert!(code == 0 && out.contains("_provision()"));
    let (code, out, _) = project.run(&["config", "schema", "stage"]);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && schema["properties"]["resources"]["items"]["oneOf"].as_array().unwrap().len() > 3);
}

#[test]
fn secrets_from_set_to_check() {
    let project = Project::new();
    project.write("stages/web.yml", "stage: web\n");
    assert_eq!(project.run(&["secret", "init"]).0, 0);
    project.command(&["secret", "set", "db.password"]).write_stdin("correct horse\n").assert().code(0);
    let (code, out, _) = project.run(&["secret", "get", "db.password"]);
    assert_eq!((code, out.as_str()), (0, "correct horse\n"));
    let file = std::fs::read_to_string(project.path().join("secrets/secrets.yml")).unwrap();
    assert!(!file.contains("horse"));
    let (code, out, _) = project.run(&["secret", "check"]);
    assert_eq!((code, out.as_str()), (0, "1 values, 1 recipients: all in order\n"));
    let (code, _, err) = project.run(&["secret", "get", "db.pasword"]);
    assert_eq!(code, 1);
    assert!(err.contains("did you mean \"db.password\"?"), "{err}");
    // An editor that breaks the form: nothing is lost, nothing is changed.
    let broken = project.command(&["secret", "edit"]).env("EDITOR", "sed -i s/.*/:broken[/").output().unwrap();
    assert_eq!(broken.status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(project.path().join("secrets/secrets.yml")).unwrap(), file);
    // One that changes a value changes one line.
    project.command(&["secret", "edit"]).env("EDITOR", "sed -i s/horse/mare/").assert().code(0);
    assert_eq!(project.run(&["secret", "get", "db.password"]).1, "correct mare\n");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let project = Project::new();
    project.write("stages/web.yml", "stage: web\n");
    let binary = assert_cmd::cargo::cargo_bin("provision");
    let script = format!("{} config schema stage | head -n 1; exit ${{PIPESTATUS[0]}}", binary.display());
    let output = std::process::Command::new("bash").arg("-c").arg(script).current_dir(project.path()).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn artifacts_one_by_one_and_in_json_lines() {
    let project = Project::new();
    let artifact = |name: &str, script: &str| {
        format!("{name}:\n  version: v1\n  kind: binary\n  recipe: {{ script: {script} }}\n")
    };
    project
        .write("stages/web.yml", "stage: web\n")
        .write("artifacts.yml", &[artifact("bad", "bad.sh"), artifact("good", "good.sh")].concat())
        .write("bad.sh", "echo no luck; exit 3\n")
        .write("good.sh", "echo content > \"$1\"\n");
    let lines = |arguments: &[&str]| {
        let (code, out, _) = project.run(arguments);
        let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["schema"], 1, "{out}");
        assert!(lines[1..].iter().all(|line| line.get("schema").is_none()), "{out}");
        (code, lines)
    };
    let (code, fetched) = lines(&["--json", "artifact", "fetch"]);
    let results: Vec<_> = fetched.iter().map(|line| line["result"].as_str().unwrap_or_default()).collect();
    assert_eq!((code, results), (1, vec!["failed", "cached", ""]));
    assert!(fetched[0]["error"].as_str().unwrap().contains("no luck"), "{fetched:?}");
    assert_eq!((&fetched[2]["cached"], &fetched[2]["ok"]), (&1.into(), &false.into()));
    let (code, _, err) = project.run(&["artifact", "fetch"]);
    assert_eq!(code, 1);
    assert!(err.contains("error: bad: ") && err.contains("1 artifacts are in the cache, 1 could not be had"), "{err}");
    let (code, listed) = lines(&["--json", "artifact", "list"]);
    assert_eq!((code, &listed[2]["artifacts"], &listed[2]["cached"]), (0, &2.into(), &1.into()));

    // Cut, as a full disk does it.
    let sha256 = listed[1]["artifact"]["hash"].as_str().unwrap();
    project.run(&["artifact", "verify"]);
    let blob = project.path().join("cache/provision/blobs/sha256").join(sha256);
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "con").unwrap();
    let (code, verified) = lines(&["--json", "artifact", "verify"]);
    assert_eq!((code, &verified[1]["result"], &verified[2]["damaged"]), (1, &"damaged".into(), &1.into()));
    assert!(!blob.exists());
    let (code, out, _) = project.run(&["artifact", "verify"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "0 of 0 files (0.0 MB) are what their hashes say; 2 artifacts are not in the cache\n")
    );
}

#[test]
fn what_asks_the_network_takes_no_bundle() {
    let project = Project::new();
    project.write("stages/web.yml", "stage: web\n");
    for arguments in [&["--bundle", "none", "artifact", "fetch"][..], &["--bundle", "none", "bundle", "create", "x"]] {
        let (code, out, err) = project.run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains("takes nothing from a bundle") && err.contains("hint: leave out --bundle"), "{err}");
    }
}

/// The archive with the real Helm, as the sandbox builds it; other tests build it where it is missing.
fn helm() -> Option<std::path::PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(Into::into);
    let cache = cache.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"));
    let archive = cache.join("provision/tools/helm-v4.3.1-linux-amd64.tar.gz");
    let required = std::env::var("PROVISION_REQUIRE_PEERS").as_deref() == Ok("1");
    assert!(archive.exists() || !required, "PROVISION_REQUIRE_PEERS=1, but there is no {}", archive.display());
    archive.exists().then_some(archive)
}

#[test]
fn a_bundle_needs_the_images_in_charts_and_their_hooks() {
    let Some(helm) = helm() else { return };
    let project = Project::new();
    let pod = |name: &str, hook: &str, image: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ {name}, annotations: {{ {hook} }} }}\n\
             spec: {{ containers: [{{ name: c, image: {image} }}] }}\n"
        )
    };
    project
        .write("charts/demo/Chart.yaml", "apiVersion: v2\nname: demo\nversion: 0.1.0\nkubeVersion: '>=1.25.0'\n")
        .write("charts/demo/values.yaml", "image: ghcr.io/x/chart-default:v9\nother: ghcr.io/x/unused:v1\n")
        .write("charts/demo/templates/app.yaml", &pod("name: app", "", "\"{{ .Values.image }}\""))
        .write(
            "charts/demo/templates/hook.yaml",
            &pod("generateName: h-", "helm.sh/hook: pre-install", "ghcr.io/x/hook:v1"),
        )
        .write("charts/demo/templates/test.yaml", &pod("name: t", "helm.sh/hook: test", "ghcr.io/x/test:v1"))
        .write("pack.sh", "tar -cz -C charts demo > \"$1\"\n")
        .write("helm.sh", &format!("cp {} \"$1\"\n", helm.display()));
    let recipe = |name: &str, kind: &str, script: &str| {
        format!("{name}:\n  version: v1\n  kind: {kind}\n  recipe: {{ script: {script}, inputs: [charts] }}\n")
    };
    let chart = recipe("demo-chart", "chart", "pack.sh");
    let stage = |chart: &str, others: &str| {
        let release =
            format!("{{ release: demo, namespace: demo, chart: {chart}, values: {{ image: 'ghcr.io/x/app:v1' }} }}");
        format!("stage: web\nresources:\n  - helm: {release}\nnot_images: [{others}]\n")
    };
    project.run(&["bundle", "keygen", "--secret-key", "key"]);
    let create = ["bundle", "create", "--secret-key", "key", "b.tar.zst"];

    // Nothing can be known without Helm, and nothing of a chart that would be downloaded.
    project.write("artifacts.yml", &chart).write("stages/web.yml", &stage("{ path: charts/demo }", ""));
    let (code, _, err) = project.run(&create);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("stages/web.yml:3:5: which images helm demo/demo needs cannot be known"), "{err}");
    project.write("artifacts.yml", &[chart, recipe("helm", "archive", "helm.sh")].concat());
    project.write("stages/web.yml", &stage("{ oci: 'oci://ghcr.io/x/demo', version: 0.1.0 }", ""));
    let (code, _, err) = project.run(&create);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("stages/web.yml:3:5: helm demo/demo comes from oci://ghcr.io/x/demo"), "{err}");

    for from in ["{ path: charts/demo }", "{ artifact: demo-chart }"] {
        project.write("stages/web.yml", &stage(from, ""));
        let (code, _, err) = project.run(&create);
        assert_eq!(code, 2, "{err}");
        let missing: Vec<_> = err.lines().filter_map(|line| line.split_once("no image of the bundle is ")).collect();
        let missing: Vec<_> = missing.iter().map(|(_, rest)| rest.split(';').next().unwrap()).collect();
        assert_eq!(missing, ["ghcr.io/x/app:v1", "ghcr.io/x/hook:v1", "ghcr.io/x/test:v1"], "{err}");
        assert!(!project.path().join("b.tar.zst").exists());
    }

    project.write(
        "stages/web.yml",
        &stage("{ artifact: demo-chart }", "'ghcr.io/x/app:v1', 'ghcr.io/x/hook:v1', 'ghcr.io/x/test:v1'"),
    );
    let (code, _, err) = project.run(&create);
    assert_eq!(code, 0, "{err}");
    let (_, listed, _) = project.run(&["bundle", "list", "b.tar.zst"]);
    assert!(listed.contains("helm demo/demo"), "the chart is in the bundle: {listed}");

    project.write("charts/demo/templates/app.yaml", "{{ fail \"port is needed\" }}");
    let (code, _, err) = project.run(&create);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("helm demo/demo") && err.contains("port is needed"), "{err}");
}

#[test]
fn a_bundle_needs_the_images_that_dockerfiles_begin_with() {
    let project = Project::new();
    project
        .write("stages/web.yml", "stage: web\nresources:\n  - image: { dockerfile: apps/web/Dockerfile }\n")
        .write("apps/web/Dockerfile", "FROM docker.io/library/python:3.12\nCOPY --from=ghcr.io/x/uv:1 /uv /bin/\n");
    project.run(&["bundle", "keygen", "--secret-key", "key"]);
    let create = ["bundle", "create", "--secret-key", "key", "b.tar.zst"];
    let (code, _, err) = project.run(&create);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("stages/web.yml:3:5: no image of the bundle is docker.io/library/python:3.12;"), "{err}");
    assert!(err.contains("names it (Dockerfile, line 1)") && err.contains("ghcr.io/x/uv:1"), "{err}");
    project.write("apps/web/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let (code, _, err) = project.run(&create);
    assert_eq!(code, 0, "{err}");
}
