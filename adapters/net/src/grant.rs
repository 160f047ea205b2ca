//! Who may have what of a bucket.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use alknet_fs_core::store::BranchId;
use alknet_fs_core::{Error, ErrorKind, Result, Timestamp};
use iroh::EndpointId;
use serde::{Deserialize, Serialize};

/// What a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// To see everything, and change nothing.
    Read,
    /// To see and change.
    Write,
}

impl Access {
    /// Returns `"read"` or `"write"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws a new one.
            ///
            /// # Errors
            /// Where the operating system has no random numbers.
            pub fn random() -> Result<Self> {
                random().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

ids! {
    /// A bucket, the same on every node that has it: 16 random bytes, drawn when it is first shared.
    BucketUid;
    /// A grant.
    GrantId;
}

impl FromStr for GrantId {
    type Err = Error;

    /// Reads an id as it is shown.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`].
    fn from_str(text: &str) -> Result<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
        let why = "the id of a grant is 32 hexadecimal digits";
        let invalid = || Error::with_detail(ErrorKind::InvalidInput, why).path(text);
        Ok(Self(number.ok_or_else(invalid)?.to_be_bytes()))
    }
}

/// What proves that a ticket was given out. Not shown by [`Debug`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(crate) [u8; 32]);

impl Secret {
    pub(crate) fn random() -> Result<Self> {
        random().map(Self)
    }

    /// Returns the hash that a grant keeps of it.
    pub(crate) fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::from(std::io::Error::other(e.to_string())))?;
    Ok(bytes)
}

/// The most peers that use one grant.
pub(crate) const MAX_KEYS: usize = 1024;

/// What somebody was given, as the giving node keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The bucket.
    pub bucket: BucketUid,
    /// What it allows.
    pub access: Access,
    /// The branches that it covers; none for the whole bucket.
    pub branches: Option<Vec<BranchId>>,
    /// When it ends, if ever.
    pub expires: Option<Timestamp>,
    /// What the giver called it.
    pub name: Option<String>,
    /// When it was given.
    pub created: Timestamp,
    /// When it was taken back, if it was.
    pub revoked: Option<Timestamp>,
    /// The peers that use it.
    pub keys: Vec<Key>,
    /// The hash of the ticket's secret; none once no further peer is let in by the ticket.
    pub(crate) secret: Option<[u8; 32]>,
}

/// A peer that uses a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The peer.
    pub peer: EndpointId,
    /// When it first used the grant.
    pub bound: Timestamp,
    /// When the grant was taken back from this peer, if it was.
    pub revoked: Option<Timestamp>,
}

/// Why a peer is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The peer has no grant of this bucket, or there is no such bucket: it is not told which.
    Unknown,
    /// The grant was taken back.
    Revoked,
    /// The grant's time is over.
    Expired,
    /// No version of the protocol that both know.
    Version,
    /// The node has too much to do.
    Busy,
    /// What the peer said makes no sense.
    Malformed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "it does not know the ticket, or has no such bucket any more",
            Self::Revoked => "the grant was revoked: ask for a new ticket",
            Self::Expired => "the grant has expired: ask for a new ticket",
            Self::Version => {
                "it speaks another version of the protocol: update the older of the two"
            }
            Self::Busy => "it has too much to do; trying again later",
            Self::Malformed => "it did not understand what was said",
        })
    }
}

impl Refusal {
    /// Tells whether asking again soon makes no sense.
    pub(crate) fn is_final(self) -> bool {
        !matches!(self, Self::Busy)
    }
}

impl Grant {
    /// Returns why the grant is of no use to anybody now, if it is.
    pub fn over(&self, now: Timestamp) -> Option<Refusal> {
        if self.revoked.is_some() {
            return Some(Refusal::Revoked);
        }
        let expired = self.expires.is_some_and(|expires| expires <= now);
        expired.then_some(Refusal::Expired)
    }

    pub(crate) fn key(&self, peer: EndpointId) -> Option<&Key> {
        self.keys.iter().find(|key| key.peer == peer)
    }

    /// Tells whether the ticket lets somebody in at a time who does not use it yet.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.over(now).is_none() && self.secret.is_some() && self.keys.len() < MAX_KEYS
    }

    /// Tells whether a secret is that of the ticket, in a time that does not depend on what differs.
    pub(crate) fn is_opened_by(&self, secret: &Secret) -> bool {
        let hash = blake3::Hash::from_bytes(secret.hash());
        self.secret.is_some_and(|ours| hash == ours)
    }
}

