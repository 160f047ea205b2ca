//! Garbage collection.
//!
//! What is alive is decided inside one write transaction, so a writer either committed its
//! reference before, and it is seen, or stores the content anew afterwards. Files go in a second
//! transaction, and only while no view is open anywhere: a view may still show what was removed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use alknet_fs_core::store::{BranchId, BucketId, ContentForm, Durability, Epoch, Layer, ReadTxn};
use alknet_fs_core::{Hash, Result, Timestamp, TreePath};

use crate::progress::{Progress, Task};
use crate::store::{Inner, Store, now};

/// How to collect garbage.
#[derive(Debug, Clone)]
pub struct GcOptions {
    grace: Duration,
    dry_run: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(3600),
            dry_run: false,
        }
    }
}

impl GcOptions {
    /// Creates the default options: a grace period of one hour.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how old unreferenced content must be to be removed.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets whether to report only what would be removed.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What a collection removed, or would remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Versions of entries that no branch and no snapshot shows.
    pub versions: u64,
    /// Contents that nothing refers to.
    pub contents: u64,
    /// Their sizes, in bytes. A delta counts with its full size.
    pub content_bytes: u64,
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
    /// snapshot shows, contents, and files left by crashes.
    ///
    /// Safe to run while others read and write: what an open reader, view or session holds stays
    /// readable.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), and the store's own.
    pub fn gc(&self, options: &GcOptions, task: &Task) -> Result<GcReport> {
        let span = tracing::info_span!("gc");
        let _entered = span.enter();
        let inner = &*self.inner;
        let mut report = GcReport::default();
        if options.dry_run {
            let txn = inner.tree.read()?;
            let superseded = superseded(&*txn)?;
            report.versions = superseded.len() as u64;
            // What only superseded versions refer to would become free as well, but to know it
            // takes removing them.
            let marked = Marked::new(&*txn)?;
            for (_, size) in marked.dead(options.grace) {
                report.contents += 1;
                report.content_bytes += size;
            }
            for orphan in inner.contents.orphans(&*txn)? {
                report.files += 1;
                report.file_bytes += orphan.len;
            }
            return Ok(report);
        }
        report.versions = inner.remove_superseded(task)?;
        report.flattened = inner.flatten_over_dead_bases(task)?;
        let mut txn = inner.tree.write(Durability::Full)?;
        for (hash, size) in Marked::new(&*txn)?.dead(options.grace) {
            inner.contents.remove(&mut *txn, &hash)?;
            report.contents += 1;
            report.content_bytes += size;
        }
        txn.commit()?;
        task.step(Progress {
            files: report.contents,
            bytes: report.content_bytes,
            ..Progress::default()
        })?;
        inner.sweep(options.grace, &mut report)?;
        Ok(report)
    }
}

impl Inner {
    /// Removes row versions that nothing shows.
    fn remove_superseded(&self, task: &Task) -> Result<u64> {
        // A write transaction that would have nothing to do is not begun.
        if superseded(&*self.tree.read()?)?.is_empty() {
            return Ok(0);
        }
        task.cancel().check()?;
        let mut txn = self.tree.write(Durability::Full)?;
        let doomed = superseded(&*txn)?;
        for (bucket, parent, name, layer) in &doomed {
            txn.remove_row(*bucket, parent, name, *layer)?;
        }
        txn.commit()?;
        Ok(doomed.len() as u64)
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
            self.contents.commit(&mut *write, &mut [prepared], now())?;
            write.commit()?;
            flattened += 1;
        }
        Ok(flattened)
    }

    /// Removes files that nothing owns.
    fn sweep(&self, min_age: Duration, report: &mut GcReport) -> Result<()> {
        let Some(_alone) = self.keeper.no_views()? else {
            report.files_deferred = true;
            return Ok(());
        };
        let mut txn = self.tree.write(self.options.durability)?;
        let orphans = self.contents.orphans(&*txn)?;
        let before = orphans.len() as u64;
        report.file_bytes = self.contents.sweep(&mut *txn, &orphans, min_age)?;
        report.files = before - self.contents.orphans(&*txn)?.len() as u64;
        txn.commit()
    }
}

type VersionKey = (BucketId, Box<str>, Box<str>, Layer);

/// Finds the rows that neither a branch nor a snapshot nor a fork shows.
///
/// A chain shows a branch either up to now, or up to an epoch that a snapshot or a fork pins. So a
/// row is shown only if the present, or a pinned epoch, falls between its own epoch and the next
/// newer row of the same branch at the same path, or the branch's next line.
fn superseded(txn: &dyn ReadTxn) -> Result<Vec<VersionKey>> {
    let mut doomed = Vec::new();
    for bucket in txn.buckets()? {
        let mut pins: BTreeSet<Epoch> = BTreeSet::from([Epoch::MAX]);
        let mut starts: HashMap<BranchId, Vec<Epoch>> = HashMap::new();
        for branch in txn.branches(bucket.id)? {
            pins.extend(txn.snapshots(branch.id)?.iter().map(|s| s.epoch));
            let lines = txn.lines(branch.id)?;
            pins.extend(lines.iter().filter_map(|line| line.base?.at));
            starts.insert(branch.id, lines.iter().map(|line| line.start).collect());
        }
        let mut newer: Option<(Box<str>, Box<str>, Layer)> = None;
        txn.scan_tree(
            bucket.id,
            &TreePath::root(),
            &mut |parent, name, layer, _| {
                let replaced = newer
                    .as_ref()
                    .filter(|(p, n, l)| **p == *parent && **n == *name && l.branch == layer.branch)
                    .map(|(_, _, l)| l.epoch);
                let line_end = starts
                    .get(&layer.branch)
                    .and_then(|starts| starts.iter().find(|start| **start > layer.epoch));
                let end = replaced.into_iter().chain(line_end.copied()).min();
                let shown = match end {
                    None => true,
                    Some(end) => pins.range(layer.epoch..end).next().is_some(),
                };
                if !shown {
                    doomed.push((bucket.id, parent.into(), name.into(), layer));
                }
                newer = Some((parent.into(), name.into(), layer));
                Ok(ControlFlow::Continue(()))
            },
        )?;
    }
    Ok(doomed)
}

/// Which contents are alive, and why.
struct Marked {
    contents: HashMap<Hash, Content>,
    now: Timestamp,
}

struct Content {
    size: u64,
    created: Timestamp,
    base: Option<Hash>,
    /// Referred to by an entry, a session or a pin, not only by deltas.
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
                    created: record.created,
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
        Ok(Self { contents, now })
    }

    /// Returns the contents that nothing refers to and that are older than the grace period.
    fn dead(&self, grace: Duration) -> Vec<(Hash, u64)> {
        let grace = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
        let limit = self.now.0.saturating_sub(grace);
        let dead = |content: &Content| !content.alive && content.created.0 <= limit;
        let all = self.contents.iter();
        let mut dead: Vec<_> = all
            .filter(|(_, content)| dead(content))
            .map(|(hash, content)| (*hash, content.size))
            .collect();
        dead.sort_unstable();
        // A delta that is too young keeps its base.
        let mut kept: HashSet<Hash> = HashSet::new();
        for content in self.contents.values() {
            if content.alive || content.created.0 > limit {
                let mut base = content.base;
                while let Some(hash) = base {
                    kept.insert(hash);
                    base = self.contents.get(&hash).and_then(|content| content.base);
                }
            }
        }
        dead.retain(|(hash, _)| !kept.contains(hash));
        dead
    }

    /// Returns the live deltas whose base nothing else uses, directly or as a base.
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
            .collect();
        out.sort_unstable();
        out
    }
}
