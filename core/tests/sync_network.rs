//! Nodes in a simulated network that delays, loses, repeats and reorders what they send, and falls
//! apart and together again, with connections that break and nodes that crash at any point. Branches are
//! made, deleted and made again, and snapshots taken of them. Time is virtual, and every run
//! follows from its seed.
//!
//! `ALKFS_TEST_SEED` runs one seed; `ALKFS_TEST_SCALE` multiplies their number.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use alknet_fs_core::entry::{Attrs, Entry, Hash, Node, Timestamp};
use alknet_fs_core::sync::{
    About, AboutBranch, AboutSnapshot, AboutState, Clock, Cut, Frame, Key, Moment, Pace, Page,
    Peer, Projected, Registers, Removed, Replica, ReplicaId, Scope, Stamp, State, Taken, Value,
    VersionVector, Want, Write, affected, depth, is_there, needed, project,
};
use alknet_fs_core::{Error, ErrorKind, Result, TreePath};
use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Which cut it is: whose, and its number.
type Dot = (ReplicaId, u64);

/// A value, and which cut it came with.
type Dotted = (Dot, Value);

/// A value that a register has or had, with its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Past {
    replica: ReplicaId,
    number: u64,
    seen: VersionVector,
    path: String,
    value: Vec<u8>,
}

impl Past {
    fn order(&self) -> Order {
        let depth = depth(self.replica, self.number, &self.seen);
        (depth, self.replica, self.number)
    }
}

type Order = (u64, ReplicaId, u64);

/// One branch of a node: registers that know which values were written over which.
#[derive(Debug, Clone, Default)]
struct Branch {
    registers: BTreeMap<TreePath, Vec<Dotted>>,
    /// Those that are about the branch itself and its snapshots.
    about: BTreeMap<String, Vec<(Dot, Vec<u8>)>>,
    /// The moments that its snapshots show.
    taken: BTreeSet<VersionVector>,
    vector: VersionVector,
    /// Those that are still kept.
    cuts: Vec<Cut>,
    floor: VersionVector,
    /// The values that are still kept, causes before their effects.
    past: Vec<Past>,
    /// What was known when values were left out, and the moments that they were kept for.
    thinned: Thinned,
    /// What is shown: kept by projecting just what a change may affect.
    shown: BTreeMap<TreePath, Projected>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Thinned {
    upto: VersionVector,
    kept: BTreeSet<VersionVector>,
}

impl Thinned {
    fn can_show(&self, moment: &VersionVector) -> bool {
        moment.covers(&self.upto) || self.kept.contains(moment)
    }
}

impl Registers for Branch {
    fn values(&self, path: &TreePath) -> Result<Vec<Value>> {
        let values = self.registers.get(path).into_iter().flatten();
        Ok(values.map(|(_, value)| value.clone()).collect())
    }

    fn names(&self, dir: &TreePath) -> Result<Vec<Box<str>>> {
        let inside = self
            .registers
            .keys()
            .filter(|path| path.parent().as_ref() == Some(dir));
        Ok(inside.map(|path| path.name().into()).collect())
    }
}

impl Branch {
    fn apply(&mut self, cut: &Cut) {
        let mut changed = Vec::new();
        let dot = (cut.replica, cut.number);
        let is_new =
            |(replica, number): Dot| cut.seen.get(replica) < number && replica != cut.replica;
        for (key, bytes) in changes(cut) {
            match is_path(&key) {
                true => {
                    let path: TreePath = key.parse().unwrap();
                    let register = self.registers.entry(path.clone()).or_default();
                    register.retain(|(dot, _)| is_new(*dot));
                    register.push((dot, Value::decode(&bytes).unwrap()));
                    changed.push(path);
                }
                false => {
                    let register = self.about.entry(key.clone()).or_default();
                    register.retain(|(dot, _)| is_new(*dot));
                    register.push((dot, bytes.clone()));
                }
            }
            self.past.push(Past {
                replica: cut.replica,
                number: cut.number,
                seen: cut.seen.clone(),
                path: key,
                value: bytes,
            });
        }
        self.past.sort_by_key(Past::order);
        self.vector.see(cut.replica, cut.number);
        self.cuts.push(cut.clone());
        self.show(&changed);
    }

    /// Returns what is said of the branch or a snapshot, what counts first.
    fn said<T: AboutState>(&self, key: &str) -> Vec<About<T>> {
        let values = self.about.get(key).into_iter().flatten();
        About::resolve(
            values
                .map(|(_, bytes)| About::decode(bytes).unwrap())
                .collect(),
        )
    }

    fn is_there(&self) -> bool {
        is_there(&self.said::<AboutBranch>(BRANCH), &self.vector)
    }

