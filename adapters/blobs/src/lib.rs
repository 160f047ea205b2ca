//! The content store of alknet-fs, served as a store of iroh-blobs.
//!
//! [`BlobStore`] answers iroh-blobs' store protocol from [`Contents`] and a [`Store`]: what is complete
//! is looked up there by its hash, and nothing is kept twice. So everything that iroh-blobs builds
//! on a store works on this one: verified ranges, resumed transfers, the downloader, the provider.
//!
//! What comes from a peer is verified from the hash down before it is written, group by group of
//! 16 KiB ([`alknet_fs_content::partial`]), whoever has verified it before; what covers a part of a
//! group is verified and not kept. A transfer that breaks off leaves a partial content in `staging/`
//! and goes on from there, in this process or in the next.
//!
//! [`wire`] is how contents travel between two of our nodes.
//!
//! The store's calls block, so they run on tokio's threads for such work, [`Options::threads`] at
//! once. A transfer has up to 2 MiB in memory beside what iroh-blobs buffers.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use alknet_fs_blobs::{BlobStore, Options};
//! use alknet_fs_content::Contents;
//! use alknet_fs_core::memory::MemoryStore;
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
//! let store = Arc::new(MemoryStore::new());
//! let blobs = BlobStore::spawn(store, Contents::in_memory(), Options::default())?;
//! let tag = blobs.add_slice(b"hello").temp_tag().await?;
//! assert_eq!(&blobs.get_bytes(tag.hash()).await?[..], b"hello");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok(())
//! # }
//! ```

mod actor;
mod encode;
mod export;
mod import;
mod shared;
mod tags;
mod temp;
pub mod wire;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use alknet_fs_content::Contents;
use alknet_fs_core::Result;
use alknet_fs_core::store::{Durability, Store};
use iroh_blobs::api;
use iroh_blobs::store::mem::MemStore;

use crate::actor::Actor;
use crate::shared::Shared;

/// How a [`BlobStore`] works. The defaults are meant for use.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many calls into the store block at once, and as many that read from local programs.
    /// Default 8.
    pub threads: usize,
    /// What a commit promises when an import is acknowledged. Default [`Durability::Full`].
    pub durability: Durability,
    /// For how long an imported content is kept from garbage collection. A temporary tag renews
    /// this for as long as it lives. Default 1 hour.
    pub pin: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 8,
            durability: Durability::Full,
            pin: Duration::from_secs(60 * 60),
        }
    }
}

/// A content store as a store of iroh-blobs; [`Deref`]s to its interface.
///
/// Clones are handles of the same. When the last is dropped, and everything made from it, or after
/// [`shutdown`](api::Store::shutdown), what has arrived of contents is synced and let go of.
#[derive(Debug, Clone)]
pub struct BlobStore {
    store: api::Store,
    shared: Arc<Shared>,
}

impl BlobStore {
    /// Serves a content store from a task on the current tokio runtime, which needs its timer.
    ///
    /// # Errors
    /// What the operating system reports where partial contents are looked for.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(store: Arc<dyn Store>, contents: Contents, options: Options) -> Result<Self> {
        let (send, commands) = tokio::sync::mpsc::channel(32);
        let shared = Shared::new(store, contents, options);
        shared.find_left()?;
        tokio::spawn(Actor::new(shared.clone(), commands).run());
        let store = MemStore::from_sender(irpc::Client::local(send)).into();
        Ok(Self { store, shared })
    }

    /// Returns iroh-blobs' handle, for example for
    /// [`BlobsProtocol`](iroh_blobs::BlobsProtocol::new).
    pub fn api(&self) -> &api::Store {
        &self.store
    }
}

impl Deref for BlobStore {
    type Target = api::Store;

    fn deref(&self) -> &api::Store {
        &self.store
    }
}
