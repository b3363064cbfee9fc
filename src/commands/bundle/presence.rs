//! Before anything is applied on a host without a registry: is every image there that the stages name?

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::charts::{self, Charts};
use crate::artifacts::Store;
use crate::cluster::parse_manifest;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::engine::{Program, Step};
use crate::image::ImageSource;
use crate::image::discover::{self, Known, Named};
use crate::image::dockerfile::bases;
use crate::image::reference::Reference;
use crate::project::StageFile;

/// Kinds whose specs name files and secrets, not images that pods use.
const OTHERS: [&str; 4] = ["apt", "archive", "download", "secret"];

/// Checks that every image that `programs` name is one of `names`. `stages` are the files that they come from.
///
/// # Errors
/// All that are missing, and where each is named; and those that Kubernetes would ask a registry for although they are there.
pub fn check<'a>(
    programs: impl IntoIterator<Item = &'a Program>,
    stages: &[&StageFile],
    names: impl IntoIterator<Item = &'a str>,
    charts: &Charts,
    store: &Store,
) -> Result<(), Diagnostics> {
    let others = Others::of(stages)?;
    let programs: Vec<_> = programs.into_iter().collect();
    // What image resources bring themselves, those of Dockerfiles among it.
    let own = programs.iter().flat_map(|program| steps(program)).filter(|step| step.kind == "image");
    let own = own.filter_map(source).map(|source| source.stored_name());
    let names: Vec<String> = names.into_iter().map(str::to_owned).chain(own).collect();
    let known = Known::new(names.iter().map(String::as_str));
    // Several hosts name the same things.
    let mut faults = BTreeMap::new();
    for program in programs {
        for (stage, step) in program.stages.iter().flat_map(|stage| stage.resources.iter().map(move |it| (stage, it))) {
            let found = match named(step, &known, charts, store) {
                Ok(found) => found,
                Err(fault) => {
                    faults.entry(fault.message.clone()).or_insert(fault);
                    continue;
                }
            };
            for named in found {
                let Some((message, hint)) = fault(step, &named, &known).filter(|_| !others.has(&stage.name, &named))
                else {
                    continue;
                };
                faults.entry(message.clone()).or_insert_with(|| Diagnostic::at(step.place.clone(), message).hint(hint));
            }
        }
    }
    Diagnostics(faults.into_values().collect()).into_result(())
}

fn steps(program: &Program) -> impl Iterator<Item = &Step> {
    program.stages.iter().flat_map(|stage| &stage.resources)
}

fn named(step: &Step, known: &Known, charts: &Charts, store: &Store) -> Result<Vec<Named>, Diagnostic> {
    if step.kind == "image" {
        return in_dockerfile(step, store);
    }
    if OTHERS.contains(&step.kind.as_str()) {
        return Ok(Vec::new());
    }
    if step.kind == "helm" {
        return in_chart(step, known, charts);
    }
    let objects = step.spec.get("content").and_then(Value::as_str).filter(|_| step.kind == "manifest");
    Ok(match objects.map(parse_manifest) {
        Some(Ok(objects)) => discover::in_objects(&objects, known),
        // What does not parse is reported when it is applied; it may name images all the same.
        Some(Err(_)) | None => discover::in_value(&step.spec, known),
    })
}

/// What an image resource stands for.
fn source(step: &Step) -> Option<ImageSource> {
    serde_json::from_value(step.spec.get("resolved")?.clone()).ok()
}

/// BuildKit takes the images that a Dockerfile begins with from where the others are, and asks their registry for all that are not there.
fn in_dockerfile(step: &Step, store: &Store) -> Result<Vec<Named>, Diagnostic> {
    let Some(ImageSource::Dockerfile(build)) = source(step) else {
        return Ok(Vec::new());
    };
    let bases = bases::of_build(&build, store).map_err(|error| {
        let message = format!("which images building {} needs cannot be known: {error:#}", step.title());
        Diagnostic::at(step.place.clone(), message).hint("give its arguments a default, or a value in `build_args`")
    })?;
    let named = |base: bases::Base| Named {
        at: format!("{}, line {}", build.dockerfile, base.line),
        reference: base.reference,
        always: false,
    };
    Ok(bases.into_iter().map(named).collect())
}

