//! What documents say about branches and snapshots, shown in a store.

use std::collections::{BTreeMap, BTreeSet};

use alknet_fs_core::branch;
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::Context;
use alknet_fs_core::store::{
    BranchId, BucketId, Epoch, LineBase, ReadTxn, Row, SnapshotRecord, WriteTxn,
};
use alknet_fs_core::sync::{
    About, AboutBranch, AboutSnapshot, Moment, Parent, Scope, Stamp, VersionVector,
    changes_between, earlier, held_earlier, is_there,
};
use alknet_fs_core::{ErrorKind, Result, Timestamp, TreePath};

use crate::bucket::{Bucket, Shown, ShownSnapshot};
use crate::collect::pins;
use crate::kept;

/// The longest name of a branch or a snapshot that gets a suffix, in bytes.
const NAME_MAX: usize = 240;

impl Bucket {
    /// Makes the store have the branches and snapshots that the documents speak of. Returns whether it
    /// has them all: one may need what has not come yet, or cannot go while somebody uses it.
    pub(crate) fn settle(&mut self, txn: &mut dyn WriteTxn, context: &Context) -> Result<bool> {
        self.wanted.clear();
        let wanted = self.branches_to_show(txn)?;
        let mut all = self.settle_branches(txn, &wanted, context)?;
        if !all {
            // The last branch cannot go before another came, nor give its name away.
            all = self.settle_branches(txn, &wanted, context)?;
        }
        for scope in wanted.keys() {
            all &= self.settle_snapshots(txn, *scope, context)?;
        }
        Ok(all)
    }

    fn settle_branches(
        &mut self,
        txn: &mut dyn WriteTxn,
        wanted: &BTreeMap<Scope, AboutBranch>,
        context: &Context,
    ) -> Result<bool> {
        let mut all = self.remove_branches(txn, wanted, context)?;
        self.rename_branches(txn, wanted, context)?;
        all &= self.add_branches(txn, wanted, context)?;
        let named = |(scope, about): (&Scope, &AboutBranch)| {
            let shown = self.scopes.get(scope);
            shown.is_some_and(|shown| shown.branch.is_none() || shown.name == about.name)
        };
        Ok(all && wanted.iter().all(named))
    }

    /// Returns the branches that are to be there, with their names here.
    fn branches_to_show(&mut self, txn: &dyn ReadTxn) -> Result<BTreeMap<Scope, AboutBranch>> {
        let mut said: BTreeMap<Scope, (Stamp, AboutBranch)> = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        for scope in self.scopes.keys().copied().collect::<Vec<_>>() {
            let documents = self.documents(scope);
            let about = documents.about(txn)?;
            if is_there(&about, &documents.applied(txn)?) {
                wanted.insert(scope);
            }
            if let Some(About { stamp, state }) = about.into_iter().next() {
                said.insert(scope, (stamp, state));
            }
        }
        // What others are based on stays.
        let mut left: Vec<_> = wanted.iter().copied().collect();
        while let Some(scope) = left.pop() {
            let parent = said
                .get(&scope)
                .and_then(|(_, about)| about.parent.as_ref());
            if let Some(Parent { scope, .. }) = parent
                && said.contains_key(scope)
                && wanted.insert(*scope)
            {
                left.push(*scope);
            }
        }
        said.retain(|scope, _| wanted.contains(scope));
        // Of those with one name the one that got it last has it. One that was deleted, and stays for what
        // others do with it, leaves it to all others: its stamp is when it was deleted.
        let mut order: Vec<_> = said.into_iter().collect();
        order.sort_by_key(|(scope, (stamp, about))| {
            std::cmp::Reverse((about.deleted.is_none(), *stamp, *scope))
        });
        let mut names = BTreeSet::new();
        let named = order.into_iter().map(|(scope, (_, mut about))| {
            if !names.insert(about.name.clone()) {
                about.name = with_suffix(&about.name, &scope.to_string());
                names.insert(about.name.clone());
            }
            (scope, about)
        });
        Ok(named.collect())
    }

    fn remove_branches(
        &mut self,
        txn: &mut dyn WriteTxn,
        wanted: &BTreeMap<Scope, AboutBranch>,
        context: &Context,
    ) -> Result<bool> {
        let shown = self.scopes.iter();
        let shown = shown.filter(|(scope, _)| !wanted.contains_key(scope));
        let mut gone: Vec<_> = shown
            .filter_map(|(scope, shown)| Some((shown.branch?, *scope)))
            .collect();
        // Forks are younger than what they are forked from.
        gone.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        let mut all = true;
        for (id, scope) in gone {
            all &= self.remove_branch(txn, scope, id, context)?;
        }
        Ok(all)
    }

