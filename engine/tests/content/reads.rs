//! Reads of what is not here.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alknet_fs::{
    Branch, Cancel, Change, ContentPolicy, Durability, Error, ErrorKind, ExportOptions, Fetching,
    FileOptions, Op, OpenOptions, Priority, Result, Store, Task, Timestamp, TreeRef, aio,
};
use alknet_fs_core::event::Commit;
use alknet_fs_core::store::Store as _;

use crate::fake::{Manner, World, eventually, large};

type Way = (&'static str, fn(&Branch) -> Result<Vec<u8>>);

/// Every way to the bytes of `/f`.
const WAYS: [Way; 10] = [
    ("read", |main| main.read("/f")),
    ("open", |main| main.open("/f")?.into_bytes()),
    ("reader", |main| main.reader("/f")?.into_bytes()),
    ("a view", |main| main.view()?.read("/f")),
    ("a snapshot", |main| {
        main.snapshot("s")?;
        main.view_at("s")?.open("/f")?.into_bytes()
    }),
    ("a fork", |main| main.fork("child")?.read("/f")),
    ("a file", |main| {
        let file = main.open_file("/f", &FileOptions::new().read(true))?;
        let mut bytes = vec![0; file.size() as usize];
        let n = file.read(&mut bytes)?;
        bytes.truncate(n);
        Ok(bytes)
    }),
    ("an edit in place", |main| {
        let session = main.open_session("/f", &OpenOptions::new())?;
        let mut first = [0];
        session.read_at(0, &mut first)?;
        session.write_at(0, &first)?;
        session.close()?;
        main.read("/f")
    }),
    ("an export", |main| {
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("out");
        main.view()?
            .export("/", &target, &ExportOptions::new(), &Task::new())?;
        Ok(std::fs::read(target.join("f")).unwrap())
    }),
    ("a check", |main| {
        main.view()?.verify("/f")?;
        main.read("/f")
    }),
];

fn assert_unavailable(error: &Error, words: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::ContentUnavailable, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn every_way_of_reading_waits_for_what_is_not_here() {
    for bytes in [b"small".to_vec(), large(3)] {
        for (name, way) in WAYS {
            let world = World::new();
            let hash = world.away("/f", &bytes);
            let error = way(&world
                .main
                .fetching(&Fetching::new().timeout(Duration::ZERO)));
            assert_unavailable(&error.unwrap_err(), &[&hash.to_string()]);
            world.store.set_content_source(Some(world.source.clone()));
            let world_main = match name {
                // What failed made them.
                "a snapshot" => {
                    world.main.delete_snapshot("s").unwrap();
                    &world.main
                }
                "a fork" => {
                    world.main.bucket().delete_branch("child").unwrap();
                    &world.main
                }
                _ => &world.main,
            };
            assert_eq!(way(world_main).unwrap(), bytes, "{name}");
            assert!(world.is_here(&hash), "{name}");
            let wants = world.source.wants();
            assert_eq!(wants.len(), 1, "{name}: {wants:?}");
            assert_eq!((wants[0].hash, wants[0].size), (hash, bytes.len() as u64));
            assert_eq!(wants[0].priority, Priority::Read);
        }
    }
}

#[test]
fn an_append_that_meets_another_version_on_close_waits_for_that() {
    let world = World::new();
    world.main.write("/log", large(1)).unwrap();
    let session = world
        .main
        .open_session("/log", &OpenOptions::new())
        .unwrap();
    session.append(b"mine").unwrap();
    world.away("/log", &large(2));
    let error = session.close().unwrap_err();
    assert_unavailable(&error, &["/log", "no process of this store runs a node"]);
    world.store.set_content_source(Some(world.source.clone()));
    session.close().unwrap();
    let both = [large(2), b"mine".to_vec()].concat();
    assert_eq!(world.main.read("/log").unwrap(), both);
}

#[test]
fn the_error_names_the_path_the_hash_and_who_was_asked() {
    let world = World::new();
    let hash = world.away("/dir", b"x");
    world.source.has.lock().clear();
    world.store.set_content_source(Some(world.source.clone()));
    let error = world.main.read("/dir").unwrap_err();
    let words = [
        "read /dir",
        &hash.to_string(),
        "nobody who was asked has it (alice)",
    ];
    assert_unavailable(&error, &words);
    assert_eq!(error.code(), "EHOSTUNREACH");
    world.source.be(Manner::Broken);
    let error = world.main.read("/dir").unwrap_err();
    assert_unavailable(
        &error,
        &["could not be fetched from alice: the line is cut"],
    );
    world.source.be(Manner::Mute);
    let error = world.main.read("/dir").unwrap_err();
    assert_unavailable(&error, &["alice"]);
    world.source.be(Manner::Liar);
    let error = world.main.read("/dir").unwrap_err();
    assert_unavailable(&error, &["said to have arrived, and has not"]);
    world.source.be(Manner::Panics);
    let error = world.main.read("/dir").unwrap_err();
    assert_unavailable(&error, &["panicked"]);
    // A source that fails once is asked again the next time.
    world.source.be(Manner::Honest);
    world.source.give(b"x");
    assert_eq!(world.main.read("/dir").unwrap(), b"x");
}

#[test]
fn a_wait_ends_in_time_and_can_be_cancelled_and_followed() {
    let world = World::new();
    world.away("/f", &large(1));
    world.source.be(Manner::Hangs);
    world.store.set_content_source(Some(world.source.clone()));
    let start = Instant::now();
    let short = Fetching::new().timeout(Duration::from_millis(80));
    let error = world.main.fetching(&short).read("/f").unwrap_err();
    assert_unavailable(&error, &["did not arrive within 80ms", "asked: alice"]);
    assert!(start.elapsed() >= Duration::from_millis(80));
    // So does that of the bucket.
    let bucket = world.store.bucket("default").unwrap();
    bucket
        .set_content_timeout(Duration::from_millis(70))
        .unwrap();
    let error = world.main.read("/f").unwrap_err();
    assert_unavailable(&error, &["within 70ms"]);
    let cancel = Cancel::new();
    let long = Fetching::new()
        .timeout(Duration::from_secs(3600))
        .task(&Task::new().cancel_with(&cancel));
    let main = world.main.fetching(&long);
    let reading = thread::spawn(move || main.read("/f"));
    let calls = world.source.calls.lock().len();
    eventually("it is asked for again", || {
        world.source.calls.lock().len() > calls || calls > 2
    });
    cancel.cancel();
    assert!(reading.join().unwrap().unwrap_err().is_cancelled());
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    let task = Task::new().report_to(move |progress| {
        assert_eq!(progress.total_bytes, 300_000);
        seen.fetch_max(progress.bytes + 1, Ordering::SeqCst);
    });
    let main = world.main.fetching(&long.clone().task(&task));
    let reading = thread::spawn(move || main.read("/f"));
    eventually("the reader waits", || most.load(Ordering::SeqCst) > 0);
    world.source.be(Manner::Honest);
    assert_eq!(reading.join().unwrap().unwrap(), large(1));
}

#[test]
fn one_that_gives_up_does_not_take_the_content_from_the_others() {
    let world = World::new();
    world.away("/f", b"data");
    world.source.be(Manner::Hangs);
    world.store.set_content_source(Some(world.source.clone()));
    let short = Fetching::new().timeout(Duration::from_millis(50));
    let main = world.main.fetching(&short);
    let first = thread::spawn(move || main.read("/f"));
    eventually("the first asks", || !world.source.calls.lock().is_empty());
    let others: Vec<_> = (0..8)
        .map(|_| {
            let main = world.main.clone();
            thread::spawn(move || main.read("/f"))
        })
        .collect();
    assert_unavailable(&first.join().unwrap().unwrap_err(), &["50ms"]);
    world.source.be(Manner::Honest);
    for other in others {
        assert_eq!(other.join().unwrap().unwrap(), b"data");
    }
    // Those who wait together ask together.
    assert!(
        world.source.wants().len() <= 3,
        "{:?}",
        world.source.wants()
    );
}

#[test]
fn reads_that_wait_for_who_is_away_do_not_keep_others_waiting() {
    let world = World::new();
    world.away("/f", b"data");
    let away = |n: u32| {
        let path = format!("/away-{n}");
        let hash = world.away(&path, path.as_bytes());
        world.source.never.lock().insert(hash);
        path
    };
    let paths: Vec<_> = (0..20).map(away).collect();
    world.store.set_content_source(Some(world.source.clone()));
    let cancel = Cancel::new();
    let patient = Fetching::new()
        .timeout(Duration::from_secs(600))
        .task(&Task::new().cancel_with(&cancel));
    let waiting: Vec<_> = paths
        .iter()
        .map(|path| {
            let (main, path) = (world.main.fetching(&patient), path.clone());
            thread::spawn(move || main.read(path))
        })
        .collect();
    eventually("all are asked for", || world.source.wants().len() == 20);
    assert_eq!(world.main.read("/f").unwrap(), b"data");
    let brief = Fetching::new().timeout(Duration::from_millis(50));
    let error = world.main.fetching(&brief).read(&paths[0]).unwrap_err();
    assert_unavailable(&error, &["asked: alice; bob is away"]);
    cancel.cancel();
    for waiting in waiting {
        assert!(waiting.join().unwrap().unwrap_err().is_cancelled());
    }
    // The threads that stepped aside are back among the others.
    eventually("what is left is brought", || {
        world.source.never.lock().clear();
        paths.iter().all(|path| world.main.read(path).is_ok())
    });
}

#[test]
fn what_is_here_is_read_while_nobody_can_be_asked() {
    let world = World::new();
    world.main.write("/here", "here").unwrap();
    world.source.be(Manner::Panics);
    world.store.set_content_source(Some(world.source.clone()));
    assert_eq!(world.main.read("/here").unwrap(), b"here");
    assert!(world.source.calls.lock().is_empty());
}

#[test]
fn a_read_that_fails_does_not_wait_again_because_something_else_was_committed() {
    let world = World::new();
    world.away("/f", b"data");
    world.source.be(Manner::Broken);
    world.store.set_content_source(Some(world.source.clone()));
    let main = world.main.clone();
    *world.source.meanwhile.lock() = Some(Box::new(move || main.write("/g", "g").unwrap()));
    let error = world.main.read("/f").unwrap_err();
    assert_unavailable(&error, &["the line is cut"]);
    assert!(world.main.exists("/g").unwrap());
    assert_eq!(world.source.calls.lock().len(), 1);
}

#[test]
fn a_view_from_before_the_content_came_reads_it_all_the_same() {
    let world = World::new();
    world.away("/f", &large(1));
    let view = world.main.view().unwrap();
    world.store.set_content_source(Some(world.source.clone()));
    assert_eq!(world.main.read("/f").unwrap(), large(1));
    assert_eq!(view.read("/f").unwrap(), large(1));
    assert_eq!(world.source.wants().len(), 1);
}

#[test]
fn what_a_large_content_was_made_from_is_a_hint() {
    let world = World::new();
    world.main.write("/f", large(1)).unwrap();
    let base = world.main.stat("/f").unwrap().hash().unwrap();
    let between = world.away("/f", &large(2));
    world.away("/f", &large(3));
    world.store.set_content_source(Some(world.source.clone()));
    assert_eq!(world.main.read("/f").unwrap(), large(3));
    let wants = world.source.wants();
    assert_eq!(wants[0].base, Some(base));
    assert!(!world.is_here(&between));
}

/// What other buckets commit does not keep anybody from finding it.
#[test]
fn what_a_large_content_was_made_from_is_found_beside_a_busy_bucket() {
    let world = World::new();
    world.main.write("/f", large(1)).unwrap();
    let base = world.main.stat("/f").unwrap().hash().unwrap();
    world.away("/f", &large(2));
    let other = world.store.create_bucket("other").unwrap().id();
    let ours = world.main.bucket().id();
    let commit = Commit {
        at: Timestamp(3),
        author: "somebody".to_owned(),
        branch: "main".to_owned(),
        session: None,
        changes: vec![Change::new(Op::Attributes)],
    };
    let mut txn = world.store_rows().write(Durability::Relaxed).unwrap();
    for n in 0..20_000 {
        let bucket = if n % 50 == 0 { ours } else { other };
        txn.publish(bucket, &commit).unwrap();
    }
    txn.commit().unwrap();
    let hash = world.away("/f", &large(3));
    world.store.set_content_source(Some(world.source.clone()));
    world.main.read("/f").unwrap();
    let wants = world.source.wants();
    assert_eq!((wants[0].hash, wants[0].base), (hash, Some(base)));
}

type Bring = fn(&World);

fn is_here(world: &World, path: &str) -> bool {
    let hash = world.main.stat(path).unwrap().hash().unwrap();
    world.is_here(&hash)
}

/// Every way by which a content comes that nobody reads.
const FETCHES: [(&str, Bring); 6] = [
    ("a bucket", |world| {
        world.store.set_content_source(Some(world.source.clone()));
        world.main.bucket().fetch(&Task::new()).unwrap();
    }),
    ("a path", |world| {
        world.store.set_content_source(Some(world.source.clone()));
        let view = world.main.view().unwrap();
        view.fetch("/f", &Task::new()).unwrap();
    }),
    ("a tree", |world| {
        world.store.set_content_source(Some(world.source.clone()));
        let view = world.main.view().unwrap();
        view.fetch("/", &Task::new()).unwrap();
    }),
    ("another process", |world| {
        let _service = world.store.serve_contents(world.source.clone()).unwrap();
        let second = Store::open(world.path()).unwrap();
        let bucket = second.bucket("default").unwrap();
        bucket.fetch(&Task::new()).unwrap();
    }),
    ("a scan", |world| {
        let _service = world.store.serve_contents(world.source.clone()).unwrap();
        let bucket = world.main.bucket();
        bucket.set_content_policy(ContentPolicy::Eager).unwrap();
        eventually("it comes", || is_here(world, "/f"));
    }),
    ("a pin", |world| {
        let _service = world.store.serve_contents(world.source.clone()).unwrap();
        world.main.bucket().pin("/f").unwrap();
        eventually("it comes", || is_here(world, "/f"));
    }),
];

#[test]
fn however_a_large_content_is_fetched_it_is_said_what_it_was_made_from() {
    for (way, bring) in FETCHES {
        let world = World::new();
        world.main.write("/f", large(1)).unwrap();
        let base = world.main.stat("/f").unwrap().hash().unwrap();
        // What was between never came.
        world.away("/f", &large(2));
        let hash = world.away("/f", &large(3));
        bring(&world);
        let wants = world.source.wants();
        let want = wants.iter().find(|want| want.hash == hash);
        assert_eq!(want.map(|want| want.base), Some(Some(base)), "{way}");
    }
}

/// What an event brings is made from what an earlier one of the same path had, though not from the one
/// before, which is not here.
#[test]
fn what_comes_after_a_version_that_never_came_has_a_base() {
    let world = World::new();
    world.main.write("/f", large(1)).unwrap();
    let base = world.main.stat("/f").unwrap().hash().unwrap();
    let _service = world.store.serve_contents(world.source.clone()).unwrap();
    let bucket = world.main.bucket();
    bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    // The look at all that is there would queue it a second time.
    eventually("it is known what is wanted", || {
        !world.store.content_queue().unwrap().scanning
    });
    let never = world.source.give(&large(2));
    world.source.has.lock().remove(&never);
    world.names("/f", &never, 300_000);
    eventually("nobody has it", || {
        world.store.content_queue().unwrap().retried == 1
    });
    let hash = world.away("/f", &large(3));
    eventually("it comes", || world.is_here(&hash));
    let wants = world.source.wants();
    let want = wants.iter().find(|want| want.hash == hash);
    assert_eq!(want.map(|want| want.base), Some(Some(base)));
}

#[test]
fn what_is_missing_in_a_bucket_of_its_own_is_damage() {
    let world = World::new();
    let own = world.store.create_bucket("own").unwrap().main().unwrap();
    own.write("/f", "data").unwrap();
    crate::fake::forget(&world.path(), &own.stat("/f").unwrap().hash().unwrap());
    world.store.set_content_source(Some(world.source.clone()));
    assert_eq!(own.read("/f").unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(world.source.calls.lock().is_empty());
}

#[test]
fn what_trees_share_can_be_told_without_fetching_it() {
    let world = World::new();
    world.away("/away", &large(1));
    world.main.write("/here", large(2)).unwrap();
    world.store.set_content_source(Some(world.source.clone()));
    let tree: TreeRef = "main".parse().unwrap();
    let sharing = world.main.bucket().sharing(&[tree], &Task::new()).unwrap();
    assert_eq!((sharing.apart, sharing.stored), (600_000, 300_000));
    assert!(world.source.calls.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_future_waits_and_when_dropped_stops_to() {
    let world = World::new();
    world.away("/f", b"data");
    world.source.be(Manner::Hangs);
    let store = aio::Store::open(world.path(), alknet_fs::Options::new());
    let store = store.await.unwrap();
    store
        .blocking()
        .set_content_source(Some(world.source.clone()));
    let main = store.branch("default", "main").await.unwrap();
    let reading = tokio::spawn({
        let main = main.clone();
        async move { main.read("/f").await }
    });
    let asked = || !world.source.calls.lock().is_empty();
    tokio::task::block_in_place(|| eventually("it is asked for", asked));
    reading.abort();
    // The source is let go: nobody waits any more, long before the time is over.
    let source = Arc::clone(&world.source);
    let again = tokio::task::spawn_blocking(move || {
        eventually("the call ends", || Arc::strong_count(&source) <= 3);
    });
    again.await.unwrap();
    world.source.be(Manner::Honest);
    assert_eq!(main.read("/f").await.unwrap(), b"data");
}

/// What the other process does, with the store that a variable names.
#[test]
fn reads_of_another_process() {
    let Some(path) = std::env::var_os("ALKFS_TEST_READS") else {
        return;
    };
    let store = Store::open(path).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    assert_eq!(main.read("/f").unwrap(), large(1));
    let error = main.read("/gone").unwrap_err();
    assert_unavailable(&error, &["/gone", "nobody who was asked has it (alice)"]);
    let short = Fetching::new().timeout(Duration::from_millis(500));
    let error = main.fetching(&short).read("/slow").unwrap_err();
    assert_unavailable(&error, &["/slow", "did not arrive within 500ms"]);
}

/// Who asked first had less time; who waits for longer asks anew.
#[test]
fn a_read_by_way_of_a_node_outlives_one_that_began_before() {
    let world = World::new();
    let slow = world.away("/slow", b"slow");
    world.source.never.lock().insert(slow);
    let _service = world.store.serve_contents(world.source.clone()).unwrap();
    let second = Store::open(world.path()).unwrap();
    let main = second.bucket("default").unwrap().main().unwrap();
    let read = |seconds: u64| {
        let main = main.fetching(&Fetching::new().timeout(Duration::from_secs(seconds)));
        thread::spawn(move || main.read("/slow"))
    };
    let first = read(1);
    eventually("it is asked for", || !world.source.calls.lock().is_empty());
    let other = read(90);
    assert_unavailable(&first.join().unwrap().unwrap_err(), &["within 1s"]);
    world.source.never.lock().clear();
    assert_eq!(other.join().unwrap().unwrap(), b"slow");
}

#[test]
fn a_process_without_a_node_reads_by_way_of_the_one_with_it() {
    let world = World::new();
    world.away("/f", &large(1));
    world.away("/gone", b"gone");
    let slow = world.away("/slow", b"slow");
    world.source.never.lock().insert(slow);
    world
        .source
        .has
        .lock()
        .remove(&alknet_fs::Hash::of(b"gone"));
    let service = world.store.serve_contents(world.source.clone()).unwrap();
    let other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reads::reads_of_another_process"])
        .env("ALKFS_TEST_READS", world.path())
        .output()
        .unwrap();
    assert!(other.status.success(), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stdout).contains("1 passed"));
    // A second store of this process has no node either.
    let second = Store::open(world.path()).unwrap();
    let error = second.serve_contents(world.source.clone()).unwrap_err();
    assert!(error.is_locked(), "{error}");
    drop(service);
    let main = second.bucket("default").unwrap().main().unwrap();
    let start = Instant::now();
    let error = main.read("/gone").unwrap_err();
    assert_unavailable(&error, &["no process of this store runs a node"]);
    assert!(start.elapsed() < Duration::from_secs(20));
}
