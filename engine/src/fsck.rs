//! Checking a store.

use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::ops::ControlFlow;

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{BucketRecord, Layer, ReadTxn};
use alknet_fs_core::tree::{self, Follow, Walk};
use alknet_fs_core::{Error, Hash, Result, TreePath};

use crate::content::takes_part;
use crate::progress::{Progress, Task};
use crate::store::{Store, now};

/// How to check a store.
#[derive(Debug, Clone, Copy, Default)]
pub struct FsckOptions {
    fast: bool,
}

impl FsckOptions {
    /// Creates the default options: check everything, every byte included.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether to check the structure only, without reading the contents.
    #[must_use]
    pub fn fast(mut self, fast: bool) -> Self {
        self.fast = fast;
        self
    }
}

/// Something that is wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is about: a path, a content hash, a branch, a table.
    pub subject: String,
    /// What is wrong with it.
    pub detail: String,
    /// Where a damaged content is used, as `BUCKET/BRANCH:PATH`; at most [`Self::MOST_USES`].
    pub uses: Vec<String>,
    /// In how many more places it is used.
    pub more_uses: u64,
}

impl Problem {
    /// How many uses of a damaged content are named.
    pub const MOST_USES: usize = 5;
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FsckReport {
    /// Entries looked at, in all branches and snapshots.
    pub entries: u64,
    /// Contents looked at.
    pub contents: u64,
    /// Bytes read and compared with their hash.
    pub bytes: u64,
    /// Contents that are not here and that peers may have, in buckets that take part in
    /// synchronisation: no damage.
    pub away: u64,
    /// Their sizes, in bytes.
    pub away_bytes: u64,
    /// Files that nothing owns: harmless leftovers of crashes, which garbage collection removes.
    pub orphans: u64,
    /// Their sizes, in bytes.
    pub orphan_bytes: u64,
    /// Contents of which a part has arrived from a peer: no damage, and gone on with.
    pub partials: u64,
    /// Their sizes when they are complete, in bytes.
    pub partial_bytes: u64,
    /// What is wrong; empty for a healthy store.
    pub problems: Vec<Problem>,
}

impl FsckReport {
    fn problem(&mut self, subject: impl ToString, detail: impl ToString) {
        self.problems.push(Problem {
            subject: subject.to_string(),
            detail: detail.to_string(),
            uses: Vec::new(),
            more_uses: 0,
        });
    }
}

impl Store {
    /// Checks the whole store: the database, every branch and snapshot, and every content.
    ///
    /// The progress counts contents, and their bytes where they are read.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), or where the check itself cannot run;
    /// what is wrong with the store is reported, not returned as an error.
    pub fn fsck(&self, options: &FsckOptions, task: &Task) -> Result<FsckReport> {
        let span = tracing::info_span!("fsck");
        let _entered = span.enter();
        let mut report = FsckReport::default();
        let mut progress = self.fsck_totals(options, task)?;
        task.step(progress)?;
        if let Some(disk) = &self.inner.disk {
            for problem in disk.sqlite.check(!options.fast)? {
                report.problem("store.db", problem);
            }
        }
        // What is collected meanwhile must not look like damage.
        let _pinned = self.inner.keeper.pinned()?;
        let txn = self.inner.tree.read()?;
        for bucket in txn.buckets()? {
            check_bucket(&*txn, &bucket, options, &mut report, task)?;
        }
        let damaged = self.check_contents(&*txn, options, &mut report, task, &mut progress)?;
        if !damaged.is_empty() {
            name_uses(&*txn, &damaged, &mut report, task)?;
        }
        for orphan in self.inner.contents.orphans(&*txn)? {
            report.orphans += 1;
            report.orphan_bytes += orphan.len;
        }
        for partial in self.inner.contents.partials()? {
            report.partials += 1;
            report.partial_bytes += partial.size;
        }
        Ok(report)
    }

