//! What nodes agree on: registers, their projection into a tree, and what each replica has seen.
//!
//! Every node has its own complete store, and every *replica* of a bucket writes without asking the
//! others. What a branch holds itself, not what it inherits, is a set of *registers*: one for each
//! path that was ever written, with the entry that is there or the mark that it was removed. A
//! register has one value, or several where replicas wrote it without knowing of each other. The
//! tree is a pure function of the registers ([`project`]): whoever has the same registers shows the
//! same tree, in whatever order they came.
//!
//! Registers travel in *cuts*. A cut is what one replica wrote in one branch up to some commit, is
//! numbered by that replica without gaps, and is applied as a whole; a [`VersionVector`] says of
//! each replica up to which cut all is known.

mod about;
mod clock;
mod conflicts;
mod frame;
mod peer;
mod project;
mod register;
mod rows;
mod thin;
mod vector;

pub use about::{
    About, AboutBranch, AboutSnapshot, Key, MAX_DEPTH, Moment, Parent, State as AboutState,
    is_there,
};
pub use clock::{Clock, Stamp};
pub use conflicts::{
    Conflict, Keep, NameConflict, Names, Resolution, conflict, conflicts, forget_settled,
    has_conflicts, names, note_conflicts, resolve, set_names, settle,
};
pub use frame::{Cut, Frame, MAX_FRAME, MAX_REPLICAS, MAX_SCOPES, PROTOCOL, Scope, Want};
pub use peer::{Pace, Page, Peer, Replica, Taken, digest};
pub use project::{Projected, Registers, affected, project};
pub use register::{Removed, Resolved, State, Value};
pub use rows::{Times, changes_between, earlier, held_earlier, outgoing, show, touched};
pub use thin::{Write, depth, needed};
pub use vector::VersionVector;

use std::fmt;

use serde::{Deserialize, Serialize};

/// A store that takes part in a bucket's synchronisation: 16 random bytes, drawn when it first does.
///
/// A copy of a store is another replica; two that go by the same id would number different cuts
/// alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(pub [u8; 16]);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplicaId({self})")
    }
}
