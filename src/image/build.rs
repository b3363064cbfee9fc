//! From recipe to archive, through the cache.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::base::{self, Workshop};
use super::below::Below;
use super::layer::{Entry, Layer};
use super::recipe::{From, Loaded, Owner, Recipe};
use super::{BuiltImage, debian, layout, pip, recipe};
use crate::artifacts::{Built, Inputs, Progress, tree};
use crate::host::ArtifactPin;

/// Changes when the same inputs would give another image.
const BUILDER: &str = "image 2";

/// Certificate authorities, where Debian and Ubuntu keep them.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds the image of a recipe, or finds it in the cache: then no program runs.
///
/// # Errors
/// What is wrong with the recipe (with file:line:col), or why the build failed.
pub fn build(recipe_path: &Path, workshop: &Workshop<'_>, progress: Progress<'_>) -> Result<BuiltImage> {
    let store = workshop.store;
    let loaded = recipe::load(recipe_path)?;
    let name = loaded.recipe.name.value.clone();
    let context = || format!("building the image {name} of {}", recipe_path.display());
    let key = || key(recipe_path, workshop, Scope::Machine, &[]).with_context(context);
    let before = key()?;
    if let Some(image) = store.built(&before)?.and_then(pin) {
        return Ok(image);
    }
    let _held = store.lock(&before, &name, progress)?;
    if let Some(image) = store.built(&before)?.and_then(pin) {
        return Ok(image);
    }
    progress(&format!("{name}: building"));
    let work = store.work(&name)?;
    let archive = work.path().join("image.tar.zst");
    let image = write(&loaded, workshop, work.path(), &archive, progress).with_context(context)?;
    if key()? != before {
        bail!(changed(recipe_path));
    }
    progress(&format!("{name}: built {}", image.reference));
    let identity = Some((image.reference, image.digest));
    let built = store.put_built_image(&before, &name, &archive, identity)?;
    pin(built).context("a built image without a reference")
}

/// Makes all layers and writes the archive.
fn write(
    loaded: &Loaded,
    workshop: &Workshop<'_>,
    work: &Path,
    archive: &Path,
    progress: Progress<'_>,
) -> Result<layout::Image> {
    let (recipe, store) = (&loaded.recipe, workshop.store);
    let base = recipe.base_artifact().map(|name| base::bring(name, workshop, &work.join("base"), progress));
    let base = base.transpose()?;
    let mut below = Below::default();
    for layer in base.iter().flat_map(|base| &base.layers) {
        below.add(&layer.path)?;
    }
    let mut layers = Vec::new();
    if let Some(debian) = &recipe.debian {
        layers.push(debian::layer(debian, store, progress)?);
        below.add(&layers[0].0)?;
    }
    if let (Some(pip), Some(lock)) = (&recipe.pip, &loaded.lock) {
        let layer = pip::layer(&pip.value, lock, &layers, below.clone(), store, progress)?;
        below.add(&layer.0)?;
        layers.push(layer);
    }
    let path = work.join("layer.tar");
    let written = own_layer(loaded, below, workshop, work, progress)?.write(&path)?;
    layers.push((path, written));
    layout::write(recipe, base.as_ref(), &layers, archive)
}

/// What was built while somebody edited its inputs must not be kept under the key of either state.
pub(super) fn changed(what: &Path) -> String {
    format!("{}, or an input of it, changed while it was built; run the same command again", what.display())
}

/// The image of a recipe, if it was built; it may still be in the cache. Only looks.
///
/// # Errors
/// When the recipe is wrong, or an input or the cache cannot be read.
pub fn cached(recipe_path: &Path, workshop: &Workshop<'_>) -> Result<Option<BuiltImage>> {
    let key = key(recipe_path, workshop, Scope::Machine, &[])?;
    Ok(workshop.store.record(&key)?.and_then(pin))
}

fn pin(built: Built) -> Option<BuiltImage> {
    let reference = built.reference?;
    Some(BuiltImage {
        archive: ArtifactPin {
            name: format!("image {}", built.name),
            version: reference.rsplit_once(':')?.1.to_owned(),
            sha256: built.sha256,
            url: None,
        },
        digest: built.digest?,
        reference,
    })
}

/// How much of what an image is made from counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What is in the project: the same on every machine that has the project.
    Project,
    /// Also what is of the machine that builds it.
    Machine,
}

