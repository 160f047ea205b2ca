//! What this node lacks of the contents that buckets name: kept up to date by what changes, and told to
//! the peers.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::store::{BranchId, BucketId, Durability, ReadTxn, Store as TreeStore};
use alknet_fs_core::{Cursor, Entry, ErrorKind, Hash, Node as Kind, Op, Result, TreePath};
use alknet_fs_net::Lacks;
use serde::{Deserialize, Serialize};

use super::records::MissingContents;

/// A bucket, or branches of it with all that they inherit from.
pub(super) type Part = (BucketId, Option<BTreeSet<BranchId>>);

/// Behind more log records than this, to look for everything anew is cheaper than to follow.
const RECORDS: usize = 256;

/// What follows a look for everything takes at least so many times as long: so that looking takes little
/// of what others could use.
const REST: u32 = 30;

/// What changes without an event, such as collected versions, is looked for after this time, where
/// anything was committed and anything is missing.
const ANEW: Duration = Duration::from_secs(60);

/// Visits the contents that the rows of a part of a bucket name.
pub(super) fn named(
    txn: &dyn ReadTxn,
    (bucket, branches): &Part,
    visit: &mut dyn FnMut(Hash, u64) -> Result<()>,
) -> Result<()> {
    txn.scan_tree(*bucket, &TreePath::root(), &mut |_, _, layer, row| {
        let covered = |branches: &BTreeSet<_>| branches.contains(&layer.branch);
        if branches.as_ref().is_none_or(covered)
            && let Some(Entry {
                node: Kind::File { hash, size },
                ..
            }) = row.entry
        {
            visit(hash, size)?;
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Tells whether an event is about a part of its bucket.
pub(super) fn covers(txn: &dyn ReadTxn, part: &Part, branch: &str) -> Result<bool> {
    let Some(branches) = &part.1 else {
        return Ok(true);
    };
    let branch = txn.branch_named(part.0, branch)?;
    Ok(branch.is_some_and(|branch| branches.contains(&branch.id)))
}

/// The contents that a part of a bucket names and that are not here.
struct Tally {
    missing: HashMap<Hash, u64>,
    bytes: u64,
    cursor: Cursor,
    looked: Instant,
    /// How long the look for everything took.
    cost: Duration,
    /// Whether something may be missing that is not noted, or the other way round.
    doubt: bool,
}

impl Tally {
    fn look(txn: &dyn ReadTxn, part: &Part) -> Result<Self> {
        let looked = Instant::now();
        let mut tally = Self {
            missing: HashMap::new(),
            bytes: 0,
            cursor: txn.last_cursor()?,
            looked,
            cost: Duration::ZERO,
            doubt: false,
        };
        match part {
            (bucket, None) => txn.missing_contents(*bucket, &mut |_, _, hash, size| {
                tally.miss(hash, size);
                Ok(ControlFlow::Continue(()))
            })?,
            _ => named(txn, part, &mut |hash, size| {
                if !tally.missing.contains_key(&hash) && !txn.has_content(&hash)? {
                    tally.miss(hash, size);
                }
                Ok(())
            })?,
        }
        tally.cost = looked.elapsed();
        Ok(tally)
    }

    fn miss(&mut self, hash: Hash, size: u64) {
        // Peers may have given it sizes that differ, and ones that no content has.
        if let Slot::Vacant(missing) = self.missing.entry(hash) {
            missing.insert(size);
            self.bytes = self.bytes.wrapping_add(size);
        }
    }

    fn arrived(&mut self, hash: &Hash) {
        if let Some(size) = self.missing.remove(hash) {
            self.bytes = self.bytes.wrapping_sub(size);
        }
    }

    /// Takes in what was committed since; returns whether to look for everything anew.
    fn follow(&mut self, txn: &dyn ReadTxn, part: &Part) -> Result<bool> {
        let last = txn.last_cursor()?;
        if last == self.cursor {
            return Ok(self.doubt);
        }
        let events = match txn.events(Some(part.0), self.cursor, RECORDS + 1) {
            Ok(events) => events,
            Err(e) if e.kind() == ErrorKind::Lagged => return Ok(true),
            Err(e) => return Err(e),
        };
        let records = match (events.first(), events.last()) {
            (Some(first), Some(last)) => last.cursor.offset() - first.cursor.offset(),
            _ => 0,
        };
        if records > RECORDS as u64 {
            return Ok(true);
        }
        for event in events {
            let change = &event.change;
            self.doubt |= matches!(
                change.op,
                Op::Fork | Op::DeleteBranch | Op::DeleteSnapshot | Op::Restore
            );
            if let Some(new) = change.new
                && covers(txn, part, &event.branch)?
            {
                match txn.has_content(&new)? {
                    true => self.arrived(&new),
                    false => self.miss(new, change.size.unwrap_or(0)),
                }
            }
            // Others may name it too.
            self.doubt |= change
                .old
                .is_some_and(|old| self.missing.contains_key(&old));
        }
        self.cursor = last;
        let since = self.looked.elapsed();
        self.doubt |= !self.missing.is_empty() && since > ANEW;
        Ok(self.doubt)
    }
}

/// All that is counted.
pub(super) struct Tallies {
    store: Arc<dyn TreeStore>,
    parts: HashMap<Part, Tally>,
    /// What was counted when the last node stopped, of buckets of which nothing came or went since.
    before: HashMap<BucketId, (Cursor, Lacks)>,
    kept: Held,
}

impl Tallies {
    /// Begins with what the store's last node counted, if that stopped in order.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn new(store: Arc<dyn TreeStore>) -> Result<Self> {
        let mut kept = Held::load(&*store.read()?)?;
        if !kept.is_final {
            kept.buckets.clear();
        }
        let before = kept.buckets.iter().map(|(bucket, cursor, lacks)| {
            let (contents, bytes) = *lacks;
            (*bucket, (*cursor, Lacks { contents, bytes }))
        });
        let before = before.collect();
        kept.is_final = false;
        kept.save(&*store)?;
        Ok(Self {
            store,
            parts: HashMap::new(),
            before,
            kept,
        })
    }

    /// Forgets all parts but some.
    pub(super) fn retain(&mut self, parts: &HashSet<Part>) {
        self.parts.retain(|part, _| parts.contains(part));
    }

    /// Takes in that contents came, or went.
    pub(super) fn note(&mut self, txn: &dyn ReadTxn, hashes: &[Hash]) -> Result<()> {
        if !hashes.is_empty() {
            self.before.clear();
        }
        for hash in hashes {
            let here = txn.has_content(hash)?;
            for tally in self.parts.values_mut() {
                match here {
                    true => tally.arrived(hash),
                    // Which parts name it, a look tells.
                    false => tally.doubt |= !tally.missing.contains_key(hash),
                }
            }
        }
        Ok(())
    }

    /// Counts what is missing of a part; nothing where that is found out only at another time, which is
    /// returned instead.
    pub(super) fn count(
        &mut self,
        txn: &dyn ReadTxn,
        part: &Part,
    ) -> Result<std::result::Result<Lacks, Instant>> {
        if let (bucket, None) = part
            && !self.parts.contains_key(part)
            && let Some((cursor, lacks)) = self.before.get(bucket)
        {
            // A content may have come by another bucket too.
            if txn.last_cursor()? <= *cursor {
                return Ok(Ok(*lacks));
            }
            self.before.remove(bucket);
        }
        let tally = match self.parts.entry(part.clone()) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Tally::look(txn, part)?)
            }
            std::collections::hash_map::Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if tally.follow(txn, part)? {
            let next = tally.looked + tally.cost * REST;
            if next > Instant::now() {
                return Ok(Err(next));
            }
            *tally = Tally::look(txn, part)?;
        }
        Ok(Ok(Lacks {
            contents: tally.missing.len() as u64,
            bytes: tally.bytes,
        }))
    }

    /// Keeps what is missing of whole buckets, for other processes.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn keep(&mut self) -> Result<()> {
        self.keep_as(false)
    }

    /// Keeps it for the next node: nothing comes or goes any more that is not noted.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn end(mut self) -> Result<()> {
        self.keep_as(true)
    }

    fn keep_as(&mut self, is_final: bool) -> Result<()> {
        let whole = self
            .parts
            .iter()
            .filter(|((_, branches), tally)| branches.is_none() && !tally.doubt);
        let whole = whole.map(|((bucket, _), tally)| {
            let lacks = (tally.missing.len() as u64, tally.bytes);
            (*bucket, tally.cursor, lacks)
        });
        let before = self.before.iter();
        let before = before.filter(|(bucket, _)| !self.parts.contains_key(&(**bucket, None)));
        let before = before
            .map(|(bucket, (cursor, lacks))| (*bucket, *cursor, (lacks.contents, lacks.bytes)));
        let mut held = Held {
            buckets: whole.chain(before).collect(),
            is_final,
        };
        held.buckets.sort_unstable();
        if self.kept != held {
            held.save(&*self.store)?;
            self.kept = held;
        }
        Ok(())
    }
}

