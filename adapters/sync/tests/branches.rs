//! Branches and snapshots that several nodes make, rename, delete and make again without knowing of
//! each other: which of them have which names, and what they show.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor, PutMode, SetAttrs};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BranchId, BucketId, Durability, Store, WriteTxn};
use alknet_fs_core::sync::{NameConflict, ReplicaId, names};
use alknet_fs_core::{Hash, Result, Timestamp, TreePath};
use alknet_fs_sync::Bucket;
use common::Tree;
use fastrand::Rng;

struct Node {
    store: Arc<dyn Store>,
    number: BucketId,
    bucket: Bucket,
}

/// What whoever took a snapshot saw then, by the time.
type Taken = BTreeMap<Timestamp, Tree>;

impl Node {
    fn new(n: u8) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let number = common::make_empty(&*store);
        let bucket = Bucket::open(Arc::clone(&store), number, ReplicaId([n; 16])).unwrap();
        Self {
            store,
            number,
            bucket,
        }
    }

    fn commit<R>(
        &self,
        now: i64,
        change: impl FnOnce(&mut dyn WriteTxn, &Context) -> Result<R>,
    ) -> R {
        let context = Context {
            now: Timestamp(now),
            author: "test".to_owned(),
            uid: 0,
            gid: 0,
        };
        let mut txn = self.store.write(Durability::Full).unwrap();
        let changed = change(&mut *txn, &context).unwrap();
        txn.commit().unwrap();
        changed
    }

    fn id(&self, name: &str) -> BranchId {
        let txn = self.store.read().unwrap();
        branch::branch(&*txn, self.number, name).unwrap().id
    }

    /// Forks a branch, from a snapshot where `from` names one behind "@".
    fn fork(&self, name: &str, from: &str, now: i64) {
        let (from, snapshot) = match from.split_once('@') {
            Some((from, snapshot)) => (from, Some(snapshot.to_owned())),
            None => (from, None),
        };
        let source = ForkSource {
            branch: self.id(from),
            snapshot,
        };
        self.commit(now, |txn, context| {
            branch::fork(txn, name, &source, context)
        });
    }

    fn rename(&self, name: &str, new: &str, now: i64) {
        let id = self.id(name);
        self.commit(now, |txn, context| {
            branch::rename_branch(txn, id, new, context)
        });
    }

    fn delete(&self, name: &str, now: i64) {
        let id = self.id(name);
        self.commit(now, |txn, context| branch::delete_branch(txn, id, context));
    }

    /// Writes a file of which the time is told by what is in it.
    fn put(&self, name: &str, path: &str, now: i64) {
        let id = self.id(name);
        let (set, mode) = (SetAttrs::default(), PutMode::CreateOrReplace);
        self.commit(now, |txn, context| {
            let chain = Chain::load(txn, id, None)?;
            let mut editor = Editor::new(txn, &chain, context.clone());
            let (path, hash) = (path.parse::<TreePath>()?, Hash::of(&now.to_le_bytes()));
            if let Some(dir) = path.parent() {
                editor.mkdir_all(&dir, &SetAttrs::default())?;
            }
            editor.put_file(&path, hash, 8, &set, mode)?;
            editor.finish(None).map(drop)
        });
    }

    fn remove(&self, name: &str, path: &str, now: i64) {
        let id = self.id(name);
        self.commit(now, |txn, context| {
            let chain = Chain::load(txn, id, None)?;
            let mut editor = Editor::new(txn, &chain, context.clone());
            editor.remove_all(&path.parse()?)?;
            editor.finish(None).map(drop)
        });
    }

    fn snapshot(&self, of: &str, name: &str, now: i64, taken: &mut Taken) {
        let id = self.id(of);
        self.commit(now, |txn, context| {
            branch::take_snapshot(txn, id, name, context)
        });
        self.note_taken(Timestamp(now), taken);
    }

    fn forget_snapshot(&self, of: &str, name: &str, now: i64) {
        let id = self.id(of);
        self.commit(now, |txn, context| {
            branch::delete_snapshot(txn, id, name, context)
        });
    }

    fn restore(&self, of: &str, name: &str, now: i64) {
        let id = self.id(of);
        self.commit(now, |txn, context| branch::restore(txn, id, name, context));
    }

    /// Notes what the snapshots show that were taken at a time.
    fn note_taken(&self, at: Timestamp, taken: &mut Taken) {
        for (created, tree) in self.snapshots() {
            if created == at {
                taken.insert(at, tree);
            }
        }
    }

    fn snapshots(&self) -> Vec<(Timestamp, Tree)> {
        common::snapshots(&*self.store, self.number)
    }

    /// Returns the names of branches and snapshots, the latter behind "@".
    fn names(&self) -> Vec<String> {
        let shown = common::shown_bucket(&*self.store, self.number);
        shown.into_keys().collect()
    }

    /// Returns the one name that begins with something and goes on.
    fn longer(&self, start: &str) -> String {
        let mut names = self.names();
        names.retain(|name| name.starts_with(start) && name != start);
        let [name] = &names[..] else {
            panic!("{:?}", self.names());
        };
        name.clone()
    }

    fn files(&self, name: &str) -> Vec<String> {
        let shown = common::shown_bucket(&*self.store, self.number);
        let files = shown[name].iter().map(|(path, _)| path.to_string());
        files.filter(|path| path != "/").collect()
    }

    /// Returns the names that are not those which were given.
    fn listed(&self) -> Vec<(bool, String, String)> {
        let names = names(&*self.store.read().unwrap(), self.number).unwrap();
        let conflicts = names.map(|names| names.conflicts).unwrap_or_default();
        let of = |c: NameConflict| (c.is_snapshot, c.name, c.shown_as);
        let mut listed: Vec<_> = conflicts.into_iter().map(of).collect();
        listed.sort();
        listed
    }

    fn gather(&mut self, now: i64) {
        self.bucket.gather(Timestamp(now)).unwrap();
    }

    /// Takes all that another node knows.
    fn hear(&mut self, other: &Self, now: i64) {
        common::hear(&mut self.bucket, &other.bucket, now);
    }
}

