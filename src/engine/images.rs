//! What images are called: in templates (`image.NAME`) and on hosts, so that no two take each other's place.

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Diagnostics, Place};
use crate::project::render;
use crate::project::yaml::{Data, Key, Node};
use crate::resources::ImageSource;

/// An image that a stage names.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Name of the artifact, or path of the recipe or Dockerfile.
    pub resource: String,
    /// Whether it is named as an artifact.
    pub is_artifact: bool,
    pub source: ImageSource,
    pub place: Place,
}

impl Wanted {
    /// `image.NAME` in templates: the artifact's name, else the image's own.
    fn name(&self) -> String {
        if self.is_artifact {
            return self.resource.clone();
        }
        self.repository().rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// A second name for templates, where nothing else has it: the folder of the recipe or Dockerfile.
    fn folder(&self) -> Option<&str> {
        if self.is_artifact { None } else { self.resource.rsplit('/').nth(1) }
    }

    /// `provision.local/app`.
    pub(super) fn repository(&self) -> &str {
        self.source.repository()
    }

    /// The same image, whatever it is called here.
    fn is(&self, other: &Self) -> bool {
        self.source.stored_name() == other.source.stored_name() && self.source.digest() == other.source.digest()
    }

    fn conflict(&self, first: &Self) -> Option<Diagnostic> {
        let ours = |source: &ImageSource| !matches!(source, ImageSource::Registry { .. });
        let both = || format!("{} and {}, at {}", self.resource, first.resource, first.place);
        let (message, hint) = if self.is(first) {
            return None;
        } else if self.repository() == first.repository() && ours(&self.source) && ours(&first.source) {
            // Each would remove what the other brings, as an old build of its own.
            (format!("two images have the name {}: {}", self.repository(), both()), "give one of them another `name`")
        } else if self.name() == first.name() {
            let name = self.name();
            (format!("`image.{name}` would be two images: {}", both()), "give one of them another name")
        } else {
            return None;
        };
        Some(Diagnostic::at(self.place.clone(), message).hint(hint))
    }
}

/// The references of all images by the names that templates have for them; an error for each that takes another's name.
pub(super) fn names(wanted: &[Wanted], faults: &mut Diagnostics) -> Map<String, Value> {
    let mut names = Map::new();
    for (index, image) in wanted.iter().enumerate() {
        faults.0.extend(wanted[..index].iter().find_map(|first| image.conflict(first)));
        names.insert(image.name(), Value::String(image.source.reference()));
    }
    for image in wanted {
        let Some(folder) = image.folder().filter(|folder| wanted.iter().all(|other| other.name() != *folder)) else {
            continue;
        };
        // A folder of several images names none of them.
        if wanted.iter().all(|other| other.folder() != Some(folder) || other.is(image)) {
            names.insert(folder.to_owned(), Value::String(image.source.reference()));
        }
    }
    names
}

/// An error for each secret that an image would tell: arguments of a build are in the image's history, and in a list of processes.
pub(super) fn told_secrets(spec: &Node) -> Vec<Diagnostic> {
    let Some(Data::Map(arguments)) = spec.get("build_args").map(|node| &node.data) else {
        return Vec::new();
    };
    let secret = |(key, node): &(Key, Node)| {
        let name = render::secrets_in(node.as_str()?).into_iter().next()?;
        let message = format!("the build argument {} would tell the secret {name}", key.name);
        let hint = "arguments stay readable in the image's history: give the running container the secret instead";
        Some(Diagnostic::at(node.place.clone(), message).hint(hint))
    };
    arguments.iter().filter_map(secret).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::ArtifactPin;
    use crate::resources::BuiltImage;

    fn built(resource: &str, name: &str, content: &str, line: u32) -> Wanted {
        let archive = ArtifactPin { name: "a".into(), version: "v".into(), sha256: "0".repeat(64), url: None };
        let image = BuiltImage {
            reference: format!("provision.local/{name}:{content}"),
            digest: format!("sha256:{content}"),
            archive,
        };
        Wanted {
            resource: resource.into(),
            is_artifact: false,
            source: ImageSource::Built(image),
            place: Place { file: "stages/a.yml".into(), line, column: 5 },
        }
    }

    fn pulled(artifact: &str, repository: &str, content: &str) -> Wanted {
        let source = ImageSource::Registry {
            reference: format!("{repository}:v1"),
            digest: format!("sha256:{content}"),
            archive: None,
        };
        Wanted { resource: artifact.into(), is_artifact: true, source, ..built("x", "x", "x", 9) }
    }

    fn told(wanted: &[Wanted]) -> (Vec<String>, String) {
        let mut faults = Diagnostics::default();
        let names = names(wanted, &mut faults).into_iter().map(|(name, it)| format!("{name} {}", it.as_str().unwrap()));
        (names.collect(), faults.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn two_images_of_one_name_are_an_error_with_both_places() {
        let (_, faults) = told(&[built("one/app/image.yml", "app", "1", 2), built("two/app/image.yml", "app", "2", 3)]);
        assert_eq!(
            faults,
            "stages/a.yml:3:5: two images have the name provision.local/app: two/app/image.yml and one/app/image.yml, at \
             stages/a.yml:2:5\n  hint: give one of them another `name`"
        );
        let (_, faults) = told(&[built("one/image.yml", "db", "1", 2), pulled("db", "docker.io/library/db", "2")]);
        assert!(
            faults.starts_with("stages/a.yml:9:5: `image.db` would be two images: db and one/image.yml"),
            "{faults}"
        );
    }

    #[test]
    fn the_same_image_twice_and_two_versions_from_a_registry_are_fine() {
        let once = built("app/image.yml", "app", "1", 2);
        let two = [pulled("db15", "docker.io/library/db", "1"), pulled("db17", "docker.io/library/db", "2")];
        let (names, faults) = told(&[once.clone(), once, two[0].clone(), two[1].clone()]);
        assert_eq!(faults, "");
        let db = |content: &str| format!("docker.io/library/db:v1@sha256:{content}");
        assert_eq!(
            names,
            ["app provision.local/app:1".to_owned(), format!("db15 {}", db("1")), format!("db17 {}", db("2"))]
        );
    }

    #[test]
    fn the_folder_is_a_second_name_where_it_is_nobody_elses() {
        let (names, _) = told(&[built("jobs/rul/image.yml", "rul-jobs", "1", 2), built("Dockerfile", "web", "2", 3)]);
        assert_eq!(
            names,
            ["rul-jobs provision.local/rul-jobs:1", "web provision.local/web:2", "rul provision.local/rul-jobs:1"]
        );
        let (names, faults) = told(&[built("a/x/image.yml", "b", "1", 2), built("x/x/image.yml", "c", "2", 3)]);
        assert_eq!((names.len(), faults.as_str()), (2, ""), "{names:?}");
        let (names, _) = told(&[built("a/x/image.yml", "b", "1", 2), built("d/image.yml", "x", "2", 3)]);
        assert!(names.contains(&"x provision.local/x:2".to_owned()) && names.len() == 3, "{names:?}");
    }
}
