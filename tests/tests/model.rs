//! Random operations against the reference model.
//!
//! A failure prints the shrunk steps, and as JSON for `ALKFS_TEST_REPLAY`, which makes
//! `replays_given_steps` carry out just those. `ALKFS_TEST_SCALE` multiplies the number of cases.

use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::Store;
use alknet_fs_tests::ops::{Op, op};
use alknet_fs_tests::world::{World, scaled};
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
    check(cases, prefix, |ops| compare(&MemoryStore::new(), "t", ops));
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

/// Chains longer than what one listing reads span by span.
#[test]
fn memory_agrees_with_the_model_on_deep_chains() {
    on_memory(300, (0..10).map(|i| fork(format!("deep{i}"), i)).collect());
}

/// Many siblings that write the same names, so that listings and look-ups must leap over them.
#[test]
fn memory_agrees_with_the_model_among_many_siblings() {
    let mut prefix: Vec<Op> = (0..24).map(|i| fork(format!("side{i}"), 0)).collect();
    let edits: Vec<_> =
        serde_json::from_str(r#"[{"MkdirAll": {"path": "/a/b"}}, {"MkdirAll": {"path": "/b"}}]"#)
            .unwrap();
    prefix.extend((1..25).map(|branch| Op::Edits {
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
    compare(&MemoryStore::new(), "t", &ops).unwrap();
}
