//! Building the image of a Dockerfile with the host's BuildKit, straight into k3s's containerd.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Mutex;

use crate::host::{Cmd, ReadHost, WriteHost};
use crate::image::dockerfile::DockerBuild;

/// Where contexts lie while they are built.
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
    // Stages run at the same time, and a build uses the whole machine anyway. Alone, it can also remove what a cut run left.
    static ALONE: Mutex<()> = Mutex::const_new(());
    let _alone = match ALONE.try_lock() {
        Ok(alone) => alone,
        Err(_) => {
            host.progress(&format!("{}: waiting for another build", build.reference));
            ALONE.lock().await
        }
    };
    let archive = host.fetch(&build.context).await?;
    host.remove_dir_all(Path::new(FOLDER))?;
    let built = run(host, build, &archive).await;
    // A failed build must not leave the project's files there, and its own error comes first.
    let removed = host.remove_dir_all(Path::new(FOLDER));
    built?;
    removed?;
    host.remove_file(&archive)
}

async fn run(host: &dyn WriteHost, build: &DockerBuild, archive: &Path) -> Result<()> {
    let folder = folder(build);
    host.create_dirs(Path::new(&folder), 0o700)?;
    // BuildKit keeps the files of the last build and takes those anew whose size or time differs. In the archive all have one
    // time, so with it a change that keeps the size would go unseen: they get the time of now.
    host.run(&Cmd::new(["tar", "--touch", "-xf", &archive.display().to_string(), "-C", &folder])).await?;
    host.progress(&format!("building {}", build.reference));
    host.run(&command(build, &folder)).await?;
    Ok(())
}

/// A folder for each image: `provision.local/web:3f2a…` in `…/build/web-3f2a…`.
fn folder(build: &DockerBuild) -> String {
    let name = build.reference.rsplit('/').next().unwrap_or_default();
    format!("{FOLDER}/{}", name.replace(':', "-"))
}

fn command(build: &DockerBuild, folder: &str) -> Cmd {
    let path = Path::new(&build.dockerfile);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dockerfile = parent.map_or_else(|| folder.to_owned(), |parent| format!("{folder}/{}", parent.display()));
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut argv: Vec<String> =
        ["/usr/local/bin/buildctl", "--addr", &format!("unix://{SOCKET}"), "build"].map(str::to_owned).to_vec();
    argv.extend(["--progress", "plain", "--frontend", "dockerfile.v0"].map(str::to_owned));
    argv.extend(["--local".to_owned(), format!("context={folder}")]);
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
