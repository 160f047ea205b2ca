//! Who has news in a larger group: what is announced to all of it, and what becomes of that.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::Timestamp;
use iroh::endpoint::{
    AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, WeakConnectionHandle,
};
use iroh::{EndpointAddr, EndpointId, SecretKey, Signature};
use iroh_gossip::proto::TopicId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::grant::BucketUid;
use crate::net::Blame;
use crate::ticket::Addrs;
use crate::wire::Code;

/// What a signed announcement begins with, so that no other signature can pass for one.
const CONTEXT: &[u8] = b"alknet-fs 2026-11 announcement of news in a bucket";

/// From what the topic of a bucket is derived.
const TOPIC: &str = "alknet-fs 2026-11 gossip of a bucket";

/// The longest message that is passed on, in bytes.
pub(crate) const MAX_MESSAGE: usize = 2048;

/// How many addresses of each kind are announced.
const ADDRS: usize = 8;

/// By how much the clock of whoever announces something may be ahead, and how old what it announces may
/// be, in nanoseconds.
const DAY: i64 = 24 * 3600 * 1_000_000_000;

/// How long news may take to come by another way.
const PATIENCE: Duration = Duration::from_secs(1);

/// How soon it is looked again whether a conversation brought the news.
const AGAIN: Duration = Duration::from_secs(5);

/// Who converses with this many about a bucket already gets its news by them, and waits longer.
const WELL: usize = 4;

/// How much longer.
const WELL_PATIENCE: Duration = Duration::from_secs(30);

/// How many nodes of a group are dialled at a time.
const VISITS: usize = 4;

/// How long to wait, at most, before a node that was not reached is dialled again.
const LONGEST: Duration = Duration::from_secs(300);

/// Returns what the group of a bucket talks about.
pub(crate) fn topic(bucket: BucketUid) -> TopicId {
    TopicId::from_bytes(blake3::derive_key(TOPIC, &bucket.0))
}

/// What a node tells all others of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) by: EndpointId,
    /// The digest of what it knows.
    pub(crate) digest: [u8; 16],
    pub(crate) at: Timestamp,
    /// Where it can be reached.
    pub(crate) addrs: Addrs,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    by: EndpointId,
    digest: [u8; 16],
    at: Timestamp,
    addrs: Addrs,
    signature: Signature,
}

fn signed(
    bucket: BucketUid,
    by: EndpointId,
    digest: [u8; 16],
    at: Timestamp,
    addrs: &Addrs,
) -> Vec<u8> {
    // Writing to memory cannot fail.
    let what = (bucket, by, digest, at, addrs);
    postcard::to_extend(&what, CONTEXT.to_vec()).unwrap_or_default()
}

impl Announcement {
    /// Signs what a node knows of a bucket.
    pub(crate) fn seal(
        key: &SecretKey,
        bucket: BucketUid,
        digest: [u8; 16],
        at: Timestamp,
        addrs: Addrs,
    ) -> Vec<u8> {
        let mut addrs = addrs.limited();
        addrs.direct.truncate(ADDRS);
        addrs.relays.truncate(ADDRS / 4);
        let by = key.public();
        let sealed = Sealed {
            by,
            digest,
            at,
            signature: key.sign(&signed(bucket, by, digest, at, &addrs)),
            addrs,
        };
        postcard::to_extend(&sealed, Vec::new()).unwrap_or_default()
    }

    /// Reads what somebody announced; nothing where it is none, by nobody that may, or not signed by whom
    /// it names.
    pub(crate) fn open(
        bytes: &[u8],
        bucket: BucketUid,
        may: impl Fn(EndpointId) -> bool,
    ) -> Option<Self> {
        let (sealed, rest) = postcard::take_from_bytes::<Sealed>(bytes).ok()?;
        let Sealed {
            by,
            digest,
            at,
            addrs,
            signature,
        } = sealed;
        let is_it = rest.is_empty() && bytes.len() <= MAX_MESSAGE && may(by);
        let message = is_it.then(|| signed(bucket, by, digest, at, &addrs))?;
        by.verify(&message, &signature).ok()?;
        Some(Self {
            by,
            digest,
            at,
            addrs: addrs.limited(),
        })
    }
}

/// How it stands with somebody who has news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    None,
    Live,
    /// Both know the same.
    InStep,
}

