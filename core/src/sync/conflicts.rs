//! The paths that replicas wrote without knowing of each other, and names that several gave.
//!
//! Whoever holds a bucket's documents [notes](note_conflicts) in the store which paths of a branch have
//! values that did not win. Every process of the store can list these, and [`resolve`] them: with a commit
//! like any other, after which the holder of the documents writes a value over all that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::clock::{Clock, Stamp};
use super::project::Projected;
use super::register::{State, Value};
use super::rows::Times;
use super::{ReplicaId, Scope};
use crate::chain::Chain;
use crate::edit::{Context, Editor};
use crate::entry::{Entry, Hash, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Change, Op};
use crate::path::{MAX_NAME_LEN, TreePath};
use crate::store::{BranchId, BucketId, ReadTxn, WriteTxn};

/// A path that replicas wrote without knowing of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The path.
    pub path: TreePath,
    /// The value that is shown; nothing where a directory stands only for what is in it.
    pub winner: Option<Value>,
    /// The values that are not, the greatest first.
    pub losers: Vec<Value>,
    /// Whether somebody has resolved it, and the documents do not say so yet.
    resolved: bool,
}

/// What [`resolve`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    /// What is shown.
    Winner,
    /// One of the losers, counted from 0; what is shown goes, a directory with all that is in it.
    Loser(usize),
    /// What is shown, and each loser beside it under another name.
    Both,
}

/// What [`resolve`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolution {
    /// Where it put the losers that were kept beside what is shown.
    pub beside: Vec<TreePath>,
}

/// The format's version, the first byte of what a store keeps of a conflict.
const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Encoded {
    resolved: bool,
    winner: Option<Vec<u8>>,
    losers: Vec<Vec<u8>>,
}

impl Conflict {
    /// Makes what is noted of a path, if its projection leaves values out.
    pub fn of(path: &TreePath, projected: &Projected) -> Option<Self> {
        let Projected { winner, losers, .. } = projected;
        (!losers.is_empty()).then(|| Self {
            path: path.clone(),
            winner: winner.clone(),
            losers: losers.clone(),
            resolved: false,
        })
    }

    /// Returns the contents that the losers need, with their sizes in bytes.
    pub fn contents(&self) -> BTreeMap<Hash, u64> {
        let files = self.losers.iter().filter_map(Value::entry);
        files
            .filter_map(|entry| match entry.node {
                Node::File { hash, size } => Some((hash, size)),
                Node::Dir | Node::Symlink { .. } => None,
            })
            .collect()
    }

    fn encode(&self) -> Vec<u8> {
        let encoded = Encoded {
            resolved: self.resolved,
            winner: self.winner.as_ref().map(Value::encode),
            losers: self.losers.iter().map(Value::encode).collect(),
        };
        // Writing to memory cannot fail.
        postcard::to_extend(&encoded, vec![FORMAT]).unwrap_or_default()
    }

    fn decode(path: TreePath, bytes: &[u8]) -> Result<Self> {
        let corrupt = || Error::with_detail(ErrorKind::Corrupt, "a noted conflict does not decode");
        let encoded = match bytes.split_first() {
            Some((&FORMAT, bytes)) => postcard::from_bytes::<Encoded>(bytes).ok(),
            _ => None,
        };
        let encoded = encoded.ok_or_else(|| corrupt().path(&path))?;
        let losers = encoded.losers.iter().map(|bytes| Value::decode(bytes));
        Ok(Self {
            winner: encoded.winner.as_deref().map(Value::decode).transpose()?,
            losers: losers.collect::<Result<_>>()?,
            resolved: encoded.resolved,
            path,
        })
    }

    fn set(&self, txn: &mut dyn WriteTxn, branch: BranchId) -> Result<()> {
        let contents: Vec<_> = self.contents().into_iter().collect();
        txn.set_conflict(branch, &self.path, &self.encode(), &contents)
    }