/// A chart has images of its own, whatever the values say.
fn in_chart(step: &Step, known: &Known, charts: &Charts) -> Result<Vec<Named>, Diagnostic> {
    if let Some(address) = charts::remote(step) {
        let message = format!("{} comes from {address}, and with a bundle nothing is downloaded", step.title());
        let hint = "put the chart's .tgz into artifacts.yml and write `chart: { artifact: NAME }`, or its folder: `chart: { path: FOLDER }`";
        return Err(Diagnostic::at(step.place.clone(), message).hint(hint));
    }
    let objects = charts.objects(step).map_err(|error| {
        let message =
            format!("which images {} needs cannot be known, its chart cannot be rendered: {error:#}", step.title());
        Diagnostic::at(step.place.clone(), message).hint(
            "this machine renders charts with the artifact `helm` (value `tools.helm`) before anything is applied",
        )
    })?;
    Ok(discover::in_objects(&objects, known))
}

/// Names that stages say are no images.
struct Others(BTreeSet<(String, String)>);

impl Others {
    fn of(stages: &[&StageFile]) -> Result<Self, Diagnostics> {
        let mut names = BTreeSet::new();
        let mut faults = Diagnostics::default();
        for stage in stages {
            for (text, place) in &stage.not_images {
                match Reference::parse(text) {
                    Some(reference) => drop(names.insert((stage.name.clone(), reference.stored_name()))),
                    None => {
                        let message = format!("{text:?} in `not_images` does not look like the name of an image");
                        let hint = "write it as the message about the missing image has it, or leave it out";
                        faults.0.push(Diagnostic::at(place.clone(), message).hint(hint));
                    }
                }
            }
        }
        faults.into_result(Self(names))
    }

    fn has(&self, stage: &str, named: &Named) -> bool {
        self.0.contains(&(stage.to_owned(), named.reference.stored_name()))
    }
}