fn nodes<const N: usize>() -> [Node; N] {
    std::array::from_fn(|n| Node::new(n as u8 + 1))
}

/// Lets all nodes tell each other all that they know: they show and list the same then.
fn meet(nodes: &mut [Node], now: i64) {
    for _ in 0..2 {
        for node in nodes.iter_mut() {
            node.gather(now);
        }
        for a in 0..nodes.len() {
            for b in 0..nodes.len() {
                if let Ok([a, b]) = nodes.get_disjoint_mut([a, b]) {
                    a.hear(b, now);
                }
            }
        }
    }
    let shown = |node: &Node| common::shown_bucket(&*node.store, node.number);
    for node in &nodes[1..] {
        assert_eq!(node.names(), nodes[0].names());
        assert_eq!(shown(node), shown(&nodes[0]));
        assert_eq!(node.listed(), nodes[0].listed());
    }
}

/// Every snapshot shows what whoever took it saw then.
fn all_show_what_was_taken(nodes: &[Node], taken: &Taken) {
    for (n, node) in nodes.iter().enumerate() {
        for (created, tree) in node.snapshots() {
            assert_eq!(tree, taken[&created], "on node {n}, taken at {created:?}");
        }
    }
}

/// Somebody deletes a branch and makes another of its name, while others write to the old one, or
/// delete it too.
#[test]
fn who_makes_a_branch_again_has_its_name() {
    for case in 0..8 {
        let written = if case & 1 == 0 { 15 } else { 30 };
        let (in_two, deleted_by_two) = (case & 2 == 0, case & 4 == 0);
        let mut nodes = nodes::<3>();
        nodes[0].fork("work", "main", 10);
        nodes[0].put("work", "/old", 11);
        meet(&mut nodes, 12);
        nodes[0].delete("work", 20);
        if in_two {
            nodes[0].gather(21);
        }
        nodes[0].fork("work", "main", 22);
        nodes[0].put("work", "/new", 23);
        nodes[1].put("work", "/late", written);
        if deleted_by_two {
            nodes[2].delete("work", 40);
        }
        meet(&mut nodes, 50);
        let older = nodes[0].longer("work~");
        for node in &nodes {
            assert_eq!(node.files("work"), ["/new"], "case {case}");
            assert_eq!(node.files(&older), ["/late", "/old"]);
            let listed = (false, "work".to_owned(), older.clone());
            assert_eq!(node.listed(), [listed]);
        }
        // Both go on being what they are.
        nodes[1].put("work", "/more", 60);
        nodes[2].put(&older, "/later", 61);
        meet(&mut nodes, 62);
        assert_eq!(nodes[0].files("work"), ["/more", "/new"]);
        assert_eq!(nodes[0].files(&older), ["/late", "/later", "/old"]);
        nodes[0].delete(&older, 70);
        meet(&mut nodes, 71);
        assert_eq!(nodes[1].names(), ["main", "work"]);
        assert_eq!(nodes[1].files("work"), ["/more", "/new"]);
    }
}

