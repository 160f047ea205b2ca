//! Contents between this node and its peers: who may read what of this store, and where what is
//! missing here comes from.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_blobs::BlobStore;
use alknet_fs_blobs::wire::{self, Fetcher, Progress, Staying};
use alknet_fs_core::branch::with_ancestors;
use alknet_fs_core::store::{BucketId, ReadTxn, Store as TreeStore};
use alknet_fs_core::{Cursor, ErrorKind, Hash, Result};
use alknet_fs_net::{EndpointId, Grant, Lacks, Link, Net, Records};
use iroh::Endpoint;
use iroh::endpoint::Connection;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::tally::{Part, Tallies, covers, is_current, named};
use crate::content::held::promise;
use crate::content::{ContentSource, Fetch, Outcome, Priority, Want, patience};
use crate::store::now;

/// After how long everything that a bucket names is looked for again, where something else is asked
/// for: what events do not tell of.
const ANEW: Duration = Duration::from_secs(5);

/// How long a peer may take to be connected with.
const DIALLING: Duration = Duration::from_secs(10);

/// How long a member may take with which there is no connection at all.
const DIALLING_MEMBER: Duration = Duration::from_secs(3);

/// How many members are asked with which this node does not converse.
const MEMBERS: usize = 16;

/// For how long those that do not have what somebody waits for are asked again: it may just be on its way
/// to them.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// How soon.
const AGAIN: Duration = Duration::from_millis(100);

/// How soon those that do not have what is read are asked again, while others are away that may.
const AGAIN_LATER: Duration = Duration::from_secs(1);

/// How soon one that could not be reached is tried again by who reads.
const UNREACHABLE: Duration = Duration::from_secs(3);

/// How often it is looked whether a fetch is over, or a peer is there.
const STEP: Duration = Duration::from_millis(20);

/// How often a fetch goes on with a peer after its connection broke.
const ATTEMPTS: u32 = 3;

/// How soon it is counted again what is missing, at the least.
const COUNTING: Duration = Duration::from_millis(50);

/// After counting nothing is counted for this many times as long as that took.
const REST: u32 = 4;

/// After how long everything that a bucket names is looked for again, as a multiple of how long that
/// takes.
const ANEW_COST: u32 = 50;

/// After how long it is forgotten what a part of a bucket names that nobody asked about; and where
/// somebody did, that it was ever named.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How often it is looked who may stay connected, where nothing changes: grants end.
pub(super) const LOOKING: Duration = Duration::from_secs(30);

/// For how long a peer that gave no answer is not waited for where others have answered.
const SILENT: Duration = Duration::from_secs(300);

/// The contents that a part of a bucket names, or named at any time since they were looked for.
struct Names {
    hashes: HashSet<Hash>,
    cursor: Cursor,
    /// The number of the content that lost in a conflict up to which they are known.
    lost: u64,
    looked: Instant,
    /// How long looking took.
    cost: Duration,
    /// When they are to be looked for anew, whatever is asked for.
    outdated: Instant,
}

impl Names {
    fn look(txn: &dyn ReadTxn, part: &Part) -> Result<Self> {
        let looked = Instant::now();
        let mut hashes = HashSet::new();
        let cursor = txn.last_cursor()?;
        named(txn, part, &mut |hash, _| {
            hashes.insert(hash);
            Ok(())
        })?;
        let mut names = Self {
            hashes,
            cursor,
            lost: 0,
            looked,
            cost: Duration::ZERO,
            outdated: looked,
        };
        names.follow_conflicts(txn, part)?;
        names.cost = looked.elapsed();
        names.outdated += REMEMBERED.max(names.cost * ANEW_COST);
        Ok(names)
    }

    /// Takes in what lost in conflicts since: no row has it, and no event tells of it.
    fn follow_conflicts(&mut self, txn: &dyn ReadTxn, (bucket, branches): &Part) -> Result<()> {
        txn.conflict_contents(*bucket, self.lost, &mut |content| {
            let covered = |branches: &BTreeSet<_>| branches.contains(&content.branch);
            if branches.as_ref().is_none_or(covered) {
                self.hashes.insert(content.hash);
            }
            self.lost = content.number;
            Ok(())
        })
    }

    /// Takes in what was committed since; returns whether that can be told.
    fn follow(&mut self, txn: &dyn ReadTxn, part: &Part) -> Result<bool> {
        self.follow_conflicts(txn, part)?;
        // Who looked before may have had a later transaction.
        if txn.last_cursor()? <= self.cursor {
            return Ok(true);
        }
        loop {
            let events = match txn.events(Some(part.0), self.cursor, 256) {
                Ok(events) => events,
                Err(e) if e.kind() == ErrorKind::Lagged => return Ok(false),
                Err(e) => return Err(e),
            };
            let Some(last) = events.last() else {
                self.cursor = txn.last_cursor()?;
                return Ok(true);
            };
            self.cursor = last.cursor;
            for event in events {
                if let Some(hash) = event.change.new
                    && covers(txn, part, &event.branch)?
                {
                    self.hashes.insert(hash);
                }
            }
        }
    }
}

