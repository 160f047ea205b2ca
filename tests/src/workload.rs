//! Random work on a store, in a process that dies in the middle of it, and the check of what it
//! leaves: all that was acknowledged, nothing by half.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alknet_fs::{
    Cursor, DEFAULT_BUCKET, FsckOptions, GcOptions, Hash, SessionId, Store, Task, WatchOptions,
};

use crate::worker::{
    BatchStep, Bytes, End, Expected, Model, Op, Reply, Rng, Step, Worker, apply_step,
};

/// A session that is, or may be, open in the store.
#[derive(Debug, Clone)]
pub struct Open {
    /// Its number, where it is known.
    pub id: Option<u64>,
    branch: String,
    path: String,
    /// The bytes it shows after all acknowledged steps.
    bytes: Vec<u8>,
    /// The bytes as of the last acknowledged sync, and what `changes` was then.
    synced: Option<(Vec<u8>, bool)>,
    /// The step that was under way.
    pending: Option<Step>,
    /// Whether its opening was acknowledged.
    opened: bool,
    /// Whether closing it is a change in any case: it started empty, or a write was acknowledged.
    changes: bool,
}

/// What a killed worker was doing.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The operation that was not acknowledged.
    pub op: Op,
    /// Its session, if it is one.
    pub session: Option<Open>,
}

/// What was found after a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing was under way.
    None,
    /// The operation under way left no trace.
    Undone,
    /// The operation under way is there in full.
    Done,
}

/// How closely [`Workload::check`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The structure, and the bytes of what is new.
    Fast,
    /// Every byte.
    Full,
}

/// Random work and the model of its result.
#[derive(Debug)]
pub struct Workload {
    rng: Rng,
    /// What must be there.
    pub model: Model,
    /// The sessions that were left open.
    pub sessions: Vec<Open>,
    /// How many operations were acknowledged.
    pub acknowledged: u64,
    count: u64,
    sources: PathBuf,
    events: Vec<Expected>,
    cursor: Cursor,
    seen: BTreeSet<Hash>,
    /// Whether the process alone dies, not the machine: then staged writes are there too.
    pub keeps_staged: bool,
    /// Whether directories are imported.
    pub imports: bool,
    /// Set before the power goes: what is answered from then on does not count, neither a failure
    /// nor an acknowledgement. A machine without power gives no answers; a filesystem that is being
    /// shut down may let a sync succeed whose journal entry never gets to the disk.
    pub power_off: Arc<AtomicBool>,
}

const FILES: u64 = 6;
const DIRS: u64 = 3;

impl Workload {
    /// Starts with an empty store. Directories to import are made in `sources`.
    pub fn new(seed: u64, sources: &Path, keeps_staged: bool) -> Self {
        Self {
            rng: Rng::new(seed),
            model: Model::new(),
            sessions: Vec::new(),
            acknowledged: 0,
            count: 0,
            sources: sources.to_owned(),
            events: Vec::new(),
            cursor: Cursor::START,
            seen: BTreeSet::new(),
            keeps_staged,
            imports: true,
            power_off: Arc::default(),
        }
    }

    /// Returns the random numbers of this run.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Returns the operations that every store starts with.
    pub fn first(&mut self) -> Op {
        let mut steps = vec![BatchStep::Mkdir("/shared".to_owned())];
        for i in 0..FILES {
            let bytes = self.bytes(20_000);
            steps.push(BatchStep::Put(format!("/shared/f{i}"), bytes));
        }
        Op::Batch {
            branch: "main".to_owned(),
            steps,
        }
    }

    fn bytes(&mut self, max: u64) -> Bytes {
        self.count += 1;
        Bytes {
            seed: self.rng.number() ^ self.count,
            len: 1 + self.rng.below(max) as usize,
        }
    }

