//! A store that fails on demand: at the n-th call, whichever it is.
//!
//! Each call of [`Store::read`], [`Store::glance`], [`Store::write`] and of every method of a transaction counts, and
//! so does each row that a scan delivers. [`Store::wait_for_commit`] never fails.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alknet_fs_core::event::{Commit, Cursor, Event};
use alknet_fs_core::store::{
    BranchId, BranchRecord, BucketId, BucketRecord, ConflictContent, ConflictVisitor,
    ContentRecord, DueTask, Durability, Epoch, Job, JobId, JobOptions, Layer, LineRecord,
    LockOutcome, MissingVisitor, ReadTxn, Retention, Row, RowVisitor, Schedule, SessionId,
    SessionOp, SessionRecord, SnapshotRecord, Store, TreeVisitor, Version, WriteTxn,
};
use alknet_fs_core::{Error, ErrorKind, Hash, Result, Timestamp, TreePath};

/// When and how a [`FaultyStore`] fails, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The n-th call from now on fails with this kind and does nothing. The first call is number 1.
    Call(u64, ErrorKind),
    /// The next commit fails with this kind, and nothing of the transaction happens.
    Commit(ErrorKind),
    /// The next commit happens, but its caller is told that it failed with this kind.
    LostCommit(ErrorKind),
}

#[derive(Default)]
struct Plan {
    fault: Option<Fault>,
    calls: u64,
    by_name: BTreeMap<&'static str, u64>,
    fired: bool,
}

/// Passes everything on to another store until a fault is due.
pub struct FaultyStore {
    inner: Box<dyn Store>,
    plan: Shared,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Plan>>);

struct Reader {
    inner: Box<dyn ReadTxn>,
    plan: Shared,
}

struct Writer {
    inner: Box<dyn WriteTxn>,
    plan: Shared,
}

impl FaultyStore {
    /// Wraps a store. Nothing fails until [`arm`](Self::arm) is called.
    pub fn new(inner: Box<dyn Store>) -> Self {
        Self {
            inner,
            plan: Shared::default(),
        }
    }

    /// Plans a fault, and counts calls from 0 again.
    pub fn arm(&self, fault: Fault) {
        *self.plan.lock() = Plan {
            fault: Some(fault),
            ..Plan::default()
        };
    }

    /// Returns how often each method was called since this was asked, or a fault was planned or
    /// taken back.
    pub fn take_calls(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.plan.lock().by_name)
    }

    /// Takes the planned fault back; returns whether it happened.
    pub fn disarm(&self) -> bool {
        std::mem::take(&mut *self.plan.lock()).fired
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and fails where its turn has come.
    fn call(&self, name: &'static str) -> Result<()> {
        let mut plan = self.lock();
        plan.calls += 1;
        *plan.by_name.entry(name).or_default() += 1;
        match plan.fault {
            Some(Fault::Call(at, kind)) if at == plan.calls => {
                plan.fired = true;
                Err(Error::with_detail(kind, format!("injected into {name}")))
            }
            _ => Ok(()),
        }
    }

    /// Fails where a fault of its sort is planned.
    fn commit(&self, when: &str, kind: impl Fn(Fault) -> Option<ErrorKind>) -> Result<()> {
        let mut plan = self.lock();
        match plan.fault.and_then(kind) {
            Some(kind) if !plan.fired => {
                plan.fired = true;
                Err(Error::with_detail(kind, format!("injected {when} commit")))
            }
            _ => Ok(()),
        }
    }
}

impl Store for FaultyStore {
    fn read(&self) -> Result<Box<dyn ReadTxn>> {
        self.plan.call("read")?;
        Ok(Box::new(Reader {
            inner: self.inner.read()?,
            plan: self.plan.clone(),
        }))
    }

    fn glance(&self) -> Result<Box<dyn ReadTxn>> {
        self.plan.call("glance")?;
        Ok(Box::new(Reader {
            inner: self.inner.glance()?,
            plan: self.plan.clone(),
        }))
    }

