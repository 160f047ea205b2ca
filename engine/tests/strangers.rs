//! What peers that are no good, or have no business here, may do to a node that serves contents.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs::node::{Bind, JoinOptions, Node, NodeOptions, ShareOptions};
use alknet_fs::{Bucket, Hash, Store, Task, TreeRef};
use alknet_fs_blobs::BlobStore;
use alknet_fs_blobs::wire::{ALPN, Access, ContentProtocol, Fetcher, GuardedBlobs, Outcome, Want};
use alknet_fs_content::{Config, Contents};
use alknet_fs_core::branch::rebase;
use alknet_fs_core::store::{Durability, Store as _};
use alknet_fs_net::{EndpointAddr, EndpointId, SecretKey, secret_key};
use alknet_fs_sqlite::{Options, SqliteStore};
use iroh::endpoint::{Connection, ConnectionError, presets};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh::{Endpoint, TransportAddr};
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Side {
    store: Store,
    node: Option<Node>,
    bucket: Bucket,
    _dir: TempDir,
}

impl Side {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().join("store")).unwrap();
        let mut side = Self {
            bucket: store.bucket("default").unwrap(),
            store,
            node: None,
            _dir: dir,
        };
        side.start();
        side
    }

    fn start(&mut self) {
        let options = NodeOptions::new().bind(Bind::Loopback);
        self.node = Some(Node::start(&self.store, &options).unwrap());
    }

    fn stop(&mut self) {
        self.node.take().unwrap().stop();
    }

    fn rows(&self) -> SqliteStore {
        SqliteStore::open(self.store.path().unwrap(), Options::default()).unwrap()
    }

    fn key(&self) -> SecretKey {
        secret_key(&self.rows()).unwrap()
    }

    fn share(&self, options: &ShareOptions) -> alknet_fs::node::Ticket {
        let name = self.bucket.name().unwrap();
        self.store.share(&name, options).unwrap()
    }

    fn addr(&self) -> EndpointAddr {
        self.share(&ShareOptions::new()).addr
    }

    fn joined(&self, options: &ShareOptions) -> Self {
        let mut side = Self::new();
        let named = JoinOptions::new().name("joined");
        side.bucket = side.store.join(&self.share(options), &named).unwrap();
        side
    }

    fn reads(&self, path: &str, text: &str) {
        until(path, || {
            let main = self.bucket.main();
            main.is_ok_and(|main| main.read(path).is_ok_and(|bytes| bytes == text.as_bytes()))
        });
    }
}

/// An endpoint with a key, where a socket is given at that.
async fn endpoint(key: SecretKey, at: Option<SocketAddr>) -> Endpoint {
    let at = at.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
    let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
    let builder = builder.secret_key(key).bind_addr(at).unwrap();
    builder.bind().await.unwrap()
}

/// A store that takes in what is fetched.
fn blobs(dir: &TempDir) -> BlobStore {
    let store = SqliteStore::create(dir.path(), Options::default()).unwrap();
    let contents = Contents::open_store(dir.path(), Config::default()).unwrap();
    BlobStore::spawn(Arc::new(store), contents, Default::default()).unwrap()
}

/// Lets everybody read, and promises to keep everything.
struct Generous;

impl Access for Generous {
    fn may_read(&self, _: EndpointId, hashes: &[Hash]) -> alknet_fs::Result<Vec<bool>> {
        Ok(vec![true; hashes.len()])
    }

    fn keep(&self, _: EndpointId, hashes: &[Hash]) -> alknet_fs::Result<Vec<bool>> {
        Ok(vec![true; hashes.len()])
    }
}

/// Lets everybody in, and says nothing.
#[derive(Debug, Clone)]
struct Silent;

impl ProtocolHandler for Silent {
    async fn accept(&self, conn: Connection) -> Result<(), AcceptError> {
        conn.closed().await;
        Ok(())
    }
}

