//! The store as its callers see it.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alknet_fs_core::entry::{Attrs, Entry, EntryId, Hash, Node, Timestamp};
use alknet_fs_core::event::{Change, Commit, Cursor, Op};
use alknet_fs_core::store::{
    BranchId, BucketId, ContentForm, ContentRecord, Durability, Epoch, Job, JobId, JobOptions,
    Layer, LineBase, LineRecord, LockOutcome, ReadTxn, Retention, Row, SessionOp, SessionRecord,
    SnapshotRecord, Staging, Store,
};
use alknet_fs_core::{ErrorKind, TreePath};
use alknet_fs_sqlite::{Options, SqliteStore};

fn new_store() -> (tempfile::TempDir, SqliteStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::create(&dir.path().join("s"), Options::default()).unwrap();
    (dir, store)
}

fn open(dir: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(&dir.path().join("s"), Options::default()).unwrap()
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

fn layer(branch: u32, epoch: u32) -> Layer {
    Layer {
        branch: BranchId(branch),
        epoch: Epoch(epoch),
    }
}

fn file(size: u64) -> Row {
    let attrs = Attrs {
        mode: 0o644,
        uid: u32::MAX,
        gid: 7,
        mtime: Timestamp(-5),
        ctime: Timestamp(i64::MAX),
    };
    Row {
        entry: Some(Entry {
            node: Node::File {
                hash: Hash::of(&size.to_le_bytes()),
                size,
            },
            attrs,
        }),
        base: None,
    }
}

fn size(row: &Row) -> u64 {
    row.entry.as_ref().map_or(0, |e| match e.node {
        Node::File { size, .. } => size,
        _ => 0,
    })
}

/// All rows at or below a path, as `path branch.epoch size`.
fn rows(txn: &dyn ReadTxn, bucket: BucketId, under: &str) -> Vec<String> {
    let mut out = Vec::new();
    txn.scan_tree(bucket, &path(under), &mut |parent, name, layer, row| {
        let path = TreePath::from_stored(parent, name);
        out.push(format!(
            "{path} {}.{} {}",
            layer.branch,
            layer.epoch,
            size(&row)
        ));
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    out
}

/// The paths that a branch wrote in some epochs below a path.
fn paths_of(
    txn: &dyn ReadTxn,
    bucket: BucketId,
    branch: u32,
    epochs: (u32, u32),
) -> impl Fn(&str) -> Vec<String> {
    move |under| {
        let mut out = Vec::new();
        let epochs = Epoch(epochs.0)..=Epoch(epochs.1);
        txn.paths_of(
            bucket,
            BranchId(branch),
            epochs,
            &path(under),
            &mut |parent, name| {
                out.push(TreePath::from_stored(parent, name).to_string());
                Ok(())
            },
        )
        .unwrap();
        out
    }
}

/// Makes a bucket with branches 1 to `branches`.
fn bucket(store: &SqliteStore, name: &str, branches: u32) -> BucketId {
    let mut txn = store.write(Durability::Relaxed).unwrap();
    let bucket = txn.add_bucket(name, Timestamp(1)).unwrap().id;
    for n in 1..=branches {
        txn.add_branch(bucket, &format!("b{n}"), Timestamp(2))
            .unwrap();
    }
    txn.commit().unwrap();
    bucket
}

fn commit(changes: usize, at: i64) -> Commit {
    let change = |n: usize| Change {
        path: Some(path(&format!("/f{n}"))),
        ..Change::new(Op::Create)
    };
    Commit {
        at: Timestamp(at),
        author: "me".into(),
        branch: "main".into(),
        session: None,
        changes: (0..changes).map(change).collect(),
    }
}

fn publish(store: &SqliteStore, bucket: BucketId, changes: usize, at: i64) -> Cursor {
    let mut txn = store.write(Durability::Relaxed).unwrap();
    let cursor = txn.publish(bucket, &commit(changes, at)).unwrap();
    txn.commit().unwrap();
    cursor
}

fn sqlite(dir: &tempfile::TempDir) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.path().join("s/store.db")).unwrap()
}

#[test]
fn records_come_back_as_they_were_written() {
    let (dir, store) = new_store();
    let bucket = bucket(&store, "b", 2);
    let hash = Hash::of(b"x");
    let content = ContentRecord {
        hash,
        size: 1,
        form: ContentForm::Inline,
        base: None,
        data: b"x".to_vec(),
        created: Timestamp(3),
    };
    let line = LineRecord {
        branch: BranchId(2),
        start: Epoch(1),
        base: Some(LineBase {
            branch: BranchId(1),
            at: Some(Epoch(4)),
            stays_live: true,
            may_hide: true,
        }),
    };
    let snapshot = SnapshotRecord {
        branch: BranchId(1),
        name: "s".into(),
        epoch: Epoch(1),
        created: Timestamp(4),
    };
    let mut txn = store.write(Durability::Full).unwrap();
    let mut record = txn.bucket(bucket).unwrap().unwrap();
    record.epoch = Epoch(2);
    record.generation = 9;
    txn.set_bucket(&record).unwrap();
    let mut branch = txn.branch(BranchId(2)).unwrap().unwrap();
    branch.name = "renamed".into();
    txn.set_branch(&branch).unwrap();
    txn.add_line(&line).unwrap();
    txn.add_snapshot(&snapshot).unwrap();
    assert!(txn.add_content(&content).unwrap());
    assert!(!txn.add_content(&content).unwrap());
    let mut session = SessionRecord {
        id: alknet_fs_core::store::SessionId(0),
        branch: BranchId(1),
        path: path("/a"),
        owner: "o".into(),
        holder: "h".into(),
        exclusive: true,
        create_new: true,
        base: Some((hash, 1)),
        mode: 0o600,
        created: Timestamp(5),
        touched: Timestamp(6),
        staging: Staging::Rows,
    };
    session.id = txn.add_session(&session).unwrap();
    let ops = [
        SessionOp::Write {
            offset: 5,
            data: vec![1, 2],
        },
        SessionOp::Truncate { size: 3 },
        SessionOp::Write {
            offset: 0,
            data: vec![],
        },
    ];
    for op in &ops {
        txn.add_session_op(session.id, op).unwrap();
    }
    session.staging = Staging::File;
    session.base = None;
    txn.set_session(&session).unwrap();
    txn.pin_content(&Hash::EMPTY, Timestamp(10)).unwrap();
    txn.set_value("s", "k", Some(b"1")).unwrap();
    txn.set_value("s", "k", Some(b"2")).unwrap();
    txn.commit().unwrap();
    drop(store);

    let store = open(&dir);
    let txn = store.read().unwrap();
    assert_eq!(txn.bucket_named("b").unwrap(), Some(record.clone()));
    assert_eq!(txn.buckets().unwrap(), [record]);
    assert_eq!(txn.branch_named(bucket, "renamed").unwrap(), Some(branch));
    assert_eq!(txn.branches(bucket).unwrap().len(), 2);
    assert_eq!(txn.lines(BranchId(2)).unwrap(), [line]);
    assert_eq!(txn.lines_on(BranchId(1)).unwrap(), [line]);
    assert_eq!(
        txn.snapshot(BranchId(1), "s").unwrap(),
        Some(snapshot.clone())
    );
    assert_eq!(txn.snapshots(BranchId(1)).unwrap(), [snapshot]);
    assert_eq!(txn.content(&hash).unwrap(), Some(content.clone()));
    let listed = txn.contents_after(None, 9, false).unwrap();
    assert_eq!(
        listed,
        [ContentRecord {
            data: vec![],
            ..content
        }]
    );
    assert!(txn.contents_after(Some(&hash), 9, true).unwrap().is_empty());
    assert_eq!(txn.session(session.id).unwrap(), Some(session.clone()));
    assert_eq!(txn.sessions(Some(BranchId(1))).unwrap(), [session.clone()]);
    assert!(txn.sessions(Some(BranchId(2))).unwrap().is_empty());
    assert_eq!(txn.session_ops(session.id).unwrap(), ops);
    assert_eq!(txn.value("s", "k").unwrap().as_deref(), Some(&b"2"[..]));
    let mut seen = Vec::new();
    txn.referenced(Timestamp(9), &mut |h| seen.push(h)).unwrap();
    assert_eq!(seen, [Hash::EMPTY]);
    txn.referenced(Timestamp(10), &mut |h| panic!("{h} expired"))
        .unwrap();
    assert_eq!(store.check(true).unwrap(), Vec::<String>::new());
}

#[test]
fn names_are_unique_and_numbers_are_never_used_again() {
    let (_dir, store) = new_store();
    let first = bucket(&store, "a", 1);
    let mut txn = store.write(Durability::Full).unwrap();
    let error = txn.add_bucket("a", Timestamp(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(error.subject(), Some("a"));
    let error = txn.add_branch(first, "b1", Timestamp(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let branch = txn.add_branch(first, "x", Timestamp(0)).unwrap().id;
    txn.remove_branch(branch).unwrap();
    assert!(txn.add_branch(first, "y", Timestamp(0)).unwrap().id > branch);
    txn.remove_bucket(first).unwrap();
    assert!(txn.add_bucket("a", Timestamp(0)).unwrap().id > first);
    txn.commit().unwrap();
    assert!(store.read().unwrap().branches(first).unwrap().is_empty());
}

#[test]
fn rows_of_every_kind_come_back_as_they_were_written() {
    let (_dir, store) = new_store();
    let bucket = bucket(&store, "b", 1);
    let attrs = file(1).entry.unwrap().attrs;
    let entry = |node| Row {
        entry: Some(Entry { node, attrs }),
        base: Some(EntryId([7; 16])),
    };
    let tombstone = Row {
        entry: None,
        base: Some(EntryId([9; 16])),
    };
    let target = "../ü".into();
    let kinds = [
        file(i64::MAX as u64),
        entry(Node::Dir),
        entry(Node::Symlink { target }),
        tombstone,
    ];
    let mut txn = store.write(Durability::Full).unwrap();
    for row in &kinds {
        txn.put_row(bucket, "", "", layer(1, 1), row).unwrap();
        let found = txn.seek(bucket, "", "", layer(1, 1)).unwrap();
        assert_eq!(found, Some((layer(1, 1), row.clone())));
    }
    let too_large = txn.put_row(bucket, "/", "x", layer(1, 1), &file(u64::MAX));
    assert_eq!(too_large.unwrap_err().kind(), ErrorKind::TooLarge);
    txn.remove_row(bucket, "", "", layer(1, 1)).unwrap();
    assert!(txn.seek(bucket, "", "", layer(9, 9)).unwrap().is_none());
}

#[test]
fn seek_finds_the_greatest_layer_within_bounds() {
    let (_dir, store) = new_store();
    let bucket = bucket(&store, "b", 0);
    let mut txn = store.write(Durability::Full).unwrap();
    for (n, (branch, epoch)) in [(1, 1), (1, 5), (2, 3), (4, 2)].into_iter().enumerate() {
        txn.put_row(bucket, "/d", "n", layer(branch, epoch), &file(n as u64))
            .unwrap();
    }
    txn.put_row(bucket, "/d", "m", layer(1, 2), &file(9))
        .unwrap();
    let at = |branch, epoch| {
        let found = txn.seek(bucket, "/d", "n", layer(branch, epoch)).unwrap();
        found.map(|(l, _)| (l.branch.0, l.epoch.0))
    };
    assert_eq!(at(0, u32::MAX), None);
    assert_eq!(at(1, 0), None);
    assert_eq!(at(1, 1), Some((1, 1)));
    assert_eq!(at(1, 4), Some((1, 1)));
    assert_eq!(at(1, u32::MAX), Some((1, 5)));
    assert_eq!(at(2, 2), Some((1, 5)));
    assert_eq!(at(2, 3), Some((2, 3)));
    assert_eq!(at(3, 1), Some((2, 3)));
    assert_eq!(at(u32::MAX, u32::MAX), Some((4, 2)));
}

#[test]
fn scans_keep_to_their_directory_and_order() {
    let (_dir, store) = new_store();
    let bucket = bucket(&store, "b", 2);
    let mut txn = store.write(Durability::Full).unwrap();
    let mut put = |p: &str, branch, epoch| {
        let p = path(p);
        txn.put_row(
            bucket,
            p.parent_str(),
            p.name(),
            layer(branch, epoch),
            &file(0),
        )
        .unwrap();
    };
    for p in [
        "/", "/a", "/a/x", "/a/x/1", "/a/z", "/a!", "/a!/q", "/a0", "/a0/q", "/b",
    ] {
        put(p, 1, 1);
    }
    put("/a/x", 2, 1);
    put("/a/x", 1, 3);
    put("/a/x/1", 1, 2);
    let txn: &dyn ReadTxn = &*txn;
    assert_eq!(
        rows(txn, bucket, "/a"),
        [
            "/a/x 2.1 0",
            "/a/x 1.3 0",
            "/a/x 1.1 0",
            "/a/z 1.1 0",
            "/a/x/1 1.2 0",
            "/a/x/1 1.1 0"
        ]
    );
    let all = rows(txn, bucket, "/");
    assert_eq!(all.len(), 12);
    assert!(!all.iter().any(|row| row.starts_with("/ ")), "{all:?}");
    let of = |branch, epochs, under| paths_of(txn, bucket, branch, epochs)(under);
    assert_eq!(
        of(1, (1, 3), "/a"),
        ["/a/x", "/a/x", "/a/z", "/a/x/1", "/a/x/1"]
    );
    assert_eq!(of(1, (2, 3), "/a"), ["/a/x", "/a/x/1"]);
    assert_eq!(of(1, (2, 2), "/"), ["/a/x/1"]);
    assert_eq!(of(1, (0, u32::MAX), "/").len(), 12);
    assert_eq!(of(1, (0, u32::MAX), "/")[0], "/");
    assert_eq!(of(2, (0, u32::MAX), "/"), ["/a/x"]);
    let list = |after, stop| {
        let mut names = Vec::new();
        txn.scan_dir(bucket, "/a", after, &mut |name, layer, _| {
            names.push(format!("{name} {}.{}", layer.branch, layer.epoch));
            Ok(if names.len() == stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .unwrap();
        names
    };
    assert_eq!(list(None, 9), ["x 2.1", "x 1.3", "x 1.1", "z 1.1"]);
    assert_eq!(list(Some("x"), 9), ["z 1.1"]);
    assert_eq!(list(None, 2).len(), 2);
    let mut own = Vec::new();
    let epochs = Epoch(0)..=Epoch::MAX;
    txn.scan_dir_of(
        bucket,
        BranchId(1),
        epochs,
        "/a",
        None,
        &mut |name, layer, _| {
            own.push(format!("{name} {}", layer.epoch));
            Ok(ControlFlow::Continue(()))
        },
    )
    .unwrap();
    assert_eq!(own, ["x 3", "x 1", "z 1"]);
}

#[test]
fn move_rows_takes_one_layer_and_nothing_beside_it() {
    for crowd in [0, 30] {
        move_rows_beside(crowd);
    }
}

/// Moves rows of a branch whose directories also hold this many rows of others.
fn move_rows_beside(crowd: u32) {
    let (_dir, store) = new_store();
    let bucket = bucket(&store, "b", 2);
    let mut txn = store.write(Durability::Full).unwrap();
    let mut put = |p: &str, branch, epoch| {
        let p = path(p);
        txn.put_row(
            bucket,
            p.parent_str(),
            p.name(),
            layer(branch, epoch),
            &file(0),
        )
        .unwrap();
    };
    for p in [
        "/ä/d",
        "/ä/d/1",
        "/ä/d/e/2",
        "/ä/d/e/f/3",
        "/ä/d-/4",
        "/ä/d0/5",
    ] {
        put(p, 1, 2);
    }
    put("/ä/d/1", 1, 1);
    put("/ä/d/1", 2, 2);
    for n in 0..crowd {
        for p in ["/ä/d/1", "/ä/d/e/2", "/x/y/1"] {
            put(p, 3 + n, 2);
        }
    }
    txn.move_rows(bucket, layer(1, 2), &path("/ä/d"), &path("/x/y"))
        .unwrap();
    let of = |txn: &dyn ReadTxn, branch, epoch, under: &str| {
        paths_of(txn, bucket, branch, (epoch, epoch))(under)
    };
    assert_eq!(of(&*txn, 1, 2, "/x"), ["/x/y/1", "/x/y/e/2", "/x/y/e/f/3"]);
    assert_eq!(of(&*txn, 1, 2, "/ä"), ["/ä/d", "/ä/d-/4", "/ä/d0/5"]);
    assert_eq!(of(&*txn, 1, 1, "/"), ["/ä/d/1"]);
    assert_eq!(of(&*txn, 2, 2, "/"), ["/ä/d/1"]);
    txn.move_rows(bucket, layer(1, 2), &path("/x/y"), &path("/"))
        .unwrap();
    assert_eq!(of(&*txn, 1, 2, "/e"), ["/e/2", "/e/f/3"]);
    assert!(of(&*txn, 1, 2, "/").contains(&"/1".to_owned()));
    for n in 0..crowd {
        assert_eq!(of(&*txn, 3 + n, 2, "/"), ["/x/y/1", "/ä/d/1", "/ä/d/e/2"]);
    }
}

#[test]
fn a_read_is_a_snapshot_from_the_moment_it_begins() {
    let (_dir, store) = new_store();
    let bucket = bucket(&store, "b", 1);
    let before = store.read().unwrap();
    let mut txn = store.write(Durability::Full).unwrap();
    txn.put_row(bucket, "/", "x", layer(1, 1), &file(1))
        .unwrap();
    let during = store.read().unwrap();
    txn.commit().unwrap();
    let after = store.read().unwrap();
    let sees = |txn: &dyn ReadTxn| txn.seek(bucket, "/", "x", layer(1, 1)).unwrap().is_some();
    assert_eq!(
        (sees(&*before), sees(&*during), sees(&*after)),
        (false, false, true)
    );
}

#[test]
fn dropping_a_write_transaction_undoes_it() {
    let (_dir, store) = new_store();
    let mut txn = store.write(Durability::Full).unwrap();
    txn.add_bucket("gone", Timestamp(0)).unwrap();
    assert!(txn.bucket_named("gone").unwrap().is_some());
    drop(txn);
    let bucket = bucket(&store, "gone", 0);
    let mut txn = store.write(Durability::Full).unwrap();
    let lost = txn.publish(bucket, &commit(1, 1)).unwrap();
    drop(txn);
    assert_eq!(store.read().unwrap().last_cursor().unwrap(), Cursor::START);
    assert_eq!(publish(&store, bucket, 1, 1), lost);
}

#[test]
fn two_stores_and_their_threads_take_turns_writing() {
    let (dir, first) = new_store();
    let bucket = bucket(&first, "b", 1);
    let second = open(&dir);
    std::thread::scope(|scope| {
        for (thread, store) in [&first, &second, &first, &second].into_iter().enumerate() {
            scope.spawn(move || {
                for n in 0..50 {
                    let mut txn = store.write(Durability::Relaxed).unwrap();
                    let name = format!("{thread}-{n}");
                    txn.put_row(bucket, "/", &name, layer(1, 1), &file(n))
                        .unwrap();
                    txn.publish(bucket, &commit(1, 0)).unwrap();
                    txn.commit().unwrap();
                    let seen = rows(&*store.read().unwrap(), bucket, "/");
                    assert!(seen.iter().any(|row| row.starts_with(&format!("/{name} "))));
                }
            });
        }
    });
    let txn = first.read().unwrap();
    assert_eq!(rows(&*txn, bucket, "/").len(), 200);
    assert_eq!(
        txn.events(Some(bucket), Cursor::START, 1000).unwrap().len(),
        200
    );
}

#[test]
fn a_writer_that_waits_too_long_is_told_busy() {
    let (dir, first) = new_store();
    let options = Options {
        busy_timeout: Duration::from_millis(20),
        ..Options::default()
    };
    let second = SqliteStore::open(&dir.path().join("s"), options).unwrap();
    let held = first.write(Durability::Full).unwrap();
    let busy = |store: &SqliteStore| store.write(Durability::Full).err().map(|e| e.kind());
    assert_eq!(busy(&second), Some(ErrorKind::Busy));
    drop(held);
    let held = second.write(Durability::Full).unwrap();
    assert_eq!(busy(&second), Some(ErrorKind::Busy));
    drop(held);
    assert_eq!(busy(&second), None);
}

#[test]
fn a_busy_writer_does_not_lock_others_out() {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (dir, busy) = new_store();
    let bucket = bucket(&busy, "b", 0);
    let other = open(&dir);
    let stopped = AtomicBool::new(false);
    let commits = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let _stop = Stop(&stopped);
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                let mut txn = busy.write(Durability::Full).unwrap();
                txn.publish(bucket, &commit(1, 0)).unwrap();
                txn.commit().unwrap();
                commits.fetch_add(1, Ordering::Relaxed);
            }
        });
        let started = Instant::now();
        for _ in 0..20 {
            let before = commits.load(Ordering::Relaxed);
            while commits.load(Ordering::Relaxed) == before {
                assert!(started.elapsed() < 2 * Options::default().busy_timeout);
                std::thread::yield_now();
            }
            publish(&other, bucket, 1, 1);
        }
        assert!(started.elapsed() < Options::default().busy_timeout / 3);
    });
}

#[test]
fn events_are_read_from_any_cursor_in_any_store_object() {
    let (dir, store) = new_store();
    let (one, two) = (bucket(&store, "one", 0), bucket(&store, "two", 0));
    let other = open(&dir);
    assert_eq!(other.read().unwrap().last_cursor().unwrap(), Cursor::START);
    let first = publish(&store, one, 2, 10);
    let second = publish(&other, two, 1, 11);
    let third = publish(&store, one, 1200, 12);
    assert!(first < second && second < third);
    let txn = other.read().unwrap();
    assert_eq!(txn.last_cursor().unwrap(), third);
    let all = txn.events(None, Cursor::START, 99).unwrap();
    assert_eq!(all.len(), 1203);
    assert!(all.windows(2).all(|w| w[0].cursor < w[1].cursor));
    assert_eq!((all[1].cursor, all[2].cursor), (first, second));
    assert_eq!((&*all[0].bucket, &*all[2].bucket), ("one", "two"));
    assert_eq!(
        txn.events(Some(one), Cursor::START, 99).unwrap().len(),
        1202
    );
    // A cursor within a record gives the rest of it; one at its end does not use up the limit.
    let within = txn.events(Some(one), all[0].cursor, 1).unwrap();
    assert_eq!(within, all[1..2]);
    let next = txn.events(Some(one), first, 1).unwrap();
    assert_eq!(next, all[3..3 + 512]);
    assert!(txn.events(None, third, 9).unwrap().is_empty());
    let changes: Vec<_> = all[3..].iter().map(|e| e.change.clone()).collect();
    assert_eq!(changes, commit(1200, 12).changes);
}

#[test]
fn pruned_events_make_older_cursors_lag() {
    let (_dir, store) = new_store();
    let (one, two) = (bucket(&store, "one", 0), bucket(&store, "two", 0));
    let cursors: Vec<_> = (0..6).map(|n| publish(&store, one, 3, 10 + n)).collect();
    let prune = |retention: Retention| {
        let mut txn = store.write(Durability::Full).unwrap();
        let removed = txn.prune_events(one, &retention).unwrap();
        txn.commit().unwrap();
        removed
    };
    assert_eq!(prune(Retention::default()), 0);
    let not_before = Some(Timestamp(11));
    assert_eq!(
        prune(Retention {
            not_before,
            at_most: Some(99)
        }),
        3
    );
    // Four events make it two records.
    assert_eq!(
        prune(Retention {
            not_before,
            at_most: Some(4)
        }),
        9
    );
    let txn = store.read().unwrap();
    let kind = |bucket, cursor| txn.events(bucket, cursor, 9).map_err(|e| e.kind());
    assert_eq!(kind(Some(one), cursors[2]).unwrap_err(), ErrorKind::Lagged);
    assert_eq!(kind(None, Cursor::START).unwrap_err(), ErrorKind::Lagged);
    assert!(kind(Some(two), Cursor::START).unwrap().is_empty());
    let pruned = txn.bucket(one).unwrap().unwrap().pruned;
    let error = txn.events(Some(one), Cursor::START, 9).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("works is {}", pruned.0)),
        "{error}"
    );
    assert_eq!(kind(Some(one), pruned).unwrap().len(), 6);
    assert_eq!(kind(Some(one), cursors[4]).unwrap().len(), 3);
    assert_eq!(txn.last_cursor().unwrap(), cursors[5]);
    drop(txn);
    assert_eq!(
        prune(Retention {
            at_most: Some(0),
            not_before: None
        }),
        6
    );
    let txn = store.read().unwrap();
    assert!(txn.last_cursor().unwrap() >= cursors[5]);
    assert!(
        txn.events(Some(one), txn.last_cursor().unwrap(), 9)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn waiting_ends_with_a_commit_of_this_or_another_store_object() {
    let (dir, store) = new_store();
    let bucket = bucket(&store, "b", 0);
    let other = open(&dir);
    let long = Duration::from_secs(20);
    let mut seen = store.wait_for_commit(0, Duration::ZERO).unwrap();
    for writer in [&store, &other] {
        publish(writer, bucket, 1, 1);
        let started = Instant::now();
        let now = store.wait_for_commit(seen, long).unwrap();
        assert_ne!(now, seen);
        assert!(started.elapsed() < long);
        seen = now;
    }
    // Commits that this object made are noticed by the watcher once more: let it settle.
    loop {
        let now = store
            .wait_for_commit(seen, Duration::from_millis(50))
            .unwrap();
        if now == seen {
            break;
        }
        seen = now;
    }
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.wait_for_commit(seen, long).unwrap());
        publish(&other, bucket, 1, 1);
        assert_ne!(waiting.join().unwrap(), seen);
    });
}

