//! Peers that do not keep to the protocol: they are refused, and the node goes on with the others.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use crate::common::{Node, now, offer};
use alknet_fs_core::Timestamp;
use alknet_fs_core::store::Durability;
use alknet_fs_core::sync::{
    Cut, Frame, MAX_FRAME, MAX_SCOPES, Replica as _, ReplicaId, Scope, VersionVector, Want,
};
use alknet_fs_net::Ticket;
use alknet_fs_net::{ALPN, Access, BucketUid, EndpointAddr, EndpointId, Offer, Records, SecretKey};
use alknet_fs_sync::Bucket;
use automerge::transaction::Transactable;
use automerge::{AutoCommit, ROOT};
use iroh::Endpoint;
use iroh::endpoint::{
    ConnectError, Connection, ConnectionError, QuicTransportConfig, ReadError, ReadExactError,
};
use iroh::endpoint::{RecvStream, SendStream, presets};
use iroh_gossip::api::GossipTopic;
use iroh_gossip::net::Gossip;

const UNKNOWN: u8 = 0;
const REVOKED: u8 = 1;
const EXPIRED: u8 = 2;
const VERSION: u8 = 3;
const MALFORMED: u8 = 5;

/// The code of a stream that is reset because what let the other side in was taken back.
const TAKEN_BACK: u32 = 2;

/// The code of a stream that is reset because of what the other side said.
const PROTOCOL: u32 = 4;

/// Somebody who speaks byte by byte.
struct Stranger {
    endpoint: Endpoint,
    to: EndpointAddr,
}

impl Stranger {
    async fn new(to: EndpointAddr) -> Self {
        Self::named(to, SecretKey::generate()).await
    }

    /// One that others know by its key.
    async fn named(to: EndpointAddr, key: SecretKey) -> Self {
        let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
        let builder = builder.secret_key(key).alpns(vec![ALPN.to_vec()]);
        let builder = builder.bind_addr("127.0.0.1:0").unwrap();
        let endpoint = builder.bind().await.unwrap();
        Self { endpoint, to }
    }

    async fn connect(&self) -> Connection {
        self.endpoint.connect(self.to.clone(), ALPN).await.unwrap()
    }

    /// Says bytes behind their length; returns what is answered, or the code of the reset.
    async fn say(&self, bytes: &[u8]) -> Result<Vec<u8>, u32> {
        let conn = self.connect().await;
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        say(&mut send, bytes).await;
        hear(&mut recv).await
    }

    async fn refused(&self, bytes: &[u8]) -> u8 {
        let answer = self.say(bytes).await.unwrap();
        assert_eq!(answer[..2], [1, 1], "refused");
        answer[2]
    }

    /// Is let in.
    async fn welcomed(&self, ticket: &Ticket) -> (Connection, SendStream, RecvStream) {
        let conn = self.connect().await;
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        let hello = exchanging(ticket.bucket, Some(ticket), None);
        say(&mut send, &hello).await;
        let answer = hear(&mut recv).await.unwrap();
        assert_eq!(answer[..2], [1, 0], "welcome");
        (conn, send, recv)
    }
}

async fn say(send: &mut SendStream, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    // Who is refused early may not get to the end.
    let _ = send.write_all(&length).await;
    let _ = send.write_all(bytes).await;
}

async fn hear(recv: &mut RecvStream) -> Result<Vec<u8>, u32> {
    let mut length = [0; 4];
    let code = |error| match error {
        ReadExactError::ReadError(ReadError::Reset(code)) => {
            u32::try_from(code.into_inner()).unwrap()
        }
        ReadExactError::ReadError(ReadError::ConnectionLost(
            ConnectionError::ApplicationClosed(close),
        )) => u32::try_from(close.error_code.into_inner()).unwrap(),
        other => panic!("{other}"),
    };
    recv.read_exact(&mut length).await.map_err(code)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    recv.read_exact(&mut bytes).await.map_err(code)?;
    Ok(bytes)
}

/// Hears frames until the stream is reset; returns the code.
async fn until_reset(recv: &mut RecvStream) -> u32 {
    loop {
        if let Err(code) = hear(recv).await {
            return code;
        }
    }
}

/// Where nobody is reached.
const NOWHERE: (Vec<std::net::SocketAddr>, Vec<String>) = (Vec::new(), Vec::new());

/// Asks for a bucket, and to be told of its members.
fn exchanging(bucket: BucketUid, ticket: Option<&Ticket>, allows: Option<Access>) -> Vec<u8> {
    let ticket = ticket.map(|ticket| (ticket.grant, ticket.secret.clone()));
    let statements = Some([0u8; 16]);
    let hello = (
        [1u8].as_slice(),
        bucket,
        ticket,
        NOWHERE,
        [8u8; 16],
        statements,
        allows,
    );
    postcard::to_extend(&hello, vec![1]).unwrap()
}

fn hello(format: u8, versions: &[u8], bucket: BucketUid, ticket: Option<&Ticket>) -> Vec<u8> {
    let ticket = ticket.map(|ticket| (ticket.grant, ticket.secret.clone()));
    let addrs = NOWHERE;
    let (statements, allows) = (None::<[u8; 16]>, None::<Access>);
    let hello = (
        versions, bucket, ticket, addrs, [8u8; 16], statements, allows,
    );
    postcard::to_extend(&hello, vec![format]).unwrap()
}

/// A change of an automerge document.
fn automerge_change() -> Vec<u8> {
    let mut doc = AutoCommit::new();
    for n in 0..40 {
        doc.put(ROOT, format!("/dir/{n}"), vec![7u8; 20]).unwrap();
    }
    doc.commit();
    doc.get_last_local_change().unwrap().raw_bytes().to_vec()
}

/// The same, in which a count of 40 became one of 2^62.
fn automerge_bomb() -> Vec<u8> {
    let mut change = automerge_change();
    let at = change.iter().position(|byte| *byte == 40).unwrap();
    change.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]);
    change
}

/// A node with a bucket, and what proves afterwards that it still works.
async fn node() -> (Node, alknet_fs_core::store::BucketId) {
    let node = Node::start().await;
    let bucket = node.bucket("work");
    node.write(bucket, "main", "/here");
    (node, bucket)
}

