//! Buckets, branches and snapshots: forking, freezing, restoring, and what may be deleted.
//!
//! Every operation here costs the same however many entries there are; only deletions cost what
//! they delete.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::Chain;
use crate::edit::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Change, Commit, Op};
use crate::path::TreePath;
use crate::store::{
    BranchId, BranchRecord, BucketId, BucketRecord, Epoch, Layer, LineBase, LineRecord, ReadTxn,
    Row, SnapshotRecord, WriteTxn,
};

/// The branch that every new bucket has.
pub const DEFAULT_BRANCH: &str = "main";

/// Checks the name of a bucket, branch or snapshot.
///
/// A name is 1 to 255 bytes of UTF-8 without control characters, without `/`, `@` and `:` (which
/// separate names from each other and from paths), without white space at either end, and neither
/// `.` nor `..`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] with the reason.
pub fn check_label(what: &str, name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > 255 {
        "is over 255 bytes long"
    } else if name.contains(['/', '@', ':']) {
        "has a \"/\", \"@\" or \":\""
    } else if name.chars().any(char::is_control) {
        "has a control character"
    } else if name.trim() != name {
        "begins or ends with white space"
    } else if matches!(name, "." | "..") {
        "is \".\" or \"..\""
    } else {
        return Ok(());
    };
    let detail = format!("the {what} name {reason}");
    Err(Error::with_detail(ErrorKind::InvalidInput, detail).path(name))
}

/// Finds a bucket by its name.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn bucket(txn: &dyn ReadTxn, name: &str) -> Result<BucketRecord> {
    txn.bucket_named(name)?
        .ok_or_else(|| missing("bucket", name))
}

/// Finds a branch by its name.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn branch(txn: &dyn ReadTxn, bucket: BucketId, name: &str) -> Result<BranchRecord> {
    txn.branch_named(bucket, name)?
        .ok_or_else(|| missing("branch", name))
}

/// Finds a snapshot of a branch by its name.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn snapshot(txn: &dyn ReadTxn, branch: BranchId, name: &str) -> Result<SnapshotRecord> {
    txn.snapshot(branch, name)?
        .ok_or_else(|| missing("snapshot", name))
}

/// Makes a bucket with an empty branch [`DEFAULT_BRANCH`].
///
/// # Errors
/// [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidInput`] for the name.
pub fn create_bucket(
    txn: &mut dyn WriteTxn,
    name: &str,
    context: &Context,
) -> Result<(BucketRecord, BranchRecord)> {
    check_label("bucket", name)?;
    if txn.bucket_named(name)?.is_some() {
        return Err(exists("bucket", name));
    }
    let bucket = txn.add_bucket(name, context.now)?;
    let branch = txn.add_branch(bucket.id, DEFAULT_BRANCH, context.now)?;
    txn.add_line(&LineRecord {
        branch: branch.id,
        start: bucket.epoch,
        base: None,
    })?;
    Ok((bucket, branch))
}

/// Gives a bucket another name.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidInput`].
pub fn rename_bucket(txn: &mut dyn WriteTxn, id: BucketId, name: &str) -> Result<()> {
    check_label("bucket", name)?;
    let mut record = bucket_by_id(txn, id)?;
    if record.name == name {
        return Ok(());
    }
    if txn.bucket_named(name)?.is_some() {
        return Err(exists("bucket", name));
    }
    name.clone_into(&mut record.name);
    record.generation += 1;
    txn.set_bucket(&record)
}

/// What a fork starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkSource {
    /// The branch.
    pub branch: BranchId,
    /// A snapshot of it: the fork is pinned to it. Nothing: the fork is live, so that later writes
    /// to the branch show through where the fork has not overridden or removed them.
    pub snapshot: Option<String>,
}

/// Forks a branch. Costs a few rows, whatever the branch holds.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidInput`].
pub fn fork(
    txn: &mut dyn WriteTxn,
    name: &str,
    source: &ForkSource,
    context: &Context,
) -> Result<BranchRecord> {
    check_label("branch", name)?;
    let parent = branch_by_id(txn, source.branch)?;
    if txn.branch_named(parent.bucket, name)?.is_some() {
        return Err(exists("branch", name));
    }
    let (at, from) = match &source.snapshot {
        None => (None, parent.name.clone()),
        Some(name) => {
            let epoch = snapshot(txn, parent.id, name)?.epoch;
            (Some(epoch), format!("{}@{name}", parent.name))
        }
    };
    let base = LineBase {
        branch: parent.id,
        at,
        stays_live: false,
        may_hide: false,
    };
    add(txn, parent.bucket, name, Some(base), Some(from), context)
}

