//! What `fork.rs` is where no process forks.

use std::fs::File;
use std::ops::Deref;

use parking_lot::{Mutex, MutexGuard};

/// Waits until no other thread creates or opens a store.
pub(crate) fn creating() -> MutexGuard<'static, ()> {
    static CREATING: Mutex<()> = Mutex::new(());
    CREATING.lock()
}

pub(crate) struct LockFile(File);

impl LockFile {
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }
}

impl Deref for LockFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}
