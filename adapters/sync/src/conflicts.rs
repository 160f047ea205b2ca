//! What every process of the store can know of a bucket's conflicts.

use std::collections::BTreeMap;

use alknet_fs_core::Result;
use alknet_fs_core::store::{BucketId, WriteTxn};
use alknet_fs_core::sync::{NameConflict, Names, ReplicaId, Scope, set_names};

use crate::bucket::Shown;

/// Notes which branches and snapshots have other names here than they were given.
pub(crate) fn note_names(
    txn: &mut dyn WriteTxn,
    bucket: BucketId,
    replica: ReplicaId,
    scopes: &BTreeMap<Scope, Shown>,
) -> Result<()> {
    let mut conflicts = Vec::new();
    for (scope, shown) in scopes {
        let Some(branch) = shown.branch else {
            continue;
        };
        conflicts.extend(NameConflict::of_branch(branch, *scope, &shown.name));
        for (name, snapshot) in &shown.snapshots {
            if *name != snapshot.register {
                conflicts.push(NameConflict {
                    branch,
                    name: snapshot.register.clone(),
                    shown_as: name.clone(),
                    is_snapshot: true,
                });
            }
        }
    }
    let names = Names { replica, conflicts };
    set_names(txn, bucket, &names)
}
