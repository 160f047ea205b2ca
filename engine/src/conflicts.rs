//! Conflicts: what nodes wrote to one path without knowing of each other.

use std::collections::HashMap;

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::ReadTxn;
use alknet_fs_core::sync;
use alknet_fs_core::sync::{Keep, ReplicaId, Resolution, Stamp, Value};
use alknet_fs_core::tree::{Follow, resolve};
use alknet_fs_core::{Entry, EventPeer, Node, Result, Timestamp, TreePath};

use crate::branch::Branch;
use crate::bucket::Bucket;
use crate::content::Named;
use crate::peers::Peers;
use crate::store::IntoPath;

/// A path of a branch that nodes wrote without knowing of each other, and that nobody has decided about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The branch's name.
    pub branch: String,
    /// The path.
    pub path: TreePath,
    /// What is shown, on all nodes.
    pub shown: Side,
    /// What is not, from what comes next to it. [`Branch::resolve`] counts these from 0.
    pub others: Vec<Side>,
}

/// One side of a [`Conflict`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// What is, or would be, at the path; nothing where it was removed.
    pub entry: Option<Entry>,
    /// Whether the content of a file is here, too; true for all that has none.
    pub content_here: bool,
    /// Who wrote it and when; nothing for a directory that is shown only because something is in it.
    pub written: Option<SideWritten>,
}

/// Who wrote one side of a [`Conflict`], or gave a name, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideWritten {
    /// When, by that node's clock.
    pub at: Timestamp,
    /// The replica of the bucket.
    pub replica: ReplicaId,
    /// Whether that is this store.
    pub here: bool,
    /// The node that has the replica, where that is one that this store deals with itself.
    pub peer: Option<EventPeer>,
}

/// A branch or a snapshot that has a suffix here, because another one of its name came from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameConflict {
    /// The name that the branch has here.
    pub branch: String,
    /// The name that the snapshot of the branch has here; nothing where it is about the branch.
    pub snapshot: Option<String>,
    /// The name that was given to it.
    pub name: String,
    /// Who gave it that name and when, as far as that is known.
    pub written: Option<SideWritten>,
}

impl SideWritten {
    fn of(stamp: Stamp, here: Option<ReplicaId>, peers: &Peers<'_>) -> Self {
        Self {
            at: Timestamp(i64::try_from(stamp.time).unwrap_or(i64::MAX)),
            replica: stamp.replica,
            here: Some(stamp.replica) == here,
            peer: peers.of(stamp.replica),
        }
    }
}

/// How many letters of a node's key stand for it where it has no name.
const SHORT: usize = 10;

