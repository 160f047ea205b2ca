//! Comparing what two chains see.
//!
//! The cost follows what the two wrote since they parted, not what they share: only paths with a
//! row in a layer that one chain has and the other has not can differ, and what lies below a
//! directory that one of them lacks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use crate::chain::Chain;
use crate::entry::{Entry, Hash, Node};
use crate::error::Result;
use crate::path::TreePath;
use crate::store::{BranchId, Epoch, ReadTxn};
use crate::tree::{self, Walk};

/// How a path differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only the second side has it.
    Added {
        /// The entry.
        new: Entry,
    },
    /// Only the first side has it.
    Deleted {
        /// The entry.
        old: Entry,
    },
    /// Both have it, with another node, mode, owner or modification time.
    Modified {
        /// The first side's entry.
        old: Entry,
        /// The second side's entry.
        new: Entry,
    },
    /// A file or link that the first side has elsewhere with the same content.
    Renamed {
        /// Where the first side has it.
        from: TreePath,
        /// The first side's entry.
        old: Entry,
        /// The second side's entry.
        new: Entry,
    },
}

/// Compares two chains of one bucket at and below a path, by path.
///
/// An addition and a deletion of the same content (not of empty files) are one rename, paired in
/// path order. Times of directories and `ctime` are not compared.
pub fn diff(
    txn: &dyn ReadTxn,
    a: &Chain,
    b: &Chain,
    under: &TreePath,
) -> Result<Vec<(TreePath, Difference)>> {
    let mut todo = candidates(txn, a, b, under)?;
    let mut found: BTreeMap<TreePath, Difference> = BTreeMap::new();
    while let Some(path) = todo.pop_first() {
        if found.contains_key(&path) {
            continue;
        }
        let (old, new) = (a.lookup(txn, &path)?, b.lookup(txn, &path)?);
        for (chain, side, other) in [(a, &old, &new), (b, &new, &old)] {
            let only_here = side.as_ref().is_some_and(Entry::is_dir)
                && !other.as_ref().is_some_and(Entry::is_dir);
            if only_here {
                tree::walk(txn, chain, &path, &mut |below, _| {
                    todo.insert(below.clone());
                    Ok(Walk::Continue)
                })?;
            }
        }
        let difference = match (old, new) {
            (None, None) => continue,
            (None, Some(new)) => Difference::Added { new },
            (Some(old), None) => Difference::Deleted { old },
            (Some(old), Some(new)) if same(&old, &new) => continue,
            (Some(old), Some(new)) => Difference::Modified { old, new },
        };
        found.insert(path, difference);
    }
    pair_renames(&mut found);
    Ok(found.into_iter().collect())
}

fn same(a: &Entry, b: &Entry) -> bool {
    let times = a.is_dir() || a.attrs.mtime == b.attrs.mtime;
    let owner = |e: &Entry| (e.attrs.mode, e.attrs.uid, e.attrs.gid);
    a.node == b.node && owner(a) == owner(b) && times
}

/// Collects the paths that were written in layers which only one of the chains has.
fn candidates(
    txn: &dyn ReadTxn,
    a: &Chain,
    b: &Chain,
    under: &TreePath,
) -> Result<BTreeSet<TreePath>> {
    let mut paths = BTreeSet::new();
    if !under.is_root() {
        paths.insert(under.clone());
    }
    for (branch, epochs) in only_in_one(a, b) {
        txn.paths_of(a.bucket(), branch, epochs, under, &mut |parent, name| {
            paths.insert(TreePath::from_stored(parent, name));
            Ok(())
        })?;
    }
    Ok(paths)
}

/// Returns the ranges of epochs of each branch that exactly one of the chains shows.
fn only_in_one(a: &Chain, b: &Chain) -> Vec<(BranchId, RangeInclusive<Epoch>)> {
    // Every span toggles membership at its first epoch and after its last.
    let mut edges: BTreeMap<BranchId, Vec<(u64, usize)>> = BTreeMap::new();
    for (side, chain) in [a, b].into_iter().enumerate() {
        for span in chain.spans() {
            let edges = edges.entry(span.branch).or_default();
            edges.push((u64::from(span.first.0), side));
            edges.push((u64::from(span.last.0) + 1, side));
        }
    }
    let mut out = Vec::new();
    for (branch, mut edges) in edges {
        edges.sort_unstable();
        let mut inside = [false; 2];
        let mut since = 0;
        for (at, side) in edges {
            if inside[0] != inside[1] && at > since {
                // An edge after the last epoch is at most one past `Epoch::MAX`.
                let (first, last) = (Epoch(since as u32), Epoch((at - 1) as u32));
                out.push((branch, first..=last));
            }
            inside[side] = !inside[side];
            since = at;
        }
    }
    out
}

fn pair_renames(found: &mut BTreeMap<TreePath, Difference>) {
    #[derive(PartialEq, Eq, Hash)]
    enum Key {
        File(Hash),
        Link(Box<str>),
    }
    let key = |entry: &Entry| match &entry.node {
        Node::File { hash, size } if *size > 0 => Some(Key::File(*hash)),
        Node::Symlink { target } => Some(Key::Link(target.clone())),
        _ => None,
    };
    let mut deleted: HashMap<Key, Vec<TreePath>> = HashMap::new();
    for (path, difference) in found.iter().rev() {
        if let Difference::Deleted { old } = difference
            && let Some(key) = key(old)
        {
            deleted.entry(key).or_default().push(path.clone());
        }
    }
    let mut pairs = Vec::new();
    for (path, difference) in found.iter() {
        if let Difference::Added { new } = difference
            && let Some(key) = key(new)
            && let Some(from) = deleted.get_mut(&key).and_then(Vec::pop)
        {
            pairs.push((from, path.clone()));
        }
    }
    for (from, to) in pairs {
        let (Some(Difference::Deleted { old }), Some(Difference::Added { new })) =
            (found.remove(&from), found.remove(&to))
        else {
            unreachable!("pairs are taken from deletions and additions, each once");
        };
        found.insert(to, Difference::Renamed { from, old, new });
    }
}
