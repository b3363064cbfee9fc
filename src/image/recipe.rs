//! `image.yml`: what an image is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use serde_yaml::Spanned;

use super::cargo::CargoBinary;
use super::pip::{self, Pip};
use super::script::Script;
use crate::artifacts::document;
use crate::diagnostic::Diagnostic;

/// A recipe as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the image: the last part of its reference, and of `{{ image.NAME }}` in templates.
    pub name: Spanned<String>,
    /// What it starts from: `scratch`, nothing, or `{ artifact: NAME }`, an image of `artifacts.yml` (of a registry, of a recipe, or
    /// the archive of an OCI layout). Its layers come first; user, environment, entry point and the like are its own unless they are
    /// given here.
    pub base: Option<Spanned<Base>>,
    /// Files of Debian packages with the libraries that they need, as a layer below `files`.
    pub debian: Option<Debian>,
    /// Python packages, as a layer between `debian` and `files`.
    pub pip: Option<Spanned<Pip>>,
    /// Folders, beside `/tmp` (mode 1777), which every image has, and the parents of files.
    #[serde(default)]
    pub directories: Vec<Directory>,
    /// Files.
    #[serde(default)]
    pub files: Vec<Spanned<FileEntry>>,
    /// Symbolic links.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Adds the certificate authorities of the controller as `/etc/ssl/certs/ca-certificates.crt`.
    #[serde(default)]
    pub ca_bundle: bool,
    /// Who the program runs as: a number, or name and numbers. It gets a line in `/etc/passwd`.
    pub user: Option<User>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub cmd: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub workdir: Option<String>,
    /// What ends the program in good order; by default `SIGTERM`.
    pub stop_signal: Option<String>,
    /// TCP ports that the program listens on.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// What an image starts from.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a base is scratch or { artifact: NAME }")]
pub enum Base {
    Nothing(Scratch),
    Artifact(BaseArtifact),
}

/// Nothing.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scratch {
    Scratch,
}

/// An image by its name in `artifacts.yml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseArtifact {
    pub artifact: String,
}

impl Recipe {
    /// The artifact that it starts from.
    pub fn base_artifact(&self) -> Option<&str> {
        match self.base.as_ref().map(|base| &base.value) {
            Some(Base::Artifact(base)) => Some(&base.artifact),
            _ => None,
        }
    }
}

/// Files of Debian packages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    /// `bookworm`.
    pub suite: String,
    /// Packages to unpack, with what they depend on. None of their scripts run.
    pub packages: Vec<String>,
    /// Files and folders to take, with every shared library that the programs among them need.
    pub paths: Vec<String>,
    /// Files below `paths` to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Adds busybox as the shell and as every small tool that it can be. Needs the package `busybox-static`.
    #[serde(default)]
    pub busybox: bool,
}

/// A folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    pub path: String,
    #[serde(default = "directory_mode")]
    pub mode: Mode,
    #[serde(default)]
    pub owner: Owner,
}

/// A file, or a folder with all in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// A path relative to the recipe; `cargo:PACKAGE/BIN`: a program of this workspace, linked statically; or `script:PATH`: the
    /// file that `bash PATH OUT` leaves at `OUT` (a path relative to the recipe, run once per text of the script).
    pub from: Option<String>,
    /// The content itself, in place of `from`.
    pub content: Option<String>,
    /// Absolute path in the image.
    pub to: String,
    /// By default `"0755"` for what is executable, else `"0644"`.
    pub mode: Option<Mode>,
    #[serde(default)]
    pub owner: Owner,
}

/// A symbolic link.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub path: String,
    pub target: String,
}

/// Permission bits, written as a quoted octal string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mode(pub u32);

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777 && text.len() == 4)
            .map(Self)
            .ok_or_else(|| format!("a mode is four octal digits in quotes, like \"0644\"; got {text:?}"))
    }
}

fn directory_mode() -> Mode {
    Mode(0o755)
}

