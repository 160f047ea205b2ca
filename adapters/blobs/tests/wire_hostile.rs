//! Peers that do not keep to the protocol of contents.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use alknet_fs_blobs::wire::{
    ALPN, ContentProtocol, FetchOptions, Fetcher, GuardedBlobs, Outcome, Want,
};
use alknet_fs_core::store::Store as _;
use alknet_fs_core::{ErrorKind, Hash};
use common::net::{addr, endpoint};
use common::{Node, Random, painted};
use iroh::endpoint::{Connection, ReadError, RecvStream, SendStream, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh::{Endpoint, EndpointId};
use iroh_blobs::get::request::get_blob;
use serde::Serialize;

const MISSING: u8 = 0;
const SMALL: u8 = 1;
const LARGE: u8 = 2;
const CHANGED: u8 = 3;
const HAS_BITS: u8 = 4;
const NODES: u8 = 5;
const WANTS: u8 = 0;
const HAS: u8 = 1;
const ASK_NODES: u8 = 2;
const RANGES: u8 = 3;
const KEEP: u8 = 4;

/// A frame with a message; the variants of both enums are numbered from 0.
fn frame(variant: u8, fields: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_allocvec(&(variant, fields)).unwrap();
    let len = (body.len() as u32).to_le_bytes();
    [&len[..], &body].concat()
}

/// What a hostile provider does with an honest answer.
enum Reply {
    Bytes(Vec<u8>),
    /// And then the same again and again.
    Endless(Vec<u8>, Vec<u8>),
    Silence,
}

type Twist = dyn Fn(u8, Vec<u8>) -> Reply + Send + Sync;

/// Passes questions on to an honest peer, and its answers through a function that is told what was
/// asked.
#[derive(Clone)]
struct Twisted {
    honest: Connection,
    twist: Arc<Twist>,
}

impl fmt::Debug for Twisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Twisted")
    }
}

impl Twisted {
    async fn stream(self, mut send: SendStream, mut recv: RecvStream) -> Option<()> {
        let question = recv.read_to_end(1 << 20).await.ok()?;
        let kind = *question.get(4)?;
        let (mut ask, mut answer) = self.honest.open_bi().await.ok()?;
        ask.write_all(&question).await.ok()?;
        ask.finish().ok()?;
        let Ok(answer) = answer.read_to_end(1 << 30).await else {
            return send.reset(VarInt::from_u32(1)).ok();
        };
        match (self.twist)(kind, answer) {
            Reply::Bytes(bytes) => {
                send.write_all(&bytes).await.ok()?;
                send.finish().ok()
            }
            Reply::Endless(bytes, again) => {
                send.write_all(&bytes).await.ok()?;
                while send.write_all(&again).await.is_ok() {}
                None
            }
            Reply::Silence => {
                self.honest.closed().await;
                None
            }
        }
    }
}

impl ProtocolHandler for Twisted {
    async fn accept(&self, conn: Connection) -> Result<(), AcceptError> {
        while let Ok((send, recv)) = conn.accept_bi().await {
            tokio::spawn(self.clone().stream(send, recv));
        }
        Ok(())
    }
}

/// An honest node and one that fetches from it, but for what is in between.
struct Between {
    from: Node,
    to: Node,
    honest: Router,
    twisted: Router,
    endpoint: Endpoint,
    straight: Connection,
    conn: Connection,
    fetcher: Fetcher,
    _dirs: [tempfile::TempDir; 2],
}

impl Between {
    async fn new(twist: impl Fn(u8, Vec<u8>) -> Reply + Send + Sync + 'static) -> Self {
        Self::with_patience(Duration::from_secs(30), twist).await
    }

