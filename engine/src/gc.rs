//! Garbage collection.
//!
//! The scans run in read transactions, so writers never wait for them; what they found is acted on
//! in short write transactions, each of which checks what may have changed since.
//!
//! A content goes in two steps. A scan that finds it unreferenced marks it; whoever refers to it
//! again takes the mark off, in the same transaction. A scan that begins later, finds it
//! unreferenced still, and marked for the grace period, lets it go, unless the mark is another one
//! by then. So a reference made before that scan is seen by it, and one made afterwards is seen by
//! the mark. A content that another builds on as a delta never goes before that one.
//!
//! One collection runs at a time.
//!
//! Files go last, and only while no view is open anywhere: a view may still show what was removed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use alknet_fs_content::is_gone;
use alknet_fs_core::store::{
    BranchId, BucketId, ContentForm, Durability, Epoch, Layer, ReadTxn, Retention, Schedule,
};
use alknet_fs_core::{Error, ErrorKind, Hash, Result, Timestamp, TreePath};
use serde::{Deserialize, Serialize};

use crate::content::held::{is_among, promised};
use crate::progress::{Progress, Task};
use crate::store::{Inner, Store, locked, now};

/// How many rows or contents one write transaction removes, so that writers wait for milliseconds.
const BATCH: usize = 1000;

/// For how long what has arrived of a content is kept that an entry refers to, with no more coming.
const WANTED_PARTIALS: Duration = Duration::from_secs(7 * 24 * 3600);

/// How to collect garbage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcOptions {
    grace: Duration,
    #[serde(skip)]
    dry_run: bool,
    keep_events_for: Option<Duration>,
    keep_events: Option<u64>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(3600),
            dry_run: false,
            keep_events_for: None,
            keep_events: None,
        }
    }
}

impl GcOptions {
    /// Creates the default options: a grace period of one hour, and all events stay.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets for how long content must have been known to be unreferenced before it is removed.
    /// A collection finds out what is; so with any other grace period than zero, it takes a second
    /// one to remove it.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets whether to report only what would be removed: what is free now, not what becomes free
    /// only by removing that, and no events.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets how old events get before they go; a watcher that has not seen them is told that it
    /// lagged.
    #[must_use]
    pub fn keep_events_for(mut self, age: Duration) -> Self {
        self.keep_events_for = Some(age);
        self
    }

    /// Sets how many of its newest events each bucket keeps, about: see [`Retention::at_most`].
    #[must_use]
    pub fn keep_events(mut self, count: u64) -> Self {
        self.keep_events = Some(count);
        self
    }

    fn retention(&self) -> Option<Retention> {
        let not_before = self.keep_events_for.map(|age| {
            let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
            Timestamp(now().0.saturating_sub(age))
        });
        let retention = Retention {
            not_before,
            at_most: self.keep_events,
        };
        (retention != Retention::default()).then_some(retention)
    }
}

/// When garbage is collected, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcSchedule {
    /// When: five cron fields in local time, or `@every 6h`.
    pub when: String,
    /// How.
    pub options: GcOptions,
    /// When next.
    pub next: Timestamp,
}

/// The name of the schedule in the store.
const SCHEDULE: &str = "gc";

/// How long a scheduled collection may take before another process takes it for dead.
const CLAIM_SECONDS: u32 = 3600;

/// What a collection removed, or would remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Events that were too old or too many.
    pub events: u64,
    /// Versions of entries that no branch and no snapshot shows.
    pub versions: u64,
    /// Contents that nothing has referred to for the grace period.
    pub contents: u64,
    /// Their sizes, in bytes. A delta counts with its full size.
    pub content_bytes: u64,
    /// Contents that nothing refers to and whose grace period is not over.
    pub waiting: u64,
    /// Their sizes, in bytes.
    pub waiting_bytes: u64,
    /// Deltas that were rewritten in full, because only they kept a base alive.
    pub flattened: u64,
    /// Files that were removed from the disk.
    pub files: u64,
    /// Their sizes, in bytes.
    pub file_bytes: u64,
    /// Whether removing files was put off because a view was open.
    pub files_deferred: bool,
}

