//! Buckets, and the names of what can be read in them.

use std::str::FromStr;
use std::sync::Arc;

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::diff::{Difference, diff};
use alknet_fs_core::store::{BranchRecord, BucketId, ReadTxn};
use alknet_fs_core::{Cursor, Error, ErrorKind, Event, EventFilter, Result, TreePath};

use crate::branch::Branch;
use crate::store::{Inner, IntoPath, Store};
use crate::view::View;
use crate::{BranchId, Retention, Timestamp};

/// The unit of isolation: branches share content and history inside a bucket, never across.
#[derive(Clone)]
pub struct Bucket {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: BucketId,
}

/// A branch, or a branch at one of its snapshots: `NAME` or `NAME@SNAPSHOT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRef {
    /// The branch's name.
    pub branch: String,
    /// The snapshot's name, or nothing for the branch as it is now.
    pub snapshot: Option<String>,
}

impl FromStr for TreeRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (branch, snapshot) = match text.split_once('@') {
            None => (text, None),
            Some((branch, snapshot)) => (branch, Some(snapshot)),
        };
        branch::check_label("branch", branch)?;
        if let Some(snapshot) = snapshot {
            branch::check_label("snapshot", snapshot)?;
        }
        Ok(Self {
            branch: branch.to_owned(),
            snapshot: snapshot.map(str::to_owned),
        })
    }
}

impl std::fmt::Display for TreeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.branch)?;
        match &self.snapshot {
            Some(snapshot) => write!(f, "@{snapshot}"),
            None => Ok(()),
        }
    }
}

/// What [`Bucket::branches`] tells of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchInfo {
    /// Its number.
    pub id: BranchId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The branch it was forked from.
    pub parent: Option<String>,
    /// Whether later writes to the parent show through.
    pub live: bool,
    /// The number of its snapshots.
    pub snapshots: usize,
}

impl Bucket {
    /// Returns the bucket's number.
    pub fn id(&self) -> BucketId {
        self.id
    }

    /// Returns the store.
    pub fn store(&self) -> Store {
        Store {
            inner: Arc::clone(&self.inner),
        }
    }

    /// Returns the bucket's name as it is now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the bucket was deleted.
    pub fn name(&self) -> Result<String> {
        self.name_in(&*self.inner.tree.read()?)
    }

    pub(crate) fn name_in(&self, txn: &dyn ReadTxn) -> Result<String> {
        let gone = || Error::with_detail(ErrorKind::NotFound, "the bucket was deleted");
        Ok(txn.bucket(self.id)?.ok_or_else(gone)?.name)
    }