    /// Returns content of all sizes: in the database, around the limit, and in a file.
    fn any_bytes(&mut self) -> Bytes {
        match self.rng.below(10) {
            0..=5 => self.bytes(8_000),
            6..=7 => self.bytes(100_000),
            8 => self.bytes(500_000),
            _ => self.bytes(1_500_000),
        }
    }

    fn dir(branch: &str) -> String {
        format!("/of-{branch}")
    }

    /// Returns a path that the branch may write, and whether a file is there.
    fn path(&mut self, branch: &str) -> (String, bool) {
        let tree = self.model.tree(branch);
        let own = Self::dir(branch);
        let path = match self.rng.below(6) {
            0 if branch != "main" => format!("/shared/f{}", self.rng.below(FILES)),
            1 | 2 => {
                let dir = format!("{own}/d{}", self.rng.below(DIRS));
                let dir = if tree.contains_key(&dir) { dir } else { own };
                format!("{dir}/f{}", self.rng.below(FILES))
            }
            _ => format!("{own}/f{}", self.rng.below(FILES)),
        };
        let exists = tree.contains_key(&path);
        (path, exists)
    }

    fn generation(&mut self, branch: &str, mkdir: bool) -> Op {
        let dir = format!("{}/generation", Self::dir(branch));
        let mut steps = Vec::new();
        if mkdir {
            steps.push(BatchStep::Mkdir(Self::dir(branch)));
            steps.push(BatchStep::Mkdir(dir.clone()));
            for i in 0..DIRS - 1 {
                let dir = format!("{}/d{i}", Self::dir(branch));
                steps.push(BatchStep::Mkdir(dir.clone()));
                let bytes = self.bytes(5_000);
                steps.push(BatchStep::Put(format!("{dir}/first"), bytes));
            }
        }
        for name in ["a", "b", "c"] {
            let bytes = match name {
                "c" => self.bytes(150_000),
                _ => self.bytes(3_000),
            };
            steps.push(BatchStep::Put(format!("{dir}/{name}"), bytes));
        }
        Op::Batch {
            branch: branch.to_owned(),
            steps,
        }
    }

    /// Chooses an operation that must succeed.
    pub fn next_op(&mut self) -> Op {
        let names: Vec<String> = self.model.branches.keys().cloned().collect();
        let branch = self.rng.pick(&names).clone();
        let own = Self::dir(&branch);
        let tree = self.model.tree(&branch);
        if !tree.contains_key(&own) {
            return self.generation(&branch, true);
        }
        self.count += 1;
        let count = self.count;
        match self.rng.below(100) {
            0..=24 => {
                let (path, _) = self.path(&branch);
                let bytes = self.any_bytes();
                Op::Put {
                    branch,
                    path,
                    bytes,
                }
            }
            25..=49 => self.session(branch),
            50..=64 => self.generation(&branch, false),
            65..=72 => {
                let (from, exists) = self.path(&branch);
                let (to, _) = self.path(&branch);
                match exists && from != to {
                    true => Op::Rename { branch, from, to },
                    false => self.generation(&branch, false),
                }
            }
            73..=77 => {
                let from = format!("{own}/d{}", self.rng.below(DIRS));
                let to = format!("{own}/d{}", self.rng.below(DIRS));
                match tree.contains_key(&from) && !tree.contains_key(&to) {
                    true => Op::Rename { branch, from, to },
                    false => self.generation(&branch, false),
                }
            }
            78..=84 => match self.path(&branch) {
                (path, true) => Op::Remove { branch, path },
                (path, false) => Op::Put {
                    branch,
                    path,
                    bytes: self.any_bytes(),
                },
            },
            85..=88 if names.len() < 6 => {
                let taken: Vec<_> = self
                    .model
                    .snapshots
                    .keys()
                    .filter(|(of, _)| of == "main")
                    .collect();
                let snapshot = match taken.is_empty() || self.rng.percent(50) {
                    true => None,
                    false => Some(self.rng.pick(&taken).1.clone()),
                };
                Op::Fork {
                    from: "main".to_owned(),
                    snapshot,
                    name: format!("b{count}"),
                }
            }
            85..=88 => {
                let open = |name: &String| self.sessions.iter().any(|s| s.branch == *name);
                let free: Vec<_> = names
                    .iter()
                    .filter(|name| *name != "main" && !open(name))
                    .cloned()
                    .collect();
                match free.is_empty() {
                    true => self.generation(&branch, false),
                    false => Op::DeleteBranch {
                        name: self.rng.pick(&free).clone(),
                    },
                }
            }
            89..=94 if self.model.snapshots.len() < 12 => Op::Snapshot {
                branch,
                name: format!("s{count}"),
            },
            _ if self.imports => self.import(branch),
            _ => self.generation(&branch, false),
        }
    }

