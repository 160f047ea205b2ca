//! From registers to rows.

use std::collections::BTreeSet;

use super::register::{Resolved, State, Value, attrs};
use crate::entry::{Entry, Kind, Node};
use crate::error::Result;
use crate::path::TreePath;
use crate::store::Row;

/// The registers of one branch.
pub trait Registers {
    /// Returns the values of a path that no other value of it was written over; none where the path
    /// was never written.
    fn values(&self, path: &TreePath) -> Result<Vec<Value>>;

    /// Returns the names directly in a directory that have a register.
    fn names(&self, dir: &TreePath) -> Result<Vec<Box<str>>>;
}

/// What the registers say about one path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Projected {
    /// What the branch holds there; nothing where no row is needed, because the branch never wrote
    /// there. A tombstone hides what the branch may inherit.
    pub row: Option<Row>,
    /// What did not win, the greatest first.
    pub losers: Vec<Value>,
}

/// Computes what a branch shows at a path.
///
/// The greatest value wins (see [`Resolved`]). Whatever wins, an entry below keeps the path a
/// directory: a file that was put into a directory while somebody else removed the directory, or put
/// a file in its place, stays where it was put.
pub fn project(registers: &dyn Registers, path: &TreePath) -> Result<Projected> {
    let Some(Resolved { winner, losers }) = Resolved::of(registers.values(path)?) else {
        return Ok(Projected::default());
    };
    let base = winner.base;
    let is_dir = winner.entry().is_some_and(Entry::is_dir);
    if is_dir || !holds_entries(registers, path)? {
        let entry = winner.entry().cloned();
        return Ok(Projected {
            row: Some(Row { entry, base }),
            losers,
        });
    }
    let entry = Some(directory_for(&winner));
    let mut losers = losers;
    if winner.entry().is_some() {
        losers.insert(0, winner);
    }
    Ok(Projected {
        row: Some(Row { entry, base }),
        losers,
    })
}

/// Returns the paths whose projection may differ once the registers of some paths have changed: those,
/// and the directories above them that stand only for what is in them.
pub fn affected<'a>(
    registers: &dyn Registers,
    changed: impl IntoIterator<Item = &'a TreePath>,
) -> Result<BTreeSet<TreePath>> {
    let mut all = BTreeSet::new();
    for path in changed {
        let mut above = path.parent();
        if !all.insert(path.clone()) {
            continue;
        }
        while let Some(path) = above {
            let resolved = Resolved::of(registers.values(&path)?);
            let stands = resolved.is_none_or(|r| r.winner.entry().is_some_and(Entry::is_dir));
            if stands || all.contains(&path) {
                break;
            }
            above = path.parent();
            all.insert(path);
        }
    }
    Ok(all)
}

/// Tells whether any register below a path has an entry.
fn holds_entries(registers: &dyn Registers, dir: &TreePath) -> Result<bool> {
    let mut dirs = vec![dir.clone()];
    while let Some(dir) = dirs.pop() {
        for name in registers.names(&dir)? {
            let path = TreePath::from_stored(dir.as_str(), &name);
            let resolved = Resolved::of(registers.values(&path)?);
            if resolved.is_some_and(|resolved| resolved.winner.entry().is_some()) {
                return Ok(true);
            }
            dirs.push(path);
        }
    }
    Ok(false)
}

/// Makes the directory that stands where it must, though something else won there.
fn directory_for(winner: &Value) -> Entry {
    let (mode, uid, gid, mtime) = match &winner.state {
        State::Present(Entry { attrs: own, .. }) => (0o755, own.uid, own.gid, own.mtime),
        State::Removed(removed) => {
            let mode = match removed.kind {
                Kind::Dir => removed.mode,
                Kind::File | Kind::Symlink => 0o755,
            };
            (mode, removed.uid, removed.gid, removed.mtime)
        }
    };
    Entry {
        node: Node::Dir,
        attrs: attrs(mode, uid, gid, mtime),
    }
}
