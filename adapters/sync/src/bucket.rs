//! A bucket that takes part in synchronisation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{BranchId, BucketId, Durability, Epoch, Store, WriteTxn};
use alknet_fs_core::sync::{Clock, Cut, Replica, ReplicaId, Scope, VersionVector};
use alknet_fs_core::{
    Change, Commit, Cursor, Error, ErrorKind, Event, Op, Result, Timestamp, TreePath,
};
use serde::{Deserialize, Serialize};

use crate::branch::Branch;
use crate::kept;

/// How many log records are read at a time.
const RECORDS: usize = 256;

/// What is kept of a bucket besides its documents.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    replica: ReplicaId,
    /// The greatest time of a stamp that was given out or seen.
    clock: u64,
    /// All commits up to here are in the documents.
    gathered: Cursor,
    /// The branches that take part.
    scopes: BTreeMap<Scope, BranchId>,
}

const RECORD: &str = "bucket";

/// The documents of a bucket's branches, and the rows that they stand for.
///
/// One process at a time may hold it; the others go on using the store, and what they commit is
/// [gathered](Self::gather).
pub struct Bucket {
    store: Arc<dyn Store>,
    bucket: BucketId,
    record: Record,
    branches: BTreeMap<Scope, Branch>,
    /// The time that commits get which bring in what others wrote.
    now: Timestamp,
    /// The scopes that may have cuts which nobody was told of.
    news: BTreeSet<Scope>,
}

impl Bucket {
    /// Opens a bucket of a store. One that takes part for the first time does so as `replica`, whose
    /// id nobody else has; later the id is the one it had first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: Arc<dyn Store>, bucket: BucketId, replica: ReplicaId) -> Result<Self> {
        let record = kept::get(&*store.read()?, &scope_of(bucket), RECORD)?;
        let record = record.unwrap_or(Record {
            replica,
            clock: 0,
            gathered: Cursor::START,
            scopes: BTreeMap::new(),
        });
        let mut opened = Self {
            store,
            bucket,
            branches: BTreeMap::new(),
            record,
            now: Timestamp(0),
            news: BTreeSet::new(),
        };
        opened.forget();
        Ok(opened)
    }

    /// Returns the replica that this is.
    pub fn replica(&self) -> ReplicaId {
        self.record.replica
    }

    /// Lets a branch take part, with all that it holds.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where the scope is another branch's; those of the store.
    pub fn add_branch(&mut self, scope: Scope, branch: BranchId, now: Timestamp) -> Result<()> {
        let store = Arc::clone(&self.store);
        let mut txn = store.write(Durability::Full)?;
        self.change(&mut *txn, |this, txn| {
            this.gather_in(txn, now)?;
            match this.record.scopes.insert(scope, branch) {
                Some(other) if other != branch => {
                    let why = "the scope is that of another branch";
                    return Err(Error::with_detail(ErrorKind::AlreadyExists, why).path(scope));
                }
                Some(_) => return Ok(()),
                None => {}
            }
            let chain = Chain::load(txn, branch, None)?;
            // As if all of it had been made just now.
            let mut changes = Vec::new();
            let epochs = chain.spans()[0].first..=Epoch::MAX;
            let root = TreePath::root();
            txn.paths_of(this.bucket, branch, epochs, &root, &mut |parent, name| {
                let path = TreePath::from_stored(parent, name);
                changes.push(Change {
                    path: Some(path),
                    ..Change::new(Op::Create)
                });
                Ok(())
            })?;
            let mut documents = Branch::new(this.bucket.0, scope, this.record.replica);
            let mut clock = this.clock();
            documents.gather(txn, &chain, &changes, &mut clock, now)?;
            this.record.clock = clock.last();
            this.branches.insert(scope, documents);
            this.news.insert(scope);
            this.save(txn)
        })?;
        txn.commit()
    }

    /// Returns the branches that take part, by their scopes.
    pub fn scopes(&self) -> impl Iterator<Item = (Scope, BranchId)> + '_ {
        let scopes = self.record.scopes.iter();
        scopes.map(|(scope, branch)| (*scope, *branch))
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

    /// Brings what any process committed since into the documents. Returns the scopes that have a
    /// new cut.
    ///
    /// # Errors
    /// Those of the store.
    pub fn gather(&mut self, now: Timestamp) -> Result<Vec<Scope>> {
        if self.store.read()?.last_cursor()? == self.record.gathered {
            return Ok(Vec::new());
        }
        let store = Arc::clone(&self.store);
        let mut txn = store.write(Durability::Full)?;
        let scopes = self.change(&mut *txn, |this, txn| {
            let scopes = this.gather_in(txn, now)?;
            this.save(txn)?;
            Ok(scopes)
        })?;
        txn.commit()?;
        Ok(scopes)
    }

    fn gather_in(&mut self, txn: &mut dyn WriteTxn, now: Timestamp) -> Result<Vec<Scope>> {
        let mut events = Vec::new();
        loop {
            let more = txn.events(Some(self.bucket), self.record.gathered, RECORDS)?;
            let Some(last) = more.last() else {
                break;
            };
            self.record.gathered = last.cursor;
            events.extend(more);
        }
        self.record.gathered = txn.last_cursor()?.max(self.record.gathered);
        let mut changes = by_branch(events);
        let mut scopes = Vec::new();
        let mut clock = self.clock();
        for (scope, branch) in &self.record.scopes {
            let chain = Chain::load(txn, *branch, None)?;
            let (Some(changes), Some(documents)) = (
                changes.remove(chain.branch_name()),
                self.branches.get_mut(scope),
            ) else {
                continue;
            };
            if documents.gather(txn, &chain, &changes, &mut clock, now)? > 0 {
                scopes.push(*scope);
                self.news.insert(*scope);
            }
        }
        self.record.clock = clock.last();
        Ok(scopes)
    }

    fn clock(&self) -> Clock {
        Clock::new(self.record.replica, self.record.clock)
    }

    fn save(&self, txn: &mut dyn WriteTxn) -> Result<()> {
        kept::set(txn, &scope_of(self.bucket), RECORD, &self.record)
    }

    /// Changes documents and rows in a transaction. Where that fails, all is as it was.
    fn change<R>(
        &mut self,
        txn: &mut dyn WriteTxn,
        change: impl FnOnce(&mut Self, &mut dyn WriteTxn) -> Result<R>,
    ) -> Result<R> {
        let before = self.record.clone();
        let changed = change(self, txn);
        if changed.is_err() {
            self.record = before;
            self.forget();
        }
        changed
    }

    fn forget(&mut self) {
        let (bucket, replica) = (self.bucket.0, self.record.replica);
        let scopes = self.record.scopes.keys();
        self.branches = scopes
            .map(|scope| (*scope, Branch::new(bucket, *scope, replica)))
            .collect();
    }
}

