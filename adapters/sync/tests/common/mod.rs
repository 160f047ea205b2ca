//! A bucket with three branches, a live and a pinned fork of the first, and random edits of them.
#![allow(dead_code, reason = "each test uses a part of this")]

#[path = "../../../../tests/src/faulty.rs"]
#[allow(unreachable_pub, reason = "it is a library's module elsewhere")]
pub(crate) mod faulty;
pub(crate) mod stored;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor, PutMode, SetAttrs};
use alknet_fs_core::store::{
    BranchId, BranchRecord, BucketId, ContentForm, ContentRecord, Durability, Epoch, Layer,
    ReadTxn, Retention, Store, WriteTxn,
};
use alknet_fs_core::sync::{Conflict, Replica, Scope, Taken, Value, Want, conflicts};
use alknet_fs_core::tree::{self, Follow, Walk};
use alknet_fs_core::{Entry, EntryId, Hash, Result, Timestamp, TreePath};
use alknet_fs_sync::Bucket;
use fastrand::Rng;

pub(crate) const BRANCHES: usize = 3;

pub(crate) fn context(now: Timestamp) -> Context {
    Context {
        now,
        author: "test".to_owned(),
        uid: 0,
        gid: 0,
    }
}

/// Lets a bucket take all that another one knows.
pub(crate) fn hear(bucket: &mut Bucket, other: &Bucket, now: i64) {
    bucket.set_now(Timestamp(now));
    for scope in other.vectors().unwrap().into_keys() {
        loop {
            let seen = bucket.vector(scope).unwrap();
            let cuts = other.cuts_after(scope, &seen, 1000).unwrap();
            if cuts.is_empty() {
                break;
            }
            bucket.apply(scope, &cuts).unwrap();
        }
    }
}

/// Lets a bucket take a scope's whole documents from another one.
pub(crate) fn take_pages(bucket: &mut Bucket, from: &Bucket, scope: Scope, now: i64) {
    bucket.set_now(Timestamp(now));
    let mut position = from.first_page(scope).unwrap();
    loop {
        let seen = bucket.vector(scope).unwrap();
        let want = Want::From(position);
        let page = from.page(scope, &want, &seen, 1000).unwrap().unwrap();
        match bucket.take_page(scope, &page).unwrap() {
            Taken::Part(next) => position = next,
            Taken::All => break,
            taken => panic!("{taken:?}"),
        }
    }
}

