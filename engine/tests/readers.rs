//! Who may read which contents of a store, asked by peers that do not keep to what they know of: over
//! both protocols that a node serves contents by.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_fs::node::{JoinOptions, ShareOptions};
use alknet_fs::{Branch, ContentPolicy, Durability, Hash, Store, Timestamp, TreeRef};
use alknet_fs_blobs::BlobStore;
use alknet_fs_blobs::wire::{ALPN, Fetcher, GuardedBlobs, Outcome, Want};
use alknet_fs_content::{Config, Contents};
use alknet_fs_net::{EndpointAddr, Records, SecretKey, secret_key};
use alknet_fs_sqlite::{Options, SqliteStore};
use common::{Side, pair, until};
use iroh::Endpoint;
use iroh::endpoint::{Connection, ConnectionError, presets};
use iroh_blobs::get::request::get_blob;
use tempfile::TempDir;
use tokio::runtime::Runtime;

impl Side {
    fn id(&self) -> String {
        self.key().public().to_string()
    }

    fn key(&self) -> SecretKey {
        let store = SqliteStore::open(self.store.path().unwrap(), Options::default());
        secret_key(&store.unwrap()).unwrap()
    }

    /// Where the node can be reached.
    fn addr(&self) -> EndpointAddr {
        self.share(&ShareOptions::new()).addr
    }

    fn branch(&self, name: &str) -> Branch {
        self.bucket.branch(name).unwrap()
    }

    fn fork(&self, name: &str) -> Branch {
        let main = "main".parse::<TreeRef>().unwrap();
        self.bucket.fork(&main, name).unwrap()
    }

    /// Waits until there is an entry at a path.
    fn has(&self, branch: &str, path: &str) {
        until(path, || {
            let branch = self.bucket.branch(branch);
            branch.is_ok_and(|branch| branch.stat(path).is_ok())
        });
    }

    /// Waits until a conflict has one loser, whose content is here.
    fn has_loser(&self, branch: &str, path: &str) {
        until(path, || {
            let conflicts = self.branch(branch).conflicts().unwrap();
            let at = conflicts.iter().find(|c| c.path.as_str() == path);
            at.is_some_and(|c| c.others.len() == 1 && c.others[0].content_here)
        });
    }
}

/// A content of some length that nothing else has.
fn content(name: &str, len: usize) -> Vec<u8> {
    name.bytes().cycle().take(len).collect()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.unwrap().as_nanos() as i64)
}

/// A store that takes in what is fetched.
fn blobs(dir: &TempDir) -> BlobStore {
    let store = SqliteStore::create(dir.path(), Options::default()).unwrap();
    let contents = Contents::open_store(dir.path(), Config::default()).unwrap();
    BlobStore::spawn(Arc::new(store), contents, Default::default()).unwrap()
}

/// One that has a key, and asks for whatever it likes.
struct Asker {
    runtime: Runtime,
    endpoint: Endpoint,
}

impl Asker {
    fn new(key: SecretKey) -> Self {
        let runtime = Runtime::new().unwrap();
        let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
        let builder = builder.secret_key(key).bind_addr("127.0.0.1:0").unwrap();
        let endpoint = runtime.block_on(builder.bind()).unwrap();
        Self { runtime, endpoint }
    }

    /// Asks for a content in all ways that there are; returns whether each gives it.
    fn ask(&self, to: &EndpointAddr, bytes: &[u8]) -> [bool; 4] {
        self.runtime.block_on(async {
            let [has, fetched, kept] = self.ask_for_content(to, bytes).await;
            [has, fetched, kept, self.ask_for_blob(to, bytes).await]
        })
    }

    #[track_caller]
    fn is_given(&self, to: &EndpointAddr, bytes: &[u8]) -> bool {
        let given = self.ask(to, bytes);
        assert!(given == [given[0]; 4], "{given:?}");
        given[0]
    }

    /// Waits until a content is not given any more.
    #[track_caller]
    fn is_refused(&self, to: &EndpointAddr, bytes: &[u8]) {
        until("it is refused", || self.ask(to, bytes) == [false; 4]);
        assert!(!self.is_given(to, bytes), "given again");
    }

    async fn ask_for_content(&self, to: &EndpointAddr, bytes: &[u8]) -> [bool; 3] {
        let hash = Hash::of(bytes);
        let conn = self.endpoint.connect(to.clone(), ALPN).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(&dir);
        let fetcher = Fetcher::new(&blobs);
        let want = Want {
            hash,
            size: bytes.len() as u64,
            base: None,
        };
        let has = fetcher.has(&conn, &[hash]).await.unwrap();
        let mut outcomes = fetcher.fetch(&conn, vec![want], |_| {}).await;
        let fetched = match outcomes.pop().unwrap().1 {
            Outcome::Fetched => true,
            Outcome::Missing => false,
            other => panic!("{other:?}"),
        };
        let kept = fetcher.keep(&conn, &[hash]).await.unwrap();
        conn.close(0u32.into(), b"");
        [has[0], fetched, kept[0]]
    }

