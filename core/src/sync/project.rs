//! From registers to rows.

use std::collections::BTreeSet;

use super::register::{Removed, Resolved, State, Value, attrs};
use crate::entry::{Attrs, Entry, Kind, Node, Timestamp};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projected {
    /// What the branch holds there; nothing where it shows what it inherits. A tombstone hides that.
    pub row: Option<Row>,
    /// The value that won; nothing where a directory stands only for what is in it.
    pub winner: Option<Value>,
    /// What did not win, the greatest first.
    pub losers: Vec<Value>,
}

/// Computes what a branch shows at a path; nothing where the path has no register.
///
/// The greatest value wins (see [`Resolved`]). Whatever wins, an entry below keeps the path a
/// directory: a file that was put into a directory while somebody else removed the directory, or put
/// a file in its place, stays where it was put.
pub fn project(registers: &dyn Registers, path: &TreePath) -> Result<Option<Projected>> {
    let Some(Resolved { winner, losers }) = Resolved::of(registers.values(path)?) else {
        return Ok(None);
    };
    let (mut losers, base) = (losers, winner.base);
    let row = |entry| Some(Row { entry, base });
    let stands = match &winner.state {
        State::Present(entry) if entry.is_dir() => None,
        State::Present(entry) if holds_entries(registers, path)? => {
            let Attrs {
                uid, gid, mtime, ..
            } = entry.attrs;
            Some(directory(0o755, uid, gid, mtime))
        }
        State::Removed(removed) if holds_entries(registers, path)? => {
            Some(removed_directory(removed))
        }
        _ => None,
    };
    if let Some(stands) = stands {
        if winner.entry().is_some() {
            losers.insert(0, winner);
        }
        return Ok(Some(Projected {
            row: row(Some(stands)),
            winner: None,
            losers,
        }));
    }
    Ok(Some(Projected {
        row: match &winner.state {
            State::Inherited => None,
            State::Present(entry) => row(Some(entry.clone())),
            State::Removed(_) => row(None),
        },
        winner: Some(winner),
        losers,
    }))
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
            let stands = resolved.is_some_and(|r| r.winner.entry().is_some_and(Entry::is_dir));
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

/// Makes the directory that stands where it must, though it was removed.
fn removed_directory(removed: &Removed) -> Entry {
    let mode = match removed.kind {
        Kind::Dir => removed.mode,
        Kind::File | Kind::Symlink => 0o755,
    };
    directory(mode, removed.uid, removed.gid, removed.mtime)
}

fn directory(mode: u32, uid: u32, gid: u32, mtime: Timestamp) -> Entry {
    Entry {
        node: Node::Dir,
        attrs: attrs(mode, uid, gid, mtime),
    }
}
