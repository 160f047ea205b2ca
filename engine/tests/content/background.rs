//! What is fetched before anybody reads it.

use std::sync::Arc;

use alknet_fs::{ContentPolicy, Hash, Priority, Store};

use crate::fake::{Fake, Manner, World, eventually, large};

fn settle(store: &Store) {
    eventually("the queue is done", || {
        let queue = store.content_queue().unwrap();
        queue.contents == 0 && !queue.scanning
    });
}

#[test]
fn an_eager_bucket_fetches_what_is_missing_and_what_comes() {
    let world = World::new();
    let before: Vec<Hash> = (0..700)
        .map(|n| world.away(&format!("/before-{n}"), format!("before {n}").as_bytes()))
        .collect();
    let _service = world.store.serve_contents(world.source.clone()).unwrap();
    let bucket = world.store.bucket("default").unwrap();
    assert_eq!(world.source.wants(), []);
    bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    settle(&world.store);
    assert!(before.iter().all(|hash| world.is_here(hash)));
    // In calls for many at once, and without a hurry.
    let calls = world.source.calls.lock().clone();
    assert!(calls.len() <= 4, "{}", calls.len());
    assert!(
        calls
            .iter()
            .flatten()
            .all(|want| want.priority == Priority::Background)
    );
    assert_eq!(calls.iter().flatten().count(), 700);
    world.away("/after", b"after");
    eventually("what came is fetched", || {
        world.is_here(&Hash::of(b"after"))
    });
    bucket.set_content_policy(ContentPolicy::OnRead).unwrap();
    let later = world.away("/later", b"later");
    settle(&world.store);
    assert!(!world.is_here(&later));
}

#[test]
fn pinned_paths_are_fetched_wherever_they_come_from() {
    let world = World::new();
    world.main.mkdir("/docs").unwrap();
    world.main.mkdir("/other").unwrap();
    let doc = world.away("/docs/a", b"doc");
    let note = world.away("/other/b.md", b"note");
    let other = world.away("/other/c", b"other");
    let _service = world.store.serve_contents(world.source.clone()).unwrap();
    let bucket = world.store.bucket("default").unwrap();
    bucket.pin("/docs").unwrap();
    eventually("what is pinned comes", || world.is_here(&doc));
    settle(&world.store);
    assert!(!world.is_here(&note) && !world.is_here(&other));
    bucket.pin("*.md").unwrap();
    eventually("what is pinned comes", || world.is_here(&note));
    assert_eq!(bucket.content_settings().unwrap().pins, ["/docs", "*.md"]);
    world.main.rename("/other", "/docs/other").unwrap();
    eventually("what moved there comes", || world.is_here(&other));
    bucket.unpin("/docs").unwrap();
    let error = bucket.unpin("/docs").unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(bucket.pin("a[").is_err());
}

#[test]
fn what_cannot_be_fetched_is_tried_again_later_or_when_somebody_comes() {
    let world = World::new();
    let hash = world.away("/f", &large(1));
    world.source.be(Manner::Broken);
    let service = world.store.serve_contents(world.source.clone()).unwrap();
    let bucket = world.store.bucket("default").unwrap();
    bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    eventually("it fails", || {
        world.store.content_queue().unwrap().retried == 1
    });
    let queue = world.store.content_queue().unwrap();
    assert_eq!((queue.contents, queue.bytes), (1, 300_000));
    assert!(queue.served);
    let calls = world.source.calls.lock().len();
    world.source.be(Manner::Honest);
    assert_eq!(
        world.source.calls.lock().len(),
        calls,
        "it is not asked at once"
    );
    service.retry().unwrap();
    eventually("it comes", || world.is_here(&hash));
    settle(&world.store);
}

#[test]
fn a_lie_is_not_believed() {
    let world = World::new();
    let hash = world.away("/f", b"data");
    world.source.be(Manner::Liar);
    let service = world.store.serve_contents(world.source.clone()).unwrap();
    let bucket = world.store.bucket("default").unwrap();
    bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    eventually("it is tried again", || {
        world.store.content_queue().unwrap().retried == 1
    });
    world.source.be(Manner::Honest);
    service.retry().unwrap();
    eventually("it comes", || world.is_here(&hash));
}

#[test]
fn the_queue_survives_the_process() {
    let world = World::new();
    let hashes: Vec<_> = (0..300)
        .map(|n| world.away(&format!("/{n}"), format!("{n}").as_bytes()))
        .collect();
    world.source.be(Manner::Hangs);
    let service = world.store.serve_contents(world.source.clone()).unwrap();
    let bucket = world.store.bucket("default").unwrap();
    bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    eventually("it has begun", || !world.source.calls.lock().is_empty());
    drop(service);
    let queue = world.store.content_queue().unwrap();
    assert_eq!((queue.contents, queue.served), (300, false));
    let World {
        dir,
        store,
        main,
        source,
    } = world;
    drop((store, main, source));
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let source = Fake::new(&path);
    for n in 0..300 {
        source.give(format!("{n}").as_bytes());
    }
    let given: Arc<Fake> = Arc::clone(&source);
    let _service = store.serve_contents(given).unwrap();
    settle(&store);
    let main = store.bucket("default").unwrap().main().unwrap();
    assert_eq!(main.read("/299").unwrap(), b"299");
    assert_eq!(source.wants().len(), 300);
    assert!(
        hashes
            .iter()
            .all(|hash| source.has.lock().contains_key(hash))
    );
}
