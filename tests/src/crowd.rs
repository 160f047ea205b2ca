//! What each of several processes does that work on one store at once.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alknet_fs::{
    Branch, Cursor, Event, GcOptions, Hash, ImportOptions, OpenOptions, Options, Store, Task,
    TreePath, View, WatchOptions,
};
use serde::{Deserialize, Serialize};

use crate::worker::{Bytes, Rng};

/// How many pairs of files there are, each pair always written in one batch.
pub const PAIRS: u64 = 3;

/// The file whose appearance ends the work of the watchers.
pub const STOP: &str = "/stop";

/// How long anything may take before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// How long those rest who only look whether something happened: the machine may have two cores.
const PAUSE: Duration = Duration::from_millis(5);

/// What one process does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The store.
    pub store: PathBuf,
    /// The number of the process.
    pub me: u64,
    /// What its choices follow from.
    pub seed: u64,
    /// How often each thread does its work.
    pub rounds: u64,
    /// Where the watcher starts.
    pub after: Cursor,
    /// The file that gets a line for each event.
    pub events: PathBuf,
    /// A directory to import over and over, if the process does that.
    pub import: Option<PathBuf>,
    /// Whether the process collects garbage all the time.
    pub collect: bool,
}

/// What one process did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Changes that were acknowledged: one event each.
    pub changes: u64,
    /// How often it counted up.
    pub counted: u64,
    /// How often somebody else was counting.
    pub locked: u64,
    /// Views whose pairs were compared.
    pub views: u64,
    /// Garbage collections.
    pub collections: u64,
    /// Contents that they removed.
    pub collected: u64,
    /// Imports.
    pub imports: u64,
    /// The hashes of the files that nobody else writes.
    pub files: BTreeMap<String, String>,
}

/// Returns the author of a process's changes.
pub fn author(me: u64) -> String {
    format!("process-{me}")
}

/// Makes what the processes share.
///
/// # Panics
/// Where the store fails.
pub fn prepare(store: &Store, processes: u64) {
    let main = main(store);
    let mut batch = main.batch();
    batch.mkdir("/pairs").unwrap();
    for i in 0..PAIRS {
        write_pair(&mut batch, i, "start", 1);
    }
    batch.write("/counter", "0").unwrap();
    batch.mkdir("/own").unwrap();
    for i in 0..processes {
        batch.mkdir(format!("/own/{i}")).unwrap();
    }
    batch.commit().unwrap();
}

fn main(store: &Store) -> Branch {
    store.bucket("default").unwrap().main().unwrap()
}

/// Writes both files of a pair: a small one, and one that is kept in a file at times.
fn write_pair(batch: &mut alknet_fs::Batch, pair: u64, tag: &str, seed: u64) {
    batch
        .write(format!("/pairs/{pair}-a"), format!("{tag}\n"))
        .unwrap();
    let mut large = format!("{tag}\n").into_bytes();
    let len = if seed.is_multiple_of(4) { 90_000 } else { 500 };
    large.extend(Bytes { seed, len }.make());
    batch.write(format!("/pairs/{pair}-b"), large).unwrap();
}

/// Checks that each pair of files in a view is of one commit.
///
/// # Panics
/// Where it is not.
pub fn check_pairs(view: &View) {
    for pair in 0..PAIRS {
        let tag = |name: &str| {
            let bytes = view.read(format!("/pairs/{pair}-{name}")).unwrap();
            let end = bytes.iter().position(|b| *b == b'\n').unwrap();
            String::from_utf8(bytes[..end].to_vec()).unwrap()
        };
        assert_eq!(tag("a"), tag("b"), "one view shows two commits");
    }
}

/// Does it all: writes, forks, counts, reads, watches, and as planned imports and collects.
///
/// # Panics
/// Where anything fails: nothing here may.
pub fn work(plan: &Plan) -> Report {
    let open = |author: String| Options::new().author(author).open(&plan.store).unwrap();
    let store = open(author(plan.me));
    let changes = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let changed = |n: u64| {
        changes.fetch_add(n, Ordering::Relaxed);
    };
    let mut report = Report::default();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let out = fs::File::create(&plan.events).unwrap();
            watch(&store, plan.after, out)
        });
        let writer = scope.spawn(|| write(&store, plan, &changed));
        let forker = scope.spawn(|| fork(&store, plan, &changed));
        let counter = scope.spawn(|| count(&store, plan, &changed));
        let reader = scope.spawn(|| {
            let main = main(&store);
            let mut views = 0;
            while !done.load(Ordering::Relaxed) {
                check_pairs(&main.view().unwrap());
                views += 1;
                std::thread::sleep(PAUSE);
            }
            views
        });
        let collector = scope.spawn(|| {
            let mut totals = (0, 0);
            while plan.collect && !done.load(Ordering::Relaxed) {
                let gc = GcOptions::new().grace(Duration::ZERO);
                match store.gc(&gc, &Task::new()) {
                    Ok(report) => {
                        totals.0 += 1;
                        totals.1 += report.contents;
                    }
                    // One of the four collects at a time.
                    Err(e) => assert!(e.is_locked(), "{e}"),
                }
                std::thread::sleep(10 * PAUSE);
            }
            totals
        });
        let importer = scope.spawn(|| {
            let Some(source) = &plan.import else {
                return 0;
            };
            let main = main(&open("importer".to_owned()));
            for _ in 0..10 * plan.rounds {
                let options = ImportOptions::new();
                main.import(source, "/imported", &options, &Task::new())
                    .unwrap();
                let view = main.view().unwrap();
                for entry in view.list("/imported").unwrap() {
                    view.read(format!("/imported/{}", entry.name)).unwrap();
                }
                main.remove_all("/imported").unwrap();
            }
            10 * plan.rounds
        });
        report.files = writer.join().unwrap();
        forker.join().unwrap();
        (report.counted, report.locked) = counter.join().unwrap();
        report.imports = importer.join().unwrap();
        done.store(true, Ordering::Relaxed);
        report.views = reader.join().unwrap();
        (report.collections, report.collected) = collector.join().unwrap();
        println!("worked");
        watcher.join().unwrap();
    });
    report.changes = changes.into_inner();
    report
}

