//! Between a branch's registers and the rows that it holds itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::clock::{Clock, Stamp};
use super::project::{Registers, project};
use super::register::{Removed, State, Value};
use crate::chain::Chain;
use crate::diff::{Difference, diff};
use crate::entry::{Entry, Kind, Timestamp};
use crate::error::Result;
use crate::event::{Change, Op};
use crate::path::TreePath;
use crate::store::{ReadTxn, Row, WriteTxn};

/// When the changes of a branch were committed that its registers do not say yet: so that what was
/// written while no node ran counts as written then, and not when one ran again.
#[derive(Debug, Clone)]
pub struct Times {
    now: Timestamp,
    /// When a path was changed last, and what is below it with it.
    changed: BTreeMap<TreePath, Timestamp>,
    /// When something below a path was.
    below: BTreeMap<TreePath, Timestamp>,
    /// When the last of those was made that are looked at.
    end: Timestamp,
}

impl Times {
    /// Begins with no change of which the time is known: these count as made now.
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            changed: BTreeMap::new(),
            below: BTreeMap::new(),
            end: now,
        }
    }

    /// Notes when something was changed.
    pub fn note(&mut self, change: &Change, at: Timestamp) {
        // A clock may have been set back since.
        let at = at.min(self.now);
        let later = |times: &mut BTreeMap<TreePath, Timestamp>, path: TreePath| {
            let time = times.entry(path).or_insert(at);
            *time = at.max(*time);
        };
        if change.op == Op::Restore && change.path.is_none() {
            later(&mut self.changed, TreePath::root());
        }
        for path in change.path.iter().chain(&change.from) {
            path.ancestors()
                .for_each(|above| later(&mut self.below, above));
            later(&mut self.changed, path.clone());
        }
    }

    /// Returns the time at which registers are brought up to date.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Looks at what was changed up to a time: no path counts as changed later.
    pub fn end_at(&mut self, end: Timestamp) {
        self.end = end;
    }

    /// Returns when a path was changed last.
    pub fn at(&self, path: &TreePath) -> Timestamp {
        let with = path.ancestors().chain([path.clone()]);
        let changed = with.filter_map(|path| self.changed.get(&path)).max();
        let time = changed.or_else(|| self.below.get(path));
        time.copied().unwrap_or(self.now).min(self.end)
    }
}

/// Returns the values that registers must get so that they say what the branch holds now, where
/// `changes` were committed since they last did: an [`Op::Restore`] may have changed what is at its path,
/// or everything. Their stamps are in the order of the times.
///
/// # Errors
/// Those of the store and of the registers.
pub fn outgoing(
    txn: &dyn ReadTxn,
    chain: &Chain,
    registers: &dyn Registers,
    changes: &[Change],
    clock: &mut Clock,
    times: &Times,
) -> Result<BTreeMap<TreePath, Value>> {
    let unset = Stamp {
        time: 0,
        replica: clock.replica(),
    };
    let mut written = Written {
        registers,
        values: BTreeMap::new(),
    };
    // What is below comes first: it may be why a directory is there.
    for path in touched(txn, chain, registers, changes)?.into_iter().rev() {
        let own = own_row(txn, chain, &path)?;
        let said = project(&written, &path)?.and_then(|projected| projected.row);
        let inherits = || {
            let row = chain.inherited(txn, &path)?;
            Ok(row.is_some_and(|row| row.entry.is_some()))
        };
        if let Some(state) = difference(own.as_ref(), said.as_ref(), inherits, times.now)? {
            let value = Value {
                stamp: unset,
                state,
                base: own.and_then(|row| row.base),
            };
            written.mark_above(&path, unset)?;
            written.values.insert(path, value);
        }
    }
    let values = written.values.iter_mut();
    let mut values: Vec<_> = values
        .map(|(path, value)| (times.at(path), value))
        .collect();
    values.sort_by_key(|(at, _)| *at);
    for (at, value) in values {
        value.stamp = clock.stamp(at);
    }
    Ok(written.values)
}

/// Registers with what is about to be written to them.
struct Written<'a> {
    registers: &'a dyn Registers,
    values: BTreeMap<TreePath, Value>,
}

