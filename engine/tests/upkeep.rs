//! Checking and collecting.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, SystemTime};

use alknet_fs::{Branch, ErrorKind, FsckOptions, GcOptions, Hash, OpenOptions, Store, Task};
use alknet_fs_content::partial::Partial;
use alknet_fs_content::{Config, Contents};

fn store() -> (tempfile::TempDir, Store, Branch) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("store")).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    (dir, store, main)
}

fn large(seed: u8) -> Vec<u8> {
    (0..1_000_000u32).map(|i| (i % 251) as u8 ^ seed).collect()
}

fn at_once() -> GcOptions {
    GcOptions::new().grace(Duration::ZERO)
}

fn assert_healthy(store: &Store) {
    let report = store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    assert_eq!(report.problems, []);
}

fn blobs(store: &Store) -> Vec<std::path::PathBuf> {
    let dir = store.path().unwrap().join("blobs");
    fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect()
}

#[test]
fn collects_what_nothing_shows_and_nothing_else() {
    let (_dir, store, main) = store();
    main.write("/kept", large(1)).unwrap();
    main.write("/snapped", large(2)).unwrap();
    main.snapshot("s").unwrap();
    main.write("/snapped", large(3)).unwrap();
    main.write("/gone", large(4)).unwrap();
    main.write("/gone-small", "small").unwrap();
    main.remove("/gone").unwrap();
    main.remove("/gone-small").unwrap();
    let agent = main.fork("agent").unwrap();
    agent.write("/agent", large(5)).unwrap();
    assert_eq!(blobs(&store).len(), 5);

    let spared = store.gc(&GcOptions::new(), &Task::new()).unwrap();
    assert_eq!(
        (spared.contents, spared.files),
        (0, 0),
        "younger than the grace period"
    );
    let dry = store.gc(&at_once().dry_run(true), &Task::new()).unwrap();
    assert_eq!((dry.contents, blobs(&store).len()), (2, 5));
    let done = store.gc(&at_once(), &Task::new()).unwrap();
    assert_eq!((done.contents, done.content_bytes), (2, 1_000_005));
    assert_eq!((done.files, blobs(&store).len()), (1, 4));
    assert_healthy(&store);
    assert_eq!(main.read("/kept").unwrap(), large(1));
    assert_eq!(
        main.view_at("s").unwrap().read("/snapped").unwrap(),
        large(2)
    );
    assert_eq!(main.read("/snapped").unwrap(), large(3));
    assert_eq!(agent.read("/agent").unwrap(), large(5));

    // Without the snapshot its version goes; without the branch, what only it held.
    main.delete_snapshot("s").unwrap();
    main.bucket().delete_branch("agent").unwrap();
    let done = store.gc(&at_once(), &Task::new()).unwrap();
    assert_eq!((done.versions, done.contents), (1, 2));
    assert_eq!(blobs(&store).len(), 2);
    assert_healthy(&store);
}

#[test]
fn open_views_readers_and_sessions_keep_what_they_show() {
    let (_dir, store, main) = store();
    main.write("/viewed", large(1)).unwrap();
    main.write("/edited", large(2)).unwrap();
    let view = main.view().unwrap();
    let mut reader = main.open("/viewed").unwrap();
    let session = main.open_session("/edited", &OpenOptions::new()).unwrap();
    session.write_at(10, b"edit").unwrap();
    main.remove("/viewed").unwrap();
    main.remove("/edited").unwrap();

    let report = store.gc(&at_once(), &Task::new()).unwrap();
    assert!(report.files_deferred);
    assert_eq!(view.read("/viewed").unwrap(), large(1));
    drop(view);
    let report = store.gc(&at_once(), &Task::new()).unwrap();
    assert_eq!((report.files_deferred, report.files), (false, 1));
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
    assert_eq!(bytes, large(1));
    session.close().unwrap();
    let mut edited = large(2);
    edited[10..14].copy_from_slice(b"edit");
    assert_eq!(main.read("/edited").unwrap(), edited);
    assert_healthy(&store);
}

#[test]
fn a_delta_is_flattened_when_its_base_serves_nothing_else() {
    let (_dir, store, main) = store();
    main.write("/file", large(1)).unwrap();
    let session = main.open_session("/file", &OpenOptions::new()).unwrap();
    session.write_at(500_000, b"!").unwrap();
    session.close().unwrap();
    assert_eq!(store.stats().unwrap().delta_contents, 1);
    let report = store.gc(&at_once(), &Task::new()).unwrap();
    assert_eq!((report.flattened, report.contents), (1, 1));
    let stats = store.stats().unwrap();
    assert_eq!((stats.delta_contents, stats.contents), (0, 1));
    let mut want = large(1);
    want[500_000] = b'!';
    assert_eq!(main.read("/file").unwrap(), want);
    assert_healthy(&store);
}

