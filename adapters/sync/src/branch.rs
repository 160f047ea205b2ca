//! The documents of one branch, in a store.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{ReadTxn, Row, WriteTxn};
use alknet_fs_core::sync::{
    About, AboutBranch, AboutSnapshot, AboutState, Clock, Conflict, Cut, Key, MAX_FRAME, Projected,
    Registers, ReplicaId, Scope, Stamp, Times, Value, VersionVector, affected, forget_settled,
    note_conflicts, outgoing, project, settle, show,
};
use alknet_fs_core::{Change, Error, ErrorKind, Result, Timestamp, TreePath};
use automerge::ChangeHash;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::document::{ABOUT, Document, SHARDS, Share, Values, number_of, shard, stamp_of};
use crate::kept::{self, Draft, Keep, Kept};

/// How much is kept of what was, so that it need not be made anew too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// How many bytes of changes lie beside a document at least before it is saved anew with them.
    pub beside: u64,
    /// How many changes lie beside a document at most.
    pub changes: u32,
    /// How many values that others were put over a document may have besides as many as it has
    /// registers, before those that nothing needs are left out.
    pub values: usize,
    /// How many bytes of cuts are kept for peers that are behind.
    pub cuts: u64,
    /// For how many bytes of cuts each byte of the documents stands, where that is more.
    pub cuts_ratio: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            beside: 16 << 10,
            changes: 256,
            values: 64,
            cuts: 1 << 20,
            cuts_ratio: 4,
        }
    }
}

/// How many bytes of keys and values go into one cut. What automerge adds to them is less than what
/// is left of a frame.
const CUT_MAX: usize = MAX_FRAME / 4;

/// The documents that were used, by their numbers.
type Documents = HashMap<u16, Option<Document>>;

/// Where the documents and cuts of one branch are kept: small values under names of their own.
pub(crate) struct Place {
    pub(crate) scope: String,
    pub(crate) replica: ReplicaId,
    pub(crate) history: History,
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
    /// How many values it had when some were left out.
    thinned: usize,
}

/// What the store counts of a branch's cuts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Log {
    /// The cuts that are known.
    pub(crate) vector: VersionVector,
    /// How many came. Each is kept under its number.
    pub(crate) came: u64,
    /// How many of these are not kept any more.
    pub(crate) dropped: u64,
    /// What has to be known so that those that are kept can follow.
    pub(crate) floor: VersionVector,
    /// How many bytes are kept, and how many may be.
    bytes: u64,
    bytes_max: u64,
    /// The numbers of those that wait for the rest of what they belong to, by their replica.
    pub(crate) waiting: BTreeMap<ReplicaId, Vec<u64>>,
    /// Whether a document left out any values.
    pub(crate) thinned: bool,
    /// Whether the last cut that was written here says that others show it with the next one.
    pub(crate) open: bool,
}

impl Log {
    /// Returns which cuts are in the documents.
    pub(crate) fn applied(&self) -> VersionVector {
        let waiting = |replica| self.waiting.get(&replica).map_or(0, Vec::len) as u64;
        let vector = self.vector.iter();
        vector.map(|(id, cut)| (id, cut - waiting(id))).collect()
    }
}

impl Place {
    pub(crate) fn log(&self, kept: &(impl Kept + ?Sized)) -> Result<Log> {
        Ok(kept::get(kept, &self.scope, "log")?.unwrap_or_default())
    }

