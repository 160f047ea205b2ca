//! What a cut says, brought into documents: it is refused as a whole, or is known then.
#![no_main]

use alknet_fs_core::Timestamp;
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{Durability, Store};
use alknet_fs_core::sync::{Clock, Cut, ReplicaId, Scope, VersionVector};
use alknet_fs_sync::{Branch, History};
use libfuzzer_sys::fuzz_target;

const SELF: ReplicaId = ReplicaId([1; 16]);
const PEER: ReplicaId = ReplicaId([7; 16]);

fuzz_target!(|bytes: &[u8]| {
    let store = MemoryStore::new();
    let mut branch = Branch::new(1, Scope([5; 16]), SELF, History::default());
    let mut clock = Clock::new(SELF, 0);
    let cut = Cut {
        replica: PEER,
        number: 1,
        seen: VersionVector::new(),
        more: false,
        changes: bytes.to_vec(),
    };
    let Ok(mut txn) = store.write(Durability::Full) else {
        return;
    };
    let applied = branch.apply(&mut *txn, None, &[cut], &mut clock, Timestamp(1));
    if applied.is_ok() {
        let known = branch.vector(&*txn).map(|vector| vector.get(PEER));
        assert_eq!(known.ok(), Some(1));
        assert!(branch.paths(&*txn).is_ok());
    }
});
