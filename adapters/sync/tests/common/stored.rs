//! The documents that a store keeps of a bucket, as any program finds them that knows automerge.

use std::collections::{BTreeMap, BTreeSet};

use alknet_fs_core::Result;
use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{BranchId, BucketId, ReadTxn, Store};
use alknet_fs_core::sync::{Registers, Scope, Value, project};
use alknet_fs_core::{EntryId, TreePath};
use alknet_fs_sync::{SHARDS, shard};
use automerge::{Automerge, ROOT, ReadDoc, Value as Held};

/// The documents of a scope.
pub(crate) struct Documents {
    /// By their numbers.
    all: BTreeMap<u16, Automerge>,
    /// The paths that have a register, by their directories.
    paths: BTreeMap<String, Vec<TreePath>>,
}

/// Reads the documents of a scope.
pub(crate) fn documents(store: &dyn Store, bucket: BucketId, scope: Scope) -> Documents {
    let all = all_bytes(store, bucket, scope).into_iter();
    let all: BTreeMap<_, _> = all
        .map(|(number, bytes)| (number, Automerge::load(&bytes).unwrap()))
        .collect();
    let mut paths: BTreeMap<String, Vec<TreePath>> = BTreeMap::new();
    for (_, document) in all.range(..SHARDS) {
        for key in document.keys(ROOT) {
            let path: TreePath = key.parse().unwrap();
            let inside = paths.entry(path.parent_str().to_owned()).or_default();
            inside.push(path);
        }
    }
    Documents { all, paths }
}

/// Reads the bytes of the documents of a scope, by their numbers.
pub(crate) fn all_bytes(
    store: &dyn Store,
    bucket: BucketId,
    scope: Scope,
) -> BTreeMap<u16, Vec<u8>> {
    let txn = store.read().unwrap();
    let of = format!("sync/{bucket}/{scope}");
    let all = (0..=SHARDS).map(|number| (number, bytes(&*txn, &of, number)));
    all.filter(|(_, bytes)| !bytes.is_empty()).collect()
}

/// Reads a document with the changes that are kept beside it.
fn bytes(txn: &dyn ReadTxn, of: &str, number: u16) -> Vec<u8> {
    let document = txn.value(of, &format!("document/{number:03x}")).unwrap();
    let beside = (0u32..).map_while(|n| {
        let change = format!("change/{number:03x}/{n:08x}");
        txn.value(of, &change).unwrap()
    });
    document.into_iter().chain(beside).flatten().collect()
}

impl Documents {
    /// Expects that each document is flat, and holds only the registers of its own directories.
    pub(crate) fn assert_flat(&self) {
        for (number, document) in &self.all {
            assert!(document.length(ROOT) > 0, "an empty document {number}");
            for key in document.keys(ROOT) {
                for (value, _) in document.get_all(ROOT, &key).unwrap() {
                    let is_scalar = matches!(&value, Held::Scalar(v) if v.is_bytes());
                    assert!(is_scalar, "{key}: {value:?}");
                }
                let belongs = match key.starts_with('/') {
                    true => shard(key.parse::<TreePath>().unwrap().parent_str()),
                    // It is about the branch itself.
                    false => SHARDS,
                };
                assert_eq!(*number, belongs, "{key}");
            }
        }
    }

    /// Expects that a branch shows what the registers say, computed with nothing else.
    pub(crate) fn assert_shown(&self, store: &dyn Store, branch: BranchId) {
        let shown: BTreeMap<TreePath, EntryId> = super::shown(store, branch).into_iter().collect();
        let mut own = BTreeSet::new();
        for path in self.paths.values().flatten() {
            let projected = project(self, path).unwrap();
            if let Some(row) = projected.and_then(|projected| projected.row) {
                let says = row.entry.as_ref().map(alknet_fs_core::Entry::id);
                assert_eq!(shown.get(path).copied(), says, "{path}");
                own.insert(path.clone());
            }
        }
        let txn = store.read().unwrap();
        if Chain::load(&*txn, branch, None).unwrap().spans().len() == 1 {
            let silent: Vec<_> = shown.keys().filter(|path| !own.contains(*path)).collect();
            assert!(silent.iter().all(|path| path.is_root()), "{silent:?}");
        }
    }
}

impl Registers for Documents {
    fn values(&self, path: &TreePath) -> Result<Vec<Value>> {
        let Some(document) = self.all.get(&shard(path.parent_str())) else {
            return Ok(Vec::new());
        };
        let values = document.get_all(ROOT, path.as_str()).unwrap().into_iter();
        values
            .map(|(value, _)| Value::decode(value.as_bytes().unwrap()))
            .collect()
    }

    fn names(&self, dir: &TreePath) -> Result<Vec<Box<str>>> {
        let inside = self.paths.get(dir.as_str()).into_iter().flatten();
        Ok(inside.map(|path| path.name().into()).collect())
    }
}
