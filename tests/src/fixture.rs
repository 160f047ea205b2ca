//! Empty stores of each kind to run tests on.

use alknet_fs_core::event::Cursor;
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::Store;
use alknet_fs_sqlite::{Options, SqliteStore};
use tempfile::TempDir;

/// A store, and the directory that goes with it.
pub struct Fixture {
    store: Box<dyn Store>,
    // Dropped after the store that lies in it.
    dir: Option<TempDir>,
}

impl Fixture {
    /// Makes an empty store in memory.
    pub fn memory() -> Self {
        Self {
            store: Box::new(MemoryStore::new()),
            dir: None,
        }
    }

    /// Makes an empty SQLite store in a temporary directory.
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = SqliteStore::create(&dir.path().join("store"), Options::default());
        Self {
            store: Box::new(store.expect("a new store")),
            dir: Some(dir),
        }
    }

    /// Returns the store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Wraps the store in another one.
    pub fn map<S: Store + 'static>(self, wrap: impl FnOnce(Box<dyn Store>) -> S) -> (S, Guard) {
        (wrap(self.store), Guard(self.dir))
    }
}

/// Keeps the directory of a store; to be dropped after it.
pub struct Guard(#[allow(dead_code, reason = "held for its drop")] Option<TempDir>);

/// Returns all that a store holds, but for contents, locks and values, line by line.
pub fn state(store: &dyn Store) -> Vec<String> {
    let txn = store.read().unwrap();
    let mut out = Vec::new();
    for bucket in txn.buckets().unwrap() {
        out.push(format!("{bucket:?}"));
        for branch in txn.branches(bucket.id).unwrap() {
            out.push(format!("{branch:?}"));
            out.push(format!("{:?}", txn.lines(branch.id).unwrap()));
            out.push(format!("{:?}", txn.snapshots(branch.id).unwrap()));
        }
        let rows = crate::world::dump(&*txn, bucket.id).unwrap();
        out.extend(rows.iter().map(|row| format!("{row:?}")));
    }
    for session in txn.sessions(None).unwrap() {
        out.push(format!("{session:?}"));
        out.push(format!("{:?}", txn.session_ops(session.id).unwrap()));
    }
    let pruned = txn.buckets().unwrap().into_iter().map(|b| b.pruned).max();
    let after = pruned.unwrap_or(Cursor::START);
    let events = txn.events(None, after, usize::MAX).unwrap();
    out.extend(events.iter().map(|event| format!("{event:?}")));
    out.push(format!("{:?}", txn.last_cursor().unwrap()));
    out
}
