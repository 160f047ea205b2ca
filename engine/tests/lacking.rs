//! What nodes say of the contents that they lack.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use alknet_fs::node::{Ended, PeerStatus, ShareOptions};
use alknet_fs::{Retention, Task};
use common::{Side, pair, until};

impl Side {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.main().read(path).ok()
    }

    /// What any process may know.
    fn status(&self) -> PeerStatus {
        let mut peers = self.store.sync_status().unwrap().peers;
        assert_eq!(peers.len(), 1, "{peers:?}");
        peers.remove(0)
    }

    /// Waits until it is known how many contents are missing here, and there.
    #[track_caller]
    fn lacks(&self, here: (u64, u64), there: (u64, u64)) {
        // Who was never let in is nobody's peer.
        until("somebody comes", || {
            !self.store.sync_status().unwrap().peers.is_empty()
        });
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let status = self.status();
            let (of, at) = (status.contents_here, status.contents_there);
            let at = at.map(|missing| (missing.contents, missing.bytes));
            if (of.contents, of.bytes) == here && at == Some(there) && status.in_step {
                return;
            }
            assert!(Instant::now() < deadline, "{here:?} {there:?}: {status:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn synced(&self) {
        self.lacks((0, 0), (0, 0));
        let deadline = Instant::now() + Duration::from_secs(40);
        while !self.status().synced {
            assert!(Instant::now() < deadline, "{:#?}", self.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn who_lacks_what_follows_each_change() {
    let [a, b] = pair(&ShareOptions::new());
    for (path, text) in [("/one", "1"), ("/two", "22"), ("/three", "333")] {
        a.write(path, text);
    }
    a.write("/copy", "333");
    b.lacks((3, 6), (0, 0));
    a.lacks((0, 0), (3, 6));
    assert!(!a.status().synced && !b.status().synced);

    assert_eq!(b.read("/two").unwrap(), b"22");
    a.lacks((0, 0), (2, 4));
    // What was never fetched and is named no more is lacked by nobody; what has a copy is.
    a.main().remove("/one").unwrap();
    a.main().remove("/three").unwrap();
    b.lacks((1, 3), (0, 0));
    a.lacks((0, 0), (1, 3));
    a.write("/copy", "4444");
    a.lacks((0, 0), (1, 4));

    assert_eq!(b.read("/copy").unwrap(), b"4444");
    a.synced();
    b.synced();
    // Nobody says so of what was written only just now.
    for n in 0..20 {
        a.write(&format!("/{n}"), format!("new {n}"));
        assert!(!a.status().synced, "{:#?}", a.status());
    }
    b.lacks((20, 110), (0, 0));
}

#[test]
fn what_was_evicted_is_lacked_again() {
    let [a, b] = pair(&ShareOptions::new());
    a.write("/f", "content");
    b.lacks((1, 7), (0, 0));
    assert_eq!(b.read("/f").unwrap(), b"content");
    a.synced();
    until("it goes", || {
        b.store.evict(0, &Task::new()).unwrap().contents > 0
    });
    a.lacks((0, 0), (1, 7));
    b.lacks((1, 7), (0, 0));
    assert_eq!(b.read("/f").unwrap(), b"content");
    a.synced();
}

#[test]
fn a_node_that_comes_back_says_the_same_and_what_changed_meanwhile() {
    let [mut a, mut b] = pair(&ShareOptions::new());
    for (path, text) in [("/one", "1"), ("/two", "22"), ("/three", "333")] {
        a.write(path, text);
    }
    b.lacks((3, 6), (0, 0));
    a.lacks((0, 0), (3, 6));
    // Without a pause, with a content that has just come, and with one that is made here meanwhile.
    for lacking in [(3, 6), (2, 5), (1, 2)] {
        b.stop();
        if lacking == (1, 2) {
            b.write("/made-here", "333");
        }
        b.start();
        b.lacks(lacking, (0, 0));
        a.lacks((0, 0), lacking);
        if lacking == (3, 6) {
            assert_eq!(b.read("/one").unwrap(), b"1");
        }
    }
    a.stop();
    a.write("/four", "4444");
    b.stop();
    a.start();
    b.start();
    b.lacks((2, 6), (0, 0));
    a.lacks((0, 0), (2, 6));
    // A content also comes by a bucket that nobody shares.
    b.stop();
    let other = b.store.create_bucket("other").unwrap();
    other.main().unwrap().write("/mine", "4444").unwrap();
    b.start();
    b.lacks((1, 2), (0, 0));
    a.lacks((0, 0), (1, 2));
}

#[test]
fn of_who_is_away_it_is_said_what_was_committed_since_as_far_as_the_log_tells() {
    let [a, mut b] = pair(&ShareOptions::new());
    a.write("/first", "x");
    b.lacks((1, 1), (0, 0));
    a.lacks((0, 0), (1, 1));
    b.stop();
    until("it is away", || !a.status().connected);
    let behind = || {
        let status = a.status();
        assert!(!status.connected);
        (status.known, status.missing_there.cuts)
    };
    for n in 1..=3 {
        a.write(&format!("/{n}"), "x");
        assert_eq!(behind(), (true, n));
    }
    // Of many events not all are looked at: the second batch fills what is left.
    for n in 0..2 {
        let mut batch = a.main().batch();
        for file in 0..500 {
            batch.mkdir(format!("/{n}-{file}")).unwrap();
        }
        batch.commit().unwrap();
    }
    assert_eq!(behind(), (true, 5));
    for n in 1..=3 {
        a.write(&format!("/{n}"), "y");
    }
    assert_eq!(behind(), (true, 5));
    // What was pruned is not taken for nothing.
    let retention = Retention {
        at_most: Some(1),
        ..Retention::default()
    };
    assert!(a.bucket.prune_events(&retention).unwrap() > 0);
    assert!(!behind().0);
}

#[test]
fn nothing_is_synced_with_nobody() {
    let [a, mut b] = pair(&ShareOptions::new());
    a.write("/f", "x");
    until("it comes", || b.read("/f").is_some());
    a.synced();
    b.stop();
    a.store.revoke_peer(&a.status().peer).unwrap();
    let begun = Instant::now();
    let minute = Duration::from_secs(60);
    let status = a.store.wait_until_synced(None, minute, &Task::new());
    let status = status.unwrap();
    assert!(begun.elapsed() < minute / 2);
    assert!(!status.is_synced(), "{status:?}");
    assert_eq!(status.peers[0].ended, Some(Ended::Revoked));
}

#[test]
fn a_peer_with_a_branch_says_what_it_lacks_of_that() {
    let a = Side::new();
    a.write("/inherited", "all see it");
    let main = a.main();
    let draft = main.fork("draft").unwrap();
    let other = main.fork("other").unwrap();
    draft.write("/of-draft", "draft").unwrap();
    other.write("/of-other", "not for b").unwrap();
    let b = a.joined(&ShareOptions::new().branch("draft"));
    a.lacks((0, 0), (2, 15));
    b.lacks((2, 15), (0, 0));
    let draft = b.bucket.branch("draft").unwrap();
    assert_eq!(draft.read("/of-draft").unwrap(), b"draft");
    a.lacks((0, 0), (1, 10));
    assert_eq!(draft.read("/inherited").unwrap(), b"all see it");
    a.synced();
    b.synced();
}
