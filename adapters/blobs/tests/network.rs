//! iroh-blobs' own provider and requests between two of our stores, over loopback.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use alknet_fs::{GcOptions, Task};
use alknet_fs_core::store::{Durability, Store as _};
use bao_tree::ChunkRanges;
use common::net::{addr, endpoint};
use common::{Node, Random, painted, some_ranges, whole_groups};
use futures_lite::StreamExt;
use iroh::endpoint::Connection;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use iroh_blobs::api::remote::GetProgressItem;
use iroh_blobs::protocol::GetRequest;
use iroh_blobs::store::mem::MemStore;
use iroh_blobs::{ALPN, BlobsProtocol, Hash};

async fn serve(store: &iroh_blobs::api::Store) -> Router {
    let blobs = BlobsProtocol::new(store, None);
    Router::builder(endpoint().await)
        .accept(ALPN, blobs)
        .spawn()
}

async fn connect(router: &Router) -> (Endpoint, Connection) {
    let endpoint = endpoint().await;
    let conn = endpoint
        .connect(addr(router.endpoint()), ALPN)
        .await
        .unwrap();
    (endpoint, conn)
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_all_sizes_and_forms_travel() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let router = serve(&from.blobs).await;
    let (_endpoint, conn) = connect(&router).await;
    let group = 16 * 1024;
    let sizes = [0, 1, group - 1, group, group + 1, 1 << 20, 20 << 20];
    let mut all: Vec<_> = sizes.iter().map(|&size| painted(size, 1)).collect();
    for bytes in &all {
        from.put(bytes.clone());
    }
    let mut last = all[6].clone();
    for (at, new) in [
        (5_000_000, &b"one"[..]),
        (0, &[7; 40_000]),
        (20 << 20, &[9; 5]),
    ] {
        last = from.edit(&last, at, new).1;
        all.push(last.clone());
    }
    for bytes in &all {
        let hash = Hash::new(bytes);
        let stats = to.blobs.remote().fetch(conn.clone(), hash).await.unwrap();
        assert_eq!(stats.payload_bytes_read, bytes.len() as u64);
        assert!(to.blobs.get_bytes(hash).await.unwrap() == *bytes);
        if !bytes.is_empty() {
            assert!(to.read(hash) == *bytes);
            let again = to.blobs.remote().fetch(conn.clone(), hash).await.unwrap();
            assert_eq!(again.payload_bytes_read, 0);
        }
    }
    assert_eq!(to.contents.usage().unwrap().staged, 0);
    router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_travel_and_the_rest_follows() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let router = serve(&from.blobs).await;
    let (_endpoint, conn) = connect(&router).await;
    let mut random = Random(21);
    for round in 0..25u64 {
        let size = 80_000 + random.below(3_000_000);
        let bytes = painted(size as usize, round);
        let hash = from.put(bytes.clone());
        let ranges = some_ranges(&mut random, size);
        let request = GetRequest::blob_ranges(hash, ranges.clone());
        to.blobs
            .remote()
            .execute_get(conn.clone(), request)
            .await
            .unwrap();
        let bits = to.blobs.observe(hash).await.unwrap();
        let sure = whole_groups(&ranges, size);
        assert!(bits.ranges.is_superset(&sure), "{size} {ranges:?}");
        let before = bits.total_bytes();
        let stats = to.blobs.remote().fetch(conn.clone(), hash).await.unwrap();
        assert_eq!(stats.payload_bytes_read + before, size);
        assert!(to.read(hash) == bytes);
    }
    router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_with_iroh_blobs_own_store() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Node::create(dir.path());
    let theirs = MemStore::new();
    let bytes = painted(3_333_333, 1);
    let hash = ours.put(bytes.clone());
    let router = serve(&ours.blobs).await;
    let (_endpoint, conn) = connect(&router).await;
    theirs.remote().fetch(conn, hash).await.unwrap();
    assert!(theirs.get_bytes(hash).await.unwrap() == bytes);
    let tag = theirs
        .add_bytes(painted(2_222_222, 2))
        .temp_tag()
        .await
        .unwrap();
    let back = serve(&theirs).await;
    let (_endpoint, conn) = connect(&back).await;
    ours.blobs.remote().fetch(conn, tag.hash()).await.unwrap();
    assert!(ours.read(tag.hash()) == painted(2_222_222, 2));
    router.shutdown().await.unwrap();
    back.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_takes_nothing_that_arrives() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let from = Node::create(dirs[0].path());
    let to = Node::create(dirs[1].path());
    let router = serve(&from.blobs).await;
    let (_endpoint, conn) = connect(&router).await;
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
    for round in 0..60u64 {
        let size = [100, 70_000, 900_000][round as usize % 3];
        let bytes = painted(size, 1000 + round);
        let hash = from.put(bytes.clone());
        if round % 2 == 0 {
            to.blobs.remote().fetch(conn.clone(), hash).await.unwrap();
        } else {
            drop(to.blobs.add_bytes(bytes.clone()).temp_tag().await.unwrap());
        }
        all.push((hash, bytes));
    }
    for (hash, bytes) in &all {
        assert!(to.read(*hash) == *bytes);
    }
    stop.send(()).unwrap();
    assert!(collector.join().unwrap() > 1);
    router.shutdown().await.unwrap();
}

const DIR: &str = "ALKNET_FS_TEST_BLOBS_DIR";
const PEER: &str = "ALKNET_FS_TEST_BLOBS_PEER";
const LARGE: usize = 64 << 20;

