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
mod serve;

use std::sync::Arc;

use alknet_fs_core::{Error, Hash, Result};
use iroh::EndpointId;
use iroh::endpoint::{Connection, ConnectionError, VarInt};

use crate::shared::Shared;

pub(crate) use asker::Refusals;
pub use fetch::{FetchOptions, Fetcher, Outcome, Progress, Want};
pub use guard::GuardedBlobs;
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

/// Sends a peer away that may read nothing at all; returns whether it stays.
async fn let_in(shared: &Arc<Shared>, access: &Arc<dyn Access>, conn: &Connection) -> bool {
    let (peer, asked) = (conn.remote_id(), access.clone());
    let takes_part = shared.run(move |_| asked.takes_part(peer)).await;
    let (code, why) = match takes_part.map_err(Error::from).flatten() {
        Ok(true) => return true,
        Ok(false) => (STRANGER, &b"there is nothing here for you"[..]),
        Err(error) => {
            tracing::error!(%peer, %error, "who may read is not known");
            (INTERNAL, &b"try again later"[..])
        }
    };
    conn.close(code, why);
    false
}

/// Tells whether the peer ended a connection because this node may read nothing there.
fn is_sent_away(conn: &Connection) -> bool {
    let why = conn.close_reason();
    matches!(why, Some(ConnectionError::ApplicationClosed(close)) if close.error_code == STRANGER)
}
