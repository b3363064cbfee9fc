//! Building the image of a Dockerfile with the host's BuildKit, straight into k3s's containerd.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::host::{Cmd, ReadHost, WriteHost};
use crate::image::dockerfile::DockerBuild;

/// Where the context lies while it is built.
const FOLDER: &str = "/var/lib/provision/build";
/// BuildKit listens here.
const SOCKET: &str = "/run/buildkit/buildkitd.sock";
/// A build may compile something large.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Why it cannot be built yet; `None` when it can.
pub(super) fn lacks_buildkit(host: &dyn ReadHost) -> Result<Option<String>> {
    Ok(match host.stat(Path::new(SOCKET))? {
        Some(_) => None,
        None => Some(
            "needs BuildKit: set buildkit.enabled, and let the stage of this image need the stage `buildkit`"
                .to_owned(),
        ),
    })
}

pub(super) async fn build(host: &dyn WriteHost, build: &DockerBuild) -> Result<()> {
    let archive = host.fetch(&build.context).await?;
    let folder = Path::new(FOLDER);
    // What a run that was cut has left.
    host.remove_dir_all(folder)?;
    host.create_dirs(folder, 0o700)?;
    host.run(&Cmd::new(["tar", "-xf", &archive.display().to_string(), "-C", FOLDER])).await?;
    host.progress(&format!("building {}", build.reference));
    host.run(&command(build)).await?;
    host.remove_dir_all(folder)
}

fn command(build: &DockerBuild) -> Cmd {
    let path = Path::new(&build.dockerfile);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dockerfile = parent.map_or_else(|| FOLDER.to_owned(), |parent| format!("{FOLDER}/{}", parent.display()));
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut argv: Vec<String> =
        ["/usr/local/bin/buildctl", "--addr", &format!("unix://{SOCKET}"), "build"].map(str::to_owned).to_vec();
    argv.extend(["--progress", "plain", "--frontend", "dockerfile.v0"].map(str::to_owned));
    argv.extend(["--local".to_owned(), format!("context={FOLDER}")]);
    argv.extend(["--local".to_owned(), format!("dockerfile={dockerfile}")]);
    let mut option = |name: &str, value: &str| argv.extend(["--opt".to_owned(), format!("{name}={value}")]);
    option("filename", &file);
    // An image that containerd has already is not asked for at a registry.
    option("image-resolve-mode", "local");
    for (name, value) in &build.build_args {
        option(&format!("build-arg:{name}"), value);
    }
    if let Some(target) = &build.target {
        option("target", target);
    }
    argv.extend(["--output".to_owned(), format!("type=image,name={},unpack=true", build.reference)]);
    Cmd::new(argv).timeout(PATIENCE)
}
