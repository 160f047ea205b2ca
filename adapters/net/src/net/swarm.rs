//! Gossip about the buckets in which others than those that this node knows by grants take part.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use alknet_fs_core::Timestamp;
use bytes::Bytes;
use futures_lite::StreamExt as _;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh::{Endpoint, EndpointId};
use iroh_gossip::api::{ApiError, Event, GossipReceiver, GossipSender};
use iroh_gossip::net::Gossip;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::circle::{Circle, by_chance};
use super::{Inner, addr, backoff};
use crate::cover::Role;
use crate::driver::Command;
use crate::gossip::{Announcement, Gate, Link, News, topic};
use crate::grant::{Access, BucketUid, random};
use crate::records::Records;
use crate::ticket::Addrs;
use crate::time::now;
use crate::wire::Code;

/// How soon a node announces something again.
const ANNOUNCING: Duration = Duration::from_secs(1);

/// By how much longer than others a node waits for news, for each member of the group, and at most.
const SPREAD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Through how many nodes of a group it is entered.
const DOORS: usize = 4;

/// How soon a node that came to a group, or is connected with nobody of it any more, dials some of it
/// again. It goes on with that, ever more seldom: parts of a group that came about at the same time, or
/// have lost each other, do not know of each other.
const MEETING: Duration = Duration::from_secs(2);

/// What is needed to gossip.
pub(super) struct Swarm {
    pub(super) gate: Gate,
    /// Where members are, for whoever dials them by their keys.
    lookup: MemoryLookup,
    /// Begun with the first group.
    gossip: OnceLock<Gossip>,
    /// When something of each bucket was announced last.
    announced: Mutex<HashMap<BucketUid, Timestamp>>,
}

impl Swarm {
    pub(super) fn new(endpoint: &Endpoint, gate: Gate) -> Self {
        let lookup = MemoryLookup::new();
        if let Ok(lookups) = endpoint.address_lookup() {
            lookups.add(lookup.clone());
        }
        Self {
            gate,
            lookup,
            gossip: OnceLock::new(),
            announced: Mutex::default(),
        }
    }

    /// Returns when something of a bucket is announced now: always later than the last time.
    fn announces(&self, bucket: BucketUid, now: Timestamp) -> Timestamp {
        let mut announced = self.announced.lock();
        let last = announced.get(&bucket);
        let after = last.map_or(i64::MIN, |last| last.0.saturating_add(1));
        let at = Timestamp(now.0.max(after));
        announced.insert(bucket, at);
        at
    }
}

/// Answers those that gossip.
#[derive(Debug)]
pub(super) struct Callers(pub(super) Arc<Inner>);

impl ProtocolHandler for Callers {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        // Strangers do not get here: the gate closes their connections.
        let gossip = self.0.swarm.as_ref().and_then(|swarm| swarm.gossip.get());
        match gossip {
            Some(gossip) => gossip.accept(connection).await,
            None => {
                connection.close(Code::Stopping.into(), b"no group here");
                Ok(())
            }
        }
    }

    async fn shutdown(&self) {
        let gossip = self.0.swarm.as_ref().and_then(|swarm| swarm.gossip.get());
        if let Some(gossip) = gossip
            && let Err(e) = gossip.shutdown().await
        {
            tracing::debug!("gossip did not stop in order: {e}");
        }
    }
}

/// Returns a time up to another one, by chance.
fn time_by_chance(most: Duration) -> Duration {
    let part = random().map_or(0, u16::from_le_bytes);
    most.mul_f64(f64::from(part) / f64::from(u16::MAX))
}

impl Inner {
    /// Keeps a task for each bucket in which others take part.
    pub(super) fn gossip_about(
        self: &Arc<Self>,
        circle: &Circle,
        records: &Records,
        gossips: &mut HashMap<BucketUid, CancellationToken>,
    ) {
        let Some(swarm) = &self.swarm else {
            return;
        };
        let is_large = |bucket: BucketUid| {
            let mut members = circle.members(bucket);
            members.any(|member| !records.is_direct(member, bucket, now()))
        };
        gossips.retain(|bucket, token| {
            let stays = is_large(*bucket) && !token.is_cancelled();
            if !stays {
                token.cancel();
            }
            stays
        });
        for (_, bucket) in &records.buckets {
            if !is_large(*bucket) {
                continue;
            }
            for member in circle.members(*bucket) {
                if let Some(known) = records.peer(member)
                    && !known.addrs.is_empty()
                {
                    swarm.lookup.set_endpoint_info(known.addr());
                }
            }
            gossips
                .entry(*bucket)
                .or_insert_with(|| self.spawn_until(Arc::clone(self).gossip(*bucket)));
        }
    }