/// Key of what the image of a recipe is made from. `leading` are recipes of images that start from it.
///
/// # Errors
/// When the recipe is wrong, an input cannot be read, or recipes start from each other in a circle.
pub fn key(recipe_path: &Path, workshop: &Workshop<'_>, scope: Scope, leading: &[PathBuf]) -> Result<String> {
    let loaded = recipe::load(recipe_path)?;
    let real = std::fs::canonicalize(recipe_path)?;
    let recipes: Vec<PathBuf> = leading.iter().chain([&real]).cloned().collect();
    if leading.contains(&real) {
        let shown: Vec<_> = recipes.iter().map(|path| path.display().to_string()).collect();
        bail!("image recipes start from each other in a circle: {}", shown.join(" -> "));
    }
    let mut inputs = Inputs::new(BUILDER);
    inputs.add("arch", std::env::consts::ARCH);
    inputs.add("recipe", &loaded.text);
    if let Some(name) = loaded.recipe.base_artifact() {
        inputs.add("base", base::key(name, workshop, scope, &recipes)?);
    }
    for from in &loaded.from {
        match from {
            From::Content(_) => {} // in the recipe's text
            From::Path(path) => inputs.add_found("file", &tree::walk(path, &tree::all_but_git)?)?,
            From::Cargo(binary) => binary.add_inputs(&mut inputs, workshop.root)?,
            From::Script(script) => script.add_inputs(&mut inputs)?,
        }
    }
    if let Some(lock) = &loaded.lock {
        inputs.add_file("requirements", lock)?;
    }
    if loaded.recipe.ca_bundle && scope == Scope::Machine {
        inputs.add_file("ca bundle", Path::new(CA_BUNDLE)).context(NO_CA)?;
    }
    Ok(inputs.key())
}

const NO_CA: &str = "`ca_bundle: true` needs the package ca-certificates on this machine";

/// The layer with everything that the recipe names. Programs of the workspace are built into `work`.
fn own_layer(
    loaded: &Loaded,
    below: Below,
    workshop: &Workshop<'_>,
    work: &Path,
    progress: Progress<'_>,
) -> Result<Layer> {
    let (recipe, store) = (&loaded.recipe, workshop.store);
    let mut layer = Layer::over(below);
    let root_owner = Owner::default();
    let from_base = recipe.base_artifact().is_some();
    if !from_base || !layer.below().has("/tmp") {
        layer.insert("/tmp", Entry::Directory { mode: 0o1777, owner: root_owner });
    }
    // A base has its users; without one of ours they stay as they are.
    if !from_base || recipe.user.is_some() {
        let kept = |path: &str| layer.below().text(path).filter(|_| from_base).map(str::to_owned);
        let (passwd, group) = users(recipe, kept("/etc/passwd"), kept("/etc/group"));
        for (path, text) in [("/etc/passwd", passwd), ("/etc/group", group)] {
            layer.insert(path, Entry::Content { content: text.into_bytes(), mode: 0o644, owner: root_owner });
        }
    }
    if recipe.ca_bundle {
        let real = std::fs::canonicalize(CA_BUNDLE).context(NO_CA)?;
        layer.insert_tree(&real, CA_BUNDLE, Some(0o644), root_owner).context(NO_CA)?;
    }
    for directory in &recipe.directories {
        let (mode, owner) = (directory.mode.0, directory.owner);
        layer.insert(&directory.path, Entry::Directory { mode, owner });
    }
    for (index, (entry, from)) in recipe.files.iter().map(|entry| &entry.value).zip(&loaded.from).enumerate() {
        let mode = entry.mode.map(|mode| mode.0);
        match from {
            From::Path(path) => layer.insert_tree(path, &entry.to, mode, entry.owner)?,
            From::Cargo(binary) => {
                let program = work.join(format!("program-{index}"));
                binary.build(workshop.root, store, &program, progress)?;
                layer.insert_tree(&program, &entry.to, mode, entry.owner)?;
            }
            From::Script(script) => {
                let file = script.build(store, progress)?;
                // In the cache it is read-only and not executable; what a script builds is a program.
                layer.insert_tree(&file, &entry.to, mode.or(Some(0o755)), entry.owner)?;
            }
            From::Content(content) => layer.insert(
                &entry.to,
                Entry::Content {
                    content: content.clone().into_bytes(),
                    mode: mode.unwrap_or(0o644),
                    owner: entry.owner,
                },
            ),
        }
    }
    for link in &recipe.links {
        layer.insert(&link.path, Entry::Link { target: link.target.clone() });
    }
    Ok(layer)
}

