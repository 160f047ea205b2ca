//! Fetching for others, and in the background: what the process does that runs the node.
//!
//! What is to be fetched in the background is derived from the event log: a cursor says up to where what
//! is wanted was queued, so a bulk of arriving entries costs their transactions nothing. Jobs of the
//! queue name some hundred contents each; those that could not be fetched go into a later job.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use alknet_fs_core::rest::Rest;
use alknet_fs_core::store::{
    BucketId, ConflictContent, Durability, Job, JobId, JobOptions, ReadTxn, WriteTxn,
};
use alknet_fs_core::{Cursor, ErrorKind, Event, Hash, Op, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::base::{History, base_of_lost, bases};
use super::evict::{Keeping, Request};
use super::fetch::{Fetched, fetch_from, missing, why_not};
use super::policy::{self, CURSOR, LOST, Wanted};
use super::source::Told;
use super::wait::{Hub, Read, Said, encode};
use super::{
    ContentSource, EVICTIONS, Fetching, Outcome, Priority, READS, WANTED, Want, takes_part,
};
use crate::progress::{Cancel, Task};
use crate::session::Alone;
use crate::store::{Inner, Store, locked};

/// How soon the threads notice that the service ends.
const STEP: Duration = Duration::from_millis(200);

/// The longest pause between two looks at what was committed.
const REST: Duration = Duration::from_millis(20);

/// For how long a claim holds that is not renewed, in seconds, and when it is.
const CLAIM_SECONDS: u32 = 60;
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// How many reads of other processes are served at a time.
const READS_MAX: usize = 64;

/// How many jobs are at work in the background at a time.
const WORKERS: usize = 2;

/// The most contents, and bytes, that one job names.
const JOB_WANTS: usize = 256;
const JOB_BYTES: u64 = 64 << 20;

/// How many log records are looked through at a time.
const RECORDS: usize = 64;

/// How long one call for a job may take, for what it cannot help.
const JOB_TIME: Duration = Duration::from_secs(600);

/// How long what is said of a job outlives it, in seconds.
const SAID_SECONDS: u32 = 60;

/// How often it is said how far a fetch has come.
const SAY_EVERY: Duration = Duration::from_millis(250);

/// After how many seconds what could not be fetched is tried again: at first, and at most.
const RETRY_FIRST: u32 = 5;
const RETRY_MOST: u32 = 3600;

/// A job of the queue [`WANTED`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Wish {
    /// Look for all that the bucket wants and does not have.
    Scan { bucket: BucketId },
    /// Fetch.
    Fetch {
        bucket: BucketId,
        /// How often that has failed.
        tries: u32,
        bytes: u64,
        /// Whether somebody waits for it who asked for just that, and hears what becomes of it.
        #[serde(default)]
        asked: bool,
        wants: Wants,
    },
}

/// Contents with their sizes, and with what they were made from.
pub(super) type Wants = Vec<(Hash, u64, Option<Hash>)>;

/// What is to be fetched in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentQueue {
    /// Contents that wait, or are on their way.
    pub contents: u64,
    /// Their sizes, in bytes.
    pub bytes: u64,
    /// Of the contents, those that could not be fetched at least once and are tried again later.
    pub retried: u64,
    /// Whether it is not known yet what else is wanted.
    pub scanning: bool,
    /// Whether some process is there to fetch them.
    pub served: bool,
}

impl Store {
    /// Fetches contents for all processes of the store, for as long as the result lives: those that
    /// somebody waits for, and in the background those that the buckets' settings want here.
    ///
    /// A store in memory has no queue: there it only sets the source.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] where another process does so.
    pub fn serve_contents(&self, source: Arc<dyn ContentSource>) -> Result<ContentService> {
        let inner = &self.inner;
        let Some(serving) = inner.keeper.serving()? else {
            let detail = "another process fetches contents for this store";
            return Err(locked(detail.to_owned()).op("serve contents"));
        };
        let shared = Arc::new(Shared {
            inner: Arc::clone(inner),
            source: Arc::clone(&source),
            stop: Cancel::new(),
            worker: format!("{}-{}", std::process::id(), crate::store::now().0),
            active: Mutex::default(),
        });
        let mut service = ContentService {
            shared,
            threads: Vec::new(),
            _serving: serving,
        };
        if inner.disk.is_some() {
            service.start()?;
        }
        inner.hub.set_source(Some(source));
        Ok(service)
    }