    /// Returns one of the documents in memory, which is read where it is not there yet; nothing for
    /// one that nobody wrote to.
    pub(crate) fn open<'d>(
        &self,
        kept: &(impl Kept + ?Sized),
        documents: &'d mut Documents,
        number: u16,
    ) -> Result<&'d mut Option<Document>> {
        Ok(match documents.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.load(kept, number)?),
        })
    }

    pub(crate) fn load(
        &self,
        kept: &(impl Kept + ?Sized),
        number: u16,
    ) -> Result<Option<Document>> {
        let Saved { changes, .. } = self.saved(kept, number)?;
        let mut bytes = kept
            .value(&self.scope, &document_key(number))?
            .unwrap_or_default();
        for n in 0..changes {
            let change = kept.value(&self.scope, &change_key(number, n))?;
            bytes.extend(change.unwrap_or_default());
        }
        match bytes.is_empty() {
            true => Ok(None),
            false => Document::load(&bytes).map(Some),
        }
    }

    fn saved(&self, kept: &(impl Kept + ?Sized), number: u16) -> Result<Saved> {
        Ok(kept::get(kept, &self.scope, &saved_key(number))?.unwrap_or_default())
    }

    /// Keeps a change of a document beside it, or all of it anew where those beside it are as long as
    /// the document: so what a change costs does not grow with the document. Returns whether it has
    /// so many values that some should be left out.
    fn save(
        &self,
        keep: &mut (impl Keep + ?Sized),
        number: u16,
        document: &Document,
        change: &[u8],
    ) -> Result<bool> {
        let mut saved = self.saved(keep, number)?;
        let beside = saved.beside + change.len() as u64;
        let History {
            beside: least,
            changes: most,
            ..
        } = self.history;
        if beside <= least.max(saved.document) && saved.changes < most {
            keep.set_value(
                &self.scope,
                &change_key(number, saved.changes),
                Some(change),
            )?;
            saved.changes += 1;
            saved.beside = beside;
            kept::set(keep, &self.scope, &saved_key(number), &saved)?;
            return Ok(false);
        }
        self.save_anew(keep, number, document, saved.thinned)?;
        let (registers, values) = document.counts();
        Ok(values > 2 * registers.max(saved.thinned) + self.history.values)
    }

    /// Keeps a document, with nothing beside it.
    pub(crate) fn save_anew(
        &self,
        keep: &mut (impl Keep + ?Sized),
        number: u16,
        document: &Document,
        thinned: usize,
    ) -> Result<()> {
        for n in 0..self.saved(keep, number)?.changes {
            keep.set_value(&self.scope, &change_key(number, n), None)?;
        }
        let bytes = document.save();
        keep.set_value(&self.scope, &document_key(number), Some(&bytes))?;
        let saved = Saved {
            document: bytes.len() as u64,
            thinned,
            ..Saved::default()
        };
        kept::set(keep, &self.scope, &saved_key(number), &saved)
    }

    pub(crate) fn cut(&self, kept: &(impl Kept + ?Sized), number: u64) -> Result<Cut> {
        let cut = kept::get(kept, &self.scope, &cut_key(number))?;
        cut.ok_or_else(|| Error::with_detail(ErrorKind::Corrupt, "a cut is missing"))
    }

    fn keep(&self, keep: &mut (impl Keep + ?Sized), log: &mut Log, cut: &Cut) -> Result<()> {
        log.vector.see(cut.replica, cut.number);
        log.came += 1;
        log.bytes += cut.changes.len() as u64;
        kept::set(keep, &self.scope, &cut_key(log.came), cut)?;
        kept::set(keep, &self.scope, "log", log)
    }

    /// Forgets the oldest cuts where there are too many: the documents have what counts of them.
    fn drop_cuts(&self, keep: &mut (impl Keep + ?Sized)) -> Result<()> {
        let mut log = self.log(keep)?;
        if log.bytes <= log.bytes_max.max(self.history.cuts) {
            return Ok(());
        }
        let mut documents = 0;
        for number in 0..=ABOUT {
            let saved = self.saved(keep, number)?;
            documents += saved.document + saved.beside;
        }
        log.bytes_max = self.history.cuts.max(self.history.cuts_ratio * documents);
        let waiting = log.waiting.values().flatten().min().copied();
        let last = waiting.unwrap_or(log.came + 1);
        if log.bytes > log.bytes_max {
            while log.bytes > log.bytes_max / 2 && log.dropped + 1 < last {
                log.dropped += 1;
                let cut = self.cut(keep, log.dropped)?;
                log.floor.see(cut.replica, cut.number);
                log.bytes = log.bytes.saturating_sub(cut.changes.len() as u64);
                keep.set_value(&self.scope, &cut_key(log.dropped), None)?;
            }
        }
        kept::set(keep, &self.scope, "log", &log)
    }
}

fn cut_key(number: u64) -> String {
    format!("cut/{number:016x}")
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
pub(crate) struct Open<'a> {
    txn: &'a dyn ReadTxn,
    place: &'a Place,
    documents: &'a RefCell<Documents>,
    /// What was known at the time that is asked for; nothing for the present.
    then: Option<VersionVector>,
    /// What each document consisted of then.
    heads: RefCell<HashMap<u16, Vec<ChangeHash>>>,
}

