//! Fetching what somebody asks for, many contents at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use alknet_fs_core::store::{BucketId, Durability, JobId, JobOptions, ReadTxn};
use alknet_fs_core::tree::{self, Follow, Walk};
use alknet_fs_core::{Error, ErrorKind, Hash, Node, Result, TreePath};
use serde::{Deserialize, Serialize};

use super::base::{base_of_lost, bases};
use super::service::{Wants, Wish, Wishes};
use super::source::Told;
use super::wait::encode;
use super::{ContentSource, Fetch, Outcome, Priority, WANTED, Want, takes_part};
use crate::bucket::Bucket;
use crate::progress::{Cancel, Progress, Task};
use crate::store::{Inner, IntoPath};
use crate::view::View;

/// How many jobs wait at a time for the process that has a source.
const WINDOW: usize = 4;

/// How long one call may take that nobody cancels.
const CALL_TIME: Duration = Duration::from_secs(3600);

/// How soon a process without a source notices that nobody fetches.
const STEP: Duration = Duration::from_millis(50);

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchReport {
    /// Contents that were fetched.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What could not be fetched; at most [`Self::MOST_FAILED`].
    pub failed: Vec<Unfetched>,
    /// How many more could not be fetched.
    pub more_failed: u64,
}

impl FetchReport {
    /// How many contents are named that could not be fetched.
    pub const MOST_FAILED: usize = 100;

    fn fail(&mut self, path: &TreePath, hash: Hash, why: String) {
        if self.failed.len() >= Self::MOST_FAILED {
            self.more_failed += 1;
            return;
        }
        self.failed.push(Unfetched {
            path: path.clone(),
            hash,
            why,
        });
    }
}

/// A content that could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfetched {
    /// One of the paths that have it.
    pub path: TreePath,
    /// Its hash.
    pub hash: Hash,
    /// Why, and who was asked.
    pub why: String,
}

/// What the process with a source says of a job.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Fetched {
    pub(super) done: bool,
    pub(super) contents: u64,
    pub(super) bytes: u64,
    pub(super) failed: Vec<(Hash, String)>,
}

/// What is missing, by hash.
type Missing = BTreeMap<Hash, Lack>;

/// A content that is missing.
struct Lack {
    size: u64,
    /// One of the paths that have it.
    path: TreePath,
    /// What is here that it may have been made from.
    base: Option<Hash>,
}

impl Lack {
    fn new(size: u64, path: TreePath) -> Self {
        Self {
            size,
            path,
            base: None,
        }
    }
}

/// Looks for what the contents were made from that have no base.
fn find_bases(txn: &dyn ReadTxn, bucket: BucketId, missing: &mut Missing) -> Result<()> {
    let lacks = missing.iter().filter(|(_, lack)| lack.base.is_none());
    let found = bases(txn, bucket, lacks.map(|(hash, lack)| (*hash, lack.size)))?;
    for (hash, base) in found {
        if let Some(lack) = missing.get_mut(&hash) {
            lack.base = Some(base);
        }
    }
    Ok(())
}

/// Asks a source, and returns what became of each want.
pub(super) fn fetch_from(
    source: &dyn ContentSource,
    wants: &[Want],
    time: Duration,
    cancel: &Cancel,
    tell: impl Fn(Told) + Send,
) -> Vec<Outcome> {
    thread::scope(|scope| {
        let (heard, hear) = crossbeam_channel::unbounded();
        let end = heard.clone();
        let fetch = Fetch::told(Instant::now() + time, cancel, move |told| {
            // Whoever still tells after the call tells nobody.
            let _ = heard.send(Some(told));
        });
        let telling = scope.spawn(move || hear.iter().map_while(|told| told).for_each(tell));
        // Also where the source panics.
        let end = End(end);
        source.fetch(wants, &fetch);
        drop(end);
        if let Err(panic) = telling.join() {
            std::panic::resume_unwind(panic);
        }
        fetch.outcomes(wants.len())
    })
}

/// Ends the telling when it is dropped.
struct End(crossbeam_channel::Sender<Option<Told>>);

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.0.send(None);
    }
}

/// Makes wants of those contents that are not here.
pub(super) fn missing(
    txn: &dyn ReadTxn,
    bucket: BucketId,
    wants: Wants,
    priority: Priority,
) -> Result<Vec<Want>> {
    let mut missing = Vec::new();
    for (hash, size, base) in wants {
        if !txn.has_content(&hash)? {
            missing.push(Want {
                bucket,
                hash,
                size,
                base,
                priority,
            });
        }
    }
    Ok(missing)
}

