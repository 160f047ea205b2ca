//! Which values of a register have to be kept.

use super::{ReplicaId, VersionVector};

/// A value of a register, as far as it matters for whether others count.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Who wrote it.
    pub replica: ReplicaId,
    /// In which of the replica's cuts.
    pub number: u64,
    /// What the replica had seen of the others.
    pub seen: &'a VersionVector,
}

impl Write<'_> {
    fn is_known(&self, vector: &VersionVector) -> bool {
        vector.get(self.replica) >= self.number
    }

    /// Tells whether it was written over another one: by somebody who knew that.
    fn replaces(&self, other: &Self) -> bool {
        match self.replica == other.replica {
            true => self.number > other.number,
            false => other.is_known(self.seen),
        }
    }
}

/// Tells of each value that a register ever had whether it counts: now, when all of them are known,
/// or when just one of some vectors was known.
///
/// What is left out makes no difference to those, nor to whoever brings more values: a value that
/// was written over one that was left out was written over by the one that counts, or beside it.
pub fn needed(writes: &[Write<'_>], moments: &[&VersionVector]) -> Vec<bool> {
    if writes.len() < 2 {
        return vec![true; writes.len()];
    }
    let is_needed = |write: &Write<'_>| {
        let mut later = writes.iter().filter(|other| other.replaces(write));
        let Some(first) = later.next() else {
            return true;
        };
        let later: Vec<_> = std::iter::once(first).chain(later).collect();
        moments.iter().any(|moment| {
            write.is_known(moment) && !later.iter().any(|other| other.is_known(moment))
        })
    };
    writes.iter().map(is_needed).collect()
}

/// Returns a number that is greater for a cut than for all that its writer had seen: in the order of
/// these numbers no effect comes before its cause.
pub fn depth(replica: ReplicaId, number: u64, seen: &VersionVector) -> u64 {
    let others = seen.iter().filter(|(other, _)| *other != replica);
    others.fold(number, |sum, (_, cut)| sum.saturating_add(cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId([1; 16]);
    const B: ReplicaId = ReplicaId([2; 16]);

    fn vector(a: u64, b: u64) -> VersionVector {
        [(A, a), (B, b)].into_iter().collect()
    }

    #[test]
    fn what_counts_now_or_then_is_needed() {
        let (none, one) = (vector(0, 0), vector(1, 0));
        let write = |replica, number, seen| Write {
            replica,
            number,
            seen,
        };
        // The second of A was written beside B's, which was written over A's first.
        let writes = [write(A, 1, &none), write(B, 1, &one), write(A, 2, &none)];
        assert_eq!(needed(&writes, &[]), [false, true, true]);
        assert_eq!(needed(&writes, &[&one]), [true, true, true]);
        assert_eq!(needed(&writes, &[&vector(1, 1)]), [false, true, true]);
        assert_eq!(needed(&writes[..1], &[]), [true]);
    }

    #[test]
    fn effects_are_deeper_than_their_causes() {
        assert!(depth(B, 1, &vector(1, 0)) > depth(A, 1, &vector(0, 0)));
        assert!(depth(A, 2, &vector(1, 0)) > depth(A, 1, &vector(0, 0)));
        assert_eq!(depth(A, 1, &vector(9, 2)), 3);
    }
}
