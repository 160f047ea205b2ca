//! Contents between two of our stores, over loopback.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alknet_fs_blobs::wire::{
    ALPN, Access, ContentProtocol, FetchOptions, Fetcher, GuardedBlobs, Outcome, Progress,
    SMALL_MAX, Staying, Want,
};
use alknet_fs_core::store::{ContentForm, Durability, Store as _};
use alknet_fs_core::{ErrorKind, Hash, Timestamp};
use common::net::{addr, endpoint};
use common::{Node, Random, painted};
use iroh::endpoint::{Connection, ConnectionError, presets};
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointId, SecretKey};
use tokio::sync::watch;
use tokio::time::sleep;

fn everybody() -> Arc<dyn Access> {
    Arc::new(|_: EndpointId, hashes: &[Hash]| Ok(vec![true; hashes.len()]))
}

/// Two stores, one of which serves.
struct Pair {
    from: Node,
    to: Node,
    router: Router,
    _endpoint: Endpoint,
    conn: Connection,
    fetcher: Fetcher,
    _dirs: [tempfile::TempDir; 2],
}

impl Pair {
    async fn new() -> Self {
        Self::with(everybody()).await
    }

    async fn with(access: Arc<dyn Access>) -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
        let router = Router::builder(endpoint().await)
            .accept(ALPN, ContentProtocol::new(&from.blobs, access.clone()))
            .accept(iroh_blobs::ALPN, GuardedBlobs::new(&from.blobs, access))
            .spawn();
        let endpoint = endpoint().await;
        let conn = endpoint.connect(addr(router.endpoint()), ALPN).await;
        let fetcher = Fetcher::new(&to.blobs);
        Self {
            from,
            to,
            router,
            _endpoint: endpoint,
            conn: conn.unwrap(),
            fetcher,
            _dirs: dirs,
        }
    }

    async fn fetch(&self, wants: Vec<Want>) -> HashMap<Hash, Outcome> {
        let fetched = self.fetcher.fetch(&self.conn, wants, |_| {}).await;
        fetched.into_iter().collect()
    }

    async fn fetch_one(&self, want: Want) -> Outcome {
        self.fetch(vec![want]).await.remove(&want.hash).unwrap()
    }

    fn put(&self, bytes: &[u8]) -> Want {
        want(bytes, self.from.put(bytes.to_vec()))
    }

    /// How many bytes came over the network so far.
    fn received(&self) -> u64 {
        self.conn.stats().udp_rx.bytes
    }

    fn assert_read(&self, bytes: &[u8]) {
        let hash = iroh_blobs::Hash::new(bytes);
        assert!(self.to.read(hash) == bytes, "{} bytes", bytes.len());
    }
}

fn want(bytes: &[u8], hash: iroh_blobs::Hash) -> Want {
    Want {
        hash: Hash::from_bytes(*hash.as_bytes()),
        size: bytes.len() as u64,
        base: None,
    }
}