/// What a part of a bucket names, for all who ask about it.
struct Slot {
    /// Held by who looks for everything, so that one does at a time; those who know enough go on meanwhile.
    looking: Mutex<()>,
    names: Mutex<Option<Names>>,
    asked: Mutex<Instant>,
}

impl Slot {
    fn new() -> Self {
        Self {
            looking: Mutex::new(()),
            names: Mutex::new(None),
            asked: Mutex::new(Instant::now()),
        }
    }

    /// Notes which contents the part names, where that can be told without looking for everything; returns
    /// whether it can. With `old`, what was looked for long ago will do.
    fn mark(
        &self,
        txn: &dyn ReadTxn,
        part: &Part,
        hashes: &[Hash],
        may: &mut [bool],
        old: bool,
    ) -> Result<bool> {
        let mut names = self.names.lock();
        let Some(names) = &mut *names else {
            return Ok(false);
        };
        if !names.follow(txn, part)? || (!old && names.outdated <= Instant::now()) {
            return Ok(false);
        }
        let known: Vec<_> = hashes.iter().map(|h| names.hashes.contains(h)).collect();
        let anew = ANEW.max(names.cost * ANEW_COST);
        if known.contains(&false) && names.looked.elapsed() > anew {
            return Ok(false);
        }
        for (may, known) in may.iter_mut().zip(known) {
            *may |= known;
        }
        Ok(true)
    }

    /// Notes which contents the part names, and looks for everything where need be.
    fn ask(&self, txn: &dyn ReadTxn, part: &Part, hashes: &[Hash], may: &mut [bool]) -> Result<()> {
        if self.mark(txn, part, hashes, may, false)? {
            return Ok(());
        }
        let _looking = match self.looking.try_lock() {
            Some(looking) => looking,
            // Another looks.
            None if self.mark(txn, part, hashes, may, true)? => return Ok(()),
            None => self.looking.lock(),
        };
        // Another may have looked meanwhile.
        if self.mark(txn, part, hashes, may, false)? {
            return Ok(());
        }
        let found = Names::look(txn, part)?;
        for (may, hash) in may.iter_mut().zip(hashes) {
            *may |= found.hashes.contains(hash);
        }
        *self.names.lock() = Some(found);
        Ok(())
    }
}

/// Tells who may read what.
#[derive(Clone)]
pub(super) struct Readers {
    store: Arc<dyn TreeStore>,
    /// This node's key, where members that others let in may read too.
    own: Option<EndpointId>,
    names: Arc<Mutex<HashMap<Part, Arc<Slot>>>>,
    /// Who takes part, for all that are connected; nothing before it was looked.
    staying: watch::Sender<Staying>,
}

impl Readers {
    pub(super) fn new(store: Arc<dyn TreeStore>, own: Option<EndpointId>) -> Self {
        Self {
            store,
            own,
            names: Arc::default(),
            staying: watch::Sender::new(None),
        }
    }

    /// Keeps who may stay connected: it is looked once for all whenever the records change, and again
    /// after some time. Those that are connected hear of it where it differs.
    pub(super) async fn follow(self, mut records: watch::Receiver<Arc<Records>>, again: Duration) {
        loop {
            let current = Arc::clone(&records.borrow_and_update());
            let staying = participants(&current, self.own);
            self.staying.send_if_modified(|before| {
                let differs = before.as_deref() != Some(&staying);
                if differs {
                    *before = Some(Arc::new(staying));
                }
                differs
            });
            if let Ok(Err(_)) = timeout(again, records.changed()).await {
                return;
            }
        }
    }

    fn slot(&self, part: &Part) -> Arc<Slot> {
        let mut names = self.names.lock();
        let slot = names.entry(part.clone());
        let slot = slot.or_insert_with(|| Arc::new(Slot::new()));
        *slot.asked.lock() = Instant::now();
        slot.clone()
    }

    /// Forgets what those parts name that nobody asked about since some time.
    fn forget(&self, since: Instant) {
        let mut names = self.names.lock();
        names.retain(|_, slot| *slot.asked.lock() >= since);
    }

    /// Forgets, from time to time, what nobody asks about.
    pub(super) async fn keep_small(self) {
        loop {
            let since = Instant::now();
            sleep(REMEMBERED).await;
            self.forget(since);
        }
    }
}

