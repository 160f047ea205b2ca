//! Which peer something came from.

use alknet_fs_core::store::ReadTxn;
use alknet_fs_core::sync::ReplicaId;
use alknet_fs_core::{Event, EventPeer};

/// Finds the peers that replicas are, in one state of the store.
pub(crate) struct Peers<'a> {
    #[cfg(feature = "sync")]
    txn: &'a dyn ReadTxn,
    #[cfg(feature = "sync")]
    known: std::cell::OnceCell<(alknet_fs_net::Replicas, alknet_fs_net::Records)>,
    #[cfg(not(feature = "sync"))]
    txn: std::marker::PhantomData<&'a dyn ReadTxn>,
}

#[cfg(feature = "sync")]
impl<'a> Peers<'a> {
    pub(crate) fn new(txn: &'a dyn ReadTxn) -> Self {
        Self {
            txn,
            known: std::cell::OnceCell::new(),
        }
    }

    /// Returns the peer that is a replica. What the store keeps of its peers and cannot be read is no
    /// reason not to tell of anything else.
    pub(crate) fn of(&self, replica: ReplicaId) -> Option<EventPeer> {
        use alknet_fs_net::{Records, Replicas};
        let (replicas, records) = self.known.get_or_init(|| {
            let replicas = Replicas::load(self.txn).unwrap_or_default();
            (replicas, Records::load(self.txn).unwrap_or_default())
        });
        let id = replicas.node(replica)?;
        Some(EventPeer {
            id: id.to_string(),
            name: records.peer(id).and_then(|peer| peer.name.clone()),
        })
    }
}

#[cfg(not(feature = "sync"))]
impl<'a> Peers<'a> {
    pub(crate) fn new(_: &'a dyn ReadTxn) -> Self {
        let txn = std::marker::PhantomData;
        Self { txn }
    }

    pub(crate) fn of(&self, _: ReplicaId) -> Option<EventPeer> {
        None
    }
}

/// Says of events which peer they came from. Those that came from elsewhere have the id of a replica as
/// their author.
pub(crate) fn name_peers(txn: &dyn ReadTxn, events: &mut [Event]) {
    let peers = Peers::new(txn);
    for event in events {
        if let Some(replica) = replica(&event.author) {
            event.peer = peers.of(replica);
        }
    }
}

pub(crate) fn replica(author: &str) -> Option<ReplicaId> {
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if author.len() != 32 || !author.bytes().all(is_hex) {
        return None;
    }
    let number = u128::from_str_radix(author, 16).ok()?;
    Some(ReplicaId(number.to_be_bytes()))
}