/// `/etc/passwd` and `/etc/group` with root and the recipe's user, or what a base has there with the user added.
fn users(recipe: &Recipe, passwd: Option<String>, group: Option<String>) -> (String, String) {
    let mut passwd = passwd.unwrap_or_else(|| "root:x:0:0:root:/root:/sbin/nologin\n".to_owned());
    let mut group = group.unwrap_or_else(|| "root:x:0:\n".to_owned());
    let Some(user) = recipe.user.as_ref().map(recipe::User::named) else {
        return (passwd, group);
    };
    let (name, uid, gid) = (&user.name, user.uid, user.gid.unwrap_or(user.uid));
    let home = user.home.as_deref().unwrap_or("/");
    let shell = user.shell.as_deref().unwrap_or("/sbin/nologin");
    add_line(&mut passwd, uid, &format!("{name}:x:{uid}:{gid}:{name}:{home}:{shell}"));
    add_line(&mut group, gid, &format!("{name}:x:{gid}:"));
    (passwd, group)
}

/// Adds the line of a number unless there is one.
fn add_line(text: &mut String, id: u32, line: &str) {
    if text.lines().any(|line| line.split(':').nth(2) == Some(&id.to_string())) {
        return;
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use serde_json::Value;

    use super::*;
    use crate::artifacts::{Lock, Store};

    /// Without artifacts.
    fn build(recipe: &Path, root: &Path, store: &Store, progress: Progress<'_>) -> Result<BuiltImage> {
        let root = &fs::canonicalize(root).unwrap();
        super::build(recipe, &Workshop { root, lock: &Lock::default(), store }, progress)
    }

    const RECIPE: &str = "\
name: hello
files:
  - { from: data, to: /srv/data, owner: '65532:65532' }
  - { content: 'x', to: /etc/x.conf, mode: '0600' }
directories:
  - { path: /data, mode: '0700', owner: '65532:65532' }
links:
  - { path: /srv/link, target: data }
user: 65532
env: { B: '2', A: '1' }
entrypoint: [/hello]
cmd: [serve]
labels: { a: b }
workdir: /srv
ports: [8080]
";

    fn project(folder: &Path) -> PathBuf {
        fs::create_dir_all(folder.join("image/data/sub")).unwrap();
        let recipe = folder.join("image/image.yml");
        fs::write(&recipe, RECIPE).unwrap();
        fs::write(folder.join("image/data/b"), "b").unwrap();
        fs::write(folder.join("image/data/sub/a"), "a").unwrap();
        fs::set_permissions(folder.join("image/data/b"), fs::Permissions::from_mode(0o750)).unwrap();
        recipe
    }

    /// Every file in the archive by its name.
    fn unpack(store: &Store, image: &BuiltImage) -> BTreeMap<String, Vec<u8>> {
        let file = store.open_blob(&image.archive.sha256).unwrap().unwrap();
        files(zstd::Decoder::new(file).unwrap())
    }

    fn files(tar: impl Read) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        files
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, digest: &Value) -> &'a [u8] {
        &files[&format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"))]
    }

    #[test]
    fn the_same_input_gives_the_same_image_elsewhere_and_is_built_once() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("elsewhere/two"));
        let recipe = project(&one);
        let said = Mutex::new(Vec::new());
        let say = |line: &str| said.lock().unwrap().push(line.to_owned());
        let store = Store::at(dir.path().join("cache")).unwrap();
        let image = build(&recipe, &one, &store, &say).unwrap();
        assert!(!said.lock().unwrap().is_empty());
        said.lock().unwrap().clear();
        assert_eq!(build(&recipe, &one, &store, &say).unwrap(), image);
        assert_eq!(*said.lock().unwrap(), Vec::<String>::new(), "unchanged input is not built");

        let other = Store::at(dir.path().join("other")).unwrap();
        let recipe = project(&two);
        assert_eq!(build(&recipe, &two, &other, &say).unwrap(), image);
        fs::write(two.join("image/data/sub/a"), "changed").unwrap();
        let changed = build(&recipe, &two, &other, &say).unwrap();
        assert_ne!(changed.digest, image.digest);
        assert_ne!(changed.reference, image.reference);
    }

    #[test]
    fn the_layout_is_what_the_image_specification_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = project(dir.path());
        let store = Store::at(dir.path().join("cache")).unwrap();
        let image = build(&recipe, dir.path(), &store, &|_| {}).unwrap();
        let files = unpack(&store, &image);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let descriptor = &index["manifests"][0];
        assert_eq!(descriptor["digest"], image.digest.as_str());
        assert_eq!(descriptor["annotations"]["io.containerd.image.name"], image.reference.as_str());
        let tag = &image.digest["sha256:".len()..][..16];
        assert_eq!(image.reference, format!("provision.local/hello:{tag}"));
        for (name, content) in &files {
            if let Some(hash) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(crate::hash::sha256(content), hash, "{name}");
            }
        }
        let manifest: Value = serde_json::from_slice(blob(&files, &descriptor["digest"])).unwrap();
        let config: Value = serde_json::from_slice(blob(&files, &manifest["config"]["digest"])).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        insta::assert_snapshot!(config["config"], @r#"{"User":"65532:65532","ExposedPorts":{"8080/tcp":{}},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","A=1","B=2"],"Entrypoint":["/hello"],"Cmd":["serve"],"WorkingDir":"/srv","Labels":{"a":"b"}}"#);

        let layer = blob(&files, &manifest["layers"][0]["digest"]);
        let mut listing = Vec::new();
        for entry in tar::Archive::new(layer).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            listing.push(format!(
                "{:04o} {} {}",
                header.mode().unwrap(),
                header.uid().unwrap(),
                entry.path().unwrap().display()
            ));
        }
        insta::assert_snapshot!(listing.join("\n"), @"
        0700 65532 data/
        0755 0 etc/
        0644 0 etc/group
        0644 0 etc/passwd
        0600 0 etc/x.conf
        0755 0 srv/
        0755 65532 srv/data/
        0755 65532 srv/data/b
        0755 65532 srv/data/sub/
        0644 65532 srv/data/sub/a
        0777 0 srv/link
        1777 0 tmp/
        ");
        let files = files_of_layer(layer);
        assert_eq!(
            files["etc/passwd"],
            "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"
        );
    }

    /// The tar of the topmost layer.
    fn top_layer(store: &Store, image: &BuiltImage) -> Vec<u8> {
        let files = unpack(store, image);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifest: Value = serde_json::from_slice(blob(&files, &index["manifests"][0]["digest"])).unwrap();
        blob(&files, &manifest["layers"].as_array().unwrap().last().unwrap()["digest"]).to_vec()
    }

    #[test]
    fn what_is_in_the_image_is_in_its_key_and_version_control_is_in_neither() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = project(dir.path());
        let store = Store::at(dir.path().join("cache")).unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join("image/data").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sub/target/model.bin", "1");
        write("Cargo.toml", "");
        write("target/debug/x", "1");
        write("sub/.git/config", "https://user:password@example.org");
        let first = build(&recipe, dir.path(), &store, &|_| {}).unwrap();
        let layer = files_of_layer(&top_layer(&store, &first));
        assert_eq!(layer["srv/data/sub/target/model.bin"], "1");
        assert!(!layer.keys().any(|path| path.contains(".git")), "{layer:?}");
        write("sub/.git/config", "other");
        assert_eq!(build(&recipe, dir.path(), &store, &|_| {}).unwrap(), first);
        for changed in ["sub/target/model.bin", "target/debug/x"] {
            write(changed, "2");
            let second = build(&recipe, dir.path(), &store, &|_| {}).unwrap();
            assert_ne!(second.reference, first.reference, "{changed}");
            write(changed, "1");
        }
    }

    #[test]
    fn inputs_that_change_while_it_is_built_are_not_kept_under_the_old_key() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = project(dir.path());
        let store = Store::at(dir.path().join("cache")).unwrap();
        // The first word about it comes after its key was made.
        let edit = |_: &str| fs::write(dir.path().join("image/data/b"), "edited").unwrap();
        let error = build(&recipe, dir.path(), &store, &edit).unwrap_err().to_string();
        assert!(error.contains("changed while it was built; run the same command again"), "{error}");
        let edited = build(&recipe, dir.path(), &store, &|_| {}).unwrap();
        assert_eq!(files_of_layer(&top_layer(&store, &edited))["srv/data/b"], "edited");
        fs::write(dir.path().join("image/data/b"), "b").unwrap();
        let first = build(&recipe, dir.path(), &store, &|_| {}).unwrap();
        assert_eq!(files_of_layer(&top_layer(&store, &first))["srv/data/b"], "b");
    }

    #[test]
    fn a_file_behind_a_link_of_a_lower_layer_leaves_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let mut lower = Layer::default();
        let link = |target: &str| Entry::Link { target: target.to_owned() };
        lower.insert("/usr/bin/sh", link("busybox"));
        lower.insert("/bin", link("usr/bin"));
        let path = dir.path().join("lower.tar");
        lower.write(&path).unwrap();
        let recipe = dir.path().join("image.yml");
        let text = "name: hello\nfiles: [{ content: x, to: /bin/run.sh }]\ndirectories: [{ path: /bin }, { path: /bin/more }]\n\
                    links: [{ path: /bin/sh, target: dash }]\n";
        fs::write(&recipe, text).unwrap();
        let store = Store::at(dir.path().join("cache")).unwrap();
        let loaded = recipe::load(&recipe).unwrap();
        let mut below = Below::default();
        below.add(&path).unwrap();
        let workshop = Workshop { root: dir.path(), lock: &Lock::default(), store: &store };
        let layer = own_layer(&loaded, below, &workshop, dir.path(), &|_| {}).unwrap();
        for at in ["usr/bin/run.sh", "usr/bin/more", "usr/bin/sh"] {
            assert!(layer.contains(at), "{at}: {layer:?}");
        }
        assert!(!layer.contains("bin"), "{layer:?}");
    }

    fn files_of_layer(layer: &[u8]) -> BTreeMap<String, String> {
        let text = |(name, content): (String, Vec<u8>)| Some((name, String::from_utf8(content).ok()?));
        files(layer).into_iter().filter_map(text).collect()
    }

    #[test]
    fn a_program_of_the_workspace_is_built_static_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("project");
        fs::create_dir_all(root.join("hello/src")).unwrap();
        let write = |path: &str, text: &str| fs::write(root.join(path), text).unwrap();
        write("Cargo.toml", "[workspace]\nresolver = '3'\nmembers = ['hello']\n");
        write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\n");
        write("hello/Cargo.toml", "[package]\nname = 'hello'\nversion = '0.1.0'\nedition = '2024'\n");
        write("hello/src/main.rs", "fn main() { println!(\"hello\") }\n");
        write("hello/image.yml", "name: hello\nfiles: [{ from: 'cargo:hello/hello', to: /hello }]\n");
        let store = Store::at(dir.path().join("cache")).unwrap();
        let recipe = root.join("hello/image.yml");
        let image = build(&recipe, &root, &store, &|_| {}).unwrap();

        let layer = unpack(&store, &image)
            .into_iter()
            .find(|(name, content)| name.starts_with("blobs/") && content.windows(5).any(|window| window == b"ustar"));
        let program = files(&layer.unwrap().1[..]).remove("hello").unwrap();
        let path = dir.path().join("hello");
        fs::write(&path, &program).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let run = std::process::Command::new(&path).output().unwrap();
        assert_eq!(run.stdout, b"hello\n");
        let loader = b"/lib64/ld-linux";
        assert!(!program.windows(loader.len()).any(|window| window == loader), "it is linked statically");
        let here = dir.path().to_str().unwrap().as_bytes();
        assert!(!program.windows(here.len()).any(|window| window == here), "no path of this machine is in it");

        // Without the program that cargo left, building again could not go unnoticed.
        fs::remove_dir_all(store.root().join("cargo")).unwrap();
        assert_eq!(build(&recipe, &root, &store, &|_| {}).unwrap(), image);
        assert!(!store.root().join("cargo").exists(), "unchanged input runs no cargo");

        write("hello/src/main.rs", "fn main() { nonsense }\n");
        let error = format!("{:#}", build(&recipe, &root, &store, &|_| {}).unwrap_err());
        assert!(error.contains("cannot find value `nonsense`"), "{error}");
        assert_eq!(fs::read_dir(store.root().join("work")).unwrap().count(), 0, "nothing is left behind");
    }
}