struct Heard {
    at: Timestamp,
    digest: [u8; 16],
    /// Since when there is news that is not known to be here, and when to look whether it is.
    due: Option<(Instant, Instant)>,
    /// How often it was not reached since.
    fails: u32,
    visiting: bool,
    /// What it announced when both knew the same: this node may know more that it does not tell.
    settled: Option<[u8; 16]>,
}

/// What was heard of a group, and who is to be asked for it.
#[derive(Default)]
pub(crate) struct News {
    heard: BTreeMap<EndpointId, Heard>,
}

impl News {
    /// Takes in what somebody announced; `spread` is by how much this node waits longer than others.
    /// Returns whether it is news.
    pub(crate) fn hear(
        &mut self,
        said: &Announcement,
        (now, clock): (Instant, Timestamp),
        spread: Duration,
    ) -> bool {
        let (mut visiting, mut settled, mut due) = (false, None, None);
        let past = clock.0.saturating_sub(DAY);
        if !(past..=clock.0.saturating_add(DAY)).contains(&said.at.0) {
            return false;
        }
        if let Some(known) = self.heard.get_mut(&said.by) {
            if said.at <= known.at {
                return false;
            }
            known.at = said.at;
            if known.digest == said.digest {
                return true;
            }
            (visiting, settled, due) = (known.visiting, known.settled, known.due);
        }
        self.heard.insert(
            said.by,
            Heard {
                at: said.at,
                digest: said.digest,
                // Who has news all the time is visited all the same.
                due: due.or(Some((now, now + PATIENCE + spread))),
                fails: 0,
                visiting,
                settled,
            },
        );
        true
    }

    /// Returns when to look again.
    pub(crate) fn next(&self) -> Option<Instant> {
        let heard = self.heard.values().filter(|heard| !heard.visiting);
        heard.filter_map(|heard| Some(heard.due?.1)).min()
    }

    /// Finds who is to be visited now, where `ours` is the digest of what is known here, and so many
    /// conversations are `live`.
    pub(crate) fn due(
        &mut self,
        now: Instant,
        ours: [u8; 16],
        live: usize,
        link: impl Fn(EndpointId) -> Link,
    ) -> Vec<EndpointId> {
        let visited = self.heard.values().filter(|heard| heard.visiting);
        let mut sought: HashSet<[u8; 16]> = visited.map(|heard| heard.digest).collect();
        let mut busy = self.heard.values().filter(|heard| heard.visiting).count();
        let mut visits = Vec::new();
        let mut waiting: Vec<_> = self.heard.iter_mut().collect();
        waiting.retain(|(_, heard)| !heard.visiting);
        // Who is due longest comes first, so that nobody is passed over for good.
        waiting.sort_by_key(|(_, heard)| heard.due.map(|(since, due)| (due, since)));
        for (peer, heard) in waiting {
            let Some((since, _)) = heard.due.filter(|(_, due)| *due <= now) else {
                continue;
            };
            if heard.digest == ours || heard.settled == Some(heard.digest) {
                heard.due = None;
                continue;
            }
            match link(*peer) {
                Link::InStep => {
                    heard.settled = Some(heard.digest);
                    heard.due = None;
                }
                Link::Live => heard.due = Some((now, now + AGAIN)),
                Link::None if live >= WELL && now < since + WELL_PATIENCE => {
                    heard.due = Some((since, since + WELL_PATIENCE));
                }
                // Somebody else who has it is asked already.
                Link::None if busy >= VISITS || !sought.insert(heard.digest) => {
                    heard.due = Some((since, now + PATIENCE));
                }
                Link::None => {
                    busy += 1;
                    heard.visiting = true;
                    visits.push(*peer);
                }
            }
        }
        visits
    }

    /// Notes how a visit went. `spread` makes it unlikely that two nodes try at the same time again.
    pub(crate) fn visited(
        &mut self,
        peer: EndpointId,
        reached: bool,
        now: Instant,
        spread: Duration,
    ) {
        if let Some(heard) = self.heard.get_mut(&peer) {
            heard.visiting = false;
            let due = match reached {
                true => now + AGAIN,
                false => {
                    heard.fails = (heard.fails + 1).min(12);
                    now + (PATIENCE * (1 << heard.fails)).min(LONGEST) + spread
                }
            };
            heard.due = Some((heard.due.map_or(now, |(since, _)| since), due));
        }
    }

