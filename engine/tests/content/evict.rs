//! Making room, and what must not go for it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use alknet_fs::{
    ContentPolicy, ErrorKind, FsckOptions, GcOptions, Hash, OpenOptions, Session, Store, Task,
};
use alknet_fs_core::store::Store as _;
use parking_lot::Mutex;

use crate::fake::{World, eventually, forget, large};

fn evict(world: &World, to: u64) -> alknet_fs::EvictReport {
    world.store.evict(to, &Task::new()).unwrap()
}

/// Writes a file whose content a peer has too.
fn shared(world: &World, path: &str, bytes: &[u8]) -> Hash {
    world.main.write(path, bytes).unwrap();
    let hash = world.source.give(bytes);
    world.source.held.lock().insert(hash);
    hash
}

fn with_source() -> World {
    let world = World::new();
    world.store.set_content_source(Some(world.source.clone()));
    world
}

#[test]
fn what_a_peer_holds_goes_and_comes_back_when_it_is_read() {
    let world = with_source();
    let large_hash = shared(&world, "/large", &large(1));
    let small = shared(&world, "/small", b"small");
    let file = world.path().join("blobs").join(large_hash.to_hex());
    assert!(file.exists());
    let report = evict(&world, 0);
    assert_eq!((report.contents, report.bytes), (2, 300_005));
    assert_eq!((report.bytes_here, report.only_here), (0, 0));
    assert!(!report.files_deferred && !file.exists());
    assert!(!world.is_here(&large_hash) && !world.is_here(&small));
    assert_eq!(world.main.read("/large").unwrap(), large(1));
    assert_eq!(world.main.read("/small").unwrap(), b"small");
    assert_eq!(world.store.known_holders(&small).unwrap(), ["alice"]);
    world.store.note_holders("alice", &[small], false).unwrap();
    assert!(world.store.known_holders(&small).unwrap().is_empty());
    assert_eq!(world.store.known_holders(&large_hash).unwrap(), ["alice"]);
}

#[test]
fn who_evicts_while_others_do_waits_for_them() {
    let world = with_source();
    shared(&world, "/large", &large(1));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..30 {
                    evict(&world, 0);
                }
            });
        }
    });
    assert_eq!(evict(&world, 0).bytes_here, 0);
}

#[test]
fn what_is_only_here_stays_however_full_the_store_is() {
    let world = with_source();
    world.main.write("/mine", "only here").unwrap();
    shared(&world, "/ours", b"elsewhere too");
    let report = evict(&world, 0);
    assert_eq!((report.contents, report.only_here), (1, 1));
    assert_eq!((report.only_here_bytes, report.bytes_here), (9, 9));
    world.source.has.lock().clear();
    assert_eq!(world.main.read("/mine").unwrap(), b"only here");
    // A peer that once held it is asked again, and does not any more.
    let hash = world.main.stat("/mine").unwrap().hash().unwrap();
    world.store.note_holders("alice", &[hash], true).unwrap();
    assert_eq!(evict(&world, 0).contents, 0);
    assert!(world.is_here(&hash));
}

#[test]
fn what_is_in_use_or_wanted_stays() {
    let world = with_source();
    let session_base = shared(&world, "/edited", &large(1));
    let pinned = shared(&world, "/pinned", b"pinned");
    let promised = shared(&world, "/promised", b"promised");
    let base = shared(&world, "/base", &large(2));
    world.main.copy("/base", "/delta").unwrap();
    let edit = world
        .main
        .open_session("/delta", &OpenOptions::new())
        .unwrap();
    edit.write_at(5, b"other").unwrap();
    edit.close().unwrap();
    let own = world.store.create_bucket("own").unwrap().main().unwrap();
    let also_own = shared(&world, "/also-own", b"also in a bucket of its own");
    own.write("/f", "also in a bucket of its own").unwrap();
    let free = shared(&world, "/free", b"free");
    let bucket = world.store.bucket("default").unwrap();
    bucket.pin("/pinned").unwrap();
    let session = world
        .main
        .open_session("/edited", &OpenOptions::new())
        .unwrap();
    let here = world
        .store
        .promise_contents(&[promised, Hash::of(b"none")])
        .unwrap();
    assert_eq!(here, [true, false]);
    let report = evict(&world, 0);
    for (name, hash) in [
        ("the session's", session_base),
        ("pinned", pinned),
        ("promised", promised),
        ("a delta's base", base),
        ("another bucket's", also_own),
    ] {
        assert!(world.is_here(&hash), "{name}");
    }
    assert!(!world.is_here(&free));
    assert_eq!(report.contents, 1);
    // The delta is only here.
    assert_eq!(report.only_here, 1);
    session.abort().unwrap();
    bucket.unpin("/pinned").unwrap();
    assert_eq!(evict(&world, 0).contents, 2);
    assert!(!world.is_here(&session_base) && !world.is_here(&pinned));
    bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    world.main.read("/free").unwrap();
    assert_eq!(evict(&world, 0).contents, 0);
    let report = world.store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    assert_eq!(report.problems, []);
}

