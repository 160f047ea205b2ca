//! What lost in a conflict: its content is kept, fetched and served like those of entries.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use alknet_fs::node::ShareOptions;
use alknet_fs::{Conflict, ContentPolicy, ErrorKind, GcOptions, Hash, Keep, Task};
use common::{Side, pair, until};

impl Side {
    fn shows(&self, path: &str, bytes: &[u8]) {
        until(path, || self.main().read(path).is_ok_and(|b| b == bytes));
    }

    fn conflict(&self, path: &str) -> Option<Conflict> {
        let mut conflicts = self.bucket.conflicts().unwrap().into_iter();
        conflicts.find(|conflict| conflict.path.as_str() == path)
    }

    /// Tells whether there is a conflict at a path, and the content of what lost is here.
    fn has_loser(&self, path: &str) -> bool {
        let conflict = self.conflict(path);
        conflict.is_some_and(|c| c.others.len() == 1 && c.others[0].content_here)
    }

    /// Writes what loses against all that is written later.
    fn write_first(&self, path: &str, bytes: impl AsRef<[u8]>) {
        self.write(path, bytes);
        // What was committed before the question is noted, with the time.
        self.node.as_ref().unwrap().status().unwrap();
    }
}

/// Bytes that do not repeat.
fn random(len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let n = bytes.len() as u64;
        bytes.extend(Hash::of(&n.to_le_bytes()).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn an_eager_node_holds_what_lost_when_the_other_is_gone() {
    let [mut a, mut b] = pair(&ShareOptions::new());
    a.bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    let large = random(1 << 20);
    let changed = |at: usize| {
        let mut bytes = large.clone();
        bytes[at] ^= 1;
        bytes
    };
    a.write("/small", b"before");
    a.write("/large", &large);
    b.shows("/small", b"before");
    b.shows("/large", &large);
    a.stop();
    b.write_first("/small", b"of b");
    b.write_first("/large", changed(700_000));
    a.write("/small", b"of a");
    a.write("/large", changed(300_000));
    a.start();
    for path in ["/small", "/large"] {
        until(path, || a.has_loser(path));
    }
    b.stop();
    drop(b);
    let options = GcOptions::new().grace(Duration::ZERO);
    for _ in 0..2 {
        a.store.gc(&options, &Task::new()).unwrap();
    }
    assert_eq!(a.main().read("/small").unwrap(), b"of a");
    for path in ["/small", "/large"] {
        a.main().resolve(path, Keep::Loser(0)).unwrap();
        assert!(a.conflict(path).is_none());
    }
    assert_eq!(a.main().read("/small").unwrap(), b"of b");
    assert!(a.main().read("/large").unwrap() == changed(700_000));
}

#[test]
fn what_lost_is_passed_on_by_who_fetched_it() {
    let mut b = Side::new();
    let mut c = b.joined(&ShareOptions::new());
    c.bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    let a = c.joined(&ShareOptions::new());
    a.write("/f", b"before");
    b.shows("/f", b"before");
    c.stop();
    b.write_first("/f", b"of b");
    b.stop();
    a.write("/f", b"of a");
    c.start();
    c.shows("/f", b"of a");
    // Nobody but b has it, and it is nowhere what a path shows.
    b.start();
    until("c has it", || c.has_loser("/f"));
    until("a knows of it", || a.conflict("/f").is_some());
    b.stop();
    drop(b);
    assert!(!a.has_loser("/f"), "nobody wanted it yet");
    a.main().resolve("/f", Keep::Loser(0)).unwrap();
    assert_eq!(a.main().read("/f").unwrap(), b"of b");
    c.shows("/f", b"of b");
}

#[test]
fn what_lost_is_read_before_anybody_decides() {
    let [mut a, b] = pair(&ShareOptions::new());
    a.stop();
    b.write_first("/f", b"of b");
    a.write("/f", b"of a");
    a.start();
    until("a knows of it", || a.conflict("/f").is_some());
    let lost = a.conflict("/f").unwrap().others.remove(0);
    assert!(!lost.content_here, "nobody wanted it yet");
    let hash = lost.entry.unwrap().hash().unwrap();
    let reader = a.main().view().unwrap().open_content(&hash).unwrap();
    assert_eq!(reader.into_bytes().unwrap(), b"of b");
    assert_eq!(a.main().read("/f").unwrap(), b"of a");
    // One that nothing names is not asked for.
    let none = a.main().view().unwrap().open_content(&Hash::of(b"none"));
    assert_eq!(none.unwrap_err().kind(), ErrorKind::NotFound);
    // The copy has the name of who wrote it, where that is known.
    let b_id = b.node.as_ref().unwrap().id();
    a.store.name_peer(b_id, "laptop").unwrap();
    let done = a.main().resolve("/f", Keep::Both).unwrap();
    assert!(
        done.beside[0].as_str().ends_with(" from laptop)"),
        "{done:?}"
    );
}

#[test]
fn what_shows_stays_where_the_content_of_a_loser_cannot_be_had() {
    let mut b = Side::new();
    let c = b.joined(&ShareOptions::new());
    let mut a = c.joined(&ShareOptions::new());
    a.write("/other", b"before");
    until("a and b meet", || b.main().stat("/other").is_ok());
    a.stop();
    b.write_first("/f", b"of b");
    until("c knows of it", || c.main().stat("/f").is_ok());
    let b_id = b.node.as_ref().unwrap().id().to_owned();
    b.stop();
    a.write("/f", b"of a");
    a.start();
    until("a knows of it", || a.conflict("/f").is_some());
    let brief = Duration::from_secs(5);
    a.bucket.set_content_timeout(brief).unwrap();
    let error = a.main().resolve("/f", Keep::Loser(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentUnavailable);
    let asked = error.asked();
    let id = c.node.as_ref().unwrap().id();
    // Who is known to a by c only is asked too, and does not answer.
    let known = asked.len() == 2 && id.starts_with(&asked[0]) && b_id.starts_with(&asked[1]);
    assert!(known, "{error}");
    let text = error.to_string();
    let says = ["resolve /f", "not reachable", &asked[0], &asked[1]];
    assert!(says.iter().all(|part| text.contains(part)), "{text}");
    assert_eq!(a.main().read("/f").unwrap(), b"of a");
    // Once somebody has it, it comes.
    b.start();
    until("c has it", || {
        c.bucket.fetch(&Task::new()).unwrap();
        c.has_loser("/f")
    });
    a.main().resolve("/f", Keep::Loser(0)).unwrap();
    assert_eq!(a.main().read("/f").unwrap(), b"of b");
}

#[test]
fn what_lost_at_a_pinned_path_comes_and_stays() {
    let [mut a, b] = pair(&ShareOptions::new());
    a.bucket.pin("/kept").unwrap();
    a.main().mkdir("/kept").unwrap();
    a.write("/other", b"before");
    b.shows("/other", b"before");
    a.stop();
    b.write_first("/kept/f", b"kept of b");
    b.write_first("/f", b"of b");
    a.write("/kept/f", b"kept of a");
    a.write("/f", b"of a");
    a.start();
    until("the pinned one", || a.has_loser("/kept/f"));
    until("the other one", || a.conflict("/f").is_some());
    assert!(!a.has_loser("/f"), "nobody wanted it yet");
    // What is pinned later comes too.
    a.bucket.pin("/f").unwrap();
    until("it comes", || a.has_loser("/f"));
    a.bucket.unpin("/f").unwrap();
    until("it goes", || {
        a.store.evict(0, &Task::new()).unwrap();
        !a.has_loser("/f")
    });
    assert!(a.has_loser("/kept/f"));
    let fetched = a.bucket.fetch(&Task::new()).unwrap();
    assert!(fetched.contents > 0 && fetched.failed.is_empty());
    assert!(a.has_loser("/f"));
}

#[test]
fn what_lost_is_listed_and_read_on_both_sides_and_decided_for_both() {
    let [mut a, b] = pair(&ShareOptions::new());
    for side in [&a, &b] {
        let eager = ContentPolicy::Eager;
        side.bucket.set_content_policy(eager).unwrap();
    }
    let paths = ["/changed", "/kept", "/twice"];
    for path in paths {
        a.write(path, "before");
        b.shows(path, b"before");
    }
    a.stop();
    for path in paths {
        b.write_first(path, format!("{path} of b"));
        a.write(path, format!("{path} of a"));
    }
    a.start();
    for (side, wins) in [(&a, true), (&b, false)] {
        for path in paths {
            until(path, || side.has_loser(path));
            let conflict = side.conflict(path).unwrap();
            let written = [&conflict.shown, &conflict.others[0]].map(|side| &side.written);
            let here = written.map(|written| written.as_ref().unwrap().here);
            assert_eq!(here, [wins, !wins]);
            let lost = conflict.others[0].entry.as_ref().unwrap().hash().unwrap();
            let view = side.main().view().unwrap();
            let read = view.open_content(&lost).unwrap().into_bytes().unwrap();
            assert_eq!(read, format!("{path} of b").as_bytes());
        }
    }
    let listed = [&a, &b].map(|side| {
        let conflicts = side.bucket.conflicts().unwrap().into_iter();
        let told = conflicts.map(|conflict| {
            let sides = [vec![conflict.shown], conflict.others].concat();
            let what = sides.into_iter().map(|side| {
                let written = side.written.unwrap();
                (side.entry.unwrap().hash(), written.at, written.replica)
            });
            (conflict.path, what.collect::<Vec<_>>())
        });
        told.collect::<Vec<_>>()
    });
    assert_eq!(listed[0].len(), paths.len());
    assert_eq!(listed[0], listed[1]);

    a.main().resolve("/changed", Keep::Loser(0)).unwrap();
    b.main().resolve("/kept", Keep::Winner).unwrap();
    let beside = b.main().resolve("/twice", Keep::Both).unwrap().beside;
    let beside = beside[0].as_str();
    for side in [&a, &b] {
        until("all are decided", || {
            side.bucket.conflicts().unwrap().is_empty()
        });
        side.shows("/changed", b"/changed of b");
        side.shows("/kept", b"/kept of a");
        side.shows("/twice", b"/twice of a");
        side.shows(beside, b"/twice of b");
    }
}