/// Numeric owner, written `"UID:GID"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl TryFrom<String> for Owner {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.split_once(':')
            .and_then(|(uid, gid)| Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? }))
            .ok_or_else(|| format!("an owner is \"UID:GID\" in numbers, like \"65532:65532\"; got {text:?}"))
    }
}

/// Who the program runs as.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a user is a number, or { name, uid, gid?, home?, shell? }")]
pub enum User {
    Id(u32),
    Named(NamedUser),
}

/// A user with a name of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedUser {
    pub name: String,
    pub uid: u32,
    /// By default the same as `uid`.
    pub gid: Option<u32>,
    /// By default `/`.
    pub home: Option<String>,
    /// By default `/sbin/nologin`.
    pub shell: Option<String>,
}

impl User {
    pub(super) fn named(&self) -> NamedUser {
        match self {
            Self::Named(user) => user.clone(),
            Self::Id(uid) => NamedUser {
                name: if *uid == 0 { "root" } else { "nonroot" }.to_owned(),
                uid: *uid,
                gid: None,
                home: None,
                shell: None,
            },
        }
    }
}

/// Where the content of a file comes from.
#[derive(Debug, Clone)]
pub(super) enum From {
    Path(PathBuf),
    Cargo(CargoBinary),
    Script(Script),
    Content(String),
}

/// A recipe that was read and checked.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub recipe: Recipe,
    /// Where the content of each of `recipe.files` comes from.
    pub(super) from: Vec<From>,
    /// The lock file of `recipe.pip`.
    pub(super) lock: Option<PathBuf>,
    /// The text of the recipe.
    pub(super) text: String,
}

/// Reads and checks a recipe. Builds nothing; cheap enough for `validate`.
///
/// # Errors
/// What is wrong, with file:line:col.
pub fn load(path: &Path) -> Result<Loaded, Diagnostic> {
    let (text, recipe): (String, Recipe) = document::read(path)?;
    let file = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new(""));

    let name = &recipe.name.value;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(plain) || name.starts_with('-') || name.ends_with('-') {
        return Err(Diagnostic::at(
            document::place(&file, recipe.name.referenced),
            format!("the image name {name:?} does not fit"),
        )
        .hint("use lower-case letters, digits and dashes inside"));
    }
    let paths = recipe.directories.iter().map(|entry| &entry.path);
    let paths = paths.chain(recipe.links.iter().map(|link| &link.path));
    if let Some(path) = paths.into_iter().find(|path| !is_plain_absolute(path)) {
        return Err(Diagnostic::new(format!("{file}: {path:?} is not an absolute path without `.` and `..`")));
    }
    if let (Some(base), Some(_)) = (&recipe.base, recipe.base_artifact()) {
        let fault = |message: &str| Diagnostic::at(document::place(&file, base.referenced), message.to_owned());
        if recipe.debian.is_some() {
            return Err(fault("`debian` belongs to an image that starts from scratch")
                .hint("leave out `base`, or make the base a recipe with these packages"));
        }
        if recipe.pip.as_ref().is_some_and(|pip| pip.value.compile.is_some()) {
            return Err(fault("`compile` of `pip` needs a Python that comes from `debian`").hint("leave it out"));
        }
    }
    let lock = recipe.pip.as_ref().map(|pip| folder.join(&pip.value.requirements));
    if let (Some(pip), Some(lock)) = (&recipe.pip, &lock) {
        let fault = |message: String| Diagnostic::at(document::place(&file, pip.referenced), message);
        if let Some(message) = pip.value.fault() {
            return Err(fault(message));
        }
        if !lock.is_file() {
            return Err(fault(format!("there is no {}", lock.display()))
                .hint("`requirements` is relative to the folder of the recipe"));
        }
        pip::check_lock(lock)?;
    }
    let mut from = Vec::new();
    for entry in &recipe.files {
        let fault = |message: String| Diagnostic::at(document::place(&file, entry.referenced), message);
        if !is_plain_absolute(&entry.value.to) {
            return Err(fault(format!("`to: {}` is not an absolute path without `.` and `..`", entry.value.to)));
        }
        from.push(match (&entry.value.from, &entry.value.content) {
            (Some(from), None) => match from.strip_prefix("cargo:") {
                Some(binary) => From::Cargo(CargoBinary::parse(binary).ok_or_else(|| {
                    fault(format!("`from: {from}` does not name a program"))
                        .hint("write cargo:PACKAGE/BIN, like cargo:rul/rul")
                })?),
                None => {
                    let script = from.strip_prefix("script:");
                    let source = folder.join(script.unwrap_or(from));
                    if !source.exists() {
                        return Err(fault(format!("there is no {}", source.display()))
                            .hint("`from` is relative to the folder of the recipe"));
                    }
                    if script.is_some() { From::Script(Script::at(source)) } else { From::Path(source) }
                }
            },
            (None, Some(content)) => From::Content(content.clone()),
            _ => return Err(fault("a file has either `from` or `content`".to_owned())),
        });
    }
    Ok(Loaded { recipe, from, lock, text })
}

