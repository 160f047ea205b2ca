//! What every object that reaches into a store is made of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use alknet_fs::{Error, ErrorKind, Store};
use parking_lot::Mutex;

/// Something of the engine that JavaScript holds until it closes it, or closes its store.
pub(crate) struct Handle<T> {
    slot: Arc<Slot<T>>,
    shared: Arc<Shared>,
}

struct Slot<T> {
    what: &'static str,
    value: Mutex<Option<Arc<T>>>,
}

/// What all handles of one open store share.
struct Shared {
    closed: AtomicBool,
    slots: Mutex<Vec<Weak<dyn Close>>>,
}

trait Close: Send + Sync {
    fn close(&self);
}

impl<T: Send + Sync> Close for Slot<T> {
    fn close(&self) {
        // What is let go may reach into the store: not while the slot is locked.
        let value = self.value.lock().take();
        drop(value);
    }
}

impl<T: Send + Sync + 'static> Handle<T> {
    /// Holds something else of the same store; `what` names it in errors.
    pub(crate) fn with<U: Send + Sync + 'static>(&self, what: &'static str, value: U) -> Handle<U> {
        Handle::new(Arc::clone(&self.shared), what, value)
    }

    fn new(shared: Arc<Shared>, what: &'static str, value: T) -> Self {
        let slot = Arc::new(Slot {
            what,
            value: Mutex::new(Some(Arc::new(value))),
        });
        let mut slots = shared.slots.lock();
        if slots.len() == slots.capacity() {
            slots.retain(|slot| slot.strong_count() > 0);
        }
        let weak = Arc::downgrade(&slot);
        slots.push(weak);
        drop(slots);
        // A store that was closed meanwhile did not find it in the list.
        if shared.closed.load(Ordering::SeqCst) {
            slot.close();
        }
        Self { slot, shared }
    }

    /// Returns what is held.
    ///
    /// # Errors
    /// [`ErrorKind::BadHandle`] where it, or its store, is closed.
    pub(crate) fn get(&self) -> Result<Arc<T>, Error> {
        self.slot.value.lock().clone().ok_or_else(|| self.closed())
    }

    /// Returns what is held and closes the handle.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`ErrorKind::InUse`] while an operation uses it.
    pub(crate) fn take(&self) -> Result<T, Error> {
        let mut slot = self.slot.value.lock();
        let value = slot.take().ok_or_else(|| self.closed())?;
        Arc::try_unwrap(value).map_err(|value| {
            *slot = Some(value);
            let detail = format!("another operation of the {} is at work", self.slot.what);
            Error::with_detail(ErrorKind::InUse, detail)
        })
    }

    /// Lets go what is held, once no operation uses it.
    pub(crate) fn close(&self) {
        self.slot.close();
    }

    fn closed(&self) -> Error {
        let what = match self.shared.closed.load(Ordering::SeqCst) {
            true => "store",
            false => self.slot.what,
        };
        Error::with_detail(ErrorKind::BadHandle, format!("the {what} is closed"))
    }
}

impl Handle<Store> {
    /// Holds a store.
    pub(crate) fn root(store: Store) -> Self {
        let shared = Shared {
            closed: AtomicBool::new(false),
            slots: Mutex::default(),
        };
        Self::new(Arc::new(shared), "store", store)
    }

    /// Closes the store and everything that was made from it.
    pub(crate) fn close_all(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let slots = std::mem::take(&mut *self.shared.slots.lock());
        for slot in slots.iter().filter_map(Weak::upgrade) {
            slot.close();
        }
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
            shared: Arc::clone(&self.shared),
        }
    }
}
