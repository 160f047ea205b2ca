//! Exclusive locks whose time runs out, by the clock in the database: no test waits for it.
#![allow(clippy::unwrap_used)]

use std::time::{SystemTime, UNIX_EPOCH};

use alknet_fs::{Branch, Durability, ErrorKind, FsckOptions, OpenOptions, Options, Store, Task};
use alknet_fs_core::store::Store as _;
use alknet_fs_sqlite::SqliteStore;

/// What the engine promises: a lock lasts 30 s, and is renewed every 10 s.
const LOCK_SECONDS: i64 = 30;

/// Two programs that have one store open, and its database.
struct Bench {
    first: Store,
    second: Store,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let options = |author| {
            let relaxed = Options::new().durability(Durability::Relaxed);
            relaxed.author(author)
        };
        Self {
            first: options("first").create(&path).unwrap(),
            second: options("second").open(&path).unwrap(),
            dir,
        }
    }

    fn sql(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dir.path().join("store/store.db")).unwrap()
    }

    /// Sets when all locks run out, in seconds from now.
    fn expire_in(&self, seconds: i64) {
        let sql = "UPDATE _honker_locks SET expires_at = ?1";
        let changed = self.sql().execute(sql, [unix_now() + seconds]).unwrap();
        assert_eq!(changed, 1);
    }

    /// Returns the only lock: its name, its owner, and the seconds that it has left.
    fn lock(&self) -> (String, String, i64) {
        let sql = "SELECT name, owner, expires_at FROM _honker_locks";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (name, owner, expires): (_, _, i64) = self.sql().query_row(sql, [], row).unwrap();
        (name, owner, expires - unix_now())
    }
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs() as i64
}

fn main(store: &Store) -> Branch {
    store.bucket("default").unwrap().main().unwrap()
}

fn exclusive() -> OpenOptions {
    OpenOptions::new().exclusive(true)
}

fn assert_locked_by(branch: &Branch, owner: &str) {
    let error = branch.open_session("/f", &exclusive()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains(owner), "{error}");
}

fn assert_healthy(store: &Store) {
    let report = store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(store.sessions().unwrap(), []);
}

#[test]
fn an_expired_lock_goes_to_the_next_opener_and_its_session_cannot_commit() {
    let bench = Bench::new();
    let (a, b) = (main(&bench.first), main(&bench.second));
    let late = a.open_session("/f", &exclusive()).unwrap();
    late.write_at(0, b"late").unwrap();
    let (_, _, left) = bench.lock();
    assert!((LOCK_SECONDS - 5..=LOCK_SECONDS).contains(&left), "{left}");
    assert_locked_by(&b, "first");

    bench.expire_in(-1);
    let next = b.open_session("/f", &exclusive()).unwrap();
    next.write_at(0, b"next").unwrap();
    assert!(bench.lock().1.contains("second"));
    assert_locked_by(&a, "second");
    // The first one still reads and writes what it stages, but cannot commit it.
    late.append(b"r").unwrap();
    for _ in 0..2 {
        assert!(late.close().unwrap_err().is_locked());
    }
    assert!(!a.exists("/f").unwrap());
    next.close().unwrap();
    assert_eq!(a.read("/f").unwrap(), b"next");
    // Not even once the lock is free again: it would undo what it has not seen.
    assert!(late.close().unwrap_err().is_locked());
    assert_eq!(a.read("/f").unwrap(), b"next");

    // Who takes it up again has the lock again, and all that was written.
    let id = late.detach().unwrap();
    let late = bench.second.resume_session(id).unwrap();
    assert_locked_by(&a, "first");
    late.close().unwrap();
    assert_eq!(a.read("/f").unwrap(), b"later");
    assert_healthy(&bench.first);
}

#[test]
fn an_expired_lock_that_nobody_took_is_still_held() {
    let bench = Bench::new();
    let a = main(&bench.first);
    let session = a.open_session("/f", &exclusive()).unwrap();
    session.write_at(0, b"late").unwrap();
    bench.expire_in(-3600);
    session.close().unwrap();
    assert_eq!(a.read("/f").unwrap(), b"late");
    assert_healthy(&bench.first);
}

#[test]
fn an_expired_lock_that_was_taken_and_thrown_away_cannot_be_used_again() {
    let bench = Bench::new();
    let (a, b) = (main(&bench.first), main(&bench.second));
    let late = a.open_session("/f", &exclusive()).unwrap();
    late.write_at(0, b"late").unwrap();
    bench.expire_in(-1);
    b.open_session("/f", &exclusive()).unwrap().abort().unwrap();
    assert!(late.close().unwrap_err().is_locked());
    assert!(!a.exists("/f").unwrap());
    late.abort().unwrap();
    assert_healthy(&bench.second);
}

/// As the engine renews it in the background, every 10 s.
#[test]
fn a_renewed_lock_stays_held() {
    let bench = Bench::new();
    let (a, b) = (main(&bench.first), main(&bench.second));
    let session = a.open_session("/f", &exclusive()).unwrap();
    session.write_at(0, b"mine").unwrap();
    let renew = |name: &str, owner: &str| {
        let path = bench.dir.path().join("store");
        let store = SqliteStore::open(&path, alknet_fs_sqlite::Options::default()).unwrap();
        let mut txn = store.write(Durability::Relaxed).unwrap();
        let renewed = txn.renew_lock(name, owner, LOCK_SECONDS as u32).unwrap();
        txn.commit().unwrap();
        renewed
    };
    // In time, and too late but before anybody took it.
    for left in [20, 1, -5] {
        bench.expire_in(left);
        let (name, owner, _) = bench.lock();
        assert!(renew(&name, &owner));
        assert!(bench.lock().2 >= LOCK_SECONDS - 5);
        assert_locked_by(&b, "first");
    }
    session.close().unwrap();
    assert_eq!(a.read("/f").unwrap(), b"mine");
    assert_healthy(&bench.first);
}

/// Taking a session up again gives its lock the full time again.
#[test]
fn resuming_renews_the_lock() {
    let bench = Bench::new();
    let (a, b) = (main(&bench.first), main(&bench.second));
    let session = a.open_session("/f", &exclusive()).unwrap();
    session.write_at(0, b"mine").unwrap();
    let id = session.detach().unwrap();
    // Nobody works on it, and yet it keeps the path to itself.
    assert_locked_by(&b, "first");
    bench.expire_in(3);
    let session = bench.second.resume_session(id).unwrap();
    assert!(bench.lock().2 >= LOCK_SECONDS - 5);
    assert_locked_by(&b, "first");
    session.close().unwrap();
    assert_eq!(a.read("/f").unwrap(), b"mine");
    // With the session its lock is gone.
    b.open_session("/f", &exclusive()).unwrap().abort().unwrap();
    assert_healthy(&bench.first);
}
