//! What becomes of concurrent writes: one wins everywhere, the others are listed until somebody decides.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor, PutMode, SetAttrs};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BranchId, BucketId, Durability, ReadTxn, Store};
use alknet_fs_core::sync::{
    Conflict, Keep, ReplicaId, Resolution, Value, conflicts, names, resolve,
};
use alknet_fs_core::tree::{self, Walk};
use alknet_fs_core::{Entry, ErrorKind, Hash, Node as What, Result, Timestamp, TreePath};
use alknet_fs_sqlite::{Options, SqliteStore};
use alknet_fs_sync::Bucket;
use common::Written;
use fastrand::Rng;

/// A store with a bucket, whose documents one process holds; edits come from any other.
struct Node {
    store: Arc<dyn Store>,
    number: BucketId,
    main: BranchId,
    bucket: Bucket,
}

fn path(text: &str) -> TreePath {
    text.parse().unwrap()
}

fn context(now: i64) -> Context {
    Context {
        now: Timestamp(now),
        author: "test".to_owned(),
        uid: 0,
        gid: 0,
    }
}

impl Node {
    fn new(store: Arc<dyn Store>, n: u8) -> Self {
        let number = common::make_empty(&*store);
        let main = branch::branch(&*store.read().unwrap(), number, "main").unwrap();
        let bucket = Bucket::open(Arc::clone(&store), number, ReplicaId([n; 16])).unwrap();
        Self {
            store,
            number,
            main: main.id,
            bucket,
        }
    }

