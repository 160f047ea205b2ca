//! What a store keeps of its node: who it is, what it gave, what it joined, whom it knows.
//!
//! All of it is one small value, so that any process can read and change it in one transaction,
//! whether the node is running or not.

use alknet_fs_core::store::{BranchId, BucketId, Durability, ReadTxn, Store, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Result, Timestamp};
use iroh::{EndpointAddr, EndpointId, SecretKey};
use serde::{Deserialize, Serialize};

use crate::grant::{Access, BucketUid, Grant, GrantId, Secret, random};
use crate::ticket::{Addrs, Ticket};

const SCOPE: &str = "net";
const RECORDS: &str = "records";
const KEY: &str = "key";
const VERSION: u8 = 1;

/// A bucket that came by a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The bucket.
    pub bucket: BucketUid,
    /// The node that shares it.
    pub peer: EndpointId,
    /// What the ticket allows.
    pub access: Access,
    /// The names of the branches that the ticket is for; none for the whole bucket.
    pub branches: Vec<String>,
    /// When it was joined.
    pub since: Timestamp,
    /// When the grant ends, if ever.
    pub expires: Option<Timestamp>,
    pub(crate) grant: GrantId,
    pub(crate) secret: Secret,
}

/// A node that this one has to do with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its key.
    pub id: EndpointId,
    /// What it is called here.
    pub name: Option<String>,
    pub(crate) addrs: Addrs,
}

/// Everything that is kept, but the secret key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Records {
    /// The buckets that were shared or joined.
    pub buckets: Vec<(BucketId, BucketUid)>,
    /// What was given, from the oldest.
    pub grants: Vec<Grant>,
    /// What was joined, from the oldest.
    pub joined: Vec<Joined>,
    /// The nodes that this one has to do with.
    pub peers: Vec<Known>,
    /// The port that the node listens on, so that others find it again.
    pub port: Option<u16>,
    /// Where the node could be reached when it last ran.
    pub(crate) addrs: Addrs,
}

/// What to share of a bucket.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What may be done with it.
    pub access: Access,
    /// The branches, by name; none for the whole bucket.
    pub branches: Vec<String>,
    /// When that ends, if ever.
    pub expires: Option<Timestamp>,
    /// What to call it.
    pub name: Option<String>,
}

impl Known {
    /// Returns how the node can be reached, as far as it said.
    pub fn addr(&self) -> EndpointAddr {
        self.addrs.with_id(self.id)
    }
}

impl Records {
    /// Returns where this store's node was reached when it last ran, if it ever did.
    pub fn addr(&self, id: EndpointId) -> Option<EndpointAddr> {
        (!self.addrs.is_empty()).then(|| self.addrs.with_id(id))
    }

