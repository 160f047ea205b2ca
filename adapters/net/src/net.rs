//! The running node: its endpoint, its connections and its conversations.

mod blame;
mod circle;
mod swarm;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alknet_fs_core::rest::Rest;
use alknet_fs_core::store::{BucketId, Durability, Store};
use alknet_fs_core::sync::{MAX_FRAME, PROTOCOL, ReplicaId};
use alknet_fs_core::{Cursor, Error, ErrorKind, Result};
use alknet_fs_sync::{deleted, is_deleted};
use backon::{BackoffBuilder, ExponentialBuilder};
use futures_lite::StreamExt as _;
use iroh::endpoint::{
    BindOpts, Connection, MtuDiscoveryConfig, QuicTransportConfig, RecvStream, SendStream, VarInt,
};
use iroh::endpoint::{Builder, presets};
use iroh::protocol::{AcceptError, ProtocolHandler, Router, RouterBuilder};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, RelayUrl, SecretKey, TransportAddr, Watcher as _,
};
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cover::Role;
use crate::driver::{
    Command, Driver, Open, OpenTerms, Opened, Progress, UNREAD, is_own_fault, stir,
};
use crate::gossip::Gate;
use crate::grant::{Access, Allowed, BucketUid, GrantId, Refusal, Secret, admit};
use crate::quota::Quota;
use crate::records::{Joined, Known, Records};
use crate::replicas::Replicas;
use crate::status::{Behind, Lacks, Link, Status};
use crate::ticket::Addrs;
use crate::time::{now, until};
use crate::wire::{
    self, ALPN, Answer, Code, Greeting, Hello, Lacking, Lost, Scopes, Welcome, Word,
};
pub(crate) use blame::Blame;
use circle::{Circle, Exchange};
use swarm::{Callers, Swarm};

/// How long a stream may take to say what it is for, and a stranger's connection to have one that
/// is let in.
const GREETING: Duration = Duration::from_secs(10);

/// How long a dialled node may take.
const DIALLING: Duration = Duration::from_secs(20);

/// How long a connection stays once its conversations have to end: they say first that they do.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How long the endpoint may take to close in order.
const CLOSING: Duration = Duration::from_secs(1);

/// How many connections may be open of nodes that are not let in yet.
const STRANGERS: usize = 64;

/// How many streams a peer may open at a time on a connection.
const STREAMS: u32 = 256;

/// Packets longer than the 1,200 bytes that every network carries have to be this much longer, so that one
/// packet for each path tells whether Ethernet's length is carried, instead of a search that costs more
/// than a conversation with nothing new.
const PACKETS: u16 = 200;

/// Two connections that are made within this time are taken for two nodes that dialled each other.
const AT_ONCE: Duration = Duration::from_secs(5);

/// How long to wait where asking again makes no sense until something changes.
const REFUSED: Duration = Duration::from_secs(300);

/// The longest time until a peer is tried again.
const LONGEST: Duration = Duration::from_secs(60);

/// How often a peer is asked again at once because it said so, and each second from then on.
const PROMPTS: (u32, f64) = (4, 0.1);

/// A connection or conversation that lasted for this long did work.
const LASTED: Duration = Duration::from_secs(20);

/// How often other processes are told how it stands, at most.
const TELLING: Duration = Duration::from_secs(1);

/// The longest pause between two looks at what was committed.
const WATCHING: Duration = Duration::from_millis(10);

/// How many bytes are heard of a peer while it does not take the frame that is sent to it. Nothing more is
/// read of it then until it does: what it is owed, and what it asks for, would grow without an end. Of two
/// nodes never both wait for the other, for less than this is on its way at a time.
const UNTAKEN: usize = 16 << 20;

/// By what name nodes look for each other on the local network.
const SERVICE: &str = "alkfs";

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bind {
    /// On every address of the machine.
    #[default]
    Everywhere,
    /// On this machine only.
    Loopback,
}

/// By whose help nodes find each other that cannot reach each other directly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Relays {
    /// Nobody's: nothing is sent but to the addresses of peers.
    #[default]
    None,
    /// The relays and name servers that n0 runs for everybody.
    N0,
    /// These relays.
    Custom(Vec<RelayUrl>),
}

/// How a node takes part in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOptions {
    /// Where it listens.
    pub bind: Bind,
    /// The port; none for the one it had last, or a free one.
    pub port: Option<u16>,
    /// What relays it uses.
    pub relays: Relays,
    /// Whether it says on the local network, by mDNS, where it is, and looks there for its peers.
    pub mdns: bool,
    /// Whether it converses with whom others let into a whole bucket, and finds out by gossip who of
    /// them has news.
    pub gossip: bool,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            bind: Bind::default(),
            port: None,
            relays: Relays::default(),
            mdns: false,
            gossip: true,
        }
    }
}

/// A running node. [`stop`](Self::stop) ends it in order; dropping it does not wait.
#[derive(Debug)]
pub struct Net {
    inner: Arc<Inner>,
    router: Router,
    watcher: Option<thread::JoinHandle<()>>,
    ending: Ending,
}

/// Tells whether a node ended by itself.
#[derive(Debug, Clone)]
pub struct Ending(watch::Receiver<Option<Arc<Error>>>);

impl Ending {
    /// Returns why the node works no longer; nothing while it does.
    pub fn why(&self) -> Option<Error> {
        // Looked at first: who is gone has said why before.
        let gone = self.0.has_changed().is_err();
        if let Some(e) = &*self.0.borrow() {
            let detail = format!("the node ended: {e}");
            return Some(Error::with_detail(e.kind(), detail));
        }
        let failed = || Error::with_detail(ErrorKind::Io, "the node ended: a thread of it failed");
        gone.then(failed)
    }
}

/// Names a conversation: with whom, about what, and who gave the grant.
type LinkKey = (EndpointId, BucketUid, Role);

#[derive(Debug, Default, Clone)]
struct LinkState {
    /// The conversation, if there is one, and what it goes by.
    live: Option<(u64, BucketId, Access)>,
    seen: Option<alknet_fs_core::Timestamp>,
    /// What the peer said last that it lacks, and what it knew then.
    lacks: Option<([u8; 16], Lacks)>,
    /// What the peer was told last of what this node lacks.
    told: Option<([u8; 16], Lacks)>,
    trouble: Option<String>,
    /// The grant by which the peer does not let this node in, where that is the trouble.
    refused: Option<GrantId>,
    /// How many changes that were made here the grant did not let out, when that was last known.
    stays: Option<u64>,
    /// How it stood when they conversed last.
    last: Option<Last>,
    /// Whether the peer is told what nodes state of each other, and heard on it: from its first frame
    /// on, with which it shows that it hears.
    exchanges: bool,
    /// Whether both exchange that at all.
    whole: bool,
    /// When the peer was heard last.
    heard: Option<Instant>,
}

impl LinkState {
    /// Tells whether the newest ticket is refused: an older one may have been, before there was a newer.
    fn is_refused(&self, records: &Records, peer: EndpointId, bucket: BucketUid) -> bool {
        let newest = records.newest(peer, bucket).map(|joined| joined.grant);
        self.refused.is_some() && self.refused == newest
    }
}

/// What was known of both sides at some time, and up to where of what was committed here.
#[derive(Debug, Clone, Copy)]
struct Last {
    missing_here: Behind,
    missing_there: Behind,
    gathered: Cursor,
}

/// A driver with its thread.
type Running = (Driver, thread::JoinHandle<()>);

struct Held {
    connection: Connection,
    /// Whether this node dialled.
    dialled: bool,
    since: Instant,
}

struct Inner {
    store: Arc<dyn Store>,
    endpoint: Endpoint,
    options: NetOptions,
    records: watch::Sender<Arc<Records>>,
    /// Held from when records are read or changed until all know them: so none come after newer ones.
    publishing: Mutex<()>,
    drivers: Mutex<HashMap<BucketId, Running>>,
    connections: Mutex<HashMap<EndpointId, Held>>,
    /// Told when a connection is there.
    arrived: Notify,
    /// When peers were found on the local network, and told when one is; nothing where nobody looks.
    found: Option<watch::Sender<HashMap<EndpointId, Instant>>>,
    conversations: Mutex<HashMap<LinkKey, (u64, CancellationToken)>>,
    /// The members that this node asks, or has asked and converses with.
    asking: Mutex<HashSet<(EndpointId, BucketUid)>>,
    /// Who takes part in the buckets; nobody where only grants count.
    circle: watch::Sender<Arc<Circle>>,
    /// Held while it is drawn: so none comes after a newer one.
    drawing: Mutex<()>,
    exchange: Exchange,
    /// Nothing where there is no gossip.
    swarm: Option<Swarm>,
    links: Mutex<BTreeMap<LinkKey, LinkState>>,
    strangers: Arc<Semaphore>,
    /// What was said in the log of what peers did wrong, and of what else they brought about.
    blame: Arc<Blame>,
    remarks: Arc<Blame>,
    stop: CancellationToken,
    tasks: TaskTracker,
    next: AtomicU64,
    /// How many bytes went over connections that there were before.
    past: AtomicU64,
    /// Changed when something happened that the status tells of.
    stirred: watch::Sender<u64>,
    /// How many conversations there were.
    begun: watch::Sender<u64>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("id", &self.endpoint.id())
            .finish_non_exhaustive()
    }
}