    /// Tells whether nobody has decided yet: whoever writes the path does.
    fn is_open(&self, txn: &dyn ReadTxn, chain: &Chain) -> Result<bool> {
        if self.resolved {
            return Ok(false);
        }
        let shown = chain.lookup(txn, &self.path)?;
        let entry = self.winner.as_ref().and_then(Value::entry);
        Ok(match (shown, entry) {
            (Some(shown), Some(entry)) => shown.id() == entry.id(),
            (Some(shown), None) => shown.is_dir(),
            (None, _) => false,
        })
    }
}

/// Notes the conflicts at some paths of a branch, in place of what was noted of these paths before.
///
/// # Errors
/// Those of the store.
pub fn note_conflicts<'a>(
    txn: &mut dyn WriteTxn,
    branch: BranchId,
    paths: impl IntoIterator<Item = &'a TreePath>,
    found: &[Conflict],
) -> Result<()> {
    if has_conflicts(txn, branch)? {
        for path in paths {
            if txn.conflict(branch, path)?.is_some() {
                txn.remove_conflict(branch, path)?;
            }
        }
    }
    for conflict in found {
        conflict.set(txn, branch)?;
    }
    Ok(())
}

/// Adds to what is about to be written to a branch's registers what settles conflicts that somebody
/// decided in `changes` without making the branch show anything else.
///
/// Returns the directories that stood only for what was in them, and no longer do: nobody decided about
/// these, so they are to be shown as the registers say then, and what the branch holds is not written.
///
/// # Errors
/// Those of the store.
pub fn settle(
    txn: &dyn ReadTxn,
    chain: &Chain,
    changes: &[Change],
    values: &mut BTreeMap<TreePath, Value>,
    clock: &mut Clock,
    times: &Times,
) -> Result<BTreeSet<TreePath>> {
    let branch = chain.branch();
    let mut fallen = BTreeSet::new();
    if !has_conflicts(txn, branch)? {
        return Ok(fallen);
    }
    let mut decided = BTreeSet::new();
    for change in changes {
        // What was committed is not known in detail.
        let is_known = change.op != Op::Restore;
        for path in change.path.iter().chain(&change.from) {
            if let Some(bytes) = txn.conflict(branch, path)?
                && (is_known || Conflict::decode(path.clone(), &bytes)?.resolved)
            {
                decided.insert(path.clone());
            }
        }
        if !is_known && change.path.is_none() {
            let noted = noted(txn, branch)?.into_iter();
            let resolved = noted.filter(|conflict| conflict.resolved);
            decided.extend(resolved.map(|conflict| conflict.path));
        }
    }
    if chain.is_present() && changes.iter().all(|change| change.op != Op::Restore) {
        for (path, value) in &*values {
            if value.entry().is_some_and(Entry::is_dir)
                && !decided.contains(path)
                && let Some(bytes) = txn.conflict(branch, path)?
                && Conflict::decode(path.clone(), &bytes)?.winner.is_none()
            {
                fallen.insert(path.clone());
            }
        }
        values.retain(|path, _| !fallen.contains(path));
    }
    for path in decided {
        if values.contains_key(&path) {
            continue;
        }
        let found = chain.find(txn, path.parent_str(), path.name())?;
        let own = found.filter(|found| chain.is_own(found));
        let Some(row) = own.map(|found| found.row) else {
            continue;
        };
        if let Some(entry) = row.entry {
            let value = Value {
                stamp: clock.stamp(times.at(&path)),
                state: State::Present(entry),
                base: row.base,
            };
            values.insert(path, value);
        }
    }
    Ok(fallen)
}

/// Forgets the conflicts at paths whose registers were written over.
///
/// # Errors
/// Those of the store.
pub fn forget_settled(
    txn: &mut dyn WriteTxn,
    branch: BranchId,
    values: &BTreeMap<TreePath, Value>,
) -> Result<()> {
    note_conflicts(txn, branch, values.keys(), &[])
}

/// Returns the conflicts of a branch that nobody has decided yet, by path. The chain must be that of the
/// present.
///
/// # Errors
/// Those of the store.
pub fn conflicts(txn: &dyn ReadTxn, chain: &Chain) -> Result<Vec<Conflict>> {
    let mut open = Vec::new();
    for conflict in noted(txn, chain.branch())? {
        if conflict.is_open(txn, chain)? {
            open.push(conflict);
        }
    }
    Ok(open)
}

