//! Time stamps that order what replicas wrote.

use serde::{Deserialize, Serialize};

use super::ReplicaId;
use crate::entry::Timestamp;

/// When, and by which replica, a value was written. No two values of a register have the same stamp.
///
/// Stamps are those of a [hybrid logical clock](https://cse.buffalo.edu/tech-reports/2014-04.pdf): as
/// close to the wall clock as can be, and yet greater than every stamp that the replica had seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Nanoseconds since 1970-01-01 UTC, counted on where several stamps would be the same.
    pub time: u64,
    /// Who wrote.
    pub replica: ReplicaId,
}

/// Gives out stamps.
#[derive(Debug, Clone)]
pub struct Clock {
    replica: ReplicaId,
    last: u64,
}

impl Clock {
    /// Continues the clock of a replica, which has seen stamps up to a time.
    pub fn new(replica: ReplicaId, last: u64) -> Self {
        Self { replica, last }
    }

    /// Returns the replica whose clock this is.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// Returns the greatest time that was given out or seen, to continue from.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Gives out the next stamp.
    pub fn stamp(&mut self, now: Timestamp) -> Stamp {
        let now = u64::try_from(now.0).unwrap_or(0);
        self.last = now.max(self.last.saturating_add(1));
        Stamp {
            time: self.last,
            replica: self.replica,
        }
    }

    /// Notes a stamp of another replica: those given out later are greater.
    pub fn see(&mut self, stamp: Stamp) {
        self.last = self.last.max(stamp.time);
    }
}