/// Says why a content is not here.
pub(super) fn why_not(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Here { .. } => "it was said to have arrived, and has not".to_owned(),
        Outcome::Nobody { asked } if asked.is_empty() => {
            "no peer is connected that could be asked for it".to_owned()
        }
        Outcome::Nobody { asked } => format!("nobody who was asked has it ({})", asked.join(", ")),
        Outcome::Failed { asked, why } if asked.is_empty() => {
            format!("it could not be fetched: {why}")
        }
        Outcome::Failed { asked, why } => {
            format!("it could not be fetched from {}: {why}", asked.join(", "))
        }
    }
}

impl View {
    /// Fetches what a path, or all below it, has of contents that are not here.
    ///
    /// The progress counts contents, and their bytes.
    ///
    /// # Errors
    /// As [`stat`](Self::stat); [`ErrorKind::Cancelled`]; [`ErrorKind::ContentUnavailable`] where no
    /// process of the store can ask anybody. What could not be fetched is in the report.
    pub fn fetch(&self, path: impl IntoPath, task: &Task) -> Result<FetchReport> {
        let path = path.into_path().map_err(|e| e.op("fetch"))?;
        let find = || {
            self.with(|txn, chain| {
                let mut missing = Missing::new();
                let mut find = |path: &TreePath, node: &Node| {
                    if let Node::File { hash, size } = *node
                        && !txn.has_content(&hash)?
                    {
                        let lack = || Lack::new(size, path.clone());
                        missing.entry(hash).or_insert_with(lack);
                    }
                    task.cancel().check()
                };
                let (real, entry) = tree::resolve(txn, chain, &path, Follow::Yes)?;
                find(&real, &entry.node)?;
                if entry.is_dir() {
                    tree::walk(txn, chain, &real, &mut |path, entry| {
                        find(path, &entry.node)?;
                        Ok(Walk::Continue)
                    })?;
                }
                find_bases(txn, chain.bucket(), &mut missing)?;
                Ok((chain.bucket(), missing))
            })
        };
        let (bucket, missing) = find().map_err(|e: Error| e.op("fetch").path(&path))?;
        let fetched = self.inner().fetch_all(bucket, &missing, task);
        fetched.map_err(|e| e.op("fetch"))
    }
}

impl Bucket {
    /// Fetches all contents that are not here of all that the bucket's branches and snapshots show, and
    /// what lost in conflicts that nobody has decided.
    ///
    /// # Errors
    /// As [`View::fetch`].
    pub fn fetch(&self, task: &Task) -> Result<FetchReport> {
        let find = || {
            let txn = self.inner.tree.read()?;
            let mut missing = Missing::new();
            txn.missing_contents(self.id, &mut |parent, name, hash, size| {
                let lack = || Lack::new(size, TreePath::from_stored(parent, name));
                missing.entry(hash).or_insert_with(lack);
                task.cancel().check()?;
                Ok(ControlFlow::Continue(()))
            })?;
            txn.conflict_contents(self.id, 0, &mut |lost| {
                if !txn.has_content(&lost.hash)? && !missing.contains_key(&lost.hash) {
                    let base = base_of_lost(&*txn, lost.branch, &lost.path, lost.size)?;
                    let lack = Lack::new(lost.size, lost.path);
                    missing.insert(lost.hash, Lack { base, ..lack });
                }
                task.cancel().check()
            })?;
            find_bases(&*txn, self.id, &mut missing)?;
            Ok(missing)
        };
        let fetched = find().and_then(|missing| self.inner.fetch_all(self.id, &missing, task));
        fetched.map_err(|e: Error| e.op("fetch"))
    }
}