    /// Finds a branch by its name. The handle stays with the branch when it is renamed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn branch(&self, name: &str) -> Result<Branch> {
        let record = branch::branch(&*self.inner.tree.read()?, self.id, name)
            .map_err(|e| e.op("open branch"))?;
        Ok(self.handle(&record))
    }

    /// Returns all branches, from the oldest.
    pub fn branches(&self) -> Result<Vec<BranchInfo>> {
        let txn = self.inner.tree.read()?;
        let mut out = Vec::new();
        for record in txn.branches(self.id)? {
            out.push(branch_info(&*txn, record)?);
        }
        Ok(out)
    }

    /// Opens a view of a branch or of a snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn view(&self, tree: &TreeRef) -> Result<View> {
        let branch = self.branch(&tree.branch)?;
        match &tree.snapshot {
            None => branch.view(),
            Some(snapshot) => branch.view_at(snapshot),
        }
    }

    /// Forks a branch off a branch (live: later writes to it show through) or off a snapshot
    /// (pinned). Costs the same whatever it holds.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidInput`].
    pub fn fork(&self, from: &TreeRef, name: &str) -> Result<Branch> {
        let context = self.inner.context();
        let mut txn = self.inner.write()?;
        let source = ForkSource {
            branch: branch::branch(&*txn, self.id, &from.branch)
                .map_err(|e| e.op("fork"))?
                .id,
            snapshot: from.snapshot.clone(),
        };
        let record = branch::fork(&mut *txn, name, &source, &context).map_err(|e| e.op("fork"))?;
        txn.commit()?;
        Ok(self.handle(&record))
    }

    /// Deletes a branch with its snapshots.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where other branches are forked from it, write sessions are open on it,
    /// or it is the only one; the message says what to do.
    pub fn delete_branch(&self, name: &str) -> Result<()> {
        let context = self.inner.context();
        let mut txn = self.inner.write()?;
        let record = branch::branch(&*txn, self.id, name).map_err(|e| e.op("delete branch"))?;
        branch::delete_branch(&mut *txn, record.id, &context)?;
        txn.commit()?;
        self.inner.forget_chain(record.id);
        Ok(())
    }

    /// Compares two trees at and below a path, by path. The cost follows what they do not share.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown branch or snapshot.
    pub fn diff(
        &self,
        from: &TreeRef,
        to: &TreeRef,
        under: impl IntoPath,
    ) -> Result<Vec<(TreePath, Difference)>> {
        let under = under.into_path()?;
        let txn = self.inner.tree.read()?;
        let chain = |tree: &TreeRef| {
            let record = branch::branch(&*txn, self.id, &tree.branch)?;
            branch::chain_at(&*txn, record.id, tree.snapshot.as_deref())
        };
        let chains = chain(from).and_then(|a| Ok((a, chain(to)?)));
        let (a, b) = chains.map_err(|e| e.op("diff"))?;
        diff(&*txn, &a, &b, &under).map_err(|e| e.op("diff"))
    }

    /// Returns the newest events that pass a filter, newest first.
    pub fn log(&self, filter: &EventFilter, limit: usize) -> Result<Vec<Event>> {
        self.log_before(Cursor(u64::MAX), filter, limit)
    }

    /// Returns the newest events before a position that pass a filter, newest first: with the
    /// cursor of the last event of one page, the next page.
    pub fn log_before(
        &self,
        before: Cursor,
        filter: &EventFilter,
        limit: usize,
    ) -> Result<Vec<Event>> {
        const WINDOW: u64 = 64;
        let txn = self.inner.tree.read()?;
        let pruned = txn.bucket(self.id)?.map_or(Cursor::START, |b| b.pruned);
        let mut out = Vec::new();
        let mut end = txn.last_cursor()?.offset().min(before.offset()) + 1;
        while end > 0 && out.len() < limit {
            let start = end.saturating_sub(WINDOW);
            let after = match start {
                0 => Cursor::START,
                start => Cursor::end_of(start - 1),
            };
            let events = txn.events(Some(self.id), after.max(pruned), WINDOW as usize + 1)?;
            let wanted = events
                .into_iter()
                .filter(|e| e.cursor.offset() < end && e.cursor < before)
                .filter(|e| filter.passes(&e.branch, &e.change));
            let mut wanted: Vec<_> = wanted.collect();
            wanted.reverse();
            out.extend(wanted);
            if after <= pruned {
                break;
            }
            end = start;
        }
        out.truncate(limit);
        crate::peers::name_peers(&*txn, &mut out);
        Ok(out)
    }

    /// Removes old events; returns how many. Watchers that had not seen them get
    /// [`ErrorKind::Lagged`].
    pub fn prune_events(&self, retention: &Retention) -> Result<u64> {
        let mut txn = self.inner.write()?;
        let pruned = txn.prune_events(self.id, retention)?;
        txn.commit()?;
        Ok(pruned)
    }

    fn handle(&self, record: &BranchRecord) -> Branch {
        Branch {
            inner: Arc::clone(&self.inner),
            bucket: self.id,
            id: record.id,
            fetching: None,
        }
    }
}

pub(crate) fn branch_info(txn: &dyn ReadTxn, record: BranchRecord) -> Result<BranchInfo> {
    let base = branch::parent(txn, record.id)?;
    let parent = match base {
        Some(base) => txn.branch(base.branch)?.map(|parent| parent.name),
        None => None,
    };
    Ok(BranchInfo {
        live: base.is_some_and(|base| base.at.is_none()),
        parent,
        snapshots: txn.snapshots(record.id)?.len(),
        id: record.id,
        name: record.name,
        created: record.created,
    })
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
