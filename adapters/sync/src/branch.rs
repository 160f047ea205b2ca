//! The documents of one branch, in a store.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{ReadTxn, Row, WriteTxn};
use alknet_fs_core::sync::{
    About, AboutBranch, AboutSnapshot, AboutState, Clock, Conflict, Cut, Key, MAX_FRAME, Projected,
    Registers, ReplicaId, Scope, Value, VersionVector, affected, forget_settled, note_conflicts,
    outgoing, project, settle, show,
};
use alknet_fs_core::{Change, Error, ErrorKind, Result, Timestamp, TreePath};
use automerge::ChangeHash;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::document::{ABOUT, Document, SHARDS, hash_of, keys_of, shard};
use crate::kept;

/// How many bytes of changes lie beside a document at least before it is saved anew with them.
const CHANGES_MIN: u64 = 16 << 10;

/// How many changes lie beside a document at most.
const CHANGES_MAX: u32 = 256;

/// How many bytes of keys and values go into one cut. What automerge adds to them is less than what
/// is left of a frame.
const CUT_MAX: usize = MAX_FRAME / 4;

/// The changes of a cut: the number of each document with the change of it.
type Changes = Vec<(u16, ByteBuf)>;

/// The registers that a cut writes, by the number of their document.
type Written = BTreeMap<u16, Vec<(String, Vec<u8>)>>;

/// The documents that were used, by their numbers.
type Documents = HashMap<u16, Option<Document>>;

/// Where the documents and cuts of one branch are kept: small values under names of their own.
struct Place {
    scope: String,
    replica: ReplicaId,
}

/// How a document is kept: what was saved, and what changed since.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Saved {
    /// The length of what was saved, in bytes.
    document: u64,
    /// How many changes lie beside it.
    changes: u32,
    /// How many bytes these have.
    beside: u64,
}

/// What the store counts of a branch's cuts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Log {
    /// The cuts that are here.
    vector: VersionVector,
    /// How many that are; each is kept under its number.
    kept: u64,
    /// The numbers of those that wait for the rest of what they belong to, by their replica.
    waiting: BTreeMap<ReplicaId, Vec<u64>>,
}

impl Log {
    /// Returns which cuts are in the documents.
    fn applied(&self) -> VersionVector {
        let waiting = |replica| self.waiting.get(&replica).map_or(0, Vec::len) as u64;
        let vector = self.vector.iter();
        vector.map(|(id, cut)| (id, cut - waiting(id))).collect()
    }
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
        number: u16,
    ) -> Result<&'d mut Option<Document>> {
        Ok(match documents.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.load(txn, number)?),
        })
    }

    fn load(&self, txn: &dyn ReadTxn, number: u16) -> Result<Option<Document>> {
        let Saved { changes, .. } = self.saved(txn, number)?;
        let mut bytes = txn
            .value(&self.scope, &document_key(number))?
            .unwrap_or_default();
        for n in 0..changes {
            let change = txn.value(&self.scope, &change_key(number, n))?;
            bytes.extend(change.unwrap_or_default());
        }
        match bytes.is_empty() {
            true => Ok(None),
            false => Document::load(&bytes, self.replica).map(Some),
        }
    }

    fn saved(&self, txn: &dyn ReadTxn, number: u16) -> Result<Saved> {
        Ok(kept::get(txn, &self.scope, &saved_key(number))?.unwrap_or_default())
    }

    /// Keeps a change of a document beside it, or all of it anew where those beside it are as long as
    /// the document: so what a change costs does not grow with the document.
    fn save(
        &self,
        txn: &mut dyn WriteTxn,
        number: u16,
        document: &Document,
        change: &[u8],
    ) -> Result<()> {
        let mut saved = self.saved(txn, number)?;
        let beside = saved.beside + change.len() as u64;
        if beside <= CHANGES_MIN.max(saved.document) && saved.changes < CHANGES_MAX {
            txn.set_value(
                &self.scope,
                &change_key(number, saved.changes),
                Some(change),
            )?;
            saved.changes += 1;
            saved.beside = beside;
        } else {
            for n in 0..saved.changes {
                txn.set_value(&self.scope, &change_key(number, n), None)?;
            }
            let bytes = document.save();
            txn.set_value(&self.scope, &document_key(number), Some(&bytes))?;
            saved = Saved {
                document: bytes.len() as u64,
                ..Saved::default()
            };
        }
        kept::set(txn, &self.scope, &saved_key(number), &saved)
    }
}

