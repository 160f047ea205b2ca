//! A store in memory: the reference that every other store is compared with.
//!
//! Its state is a set of persistent maps, so a read transaction is a copy of the roots and a write
//! transaction works on its own copy, which a commit puts in place.

use std::ops::{Bound, ControlFlow, RangeInclusive};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imbl::OrdMap;

use crate::entry::{Hash, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Commit, Cursor, Event};
use crate::path::TreePath;
use crate::store::{
    BranchId, BranchRecord, BucketId, BucketRecord, ConflictContent, ConflictVisitor,
    ContentRecord, DueTask, Durability, Epoch, Layer, LineRecord, LockOutcome, ReadTxn, Retention,
    Row, RowVisitor, Schedule, SessionId, SessionOp, SessionRecord, SnapshotRecord, Store,
    TreeVisitor, Version, WriteTxn,
};

/// A store that keeps everything in memory and forgets it when dropped.
///
/// Clones share one store. Locks do not expire by time, because core has no clock: they go with
/// the store, or when they are given back.
#[derive(Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    state: State,
    writing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The state is replaced in one assignment, so a panic elsewhere leaves it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows sort by bucket, parent, name, and then from the greatest layer down.
type RowKey = (BucketId, Arc<str>, Arc<str>, std::cmp::Reverse<Layer>);

#[derive(Clone, Default)]
struct State {
    commits: u64,
    last_bucket: u32,
    last_branch: u32,
    last_session: u64,
    last_op: u64,
    last_record: u64,
    last_conflict_content: u64,
    buckets: OrdMap<BucketId, BucketRecord>,
    branches: OrdMap<BranchId, BranchRecord>,
    lines: OrdMap<(BranchId, Epoch), LineRecord>,
    snapshots: OrdMap<(BranchId, String), SnapshotRecord>,
    rows: OrdMap<RowKey, Row>,
    contents: OrdMap<Hash, Arc<ContentRecord>>,
    pins: OrdMap<Hash, Timestamp>,
    unreferenced: OrdMap<Hash, Timestamp>,
    sessions: OrdMap<SessionId, SessionRecord>,
    session_ops: OrdMap<(SessionId, u64), Arc<SessionOp>>,
    log: OrdMap<u64, (BucketId, Arc<Commit>)>,
    locks: OrdMap<String, String>,
    conflicts: OrdMap<(BranchId, TreePath), Arc<KnownConflict>>,
    values: OrdMap<(String, String), Arc<[u8]>>,
}

/// What was set of a conflict, and the contents that it refers to.
struct KnownConflict {
    data: Vec<u8>,
    contents: Vec<ConflictContent>,
}

struct Reader(State);

struct Writer {
    shared: Arc<Shared>,
    reader: Reader,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn read(&self) -> Result<Box<dyn ReadTxn>> {
        Ok(Box::new(Reader(self.shared.lock().state.clone())))
    }