impl Replica for Bucket {
    fn vectors(&self) -> Result<BTreeMap<Scope, VersionVector>> {
        let txn = self.store.read()?;
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
            Some(branch) => branch.vector(&*self.store.read()?),
            None => Ok(VersionVector::new()),
        }
    }

    fn cuts_after(&self, scope: Scope, seen: &VersionVector, bytes: usize) -> Result<Vec<Cut>> {
        match self.branches.get(&scope) {
            Some(branch) => branch.cuts_after(&*self.store.read()?, seen, bytes),
            None => Ok(Vec::new()),
        }
    }

    fn apply(&mut self, scope: Scope, cuts: &[Cut]) -> Result<()> {
        let Some(branch) = self.record.scopes.get(&scope).copied() else {
            let why = "the peer sent changes of a branch that is not known here";
            return Err(Error::with_detail(ErrorKind::NotFound, why).path(scope));
        };
        let now = self.now;
        let store = Arc::clone(&self.store);
        let mut txn = store.write(Durability::Full)?;
        self.change(&mut *txn, |this, txn| {
            this.gather_in(txn, now)?;
            let chain = Chain::load(txn, branch, None)?;
            let mut clock = this.clock();
            let Some(documents) = this.branches.get_mut(&scope) else {
                return Ok(());
            };
            let changes = documents.apply(txn, &chain, cuts, &mut clock, now)?;
            this.news.insert(scope);
            this.record.clock = clock.last();
            if !changes.is_empty() {
                let commit = Commit {
                    at: now,
                    author: cuts
                        .last()
                        .map_or_else(String::new, |c| c.replica.to_string()),
                    branch: chain.branch_name().to_owned(),
                    session: None,
                    changes,
                };
                // The documents have it already.
                this.record.gathered = txn.publish(this.bucket, &commit)?;
            }
            this.save(txn)
        })?;
        txn.commit()
    }
}

fn scope_of(bucket: BucketId) -> String {
    format!("sync/{bucket}")
}

/// Returns the changes of each branch, by the name that it has after all of them.
fn by_branch(events: Vec<Event>) -> HashMap<String, Vec<Change>> {
    let mut names: HashMap<String, String> = HashMap::new();
    let mut changes: HashMap<String, Vec<Change>> = HashMap::new();
    for event in events.into_iter().rev() {
        let name = names.get(&event.branch).unwrap_or(&event.branch).clone();
        if let (Op::RenameBranch, Some(old)) = (event.change.op, &event.change.name) {
            names.insert(old.clone(), name);
            // What had the new name before was another branch.
            names.insert(event.branch, String::new());
            continue;
        }
        changes.entry(name).or_default().push(event.change);
    }
    changes
}
