//! Write sessions against a plain byte vector, their locks, their failures, and what is left of them
//! when their process is killed.
//!
//! `ALKFS_TEST_SCALE` multiplies the number of random cases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use alknet_fs::{
    Branch, ContentForm, Durability, ErrorKind, Hash, OpenOptions, Options, Reader, Session,
    Staging, Store,
};
use alknet_fs_tests::worker::{Bytes, Rng};
use alknet_fs_tests::workload::{Depth, fsck, names, scaled};
use proptest::prelude::*;
use tempfile::TempDir;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// An offset or a size: absolute, or counted from the end of the file as the session has it.
#[derive(Debug, Clone, Copy)]
enum Place {
    At(u64),
    FromEnd(i64),
}

impl Place {
    fn of(self, size: usize, most: u64) -> u64 {
        match self {
            Self::At(at) => at,
            Self::FromEnd(by) => (size as i64 + by).max(0) as u64,
        }
        .min(most)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(Place, usize),
    Append(usize),
    Truncate(Place),
    Read(Place, usize),
    Sync,
    Close,
    Abort,
    /// Leaves the session and takes it up again.
    Resume,
    /// The same, with the store closed in between.
    Reopen,
    /// Keeps a reader of the version that is committed now.
    Keep,
}

/// How large everything is.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// The file before the first session.
    base: (u64, u64),
    /// The largest offset, and the largest size for truncations.
    most: u64,
    /// Most writes have up to this many bytes.
    write: usize,
    /// Some have up to this many.
    large_write: usize,
    /// How many truncations there are for 100 writes.
    truncations: u32,
    /// How many closes.
    closes: u32,
    steps: usize,
}

fn place(most: u64) -> impl Strategy<Value = Place> {
    // Contents are cut into pieces of powers of two; what goes wrong goes wrong at their edges.
    let edge = prop_oneof![Just(KIB), Just(64 * KIB), Just(256 * KIB), Just(MIB)];
    prop_oneof![
        4 => (0..=most).prop_map(Place::At),
        2 => (edge, 0..=most, -1..=1i64).prop_map(move |(edge, at, by)| {
            Place::At((at / edge * edge).saturating_add_signed(by).min(most))
        }),
        1 => (-100..=100i64).prop_map(Place::FromEnd),
    ]
}

fn step(sizes: Sizes) -> impl Strategy<Value = Step> {
    let Sizes {
        most,
        write,
        large_write,
        truncations,
        closes,
        ..
    } = sizes;
    let len = prop_oneof![6 => 0..=write, 1 => 0..=large_write];
    prop_oneof![
        100 => (place(most), len.clone()).prop_map(|(at, len)| Step::Write(at, len)),
        15 => len.prop_map(Step::Append),
        truncations => place(most).prop_map(Step::Truncate),
        30 => (place(most), 0..=2 * write).prop_map(|(at, len)| Step::Read(at, len)),
        5 => Just(Step::Sync),
        closes => Just(Step::Close),
        4 => Just(Step::Abort),
        8 => Just(Step::Resume),
        3 => Just(Step::Reopen),
        6 => Just(Step::Keep),
    ]
}

fn options() -> Options {
    Options::new()
        .author("tester")
        .durability(Durability::Relaxed)
}

/// A store with one file, what it must hold, and what the open session must hold.
struct World {
    session: Option<Session>,
    kept: Vec<(Reader, Arc<Vec<u8>>)>,
    main: Branch,
    store: Store,
    committed: Option<Arc<Vec<u8>>>,
    staged: Vec<u8>,
    seeds: u64,
    dir: Option<TempDir>,
}