/// Finds what a peer was given.
pub(super) fn given(txn: &dyn ReadTxn, records: &Records, peer: EndpointId) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for grant in records.grants_of(peer, now()) {
        if let Some(bucket) = records.bucket(grant.bucket) {
            let branches = grant.branches.as_ref();
            let branches = branches.map(|branches| with_ancestors(txn, branches));
            parts.push((bucket, branches.transpose()?));
        }
    }
    Ok(parts)
}

/// Finds what was joined from a peer.
fn joined(txn: &dyn ReadTxn, records: &Records, peer: EndpointId) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for joined in records.joined.iter().filter(|joined| joined.peer == peer) {
        let Some(bucket) = records.bucket(joined.bucket) else {
            continue;
        };
        let mut branches = Vec::new();
        for name in &joined.branches {
            branches.extend(txn.branch_named(bucket, name)?.map(|branch| branch.id));
        }
        let branches = match joined.branches.is_empty() {
            true => None,
            false => Some(with_ancestors(txn, &branches)?),
        };
        parts.push((bucket, branches));
    }
    Ok(parts)
}

/// Finds the buckets in which a peer takes part, whoever let it in.
fn shared(records: &Records, own: EndpointId, peer: EndpointId) -> Vec<Part> {
    let buckets = records.buckets.iter().filter(|(_, uid)| {
        let members = records.members(own, *uid, now());
        members.contains_key(&peer)
    });
    buckets.map(|(bucket, _)| (*bucket, None)).collect()
}

/// Finds who may read anything at all: whom a grant lets in, from whom something was joined, and with
/// this node's key members that others let in.
fn participants(records: &Records, own: Option<EndpointId>) -> HashSet<EndpointId> {
    let now = now();
    let is_here = |bucket| records.bucket(bucket).is_some();
    let mut found = HashSet::new();
    let given = records.grants.iter().filter(|grant| is_here(grant.bucket));
    for grant in given.filter(|grant| grant.over(now).is_none()) {
        let keys = grant.keys.iter().filter(|key| key.revoked.is_none());
        found.extend(keys.map(|key| key.peer));
    }
    let joined = records.joined.iter().filter(|join| is_here(join.bucket));
    found.extend(joined.map(|join| join.peer));
    if let Some(own) = own {
        for (_, uid) in &records.buckets {
            found.extend(records.members(own, *uid, now).into_keys());
        }
    }
    found
}

impl wire::Access for Readers {
    fn may_read(&self, peer: EndpointId, hashes: &[Hash]) -> Result<Vec<bool>> {
        let txn = self.store.read()?;
        let mut may = vec![false; hashes.len()];
        let records = Records::load(&*txn)?;
        let mut parts = given(&*txn, &records, peer)?;
        parts.extend(joined(&*txn, &records, peer)?);
        if let Some(own) = self.own {
            let whole: Vec<_> = shared(&records, own, peer);
            parts.extend(whole);
            parts.sort_unstable();
            parts.dedup();
        }
        for part in parts {
            self.slot(&part).ask(&*txn, &part, hashes, &mut may)?;
        }
        Ok(may)
    }

    fn takes_part(&self, peer: EndpointId) -> Result<bool> {
        let records = Records::load(&*self.store.read()?)?;
        Ok(participants(&records, self.own).contains(&peer))
    }

    fn staying(&self) -> watch::Receiver<Staying> {
        self.staying.subscribe()
    }

    fn label(&self, peer: EndpointId) -> String {
        let records = self.store.read().and_then(|txn| Records::load(&*txn));
        records.unwrap_or_default().label(peer)
    }

    fn keep(&self, _peer: EndpointId, hashes: &[Hash]) -> Result<Vec<bool>> {
        promise(&*self.store, hashes)
    }
}

type Running = Arc<tokio::sync::Mutex<Option<Net>>>;

/// Where missing contents come from: the peers that are connected.
#[derive(Clone)]
pub(super) struct Source {
    store: Arc<dyn TreeStore>,
    runtime: Handle,
    net: Running,
    endpoint: Endpoint,
    fetcher: Fetcher,
    /// What came, or went, since it was counted last what is missing.
    changed: Arc<(Mutex<Vec<Hash>>, Notify)>,
    /// The connections for contents, and since when each is there.
    connections: Arc<Mutex<HashMap<EndpointId, (Connection, Instant)>>>,
    /// The peers that were asked what they hold and did not answer in time, and when that was.
    silent: Arc<Mutex<HashMap<EndpointId, Instant>>>,
    /// Cancelled when the node stops, after its last fetch.
    ending: CancellationToken,
}

