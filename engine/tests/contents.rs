//! Contents between two nodes: what makes room, what goes on after a restart, and what need not travel.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alknet_fs::node::ShareOptions;
use alknet_fs::{
    ContentForm, ContentPolicy, FetchReport, Fetching, FsckOptions, GcOptions, Hash, OpenOptions,
    Store, Task,
};
use common::{Side, pair, until};

/// Bytes that do not repeat.
fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (word ^ (word >> 27)).to_le_bytes()
    });
    words.take(len).collect()
}

impl Side {
    /// Tells whether the content of a file is here.
    fn holds(&self, path: &str) -> bool {
        let view = self.main().view().unwrap();
        view.content_form(path).unwrap().is_some()
    }

    /// Waits until there is a file of some content, whether that is here or not.
    #[track_caller]
    fn names(&self, path: &str, bytes: &[u8]) {
        let hash = Hash::of(bytes);
        until(path, || {
            let entry = self.main().stat(path);
            entry.is_ok_and(|entry| entry.hash() == Some(hash))
        });
    }

    fn fetch_all(&self) {
        self.bucket
            .set_content_policy(ContentPolicy::Eager)
            .unwrap();
    }
}

#[test]
fn what_was_not_read_for_the_longest_time_makes_room_where_the_peer_holds_it() {
    let [a, b] = pair(&ShareOptions::new());
    b.store.set_cache_limit(Some(1 << 40)).unwrap();
    let contents: Vec<_> = (0..6).map(|n| random(100_000, n)).collect();
    let path = |n: usize| format!("/{n}");
    for (n, content) in contents.iter().enumerate() {
        a.write(&path(n), content);
    }
    // Nobody used that one for longer, and nobody else has it.
    let own = random(100_000, 6);
    b.write("/own", &own);
    a.names("/own", &own);
    for n in (0..6).chain([0]) {
        b.names(&path(n), &contents[n]);
        assert!(b.main().read(path(n)).unwrap() == contents[n]);
        // Uses are noted by the millisecond.
        std::thread::sleep(Duration::from_millis(3));
    }
    let here = || -> Vec<_> { (0..6).filter(|n| b.holds(&path(*n))).collect() };
    assert_eq!(here(), [0, 1, 2, 3, 4, 5]);
    b.store.set_cache_limit(Some(350_000)).unwrap();
    until("there is room", || here().len() <= 2);
    assert_eq!(here(), [0, 5]);
    assert!(b.holds("/own") && !a.holds("/own"));

    b.store.set_cache_limit(Some(1)).unwrap();
    until("there is more room", || here().is_empty());
}

#[test]
fn what_is_fetched_in_the_background_goes_on_after_the_store_was_closed() {
    let [a, mut b] = pair(&ShareOptions::new());
    for n in 0..50 {
        a.write(&format!("/{n}"), format!("small {n}"));
    }
    let large = random(48 << 20, 1);
    a.write("/large", &large);
    b.names("/large", &large);
    // All is wanted at once, and is one job.
    b.fetch_all();
    let check = FsckOptions::new().fast(true);
    until("a part of it has come", || {
        b.store.fsck(&check, &Task::new()).unwrap().partials > 0
    });
    b.stop();
    let Side {
        store,
        bucket,
        _dir: dir,
        ..
    } = b;
    drop((store, bucket));

    let store = Store::open(dir.path().join("store")).unwrap();
    let mut b = Side {
        node: None,
        bucket: store.bucket("joined").unwrap(),
        store,
        _dir: dir,
    };
    assert!(!b.holds("/large"), "it came too fast to be stopped");
    let queue = b.store.content_queue().unwrap();
    assert!(queue.contents > 0 && !queue.served, "{queue:?}");
    let begun = Instant::now();
    b.start();
    let all = || b.holds("/large") && (0..50).all(|n| b.holds(&format!("/{n}")));
    until("all of it", all);
    // Not only when the claim of the one that went has lapsed.
    assert!(begun.elapsed() < Duration::from_secs(45));
    let main = b.main().fetching(&Fetching::new().timeout(Duration::ZERO));
    assert!(main.read("/large").unwrap() == large);
    assert_eq!(main.read("/49").unwrap(), b"small 49");
    until("the queue is done", || {
        let queue = b.store.content_queue().unwrap();
        queue.contents == 0 && !queue.scanning
    });
}

