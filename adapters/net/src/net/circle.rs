//! Who takes part in the buckets: statements that come and go, and conversations with members.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::{Result, Timestamp};
use iroh::{EndpointId, RelayMode, RelayUrl};
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Admission, Asking, Bind, Inner, LinkKey, LinkState, NetOptions, Outcome, Relays, blocking,
};
use crate::cover::Role;
use crate::grant::{Access, BucketUid, Refusal, random};
use crate::members::{Member, Statement, Statements};
use crate::quota::Quota;
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

/// How long a hint stays, and what a member announced of where it is, before it is replaced.
const STAYING: Duration = Duration::from_secs(60);

/// How many words on members a peer may say at once, and each second from then on.
const WORDS: (u32, f64) = (64, 5.0);

/// How soon a peer is told of members again.
const PACE: Duration = Duration::from_millis(250);

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

/// What was said of members, to whom and by whom.
#[derive(Default)]
pub(super) struct Exchange {
    told: Mutex<HashMap<(EndpointId, BucketUid), Told>>,
    quotas: Mutex<HashMap<EndpointId, Quota>>,
    /// When others last said where a node is, and when it announced that itself.
    placed: Mutex<HashMap<(EndpointId, bool), Instant>>,
    /// Who was not reached where it is said to be.
    unreached: Mutex<HashSet<EndpointId>>,
}

/// What a peer was told of the members of a bucket.
#[derive(Default)]
struct Told {
    /// What it knows from here; where that is nothing, it is told all.
    all: Option<Arc<Records>>,
    /// How often a conversation began.
    begun: u64,
    /// The digests of what this node and the peer had when it was told all.
    digests: Option<([u8; 16], [u8; 16])>,
    theirs: [u8; 16],
    /// Whether there is a task that tells it.
    telling: bool,
}

impl Exchange {
    /// Tells whether where a node is may be changed now, as it says itself or others do, and if so notes
    /// that it was.
    fn places(&self, peer: EndpointId, itself: bool, now: Instant) -> bool {
        let mut placed = self.placed.lock();
        placed.retain(|_, at| now.saturating_duration_since(*at) < STAYING);
        match placed.contains_key(&(peer, itself)) {
            true => false,
            false => placed.insert((peer, itself), now).is_none(),
        }
    }

    /// Counts a word of a peer; tells whether it is heard.
    fn hears(&self, peer: EndpointId, now: Instant) -> bool {
        let mut quotas = self.quotas.lock();
        quotas.retain(|_, quota| !quota.is_full(now));
        let quota = quotas
            .entry(peer)
            .or_insert_with(|| Quota::new(WORDS.0, WORDS.1));
        quota.take(now)
    }
}

