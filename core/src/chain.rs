//! Chains: what one branch sees, newest first.
//!
//! A chain is the list of layer ranges ([`Span`]) that show through in a branch: its own writes,
//! then those of what it was forked from, and so on to the root branch. Branch numbers grow with
//! every fork and a restored branch shows earlier epochs of itself, so the spans of a chain fall
//! strictly in `(branch, epoch)` order. That is what makes resolution cheap: the newest visible row
//! of a path is found by leaping down the path's rows, which are stored in the same order, and the
//! number of leaps depends neither on the depth of the chain nor on how many sibling branches hold
//! rows of that path. Where the chain is short, one seek in each of its branches is cheaper still,
//! because the rows of one branch lie side by side.
//!
//! # What is visible
//! A path is visible when its newest row in the chain is not a tombstone and each of its ancestors
//! is visible and a directory. The second half matters only for rows from beyond a *live* base,
//! which goes on changing (or did, in a snapshot of such a branch): a row that arrives there later
//! may lie below a directory that this branch removed or replaced. Everywhere else the editing
//! rules keep it true by themselves: a directory that can still go away in a live base is copied up
//! when the branch first writes below it, and a directory that a branch makes starts empty, so rows
//! that were hidden below its path stay hidden by tombstones.
//!
//! What a branch removed stays removed in it, even where only the branch itself had made it: a live
//! base that writes to that path later does not bring it back.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::entry::{Attrs, Entry, Node, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::store::{BranchId, BucketId, BucketRecord, Epoch, Layer, ReadTxn, Row};

/// The most spans that are always looked at one after the other: a branch, or a fork of one.
const VERY_FEW_SPANS: usize = 2;

/// The most spans that are, where many rows of other branches are in the way.
const FEW_SPANS: usize = 8;

/// A range of layers of one branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The branch.
    pub branch: BranchId,
    /// The first epoch that shows.
    pub first: Epoch,
    /// The last epoch that shows; [`Epoch::MAX`] where later writes show too.
    pub last: Epoch,
}

impl Span {
    fn bottom(&self) -> Layer {
        Layer {
            branch: self.branch,
            epoch: self.first,
        }
    }

    fn top(&self) -> Layer {
        Layer {
            branch: self.branch,
            epoch: self.last,
        }
    }

    fn is_live(&self) -> bool {
        self.last == Epoch::MAX
    }
}

/// What a branch, or a branch at a snapshot, sees.
///
/// A chain is valid for one [`generation`](BucketRecord::generation) of its bucket.
#[derive(Debug)]
pub struct Chain {
    bucket: BucketId,
    branch: BranchId,
    branch_name: String,
    generation: u64,
    epoch: Epoch,
    root: Entry,
    spans: Vec<Span>,
    /// How many spans come before the first that is, or was, inherited live.
    settled: usize,
    /// Set once a listing met many rows of branches outside the chain; see `tree::list`.
    crowded: AtomicBool,
}

/// The newest row of a path in a chain.
#[derive(Debug)]
pub(crate) struct Found {
    /// Which span it is in.
    pub(crate) span: usize,
    pub(crate) layer: Layer,
    pub(crate) row: Row,
}

impl Chain {
    /// Loads the chain of a branch as it is now, or as it was at the end of an epoch.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the branch is gone.
    pub fn load(txn: &dyn ReadTxn, branch: BranchId, at: Option<Epoch>) -> Result<Self> {
        let gone = || {
            Error::with_detail(ErrorKind::NotFound, "the branch was deleted")
                .op("open branch")
                .path(branch)
        };
        let record = txn.branch(branch)?.ok_or_else(gone)?;
        let bucket = txn.bucket(record.bucket)?.ok_or_else(gone)?;
        let mut spans: Vec<Span> = Vec::new();
        let mut settled = None;
        let end = at.unwrap_or(Epoch::MAX);
        // What shows of a branch ends at one epoch, what it inherits live at another.
        let mut next = Some((branch, end, end));
        while let Some((branch, last, live)) = next {
            let broken = || {
                let detail = format!("branch {branch} has a broken line of descent");
                Error::with_detail(ErrorKind::Corrupt, detail)
            };
            let lines = txn.lines(branch)?;
            let line = lines.iter().rev().find(|line| line.start <= last);
            let line = line.ok_or_else(broken)?;
            let span = Span {
                branch,
                first: line.start,
                last,
            };
            if spans.last().is_some_and(|s| s.bottom() <= span.top()) {
                return Err(broken());
            }
            spans.push(span);
            if line
                .base
                .is_some_and(|base| base.at.is_none() || base.may_hide)
            {
                settled.get_or_insert(spans.len());
            }
            next = line.base.map(|base| {
                let last = base.at.unwrap_or(Epoch::MAX).min(live);
                (base.branch, last, if base.stays_live { live } else { last })
            });
        }
        Ok(Self {
            bucket: bucket.id,
            branch,
            branch_name: record.name,
            generation: bucket.generation,
            epoch: bucket.epoch,
            root: root_entry(&bucket),
            settled: settled.unwrap_or(spans.len()),
            spans,
            crowded: AtomicBool::new(false),
        })
    }

