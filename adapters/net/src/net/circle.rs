//! Who takes part in the buckets: statements that come and go, and conversations with members.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::{Result, Timestamp};
use iroh::EndpointId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Admission, Asking, Inner, LinkKey, LinkState, Outcome, blocking};
use crate::cover::Role;
use crate::grant::{Access, BucketUid, Refusal};
use crate::members::{Member, Statement, Statements};
use crate::records::Records;
use crate::ticket::Addrs;
use crate::time::{now, until};
use crate::wire::{Code, Hello, Lost, Members};

/// How many conversations with members about a bucket go on though nobody has news.
const KEPT: usize = 4;

/// After how long without news others end.
const QUIET: Duration = Duration::from_secs(300);

/// How often that is looked at.
const LOOKING: Duration = Duration::from_secs(30);

/// How long a connection stays on which nothing is said any more.
const PARTING: Duration = Duration::from_secs(5);

/// How long is slept at most where nothing is known to end.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many hints a peer gives at a time, at most.
const HINTS: usize = 256;

/// Who takes part in the buckets of this store, as far as this node believes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Circle {
    members: HashMap<BucketUid, BTreeMap<EndpointId, Member>>,
    /// When that changes by itself, if it does.
    ends: Option<Timestamp>,
}

impl Circle {
    fn of(records: &Records, own: EndpointId, now: Timestamp) -> Self {
        let mut circle = Self::default();
        for (_, bucket) in &records.buckets {
            let members = records.members(own, *bucket, now);
            circle.members.insert(*bucket, members);
        }
        let granted = records.grants.iter().filter_map(|grant| grant.expires);
        let joined = records.joined.iter().filter_map(|joined| joined.expires);
        let ends = granted.chain(joined).filter(|end| *end > now);
        let stated = records.statements.values();
        let stated = stated.filter_map(|statements| statements.next_end(now));
        circle.ends = ends.chain(stated).min();
        circle
    }

    pub(super) fn access(&self, bucket: BucketUid, peer: EndpointId) -> Option<Access> {
        let member = self.members.get(&bucket)?.get(&peer)?;
        Some(member.access)
    }

    pub(super) fn members(&self, bucket: BucketUid) -> impl Iterator<Item = EndpointId> {
        let members = self.members.get(&bucket);
        members.into_iter().flat_map(BTreeMap::keys).copied()
    }

    fn all(&self) -> HashSet<EndpointId> {
        let members = self.members.values();
        members.flat_map(BTreeMap::keys).copied().collect()
    }
}

/// Marks for as long as it lives that a member is asked by this node.
struct Claim {
    inner: Arc<Inner>,
    key: (EndpointId, BucketUid),
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.inner.asking.lock().remove(&self.key);
    }
}

impl Inner {
    pub(super) fn knows(&self, peer: EndpointId) -> bool {
        let is_member = |circle: &Circle| circle.members.values().any(|m| m.contains_key(&peer));
        self.records().knows(peer) || is_member(&self.circle.borrow())
    }

    fn own(&self) -> EndpointId {
        self.endpoint.id()
    }

    /// Returns the digest of the statements on a bucket, where they are exchanged.
    pub(super) fn statements(&self, bucket: BucketUid, whole: bool) -> Option<[u8; 16]> {
        let exchanged = whole && self.swarm.is_some();
        exchanged.then(|| match self.records().statements.get(&bucket) {
            Some(statements) => statements.digest(),
            None => Statements::default().digest(),
        })
    }

    /// Brings what this node states up to what it gave and joined.
    pub(super) async fn restate(self: &Arc<Self>) -> Result<()> {
        let records = self.records();
        let mut restated = (*records).clone();
        let key = self.endpoint.secret_key().clone();
        restated.restate(&key, now());
        match restated.statements == records.statements {
            true => Ok(()),
            false => {
                self.update(move |records| records.restate(&key, now()))
                    .await
            }
        }
    }

