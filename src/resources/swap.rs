//! Swap space.

use std::path::Path;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::short_form::{ShortForm, or_text, short_form};
use super::{Observed, Resource};
use crate::diff::Diff;
use crate::host::{Cmd, Owner, Query, ReadHost, WriteHost};

const FSTAB: &str = "/etc/fstab";
const SWAPS: &str = "/proc/swaps";
const MARKER: &str = "# off by provision: ";

/// Swap off: now and after every boot. Lines of /etc/fstab are commented with a marker, units that other programs make
/// (zram, found partitions) are masked.
///
/// In a container only its own /etc/fstab counts: the swap that one sees there belongs to the machine outside.
///
/// ```yaml
/// - swap: off
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_text)]
pub struct Swap {
    /// `off` is the only one.
    state: Wanted,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    Off,
}

short_form!(Swap);

impl ShortForm for Swap {
    const EXPECTING: &'static str = "`off`";

    fn full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(text: String) -> Result<Self, String> {
        match text.as_str() {
            "off" => Ok(Self { state: Wanted::Off }),
            other => Err(format!("found {other:?}, expected `off`")),
        }
    }

    // `off` without quotes is `false` to a YAML 1.1 reader.
    fn from_bool(value: bool) -> Result<Self, String> {
        Self::from_text(if value { "on" } else { "off" }.into())
    }
}

/// What swaps, or would after a boot.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    active: Vec<Active>,
    fstab: String,
    /// Swap units that are neither masked nor made from a line of fstab.
    units: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Active {
    path: String,
    size_kib: u64,
    used_kib: u64,
}

#[async_trait]
impl Resource for Swap {
    const KIND: &'static str = "swap";
    type State = State;

    fn name(&self) -> String {
        match self.state {
            Wanted::Off => "off".into(),
        }
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let read = |path: &str| host.read_text(Path::new(path));
        let fstab = read(FSTAB)?.unwrap_or_default();
        if host.facts().container {
            return Ok(Observed::Known(State { active: Vec::new(), fstab, units: Vec::new() }));
        }
        let active = active(&read(SWAPS)?.unwrap_or_default());
        let listed = host.query(&Query::systemd_unit_files("swap")).await?;
        if !listed.success() {
            bail!("cannot list swap units: {}", listed.stderr.trim());
        }
        let units = units(&listed.stdout, &fstab);
        Ok(Observed::Known(State { active, fstab, units }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        for swap in &state.active {
            let (size, used) = (swap.size_kib / 1024, swap.used_kib / 1024);
            diff.push(&swap.path, format!("on, {size} MiB ({used} MiB used) -> off"));
        }
        diff.compare_text(FSTAB, &state.fstab, &without_swap(&state.fstab));
        for unit in &state.units {
            diff.push(unit, "starts at boot -> masked");
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        // First what would bring it back, so that a cut in the middle leaves less swap, never more.
        if diff.has(FSTAB) {
            let path = Path::new(FSTAB);
            let before = host.read_text(path)?.unwrap_or_default();
            let mode = host.stat(path)?.map_or(0o644, |stat| stat.mode);
            host.write_file(path, without_swap(&before).as_bytes(), mode, Owner::ROOT)?;
        }
        for change in &diff.changes {
            match change.field.as_str() {
                FSTAB => {}
                device if device.starts_with('/') => {
                    host.progress(&format!("moving {device} back to memory"));
                    host.run(&Cmd::new(["swapoff", "--", device])).await.with_context(|| {
                        format!("cannot turn off {device}: is there enough free memory for what is in it?")
                    })?;
                }
                unit => {
                    host.run(&Cmd::new(["systemctl", "mask", "--", unit])).await?;
                }
            }
        }
        if diff.has(FSTAB) && !host.facts().container {
            // Forget the units that were made from the lines.
            host.run(&Cmd::new(["systemctl", "daemon-reload"])).await?;
        }
        Ok(())
    }
}

fn active(swaps: &str) -> Vec<Active> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let path = words.next()?.replace("\\040", " ");
        let mut numbers = words.skip(1).map(|word| word.parse().unwrap_or(0));
        Some(Active { path, size_kib: numbers.next()?, used_kib: numbers.next()? })
    };
    swaps.lines().skip(1).filter_map(entry).collect()
}

/// First word of the lines of fstab that are swap.
fn fstab_swaps(fstab: &str) -> impl Iterator<Item = &str> {
    fstab.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [device, _, "swap", ..] if !device.starts_with('#') => Some(device),
            _ => None,
        }
    })
}

fn without_swap(fstab: &str) -> String {
    let line = |line: &str| match fstab_swaps(line).next() {
        Some(_) => format!("{MARKER}{line}\n"),
        None => format!("{line}\n"),
    };
    fstab.lines().map(line).collect()
}

