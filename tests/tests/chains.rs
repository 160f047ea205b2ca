//! Chains of every length, among crowds of other branches' rows: what a branch shows does not depend
//! on the way in which it is looked up, one span after the other or by leaps over all layers.
//!
//! A failure prints the shrunk steps, and as JSON for `ALKFS_TEST_REPLAY`, which makes
//! `replays_given_steps` carry out just those:
//!
//! ```text
//! ALKFS_TEST_REPLAY='[...]' cargo test -p alknet-fs-tests --test chains replays
//! ```
//!
//! `ALKFS_TEST_SCALE` multiplies the number of cases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use alknet_fs_core::TreePath;
use alknet_fs_core::store::Store;
use alknet_fs_tests::faulty::FaultyStore;
use alknet_fs_tests::fixture::Fixture;
use alknet_fs_tests::ops::{self, Edit, Op};
use alknet_fs_tests::world::{World, scaled};
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

/// How many branches hold rows of the same names beside every chain.
const SIDES: usize = 24;

/// The number of spans up to which a chain always goes by span, and up to which among crowds, after
/// the words of `core/src/chain.rs`.
const ALWAYS_BY_SPAN: usize = 2;
const BY_SPAN_IN_CROWDS: usize = 8;

/// What every case begins with.
///
/// The branch `main` (1 span); `deep0` to `deep9`, each a live fork of the one before (2 to 11
/// spans); `again`, a fork of `main` that was restored twice, so that it shows itself three times;
/// `pinned`, a fork of one of its snapshots; and branches beside them that write the same names. On
/// the way, names are written, hidden by tombstones, and written again.
fn first() -> Vec<Op> {
    let mut ops = vec![edits(
        0,
        r#"[{"MkdirAll": {"path": "/crowd"}}, {"MkdirAll": {"path": "/a/b"}},
            {"Put": {"path": "/b", "content": 1, "mode": "New", "set": {}}},
            {"Put": {"path": "/a/a", "content": 2, "mode": "New", "set": {}}},
            {"Put": {"path": "/a/b/a", "content": 3, "mode": "New", "set": {}}}]"#,
    )];
    let mut branches = 1;
    let mut fork = |ops: &mut Vec<Op>, name: String, from, at: Option<&str>| {
        let at = at.map(str::to_owned);
        ops.push(Op::Fork { name, from, at });
        branches += 1;
        branches - 1
    };
    let again = fork(&mut ops, "again".to_owned(), 0, None);
    for (n, edit) in [
        r#"[{"Unlink": {"path": "/a/a"}}, {"MkdirAll": {"path": "/a-b"}}]"#,
        r#"[{"RemoveAll": {"path": "/a/b"}}, {"Unlink": {"path": "/b"}}]"#,
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("again{n}");
        ops.push(edits(again, edit));
        ops.push(Op::Snapshot {
            branch: again,
            name: name.clone(),
        });
        let lost = r#"[{"MkdirAll": {"path": "/a/b/b"}}, {"RemoveAll": {"path": "/a-b"}}]"#;
        ops.push(edits(again, lost));
        ops.push(Op::Restore {
            branch: again,
            name,
        });
    }
    fork(&mut ops, "pinned".to_owned(), again, Some("again0"));
    let mut below = 0;
    for n in 0..10 {
        let branch = fork(&mut ops, format!("deep{n}"), below, None);
        let edit = match n % 5 {
            0 => r#"[{"Put": {"path": "/a/é", "content": 1, "mode": "Any", "set": {}}}]"#,
            1 => r#"[{"RemoveAll": {"path": "/a"}}]"#,
            2 => r#"[{"MkdirAll": {"path": "/a/b/a"}}]"#,
            3 => r#"[{"Rename": {"from": "/a/b", "to": "/a-b", "replace": true}}]"#,
            _ => r#"[{"RemoveAll": {"path": "/a-b"}}, {"MkdirAll": {"path": "/a/b"}}]"#,
        };
        ops.push(edits(branch, edit));
        below = branch;
    }
    for n in 0..SIDES {
        let branch = fork(&mut ops, format!("side{n}"), 0, None);
        ops.push(edits(
            branch,
            r#"[{"Put": {"path": "/crowd/x", "content": 1, "mode": "New", "set": {}}},
                {"Put": {"path": "/crowd/y", "content": 2, "mode": "New", "set": {}}},
                {"Put": {"path": "/a/a", "content": 3, "mode": "Any", "set": {}}},
                {"Put": {"path": "/a/é", "content": 0, "mode": "Any", "set": {}}},
                {"Put": {"path": "/a/b/é", "content": 0, "mode": "Any", "set": {}}},
                {"RemoveAll": {"path": "/b"}}, {"MkdirAll": {"path": "/é/b"}}]"#,
        ));
    }
    ops
}

fn edits(branch: usize, edits: &str) -> Op {
    let edits: Vec<Edit> = serde_json::from_str(edits).unwrap();
    Op::Edits {
        branch,
        edits,
        commit: true,
    }
}

/// Draws a step on any of the first branches, the crowd left alone.
fn op() -> impl Strategy<Value = Op> {
    (ops::op(), 0..10usize).prop_map(|(mut op, by)| {
        match &mut op {
            Op::Edits { branch, .. }
            | Op::Fork { from: branch, .. }
            | Op::RenameBranch { branch, .. }
            | Op::DeleteBranch { branch }
            | Op::Snapshot { branch, .. }
            | Op::DeleteSnapshot { branch, .. }
            | Op::Restore { branch, .. } => *branch += by,
        }
        op
    })
}