impl World {
    fn new(on_disk: bool, base: &[u8]) -> Self {
        let dir = on_disk.then(|| tempfile::tempdir().unwrap());
        let store = match &dir {
            Some(dir) => options().create(dir.path().join("store")),
            None => options().memory(),
        };
        let store = store.unwrap();
        let main = store.bucket("default").unwrap().main().unwrap();
        let committed = (!base.is_empty()).then(|| {
            main.write("/file", base.to_vec()).unwrap();
            Arc::new(base.to_vec())
        });
        Self {
            session: None,
            kept: Vec::new(),
            main,
            store,
            committed,
            staged: Vec::new(),
            seeds: 0,
            dir,
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.seeds += 1;
        let seed = self.seeds;
        Bytes { seed, len }.make()
    }

    fn session(&mut self) -> &Session {
        let (main, committed, staged) = (&self.main, &self.committed, &mut self.staged);
        self.session.get_or_insert_with(|| {
            *staged = committed.as_ref().map_or_else(Vec::new, |c| c.to_vec());
            main.open_session("/file", &OpenOptions::new()).unwrap()
        })
    }

    fn step(&mut self, step: &Step, most: u64) {
        let size = match self.session {
            Some(_) => self.staged.len(),
            None => self.committed.as_ref().map_or(0, |c| c.len()),
        };
        match *step {
            Step::Write(at, len) => {
                let (at, bytes) = (at.of(size, most), self.bytes(len));
                self.session().write_at(at, &bytes).unwrap();
                self.put(at as usize, &bytes);
            }
            Step::Append(len) => {
                let bytes = self.bytes(len);
                let at = self.session().append(&bytes).unwrap();
                assert_eq!(at, self.staged.len() as u64);
                self.staged.extend_from_slice(&bytes);
            }
            Step::Truncate(to) => {
                let to = to.of(size, most);
                self.session().truncate(to).unwrap();
                self.staged.resize(to as usize, 0);
            }
            Step::Read(at, len) => {
                let (at, mut buffer) = (at.of(size, most), vec![0xee; len]);
                let n = self.session().read_at(at, &mut buffer).unwrap();
                assert!(
                    buffer[..n] == *part(&self.staged, at, len),
                    "read_at {at} {len}"
                );
                assert_eq!(self.session().size(), self.staged.len() as u64);
            }
            Step::Sync => self.session().sync().unwrap(),
            Step::Close => self.close(),
            Step::Abort => {
                if let Some(session) = self.session.take() {
                    session.abort().unwrap();
                    self.check();
                }
            }
            Step::Resume => {
                if let Some(session) = self.session.take() {
                    let id = session.detach().unwrap();
                    self.session = Some(self.store.resume_session(id).unwrap());
                }
            }
            Step::Reopen => {
                let id = self.session.take().map(|s| s.detach().unwrap());
                self.reopen();
                self.session = id.map(|id| self.store.resume_session(id).unwrap());
            }
            Step::Keep => {
                if let Some(committed) = &self.committed {
                    let reader = self.main.open("/file").unwrap();
                    self.kept.push((reader, Arc::clone(committed)));
                }
            }
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            let end = at + bytes.len();
            self.staged.resize(self.staged.len().max(end), 0);
            self.staged[at..end].copy_from_slice(bytes);
        }
    }

    fn reopen(&mut self) {
        let Some(dir) = &self.dir else {
            return;
        };
        self.check_kept();
        self.kept.clear();
        // Both stores are open for a moment, as with two processes.
        self.store = options().open(dir.path().join("store")).unwrap();
        self.main = self.store.bucket("default").unwrap().main().unwrap();
    }

    fn close(&mut self) {
        self.session();
        let session = self.session.take().unwrap();
        let closed = session.close().unwrap();
        let staged = std::mem::take(&mut self.staged);
        assert_eq!(closed.size, staged.len() as u64);
        assert_eq!(closed.hash, Hash::of(&staged), "the hash that close tells");
        self.committed = Some(Arc::new(staged));
        self.check();
    }

    /// Compares what is committed, and that no session is left.
    fn check(&self) {
        match &self.committed {
            None => assert!(!self.main.exists("/file").unwrap()),
            Some(want) => {
                let view = self.main.view().unwrap();
                assert_eq!(view.stat("/file").unwrap().hash(), Some(Hash::of(want)));
                assert!(
                    view.read("/file").unwrap() == ***want,
                    "the content differs"
                );
                view.verify("/file").unwrap();
            }
        }
        assert_eq!(self.store.sessions().unwrap(), []);
        if let Some(dir) = &self.dir {
            assert_nothing_staged(&dir.path().join("store"));
        }
    }

    fn check_kept(&self) {
        for (reader, want) in &self.kept {
            let mut bytes = vec![0; want.len() + 1];
            let n = reader.read_at(0, &mut bytes).unwrap();
            assert!(bytes[..n] == ***want, "a reader lost its version");
        }
    }
}

fn part(bytes: &[u8], at: u64, len: usize) -> &[u8] {
    let start = (at as usize).min(bytes.len());
    &bytes[start..(start + len).min(bytes.len())]
}

fn assert_nothing_staged(store: &Path) {
    let staging = store.join("staging");
    if staging.exists() {
        assert_eq!(names(&staging), Vec::<String>::new());
    }
}

fn replay(on_disk: bool, sizes: Sizes, base: u64, steps: &[Step]) {
    let base = Bytes {
        seed: base,
        len: base as usize,
    };
    let mut world = World::new(on_disk, &base.make());
    for step in steps {
        world.step(step, sizes.most);
    }
    if world.session.is_some() {
        world.close();
    }
    world.check_kept();
    fsck(&world.store, Depth::Full);
    if on_disk {
        world.reopen();
        world.check();
    }
}

fn check(cases: u64, on_disk: bool, sizes: Sizes) {
    let config = ProptestConfig {
        cases: scaled(cases) as u32,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    };
    let steps = proptest::collection::vec(step(sizes), 1..sizes.steps);
    proptest!(config, |(base in sizes.base.0..=sizes.base.1, steps in steps)| {
        replay(on_disk, sizes, base, &steps);
    });
}

/// Everything stages in the database and is kept in it.
const SMALL: Sizes = Sizes {
    base: (0, 2000),
    most: 3000,
    write: 300,
    large_write: 1500,
    truncations: 15,
    closes: 35,
    steps: 40,
};

/// Sessions move from the database to a file, and contents grow from one form into the next.
const SPILLING: Sizes = Sizes {
    base: (0, 700 * KIB),
    most: 800 * KIB,
    write: 60 << 10,
    large_write: 300 << 10,
    truncations: 40,
    closes: 10,
    steps: 30,
};

/// Small edits of a large file: deltas, chains of them, and their end.
const EDITING: Sizes = Sizes {
    base: (2 * MIB, 4 * MIB),
    most: 4 * MIB,
    write: 200,
    large_write: 40 << 10,
    truncations: 2,
    closes: 35,
    steps: 60,
};

/// The same with holes, cuts and more than a delta can hold.
const REWRITING: Sizes = Sizes {
    base: (300 * KIB, 2 * MIB),
    most: 6 * MIB,
    write: 20 << 10,
    large_write: 600 << 10,
    truncations: 30,
    closes: 20,
    steps: 30,
};

#[test]
fn small_sessions_in_memory() {
    check(400, false, SMALL);
}

#[test]
fn small_sessions_on_disk() {
    check(60, true, SMALL);
}

#[test]
fn spilling_sessions_in_memory() {
    check(60, false, SPILLING);
}

#[test]
fn spilling_sessions_on_disk() {
    check(80, true, SPILLING);
}

#[test]
fn editing_sessions_in_memory() {
    check(8, false, EDITING);
}

#[test]
fn editing_sessions_on_disk() {
    check(20, true, EDITING);
}

#[test]
fn rewriting_sessions_on_disk() {
    check(25, true, REWRITING);
}

/// One small edit after the other, until deltas have piled up and were put together several times.
#[test]
fn a_long_run_of_small_edits() {
    let base = Bytes {
        seed: 1,
        len: 3 << 20,
    };
    let mut world = World::new(true, &base.make());
    let mut rng = Rng::new(7);
    let mut forms = Vec::new();
    for i in 0..60 {
        if i % 10 == 0 {
            world.step(&Step::Keep, u64::MAX);
        }
        let at = match i % 5 {
            // Edits of one place replace each other; edits of many make the delta grow.
            0 => 1_000_000,
            _ => rng.below(3 * MIB),
        };
        let len = 1 + rng.below(3000) as usize;
        world.step(&Step::Write(Place::At(at), len), u64::MAX);
        world.step(&Step::Close, u64::MAX);
        forms.push(world.main.open("/file").unwrap().form());
    }
    world.check_kept();
    fsck(&world.store, Depth::Full);
    // Were they no deltas, this test would not meet what it is for.
    assert!(forms.iter().all(|f| *f == ContentForm::Delta), "{forms:?}");
}

struct Fixture {
    store: Store,
    main: Branch,
    dir: TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = options().create(dir.path().join("store")).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    Fixture { store, main, dir }
}

impl Fixture {
    fn path(&self) -> &Path {
        self.store.path().unwrap()
    }