impl Store {
    /// Removes what nothing refers to any more: old versions of entries that neither a branch nor a
    /// snapshot shows, contents, and files left by crashes; and old events if asked to.
    ///
    /// What has arrived of a content from a peer goes when no more has come for the grace period, or for
    /// seven days where an entry refers to the content.
    ///
    /// Safe to run while others read and write: what an open reader, view or session holds stays
    /// readable. The progress counts the steps of the work, and the bytes of removed contents.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`]; what was removed before stays removed. [`ErrorKind::Locked`] while
    /// another collection runs. The store's own.
    pub fn gc(&self, options: &GcOptions, task: &Task) -> Result<GcReport> {
        let span = tracing::info_span!("gc");
        let _entered = span.enter();
        let inner = &*self.inner;
        if options.dry_run {
            return inner.look_for_garbage(options);
        }
        let Some(_collecting) = inner.keeper.collecting()? else {
            return Err(locked("another garbage collection is at work".into()).op("gc"));
        };
        inner.collect(options, task)
    }

    /// Sets when garbage is collected, in place of any earlier schedule. The store keeps it;
    /// [`gc_if_due`](Self::gc_if_due) follows it, in whichever process calls that.
    ///
    /// `when` is five cron fields in local time, such as `0 3 * * *`, or an interval, such as
    /// `@every 6h` (`s`, `m`, `h` or `d`).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for any other time; [`ErrorKind::Unsupported`] in memory.
    pub fn schedule_gc(&self, when: &str, options: &GcOptions) -> Result<()> {
        let set = || {
            let payload =
                serde_json::to_string(options).map_err(|e| Error::new(ErrorKind::Io).source(e))?;
            let mut txn = self.inner.write()?;
            txn.set_schedule(SCHEDULE, when, &payload)?;
            txn.commit()
        };
        set().map_err(|e: Error| e.op("schedule gc"))
    }

    /// Ends the schedule; returns whether there was one.
    pub fn unschedule_gc(&self) -> Result<bool> {
        let mut txn = self.inner.write()?;
        let had = txn.remove_schedule(SCHEDULE)?;
        txn.commit()?;
        Ok(had)
    }

    /// Returns the schedule.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it does not parse.
    pub fn gc_schedule(&self) -> Result<Option<GcSchedule>> {
        self.inner
            .schedule()?
            .map(|schedule| {
                Ok(GcSchedule {
                    options: decode(&schedule.payload)?,
                    when: schedule.when,
                    next: schedule.next,
                })
            })
            .transpose()
    }

    /// Collects garbage if the schedule says that it is time and no other process does; returns
    /// what that removed. Meant to be called now and then by programs that run for long, or by cron.
    ///
    /// # Errors
    /// As [`gc`](Self::gc); the collection is then due again after an hour.
    pub fn gc_if_due(&self, task: &Task) -> Result<Option<GcReport>> {
        let inner = &self.inner;
        let now = now();
        if inner.schedule()?.is_none() {
            return Ok(None);
        }
        let Some(_collecting) = inner.keeper.collecting()? else {
            return Ok(None);
        };
        let worker = format!("{}-{}", std::process::id(), now.0);
        let mut txn = inner.write()?;
        let due = txn.claim_due(SCHEDULE, now, &worker, CLAIM_SECONDS)?;
        txn.commit()?;
        let Some(due) = due else {
            return Ok(None);
        };
        let report = inner.collect(&decode(&due.payload)?, task)?;
        let mut txn = inner.write()?;
        txn.finish_due(&due, &worker)?;
        txn.commit()?;
        Ok(Some(report))
    }
}

fn steps_done(steps: u64, bytes: u64) -> Progress {
    Progress {
        files: steps,
        total_files: 5,
        bytes,
        total_bytes: 0,
    }
}

fn decode(payload: &str) -> Result<GcOptions> {
    serde_json::from_str(payload).map_err(|e| {
        Error::with_detail(ErrorKind::Corrupt, format!("the schedule is bad: {e}")).op("gc")
    })
}

impl Inner {
    fn schedule(&self) -> Result<Option<Schedule>> {
        let mut schedules = self.tree.read()?.schedules()?.into_iter();
        Ok(schedules.find(|schedule| schedule.name == SCHEDULE))
    }

