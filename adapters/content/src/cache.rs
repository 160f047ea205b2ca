//! The small contents that were read lately, in memory.

use std::sync::Arc;

use alknet_fs_core::Hash;
use hashlink::LruCache;
use parking_lot::Mutex;

/// The largest content that is kept, in bytes.
const SIZE_MAX: usize = 16 << 10;

/// How many contents that were read once are remembered, by their hashes alone.
const ONCE: usize = 1024;

/// Keeps small contents that were read twice, the ones read last. To read each file once, however
/// many there are, copies nothing and drives nothing out.
#[derive(Debug)]
pub(crate) struct SmallContents {
    bytes_max: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    bytes: u64,
    contents: LruCache<Hash, Arc<Vec<u8>>>,
    once: LruCache<Hash, ()>,
}

impl SmallContents {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            kept: Mutex::new(Kept {
                bytes: 0,
                contents: LruCache::new_unbounded(),
                once: LruCache::new(ONCE),
            }),
        }
    }

    /// Returns a content that is kept.
    pub(crate) fn get(&self, hash: &Hash) -> Option<Arc<Vec<u8>>> {
        self.kept.lock().contents.get(hash).cloned()
    }

    /// Takes note of a content that was read, and keeps it at the second time.
    pub(crate) fn offer(&self, hash: &Hash, bytes: &Arc<Vec<u8>>) {
        if bytes.len() > SIZE_MAX || bytes.len() as u64 > self.bytes_max {
            return;
        }
        let mut guard = self.kept.lock();
        let kept = &mut *guard;
        if kept.once.remove(hash).is_none() {
            kept.once.insert(*hash, ());
            return;
        }
        kept.bytes += bytes.len() as u64;
        if let Some(same) = kept.contents.insert(*hash, Arc::clone(bytes)) {
            kept.bytes -= same.len() as u64;
        }
        while kept.bytes > self.bytes_max
            && let Some((_, oldest)) = kept.contents.remove_lru()
        {
            kept.bytes -= oldest.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(cache: &SmallContents, n: u8, len: usize) -> Hash {
        let bytes = vec![n; len];
        let hash = Hash::of(&bytes);
        cache.offer(&hash, &Arc::new(bytes));
        hash
    }

    #[test]
    fn what_is_read_twice_is_kept_up_to_the_limit() {
        let cache = SmallContents::new(10_000);
        let first = offer(&cache, 1, 4000);
        assert_eq!(cache.get(&first), None);
        offer(&cache, 1, 4000);
        assert_eq!(cache.get(&first).unwrap().len(), 4000);
        // Two threads may both have missed it.
        offer(&cache, 1, 4000);
        offer(&cache, 1, 4000);
        for n in 2..100 {
            offer(&cache, n, 4000);
        }
        assert!(cache.get(&first).is_some());
        let second = [offer(&cache, 2, 4000), offer(&cache, 2, 4000)][1];
        assert!(cache.get(&first).is_some() && cache.get(&second).is_some());
        cache.get(&first);
        let third = [offer(&cache, 3, 4000), offer(&cache, 3, 4000)][1];
        assert!(cache.get(&second).is_none());
        assert!(cache.get(&first).is_some() && cache.get(&third).is_some());
    }

    #[test]
    fn large_contents_and_all_without_a_limit_stay_out() {
        let cache = SmallContents::new(1 << 20);
        let large = [1, 2].map(|_| offer(&cache, 1, SIZE_MAX + 1))[1];
        assert_eq!(cache.get(&large), None);
        let none = SmallContents::new(0);
        let small = [1, 2].map(|_| offer(&none, 1, 1))[1];
        assert_eq!(none.get(&small), None);
    }
}
