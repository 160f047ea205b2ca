//! Who else has a content, what others were promised, and when a content was last used.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alknet_fs_core::store::{Durability, ReadTxn, Store as TreeStore};
use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use parking_lot::Mutex;

use super::shards::{self, Key};
use super::wait::encode;
use super::{LIMIT, PROMISE, SCOPE};
use crate::progress::Cancel;
use crate::store::{Inner, Store, now};

/// The names of all peers that were ever noted, in JSON; one's place numbers its scope.
const PEERS: &str = "peers";

/// The scope of until when contents were promised, in milliseconds.
const PROMISED: &str = "content/promised";

/// The scope of when contents were last used, in milliseconds.
const USED: &str = "content/used";

/// How many contents are looked through at a time.
const RECORDS: usize = 256;

/// How many shards are written at a time: others write in between.
const SHARDS: usize = 64;

/// How many reads pass before it is looked again whether uses are to be noted.
const LOOK_EVERY: u32 = 4096;

/// When what was noted in memory goes to the store.
const FLUSH_EVERY: Duration = Duration::from_secs(60);
const FLUSH_AT: usize = 65_536;

/// Returns the present time in milliseconds.
pub(super) fn millis() -> u64 {
    (now().0 / 1_000_000).unsigned_abs()
}

fn holds(peer: usize) -> String {
    format!("content/holds/{peer}")
}

fn peers(txn: &dyn ReadTxn) -> Result<Vec<String>> {
    let Some(value) = txn.value(SCOPE, PEERS)? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&value).map_err(|e| {
        let detail = format!("the names of peers are bad: {e}");
        Error::with_detail(ErrorKind::Corrupt, detail)
    })
}

/// Returns the contents that some peer was known to hold.
pub(super) fn held_elsewhere(txn: &dyn ReadTxn) -> Result<HashSet<Key>> {
    let mut held = HashSet::new();
    for peer in 0..peers(txn)?.len() {
        held.extend(shards::all(txn, &holds(peer))?.into_keys());
    }
    Ok(held)
}

/// Returns the contents that others were promised, and are still.
pub(crate) fn promised(txn: &dyn ReadTxn) -> Result<HashSet<Key>> {
    Ok(promises(txn)?.into_keys().collect())
}

/// Returns the contents that others were promised, and until when that is, in milliseconds.
pub(super) fn promises(txn: &dyn ReadTxn) -> Result<HashMap<Key, u64>> {
    let now = millis();
    let mut promises = shards::all(txn, PROMISED)?;
    promises.retain(|_, until| *until > now);
    Ok(promises)
}

/// Tells whether others were promised a content, and are still.
pub(super) fn is_promised(txn: &dyn ReadTxn, hash: &Hash) -> Result<bool> {
    Ok(shards::get(txn, PROMISED, hash)?.is_some_and(|until| until > millis()))
}

/// Tells whether a content is among the keys.
pub(crate) fn is_among(keys: &HashSet<Key>, hash: &Hash) -> bool {
    keys.contains(&shards::key(hash))
}

impl Store {
    /// Notes which contents a peer holds, or does not hold any more: so that it is known, after a
    /// restart too, what can be evicted here, and whom to ask. Peers are named as a
    /// [`ContentSource`](crate::ContentSource) names them.
    pub fn note_holders(&self, peer: &str, hashes: &[Hash], holds: bool) -> Result<()> {
        self.inner.note_holders(peer, hashes, holds)
    }

    /// Returns the peers that were known to hold a content. It may not be so any more.
    pub fn known_holders(&self, hash: &Hash) -> Result<Vec<String>> {
        let txn = self.inner.tree.read()?;
        let mut found = Vec::new();
        for (at, peer) in peers(&*txn)?.into_iter().enumerate() {
            if shards::get(&*txn, &holds(at), hash)?.is_some() {
                found.push(peer);
            }
        }
        Ok(found)
    }

    /// Promises a peer to keep contents for [`PROMISE`], and tells which of them are here: neither
    /// eviction nor garbage collection removes those until then. It is durable when this returns.
    ///
    /// This is the answer to what a peer's [`ContentSource::holders`](crate::ContentSource::holders)
    /// asks. Two nodes that would both evict a content each promise it to the other first, and so both
    /// keep it.
    pub fn promise_contents(&self, hashes: &[Hash]) -> Result<Vec<bool>> {
        promise(&*self.inner.tree, hashes)
    }
}

/// Promises to keep those of some contents that are here.
pub(crate) fn promise(tree: &dyn TreeStore, hashes: &[Hash]) -> Result<Vec<bool>> {
    let mut txn = tree.write(Durability::Full)?;
    let now = millis();
    let until = now + u64::try_from(PROMISE.as_millis()).unwrap_or(u64::MAX / 2);
    let mut here = Vec::with_capacity(hashes.len());
    let mut promises = Vec::new();
    for hash in hashes {
        let has = txn.has_content(hash)?;
        if has {
            promises.push((*hash, Some(until)));
            // A collection that is at work must not remove it.
            txn.set_unreferenced(hash, None)?;
        }
        here.push(has);
    }
    shards::set(&mut *txn, PROMISED, promises, |until| until > now)?;
    txn.commit()?;
    Ok(here)
}