#[test]
fn a_lock_is_held_renewed_and_given_back() {
    let (dir, store) = new_store();
    let lock = |store: &SqliteStore, owner: &str, seconds| {
        let mut txn = store.write(Durability::Full).unwrap();
        let outcome = txn.lock("path:1:2:/a", owner, seconds).unwrap();
        txn.commit().unwrap();
        outcome
    };
    let other = open(&dir);
    assert_eq!(lock(&store, "ann", 100), LockOutcome::Acquired);
    let expiry = || -> i64 {
        let sql = "SELECT expires_at FROM _honker_locks";
        sqlite(&dir).query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let first = expiry();
    assert_eq!(
        lock(&other, "bob", 5),
        LockOutcome::Held {
            owner: "ann".into()
        }
    );
    assert_eq!(lock(&other, "ann", 1000), LockOutcome::Acquired);
    assert!(expiry() >= first + 900);
    let unlock = |owner| {
        let mut txn = store.write(Durability::Full).unwrap();
        txn.unlock("path:1:2:/a", owner).unwrap();
        txn.commit().unwrap();
    };
    unlock("bob");
    assert_eq!(
        lock(&other, "bob", 5),
        LockOutcome::Held {
            owner: "ann".into()
        }
    );
    unlock("ann");
    assert_eq!(lock(&other, "bob", 5), LockOutcome::Acquired);
    // What has expired is free.
    sqlite(&dir)
        .execute("UPDATE _honker_locks SET expires_at = 1", [])
        .unwrap();
    assert_eq!(lock(&store, "ann", 5), LockOutcome::Acquired);
}

#[test]
fn a_bad_row_is_corrupt_and_named() {
    let (dir, store) = new_store();
    let bucket = bucket(&store, "b", 1);
    let mut txn = store.write(Durability::Full).unwrap();
    txn.put_row(bucket, "/d", "f", layer(1, 1), &file(1))
        .unwrap();
    txn.publish(bucket, &commit(1, 1)).unwrap();
    txn.commit().unwrap();
    for sql in [
        "UPDATE entries SET kind = 9",
        "UPDATE entries SET kind = 1, hash = x'00'",
        "UPDATE entries SET kind = 3, target = NULL",
        "UPDATE entries SET kind = 2, mode = -1",
        "UPDATE entries SET mode = NULL",
    ] {
        sqlite(&dir).execute(sql, []).unwrap();
        let error = store
            .read()
            .unwrap()
            .seek(bucket, "/d", "f", layer(1, 1))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{sql}");
        assert!(
            error.to_string().contains("table entries, row /d/f: "),
            "{error}"
        );
        let problems = store.check(true).unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("/d/f"), "{problems:?}");
    }
    sqlite(&dir)
        .execute("UPDATE _honker_stream SET payload = '{'", [])
        .unwrap();
    let txn = store.read().unwrap();
    let error = txn.events(None, Cursor::START, 9).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("_honker_stream"), "{error}");
}