impl Source {
    pub(super) fn new(
        store: Arc<dyn TreeStore>,
        runtime: Handle,
        net: Running,
        endpoint: Endpoint,
        blobs: &BlobStore,
    ) -> Self {
        Self {
            store,
            runtime,
            net,
            endpoint,
            fetcher: Fetcher::new(blobs),
            changed: Arc::default(),
            connections: Arc::default(),
            silent: Arc::default(),
            ending: CancellationToken::new(),
        }
    }

    /// Ends the counting: nothing is fetched any more.
    pub(super) fn end(&self) {
        self.ending.cancel();
    }

    fn records(&self) -> Result<Records> {
        Records::load(&*self.store.read()?)
    }

    /// Returns who may hold contents of a bucket: those that converse about it now, and other members.
    async fn peers(&self, bucket: BucketId) -> (Vec<EndpointId>, Vec<EndpointId>) {
        let Some(uid) = self.records().ok().and_then(|r| r.uid(bucket)) else {
            return Default::default();
        };
        match &*self.net.lock().await {
            Some(net) => {
                let peers = net.peers_on(uid);
                let mut others = net.members_of(uid);
                others.retain(|member| !peers.contains(member));
                others.truncate(MEMBERS);
                (peers, others)
            }
            None => Default::default(),
        }
    }

    /// Closes connections to peers that have come again since, maybe as another process: what waits
    /// on one would wait until its time is over.
    pub(super) async fn part_with_old(&self) {
        let net = self.net.lock().await;
        let mut connections = self.connections.lock();
        connections.retain(|peer, (connection, since)| {
            let came = net.as_ref().and_then(|net| net.connected_since(*peer));
            let is_old = came.is_some_and(|came| came > *since);
            if is_old {
                connection.close(0u32.into(), b"the peer came again");
            }
            !is_old
        });
    }

    /// Finds who may have contents of a bucket, by a grant between it and this node, and does not converse
    /// about it.
    async fn absent(&self, bucket: BucketId) -> Option<Absent> {
        let records = self.records().ok()?;
        let uid = records.uid(bucket)?;
        let at = now();
        let joined = records.joined.iter().filter(|join| join.bucket == uid);
        let givers: BTreeSet<_> = joined.clone().map(|join| join.peer).collect();
        let of_bucket = |grant: &&Grant| grant.bucket == uid && grant.over(at).is_none();
        let given = records.grants.iter().filter(of_bucket);
        let keys = given.flat_map(|grant| &grant.keys);
        let takers = keys.filter(|key| key.revoked.is_none());
        let takers: BTreeSet<_> = takers.map(|key| key.peer).collect();
        let net = self.net.lock().await;
        let net = net.as_ref()?;
        let (near, whys) = (net.peers_on(uid), net.refused(uid));
        let call = |peer: &EndpointId| records.call(*peer);
        // Members that others let in are not looked at. Those may come who were let in here.
        let all_refuse = givers.iter().all(|peer| whys.contains_key(peer));
        if !givers.is_empty() && takers.is_empty() && all_refuse {
            let mut asked: Vec<_> = givers.iter().map(call).collect();
            asked.sort_unstable();
            let mut whys: Vec<_> = whys.into_values().collect();
            whys.sort_unstable();
            return Some(Absent::Refuse(asked, whys.join("; ")));
        }
        // Nothing is taken any more from those whom their giver let out, nor by what has expired.
        let joined = joined.filter(|join| {
            let is_over = join.expires.is_some_and(|expires| expires <= at);
            !is_over && !records.is_silent(join, at) && !whys.contains_key(&join.peer)
        });
        let may_come: BTreeSet<_> = joined.map(|join| join.peer).chain(takers).collect();
        let away = may_come.iter().filter(|peer| !near.contains(peer));
        Some(Absent::Away(away.map(call).collect()))
    }

    /// Returns the peers that did not answer lately, and have not come again since.
    async fn silent(&self) -> HashSet<EndpointId> {
        let net = self.net.lock().await;
        let mut silent = self.silent.lock();
        silent.retain(|peer, since| {
            let came = net.as_ref().and_then(|net| net.connected_since(*peer));
            since.elapsed() < SILENT && came.is_none_or(|came| came <= *since)
        });
        silent.keys().copied().collect()
    }