    fn session(&mut self, branch: String) -> Op {
        let (path, _) = self.path(&branch);
        let truncate = self.rng.percent(30);
        let size = match truncate {
            true => 0,
            false => self.model.bytes(&branch, &path).len() as u64,
        };
        let mut steps = Vec::new();
        // Small edits, small files, and enough to leave the database.
        let (count, max) = match self.rng.below(4) {
            0 => (1, 100),
            1 => (4, 20_000),
            2 => (10, 60_000),
            _ => (4, 400_000),
        };
        for _ in 0..=self.rng.below(count) {
            match self.rng.below(10) {
                0 => steps.push(Step::Truncate {
                    size: self.rng.below(size + 10_000),
                }),
                1 => steps.push(Step::Sync),
                _ => steps.push(Step::Write {
                    offset: self.rng.below(size + 1_000),
                    bytes: self.bytes(max),
                }),
            }
        }
        steps.push(Step::Write {
            offset: self.rng.below(size + 1),
            bytes: self.bytes(max),
        });
        let end = match self.rng.below(10) {
            0 => End::Abort,
            1 | 2 => End::Leave,
            _ => End::Close,
        };
        if end == End::Leave && self.rng.percent(50) {
            steps.push(Step::Sync);
        }
        let taken = self
            .sessions
            .iter()
            .any(|s| s.branch == branch && s.path == path);
        Op::Session {
            branch,
            path,
            exclusive: !taken && self.rng.percent(30),
            truncate,
            steps,
            end,
        }
    }

    fn import(&mut self, branch: String) -> Op {
        let source = self.sources.join(format!("import-{}", self.count));
        std::fs::create_dir_all(&source).unwrap();
        let mut files = Vec::new();
        for i in 0..1 + self.rng.below(12) {
            let bytes = self.any_bytes();
            files.push((format!("i{i}"), bytes));
        }
        if self.rng.percent(25) {
            // More than one commit's worth, in the last file too.
            let seed = self.rng.number();
            let bytes = Bytes { seed, len: 9 << 20 };
            files.push(("z".to_owned(), bytes));
        }
        for (name, bytes) in &files {
            std::fs::write(source.join(name), bytes.make()).unwrap();
        }
        Op::Import {
            to: format!("{}/imported", Self::dir(&branch)),
            branch,
            source,
            files,
        }
    }