    fn edit<R>(&self, now: i64, edit: impl FnOnce(&mut Editor<'_>) -> Result<R>) -> Result<R> {
        let mut txn = self.store.write(Durability::Full).unwrap();
        let chain = Chain::load(&*txn, self.main, None).unwrap();
        let mut editor = Editor::new(&mut *txn, &chain, context(now));
        let done = edit(&mut editor)?;
        editor.finish(None).unwrap();
        txn.commit().unwrap();
        Ok(done)
    }

    /// Writes a file whose bytes are the time.
    fn put(&self, at: &str, now: i64) {
        let hash = Hash::of(&now.to_le_bytes());
        let (set, mode) = (SetAttrs::default(), PutMode::CreateOrReplace);
        self.edit(now, |e| e.put_file(&path(at), hash, 8, &set, mode))
            .unwrap();
    }

    fn resolve(&self, at: &TreePath, keep: Keep, now: i64) -> Result<Resolution> {
        let mut txn = self.store.write(Durability::Full).unwrap();
        let chain = Chain::load(&*txn, self.main, None).unwrap();
        let done = resolve(&mut *txn, &chain, &context(now), at, keep, &|_| None)?;
        txn.commit().unwrap();
        Ok(done)
    }

    fn listed(&self) -> Vec<Conflict> {
        let txn = self.store.read().unwrap();
        let chain = Chain::load(&*txn, self.main, None).unwrap();
        conflicts(&*txn, &chain).unwrap()
    }

    fn shown(&self) -> Written {
        let shown = common::shown(&*self.store, self.main).into_iter();
        shown.collect()
    }

    fn shows(&self, at: &str) -> Option<Entry> {
        let txn = self.store.read().unwrap();
        let chain = Chain::load(&*txn, self.main, None).unwrap();
        let mut found = None;
        tree::walk(&*txn, &chain, &TreePath::root(), &mut |p, entry| {
            if p.as_str() == at {
                found = Some(entry.clone());
            }
            Ok(Walk::Continue)
        })
        .unwrap();
        found
    }

    /// Returns the files and links that are shown or listed.
    fn known(&self) -> Written {
        common::known(&*self.store, self.main)
    }

    /// Takes all that another node knows.
    fn hear(&mut self, other: &Self, now: i64) {
        common::hear(&mut self.bucket, &other.bucket, now);
    }

    fn refers_to(&self, hash: &Hash) -> bool {
        let mut found = false;
        let txn = self.store.read().unwrap();
        txn.referenced(Timestamp(0), &mut |other| found |= other == *hash)
            .unwrap();
        found
    }
}

fn node(n: u8) -> Node {
    Node::new(Arc::new(MemoryStore::new()), n)
}

/// Lets two nodes tell each other all that they know.
fn meet(a: &mut Node, b: &mut Node, now: i64) {
    for node in [&mut *a, &mut *b] {
        node.bucket.gather(Timestamp(now)).unwrap();
    }
    a.hear(b, now);
    b.hear(a, now);
}

#[test]
fn what_was_written_while_no_node_ran_counts_as_written_then() {
    let (mut a, mut b) = (node(1), node(2));
    a.edit(9, |e| e.mkdir_all(&path("/dir"), &SetAttrs::default()))
        .unwrap();
    meet(&mut a, &mut b, 10);
    // Nobody gathers here until both meet.
    a.put("/dir/early", 21);
    a.put("/between", 23);
    a.put("/dir/late", 27);
    a.edit(29, |e| e.rename(&path("/between"), &path("/moved"), true))
        .unwrap();
    for (at, now) in [("/dir/early", 22), ("/dir/late", 24), ("/moved", 28)] {
        b.put(at, now);
        b.bucket.gather(Timestamp(now)).unwrap();
    }
    meet(&mut a, &mut b, 1000);
    for node in [&a, &b] {
        for (at, wins) in [("/dir/early", 22), ("/dir/late", 27), ("/moved", 23)] {
            let hash = Hash::of(&i64::to_le_bytes(wins));
            let shown = node.shows(at).unwrap();
            assert_eq!(shown.hash(), Some(hash), "{at}");
        }
        let listed = node.listed().into_iter();
        let times = |c: Conflict| {
            let of = |value: &Value| value.stamp.time;
            (
                c.path.to_string(),
                c.winner.as_ref().map(of),
                of(&c.losers[0]),
            )
        };
        let listed: Vec<_> = listed.map(times).collect();
        let expected = [
            ("/dir/early", Some(22), 21),
            ("/dir/late", Some(27), 24),
            ("/moved", Some(29), 28),
        ];
        let expected = expected.map(|(at, won, lost)| (at.to_owned(), won, lost));
        assert_eq!(listed, expected);
    }
}

/// Does something; returns the path, if it wrote what was there.
fn change(node: &Node, rng: &mut Rng, now: i64) -> Option<TreePath> {
    let paths = ["/a", "/b", "/d", "/d/x", "/d/y", "/d/e", "/d/e/x"];
    let mut any = || path(rng.choice(paths).unwrap());
    let (at, other) = (any(), any());
    let set = SetAttrs::default();
    let listed = node.listed();
    // What the tree does not allow is not done.
    let _ = match rng.u8(0..16) {
        0 => node.edit(now, |e| e.mkdir_all(&at, &set)).map(drop),
        1 => node.edit(now, |e| e.remove_all(&at)).map(drop),
        2 => node.edit(now, |e| e.rename(&at, &other, true)),
        3 => node.edit(now, |e| e.symlink(&at, &now.to_string(), &set)),
        4 if node.edit(now, |e| e.touch(&at)).is_ok() => return Some(at),
        5..9 if !listed.is_empty() => {
            let conflict = rng.choice(&listed).unwrap();
            let keep = match rng.usize(0..conflict.losers.len() + 2) {
                0 => Keep::Winner,
                1 => Keep::Both,
                n => Keep::Loser(n - 2),
            };
            node.resolve(&conflict.path, keep, now).map(drop)
        }
        _ => {
            let dir = at.parent().unwrap();
            let _ = node.edit(now, |e| e.mkdir_all(&dir, &set));
            let hash = Hash::of(&now.to_le_bytes());
            let mode = PutMode::CreateOrReplace;
            node.edit(now, |e| e.put_file(&at, hash, 8, &set, mode))
                .map(drop)
        }
    };
    None
}

fn run(mut nodes: Vec<Node>, mut rng: Rng) {
    let count = nodes.len();
    let (mut written, mut overwritten) = (Written::new(), Written::new());
    let mut now = 10;
    for _ in 0..rng.usize(1..80) {
        now += 1;
        let n = rng.usize(0..count);
        match rng.u8(0..4) {
            0 => drop(nodes[n].bucket.gather(Timestamp(now)).unwrap()),
            1 => {
                let [a, b] = nodes.get_disjoint_mut([n, (n + 1) % count]).unwrap();
                a.bucket.gather(Timestamp(now)).unwrap();
                b.hear(a, now);
            }
            _ => {
                let node = &nodes[n];
                let before = node.known();
                let same = change(node, &mut rng, now);
                let mut after = node.known();
                // That it settles a conflict shows once it is gathered.
                let shown = node.shown();
                after.retain(|known| Some(&known.0) != same.as_ref() || shown.contains(known));
                written.extend(after.difference(&before).cloned());
                overwritten.extend(before.difference(&after).cloned());
            }
        }
    }
    for node in &mut nodes {
        node.bucket.gather(Timestamp(now)).unwrap();
    }
    all_meet(&mut nodes, now);
    for node in &nodes {
        let known = node.known();
        for lost in written.difference(&overwritten) {
            assert!(known.contains(lost), "{lost:?} vanished");
        }
    }
    // Everything that is listed is decided somewhere, by one or by several.
    while let Some(conflict) = rng.choice(nodes[0].listed()) {
        now += 1;
        let keep = match rng.usize(0..conflict.losers.len() + 2) {
            0 => Keep::Winner,
            1 => Keep::Both,
            n => Keep::Loser(n - 2),
        };
        let node = &nodes[rng.usize(0..count)];
        node.resolve(&conflict.path, keep, now).unwrap();
        assert!(!node.listed().iter().any(|c| c.path == conflict.path));
        let picked = match keep {
            Keep::Winner | Keep::Both => conflict.winner.as_ref(),
            Keep::Loser(n) => conflict.losers.get(n),
        };
        let picked = picked.map(|value| value.entry().map(Entry::id));
        all_meet(&mut nodes, now);
        for node in &nodes {
            assert!(!node.listed().iter().any(|c| c.path == conflict.path));
            let shows = node.shows(conflict.path.as_str());
            match picked {
                Some(entry) => assert_eq!(shows.map(|shown| shown.id()), entry),
                None => assert!(shows.unwrap().is_dir()),
            }
        }
    }
}

fn all_meet(nodes: &mut [Node], now: i64) {
    let count = nodes.len();
    for round in 0..2 * count {
        let [a, b] = nodes
            .get_disjoint_mut([round % count, (round + 1) % count])
            .unwrap();
        meet(a, b, now);
    }
    for node in &nodes[1..] {
        assert_eq!(node.shown(), nodes[0].shown());
        assert_eq!(node.listed(), nodes[0].listed());
    }
}

#[test]
fn what_is_written_is_shown_or_listed_until_somebody_overwrites_it() {
    common::for_each_seed(400, |seed| {
        let mut rng = Rng::with_seed(seed);
        let nodes = (1..=rng.u8(2..5)).map(node);
        run(nodes.collect(), rng);
    });
}

#[test]
fn so_it_is_on_disk() {
    common::for_each_seed(3, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let nodes = (1..4).map(|n: u8| {
            let path = dir.path().join(n.to_string());
            let store = SqliteStore::create(&path, Options::default()).unwrap();
            Node::new(Arc::new(store), n)
        });
        run(nodes.collect(), Rng::with_seed(seed));
    });
}