#[test]
fn a_large_file_that_was_changed_by_a_byte_comes_as_that_change() {
    const LITTLE: u64 = 256 << 10;
    let [a, b] = pair(&ShareOptions::new());
    let mut bytes = random(8 << 20, 1);
    a.write("/f", &bytes);
    b.names("/f", &bytes);
    assert!(b.main().read("/f").unwrap() == bytes);
    let blobs = || b.store.stats().unwrap().blob_bytes;
    let form = || b.main().view().unwrap().content_form("/f").unwrap();
    assert_eq!(form(), Some(ContentForm::File));
    let whole = blobs();

    // What the peer makes of it: with the version before, and without.
    for (round, has_base) in [(1, true), (2, false)] {
        let base = Hash::of(&bytes);
        bytes[round << 20] ^= 1;
        a.write("/f", &bytes);
        if !has_base {
            let all = GcOptions::new().grace(Duration::ZERO);
            a.store.gc(&all, &Task::new()).unwrap();
        }
        let view = a.main().view().unwrap();
        assert_eq!(view.open_content(&base).is_ok(), has_base);
        b.names("/f", &bytes);
        let came = Arc::new(AtomicU64::new(0));
        let most = Arc::clone(&came);
        let task = Task::new().report_to(move |progress| {
            most.fetch_max(progress.bytes, Ordering::SeqCst);
        });
        let followed = b.main().fetching(&Fetching::new().task(&task));
        assert!(followed.read("/f").unwrap() == bytes);
        let came = came.load(Ordering::SeqCst);
        assert!(came < LITTLE, "{came} bytes came, round {round}");
        assert_eq!(form(), Some(ContentForm::Delta));
    }

    // What somebody fetches: all of the bucket, or a path.
    type Fetch = fn(&Side, &Task) -> alknet_fs::Result<FetchReport>;
    let ways: [Fetch; 2] = [
        |side, task| side.bucket.fetch(task),
        |side, task| side.main().view()?.fetch("/", task),
    ];
    for (round, fetch) in (3..).zip(ways) {
        bytes[round << 20] ^= 1;
        a.write("/f", &bytes);
        b.names("/f", &bytes);
        let came = Arc::new(AtomicU64::new(0));
        let most = Arc::clone(&came);
        let task = Task::new().report_to(move |progress| {
            if progress.files == 0 {
                most.fetch_max(progress.bytes, Ordering::SeqCst);
            }
        });
        let report = fetch(&b, &task).unwrap();
        assert_eq!((report.contents, &report.failed[..]), (1, &[][..]));
        let came = came.load(Ordering::SeqCst);
        assert!(came < LITTLE, "{came} bytes came, round {round}");
        assert_eq!(form(), Some(ContentForm::Delta));
    }

    // What came while nobody wanted it is found once somebody does.
    bytes[5 << 20] ^= 1;
    a.write("/f", &bytes);
    b.names("/f", &bytes);
    b.fetch_all();
    until("it is found", || b.holds("/f"));
    assert_eq!(form(), Some(ContentForm::Delta));

    // Nobody waits for it, and only that byte was written.
    let session = a.main().open_session("/f", &OpenOptions::new()).unwrap();
    bytes[7 << 20] ^= 1;
    session.write_at(7 << 20, &bytes[7 << 20..][..1]).unwrap();
    session.close().unwrap();
    b.names("/f", &bytes);
    until("it comes", || b.holds("/f"));
    assert_eq!(form(), Some(ContentForm::Delta));
    let main = b.main().fetching(&Fetching::new().timeout(Duration::ZERO));
    assert!(main.read("/f").unwrap() == bytes);
    // What came of each version is what is kept of it.
    let more = blobs() - whole;
    assert!(more < LITTLE, "{more} bytes more");
}
