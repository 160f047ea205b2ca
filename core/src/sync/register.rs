//! The value of a register, and which of several wins.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::clock::Stamp;
use crate::edit::MODE_MASK;
use crate::entry::{Attrs, Entry, EntryId, Hash, Kind, Node, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::path::MAX_PATH_LEN;
use crate::session::MAX_FILE_SIZE;

/// What one replica says about a path of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// When it was written.
    pub stamp: Stamp,
    /// What is there.
    pub state: State,
    /// The identity of the inherited entry that the branch's first override replaced.
    pub base: Option<EntryId>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// An entry. Its `ctime` is that of the store that reads it, and not part of the value.
    Present(Entry),
    /// Nothing any more.
    Removed(Removed),
    /// What the branch inherits, whatever that is: said of a directory that the branch did not write
    /// where it wrote something below.
    Inherited,
}

/// What was removed, so that a directory can come back where something below it must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// The kind of what was there.
    pub kind: Kind,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner's user id.
    pub uid: u32,
    /// Its owner's group id.
    pub gid: u32,
    /// Its modification time.
    pub mtime: Timestamp,
}

impl Removed {
    /// Describes an entry that is removed.
    pub fn from_entry(entry: &Entry) -> Self {
        Self {
            kind: entry.kind(),
            mode: entry.attrs.mode,
            uid: entry.attrs.uid,
            gid: entry.attrs.gid,
            mtime: entry.attrs.mtime,
        }
    }
}

impl Value {
    /// Returns the entry that the value says is there.
    pub fn entry(&self) -> Option<&Entry> {
        match &self.state {
            State::Present(entry) => Some(entry),
            State::Removed(_) | State::Inherited => None,
        }
    }

    /// By what values of one register are compared; the greatest wins.
    ///
    /// An edit wins over a removal, a directory over what is none, because other entries may be below
    /// it, and then the later one over the earlier. Whatever was written wins over what was not.
    fn rank(&self) -> (u8, Stamp) {
        let state = match &self.state {
            State::Inherited => 0,
            State::Removed(_) => 1,
            State::Present(entry) if entry.is_dir() => 3,
            State::Present(_) => 2,
        };
        (state, self.stamp)
    }

    /// Tells whether nothing is lost where another value of the register wins: two that put the same bytes
    /// with the same rights at other times want the same.
    fn agrees_with(&self, winner: &Self) -> bool {
        match (&self.state, &winner.state) {
            (State::Present(one), State::Present(two)) => {
                let rights = |entry: &Entry| (entry.attrs.mode, entry.attrs.uid, entry.attrs.gid);
                let is_same = one.node == two.node && rights(one) == rights(two);
                is_same || one.is_dir() && two.is_dir()
            }
            (State::Removed(_), State::Removed(_)) | (State::Inherited, _) => true,
            _ => false,
        }
    }
}

/// The values of one register, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The one that counts.
    pub winner: Value,
    /// Those that say something else, written without knowing of the winner: the conflict that
    /// somebody may look at. The greatest comes first.
    pub losers: Vec<Value>,
}

impl Resolved {
    /// Orders the concurrent values of a register; nothing where there are none. The order in which
    /// they are given makes no difference, nor how often one is given.
    pub fn of(mut values: Vec<Value>) -> Option<Self> {
        if values.len() > 1 {
            // Of one stamp there is one value, but for replicas that do wrong: they must not make
            // others disagree.
            values.sort_by_cached_key(|value| Reverse((value.rank(), value.encode())));
            values.dedup();
        }
        let mut values = values.into_iter();
        let winner = values.next()?;
        let losers = values.filter(|value| !value.agrees_with(&winner)).collect();
        Some(Self { winner, losers })
    }
}

/// Makes the attributes of an entry whose `ctime` is still to be set by the store that shows it.
pub(super) fn attrs(mode: u32, uid: u32, gid: u32, mtime: Timestamp) -> Attrs {
    Attrs {
        mode,
        uid,
        gid,
        mtime,
        ctime: mtime,
    }
}

