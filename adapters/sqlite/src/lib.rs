//! The SQLite store of alknet-fs: everything transactional, in one `store.db`.
//!
//! [`SqliteStore`] implements core's [`Store`](alknet_fs_core::store::Store). One writer connection
//! and a pool of reader connections work in WAL mode, so readers and the writer never wait for each
//! other, and any number of processes share the file. The event log and the named locks are those of
//! [honker](https://honker.dev), in the same database and so in the same transaction as the change
//! they speak of.
//!
//! ```
//! use alknet_fs_core::entry::Timestamp;
//! use alknet_fs_core::store::{Durability, Store};
//! use alknet_fs_sqlite::{Options, SqliteStore};
//!
//! # let dir = tempfile::tempdir()?;
//! let store = SqliteStore::create(&dir.path().join("store"), Options::default())?;
//! let mut txn = store.write(Durability::Full)?;
//! txn.add_bucket("default", Timestamp(0))?;
//! txn.commit()?;
//! assert!(store.read()?.bucket_named("default")?.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod database;
mod error;
mod events;
#[cfg_attr(not(all(unix, target_pointer_width = "64")), path = "no_fork.rs")]
mod fork;
mod jobs;
mod moving;
mod read;
mod schedule;
mod schema;
mod store;
mod turn;
mod wal_index;
mod watch;
mod write;

pub use schema::SCHEMA_VERSION;
pub use store::{DATABASE_FILE, Options, SqliteStore, Stats};

#[cfg(test)]
mod plans;
