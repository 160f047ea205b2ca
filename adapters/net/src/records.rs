//! What a store keeps of its node: who it is, what it gave, what it joined, whom it knows.
//!
//! All of it is one small value, so that any process can read and change it in one transaction,
//! whether the node is running or not.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;

use alknet_fs_core::store::{BranchId, BucketId, Durability, ReadTxn, Store, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Result, Timestamp};
use iroh::{EndpointAddr, EndpointId, SecretKey};
use serde::{Deserialize, Serialize};

use crate::grant::{Access, BucketUid, Grant, GrantId, Refusal, Secret, random};
use crate::members::{Member, Statements, What};
use crate::ticket::{Addrs, Ticket};
use crate::wire::MAX_TICKETS;

const SCOPE: &str = "net";
const RECORDS: &str = "records";
const KEY: &str = "key";
const VERSION: u8 = 1;

/// How many characters of a key or an id name it at least.
const BEGINNING_MIN: usize = 4;

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

impl Joined {
    /// Tells whether it allows anything that another ticket of the same node does not, or for longer.
    fn adds_to(&self, ticket: &Ticket, now: Timestamp) -> bool {
        if self.grant == ticket.grant || self.expires.is_some_and(|expires| expires <= now) {
            return false;
        }
        let last = |expires: Option<Timestamp>| expires.unwrap_or(Timestamp(i64::MAX));
        let is_in = |name| ticket.branches.contains(name);
        let covers = ticket.branches.is_empty()
            || !self.branches.is_empty() && self.branches.iter().all(is_in);
        !covers || self.access > ticket.access || last(self.expires) > last(ticket.expires)
    }
}