#[test]
fn a_peer_that_says_nothing_keeps_nobody_from_making_room() {
    let a = Side::new();
    let b = a.joined(&ShareOptions::new());
    let mut others = [
        b.joined(&ShareOptions::new()),
        b.joined(&ShareOptions::new()),
    ];
    a.bucket.main().unwrap().write("/f", "shared").unwrap();
    for other in &others {
        other.reads("/f", "shared");
        until("a knows of it", || {
            let id = other.node.as_ref().unwrap().id().to_owned();
            let peers = a.store.peers().unwrap();
            peers.iter().any(|p| p.id == id && !p.member.is_empty())
        });
    }
    // Where each was, another answers: of those with smaller keys, who are asked first, nobody does.
    others.sort_by_key(|other| other.key().public());
    let places = others.each_ref().map(|other| {
        let addr = other.addr();
        let mut sockets = addr.addrs.iter().filter_map(|addr| match addr {
            TransportAddr::Ip(socket) => Some(*socket),
            _ => None,
        });
        (other.key(), sockets.next().unwrap())
    });
    for other in &mut others {
        other.stop();
    }
    let [silent, holder] = places;
    let runtime = Runtime::new().unwrap();
    let (routers, _blobs) = runtime.block_on(async {
        let silent = endpoint(silent.0, Some(silent.1)).await;
        let silent = Router::builder(silent).accept(ALPN, Silent).spawn();
        let path = others[1].store.path().unwrap();
        let contents = Contents::open_store(path, Config::default()).unwrap();
        let rows = Arc::new(others[1].rows());
        let blobs = BlobStore::spawn(rows, contents, Default::default()).unwrap();
        let protocol = ContentProtocol::new(&blobs, Arc::new(Generous));
        let holder = endpoint(holder.0, Some(holder.1)).await;
        let holder = Router::builder(holder).accept(ALPN, protocol).spawn();
        ([silent, holder], blobs)
    });
    let begun = Instant::now();
    let report = a.store.evict(0, &Task::new()).unwrap();
    assert_eq!((report.contents, report.only_here), (1, 0));
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    runtime.block_on(async {
        for router in routers {
            router.shutdown().await.unwrap();
        }
    });
}

#[test]
fn strangers_are_sent_away() {
    let mut a = Side::new();
    a.bucket.main().unwrap().write("/f", "of a").unwrap();
    let mut b = a.joined(&ShareOptions::new());
    b.reads("/f", "of a");
    b.stop();
    let (to, runtime, dir) = (
        a.addr(),
        Runtime::new().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    runtime.block_on(async {
        let blobs = blobs(&dir);
        let fetcher = Fetcher::new(&blobs);
        let stranger = endpoint(SecretKey::generate(), None).await;
        let code = async |conn: &Connection| {
            let closed = tokio::time::timeout(Duration::from_secs(30), conn.closed()).await;
            match closed {
                Ok(ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
                other => panic!("{other:?}"),
            }
        };
        for alpn in [ALPN, GuardedBlobs::ALPN] {
            // They need not ask for anything, nor come only once.
            for _ in 0..3 {
                let conn = stranger.connect(to.clone(), alpn).await.unwrap();
                assert_eq!(code(&conn).await, 5);
            }
        }
        // To who asks, nothing is there.
        let conn = stranger.connect(to.clone(), ALPN).await.unwrap();
        let hash = Hash::of(b"of a");
        assert_eq!(fetcher.has(&conn, &[hash]).await.unwrap(), [false]);
        assert_eq!(fetcher.keep(&conn, &[hash]).await.unwrap(), [false]);
        let want = Want {
            hash,
            size: 4,
            base: None,
        };
        let fetched = fetcher.fetch(&conn, vec![want], |_| {}).await;
        assert!(
            matches!(fetched[..], [(_, Outcome::Missing)]),
            "{fetched:?}"
        );

        // Who was let in stays, while it asks for nothing too.
        let friend = endpoint(b.key(), None).await;
        for alpn in [ALPN, GuardedBlobs::ALPN] {
            let conn = friend.connect(to.clone(), alpn).await.unwrap();
            let moment = tokio::time::timeout(Duration::from_millis(300), conn.closed()).await;
            assert!(moment.is_err(), "{moment:?}");
        }
        let conn = friend.connect(to.clone(), ALPN).await.unwrap();
        assert_eq!(fetcher.has(&conn, &[hash]).await.unwrap(), [true]);
    });
    a.stop();
}

#[test]
fn contents_are_given_of_what_a_snapshot_shows_after_its_branch_got_another_base() {
    let mut a = Side::new();
    let main = a.bucket.main().unwrap();
    main.write("/inherited", "in main").unwrap();
    let shown = a
        .bucket
        .fork(&"main".parse::<TreeRef>().unwrap(), "shown")
        .unwrap();
    shown.snapshot("before").unwrap();
    let granted = ShareOptions::new().read_only(true).branch("shown");
    let mut b = a.joined(&granted);
    let shows = |b: &Side| {
        let shown = b.bucket.branch("shown");
        let view = shown.and_then(|shown| shown.view_at("before"));
        view.is_ok_and(|view| view.stat("/inherited").is_ok())
    };
    until("b sees the snapshot", || shows(&b));
    a.stop();
    let rows = a.rows();
    let mut txn = rows.write(Durability::Full).unwrap();
    rebase(&mut *txn, shown.id(), None).unwrap();
    txn.commit().unwrap();
    assert!(shown.stat("/inherited").is_err(), "it has no base");
    a.start();
    let at_before = |side: &Side| {
        let view = side
            .bucket
            .branch("shown")
            .unwrap()
            .view_at("before")
            .unwrap();
        view.read("/inherited").unwrap()
    };
    assert_eq!(at_before(&a), b"in main");
    until("b sees it still, and reads it", || {
        shows(&b) && at_before(&b) == b"in main"
    });
    b.stop();
    a.stop();
}
