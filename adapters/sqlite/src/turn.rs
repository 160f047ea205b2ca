//! Taking turns at writing.
//!
//! SQLite's write lock has no queue: whoever tries at the right moment gets it. A process that
//! commits one transaction after another leaves it free for microseconds only, so that one which
//! tries now and then would wait for seconds. So a writer first takes the *turn*, a lock on a file of
//! its own that it holds just until its transaction begins. While one waits for a transaction to
//! end, the others wait for the turn, the one whose transaction it was among them.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use alknet_fs_core::{Error, ErrorKind, Result};

use crate::fork::LockFile;

pub(crate) struct Turn(LockFile);

/// Gives the turn back when dropped.
pub(crate) struct Taken<'a>(&'a File);

impl Turn {
    /// Opens the file, which is made where it does not exist; it stays empty.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        // The umask may have taken bits away.
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self(LockFile::new(file)))
    }

    /// Waits for the turn until a deadline.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] at the deadline.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Result<Taken<'_>> {
        let mut pauses = Pauses::new(deadline);
        loop {
            match self.0.try_lock() {
                Err(TryLockError::WouldBlock) if pauses.pause() => {}
                Err(TryLockError::WouldBlock) => return Err(Error::new(ErrorKind::Busy)),
                // A file system without such locks has no turns: SQLite's lock still holds.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(Taken(&self.0)),
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Fails only where locking failed.
        let _ = self.0.unlock();
    }
}

/// Short waits between tries for a lock. Those of SQLite's own busy handler grow to 100 ms.
pub(crate) struct Pauses {
    next: Duration,
    deadline: Option<Instant>,
}

impl Pauses {
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        Self {
            next: Duration::from_micros(50),
            deadline,
        }
    }

    /// Waits a little; returns whether to try again, which the deadline ends.
    pub(crate) fn pause(&mut self) -> bool {
        if self.deadline.is_some_and(|at| Instant::now() >= at) {
            return false;
        }
        thread::sleep(self.next);
        self.next = (self.next * 2).min(Duration::from_micros(250));
        true
    }
}
