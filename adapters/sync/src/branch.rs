//! The documents of one branch, in a store.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{ReadTxn, WriteTxn};
use alknet_fs_core::sync::{
    Clock, Cut, MAX_FRAME, Registers, ReplicaId, Scope, Value, VersionVector, affected, outgoing,
    project, show,
};
use alknet_fs_core::{Change, Error, ErrorKind, Result, Timestamp, TreePath};
use serde::{Deserialize, Serialize};

use crate::document::{Document, shard};
use crate::kept;

/// How many bytes of changes lie beside a document before they are saved into it.
const CHANGES_MAX: usize = 16 << 10;

/// How many bytes of paths and values go into one cut. What automerge adds to them is less than what
/// is left of a frame.
const CUT_MAX: usize = MAX_FRAME / 4;

/// The changes of a cut: the number of each document with the change of it.
type Changes = Vec<(u8, Vec<u8>)>;

/// Where the documents and cuts of one branch are kept: small values under names of their own.
struct Place {
    scope: String,
    replica: ReplicaId,
}

/// The documents that were used, by their numbers.
type Documents = HashMap<u8, Option<Document>>;

/// What the store counts of a branch's cuts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Log {
    vector: VersionVector,
    /// How many cuts were applied; each is kept under its number.
    applied: u64,
}

impl Place {
    fn log(&self, txn: &dyn ReadTxn) -> Result<Log> {
        Ok(kept::get(txn, &self.scope, "log")?.unwrap_or_default())
    }

    /// Returns one of the documents in memory, which is read where it is not there yet; nothing for
    /// one that nobody wrote to.
    fn open<'d>(
        &self,
        txn: &dyn ReadTxn,
        documents: &'d mut Documents,
        number: u8,
    ) -> Result<&'d mut Option<Document>> {
        Ok(match documents.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.load(txn, number)?),
        })
    }

    fn load(&self, txn: &dyn ReadTxn, number: u8) -> Result<Option<Document>> {
        let saved = txn.value(&self.scope, &format!("document/{number:02x}"))?;
        let changes = txn.value(&self.scope, &format!("changes/{number:02x}"))?;
        let bytes = [saved, changes].into_iter().flatten().collect::<Vec<_>>();
        match bytes.is_empty() {
            true => Ok(None),
            false => Document::load(&bytes.concat(), self.replica).map(Some),
        }
    }

    fn save(
        &self,
        txn: &mut dyn WriteTxn,
        number: u8,
        document: &Document,
        change: &[u8],
    ) -> Result<()> {
        let name = format!("changes/{number:02x}");
        let mut changes = txn.value(&self.scope, &name)?.unwrap_or_default();
        if changes.len() + change.len() <= CHANGES_MAX {
            changes.extend_from_slice(change);
            return txn.set_value(&self.scope, &name, Some(&changes));
        }
        let saved = document.save();
        txn.set_value(&self.scope, &name, None)?;
        txn.set_value(&self.scope, &format!("document/{number:02x}"), Some(&saved))
    }
}

/// The registers of a branch, read from its documents as they are asked for.
struct Open<'a> {
    txn: &'a dyn ReadTxn,
    place: &'a Place,
    documents: &'a RefCell<Documents>,
}

impl Open<'_> {
    fn with<R>(&self, dir: &str, read: impl FnOnce(Option<&Document>) -> Result<R>) -> Result<R> {
        let mut documents = self.documents.borrow_mut();
        let document = self.place.open(self.txn, &mut documents, shard(dir))?;
        read(document.as_ref())
    }
}

impl Registers for Open<'_> {
    fn values(&self, path: &TreePath) -> Result<Vec<Value>> {
        self.with(path.parent_str(), |document| {
            document.map_or(Ok(Vec::new()), |document| document.values(path))
        })
    }

    fn names(&self, dir: &TreePath) -> Result<Vec<Box<str>>> {
        self.with(dir.as_str(), |document| {
            Ok(document.map_or_else(Vec::new, |document| document.names(dir)))
        })
    }
}

/// The documents of one branch, those that were used kept in memory.
///
/// Whoever uses it is the only one that changes these documents.
pub struct Branch {
    place: Place,
    documents: RefCell<Documents>,
}

impl Branch {
    /// Opens the documents of a branch of the bucket that a store knows by a number.
    pub fn new(bucket: u32, scope: Scope, replica: ReplicaId) -> Self {
        Self {
            place: Place {
                scope: format!("sync/{bucket}/{scope}"),
                replica,
            },
            documents: RefCell::default(),
        }
    }

    /// Forgets what was read, as after a transaction that was not committed.
    pub fn forget(&mut self) {
        self.documents.get_mut().clear();
    }

    /// Returns which cuts were applied.
    ///
    /// # Errors
    /// Those of the store.
    pub fn vector(&self, txn: &dyn ReadTxn) -> Result<VersionVector> {
        Ok(self.place.log(txn)?.vector)
    }

    /// Returns cuts that a vector does not cover, in the order in which they were applied: as many as
    /// a number of bytes allows, but one at least where there is one.
    ///
    /// # Errors
    /// Those of the store.
    pub fn cuts_after(
        &self,
        txn: &dyn ReadTxn,
        seen: &VersionVector,
        bytes: usize,
    ) -> Result<Vec<Cut>> {
        let log = self.place.log(txn)?;
        let missing = log.vector.iter();
        let missing = missing.map(|(replica, cut)| cut.saturating_sub(seen.get(replica)));
        let mut missing: u64 = missing.sum();
        // The newest are those that others miss.
        let mut first = log.applied;
        while missing > 0 && first > 0 {
            let cut = self.cut(txn, first)?;
            missing -= u64::from(cut.number > seen.get(cut.replica));
            first -= 1;
        }
        let mut cuts = Vec::new();
        let mut size = 0;
        for number in first + 1..=log.applied {
            let cut = self.cut(txn, number)?;
            if cut.number <= seen.get(cut.replica) {
                continue;
            }
            size += cut.changes.len();
            if size > bytes && !cuts.is_empty() {
                break;
            }
            cuts.push(cut);
        }
        Ok(cuts)
    }