    async fn connect(&self, peer: EndpointId) -> Result<Connection, String> {
        self.part_with_old().await;
        if let Some((connection, _)) = self.connections.lock().get(&peer)
            && connection.close_reason().is_none()
        {
            return Ok(connection.clone());
        }
        let records = self.records().map_err(|e| e.to_string())?;
        let addr = match records.peer(peer) {
            Some(known) => known.addr(),
            None => peer.into(),
        };
        let is_near = match &*self.net.lock().await {
            Some(net) => net.connected_since(peer).is_some(),
            None => false,
        };
        let patience = if is_near { DIALLING } else { DIALLING_MEMBER };
        let connecting = self.endpoint.connect(addr, wire::ALPN);
        match timeout(patience, connecting).await {
            Ok(Ok(connection)) => {
                let mut connections = self.connections.lock();
                connections.insert(peer, (connection.clone(), Instant::now()));
                Ok(connection)
            }
            Ok(Err(e)) => Err(format!("not reachable: {e}")),
            Err(_) => {
                if let Some(net) = &*self.net.lock().await {
                    net.part_with(peer);
                }
                Err("not reachable: no answer".to_owned())
            }
        }
    }

    /// Fetches the wants of one bucket, given with their places.
    async fn fetch_of(&self, bucket: BucketId, mut wants: Vec<(usize, Want)>, fetch: &Fetch) {
        let is_any = |priority| wants.iter().any(|(_, want)| want.priority == priority);
        let is_read = is_any(Priority::Read);
        let patience = match is_any(Priority::Asked) {
            true => self.store.read().and_then(|txn| patience(&*txn, bucket)),
            false => Ok(Duration::ZERO),
        };
        let patience = patience.unwrap_or_default();
        let mut tried = HashSet::new();
        let mut unreachable: HashMap<EndpointId, (Instant, String)> = HashMap::new();
        let mut stirs: Option<watch::Receiver<u64>> = None;
        let (mut is_news, mut away) = (true, Vec::new());
        let mut asked = Vec::new();
        let mut failed: HashMap<Hash, String> = HashMap::new();
        let mut again = ATTEMPTS;
        let begun = Instant::now();
        let mut waiting_since: Option<Instant> = None;
        let mut told = String::new();
        loop {
            let (near, others) = self.peers(bucket).await;
            let mut peers = near.iter().chain(&others);
            let Some(peer) = peers.find(|peer| !tried.contains(*peer)).copied() else {
                if fetch.is_over() {
                    return;
                }
                let waited = is_read || begun.elapsed() < patience;
                // To ask again for what could not be had brings nothing.
                let is_hopeless = wants
                    .iter()
                    .all(|(_, want)| failed.contains_key(&want.hash));
                if !waited || is_hopeless {
                    break;
                }
                if is_news {
                    // Whatever makes a peer come, go, refuse or let in stirs the node.
                    stirs = self.net.lock().await.as_ref().map(Net::stirs);
                    away = match self.absent(bucket).await {
                        // Nobody comes whom it makes sense to wait for.
                        Some(Absent::Refuse(asked, why)) if tried.is_empty() => {
                            for (at, _) in wants {
                                let (asked, why) = (asked.clone(), why.clone());
                                fetch.done(at, Outcome::Failed { asked, why });
                            }
                            return;
                        }
                        Some(Absent::Away(away)) => away,
                        Some(Absent::Refuse(..)) | None => Vec::new(),
                    };
                }
                let is_on_its_way =
                    failed.is_empty() && unreachable.is_empty() && begun.elapsed() < ON_ITS_WAY;
                // Somebody may come, as long as nobody could be asked; and what is read may be with those
                // that are away.
                let may_come =
                    tried.is_empty() || is_read && !(away.is_empty() && unreachable.is_empty());
                if !is_on_its_way && !may_come {
                    break;
                }
                let mut why: Vec<_> = unreachable.values().map(|(_, why)| &**why).collect();
                why.sort_unstable();
                let away = away.join(", ");
                let away = (!away.is_empty()).then(|| format!("not connected: {away}"));
                why.extend(away.as_deref());
                let why = why.join("; ");
                if why != told {
                    for (at, _) in &wants {
                        fetch.waiting(*at, &why);
                    }
                    told = why;
                }
                let pause = if is_on_its_way { AGAIN } else { AGAIN_LATER };
                if waiting_since.get_or_insert_with(Instant::now).elapsed() >= pause {
                    // One that could not be reached may have come.
                    tried.retain(|peer| {
                        let dialled = unreachable.get(peer).map(|(at, _)| at);
                        let is_late = dialled.is_some_and(|at| at.elapsed() < UNREACHABLE);
                        is_late && !near.contains(peer)
                    });
                    waiting_since = None;
                    continue;
                }
                sleep(STEP).await;
                is_news = match &mut stirs {
                    Some(stirs) => timeout(AGAIN - STEP, stirs.changed()).await.is_ok(),
                    None => true,
                };
                continue;
            };
            tried.insert(peer);
            waiting_since = None;
            told.clear();
            let name = self.records().map(|records| records.call(peer));
            let name = name.unwrap_or_else(|_| peer.fmt_short().to_string());
            if !asked.contains(&name) {
                asked.push(name.clone());
            }
            for (at, _) in &wants {
                fetch.asking(*at, &name);
            }
            let connection = match self.connect(peer).await {
                Ok(connection) => {
                    unreachable.remove(&peer);
                    connection
                }
                Err(why) => {
                    unreachable.insert(peer, (Instant::now(), format!("{name}: {why}")));
                    continue;
                }
            };
            let mut broke = false;
            let mut places: HashMap<Hash, Vec<usize>> = HashMap::new();
            for (at, want) in &wants {
                places.entry(want.hash).or_default().push(*at);
            }
            let list = wants.iter().map(|(_, want)| wire::Want {
                hash: want.hash,
                size: want.size,
                base: want.base,
            });
            let tell = |progress: Progress<'_>| match progress {
                Progress::Received { hash, bytes, .. } => {
                    for at in places.get(&hash).into_iter().flatten() {
                        fetch.arrived(*at, bytes);
                    }
                }
                Progress::Ended { hash, outcome } if outcome.is_here() => {
                    let from = matches!(outcome, wire::Outcome::Fetched).then(|| name.clone());
                    for at in places.get(&hash).into_iter().flatten() {
                        fetch.done(*at, Outcome::Here { from: from.clone() });
                    }
                    self.note(&[hash]);
                }
                Progress::Ended { .. } => {}
            };
            let fetching = self.fetcher.fetch(&connection, list.collect(), tell);
            let outcomes = tokio::select! {
                outcomes = fetching => outcomes,
                () = over(fetch) => return,
            };
            for (hash, outcome) in outcomes {
                match outcome {
                    wire::Outcome::Failed(e) => {
                        broke = true;
                        failed.insert(hash, e.to_string());
                    }
                    wire::Outcome::Missing => {}
                    _ => wants.retain(|(_, want)| want.hash != hash),
                }
            }
            if wants.is_empty() {
                return;
            }
            if broke && connection.close_reason().is_some() && again > 0 {
                again -= 1;
                tried.remove(&peer);
            }
        }
        let mut whys: Vec<_> = unreachable.into_values().map(|(_, why)| why).collect();
        whys.sort_unstable();
        for (at, want) in wants {
            let asked = asked.clone();
            let broke = failed.remove(&want.hash).into_iter();
            let whys: Vec<_> = broke.chain(whys.iter().cloned()).collect();
            let outcome = match whys.is_empty() {
                false => Outcome::Failed {
                    asked,
                    why: whys.join("; "),
                },
                true => Outcome::Nobody { asked },
            };
            fetch.done(at, outcome);
        }
    }

    /// Notes that contents came or went.
    fn note(&self, hashes: &[Hash]) {
        self.changed.0.lock().extend(hashes);
        self.changed.1.notify_one();
        // What was waited for when the node stopped may still come.
        if self.ending.is_cancelled()
            && let Err(e) = Tallies::new(Arc::clone(&self.store))
        {
            tracing::debug!("what came at the end was not noted: {e}");
        }
    }

    /// Counts what is missing here of the buckets, whenever that may have changed, and tells it to the
    /// peers that know the same of a bucket.
    pub(super) async fn count(self, mut tallies: Tallies, mut stirs: watch::Receiver<u64>) {
        loop {
            stirs.mark_unchanged();
            let asked = self.net.lock().await.as_ref().map(|net| net.status(false));
            let Some(asked) = asked else {
                break;
            };
            let connected = asked.await.links.into_iter().filter(|link| link.connected);
            let links: Vec<_> = connected.collect();
            let begun = Instant::now();
            let this = self.clone();
            let counted = tokio::task::spawn_blocking(move || {
                let counted = this.count_for(links, &mut tallies);
                (tallies, counted)
            });
            let Ok((given_back, counted)) = counted.await else {
                return;
            };
            tallies = given_back;
            let (lacks, again) = counted.unwrap_or_else(|e| {
                tracing::debug!("what is missing was not counted: {e}");
                (Vec::new(), Some(Instant::now() + ANEW))
            });
            for (link, lacks) in lacks {
                if let Some(net) = &*self.net.lock().await {
                    net.tell_lacks(&link, lacks);
                }
            }
            tokio::select! {
                () = sleep(COUNTING.max(begun.elapsed() * REST)) => {}
                () = self.ending.cancelled() => break,
            }
            let due = async {
                match again {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                stirred = stirs.changed() => if stirred.is_err() {
                    break;
                },
                () = self.changed.1.notified() => {}
                () = due => {}
                () = self.ending.cancelled() => break,
            }
        }
        let ended = tokio::task::spawn_blocking(move || {
            // Held so long that what comes now is noted after that, and takes it back.
            let changed = self.changed.0.lock();
            match changed.is_empty() {
                true => tallies.end(),
                false => Ok(()),
            }
        });
        if let Ok(Err(e)) = ended.await {
            tracing::debug!("what is missing was not kept: {e}");
        }
    }

    /// Counts what is missing of what some peers may know of; also returns when to do so again, where
    /// that is not only a matter of what changes.
    fn count_for(&self, links: Vec<Link>, tallies: &mut Tallies) -> Result<Counted> {
        // Before the transaction begins, which so sees all that is noted.
        let changed = std::mem::take(&mut *self.changed.0.lock());
        let noted = self
            .store
            .read()
            .and_then(|txn| tallies.note(&*txn, &changed).map(|()| txn));
        let txn = match noted {
            Ok(txn) => txn,
            Err(e) => {
                self.changed.0.lock().extend(changed);
                return Err(e);
            }
        };
        let records = Records::load(&*txn)?;
        let mut wanted = Vec::new();
        for link in links {
            let Some(bucket) = records.bucket(link.bucket) else {
                continue;
            };
            let parts = match (link.member, link.shared) {
                (true, _) => vec![(bucket, None)],
                (false, true) => given(&*txn, &records, link.peer)?,
                (false, false) => joined(&*txn, &records, link.peer)?,
            };
            let mut of_bucket = parts.into_iter().filter(|(of, _)| *of == bucket);
            let Some((_, mut branches)) = of_bucket.next() else {
                continue;
            };
            for (_, more) in of_bucket {
                branches = branches.zip(more).map(|(mut all, more)| {
                    all.extend(more);
                    all
                });
            }
            wanted.push((link, (bucket, branches)));
        }
        tallies.retain(&wanted.iter().map(|(_, part)| part.clone()).collect());
        let (mut lacks, mut again) = (Vec::new(), None);
        for (link, part) in wanted.into_iter().filter(|(link, _)| link.in_step) {
            let known = link.gathered.unwrap_or_default();
            if !is_current(&*txn, part.0, known)? {
                // What was committed since is gathered soon, which stirs.
                continue;
            }
            match tallies.count(&*txn, &part)? {
                Ok(count) => lacks.push((link, count)),
                Err(at) => again = Some(again.map_or(at, |other: Instant| other.min(at))),
            }
        }
        drop(txn);
        tallies.keep()?;
        Ok((lacks, again))
    }
}

