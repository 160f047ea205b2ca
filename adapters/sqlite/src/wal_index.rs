//! What was committed last, as told by the shared memory in which SQLite keeps the index of its
//! write-ahead log.
//!
//! Each commit of any process changes the header of that index, and to compare the header with the
//! one it knows is how SQLite itself finds out whether its cache still holds. The format is
//! [documented](https://sqlite.org/walformat.html#the_wal_index_header) and stable, because
//! processes with different versions of SQLite may share a database.

#![allow(
    unsafe_code,
    reason = "SQLite offers the shared memory through its C interface only"
)]

use std::cell::OnceCell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use alknet_fs_core::store::Version;
use rusqlite::{Connection, ffi};

/// The 32-bit words of one copy of the header, of which there are two.
const HEADER_WORDS: usize = 12;

/// The bytes of the first page of the index, which holds the header.
const PAGE_BYTES: i32 = 32 * 1024;

type Header = [AtomicU32; HEADER_WORDS];

/// A connection that can tell what was committed last.
pub(crate) struct Versioned {
    conn: Connection,
    /// The two copies of the header, looked for at the first question. Nothing where the platform
    /// keeps them elsewhere.
    headers: OnceCell<Option<NonNull<[Header; 2]>>>,
}

// The memory is shared with other threads and processes as it is, only atomic words of it are read,
// and it stays mapped while the connection, which is `Send` itself, is open.
unsafe impl Send for Versioned {}

impl Versioned {
    /// Takes a connection to a database in WAL mode.
    pub(crate) fn new(conn: Connection) -> Self {
        Self {
            conn,
            headers: OnceCell::new(),
        }
    }

    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Returns what the header names; nothing while it changes.
    pub(crate) fn version(&self) -> Option<Version> {
        let headers = match self.headers.get() {
            Some(headers) => (*headers)?,
            None => {
                // Asked again where the database could not be read now.
                let found = self.find().ok()?;
                (*self.headers.get_or_init(|| found))?
            }
        };
        // Mapped while the connection is open, and aligned as the start of a page.
        let [first, second] = unsafe { headers.as_ref() };
        let load = |header: &Header| header.each_ref().map(|word| word.load(Ordering::Relaxed));
        // Writers write the second copy first.
        let header = load(first);
        fence(Ordering::Acquire);
        if header != load(second) {
            return None;
        }
        // The fourth word begins with a byte that tells whether the header is filled in.
        let [_, _, changes, flags, frames, _, sum1, sum2, ..] = header;
        if flags.to_ne_bytes()[0] == 0 {
            return None;
        }
        // How many commits there were, and the length and the running checksum of the log, which
        // begins with a random salt.
        let [changes, frames, sum1, sum2] = [changes, frames, sum1, sum2].map(u128::from);
        Some(Version(changes | frames << 32 | sum1 << 64 | sum2 << 96))
    }

    fn find(&self) -> rusqlite::Result<Option<NonNull<[Header; 2]>>> {
        // The first read opens the log and its index.
        self.conn.prepare("SELECT 1 FROM store_info")?.exists([])?;
        Ok(self.shared_page())
    }

    fn shared_page(&self) -> Option<NonNull<[Header; 2]>> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        let mut page: *mut c_void = ptr::null_mut();
        // The file belongs to the connection. Its `xShmMap` returns what is mapped already, and
        // extends nothing.
        unsafe {
            let found = ffi::sqlite3_file_control(
                self.conn.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_FILE_POINTER,
                (&raw mut file).cast(),
            );
            if found != ffi::SQLITE_OK {
                return None;
            }
            let methods = file.as_ref()?.pMethods.as_ref()?;
            let map = methods.xShmMap.filter(|_| methods.iVersion >= 2)?;
            if map(file, 0, PAGE_BYTES, 0, &raw mut page) != ffi::SQLITE_OK {
                return None;
            }
        }
        NonNull::new(page.cast())
    }
}

#[cfg(test)]
mod tests {
    use alknet_fs_core::store::{Durability, Store as _};

    use crate::{Options, SqliteStore};

    #[test]
    fn every_commit_of_any_store_leads_to_another_version() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::create(&dir.path().join("s"), Options::default()).unwrap();
        let other = SqliteStore::open(store.dir(), Options::default()).unwrap();
        let glance = store.glance().unwrap();
        let mut seen = Vec::new();
        for n in 0_u8..20 {
            let store = if n % 2 == 0 { &store } else { &other };
            let before = glance.version();
            let mut txn = store.write(Durability::Full).unwrap();
            txn.set_value("scope", "name", Some(&[n])).unwrap();
            assert_eq!(glance.version(), before);
            txn.commit().unwrap();
            let version = glance.version().unwrap();
            assert!(!seen.contains(&version));
            assert_eq!(other.glance().unwrap().version(), Some(version));
            assert_eq!(glance.value("scope", "name").unwrap(), Some(vec![n]));
            assert_eq!(glance.version(), Some(version));
            seen.push(version);
            if n % 5 == 0 {
                assert!(store.checkpoint().unwrap());
            }
        }
        // Reading and undone writing change nothing.
        let last = glance.version();
        let mut txn = other.write(Durability::Full).unwrap();
        txn.set_value("scope", "name", None).unwrap();
        drop(txn);
        assert_eq!(glance.version(), last);
        assert_eq!(store.read().unwrap().version(), None);
    }
}
