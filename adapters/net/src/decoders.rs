//! What a peer may send, read as it is read from the network: for those who look for bytes that do
//! harm. Not part of the API.

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
