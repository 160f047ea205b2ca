//! Making a store while others open it.
#![allow(clippy::unwrap_used)]

use std::{fs, thread};

use alknet_fs::{ErrorKind, Options, Store};
use alknet_fs_sqlite::SqliteStore;

#[test]
fn all_who_open_a_new_store_find_its_first_bucket() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let path = &dir.path().join("store");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let store = Options::new().open_or_create(path).unwrap();
                    store.bucket("default").unwrap().main().unwrap();
                });
            }
        });
        assert_eq!(Store::open(path).unwrap().buckets().unwrap(), ["default"]);
    }
}

#[test]
fn a_store_that_was_made_in_part_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(SqliteStore::create(&path, alknet_fs_sqlite::Options::default()).unwrap());
    let store = Store::open(&path).unwrap();
    assert_eq!(store.buckets().unwrap(), ["default"]);
}

#[test]
fn a_store_that_somebody_begins_to_make_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("store.db"), "").unwrap();
    let refused = Store::open(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotAStore);
    let store = Options::new().open_or_create(&path).unwrap();
    assert_eq!(store.buckets().unwrap(), ["default"]);
}

#[test]
fn contents_without_their_database_are_no_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(Store::create(&path).unwrap());
    fs::write(path.join("store.db"), "").unwrap();
    let refused = Options::new().open_or_create(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotAStore);
    fs::write(path.join("store.db"), "text, and no database at all").unwrap();
    let refused = Options::new().open_or_create(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotAStore);
}

#[test]
fn a_bucket_that_was_deleted_stays_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    Store::create(&path)
        .unwrap()
        .delete_bucket("default")
        .unwrap();
    let store = Store::open(&path).unwrap();
    assert!(store.buckets().unwrap().is_empty());
    store.create_bucket("other").unwrap();
    drop(store);
    assert_eq!(Store::open(&path).unwrap().buckets().unwrap(), ["other"]);
}
