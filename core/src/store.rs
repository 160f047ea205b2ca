//! The store contract: what core asks of whatever keeps its rows.
//!
//! A [`Store`] hands out transactions. A [`ReadTxn`] is one consistent point in time; a
//! [`WriteTxn`] is the only writer, sees its own writes, and either commits as a whole or leaves no
//! trace. Core never asks for anything else: no clock, no threads, no files. The same tree logic
//! runs on SQLite, on memory ([`crate::memory`]) and on a simulator that injects faults.
//!
//! # Rows
//! A row says what one *layer* holds at one path. A layer is a branch in an epoch; epochs count up
//! bucket-wide with every snapshot, so that freezing a branch together with everything it inherits
//! is one increment. The newest row a branch can see at a path is found by one seek in
//! `(path, layer)` order (see [`crate::chain`]).

use std::ops::{ControlFlow, RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, EntryId, Hash, Node, Timestamp};
use crate::error::{ErrorKind, Result};
use crate::event::{Commit, Cursor, Event};
use crate::path::TreePath;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A bucket's number, never used twice in a store.
    BucketId(u32);
    /// A branch's number, never used twice in a store and always greater than its parent's.
    BranchId(u32);
    /// A bucket-wide count of the snapshots taken; a snapshot freezes all epochs up to its own.
    Epoch(u32);
    /// A write session's number, never used twice in a store.
    SessionId(u64);
    /// A queued job's number, never used twice in a store.
    JobId(i64);
}

impl Epoch {
    /// The present: later than every epoch.
    pub const MAX: Self = Self(u32::MAX);
}

/// What one branch wrote in one epoch. Orders by branch, then epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layer {
    /// The branch that wrote.
    pub branch: BranchId,
    /// The bucket's epoch at that time.
    pub epoch: Epoch,
}

/// What a layer holds at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The entry, or nothing for a tombstone, which hides what is inherited.
    pub entry: Option<Entry>,
    /// The identity of the inherited entry that the branch's first override replaced.
    pub base: Option<EntryId>,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketRecord {
    /// Its number.
    pub id: BucketId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The epoch that writes go to now.
    pub epoch: Epoch,
    /// Grows with every change of the bucket's branches, lines and snapshots, so that what was
    /// derived from them can be cached.
    pub generation: u64,
    /// Events up to and including this cursor were pruned.
    pub pruned: Cursor,
}

/// A branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchRecord {
    /// Its number.
    pub id: BranchId,
    /// The bucket it belongs to.
    pub bucket: BucketId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// From which epoch on a branch shows what, below its own writes.
///
/// A branch has one line when it is made and gets another with each restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineRecord {
    /// The branch.
    pub branch: BranchId,
    /// The first epoch of the line.
    pub start: Epoch,
    /// What shows through below the branch's own writes since `start`.
    pub base: Option<LineBase>,
}

/// What a line inherits from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineBase {
    /// The branch inherited from: an older branch, or the same one at an earlier epoch.
    pub branch: BranchId,
    /// The last epoch that shows through, or nothing where later writes show through too.
    pub at: Option<Epoch>,
    /// Whether what the branch inherits live below that stays live, though its own writes after `at`
    /// do not show.
    pub stays_live: bool,
    /// Whether rows of it may lie below what the branch shows as something else than a directory: as
    /// with a live base, or a frozen one that was live when the branch was written.
    pub may_hide: bool,
}

/// A snapshot: a named frozen layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The branch it is of.
    pub branch: BranchId,
    /// Its name, unique within the branch.
    pub name: String,
    /// The last epoch it shows.
    pub epoch: Epoch,
    /// When it was taken.
    pub created: Timestamp,
}

/// How a content is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentForm {
    /// The bytes are in the record.
    Inline,
    /// The bytes are in a file named by the hash; the record may hold the file's hash tree.
    File,
    /// The bytes are those of the base content with some replaced; the record holds the delta.
    Delta,
}