#[test]
fn check_names_what_refers_to_nothing() {
    let (dir, store) = new_store();
    assert_eq!(store.check(true).unwrap(), Vec::<String>::new());
    bucket(&store, "b", 2);
    let conn = sqlite(&dir);
    for (sql, undo, want) in [
        (
            "INSERT INTO lines VALUES (9, 1, NULL, NULL, 0, 0)",
            "DELETE FROM lines",
            "branch 9",
        ),
        (
            "INSERT INTO lines VALUES (1, 1, 2, 1, 0, 0)",
            "DELETE FROM lines",
            "newer",
        ),
        (
            "INSERT INTO snapshots VALUES (8, 's', 1, 0)",
            "DELETE FROM snapshots",
            "branch 8",
        ),
        (
            "INSERT INTO snapshots VALUES (1, 's', 5, 0)",
            "DELETE FROM snapshots",
            "epoch 5",
        ),
        (
            "INSERT INTO entries (bucket, parent, name, branch, epoch, kind)
             VALUES (1, '/', 'x', 7, 1, 0)",
            "DELETE FROM entries",
            "branch 7",
        ),
        (
            "INSERT INTO entries (bucket, parent, name, branch, epoch, kind)
             VALUES (5, '/', 'x', 2, 1, 0)",
            "DELETE FROM entries",
            "bucket 5",
        ),
        (
            "INSERT INTO sessions VALUES (1, 6, '/', '', '', 0, 0, NULL, NULL, 0, 0, 0, 1)",
            "DELETE FROM sessions",
            "branch 6",
        ),
        (
            "INSERT INTO session_ops (session, offset) VALUES (3, 0)",
            "DELETE FROM session_ops",
            "session 3",
        ),
        (
            "INSERT INTO contents (hash, size, form, base, created, data)
             VALUES (zeroblob(32), 1, 3, x'01', 0, x'')",
            "DELETE FROM contents",
            "over 01",
        ),
        (
            "INSERT INTO _honker_stream (topic, payload) VALUES ('alkfs:4', '{}')",
            "DELETE FROM _honker_stream",
            "alkfs:4",
        ),
    ] {
        conn.execute(sql, []).unwrap();
        let problems = store.check(true).unwrap();
        assert!(
            problems.iter().any(|line| line.contains(want)),
            "{sql}: {problems:?}"
        );
        conn.execute(undo, []).unwrap();
        assert_eq!(store.check(true).unwrap(), Vec::<String>::new(), "{undo}");
    }
}