    fn show(&mut self, changed: &[TreePath]) {
        self.taken.clear();
        for key in self.about.keys().filter(|key| *key != BRANCH) {
            for about in self.said::<AboutSnapshot>(key) {
                if let AboutSnapshot::Taken { at, .. } = about.state {
                    self.taken
                        .extend(at.cuts().map(|(_, vector)| vector.clone()));
                }
            }
        }
        for path in affected(self, changed).unwrap() {
            if let Some(shown) = project(self, &path).unwrap() {
                self.shown.insert(path, shown);
            }
        }
    }

    /// Forgets some cuts, and the values that count neither now nor at the moments of snapshots.
    fn compact(&mut self, cuts: usize) {
        for cut in self.cuts.drain(..cuts) {
            self.floor.see(cut.replica, cut.number);
        }
        let kept = self.taken.iter().filter(|moment| self.can_show(moment));
        let kept: BTreeSet<_> = kept.cloned().collect();
        let live: Vec<_> = kept.iter().collect();
        let mut past = Vec::new();
        for (_, of_path) in by_path(&self.past) {
            let is_needed = needed(&writes(&of_path), &live);
            let some = of_path.into_iter().zip(is_needed).filter(|(_, is)| *is);
            past.extend(some.map(|(past, _)| past.clone()));
        }
        past.sort_by_key(Past::order);
        self.past = past;
        self.thinned.upto = self.vector.clone();
        self.thinned.kept = kept;
    }

    fn can_show(&self, moment: &VersionVector) -> bool {
        self.vector.covers(moment) && self.thinned.can_show(moment)
    }

    /// Returns the values that counted at a moment.
    fn values_at(&self, moment: &VersionVector) -> Counting {
        let known = self.past.iter();
        let known = known.filter(|past| past.number <= moment.get(past.replica));
        let known: Vec<_> = known.cloned().collect();
        let mut values = BTreeMap::new();
        for (path, of_path) in by_path(&known) {
            let is_needed = needed(&writes(&of_path), &[]);
            let some = of_path.into_iter().zip(is_needed).filter(|(_, is)| *is);
            values.insert(path, some.map(|(past, _)| past.value.clone()).collect());
        }
        values
    }

    /// Brings in values that somebody else kept, up to a vector.
    fn absorb(&mut self, past: Vec<Past>, upto: &VersionVector, thinned: Thinned) {
        let kept = self.taken.iter().filter(|moment| self.can_show(moment));
        let kept: Vec<_> = kept.cloned().collect();
        // What is known here was not sent, and may have been left out here.
        if self.thinned.upto.is_empty() || upto.is_empty() {
            self.thinned.kept.extend(thinned.kept);
        }
        self.thinned.kept.extend(kept);
        self.thinned.upto.merge(&thinned.upto);
        for new in past {
            if !self.past.contains(&new) {
                self.past.push(new);
            }
        }
        self.past.sort_by_key(Past::order);
        self.vector.merge(upto);
        self.floor.merge(upto);
        self.registers.clear();
        self.about.clear();
        for (key, of_key) in by_path(&self.past) {
            let is_needed = needed(&writes(&of_key), &[]);
            let some = of_key.into_iter().zip(is_needed).filter(|(_, is)| *is);
            let some = some.map(|(past, _)| ((past.replica, past.number), past.value.clone()));
            match is_path(&key) {
                true => {
                    let some = some.map(|(dot, bytes)| (dot, Value::decode(&bytes).unwrap()));
                    self.registers.insert(key.parse().unwrap(), some.collect());
                }
                false => drop(self.about.insert(key, some.collect())),
            }
        }
        let all: Vec<_> = self.registers.keys().cloned().collect();
        self.show(&all);
    }
}

fn writes<'a>(past: &[&'a Past]) -> Vec<Write<'a>> {
    let write = |past: &&'a Past| Write {
        replica: past.replica,
        number: past.number,
        seen: &past.seen,
    };
    past.iter().map(write).collect()
}

fn by_path(past: &[Past]) -> BTreeMap<String, Vec<&Past>> {
    let mut paths: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for past in past {
        paths.entry(past.path.clone()).or_default().push(past);
    }
    paths
}

/// The values that count, by their paths.
type Counting = BTreeMap<String, BTreeSet<Vec<u8>>>;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    server: ReplicaId,
    /// What the server knew when it began.
    start: VersionVector,
    moment: Option<VersionVector>,
    /// Whether what was asked for is not to be had any more, and all begins anew.
    anew: bool,
    after: Option<Order>,
    /// Set when the values are through, and the cuts after them follow, by their place in the list.
    cuts: Option<(VersionVector, usize)>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Body {
    thinned: Option<(VersionVector, Thinned)>,
    past: Vec<Past>,
    cuts: Vec<Cut>,
}

