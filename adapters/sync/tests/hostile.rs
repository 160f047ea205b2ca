//! What no honest replica says.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeSet;

use alknet_fs_core::entry::{Attrs, Entry, Node, Timestamp};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{Durability, Store};
use alknet_fs_core::sync::{
    Clock, Cut, Page, ReplicaId, Scope, Stamp, State, Taken, Value, VersionVector, Want,
};
use alknet_fs_core::{ErrorKind, Result};
use alknet_fs_sync::{Branch, History};
use automerge::transaction::Transactable;
use automerge::{AutoCommit, Automerge, ROOT};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

const SELF: ReplicaId = ReplicaId([1; 16]);
const PEER: ReplicaId = ReplicaId([7; 16]);
const SCOPE: Scope = Scope([5; 16]);

fn value(time: u64) -> Value {
    let attrs = Attrs {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp(1),
        ctime: Timestamp(1),
    };
    let node = Node::Dir;
    Value {
        stamp: Stamp {
            time,
            replica: PEER,
        },
        state: State::Present(Entry { node, attrs }),
        base: None,
    }
}

fn register(path: &str, time: u64) -> (String, ByteBuf) {
    (path.to_owned(), ByteBuf::from(value(time).encode()))
}

fn cut(number: u64, changes: Vec<u8>) -> Cut {
    Cut {
        replica: PEER,
        number,
        seen: VersionVector::new(),
        more: false,
        changes,
    }
}

fn encode(values: &[(String, ByteBuf)]) -> Vec<u8> {
    postcard::to_allocvec(values).unwrap()
}

struct Here {
    store: MemoryStore,
    branch: Branch,
    clock: Clock,
}

impl Here {
    fn new(replica: ReplicaId) -> Self {
        Self {
            store: MemoryStore::new(),
            branch: Branch::new(1, SCOPE, replica, History::default()),
            clock: Clock::new(replica, 0),
        }
    }

    fn apply(&mut self, cut: Cut) -> Result<()> {
        let mut txn = self.store.write(Durability::Full)?;
        let now = Timestamp(1);
        let applied = self
            .branch
            .apply(&mut *txn, None, &[cut], &mut self.clock, now);
        match applied {
            Ok(_) => txn.commit(),
            Err(e) => {
                drop(txn);
                self.branch.forget();
                Err(e)
            }
        }
    }

    /// Takes in a page; where it is the last, what all say.
    fn take(&mut self, page: &Page) -> Result<Taken> {
        let mut txn = self.store.write(Durability::Full)?;
        let now = Timestamp(1);
        let taken = match self.branch.keep_page(&mut *txn, page, now)? {
            Some(taken) => taken,
            None => {
                let none = BTreeSet::new();
                let branch = &mut self.branch;
                branch.absorb(&mut *txn, None, &none, &mut self.clock, now)?;
                Taken::All
            }
        };
        txn.commit()?;
        Ok(taken)
    }

    fn paths(&self) -> usize {
        let txn = self.store.read().unwrap();
        self.branch.paths(&*txn).unwrap().len()
    }

    fn vector(&self) -> VersionVector {
        self.branch.vector(&*self.store.read().unwrap()).unwrap()
    }

    /// Returns all pages of what is here.
    fn pages(&self) -> Vec<Page> {
        let txn = self.store.read().unwrap();
        let mut from = self.branch.first_page(&*txn).unwrap();
        let nothing = VersionVector::new();
        let mut pages = vec![Page {
            from: from.clone(),
            next: Some(from.clone()),
            page: Vec::new(),
        }];
        loop {
            let page = self
                .branch
                .page(&*txn, &Want::From(from), &nothing, 500)
                .unwrap()
                .unwrap();
            pages.push(page.clone());
            match page.next {
                Some(next) => from = next,
                None => return pages,
            }
        }
    }
}

/// Bytes in which a few are said to stand for many.
fn automerge_bomb() -> Vec<u8> {
    let mut doc = AutoCommit::new();
    for n in 0..40 {
        doc.put(ROOT, format!("/dir/{n}"), vec![7u8; 20]).unwrap();
    }
    doc.commit();
    let mut change = doc.get_last_local_change().unwrap().raw_bytes().to_vec();
    let at = change.iter().position(|byte| *byte == 40).unwrap();
    change.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]);
    change
}

#[test]
fn only_cuts_that_put_values_are_applied() {
    let mut followed = encode(&[register("/dir/b", 2)]);
    followed.push(0);
    let no_value = ("/dir/b".to_owned(), ByteBuf::from(vec![1, 2]));
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("no value", encode(&[no_value])),
        ("no path", encode(&[register("/dir/../b", 2)])),
        ("a path in other words", encode(&[register("/dir//b", 2)])),
        ("no register", encode(&[register("dir/b", 2)])),
        (
            "a value of another register",
            encode(&[register("branch", 2)]),
        ),
        (
            "out of order",
            encode(&[register("/b", 2), register("/a", 2)]),
        ),
        ("twice", encode(&[register("/b", 2), register("/b", 3)])),
        ("something behind it", followed),
        ("a whole document", {
            let mut doc = Automerge::new();
            doc.transact::<_, _, automerge::AutomergeError>(|tx| {
                tx.put(ROOT, "/dir/b", value(2).encode())
            })
            .unwrap();
            doc.save()
        }),
        ("a bomb", automerge_bomb()),
        ("more registers than bytes", vec![0xff; 9]),
        ("nothing", Vec::new()),
        ("noise", vec![0x85; 100]),
    ];
    let mut here = Here::new(SELF);
    for (n, (what, changes)) in (1..).zip(bad) {
        let error = here.apply(cut(n, changes)).unwrap_err();
        let kinds = [ErrorKind::Corrupt, ErrorKind::InvalidPath];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
        assert_eq!(here.vector().get(PEER), n - 1, "{what}");
        // It goes on.
        let good = register(&format!("/dir/{n:02}"), n);
        here.apply(cut(n, encode(&[good]))).unwrap();
        assert_eq!(here.paths(), n as usize);
    }
}