#[test]
fn what_comes_into_use_while_peers_are_asked_stays() {
    type Use = (&'static str, fn(&World, &Hash) -> Option<Session>);
    let uses: [Use; 7] = [
        ("a promise", |world, hash| {
            world.store.promise_contents(&[*hash]).unwrap();
            None
        }),
        ("a session", |world, _| {
            Some(
                world
                    .main
                    .open_session("/d/f", &OpenOptions::new())
                    .unwrap(),
            )
        }),
        ("a delta", |world, _| {
            let session = world
                .main
                .open_session("/d/f", &OpenOptions::new())
                .unwrap();
            session.write_at(5, b"other").unwrap();
            session.close().unwrap();
            None
        }),
        ("another bucket", |world, _| {
            let own = world.store.bucket("own").unwrap().main().unwrap();
            own.write("/f", large(1)).unwrap();
            None
        }),
        ("a pin", |world, _| {
            world.main.bucket().pin("/d/f").unwrap();
            None
        }),
        ("a move to what is pinned", |world, _| {
            world.main.mkdir("/kept").unwrap();
            world.main.rename("/d", "/kept/d").unwrap();
            None
        }),
        ("a policy", |world, _| {
            let bucket = world.main.bucket();
            bucket.set_content_policy(ContentPolicy::Eager).unwrap();
            None
        }),
    ];
    for (name, come_into_use) in uses {
        let world = Arc::new(with_source());
        world.store.create_bucket("own").unwrap();
        world.main.bucket().pin("/kept").unwrap();
        world.main.mkdir("/d").unwrap();
        let hash = shared(&world, "/d/f", &large(1));
        let other = shared(&world, "/other", &large(2));
        let session = Arc::new(Mutex::new(None));
        let (within, kept) = (Arc::clone(&world), Arc::clone(&session));
        *world.source.meanwhile.lock() = Some(Box::new(move || {
            *kept.lock() = come_into_use(&within, &hash);
        }));
        evict(&world, 0);
        assert!(world.is_here(&hash), "{name}");
        // It does not keep the rest.
        let policy = world.main.bucket().content_settings().unwrap().policy;
        assert_eq!(
            world.is_here(&other),
            policy == ContentPolicy::Eager,
            "{name}"
        );
        drop(session.lock().take());
    }
}

#[test]
fn a_promise_holds_against_garbage_collection_too() {
    let world = with_source();
    let hash = shared(&world, "/f", b"promised");
    let other = shared(&world, "/g", b"not promised");
    world.store.promise_contents(&[hash]).unwrap();
    world.main.remove("/f").unwrap();
    world.main.remove("/g").unwrap();
    let now = GcOptions::new().grace(Duration::ZERO);
    world.store.gc(&now, &Task::new()).unwrap();
    assert!(world.is_here(&hash) && !world.is_here(&other));
}

#[test]
fn who_holds_what_nothing_names_is_forgotten_by_garbage_collection() {
    let world = with_source();
    let gone = shared(&world, "/gone", b"gone");
    let kept = shared(&world, "/kept", b"kept");
    let away = world.away("/away", b"away");
    let snapshot = world.away("/of-a-snapshot", b"of a snapshot");
    let never = Hash::of(b"was never here");
    let all = [gone, kept, away, snapshot, never];
    for peer in ["alice", "bob"] {
        world.store.note_holders(peer, &all, true).unwrap();
    }
    world.main.snapshot("s").unwrap();
    world.main.remove("/of-a-snapshot").unwrap();
    let fresh = shared(&world, "/fresh", b"fresh");
    world.store.note_holders("bob", &[fresh], true).unwrap();
    world.main.remove("/gone").unwrap();
    world.main.delete_snapshot("s").unwrap();
    world.main.snapshot("later").unwrap();
    let now = GcOptions::new().grace(Duration::ZERO);
    let holders = |hash: &Hash| world.store.known_holders(hash).unwrap();
    // What waits to be collected is here.
    world.store.gc(&GcOptions::new(), &Task::new()).unwrap();
    assert_eq!(holders(&gone), ["alice", "bob"]);
    world.store.gc(&now, &Task::new()).unwrap();
    assert!(!world.is_here(&gone));
    for hash in [gone, never, snapshot] {
        assert!(holders(&hash).is_empty(), "{hash}");
    }
    for hash in [kept, away] {
        assert_eq!(holders(&hash), ["alice", "bob"]);
    }
    assert_eq!(holders(&fresh), ["bob"]);
    // Nothing stays of what is empty.
    world.main.remove("/kept").unwrap();
    world.main.remove("/away").unwrap();
    world.main.remove("/fresh").unwrap();
    world.main.delete_snapshot("later").unwrap();
    world.store.gc(&now, &Task::new()).unwrap();
    let txn = world.store_rows().read().unwrap();
    for shard in 0..1 << 12 {
        for scope in ["content/holds/0", "content/holds/1"] {
            assert_eq!(txn.value(scope, &format!("{shard:03x}")).unwrap(), None);
        }
    }
}

#[test]
fn two_nodes_that_make_room_at_once_do_not_both_lose_a_content() {
    // Each asks the other before it removes anything; both have said yes by then.
    let (a, b) = (with_source(), with_source());
    let hashes = [&a, &b].map(|world| shared(world, "/f", b"shared"));
    for world in [&a, &b] {
        assert_eq!(world.store.promise_contents(&hashes[..1]).unwrap(), [true]);
    }
    for world in [&a, &b] {
        assert_eq!(evict(world, 0).contents, 0);
        assert!(world.is_here(&hashes[0]));
    }
}

#[test]
fn what_was_not_read_for_the_longest_time_goes_first() {
    let world = with_source();
    world.store.set_cache_limit(Some(1 << 40)).unwrap();
    let hashes: Vec<_> = (0..10_u8)
        .map(|n| shared(&world, &format!("/{n}"), &[n; 100]))
        .collect();
    let step = || std::thread::sleep(Duration::from_millis(3));
    for n in [7, 2, 5] {
        step();
        world.main.read(format!("/{n}")).unwrap();
    }
    step();
    // Another handle knows of these uses only by the store.
    let second = Store::open(world.path()).unwrap();
    second
        .bucket("default")
        .unwrap()
        .main()
        .unwrap()
        .read("/2")
        .unwrap();
    drop(second);
    evict(&world, 200);
    let here: Vec<_> = (0..10).filter(|n| world.is_here(&hashes[*n])).collect();
    assert_eq!(here, [2, 5]);
}

#[test]
fn the_service_keeps_the_store_under_its_limit() {
    let world = World::new();
    let _service = world.store.serve_contents(world.source.clone()).unwrap();
    assert_eq!(world.store.cache_limit().unwrap(), None);
    world.store.set_cache_limit(Some(100_000)).unwrap();
    assert_eq!(world.store.cache_limit().unwrap(), Some(100_000));
    for n in 0..20_u8 {
        let bytes = vec![n; 10_000];
        let hash = world.away(&format!("/{n}"), &bytes);
        world.source.held.lock().insert(hash);
        assert_eq!(world.main.read(format!("/{n}")).unwrap(), bytes);
    }
    let bytes = || world.store.stats().unwrap().content_bytes;
    eventually("it makes room", || bytes() <= 100_000);
    // What was read last is here.
    assert!(world.is_here(&Hash::of(&[19; 10_000])));
    world.store.set_cache_limit(None).unwrap();
    // A process without a node leaves it to this one.
    let second = Store::open(world.path()).unwrap();
    let report = second.evict(0, &Task::new()).unwrap();
    assert_eq!(report.bytes_here, 0);
    assert_eq!(bytes(), 0);
}

#[test]
fn nobody_evicts_without_somebody_to_ask() {
    let world = World::new();
    let hash = shared(&world, "/f", b"data");
    let error = world.store.evict(0, &Task::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentUnavailable);
    assert!(world.is_here(&hash));
    let memory = Store::memory().unwrap();
    assert!(memory.evict(0, &Task::new()).is_err());
}

#[test]
fn a_check_tells_what_is_away_from_damage() {
    let world = World::new();
    let away = world.away("/away", &large(1));
    world.main.copy("/away", "/again").unwrap();
    world.main.write("/here", "here").unwrap();
    let check = || world.store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    let report = check();
    assert_eq!(report.problems, []);
    assert_eq!((report.away, report.away_bytes), (1, 300_000));
    let stats = world.store.stats().unwrap();
    assert_eq!((stats.away_contents, stats.away_bytes), (1, 300_000));
    assert_eq!((stats.contents, stats.content_bytes), (1, 4));
    let now = GcOptions::new().grace(Duration::ZERO);
    world.store.gc(&now, &Task::new()).unwrap();
    assert_eq!(check().problems, []);
    // In a bucket of this store alone, it is damage.
    let own = world.store.create_bucket("own").unwrap().main().unwrap();
    own.write("/f", large(1)).unwrap();
    assert_eq!(check().away, 0);
    forget(&world.path(), &away);
    let report = check();
    assert_eq!(report.away, 0);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].subject.contains(&away.to_string()));
    assert_eq!(report.problems[0].uses.len(), 3);
}