impl ContentForm {
    /// Returns `"inline"`, `"file"` or `"delta"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::File => "file",
            Self::Delta => "delta",
        }
    }
}

/// One content: bytes that exist once, named by their hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRecord {
    /// The BLAKE3 hash of the bytes.
    pub hash: Hash,
    /// The number of bytes.
    pub size: u64,
    /// How they are kept.
    pub form: ContentForm,
    /// The content a delta builds on.
    pub base: Option<Hash>,
    /// The bytes, hash tree or delta, as `form` says. Opaque to core.
    pub data: Vec<u8>,
    /// When it was stored; garbage collection spares what is younger than its grace period.
    pub created: Timestamp,
}

/// How a write session keeps its bytes until it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Staging {
    /// As operations in the store ([`ReadTxn::session_ops`]).
    Rows,
    /// As a file below `staging/`, with a journal of its extents beside it.
    File,
}

impl Staging {
    /// Returns `"rows"` or `"file"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::File => "file",
        }
    }
}

/// An open write session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its number.
    pub id: SessionId,
    /// The branch that the close will commit to.
    pub branch: BranchId,
    /// The path that the close will put.
    pub path: TreePath,
    /// Who opened it: free text.
    pub owner: String,
    /// Which open store works on it, so that others can tell whether it is still alive. Opaque.
    pub holder: String,
    /// Whether it holds the path's exclusive lock.
    pub exclusive: bool,
    /// Whether the close fails where something is at the path.
    pub create_new: bool,
    /// The content and size that it started from; nothing for an empty start.
    pub base: Option<(Hash, u64)>,
    /// The permission bits that a file it creates gets.
    pub mode: u32,
    /// When it was opened.
    pub created: Timestamp,
    /// When it last wrote; approximate.
    pub touched: Timestamp,
    /// Where its bytes are.
    pub staging: Staging,
}

/// One staged operation of a session, in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOp {
    /// Bytes written at an offset.
    Write {
        /// Where the first byte goes.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The file was cut or extended with zeros.
    Truncate {
        /// The new size in bytes.
        size: u64,
    },
}

/// The outcome of asking for a named lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockOutcome {
    /// The caller holds the lock now.
    Acquired,
    /// Somebody else holds it.
    Held {
        /// The holder, as it named itself.
        owner: String,
    },
}

/// What a commit promises when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A power cut cannot undo the commit, nor any relaxed one before it.
    #[default]
    Full,
    /// A crash of the process cannot undo the commit; a power cut may undo the latest ones, whole
    /// and in order.
    Relaxed,
}

/// A task that a store's scheduler calls for again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its name, unique in the store.
    pub name: String,
    /// When it is due: five or six cron fields in local time, or `@every 6h`.
    pub when: String,
    /// What the task is given. Opaque to the store.
    pub payload: String,
    /// When it is due next.
    pub next: Timestamp,
}

/// A task that is due, claimed by one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTask {
    /// What the schedule gives it.
    pub payload: String,
    /// The entries of the scheduler's queue that this one run takes care of. Opaque.
    pub jobs: Vec<i64>,
}

/// Something to be done by whoever claims it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number, never used twice in a store.
    pub id: JobId,
    /// What it is. Opaque to the store.
    pub payload: String,
    /// Whether somebody has claimed it and may be at work.
    pub claimed: bool,
}

/// How a job is put in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobOptions {
    /// Jobs of a greater priority are claimed first.
    pub priority: i32,
    /// In how many seconds it may be claimed.
    pub delay: u32,
    /// After how many seconds nobody may claim it any more; nothing for never.
    pub expires: Option<u32>,
}

/// How many events to keep. Both limits may be set; the stricter one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Events before this time go.
    pub not_before: Option<Timestamp>,
    /// At least this many of the newest events stay; older ones go. Pruning works in whole log
    /// records, so up to [`Cursor::CHANGES_PER_RECORD`] - 1 more may stay.
    pub at_most: Option<u64>,
}

