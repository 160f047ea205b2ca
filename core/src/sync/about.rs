//! What a scope says about its branch: the branch's name and parent, and its snapshots.
//!
//! These are registers too, in a document of their own beside those of the branch's paths, under the
//! keys that [`Key`] makes. So a branch and all about it is granted, counted and sent as one.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

use super::clock::Stamp;
use super::frame::{MAX_REPLICAS, Scope};
use super::vector::VersionVector;
use crate::branch::{DEFAULT_BRANCH, check_label};
use crate::entry::{Timestamp, short};
use crate::error::{Error, ErrorKind, Result};

/// The most scopes that one branch may inherit from, itself included.
pub const MAX_DEPTH: usize = 4096;

impl Scope {
    /// The scope of every bucket's first branch, whatever it is called: buckets that are joined have
    /// it in common.
    pub fn of_first_branch() -> Self {
        Self::of_branch(DEFAULT_BRANCH, None, 0)
    }

    /// The scope of a branch that is made with a name and a parent for the `incarnation`-th time,
    /// from 0. Replicas that make the same branch without knowing of each other mean one.
    pub fn of_branch(name: &str, parent: Option<&Parent>, incarnation: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("alknet-fs 2026-11 scope of a branch");
        // Writing to memory cannot fail.
        let made = (name, parent, incarnation);
        hasher.update(&postcard::to_extend(&made, Vec::new()).unwrap_or_default());
        Self(short(&hasher))
    }
}

/// A point in time of a branch: all that it shows then.
///
/// What comes first are the cuts of the branch itself, and those of the branches that it inherited from
/// while they went on being written; then those of the point in time that all these are based on, and
/// so on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub Vec<Vec<(Scope, VersionVector)>>);

impl Moment {
    /// Returns each scope with its cuts that show, newer layers first.
    pub fn cuts(&self) -> impl Iterator<Item = (Scope, &VersionVector)> {
        let cuts = self.0.iter().flatten();
        cuts.map(|(scope, vector)| (*scope, vector))
    }

    /// Returns the branches that the moment's own was based on while they went on being written, the
    /// nearest first, each with what it showed then.
    pub fn of_live_parents(&self) -> Vec<(Scope, Self)> {
        let Some((first, below)) = self.0.split_first() else {
            return Vec::new();
        };
        let of = |n: usize| {
            let parts = [first[n..].to_vec()]
                .into_iter()
                .chain(below.iter().cloned());
            (first[n].0, Self(parts.collect()))
        };
        (1..first.len()).map(of).collect()
    }

    /// Tells whether all that the moment shows is among what is known.
    ///
    /// # Errors
    /// Those of `known`.
    pub fn is_known(&self, mut known: impl FnMut(Scope) -> Result<VersionVector>) -> Result<bool> {
        for (scope, vector) in self.cuts() {
            if !known(scope)?.covers(vector) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_within_limits(&self) -> bool {
        let few = |vector: &VersionVector| vector.len() <= MAX_REPLICAS;
        (1..=MAX_DEPTH).contains(&self.cuts().count())
            && self
                .0
                .iter()
                .all(|part| !part.is_empty() && part.iter().all(|(_, vector)| few(vector)))
    }
}

/// What a branch inherits from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Parent {
    /// The other branch.
    pub scope: Scope,
    /// The point in time that shows through; nothing where later writes do too.
    pub at: Option<Moment>,
}

impl Parent {
    fn is_within_limits(&self) -> bool {
        self.at.as_ref().is_none_or(Moment::is_within_limits)
    }
}

/// What one replica says about a branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AboutBranch {
    /// Its name.
    pub name: String,
    /// What it inherits from; nothing for a bucket's first branch.
    pub parent: Option<Parent>,
    /// Whether it was deleted, and of which cuts of it whoever did that knew.
    pub deleted: Option<VersionVector>,
}

/// What one replica says about a snapshot of a branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AboutSnapshot {
    /// Its name was forgotten.
    Deleted,
    /// It was taken.
    Taken {
        /// What it shows.
        at: Moment,
        /// When.
        created: Timestamp,
    },
}

/// A value of a register about a branch or a snapshot, with the time when it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct About<T> {
    /// When.
    pub stamp: Stamp,
    /// What.
    pub state: T,
}

/// The register that a key of the document names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The branch's: [`AboutBranch`].
    Branch,
    /// That of the snapshot with a name: [`AboutSnapshot`].
    Snapshot(String),
}