/// Returns the conflict at a path of a branch, unless somebody has decided it.
///
/// # Errors
/// Those of the store.
pub fn conflict(txn: &dyn ReadTxn, chain: &Chain, path: &TreePath) -> Result<Option<Conflict>> {
    let Some(bytes) = txn.conflict(chain.branch(), path)? else {
        return Ok(None);
    };
    let conflict = Conflict::decode(path.clone(), &bytes)?;
    let is_open = conflict.is_open(txn, chain)?;
    Ok(is_open.then_some(conflict))
}

fn noted(txn: &dyn ReadTxn, branch: BranchId) -> Result<Vec<Conflict>> {
    let mut noted = Vec::new();
    txn.conflicts(branch, &mut |path, bytes| {
        noted.push(Conflict::decode(path, &bytes)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(noted)
}

/// Tells whether anything is noted of conflicts of a branch, decided or not.
///
/// # Errors
/// Those of the store.
pub fn has_conflicts(txn: &dyn ReadTxn, branch: BranchId) -> Result<bool> {
    let mut has = false;
    txn.conflicts(branch, &mut |_, _| {
        has = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(has)
}

/// Decides a conflict; `called` says what the node is called that has a replica, for the names of copies.
/// The caller commits the transaction.
///
/// # Errors
/// [`ErrorKind::NotFound`] where there is no conflict at the path; [`ErrorKind::InvalidInput`] where it has
/// no such loser; [`ErrorKind::NotADirectory`] and the like where the tree does not allow it.
pub fn resolve(
    txn: &mut dyn WriteTxn,
    chain: &Chain,
    context: &Context,
    path: &TreePath,
    keep: Keep,
    called: &dyn Fn(ReplicaId) -> Option<String>,
) -> Result<Resolution> {
    let Some(mut conflict) = conflict(txn, chain, path)? else {
        let why = "there is no conflict at this path";
        return Err(Error::with_detail(ErrorKind::NotFound, why).path(path));
    };
    let mut done = Resolution::default();
    let mut editor = Editor::new(txn, chain, context.clone());
    match keep {
        Keep::Winner => editor.touch(path)?,
        Keep::Loser(n) => {
            let loser = conflict.losers.get(n).ok_or_else(|| {
                let why = match conflict.losers.len() {
                    1 => "the conflict has one other side".to_owned(),
                    sides => format!("the conflict has {sides} other sides"),
                };
                Error::with_detail(ErrorKind::InvalidInput, why).path(path)
            })?;
            match loser.entry() {
                Some(entry) => editor.replace(path, entry.clone())?,
                None => drop(editor.remove_all(path)?),
            }
        }
        Keep::Both => {
            for loser in &conflict.losers {
                let Some(entry) = loser.entry() else {
                    continue;
                };
                let beside = free_name(&mut editor, chain, path, loser.stamp, called)?;
                editor.replace(&beside, entry.clone())?;
                done.beside.push(beside);
            }
            editor.touch(path)?;
        }
    }
    editor.finish(None)?;
    conflict.resolved = true;
    conflict.set(txn, chain.branch())?;
    Ok(done)
}

/// The most of a node's name that is in the name of a copy, in bytes.
const CALLED_MAX: usize = 64;

/// Finds a name beside a path for a loser: `name (conflict 2026-11-22 from laptop).ext`, or with the first
/// digits of the replica where the node that wrote it is not known.
fn free_name(
    editor: &mut Editor<'_>,
    chain: &Chain,
    path: &TreePath,
    stamp: Stamp,
    called: &dyn Fn(ReplicaId) -> Option<String>,
) -> Result<TreePath> {
    let name = path.name();
    let dot = name.rfind('.').filter(|dot| *dot > 0);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let replica = || stamp.replica.to_string()[..8].to_owned();
    let called = called(stamp.replica).unwrap_or_else(replica);
    let called = shorten(&called, CALLED_MAX);
    let date = date(stamp.time);
    let dir = path.parent().unwrap_or_else(TreePath::root);
    for n in 1_u32.. {
        let again = match n {
            1 => String::new(),
            n => format!(" {n}"),
        };
        let mark = format!(" (conflict {date} from {called}{again})");
        let room = MAX_NAME_LEN.saturating_sub(mark.len());
        let extension = shorten(extension, room / 2);
        let stem = shorten(stem, room - extension.len());
        let beside = dir.join(&format!("{stem}{mark}{extension}"))?;
        if chain.lookup(editor.txn(), &beside)?.is_none() {
            return Ok(beside);
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Cuts a text to a number of bytes.
fn shorten(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Returns the day of a time, in UTC: `2026-11-22`.
fn date(nanoseconds: u64) -> String {
    // See https://howardhinnant.github.io/date_algorithms.html#civil_from_days; years begin in March.
    let days = nanoseconds / (24 * 3600 * 1_000_000_000) + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        ..10 => (year, month + 3),
        _ => (year + 1, month - 9),
    };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year)
}

/// A branch or a snapshot that has another name here than it was given, because another one of that name
/// came from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameConflict {
    /// The branch.
    pub branch: BranchId,
    /// The name that it was given, or that its snapshot was.
    pub name: String,
    /// What it is called here.
    pub shown_as: String,
    /// Whether it is a snapshot of the branch.
    pub is_snapshot: bool,
    /// Who gave it the name, and when, as far as that was noted.
    #[serde(skip)]
    pub stamp: Option<Stamp>,
}

/// What is noted of a bucket besides its branches' conflicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The replica that this store is.
    pub replica: ReplicaId,
    /// The branches and snapshots that have other names here than they were given.
    pub conflicts: Vec<NameConflict>,
}

/// Returns what is noted of a bucket; nothing for one that takes no part in synchronisation.
///
/// # Errors
/// Those of the store.
pub fn names(txn: &dyn ReadTxn, bucket: BucketId) -> Result<Option<Names>> {
    let Some(bytes) = txn.value(&format!("sync/{bucket}"), NAMES)? else {
        return Ok(None);
    };
    let (mut names, rest) = postcard::take_from_bytes::<Names>(&bytes).map_err(|_| {
        let why = "what is noted of a bucket's names does not decode";
        Error::with_detail(ErrorKind::Corrupt, why)
    })?;
    // What stores of earlier versions noted ends here.
    let stamps: Vec<_> = postcard::from_bytes(rest).unwrap_or_default();
    for (conflict, stamp) in names.conflicts.iter_mut().zip(stamps) {
        conflict.stamp = stamp;
    }
    Ok(Some(names))
}

/// Notes something of a bucket.
///
/// # Errors
/// Those of the store.
pub fn set_names(txn: &mut dyn WriteTxn, bucket: BucketId, names: &Names) -> Result<()> {
    // Writing to memory cannot fail.
    let bytes = postcard::to_extend(names, Vec::new()).unwrap_or_default();
    let stamps: Vec<_> = names.conflicts.iter().map(|c| c.stamp).collect();
    let bytes = postcard::to_extend(&stamps, bytes).unwrap_or_default();
    txn.set_value(&format!("sync/{bucket}"), NAMES, Some(&bytes))
}

const NAMES: &str = "names";

impl NameConflict {
    /// Compares the name of a scope's branch with that which it was given, where it got a suffix.
    pub fn of_branch(branch: BranchId, scope: Scope, shown_as: &str) -> Option<Self> {
        let suffix = format!("~{}", &scope.to_string()[..8]);
        Some(Self {
            branch,
            name: shown_as.strip_suffix(&suffix)?.to_owned(),
            shown_as: shown_as.to_owned(),
            is_snapshot: false,
            stamp: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let day = 24 * 3600 * 1_000_000_000;
        for (days, text) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_779, "2026-11-22"),
            (20_818, "2026-12-31"),
            (20_819, "2027-01-01"),
        ] {
            assert_eq!(date(days * day + 5), text);
        }
    }
}
