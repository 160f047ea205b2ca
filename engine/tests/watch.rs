//! Watchers that take several events at a time.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use alknet_fs::{Branch, Bucket, ErrorKind, Options, Retention, Store, WatchOptions};

fn fixture() -> (Store, Bucket, Branch) {
    let store = Options::new().memory().unwrap();
    let bucket = store.bucket("default").unwrap();
    let main = bucket.branch("main").unwrap();
    (store, bucket, main)
}

fn write(main: &Branch, count: usize) {
    for n in 0..count {
        main.write(format!("/{n}"), "x").unwrap();
    }
}

#[test]
fn batches_hold_up_to_a_limit_and_do_not_wait_to_be_full() {
    let (store, _, main) = fixture();
    let mut watcher = store.watch(&WatchOptions::default()).unwrap();
    write(&main, 5);
    let long = Duration::from_secs(60);
    let sizes = [3, 3].map(|limit| watcher.next_batch(long, limit).unwrap().len());
    assert_eq!(sizes, [3, 2]);
    assert_eq!(watcher.next_batch(Duration::ZERO, 3).unwrap(), []);
}

/// What was read before events were pruned is delivered, and only then that some are missing.
#[test]
fn a_batch_that_was_read_survives_a_failure_behind_it() {
    let (store, bucket, main) = fixture();
    let mut watcher = store.watch(&WatchOptions::default()).unwrap();
    write(&main, 200);
    let first = watcher.next_timeout(Duration::ZERO).unwrap().unwrap();
    let newest = Retention {
        not_before: None,
        at_most: Some(1),
    };
    bucket.prune_events(&newest).unwrap();
    let rest = watcher.next_batch(Duration::ZERO, 1000).unwrap();
    assert!(!rest.is_empty() && rest.iter().all(|event| event.cursor > first.cursor));
    let error = watcher.next_batch(Duration::ZERO, 1000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lagged);
}
