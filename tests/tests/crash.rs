//! A process that works on a store is killed at random moments, hundreds of times.
//!
//! `ALKFS_TEST_SCALE` multiplies how often, `ALKFS_TEST_SEED` repeats a run (what it does, not the
//! moments at which the system lets it die).

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use alknet_fs::{ErrorKind, OpenOptions, Options, Store};
use alknet_fs_tests::worker::{Mode, Op, Reply, Rng, Worker};
use alknet_fs_tests::workload::{Depth, Fate, Workload, scaled, seed};

const WORKER: &str = env!("CARGO_BIN_EXE_alknet-fs-worker");

/// How many deaths one store lives through.
const DEATHS: u64 = 20;

#[derive(Debug, Default)]
struct Totals {
    deaths: u64,
    while_opening: u64,
    acknowledged: u64,
    undone: u64,
    done: u64,
    resumed_or_aborted: u64,
}

#[test]
fn killed_at_random_moments() {
    let seed = seed("crash");
    let stores = scaled(10);
    let started = Instant::now();
    let mut totals = Totals::default();
    for n in 0..stores {
        one_store(seed.wrapping_add(n), &mut totals);
    }
    eprintln!("{totals:?} in {:?}", started.elapsed());
    assert!(totals.deaths >= stores * DEATHS);
    // Otherwise the moments were not random enough to prove anything.
    assert!(
        totals.undone > 0 && totals.resumed_or_aborted > 0,
        "{totals:?}"
    );
}

fn one_store(seed: u64, totals: &mut Totals) {
    eprintln!("store with seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let sources = dir.path().join("sources");
    std::fs::create_dir(&sources).unwrap();
    drop(Store::create(&path).unwrap());
    let mut work = Workload::new(seed, &sources, true);
    let mut timing = Rng::new(seed ^ 0xdead);
    let mut survivor: Option<Store> = None;
    for death in 0..DEATHS {
        let mut worker = start(&path);
        let delay = match timing.below(8) {
            0 => Duration::from_micros(timing.below(6_000)),
            _ => Duration::from_micros(timing.below(120_000)),
        };
        let killer = worker.killer();
        let timer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            killer.kill();
        });
        let mut pending = None;
        match worker.reply() {
            Some(Reply::Ready) => {
                let first = work.model.branches["main"].own.is_empty();
                if first {
                    let op = work.first();
                    pending = work.step(&mut worker, op);
                }
                while pending.is_none() {
                    let op = work.next_op();
                    pending = work.step(&mut worker, op);
                }
            }
            None => totals.while_opening += 1,
            Some(other) => panic!("{other:?}"),
        }
        timer.join().unwrap();
        worker.end();
        totals.deaths += 1;
        // A store that another process had open all the time must mend itself, too.
        let store = match survivor.take() {
            Some(store) => store,
            None => Options::new().author("parent").open(&path).unwrap(),
        };
        let depth = match death % 5 {
            4 => Depth::Full,
            _ => Depth::Fast,
        };
        match work.check(&store, pending.as_ref(), depth) {
            Fate::Undone => totals.undone += 1,
            Fate::Done => totals.done += 1,
            Fate::None => {}
        }
        if !work.sessions.is_empty() && timing.percent(50) {
            totals.resumed_or_aborted += work.sessions.len() as u64;
            let mut worker = start(&path);
            assert_eq!(worker.reply(), Some(Reply::Ready));
            work.end_sessions(&mut worker, Some(&store));
            assert!(worker.finish().success());
            work.check(&store, None, Depth::Fast);
            work.check_leaks(&store);
        }
        if timing.percent(40) {
            survivor = Some(store);
        }
    }
    totals.acknowledged += work.acknowledged;
}

fn start(path: &Path) -> Worker {
    Worker::start(&mut Command::new(WORKER), path, Mode::default())
}

/// The operation that the killed process was asked for last is either there or not; this proves
/// that the check can tell.
#[test]
fn a_lost_commit_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path).unwrap();
    let mut work = Workload::new(1, dir.path(), true);
    let mut worker = start(&path);
    assert_eq!(worker.reply(), Some(Reply::Ready));
    let first = work.first();
    assert!(work.step(&mut worker, first).is_none());
    for _ in 0..5 {
        let op = work.next_op();
        assert!(work.step(&mut worker, op).is_none());
    }
    assert!(work.model.differences(&store).is_empty());
    work.model.apply(&Op::Put {
        branch: "main".to_owned(),
        path: "/shared/f0".to_owned(),
        bytes: alknet_fs_tests::worker::Bytes { seed: 1, len: 1 },
    });
    assert_eq!(
        work.model.differences(&store).len(),
        1 + work.model.branches.len() - 1
    );
    worker.end();
}

#[test]
fn a_resumed_session_keeps_its_writes() {
    for len in [10, 1_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let main = || {
            let store = Store::open(&path).unwrap();
            let main = store.bucket("default").unwrap().main().unwrap();
            (store, main)
        };
        drop(Store::create(&path).unwrap());
        let (store, branch) = main();
        branch.write("/file", vec![1; 2_000_000]).unwrap();
        let session = branch.open_session("/file", &OpenOptions::new()).unwrap();
        session.write_at(5, &vec![2; len]).unwrap();
        let id = session.detach().unwrap();
        drop((branch, store));
        let (store, branch) = main();
        // As it was left, without another write.
        store.resume_session(id).unwrap().close().unwrap();
        let mut expected = vec![1; 2_000_000];
        expected[5..5 + len].fill(2);
        assert!(
            branch.read("/file").unwrap() == expected,
            "{len} bytes written"
        );
    }
}

#[test]
fn a_failed_close_can_be_tried_again() {
    for len in [10, 1_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().join("store")).unwrap();
        let main = store.bucket("default").unwrap().main().unwrap();
        let new = OpenOptions::new().create_new(true);
        let session = main.open_session("/file", &new).unwrap();
        session.write_at(0, &vec![1; len]).unwrap();
        main.write("/file", "taken").unwrap();
        assert_eq!(
            session.close().unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        main.remove("/file").unwrap();
        session.write_at(len as u64, b"more").unwrap();
        session.close().unwrap();
        assert_eq!(main.read("/file").unwrap().len(), len + 4);
    }
}