    fn collect(&self, options: &GcOptions, task: &Task) -> Result<GcReport> {
        let mut report = GcReport::default();
        task.step(steps_done(0, 0))?;
        report.events = self.prune_events(options)?;
        task.step(steps_done(1, 0))?;
        report.versions = self.remove_superseded(task)?;
        task.step(steps_done(2, 0))?;
        report.flattened = self.flatten_over_dead_bases(task)?;
        task.step(steps_done(3, 0))?;
        let marked = self.remove_contents(options.grace, task, &mut report)?;
        if marked && options.grace.is_zero() {
            self.remove_contents(options.grace, task, &mut report)?;
        }
        self.forget_gone(task.cancel())?;
        task.step(steps_done(4, report.content_bytes))?;
        self.remove_partials(options.grace, &mut report)?;
        self.sweep(options.grace, &mut report)?;
        task.step(steps_done(5, report.content_bytes))?;
        Ok(report)
    }

    fn look_for_garbage(&self, options: &GcOptions) -> Result<GcReport> {
        let mut report = GcReport::default();
        let txn = self.tree.read()?;
        for superseded in superseded(&*txn)? {
            report.versions += superseded.rows.len() as u64;
        }
        // What only superseded versions refer to would become free as well, but to know it takes
        // removing them.
        let found = Marked::new(&*txn)?;
        let (dead, dead_bytes) = found.dead();
        if options.grace.is_zero() {
            (report.contents, report.content_bytes) = (dead, dead_bytes);
        } else {
            for removable in found.removable(options.grace) {
                report.contents += 1;
                report.content_bytes += removable.size;
            }
        }
        report.waiting = dead - report.contents;
        report.waiting_bytes = dead_bytes - report.content_bytes;
        for orphan in self.contents.orphans(&*txn)? {
            report.files += 1;
            report.file_bytes += orphan.len;
        }
        let old = self.old_partials(options.grace)?;
        for partial in self.contents.partials()? {
            let age = old.get(&partial.hash).filter(|_| !partial.in_use);
            if age.is_some_and(|age| is_older(partial.modified, *age)) {
                report.files += 1;
                report.file_bytes += partial.size;
            }
        }
        Ok(report)
    }

    fn prune_events(&self, options: &GcOptions) -> Result<u64> {
        let mut pruned = 0;
        let Some(retention) = options.retention() else {
            return Ok(pruned);
        };
        for bucket in self.tree.read()?.buckets()? {
            let mut txn = self.write()?;
            pruned += txn.prune_events(bucket.id, &retention)?;
            txn.commit()?;
        }
        Ok(pruned)
    }

    /// Removes row versions that nothing shows.
    ///
    /// What is superseded stays so until a branch or snapshot comes or goes, or the row that
    /// replaced it does: then it is left for the next collection.
    fn remove_superseded(&self, task: &Task) -> Result<u64> {
        let found = superseded(&*self.tree.read()?)?;
        self.remove_superseded_rows(found, task)
    }

    /// Acts on what a scan found, however long ago.
    fn remove_superseded_rows(&self, found: Vec<Superseded>, task: &Task) -> Result<u64> {
        let mut removed = 0;
        for Superseded {
            bucket,
            generation,
            rows,
        } in found
        {
            for batch in rows.chunks(BATCH) {
                task.cancel().check()?;
                let mut txn = self.tree.write(Durability::Full)?;
                if txn.bucket(bucket)?.map(|b| b.generation) != Some(generation) {
                    break;
                }
                let mut count = 0;
                for row in batch {
                    if row.is_superseded(&*txn, bucket)? {
                        txn.remove_row(bucket, &row.parent, &row.name, row.layer)?;
                        count += 1;
                    }
                }
                txn.commit()?;
                removed += count;
            }
        }
        Ok(removed)
    }

    /// Rewrites deltas in full where their base serves nothing else any more.
    fn flatten_over_dead_bases(&self, task: &Task) -> Result<u64> {
        let mut flattened = 0;
        let _pinned = self.keeper.pinned()?;
        let txn = self.tree.read()?;
        for hash in Marked::new(&*txn)?.sole_users_of_dead_bases() {
            task.cancel().check()?;
            let Some(prepared) = self.contents.flatten(&*txn, &hash)? else {
                continue;
            };
            let mut write = self.tree.write(Durability::Full)?;
            let committed = self.contents.commit(&mut *write, &mut [prepared], now());
            match committed {
                // Its last user went meanwhile.
                Err(e) if is_gone(&e) => continue,
                result => result?,
            }
            write.commit()?;
            flattened += 1;
        }
        Ok(flattened)
    }

