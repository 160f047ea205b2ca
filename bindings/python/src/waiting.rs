//! Waiting for contents that are elsewhere: a signal ends it, and so does who awaits the call.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use alknet_fs::{Cancel as CoreCancel, Error, ErrorKind, Fetching, Result};
use pyo3::prelude::*;

use crate::task::Cancel;

/// What a call of this thread does that has to wait for a content.
#[derive(Debug, Clone, Default)]
enum Wait {
    /// It waits, and looks for signals.
    #[default]
    Signals,
    /// It waits until a switch is thrown.
    Until(CoreCancel),
    /// It gives up.
    Not,
}

thread_local! {
    static WAIT: RefCell<Wait> = const { RefCell::new(Wait::Signals) };
    /// Whether a call gave up because it would have had to wait.
    static GAVE_UP: Cell<bool> = const { Cell::new(false) };
    /// What a signal handler raised.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Returns how the reads of a handle wait: the bucket's time, or another.
pub(crate) fn fetching(timeout: Option<Duration>) -> Fetching {
    let fetching = Fetching::new().while_waiting(check);
    match timeout {
        Some(timeout) => fetching.timeout(timeout),
        None => fetching,
    }
}

fn check() -> Result<()> {
    match WAIT.with_borrow(Wait::clone) {
        Wait::Not => {
            GAVE_UP.set(true);
            Err(ErrorKind::Cancelled.into())
        }
        Wait::Until(cancel) => cancel.check(),
        Wait::Signals => match Python::try_attach(|py| py.check_signals()) {
            Some(Err(raised)) => {
                RAISED.set(Some(raised));
                Err(ErrorKind::Cancelled.into())
            }
            Some(Ok(())) => Ok(()),
            // The interpreter is ending.
            None => Err(ErrorKind::Cancelled.into()),
        },
    }
}

/// Returns what a signal handler raised while a call of this thread waited, which ended it.
pub(crate) fn interrupted(error: &Error) -> Option<PyErr> {
    match error.is_cancelled() {
        true => RAISED.take(),
        false => None,
    }
}

/// Sets what calls of this thread do, until it is dropped.
struct Until(Wait);

impl Until {
    fn begin(wait: Wait) -> Self {
        Self(WAIT.replace(wait))
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        WAIT.set(std::mem::take(&mut self.0));
    }
}

/// Calls a function that must not wait for contents that are elsewhere. Returns whether it went
/// through, and what it returned.
#[pyfunction]
pub(crate) fn call_without_waiting<'py>(
    py: Python<'py>,
    work: &Bound<'py, PyAny>,
) -> PyResult<(bool, Bound<'py, PyAny>)> {
    let until = Until::begin(Wait::Not);
    GAVE_UP.set(false);
    let result = work.call0();
    drop(until);
    match result {
        Ok(value) => Ok((true, value)),
        Err(_) if GAVE_UP.get() => Ok((false, py.None().into_bound(py))),
        Err(error) => Err(error),
    }
}

/// Calls a function; when it waits for contents that are elsewhere, a switch ends that.
#[pyfunction]
pub(crate) fn call_stoppably<'py>(
    work: &Bound<'py, PyAny>,
    cancel: &Bound<'py, Cancel>,
) -> PyResult<Bound<'py, PyAny>> {
    let _until = Until::begin(Wait::Until(cancel.get().switch()));
    work.call0()
}
