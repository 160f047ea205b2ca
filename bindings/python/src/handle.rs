//! What every object that reaches into a store is made of.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use alknet_fs::{Error, ErrorKind, Result};
use pyo3::types::{PyBytes, PyBytesMethods as _};
use pyo3::{Bound, PyResult, Python};

use crate::error::to_py;
use crate::waiting;

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
    slots: Mutex<Vec<Weak<dyn Close>>>,
}

/// What of the engine a handle may hold.
pub(crate) trait Held: fmt::Debug + Send + Sync + 'static {}

impl<T: fmt::Debug + Send + Sync + 'static> Held for T {}

/// Holds something of the engine until its store is closed.
#[derive(Debug)]
struct Slot<T>(Mutex<Option<Arc<T>>>);

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

trait Close: fmt::Debug + Send + Sync {
    fn close(&self);
}

impl<T: Held> Close for Slot<T> {
    fn close(&self) {
        // What is let go may reach into the store: not while the slot is locked.
        let value = self.lock().take();
        drop(value);
    }
}

impl Shared {
    fn new(opened_with: OpenedWith) -> Self {
        Self {
            opened_with,
            forks: FORKS.load(Ordering::Relaxed),
            closed: AtomicBool::new(false),
            slots: Mutex::default(),
        }
    }

    fn is_foreign(&self) -> bool {
        self.forks != FORKS.load(Ordering::Relaxed)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Weak<dyn Close>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<()> {
        if self.is_foreign() {
            let detail = "the store was opened before os.fork(); open it again in the child";
            return Err(Error::with_detail(ErrorKind::BadHandle, detail));
        }
        match self.closed.load(Ordering::SeqCst) {
            true => Err(closed()),
            false => Ok(()),
        }
    }
}

fn closed() -> Error {
    Error::with_detail(ErrorKind::BadHandle, "the store is closed")
}

/// Something of the engine, used with the interpreter's lock released, and only while its store is
/// open and in the process that opened it.
///
/// In the child of a fork it is never dropped: a database connection must not be used there, and an
/// open session belongs to the parent.
#[derive(Debug)]
pub(crate) struct Handle<T: Held> {
    slot: ManuallyDrop<Arc<Slot<T>>>,
    shared: Arc<Shared>,
}

impl<T: Held> Handle<T> {
    fn new(shared: Arc<Shared>, value: T) -> Self {
        let slot = Arc::new(Slot(Mutex::new(Some(Arc::new(value)))));
        let weak: Weak<dyn Close> = Arc::<Slot<T>>::downgrade(&slot);
        let mut slots = shared.slots();
        if slots.len() == slots.capacity() {
            slots.retain(|slot| slot.strong_count() > 0);
            let more = slots.len().max(16);
            slots.reserve(more);
        }
        slots.push(weak);
        drop(slots);
        // A store that was closed meanwhile may not have found it in the list.
        if shared.closed.load(Ordering::SeqCst) {
            slot.close();
        }
        Self {
            slot: ManuallyDrop::new(slot),
            shared,
        }
    }

    /// Wraps the store itself.
    pub(crate) fn root(value: T, opened_with: OpenedWith) -> Self {
        Self::new(Arc::new(Shared::new(opened_with)), value)
    }

    /// Wraps something else of the same store.
    pub(crate) fn with<U: Held>(&self, value: U) -> Handle<U> {
        Handle::new(Arc::clone(&self.shared), value)
    }

    pub(crate) fn opened_with(&self) -> &OpenedWith {
        &self.shared.opened_with
    }

    /// Tells whether two handles are of one open store.
    pub(crate) fn is_of<U: Held>(&self, other: &Handle<U>) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Returns a number that handles of one open store have in common.
    pub(crate) fn store_number(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    /// Calls the engine without the interpreter's lock.
    pub(crate) fn run<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&T) -> Result<R> + Send,
    ) -> PyResult<R> {
        let value = self.checked(py)?;
        // The value goes there, too: a store that is closed meanwhile lets it go to this call.
        let result = py.detach(move || call(&value));
        result.map_err(|e| waiting::interrupted(&e).unwrap_or_else(|| to_py(py, e)))
    }

    /// Returns what is wrapped, where the engine may be called with it.
    pub(crate) fn checked(&self, py: Python<'_>) -> PyResult<Arc<T>> {
        let checked = self.shared.check();
        let value = checked.and_then(|()| self.slot.lock().clone().ok_or_else(closed));
        value.map_err(|e| to_py(py, e))
    }

    /// Does something with what is wrapped, to let it go; nothing where its store is closed, or in
    /// a process that must not touch it.
    pub(crate) fn release(&self, py: Python<'_>, release: impl FnOnce(&T) + Send) {
        if self.shared.is_foreign() {
            return;
        }
        let value = self.slot.lock().clone();
        py.detach(move || {
            if let Some(value) = value {
                release(&value);
            }
        });
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.check().is_err()
    }

    /// Lets go of everything that was made from the store, and of the store; every handle of it
    /// fails from now on. What a call is busy with goes when the call ends.
    pub(crate) fn close_store(&self, py: Python<'_>) {
        self.shared.closed.store(true, Ordering::SeqCst);
        if self.shared.is_foreign() {
            return;
        }
        let slots = std::mem::take(&mut *self.shared.slots());
        py.detach(move || {
            for slot in slots.iter().rev().filter_map(Weak::upgrade) {
                slot.close();
            }
        });
    }
}

/// Has the engine fill new bytes without the interpreter's lock; it tells how many it filled.
pub(crate) fn fill(
    py: Python<'_>,
    len: usize,
    call: impl FnOnce(&mut [u8]) -> Result<usize> + Send,
) -> PyResult<Bound<'_, PyBytes>> {
    let mut filled = 0;
    let bytes = PyBytes::new_with(py, len, |buffer| {
        filled = py.detach(|| call(buffer)).map_err(|e| to_py(py, e))?;
        Ok(())
    })?;
    match filled == len {
        true => Ok(bytes),
        false => Ok(PyBytes::new(py, &bytes.as_bytes()[..filled])),
    }
}

impl<T: Held> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self {
            slot: self.slot.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T: Held> Drop for Handle<T> {
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            return;
        }
        // SAFETY: nothing uses the slot after this, the only place that takes it.
        let slot = unsafe { ManuallyDrop::take(&mut self.slot) };
        let Some(Slot(value)) = Arc::into_inner(slot) else {
            return;
        };
        let value = value.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(value) = value.and_then(Arc::into_inner) else {
            return;
        };
        // To let it go may take a transaction, for which no other thread of Python must wait. An
        // interpreter that is ending has no other.
        let mut value = Some(value);
        Python::try_attach(|py| py.detach(|| drop(value.take())));
        drop(value);
    }
}
