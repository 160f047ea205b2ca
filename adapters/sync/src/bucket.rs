//! A bucket that takes part in synchronisation.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::Context;
use alknet_fs_core::store::{
    BranchId, BranchRecord, BucketId, Durability, Epoch, ReadTxn, Store, WriteTxn,
};
use alknet_fs_core::sync::{
    AboutSnapshot, Clock, Cut, Moment, Page, Replica, ReplicaId, Scope, Taken, VersionVector, Want,
    has_conflicts,
};
use alknet_fs_core::{Change, Commit, Cursor, Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::branch::{Applied, Branch, History};
use crate::collect::Found;
use crate::kept::{self, Draft, Drafted};

/// What is kept of a bucket besides its documents, and changes with every commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    replica: ReplicaId,
    /// The greatest time of a stamp that was given out or seen.
    clock: u64,
    /// All commits up to here are in the documents; nothing before any is.
    gathered: Option<Cursor>,
    /// The bucket's epoch then: older ones are not new.
    epoch: Epoch,
    /// Whether something that the documents say could not be shown yet.
    unsettled: bool,
    /// Where others wait for the rest of what was committed together.
    open: BTreeSet<Scope>,
}

impl Record {
    /// What is kept of a bucket that takes part for the first time.
    fn first(replica: ReplicaId) -> Self {
        Self {
            replica,
            clock: 0,
            gathered: None,
            epoch: Epoch(0),
            unsettled: false,
            open: BTreeSet::new(),
        }
    }
}

/// How many changes are brought into the documents in one transaction, where nobody says otherwise: so
/// that others who write wait for some 30 ms at most.
const AT_ONCE: usize = 2048;

/// How often it is looked for what was committed while much was brought in.
const ROUNDS: usize = 8;

/// What was committed up to a cursor and is not gathered.
struct Seen {
    last: Cursor,
    found: Found,
}

/// What documents and rows are changed in.
pub(crate) enum To<'a> {
    /// A transaction that is there.
    Txn(&'a mut dyn WriteTxn),
    /// One after the other, each for so many changes.
    Pieces(usize),
}

impl To<'_> {
    /// Returns how many changes are brought in together.
    pub(crate) fn at_once(&self) -> usize {
        match self {
            Self::Txn(_) => usize::MAX,
            Self::Pieces(changes) => *changes,
        }
    }
}

const RECORD: &str = "bucket";
const SCOPES: &str = "scopes";
const WANTED: &str = "wanted";

/// What the store shows of a scope.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// The branch; nothing where it was deleted, or cannot be shown yet.
    pub(crate) branch: Option<BranchId>,
    /// Its name here.
    pub(crate) name: String,
    /// The other branch that it inherits from, and the epoch where that is frozen.
    pub(crate) base: Option<(BranchId, Option<Epoch>)>,
    /// Its snapshots by their names here.
    pub(crate) snapshots: BTreeMap<String, ShownSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShownSnapshot {
    pub(crate) epoch: Epoch,
    /// The register that speaks of it.
    pub(crate) register: String,
}

/// The documents of a bucket's branches, and the rows that they stand for. All branches take part.
///
/// One process at a time may hold it; the others go on using the store, and what they commit is
/// [gathered](Self::gather).
pub struct Bucket {
    store: Arc<dyn Store>,
    pub(crate) bucket: BucketId,
    record: Record,
    pub(crate) scopes: BTreeMap<Scope, Shown>,
    pub(crate) branches: BTreeMap<Scope, Branch>,
    /// The time that commits get which bring in what others wrote.
    now: Timestamp,
    /// The scopes that may have cuts which nobody was told of.
    pub(crate) news: BTreeSet<Scope>,
    /// The moments that cannot be shown because documents left out what they need.
    pub(crate) wanted: BTreeSet<(Scope, VersionVector)>,
    history: History,
    at_once: usize,
    stop: Arc<AtomicBool>,
    /// Whether a transaction failed since the store was read: it may have been committed, or not.
    is_stale: bool,
}

