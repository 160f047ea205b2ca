//! Entries that arrive by synchronisation, before their contents.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use alknet_fs::{
    Branch, BucketId, ContentPolicy, ContentSource, Durability, ErrorKind, Fetch, FsckOptions,
    Hash, Outcome, Store, Task, Timestamp, Want,
};
use alknet_fs_content::{Config, Contents};
use alknet_fs_core::store::Store as _;
use alknet_fs_core::sync::{Replica, ReplicaId, VersionVector};
use alknet_fs_sqlite::{Options, SqliteStore};
use alknet_fs_sync::Bucket;

/// Has what another store has.
struct Other {
    from: Branch,
    into: SqliteStore,
    contents: Contents,
}

impl ContentSource for Other {
    fn fetch(&self, wants: &[Want], fetch: &Fetch) {
        for (at, want) in wants.iter().enumerate() {
            let bytes = self.from.view().unwrap().open_content(&want.hash).unwrap();
            assert_eq!(bytes.size(), want.size);
            let prepared = self.contents.prepare_bytes(bytes.into_bytes().unwrap());
            let mut txn = self.into.write(Durability::Full).unwrap();
            let mut prepared = [prepared.unwrap()];
            let commit = self.contents.commit(&mut *txn, &mut prepared, Timestamp(1));
            commit.unwrap();
            txn.commit().unwrap();
            fetch.done(at, Outcome::Here { from: None });
        }
    }

    fn holders(&self, _: BucketId, hashes: &[Hash], _: Instant) -> Vec<Vec<String>> {
        vec![vec!["the other".to_owned()]; hashes.len()]
    }
}

fn rows(store: &Path) -> SqliteStore {
    SqliteStore::open(store, Options::default()).unwrap()
}

/// Lets a bucket know all that another knows.
fn send(from: &Bucket, to: &mut Bucket) {
    for scope in from.vectors().unwrap().into_keys() {
        let nothing = VersionVector::new();
        let cuts = from.cuts_after(scope, &nothing, usize::MAX).unwrap();
        to.apply(scope, &cuts).unwrap();
    }
}

#[test]
fn entries_arrive_without_contents_which_come_when_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    let [a, b] = [&paths[0], &paths[1]].map(|path| Store::create(path).unwrap());
    let large: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let there = a.bucket("default").unwrap();
    let main = there.main().unwrap();
    main.mkdir("/d").unwrap();
    main.write("/d/small", "small").unwrap();
    main.write("/d/large", large.clone()).unwrap();
    main.snapshot("v1").unwrap();
    let open = |path: &Path, id, replica| {
        let replica = ReplicaId([replica; 16]);
        Bucket::open(Arc::new(rows(path)), id, replica).unwrap()
    };
    let mut from = open(&paths[0], there.id(), 1);
    from.gather(Timestamp(1)).unwrap();
    let mut txn = rows(&paths[1]).write(Durability::Full).unwrap();
    let joined = txn.add_bucket("joined", Timestamp(1)).unwrap().id;
    txn.commit().unwrap();
    let mut to = open(&paths[1], joined, 2);
    send(&from, &mut to);

    let here = b.bucket("joined").unwrap();
    let copy = here.main().unwrap();
    assert_eq!(copy.list("/d").unwrap().len(), 2);
    assert_eq!(copy.view().unwrap().content_form("/d/large").unwrap(), None);
    let error = copy.read("/d/small").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentUnavailable, "{error}");
    let check = || b.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    assert_eq!((check().away, check().problems), (2, Vec::new()));

    let source = Arc::new(Other {
        from: main.clone(),
        into: rows(&paths[1]),
        contents: Contents::open_store(&paths[1], Config::default()).unwrap(),
    });
    let service = b.serve_contents(source).unwrap();
    assert_eq!(copy.read("/d/small").unwrap(), b"small");
    let snapshot = copy.view_at("v1").unwrap();
    assert_eq!(snapshot.read("/d/large").unwrap(), large);
    assert_eq!((check().away, check().problems), (0, Vec::new()));
    drop(snapshot);
    assert_eq!(b.evict(0, &Task::new()).unwrap().contents, 2);
    assert_eq!((check().away, check().problems), (2, Vec::new()));

    // What comes later is fetched as it comes, where the bucket is eager.
    here.set_content_policy(ContentPolicy::Eager).unwrap();
    main.write("/d/later", "later").unwrap();
    from.gather(Timestamp(2)).unwrap();
    send(&from, &mut to);
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    while check().away > 0 {
        assert!(Instant::now() < deadline, "{:?}", b.content_queue());
    }
    drop(service);
    assert_eq!(copy.read("/d/later").unwrap(), b"later");
    assert_eq!(copy.read("/d/large").unwrap(), large);
}
