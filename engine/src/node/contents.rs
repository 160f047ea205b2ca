//! Contents between this node and its peers: who may read what of this store, and where what is
//! missing here comes from.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_blobs::BlobStore;
use alknet_fs_blobs::wire::{self, Fetcher, Progress};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{BranchId, BucketId, Durability, ReadTxn, Store as TreeStore};
use alknet_fs_core::{Cursor, Entry, ErrorKind, Hash, Node as Kind, Result, TreePath};
use alknet_fs_net::{BucketUid, EndpointId, Net, Records};
use iroh::Endpoint;
use iroh::endpoint::Connection;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout, timeout_at};

use super::records::MissingContents;
use crate::content::held::promise;
use crate::content::{ContentSource, Fetch, Outcome, Priority, Want};
use crate::store::now;

/// After how long everything that a bucket names is looked for again, where something else is asked
/// for: what events do not tell of.
const ANEW: Duration = Duration::from_secs(5);

/// How long a peer may take to be connected with.
const DIALLING: Duration = Duration::from_secs(10);

/// How often it is looked whether a fetch is over, or a peer is there.
const STEP: Duration = Duration::from_millis(20);

/// How often a fetch goes on with a peer after its connection broke.
const ATTEMPTS: u32 = 3;

/// How often it is looked what peers hold.
const LOOKING: Duration = Duration::from_millis(500);

/// A bucket, or branches of it with all that they inherit from.
type Part = (BucketId, Option<BTreeSet<BranchId>>);

/// The contents that a part of a bucket names, or ever named since this process looks.
struct Names {
    sizes: HashMap<Hash, u64>,
    cursor: Cursor,
    looked: Instant,
}

