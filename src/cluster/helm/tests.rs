use serde_json::json;

use super::*;

fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().map(|object| ObjectRef::of(object).unwrap().to_string()).collect()
}

#[test]
fn a_rendered_chart_is_taken_apart() {
    let rendered = taken_apart(
        "---\n# Source: web/crds/widgets.yaml\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a}\n\
         ---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: b}\n\
         ---\n# Source: web/templates/crd.yaml\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: c}\n\
         ---\n# Source: web/templates/config.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndata:\n  x: |\n    ---\n    y\n\
         ---\n# Source: web/templates/empty.yaml\n# nothing\n\
         ---\n# Source: web/templates/job.yaml\napiVersion: batch/v1\nkind: Job\nmetadata: {name: e, annotations: {helm.sh/hook: post-install}}\n\
         ---\n# Source: web/templates/once.yaml\napiVersion: batch/v1\nkind: Job\nmetadata: {generateName: f-, annotations: {helm.sh/hook: pre-upgrade}}\n",
    )
    .unwrap();
    assert_eq!(names(&rendered.definitions), ["CustomResourceDefinition a", "CustomResourceDefinition b"]);
    assert_eq!(names(&rendered.objects), ["CustomResourceDefinition c", "ConfigMap d"]);
    assert_eq!(rendered.objects[1]["data"]["x"], "---\ny\n");
    assert_eq!(names(&rendered.hooks), ["Job e"]);
    let fault = taken_apart("---\n# Source: web/templates/a.yaml\nkind: Secret\nstringData: {P: canary, P: canary}\n");
    let fault = fault.unwrap_err();
    assert!(fault.starts_with("web/templates/a.yaml: ") && !fault.contains("canary"), "{fault}");
}

#[test]
fn only_the_crds_folder_of_a_chart_holds_definitions() {
    for (source, expected) in [
        ("web/crds/a.yaml", true),
        ("web/crds/deep/a.yaml", true),
        ("web/charts/db/crds/a.yaml", true),
        ("web/charts/db/charts/cache/crds/a.yaml", true),
        ("crds/crds/a.yaml", true),
        // argo-cd has them there: templates, which Helm makes itself.
        ("web/templates/crds/a.yaml", false),
        ("web/charts/db/templates/crds/a.yaml", false),
        // Charts of this name.
        ("web/charts/crds/templates/a.yaml", false),
        ("crds/templates/a.yaml", false),
        ("web/charts/crds", false),
        ("", false),
    ] {
        assert_eq!(is_in_crds_folder(source), expected, "{source}");
    }
}

#[test]
fn a_file_of_definitions_that_helm_made_itself_stays_in_its_folder() {
    let document = |source: &str, name: &str| {
        format!(
            "---\n# Source: {source}\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {name}}}\n"
        )
    };
    let text = [
        document("web/crds/all.yaml", "a"),
        document("operator/templates/b.yaml", "b"),
        document("web/templates/crds/c.yaml", "c"),
    ];
    let rendered = taken_apart(&text.concat()).unwrap();
    assert_eq!(names(&rendered.definitions), ["CustomResourceDefinition a", "CustomResourceDefinition b"]);
    assert_eq!(names(&rendered.objects), ["CustomResourceDefinition c"]);
}

#[test]
fn what_a_chart_no_longer_has_is_taken_away() {
    let live = json!({"data": {"a": "1", "b": "2", "byhand": "3"}, "containers": [
        {"name": "x", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "imagePullPolicy": "Always"},
        {"name": "injected"}, {"name": "y"}]});
    let before = json!({"data": {"a": "1", "b": "2"}, "containers": [
        {"name": "x", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}, {"name": "y"}]});
    let after = json!({"data": {"a": "1"}, "containers": [{"name": "x", "env": [{"name": "A", "value": "1"}]}]});
    assert_eq!(
        without_removed(&live, &before, &after),
        json!({"data": {"a": "1", "byhand": "3"}, "containers": [
            {"name": "x", "env": [{"name": "A", "value": "1"}], "imagePullPolicy": "Always"}, {"name": "injected"}]})
    );
    assert_eq!(without_removed(&live, &before, &before), live);
}

fn revision(number: u64, status: Status) -> Revision {
    Revision {
        number,
        status,
        since: String::new(),
        chart: "web 1.0.0".into(),
        values: json!({}),
        objects: Vec::new(),
        labels: BTreeMap::new(),
        server_side: true,
    }
}

#[test]
fn where_to_go_back_to() {
    use Status::{Deployed, Failed, PendingInstall, PendingUpgrade, Uninstalled};
    for (history, expected) in [
        (vec![(1, PendingInstall)], None),
        (vec![(3, Deployed), (4, PendingUpgrade)], Some(3)),
        (vec![(3, Deployed), (4, Failed), (5, PendingUpgrade)], Some(3)),
        (vec![(1, Failed), (2, PendingUpgrade)], Some(1)),
        (vec![(1, Uninstalled), (2, PendingInstall)], None),
    ] {
        let history = History(history.into_iter().map(|(number, status)| revision(number, status)).collect());
        let latest = history.latest().unwrap().number;
        assert_eq!(history.to_go_back_to(latest).map(|revision| revision.number), expected, "{history:?}");
    }
    assert_eq!(History(vec![revision(1, Uninstalled)]).latest(), None);
}

#[test]
fn a_broken_record_shows_nothing_of_itself() {
    let record = STANDARD.encode(r#"{"version":1,"config":{"password":"canary"},"info":{"status":"odd"}}"#);
    let secret = json!({"data": {"release": STANDARD.encode(record)}});
    let error = revision_in(&secret).unwrap_err();
    assert!(error.contains("does not fit") && !error.contains("canary"), "{error}");
    assert!(revision_in(&json!({})).unwrap_err().contains("no `release`"));
}