/// Absolute and without anything that could lead elsewhere.
pub(super) fn is_plain_absolute(path: &str) -> bool {
    path.strip_prefix('/')
        .is_some_and(|rest| !rest.is_empty() && rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn error(yaml: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.yml");
        std::fs::write(&path, yaml).unwrap();
        let text = load(&path).unwrap_err().to_string();
        text.replace(&format!("{}/", dir.path().display()), "")
    }

    #[test]
    fn faults_have_a_place_and_a_way_out() {
        assert_eq!(
            error("name: Rul\n"),
            "image.yml:1:7: the image name \"Rul\" does not fit\n  hint: use lower-case letters, digits and dashes inside"
        );
        assert_eq!(
            error("name: rul\nfiles:\n  - { from: rul, to: /rul }\n"),
            "image.yml:3:5: there is no rul\n  hint: `from` is relative to the folder of the recipe"
        );
        assert_eq!(
            error("name: rul\nfiles:\n  - { from: 'cargo:rul', to: /rul }\n"),
            "image.yml:3:5: `from: cargo:rul` does not name a program\n  hint: write cargo:PACKAGE/BIN, like cargo:rul/rul"
        );
        assert_eq!(
            error("name: rul\nfiles:\n  - { from: 'script:build.sh', to: /rul }\n"),
            "image.yml:3:5: there is no build.sh\n  hint: `from` is relative to the folder of the recipe"
        );
        assert_eq!(
            error("name: rul\nfiles:\n  - { content: x, to: /a/../b }\n"),
            "image.yml:3:5: `to: /a/../b` is not an absolute path without `.` and `..`"
        );
        assert_eq!(
            error("name: rul\nfiles:\n  - { to: /x }\n"),
            "image.yml:3:5: a file has either `from` or `content`"
        );
        assert!(error("name: rul\nuser: me\n").contains("a user is a number"));
        assert!(error("name: rul\nfiles:\n  - { content: x, to: /x, mode: '644' }\n").contains("four octal digits"));
        assert!(error("name: rul\nentripoint: [x]\n").starts_with("image.yml:2:1: unknown field"));
        assert!(
            error("name: rul\nbase: alpine\n").starts_with("image.yml:2:7: a base is scratch or { artifact: NAME }")
        );
        assert!(error("name: rul\nbase: { artifcat: x }\n").starts_with("image.yml:2:7: a base is"));
        let debian = "debian: { suite: bookworm, packages: [x], paths: [/x] }";
        assert!(
            error(&format!("name: rul\nbase: {{ artifact: x }}\n{debian}\n"))
                .starts_with("image.yml:2:7: `debian` belongs to an image that starts from scratch\n  hint: ")
        );
    }
}