/// Not a test of its own: what the child process of the next one does.
#[tokio::test(flavor = "multi_thread")]
async fn child_fetches() {
    let (Ok(dir), Ok(peer)) = (std::env::var(DIR), std::env::var(PEER)) else {
        return;
    };
    let mut peer = peer.split(' ');
    let id: EndpointId = peer.next().unwrap().parse().unwrap();
    let socket: SocketAddr = peer.next().unwrap().parse().unwrap();
    let hash: Hash = peer.next().unwrap().parse().unwrap();
    let node = Node::open(Path::new(&dir));
    let endpoint = endpoint().await;
    let peer = EndpointAddr::from_parts(id, [TransportAddr::Ip(socket)]);
    let conn = endpoint.connect(peer, ALPN).await.unwrap();
    let has = node.blobs.observe(hash).await.unwrap().total_bytes();
    say(&format!("has {has}"));
    let mut progress = std::pin::pin!(node.blobs.remote().fetch(conn, hash).stream());
    while let Some(item) = progress.next().await {
        match item {
            GetProgressItem::Progress(bytes) => say(&format!("got {bytes}")),
            GetProgressItem::Done(stats) => say(&format!("done {}", stats.payload_bytes_read)),
            GetProgressItem::Error(error) => panic!("{error}"),
        }
    }
    assert_eq!(node.read(hash).len(), LARGE);
    node.shutdown().await;
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_goes_on_where_it_was() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let from = Node::create(dirs[0].path());
    Node::create(dirs[1].path()).shutdown().await;
    let hash = from.put(painted(LARGE, 1));
    let router = serve(&from.blobs).await;
    let endpoint = router.endpoint();
    let peer = format!("{} {} {hash}", endpoint.id(), endpoint.bound_sockets()[0]);
    let dir = dirs[1].path().to_owned();
    let run = move |kill_at: Option<u64>| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_fetches", "--nocapture"])
            .env(DIR, &dir)
            .env(PEER, &peer)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut has, mut got) = (0, 0);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            match line.split_once(' ') {
                Some(("has", bytes)) => has = bytes.parse::<u64>().unwrap(),
                Some(("got" | "done", bytes)) => got = bytes.parse::<u64>().unwrap(),
                _ => {}
            }
            if kill_at.is_some_and(|at| got >= at) {
                child.kill().unwrap();
            }
        }
        let status = child.wait().unwrap();
        assert_eq!(status.success(), kill_at.is_none());
        (has, got)
    };
    let (kept, rest, came) = tokio::task::spawn_blocking(move || {
        let (none, first) = run(Some(20 << 20));
        assert_eq!(none, 0);
        let (kept, second) = run(Some(15 << 20));
        let (most, rest) = run(None);
        assert!(most >= kept);
        (most, rest, first + second + rest)
    })
    .await
    .unwrap();
    // What was on its way when the process died is a few buffers; nothing that was noted comes again.
    assert_eq!(kept + rest, LARGE as u64);
    assert!(kept > 20 << 20, "{kept}");
    assert!(came < (LARGE + (24 << 20)) as u64, "{came}");
    router.shutdown().await.unwrap();
}

/// Not a check: `cargo test --release -- --ignored --nocapture speed` prints how fast it is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let router = serve(&from.blobs).await;
    let (_endpoint, conn) = connect(&router).await;
    let timed =
        |what: &str, since: Instant| println!("{what}: {:.3} s", since.elapsed().as_secs_f64());
    let large = painted(256 << 20, 1);
    let since = Instant::now();
    let tag = from.blobs.add_bytes(large).temp_tag().await.unwrap();
    timed("256 MiB added", since);
    let since = Instant::now();
    to.blobs
        .remote()
        .fetch(conn.clone(), tag.hash())
        .await
        .unwrap();
    timed("256 MiB from ours to ours", since);
    let since = Instant::now();
    let memory = MemStore::new();
    memory
        .remote()
        .fetch(conn.clone(), tag.hash())
        .await
        .unwrap();
    timed("256 MiB from ours to memory", since);
    drop(memory);
    let since = Instant::now();
    let mut bao = std::pin::pin!(
        from.blobs
            .export_bao(tag.hash(), ChunkRanges::all())
            .stream()
    );
    while bao.next().await.is_some() {}
    timed("256 MiB exported", since);
    let small: Vec<_> = (0..2000).map(|seed| painted(4000, seed)).collect();
    let mut txn = from.store.write(Durability::Relaxed).unwrap();
    let prepared = small
        .iter()
        .map(|b| from.contents.prepare_bytes(b.clone()).unwrap());
    let mut prepared: Vec<_> = prepared.collect();
    let now = alknet_fs_core::Timestamp(1);
    from.contents.commit(&mut *txn, &mut prepared, now).unwrap();
    txn.commit().unwrap();
    let since = Instant::now();
    let fetches = futures_lite::stream::iter(small.chunks(63).map(<[_]>::to_vec));
    let tasks: Vec<_> = fetches
        .map(|chunk| {
            let (blobs, conn) = (to.blobs.clone(), conn.clone());
            tokio::spawn(async move {
                for bytes in chunk {
                    let hash = Hash::new(&bytes);
                    blobs.remote().fetch(conn.clone(), hash).await.unwrap();
                }
            })
        })
        .collect()
        .await;
    for task in tasks {
        task.await.unwrap();
    }
    timed("2000 small contents, 32 at once", since);
}
