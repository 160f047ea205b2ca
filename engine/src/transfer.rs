//! Copying trees between the operating system's filesystem and a branch.

mod export;
mod import;

pub use export::{ExportOptions, ExportReport};
pub use import::{ImportOptions, ImportReport, Skipped};

use std::num::NonZero;
use std::thread;

/// Returns how many threads read or write files.
fn workers() -> usize {
    thread::available_parallelism()
        .map_or(2, NonZero::get)
        .clamp(1, 8)
}