/// Adds a branch that inherits from any point in time of another, or from nothing.
///
/// # Errors
/// As [`fork`].
pub fn add(
    txn: &mut dyn WriteTxn,
    bucket: BucketId,
    name: &str,
    base: Option<LineBase>,
    from: Option<String>,
    context: &Context,
) -> Result<BranchRecord> {
    check_label("branch", name)?;
    let mut bucket = bucket_by_id(txn, bucket)?;
    if txn.branch_named(bucket.id, name)?.is_some() {
        return Err(exists("branch", name));
    }
    let branch = txn.add_branch(bucket.id, name, context.now)?;
    txn.add_line(&LineRecord {
        branch: branch.id,
        start: bucket.epoch,
        base,
    })?;
    bucket.generation += 1;
    txn.set_bucket(&bucket)?;
    publish(txn, bucket.id, context, name, Op::Fork, from)?;
    Ok(branch)
}

/// Freezes all that a branch shows now, without a name. Returns the epoch that shows it.
fn freeze(txn: &mut dyn WriteTxn, id: BranchId) -> Result<Epoch> {
    let record = branch_by_id(txn, id)?;
    let mut bucket = bucket_by_id(txn, record.bucket)?;
    let epoch = bucket.epoch;
    next_epoch(&mut bucket)?;
    txn.set_bucket(&bucket)?;
    Ok(epoch)
}

/// Makes an epoch in which a branch shows what it shows now with other rows of its own, and of those
/// that it inherits live, which never were in it together. What these show later is as if that epoch
/// had not been. Returns the epoch; the one before shows what is there now, unless there are no rows.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn freeze_with(
    txn: &mut dyn WriteTxn,
    id: BranchId,
    rows: &BTreeMap<BranchId, BTreeMap<TreePath, Row>>,
) -> Result<Epoch> {
    let present = freeze(txn, id)?;
    if rows.is_empty() {
        return Ok(present);
    }
    let epoch = Epoch(present.0 + 1);
    for (branch, rows) in rows {
        let record = branch_by_id(txn, *branch)?;
        for start in [epoch, Epoch(epoch.0 + 1)] {
            txn.add_line(&LineRecord {
                branch: *branch,
                start,
                base: Some(LineBase {
                    branch: *branch,
                    at: Some(present),
                    stays_live: true,
                    may_hide: false,
                }),
            })?;
        }
        let layer = Layer {
            branch: *branch,
            epoch,
        };
        for (path, row) in rows {
            let (parent, name) = (path.parent_str(), path.name());
            txn.put_row(record.bucket, parent, name, layer, row)?;
        }
    }
    freeze(txn, id)
}

/// Gives a branch another base. Its own rows do not show any more. Returns the last epoch that shows
/// them.
pub fn rebase(txn: &mut dyn WriteTxn, id: BranchId, base: Option<LineBase>) -> Result<Epoch> {
    let before = freeze(txn, id)?;
    txn.add_line(&LineRecord {
        branch: id,
        start: Epoch(before.0 + 1),
        base,
    })?;
    Ok(before)
}

/// Gives a name to an epoch of a branch.
pub fn name_snapshot(
    txn: &mut dyn WriteTxn,
    snapshot: &SnapshotRecord,
    context: &Context,
) -> Result<()> {
    let record = branch_by_id(txn, snapshot.branch)?;
    txn.add_snapshot(snapshot)?;
    bump(txn, record.bucket)?;
    let name = Some(snapshot.name.clone());
    publish(
        txn,
        record.bucket,
        context,
        &record.name,
        Op::Snapshot,
        name,
    )
}

/// Gives a branch another name. Snapshots, children and open sessions stay with it.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidInput`].
pub fn rename_branch(
    txn: &mut dyn WriteTxn,
    id: BranchId,
    name: &str,
    context: &Context,
) -> Result<()> {
    check_label("branch", name)?;
    let mut record = branch_by_id(txn, id)?;
    if record.name == name {
        return Ok(());
    }
    if txn.branch_named(record.bucket, name)?.is_some() {
        return Err(exists("branch", name));
    }
    let old = std::mem::replace(&mut record.name, name.to_owned());
    txn.set_branch(&record)?;
    bump(txn, record.bucket)?;
    publish(
        txn,
        record.bucket,
        context,
        name,
        Op::RenameBranch,
        Some(old),
    )
}

