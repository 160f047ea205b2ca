//! Cancelling long work, and following it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alknet_fs_core::{Error, ErrorKind, Result};

/// Asks long work to stop. Clones share one switch.
///
/// The work notices between files, or between blocks of a large file, and returns
/// [`ErrorKind::Cancelled`]; what it had committed stays.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Creates a switch that is off.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Tells whether the work was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns an error once the work was asked to stop.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled));
        }
        Ok(())
    }
}

/// How far long work has come. Totals are 0 until they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Entries done, or what else the operation says that it counts.
    pub files: u64,
    /// Entries in all.
    pub total_files: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// What a caller of long work brings along: a way to stop it and a way to follow it.
#[derive(Clone, Default)]
pub struct Task {
    cancel: Cancel,
    report: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl Task {
    /// Creates a task that nobody cancels or follows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a switch stop the work.
    #[must_use]
    pub fn cancel_with(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Calls a function, from any thread, whenever some work was done.
    #[must_use]
    pub fn report_to(mut self, report: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.report = Some(Arc::new(report));
        self
    }

    /// Returns the switch.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Tells whether somebody follows, so that totals are worth finding.
    pub(crate) fn is_followed(&self) -> bool {
        self.report.is_some()
    }

    /// Reports progress, and returns an error once the work was asked to stop.
    pub(crate) fn step(&self, progress: Progress) -> Result<()> {
        if let Some(report) = &self.report {
            report(progress);
        }
        self.cancel.check()
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}
