//! Buckets in stores of their own that are edited, and talk with each other over connections that lose,
//! delay, repeat and reorder what they carry, and break at any point; the network falls apart and grows
//! together again, the stores fail at any call, and some of the buckets are closed and opened again.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Editor, PutMode, SetAttrs};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BranchId, BucketId, Durability, Store};
use alknet_fs_core::sync::{Frame, Pace, Peer, Replica, ReplicaId, Scope};
use alknet_fs_core::{ErrorKind, Hash, Result, Timestamp, TreePath};
use alknet_fs_sqlite::{Options, SqliteStore};
use alknet_fs_sync::{Bucket, History};
use common::faulty::{Fault, FaultyStore};
use common::{Tree, Written, stored};
use fastrand::Rng;

struct Node {
    store: Arc<FaultyStore>,
    number: BucketId,
    bucket: Bucket,
    history: History,
    at_once: usize,
}

/// What one says to another, and what is on its way there.
type Link = (Peer, VecDeque<Vec<u8>>);

struct Network {
    rng: Rng,
    now: Timestamp,
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), Link>,
    /// The nodes of one side, while nothing gets from there to the others.
    apart: BTreeSet<usize>,
    /// Whether frames are lost, repeated and reordered, and stores fail.
    is_bad: bool,
    /// How often a store failed.
    failures: u64,
    /// Whether nobody deletes the first branch, or makes it go back to what it was: then what was written
    /// to it is there, but for what somebody who knew it overwrote.
    keeps: bool,
    written: Written,
    overwritten: Written,
    /// What whoever took a snapshot saw then, by the time.
    taken: BTreeMap<Timestamp, Tree>,
}

fn pace() -> Pace {
    Pace {
        window: 3000,
        frame: 500,
        ..Pace::default()
    }
}

impl Node {
    /// Makes a node that takes part with what it holds, and keeps little of what was, or much.
    fn new(store: Arc<FaultyStore>, number: BucketId, n: u8, rng: &mut Rng) -> Self {
        let history = match rng.bool() {
            true => History::default(),
            false => History {
                beside: rng.u64(0..1000),
                changes: rng.u32(0..6),
                values: rng.usize(0..4),
                cuts: rng.u64(0..2000),
                cuts_ratio: 0,
            },
        };
        // Some bring little into the documents at once.
        let at_once = if rng.bool() { 1000 } else { rng.usize(1..4) };
        let mut node = Self {
            bucket: Self::open(&store, number, ReplicaId([n; 16])),
            store,
            number,
            history,
            at_once,
        };
        node.bucket.set_history(history);
        node.bucket.set_at_once(at_once);
        node.bucket.gather(Timestamp(9)).unwrap();
        node
    }

    fn open(store: &Arc<FaultyStore>, number: BucketId, replica: ReplicaId) -> Bucket {
        Bucket::open(Arc::clone(store) as Arc<dyn Store>, number, replica).unwrap()
    }

    fn first_branch(&self) -> BranchId {
        let mut scopes = self.bucket.scopes();
        let first = scopes.find(|(scope, _)| *scope == Scope::of_first_branch());
        first.unwrap().1.unwrap()
    }

    fn edit(
        &self,
        branch: BranchId,
        now: Timestamp,
        edit: impl FnOnce(&mut Editor<'_>) -> Result<()>,
    ) {
        let mut txn = self.store.write(Durability::Full).unwrap();
        let chain = Chain::load(&*txn, branch, None).unwrap();
        let mut editor = Editor::new(&mut *txn, &chain, common::context(now));
        // What the tree does not allow is not done.
        if edit(&mut editor).is_ok() {
            editor.finish(None).unwrap();
            txn.commit().unwrap();
        }
    }

    fn shown(&self) -> BTreeMap<String, Tree> {
        common::shown_bucket(&*self.store, self.number)
    }

    /// Expects that all branches show what the documents say that the store keeps.
    fn assert_documents(&self) {
        for (scope, branch) in self.bucket.scopes() {
            let documents = stored::documents(&*self.store, self.number, scope);
            documents.assert_flat();
            if let Some(branch) = branch {
                documents.assert_shown(&*self.store, branch);
            }
        }
    }
}

/// Says all that there is to say.
fn speak(
    peer: &mut Peer,
    bucket: &Bucket,
    now: Timestamp,
    way: &mut VecDeque<Vec<u8>>,
) -> Result<()> {
    peer.timeout(now, bucket)?;
    while let Some(frame) = peer.poll_transmit(now, bucket)? {
        way.push_back(frame.encode());
    }
    Ok(())
}

impl Network {
    fn new(stores: Vec<Box<dyn Store>>, mut rng: Rng) -> Self {
        let keeps = rng.bool();
        let nodes = (1..).zip(stores);
        let nodes: Vec<_> = nodes
            .map(|(n, store)| {
                let store = Arc::new(FaultyStore::new(store));
                let number = match rng.bool() {
                    true => common::make(&*store).0,
                    false => common::make_empty(&*store),
                };
                // Some hold something before they take part.
                if !keeps {
                    for at in 2..rng.i64(2..20) {
                        common::change(&*store, number, &mut rng, Timestamp(at));
                    }
                }
                Node::new(store, number, n, &mut rng)
            })
            .collect();
        let mut network = Self {
            is_bad: false,
            rng,
            now: Timestamp(100),
            links: BTreeMap::new(),
            apart: BTreeSet::new(),
            nodes,
            failures: 0,
            keeps,
            written: Written::new(),
            overwritten: Written::new(),
            taken: BTreeMap::new(),
        };
        // A tree of any form, from a chain to a star, and some that know others as well.
        for to in 1..network.nodes.len() {
            let from = network.rng.usize(0..to);
            network.connect(from, to);
            if network.rng.u8(0..4) == 0 {
                let from = network.rng.usize(0..to);
                network.connect(from, to);
            }
        }
        network
    }

