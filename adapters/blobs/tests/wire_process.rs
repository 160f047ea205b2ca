//! Transfers that end halfway, and processes that work on one store.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alknet_fs::{GcOptions, Task};
use alknet_fs_blobs::wire::{ALPN, ContentProtocol, Fetcher, Outcome, Progress, Want};
use alknet_fs_core::Hash;
use common::net::{addr, endpoint};
use common::{Node, eventually, painted};
use iroh::endpoint::Connection;
use iroh::protocol::Router;
use iroh::{EndpointAddr, EndpointId, TransportAddr};

const DIR: &str = "ALKNET_FS_TEST_WIRE_DIR";
const PEER: &str = "ALKNET_FS_TEST_WIRE_PEER";
const MIB: u64 = 1 << 20;

async fn serve(node: &Node) -> Router {
    let everybody = |_: EndpointId, hashes: &[Hash]| Ok(vec![true; hashes.len()]);
    Router::builder(endpoint().await)
        .accept(ALPN, ContentProtocol::new(&node.blobs, Arc::new(everybody)))
        .spawn()
}

fn want(bytes: &[u8]) -> Want {
    Want {
        hash: Hash::of(bytes),
        size: bytes.len() as u64,
        base: None,
    }
}

fn received(conn: &Connection) -> u64 {
    conn.stats().udp_rx.bytes
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// Not a test of its own: what the child processes of the others do.
#[tokio::test(flavor = "multi_thread")]
async fn child_fetches() {
    let (Ok(dir), Ok(peer)) = (std::env::var(DIR), std::env::var(PEER)) else {
        return;
    };
    let mut peer = peer.split(' ');
    let id: EndpointId = peer.next().unwrap().parse().unwrap();
    let socket: SocketAddr = peer.next().unwrap().parse().unwrap();
    let want = Want {
        hash: peer.next().unwrap().parse().unwrap(),
        size: peer.next().unwrap().parse().unwrap(),
        base: None,
    };
    let node = Node::open(Path::new(&dir));
    let endpoint = endpoint().await;
    let peer = EndpointAddr::from_parts(id, [TransportAddr::Ip(socket)]);
    let conn = endpoint.connect(peer, ALPN).await.unwrap();
    let fetcher = Fetcher::new(&node.blobs);
    let outcomes = fetcher.fetch(&conn, vec![want], |progress| {
        if let Progress::Received { bytes, .. } = progress {
            say(&format!("has {bytes}"));
        }
    });
    let outcomes = outcomes.await;
    assert!(outcomes[0].1.is_here(), "{outcomes:?}");
    say(&format!("came {}", received(&conn)));
    let hash = iroh_blobs::Hash::from_bytes(*want.hash.as_bytes());
    assert_eq!(node.read(hash).len() as u64, want.size);
    node.shutdown().await;
}

fn spawn(dir: &Path, router: &Router, want: &Want) -> Child {
    let endpoint = router.endpoint();
    let socket = endpoint.bound_sockets()[0];
    let peer = format!("{} {socket} {} {}", endpoint.id(), want.hash, want.size);
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_fetches", "--nocapture"])
        .env(DIR, dir)
        .env(PEER, peer)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Follows a child to its end, and kills it when it has so many bytes; returns how many it had in the
/// end, and how many came over the network.
fn follow(mut child: Child, kill_at: Option<u64>) -> (u64, u64) {
    let (mut has, mut came) = (0, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some(("has", bytes)) => has = bytes.parse().unwrap(),
            Some(("came", bytes)) => came = bytes.parse().unwrap(),
            _ => {}
        }
        if kill_at.is_some_and(|at| has >= at) {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(status.success(), kill_at.is_none());
    (has, came)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_goes_on_in_the_middle_of_256_mib() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let from = Node::create(dirs[0].path());
    Node::create(dirs[1].path()).shutdown().await;
    let bytes = painted(256 << 20, 1);
    let want = want(&bytes);
    from.put(bytes);
    let router = serve(&from).await;
    let child = spawn(dirs[1].path(), &router, &want);
    let killed = tokio::task::spawn_blocking(|| follow(child, Some(120 * MIB)));
    let (had, _) = killed.await.unwrap();
    let child = spawn(dirs[1].path(), &router, &want);
    let followed = tokio::task::spawn_blocking(|| follow(child, None));
    let (has, came) = followed.await.unwrap();
    assert_eq!(has, want.size);
    // What was on its way when the process died is a few buffers. Headers take a few percent.
    let rest = want.size - had.min(want.size);
    assert!((120 * MIB..256 * MIB).contains(&had), "{had}");
    assert!(came < rest * 11 / 10 + 8 * MIB, "{came} of {rest}");
    router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_fetch_one_content_into_one_store() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let from = Node::create(dirs[0].path());
    Node::create(dirs[1].path()).shutdown().await;
    let router = serve(&from).await;
    for round in 0..3 {
        let bytes = painted(24 << 20, round);
        let want = want(&bytes);
        from.put(bytes.clone());
        let children = [0; 3].map(|_| spawn(dirs[1].path(), &router, &want));
        let follow_all = move || {
            let threads = children.map(|child| std::thread::spawn(|| follow(child, None)));
            threads.map(|thread| thread.join().unwrap())
        };
        tokio::task::spawn_blocking(follow_all).await.unwrap();
        let to = Node::open(dirs[1].path());
        assert!(to.read(iroh_blobs::Hash::new(&bytes)) == bytes);
        assert_eq!(to.contents.partials().unwrap(), []);
        to.shutdown().await;
    }
    let store = alknet_fs::Store::open(dirs[1].path()).unwrap();
    let report = store.fsck(&Default::default(), &Task::new()).unwrap();
    assert_eq!((report.problems, report.orphans), (vec![], 0));
    router.shutdown().await.unwrap();
}

/// Returns a future that never ends, after a fetch has received so many bytes.
async fn until(fetcher: &Fetcher, conn: &Connection, wants: Vec<Want>, bytes: u64) {
    let had = AtomicU64::new(0);
    let enough = tokio::sync::Notify::new();
    let fetch = fetcher.fetch(conn, wants, |progress| {
        if let Progress::Received { bytes: now, .. } = progress {
            had.store(now, Ordering::Relaxed);
            if now >= bytes {
                enough.notify_one();
            }
        }
    });
    tokio::select! {
        outcomes = fetch => panic!("it was faster: {outcomes:?}"),
        () = enough.notified() => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_dropped_keeps_what_has_arrived() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let router = serve(&from).await;
    let small: Vec<_> = (0..20u64).map(|seed| painted(1000, seed)).collect();
    let large = painted(96 << 20, 1);
    let mut wants = vec![want(&large)];
    from.put(large.clone());
    for bytes in &small {
        from.put(bytes.clone());
        wants.push(want(bytes));
    }
    let endpoint = endpoint().await;
    let conn = endpoint
        .connect(addr(router.endpoint()), ALPN)
        .await
        .unwrap();
    let fetcher = Fetcher::new(&to.blobs);
    until(&fetcher, &conn, wants.clone(), 40 * MIB).await;
    // It winds up, and lets go of the files.
    eventually("nobody works on it", async || {
        let partials = to.contents.partials().unwrap();
        partials.len() == 1 && !partials[0].in_use
    })
    .await;
    for bytes in &small {
        assert!(to.read(iroh_blobs::Hash::new(bytes)) == *bytes);
    }
    let before = received(&conn);
    let mut first = None;
    let fetch = fetcher.fetch(&conn, wants, |progress| {
        if let Progress::Received { bytes, .. } = progress {
            first.get_or_insert(bytes);
        }
    });
    let outcomes = fetch.await;
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_here()));
    assert!(matches!(outcomes[0].1, Outcome::Fetched));
    assert!(first.unwrap() > 40 * MIB);
    assert!(received(&conn) - before < 62 * MIB);
    assert!(to.read(iroh_blobs::Hash::new(&large)) == large);
    assert_eq!(to.contents.usage().unwrap().staged, 0);
    router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_gone_on_with_over_another() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let router = serve(&from).await;
    let bytes = painted(64 << 20, 1);
    let want = want(&bytes);
    from.put(bytes.clone());
    let endpoint = endpoint().await;
    let fetcher = Fetcher::new(&to.blobs);
    let conn = endpoint
        .connect(addr(router.endpoint()), ALPN)
        .await
        .unwrap();
    let breaking = conn.clone();
    let outcomes = fetcher.fetch(&conn, vec![want], |progress| {
        if let Progress::Received { bytes, .. } = progress
            && bytes > 20 * MIB
        {
            breaking.close(0u32.into(), b"");
        }
    });
    let outcomes = outcomes.await;
    assert!(matches!(outcomes[0].1, Outcome::Failed(_)), "{outcomes:?}");
    let conn = endpoint
        .connect(addr(router.endpoint()), ALPN)
        .await
        .unwrap();
    let outcomes = fetcher.fetch(&conn, vec![want], |_| {}).await;
    assert!(matches!(outcomes[0].1, Outcome::Fetched), "{outcomes:?}");
    assert!(received(&conn) < 49 * MIB, "{}", received(&conn));
    assert!(to.read(iroh_blobs::Hash::new(&bytes)) == bytes);
    router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_is_not_collected_before_it_is_used() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let router = serve(&from).await;
    let endpoint = endpoint().await;
    let conn = endpoint
        .connect(addr(router.endpoint()), ALPN)
        .await
        .unwrap();
    let fetcher = Fetcher::new(&to.blobs);
    let store = alknet_fs::Store::open(dirs[1].path()).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let collector = std::thread::spawn(move || {
        let options = GcOptions::new().grace(Duration::ZERO);
        let mut runs = 0;
        while stopped.try_recv().is_err() {
            store.gc(&options, &Task::default()).unwrap();
            runs += 1;
        }
        runs
    });
    let mut all = Vec::new();
    let mut base = painted(900_000, 1);
    for round in 0..30u64 {
        let small = painted(300, 1000 + round);
        let mut next = base.clone();
        next[round as usize * 1000] ^= 1;
        from.put(small.clone());
        from.put(next.clone());
        let wants = vec![
            want(&small),
            Want {
                base: Some(Hash::of(&base)),
                ..want(&next)
            },
        ];
        let outcomes = fetcher.fetch(&conn, wants, |_| {}).await;
        assert!(
            outcomes.iter().all(|(_, outcome)| outcome.is_here()),
            "{outcomes:?}"
        );
        all.extend([small, next.clone()]);
        base = next;
    }
    for bytes in &all {
        assert!(to.read(iroh_blobs::Hash::new(bytes)) == *bytes);
    }
    stop.send(()).unwrap();
    assert!(collector.join().unwrap() > 1);
    router.shutdown().await.unwrap();
}