    async fn gossip(self: Arc<Self>, bucket: BucketUid) {
        let Some(swarm) = &self.swarm else {
            return;
        };
        let gossip = swarm
            .gossip
            .get_or_init(|| Gossip::builder().spawn(self.endpoint.clone()));
        let mut waits = backoff(Duration::from_secs(1));
        loop {
            let doors = self.doors(bucket, &[]);
            let ended = match gossip.subscribe(topic(bucket), doors).await {
                Ok(group) => {
                    let (sender, receiver) = group.split();
                    let mut talk = Talk::new(Arc::clone(&self), bucket, sender);
                    talk.run(receiver).await
                }
                Err(e) => Err(e),
            };
            if let Err(e) = ended {
                tracing::debug!("gossip begins anew: {e}");
            }
            sleep(waits.next().unwrap_or(MEETING)).await;
        }
    }

    /// Picks members by whom a group may be entered.
    fn doors(&self, bucket: BucketUid, but: &[EndpointId]) -> Vec<EndpointId> {
        let (records, circle) = (self.records(), Arc::clone(&self.circle.borrow()));
        let reachable = |id: &EndpointId| {
            let known = records
                .peer(*id)
                .is_some_and(|known| !known.addrs.is_empty());
            known && !but.contains(id) && !records.is_direct(*id, bucket, now())
        };
        by_chance(circle.members(bucket).filter(reachable).collect(), DOORS)
    }

    /// Returns the digest of what is known of a bucket here.
    async fn state(self: &Arc<Self>, bucket: BucketUid) -> Option<[u8; 16]> {
        let (_, driver) = self.driver_of(bucket).await.ok()?;
        let (answer, answered) = oneshot::channel();
        driver.tell(Command::State(answer));
        answered.await.ok()
    }

    /// Tells how it stands with somebody of a group.
    fn link_with(&self, peer: EndpointId, bucket: BucketUid, in_step: &[EndpointId]) -> Link {
        let roles = [Role::Giver, Role::Taker, Role::Member];
        if in_step.contains(&peer) {
            Link::InStep
        } else if self.is_live(peer, bucket, &roles)
            // It is seen to by others.
            || self.is_direct(peer, bucket)
        {
            Link::Live
        } else {
            Link::None
        }
    }
}

/// What is said in one group.
struct Talk {
    inner: Arc<Inner>,
    bucket: BucketUid,
    sender: GossipSender,
    news: News,
    /// What was announced last, and when something may be again.
    told: Option<[u8; 16]>,
    tell_at: Option<Instant>,
    rest_until: Instant,
    /// Whether somebody came who was not told anything.
    newcomer: bool,
    visits: JoinSet<(EndpointId, bool)>,
}

impl Talk {
    fn new(inner: Arc<Inner>, bucket: BucketUid, sender: GossipSender) -> Self {
        Self {
            inner,
            bucket,
            sender,
            news: News::default(),
            told: None,
            tell_at: None,
            rest_until: Instant::now(),
            newcomer: false,
            visits: JoinSet::new(),
        }
    }