/// Names one state of a store; every commit leads to another. Opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub u128);

/// Keeps rows, and hands out transactions over them.
pub trait Store: Send + Sync {
    /// Begins a read transaction: a consistent view of all that is committed now.
    ///
    /// It stays as it is while others commit, and blocks nobody.
    fn read(&self) -> Result<Box<dyn ReadTxn>>;

    /// Begins reads that may each see what is committed at their own time.
    ///
    /// That is cheaper than a transaction, and as good where [`ReadTxn::version`] is the same before
    /// and after: then all reads saw the same state.
    fn glance(&self) -> Result<Box<dyn ReadTxn>> {
        self.read()
    }

    /// Begins the write transaction, waiting for any other to end.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the wait exceeds the store's busy timeout.
    fn write(&self, durability: Durability) -> Result<Box<dyn WriteTxn>>;

    /// Blocks until a commit may have happened since `seen` was returned, or the timeout passed.
    ///
    /// Returns a number to pass to the next call; pass 0 to the first, which then returns at once.
    /// Wakes may be spurious; commits of other processes are noticed too.
    fn wait_for_commit(&self, seen: u64, timeout: std::time::Duration) -> Result<u64>;
}

/// Decodes the row that a scan is at; most scans pass over most rows.
pub type LazyRow<'a> = dyn Fn() -> Result<Row> + 'a;

/// Calls for each row of a scan; `Break` ends the scan.
pub type RowVisitor<'a> = dyn FnMut(&str, Layer, &LazyRow<'_>) -> Result<ControlFlow<()>> + 'a;

/// Calls for each row whose content is missing, with the path's parent and name, and the content's
/// hash and size.
pub type MissingVisitor<'a> = dyn FnMut(&str, &str, Hash, u64) -> Result<ControlFlow<()>> + 'a;

/// Calls for each row of a scan over several directories, with the parent and the name.
pub type TreeVisitor<'a> = dyn FnMut(&str, &str, Layer, Row) -> Result<ControlFlow<()>> + 'a;

/// Calls for each conflict of a branch, with its path and what was set of it; `Break` ends the scan.
pub type ConflictVisitor<'a> = dyn FnMut(TreePath, Vec<u8>) -> Result<ControlFlow<()>> + 'a;

/// A content that a conflict refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictContent {
    /// When that was set: greater than that of all that was set before, and never used again.
    pub number: u64,
    /// The conflict's branch.
    pub branch: BranchId,
    /// The conflict's path.
    pub path: TreePath,
    /// The content.
    pub hash: Hash,
    /// Its size in bytes.
    pub size: u64,
}

/// A consistent view of a store.
///
/// Scans deliver names in the order of their UTF-8 bytes. Implementations return
/// [`ErrorKind::Corrupt`] where a row does not decode.
pub trait ReadTxn: Send {
    /// Returns the state that the next read would see, at the price of no system call; nothing where
    /// that cannot be told, as within most transactions. See [`Store::glance`].
    fn version(&self) -> Option<Version> {
        None
    }

    /// Finds a bucket by its name.
    fn bucket_named(&self, name: &str) -> Result<Option<BucketRecord>>;
    /// Finds a bucket by its number.
    fn bucket(&self, id: BucketId) -> Result<Option<BucketRecord>>;
    /// Returns all buckets by name.
    fn buckets(&self) -> Result<Vec<BucketRecord>>;

    /// Finds a branch by its name.
    fn branch_named(&self, bucket: BucketId, name: &str) -> Result<Option<BranchRecord>>;
    /// Finds a branch by its number.
    fn branch(&self, id: BranchId) -> Result<Option<BranchRecord>>;
    /// Returns a bucket's branches by number, that is from the oldest.
    fn branches(&self, bucket: BucketId) -> Result<Vec<BranchRecord>>;
    /// Returns a branch's lines from the oldest.
    fn lines(&self, branch: BranchId) -> Result<Vec<LineRecord>>;
    /// Returns the lines, of any branch, that are based on a branch.
    fn lines_on(&self, branch: BranchId) -> Result<Vec<LineRecord>>;
    /// Finds a snapshot of a branch by its name.
    fn snapshot(&self, branch: BranchId, name: &str) -> Result<Option<SnapshotRecord>>;
    /// Returns a branch's snapshots from the oldest.
    fn snapshots(&self, branch: BranchId) -> Result<Vec<SnapshotRecord>>;

