//! The registers of a bucket's branches, in [automerge](https://automerge.org) documents.
//!
//! A branch's registers are spread over [`SHARDS`] documents by the directory that a path is in, because
//! to apply a change costs time in proportion to the document. A document's root maps a path to
//! one scalar, the bytes of a [`Value`](alknet_fs_core::sync::Value): so there is nothing to set up that
//! two replicas could set up differently, and concurrent values of a path stay side by side.

mod branch;
mod bucket;
mod collect;
mod conflicts;
mod document;
mod kept;
mod pages;
mod settle;
mod thin;

pub use branch::{Applied, Branch, Gathered, Group, History, Written};
pub use bucket::{Bucket, deleted, is_deleted};
pub use document::{Document, SHARDS, Share, shard};
