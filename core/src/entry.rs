//! Entries: what a path holds, and the identity that merges compare.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The BLAKE3 hash that names a content: the same 32 bytes that `b3sum` and iroh-blobs give.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of no bytes.
    pub const EMPTY: Self = Self([
        0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9,
        0x49, 0x9b, 0xcb, 0x25, 0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca, 0xe4, 0x1f,
        0x32, 0x62,
    ]);

    /// Hashes bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Wraps the 32 bytes of a hash that was computed before.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl FromStr for Hash {
    type Err = Error;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        blake3::Hash::from_hex(text).map(Self::from).map_err(|_| {
            Error::with_detail(ErrorKind::InvalidInput, "a hash is 64 hexadecimal digits")
                .path(text)
        })
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A point in time: nanoseconds since 1970-01-01 UTC, as POSIX `timespec` in one number.
///
/// Covers the years 1677 to 2262.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// The kind of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
}

impl Kind {
    /// Returns `"file"`, `"dir"` or `"symlink"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
        }
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let kinds = [Self::File, Self::Dir, Self::Symlink];
        kinds.into_iter().find(|k| k.name() == name).ok_or_else(|| {
            let detail = format!("an entry is a file, dir or symlink, not {name:?}");
            Error::with_detail(ErrorKind::InvalidInput, detail)
        })
    }
}

/// What an entry is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file: its bytes are found by their hash.
    File {
        /// The BLAKE3 hash of the bytes.
        hash: Hash,
        /// The number of bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// The link's text: 1 to 4,096 bytes, not interpreted until it is followed.
        target: Box<str>,
    },
}

/// The attributes every kind of entry has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attrs {
    /// The permission bits, `0o7777` at most; the file type is not part of it.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The owner's group id.
    pub gid: u32,
    /// When the content (of a directory: when this was last set) changed.
    ///
    /// A directory's time changes only when it is set: a write below a directory does not touch
    /// the directory's own entry, so that branches share it.
    pub mtime: Timestamp,
    /// When the entry last changed in any way. Set by the store.
    pub ctime: Timestamp,
}

/// One file, directory or symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub node: Node,
    /// Its attributes.
    pub attrs: Attrs,
}

impl Entry {
    /// Returns the entry's kind.
    pub fn kind(&self) -> Kind {
        match self.node {
            Node::File { .. } => Kind::File,
            Node::Dir => Kind::Dir,
            Node::Symlink { .. } => Kind::Symlink,
        }
    }

    /// Tells whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.node, Node::Dir)
    }

    /// Tells whether this is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self.node, Node::File { .. })
    }

    /// Tells whether this is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        matches!(self.node, Node::Symlink { .. })
    }

    /// Returns the size in bytes: of a file its length, of a link its text's length, else 0.
    pub fn size(&self) -> u64 {
        match &self.node {
            Node::File { size, .. } => *size,
            Node::Dir => 0,
            Node::Symlink { target } => target.len() as u64,
        }
    }

    /// Returns the content hash of a file.
    pub fn hash(&self) -> Option<Hash> {
        match self.node {
            Node::File { hash, .. } => Some(hash),
            _ => None,
        }
    }

    /// Returns the text of a symbolic link.
    pub fn target(&self) -> Option<&str> {
        match &self.node {
            Node::Symlink { target } => Some(target),
            _ => None,
        }
    }

    /// Returns the entry's identity: a digest of its node, mode, owner and mtime.
    ///
    /// Two entries of the same identity are interchangeable, on whichever node or branch they were
    /// written; `ctime` is left out because each store sets its own.
    pub fn id(&self) -> EntryId {
        let mut hasher = blake3::Hasher::new();
        match &self.node {
            Node::File { hash, size } => {
                hasher.update(b"f");
                hasher.update(hash.as_bytes());
                hasher.update(&size.to_le_bytes());
            }
            Node::Dir => {
                hasher.update(b"d");
            }
            Node::Symlink { target } => {
                hasher.update(b"l");
                hasher.update(&(target.len() as u64).to_le_bytes());
                hasher.update(target.as_bytes());
            }
        }
        let Attrs {
            mode,
            uid,
            gid,
            mtime,
            ctime: _,
        } = self.attrs;
        for number in [mode, uid, gid] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&mtime.0.to_le_bytes());
        EntryId(short(&hasher))
    }
}

/// Returns the first 16 bytes of a hash: enough to tell values apart that nobody forges.
pub(crate) fn short(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

/// The identity of an entry, as overrides and tombstones record it of what they replaced.
///
/// It is the base of a three-way merge: where the parent's entry still has the recorded identity,
/// the child's change is clean; where it has not, both sides changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(pub [u8; 16]);

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({:032x})", u128::from_be_bytes(self.0))
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The entry's name, without its directory.
    pub name: Box<str>,
    /// The entry itself; links are not followed.
    pub entry: Entry,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_of_nothing_is_the_constant() {
        assert_eq!(Hash::of(b""), Hash::EMPTY);
        assert_eq!(Hash::EMPTY.to_hex().parse::<Hash>().unwrap(), Hash::EMPTY);
        assert!("xyz".parse::<Hash>().is_err());
    }

    #[test]
    fn identity_ignores_ctime_only() {
        let attrs = Attrs {
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime: Timestamp(3),
            ctime: Timestamp(4),
        };
        let entry = Entry {
            node: Node::Dir,
            attrs,
        };
        let with = |change: fn(&mut Entry)| {
            let mut other = entry.clone();
            change(&mut other);
            other.id()
        };
        assert_eq!(entry.id(), with(|e| e.attrs.ctime = Timestamp(9)));
        assert_ne!(entry.id(), with(|e| e.attrs.mtime = Timestamp(9)));
        assert_ne!(entry.id(), with(|e| e.attrs.mode = 0o600));
        assert_ne!(entry.id(), with(|e| e.attrs.uid = 9));
        assert_ne!(entry.id(), with(|e| e.attrs.gid = 9));
        assert_ne!(
            entry.id(),
            with(|e| e.node = Node::Symlink { target: "x".into() })
        );
    }
}