    fn cut(&self, txn: &dyn ReadTxn, number: u64) -> Result<Cut> {
        let cut = kept::get(txn, &self.place.scope, &format!("cut/{number:016x}"))?;
        cut.ok_or_else(|| Error::with_detail(ErrorKind::Corrupt, "a cut is missing"))
    }

    /// Brings into the documents what was committed in the branch: all that `changes` speak of, as it
    /// is now. Returns how many cuts that made; what is too long for one goes into several.
    ///
    /// # Errors
    /// Those of the store; then the transaction is to be dropped, and [`forget`](Self::forget) called.
    pub fn gather(
        &mut self,
        txn: &mut dyn WriteTxn,
        chain: &Chain,
        changes: &[Change],
        clock: &mut Clock,
        now: Timestamp,
    ) -> Result<usize> {
        let new = outgoing(txn, chain, &self.registers(txn), changes, clock, now)?;
        let mut cuts = 0;
        let mut values: BTreeMap<u8, Vec<(TreePath, Value)>> = BTreeMap::new();
        let mut bytes = 0;
        // A directory comes before what is in it.
        for (path, value) in new {
            let more = path.as_str().len() + value.encode().len();
            if bytes + more > CUT_MAX {
                self.add_cut(txn, std::mem::take(&mut values))?;
                (cuts, bytes) = (cuts + 1, 0);
            }
            bytes += more;
            let number = shard(path.parent_str());
            values.entry(number).or_default().push((path, value));
        }
        if !values.is_empty() {
            self.add_cut(txn, values)?;
            cuts += 1;
        }
        Ok(cuts)
    }

    fn add_cut(
        &mut self,
        txn: &mut dyn WriteTxn,
        values: BTreeMap<u8, Vec<(TreePath, Value)>>,
    ) -> Result<()> {
        let mut changes = Changes::with_capacity(values.len());
        for (number, values) in values {
            let document = self.document(txn, number)?;
            let change = document.put(&values)?;
            self.save(txn, number, &change)?;
            changes.push((number, change));
        }
        let replica = self.place.replica;
        let mut log = self.place.log(txn)?;
        let others = log.vector.iter().filter(|(id, _)| *id != replica);
        let cut = Cut {
            replica,
            number: log.vector.get(replica) + 1,
            seen: others.collect(),
            changes: kept::encode(&changes),
        };
        self.keep(txn, &mut log, &cut)
    }

    /// Applies cuts of others, each the next of its replica, and makes the branch show what the
    /// registers say then. Returns what changed in it. What was committed here must have been
    /// [gathered](Self::gather).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where a cut is not what it should be, and those of the store; then the
    /// transaction is to be dropped, and [`forget`](Self::forget) called.
    pub fn apply(
        &mut self,
        txn: &mut dyn WriteTxn,
        chain: &Chain,
        cuts: &[Cut],
        clock: &mut Clock,
        now: Timestamp,
    ) -> Result<Vec<Change>> {
        let mut log = self.place.log(txn)?;
        let mut written = BTreeSet::new();
        for cut in cuts {
            let (changes, rest) = postcard::take_from_bytes::<Changes>(&cut.changes)
                .map_err(|_| Error::with_detail(ErrorKind::Corrupt, "a cut does not decode"))?;
            if !rest.is_empty() || !changes.is_sorted_by(|(a, _), (b, _)| a < b) {
                let why = "a cut's changes are out of order";
                return Err(Error::with_detail(ErrorKind::Corrupt, why));
            }
            for (number, change) in changes {
                let document = self.document(txn, number)?;
                for (path, value) in document.apply(&change, cut.replica, number)? {
                    clock.see(value.stamp);
                    written.insert(path);
                }
                self.save(txn, number, &change)?;
            }
            self.keep(txn, &mut log, cut)?;
        }
        let mut rows = BTreeMap::new();
        let registers = self.registers(txn);
        for path in affected(&registers, &written)? {
            if let Some(projected) = project(&registers, &path)? {
                rows.insert(path, projected.row);
            }
        }
        show(txn, chain, rows, now)
    }

    fn keep(&self, txn: &mut dyn WriteTxn, log: &mut Log, cut: &Cut) -> Result<()> {
        log.vector.see(cut.replica, cut.number);
        log.applied += 1;
        let name = format!("cut/{:016x}", log.applied);
        kept::set(txn, &self.place.scope, &name, cut)?;
        kept::set(txn, &self.place.scope, "log", log)
    }

    fn registers<'a>(&'a self, txn: &'a dyn ReadTxn) -> Open<'a> {
        Open {
            txn,
            place: &self.place,
            documents: &self.documents,
        }
    }

    fn document(&mut self, txn: &dyn ReadTxn, number: u8) -> Result<&mut Document> {
        let document = self.place.open(txn, self.documents.get_mut(), number)?;
        Ok(document.get_or_insert_with(|| Document::new(self.place.replica)))
    }

    fn save(&mut self, txn: &mut dyn WriteTxn, number: u8, change: &[u8]) -> Result<()> {
        let documents = self.documents.borrow();
        match documents.get(&number).and_then(Option::as_ref) {
            Some(document) => self.place.save(txn, number, document, change),
            None => Ok(()),
        }
    }
}
