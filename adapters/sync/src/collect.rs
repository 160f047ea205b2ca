//! What was committed here, brought into documents.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alknet_fs_core::branch;
use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{
    BranchId, BranchRecord, BucketId, Epoch, ReadTxn, SnapshotRecord, WriteTxn,
};
use alknet_fs_core::sync::{
    About, AboutBranch, AboutSnapshot, Clock, Key, Moment, Parent, Scope, Stamp, Times, touched,
};
use alknet_fs_core::{
    Change, Cursor, Error, ErrorKind, Event, Kind, Op, Result, Timestamp, TreePath,
};

use crate::branch::{Branch, Group};
use crate::bucket::{Bucket, Shown, ShownSnapshot, To, context};
use crate::kept::{self, Draft};

/// How many log records are read at a time.
const RECORDS: usize = 256;

/// What was committed since it was last looked for.
pub(crate) enum Found {
    /// Everything: it is the first time.
    First,
    /// Nobody knows: the log was pruned.
    Unknown,
    /// This.
    Changes {
        /// From the newest, with when each was committed.
        changes: HashMap<BranchId, Vec<(Timestamp, Change)>>,
        /// When branches or snapshots came, went or got other names last, if they did.
        of_branches: Option<Timestamp>,
    },
}

impl Found {
    /// Looks for what was committed after a cursor.
    pub(crate) fn after(
        txn: &dyn ReadTxn,
        bucket: BucketId,
        branches: &[BranchRecord],
        mut since: Cursor,
    ) -> Result<Self> {
        let mut events = Vec::new();
        loop {
            let more = match txn.events(Some(bucket), since, RECORDS) {
                Ok(more) => more,
                Err(e) if e.kind() == ErrorKind::Lagged => return Ok(Self::Unknown),
                Err(e) => return Err(e),
            };
            let Some(last) = more.last() else {
                return Ok(Self::of(events, branches));
            };
            since = last.cursor;
            events.extend(more);
        }
    }

    fn of(events: Vec<Event>, branches: &[BranchRecord]) -> Self {
        let ids = branches
            .iter()
            .map(|branch| (branch.name.clone(), branch.id));
        let mut ids: HashMap<String, BranchId> = ids.collect();
        let mut changes: HashMap<BranchId, Vec<(Timestamp, Change)>> = HashMap::new();
        let mut of_branches = None;
        // Events name branches as they were called then.
        for Event {
            at, branch, change, ..
        } in events.into_iter().rev()
        {
            if change.path.is_none() {
                of_branches = of_branches.max(Some(at));
            }
            match (change.op, change.name) {
                (Op::RenameBranch, Some(old)) => {
                    if let Some(id) = ids.remove(&branch) {
                        ids.insert(old, id);
                    }
                }
                // What had the name before was another branch.
                (Op::Fork | Op::DeleteBranch, _) => drop(ids.remove(&branch)),
                (_, name) => {
                    if let Some(id) = ids.get(&branch) {
                        let change = Change { name, ..change };
                        changes.entry(*id).or_default().push((at, change));
                    }
                }
            }
        }
        Self::Changes {
            changes,
            of_branches,
        }
    }

    /// Tells whether these may be more than some number of changes, with those of all that is in a directory.
    pub(crate) fn is_more_than(&self, count: usize) -> bool {
        let Self::Changes { changes, .. } = self else {
            return true;
        };
        let mut all = changes.values().flatten();
        let is_large = |change: &Change| match change.op {
            Op::Restore => true,
            Op::Rename => change.kind == Some(Kind::Dir),
            _ => false,
        };
        changes.values().map(Vec::len).sum::<usize>() > count
            || all.any(|(_, change)| is_large(change))
    }

    /// Tells whether these may be changes in a branch.
    pub(crate) fn is_in(&self, branch: BranchId) -> bool {
        match self {
            Self::First | Self::Unknown => true,
            Self::Changes { changes, .. } => changes.contains_key(&branch),
        }
    }