    fn connect(&mut self, a: usize, b: usize) {
        for link in [(a, b), (b, a)] {
            self.links
                .insert(link, (Peer::new(pace()), VecDeque::new()));
        }
    }

    fn changed(&mut self, node: usize, scope: Scope) {
        let links = self.links.iter_mut().filter(|((from, _), _)| *from == node);
        links.for_each(|(_, (peer, _))| peer.changed(scope));
    }

    fn tell(&mut self, node: usize) {
        for scope in self.nodes[node].bucket.take_news() {
            self.changed(node, scope);
        }
    }

    /// Lets a node's store fail soon, sometimes: once in about so many times.
    fn arm(&mut self, node: usize, times: u32) {
        if !self.is_bad || self.rng.u32(0..times) > 0 {
            return;
        }
        let kind = ErrorKind::Io;
        let fault = match self.rng.u8(0..6) {
            0 => Fault::Commit(kind),
            1 => Fault::LostCommit(kind),
            _ => {
                let calls = 1 << self.rng.u8(0..12);
                Fault::Call(self.rng.u64(1..=calls), kind)
            }
        };
        self.nodes[node].store.arm(fault);
    }

    /// Returns whether something failed, which only a store may.
    fn failed(&mut self, node: usize, done: &Result<()>) -> bool {
        let fired = self.nodes[node].store.disarm();
        assert_eq!(done.is_err(), fired, "{done:?}");
        self.failures += u64::from(fired);
        fired
    }

    fn gather(&mut self, node: usize) {
        self.arm(node, 4);
        let gathered = self.nodes[node].bucket.gather(self.now).map(drop);
        if self.failed(node, &gathered) && self.rng.bool() {
            self.disturb(node);
        }
        self.tell(node);
    }

    fn transmit(&mut self) {
        for (from, to) in self.links.keys().copied().collect::<Vec<_>>() {
            self.arm(from, 50);
            let (peer, way) = self.links.get_mut(&(from, to)).unwrap();
            let said = speak(peer, &self.nodes[from].bucket, self.now, way);
            if self.failed(from, &said) {
                self.connect(from, to);
            }
        }
    }

    /// Delivers one frame somewhere; returns whether there was one.
    fn deliver(&mut self) -> bool {
        self.transmit();
        let links = self.links.iter().filter(|(_, (_, way))| !way.is_empty());
        let links = links.map(|(link, _)| *link);
        let is_apart = |node: &usize| self.apart.contains(node);
        let links = links.filter(|(from, to)| is_apart(from) == is_apart(to));
        let links: Vec<_> = links.collect();
        let Some(&(from, to)) = self.rng.choice(&links) else {
            return false;
        };
        let (_, way) = self.links.get_mut(&(from, to)).unwrap();
        let mut frame = way.pop_front().unwrap();
        if self.is_bad {
            let at = self.rng.usize(0..=way.len());
            match self.rng.u8(0..16) {
                0 => return true,
                1 => way.push_front(frame.clone()),
                2 => way.push_back(frame.clone()),
                3 => {
                    way.insert(at, frame);
                    frame = way.pop_front().unwrap();
                }
                _ => {}
            }
        }
        let frame = Frame::decode(&frame).unwrap();
        loop {
            self.arm(to, 4);
            let (peer, _) = self.links.get_mut(&(to, from)).unwrap();
            let bucket = &mut self.nodes[to].bucket;
            bucket.set_now(self.now);
            let heard = peer.receive(frame.clone(), bucket);
            if !self.failed(to, &heard) {
                break;
            }
            // It is heard again, or the connection is over.
            if self.rng.bool() {
                self.connect(from, to);
                break;
            }
        }
        self.tell(to);
        true
    }