    /// Forgets whoever is no member any more.
    pub(crate) fn retain(&mut self, is_member: impl Fn(EndpointId) -> bool) {
        self.heard.retain(|peer, _| is_member(*peer));
    }
}

/// Keeps everybody from the gossip protocol, either way, who is a member of nothing here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    known: Arc<Mutex<Known>>,
    remarks: Arc<Blame>,
}

#[derive(Debug, Default)]
struct Known {
    peers: HashSet<EndpointId>,
    open: Vec<WeakConnectionHandle>,
}

impl Gate {
    /// Makes one that lets nobody through; `remarks` counts what it says in the log.
    pub(crate) fn new(remarks: Arc<Blame>) -> Self {
        let known = Arc::default();
        Self { known, remarks }
    }

    pub(crate) fn lets(&self, peer: EndpointId) -> bool {
        self.known.lock().peers.contains(&peer)
    }

    /// Sets whom it lets through; from all others connections are taken.
    pub(crate) fn set(&self, peers: HashSet<EndpointId>) {
        let mut known = self.known.lock();
        known.open.retain(|handle| {
            let connection = handle.upgrade();
            let connection = connection.filter(|open| open.close_reason().is_none());
            let Some(connection) = connection else {
                return false;
            };
            let stays = peers.contains(&connection.remote_id());
            if !stays {
                connection.close(Code::Revoked.into(), b"no member any more");
            }
            stays
        });
        known.peers = peers;
    }
}

impl EndpointHooks for Gate {
    async fn before_connect(&self, addr: &EndpointAddr, alpn: &[u8]) -> BeforeConnectOutcome {
        match alpn != iroh_gossip::ALPN || self.lets(addr.id) {
            true => BeforeConnectOutcome::Accept,
            false => BeforeConnectOutcome::Reject,
        }
    }