impl Inner {
    pub(super) fn note_holders(&self, peer: &str, hashes: &[Hash], is_held: bool) -> Result<()> {
        let mut txn = self.tree.write(Durability::Relaxed)?;
        let mut peers = peers(&*txn)?;
        let at = peers.iter().position(|other| other == peer);
        let at = match at {
            Some(at) => at,
            None if !is_held => return Ok(()),
            None => {
                peers.push(peer.to_owned());
                txn.set_value(SCOPE, PEERS, Some(encode(&peers)?.as_bytes()))?;
                peers.len() - 1
            }
        };
        let since = is_held.then(millis);
        let changes = hashes.iter().map(|hash| (*hash, since));
        shards::set(&mut *txn, &holds(at), changes, |_| true)?;
        txn.commit()
    }

    /// Forgets who holds, and when were used, contents that are neither here nor named by anything.
    pub(crate) fn forget_gone(&self, cancel: &Cancel) -> Result<()> {
        let txn = self.tree.read()?;
        let peers = peers(&*txn)?.len();
        if peers == 0 {
            return Ok(());
        }
        let mut known = HashSet::new();
        txn.referenced(now(), &mut |hash| known.extend([shards::key(&hash)]))?;
        let mut after = None;
        loop {
            let records = txn.contents_after(after.as_ref(), RECORDS, false)?;
            let Some(last) = records.last() else {
                break;
            };
            cancel.check()?;
            after = Some(last.hash);
            known.extend(records.iter().map(|record| shards::key(&record.hash)));
        }
        drop(txn);
        // What was noted since of something new is a hint that is lost.
        for scope in (0..peers).map(holds).chain([USED.to_owned()]) {
            cancel.check()?;
            let changed = shards::beyond(&*self.tree.read()?, &scope, &known)?;
            for shards in changed.chunks(SHARDS) {
                cancel.check()?;
                let mut txn = self.tree.write(Durability::Relaxed)?;
                shards::retain(&mut *txn, &scope, shards, &known)?;
                txn.commit()?;
            }
        }
        Ok(())
    }

    /// Returns when contents were last used, in milliseconds, this process's latest uses included.
    pub(super) fn last_used(&self) -> Result<HashMap<Key, u64>> {
        self.flush_uses()?;
        shards::all(&*self.tree.read()?, USED)
    }

    /// Notes that a content was read, where that matters.
    pub(crate) fn used(self: &Arc<Self>, hash: &Hash) {
        let uses = &self.uses;
        let reads = uses.reads.fetch_add(1, Ordering::Relaxed);
        if reads.is_multiple_of(LOOK_EVERY) {
            self.look_whether_uses_matter();
        }
        if !uses.matter.load(Ordering::Relaxed) {
            return;
        }
        let mut noted = uses.noted.lock();
        let at = millis();
        noted.at.insert(*hash, at);
        let due = noted.at.len() >= FLUSH_AT
            || noted
                .flushed
                .get_or_insert_with(Instant::now)
                .elapsed()
                .ge(&FLUSH_EVERY);
        if !due {
            return;
        }
        noted.flushed = Some(Instant::now());
        drop(noted);
        let inner = Arc::clone(self);
        let builder = thread::Builder::new().name("alknet-fs-uses".to_owned());
        let spawned = builder.spawn(move || {
            if let Err(error) = inner.flush_uses() {
                tracing::debug!(%error, "what was read lately is not known to others");
            }
        });
        if let Err(error) = spawned {
            tracing::debug!(%error, "what was read lately is not known to others");
        }
    }

    /// Looks whether the store has a limit: only then does it matter what was read when.
    #[cold]
    pub(super) fn look_whether_uses_matter(&self) {
        let limited = self
            .tree
            .read()
            .and_then(|txn| txn.value(SCOPE, LIMIT))
            .is_ok_and(|limit| limit.is_some());
        self.uses.matter.store(limited, Ordering::Relaxed);
    }

    /// Writes what was noted in memory to the store.
    pub(crate) fn flush_uses(&self) -> Result<()> {
        let uses = std::mem::take(&mut self.uses.noted.lock().at);
        if uses.is_empty() {
            return Ok(());
        }
        let mut txn = self.tree.write(Durability::Relaxed)?;
        let changes = uses.into_iter().map(|(hash, at)| (hash, Some(at)));
        shards::set(&mut *txn, USED, changes, |_| true)?;
        txn.commit()
    }

    /// Forgets when contents were used that are gone.
    pub(super) fn forget_uses(&self, hashes: &[Hash]) -> Result<()> {
        let mut txn = self.tree.write(Durability::Relaxed)?;
        let changes = hashes.iter().map(|hash| (*hash, None));
        shards::set(&mut *txn, USED, changes, |_| true)?;
        txn.commit()
    }
}

/// What was read lately in this process.
#[derive(Default)]
pub(crate) struct Uses {
    matter: AtomicBool,
    reads: AtomicU32,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    at: HashMap<Hash, u64>,
    flushed: Option<Instant>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.flush_uses() {
            tracing::debug!(%error, "what was read lately is not known to others");
        }
    }
}
