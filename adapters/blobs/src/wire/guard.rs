//! iroh-blobs' own protocol, for those who may read.

use std::fmt;
use std::sync::Arc;

use alknet_fs_core::{Hash, Result};
use iroh::EndpointId;
use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh_blobs::api::blobs::BlobStatus;
use iroh_blobs::provider::events::{
    AbortReason, EventMask, EventResult, EventSender, ObserveMode, ProviderMessage, RequestMode,
};
use iroh_blobs::provider::handle_connection;

use super::asker::request;
use super::{Access, let_in, let_out};
use crate::BlobStore;
use crate::actor::ours;
use crate::shared::{Shared, to_io};

/// How many requests of a connection wait to be decided on.
const WAITING: usize = 32;
/// How many hashes one request may name.
const MANY_MAX: usize = 4096;

/// Serves the protocol of iroh-blobs ([`iroh_blobs::ALPN`]) to those who may read.
///
/// Single contents and lists of contents are served; hash sequences, whose members a request does not
/// name, and pushes are refused. So is what is not here, so that nobody can tell what they may not
/// read from what is missing.
#[derive(Clone)]
pub struct GuardedBlobs {
    blobs: BlobStore,
    access: Arc<dyn Access>,
}

impl fmt::Debug for GuardedBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedBlobs").finish_non_exhaustive()
    }
}

impl GuardedBlobs {
    /// The protocol's name, as connections agree on it.
    pub const ALPN: &[u8] = iroh_blobs::ALPN;

    /// Serves a store.
    pub fn new(blobs: &BlobStore, access: Arc<dyn Access>) -> Self {
        let blobs = blobs.clone();
        Self { blobs, access }
    }

    async fn decide(&self, peer: EndpointId, hashes: Vec<Hash>) -> EventResult {
        let access = self.access.clone();
        let work = move |shared: &Shared| is_served(shared, &*access, peer, &hashes);
        let decided = self.blobs.shared.run(work).await;
        match decided.and_then(|decided| decided.map_err(to_io)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(AbortReason::Permission),
            Err(error) => {
                let peer = self.access.label(peer);
                tracing::error!(%peer, %error, "who may read is not known");
                Err(AbortReason::Permission)
            }
        }
    }

    async fn answer(&self, peer: EndpointId, message: ProviderMessage) {
        // Where the answer cannot be sent, nobody waits for it any more.
        match message {
            ProviderMessage::GetRequestReceived(m) => {
                let request = &m.inner.request;
                let decided = match request.ranges.is_blob() {
                    true => self.decide(peer, vec![ours(&request.hash)]).await,
                    false => Err(AbortReason::Permission),
                };
                let _ = m.tx.send(decided).await;
            }
            ProviderMessage::GetManyRequestReceived(m) => {
                let hashes = m.inner.request.hashes.iter().map(ours).collect();
                let _ = m.tx.send(self.decide(peer, hashes).await).await;
            }
            ProviderMessage::ObserveRequestReceived(m) => {
                let hashes = vec![ours(&m.inner.request.hash)];
                let _ = m.tx.send(self.decide(peer, hashes).await).await;
            }
            ProviderMessage::PushRequestReceived(m) => {
                let _ = m.tx.send(Err(AbortReason::Permission)).await;
            }
            _ => {}
        }
    }
}

fn is_served(
    shared: &Shared,
    access: &dyn Access,
    peer: EndpointId,
    hashes: &[Hash],
) -> Result<bool> {
    if hashes.len() > MANY_MAX || request(shared, access, peer, hashes)?.contains(&false) {
        return Ok(false);
    }
    for hash in hashes {
        if shared.status(hash)? == BlobStatus::NotFound {
            return Ok(false);
        }
    }
    Ok(true)
}

impl ProtocolHandler for GuardedBlobs {
    async fn accept(&self, conn: Connection) -> std::result::Result<(), AcceptError> {
        let (shared, staying) = (&self.blobs.shared, self.access.staying());
        if !let_in(shared, &self.access, &conn).await {
            return Ok(());
        }
        let served = conn.clone();
        let out = let_out(shared, &self.access, &served, staying);
        let peer = conn.remote_id();
        let mask = EventMask {
            get: RequestMode::Intercept,
            get_many: RequestMode::Intercept,
            observe: ObserveMode::Intercept,
            push: RequestMode::Disabled,
            ..EventMask::DEFAULT
        };
        let (events, mut messages) = EventSender::channel(WAITING, mask);
        let decide = async {
            while let Some(message) = messages.recv().await {
                self.answer(peer, message).await;
            }
        };
        let store = self.blobs.api().clone();
        let serving = async { tokio::join!(handle_connection(conn, store, events), decide) };
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => {}
            () = out => {
                serving.await;
            }
        }
        Ok(())
    }
}