#[test]
fn somebody_fetches_a_tree_here_or_from_another_process() {
    let world = World::new();
    world.main.mkdir("/d").unwrap();
    for n in 0..600 {
        world.away(&format!("/d/{n}"), format!("content {n}").as_bytes());
    }
    world.away("/gone", b"gone");
    world.source.has.lock().remove(&Hash::of(b"gone"));
    let error = world.main.view().unwrap().fetch("/d", &Task::new());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::ContentUnavailable);
    let service = world.store.serve_contents(world.source.clone()).unwrap();
    let second = Store::open(world.path()).unwrap();
    let bucket = second.bucket("default").unwrap();
    let view = bucket.main().unwrap().view().unwrap();
    let one = view.fetch("/d/7", &Task::new()).unwrap();
    assert_eq!((one.contents, one.bytes), (1, 9));
    let report = view.fetch("/d", &Task::new()).unwrap();
    assert_eq!(report.contents, 599);
    assert_eq!(report.failed, []);
    let report = bucket.fetch(&Task::new()).unwrap();
    assert_eq!((report.contents, report.failed.len()), (0, 1));
    assert_eq!(report.failed[0].path.as_str(), "/gone");
    assert!(report.failed[0].why.contains("alice"), "{report:?}");
    // Nothing stays in the queue.
    assert_eq!(second.content_queue().unwrap().contents, 0);
    drop(service);
    evict_all(&world);
    world.store.set_content_source(Some(world.source.clone()));
    let report = world.main.bucket().fetch(&Task::new()).unwrap();
    assert_eq!((report.contents, report.failed.len()), (600, 1));
    let cancel = alknet_fs::Cancel::new();
    cancel.cancel();
    evict_all(&world);
    let task = Task::new().cancel_with(&cancel);
    assert!(world.main.bucket().fetch(&task).unwrap_err().is_cancelled());
}

