//! Kernel modules.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::short_form::{ShortForm, one_or_many, or_text_or_list, short_form};
use super::{Observed, Resolve, Resource};
use crate::diagnostic::Diagnostic;
use crate::diff::Diff;
use crate::host::{Cmd, Facts, Owner, ReadHost, WriteHost};

/// Kernel modules that are loaded: now and at every boot (`/etc/modules-load.d/90-provision-NAME.conf`).
///
/// What is built into the kernel counts as loaded. In a container, where nothing can be loaded, it is enough that the
/// machine outside provides it; where it does not, the error says so.
///
/// ```yaml
/// - kernel_module: [br_netfilter, overlay]
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_text_or_list)]
pub struct KernelModule {
    /// One name or a list of names. Example: `overlay`.
    #[serde(deserialize_with = "one_or_many")]
    name: Vec<String>,
}

short_form!(KernelModule);

impl ShortForm for KernelModule {
    const EXPECTING: &'static str = "a module, a list of modules, or a mapping with the key `name`";

    fn full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(name: String) -> Result<Self, String> {
        Ok(Self { name: vec![name] })
    }

    fn from_list(name: Vec<String>) -> Result<Self, String> {
        Ok(Self { name })
    }
}

/// One module.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    name: String,
    loaded: bool,
    /// The file that loads it at boot has the right content, or none is needed.
    at_boot: bool,
}

#[async_trait]
impl Resource for KernelModule {
    const KIND: &'static str = "kernel_module";
    type State = Vec<State>;

    fn name(&self) -> String {
        self.name.join(", ")
    }

