//! What every object that reaches into a store is made of.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use alknet_fs::{Error, ErrorKind, Result};
use pyo3::types::{PyBytes, PyBytesMethods as _};
use pyo3::{Bound, PyResult, Python};

use crate::error::to_py;

/// How many times this process came out of a fork.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Notes that this process is the child of a fork.
pub(crate) fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// What all handles of one open store share.
#[derive(Debug)]
pub(crate) struct Shared {
    forks: u32,
    closed: AtomicBool,
}

impl Shared {
    fn new() -> Self {
        Self {
            forks: FORKS.load(Ordering::Relaxed),
            closed: AtomicBool::new(false),
        }
    }

    fn is_foreign(&self) -> bool {
        self.forks != FORKS.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<()> {
        if self.is_foreign() {
            let detail = "the store was opened before os.fork(); open it again in the child";
            return Err(Error::with_detail(ErrorKind::BadHandle, detail));
        }
        match self.closed.load(Ordering::Relaxed) {
            true => Err(Error::with_detail(
                ErrorKind::BadHandle,
                "the store is closed",
            )),
            false => Ok(()),
        }
    }
}

/// Something of the engine, used with the interpreter's lock released, and only while its store is
/// open and in the process that opened it.
///
/// In the child of a fork it is never dropped: a database connection must not be used there, and an
/// open session belongs to the parent.
#[derive(Debug)]
pub(crate) struct Handle<T> {
    inner: ManuallyDrop<T>,
    shared: Arc<Shared>,
}

impl<T> Handle<T> {
    /// Wraps the store itself.
    pub(crate) fn root(inner: T) -> Self {
        Self {
            inner: ManuallyDrop::new(inner),
            shared: Arc::new(Shared::new()),
        }
    }

    /// Wraps something else of the same store.
    pub(crate) fn with<U>(&self, inner: U) -> Handle<U> {
        Handle {
            inner: ManuallyDrop::new(inner),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Wraps something made from this without calling the engine.
    pub(crate) fn map<U>(&self, make: impl FnOnce(&T) -> U) -> Handle<U> {
        self.with(make(&self.inner))
    }

    /// Returns what is wrapped, for what does not reach into the store.
    pub(crate) fn peek(&self) -> &T {
        &self.inner
    }

    /// Makes every handle of the store fail from now on.
    pub(crate) fn close_store(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.check().is_err()
    }

    /// Calls the engine without the interpreter's lock.
    pub(crate) fn run<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&T) -> Result<R> + Send,
    ) -> PyResult<R>
    where
        T: Sync,
    {
        self.shared.check().map_err(|e| to_py(py, e))?;
        let inner = self.inner.deref();
        py.detach(|| call(inner)).map_err(|e| to_py(py, e))
    }

    /// Has the engine fill new bytes, called as [`run`](Self::run) does; it tells how many it filled.
    pub(crate) fn fill<'py>(
        &self,
        py: Python<'py>,
        len: usize,
        call: impl FnOnce(&T, &mut [u8]) -> Result<usize> + Send,
    ) -> PyResult<Bound<'py, PyBytes>>
    where
        T: Sync,
    {
        let mut filled = 0;
        let bytes = PyBytes::new_with(py, len, |buffer| {
            filled = self.run(py, |inner| call(inner, buffer))?;
            Ok(())
        })?;
        match filled == len {
            true => Ok(bytes),
            false => Ok(PyBytes::new(py, &bytes.as_bytes()[..filled])),
        }
    }
}

impl<T: Clone> Clone for Handle<T> {
    fn clone(&self) -> Self {
        self.with(self.inner.deref().clone())
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        if !self.shared.is_foreign() {
            // SAFETY: nothing uses the value after this, the only place that drops it.
            unsafe { ManuallyDrop::drop(&mut self.inner) };
        }
    }
}