    /// Connects by both protocols, to stay, and reads a content over each.
    fn open(&self, to: &EndpointAddr, bytes: &[u8]) -> [Connection; 2] {
        self.runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let connect = async |alpn| self.endpoint.connect(to.clone(), alpn).await.unwrap();
            let contents = connect(ALPN).await;
            let own = blobs(&dir);
            let fetcher = Fetcher::new(&own);
            let has = fetcher.has(&contents, &[Hash::of(bytes)]).await;
            assert_eq!(has.unwrap(), [true]);
            let blobs = connect(GuardedBlobs::ALPN).await;
            let got = get_blob(blobs.clone(), iroh_blobs::Hash::new(bytes)).await;
            assert!(got.unwrap() == bytes);
            [contents, blobs]
        })
    }

    async fn ask_for_blob(&self, to: &EndpointAddr, bytes: &[u8]) -> bool {
        let conn = self.endpoint.connect(to.clone(), GuardedBlobs::ALPN);
        let conn = conn.await.unwrap();
        let get = async |bytes| get_blob(conn.clone(), iroh_blobs::Hash::new(bytes)).await;
        let given = match get(bytes).await {
            Ok(got) => {
                assert!(got == bytes);
                true
            }
            Err(refused) => {
                // What may not be read looks like what is not there; who may read nothing is sent away.
                let nowhere = get(b"there is no such content").await.unwrap_err();
                if conn.close_reason().is_none() {
                    assert_eq!(format!("{refused:?}"), format!("{nowhere:?}"));
                }
                false
            }
        };
        conn.close(0u32.into(), b"");
        given
    }
}

/// Asserts which of some contents are given.
#[track_caller]
fn gives(asker: &Asker, to: &EndpointAddr, contents: &[(&str, Vec<u8>, bool)]) {
    for (what, bytes, given) in contents {
        assert_eq!(asker.is_given(to, bytes), *given, "{what}");
    }
}

#[test]
fn a_grant_of_a_branch_covers_its_contents_and_no_others() {
    let mut a = Side::new();
    a.bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    let large = |name| content(name, 300_000);
    let (shown, hidden) = (a.fork("shown"), a.fork("hidden"));
    a.write("/inherited", b"in main");
    shown.write("/small", b"shown").unwrap();
    shown.write("/large", large("shown")).unwrap();
    shown.write("/gone", b"replaced since").unwrap();
    hidden.write("/small", b"hidden").unwrap();
    hidden.write("/large", large("hidden")).unwrap();
    let private = a.store.create_bucket("private").unwrap().main().unwrap();
    private.write("/small", b"of another bucket").unwrap();
    private.write("/large", large("private")).unwrap();

    // One that has all of the bucket writes what loses, and what wins hides it.
    let w = a.joined(&ShareOptions::new());
    w.has("hidden", "/large");
    a.stop();
    w.branch("shown").write("/both", b"lost in shown").unwrap();
    w.branch("hidden")
        .write("/both", b"lost in hidden")
        .unwrap();
    // What was committed before the question is noted, with the time.
    w.node.as_ref().unwrap().status().unwrap();
    shown.write("/both", b"won in shown").unwrap();
    hidden.write("/both", b"won in hidden").unwrap();
    a.start();
    for branch in ["shown", "hidden"] {
        a.has_loser(branch, "/both");
    }

    let granted = ShareOptions::new().read_only(true).branch("shown");
    let mut b = a.joined(&granted);
    b.has("shown", "/large");
    shown.write("/gone", b"something else").unwrap();
    b.stop();
    let to = a.addr();
    let asker = Asker::new(b.key());
    gives(
        &asker,
        &to,
        &[
            ("small, of its branch", b"shown".to_vec(), true),
            ("large, of its branch", large("shown"), true),
            ("inherited", b"in main".to_vec(), true),
            ("written since", b"something else".to_vec(), true),
            ("small, of another branch", b"hidden".to_vec(), false),
            ("large, of another branch", large("hidden"), false),
            (
                "small, of another bucket",
                b"of another bucket".to_vec(),
                false,
            ),
            ("large, of another bucket", large("private"), false),
            ("what won", b"won in shown".to_vec(), true),
            ("what lost", b"lost in shown".to_vec(), true),
            (
                "what won in another branch",
                b"won in hidden".to_vec(),
                false,
            ),
            (
                "what lost in another branch",
                b"lost in hidden".to_vec(),
                false,
            ),
        ],
    );
    // A name in its branch makes a content its own.
    shown.write("/small", b"hidden").unwrap();
    assert!(asker.is_given(&to, b"hidden"));

    let stranger = Asker::new(SecretKey::generate());
    let nothing = [b"shown".to_vec(), large("shown"), b"in main".to_vec()];
    for bytes in &nothing {
        assert!(!stranger.is_given(&to, bytes));
    }

    assert_eq!(a.store.revoke_peer(&b.id()).unwrap(), 1);
    for bytes in &nothing {
        assert!(!asker.is_given(&to, bytes));
    }
    // Whom another grant lets in reads on.
    let whole = Asker::new(w.key());
    drop(w);
    assert!(whole.is_given(&to, b"lost in hidden"));
    assert!(!whole.is_given(&to, b"of another bucket"));
}

