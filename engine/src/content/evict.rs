//! Making room: removing contents that others have.
//!
//! What goes was not used for the longest time, is confirmed right before to be with a peer that keeps it
//! for a while ([`ContentSource::holders`]), and is neither pinned nor in use. A scan in a read
//! transaction finds what may go; each write transaction that removes some of it looks through the events
//! since that scan for whatever may have changed that.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use alknet_fs_content::{Area, Orphan};
use alknet_fs_core::store::{BucketId, ContentForm, Durability, JobOptions, ReadTxn};
use alknet_fs_core::{Cursor, Error, ErrorKind, Hash, Node, Op, Result, Timestamp, TreePath};
use serde::{Deserialize, Serialize};

use super::policy::{self, ContentSettings, Wanted};
use super::wait::encode;
use super::{ContentSource, EVICTIONS, LIMIT, SCOPE, held, shards, takes_part};
use crate::progress::{Progress, Task};
use crate::store::{Inner, Store, locked, now};

/// How many contents a peer is asked about, and are removed in one transaction, at a time.
const BATCH: usize = 500;

/// How long peers have to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// How long, and how often, is looked whether others have come to an end who remove contents.
const OTHERS: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// How often it is looked again what may go, where that changed or more may by what went.
const PASSES: usize = 8;

/// Pins that end within this time protect what has only just come, until an entry refers to it.
const SHORT_PINS: i64 = 86_400_000_000_000;

/// The most log records that are looked through before a removal.
const RECORDS: usize = 1000;

/// What an eviction removed, and what it could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EvictReport {
    /// Contents that were removed.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes of all contents that are here now.
    pub bytes_here: u64,
    /// Contents that would have gone, but that no peer said to hold and keep.
    pub only_here: u64,
    /// Their bytes.
    pub only_here_bytes: u64,
    /// Contents that would have gone, but that peers were promised: these removed theirs, and rely on it.
    #[serde(default)]
    pub promised: u64,
    /// Their bytes.
    #[serde(default)]
    pub promised_bytes: u64,
    /// When the last of these promises ends.
    #[serde(default)]
    pub promised_until: Option<Timestamp>,
    /// Whether the room is given back only by a later collection, because a view was open.
    pub files_deferred: bool,
}

/// What a process asks the one with a source.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) to_bytes: u64,
}

impl Store {
    /// Sets how many bytes of contents the store may hold, a content counted once however many buckets
    /// and files have it; nothing for any number. The process that runs the node evicts what is beyond,
    /// as [`evict`](Self::evict) does, and stops at nine tenths of it.
    ///
    /// It is a limit of the whole store, as disks and contents are shared by all buckets. What cannot be
    /// evicted stays, however much that is.
    pub fn set_cache_limit(&self, bytes: Option<u64>) -> Result<()> {
        let mut txn = self.inner.write()?;
        let value = bytes.map(u64::to_le_bytes);
        txn.set_value(SCOPE, LIMIT, value.as_ref().map(|value| &value[..]))?;
        txn.commit()?;
        self.inner.look_whether_uses_matter();
        Ok(())
    }

    /// Returns how many bytes of contents the store may hold.
    pub fn cache_limit(&self) -> Result<Option<u64>> {
        limit(&*self.inner.tree.read()?)
    }

    /// Counts the bytes of the contents that are here, as [`set_cache_limit`](Self::set_cache_limit) limits
    /// them. The cost follows the number of contents.
    pub fn cached_bytes(&self) -> Result<u64> {
        self.inner.bytes_here()
    }

    /// Removes the contents that were not used for the longest time until the store holds at most
    /// `to_bytes` of them, as far as that is possible. They are fetched again when they are read.
    ///
    /// Only what a peer says to hold goes. What stays in any case: contents of buckets that do not take
    /// part in synchronisation or are [`Eager`](crate::ContentPolicy::Eager), of pinned paths, of open write
    /// sessions, that tags name, that others are made from, and that peers were promised. A process
    /// without a source leaves the work to the one that has it.
    ///
    /// The progress counts the removed contents.
    ///
    /// # Errors
    /// [`ErrorKind::ContentUnavailable`] where nobody can be asked who else has them;
    /// [`ErrorKind::Locked`] where garbage is collected, or others evict, for 30 s on end;
    /// [`ErrorKind::Cancelled`].
    pub fn evict(&self, to_bytes: u64, task: &Task) -> Result<EvictReport> {
        let evicted = match self.inner.hub.source() {
            Some(source) => self
                .inner
                .evict_with(&*source, to_bytes, Duration::ZERO, task),
            None => self.evict_by_queue(to_bytes, task),
        };
        evicted.map_err(|e| e.op("evict"))
    }