/// Carries out the steps and compares; notes the lengths of the chains that it met.
fn compare(
    store: &FaultyStore,
    bucket: &str,
    ops: &[Op],
    met: &Mutex<BTreeSet<usize>>,
) -> Result<(), String> {
    let mut world = World::new(store as &dyn Store, bucket).map_err(|e| e.to_string())?;
    for (i, op) in ops.iter().enumerate() {
        world
            .step(op)
            .map_err(|e| format!("step {i}: {op:?}: {e}"))?;
    }
    let crowd = TreePath::parse("/crowd").unwrap();
    let mut sides = 0;
    for view in world.views() {
        // Two of those that are alike will do.
        sides += usize::from(view.0.starts_with("side"));
        if view.0.starts_with("side") && sides > 2 {
            continue;
        }
        let mut comparisons = 0;
        let spans = world.check_ways(&view, &crowd, &mut |spans, crowded| {
            let calls = store.take_calls();
            let called = |name| calls.get(name).copied().unwrap_or(0);
            let (leaps, seeks) = (called("seek"), called("seek_in"));
            let by_span = spans <= ALWAYS_BY_SPAN || (crowded && spans <= BY_SPAN_IN_CROWDS);
            let as_meant = match by_span {
                true => seeks > 0 && leaps == 0 && called("scan_dir") == 0,
                false => leaps > 0 && seeks == 0 && called("scan_dir") > 0,
            };
            comparisons += 1;
            // The first call only ends what came before.
            match as_meant || comparisons == 1 {
                true => Ok(()),
                false => Err(format!("{spans} spans, crowded: {crowded}: {calls:?}")),
            }
        })?;
        met.lock().unwrap().insert(spans);
    }
    Ok(())
}

fn check(cases: u32, store: impl Fn() -> (FaultyStore, Box<dyn Send>), shared: bool) {
    let config = ProptestConfig {
        cases: scaled(cases),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    };
    let met = Mutex::new(BTreeSet::new());
    let (one, count) = (store(), AtomicU32::new(0));
    let ops = proptest::collection::vec(op(), 0..20);
    let run = TestRunner::new(config).run(&ops, |ops| {
        let ops: Vec<Op> = first().into_iter().chain(ops).collect();
        let bucket = format!("bucket{}", count.fetch_add(1, Ordering::Relaxed));
        let compared = match shared {
            true => compare(&one.0, &bucket, &ops, &met),
            false => compare(&store().0, &bucket, &ops, &met),
        };
        compared.map_err(|mismatch| {
            let json = serde_json::to_string(&ops).unwrap();
            TestCaseError::fail(format!("{mismatch}\nALKFS_TEST_REPLAY='{json}'"))
        })
    });
    match run {
        Ok(()) => {}
        // The reason holds the steps; the value would be the same again, in 300 lines.
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(abort) => panic!("{abort}"),
    }
    let met = met.into_inner().unwrap();
    assert!((1..=10).all(|spans| met.contains(&spans)), "{met:?}");
}

fn memory() -> (FaultyStore, Box<dyn Send>) {
    let (store, guard) = Fixture::memory().map(FaultyStore::new);
    (store, Box::new(guard))
}

fn sqlite() -> (FaultyStore, Box<dyn Send>) {
    let (store, guard) = Fixture::sqlite().map(FaultyStore::new);
    (store, Box::new(guard))
}

#[test]
fn memory_shows_the_same_both_ways() {
    check(120, memory, false);
}

/// One store serves all cases, each in a bucket of its own.
#[test]
fn sqlite_shows_the_same_both_ways() {
    check(8, sqlite, true);
}

/// Carries out the steps of `ALKFS_TEST_REPLAY`, as a failing test printed them, on both stores.
#[test]
fn replays_given_steps() {
    let json = std::env::var("ALKFS_TEST_REPLAY").unwrap_or_else(|_| "[]".to_owned());
    let ops: Vec<Op> = serde_json::from_str(&json).unwrap();
    let ops = if ops.is_empty() { first() } else { ops };
    for (store, _guard) in [memory(), sqlite()] {
        compare(&store, "t", &ops, &Mutex::default()).unwrap();
    }
}

#[test]
fn many_versions_of_a_name_do_not_hide_the_next_name() {
    let dir = tempfile::tempdir().unwrap();
    let relaxed = || alknet_fs::Options::new().durability(alknet_fs::Durability::Relaxed);
    for store in [
        relaxed().memory().unwrap(),
        relaxed().create(dir.path().join("store")).unwrap(),
    ] {
        let main = store.bucket("default").unwrap().main().unwrap();
        let mut expected = Vec::new();
        for version in 0..60_u64 {
            for (n, name) in ["a", "b", "c", "d"].iter().enumerate() {
                // Each has another number of versions, and the second was removed in the end.
                if version >= 15 * n as u64 {
                    main.write(format!("/{name}"), version.to_string()).unwrap();
                }
            }
            main.snapshot(&version.to_string()).unwrap();
        }
        main.remove("/b").unwrap();
        let fork = main.fork("fork").unwrap();
        fork.write("/c", "forked").unwrap();
        for branch in [&main, &fork] {
            let listed = branch.list("/").unwrap();
            let names: Vec<_> = listed.iter().map(|e| &*e.name).collect();
            assert_eq!(names, ["a", "c", "d"]);
            for item in listed {
                let path = format!("/{}", item.name);
                assert_eq!(item.entry, branch.stat(&path).unwrap(), "{path}");
                expected.push(path);
            }
        }
        assert_eq!(expected.len(), 6);
    }
}