    fn resolve(&mut self, _project: &mut dyn Resolve) -> Result<()> {
        if self.name.is_empty() {
            bail!("no module is named");
        }
        for name in &self.name {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
            if name.is_empty() || name.starts_with('-') || !name.bytes().all(fits) {
                bail!("{name:?} is no name of a kernel module");
            }
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<Vec<State>>> {
        let read = |path: &str| -> Result<String> { Ok(host.read_text(Path::new(path))?.unwrap_or_default()) };
        let loaded = read("/proc/modules")?;
        let built_in = read(&built_in(host.facts()))?;
        let state = |name: &String| -> Result<State> {
            let is_built_in = built_in.lines().any(|line| is_module(line, name));
            let in_sys = Path::new("/sys/module").join(kernel_name(name));
            Ok(State {
                name: name.clone(),
                loaded: is_built_in
                    || loaded.split('\n').any(|line| line.split(' ').next() == Some(&kernel_name(name)))
                    || host.stat(&in_sys)?.is_some()
                    || works(host, name)?,
                // systemd-modules-load would fail at every start of a container.
                at_boot: is_built_in
                    || host.facts().container
                    || host.read_text(&boot_file(name))? == Some(boot_text(name)),
            })
        };
        Ok(Observed::Known(self.name.iter().map(state).collect::<Result<_>>()?))
    }

    fn diff(&self, state: &Vec<State>) -> Diff {
        let mut diff = Diff::none();
        for module in state {
            if !module.loaded {
                diff.push(&module.name, "not loaded -> loaded");
            }
            if !module.at_boot {
                let file = boot_file(&module.name);
                diff.push(file.to_string_lossy(), "loaded at boot: no -> yes");
            }
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        for name in &self.name {
            if diff.has(name) {
                if host.facts().container {
                    return Err(outside(name).into());
                }
                if let Err(error) = host.run(&Cmd::new(["modprobe", "--", name])).await {
                    return Err(error.context(no_module(name, &host.facts().kernel)));
                }
            }
            let file = boot_file(name);
            if diff.has(&file.to_string_lossy()) {
                host.create_dirs(Path::new("/etc/modules-load.d"), 0o755)?;
                host.write_file(&file, boot_text(name).as_bytes(), 0o644, Owner::ROOT)?;
            }
        }
        Ok(())
    }
}

fn outside(name: &str) -> Diagnostic {
    Diagnostic::new(format!("the kernel module {name} is not loaded, and a container cannot load it"))
        .hint(format!("run `modprobe {name}` on the machine that this container runs on"))
}

fn no_module(name: &str, kernel: &str) -> Diagnostic {
    Diagnostic::new(format!("cannot load the kernel module {name}")).hint(format!(
        "if /lib/modules/{kernel} is missing, the host has a newer kernel than the one it runs: reboot it; \
         on a cloud image the module may be in the package linux-modules-extra-{kernel}"
    ))
}

/// The feature of a module answers, whoever loaded it: what one sees in a container.
fn works(host: &dyn ReadHost, name: &str) -> Result<bool> {
    Ok(match kernel_name(name).as_str() {
        "br_netfilter" => host.stat(Path::new("/proc/sys/net/bridge"))?.is_some(),
        "overlay" => host
            .read_text(Path::new("/proc/filesystems"))?
            .unwrap_or_default()
            .lines()
            .any(|line| line.split_whitespace().last() == Some("overlay")),
        _ => false,
    })
}

/// The kernel writes `_` where a file may have `-`.
fn kernel_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether a line of modules.builtin (`kernel/net/bridge/br_netfilter.ko`) is this module.
fn is_module(line: &str, name: &str) -> bool {
    Path::new(line).file_stem().is_some_and(|stem| kernel_name(&stem.to_string_lossy()) == kernel_name(name))
}

fn built_in(facts: &Facts) -> String {
    format!("/lib/modules/{}/modules.builtin", facts.kernel)
}

fn boot_file(name: &str) -> PathBuf {
    format!("/etc/modules-load.d/90-provision-{}.conf", kernel_name(name)).into()
}

fn boot_text(name: &str) -> String {
    format!("{name}\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, failed, ok};
    use crate::resources::{AnyResource, Planned};

    // Lines of a real /proc/modules.
    const MODULES: &str =
        "overlay 151552 0 - Live 0x0000000000000000\nbridge 307200 1 br_netfilter, Live 0x0000000000000000\n";

    fn spec() -> KernelModule {
        serde_json::from_value(serde_json::json!(["br_netfilter", "overlay"])).unwrap()
    }

    #[tokio::test]
    async fn plan_apply_plan() {
        let host = FakeHost::new().file("/proc/modules", MODULES, 0o444).on_run(
            &["modprobe", "--", "br_netfilter"],
            |files, _| {
                files.put_dir("/sys/module/br_netfilter", 0o755);
                ok("")
            },
        );
        let Planned::Change(diff) = spec().plan(&host).await.unwrap() else {
            panic!("nothing planned");
        };
        let fields: Vec<_> = diff.changes.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "br_netfilter",
                "/etc/modules-load.d/90-provision-br_netfilter.conf",
                "/etc/modules-load.d/90-provision-overlay.conf"
            ]
        );
        assert!(host.changes().is_empty());
        AnyResource::apply(&spec(), &host, &diff).await.unwrap();
        assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
        assert_eq!(host.runs().len(), 1);
    }

    #[tokio::test]
    async fn built_in_needs_nothing() {
        let host = FakeHost::new().file(
            "/lib/modules/5.15.0-190-generic/modules.builtin",
            "kernel/fs/overlayfs/overlay.ko\nkernel/net/bridge/br-netfilter.ko\n",
            0o644,
        );
        assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);
    }

    #[tokio::test]
    async fn in_a_container_the_feature_counts() {
        let container = || FakeHost::new().with_facts(|facts| facts.container = true);
        let host = container()
            .file("/proc/filesystems", "nodev\tsysfs\nnodev\toverlay\n", 0o444)
            .dir("/proc/sys/net/bridge", 0o555);
        assert_eq!(spec().plan(&host).await.unwrap(), Planned::InSync);

        let host = container();
        let Planned::Change(diff) = spec().plan(&host).await.unwrap() else {
            panic!("nothing planned");
        };
        let error = AnyResource::apply(&spec(), &host, &diff).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel module br_netfilter is not loaded, and a container cannot load it\n  hint: run `modprobe br_netfilter` on the machine that this container runs on"
        );
        assert!(host.changes().is_empty());
    }

    #[tokio::test]
    async fn a_missing_module_says_what_to_do() {
        let host = FakeHost::new().answer(
            &["modprobe"],
            failed(1, "modprobe: FATAL: Module br_netfilter not found in directory /lib/modules/5.15.0-190-generic"),
        );
        let Planned::Change(diff) = spec().plan(&host).await.unwrap() else {
            panic!("nothing planned");
        };
        let error = AnyResource::apply(&spec(), &host, &diff).await.unwrap_err();
        assert!(format!("{error:#}").contains("linux-modules-extra-5.15.0-190-generic"));
        assert!(error.downcast_ref::<crate::host::CommandFailed>().is_some());
    }
}
