//! Who asks: what they may read, and what the log says where they ask for more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use alknet_fs_core::{Hash, Result};
use iroh::EndpointId;
use parking_lot::Mutex;

use super::Access;
use crate::shared::Shared;

/// How soon the log tells again of an asker that goes on asking for what it may not read.
const AGAIN: Duration = Duration::from_secs(60);
/// Of how many askers the log tells in that time: a key costs nothing.
const ASKERS_MAX: usize = 64;

/// Answers one request for whether contents may be read, and takes what is left out for a no.
///
/// A request for what is here and may not be read is logged. One for what is not here is not: its asker
/// may have heard of it before this node has.
pub(super) fn request(
    shared: &Shared,
    access: &dyn Access,
    peer: EndpointId,
    hashes: &[Hash],
) -> Result<Vec<bool>> {
    let may_read = readable(access, peer, hashes)?;
    let refused = hashes.iter().zip(&may_read).filter(|(_, may)| !**may);
    let refused: Vec<_> = refused.map(|(hash, _)| hash).collect();
    if refused.is_empty() {
        return Ok(may_read);
    }
    let txn = shared.store.read()?;
    let mut contents = 0;
    // All of them are looked up: the time that an answer takes must not tell what is here.
    for hash in refused {
        contents += u32::from(txn.has_content(hash)? && *hash != Hash::EMPTY);
    }
    if contents > 0
        && let Some(requests) = shared.refusals.count(peer, Instant::now())
    {
        let peer = access.label(peer);
        tracing::warn!(%peer, contents, requests, "a peer asks for contents that it may not read");
    }
    Ok(may_read)
}

/// As [`request`], for what is no request.
pub(super) fn readable(
    access: &dyn Access,
    peer: EndpointId,
    hashes: &[Hash],
) -> Result<Vec<bool>> {
    let mut readable = access.may_read(peer, hashes)?;
    readable.resize(hashes.len(), false);
    Ok(readable)
}

/// Counts refused requests, so that a peer cannot fill the log.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<HashMap<EndpointId, Told>>);

#[derive(Debug)]
struct Told {
    /// When the log told of the asker last.
    at: Instant,
    /// How many requests were refused since.
    requests: u64,
}

impl Refusals {
    /// Counts a refused request; returns how many there were since the log told of the asker last, where
    /// it is to be told now.
    pub(super) fn count(&self, peer: EndpointId, now: Instant) -> Option<u64> {
        let mut told = self.0.lock();
        if told.len() >= ASKERS_MAX && !told.contains_key(&peer) {
            told.retain(|_, told| now.duration_since(told.at) < AGAIN);
            if told.len() >= ASKERS_MAX {
                return None;
            }
        }
        match told.entry(peer) {
            Entry::Vacant(entry) => {
                entry.insert(Told {
                    at: now,
                    requests: 0,
                });
                Some(1)
            }
            Entry::Occupied(mut entry) => {
                let told = entry.get_mut();
                told.requests += 1;
                if now.duration_since(told.at) < AGAIN {
                    return None;
                }
                told.at = now;
                Some(std::mem::take(&mut told.requests))
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
    fn the_log_tells_of_each_asker_now_and_then() {
        let refusals = Refusals::default();
        let begun = Instant::now();
        assert_eq!(refusals.count(peer(1), begun), Some(1));
        for _ in 0..1000 {
            assert_eq!(refusals.count(peer(1), begun + AGAIN / 2), None);
        }
        assert_eq!(refusals.count(peer(2), begun + AGAIN / 2), Some(1));
        assert_eq!(refusals.count(peer(1), begun + AGAIN), Some(1001));
        assert_eq!(refusals.count(peer(2), begun + AGAIN), None);
        assert_eq!(refusals.count(peer(1), begun + AGAIN), None);
    }

    #[test]
    fn it_does_not_tell_of_any_number_of_askers() {
        let refusals = Refusals::default();
        let begun = Instant::now();
        let told = (0..=255).filter(|n| refusals.count(peer(*n), begun).is_some());
        assert_eq!(told.count(), ASKERS_MAX);
        assert_eq!(refusals.0.lock().len(), ASKERS_MAX);
        // Those that went on do not stand in the way of others for ever.
        let later = begun + AGAIN;
        assert_eq!(refusals.count(peer(255), later), Some(1));
        assert_eq!(refusals.0.lock().len(), 1);
    }
}
