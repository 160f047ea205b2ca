//! Long work: followed by a function, and stopped by a switch or a signal.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use alknet_fs::{Cancel as CoreCancel, Error, Result, Task};
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::to_py;
use crate::handle::{Handle, Held};

/// How often signals and the switch are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Asks long work to stop: pass it to the call, and call `cancel` from any thread.
#[pyclass(frozen, module = "alknet_fs")]
#[derive(Debug, Default)]
pub(crate) struct Cancel(CoreCancel);

#[pymethods]
impl Cancel {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop. It fails with `Cancelled`; what it committed before stays.
    fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether `cancel` was called.
    #[getter]
    pub(crate) fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Cancel {
    pub(crate) fn switch(&self) -> CoreCancel {
        self.0.clone()
    }
}

/// How far long work has come. Totals are 0 until they are known.
#[pyclass(frozen, get_all, eq, module = "alknet_fs")]
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Entries done, or what else the operation says that it counts.
    files: u64,
    /// Entries in all.
    total_files: u64,
    /// Bytes done.
    bytes: u64,
    /// Bytes in all.
    total_bytes: u64,
}

#[pymethods]
impl Progress {
    fn __repr__(&self) -> String {
        let Self {
            files,
            total_files,
            bytes,
            total_bytes,
        } = self;
        format!("<Progress files={files}/{total_files} bytes={bytes}/{total_bytes}>")
    }
}

/// What a caller brings along to long work.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    pub(crate) progress: Option<Py<PyAny>>,
    pub(crate) cancel: Option<Py<Cancel>>,
}

/// Tells the waiting thread that the work is over, however it ends.
struct Ending<'a> {
    over: &'a AtomicBool,
    waiter: Thread,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.waiter.unpark();
    }
}

impl Follower {
    fn wants_stop(&self) -> bool {
        let cancel = self.cancel.as_ref();
        cancel.is_some_and(|cancel| cancel.get().0.is_cancelled())
    }

    /// Calls the engine in a thread while this one waits for it, for signals and for the switch.
    pub(crate) fn run<T: Held, R: Send>(
        self,
        py: Python<'_>,
        handle: &Handle<T>,
        call: impl FnOnce(&T, &Task) -> Result<R> + Send,
    ) -> PyResult<R> {
        let inner = handle.checked(py)?;
        let stop = CoreCancel::new();
        let failure: Arc<Mutex<Option<PyErr>>> = Arc::default();
        let fail = {
            let (stop, failure) = (stop.clone(), Arc::clone(&failure));
            move |error: PyErr| {
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
                stop.cancel();
            }
        };
        let mut task = Task::new().cancel_with(&stop);
        if let Some(progress) = &self.progress {
            let (progress, fail) = (progress.clone_ref(py), fail.clone());
            task = task.report_to(move |now| {
                let now = Progress {
                    files: now.files,
                    total_files: now.total_files,
                    bytes: now.bytes,
                    total_bytes: now.total_bytes,
                };
                if let Err(error) = Python::attach(|py| progress.call1(py, (now,)).map(drop)) {
                    fail(error);
                }
            });
        }
        if self.wants_stop() {
            stop.cancel();
        }
        let over = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let ending = Ending {
                over: &over,
                waiter: thread::current(),
            };
            let worker = thread::Builder::new().name("alkfs-task".into());
            let worker = worker.spawn_scoped(scope, move || {
                let _ending = ending;
                call(&inner, &task)
            });
            let worker = worker.map_err(Error::from)?;
            loop {
                py.detach(|| thread::park_timeout(TICK));
                if over.load(Ordering::Acquire) {
                    break;
                }
                if let Err(error) = py.check_signals() {
                    fail(error);
                }
                if self.wants_stop() {
                    stop.cancel();
                }
            }
            py.detach(|| worker.join())
                .unwrap_or_else(|panic| resume_unwind(panic))
        });
        let failure = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match failure {
            Some(failure) => Err(failure),
            None => result.map_err(|e| to_py(py, e)),
        }
    }
}