/// Pages that came in.
#[derive(Debug, Clone)]
struct Incoming {
    next: Position,
    heard: Timestamp,
    bodies: Vec<Body>,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap()
}

/// The register about the branch itself.
const BRANCH: &str = "branch";

fn is_path(key: &str) -> bool {
    key.starts_with('/')
}

fn stamp_of(key: &str, value: &[u8]) -> Stamp {
    match is_path(key) {
        true => Value::decode(value).unwrap().stamp,
        false => Key::parse(key).unwrap().stamp(value).unwrap(),
    }
}

fn changes(cut: &Cut) -> Vec<(String, Vec<u8>)> {
    serde_json::from_slice(&cut.changes).unwrap()
}

/// When a node crashes that is about to commit something.
#[derive(Debug, Clone, Copy)]
enum Crash {
    /// In the middle: nothing of it is there.
    Within,
    /// Once it is committed, and before anybody hears of it.
    After,
}

/// What a node keeps when it crashes.
#[derive(Debug, Clone)]
struct Disk {
    clock: Clock,
    now: Timestamp,
    branches: BTreeMap<Scope, Branch>,
    incoming: BTreeMap<Scope, Incoming>,
    /// What happens with the next commit.
    crash: Option<Crash>,
}

impl Replica for Disk {
    fn vectors(&self) -> Result<BTreeMap<Scope, VersionVector>> {
        let branches = self.branches.iter();
        Ok(branches.map(|(s, b)| (*s, b.vector.clone())).collect())
    }

    fn vector(&self, scope: Scope) -> Result<VersionVector> {
        let branch = self.branches.get(&scope);
        Ok(branch.map_or_else(VersionVector::new, |b| b.vector.clone()))
    }

    fn cuts_after(&self, scope: Scope, seen: &VersionVector, bytes: usize) -> Result<Vec<Cut>> {
        assert!(seen.covers(&self.floor(scope)?));
        let cuts = self.branches.get(&scope).map_or(&[][..], |b| &b.cuts);
        let mut left = bytes as i64;
        let unknown = cuts.iter().filter(|c| c.number > seen.get(c.replica));
        let some = unknown.take_while(|cut| {
            let fits = left > 0;
            left -= cut.changes.len() as i64;
            fits
        });
        Ok(some.cloned().collect())
    }

    fn apply(&mut self, scope: Scope, cuts: &[Cut]) -> Result<()> {
        self.commit(|disk| disk.apply_all(scope, cuts))
    }

    fn floor(&self, scope: Scope) -> Result<VersionVector> {
        let branch = self.branches.get(&scope);
        Ok(branch.map_or_else(VersionVector::new, |b| b.floor.clone()))
    }

    fn first_page(&self, scope: Scope) -> Result<Vec<u8>> {
        Ok(encode(&self.begin(scope, None)))
    }

    fn page(
        &self,
        scope: Scope,
        what: &Want,
        seen: &VersionVector,
        bytes: usize,
    ) -> Result<Option<Page>> {
        let Some(branch) = self.branches.get(&scope) else {
            return Ok(None);
        };
        let from: Position = match what {
            Want::Moment(moment) if branch.can_show(moment) => {
                self.begin(scope, Some(moment.clone()))
            }
            Want::Moment(_) => return Ok(None),
            Want::From(bytes) => postcard::from_bytes(bytes).unwrap(),
        };
        let outdated = from.cuts.is_some() && !from.start.covers(&branch.floor);
        if from.server != self.clock.replica() || outdated {
            let anew = true;
            let from = encode(&Position {
                anew,
                ..self.begin(scope, None)
            });
            let (next, page) = (Some(from.clone()), Vec::new());
            return Ok(Some(Page { from, next, page }));
        }
        let mut next = Some(from.clone());
        let mut body = Body::default();
        if let Some((upto, mut at)) = from.cuts.clone() {
            // Those that came since then are at the list's end.
            let is_new = |cut: &&Cut| {
                cut.number > from.start.get(cut.replica) && cut.number <= upto.get(cut.replica)
            };
            let cuts = branch.cuts.iter().filter(is_new);
            body.cuts = cuts.skip(at).take(bytes / 200 + 1).cloned().collect();
            at += body.cuts.len();
            match body.cuts.is_empty() {
                true => next = None,
                false => next.as_mut().unwrap().cuts = Some((upto, at)),
            }
        } else {
            if from.after.is_none() {
                body.thinned = Some((branch.vector.clone(), branch.thinned.clone()));
            }
            let wanted = |past: &&Past| match &from.moment {
                Some(moment) => past.number <= moment.get(past.replica),
                None => past.number > seen.get(past.replica),
            };
            let after = |past: &&Past| from.after.is_none_or(|after| past.order() > after);
            let past = branch.past.iter().filter(after).filter(wanted);
            body.past = past.take(bytes / 200 + 1).cloned().collect();
            let next = next.as_mut().unwrap();
            match (body.past.last(), &from.moment) {
                (Some(last), _) => next.after = Some(last.order()),
                (None, _) => next.cuts = Some((branch.vector.clone(), 0)),
            }
        }
        if from.moment.is_some() && body.past.is_empty() {
            next = None;
        }
        let next = next.map(|next| encode(&next));
        let (from, page) = (encode(&from), encode(&body));
        Ok(Some(Page { from, next, page }))
    }

