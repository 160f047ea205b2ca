//! Every call to the store fails once, in every step of a script: the step says so, the store holds
//! what it held before, and the same step succeeds afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::diff::diff;
use alknet_fs_core::edit::{Context, Editor};
use alknet_fs_core::store::{
    BranchId, BucketId, ContentForm, ContentRecord, Durability, ReadTxn, Retention, SessionId,
    SessionOp, SessionRecord, Staging, Store, WriteTxn,
};
use alknet_fs_core::{ErrorKind, Result, Timestamp, TreePath, tree};
use alknet_fs_tests::faulty::{Fault, FaultyStore};
use alknet_fs_tests::fixture::{Fixture, state};
use alknet_fs_tests::ops::{self, Edit};
use alknet_fs_tests::world;

type Step = (&'static str, Box<dyn Fn(&dyn Store) -> Result<()>>);

fn context() -> Context {
    Context {
        now: Timestamp(9),
        author: "test".to_owned(),
        uid: 0,
        gid: 0,
    }
}

fn bucket(txn: &dyn ReadTxn) -> Result<BucketId> {
    Ok(branch::bucket(txn, "t")?.id)
}

fn id(txn: &dyn ReadTxn, name: &str) -> Result<BranchId> {
    Ok(branch::branch(txn, bucket(txn)?, name)?.id)
}

fn writes(name: &'static str, write: impl Fn(&mut dyn WriteTxn) -> Result<()> + 'static) -> Step {
    let step = move |store: &dyn Store| {
        let mut txn = store.write(Durability::Full)?;
        write(&mut *txn)?;
        txn.commit()
    };
    (name, Box::new(step))
}

fn reads(name: &'static str, read: impl Fn(&dyn ReadTxn) -> Result<()> + 'static) -> Step {
    (
        name,
        Box::new(move |store: &dyn Store| read(&*store.read()?)),
    )
}

fn edits(branch: &'static str, json: &'static str) -> Step {
    writes(json, move |txn| {
        let chain = Chain::load(txn, id(txn, branch)?, None)?;
        let mut editor = Editor::new(txn, &chain, context());
        for edit in serde_json::from_str::<Vec<Edit>>(json).unwrap() {
            world::try_apply(&mut editor, &edit)?;
        }
        editor.finish(None).map(drop)
    })
}

fn fork(name: &'static str, from: &'static str, at: Option<&'static str>) -> Step {
    writes("fork", move |txn| {
        let source = ForkSource {
            branch: id(txn, from)?,
            snapshot: at.map(str::to_owned),
        };
        branch::fork(txn, name, &source, &context()).map(drop)
    })
}

fn session(txn: &dyn ReadTxn) -> Result<SessionRecord> {
    Ok(SessionRecord {
        id: SessionId(0),
        branch: id(txn, "b1")?,
        path: TreePath::parse("/d/f")?,
        owner: "test".to_owned(),
        holder: String::new(),
        exclusive: false,
        create_new: false,
        base: None,
        mode: 0o644,
        created: Timestamp(1),
        touched: Timestamp(1),
        staging: Staging::Rows,
    })
}

fn script() -> Vec<Step> {
    vec![
        writes("create bucket", |txn| {
            branch::create_bucket(txn, "t", &context()).map(drop)
        }),
        edits(
            "main",
            r#"[{"MkdirAll": {"path": "/d/sub/x"}},
                {"Put": {"path": "/d/f", "content": 1, "mode": "New", "set": {}}},
                {"Put": {"path": "/d/g", "content": 2, "mode": "Any", "set": {}}},
                {"Symlink": {"path": "/l", "text": "d/f"}}]"#,
        ),
        edits(
            "main",
            r#"[{"Rename": {"from": "/d", "to": "/e", "replace": true}}]"#,
        ),
        edits(
            "main",
            r#"[{"Rename": {"from": "/e", "to": "/d", "replace": true}}]"#,
        ),
        writes("snapshot", |txn| {
            let main = id(txn, "main")?;
            branch::take_snapshot(txn, main, "s", &context()).map(drop)
        }),
        fork("b1", "main", None),
        fork("b2", "main", Some("s")),
        edits(
            "main",
            r#"[{"Rename": {"from": "/d", "to": "/e", "replace": true}}]"#,
        ),
        edits(
            "b1",
            r#"[{"Put": {"path": "/e/sub/new", "content": 3, "mode": "Any", "set": {}}},
                {"Put": {"path": "/e/f", "content": 3, "mode": "Existing", "set": {}}}]"#,
        ),
        edits("main", r#"[{"RemoveAll": {"path": "/e"}}]"#),
        edits(
            "b2",
            r#"[{"Copy": {"from": "/d", "to": "/copy", "replace": false}},
                {"SetAttrs": {"path": "/l", "set": {"mode": 384}, "follow": true}},
                {"RemoveAll": {"path": "/d/sub"}}, {"MkdirAll": {"path": "/d/sub/y"}}]"#,
        ),
        reads("walk and hash", |txn| {
            let chain = branch::chain_at(txn, id(txn, "b2")?, None)?;
            world::walk_all(txn, &chain)?;
            tree::tree_hash(txn, &chain).map(drop)
        }),
        reads("diff", |txn| {
            let a = branch::chain_at(txn, id(txn, "main")?, Some("s"))?;
            let b = branch::chain_at(txn, id(txn, "b1")?, None)?;
            let found = diff(txn, &a, &b, &TreePath::root())?;
            assert!(!found.is_empty());
            Ok(())
        }),
        writes("open a session", |txn| {
            let session = session(txn)?;
            let id = txn.add_session(&session)?;
            let data = b"xyz".to_vec();
            txn.add_session_op(id, &SessionOp::Write { offset: 0, data })
        }),
        writes("close the session", |txn| {
            let b1 = id(txn, "b1")?;
            let session = txn.sessions(Some(b1))?.remove(0);
            txn.session_ops(session.id)?;
            let (hash, size) = ops::content(3);
            txn.add_content(&ContentRecord {
                hash,
                size,
                form: ContentForm::Inline,
                base: None,
                data: b"xxx".to_vec(),
                created: Timestamp(2),
            })?;
            txn.remove_session(session.id)?;
            let chain = Chain::load(txn, b1, None)?;
            let mut editor = Editor::new(txn, &chain, context());
            let put = r#"{"Put": {"path": "/e/closed", "content": 3, "mode": "Any", "set": {}}}"#;
            world::try_apply(&mut editor, &serde_json::from_str(put).unwrap())?;
            editor.finish(Some(session.id)).map(drop)
        }),
        writes("restore", |txn| {
            let main = id(txn, "main")?;
            branch::restore(txn, main, "s", &context())
        }),
        writes("rename branch", |txn| {
            let b2 = id(txn, "b2")?;
            branch::rename_branch(txn, b2, "b3", &context())
        }),
        writes("delete branch", |txn| {
            let b3 = id(txn, "b3")?;
            branch::delete_branch(txn, b3, &context())
        }),
        writes("delete snapshot", |txn| {
            let main = id(txn, "main")?;
            branch::delete_snapshot(txn, main, "s", &context())
        }),
        writes("prune", |txn| {
            let retention = Retention {
                not_before: None,
                at_most: Some(0),
            };
            let bucket = bucket(txn)?;
            txn.prune_events(bucket, &retention).map(drop)
        }),
        writes("remove bucket", |txn| {
            let bucket = bucket(txn)?;
            txn.remove_bucket(bucket)
        }),
    ]
}

