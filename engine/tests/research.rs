//! The research's fifteen tests by their names, on the store in memory and on the one on disk.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use alknet_fs::{
    Branch, Cursor, EventFilter, Hash, Kind, Op, OpenOptions, Store, TreePath, WatchOptions,
};

struct Fixture {
    store: Store,
    main: Branch,
    _dir: Option<tempfile::TempDir>,
}

fn in_memory() -> Fixture {
    let store = Store::memory().unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    Fixture {
        store,
        main,
        _dir: None,
    }
}

fn on_disk() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("store")).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    Fixture {
        store,
        main,
        _dir: Some(dir),
    }
}

/// Makes a module of tests for each kind of store.
macro_rules! on_every_store {
    ($($name:ident)*) => {
        mod memory { $(#[test] fn $name() { super::$name(super::in_memory()); })* }
        mod sqlite { $(#[test] fn $name() { super::$name(super::on_disk()); })* }
    };
}

on_every_store! {
    put_get_roundtrip
    rename_is_o1_on_path_edges
    branch_inherits_parent_content
    branch_modifications_do_not_leak_to_parent
    tombstone_hides_parent_file_on_child
    content_is_deduped_across_branches
    multi_bucket_isolation
    watch_fires_on_commit
    chunked_write_close_produces_correct_hash
    chunked_write_out_of_order
    concurrent_reader_sees_old_version_during_write
    abort_leaves_old_version_untouched
    abort_on_new_file_leaves_no_trace
    large_chunked_file_writes_correctly
    multiple_concurrent_write_sessions_same_path
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

fn put_get_roundtrip(f: Fixture) {
    for len in [0, 1, 4096, 65_536, 65_537, 3_000_000] {
        let bytes = pattern(len);
        f.main.write("/file", bytes.clone()).unwrap();
        let entry = f.main.stat("/file").unwrap();
        assert_eq!((entry.kind(), entry.size()), (Kind::File, len as u64));
        assert_eq!(entry.hash(), Some(Hash::of(&bytes)));
        assert_eq!(f.main.read("/file").unwrap(), bytes);
    }
}

fn rename_is_o1_on_path_edges(f: Fixture) {
    let bytes = pattern(2_000_000);
    f.main.write("/a", bytes.clone()).unwrap();
    let before = f.main.stat("/a").unwrap();
    f.main.rename("/a", "/b").unwrap();
    let after = f.main.stat("/b").unwrap();
    assert_eq!(before.node, after.node);
    assert!(!f.main.exists("/a").unwrap());
    assert_eq!(f.main.read("/b").unwrap(), bytes);
}

fn branch_inherits_parent_content(f: Fixture) {
    f.main.mkdir("/dir").unwrap();
    f.main.write("/dir/shared", "hello from main").unwrap();
    let agent = f.main.fork("agent-a").unwrap();
    assert_eq!(agent.read("/dir/shared").unwrap(), b"hello from main");
    assert_eq!(agent.list("/dir").unwrap(), f.main.list("/dir").unwrap());
    // A live fork sees what the parent writes later.
    f.main.write("/dir/later", "x").unwrap();
    assert_eq!(agent.read("/dir/later").unwrap(), b"x");
}

fn branch_modifications_do_not_leak_to_parent(f: Fixture) {
    f.main.write("/shared", "main").unwrap();
    let agent = f.main.fork("agent-a").unwrap();
    agent.write("/shared", "agent").unwrap();
    agent.write("/own", "agent").unwrap();
    assert_eq!(f.main.read("/shared").unwrap(), b"main");
    assert!(!f.main.exists("/own").unwrap());
    assert_eq!(agent.read("/shared").unwrap(), b"agent");
}

fn tombstone_hides_parent_file_on_child(f: Fixture) {
    f.main.write("/main-only", "x").unwrap();
    let agent = f.main.fork("agent-a").unwrap();
    agent.remove("/main-only").unwrap();
    assert!(!agent.exists("/main-only").unwrap());
    assert!(agent.list("/").unwrap().is_empty());
    assert!(f.main.exists("/main-only").unwrap());
    agent.write("/main-only", "again").unwrap();
    assert_eq!(agent.read("/main-only").unwrap(), b"again");
}

fn content_is_deduped_across_branches(f: Fixture) {
    let bytes = pattern(500_000);
    f.main.write("/a", bytes.clone()).unwrap();
    let agent = f.main.fork("agent-a").unwrap();
    agent.write("/b", bytes.clone()).unwrap();
    assert_eq!(
        f.main.stat("/a").unwrap().hash(),
        agent.stat("/b").unwrap().hash()
    );
    if let Some(path) = f.store.path() {
        let blobs: Vec<_> = std::fs::read_dir(path.join("blobs")).unwrap().collect();
        assert_eq!(blobs.len(), 1, "one content, one file: {blobs:?}");
    }
}

fn multi_bucket_isolation(f: Fixture) {
    let alpha = f.store.create_bucket("alpha").unwrap().main().unwrap();
    let beta = f.store.create_bucket("beta").unwrap().main().unwrap();
    alpha.write("/secret", "alpha").unwrap();
    assert!(!beta.exists("/secret").unwrap());
    assert!(beta.list("/").unwrap().is_empty());
    beta.write("/secret", "beta").unwrap();
    assert_eq!(alpha.read("/secret").unwrap(), b"alpha");
    f.store.delete_bucket("alpha").unwrap();
    assert_eq!(beta.read("/secret").unwrap(), b"beta");
}

fn watch_fires_on_commit(f: Fixture) {
    let options = WatchOptions {
        bucket: Some("default".to_owned()),
        filter: EventFilter::all().under(TreePath::parse("/src").unwrap()),
        after: None,
    };
    let mut watcher = f.store.watch(&options).unwrap();
    let main = f.main.clone();
    let writer = std::thread::spawn(move || {
        main.mkdir("/src").unwrap();
        main.write("/elsewhere", "x").unwrap();
        main.write("/src/a", "x").unwrap();
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut seen = Vec::new();
    while seen.len() < 2 && Instant::now() < deadline {
        seen.extend(watcher.next_timeout(Duration::from_secs(5)).unwrap());
    }
    writer.join().unwrap();
    let what: Vec<_> = seen
        .iter()
        .map(|e| (e.change.op, e.change.path.clone()))
        .collect();
    let path = |p: &str| Some(TreePath::parse(p).unwrap());
    assert_eq!(
        what,
        [(Op::Create, path("/src")), (Op::Create, path("/src/a"))]
    );
    // A rolled-back change leaves no event, and a cursor resumes where it was given out.
    let mut batch = f.main.batch();
    batch.write("/src/b", "x").unwrap();
    batch.remove("/missing").unwrap();
    assert!(batch.commit().unwrap_err().is_not_found());
    assert_eq!(watcher.next_timeout(Duration::ZERO).unwrap(), None);
    let again = WatchOptions {
        after: Some(seen[0].cursor),
        ..options
    };
    let mut again = f.store.watch(&again).unwrap();
    assert_eq!(again.next_ready().unwrap().as_ref(), Some(&seen[1]));
    assert_eq!(again.next_ready().unwrap(), None);
    assert!(again.cursor() > Cursor::START);
}

fn chunked_write_close_produces_correct_hash(f: Fixture) {
    let bytes = pattern(100_000);
    let session = f.main.open_session("/file", &OpenOptions::new()).unwrap();
    for (i, chunk) in bytes.chunks(32_768).enumerate() {
        session.write_at(i as u64 * 32_768, chunk).unwrap();
    }
    let closed = session.close().unwrap();
    assert_eq!(closed.hash, Hash::of(&bytes));
    assert_eq!(f.main.read("/file").unwrap(), bytes);
}

fn chunked_write_out_of_order(f: Fixture) {
    let session = f.main.open_session("/file", &OpenOptions::new()).unwrap();
    session.write_at(6, b"world").unwrap();
    session.write_at(0, b"hello ").unwrap();
    // The newest write wins where a later, shorter one starts before an earlier one.
    session.write_at(4, b"O-W").unwrap();
    let mut seen = [0; 11];
    assert_eq!(session.read_at(0, &mut seen).unwrap(), 11);
    assert_eq!(&seen, b"hellO-World");
    session.close().unwrap();
    assert_eq!(f.main.read("/file").unwrap(), b"hellO-World");
}

fn concurrent_reader_sees_old_version_during_write(f: Fixture) {
    f.main.write("/file", "old").unwrap();
    let truncate = OpenOptions::new().truncate(true);
    let session = f.main.open_session("/file", &truncate).unwrap();
    session.write_at(0, b"brand new").unwrap();
    assert_eq!(f.main.read("/file").unwrap(), b"old");
    session.close().unwrap();
    assert_eq!(f.main.read("/file").unwrap(), b"brand new");
}

fn abort_leaves_old_version_untouched(f: Fixture) {
    f.main.write("/file", "old").unwrap();
    let session = f.main.open_session("/file", &OpenOptions::new()).unwrap();
    session.write_at(0, &pattern(1_000_000)).unwrap();
    session.abort().unwrap();
    assert_eq!(f.main.read("/file").unwrap(), b"old");
    assert!(f.store.sessions().unwrap().is_empty());
}

fn abort_on_new_file_leaves_no_trace(f: Fixture) {
    let session = f.main.open_session("/new", &OpenOptions::new()).unwrap();
    session.write_at(0, b"x").unwrap();
    assert_eq!(f.store.sessions().unwrap().len(), 1);
    drop(session);
    assert!(!f.main.exists("/new").unwrap());
    assert!(f.main.list("/").unwrap().is_empty());
    assert!(f.store.sessions().unwrap().is_empty());
}

fn large_chunked_file_writes_correctly(f: Fixture) {
    let bytes = pattern(5 << 20);
    let session = f.main.open_session("/large", &OpenOptions::new()).unwrap();
    for (i, chunk) in bytes.chunks(32_768).enumerate() {
        session.write_at(i as u64 * 32_768, chunk).unwrap();
    }
    assert_eq!(session.close().unwrap().hash, Hash::of(&bytes));
    assert_eq!(f.main.read("/large").unwrap(), bytes);
    let edit = f.main.open_session("/large", &OpenOptions::new()).unwrap();
    edit.write_at(3_000_000, b"!").unwrap();
    let mut edited = bytes;
    edited[3_000_000] = b'!';
    assert_eq!(edit.close().unwrap().hash, Hash::of(&edited));
    assert_eq!(f.main.read("/large").unwrap(), edited);
}

fn multiple_concurrent_write_sessions_same_path(f: Fixture) {
    let one = f.main.open_session("/file", &OpenOptions::new()).unwrap();
    let two = f.main.open_session("/file", &OpenOptions::new()).unwrap();
    one.write_at(0, b"one-one").unwrap();
    two.write_at(0, b"two").unwrap();
    one.write_at(3, b"+").unwrap();
    one.close().unwrap();
    assert_eq!(f.main.read("/file").unwrap(), b"one+one");
    two.close().unwrap();
    assert_eq!(f.main.read("/file").unwrap(), b"two");
    let exclusive = OpenOptions::new().exclusive(true).owner("agent-7");
    let held = f.main.open_session("/file", &exclusive).unwrap();
    let error = f.main.open_session("/file", &exclusive).unwrap_err();
    assert!(
        error.is_locked() && error.to_string().contains("agent-7"),
        "{error}"
    );
    held.abort().unwrap();
    f.main
        .open_session("/file", &exclusive)
        .unwrap()
        .abort()
        .unwrap();
}