    fn take_page(&mut self, scope: Scope, page: &Page) -> Result<Taken> {
        self.commit(|disk| disk.take_in(scope, page))
    }

    fn wanted(&self) -> Vec<(Scope, VersionVector)> {
        let branches = self.branches.iter();
        let wanted = branches.flat_map(|(scope, branch)| {
            let taken = branch.taken.iter();
            let missing =
                taken.filter(|moment| branch.vector.covers(moment) && !branch.can_show(moment));
            missing.map(|moment| (*scope, moment.clone()))
        });
        wanted.collect()
    }
}

impl Disk {
    fn new(n: u8) -> Self {
        Self {
            clock: Clock::new(ReplicaId([n; 16]), 0),
            now: Timestamp(0),
            branches: BTreeMap::new(),
            incoming: BTreeMap::new(),
            crash: None,
        }
    }

    /// Changes what is kept, in one transaction.
    fn commit<R>(&mut self, change: impl FnOnce(&mut Self) -> R) -> Result<R> {
        match self.crash.take() {
            None => return Ok(change(self)),
            Some(Crash::Within) => drop(change(&mut self.clone())),
            Some(Crash::After) => drop(change(self)),
        }
        Err(Error::with_detail(ErrorKind::Io, "the power went"))
    }

    fn apply_all(&mut self, scope: Scope, cuts: &[Cut]) {
        let branch = self.branches.entry(scope).or_default();
        for cut in cuts {
            // What every replica may rely on.
            assert_eq!(cut.number, branch.vector.get(cut.replica) + 1, "a gap");
            assert!(branch.vector.covers(&cut.seen), "before its causes");
            branch.apply(cut);
            for (key, value) in changes(cut) {
                self.clock.see(stamp_of(&key, &value));
            }
        }
    }

    fn take_in(&mut self, scope: Scope, page: &Page) -> Taken {
        let from: Position = postcard::from_bytes(&page.from).unwrap();
        let begins = from.after.is_none() && from.cuts.is_none();
        let branch = self.branches.entry(scope).or_default();
        let is_missing = match &from.moment {
            Some(moment) => !branch.can_show(moment),
            None => !branch.vector.covers(&from.start),
        };
        if !is_missing {
            self.incoming.remove(&scope);
            return Taken::All;
        }
        if let Some(incoming) = self.incoming.get(&scope) {
            let other = incoming.next.server != from.server;
            let stale = self.now.0 - incoming.heard.0 > 20_000_000_000;
            if other && !stale {
                return Taken::Nothing;
            }
            if other || from.anew && incoming.next != from && page.is_offer() {
                self.incoming.remove(&scope);
            }
        }
        if !begins && !self.incoming.contains_key(&scope) {
            return Taken::Nothing;
        }
        let is_new = !self.incoming.contains_key(&scope);
        let incoming = self.incoming.entry(scope).or_insert(Incoming {
            next: from.clone(),
            heard: self.now,
            bodies: Vec::new(),
        });
        if page.is_offer() && (is_new || self.now.0 - incoming.heard.0 > 1_000_000_000) {
            return Taken::Part(encode(&incoming.next));
        }
        if page.is_offer() || incoming.next != from {
            return Taken::Waiting(encode(&incoming.next));
        }
        incoming.heard = self.now;
        incoming
            .bodies
            .push(postcard::from_bytes(&page.page).unwrap());
        match &page.next {
            Some(next) => {
                incoming.next = postcard::from_bytes(next).unwrap();
                Taken::Part(next.clone())
            }
            None => {
                self.finish(scope, &from);
                Taken::All
            }
        }
    }

    fn begin(&self, scope: Scope, moment: Option<VersionVector>) -> Position {
        Position {
            server: self.clock.replica(),
            start: self.vector(scope).unwrap(),
            moment,
            anew: false,
            after: None,
            cuts: None,
        }
    }