/// Set by `.cargo/config.toml`.
#[test]
fn page_caches_have_no_common_budget() {
    let (dir, _store) = new_store();
    let conn = sqlite(&dir);
    let sql = "SELECT sqlite_compileoption_used('ENABLE_MEMORY_MANAGEMENT')";
    let is_common: bool = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(!is_common);
}

#[test]
fn closing_leaves_no_log_and_checkpoints_count() {
    let (dir, store) = new_store();
    let bucket = bucket(&store, "b", 0);
    store.wait_for_commit(0, Duration::ZERO).unwrap();
    let reader = store.read().unwrap();
    publish(&store, bucket, 100, 1);
    assert!(!store.checkpoint().unwrap());
    drop(reader);
    assert!(store.stats().unwrap().wal_bytes > 0);
    assert!(store.checkpoint().unwrap());
    let stats = store.stats().unwrap();
    assert_eq!(stats.wal_bytes, 0);
    assert_eq!(stats.database_bytes, stats.page_size * stats.pages);
    publish(&store, bucket, 1, 1);
    drop(store);
    let mut files: Vec<_> = std::fs::read_dir(dir.path().join("s"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["store.db", "store.db-turn"]);
    assert_eq!(
        open(&dir)
            .read()
            .unwrap()
            .events(None, Cursor::START, 9)
            .unwrap()
            .len(),
        101
    );
}

mod opening {
    use super::*;

    fn refused(dir: &Path) -> String {
        let error = SqliteStore::open(dir, Options::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore, "{error}");
        assert!(error.to_string().starts_with("open store /"), "{error}");
        error.to_string()
    }

    #[test]
    fn what_is_no_store_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let missing = refused(&dir.path().join("none"));
        assert!(missing.contains("no such directory") && missing.contains("create a store"));
        let empty = refused(dir.path());
        assert!(empty.contains("no store.db") && empty.contains("create a store"));
        let database = dir.path().join("store.db");
        assert!(
            refused(&{
                std::fs::write(dir.path().join("file"), b"").unwrap();
                dir.path().join("file")
            })
            .contains("is a directory and this is not")
        );
        std::fs::write(&database, b"").unwrap();
        assert!(refused(dir.path()).contains("is empty or truncated"));
        std::fs::write(&database, [b'x'; 9000]).unwrap();
        assert!(refused(dir.path()).contains("no SQLite database"));
        std::fs::write(&database, b"SQLite format 3\0").unwrap();
        assert!(refused(dir.path()).contains("no SQLite database"));
        std::fs::remove_file(&database).unwrap();
        let conn = rusqlite::Connection::open(&database).unwrap();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        drop(conn);
        assert!(refused(dir.path()).contains("another program"));
        let error = SqliteStore::create(dir.path(), Options::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_truncated_or_damaged_store_is_refused() {
        let (dir, store) = new_store();
        drop(store);
        let store = dir.path().join("s");
        let database = store.join("store.db");
        let whole = std::fs::read(&database).unwrap();
        for len in [1, 99, 100, 4095, 4096, 8192, whole.len() - 1] {
            std::fs::write(&database, &whole[..len]).unwrap();
            assert!(refused(&store).contains("truncated"), "{len}");
        }
        let mut damaged = whole.clone();
        damaged[100..4096].fill(0xff);
        std::fs::write(&database, &damaged).unwrap();
        assert!(refused(&store).contains("damaged"));
        std::fs::write(&database, &whole).unwrap();
        SqliteStore::open(&store, Options::default()).unwrap();
    }

    #[test]
    fn a_newer_store_is_refused_by_both_versions() {
        let (dir, store) = new_store();
        drop(store);
        sqlite(&dir)
            .pragma_update(None, "user_version", 42)
            .unwrap();
        let refused = refused(&dir.path().join("s"));
        assert!(refused.contains("version 42"), "{refused}");
        let known = format!("up to {}", alknet_fs_sqlite::SCHEMA_VERSION);
        assert!(refused.contains(&known), "{refused}");
    }

    #[test]
    fn create_keeps_what_is_there() {
        let (dir, store) = new_store();
        let id = store.id();
        assert_eq!(id.len(), 32);
        drop(store);
        let inside = dir.path().join("s");
        let error = SqliteStore::create(&inside, Options::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(open(&dir).id(), id);
        let used = dir.path().join("used");
        std::fs::create_dir(&used).unwrap();
        std::fs::write(used.join("letter.txt"), b"dear").unwrap();
        let error = SqliteStore::create(&used, Options::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotEmpty);
        assert!(!used.join("store.db").exists());
        std::fs::remove_file(used.join("letter.txt")).unwrap();
        std::fs::create_dir(used.join("blobs")).unwrap();
        // What a crash while the store was made leaves.
        std::fs::write(used.join("store.db"), b"").unwrap();
        let other = SqliteStore::create(&used, Options::default()).unwrap();
        assert_ne!(other.id(), id);
    }

    #[test]
    fn many_may_create_and_open_at_once() {
        for _ in 0..10 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let created = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| match SqliteStore::create(&path, Options::default()) {
                            Ok(_) => 1,
                            Err(e) => {
                                assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}");
                                SqliteStore::open(&path, Options::default()).unwrap();
                                0
                            }
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).sum::<i32>()
            });
            assert_eq!(created, 1);
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_use_the_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let existing = dir.path().join("existing");
        std::fs::create_dir(&existing).unwrap();
        std::fs::set_permissions(&existing, PermissionsExt::from_mode(0o755)).unwrap();
        for path in [existing, dir.path().join("a/b/new")] {
            let store = SqliteStore::create(&path, Options::default()).unwrap();
            let bucket = bucket(&store, "b", 0);
            publish(&store, bucket, 1, 1);
            assert_eq!(mode(&path), 0o700);
            for name in ["store.db", "store.db-wal", "store.db-shm", "store.db-turn"] {
                assert_eq!(mode(&path.join(name)), 0o600, "{name}");
            }
        }
    }
}

