//! Replicas that edit two branches of a bucket, one of them forked from the other, and hear of each
//! other's cuts late and in any order that their causes allow.
//!
//! `ALKFS_TEST_SEED` runs one seed; `ALKFS_TEST_SCALE` multiplies their number.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use alknet_fs_core::branch;
use alknet_fs_core::chain::Chain;
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BranchId, BucketId, Durability, LineBase, Store, WriteTxn};
use alknet_fs_core::sync::{Clock, Cut, ReplicaId, Scope, Times, VersionVector};
use alknet_fs_core::{Change, Commit, Cursor, Timestamp};
use alknet_fs_sync::{Branch, Group, History};
use common::BRANCHES;
use fastrand::Rng;

struct Node {
    store: MemoryStore,
    bucket: BucketId,
    branches: [BranchId; BRANCHES],
    documents: [Branch; BRANCHES],
    replica: ReplicaId,
    clock: Clock,
    /// Up to where commits were gathered.
    gathered: Cursor,
}

fn documents(bucket: BucketId, replica: ReplicaId) -> [Branch; BRANCHES] {
    // Documents are saved anew often; no cut is dropped.
    let history = History {
        beside: 300,
        changes: 4,
        ..History::default()
    };
    [1, 2, 3].map(|n| Branch::new(bucket.0, Scope([n; 16]), replica, history))
}

impl Node {
    fn new(n: u8) -> Self {
        let store = MemoryStore::new();
        let (bucket, branches) = common::make(&store);
        let replica = ReplicaId([n; 16]);
        Self {
            documents: documents(bucket, replica),
            gathered: store.read().unwrap().last_cursor().unwrap(),
            store,
            bucket,
            branches,
            replica,
            clock: Clock::new(replica, 0),
        }
    }

    fn edit(&mut self, rng: &mut Rng, now: Timestamp) {
        let branch = self.branches[rng.usize(0..BRANCHES)];
        common::edit(&self.store, branch, rng, now);
    }

    /// Brings what was committed here into the documents.
    fn gather(&mut self, txn: &mut dyn WriteTxn, now: Timestamp) {
        let events = txn.events(Some(self.bucket), self.gathered, 1000).unwrap();
        self.gathered = txn.last_cursor().unwrap();
        for (branch, documents) in self.branches.iter().zip(&mut self.documents) {
            let chain = Chain::load(txn, *branch, None).unwrap();
            let here = events.iter().filter(|e| e.branch == chain.branch_name());
            let mut times = Times::new(now);
            let noted = here.map(|e| {
                times.note(&e.change, e.at);
                e.change.clone()
            });
            let changes: Vec<Change> = noted.collect();
            documents
                .gather(txn, &chain, &changes, Group::Ends, &mut self.clock, &times)
                .unwrap();
        }
    }

    fn pull(&mut self, from: &Self, rng: &mut Rng, all: bool, now: Timestamp) {
        for n in 0..BRANCHES {
            let theirs = from.store.read().unwrap();
            let mut txn = self.store.write(Durability::Full).unwrap();
            self.gather(&mut *txn, now);
            let seen = self.documents[n].vector(&*txn).unwrap();
            let bytes = if all { usize::MAX } else { rng.usize(0..1000) };
            let cuts = from.documents[n]
                .cuts_after(&*theirs, &seen, bytes)
                .unwrap();
            check_causes(seen, &cuts);
            let chain = Chain::load(&*txn, self.branches[n], None).unwrap();
            let documents = &mut self.documents[n];
            let applied = documents
                .apply(&mut *txn, Some(&chain), &cuts, &mut self.clock, now)
                .unwrap();
            let changes = applied.changes.unwrap_or_else(|| {
                let base = chain.base().map(|(branch, at)| LineBase {
                    branch,
                    at,
                    stays_live: false,
                    may_hide: false,
                });
                branch::rebase(&mut *txn, chain.branch(), base).unwrap();
                let chain = Chain::load(&*txn, chain.branch(), None).unwrap();
                documents.show_all(&mut *txn, &chain, now).unwrap()
            });
            // Watchers here hear of it; it is not gathered as if it had been written here.
            let commit = Commit {
                at: now,
                author: "peer".to_owned(),
                branch: chain.branch_name().to_owned(),
                session: None,
                changes,
            };
            if !commit.changes.is_empty() {
                txn.publish(self.bucket, &commit).unwrap();
            }
            if rng.u8(0..10) == 0 {
                // As if the power had gone.
                drop(txn);
                self.documents = documents_of(self);
                self.gathered = Cursor(self.gathered.0.min(self.committed().0));
            } else {
                self.set_gathered(&mut *txn);
                txn.commit().unwrap();
            }
        }
    }

    fn set_gathered(&self, txn: &mut dyn WriteTxn) {
        let cursor = self.gathered.0.to_le_bytes();
        txn.set_value("test", "gathered", Some(&cursor)).unwrap();
    }

    fn committed(&self) -> Cursor {
        let value = self
            .store
            .read()
            .unwrap()
            .value("test", "gathered")
            .unwrap();
        value.map_or(Cursor::START, |bytes| {
            Cursor(u64::from_le_bytes(bytes.try_into().unwrap()))
        })
    }

    fn vector(&self, n: usize) -> VersionVector {
        self.documents[n]
            .vector(&*self.store.read().unwrap())
            .unwrap()
    }
}

fn documents_of(node: &Node) -> [Branch; BRANCHES] {
    documents(node.bucket, node.replica)
}

fn check_causes(mut seen: VersionVector, cuts: &[Cut]) {
    for cut in cuts {
        assert_eq!(cut.number, seen.get(cut.replica) + 1);
        assert!(seen.covers(&cut.seen));
        seen.see(cut.replica, cut.number);
    }
}

fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let count = rng.usize(2..5);
    let mut nodes: Vec<_> = (1..=count as u8).map(Node::new).collect();
    let mut now = 10;
    for _ in 0..rng.usize(1..60) {
        now += 1;
        let node = rng.usize(0..count);
        if rng.u8(0..3) > 0 {
            nodes[node].edit(&mut rng, Timestamp(now));
            continue;
        }
        let mut from = nodes.remove(rng.usize(0..count));
        let at = rng.usize(0..nodes.len());
        let mut txn = from.store.write(Durability::Full).unwrap();
        from.gather(&mut *txn, Timestamp(now));
        from.set_gathered(&mut *txn);
        txn.commit().unwrap();
        nodes[at].pull(&from, &mut rng, false, Timestamp(now));
        nodes.push(from);
    }
    let mut rounds = 0;
    while !(0..BRANCHES).all(|n| {
        nodes
            .iter()
            .all(|node| node.vector(n) == nodes[0].vector(n))
    }) || rounds < 3
    {
        rounds += 1;
        assert!(rounds < 100, "they do not come together");
        for _ in 0..count {
            let mut from = nodes.remove(0);
            let mut txn = from.store.write(Durability::Full).unwrap();
            from.gather(&mut *txn, Timestamp(now));
            from.set_gathered(&mut *txn);
            txn.commit().unwrap();
            for node in &mut nodes {
                node.pull(&from, &mut rng, true, Timestamp(now));
            }
            nodes.push(from);
        }
    }
    for n in 0..BRANCHES {
        for node in &nodes {
            let shown = |node: &Node| common::shown(&node.store, node.branches[n]);
            assert_eq!(shown(node), shown(&nodes[0]), "branch {n}");
        }
    }
}

#[test]
fn all_replicas_show_the_same_once_all_is_known() {
    common::for_each_seed(300, run);
}