    /// Opens the store once more, as another process would.
    fn other(&self) -> Branch {
        let other = options().author("other").open(self.path()).unwrap();
        other.bucket("default").unwrap().main().unwrap()
    }
}

/// Bytes that fit the database, and bytes that do not.
const LENGTHS: [usize; 2] = [1000, 700_000];

#[test]
fn an_exclusive_lock_names_its_owner_to_every_process() {
    let f = fixture();
    let exclusive = OpenOptions::new().exclusive(true);
    let other = f.other();
    let ends: [fn(Session); 3] = [
        |s| drop(s.close().unwrap()),
        |s| s.abort().unwrap(),
        |s| drop(s),
    ];
    for end in ends {
        let held = f
            .main
            .open_session("/f", &exclusive.clone().owner("agent-7"));
        let held = held.unwrap();
        for branch in [&f.main, &other] {
            let error = branch.open_session("/f", &exclusive).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked);
            assert!(error.to_string().contains("agent-7"), "{error}");
            // Who does not ask for the lock is not kept out.
            branch
                .open_session("/f", &OpenOptions::new())
                .unwrap()
                .abort()
                .unwrap();
            branch
                .open_session("/g", &exclusive)
                .unwrap()
                .abort()
                .unwrap();
        }
        let error = f.store.resume_session(held.id()).unwrap_err();
        assert!(error.is_locked(), "{error}");
        let error = f.store.abort_session(held.id(), false).unwrap_err();
        assert!(error.is_locked(), "{error}");
        end(held);
        other
            .open_session("/f", &exclusive)
            .unwrap()
            .abort()
            .unwrap();
    }
    assert_eq!(f.store.sessions().unwrap(), []);
}