impl Names {
    fn look(txn: &dyn ReadTxn, (bucket, branches): &Part) -> Result<Self> {
        let mut sizes = HashMap::new();
        let cursor = txn.last_cursor()?;
        txn.scan_tree(*bucket, &TreePath::root(), &mut |_, _, layer, row| {
            let covered = |branches: &BTreeSet<_>| branches.contains(&layer.branch);
            if branches.as_ref().is_none_or(covered)
                && let Some(Entry {
                    node: Kind::File { hash, size },
                    ..
                }) = row.entry
            {
                sizes.insert(hash, size);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Self {
            sizes,
            cursor,
            looked: Instant::now(),
        })
    }

    /// Takes in what was committed since.
    fn follow(&mut self, txn: &dyn ReadTxn, part: &Part) -> Result<()> {
        if txn.last_cursor()? == self.cursor {
            return Ok(());
        }
        loop {
            let events = match txn.events(Some(part.0), self.cursor, 256) {
                Ok(events) => events,
                Err(e) if e.kind() == ErrorKind::Lagged => {
                    *self = Self::look(txn, part)?;
                    return Ok(());
                }
                Err(e) => return Err(e),
            };
            let Some(last) = events.last() else {
                self.cursor = txn.last_cursor()?;
                return Ok(());
            };
            self.cursor = last.cursor;
            for event in events {
                let Some(hash) = event.change.new else {
                    continue;
                };
                let covered = match &part.1 {
                    None => true,
                    Some(branches) => txn
                        .branch_named(part.0, &event.branch)?
                        .is_some_and(|branch| branches.contains(&branch.id)),
                };
                if covered {
                    let size = event.change.size.unwrap_or(0);
                    self.sizes.insert(hash, size);
                }
            }
        }
    }
}

/// Tells who may read what.
#[derive(Clone)]
pub(super) struct Readers {
    store: Arc<dyn TreeStore>,
    names: Arc<Mutex<HashMap<Part, Names>>>,
}

impl Readers {
    pub(super) fn new(store: Arc<dyn TreeStore>) -> Self {
        Self {
            store,
            names: Arc::default(),
        }
    }

    /// Finds what a peer may read: what it was given, and what was joined from it.
    fn parts(txn: &dyn ReadTxn, peer: EndpointId) -> Result<Vec<Part>> {
        let records = Records::load(txn)?;
        let mut parts = Vec::new();
        for grant in records.grants_of(peer, now()) {
            let Some(bucket) = records.bucket(grant.bucket) else {
                continue;
            };
            let branches = grant.branches.as_ref();
            let branches = branches.map(|branches| with_ancestors(txn, branches));
            parts.push((bucket, branches.transpose()?));
        }
        for joined in records.joined.iter().filter(|joined| joined.peer == peer) {
            let Some(bucket) = records.bucket(joined.bucket) else {
                continue;
            };
            let mut branches = BTreeSet::new();
            for name in &joined.branches {
                branches.extend(txn.branch_named(bucket, name)?.map(|branch| branch.id));
            }
            parts.push((bucket, (!joined.branches.is_empty()).then_some(branches)));
        }
        Ok(parts)
    }

    /// Looks with what a part of a bucket names now.
    fn with<R>(
        &self,
        txn: &dyn ReadTxn,
        part: &Part,
        look: impl FnOnce(&mut Names) -> Result<R>,
    ) -> Result<R> {
        let mut all = self.names.lock();
        if !all.contains_key(part) {
            all.insert(part.clone(), Names::look(txn, part)?);
        }
        match all.get_mut(part) {
            Some(names) => {
                names.follow(txn, part)?;
                look(names)
            }
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

fn with_ancestors(txn: &dyn ReadTxn, branches: &[BranchId]) -> Result<BTreeSet<BranchId>> {
    let mut all = BTreeSet::new();
    for branch in branches {
        match Chain::load(txn, *branch, None) {
            Ok(chain) => all.extend(chain.spans().iter().map(|span| span.branch)),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

impl wire::Access for Readers {
    fn may_read(&self, peer: EndpointId, hashes: &[Hash]) -> Result<Vec<bool>> {
        let txn = self.store.read()?;
        let mut may = vec![false; hashes.len()];
        for part in Self::parts(&*txn, peer)? {
            self.with(&*txn, &part, |names| {
                let known = |names: &Names| hashes.iter().all(|h| names.sizes.contains_key(h));
                if !known(names) && names.looked.elapsed() > ANEW {
                    *names = Names::look(&*txn, &part)?;
                }
                for (may, hash) in may.iter_mut().zip(hashes) {
                    *may |= names.sizes.contains_key(hash);
                }
                Ok(())
            })?;
        }
        Ok(may)
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
    readers: Readers,
    /// The connections for contents, and since when each is there.
    connections: Arc<Mutex<HashMap<EndpointId, (Connection, Instant)>>>,
}

impl Source {
    pub(super) fn new(
        readers: Readers,
        runtime: Handle,
        net: Running,
        endpoint: Endpoint,
        blobs: &BlobStore,
    ) -> Self {
        Self {
            store: Arc::clone(&readers.store),
            runtime,
            net,
            endpoint,
            fetcher: Fetcher::new(blobs),
            readers,
            connections: Arc::default(),
        }
    }

    fn records(&self) -> Result<Records> {
        Records::load(&*self.store.read()?)
    }

    async fn peers(&self, bucket: BucketId) -> Vec<EndpointId> {
        let Some(uid) = self.records().ok().and_then(|r| r.uid(bucket)) else {
            return Vec::new();
        };
        match &*self.net.lock().await {
            Some(net) => net.peers_on(uid),
            None => Vec::new(),
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
        let connecting = self.endpoint.connect(addr, wire::ALPN);
        match timeout(DIALLING, connecting).await {
            Ok(Ok(connection)) => {
                let mut connections = self.connections.lock();
                connections.insert(peer, (connection.clone(), Instant::now()));
                Ok(connection)
            }
            Ok(Err(e)) => Err(format!("not reachable: {e}")),
            Err(_) => Err("not reachable: no answer".to_owned()),
        }
    }

    /// Fetches the wants of one bucket, given with their places.
    async fn fetch_of(&self, bucket: BucketId, mut wants: Vec<(usize, Want)>, fetch: &Fetch) {
        let waited = wants.iter().any(|(_, w)| w.priority == Priority::Read);
        let mut tried = HashSet::new();
        let mut asked = Vec::new();
        let mut failed: HashMap<Hash, String> = HashMap::new();
        let mut again = ATTEMPTS;
        loop {
            let peers = self.peers(bucket).await;
            let Some(peer) = peers.into_iter().find(|peer| !tried.contains(peer)) else {
                // Somebody may come, as long as nobody could be asked.
                if waited && tried.is_empty() && !fetch.is_over() {
                    sleep(STEP).await;
                    continue;
                }
                break;
            };
            tried.insert(peer);
            let name = self.records().map(|records| records.call(peer));
            let name = name.unwrap_or_else(|_| peer.fmt_short().to_string());
            asked.push(name.clone());
            for (at, _) in &wants {
                fetch.asking(*at, &name);
            }
            let connection = match self.connect(peer).await {
                Ok(connection) => connection,
                Err(why) => {
                    let why = format!("{name}: {why}");
                    failed.extend(wants.iter().map(|(_, want)| (want.hash, why.clone())));
                    continue;
                }
            };
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
                        failed.insert(hash, e.to_string());
                    }
                    wire::Outcome::Missing => {}
                    _ => wants.retain(|(_, want)| want.hash != hash),
                }
            }
            if wants.is_empty() {
                return;
            }
            if connection.close_reason().is_some() && again > 0 {
                again -= 1;
                tried.remove(&peer);
            }
        }
        for (at, want) in wants {
            let asked = asked.clone();
            let outcome = match failed.remove(&want.hash) {
                Some(why) => Outcome::Failed { asked, why },
                None => Outcome::Nobody { asked },
            };
            fetch.done(at, outcome);
        }
    }

    /// Finds out what peers hold of the buckets, again and again, and keeps it for
    /// [`missing_there`].
    pub(super) async fn look(self) {
        let mut held: HashMap<(EndpointId, BucketUid), HashSet<Hash>> = HashMap::new();
        let mut told: Option<Held> = None;
        loop {
            sleep(LOOKING).await;
            let status = match &*self.net.lock().await {
                Some(net) => net.status().await,
                None => return,
            };
            let connected: HashSet<_> = status
                .links
                .iter()
                .filter(|link| link.connected)
                .map(|link| (link.peer, link.bucket))
                .collect();
            held.retain(|key, _| connected.contains(key));
            let mut missing = Held::default();
            for (peer, bucket) in connected {
                let known = held.entry((peer, bucket)).or_default();
                match self.missing(peer, bucket, known).await {
                    Ok(Some((cursor, count))) => missing.0.push((peer, bucket, cursor, count)),
                    Ok(None) => {}
                    Err(e) => tracing::debug!(peer = %peer.fmt_short(), "what it holds: {e}"),
                }
            }
            missing.0.sort_unstable();
            if told.as_ref() != Some(&missing) {
                let (store, keep) = (Arc::clone(&self.store), missing.clone());
                let kept = tokio::task::spawn_blocking(move || keep.save(&*store)).await;
                if matches!(kept, Ok(Ok(()))) {
                    told = Some(missing);
                }
            }
        }
    }

    /// Counts the contents of a bucket that are here and that a peer does not hold, and says up to
    /// where in the event log that takes account of what was committed.
    async fn missing(
        &self,
        peer: EndpointId,
        uid: BucketUid,
        known: &mut HashSet<Hash>,
    ) -> Result<Option<(Cursor, (u64, u64))>> {
        let this = self.clone();
        let skip = std::mem::take(known);
        let looked = tokio::task::spawn_blocking(move || {
            let txn = this.store.read()?;
            let cursor = txn.last_cursor()?;
            let Some(bucket) = Records::load(&*txn)?.bucket(uid) else {
                return Ok((cursor, skip, Vec::new()));
            };
            let mut unknown = Vec::new();
            for part in Readers::parts(&*txn, peer)? {
                if part.0 != bucket {
                    continue;
                }
                this.readers.with(&*txn, &part, |names| {
                    for (hash, size) in &names.sizes {
                        if !skip.contains(hash) && txn.has_content(hash)? {
                            unknown.push((*hash, *size));
                        }
                    }
                    Ok(())
                })?;
            }
            Ok::<_, alknet_fs_core::Error>((cursor, skip, unknown))
        });
        let (cursor, skip, unknown) = match looked.await {
            Ok(looked) => looked?,
            Err(_) => return Ok(None),
        };
        *known = skip;
        if unknown.is_empty() {
            return Ok(Some((cursor, (0, 0))));
        }
        let Ok(connection) = self.connect(peer).await else {
            return Ok(None);
        };
        let hashes: Vec<_> = unknown.iter().map(|(hash, _)| *hash).collect();
        let has = self.fetcher.has(&connection, &hashes).await?;
        let mut missing = (0, 0);
        for ((hash, size), has) in unknown.into_iter().zip(has) {
            if has {
                known.insert(hash);
            } else {
                missing.0 += 1;
                missing.1 += size;
            }
        }
        Ok(Some((cursor, missing)))
    }
}

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
            for (bucket, wants) in buckets {
                tokio::select! {
                    () = self.fetch_of(bucket, wants, fetch) => {}
                    () = over(fetch) => return,
                }
            }
        });
    }

    fn holders(&self, bucket: BucketId, hashes: &[Hash], deadline: Instant) -> Vec<Vec<String>> {
        let mut holders = vec![Vec::new(); hashes.len()];
        self.runtime.block_on(async {
            for peer in self.peers(bucket).await {
                let kept = async {
                    let connection = self.connect(peer).await.ok()?;
                    self.fetcher.keep(&connection, hashes).await.ok()
                };
                let Ok(Some(kept)) = timeout_at(deadline.into(), kept).await else {
                    continue;
                };
                let name = self.records().map(|records| records.call(peer));
                let name = name.unwrap_or_else(|_| peer.fmt_short().to_string());
                for (holders, _) in holders.iter_mut().zip(kept).filter(|(_, kept)| *kept) {
                    holders.push(name.clone());
                }
            }
        });
        holders
    }
}

/// How many contents each connected peer was found to miss of each bucket, and their bytes, among those
/// up to a place in the event log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Held(Vec<(EndpointId, BucketUid, Cursor, (u64, u64))>);

const SCOPE: &str = "net";
const HELD: &str = "contents";

impl Held {
    fn load(txn: &dyn ReadTxn) -> Result<Self> {
        let bytes = txn.value(SCOPE, HELD)?;
        let held = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(held.unwrap_or_default())
    }

    fn save(&self, store: &dyn TreeStore) -> Result<()> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let mut txn = store.write(Durability::Relaxed)?;
        txn.set_value(SCOPE, HELD, Some(&bytes))?;
        txn.commit()
    }
}

/// Returns what a connected peer was found to miss of a bucket; nothing where something was committed
/// since.
pub(super) fn missing_there(
    txn: &dyn ReadTxn,
    peer: EndpointId,
    bucket: BucketUid,
) -> Result<Option<MissingContents>> {
    let held = Held::load(txn)?.0;
    let found = held
        .iter()
        .find(|(of, uid, ..)| (*of, *uid) == (peer, bucket));
    let Some((.., cursor, (contents, bytes))) = found else {
        return Ok(None);
    };
    let id = Records::load(txn)?.bucket(bucket);
    match id.map(|id| is_news(txn, id, *cursor)).transpose()? {
        Some(false) => Ok(Some(MissingContents {
            contents: *contents,
            bytes: *bytes,
        })),
        _ => Ok(None),
    }
}

/// Tells whether something was committed to a bucket after a place in the event log.
pub(super) fn is_news(txn: &dyn ReadTxn, bucket: BucketId, after: Cursor) -> Result<bool> {
    if txn.last_cursor()? == after {
        return Ok(false);
    }
    match txn.events(Some(bucket), after, 1) {
        Ok(events) => Ok(!events.is_empty()),
        Err(e) if e.kind() == ErrorKind::Lagged => Ok(true),
        Err(e) => Err(e),
    }
}