/// Returns what a store holds before the script and after each step of it.
fn states(script: &[Step]) -> Vec<Vec<String>> {
    let fixture = Fixture::memory();
    let mut out = vec![state(fixture.store())];
    for (name, step) in script {
        step(fixture.store()).unwrap_or_else(|e| panic!("{name}: {e}"));
        out.push(state(fixture.store()));
    }
    out
}

fn every_call_may_fail(fixture: Fixture) {
    let script = script();
    let states = states(&script);
    let (store, _guard) = fixture.map(FaultyStore::new);
    let mut faults = 0;
    for (i, (name, step)) in script.iter().enumerate() {
        let mut call = 1;
        loop {
            let kind = [ErrorKind::Io, ErrorKind::NoSpace][call as usize % 2];
            store.arm(Fault::Call(call, kind));
            let result = step(&store);
            if !store.disarm() {
                result.unwrap_or_else(|e| panic!("{name}: {e}"));
                break;
            }
            let failed = result.expect_err("a step does not hide a fault");
            assert_eq!(failed.kind(), kind, "{name}: call {call}: {failed}");
            assert_eq!(state(&store), states[i], "{name}: call {call}: {failed}");
            faults += 1;
            call += 1;
        }
        assert_eq!(state(&store), states[i + 1], "{name}");
        assert!(call > 2, "{name} makes calls");
    }
    assert!(
        faults > 500,
        "{faults} faults are too few to have met every call"
    );
}

fn a_commit_counts_though_its_caller_is_told_it_failed(fixture: Fixture) {
    let script = script();
    let states = states(&script);
    let (store, _guard) = fixture.map(FaultyStore::new);
    for (i, (name, step)) in script.iter().enumerate() {
        store.arm(Fault::LostCommit(ErrorKind::Io));
        let result = step(&store);
        let failed = store.disarm();
        assert_eq!(result.is_err(), failed, "{name}");
        assert_eq!(failed, states[i] != states[i + 1], "{name}");
        assert_eq!(state(&store), states[i + 1], "{name}");
    }
}

#[test]
fn every_call_may_fail_on_memory() {
    every_call_may_fail(Fixture::memory());
}

#[test]
fn every_call_may_fail_on_sqlite() {
    every_call_may_fail(Fixture::sqlite());
}

#[test]
fn a_commit_counts_though_its_caller_is_told_it_failed_on_memory() {
    a_commit_counts_though_its_caller_is_told_it_failed(Fixture::memory());
}

#[test]
fn a_commit_counts_though_its_caller_is_told_it_failed_on_sqlite() {
    a_commit_counts_though_its_caller_is_told_it_failed(Fixture::sqlite());
}
