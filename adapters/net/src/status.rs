//! What the node tells of its peers, also to other processes.

use std::collections::{BTreeMap, HashMap, HashSet};

use alknet_fs_core::store::{Durability, ReadTxn, Store};
use alknet_fs_core::{Cursor, Result, Timestamp};
use iroh::EndpointId;
use serde::{Deserialize, Serialize};

use crate::cover::Role;
use crate::grant::{Access, BucketUid, GrantId};
use crate::records::Records;
use crate::time::now;

const SCOPE: &str = "net";
const STATUS: &str = "status";

/// How much of a bucket one side knows that the other is not known to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Behind {
    /// Cuts: each is what one node committed at a time.
    pub cuts: u64,
    /// The branches that they are of.
    pub scopes: u64,
}

/// How many of the contents that a bucket names a node does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lacks {
    /// Their number.
    pub contents: u64,
    /// The sum of their sizes in bytes.
    pub bytes: u64,
}

/// How it stands with one peer about one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The peer.
    pub peer: EndpointId,
    /// The bucket.
    pub bucket: BucketUid,
    /// Whether this node shares the bucket with the peer, rather than having joined it from there.
    pub shared: bool,
    /// Whether they converse because others let both in, with no grant between them.
    pub member: bool,
    /// What the grant between them allows; where there is none, what the peer lets this node do.
    pub access: Access,
    /// Whether they converse.
    pub connected: bool,
    /// When the peer was last known to be there; while connected, when this was written.
    pub seen: Option<Timestamp>,
    /// Whether both are known to know the same of the bucket, as far as the grant covers it.
    pub in_step: bool,
    /// What the peer is known to have that is missing here; as it was last, where they do not converse.
    pub missing_here: Behind,
    /// What the peer is not known to have; as it was last, where they do not converse.
    pub missing_there: Behind,
    /// What is known here, as far as the grant covers it: the same on both sides where they are in step.
    pub state: [u8; 16],
    /// Up to where this tells of what was committed here; nothing where they never conversed.
    pub gathered: Option<Cursor>,
    /// The contents of the bucket, as far as the grant covers it, that the peer said last not to hold.
    pub lacks: Option<Lacks>,
    /// Whether the peer said so knowing just what is known here.
    pub lacks_now: bool,
    /// How many cuts that were made here the grant does not let out, and the peer does not have: as was
    /// last known; nothing where it never was.
    pub stays: Option<u64>,
    /// Why they do not converse, where something went wrong.
    pub trouble: Option<String>,
    /// The grant by which the peer does not let this node in, where that is why.
    pub refused: Option<GrantId>,
}

/// What a node told last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// When.
    pub at: Timestamp,
    /// Each peer and bucket.
    pub links: Vec<Link>,
}

impl Link {
    pub(crate) fn role(&self) -> Role {
        match (self.member, self.shared) {
            (true, _) => Role::Member,
            (false, true) => Role::Giver,
            (false, false) => Role::Taker,
        }
    }
}

impl Status {
    /// Reads what the store's node told last, be it running or not.
    ///
    /// # Errors
    /// Those of the store.
    pub fn load(txn: &dyn ReadTxn) -> Result<Self> {
        let bytes = txn.value(SCOPE, STATUS)?;
        // What cannot be read is of another version: it is written anew soon.
        let status = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        Ok(status.unwrap_or_default())
    }

    /// Adds whoever was let in or joined, and was not told of because the node did not run since. Leaves
    /// out what was left since, and whom nothing lets in any more and that was forgotten. Of tickets that
    /// others took the place of, nothing is told.
    pub fn complete(&mut self, records: &Records) {
        let at = now();
        // The last one counts.
        let newest = records.joined.iter();
        let newest = newest.map(|join| ((join.peer, join.bucket), join.grant));
        let newest: HashMap<_, _> = newest.collect();
        for link in &mut self.links {
            let newest = newest.get(&(link.peer, link.bucket));
            if link.refused.is_some() && link.refused.as_ref() != newest {
                (link.trouble, link.refused) = (None, None);
            }
        }
        let joined = records.joined.iter();
        let joined = joined.filter(|join| !records.is_silent(join, at));
        let joined = joined.map(|join| (join.peer, join.bucket, false, join.access));
        // What each was given; nothing where all of it is over.
        let mut given: BTreeMap<(EndpointId, BucketUid), Option<Access>> = BTreeMap::new();
        for grant in &records.grants {
            let is_valid = grant.over(at).is_none();
            for key in &grant.keys {
                let access = (is_valid && key.revoked.is_none()).then_some(grant.access);
                let known = given.entry((key.peer, grant.bucket)).or_default();
                *known = access.max(*known);
            }
        }
        let known: HashSet<_> = records.peers.iter().map(|peer| peer.id).collect();
        let is_forgotten =
            |peer, bucket| !known.contains(&peer) && given.get(&(peer, bucket)) == Some(&None);
        self.links.retain(|link| match link.role() {
            Role::Giver => link.connected || !is_forgotten(link.peer, link.bucket),
            Role::Taker => newest.contains_key(&(link.peer, link.bucket)),
            Role::Member => true,
        });
        let told = self.links.iter().filter(|link| !link.member);
        let told = told.map(|link| (link.peer, link.bucket, link.shared));
        let mut told: HashSet<_> = told.collect();
        let given = given
            .iter()
            .map(|((peer, bucket), access)| (*peer, *bucket, true, access.unwrap_or(Access::Read)));
        let given = given.filter(|(peer, bucket, ..)| !is_forgotten(*peer, *bucket));
        for (peer, bucket, shared, access) in joined.chain(given) {
            if told.insert((peer, bucket, shared)) {
                self.links.push(Link {
                    peer,
                    bucket,
                    shared,
                    member: false,
                    access,
                    connected: false,
                    seen: None,
                    in_step: false,
                    missing_here: Behind::default(),
                    missing_there: Behind::default(),
                    state: [0; 16],
                    gathered: None,
                    lacks: None,
                    lacks_now: false,
                    stays: None,
                    trouble: None,
                    refused: None,
                });
            }
        }
    }

    pub(crate) fn save(&self, store: &dyn Store) -> Result<()> {
        let bytes = postcard::to_extend(self, Vec::new()).unwrap_or_default();
        let mut txn = store.write(Durability::Relaxed)?;
        txn.set_value(SCOPE, STATUS, Some(&bytes))?;
        txn.commit()
    }
}