#[test]
fn a_close_that_fails_loses_nothing() {
    for len in LENGTHS {
        let f = fixture();
        let bytes = Bytes { seed: 3, len }.make();
        f.main.mkdir("/d").unwrap();
        let session = f.main.open_session("/d/f", &OpenOptions::new()).unwrap();
        session.write_at(0, &bytes).unwrap();
        f.main.remove_dir("/d").unwrap();
        for _ in 0..2 {
            let error = session.close().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert_eq!(f.store.sessions().unwrap().len(), 1);
        }
        // It can still be read and written.
        let mut tail = [0; 10];
        assert_eq!(session.read_at(len as u64 - 10, &mut tail).unwrap(), 10);
        assert_eq!(tail, bytes[len - 10..]);
        session.append(b"more").unwrap();
        f.main.mkdir("/d").unwrap();
        session.close().unwrap();
        assert!(f.main.read("/d/f").unwrap() == [&bytes[..], b"more"].concat());
        f.main.view().unwrap().verify("/d/f").unwrap();
        assert_nothing_staged(f.path());
    }
}

#[test]
fn a_close_that_fails_over_a_large_base_loses_nothing() {
    let f = fixture();
    let mut bytes = Bytes {
        seed: 4,
        len: 2 << 20,
    }
    .make();
    f.main.mkdir("/d").unwrap();
    f.main.write("/d/f", bytes.clone()).unwrap();
    let session = f.main.open_session("/d/f", &OpenOptions::new()).unwrap();
    session.write_at(1_000_000, b"edit").unwrap();
    f.main.remove_all("/d").unwrap();
    assert_eq!(session.close().unwrap_err().kind(), ErrorKind::NotFound);
    f.main.mkdir("/d").unwrap();
    session.close().unwrap();
    bytes[1_000_000..1_000_004].copy_from_slice(b"edit");
    assert!(f.main.read("/d/f").unwrap() == bytes);
    f.main.view().unwrap().verify("/d/f").unwrap();
}

