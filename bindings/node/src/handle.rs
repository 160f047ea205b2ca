//! What every object that reaches into a store is made of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use alknet_fs::node::Node;
use alknet_fs::{Batch, Bucket, Error, ErrorKind, File, Reader, Session, Store, Watcher};
use parking_lot::Mutex;

use crate::lane::{Lane, is_ending};

/// Something of the engine that JavaScript holds until it closes it, or closes its store.
pub(crate) struct Handle<T: Held> {
    slot: Arc<Slot<T>>,
    shared: Arc<Shared>,
}

/// What a handle holds.
pub(crate) trait Held: Send + Sync + 'static {
    /// Whether letting it go may wait for whoever writes to the store.
    const WAITS: bool;
}

macro_rules! held {
    ($($held:ty: $waits:expr),*) => {
        $(impl Held for $held {
            const WAITS: bool = $waits;
        })*
    };
}

held! {
    Store: true,
    Session: true,
    File: true,
    Mutex<Batch>: true,
    Bucket: false,
    Reader: false,
    Mutex<Watcher>: false,
    Mutex<Option<Arc<Node>>>: true
}

struct Slot<T: Held> {
    what: &'static str,
    value: Mutex<Option<Arc<T>>>,
    writes: Lane,
}

/// What all handles of one open store share.
#[derive(Default)]
struct Shared {
    closed: AtomicBool,
    slots: Mutex<Vec<Weak<dyn Close>>>,
    writes: Lane,
    tasks: Lane,
}

trait Close: Send + Sync {
    fn close(&self);
}

impl<T: Held> Close for Slot<T> {
    fn close(&self) {
        // What is let go may reach into the store: not while the slot is locked.
        let value = self.value.lock().take();
        drop(value);
    }
}

impl<T: Held> Drop for Slot<T> {
    fn drop(&mut self) {
        let Some(value) = self.value.get_mut().take() else {
            return;
        };
        // This may be the thread of JavaScript, collecting garbage: it does not wait for others.
        let let_go = move || match T::WAITS && !is_ending() {
            // A thread that cannot be had leaves it here.
            true => drop(self.writes.run(move || drop(value))),
            false => drop(value),
        };
        // Nobody could be told.
        let _ = catch_unwind(AssertUnwindSafe(let_go));
    }
}

impl<T: Held> Handle<T> {
    /// The threads for what may wait for whoever writes to the store.
    pub(crate) fn writes(&self) -> &Lane {
        &self.shared.writes
    }

    /// The threads for what takes long.
    pub(crate) fn tasks(&self) -> &Lane {
        &self.shared.tasks
    }

    /// Holds something else of the same store; `what` names it in errors.
    pub(crate) fn with<U: Held>(&self, what: &'static str, value: U) -> Handle<U> {
        Handle::new(Arc::clone(&self.shared), what, value)
    }

    fn new(shared: Arc<Shared>, what: &'static str, value: T) -> Self {
        let slot = Arc::new(Slot {
            what,
            value: Mutex::new(Some(Arc::new(value))),
            writes: shared.writes.clone(),
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
        Self::new(Arc::default(), "store", store)
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

impl<T: Held> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
            shared: Arc::clone(&self.shared),
        }
    }
}