    /// Has a worker do one operation. Returns what it was doing where it died.
    ///
    /// # Panics
    /// Where the operation fails.
    pub fn step(&mut self, worker: &mut Worker, op: Op) -> Option<Pending> {
        let mut session = match &op {
            Op::Session {
                branch,
                path,
                truncate,
                steps,
                ..
            } => Some(Open {
                id: None,
                branch: branch.clone(),
                path: path.clone(),
                bytes: match truncate {
                    true => Vec::new(),
                    false => self.model.bytes(branch, path),
                },
                synced: None,
                pending: steps.first().cloned(),
                opened: false,
                changes: *truncate || !self.model.tree(branch).contains_key(path),
            }),
            _ => None,
        };
        if worker.ask(&op).is_err() {
            return Some(Pending { op, session });
        }
        loop {
            let reply = worker.reply();
            if self.power_off.load(Ordering::SeqCst) {
                return Some(Pending { op, session });
            }
            match (reply, &mut session) {
                (None, _) => return Some(Pending { op, session }),
                (Some(Reply::Opened(id)), Some(session)) => {
                    session.id = Some(id);
                    session.opened = true;
                }
                (Some(Reply::Stepped(n)), Some(session)) => {
                    let Op::Session { steps, .. } = &op else {
                        unreachable!()
                    };
                    apply_step(&mut session.bytes, &steps[n - 1]);
                    match steps[n - 1] {
                        Step::Sync => {
                            session.synced = Some((session.bytes.clone(), session.changes));
                        }
                        _ => session.changes = true,
                    }
                    session.pending = steps.get(n).cloned();
                }
                (Some(Reply::Done), _) => {
                    self.committed(&op);
                    if let (
                        Op::Session {
                            end: End::Leave, ..
                        },
                        Some(session),
                    ) = (&op, session)
                    {
                        self.sessions.push(session);
                    }
                    return None;
                }
                (Some(reply), _) => panic!("{reply:?} to {op:?}"),
            }
        }
    }

    fn committed(&mut self, op: &Op) {
        self.acknowledged += 1;
        let events = self.model.apply(op);
        self.events.extend(events);
    }

    /// Compares a store with what was acknowledged, after the worker died.
    ///
    /// # Panics
    /// Where anything is missing, or there by half.
    pub fn check(&mut self, store: &Store, pending: Option<&Pending>, depth: Depth) -> Fate {
        let fate = self.check_trees(store, pending);
        self.check_events(store, pending);
        self.check_sessions(store, pending, fate);
        if depth == Depth::Full {
            self.seen.clear();
        }
        let wrong = self.model.wrong_bytes(store, &mut self.seen);
        assert!(wrong.is_empty(), "{wrong:#?}");
        fsck(store, depth);
        fate
    }

    fn check_trees(&mut self, store: &Store, pending: Option<&Pending>) -> Fate {
        if let Some(Pending {
            op: op @ Op::Import { .. },
            ..
        }) = pending
        {
            let wrong = self.model.settle_import(store, op);
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
        let wrong = self.model.differences(store);
        if wrong.is_empty() {
            return match pending {
                None => Fate::None,
                Some(_) => Fate::Undone,
            };
        }
        let Some(Pending { op, .. }) = pending else {
            panic!("nothing was under way, but: {wrong:#?}");
        };
        let mut after = self.model.clone();
        after.apply(op);
        let also_wrong = after.differences(store);
        assert!(
            also_wrong.is_empty(),
            "{op:?}\nis neither undone: {wrong:#?}\nnor done: {also_wrong:#?}"
        );
        let acknowledged = self.acknowledged;
        self.committed(op);
        self.acknowledged = acknowledged;
        Fate::Done
    }

    /// Each event is there if and only if its change is, in order.
    fn check_events(&mut self, store: &Store, pending: Option<&Pending>) {
        let options = WatchOptions {
            bucket: Some(DEFAULT_BUCKET.to_owned()),
            after: Some(self.cursor),
            ..WatchOptions::default()
        };
        let mut watcher = store.watch(&options).unwrap();
        let mut found = Vec::new();
        while let Some(event) = watcher.next_ready().unwrap() {
            assert!(event.cursor > self.cursor, "cursors grow");
            self.cursor = event.cursor;
            let path = event.change.path.map(|path| path.to_string());
            let op = serde_json::to_value(event.change.op).unwrap();
            let op = op.as_str().unwrap().to_owned();
            let named = path.is_none() && op == "snapshot";
            let name = match named {
                true => event.change.name,
                false => path,
            };
            found.push((event.branch, op, name.unwrap_or_default(), event.change.new));
        }
        let expected = std::mem::take(&mut self.events);
        let imported = |path: &str| path.contains("/imported");
        found.retain(|(.., path, _)| !imported(path));
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(branch, op, path, hash)| (branch, op.to_owned(), path, hash))
            .collect();
        assert_eq!(found, expected, "the events, with {pending:?} under way");
    }