    /// Follows who takes part: passes on what is new of it, and gossips where there are others.
    pub(super) async fn keep_circle(self: Arc<Self>) {
        let mut changes = self.records.subscribe();
        let mut passed: BTreeMap<BucketUid, Statements> = BTreeMap::new();
        let mut gossips: HashMap<BucketUid, CancellationToken> = HashMap::new();
        loop {
            changes.mark_unchanged();
            if let Err(e) = self.restate().await {
                tracing::warn!("what this node states of others was not kept: {e}");
            }
            let records = self.records();
            for (bucket, statements) in &records.statements {
                self.pass_on(*bucket, statements.besides(passed.get(bucket)));
            }
            passed.clone_from(&records.statements);
            self.draw_circle();
            let circle = Arc::clone(&self.circle.borrow());
            self.gossip_about(&circle, &records, &mut gossips);
            let left = circle.ends.map_or(DAY, until).min(DAY);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(left) => {}
            }
        }
    }

    fn draw_circle(&self) {
        let _in_order = self.drawing.lock();
        let circle = Circle::of(&self.records(), self.own(), now());
        if let Some(swarm) = &self.swarm {
            swarm.gate.set(circle.all());
        }
        self.circle.send_if_modified(|current| {
            let differs = **current != circle;
            if differs {
                *current = Arc::new(circle);
            }
            differs
        });
    }

    /// Tells statements to all that converse about their bucket.
    fn pass_on(self: &Arc<Self>, bucket: BucketUid, statements: Vec<Statement>) {
        if statements.is_empty() {
            return;
        }
        let peers: HashSet<EndpointId> = {
            let links = self.links.lock();
            let on = links.iter().filter(|((_, of, _), _)| *of == bucket);
            let on = on.filter(|(_, link)| link.live.is_some() && link.exchanges);
            on.map(|((peer, ..), _)| *peer).collect()
        };
        for peer in peers {
            let told = Arc::clone(self).tell_members(peer, bucket, statements.clone());
            self.spawn(told);
        }
    }

    async fn tell_members(
        self: Arc<Self>,
        peer: EndpointId,
        bucket: BucketUid,
        statements: Vec<Statement>,
    ) {
        let (records, circle) = (self.records(), Arc::clone(&self.circle.borrow()));
        let hints = circle.members(bucket).filter(|member| *member != peer);
        let hints = hints.filter_map(|member| {
            let known = records.peer(member)?;
            let addrs = known.addrs.clone();
            (!addrs.is_empty()).then_some((member, addrs))
        });
        let hints = hints.take(HINTS).collect();
        for word in Members::words(bucket, statements, hints) {
            self.tell_word(peer, &word).await;
        }
    }

    /// Notes that a frame came; with the first one, tells the peer what it does not know of members.
    pub(super) fn heard(self: &Arc<Self>, key: LinkKey, theirs: &mut Option<[u8; 16]>) {
        if let Some(link) = self.links.lock().get_mut(&key) {
            link.heard = Some(Instant::now());
            link.exchanges |= theirs.is_some();
        }
        let (peer, bucket, _) = key;
        if let Some(theirs) = theirs.take()
            && self.statements(bucket, true) != Some(theirs)
        {
            let records = self.records();
            let statements = records.statements.get(&bucket);
            let all = statements.map_or_else(Vec::new, |all| all.besides(None));
            self.spawn(Arc::clone(self).tell_members(peer, bucket, all));
        }
    }

    /// Takes in what a peer says of members, where both converse about the whole of their bucket.
    pub(super) async fn hear_members(self: &Arc<Self>, peer: EndpointId, said: Members) {
        let Members {
            bucket,
            statements,
            hints,
        } = said;
        let converse = |((who, of, _), link): (&LinkKey, &LinkState)| {
            (*who, *of) == (peer, bucket) && link.live.is_some() && link.whole
        };
        if !self.links.lock().iter().any(converse) {
            tracing::info!(peer = %self.call(peer), "it speaks of members unasked");
            return;
        }
        let records = self.records();
        let known = records.statements.get(&bucket);
        let is_news = |statement: &Statement| known.is_none_or(|known| known.is_news(statement));
        let news: Vec<_> = statements.into_iter().filter(is_news).collect();
        let mut hints = hints;
        hints.retain(|(who, addrs)| {
            let known = records.peer(*who);
            *who != self.own() && known.is_none_or(|known| !known.met && known.addrs != *addrs)
        });
        if news.is_empty() && hints.is_empty() {
            return;
        }
        let (this, own) = (Arc::clone(self), self.own());
        let taken = blocking(move || {
            let count = news.len();
            let genuine = news.into_iter().filter(|news| news.is_genuine(bucket));
            let genuine: Vec<_> = genuine.collect();
            let forged = count - genuine.len();
            let refused = this.change(move |records| {
                let statements = records.statements.entry(bucket).or_default();
                let refused = statements.take(own, genuine, now()).err();
                let members = statements.members(own, now());
                for (who, addrs) in hints {
                    if members.contains_key(&who) {
                        records.hint(who, addrs);
                    }
                }
                refused
            })?;
            Ok((forged, refused))
        });
        let peer = self.call(peer);
        match taken.await {
            Ok((0, None)) => {}
            Ok((0, Some(why))) => tracing::warn!(%peer, "not all it says of members counts: {why}"),
            Ok((forged, _)) => {
                tracing::warn!(%peer, forged, "it says of members what nobody stated");
            }
            Err(e) => tracing::warn!(%peer, "what it says of members was not kept: {e}"),
        }
    }

    /// Finds what a peer that asks as a member may do, and notes where it is.
    pub(super) async fn welcome_member(
        self: &Arc<Self>,
        peer: EndpointId,
        hello: &Hello,
    ) -> Result<Admission<Access>> {
        let bucket = hello.bucket;
        if self.swarm.is_none() {
            return Ok(Err(Refusal::Unknown));
        }
        let mut access = self.circle.borrow().access(bucket, peer);
        if access.is_none() {
            // It may have been let in just now.
            let this = Arc::clone(self);
            access = blocking(move || {
                this.reload()?;
                this.draw_circle();
                Ok(this.circle.borrow().access(bucket, peer))
            })
            .await?;
        }
        let Some(access) = access else {
            return Ok(Err(Refusal::Unknown));
        };
        // Of two that ask each other at once, the smaller key's question stays.
        let own = self.own();
        let asked = own < peer && self.asking.lock().contains(&(peer, bucket));
        let direct = [Role::Giver, Role::Taker];
        if asked || self.is_live(peer, bucket, &direct) {
            return Ok(Err(Refusal::Busy));
        }
        self.note_addrs(peer, hello.addrs.clone()).await;
        Ok(Ok(access))
    }

    pub(super) fn is_live(&self, peer: EndpointId, bucket: BucketUid, roles: &[Role]) -> bool {
        let links = self.links.lock();
        let mut keys = roles.iter().map(|role| (peer, bucket, *role));
        keys.any(|key| links.get(&key).is_some_and(|link| link.live.is_some()))
    }

    /// Waits until a member is none any more or may do something else, or there is no use in conversing
    /// with it as one.
    pub(super) async fn until_no_member(
        self: &Arc<Self>,
        peer: EndpointId,
        bucket: BucketUid,
        access: Access,
    ) -> Code {
        let mut circle = self.circle.subscribe();
        loop {
            match circle.borrow_and_update().access(bucket, peer) {
                Some(same) if same == access => {}
                Some(_) => return Code::Changed,
                None => return Code::Revoked,
            }
            let key = (peer, bucket, Role::Member);
            if self.records().is_direct(peer, bucket, now()) {
                return Code::Replaced;
            }
            if quietest(&self.links.lock(), bucket, Instant::now()) == Some(key) {
                return Code::Idle;
            }
            tokio::select! {
                changed = circle.changed() => if changed.is_err() {
                    return Code::Stopping;
                },
                () = sleep(LOOKING) => {}
            }
        }
    }

    /// Dials a member and begins a conversation with it, which goes on by itself. Returns whether
    /// there is one then.
    pub(super) async fn visit(self: &Arc<Self>, peer: EndpointId, bucket: BucketUid) -> bool {
        let roles = [Role::Giver, Role::Taker, Role::Member];
        let allows = self.circle.borrow().access(bucket, peer);
        let Some(allows) = allows else {
            return false;
        };
        if self.is_live(peer, bucket, &roles) {
            return true;
        }
        if !self.asking.lock().insert((peer, bucket)) {
            return false;
        }
        let claim = Claim {
            inner: Arc::clone(self),
            key: (peer, bucket),
        };
        let asking = Asking {
            peer,
            bucket,
            ticket: None,
            allows: Some(allows),
            whole: true,
        };
        let this = Arc::clone(self);
        let mut begun = self.begun.subscribe();
        let mut conversation = self.tasks.spawn(async move {
            let outcome = match this.reach(peer).await {
                Ok(connection) => this.ask(&connection, &asking).await,
                Err(why) => Outcome::Lost(Lost::Connection(why)),
            };
            drop(claim);
            this.note((peer, bucket, Role::Member), outcome);
            let parting = Arc::clone(&this);
            this.spawn(async move {
                // It may be about to ask something itself.
                sleep(PARTING).await;
                parting.part_from(peer);
            });
        });
        loop {
            tokio::select! {
                _ = &mut conversation => return self.is_live(peer, bucket, &roles),
                changed = begun.changed() => {
                    if changed.is_err() || self.is_live(peer, bucket, &roles) {
                        return true;
                    }
                }
            }
        }
    }

    async fn reach(
        self: &Arc<Self>,
        peer: EndpointId,
    ) -> Result<iroh::endpoint::Connection, String> {
        if self.live(peer).is_none() {
            self.dial(peer).await?;
        }
        self.live(peer)
            .ok_or_else(|| "the connection was lost".to_owned())
    }

    /// Closes the connection with a peer where nothing is said on it, and nobody will by itself.
    pub(super) fn part_from(&self, peer: EndpointId) {
        let records = self.records();
        let needed = records.joined.iter().any(|joined| joined.peer == peer)
            || records.grants_of(peer, now()).next().is_some();
        let asked = self.asking.lock().iter().any(|(who, _)| *who == peer);
        let links = self.links.lock();
        let mut of_it = links.iter().filter(|((who, ..), _)| *who == peer);
        if needed || asked || of_it.any(|(_, link)| link.live.is_some()) {
            return;
        }
        drop(links);
        if let Some(connection) = self.live(peer) {
            connection.close(Code::Idle.into(), b"nothing to say");
        }
    }

    /// Takes in addresses that a member announced.
    pub(super) async fn note_announced(self: &Arc<Self>, peer: EndpointId, addrs: Addrs) {
        // While there is a connection, nobody needs them.
        if self.live(peer).is_none() {
            self.note_addrs(peer, addrs).await;
        }
    }
}