    /// Finds the row at a path with the greatest layer that is at most `at_most`.
    ///
    /// The root's own row has the parent `""` and the name `""`.
    fn seek(
        &self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        at_most: Layer,
    ) -> Result<Option<(Layer, Row)>>;

    /// Finds the row at a path with the greatest epoch in a range, of one branch.
    ///
    /// Finds what [`seek`](Self::seek) finds within a branch, and touches only what lies close to
    /// the branch's other rows, however many other branches have rows at the path.
    fn seek_in(
        &self,
        bucket: BucketId,
        branch: BranchId,
        epochs: RangeInclusive<Epoch>,
        parent: &str,
        name: &str,
    ) -> Result<Option<(Layer, Row)>>;

    /// Visits the rows of all layers of the names in a directory that sort after `after`, by name
    /// and then from the greatest layer down.
    fn scan_dir(
        &self,
        bucket: BucketId,
        parent: &str,
        after: Option<&str>,
        visit: &mut RowVisitor<'_>,
    ) -> Result<()>;

    /// Visits the rows that one branch wrote in a range of epochs, of the names in a directory that
    /// sort after `after`, by name and then from the newest epoch down.
    fn scan_dir_of(
        &self,
        bucket: BucketId,
        branch: BranchId,
        epochs: RangeInclusive<Epoch>,
        parent: &str,
        after: Option<&str>,
        visit: &mut RowVisitor<'_>,
    ) -> Result<()>;

    /// Visits the rows of all layers below a directory (not the directory's own), by parent, name
    /// and then from the greatest layer down. Serves checks and collection; listings use
    /// [`scan_dir`](Self::scan_dir).
    fn scan_tree(
        &self,
        bucket: BucketId,
        under: &TreePath,
        visit: &mut TreeVisitor<'_>,
    ) -> Result<()>;

    /// Visits the parent and name of every row that one branch wrote in a range of epochs, strictly
    /// below a directory, or anywhere (the root's own row too) where `under` is the root. Ordered
    /// by parent and name; a path may come more than once.
    fn paths_of(
        &self,
        bucket: BucketId,
        branch: BranchId,
        epochs: RangeInclusive<Epoch>,
        under: &TreePath,
        visit: &mut dyn FnMut(&str, &str) -> Result<()>,
    ) -> Result<()>;