impl Written<'_> {
    /// Gives each directory above a path a register, so that what is below it can be found.
    fn mark_above(&mut self, path: &TreePath, stamp: Stamp) -> Result<()> {
        for dir in path.ancestors().filter(|dir| !dir.is_root()) {
            if !self.values(&dir)?.is_empty() {
                continue;
            }
            let value = Value {
                stamp,
                state: State::Inherited,
                base: None,
            };
            self.values.insert(dir, value);
        }
        Ok(())
    }
}

impl Registers for Written<'_> {
    fn values(&self, path: &TreePath) -> Result<Vec<Value>> {
        match self.values.get(path) {
            Some(value) => Ok(vec![value.clone()]),
            None => self.registers.values(path),
        }
    }

    fn names(&self, dir: &TreePath) -> Result<Vec<Box<str>>> {
        let mut names = self.registers.names(dir)?;
        let inside = match dir.is_root() {
            true => "/".to_owned(),
            false => format!("{dir}/"),
        };
        let below = (Bound::Excluded(inside.as_str()), Bound::Unbounded);
        let below = self.values.range::<str, _>(below);
        let below = below.map_while(|(path, _)| path.as_str().strip_prefix(&inside));
        names.extend(below.filter(|rest| !rest.contains('/')).map(Into::into));
        Ok(names)
    }
}

/// Returns what a register that says one thing must say of a row that is another.
fn difference(
    own: Option<&Row>,
    said: Option<&Row>,
    inherits: impl Fn() -> Result<bool>,
    now: Timestamp,
) -> Result<Option<State>> {
    Ok(match (own, said) {
        (
            Some(Row {
                entry: Some(own), ..
            }),
            _,
        ) => {
            let said = said.and_then(|row| row.entry.as_ref());
            let same = said.is_some_and(|said| said.id() == own.id());
            (!same).then(|| State::Present(own.clone()))
        }
        // Restored to before it was first written.
        (None, Some(_)) if inherits()? => Some(State::Inherited),
        (
            _,
            Some(Row {
                entry: Some(said), ..
            }),
        ) => Some(State::Removed(Removed::from_entry(said))),
        // It hides what is inherited, of which no register speaks.
        (Some(Row { entry: None, .. }), None) => Some(State::Removed(Removed {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: now,
        })),
        (None | Some(Row { entry: None, .. }), None | Some(Row { entry: None, .. })) => None,
    })
}

/// Returns the paths at which changes may have left other rows of the branch than before.
///
/// # Errors
/// Those of the store and of the registers.
pub fn touched(
    txn: &dyn ReadTxn,
    chain: &Chain,
    registers: &dyn Registers,
    changes: &[Change],
) -> Result<BTreeSet<TreePath>> {
    let mut touched = BTreeSet::new();
    for change in changes {
        for path in change.path.iter().chain(&change.from) {
            // What is written below a directory of a live base brings that directory along.
            touched.extend(path.ancestors());
            touched.insert(path.clone());
            if change.kind == Some(Kind::Dir) && touched_below(change.op) {
                below(registers, path, &mut touched)?;
                own_paths(txn, chain, path, &mut touched)?;
            }
        }
        if change.op == Op::Restore && change.path.is_none() {
            let root = TreePath::root();
            below(registers, &root, &mut touched)?;
            own_paths(txn, chain, &root, &mut touched)?;
        }
    }
    Ok(touched)
}