#[test]
fn an_edit_wins_over_a_removal_and_a_directory_over_a_file() {
    let (mut a, mut b) = (node(1), node(2));
    a.put("/edited", 10);
    meet(&mut a, &mut b, 11);
    let set = SetAttrs::default();
    a.put("/edited", 20);
    b.edit(21, |e| e.unlink(&path("/edited"))).unwrap();
    a.edit(22, |e| e.mkdir(&path("/either"), &set)).unwrap();
    b.put("/either", 23);
    meet(&mut a, &mut b, 30);
    for node in [&a, &b] {
        assert_eq!(node.shows("/edited").unwrap().attrs.mtime, Timestamp(20));
        assert!(node.shows("/either").unwrap().is_dir());
        let [edited, either] = &node.listed()[..] else {
            panic!("{:?}", node.listed());
        };
        assert_eq!(edited.path.as_str(), "/edited");
        assert_eq!(edited.losers.len(), 1);
        assert_eq!(edited.losers[0].entry(), None);
        assert_eq!(edited.losers[0].stamp.replica, ReplicaId([2; 16]));
        assert_eq!(either.path.as_str(), "/either");
        let lost = either.losers[0].entry().unwrap();
        assert!(matches!(lost.node, What::File { size: 8, .. }));
    }
    // The removal is chosen after all; of the other, both are kept.
    b.resolve(&path("/edited"), Keep::Loser(0), 40).unwrap();
    let kept = a.resolve(&path("/either"), Keep::Both, 41).unwrap();
    let name = "/either (conflict 1970-01-01 from 02020202)";
    assert_eq!(kept.beside, [path(name)]);
    meet(&mut a, &mut b, 50);
    for node in [&a, &b] {
        assert_eq!(node.listed(), []);
        assert_eq!(node.shows("/edited"), None);
        assert!(node.shows("/either").unwrap().is_dir());
        assert_eq!(node.shows(name).unwrap().attrs.mtime, Timestamp(23));
    }
    let missing = a.resolve(&path("/either"), Keep::Winner, 60).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

/// A file that was put into a directory stays where it was put, whoever made a file of the directory.
#[test]
fn a_file_in_place_of_a_directory_with_something_new_in_it_is_listed() {
    let (mut a, mut b) = (node(1), node(2));
    let set = SetAttrs::default();
    a.edit(10, |e| e.mkdir(&path("/dir"), &set)).unwrap();
    meet(&mut a, &mut b, 11);
    a.put("/dir/new", 20);
    b.edit(21, |e| e.rmdir(&path("/dir"))).unwrap();
    b.put("/dir", 22);
    meet(&mut a, &mut b, 30);
    for node in [&a, &b] {
        assert!(node.shows("/dir/new").is_some());
        let [conflict] = &node.listed()[..] else {
            panic!("{:?}", node.listed());
        };
        assert_eq!(conflict.winner, None);
        assert_eq!(conflict.losers.len(), 1);
    }
    let file = b.listed()[0].losers[0].entry().unwrap().id();
    b.resolve(&path("/dir"), Keep::Loser(0), 40).unwrap();
    meet(&mut a, &mut b, 50);
    for node in [&a, &b] {
        assert_eq!(node.listed(), []);
        assert_eq!(node.shows("/dir").unwrap().id(), file);
        assert_eq!(node.shows("/dir/new"), None);
    }
}

/// Whoever writes a path has decided, also where they write what is there.
#[test]
fn what_is_written_over_a_conflict_settles_it() {
    let (mut a, mut b) = (node(1), node(2));
    a.put("/file", 20);
    b.put("/file", 21);
    meet(&mut a, &mut b, 30);
    assert_eq!(a.listed().len(), 1);
    let same = a.shows("/file").unwrap();
    a.edit(40, |e| e.replace(&path("/file"), same.clone()))
        .unwrap();
    meet(&mut a, &mut b, 50);
    for node in [&a, &b] {
        assert_eq!(node.listed(), []);
        assert_eq!(node.shows("/file").unwrap().id(), same.id());
    }
}

#[test]
fn who_put_the_same_bytes_want_the_same_unless_the_rights_differ() {
    let (mut a, mut b) = (node(1), node(2));
    let put = |node: &Node, at: &str, mode: u32, now: i64| {
        let set = SetAttrs {
            mode: Some(mode),
            ..SetAttrs::default()
        };
        let hash = Hash::of(b"same");
        node.edit(now, |e| {
            e.put_file(&path(at), hash, 4, &set, PutMode::CreateOrReplace)
        })
        .unwrap();
    };
    for (node, mode, now) in [(&a, 0o644, 10), (&b, 0o600, 20)] {
        put(node, "/same", 0o644, now);
        put(node, "/other", mode, now);
    }
    meet(&mut a, &mut b, 30);
    for node in [&a, &b] {
        let listed: Vec<_> = node.listed().into_iter().map(|c| c.path).collect();
        assert_eq!(listed, [path("/other")]);
        assert_eq!(node.shows("/same").unwrap().attrs.mtime, Timestamp(20));
        assert_eq!(node.shows("/other").unwrap().attrs.mode, 0o600);
    }
}

/// What two decide without knowing of each other is a conflict again.
#[test]
fn two_decisions_are_a_conflict() {
    let (mut a, mut b) = (node(1), node(2));
    a.put("/file", 20);
    b.put("/file", 21);
    meet(&mut a, &mut b, 30);
    let before = a.listed();
    a.resolve(&path("/file"), Keep::Winner, 40).unwrap();
    b.resolve(&path("/file"), Keep::Loser(0), 41).unwrap();
    meet(&mut a, &mut b, 50);
    for node in [&a, &b] {
        let entries = |conflict: &Conflict| {
            let all = conflict.winner.iter().chain(&conflict.losers);
            let ids = all.map(|value| value.entry().unwrap().id());
            ids.map(|id| id.0).collect::<BTreeSet<_>>()
        };
        assert_eq!(node.listed().len(), 1);
        assert_eq!(entries(&node.listed()[0]), entries(&before[0]));
    }
}

#[test]
fn contents_of_losers_are_referred_to_until_it_is_decided() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::create(&dir.path().join("s"), Options::default()).unwrap();
    let (mut a, mut b) = (node(1), Node::new(Arc::new(store), 2));
    let lost = Hash::of(&20_i64.to_le_bytes());
    a.put("/file", 20);
    b.put("/file", 21);
    // The loser's row is not there any more when a snapshot never was.
    meet(&mut a, &mut b, 30);
    for node in [&a, &b] {
        assert_eq!(
            node.listed()[0].losers[0].entry().unwrap().hash(),
            Some(lost)
        );
        assert!(node.refers_to(&lost));
        let mut wanted = Vec::new();
        let txn = node.store.read().unwrap();
        txn.conflict_contents(node.number, 0, &mut |content| {
            wanted.push((content.path.to_string(), content.hash, content.size));
            Ok(())
        })
        .unwrap();
        assert_eq!(wanted, [("/file".to_owned(), lost, 8)]);
    }
    b.resolve(&path("/file"), Keep::Winner, 40).unwrap();
    // The documents say so first.
    assert!(b.refers_to(&lost));
    meet(&mut a, &mut b, 50);
    for node in [&a, &b] {
        assert!(!node.refers_to(&lost));
    }
}