/// What a peer may do in a bucket, by all the grants together that it has there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Allowed {
    /// What it may do with all of it, if anything.
    pub(crate) whole: Option<Access>,
    /// What it may do with branches, where that is more.
    pub(crate) branches: BTreeMap<BranchId, Access>,
    /// When the first of the grants ends, if ever.
    pub(crate) ends: Option<Timestamp>,
}

impl Allowed {
    fn of<'a>(grants: impl Iterator<Item = &'a Grant>) -> Self {
        let mut allowed = Self::default();
        for grant in grants {
            let access = Some(grant.access);
            match &grant.branches {
                None => allowed.whole = allowed.whole.max(access),
                Some(branches) => {
                    for branch in branches {
                        let known = allowed.branches.entry(*branch).or_insert(grant.access);
                        *known = grant.access.max(*known);
                    }
                }
            }
            let ends = allowed.ends.into_iter().chain(grant.expires);
            allowed.ends = ends.min();
        }
        let whole = allowed.whole;
        allowed.branches.retain(|_, access| Some(*access) > whole);
        allowed
    }

    /// Returns the most that may be done anywhere in the bucket.
    pub(crate) fn access(&self) -> Access {
        let each = self.branches.values().copied().chain(self.whole);
        each.max().unwrap_or(Access::Read)
    }

    /// Tells whether the same may be done, until whenever.
    pub(crate) fn is_as_much_as(&self, other: &Self) -> bool {
        (self.whole, &self.branches) == (other.whole, &other.branches)
    }
}

/// What a peer presents: its tickets.
pub(crate) type Presented<'a> = &'a [(GrantId, Secret)];