    fn write(&self, _durability: Durability) -> Result<Box<dyn WriteTxn>> {
        let mut inner = self.shared.lock();
        while inner.writing {
            inner = self
                .shared
                .changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        inner.writing = true;
        Ok(Box::new(Writer {
            shared: Arc::clone(&self.shared),
            reader: Reader(inner.state.clone()),
        }))
    }

    fn wait_for_commit(&self, seen: u64, timeout: Duration) -> Result<u64> {
        let inner = self.shared.lock();
        let (inner, _) = self
            .shared
            .changed
            .wait_timeout_while(inner, timeout, |inner| inner.state.commits + 1 == seen)
            .unwrap_or_else(PoisonError::into_inner);
        Ok(inner.state.commits + 1)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().writing = false;
        self.shared.changed.notify_all();
    }
}

impl Reader {
    /// Visits rows from `start` for as long as `within` says.
    fn rows_from(
        &self,
        start: Bound<RowKey>,
        within: impl Fn(&RowKey) -> bool,
        visit: &mut dyn FnMut(&RowKey, &Row) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        for (key, row) in self.0.rows.range((start, Bound::Unbounded)) {
            if !within(key) || visit(key, row)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn keys_where(&self, keep: impl Fn(&RowKey) -> bool) -> Vec<RowKey> {
        let keys = self.0.rows.keys();
        keys.filter(|key| keep(key)).cloned().collect()
    }
}

/// Returns the key that sorts before every row of a directory's entries.
fn first_of(bucket: BucketId, parent: &str, name: &str) -> RowKey {
    let newest = Layer {
        branch: BranchId(u32::MAX),
        epoch: Epoch::MAX,
    };
    (
        bucket,
        parent.into(),
        name.into(),
        std::cmp::Reverse(newest),
    )
}

/// Tells whether a directory named by its text is `under` or lies below it.
fn is_within(parent: &str, under: &TreePath) -> bool {
    if parent.is_empty() {
        return false;
    }
    under.is_root()
        || parent
            .strip_prefix(under.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl ReadTxn for Reader {
    fn version(&self) -> Option<Version> {
        Some(Version(self.0.commits.into()))
    }

    fn bucket_named(&self, name: &str) -> Result<Option<BucketRecord>> {
        Ok(self.0.buckets.values().find(|b| b.name == name).cloned())
    }

    fn bucket(&self, id: BucketId) -> Result<Option<BucketRecord>> {
        Ok(self.0.buckets.get(&id).cloned())
    }

    fn buckets(&self) -> Result<Vec<BucketRecord>> {
        let mut out: Vec<_> = self.0.buckets.values().cloned().collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn branch_named(&self, bucket: BucketId, name: &str) -> Result<Option<BranchRecord>> {
        let mut all = self.0.branches.values();
        Ok(all.find(|b| b.bucket == bucket && b.name == name).cloned())
    }

    fn branch(&self, id: BranchId) -> Result<Option<BranchRecord>> {
        Ok(self.0.branches.get(&id).cloned())
    }

    fn branches(&self, bucket: BucketId) -> Result<Vec<BranchRecord>> {
        let all = self.0.branches.values();
        Ok(all.filter(|b| b.bucket == bucket).cloned().collect())
    }

    fn lines(&self, branch: BranchId) -> Result<Vec<LineRecord>> {
        let range = (branch, Epoch(0))..=(branch, Epoch::MAX);
        Ok(self.0.lines.range(range).map(|(_, line)| *line).collect())
    }

    fn lines_on(&self, branch: BranchId) -> Result<Vec<LineRecord>> {
        let on = |line: &&LineRecord| line.base.is_some_and(|base| base.branch == branch);
        Ok(self.0.lines.values().filter(on).copied().collect())
    }

    fn snapshot(&self, branch: BranchId, name: &str) -> Result<Option<SnapshotRecord>> {
        Ok(self.0.snapshots.get(&(branch, name.to_owned())).cloned())
    }

    fn snapshots(&self, branch: BranchId) -> Result<Vec<SnapshotRecord>> {
        let all = self.0.snapshots.values();
        let mut out: Vec<_> = all.filter(|s| s.branch == branch).cloned().collect();
        out.sort_by_key(|s| s.epoch);
        Ok(out)
    }

    fn seek(
        &self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        at_most: Layer,
    ) -> Result<Option<(Layer, Row)>> {
        let start: RowKey = (
            bucket,
            parent.into(),
            name.into(),
            std::cmp::Reverse(at_most),
        );
        let mut range = self.0.rows.range(start..);
        Ok(range
            .next()
            .filter(|(key, _)| key.0 == bucket && *key.1 == *parent && *key.2 == *name)
            .map(|(key, row)| (key.3.0, row.clone())))
    }

    fn seek_in(
        &self,
        bucket: BucketId,
        branch: BranchId,
        epochs: RangeInclusive<Epoch>,
        parent: &str,
        name: &str,
    ) -> Result<Option<(Layer, Row)>> {
        let epoch = *epochs.end();
        let found = self.seek(bucket, parent, name, Layer { branch, epoch })?;
        Ok(found.filter(|(layer, _)| layer.branch == branch && epochs.contains(&layer.epoch)))
    }

    fn scan_dir(
        &self,
        bucket: BucketId,
        parent: &str,
        after: Option<&str>,
        visit: &mut RowVisitor<'_>,
    ) -> Result<()> {
        let start = match after {
            None => Bound::Included(first_of(bucket, parent, "")),
            Some(name) => {
                let (bucket, parent, name, _) = first_of(bucket, parent, name);
                let oldest = Layer {
                    branch: BranchId(0),
                    epoch: Epoch(0),
                };
                Bound::Excluded((bucket, parent, name, std::cmp::Reverse(oldest)))
            }
        };
        self.rows_from(
            start,
            |key| key.0 == bucket && *key.1 == *parent,
            &mut |key, row| visit(&key.2, key.3.0, &|| Ok(row.clone())),
        )
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
        self.scan_dir(bucket, parent, after, &mut |name, layer, row| {
            if layer.branch == branch && epochs.contains(&layer.epoch) {
                visit(name, layer, row)
            } else {
                Ok(ControlFlow::Continue(()))
            }
        })
    }

    fn scan_tree(
        &self,
        bucket: BucketId,
        under: &TreePath,
        visit: &mut TreeVisitor<'_>,
    ) -> Result<()> {
        self.rows_from(
            Bound::Included(first_of(bucket, under.as_str(), "")),
            |key| key.0 == bucket && key.1.starts_with(under.as_str()),
            &mut |key, row| {
                if is_within(&key.1, under) {
                    visit(&key.1, &key.2, key.3.0, row.clone())
                } else {
                    Ok(ControlFlow::Continue(()))
                }
            },
        )
    }

    fn paths_of(
        &self,
        bucket: BucketId,
        branch: BranchId,
        epochs: RangeInclusive<Epoch>,
        under: &TreePath,
        visit: &mut dyn FnMut(&str, &str) -> Result<()>,
    ) -> Result<()> {
        let start = if under.is_root() { "" } else { under.as_str() };
        self.rows_from(
            Bound::Included(first_of(bucket, start, "")),
            |key| key.0 == bucket && key.1.starts_with(start),
            &mut |key, _| {
                let layer = key.3.0;
                let inside = under.is_root() || is_within(&key.1, under);
                if inside && layer.branch == branch && epochs.contains(&layer.epoch) {
                    visit(&key.1, &key.2)?;
                }
                Ok(ControlFlow::Continue(()))
            },
        )
    }

    fn content(&self, hash: &Hash) -> Result<Option<ContentRecord>> {
        Ok(self.0.contents.get(hash).map(|c| (**c).clone()))
    }

    fn contents_after(
        &self,
        after: Option<&Hash>,
        limit: usize,
        with_data: bool,
    ) -> Result<Vec<ContentRecord>> {
        let start = after.map_or(Bound::Unbounded, |hash| Bound::Excluded(*hash));
        let range = self.0.contents.range((start, Bound::Unbounded));
        let records = range.take(limit).map(|(_, content)| {
            let mut record = (**content).clone();
            if !with_data {
                record.data.clear();
            }
            record
        });
        Ok(records.collect())
    }

    fn has_content(&self, hash: &Hash) -> Result<bool> {
        Ok(self.0.contents.contains_key(hash))
    }

    fn is_base(&self, hash: &Hash) -> Result<bool> {
        Ok(self.0.contents.values().any(|c| c.base == Some(*hash)))
    }

    fn unreferenced(&self, visit: &mut dyn FnMut(Hash, Timestamp)) -> Result<()> {
        let marks = self.0.unreferenced.iter();
        marks.for_each(|(hash, since)| visit(*hash, *since));
        Ok(())
    }

    fn unreferenced_since(&self, hash: &Hash) -> Result<Option<Timestamp>> {
        Ok(self.0.unreferenced.get(hash).copied())
    }

    fn referenced(&self, now: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()> {
        let State {
            rows,
            sessions,
            contents,
            pins,
            conflicts,
            ..
        } = &self.0;
        rows.values()
            .filter_map(|row| row.entry.as_ref()?.hash())
            .chain(sessions.values().filter_map(|s| s.base.map(|b| b.0)))
            .chain(contents.values().filter_map(|c| c.base))
            .chain(
                conflicts
                    .values()
                    .flat_map(|c| c.contents.iter().map(|c| c.hash)),
            )
            .chain(pins.iter().filter(|(_, until)| **until > now).map(|p| *p.0))
            .for_each(visit);
        Ok(())
    }

    fn held_contents(&self, until: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()> {
        let State { sessions, pins, .. } = &self.0;
        let bases = sessions.values().filter_map(|s| s.base.map(|b| b.0));
        let pinned = pins.iter().filter(|pin| *pin.1 > until).map(|pin| *pin.0);
        bases.chain(pinned).for_each(visit);
        Ok(())
    }

    fn session(&self, id: SessionId) -> Result<Option<SessionRecord>> {
        Ok(self.0.sessions.get(&id).cloned())
    }

    fn sessions(&self, branch: Option<BranchId>) -> Result<Vec<SessionRecord>> {
        let all = self.0.sessions.values();
        let wanted = |s: &&SessionRecord| branch.is_none_or(|branch| s.branch == branch);
        Ok(all.filter(wanted).cloned().collect())
    }

    fn session_ops(&self, id: SessionId) -> Result<Vec<SessionOp>> {
        let ops = self.0.session_ops.range((id, 0)..=(id, u64::MAX));
        Ok(ops.map(|(_, op)| (**op).clone()).collect())
    }

    fn events(&self, bucket: Option<BucketId>, after: Cursor, limit: usize) -> Result<Vec<Event>> {
        for record in self.0.buckets.values() {
            if bucket.is_none_or(|id| id == record.id) && after < record.pruned {
                return Err(lagged(after, record.pruned));
            }
        }
        let wanted = |id: BucketId| bucket.is_none_or(|bucket| bucket == id);
        let records = self.0.log.range(after.offset()..);
        let mut out = Vec::new();
        let mut given = 0;
        for (offset, (id, commit)) in records.filter(|(_, (id, _))| wanted(*id)) {
            if given == limit {
                break;
            }
            let Some(bucket) = self.0.buckets.get(id) else {
                continue;
            };
            let before = out.len();
            out.extend(commit.events(&bucket.name, *offset, after));
            // The record that the cursor points into may have nothing left to give.
            given += usize::from(out.len() > before);
        }
        Ok(out)
    }

    fn events_before(&self, bucket: BucketId, before: Cursor, limit: usize) -> Result<Vec<Event>> {
        let Some(record) = self.0.buckets.get(&bucket) else {
            return Ok(Vec::new());
        };
        let records = self.0.log.range(..=before.offset()).rev();
        let mut out = Vec::new();
        let mut given = 0;
        for (offset, (_, commit)) in records.filter(|(_, (id, _))| *id == bucket) {
            if given == limit {
                break;
            }
            let found = out.len();
            let events: Vec<_> = commit
                .events(&record.name, *offset, Cursor::START)
                .collect();
            let older = events.into_iter().rev().filter(|e| e.cursor < before);
            out.extend(older);
            // Of the record that the cursor points into there may be nothing to give.
            given += usize::from(out.len() > found);
        }
        Ok(out)
    }

    fn last_cursor(&self) -> Result<Cursor> {
        Ok(match self.0.log.get_max() {
            Some((offset, (_, commit))) if *offset == self.0.last_record => {
                Cursor::new(*offset, commit.changes.len() - 1)
            }
            _ if self.0.last_record == 0 => Cursor::START,
            _ => Cursor::end_of(self.0.last_record),
        })
    }

    fn schedules(&self) -> Result<Vec<Schedule>> {
        Ok(Vec::new())
    }

    fn conflict(&self, branch: BranchId, path: &TreePath) -> Result<Option<Vec<u8>>> {
        let found = self.0.conflicts.get(&(branch, path.clone()));
        Ok(found.map(|conflict| conflict.data.clone()))
    }

    fn conflicts(&self, branch: BranchId, visit: &mut ConflictVisitor<'_>) -> Result<()> {
        for ((of, path), conflict) in self.0.conflicts.range((branch, TreePath::root())..) {
            if *of != branch || visit(path.clone(), conflict.data.clone())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn conflict_contents(
        &self,
        bucket: BucketId,
        after: u64,
        visit: &mut dyn FnMut(ConflictContent) -> Result<()>,
    ) -> Result<()> {
        let State {
            branches,
            conflicts,
            ..
        } = &self.0;
        let is_inside = |id: &BranchId| branches.get(id).is_some_and(|b| b.bucket == bucket);
        let inside = conflicts.iter().filter(|((id, _), _)| is_inside(id));
        let contents = inside.flat_map(|(_, conflict)| &conflict.contents);
        let mut contents: Vec<_> = contents.filter(|c| c.number > after).collect();
        contents.sort_unstable_by_key(|content| content.number);
        contents.into_iter().cloned().try_for_each(visit)
    }

    fn value(&self, scope: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let value = self.0.values.get(&(scope.to_owned(), key.to_owned()));
        Ok(value.map(|value| value.to_vec()))
    }
}

/// Makes the error for a cursor whose next events were pruned.
fn lagged(after: Cursor, pruned: Cursor) -> Error {
    Error::with_detail(
        ErrorKind::Lagged,
        format!(
            "the events after cursor {} were pruned; the oldest that works is {}",
            after.0, pruned.0
        ),
    )
}

/// Passes each reading method on to the transaction's own state.
macro_rules! read_as {
    ($field:ident; $(fn $name:ident(&self $(, $arg:ident: $type:ty)* $(,)?) -> $out:ty;)*) => {
        $(fn $name(&self $(, $arg: $type)*) -> $out { self.$field.$name($($arg),*) })*
    };
}

impl ReadTxn for Writer {
    read_as! { reader;
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
        fn scan_dir(
            &self, bucket: BucketId, parent: &str, after: Option<&str>, visit: &mut RowVisitor<'_>,
        ) -> Result<()>;
        fn seek_in(
            &self, bucket: BucketId, branch: BranchId, epochs: RangeInclusive<Epoch>,
            parent: &str, name: &str,
        ) -> Result<Option<(Layer, Row)>>;
        fn scan_dir_of(
            &self, bucket: BucketId, branch: BranchId, epochs: RangeInclusive<Epoch>,
            parent: &str, after: Option<&str>, visit: &mut RowVisitor<'_>,
        ) -> Result<()>;
        fn scan_tree(
            &self, bucket: BucketId, under: &TreePath, visit: &mut TreeVisitor<'_>,
        ) -> Result<()>;
        fn paths_of(
            &self, bucket: BucketId, branch: BranchId, epochs: RangeInclusive<Epoch>,
            under: &TreePath, visit: &mut dyn FnMut(&str, &str) -> Result<()>,
        ) -> Result<()>;
        fn content(&self, hash: &Hash) -> Result<Option<ContentRecord>>;
        fn contents_after(
            &self, after: Option<&Hash>, limit: usize, with_data: bool,
        ) -> Result<Vec<ContentRecord>>;
        fn has_content(&self, hash: &Hash) -> Result<bool>;
        fn is_base(&self, hash: &Hash) -> Result<bool>;
        fn unreferenced(&self, visit: &mut dyn FnMut(Hash, Timestamp)) -> Result<()>;
        fn unreferenced_since(&self, hash: &Hash) -> Result<Option<Timestamp>>;
        fn referenced(&self, now: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()>;
        fn held_contents(&self, until: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()>;
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
        fn schedules(&self) -> Result<Vec<Schedule>>;
        fn conflict(&self, branch: BranchId, path: &TreePath) -> Result<Option<Vec<u8>>>;
        fn conflicts(&self, branch: BranchId, visit: &mut ConflictVisitor<'_>) -> Result<()>;
        fn conflict_contents(
            &self, bucket: BucketId, after: u64,
            visit: &mut dyn FnMut(ConflictContent) -> Result<()>,
        ) -> Result<()>;
        fn value(&self, scope: &str, key: &str) -> Result<Option<Vec<u8>>>;
    }
}

impl Writer {
    fn state(&mut self) -> &mut State {
        &mut self.reader.0
    }

    fn remove_rows(&mut self, keep: impl Fn(&RowKey) -> bool) {
        for key in self.reader.keys_where(keep) {
            self.state().rows.remove(&key);
        }
    }
}

fn row_key(bucket: BucketId, parent: &str, name: &str, layer: Layer) -> RowKey {
    (bucket, parent.into(), name.into(), std::cmp::Reverse(layer))
}

fn taken(what: &str, name: &str) -> Error {
    Error::with_detail(
        ErrorKind::AlreadyExists,
        format!("a {what} of that name exists"),
    )
    .path(name)
}

impl WriteTxn for Writer {
    fn commit(mut self: Box<Self>) -> Result<()> {
        let mut state = std::mem::take(&mut self.reader.0);
        state.commits += 1;
        self.shared.lock().state = state;
        Ok(())
    }

    fn add_bucket(&mut self, name: &str, created: Timestamp) -> Result<BucketRecord> {
        if self.bucket_named(name)?.is_some() {
            return Err(taken("bucket", name));
        }
        let state = self.state();
        state.last_bucket += 1;
        let record = BucketRecord {
            id: BucketId(state.last_bucket),
            name: name.to_owned(),
            created,
            epoch: Epoch(1),
            generation: 1,
            pruned: Cursor::START,
        };
        state.buckets.insert(record.id, record.clone());
        Ok(record)
    }

    fn set_bucket(&mut self, bucket: &BucketRecord) -> Result<()> {
        self.state().buckets.insert(bucket.id, bucket.clone());
        Ok(())
    }

    fn remove_bucket(&mut self, id: BucketId) -> Result<()> {
        for branch in self.branches(id)? {
            self.remove_branch(branch.id)?;
        }
        self.remove_rows(|key| key.0 == id);
        let state = self.state();
        state.buckets.remove(&id);
        let old = state.log.iter().filter(|(_, (bucket, _))| *bucket == id);
        for offset in old.map(|(offset, _)| *offset).collect::<Vec<_>>() {
            state.log.remove(&offset);
        }
        Ok(())
    }

    fn add_branch(
        &mut self,
        bucket: BucketId,
        name: &str,
        created: Timestamp,
    ) -> Result<BranchRecord> {
        if self.branch_named(bucket, name)?.is_some() {
            return Err(taken("branch", name));
        }
        let state = self.state();
        state.last_branch += 1;
        let record = BranchRecord {
            id: BranchId(state.last_branch),
            bucket,
            name: name.to_owned(),
            created,
        };
        state.branches.insert(record.id, record.clone());
        Ok(record)
    }

    fn set_branch(&mut self, branch: &BranchRecord) -> Result<()> {
        self.state().branches.insert(branch.id, branch.clone());
        Ok(())
    }

    fn remove_branch(&mut self, id: BranchId) -> Result<()> {
        self.remove_rows(|key| key.3.0.branch == id);
        for session in self.sessions(Some(id))? {
            self.remove_session(session.id)?;
        }
        for line in self.lines(id)? {
            self.state().lines.remove(&(id, line.start));
        }
        for snapshot in self.snapshots(id)? {
            self.remove_snapshot(id, &snapshot.name)?;
        }
        let conflicts = self.state().conflicts.range((id, TreePath::root())..);
        let conflicts = conflicts.map(|(key, _)| key.clone());
        for key in conflicts.take_while(|key| key.0 == id).collect::<Vec<_>>() {
            self.state().conflicts.remove(&key);
        }
        self.state().branches.remove(&id);
        Ok(())
    }

    fn add_line(&mut self, line: &LineRecord) -> Result<()> {
        self.state().lines.insert((line.branch, line.start), *line);
        Ok(())
    }

    fn add_snapshot(&mut self, snapshot: &SnapshotRecord) -> Result<()> {
        let key = (snapshot.branch, snapshot.name.clone());
        if self.state().snapshots.contains_key(&key) {
            return Err(taken("snapshot", &snapshot.name));
        }
        self.state().snapshots.insert(key, snapshot.clone());
        Ok(())
    }

    fn remove_snapshot(&mut self, branch: BranchId, name: &str) -> Result<()> {
        self.state().snapshots.remove(&(branch, name.to_owned()));
        Ok(())
    }

    fn put_row(
        &mut self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        layer: Layer,
        row: &Row,
    ) -> Result<()> {
        let key = row_key(bucket, parent, name, layer);
        self.state().rows.insert(key, row.clone());
        Ok(())
    }

    fn remove_row(
        &mut self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        layer: Layer,
    ) -> Result<()> {
        let key = row_key(bucket, parent, name, layer);
        self.state().rows.remove(&key);
        Ok(())
    }

    fn move_rows(
        &mut self,
        bucket: BucketId,
        layer: Layer,
        from: &TreePath,
        to: &TreePath,
    ) -> Result<()> {
        let keys = self
            .reader
            .keys_where(|key| key.0 == bucket && key.3.0 == layer && is_within(&key.1, from));
        for key in keys {
            let parent = format!("{to}{}", &key.1[from.as_str().len()..]);
            if let Some(row) = self.state().rows.remove(&key) {
                let moved = (key.0, parent.into(), key.2, key.3);
                self.state().rows.insert(moved, row);
            }
        }
        Ok(())
    }

    fn add_content(&mut self, content: &ContentRecord) -> Result<bool> {
        let fresh = !self.state().contents.contains_key(&content.hash);
        if fresh {
            self.set_content(content)?;
        }
        Ok(fresh)
    }

    fn set_content(&mut self, content: &ContentRecord) -> Result<()> {
        let record = Arc::new(content.clone());
        self.state().contents.insert(content.hash, record);
        Ok(())
    }

    fn remove_content(&mut self, hash: &Hash) -> Result<()> {
        self.state().contents.remove(hash);
        self.state().pins.remove(hash);
        self.set_unreferenced(hash, None)
    }

    fn set_unreferenced(&mut self, hash: &Hash, since: Option<Timestamp>) -> Result<()> {
        match since {
            Some(since) => self.state().unreferenced.insert(*hash, since),
            None => self.state().unreferenced.remove(hash),
        };
        Ok(())
    }

    fn pin_content(&mut self, hash: &Hash, until: Timestamp) -> Result<()> {
        self.state().pins.insert(*hash, until);
        self.set_unreferenced(hash, None)
    }

    fn add_session(&mut self, session: &SessionRecord) -> Result<SessionId> {
        let state = self.state();
        state.last_session += 1;
        let id = SessionId(state.last_session);
        let record = SessionRecord {
            id,
            ..session.clone()
        };
        state.sessions.insert(id, record);
        Ok(id)
    }

    fn set_session(&mut self, session: &SessionRecord) -> Result<()> {
        self.state().sessions.insert(session.id, session.clone());
        Ok(())
    }

    fn remove_session(&mut self, id: SessionId) -> Result<()> {
        self.clear_session_ops(id)?;
        self.state().sessions.remove(&id);
        Ok(())
    }

    fn add_session_op(&mut self, id: SessionId, op: &SessionOp) -> Result<()> {
        let state = self.state();
        state.last_op += 1;
        let key = (id, state.last_op);
        state.session_ops.insert(key, Arc::new(op.clone()));
        Ok(())
    }

    fn clear_session_ops(&mut self, id: SessionId) -> Result<()> {
        let ops = self.state().session_ops.range((id, 0)..=(id, u64::MAX));
        for key in ops.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.state().session_ops.remove(&key);
        }
        Ok(())
    }

    fn publish(&mut self, bucket: BucketId, commit: &Commit) -> Result<Cursor> {
        let mut last = Cursor::START;
        for part in commit.records() {
            let state = self.state();
            state.last_record += 1;
            last = Cursor::new(state.last_record, part.changes.len() - 1);
            let record = (bucket, Arc::new(part));
            state.log.insert(state.last_record, record);
        }
        Ok(last)
    }

    fn prune_events(&mut self, bucket: BucketId, retention: &Retention) -> Result<u64> {
        let mut kept = 0;
        let mut doomed: Vec<(u64, usize)> = Vec::new();
        for (offset, (id, commit)) in self.reader.0.log.iter().rev() {
            if *id != bucket {
                continue;
            }
            let count = commit.changes.len();
            let too_old = retention.not_before.is_some_and(|time| commit.at < time);
            let too_many = retention.at_most.is_some_and(|most| kept >= most);
            if too_old || too_many || !doomed.is_empty() {
                doomed.push((*offset, count));
            } else {
                kept += count as u64;
            }
        }
        if let Some(mut record) = self.bucket(bucket)?
            && let Some((newest, count)) = doomed.first()
        {
            // Who has seen the last event that goes misses nothing.
            record.pruned = Cursor::new(*newest, count.saturating_sub(1));
            self.set_bucket(&record)?;
        }
        for (offset, _) in &doomed {
            self.state().log.remove(offset);
        }
        Ok(doomed.iter().map(|(_, count)| *count as u64).sum())
    }

    fn lock(&mut self, name: &str, owner: &str, _seconds: u32) -> Result<LockOutcome> {
        match self.state().locks.get(name) {
            Some(held) if held != owner => Ok(LockOutcome::Held {
                owner: held.clone(),
            }),
            _ => {
                let (name, owner) = (name.to_owned(), owner.to_owned());
                self.state().locks.insert(name, owner);
                Ok(LockOutcome::Acquired)
            }
        }
    }

    fn renew_lock(&mut self, name: &str, owner: &str, _seconds: u32) -> Result<bool> {
        Ok(self
            .state()
            .locks
            .get(name)
            .is_some_and(|held| held == owner))
    }

    fn unlock(&mut self, name: &str, owner: &str) -> Result<()> {
        if self
            .state()
            .locks
            .get(name)
            .is_some_and(|held| held == owner)
        {
            self.state().locks.remove(name);
        }
        Ok(())
    }

    fn set_schedule(&mut self, _name: &str, _when: &str, _payload: &str) -> Result<()> {
        let detail = "a store in memory has no scheduler";
        Err(Error::with_detail(ErrorKind::Unsupported, detail))
    }

    fn remove_schedule(&mut self, _name: &str) -> Result<bool> {
        Ok(false)
    }

    fn claim_due(
        &mut self,
        _name: &str,
        _now: Timestamp,
        _worker: &str,
        _seconds: u32,
    ) -> Result<Option<DueTask>> {
        Ok(None)
    }

    fn finish_due(&mut self, _task: &DueTask, _worker: &str) -> Result<()> {
        Ok(())
    }

    fn set_conflict(
        &mut self,
        branch: BranchId,
        path: &TreePath,
        conflict: &[u8],
        contents: &[(Hash, u64)],
    ) -> Result<()> {
        let mut known = KnownConflict {
            data: conflict.to_vec(),
            contents: Vec::new(),
        };
        for (hash, size) in contents {
            self.set_unreferenced(hash, None)?;
            let state = self.state();
            state.last_conflict_content += 1;
            known.contents.push(ConflictContent {
                number: state.last_conflict_content,
                branch,
                path: path.clone(),
                hash: *hash,
                size: *size,
            });
        }
        let key = (branch, path.clone());
        self.state().conflicts.insert(key, Arc::new(known));
        Ok(())
    }

    fn remove_conflict(&mut self, branch: BranchId, path: &TreePath) -> Result<()> {
        self.state().conflicts.remove(&(branch, path.clone()));
        Ok(())
    }

    fn set_value(&mut self, scope: &str, key: &str, value: Option<&[u8]>) -> Result<()> {
        let key = (scope.to_owned(), key.to_owned());
        match value {
            Some(value) => self.state().values.insert(key, value.into()),
            None => self.state().values.remove(&key),
        };
        Ok(())
    }

    fn remove_values(&mut self, scope: &str) -> Result<()> {
        let is_in = |of: &str| {
            let below = of.strip_prefix(scope);
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        };
        let keys = self.state().values.keys().filter(|key| is_in(&key.0));
        for key in keys.cloned().collect::<Vec<_>>() {
            self.state().values.remove(&key);
        }
        Ok(())
    }
}
