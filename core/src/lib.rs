//! The sans-IO core of alknet-fs.
//!
//! Core owns the rules of the tree: paths, entries, branches, snapshots, write sessions, events.
//! It reads no clock, opens no file or socket, starts no thread and draws no random number: time,
//! names and storage come in as arguments. See `docs/architecture.md` for how it is put together.
#![forbid(unsafe_code)]

pub mod branch;
pub mod chain;
pub mod diff;
pub mod edit;
pub mod entry;
pub mod error;
pub mod event;
pub mod memory;
pub mod path;
pub mod rest;
pub mod session;
pub mod store;
pub mod sync;
pub mod tree;

pub use entry::{Attrs, DirEntry, Entry, EntryId, Hash, Kind, Node, Timestamp};
pub use error::{Error, ErrorKind, Result};
pub use event::{Change, Commit, Cursor, Event, EventFilter, EventPeer, Op};
pub use path::TreePath;