/// Finds what a peer may do in a bucket, by all grants that it has.
///
/// With a ticket whose grant is not bound to the peer yet, that is bound.
pub(crate) fn admit(
    grants: &mut [Grant],
    bucket: BucketUid,
    peer: EndpointId,
    presented: Presented<'_>,
    now: Timestamp,
) -> Result<Allowed, Refusal> {
    let mut refusal = Refusal::Unknown;
    let mut valid = Vec::new();
    for grant in grants.iter_mut().filter(|grant| grant.bucket == bucket) {
        let over = match grant.key(peer) {
            Some(key) if key.revoked.is_some() => Some(Refusal::Revoked),
            Some(_) => grant.over(now),
            None => {
                let mut shown = presented.iter().filter(|(id, _)| *id == grant.id);
                // The hash of its secret is gone: who knows the id, which is as random, has seen the ticket.
                let is_closed = grant.secret.is_none() && shown.clone().next().is_some();
                if !is_closed && !shown.any(|(_, secret)| grant.is_opened_by(secret)) {
                    continue;
                }
                let is_full = grant.keys.len() >= MAX_KEYS;
                let over = grant.over(now).or(is_closed.then_some(Refusal::Revoked));
                let over = over.or(is_full.then_some(Refusal::Busy));
                if over.is_none() {
                    grant.keys.push(Key {
                        peer,
                        bound: now,
                        revoked: None,
                    });
                }
                over
            }
        };
        match over {
            Some(over) => refusal = over,
            None => valid.push(&*grant),
        }
    }
    match valid.is_empty() {
        true => Err(refusal),
        false => Ok(Allowed::of(valid.into_iter())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketUid = BucketUid([1; 16]);
    const SECRET: Secret = Secret([9; 32]);

    fn grant(n: u8, access: Access) -> Grant {
        Grant {
            id: GrantId([n; 16]),
            bucket: BUCKET,
            access,
            branches: None,
            expires: Some(Timestamp(100)),
            name: None,
            created: Timestamp(1),
            revoked: None,
            keys: Vec::new(),
            secret: Some(SECRET.hash()),
        }
    }

    fn peer(n: u8) -> EndpointId {
        iroh::SecretKey::from_bytes(&[n; 32]).public()
    }

    fn ask(
        grants: &mut [Grant],
        who: u8,
        tickets: Presented<'_>,
        at: i64,
    ) -> Result<Access, Refusal> {
        let allowed = admit(grants, BUCKET, peer(who), tickets, Timestamp(at))?;
        assert_eq!(allowed.ends, Some(Timestamp(100)));
        Ok(allowed.access())
    }

    fn ticket(n: u8) -> (GrantId, Secret) {
        (GrantId([n; 16]), SECRET)
    }

    #[test]
    fn a_ticket_lets_in_once_and_the_key_from_then_on() {
        let mut grants = [grant(1, Access::Read)];
        let ticket = [ticket(1)];
        assert_eq!(ask(&mut grants, 1, &[], 5), Err(Refusal::Unknown));
        assert_eq!(ask(&mut grants, 1, &ticket, 5), Ok(Access::Read));
        assert_eq!(ask(&mut grants, 1, &[], 6), Ok(Access::Read));
        assert_eq!(ask(&mut grants, 2, &[], 6), Err(Refusal::Unknown));
        let other = [(GrantId([1; 16]), Secret([8; 32]))];
        assert_eq!(ask(&mut grants, 2, &other, 6), Err(Refusal::Unknown));
        assert_eq!(grants[0].keys.len(), 1);
    }

    #[test]
    fn a_ticket_lets_in_so_many_peers_and_no_more() {
        let mut grants = [grant(1, Access::Read)];
        let bound = |n: u16| {
            let mut key = [7; 32];
            key[..2].copy_from_slice(&n.to_le_bytes());
            Key {
                peer: iroh::SecretKey::from_bytes(&key).public(),
                bound: Timestamp(1),
                revoked: None,
            }
        };
        grants[0].keys = (1..1024).map(bound).collect();
        let ticket = [ticket(1)];
        assert_eq!(ask(&mut grants, 1, &ticket, 5), Ok(Access::Read));
        assert_eq!(grants[0].keys.len(), MAX_KEYS);
        assert_eq!(ask(&mut grants, 2, &ticket, 5), Err(Refusal::Busy));
        assert_eq!(grants[0].keys.len(), MAX_KEYS);
        // Those that are in stay so.
        assert_eq!(ask(&mut grants, 1, &ticket, 6), Ok(Access::Read));
    }

    #[test]
    fn what_is_over_lets_nobody_in() {
        let mut grants = [grant(1, Access::Read)];
        let ticket = [ticket(1)];
        assert_eq!(ask(&mut grants, 1, &ticket, 100), Err(Refusal::Expired));
        assert!(grants[0].keys.is_empty());
        ask(&mut grants, 1, &ticket, 99).unwrap();
        assert_eq!(ask(&mut grants, 1, &[], 100), Err(Refusal::Expired));
        grants[0].keys[0].revoked = Some(Timestamp(50));
        assert_eq!(ask(&mut grants, 1, &ticket, 60), Err(Refusal::Revoked));
        // Since that peer was let out, the ticket is closed.
        assert!(grants[0].is_open(Timestamp(60)));
        grants[0].secret = None;
        assert!(!grants[0].is_open(Timestamp(60)));
        assert_eq!(ask(&mut grants, 3, &ticket, 60), Err(Refusal::Revoked));
        assert_eq!(ask(&mut grants, 3, &[], 60), Err(Refusal::Unknown));
        assert_eq!(ask(&mut grants, 3, &ticket, 100), Err(Refusal::Expired));
        grants[0].secret = Some(SECRET.hash());
        grants[0].revoked = Some(Timestamp(50));
        assert_eq!(ask(&mut grants, 3, &ticket, 60), Err(Refusal::Revoked));
    }

    #[test]
    fn all_grants_count_together() {
        let mut grants = [
            grant(1, Access::Read),
            grant(2, Access::Write),
            grant(3, Access::Write),
            grant(4, Access::Read),
        ];
        let (one, two) = (BranchId(1), BranchId(2));
        grants[1].branches = Some(vec![one]);
        grants[3].branches = Some(vec![one, two]);
        grants[3].expires = Some(Timestamp(50));
        let tickets = [1, 2, 4].map(ticket);
        let mut at = |time, tickets: &[_]| {
            let allowed = admit(&mut grants, BUCKET, peer(1), tickets, Timestamp(time)).unwrap();
            let branches: Vec<_> = allowed.branches.into_iter().collect();
            (allowed.whole, branches, allowed.ends.unwrap().0)
        };
        // All of them are bound, by tickets that were presented together or one after the other.
        let write = (one, Access::Write);
        let parts = (None, vec![write, (two, Access::Read)], 50);
        assert_eq!(at(5, &tickets[1..]), parts);
        assert_eq!(at(6, &[]), parts);
        let read = Some(Access::Read);
        assert_eq!(at(6, &tickets), (read, vec![write], 50));
        assert_eq!(at(50, &[]), (read, vec![write], 100));
        assert_eq!(at(6, &[ticket(3)]), (Some(Access::Write), Vec::new(), 50));
        // What is taken back leaves the others.
        grants[2].revoked = Some(Timestamp(7));
        grants[0].keys[0].revoked = Some(Timestamp(7));
        let left = admit(&mut grants, BUCKET, peer(1), &[], Timestamp(60)).unwrap();
        assert_eq!((left.whole, left.branches.len()), (None, 1));
        assert_eq!(
            admit(&mut grants, BucketUid([2; 16]), peer(1), &[], Timestamp(6)),
            Err(Refusal::Unknown)
        );
    }
}