impl Open<'_> {
    fn with<R>(&self, number: u16, read: impl FnOnce(&Document) -> Result<R>) -> Result<Option<R>> {
        let mut documents = self.documents.borrow_mut();
        let document = self.place.open(self.txn, &mut documents, number)?;
        document.as_ref().map(read).transpose()
    }

    fn values(&self, document: &Document, number: u16, key: &str) -> Result<Vec<Vec<u8>>> {
        let Some(then) = &self.then else {
            return document.values(key, None);
        };
        let mut heads = self.heads.borrow_mut();
        let heads = match heads.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(document.heads_at(then)?),
        };
        document.values(key, Some(heads))
    }
}

impl Registers for Open<'_> {
    fn values(&self, path: &TreePath) -> Result<Vec<Value>> {
        let number = shard(path.parent_str());
        let values = self.with(number, |document| {
            self.values(document, number, path.as_str())
        })?;
        let values = values.unwrap_or_default();
        values.iter().map(|bytes| Value::decode(bytes)).collect()
    }

    fn names(&self, dir: &TreePath) -> Result<Vec<Box<str>>> {
        // Of one that was not there yet there are no values.
        let names = self.with(shard(dir.as_str()), |document| Ok(document.names(dir)))?;
        Ok(names.unwrap_or_default())
    }
}

/// Which cuts others show together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Each by itself.
    None,
    /// All of one call, and what comes next.
    GoesOn,
    /// All of one call, and those before it of which it was said.
    Ends,
}

/// What bringing commits into the documents came to.
#[derive(Debug, Default)]
pub struct Gathered {
    /// How many cuts that made.
    pub cuts: usize,
    /// What changed in what the branch shows, because of what others had written.
    pub changes: Vec<Change>,
}

/// The paths that were written, each with its latest stamp.
pub type Written = BTreeMap<TreePath, Stamp>;

/// What cuts did to a branch.
#[derive(Debug)]
pub struct Applied {
    /// What changed in what the branch shows; nothing where it has to be shown anew over its base.
    pub changes: Option<Vec<Change>>,
    /// Who wrote each path last.
    pub writers: Written,
    /// Whether something was said about the branch itself or its snapshots.
    pub about: bool,
}

/// The documents of one branch, those that were used kept in memory.
///
/// Whoever uses it is the only one that changes these documents.
pub struct Branch {
    pub(crate) place: Place,
    pub(crate) documents: RefCell<Documents>,
    /// The documents that have more values than they need.
    pub(crate) thick: BTreeSet<u16>,
}

impl Branch {
    /// Opens the documents of a branch of the bucket that a store knows by a number.
    pub fn new(bucket: u32, scope: Scope, replica: ReplicaId, history: History) -> Self {
        Self {
            place: Place {
                scope: format!("sync/{bucket}/{scope}"),
                replica,
                history,
            },
            documents: RefCell::default(),
            thick: BTreeSet::new(),
        }
    }