#[test]
fn a_grant_that_expires_covers_nothing_any_more() {
    let [a, mut b] = pair(&ShareOptions::new());
    a.write("/f", b"for a while");
    b.has("main", "/f");
    b.stop();
    let (to, asker) = (a.addr(), Asker::new(b.key()));
    assert!(asker.is_given(&to, b"for a while"));
    // It ends soon, but not before somebody has read by it; until then what may be read is not looked up
    // anew.
    let store = SqliteStore::open(a.store.path().unwrap(), Options::default()).unwrap();
    let mut lasts = Duration::from_millis(500);
    let ends = loop {
        let ends = Timestamp(now().0 + lasts.as_nanos() as i64);
        Records::update(&store, Durability::Full, |records, _| {
            records
                .grants
                .iter_mut()
                .for_each(|g| g.expires = Some(ends));
            Ok(())
        })
        .unwrap();
        let given = asker.ask(&to, b"for a while");
        if now() < ends {
            assert_eq!(given, [true; 4]);
            break ends;
        }
        assert!(lasts < Duration::from_secs(120), "too slow to ask in time");
        lasts *= 2;
    };
    until("it has ended", || {
        let given = asker.ask(&to, b"for a while");
        let is_over = now() >= ends;
        assert!(is_over || given == [true; 4], "too early: {given:?}");
        given == [false; 4]
    });
    assert!(!asker.is_given(&to, b"for a while"));
}

#[test]
fn connections_end_when_what_was_given_is_taken_back() {
    let a = Side::new();
    a.write("/f", b"of a");
    let to = a.addr();
    let mut b = Side::new();
    b.stop();
    let asker = Asker::new(b.key());
    assert!(!asker.is_given(&to, b"of a"));
    drop(asker);
    b.start();
    let theirs = JoinOptions::new().name("theirs");
    let ticket = a.share(&ShareOptions::new());
    b.bucket = b.store.join(&ticket, &theirs).unwrap();
    b.has("main", "/f");
    b.stop();
    let asker = Asker::new(b.key());
    assert!(asker.is_given(&to, b"of a"));

    let open = asker.open(&to, b"of a");
    // By another handle on the store, as another process has one.
    let other = Store::open(a.store.path().unwrap()).unwrap();
    assert_eq!(other.revoke_peer(&b.id()).unwrap(), 1);
    // The node hears of it: by the records that it has already, nothing would end.
    for conn in open {
        until("it ends", || conn.close_reason().is_some());
        let why = conn.close_reason().unwrap();
        let ConnectionError::ApplicationClosed(close) = why else {
            panic!("{why}");
        };
        assert_eq!(close.error_code.into_inner(), 5);
    }
    assert!(!asker.is_given(&to, b"of a"));
}

#[test]
fn members_read_the_bucket_until_they_are_let_out() {
    let mut a = Side::new();
    a.write("/f", b"of a");
    let private = a.store.create_bucket("private").unwrap().main().unwrap();
    private.write("/f", b"private of a").unwrap();
    let mut b = a.joined(&ShareOptions::new());
    b.has("main", "/f");
    let own = b.store.bucket("default").unwrap().main().unwrap();
    own.write("/f", b"private of b").unwrap();
    let mut c = b.joined(&ShareOptions::new());
    c.has("main", "/f");
    until("a knows of c", || {
        let peers = a.store.peers().unwrap();
        peers.iter().any(|p| p.id == c.id() && !p.member.is_empty())
    });
    c.stop();
    let (to_a, to_b) = (a.addr(), b.addr());
    let asker = Asker::new(c.key());
    assert!(asker.is_given(&to_a, b"of a"));
    assert!(!asker.is_given(&to_a, b"private of a"));

    // Whom b let in, b lets out, and a hears of it.
    b.write("/g", b"of b");
    b.main().read("/f").unwrap();
    assert!(asker.is_given(&to_b, b"of b"));
    assert!(!asker.is_given(&to_b, b"private of b"));
    b.store.revoke_peer(&c.id()).unwrap();
    for (to, bytes) in [(&to_b, b"of b"), (&to_a, b"of a")] {
        asker.is_refused(to, bytes);
    }

    // From whom a bucket was joined may read of it what was written here.
    a.stop();
    let giver = Asker::new(a.key());
    assert!(giver.is_given(&to_b, b"of b"));
    assert!(!giver.is_given(&to_b, b"private of b"));
    b.store.leave("joined").unwrap();
    giver.is_refused(&to_b, b"of b");
    b.stop();
}
