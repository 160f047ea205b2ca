//! How contents travel between two nodes: `alknet-fs/content/1`.
//!
//! The asker opens streams and sends questions; a frame is its length in 4 bytes, least first, and a
//! message in postcard's format. Small contents come whole, many on one stream. Large ones come as
//! the verified ranges of iroh-blobs, and go on where they broke off. Where the asker has another
//! version, only what differs comes. `docs/protocol.md` has the rest.

mod asker;
#[doc(hidden)]
pub mod decoders;
mod fetch;
mod frames;
mod guard;
mod large;
mod refusals;
mod serve;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::{Error, Hash, Result};
use iroh::EndpointId;
use iroh::endpoint::{Connection, ConnectionError, VarInt};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::shared::Shared;

pub use fetch::{FetchOptions, Fetcher, Outcome, Progress, Want};
pub use guard::GuardedBlobs;
pub(crate) use refusals::Refusals;
pub use serve::ContentProtocol;

/// The protocol's name, as connections agree on it.
pub const ALPN: &[u8] = b"alknet-fs/content/1";

/// Contents of up to this many bytes are sent whole. 64 KiB.
pub const SMALL_MAX: u64 = 64 << 10;

/// The content is not here, or the peer may not read it.
pub(crate) const MISSING: VarInt = VarInt::from_u32(1);
/// The peer does not keep to the protocol.
pub(crate) const MALFORMED: VarInt = VarInt::from_u32(2);
/// Something went wrong that is not the peer's fault.
pub(crate) const INTERNAL: VarInt = VarInt::from_u32(3);
/// The peer takes too long.
pub(crate) const TOO_SLOW: VarInt = VarInt::from_u32(4);
/// The peer may read nothing at all: so ends its connection, not only a stream.
pub(crate) const STRANGER: VarInt = VarInt::from_u32(5);

/// How soon it is looked again whether a peer may read anything, where that is not known.
const LOOKING: Duration = Duration::from_secs(30);

/// Who may stay connected; nothing where anybody may.
pub type Staying = Option<Arc<HashSet<EndpointId>>>;

/// Who may read what.
///
/// Asked before anything is told of a content, on a thread that may block. What a peer may not read
/// looks to it as what is not there; the log tells who asked for it, not more than once a minute.
pub trait Access: Send + Sync + 'static {
    /// Tells of each content whether a peer may read it.
    ///
    /// # Errors
    /// Any; then the peer gets nothing.
    fn may_read(&self, peer: EndpointId, hashes: &[Hash]) -> Result<Vec<bool>>;

    /// Tells whether there is anything that a peer may read, or could be: others are sent away as they
    /// come. By default anybody may stay.
    ///
    /// # Errors
    /// Any; then the peer is sent away.
    fn takes_part(&self, _peer: EndpointId) -> Result<bool> {
        Ok(true)
    }

    /// Returns who may stay that was let in, and changes when that does; by default anybody may. Each
    /// connection looks there only, and [asks](Self::takes_part) before it ends.
    fn staying(&self) -> watch::Receiver<Staying> {
        watch::Sender::new(None).subscribe()
    }

    /// Returns what a peer is called in the log.
    fn label(&self, peer: EndpointId) -> String {
        peer.fmt_short().to_string()
    }

    /// Keeps contents that a peer may read, and tells of each whether it is here and stays for a while:
    /// the peer may remove its own.
    ///
    /// # Errors
    /// Any; then nothing is kept for the peer.
    fn keep(&self, _peer: EndpointId, hashes: &[Hash]) -> Result<Vec<bool>> {
        Ok(vec![false; hashes.len()])
    }
}

impl<F: Fn(EndpointId, &[Hash]) -> Result<Vec<bool>> + Send + Sync + 'static> Access for F {
    fn may_read(&self, peer: EndpointId, hashes: &[Hash]) -> Result<Vec<bool>> {
        self(peer, hashes)
    }
}

async fn takes_part(
    shared: &Arc<Shared>,
    access: &Arc<dyn Access>,
    peer: EndpointId,
) -> Result<bool> {
    let asked = access.clone();
    let takes_part = shared.run(move |_| asked.takes_part(peer)).await;
    let takes_part = takes_part.map_err(Error::from).flatten();
    if let Err(error) = &takes_part {
        tracing::error!(peer = %access.label(peer), %error, "who may read is not known");
    }
    takes_part
}

/// Sends a peer away that may read nothing at all; returns whether it stays.
async fn let_in(shared: &Arc<Shared>, access: &Arc<dyn Access>, conn: &Connection) -> bool {
    let peer = conn.remote_id();
    match takes_part(shared, access, peer).await {
        Ok(true) => return true,
        Ok(false) => {
            if let Some(requests) = shared.refusals.unreadable.count(peer, Instant::now()) {
                let peer = access.label(peer);
                tracing::warn!(%peer, requests, "a peer that may read nothing here is sent away");
            }
            conn.close(STRANGER, b"there is nothing here for you");
        }
        Err(_) => conn.close(INTERNAL, b"try again later"),
    }
    false
}

/// Waits until a peer that was let in may read nothing any more, and sends it away.
async fn let_out(
    shared: &Arc<Shared>,
    access: &Arc<dyn Access>,
    conn: &Connection,
    mut staying: watch::Receiver<Staying>,
) {
    let peer = conn.remote_id();
    loop {
        let goes = |staying: &Staying| staying.as_ref().is_some_and(|all| !all.contains(&peer));
        if staying.wait_for(goes).await.is_err() {
            // Nothing changes any more.
            return std::future::pending().await;
        }
        // Who was let in since may not be there yet.
        if let Ok(false) = takes_part(shared, access, peer).await {
            conn.close(STRANGER, b"there is nothing here for you any more");
            return;
        }
        let _ = timeout(LOOKING, staying.changed()).await;
    }
}

/// Tells whether the peer ended a connection because this node may read nothing there.
fn is_sent_away(conn: &Connection) -> bool {
    let why = conn.close_reason();
    matches!(why, Some(ConnectionError::ApplicationClosed(close)) if close.error_code == STRANGER)
}