/// Deletes a branch with its snapshots and everything only it holds.
///
/// # Errors
/// [`ErrorKind::InUse`] where other branches are forked from it or from a snapshot of it, where
/// sessions are open on it, or where it is the bucket's only branch; the message names them.
pub fn delete_branch(txn: &mut dyn WriteTxn, id: BranchId, context: &Context) -> Result<()> {
    let record = branch_by_id(txn, id)?;
    let in_use = |detail: String| {
        Error::with_detail(ErrorKind::InUse, detail)
            .op("delete branch")
            .path(&record.name)
    };
    let children = children(txn, id)?;
    if !children.is_empty() {
        let names: Vec<_> = children.iter().map(|b| b.name.as_str()).collect();
        return Err(in_use(format!(
            "{} forked from it; delete first: {}",
            count(names.len(), "branch is", "branches are"),
            names.join(", ")
        )));
    }
    let sessions = txn.sessions(Some(id))?;
    if !sessions.is_empty() {
        let ids: Vec<_> = sessions.iter().map(|s| s.id.to_string()).collect();
        return Err(in_use(format!(
            "{} open on it; close or abort first: {}",
            count(ids.len(), "write session is", "write sessions are"),
            ids.join(", ")
        )));
    }
    if txn.branches(record.bucket)?.len() == 1 {
        return Err(in_use(
            "it is the bucket's only branch; delete the bucket instead".to_owned(),
        ));
    }
    txn.remove_branch(id)?;
    bump(txn, record.bucket)?;
    let name = &record.name;
    publish(txn, record.bucket, context, name, Op::DeleteBranch, None)
}

/// Returns the branches forked from a branch or from a snapshot of it, by number.
pub fn children(txn: &dyn ReadTxn, id: BranchId) -> Result<Vec<BranchRecord>> {
    let mut ids: Vec<_> = txn.lines_on(id)?.iter().map(|line| line.branch).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|&child| child != id);
    let mut out = Vec::with_capacity(ids.len());
    for child in ids {
        out.extend(txn.branch(child)?);
    }
    Ok(out)
}

/// Returns what a branch was forked from, with the epoch it is pinned to; nothing for a root
/// branch.
pub fn parent(txn: &dyn ReadTxn, id: BranchId) -> Result<Option<LineBase>> {
    let lines = txn.lines(id)?;
    Ok(lines
        .first()
        .and_then(|line| line.base)
        .filter(|base| base.branch != id))
}

/// Returns some branches and all that any of them inherits from, now or at any earlier point in time: what
/// snapshots of them show is in these too.
pub fn with_ancestors(txn: &dyn ReadTxn, branches: &[BranchId]) -> Result<BTreeSet<BranchId>> {
    let mut found: BTreeSet<_> = branches.iter().copied().collect();
    let mut open = branches.to_vec();
    while let Some(branch) = open.pop() {
        for line in txn.lines(branch)? {
            if let Some(base) = line.base
                && found.insert(base.branch)
            {
                open.push(base.branch);
            }
        }
    }
    Ok(found)
}

/// Takes a snapshot: freezes all that the branch sees now, inherited entries included, under a
/// name. Costs two rows, whatever the branch holds.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidInput`].
pub fn take_snapshot(
    txn: &mut dyn WriteTxn,
    id: BranchId,
    name: &str,
    context: &Context,
) -> Result<SnapshotRecord> {
    check_label("snapshot", name)?;
    let record = branch_by_id(txn, id)?;
    if txn.snapshot(id, name)?.is_some() {
        return Err(exists("snapshot", name));
    }
    let mut bucket = bucket_by_id(txn, record.bucket)?;
    let snapshot = SnapshotRecord {
        branch: id,
        name: name.to_owned(),
        epoch: bucket.epoch,
        created: context.now,
    };
    txn.add_snapshot(&snapshot)?;
    next_epoch(&mut bucket)?;
    txn.set_bucket(&bucket)?;
    let name = Some(name.to_owned());
    publish(txn, bucket.id, context, &record.name, Op::Snapshot, name)?;
    Ok(snapshot)
}

