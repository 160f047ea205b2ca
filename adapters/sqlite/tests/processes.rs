//! Several processes on one store.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::PathBuf;
use std::process::{Child, Command};

use alknet_fs_core::ErrorKind;
use alknet_fs_core::entry::Timestamp;
use alknet_fs_core::event::{Change, Commit, Cursor, Op};
use alknet_fs_core::store::{BucketId, Durability, Store};
use alknet_fs_sqlite::{Options, SqliteStore};

const DIR: &str = "ALKFS_TEST_DIR";
const NAME: &str = "ALKFS_TEST_NAME";
const PROCESSES: usize = 4;
const COMMITS: usize = 100;

/// What each process does: makes or opens the store, and commits; each commit adds one to a
/// counter that it reads in the same transaction.
#[test]
#[ignore = "runs in processes that the other test starts"]
fn one_process() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let author = std::env::var(NAME).unwrap();
    let store = match SqliteStore::create(&dir, Options::default()) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            SqliteStore::open(&dir, Options::default()).unwrap()
        }
        store => store.unwrap(),
    };
    for _ in 0..COMMITS {
        let mut txn = store.write(Durability::Relaxed).unwrap();
        let bucket = match txn.bucket_named("b").unwrap() {
            Some(bucket) => bucket.id,
            None => txn.add_bucket("b", Timestamp(0)).unwrap().id,
        };
        let count = txn
            .value("test", "count")
            .unwrap()
            .map_or(0, |v| number(&v))
            + 1;
        txn.set_value("test", "count", Some(count.to_string().as_bytes()))
            .unwrap();
        let commit = Commit {
            at: Timestamp(0),
            author: author.clone(),
            branch: "main".into(),
            session: None,
            changes: vec![Change::new(Op::Create)],
        };
        txn.publish(bucket, &commit).unwrap();
        txn.commit().unwrap();
    }
}

fn number(bytes: &[u8]) -> usize {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

#[test]
fn processes_that_make_and_write_one_store_lose_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("s");
    let children: Vec<Child> = (0..PROCESSES)
        .map(|n| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "one_process", "--ignored", "--quiet"])
                .env(DIR, &dir)
                .env(NAME, format!("p{n}"))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let store = SqliteStore::open(&dir, Options::default()).unwrap();
    let txn = store.read().unwrap();
    let all = PROCESSES * COMMITS;
    assert_eq!(number(&txn.value("test", "count").unwrap().unwrap()), all);
    let events = txn
        .events(Some(BucketId(1)), Cursor::START, all + 1)
        .unwrap();
    assert_eq!(events.len(), all);
    for n in 0..PROCESSES {
        let own = events
            .iter()
            .filter(|e| e.author == format!("p{n}"))
            .count();
        assert_eq!(own, COMMITS);
    }
    assert_eq!(store.check(true).unwrap(), Vec::<String>::new());
}