    /// Returns a content's record with its data.
    fn content(&self, hash: &Hash) -> Result<Option<ContentRecord>>;
    /// Returns up to `limit` content records whose hash is greater than `after`, by hash. Their data
    /// is included only where `with_data` asks for it.
    fn contents_after(
        &self,
        after: Option<&Hash>,
        limit: usize,
        with_data: bool,
    ) -> Result<Vec<ContentRecord>>;
    /// Visits the rows of a bucket, of all layers, whose content the store does not have, with the
    /// path's parent and name and the content's hash and size; a content may come more than once.
    /// `Break` ends the scan.
    fn missing_contents(&self, bucket: BucketId, visit: &mut MissingVisitor<'_>) -> Result<()> {
        self.scan_tree(
            bucket,
            &TreePath::root(),
            &mut |parent, name, _, row| match row.entry.map(|entry| entry.node) {
                Some(Node::File { hash, size }) if !self.has_content(&hash)? => {
                    visit(parent, name, hash, size)
                }
                _ => Ok(ControlFlow::Continue(())),
            },
        )
    }
    /// Tells whether the store has a content, without reading it.
    fn has_content(&self, hash: &Hash) -> Result<bool>;
    /// Tells whether any content is kept as a delta over this one.
    fn is_base(&self, hash: &Hash) -> Result<bool>;
    /// Visits the contents that were found unreferenced, with the time of the mark, by hash.
    fn unreferenced(&self, visit: &mut dyn FnMut(Hash, Timestamp)) -> Result<()>;
    /// Returns when a content was marked as unreferenced, if it is.
    fn unreferenced_since(&self, hash: &Hash) -> Result<Option<Timestamp>>;
    /// Visits the content hash of every row of every layer, every open session's base, every
    /// delta's base, every content that a conflict refers to and every pin that has not expired at `now`; repeats are allowed.
    fn referenced(&self, now: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()>;

    /// Visits the content hashes of every open session's base and of every pin that lasts longer than
    /// `until`; repeats are allowed.
    fn held_contents(&self, until: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()>;

    /// Finds an open session.
    fn session(&self, id: SessionId) -> Result<Option<SessionRecord>>;
    /// Returns all open sessions, of one branch or of all, from the oldest.
    fn sessions(&self, branch: Option<BranchId>) -> Result<Vec<SessionRecord>>;
    /// Returns a session's staged operations in order of arrival.
    fn session_ops(&self, id: SessionId) -> Result<Vec<SessionOp>>;

    /// Returns up to `limit` log records' worth of events after a cursor, of one bucket or of all.
    ///
    /// # Errors
    /// [`ErrorKind::Lagged`] where events after the cursor were pruned;
    /// the message names the oldest cursor that works.
    fn events(&self, bucket: Option<BucketId>, after: Cursor, limit: usize) -> Result<Vec<Event>>;
    /// Returns up to `limit` log records' worth of a bucket's events before a cursor, from the newest: those
    /// that are kept. What other buckets have in the log costs nothing.
    fn events_before(&self, bucket: BucketId, before: Cursor, limit: usize) -> Result<Vec<Event>>;
    /// Returns the cursor of the newest event, or where it was when it was pruned.
    fn last_cursor(&self) -> Result<Cursor>;

    /// Returns the schedules by name.
    fn schedules(&self) -> Result<Vec<Schedule>>;

    /// Visits the jobs of a queue that are not done, from the oldest. A store without queues has none.
    fn jobs(&self, _queue: &str, _visit: &mut dyn FnMut(Job)) -> Result<()> {
        Ok(())
    }
    /// Tells whether a queue has a job that could be claimed now.
    fn has_due_job(&self, _queue: &str) -> Result<bool> {
        Ok(false)
    }
    /// Returns what was last said of a job, until that lapses.
    fn job_result(&self, _id: JobId) -> Result<Option<String>> {
        Ok(None)
    }

    /// Returns what was set of the conflict at a path of a branch.
    fn conflict(&self, branch: BranchId, path: &TreePath) -> Result<Option<Vec<u8>>>;
    /// Visits the conflicts of a branch, by path.
    fn conflicts(&self, branch: BranchId, visit: &mut ConflictVisitor<'_>) -> Result<()>;
    /// Visits the contents that conflicts of a bucket's branches refer to, in the order of their
    /// numbers: those that are greater than `after`.
    fn conflict_contents(
        &self,
        bucket: BucketId,
        after: u64,
        visit: &mut dyn FnMut(ConflictContent) -> Result<()>,
    ) -> Result<()>;

    /// Returns a value that was set under a key.
    fn value(&self, scope: &str, key: &str) -> Result<Option<Vec<u8>>>;
}

/// The one write transaction. Dropping it without [`commit`](Self::commit) undoes everything.
pub trait WriteTxn: ReadTxn {
    /// Makes the transaction's writes visible to everybody, as durable as was asked for.
    fn commit(self: Box<Self>) -> Result<()>;

    /// Adds a bucket in epoch 1, generation 1.
    fn add_bucket(&mut self, name: &str, created: Timestamp) -> Result<BucketRecord>;
    /// Replaces a bucket's record.
    fn set_bucket(&mut self, bucket: &BucketRecord) -> Result<()>;
    /// Removes a bucket with its branches, lines, snapshots, rows, conflicts, sessions and events.
    fn remove_bucket(&mut self, id: BucketId) -> Result<()>;

    /// Adds a branch with the next number.
    fn add_branch(
        &mut self,
        bucket: BucketId,
        name: &str,
        created: Timestamp,
    ) -> Result<BranchRecord>;
    /// Replaces a branch's record (its name).
    fn set_branch(&mut self, branch: &BranchRecord) -> Result<()>;
    /// Removes a branch with its lines, snapshots, rows, conflicts and sessions.
    fn remove_branch(&mut self, id: BranchId) -> Result<()>;
    /// Adds a line to a branch.
    fn add_line(&mut self, line: &LineRecord) -> Result<()>;
    /// Adds a snapshot.
    fn add_snapshot(&mut self, snapshot: &SnapshotRecord) -> Result<()>;
    /// Removes a snapshot's name; the rows it showed stay.
    fn remove_snapshot(&mut self, branch: BranchId, name: &str) -> Result<()>;

    /// Inserts or replaces the row of a layer at a path.
    fn put_row(
        &mut self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        layer: Layer,
        row: &Row,
    ) -> Result<()>;
    /// Removes the row of a layer at a path, if there is one.
    fn remove_row(
        &mut self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        layer: Layer,
    ) -> Result<()>;
    /// Moves all rows of one layer strictly below `from` to below `to`, whose rows of that layer
    /// strictly below it must not exist. The rows of `from` itself are not touched.
    fn move_rows(
        &mut self,
        bucket: BucketId,
        layer: Layer,
        from: &TreePath,
        to: &TreePath,
    ) -> Result<()>;

    /// Adds a content unless it exists; returns whether it was added.
    fn add_content(&mut self, content: &ContentRecord) -> Result<bool>;
    /// Replaces how an existing content is kept.
    fn set_content(&mut self, content: &ContentRecord) -> Result<()>;
    /// Removes a content, its pin and its mark as unreferenced.
    fn remove_content(&mut self, hash: &Hash) -> Result<()>;
    /// Marks a content as unreferenced since a time, or with `None` as referenced again. Whoever
    /// refers to a content by other ways than from a row, session or delta that was there before
    /// takes the mark off, in the same transaction.
    fn set_unreferenced(&mut self, hash: &Hash, since: Option<Timestamp>) -> Result<()>;
    /// Keeps a content from being collected until a time, and takes its mark as unreferenced off; a
    /// later call replaces the time.
    fn pin_content(&mut self, hash: &Hash, until: Timestamp) -> Result<()>;

    /// Opens a session; the record's `id` is ignored and the new one returned.
    fn add_session(&mut self, session: &SessionRecord) -> Result<SessionId>;
    /// Replaces a session's record.
    fn set_session(&mut self, session: &SessionRecord) -> Result<()>;
    /// Removes a session with its staged operations.
    fn remove_session(&mut self, id: SessionId) -> Result<()>;
    /// Appends one staged operation.
    fn add_session_op(&mut self, id: SessionId, op: &SessionOp) -> Result<()>;
    /// Removes a session's staged operations, which moved to a file.
    fn clear_session_ops(&mut self, id: SessionId) -> Result<()>;

    /// Publishes a commit's changes; returns the cursor of the last one.
    fn publish(&mut self, bucket: BucketId, commit: &Commit) -> Result<Cursor>;
    /// Removes old events of a bucket; returns how many, and moves [`BucketRecord::pruned`].
    fn prune_events(&mut self, bucket: BucketId, retention: &Retention) -> Result<u64>;

    /// Asks for a named lock for a number of seconds. Asking again as the same owner succeeds and
    /// extends it.
    fn lock(&mut self, name: &str, owner: &str, seconds: u32) -> Result<LockOutcome>;
    /// Extends a lock that `owner` took, even where its time is over but nobody took it since;
    /// returns whether `owner` has had it without a break.
    fn renew_lock(&mut self, name: &str, owner: &str, seconds: u32) -> Result<bool>;
    /// Gives a named lock back, if `owner` holds it.
    fn unlock(&mut self, name: &str, owner: &str) -> Result<()>;

    /// Adds a schedule, or replaces the one of that name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where `when` does not parse;
    /// [`ErrorKind::Unsupported`] where the store has no scheduler.
    fn set_schedule(&mut self, name: &str, when: &str, payload: &str) -> Result<()>;
    /// Removes a schedule; returns whether there was one. A run that has begun goes on.
    fn remove_schedule(&mut self, name: &str) -> Result<bool>;
    /// Claims a scheduled task for some seconds if it is due and no other worker has it. However
    /// many times have passed unused, the task is due once.
    fn claim_due(
        &mut self,
        name: &str,
        now: Timestamp,
        worker: &str,
        seconds: u32,
    ) -> Result<Option<DueTask>>;
    /// Says that a claimed task is done. One that is not done in time is due again.
    fn finish_due(&mut self, task: &DueTask, worker: &str) -> Result<()>;

    /// Puts a job in a queue, which comes to be with its first job.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the store has no queues.
    fn enqueue(&mut self, _queue: &str, _payload: &str, _options: &JobOptions) -> Result<JobId> {
        Err(ErrorKind::Unsupported.into())
    }
    /// Claims up to `limit` jobs for some seconds, those of the greatest priority and then the oldest
    /// first. One that is not finished or renewed in time may be claimed again.
    fn claim_jobs(
        &mut self,
        _queue: &str,
        _worker: &str,
        _limit: usize,
        _seconds: u32,
    ) -> Result<Vec<Job>> {
        Ok(Vec::new())
    }
    /// Extends a claim; returns whether the worker has it still.
    fn renew_job(&mut self, _id: JobId, _worker: &str, _seconds: u32) -> Result<bool> {
        Ok(false)
    }
    /// Removes claimed jobs: they are done.
    fn finish_jobs(&mut self, _jobs: &[JobId], _worker: &str) -> Result<()> {
        Ok(())
    }
    /// Removes a job, whoever has claimed it.
    fn cancel_job(&mut self, _id: JobId) -> Result<()> {
        Ok(())
    }
    /// Takes back all claims of a queue, whose workers are known to be gone.
    fn release_jobs(&mut self, _queue: &str) -> Result<()> {
        Ok(())
    }
    /// Lets jobs of a queue that are to wait for some time be claimed at once.
    fn hurry_jobs(&mut self, _queue: &str) -> Result<()> {
        Ok(())
    }
    /// Says something of a job, which [`job_result`](ReadTxn::job_result) returns for some seconds.
    fn set_job_result(&mut self, _id: JobId, _value: &str, _seconds: u32) -> Result<()> {
        Ok(())
    }
    /// Removes what has lapsed: results, and the jobs of a queue that expired unclaimed.
    fn sweep_jobs(&mut self, _queue: &str) -> Result<()> {
        Ok(())
    }

    /// Sets what is known of the conflict at a path of a branch, opaque to the store, and the contents
    /// with their sizes that it refers to, whose marks as unreferenced it takes off.
    fn set_conflict(
        &mut self,
        branch: BranchId,
        path: &TreePath,
        conflict: &[u8],
        contents: &[(Hash, u64)],
    ) -> Result<()>;
    /// Forgets the conflict at a path of a branch, if there is one.
    fn remove_conflict(&mut self, branch: BranchId, path: &TreePath) -> Result<()>;

    /// Sets the value under a key; `None` removes it.
    fn set_value(&mut self, scope: &str, key: &str, value: Option<&[u8]>) -> Result<()>;
    /// Removes all keys of a scope, and of those below it, whose names begin with its own and a `/`.
    fn remove_values(&mut self, scope: &str) -> Result<()>;
}