    fn remove_branch(
        &mut self,
        txn: &mut dyn WriteTxn,
        scope: Scope,
        id: BranchId,
        context: &Context,
    ) -> Result<bool> {
        match branch::delete_branch(txn, id, context) {
            Ok(()) => {
                self.scopes.insert(scope, Shown::default());
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::InUse => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn rename_branches(
        &mut self,
        txn: &mut dyn WriteTxn,
        wanted: &BTreeMap<Scope, AboutBranch>,
        context: &Context,
    ) -> Result<()> {
        let mut renamed = Vec::new();
        for (scope, about) in wanted {
            if let Some(shown) = self.scopes.get_mut(scope)
                && let Some(id) = shown.branch
                && shown.name != about.name
            {
                shown.name.clone_from(&about.name);
                renamed.push((id, *scope, about.name.as_str()));
            }
        }
        // They may have each other's names.
        for (id, scope, name) in &renamed {
            if txn.branch_named(self.bucket, name)?.is_some() {
                branch::rename_branch(txn, *id, &format!("~{scope}"), context)?;
            }
        }
        for (id, scope, name) in renamed {
            // A branch that waits to be removed may still have it.
            let is_free = txn.branch_named(self.bucket, name)?.is_none();
            let name = if is_free {
                name.to_owned()
            } else {
                with_suffix(name, &scope.to_string())
            };
            branch::rename_branch(txn, id, &name, context)?;
            if let Some(shown) = self.scopes.get_mut(&scope) {
                shown.name = name;
            }
        }
        Ok(())
    }

    /// Adds branches that are not there, parents before their children, and gives those another base
    /// that went back to an earlier one.
    fn add_branches(
        &mut self,
        txn: &mut dyn WriteTxn,
        wanted: &BTreeMap<Scope, AboutBranch>,
        context: &Context,
    ) -> Result<bool> {
        let mut left: Vec<_> = wanted.keys().copied().collect();
        loop {
            let before = left.len();
            let mut waiting = Vec::new();
            for scope in left {
                if !self.add_branch(txn, scope, &wanted[&scope], context)? {
                    waiting.push(scope);
                }
            }
            left = waiting;
            if left.is_empty() || left.len() == before {
                return Ok(left.is_empty());
            }
        }
    }

    fn add_branch(
        &mut self,
        txn: &mut dyn WriteTxn,
        scope: Scope,
        about: &AboutBranch,
        context: &Context,
    ) -> Result<bool> {
        let base = match &about.parent {
            None => None,
            Some(parent) => {
                let Some(id) = self
                    .scopes
                    .get(&parent.scope)
                    .and_then(|shown| shown.branch)
                else {
                    return Ok(false);
                };
                let shown = self.scopes.get(&scope).and_then(|shown| shown.base?.1);
                let at = match &parent.at {
                    None => None,
                    Some(at) => match self.epoch_for(txn, parent.scope, at, shown, context.now)? {
                        Some(epoch) => Some(epoch),
                        None => return Ok(false),
                    },
                };
                Some((id, at))
            }
        };
        let shown = self.scopes.entry(scope).or_default();
        match shown.branch {
            Some(_) if shown.base == base => Ok(true),
            Some(id) if base.is_none_or(|(parent, _)| parent < id) => {
                self.show_anew(txn, scope, id, base, context)?;
                Ok(true)
            }
            // A branch is younger than what it is based on.
            Some(id) => {
                self.remove_branch(txn, scope, id, context)?;
                Ok(false)
            }
            None => {
                let is_free = txn.branch_named(self.bucket, &about.name)?.is_none();
                let name = match is_free {
                    true => about.name.clone(),
                    false => with_suffix(&about.name, &scope.to_string()),
                };
                let id = branch::add(txn, self.bucket, &name, line(base), None, context)?.id;
                let chain = Chain::load(txn, id, None)?;
                let shown = Shown {
                    branch: Some(id),
                    name,
                    base,
                    ..Shown::default()
                };
                self.scopes.insert(scope, shown);
                let changes = self.documents(scope).show_all(txn, &chain, context.now)?;
                self.publish(txn, chain.branch_name(), changes, context)?;
                Ok(true)
            }
        }
    }

    /// Shows a branch anew over a base.
    pub(crate) fn show_anew(
        &mut self,
        txn: &mut dyn WriteTxn,
        scope: Scope,
        id: BranchId,
        base: Option<(BranchId, Option<Epoch>)>,
        context: &Context,
    ) -> Result<()> {
        let before = branch::rebase(txn, id, line(base))?;
        if let Some(shown) = self.scopes.get_mut(&scope) {
            shown.base = base;
        }
        let chain = Chain::load(txn, id, None)?;
        self.documents(scope).show_all(txn, &chain, context.now)?;
        let before = Chain::load(txn, id, Some(before))?;
        let changes = changes_between(txn, &before, &chain)?;
        self.publish(txn, chain.branch_name(), changes, context)
    }

    fn settle_snapshots(
        &mut self,
        txn: &mut dyn WriteTxn,
        scope: Scope,
        context: &Context,
    ) -> Result<bool> {
        let Some(Shown {
            branch: Some(branch),
            snapshots: shown,
            ..
        }) = self.scopes.get(&scope).cloned()
        else {
            return Ok(true);
        };
        let mut wanted = BTreeMap::new();
        for (register, about) in self.documents(scope).snapshots(txn)? {
            let mut seen = BTreeSet::new();
            for About { stamp, state } in about {
                let AboutSnapshot::Taken { at, created } = state else {
                    continue;
                };
                let name = match seen.is_empty() {
                    true => register.clone(),
                    false => with_suffix(&register, &digest(stamp)),
                };
                if seen.insert(at.clone()) {
                    wanted.insert(name, (register.clone(), at, created));
                }
            }
        }
        let mut all = true;
        let mut snapshots = BTreeMap::new();
        let mut missing = Vec::new();
        for (name, (register, at, created)) in wanted {
            let shown = shown.get(&name).map(|shown| shown.epoch);
            match self.epoch_for(txn, scope, &at, shown, context.now)? {
                Some(epoch) if shown == Some(epoch) => {
                    snapshots.insert(name, ShownSnapshot { epoch, register });
                }
                Some(epoch) => missing.push((name, register, epoch, created)),
                None => all = false,
            }
        }
        for name in shown.keys().filter(|name| !snapshots.contains_key(*name)) {
            branch::delete_snapshot(txn, branch, name, context)?;
        }
        for (name, register, epoch, created) in missing {
            let record = SnapshotRecord {
                branch,
                name: name.clone(),
                epoch,
                created,
            };
            branch::name_snapshot(txn, &record, context)?;
            snapshots.insert(name, ShownSnapshot { epoch, register });
        }
        if let Some(shown) = self.scopes.get_mut(&scope) {
            shown.snapshots = snapshots;
        }
        Ok(all)
    }

    /// Returns the epoch of a branch that shows a point in time, made if it never was present here;
    /// nothing where not all of it has come. `shown` is the one that is in use for it.
    fn epoch_for(
        &mut self,
        txn: &mut dyn WriteTxn,
        scope: Scope,
        moment: &Moment,
        shown: Option<Epoch>,
        now: Timestamp,
    ) -> Result<Option<Epoch>> {
        if let Some(epoch) = self.epoch_at(txn, scope, moment)? {
            if shown == Some(epoch) {
                return Ok(shown);
            }
            // Whoever joins learns from the documents what it shows: they may have left that out while
            // nobody needed it, and what was collected may have held its rows.
            if !self.has_all_of(txn, moment)? {
                return Ok(None);
            }
            if is_pinned(txn, self.bucket, epoch)? {
                return Ok(Some(epoch));
            }
        }
        let Some(branch) = self.scopes.get(&scope).and_then(|shown| shown.branch) else {
            return Ok(None);
        };
        if !moment.is_known(|scope| self.documents(scope).applied(txn))? {
            return Ok(None);
        }
        let chain = Chain::load(txn, branch, None)?;
        let present = self.moment_of(txn, &chain)?;
        let is_present = present.as_ref() == Some(moment);
        if !is_present && !self.has_all_of(txn, moment)? {
            return Ok(None);
        }
        // Where it is based on the same, each of what it was made of can be as it was then.
        let is_over_same = present
            .as_ref()
            .is_some_and(|present| is_over_same(moment, present));
        let mut rows = match (is_present, is_over_same) {
            (true, _) => BTreeMap::new(),
            (false, true) => self.rows_of_each(txn, moment, now)?,
            (false, false) => {
                let rows = self.rows_of_all(txn, &chain, moment, present.as_ref(), now)?;
                BTreeMap::from([(branch, rows)])
            }
        };
        rows.retain(|_, rows| !rows.is_empty());
        let epoch = branch::freeze_with(txn, branch, &rows)?;
        self.keep_moment(txn, scope, epoch, moment)?;
        if let Some(present) = present.filter(|_| !is_present) {
            let inherited = if is_over_same { moment } else { &present };
            for (parent, at) in inherited.of_live_parents() {
                self.keep_moment(txn, parent, epoch, &at)?;
            }
            if !rows.is_empty() {
                let before = Epoch(epoch.0 - 1);
                self.keep_moment(txn, scope, before, &present)?;
                for (parent, at) in present.of_live_parents() {
                    self.keep_moment(txn, parent, before, &at)?;
                }
            }
        }
        Ok(Some(epoch))
    }

    /// Tells whether the documents have all that a moment needs; notes what they lack.
    fn has_all_of(&mut self, txn: &dyn ReadTxn, moment: &Moment) -> Result<bool> {
        let mut all = true;
        for (scope, vector) in moment.cuts() {
            if !self.documents(scope).can_show(txn, vector)? {
                self.wanted.insert((scope, vector.clone()));
                all = false;
            }
        }
        Ok(all)
    }

    /// Returns the rows that differ between the present and a point in time, of the branch and of
    /// those that it inherits live.
    fn rows_of_each(
        &mut self,
        txn: &dyn ReadTxn,
        moment: &Moment,
        now: Timestamp,
    ) -> Result<BTreeMap<BranchId, BTreeMap<TreePath, Row>>> {
        let cuts: Vec<_> = moment.cuts().collect();
        let live = moment.0.first().map_or(0, Vec::len);
        let mut rows = BTreeMap::new();
        for (n, (scope, vector)) in cuts.iter().enumerate().take(live) {
            let Some(branch) = self.scopes.get(scope).and_then(|shown| shown.branch) else {
                continue;
            };
            let chain = Chain::load(txn, branch, None)?;
            let paths = self.documents(*scope).paths_after(txn, vector)?;
            let held = self.documents(*scope).rows_at(txn, vector, &paths)?;
            let inherited = |paths: &BTreeSet<TreePath>| {
                let layers = self.layers_at(txn, &cuts[n..], paths)?;
                earlier(txn, &chain, &layers, paths, now)
            };
            rows.insert(
                branch,
                held_earlier(txn, &chain, &held, &paths, inherited, now)?,
            );
        }
        Ok(rows)
    }

    /// Returns the rows that differ between the present and a point in time, whatever they are of.
    fn rows_of_all(
        &mut self,
        txn: &dyn ReadTxn,
        chain: &Chain,
        moment: &Moment,
        present: Option<&Moment>,
        now: Timestamp,
    ) -> Result<BTreeMap<TreePath, Row>> {
        let cuts: Vec<_> = moment.cuts().collect();
        let present = present.into_iter().flat_map(Moment::cuts);
        let scopes: BTreeSet<_> = cuts
            .iter()
            .copied()
            .chain(present)
            .map(|(scope, _)| scope)
            .collect();
        let mut paths = BTreeSet::from([TreePath::root()]);
        for scope in scopes {
            paths.extend(self.documents(scope).paths(txn)?);
        }
        let layers = self.layers_at(txn, &cuts, &paths)?;
        earlier(txn, chain, &layers, &paths, now)
    }

    fn layers_at(
        &mut self,
        txn: &dyn ReadTxn,
        cuts: &[(Scope, &VersionVector)],
        paths: &BTreeSet<TreePath>,
    ) -> Result<Vec<BTreeMap<TreePath, Row>>> {
        let rows = |(scope, vector): &(Scope, &VersionVector)| {
            self.documents(*scope).rows_at(txn, vector, paths)
        };
        cuts.iter().map(rows).collect()
    }
}

/// Tells whether two points in time are made of the same branches over the same point in time.
fn is_over_same(a: &Moment, b: &Moment) -> bool {
    let (Some((a, below_a)), Some((b, below_b))) = (a.0.split_first(), b.0.split_first()) else {
        return false;
    };
    let scopes = |part: &[(Scope, VersionVector)]| part.iter().map(|(scope, _)| *scope).collect();
    let (a, b): (Vec<_>, Vec<_>) = (scopes(a), scopes(b));
    a == b && below_a == below_b
}

/// Tells whether a snapshot or a fork shows an epoch: else what it showed may have been collected.
fn is_pinned(txn: &dyn ReadTxn, bucket: BucketId, epoch: Epoch) -> Result<bool> {
    let pinned = pins(txn, &txn.branches(bucket)?, epoch)?;
    Ok(pinned.first().is_some_and(|(first, _)| *first == epoch))
}

fn line(base: Option<(BranchId, Option<Epoch>)>) -> Option<LineBase> {
    base.map(|(branch, at)| LineBase {
        branch,
        at,
        stays_live: false,
        may_hide: at.is_some(),
    })
}

/// Appends a short suffix to a name that somebody else has.
pub(crate) fn with_suffix(name: &str, hex: &str) -> String {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{}", &name[..end], &hex[..8])
}

pub(crate) fn digest(stamp: Stamp) -> String {
    blake3::hash(&kept::encode(&stamp)).to_hex().to_string()
}