    /// Finds the grants by which a peer is let in at a time, of any bucket.
    pub fn grants_of(&self, peer: EndpointId, now: Timestamp) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(move |grant| {
            let key = grant.key(peer).filter(|key| key.revoked.is_none());
            key.is_some() && grant.over(now).is_none()
        })
    }

    /// Reads what a store keeps.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`]; [`ErrorKind::Unsupported`] where a newer version wrote it.
    pub fn load(txn: &dyn ReadTxn) -> Result<Self> {
        match txn.value(SCOPE, RECORDS)? {
            Some(bytes) => Self::decode(&bytes),
            None => Ok(Self::default()),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((&VERSION, bytes)) = bytes.split_first() else {
            let why = "a newer version of alkfs keeps its peers in this store: update this one";
            return Err(Error::with_detail(ErrorKind::Unsupported, why));
        };
        postcard::from_bytes(bytes).map_err(|e| {
            let why = "what the store keeps of its peers is damaged";
            Error::with_detail(ErrorKind::Corrupt, why).source(e.to_string())
        })
    }

    /// Returns the bytes that are stored, to tell cheaply whether anything changed.
    pub(crate) fn stored(txn: &dyn ReadTxn) -> Result<Option<Vec<u8>>> {
        txn.value(SCOPE, RECORDS)
    }

    /// Changes what a store keeps, in one transaction.
    ///
    /// # Errors
    /// Those of the change and of the store.
    pub fn update<R>(
        store: &dyn Store,
        durability: Durability,
        change: impl FnOnce(&mut Self, &mut dyn WriteTxn) -> Result<R>,
    ) -> Result<R> {
        let mut txn = store.write(durability)?;
        let before = Self::load(&*txn)?;
        let mut records = before.clone();
        let result = change(&mut records, &mut *txn)?;
        if records != before {
            let bytes = postcard::to_extend(&records, vec![VERSION]).unwrap_or_default();
            txn.set_value(SCOPE, RECORDS, Some(&bytes))?;
        }
        txn.commit()?;
        Ok(result)
    }

    /// Returns a bucket's uid, if it was shared or joined.
    pub fn uid(&self, bucket: BucketId) -> Option<BucketUid> {
        let found = self.buckets.iter().find(|(id, _)| *id == bucket);
        found.map(|(_, uid)| *uid)
    }

    /// Returns the bucket with a uid.
    pub fn bucket(&self, uid: BucketUid) -> Option<BucketId> {
        let found = self.buckets.iter().find(|(_, other)| *other == uid);
        found.map(|(id, _)| *id)
    }

    /// Returns what is known of a node.
    pub fn peer(&self, id: EndpointId) -> Option<&Known> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    pub(crate) fn peer_mut(&mut self, id: EndpointId) -> &mut Known {
        let at = match self.peers.iter().position(|peer| peer.id == id) {
            Some(at) => at,
            None => {
                self.peers.push(Known {
                    id,
                    name: None,
                    addrs: Addrs::default(),
                });
                self.peers.len() - 1
            }
        };
        &mut self.peers[at]
    }

    /// Returns what a node is called: its name, or the beginning of its key.
    pub fn call(&self, id: EndpointId) -> String {
        let name = self.peer(id).and_then(|peer| peer.name.clone());
        name.unwrap_or_else(|| id.fmt_short().to_string())
    }

    /// Finds a node by its name, its key or the beginning of its key.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where several match.
    pub fn find_peer(&self, who: &str) -> Result<EndpointId> {
        let named = |known: &&Known| known.name.as_deref() == Some(who);
        if let Some(known) = self.peers.iter().find(named) {
            return Ok(known.id);
        }
        let begins = |known: &&Known| !who.is_empty() && known.id.to_string().starts_with(who);
        let mut found = self.peers.iter().filter(begins);
        match (found.next(), found.next()) {
            (Some(known), None) => Ok(known.id),
            (Some(_), Some(_)) => {
                let why = "several peers have keys that begin like this: give more of it";
                Err(Error::with_detail(ErrorKind::InvalidInput, why).path(who))
            }
            (None, _) => {
                let why = "no peer of that name or key";
                Err(Error::with_detail(ErrorKind::NotFound, why).path(who))
            }
        }
    }

    /// Tells whether a node may ever be let in, or is let in by it.
    pub(crate) fn knows(&self, id: EndpointId) -> bool {
        self.joined.iter().any(|joined| joined.peer == id)
            || self
                .grants
                .iter()
                .filter_map(|grant| grant.key(id))
                .any(|key| key.revoked.is_none())
    }

    /// Gives a bucket a uid where it has none.
    ///
    /// # Errors
    /// Where the operating system has no random numbers.
    pub fn ensure_uid(&mut self, bucket: BucketId) -> Result<BucketUid> {
        if let Some(uid) = self.uid(bucket) {
            return Ok(uid);
        }
        let uid = BucketUid::random()?;
        self.buckets.push((bucket, uid));
        Ok(uid)
    }

    /// Takes back a grant: nobody is let in by it any more.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn revoke_grant(&mut self, id: GrantId, now: Timestamp) -> Result<()> {
        let grant = self.grants.iter_mut().find(|grant| grant.id == id);
        let unknown = || Error::with_detail(ErrorKind::NotFound, "no such grant").path(id);
        let grant = grant.ok_or_else(unknown)?;
        grant.revoked.get_or_insert(now);
        grant.secret = None;
        Ok(())
    }

    /// Takes every grant back from a node. A ticket that it used lets nobody new in any more, for it
    /// could come again with another key; who else used that ticket is not touched.
    pub fn revoke_peer(&mut self, id: EndpointId, now: Timestamp) -> usize {
        let mut count = 0;
        for grant in &mut self.grants {
            let Some(key) = grant.keys.iter_mut().find(|key| key.peer == id) else {
                continue;
            };
            if key.revoked.replace(now).is_none() {
                count += 1;
            }
            grant.secret = None;
        }
        count
    }
}