#[test]
fn a_branch_takes_its_conflicts_with_it() {
    let (mut a, mut b) = (node(1), node(2));
    for node in [&a, &b] {
        let mut txn = node.store.write(Durability::Full).unwrap();
        let source = ForkSource {
            branch: node.main,
            snapshot: None,
        };
        branch::fork(&mut *txn, "other", &source, &context(5)).unwrap();
        txn.commit().unwrap();
    }
    a.put("/file", 20);
    b.put("/file", 21);
    meet(&mut a, &mut b, 30);
    assert_eq!(a.listed().len(), 1);
    let count = |txn: &dyn ReadTxn| {
        let mut count = 0;
        txn.conflict_contents(a.number, 0, &mut |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
        count
    };
    assert_eq!(count(&*a.store.read().unwrap()), 1);
    let mut txn = a.store.write(Durability::Full).unwrap();
    txn.remove_branch(a.main).unwrap();
    assert_eq!(count(&*txn), 0);
}

#[test]
fn names_that_several_gave_are_listed() {
    let (mut a, mut b) = (node(1), node(2));
    for (node, n) in [(&a, 20), (&b, 21)] {
        node.put("/file", n);
        let mut txn = node.store.write(Durability::Full).unwrap();
        branch::take_snapshot(&mut *txn, node.main, "v1", &context(n)).unwrap();
        let source = ForkSource {
            branch: node.main,
            snapshot: Some("v1".to_owned()),
        };
        branch::fork(&mut *txn, "work", &source, &context(n)).unwrap();
        txn.commit().unwrap();
    }
    meet(&mut a, &mut b, 30);
    meet(&mut a, &mut b, 31);
    let (mut listed, mut given_by) = (Vec::new(), Vec::new());
    for node in [&a, &b] {
        let txn = node.store.read().unwrap();
        let names = names(&*txn, node.number).unwrap().unwrap();
        assert_eq!(names.replica, node.bucket.replica());
        let by = |c: &alknet_fs_core::sync::NameConflict| c.stamp.unwrap().replica;
        let by: Vec<_> = names.conflicts.iter().map(by).collect();
        given_by.push(by);
        let of = |c: &alknet_fs_core::sync::NameConflict| {
            (c.is_snapshot, c.name.clone(), c.shown_as.clone())
        };
        let mut all: Vec<_> = names.conflicts.iter().map(of).collect();
        all.sort();
        listed.push(all);
    }
    assert_eq!(listed[0], listed[1]);
    assert_eq!(given_by[0], given_by[1]);
    let replicas = [&a, &b].map(|node| node.bucket.replica());
    assert!(given_by[0].iter().all(|by| replicas.contains(by)));
    let [(false, work, shown), (true, v1, _)] = &listed[0][..] else {
        panic!("{listed:?}");
    };
    assert_eq!((work.as_str(), v1.as_str()), ("work", "v1"));
    assert!(shown.starts_with("work~"));
}