    fn evict_by_queue(&self, to_bytes: u64, task: &Task) -> Result<EvictReport> {
        let inner = &self.inner;
        let request = encode(&Request { to_bytes })?;
        let answer = inner.ask_node(EVICTIONS, &request, &JobOptions::default(), task)?;
        match serde_json::from_str(&answer) {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(why)) => {
                let why: String = why;
                Err(Error::with_detail(ErrorKind::ContentUnavailable, why))
            }
            Err(e) => Err(Error::new(ErrorKind::Io).source(e)),
        }
    }
}

pub(super) fn limit(txn: &dyn ReadTxn) -> Result<Option<u64>> {
    let value = txn.value(SCOPE, LIMIT)?;
    Ok(value.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))))
}

/// A content that may go.
struct Candidate {
    hash: Hash,
    bytes: u64,
    bucket: BucketId,
    /// Whether some peer was known to hold it.
    known: bool,
    used: u64,
    is_file: bool,
}

/// What is here, and what of that may go, in the order in which it should.
struct Found {
    bytes: u64,
    candidates: Vec<Candidate>,
    /// What may go but for what peers were promised: the number, the bytes, and until when, in milliseconds.
    promised: (u64, u64, u64),
    rules: Vec<Rule>,
    /// All events up to here are taken into account.
    cursor: Cursor,
    /// As is all that lost in conflicts, up to this number.
    lost: u64,
    /// What was referred to anew since the scan.
    fresh: HashSet<Hash>,
}

/// What is to stay of a bucket's contents.
#[derive(PartialEq, Eq)]
struct Rule {
    bucket: BucketId,
    takes_part: bool,
    settings: ContentSettings,
}

fn rules(txn: &dyn ReadTxn) -> Result<Vec<Rule>> {
    let rule = |bucket| {
        Ok(Rule {
            bucket,
            takes_part: takes_part(txn, bucket)?,
            settings: policy::load(txn, bucket)?,
        })
    };
    let buckets = txn.buckets()?;
    buckets.into_iter().map(|bucket| rule(bucket.id)).collect()
}

fn held_here(txn: &dyn ReadTxn) -> Result<HashSet<Hash>> {
    let mut here = HashSet::new();
    let until = Timestamp(now().0.saturating_add(SHORT_PINS));
    txn.held_contents(until, &mut |hash| {
        here.insert(hash);
    })?;
    Ok(here)
}

impl Inner {
    pub(super) fn evict_with(
        &self,
        source: &dyn ContentSource,
        to_bytes: u64,
        unused_for: Duration,
        task: &Task,
    ) -> Result<EvictReport> {
        let begun = Instant::now();
        let _collecting = loop {
            match self.keeper.collecting()? {
                Some(collecting) => break collecting,
                None if begun.elapsed() < OTHERS => sleep(LOOK),
                None => {
                    let why =
                        "garbage is collected or contents are evicted by another: try again later";
                    return Err(locked(why.into()));
                }
            }
            task.cancel().check()?;
        };
        let mut report = EvictReport::default();
        let mut files = Vec::new();
        for _ in 0..PASSES {
            let before = report.contents;
            let found = self.look_for_evictable(unused_for)?;
            report.bytes_here = found.bytes;
            (report.only_here, report.only_here_bytes) = (0, 0);
            let (promised, promised_bytes, until) = found.promised;
            (report.promised, report.promised_bytes) = (promised, promised_bytes);
            let until = i64::try_from(until).unwrap_or(i64::MAX);
            let until = Timestamp(until.saturating_mul(1_000_000));
            report.promised_until = (promised > 0).then_some(until);
            if found.bytes <= to_bytes {
                break;
            }
            let passed = self.evict_found(found, source, to_bytes, task, &mut report, &mut files);
            let complete = passed?;
            if report.bytes_here <= to_bytes || (complete && report.contents == before) {
                break;
            }
        }
        report.files_deferred = !self.remove_files(&files)?;
        Ok(report)
    }