    pub(crate) fn of_branches(&self) -> bool {
        match self {
            Self::First | Self::Unknown => true,
            Self::Changes { of_branches, .. } => of_branches.is_some(),
        }
    }

    /// Returns what changed in a branch up to what a chain shows, where all up to an epoch of it was
    /// collected before; and when, as far as that is known.
    fn up_to(
        &self,
        txn: &dyn ReadTxn,
        chain: &Chain,
        documents: &Branch,
        before: Epoch,
        now: Timestamp,
    ) -> Result<(Vec<Change>, Times)> {
        let mut times = Times::new(now);
        if let Self::Changes { changes, .. } = self {
            let of_it = changes.get(&chain.branch()).into_iter().flatten();
            let noted = of_it.map(|(at, change)| {
                times.note(change, *at);
                change.clone()
            });
            return Ok((noted.collect(), times));
        }
        Ok((self.all_up_to(txn, chain, documents, before)?, times))
    }

    /// Returns the paths at which a branch may hold something else than the registers say, where nobody
    /// knows what changed since an epoch.
    fn all_up_to(
        &self,
        txn: &dyn ReadTxn,
        chain: &Chain,
        documents: &Branch,
        before: Epoch,
    ) -> Result<Vec<Change>> {
        let spans = chain.own_spans();
        let (mut paths, since, op) = match (self, spans) {
            // Of all before no path can be gone.
            (Self::First, [_]) => (BTreeSet::new(), Epoch(before.0 + 1), Op::Create),
            _ => (documents.paths(txn)?, Epoch(0), Op::Restore),
        };
        for span in spans {
            let epochs = span.first.max(since)..=span.last;
            let (bucket, branch, root) = (chain.bucket(), span.branch, TreePath::root());
            txn.paths_of(bucket, branch, epochs, &root, &mut |parent, name| {
                paths.insert(TreePath::from_stored(parent, name));
                Ok(())
            })?;
        }
        let changes = paths.into_iter().map(|path| Change {
            path: Some(path),
            ..Change::new(op)
        });
        Ok(changes.collect())
    }
}

/// One round of collecting.
struct Round<'a> {
    branches: &'a [BranchRecord],
    found: &'a Found,
    clocks: Clocks,
    now: Timestamp,
    /// When what is said of branches and snapshots happened.
    told_at: Timestamp,
    /// Up to which epoch each branch was collected.
    before: HashMap<BranchId, Epoch>,
}

impl Round<'_> {
    /// Returns the stamp of what is said of branches and snapshots.
    fn told(&mut self) -> Stamp {
        self.clocks.with(None, |clock| clock.stamp(self.told_at))
    }
}

/// Clocks that begin alike: no two values of a register have the same stamp, and what was written to one
/// branch is not later for what was written to another, or said of it.
struct Clocks {
    begun: Clock,
    of: HashMap<Option<BranchId>, Clock>,
    /// The latest of them.
    last: Clock,
}

impl Clocks {
    fn new(begun: Clock) -> Self {
        Self {
            last: begun.clone(),
            of: HashMap::new(),
            begun,
        }
    }

    /// Gives out stamps for a branch, or for what is said of all.
    fn with<R>(&mut self, of: Option<BranchId>, stamp: impl FnOnce(&mut Clock) -> R) -> R {
        let clock = self.of.entry(of).or_insert_with(|| self.begun.clone());
        let given = stamp(clock);
        if clock.last() > self.last.last() {
            self.last = clock.clone();
        }
        given
    }
}