/// Finds the conversation with a member that is to end: that without news for longest, where there
/// are more than need be.
fn quietest(
    links: &BTreeMap<LinkKey, LinkState>,
    bucket: BucketUid,
    now: Instant,
) -> Option<LinkKey> {
    let members = links.iter().filter(|((_, of, role), link)| {
        (*of, *role) == (bucket, Role::Member) && link.live.is_some()
    });
    let (count, quiet) = (
        members.clone().count(),
        members
            .filter_map(|(key, link)| Some((link.heard?, *key)))
            .min(),
    );
    let (since, key) = quiet.filter(|_| count > KEPT)?;
    (now.duration_since(since) > QUIET).then_some(key)
}

#[cfg(test)]
mod tests {
    use alknet_fs_core::store::BucketId;

    use super::*;

    #[test]
    fn of_many_conversations_the_quietest_ends() {
        let bucket = BucketUid([1; 16]);
        let begun = Instant::now();
        let key = |n: u8, role| {
            let key = iroh::SecretKey::from_bytes(&[n; 32]);
            (key.public(), bucket, role)
        };
        let link = |n: u8| LinkState {
            live: Some((u64::from(n), BucketId(1), Access::Write)),
            heard: Some(begun + Duration::from_secs(u64::from(n))),
            ..LinkState::default()
        };
        let mut links: BTreeMap<_, _> = (1..=4).map(|n| (key(n, Role::Member), link(n))).collect();
        links.insert(key(0, Role::Giver), link(0));
        let late = begun + QUIET + Duration::from_secs(2);
        assert_eq!(quietest(&links, bucket, late), None);
        links.insert(key(5, Role::Member), link(5));
        assert_eq!(quietest(&links, bucket, late), Some(key(1, Role::Member)));
        let early = begun + QUIET;
        assert_eq!(quietest(&links, bucket, early), None);
        assert_eq!(quietest(&links, BucketUid([2; 16]), late), None);
    }
}