/// Returns the relays that others may send this node to: those that it uses itself, and those that are
/// there for everybody.
fn relays(options: &NetOptions) -> Vec<RelayUrl> {
    let mut urls: Vec<RelayUrl> = RelayMode::Default.relay_map().urls();
    if let Relays::Custom(own) = &options.relays {
        urls.extend(own.iter().cloned());
    }
    urls
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
        self.records().knows(peer) || self.is_member(peer)
    }

    /// Tells whether others let a peer into any bucket that is here.
    pub(super) fn is_member(&self, peer: EndpointId) -> bool {
        let circle = self.circle.borrow();
        circle.members.values().any(|m| m.contains_key(&peer))
    }

    fn own(&self) -> EndpointId {
        self.endpoint.id()
    }

    /// Returns the digest of the statements on a bucket, where they are exchanged.
    pub(super) fn statements(&self, bucket: BucketUid, whole: bool) -> Option<[u8; 16]> {
        let exchanged = whole && self.swarm.is_some();
        exchanged.then(|| self.records().digest(bucket))
    }

    /// Brings what this node states up to what it gave and joined.
    pub(super) async fn restate(self: &Arc<Self>) -> Result<()> {
        let this = Arc::clone(self);
        blocking(move || {
            let records = this.records();
            let mut gone = HashSet::new();
            let txn = this.store.read()?;
            for (bucket, _) in &records.buckets {
                if txn.bucket(*bucket)?.is_none() {
                    gone.insert(*bucket);
                }
            }
            drop(txn);
            let key = this.endpoint.secret_key().clone();
            let mut restated = (*records).clone();
            restated.restate(&key, &gone, now());
            for (_, peer) in restated.silent.difference(&records.silent) {
                let peer = restated.label(*peer);
                tracing::warn!(%peer, "others let it out: nothing is taken from it any more");
            }
            match restated == *records {
                true => Ok(()),
                false => this.change(|records| records.restate(&key, &gone, now())),
            }
        })
        .await
    }

    /// Follows who takes part: passes on what is new of it, and gossips where there are others.
    pub(super) async fn keep_circle(self: Arc<Self>) {
        let mut changes = self.records.subscribe();
        let mut gossips: HashMap<BucketUid, CancellationToken> = HashMap::new();
        loop {
            changes.mark_unchanged();
            if let Err(e) = self.restate().await {
                tracing::warn!("what this node states of others was not kept: {e}");
            }
            let records = self.records();
            self.draw_circle();
            self.pass_on();
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

    /// Tells all that converse about whole buckets what is new of members.
    fn pass_on(self: &Arc<Self>) {
        let on: HashSet<(EndpointId, BucketUid)> = {
            let links = self.links.lock();
            let on = links
                .iter()
                .filter(|(_, link)| link.live.is_some() && link.exchanges);
            on.map(|((peer, bucket, _), _)| (*peer, *bucket)).collect()
        };
        let circle = Arc::clone(&self.circle.borrow());
        let mut told = self.exchange.told.lock();
        told.retain(|(peer, bucket), told| {
            let converses = on.contains(&(*peer, *bucket));
            if !converses && !told.telling {
                told.all = None;
            }
            converses || told.telling || circle.access(*bucket, *peer).is_some()
        });
        for (key, told) in told.iter_mut().filter(|(key, _)| on.contains(key)) {
            self.begin_telling(*key, told);
        }
    }

    fn begin_telling(self: &Arc<Self>, key: (EndpointId, BucketUid), told: &mut Told) {
        if !std::mem::replace(&mut told.telling, true) {
            self.spawn(Arc::clone(self).keep_telling(key));
        }
    }

    /// Tells a peer of members until it knows all.
    async fn keep_telling(self: Arc<Self>, key: (EndpointId, BucketUid)) {
        let (peer, bucket) = key;
        let nothing = Statements::default();
        loop {
            let records = self.records();
            let ours = records.statements.get(&bucket).unwrap_or(&nothing);
            let (statements, is_all, begun, theirs) = {
                let mut told = self.exchange.told.lock();
                let Some(told) = told.get_mut(&key) else {
                    return;
                };
                let known = told.all.as_ref();
                let known = known.and_then(|all| all.statements.get(&bucket));
                let new = ours.besides(known);
                if told.all.is_some() && new.is_empty() {
                    told.all = Some(Arc::clone(&records));
                    told.telling = false;
                    return;
                }
                (new, told.all.is_none(), told.begun, told.theirs)
            };
            let is_told = self
                .tell_members(peer, bucket, &records, statements, is_all)
                .await;
            {
                let mut told = self.exchange.told.lock();
                let Some(told) = told.get_mut(&key) else {
                    return;
                };
                if told.begun == begun {
                    if !is_told {
                        told.telling = false;
                        return;
                    }
                    if is_all {
                        told.digests = Some((records.digest(bucket), theirs));
                    }
                    told.all = Some(Arc::clone(&records));
                }
            }
            sleep(PACE).await;
        }
    }

    /// Tells a peer statements, and where those may be of whom they are; where these are all, the others
    /// too.
    async fn tell_members(
        &self,
        peer: EndpointId,
        bucket: BucketUid,
        records: &Records,
        statements: Vec<Statement>,
        is_all: bool,
    ) -> bool {
        let circle = Arc::clone(&self.circle.borrow());
        let named: HashSet<_> = statements.iter().filter_map(Statement::of).collect();
        let hints = circle.members(bucket);
        let hints = hints.filter(|member| *member != peer && (is_all || named.contains(member)));
        let hints = hints.filter_map(|member| {
            let known = records.peer(member)?;
            let addrs = known.addrs.clone();
            (!addrs.is_empty()).then_some((member, addrs))
        });
        let hints = by_chance(hints.collect(), HINTS);
        // Whoever does not know yet whom to believe hears of a node before it hears what that states.
        let ours = records.statements.get(&bucket);
        let statements = ours.map_or_else(Vec::new, |ours| {
            ours.in_order(self.own(), statements, now())
        });
        for word in Members::words(bucket, statements, hints) {
            if !self.tell_word(peer, &word).await {
                return false;
            }
        }
        true
    }

    /// Notes that a frame came; with the first one, tells the peer what it does not know of members.
    pub(super) fn heard(self: &Arc<Self>, key: LinkKey, theirs: &mut Option<[u8; 16]>) {
        if let Some(link) = self.links.lock().get_mut(&key) {
            link.heard = Some(Instant::now());
            link.exchanges |= theirs.is_some();
        }
        let (peer, bucket, _) = key;
        if let Some(theirs) = theirs.take() {
            let records = self.records();
            let ours = records.digest(bucket);
            let mut all = self.exchange.told.lock();
            let told = all.entry((peer, bucket)).or_default();
            // What either does not believe, it need not be told again.
            let knows = ours == theirs || told.digests == Some((ours, theirs));
            told.begun += 1;
            told.theirs = theirs;
            told.all = knows.then_some(records);
            self.begin_telling((peer, bucket), told);
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
            // A word may be on its way when the conversation ends.
            self.remark(peer, "it speaks of members unasked");
            return;
        }
        if !self.exchange.hears(peer, Instant::now()) {
            self.blame(peer, "it says too much of members: not all is heard");
            return;
        }
        let (records, own, at) = (self.records(), self.own(), now());
        let known = records.statements.get(&bucket).cloned();
        let known = known.unwrap_or_default();
        let news = statements.into_iter();
        let news: Vec<_> = news.filter(|news| known.is_news(news, at)).collect();
        let hints = self.usable(&records, hints);
        if news.is_empty() && hints.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        let taken = blocking(move || {
            let count = news.len();
            let genuine = news.into_iter().filter(|news| news.is_genuine(bucket));
            let genuine: Vec<_> = genuine.collect();
            let forged = count - genuine.len();
            let mut after = known.clone();
            let refused = after.take(own, genuine.clone(), at).err();
            let members = after.members(own, at);
            let exchange = &this.exchange;
            let mut hints = hints;
            hints.retain(|(who, _)| {
                members.contains_key(who) && exchange.places(*who, false, Instant::now())
            });
            if after == known && hints.is_empty() {
                return Ok((forged, refused));
            }
            let refused = this.change(move |records| {
                let statements = records.statements.entry(bucket).or_default();
                let refused = statements.take(own, genuine, at).err();
                for (who, addrs) in hints {
                    exchange.unreached.lock().remove(&who);
                    records.hint(who, addrs);
                }
                refused
            })?;
            Ok((forged, refused))
        });
        match taken.await {
            Ok((0, None)) => {}
            Ok((0, Some(why))) => {
                self.blame(
                    peer,
                    format_args!("not all it says of members counts: {why}"),
                );
            }
            Ok((forged, _)) => {
                let what = "it says of members what nobody stated";
                self.blame(peer, format_args!("{what}, {forged} times"));
            }
            Err(e) => {
                tracing::warn!(peer = %self.label(peer), "what it says of members was not kept: {e}");
            }
        }
    }

    /// Leaves what counts of where others say that nodes are.
    fn usable(
        &self,
        records: &Records,
        mut hints: Vec<(EndpointId, Addrs)>,
    ) -> Vec<(EndpointId, Addrs)> {
        let relays = relays(&self.options);
        let here = self.options.bind == Bind::Loopback;
        let unreached = self.exchange.unreached.lock();
        hints.retain_mut(|(who, addrs)| {
            *addrs = std::mem::take(addrs).hinted(here, &relays);
            let is_same = records
                .peer(*who)
                .is_some_and(|known| known.addrs == *addrs);
            let reached = !unreached.contains(who);
            *who != self.own() && !addrs.is_empty() && !is_same && records.takes_hint(*who, reached)
        });
        hints
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

    /// Tells whether a node is seen to by a grant between it and this one.
    pub(super) fn is_direct(&self, peer: EndpointId, bucket: BucketUid) -> bool {
        self.records().is_direct(peer, bucket, now())
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
            if self.is_direct(peer, bucket) {
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
            tickets: Vec::new(),
            allows: Some(allows),
            whole: true,
        };
        let this = Arc::clone(self);
        let mut begun = self.begun.subscribe();
        let mut conversation = self.tasks.spawn(async move {
            let Some(reached) = this.stop.run_until_cancelled(this.reach(peer)).await else {
                return;
            };
            let outcome = match reached {
                Ok(connection) => this.ask(&connection, &asking).await,
                Err(why) => {
                    this.exchange.unreached.lock().insert(peer);
                    Outcome::Lost(Lost::Connection(why))
                }
            };
            drop(claim);
            this.note((peer, bucket, Role::Member), None, outcome);
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
        let addrs = addrs.through(&relays(&self.options));
        let is_same = |records: &Records| {
            let known = records.peer(peer);
            known.is_some_and(|known| known.met && known.addrs == addrs)
        };
        // While there is a connection, nobody needs them.
        if self.live(peer).is_none()
            && !is_same(&self.records())
            && self.exchange.places(peer, true, Instant::now())
        {
            self.note_addrs(peer, addrs).await;
        }
    }
}

/// Returns so many of some, picked by chance.
pub(super) fn by_chance<T>(mut all: Vec<T>, most: usize) -> Vec<T> {
    while all.len() > most {
        let at = random().map_or(0, u32::from_le_bytes);
        all.swap_remove(at as usize % all.len());
    }
    all
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
    fn who_says_much_is_heard_slowly_and_others_are_not() {
        let exchange = Exchange::default();
        let begun = Instant::now();
        let peer = |n: u8| iroh::SecretKey::from_bytes(&[n; 32]).public();
        let heard = (0..100).filter(|_| exchange.hears(peer(1), begun));
        assert_eq!(heard.count(), 64);
        assert!(exchange.hears(peer(2), begun));
        assert_eq!(exchange.quotas.lock().len(), 2);
        let later = begun + Duration::from_secs(1);
        let heard = (0..100).filter(|_| exchange.hears(peer(1), later));
        assert_eq!(heard.count(), 5);
        assert_eq!(
            exchange.quotas.lock().len(),
            1,
            "who is silent is forgotten"
        );
    }

    #[test]
    fn where_somebody_is_changes_once_a_minute() {
        let exchange = Exchange::default();
        let begun = Instant::now();
        let peer = |n: u8| iroh::SecretKey::from_bytes(&[n; 32]).public();
        assert!(exchange.places(peer(1), false, begun));
        assert!(!exchange.places(peer(1), false, begun + STAYING / 2));
        assert!(exchange.places(peer(2), false, begun + STAYING / 2));
        // What others say does not keep it from saying so itself.
        assert!(exchange.places(peer(1), true, begun + STAYING / 2));
        assert!(!exchange.places(peer(1), true, begun + STAYING));
        assert!(exchange.places(peer(1), false, begun + STAYING));
    }

    #[test]
    fn of_many_some_are_picked_by_chance() {
        assert_eq!(by_chance(vec![1, 2], 2), [1, 2]);
        let some = |_: i32| by_chance((0..100).collect(), 50);
        let picked: HashSet<i32> = (0..20).flat_map(some).collect();
        assert_eq!(some(0).len(), 50);
        assert!(picked.len() > 90, "{}", picked.len());
    }

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