/// How somebody is asked for a bucket.
#[derive(Debug, Clone)]
struct Asking {
    peer: EndpointId,
    bucket: BucketUid,
    tickets: Vec<(GrantId, Secret)>,
    /// Without a grant: what the other one is allowed.
    allows: Option<Access>,
    /// Whether it is about the whole bucket.
    whole: bool,
}

/// What a peer is answered that asks.
type Admission<T> = std::result::Result<T, Refusal>;

/// By what somebody is let in.
enum Admitted {
    Grant(Allowed),
    Member(Access),
}

/// Returns what stays known of links from what the node told before.
fn links_of(told: Status) -> BTreeMap<LinkKey, LinkState> {
    let own = told.links.into_iter().filter(|link| !link.member);
    let state = |link: Link| LinkState {
        seen: link.seen,
        stays: link.stays,
        last: link.gathered.map(|gathered| Last {
            missing_here: link.missing_here,
            missing_there: link.missing_there,
            gathered,
        }),
        ..LinkState::default()
    };
    own.map(|link| ((link.peer, link.bucket, link.role()), state(link)))
        .collect()
}

/// A conversation that the driver of its bucket knows of.
struct Begun {
    id: u64,
    bucket: BucketId,
    driver: Driver,
    opened: Opened,
    ended: oneshot::Receiver<Error>,
}

/// What became of the frames to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sent {
    /// How many it took.
    taken: u64,
    /// Whether another one waits for that.
    waits: bool,
}

/// How a conversation, or the attempt to begin one, ended.
#[derive(Debug)]
enum Outcome {
    /// This side ended it.
    Over(Code),
    /// The store or the documents of this side refused.
    Failed(Error),
    Lost(Lost),
    Refused(Refusal),
}

impl Net {
    /// Starts a node on the current tokio runtime. `more` adds other protocols to the endpoint.
    ///
    /// # Errors
    /// Those of the store; [`ErrorKind::Io`] where the endpoint cannot listen.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(
        store: Arc<dyn Store>,
        key: SecretKey,
        options: &NetOptions,
        more: impl FnOnce(RouterBuilder) -> RouterBuilder,
    ) -> Result<Self> {
        let (records, told) = {
            let store = Arc::clone(&store);
            let load = move || {
                let txn = store.read()?;
                Ok((Records::load(&*txn)?, Status::load(&*txn)?))
            };
            blocking(load).await?
        };
        let (blame, remarks) = (Arc::default(), Arc::<Blame>::default());
        let gate = Gate::new(Arc::clone(&remarks));
        let endpoint = bind(key, options, records.port, &gate).await?;
        let swarm = options.gossip.then(|| Swarm::new(&endpoint, gate));
        let inner = Arc::new(Inner {
            store,
            endpoint: endpoint.clone(),
            options: options.clone(),
            records: watch::Sender::new(Arc::new(records)),
            publishing: Mutex::default(),
            drivers: Mutex::default(),
            connections: Mutex::default(),
            arrived: Notify::new(),
            found: options.mdns.then(watch::Sender::default),
            conversations: Mutex::default(),
            asking: Mutex::default(),
            circle: watch::Sender::default(),
            drawing: Mutex::default(),
            exchange: Exchange::default(),
            swarm,
            links: Mutex::new(links_of(told)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            blame,
            remarks,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            next: AtomicU64::new(1),
            past: AtomicU64::new(0),
            stirred: watch::Sender::new(0),
            begun: watch::Sender::new(0),
        });
        inner.remember_addrs().await?;
        match inner.swarm.is_some() {
            true => inner.restate().await?,
            // Only grants count.
            false => inner.update(|records| records.silent.clear()).await?,
        }
        let handler = Handler(Arc::clone(&inner));
        let mut router = more(Router::builder(endpoint)).accept(ALPN, handler);
        if inner.swarm.is_some() {
            router = router.accept(iroh_gossip::ALPN, Callers(Arc::clone(&inner)));
        }
        let router = router.spawn();
        let watched = Arc::clone(&inner);
        let (ended, ending) = watch::channel(None);
        let watcher = thread::Builder::new()
            .name("alkfs-sync-commits".to_owned())
            .spawn(move || {
                // However it ends, nothing goes on without it.
                let _stop = watched.stop.clone().drop_guard();
                let ending = watched.watch().err().unwrap_or_else(stopped);
                ended.send_replace(Some(Arc::new(ending)));
            })?;
        if options.mdns {
            inner.spawn(Arc::clone(&inner).look_around());
        }
        inner.spawn(Arc::clone(&inner).follow_addrs());
        inner.spawn(Arc::clone(&inner).manage());
        if inner.swarm.is_some() {
            inner.spawn(Arc::clone(&inner).keep_circle());
        }
        inner.spawn(Arc::clone(&inner).tell());
        Ok(Self {
            inner,
            router,
            watcher: Some(watcher),
            ending: Ending(ending),
        })
    }

    /// Returns the endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// Returns how the node can be reached now.
    pub fn addr(&self) -> EndpointAddr {
        addr(&self.inner.endpoint, &self.inner.options)
    }

    /// Returns how it stands with each peer and bucket: with all that was committed until now, or, where
    /// that is not `fresh`, with what the conversations know of it.
    ///
    /// Nothing of the node is held while that is found out: it takes as long as its busiest conversation.
    pub fn status(&self, fresh: bool) -> impl Future<Output = Status> + Send + use<> {
        let inner = Arc::clone(&self.inner);
        async move { inner.status(fresh).await }
    }

    /// Returns who of those from whom a bucket was joined does not let this node in, and why. Does not wait.
    pub fn refused(&self, bucket: BucketUid) -> BTreeMap<EndpointId, String> {
        let records = self.inner.records();
        let links = self.inner.links.lock();
        let of = links
            .iter()
            .filter(|((_, of, role), _)| (*of, *role) == (bucket, Role::Taker));
        let refused = of.filter(|((peer, ..), link)| {
            link.live.is_none() && link.is_refused(&records, *peer, bucket)
        });
        let why = |link: &LinkState| link.trouble.clone().unwrap_or_default();
        refused
            .map(|((peer, ..), link)| (*peer, why(link)))
            .collect()
    }

    /// Returns what tells whether the node ended by itself.
    pub fn ending(&self) -> Ending {
        self.ending.clone()
    }

    /// Returns what changes whenever a conversation with a peer begins.
    pub fn arrivals(&self) -> watch::Receiver<u64> {
        self.inner.begun.subscribe()
    }

    /// Returns what changes whenever the store keeps something else of the node: whom it let in, for one.
    pub fn changes(&self) -> watch::Receiver<Arc<Records>> {
        self.inner.records.subscribe()
    }

    /// Returns what changes whenever the status may have.
    pub fn stirs(&self) -> watch::Receiver<u64> {
        self.inner.stirred.subscribe()
    }

    /// Tells a peer how many contents of a bucket this node lacks, knowing what `state` stands for. Says
    /// nothing where the peer was told so already. Does not wait until it is said.
    pub fn tell_lacks(&self, link: &Link, lacks: Lacks) {
        self.inner.tell_lacks(link, lacks);
    }

    /// Returns how many bytes went over the connections with peers since the node started, both ways:
    /// all that UDP carried of them, content aside.
    pub fn traffic(&self) -> u64 {
        let connections = self.inner.connections.lock();
        let open = connections.values().map(|held| bytes(&held.connection));
        open.sum::<u64>() + self.inner.past.load(Ordering::Relaxed)
    }

    /// Returns since when there is the connection with a peer that there is now.
    pub fn connected_since(&self, peer: EndpointId) -> Option<Instant> {
        let connections = self.inner.connections.lock();
        let held = connections.get(&peer)?;
        let open = held.connection.close_reason().is_none();
        open.then_some(held.since)
    }

    /// Closes the connection with a peer, so that a new one is made. To be called where none can be made
    /// beside it: all go the way of the one that there is, which leads nowhere where the peer has moved
    /// since it was found.
    pub fn part_with(&self, peer: EndpointId) {
        if let Some(held) = self.inner.connections.lock().get(&peer) {
            let reason = b"a new connection has to be made";
            held.connection.close(Code::Replaced.into(), reason);
        }
    }

    /// Returns the peers that converse with this node about a bucket now.
    pub fn peers_on(&self, bucket: BucketUid) -> Vec<EndpointId> {
        let links = self.inner.links.lock();
        let live = links.iter().filter(|(_, link)| link.live.is_some());
        let on = live.filter(|((_, of, _), _)| *of == bucket);
        let mut peers: Vec<_> = on.map(|((peer, ..), _)| *peer).collect();
        peers.dedup();
        peers
    }

    /// Returns the members of a bucket of which it is known where they are, but for those that this node
    /// connects with anyway.
    pub fn members_of(&self, bucket: BucketUid) -> Vec<EndpointId> {
        let (records, circle) = (self.inner.records(), self.inner.circle.borrow());
        let reachable = |id: &EndpointId| {
            let known = records.peer(*id).map(Known::addr);
            known.is_some_and(|addr| !addr.is_empty()) && !records.is_direct(*id, bucket, now())
        };
        circle.members(bucket).filter(reachable).collect()
    }

    /// Ends all conversations and connections, and waits until nothing of the node works any more.
    pub async fn stop(mut self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        // What the other sides are told has to get onto its way.
        let _ = timeout(Duration::from_secs(2), self.inner.tasks.wait()).await;
        // A connection that was being made to a node that is away would take seconds to end.
        if let Ok(Err(e)) = timeout(CLOSING, self.router.shutdown()).await {
            tracing::warn!("the endpoint did not stop in order: {e}");
        }
        let watcher = self.watcher.take();
        let drivers = std::mem::take(&mut *self.inner.drivers.lock());
        let ended = tokio::task::spawn_blocking(move || {
            for (_, (driver, thread)) in drivers {
                driver.tell(Command::Stop);
                // A thread that panicked has reported that itself.
                let _ = thread.join();
            }
            let _ = watcher.map(thread::JoinHandle::join);
        });
        let _ = ended.await;
        let status = self.inner.status(false).await;
        if let Err(e) = status.save(&*self.inner.store) {
            tracing::debug!("the last status was not kept: {e}");
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.inner.stop.cancel();
        for (driver, _) in self.inner.drivers.lock().values() {
            driver.tell(Command::Stop);
        }
    }
}

async fn bind(
    key: SecretKey,
    options: &NetOptions,
    last: Option<u16>,
    gate: &Gate,
) -> Result<Endpoint> {
    let ports = match (options.port, last) {
        (Some(port), _) => vec![port],
        // Whoever listened on it before may be about to end.
        (None, Some(port)) => vec![port, port, port, port, 0],
        (None, None) => vec![free_port(options), 0],
    };
    let mut failed = None;
    for (n, port) in ports.into_iter().enumerate() {
        if n > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        let bound = match builder(&key, options, port) {
            Ok(builder) => builder
                .hooks(gate.clone())
                .bind()
                .await
                .map_err(|e| e.to_string()),
            Err(e) => Err(e),
        };
        match bound {
            Ok(endpoint) => return Ok(endpoint),
            Err(e) => failed = Some(e),
        }
    }
    let why = failed.unwrap_or_default();
    let detail = match options.port {
        Some(port) => format!(
            "the node cannot listen on UDP port {port}: choose another port, or stop what uses it"
        ),
        None => "the node cannot listen on any UDP port".to_owned(),
    };
    Err(Error::with_detail(ErrorKind::Io, detail).source(why))
}

/// Returns a port that is free: both kinds of addresses get the same, and so keep it when the node runs
/// again.
fn free_port(options: &NetOptions) -> u16 {
    let ip = match options.bind {
        Bind::Everywhere => Ipv4Addr::UNSPECIFIED,
        Bind::Loopback => Ipv4Addr::LOCALHOST,
    };
    let found = UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr());
    found.map_or(0, |addr| addr.port())
}