fn document_key(number: u16) -> String {
    format!("document/{number:03x}")
}

fn change_key(number: u16, n: u32) -> String {
    format!("change/{number:03x}/{n:08x}")
}

fn saved_key(number: u16) -> String {
    format!("saved/{number:03x}")
}

/// The registers of a branch, read from its documents as they are asked for: as they are, or as they
/// were.
struct Open<'a> {
    txn: &'a dyn ReadTxn,
    place: &'a Place,
    documents: &'a RefCell<Documents>,
    /// The heads of the documents that have changed since.
    past: HashMap<u16, Vec<ChangeHash>>,
}

impl Open<'_> {
    fn with<R>(&self, number: u16, read: impl FnOnce(&Document) -> Result<R>) -> Result<Option<R>> {
        let mut documents = self.documents.borrow_mut();
        let document = self.place.open(self.txn, &mut documents, number)?;
        document.as_ref().map(read).transpose()
    }
}

impl Registers for Open<'_> {
    fn values(&self, path: &TreePath) -> Result<Vec<Value>> {
        let number = shard(path.parent_str());
        let at = self.past.get(&number).map(Vec::as_slice);
        let values = self.with(number, |document| document.values(path.as_str(), at))?;
        let values = values.unwrap_or_default();
        values.iter().map(|bytes| Value::decode(bytes)).collect()
    }

    fn names(&self, dir: &TreePath) -> Result<Vec<Box<str>>> {
        // Of one that was not there yet there are no values.
        let names = self.with(shard(dir.as_str()), |document| Ok(document.names(dir)))?;
        Ok(names.unwrap_or_default())
    }
}

/// What bringing commits into the documents came to.
#[derive(Debug, Default)]
pub struct Gathered {
    /// How many cuts that made.
    pub cuts: usize,
    /// What changed in what the branch shows, because of what others had written.
    pub changes: Vec<Change>,
}

/// What cuts did to a branch.
#[derive(Debug)]
pub struct Applied {
    /// What changed in what the branch shows; nothing where it has to be shown anew over its base.
    pub changes: Option<Vec<Change>>,
    /// Whether something was said about the branch itself or its snapshots.
    pub about: bool,
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

    /// Returns which cuts are here.
    ///
    /// # Errors
    /// Those of the store.
    pub fn vector(&self, txn: &dyn ReadTxn) -> Result<VersionVector> {
        Ok(self.place.log(txn)?.vector)
    }

    /// Returns which cuts are here and shown: not those that wait for the rest of their group.
    ///
    /// # Errors
    /// Those of the store.
    pub fn applied(&self, txn: &dyn ReadTxn) -> Result<VersionVector> {
        Ok(self.place.log(txn)?.applied())
    }