fn evict_all(world: &World) {
    world.store.set_content_source(Some(world.source.clone()));
    let all: Vec<_> = world.source.has.lock().keys().copied().collect();
    world.source.held.lock().extend(all);
    evict(world, 0);
}

/// What the other process does: it reads all the time, and no read may fail.
#[test]
fn reads_while_another_process_evicts() {
    let Some(path) = std::env::var_os("ALKFS_TEST_EVICTED") else {
        return;
    };
    let store = Store::open(path).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    for round in 0..300_u32 {
        let n = (round * 7 % 20) as u8;
        let bytes = main.read(format!("/{n}")).unwrap();
        assert_eq!(bytes, large(n), "round {round}");
    }
}

#[test]
fn reads_go_on_while_another_process_evicts_what_they_read() {
    let world = World::new();
    for n in 0..20 {
        shared(&world, &format!("/{n}"), &large(n));
    }
    let _service = world.store.serve_contents(world.source.clone()).unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "evict::reads_while_another_process_evicts"])
        .env("ALKFS_TEST_EVICTED", world.path())
        .spawn()
        .unwrap();
    let mut evicted = 0;
    let status = loop {
        match world.store.evict(1_000_000, &Task::new()) {
            Ok(report) => evicted += report.contents,
            Err(e) => assert!(e.is_locked(), "{e}"),
        }
        if let Some(status) = other.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success());
    assert!(evicted > 17, "{evicted}");
}

