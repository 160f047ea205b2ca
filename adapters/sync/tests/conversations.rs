//! Buckets in stores of their own that are edited, and talk with each other over connections which
//! break at any point; some of the buckets are closed and opened again.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use alknet_fs_core::branch;
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor, SetAttrs};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BucketId, Durability, Store};
use alknet_fs_core::sync::{Frame, Pace, Peer, Replica, ReplicaId, Scope};
use alknet_fs_core::{Timestamp, TreePath};
use alknet_fs_sqlite::{Options, SqliteStore};
use alknet_fs_sync::{Bucket, History};
use fastrand::Rng;

struct Node {
    store: Arc<dyn Store>,
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
}

fn pace() -> Pace {
    Pace {
        window: 3000,
        frame: 500,
        ..Pace::default()
    }
}

impl Node {
    fn new(store: Arc<dyn Store>, n: u8, rng: &mut Rng) -> Self {
        let number = match rng.bool() {
            true => common::make(&*store).0,
            false => common::make_empty(&*store),
        };
        // Some hold something before they take part.
        for at in 2..rng.i64(2..20) {
            common::change(&*store, number, rng, Timestamp(at));
        }
        let replica = ReplicaId([n; 16]);
        let mut bucket = Bucket::open(Arc::clone(&store), number, replica).unwrap();
        // Some keep little of what was.
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
        bucket.set_history(history);
        // Some bring little into the documents at once.
        let at_once = if rng.bool() { 1000 } else { rng.usize(1..4) };
        bucket.set_at_once(at_once);
        bucket.gather(Timestamp(9)).unwrap();
        Self {
            store,
            number,
            bucket,
            history,
            at_once,
        }
    }
}

impl Network {
    fn new(stores: Vec<Arc<dyn Store>>, mut rng: Rng) -> Self {
        let nodes = (1..).zip(stores);
        let nodes: Vec<_> = nodes
            .map(|(n, store)| Node::new(store, n, &mut rng))
            .collect();
        let mut network = Self {
            rng,
            now: Timestamp(10),
            links: BTreeMap::new(),
            nodes,
        };
        for a in 1..network.nodes.len() {
            network.connect(a - 1, a);
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

    fn gather(&mut self, node: usize) {
        self.nodes[node].bucket.gather(self.now).unwrap();
        self.tell(node);
    }

    fn transmit(&mut self) {
        for ((from, _), (peer, way)) in &mut self.links {
            let bucket = &self.nodes[*from].bucket;
            peer.timeout(self.now, bucket).unwrap();
            while let Some(frame) = peer.poll_transmit(self.now, bucket).unwrap() {
                way.push_back(frame.encode());
            }
        }
    }

    /// Delivers one frame somewhere; returns whether there was one.
    fn deliver(&mut self) -> bool {
        self.transmit();
        let links = self.links.iter().filter(|(_, (_, way))| !way.is_empty());
        let links: Vec<_> = links.map(|(link, _)| *link).collect();
        let Some(&(from, to)) = self.rng.choice(&links) else {
            return false;
        };
        let (_, way) = self.links.get_mut(&(from, to)).unwrap();
        let frame = Frame::decode(&way.pop_front().unwrap()).unwrap();
        let (peer, _) = self.links.get_mut(&(to, from)).unwrap();
        let bucket = &mut self.nodes[to].bucket;
        bucket.set_now(self.now);
        peer.receive(frame, bucket).unwrap();
        self.tell(to);
        true
    }

    fn disturb(&mut self) {
        let count = self.nodes.len();
        let node = self.rng.usize(0..count);
        if self.rng.bool() {
            let node = &mut self.nodes[node];
            // The id that it is opened with is not the one that it has.
            let other = ReplicaId([99; 16]);
            let replica = node.bucket.replica();
            node.bucket = Bucket::open(Arc::clone(&node.store), node.number, other).unwrap();
            assert_eq!(node.bucket.replica(), replica);
            node.bucket.set_history(node.history);
            node.bucket.set_at_once(node.at_once);
        } else {
            self.nodes[node].bucket.forget_documents();
        }
        for other in [node.wrapping_sub(1), node + 1] {
            if other < count {
                self.connect(node, other);
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..self.rng.usize(1..150) {
            self.now.0 += 1;
            let node = self.rng.usize(0..self.nodes.len());
            match self.rng.u8(0..20) {
                0..6 => {
                    let Node { store, number, .. } = &self.nodes[node];
                    common::change(&**store, *number, &mut self.rng, self.now);
                }
                6..10 => self.gather(node),
                10 => self.disturb(),
                _ => drop(self.deliver()),
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        for node in 0..self.nodes.len() {
            self.gather(node);
        }
        for _ in 0..100 {
            while self.deliver() {}
            // Nothing was lost, but what a broken connection took with it is asked for again.
            self.now.0 += 60_000_000_000;
        }
        let first = &self.nodes[0];
        for node in &self.nodes {
            assert_eq!(
                node.bucket.vectors().unwrap(),
                first.bucket.vectors().unwrap()
            );
            let shown = |node: &Node| common::shown_bucket(&*node.store, node.number);
            let (one, other) = (shown(first), shown(node));
            assert!(
                one.keys().eq(other.keys()),
                "{:?} {:?}",
                one.keys(),
                other.keys()
            );
            for (name, tree) in &one {
                assert_eq!(other[name], *tree, "{name}");
            }
            let listed = |node: &Node| common::conflicts_of(&*node.store, node.number);
            assert_eq!(listed(first), listed(node));
        }
        for ((from, _), (peer, _)) in &self.links {
            assert!(peer.is_in_step(&self.nodes[*from].bucket).unwrap());
        }
    }
}

#[test]
fn buckets_in_memory_come_to_show_the_same() {
    common::for_each_seed(200, |seed| {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(2..5);
        let stores = (0..count).map(|_| Arc::new(MemoryStore::new()) as Arc<dyn Store>);
        Network::new(stores.collect(), rng).run();
    });
}

/// What does not fit into a frame goes into several cuts.
#[test]
fn a_large_tree_arrives() {
    let stores = [0, 1].map(|_| Arc::new(MemoryStore::new()) as Arc<dyn Store>);
    let mut network = Network::new(stores.to_vec(), Rng::with_seed(1));
    let node = &network.nodes[0];
    let mut txn = node.store.write(Durability::Full).unwrap();
    let main = branch::branch(&*txn, node.number, "main").unwrap().id;
    let chain = Chain::load(&*txn, main, None).unwrap();
    let context = Context {
        now: network.now,
        author: "test".to_owned(),
        uid: 0,
        gid: 0,
    };
    let mut editor = Editor::new(&mut *txn, &chain, context);
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
    let shown = common::shown_bucket(&*there.store, there.number);
    assert!(shown["main"].len() > 5000);
}

#[test]
fn buckets_on_disk_come_to_show_the_same() {
    common::for_each_seed(3, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let store = |n: usize| {
            let options = Options::default();
            let store = SqliteStore::create(&dir.path().join(n.to_string()), options).unwrap();
            Arc::new(store) as Arc<dyn Store>
        };
        Network::new((0..3).map(store).collect(), Rng::with_seed(seed)).run();
    });
}