    /// Returns cuts that a vector does not cover, in the order in which they came: as many as a number
    /// of bytes allows, but one at least where there is one.
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
        let mut cuts = Vec::new();
        let mut size = 0;
        for number in self.first_after(txn, &log, seen)?..=log.kept {
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

    /// Returns the number of the first cut, in the order in which they came, that may not be covered
    /// by a vector.
    fn first_after(&self, txn: &dyn ReadTxn, log: &Log, seen: &VersionVector) -> Result<u64> {
        let missing = log.vector.iter();
        let missing = missing.map(|(replica, cut)| cut.saturating_sub(seen.get(replica)));
        let mut missing: u64 = missing.sum();
        // The newest are those that others miss.
        let mut first = log.kept + 1;
        while missing > 0 && first > 1 {
            first -= 1;
            let cut = self.cut(txn, first)?;
            missing -= u64::from(cut.number > seen.get(cut.replica));
        }
        Ok(first)
    }

    fn cut(&self, txn: &dyn ReadTxn, number: u64) -> Result<Cut> {
        let cut = kept::get(txn, &self.place.scope, &format!("cut/{number:016x}"))?;
        cut.ok_or_else(|| Error::with_detail(ErrorKind::Corrupt, "a cut is missing"))
    }

    /// Brings into the documents what was committed in the branch: all that `changes` speak of, as the
    /// chain shows it. What is too long for one goes into several,
    /// which others show together if they are `grouped`.
    ///
    /// # Errors
    /// Those of the store; then the transaction is to be dropped, and [`forget`](Self::forget) called.
    pub fn gather(
        &mut self,
        txn: &mut dyn WriteTxn,
        chain: &Chain,
        changes: &[Change],
        grouped: bool,
        clock: &mut Clock,
        now: Timestamp,
    ) -> Result<Gathered> {
        let mut new = outgoing(txn, chain, &self.registers(txn), changes, clock, now)?;
        let fallen = settle(txn, chain, changes, &mut new, clock, now)?;
        forget_settled(txn, chain.branch(), &new)?;
        let mut cuts = 0;
        let mut written = Written::new();
        let mut bytes = 0;
        // A directory comes before what is in it.
        for (path, value) in new {
            let value = value.encode();
            let more = path.as_str().len() + value.len();
            if bytes + more > CUT_MAX {
                self.add_cut(txn, std::mem::take(&mut written), grouped)?;
                (cuts, bytes) = (cuts + 1, 0);
            }
            bytes += more;
            let number = shard(path.parent_str());
            written
                .entry(number)
                .or_default()
                .push((path.to_string(), value));
        }
        if !written.is_empty() {
            self.add_cut(txn, written, false)?;
            cuts += 1;
        }
        let changes = self.show(txn, chain, fallen, now)?.unwrap_or_default();
        Ok(Gathered { cuts, changes })
    }

    /// Says something about the branch or its snapshots.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn tell(&mut self, txn: &mut dyn WriteTxn, about: Vec<(Key, Vec<u8>)>) -> Result<()> {
        let about = about.into_iter().map(|(key, value)| (key.as_text(), value));
        self.add_cut(txn, Written::from([(ABOUT, about.collect())]), false)
    }

