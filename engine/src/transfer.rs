//! Copying trees between the operating system's filesystem and a branch.

mod export;
mod import;

pub use export::{ExportOptions, ExportReport};
pub use import::{ImportOptions, ImportReport, Skipped};

use std::io;
use std::num::NonZero;
use std::thread::{self, Scope, ScopedJoinHandle};

/// Returns how many threads read or write files.
fn workers() -> usize {
    thread::available_parallelism()
        .map_or(2, NonZero::get)
        .clamp(1, 8)
}

/// Starts a thread; where there can be none, the work is dropped, and the caller goes on without.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    let builder = thread::Builder::new().name(format!("alkfs-{name}"));
    let spawned = builder.spawn_scoped(scope, work);
    spawned.inspect_err(|error| tracing::warn!(%error, name, "going on with fewer threads"))
}
