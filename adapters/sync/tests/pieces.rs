//! What was committed comes into the documents while others commit: a little is drafted before the
//! transaction that keeps it, and much comes in several, and is one change to those who are told of it.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::edit::{Editor, SetAttrs};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BranchId, BucketId, Durability, ReadTxn, Retention, Store, WriteTxn};
use alknet_fs_core::sync::{Cut, Replica, ReplicaId, Scope, VersionVector, Want};
use alknet_fs_core::{ErrorKind, Result, Timestamp, TreePath};
use alknet_fs_sync::{Bucket, is_deleted};

const AT_ONCE: usize = 8;
const FILES: usize = 100;

/// A store that calls somebody before each transaction that writes.
struct Watched<F> {
    store: MemoryStore,
    before: F,
    writes: AtomicUsize,
}

impl<F: Fn(&MemoryStore, usize) -> Result<()> + Send + Sync> Watched<F> {
    fn new(before: F) -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::default(),
            before,
            writes: AtomicUsize::new(0),
        })
    }
}

impl<F: Fn(&MemoryStore, usize) -> Result<()> + Send + Sync> Store for Watched<F> {
    fn read(&self) -> Result<Box<dyn ReadTxn>> {
        self.store.read()
    }

    fn write(&self, durability: Durability) -> Result<Box<dyn WriteTxn>> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        (self.before)(&self.store, number)?;
        self.store.write(durability)
    }

    fn wait_for_commit(&self, seen: u64, timeout: Duration) -> Result<u64> {
        self.store.wait_for_commit(seen, timeout)
    }
}

