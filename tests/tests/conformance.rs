//! What every store must do, one function per behaviour, run on each kind of store.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use alknet_fs_core::event::{Change, Commit, Cursor, Event, Op};
use alknet_fs_core::store::{
    BranchId, BranchRecord, BucketId, BucketRecord, ContentForm, ContentRecord, Durability, Epoch,
    Layer, LazyRow, LineBase, LineRecord, LockOutcome, ReadTxn, Retention, Row, SessionId,
    SessionOp, SessionRecord, SnapshotRecord, Staging, Store, WriteTxn,
};
use alknet_fs_core::{Attrs, Entry, EntryId, ErrorKind, Hash, Node, Result, Timestamp, TreePath};
use alknet_fs_tests::fixture::Fixture;

macro_rules! conformance {
    ($($behaviour:ident)*) => {
        mod memory {
            $(#[test] fn $behaviour() { super::$behaviour(super::Fixture::memory().store()) })*
        }
        mod sqlite {
            $(#[test] fn $behaviour() { super::$behaviour(super::Fixture::sqlite().store()) })*
        }
    };
}

conformance! {
    buckets_are_found_by_name_and_number
    branches_are_found_and_listed_by_number
    lines_come_from_the_oldest
    snapshots_come_from_the_oldest
    taken_names_are_refused
    numbers_are_never_used_again
    removing_a_branch_takes_what_is_its_own
    removing_a_bucket_takes_all_that_is_in_it
    rows_come_back_as_they_were_written
    a_row_is_replaced_and_removed_in_its_layer_only
    seek_finds_the_greatest_layer_within_its_bound
    scan_dir_goes_by_name_bytes_then_from_the_greatest_layer
    scan_dir_begins_after_a_name
    scans_end_when_told_and_pass_errors_on
    scan_dir_of_keeps_to_one_branch_and_its_epochs
    seek_in_finds_the_newest_row_in_a_range_of_epochs
    scan_tree_goes_by_parent_and_keeps_to_its_directory
    paths_of_keeps_to_branch_epochs_and_directory
    move_rows_moves_one_layer_strictly_below
    contents_are_added_once_and_paged_by_hash
    referenced_contents_are_all_visited
    conflicts_are_kept_by_path_until_their_branch_goes
    marks_as_unreferenced_go_with_what_they_mark
    missing_contents_are_those_that_rows_name_and_nobody_added
    held_contents_are_those_of_sessions_and_of_pins_that_last
    sessions_are_listed_from_the_oldest
    session_operations_keep_their_order
    a_read_stays_as_it_began
    a_write_sees_itself_and_nobody_else_does_before_its_commit
    a_dropped_write_leaves_no_trace
    writers_take_turns
    a_commit_is_published_in_records
    events_go_on_after_every_cursor
    events_are_told_apart_by_bucket
    events_of_a_bucket_are_read_backwards
    pruning_by_count_keeps_the_newest
    pruning_by_age_keeps_the_newest
    the_stricter_retention_wins
    pruned_cursors_lag
    cursors_grow_on_after_everything_was_pruned
    locks_have_one_owner
    a_lock_is_renewed_only_by_who_never_lost_it
    values_are_set_and_removed_by_scope
    waiting_ends_with_a_commit
    waiting_ends_with_the_timeout
}

const AGO: Timestamp = Timestamp(-5);

fn write<T>(store: &dyn Store, write: impl FnOnce(&mut dyn WriteTxn) -> Result<T>) -> T {
    let mut txn = store.write(Durability::Relaxed).unwrap();
    let out = write(&mut *txn).unwrap();
    txn.commit().unwrap();
    out
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

fn entry(node: Node) -> Entry {
    let attrs = Attrs {
        mode: 0o7777,
        uid: u32::MAX,
        gid: 4,
        mtime: Timestamp(i64::MIN),
        ctime: Timestamp(i64::MAX),
    };
    Entry { node, attrs }
}

fn file(size: u64) -> Row {
    let hash = Hash::of(&size.to_le_bytes());
    Row {
        entry: Some(entry(Node::File { hash, size })),
        base: None,
    }
}

fn size(row: &Row) -> u64 {
    row.entry.as_ref().map_or(u64::MAX, Entry::size)
}

fn bucket(store: &dyn Store, name: &str) -> BucketId {
    write(store, |t| t.add_bucket(name, AGO)).id
}

fn branch(store: &dyn Store, bucket: BucketId, name: &str) -> BranchId {
    write(store, |t| t.add_branch(bucket, name, AGO)).id
}

/// Puts files named by their whole path; the n-th has the size n.
fn put_all(store: &dyn Store, bucket: BucketId, layer: Layer, paths: &[&str]) {
    write(store, |txn| {
        for (n, text) in paths.iter().enumerate() {
            let p = path(text);
            txn.put_row(bucket, p.parent_str(), p.name(), layer, &file(n as u64))?;
        }
        Ok(())
    });
}

fn names_after(txn: &dyn ReadTxn, b: BucketId, parent: &str, after: Option<&str>) -> Vec<String> {
    let mut out = Vec::new();
    txn.scan_dir(b, parent, after, &mut |name, layer, _| {
        out.push(format!("{name} {}.{}", layer.branch, layer.epoch));
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    out
}

fn tree(txn: &dyn ReadTxn, bucket: BucketId, under: &str) -> Vec<String> {
    let mut out = Vec::new();
    let under = path(under);
    txn.scan_tree(bucket, &under, &mut |parent, name, layer, row| {
        let at = TreePath::from_stored(parent, name);
        out.push(format!(
            "{at} {}.{} {}",
            layer.branch,
            layer.epoch,
            size(&row)
        ));
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    out
}

fn paths_of(
    txn: &dyn ReadTxn,
    bucket: BucketId,
    branch: u32,
    epochs: RangeInclusive<u32>,
    under: &str,
) -> Vec<String> {
    let mut out = Vec::new();
    let epochs = Epoch(*epochs.start())..=Epoch(*epochs.end());
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
    out.dedup();
    out
}

fn buckets_are_found_by_name_and_number(store: &dyn Store) {
    let made = write(store, |t| t.add_bucket("b", Timestamp(-7)));
    let expected = BucketRecord {
        id: made.id,
        name: "b".to_owned(),
        created: Timestamp(-7),
        epoch: Epoch(1),
        generation: 1,
        pruned: Cursor::START,
    };
    assert_eq!(made, expected);
    let a = write(store, |t| t.add_bucket("a", AGO));
    let mut changed = made.clone();
    changed.name = "é".to_owned();
    changed.epoch = Epoch(9);
    changed.generation = 10;
    changed.pruned = Cursor(11);
    write(store, |t| t.set_bucket(&changed));
    let txn = store.read().unwrap();
    assert_eq!(txn.bucket(made.id).unwrap(), Some(changed.clone()));
    assert_eq!(txn.bucket_named("é").unwrap(), Some(changed.clone()));
    assert_eq!(txn.bucket_named("b").unwrap(), None);
    assert_eq!(txn.bucket_named("A").unwrap(), None);
    assert_eq!(txn.bucket(BucketId(99)).unwrap(), None);
    assert_eq!(txn.buckets().unwrap(), [a, changed]);
}

fn branches_are_found_and_listed_by_number(store: &dyn Store) {
    let (b1, b2) = (bucket(store, "1"), bucket(store, "2"));
    let z = write(store, |t| t.add_branch(b1, "z", AGO));
    let other = write(store, |t| t.add_branch(b2, "z", AGO));
    let a = write(store, |t| t.add_branch(b1, "a", Timestamp(3)));
    assert!(z.id < other.id && other.id < a.id);
    let renamed = BranchRecord {
        name: "y".to_owned(),
        ..z.clone()
    };
    write(store, |t| t.set_branch(&renamed));
    let txn = store.read().unwrap();
    assert_eq!(txn.branches(b1).unwrap(), [renamed.clone(), a.clone()]);
    assert_eq!(txn.branches(b2).unwrap(), std::slice::from_ref(&other));
    assert_eq!(txn.branch_named(b1, "y").unwrap(), Some(renamed));
    assert_eq!(txn.branch_named(b1, "z").unwrap(), None);
    assert_eq!(txn.branch_named(b2, "z").unwrap(), Some(other));
    assert_eq!(txn.branch_named(b2, "a").unwrap(), None);
    assert_eq!(txn.branch(a.id).unwrap(), Some(a));
    assert_eq!(txn.branch(BranchId(99)).unwrap(), None);
}

fn line(branch: u32, start: u32, base: Option<(u32, Option<u32>)>) -> LineRecord {
    LineRecord {
        branch: BranchId(branch),
        start: Epoch(start),
        base: base.map(|(branch, at)| LineBase {
            branch: BranchId(branch),
            at: at.map(Epoch),
            stays_live: start == 7,
            may_hide: start == 3,
        }),
    }
}

fn lines_come_from_the_oldest(store: &dyn Store) {
    let all = [
        line(1, 1, None),
        line(1, 7, Some((1, Some(3)))),
        line(2, 2, Some((1, None))),
        line(3, 3, Some((2, Some(2)))),
    ];
    write(store, |t| {
        let order = [1, 3, 0, 2];
        order.iter().try_for_each(|&i| t.add_line(&all[i]))
    });
    let txn = store.read().unwrap();
    assert_eq!(txn.lines(BranchId(1)).unwrap(), all[..2]);
    assert_eq!(txn.lines(BranchId(3)).unwrap(), all[3..]);
    assert_eq!(txn.lines(BranchId(9)).unwrap(), []);
    let mut on = txn.lines_on(BranchId(1)).unwrap();
    on.sort_by_key(|line| line.branch);
    assert_eq!(on, all[1..3]);
    assert_eq!(txn.lines_on(BranchId(2)).unwrap(), all[3..]);
    assert_eq!(txn.lines_on(BranchId(3)).unwrap(), []);
}

fn snapshot(branch: u32, name: &str, epoch: u32) -> SnapshotRecord {
    SnapshotRecord {
        branch: BranchId(branch),
        name: name.to_owned(),
        epoch: Epoch(epoch),
        created: AGO,
    }
}

fn snapshots_come_from_the_oldest(store: &dyn Store) {
    let (z, a, m) = (
        snapshot(1, "z", 1),
        snapshot(1, "a", 2),
        snapshot(1, "m", 3),
    );
    let other = snapshot(2, "a", 4);
    write(store, |t| {
        [&a, &other, &m, &z]
            .into_iter()
            .try_for_each(|s| t.add_snapshot(s))
    });
    let txn = store.read().unwrap();
    assert_eq!(
        txn.snapshots(BranchId(1)).unwrap(),
        [z.clone(), a.clone(), m]
    );
    assert_eq!(txn.snapshot(BranchId(1), "a").unwrap(), Some(a));
    assert_eq!(txn.snapshot(BranchId(2), "z").unwrap(), None);
    write(store, |t| t.remove_snapshot(BranchId(1), "a"));
    write(store, |t| t.remove_snapshot(BranchId(1), "m"));
    let txn = store.read().unwrap();
    assert_eq!(txn.snapshots(BranchId(1)).unwrap(), [z]);
    assert_eq!(txn.snapshots(BranchId(2)).unwrap(), [other]);
}

fn taken_names_are_refused(store: &dyn Store) {
    let id = bucket(store, "t");
    branch(store, id, "main");
    write(store, |t| t.add_snapshot(&snapshot(1, "s", 1)));
    let mut txn = store.write(Durability::Full).unwrap();
    let kinds = [
        txn.add_bucket("t", AGO).map(drop),
        txn.add_branch(id, "main", AGO).map(drop),
        txn.add_snapshot(&snapshot(1, "s", 2)),
    ]
    .map(|result| result.unwrap_err().kind());
    assert_eq!(kinds, [ErrorKind::AlreadyExists; 3]);
}

fn session(branch: BranchId, owner: &str) -> SessionRecord {
    SessionRecord {
        id: SessionId(0),
        branch,
        path: path("/some/file"),
        owner: owner.to_owned(),
        holder: "holder".to_owned(),
        exclusive: true,
        create_new: true,
        base: Some((Hash::of(b"base"), 4)),
        mode: 0o600,
        created: Timestamp(1),
        touched: Timestamp(2),
        staging: Staging::Rows,
    }
}

fn numbers_are_never_used_again(store: &dyn Store) {
    let id = bucket(store, "t");
    let first = branch(store, id, "a");
    let opened = write(store, |t| t.add_session(&session(first, "x")));
    write(store, |t| t.remove_session(opened));
    write(store, |t| t.remove_branch(first));
    assert!(branch(store, id, "a") > first);
    assert!(write(store, |t| t.add_session(&session(first, "x"))) > opened);
    write(store, |t| t.remove_bucket(id));
    assert!(bucket(store, "t") > id);
}

fn removing_a_branch_takes_what_is_its_own(store: &dyn Store) {
    let id = bucket(store, "t");
    let (a, b) = (branch(store, id, "a"), branch(store, id, "b"));
    write(store, |t| t.add_line(&line(a.0, 1, None)));
    write(store, |t| t.add_line(&line(b.0, 1, Some((a.0, None)))));
    write(store, |t| t.add_snapshot(&snapshot(a.0, "s", 1)));
    write(store, |t| t.add_snapshot(&snapshot(b.0, "s", 1)));
    put_all(store, id, layer(a.0, 1), &["/", "/x", "/d/x"]);
    put_all(store, id, layer(b.0, 2), &["/", "/x", "/d/x"]);
    write(store, |t| t.remove_branch(b));
    let txn = store.read().unwrap();
    assert_eq!(txn.branch(b).unwrap(), None);
    assert_eq!(txn.branches(id).unwrap().len(), 1);
    assert_eq!(txn.lines(b).unwrap(), []);
    assert_eq!(txn.lines_on(a).unwrap(), []);
    assert_eq!(txn.lines(a).unwrap().len(), 1);
    assert_eq!(txn.snapshots(b).unwrap(), []);
    assert_eq!(txn.snapshots(a).unwrap().len(), 1);
    assert_eq!(paths_of(&*txn, id, b.0, 0..=9, "/"), [""; 0]);
    assert_eq!(paths_of(&*txn, id, a.0, 0..=9, "/"), ["/", "/x", "/d/x"]);
    assert_eq!(tree(&*txn, id, "/").len(), 2);
}

fn removing_a_bucket_takes_all_that_is_in_it(store: &dyn Store) {
    let (gone, kept) = (bucket(store, "gone"), bucket(store, "kept"));
    let ids = [gone, kept].map(|id| {
        let main = branch(store, id, "main");
        write(store, |t| t.add_line(&line(main.0, 1, None)));
        write(store, |t| t.add_snapshot(&snapshot(main.0, "s", 1)));
        put_all(store, id, layer(main.0, 1), &["/", "/x", "/d/x"]);
        let opened = write(store, |t| t.add_session(&session(main, "x")));
        write(store, |t| {
            t.add_session_op(opened, &SessionOp::Truncate { size: 1 })
        });
        publish(store, id, 2, 1);
        (main, opened)
    });
    write(store, |t| t.remove_bucket(gone));
    let txn = store.read().unwrap();
    assert_eq!(txn.bucket(gone).unwrap(), None);
    assert_eq!(txn.buckets().unwrap().len(), 1);
    for (here, id, (main, opened)) in [(0, gone, ids[0]), (1, kept, ids[1])] {
        assert_eq!(txn.branches(id).unwrap().len(), here);
        assert_eq!(txn.branch(main).unwrap().is_some(), here == 1);
        assert_eq!(txn.lines(main).unwrap().len(), here);
        assert_eq!(txn.snapshots(main).unwrap().len(), here);
        assert_eq!(tree(&*txn, id, "/").len(), here * 2);
        assert_eq!(names_after(&*txn, id, "", None).len(), here);
        assert_eq!(txn.session(opened).unwrap().is_some(), here == 1);
        assert_eq!(txn.session_ops(opened).unwrap().len(), here);
        let events = txn.events(Some(id), Cursor::START, 9).unwrap();
        assert_eq!(events.len(), here * 2);
    }
    let events = txn.events(None, Cursor::START, 9).unwrap();
    assert!(events.iter().all(|e| e.bucket == "kept") && events.len() == 2);
}

fn rows_come_back_as_they_were_written(store: &dyn Store) {
    let id = bucket(store, "t");
    let base = Some(EntryId([7; 16]));
    let link = Node::Symlink {
        target: "../é".into(),
    };
    let big = Node::File {
        hash: Hash::of(b"x"),
        size: i64::MAX as u64,
    };
    let nodes = [Some(big), Some(Node::Dir), Some(link), None];
    let rows: Vec<Row> = nodes
        .into_iter()
        .flat_map(|node| [base, None].map(|base| (node.clone(), base)))
        .map(|(node, base)| Row {
            entry: node.map(entry),
            base,
        })
        .collect();
    for (n, row) in rows.iter().enumerate() {
        let name = format!("naïve {n} 🦀");
        write(store, |t| {
            t.put_row(id, "/d", &name, layer(1, u32::MAX - 1), row)
        });
        let txn = store.read().unwrap();
        let found = txn.seek(id, "/d", &name, layer(1, u32::MAX)).unwrap();
        assert_eq!(found, Some((layer(1, u32::MAX - 1), row.clone())));
    }
    let mut scanned = Vec::new();
    let txn = store.read().unwrap();
    txn.scan_dir(id, "/d", None, &mut |_, _, row| {
        scanned.push(row()?);
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(scanned, rows);
}

fn a_row_is_replaced_and_removed_in_its_layer_only(store: &dyn Store) {
    let id = bucket(store, "t");
    put_all(store, id, layer(1, 1), &["/a", "/b"]);
    put_all(store, id, layer(1, 2), &["/a", "/b"]);
    write(store, |t| t.put_row(id, "/", "a", layer(1, 1), &file(9)));
    write(store, |t| t.remove_row(id, "/", "b", layer(1, 1)));
    write(store, |t| t.remove_row(id, "/", "b", layer(1, 7)));
    let txn = store.read().unwrap();
    assert_eq!(tree(&*txn, id, "/"), ["/a 1.2 0", "/a 1.1 9", "/b 1.2 1"]);
}

fn seek_finds_the_greatest_layer_within_its_bound(store: &dyn Store) {
    let id = bucket(store, "t");
    for (branch, epoch) in [(2, 1), (2, 5), (4, 3), (4, 4)] {
        put_all(
            store,
            id,
            layer(branch, epoch),
            &["/d/x", "/d/xy", "/dx", "/"],
        );
    }
    let txn = store.read().unwrap();
    let seek = |parent, name, branch, epoch| {
        let found = txn.seek(id, parent, name, layer(branch, epoch)).unwrap();
        found.map(|(at, row)| (at.branch.0, at.epoch.0, size(&row)))
    };
    assert_eq!(seek("/d", "x", u32::MAX, u32::MAX), Some((4, 4, 0)));
    assert_eq!(seek("/d", "x", 4, 4), Some((4, 4, 0)));
    assert_eq!(seek("/d", "x", 4, 3), Some((4, 3, 0)));
    assert_eq!(seek("/d", "x", 4, 2), Some((2, 5, 0)));
    assert_eq!(seek("/d", "x", 3, u32::MAX), Some((2, 5, 0)));
    assert_eq!(seek("/d", "x", 3, 0), Some((2, 5, 0)));
    assert_eq!(seek("/d", "x", 2, 4), Some((2, 1, 0)));
    assert_eq!(seek("/d", "x", 2, 0), None);
    assert_eq!(seek("/d", "x", 1, u32::MAX), None);
    assert_eq!(seek("/d", "xy", 9, 9), Some((4, 4, 1)));
    assert_eq!(seek("/", "dx", 9, 9), Some((4, 4, 2)));
    assert_eq!(seek("", "", 9, 9), Some((4, 4, 3)));
    assert_eq!(seek("/d", "", 9, 9), None);
    assert_eq!(seek("/d", "X", 9, 9), None);
    assert_eq!(seek("/", "", 9, 9), None);
    assert_eq!(seek("/d/x", "", 9, 9), None);
    assert_eq!(
        txn.seek(BucketId(99), "/d", "x", layer(9, 9)).unwrap(),
        None
    );
}

fn scan_dir_goes_by_name_bytes_then_from_the_greatest_layer(store: &dyn Store) {
    let (id, other) = (bucket(store, "t"), bucket(store, "other"));
    let names = ["/d/b", "/d/Z", "/d/é", "/d/a-b", "/d/a", "/d/🦀", "/d/a!"];
    put_all(store, id, layer(1, 1), &names);
    put_all(store, id, layer(3, 1), &["/d/a", "/d/a-b"]);
    put_all(store, id, layer(2, 9), &["/d/a", "/d/b"]);
    put_all(store, id, layer(1, 2), &["/d/a"]);
    put_all(
        store,
        id,
        layer(1, 1),
        &["/a", "/d", "/d/a/x", "/d-/a", "/da", "/"],
    );
    put_all(store, other, layer(1, 1), &["/d/other"]);
    let txn = store.read().unwrap();
    let expected = [
        "Z 1.1", "a 3.1", "a 2.9", "a 1.2", "a 1.1", "a! 1.1", "a-b 3.1", "a-b 1.1", "b 2.9",
        "b 1.1", "é 1.1", "🦀 1.1",
    ];
    assert_eq!(names_after(&*txn, id, "/d", None), expected);
    assert_eq!(
        names_after(&*txn, id, "/", None),
        ["a 1.1", "d 1.1", "da 1.1"]
    );
    assert_eq!(names_after(&*txn, id, "", None), [" 1.1"]);
    assert_eq!(names_after(&*txn, id, "/none", None), [""; 0]);
}

fn scan_dir_begins_after_a_name(store: &dyn Store) {
    let id = bucket(store, "t");
    for branch in [1, 2] {
        put_all(
            store,
            id,
            layer(branch, 1),
            &["/d/a", "/d/a-b", "/d/c", "/e"],
        );
    }
    let txn = store.read().unwrap();
    let after = |name| names_after(&*txn, id, "/d", Some(name));
    let all = ["a 2.1", "a 1.1", "a-b 2.1", "a-b 1.1", "c 2.1", "c 1.1"];
    assert_eq!(after(""), all);
    assert_eq!(after("a"), all[2..]);
    assert_eq!(after("a-"), all[2..]);
    assert_eq!(after("a-b"), all[4..]);
    assert_eq!(after("b"), all[4..]);
    assert_eq!(after("c"), [""; 0]);
    assert_eq!(after("z"), [""; 0]);
}

fn scans_end_when_told_and_pass_errors_on(store: &dyn Store) {
    let id = bucket(store, "t");
    put_all(store, id, layer(1, 1), &["/d/a", "/d/b", "/d/c"]);
    let txn = store.read().unwrap();
    let mut seen = 0;
    let second = |seen: &mut u32| {
        *seen += 1;
        match *seen {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    txn.scan_dir(id, "/d", None, &mut |_, _, _| Ok(second(&mut seen)))
        .unwrap();
    assert_eq!(std::mem::take(&mut seen), 2);
    let epochs = Epoch(0)..=Epoch::MAX;
    let visit = &mut |_: &str, _, _: &LazyRow<'_>| Ok(second(&mut seen));
    txn.scan_dir_of(id, BranchId(1), epochs.clone(), "/d", None, visit)
        .unwrap();
    assert_eq!(std::mem::take(&mut seen), 2);
    txn.scan_tree(id, &path("/"), &mut |_, _, _, _| Ok(second(&mut seen)))
        .unwrap();
    assert_eq!(seen, 2);
    let fail = || alknet_fs_core::Error::new(ErrorKind::Cancelled);
    let kinds = [
        txn.scan_dir(id, "/d", None, &mut |_, _, _| Err(fail())),
        txn.scan_dir_of(
            id,
            BranchId(1),
            epochs.clone(),
            "/d",
            None,
            &mut |_, _, _| Err(fail()),
        ),
        txn.scan_tree(id, &path("/"), &mut |_, _, _, _| Err(fail())),
        txn.paths_of(id, BranchId(1), epochs, &path("/"), &mut |_, _| Err(fail())),
    ]
    .map(|result| result.unwrap_err().kind());
    assert_eq!(kinds, [ErrorKind::Cancelled; 4]);
}

fn scan_dir_of_keeps_to_one_branch_and_its_epochs(store: &dyn Store) {
    let id = bucket(store, "t");
    put_all(store, id, layer(1, 1), &["/d/a", "/d/b"]);
    put_all(store, id, layer(2, 2), &["/d/a", "/d/b", "/d/c"]);
    put_all(store, id, layer(2, 3), &["/d/b", "/e"]);
    let txn = store.read().unwrap();
    let scan_after = |after, branch, first, last| {
        let mut out = Vec::new();
        let epochs = Epoch(first)..=Epoch(last);
        txn.scan_dir_of(
            id,
            BranchId(branch),
            epochs,
            "/d",
            after,
            &mut |name, layer, row| {
                let (Layer { branch, epoch }, size) = (layer, size(&row()?));
                out.push(format!("{name} {branch}.{epoch} {size}"));
                Ok(ControlFlow::Continue(()))
            },
        )
        .unwrap();
        out
    };
    let scan = |branch, first, last| scan_after(None, branch, first, last);
    let all = ["a 2.2 0", "b 2.3 0", "b 2.2 1", "c 2.2 2"];
    assert_eq!(scan_after(Some("a"), 2, 0, u32::MAX), all[1..]);
    assert_eq!(scan_after(Some("b"), 2, 0, u32::MAX), all[3..]);
    assert_eq!(scan_after(Some("c"), 2, 0, u32::MAX), [""; 0]);
    assert_eq!(scan(2, 0, u32::MAX), all);
    assert_eq!(scan(2, 2, 3), all);
    assert_eq!(scan(2, 0, 2), ["a 2.2 0", "b 2.2 1", "c 2.2 2"]);
    assert_eq!(scan(2, 3, 9), ["b 2.3 0"]);
    assert_eq!(scan(1, 0, u32::MAX), ["a 1.1 0", "b 1.1 1"]);
    assert_eq!(scan(3, 0, u32::MAX), [""; 0]);
}

fn seek_in_finds_the_newest_row_in_a_range_of_epochs(store: &dyn Store) {
    let id = bucket(store, "t");
    put_all(store, id, layer(1, 4), &["/d/x"]);
    for (n, epoch) in [2, 4, 6].into_iter().enumerate() {
        write(store, |t| {
            t.put_row(id, "/d", "x", layer(2, epoch), &file(n as u64))
        });
    }
    put_all(store, id, layer(3, 4), &["/d/x"]);
    let txn = store.read().unwrap();
    let seek = |branch, first, last| {
        let epochs = Epoch(first)..=Epoch(last);
        let found = txn.seek_in(id, BranchId(branch), epochs, "/d", "x");
        found.unwrap().map(|(at, row)| (at.epoch.0, size(&row)))
    };
    assert_eq!(seek(2, 0, u32::MAX), Some((6, 2)));
    assert_eq!(seek(2, 0, 5), Some((4, 1)));
    assert_eq!(seek(2, 4, 4), Some((4, 1)));
    assert_eq!(seek(2, 3, 3), None);
    assert_eq!(seek(2, 0, 1), None);
    assert_eq!(seek(2, 7, 9), None);
    assert_eq!(seek(9, 0, 9), None);
    let elsewhere = |bucket, parent, name| {
        txn.seek_in(bucket, BranchId(2), Epoch(0)..=Epoch::MAX, parent, name)
    };
    for other in [
        elsewhere(BucketId(99), "/d", "x"),
        elsewhere(id, "/", "x"),
        elsewhere(id, "/d", "xx"),
    ] {
        assert_eq!(other.unwrap(), None);
    }
}

const NEIGHBOURS: &[&str] = &[
    "/", "/a", "/a-b", "/a-b/x", "/a/b", "/a/b/c", "/a/b-/x", "/ab/x", "/a/é/x", "/b", "/A/x",
];

fn scan_tree_goes_by_parent_and_keeps_to_its_directory(store: &dyn Store) {
    let (id, other) = (bucket(store, "t"), bucket(store, "other"));
    put_all(store, id, layer(1, 1), NEIGHBOURS);
    put_all(store, id, layer(2, 1), &["/a/b"]);
    put_all(store, other, layer(1, 1), &["/a/other"]);
    let txn = store.read().unwrap();
    let below_a = [
        "/a/b 2.1 0",
        "/a/b 1.1 4",
        "/a/b/c 1.1 5",
        "/a/b-/x 1.1 6",
        "/a/é/x 1.1 8",
    ];
    assert_eq!(tree(&*txn, id, "/a"), below_a);
    assert_eq!(tree(&*txn, id, "/a/b"), ["/a/b/c 1.1 5"]);
    assert_eq!(tree(&*txn, id, "/a-b"), ["/a-b/x 1.1 3"]);
    assert_eq!(tree(&*txn, id, "/b"), [""; 0]);
    let all = [
        &["/a 1.1 1", "/a-b 1.1 2", "/b 1.1 9", "/A/x 1.1 10"][..],
        &below_a[..2],
        &["/a-b/x 1.1 3"],
        &below_a[2..],
        &["/ab/x 1.1 7"],
    ];
    assert_eq!(tree(&*txn, id, "/"), all.concat());
}

fn paths_of_keeps_to_branch_epochs_and_directory(store: &dyn Store) {
    let (id, other) = (bucket(store, "t"), bucket(store, "other"));
    put_all(store, id, layer(2, 3), NEIGHBOURS);
    put_all(store, id, layer(2, 4), &["/a/b", "/a/late"]);
    put_all(store, id, layer(2, 9), &["/a/later"]);
    put_all(store, id, layer(1, 3), &["/a/one"]);
    put_all(store, id, layer(3, 3), &["/a/three"]);
    put_all(store, other, layer(2, 3), &["/a/other"]);
    let txn = store.read().unwrap();
    let paths = |epochs, under| paths_of(&*txn, id, 2, epochs, under);
    let below_a = ["/a/b", "/a/late", "/a/b/c", "/a/b-/x", "/a/é/x"];
    assert_eq!(paths(3..=4, "/a"), below_a);
    assert_eq!(paths(4..=8, "/a"), ["/a/b", "/a/late"]);
    assert_eq!(paths(4..=9, "/a"), ["/a/b", "/a/late", "/a/later"]);
    assert_eq!(paths(5..=8, "/a"), [""; 0]);
    assert_eq!(paths(0..=u32::MAX, "/a/b"), ["/a/b/c"]);
    assert_eq!(paths(0..=u32::MAX, "/a-b"), ["/a-b/x"]);
    assert_eq!(paths(0..=u32::MAX, "/b"), [""; 0]);
    let all = [
        "/", "/a", "/a-b", "/b", "/A/x", "/a/b", "/a-b/x", "/a/b/c", "/a/b-/x", "/a/é/x", "/ab/x",
    ];
    assert_eq!(paths(3..=3, "/"), all);
}

fn move_rows_moves_one_layer_strictly_below(store: &dyn Store) {
    let (id, other) = (bucket(store, "t"), bucket(store, "other"));
    let paths = ["/é", "/é/a", "/é/a/b", "/é-/x", "/é/é/é/c", "/éx/y", "/to"];
    put_all(store, id, layer(2, 2), &paths);
    put_all(store, id, layer(2, 1), &["/é/a"]);
    put_all(store, id, layer(1, 2), &["/é/a/b"]);
    put_all(store, id, layer(1, 1), &["/to/kept"]);
    put_all(store, other, layer(2, 2), &["/é/a"]);
    write(store, |t| {
        t.move_rows(id, layer(2, 2), &path("/é"), &path("/to/deep"))
    });
    let txn = store.read().unwrap();
    let mut expected = [
        "/é 2.2 0",
        "/to/deep/a 2.2 1",
        "/to/deep/a/b 2.2 2",
        "/é-/x 2.2 3",
        "/to/deep/é/é/c 2.2 4",
        "/éx/y 2.2 5",
        "/to 2.2 6",
        "/é/a 2.1 0",
        "/é/a/b 1.2 0",
        "/to/kept 1.1 0",
    ];
    let mut found = tree(&*txn, id, "/");
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(
        paths_of(&*txn, id, 2, 2..=2, "/to"),
        ["/to/deep/a", "/to/deep/a/b", "/to/deep/é/é/c"]
    );
    assert_eq!(tree(&*txn, other, "/"), ["/é/a 2.2 0"]);
}

fn content(bytes: &[u8], form: ContentForm, base: Option<Hash>) -> ContentRecord {
    ContentRecord {
        hash: Hash::of(bytes),
        size: bytes.len() as u64,
        form,
        base,
        data: bytes.to_vec(),
        created: AGO,
    }
}

fn contents_are_added_once_and_paged_by_hash(store: &dyn Store) {
    let mut all = vec![
        content(b"", ContentForm::Inline, None),
        content(b"inline", ContentForm::Inline, None),
        content(b"file", ContentForm::File, None),
        content(b"delta", ContentForm::Delta, Some(Hash::of(b"file"))),
    ];
    for record in &all {
        assert!(write(store, |t| t.add_content(record)));
    }
    let again = content(b"file", ContentForm::Inline, None);
    assert!(!write(store, |t| t.add_content(&again)));
    all.sort_by_key(|c| c.hash);
    let txn = store.read().unwrap();
    for record in &all {
        let is_base = record.hash == Hash::of(b"file");
        assert_eq!(txn.is_base(&record.hash).unwrap(), is_base);
        assert!(txn.has_content(&record.hash).unwrap());
        assert!(!txn.has_content(&Hash::of(record.hash.as_bytes())).unwrap());
        assert_eq!(txn.content(&record.hash).unwrap().as_ref(), Some(record));
    }
    assert_eq!(txn.contents_after(None, 9, true).unwrap(), all);
    assert_eq!(txn.contents_after(None, 2, true).unwrap(), all[..2]);
    assert_eq!(
        txn.contents_after(Some(&all[0].hash), 2, true).unwrap(),
        all[1..3]
    );
    assert_eq!(txn.contents_after(Some(&all[3].hash), 2, true).unwrap(), []);
    assert_eq!(txn.contents_after(None, 0, true).unwrap(), []);
    let bare: Vec<_> = all
        .iter()
        .cloned()
        .map(|mut record| {
            record.data.clear();
            record
        })
        .collect();
    assert_eq!(txn.contents_after(None, 9, false).unwrap(), bare);
    drop(txn);
    write(store, |t| t.set_content(&again));
    write(store, |t| t.remove_content(&Hash::of(b"delta")));
    let txn = store.read().unwrap();
    assert_eq!(txn.content(&again.hash).unwrap(), Some(again));
    assert_eq!(txn.content(&Hash::of(b"delta")).unwrap(), None);
    assert_eq!(txn.contents_after(None, 9, true).unwrap().len(), 3);
}

fn referenced_contents_are_all_visited(store: &dyn Store) {
    let id = bucket(store, "t");
    let main = branch(store, id, "main");
    put_all(store, id, layer(1, 1), &["/a", "/b"]);
    put_all(store, id, layer(1, 2), &["/c", "/b", "/x/d"]);
    write(store, |t| {
        let tombstone = Row {
            entry: None,
            base: None,
        };
        t.put_row(id, "/", "a", layer(1, 2), &tombstone)?;
        t.add_session(&session(main, "x"))?;
        t.set_conflict(main, &at("/b"), b"?", &[(Hash::of(b"lost"), 4)])?;
        t.add_content(&content(b"unused", ContentForm::Inline, None))?;
        let of = Some(Hash::of(b"below"));
        t.add_content(&content(b"delta", ContentForm::Delta, of))?;
        for (bytes, until) in [(&b"held"[..], 50), (b"expired", 30), (b"again", 5)] {
            t.add_content(&content(bytes, ContentForm::Inline, None))?;
            t.pin_content(&Hash::of(bytes), Timestamp(until))?;
        }
        t.pin_content(&Hash::of(b"again"), Timestamp(60))
    });
    let txn = store.read().unwrap();
    let mut found = Vec::new();
    txn.referenced(Timestamp(30), &mut |hash| found.push(hash))
        .unwrap();
    found.sort();
    found.dedup();
    let sizes = (0..3u64).map(|n| Hash::of(&n.to_le_bytes()));
    let others = [&b"base"[..], b"below", b"held", b"again", b"lost"].map(Hash::of);
    let mut expected: Vec<Hash> = sizes.chain(others).collect();
    expected.sort();
    assert_eq!(found, expected);
}

fn at(text: &str) -> TreePath {
    text.parse().unwrap()
}

fn conflicts_are_kept_by_path_until_their_branch_goes(store: &dyn Store) {
    let (id, other) = (bucket(store, "t"), bucket(store, "other"));
    let (a, b) = (branch(store, id, "a"), branch(store, id, "b"));
    let [x, y] = [&b"x"[..], b"y"].map(Hash::of);
    let listed = |branch| {
        let mut listed = Vec::new();
        let txn = store.read().unwrap();
        txn.conflicts(branch, &mut |path, data| {
            let found = txn.conflict(branch, &path).unwrap();
            assert_eq!(found.as_ref(), Some(&data));
            listed.push((path.to_string(), data));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        listed
    };
    let wanted = |bucket| {
        let mut wanted = Vec::new();
        let txn = store.read().unwrap();
        let mut last = 0;
        txn.conflict_contents(bucket, 0, &mut |content| {
            assert!(content.number > last);
            last = content.number;
            wanted.push((content.hash, content.size));
            Ok(())
        })
        .unwrap();
        wanted.sort();
        wanted.dedup();
        wanted
    };
    let after = |number| {
        let mut found = Vec::new();
        let txn = store.read().unwrap();
        txn.conflict_contents(id, number, &mut |content| {
            found.push(content);
            Ok(())
        })
        .unwrap();
        found
    };
    write(store, |t| {
        t.set_unreferenced(&x, Some(Timestamp(1)))?;
        t.set_conflict(a, &at("/d/2"), b"two", &[(x, 1), (y, 2)])?;
        t.set_conflict(a, &at("/d/1"), b"one", &[])?;
        t.set_conflict(b, &at("/d"), b"three", &[(x, 1)])?;
        t.set_conflict(a, &at("/d/2"), b"again", &[(y, 2)])
    });
    let expected = [("/d/1", &b"one"[..]), ("/d/2", b"again")];
    let expected = expected.map(|(path, data)| (path.to_owned(), data.to_vec()));
    assert_eq!(listed(a), expected);
    assert_eq!(listed(b), [("/d".to_owned(), b"three".to_vec())]);
    let mut all = vec![(x, 1), (y, 2)];
    all.sort();
    assert_eq!(wanted(id), all);
    assert_eq!(wanted(other), []);
    let mut noted = after(0);
    let [first, last] = &noted[..] else {
        panic!("{noted:?}")
    };
    assert_eq!((first.branch, first.hash), (b, x));
    assert_eq!((last.branch, &last.path), (a, &at("/d/2")));
    assert_eq!((last.hash, last.size), (y, 2));
    let newest = last.number;
    assert_eq!(after(first.number), noted.split_off(1));
    assert_eq!(after(newest), []);
    let txn = store.read().unwrap();
    assert_eq!(txn.conflict(a, &at("/d")).unwrap(), None);
    assert_eq!(txn.unreferenced_since(&x).unwrap(), None);
    let mut first = Vec::new();
    txn.conflicts(a, &mut |path, _| {
        first.push(path);
        Ok(ControlFlow::Break(()))
    })
    .unwrap();
    assert_eq!(first, [at("/d/1")]);
    drop(txn);
    for _ in 0..2 {
        write(store, |t| t.remove_conflict(a, &at("/d/2")));
    }
    assert_eq!(listed(a).len(), 1);
    assert_eq!(wanted(id), [(x, 1)]);
    // Whoever knew the one that is gone hears of one that comes.
    write(store, |t| t.set_conflict(b, &at("/d/2"), b"new", &[(y, 2)]));
    assert_eq!(after(newest).len(), 1);
    write(store, |t| t.remove_branch(b));
    assert_eq!(listed(b), []);
    assert_eq!(wanted(id), []);
    write(store, |t| t.set_conflict(a, &at("/e"), b"four", &[(y, 2)]));
    write(store, |t| t.remove_bucket(id));
    assert_eq!(listed(a), []);
    let txn = store.read().unwrap();
    txn.referenced(Timestamp(0), &mut |hash| panic!("{hash:?} is referred to"))
        .unwrap();
}

fn marks_as_unreferenced_go_with_what_they_mark(store: &dyn Store) {
    let records = [&b"one"[..], b"two", b"three"].map(|b| content(b, ContentForm::Inline, None));
    let [one, two, three] = [&records[0], &records[1], &records[2]].map(|record| record.hash);
    let marks = || {
        let txn = store.read().unwrap();
        let mut marks = Vec::new();
        txn.unreferenced(&mut |hash, since| marks.push((hash, since.0)))
            .unwrap();
        for (hash, since) in &marks {
            let found = txn.unreferenced_since(hash).unwrap();
            assert_eq!(found, Some(Timestamp(*since)));
        }
        marks
    };
    write(store, |t| {
        for (record, since) in records.iter().zip(1..) {
            t.add_content(record)?;
            t.set_unreferenced(&record.hash, Some(Timestamp(since)))?;
        }
        t.set_unreferenced(&one, Some(Timestamp(9)))
    });
    let mut all = vec![(one, 9), (two, 2), (three, 3)];
    all.sort();
    assert_eq!(marks(), all);
    write(store, |t| t.pin_content(&two, Timestamp(99)));
    write(store, |t| t.remove_content(&three));
    assert_eq!(marks(), [(one, 9)]);
    write(store, |t| t.set_unreferenced(&one, None));
    write(store, |t| t.set_unreferenced(&one, None));
    assert_eq!(marks(), []);
    let txn = store.read().unwrap();
    assert_eq!(txn.unreferenced_since(&one).unwrap(), None);
}

fn missing_contents_are_those_that_rows_name_and_nobody_added(store: &dyn Store) {
    let id = bucket(store, "t");
    let other = bucket(store, "other");
    put_all(store, id, layer(1, 1), &["/a", "/b"]);
    put_all(store, id, layer(1, 2), &["/c", "/x/d", "/x/e"]);
    put_all(store, other, layer(2, 1), &["/elsewhere"]);
    write(store, |t| {
        t.put_row(
            id,
            "/",
            "link",
            layer(1, 2),
            &Row {
                entry: None,
                base: None,
            },
        )?;
        let size = 1_u64.to_le_bytes();
        t.add_content(&content(&size, ContentForm::Inline, None))
            .map(drop)
    });
    let txn = store.read().unwrap();
    let mut found = Vec::new();
    let mut visit = |parent: &str, name: &str, hash, size: u64| {
        assert_eq!(hash, Hash::of(&size.to_le_bytes()));
        found.push((format!("{parent}:{name}"), size));
        Ok(ControlFlow::Continue(()))
    };
    txn.missing_contents(id, &mut visit).unwrap();
    found.sort();
    let wanted = [("/:a", 0), ("/:c", 0), ("/x:e", 2)];
    assert_eq!(found, wanted.map(|(path, size)| (path.to_owned(), size)));
    let mut visits = 0;
    txn.missing_contents(id, &mut |_, _, _, _| {
        visits += 1;
        Ok(ControlFlow::Break(()))
    })
    .unwrap();
    assert_eq!(visits, 1);
}

fn held_contents_are_those_of_sessions_and_of_pins_that_last(store: &dyn Store) {
    let id = bucket(store, "t");
    let main = branch(store, id, "main");
    put_all(store, id, layer(1, 1), &["/a"]);
    write(store, |t| {
        t.add_session(&session(main, "x"))?;
        for (bytes, until) in [(&b"short"[..], 30), (b"long", 31)] {
            t.add_content(&content(bytes, ContentForm::Inline, None))?;
            t.pin_content(&Hash::of(bytes), Timestamp(until))?;
        }
        Ok(())
    });
    let txn = store.read().unwrap();
    let mut found = Vec::new();
    txn.held_contents(Timestamp(30), &mut |hash| found.push(hash))
        .unwrap();
    found.sort();
    let mut wanted = [&b"base"[..], b"long"].map(Hash::of);
    wanted.sort();
    assert_eq!(found, wanted);
}

fn sessions_are_listed_from_the_oldest(store: &dyn Store) {
    let id = bucket(store, "t");
    let (a, b) = (branch(store, id, "a"), branch(store, id, "b"));
    let mut made: Vec<SessionRecord> = Vec::new();
    for (branch, owner) in [(b, "1"), (a, "2"), (b, "3")] {
        let record = session(branch, owner);
        let id = write(store, |t| t.add_session(&record));
        made.push(SessionRecord { id, ..record });
    }
    made[2].base = None;
    made[2].exclusive = false;
    made[2].touched = Timestamp(99);
    made[2].staging = Staging::File;
    write(store, |t| t.set_session(&made[2]));
    let txn = store.read().unwrap();
    assert_eq!(txn.sessions(None).unwrap(), made);
    assert_eq!(
        txn.sessions(Some(b)).unwrap(),
        [made[0].clone(), made[2].clone()]
    );
    assert_eq!(txn.session(made[1].id).unwrap().as_ref(), Some(&made[1]));
    drop(txn);
    write(store, |t| t.remove_session(made[0].id));
    let txn = store.read().unwrap();
    assert_eq!(txn.session(made[0].id).unwrap(), None);
    assert_eq!(txn.sessions(None).unwrap(), made[1..]);
}

fn session_operations_keep_their_order(store: &dyn Store) {
    let id = bucket(store, "t");
    let main = branch(store, id, "main");
    let [a, b] = ["a", "b"].map(|owner| write(store, |t| t.add_session(&session(main, owner))));
    let write_at = |offset, data: &[u8]| SessionOp::Write {
        offset,
        data: data.to_vec(),
    };
    let ops = [
        write_at(i64::MAX as u64, b"z"),
        SessionOp::Truncate { size: 0 },
        write_at(0, b""),
        write_at(3, b"\0\xff"),
        SessionOp::Truncate {
            size: i64::MAX as u64,
        },
        write_at(1, b"y"),
    ];
    for op in &ops {
        write(store, |t| t.add_session_op(a, op));
        write(store, |t| t.add_session_op(b, op));
    }
    assert_eq!(store.read().unwrap().session_ops(a).unwrap(), ops);
    write(store, |t| t.clear_session_ops(a));
    write(store, |t| t.add_session_op(a, &ops[5]));
    write(store, |t| t.remove_session(b));
    let txn = store.read().unwrap();
    assert_eq!(txn.session_ops(a).unwrap(), ops[5..]);
    assert!(txn.session(a).unwrap().is_some());
    assert_eq!(txn.session_ops(b).unwrap(), []);
}

fn a_read_stays_as_it_began(store: &dyn Store) {
    let id = bucket(store, "t");
    put_all(store, id, layer(1, 1), &["/a"]);
    let (before, mut txn) = (
        store.read().unwrap(),
        store.write(Durability::Full).unwrap(),
    );
    txn.put_row(id, "/", "b", layer(1, 1), &file(1)).unwrap();
    txn.remove_row(id, "/", "a", layer(1, 1)).unwrap();
    txn.add_bucket("new", AGO).unwrap();
    txn.publish(id, &commit(1, 1)).unwrap();
    let during = store.read().unwrap();
    txn.commit().unwrap();
    for old in [before, during] {
        assert_eq!(tree(&*old, id, "/"), ["/a 1.1 0"]);
        assert_eq!(old.bucket_named("new").unwrap(), None);
        assert_eq!(old.events(None, Cursor::START, 9).unwrap(), []);
        assert_eq!(old.last_cursor().unwrap(), Cursor::START);
    }
    assert_eq!(tree(&*store.read().unwrap(), id, "/"), ["/b 1.1 1"]);
}

fn a_write_sees_itself_and_nobody_else_does_before_its_commit(store: &dyn Store) {
    let id = bucket(store, "t");
    let mut txn = store.write(Durability::Full).unwrap();
    txn.put_row(id, "/", "a", layer(1, 1), &file(5)).unwrap();
    txn.set_value("s", "k", Some(b"v")).unwrap();
    let cursor = txn.publish(id, &commit(1, 1)).unwrap();
    assert_eq!(tree(&*txn, id, "/"), ["/a 1.1 5"]);
    assert_eq!(txn.value("s", "k").unwrap().unwrap(), b"v");
    assert_eq!(txn.events(Some(id), Cursor::START, 9).unwrap().len(), 1);
    assert_eq!(txn.last_cursor().unwrap(), cursor);
    let other = store.read().unwrap();
    assert_eq!(tree(&*other, id, "/"), [""; 0]);
    assert_eq!(other.value("s", "k").unwrap(), None);
    drop(other);
    txn.commit().unwrap();
    assert_eq!(tree(&*store.read().unwrap(), id, "/"), ["/a 1.1 5"]);
}

fn a_dropped_write_leaves_no_trace(store: &dyn Store) {
    let id = bucket(store, "t");
    let main = branch(store, id, "main");
    let opened = write(store, |t| t.add_session(&session(main, "x")));
    put_all(store, id, layer(1, 1), &["/a", "/d/x"]);
    publish(store, id, 3, 1);
    let before = alknet_fs_tests::fixture::state(store);
    let mut txn = store.write(Durability::Full).unwrap();
    let record = content(b"x", ContentForm::Inline, None);
    txn.add_bucket("new", AGO).unwrap();
    txn.add_branch(id, "new", AGO).unwrap();
    txn.add_line(&line(1, 5, None)).unwrap();
    txn.add_snapshot(&snapshot(main.0, "s", 1)).unwrap();
    txn.put_row(id, "/", "b", layer(1, 1), &file(1)).unwrap();
    txn.remove_row(id, "/", "a", layer(1, 1)).unwrap();
    txn.move_rows(id, layer(1, 1), &path("/d"), &path("/e"))
        .unwrap();
    txn.add_content(&record).unwrap();
    txn.add_session_op(opened, &SessionOp::Truncate { size: 0 })
        .unwrap();
    txn.add_session(&session(main, "y")).unwrap();
    txn.publish(id, &commit(2, 2)).unwrap();
    let all = Retention {
        not_before: None,
        at_most: Some(0),
    };
    assert_eq!(txn.prune_events(id, &all).unwrap(), 5);
    txn.set_value("s", "k", Some(b"v")).unwrap();
    txn.lock("l", "a", 60).unwrap();
    drop(txn);
    assert_eq!(alknet_fs_tests::fixture::state(store), before);
    let txn = store.read().unwrap();
    assert_eq!(txn.content(&record.hash).unwrap(), None);
    assert_eq!(txn.value("s", "k").unwrap(), None);
    drop(txn);
    assert_eq!(
        write(store, |t| t.lock("l", "b", 60)),
        LockOutcome::Acquired
    );
}

fn writers_take_turns(store: &dyn Store) {
    let count = |txn: &dyn ReadTxn| {
        let value = txn.value("s", "n").unwrap();
        value.map_or(0, |v| u64::from_le_bytes(v.try_into().unwrap()))
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    write(store, |t| {
                        let next = count(t) + 1;
                        t.set_value("s", "n", Some(&next.to_le_bytes()))
                    });
                }
            });
        }
    });
    assert_eq!(count(&*store.read().unwrap()), 100);
}

fn commit(changes: usize, at: i64) -> Commit {
    let change = |n: usize| Change {
        path: Some(path(&format!("/{n}"))),
        size: Some(n as u64),
        ..Change::new(Op::Create)
    };
    Commit {
        at: Timestamp(at),
        author: "somebody".to_owned(),
        branch: "main".to_owned(),
        session: Some(SessionId(3)),
        changes: (0..changes).map(change).collect(),
    }
}

fn publish(store: &dyn Store, bucket: BucketId, changes: usize, at: i64) -> Cursor {
    write(store, |t| t.publish(bucket, &commit(changes, at)))
}

fn sizes(events: &[Event]) -> Vec<u64> {
    events.iter().map(|e| e.change.size.unwrap()).collect()
}

fn a_commit_is_published_in_records(store: &dyn Store) {
    let id = bucket(store, "t");
    assert_eq!(store.read().unwrap().last_cursor().unwrap(), Cursor::START);
    let last = publish(store, id, 1300, 77);
    let txn = store.read().unwrap();
    let events = txn.events(None, Cursor::START, 9).unwrap();
    assert_eq!(sizes(&events), (0..1300).collect::<Vec<_>>());
    assert!(events.is_sorted_by(|a, b| a.cursor < b.cursor));
    assert_eq!(events.last().unwrap().cursor, last);
    assert_eq!(txn.last_cursor().unwrap(), last);
    let event = Event {
        peer: None,
        cursor: events[0].cursor,
        at: Timestamp(77),
        author: "somebody".to_owned(),
        bucket: "t".to_owned(),
        branch: "main".to_owned(),
        session: Some(SessionId(3)),
        change: commit(1, 77).changes.remove(0),
    };
    assert_eq!(events[0], event);
    assert_eq!(txn.events(None, Cursor::START, 2).unwrap(), events[..1024]);
    assert_eq!(txn.events(None, Cursor::START, 0).unwrap(), []);
    assert_eq!(txn.events(None, last, 9).unwrap(), []);
}

fn events_go_on_after_every_cursor(store: &dyn Store) {
    let id = bucket(store, "t");
    for changes in [1, 3, 600, 2] {
        publish(store, id, changes, 1);
    }
    let txn = store.read().unwrap();
    let all = txn.events(Some(id), Cursor::START, 99).unwrap();
    assert_eq!(all.len(), 606);
    for (n, event) in all.iter().enumerate() {
        let after = txn.events(Some(id), event.cursor, 99).unwrap();
        assert_eq!(after, all[n + 1..]);
    }
    // A watcher that asks for one record at a time gets everything once.
    let mut at = Cursor::START;
    let mut seen = Vec::new();
    while let Some(last) = txn.events(None, at, 1).unwrap().last() {
        seen.extend(txn.events(None, at, 1).unwrap());
        at = last.cursor;
    }
    assert_eq!(seen, all);
}

fn events_are_told_apart_by_bucket(store: &dyn Store) {
    let (a, b) = (bucket(store, "a"), bucket(store, "b"));
    for id in [a, b, b, a] {
        publish(store, id, 2, 1);
    }
    write(store, |t| {
        let mut record = t.bucket(a)?.unwrap();
        record.name = "renamed".to_owned();
        t.set_bucket(&record)
    });
    let txn = store.read().unwrap();
    let names = |bucket, limit| {
        let events = txn.events(bucket, Cursor::START, limit).unwrap();
        assert!(events.is_sorted_by(|a, b| a.cursor < b.cursor));
        events.into_iter().map(|e| e.bucket).collect::<Vec<_>>()
    };
    assert_eq!(names(Some(a), 9), ["renamed"; 4]);
    assert_eq!(names(Some(b), 1), ["b"; 2]);
    let all = [
        "renamed", "renamed", "b", "b", "b", "b", "renamed", "renamed",
    ];
    assert_eq!(names(None, 9), all);
}

fn events_of_a_bucket_are_read_backwards(store: &dyn Store) {
    let (id, other) = (bucket(store, "t"), bucket(store, "other"));
    let end = Cursor(u64::MAX);
    let before = |bucket, before, limit| {
        let txn = store.read().unwrap();
        txn.events_before(bucket, before, limit).unwrap()
    };
    assert_eq!(before(id, end, 9), []);
    for changes in [2, 1300, 1] {
        publish(store, other, 3, 1);
        publish(store, id, changes, 1);
    }
    publish(store, other, 3, 1);
    let txn = store.read().unwrap();
    let mut all = txn.events(Some(id), Cursor::START, 99).unwrap();
    let theirs = txn.events(Some(other), Cursor::START, 99).unwrap();
    drop(txn);
    all.reverse();
    assert_eq!(all.len(), 1303);
    assert_eq!(before(id, end, 99), all);
    assert_eq!(before(id, end, 0), []);
    assert_eq!(before(id, Cursor::START, 9), []);
    // Records of others are not counted.
    assert_eq!(before(id, end, 2), all[..1 + (1300 - 1024)]);
    for (n, event) in all.iter().enumerate().step_by(7) {
        assert_eq!(before(id, event.cursor, 99), all[n + 1..]);
    }
    assert_eq!(before(id, theirs[6].cursor, 99), all[1..]);
    // One record at a time gives everything once.
    let (mut at, mut seen) = (end, Vec::new());
    while let Some(last) = before(id, at, 1).last() {
        seen.extend(before(id, at, 1));
        at = last.cursor;
    }
    assert_eq!(seen, all);
    // What was pruned is not there: nobody lags.
    prune(store, id, None, Some(1));
    assert_eq!(before(id, end, 99), all[..1]);
    assert_eq!(before(id, Cursor::new(1, 0), 99), []);
    write(store, |t| t.remove_bucket(id));
    assert_eq!(before(id, end, 99), []);
}

fn prune(store: &dyn Store, id: BucketId, not_before: Option<i64>, at_most: Option<u64>) -> u64 {
    let retention = Retention {
        not_before: not_before.map(Timestamp),
        at_most,
    };
    write(store, |t| t.prune_events(id, &retention))
}

/// Returns the times of the events that are left.
fn left(store: &dyn Store, bucket: BucketId) -> Vec<i64> {
    let txn = store.read().unwrap();
    let pruned = txn.bucket(bucket).unwrap().unwrap().pruned;
    let events = txn.events(Some(bucket), pruned, 99).unwrap();
    events.into_iter().map(|e| e.at.0).collect()
}

fn pruning_by_count_keeps_the_newest(store: &dyn Store) {
    let (id, other) = (bucket(store, "t"), bucket(store, "other"));
    publish(store, other, 1, 0);
    for at in 1..=4 {
        publish(store, id, 2, at);
    }
    assert_eq!(prune(store, id, None, None), 0);
    assert_eq!(prune(store, id, None, Some(8)), 0);
    // Records go as a whole, and at least as many events stay as were asked for.
    assert_eq!(prune(store, id, None, Some(3)), 4);
    assert_eq!(left(store, id), [3, 3, 4, 4]);
    assert_eq!(prune(store, id, None, Some(3)), 0);
    assert_eq!(prune(store, id, None, Some(0)), 4);
    assert_eq!(left(store, id), [0; 0]);
    assert_eq!(left(store, other), [0]);
}

fn pruning_by_age_keeps_the_newest(store: &dyn Store) {
    let id = bucket(store, "t");
    for at in [1, 5, 3, 7] {
        publish(store, id, 2, at);
    }
    assert_eq!(prune(store, id, Some(1), None), 0);
    // The log has no holes: what came before an old event goes with it.
    assert_eq!(prune(store, id, Some(4), None), 6);
    assert_eq!(left(store, id), [7, 7]);
    assert_eq!(prune(store, id, Some(7), None), 0);
    assert_eq!(prune(store, id, Some(8), None), 2);
}

fn the_stricter_retention_wins(store: &dyn Store) {
    for (name, not_before, at_most, expected) in [("age", 3, 9, [3, 4]), ("count", 1, 2, [3, 4])] {
        let id = bucket(store, name);
        for at in 1..=4 {
            publish(store, id, 1, at);
        }
        assert_eq!(prune(store, id, Some(not_before), Some(at_most)), 2);
        assert_eq!(left(store, id), expected, "{name}");
    }
}

fn pruned_cursors_lag(store: &dyn Store) {
    let (id, other) = (bucket(store, "t"), bucket(store, "other"));
    publish(store, other, 1, 1);
    let first = publish(store, id, 3, 1);
    publish(store, id, 2, 2);
    let all = store
        .read()
        .unwrap()
        .events(Some(id), Cursor::START, 9)
        .unwrap();
    prune(store, id, Some(2), None);
    let txn = store.read().unwrap();
    let pruned = txn.bucket(id).unwrap().unwrap().pruned;
    assert!(pruned >= first && pruned < all[3].cursor);
    for asked in [Some(id), None] {
        for cursor in [Cursor::START, all[0].cursor, all[1].cursor] {
            let error = txn.events(asked, cursor, 9).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Lagged);
            assert!(error.to_string().contains(&pruned.0.to_string()), "{error}");
        }
        assert_eq!(txn.events(asked, pruned, 9).unwrap(), all[3..]);
        assert_eq!(txn.events(asked, all[3].cursor, 9).unwrap(), all[4..]);
    }
    assert_eq!(txn.events(Some(other), Cursor::START, 9).unwrap().len(), 1);
}

fn cursors_grow_on_after_everything_was_pruned(store: &dyn Store) {
    let id = bucket(store, "t");
    let newest = publish(store, id, 3, 1);
    prune(store, id, None, Some(0));
    let txn = store.read().unwrap();
    let last = txn.last_cursor().unwrap();
    assert!(last >= newest);
    // A watcher that begins at the end misses nothing that comes.
    assert_eq!(txn.events(Some(id), last, 9).unwrap(), []);
    let next = publish(store, id, 2, 2);
    assert!(next > last);
    let txn = store.read().unwrap();
    assert_eq!(txn.last_cursor().unwrap(), next);
    assert_eq!(sizes(&txn.events(Some(id), last, 9).unwrap()), [0, 1]);
    drop(txn);
    write(store, |t| t.remove_bucket(id));
    let other = bucket(store, "other");
    let txn = store.read().unwrap();
    let last = txn.last_cursor().unwrap();
    assert!(last >= next);
    assert!(publish(store, other, 1, 3) > last);
}

fn locks_have_one_owner(store: &dyn Store) {
    let lock = |name: &str, owner: &str| write(store, |t| t.lock(name, owner, 600));
    let held = LockOutcome::Held {
        owner: "a".to_owned(),
    };
    assert_eq!(lock("l", "a"), LockOutcome::Acquired);
    assert_eq!(lock("l", "b"), held);
    assert_eq!(lock("l", "a"), LockOutcome::Acquired);
    assert_eq!(lock("other", "b"), LockOutcome::Acquired);
    write(store, |t| t.unlock("l", "b"));
    assert_eq!(lock("l", "b"), held);
    write(store, |t| t.unlock("l", "a"));
    write(store, |t| t.unlock("never", "a"));
    assert_eq!(lock("l", "b"), LockOutcome::Acquired);
}

fn a_lock_is_renewed_only_by_who_never_lost_it(store: &dyn Store) {
    let lock = |owner: &str| write(store, |t| t.lock("l", owner, 600));
    let unlock = |owner: &str| write(store, |t| t.unlock("l", owner));
    let renew = |owner: &str| write(store, |t| t.renew_lock("l", owner, 600));
    assert!(!renew("a"));
    assert_eq!(lock("a"), LockOutcome::Acquired);
    assert!(renew("a") && !renew("b"));
    unlock("a");
    assert!(!renew("a"));
    assert_eq!(lock("b"), LockOutcome::Acquired);
    assert!(renew("b") && !renew("a"));
}

fn values_are_set_and_removed_by_scope(store: &dyn Store) {
    let set = |scope: &str, key: &str, value: Option<&[u8]>| {
        write(store, |t| t.set_value(scope, key, value));
    };
    let value = |scope: &str, key: &str| store.read().unwrap().value(scope, key).unwrap();
    set("s", "a", Some(b"1"));
    set("s", "b", Some(b""));
    set("s2", "a", Some(b"\0\xff"));
    set("s", "a", Some(b"2"));
    assert_eq!(value("s", "a").unwrap(), b"2");
    assert_eq!(value("s", "b").unwrap(), b"");
    assert_eq!(value("s2", "a").unwrap(), b"\0\xff");
    assert_eq!(value("s", "A"), None);
    set("s", "a", None);
    set("s", "never", None);
    assert_eq!(value("s", "a"), None);
    for below in ["s/t", "s/t/u", "s/", "s.", "s0", "s\u{e9}"] {
        set(below, "a", Some(b"3"));
    }
    write(store, |t| t.remove_values("s"));
    assert_eq!(value("s", "b"), None);
    for below in ["s/t", "s/t/u", "s/"] {
        assert_eq!(value(below, "a"), None, "{below}");
    }
    for beside in ["s2", "s.", "s0", "s\u{e9}"] {
        assert!(value(beside, "a").is_some(), "{beside}");
    }
}

fn waiting_ends_with_a_commit(store: &dyn Store) {
    let long = Duration::from_secs(60);
    let began = Instant::now();
    let mut seen = store.wait_for_commit(0, long).unwrap();
    let (ready, waits) = mpsc::channel();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            ready.send(()).unwrap();
            // Wakes may be spurious, but the one for the commit must come.
            while store.read().unwrap().value("s", "k").unwrap().is_none() {
                seen = store.wait_for_commit(seen, long).unwrap();
            }
        });
        waits.recv().unwrap();
        write(store, |t| t.set_value("s", "k", Some(b"v")));
        waiter.join().unwrap();
    });
    // A commit that came before the wait counts too.
    let seen = store.wait_for_commit(0, long).unwrap();
    write(store, |t| t.set_value("s", "k", None));
    store.wait_for_commit(seen, long).unwrap();
    assert!(began.elapsed() < long, "no wait lasted until its timeout");
}

fn waiting_ends_with_the_timeout(store: &dyn Store) {
    let mut seen = store.wait_for_commit(0, Duration::ZERO).unwrap();
    let (began, timeout) = (Instant::now(), Duration::from_millis(20));
    let deadline = Duration::from_secs(60);
    // Wakes may be spurious, but not for ever.
    loop {
        let (before, at) = (seen, Instant::now());
        seen = store.wait_for_commit(before, timeout).unwrap();
        if at.elapsed() >= timeout {
            break;
        }
        assert!(began.elapsed() < deadline);
    }
}
