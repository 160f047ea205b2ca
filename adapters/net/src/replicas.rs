//! Which node each replica of a bucket is, as far as nodes said it of themselves.

use alknet_fs_core::Result;
use alknet_fs_core::store::{Durability, ReadTxn, Store};
use alknet_fs_core::sync::ReplicaId;
use iroh::EndpointId;
use serde::{Deserialize, Serialize};

use crate::grant::BucketUid;

const SCOPE: &str = "net";
const REPLICAS: &str = "replicas";

/// How many replicas of one bucket a node may have been, the newest of which are kept: it is
/// another one after it deleted the bucket and joined it again.
const MOST: usize = 16;

/// What nodes said when they greeted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replicas(Vec<(EndpointId, BucketUid, ReplicaId)>);

impl Replicas {
    /// Reads what a store keeps of it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn load(txn: &dyn ReadTxn) -> Result<Self> {
        let bytes = txn.value(SCOPE, REPLICAS)?;
        // What cannot be read is of another version: each greeting says it anew.
        let said = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        Ok(said.unwrap_or_default())
    }

    /// Returns the node that is a replica. Where several say that they are, nobody knows.
    pub fn node(&self, replica: ReplicaId) -> Option<EndpointId> {
        let mut said = self.0.iter().filter(|(.., other)| *other == replica);
        let (node, ..) = said.next()?;
        said.all(|(other, ..)| other == node).then_some(*node)
    }

    /// Keeps which replica of a bucket a node says that it is.
    pub(crate) fn note(
        store: &dyn Store,
        node: EndpointId,
        bucket: BucketUid,
        replica: ReplicaId,
    ) -> Result<()> {
        let said = (node, bucket, replica);
        if Self::load(&*store.read()?)?.0.contains(&said) {
            return Ok(());
        }
        let mut txn = store.write(Durability::Relaxed)?;
        let mut all = Self::load(&*txn)?;
        all.0.push(said);
        let of_it = all.0.iter();
        let of_it = of_it.filter(|(other, of, _)| (*other, *of) == (node, bucket));
        if of_it.count() > MOST
            && let Some(oldest) = all
                .0
                .iter()
                .position(|(other, of, _)| (*other, *of) == (node, bucket))
        {
            all.0.remove(oldest);
        }
        let bytes = postcard::to_extend(&all, Vec::new()).unwrap_or_default();
        txn.set_value(SCOPE, REPLICAS, Some(&bytes))?;
        txn.commit()
    }
}

#[cfg(test)]
mod tests {
    use alknet_fs_core::memory::MemoryStore;
    use iroh::SecretKey;

    use super::*;

    #[test]
    fn nodes_are_known_by_what_they_say() {
        let store = MemoryStore::new();
        let [a, b] = [1, 2].map(|n| SecretKey::from_bytes(&[n; 32]).public());
        let (bucket, other) = (BucketUid([1; 16]), BucketUid([2; 16]));
        let replica = |n: u8| ReplicaId([n; 16]);
        let node = |replica| {
            Replicas::load(&*store.read().unwrap())
                .unwrap()
                .node(replica)
        };
        let say = |who, bucket, replica| Replicas::note(&store, who, bucket, replica).unwrap();
        assert_eq!(node(replica(1)), None);
        say(a, bucket, replica(1));
        say(a, bucket, replica(1));
        say(b, bucket, replica(2));
        assert_eq!(node(replica(1)), Some(a));
        assert_eq!(node(replica(2)), Some(b));

        // Of two that claim one replica, neither is believed.
        say(b, bucket, replica(1));
        assert_eq!(node(replica(1)), None);

        // Whoever says another thing each time takes only its own place.
        for n in 10..60 {
            say(b, bucket, replica(n));
        }
        say(b, other, replica(99));
        assert_eq!(node(replica(1)), Some(a));
        assert_eq!(node(replica(10)), None);
        assert_eq!(node(replica(59)), Some(b));
        assert_eq!(node(replica(99)), Some(b));
        let kept = Replicas::load(&*store.read().unwrap()).unwrap();
        assert_eq!(kept.0.len(), 1 + MOST + 1);
    }
}
