//! What two replicas of a bucket say to each other.
//!
//! Every frame stands for itself: one that is lost, late or repeated does no harm, and its sender
//! says it again until the answer shows that it arrived.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ReplicaId, VersionVector};
use crate::error::{Error, ErrorKind, Result};

/// The version of the protocol, the first byte of every frame.
pub const PROTOCOL: u8 = 1;

/// The longest frame in bytes. Cuts are made so that one fits.
pub const MAX_FRAME: usize = 1 << 20;

/// The most scopes that one frame speaks of.
pub const MAX_SCOPES: usize = 4096;

/// The most replicas that write to one scope.
pub const MAX_REPLICAS: usize = 4096;

/// A part of a bucket that is synchronised, granted and counted for itself: one branch, with its name
/// and its snapshots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(pub [u8; 16]);

impl Scope {
    /// The first of all scopes.
    pub const FIRST: Self = Self([0; 16]);
    /// The last of all scopes.
    pub const LAST: Self = Self([0xff; 16]);
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({self})")
    }
}

/// What one replica wrote in one scope, up to one of its commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Who wrote.
    pub replica: ReplicaId,
    /// The number among the replica's cuts of the scope, from 1 without gaps.
    pub number: u64,
    /// What the replica had seen of the others: a cut is applied after those.
    pub seen: VersionVector,
    /// Whether the replica's next cut belongs to it: both are kept, and applied together.
    pub more: bool,
    /// The changes. Opaque to the protocol.
    #[serde(with = "serde_bytes")]
    pub changes: Vec<u8>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The digest of all that the sender knows. Where the receiver's is the same, all is said.
    Summary {
        /// Of the vectors of all scopes.
        digest: [u8; 16],
        /// Whether the sender waits for the receiver's.
        answer: bool,
    },
    /// The digests of some scopes' vectors.
    Digests {
        /// All scopes from this one on.
        from: Scope,
        /// Up to and including this one.
        to: Scope,
        /// Those among them of which the sender knows anything, in order.
        digests: Vec<(Scope, [u8; 16])>,
    },
    /// What the sender knows of some scopes: an answer to what it got, or the wish for more.
    Vectors {
        /// The scopes, in order.
        vectors: Vec<(Scope, VersionVector)>,
        /// Whether the sender waits for what the receiver knows of them.
        answer: bool,
    },
    /// What the receiver does not know of a scope, in an order in which it can be applied.
    Cuts {
        /// The scope.
        scope: Scope,
        /// The cuts.
        cuts: Vec<Cut>,
    },
    /// A page of all that a scope holds, for who is too far behind for cuts. An empty page offers it;
    /// an empty one that none follows says that what was wanted is not to be had.
    State {
        /// The scope.
        scope: Scope,
        /// Where the page begins. Opaque to who gets it.
        #[serde(with = "serde_bytes")]
        from: Vec<u8>,
        /// Where the next page begins; nothing after the last one.
        #[serde(with = "serde_bytes")]
        next: Option<Vec<u8>>,
        /// Whether the sender waits until the next page is wanted.
        pause: bool,
        /// The page. Opaque to the protocol.
        #[serde(with = "serde_bytes")]
        page: Vec<u8>,
    },
    /// The wish for pages of a scope.
    Want {
        /// The scope.
        scope: Scope,
        /// What.
        what: Want,
    },
}

/// Which pages of a scope are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Those of what the scope held when just this was known.
    Moment(VersionVector),
    /// Those from a position on that the sender of earlier pages named.
    From(#[serde(with = "serde_bytes")] Vec<u8>),
}

impl Frame {
    /// Returns the frame as bytes, without their length.
    pub fn encode(&self) -> Vec<u8> {
        // Writing to memory cannot fail.
        postcard::to_extend(self, vec![PROTOCOL]).unwrap_or_default()
    }

    /// Reads a frame that somebody sent.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for another version of the protocol; [`ErrorKind::Corrupt`] for what
    /// is no frame, or is over a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::with_detail(ErrorKind::Corrupt, why);
        if bytes.len() > MAX_FRAME {
            return Err(corrupt("a frame is over its longest length"));
        }
        let Some((&version, bytes)) = bytes.split_first() else {
            return Err(corrupt("a frame is empty"));
        };
        if version != PROTOCOL {
            let why =
                format!("the peer speaks version {version} of the protocol, this is {PROTOCOL}");
            return Err(Error::with_detail(ErrorKind::Unsupported, why));
        }
        let (frame, rest) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|_| corrupt("a frame does not decode"))?;
        if !rest.is_empty() {
            return Err(corrupt("a frame is followed by something else"));
        }
        match frame.is_within_limits() {
            true => Ok(frame),
            false => Err(corrupt("a frame is out of order or over a limit")),
        }
    }

    fn is_within_limits(&self) -> bool {
        let few = |vector: &VersionVector| vector.len() <= MAX_REPLICAS;
        match self {
            Self::Summary { .. } => true,
            Self::Digests { from, to, digests } => {
                let ordered = digests.is_sorted_by(|(a, _), (b, _)| a < b);
                let inside = digests
                    .iter()
                    .all(|(scope, _)| (from..=to).contains(&scope));
                digests.len() <= MAX_SCOPES && ordered && inside
            }
            Self::Vectors { vectors, .. } => {
                let ordered = vectors.is_sorted_by(|(a, _), (b, _)| a < b);
                vectors.len() <= MAX_SCOPES && ordered && vectors.iter().all(|(_, v)| few(v))
            }
            Self::Cuts { cuts, .. } => cuts.iter().all(|cut| cut.number > 0 && few(&cut.seen)),
            Self::State { .. } => true,
            Self::Want { what, .. } => match what {
                Want::Moment(vector) => few(vector),
                Want::From(_) => true,
            },
        }
    }
}