impl Bucket {
    /// Brings into the documents what was found. Points in time that snapshots or forks show come
    /// first, one after the other, and then the present. What changes between transactions is found later.
    pub(crate) fn collect(
        &mut self,
        to: &mut To<'_>,
        branches: &[BranchRecord],
        found: &Found,
        now: Timestamp,
    ) -> Result<()> {
        let mut round = Round {
            branches,
            found,
            clocks: Clocks::new(self.clock()),
            now,
            told_at: match found {
                Found::Changes {
                    of_branches: Some(at),
                    ..
                } => now.min(*at),
                _ => now,
            },
            before: HashMap::new(),
        };
        if found.of_branches() {
            // Whoever hears of a branch first can show what follows at once.
            let since = self.gathered_epoch();
            let pins = self.round_in(to, &mut round, |this, txn, round| {
                this.add_scopes(txn, round)?;
                pins(txn, branches, since)
            })?;
            for (epoch, branch) in pins {
                self.collect_moment(to, &mut round, branch, epoch)?;
            }
            self.round_in(to, &mut round, |this, txn, round| this.tell(txn, round))?;
        }
        for branch in branches.iter().filter(|branch| found.is_in(branch.id)) {
            self.collect_branch(to, &mut round, branch.id, None)?;
        }
        Ok(())
    }

    /// Drafts what was written to branches, as far as that was found.
    pub(crate) fn draft(
        &mut self,
        draft: &mut Draft<'_>,
        branches: &[BranchRecord],
        found: &Found,
        now: Timestamp,
    ) -> Result<()> {
        let mut clocks = Clocks::new(self.clock());
        for BranchRecord { id, .. } in branches.iter().filter(|branch| found.is_in(branch.id)) {
            let chain = Chain::load(draft.txn, *id, None)?;
            let scope = self.scope_of(*id)?;
            let documents = self.documents(scope);
            let (changes, times) = found.up_to(draft.txn, &chain, documents, Epoch(0), now)?;
            let cuts = clocks.with(Some(*id), |clock| {
                documents.draft(draft, &chain, &changes, clock, &times)
            })?;
            if cuts > 0 {
                self.news.insert(scope);
            }
        }
        self.set_clock(&clocks.last);
        Ok(())
    }

    /// Does a part of a round in one transaction.
    fn round_in<'r, R>(
        &mut self,
        to: &mut To<'_>,
        round: &mut Round<'r>,
        work: impl FnOnce(&mut Self, &mut dyn WriteTxn, &mut Round<'r>) -> Result<R>,
    ) -> Result<R> {
        self.change_in(to, |this, txn| {
            let done = work(this, txn, round)?;
            this.set_clock(&round.clocks.last);
            Ok(done)
        })
    }