fn fault(step: &Step, named: &Named, known: &Known) -> Option<(String, String)> {
    let name = named.reference.stored_name();
    let place = format!("{} names it ({})", step.title(), named.at);
    if !known.has(&named.reference) {
        let hint = format!(
            "add it to a stage as `image: {{ artifact: NAME }}` (or `image: RECIPE`), and make the bundle again; \
             if it is no image, name it in that stage file: `not_images: [{}]`",
            name.trim_start_matches("docker.io/").trim_start_matches("library/")
        );
        return Some((format!("no image of the bundle is {name}; {place}"), hint));
    }
    if named.always {
        let hint = "write `imagePullPolicy: IfNotPresent` and a tag other than latest".to_owned();
        let message = format!("Kubernetes would ask a registry for {name} each time, and there is none; {place}");
        return Some((message, hint));
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diagnostic::Place;
    use crate::engine::Stage;

    fn program(steps: &[(&str, Value)]) -> Program {
        let step = |(index, (kind, spec)): (usize, &(&str, Value))| Step {
            kind: (*kind).to_owned(),
            name: format!("step-{index}"),
            place: Place { file: "stages/web.yml".into(), line: index as u32 + 1, column: 5 },
            spec: spec.clone(),
        };
        let resources = steps.iter().enumerate().map(step).collect();
        let stage = Stage {
            name: "web".into(),
            layer: "web".into(),
            needs: Vec::new(),
            resources,
            checks: Vec::new(),
            endpoints: Vec::new(),
        };
        Program { stages: vec![stage] }
    }

    fn checked(programs: &[&Program], stages: &[&StageFile], names: &[&str]) -> Result<(), Diagnostics> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path()).unwrap();
        let charts =
            Charts::of(programs.iter().copied(), &store, || anyhow::bail!("there is no artifact helm")).unwrap();
        check(programs.iter().copied(), stages, names.iter().copied(), &charts, &store)
    }

    fn pod(image: &str, policy: &str) -> Value {
        let content = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: a }}\nspec: {{ containers: [{{ name: c, image: '{image}'{policy} }}] }}\n"
        );
        json!({ "path": "web/web.yml", "content": content })
    }

    #[test]
    fn all_that_is_missing_is_listed_with_where_it_is_named() {
        let program = program(&[
            ("manifest", pod("busybox:1", "")),
            ("manifest", pod("ghcr.io/a/b:v1", "")),
            ("file", json!({"path": "/etc/x", "content": "pause: registry.k8s.io/pause:3.10\n"})),
            ("manifest", pod("busybox:1", ", imagePullPolicy: Always")),
            ("secret", json!({"data": {"x": "quay.io/not/looked:at"}})),
        ]);
        // Two hosts with the same stages: everything is said once.
        let faults = checked(&[&program, &program], &[], &["docker.io/library/busybox:1"]).unwrap_err();
        insta::assert_snapshot!(faults.to_string(), @"
        stages/web.yml:4:5: Kubernetes would ask a registry for docker.io/library/busybox:1 each time, and there is none; manifest step-3 names it (Pod a: spec.containers[0].image)
          hint: write `imagePullPolicy: IfNotPresent` and a tag other than latest
        stages/web.yml:2:5: no image of the bundle is ghcr.io/a/b:v1; manifest step-1 names it (Pod a: spec.containers[0].image)
          hint: add it to a stage as `image: { artifact: NAME }` (or `image: RECIPE`), and make the bundle again; if it is no image, name it in that stage file: `not_images: [ghcr.io/a/b:v1]`
        stages/web.yml:3:5: no image of the bundle is registry.k8s.io/pause:3.10; file step-2 names it (content, line 1)
          hint: add it to a stage as `image: { artifact: NAME }` (or `image: RECIPE`), and make the bundle again; if it is no image, name it in that stage file: `not_images: [registry.k8s.io/pause:3.10]`
        ");
        checked(&[&program], &[], &[]).unwrap_err();
    }

    #[test]
    fn what_a_stage_says_is_no_image_is_none_there() {
        let program = program(&[("manifest", pod("data/train", ", imagePullPolicy: Never"))]);
        let stage = |name: &str, other: &str| {
            let text = format!("stage: {name}\nnot_images: ['{other}']\n");
            StageFile::parse(&format!("stages/{name}.yml"), &text, &[], &[]).unwrap()
        };
        checked(&[&program], &[&stage("web", "data/train")], &[]).unwrap();
        checked(&[&program], &[&stage("web", "docker.io/data/train:latest")], &[]).unwrap();
        for other in [stage("web", "data/test"), stage("api", "data/train")] {
            let fault = checked(&[&program], &[&other], &[]).unwrap_err().to_string();
            assert!(fault.contains("not_images: [data/train:latest]"), "{fault}");
        }
        let fault = checked(&[&program], &[&stage("web", "Data")], &[]).unwrap_err().to_string();
        assert!(fault.starts_with("stages/web.yml:2:14: \"Data\" in `not_images` does not look like"), "{fault}");
    }

    #[test]
    fn charts_that_cannot_be_looked_into_are_faults() {
        let release = |chart: Value| json!({"release": "a", "namespace": "demo", "chart": chart});
        let program = program(&[
            ("helm", release(json!({"oci": "oci://ghcr.io/x/chart", "version": "1.0.0"}))),
            ("helm", release(json!({"repo": "https://charts.example.org", "name": "x", "version": "1.0.0"}))),
            ("helm", release(json!({"path": "charts/x", "packed": {"content_base64": ""}}))),
        ]);
        insta::assert_snapshot!(checked(&[&program], &[], &[]).unwrap_err().to_string(), @"
        stages/web.yml:1:5: helm step-0 comes from oci://ghcr.io/x/chart, and with a bundle nothing is downloaded
          hint: put the chart's .tgz into artifacts.yml and write `chart: { artifact: NAME }`, or its folder: `chart: { path: FOLDER }`
        stages/web.yml:2:5: helm step-1 comes from https://charts.example.org, and with a bundle nothing is downloaded
          hint: put the chart's .tgz into artifacts.yml and write `chart: { artifact: NAME }`, or its folder: `chart: { path: FOLDER }`
        stages/web.yml:3:5: which images helm step-2 needs cannot be known, its chart cannot be rendered: there is no Helm for this machine: there is no artifact helm
          hint: this machine renders charts with the artifact `helm` (value `tools.helm`) before anything is applied
        ");
    }

    #[test]
    fn what_is_there_is_fine() {
        let program = program(&[("manifest", pod("busybox:1", ""))]);
        checked(&[&program], &[], &["busybox:1"]).unwrap();
    }
}