async fn still_works(node: &Node, bucket: alknet_fs_core::store::BucketId) {
    let other = Node::start().await;
    let there = other.bucket("work");
    other.join(there, &node.share(bucket, offer(Access::Write)));
    other.shows(there, "main", &["/here"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_right_is_told_nothing() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    let stranger = Stranger::new(node.net().addr()).await;
    let nowhere = BucketUid([7; 16]);
    let with = |ticket: &Ticket| hello(1, &[1], ticket.bucket, Some(ticket));
    let altered = Ticket {
        secret: node.share(bucket, offer(Access::Write)).secret,
        ..ticket.clone()
    };
    let elsewhere = Ticket {
        bucket: nowhere,
        ..ticket.clone()
    };
    // All of these look alike from outside.
    for question in [
        hello(1, &[1], ticket.bucket, None),
        hello(1, &[1], nowhere, None),
        with(&altered),
        with(&elsewhere),
    ] {
        assert_eq!(stranger.refused(&question).await, UNKNOWN);
    }
    let past = Offer {
        expires: Some(Timestamp(now().0 - 1)),
        ..offer(Access::Write)
    };
    let expired = node.share(bucket, past);
    assert_eq!(stranger.refused(&with(&expired)).await, EXPIRED);
    let revoked = node.share(bucket, offer(Access::Write));
    Records::update(&*node.store, Durability::Full, |records, _| {
        records.revoke_grant(revoked.grant, now())
    })
    .unwrap();
    assert_eq!(stranger.refused(&with(&revoked)).await, REVOKED);
    stranger.welcomed(&ticket).await;
    // With its own key taken back, the ticket helps nobody any more.
    let peer = stranger.endpoint.id();
    Records::update(&*node.store, Durability::Full, |records, _| {
        Ok(records.revoke_peer(peer, now()))
    })
    .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // Until the node has noticed, it is let in; when it notices, who is in is sent away.
    loop {
        match stranger.say(&with(&ticket)).await {
            Ok(answer) if answer[..3] == [1, 1, REVOKED] => break,
            answer => assert!(matches!(answer, Ok(_) | Err(TAKEN_BACK)), "{answer:?}"),
        }
        assert!(Instant::now() < deadline);
    }
    let again = Stranger::new(node.net().addr()).await;
    assert_eq!(again.refused(&with(&ticket)).await, REVOKED);
    // It says so to those alone who have seen the ticket.
    let unseen = hello(1, &[1], ticket.bucket, None);
    assert_eq!(again.refused(&unseen).await, UNKNOWN);
    still_works(&node, bucket).await;
}

/// Somebody who lets nobody in is asked again when something changed, and no more often.
#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_is_asked_seldom() {
    let giver = Stranger::new(EndpointAddr::new(SecretKey::generate().public())).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (endpoint, count) = (giver.endpoint.clone(), Arc::clone(&asked));
    let refusing = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(incoming) = endpoint.accept().await {
            let conn = incoming.await.unwrap();
            let (inner, count) = (conn.clone(), Arc::clone(&count));
            kept.push(conn);
            tokio::spawn(async move {
                while let Ok((mut send, mut recv)) = inner.accept_bi().await {
                    hear(&mut recv).await.unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                    say(&mut send, &[1, 1, UNKNOWN, 1, 1]).await;
                    let _ = send.finish();
                }
            });
        }
    });
    let (node, bucket) = node().await;
    let refused = node.bucket("refused");
    let ticket = Ticket {
        addr: giver.endpoint.addr(),
        bucket: BucketUid([3; 16]),
        ..node.share(bucket, offer(Access::Write))
    };
    node.join(refused, &ticket);
    for times in 1..=5 {
        let is_refused = async || {
            let links = node.links().await;
            let mut taken = links.iter().filter(|link| !link.shared);
            taken.any(|link| link.refused.is_some()) && asked.load(Ordering::SeqCst) == times
        };
        crate::common::until("it is refused", is_refused).await;
        node.write(refused, "main", &format!("/{times}"));
        assert_eq!(asked.load(Ordering::SeqCst), times);
        Records::update(&*node.store, Durability::Full, |records, _| {
            records.peer_mut(ticket.addr.id).name = Some(format!("giver {times}"));
            Ok(())
        })
        .unwrap();
    }
    refusing.abort();
    still_works(&node, bucket).await;
}