/// Returns the secret key of a store's node; the first time, draws it.
///
/// # Errors
/// Those of the store.
pub fn secret_key(store: &dyn Store) -> Result<SecretKey> {
    let read = |txn: &dyn ReadTxn| -> Result<Option<SecretKey>> {
        let bytes = txn.value(SCOPE, KEY)?;
        let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        Ok(key.map(|key| SecretKey::from_bytes(&key)))
    };
    if let Some(key) = read(&*store.read()?)? {
        return Ok(key);
    }
    let mut txn = store.write(Durability::Full)?;
    if let Some(key) = read(&*txn)? {
        return Ok(key);
    }
    let bytes = random()?;
    txn.set_value(SCOPE, KEY, Some(&bytes))?;
    txn.commit()?;
    Ok(SecretKey::from_bytes(&bytes))
}

/// Gives out a bucket, or some of its branches: returns the ticket that lets in whoever has it.
///
/// The node need not run. `addr` says where it is or will be reached.
///
/// # Errors
/// [`ErrorKind::NotFound`] for an unknown bucket or branch; those of the store.
pub fn share(
    store: &dyn Store,
    bucket: BucketId,
    offer: Offer,
    addr: EndpointAddr,
    now: Timestamp,
) -> Result<Ticket> {
    let (id, secret) = (GrantId::random()?, Secret::random()?);
    Records::update(store, Durability::Full, |records, txn| {
        let unknown = || Error::with_detail(ErrorKind::NotFound, "no such bucket");
        let name = txn.bucket(bucket)?.ok_or_else(unknown)?.name;
        let mut branches = Vec::with_capacity(offer.branches.len());
        for name in &offer.branches {
            branches.push(alknet_fs_core::branch::branch(txn, bucket, name)?.id);
        }
        let uid = records.ensure_uid(bucket)?;
        records.grants.push(Grant {
            id,
            bucket: uid,
            access: offer.access,
            branches: (!branches.is_empty()).then_some(branches),
            expires: offer.expires,
            name: offer.name.clone(),
            created: now,
            revoked: None,
            keys: Vec::new(),
            secret: Some(secret.hash()),
        });
        Ok(Ticket {
            addr,
            bucket: uid,
            name,
            access: offer.access,
            branches: offer.branches,
            grant: id,
            secret,
            expires: offer.expires,
        })
    })
}

impl Records {
    /// Notes that a bucket comes by a ticket, which replaces an earlier one of the same node.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where the bucket has another uid, or another bucket the ticket's.
    pub fn join(&mut self, bucket: BucketId, ticket: &Ticket, now: Timestamp) -> Result<()> {
        let other = |why| Err(Error::with_detail(ErrorKind::AlreadyExists, why));
        match (self.uid(bucket), self.bucket(ticket.bucket)) {
            (None, None) => self.buckets.push((bucket, ticket.bucket)),
            (Some(uid), _) if uid != ticket.bucket => {
                return other("the bucket here is another one than the ticket's");
            }
            (_, Some(id)) if id != bucket => {
                return other("the ticket's bucket is here already, under another name");
            }
            _ => {}
        }
        let peer = ticket.addr.id;
        let known = self.peer_mut(peer);
        known.addrs = Addrs::of(&ticket.addr);
        self.joined
            .retain(|joined| (joined.peer, joined.bucket) != (peer, ticket.bucket));
        self.joined.push(Joined {
            bucket: ticket.bucket,
            peer,
            access: ticket.access,
            branches: ticket.branches.clone(),
            since: now,
            expires: ticket.expires,
            grant: ticket.grant,
            secret: ticket.secret.clone(),
        });
        Ok(())
    }

    /// Returns the branches that a grant names, as they are called now.
    pub fn branch_names(txn: &dyn ReadTxn, branches: &[BranchId]) -> Result<Vec<String>> {
        let mut names = Vec::with_capacity(branches.len());
        for id in branches {
            if let Some(branch) = txn.branch(*id)? {
                names.push(branch.name);
            }
        }
        Ok(names)
    }
}
