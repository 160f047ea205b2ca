//! Commits that fail: a bucket goes on from what its store has, whatever became of them.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use std::sync::Arc;

use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BucketId, Store};
use alknet_fs_core::sync::{Frame, Pace, Peer, Replica, ReplicaId, VersionVector, Want};
use alknet_fs_core::{ErrorKind, Timestamp};
use alknet_fs_sync::{Bucket, History};
use common::faulty::{Fault, FaultyStore};
use fastrand::Rng;

struct Node {
    store: Arc<FaultyStore>,
    number: BucketId,
    bucket: Bucket,
    history: History,
}

impl Node {
    fn new(n: u8, history: History) -> Self {
        let store = Arc::new(FaultyStore::new(Box::new(MemoryStore::new())));
        let number = common::make_empty(&*store);
        let replica = ReplicaId([n; 16]);
        let mut bucket = Bucket::open(Arc::clone(&store) as Arc<dyn Store>, number, replica);
        bucket.as_mut().unwrap().set_history(history);
        Self {
            store,
            number,
            bucket: bucket.unwrap(),
            history,
        }
    }

    /// Opens the bucket as if by another process.
    fn opened(&self) -> Bucket {
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let mut bucket = Bucket::open(store, self.number, ReplicaId([99; 16])).unwrap();
        bucket.set_history(self.history);
        bucket
    }

    /// Does something with the bucket whose commit fails, if it comes to one, and then again.
    fn twice<R>(
        &mut self,
        fault: Fault,
        mut doing: impl FnMut(&mut Bucket) -> alknet_fs_core::Result<R>,
    ) -> R {
        self.store.arm(fault);
        let done = doing(&mut self.bucket);
        let failed = self.store.disarm();
        assert_eq!(done.is_err(), failed, "{:?}", done.err());
        match done {
            Ok(done) => done,
            Err(_) => {
                self.tells_what_is_stored();
                doing(&mut self.bucket).unwrap()
            }
        }
    }

    /// What the bucket says of its documents and cuts is what the store has.
    fn tells_what_is_stored(&self) {
        let stored = self.opened();
        let (here, there) = (&self.bucket, &stored);
        let vectors = there.vectors().unwrap();
        assert_eq!(here.vectors().unwrap(), vectors);
        for scope in vectors.into_keys() {
            let nothing = VersionVector::new();
            let floor = there.floor(scope).unwrap();
            assert_eq!(here.floor(scope).unwrap(), floor);
            let cuts = |bucket: &Bucket| bucket.cuts_after(scope, &floor, usize::MAX).unwrap();
            assert_eq!(cuts(here), cuts(there));
            let what = Want::From(there.first_page(scope).unwrap());
            let page = |bucket: &Bucket| bucket.page(scope, &what, &nothing, usize::MAX).unwrap();
            assert_eq!(page(here), page(there));
        }
    }

    fn gather(&mut self, fault: Fault, now: Timestamp) {
        self.twice(fault, |bucket| bucket.gather(now));
        let stored = self.opened();
        assert_eq!(self.bucket.gathered(), stored.gathered());
        let last = self.store.read().unwrap().last_cursor().unwrap();
        assert_eq!(self.bucket.gathered(), Some(last), "all is gathered");
        assert!(self.bucket.scopes().eq(stored.scopes()));
        assert_eq!(self.bucket.wanted(), stored.wanted());
        assert!(!self.bucket.gather(now).unwrap(), "nothing is left");
    }
}

/// Lets two talk until all is said; every commit fails once.
fn converse(nodes: &mut [Node; 2], fault: Fault, now: &mut i64) {
    let pace = Pace {
        window: 3000,
        frame: 500,
        ..Pace::default()
    };
    for node in nodes.iter_mut() {
        node.gather(fault, Timestamp(*now));
    }
    let mut peers = [Peer::new(pace), Peer::new(pace)];
    let mut rounds = 0;
    // A page that is heard again is not the next any more: what follows is asked for after a while.
    while rounds < 20 || !are_done(nodes, &peers) {
        rounds += 1;
        assert!(rounds < 2000, "it does not come to rest");
        let mut said = true;
        while said {
            said = false;
            for n in 0..2 {
                let at = Timestamp(*now);
                peers[n].timeout(at, &nodes[n].bucket).unwrap();
                while let Some(frame) = peers[n].poll_transmit(at, &nodes[n].bucket).unwrap() {
                    said = true;
                    let frame = Frame::decode(&frame.encode()).unwrap();
                    let (peer, to) = (&mut peers[1 - n], &mut nodes[1 - n]);
                    to.bucket.set_now(at);
                    to.twice(fault, |bucket| peer.receive(frame.clone(), bucket));
                    for scope in to.bucket.take_news() {
                        peer.changed(scope);
                    }
                }
            }
        }
        *now += 60_000_000_000;
    }
}

fn are_done(nodes: &[Node; 2], peers: &[Peer; 2]) -> bool {
    let mut each = peers.iter().zip(nodes);
    each.all(|(peer, node)| {
        peer.is_in_step(&node.bucket).unwrap() && node.bucket.wanted().is_empty()
    })
}

fn run(seed: u64, fault: Fault) {
    let mut rng = Rng::with_seed(seed);
    let mut nodes = [1, 2].map(|n| {
        let history = match rng.bool() {
            true => History::default(),
            // Documents are saved anew and thinned, and cuts dropped, over and over.
            false => History {
                beside: rng.u64(0..1000),
                changes: rng.u32(0..6),
                values: rng.usize(0..4),
                cuts: rng.u64(0..2000),
                cuts_ratio: 0,
            },
        };
        Node::new(n, history)
    });
    let mut now = 10;
    for _ in 0..rng.usize(1..4) {
        for _ in 0..rng.usize(1..25) {
            now += 1;
            let node = &mut nodes[rng.usize(0..2)];
            common::change(&*node.store, node.number, &mut rng, Timestamp(now));
            if rng.u8(0..4) == 0 {
                node.gather(fault, Timestamp(now));
            }
        }
        converse(&mut nodes, fault, &mut now);
    }
    let shown = |node: &Node| common::shown_bucket(&*node.store, node.number);
    assert_eq!(shown(&nodes[0]), shown(&nodes[1]));
    let listed = |node: &Node| common::conflicts_of(&*node.store, node.number);
    assert_eq!(listed(&nodes[0]), listed(&nodes[1]));
}

#[test]
fn what_was_not_committed_is_done_again() {
    common::for_each_seed(40, |seed| run(seed, Fault::Commit(ErrorKind::Io)));
}