    /// Marks what is unreferenced and removes what has been for the grace period; returns whether
    /// anything was newly marked.
    fn remove_contents(&self, grace: Duration, task: &Task, report: &mut GcReport) -> Result<bool> {
        let found = Marked::new(&*self.tree.read()?)?;
        self.remove_found(&found, grace, task, report)
    }

    /// Acts on what a scan found, however long ago.
    fn remove_found(
        &self,
        found: &Marked,
        grace: Duration,
        task: &Task,
        report: &mut GcReport,
    ) -> Result<bool> {
        (report.waiting, report.waiting_bytes) = found.dead();
        for batch in found.removable(grace).chunks(BATCH) {
            task.cancel().check()?;
            let mut txn = self.tree.write(Durability::Full)?;
            let (mut contents, mut bytes) = (0, 0);
            for Removable { hash, size, marked } in batch {
                if txn.unreferenced_since(hash)? == Some(*marked) && !txn.is_base(hash)? {
                    txn.remove_content(hash)?;
                    contents += 1;
                    bytes += size;
                }
            }
            txn.commit()?;
            report.contents += contents;
            report.content_bytes += bytes;
            report.waiting -= contents;
            report.waiting_bytes -= bytes;
            task.step(steps_done(3, report.content_bytes))?;
        }
        let fresh: Vec<_> = found.not_yet_marked().collect();
        self.set_marks(&fresh, Some(found.now))?;
        self.set_marks(&found.wrongly_marked, None)?;
        Ok(!fresh.is_empty())
    }

    /// Marks contents as unreferenced since a time, or takes their marks off.
    fn set_marks(&self, hashes: &[Hash], since: Option<Timestamp>) -> Result<()> {
        for batch in hashes.chunks(BATCH) {
            let mut txn = self.write()?;
            for hash in batch {
                txn.set_unreferenced(hash, since)?;
            }
            txn.commit()?;
        }
        Ok(())
    }

    /// Chooses the partial contents that have waited for too long: what an entry refers to may be gone
    /// on with when a peer is back.
    fn old_partials(&self, grace: Duration) -> Result<HashMap<Hash, Duration>> {
        let partials = self.contents.partials()?.into_iter();
        let mut ages: HashMap<_, _> = partials
            .filter(|partial| !partial.in_use)
            .map(|partial| (partial.hash, grace))
            .collect();
        if !ages.is_empty() {
            self.tree.read()?.referenced(now(), &mut |hash| {
                if let Some(age) = ages.get_mut(&hash) {
                    *age = grace.max(WANTED_PARTIALS);
                }
            })?;
        }
        Ok(ages)
    }

    /// Removes what has arrived of contents that nobody goes on with.
    fn remove_partials(&self, grace: Duration, report: &mut GcReport) -> Result<()> {
        let old = self.old_partials(grace)?;
        if old.is_empty() {
            return Ok(());
        }
        let (files, bytes) = self.contents.remove_partials(&mut |hash, modified| {
            old.get(hash).is_some_and(|age| is_older(modified, *age))
        })?;
        report.files += files;
        report.file_bytes += bytes;
        Ok(())
    }

    /// Removes files that nothing owns.
    fn sweep(&self, min_age: Duration, report: &mut GcReport) -> Result<()> {
        let orphans = self.contents.orphans(&*self.tree.read()?)?;
        for batch in orphans.chunks(BATCH) {
            // Views wait for a batch at most.
            let Some(_alone) = self.keeper.no_views()? else {
                report.files_deferred = true;
                return Ok(());
            };
            let mut txn = self.write()?;
            let (files, bytes) = self.contents.sweep(&mut *txn, batch, min_age)?;
            txn.commit()?;
            report.files += files;
            report.file_bytes += bytes;
        }
        Ok(())
    }
}

