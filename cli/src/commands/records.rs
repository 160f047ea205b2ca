//! The records that several commands print as JSON.

use alknet_fs::{Change, ContentForm, Cursor, Entry, Event, EventPeer, Kind, SessionId, TreePath};
use serde::Serialize;

use super::sync::short;
use crate::output::rfc3339;

/// An entry of a tree.
#[derive(Debug, Serialize)]
pub(crate) struct EntryRecord<'a> {
    path: &'a str,
    kind: Kind,
    size: u64,
    /// The permission bits in octal.
    mode: String,
    uid: u32,
    gid: u32,
    mtime: String,
    ctime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    /// Whether the content is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) here: Option<bool>,
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
            mtime: rfc3339(entry.attrs.mtime),
            ctime: rfc3339(entry.attrs.ctime),
            hash: entry.hash().map(|hash| hash.to_hex()),
            target: entry.target(),
            here: None,
            form: None,
        }
    }
}

/// An event of the log.
#[derive(Debug, Serialize)]
pub(crate) struct EventRecord<'a> {
    cursor: Cursor,
    at: String,
    author: &'a str,
    bucket: &'a str,
    branch: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    /// The node that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a EventPeer>,
    #[serde(flatten)]
    change: &'a Change,
}

impl<'a> EventRecord<'a> {
    pub(crate) fn new(event: &'a Event) -> Self {
        Self {
            cursor: event.cursor,
            at: rfc3339(event.at),
            author: &event.author,
            bucket: &event.bucket,
            branch: &event.branch,
            session: event.session,
            peer: event.peer.as_ref(),
            change: &event.change,
        }
    }
}

/// Returns what a peer is called: its name, or the beginning of its key.
pub(crate) fn called(peer: &EventPeer) -> &str {
    peer.name.as_deref().unwrap_or_else(|| short(&peer.id))
}

/// Returns who made a change: what the node that it came from is called, or the author.
pub(crate) fn who(event: &Event) -> &str {
    event.peer.as_ref().map_or(&event.author, called)
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
