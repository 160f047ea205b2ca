//! A path that is written over and over: neither documents nor cuts grow without end, and whoever was
//! away for long comes to the same.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use std::path::Path;
use std::sync::Arc;

use alknet_fs_core::branch;
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor, SetAttrs};
use alknet_fs_core::store::{BucketId, Durability, Store};
use alknet_fs_core::sync::{Frame, Pace, Peer, Replica, ReplicaId, VersionVector};
use alknet_fs_core::{Timestamp, TreePath};
use alknet_fs_sqlite::{Options, SqliteStore};
use alknet_fs_sync::Bucket;
use fastrand::Rng;

struct Node {
    store: Arc<dyn Store>,
    number: BucketId,
    bucket: Bucket,
    now: i64,
}

impl Node {
    fn new(dir: &Path, n: u8) -> Self {
        let path = dir.join(n.to_string());
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::create(&path, Options::default()).unwrap());
        let number = common::make_empty(&*store);
        let replica = ReplicaId([n; 16]);
        let mut node = Self {
            bucket: Bucket::open(Arc::clone(&store), number, replica).unwrap(),
            store,
            number,
            now: 1000,
        };
        node.gather();
        node
    }

    fn gather(&mut self) {
        self.now += 1;
        self.bucket.gather(Timestamp(self.now)).unwrap();
    }

    fn context(&self) -> Context {
        Context {
            now: Timestamp(self.now),
            author: "test".to_owned(),
            uid: 0,
            gid: 0,
        }
    }

    /// Replaces what is at a path.
    fn write(&mut self, path: &str, text: &str) {
        let path: TreePath = path.parse().unwrap();
        let set = SetAttrs::default();
        let mut txn = self.store.write(Durability::Relaxed).unwrap();
        let main = branch::branch(&*txn, self.number, "main").unwrap().id;
        let chain = Chain::load(&*txn, main, None).unwrap();
        let mut editor = Editor::new(&mut *txn, &chain, self.context());
        editor.mkdir_all(&path.parent().unwrap(), &set).unwrap();
        // Nothing may be there.
        let _ = editor.unlink(&path);
        editor.symlink(&path, text, &set).unwrap();
        editor.finish(None).unwrap();
        txn.commit().unwrap();
        self.gather();
    }

    fn snapshot(&mut self, name: &str) {
        let mut txn = self.store.write(Durability::Relaxed).unwrap();
        let main = branch::branch(&*txn, self.number, "main").unwrap().id;
        branch::take_snapshot(&mut *txn, main, name, &self.context()).unwrap();
        txn.commit().unwrap();
        self.gather();
    }
}

/// Lets two talk until all is said. Returns how many cuts went over the wire, and how many bytes.
fn converse(a: &mut Node, b: &mut Node) -> (usize, usize) {
    a.gather();
    b.gather();
    let mut peers = [Peer::new(Pace::default()), Peer::new(Pace::default())];
    let (mut cuts, mut bytes) = (0, 0);
    let mut now = 2_000_000_000_000;
    for _ in 0..10 {
        let mut said = true;
        while said {
            said = false;
            for n in 0..2 {
                let (from, to) = match n {
                    0 => (&mut *a, &mut *b),
                    _ => (&mut *b, &mut *a),
                };
                peers[n].timeout(Timestamp(now), &from.bucket).unwrap();
                while let Some(frame) = peers[n]
                    .poll_transmit(Timestamp(now), &from.bucket)
                    .unwrap()
                {
                    said = true;
                    let frame = frame.encode();
                    bytes += frame.len();
                    let frame = Frame::decode(&frame).unwrap();
                    if let Frame::Cuts { cuts: some, .. } = &frame {
                        cuts += some.len();
                    }
                    to.bucket.set_now(Timestamp(now));
                    peers[1 - n].receive(frame, &mut to.bucket).unwrap();
                    for scope in to.bucket.take_news() {
                        peers[1 - n].changed(scope);
                    }
                }
            }
        }
        now += 60_000_000_000;
    }
    assert!(peers[0].is_in_step(&a.bucket).unwrap());
    (cuts, bytes)
}

fn size(dir: &Path, n: u8) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let files = files.filter(|file| {
        file.file_name()
            .to_string_lossy()
            .starts_with(&n.to_string())
    });
    files.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn a_path_that_is_written_for_ever_does_not_make_the_store_grow() {
    let dir = tempfile::tempdir().unwrap();
    let mut busy = Node::new(dir.path(), 1);
    let mut away = Node::new(dir.path(), 2);
    busy.write("/kept", "as it was");
    converse(&mut busy, &mut away);

    // Long changes, so that it need not be a million.
    let text = "x".repeat(1500);
    let mut sizes = Vec::new();
    for round in 0..4 {
        for n in 0..700 {
            busy.write("/dir/file", &format!("{text}{round} {n}"));
            if (round, n) == (1, 300) {
                busy.snapshot("then");
            }
        }
        // The log is not what this is about.
        common::prune(&*busy.store, busy.number);
        sizes.push(size(dir.path(), 1));
    }
    let written = 2800 * text.len() as u64;
    assert!(sizes[3] < sizes[1] * 5 / 4, "{sizes:?}");
    assert!(sizes[3] < written * 2, "{sizes:?} of {written}");

    // Whoever was away wrote to the same path, and remembers what was.
    away.write("/dir/file", "elsewhere");
    away.write("/other", "elsewhere");
    away.snapshot("away");
    let (cuts, _) = converse(&mut busy, &mut away);
    assert!(cuts < 1000, "{cuts} cuts");
    let mut joined = Node::new(dir.path(), 3);
    let (_, bytes) = converse(&mut busy, &mut joined);
    assert!(bytes < 3 << 20, "{bytes} bytes for a handful of paths");

    let shown = |node: &Node| common::shown_bucket(&*node.store, node.number);
    let of_busy = shown(&busy);
    for tree in ["main", "main@then", "main@away"] {
        assert!(of_busy.contains_key(tree), "{tree}");
    }
    assert_eq!(shown(&away), of_busy);
    assert_eq!(shown(&joined), of_busy);
    assert_eq!(
        common::conflicts_of(&*joined.store, joined.number),
        common::conflicts_of(&*busy.store, busy.number)
    );
    assert!(!common::conflicts_of(&*busy.store, busy.number)["main"].is_empty());
    let vectors: Vec<VersionVector> = busy.bucket.vectors().unwrap().into_values().collect();
    assert_eq!(vectors.len(), 1);
}

/// What was committed is found without the log, where that was pruned before anybody looked at it.
#[test]
fn a_log_that_was_pruned_too_early_loses_nothing() {
    common::for_each_seed(12, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let [mut pruned, mut of_pruned, mut whole, mut of_whole] =
            [1, 2, 3, 4].map(|n| Node::new(dir.path(), n));
        let mut rng = Rng::with_seed(seed);
        for round in 1..4 {
            let seed = rng.u64(..);
            for node in [&pruned, &whole] {
                let mut rng = Rng::with_seed(seed);
                for n in 0..rng.i64(1..20) {
                    let now = Timestamp(100 * round + n);
                    common::change(&*node.store, node.number, &mut rng, now);
                }
            }
            common::prune(&*pruned.store, pruned.number);
            converse(&mut pruned, &mut of_pruned);
            converse(&mut whole, &mut of_whole);
            let shown = |node: &Node| common::shown_bucket(&*node.store, node.number);
            let expected = shown(&whole);
            for node in [&pruned, &of_pruned, &of_whole] {
                assert_eq!(shown(node), expected);
            }
        }
    });
}