/// A cut of a group is refused when it comes, not when the group is whole.
#[test]
fn a_part_of_a_group_is_looked_at_when_it_comes() {
    let mut here = Here::new(SELF);
    let bomb = Cut {
        more: true,
        ..cut(1, automerge_bomb())
    };
    assert_eq!(here.apply(bomb).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(here.vector().is_empty());
}

fn there() -> Here {
    let mut there = Here::new(PEER);
    for n in 1..=60 {
        let values = [register(&format!("/dir{}/{n:02}", n % 7), n)];
        there.apply(cut(n, encode(&values))).unwrap();
    }
    there
}

#[test]
fn pages_come_to_what_is_there() {
    let there = there();
    let pages = there.pages();
    assert!(pages.len() > 5);
    let mut here = Here::new(SELF);
    for page in &pages {
        here.take(page).unwrap();
    }
    assert_eq!(here.paths(), 60);
    assert_eq!(here.vector(), there.vector());
    // Who has all takes no more.
    assert_eq!(here.take(&pages[0]).unwrap(), Taken::All);
    assert_eq!(here.take(&pages[1]).unwrap(), Taken::All);
}

/// Of a page that is not the next nothing is kept, and the rest still comes together.
#[test]
fn pages_that_are_lost_or_repeated_do_no_harm() {
    let there = there();
    let pages = there.pages();
    let mut here = Here::new(SELF);
    assert!(matches!(here.take(&pages[2]).unwrap(), Taken::Nothing));
    here.take(&pages[0]).unwrap();
    assert!(matches!(here.take(&pages[2]).unwrap(), Taken::Waiting(_)));
    for page in &pages[1..] {
        here.take(page).unwrap();
        let again = here.take(page).unwrap();
        assert!(matches!(again, Taken::Waiting(_) | Taken::All));
    }
    assert_eq!(here.paths(), 60);
}

proptest! {
    /// Whatever is made of a page, nothing panics, nothing of it is shown before all came, and what
    /// comes to be known is never less than before.
    #[test]
    fn spoiled_pages_are_refused_or_harmless(
        which in any::<prop::sample::Index>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        length in proptest::option::of(0..200usize),
        part in 0..3u8,
    ) {
        let pages = there().pages();
        let mut here = Here::new(SELF);
        let spoiled = which.index(pages.len());
        for (n, page) in pages.iter().enumerate() {
            let mut page = page.clone();
            if n == spoiled {
                let bytes = match (part, &mut page.next) {
                    (0, _) => &mut page.from,
                    (1, Some(next)) => next,
                    _ => &mut page.page,
                };
                for (at, bits) in &flips {
                    if !bytes.is_empty() {
                        let at = at.index(bytes.len());
                        bytes[at] ^= bits;
                    }
                }
                bytes.truncate(length.unwrap_or(usize::MAX));
            }
            if here.take(&page).is_err() {
                here.branch.forget();
                break;
            }
        }
        prop_assert!(here.paths() <= 60);
        // The next cut is taken, or is known.
        let next = here.vector().get(PEER) + 1;
        if next < 1 << 40 {
            let value = register("/after", 100);
            here.apply(cut(next, encode(&[value]))).unwrap();
        }
    }

    #[test]
    fn spoiled_cuts_are_refused_or_are_others(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        length in proptest::option::of(0..200usize),
    ) {
        let mut bytes = encode(&[register("/a", 1), register("/b/c", 2), register("/d", 3)]);
        for (at, bits) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        bytes.truncate(length.unwrap_or(usize::MAX));
        let mut here = Here::new(SELF);
        let known = here.apply(cut(1, bytes)).is_ok();
        prop_assert_eq!(here.vector().get(PEER), u64::from(known));
    }
}

/// Where a page begins, as its bytes say.
#[derive(Serialize, Deserialize)]
struct Position {
    replica: ReplicaId,
    start: VersionVector,
    came: u64,
    moment: Option<VersionVector>,
    anew: bool,
    at: At,
}

#[derive(Serialize, Deserialize)]
enum At {
    Document {
        number: u16,
        after: Option<(u64, ReplicaId, u64)>,
    },
    Cuts {
        upto: VersionVector,
        came: u64,
    },
}

/// Pages that say that they go up to more cuts than anybody writes: nothing could follow on these.
#[test]
fn pages_do_not_count_without_end() {
    let other = ReplicaId([8; 16]);
    let most = 1 << 62;
    for number in [most, most + 1] {
        let claim = |position: &mut Vec<u8>| {
            let mut claimed: Position = postcard::from_bytes(position).unwrap();
            if let At::Cuts { upto, .. } = &mut claimed.at {
                upto.see(other, number);
            }
            *position = postcard::to_allocvec(&claimed).unwrap();
        };
        let mut here = Here::new(SELF);
        let mut taken = Ok(Taken::Nothing);
        for mut page in there().pages() {
            assert_eq!(taken.map(drop), Ok(()));
            claim(&mut page.from);
            if let Some(next) = &mut page.next {
                claim(next);
            }
            taken = here.take(&page).map_err(|e| (e.kind(), e.to_string()));
        }
        if number == most {
            assert_eq!(taken, Ok(Taken::All));
            assert_eq!(here.vector().get(other), most);
        } else {
            let (kind, why) = taken.unwrap_err();
            assert_eq!(kind, ErrorKind::Corrupt);
            assert!(why.contains("more cuts than anybody writes"), "{why}");
            assert!(here.vector().is_empty());
        }
    }
}