    /// Returns the bucket.
    pub fn bucket(&self) -> BucketId {
        self.bucket
    }

    /// Returns the branch.
    pub fn branch(&self) -> BranchId {
        self.branch
    }

    /// Tells whether the chain shows what is written now, not an earlier point in time.
    pub fn is_present(&self) -> bool {
        let first = self.spans.first();
        first.is_some_and(Span::is_live)
    }

    /// Returns the branch's name.
    pub fn branch_name(&self) -> &str {
        &self.branch_name
    }

    /// Returns the bucket's generation that the chain was loaded in.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the spans, newest first.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Returns the layer that writes go to.
    pub(crate) fn write_layer(&self) -> Layer {
        Layer {
            branch: self.branch,
            epoch: self.epoch,
        }
    }

    /// Tells whether the write layer is all there is: nothing frozen or inherited below it.
    pub(crate) fn is_flat(&self) -> bool {
        matches!(&self.spans[..], [only] if only.first == self.epoch)
    }

    /// Tells whether the branch inherits from one that others go on writing.
    pub(crate) fn has_live_base(&self) -> bool {
        self.spans
            .get(self.own_spans().len())
            .is_some_and(Span::is_live)
    }

    /// Returns the spans of what the branch wrote itself and did not inherit, newest first.
    pub fn own_spans(&self) -> &[Span] {
        let own = self
            .spans
            .iter()
            .take_while(|span| span.branch == self.branch);
        &self.spans[..own.count()]
    }

    /// Returns what of the chain was still written when it was as it shows: the branch itself, and
    /// those that it inherits live, newest first; and what these are based on, with its last epoch
    /// that shows.
    pub fn live_branches(&self) -> (Vec<BranchId>, Option<(BranchId, Epoch)>) {
        let mut live = vec![self.branch];
        for span in &self.spans[self.own_spans().len()..] {
            if live.last() == Some(&span.branch) {
                // It goes on being written, but for some epochs.
                continue;
            }
            if span.last != self.spans[0].last {
                return (live, Some((span.branch, span.last)));
            }
            live.push(span.branch);
        }
        (live, None)
    }

    /// Returns what the branch itself is based on: the other branch, and the last epoch of it that
    /// shows, or nothing where later writes do too.
    pub fn base(&self) -> Option<(BranchId, Option<Epoch>)> {
        let base = self.spans.get(self.own_spans().len())?;
        let at = (base.last != self.spans[0].last).then_some(base.last);
        Some((base.branch, at))
    }