/// Gives a snapshot another name: what it shows, and when it was taken, stays. It is published as that the
/// snapshot went and another came.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidInput`].
pub fn rename_snapshot(
    txn: &mut dyn WriteTxn,
    id: BranchId,
    name: &str,
    new: &str,
    context: &Context,
) -> Result<()> {
    check_label("snapshot", new)?;
    let mut renamed = snapshot(txn, id, name)?;
    if name == new {
        return Ok(());
    }
    if txn.snapshot(id, new)?.is_some() {
        return Err(exists("snapshot", new));
    }
    delete_snapshot(txn, id, name, context)?;
    new.clone_into(&mut renamed.name);
    name_snapshot(txn, &renamed, context)
}

/// Forgets a snapshot's name. Branches forked from it keep what they see.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn delete_snapshot(
    txn: &mut dyn WriteTxn,
    id: BranchId,
    name: &str,
    context: &Context,
) -> Result<()> {
    let record = branch_by_id(txn, id)?;
    snapshot(txn, id, name)?;
    txn.remove_snapshot(id, name)?;
    bump(txn, record.bucket)?;
    let name = Some(name.to_owned());
    publish(
        txn,
        record.bucket,
        context,
        &record.name,
        Op::DeleteSnapshot,
        name,
    )
}

/// Makes a branch look as it did at one of its snapshots. Costs two rows, whatever it holds.
///
/// What the branch held since is no longer visible in it; take a snapshot first to keep it. Live
/// children see the restored state.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn restore(txn: &mut dyn WriteTxn, id: BranchId, name: &str, context: &Context) -> Result<()> {
    let record = branch_by_id(txn, id)?;
    let snapshot = snapshot(txn, id, name)?;
    let mut bucket = bucket_by_id(txn, record.bucket)?;
    next_epoch(&mut bucket)?;
    txn.set_bucket(&bucket)?;
    txn.add_line(&LineRecord {
        branch: id,
        start: bucket.epoch,
        base: Some(LineBase {
            branch: id,
            at: Some(snapshot.epoch),
            stays_live: false,
            may_hide: false,
        }),
    })?;
    let name = Some(name.to_owned());
    publish(txn, bucket.id, context, &record.name, Op::Restore, name)
}

/// Loads the chain of a branch as it is, or as it was at a snapshot.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn chain_at(txn: &dyn ReadTxn, id: BranchId, at: Option<&str>) -> Result<Chain> {
    let epoch = match at {
        None => None,
        Some(name) => Some(snapshot(txn, id, name)?.epoch),
    };
    Chain::load(txn, id, epoch)
}

fn bucket_by_id(txn: &dyn ReadTxn, id: BucketId) -> Result<BucketRecord> {
    txn.bucket(id)?
        .ok_or_else(|| Error::with_detail(ErrorKind::NotFound, "the bucket was deleted").path(id))
}

fn branch_by_id(txn: &dyn ReadTxn, id: BranchId) -> Result<BranchRecord> {
    txn.branch(id)?
        .ok_or_else(|| Error::with_detail(ErrorKind::NotFound, "the branch was deleted").path(id))
}

fn bump(txn: &mut dyn WriteTxn, id: BucketId) -> Result<()> {
    let mut bucket = bucket_by_id(txn, id)?;
    bucket.generation += 1;
    txn.set_bucket(&bucket)
}

fn next_epoch(bucket: &mut BucketRecord) -> Result<()> {
    let next = Epoch(bucket.epoch.0 + 1);
    if next == Epoch::MAX {
        return Err(Error::with_detail(
            ErrorKind::TooLarge,
            "the bucket has no snapshots left to give",
        ));
    }
    bucket.epoch = next;
    bucket.generation += 1;
    Ok(())
}

fn publish(
    txn: &mut dyn WriteTxn,
    bucket: BucketId,
    context: &Context,
    branch: &str,
    op: Op,
    name: Option<String>,
) -> Result<()> {
    let commit = Commit {
        at: context.now,
        author: context.author.clone(),
        branch: branch.to_owned(),
        session: None,
        changes: vec![Change {
            name,
            ..Change::new(op)
        }],
    };
    txn.publish(bucket, &commit).map(drop)
}

fn missing(what: &str, name: &str) -> Error {
    Error::with_detail(ErrorKind::NotFound, format!("no such {what}")).path(name)
}

fn exists(what: &str, name: &str) -> Error {
    Error::with_detail(
        ErrorKind::AlreadyExists,
        format!("a {what} of that name exists"),
    )
    .path(name)
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