    /// Forgets what was read, as after a transaction that was not committed.
    pub fn forget(&mut self) {
        self.documents.get_mut().clear();
        self.thick.clear();
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

    /// Returns what has to be known so that the cuts that are kept can follow.
    ///
    /// # Errors
    /// Those of the store.
    pub fn floor(&self, txn: &dyn ReadTxn) -> Result<VersionVector> {
        Ok(self.place.log(txn)?.floor)
    }

    /// Returns cuts that a vector does not cover, which covers the [`floor`](Self::floor), in the order
    /// in which they came: as many as a number of bytes allows, but one at least where there is one.
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
        for number in self.first_after(txn, &log, seen)?..=log.came {
            let cut = self.place.cut(txn, number)?;
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
        let mut first = log.came + 1;
        while missing > 0 && first > log.dropped + 1 {
            first -= 1;
            let cut = self.place.cut(txn, first)?;
            missing -= u64::from(cut.number > seen.get(cut.replica));
        }
        Ok(first)
    }

    /// Brings into the documents what was committed in the branch: all that `changes` speak of, as the
    /// chain shows it. What is too long for one cut goes into several.
    ///
    /// # Errors
    /// Those of the store; then the transaction is to be dropped, and [`forget`](Self::forget) called.
    pub fn gather(
        &mut self,
        txn: &mut dyn WriteTxn,
        chain: &Chain,
        changes: &[Change],
        group: Group,
        clock: &mut Clock,
        times: &Times,
    ) -> Result<Gathered> {
        let mut new = outgoing(txn, chain, &self.registers(txn), changes, clock, times)?;
        let fallen = settle(txn, chain, changes, &mut new, clock, times)?;
        forget_settled(txn, chain.branch(), &new)?;
        let cuts = self.add_cuts(txn, new, group)?;
        let fallen = self.show(txn, chain, fallen, times.now())?;
        let changes = fallen.unwrap_or_default();
        Ok(Gathered { cuts, changes })
    }

    /// Drafts what [`gather`](Self::gather) does where no conflict is noted: it shows nothing else then.
    /// Returns how many cuts that makes. Where the draft is not kept, [`forget`](Self::forget) is to be
    /// called.
    pub(crate) fn draft(
        &mut self,
        draft: &mut Draft<'_>,
        chain: &Chain,
        changes: &[Change],
        clock: &mut Clock,
        times: &Times,
    ) -> Result<usize> {
        let registers = self.registers(draft.txn);
        let new = outgoing(draft.txn, chain, &registers, changes, clock, times)?;
        self.add_cuts(draft, new, Group::Ends)
    }

    /// Adds values that were written together, those that are too long for one cut in several.
    fn add_cuts(
        &mut self,
        keep: &mut (impl Keep + ?Sized),
        new: BTreeMap<TreePath, Value>,
        group: Group,
    ) -> Result<usize> {
        let mut cuts = 0;
        let mut written = Values::new();
        let mut bytes = 0;
        // A directory comes before what is in it.
        for (path, value) in new {
            let value = value.encode();
            let more = path.as_str().len() + value.len();
            if bytes + more > CUT_MAX {
                self.add_cut(keep, std::mem::take(&mut written), group != Group::None)?;
                (cuts, bytes) = (cuts + 1, 0);
            }
            bytes += more;
            written.push((path.to_string(), ByteBuf::from(value)));
        }
        if !written.is_empty() {
            self.add_cut(keep, written, group == Group::GoesOn)?;
            cuts += 1;
        }
        Ok(cuts)
    }

    /// Says that what was written goes on no more, if it was said to. Returns whether it was.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub(crate) fn close(&mut self, txn: &mut dyn WriteTxn) -> Result<bool> {
        let open = self.place.log(txn)?.open;
        if open {
            self.add_cut(txn, Values::new(), false)?;
        }
        Ok(open)
    }

    /// Says something about the branch or its snapshots.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn tell(&mut self, txn: &mut dyn WriteTxn, about: Vec<(Key, Vec<u8>)>) -> Result<()> {
        let about = about.into_iter();
        let about = about.map(|(key, value)| (key.as_text(), ByteBuf::from(value)));
        self.add_cut(txn, about.collect(), false)
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

    fn add_cut(
        &mut self,
        keep: &mut (impl Keep + ?Sized),
        mut values: Values,
        more: bool,
    ) -> Result<()> {
        values.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let replica = self.place.replica;
        let mut log = self.place.log(keep)?;
        let others = log.applied();
        let others = others.iter().filter(|(id, _)| *id != replica);
        let cut = Cut {
            replica,
            number: log.vector.get(replica) + 1,
            seen: others.collect(),
            more,
            changes: kept::encode(&values),
        };
        for (number, share) in shares(&cut, values)? {
            self.put(keep, number, &share)?;
        }
        log.open = more;
        self.place.keep(keep, &mut log, &cut)?;
        self.place.drop_cuts(keep)
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
        let mut written = Written::new();
        let mut applied = Applied {
            changes: Some(Vec::new()),
            writers: Written::new(),
            about: false,
        };
        for cut in cuts {
            // Refused now rather than when the last of its group has come.
            let own = shares_of(cut)?;
            if cut.more {
                let number = log.came + 1;
                log.waiting.entry(cut.replica).or_default().push(number);
                self.place.keep(txn, &mut log, cut)?;
                continue;
            }
            for number in log.waiting.remove(&cut.replica).unwrap_or_default() {
                let waited = shares_of(&self.place.cut(txn, number)?)?;
                applied.about |= self.put_all(txn, &waited, &mut written, clock)?;
            }
            applied.about |= self.put_all(txn, &own, &mut written, clock)?;
            self.place.keep(txn, &mut log, cut)?;
        }
        self.place.drop_cuts(txn)?;
        if let Some(chain) = chain {
            let paths = affected(&self.registers(txn), written.keys())?;
            applied.changes = self.show(txn, chain, paths, now)?;
        }
        applied.writers = written;
        Ok(applied)
    }