fn write(store: &Store, plan: &Plan, changed: &dyn Fn(u64)) -> BTreeMap<String, String> {
    let main = main(store);
    let mut rng = Rng::new(plan.seed);
    let mut files = BTreeMap::new();
    for round in 0..plan.rounds {
        let mut batch = main.batch();
        let tag = format!("{} in round {round}", author(plan.me));
        write_pair(&mut batch, rng.below(PAIRS), &tag, rng.number());
        batch.commit().unwrap();
        changed(2);

        let path = format!("/own/{}/f{}", plan.me, rng.below(4));
        let len = match rng.below(5) {
            0 => 100_000,
            _ => 2_000,
        };
        let seed = rng.number();
        let bytes = Bytes { seed, len }.make();
        files.insert(path.clone(), Hash::of(&bytes).to_string());
        main.write(path, bytes).unwrap();
        changed(1);

        let path = format!("/own/{}/s{}", plan.me, rng.below(2));
        let truncate = OpenOptions::new().truncate(true);
        let session = main.open_session(path.as_str(), &truncate).unwrap();
        let (seed, len) = (rng.number(), 1 + rng.below(90_000) as usize);
        let bytes = Bytes { seed, len }.make();
        for (i, part) in bytes.chunks(30_000).enumerate() {
            session.write_at(i as u64 * 30_000, part).unwrap();
        }
        files.insert(path, Hash::of(&bytes).to_string());
        session.close().unwrap();
        changed(1);
    }
    files
}

fn fork(store: &Store, plan: &Plan, changed: &dyn Fn(u64)) {
    let main = main(store);
    for round in 0..plan.rounds / 3 {
        let name = format!("{}-{round}", plan.me);
        main.snapshot(&name).unwrap();
        check_pairs(&main.view_at(&name).unwrap());
        let branch = main.fork(&name).unwrap();
        changed(2);
        branch.write("/counter", "mine").unwrap();
        changed(1);
        check_pairs(&branch.view().unwrap());
        assert_eq!(branch.read("/counter").unwrap(), b"mine");
        let pinned = main.fork_at(&name, &format!("{name}-pinned")).unwrap();
        changed(1);
        let before = main.view_at(&name).unwrap().tree_hash().unwrap();
        assert_eq!(pinned.view().unwrap().tree_hash().unwrap(), before);
        let bucket = store.bucket("default").unwrap();
        bucket.delete_branch(&name).unwrap();
        bucket.delete_branch(&format!("{name}-pinned")).unwrap();
        changed(2);
    }
}

/// Counts up in a file that all processes count in, under its exclusive lock.
fn count(store: &Store, plan: &Plan, changed: &dyn Fn(u64)) -> (u64, u64) {
    let main = main(store);
    let exclusive = OpenOptions::new().exclusive(true);
    let (mut counted, mut locked) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while counted < plan.rounds / 2 {
        assert!(
            Instant::now() < deadline,
            "counted {counted} times, but {locked} times somebody else did"
        );
        let session = match main.open_session("/counter", &exclusive) {
            Ok(session) => session,
            Err(e) if e.is_locked() => {
                locked += 1;
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let mut bytes = vec![0; session.size() as usize];
        session.read_at(0, &mut bytes).unwrap();
        let number: u64 = String::from_utf8(bytes).unwrap().parse().unwrap();
        session
            .write_at(0, (number + 1).to_string().as_bytes())
            .unwrap();
        session.close().unwrap();
        changed(1);
        counted += 1;
    }
    (counted, locked)
}

/// Writes a line for each event after a cursor, until [`STOP`] appears.
///
/// # Panics
/// Where an event is out of order, or none comes any more.
pub fn watch(store: &Store, after: Cursor, out: fs::File) {
    let mut out = BufWriter::new(out);
    let options = WatchOptions {
        after: Some(after),
        ..WatchOptions::default()
    };
    let mut watcher = store.watch(&options).unwrap();
    let mut last = after;
    let stop = TreePath::parse(STOP).unwrap();
    loop {
        let event = watcher.next_timeout(PATIENCE).unwrap();
        let event: Event = event.expect("an event, at last the one that ends the test");
        assert!(event.cursor > last, "{event:?} came after {last:?}");
        last = event.cursor;
        serde_json::to_writer(&mut out, &event).unwrap();
        out.write_all(b"\n").unwrap();
        if event.change.path.as_ref() == Some(&stop) {
            out.flush().unwrap();
            return;
        }
    }
}

/// Reads what a watcher wrote.
///
/// # Panics
/// Where it cannot be read.
pub fn read_events(path: &Path) -> Vec<Event> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
