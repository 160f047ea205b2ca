//! How a bucket's registers lie in automerge documents.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;

use std::sync::Arc;

use alknet_fs_core::edit::SetAttrs;
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BranchId, Store};
use alknet_fs_core::sync::{ReplicaId, Scope, VersionVector};
use alknet_fs_core::{Timestamp, TreePath};
use alknet_fs_sync::{Bucket, Document, SHARDS, Share, shard};
use automerge::{Automerge, ROOT, ReadDoc};
use common::stored;
use serde_bytes::ByteBuf;

fn add_links(store: &dyn Store, branch: BranchId, paths: impl Iterator<Item = String>) {
    let set = SetAttrs::default();
    common::commit(store, branch, Timestamp(5), |editor| {
        for path in paths {
            let path: TreePath = path.parse()?;
            editor.mkdir_all(&path.parent().unwrap(), &set)?;
            editor.symlink(&path, "target", &set)?;
        }
        Ok(())
    });
}

/// What a change costs is that of the documents of its directories, not of the bucket.
#[test]
fn directories_are_spread_over_documents_and_a_commit_writes_only_to_its_own() {
    let store = Arc::new(MemoryStore::default());
    let number = common::make_empty(&*store);
    let mut bucket = Bucket::open(Arc::clone(&store) as _, number, ReplicaId([1; 16])).unwrap();
    let scope = Scope::of_first_branch();
    bucket.gather(Timestamp(8)).unwrap();
    let documents = || stored::all_bytes(&*store, number, scope);
    let begun = documents();
    assert!(begun.len() <= 2, "{:?}", begun.keys());

    let main = bucket.scopes().next().unwrap().1.unwrap();
    add_links(&*store, main, (0..2000).map(|n| format!("/{n}/link")));
    bucket.gather(Timestamp(9)).unwrap();
    let before = documents();
    let count = before.keys().filter(|number| **number < SHARDS).count();
    // By chance, none of 2,000 is in one of 256 once in some ten thousand times.
    assert!(count > 250, "{count} documents");
    stored::documents(&*store, number, scope).assert_flat();

    add_links(&*store, main, ["/7/other".to_owned()].into_iter());
    bucket.gather(Timestamp(10)).unwrap();
    let after = documents();
    assert!(after.keys().eq(before.keys()));
    let changed = after
        .iter()
        .filter(|(number, bytes)| before[number] != **bytes);
    let changed: Vec<_> = changed.map(|(number, _)| *number).collect();
    assert_eq!(changed, [shard("/7")]);
}

/// A document can be read by any program that knows automerge.
#[test]
fn documents_are_those_of_automerge() {
    let (replica, bytes) = (ReplicaId([7; 16]), b"any bytes".to_vec());
    let mut document = Document::new();
    let share = Share {
        replica,
        number: 3,
        seen: VersionVector::new(),
        values: vec![("/dir/a".to_owned(), ByteBuf::from(bytes.clone()))],
    };
    document.put(&share).unwrap();
    let doc = Automerge::load(&document.save()).unwrap();
    let (held, _) = doc.get(ROOT, "/dir/a").unwrap().unwrap();
    assert_eq!(held.as_bytes().unwrap(), bytes);
    let change = &doc.get_changes_meta(&[])[0];
    assert_eq!(
        (change.actor.to_bytes(), change.timestamp),
        (&replica.0[..], 3)
    );
    assert_eq!(document.shares().unwrap(), [share]);
}