/// What is missing of buckets, and all of their events that this takes into account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Held {
    buckets: Vec<(BucketId, Cursor, (u64, u64))>,
    /// Whether the node that counted stopped in order after that: else contents may have come.
    is_final: bool,
}

const SCOPE: &str = "net";
const HELD: &str = "contents";

impl Held {
    fn load(txn: &dyn ReadTxn) -> Result<Self> {
        let bytes = txn.value(SCOPE, HELD)?;
        let held = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(held.unwrap_or_default())
    }

    fn save(&self, store: &dyn TreeStore) -> Result<()> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let mut txn = store.write(Durability::Relaxed)?;
        txn.set_value(SCOPE, HELD, Some(&bytes))?;
        txn.commit()
    }
}

/// Tells whether nothing happened in a bucket after a cursor.
pub(super) fn is_current(txn: &dyn ReadTxn, bucket: BucketId, cursor: Cursor) -> Result<bool> {
    if txn.last_cursor()? <= cursor {
        return Ok(true);
    }
    match txn.events(Some(bucket), cursor, 1) {
        Ok(events) => Ok(events.is_empty()),
        Err(e) if e.kind() == ErrorKind::Lagged => Ok(false),
        Err(e) => Err(e),
    }
}

/// Counts the contents that a bucket names and that are not here: as the store's node does, where one
/// runs, or by looking at all of them.
pub(super) fn missing_here(
    txn: &dyn ReadTxn,
    bucket: BucketId,
    running: bool,
) -> Result<MissingContents> {
    if running {
        let held = Held::load(txn)?.buckets;
        let kept = held.iter().find(|(of, ..)| *of == bucket);
        if let Some((_, cursor, (contents, bytes))) = kept
            && is_current(txn, bucket, *cursor)?
        {
            return Ok(MissingContents {
                contents: *contents,
                bytes: *bytes,
            });
        }
    }
    let mut missing = MissingContents::default();
    let mut seen = HashSet::new();
    txn.missing_contents(bucket, &mut |_, _, hash, size| {
        if seen.insert(hash) {
            missing.contents += 1;
            missing.bytes = missing.bytes.saturating_add(size);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_content_has_are_counted_and_taken_back() {
        let mut tally = Tally {
            missing: HashMap::new(),
            bytes: 0,
            cursor: Cursor::START,
            looked: Instant::now(),
            cost: Duration::ZERO,
            doubt: false,
        };
        let hashes = [1, 2, 3].map(|n| Hash::of(&[n]));
        for hash in hashes {
            tally.miss(hash, 10);
            tally.miss(hash, u64::MAX);
        }
        assert_eq!(tally.bytes, 30);
        let huge = [4, 5, 6].map(|n| Hash::of(&[n]));
        huge.iter().for_each(|hash| tally.miss(*hash, u64::MAX / 2));
        huge.iter().for_each(|hash| tally.arrived(hash));
        assert_eq!(tally.bytes, 30);
        hashes.iter().for_each(|hash| tally.arrived(hash));
        assert_eq!(tally.bytes, 0);
    }
}