    async fn run(&mut self, mut receiver: GossipReceiver) -> Result<(), ApiError> {
        let mut stirred = self.inner.stirred.subscribe();
        let mut circle = self.inner.circle.subscribe();
        let mut meetings = backoff(MEETING);
        let mut meet_at = Instant::now() + MEETING;
        let mut was_alone = true;
        loop {
            let alone = receiver.neighbors().next().is_none();
            if alone && !was_alone {
                meetings = backoff(MEETING);
                meet_at = meet_at.min(Instant::now() + MEETING);
            }
            was_alone = alone;
            let next = match alone {
                true => self.news.next(),
                false => self.news.next().into_iter().chain(self.tell_at).min(),
            };
            let next = next.map_or(meet_at, |next| next.min(meet_at));
            tokio::select! {
                event = receiver.next() => match event {
                    Some(event) => self.take_in(event?).await,
                    None => return Ok(()),
                },
                changed = stirred.changed(), if self.tell_at.is_none() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.tell_at = Some(self.rest_until.max(Instant::now()));
                }
                changed = circle.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let members = Arc::clone(&circle.borrow_and_update());
                    self.news.retain(|id| members.access(self.bucket, id).is_some());
                    if alone {
                        meet_at = Instant::now();
                    }
                }
                Some(visited) = self.visits.join_next() => {
                    if let Ok((peer, reached)) = visited {
                        let spread = time_by_chance(ANNOUNCING);
                        self.news.visited(peer, reached, Instant::now(), spread);
                    }
                }
                () = sleep_until(next.into()) => {}
            }
            let now = Instant::now();
            if self.tell_at.is_some_and(|at| at <= now) && receiver.neighbors().next().is_some() {
                self.announce().await?;
            }
            if self.news.next().is_some_and(|at| at <= now) {
                self.visit().await;
            }
            if meet_at <= now {
                let neighbors: Vec<_> = receiver.neighbors().collect();
                let mut doors = self.inner.doors(self.bucket, &neighbors);
                if !neighbors.is_empty() {
                    doors.truncate(1);
                }
                if !doors.is_empty() {
                    self.sender.join_peers(doors).await?;
                }
                meet_at = now + meetings.next().unwrap_or(MEETING);
            }
        }
    }

    async fn take_in(&mut self, event: Event) {
        match event {
            Event::Received(message) => {
                let circle = Arc::clone(&self.inner.circle.borrow());
                let may = |by| circle.access(self.bucket, by) == Some(Access::Write);
                let said = Announcement::open(&message.content, self.bucket, may);
                let Some(said) = said else {
                    let from = self.inner.call(message.delivered_from);
                    tracing::debug!(%from, "an announcement does not count");
                    return;
                };
                let count = u32::try_from(circle.members(self.bucket).count()).unwrap_or(u32::MAX);
                let spread = time_by_chance(SPREAD.0.saturating_mul(count).min(SPREAD.1));
                if self.news.hear(&said, (Instant::now(), now()), spread) {
                    self.inner.note_announced(said.by, said.addrs).await;
                }
            }
            Event::NeighborUp(_) => {
                self.newcomer = true;
                self.tell_at
                    .get_or_insert(self.rest_until.max(Instant::now()));
            }
            Event::NeighborDown(_) => {}
            // What was missed shows with what is announced next, or to new neighbours.
            Event::Lagged => tracing::debug!("announcements were missed"),
        }
    }

    /// Announces what is known here, where that is new or somebody came.
    async fn announce(&mut self) -> Result<(), ApiError> {
        self.tell_at = None;
        self.rest_until = Instant::now() + ANNOUNCING;
        if !self.inner.records().may_write(self.bucket) {
            return Ok(());
        }
        let (Some(swarm), Some(state)) = (&self.inner.swarm, self.inner.state(self.bucket).await)
        else {
            return Ok(());
        };
        let newcomer = std::mem::take(&mut self.newcomer);
        let is_new = self.told != Some(state);
        if !is_new && !newcomer {
            return Ok(());
        }
        self.told = Some(state);
        let addrs = Addrs::of(&addr(&self.inner.endpoint, &self.inner.options));
        let key = self.inner.endpoint.secret_key();
        let at = swarm.announces(self.bucket, now());
        let message = Announcement::seal(key, self.bucket, state, at, addrs);
        match is_new {
            true => self.sender.broadcast(Bytes::from(message)).await,
            false => self.sender.broadcast_neighbors(Bytes::from(message)).await,
        }
    }

    /// Visits who has news that is not here.
    async fn visit(&mut self) {
        let inner = Arc::clone(&self.inner);
        let Some(state) = inner.state(self.bucket).await else {
            return;
        };
        let status = inner.status(false).await;
        let of_it = status
            .links
            .iter()
            .filter(|link| link.bucket == self.bucket);
        let live: Vec<_> = of_it.filter(|link| link.connected).collect();
        let in_step = live.iter().filter(|link| link.in_step);
        let in_step: Vec<_> = in_step.map(|link| link.peer).collect();
        let bucket = self.bucket;
        let due = self.news.due(Instant::now(), state, live.len(), |peer| {
            inner.link_with(peer, bucket, &in_step)
        });
        for peer in due {
            let inner = Arc::clone(&inner);
            self.visits
                .spawn(async move { (peer, inner.visit(peer, bucket).await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn announcements_go_on_when_the_clock_does_not() {
        let builder = Endpoint::builder(iroh::endpoint::presets::Minimal).clear_ip_transports();
        let builder = builder.bind_addr("127.0.0.1:0").unwrap();
        let swarm = Swarm::new(&builder.bind().await.unwrap(), Gate::default());
        let bucket = |n: u8| BucketUid([n; 16]);
        let at = |n, now| swarm.announces(bucket(n), Timestamp(now)).0;
        assert_eq!(at(1, 50), 50);
        assert_eq!(at(1, 50), 51);
        assert_eq!(at(1, 7), 52);
        assert_eq!(at(2, 7), 7);
        assert_eq!(at(1, 60), 60);
    }
}
