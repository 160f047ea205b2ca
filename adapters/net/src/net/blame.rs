//! What peers do wrong, in the log: said at once, but no more often than helps whoever reads it.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Instant;

use iroh::EndpointId;
use parking_lot::Mutex;

use super::Inner;
use crate::quota::Quota;

/// How many lines a peer gets at once, and each second from then on.
const OF_ONE: (u32, f64) = (8, 1.0 / 30.0);

/// How many all those get together that are not known here: another key costs nothing.
const OF_STRANGERS: (u32, f64) = (32, 1.0 / 10.0);

/// How many peers are counted that are not known here.
const STRANGERS: usize = 1024;

/// How much was said of somebody.
#[derive(Debug)]
struct Lines {
    quota: Quota,
    left_out: u64,
}

impl Lines {
    fn new((most, each_second): (u32, f64)) -> Self {
        Self {
            quota: Quota::new(most, each_second),
            left_out: 0,
        }
    }

    /// Tells whether a line more may be said.
    fn take(&mut self, now: Instant) -> bool {
        let is_left = self.quota.take(now);
        self.left_out += u64::from(!is_left);
        is_left
    }
}

/// How much was said of whom.
#[derive(Debug)]
pub(crate) struct Blame(Mutex<All>);

#[derive(Debug)]
struct All {
    of_one: HashMap<EndpointId, Lines>,
    of_strangers: Lines,
}

impl Default for Blame {
    fn default() -> Self {
        Self(Mutex::new(All {
            of_one: HashMap::new(),
            of_strangers: Lines::new(OF_STRANGERS),
        }))
    }
}

impl Blame {
    /// Counts a line on a peer. Where it may be said, returns how many were left out since the last
    /// one; of one that is not known, also those on others like it.
    pub(crate) fn line(&self, peer: EndpointId, is_known: bool, now: Instant) -> Option<u64> {
        let mut all = self.0.lock();
        let All {
            of_one,
            of_strangers,
        } = &mut *all;
        if of_one.len() >= STRANGERS && !of_one.contains_key(&peer) {
            of_one.retain(|_, lines| !lines.quota.is_full(now));
        }
        let mut left_out = 0;
        if is_known || of_one.len() < STRANGERS || of_one.contains_key(&peer) {
            let own = of_one.entry(peer).or_insert_with(|| Lines::new(OF_ONE));
            if !own.take(now) || !(is_known || of_strangers.take(now)) {
                return None;
            }
            left_out += std::mem::take(&mut own.left_out);
        } else if !of_strangers.take(now) {
            return None;
        }
        if !is_known {
            left_out += std::mem::take(&mut of_strangers.left_out);
        }
        Some(left_out)
    }
}

impl Inner {
    /// Says in the log what a peer did wrong, unless enough was said of it.
    pub(super) fn blame(&self, peer: EndpointId, what: impl Display) {
        let line = self.blame.line(peer, self.knows(peer), Instant::now());
        if let Some(left_out) = line {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::warn!(peer = %self.label(peer), left_out, "{what}");
        }
    }

    /// Says in the log what a peer brought about, unless enough was said of that.
    pub(super) fn remark(&self, peer: EndpointId, what: impl Display) {
        let line = self.remarks.line(peer, self.knows(peer), Instant::now());
        if let Some(left_out) = line {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::info!(peer = %self.label(peer), left_out, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(n: u16) -> EndpointId {
        let mut key = [7; 32];
        key[..2].copy_from_slice(&n.to_le_bytes());
        iroh::SecretKey::from_bytes(&key).public()
    }

    #[test]
    fn what_is_left_out_is_counted_and_said_with_the_next_line() {
        let blame = Blame::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let said = (0..1000).filter_map(|_| blame.line(peer(1), true, begun));
        assert_eq!(said.collect::<Vec<_>>(), [0; 8]);
        assert_eq!(blame.line(peer(2), true, begun), Some(0), "of another one");
        assert_eq!(blame.line(peer(1), true, at(29)), None);
        assert_eq!(blame.line(peer(1), true, at(31)), Some(993));
        assert_eq!(blame.line(peer(1), true, at(32)), None);
        assert_eq!(blame.line(peer(1), true, at(62)), Some(1));
        // An hour of it.
        let said = (62..3662).filter_map(|n| blame.line(peer(1), true, at(n)));
        assert!((115..=121).contains(&said.count()));
    }

    #[test]
    fn another_key_gives_nobody_more_lines() {
        let blame = Blame::default();
        let begun = Instant::now();
        let many = (0..3000).map(peer).collect::<Vec<_>>();
        let said = many.iter().filter_map(|id| blame.line(*id, false, begun));
        assert_eq!(said.collect::<Vec<_>>(), [0; 32]);
        assert!(blame.0.lock().of_one.len() <= STRANGERS);
        // Who is known is heard of all the same.
        assert_eq!(blame.line(peer(5000), true, begun), Some(0));
        let later = begun + Duration::from_secs(11);
        assert_eq!(blame.line(peer(5001), false, later), Some(3000 - 32));
        // Those that were silent since are not counted any more.
        let late = begun + Duration::from_secs(3600);
        assert_eq!(blame.line(peer(5002), false, late), Some(0));
        assert_eq!(blame.0.lock().of_one.len(), 1);
    }
}