/// The format's version, the first byte of an encoded value.
const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Encoded<'a> {
    stamp: Stamp,
    base: Option<[u8; 16]>,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    #[serde(borrow)]
    state: EncodedState<'a>,
}

#[derive(Serialize, Deserialize)]
enum EncodedState<'a> {
    Removed(EncodedKind),
    Dir,
    File { hash: [u8; 32], size: u64 },
    Symlink { target: &'a str },
    Inherited,
}

#[derive(Serialize, Deserialize)]
enum EncodedKind {
    File,
    Dir,
    Symlink,
}

impl Value {
    /// Returns the bytes that a document holds: a format number, and the fields in the
    /// [wire format of postcard](https://postcard.jamesmunns.com/wire-format.html).
    pub fn encode(&self) -> Vec<u8> {
        let (state, [mode, uid, gid], mtime) = match &self.state {
            State::Present(Entry { node, attrs }) => {
                let state = match node {
                    Node::File { hash, size } => EncodedState::File {
                        hash: *hash.as_bytes(),
                        size: *size,
                    },
                    Node::Dir => EncodedState::Dir,
                    Node::Symlink { target } => EncodedState::Symlink { target },
                };
                (state, [attrs.mode, attrs.uid, attrs.gid], attrs.mtime)
            }
            State::Removed(removed) => {
                let kind = match removed.kind {
                    Kind::File => EncodedKind::File,
                    Kind::Dir => EncodedKind::Dir,
                    Kind::Symlink => EncodedKind::Symlink,
                };
                let numbers = [removed.mode, removed.uid, removed.gid];
                (EncodedState::Removed(kind), numbers, removed.mtime)
            }
            State::Inherited => (EncodedState::Inherited, [0; 3], Timestamp(0)),
        };
        let encoded = Encoded {
            stamp: self.stamp,
            base: self.base.map(|id| id.0),
            mode,
            uid,
            gid,
            mtime: mtime.0,
            state,
        };
        // Writing to memory cannot fail.
        postcard::to_extend(&encoded, vec![FORMAT]).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) wrote, or what somebody else claims it did.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the bytes are something else, or say what no entry can be.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::with_detail(ErrorKind::Corrupt, why);
        let Some((&FORMAT, bytes)) = bytes.split_first() else {
            return Err(corrupt(
                "a register has a format that this version does not know",
            ));
        };
        let (encoded, rest) = postcard::take_from_bytes::<Encoded<'_>>(bytes)
            .map_err(|_| corrupt("a register's value does not decode"))?;
        if !rest.is_empty() || encoded.mode & !MODE_MASK != 0 {
            return Err(corrupt("a register's value is out of range"));
        }
        let Encoded { mode, uid, gid, .. } = encoded;
        let mtime = Timestamp(encoded.mtime);
        let present = |node| {
            State::Present(Entry {
                node,
                attrs: attrs(mode, uid, gid, mtime),
            })
        };
        let removed = |kind| {
            State::Removed(Removed {
                kind,
                mode,
                uid,
                gid,
                mtime,
            })
        };
        let state = match encoded.state {
            EncodedState::Removed(EncodedKind::File) => removed(Kind::File),
            EncodedState::Removed(EncodedKind::Dir) => removed(Kind::Dir),
            EncodedState::Removed(EncodedKind::Symlink) => removed(Kind::Symlink),
            EncodedState::Inherited => State::Inherited,
            EncodedState::Dir => present(Node::Dir),
            EncodedState::File { hash, size } => {
                if size > MAX_FILE_SIZE {
                    return Err(corrupt(
                        "a register's file has a size that no file can have",
                    ));
                }
                let hash = Hash::from_bytes(hash);
                present(Node::File { hash, size })
            }
            EncodedState::Symlink { target } => {
                if target.is_empty() || target.len() > MAX_PATH_LEN || target.contains('\0') {
                    return Err(corrupt(
                        "a register's link has a text that no link can have",
                    ));
                }
                let target = target.into();
                present(Node::Symlink { target })
            }
        };
        Ok(Self {
            stamp: encoded.stamp,
            state,
            base: encoded.base.map(EntryId),
        })
    }
}