    fn finish(&mut self, scope: Scope, last: &Position) {
        let Incoming { bodies, .. } = self.incoming.remove(&scope).unwrap();
        let branch = self.branches.get_mut(&scope).unwrap();
        let (known, mut thinned) = bodies[0].thinned.clone().unwrap();
        let mut past: Vec<_> = bodies.iter().flat_map(|body| body.past.clone()).collect();
        for cut in bodies.iter().flat_map(|body| &body.cuts) {
            // What is not there though it was known was left out.
            if cut.number > known.get(cut.replica) {
                past.extend(changes(cut).into_iter().map(|(path, value)| Past {
                    replica: cut.replica,
                    number: cut.number,
                    seen: cut.seen.clone(),
                    path,
                    value,
                }));
            }
        }
        let upto = match (&last.moment, &last.cuts) {
            (None, Some((upto, _))) => upto.clone(),
            (Some(moment), _) => {
                thinned = Thinned {
                    upto: VersionVector::new(),
                    kept: [moment.clone()].into(),
                };
                VersionVector::new()
            }
            _ => unreachable!("the values are followed by cuts"),
        };
        for past in &past {
            self.clock.see(stamp_of(&past.path, &past.value));
        }
        branch.absorb(past, &upto, thinned);
    }

    /// Returns the branches that are there.
    fn there(&self) -> Vec<Scope> {
        let there = self.branches.iter().filter(|(_, branch)| branch.is_there());
        there.map(|(scope, _)| *scope).collect()
    }

    /// Writes a register, as a local commit does.
    fn put(&mut self, scope: Scope, key: &str, value: Vec<u8>) -> Dot {
        let replica = self.clock.replica();
        let branch = self.branches.entry(scope).or_default();
        let others = branch.vector.iter().filter(|(id, _)| *id != replica);
        let cut = Cut {
            more: false,
            replica,
            number: branch.vector.get(replica) + 1,
            seen: others.collect(),
            changes: serde_json::to_vec(&[(key, value)]).unwrap(),
        };
        branch.apply(&cut);
        (replica, cut.number)
    }

    fn tell<T: AboutState>(&mut self, scope: Scope, key: &str, state: T, now: Timestamp) {
        let stamp = self.clock.stamp(now);
        self.put(scope, key, About { stamp, state }.encode());
    }

    /// Makes a branch that is another than all those of its name that are known here.
    fn make(&mut self, name: &str, now: Timestamp) -> Scope {
        let mut scopes = (0..).map(|n| Scope::of_branch(name, None, n));
        let scope = scopes.find(|scope| !self.branches.contains_key(scope));
        let about = AboutBranch {
            name: name.to_owned(),
            parent: None,
            deleted: None,
        };
        self.tell(scope.unwrap(), BRANCH, about, now);
        scope.unwrap()
    }

    /// Deletes a branch. Returns what was known of it.
    fn delete(&mut self, scope: Scope, now: Timestamp) -> VersionVector {
        let branch = &self.branches[&scope];
        let about = branch.said::<AboutBranch>(BRANCH).remove(0).state;
        let mut known = branch.vector.clone();
        let replica = self.clock.replica();
        known.see(replica, known.get(replica) + 1);
        let deleted = Some(known.clone());
        self.tell(scope, BRANCH, AboutBranch { deleted, ..about }, now);
        known
    }

    /// Writes to a path, or removes what is there, as a local commit does.
    fn write(&mut self, scope: Scope, path: &TreePath, kind: u8, now: Timestamp) -> (Dot, Value) {
        let branch = self.branches.entry(scope).or_default();
        let shown = branch.shown.get(path).and_then(|s| s.row.clone());
        let there = shown.and_then(|row| row.entry);
        let stamp = self.clock.stamp(now);
        let attrs = Attrs {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp(stamp.time as i64),
            ctime: Timestamp(stamp.time as i64),
        };
        let state = match (kind, &there) {
            (0, Some(entry)) => State::Removed(Removed::from_entry(entry)),
            (1, _) => State::Present(Entry {
                node: Node::Dir,
                attrs,
            }),
            _ => {
                let hash = Hash::of(format!("{stamp:?}").as_bytes());
                let node = Node::File { hash, size: 1 };
                State::Present(Entry { node, attrs })
            }
        };
        let value = Value {
            stamp,
            state,
            base: None,
        };
        (self.put(scope, path.as_str(), value.encode()), value)
    }
}

struct Link {
    peer: Peer,
    /// Another one with each connection: what was sent before is not delivered any more.
    connection: u64,
}

/// Something that was written to a path.
struct Written {
    path: TreePath,
    value: Value,
    /// What whoever wrote it knew then, itself with it.
    known: VersionVector,
}

/// A frame on its way: when it arrives, and a number that no other has, come first.
type Flight = (i64, u64, usize, usize, u64, Vec<u8>);