#[test]
fn the_older_branch_gets_its_name_when_it_is_free() {
    let mut nodes = nodes::<2>();
    nodes[0].fork("work", "main", 10);
    meet(&mut nodes, 11);
    nodes[0].delete("work", 20);
    nodes[0].fork("work", "main", 21);
    nodes[1].put("work", "/late", 22);
    meet(&mut nodes, 30);
    nodes[1].rename("work", "new", 40);
    meet(&mut nodes, 41);
    assert_eq!(nodes[0].names(), ["main", "new", "work"]);
    assert_eq!(nodes[0].files("work"), ["/late"]);
    assert_eq!(nodes[0].listed(), []);
}

#[test]
fn of_a_branch_that_nobody_wrote_to_nothing_stays() {
    let mut nodes = nodes::<3>();
    nodes[0].fork("work", "main", 10);
    nodes[1].put("main", "/below", 11);
    meet(&mut nodes, 12);
    nodes[1].put("work", "/seen", 13);
    meet(&mut nodes, 14);
    for round in 0..3 {
        let now = 20 + 10 * round;
        let path = format!("/{round}");
        nodes[0].delete("work", now);
        nodes[0].fork("work", "main", now + 1);
        nodes[0].put("work", &path, now + 2);
        // What it inherits from goes on.
        nodes[1].put("main", "/below", now + 3);
        meet(&mut nodes, now + 4);
        assert_eq!(nodes[2].names(), ["main", "work"]);
        assert_eq!(nodes[2].files("work"), [path.as_str(), "/below"]);
    }
}

/// Nodes that make the same branch again mean one.
#[test]
fn a_branch_that_two_make_again_is_one() {
    let mut nodes = nodes::<3>();
    nodes[0].fork("work", "main", 10);
    nodes[0].put("work", "/old", 11);
    meet(&mut nodes, 12);
    for (n, now) in [(0, 20), (1, 30)] {
        nodes[n].delete("work", now);
        nodes[n].fork("work", "main", now + 1);
        nodes[n].put("work", &format!("/of-{n}"), now + 2);
    }
    meet(&mut nodes, 40);
    assert_eq!(nodes[2].names(), ["main", "work"]);
    assert_eq!(nodes[2].files("work"), ["/of-0", "/of-1"]);
}

