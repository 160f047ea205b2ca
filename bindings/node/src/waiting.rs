//! Waiting for contents that are elsewhere: in threads that do nothing else.

use std::cell::Cell;
use std::time::Duration;

use alknet_fs::{Error, ErrorKind, Fetching};

thread_local! {
    /// Whether a call of this thread gives up rather than wait.
    static HURRIES: Cell<bool> = const { Cell::new(false) };
    static GAVE_UP: Cell<bool> = const { Cell::new(false) };
}

/// Returns how the reads of a handle wait: the bucket's time, or another.
pub(crate) fn fetching(timeout: Option<Duration>) -> Fetching {
    let fetching = Fetching::new().while_waiting(check);
    match timeout {
        Some(timeout) => fetching.timeout(timeout),
        None => fetching,
    }
}

fn check() -> Result<(), Error> {
    if !HURRIES.get() {
        return Ok(());
    }
    GAVE_UP.set(true);
    Err(ErrorKind::Cancelled.into())
}

/// Does what must not wait. Nothing means that it would have to; nothing was done then.
pub(crate) fn hurriedly<T, E>(work: impl FnOnce() -> Result<T, E>) -> Option<Result<T, E>> {
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            HURRIES.set(false);
        }
    }
    HURRIES.set(true);
    GAVE_UP.set(false);
    let ends = Ends;
    let result = work();
    drop(ends);
    (result.is_ok() || !GAVE_UP.get()).then_some(result)
}