struct Network {
    rng: Rng,
    now: Timestamp,
    disks: Vec<Disk>,
    links: BTreeMap<(usize, usize), Link>,
    flying: BinaryHeap<Reverse<Flight>>,
    count: u64,
    frames: u64,
    bytes: u64,
    /// Chances in a hundred.
    loss: u8,
    repeat: u8,
    delay: Duration,
    apart: BTreeSet<(usize, usize)>,
    /// Whether nodes crash while they commit something.
    crashes: bool,
    written: BTreeMap<(Scope, Dot), Written>,
    /// What whoever deleted a branch knew of it.
    deleted: Vec<(Scope, VersionVector)>,
    /// What counted at the moments that snapshots were taken of.
    moments: BTreeMap<(Scope, VersionVector), Counting>,
}

fn pace() -> Pace {
    Pace {
        window: 2000,
        frame: 600,
        ..Pace::default()
    }
}

impl Network {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let nodes = rng.usize(2..=8);
        let disks = (1..=nodes as u8).map(Disk::new);
        let mut network = Self {
            now: Timestamp(1_000_000_000),
            disks: disks.collect(),
            links: BTreeMap::new(),
            flying: BinaryHeap::new(),
            count: 0,
            frames: 0,
            bytes: 0,
            loss: rng.u8(0..40),
            repeat: rng.u8(0..20),
            delay: Duration::from_millis(rng.u64(1..400)),
            apart: BTreeSet::new(),
            crashes: rng.bool(),
            written: BTreeMap::new(),
            deleted: Vec::new(),
            moments: BTreeMap::new(),
            rng,
        };
        // A chain, with some more connections; sometimes all of them.
        let more = network.rng.u8(0..=100);
        for a in 0..nodes {
            for b in a + 1..nodes {
                if b == a + 1 || network.rng.u8(0..100) < more {
                    network.connect(a, b);
                }
            }
        }
        network
    }

    fn connect(&mut self, a: usize, b: usize) {
        self.count += 1;
        for link in [(a, b), (b, a)] {
            let peer = Peer::new(pace());
            let connection = self.count;
            self.links.insert(link, Link { peer, connection });
        }
    }

    /// What a node that starts again does: only what was stored is left.
    fn restart(&mut self, node: usize) {
        let links = self.links.keys().filter(|(a, _)| *a == node);
        for (a, b) in links.copied().collect::<Vec<_>>() {
            self.connect(a, b);
        }
    }

    /// Sends all that the machines want to send now.
    fn transmit(&mut self) {
        for ((from, to), link) in &mut self.links {
            let disk = &self.disks[*from];
            link.peer.timeout(self.now, disk).unwrap();
            while let Some(frame) = link.peer.poll_transmit(self.now, disk).unwrap() {
                let bytes = frame.encode();
                self.frames += 1;
                self.bytes += bytes.len() as u64;
                let copies = match self.rng.u8(0..100) {
                    n if n < self.loss => 0,
                    n if n < self.loss + self.repeat => 2,
                    _ => 1,
                };
                for _ in 0..copies {
                    self.count += 1;
                    let delay = self.rng.u64(0..=self.delay.as_nanos() as u64);
                    let at = self.now.0 + delay as i64;
                    let flight = (at, self.count, *from, *to, link.connection, bytes.clone());
                    self.flying.push(Reverse(flight));
                }
            }
        }
    }

    /// Delivers what arrives next, or lets a timeout pass. Returns whether there was any.
    fn step(&mut self) -> bool {
        self.transmit();
        let arrival = self.flying.peek().map(|Reverse(flight)| flight.0);
        let timeouts = self.links.values().filter_map(|l| l.peer.poll_timeout());
        let timeout = timeouts.min().map(|at| at.0);
        let Some(next) = arrival.into_iter().chain(timeout).min() else {
            return false;
        };
        self.now = Timestamp(self.now.0.max(next));
        if arrival.is_none_or(|at| at > self.now.0) {
            return true;
        }
        let Reverse((_, _, from, to, connection, bytes)) = self.flying.pop().unwrap();
        let link = self.links.get_mut(&(to, from)).unwrap();
        if self.apart.contains(&(from.min(to), from.max(to))) || link.connection != connection {
            return true;
        }
        let before = self.disks[to].vectors().unwrap();
        let frame = Frame::decode(&bytes).unwrap();
        self.disks[to].now = self.now;
        self.disks[to].crash = crash(&mut self.rng, self.crashes);
        let heard = link.peer.receive(frame, &mut self.disks[to]);
        // It may not have come to a commit.
        self.disks[to].crash = None;
        if let Err(e) = heard {
            assert_eq!(e.kind(), ErrorKind::Io, "{e}");
            self.restart(to);
            return true;
        }
        for (scope, vector) in self.disks[to].vectors().unwrap() {
            if before.get(&scope) != Some(&vector) {
                self.changed(to, scope);
            }
        }
        true
    }

    fn changed(&mut self, node: usize, scope: Scope) {
        let links = self.links.iter_mut().filter(|((from, _), _)| *from == node);
        links.for_each(|(_, link)| link.peer.changed(scope));
    }

    /// Somebody writes to a branch, makes one or deletes one.
    fn write(&mut self) {
        let node = self.rng.usize(0..self.disks.len());
        let crash = crash(&mut self.rng, self.crashes);
        if let Some(Crash::Within) = crash {
            return self.restart(node);
        }
        let (disk, now) = (&mut self.disks[node], self.now);
        let there = disk.there();
        let scope = match (self.rng.choice(&there), self.rng.u8(0..30)) {
            (None, _) | (_, 0..2) => {
                let name = ["a", "b"][self.rng.usize(0..2)];
                disk.make(name, now)
            }
            (Some(&scope), 2) => {
                self.deleted.push((scope, disk.delete(scope, now)));
                scope
            }
            (Some(&scope), _) => {
                let paths = ["/a", "/b", "/a/x", "/a/y", "/a/x/1", "/a/x/2", "/b/x"];
                let path = self.rng.choice(paths).unwrap().parse().unwrap();
                let kind = self.rng.u8(0..4);
                let (dot, value) = disk.write(scope, &path, kind, now);
                let known = disk.branches[&scope].vector.clone();
                let written = Written { path, value, known };
                self.written.insert((scope, dot), written);
                scope
            }
        };
        match crash {
            None => self.changed(node, scope),
            Some(_) => self.restart(node),
        }
    }

    /// Somebody takes a snapshot of a branch, maybe under the name of an earlier one, or forgets one.
    fn snapshot(&mut self) {
        let node = self.rng.usize(0..self.disks.len());
        let disk = &mut self.disks[node];
        let Some(scope) = self.rng.choice(disk.there()) else {
            return;
        };
        let name = format!("snapshot/{}", self.rng.u8(0..3));
        let branch = &disk.branches[&scope];
        let state = match self.rng.u8(0..4) {
            0 if branch.about.contains_key(&name) => AboutSnapshot::Deleted,
            _ => {
                let at = branch.vector.clone();
                let counting = branch.values_at(&at);
                self.moments.insert((scope, at.clone()), counting);
                AboutSnapshot::Taken {
                    at: Moment(vec![vec![(scope, at)]]),
                    created: self.now,
                }
            }
        };
        disk.tell(scope, &name, state, self.now);
        self.changed(node, scope);
    }

    /// A node forgets what it does not need.
    fn compact(&mut self) {
        let node = self.rng.usize(0..self.disks.len());
        let disk = &mut self.disks[node];
        if let Some(branch) = self.rng.choice(disk.branches.values_mut()) {
            branch.compact(self.rng.usize(0..=branch.cuts.len()));
        }
    }

    fn disturb(&mut self) {
        let nodes = self.disks.len();
        match self.rng.u8(0..3) {
            0 => {
                let side: Vec<_> = (0..nodes).map(|_| self.rng.bool()).collect();
                let pairs = self.links.keys().filter(|(a, b)| a < b);
                let apart = pairs.filter(|(a, b)| side[*a] != side[*b]);
                self.apart = apart.copied().collect();
            }
            1 => self.apart.clear(),
            _ => {
                let node = self.rng.usize(0..nodes);
                self.restart(node);
            }
        }
    }

    /// Lets the network heal, and everything arrive.
    fn settle(&mut self) {
        self.apart.clear();
        self.crashes = false;
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 200_000, "it does not come to rest");
        }
    }

    fn check(&self) {
        let first = &self.disks[0];
        for disk in &self.disks {
            assert_eq!(disk.vectors().unwrap(), first.vectors().unwrap());
            for (scope, branch) in &disk.branches {
                let anew =
                    |path: &TreePath| (path.clone(), project(branch, path).unwrap().unwrap());
                let anew: BTreeMap<_, _> = branch.registers.keys().map(anew).collect();
                assert_eq!(branch.shown, anew, "kept up to date, and computed anew");
                assert_eq!(branch.shown, first.branches[scope].shown);
                is_a_tree(&branch.shown);
                assert_eq!(branch.is_there(), first.branches[scope].is_there());
                assert_eq!(branch.taken, first.branches[scope].taken);
                for moment in &branch.taken {
                    assert!(branch.can_show(moment), "a moment cannot be shown");
                    let values = &self.moments[&(*scope, moment.clone())];
                    assert_eq!(branch.values_at(moment), *values);
                }
            }
        }
        for link in self.links.values() {
            assert!(link.peer.is_in_step(first).unwrap());
        }
        for ((scope, dot), Written { path, value, .. }) in &self.written {
            let branch = &first.branches[scope];
            let mut deleted = self.deleted.iter().filter(|(of, _)| of == scope);
            match branch.is_there() {
                true => self.is_accounted_for(*scope, path, *dot, value),
                false => assert!(
                    deleted.any(|(_, known)| has(known, *dot)),
                    "a branch went with {value:?}, which nobody knew who deleted it"
                ),
            }
        }
    }

    /// Whoever wrote finds it, or somebody who knew it wrote over it, or it is a conflict's loser.
    fn is_accounted_for(&self, scope: Scope, path: &TreePath, dot: Dot, value: &Value) {
        let branch = &self.disks[0].branches[&scope];
        let there = &branch.registers[path];
        let knew = there.iter().any(|(other, _)| {
            let written = &self.written[&(scope, *other)];
            assert_eq!(written.path, *path, "written elsewhere");
            *other != dot && has(&written.known, dot)
        });
        let is_there = there.iter().any(|(other, _)| *other == dot);
        assert!(is_there || knew, "{value:?} vanished: {there:?}");
        assert!(
            !(is_there && knew),
            "{value:?} is there again, which somebody wrote over: {there:?}"
        );
        if knew {
            return;
        }
        let shown = &branch.shown[path];
        let entry = shown.row.as_ref().and_then(|row| row.entry.as_ref());
        let agrees = match (value.entry(), entry) {
            (Some(one), Some(two)) => {
                let rights = |entry: &Entry| (entry.attrs.mode, entry.attrs.uid, entry.attrs.gid);
                let is_same = one.node == two.node && rights(one) == rights(two);
                is_same || one.is_dir() && two.is_dir()
            }
            (None, None) => true,
            // Removed, and there again for what is in it.
            (None, Some(two)) => two.is_dir() && has_something_below(branch, path),
            (Some(_), None) => false,
        };
        let is_listed = shown.losers.contains(value);
        assert!(agrees || is_listed, "{value:?} vanished: {shown:?}");
    }
}