    fn put_all(
        &mut self,
        txn: &mut dyn WriteTxn,
        shares: &BTreeMap<u16, Share>,
        written: &mut Written,
        clock: &mut Clock,
    ) -> Result<bool> {
        for (number, share) in shares {
            self.put(txn, *number, share)?;
            note(*number, share, written, clock)?;
        }
        Ok(shares.contains_key(&ABOUT))
    }

    fn put(&mut self, keep: &mut (impl Keep + ?Sized), number: u16, share: &Share) -> Result<()> {
        let documents = self.documents.get_mut();
        let document = self.place.open(keep, documents, number)?;
        let document = document.get_or_insert_default();
        let change = document.put(share)?;
        if !change.is_empty() && self.place.save(keep, number, document, &change)? {
            self.thick.insert(number);
        }
        Ok(())
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

    pub(crate) fn show(
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
        let log = self.place.log(txn)?;
        if !vector.covers(&log.floor) {
            return self.paths(txn);
        }
        let applied = log.applied();
        let mut paths = BTreeSet::new();
        for number in self.first_after(txn, &log, vector)?..=log.came {
            let cut = self.place.cut(txn, number)?;
            if cut.number <= vector.get(cut.replica) || cut.number > applied.get(cut.replica) {
                continue;
            }
            for (number, share) in shares_of(&cut)? {
                if number != ABOUT {
                    for (key, _) in &share.values {
                        paths.insert(TreePath::parse(key)?);
                    }
                }
            }
        }
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
        let mut then = self.registers(txn);
        then.then = Some(vector.clone());
        let mut rows = BTreeMap::new();
        for path in paths {
            if let Some(Projected { row: Some(row), .. }) = project(&then, path)? {
                rows.insert(path.clone(), row);
            }
        }
        Ok(rows)
    }

    pub(crate) fn registers<'a>(&'a self, txn: &'a dyn ReadTxn) -> Open<'a> {
        Open {
            txn,
            place: &self.place,
            documents: &self.documents,
            then: None,
            heads: RefCell::default(),
        }
    }
}

/// Notes what a share wrote.
pub(crate) fn note(
    number: u16,
    share: &Share,
    written: &mut Written,
    clock: &mut Clock,
) -> Result<()> {
    for (key, value) in &share.values {
        let stamp = stamp_of(key, value)?;
        clock.see(stamp);
        if number != ABOUT {
            let last = written.entry(TreePath::parse(key)?).or_insert(stamp);
            *last = stamp.max(*last);
        }
    }
    Ok(())
}

/// Returns what a cut puts into each document, having looked at all of it.
///
/// # Errors
/// [`ErrorKind::Corrupt`] or [`ErrorKind::InvalidPath`] where it is nothing that a replica writes.
pub(crate) fn shares_of(cut: &Cut) -> Result<BTreeMap<u16, Share>> {
    let refuse = |why: &str| Error::with_detail(ErrorKind::Corrupt, why);
    let (values, rest) = postcard::take_from_bytes::<Values>(&cut.changes)
        .map_err(|_| refuse("a cut does not decode"))?;
    if !rest.is_empty() || !values.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(refuse("a cut's registers are out of order"));
    }
    for (key, value) in &values {
        stamp_of(key, value)?;
    }
    shares(cut, values)
}

fn shares(cut: &Cut, values: Values) -> Result<BTreeMap<u16, Share>> {
    let mut shares = BTreeMap::new();
    for (key, value) in values {
        let share = shares.entry(number_of(&key)?).or_insert_with(|| Share {
            replica: cut.replica,
            number: cut.number,
            seen: cut.seen.clone(),
            values: Values::new(),
        });
        share.values.push((key, value));
    }
    Ok(shares)
}