const BRANCH: &str = "branch";
const SNAPSHOT: &str = "snapshot/";

impl Key {
    /// Returns the key as a document has it.
    pub fn as_text(&self) -> String {
        match self {
            Self::Branch => BRANCH.to_owned(),
            Self::Snapshot(name) => format!("{SNAPSHOT}{name}"),
        }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where no register has it.
    pub fn parse(key: &str) -> Result<Self> {
        if key == BRANCH {
            return Ok(Self::Branch);
        }
        let name = key.strip_prefix(SNAPSHOT).ok_or_else(|| {
            let why = "a branch's document has a key that this version does not know";
            Error::with_detail(ErrorKind::Corrupt, why)
        })?;
        check_name("snapshot", name)?;
        Ok(Self::Snapshot(name.to_owned()))
    }

    /// Returns when a value of the register was written.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it cannot be a value of this register.
    pub fn stamp(&self, value: &[u8]) -> Result<Stamp> {
        Ok(match self {
            Self::Branch => About::<AboutBranch>::decode(value)?.stamp,
            Self::Snapshot(_) => About::<AboutSnapshot>::decode(value)?.stamp,
        })
    }
}

fn check_name(what: &str, name: &str) -> Result<()> {
    check_label(what, name).map_err(|e| {
        let why = format!("a {what} has a name that none can have");
        Error::with_detail(ErrorKind::Corrupt, why).source(e.to_string())
    })
}

/// What a register can hold.
pub trait State: Serialize + DeserializeOwned + Ord {
    /// Tells whether it says that there is something. That wins over what says there is nothing.
    fn is_present(&self) -> bool;

    /// Tells whether a replica that does right could have written it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it could not.
    fn check(&self) -> Result<()>;
}

impl State for AboutBranch {
    fn is_present(&self) -> bool {
        self.deleted.is_none()
    }

    fn check(&self) -> Result<()> {
        check_name("branch", &self.name)?;
        let deleted = self.deleted.as_ref();
        within(
            deleted.is_none_or(|known| known.len() <= MAX_REPLICAS)
                && self.parent.as_ref().is_none_or(Parent::is_within_limits),
        )
    }
}

impl State for AboutSnapshot {
    fn is_present(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }

    fn check(&self) -> Result<()> {
        within(match self {
            Self::Deleted => true,
            Self::Taken { at, .. } => at.is_within_limits(),
        })
    }
}

fn within(is_right: bool) -> Result<()> {
    match is_right {
        true => Ok(()),
        false => {
            let why = "what is said about a branch is over a limit";
            Err(Error::with_detail(ErrorKind::Corrupt, why))
        }
    }
}

/// The format's version, the first byte of an encoded value.
const FORMAT: u8 = 1;

impl<T: State> About<T> {
    /// Returns the bytes that a document holds: a format number, and the fields in postcard's format.
    pub fn encode(&self) -> Vec<u8> {
        // Writing to memory cannot fail.
        postcard::to_extend(self, vec![FORMAT]).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) wrote, or what somebody else claims it did.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the bytes are something else, or over a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::with_detail(ErrorKind::Corrupt, why);
        let Some((&FORMAT, bytes)) = bytes.split_first() else {
            let why = "what is said about a branch has a format that this version does not know";
            return Err(corrupt(why));
        };
        let (about, rest) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|_| corrupt("what is said about a branch does not decode"))?;
        if !rest.is_empty() {
            return Err(corrupt(
                "what is said about a branch is followed by something else",
            ));
        }
        about.state.check()?;
        Ok(about)
    }

    /// Orders the concurrent values of a register: what is there wins over what is not, and then the
    /// later over the earlier. The order in which they are given makes no difference.
    pub fn resolve(mut values: Vec<Self>) -> Vec<Self> {
        values.sort_by(|a, b| {
            let rank = |about: &Self| Reverse((about.state.is_present(), about.stamp));
            rank(a).cmp(&rank(b)).then_with(|| b.cmp(a))
        });
        values.dedup();
        values
    }
}

/// Says whether a branch is there, given what replicas say about it without knowing of each other and
/// what is known of its cuts: a branch that was deleted stays where somebody wrote what the deleter
/// did not know.
pub fn is_there(values: &[About<AboutBranch>], known: &VersionVector) -> bool {
    let mut deleted = VersionVector::new();
    for value in values {
        match &value.state.deleted {
            None => return true,
            Some(known) => deleted.merge(known),
        }
    }
    !values.is_empty() && !deleted.covers(known)
}
