//! Four processes work on one store at once.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use alknet_fs::{Cursor, GcOptions, OpenOptions, Store, Task, WatchOptions};
use alknet_fs_tests::crowd::{Plan, Report, STOP, author, check_pairs, prepare, read_events};
use alknet_fs_tests::worker::{Bytes, Mode, Op, Reply, Step, Worker};
use alknet_fs_tests::workload::{Depth, fsck, names, scaled, seed};

const WORKER: &str = env!("CARGO_BIN_EXE_alknet-fs-worker");
const PROCESSES: u64 = 4;

#[test]
fn four_processes_lose_nothing() {
    crowd("crowd", false);
}

#[test]
fn garbage_collection_beside_four_processes_removes_nothing_in_use() {
    crowd("crowd with gc", true);
}

fn crowd(test: &str, collect: bool) {
    let seed = seed(test);
    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for i in 0..20 {
        let len = if i % 5 == 0 { 80_000 } else { 700 };
        std::fs::write(source.join(format!("f{i}")), Bytes { seed: i, len }.make()).unwrap();
    }
    let store = Store::create(&path).unwrap();
    prepare(&store, PROCESSES);
    let after = store.watch(&WatchOptions::default()).unwrap().cursor();
    let log = |me: u64| dir.path().join(format!("events-{me}"));
    let mut processes = Vec::new();
    for me in 0..PROCESSES {
        let plan = Plan {
            store: path.clone(),
            me,
            seed: seed.wrapping_add(me),
            rounds: scaled(24),
            after,
            events: log(me),
            import: (me == 2).then(|| source.clone()),
            collect: collect && me < 2,
        };
        let child = Command::new(WORKER)
            .arg("crowd")
            .arg(serde_json::to_string(&plan).unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        processes.push(child);
    }
    let mut outputs = Vec::new();
    for child in &mut processes {
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        outputs.push((line, output));
    }
    // All have worked, or died; those that watch are told that this was all.
    let main = store.bucket("default").unwrap().main().unwrap();
    main.write(STOP, "").unwrap();
    let mut reports = Vec::new();
    for (mut child, (line, mut output)) in processes.into_iter().zip(outputs) {
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success(), "a process failed");
        assert_eq!(line, "worked\n");
        let report: Report = serde_json::from_str(&rest).unwrap();
        eprintln!("{test}: {report:?}");
        reports.push(report);
    }

    let events = read_events(&log(0));
    for me in 1..PROCESSES {
        assert!(
            read_events(&log(me)) == events,
            "two watchers saw different events"
        );
    }
    for (me, report) in reports.iter().enumerate() {
        let author = author(me as u64);
        let seen = events.iter().filter(|event| event.author == author).count();
        assert_eq!(seen as u64, report.changes, "the events of {author}");
        for (path, hash) in &report.files {
            let entry = main.stat(path.as_str()).unwrap();
            assert_eq!(entry.hash().unwrap().to_string(), *hash, "{path}");
        }
        assert!(report.views > 0);
    }
    let counted: u64 = reports.iter().map(|report| report.counted).sum();
    let counter = String::from_utf8(main.read("/counter").unwrap()).unwrap();
    assert_eq!(counter, counted.to_string(), "no two counted at once");
    check_pairs(&main.view().unwrap());
    assert!(store.sessions().unwrap().is_empty());

    // Another process goes on from any cursor, in the middle of a commit too.
    for at in [0, events.len() / 3, events.len() / 2 + 1, events.len() - 2] {
        let rest = resume_watching(&path, events[at].cursor, &dir.path().join("rest"));
        assert!(rest == events[at + 1..], "resumed after event {at}");
    }
    fsck(&store, Depth::Full);
    let gc = GcOptions::new().grace(Duration::ZERO);
    assert!(!store.gc(&gc, &Task::new()).unwrap().files_deferred);
    assert_eq!(fsck(&store, Depth::Full).orphans, 0);
    assert!(names(&path.join("staging")).is_empty());
    if collect {
        let collected: u64 = reports.iter().map(|report| report.collected).sum();
        assert!(collected > 0, "nothing became garbage");
    }
    eprintln!("{test}: {} events in {:?}", events.len(), started.elapsed());
}

fn resume_watching(store: &Path, after: Cursor, out: &Path) -> Vec<alknet_fs::Event> {
    let status = Command::new(WORKER)
        .arg("watch")
        .arg(store)
        .arg(after.0.to_string())
        .arg(out)
        .status()
        .unwrap();
    assert!(status.success());
    read_events(out)
}

/// A living process keeps its lock, whatever others ask for; a dead one's can be taken over.
#[test]
fn an_exclusive_session_belongs_to_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    let start = || {
        let mut worker = Worker::start(&mut Command::new(WORKER), &path, Mode::default());
        assert_eq!(worker.reply(), Some(Reply::Ready));
        worker
    };
    let bytes = Bytes { seed: 1, len: 10 };
    let mut holder = start();
    let op = Op::Session {
        branch: "main".to_owned(),
        path: "/file".to_owned(),
        exclusive: true,
        truncate: true,
        steps: vec![Step::Write { offset: 0, bytes }],
        end: alknet_fs_tests::worker::End::Leave,
    };
    assert_eq!(holder.run(&op), Some(Reply::Done));
    let mut other = start();
    let Some(Reply::Failed(kind, message)) = other.run(&op) else {
        panic!("two sessions hold one lock");
    };
    assert_eq!(kind, "Locked");
    assert!(message.contains("worker"), "{message}");
    let exclusive = OpenOptions::new().exclusive(true);
    assert!(
        main.open_session("/file", &exclusive)
            .unwrap_err()
            .is_locked()
    );
    let [session] = &store.sessions().unwrap()[..] else {
        panic!("one session is open");
    };
    assert!(session.alive);
    assert!(store.resume_session(session.id).unwrap_err().is_locked());
    assert!(
        store
            .abort_session(session.id, false)
            .unwrap_err()
            .is_locked()
    );
    // Without the lock, anybody may write.
    main.write("/file", "x").unwrap();
    holder.end();
    let session = store.resume_session(session.id).unwrap();
    assert!(
        main.open_session("/file", &exclusive)
            .unwrap_err()
            .is_locked()
    );
    session.close().unwrap();
    assert_eq!(main.read("/file").unwrap(), bytes.make());
    main.open_session("/file", &exclusive)
        .unwrap()
        .abort()
        .unwrap();
    assert_eq!(other.finish().code(), Some(0));
}