    /// Returns the row of a path that the branch would show if it had written nothing itself.
    pub(crate) fn inherited(&self, txn: &dyn ReadTxn, path: &TreePath) -> Result<Option<Row>> {
        let (parent, name) = (path.parent_str(), path.name());
        for span in &self.spans[self.own_spans().len()..] {
            let epochs = span.first..=span.last;
            let found = txn.seek_in(self.bucket, span.branch, epochs, parent, name)?;
            if let Some((_, row)) = found {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Tells whether the branch wrote what was found itself.
    pub(crate) fn is_own(&self, found: &Found) -> bool {
        found.layer.branch == self.branch
    }

    /// Tells whether there can be rows below something that is not a visible directory, so that to
    /// resolve a path means to look at every directory above it.
    pub fn may_hide_rows(&self) -> bool {
        self.settled < self.spans.len()
    }

    /// Tells whether to look at one span after the other rather than at all layers at once. That
    /// costs a seek a span, and is worth it while those are few or many rows of others lie between.
    pub(crate) fn goes_by_span(&self) -> bool {
        let spans = self.spans.len();
        spans <= VERY_FEW_SPANS || (spans <= FEW_SPANS && self.crowded.load(Ordering::Relaxed))
    }

    /// Tells whether a crowd of other branches' rows would change how to look for rows.
    pub(crate) fn minds_crowds(&self) -> bool {
        self.spans.len() <= FEW_SPANS
    }

    pub(crate) fn set_crowded(&self) {
        self.crowded.store(true, Ordering::Relaxed);
    }

    /// Returns which span a layer is in.
    pub(crate) fn span_of(&self, layer: Layer) -> Option<usize> {
        let i = self.spans.partition_point(|span| span.bottom() > layer);
        (i < self.spans.len() && layer <= self.spans[i].top()).then_some(i)
    }

    /// Finds the newest row of a path, which may be a tombstone.
    pub(crate) fn find(
        &self,
        txn: &dyn ReadTxn,
        parent: &str,
        name: &str,
    ) -> Result<Option<Found>> {
        self.find_from(txn, parent, name, self.spans[0].top())
    }

    /// Finds the newest row of a path below the write layer.
    pub(crate) fn find_below_write_layer(
        &self,
        txn: &dyn ReadTxn,
        parent: &str,
        name: &str,
    ) -> Result<Option<Found>> {
        let Layer { branch, epoch } = self.write_layer();
        // Epochs start at 1, so there is always a smaller one.
        let epoch = Epoch(epoch.0 - 1);
        self.find_from(txn, parent, name, Layer { branch, epoch })
    }

    /// Finds the newest row of a path that is at most `probe`, which is in the first span.
    fn find_from(
        &self,
        txn: &dyn ReadTxn,
        parent: &str,
        name: &str,
        probe: Layer,
    ) -> Result<Option<Found>> {
        if self.goes_by_span() {
            self.find_by_span(txn, parent, name, probe.epoch)
        } else {
            self.find_by_leaps(txn, parent, name, probe)
        }
    }

    /// Asks one span after the other: each answer lies among the other rows of its branch.
    fn find_by_span(
        &self,
        txn: &dyn ReadTxn,
        parent: &str,
        name: &str,
        newest: Epoch,
    ) -> Result<Option<Found>> {
        for (i, span) in self.spans.iter().enumerate() {
            let last = if i == 0 { newest } else { span.last };
            let found = txn.seek_in(self.bucket, span.branch, span.first..=last, parent, name)?;
            if let Some((layer, row)) = found {
                let span = i;
                return Ok(Some(Found { span, layer, row }));
            }
        }
        Ok(None)
    }

    /// Leaps down the path's rows from each that is outside the chain to the next span.
    fn find_by_leaps(
        &self,
        txn: &dyn ReadTxn,
        parent: &str,
        name: &str,
        mut probe: Layer,
    ) -> Result<Option<Found>> {
        let mut from = 0;
        while let Some((layer, row)) = txn.seek(self.bucket, parent, name, probe)? {
            from += self.spans[from..].partition_point(|span| span.bottom() > layer);
            let Some(span) = self.spans.get(from) else {
                break;
            };
            if layer <= span.top() {
                return Ok(Some(Found {
                    span: from,
                    layer,
                    row,
                }));
            }
            probe = span.top();
        }
        Ok(None)
    }

    /// Finds the visible entry of a path, not following links.
    pub(crate) fn lookup(&self, txn: &dyn ReadTxn, path: &TreePath) -> Result<Option<Entry>> {
        Ok(self.lookup_found(txn, path)?.and_then(|f| f.row.entry))
    }

    /// Like [`lookup`](Self::lookup), with where the row was found. The root is found even where
    /// no row was ever written for it.
    pub(crate) fn lookup_found(&self, txn: &dyn ReadTxn, path: &TreePath) -> Result<Option<Found>> {
        let Some(found) = self.find(txn, path.parent_str(), path.name())? else {
            return Ok(path.is_root().then(|| self.implied_root()));
        };
        if found.row.entry.is_none() {
            return Ok(None);
        }
        if found.span >= self.settled {
            for ancestor in path.ancestors().filter(|a| !a.is_root()) {
                let above = self.find(txn, ancestor.parent_str(), ancestor.name())?;
                let is_dir = above.and_then(|f| f.row.entry).is_some_and(|e| e.is_dir());
                if !is_dir {
                    return Ok(None);
                }
            }
        }
        Ok(Some(found))
    }

    fn implied_root(&self) -> Found {
        let last = self.spans.len() - 1;
        Found {
            span: last,
            layer: self.spans[last].bottom(),
            row: Row {
                entry: Some(self.root.clone()),
                base: None,
            },
        }
    }
}

/// The root directory of a bucket in which nobody has set its attributes.
fn root_entry(bucket: &BucketRecord) -> Entry {
    let Timestamp(created) = bucket.created;
    Entry {
        node: Node::Dir,
        attrs: Attrs {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp(created),
            ctime: Timestamp(created),
        },
    }
}