/// Tells whether somebody with a vector knows a cut.
fn has(known: &VersionVector, (replica, number): Dot) -> bool {
    known.get(replica) >= number
}

fn has_something_below(branch: &Branch, path: &TreePath) -> bool {
    branch.shown.iter().any(|(below, shown)| {
        let entry = shown.row.as_ref().and_then(|row| row.entry.as_ref());
        below.parent().as_ref() == Some(path) && entry.is_some()
    })
}

/// Tells whether a node crashes that commits something.
fn crash(rng: &mut Rng, crashes: bool) -> Option<Crash> {
    match rng.u8(0..30) {
        0 if crashes => Some(Crash::Within),
        1 if crashes => Some(Crash::After),
        _ => None,
    }
}

/// Above everything that was written into a directory there is a directory.
fn is_a_tree(shown: &BTreeMap<TreePath, Projected>) {
    let entry = |path: &TreePath| shown.get(path)?.row.as_ref()?.entry.as_ref();
    for path in shown.keys().filter(|path| entry(path).is_some()) {
        if let Some(above) = path.parent().filter(|above| shown.contains_key(above)) {
            let is_dir = entry(&above).is_some_and(Entry::is_dir);
            assert!(is_dir, "{above} is no directory");
        }
    }
}

fn run(seed: u64) -> Network {
    let mut network = Network::new(seed);
    let compacts = network.rng.bool();
    for _ in 0..network.rng.usize(0..400) {
        match network.rng.u8(0..100) {
            0..20 => network.write(),
            20..23 => network.disturb(),
            23..26 if compacts => network.compact(),
            26..28 => network.snapshot(),
            _ => {
                network.step();
            }
        }
    }
    network.settle();
    network.check();
    network
}

#[test]
fn all_nodes_agree_once_the_network_heals() {
    if let Ok(seed) = std::env::var("ALKFS_TEST_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let scale = std::env::var("ALKFS_TEST_SCALE").ok();
    let scale = scale.map_or(1, |n| n.parse::<u64>().unwrap());
    for seed in 0..2000 * scale {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "it failed with ALKFS_TEST_SEED={seed}");
    }
}

/// Nodes that have nothing new say so in one short frame each.
#[test]
fn who_is_in_step_says_little() {
    for seed in 0..50 {
        let mut network = run(seed);
        (network.loss, network.repeat) = (0, 0);
        (network.frames, network.bytes) = (0, 0);
        let pairs = network.links.keys().filter(|(a, b)| a < b);
        let pairs: Vec<_> = pairs.copied().collect();
        for (a, b) in &pairs {
            network.connect(*a, *b);
        }
        network.settle();
        network.check();
        assert_eq!(network.frames, 2 * pairs.len() as u64);
        assert!(network.bytes <= 20 * network.frames);
    }
}
