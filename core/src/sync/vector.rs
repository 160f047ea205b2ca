//! What a replica has seen of the others.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use super::ReplicaId;
use crate::entry::short;

/// Says of each replica how many of its cuts are known: all from the first to that one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionVector(BTreeMap<ReplicaId, u64>);

impl VersionVector {
    /// The vector of who knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how many cuts of a replica are known.
    pub fn get(&self, replica: ReplicaId) -> u64 {
        self.0.get(&replica).copied().unwrap_or(0)
    }

    /// Notes that all cuts of a replica up to one are known.
    pub fn see(&mut self, replica: ReplicaId, cut: u64) {
        match self.0.entry(replica) {
            Entry::Vacant(_) if cut == 0 => {}
            Entry::Vacant(entry) => {
                entry.insert(cut);
            }
            Entry::Occupied(mut entry) => {
                let seen = entry.get_mut();
                *seen = cut.max(*seen);
            }
        }
    }

    /// Notes all that another vector knows.
    pub fn merge(&mut self, other: &Self) {
        for (replica, cut) in other.iter() {
            self.see(replica, cut);
        }
    }

    /// Tells whether all that another vector knows is known.
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(replica, cut)| self.get(replica) >= cut)
    }

    /// Returns what all of several vectors know: what nobody has to be told any more.
    pub fn common<'a>(vectors: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut vectors = vectors.into_iter();
        let Some(first) = vectors.next() else {
            return Self::new();
        };
        vectors.fold(first.clone(), |mut common, other| {
            common.0.retain(|replica, cut| {
                *cut = other.get(*replica).min(*cut);
                *cut > 0
            });
            common
        })
    }

    /// Returns each replica of which anything is known, with the number of cuts.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, u64)> + '_ {
        self.0.iter().map(|(replica, cut)| (*replica, *cut))
    }

    /// Returns the number of replicas of which anything is known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a digest: vectors with the same one are the same.
    pub fn digest(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        for (replica, cut) in self.iter() {
            hasher.update(&replica.0);
            hasher.update(&cut.to_le_bytes());
        }
        short(&hasher)
    }
}

impl FromIterator<(ReplicaId, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (ReplicaId, u64)>>(seen: I) -> Self {
        let mut vector = Self::new();
        for (replica, cut) in seen {
            vector.see(replica, cut);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(seen: &[(u8, u64)]) -> VersionVector {
        let seen = seen.iter().map(|(n, cut)| (ReplicaId([*n; 16]), *cut));
        seen.collect()
    }

    #[test]
    fn vectors_merge_and_compare() {
        let (a, b) = (vector(&[(1, 3), (2, 1)]), vector(&[(2, 4)]));
        assert!(!a.covers(&b) && !b.covers(&a));
        let mut both = a.clone();
        both.merge(&b);
        assert_eq!(both, vector(&[(1, 3), (2, 4)]));
        assert!(both.covers(&a) && both.covers(&b));
        assert_eq!(VersionVector::common([&a, &b]), vector(&[(2, 1)]));
        assert_eq!(VersionVector::common([]), vector(&[]));
    }

    #[test]
    fn what_nothing_is_known_of_makes_no_difference() {
        let mut a = vector(&[(1, 3)]);
        a.see(ReplicaId([2; 16]), 0);
        assert_eq!(a, vector(&[(1, 3)]));
        assert_eq!(a.digest(), vector(&[(1, 3)]).digest());
        assert_ne!(a.digest(), vector(&[(1, 4)]).digest());
    }
}
