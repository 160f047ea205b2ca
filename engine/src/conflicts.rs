//! Conflicts: what nodes wrote to one path without knowing of each other.

use alknet_fs_core::sync;
use alknet_fs_core::sync::{Keep, ReplicaId, Resolution, Value};
use alknet_fs_core::tree::{Follow, resolve};
use alknet_fs_core::{Entry, EventPeer, Result, Timestamp, TreePath};

use crate::branch::Branch;
use crate::bucket::Bucket;
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
    /// What is, or would be, at the path; nothing where it was removed. The content of a file need not
    /// be here.
    pub entry: Option<Entry>,
    /// Who wrote it and when; nothing for a directory that is shown only because something is in it.
    pub written: Option<SideWritten>,
}

/// Who wrote one side of a [`Conflict`], and when.
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
}

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
            for conflict in sync::conflicts(&*txn, &chain)? {
                let side = |value: &Value| Side {
                    entry: value.entry().cloned(),
                    written: Some(SideWritten {
                        at: Timestamp(i64::try_from(value.stamp.time).unwrap_or(i64::MAX)),
                        replica: value.stamp.replica,
                        here: Some(value.stamp.replica) == here,
                        peer: peers.of(value.stamp.replica),
                    }),
                };
                let shown = match &conflict.winner {
                    Some(winner) => side(winner),
                    None => Side {
                        entry: Some(resolve(&*txn, &chain, &conflict.path, Follow::No)?.1),
                        written: None,
                    },
                };
                listed.push(Conflict {
                    branch: chain.branch_name().to_owned(),
                    shown,
                    others: conflict.losers.iter().map(side).collect(),
                    path: conflict.path,
                });
            }
            Ok(listed)
        };
        listed().map_err(|e: crate::Error| e.op("list conflicts"))
    }

    /// Decides a conflict, on all nodes: keeps what is shown, one of the others, or both, the others beside
    /// what is shown under names such as `name (conflict 2026-11-22 from 1a2b3c4d).ext`. Returns these.
    ///
    /// One of the others that is a removal removes what is shown, and one that is a file takes the place of
    /// a directory with all that is in it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no conflict at the path;
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where it has no such other side.
    pub fn resolve(&self, path: impl IntoPath, keep: Keep) -> Result<Resolution> {
        let path = path.into_path().map_err(|e| e.op("resolve"))?;
        let resolved = || {
            let mut txn = self.inner.write()?;
            let chain = self.inner.chain(&*txn, self.id)?;
            let done = sync::resolve(&mut *txn, &chain, &self.inner.context(), &path, keep)?;
            txn.commit()?;
            Ok(done)
        };
        resolved().map_err(|e: crate::Error| e.op("resolve"))
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
                });
            }
        }
        Ok(all)
    }
}