    /// Returns what is said about the branch, what counts first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn about(&self, txn: &dyn ReadTxn) -> Result<Vec<About<AboutBranch>>> {
        self.resolved(txn, &Key::Branch)
    }

    /// Returns what is said about each snapshot of which anything ever was, what counts first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn snapshots(
        &self,
        txn: &dyn ReadTxn,
    ) -> Result<BTreeMap<String, Vec<About<AboutSnapshot>>>> {
        let keys = self.registers(txn).with(ABOUT, |document| {
            document
                .keys()
                .map(|key| Key::parse(&key))
                .collect::<Result<Vec<_>>>()
        })?;
        let mut snapshots = BTreeMap::new();
        for key in keys.unwrap_or_default() {
            if let Key::Snapshot(name) = &key {
                snapshots.insert(name.clone(), self.resolved(txn, &key)?);
            }
        }
        Ok(snapshots)
    }

    fn resolved<T: AboutState>(&self, txn: &dyn ReadTxn, key: &Key) -> Result<Vec<About<T>>> {
        let open = self.registers(txn);
        let values = open.with(ABOUT, |document| document.values(&key.as_text(), None))?;
        let values = values.unwrap_or_default();
        let values = values.iter().map(|bytes| About::decode(bytes));
        Ok(About::resolve(values.collect::<Result<_>>()?))
    }

    fn add_cut(&mut self, txn: &mut dyn WriteTxn, written: Written, more: bool) -> Result<()> {
        let mut changes = Changes::with_capacity(written.len());
        for (number, values) in written {
            let change = self.document(txn, number)?.put(values)?;
            self.save(txn, number, &change)?;
            changes.push((number, ByteBuf::from(change)));
        }
        let replica = self.place.replica;
        let mut log = self.place.log(txn)?;
        let others = log.applied();
        let others = others.iter().filter(|(id, _)| *id != replica);
        let cut = Cut {
            replica,
            number: log.vector.get(replica) + 1,
            seen: others.collect(),
            more,
            changes: kept::encode(&changes),
        };
        self.keep(txn, &mut log, &cut)
    }

    /// Applies cuts of others, each the next of its replica, and makes the branch show what the
    /// registers say then, if there is one here. What was committed here must have been
    /// [gathered](Self::gather).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where a cut is not what it should be, and those of the store; then the
    /// transaction is to be dropped, and [`forget`](Self::forget) called.
    pub fn apply(
        &mut self,
        txn: &mut dyn WriteTxn,
        chain: Option<&Chain>,
        cuts: &[Cut],
        clock: &mut Clock,
        now: Timestamp,
    ) -> Result<Applied> {
        let mut log = self.place.log(txn)?;
        let mut written = BTreeSet::new();
        let mut applied = Applied {
            changes: Some(Vec::new()),
            about: false,
        };
        for cut in cuts {
            // Refused now rather than when the last of its group has come.
            let changes = changes_of(cut)?;
            if cut.more {
                let number = log.kept + 1;
                log.waiting.entry(cut.replica).or_default().push(number);
                self.keep(txn, &mut log, cut)?;
                continue;
            }
            for number in log.waiting.remove(&cut.replica).unwrap_or_default() {
                let changes = changes_of(&self.cut(txn, number)?)?;
                applied.about |= self.put(txn, cut.replica, changes, &mut written, clock)?;
            }
            applied.about |= self.put(txn, cut.replica, changes, &mut written, clock)?;
            self.keep(txn, &mut log, cut)?;
        }
        if let Some(chain) = chain {
            let paths = affected(&self.registers(txn), &written)?;
            applied.changes = self.show(txn, chain, paths, now)?;
        }
        Ok(applied)
    }

    fn put(
        &mut self,
        txn: &mut dyn WriteTxn,
        replica: ReplicaId,
        changes: Changes,
        written: &mut BTreeSet<TreePath>,
        clock: &mut Clock,
    ) -> Result<bool> {
        let mut about = false;
        for (number, change) in changes {
            if number > ABOUT {
                let why = "a cut changes a document that no branch has";
                return Err(Error::with_detail(ErrorKind::Corrupt, why));
            }
            let values = self
                .document(txn, number)?
                .apply(&change, replica, number)?;
            self.save(txn, number, &change)?;
            about |= number == ABOUT;
            for (key, value) in values {
                if number == ABOUT {
                    clock.see(Key::parse(&key)?.stamp(&value)?);
                } else {
                    clock.see(Value::decode(&value)?.stamp);
                    written.insert(TreePath::parse(&key)?);
                }
            }
        }
        Ok(about)
    }

    /// Makes a branch that holds nothing show all that its registers say. Returns what changed in it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn show_all(
        &self,
        txn: &mut dyn WriteTxn,
        chain: &Chain,
        now: Timestamp,
    ) -> Result<Vec<Change>> {
        let paths = self.paths(txn)?;
        let shown = self.show(txn, chain, paths, now)?;
        shown.ok_or_else(|| Error::with_detail(ErrorKind::Corrupt, "a new branch holds something"))
    }

    /// Returns every path of which anything was ever said.
    ///
    /// # Errors
    /// Those of the store.
    pub fn paths(&self, txn: &dyn ReadTxn) -> Result<BTreeSet<TreePath>> {
        let open = self.registers(txn);
        let mut paths = BTreeSet::new();
        for number in 0..SHARDS {
            open.with(number, |document| {
                for key in document.keys() {
                    paths.insert(TreePath::parse(&key)?);
                }
                Ok(())
            })?;
        }
        Ok(paths)
    }

    fn show(
        &self,
        txn: &mut dyn WriteTxn,
        chain: &Chain,
        paths: BTreeSet<TreePath>,
        now: Timestamp,
    ) -> Result<Option<Vec<Change>>> {
        let mut rows = BTreeMap::new();
        let mut conflicts = Vec::new();
        let registers = self.registers(txn);
        for path in paths {
            if let Some(projected) = project(&registers, &path)? {
                conflicts.extend(Conflict::of(&path, &projected));
                rows.insert(path, projected.row);
            }
        }
        note_conflicts(txn, chain.branch(), rows.keys(), &conflicts)?;
        show(txn, chain, rows, now)
    }

    /// Returns the paths that cuts which a vector does not cover may have changed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn paths_after(
        &self,
        txn: &dyn ReadTxn,
        vector: &VersionVector,
    ) -> Result<BTreeSet<TreePath>> {
        let mut paths = BTreeSet::new();
        self.each_change_after(txn, vector, &mut |number, change| {
            if number != ABOUT {
                for key in keys_of(&change, number)? {
                    paths.insert(TreePath::parse(&key)?);
                }
            }
            Ok(())
        })?;
        // A directory may have stood for what was in it.
        let above: Vec<_> = paths.iter().flat_map(TreePath::ancestors).collect();
        paths.extend(above);
        Ok(paths)
    }

    /// Returns what the registers of some paths said when a vector was all that was known: what the
    /// branch itself held there then. A path of which nothing was said, or that it was inherited, is
    /// left out.
    ///
    /// # Errors
    /// Those of the store.
    pub fn rows_at(
        &self,
        txn: &dyn ReadTxn,
        vector: &VersionVector,
        paths: &BTreeSet<TreePath>,
    ) -> Result<BTreeMap<TreePath, Row>> {
        let mut later: HashMap<u16, HashSet<ChangeHash>> = HashMap::new();
        self.each_change_after(txn, vector, &mut |number, change| {
            later.entry(number).or_default().insert(hash_of(&change)?);
            Ok(())
        })?;
        let mut then = self.registers(txn);
        for (number, changes) in later {
            let heads = then.with(number, |document| Ok(document.heads_without(&changes)))?;
            then.past.insert(number, heads.unwrap_or_default());
        }
        let mut rows = BTreeMap::new();
        for path in paths {
            if let Some(Projected { row: Some(row), .. }) = project(&then, path)? {
                rows.insert(path.clone(), row);
            }
        }
        Ok(rows)
    }

    fn each_change_after(
        &self,
        txn: &dyn ReadTxn,
        vector: &VersionVector,
        visit: &mut dyn FnMut(u16, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let log = self.place.log(txn)?;
        let applied = log.applied();
        for number in self.first_after(txn, &log, vector)?..=log.kept {
            let cut = self.cut(txn, number)?;
            if cut.number <= vector.get(cut.replica) || cut.number > applied.get(cut.replica) {
                continue;
            }
            for (number, change) in changes_of(&cut)? {
                visit(number, change.into_vec())?;
            }
        }
        Ok(())
    }

    fn keep(&self, txn: &mut dyn WriteTxn, log: &mut Log, cut: &Cut) -> Result<()> {
        log.vector.see(cut.replica, cut.number);
        log.kept += 1;
        let name = format!("cut/{:016x}", log.kept);
        kept::set(txn, &self.place.scope, &name, cut)?;
        kept::set(txn, &self.place.scope, "log", log)
    }

    fn registers<'a>(&'a self, txn: &'a dyn ReadTxn) -> Open<'a> {
        Open {
            txn,
            place: &self.place,
            documents: &self.documents,
            past: HashMap::new(),
        }
    }

    fn document(&mut self, txn: &dyn ReadTxn, number: u16) -> Result<&mut Document> {
        let document = self.place.open(txn, self.documents.get_mut(), number)?;
        Ok(document.get_or_insert_with(|| Document::new(self.place.replica)))
    }

    fn save(&mut self, txn: &mut dyn WriteTxn, number: u16, change: &[u8]) -> Result<()> {
        let documents = self.documents.borrow();
        match documents.get(&number).and_then(Option::as_ref) {
            Some(document) => self.place.save(txn, number, document, change),
            None => Ok(()),
        }
    }
}

fn changes_of(cut: &Cut) -> Result<Changes> {
    let (changes, rest) = postcard::take_from_bytes::<Changes>(&cut.changes)
        .map_err(|_| Error::with_detail(ErrorKind::Corrupt, "a cut does not decode"))?;
    match rest.is_empty() && changes.is_sorted_by(|(a, _), (b, _)| a < b) {
        true => Ok(changes),
        false => {
            let why = "a cut's changes are out of order";
            Err(Error::with_detail(ErrorKind::Corrupt, why))
        }
    }
}
