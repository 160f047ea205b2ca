//! What every process of the store can know of a bucket's conflicts.

use alknet_fs_core::Result;
use alknet_fs_core::store::{ReadTxn, WriteTxn};
use alknet_fs_core::sync::{NameConflict, Names, Scope, Stamp, set_names};

use crate::bucket::Bucket;
use crate::settle::{digest, with_suffix};

impl Bucket {
    /// Notes which branches and snapshots have other names here than they were given.
    pub(crate) fn note_names(&mut self, txn: &mut dyn WriteTxn) -> Result<()> {
        let mut conflicts = Vec::new();
        for (scope, shown) in self.scopes.clone() {
            let Some(branch) = shown.branch else {
                continue;
            };
            if let Some(conflict) = NameConflict::of_branch(branch, scope, &shown.name) {
                let about = self.documents(scope).about(txn)?;
                let stamp = about.first().map(|about| about.stamp);
                conflicts.push(NameConflict { stamp, ..conflict });
            }
            for (name, snapshot) in shown.snapshots {
                if name != snapshot.register {
                    conflicts.push(NameConflict {
                        branch,
                        stamp: self.named_at(txn, scope, &snapshot.register, &name)?,
                        name: snapshot.register,
                        shown_as: name,
                        is_snapshot: true,
                    });
                }
            }
        }
        let replica = self.replica();
        let names = Names { replica, conflicts };
        set_names(txn, self.bucket, &names)
    }

    /// Finds who gave a snapshot its name that has a suffix here.
    fn named_at(
        &mut self,
        txn: &dyn ReadTxn,
        scope: Scope,
        register: &str,
        shown_as: &str,
    ) -> Result<Option<Stamp>> {
        let mut said = self.documents(scope).snapshots(txn)?;
        let said = said.remove(register).unwrap_or_default().into_iter();
        let mut stamps = said.map(|about| about.stamp);
        Ok(stamps.find(|stamp| with_suffix(register, &digest(*stamp)) == shown_as))
    }
}