/// Who is not there that contents of a bucket may come from.
enum Absent {
    /// All from whom it was joined do not let this node in, and it let nobody in itself: who they are,
    /// and why that is.
    Refuse(Vec<String>, String),
    /// Who may come.
    Away(Vec<String>),
}

/// What is lacking of what each link is about, and when to count again, if ever.
type Counted = (Vec<(Link, Lacks)>, Option<Instant>);

async fn over(fetch: &Fetch) {
    while !fetch.is_over() {
        sleep(STEP).await;
    }
}

impl ContentSource for Source {
    fn fetch(&self, wants: &[Want], fetch: &Fetch) {
        let mut buckets: HashMap<BucketId, Vec<(usize, Want)>> = HashMap::new();
        for (at, want) in wants.iter().enumerate() {
            let of = buckets.entry(want.bucket).or_default();
            of.push((at, want.clone()));
        }
        self.runtime.block_on(async {
            // What waits for somebody in one bucket does not keep the others waiting.
            let mut fetching = JoinSet::new();
            for (bucket, wants) in buckets {
                let (this, fetch) = (self.clone(), fetch.clone());
                fetching.spawn(async move { this.fetch_of(bucket, wants, &fetch).await });
            }
            loop {
                let fetched = tokio::select! {
                    fetched = fetching.join_next() => fetched,
                    () = over(fetch) => return fetching.shutdown().await,
                };
                match fetched {
                    None => return,
                    Some(Err(e)) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
                    Some(_) => {}
                }
            }
        });
    }

