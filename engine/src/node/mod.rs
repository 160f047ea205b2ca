//! The node: what keeps a store's shared buckets the same as those of its peers.
//!
//! What is shared and joined is kept in the store, so that any process of the store can change and
//! see it ([`Store::share`], [`Store::join`], [`Store::peers`], [`Store::sync_status`]); one process at a
//! time runs the [`Node`], which follows.

mod contents;
mod records;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use alknet_fs_blobs::BlobStore;
use alknet_fs_blobs::wire::{self, ContentProtocol, GuardedBlobs};
use alknet_fs_core::{Error, ErrorKind, Result};
use alknet_fs_net::{Ending, Net, NetOptions, secret_key};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::content::ContentService;
use crate::session::Alone;
use crate::store::{Store, locked};
use contents::{LOOKING, Readers, Source};
use tally::Tallies;

pub use alknet_fs_net::{Access, Behind, Bind, GrantId, RelayUrl, Relays, Ticket};
pub(crate) use records::forget_shared;
pub use records::{
    Ended, GrantInfo, JoinInfo, JoinOptions, MemberInfo, MissingContents, PeerInfo, PeerStatus,
    Revoked, ShareOptions, SyncStatus, Unsent,
};

/// How a node takes part in the network. By default it listens on every address of the machine and
/// sends nothing but to its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeOptions {
    net: NetOptions,
}

impl NodeOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets where the node listens.
    #[must_use]
    pub fn bind(mut self, bind: Bind) -> Self {
        self.net.bind = bind;
        self
    }

    /// Sets the port that the node listens on, for UDP. By default it is a free one, and from then on
    /// the same again.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.net.port = Some(port);
        self
    }

    /// Sets by whose help peers are reached that cannot be reached directly: by default nobody's.
    #[must_use]
    pub fn relays(mut self, relays: Relays) -> Self {
        self.net.relays = relays;
        self
    }

    /// Sets whether the node says on the local network, by mDNS, where it is, and looks there for its
    /// peers: so that they find each other where their addresses have changed. By default it does
    /// neither.
    #[must_use]
    pub fn mdns(mut self, mdns: bool) -> Self {
        self.net.mdns = mdns;
        self
    }

    /// Sets whether the node converses with nodes that others let into a whole bucket, and finds out by
    /// gossip who of them has news: so that those that share a bucket go on while the one from which
    /// they have it is away. By default it does. Otherwise only what was shared and joined here counts.
    #[must_use]
    pub fn gossip(mut self, gossip: bool) -> Self {
        self.net.gossip = gossip;
        self
    }
}

/// A running node. One process of a store runs it, for all.
///
/// It works in threads of its own until it is stopped or dropped.
///
/// ```
/// use alknet_fs::Store;
/// use alknet_fs::node::{Bind, JoinOptions, Node, NodeOptions, ShareOptions};
///
/// # fn main() -> alknet_fs::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let (here, there) = (Store::create(dir.path().join("a"))?, Store::create(dir.path().join("b"))?);
/// let options = NodeOptions::new().bind(Bind::Loopback);
/// let nodes = [Node::start(&here, &options)?, Node::start(&there, &options)?];
///
/// let ticket = here.share("default", &ShareOptions::new())?;
/// let joined = there.join(&ticket, &JoinOptions::new().name("from-here"))?;
/// here.bucket("default")?.main()?.write("/hello.txt", "hello")?;
/// # let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
/// while joined.main()?.read("/hello.txt").is_err() {
///     std::thread::sleep(std::time::Duration::from_millis(10));
/// #   assert!(std::time::Instant::now() < deadline);
/// }
/// for node in nodes {
///     node.stop();
/// }
/// # Ok(())
/// # }
/// ```
pub struct Node {
    store: Store,
    /// Nothing once it was stopped.
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    net: Arc<Mutex<Option<Net>>>,
    ending: Ending,
    id: String,
    service: Option<Arc<ContentService>>,
    /// Counts what is missing.
    counting: Option<(Source, JoinHandle<()>)>,
    /// What serves contents; it ends with its last handle.
    _blobs: BlobStore,
    _alone: Alone,
}

impl Node {
    /// Starts the store's node.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] where another process runs it, which the error names; [`ErrorKind::Io`]
    /// where it cannot listen; [`ErrorKind::Unsupported`] for a store in memory.
    pub fn start(store: &Store, options: &NodeOptions) -> Result<Self> {
        Self::begin(store, options).map_err(|e| e.op("start node"))
    }