#[test]
fn create_new_meets_a_file_at_close() {
    for len in LENGTHS {
        let f = fixture();
        let bytes = Bytes { seed: 5, len }.make();
        let create_new = OpenOptions::new().create_new(true);
        let session = f.main.open_session("/f", &create_new).unwrap();
        session.write_at(0, &bytes).unwrap();
        f.main.write("/f", "theirs").unwrap();
        let error = session.close().unwrap_err();
        assert!(error.is_already_exists(), "{error}");
        assert_eq!(f.main.read("/f").unwrap(), b"theirs");
        let id = session.detach().unwrap();
        let session = f.store.resume_session(id).unwrap();
        assert!(session.close().unwrap_err().is_already_exists());
        f.main.rename("/f", "/theirs").unwrap();
        session.close().unwrap();
        assert!(f.main.read("/f").unwrap() == bytes);
        assert_nothing_staged(f.path());
    }
}

#[test]
fn every_end_of_a_session_removes_what_it_staged() {
    let ends: [fn(&Store, Session); 5] = [
        |_, s| drop(s.close().unwrap()),
        |_, s| s.abort().unwrap(),
        |_, s| drop(s),
        |store, s| store.abort_session(s.id(), true).unwrap(),
        |store, s| store.abort_session(s.detach().unwrap(), false).unwrap(),
    ];
    for len in LENGTHS {
        let f = fixture();
        for end in ends {
            let session = f.main.open_session("/f", &OpenOptions::new()).unwrap();
            session.write_at(0, &Bytes { seed: 6, len }.make()).unwrap();
            let staging = f.store.sessions().unwrap()[0].staging;
            let large = len > 256 << 10;
            assert_eq!(staging == Staging::File, large);
            assert_eq!(!names(&f.path().join("staging")).is_empty(), large);
            end(&f.store, session);
            assert_eq!(f.store.sessions().unwrap(), []);
            assert_nothing_staged(f.path());
        }
        fsck(&f.store, Depth::Full);
    }
}

// ------------------------------------------------------------------ killed processes

const CHILD: &str = "ALKFS_TEST_SESSION_CHILD";

/// The write that a child makes as its `i`-th, over a file of `KILL_BASE` bytes.
fn kill_write(i: u64, large: bool) -> (u64, Vec<u8>) {
    let mut rng = Rng::new(i);
    let (span, most) = match large {
        true => (2 * MIB, 40 << 10),
        false => (20 * KIB, 200),
    };
    let at = rng.below(span);
    let len = 1 + rng.below(most) as usize;
    (at, Bytes { seed: i, len }.make())
}

const KILL_BASE: usize = 10_000;

/// What the child of the tests below does; without its variable, nothing.
#[test]
fn child() {
    let Ok(argument) = std::env::var(CHILD) else {
        return;
    };
    let (kind, path) = argument.split_once(':').unwrap();
    let store = options().author("child").open(path).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    let exclusive = OpenOptions::new().exclusive(true);
    let session = main.open_session("/f", &exclusive).unwrap();
    let mut out = std::io::stdout();
    // The test harness has begun a line.
    writeln!(out, "\nopen").unwrap();
    for i in 0.. {
        let (at, bytes) = kill_write(i, kind == "large");
        session.write_at(at, &bytes).unwrap();
        writeln!(out, "ack {i}").unwrap();
    }
}

/// Runs a child until it has made some writes, kills it, and returns how many it was told of.
fn killed_child(store: &Path, kind: &str, writes: u64) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{kind}:{}", store.display()))
        .stdout(Stdio::piped());
    let mut child = Reaped(command.spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut acked = 0;
    let mut count = |line: &str| {
        if line.starts_with("ack ") {
            acked += 1;
        }
        acked
    };
    for line in lines.by_ref() {
        if count(&line.unwrap()) >= writes {
            break;
        }
    }
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    for line in lines.map_while(Result::ok) {
        count(&line);
    }
    assert!(
        acked >= writes,
        "the child ended by itself after {acked} writes"
    );
    acked
}