/// A node that this one has to do with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its key.
    pub id: EndpointId,
    /// What it is called here.
    pub name: Option<String>,
    pub(crate) addrs: Addrs,
    /// Whether it said itself where it is, rather than others.
    pub(crate) met: bool,
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
    /// What nodes state of each other, of each bucket.
    pub(crate) statements: BTreeMap<BucketUid, Statements>,
    /// Whom this node let out of a bucket into which others let it.
    pub(crate) banned: Vec<(BucketUid, EndpointId)>,
    /// From whom a whole bucket was joined, and nothing is taken any more: its giver overrules that.
    pub(crate) silent: BTreeSet<(BucketUid, EndpointId)>,
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
        let result = Self::change(&mut *txn, change)?;
        txn.commit()?;
        Ok(result)
    }

    /// Changes what a store keeps as a part of a transaction.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn change<R>(
        txn: &mut dyn WriteTxn,
        change: impl FnOnce(&mut Self, &mut dyn WriteTxn) -> Result<R>,
    ) -> Result<R> {
        let before = Self::load(txn)?;
        let mut records = before.clone();
        let result = change(&mut records, txn)?;
        if records != before {
            let bytes = postcard::to_extend(&records, vec![VERSION]).unwrap_or_default();
            txn.set_value(SCOPE, RECORDS, Some(&bytes))?;
        }
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

    /// Returns what is known of a node; where that is nothing, from now on that there is one.
    pub fn peer_mut(&mut self, id: EndpointId) -> &mut Known {
        let at = match self.peers.iter().position(|peer| peer.id == id) {
            Some(at) => at,
            None => {
                self.peers.push(Known {
                    id,
                    name: None,
                    addrs: Addrs::default(),
                    met: false,
                });
                self.peers.len() - 1
            }
        };
        &mut self.peers[at]
    }

    /// Notes where a node says that it is.
    pub(crate) fn met(&mut self, id: EndpointId, addrs: Addrs) {
        let known = self.peer_mut(id);
        (known.addrs, known.met) = (addrs.limited(), true);
    }

    /// Tells whether others may say where a node is: it did not say so itself, and nothing is known, or
    /// it was not `reached` there.
    pub(crate) fn takes_hint(&self, id: EndpointId, reached: bool) -> bool {
        let known = self.peer(id);
        known.is_none_or(|known| !known.met && (known.addrs.is_empty() || !reached))
    }

    /// Notes where others say that a node is, as long as it did not say so itself.
    pub(crate) fn hint(&mut self, id: EndpointId, addrs: Addrs) {
        if self.takes_hint(id, false) && !addrs.is_empty() {
            self.peer_mut(id).addrs = addrs.limited();
        }
    }

    /// Returns what a node is called: its name, or the beginning of its key.
    pub fn call(&self, id: EndpointId) -> String {
        let name = self.peer(id).and_then(|peer| peer.name.clone());
        name.unwrap_or_else(|| id.fmt_short().to_string())
    }

    /// Returns what a node is called in the log: its name, if it has one, and the beginning of its key.
    pub fn label(&self, id: EndpointId) -> String {
        match self.peer(id).and_then(|peer| peer.name.as_deref()) {
            Some(name) => format!("{name} ({})", id.fmt_short()),
            None => id.fmt_short().to_string(),
        }
    }

    /// Finds a node by its name, its key or the beginning of its key: one that this one has to do with,
    /// or of which others state something.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where several match.
    pub fn find_peer(&self, who: &str) -> Result<EndpointId> {
        let named = |known: &&Known| known.name.as_deref() == Some(who);
        if let Some(known) = self.peers.iter().find(named) {
            return Ok(known.id);
        }
        let known = self.peers.iter().map(|known| known.id);
        let others = self.statements.values().flat_map(Statements::named);
        let all: BTreeSet<EndpointId> = known.chain(others).collect();
        let begins = |id: &EndpointId| Self::is_beginning(who, id);
        let mut found = all.into_iter().filter(begins);
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
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

    /// Tells whether a key or an id begins like this, with no less of it than nobody means by chance.
    pub fn is_beginning(text: &str, of: impl Display) -> bool {
        text.len() >= BEGINNING_MIN && of.to_string().starts_with(text)
    }

    /// Finds the grants that have an id which begins like this, or a label: those that count no more only
    /// where no other has it.
    pub fn find_grants(&self, who: &str, now: Timestamp) -> Vec<&Grant> {
        let begins = |grant: &&Grant| {
            let is_id = Self::is_beginning(who, grant.id);
            is_id || grant.name.as_deref() == Some(who)
        };
        let all: Vec<_> = self.grants.iter().filter(begins).collect();
        let counts = |grant: &&&Grant| grant.over(now).is_none();
        match all.iter().any(|grant| counts(&grant)) {
            true => all.iter().filter(counts).copied().collect(),
            false => all,
        }
    }

    /// Tells whether a grant lets a node in at a time, or something was joined from it.
    pub(crate) fn takes_part(&self, id: EndpointId, now: Timestamp) -> bool {
        let mut joined = self.joined.iter();
        joined.any(|joined| joined.peer == id) || self.grants_of(id, now).next().is_some()
    }

    /// Tells whether this node ever let a node in, or let it out.
    pub(crate) fn is_acquainted(&self, id: EndpointId) -> bool {
        let mut banned = self.banned.iter();
        banned.any(|(_, peer)| *peer == id)
            || self.grants.iter().any(|grant| grant.key(id).is_some())
    }

    /// Returns why a node is let into a bucket no more by what this one gave it, if it was given anything
    /// and none of it counts at a time.
    pub fn ended(&self, id: EndpointId, bucket: BucketUid, now: Timestamp) -> Option<Refusal> {
        let mut ended = None;
        for grant in self.grants.iter().filter(|grant| grant.bucket == bucket) {
            let over = match grant.key(id) {
                None => continue,
                Some(key) if key.revoked.is_some() => Some(Refusal::Revoked),
                Some(_) => grant.over(now),
            };
            ended = Some(over?);
        }
        ended
    }

    /// Tells whether a node has to do with the whole of a bucket by a grant between it and this one.
    pub fn is_direct(&self, id: EndpointId, bucket: BucketUid, now: Timestamp) -> bool {
        let mut joined = self.joined.iter();
        joined.any(|joined| {
            (joined.peer, joined.bucket) == (id, bucket)
                && joined.branches.is_empty()
                && !self.is_silent(joined, now)
                && joined.expires.is_none_or(|expires| expires > now)
        }) || self
            .grants_of(id, now)
            .any(|grant| grant.bucket == bucket && grant.branches.is_none())
    }

    /// Returns by what a bucket was joined last from a node.
    pub(crate) fn newest(&self, from: EndpointId, bucket: BucketUid) -> Option<&Joined> {
        let mut joined = self.joined.iter().rev();
        joined.find(|joined| (joined.peer, joined.bucket) == (from, bucket))
    }

    /// Tells whether others take what this node writes to a bucket, as far as it knows: it is its own, or
    /// a ticket by which it was joined allows that.
    pub fn may_write(&self, bucket: BucketUid) -> bool {
        let mut joined = self.joined.iter().filter(|joined| joined.bucket == bucket);
        joined.clone().next().is_none() || joined.any(|joined| joined.access == Access::Write)
    }

    /// Finds who takes part in the whole of a bucket, as far as this node, whose key is `own`, believes
    /// what nodes state of each other: those with whom it has to do by a grant, and others.
    pub fn members(
        &self,
        own: EndpointId,
        bucket: BucketUid,
        now: Timestamp,
    ) -> BTreeMap<EndpointId, Member> {
        let statements = self.statements.get(&bucket);
        statements.map_or_else(BTreeMap::new, |statements| statements.members(own, now))
    }

    /// Returns the digest of what nodes state of a bucket.
    pub(crate) fn digest(&self, bucket: BucketUid) -> [u8; 16] {
        let statements = self.statements.get(&bucket);
        statements.map_or_else(|| Statements::default().digest(), Statements::digest)
    }

    /// Tells whether nothing is taken at a time from whom something was joined: its giver let it out, and
    /// the whole bucket was joined from it. Then tickets for branches are not asked with either, since all that
    /// it gave is answered together.
    pub fn is_silent(&self, joined: &Joined, now: Timestamp) -> bool {
        let of = (joined.bucket, joined.peer);
        let is_whole = |other: &Joined| {
            let is_over = other.expires.is_some_and(|expires| expires <= now);
            (other.bucket, other.peer) == of && other.branches.is_empty() && !is_over
        };
        self.silent.contains(&of)
            && (joined.branches.is_empty() || self.joined.iter().any(is_whole))
    }

    /// Brings what this node states of others up to what it gave and joined, and forgets what is about
    /// buckets that are `gone` or that it has to do with no more, and nodes that are known by hints alone. Only
    /// what is about a whole bucket is stated.
    pub(crate) fn restate(&mut self, key: &SecretKey, gone: &HashSet<BucketId>, now: Timestamp) {
        let shared: BTreeSet<BucketUid> = {
            let here = self.buckets.iter().filter(|(id, _)| !gone.contains(id));
            let here = here.map(|(_, bucket)| *bucket);
            let granted = |bucket: &BucketUid| self.grants.iter().any(|g| g.bucket == *bucket);
            let joined = |bucket: &BucketUid| self.joined.iter().any(|j| j.bucket == *bucket);
            here.filter(|bucket| granted(bucket) || joined(bucket))
                .collect()
        };
        self.statements.retain(|bucket, _| shared.contains(bucket));
        self.banned.retain(|(bucket, _)| shared.contains(bucket));
        for bucket in shared {
            let mut stated = self.stated(bucket, now);
            let own = self.statements.get(&bucket);
            for gone in own.into_iter().flat_map(|own| own.named_by(key.public())) {
                stated.entry(gone).or_insert((What::Nothing, None));
            }
            if stated.is_empty() {
                continue;
            }
            let statements = self.statements.entry(bucket).or_default();
            for (of, what) in stated {
                statements.state(key, bucket, of, what, now);
            }
        }
        let overruled = self.statements.iter().flat_map(|(bucket, statements)| {
            let overruled = statements.overruled(key.public(), now);
            overruled.into_iter().map(|peer| (*bucket, peer))
        });
        self.silent = overruled.collect();
        if self.peers.iter().any(|peer| !peer.met) {
            let members = self.statements.values();
            let members = members.flat_map(|of| of.members(key.public(), now).into_keys());
            let members: BTreeSet<_> = members.collect();
            self.peers
                .retain(|peer| peer.met || peer.name.is_some() || members.contains(&peer.id));
        }
    }

    fn stated(
        &self,
        bucket: BucketUid,
        now: Timestamp,
    ) -> BTreeMap<EndpointId, (What, Option<Timestamp>)> {
        let joined = self.joined.iter().filter(|joined| joined.bucket == bucket);
        let joined = joined.filter(|joined| joined.branches.is_empty());
        let joined = joined.map(|joined| (joined.peer, What::From, joined.expires));
        let grants = self.grants.iter().filter(|grant| grant.bucket == bucket);
        let grants = grants.filter(|grant| grant.branches.is_none());
        let given = grants.flat_map(|grant| {
            grant.keys.iter().map(|key| {
                let is_back = key.revoked.or(grant.revoked).is_some();
                match is_back {
                    true => (key.peer, What::Out, None),
                    false => (key.peer, What::gave(grant.access), grant.expires),
                }
            })
        });
        let banned = self.banned.iter().filter(|(of, _)| *of == bucket);
        let banned = banned.map(|(_, peer)| (*peer, What::Out, None));
        // What ends by itself leaves nothing to take back.
        let weight = |(what, expires): (What, Option<Timestamp>)| {
            let is_over = expires.is_some_and(|expires| expires <= now);
            let last = expires.unwrap_or(Timestamp(i64::MAX));
            (what.lets_in() && !is_over, !is_over, what, last)
        };
        let mut stated = BTreeMap::new();
        for (of, what, expires) in joined.chain(given).chain(banned) {
            let known = stated.entry(of).or_insert((what, expires));
            if weight((what, expires)) > weight(*known) {
                *known = (what, expires);
            }
        }
        stated
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

    /// Takes every grant back from a node, and lets it out of the buckets into which others let it: here,
    /// and wherever nobody else who is believed there let it in. A ticket that it used lets nobody new in
    /// any more, for it could come again with another key; who else used that ticket is not touched.
    /// Returns how many grants it had, and buckets by others alone.
    pub fn revoke_peer(&mut self, id: EndpointId, now: Timestamp) -> usize {
        let mut count = 0;
        let mut given = BTreeSet::new();
        for grant in &mut self.grants {
            let Some(key) = grant.keys.iter_mut().find(|key| key.peer == id) else {
                continue;
            };
            if key.revoked.replace(now).is_none() {
                count += 1;
            }
            grant.secret = None;
            if grant.branches.is_none() {
                given.insert(grant.bucket);
            }
        }
        for (bucket, statements) in &self.statements {
            let joined = self.joined.iter();
            let mut joined = joined.map(|joined| (joined.bucket, joined.peer));
            let theirs = (*bucket, id);
            if !given.contains(bucket)
                && statements.lets_in(id, now)
                && joined.all(|joined| joined != theirs)
                && !self.banned.contains(&theirs)
            {
                self.banned.push(theirs);
                count += 1;
            }
        }
        count
    }

    /// Forgets what a node is called and where it is. What was taken back from it stays so.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] where it is let in, a bucket was joined from it, or others let it
    /// into a bucket; `own` is the key of this node.
    pub fn forget_peer(&mut self, id: EndpointId, own: EndpointId, now: Timestamp) -> Result<()> {
        let is_member = |uid| self.members(own, uid, now).contains_key(&id);
        let why = if self.joined.iter().any(|joined| joined.peer == id) {
            "a bucket was joined from it: leave that first"
        } else if self.grants_of(id, now).next().is_some() {
            "it is let in: revoke that first"
        } else if self.buckets.iter().any(|(_, uid)| is_member(*uid)) {
            "others let it into a bucket that is also here: it is known as long as they do"
        } else {
            self.peers.retain(|peer| peer.id != id);
            return Ok(());
        };
        let refused = Error::with_detail(ErrorKind::PermissionDenied, why);
        Err(refused.path(self.call(id)))
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
    /// Notes that a bucket comes by a ticket. It replaces earlier ones of the same node that allow
    /// nothing more.
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
        self.met(peer, Addrs::of(&ticket.addr));
        let is_of = |joined: &Joined| (joined.peer, joined.bucket) == (peer, ticket.bucket);
        self.joined
            .retain(|joined| !is_of(joined) || joined.adds_to(ticket, now));
        let before = self.joined.iter().filter(|joined| is_of(joined)).count();
        if before >= MAX_TICKETS
            && let Some(oldest) = self.joined.iter().position(is_of)
        {
            self.joined.remove(oldest);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Key;
    use crate::members::Statement;

    const BUCKET: BucketUid = BucketUid([1; 16]);
    const NOW: Timestamp = Timestamp(100);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn grant(n: u8, to: u8, access: Access, expires: Option<i64>) -> Grant {
        Grant {
            id: GrantId([n; 16]),
            bucket: BUCKET,
            access,
            branches: None,
            expires: expires.map(Timestamp),
            name: None,
            created: Timestamp(1),
            revoked: None,
            keys: vec![Key {
                peer: key(to).public(),
                bound: Timestamp(1),
                revoked: None,
            }],
            secret: None,
        }
    }

    fn joined(from: u8, branches: &[&str]) -> Joined {
        Joined {
            bucket: BUCKET,
            peer: key(from).public(),
            access: Access::Read,
            branches: branches.iter().map(ToString::to_string).collect(),
            since: Timestamp(1),
            expires: None,
            grant: GrantId([9; 16]),
            secret: Secret([9; 32]),
        }
    }

    /// Of whom a node states what.
    fn stated(records: &mut Records, now: Timestamp) -> Vec<(u8, Access)> {
        records.restate(&key(1), &HashSet::new(), now);
        let members = records.members(key(1).public(), BUCKET, now);
        let number = |id: EndpointId| (0..=255).find(|n| key(*n).public() == id).unwrap();
        let each = members
            .iter()
            .map(|(id, member)| (number(*id), member.access));
        let mut each: Vec<_> = each.collect();
        each.sort_unstable();
        each
    }

    #[test]
    fn a_node_states_what_it_gave_and_joined_of_whole_buckets() {
        let mut branch = grant(3, 4, Access::Write, None);
        branch.branches = Some(vec![BranchId(1)]);
        let mut records = Records {
            buckets: vec![(BucketId(1), BUCKET)],
            grants: vec![
                grant(1, 2, Access::Write, Some(200)),
                grant(2, 2, Access::Read, None),
                branch,
            ],
            joined: vec![joined(5, &[]), joined(6, &["main"])],
            ..Records::default()
        };
        let (read, write) = (Access::Read, Access::Write);
        assert_eq!(stated(&mut records, NOW), [(2, write), (5, write)]);
        let before = records.clone();
        assert_eq!(stated(&mut records, NOW), [(2, write), (5, write)]);
        assert_eq!(records, before);
        // What ends leaves what goes on.
        assert_eq!(
            stated(&mut records, Timestamp(200)),
            [(2, read), (5, write)]
        );
        records.revoke_peer(key(2).public(), NOW);
        records.joined.clear();
        assert_eq!(stated(&mut records, NOW), []);
        assert_eq!(records.statements[&BUCKET].besides(None).len(), 2);
        // Given anew.
        records.grants.push(grant(4, 2, Access::Read, None));
        assert_eq!(stated(&mut records, NOW), [(2, read)]);
        // The bucket was deleted.
        let mut deleted = records.clone();
        deleted.restate(&key(1), &HashSet::from([BucketId(1)]), NOW);
        assert!(deleted.statements.is_empty());
        // Nothing is shared or joined any more.
        records.grants.clear();
        assert_eq!(stated(&mut records, NOW), []);
        assert!(records.statements.is_empty());
    }

    /// Takes in what somebody states.
    fn hear(records: &mut Records, by: u8, of: u8, what: What) {
        let said = Statement::make(&key(by), BUCKET, key(of).public(), (what, None), NOW);
        let statements = records.statements.entry(BUCKET).or_default();
        statements.take(key(1).public(), vec![said], NOW).unwrap();
    }

    #[test]
    fn who_joined_only_to_read_may_not_write() {
        let mut records = Records::default();
        assert!(records.may_write(BUCKET));
        records.joined.push(joined(5, &[]));
        assert!(!records.may_write(BUCKET) && records.may_write(BucketUid([2; 16])));
        let access = Access::Write;
        records.joined.push(Joined {
            access,
            ..joined(6, &["main"])
        });
        assert!(records.may_write(BUCKET));
    }

    #[test]
    fn tickets_that_allow_something_more_stay_beside_newer_ones() {
        let bucket = BucketId(1);
        let ticket = |n: u8, access, branches: &[&str], expires: Option<i64>| Ticket {
            addr: key(5).public().into(),
            bucket: BUCKET,
            name: "work".to_owned(),
            access,
            branches: branches.iter().map(ToString::to_string).collect(),
            grant: GrantId([n; 16]),
            secret: Secret([n; 32]),
            expires: expires.map(Timestamp),
        };
        let (read, write) = (Access::Read, Access::Write);
        let mut records = Records::default();
        let mut kept = |ticket: Ticket| {
            records.join(bucket, &ticket, NOW).unwrap();
            let joined = records.joined.iter().map(|joined| joined.grant.0[0]);
            joined.collect::<Vec<_>>()
        };
        assert_eq!(kept(ticket(1, write, &["a"], None)), [1]);
        assert_eq!(kept(ticket(2, read, &[], None)), [1, 2]);
        assert_eq!(kept(ticket(1, write, &["a"], None)), [2, 1]);
        assert_eq!(kept(ticket(3, write, &["a", "b"], None)), [2, 3]);
        assert_eq!(kept(ticket(4, write, &[], Some(200))), [2, 3, 4]);
        assert_eq!(kept(ticket(5, write, &[], None)), [5]);
        // One that has expired is of no use.
        assert_eq!(kept(ticket(6, write, &[], Some(50))), [5, 6]);
        assert_eq!(kept(ticket(7, read, &[], None)), [5, 7]);
        // No more than may be presented.
        for n in 8..40 {
            kept(ticket(n, write, &[&n.to_string()], None));
        }
        assert_eq!(kept(ticket(40, write, &["x"], None)).len(), MAX_TICKETS);
    }

    #[test]
    fn where_nothing_is_stated_the_digest_is_that_of_nothing() {
        let mut records = Records {
            buckets: vec![(BucketId(1), BUCKET)],
            joined: vec![joined(5, &[])],
            ..Records::default()
        };
        let nothing = Statements::default().digest();
        assert_eq!(records.digest(BUCKET), nothing);
        stated(&mut records, NOW);
        let stated = &records.statements[&BUCKET];
        assert_eq!(records.digest(BUCKET), stated.digest());
        assert_ne!(records.digest(BUCKET), nothing);
    }

    #[test]
    fn who_leaves_and_joins_from_another_bans_nobody() {
        let write = Access::Write;
        let mut records = Records {
            buckets: vec![(BucketId(1), BUCKET)],
            grants: vec![grant(1, 9, write, None)],
            joined: vec![joined(5, &[])],
            ..Records::default()
        };
        assert_eq!(stated(&mut records, NOW), [(5, write), (9, write)]);
        records.joined.clear();
        assert_eq!(stated(&mut records, NOW), [(9, write)]);
        records.joined.push(joined(6, &[]));
        stated(&mut records, NOW);
        hear(&mut records, 6, 5, What::Write);
        let all = [(5, write), (6, write), (9, write)];
        assert_eq!(stated(&mut records, NOW), all);
    }

    #[test]
    fn whom_others_let_in_can_be_let_out_here() {
        let write = Access::Write;
        let mut records = Records {
            buckets: vec![(BucketId(1), BUCKET)],
            joined: vec![joined(5, &[])],
            ..Records::default()
        };
        stated(&mut records, NOW);
        hear(&mut records, 5, 7, What::Write);
        assert_eq!(stated(&mut records, NOW), [(5, write), (7, write)]);
        let seven = key(7).public();
        assert_eq!(records.peer(seven), None);
        let begins = &seven.to_string()[..12];
        assert_eq!(records.find_peer(begins).unwrap(), seven);
        assert_eq!(records.revoke_peer(seven, NOW), 1);
        assert_eq!(records.revoke_peer(seven, NOW), 0);
        assert_eq!(stated(&mut records, NOW), [(5, write)]);
        // Its giver's newer word changes nothing here, a grant does.
        hear(&mut records, 5, 7, What::Read);
        assert_eq!(stated(&mut records, NOW), [(5, write)]);
        records.grants.push(grant(1, 7, Access::Read, None));
        assert_eq!(stated(&mut records, NOW), [(5, write), (7, Access::Read)]);
        // From whom the bucket comes is left, not let out.
        assert_eq!(records.revoke_peer(key(5).public(), NOW), 0);
    }

    #[test]
    fn whom_its_giver_lets_out_is_no_peer_any_more() {
        let mut records = Records {
            buckets: vec![(BucketId(1), BUCKET)],
            joined: vec![joined(5, &[]), joined(6, &[])],
            ..Records::default()
        };
        stated(&mut records, NOW);
        hear(&mut records, 5, 6, What::Out);
        assert_eq!(stated(&mut records, NOW), [(5, Access::Write)]);
        let [five, six] = [5, 6].map(|n| key(n).public());
        assert!(records.is_direct(five, BUCKET, NOW) && !records.is_direct(six, BUCKET, NOW));
        let mut status = crate::status::Status::default();
        status.complete(&records);
        let peers: Vec<_> = status.links.iter().map(|link| link.peer).collect();
        assert_eq!(peers, [five]);
        // A ticket for a branch beside the other one is not asked with either, as long as that lasts.
        records.joined.push(joined(6, &["side"]));
        let is_silent = |records: &Records, at| records.is_silent(&records.joined[2], at);
        assert!(is_silent(&records, NOW));
        records.joined[1].expires = Some(Timestamp(150));
        assert!(is_silent(&records, NOW) && !is_silent(&records, Timestamp(150)));
        records.joined[1].expires = None;
        // Another one lets it in.
        hear(&mut records, 5, 7, What::Write);
        hear(&mut records, 7, 6, What::Write);
        stated(&mut records, NOW);
        assert!(records.is_direct(six, BUCKET, NOW));
    }

    #[test]
    fn who_has_only_a_branch_is_met_as_a_member() {
        let mut branch = grant(3, 4, Access::Write, None);
        branch.branches = Some(vec![BranchId(1)]);
        let mut records = Records {
            grants: vec![branch],
            joined: vec![joined(6, &["main"])],
            ..Records::default()
        };
        for n in [4, 6] {
            assert!(!records.is_direct(key(n).public(), BUCKET, NOW));
        }
        records.grants.push(grant(4, 4, Access::Read, None));
        records.joined.push(joined(6, &[]));
        for n in [4, 6] {
            assert!(records.is_direct(key(n).public(), BUCKET, NOW));
        }
    }

    #[test]
    fn the_log_says_names_and_keys() {
        let mut records = Records::default();
        let id = key(2).public();
        let short = id.fmt_short().to_string();
        assert_eq!(records.label(id), short);
        records.peer_mut(id).name = Some("laptop".to_owned());
        assert_eq!(records.label(id), format!("laptop ({short})"));
    }

    #[test]
    fn nobody_stays_known_by_hints_alone() {
        let addrs = Addrs {
            direct: vec![([127, 0, 0, 1], 5).into()],
            relays: Vec::new(),
        };
        let mut records = Records {
            buckets: vec![(BucketId(1), BUCKET)],
            joined: vec![joined(5, &[])],
            ..Records::default()
        };
        stated(&mut records, NOW);
        hear(&mut records, 5, 7, What::Write);
        for n in [7, 8, 9] {
            records.hint(key(n).public(), addrs.clone());
        }
        records.met(key(9).public(), addrs);
        stated(&mut records, NOW);
        let known = |n: u8| records.peer(key(n).public()).is_some();
        assert_eq!([7, 8, 9].map(known), [true, false, true]);
    }

    #[test]
    fn hints_count_until_a_node_says_itself_where_it_is() {
        let addrs = |port: u16| Addrs {
            direct: vec![([127, 0, 0, 1], port).into()],
            relays: Vec::new(),
        };
        let mut records = Records::default();
        let id = key(2).public();
        records.hint(id, addrs(1));
        records.hint(id, addrs(2));
        records.hint(id, Addrs::default());
        assert_eq!(records.peer(id).unwrap().addrs, addrs(2));
        records.met(id, addrs(3));
        records.hint(id, addrs(4));
        assert_eq!(records.peer(id).unwrap().addrs, addrs(3));
    }
}