    /// Tells what is to be fetched in the background.
    pub fn content_queue(&self) -> Result<ContentQueue> {
        let mut queue = ContentQueue {
            served: self.inner.keeper.is_serving()?,
            ..ContentQueue::default()
        };
        let txn = self.inner.tree.read()?;
        txn.jobs(
            WANTED,
            &mut |job| match serde_json::from_str(&job.payload) {
                Ok(Wish::Scan { .. }) => queue.scanning = true,
                Ok(Wish::Fetch {
                    tries,
                    bytes,
                    wants,
                    ..
                }) => {
                    queue.contents += wants.len() as u64;
                    queue.bytes += bytes;
                    if tries > 0 {
                        queue.retried += wants.len() as u64;
                    }
                }
                Err(_) => {}
            },
        )?;
        for bucket in txn.buckets()? {
            if let Some((_, None)) = following(&*txn, bucket.id)? {
                queue.scanning = true;
            }
        }
        Ok(queue)
    }
}

/// Returns what a bucket wants, and the cursor of the events up to which that was queued; nothing where
/// it wants nothing.
fn following(txn: &dyn ReadTxn, bucket: BucketId) -> Result<Option<(Wanted, Option<Cursor>)>> {
    if !takes_part(txn, bucket)? {
        return Ok(None);
    }
    let Some(wanted) = Wanted::of(&policy::load(txn, bucket)?)? else {
        return Ok(None);
    };
    let cursor = queued(txn, bucket, CURSOR)?;
    Ok(Some((wanted, cursor.map(Cursor))))
}

/// Returns up to where what a bucket wants was queued.
fn queued(txn: &dyn ReadTxn, bucket: BucketId, name: &str) -> Result<Option<u64>> {
    let value = txn.value(&policy::scope(bucket), name)?;
    Ok(value.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))))
}

/// Returns what lost in a bucket's conflicts and was not looked at yet.
fn lost_since(txn: &dyn ReadTxn, bucket: BucketId) -> Result<Vec<ConflictContent>> {
    let after = queued(txn, bucket, LOST)?.unwrap_or(0);
    let mut lost = Vec::new();
    txn.conflict_contents(bucket, after, &mut |content| {
        lost.push(content);
        Ok(())
    })?;
    Ok(lost)
}

/// Fetches contents for all processes of a store until it is dropped. What is on its way then is gone on
/// with by the next one.
pub struct ContentService {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    _serving: Alone,
}

struct Shared {
    inner: Arc<Inner>,
    source: Arc<dyn ContentSource>,
    stop: Cancel,
    worker: String,
    /// The jobs at work, whose claims are to be renewed.
    active: Mutex<HashSet<JobId>>,
}

impl ContentService {
    fn start(&mut self) -> Result<()> {
        // Whoever had claimed them is gone: nobody else serves.
        let mut txn = self.shared.inner.tree.write(Durability::Relaxed)?;
        for queue in [READS, WANTED, EVICTIONS] {
            txn.release_jobs(queue)?;
            txn.sweep_jobs(queue)?;
        }
        txn.commit()?;
        self.spawn("reads", |shared| shared.run(Shared::serve_reads))?;
        self.spawn("follow", |shared| {
            let mut histories = HashMap::new();
            shared.run(|shared| shared.follow(&mut histories));
        })?;
        self.spawn("evict", |shared| {
            let mut keeping = Keeping::new();
            shared.run(|shared| shared.tend(&mut keeping));
        })?;
        for _ in 0..WORKERS {
            self.spawn("wanted", |shared| shared.run(Shared::work))?;
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce(&Arc<Shared>) + Send + 'static,
    ) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let builder = thread::Builder::new().name(format!("alknet-fs-{name}"));
        self.threads.push(builder.spawn(move || work(&shared))?);
        Ok(())
    }