fn is_older(modified: Option<SystemTime>, age: Duration) -> bool {
    let elapsed = modified.and_then(|at| at.elapsed().ok());
    elapsed.is_none_or(|elapsed| elapsed >= age)
}

/// The rows of a bucket that nothing shows.
struct Superseded {
    bucket: BucketId,
    /// For which generation of the bucket that is known.
    generation: u64,
    rows: Vec<SupersededRow>,
}

struct SupersededRow {
    parent: Box<str>,
    name: Box<str>,
    layer: Layer,
    /// The newer row that hides it; nothing where the branch was restored since.
    replaced_by: Option<Layer>,
}

impl SupersededRow {
    /// Tells whether what hid the row when it was found does so still.
    fn is_superseded(&self, txn: &dyn ReadTxn, bucket: BucketId) -> Result<bool> {
        let Some(newer) = self.replaced_by else {
            return Ok(true);
        };
        let found = txn.seek(bucket, &self.parent, &self.name, newer)?;
        Ok(found.is_some_and(|(layer, _)| layer == newer))
    }
}

/// Finds the rows that neither a branch nor a snapshot nor a fork shows.
///
/// A chain shows a branch either up to now, or up to an epoch that a snapshot or a fork pins. So a
/// row is shown only if the present, or a pinned epoch, falls between its own epoch and the next
/// newer row of the same branch at the same path, or the branch's next line.
fn superseded(txn: &dyn ReadTxn) -> Result<Vec<Superseded>> {
    let mut found = Vec::new();
    for bucket in txn.buckets()? {
        let mut pins: BTreeSet<Epoch> = BTreeSet::from([Epoch::MAX]);
        let mut starts: HashMap<BranchId, Vec<Epoch>> = HashMap::new();
        for branch in txn.branches(bucket.id)? {
            pins.extend(txn.snapshots(branch.id)?.iter().map(|s| s.epoch));
            let lines = txn.lines(branch.id)?;
            pins.extend(lines.iter().filter_map(|line| line.base?.at));
            starts.insert(branch.id, lines.iter().map(|line| line.start).collect());
        }
        let mut rows = Vec::new();
        let mut newer: Option<Layer> = None;
        let (mut at_parent, mut at_name) = (String::new(), String::new());
        txn.scan_tree(
            bucket.id,
            &TreePath::root(),
            &mut |parent, name, layer, _| {
                if at_parent != parent || at_name != name {
                    parent.clone_into(&mut at_parent);
                    name.clone_into(&mut at_name);
                    newer = None;
                }
                let replaced_by = newer.filter(|newer| newer.branch == layer.branch);
                let line_end = starts
                    .get(&layer.branch)
                    .and_then(|starts| starts.iter().find(|start| **start > layer.epoch));
                let hidden_from = |end: Epoch| pins.range(layer.epoch..end).next().is_none();
                let by_line = line_end.copied().is_some_and(hidden_from);
                let by_row = replaced_by
                    .map(|newer| newer.epoch)
                    .is_some_and(hidden_from);
                if by_line || by_row {
                    rows.push(SupersededRow {
                        parent: parent.into(),
                        name: name.into(),
                        layer,
                        replaced_by: replaced_by.filter(|_| !by_line),
                    });
                }
                newer = Some(layer);
                Ok(ControlFlow::Continue(()))
            },
        )?;
        if !rows.is_empty() {
            found.push(Superseded {
                bucket: bucket.id,
                generation: bucket.generation,
                rows,
            });
        }
    }
    Ok(found)
}

/// Which contents are alive, and why.
struct Marked {
    contents: HashMap<Hash, Content>,
    /// Those that carry a mark as unreferenced and are alive, or gone.
    wrongly_marked: Vec<Hash>,
    now: Timestamp,
}

/// A content that may go, and the mark that says so.
struct Removable {
    hash: Hash,
    size: u64,
    marked: Timestamp,
}

struct Content {
    size: u64,
    /// When it was marked as unreferenced.
    marked: Option<Timestamp>,
    base: Option<Hash>,
    /// Referred to by an entry, a session, a pin or a promise, not only by deltas.
    direct: bool,
    alive: bool,
}