/// Collects the paths below a directory at which the branch itself has rows.
fn own_paths(
    txn: &dyn ReadTxn,
    chain: &Chain,
    under: &TreePath,
    paths: &mut BTreeSet<TreePath>,
) -> Result<()> {
    for span in chain.own_spans() {
        let epochs = span.first..=span.last;
        txn.paths_of(
            chain.bucket(),
            span.branch,
            epochs,
            under,
            &mut |parent, name| {
                paths.insert(TreePath::from_stored(parent, name));
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Tells whether a change of a directory may change rows below it of which it does not speak.
fn touched_below(op: Op) -> bool {
    matches!(op, Op::Create | Op::Modify | Op::Rename)
}

fn below(
    registers: &dyn Registers,
    dir: &TreePath,
    touched: &mut BTreeSet<TreePath>,
) -> Result<()> {
    let mut dirs = vec![dir.clone()];
    while let Some(dir) = dirs.pop() {
        for name in registers.names(&dir)? {
            let path = TreePath::from_stored(dir.as_str(), &name);
            touched.insert(path.clone());
            dirs.push(path);
        }
    }
    Ok(())
}

/// Makes the branch hold rows that registers were [projected](super::project) to. Returns what changed
/// in what it shows; nothing, and changes nothing, where it is to show what it inherits and holds
/// something over it, which may be part of a snapshot: then it has to be shown anew over its base.
///
/// # Errors
/// Those of the store.
pub fn show(
    txn: &mut dyn WriteTxn,
    chain: &Chain,
    rows: BTreeMap<TreePath, Option<Row>>,
    now: Timestamp,
) -> Result<Option<Vec<Change>>> {
    let mut new = Vec::with_capacity(rows.len());
    for (path, row) in rows {
        let own = own_row(txn, chain, &path)?;
        let Some(row) = row else {
            if own.is_some() {
                return Ok(None);
            }
            continue;
        };
        let id = |row: &Row| row.entry.as_ref().map(Entry::id);
        if own.is_some_and(|own| own.entry.is_some() && id(&own) == id(&row)) {
            continue;
        }
        let before = chain.lookup(txn, &path)?;
        new.push((path, before, row));
    }
    let mut changed = Vec::with_capacity(new.len());
    for (path, before, row) in new {
        set_row(txn, chain, &path, row, now)?;
        changed.push((path, before));
    }
    let mut changes = Vec::new();
    for (path, before) in changed {
        let after = chain.lookup(txn, &path)?;
        changes.extend(change(path, before, after));
    }
    Ok(Some(changes))
}

/// Returns what changed from one chain to another of the same branch.
///
/// # Errors
/// Those of the store.
pub fn changes_between(txn: &dyn ReadTxn, before: &Chain, after: &Chain) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for (path, difference) in diff(txn, before, after, &TreePath::root())? {
        match difference {
            Difference::Added { new } => changes.extend(change(path, None, Some(new))),
            Difference::Deleted { old } => changes.extend(change(path, Some(old), None)),
            Difference::Modified { old, new } => changes.extend(change(path, Some(old), Some(new))),
            Difference::Renamed { from, old, new } => {
                changes.extend(change(from, Some(old), None));
                changes.extend(change(path, None, Some(new)));
            }
        }
    }
    Ok(changes)
}

fn change(path: TreePath, before: Option<Entry>, after: Option<Entry>) -> Option<Change> {
    let op = match (&before, &after) {
        (None, None) => return None,
        (None, Some(_)) => Op::Create,
        (Some(_), None) => Op::Remove,
        (Some(before), Some(after)) if before.id() == after.id() => return None,
        (Some(before), Some(after)) if before.node == after.node => Op::Attributes,
        (Some(_), Some(_)) => Op::Modify,
    };
    let size = after.as_ref().filter(|entry| entry.is_file());
    Some(Change {
        kind: after.as_ref().or(before.as_ref()).map(Entry::kind),
        old: before.as_ref().and_then(Entry::hash),
        new: after.as_ref().and_then(Entry::hash),
        size: size.map(Entry::size),
        path: Some(path),
        ..Change::new(op)
    })
}

/// Returns the rows that a branch needs over what it shows now to show what it did at another time.
///
/// `paths` are all that may differ, with the directories above them; `layers` say what each branch
/// that it was made of held at those paths, the branch itself first.
///
/// # Errors
/// Those of the store.
pub fn earlier(
    txn: &dyn ReadTxn,
    chain: &Chain,
    layers: &[BTreeMap<TreePath, Row>],
    paths: &BTreeSet<TreePath>,
    now: Timestamp,
) -> Result<BTreeMap<TreePath, Row>> {
    let mut then: BTreeMap<&TreePath, Option<Entry>> = BTreeMap::new();
    let mut rows = BTreeMap::new();
    // A directory comes before what is in it.
    for path in paths {
        let held = layers.iter().find_map(|rows| rows.get(path));
        let mut entry = held.and_then(|row| row.entry.clone());
        let is_below_dir = match path.parent() {
            Some(dir) => match then.get(&dir) {
                Some(above) => above.as_ref().is_some_and(Entry::is_dir),
                None => chain.lookup(txn, &dir)?.is_some_and(|above| above.is_dir()),
            },
            None => true,
        };
        if path.is_root() && entry.is_none() {
            // It is there without a row.
            then.insert(path, chain.lookup(txn, path)?);
            continue;
        }
        entry = entry.filter(|_| is_below_dir);
        // A row that nothing shows now may show then.
        let present = chain.find(txn, path.parent_str(), path.name())?;
        let present = present.and_then(|found| found.row.entry);
        if entry.as_ref().map(Entry::id) != present.as_ref().map(Entry::id) {
            rows.insert(path.clone(), earlier_row(entry.clone(), now));
        }
        then.insert(path, entry);
    }
    Ok(rows)
}

/// Returns the rows that a branch needs over those that it holds now to hold those that it did at
/// another time, whatever what it inherits shows.
///
/// `paths` are all that may differ; `held` is what it held at them; `inherited` says what the branch
/// showed at those paths at which it held nothing, as [`earlier`] does.
///
/// # Errors
/// Those of the store and of `inherited`.
pub fn held_earlier(
    txn: &dyn ReadTxn,
    chain: &Chain,
    held: &BTreeMap<TreePath, Row>,
    paths: &BTreeSet<TreePath>,
    inherited: impl FnOnce(&BTreeSet<TreePath>) -> Result<BTreeMap<TreePath, Row>>,
    now: Timestamp,
) -> Result<BTreeMap<TreePath, Row>> {
    let id = |row: &Row| row.entry.as_ref().map(Entry::id);
    let (mut rows, mut lost) = (BTreeMap::new(), BTreeSet::new());
    for path in paths {
        let (own, then) = (own_row(txn, chain, path)?, held.get(path));
        match then {
            Some(then) if own.as_ref().map(id) != Some(id(then)) => {
                let hides = || may_hide(txn, chain, path);
                if own.is_some() || then.entry.is_some() || hides()? {
                    rows.insert(path.clone(), earlier_row(then.entry.clone(), now));
                }
            }
            None if own.is_some() => lost.extend(path.ancestors().chain([path.clone()])),
            _ => {}
        }
    }
    if !lost.is_empty() {
        // No row can say that there is none: what was inherited then is what it is.
        for (path, row) in inherited(&lost)? {
            if !held.contains_key(&path) && own_row(txn, chain, &path)?.is_some() {
                rows.insert(path, row);
            }
        }
    }
    Ok(rows)
}

/// Tells whether the branch may inherit an entry at a path, now or at another time.
fn may_hide(txn: &dyn ReadTxn, chain: &Chain, path: &TreePath) -> Result<bool> {
    if chain.has_live_base() {
        return Ok(true);
    }
    let row = chain.inherited(txn, path)?;
    Ok(row.is_some_and(|row| row.entry.is_some()))
}

fn earlier_row(mut entry: Option<Entry>, now: Timestamp) -> Row {
    if let Some(entry) = &mut entry {
        entry.attrs.ctime = now;
    }
    Row { entry, base: None }
}

/// Returns what the branch itself holds at a path, not what it inherits.
fn own_row(txn: &dyn ReadTxn, chain: &Chain, path: &TreePath) -> Result<Option<Row>> {
    let found = chain.find(txn, path.parent_str(), path.name())?;
    Ok(found
        .filter(|found| chain.is_own(found))
        .map(|found| found.row))
}

fn set_row(
    txn: &mut dyn WriteTxn,
    chain: &Chain,
    path: &TreePath,
    mut row: Row,
    now: Timestamp,
) -> Result<()> {
    let (bucket, layer) = (chain.bucket(), chain.write_layer());
    let (parent, name) = (path.parent_str(), path.name());
    match &mut row.entry {
        Some(entry) => entry.attrs.ctime = now,
        None => {
            let hides = chain.has_live_base() || {
                let below = chain.find_below_write_layer(txn, parent, name)?;
                below.is_some_and(|found| found.row.entry.is_some())
            };
            if !hides {
                return txn.remove_row(bucket, parent, name, layer);
            }
        }
    }
    txn.put_row(bucket, parent, name, layer, &row)
}