impl Branch {
    /// Returns the conflicts of the branch itself, not of what it inherits, by path. Whoever writes a path
    /// decides about it. The cost follows the number of conflicts.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where the branch was deleted.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        let listed = || {
            let txn = self.inner.tree.read()?;
            let chain = self.inner.chain(&*txn, self.id)?;
            let here = sync::names(&*txn, self.bucket)?.map(|names| names.replica);
            let peers = Peers::new(&*txn);
            let mut listed = Vec::new();
            let side = |entry: Option<Entry>, written| {
                let content_here = match entry.as_ref().and_then(Entry::hash) {
                    Some(hash) => txn.has_content(&hash)?,
                    None => true,
                };
                Ok(Side {
                    entry,
                    content_here,
                    written,
                })
            };
            let written = |value: &Value| {
                let written = SideWritten::of(value.stamp, here, &peers);
                side(value.entry().cloned(), Some(written))
            };
            for conflict in sync::conflicts(&*txn, &chain)? {
                let shown = match &conflict.winner {
                    Some(winner) => written(winner)?,
                    None => {
                        let (_, entry) = resolve(&*txn, &chain, &conflict.path, Follow::No)?;
                        side(Some(entry), None)?
                    }
                };
                let others = conflict.losers.iter().map(written);
                listed.push(Conflict {
                    branch: chain.branch_name().to_owned(),
                    shown,
                    others: others.collect::<Result<_>>()?,
                    path: conflict.path,
                });
            }
            Ok(listed)
        };
        listed().map_err(|e: crate::Error| e.op("list conflicts"))
    }

    /// Decides a conflict, on all nodes: keeps what is shown, one of the others, or both, the others beside
    /// what is shown under names such as `name (conflict 2026-11-22 from laptop).ext`: with what the node is
    /// called here that wrote it, or the beginning of its key or, where that is not known, of its replica.
    /// Returns these.
    ///
    /// One of the others that is a removal removes what is shown, and one that is a file takes the place of
    /// a directory with all that is in it. Its content is waited for where it is not here, as a read of it
    /// would: before what is shown goes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no conflict at the path;
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where it has no such other side;
    /// [`ErrorKind::ContentUnavailable`](crate::ErrorKind::ContentUnavailable), which names who was asked,
    /// where the content of the other side that is to be kept cannot be had.
    pub fn resolve(&self, path: impl IntoPath, keep: Keep) -> Result<Resolution> {
        let path = path.into_path().map_err(|e| e.op("resolve"))?;
        let resolved = || {
            loop {
                let mut txn = self.inner.write()?;
                let chain = self.inner.chain(&*txn, self.id)?;
                if let Some(named) = self.missing_loser(&*txn, &chain, &path, keep)? {
                    drop(txn);
                    let fetching = self.fetching.as_deref().cloned().unwrap_or_default();
                    let fetched = self.inner.fetched_lost(&named, (self.id, &path), &fetching);
                    fetched.map_err(|e| e.path(&path))?;
                    continue;
                }
                let called = self.callers(&*txn, &chain, &path)?;
                let called = |replica| called.get(&replica).cloned();
                let context = self.inner.context();
                let done = sync::resolve(&mut *txn, &chain, &context, &path, keep, &called)?;
                txn.commit()?;
                return Ok(done);
            }
        };
        resolved().map_err(|e: crate::Error| e.op("resolve"))
    }

    /// Returns what the nodes are called that wrote what lost at a path.
    fn callers(
        &self,
        txn: &dyn ReadTxn,
        chain: &Chain,
        path: &TreePath,
    ) -> Result<HashMap<ReplicaId, String>> {
        let peers = Peers::new(txn);
        let losers = sync::conflict(txn, chain, path)?.map_or(Vec::new(), |c| c.losers);
        let replicas = losers.iter().map(|loser| loser.stamp.replica);
        let called = replicas.filter_map(|replica| {
            let EventPeer { id, name } = peers.of(replica)?;
            let short = || id.chars().take(SHORT).collect();
            Some((replica, name.unwrap_or_else(short)))
        });
        Ok(called.collect())
    }

    /// Returns the content of the loser that is to be kept, where that is not here.
    fn missing_loser(
        &self,
        txn: &dyn ReadTxn,
        chain: &Chain,
        path: &TreePath,
        keep: Keep,
    ) -> Result<Option<Named>> {
        let Keep::Loser(n) = keep else {
            return Ok(None);
        };
        let conflict = sync::conflict(txn, chain, path)?;
        let loser = conflict.as_ref().and_then(|c| c.losers.get(n));
        match loser.and_then(Value::entry).map(|entry| &entry.node) {
            Some(&Node::File { hash, size }) if !txn.has_content(&hash)? => Ok(Some(Named {
                bucket: self.bucket,
                hash,
                size,
            })),
            _ => Ok(None),
        }
    }
}

impl Bucket {
    /// Returns the conflicts of all branches, by branch from the oldest, and by path.
    ///
    /// # Errors
    /// Those of the store.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        let mut all = Vec::new();
        for info in self.branches()? {
            match self
                .branch(&info.name)
                .and_then(|branch| branch.conflicts())
            {
                Ok(conflicts) => all.extend(conflicts),
                // It was deleted or renamed in the meantime.
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Returns the branches and snapshots that have a suffix because another one of their name came from
    /// elsewhere. To rename or to delete one of the two settles it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn name_conflicts(&self) -> Result<Vec<NameConflict>> {
        let txn = self.inner.tree.read()?;
        let Some(names) = sync::names(&*txn, self.id)? else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        let peers = Peers::new(&*txn);
        for conflict in names.conflicts {
            // It may have gone, or got another name, since that was noted.
            let Some(branch) = txn.branch(conflict.branch)? else {
                continue;
            };
            let snapshot = conflict.is_snapshot.then_some(conflict.shown_as.clone());
            let is_there = match &snapshot {
                Some(snapshot) => txn.snapshot(branch.id, snapshot)?.is_some(),
                None => branch.name == conflict.shown_as,
            };
            if is_there {
                all.push(NameConflict {
                    branch: branch.name,
                    snapshot,
                    name: conflict.name,
                    written: conflict
                        .stamp
                        .map(|stamp| SideWritten::of(stamp, Some(names.replica), &peers)),
                });
            }
        }
        Ok(all)
    }
}