    /// Finds what is here, and what of that may go and was not used for some time.
    fn look_for_evictable(&self, unused_for: Duration) -> Result<Found> {
        let recent = u64::try_from(unused_for.as_millis()).unwrap_or(u64::MAX);
        let limit = held::millis().saturating_sub(recent);
        let used = self.last_used()?;
        let txn = self.tree.read()?;
        let rules = rules(&*txn)?;
        let mut bytes = 0;
        let mut bases = HashSet::new();
        let mut contents: HashMap<Hash, Candidate> = HashMap::new();
        let elsewhere = held::held_elsewhere(&*txn)?;
        let mut after = None;
        loop {
            let records = txn.contents_after(after.as_ref(), 256, false)?;
            let Some(last) = records.last() else {
                break;
            };
            after = Some(last.hash);
            for record in records {
                let own = match record.form {
                    ContentForm::Delta => self.own_bytes(&*txn, &record.hash)?,
                    _ => record.size,
                };
                bytes += own;
                bases.extend(record.base);
                let key = shards::key(&record.hash);
                let stored = (record.created.0 / 1_000_000).unsigned_abs();
                let candidate = Candidate {
                    hash: record.hash,
                    bytes: own,
                    bucket: BucketId(0),
                    known: elsewhere.contains(&key),
                    used: used.get(&key).copied().unwrap_or(0).max(stored),
                    is_file: record.form != ContentForm::Inline,
                };
                contents.insert(record.hash, candidate);
            }
        }
        let mut stays = held_here(&*txn)?;
        stays.extend(bases);
        let promised = held::promises(&*txn)?;
        let mut lost = 0;
        for rule in &rules {
            let pinned = match rule.settings.policy {
                _ if !rule.takes_part => Some(Wanted::All),
                _ => Wanted::of(&rule.settings)?,
            };
            let root = TreePath::root();
            txn.scan_tree(rule.bucket, &root, &mut |parent, name, _, row| {
                let node = row.entry.map(|entry| entry.node);
                if let Some(Node::File { hash, .. }) = node
                    && let Some(content) = contents.get_mut(&hash)
                {
                    content.bucket = rule.bucket;
                    let path = || TreePath::from_stored(parent, name);
                    if pinned.as_ref().is_some_and(|p| p.has(path().as_str())) {
                        stays.insert(hash);
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            txn.conflict_contents(rule.bucket, 0, &mut |side| {
                lost = lost.max(side.number);
                if let Some(content) = contents.get_mut(&side.hash) {
                    content.bucket = rule.bucket;
                    if pinned.as_ref().is_some_and(|p| p.has(side.path.as_str())) {
                        stays.insert(side.hash);
                    }
                }
                Ok(())
            })?;
        }
        let mut candidates: Vec<_> = contents
            .into_values()
            // What nothing refers to is for garbage collection.
            .filter(|content| content.bucket != BucketId(0) && !stays.contains(&content.hash))
            .filter(|content| content.bytes > 0 && content.used <= limit)
            .collect();
        let mut kept = (0, 0, 0);
        candidates.retain(|content| {
            let until = promised.get(&shards::key(&content.hash)).copied();
            if let Some(until) = until {
                kept = (kept.0 + 1, kept.1 + content.bytes, until.max(kept.2));
            }
            until.is_none()
        });
        candidates.sort_unstable_by_key(|c| (std::cmp::Reverse(c.known), c.used, c.hash));
        Ok(Found {
            bytes,
            candidates,
            promised: kept,
            rules,
            cursor: txn.last_cursor()?,
            lost,
            fresh: HashSet::new(),
        })
    }

    /// Counts the bytes of all contents that are here, as the limit does.
    fn bytes_here(&self) -> Result<u64> {
        let txn = self.tree.read()?;
        let (mut bytes, mut after) = (0, None);
        loop {
            let records = txn.contents_after(after.as_ref(), 256, false)?;
            let Some(last) = records.last() else {
                return Ok(bytes);
            };
            after = Some(last.hash);
            for record in records {
                bytes += match record.form {
                    ContentForm::Delta => self.own_bytes(&*txn, &record.hash)?,
                    _ => record.size,
                };
            }
        }
    }

    /// Returns the bytes that a delta takes itself.
    fn own_bytes(&self, txn: &dyn ReadTxn, hash: &Hash) -> Result<u64> {
        let mut own = 0;
        // One that is damaged is for others to find.
        if let Ok(Some(content)) = self.contents.find(txn, hash) {
            content.for_each_part(&mut |part, bytes| {
                if part == *hash {
                    own = bytes;
                }
            });
        }
        Ok(own)
    }

    /// Evicts what was found, until that is enough. Returns whether all of it was gone through; if not,
    /// something has changed.
    fn evict_found(
        &self,
        mut found: Found,
        source: &dyn ContentSource,
        to_bytes: u64,
        task: &Task,
        report: &mut EvictReport,
        files: &mut Vec<(Hash, u64)>,
    ) -> Result<bool> {
        let mut candidates = std::mem::take(&mut found.candidates).into_iter().peekable();
        while report.bytes_here > to_bytes && candidates.peek().is_some() {
            task.cancel().check()?;
            let mut batch: Vec<Candidate> = Vec::new();
            let mut bytes = 0;
            while batch.len() < BATCH
                && report.bytes_here.saturating_sub(bytes) > to_bytes
                && let Some(candidate) = candidates.next()
            {
                bytes += candidate.bytes;
                batch.push(candidate);
            }
            let (go, only_here) = self.confirm(batch, source)?;
            report.only_here += only_here.len() as u64;
            report.only_here_bytes += only_here.iter().map(|c| c.bytes).sum::<u64>();
            let Some(gone) = self.remove(&mut found, go)? else {
                return Ok(false);
            };
            for candidate in &gone {
                report.contents += 1;
                report.bytes += candidate.bytes;
                report.bytes_here = report.bytes_here.saturating_sub(candidate.bytes);
                if candidate.is_file {
                    files.push((candidate.hash, candidate.bytes));
                }
            }
            let hashes: Vec<_> = gone.iter().map(|c| c.hash).collect();
            source.evicted(&hashes);
            self.forget_uses(&hashes)?;
            task.step(Progress {
                files: report.contents,
                bytes: report.bytes,
                ..Progress::default()
            })?;
        }
        Ok(true)
    }

    /// Asks who else has contents; returns those that somebody has, and the others.
    fn confirm(
        &self,
        batch: Vec<Candidate>,
        source: &dyn ContentSource,
    ) -> Result<(Vec<Candidate>, Vec<Candidate>)> {
        let mut by_bucket: HashMap<BucketId, Vec<Candidate>> = HashMap::new();
        for candidate in batch {
            by_bucket
                .entry(candidate.bucket)
                .or_default()
                .push(candidate);
        }
        let (mut go, mut only_here) = (Vec::new(), Vec::new());
        let mut learnt: HashMap<String, Vec<Hash>> = HashMap::new();
        for (bucket, candidates) in by_bucket {
            let hashes: Vec<_> = candidates.iter().map(|c| c.hash).collect();
            let mut holders = source
                .holders(bucket, &hashes, Instant::now() + ANSWER)
                .into_iter();
            for candidate in candidates {
                let peers = holders.next().unwrap_or_default();
                for peer in &peers {
                    learnt.entry(peer.clone()).or_default().push(candidate.hash);
                }
                match peers.is_empty() {
                    true => only_here.push(candidate),
                    false => go.push(candidate),
                }
            }
        }
        for (peer, hashes) in learnt {
            self.note_holders(&peer, &hashes, true)?;
        }
        Ok((go, only_here))
    }

    /// Removes contents, unless anything speaks against it by now; nothing where too much has changed
    /// to tell.
    fn remove(&self, found: &mut Found, go: Vec<Candidate>) -> Result<Option<Vec<Candidate>>> {
        if go.is_empty() {
            return Ok(Some(go));
        }
        let mut txn = self.tree.write(Durability::Full)?;
        if rules(&*txn)? != found.rules {
            return Ok(None);
        }
        let events = match txn.events(None, found.cursor, RECORDS) {
            Ok(events) => events,
            Err(e) if e.kind() == ErrorKind::Lagged => return Ok(None),
            Err(e) => return Err(e),
        };
        if let Some(last) = events.last() {
            let pins = found
                .rules
                .iter()
                .any(|rule| !rule.settings.pins.is_empty());
            let moved = events.iter().any(|e| e.change.op == Op::Rename);
            if (pins && moved) || last.cursor < txn.last_cursor()? {
                return Ok(None);
            }
            found.cursor = last.cursor;
            found
                .fresh
                .extend(events.iter().filter_map(|e| e.change.new));
        }
        for rule in &found.rules {
            let fresh = &mut found.fresh;
            txn.conflict_contents(rule.bucket, found.lost, &mut |side| {
                fresh.insert(side.hash);
                Ok(())
            })?;
        }
        let held = held_here(&*txn)?;
        let mut gone = Vec::new();
        for candidate in go {
            let hash = &candidate.hash;
            let stays = found.fresh.contains(hash)
                || held.contains(hash)
                || txn.is_base(hash)?
                || held::is_promised(&*txn, hash)?;
            if !stays && txn.has_content(hash)? {
                txn.remove_content(hash)?;
                gone.push(candidate);
            }
        }
        txn.commit()?;
        Ok(Some(gone))
    }

    /// Removes the files of contents that are gone; returns whether that was possible.
    fn remove_files(&self, gone: &[(Hash, u64)]) -> Result<bool> {
        for batch in gone.chunks(BATCH) {
            // Views wait for a batch at most.
            let Some(_alone) = self.keeper.no_views()? else {
                return Ok(false);
            };
            let orphans = batch.iter().flat_map(|(hash, bytes)| {
                ["", ".tree", ".delta"].map(|ending| Orphan {
                    area: Area::Blobs,
                    name: format!("{hash}{ending}"),
                    len: *bytes,
                    modified: None,
                })
            });
            let orphans: Vec<_> = orphans.collect();
            let mut txn = self.write()?;
            self.contents.sweep(&mut *txn, &orphans, Duration::ZERO)?;
            txn.commit()?;
        }
        Ok(true)
    }
}

/// Evicts what is beyond the store's limit, for the process with the source.
pub(super) struct Keeping {
    /// The bytes that were here when that was last counted.
    counted: Option<(u64, Instant)>,
    /// Until when it is no use to try again.
    rests: Option<Instant>,
}

/// How long what was counted is relied on, where nothing is fetched.
const COUNTED: Duration = Duration::from_secs(300);

/// For how long the limit does not touch what was used: whoever has waited for it opens it first.
const RECENT: Duration = Duration::from_secs(3);

impl Keeping {
    pub(super) fn new() -> Self {
        Self {
            counted: None,
            rests: None,
        }
    }

    /// Keeps the store under its limit, where it has one.
    pub(super) fn keep(
        &mut self,
        inner: &Arc<Inner>,
        source: &dyn ContentSource,
        task: &Task,
    ) -> Result<()> {
        let Some(limit) = limit(&*inner.tree.read()?)? else {
            self.counted = None;
            return Ok(());
        };
        if self.rests.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let arrived = inner.hub.take_arrived();
        if let Some((bytes, at)) = &mut self.counted {
            *bytes += arrived;
            if *bytes <= limit && at.elapsed() < COUNTED {
                return Ok(());
            }
        }
        let start = Instant::now();
        let found = inner.look_for_evictable(RECENT)?.bytes;
        self.counted = Some((found, Instant::now()));
        if found <= limit {
            return Ok(());
        }
        let report = inner.evict_with(source, limit / 10 * 9, RECENT, task)?;
        self.counted = Some((report.bytes_here, Instant::now()));
        let rest = RECENT.max(start.elapsed() * 20);
        self.rests = (report.bytes_here > limit).then(|| Instant::now() + rest);
        Ok(())
    }
}
