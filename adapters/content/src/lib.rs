//! The content store of alknet-fs: bytes that exist once, named by their BLAKE3 hash.
//!
//! Small contents live in their record, in the database. Large ones are files in the store's
//! `blobs/` directory: `<hash>` holds the bytes, `<hash>.tree` the hash tree of a very large one,
//! `<hash>.delta` the payload of a large delta. A small edit of a large content is a delta: its hash
//! follows from the base's hash tree, so that neither reading nor writing the rest is needed.
//!
//! [`Contents`] prepares a content outside any transaction (written, hashed, synced) and commits it
//! inside one: data file, directory and database reach the disk in that order. A [`ContentReader`]
//! reads one; a [`StagingFile`] is what a large write session writes to.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use alknet_fs_content::{Config, Contents};
//! let dir = tempfile::tempdir()?;
//! let contents = Contents::open_store(dir.path(), Config::default())?;
//! let prepared = contents.prepare_bytes(vec![7; 100_000])?;
//! assert_eq!(prepared.hash(), alknet_fs_core::Hash::of(&[7; 100_000]));
//! drop(prepared); // not committed: nothing stays
//! assert_eq!(contents.usage()?, Default::default());
//! # Ok(())
//! # }
//! ```

mod assemble;
mod cache;
mod contents;
mod delta;
mod files;
pub mod hash_tree;
pub mod partial;
mod reader;
mod sim;
mod staged;
mod staging;

pub use contents::{Config, Contents, Orphan, Prepared, Staged, Usage, is_gone};
pub use files::{Area, DiskFiles, FileHandle, Files, Listed};
pub use reader::{ContentReader, no_record};
pub use sim::{Fault, SimFiles};
pub use staging::StagingFile;