/// A small generator of random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Random reads, writes, pins and evictions against a simple model: nothing that is only here ever goes,
/// nothing pinned goes, and the store gets under the limit where what may go suffices.
#[test]
fn evictions_agree_with_a_model() {
    for seed in 1..=12_u64 {
        let world = with_source();
        world.store.set_cache_limit(Some(1 << 40)).unwrap();
        let bucket = world.store.bucket("default").unwrap();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut held: BTreeSet<Hash> = BTreeSet::new();
        let mut pinned: BTreeSet<String> = BTreeSet::new();
        for step in 0..60 {
            let path = format!("/{}", random.below(12));
            match random.below(6) {
                0 | 1 => {
                    let bytes = vec![random.below(200) as u8; 50 + random.below(300) as usize];
                    world.main.write(&path, bytes.clone()).unwrap();
                    files.insert(path, bytes);
                }
                2 => {
                    // A peer gets it, or loses it where it is here.
                    let Some(bytes) = files.get(&path) else {
                        continue;
                    };
                    let hash = world.source.give(bytes);
                    if held.insert(hash) {
                        world.source.held.lock().insert(hash);
                    } else if world.is_here(&hash) {
                        held.remove(&hash);
                        world.source.held.lock().remove(&hash);
                        world.source.has.lock().remove(&hash);
                    }
                }
                3 => {
                    if let Some(bytes) = files.get(&path) {
                        assert_eq!(&world.main.read(&path).unwrap(), bytes);
                    }
                }
                4 => match pinned.remove(&path) {
                    true => bucket.unpin(&path).unwrap(),
                    false => {
                        bucket.pin(&path).unwrap();
                        pinned.insert(path);
                    }
                },
                _ => {
                    let to = random.below(2000);
                    let was_here = here(&world);
                    let report = evict(&world, to);
                    let is_here = here(&world);
                    let seen = format!("seed {seed}, step {step}: {report:?}");
                    let bytes: u64 = is_here.values().sum();
                    assert_eq!(report.bytes_here, bytes, "{seen}");
                    let named: BTreeMap<Hash, bool> =
                        files
                            .iter()
                            .fold(BTreeMap::new(), |mut named, (path, bytes)| {
                                let pin = named.entry(Hash::of(bytes)).or_default();
                                *pin |= pinned.contains(path);
                                named
                            });
                    for hash in was_here.keys().filter(|hash| !is_here.contains_key(*hash)) {
                        assert!(held.contains(hash), "the only copy went: {seen}");
                        assert!(!named[hash], "it was pinned: {seen}");
                    }
                    let may_go = is_here
                        .keys()
                        .filter(|hash| held.contains(*hash) && named.get(*hash) == Some(&false));
                    let left = may_go.count();
                    assert!(bytes <= to || left == 0, "{left} more could go: {seen}");
                }
            }
        }
        for (path, bytes) in &files {
            assert_eq!(&world.main.read(path).unwrap(), bytes, "seed {seed}");
        }
    }
}

/// Returns what is here, with the sizes.
fn here(world: &World) -> BTreeMap<Hash, u64> {
    let txn = world.store_rows().read().unwrap();
    let all = txn.contents_after(None, 10_000, false).unwrap();
    all.into_iter()
        .map(|record| (record.hash, record.size))
        .collect()
}
