//! A content-addressed, branch-aware filesystem that programs embed.
//!
//! A [`Store`] holds buckets, a [`Bucket`] holds branches, and a [`Branch`] is a tree of files that
//! forks for free and shares all unchanged content. Writes are atomic and durable when they return;
//! a [`Session`] stages writes of any size and commits them on close; every change is an event that
//! a [`Watcher`] sees in any process.
//!
//! ```
//! # fn main() -> alknet_fs::Result<()> {
//! let store = alknet_fs::Store::memory()?;
//! let main = store.bucket("default")?.branch("main")?;
//! main.write("/hello.txt", "hello")?;
//!
//! let agent = main.fork("agent-a")?;
//! agent.write("/hello.txt", "hello from the agent")?;
//! assert_eq!(main.read("/hello.txt")?, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! All handles are cheap to clone, `Send` and `Sync`. Calls block; the `async` feature offers the
//! same calls as futures in the `aio` module.

#[cfg(feature = "async")]
pub mod aio;
mod batch;
mod branch;
mod bucket;
mod conflicts;
mod content;
mod file;
mod fsck;
mod gc;
#[cfg(feature = "sync")]
pub mod node;
mod peers;
mod progress;
mod reader;
mod session;
mod sharing;
mod stats;
mod store;
mod transfer;
mod view;
mod watch;

pub use alknet_fs_core::diff::Difference;
pub use alknet_fs_core::edit::{PutMode, SetAttrs};
pub use alknet_fs_core::store::{
    BranchId, BucketId, ContentForm, Durability, Epoch, Retention, SessionId, SessionRecord,
    SnapshotRecord, Staging,
};
pub use alknet_fs_core::sync::{Keep, ReplicaId, Resolution};
pub use alknet_fs_core::tree::{Follow, Walk};
pub use alknet_fs_core::{
    Attrs, Change, Cursor, DirEntry, Entry, EntryId, Error, ErrorKind, Event, EventFilter,
    EventPeer, Hash, Kind, Node, Op, Result, Timestamp, TreePath,
};

pub use batch::Batch;
pub use branch::Branch;
pub use bucket::{BranchInfo, Bucket, TreeRef};
pub use conflicts::{Conflict, NameConflict, Side, SideWritten};
pub use content::{
    ContentPolicy, ContentQueue, ContentService, ContentSettings, ContentSource, EvictReport,
    Fetch, FetchReport, Fetching, Outcome, PROMISE, Priority, Unfetched, Want,
};
pub use file::{File, FileOptions};
pub use fsck::{FsckOptions, FsckReport, Problem};
pub use gc::{GcOptions, GcReport, GcSchedule};
pub use progress::{Cancel, Progress, Task};
pub use reader::Reader;
pub use session::{Closed, OpenOptions, Session, SessionInfo};
pub use sharing::{Sharing, TreeSharing};
pub use stats::Stats;
pub use store::{DEFAULT_BUCKET, IntoPath, Options, Store};
pub use transfer::{ExportOptions, ExportReport, ImportOptions, ImportReport, Skipped};
pub use view::View;
pub use watch::{WatchOptions, Watcher};

/// Compiles the readme's example.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
