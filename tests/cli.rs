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