#[test]
fn of_two_branches_that_get_one_name_the_last_has_it() {
    for (first, second) in [(20, 21), (21, 20)] {
        let mut nodes = nodes::<3>();
        for (name, now) in [("one", 10), ("two", 12)] {
            nodes[0].fork(name, "main", now);
            nodes[0].put(name, &format!("/{name}"), now + 1);
        }
        meet(&mut nodes, 14);
        nodes[0].rename("one", "same", first);
        nodes[1].rename("two", "same", second);
        meet(&mut nodes, 30);
        let (has_it, other) = match first > second {
            true => ("/one", "/two"),
            false => ("/two", "/one"),
        };
        let suffixed = nodes[2].longer("same~");
        assert_eq!(nodes[2].files("same"), [has_it]);
        assert_eq!(nodes[2].files(&suffixed), [other]);
        assert_eq!(nodes[2].listed().len(), 1);
        // The other one has it as soon as it is free.
        nodes[2].rename("same", "free", 40);
        meet(&mut nodes, 41);
        assert_eq!(nodes[0].names(), ["free", "main", "same"]);
        assert_eq!(nodes[0].files("same"), [other]);
        assert_eq!(nodes[0].listed(), []);
    }
}

#[test]
fn branches_that_swap_their_names_keep_what_is_written_to_them() {
    let mut nodes = nodes::<2>();
    for (name, now) in [("one", 10), ("two", 12)] {
        nodes[0].fork(name, "main", now);
        nodes[0].put(name, &format!("/{name}"), now + 1);
    }
    meet(&mut nodes, 14);
    nodes[0].rename("one", "between", 20);
    nodes[0].rename("two", "one", 21);
    nodes[0].rename("between", "two", 22);
    nodes[1].put("one", "/of-one", 23);
    nodes[1].put("two", "/of-two", 24);
    meet(&mut nodes, 30);
    assert_eq!(nodes[1].names(), ["main", "one", "two"]);
    assert_eq!(nodes[1].files("two"), ["/of-one", "/one"]);
    assert_eq!(nodes[1].files("one"), ["/of-two", "/two"]);
}

/// A name that has no room for a suffix loses its end.
#[test]
fn the_longest_names_get_a_suffix_too() {
    for name in [
        "x".repeat(255),
        "é".repeat(127),
        format!("a{}", "漢".repeat(84)),
    ] {
        let mut nodes = nodes::<2>();
        nodes[0].fork("one", "main", 10);
        nodes[0].fork("two", "main", 11);
        meet(&mut nodes, 12);
        nodes[0].rename("one", &name, 20);
        nodes[1].rename("two", &name, 21);
        let mut taken = Taken::new();
        for (n, now) in [(0, 22), (1, 23)] {
            nodes[n].put("main", "/file", now);
            nodes[n].snapshot("main", &name, now + 10, &mut taken);
        }
        meet(&mut nodes, 40);
        let names = nodes[0].names();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.contains(&name) && names.contains(&format!("main@{name}")));
        assert_eq!(nodes[0].listed().len(), 2);
        all_show_what_was_taken(&nodes, &taken);
    }
}