    fn evicted(&self, hashes: &[Hash]) {
        self.note(hashes);
    }

    /// Asks all peers at the same time, and waits no longer than until each content has a holder, or until
    /// all have answered that are not known to be silent.
    fn holders(&self, bucket: BucketId, hashes: &[Hash], deadline: Instant) -> Vec<Vec<String>> {
        let mut holders = vec![Vec::new(); hashes.len()];
        let hashes: Arc<[Hash]> = hashes.into();
        self.runtime.block_on(async {
            let mut asking = JoinSet::new();
            let begun = Instant::now();
            let (mut peers, others) = self.peers(bucket).await;
            peers.extend(others);
            let mut waited: HashSet<_> = peers.iter().copied().collect();
            let silent = self.silent().await;
            waited.retain(|peer| !silent.contains(peer));
            if waited.is_empty() {
                waited.extend(&peers);
            }
            for peer in peers {
                let (this, hashes) = (self.clone(), hashes.clone());
                asking.spawn(async move {
                    let kept = async {
                        let connection = this.connect(peer).await.ok()?;
                        this.fetcher.keep(&connection, &hashes).await.ok()
                    };
                    (peer, kept.await)
                });
            }
            while !waited.is_empty() && holders.iter().any(Vec::is_empty) {
                let next = timeout_at(deadline.into(), asking.join_next()).await;
                let Ok(Some(answered)) = next else {
                    break;
                };
                let Ok((peer, kept)) = answered else {
                    continue;
                };
                let Some(kept) = kept else {
                    // What fails at once costs no time.
                    if waited.remove(&peer) && begun.elapsed() >= DIALLING_MEMBER {
                        self.silent.lock().insert(peer, Instant::now());
                    }
                    continue;
                };
                waited.remove(&peer);
                self.silent.lock().remove(&peer);
                let name = self.records().map(|records| records.call(peer));
                let name = name.unwrap_or_else(|_| peer.fmt_short().to_string());
                for (holders, _) in holders.iter_mut().zip(kept).filter(|(_, kept)| *kept) {
                    holders.push(name.clone());
                }
            }
            if Instant::now() >= deadline {
                let mut silent = self.silent.lock();
                silent.extend(waited.iter().map(|peer| (*peer, Instant::now())));
            }
        });
        holders
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::Store;

    /// A store, and its first bucket as a whole and as a branch.
    fn store() -> (Store, Readers, [Part; 2]) {
        let store = Store::memory().unwrap();
        let bucket = store.bucket("default").unwrap();
        let main = bucket.main().unwrap();
        main.write("/f", "first").unwrap();
        let readers = Readers::new(Arc::clone(&store.inner.tree), None);
        let parts = [None, Some(BTreeSet::from([main.id()]))];
        let parts = parts.map(|branches| (bucket.id(), branches));
        (store, readers, parts)
    }

    fn ask(readers: &Readers, part: &Part, text: &str) -> bool {
        let txn = readers.store.read().unwrap();
        let mut may = [false];
        let hashes = [Hash::of(text.as_bytes())];
        let slot = readers.slot(part);
        slot.ask(&*txn, part, &hashes, &mut may).unwrap();
        may[0]
    }

    /// As if what a part names had been looked for long ago.
    fn outdate(readers: &Readers, part: &Part) {
        let slot = readers.slot(part);
        let mut names = slot.names.lock();
        names.as_mut().unwrap().outdated = Instant::now();
    }

    #[test]
    fn what_nobody_asks_about_is_forgotten() {
        let (_store, readers, parts) = store();
        let [asked, unasked] = &parts;
        let begun = Instant::now();
        assert!(ask(&readers, asked, "first"));
        assert!(ask(&readers, unasked, "first"));
        readers.forget(begun);
        assert_eq!(readers.names.lock().len(), 2);
        let before = *readers.slot(unasked).asked.lock();
        while Instant::now() == before {}
        let since = Instant::now();
        assert!(ask(&readers, asked, "first"));
        readers.forget(since);
        let left: Vec<_> = readers.names.lock().keys().cloned().collect();
        assert_eq!(left, std::slice::from_ref(asked));
        assert!(ask(&readers, unasked, "first"));
    }

    #[test]
    fn what_was_named_is_readable_for_a_while() {
        let (store, readers, [part, _]) = store();
        assert!(ask(&readers, &part, "first"));
        let main = store.bucket("default").unwrap().main().unwrap();
        main.write("/f", "second").unwrap();
        assert!(ask(&readers, &part, "second"));
        assert!(ask(&readers, &part, "first"));
        outdate(&readers, &part);
        assert!(!ask(&readers, &part, "first"));
        assert!(ask(&readers, &part, "second"));
    }

    #[test]
    fn who_knows_enough_does_not_wait_for_one_who_looks() {
        let (_store, readers, [part, other]) = store();
        assert!(ask(&readers, &part, "first"));
        outdate(&readers, &part);
        let slot = readers.slot(&part);
        let looking = slot.looking.lock();
        let (said, heard) = mpsc::channel();
        let asking = readers.clone();
        let asker = thread::spawn(move || {
            said.send(ask(&asking, &part, "first")).unwrap();
            // Of this one nobody has looked for anything yet.
            said.send(ask(&asking, &other, "first")).unwrap();
        });
        for _ in 0..2 {
            assert_eq!(heard.recv_timeout(Duration::from_secs(30)), Ok(true));
        }
        asker.join().unwrap();
        drop(looking);
    }
}