impl Marked {
    fn new(txn: &dyn ReadTxn) -> Result<Self> {
        let mut contents = HashMap::new();
        let mut as_base: HashMap<Hash, u64> = HashMap::new();
        let mut after = None;
        loop {
            let records = txn.contents_after(after.as_ref(), 256, false)?;
            let Some(last) = records.last() else {
                break;
            };
            after = Some(last.hash);
            for record in records {
                let base = record.base.filter(|_| record.form == ContentForm::Delta);
                if let Some(base) = base {
                    *as_base.entry(base).or_default() += 1;
                }
                let content = Content {
                    size: record.size,
                    marked: None,
                    base,
                    direct: false,
                    alive: false,
                };
                contents.insert(record.hash, content);
            }
        }
        let now = now();
        // References by deltas come along with the others, so that many are not direct.
        let mut others = as_base;
        txn.referenced(now, &mut |hash| match others.get_mut(&hash) {
            Some(left) if *left > 0 => *left -= 1,
            _ => {
                if let Some(content) = contents.get_mut(&hash) {
                    content.direct = true;
                }
            }
        })?;
        let promised = promised(txn)?;
        for (hash, content) in contents.iter_mut().filter(|_| !promised.is_empty()) {
            content.direct |= is_among(&promised, hash);
        }
        let mut todo: Vec<Hash> = contents
            .iter()
            .filter(|(_, content)| content.direct)
            .map(|(hash, _)| *hash)
            .collect();
        while let Some(hash) = todo.pop() {
            if let Some(content) = contents.get_mut(&hash)
                && !content.alive
            {
                content.alive = true;
                todo.extend(content.base);
            }
        }
        let mut wrongly_marked = Vec::new();
        txn.unreferenced(&mut |hash, since| match contents.get_mut(&hash) {
            Some(content) if !content.alive => content.marked = Some(since),
            _ => wrongly_marked.push(hash),
        })?;
        Ok(Self {
            contents,
            wrongly_marked,
            now,
        })
    }

    /// Returns what may go: the contents that have carried their mark for the grace period and that
    /// no delta which stays builds on; deltas before what they build on.
    fn removable(&self, grace: Duration) -> Vec<Removable> {
        let grace = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
        let limit = self.now.0.saturating_sub(grace);
        let goes = |content: &Content| {
            let marked = content.marked.filter(|since| since.0 <= limit);
            marked.filter(|_| !content.alive)
        };
        let mut kept: HashSet<Hash> = HashSet::new();
        for content in self.contents.values().filter(|c| goes(c).is_none()) {
            kept.extend(self.bases(content));
        }
        let mut out: Vec<_> = self
            .contents
            .iter()
            .filter(|(hash, _)| !kept.contains(*hash))
            .filter_map(|(hash, content)| {
                let removable = Removable {
                    hash: *hash,
                    size: content.size,
                    marked: goes(content)?,
                };
                Some((self.bases(content).count(), removable))
            })
            .collect();
        out.sort_unstable_by_key(|(depth, removable)| (std::cmp::Reverse(*depth), removable.hash));
        out.into_iter().map(|(_, removable)| removable).collect()
    }

    /// Returns what a content builds on, and what that does, and so on.
    fn bases(&self, content: &Content) -> impl Iterator<Item = Hash> {
        std::iter::successors(content.base, |hash| {
            self.contents.get(hash).and_then(|content| content.base)
        })
    }

    fn not_yet_marked(&self) -> impl Iterator<Item = Hash> {
        let dead = self.contents.iter().filter(|(_, content)| !content.alive);
        dead.filter(|(_, content)| content.marked.is_none())
            .map(|(hash, _)| *hash)
    }

    /// Returns how many contents nothing refers to, and their bytes.
    fn dead(&self) -> (u64, u64) {
        let dead = self.contents.values().filter(|content| !content.alive);
        dead.fold((0, 0), |(count, bytes), content| {
            (count + 1, bytes + content.size)
        })
    }

