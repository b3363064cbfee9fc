//! Ctrl-C and SIGTERM: the first stops at a clean point, the second at once.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// Status of a program that was interrupted.
pub const CODE: u8 = 130;

/// Whether somebody wants this to end.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on, in a thread of its own: training leaves no time to.
    ///
    /// # Errors
    /// Those of the system.
    pub fn watch() -> std::io::Result<Self> {
        let this = Self::default();
        let flag = this.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(guard);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    flag.told();
                }
            });
        })?;
        Ok(this)
    }

    /// Whether a signal came.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn told(&self) {
        if self.0.swap(true, Ordering::Relaxed) {
            // What was being written has another name until it is whole.
            #[allow(clippy::exit)]
            std::process::exit(i32::from(CODE));
        }
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "stopping as soon as nothing is left half-done; once more stops at once");
    }
}
