#![allow(clippy::unwrap_used)]

use super::*;
use crate::host::Owner;
use crate::host::fake::{FakeHost, failed, ok};
use crate::resources::testing::{Project, changes, nothing, pending, refused, spec};

fn resolve_error(json: &str) -> String {
    let mut file: File = spec(json);
    format!("{:#}", file.resolve(&mut Project::default()).unwrap_err())
}

#[tokio::test]
async fn a_new_file_is_shown_in_full() {
    let host = FakeHost::new();
    let file: File = spec(r#"{"path": "/etc/motd", "content": "a\nb\n", "owner": "5", "group": "6"}"#);
    let shown = changes(&file, &host).await;
    assert_eq!(shown[..3], ["create", "mode: 0644", "owner: 5:6"]);
    assert_eq!(shown[3], "content: @@ -0,0 +1,2 @@\n+a\n+b");
    assert_eq!(host.changes(), ["write /etc/motd 0644 5:6"]);
}

#[tokio::test]
async fn only_what_differs_is_changed() {
    let file: File = spec(r#"{"path": "/etc/motd", "content": "a\n"}"#);
    let host = FakeHost::new().file("/etc/motd", "a\n", 0o600);
    host.files().put_owner("/etc/motd", Owner { uid: 3, gid: 0 });
    let shown = changes(&file, &host).await;
    assert_eq!(shown, ["change", "mode: 0600 -> 0644", "owner: 3:root -> root:root"]);
    assert_eq!(host.changes(), ["owner /etc/motd 0:0", "mode /etc/motd 0644"]);
    nothing(&file, &host).await;
}

#[tokio::test]
async fn an_edit_by_hand_is_shown_and_undone() {
    let file: File = spec(r#"{"path": "/etc/motd", "content": "a\nb\n"}"#);
    let host = FakeHost::new().file("/etc/motd", "a\nB\n", 0o644);
    let shown = changes(&file, &host).await;
    assert_eq!(shown, ["change", "content: @@ -1,2 +1,2 @@\n a\n-B\n+b"]);
    for (before, after) in [("", "x"), ("x", ""), ("x", "x\n"), ("x\r\n", "x\n")] {
        let host = FakeHost::new().file("/etc/motd", before, 0o644);
        let json = serde_json::json!({"path": "/etc/motd", "content": after});
        changes(&serde_json::from_value::<File>(json).unwrap(), &host).await;
    }
}

#[tokio::test]
async fn an_empty_file_is_made() {
    let host = FakeHost::new();
    let shown = changes(&spec::<File>(r#"{"path": "/etc/empty", "content": ""}"#), &host).await;
    assert_eq!(shown[3], "content: (empty)");
}

#[tokio::test]
async fn a_secret_is_never_shown_and_not_readable_by_others() {
    let host = FakeHost::new().file("/etc/token", "old-secret", 0o644);
    let file: File = spec(r#"{"path": "/etc/token", "content": "new-secret", "secret": true}"#);
    let shown = changes(&file, &host).await;
    assert_eq!(shown, ["change", "mode: 0644 -> 0600", "content: (hidden, changed)"]);
}

#[tokio::test]
async fn a_link_is_replaced_by_the_file() {
    let host = FakeHost::new().link("/etc/resolv.conf", "/run/x").file("/run/x", "keep", 0o644);
    let file: File = spec(r#"{"path": "/etc/resolv.conf", "content": "a\n"}"#);
    let shown = changes(&file, &host).await;
    assert_eq!(shown, ["change", "type: link -> file", "content: @@ -0,0 +1 @@\n+a"]);
    assert_eq!(host.files().text("/run/x"), "keep");
}

#[tokio::test]
async fn what_is_not_text_is_compared_by_hash() {
    let mut file: File = spec(r#"{"path": "/opt/bin", "source": "files/bin"}"#);
    let mut project = Project::default();
    project.sources.insert("files/bin".into(), vec![0xff, 0, 1]);
    file.resolve(&mut project).unwrap();
    let host = FakeHost::new().file("/opt/bin", "text", 0o644);
    let shown = changes(&file, &host).await;
    let (old, new) = (&hash::sha256("text")[..12], &hash::sha256([0xff, 0, 1])[..12]);
    let content = format!("content: sha256 {old} (4 bytes) -> sha256 {new} (3 bytes)");
    assert_eq!(shown, ["change", &content]);
    let large = FakeHost::new().file("/opt/bin", vec![7; LARGEST + 1], 0o644);
    let shown = changes(&file, &large).await;
    assert!(shown[1].ends_with(&format!("-> sha256 {new} (3 bytes)")), "{shown:?}");
}

#[tokio::test]
async fn removed_and_then_left_alone() {
    let host = FakeHost::new().file("/etc/old", "", 0o644);
    let file: File = spec(r#"{"path": "/etc/old", "absent": true}"#);
    assert_eq!(changes(&file, &host).await, ["delete", "path: removed"]);
    nothing(&file, &host).await;
}

#[test]
fn templates_become_content() {
    let mut file: File = spec(r#"{"path": "/etc/x", "template": "a/x"}"#);
    let mut project = Project::default();
    project.templates.insert("a/x".into(), "rendered".into());
    file.resolve(&mut project).unwrap();
    assert_eq!(*file.wanted().unwrap(), *b"rendered");
    // The agent may resolve what was resolved: nothing changes.
    let before = file.clone();
    file.resolve(&mut project).unwrap();
    assert_eq!(file, before);
}

#[test]
fn specs_that_make_no_sense_are_refused() {
    assert_eq!(
        resolve_error(r#"{"path": "/x"}"#),
        "/x has no content; give it one of `content`, `template` and `source`, or `absent: true`"
    );
    assert_eq!(
        resolve_error(r#"{"path": "/x", "content": "", "source": "y"}"#),
        "/x has more than one content: `content`, `source`; keep one of them"
    );
    assert_eq!(
        resolve_error(r#"{"path": "/x", "content": "", "absent": true}"#),
        "a file that is `absent` has no `content`; remove one of them"
    );
    assert!(resolve_error(r#"{"path": "/x", "content": "", "check_command": ["true"]}"#).contains("`{}`"));
    assert!(resolve_error(r#"{"path": "/x", "content_base64": "?"}"#).contains("is not base64"));
}

#[tokio::test]
async fn a_check_command_has_the_last_word() {
    let file: File = spec(
        r#"{"path": "/etc/sudoers.d/app", "content": "new", "mode": "0440", "check_command": ["visudo", "-cf", "{}"]}"#,
    );
    let old = || FakeHost::new().file("/etc/sudoers.d/app", "old", 0o440);
    let host = old().on_run(&["visudo", "-cf"], |files, cmd| {
        assert_eq!(files.text(&cmd.argv[2]), "new");
        ok("")
    });
    changes(&file, &host).await;
    assert_eq!(host.files().text("/etc/sudoers.d/app"), "new");

    let host = old().on_run(&["visudo"], |_, _| failed(1, "syntax error"));
    let before = host.files().clone();
    let Observed::Known(state) = file.observe(&host).await.unwrap() else { panic!() };
    let error = file.apply(&host, &file.diff(&state)).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.starts_with("/etc/sudoers.d/app was left as it is: its `check_command`"), "{error}");
    assert_eq!(*host.files(), before, "something was left behind");
}

#[tokio::test]
async fn a_directory_is_refused_and_a_missing_user_awaited() {
    let host = FakeHost::new().dir("/opt/d", 0o755);
    let error = refused(&spec::<File>(r#"{"path": "/opt/d", "content": ""}"#), &host).await;
    assert_eq!(error, "/opt/d: a directory is there; move it away or choose another path");
    let file: File = spec(r#"{"path": "/opt/f", "content": "", "owner": "app"}"#);
    assert_eq!(pending(&file, &host).await, "user \"app\" does not exist yet");
}
