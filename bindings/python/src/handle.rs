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

/// How a store was opened, to open it once more elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct OpenedWith {
    pub(crate) author: Option<String>,
    pub(crate) durability: String,
    pub(crate) busy_timeout: Option<f64>,
}

/// What all handles of one open store share.
#[derive(Debug)]
pub(crate) struct Shared {
    opened_with: OpenedWith,
    forks: u32,
    closed: AtomicBool,
}

impl Shared {
    fn new(opened_with: OpenedWith) -> Self {
        Self {
            opened_with,
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
    pub(crate) fn root(inner: T, opened_with: OpenedWith) -> Self {
        Self {
            inner: ManuallyDrop::new(inner),
            shared: Arc::new(Shared::new(opened_with)),
        }
    }

    pub(crate) fn opened_with(&self) -> &OpenedWith {
        &self.shared.opened_with
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

    /// Tells whether two handles are of one open store.
    pub(crate) fn is_of<U>(&self, other: &Handle<U>) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Returns a number that handles of one open store have in common.
    pub(crate) fn store_number(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    /// Returns what is wrapped, for what does not reach into the store.
    pub(crate) fn peek(&self) -> &T {
        &self.inner
    }

    /// Returns what is wrapped, to let it go; nothing in a process that must not touch it.
    pub(crate) fn own(&self) -> Option<&T> {
        (!self.shared.is_foreign()).then_some(&*self.inner)
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
        let inner = self.checked(py)?;
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

    /// Returns what is wrapped, where the engine may be called with it.
    pub(crate) fn checked(&self, py: Python<'_>) -> PyResult<&T> {
        self.shared.check().map_err(|e| to_py(py, e))?;
        Ok(&self.inner)
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