    /// Tries again at once what could not be fetched before: to be called when a peer has come.
    pub fn retry(&self) -> Result<()> {
        let mut txn = self.shared.inner.tree.write(Durability::Relaxed)?;
        txn.hurry_jobs(WANTED)?;
        txn.commit()
    }
}

impl Drop for ContentService {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.inner.hub.set_source(None);
        for thread in self.threads.drain(..) {
            // A thread that panicked has reported that itself.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for ContentService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentService")
            .field("worker", &self.shared.worker)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Does something whenever there may be something to do, until the service ends. What is done says
    /// whether there may be more.
    fn run(self: &Arc<Self>, mut work: impl FnMut(&Arc<Self>) -> Result<bool>) {
        let mut seen = 0;
        let mut rest = Rest::new(4, 256, REST);
        while !self.stop.is_cancelled() {
            let begun = Instant::now();
            // What a source does must not end what comes after it.
            match panic::catch_unwind(AssertUnwindSafe(|| work(self))) {
                Ok(Ok(true)) => continue,
                Ok(Ok(false)) => {}
                Err(_) => tracing::error!("a fetch panicked, and is tried again later"),
                Ok(Err(error)) => tracing::warn!(%error, "contents cannot be fetched at this time"),
            }
            rest.pause(begun.elapsed(), thread::sleep, || {
                let now = self.inner.tree.wait_for_commit(seen, Duration::ZERO);
                now.is_ok_and(|now| now != seen)
            });
            match self.inner.tree.wait_for_commit(seen, STEP) {
                Ok(now) => seen = now,
                Err(error) => {
                    tracing::error!(%error, "contents are not fetched any more");
                    return;
                }
            }
        }
    }

    fn write(&self) -> Result<Box<dyn WriteTxn>> {
        // Whatever a power cut undoes is found out again.
        self.inner.tree.write(Durability::Relaxed)
    }

    /// Claims jobs of a queue, if there are any.
    fn claim(&self, queue: &str, limit: usize) -> Result<Vec<Job>> {
        // To look first spares the lock, and those who wait for commits.
        if limit == 0 || !self.inner.tree.read()?.has_due_job(queue)? {
            return Ok(Vec::new());
        }
        let mut txn = self.write()?;
        let jobs = txn.claim_jobs(queue, &self.worker, limit, CLAIM_SECONDS)?;
        txn.commit()?;
        self.active.lock().extend(jobs.iter().map(|job| job.id));
        Ok(jobs)
    }

    /// Ends a claimed job in a transaction.
    fn finish(&self, mut txn: Box<dyn WriteTxn>, job: JobId) -> Result<()> {
        txn.finish_jobs(&[job], &self.worker)?;
        txn.commit()?;
        self.active.lock().remove(&job);
        Ok(())
    }

    /// Gives each read of another process a thread.
    fn serve_reads(self: &Arc<Self>) -> Result<bool> {
        let free = READS_MAX.saturating_sub(self.active.lock().len());
        let jobs = self.claim(READS, free)?;
        let any = !jobs.is_empty();
        for job in jobs {
            let shared = Arc::clone(self);
            let id = job.id;
            let builder = thread::Builder::new().name("alknet-fs-read".to_owned());
            let spawned = builder.spawn(move || {
                if let Err(error) = shared.serve_read(&job) {
                    tracing::warn!(%error, "a read of another process could not be served");
                }
                shared.active.lock().remove(&job.id);
            });
            if spawned.is_err() {
                self.active.lock().remove(&id);
            }
        }
        Ok(any)
    }

    /// Brings a content, and says how that goes to the process that waits.
    fn serve_read(&self, job: &Job) -> Result<()> {
        let Ok(Read { want, seconds }) = serde_json::from_str(&job.payload) else {
            return self.finish(self.write()?, job.id);
        };
        let deadline = Instant::now() + Duration::from_secs(u64::from(seconds));
        let hub = &self.inner.hub;
        let mut flight = hub.join(&self.source, want.clone(), deadline);
        let mut last = Said::default();
        let nobody = Fetching::new();
        let mut renewed = Instant::now();
        let result = loop {
            let step = deadline.min(Instant::now() + STEP);
            let (said, known) = match Hub::wait(&flight, step, &nobody) {
                Ok(waited) => waited,
                Err(error) => break Err(error),
            };
            if known && flight.is_outlived(&said, deadline) {
                hub.leave(&flight);
                flight = hub.join(&self.source, want.clone(), deadline);
                continue;
            }
            let over = known || self.stop.is_cancelled() || Instant::now() >= deadline;
            if said != last {
                let say = || {
                    let mut txn = self.write()?;
                    txn.set_job_result(job.id, &encode(&said)?, SAID_SECONDS)?;
                    match known {
                        true => self.finish(txn, job.id),
                        false => txn.commit(),
                    }
                };
                if let Err(error) = say() {
                    break Err(error);
                }
                last = said;
            }
            if over {
                break Ok(());
            }
            if renewed.elapsed() > RENEW_EVERY {
                renewed = Instant::now();
                let mut txn = self.write()?;
                let waits = txn.renew_job(job.id, &self.worker, CLAIM_SECONDS)?;
                txn.commit()?;
                if !waits {
                    break Ok(());
                }
            }
        };
        hub.leave(&flight);
        result
    }

    /// Queues what the buckets want of what came since.
    fn follow(&self, histories: &mut HashMap<BucketId, History>) -> Result<bool> {
        let mut more = false;
        histories.retain(|_, history| history.is_fresh());
        let buckets = self.inner.tree.read()?.buckets()?;
        for bucket in buckets {
            let txn = self.inner.tree.read()?;
            let Some((wanted, cursor)) = following(&*txn, bucket.id)? else {
                continue;
            };
            if !lost_since(&*txn, bucket.id)?.is_empty() {
                drop(txn);
                self.follow_conflicts(bucket.id)?;
                more = true;
                continue;
            }
            let last = txn.last_cursor()?;
            let cursor = match cursor {
                Some(cursor) if cursor >= last => continue,
                cursor => cursor,
            };
            let events = match cursor {
                Some(cursor) => txn.events(Some(bucket.id), cursor, RECORDS),
                None => Err(ErrorKind::Lagged.into()),
            };
            let (wishes, next) = match events {
                Ok(events) => {
                    let next = events.last().map_or(last, |event| event.cursor);
                    let history = histories.remove(&bucket.id);
                    let mut history = history
                        .filter(|history| cursor.is_some_and(|cursor| history.goes_on(cursor)))
                        .unwrap_or_else(|| History::before(bucket.id, &events, next));
                    history.take_in(&events, next);
                    let wishes = wishes_of(&*txn, &mut history, &wanted, &events)?;
                    histories.insert(bucket.id, history);
                    (wishes, next)
                }
                Err(e) if e.kind() == ErrorKind::Lagged => {
                    (vec![Wish::Scan { bucket: bucket.id }], last)
                }
                Err(e) => return Err(e),
            };
            drop(txn);
            let mut txn = self.write()?;
            // Somebody may have changed what is wanted meanwhile.
            let now = following(&*txn, bucket.id)?;
            if now.is_some_and(|(_, now)| now == cursor) {
                for wish in &wishes {
                    txn.enqueue(WANTED, &encode(wish)?, &JobOptions::default())?;
                }
                let value = next.0.to_le_bytes();
                txn.set_value(&policy::scope(bucket.id), CURSOR, Some(&value))?;
                txn.commit()?;
            }
            more = true;
        }
        Ok(more)
    }

    /// Queues what a bucket wants of what lost in conflicts: no event tells of it.
    fn follow_conflicts(&self, bucket: BucketId) -> Result<()> {
        let mut txn = self.write()?;
        let Some((wanted, _)) = following(&*txn, bucket)? else {
            return Ok(());
        };
        let (mut wishes, mut last) = (Wishes::new(bucket, 0), None);
        for lost in lost_since(&*txn, bucket)? {
            if wanted.has(lost.path.as_str()) && !txn.has_content(&lost.hash)? {
                let base = base_of_lost(&*txn, lost.branch, &lost.path, lost.size)?;
                wishes.add(lost.hash, lost.size, base);
            }
            last = Some(lost.number.to_le_bytes());
        }
        for wish in wishes.close() {
            txn.enqueue(WANTED, &encode(&wish)?, &JobOptions::default())?;
        }
        if let Some(last) = last {
            txn.set_value(&policy::scope(bucket), LOST, Some(&last))?;
        }
        txn.commit()
    }

    /// Does the next job of the background.
    fn work(self: &Arc<Self>) -> Result<bool> {
        let Some(job) = self.claim(WANTED, 1)?.pop() else {
            return Ok(false);
        };
        let done = match serde_json::from_str(&job.payload) {
            Ok(Wish::Scan { bucket }) => self.scan(&job, bucket),
            Ok(Wish::Fetch {
                bucket,
                asked: true,
                wants,
                ..
            }) => self.fetch_asked(&job, bucket, wants),
            Ok(Wish::Fetch {
                bucket,
                tries,
                wants,
                ..
            }) => self.fetch(&job, bucket, tries, wants),
            // Written by some other version of this program.
            Err(_) => self.finish(self.write()?, job.id),
        };
        self.active.lock().remove(&job.id);
        done.map(|()| true)
    }

    /// Queues all that a bucket wants and does not have.
    fn scan(&self, job: &Job, bucket: BucketId) -> Result<()> {
        let txn = self.inner.tree.read()?;
        let mut wishes = Wishes::new(bucket, 0);
        if let Some((wanted, _)) = following(&*txn, bucket)? {
            let mut missing = BTreeMap::new();
            txn.missing_contents(bucket, &mut |parent, name, hash, size| {
                let slash = if parent == "/" { "" } else { "/" };
                if wanted.has(&format!("{parent}{slash}{name}")) {
                    missing.insert(hash, size);
                }
                Ok(match self.stop.is_cancelled() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            })?;
            self.stop.check()?;
            let bases = bases(&*txn, bucket, missing.iter().map(|(h, size)| (*h, *size)))?;
            for (hash, size) in missing {
                wishes.add(hash, size, bases.get(&hash).copied());
            }
        }
        drop(txn);
        let mut txn = self.write()?;
        for wish in wishes.close() {
            txn.enqueue(WANTED, &encode(&wish)?, &JobOptions::default())?;
        }
        self.finish(txn, job.id)
    }

    /// Fetches what a job names; what could not be fetched is queued again for later.
    fn fetch(&self, job: &Job, bucket: BucketId, tries: u32, wants: Wants) -> Result<()> {
        let txn = self.inner.tree.read()?;
        if following(&*txn, bucket)?.is_none() {
            return self.finish(self.write()?, job.id);
        }
        let missing = missing(&*txn, bucket, wants, Priority::Background)?;
        drop(txn);
        let Some(outcomes) = self.fetch_missing(job, &missing, |_| {}) else {
            return Ok(());
        };
        let mut txn = self.write()?;
        let mut again = Wishes::new(bucket, tries + 1);
        for (want, outcome) in missing.iter().zip(outcomes) {
            if !matches!(outcome, Outcome::Here { .. }) || !txn.has_content(&want.hash)? {
                again.add(want.hash, want.size, want.base);
            }
        }
        let options = JobOptions {
            delay: RETRY_FIRST
                .saturating_mul(1 << tries.min(16))
                .min(RETRY_MOST),
            ..JobOptions::default()
        };
        for wish in again.close() {
            txn.enqueue(WANTED, &encode(&wish)?, &options)?;
        }
        self.finish(txn, job.id)
    }

    /// Fetches what a job names for the process that waits for it, and says how that goes.
    fn fetch_asked(&self, job: &Job, bucket: BucketId, wants: Wants) -> Result<()> {
        let missing = missing(&*self.inner.tree.read()?, bucket, wants, Priority::Asked)?;
        let so_far = Mutex::new((Fetched::default(), Instant::now()));
        let say = |fetched: &Fetched| {
            let mut txn = self.write()?;
            txn.set_job_result(job.id, &encode(fetched)?, SAID_SECONDS)?;
            txn.commit()
        };
        let tell = |told: Told| {
            if matches!(told, Told::Waiting(..)) {
                return;
            }
            let mut so_far = so_far.lock();
            let (fetched, said) = &mut *so_far;
            if let Told::Done(at, Outcome::Here { .. }) = told {
                fetched.contents += 1;
                fetched.bytes += missing.get(at).map_or(0, |want| want.size);
            }
            if said.elapsed() > SAY_EVERY {
                *said = Instant::now();
                if let Err(error) = say(fetched) {
                    tracing::debug!(%error, "progress could not be told");
                }
            }
        };
        let Some(outcomes) = self.fetch_missing(job, &missing, tell) else {
            return Ok(());
        };
        let mut fetched = Fetched {
            done: true,
            ..Fetched::default()
        };
        let mut txn = self.write()?;
        for (want, outcome) in missing.iter().zip(outcomes) {
            if txn.has_content(&want.hash)? {
                fetched.contents += 1;
                fetched.bytes += want.size;
            } else {
                fetched.failed.push((want.hash, why_not(&outcome)));
            }
        }
        txn.set_job_result(job.id, &encode(&fetched)?, SAID_SECONDS)?;
        self.finish(txn, job.id)
    }

    /// Asks the source, and keeps the claim meanwhile; nothing where the service ends.
    fn fetch_missing(
        &self,
        job: &Job,
        missing: &[Want],
        tell: impl Fn(Told) + Send,
    ) -> Option<Vec<Outcome>> {
        if missing.is_empty() {
            return Some(Vec::new());
        }
        let outcomes = thread::scope(|scope| {
            let (over, ended) = crossbeam_channel::bounded::<()>(0);
            scope.spawn(move || {
                while let Err(crossbeam_channel::RecvTimeoutError::Timeout) =
                    ended.recv_timeout(RENEW_EVERY)
                {
                    if let Err(error) = self.renew(job.id) {
                        tracing::debug!(%error, "a claim could not be renewed");
                    }
                }
            });
            let fetched = fetch_from(&*self.source, missing, JOB_TIME, &self.stop, tell);
            drop(over);
            fetched
        });
        let arrived = missing.iter().zip(&outcomes);
        let arrived = arrived.filter(|(_, outcome)| matches!(outcome, Outcome::Here { .. }));
        self.inner
            .hub
            .add_arrived(arrived.map(|(want, _)| want.size).sum());
        let mut from: HashMap<&str, Vec<Hash>> = HashMap::new();
        for (want, outcome) in missing.iter().zip(&outcomes) {
            if let Outcome::Here { from: Some(peer) } = outcome {
                from.entry(peer).or_default().push(want.hash);
            }
        }
        for (peer, hashes) in from {
            if let Err(error) = self.inner.note_holders(peer, &hashes, true) {
                tracing::debug!(%error, "who has what could not be noted");
            }
        }
        (!self.stop.is_cancelled()).then_some(outcomes)
    }

    /// Evicts what others ask for, and what is beyond the store's limit.
    fn tend(&self, keeping: &mut Keeping) -> Result<bool> {
        let task = Task::new().cancel_with(&self.stop);
        for job in self.claim(EVICTIONS, 1)? {
            let answer = match serde_json::from_str(&job.payload) {
                Ok(Request { to_bytes }) => self
                    .inner
                    .evict_with(&*self.source, to_bytes, Duration::ZERO, &task)
                    .map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            let mut txn = self.write()?;
            txn.set_job_result(job.id, &encode(&answer)?, SAID_SECONDS)?;
            self.finish(txn, job.id)?;
        }
        match keeping.keep(&self.inner, &*self.source, &task) {
            // Whoever collects garbage makes room too.
            Err(e) if e.is_locked() || e.is_cancelled() => Ok(false),
            kept => kept.map(|()| false),
        }
    }

    fn renew(&self, job: JobId) -> Result<()> {
        let mut txn = self.write()?;
        txn.renew_job(job, &self.worker, CLAIM_SECONDS)?;
        txn.commit()
    }
}

/// Collects what is wanted into jobs.
pub(super) struct Wishes {
    bucket: BucketId,
    tries: u32,
    asked: bool,
    bytes: u64,
    wants: Wants,
    done: Vec<Wish>,
}

impl Wishes {
    /// Collects what somebody waits for.
    pub(super) fn asked(bucket: BucketId) -> Self {
        Self {
            asked: true,
            ..Self::new(bucket, 0)
        }
    }

    fn new(bucket: BucketId, tries: u32) -> Self {
        Self {
            bucket,
            tries,
            asked: false,
            bytes: 0,
            wants: Vec::new(),
            done: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, hash: Hash, size: u64, base: Option<Hash>) {
        if self.wants.len() >= JOB_WANTS || self.bytes.saturating_add(size) > JOB_BYTES {
            self.cut();
        }
        self.bytes = self.bytes.saturating_add(size);
        self.wants.push((hash, size, base));
    }

    fn cut(&mut self) {
        if self.wants.is_empty() {
            return;
        }
        self.done.push(Wish::Fetch {
            bucket: self.bucket,
            tries: self.tries,
            bytes: std::mem::take(&mut self.bytes),
            asked: self.asked,
            wants: std::mem::take(&mut self.wants),
        });
    }

    pub(super) fn close(mut self) -> Vec<Wish> {
        self.cut();
        self.done
    }
}

/// Returns the jobs for what events brought that is wanted and not here.
fn wishes_of(
    txn: &dyn ReadTxn,
    history: &mut History,
    wanted: &Wanted,
    events: &[Event],
) -> Result<Vec<Wish>> {
    let mut missing: BTreeMap<Hash, Missing> = BTreeMap::new();
    for event in events {
        let change = &event.change;
        // A directory that moves to where it is pinned takes along what no event names.
        if matches!((change.op, wanted), (Op::Rename, Wanted::Pinned(_))) {
            let bucket = history.bucket();
            return Ok(vec![Wish::Scan { bucket }]);
        }
        let (Some(hash), Some(path)) = (change.new, &change.path) else {
            continue;
        };
        if !wanted.has(path.as_str()) || txn.has_content(&hash)? {
            continue;
        }
        let missing = missing.entry(hash).or_default();
        missing.size = change.size.unwrap_or(0);
        if let Some(old) = change.old {
            match txn.has_content(&old)? {
                true => missing.base = Some(old),
                false => missing.has_older = true,
            }
        }
    }
    let far = missing
        .iter()
        .filter(|(_, m)| m.base.is_none() && m.has_older);
    let far = far.map(|(hash, missing)| (*hash, missing.size));
    let bases = history.bases(txn, far)?;
    let mut wishes = Wishes::new(history.bucket(), 0);
    for (hash, Missing { size, base, .. }) in missing {
        wishes.add(hash, size, base.or_else(|| bases.get(&hash).copied()));
    }
    Ok(wishes.close())
}

/// A content that an event brought that is not here.
#[derive(Default)]
struct Missing {
    size: u64,
    /// What its path had before, if that is here.
    base: Option<Hash>,
    /// Whether its path had something before that is not here either.
    has_older: bool,
}