/// A child that is killed should the test fail.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn after(writes: u64, large: bool, base: &[u8]) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for i in 0..writes {
        let (at, data) = kill_write(i, large);
        let (at, end) = (at as usize, at as usize + data.len());
        bytes.resize(bytes.len().max(end), 0);
        bytes[at..end].copy_from_slice(&data);
    }
    bytes
}

#[test]
fn what_was_acknowledged_survives_the_kill() {
    for round in 0..scaled(8) {
        for kind in ["small", "large"] {
            let f = fixture();
            let large = kind == "large";
            let base = Bytes {
                seed: 9,
                len: KILL_BASE,
            }
            .make();
            f.main.write("/f", base.clone()).unwrap();
            let acked = killed_child(f.path(), kind, 1 + round * 7);
            // Nothing was committed, and the lock is still held, by nobody.
            assert!(f.main.read("/f").unwrap() == base);
            let sessions = f.store.sessions().unwrap();
            assert_eq!(sessions.len(), 1);
            let (session, id) = (&sessions[0], sessions[0].id);
            assert_eq!((session.alive, session.exclusive), (false, true));
            assert_eq!(session.owner, "child");
            let exclusive = OpenOptions::new().exclusive(true);
            let error = f.main.open_session("/f", &exclusive).unwrap_err();
            assert!(error.is_locked(), "{error}");
            assert!(error.to_string().contains("child"), "{error}");
            assert!(error.to_string().contains(&id.to_string()), "{error}");
            fsck(&f.store, Depth::Full);
            if round % 4 == 3 {
                f.store.abort_session(id, false).unwrap();
                assert_nothing_staged(f.path());
                f.main
                    .open_session("/f", &exclusive)
                    .unwrap()
                    .abort()
                    .unwrap();
                assert!(f.main.read("/f").unwrap() == base);
                continue;
            }
            let resumed = f.store.resume_session(id).unwrap();
            let mut bytes = vec![0; resumed.size() as usize];
            let n = resumed.read_at(0, &mut bytes).unwrap();
            assert_eq!(n, bytes.len());
            // As with a POSIX file, the write that was under way may have arrived, not at all or in
            // part, over what it was to replace; nothing else may have changed.
            let before = after(acked, large, &base);
            let then = after(acked + 1, large, &base);
            let sizes = before.len()..=then.len();
            assert!(sizes.contains(&n), "{kind}: {n} bytes, {sizes:?}");
            let wrong = (0..n).find(|&i| {
                let byte = Some(&bytes[i]);
                byte != before.get(i) && byte != then.get(i)
            });
            assert_eq!(wrong, None, "{kind}: {acked} writes were acknowledged");
            resumed.append(b"the end").unwrap();
            let closed = resumed.close().unwrap();
            let want = [&bytes[..], b"the end"].concat();
            assert_eq!(closed.hash, Hash::of(&want));
            let mut read = Vec::new();
            f.main.open("/f").unwrap().read_to_end(&mut read).unwrap();
            assert!(read == want);
            f.main.view().unwrap().verify("/f").unwrap();
            f.main
                .open_session("/f", &exclusive)
                .unwrap()
                .abort()
                .unwrap();
            assert_eq!(f.store.sessions().unwrap(), []);
            assert_nothing_staged(f.path());
            drop(f.dir);
        }
    }
}

/// As `O_EXCL` has it: a link that is in the way is there, wherever it leads.
#[test]
fn create_new_meets_a_link_at_close() {
    for target in ["no/where", "f"] {
        let f = fixture();
        let create_new = OpenOptions::new().create_new(true);
        let session = f.main.open_session("/f", &create_new).unwrap();
        session.write_at(0, b"x").unwrap();
        f.main.symlink(target, "/f").unwrap();
        let error = session.close().unwrap_err();
        assert!(error.is_already_exists(), "{target}: {error}");
    }
}