/// Adds many contents in one transaction.
fn put_all(node: &Node, contents: &[Vec<u8>]) -> Vec<Want> {
    let prepare = |bytes: &Vec<u8>| node.contents.prepare_bytes(bytes.clone()).unwrap();
    let mut prepared: Vec<_> = contents.iter().map(prepare).collect();
    let mut txn = node.store.write(Durability::Relaxed).unwrap();
    let now = Timestamp(1);
    node.contents.commit(&mut *txn, &mut prepared, now).unwrap();
    txn.commit().unwrap();
    let wants = prepared.iter().map(|prepared| Want {
        hash: prepared.hash(),
        size: prepared.size(),
        base: None,
    });
    wants.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_all_sizes_travel() {
    let pair = Pair::new().await;
    let (small, group) = (SMALL_MAX as usize, 16 * 1024);
    let nothing = Want {
        hash: Hash::EMPTY,
        size: 0,
        base: None,
    };
    let mut contents = Vec::new();
    for size in [
        1,
        2,
        group,
        small - 1,
        small,
        small + 1,
        5 * group,
        3_333_333,
    ] {
        contents.push(painted(size, 1));
    }
    let mut wants: Vec<_> = contents.iter().map(|bytes| pair.put(bytes)).collect();
    let nowhere = Want {
        hash: Hash::of(b"nowhere"),
        size: 7,
        base: None,
    };
    let nowhere_large = Want {
        hash: Hash::of(b"nowhere large"),
        size: 1 << 20,
        base: None,
    };
    wants.extend([nowhere, nowhere_large, wants[3], nothing]);
    let mut ended = Vec::new();
    let mut most = HashMap::new();
    let outcomes = pair
        .fetcher
        .fetch(&pair.conn, wants.clone(), |progress| match progress {
            Progress::Received { hash, bytes, size } => {
                assert!(bytes <= size);
                assert!(
                    most.insert(hash, bytes)
                        .is_none_or(|before| before <= bytes)
                );
            }
            Progress::Ended { hash, outcome } => ended.push((hash, outcome.is_here())),
        });
    let outcomes = outcomes.await;
    assert_eq!(outcomes.len(), wants.len() - 1);
    assert_eq!(ended.len(), outcomes.len());
    for (hash, outcome) in &outcomes {
        let is_somewhere = ![nowhere.hash, nowhere_large.hash].contains(hash);
        match outcome {
            Outcome::Present => assert_eq!(*hash, Hash::EMPTY),
            Outcome::Fetched => assert!(is_somewhere),
            Outcome::Missing => assert!(!is_somewhere),
            other => panic!("{hash}: {other:?}"),
        }
        assert!(ended.contains(&(*hash, is_somewhere)));
    }
    let largest = wants[7];
    assert_eq!(most.get(&largest.hash), Some(&largest.size));
    for bytes in contents.iter().chain([&Vec::new()]) {
        pair.assert_read(bytes);
    }
    assert_eq!(pair.to.contents.usage().unwrap().staged, 0);
    let before = pair.received();
    for (_, outcome) in pair.fetch(wants[..8].to_vec()).await {
        assert!(matches!(outcome, Outcome::Present), "{outcome:?}");
    }
    assert!(pair.received() - before < 2_000);
    pair.router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn has_tells_what_is_whole() {
    let pair = Pair::new().await;
    let wants: Vec<_> = (0..1500u64)
        .map(|seed| painted(20, seed))
        .collect::<Vec<_>>();
    let wants = put_all(&pair.from, &wants);
    let mut hashes = Vec::new();
    for (at, want) in wants.iter().enumerate() {
        hashes.extend([want.hash, Hash::of(&at.to_le_bytes())]);
    }
    let has = pair.fetcher.has(&pair.conn, &hashes).await.unwrap();
    let expected: Vec<_> = (0..3000).map(|at| at % 2 == 0).collect();
    assert_eq!(has, expected);
    pair.router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_ones_come_at_once() {
    let pair = Pair::new().await;
    let mut random = Random(5);
    let contents: Vec<_> = (0..3000u64)
        .map(|seed| painted(random.below(3000) as usize, seed))
        .collect();
    let wants = put_all(&pair.from, &contents);
    let since = Instant::now();
    let outcomes = pair.fetch(wants).await;
    println!("{} in {:?}", outcomes.len(), since.elapsed());
    assert!(outcomes.values().all(|o| matches!(o, Outcome::Fetched)));
    for bytes in contents.iter().step_by(7) {
        pair.assert_read(bytes);
    }
    pair.router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_is_missing() {
    let secret = painted(100_000, 1);
    let small = painted(100, 2);
    let open = painted(100_000, 3);
    let hidden = [Hash::of(&secret), Hash::of(&small)];
    let access = move |_: EndpointId, hashes: &[Hash]| {
        Ok(hashes.iter().map(|hash| !hidden.contains(hash)).collect())
    };
    let pair = Pair::with(Arc::new(access)).await;
    let wants: Vec<_> = [&secret, &small, &open]
        .map(|bytes| pair.put(bytes))
        .to_vec();
    let outcomes = pair.fetch(wants.clone()).await;
    for want in &wants {
        let is_missing = matches!(outcomes[&want.hash], Outcome::Missing);
        assert_eq!(is_missing, hidden.contains(&want.hash));
    }
    let hashes: Vec<_> = wants.iter().map(|want| want.hash).collect();
    let has = pair.fetcher.has(&pair.conn, &hashes).await.unwrap();
    assert_eq!(has, [false, false, true]);
    // Neither by the protocol of iroh-blobs, where what is missing looks the same.
    let endpoint = endpoint().await;
    let conn = endpoint.connect(addr(pair.router.endpoint()), iroh_blobs::ALPN);
    let conn = conn.await.unwrap();
    let blobs = pair.to.blobs.remote();
    let error = async |bytes: &[u8]| {
        let fetched = blobs
            .fetch(conn.clone(), iroh_blobs::Hash::new(bytes))
            .await;
        format!("{:?}", fetched.unwrap_err())
    };
    let refused = error(&secret).await;
    assert_eq!(refused, error(&small).await);
    assert_eq!(refused, error(b"nowhere").await);
    let many = iroh_blobs::protocol::GetManyRequest::new(
        vec![iroh_blobs::Hash::new(&open), iroh_blobs::Hash::new(&secret)],
        iroh_blobs::protocol::ChunkRangesSeq::all(),
    );
    blobs
        .execute_get_many(conn.clone(), many)
        .await
        .unwrap_err();
    let all = iroh_blobs::protocol::GetRequest::all(iroh_blobs::Hash::new(&open));
    blobs.execute_get(conn.clone(), all).await.unwrap_err();
    let open = iroh_blobs::protocol::GetRequest::blob(iroh_blobs::Hash::new(&open));
    blobs.execute_get(conn, open).await.unwrap();
    pair.router.shutdown().await.unwrap();
}

/// Lets in as it is told, and counts how often it is asked.
struct Listed {
    staying: watch::Sender<Staying>,
    takes_part: AtomicBool,
    asked: AtomicUsize,
}

impl Access for Listed {
    fn may_read(&self, _: EndpointId, hashes: &[Hash]) -> alknet_fs_core::Result<Vec<bool>> {
        Ok(vec![true; hashes.len()])
    }

    fn takes_part(&self, _: EndpointId) -> alknet_fs_core::Result<bool> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.takes_part.load(Ordering::SeqCst))
    }

    fn staying(&self) -> watch::Receiver<Staying> {
        self.staying.subscribe()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_is_looked_up_only_when_it_may_have_to_go() {
    let access = Arc::new(Listed {
        staying: watch::Sender::new(None),
        takes_part: AtomicBool::new(true),
        asked: AtomicUsize::new(0),
    });
    let pair = Pair::with(access.clone()).await;
    let own = pair._endpoint.id();
    let to = addr(pair.router.endpoint());
    let blobs = pair._endpoint.connect(to, GuardedBlobs::ALPN);
    let conns = [pair.conn.clone(), blobs.await.unwrap()];
    let asked = async |times| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while access.asked.load(Ordering::SeqCst) < times {
            assert!(Instant::now() < deadline, "it is not asked");
            sleep(Duration::from_millis(2)).await;
        }
    };
    // As they come, and not again while they are on the list.
    asked(2).await;
    for others in 0..100 {
        let others = (0..others).map(|n| SecretKey::from_bytes(&[n; 32]).public());
        let all = others.chain([own]).collect();
        access.staying.send_replace(Some(Arc::new(all)));
        tokio::task::yield_now().await;
    }
    // The list may be older than what let them in.
    access.staying.send_replace(Some(Arc::default()));
    asked(4).await;
    let want = pair.put(b"small");
    let fetched = pair.fetch_one(want).await;
    assert!(matches!(fetched, Outcome::Fetched), "{fetched:?}");
    assert!(conns.iter().all(|conn| conn.close_reason().is_none()));
    access.takes_part.store(false, Ordering::SeqCst);
    access.staying.send_replace(Some(Arc::default()));
    for conn in conns {
        let ConnectionError::ApplicationClosed(close) = conn.closed().await else {
            panic!("{:?}", conn.close_reason());
        };
        assert_eq!(close.error_code.into_inner(), 5);
    }
    assert_eq!(access.asked.load(Ordering::SeqCst), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_silent_is_given_up() {
    let pair = Pair::new().await;
    let want = pair.put(&painted(100, 1));
    let large = pair.put(&painted(100_000, 1));
    // The connection stays, but nobody answers on it.
    let endpoint = endpoint().await;
    let silent = Endpoint::builder(presets::Minimal)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .alpns(vec![ALPN.to_vec()])
        .bind()
        .await
        .unwrap();
    let accepted = silent.clone();
    let accept = tokio::spawn(async move { accepted.accept().await.unwrap().await });
    let conn = endpoint.connect(addr(&silent), ALPN).await.unwrap();
    let _accepted = accept.await.unwrap().unwrap();
    let options = FetchOptions {
        patience: Duration::from_millis(200),
        ..FetchOptions::default()
    };
    let fetcher = Fetcher::with_options(&pair.to.blobs, options);
    let outcomes = fetcher.fetch(&conn, vec![want, large], |_| {}).await;
    for (hash, outcome) in outcomes {
        let Outcome::Failed(error) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(&hash.to_string()), "{error}");
        assert!(
            error.to_string().contains(&silent.id().to_string()),
            "{error}"
        );
    }
    fetcher.has(&conn, &[want.hash]).await.unwrap_err();
    pair.router.shutdown().await.unwrap();
}

/// How the store that fetched keeps a content.
fn form(node: &Node, hash: &Hash) -> ContentForm {
    let txn = node.store.read().unwrap();
    txn.content(hash).unwrap().unwrap().form
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_differs_travels() {
    let pair = Pair::new().await;
    let size = 24 << 20;
    let base = painted(size, 1);
    let base_want = pair.put(&base);
    assert!(pair.fetch_one(base_want).await.is_here());
    let mut last = base;
    let mut last_want = base_want;
    let edits: [(u64, &[u8]); 5] = [
        (5_000_000, b"1"),
        (0, &[7; 40_000]),
        (size as u64 - 1, b"2"),
        (size as u64, &[9; 100_000]),
        (12_345_678, b"3"),
    ];
    for (at, new) in edits {
        let (hash, bytes) = pair.from.edit(&last, at, new);
        let want = Want {
            base: Some(last_want.hash),
            ..want(&bytes, hash)
        };
        let before = pair.received();
        let outcome = pair.fetch_one(want).await;
        assert!(matches!(outcome, Outcome::Fetched), "{outcome:?}");
        let came = pair.received() - before;
        assert!(came < 40_000 + 2 * new.len() as u64, "{came}");
        assert_eq!(form(&pair.to, &want.hash), ContentForm::Delta);
        pair.assert_read(&bytes);
        (last, last_want) = (bytes, want);
    }
    pair.router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_only_the_asker_has_will_do() {
    let pair = Pair::new().await;
    for (round, size) in [20 << 20, (20 << 20) + 16_385, (9 << 20) + 5]
        .into_iter()
        .enumerate()
    {
        let base = painted(size, round as u64);
        let base_hash = pair.to.put(base.clone());
        let mut bytes = base.clone();
        bytes[size / 3] ^= 1;
        bytes[size / 2] ^= 1;
        bytes.extend_from_slice(b"more");
        bytes[size - 1] ^= 1;
        let want = Want {
            base: Some(Hash::from_bytes(*base_hash.as_bytes())),
            ..pair.put(&bytes)
        };
        let before = pair.received();
        let outcome = pair.fetch_one(want).await;
        assert!(matches!(outcome, Outcome::Fetched), "{outcome:?}");
        let came = pair.received() - before;
        assert!(came < 160_000, "{came}");
        assert_eq!(form(&pair.to, &want.hash), ContentForm::Delta);
        pair.assert_read(&bytes);
    }
    pair.router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_has_little_to_do_with_it_costs_little() {
    let pair = Pair::new().await;
    let size = 8 << 20;
    for is_known in [true, false] {
        let bytes = painted(size, 1 + u64::from(is_known));
        let other = painted(size + 5, 3 + u64::from(is_known));
        let base = pair.to.put(other.clone());
        if is_known {
            pair.from.put(other);
        }
        let want = Want {
            base: Some(Hash::from_bytes(*base.as_bytes())),
            ..pair.put(&bytes)
        };
        let before = pair.received();
        assert!(pair.fetch_one(want).await.is_here());
        let came = pair.received() - before;
        assert!(came < size as u64 * 11 / 10, "{came}");
        pair.assert_read(&bytes);
    }
    pair.router.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_may_not_be_read_is_not_compared_with() {
    let base = painted(1 << 20, 1);
    let hidden = Hash::of(&base);
    let access = move |_: EndpointId, hashes: &[Hash]| {
        Ok(hashes.iter().map(|hash| *hash != hidden).collect())
    };
    let pair = Pair::with(Arc::new(access)).await;
    pair.from.put(base.clone());
    pair.to.put(base.clone());
    let (hash, bytes) = pair.from.edit(&base, 500_000, b"new");
    let want = Want {
        base: Some(hidden),
        ..want(&bytes, hash)
    };
    // It is found out from the nodes of what may be read.
    let before = pair.received();
    assert!(pair.fetch_one(want).await.is_here());
    assert!(pair.received() - before < 60_000);
    pair.assert_read(&bytes);
    pair.router.shutdown().await.unwrap();
}

/// Not a check: `cargo test --release -- --ignored --nocapture speed` prints how fast it is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed() {
    let pair = Pair::new().await;
    for round in 0..4 {
        let bytes = painted(256 << 20, round);
        let want = pair.put(&bytes);
        let since = Instant::now();
        let (mut first, mut last) = (None, Duration::ZERO);
        let fetch = pair.fetcher.fetch(&pair.conn, vec![want], |progress| {
            if let Progress::Received { .. } = progress {
                last = since.elapsed();
                first.get_or_insert(last);
            }
        });
        assert!(fetch.await[0].1.is_here());
        println!(
            "256 MiB: first {first:.3?}, last {last:.3?}, durable {:.3?}",
            since.elapsed()
        );
    }
}
