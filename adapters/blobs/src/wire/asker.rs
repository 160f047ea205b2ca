//! Who asks: what they may read, and what the log says where they ask for more.

use std::time::Instant;

use alknet_fs_core::{Hash, Result};
use iroh::EndpointId;

use super::Access;
use crate::shared::Shared;

/// Answers one request for whether contents may be read, and takes what is left out for a no.
///
/// A request for what is here and may not be read is logged. One for what is not here is not: its asker
/// may have heard of it before this node has.
pub(super) fn request(
    shared: &Shared,
    access: &dyn Access,
    peer: EndpointId,
    hashes: &[Hash],
) -> Result<Vec<bool>> {
    let may_read = readable(access, peer, hashes)?;
    let refused = hashes.iter().zip(&may_read).filter(|(_, may)| !**may);
    let refused: Vec<_> = refused.map(|(hash, _)| hash).collect();
    if refused.is_empty() {
        return Ok(may_read);
    }
    let txn = shared.store.read()?;
    let mut contents = 0;
    // All of them are looked up: the time that an answer takes must not tell what is here.
    for hash in refused {
        contents += u32::from(txn.has_content(hash)? && *hash != Hash::EMPTY);
    }
    if contents > 0
        && let Some(requests) = shared.refusals.unreadable.count(peer, Instant::now())
    {
        let peer = access.label(peer);
        tracing::warn!(%peer, contents, requests, "a peer asks for contents that it may not read");
    }
    Ok(may_read)
}

/// As [`request`], for what is no request.
pub(super) fn readable(
    access: &dyn Access,
    peer: EndpointId,
    hashes: &[Hash],
) -> Result<Vec<bool>> {
    let mut readable = access.may_read(peer, hashes)?;
    readable.resize(hashes.len(), false);
    Ok(readable)
}