    /// Collects what a branch shows, or showed at the end of an epoch.
    fn collect_branch(
        &mut self,
        to: &mut To<'_>,
        round: &mut Round<'_>,
        branch: BranchId,
        at: Option<Epoch>,
    ) -> Result<()> {
        let is_in_pieces = matches!(to, To::Pieces(_));
        // What was there before it takes part need not come at once.
        let grouped = matches!(round.found, Found::Changes { .. });
        let listed = self.read_in(to, |this, txn| {
            if txn.branch(branch)?.is_none() {
                return Ok(None);
            }
            let chain = Chain::load(txn, branch, at)?;
            let before = round.before.get(&branch).copied().unwrap_or(Epoch(0));
            let documents = this.documents(this.scope_of(branch)?);
            let (found, now) = (round.found, round.now);
            let (mut changes, times) = found.up_to(txn, &chain, documents, before, now)?;
            if is_in_pieces {
                changes = in_order(txn, &chain, documents, &changes, &times)?;
            }
            Ok(Some((chain, changes, times)))
        })?;
        let Some((mut chain, changes, mut times)) = listed else {
            return Ok(());
        };
        let group = match to {
            _ if !grouped => Group::None,
            To::Txn(_) => Group::Ends,
            // What is committed meanwhile may belong to it.
            To::Pieces(_) => Group::GoesOn,
        };
        let mut rest = &changes[..];
        loop {
            let (these, later) = rest.split_at(rest.len().min(to.at_once()));
            if let (true, Some(last)) = (is_in_pieces, these.last()) {
                times.end_at(round.now);
                let end = last.path.as_ref().map_or(round.now, |path| times.at(path));
                times.end_at(end);
            }
            self.round_in(to, round, |this, txn, round| {
                // Others may have changed it since it was looked at.
                if is_in_pieces {
                    if txn.branch(branch)?.is_none() {
                        return Ok(());
                    }
                    chain = Chain::load(txn, branch, at)?;
                }
                let scope = this.scope_of(branch)?;
                let documents = this.documents(scope);
                let gathered = round.clocks.with(Some(branch), |clock| {
                    documents.gather(txn, &chain, these, group, clock, &times)
                })?;
                if gathered.cuts > 0 {
                    this.news.insert(scope);
                    if group == Group::GoesOn {
                        this.leave_open(scope);
                    }
                }
                let context = context(round.now, this.replica());
                this.publish(txn, chain.branch_name(), gathered.changes, &context)
            })?;
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Collects what a branch showed at the end of an epoch, and notes which cuts that are.
    fn collect_moment(
        &mut self,
        to: &mut To<'_>,
        round: &mut Round<'_>,
        branch: BranchId,
        epoch: Epoch,
    ) -> Result<()> {
        let is_in_pieces = matches!(to, To::Pieces(_));
        let (live, is_noted) = self.read_in(to, |this, txn| {
            if txn.branch(branch)?.is_none() {
                return Ok((Vec::new(), true));
            }
            let live = Chain::load(txn, branch, Some(epoch))?.live_branches().0;
            let noted = this.moment_at(txn, this.scope_of(branch)?, epoch)?;
            Ok((live, noted.is_some()))
        })?;
        if is_in_pieces && is_noted {
            // That came so far before somebody broke off.
            round.before.extend(live.into_iter().map(|id| (id, epoch)));
            return Ok(());
        }
        for id in live.into_iter().rev() {
            self.collect_branch(to, round, id, Some(epoch))?;
            round.before.insert(id, epoch);
        }
        self.round_in(to, round, |this, txn, round| {
            if txn.branch(branch)?.is_some() {
                let chain = Chain::load(txn, branch, Some(epoch))?;
                this.note_moment(txn, &chain, epoch)?;
            }
            this.add_scopes(txn, round)
        })
    }

    fn note_moment(&mut self, txn: &mut dyn WriteTxn, chain: &Chain, epoch: Epoch) -> Result<()> {
        let scope = self.scope_of(chain.branch())?;
        match self.moment_of(txn, chain)? {
            Some(moment) => self.keep_moment(txn, scope, epoch, &moment),
            None => Ok(()),
        }
    }

    /// Returns the point in time that a chain shows whose branches were collected just up to that;
    /// nothing where it is based on one that nobody knows.
    pub(crate) fn moment_of(&mut self, txn: &dyn ReadTxn, chain: &Chain) -> Result<Option<Moment>> {
        let (live, base) = chain.live_branches();
        let mut first = Vec::with_capacity(live.len());
        for id in &live {
            let scope = self.scope_of(*id)?;
            first.push((scope, self.documents(scope).applied(txn)?));
        }
        let mut moment = Moment(vec![first]);
        if let (Some((branch, epoch)), Some(last)) = (base, live.last()) {
            let (parent, scope) = (self.scope_of(branch)?, self.scope_of(*last)?);
            match self.base_of(txn, scope, parent, epoch)? {
                Some(base) => moment.0.extend(base.0),
                None => return Ok(None),
            }
        }
        Ok(Some(moment))
    }

    /// Returns the point in time of a parent at which a branch is based on it.
    fn base_of(
        &self,
        txn: &dyn ReadTxn,
        scope: Scope,
        parent: Scope,
        at: Epoch,
    ) -> Result<Option<Moment>> {
        if let Some(moment) = self.moment_at(txn, parent, at)? {
            return Ok(Some(moment));
        }
        // The branch went back to a point in time of its own, from when on the parent is frozen too.
        let own = self.moment_at(txn, scope, at)?;
        Ok(own.map(|mut moment| {
            for part in &mut moment.0 {
                part.retain(|(other, _)| *other != scope);
            }
            moment.0.retain(|part| !part.is_empty());
            moment
        }))
    }

    /// Returns the scope of a branch.
    pub(crate) fn scope_of(&self, branch: BranchId) -> Result<Scope> {
        let mut scopes = self.scopes.iter();
        let found = scopes.find(|(_, shown)| shown.branch == Some(branch));
        found.map(|(scope, _)| *scope).ok_or_else(|| {
            let why = "a branch takes no part in synchronisation";
            Error::with_detail(ErrorKind::Corrupt, why).path(branch)
        })
    }

    /// Lets branches take part that do not yet, and says so; but for those that are based on a point in
    /// time which was not collected yet.
    fn add_scopes(&mut self, txn: &mut dyn WriteTxn, round: &mut Round<'_>) -> Result<()> {
        let known: BTreeSet<_> = self
            .scopes
            .values()
            .filter_map(|shown| shown.branch)
            .collect();
        for branch in round.branches {
            // One that was deleted since is told of later.
            if known.contains(&branch.id) || txn.branch(branch.id)?.is_none() {
                continue;
            }
            // What it was forked from: it may have gone back to something else since.
            let made = branch::parent(txn, branch.id)?.map(|base| (base.branch, base.at));
            let Some(parent) = self.parent(txn, None, made)? else {
                continue;
            };
            let first = parent.is_none().then(Scope::of_first_branch);
            let others = (0..).map(|n| Scope::of_branch(&branch.name, parent.as_ref(), n));
            for scope in first.into_iter().chain(others) {
                // One that was deleted, or cannot be shown yet, is another branch.
                if self.scopes.contains_key(&scope) {
                    continue;
                }
                let shown = Shown {
                    branch: Some(branch.id),
                    ..Shown::default()
                };
                self.scopes.insert(scope, shown);
                let about = self.tell_branch(txn, round, scope, branch)?;
                self.tell_in(txn, scope, about.into_iter().collect())?;
                break;
            }
        }
        Ok(())
    }

    /// Returns what is said of the base of a branch, if that is a point in time which was collected.
    fn parent(
        &self,
        txn: &dyn ReadTxn,
        scope: Option<Scope>,
        base: Option<(BranchId, Option<Epoch>)>,
    ) -> Result<Option<Option<Parent>>> {
        let Some((branch, at)) = base else {
            return Ok(Some(None));
        };
        let mut scopes = self.scopes.iter();
        let Some((parent, _)) = scopes.find(|(_, shown)| shown.branch == Some(branch)) else {
            return Ok(None);
        };
        let at = match at {
            None => None,
            Some(at) => match self.base_of(txn, scope.unwrap_or(*parent), *parent, at)? {
                Some(moment) => Some(moment),
                None => return Ok(None),
            },
        };
        let scope = *parent;
        Ok(Some(Some(Parent { scope, at })))
    }

    fn tell_in(
        &mut self,
        txn: &mut dyn WriteTxn,
        scope: Scope,
        about: Vec<(Key, Vec<u8>)>,
    ) -> Result<()> {
        if !about.is_empty() {
            self.documents(scope).tell(txn, about)?;
            self.news.insert(scope);
        }
        Ok(())
    }

    /// Says what was said differently before, or not at all, about branches and snapshots.
    fn tell(&mut self, txn: &mut dyn WriteTxn, round: &mut Round<'_>) -> Result<()> {
        let shown = self.scopes.iter();
        let shown = shown.filter_map(|(scope, shown)| Some((shown.branch?, *scope)));
        for (id, scope) in shown.collect::<Vec<_>>() {
            let mut about = Vec::new();
            match round.branches.iter().find(|branch| branch.id == id) {
                Some(_) if txn.branch(id)?.is_none() => {}
                Some(record) => {
                    about.extend(self.tell_branch(txn, round, scope, record)?);
                    self.tell_snapshots(txn, round, scope, id, &mut about)?;
                }
                None => about.extend(self.tell_deleted(txn, round, scope)?),
            }
            self.tell_in(txn, scope, about)?;
        }
        Ok(())
    }

    fn tell_branch(
        &mut self,
        txn: &mut dyn WriteTxn,
        round: &mut Round<'_>,
        scope: Scope,
        record: &BranchRecord,
    ) -> Result<Option<(Key, Vec<u8>)>> {
        let base = Chain::load(txn, record.id, None)?.base();
        let is_said = !self.documents(scope).about(txn)?.is_empty();
        let shown = self.scopes.get(&scope);
        let same = shown.is_some_and(|shown| shown.name == record.name && shown.base == base);
        if is_said && same {
            return Ok(None);
        }
        let Some(parent) = self.parent(txn, Some(scope), base)? else {
            return Ok(None);
        };
        if let (
            Some((_, Some(epoch))),
            Some(Parent {
                scope,
                at: Some(at),
            }),
        ) = (base, &parent)
        {
            self.keep_moment(txn, *scope, epoch, at)?;
        }
        if let Some(shown) = self.scopes.get_mut(&scope) {
            record.name.clone_into(&mut shown.name);
            shown.base = base;
        }
        let about = About {
            stamp: round.told(),
            state: AboutBranch {
                name: record.name.clone(),
                parent,
                deleted: None,
            },
        };
        Ok(Some((Key::Branch, about.encode())))
    }

    fn tell_deleted(
        &mut self,
        txn: &dyn ReadTxn,
        round: &mut Round<'_>,
        scope: Scope,
    ) -> Result<Option<(Key, Vec<u8>)>> {
        let replica = self.replica();
        let documents = self.documents(scope);
        let mut known = documents.applied(txn)?;
        let last = documents.about(txn)?.into_iter().next();
        self.scopes.insert(scope, Shown::default());
        let Some(About { state, .. }) = last else {
            return Ok(None);
        };
        // The cut that says so is among them.
        known.see(replica, known.get(replica) + 1);
        let about = About {
            stamp: round.told(),
            state: AboutBranch {
                deleted: Some(known),
                ..state
            },
        };
        Ok(Some((Key::Branch, about.encode())))
    }

    fn tell_snapshots(
        &mut self,
        txn: &dyn ReadTxn,
        round: &mut Round<'_>,
        scope: Scope,
        branch: BranchId,
        about: &mut Vec<(Key, Vec<u8>)>,
    ) -> Result<()> {
        let here: BTreeMap<_, _> = txn
            .snapshots(branch)?
            .into_iter()
            .map(|s| (s.name.clone(), s))
            .collect();
        let Some(shown) = self.scopes.get(&scope) else {
            return Ok(());
        };
        let (same, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = shown
            .snapshots
            .clone()
            .into_iter()
            .partition(|(name, shown)| {
                here.get(name).is_some_and(|here| here.epoch == shown.epoch)
            });
        let mut state_of: BTreeMap<String, AboutSnapshot> = BTreeMap::new();
        let mut snapshots = same;
        for (_, ShownSnapshot { register, .. }) in gone {
            state_of.insert(register, AboutSnapshot::Deleted);
        }
        for (name, record) in &here {
            let is_new = !snapshots.contains_key(name);
            // What shared a register with one that is gone gets one of its own.
            let moves = snapshots
                .get(name)
                .is_some_and(|s| state_of.contains_key(&s.register));
            if !is_new && !moves {
                continue;
            }
            let Some(taken) = self.taken(txn, scope, record)? else {
                continue;
            };
            state_of.insert(name.clone(), taken);
            let epoch = record.epoch;
            let register = name.clone();
            snapshots.insert(name.clone(), ShownSnapshot { epoch, register });
        }
        if let Some(shown) = self.scopes.get_mut(&scope) {
            shown.snapshots = snapshots;
        }
        about.extend(state_of.into_iter().map(|(name, state)| {
            let stamp = round.told();
            (Key::Snapshot(name), About { stamp, state }.encode())
        }));
        Ok(())
    }

    fn taken(
        &mut self,
        txn: &dyn ReadTxn,
        scope: Scope,
        record: &SnapshotRecord,
    ) -> Result<Option<AboutSnapshot>> {
        let at = self.moment_at(txn, scope, record.epoch)?;
        let created = record.created;
        Ok(at.map(|at| AboutSnapshot::Taken { at, created }))
    }

    /// Notes which point in time an epoch of a branch shows.
    pub(crate) fn keep_moment(
        &mut self,
        txn: &mut dyn WriteTxn,
        scope: Scope,
        epoch: Epoch,
        moment: &Moment,
    ) -> Result<()> {
        let place = self.moments(scope);
        kept::set(txn, &place, &moment_key(epoch), moment)?;
        kept::set(txn, &place, &epoch_key(moment), &epoch)
    }

    /// Returns the point in time that an epoch of a branch shows.
    fn moment_at(&self, txn: &dyn ReadTxn, scope: Scope, epoch: Epoch) -> Result<Option<Moment>> {
        kept::get(txn, &self.moments(scope), &moment_key(epoch))
    }

    /// Returns the epoch of a branch that shows a point in time, if one does.
    pub(crate) fn epoch_at(
        &self,
        txn: &dyn ReadTxn,
        scope: Scope,
        moment: &Moment,
    ) -> Result<Option<Epoch>> {
        kept::get(txn, &self.moments(scope), &epoch_key(moment))
    }

    /// Returns where points in time are kept: a branch that comes back has other epochs.
    fn moments(&self, scope: Scope) -> String {
        let branch = self.scopes.get(&scope).and_then(|shown| shown.branch);
        format!(
            "sync/{}/{scope}/{}",
            self.bucket,
            branch.map_or(0, |branch| branch.0)
        )
    }
}

fn moment_key(epoch: Epoch) -> String {
    format!("moment/{:08x}", epoch.0)
}

fn epoch_key(moment: &Moment) -> String {
    format!("epoch/{}", blake3::hash(&kept::encode(moment)).to_hex())
}

/// Returns all paths that changes speak of, each by itself, in the order in which they were changed last.
fn in_order(
    txn: &dyn ReadTxn,
    chain: &Chain,
    documents: &Branch,
    changes: &[Change],
    times: &Times,
) -> Result<Vec<Change>> {
    let paths = touched(txn, chain, &documents.registers(txn), changes)?;
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort_by_cached_key(|path| times.at(path));
    let each = paths.into_iter().map(|path| Change {
        path: Some(path),
        ..Change::new(Op::Restore)
    });
    Ok(each.collect())
}

/// Returns the epochs from one on that snapshots and forks show, with their branches, from the oldest.
pub(crate) fn pins(
    txn: &dyn ReadTxn,
    branches: &[BranchRecord],
    since: Epoch,
) -> Result<BTreeSet<(Epoch, BranchId)>> {
    let mut pins = BTreeSet::new();
    for branch in branches {
        let snapshots = txn.snapshots(branch.id)?.into_iter();
        pins.extend(snapshots.map(|snapshot| (snapshot.epoch, branch.id)));
        let bases = txn
            .lines(branch.id)?
            .into_iter()
            .filter_map(|line| line.base);
        pins.extend(bases.filter_map(|base| Some((base.at?, base.branch))));
    }
    pins.retain(|(epoch, _)| *epoch >= since);
    Ok(pins)
}