impl Bucket {
    /// Opens a bucket of a store. One that takes part for the first time does so as `replica`, whose
    /// id nobody else has; later the id is the one it had first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: Arc<dyn Store>, bucket: BucketId, replica: ReplicaId) -> Result<Self> {
        let txn = store.read()?;
        let mut opened = Self {
            store,
            bucket,
            scopes: BTreeMap::new(),
            branches: BTreeMap::new(),
            record: Record::first(replica),
            now: Timestamp(0),
            news: BTreeSet::new(),
            wanted: BTreeSet::new(),
            history: History::default(),
            at_once: AT_ONCE,
            stop: Arc::default(),
            is_stale: true,
        };
        opened.refresh(&*txn)?;
        Ok(opened)
    }

    /// Returns the replica that this is.
    pub fn replica(&self) -> ReplicaId {
        self.record.replica
    }

    /// Sets how much is kept of what was.
    pub fn set_history(&mut self, history: History) {
        self.history = history;
        self.forget();
    }

    /// Sets how many changes are brought into the documents in one transaction. Of more, each transaction
    /// takes so many; others show all of them together, but for what was there before the bucket takes part,
    /// and what nobody knows any more when the log was pruned.
    pub fn set_at_once(&mut self, changes: usize) {
        self.at_once = changes.max(1);
    }

    /// Sets what is looked at between such transactions: where it is set, a call ends with
    /// [`ErrorKind::Cancelled`], and the next one goes on.
    pub fn set_stop(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    /// Returns up to where the documents hold what was committed.
    pub fn gathered(&self) -> Option<Cursor> {
        self.record.gathered
    }

    /// Forgets the documents that are kept in memory: they are read again when they are used.
    pub fn forget_documents(&mut self) {
        self.forget();
    }

    /// Returns the scopes, each with the branch that shows it, if one does.
    pub fn scopes(&self) -> impl Iterator<Item = (Scope, Option<BranchId>)> + '_ {
        self.scopes
            .iter()
            .map(|(scope, shown)| (*scope, shown.branch))
    }

    /// Sets the time that is noted for what arrives from now on.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Returns the scopes that got cuts since this was asked last, by [`gather`](Self::gather) or
    /// from others: what every [`Peer`](alknet_fs_core::sync::Peer) is to be told of.
    pub fn take_news(&mut self) -> BTreeSet<Scope> {
        std::mem::take(&mut self.news)
    }

    /// Brings what any process committed before the call into the documents. Returns whether that was
    /// anything.
    ///
    /// # Errors
    /// [`deleted`] where the bucket is gone, and those of the store.
    pub fn gather(&mut self, now: Timestamp) -> Result<bool> {
        let last = self.store.read()?.last_cursor()?;
        if !self.is_stale && Some(last) == self.record.gathered {
            return Ok(false);
        }
        let before = std::mem::take(&mut self.news);
        let gathered = self.gather_apart(now).and_then(|seen| {
            // What was committed since it was called comes next time.
            if seen.is_none() && self.is_closed() && self.record.gathered >= Some(last) {
                return Ok(());
            }
            let txn = self.write(Durability::Full)?;
            self.change(txn, |this, txn| this.gather_in(txn, now, seen))
        });
        let is_new = !self.news.is_empty();
        self.news.extend(before);
        gathered.map(|()| is_new)
    }

    /// Brings what was committed into the documents so that nobody who writes meanwhile waits for long: a
    /// little is drafted before the transaction that keeps it, and much comes in pieces, each in one of its
    /// own. Where conflicts are noted, what was committed is not divided: it is to be seen as a whole. Returns
    /// what it saw and left, as it says more than what was written.
    fn gather_apart(&mut self, now: Timestamp) -> Result<Option<Seen>> {
        for _ in 0..ROUNDS {
            if let ControlFlow::Break(seen) = self.gather_round(now)? {
                return Ok(seen);
            }
        }
        Ok(None)
    }

    /// Brings in what was committed up to now. Returns whether to look for what came meanwhile.
    fn gather_round(&mut self, now: Timestamp) -> Result<ControlFlow<Option<Seen>>> {
        let txn = self.store.read()?;
        self.refresh(&*txn)?;
        let last = txn.last_cursor()?;
        if self.record.gathered == Some(last) {
            return Ok(ControlFlow::Break(None));
        }
        let at_once = self.at_once;
        let Some(bucket) = txn.bucket(self.bucket)? else {
            return Ok(ControlFlow::Break(None));
        };
        let branches = txn.branches(self.bucket)?;
        let found = self.found(&*txn, &branches)?;
        let mut is_whole = !found.is_more_than(at_once);
        for branch in &branches {
            is_whole = is_whole || has_conflicts(&*txn, branch.id)?;
        }
        if is_whole && self.is_plain(&*txn, &branches, &found)? {
            let mut draft = Draft::new(&*txn);
            let drafted = self.draft(&mut draft, &branches, &found, now);
            let values = drafted.map(|()| draft.into_values());
            drop(txn);
            self.keep_draft(values, last, bucket.epoch)?;
            return Ok(ControlFlow::Break(None));
        }
        drop(txn);
        if is_whole {
            return Ok(ControlFlow::Break(Some(Seen { last, found })));
        }
        self.collect(&mut To::Pieces(at_once), &branches, &found, now)?;
        let txn = self.write(Durability::Full)?;
        self.change(txn, |this, _| {
            // What was committed meanwhile comes after that.
            this.record.gathered = Some(last);
            this.record.epoch = bucket.epoch;
            this.record.unsettled |= found.of_branches();
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Tells whether nobody waits for more of what was gathered, nor branches for what is to come.
    fn is_closed(&self) -> bool {
        self.record.open.is_empty() && !self.record.unsettled
    }

    /// Tells whether all that was found is what was written to branches that take part and have no
    /// conflicts: to bring that into the documents changes nothing else.
    fn is_plain(
        &self,
        txn: &dyn ReadTxn,
        branches: &[BranchRecord],
        found: &Found,
    ) -> Result<bool> {
        if found.of_branches() || !self.is_closed() {
            return Ok(false);
        }
        for BranchRecord { id, .. } in branches.iter().filter(|branch| found.is_in(branch.id)) {
            if self.scope_of(*id).is_err() || has_conflicts(txn, *id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps values that were drafted when the store had nothing after a cursor and an epoch. Nobody
    /// else changes those that are there.
    fn keep_draft(&mut self, values: Result<Drafted>, last: Cursor, epoch: Epoch) -> Result<()> {
        let begun = values.and_then(|values| Ok((values, self.write(Durability::Full)?)));
        let (values, txn) = begun.inspect_err(|_| self.reread())?;
        self.change(txn, |this, txn| {
            for ((scope, name), value) in values {
                txn.set_value(&scope, &name, value.as_deref())?;
            }
            this.record.gathered = Some(last);
            this.record.epoch = epoch;
            Ok(())
        })
    }

    fn found(&self, txn: &dyn ReadTxn, branches: &[BranchRecord]) -> Result<Found> {
        match self.record.gathered {
            Some(since) => Found::after(txn, self.bucket, branches, since),
            None if self.scopes.is_empty() => Ok(Found::First),
            // It was begun, and what was brought in then may be gone since.
            None => Ok(Found::Unknown),
        }
    }

    fn gather_in(
        &mut self,
        txn: &mut dyn WriteTxn,
        now: Timestamp,
        seen: Option<Seen>,
    ) -> Result<()> {
        let branches = txn.branches(self.bucket)?;
        let last = txn.last_cursor()?;
        let found = match seen.filter(|seen| seen.last == last) {
            Some(seen) => seen.found,
            None => self.found(txn, &branches)?,
        };
        self.collect(&mut To::Txn(txn), &branches, &found, now)?;
        for scope in std::mem::take(&mut self.record.open) {
            if self.documents(scope).close(txn)? {
                self.news.insert(scope);
            }
        }
        if found.of_branches() || self.record.unsettled {
            // A name may have become free, and a branch that nobody uses any more may go.
            let context = context(now, self.replica());
            self.record.unsettled = !self.settle(txn, &context)?;
        }
        self.gathered_all(txn)
    }

    /// Notes that the documents have all that was committed.
    fn gathered_all(&mut self, txn: &dyn ReadTxn) -> Result<()> {
        self.record.gathered = Some(txn.last_cursor()?);
        if let Some(bucket) = txn.bucket(self.bucket)? {
            self.record.epoch = bucket.epoch;
        }
        Ok(())
    }

    /// Returns the epoch up to which all was gathered.
    pub(crate) fn gathered_epoch(&self) -> Epoch {
        self.record.epoch
    }

    /// Begins a transaction that reads. Of a bucket that is gone nothing is said: its documents are, too.
    fn read(&self) -> Result<Box<dyn ReadTxn>> {
        let txn = self.store.read()?;
        match txn.bucket(self.bucket)? {
            Some(_) => Ok(txn),
            None => Err(deleted()),
        }
    }

    /// Begins a transaction that writes. A bucket that is gone keeps nothing.
    fn write(&self, durability: Durability) -> Result<Box<dyn WriteTxn>> {
        let txn = self.store.write(durability)?;
        match txn.bucket(self.bucket)? {
            Some(_) => Ok(txn),
            None => Err(deleted()),
        }
    }

    /// Reads in a transaction that is there, or in one of its own.
    pub(crate) fn read_in<R>(
        &mut self,
        to: &To<'_>,
        read: impl FnOnce(&mut Self, &dyn ReadTxn) -> Result<R>,
    ) -> Result<R> {
        match to {
            To::Txn(txn) => read(self, &**txn),
            To::Pieces(_) => {
                let txn = self.store.read()?;
                read(self, &*txn)
            }
        }
    }

    /// Changes documents and rows in a transaction that is there, or in one of its own.
    pub(crate) fn change_in<R>(
        &mut self,
        to: &mut To<'_>,
        change: impl FnOnce(&mut Self, &mut dyn WriteTxn) -> Result<R>,
    ) -> Result<R> {
        match to {
            To::Txn(txn) => change(self, &mut **txn),
            To::Pieces(_) => {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(ErrorKind::Cancelled.into());
                }
                let txn = self.write(Durability::Full)?;
                self.change(txn, change)
            }
        }
    }

    /// Notes that others wait for the rest of what was committed together.
    pub(crate) fn leave_open(&mut self, scope: Scope) {
        self.record.open.insert(scope);
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::new(self.record.replica, self.record.clock)
    }

    pub(crate) fn set_clock(&mut self, clock: &Clock) {
        self.record.clock = clock.last();
    }

    pub(crate) fn documents(&mut self, scope: Scope) -> &mut Branch {
        let (bucket, replica, history) = (self.bucket.0, self.record.replica, self.history);
        self.branches
            .entry(scope)
            .or_insert_with(|| Branch::new(bucket, scope, replica, history))
    }

    /// Changes documents and rows in a transaction. Where that or its commit fails, what the store has is
    /// read again: at once, or before the next change.
    fn change<R>(
        &mut self,
        mut txn: Box<dyn WriteTxn>,
        change: impl FnOnce(&mut Self, &mut dyn WriteTxn) -> Result<R>,
    ) -> Result<R> {
        self.refresh(&*txn)?;
        let (record, scopes) = (self.record.clone(), self.scopes.clone());
        let wanted = self.wanted.clone();
        let changed = change(self, &mut *txn)
            .and_then(|changed| {
                self.keep(&mut *txn, &scopes, &wanted)?;
                Ok(changed)
            })
            .and_then(|changed| txn.commit().map(|()| changed));
        if changed.is_err() {
            (self.record, self.scopes, self.wanted) = (record, scopes, wanted);
            self.reread();
        }
        changed
    }

    /// Reads again what the store has.
    fn reread(&mut self) {
        self.is_stale = true;
        self.forget();
        // Where that fails, it is read before the next change.
        if let Ok(txn) = self.store.read() {
            let _ = self.refresh(&*txn);
        }
    }

    /// Keeps what changed in memory.
    fn keep(
        &mut self,
        txn: &mut dyn WriteTxn,
        scopes: &BTreeMap<Scope, Shown>,
        wanted: &BTreeSet<(Scope, VersionVector)>,
    ) -> Result<()> {
        self.thin(txn)?;
        let scope = scope_of(self.bucket);
        kept::set(txn, &scope, RECORD, &self.record)?;
        if self.scopes != *scopes {
            kept::set(txn, &scope, SCOPES, &self.scopes)?;
            self.note_names(txn)?;
        }
        if self.wanted != *wanted {
            kept::set(txn, &scope, WANTED, &self.wanted)?;
        }
        Ok(())
    }

    /// Reads what the store has, where memory may have something else.
    fn refresh(&mut self, txn: &dyn ReadTxn) -> Result<()> {
        if !self.is_stale {
            return Ok(());
        }
        let scope = scope_of(self.bucket);
        let record = kept::get(txn, &scope, RECORD)?;
        let scopes = kept::get(txn, &scope, SCOPES)?;
        let wanted = kept::get(txn, &scope, WANTED)?;
        self.record = record.unwrap_or_else(|| Record::first(self.record.replica));
        self.scopes = scopes.unwrap_or_default();
        self.wanted = wanted.unwrap_or_default();
        self.is_stale = false;
        self.forget();
        Ok(())
    }

    /// Leaves out of the documents what nothing needs any more.
    fn thin(&mut self, txn: &mut dyn WriteTxn) -> Result<()> {
        let thick = self.branches.iter();
        let thick = thick.filter(|(_, branch)| !branch.thick.is_empty());
        let thick: Vec<_> = thick.map(|(scope, _)| *scope).collect();
        if thick.is_empty() {
            return Ok(());
        }
        let moments = self.moments_by_scope(txn)?;
        let none = BTreeSet::new();
        for scope in thick {
            let moments = moments.get(&scope).unwrap_or(&none);
            self.documents(scope).thin(txn, moments)?;
        }
        Ok(())
    }

    /// Returns the moments that snapshots and forks show, by the branches that they are of.
    fn moments_by_scope(
        &self,
        txn: &dyn ReadTxn,
    ) -> Result<BTreeMap<Scope, BTreeSet<VersionVector>>> {
        let mut moments = Vec::new();
        for branch in self.branches.values() {
            for about in branch.about(txn)? {
                moments.extend(about.state.parent.and_then(|parent| parent.at));
            }
            for about in branch.snapshots(txn)?.into_values().flatten() {
                if let AboutSnapshot::Taken { at, .. } = about.state {
                    moments.push(at);
                }
            }
        }
        let mut by_scope: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (scope, vector) in moments.iter().flat_map(Moment::cuts) {
            by_scope.entry(scope).or_default().insert(vector.clone());
        }
        Ok(by_scope)
    }

    fn forget(&mut self) {
        let (bucket, replica, history) = (self.bucket.0, self.record.replica, self.history);
        // Of a scope that the store has nothing of, the documents say so.
        let scopes: BTreeSet<_> = self.scopes.keys().chain(self.branches.keys()).collect();
        self.branches = scopes
            .into_iter()
            .map(|scope| (*scope, Branch::new(bucket, *scope, replica, history)))
            .collect();
    }
}

impl Replica for Bucket {
    fn vectors(&self) -> Result<BTreeMap<Scope, VersionVector>> {
        let txn = self.read()?;
        let mut vectors = BTreeMap::new();
        for (scope, branch) in &self.branches {
            let vector = branch.vector(&*txn)?;
            if !vector.is_empty() {
                vectors.insert(*scope, vector);
            }
        }
        Ok(vectors)
    }

    fn vector(&self, scope: Scope) -> Result<VersionVector> {
        match self.branches.get(&scope) {
            Some(branch) => branch.vector(&*self.read()?),
            None => Ok(VersionVector::new()),
        }
    }

    fn cuts_after(&self, scope: Scope, seen: &VersionVector, bytes: usize) -> Result<Vec<Cut>> {
        match self.branches.get(&scope) {
            Some(branch) => branch.cuts_after(&*self.read()?, seen, bytes),
            None => Ok(Vec::new()),
        }
    }

    fn apply(&mut self, scope: Scope, cuts: &[Cut]) -> Result<()> {
        let now = self.now;
        let seen = self.gather_apart(now)?;
        let txn = self.write(Durability::Full)?;
        self.change(txn, |this, txn| {
            this.gather_in(txn, now, seen)?;
            let author = cuts.last().map_or(this.replica(), |cut| cut.replica);
            this.bring_in(txn, scope, author, &mut |branch, txn, chain, clock| {
                branch.apply(txn, chain, cuts, clock, now)
            })
        })
    }

    fn floor(&self, scope: Scope) -> Result<VersionVector> {
        match self.branches.get(&scope) {
            Some(branch) => branch.floor(&*self.read()?),
            None => Ok(VersionVector::new()),
        }
    }

    fn first_page(&self, scope: Scope) -> Result<Vec<u8>> {
        match self.branches.get(&scope) {
            Some(branch) => branch.first_page(&*self.read()?),
            None => Ok(Vec::new()),
        }
    }

    fn page(
        &self,
        scope: Scope,
        what: &Want,
        seen: &VersionVector,
        bytes: usize,
    ) -> Result<Option<Page>> {
        match self.branches.get(&scope) {
            Some(branch) => branch.page(&*self.read()?, what, seen, bytes),
            None => Ok(None),
        }
    }

    fn take_page(&mut self, scope: Scope, page: &Page) -> Result<Taken> {
        let now = self.now;
        // What is lost of the pages is asked for again.
        let durability = match page.next {
            Some(_) => Durability::Relaxed,
            None => Durability::Full,
        };
        // Only the last brings anything into the documents.
        let seen = match page.next {
            Some(_) => None,
            None => self.gather_apart(now)?,
        };
        let mut txn = self.write(durability)?;
        if let Some(taken) = self.documents(scope).keep_page(&mut *txn, page, now)? {
            txn.commit()?;
            return Ok(taken);
        }
        self.change(txn, |this, txn| {
            this.gather_in(txn, now, seen)?;
            let moments = this.moments_by_scope(txn)?.remove(&scope);
            let (moments, author) = (moments.unwrap_or_default(), this.replica());
            this.bring_in(txn, scope, author, &mut |branch, txn, chain, clock| {
                branch.absorb(txn, chain, &moments, clock, now)
            })
        })?;
        Ok(Taken::All)
    }

    fn wanted(&self) -> Vec<(Scope, VersionVector)> {
        self.wanted.iter().cloned().collect()
    }
}

/// Changes the documents of a branch, and what the branch shows.
type BringIn<'a> = &'a mut dyn FnMut(
    &mut Branch,
    &mut dyn WriteTxn,
    Option<&Chain>,
    &mut Clock,
) -> Result<Applied>;

impl Bucket {
    /// Brings in what others wrote.
    fn bring_in(
        &mut self,
        txn: &mut dyn WriteTxn,
        scope: Scope,
        author: ReplicaId,
        bring_in: BringIn<'_>,
    ) -> Result<()> {
        let context = context(self.now, author);
        let shown = self.scopes.entry(scope).or_default().branch;
        let chain = shown.map(|id| Chain::load(txn, id, None)).transpose()?;
        let mut clock = self.clock();
        let applied = bring_in(self.documents(scope), txn, chain.as_ref(), &mut clock)?;
        self.set_clock(&clock);
        self.news.insert(scope);
        if let Some(chain) = &chain {
            match applied.changes {
                Some(changes) => {
                    let writer = |change: &Change| {
                        let path = change.path.as_ref();
                        let writer = path.and_then(|path| applied.writers.get(path));
                        writer.map_or(author, |stamp| stamp.replica)
                    };
                    for changes in changes.chunk_by(|a, b| writer(a) == writer(b)) {
                        let context = self::context(self.now, writer(&changes[0]));
                        self.publish(txn, chain.branch_name(), changes.to_vec(), &context)?;
                    }
                }
                None => self.show_anew(txn, scope, chain.branch(), chain.base(), &context)?,
            }
        }
        if applied.about || chain.is_none() || self.record.unsettled {
            self.record.unsettled = !self.settle(txn, &context)?;
        }
        // The documents have it already.
        self.gathered_all(txn)
    }

    pub(crate) fn publish(
        &self,
        txn: &mut dyn WriteTxn,
        branch: &str,
        changes: Vec<Change>,
        context: &Context,
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let commit = Commit {
            at: context.now,
            author: context.author.clone(),
            branch: branch.to_owned(),
            session: None,
            changes,
        };
        txn.publish(self.bucket, &commit).map(drop)
    }
}

const DELETED: &str = "the bucket was deleted here";

/// Says that the bucket is gone.
pub fn deleted() -> Error {
    Error::with_detail(ErrorKind::NotFound, DELETED)
}

/// Tells whether an error [says so](deleted).
pub fn is_deleted(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound && error.detail().ends_with(DELETED)
}

pub(crate) fn context(now: Timestamp, author: ReplicaId) -> Context {
    Context {
        now,
        author: author.to_string(),
        uid: 0,
        gid: 0,
    }
}

fn scope_of(bucket: BucketId) -> String {
    format!("sync/{bucket}")
}