fn builder(key: &SecretKey, options: &NetOptions, port: u16) -> Result<Builder, String> {
    let mut sizes = MtuDiscoveryConfig::default();
    sizes.minimum_change(PACKETS);
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .mtu_discovery_config(Some(sizes))
        .build();
    let builder = match &options.relays {
        Relays::None => Endpoint::builder(presets::Minimal),
        Relays::N0 => Endpoint::builder(presets::N0),
        Relays::Custom(urls) => {
            Endpoint::builder(presets::Minimal).relay_mode(RelayMode::custom(urls.clone()))
        }
    };
    let builder = builder
        .secret_key(key.clone())
        .transport_config(transport)
        .clear_ip_transports();
    let bound = match options.bind {
        // One way is enough within a machine.
        Bind::Loopback => builder.bind_addr(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Bind::Everywhere => {
            // Not every machine has it.
            let optional = BindOpts::default().set_is_required(false);
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let v4 = builder.bind_addr(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
            v4.and_then(|builder| builder.bind_addr_with_opts(v6, optional))
        }
    };
    bound.map_err(|e| e.to_string())
}

/// Finds out where a node that does not run will be reached, and keeps that: its port is its own from
/// now on.
///
/// # Errors
/// As [`Net::start`].
pub async fn reserve(store: Arc<dyn Store>, key: SecretKey, options: &NetOptions) -> Result<()> {
    let read = Arc::clone(&store);
    let records = blocking(move || Records::load(&*read.read()?)).await?;
    let endpoint = bind(key, options, records.port, &Gate::default()).await?;
    let addrs = Addrs::of(&addr(&endpoint, options));
    let port = endpoint.bound_sockets().first().map(SocketAddr::port);
    endpoint.close().await;
    blocking(move || {
        Records::update(&*store, Durability::Full, |records, _| {
            (records.port, records.addrs) = (port, addrs);
            Ok(())
        })
    })
    .await
}

/// Returns how an endpoint can be reached, also by others on the same machine.
fn addr(endpoint: &Endpoint, options: &NetOptions) -> EndpointAddr {
    let mut addr = endpoint.addr();
    for socket in endpoint.bound_sockets() {
        let ip = match socket.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let socket = SocketAddr::new(ip, socket.port());
        addr.addrs.insert(TransportAddr::Ip(socket));
    }
    if let Relays::Custom(urls) = &options.relays
        && addr.relay_urls().next().is_none()
    {
        // One of them it will be: a ticket made before that is known leads there too.
        let urls = urls.iter().cloned().map(TransportAddr::Relay);
        addr.addrs.extend(urls);
    }
    addr
}

/// Runs what blocks on a thread for such work.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<R> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(ErrorKind::Io).source(e)),
    }
}

/// Returns times that grow, each by chance up to twice as long, so that many nodes do not try at once.
fn backoff(first: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(LONGEST / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

#[derive(Debug)]
struct Handler(Arc<Inner>);

impl ProtocolHandler for Handler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        Arc::clone(&self.0).serve(connection, false).await;
        Ok(())
    }

    async fn shutdown(&self) {
        self.0.stop.cancel();
    }
}

