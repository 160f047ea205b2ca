//! Frames of a peer that says what it likes: the conversation ends, or goes on.
#![no_main]

use std::sync::Arc;

use alknet_fs_core::edit::Context;
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{Durability, Store};
use alknet_fs_core::sync::{Frame, PROTOCOL, Pace, Peer, ReplicaId};
use alknet_fs_core::{Timestamp, branch};
use alknet_fs_sync::Bucket;
use libfuzzer_sys::fuzz_target;

fn bucket() -> Option<Bucket> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let context = Context {
        now: Timestamp(1),
        author: "fuzz".to_owned(),
        uid: 0,
        gid: 0,
    };
    let mut txn = store.write(Durability::Full).ok()?;
    let (record, _) = branch::create_bucket(&mut *txn, "b", &context).ok()?;
    txn.commit().ok()?;
    let mut bucket = Bucket::open(store, record.id, ReplicaId([1; 16])).ok()?;
    bucket.gather(Timestamp(2)).ok()?;
    Some(bucket)
}

fuzz_target!(|frames: Vec<Vec<u8>>| {
    let Some(mut bucket) = bucket() else {
        return;
    };
    let mut peer = Peer::new(Pace::default());
    for (n, frame) in (0..).zip(frames) {
        let now = Timestamp(n * 1_000_000_000);
        let Ok(frame) = Frame::decode(&[&[PROTOCOL], &frame[..]].concat()) else {
            continue;
        };
        bucket.set_now(now);
        if peer.receive(frame, &mut bucket).is_err() || peer.timeout(now, &bucket).is_err() {
            return;
        }
        // What is said in answer comes to an end.
        for count in 0.. {
            assert!(count < 10_000, "it does not stop talking");
            match peer.poll_transmit(now, &bucket) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