#[test]
fn old_versions_between_restores_go_and_shown_ones_stay() {
    let (_dir, store, main) = store();
    main.write("/f", "one").unwrap();
    main.snapshot("one").unwrap();
    main.write("/f", "two").unwrap();
    let pinned = main.fork_at("one", "pinned").unwrap();
    main.restore("one").unwrap();
    main.write("/g", "three").unwrap();
    let report = store.gc(&at_once(), &Task::new()).unwrap();
    assert_eq!(report.versions, 1, "\"two\" is shown by nothing");
    assert_eq!(main.read("/f").unwrap(), b"one");
    assert_eq!(main.read("/g").unwrap(), b"three");
    main.delete_snapshot("one").unwrap();
    store.gc(&at_once(), &Task::new()).unwrap();
    assert_eq!(pinned.read("/f").unwrap(), b"one");
    assert_eq!(main.read("/f").unwrap(), b"one");
    assert_healthy(&store);
}

#[test]
fn fsck_names_what_is_damaged_and_goes_on() {
    let (_dir, store, main) = store();
    main.write("/a", large(1)).unwrap();
    main.write("/b", large(2)).unwrap();
    let hash = main.stat("/a").unwrap().hash().unwrap();
    let file = store.path().unwrap().join("blobs").join(hash.to_hex());
    let mut bytes = fs::read(&file).unwrap();
    bytes[777_777] ^= 4;
    fs::write(&file, &bytes).unwrap();
    let fast = store
        .fsck(&FsckOptions::new().fast(true), &Task::new())
        .unwrap();
    assert_eq!(fast.problems, [], "the structure is fine");
    let full = store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    assert_eq!(full.problems.len(), 1, "{:?}", full.problems);
    assert!(full.problems[0].subject.contains(&hash.to_hex()));
    assert_eq!(
        main.view().unwrap().verify("/a").unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    fs::remove_file(&file).unwrap();
    let fast = store
        .fsck(&FsckOptions::new().fast(true), &Task::new())
        .unwrap();
    assert_eq!(fast.problems.len(), 1, "{:?}", fast.problems);
    assert_eq!(main.read("/b").unwrap(), large(2));
}

#[test]
fn long_work_can_be_cancelled() {
    let (_dir, store, main) = store();
    main.write("/a", large(1)).unwrap();
    let cancel = alknet_fs::Cancel::new();
    cancel.cancel();
    let task = Task::new().cancel_with(&cancel);
    let error = store.fsck(&FsckOptions::new(), &task).unwrap_err();
    assert!(error.is_cancelled());
}

#[test]
fn an_import_that_is_cancelled_or_fails_ends() {
    let (dir, store, main) = store();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    for i in 0..5000 {
        fs::write(source.join(i.to_string()), i.to_string()).unwrap();
    }
    // From the first report on: the walker is in the middle of a large directory then.
    let cancel = alknet_fs::Cancel::new();
    let switch = cancel.clone();
    let task = Task::new()
        .cancel_with(&cancel)
        .report_to(move |_| switch.cancel());
    let options = alknet_fs::ImportOptions::new();
    let error = main.import(&source, "/in", &options, &task).unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    let report = main.import(&source, "/in", &options, &Task::new()).unwrap();
    assert_eq!(report.files, 5000);
    assert_eq!(main.list("/in").unwrap().len(), 5000);
    assert_healthy(&store);
}

#[test]
fn a_content_goes_once_it_was_found_unreferenced_for_the_grace_period() {
    let (_dir, store, main) = store();
    let gc = |grace| {
        let options = GcOptions::new().grace(grace);
        let report = store.gc(&options, &Task::new()).unwrap();
        (report.contents, report.waiting)
    };
    let (long, short) = (Duration::from_secs(3600), Duration::from_nanos(1));
    main.write("/old", large(1)).unwrap();
    main.remove("/old").unwrap();
    // However old it is, nobody knew yet that nothing refers to it.
    assert_eq!(gc(short), (0, 1));
    assert_eq!(gc(long), (0, 1));
    let dry = GcOptions::new().grace(short).dry_run(true);
    let report = store.gc(&dry, &Task::new()).unwrap();
    assert_eq!((report.contents, report.waiting), (1, 0));
    assert_eq!(gc(short), (1, 0));
    assert_eq!(blobs(&store).len(), 0);

    // Who stores the same bytes again starts the time anew.
    for bytes in [large(2), vec![7; 100]] {
        main.write("/again", bytes.clone()).unwrap();
        main.remove("/again").unwrap();
        assert_eq!(gc(short), (0, 1));
        main.write("/again", bytes.clone()).unwrap();
        main.remove("/again").unwrap();
        assert_eq!(gc(short), (0, 1));
        assert_eq!(gc(short), (1, 0));
    }
    // What is referred to again when the collection looks is alive.
    main.write("/back", large(3)).unwrap();
    main.snapshot("s").unwrap();
    main.remove("/back").unwrap();
    assert_eq!(gc(short), (0, 0));
    assert_healthy(&store);
}

#[test]
fn a_schedule_is_kept_and_followed_by_one_process() {
    let (dir, store, main) = store();
    let path = dir.path().join("store");
    assert_eq!(store.gc_schedule().unwrap(), None);
    assert_eq!(store.gc_if_due(&Task::new()).unwrap(), None);
    assert!(!store.unschedule_gc().unwrap());
    for bad in ["", "tomorrow", "@every", "@every 5 weeks", "61 * * * *"] {
        let error = store.schedule_gc(bad, &at_once()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
    }
    let options = at_once().keep_events(1);
    store.schedule_gc("0 3 * * *", &at_once()).unwrap();
    store.schedule_gc("@every 1h", &options).unwrap();
    let other = Store::open(&path).unwrap();
    let schedule = other.gc_schedule().unwrap().unwrap();
    assert_eq!((&*schedule.when, schedule.options), ("@every 1h", options));
    assert_eq!(
        store.gc_if_due(&Task::new()).unwrap(),
        None,
        "it is not time"
    );

    for round in 0..2 {
        main.write("/f", large(round)).unwrap();
        main.remove("/f").unwrap();
        // Ten hours go by: the task is due ten times, and done once.
        let conn = rusqlite::Connection::open(path.join("store.db")).unwrap();
        let sql = "UPDATE _honker_scheduler_tasks SET next_fire_at = next_fire_at - 36000";
        assert_eq!(conn.execute(sql, []).unwrap(), 1);
        let report = other.gc_if_due(&Task::new()).unwrap().unwrap();
        assert_eq!(report.contents, 1);
        assert!(report.events > 0);
        assert_eq!(store.gc_if_due(&Task::new()).unwrap(), None);
    }
    assert!(other.unschedule_gc().unwrap());
    assert_eq!(store.gc_schedule().unwrap(), None);
    let memory = Store::memory().unwrap();
    let error = memory.schedule_gc("@every 1h", &at_once()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn what_arrived_of_a_content_goes_when_nobody_goes_on_with_it() {
    let (_dir, store, main) = store();
    main.write("/wanted", large(1)).unwrap();
    main.write("/wanted-long-ago", large(2)).unwrap();
    let hash_of = |path| main.stat(path).unwrap().hash().unwrap();
    let hours = |count: u64| Duration::from_secs(count * 3600);
    let path = store.path().unwrap().to_owned();
    let contents = Contents::open_store(&path, Config::default()).unwrap();
    let begin = |hash: Hash, age: Duration| {
        let partial = Partial::open(&contents, hash, 1_000_000).unwrap();
        let file = path.join("staging").join(format!("r{hash}-1000000-0"));
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        partial
    };
    let [old, young, held] = [1, 2, 3].map(|n| Hash::of(&[n]));
    drop(begin(old, hours(2)));
    drop(begin(young, hours(0)));
    let receiving = begin(held, hours(2));
    drop(begin(hash_of("/wanted"), hours(2)));
    drop(begin(hash_of("/wanted-long-ago"), hours(8 * 24)));

    let report = store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    assert_eq!((report.partials, report.partial_bytes), (5, 5_000_000));
    assert_eq!((report.orphans, report.problems), (0, vec![]));
    let options = GcOptions::new().grace(hours(1));
    let report = store
        .gc(&options.clone().dry_run(true), &Task::new())
        .unwrap();
    assert_eq!((report.files, report.file_bytes), (2, 2_000_000));
    let report = store.gc(&options, &Task::new()).unwrap();
    assert_eq!((report.files, report.file_bytes), (2, 2_000_000));
    let mut left: Vec<_> = contents.partials().unwrap();
    left.sort_by_key(|partial| partial.hash);
    let mut expected = [young, held, hash_of("/wanted")];
    expected.sort();
    assert_eq!(left.iter().map(|p| p.hash).collect::<Vec<_>>(), expected);

    drop(receiving);
    store.gc(&options, &Task::new()).unwrap();
    assert!(Partial::find(&contents, held, 1_000_000).unwrap().is_none());
    assert_healthy(&store);
}