    fn check_sessions(&mut self, store: &Store, pending: Option<&Pending>, fate: Fate) {
        let listed = store.sessions().unwrap();
        for info in &listed {
            assert!(!info.alive, "{info:?} has no process any more");
        }
        let listed: BTreeSet<u64> = listed.iter().map(|info| info.id.0).collect();
        if !self.keeps_staged {
            // A power cut may take sessions along that were never synced.
            self.sessions.retain(|s| {
                let there = s.id.is_some_and(|id| listed.contains(&id));
                assert!(there || s.synced.is_none(), "{} was synced", s.path);
                there
            });
        }
        let known: BTreeSet<u64> = self.sessions.iter().filter_map(|s| s.id).collect();
        let missing: Vec<_> = known.difference(&listed).collect();
        assert!(missing.is_empty(), "sessions {missing:?} are gone");
        let mut more: BTreeSet<u64> = listed.difference(&known).copied().collect();
        let under_way = pending.and_then(|p| Some((p.session.clone()?, &p.op)));
        if let Some((mut session, Op::Session { end, .. })) = under_way {
            let there = match session.id {
                Some(id) => more.remove(&id).then_some(id),
                // It was opened, but not acknowledged.
                None if self.keeps_staged => more.pop_first(),
                None => None,
            };
            let ending = session.pending.is_none() && *end != End::Leave;
            let safe = match self.keeps_staged {
                true => session.opened,
                false => session.synced.is_some(),
            };
            match there {
                Some(id) => {
                    assert_ne!(fate, Fate::Done, "session {id} was closed, and is listed");
                    session.id = Some(id);
                    self.sessions.push(session);
                }
                None => assert!(
                    !safe || (ending && (fate == Fate::Done || *end == End::Abort)),
                    "session {:?} of {} is gone",
                    session.id,
                    session.path
                ),
            }
        }
        if self.keeps_staged {
            assert!(more.is_empty(), "sessions {more:?} came from nowhere");
        }
        // That a session was opened or thrown away is not durable by itself.
        for id in more {
            store.abort_session(SessionId(id), false).unwrap();
        }
        if !self.keeps_staged {
            self.sessions.retain(|session| {
                if session.synced.is_none() {
                    let id = SessionId(session.id.unwrap());
                    store.abort_session(id, false).unwrap();
                }
                session.synced.is_some()
            });
        }
    }

    /// Goes on from what a store shows, whatever that lost.
    ///
    /// # Panics
    /// Where a session cannot be thrown away.
    pub fn forget(&mut self, store: &Store, model: Model) {
        for info in store.sessions().unwrap() {
            store.abort_session(info.id, false).unwrap();
        }
        self.sessions.clear();
        self.events.clear();
        self.model = model;
        let watcher = store.watch(&WatchOptions::default()).unwrap();
        self.cursor = watcher.cursor();
    }

    /// Ends the sessions that died with their process: some are resumed by a worker, with all that
    /// was acknowledged, some are thrown away.
    ///
    /// # Panics
    /// Where acknowledged bytes are missing.
    pub fn end_sessions(&mut self, worker: &mut Worker, store: Option<&Store>) {
        for session in std::mem::take(&mut self.sessions) {
            let id = session.id.unwrap();
            let resume = match self.keeps_staged {
                true => self.rng.percent(70),
                false => session.synced.is_some(),
            };
            if !resume && let Some(store) = store {
                store.abort_session(SessionId(id), false).unwrap();
                continue;
            }
            let dump = self.sources.join("dump");
            // Its directory may have been renamed.
            let dir = session.path.rsplit_once('/').map_or("", |(dir, _)| dir);
            let changes = match &session.synced {
                Some((_, changes)) if !self.keeps_staged => *changes,
                _ => session.changes,
            };
            let closes = changes && self.model.tree(&session.branch).contains_key(dir);
            let end = match closes && self.rng.percent(60) {
                true => End::Close,
                false => End::Abort,
            };
            let op = Op::Resume {
                id,
                dump: dump.clone(),
                end,
            };
            let reply = worker.run(&op);
            assert_eq!(reply, Some(Reply::Done), "session {id} of {}", session.path);
            let found = std::fs::read(&dump).unwrap();
            self.check_resumed(&session, &found);
            if end == End::Close {
                let event = self.model.put(&session.branch, &session.path, found);
                self.events.push(event);
            }
        }
    }

