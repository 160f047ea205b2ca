//! What a peer may send, read as it is read from the network: for those who look for bytes that do
//! harm. Not part of the API.

use crate::gossip::Announcement;
use crate::grant::BucketUid;
use crate::wire;

/// Reads what begins a stream, and what is answered to it.
pub fn greeting(bytes: &[u8]) {
    if let Ok(hello) = wire::hello(bytes) {
        let _ = hello.version();
        drop(hello.addrs.limited());
    }
    if let Ok(wire::Answer::Welcome(welcome)) = wire::decode(bytes) {
        let _ = welcome.cover();
        drop(welcome.addrs.limited());
    }
}

/// Reads what is said on a stream of its own, and what is announced to many.
pub fn word(bytes: &[u8]) {
    let bucket = BucketUid([0; 16]);
    if let Some(wire::Word::Members(members)) = wire::Word::decode(bytes) {
        for statement in &members.statements {
            assert!(!statement.is_genuine(bucket), "nobody signs without a key");
        }
        for (_, addrs) in members.hints {
            drop(addrs.limited());
        }
    }
    let _ = Announcement::open(bytes, bucket, |_| true);
}