    fn begin(store: &Store, options: &NodeOptions) -> Result<Self> {
        let inner = &store.inner;
        store.check_for_node()?;
        let owner = format!("process {} of {}", std::process::id(), inner.options.author);
        let alone = match inner.keeper.running_node(&owner)? {
            Ok(alone) => alone,
            Err(owner) => {
                let detail = format!("{owner} runs the node of this store: stop that one first");
                return Err(locked(detail));
            }
        };
        let key = secret_key(&*inner.tree)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("alkfs-node")
            .enable_all()
            .build()?;
        let (tree, contents) = (Arc::clone(&inner.tree), inner.contents.clone());
        let net = options.net.clone();
        let own = net.gossip.then(|| key.public());
        let readers = Readers::new(Arc::clone(&tree), own);
        let access = Arc::new(readers.clone());
        runtime.spawn(readers.clone().keep_small());
        let started = on(&runtime, async move {
            let blobs = BlobStore::spawn(Arc::clone(&tree), contents, Default::default())?;
            let protocol = ContentProtocol::new(&blobs, access.clone());
            let theirs = GuardedBlobs::new(&blobs, access);
            let more = |router: iroh::protocol::RouterBuilder| {
                let router = router.accept(wire::ALPN, protocol);
                router.accept(GuardedBlobs::ALPN, theirs)
            };
            let net = Net::start(tree, key, &net, more).await?;
            Ok::<_, Error>((net, blobs))
        });
        let (net, blobs) = match started {
            Some(Ok(started)) => started,
            failed => {
                runtime.shutdown_background();
                return Err(match failed {
                    Some(Err(e)) => e,
                    _ => late("the node did not start"),
                });
            }
        };
        let id = net.endpoint().id().to_string();
        let (endpoint, ending) = (net.endpoint().clone(), net.ending());
        let (mut arrivals, stirs) = (net.arrivals(), net.stirs());
        runtime.spawn(readers.follow(net.changes(), LOOKING));
        let net = Arc::new(Mutex::new(Some(net)));
        let source = Source::new(
            Arc::clone(&inner.tree),
            runtime.handle().clone(),
            Arc::clone(&net),
            endpoint,
            &blobs,
        );
        let mut node = Self {
            store: store.clone(),
            running: Some(Running {
                runtime,
                net,
                ending,
                id,
                service: None,
                counting: None,
                _blobs: blobs,
                _alone: alone,
            }),
        };
        let (counting, parting) = (source.clone(), source.clone());
        let tallies = Tallies::new(Arc::clone(&inner.tree))?;
        let service = Arc::new(store.serve_contents(Arc::new(source.clone()))?);
        let told = Arc::downgrade(&service);
        if let Some(running) = &mut node.running {
            running.service = Some(service);
            let counting = running.runtime.spawn(counting.count(tallies, stirs));
            running.counting = Some((source, counting));
            running.runtime.spawn(async move {
                while arrivals.changed().await.is_ok() {
                    parting.part_with_old().await;
                    let told = told.clone();
                    let retried = tokio::task::spawn_blocking(move || match told.upgrade() {
                        Some(service) => service.retry(),
                        None => Ok(()),
                    });
                    if let Ok(Err(e)) = retried.await {
                        tracing::warn!("contents are not asked for again: {e}");
                    }
                }
            });
        }
        Ok(node)
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the node's key, by which peers tell it from others.
    pub fn id(&self) -> &str {
        self.running.as_ref().map_or("", |running| &running.id)
    }

    /// Returns why the node ended by itself, such as that its store was replaced: nothing comes or goes
    /// then, until it is stopped and another one is started. Returns nothing while it works, and once it
    /// was stopped.
    pub fn ended(&self) -> Option<Error> {
        self.running.as_ref()?.ending.why()
    }

    /// Tells how it stands with each peer and bucket at this moment. [`Store::sync_status`] tells what
    /// any process may know of it, up to a second later.
    ///
    /// # Errors
    /// Those of the store; where the node [ended](Self::ended) by itself, why.
    pub fn status(&self) -> Result<SyncStatus> {
        if let Some(e) = self.ended() {
            return Err(e);
        }
        let status = self.running.as_ref().and_then(|running| {
            let net = Arc::clone(&running.net);
            on(&running.runtime, async move {
                let asked = net.lock().await.as_ref().map(|net| net.status(true));
                match asked {
                    Some(asked) => Some(asked.await),
                    None => None,
                }
            })
            .flatten()
        });
        records::status(&self.store, status)
    }

    /// Returns how many bytes went over the connections with peers since the node started, both ways,
    /// contents aside.
    pub fn traffic(&self) -> u64 {
        let traffic = self.running.as_ref().and_then(|running| {
            let net = Arc::clone(&running.net);
            on(&running.runtime, async move {
                net.lock().await.as_ref().map(Net::traffic)
            })
        });
        traffic.flatten().unwrap_or(0)
    }

    /// Stops the node: tells the peers, and waits until nothing of it works any more.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        // Its threads end with it.
        drop(running.service.take());
        let (net, counting) = (Arc::clone(&running.net), running.counting.take());
        on(&running.runtime, async move {
            if let Some((source, counting)) = counting {
                source.end();
                // Without what it counted the next node counts anew.
                let _ = timeout(COUNTED, counting).await;
            }
            let net = net.lock().await.take();
            if let Some(net) = net {
                net.stop().await;
            }
        });
        // The runtime may be dropped from within another one, where nothing may block.
        running.runtime.shutdown_background();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("store", &self.store)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// How long what is missing may still be counted when the node stops.
const COUNTED: Duration = Duration::from_millis(500);

/// How long anything may take that somebody waits for at the node's threads.
const LONGEST: Duration = Duration::from_secs(60);

/// The error of what took longer than that.
fn late(what: &str) -> Error {
    let seconds = LONGEST.as_secs();
    let detail =
        format!("{what} within {seconds} seconds: the log says how far it came; try again");
    Error::with_detail(ErrorKind::Io, detail)
}

/// Runs a future on a runtime from a thread that may belong to another one.
fn on<R: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = R> + Send + 'static,
) -> Option<R> {
    let (send, receive) = crossbeam_channel::bounded(1);
    runtime.spawn(async move {
        let _ = send.send(future.await);
    });
    receive.recv_timeout(LONGEST).ok()
}