impl Inner {
    /// Runs a task until the node stops.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks
            .spawn(async move { stop.run_until_cancelled(task).await });
    }

    fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records.borrow())
    }

    fn call(&self, peer: EndpointId) -> String {
        self.records().call(peer)
    }

    /// Returns what a peer is called in the log.
    fn label(&self, peer: EndpointId) -> String {
        self.records().label(peer)
    }

    /// Changes what the store keeps of the node, where there is anything to change.
    async fn update(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Records) + Send + 'static,
    ) -> Result<()> {
        let this = Arc::clone(self);
        blocking(move || this.change(change)).await
    }

    /// Does so on a thread that may block.
    fn change<R>(&self, change: impl FnOnce(&mut Records) -> R) -> Result<R> {
        let _in_order = self.publishing.lock();
        let (result, records) = Records::update(&*self.store, Durability::Full, |records, _| {
            Ok((change(records), records.clone()))
        })?;
        self.publish(records);
        Ok(result)
    }

    fn publish(&self, records: Records) {
        self.records.send_if_modified(|current| {
            let differs = **current != records;
            if differs {
                *current = Arc::new(records);
            }
            differs
        });
    }

    /// Takes in what other processes changed of what the store keeps of the node.
    fn reload(&self) -> Result<()> {
        let _in_order = self.publishing.lock();
        self.publish(Records::load(&*self.store.read()?)?);
        Ok(())
    }

    /// Keeps where the node is, for tickets that are made while it does not run.
    async fn remember_addrs(self: &Arc<Self>) -> Result<()> {
        let addrs = Addrs::of(&addr(&self.endpoint, &self.options));
        let sockets = self.endpoint.bound_sockets();
        let port = sockets.first().map(SocketAddr::port);
        let records = self.records();
        if records.port == port && records.addrs == addrs {
            return Ok(());
        }
        self.update(move |records| {
            records.port = port;
            records.addrs = addrs;
        })
        .await
    }

    /// Has it kept where the node is whenever that changes: its relay is known only after a while.
    async fn follow_addrs(self: Arc<Self>) {
        let mut addrs = self.endpoint.watch_addr();
        while addrs.updated().await.is_ok() {
            stir(&self.stirred);
        }
    }

    /// Follows the commits of all processes. Ends when the node stops.
    ///
    /// # Errors
    /// Where commits are not noticed any more.
    fn watch(&self) -> Result<()> {
        let mut seen = 0;
        let mut stored = None;
        let mut rest = Rest::new(4, 128, WATCHING);
        while !self.stop.is_cancelled() {
            match self.store.wait_for_commit(seen, Duration::from_millis(200)) {
                Ok(count) if count == seen => continue,
                Ok(count) => seen = count,
                Err(e) => {
                    tracing::error!("commits are not noticed any more: {e}");
                    return Err(e);
                }
            }
            let begun = Instant::now();
            if let Err(e) = self.reread(&mut stored) {
                tracing::warn!("what the store keeps of the node was not read: {e}");
            }
            self.drivers
                .lock()
                .retain(|_, (driver, _)| driver.committed());
            rest.pause(begun.elapsed(), thread::sleep, || {
                let now = self.store.wait_for_commit(seen, Duration::ZERO);
                now.is_ok_and(|now| now != seen)
            });
        }
        Ok(())
    }

    fn reread(&self, stored: &mut Option<Vec<u8>>) -> Result<()> {
        let _in_order = self.publishing.lock();
        let txn = self.store.read()?;
        let bytes = Records::stored(&*txn)?;
        if bytes == *stored {
            return Ok(());
        }
        if let Some(bytes) = &bytes {
            self.publish(Records::decode(bytes)?);
        }
        *stored = bytes;
        Ok(())
    }

    /// Says on the local network where this node is, and notes which peers are found there.
    async fn look_around(self: Arc<Self>) {
        let Some(found) = &self.found else {
            return;
        };
        let builder = MdnsAddressLookup::builder().service_name(SERVICE);
        let mdns = match builder.build(self.endpoint.id()) {
            Ok(mdns) => mdns,
            Err(e) => {
                tracing::warn!("peers are not looked for on the local network: {e}");
                return;
            }
        };
        let Ok(lookups) = self.endpoint.address_lookup() else {
            return;
        };
        lookups.add(mdns.clone());
        let mut events = mdns.subscribe().await;
        while let Some(event) = events.next().await {
            if let DiscoveryEvent::Discovered { endpoint_info, .. } = event {
                let peer = endpoint_info.endpoint_id;
                if self.knows(peer) {
                    tracing::debug!(peer = %self.label(peer), "found on the local network");
                    found.send_modify(|found| {
                        found.insert(peer, Instant::now());
                    });
                }
            }
        }
    }

    /// Waits until a peer is found on the local network that was not there at a time.
    async fn found_since(&self, peer: EndpointId, since: Instant) {
        let Some(found) = &self.found else {
            return std::future::pending().await;
        };
        let is_new =
            |found: &HashMap<EndpointId, Instant>| found.get(&peer).is_some_and(|at| *at > since);
        let _ = found.subscribe().wait_for(is_new).await;
    }

    /// Keeps a task for each peer and each joined bucket.
    async fn manage(self: Arc<Self>) {
        let mut records = self.records.subscribe();
        let mut dialled: HashMap<EndpointId, CancellationToken> = HashMap::new();
        let mut asked: HashMap<LinkKey, (Vec<Joined>, CancellationToken)> = HashMap::new();
        loop {
            let current = Arc::clone(&records.borrow_and_update());
            let mut wanted: HashSet<EndpointId> = HashSet::new();
            let mut joined: HashMap<LinkKey, Vec<Joined>> = HashMap::new();
            let at = now();
            let heard = current.joined.iter();
            for join in heard.filter(|join| !current.is_silent(join, at)) {
                wanted.insert(join.peer);
                let key = (join.peer, join.bucket, Role::Taker);
                joined.entry(key).or_default().push(join.clone());
            }
            for grant in &current.grants {
                let keys = grant.keys.iter().filter(|key| key.revoked.is_none());
                let reachable = |id: &EndpointId| {
                    self.found.is_some() || current.peer(*id).is_some_and(|p| !p.addrs.is_empty())
                };
                if grant.over(at).is_none() {
                    wanted.extend(keys.map(|key| key.peer).filter(reachable));
                }
            }
            dialled.retain(|peer, token| wanted.contains(peer) || cancel(token));
            asked.retain(|key, (join, token)| joined.get(key) == Some(join) || cancel(token));
            for peer in wanted {
                dialled.entry(peer).or_insert_with(|| {
                    let takes = current.joined.iter().any(|join| join.peer == peer);
                    self.spawn_until(Arc::clone(&self).keep_connected(peer, takes))
                });
            }
            for (key, join) in joined {
                asked.entry(key).or_insert_with(|| {
                    let task = Arc::clone(&self).keep_asking(key, join.clone());
                    (join, self.spawn_until(task))
                });
            }
            let kept = |(peer, bucket, role): &LinkKey| match role {
                Role::Taker => asked.contains_key(&(*peer, *bucket, *role)),
                Role::Giver => current
                    .grants
                    .iter()
                    .any(|grant| grant.bucket == *bucket && grant.key(*peer).is_some()),
                // They go when their conversations do.
                Role::Member => true,
            };
            self.links.lock().retain(|key, _| kept(key));
            stir(&self.stirred);
            let given = current.grants.iter().filter_map(|grant| grant.expires);
            let ends = given.chain(current.joined.iter().filter_map(|join| join.expires));
            let longest = Duration::from_secs(24 * 3600);
            let next = ends.filter(|end| *end > at).min();
            let left = next.map_or(longest, until).min(longest);
            tokio::select! {
                changed = records.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(left) => {}
            }
        }
    }

    /// Runs a task until the returned token is cancelled, or the node stops.
    fn spawn_until(
        self: &Arc<Self>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> CancellationToken {
        let token = self.stop.child_token();
        let until = token.clone();
        self.tasks
            .spawn(async move { until.run_until_cancelled(task).await });
        token
    }

    fn live(&self, peer: EndpointId) -> Option<Connection> {
        let connections = self.connections.lock();
        let held = connections.get(&peer)?;
        let connection = &held.connection;
        connection
            .close_reason()
            .is_none()
            .then(|| connection.clone())
    }

    /// Waits for a connection with a peer.
    async fn connection(&self, peer: EndpointId) -> Connection {
        loop {
            let arrived = self.arrived.notified();
            if let Some(connection) = self.live(peer) {
                return connection;
            }
            arrived.await;
        }
    }

    /// Takes a connection for the one with its peer, unless two nodes dialled each other and the
    /// other one stays: that which the smaller key dialled.
    fn register(&self, connection: &Connection, dialled: bool) -> bool {
        let peer = connection.remote_id();
        let mut connections = self.connections.lock();
        if let Some(held) = connections.get(&peer)
            && held.connection.close_reason().is_none()
        {
            let at_once = held.dialled != dialled && held.since.elapsed() < AT_ONCE;
            if at_once && held.dialled == (self.endpoint.id() < peer) {
                connection.close(Code::Replaced.into(), b"another connection stays");
                return false;
            }
            let reason = b"another connection takes its place";
            held.connection.close(Code::Replaced.into(), reason);
        }
        let held = Held {
            connection: connection.clone(),
            dialled,
            since: Instant::now(),
        };
        if let Some(before) = connections.insert(peer, held) {
            self.past
                .fetch_add(bytes(&before.connection), Ordering::Relaxed);
        }
        drop(connections);
        self.arrived.notify_waiters();
        true
    }

    /// Dials a peer again and again for as long as there is no connection.
    async fn keep_connected(self: Arc<Self>, peer: EndpointId, takes: bool) {
        // A node that was given something comes by itself; it is dialled where it may have missed
        // that this one moved.
        let first = Duration::from_millis(if takes { 200 } else { 3000 });
        let mut waits = backoff(first);
        if !takes {
            let _ = timeout(first, self.connection(peer)).await;
        }
        let mut dialled = Instant::now();
        let mut records = self.records.subscribe();
        loop {
            records.mark_unchanged();
            if let Some(connection) = self.live(peer) {
                let begun = Instant::now();
                connection.closed().await;
                if begun.elapsed() > LASTED {
                    waits = backoff(first);
                }
            } else {
                dialled = Instant::now();
                let why = match self.dial(peer).await {
                    Ok(()) => continue,
                    Err(why) => why,
                };
                tracing::debug!(peer = %self.label(peer), "not reached: {why}");
                self.note_unreached(peer, &why);
            }
            let is_refused = self.is_refused(peer);
            let wait = match is_refused {
                true => REFUSED,
                false => waits.next().unwrap_or(REFUSED),
            };
            tokio::select! {
                _ = timeout(wait, self.connection(peer)) => {}
                () = self.found_since(peer, dialled) => waits = backoff(first),
                _ = records.changed(), if is_refused => waits = backoff(first),
            }
        }
    }

    async fn dial(self: &Arc<Self>, peer: EndpointId) -> Result<(), String> {
        let records = self.records();
        let known = records.peer(peer).map(|known| known.addrs.clone());
        let addr = known.unwrap_or_default().with_id(peer);
        let dialling = timeout(DIALLING, self.endpoint.connect(addr, ALPN));
        let connection = match dialling.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => return Err(format!("not reachable: {e}")),
            Err(_) => return Err("not reachable: no answer".to_owned()),
        };
        self.spawn(Arc::clone(self).serve(connection.clone(), true));
        // Registered by the task; until then the connection counts as there.
        while self.live(peer).is_none() && connection.close_reason().is_none() {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn tell_lacks(self: &Arc<Self>, link: &Link, lacks: Lacks) {
        let role = link.role();
        let said = Some((link.state, lacks));
        {
            let mut links = self.links.lock();
            let known = links.get_mut(&(link.peer, link.bucket, role));
            match known.filter(|known| known.live.is_some() && known.told != said) {
                Some(known) => known.told = said,
                None => return,
            }
        }
        let word = Word::Lacking(Lacking {
            bucket: link.bucket,
            role,
            state: link.state,
            lacks,
        });
        let (this, peer) = (Arc::clone(self), link.peer);
        self.spawn(async move {
            this.tell_word(peer, &word).await;
        });
    }

    /// Says something to a peer on a stream of its own. Returns whether it could.
    async fn tell_word(&self, peer: EndpointId, word: &Word) -> bool {
        let Some(connection) = self.live(peer) else {
            return false;
        };
        let telling = async {
            let mut send = connection.open_uni().await.map_err(|e| e.to_string())?;
            let bytes = word.encode();
            send.write_all(&bytes).await.map_err(|e| e.to_string())?;
            send.finish().map_err(|e| e.to_string())
        };
        match timeout(GREETING, telling).await {
            Ok(Ok(())) => return true,
            Ok(Err(why)) => tracing::debug!("a peer was not told something: {why}"),
            Err(_) => tracing::debug!("a peer was not told something in time"),
        }
        false
    }

    /// Takes in what a peer says on streams of their own, until the connection is closed.
    async fn hear_words(self: Arc<Self>, connection: Connection) {
        let peer = connection.remote_id();
        while let Ok(mut recv) = connection.accept_uni().await {
            let Ok(Some(word)) = timeout(GREETING, Word::read(&mut recv)).await else {
                self.blame(peer, "it said nonsense");
                let _ = recv.stop(Code::Protocol.into());
                continue;
            };
            match word {
                Word::Lacking(said) => self.hear_lacks(peer, &said),
                Word::Members(said) => self.hear_members(peer, said).await,
            }
        }
    }

    fn hear_lacks(&self, peer: EndpointId, said: &Lacking) {
        let role = match said.role {
            Role::Giver => Role::Taker,
            Role::Taker => Role::Giver,
            Role::Member => Role::Member,
        };
        let mut links = self.links.lock();
        if let Some(link) = links.get_mut(&(peer, said.bucket, role))
            && link.live.is_some()
        {
            link.lacks = Some((said.state, said.lacks));
            drop(links);
            stir(&self.stirred);
        }
    }

    fn note_unreached(&self, peer: EndpointId, why: &str) {
        let mut links = self.links.lock();
        for join in self.records().joined.iter().filter(|j| j.peer == peer) {
            let link = links.entry((peer, join.bucket, Role::Taker)).or_default();
            // It may have come here meanwhile.
            if link.live.is_none() {
                (link.trouble, link.refused) = (Some(why.to_owned()), None);
            }
        }
        stir(&self.stirred);
    }

    /// Answers the streams of a connection until it is closed.
    async fn serve(self: Arc<Self>, connection: Connection, dialled: bool) {
        let peer = connection.remote_id();
        let mut stranger = None;
        if !dialled && !self.lets_in(peer) {
            match Arc::clone(&self.strangers).try_acquire_owned() {
                Ok(permit) => stranger = Some(permit),
                Err(_) => {
                    self.blame(peer, "too many unknown nodes connect");
                    connection.close(Code::Stopping.into(), b"too many connections");
                    return;
                }
            }
        } else if !self.register(&connection, dialled) {
            return;
        }
        let hearing = self.stop.child_token();
        let _heard = hearing.clone().drop_guard();
        let heard = Arc::clone(&self).hear_words(connection.clone());
        self.tasks
            .spawn(async move { hearing.run_until_cancelled(heard).await });
        let let_in = Arc::new(Notify::new());
        let patience = sleep(GREETING);
        let out = self.until_out(peer);
        tokio::pin!(patience, out);
        loop {
            tokio::select! {
                stream = connection.accept_bi() => {
                    let Ok((send, recv)) = stream else { return };
                    let task = Arc::clone(&self).answer(connection.clone(), send, recv, Arc::clone(&let_in));
                    self.tasks.spawn(task);
                }
                () = let_in.notified(), if stranger.is_some() => {
                    stranger = None;
                    if !self.register(&connection, dialled) {
                        return;
                    }
                }
                () = &mut patience, if stranger.is_some() => {
                    self.blame(peer, "an unknown node was not let in in time");
                    connection.close(Code::Protocol.into(), b"nothing was asked for in time");
                    return;
                }
                () = &mut out, if stranger.is_none() => {
                    let _ = timeout(LAST_WORDS, connection.closed()).await;
                    connection.close(Code::Revoked.into(), b"nothing lets you in any more");
                    return;
                }
                () = self.stop.cancelled() => {
                    let _ = timeout(LAST_WORDS, connection.closed()).await;
                    connection.close(Code::Stopping.into(), b"the node stops");
                    return;
                }
            }
        }
    }

    /// Waits until a peer that this node once let in, or out, takes part in nothing any more.
    async fn until_out(&self, peer: EndpointId) {
        let (mut records, mut circle) = (self.records.subscribe(), self.circle.subscribe());
        loop {
            let current = Arc::clone(&records.borrow_and_update());
            circle.mark_unchanged();
            let at = now();
            if !self.lets_in(peer) && current.is_acquainted(peer) {
                return;
            }
            let ends = current
                .grants_of(peer, at)
                .filter_map(|grant| grant.expires);
            let longest = Duration::from_secs(24 * 3600);
            let left = ends.min().map_or(longest, until).min(longest);
            let changed = tokio::select! {
                changed = records.changed() => changed,
                changed = circle.changed() => changed,
                () = sleep(left) => Ok(()),
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Tells whether a peer refuses all that was joined from it, and nothing was given to it.
    fn is_refused(&self, peer: EndpointId) -> bool {
        let records = self.records();
        if records.grants_of(peer, now()).next().is_some() {
            return false;
        }
        let links = self.links.lock();
        let of = links
            .iter()
            .filter(|((who, _, role), _)| (*who, *role) == (peer, Role::Taker));
        let mut of = of.peekable();
        of.peek().is_some()
            && of.all(|((_, bucket, _), link)| link.is_refused(&records, peer, *bucket))
    }

    /// Tells whether anything lets a peer in, or something was joined from it.
    fn lets_in(&self, peer: EndpointId) -> bool {
        self.records().takes_part(peer, now()) || self.is_member(peer)
    }

    /// Answers a stream that a peer opened.
    async fn answer(
        self: Arc<Self>,
        connection: Connection,
        mut send: SendStream,
        mut recv: RecvStream,
        let_in: Arc<Notify>,
    ) {
        let peer = connection.remote_id();
        let question = wire::read(&mut recv, wire::MAX_HELLO);
        let question = tokio::select! {
            question = timeout(GREETING, question) => question,
            () = self.stop.cancelled() => return end(&mut send, &mut recv, Code::Stopping),
        };
        let refusal = match question {
            Ok(Ok(bytes)) => match wire::hello(&bytes) {
                Ok(hello) => match self.welcome(peer, &hello).await {
                    Ok(Ok(admitted)) => {
                        let_in.notify_one();
                        self.give(peer, admitted, &hello, send, recv).await;
                        return;
                    }
                    Ok(Err(refusal)) => refusal,
                    Err(e) => {
                        tracing::warn!(peer = %self.label(peer), "not answered: {e}");
                        return end(&mut send, &mut recv, Code::Store);
                    }
                },
                Err(refusal) => refusal,
            },
            Ok(Err(lost)) => {
                match lost {
                    Lost::Malformed(_) => {
                        self.blame(peer, format_args!("a stream began with nonsense: {lost}"));
                    }
                    _ => self.remark(peer, format_args!("a stream did not begin: {lost}")),
                }
                return end(&mut send, &mut recv, Code::Protocol);
            }
            Err(_) => {
                self.blame(peer, "a stream did not say what it is for");
                return end(&mut send, &mut recv, Code::Protocol);
            }
        };
        self.refuse(peer, refusal, send, recv).await;
    }

    /// Says that a peer is not let in.
    async fn refuse(
        &self,
        peer: EndpointId,
        refusal: Refusal,
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        match refusal {
            Refusal::Busy => tracing::debug!(peer = %self.label(peer), "a peer is to ask later"),
            _ => self.blame(peer, format_args!("a peer was refused: {refusal:?}")),
        }
        let answer = Answer::Refused {
            reason: refusal,
            versions: vec![PROTOCOL],
        };
        let _ = recv.stop(Code::Protocol.into());
        if timeout(GREETING, wire::greet(&mut send, &answer))
            .await
            .is_ok()
        {
            let _ = send.finish();
            let _ = timeout(GREETING, send.stopped()).await;
        }
    }

    /// Finds what lets a peer in, and notes what is new of it.
    async fn welcome(
        self: &Arc<Self>,
        peer: EndpointId,
        hello: &Hello,
    ) -> Result<Admission<Admitted>> {
        if hello.version().is_none() {
            return Ok(Err(Refusal::Version));
        }
        match hello.allows {
            None => {
                let grant = self.welcome_by_grant(peer, hello).await?;
                Ok(grant.map(Admitted::Grant))
            }
            Some(_) => {
                let access = self.welcome_member(peer, hello).await?;
                Ok(access.map(Admitted::Member))
            }
        }
    }

    async fn welcome_by_grant(
        self: &Arc<Self>,
        peer: EndpointId,
        hello: &Hello,
    ) -> Result<Admission<Allowed>> {
        let (bucket, addrs) = (hello.bucket, hello.addrs.clone());
        let tickets = hello.tickets.clone();
        let mut records = self.records();
        let mut grants = records.grants.clone();
        let mut admitted = admit(&mut grants, bucket, peer, &tickets, now());
        if admitted.is_err() {
            // The grant may have been given just now.
            let this = Arc::clone(self);
            blocking(move || this.reload()).await?;
            records = self.records();
            grants.clone_from(&records.grants);
            admitted = admit(&mut grants, bucket, peer, &tickets, now());
        }
        let Ok(allowed) = admitted else {
            return Ok(admitted);
        };
        let is_new = records
            .peer(peer)
            .is_none_or(|known| known.addrs != addrs || !known.met);
        if grants == records.grants && !is_new && records == self.records() {
            return Ok(Ok(allowed));
        }
        // What is read may have changed since, so the answer is found again where it is written.
        let this = Arc::clone(self);
        blocking(move || {
            this.change(|records| {
                let grants = &mut records.grants;
                let answer = admit(grants, bucket, peer, &tickets, now());
                if answer.is_ok() {
                    records.met(peer, addrs);
                }
                answer
            })
        })
        .await
    }

    /// Leads a conversation that a peer asked for.
    async fn give(
        self: &Arc<Self>,
        peer: EndpointId,
        admitted: Admitted,
        hello: &Hello,
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        let bucket = hello.bucket;
        let (role, terms, whole) = match &admitted {
            Admitted::Grant(allowed) => (
                Role::Giver,
                OpenTerms::Giver(allowed.clone()),
                allowed.whole.is_some(),
            ),
            Admitted::Member(access) => {
                let sends = hello.allows == Some(Access::Write);
                let takes = *access == Access::Write;
                (Role::Member, OpenTerms::Member { sends, takes }, true)
            }
        };
        let begun = match self.begin(bucket, terms).await {
            Ok(begun) => begun,
            Err(e) if is_deleted(&e) => {
                return self.refuse(peer, Refusal::Unknown, send, recv).await;
            }
            Err(e) => {
                tracing::warn!(peer = %self.label(peer), "not answered: {e}");
                return end(&mut send, &mut recv, Code::Store);
            }
        };
        let access = match &admitted {
            // A branch that was given may be gone, and with it what was allowed there.
            Admitted::Grant(_) => begun.opened.cover.most(),
            Admitted::Member(access) => *access,
        };
        self.note_replica(peer, bucket, hello.replica).await;
        let statements = self.statements(bucket, whole);
        let welcome = Answer::Welcome(Welcome {
            version: PROTOCOL,
            access,
            scopes: Scopes::of(&begun.opened.cover),
            addrs: Addrs::of(&addr(&self.endpoint, &self.options)),
            replica: begun.driver.replica,
            statements,
        });
        let greeted = timeout(GREETING, wire::greet(&mut send, &welcome)).await;
        if !matches!(greeted, Ok(Ok(()))) {
            begun.driver.tell(Command::Closed(begun.id));
            return end(&mut send, &mut recv, Code::Protocol);
        }
        let key = (peer, bucket, role);
        let theirs = hello.statements.filter(|_| statements.is_some());
        let streams = (send, recv);
        let outcome = match admitted {
            Admitted::Grant(allowed) => {
                let over = self.until_over(peer, bucket, allowed);
                self.converse(key, access, begun, theirs, streams, over)
                    .await
            }
            Admitted::Member(access) => {
                let lets = hello.allows.unwrap_or(Access::Read);
                let over = self.until_no_member(peer, bucket, access);
                self.converse(key, lets, begun, theirs, streams, over).await
            }
        };
        self.note(key, None, outcome);
    }

    /// Waits until a peer may do nothing any more, or something else.
    async fn until_over(
        self: &Arc<Self>,
        peer: EndpointId,
        bucket: BucketUid,
        allowed: Allowed,
    ) -> Code {
        let mut records = self.records.subscribe();
        loop {
            let mut grants = records.borrow_and_update().grants.clone();
            let current = match admit(&mut grants, bucket, peer, &[], now()) {
                Ok(current) if current.is_as_much_as(&allowed) => current,
                Ok(_) => return Code::Changed,
                Err(Refusal::Revoked) => return Code::Revoked,
                Err(Refusal::Expired) => return Code::Expired,
                Err(_) => return Code::Stopping,
            };
            let longest = Duration::from_secs(24 * 3600);
            let left = current.ends.map_or(longest, until).min(longest);
            tokio::select! {
                changed = records.changed() => {
                    if changed.is_err() {
                        return Code::Stopping;
                    }
                }
                () = sleep(left) => {}
            }
        }
    }

    /// Asks for a joined bucket again and again, with all tickets for it that its giver gave.
    async fn keep_asking(self: Arc<Self>, key: LinkKey, joined: Vec<Joined>) {
        let (peer, bucket, _) = key;
        let tickets = joined.iter().map(|join| (join.grant, join.secret.clone()));
        let tickets: Vec<_> = tickets.collect();
        let newest = joined.last().map(|join| join.grant);
        let whole = joined.iter().any(|join| join.branches.is_empty());
        let first = Duration::from_millis(200);
        let mut waits = backoff(first);
        let mut prompts = Quota::new(PROMPTS.0, PROMPTS.1);
        let mut records = self.records.subscribe();
        loop {
            let connection = self.connection(peer).await;
            let begun = Instant::now();
            let asking = Asking {
                peer,
                bucket,
                tickets: tickets.clone(),
                allows: None,
                whole,
            };
            let outcome = self.ask(&connection, &asking).await;
            if begun.elapsed() > LASTED {
                waits = backoff(first);
            }
            let wait = match &outcome {
                Outcome::Refused(refusal) if refusal.is_final() => REFUSED,
                Outcome::Lost(Lost::Ended(Some(code)))
                    if code.is_prompt() && prompts.take(Instant::now()) =>
                {
                    first
                }
                _ => waits.next().unwrap_or(REFUSED),
            };
            self.note(key, newest, outcome);
            records.mark_unchanged();
            tokio::select! {
                () = sleep(wait) => {}
                _ = records.changed() => sleep(first).await,
                _ = connection.closed(), if wait == REFUSED => sleep(first).await,
            }
        }
    }

    async fn ask(self: &Arc<Self>, connection: &Connection, asking: &Asking) -> Outcome {
        let (peer, bucket) = (asking.peer, asking.bucket);
        let (mut send, mut recv) = match connection.open_bi().await {
            Ok(stream) => stream,
            Err(e) => return Outcome::Lost(Lost::Connection(e.to_string())),
        };
        let own = match self.driver_of(bucket).await {
            Ok((_, driver)) => driver.replica,
            Err(e) => {
                end(&mut send, &mut recv, Code::Store);
                return Outcome::Failed(e);
            }
        };
        let statements = self.statements(bucket, asking.whole);
        let hello = Hello {
            versions: vec![PROTOCOL],
            bucket,
            tickets: asking.tickets.clone(),
            addrs: Addrs::of(&addr(&self.endpoint, &self.options)),
            replica: own,
            statements,
            allows: asking.allows,
        };
        let greeting = async {
            wire::greet(&mut send, &hello)
                .await
                .map_err(Greeting::Lost)?;
            wire::hear::<Answer>(&mut recv, wire::MAX_ANSWER).await
        };
        let nonsense = |send: &mut SendStream, recv: &mut RecvStream| {
            end(send, recv, Code::Protocol);
            Outcome::Lost(Lost::Malformed("it answered with nonsense"))
        };
        let welcome = match timeout(DIALLING, greeting).await {
            Ok(Ok(Answer::Welcome(welcome))) => welcome,
            Ok(Ok(Answer::Refused { reason, .. })) => return Outcome::Refused(reason),
            Ok(Err(Greeting::Lost(lost))) => {
                end(&mut send, &mut recv, Code::Protocol);
                return Outcome::Lost(lost);
            }
            Ok(Err(Greeting::Version)) => return Outcome::Refused(Refusal::Version),
            Ok(Err(Greeting::Malformed)) => return nonsense(&mut send, &mut recv),
            Err(_) => {
                end(&mut send, &mut recv, Code::Protocol);
                return Outcome::Lost(Lost::Malformed("it did not answer in time"));
            }
        };
        let Some(cover) = welcome.cover().filter(|_| welcome.version == PROTOCOL) else {
            return nonsense(&mut send, &mut recv);
        };
        let terms = match asking.allows {
            None => OpenTerms::Taker(cover),
            Some(allows) => OpenTerms::Member {
                sends: welcome.access == Access::Write,
                takes: allows == Access::Write,
            },
        };
        let begun = match self.begin(bucket, terms).await {
            Ok(begun) => begun,
            Err(e) => {
                end(&mut send, &mut recv, Code::Store);
                return Outcome::Failed(e);
            }
        };
        self.note_replica(peer, bucket, welcome.replica).await;
        self.note_addrs(peer, welcome.addrs).await;
        let theirs = welcome.statements.filter(|_| statements.is_some());
        let (access, streams) = (welcome.access, (send, recv));
        match asking.allows {
            None => {
                let key = (peer, bucket, Role::Taker);
                // The task that runs this is ended where the joined bucket is given up.
                let never = std::future::pending();
                self.converse(key, access, begun, theirs, streams, never)
                    .await
            }
            Some(allows) => {
                let key = (peer, bucket, Role::Member);
                let over = self.until_no_member(peer, bucket, allows);
                self.converse(key, access, begun, theirs, streams, over)
                    .await
            }
        }
    }

    /// Keeps where a peer says that it is.
    async fn note_addrs(self: &Arc<Self>, peer: EndpointId, addrs: Addrs) {
        let records = self.records();
        let known = records.peer(peer);
        if addrs.is_empty() || known.is_some_and(|known| known.met && known.addrs == addrs) {
            return;
        }
        let noted = self.update(move |records| records.met(peer, addrs));
        if let Err(e) = noted.await {
            tracing::debug!("where a peer is was not kept: {e}");
        }
    }

    /// Begins a conversation with the driver of its bucket.
    async fn begin(self: &Arc<Self>, uid: BucketUid, terms: OpenTerms) -> Result<Begun> {
        let (bucket, driver) = self.driver_of(uid).await?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (opened_send, opened) = oneshot::channel();
        let (ended_send, ended) = oneshot::channel();
        driver.tell(Command::Open(Open {
            id,
            terms,
            opened: opened_send,
            ended: ended_send,
        }));
        let Ok(opened) = opened.await else {
            // Its driver has said why, unless the bucket is gone.
            self.driver_of(uid).await?;
            let why = "the conversation could not begin";
            return Err(Error::with_detail(ErrorKind::Io, why));
        };
        Ok(Begun {
            id,
            bucket,
            driver,
            opened,
            ended,
        })
    }

    async fn driver_of(self: &Arc<Self>, bucket: BucketUid) -> Result<(BucketId, Driver)> {
        let number = self.records().bucket(bucket).ok_or_else(deleted)?;
        let this = Arc::clone(self);
        let driver = blocking(move || this.driver(number)).await?;
        Ok((number, driver))
    }

    /// Keeps which replica a peer says that it is, by which its changes are told from those of others.
    async fn note_replica(&self, peer: EndpointId, bucket: BucketUid, replica: ReplicaId) {
        let store = Arc::clone(&self.store);
        let noted = blocking(move || Replicas::note(&*store, peer, bucket, replica));
        if let Err(e) = noted.await {
            tracing::debug!("who a replica is was not kept: {e}");
        }
    }

    fn driver(&self, bucket: BucketId) -> Result<Driver> {
        if self.store.read()?.bucket(bucket)?.is_none() {
            return Err(deleted());
        }
        let mut drivers = self.drivers.lock();
        if let Some((driver, thread)) = drivers.get(&bucket)
            && !thread.is_finished()
        {
            return Ok(driver.clone());
        }
        if self.stop.is_cancelled() {
            return Err(Error::with_detail(ErrorKind::Cancelled, "the node stops"));
        }
        let store = Arc::clone(&self.store);
        let (driver, thread) = Driver::start(store, bucket, self.stirred.clone())?;
        drivers.insert(bucket, (driver.clone(), thread));
        Ok(driver)
    }

    /// Exchanges frames between a stream and the driver, until one of the two or what lets the peer in
    /// ends it. `theirs` is the digest of the statements that the peer has, where any are exchanged.
    async fn converse(
        self: &Arc<Self>,
        key: LinkKey,
        access: Access,
        begun: Begun,
        theirs: Option<[u8; 16]>,
        (mut send, mut recv): (SendStream, RecvStream),
        over: impl Future<Output = Code>,
    ) -> Outcome {
        let Begun {
            id,
            bucket,
            driver,
            opened,
            ended,
        } = begun;
        let live = (id, bucket, access);
        let replaced = self.stop.child_token();
        let earlier = self
            .conversations
            .lock()
            .insert(key, (id, replaced.clone()));
        if let Some((_, earlier)) = earlier {
            earlier.cancel();
        }
        {
            let mut links = self.links.lock();
            let link = links.entry(key).or_default();
            link.live = Some(live);
            (link.lacks, link.told, link.trouble) = (None, None, None);
            link.refused = None;
            (link.exchanges, link.whole) = (false, theirs.is_some());
            link.heard = Some(Instant::now());
        }
        self.begun.send_modify(|count| *count += 1);
        stir(&self.stirred);
        self.remark(key.0, format_args!("conversation begins, about {}", key.1));
        let _closed = Closed {
            inner: self,
            driver: &driver,
            key,
            id,
        };
        let Opened {
            mut frames,
            crowded,
            ..
        } = opened;
        let unread = Arc::new(Semaphore::new(UNREAD));
        let mut theirs = theirs;
        let sent = watch::Sender::new(Sent::default());
        let reading = async {
            let (mut sent, mut then, mut heard) = (sent.subscribe(), Sent::default(), 0);
            loop {
                let Ok(permit) = Arc::clone(&unread).acquire_owned().await else {
                    return Lost::Ended(None);
                };
                match wire::read(&mut recv, MAX_FRAME).await {
                    Ok(bytes) => {
                        let now = *sent.borrow();
                        if now != then || !now.waits {
                            (then, heard) = (now, 0);
                        }
                        heard += bytes.len();
                        driver.tell(Command::Frame { id, bytes, permit });
                    }
                    Err(lost) => return lost,
                }
                self.heard(key, &mut theirs);
                if heard > UNTAKEN {
                    // The sender is there as long as this is.
                    let _ = sent.wait_for(|now| *now != then || !now.waits).await;
                }
            }
        };
        let writing = async {
            while let Some(frame) = frames.recv().await {
                sent.send_modify(|sent| sent.waits = true);
                if let Err(e) = send.write_all(&frame).await {
                    return Lost::from(e);
                }
                sent.send_modify(|sent| (sent.taken, sent.waits) = (sent.taken + 1, false));
                if crowded.swap(false, Ordering::AcqRel) {
                    driver.tell(Command::Room);
                }
            }
            // The driver ended the conversation, and says why by another way.
            std::future::pending().await
        };
        let outcome = tokio::select! {
            biased;
            () = self.stop.cancelled() => Outcome::Over(Code::Stopping),
            () = replaced.cancelled() => Outcome::Over(Code::Replaced),
            why = ended => Outcome::Failed(why.unwrap_or_else(|_| ErrorKind::Cancelled.into())),
            code = over => Outcome::Over(code),
            lost = reading => Outcome::Lost(lost),
            lost = writing => Outcome::Lost(lost),
        };
        let code = match &outcome {
            Outcome::Over(code) => *code,
            Outcome::Failed(e) if e.kind() == ErrorKind::Cancelled || is_deleted(e) => {
                Code::Stopping
            }
            Outcome::Failed(e) if is_own_fault(e.kind()) => Code::Store,
            Outcome::Lost(Lost::Ended(_)) => Code::Stopping,
            _ => Code::Protocol,
        };
        end(&mut send, &mut recv, code);
        outcome
    }

    /// Keeps and logs how a conversation ended, for which a peer was asked `by` a grant.
    fn note(&self, key: LinkKey, by: Option<GrantId>, outcome: Outcome) {
        let peer = self.call(key.0);
        let ended = |why: &dyn std::fmt::Display| format!("conversation ended: {why}");
        let is_refused = match &outcome {
            Outcome::Refused(refusal) => refusal.is_final(),
            Outcome::Lost(Lost::Ended(Some(code))) => {
                matches!(code, Code::Revoked | Code::Expired)
            }
            _ => false,
        };
        let trouble = match outcome {
            Outcome::Over(code @ (Code::Revoked | Code::Expired)) => {
                self.remark(key.0, ended(&code));
                Some(match code {
                    Code::Revoked => "the grant was revoked".to_owned(),
                    _ => "the grant has expired".to_owned(),
                })
            }
            Outcome::Over(_) => None,
            Outcome::Failed(e) if is_deleted(&e) => {
                self.remark(key.0, ended(&e));
                None
            }
            Outcome::Failed(e) => {
                match is_own_fault(e.kind()) {
                    true => tracing::warn!(peer = %self.label(key.0), "{}", ended(&e)),
                    false => self.blame(key.0, ended(&e)),
                }
                Some(e.to_string())
            }
            Outcome::Lost(lost) => {
                let quiet = matches!(lost, Lost::Connection(_) | Lost::Ended(None))
                    || matches!(&lost, Lost::Ended(Some(code)) if code.is_prompt());
                match quiet {
                    true => self.remark(key.0, ended(&lost)),
                    false => self.blame(key.0, ended(&lost)),
                }
                Some(format!("{peer}: {lost}"))
            }
            Outcome::Refused(refusal) => {
                match key.2 {
                    // Others may do, and who was let in just now is not known everywhere.
                    Role::Member => {
                        tracing::debug!(peer = %self.label(key.0), "not let in: {refusal}")
                    }
                    _ => self.blame(key.0, format_args!("not let in: {refusal}")),
                }
                Some(format!("{peer} does not let this node in: {refusal}"))
            }
        };
        let mut links = self.links.lock();
        if trouble.is_some() || links.contains_key(&key) {
            let link = links.entry(key).or_default();
            if link.live.is_none() {
                (link.trouble, link.refused) = (trouble, by.filter(|_| is_refused));
            }
        }
        if key.2 == Role::Member {
            links.retain(|other, link| *other != key || link.live.is_some());
        }
        drop(links);
        stir(&self.stirred);
    }

    /// Tells other processes how it stands, when that changed.
    async fn tell(self: Arc<Self>) {
        let mut told: Option<Vec<Link>> = None;
        let mut stirred = self.stirred.subscribe();
        loop {
            stirred.mark_unchanged();
            let status = self.status(false).await;
            let mut links = status.links.clone();
            links.iter_mut().for_each(|link| link.seen = None);
            if told.as_ref() != Some(&links) {
                let store = Arc::clone(&self.store);
                match blocking(move || status.save(&*store)).await {
                    Ok(()) => told = Some(links),
                    Err(e) => tracing::debug!("the status was not kept: {e}"),
                }
            }
            if let Err(e) = self.remember_addrs().await {
                tracing::debug!("where this node is was not kept: {e}");
            }
            sleep(TELLING).await;
            if stirred.changed().await.is_err() {
                return;
            }
        }
    }

    async fn status(&self, fresh: bool) -> Status {
        let drivers: Vec<Driver> = {
            let drivers = self.drivers.lock();
            drivers.values().map(|(driver, _)| driver.clone()).collect()
        };
        let mut progress: BTreeMap<u64, Progress> = BTreeMap::new();
        for driver in drivers {
            let (answer, answered) = oneshot::channel();
            driver.tell(Command::Progress { fresh, answer });
            if let Ok(of) = answered.await {
                progress.extend(of);
            }
        }
        let now = now();
        let records = self.records();
        let mut links = {
            let mut links = self.links.lock();
            for link in links.values_mut() {
                let of = link.live.and_then(|(id, ..)| progress.get(&id));
                link.stays = of.and_then(|progress| progress.stays).or(link.stays);
                link.last = of.and_then(Last::of).or(link.last);
            }
            links.clone()
        };
        links.retain(|(.., role), link| *role != Role::Member || link.live.is_some());
        let links = links.into_iter().map(|((peer, bucket, role), link)| {
            let shared = role == Role::Giver;
            let progress = link.live.and_then(|(id, ..)| progress.get(&id).copied());
            let progress = progress.unwrap_or_default();
            let last = link.last.filter(|_| link.live.is_none());
            Link {
                peer,
                bucket,
                shared,
                member: role == Role::Member,
                access: link.live.map_or_else(
                    || access(&records, peer, bucket, role),
                    |(.., access)| access,
                ),
                connected: link.live.is_some(),
                seen: link.live.map(|_| now).or(link.seen),
                in_step: link.live.is_some() && progress.in_step,
                missing_here: last
                    .map_or_else(|| behind(progress.missing_here), |last| last.missing_here),
                missing_there: last
                    .map_or_else(|| behind(progress.missing_there), |last| last.missing_there),
                state: progress.state,
                gathered: last.map(|last| last.gathered).or(progress.gathered),
                lacks: link.lacks.map(|(_, lacks)| lacks),
                lacks_now: link.lacks.is_some_and(|(state, _)| state == progress.state),
                stays: link.stays,
                trouble: link.trouble,
                refused: link.refused,
            }
        });
        let mut status = Status {
            at: now,
            links: links.collect(),
        };
        status.complete(&records);
        status
    }
}

fn behind((cuts, scopes): (u64, u64)) -> Behind {
    Behind { cuts, scopes }
}

impl Last {
    fn of(progress: &Progress) -> Option<Self> {
        Some(Self {
            missing_here: behind(progress.missing_here),
            missing_there: behind(progress.missing_there),
            gathered: progress.gathered?,
        })
    }
}

fn access(records: &Records, peer: EndpointId, bucket: BucketUid, role: Role) -> Access {
    let access = match role {
        Role::Taker => records
            .joined
            .iter()
            .filter(|join| (join.peer, join.bucket) == (peer, bucket))
            .map(|join| join.access)
            .max(),
        Role::Giver => admit(&mut records.grants.clone(), bucket, peer, &[], now())
            .ok()
            .map(|allowed| allowed.access()),
        // It is told of only while there is a conversation.
        Role::Member => None,
    };
    access.unwrap_or(Access::Read)
}

/// Tells the driver that a conversation is over, also where its task is thrown away.
struct Closed<'a> {
    inner: &'a Inner,
    driver: &'a Driver,
    key: LinkKey,
    id: u64,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.driver.tell(Command::Closed(self.id));
        let mut conversations = self.inner.conversations.lock();
        if conversations.get(&self.key).is_some_and(|c| c.0 == self.id) {
            conversations.remove(&self.key);
        }
        drop(conversations);
        if let Some(link) = self.inner.links.lock().get_mut(&self.key)
            && link.live.is_some_and(|(id, ..)| id == self.id)
        {
            link.live = None;
            link.lacks = None;
            link.seen = Some(now());
        }
        stir(&self.inner.stirred);
    }
}

fn stopped() -> Error {
    Error::with_detail(ErrorKind::Io, "its endpoint was closed")
}

/// Cancels a task that is no longer wanted; false, for it does not stay in its map.
fn cancel(token: &CancellationToken) -> bool {
    token.cancel();
    false
}

/// Returns how many bytes UDP carried of a connection, both ways.
fn bytes(connection: &Connection) -> u64 {
    let stats = connection.stats();
    stats.udp_tx.bytes + stats.udp_rx.bytes
}

/// Ends both directions of a stream.
fn end(send: &mut SendStream, recv: &mut RecvStream, code: Code) {
    let _ = send.reset(code.into());
    let _ = recv.stop(code.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_tried_again_after_a_growing_time_of_at_most_a_minute() {
        for millis in [200, 1000, 3000] {
            let first = Duration::from_millis(millis);
            let waits: Vec<_> = backoff(first).take(200).collect();
            let mut least = first;
            for wait in &waits {
                assert!((least..=least * 2).contains(wait), "{wait:?} of {least:?}");
                assert!(*wait <= Duration::from_secs(60), "{wait:?}");
                least = (least * 2).min(Duration::from_secs(30));
            }
            let late: HashSet<_> = waits[100..].iter().collect();
            assert!(late.len() > 50, "there is some chance in it");
        }
    }
}