fn edit(store: &dyn Store, edit: impl FnOnce(&mut Editor<'_>) -> Result<()>) {
    edit_at(store, 5, edit);
}

fn edit_at(store: &dyn Store, now: i64, edit: impl FnOnce(&mut Editor<'_>) -> Result<()>) {
    let txn = store.read().unwrap();
    let bucket = txn.buckets().unwrap()[0].id;
    let main = branch::branch(&*txn, bucket, "main").unwrap().id;
    drop(txn);
    common::commit(store, main, Timestamp(now), edit);
}

fn path(n: usize) -> TreePath {
    format!("/{:02}/{n:03}", n % 7).parse().unwrap()
}

/// Commits files, all together.
fn add_files(store: &dyn Store, files: std::ops::Range<usize>) {
    let set = SetAttrs::default();
    edit(store, |editor| {
        for n in files {
            editor.mkdir_all(&path(n).parent().unwrap(), &set)?;
            editor.symlink(&path(n), "target", &set)?;
        }
        Ok(())
    });
}

fn open(store: &Arc<impl Store + 'static>, n: u8) -> (Bucket, BucketId, BranchId) {
    let number = store.read().unwrap().buckets().unwrap()[0].id;
    let store: Arc<dyn Store> = Arc::clone(store) as _;
    let main = branch::branch(&*store.read().unwrap(), number, "main");
    let mut bucket = Bucket::open(store, number, ReplicaId([n; 16])).unwrap();
    bucket.set_at_once(AT_ONCE);
    (bucket, number, main.unwrap().id)
}

/// Makes a bucket to which a little was committed that is not gathered; the next transaction that writes
/// is the first that is counted.
fn with_little<F>(store: &Arc<Watched<F>>) -> (Bucket, BucketId, BranchId)
where
    F: Fn(&MemoryStore, usize) -> Result<()> + Send + Sync + 'static,
{
    common::make_empty(&store.store);
    let (mut bucket, number, main) = open(store, 1);
    store.writes.store(100, Ordering::Relaxed);
    bucket.gather(Timestamp(8)).unwrap();
    add_files(&store.store, 0..AT_ONCE - 4);
    store.writes.store(0, Ordering::Relaxed);
    (bucket, number, main)
}

fn all_cuts(bucket: &Bucket) -> Vec<Cut> {
    let nothing = VersionVector::new();
    let scope = Scope::of_first_branch();
    bucket.cuts_after(scope, &nothing, usize::MAX).unwrap()
}

fn files(store: &dyn Store, branch: BranchId) -> usize {
    common::shown(store, branch).len()
}

/// Returns what another bucket shows after each cut, and at the end.
fn told(cuts: &[Cut]) -> (Vec<usize>, common::Tree) {
    let store = Arc::new(MemoryStore::default());
    common::make_empty(&*store);
    let (mut bucket, _, main) = open(&store, 2);
    bucket.gather(Timestamp(9)).unwrap();
    let before = files(&*store, main);
    let mut shown = Vec::new();
    for cut in cuts {
        let scope = Scope::of_first_branch();
        bucket.apply(scope, std::slice::from_ref(cut)).unwrap();
        shown.push(files(&*store, main) - before);
    }
    (shown, common::shown(&*store, main))
}

#[test]
fn one_commit_is_one_change_for_others() {
    let store = Watched::new(|_, _| Ok(()));
    common::make_empty(&*store);
    let (mut bucket, _, main) = open(&store, 1);
    bucket.gather(Timestamp(8)).unwrap();
    let known = all_cuts(&bucket).len();
    let before = files(&*store, main);
    add_files(&*store, 0..FILES);
    store.writes.store(0, Ordering::Relaxed);
    assert!(bucket.gather(Timestamp(9)).unwrap());

    let pieces = store.writes.load(Ordering::Relaxed);
    assert!(pieces > FILES / AT_ONCE, "{pieces} transactions");
    let (shown, tree) = told(&all_cuts(&bucket));
    let (last, others) = shown[known..].split_last().unwrap();
    assert!(others.len() >= FILES / AT_ONCE && others.iter().all(|n| *n == 0));
    assert_eq!(*last, files(&*store, main) - before);
    assert_eq!(tree, common::shown(&*store, main));
}

/// What came in one frame is one transaction, however many commits it was.
#[test]
fn changes_of_others_are_kept_together() {
    let theirs = Arc::new(MemoryStore::default());
    common::make_empty(&*theirs);
    let (mut bucket, _, branch) = open(&theirs, 1);
    for n in 0..FILES {
        add_files(&*theirs, n..n + 1);
        bucket.gather(Timestamp(9)).unwrap();
    }
    let cuts = all_cuts(&bucket);
    assert!(cuts.len() >= FILES, "{} cuts", cuts.len());

    let ours = Watched::new(|_, _| Ok(()));
    common::make_empty(&*ours);
    let (mut bucket, _, main) = open(&ours, 2);
    bucket.gather(Timestamp(9)).unwrap();
    ours.writes.store(0, Ordering::Relaxed);
    bucket.apply(Scope::of_first_branch(), &cuts).unwrap();
    assert_eq!(ours.writes.load(Ordering::Relaxed), 1);
    assert_eq!(common::shown(&*ours, main), common::shown(&*theirs, branch));
}

/// What was drafted is what there was at one point in time, whatever is committed before it is kept.
#[test]
fn what_is_committed_after_a_draft_comes_next() {
    let meanwhile: [fn(&MemoryStore); 6] = [
        |store| add_files(store, AT_ONCE..2 * AT_ONCE),
        |store| edit(store, |editor| editor.unlink(&path(1))),
        |store| {
            edit(store, |editor| {
                editor.unlink(&path(1))?;
                editor.symlink(&path(1), "other", &SetAttrs::default())
            });
        },
        |store| {
            edit(store, |editor| {
                let (from, to) = (path(1).parent().unwrap(), "/renamed".parse()?);
                editor.rename(&from, &to, false)
            });
        },
        |store| {
            let mut txn = store.write(Durability::Full).unwrap();
            let bucket = txn.buckets().unwrap()[0].id;
            let main = branch::branch(&*txn, bucket, "main").unwrap().id;
            let source = ForkSource {
                branch: main,
                snapshot: None,
            };
            branch::fork(&mut *txn, "fork", &source, &common::context(Timestamp(5))).unwrap();
            txn.commit().unwrap();
        },
        |_| {},
    ];
    for (how, meanwhile) in meanwhile.into_iter().enumerate() {
        let store = Watched::new(move |store: &MemoryStore, number| {
            if number == 0 {
                meanwhile(store);
            }
            Ok(())
        });
        let (mut bucket, number, main) = with_little(&store);
        let then = common::shown(&*store, main);
        assert!(bucket.gather(Timestamp(9)).unwrap());
        assert_eq!(store.writes.load(Ordering::Relaxed), 1, "{how}");
        assert_eq!(told(&all_cuts(&bucket)).1, then, "{how}");

        bucket.gather(Timestamp(10)).unwrap();
        let now = common::shown(&*store, main);
        assert_eq!(told(&all_cuts(&bucket)).1, now, "{how}");
        let branches = store.read().unwrap().branches(number).unwrap();
        assert_eq!(bucket.scopes().count(), branches.len(), "{how}");
    }
}

#[test]
fn a_draft_that_cannot_be_kept_is_made_again() {
    let store = Watched::new(|_: &MemoryStore, number| match number {
        0 => Err(ErrorKind::Busy.into()),
        _ => Ok(()),
    });
    let (mut bucket, _, main) = with_little(&store);
    let before = all_cuts(&bucket);
    let error = bucket.gather(Timestamp(9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(all_cuts(&bucket), before);
    add_files(&store.store, AT_ONCE..AT_ONCE + 1);
    assert!(bucket.gather(Timestamp(9)).unwrap());
    assert_eq!(told(&all_cuts(&bucket)).1, common::shown(&*store, main));
}

#[test]
fn of_a_bucket_that_is_deleted_after_a_draft_nothing_stays() {
    let store = Watched::new(|store: &MemoryStore, number| {
        if number == 0 {
            let mut txn = store.write(Durability::Full)?;
            let bucket = txn.buckets()?[0].id;
            txn.remove_bucket(bucket)?;
            txn.remove_values(&format!("sync/{bucket}"))?;
            txn.commit()?;
        }
        Ok(())
    });
    let (mut bucket, number, _) = with_little(&store);
    let first = Want::From(bucket.first_page(Scope::of_first_branch()).unwrap());
    let error = bucket.gather(Timestamp(9)).unwrap_err();
    assert!(is_deleted(&error), "{error}");
    let kept = store.read().unwrap();
    let scope = Scope::of_first_branch();
    let of_branch = kept.value(&format!("sync/{number}/{scope}"), "log");
    let of_bucket = kept.value(&format!("sync/{number}"), "bucket");
    assert_eq!((of_bucket.unwrap(), of_branch.unwrap()), (None, None));
    // Nor is anything said of it, as if it were empty.
    let nothing = VersionVector::new();
    let page = bucket.page(scope, &first, &nothing, 100).unwrap_err();
    let vectors = bucket.vectors().unwrap_err();
    let cuts = bucket.cuts_after(scope, &nothing, 100).unwrap_err();
    assert!([page, vectors, cuts].iter().all(is_deleted));
}

/// What is committed together is seen together, though a part of it was brought in before somebody wrote
/// over all of it.
#[test]
fn what_is_written_over_between_pieces_is_seen_as_a_whole() {
    let write = |store: &dyn Store, text: &str| {
        edit(store, |editor| {
            for n in 0..FILES {
                editor.mkdir_all(&path(n).parent().unwrap(), &SetAttrs::default())?;
                // Nothing may be there.
                let _ = editor.unlink(&path(n));
                editor.symlink(&path(n), text, &SetAttrs::default())?;
            }
            Ok(())
        });
    };
    let store = Watched::new(move |store: &MemoryStore, number| {
        if number == 5 {
            write(store, "second");
        }
        Ok(())
    });
    common::make_empty(&store.store);
    let (mut bucket, _, main) = open(&store, 1);
    store.writes.store(100, Ordering::Relaxed);
    bucket.gather(Timestamp(8)).unwrap();
    write(&store.store, "first");
    store.writes.store(0, Ordering::Relaxed);
    bucket.gather(Timestamp(9)).unwrap();

    let other = Arc::new(MemoryStore::default());
    common::make_empty(&*other);
    let (mut hears, _, there) = open(&other, 2);
    hears.gather(Timestamp(9)).unwrap();
    let expected = common::shown(&*store, main);
    for cut in all_cuts(&bucket) {
        let scope = Scope::of_first_branch();
        hears.apply(scope, std::slice::from_ref(&cut)).unwrap();
        let shown = common::shown(&*other, there);
        let files = shown.iter().filter(|(path, _)| path.to_string().len() > 3);
        assert!(files.count() == 0 || shown == expected);
    }
    assert_eq!(common::shown(&*other, there), expected);
}

/// Whatever piece it comes in, what was written before what another wrote loses against that.
#[test]
fn pieces_are_in_the_order_of_the_times() {
    let put = |store: &dyn Store, now: i64, n: usize, text: &str| {
        edit_at(store, now, |editor| {
            editor.mkdir_all(&path(n).parent().unwrap(), &SetAttrs::default())?;
            editor.symlink(&path(n), text, &SetAttrs::default())
        });
    };
    let [here, there] = [(); 2].map(|()| Arc::new(MemoryStore::default()));
    common::make_empty(&*here);
    common::make_empty(&*there);
    let (mut bucket, _, main) = open(&here, 1);
    let (mut other, _, theirs) = open(&there, 2);
    bucket.gather(Timestamp(8)).unwrap();
    other.gather(Timestamp(8)).unwrap();
    for n in 0..FILES {
        put(&*here, (100 + n as i64) * 1000, n, "here");
    }
    for n in 0..FILES {
        // Later than the first half was, and before the second.
        put(&*there, 150_000, n, "there");
    }
    bucket.gather(Timestamp(1_000_000)).unwrap();
    other.set_at_once(1000);
    other.gather(Timestamp(1_000_000)).unwrap();
    let of_here: BTreeMap<_, _> = common::shown(&*here, main).into_iter().collect();
    let of_there: BTreeMap<_, _> = common::shown(&*there, theirs).into_iter().collect();
    let scope = Scope::of_first_branch();
    let cuts = all_cuts(&bucket);
    bucket.apply(scope, &all_cuts(&other)).unwrap();
    other.apply(scope, &cuts).unwrap();
    assert_eq!(common::shown(&*here, main), common::shown(&*there, theirs));
    let shown: BTreeMap<_, _> = common::shown(&*here, main).into_iter().collect();
    for n in (0..FILES).filter(|n| *n != 50) {
        let wins = if n < 50 { &of_there } else { &of_here };
        assert_eq!(shown[&path(n)], wins[&path(n)], "{n}");
    }
}

#[test]
fn who_is_stopped_between_two_pieces_goes_on_later() {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let store = Watched::new(move |_: &MemoryStore, number| {
        stopped.fetch_or(number == 4, Ordering::Relaxed);
        Ok(())
    });
    common::make_empty(&store.store);
    add_files(&store.store, 0..FILES);
    let (mut bucket, _, main) = open(&store, 1);
    bucket.set_stop(Arc::clone(&stop));
    assert!(bucket.gather(Timestamp(9)).unwrap_err().is_cancelled());
    assert_eq!(store.writes.load(Ordering::Relaxed), 5);
    stop.store(false, Ordering::Relaxed);
    bucket.gather(Timestamp(10)).unwrap();
    assert_eq!(told(&all_cuts(&bucket)).1, common::shown(&*store, main));
}

#[test]
fn what_was_there_before_comes_in_pieces() {
    let store = Watched::new(|_, _| Ok(()));
    common::make_empty(&*store);
    add_files(&*store, 0..FILES);
    let (mut bucket, _, main) = open(&store, 1);
    bucket.gather(Timestamp(9)).unwrap();

    let (shown, tree) = told(&all_cuts(&bucket));
    assert!(shown.windows(2).filter(|two| two[0] < two[1]).count() >= FILES / AT_ONCE);
    assert_eq!(tree, common::shown(&*store, main));
}

#[test]
fn what_is_committed_between_pieces_is_not_lost() {
    let set = SetAttrs::default();
    // The first time all is new, then much is, and at last nobody knows what is.
    for how in 0..3 {
        let store = Watched::new(|store: &MemoryStore, number| {
            if (3..9).contains(&number) {
                edit(store, |editor| {
                    editor.unlink(&path(number))?;
                    editor.unlink(&path(FILES - number))?;
                    let new = format!("/{:02}/new-{number}", number % 7).parse()?;
                    editor.symlink(&new, "other", &SetAttrs::default())
                });
            }
            Ok(())
        });
        common::make_empty(&store.store);
        let (mut bucket, number, main) = open(&store, 1);
        if how > 0 {
            store.writes.store(100, Ordering::Relaxed);
            bucket.gather(Timestamp(8)).unwrap();
        }
        add_files(&store.store, 0..FILES);
        edit(&store.store, |editor| {
            editor.mkdir(&"/empty".parse()?, &set)
        });
        if how > 1 {
            let keep = Retention {
                at_most: Some(0),
                ..Retention::default()
            };
            let mut txn = store.store.write(Durability::Full).unwrap();
            txn.prune_events(number, &keep).unwrap();
            txn.commit().unwrap();
        }
        store.writes.store(0, Ordering::Relaxed);
        bucket.gather(Timestamp(9)).unwrap();

        assert!(store.writes.load(Ordering::Relaxed) > 9);
        assert_eq!(told(&all_cuts(&bucket)).1, common::shown(&*store, main));
    }
}

#[test]
fn who_ended_between_two_pieces_goes_on_with_them() {
    for (how, at) in (0..2).flat_map(|how| (0..12).map(move |at| (how, at))) {
        let store = Watched::new(move |_: &MemoryStore, number| match number == at {
            true => Err(ErrorKind::Io.into()),
            false => Ok(()),
        });
        common::make_empty(&store.store);
        let (mut bucket, _, main) = open(&store, 1);
        if how > 0 {
            store.writes.store(100, Ordering::Relaxed);
            bucket.gather(Timestamp(8)).unwrap();
        }
        add_files(&store.store, 0..FILES);
        store.writes.store(0, Ordering::Relaxed);
        assert!(bucket.gather(Timestamp(9)).is_err());
        // Not all stays what it was.
        edit(&store.store, |editor| {
            for n in (0..FILES).step_by(9) {
                editor.unlink(&path(n))?;
            }
            editor.rename(&path(1), &"/renamed".parse()?, false)
        });

        let mut bucket = open(&store, 3).0;
        bucket.gather(Timestamp(10)).unwrap();
        assert_eq!(told(&all_cuts(&bucket)).1, common::shown(&*store, main));
    }
}

/// Whoever has heard a part keeps it when the rest comes with whole documents: nobody sends it again.
#[test]
fn what_was_heard_stays_when_documents_bring_the_rest() {
    let store = Arc::new(MemoryStore::default());
    common::make_empty(&*store);
    let (mut bucket, _, main) = open(&store, 1);
    bucket.gather(Timestamp(8)).unwrap();
    add_files(&*store, 0..FILES);
    bucket.gather(Timestamp(9)).unwrap();
    let cuts = all_cuts(&bucket);
    for heard in 0..cuts.len() {
        let other = Arc::new(MemoryStore::default());
        common::make_empty(&*other);
        let (mut hearing, _, there) = open(&other, 2);
        hearing.gather(Timestamp(9)).unwrap();
        let scope = Scope::of_first_branch();
        hearing.apply(scope, &cuts[..heard]).unwrap();
        common::take_pages(&mut hearing, &bucket, scope, 10);
        let known = hearing.vector(scope).unwrap();
        assert!(known.covers(&bucket.vector(scope).unwrap()));
        let (shown, all) = (common::shown(&*other, there), common::shown(&*store, main));
        assert_eq!(shown, all, "{heard} of {} cuts heard", cuts.len());
    }
}