    fn disturb(&mut self, node: usize) {
        if self.rng.bool() {
            let node = &mut self.nodes[node];
            // The id that it is opened with is not the one that it has.
            let replica = node.bucket.replica();
            node.bucket = Node::open(&node.store, node.number, ReplicaId([99; 16]));
            assert_eq!(node.bucket.replica(), replica);
            node.bucket.set_history(node.history);
            node.bucket.set_at_once(node.at_once);
        } else {
            self.nodes[node].bucket.forget_documents();
        }
        let links = self.links.keys().filter(|(from, _)| *from == node);
        for (_, other) in links.copied().collect::<Vec<_>>() {
            self.connect(node, other);
        }
    }

    fn change(&mut self, node: usize) {
        if self.keeps {
            return self.change_keeping(node);
        }
        let Node { store, number, .. } = &self.nodes[node];
        common::change(&**store, *number, &mut self.rng, self.now);
        for (created, tree) in common::snapshots(&**store, *number) {
            if created == self.now {
                self.taken.insert(created, tree);
            }
        }
    }

    /// Commits something that leaves the first branch what it is, or a write to it.
    fn change_keeping(&mut self, number: usize) {
        let (node, now) = (&self.nodes[number], self.now);
        let main = node.first_branch();
        let branches = node.store.read().unwrap().branches(node.number).unwrap();
        let of = self.rng.choice(&branches).unwrap().id;
        let mut txn = node.store.write(Durability::Full).unwrap();
        let context = common::context(now);
        match self.rng.u8(0..24) {
            0 => {
                let source = ForkSource {
                    branch: main,
                    snapshot: None,
                };
                let name = format!("fork-{}", self.rng.u8(0..3));
                let _ = branch::fork(&mut *txn, &name, &source, &context);
                txn.commit().unwrap();
            }
            1 if of != main => {
                let _ = branch::delete_branch(&mut *txn, of, &context);
                txn.commit().unwrap();
            }
            2 => {
                let name = format!("at-{}", now.0);
                branch::take_snapshot(&mut *txn, main, &name, &context).unwrap();
                txn.commit().unwrap();
            }
            3..5 if of != main => {
                drop(txn);
                common::edit(&*node.store, of, &mut self.rng, now);
            }
            _ => {
                drop(txn);
                self.write(number, main);
            }
        }
    }

    /// Writes to the first branch, and notes what was written, and over what.
    fn write(&mut self, node: usize, main: BranchId) {
        let (node, now) = (&self.nodes[node], self.now);
        let paths = ["/a", "/b", "/d", "/d/x", "/d/y", "/d/e", "/d/e/x"];
        let mut path = || -> TreePath { self.rng.choice(paths).unwrap().parse().unwrap() };
        let (at, other) = (path(), path());
        let before = common::known(&*node.store, main);
        let set = SetAttrs::default();
        let what = self.rng.u8(0..10);
        node.edit(main, now, |editor| match what {
            0 => editor.mkdir_all(&at, &set).map(drop),
            1 => editor.remove_all(&at).map(drop),
            2 => editor.rename(&at, &other, true),
            3 => editor.symlink(&at, &now.0.to_string(), &set),
            _ => {
                // No two files are the same.
                let hash = Hash::of(&now.0.to_le_bytes());
                let mode = PutMode::CreateOrReplace;
                editor.mkdir_all(&at.parent().unwrap(), &set)?;
                editor.put_file(&at, hash, 8, &set, mode).map(drop)
            }
        });
        let after = common::known(&*node.store, main);
        self.written.extend(after.difference(&before).cloned());
        self.overwritten.extend(before.difference(&after).cloned());
    }

    fn run(&mut self) {
        self.is_bad = self.rng.u8(0..3) > 0;
        for _ in 0..self.rng.usize(1..150) {
            self.now.0 += 1;
            let node = self.rng.usize(0..self.nodes.len());
            match self.rng.u8(0..40) {
                0..12 => self.change(node),
                12..20 => self.gather(node),
                20..22 => self.disturb(node),
                22 => {
                    // What was not gathered has to be found without it.
                    let Node { store, number, .. } = &self.nodes[node];
                    common::prune(&**store, *number);
                }
                23 => self.now.0 += 60_000_000_000,
                24 if self.is_bad => {
                    let count = self.nodes.len();
                    self.apart = (0..count).filter(|_| self.rng.bool()).collect();
                }
                _ => drop(self.deliver()),
            }
        }
        self.settle();
        self.join();
    }