    fn check_resumed(&self, session: &Open, found: &[u8]) {
        let place = format!("session {:?} of {}", session.id, session.path);
        let (acknowledged, pending) = match self.keeps_staged {
            true => (&session.bytes, session.pending.as_ref()),
            // What came after the last sync may be there in part.
            false if session.synced.as_ref().map(|(bytes, _)| bytes) != Some(&session.bytes) => {
                return;
            }
            false => (&session.bytes, session.pending.as_ref()),
        };
        let mut after = acknowledged.clone();
        if let Some(step) = pending {
            apply_step(&mut after, step);
        }
        let sizes = [acknowledged.len(), after.len()];
        let between = found.len() >= *sizes.iter().min().unwrap()
            && found.len() <= *sizes.iter().max().unwrap();
        assert!(
            between,
            "{place}: {} bytes, expected {sizes:?}",
            found.len()
        );
        for (at, byte) in found.iter().enumerate() {
            let fits = |bytes: &[u8]| bytes.get(at).copied().unwrap_or(0) == *byte;
            assert!(
                fits(acknowledged) || fits(&after),
                "{place}: byte {at} of {} was not acknowledged (pending {pending:?})",
                found.len(),
            );
        }
    }

    /// Collects garbage and checks that nothing of the dead stays.
    ///
    /// # Panics
    /// Where something does.
    pub fn check_leaks(&mut self, store: &Store) {
        assert!(self.sessions.is_empty());
        let gc = GcOptions::new().grace(std::time::Duration::ZERO);
        let report = store.gc(&gc, &Task::new()).unwrap();
        assert!(!report.files_deferred, "nobody has a view open");
        let path = store.path().unwrap();
        let staged = names(&path.join("staging"));
        assert!(staged.is_empty(), "left in staging/: {staged:?}");
        let report = fsck(store, Depth::Fast);
        assert_eq!(report.orphans, 0, "{report:?}");
        let wrong = self.model.differences(store);
        assert!(wrong.is_empty(), "after garbage collection: {wrong:#?}");
    }
}

/// Returns the names in a directory.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Checks a store with its own means.
///
/// # Panics
/// Where it reports a problem.
pub fn fsck(store: &Store, depth: Depth) -> alknet_fs::FsckReport {
    let options = FsckOptions::new().fast(depth == Depth::Fast);
    let report = store.fsck(&options, &Task::new()).unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    report
}

/// Returns how often the tests are to be repeated: `ALKFS_TEST_SCALE`, or 1.
pub fn scale() -> f64 {
    std::env::var("ALKFS_TEST_SCALE")
        .ok()
        .and_then(|scale| scale.parse().ok())
        .unwrap_or(1.0)
}

/// Returns `n` times the scale, and at least 1.
pub fn scaled(n: u64) -> u64 {
    ((n as f64 * scale()) as u64).max(1)
}

/// Returns the seed of this run: `ALKFS_TEST_SEED`, or one from the clock; prints it.
pub fn seed(test: &str) -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let given = std::env::var("ALKFS_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| clock.unwrap().as_nanos() as u64 % 1_000_000_007);
    eprintln!("{test}: ALKFS_TEST_SEED={seed}");
    seed
}