/// Of `systemctl list-unit-files`, those that still start something when the lines of fstab are gone.
fn units(listed: &str, fstab: &str) -> Vec<String> {
    let from_fstab: Vec<_> = fstab_swaps(fstab).map(unit_of).collect();
    listed
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (unit, state) = (words.next()?, words.next()?);
            (!matches!(state, "masked" | "masked-runtime") && !from_fstab.iter().any(|name| name == unit))
                .then(|| unit.to_owned())
        })
        .collect()
}

/// Name of the unit that systemd makes from a line of fstab (systemd-escape --path).
fn unit_of(device: &str) -> String {
    let path = match device.split_once('=') {
        Some((tag, value)) if !device.starts_with('/') => {
            let value = value.trim_matches('"');
            format!("/dev/disk/by-{}/{value}", tag.to_ascii_lowercase())
        }
        _ => device.to_owned(),
    };
    let mut name = String::new();
    for (at, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b if b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'.') => {
                name.push(char::from(b));
            }
            b => name.push_str(&format!("\\x{b:02x}")),
        }
    }
    name + ".swap"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, ok};
    use crate::resources::{AnyResource, Planned};

    // Ubuntu 22.04 server with its swap file.
    const SWAPS_TEXT: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/swap.img                               file\t\t2097148\t\t10240\t\t-2\n";
    const FSTAB_TEXT: &str =
        "UUID=0a3407de / ext4 defaults 0 1\n/swap.img\tnone\tswap\tsw\t0\t0\n# /old none swap sw 0 0\n";

    #[tokio::test]
    async fn plan_apply_plan() {
        let host = FakeHost::new()
            .file(SWAPS, SWAPS_TEXT, 0o444)
            .file(FSTAB, FSTAB_TEXT, 0o664)
            .file("/lib/units", "dev-zram0.swap generated -\nswap.img.swap generated -\n", 0o644)
            .on_query(&["systemctl", "list-unit-files"], |files, _| ok(&files.text("/lib/units")))
            .on_run(&["swapoff"], |files, _| {
                files.put_file(SWAPS, "Filename Type Size Used Priority\n", 0o444);
                ok("")
            })
            .on_run(&["systemctl", "mask"], |files, _| {
                let text = files.text("/lib/units").replace("dev-zram0.swap generated", "dev-zram0.swap masked");
                files.put_file("/lib/units", text, 0o644);
                ok("")
            })
            .on_run(&["systemctl", "daemon-reload"], |files, _| {
                files.put_file("/lib/units", "dev-zram0.swap masked -\n", 0o644);
                ok("")
            });
        let spec: Swap = serde_json::from_value(serde_json::json!("off")).unwrap();
        let Planned::Change(diff) = spec.plan(&host).await.unwrap() else {
            panic!("nothing planned");
        };
        let fields: Vec<_> = diff.changes.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(fields, ["/swap.img", FSTAB, "dev-zram0.swap"]);
        assert_eq!(diff.changes[0].detail, "on, 2047 MiB (10 MiB used) -> off");
        assert!(host.changes().is_empty());
        AnyResource::apply(&spec, &host, &diff).await.unwrap();
        assert_eq!(host.files().text(FSTAB), FSTAB_TEXT.replace("/swap.img", "# off by provision: /swap.img"));
        assert_eq!(spec.plan(&host).await.unwrap(), Planned::InSync);
        assert!(host.changes().contains(&"write /etc/fstab 0664 0:0".to_owned()));
    }

    #[tokio::test]
    async fn the_swap_outside_a_container_is_not_ours() {
        let host = FakeHost::new().with_facts(|facts| facts.container = true).file(SWAPS, SWAPS_TEXT, 0o444);
        let spec: Swap = serde_json::from_value(serde_json::json!(false)).unwrap();
        assert_eq!(spec.plan(&host).await.unwrap(), Planned::InSync);
    }

    #[test]
    fn on_is_refused() {
        for word in [serde_json::json!("on"), serde_json::json!(true)] {
            let error = serde_json::from_value::<Swap>(word).unwrap_err();
            assert_eq!(error.to_string(), "found \"on\", expected `off`");
        }
    }

    #[test]
    fn units_are_named_like_systemd_does() {
        // As printed by `systemd-escape --path`.
        assert_eq!(unit_of("/swap.img"), "swap.img.swap");
        assert_eq!(unit_of("/dev/mapper/vg-swap"), "dev-mapper-vg\\x2dswap.swap");
        assert_eq!(unit_of("UUID=0a3407de-014b"), "dev-disk-by\\x2duuid-0a3407de\\x2d014b.swap");
    }
}
