//! Replicas that edit two branches of a bucket, one of them forked from the other, and hear of each
//! other's cuts late and in any order that their causes allow.
//!
//! `ALKFS_TEST_SEED` runs one seed; `ALKFS_TEST_SCALE` multiplies their number.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor, PutMode, SetAttrs};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{
    BranchId, BucketId, ContentForm, ContentRecord, Durability, Store, WriteTxn,
};
use alknet_fs_core::sync::{Clock, Cut, ReplicaId, Scope, VersionVector};
use alknet_fs_core::tree::{self, Follow, Walk};
use alknet_fs_core::{Change, Cursor, EntryId, Hash, Timestamp, TreePath};
use alknet_fs_sync::Branch;
use fastrand::Rng;

const BRANCHES: usize = 2;

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

fn context(now: Timestamp) -> Context {
    Context {
        now,
        author: "test".to_owned(),
        uid: 0,
        gid: 0,
    }
}

fn content(n: u8) -> (Hash, u64) {
    (Hash::of(&[n]), 1)
}

fn documents(bucket: BucketId, replica: ReplicaId) -> [Branch; BRANCHES] {
    [1, 2].map(|n| Branch::new(bucket.0, Scope([n; 16]), replica))
}

impl Node {
    fn new(n: u8) -> Self {
        let store = MemoryStore::new();
        let mut txn = store.write(Durability::Full).unwrap();
        let context = context(Timestamp(1));
        let (bucket, main) = branch::create_bucket(&mut *txn, "t", &context).unwrap();
        for n in 0..4 {
            let (hash, size) = content(n);
            txn.add_content(&ContentRecord {
                hash,
                size,
                form: ContentForm::Inline,
                base: None,
                data: vec![n],
                created: Timestamp(1),
            })
            .unwrap();
        }
        let source = ForkSource {
            branch: main.id,
            snapshot: None,
        };
        let fork = branch::fork(&mut *txn, "fork", &source, &context).unwrap();
        txn.commit().unwrap();
        let replica = ReplicaId([n; 16]);
        Self {
            documents: documents(bucket.id, replica),
            gathered: store.read().unwrap().last_cursor().unwrap(),
            store,
            bucket: bucket.id,
            branches: [main.id, fork.id],
            replica,
            clock: Clock::new(replica, 0),
        }
    }

    fn edit(&mut self, rng: &mut Rng, now: Timestamp) {
        let branch = self.branches[rng.usize(0..BRANCHES)];
        let mut txn = self.store.write(Durability::Full).unwrap();
        if rng.u8(0..30) == 0 {
            // Freezes what is there; others have other epochs then.
            let name = format!("s{}", now.0);
            branch::take_snapshot(&mut *txn, branch, &name, &context(now)).unwrap();
        }
        let chain = Chain::load(&*txn, branch, None).unwrap();
        let mut editor = Editor::new(&mut *txn, &chain, context(now));
        for _ in 0..rng.usize(1..4) {
            let mut path = || -> TreePath {
                let paths = ["/a", "/b", "/a/x", "/a/y", "/a/x/1", "/a/x/2", "/b/x"];
                rng.choice(paths).unwrap().parse().unwrap()
            };
            let (path, other) = (path(), path());
            let set = SetAttrs::default();
            // What the tree does not allow leaves it as it is.
            let _ = match rng.u8(0..9) {
                0 => editor.mkdir(&path, &set),
                1 => editor.mkdir_all(&path, &set).map(drop),
                2 => editor.unlink(&path),
                3 => editor.remove_all(&path).map(drop),
                4 => editor.rename(&path, &other, true),
                5 => {
                    let mode = Some(rng.u32(0o600..0o700));
                    let set = SetAttrs { mode, ..set };
                    editor.set_attrs(&path, &set, Follow::No)
                }
                6 => editor.symlink(&path, "target", &set),
                _ => {
                    let (hash, size) = content(rng.u8(0..4));
                    let mode = PutMode::CreateOrReplace;
                    editor.put_file(&path, hash, size, &set, mode).map(drop)
                }
            };
        }
        editor.finish(None).unwrap();
        txn.commit().unwrap();
    }

    /// Brings what was committed here into the documents.
    fn gather(&mut self, txn: &mut dyn WriteTxn, now: Timestamp) {
        let events = txn.events(Some(self.bucket), self.gathered, 1000).unwrap();
        self.gathered = txn.last_cursor().unwrap();
        for (branch, documents) in self.branches.iter().zip(&mut self.documents) {
            let chain = Chain::load(txn, *branch, None).unwrap();
            let here = events.iter().filter(|e| e.branch == chain.branch_name());
            let changes: Vec<Change> = here.map(|e| e.change.clone()).collect();
            documents
                .gather(txn, &chain, &changes, &mut self.clock, now)
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
            let changes = documents
                .apply(&mut *txn, &chain, &cuts, &mut self.clock, now)
                .unwrap();
            // Watchers here hear of it; it is not gathered as if it had been written here.
            let commit = alknet_fs_core::Commit {
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

    fn shown(&self, n: usize) -> Vec<(TreePath, EntryId)> {
        let txn = self.store.read().unwrap();
        let chain = Chain::load(&*txn, self.branches[n], None).unwrap();
        let mut shown = Vec::new();
        tree::walk(&*txn, &chain, &TreePath::root(), &mut |path, entry| {
            shown.push((path.clone(), entry.id()));
            Ok(Walk::Continue)
        })
        .unwrap();
        shown
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
            assert_eq!(node.shown(n), nodes[0].shown(n), "branch {n}");
        }
    }
}

#[test]
fn all_replicas_show_the_same_once_all_is_known() {
    if let Ok(seed) = std::env::var("ALKFS_TEST_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let scale = std::env::var("ALKFS_TEST_SCALE").ok();
    let scale = scale.map_or(1, |n| n.parse::<u64>().unwrap());
    for seed in 0..300 * scale {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "it failed with ALKFS_TEST_SEED={seed}");
    }
}