/// How often what is tried after 200 ms, and then each time after twice as long, is tried in some seconds.
fn tries(seconds: u64) -> usize {
    let ends = (0..).map(|n| 200 * ((1 << n) - 1));
    ends.take_while(|millis| *millis < 1000 * seconds).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_each_conversation_at_once_is_asked_ever_more_seldom() {
    let giver = Stranger::new(EndpointAddr::new(SecretKey::generate().public())).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (endpoint, count) = (giver.endpoint.clone(), Arc::clone(&asked));
    let ending = tokio::spawn(async move {
        let conn = endpoint.accept().await.unwrap().await.unwrap();
        while let Ok((mut send, mut recv)) = conn.accept_bi().await {
            hear(&mut recv).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            // It stops, it says.
            let _ = send.reset(1u32.into());
        }
    });
    let (node, bucket) = node().await;
    let ended = node.bucket("ended");
    let ticket = Ticket {
        addr: giver.endpoint.addr(),
        bucket: BucketUid([3; 16]),
        ..node.share(bucket, offer(Access::Write))
    };
    let begun = Instant::now();
    node.join(ended, &ticket);
    // It comes back at once as long as that is not all it does.
    crate::common::until("it comes back", async || asked.load(Ordering::SeqCst) > 5).await;
    let is_over = async || begun.elapsed() > Duration::from_secs(5);
    crate::common::until("some seconds are over", is_over).await;
    let asked = asked.load(Ordering::SeqCst);
    let seconds = begun.elapsed().as_secs() + 1;
    // Four times at once, and when what is known of the giver changes.
    assert!(asked <= 6 + tries(seconds), "{asked}");
    ending.abort();
    still_works(&node, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_dialled_ever_more_seldom() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    // One lets no connection come about, and says so; the other one says nothing at all.
    let away = Stranger::new(EndpointAddr::new(SecretKey::generate().public())).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let (endpoint, count) = (away.endpoint.clone(), Arc::clone(&refused));
    let refusing = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            incoming.refuse();
        }
    });
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = EndpointAddr::new(SecretKey::generate().public());
    let silent = silent.with_ip_addr(socket.local_addr().unwrap());
    let dialled = Arc::new(Mutex::new(HashSet::new()));
    let ids = Arc::clone(&dialled);
    let listening = tokio::spawn(async move {
        let mut packet = [0; 2000];
        while let Ok((length, _)) = socket.recv_from(&mut packet).await {
            // What begins a connection has a long header, and the same id in it until it is answered.
            if length > 6 && packet[0] & 0x80 != 0 {
                let id = packet[6..].iter().take(usize::from(packet[5]));
                ids.lock().unwrap().insert(id.copied().collect::<Vec<_>>());
            }
        }
    });
    let begun = Instant::now();
    for (n, addr) in [(1, away.endpoint.addr()), (2, silent)] {
        let joined = node.bucket(&format!("from-{n}"));
        let ticket = Ticket {
            addr,
            bucket: BucketUid([n; 16]),
            ..ticket.clone()
        };
        node.join(joined, &ticket);
    }
    let dialled = || dialled.lock().unwrap().len();
    crate::common::until("both are dialled", async || {
        refused.load(Ordering::SeqCst) > 2 && dialled() > 0
    })
    .await;
    let is_over = async || begun.elapsed() > Duration::from_secs(5);
    crate::common::until("some seconds are over", is_over).await;
    let (refused, dialled) = (refused.load(Ordering::SeqCst), dialled());
    let seconds = begun.elapsed().as_secs() + 1;
    assert!(refused <= tries(seconds), "{refused}");
    assert!(
        dialled <= 1 + usize::try_from(seconds / 20).unwrap(),
        "{dialled}"
    );
    refusing.abort();
    listening.abort();
    still_works(&node, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_that_makes_no_sense_is_refused() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    let stranger = Stranger::new(node.net().addr()).await;
    let good = hello(1, &[1], ticket.bucket, Some(&ticket));
    let version = hello(9, &[1], ticket.bucket, Some(&ticket));
    assert_eq!(stranger.refused(&version).await, VERSION);
    let version = hello(1, &[200], ticket.bucket, Some(&ticket));
    assert_eq!(stranger.refused(&version).await, VERSION);
    // Of those that it speaks, one is taken that is spoken here.
    let newer = Stranger::new(node.net().addr()).await;
    let versions = hello(1, &[200, 1], ticket.bucket, Some(&ticket));
    let answer = newer.say(&versions).await.unwrap();
    assert_eq!(answer[..3], [1, 0, 1], "welcome, to version 1");
    for cut in 1..good.len() {
        assert_eq!(stranger.refused(&good[..cut]).await, MALFORMED, "{cut}");
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(stranger.refused(&longer).await, MALFORMED);
    let many = hello(1, &[1; 17], ticket.bucket, None);
    assert_eq!(stranger.refused(&many).await, MALFORMED);
    assert_eq!(stranger.say(&[]).await, Err(PROTOCOL));
    assert_eq!(stranger.refused(&vec![1; 4096]).await, MALFORMED);
    assert_eq!(stranger.say(&vec![1; 4097]).await, Err(PROTOCOL));
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..100 {
        let mut bytes = vec![0; rng.usize(1..300)];
        rng.fill(&mut bytes);
        bytes[0] = 1;
        let reason = stranger.refused(&bytes).await;
        assert!([UNKNOWN, VERSION, MALFORMED].contains(&reason));
    }
    still_works(&node, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_nothing_is_sent_away() {
    let (node, bucket) = node().await;
    let silent = Stranger::new(node.net().addr()).await;
    let conn = silent.connect().await;
    let half = Stranger::new(node.net().addr()).await;
    let begun = half.connect().await;
    let (mut send, _recv) = begun.open_bi().await.unwrap();
    send.write_all(&[200, 0, 0]).await.unwrap();
    // Meanwhile others are served.
    still_works(&node, bucket).await;
    for conn in [conn, begun] {
        let closed = tokio::time::timeout(Duration::from_secs(20), conn.closed()).await;
        assert!(matches!(
            closed,
            Ok(ConnectionError::ApplicationClosed(close)) if close.error_code.into_inner() == 4
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_make_no_sense_end_the_conversation() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    let stranger = Stranger::new(node.net().addr()).await;
    let frames: [Vec<u8>; 5] = [
        vec![],
        vec![9, 9, 9],
        vec![1],
        vec![1, 77],
        [
            &Frame::Summary {
                digest: [0; 16],
                answer: true,
            }
            .encode()[..],
            &[0],
        ]
        .concat(),
    ];
    for frame in frames {
        let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
        say(&mut send, &frame).await;
        assert_eq!(until_reset(&mut recv).await, PROTOCOL, "{frame:?}");
    }
    // A length that is only a claim.
    let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
    let length = u32::try_from(MAX_FRAME + 1).unwrap();
    send.write_all(&length.to_le_bytes()).await.unwrap();
    assert_eq!(until_reset(&mut recv).await, PROTOCOL);
    // Cuts that are none: noise, more registers than there are bytes, and changes of automerge, as they
    // are and where a few bytes stand for billions of values.
    let scope = Scope([0x42; 16]);
    let many = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for changes in [vec![0xff; 100], many, automerge_change(), automerge_bomb()] {
        let cut = Cut {
            replica: ReplicaId([1; 16]),
            number: 1,
            seen: VersionVector::new(),
            more: false,
            changes,
        };
        let cuts = Frame::Cuts {
            scope,
            cuts: vec![cut],
        };
        let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
        say(&mut send, &cuts.encode()).await;
        assert_eq!(until_reset(&mut recv).await, PROTOCOL);
    }
    // Pages that are none, of which nobody had the first.
    for (from, page) in [
        (Vec::new(), vec![0; 100]),
        (Vec::new(), automerge_bomb()),
        (vec![0xff; 100], Vec::new()),
    ] {
        let page = Frame::State {
            scope,
            next: Some(from.clone()),
            from,
            pause: true,
            page,
        };
        let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
        say(&mut send, &page.encode()).await;
        assert_eq!(until_reset(&mut recv).await, PROTOCOL);
    }
    // A place in pages where none begins.
    let want = Frame::Want {
        scope: Scope::of_first_branch(),
        what: Want::From(vec![0xff; 100]),
    };
    let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
    say(&mut send, &want.encode()).await;
    assert_eq!(until_reset(&mut recv).await, PROTOCOL);
    // One that speaks of more than a bucket can have.
    let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
    for page in 0..8u32 {
        let vectors = (0..4096u32).map(|n| {
            let mut scope = [0; 16];
            scope[..8].copy_from_slice(&(u64::from(page) << 32 | u64::from(n)).to_be_bytes());
            (Scope(scope), VersionVector::new())
        });
        let frame = Frame::Vectors {
            vectors: vectors.collect(),
            answer: false,
        };
        say(&mut send, &frame.encode()).await;
    }
    assert_eq!(until_reset(&mut recv).await, PROTOCOL);
    still_works(&node, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_and_writes_is_refused() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Read));
    let stranger = Stranger::new(node.net().addr()).await;
    let cut = Cut {
        replica: ReplicaId([1; 16]),
        number: 1,
        seen: VersionVector::new(),
        more: false,
        changes: Vec::new(),
    };
    let scope = Scope([1; 16]);
    let page = Frame::State {
        scope,
        from: Vec::new(),
        next: None,
        pause: true,
        page: vec![0],
    };
    let cuts = vec![cut];
    for said in [page, Frame::Cuts { scope, cuts }] {
        let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
        say(&mut send, &said.encode()).await;
        assert_eq!(until_reset(&mut recv).await, PROTOCOL);
    }
    assert_eq!(node.paths(bucket, "main"), ["/here"]);
    let links = node.links().await;
    let trouble = links[0].trouble.as_deref().unwrap();
    assert!(trouble.contains("grant does not allow"), "{trouble}");
    still_works(&node, bucket).await;
}

/// A store of its own with a bucket that has the same branches, and what a peer says from there.
struct Replica {
    node: Node,
    bucket: alknet_fs_core::store::BucketId,
    documents: Bucket,
}

impl Replica {
    async fn new(forks: &[&str]) -> Self {
        let node = Node::start().await;
        let bucket = node.bucket("work");
        for fork in forks {
            node.fork(bucket, fork);
        }
        let documents = Bucket::open(Arc::clone(&node.store), bucket, ReplicaId([0x5a; 16]));
        Self {
            documents: documents.unwrap(),
            bucket,
            node,
        }
    }

    /// Writes something; returns the scope, and all cuts of it.
    fn write(&mut self, branch: &str, path: &str) -> (Scope, Vec<Cut>) {
        self.node.write(self.bucket, branch, path);
        self.documents.gather(now()).unwrap();
        let id = self.node.branch(self.bucket, branch);
        let mut scopes = self.documents.scopes();
        let (scope, _) = scopes.find(|(_, branch)| *branch == Some(id)).unwrap();
        drop(scopes);
        let nothing = VersionVector::new();
        let cuts = self.documents.cuts_after(scope, &nothing, usize::MAX);
        (scope, cuts.unwrap())
    }
}

/// Sends a frame to a node that refuses it.
async fn is_refused(stranger: &Stranger, ticket: &Ticket, frame: &Frame) {
    let (_conn, mut send, mut recv) = stranger.welcomed(ticket).await;
    say(&mut send, &frame.encode()).await;
    assert_eq!(until_reset(&mut recv).await, PROTOCOL, "{frame:?}");
}

/// The first and last page of what a scope holds, with nothing in it.
fn page_of(scope: Scope) -> Frame {
    Frame::State {
        scope,
        from: Vec::new(),
        next: None,
        pause: true,
        page: vec![0],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_one_branch_gets_and_changes_no_other() {
    let (node, bucket) = node().await;
    let forks = ["shown", "hidden"];
    for fork in forks {
        node.fork(bucket, fork);
    }
    node.write(bucket, "shown", "/given");
    node.write(bucket, "hidden", "/secret");
    let part = Offer {
        branches: vec!["shown".to_owned()],
        ..offer(Access::Write)
    };
    let ticket = node.share(bucket, part);
    let mut replica = Replica::new(&forks).await;
    let (main, main_cuts) = replica.write("main", "/into-main");
    let (shown, shown_cuts) = replica.write("shown", "/into-shown");
    let (hidden, hidden_cuts) = replica.write("hidden", "/into-hidden");
    let stranger = Stranger::new(node.net().addr()).await;
    let tells = |bytes: &[u8]| {
        let of_it = |what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
        of_it(&hidden.0) || of_it(b"secret")
    };
    let hello = hello(1, &[1], ticket.bucket, Some(&ticket));
    let answer = stranger.say(&hello).await.unwrap();
    assert!(answer.windows(16).any(|part| part == shown.0) && !tells(&answer));

    // It asks for all that it can think of.
    let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
    let nothing = VersionVector::new();
    let unknown = Scope([0x42; 16]);
    let wants = |scope| {
        [
            Want::Moment(nothing.clone()),
            Want::From(replica.documents.first_page(hidden).unwrap()),
        ]
        .map(|what| Frame::Want { scope, what })
    };
    let asks = [
        Frame::Digests {
            from: Scope::FIRST,
            to: Scope::LAST,
            digests: Vec::new(),
        },
        Frame::Vectors {
            vectors: vec![(hidden, nothing.clone())],
            answer: true,
        },
    ];
    for ask in asks.iter().chain(&wants(hidden)).chain(&wants(unknown)) {
        say(&mut send, &ask.encode()).await;
    }
    let (mut got, mut refused) = (HashSet::new(), HashSet::new());
    let mut hears = async |recv: &mut RecvStream| {
        let hear = tokio::time::timeout(Duration::from_secs(20), hear(recv));
        let frame = Frame::decode(&hear.await.expect("an answer").unwrap()).unwrap();
        match &frame {
            Frame::Cuts { scope, .. } => drop(got.insert(*scope)),
            Frame::State {
                scope, next, page, ..
            } if next.is_none() && page.is_empty() => {
                refused.insert(*scope);
                return (frame, got.len(), refused.len());
            }
            _ => {}
        }
        assert!(!tells(&frame.encode()), "{frame:?}");
        (frame, got.len(), refused.len())
    };
    // What is there and what is not is refused alike.
    while !matches!(hears(&mut recv).await, (_, 2, 2)) {}
    let summary = Frame::Summary {
        digest: [0; 16],
        answer: true,
    };
    say(&mut send, &summary.encode()).await;
    while !matches!(hears(&mut recv).await, (Frame::Digests { .. }, ..)) {}
    assert_eq!(got, HashSet::from([main, shown]));
    assert_eq!(refused, HashSet::from([hidden, unknown]));
    drop((send, recv));

    // It writes where it may not: in another branch, in that which it may only read, and in none.
    let cuts = |scope, cuts: &[Cut]| {
        let cuts = cuts.to_vec();
        Frame::Cuts { scope, cuts }
    };
    for frame in [
        cuts(hidden, &hidden_cuts),
        cuts(main, &main_cuts),
        cuts(unknown, &hidden_cuts),
        page_of(hidden),
        page_of(main),
    ] {
        is_refused(&stranger, &ticket, &frame).await;
    }
    let shows = |branch| node.paths(bucket, branch);
    assert_eq!(shows("main"), ["/here"]);
    assert_eq!(shows("shown"), ["/given", "/here"]);
    assert_eq!(shows("hidden"), ["/here", "/secret"]);
    // All of it would count where it may.
    let (_conn, mut send, _recv) = stranger.welcomed(&ticket).await;
    say(&mut send, &cuts(shown, &shown_cuts).encode()).await;
    node.shows(bucket, "shown", &["/given", "/here", "/into-shown"])
        .await;
    assert_eq!(shows("hidden"), ["/here", "/secret"]);
    let whole = node.share(bucket, offer(Access::Write));
    let writer = Stranger::new(node.net().addr()).await;
    let (_conn, mut send, _recv) = writer.welcomed(&whole).await;
    say(&mut send, &cuts(main, &main_cuts).encode()).await;
    say(&mut send, &cuts(hidden, &hidden_cuts).encode()).await;
    let all = ["/here", "/into-hidden", "/into-main", "/secret"];
    node.shows(bucket, "hidden", &all).await;
}

/// Somebody whom the giver let in to read asks another member, and writes.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_and_writes_as_a_member_is_refused_by_all() {
    let (hub, bucket) = node().await;
    let (one, other) = (Node::start().await, Node::start().await);
    let (on_one, on_other) = (one.bucket("work"), other.bucket("work"));
    let write = hub.share(bucket, offer(Access::Write));
    one.join(on_one, &write);
    other.join(on_other, &write);
    let read = hub.share(bucket, offer(Access::Read));
    let reader = Stranger::new(hub.net().addr()).await;
    let id = reader.endpoint.id();
    let (_at_hub, _send, _recv) = reader.welcomed(&read).await;
    let nodes = [(&hub, bucket), (&one, on_one), (&other, on_other)];
    let is_reader = |(node, bucket): &(&Node, _)| {
        let members = node.members(*bucket);
        members.get(&id).map(|member| member.access) == Some(Access::Read)
    };
    crate::common::until("all know the reader", async || nodes.iter().all(is_reader)).await;

    let mut replica = Replica::new(&[]).await;
    let (scope, cuts) = replica.write("main", "/by-the-reader");
    let cuts = Frame::Cuts { scope, cuts };
    let asks = exchanging(read.bucket, None, Some(Access::Write));
    // What it says of itself changes nothing.
    let key = reader.endpoint.secret_key().clone();
    let vouches = statement(id, &key, read.bucket, id, Some(Access::Write), now());
    for to in [&one, &other] {
        let member = Stranger {
            endpoint: reader.endpoint.clone(),
            to: to.net().addr(),
        };
        let conn = member.connect().await;
        for frame in [&cuts, &page_of(scope), &cuts] {
            let (mut send, mut recv) = conn.open_bi().await.unwrap();
            say(&mut send, &asks).await;
            let answer = hear(&mut recv).await.unwrap();
            assert_eq!(answer[..4], [1, 0, 1, 0], "welcome, to read");
            tell(&conn, &members(read.bucket, std::slice::from_ref(&vouches))).await;
            say(&mut send, &frame.encode()).await;
            assert_eq!(until_reset(&mut recv).await, PROTOCOL);
        }
    }
    is_refused(&reader, &read, &cuts).await;
    one.write(on_one, "main", "/by-one");
    for (node, bucket) in nodes {
        node.shows(bucket, "main", &["/by-one", "/here"]).await;
        assert!(is_reader(&(node, bucket)));
    }
    // From somebody who may write, all take it.
    let writer = Stranger::new(hub.net().addr()).await;
    let (_conn, mut send, _recv) = writer.welcomed(&write).await;
    say(&mut send, &cuts.encode()).await;
    for (node, bucket) in nodes {
        node.shows(bucket, "main", &["/by-one", "/by-the-reader", "/here"])
            .await;
    }
}

/// A giver's answer that lets in: to the whole bucket, or to some scopes.
fn welcome(version: u8, scopes: Option<Vec<(Scope, bool)>>) -> Vec<u8> {
    let statements = None::<[u8; 16]>;
    let welcome = (
        version,
        Access::Write,
        scopes,
        NOWHERE,
        [9u8; 16],
        statements,
    );
    postcard::to_extend(&welcome, vec![1, 0]).unwrap()
}

/// What a giver says that does not keep to the protocol, by its number; nothing for more.
fn of_a_bad_giver(number: u8) -> Option<Vec<Vec<u8>>> {
    let framed = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        [&length[..], bytes].concat()
    };
    let claims = |length: usize| u32::try_from(length).unwrap().to_le_bytes().to_vec();
    let scopes = |count: u128| (0..count).map(|n| Scope(n.to_be_bytes()));
    let let_in = framed(&welcome(1, None));
    let scope = Scope([0x42; 16]);
    let cut = |changes| Cut {
        replica: ReplicaId([1; 16]),
        number: 1,
        seen: VersionVector::new(),
        more: false,
        changes,
    };
    let cuts = |changes| {
        let cuts = vec![cut(changes)];
        framed(&Frame::Cuts { scope, cuts }.encode())
    };
    let many: Vec<_> = scopes(16 * 1024 + 1).collect();
    let of_many = |each: &dyn Fn(Scope) -> Frame| {
        let frames = many.iter().map(|scope| framed(&each(*scope).encode()));
        frames.collect::<Vec<_>>().concat()
    };
    Some(match number {
        // Instead of an answer.
        0 => vec![framed(&[1, 9, 9])],
        1 => vec![claims(0)],
        2 => vec![claims((256 << 10) + 1)],
        3 => vec![framed(&welcome(2, None))],
        4 => {
            let scopes = scopes(MAX_SCOPES as u128 + 1).map(|scope| (scope, true));
            vec![framed(&welcome(1, Some(scopes.collect())))]
        }
        // Behind it.
        5 => vec![let_in, framed(&[1, 77])],
        6 => vec![let_in, claims(MAX_FRAME + 1)],
        7 => vec![let_in, cuts(vec![0xff; 100])],
        8 => vec![let_in, cuts(automerge_bomb())],
        9 => vec![let_in, framed(&page_of(scope).encode())],
        // Of a branch that the ticket is not for.
        10 => {
            let only = framed(&welcome(1, Some(vec![(Scope::FIRST, true)])));
            vec![only, cuts(Vec::new())]
        }
        // Of more branches than a bucket may have.
        11 => {
            let vectors = |part: &[Scope]| {
                let nothing = VersionVector::new();
                let vectors = part.iter().map(|scope| (*scope, nothing.clone()));
                let (vectors, answer) = (vectors.collect(), false);
                framed(&Frame::Vectors { vectors, answer }.encode())
            };
            let frames: Vec<_> = many.chunks(MAX_SCOPES).map(vectors).collect();
            vec![let_in, frames.concat()]
        }
        12 => {
            let want = |scope| Frame::Want {
                scope,
                what: Want::From(Vec::new()),
            };
            vec![let_in, of_many(&want)]
        }
        _ => return None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giver_that_does_wrong_harms_nobody_who_joins() {
    let (good, bucket) = node().await;
    let bad = Stranger::new(EndpointAddr::new(SecretKey::generate().public())).await;
    let ends = Arc::new(Mutex::new(BTreeMap::new()));
    let (endpoint, noted) = (bad.endpoint.clone(), Arc::clone(&ends));
    let giving = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (conn, noted) = (incoming.await.unwrap(), Arc::clone(&noted));
            tokio::spawn(async move {
                while let Ok((mut send, mut recv)) = conn.accept_bi().await {
                    let noted = Arc::clone(&noted);
                    tokio::spawn(async move {
                        let question = hear(&mut recv).await.unwrap();
                        // Behind the version of the greeting and one of the protocol.
                        let number = question[3];
                        for bytes in of_a_bad_giver(number).unwrap() {
                            let _ = send.write_all(&bytes).await;
                        }
                        let code = until_reset(&mut recv).await;
                        noted.lock().unwrap().entry(number).or_insert(code);
                    });
                }
            });
        }
    });
    let node = Node::start().await;
    let there = node.bucket("work");
    let ticket = good.share(bucket, offer(Access::Write));
    node.join(there, &ticket);
    let count = (0..).take_while(|n| of_a_bad_giver(*n).is_some()).count();
    let harmed: Vec<_> = (0..u8::try_from(count).unwrap())
        .map(|number| {
            let name = format!("of-{number}");
            let harmed = node.bucket(&name);
            node.write(harmed, "main", "/own");
            let ticket = Ticket {
                addr: bad.endpoint.addr(),
                bucket: BucketUid([number; 16]),
                ..ticket.clone()
            };
            node.join(harmed, &ticket);
            harmed
        })
        .collect();
    crate::common::until("all of it is refused", async || {
        ends.lock().unwrap().len() == count
    })
    .await;
    let ends = ends.lock().unwrap().clone();
    assert!(ends.values().all(|code| *code == PROTOCOL), "{ends:?}");
    giving.abort();
    for bucket in harmed {
        node.write(bucket, "main", "/still");
        assert_eq!(node.paths(bucket, "main"), ["/own", "/still"]);
    }
    node.write(there, "main", "/there");
    good.shows(bucket, "main", &["/here", "/there"]).await;
    node.shows(there, "main", &["/here", "/there"]).await;
}

/// One that reads nothing makes nobody wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_holds_up_nobody() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    let stranger = Stranger::new(node.net().addr()).await;
    let (_conn, mut send, _recv) = stranger.welcomed(&ticket).await;
    let digests = Frame::Digests {
        from: Scope([0; 16]),
        to: Scope([0xff; 16]),
        digests: Vec::new(),
    };
    // It asks for everything again and again, as long as it may.
    let asking = tokio::spawn(async move {
        let digests = digests.encode();
        let length = u32::try_from(digests.len()).unwrap().to_le_bytes();
        let said = [&length[..], &digests].concat();
        while send.write_all(&said).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    for n in 0..20 {
        node.write(bucket, "main", &format!("/{n:02}"));
    }
    let other = Node::start().await;
    let there = other.bucket("work");
    other.join(there, &ticket);
    crate::common::until("all of it", async || other.paths(there, "main").len() == 21).await;
    asking.abort();
}

/// Who asks again and again and takes no answer is not heard any more until it does.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_peer_that_takes_no_answer_only_so_much_is_heard() {
    let (node, bucket) = node().await;
    // More than the stranger takes without reading it.
    for n in 0..40 {
        node.write(bucket, "main", &format!("/{n}{}", "x".repeat(200)));
    }
    let ticket = node.share(bucket, offer(Access::Write));
    let mut stranger = Stranger::new(node.net().addr()).await;
    let transport = QuicTransportConfig::builder()
        .stream_receive_window(4096u32.into())
        // What waits to be sent was not heard.
        .send_window(1 << 16);
    let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
    let builder = builder.transport_config(transport.build());
    let builder = builder.bind_addr("127.0.0.1:0").unwrap();
    stranger.endpoint = builder.bind().await.unwrap();
    let (_conn, mut send, mut recv) = stranger.welcomed(&ticket).await;
    let scope = Scope::of_first_branch();
    let nothing = Frame::Vectors {
        vectors: vec![(scope, VersionVector::new())],
        answer: true,
    };
    say(&mut send, &nothing.encode()).await;
    let replicas = (0..4000u128).map(|n| (ReplicaId(n.to_be_bytes()), 1));
    let want = Frame::Want {
        scope,
        what: Want::Moment(replicas.collect()),
    };
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let asking = tokio::spawn(async move {
        let want = want.encode();
        let length = u32::try_from(want.len()).unwrap().to_le_bytes();
        let said = [&length[..], &want].concat();
        while send.write_all(&said).await.is_ok() {
            count.fetch_add(said.len(), Ordering::SeqCst);
        }
    });
    // 16 MiB from when it took the last of what fits in its window, at whatever time that was, and what
    // was sent and not heard.
    let most = 40 << 20;
    let (mut last, mut since) = (0, Instant::now());
    crate::common::until("it is not heard any more", async || {
        let now = sent.load(Ordering::SeqCst);
        assert!(now < most, "{now} bytes of it were heard");
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_secs(2)
    })
    .await;
    // Meanwhile others are served.
    let other = Node::start().await;
    let there = other.bucket("work");
    other.join(there, &ticket);
    crate::common::until("all of it", async || other.paths(there, "main").len() == 41).await;
    assert!(sent.load(Ordering::SeqCst) < most);
    // With each answer that it takes, it is heard again.
    let reading = tokio::spawn(async move { while hear(&mut recv).await.is_ok() {} });
    crate::common::until("it is heard again", async || {
        sent.load(Ordering::SeqCst) > most + (16 << 20)
    })
    .await;
    asking.abort();
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_says_that_it_lacks_is_only_what_it_says() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    let stranger = Stranger::new(node.net().addr()).await;
    let (conn, _send, _recv) = stranger.welcomed(&ticket).await;
    let tell = async |bytes: &[u8]| tell(&conn, bytes).await;
    let word = |bucket: BucketUid, giver: bool, contents: u64| {
        // On contents; whether it gave the grant, or was given it.
        let kind = [0, u8::from(!giver)];
        let said = (kind[0], bucket, kind[1], [7_u8; 16], (contents, 70_u64));
        postcard::to_extend(&said, vec![1]).unwrap()
    };
    tell(&[]).await;
    tell(&vec![1; 1 << 20]).await;
    tell(&word(ticket.bucket, false, 5)[..30]).await;
    tell(&word(BucketUid([9; 16]), false, 5)).await;
    // It did not give the grant.
    tell(&word(ticket.bucket, true, 5)).await;
    tell(&word(ticket.bucket, false, 6)).await;
    crate::common::until("its word is heard", async || {
        let links = node.links().await;
        links.len() == 1 && links[0].lacks.is_some_and(|lacks| lacks.contents == 6)
    })
    .await;
    // The last one is believed for what it is: of another state than the one here.
    assert!(!node.links().await[0].lacks_now);
    // Nobody who is not let in is heard.
    let alone = Stranger::new(node.net().addr()).await;
    let unknown = alone.connect().await;
    let mut send = unknown.open_uni().await.unwrap();
    send.write_all(&word(ticket.bucket, false, 8))
        .await
        .unwrap();
    send.finish().unwrap();
    still_works(&node, bucket).await;
    let links = node.links().await;
    assert!(
        links
            .iter()
            .all(|link| link.lacks.is_none_or(|l| l.contents != 8))
    );
}

/// Says something on a stream of its own.
async fn tell(conn: &Connection, bytes: &[u8]) {
    let mut send = conn.open_uni().await.unwrap();
    // What is too long may be refused before its end.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
}

/// States something of a node as somebody, in the bytes of the protocol.
fn statement(
    by: EndpointId,
    key: &SecretKey,
    bucket: BucketUid,
    of: EndpointId,
    access: Option<Access>,
    at: Timestamp,
) -> Vec<u8> {
    let context = b"alknet-fs 2026-11 statement on a member of a bucket".to_vec();
    let expires = None::<Timestamp>;
    let access = match access {
        None => 1_u8,
        Some(Access::Read) => 2,
        Some(Access::Write) => 4,
    };
    let what = (bucket, by.as_bytes(), of.as_bytes(), access, expires, at);
    let signed = postcard::to_extend(&what, context).unwrap();
    let said = (by.as_bytes(), of.as_bytes(), (access, expires, at));
    let mut bytes = postcard::to_extend(&said, Vec::new()).unwrap();
    bytes.extend_from_slice(&key.sign(&signed).to_bytes());
    bytes
}

/// Says statements of a bucket in one word.
fn members(bucket: BucketUid, statements: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = postcard::to_extend(&(1u8, bucket), vec![1]).unwrap();
    bytes = postcard::to_extend(&statements.len(), bytes).unwrap();
    bytes.extend(statements.concat());
    // No hints.
    bytes.push(0);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_a_peer_says_of_members_only_what_is_genuine_counts() {
    let (node, bucket) = node().await;
    let (writer, reader) = (SecretKey::generate(), SecretKey::generate());
    let others: Vec<_> = (0..8).map(|_| SecretKey::generate()).collect();
    let id = |n: usize| others[n].public();
    let ticket = node.share(bucket, offer(Access::Write));
    let uid = ticket.bucket;
    let write = Some(Access::Write);
    let state = |by: &SecretKey, of| statement(by.public(), by, uid, of, write, now());
    let stranger = Stranger::named(node.net().addr(), writer.clone()).await;
    let (conn, mut send, _recv) = stranger.welcomed(&ticket).await;
    // With its first frame a peer is told what there is.
    let summary = Frame::Summary {
        digest: [0; 16],
        answer: false,
    };
    say(&mut send, &summary.encode()).await;
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        let mut recv = conn.accept_uni().await.unwrap();
        recv.read_to_end(1 << 16).await.unwrap()
    });
    assert_eq!(told.await.unwrap()[..2], [1, 1]);

    let sign = |bucket, at| statement(writer.public(), &writer, bucket, id(0), write, at);
    let silent = Stranger::named(node.net().addr(), others[7].clone()).await;
    let _silent = silent.welcomed(&ticket).await;
    let forged = statement(id(7), &writer, uid, id(0), write, now());
    let other_bucket = sign(BucketUid([9; 16]), now());
    let future = sign(uid, Timestamp(now().0 + 2 * 24 * 3600 * 1_000_000_000));
    let mut altered = statement(
        writer.public(),
        &writer,
        uid,
        id(0),
        Some(Access::Read),
        now(),
    );
    // Read becomes Write.
    assert_eq!(altered[64], 2);
    altered[64] = 4;
    let unknown = state(&others[6], id(0));
    for bad in [forged, other_bucket, future, altered, unknown] {
        tell(&conn, &members(uid, &[bad])).await;
    }
    let good = state(&writer, id(1));
    let word = members(uid, std::slice::from_ref(&good));
    tell(
        &conn,
        &members(BucketUid([9; 16]), std::slice::from_ref(&good)),
    )
    .await;
    tell(&conn, &word[..word.len() - 1]).await;
    tell(&conn, &[&word[..], &[0]].concat()).await;
    tell(&conn, &[&[1, 9], &word[2..]].concat()).await;
    tell(&conn, &members(uid, &vec![good.clone(); 1000])).await;
    tell(&conn, &vec![1; 1 << 20]).await;
    tell(&conn, &word).await;
    crate::common::until("what is genuine counts", async || {
        node.members(bucket).contains_key(&id(1))
    })
    .await;
    assert!(!node.members(bucket).contains_key(&id(0)));
    assert_eq!(node.members(bucket).len(), 3, "two are let in by tickets");

    // Whom a reader vouches for is nobody.
    let read = node.share(bucket, offer(Access::Read));
    let to = node.net().addr();
    let stranger = Stranger::named(to, reader.clone()).await;
    let (second, _send, _recv) = stranger.welcomed(&read).await;
    tell(&second, &members(uid, &[state(&reader, id(2))])).await;
    let later = state(&writer, id(3));
    tell(&second, &members(uid, &[later])).await;
    crate::common::until("who brings it makes no difference", async || {
        node.members(bucket).contains_key(&id(3))
    })
    .await;
    assert!(!node.members(bucket).contains_key(&id(2)));

    // Nobody is heard who does not converse.
    let alone = Stranger::new(node.net().addr()).await;
    let unknown = alone.connect().await;
    tell(&unknown, &members(uid, &[state(&writer, id(4))])).await;

    // More than is kept.
    for part in 0..6 {
        let many = (0..200).map(|_| state(&writer, SecretKey::generate().public()));
        let many: Vec<_> = many.collect();
        tell(&conn, &members(uid, &many)).await;
        let least = 5 + (part + 1) * 200;
        crate::common::until("as many as are kept", async || {
            node.members(bucket).len() >= least.min(1024 + 3)
        })
        .await;
    }
    // Three are the node's own word.
    assert_eq!(node.members(bucket).len(), 1024 + 3);
    assert!(!node.members(bucket).contains_key(&id(4)));
    still_works(&node, bucket).await;
}

/// Counts the commits of a store.
fn commits(node: &Node) -> u64 {
    node.store.wait_for_commit(0, Duration::ZERO).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_much_makes_the_others_write_little() {
    let (node, bucket) = node().await;
    let (writer, reader) = (SecretKey::generate(), SecretKey::generate());
    let ticket = node.share(bucket, offer(Access::Write));
    let uid = ticket.bucket;
    let write = Some(Access::Write);
    let stranger = Stranger::named(node.net().addr(), writer.clone()).await;
    let (conn, _send, _recv) = stranger.welcomed(&ticket).await;
    let read = node.share(bucket, offer(Access::Read));
    let second = Stranger::named(node.net().addr(), reader.clone()).await;
    let (talks, _send, _recv) = second.welcomed(&read).await;
    let other = Node::start().await;
    let there = other.bucket("work");
    other.join(there, &node.share(bucket, offer(Access::Write)));
    other.shows(there, "main", &["/here"]).await;
    let both = [&node, &other];
    crate::common::until("all are known", async || {
        node.members(bucket).len() == 3 && other.members(there).len() == 3
    })
    .await;
    // What the nodes have to say to each other after that.
    let quiet = async || {
        let mut last = both.map(commits);
        let mut since = Instant::now();
        crate::common::until("nothing is written", async || {
            let now = both.map(commits);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_millis(700)
        })
        .await;
    };
    quiet().await;
    let before = both.map(commits);

    // A reader states things, and the same of a writer again and again, with hints that change.
    let begun = now();
    let of = [SecretKey::generate().public(), writer.public()];
    for n in 0..2000 {
        let at = Timestamp(begun.0 + n);
        let by = [&reader, &writer][usize::from(n % 10 == 0)];
        let said = statement(by.public(), by, uid, of[0], write, at);
        let mut word = members(uid, &[said]);
        word.pop();
        let port = 1000 + u16::try_from(n).unwrap();
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let hints = vec![(of[0], (vec![addr], Vec::<String>::new()))];
        word = postcard::to_extend(&hints, word).unwrap();
        tell(&talks, &word).await;
    }
    let honest = SecretKey::generate().public();
    let state = statement(writer.public(), &writer, uid, honest, write, now());
    tell(&conn, &members(uid, &[state])).await;
    crate::common::until("who says little is heard", async || {
        node.members(bucket).contains_key(&honest) && other.members(there).contains_key(&honest)
    })
    .await;
    quiet().await;
    for (node, before) in both.iter().zip(before) {
        let wrote = commits(node) - before;
        assert!((1..=8).contains(&wrote), "{wrote}");
    }
    assert!(node.members(bucket).contains_key(&of[0]));
    still_works(&node, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_leaves_room_for_others() {
    let (node, bucket) = node().await;
    let (writer, reader) = (SecretKey::generate(), SecretKey::generate());
    let write = Some(Access::Write);
    let ticket = node.share(bucket, offer(Access::Write));
    let uid = ticket.bucket;
    let read = node.share(bucket, offer(Access::Read));
    let second = Stranger::named(node.net().addr(), reader.clone()).await;
    let (talks, _send, _recv) = second.welcomed(&read).await;
    let puppets: Vec<_> = (0..6).map(|_| SecretKey::generate()).collect();
    let state = |by: &SecretKey, of| statement(by.public(), by, uid, of, write, now());
    let all = puppets.iter().map(|of| state(&reader, of.public()));
    tell(&talks, &members(uid, &all.collect::<Vec<_>>())).await;
    for by in &puppets {
        for _ in 0..4 {
            let many = (0..250).map(|_| state(by, SecretKey::generate().public()));
            tell(&talks, &members(uid, &many.collect::<Vec<_>>())).await;
        }
    }
    let stranger = Stranger::named(node.net().addr(), writer.clone()).await;
    let (_conn, _send, _recv) = stranger.welcomed(&ticket).await;
    // A word of the writer's comes behind all of these.
    let honest = SecretKey::generate().public();
    tell(&talks, &members(uid, &[state(&writer, honest)])).await;
    crate::common::until("there is room", async || {
        node.members(bucket).contains_key(&honest)
    })
    .await;
    assert_eq!(node.members(bucket).len(), 3);
    still_works(&node, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_as_a_member_has_to_be_one() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    let stranger = Stranger::new(node.net().addr()).await;
    let asks = exchanging(ticket.bucket, None, Some(Access::Write));
    assert_eq!(stranger.refused(&asks).await, UNKNOWN);
    // A ticket does not help there.
    let asks = exchanging(ticket.bucket, Some(&ticket), Some(Access::Write));
    assert_eq!(stranger.refused(&asks).await, UNKNOWN);
    still_works(&node, bucket).await;
}

/// Announces what somebody knows, in the bytes of the protocol.
fn announcement(by: EndpointId, key: &SecretKey, bucket: BucketUid, at: &Endpoint) -> Vec<u8> {
    announced(by, key, bucket, at.bound_sockets())
}

/// Does so with addresses.
fn announced(
    by: EndpointId,
    key: &SecretKey,
    bucket: BucketUid,
    at: Vec<std::net::SocketAddr>,
) -> Vec<u8> {
    let context = b"alknet-fs 2026-11 announcement of news in a bucket".to_vec();
    let addrs = (at, Vec::<String>::new());
    let what = (bucket, by, [7u8; 16], now(), addrs.clone());
    let signed = postcard::to_extend(&what, context).unwrap();
    let said = (by, what.2, what.3, addrs, key.sign(&signed));
    postcard::to_extend(&said, Vec::new()).unwrap()
}

/// Enters the group of a bucket by a node.
async fn gossips(member: &Stranger, node: &Node, bucket: BucketUid) -> (Gossip, GossipTopic) {
    let gossip = Gossip::builder().spawn(member.endpoint.clone());
    let lookup = iroh::address_lookup::memory::MemoryLookup::new();
    lookup.set_endpoint_info(node.net().addr());
    member.endpoint.address_lookup().unwrap().add(lookup);
    let topic = blake3::derive_key("alknet-fs 2026-11 gossip of a bucket", &bucket.0);
    let joined = gossip.subscribe_and_join(topic.into(), vec![node.id()]);
    let joined = tokio::time::timeout(Duration::from_secs(20), joined).await;
    let group = joined.expect("a member is let in").unwrap();
    (gossip, group)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_also_while_it_dials_a_member_that_does_not_answer() {
    let (mut node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    let (uid, writer, known) = (ticket.bucket, SecretKey::generate(), SecretKey::generate());
    let member = Stranger::named(node.net().addr(), writer.clone()).await;
    let (conn, _send, _recv) = member.welcomed(&ticket).await;
    let by = writer.public();
    let write = Some(Access::Write);
    let state = statement(by, &writer, uid, known.public(), write, now());
    tell(&conn, &members(uid, &[state])).await;
    crate::common::until("the group is known", async || {
        node.members(bucket).len() == 2
    })
    .await;
    let (_gossip, mut group) = gossips(&member, &node, uid).await;
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = vec![silent.local_addr().unwrap()];
    let (mut packet, mut said) = ([0; 2000], None::<Instant>);
    crate::common::until("it is dialled", async || {
        // What is said before all of the group are connected reaches nobody.
        if said.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            let message = announced(known.public(), &known, uid, at.clone());
            group.broadcast(message.into()).await.unwrap();
            said = Some(Instant::now());
        }
        silent.try_recv_from(&mut packet).is_ok()
    })
    .await;
    let begun = Instant::now();
    node.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_genuine_announcements_of_members_are_followed() {
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Write));
    let uid = ticket.bucket;
    let nobody = Stranger::new(node.net().addr()).await;
    let writer = SecretKey::generate();
    let member = Stranger::named(node.net().addr(), writer.clone()).await;
    let (conn, _send, _recv) = member.welcomed(&ticket).await;
    let (known, silent) = (SecretKey::generate(), SecretKey::generate());
    let state = |of: &SecretKey| {
        let of = of.public();
        statement(
            writer.public(),
            &writer,
            uid,
            of,
            Some(Access::Write),
            now(),
        )
    };
    tell(&conn, &members(uid, &[state(&known), state(&silent)])).await;
    let known = Stranger::named(node.net().addr(), known).await;
    let silent = Stranger::named(node.net().addr(), silent).await;
    crate::common::until("the group is known", async || {
        node.members(bucket).len() == 3
    })
    .await;

    let (_gossip, mut group) = gossips(&member, &node, uid).await;
    let to = nobody.to.clone();
    let alone = nobody.endpoint.connect(to, iroh_gossip::ALPN).await;
    let closed = async {
        match alone {
            Ok(conn) => conn.closed().await,
            Err(ConnectError::Connection { source, .. }) => source,
            Err(e) => panic!("{e}"),
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
    let Ok(ConnectionError::ApplicationClosed(closed)) = &closed else {
        panic!("who is no member is not let in: {closed:?}")
    };
    assert_eq!(closed.error_code.into_inner(), u64::from(PROTOCOL));
    assert_eq!(&closed.reason[..], b"not known here");

    let own = |stranger: &Stranger| stranger.endpoint.secret_key().clone();
    let unknown = own(&nobody);
    let forged = announcement(silent.endpoint.id(), &own(&known), uid, &silent.endpoint);
    let elsewhere = announcement(
        silent.endpoint.id(),
        &own(&silent),
        BucketUid([9; 16]),
        &silent.endpoint,
    );
    let stranger = announcement(unknown.public(), &unknown, uid, &nobody.endpoint);
    let good = announcement(known.endpoint.id(), &own(&known), uid, &known.endpoint);
    for message in [
        vec![1, 2, 3],
        vec![0; 3000],
        forged,
        elsewhere,
        stranger,
        good,
    ] {
        group.broadcast(message.into()).await.unwrap();
    }
    // Who announced it itself is asked, as one that may write.
    let asked = async {
        let conn = known.endpoint.accept().await.unwrap().await.unwrap();
        assert_eq!(conn.remote_id(), node.id());
        let (_send, mut recv) = conn.accept_bi().await.unwrap();
        hear(&mut recv).await.unwrap()
    };
    let asked = tokio::time::timeout(Duration::from_secs(20), asked).await;
    let asked = asked.expect("the genuine one is followed");
    assert_eq!(asked[asked.len() - 2..], [1, 1], "allowed to write");
    for other in [&silent, &nobody] {
        let called = tokio::time::timeout(Duration::from_millis(200), other.endpoint.accept());
        assert!(called.await.is_err(), "a false one is not followed");
    }
    still_works(&node, bucket).await;
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

/// Keeps what is logged from here on.
fn keep_log() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        let logging = tracing_subscriber::fmt().with_ansi(false);
        let logging = logging.with_max_level(tracing::Level::INFO);
        logging.with_writer(|| Log).init();
    });
}

/// The lines of the log that say something of somebody.
fn log_of(stranger: &Stranger) -> Vec<String> {
    let who = stranger.endpoint.id().fmt_short().to_string();
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    let said = log.lines().filter(|line| line.contains("alknet_fs_net"));
    let of_them = said.filter(|line| line.contains(&who));
    of_them.map(ToOwned::to_owned).collect()
}

/// Waits until a line of the log has some words, and says of whom.
async fn logged(stranger: &Stranger, words: &[&str]) {
    let what = format!("{words:?} of {} in the log", stranger.endpoint.id());
    crate::common::until(&what, async || {
        let has_all = |line: &String| words.iter().all(|word| line.contains(word));
        log_of(stranger).iter().any(has_all)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_logged_with_who_it_was() {
    keep_log();
    let (node, bucket) = node().await;
    let past = Offer {
        expires: Some(Timestamp(now().0 - 1)),
        ..offer(Access::Write)
    };
    let expired = node.share(bucket, past);
    let reader = node.share(bucket, offer(Access::Read));
    let stranger = async || Stranger::new(node.net().addr()).await;

    let unknown = stranger().await;
    let question = hello(1, &[1], expired.bucket, None);
    assert_eq!(unknown.refused(&question).await, UNKNOWN);
    logged(&unknown, &["WARN", "a peer was refused", "Unknown"]).await;

    let late = stranger().await;
    let question = hello(1, &[1], expired.bucket, Some(&expired));
    assert_eq!(late.refused(&question).await, EXPIRED);
    logged(&late, &["WARN", "a peer was refused", "Expired"]).await;

    let nonsense = stranger().await;
    assert_eq!(nonsense.refused(&[1]).await, MALFORMED);
    logged(&nonsense, &["WARN", "a peer was refused", "Malformed"]).await;

    let writer = stranger().await;
    let (_conn, mut send, mut recv) = writer.welcomed(&reader).await;
    let cuts = Frame::Cuts {
        scope: Scope([1; 16]),
        cuts: vec![Cut {
            replica: ReplicaId([1; 16]),
            number: 1,
            seen: VersionVector::new(),
            more: false,
            changes: Vec::new(),
        }],
    };
    say(&mut send, &cuts.encode()).await;
    assert_eq!(until_reset(&mut recv).await, PROTOCOL);
    logged(
        &writer,
        &["WARN", "conversation ended", "grant does not allow"],
    )
    .await;

    let short = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
    let long = stranger().await;
    assert_eq!(long.say(&vec![1; 4097]).await, Err(PROTOCOL));
    logged(&long, &["WARN", "began with nonsense", "longest length"]).await;

    let noise = (stranger().await, vec![3, 0, 0, 0, 1, 77, 77]);
    let endless = (stranger().await, short(MAX_FRAME + 1).to_vec());
    let ended = "conversation ended";
    for ((peer, said), why) in [(noise, "does not decode"), (endless, "longest length")] {
        let (_conn, mut send, mut recv) = peer.welcomed(&reader).await;
        send.write_all(&said).await.unwrap();
        assert_eq!(until_reset(&mut recv).await, PROTOCOL);
        logged(&peer, &["WARN", ended, why]).await;
    }

    let talker = stranger().await;
    let (conn, _send, _recv) = talker.welcomed(&reader).await;
    tell(&conn, &[1, 9, 9]).await;
    logged(&talker, &["WARN", "it said nonsense"]).await;
    for _ in 0..70 {
        tell(&conn, &members(reader.bucket, &[])).await;
    }
    logged(&talker, &["WARN", "it says too much of members"]).await;
    let talker = stranger().await;
    let (conn, _send, _recv) = talker.welcomed(&reader).await;
    let of = SecretKey::generate();
    let forged = statement(node.id(), &of, reader.bucket, of.public(), None, now());
    tell(&conn, &members(reader.bucket, &[forged])).await;
    logged(&talker, &["WARN", "what nobody stated"]).await;
    still_works(&node, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_wrong_all_the_time_does_not_fill_the_log() {
    keep_log();
    let (node, bucket) = node().await;
    let ticket = node.share(bucket, offer(Access::Read));
    let begun = Instant::now();
    let noisy = Stranger::new(node.net().addr()).await;
    let conn = noisy.connect().await;
    for _ in 0..200 {
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        say(&mut send, &[1]).await;
        assert_eq!(hear(&mut recv).await.unwrap()[..3], [1, 1, MALFORMED]);
    }
    // One that is let in is no better: it begins again and again, and says nonsense each time.
    let known = Stranger::new(node.net().addr()).await;
    let (conn, ..) = known.welcomed(&ticket).await;
    for _ in 0..100 {
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        say(&mut send, &hello(1, &[1], ticket.bucket, None)).await;
        assert_eq!(hear(&mut recv).await.unwrap()[..2], [1, 0], "welcome");
        say(&mut send, &[9]).await;
        assert_eq!(until_reset(&mut recv).await, PROTOCOL);
    }
    // Others are heard of at once.
    let other = Stranger::new(node.net().addr()).await;
    assert_eq!(other.refused(&[1]).await, MALFORMED);
    logged(&other, &["WARN", "Malformed"]).await;
    let later = usize::try_from(begun.elapsed().as_secs() / 30).unwrap();
    let warnings = |peer: &Stranger| {
        let lines = log_of(peer).into_iter();
        lines.filter(|line| line.contains("WARN")).count()
    };
    for peer in [&noisy, &known] {
        assert!((1..=8 + later).contains(&warnings(peer)));
        assert!(log_of(peer).len() <= 2 * (8 + later));
    }
    still_works(&node, bucket).await;
}
