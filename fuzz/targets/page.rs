//! Pages of what a branch holds: where one begins, where the next does, and what it says.
#![no_main]

use std::collections::BTreeSet;

use alknet_fs_core::Timestamp;
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{Durability, Store};
use alknet_fs_core::sync::{Clock, Page, ReplicaId, Scope, VersionVector, Want};
use alknet_fs_sync::{Branch, History};
use libfuzzer_sys::fuzz_target;

const SELF: ReplicaId = ReplicaId([1; 16]);
const PEER: ReplicaId = ReplicaId([7; 16]);

fuzz_target!(|parts: (Vec<u8>, Option<Vec<u8>>, Vec<u8>)| {
    let (from, next, said) = parts;
    let store = MemoryStore::new();
    let history = History::default();
    let mut branch = Branch::new(1, Scope([5; 16]), SELF, history);
    let other = Branch::new(2, Scope([5; 16]), PEER, history);
    let mut clock = Clock::new(SELF, 0);
    let Ok(mut txn) = store.write(Durability::Full) else {
        return;
    };
    // Where somebody has the first page of somebody else's, and where nobody has any.
    let first = other.first_page(&*txn).unwrap_or_default();
    for from in [first, from] {
        let page = Page {
            from: from.clone(),
            next: next.clone(),
            page: said.clone(),
        };
        if let Ok(None) = branch.keep_page(&mut *txn, &page, Timestamp(1)) {
            let none = BTreeSet::new();
            let _ = branch.absorb(&mut *txn, None, &none, &mut clock, Timestamp(1));
        }
        let _ = branch.page(&*txn, &Want::From(from), &VersionVector::new(), 1000);
    }
});