/// Makes the bucket, with contents for files.
pub(crate) fn make(store: &dyn Store) -> (BucketId, [BranchId; BRANCHES]) {
    let mut txn = store.write(Durability::Full).unwrap();
    let context = context(Timestamp(1));
    let (bucket, main) = branch::create_bucket(&mut *txn, "t", &context).unwrap();
    for n in 0..4 {
        txn.add_content(&ContentRecord {
            hash: Hash::of(&[n]),
            size: 1,
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
    let live = branch::fork(&mut *txn, "live", &source, &context).unwrap();
    let chain = Chain::load(&*txn, main.id, None).unwrap();
    let mut editor = Editor::new(&mut *txn, &chain, context.clone());
    let deep = "/a/x/y".parse().unwrap();
    editor.mkdir_all(&deep, &SetAttrs::default()).unwrap();
    editor.finish(None).unwrap();
    branch::take_snapshot(&mut *txn, main.id, "begin", &context).unwrap();
    let source = ForkSource {
        branch: main.id,
        snapshot: Some("begin".to_owned()),
    };
    let pinned = branch::fork(&mut *txn, "pinned", &source, &context).unwrap();
    branch::take_snapshot(&mut *txn, pinned.id, "begin", &context).unwrap();
    txn.commit().unwrap();
    (bucket.id, [main.id, live.id, pinned.id])
}

/// Makes the bucket as any program does that knows nothing of another.
pub(crate) fn make_empty(store: &dyn Store) -> BucketId {
    let mut txn = store.write(Durability::Full).unwrap();
    let (bucket, _) = branch::create_bucket(&mut *txn, "t", &context(Timestamp(1))).unwrap();
    txn.commit().unwrap();
    bucket.id
}

/// Commits something random: edits, or a change of the bucket's branches and snapshots.
pub(crate) fn change(store: &dyn Store, bucket: BucketId, rng: &mut Rng, now: Timestamp) {
    let branches = store.read().unwrap().branches(bucket).unwrap();
    let of = rng.choice(&branches).unwrap();
    let names = ["main", "live", "one", "two"];
    let name = *rng.choice(names).as_ref().unwrap();
    let mut txn = store.write(Durability::Full).unwrap();
    let snapshots = txn.snapshots(of.id).unwrap();
    let snapshot = rng.choice(&snapshots).map(|snapshot| snapshot.name.clone());
    let context = context(now);
    let done = match (rng.u8(0..12), snapshot) {
        (0, snapshot) => {
            let source = ForkSource {
                branch: of.id,
                snapshot: snapshot.filter(|_| rng.bool()),
            };
            branch::fork(&mut *txn, name, &source, &context).map(drop)
        }
        (1, _) => branch::rename_branch(&mut *txn, of.id, name, &context),
        (2, _) => branch::delete_branch(&mut *txn, of.id, &context),
        (3..6, _) => branch::take_snapshot(&mut *txn, of.id, name, &context).map(drop),
        (6, Some(name)) => branch::delete_snapshot(&mut *txn, of.id, &name, &context),
        (7, Some(name)) => branch::restore(&mut *txn, of.id, &name, &context),
        (8, _) => collect(&mut *txn, bucket),
        _ => {
            drop(txn);
            return edit(store, of.id, rng, now);
        }
    };
    if done.is_ok() {
        txn.commit().unwrap();
    }
}

/// Removes the rows that nothing shows: what branches showed at an epoch stays while anything pins that.
fn collect(txn: &mut dyn WriteTxn, bucket: BucketId) -> Result<()> {
    let branches = txn.branches(bucket)?;
    let mut pins = BTreeSet::from([None]);
    for of in &branches {
        let snapshots = txn.snapshots(of.id)?;
        pins.extend(snapshots.iter().map(|snapshot| Some(snapshot.epoch)));
        let lines = txn.lines(of.id)?;
        pins.extend(lines.iter().filter_map(|line| Some(line.base?.at)));
    }
    let mut chains = Vec::new();
    for of in &branches {
        let first = txn.lines(of.id)?[0].start;
        for at in pins.iter().filter(|at| at.is_none_or(|at| at >= first)) {
            chains.push(Chain::load(txn, of.id, *at)?);
        }
    }
    let mut rows: BTreeMap<(String, String), Vec<Layer>> = BTreeMap::new();
    txn.scan_tree(bucket, &TreePath::root(), &mut |parent, name, layer, _| {
        let at = rows
            .entry((parent.to_owned(), name.to_owned()))
            .or_default();
        at.push(layer);
        Ok(ControlFlow::Continue(()))
    })?;
    for ((parent, name), layers) in rows {
        let mut shown: BTreeSet<&Layer> = BTreeSet::new();
        for span in chains.iter().flat_map(Chain::spans) {
            let in_span = layers.iter().filter(|layer| {
                layer.branch == span.branch && (span.first..=span.last).contains(&layer.epoch)
            });
            shown.extend(in_span.max());
        }
        for layer in layers.iter().filter(|layer| !shown.contains(layer)) {
            txn.remove_row(bucket, &parent, &name, *layer)?;
        }
    }
    Ok(())
}

/// Commits edits of a branch.
pub(crate) fn commit(
    store: &dyn Store,
    branch: BranchId,
    now: Timestamp,
    edit: impl FnOnce(&mut Editor<'_>) -> Result<()>,
) {
    let mut txn = store.write(Durability::Full).unwrap();
    let chain = Chain::load(&*txn, branch, None).unwrap();
    let mut editor = Editor::new(&mut *txn, &chain, context(now));
    edit(&mut editor).unwrap();
    editor.finish(None).unwrap();
    txn.commit().unwrap();
}

/// Commits a few random edits of a branch, or none where the tree does not allow them.
pub(crate) fn edit(store: &dyn Store, branch: BranchId, rng: &mut Rng, now: Timestamp) {
    let mut txn = store.write(Durability::Full).unwrap();
    if rng.u8(0..30) == 0 {
        // Freezes what is there; others have other epochs then.
        let name = format!("s{}", now.0);
        branch::take_snapshot(&mut *txn, branch, &name, &context(now)).unwrap();
    }
    if rng.u8(0..30) == 0
        && let Some(snapshot) = rng.choice(txn.snapshots(branch).unwrap())
        && branch::parent(&*txn, branch)
            .unwrap()
            .is_none_or(|base| base.at.is_some())
    {
        branch::restore(&mut *txn, branch, &snapshot.name, &context(now)).unwrap();
    }
    let chain = Chain::load(&*txn, branch, None).unwrap();
    let mut editor = Editor::new(&mut *txn, &chain, context(now));
    for _ in 0..rng.usize(1..4) {
        let mut path = || -> TreePath {
            let paths = [
                "/a", "/b", "/a/x", "/a/y", "/a/x/1", "/a/x/2", "/a/x/y", "/a/x/y/1", "/b/x",
            ];
            rng.choice(paths).unwrap().parse().unwrap()
        };
        let (path, other) = (path(), path());
        let set = SetAttrs::default();
        let _ = match rng.u8(0..9) {
            0 => editor.mkdir(&path, &set),
            1 => editor.mkdir_all(&path, &set).map(drop),
            2 => editor.unlink(&path),
            3 => editor.remove_all(&path).map(drop),
            4 => editor.rename(&path, &other, true),
            5 => {
                let mode = Some(rng.u32(0o600..0o700));
                let [uid, gid] = [(); 2].map(|()| rng.bool().then(|| rng.u32(0..9)));
                let mtime = rng.bool().then(|| Timestamp(rng.i64(-9..9)));
                let set = SetAttrs {
                    mode,
                    uid,
                    gid,
                    mtime,
                };
                editor.set_attrs(&path, &set, Follow::No)
            }
            6 => editor.symlink(&path, "target", &set),
            _ => {
                let hash = Hash::of(&[rng.u8(0..4)]);
                let mode = PutMode::CreateOrReplace;
                editor.put_file(&path, hash, 1, &set, mode).map(drop)
            }
        };
    }
    editor.finish(None).unwrap();
    txn.commit().unwrap();
}

/// What is at each path.
pub(crate) type Tree = Vec<(TreePath, EntryId)>;

/// Returns every path that a branch shows, with what is there.
pub(crate) fn shown(store: &dyn Store, branch: BranchId) -> Tree {
    shown_at(&*store.read().unwrap(), branch, None)
}

/// Returns what each branch of a bucket shows, and each snapshot.
pub(crate) fn shown_bucket(store: &dyn Store, bucket: BucketId) -> BTreeMap<String, Tree> {
    let txn = store.read().unwrap();
    let mut shown = BTreeMap::new();
    for branch in txn.branches(bucket).unwrap() {
        for snapshot in txn.snapshots(branch.id).unwrap() {
            let name = format!("{}@{}", branch.name, snapshot.name);
            shown.insert(name, shown_at(&*txn, branch.id, Some(snapshot.epoch)));
        }
        shown.insert(branch.name, shown_at(&*txn, branch.id, None));
    }
    shown
}

/// Returns what each snapshot of a bucket shows, with when it was taken.
pub(crate) fn snapshots(store: &dyn Store, bucket: BucketId) -> Vec<(Timestamp, Tree)> {
    let txn = store.read().unwrap();
    let mut shown = Vec::new();
    for branch in txn.branches(bucket).unwrap() {
        for snapshot in txn.snapshots(branch.id).unwrap() {
            let tree = shown_at(&*txn, branch.id, Some(snapshot.epoch));
            shown.push((snapshot.created, tree));
        }
    }
    shown
}

/// Something at a path.
pub(crate) type Written = HashSet<(TreePath, EntryId)>;

/// Returns the files and links of a branch that are shown or listed.
pub(crate) fn known(store: &dyn Store, branch: BranchId) -> Written {
    let txn = store.read().unwrap();
    let chain = Chain::load(&*txn, branch, None).unwrap();
    let mut known = Written::new();
    tree::walk(&*txn, &chain, &TreePath::root(), &mut |path, entry| {
        if !entry.is_dir() {
            known.insert((path.clone(), timeless(entry)));
        }
        Ok(Walk::Continue)
    })
    .unwrap();
    for conflict in conflicts(&*txn, &chain).unwrap() {
        let losers = conflict.losers.iter().filter_map(Value::entry);
        known.extend(losers.map(|entry| (conflict.path.clone(), timeless(entry))));
    }
    known
}

/// Identifies what an entry is whatever its time: of two that differ in nothing else, none is lost.
fn timeless(entry: &Entry) -> EntryId {
    let mut entry = entry.clone();
    entry.attrs.mtime = Timestamp(0);
    entry.id()
}

/// Forgets the log.
pub(crate) fn prune(store: &dyn Store, bucket: BucketId) {
    let keep = Retention {
        at_most: Some(0),
        ..Retention::default()
    };
    let mut txn = store.write(Durability::Full).unwrap();
    txn.prune_events(bucket, &keep).unwrap();
    txn.commit().unwrap();
}

/// Returns the conflicts of each branch of a bucket.
pub(crate) fn conflicts_of(store: &dyn Store, bucket: BucketId) -> BTreeMap<String, Vec<Conflict>> {
    let txn = store.read().unwrap();
    let branches = txn.branches(bucket).unwrap().into_iter();
    let of = |branch: BranchRecord| {
        let chain = Chain::load(&*txn, branch.id, None).unwrap();
        (branch.name, conflicts(&*txn, &chain).unwrap())
    };
    branches.map(of).collect()
}

fn shown_at(txn: &dyn ReadTxn, branch: BranchId, at: Option<Epoch>) -> Tree {
    let chain = Chain::load(txn, branch, at).unwrap();
    let mut shown = Vec::new();
    tree::walk(txn, &chain, &TreePath::root(), &mut |path, entry| {
        shown.push((path.clone(), entry.id()));
        Ok(Walk::Continue)
    })
    .unwrap();
    shown
}

/// Runs seeds, or the one that `ALKFS_TEST_SEED` names; `ALKFS_TEST_SCALE` multiplies their number.
pub(crate) fn for_each_seed(count: u64, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    if let Ok(seed) = std::env::var("ALKFS_TEST_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let scale = std::env::var("ALKFS_TEST_SCALE").ok();
    let scale = scale.map_or(1, |n| n.parse::<u64>().unwrap());
    for seed in 0..count * scale {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "it failed with ALKFS_TEST_SEED={seed}");
    }
}