    /// Counts the contents, for whoever follows.
    fn fsck_totals(&self, options: &FsckOptions, task: &Task) -> Result<Progress> {
        let mut totals = Progress::default();
        if !task.is_followed() {
            return Ok(totals);
        }
        let txn = self.inner.tree.read()?;
        let mut after = None;
        loop {
            let records = txn.contents_after(after.as_ref(), 256, false)?;
            let Some(last) = records.last() else {
                return Ok(totals);
            };
            after = Some(last.hash);
            totals.total_files += records.len() as u64;
            if !options.fast {
                totals.total_bytes += records.iter().map(|r| r.size).sum::<u64>();
            }
            task.cancel().check()?;
        }
    }

    fn check_contents(
        &self,
        txn: &dyn ReadTxn,
        options: &FsckOptions,
        report: &mut FsckReport,
        task: &Task,
        progress: &mut Progress,
    ) -> Result<HashMap<Hash, usize>> {
        let mut damaged = HashMap::new();
        let contents = &self.inner.contents;
        let mut named: HashSet<Hash> = HashSet::new();
        txn.referenced(now(), &mut |hash| {
            named.insert(hash);
        })?;
        let mut after = None;
        loop {
            let records = txn.contents_after(after.as_ref(), 256, false)?;
            let Some(last) = records.last() else {
                break;
            };
            after = Some(last.hash);
            for record in records {
                let hash = record.hash;
                report.contents += 1;
                named.remove(&hash);
                let start = *progress;
                let mut read = |bytes: u64| {
                    let step = task.step(Progress {
                        bytes: start.bytes + bytes,
                        ..start
                    });
                    match step {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                };
                let checked = if options.fast {
                    // Opening compares the sizes of its files.
                    contents.open(txn, &hash).map(drop)
                } else {
                    contents.verify(txn, &hash, &mut read)
                };
                match checked {
                    Ok(()) if options.fast => {}
                    Ok(()) => report.bytes += record.size,
                    Err(e) if e.is_cancelled() => return Err(e),
                    Err(e) => {
                        damaged.insert(hash, report.problems.len());
                        report.problem(format!("content {hash}"), what_of_content(&e, &hash));
                    }
                }
                progress.files += 1;
                if !options.fast {
                    progress.bytes += record.size;
                }
                task.step(*progress)?;
            }
        }
        let away = away(txn)?;
        for hash in named {
            if let Some(size) = away.get(&hash) {
                report.away += 1;
                report.away_bytes += size;
                continue;
            }
            damaged.insert(hash, report.problems.len());
            report.problem(format!("content {hash}"), "referred to, but missing");
        }
        Ok(damaged)
    }
}

/// Returns the contents that are not here and may be elsewhere, with their sizes: those that only entries
/// of buckets refer to which take part in synchronisation.
pub(crate) fn away(txn: &dyn ReadTxn) -> Result<HashMap<Hash, u64>> {
    let mut away = HashMap::new();
    let mut own = HashSet::new();
    for bucket in txn.buckets()? {
        let takes_part = takes_part(txn, bucket.id)?;
        txn.missing_contents(bucket.id, &mut |_, _, hash, size| {
            match takes_part {
                true => drop(away.insert(hash, size)),
                false => drop(own.insert(hash)),
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    if away.is_empty() {
        return Ok(away);
    }
    // What sessions and deltas build on has to be here, whoever else has it.
    own.extend(
        txn.sessions(None)?
            .iter()
            .filter_map(|s| s.base.map(|b| b.0)),
    );
    let mut after = None;
    loop {
        let records = txn.contents_after(after.as_ref(), 256, false)?;
        let Some(last) = records.last() else {
            break;
        };
        after = Some(last.hash);
        own.extend(records.iter().filter_map(|record| record.base));
    }
    away.retain(|hash, _| !own.contains(hash));
    Ok(away)
}

/// Returns what an error says of a content, which the problem's subject names already.
fn what_of_content(error: &Error, hash: &Hash) -> String {
    let mut text = error.detail().to_owned();
    if let Some(source) = error.source() {
        text.push_str(&format!(": {source}"));
    }
    let name = hash.to_hex();
    let text = text.replace(&format!("blobs/{name}"), "its file");
    text.replace(&name, "it")
}

/// Finds the files that have a damaged content, by the content's place among the problems.
fn name_uses(
    txn: &dyn ReadTxn,
    damaged: &HashMap<Hash, usize>,
    report: &mut FsckReport,
    task: &Task,
) -> Result<()> {
    for bucket in txn.buckets()? {
        for branch in txn.branches(bucket.id)? {
            let mut trees = vec![(branch.name.clone(), None)];
            for snapshot in txn.snapshots(branch.id)? {
                let name = format!("{}@{}", branch.name, snapshot.name);
                trees.push((name, Some(snapshot.epoch)));
            }
            for (name, epoch) in trees {
                // What cannot be walked is a problem of its own.
                let Ok(chain) = Chain::load(txn, branch.id, epoch) else {
                    continue;
                };
                let walked = tree::walk(txn, &chain, &TreePath::root(), &mut |path, entry| {
                    task.cancel().check()?;
                    if let Some(at) = entry.hash().and_then(|hash| damaged.get(&hash)) {
                        let problem = &mut report.problems[*at];
                        match problem.uses.len() < Problem::MOST_USES {
                            true => problem.uses.push(format!("{}/{name}:{path}", bucket.name)),
                            false => problem.more_uses += 1,
                        }
                    }
                    Ok(Walk::Continue)
                });
                match walked {
                    Err(e) if e.is_cancelled() => return Err(e),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Checks that every branch of a bucket, and but for a fast check every snapshot, can be read as a
/// tree.
fn check_bucket(
    txn: &dyn ReadTxn,
    bucket: &BucketRecord,
    options: &FsckOptions,
    report: &mut FsckReport,
    task: &Task,
) -> Result<()> {
    for branch in txn.branches(bucket.id)? {
        let mut trees = vec![(branch.name.clone(), None)];
        for snapshot in txn.snapshots(branch.id)? {
            trees.push((
                format!("{}@{}", branch.name, snapshot.name),
                Some(snapshot.epoch),
            ));
        }
        for (name, epoch) in trees {
            let subject = format!("{}/{name}", bucket.name);
            let chain = match Chain::load(txn, branch.id, epoch) {
                Ok(chain) => chain,
                Err(e) => {
                    report.problem(&subject, e);
                    continue;
                }
            };
            if epoch.is_some() && options.fast {
                continue;
            }
            let walked = tree::walk(txn, &chain, &TreePath::root(), &mut |_, _| {
                report.entries += 1;
                task.cancel().check()?;
                Ok(Walk::Continue)
            });
            match walked {
                Err(e) if e.is_cancelled() => return Err(e),
                Err(e) => report.problem(&subject, e),
                Ok(()) if epoch.is_none() => {
                    check_reachable(txn, &chain, &subject, report, task)?;
                }
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

/// Checks that every entry which a branch itself wrote can be reached from the root.
fn check_reachable(
    txn: &dyn ReadTxn,
    chain: &Chain,
    subject: &str,
    report: &mut FsckReport,
    task: &Task,
) -> Result<()> {
    let Some(own) = chain.spans().first().copied() else {
        return Ok(());
    };
    let mut dirs = HashSet::new();
    let mut paths: Vec<TreePath> = Vec::new();
    txn.paths_of(
        chain.bucket(),
        own.branch,
        own.first..=own.last,
        &TreePath::root(),
        &mut |parent, name| {
            if !parent.is_empty() && dirs.insert(parent.to_owned()) {
                paths.push(TreePath::from_stored(parent, name));
            }
            Ok(())
        },
    )?;
    for path in paths {
        task.cancel().check()?;
        // A tombstone needs no directory; an entry does.
        let present = txn.seek(
            chain.bucket(),
            path.parent_str(),
            path.name(),
            Layer {
                branch: own.branch,
                epoch: own.last,
            },
        )?;
        let is_own =
            present.is_some_and(|(layer, row)| layer.branch == own.branch && row.entry.is_some());
        let parent = path.parent().unwrap_or_else(TreePath::root);
        if is_own {
            match tree::resolve(txn, chain, &parent, Follow::No) {
                Ok((_, entry)) if entry.is_dir() => {}
                _ => report.problem(format!("{subject}:{path}"), "its directory does not exist"),
            }
        }
    }
    Ok(())
}
