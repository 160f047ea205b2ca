//! Empty stores of each kind to run tests on.

use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::Store;
use alknet_fs_sqlite::{Options, SqliteStore};
use tempfile::TempDir;

/// A store, and the directory that goes with it.
pub struct Fixture {
    store: Box<dyn Store>,
    // Dropped after the store that lies in it.
    _dir: Option<TempDir>,
}

impl Fixture {
    /// Makes an empty store in memory.
    pub fn memory() -> Self {
        Self {
            store: Box::new(MemoryStore::new()),
            _dir: None,
        }
    }

    /// Makes an empty SQLite store in a temporary directory.
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = SqliteStore::create(&dir.path().join("store"), Options::default());
        Self {
            store: Box::new(store.expect("a new store")),
            _dir: Some(dir),
        }
    }

    /// Returns the store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }
}