fn jobs(store: &SqliteStore, queue: &str) -> Vec<Job> {
    let mut jobs = Vec::new();
    let txn = store.read().unwrap();
    txn.jobs(queue, &mut |job| jobs.push(job)).unwrap();
    jobs
}

fn is_due(store: &SqliteStore, queue: &str) -> bool {
    store.read().unwrap().has_due_job(queue).unwrap()
}

#[test]
fn a_job_waits_until_it_is_done_or_cancelled() {
    let (dir, store) = new_store();
    assert!(!is_due(&store, "q"));
    let mut txn = store.write(Durability::Full).unwrap();
    let usual = JobOptions::default();
    let first = txn.enqueue("q", "first", &usual).unwrap();
    let urgent = JobOptions {
        priority: 3,
        ..usual
    };
    let second = txn.enqueue("q", "second", &urgent).unwrap();
    let late = JobOptions {
        delay: 1000,
        ..usual
    };
    let third = txn.enqueue("q", "third", &late).unwrap();
    txn.enqueue("other", "else", &usual).unwrap();
    txn.commit().unwrap();
    assert!(is_due(&store, "q"));
    let claim = |limit| {
        let mut txn = store.write(Durability::Full).unwrap();
        let claimed = txn.claim_jobs("q", "worker", limit, 600).unwrap();
        txn.commit().unwrap();
        let claimed = claimed.into_iter().map(|job| (job.id, job.payload));
        claimed.collect::<Vec<_>>()
    };
    assert_eq!(claim(1), [(second, "second".to_owned())]);
    assert_eq!(claim(9), [(first, "first".to_owned())]);
    assert_eq!(claim(9), []);
    assert!(!is_due(&store, "q"));
    let claimed: Vec<_> = jobs(&store, "q").iter().map(|job| job.claimed).collect();
    assert_eq!(claimed, [true, true, false]);
    // What a worker that died had claimed is there for the next one, in another process too.
    drop(store);
    let store = open(&dir);
    let mut txn = store.write(Durability::Full).unwrap();
    txn.release_jobs("q").unwrap();
    txn.hurry_jobs("q").unwrap();
    let again = txn.claim_jobs("q", "next", 9, 600).unwrap();
    assert_eq!(again.len(), 3);
    assert!(!txn.renew_job(first, "worker", 600).unwrap());
    assert!(txn.renew_job(first, "next", 600).unwrap());
    // Only who has claimed a job ends it.
    txn.finish_jobs(&[first, second], "worker").unwrap();
    txn.finish_jobs(&[second], "next").unwrap();
    txn.cancel_job(third).unwrap();
    txn.commit().unwrap();
    let left: Vec<_> = jobs(&store, "q").iter().map(|job| job.id).collect();
    assert_eq!(left, [first]);
    assert_eq!(jobs(&store, "other").len(), 1);
}