    fn write(&self, durability: Durability) -> Result<Box<dyn WriteTxn>> {
        self.plan.call("write")?;
        Ok(Box::new(Writer {
            inner: self.inner.write(durability)?,
            plan: self.plan.clone(),
        }))
    }

    fn wait_for_commit(&self, seen: u64, timeout: Duration) -> Result<u64> {
        self.inner.wait_for_commit(seen, timeout)
    }
}

macro_rules! pass_on {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)* $(,)?) -> $out:ty;)*) => {$(
        fn $name(&self $(, $arg: $type)*) -> $out {
            self.plan.call(stringify!($name))?;
            self.inner.$name($($arg),*)
        }
    )*};
    ($(fn $name:ident(&mut self $(, $arg:ident: $type:ty)* $(,)?) -> $out:ty;)*) => {$(
        fn $name(&mut self $(, $arg: $type)*) -> $out {
            self.plan.call(stringify!($name))?;
            self.inner.$name($($arg),*)
        }
    )*};
}

macro_rules! pass_reads_on {
    ($of:ty) => {
        impl ReadTxn for $of {
            fn version(&self) -> Option<Version> {
                self.inner.version()
            }

            pass_on! {
                fn bucket_named(&self, name: &str) -> Result<Option<BucketRecord>>;
                fn bucket(&self, id: BucketId) -> Result<Option<BucketRecord>>;
                fn buckets(&self) -> Result<Vec<BucketRecord>>;
                fn branch_named(&self, bucket: BucketId, name: &str) -> Result<Option<BranchRecord>>;
                fn branch(&self, id: BranchId) -> Result<Option<BranchRecord>>;
                fn branches(&self, bucket: BucketId) -> Result<Vec<BranchRecord>>;
                fn lines(&self, branch: BranchId) -> Result<Vec<LineRecord>>;
                fn lines_on(&self, branch: BranchId) -> Result<Vec<LineRecord>>;
                fn snapshot(&self, branch: BranchId, name: &str) -> Result<Option<SnapshotRecord>>;
                fn snapshots(&self, branch: BranchId) -> Result<Vec<SnapshotRecord>>;
                fn seek(
                    &self, bucket: BucketId, parent: &str, name: &str, at_most: Layer,
                ) -> Result<Option<(Layer, Row)>>;
                fn seek_in(
                    &self,
                    bucket: BucketId,
                    branch: BranchId,
                    epochs: RangeInclusive<Epoch>,
                    parent: &str,
                    name: &str,
                ) -> Result<Option<(Layer, Row)>>;
                fn content(&self, hash: &Hash) -> Result<Option<ContentRecord>>;
                fn contents_after(
                    &self, after: Option<&Hash>, limit: usize, with_data: bool,
                ) -> Result<Vec<ContentRecord>>;
                fn has_content(&self, hash: &Hash) -> Result<bool>;
                fn is_base(&self, hash: &Hash) -> Result<bool>;
                fn unreferenced(&self, visit: &mut dyn FnMut(Hash, Timestamp)) -> Result<()>;
                fn unreferenced_since(&self, hash: &Hash) -> Result<Option<Timestamp>>;
                fn referenced(&self, now: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()>;
                fn schedules(&self) -> Result<Vec<Schedule>>;
                fn held_contents(
                    &self, until: Timestamp, visit: &mut dyn FnMut(Hash),
                ) -> Result<()>;
                fn missing_contents(
                    &self, bucket: BucketId, visit: &mut MissingVisitor<'_>,
                ) -> Result<()>;
                fn jobs(&self, queue: &str, visit: &mut dyn FnMut(Job)) -> Result<()>;
                fn has_due_job(&self, queue: &str) -> Result<bool>;
                fn job_result(&self, id: JobId) -> Result<Option<String>>;
                fn session(&self, id: SessionId) -> Result<Option<SessionRecord>>;
                fn sessions(&self, branch: Option<BranchId>) -> Result<Vec<SessionRecord>>;
                fn session_ops(&self, id: SessionId) -> Result<Vec<SessionOp>>;
                fn events(
                    &self, bucket: Option<BucketId>, after: Cursor, limit: usize,
                ) -> Result<Vec<Event>>;
                fn events_before(
                    &self, bucket: BucketId, before: Cursor, limit: usize,
                ) -> Result<Vec<Event>>;
                fn last_cursor(&self) -> Result<Cursor>;
                fn conflict(&self, branch: BranchId, path: &TreePath) -> Result<Option<Vec<u8>>>;
                fn conflicts(
                    &self, branch: BranchId, visit: &mut ConflictVisitor<'_>,
                ) -> Result<()>;
                fn conflict_contents(
                    &self, bucket: BucketId, after: u64,
                    visit: &mut dyn FnMut(ConflictContent) -> Result<()>,
                ) -> Result<()>;
                fn value(&self, scope: &str, key: &str) -> Result<Option<Vec<u8>>>;
            }

            fn scan_dir(
                &self,
                bucket: BucketId,
                parent: &str,
                after: Option<&str>,
                visit: &mut RowVisitor<'_>,
            ) -> Result<()> {
                self.plan.call("scan_dir")?;
                self.inner.scan_dir(bucket, parent, after, &mut |name, layer, row| {
                    self.plan.call("a row of scan_dir")?;
                    visit(name, layer, row)
                })
            }

            fn scan_dir_of(
                &self,
                bucket: BucketId,
                branch: BranchId,
                epochs: RangeInclusive<Epoch>,
                parent: &str,
                after: Option<&str>,
                visit: &mut RowVisitor<'_>,
            ) -> Result<()> {
                self.plan.call("scan_dir_of")?;
                self.inner.scan_dir_of(bucket, branch, epochs, parent, after, &mut |name, layer, row| {
                    self.plan.call("a row of scan_dir_of")?;
                    visit(name, layer, row)
                })
            }

            fn scan_tree(
                &self,
                bucket: BucketId,
                under: &TreePath,
                visit: &mut TreeVisitor<'_>,
            ) -> Result<()> {
                self.plan.call("scan_tree")?;
                self.inner.scan_tree(bucket, under, &mut |parent, name, layer, row| {
                    self.plan.call("a row of scan_tree")?;
                    visit(parent, name, layer, row)
                })
            }

            fn paths_of(
                &self,
                bucket: BucketId,
                branch: BranchId,
                epochs: RangeInclusive<Epoch>,
                under: &TreePath,
                visit: &mut dyn FnMut(&str, &str) -> Result<()>,
            ) -> Result<()> {
                self.plan.call("paths_of")?;
                self.inner.paths_of(bucket, branch, epochs, under, &mut |parent, name| {
                    self.plan.call("a path of paths_of")?;
                    visit(parent, name)
                })
            }
        }
    };
}

pass_reads_on!(Reader);
pass_reads_on!(Writer);

impl WriteTxn for Writer {
    fn commit(self: Box<Self>) -> Result<()> {
        self.plan.call("commit")?;
        self.plan.commit("before", |fault| match fault {
            Fault::Commit(kind) => Some(kind),
            _ => None,
        })?;
        self.inner.commit()?;
        self.plan.commit("after", |fault| match fault {
            Fault::LostCommit(kind) => Some(kind),
            _ => None,
        })
    }

    pass_on! {
        fn add_bucket(&mut self, name: &str, created: Timestamp) -> Result<BucketRecord>;
        fn set_bucket(&mut self, bucket: &BucketRecord) -> Result<()>;
        fn remove_bucket(&mut self, id: BucketId) -> Result<()>;
        fn add_branch(
            &mut self, bucket: BucketId, name: &str, created: Timestamp,
        ) -> Result<BranchRecord>;
        fn set_branch(&mut self, branch: &BranchRecord) -> Result<()>;
        fn remove_branch(&mut self, id: BranchId) -> Result<()>;
        fn add_line(&mut self, line: &LineRecord) -> Result<()>;
        fn add_snapshot(&mut self, snapshot: &SnapshotRecord) -> Result<()>;
        fn remove_snapshot(&mut self, branch: BranchId, name: &str) -> Result<()>;
        fn put_row(
            &mut self, bucket: BucketId, parent: &str, name: &str, layer: Layer, row: &Row,
        ) -> Result<()>;
        fn remove_row(
            &mut self, bucket: BucketId, parent: &str, name: &str, layer: Layer,
        ) -> Result<()>;
        fn move_rows(
            &mut self, bucket: BucketId, layer: Layer, from: &TreePath, to: &TreePath,
        ) -> Result<()>;
        fn add_content(&mut self, content: &ContentRecord) -> Result<bool>;
        fn set_content(&mut self, content: &ContentRecord) -> Result<()>;
        fn remove_content(&mut self, hash: &Hash) -> Result<()>;
        fn set_unreferenced(&mut self, hash: &Hash, since: Option<Timestamp>) -> Result<()>;
        fn set_conflict(
            &mut self, branch: BranchId, path: &TreePath, conflict: &[u8],
            contents: &[(Hash, u64)],
        ) -> Result<()>;
        fn remove_conflict(&mut self, branch: BranchId, path: &TreePath) -> Result<()>;
        fn pin_content(&mut self, hash: &Hash, until: Timestamp) -> Result<()>;
        fn add_session(&mut self, session: &SessionRecord) -> Result<SessionId>;
        fn set_session(&mut self, session: &SessionRecord) -> Result<()>;
        fn remove_session(&mut self, id: SessionId) -> Result<()>;
        fn add_session_op(&mut self, id: SessionId, op: &SessionOp) -> Result<()>;
        fn clear_session_ops(&mut self, id: SessionId) -> Result<()>;
        fn publish(&mut self, bucket: BucketId, commit: &Commit) -> Result<Cursor>;
        fn prune_events(&mut self, bucket: BucketId, retention: &Retention) -> Result<u64>;
        fn lock(&mut self, name: &str, owner: &str, seconds: u32) -> Result<LockOutcome>;
        fn renew_lock(&mut self, name: &str, owner: &str, seconds: u32) -> Result<bool>;
        fn set_schedule(&mut self, name: &str, when: &str, payload: &str) -> Result<()>;
        fn remove_schedule(&mut self, name: &str) -> Result<bool>;
        fn claim_due(
            &mut self, name: &str, now: Timestamp, worker: &str, seconds: u32,
        ) -> Result<Option<DueTask>>;
        fn finish_due(&mut self, task: &DueTask, worker: &str) -> Result<()>;
        fn unlock(&mut self, name: &str, owner: &str) -> Result<()>;
        fn enqueue(&mut self, queue: &str, payload: &str, options: &JobOptions) -> Result<JobId>;
        fn claim_jobs(
            &mut self, queue: &str, worker: &str, limit: usize, seconds: u32,
        ) -> Result<Vec<Job>>;
        fn renew_job(&mut self, id: JobId, worker: &str, seconds: u32) -> Result<bool>;
        fn finish_jobs(&mut self, jobs: &[JobId], worker: &str) -> Result<()>;
        fn cancel_job(&mut self, id: JobId) -> Result<()>;
        fn release_jobs(&mut self, queue: &str) -> Result<()>;
        fn hurry_jobs(&mut self, queue: &str) -> Result<()>;
        fn set_job_result(&mut self, id: JobId, value: &str, seconds: u32) -> Result<()>;
        fn sweep_jobs(&mut self, queue: &str) -> Result<()>;
        fn set_value(&mut self, scope: &str, key: &str, value: Option<&[u8]>) -> Result<()>;
        fn remove_values(&mut self, scope: &str) -> Result<()>;
    }
}
