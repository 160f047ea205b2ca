//! Random operations against the reference model.
//!
//! A failure prints the shrunk steps, and as JSON for `ALKFS_TEST_REPLAY`, which makes
//! `replays_given_steps` carry out just those. `ALKFS_TEST_SCALE` multiplies the number of cases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU32, Ordering};

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor};
use alknet_fs_core::store::{Durability, Store};
use alknet_fs_core::{ErrorKind, Timestamp};
use alknet_fs_tests::fixture::Fixture;
use alknet_fs_tests::ops::{Edit, Op, op};
use alknet_fs_tests::world::{self, World, scaled};
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

fn compare(store: &dyn Store, bucket: &str, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut world = World::new(store, bucket).map_err(|e| TestCaseError::fail(e.to_string()))?;
    world.run(ops).map_err(|mismatch| {
        let json = serde_json::to_string(ops).unwrap();
        TestCaseError::fail(format!("{mismatch}\nALKFS_TEST_REPLAY='{json}'"))
    })
}

fn check(cases: u32, prefix: Vec<Op>, check: impl Fn(&[Op]) -> Result<(), TestCaseError>) {
    let config = ProptestConfig {
        cases: scaled(cases),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let ops = proptest::collection::vec(op(), 1..30);
    let run = TestRunner::new(config).run(&ops, |ops| {
        let ops: Vec<Op> = prefix.iter().cloned().chain(ops).collect();
        check(&ops)
    });
    match run {
        Ok(()) => {}
        // The reason holds the steps; the value would be the same again, in 300 lines.
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(abort) => panic!("{abort}"),
    }
}

fn on_memory(cases: u32, prefix: Vec<Op>) {
    check(cases, prefix, |ops| {
        compare(Fixture::memory().store(), "t", ops)
    });
}

fn fork(name: impl ToString, from: usize) -> Op {
    Op::Fork {
        name: name.to_string(),
        from,
        at: None,
    }
}

#[test]
fn memory_agrees_with_the_model() {
    on_memory(3000, Vec::new());
}

/// One store serves all cases, each in a bucket of its own, so that they also prove isolation.
#[test]
fn sqlite_agrees_with_the_model() {
    let fixture = Fixture::sqlite();
    let cases = AtomicU32::new(0);
    check(120, Vec::new(), |ops| {
        let bucket = format!("bucket{}", cases.fetch_add(1, Ordering::Relaxed));
        compare(fixture.store(), &bucket, ops)
    });
}

/// Chains longer than what one listing reads span by span.
#[test]
fn memory_agrees_with_the_model_on_deep_chains() {
    on_memory(300, (0..10).map(|i| fork(format!("deep{i}"), i)).collect());
}

/// Many younger siblings that write the same names, so that listings and look-ups of short and of
/// long chains must leap over them.
#[test]
fn memory_agrees_with_the_model_among_many_siblings() {
    let deep = (0..9).map(|i| fork(format!("deep{i}"), i));
    let sides = (0..18).map(|i| fork(format!("side{i}"), 0));
    let mut prefix: Vec<Op> = deep.chain(sides).collect();
    let edits: Vec<_> =
        serde_json::from_str(r#"[{"MkdirAll": {"path": "/a/b"}}, {"MkdirAll": {"path": "/b"}}]"#)
            .unwrap();
    prefix.extend((10..28).map(|branch| Op::Edits {
        branch,
        edits: edits.clone(),
        commit: true,
    }));
    on_memory(100, prefix);
}

/// Carries out the steps of `ALKFS_TEST_REPLAY`, as a failing test printed them.
#[test]
fn replays_given_steps() {
    let json = std::env::var("ALKFS_TEST_REPLAY").unwrap_or_else(|_| "[]".to_owned());
    let ops: Vec<Op> = serde_json::from_str(&json).unwrap();
    compare(Fixture::memory().store(), "t", &ops).unwrap();
}

/// Puts a tree into a new bucket: directories `/d/sub` and `/empty`, files `/d/f` and `/f`, links
/// `/l` to `/d`, `/loop` to itself and `/gone` to nowhere.
fn small_tree(store: &dyn Store) -> Chain {
    let mut txn = store.write(Durability::Full).unwrap();
    let (_, main) = branch::create_bucket(&mut *txn, "t", &context()).unwrap();
    let source = ForkSource {
        branch: main.id,
        snapshot: None,
    };
    let child = branch::fork(&mut *txn, "child", &source, &context()).unwrap();
    let edits = r#"[
        {"MkdirAll": {"path": "/d/sub"}}, {"MkdirAll": {"path": "/empty"}},
        {"Put": {"path": "/d/f", "content": 1, "mode": "New", "set": {}}},
        {"Put": {"path": "/f", "content": 2, "mode": "New", "set": {}}},
        {"Symlink": {"path": "/l", "text": "d"}},
        {"Symlink": {"path": "/loop", "text": "loop"}},
        {"Symlink": {"path": "/gone", "text": "no/where"}}
    ]"#;
    let chain = Chain::load(&*txn, main.id, None).unwrap();
    let mut editor = Editor::new(&mut *txn, &chain, context());
    for edit in serde_json::from_str::<Vec<Edit>>(edits).unwrap() {
        world::apply(&mut editor, &edit).unwrap();
    }
    editor.finish(None).unwrap();
    let chain = Chain::load(&*txn, child.id, None).unwrap();
    txn.commit().unwrap();
    chain
}

fn context() -> Context {
    Context {
        now: Timestamp(5),
        author: "test".to_owned(),
        uid: 0,
        gid: 0,
    }
}

/// Each edit that must fail, with the kind of its failure, on a live fork of the small tree.
const FAILING: &[(&str, ErrorKind)] = &[
    (
        r#"{"Put": {"path": "/d", "content": 1, "mode": "Any", "set": {}}}"#,
        ErrorKind::IsADirectory,
    ),
    (
        r#"{"Put": {"path": "/l", "content": 1, "mode": "Any", "set": {}}}"#,
        ErrorKind::IsADirectory,
    ),
    (
        r#"{"Put": {"path": "/f", "content": 1, "mode": "New", "set": {}}}"#,
        ErrorKind::AlreadyExists,
    ),
    (
        r#"{"Put": {"path": "/gone", "content": 1, "mode": "New", "set": {}}}"#,
        ErrorKind::AlreadyExists,
    ),
    (
        r#"{"Put": {"path": "/gone", "content": 1, "mode": "Any", "set": {}}}"#,
        ErrorKind::NotFound,
    ),
    (
        r#"{"Put": {"path": "/d/x", "content": 1, "mode": "Existing", "set": {}}}"#,
        ErrorKind::NotFound,
    ),
    (
        r#"{"Put": {"path": "/f/x", "content": 1, "mode": "Any", "set": {}}}"#,
        ErrorKind::NotADirectory,
    ),
    (
        r#"{"Put": {"path": "/loop", "content": 1, "mode": "Any", "set": {}}}"#,
        ErrorKind::TooManyLinks,
    ),
    (
        r#"{"Put": {"path": "/d/x", "content": 1, "mode": "Any", "set": {"mode": 65535}}}"#,
        ErrorKind::InvalidInput,
    ),
    (
        r#"{"Mkdir": {"path": "/d", "set": {}}}"#,
        ErrorKind::AlreadyExists,
    ),
    (
        r#"{"Mkdir": {"path": "/", "set": {}}}"#,
        ErrorKind::AlreadyExists,
    ),
    (
        r#"{"Mkdir": {"path": "/x/y", "set": {}}}"#,
        ErrorKind::NotFound,
    ),
    (
        r#"{"MkdirAll": {"path": "/d/f/x/y"}}"#,
        ErrorKind::NotADirectory,
    ),
    (
        r#"{"MkdirAll": {"path": "/gone/x"}}"#,
        ErrorKind::AlreadyExists,
    ),
    (
        r#"{"Symlink": {"path": "/f", "text": "x"}}"#,
        ErrorKind::AlreadyExists,
    ),
    (
        r#"{"Symlink": {"path": "/x", "text": ""}}"#,
        ErrorKind::InvalidInput,
    ),
    (r#"{"Unlink": {"path": "/d"}}"#, ErrorKind::IsADirectory),
    (r#"{"Unlink": {"path": "/x"}}"#, ErrorKind::NotFound),
    (r#"{"Rmdir": {"path": "/d"}}"#, ErrorKind::NotEmpty),
    (r#"{"Rmdir": {"path": "/l"}}"#, ErrorKind::NotADirectory),
    (r#"{"Rmdir": {"path": "/"}}"#, ErrorKind::InUse),
    (r#"{"RemoveAll": {"path": "/"}}"#, ErrorKind::InUse),
    (r#"{"RemoveAll": {"path": "/d/x"}}"#, ErrorKind::NotFound),
    (
        r#"{"SetAttrs": {"path": "/x", "set": {"mode": 1}, "follow": true}}"#,
        ErrorKind::NotFound,
    ),
    (
        r#"{"SetAttrs": {"path": "/gone", "set": {"mode": 1}, "follow": true}}"#,
        ErrorKind::NotFound,
    ),
    (
        r#"{"Rename": {"from": "/d", "to": "/d/sub/x", "replace": true}}"#,
        ErrorKind::InvalidInput,
    ),
    (
        r#"{"Rename": {"from": "/d", "to": "/f", "replace": true}}"#,
        ErrorKind::NotADirectory,
    ),
    (
        r#"{"Rename": {"from": "/f", "to": "/empty", "replace": true}}"#,
        ErrorKind::IsADirectory,
    ),
    (
        r#"{"Rename": {"from": "/empty", "to": "/d", "replace": true}}"#,
        ErrorKind::NotEmpty,
    ),
    (
        r#"{"Rename": {"from": "/empty", "to": "/d/sub", "replace": false}}"#,
        ErrorKind::AlreadyExists,
    ),
    (
        r#"{"Rename": {"from": "/", "to": "/x", "replace": true}}"#,
        ErrorKind::InUse,
    ),
    (
        r#"{"Rename": {"from": "/f", "to": "/x/y", "replace": true}}"#,
        ErrorKind::NotFound,
    ),
    (
        r#"{"Copy": {"from": "/d", "to": "/d/sub/x", "replace": true}}"#,
        ErrorKind::InvalidInput,
    ),
    (
        r#"{"Copy": {"from": "/d", "to": "/empty", "replace": true}}"#,
        ErrorKind::AlreadyExists,
    ),
    (
        r#"{"Copy": {"from": "/f", "to": "/d/f", "replace": false}}"#,
        ErrorKind::AlreadyExists,
    ),
];

fn failed_edits_write_nothing(store: &dyn Store) {
    let chain = small_tree(store);
    let mut txn = store.write(Durability::Full).unwrap();
    let before = world::dump(&*txn, chain.bucket()).unwrap();
    let mut editor = Editor::new(&mut *txn, &chain, context());
    for (edit, kind) in FAILING {
        let edit: Edit = serde_json::from_str(edit).unwrap();
        assert_eq!(world::apply(&mut editor, &edit), Err(*kind), "{edit:?}");
        let after = world::dump(editor.txn(), chain.bucket()).unwrap();
        assert_eq!(after, before, "{edit:?}");
    }
    assert_eq!(editor.finish(None).unwrap(), None);
}

fn a_dropped_batch_leaves_nothing(store: &dyn Store) {
    let chain = small_tree(store);
    let txn = store.read().unwrap();
    let (before, cursor) = (
        world::dump(&*txn, chain.bucket()).unwrap(),
        txn.last_cursor().unwrap(),
    );
    drop(txn);
    let mut txn = store.write(Durability::Full).unwrap();
    let mut editor = Editor::new(&mut *txn, &chain, context());
    let edits = r#"[{"Rename": {"from": "/d", "to": "/e", "replace": true}},
        {"RemoveAll": {"path": "/f"}}, {"MkdirAll": {"path": "/f/x/y"}}]"#;
    for edit in serde_json::from_str::<Vec<Edit>>(edits).unwrap() {
        world::apply(&mut editor, &edit).unwrap();
    }
    let failing = r#"{"Unlink": {"path": "/d"}}"#;
    world::apply(&mut editor, &serde_json::from_str(failing).unwrap()).unwrap_err();
    editor.finish(None).unwrap().unwrap();
    drop(txn);
    let txn = store.read().unwrap();
    assert_eq!(world::dump(&*txn, chain.bucket()).unwrap(), before);
    assert_eq!(txn.last_cursor().unwrap(), cursor);
}

#[test]
fn failed_edits_write_nothing_on_memory_and_sqlite() {
    failed_edits_write_nothing(Fixture::memory().store());
    failed_edits_write_nothing(Fixture::sqlite().store());
}

#[test]
fn a_dropped_batch_leaves_nothing_on_memory_and_sqlite() {
    a_dropped_batch_leaves_nothing(Fixture::memory().store());
    a_dropped_batch_leaves_nothing(Fixture::sqlite().store());
}
