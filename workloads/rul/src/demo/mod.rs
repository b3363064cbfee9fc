//! `rul demo`: the whole loop on this machine, without a cluster, in about a minute.
//!
//! | moment | what has happened |
//! |---|---|
//! | T0 | a champion is trained, promoted and served; usual traffic; the drift watch says ok |
//! | T1 | engines of another data set come into service |
//! | T2 | the watch has found the drift and its alert has reached the trigger |
//! | T3 | the trigger has started a retraining, with the champion's weights as its beginning |
//! | T4 | the challenger is better on held-out engines of the new conditions: the alias moves |
//! | T5 | it is served, no request failed, and the watch says ok with the new model's own baseline |
//!
//! Nothing is staged: every step is `rul train`, `promote`, `serve`, `simulate`, `drift` or `trigger` as a child process ([`house`]). The
//! one stand-in is the [`relay`], in Alertmanager's place. The end is a report, one HTML file ([`report`]), and an incident.

mod commands;
mod course;
mod data;
mod error;
mod house;
mod incident;
mod looks;
mod options;
mod relay;
mod report;
mod ring;
mod samples;
mod scores;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

pub use error::Error;
pub use options::Options;

use course::{Findings, MODEL};
use house::House;
use incident::Incident;
use scores::Model;

/// Exit status after Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Runs it all.
///
/// # Errors
/// The first step that did not happen as it should.
pub fn run(options: Options) -> Result<ExitCode, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("cannot start"))?;
    match runtime.block_on(demo(&options)) {
        Ok(incident) => {
            let text = if options.json {
                serde_json::to_string(&incident).map_err(|e| Error::Start(e.to_string()))?
            } else {
                format!("{}\nReport: {}", incident.verdict(), options.report.display())
            };
            // A closed pipe is not an error.
            let _ = writeln!(std::io::stdout(), "{text}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ Error::Interrupted) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => {
            if options.json {
                let reason = error.to_string();
                let reason = reason.lines().next().unwrap_or_default();
                let line = json!({ "type": "incident", "schema": 1, "ok": false, "reason": reason });
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            Err(error)
        }
    }
}

async fn demo(options: &Options) -> Result<Incident, Error> {
    let place = Place::new(options)?;
    let mut house = House::new(place.path().to_owned(), options.patience)?;
    let install = |kind| signal(kind).map_err(Error::io("cannot watch for signals"));
    let (mut interrupt, mut terminate) = (install(SignalKind::interrupt())?, install(SignalKind::terminate())?);
    let found = tokio::select! {
        found = course::course(&mut house, options) => found,
        _ = interrupt.recv() => Err(Error::Interrupted),
        _ = terminate.recv() => Err(Error::Interrupted),
    };
    house.stop().await;
    if let Some(kept) = place.kept() {
        house.say(&format!("the work directory stays: {}", kept.display()));
    }
    let incident = told(&house, options, &found?)?;
    house.say(&format!("all programs have ended; report: {}", options.report.display()));
    Ok(incident)
}

/// The incident, and the report on disk.
fn told(house: &House, options: &Options, found: &Findings) -> Result<Incident, Error> {
    let artifact = |version: &str| found.registry.join(MODEL).join("versions").join(version).join("artifact");
    let champion = Model::score(&artifact(&found.champion), &found.data)?;
    let challenger = Model::score(&artifact(&found.challenger), &found.data)?;
    let incident = Incident::new(found, &champion, &challenger, house.seconds());
    let page = report::page(&report::Story {
        found,
        incident: &incident,
        champion: &champion,
        challenger: &challenger,
        house,
    });
    save(&options.report, &page)?;
    Ok(incident)
}

/// Replaces the file at once.
fn save(path: &Path, text: &str) -> Result<(), Error> {
    let wrong = |source| Error::Io { what: format!("cannot write the report to {}", path.display()), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(wrong)?;
    file.write_all(text.as_bytes()).map_err(wrong)?;
    // A temporary file is its owner's alone; a report is for showing.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(readable).map_err(wrong)?;
    file.persist(path).map_err(|e| wrong(e.error))?;
    Ok(())
}

/// Where the demo works.
enum Place {
    Passing(tempfile::TempDir),
    Kept(PathBuf),
}

impl Place {
    fn new(options: &Options) -> Result<Self, Error> {
        if let Some(dir) = &options.out {
            let named = || dir.display().to_string();
            std::fs::create_dir_all(dir).map_err(Error::io(named()))?;
            if std::fs::read_dir(dir).map_err(Error::io(named()))?.next().is_some() {
                return Err(Error::Occupied(dir.clone()));
            }
            // Addresses of directories are absolute.
            return dir.canonicalize().map(Self::Kept).map_err(Error::io(named()));
        }
        let dir = tempfile::Builder::new().prefix("rul-demo-").tempdir().map_err(Error::io("no room to work in"))?;
        Ok(if options.keep { Self::Kept(dir.keep()) } else { Self::Passing(dir) })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Passing(dir) => dir.path(),
            Self::Kept(dir) => dir,
        }
    }

    fn kept(&self) -> Option<&Path> {
        match self {
            Self::Passing(_) => None,
            Self::Kept(dir) => Some(dir),
        }
    }
}
