//! What is refused of peers, and how often the log tells of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use iroh::EndpointId;
use parking_lot::Mutex;

/// How soon the log tells again of a peer that goes on.
const AGAIN: Duration = Duration::from_secs(60);
/// Of how many peers the log tells in that time: a key costs nothing.
const PEERS_MAX: usize = 64;

/// What is refused, by its reason: a peer that does one thing cannot hide that it does another.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Requests for contents that the peer may not read.
    pub(super) unreadable: Counts,
    /// Streams that break the protocol.
    pub(super) malformed: Counts,
    /// Contents that do not match their hash.
    pub(super) corrupt: Counts,
}

/// Counts refusals by peer, so that none can fill the log.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<HashMap<EndpointId, Told>>);

#[derive(Debug)]
struct Told {
    /// When the log told of the peer last.
    at: Instant,
    /// How much was refused since.
    count: u64,
}

impl Counts {
    /// Counts a refusal; returns how many there were since the log told of the peer last, where it is to
    /// tell now.
    pub(super) fn count(&self, peer: EndpointId, now: Instant) -> Option<u64> {
        let mut told = self.0.lock();
        if told.len() >= PEERS_MAX && !told.contains_key(&peer) {
            told.retain(|_, told| now.duration_since(told.at) < AGAIN);
            if told.len() >= PEERS_MAX {
                return None;
            }
        }
        match told.entry(peer) {
            Entry::Vacant(entry) => {
                entry.insert(Told { at: now, count: 0 });
                Some(1)
            }
            Entry::Occupied(mut entry) => {
                let told = entry.get_mut();
                told.count += 1;
                if now.duration_since(told.at) < AGAIN {
                    return None;
                }
                told.at = now;
                Some(std::mem::take(&mut told.count))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn peer(n: u8) -> EndpointId {
        SecretKey::from_bytes(&[n; 32]).public()
    }

    #[test]
    fn the_log_tells_of_each_peer_now_and_then() {
        let counts = Counts::default();
        let begun = Instant::now();
        assert_eq!(counts.count(peer(1), begun), Some(1));
        for _ in 0..1000 {
            assert_eq!(counts.count(peer(1), begun + AGAIN / 2), None);
        }
        assert_eq!(counts.count(peer(2), begun + AGAIN / 2), Some(1));
        assert_eq!(counts.count(peer(1), begun + AGAIN), Some(1001));
        assert_eq!(counts.count(peer(2), begun + AGAIN), None);
        assert_eq!(counts.count(peer(1), begun + AGAIN), None);
    }

    #[test]
    fn it_does_not_tell_of_any_number_of_peers() {
        let counts = Counts::default();
        let begun = Instant::now();
        let told = (0..=255).filter(|n| counts.count(peer(*n), begun).is_some());
        assert_eq!(told.count(), PEERS_MAX);
        assert_eq!(counts.0.lock().len(), PEERS_MAX);
        // Those that went on do not stand in the way of others for ever.
        let later = begun + AGAIN;
        assert_eq!(counts.count(peer(255), later), Some(1));
        assert_eq!(counts.0.lock().len(), 1);
    }
}