#[test]
fn a_snapshot_that_is_taken_again_shows_what_was_there_then() {
    let mut nodes = nodes::<3>();
    let mut taken = Taken::new();
    nodes[0].put("main", "/file", 10);
    nodes[0].put("main", "/gone", 11);
    nodes[0].snapshot("main", "v1", 12, &mut taken);
    meet(&mut nodes, 13);

    // One takes it again, while another writes, and a third uses the old one.
    nodes[0].put("main", "/file", 20);
    nodes[0].put("main", "/new", 21);
    nodes[0].forget_snapshot("main", "v1", 22);
    nodes[0].snapshot("main", "v1", 23, &mut taken);
    nodes[1].put("main", "/file", 24);
    nodes[1].put("main", "/other", 25);
    nodes[2].fork("from", "main@v1", 26);
    meet(&mut nodes, 30);
    all_show_what_was_taken(&nodes, &taken);
    for node in &nodes {
        assert_eq!(node.names(), ["from", "main", "main@v1"]);
        assert_eq!(node.snapshots()[0].0, Timestamp(23));
        assert_eq!(node.files("from"), ["/file", "/gone"]);
    }

    // Two take it again without knowing of each other.
    for (n, now) in [(0, 40), (1, 41)] {
        nodes[n].put("main", "/file", now);
        nodes[n].forget_snapshot("main", "v1", now + 2);
        nodes[n].snapshot("main", "v1", now + 4, &mut taken);
    }
    nodes[2].put("main", "/file", 42);
    meet(&mut nodes, 50);
    all_show_what_was_taken(&nodes, &taken);
    let other = nodes[2].longer("main@v1");
    assert_eq!(
        nodes[2].names(),
        ["from", "main", "main@v1", other.as_str()]
    );
    let shown = common::shown_bucket(&*nodes[2].store, nodes[2].number);
    assert_eq!(shown["main@v1"], taken[&Timestamp(45)], "the later one");
    assert_eq!(shown[&other], taken[&Timestamp(44)]);

    // What has the suffix outlives the one that has the name, and the name can be taken again.
    nodes[2].forget_snapshot("main", "v1", 60);
    meet(&mut nodes, 61);
    assert_eq!(nodes[0].names(), ["from", "main", other.as_str()]);
    nodes[1].snapshot("main", "v1", 62, &mut taken);
    nodes[0].put("main", "/file", 63);
    meet(&mut nodes, 64);
    all_show_what_was_taken(&nodes, &taken);
    assert_eq!(
        nodes[0].names(),
        ["from", "main", "main@v1", other.as_str()]
    );
}

/// The snapshots of a branch that is deleted and made again are those of its own.
#[test]
fn snapshots_stay_with_their_branch() {
    let mut nodes = nodes::<2>();
    let mut taken = Taken::new();
    nodes[0].fork("work", "main", 10);
    nodes[0].put("work", "/old", 11);
    nodes[0].snapshot("work", "v1", 12, &mut taken);
    meet(&mut nodes, 13);
    nodes[0].delete("work", 20);
    nodes[0].fork("work", "main", 21);
    nodes[0].put("work", "/new", 22);
    nodes[0].snapshot("work", "v1", 23, &mut taken);
    nodes[1].put("work", "/late", 24);
    nodes[1].snapshot("work", "v2", 25, &mut taken);
    meet(&mut nodes, 30);
    all_show_what_was_taken(&nodes, &taken);
    let listed = nodes[1].listed();
    let [(false, _, older)] = &listed[..] else {
        panic!("{listed:?}");
    };
    let shown = common::shown_bucket(&*nodes[1].store, nodes[1].number);
    assert_eq!(shown["work@v1"], taken[&Timestamp(23)]);
    assert_eq!(shown[&format!("{older}@v1")], taken[&Timestamp(12)]);
    assert_eq!(shown[&format!("{older}@v2")], taken[&Timestamp(25)]);
    assert!(!shown.contains_key("work@v2"));
}

/// A live fork goes back to a snapshot that shows the same whatever its parent held: what the parent
/// held then, and what snapshots of the parent show, stays what it was.
#[test]
fn what_a_fork_goes_back_to_is_not_what_its_parent_held() {
    for fork in ["one", "two"] {
        let mut nodes = nodes::<3>();
        let mut taken = Taken::new();
        nodes[0].fork("one", "main", 10);
        nodes[0].fork("two", "one", 11);
        nodes[0].put(fork, "/file", 12);
        meet(&mut nodes, 13);
        nodes[1].snapshot("main", "v1", 20, &mut taken);
        nodes[1].snapshot("one", "v1", 21, &mut taken);
        nodes[1].snapshot(fork, "back", 22, &mut taken);
        nodes[2].put("main", "/file", 23);
        nodes[1].gather(30);
        let [_, by, to] = &mut nodes;
        to.hear(by, 31);
        nodes[2].restore(fork, "back", 32);
        nodes[2].put(fork, "/other", 33);
        meet(&mut nodes, 40);
        all_show_what_was_taken(&nodes, &taken);
        // What its parent gets from now on it does not show.
        nodes[0].put("main", "/late", 50);
        meet(&mut nodes, 51);
        assert_eq!(nodes[1].files(fork), ["/file", "/other"]);
        all_show_what_was_taken(&nodes, &taken);
    }
}

