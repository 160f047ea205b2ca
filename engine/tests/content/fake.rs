//! A store whose contents are elsewhere, and a source that has them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alknet_fs::{
    Branch, BucketId, ContentSource, Durability, Fetch, Hash, Options, Outcome, PutMode, SetAttrs,
    Store, Timestamp, TreePath, Want,
};
use alknet_fs_content::{Config, Contents};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor};
use alknet_fs_core::store::Store as _;
use alknet_fs_sqlite::SqliteStore;
use parking_lot::{Condvar, Mutex};

/// How the source answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Brings what it has.
    Honest,
    /// Says that it has brought what it has not.
    Liar,
    /// Fails.
    Broken,
    /// Waits until it is told otherwise, or until the call is over.
    Hangs,
    /// Says nothing at all.
    Mute,
    /// Panics.
    Panics,
}

/// Has the contents of another store, and puts them into the store at a path as they are asked for.
pub(crate) struct Fake {
    pub(crate) has: Mutex<HashMap<Hash, Vec<u8>>>,
    manner: Mutex<Manner>,
    changed: Condvar,
    /// Each call's wants.
    pub(crate) calls: Mutex<Vec<Vec<Want>>>,
    /// Done once when the source is asked for anything, before it answers.
    pub(crate) meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// What never comes.
    pub(crate) never: Mutex<HashSet<Hash>>,
    /// What peers say they hold and keep.
    pub(crate) held: Mutex<HashSet<Hash>>,
    into: SqliteStore,
    contents: Contents,
}

impl Fake {
    pub(crate) fn new(into: &Path) -> Arc<Self> {
        Arc::new(Self {
            has: Mutex::default(),
            manner: Mutex::new(Manner::Honest),
            changed: Condvar::new(),
            calls: Mutex::default(),
            meanwhile: Mutex::default(),
            never: Mutex::default(),
            held: Mutex::default(),
            into: SqliteStore::open(into, alknet_fs_sqlite::Options::default()).unwrap(),
            contents: Contents::open_store(into, Config::default()).unwrap(),
        })
    }

    pub(crate) fn be(&self, manner: Manner) {
        *self.manner.lock() = manner;
        self.changed.notify_all();
    }

    /// Lets the source have a content.
    pub(crate) fn give(&self, bytes: &[u8]) -> Hash {
        let hash = Hash::of(bytes);
        self.has.lock().insert(hash, bytes.to_vec());
        hash
    }

    pub(crate) fn wants(&self) -> Vec<Want> {
        self.calls.lock().iter().flatten().cloned().collect()
    }

    fn do_meanwhile(&self) {
        let meanwhile = self.meanwhile.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
    }

    fn bring(&self, want: &Want) -> bool {
        let Some(bytes) = self.has.lock().get(&want.hash).cloned() else {
            return false;
        };
        let prepared = self.contents.prepare_bytes(bytes).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = Timestamp(now.as_nanos() as i64);
        let mut txn = self.into.write(Durability::Relaxed).unwrap();
        self.contents
            .commit(&mut *txn, &mut [prepared], now)
            .unwrap();
        txn.commit().unwrap();
        true
    }
}

impl ContentSource for Fake {
    fn fetch(&self, wants: &[Want], fetch: &Fetch) {
        self.calls.lock().push(wants.to_vec());
        self.do_meanwhile();
        for (at, want) in wants.iter().enumerate() {
            fetch.asking(at, "alice");
            let mut manner = self.manner.lock();
            let stuck = self.never.lock().contains(&want.hash);
            if stuck {
                fetch.waiting(at, "bob is away");
            }
            while (stuck || *manner == Manner::Hangs) && !fetch.is_over() {
                let soon = Instant::now() + Duration::from_millis(5);
                self.changed.wait_until(&mut manner, soon);
            }
            let manner = *manner;
            let asked = vec!["alice".to_owned()];
            let outcome = match manner {
                _ if stuck => continue,
                Manner::Honest if self.bring(want) => Outcome::Here {
                    from: Some("alice".to_owned()),
                },
                Manner::Honest => Outcome::Nobody { asked },
                Manner::Liar => Outcome::Here { from: None },
                Manner::Broken => Outcome::Failed {
                    asked,
                    why: "the line is cut".to_owned(),
                },
                Manner::Hangs | Manner::Mute => continue,
                Manner::Panics => panic!("as told"),
            };
            fetch.arrived(at, want.size);
            fetch.done(at, outcome);
        }
    }

    fn holders(&self, _: BucketId, hashes: &[Hash], _: Instant) -> Vec<Vec<String>> {
        self.do_meanwhile();
        let held = self.held.lock();
        let holder = |hash| match held.contains(hash) {
            true => vec!["alice".to_owned()],
            false => Vec::new(),
        };
        hashes.iter().map(holder).collect()
    }
}

/// A store whose default bucket takes part in synchronisation.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) main: Branch,
    pub(crate) source: Arc<Fake>,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let options = Options::new().durability(Durability::Relaxed);
        let store = options.create(&path).unwrap();
        let main = store.bucket("default").unwrap().main().unwrap();
        take_part(&path, 1);
        Self {
            source: Fake::new(&path),
            dir,
            store,
            main,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Makes a file whose content is not here, and which the source has: as a change that a peer made
    /// arrives.
    pub(crate) fn away(&self, path: &str, bytes: &[u8]) -> Hash {
        let hash = self.source.give(bytes);
        self.names(path, &hash, bytes.len() as u64);
        hash
    }

    pub(crate) fn names(&self, path: &str, hash: &Hash, size: u64) {
        let mut txn = self.store_rows().write(Durability::Relaxed).unwrap();
        let chain = Chain::load(&*txn, self.main.id(), None).unwrap();
        let context = Context {
            now: Timestamp(2),
            author: "a peer".to_owned(),
            uid: 0,
            gid: 0,
        };
        let mut editor = Editor::new(&mut *txn, &chain, context);
        let path = TreePath::parse(path).unwrap();
        let (set, mode) = (SetAttrs::default(), PutMode::CreateOrReplace);
        editor.put_file(&path, *hash, size, &set, mode).unwrap();
        editor.finish(None).unwrap();
        txn.commit().unwrap();
    }

    pub(crate) fn is_here(&self, hash: &Hash) -> bool {
        self.store_rows().read().unwrap().has_content(hash).unwrap()
    }

    pub(crate) fn store_rows(&self) -> &SqliteStore {
        &self.source.into
    }
}

/// Makes a bucket one that takes part in synchronisation.
pub(crate) fn take_part(store: &Path, bucket: u32) {
    let rows = SqliteStore::open(store, alknet_fs_sqlite::Options::default()).unwrap();
    let mut txn = rows.write(Durability::Full).unwrap();
    txn.set_value(&format!("sync/{bucket}"), "bucket", Some(&[1]))
        .unwrap();
    txn.commit().unwrap();
}

/// Removes a content, whatever refers to it.
pub(crate) fn forget(store: &Path, hash: &Hash) {
    let rows = SqliteStore::open(store, alknet_fs_sqlite::Options::default()).unwrap();
    let mut txn = rows.write(Durability::Full).unwrap();
    txn.remove_content(hash).unwrap();
    txn.commit().unwrap();
    let _ = std::fs::remove_file(store.join("blobs").join(hash.to_hex()));
}

/// Waits for something to come true.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !check() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes that are kept in a file.
pub(crate) fn large(seed: u8) -> Vec<u8> {
    (0..300_000_u32).map(|i| (i % 251) as u8 ^ seed).collect()
}