    /// Lets somebody join who holds nothing, and shows what the documents say.
    fn join(&mut self) {
        let store = Arc::new(FaultyStore::new(Box::new(MemoryStore::new())));
        let number = common::make_empty(&*store);
        let last = self.nodes.len();
        let node = Node::new(store, number, last as u8 + 1, &mut self.rng);
        self.nodes.push(node);
        let giver = self.rng.usize(0..last);
        self.connect(giver, last);
        self.settle();
    }

    fn settle(&mut self) {
        self.is_bad = false;
        self.apart.clear();
        for node in 0..self.nodes.len() {
            self.gather(node);
        }
        for _ in 0..100 {
            while self.deliver() {}
            // Nothing is lost, but what a broken connection took with it is asked for again.
            self.now.0 += 60_000_000_000;
        }
        let first = &self.nodes[0];
        for node in &self.nodes {
            assert_eq!(
                node.bucket.vectors().unwrap(),
                first.bucket.vectors().unwrap()
            );
            let (one, other) = (first.shown(), node.shown());
            assert!(
                one.keys().eq(other.keys()),
                "{:?} {:?}",
                one.keys(),
                other.keys()
            );
            for (name, tree) in &one {
                assert_eq!(other[name], *tree, "{name}");
            }
            node.assert_documents();
            let listed = |node: &Node| common::conflicts_of(&*node.store, node.number);
            assert_eq!(listed(first), listed(node));
            for (created, tree) in common::snapshots(&*node.store, node.number) {
                if let Some(taken) = self.taken.get(&created) {
                    assert_eq!(tree, *taken, "taken at {created:?}");
                }
            }
            if self.keeps {
                let known = common::known(&*node.store, node.first_branch());
                for lost in self.written.difference(&self.overwritten) {
                    assert!(known.contains(lost), "{lost:?} vanished");
                }
            }
        }
        for ((from, _), (peer, _)) in &self.links {
            assert!(peer.is_in_step(&self.nodes[*from].bucket).unwrap());
        }
    }
}

#[test]
fn buckets_in_memory_come_to_show_the_same() {
    let failures = AtomicU64::new(0);
    common::for_each_seed(300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(2..7);
        let stores = (0..count).map(|_| Box::new(MemoryStore::new()) as Box<dyn Store>);
        let mut network = Network::new(stores.collect(), rng);
        network.run();
        failures.fetch_add(network.failures, Ordering::Relaxed);
    });
    let failures = failures.into_inner();
    let is_one = std::env::var_os("ALKFS_TEST_SEED").is_some();
    assert!(is_one || failures > 200, "{failures} stores failed");
}

/// What does not fit into a frame goes into several cuts.
#[test]
fn a_large_tree_arrives() {
    let stores = [0, 1].map(|_| Box::new(MemoryStore::new()) as Box<dyn Store>);
    let mut network = Network::new(stores.into(), Rng::with_seed(1));
    let node = &network.nodes[0];
    let mut txn = node.store.write(Durability::Full).unwrap();
    let main = branch::branch(&*txn, node.number, "main").unwrap().id;
    let chain = Chain::load(&*txn, main, None).unwrap();
    let mut editor = Editor::new(&mut *txn, &chain, common::context(network.now));
    let set = SetAttrs::default();
    let text = "x".repeat(1000);
    for n in 0..5000 {
        let path: TreePath = format!("/large/{}/{n}", n % 50).parse().unwrap();
        editor.mkdir_all(&path.parent().unwrap(), &set).unwrap();
        editor.symlink(&path, &text, &set).unwrap();
    }
    editor.finish(None).unwrap();
    txn.commit().unwrap();
    network.settle();
    let there = &network.nodes[1];
    assert!(there.shown()["main"].len() > 5000);
}

#[test]
fn buckets_on_disk_come_to_show_the_same() {
    common::for_each_seed(3, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let store = |n: usize| {
            let options = Options::default();
            let store = SqliteStore::create(&dir.path().join(n.to_string()), options).unwrap();
            Box::new(store) as Box<dyn Store>
        };
        Network::new((0..3).map(store).collect(), Rng::with_seed(seed)).run();
    });
}