#[test]
fn what_is_said_of_a_job_is_there_until_it_lapses() {
    let (_dir, store) = new_store();
    let result = |job| store.read().unwrap().job_result(job).unwrap();
    let mut txn = store.write(Durability::Full).unwrap();
    let job = txn.enqueue("q", "x", &JobOptions::default()).unwrap();
    txn.set_job_result(job, "half", 600).unwrap();
    txn.set_job_result(job, "all", 600).unwrap();
    txn.commit().unwrap();
    assert_eq!(result(job).as_deref(), Some("all"));
    assert_eq!(result(JobId(job.0 + 1)), None);
    let mut txn = store.write(Durability::Full).unwrap();
    let expired = JobOptions {
        expires: Some(0),
        ..JobOptions::default()
    };
    txn.enqueue("q", "late", &expired).unwrap();
    txn.sweep_jobs("q").unwrap();
    assert_eq!(txn.claim_jobs("q", "w", 9, 60).unwrap().len(), 1);
    txn.commit().unwrap();
    assert_eq!(result(job).as_deref(), Some("all"));
    assert_eq!(jobs(&store, "q").len(), 1);
    // Nothing of it stays.
    let conn = rusqlite::Connection::open(store.dir().join("store.db")).unwrap();
    let sql = "SELECT count(*) FROM _honker_dead";
    let dead: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(dead, 0);
}

/// Whoever begins to wait after that cannot know of it by the file that is there.
#[cfg(unix)]
#[test]
fn a_store_that_was_replaced_before_anybody_waited_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::create(dir.path(), Options::default()).unwrap();
    let database = dir.path().join("store.db");
    std::fs::copy(&database, dir.path().join("copy")).unwrap();
    std::fs::rename(dir.path().join("copy"), &database).unwrap();
    let read = store.read().map(drop).unwrap_err();
    let waited = store.wait_for_commit(1, Duration::from_secs(60));
    for said in [read.to_string(), waited.unwrap_err().to_string()] {
        assert!(said.contains("store.db was replaced"), "{said}");
    }
}