    async fn with_patience(
        patience: Duration,
        twist: impl Fn(u8, Vec<u8>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
        let everybody = |_: EndpointId, hashes: &[Hash]| Ok(vec![true; hashes.len()]);
        let honest = Router::builder(endpoint().await)
            .accept(ALPN, ContentProtocol::new(&from.blobs, Arc::new(everybody)))
            .spawn();
        let endpoint = endpoint().await;
        let straight = endpoint.connect(addr(honest.endpoint()), ALPN).await;
        let straight = straight.unwrap();
        let handler = Twisted {
            honest: straight.clone(),
            twist: Arc::new(twist),
        };
        let twisted = Router::builder(common::net::endpoint().await)
            .accept(ALPN, handler)
            .spawn();
        let conn = endpoint.connect(addr(twisted.endpoint()), ALPN).await;
        let options = FetchOptions {
            patience,
            ..FetchOptions::default()
        };
        Self {
            fetcher: Fetcher::with_options(&to.blobs, options),
            from,
            to,
            honest,
            twisted,
            endpoint,
            straight,
            conn: conn.unwrap(),
            _dirs: dirs,
        }
    }

    fn put(&self, bytes: &[u8]) -> Want {
        self.from.put(bytes.to_vec());
        Want {
            hash: Hash::of(bytes),
            size: bytes.len() as u64,
            base: None,
        }
    }

    async fn fetch_from(&self, conn: &Connection, want: Want) -> Outcome {
        let mut fetched = self.fetcher.fetch(conn, vec![want], |_| {}).await;
        assert_eq!(fetched.len(), 1);
        fetched.remove(0).1
    }

    async fn fetch(&self, want: Want) -> Outcome {
        self.fetch_from(&self.conn, want).await
    }

    fn holds(&self, want: &Want) -> bool {
        let txn = self.to.store.read().unwrap();
        txn.has_content(&want.hash).unwrap()
    }

    /// Expects a refusal that says who and what, and that nothing was stored.
    async fn assert_refused(&self, want: Want) {
        let outcome = self.fetch(want).await;
        let Outcome::Failed(error) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let (text, peer) = (error.to_string(), self.conn.remote_id().to_string());
        assert!(
            text.contains(&peer) && text.contains(&want.hash.to_string()),
            "{text}"
        );
        assert!(!self.holds(&want));
    }

    /// Expects that the honest node is served from, whatever came before.
    async fn assert_recovers(&self, want: Want, bytes: &[u8]) {
        let outcome = self.fetch_from(&self.straight, want).await;
        assert!(outcome.is_here(), "{outcome:?}");
        assert!(self.to.read(iroh_blobs::Hash::new(bytes)) == bytes);
    }

    async fn close(self) {
        self.twisted.shutdown().await.unwrap();
        self.honest.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_contents_that_do_not_fit_are_refused() {
    let between = Between::new(|_, _| Reply::Bytes(frame(SMALL, &b"not it".to_vec()))).await;
    let bytes = b"what it is".to_vec();
    let want = between.put(&bytes);
    between.assert_refused(want).await;
    between.assert_recovers(want, &bytes).await;
    between.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_protocol_are_refused() {
    let over_long = (u32::MAX).to_le_bytes().to_vec();
    let half_gib = (512u32 << 20).to_le_bytes().to_vec();
    let cut_off = frame(SMALL, &vec![7u8; 100])[..50].to_vec();
    let another = frame(4, &vec![1u8]);
    let unknown = frame(99, &());
    let too_much = frame(SMALL, &vec![7u8; (64 << 10) + 1]);
    let large = frame(LARGE, &100_000u64);
    for (at, answer) in [
        over_long, half_gib, cut_off, another, unknown, too_much, large,
    ]
    .into_iter()
    .enumerate()
    {
        let between = Between::new(move |_, _| Reply::Bytes(answer.clone())).await;
        let bytes = painted(1000 + at, 1);
        let want = between.put(&bytes);
        between.assert_refused(want).await;
        between.assert_recovers(want, &bytes).await;
        between.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_an_end_ends() {
    // After the answer, others that nobody asked for.
    let between = Between::new(|_, honest| Reply::Endless(honest.clone(), honest)).await;
    let bytes = painted(1000, 1);
    let want = between.put(&bytes);
    assert!(matches!(between.fetch(want).await, Outcome::Fetched));
    between.close().await;
    // After a large content, and in place of one.
    for honest_first in [true, false] {
        let twist = move |_, honest: Vec<u8>| match honest_first {
            true => Reply::Endless(honest, vec![0; 100_000]),
            false => Reply::Endless(honest[..8].to_vec(), vec![0; 100_000]),
        };
        let between = Between::new(twist).await;
        let bytes = painted(3 << 20, 1);
        let want = between.put(&bytes);
        between.assert_refused(want).await;
        between.assert_recovers(want, &bytes).await;
        between.close().await;
    }
    // An answer that does not come.
    let short = Duration::from_millis(300);
    let between = Between::with_patience(short, |_, _| Reply::Silence).await;
    let bytes = painted(3 << 20, 1);
    let want = between.put(&bytes);
    let outcome = between.fetch(want).await;
    assert!(matches!(&outcome, Outcome::Failed(e) if e.kind() == ErrorKind::Io));
    assert!(!between.holds(&want));
    between.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_is_refused_before_anything_is_written() {
    let twist = |_, mut honest: Vec<u8>| {
        honest[..8].copy_from_slice(&(1u64 << 39).to_le_bytes());
        Reply::Bytes(honest)
    };
    let between = Between::new(twist).await;
    let bytes = painted(1 << 20, 1);
    let want = between.put(&bytes);
    between.assert_refused(want).await;
    assert_eq!(between.to.contents.usage().unwrap().staged, 0);
    between.assert_recovers(want, &bytes).await;
    between.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_changes_are_not_believed() {
    let size = 4 << 20;
    let base = painted(size, 1);
    let mut bytes = base.clone();
    bytes[2 << 20] ^= 1;
    let total = size as u64;
    type Groups = Vec<(u64, u64)>;
    let wrong: [Groups; 5] = [
        // Nothing differs.
        vec![],
        // Something else does.
        vec![(3, 1)],
        // What is outside the content.
        vec![(128, 1), (256, 3)],
        vec![(u64::MAX - 1, 1)],
        // More than is worth it.
        vec![(0, 256)],
    ];
    for groups in wrong {
        let twist = move |kind, honest| match kind {
            WANTS => Reply::Bytes(frame(CHANGED, &(total, groups.clone()))),
            _ => Reply::Bytes(honest),
        };
        let between = Between::new(twist).await;
        let hash = between.to.put(base.clone());
        let want = Want {
            base: Some(Hash::from_bytes(*hash.as_bytes())),
            ..between.put(&bytes)
        };
        // The hint was wrong, but what is sent is right.
        assert!(matches!(between.fetch(want).await, Outcome::Fetched));
        between.assert_recovers(want, &bytes).await;
        between.close().await;
    }
    // No sense at all: out of order, none, of another size.
    for (size, groups) in [
        (total, vec![(9, 1), (5u64, 1u64)]),
        (total, vec![(9, 0)]),
        (total + 1, vec![(128, 1)]),
    ] {
        let twist = move |_, _| Reply::Bytes(frame(CHANGED, &(size, groups.clone())));
        let between = Between::new(twist).await;
        let hash = between.to.put(base.clone());
        let want = Want {
            base: Some(Hash::from_bytes(*hash.as_bytes())),
            ..between.put(&bytes)
        };
        between.assert_refused(want).await;
        between.assert_recovers(want, &bytes).await;
        between.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_nodes_are_not_believed() {
    let base = painted(4 << 20, 1);
    let mut bytes = base.clone();
    bytes[2 << 20] ^= 1;
    let twists: [fn(Vec<u8>) -> Vec<u8>; 3] = [
        // All zeros, so that everything seems to differ.
        |honest| {
            let len = honest.len();
            let mut nodes = honest;
            nodes[7..len].fill(0);
            nodes
        },
        |_| frame(NODES, &vec![1u8; 32]),
        |_| frame(MISSING, &()),
    ];
    for (at, twist) in twists.into_iter().enumerate() {
        let twist = move |kind, honest| match kind {
            ASK_NODES => Reply::Bytes(twist(honest)),
            _ => Reply::Bytes(honest),
        };
        let between = Between::new(twist).await;
        let hash = between.to.put(base.clone());
        let want = Want {
            base: Some(Hash::from_bytes(*hash.as_bytes())),
            ..between.put(&bytes)
        };
        match at {
            1 => between.assert_refused(want).await,
            _ => assert!(matches!(between.fetch(want).await, Outcome::Fetched)),
        }
        between.assert_recovers(want, &bytes).await;
        between.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_is_changed_on_the_way_changes_nothing() {
    let mut random = Random(77);
    for round in 0..40u64 {
        let at = random.next();
        let twist = move |_, mut honest: Vec<u8>| {
            let at = (at % honest.len() as u64) as usize;
            honest[at] ^= 1 << (at % 8);
            Reply::Bytes(honest)
        };
        let between = Between::new(twist).await;
        let size = [100, 3000, 70_000, 400_000][round as usize % 4];
        let bytes = painted(size, round);
        let want = between.put(&bytes);
        let outcome = between.fetch(want).await;
        assert!(
            matches!(outcome, Outcome::Failed(_) | Outcome::Missing),
            "{outcome:?}"
        );
        assert!(!between.holds(&want));
        between.assert_recovers(want, &bytes).await;
        between.close().await;
    }
}

/// Sends bytes on a stream of their own; returns what comes back.
async fn say(conn: &Connection, bytes: &[u8]) -> Result<Vec<u8>, u64> {
    let (mut send, mut recv) = conn.open_bi().await.unwrap();
    // The other side may have stopped it.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let mut answer = Vec::new();
    loop {
        match recv.read_chunk(1 << 20).await {
            Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
            Ok(None) => return Ok(answer),
            Err(ReadError::Reset(code)) => return Err(code.into_inner()),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_break_the_protocol_are_refused() {
    let between = Between::new(|_, honest| Reply::Bytes(honest)).await;
    let bytes = painted(100_000, 1);
    let want = between.put(&bytes);
    let hash = *want.hash.as_bytes();
    let conn = &between.straight;
    let ask = (hash, None::<[u8; 32]>);
    let malformed = [
        u32::MAX.to_le_bytes().to_vec(),
        (65_537u32).to_le_bytes().to_vec(),
        vec![9, 0],
        frame(WANTS, &vec![ask; 513]),
        frame(HAS, &vec![hash; 1025]),
        frame(ASK_NODES, &(hash, 48u8, 0u64, 1u64)),
        frame(ASK_NODES, &(hash, 0u8, 0u64, 1025u64)),
        frame(ASK_NODES, &(hash, 0u8, 7u64, 1u64)),
        frame(ASK_NODES, &(hash, 0u8, u64::MAX, 1u64)),
        frame(ASK_NODES, &(hash, 47u8, 0u64, 1u64)),
        frame(RANGES, &(hash, vec![(0u64, 0u64)])),
        frame(RANGES, &(hash, vec![(u64::MAX - 1, 1u64)])),
        frame(RANGES, &(hash, vec![(3u64, 2u64), (4, 1)])),
        frame(RANGES, &(hash, vec![(0u64, 1u64); 2049])),
        frame(9, &hash),
        [frame(WANTS, &vec![ask]), vec![1, 2, 3]].concat(),
    ];
    for question in malformed {
        assert_eq!(say(conn, &question).await, Err(2), "{question:?}");
    }
    assert_eq!(say(conn, &[]).await, Ok(vec![]));
    let nowhere = frame(
        RANGES,
        &(*Hash::of(b"nowhere").as_bytes(), vec![(0u64, 1u64)]),
    );
    assert_eq!(say(conn, &nowhere).await, Err(1));
    // Past the end, the last group proves the size.
    let past = frame(RANGES, &(hash, vec![(1000u64, 5u64)]));
    let answer = say(conn, &past).await.unwrap();
    assert_eq!(answer[..8], 100_000u64.to_le_bytes());
    assert!(answer.len() < 20_000);
    between.assert_recovers(want, &bytes).await;
    between.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn millions_of_wants_wait_for_those_who_take_answers() {
    let between = Between::new(|_, honest| Reply::Bytes(honest)).await;
    let bytes = painted(60_000, 1);
    let want = between.put(&bytes);
    let hostile = endpoint().await;
    let conn = hostile.connect(addr(between.honest.endpoint()), ALPN).await;
    let conn = conn.unwrap();
    let ask = (*want.hash.as_bytes(), None::<[u8; 32]>);
    let question = frame(WANTS, &vec![ask; 512]);
    // On more streams than are answered, and nothing is taken.
    let mut streams = Vec::new();
    for _ in 0..40 {
        let (mut send, recv) = conn.open_bi().await.unwrap();
        let question = question.clone();
        let sent = tokio::spawn(async move {
            let mut count = 0;
            while count < 4000 && send.write_all(&question).await.is_ok() {
                count += 1;
            }
            count
        });
        streams.push((sent, recv));
    }
    let other = painted(200_000, 2);
    let other_want = between.put(&other);
    between.assert_recovers(other_want, &other).await;
    between.assert_recovers(want, &bytes).await;
    // Of two million wants a stream, the other side took no more than what it can answer.
    for (sent, recv) in streams {
        assert!(!sent.is_finished());
        sent.abort();
        drop(recv);
    }
    drop(conn);
    hostile.close().await;
    between.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_are_answered_or_refused() {
    let between = Between::new(|_, honest| Reply::Bytes(honest)).await;
    let bytes = painted(100_000, 1);
    let want = between.put(&bytes);
    let mut random = Random(9);
    for round in 0..300u64 {
        let mut body = painted(1 + random.below(200) as usize, round);
        body[0] = random.below(6) as u8;
        let len = (body.len() as u32).to_le_bytes();
        let question = [&len[..], &body].concat();
        let _ = say(&between.straight, &question).await;
    }
    between.assert_recovers(want, &bytes).await;
    between.close().await;
}

/// What is logged.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins the log, where no other test has.
fn log() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let logging = tracing_subscriber::fmt().with_ansi(false);
        let logging = logging.with_max_level(tracing::Level::WARN);
        logging.with_writer(|| Log).init();
    });
}

/// Returns the lines of the log that name a peer.
fn logged(peer: EndpointId) -> Vec<String> {
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    let id = peer.fmt_short().to_string();
    let lines = log.lines().filter(|line| line.contains(&id));
    lines.map(str::to_owned).collect()
}

/// Expects one line that warns of a peer, and returns it.
fn one_line(peer: EndpointId) -> String {
    let lines = logged(peer);
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert!(line.contains("WARN"), "{line}");
    line.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_the_protocol_is_logged_and_cannot_fill_the_log() {
    log();
    let between = Between::new(|_, honest| Reply::Bytes(honest)).await;
    for _ in 0..200 {
        assert_eq!(say(&between.straight, &[9, 0, 0, 0, 9]).await, Err(2));
    }
    let line = one_line(between.endpoint.id());
    assert!(line.contains("breaks the protocol"), "{line}");
    between.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_what_does_not_match_is_logged_and_cannot_fill_the_log() {
    log();
    for size in [3000, 200_000] {
        let twist = |_, mut honest: Vec<u8>| {
            *honest.last_mut().unwrap() ^= 1;
            Reply::Bytes(honest)
        };
        let between = Between::new(twist).await;
        let first = between.put(&painted(size, 0));
        between.assert_refused(first).await;
        for seed in 1..50 {
            let want = between.put(&painted(size, seed));
            between.assert_refused(want).await;
        }
        let line = one_line(between.twisted.endpoint().id());
        assert!(line.contains("does not match"), "{line}");
        assert!(line.contains(&first.hash.to_string()), "{line}");
        between.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_it_may_not_read_is_logged_and_cannot_fill_the_log() {
    log();
    let dir = tempfile::tempdir().unwrap();
    let node = Node::create(dir.path());
    let [open, hidden] = [1, 2].map(|seed| painted(100_000, seed));
    node.put(open.clone());
    node.put(hidden.clone());
    let [open, hidden, nowhere] = [&open[..], &hidden, b"nowhere"].map(Hash::of);
    let access = move |_: EndpointId, hashes: &[Hash]| {
        let may_read = hashes.iter().map(|hash| *hash == open);
        Ok(may_read.collect())
    };
    let protocol = ContentProtocol::new(&node.blobs, Arc::new(access));
    let theirs = GuardedBlobs::new(&node.blobs, Arc::new(access));
    let router = Router::builder(endpoint().await)
        .accept(ALPN, protocol)
        .accept(GuardedBlobs::ALPN, theirs)
        .spawn();
    let to = addr(router.endpoint());
    let questions = |hash: Hash| {
        let hash = *hash.as_bytes();
        let no = frame(HAS_BITS, &vec![0u8]);
        let missing = Ok(frame(MISSING, &()));
        [
            (
                frame(WANTS, &[(hash, None::<[u8; 32]>)].to_vec()),
                missing.clone(),
            ),
            (frame(HAS, &vec![hash]), Ok(no.clone())),
            (frame(KEEP, &vec![hash]), Ok(no)),
            (frame(ASK_NODES, &(hash, 0u8, 0u64, 1u64)), missing),
            (frame(RANGES, &(hash, vec![(0u64, 1u64)])), Err(1)),
        ]
    };

    // What is not here, and what may be read, is asked for by anybody.
    let honest = endpoint().await;
    let conn = honest.connect(to.clone(), ALPN).await.unwrap();
    for (question, answer) in questions(nowhere) {
        assert_eq!(say(&conn, &question).await, answer);
    }
    for (question, answer) in questions(open) {
        let is_kept = question[4] == KEEP;
        assert_eq!(say(&conn, &question).await == answer, is_kept);
    }
    // Nor is what it says that it has.
    let ask = (*open.as_bytes(), Some(*hidden.as_bytes()));
    say(&conn, &frame(WANTS, &vec![ask])).await.unwrap();
    assert_eq!(logged(honest.id()), [""; 0]);

    for (question, answer) in questions(hidden) {
        let hostile = endpoint().await;
        let conn = hostile.connect(to.clone(), ALPN).await.unwrap();
        for _ in 0..50 {
            assert_eq!(say(&conn, &question).await, answer);
        }
        let line = one_line(hostile.id());
        for word in ["may not read", "contents=1", "requests=1"] {
            assert!(line.contains(word), "{word}: {line}");
        }
        hostile.close().await;
    }
    // One request for many contents is told of as one, and all protocols count.
    let hostile = endpoint().await;
    let conn = hostile.connect(to.clone(), ALPN).await.unwrap();
    say(&conn, &frame(HAS, &vec![*hidden.as_bytes(); 1000]))
        .await
        .unwrap();
    let blobs = hostile
        .connect(to.clone(), GuardedBlobs::ALPN)
        .await
        .unwrap();
    let hidden = iroh_blobs::Hash::from_bytes(*hidden.as_bytes());
    assert!(get_blob(blobs.clone(), hidden).await.is_err());
    let line = one_line(hostile.id());
    assert!(line.contains("contents=1000"), "{line}");
    let other = endpoint().await;
    let blobs = other.connect(to, GuardedBlobs::ALPN).await.unwrap();
    for _ in 0..50 {
        assert!(get_blob(blobs.clone(), hidden).await.is_err());
    }
    one_line(other.id());
    router.shutdown().await.unwrap();
}
