//! The records that several commands print as JSON.

use alknet_fs::{ContentForm, Entry, Kind, TreePath};
use serde::Serialize;

/// An entry of a tree. Times are nanoseconds since 1970 UTC.
#[derive(Debug, Serialize)]
pub(crate) struct EntryRecord<'a> {
    path: &'a str,
    kind: Kind,
    size: u64,
    /// The permission bits in octal.
    mode: String,
    uid: u32,
    gid: u32,
    mtime: i64,
    ctime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    /// How the content is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) form: Option<ContentForm>,
}

impl<'a> EntryRecord<'a> {
    pub(crate) fn new(path: &'a TreePath, entry: &'a Entry) -> Self {
        Self {
            path: path.as_str(),
            kind: entry.kind(),
            size: entry.size(),
            mode: octal(entry.attrs.mode),
            uid: entry.attrs.uid,
            gid: entry.attrs.gid,
            mtime: entry.attrs.mtime.0,
            ctime: entry.attrs.ctime.0,
            hash: entry.hash().map(|hash| hash.to_hex()),
            target: entry.target(),
            form: None,
        }
    }
}

/// A change that a command made.
#[derive(Debug, Default, Serialize)]
pub(crate) struct DoneRecord<'a> {
    pub(crate) op: &'static str,
    pub(crate) path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<&'a str>,
    /// How many entries it made or moved, where that is more than one thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entries: Option<u64>,
}

/// A file that was written to the store or to the disk.
#[derive(Debug, Serialize)]
pub(crate) struct FileRecord<'a> {
    pub(crate) op: &'static str,
    pub(crate) path: &'a str,
    /// Where it was written on the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    pub(crate) size: u64,
    pub(crate) hash: String,
    pub(crate) verified: bool,
}

pub(crate) fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}