/// Whatever becomes of branches and snapshots after it was written, while nobody looked.
#[test]
fn what_was_written_counts_as_of_then() {
    for what in 0..6 {
        let mut nodes = nodes::<2>();
        let mut taken = Taken::new();
        nodes[0].put("main", "/other", 10);
        nodes[0].fork("old", "main", 11);
        nodes[0].snapshot("main", "old", 12, &mut taken);
        meet(&mut nodes, 13);
        nodes[0].put("main", "/file", 20);
        nodes[1].put("main", "/file", 30);
        nodes[1].gather(31);
        match what {
            0 => nodes[0].snapshot("main", "new", 40, &mut taken),
            1 => nodes[0].fork("new", "main", 40),
            2 => nodes[0].fork("new", "main@old", 40),
            3 => nodes[0].forget_snapshot("main", "old", 40),
            4 => nodes[0].delete("old", 40),
            _ => nodes[0].rename("main", "first", 40),
        }
        let shown = common::shown_bucket(&*nodes[1].store, nodes[1].number);
        meet(&mut nodes, 50);
        let main = if what == 5 { "first" } else { "main" };
        let all = common::shown_bucket(&*nodes[0].store, nodes[0].number);
        assert_eq!(all[main], shown["main"], "{what}");
    }
}

/// What shows through a directory that a fork has and its parent has not is there again, everywhere,
/// when the fork goes back to when it showed.
#[test]
fn what_a_parent_hides_shows_in_a_fork_that_goes_back() {
    let mut nodes = nodes::<2>();
    let mut taken = Taken::new();
    nodes[0].put("main", "/d/old", 10);
    nodes[0].fork("two", "main", 11);
    nodes[0].fork("one", "two", 12);
    meet(&mut nodes, 13);
    nodes[1].remove("two", "/d", 20);
    nodes[1].put("one", "/d/own", 21);
    meet(&mut nodes, 22);
    nodes[0].put("main", "/d/new", 30);
    meet(&mut nodes, 31);
    assert_eq!(nodes[1].files("two"), Vec::<String>::new());
    assert_eq!(nodes[1].files("one"), ["/d", "/d/new", "/d/own"]);
    nodes[1].snapshot("one", "back", 40, &mut taken);
    nodes[0].remove("main", "/d", 41);
    nodes[1].restore("one", "back", 42);
    meet(&mut nodes, 43);
    assert_eq!(nodes[0].files("one"), ["/d", "/d/new", "/d/own"]);
    all_show_what_was_taken(&nodes, &taken);
}

#[test]
fn whatever_becomes_of_branches_snapshots_show_what_was_there_then() {
    common::for_each_seed(150, |seed| {
        let mut rng = Rng::with_seed(seed);
        let count = rng.u8(2..5);
        let mut nodes: Vec<_> = (1..=count).map(Node::new).collect();
        let mut taken = Taken::new();
        let mut now = 10;
        for _ in 0..rng.usize(1..100) {
            now += 1;
            let n = rng.usize(0..nodes.len());
            match rng.u8(0..6) {
                0 => nodes[n].gather(now),
                1 => {
                    let other = (n + 1) % nodes.len();
                    let [a, b] = nodes.get_disjoint_mut([n, other]).unwrap();
                    a.gather(now);
                    b.hear(a, now);
                }
                _ => {
                    let node = &nodes[n];
                    common::change(&*node.store, node.number, &mut rng, Timestamp(now));
                    node.note_taken(Timestamp(now), &mut taken);
                }
            }
        }
        meet(&mut nodes, now + 1);
        all_show_what_was_taken(&nodes, &taken);
    });
}