    /// Returns the deltas that something refers to and whose base nothing else uses, directly or as a
    /// base. (A delta that only others build on goes with its last user.)
    fn sole_users_of_dead_bases(&self) -> Vec<Hash> {
        let mut users: HashMap<Hash, Vec<Hash>> = HashMap::new();
        for (hash, content) in &self.contents {
            if content.alive
                && let Some(base) = content.base
            {
                users.entry(base).or_default().push(*hash);
            }
        }
        let dead_base = |base: &Hash| self.contents.get(base).is_some_and(|c| !c.direct);
        let mut out: Vec<_> = users
            .into_iter()
            .filter(|(base, users)| users.len() == 1 && dead_base(base))
            .flat_map(|(_, users)| users)
            .filter(|user| self.contents.get(user).is_some_and(|c| c.direct))
            .collect();
        out.sort_unstable();
        out
    }
}

#[cfg(test)]
mod tests {
    //! What others do between a collection's scan and its removal.

    use alknet_fs_core::store::Durability;

    use super::*;
    use crate::{Branch, Cancel, FsckOptions, ImportOptions, OpenOptions, Options};

    const NOW: Duration = Duration::ZERO;

    fn store() -> (tempfile::TempDir, Store, Branch) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().durability(Durability::Relaxed);
        let store = options.create(dir.path().join("store")).unwrap();
        let main = store.bucket("default").unwrap().main().unwrap();
        (dir, store, main)
    }

    fn large(seed: u8) -> Vec<u8> {
        (0..300_000_u32).map(|i| (i % 251) as u8 ^ seed).collect()
    }

    /// Removes old versions and marks what is unreferenced, as a first collection does.
    fn mark(store: &Store) {
        let inner = &store.inner;
        inner.remove_superseded(&Task::new()).unwrap();
        let long = Duration::from_secs(3600);
        inner
            .remove_contents(long, &Task::new(), &mut GcReport::default())
            .unwrap();
    }

    fn scan(store: &Store) -> Marked {
        Marked::new(&*store.inner.tree.read().unwrap()).unwrap()
    }

    /// Acts on what was found; returns how many contents went.
    fn act(store: &Store, found: &Marked) -> u64 {
        let mut report = GcReport::default();
        let inner = &store.inner;
        inner
            .remove_found(found, NOW, &Task::new(), &mut report)
            .unwrap();
        inner.sweep(NOW, &mut report).unwrap();
        report.contents
    }

    fn assert_healthy(store: &Store) {
        let report = store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
        assert_eq!(report.problems, []);
    }

    #[test]
    fn a_content_put_again_after_the_scan_stays() {
        let (_dir, store, main) = store();
        for (path, bytes) in [("/small", b"small".to_vec()), ("/large", large(1))] {
            main.write(path, bytes.clone()).unwrap();
            main.write("/other", large(9)).unwrap();
            main.remove(path).unwrap();
            main.remove("/other").unwrap();
            mark(&store);
            let found = scan(&store);
            main.write(path, bytes.clone()).unwrap();
            assert_eq!(act(&store, &found), 1, "the other one goes");
            assert_eq!(main.read(path).unwrap(), bytes);
            assert_healthy(&store);
        }
    }

    #[test]
    fn what_a_delta_put_again_after_the_scan_builds_on_stays() {
        let (_dir, store, main) = store();
        main.write("/base", large(1)).unwrap();
        main.copy("/base", "/delta").unwrap();
        let session = main.open_session("/delta", &OpenOptions::new()).unwrap();
        session.write_at(1000, b"changed").unwrap();
        session.close().unwrap();
        let bytes = main.read("/delta").unwrap();
        main.remove("/base").unwrap();
        main.remove("/delta").unwrap();
        mark(&store);
        let found = scan(&store);
        assert_eq!(found.dead().0, 2);
        main.write("/again", bytes.clone()).unwrap();
        assert_eq!(act(&store, &found), 0);
        assert_eq!(main.read("/again").unwrap(), bytes);
        assert_healthy(&store);
        // Once nothing refers to the delta, both go at once.
        main.remove("/again").unwrap();
        mark(&store);
        assert_eq!(act(&store, &scan(&store)), 2);
    }

    #[test]
    fn a_content_imported_by_its_record_after_the_scan_stays() {
        let (dir, store, main) = store();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        for n in 0..3 {
            let file = source.join(n.to_string());
            std::fs::write(&file, large(n)).unwrap();
            // An import trusts what it recorded of files that were not young.
            let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
            let file = std::fs::File::options().write(true).open(file).unwrap();
            file.set_modified(old).unwrap();
        }
        let import = || {
            let (options, task) = (ImportOptions::new(), Task::new());
            main.import(&source, "/in", &options, &task).unwrap()
        };
        import();
        main.remove_all("/in").unwrap();
        mark(&store);
        let found = scan(&store);
        assert_eq!(import().files, 3);
        assert_eq!(act(&store, &found), 0);
        assert_eq!(main.read("/in/2").unwrap(), large(2));
        assert_healthy(&store);
    }

    #[test]
    fn a_mark_of_another_collection_is_not_taken_for_the_one_seen() {
        let (_dir, store, main) = store();
        main.write("/f", large(1)).unwrap();
        main.remove("/f").unwrap();
        mark(&store);
        let found = scan(&store);
        main.write("/f", large(1)).unwrap();
        // A collection that scanned before the write marks it once more.
        let hash = main.stat("/f").unwrap().hash().unwrap();
        let mut txn = store.inner.write().unwrap();
        txn.set_unreferenced(&hash, Some(now())).unwrap();
        txn.commit().unwrap();
        assert_eq!(act(&store, &found), 0);
        assert_eq!(main.read("/f").unwrap(), large(1));
    }

    #[test]
    fn what_was_removed_stays_removed_when_the_row_that_hid_its_tombstone_goes() {
        let (_dir, store, main) = store();
        main.write("/f", "secret").unwrap();
        main.snapshot("s1").unwrap();
        main.remove("/f").unwrap();
        main.snapshot("s2").unwrap();
        main.delete_snapshot("s2").unwrap();
        main.write("/f", "new").unwrap();
        let found = superseded(&*store.inner.tree.read().unwrap()).unwrap();
        assert_eq!(found.iter().map(|s| s.rows.len()).sum::<usize>(), 1);
        main.remove("/f").unwrap();
        let inner = &store.inner;
        assert_eq!(
            inner.remove_superseded_rows(found, &Task::new()).unwrap(),
            0
        );
        assert!(!main.exists("/f").unwrap());
        assert_eq!(main.view_at("s1").unwrap().read("/f").unwrap(), b"secret");
    }

    #[test]
    fn what_is_gone_is_forgotten_by_a_writer_that_can_be_stopped() {
        let (_dir, store, main) = store();
        main.write("/f", "here").unwrap();
        let here = main.stat("/f").unwrap().hash().unwrap();
        let gone: Vec<_> = (0..1000_u32).map(|n| Hash::of(&n.to_le_bytes())).collect();
        store.note_holders("alice", &gone, true).unwrap();
        store.note_holders("alice", &[here], true).unwrap();
        let holders = |hash: &Hash| store.known_holders(hash).unwrap();
        let inner = &store.inner;
        let cancel = Cancel::new();
        cancel.cancel();
        let error = inner.forget_gone(&cancel).unwrap_err();
        assert!(error.is_cancelled(), "{error}");
        assert!(gone.iter().all(|hash| holders(hash) == ["alice"]));
        inner.forget_gone(&Cancel::new()).unwrap();
        assert!(gone.iter().all(|hash| holders(hash).is_empty()));
        assert_eq!(holders(&here), ["alice"]);
        // Where nothing is gone nobody waits for the writer.
        let writing = inner.write().unwrap();
        inner.forget_gone(&Cancel::new()).unwrap();
        drop(writing);
    }

    #[test]
    fn one_collection_runs_at_a_time() {
        let (dir, store, _main) = store();
        let other = Store::open(dir.path().join("store")).unwrap();
        let collecting = store.inner.keeper.collecting().unwrap();
        assert!(collecting.is_some());
        let error = other.gc(&GcOptions::new(), &Task::new()).unwrap_err();
        assert!(error.is_locked(), "{error}");
        drop(collecting);
        other.gc(&GcOptions::new(), &Task::new()).unwrap();
    }

    #[test]
    fn a_view_waits_for_the_removal_of_files_no_longer_than_for_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().busy_timeout(Duration::from_millis(20));
        let store = options.create(dir.path().join("store")).unwrap();
        let main = store.bucket("default").unwrap().main().unwrap();
        let alone = store.inner.keeper.no_views().unwrap();
        let error = main.view().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        drop(alone);
        main.view().unwrap();
    }
}