impl Inner {
    fn fetch_all(&self, bucket: BucketId, missing: &Missing, task: &Task) -> Result<FetchReport> {
        if missing.is_empty() {
            return Ok(FetchReport::default());
        }
        if !takes_part(&*self.tree.read()?, bucket)? {
            let detail =
                "contents are missing, and the bucket is this store's alone: run `alkfs fsck`";
            return Err(Error::with_detail(ErrorKind::Corrupt, detail));
        }
        let mut wishes = Wishes::asked(bucket);
        for (hash, lack) in missing {
            wishes.add(*hash, lack.size, lack.base);
        }
        let all = Progress {
            total_files: missing.len() as u64,
            total_bytes: missing
                .values()
                .fold(0, |sum, lack| lack.size.saturating_add(sum)),
            ..Progress::default()
        };
        task.step(all)?;
        let mut report = FetchReport::default();
        match self.hub.source() {
            Some(source) => {
                for wish in wishes.close() {
                    let Wish::Fetch { wants, .. } = wish else {
                        continue;
                    };
                    self.fetch_some(&*source, bucket, wants, missing, all, task, &mut report)?;
                }
            }
            None => self.fetch_by_queue(wishes.close(), missing, all, task, &mut report)?,
        }
        Ok(report)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a loop")]
    fn fetch_some(
        &self,
        source: &dyn ContentSource,
        bucket: BucketId,
        wants: Wants,
        all_missing: &Missing,
        all: Progress,
        task: &Task,
        report: &mut FetchReport,
    ) -> Result<()> {
        let wants = missing(&*self.tree.read()?, bucket, wants, Priority::Asked)?;
        let before = (report.contents, report.bytes);
        let done = Mutex::new((before, HashMap::<usize, u64>::new()));
        let tell = |told: Told| {
            let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
            let ((contents, bytes), coming) = &mut *done;
            match told {
                Told::Bytes(at, arrived) => {
                    coming.insert(at, arrived);
                }
                Told::Done(at, outcome) => {
                    coming.remove(&at);
                    if matches!(outcome, Outcome::Here { .. }) {
                        *contents += 1;
                        *bytes += wants.get(at).map_or(0, |want| want.size);
                    }
                }
                Told::Asking(..) | Told::Waiting(..) => return,
            }
            let progress = Progress {
                files: *contents,
                bytes: *bytes + coming.values().sum::<u64>(),
                ..all
            };
            // Who cancels is noticed by the source, and below.
            let _ = task.step(progress);
        };
        let outcomes = fetch_from(source, &wants, CALL_TIME, task.cancel(), tell);
        let txn = self.tree.read()?;
        for (want, outcome) in wants.iter().zip(outcomes) {
            if txn.has_content(&want.hash)? {
                report.contents += 1;
                report.bytes += want.size;
            } else if let Some(lack) = all_missing.get(&want.hash) {
                report.fail(&lack.path, want.hash, why_not(&outcome));
            }
        }
        task.cancel().check()
    }

    fn fetch_by_queue(
        &self,
        wishes: Vec<Wish>,
        missing: &Missing,
        all: Progress,
        task: &Task,
        report: &mut FetchReport,
    ) -> Result<()> {
        let mut jobs: Vec<JobId> = Vec::new();
        let fetched = self.fetch_jobs(wishes, missing, all, task, report, &mut jobs);
        if !jobs.is_empty() {
            let mut txn = self.tree.write(Durability::Relaxed)?;
            for job in jobs {
                txn.cancel_job(job)?;
            }
            txn.commit()?;
        }
        fetched
    }

    fn fetch_jobs(
        &self,
        wishes: Vec<Wish>,
        missing: &Missing,
        all: Progress,
        task: &Task,
        report: &mut FetchReport,
        jobs: &mut Vec<JobId>,
    ) -> Result<()> {
        if self.disk.is_none() || !self.keeper.is_serving()? {
            let detail = "no process of this store runs a node: start one with `alkfs node`";
            return Err(Error::with_detail(ErrorKind::ContentUnavailable, detail));
        }
        let options = JobOptions {
            priority: 1,
            ..JobOptions::default()
        };
        let mut wishes = wishes.into_iter().peekable();
        let mut seen = 0;
        loop {
            if jobs.len() < WINDOW && wishes.peek().is_some() {
                let mut txn = self.tree.write(Durability::Relaxed)?;
                while jobs.len() < WINDOW
                    && let Some(wish) = wishes.next()
                {
                    jobs.push(txn.enqueue(WANTED, &encode(&wish)?, &options)?);
                }
                txn.commit()?;
            }
            let mut coming = (0, 0);
            let txn = self.tree.read()?;
            let mut still = Vec::new();
            for job in jobs.drain(..) {
                let said = txn.job_result(job)?;
                let said: Fetched = said
                    .and_then(|said| serde_json::from_str(&said).ok())
                    .unwrap_or_default();
                if !said.done {
                    coming = (coming.0 + said.contents, coming.1 + said.bytes);
                    still.push(job);
                    continue;
                }
                report.contents += said.contents;
                report.bytes += said.bytes;
                for (hash, why) in said.failed {
                    if let Some(lack) = missing.get(&hash) {
                        report.fail(&lack.path, hash, why);
                    }
                }
            }
            *jobs = still;
            drop(txn);
            task.step(Progress {
                files: report.contents + coming.0,
                bytes: report.bytes + coming.1,
                ..all
            })?;
            if jobs.is_empty() && wishes.peek().is_none() {
                return Ok(());
            }
            if !self.keeper.is_serving()? {
                let detail = "the process that runs the node has ended: start `alkfs node` again";
                return Err(Error::with_detail(ErrorKind::ContentUnavailable, detail));
            }
            if jobs.len() == WINDOW || wishes.peek().is_none() {
                seen = self.tree.wait_for_commit(seen, STEP)?;
            }
        }
    }
}