    async fn after_handshake(&self, connection: &Connection) -> AfterHandshakeOutcome {
        if connection.alpn() != iroh_gossip::ALPN {
            return AfterHandshakeOutcome::Accept;
        }
        let mut known = self.known.lock();
        let peer = connection.remote_id();
        if known.peers.contains(&peer) {
            known.open.retain(|handle| handle.upgrade().is_some());
            known.open.push(connection.weak_handle());
            return AfterHandshakeOutcome::Accept;
        }
        if self.remarks.line(peer, false, Instant::now()).is_some() {
            tracing::info!(peer = %peer.fmt_short(), "an unknown node wants to gossip");
        }
        AfterHandshakeOutcome::Reject {
            error_code: Code::Protocol.into(),
            reason: b"not known here".to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketUid = BucketUid([1; 16]);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn said(by: u8, digest: u8, at: i64) -> Announcement {
        Announcement {
            by: key(by).public(),
            digest: [digest; 16],
            at: Timestamp(at),
            addrs: Addrs::default(),
        }
    }

    #[test]
    fn only_what_was_signed_for_the_bucket_is_heard() {
        let addrs = Addrs {
            direct: vec!["[ff::1]:65535".parse().unwrap(); 40],
            relays: vec!["x".repeat(255); 40],
        };
        let bytes = Announcement::seal(&key(1), BUCKET, [7; 16], Timestamp(5), addrs);
        let any = |_| true;
        let other = |id| id != key(1).public();
        assert_eq!(Announcement::open(&bytes, BUCKET, other), None);
        assert!(bytes.len() <= MAX_MESSAGE, "{}", bytes.len());
        let open = Announcement::open(&bytes, BUCKET, any).unwrap();
        assert_eq!((open.by, open.digest), (key(1).public(), [7; 16]));
        assert_eq!(Announcement::open(&bytes, BucketUid([2; 16]), any), None);
        for at in 0..bytes.len() {
            assert_eq!(Announcement::open(&bytes[..at], BUCKET, any), None);
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert_eq!(Announcement::open(&altered, BUCKET, any), None, "{at}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Announcement::open(&longer, BUCKET, any), None);
    }

    #[test]
    fn an_announcement_is_as_long_as_it_may_be_and_no_longer() {
        let sealed = |length: usize| {
            let addrs = Addrs {
                direct: Vec::new(),
                relays: vec!["x".repeat(length)],
            };
            let (by, at) = (key(1).public(), Timestamp(5));
            let sealed = Sealed {
                by,
                digest: [7; 16],
                at,
                signature: key(1).sign(&signed(BUCKET, by, [7; 16], at, &addrs)),
                addrs,
            };
            postcard::to_extend(&sealed, Vec::new()).unwrap()
        };
        let around = sealed(1000).len() - 1000;
        let open = |length: usize| {
            let bytes = sealed(length - around);
            assert_eq!(bytes.len(), length);
            Announcement::open(&bytes, BUCKET, |_| true).is_some()
        };
        assert!(open(MAX_MESSAGE));
        assert!(!open(MAX_MESSAGE + 1));
    }

    #[test]
    fn who_has_what_is_not_here_is_visited_once() {
        let begun = Instant::now();
        let at = |millis: u64| begun + Duration::from_millis(millis);
        let clock = Timestamp(0);
        let mut news = News::default();
        let peer = |n: u8| key(n).public();
        let none = |_| Link::None;
        let zero = Duration::ZERO;
        assert!(news.hear(&said(1, 7, 10), (at(0), clock), zero));
        assert!(news.hear(&said(2, 7, 10), (at(0), clock), zero));
        assert!(!news.hear(&said(1, 8, 9), (at(0), clock), zero), "older");
        assert!(!news.hear(&said(1, 8, DAY + 1), (at(0), clock), zero));
        assert!(!news.hear(&said(5, 8, -DAY - 1), (at(0), clock), zero));
        assert_eq!(news.next(), Some(at(1000)));
        assert!(news.due(at(999), [0; 16], 0, none).is_empty());
        // One of the two that have the same.
        let first = news.due(at(1000), [0; 16], 0, none);
        assert_eq!(first.len(), 1);
        news.visited(first[0], false, at(1100), zero);
        let second = news.due(at(2000), [0; 16], 0, none);
        assert_eq!(second.len(), 1);
        assert_ne!(second, first);
        news.visited(second[0], true, at(2100), zero);
        assert_eq!(news.next(), Some(at(3100)), "the first is tried again");
        assert!(news.due(at(3100), [0; 16], 0, |_| Link::Live).is_empty());
        // The news is here.
        assert!(news.due(at(9000), [7; 16], 0, none).is_empty());
        assert_eq!(news.next(), None);
        // The same again is nothing new.
        assert!(news.hear(&said(1, 7, 11), (at(9000), clock), zero));
        assert_eq!(news.next(), None);

        // Who knows the same as far as it is told is not asked again for that.
        assert!(news.hear(&said(3, 9, 10), (at(9000), clock), zero));
        assert!(
            news.due(at(10_000), [0; 16], 0, |_| Link::InStep)
                .is_empty()
        );
        news.hear(&said(3, 5, 12), (at(10_000), clock), zero);
        news.hear(&said(3, 9, 13), (at(10_000), clock), zero);
        assert!(news.due(at(20_000), [0; 16], 0, none).is_empty());
        // Who converses with many waits longer, but not for ever.
        news.hear(&said(4, 3, 1), (at(20_000), clock), zero);
        assert!(news.due(at(21_000), [0; 16], WELL, none).is_empty());
        news.hear(&said(4, 4, 2), (at(40_000), clock), zero);
        assert_eq!(news.next(), Some(at(50_000)));
        assert_eq!(news.due(at(50_000), [0; 16], WELL, none), [peer(4)]);
        news.retain(|id| id == peer(3));
        assert_eq!(news.heard.len(), 1);
    }

    #[test]
    fn who_is_due_longest_is_visited_first() {
        let begun = Instant::now();
        let at = |millis: u64| begun + Duration::from_millis(millis);
        let mut news = News::default();
        let none = |_| Link::None;
        // More than are visited at a time, each with something else.
        for n in 1..=8 {
            let heard = (at(u64::from(9 - n)), Timestamp(0));
            assert!(news.hear(&said(n, n, 1), heard, Duration::ZERO));
        }
        let peer = |n: u8| key(n).public();
        let first = news.due(at(2000), [0; 16], 0, none);
        assert_eq!(first, [8, 7, 6, 5].map(peer));
        // These have something new already.
        for n in 5..=8 {
            assert!(news.hear(
                &said(n, n + 10, 2),
                (at(2001), Timestamp(0)),
                Duration::ZERO
            ));
            news.visited(peer(n), true, at(2002), Duration::ZERO);
        }
        let second = news.due(at(9000), [0; 16], 0, none);
        assert_eq!(second, [4, 3, 2, 1].map(peer));
    }
}
