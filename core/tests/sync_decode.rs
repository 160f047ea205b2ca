//! What comes from others is read back as it was written, and whatever else it may be, refused.

use alknet_fs_core::entry::{Attrs, Entry, EntryId, Hash, Node, Timestamp};
use alknet_fs_core::session::MAX_FILE_SIZE;
use alknet_fs_core::sync::{
    Cut, Frame, MAX_FRAME, MAX_REPLICAS, MAX_SCOPES, Removed, ReplicaId, Resolved, Scope, Stamp,
    State, Value, VersionVector, Want,
};
use alknet_fs_core::{ErrorKind, Kind};
use proptest::prelude::*;

fn stamp() -> impl Strategy<Value = Stamp> {
    (0..4u64, 0..3u8).prop_map(|(time, replica)| Stamp {
        time,
        replica: ReplicaId([replica; 16]),
    })
}

fn state() -> impl Strategy<Value = State> {
    let numbers = (0..=0o7777u32, any::<u32>(), any::<u32>(), any::<i64>());
    let node = prop_oneof![
        (any::<[u8; 32]>(), 0..=MAX_FILE_SIZE).prop_map(|(hash, size)| Node::File {
            hash: Hash::from_bytes(hash),
            size
        }),
        Just(Node::Dir),
        "[^\0]{1,20}".prop_map(|target| Node::Symlink {
            target: target.into()
        }),
    ];
    let kind = prop_oneof![Just(Kind::File), Just(Kind::Dir), Just(Kind::Symlink)];
    let what = prop_oneof![node.prop_map(Ok), kind.prop_map(Err)];
    let written = (what, numbers).prop_map(|(what, (mode, uid, gid, mtime))| {
        let mtime = Timestamp(mtime);
        match what {
            Ok(node) => State::Present(Entry {
                node,
                attrs: Attrs {
                    mode,
                    uid,
                    gid,
                    mtime,
                    ctime: mtime,
                },
            }),
            Err(kind) => State::Removed(Removed {
                kind,
                mode,
                uid,
                gid,
                mtime,
            }),
        }
    });
    prop_oneof![9 => written, 1 => Just(State::Inherited)]
}

fn value() -> impl Strategy<Value = Value> {
    let base = proptest::option::of(any::<[u8; 16]>().prop_map(EntryId));
    (stamp(), state(), base).prop_map(|(stamp, state, base)| Value { stamp, state, base })
}

fn vector() -> impl Strategy<Value = VersionVector> {
    let seen = proptest::collection::vec((any::<[u8; 16]>(), 1..u64::MAX), 0..4);
    seen.prop_map(|seen| seen.into_iter().map(|(id, n)| (ReplicaId(id), n)).collect())
}

fn frame() -> impl Strategy<Value = Frame> {
    let scope = || any::<[u8; 16]>().prop_map(Scope);
    let digests = proptest::collection::btree_map(scope(), any::<[u8; 16]>(), 0..5);
    let vectors = proptest::collection::btree_map(scope(), vector(), 0..5);
    let bytes = || proptest::collection::vec(any::<u8>(), 0..50);
    let cut = (any::<[u8; 16]>(), 1..u64::MAX, vector(), bytes());
    let cut = cut.prop_map(|(replica, number, seen, changes)| Cut {
        more: number % 2 == 0,
        replica: ReplicaId(replica),
        number,
        seen,
        changes,
    });
    prop_oneof![
        (any::<[u8; 16]>(), any::<bool>())
            .prop_map(|(digest, answer)| Frame::Summary { digest, answer }),
        digests.prop_map(|digests| Frame::Digests {
            from: Scope::FIRST,
            to: Scope([0xff; 16]),
            digests: digests.into_iter().collect(),
        }),
        (vectors, any::<bool>()).prop_map(|(vectors, answer)| Frame::Vectors {
            vectors: vectors.into_iter().collect(),
            answer,
        }),
        (scope(), proptest::collection::vec(cut, 0..4))
            .prop_map(|(scope, cuts)| Frame::Cuts { scope, cuts }),
        (
            scope(),
            bytes(),
            proptest::option::of(bytes()),
            any::<bool>(),
            bytes()
        )
            .prop_map(|(scope, from, next, pause, page)| Frame::State {
                scope,
                from,
                next,
                pause,
                page
            }),
        (
            scope(),
            prop_oneof![
                vector().prop_map(Want::Moment),
                bytes().prop_map(Want::From)
            ]
        )
            .prop_map(|(scope, what)| Frame::Want { scope, what }),
    ]
}

/// Some bytes of a text in other ways than they were.
fn spoil(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8)], cut: Option<usize>) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] ^= byte;
    }
    bytes.truncate(cut.unwrap_or(usize::MAX).max(1));
    bytes
}

fn damage() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<usize>)> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (changes, proptest::option::of(0..200usize))
}

proptest! {
    #[test]
    fn values_come_back(value in value(), (changes, cut) in damage()) {
        let bytes = value.encode();
        prop_assert_eq!(Value::decode(&bytes).unwrap(), value);
        // What is something else is refused, or is another value that comes back.
        if let Ok(other) = Value::decode(&spoil(bytes, &changes, cut)) {
            prop_assert_eq!(Value::decode(&other.encode()).unwrap(), other);
        }
    }

    #[test]
    fn frames_come_back(frame in frame(), (changes, cut) in damage()) {
        let bytes = frame.encode();
        prop_assert_eq!(Frame::decode(&bytes).unwrap(), frame);
        if let Ok(other) = Frame::decode(&spoil(bytes, &changes, cut)) {
            prop_assert_eq!(Frame::decode(&other.encode()).unwrap(), other);
        }
    }

    #[test]
    fn the_order_of_values_makes_no_difference(
        values in proptest::collection::vec(value(), 0..6),
        repeated in 0..6usize,
    ) {
        let resolved = Resolved::of(values.clone());
        let mut other = values.clone();
        other.reverse();
        other.extend(values.get(repeated).cloned());
        prop_assert_eq!(Resolved::of(other), resolved.clone());
        if let Some(Resolved { winner, losers }) = resolved {
            prop_assert!(values.contains(&winner));
            let removed = winner.entry().is_none();
            prop_assert!(!removed || values.iter().all(|value| value.entry().is_none()));
            prop_assert!(losers.iter().all(|loser| values.contains(loser) && *loser != winner));
        }
    }
}

/// No store can keep an entry of such a file: the row has the size as a number of 64 bits with a sign.
#[test]
fn a_file_larger_than_any_is_refused() {
    let value = |size: &[u8]| {
        let stamp = [&[5][..], &[9; 16]].concat();
        let attrs = [0xa4, 0x03, 0, 0, 0];
        let (format, base, file) = (1, 0, 2);
        let parts: [&[u8]; 7] = [&[format], &stamp, &[base], &attrs, &[file], &[7; 32], size];
        Value::decode(&parts.concat())
    };
    let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let entry = value(&largest).unwrap().entry().unwrap().clone();
    assert_eq!(entry.size(), MAX_FILE_SIZE);
    let over = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    let all = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for size in [over, all] {
        assert_eq!(value(&size).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn frames_over_a_limit_are_refused() {
    let kind = |bytes: &[u8]| Frame::decode(bytes).unwrap_err().kind();
    assert_eq!(kind(&[]), ErrorKind::Corrupt);
    assert_eq!(kind(&[2, 0]), ErrorKind::Unsupported);
    assert_eq!(kind(&vec![1; MAX_FRAME + 1]), ErrorKind::Corrupt);
    let (a, b) = (Scope([1; 16]), Scope([2; 16]));
    let digests = |from, to, digests| Frame::Digests { from, to, digests }.encode();
    assert_eq!(kind(&digests(a, a, vec![(b, [0; 16])])), ErrorKind::Corrupt);
    let twice = vec![(a, [0; 16]), (a, [0; 16])];
    assert_eq!(kind(&digests(a, b, twice)), ErrorKind::Corrupt);
    let cut = Cut {
        more: false,
        replica: ReplicaId([0; 16]),
        number: 0,
        seen: VersionVector::new(),
        changes: Vec::new(),
    };
    let cuts = Frame::Cuts {
        scope: a,
        cuts: vec![cut],
    };
    assert_eq!(kind(&cuts.encode()), ErrorKind::Corrupt);
}

#[test]
fn frames_at_a_limit_are_read_and_those_over_it_refused() {
    let scope = |n: usize| Scope((n as u128).to_be_bytes());
    let vector = |count: usize| -> VersionVector {
        let replicas = (0..count).map(|n| (ReplicaId((n as u128).to_be_bytes()), 1));
        replicas.collect()
    };
    let digests = |count: usize| Frame::Digests {
        from: Scope::FIRST,
        to: Scope::LAST,
        digests: (0..count).map(|n| (scope(n), [0; 16])).collect(),
    };
    let vectors = |count: usize, replicas: usize| Frame::Vectors {
        vectors: (0..count).map(|n| (scope(n), vector(replicas))).collect(),
        answer: true,
    };
    let cuts = |seen: usize| Frame::Cuts {
        scope: scope(1),
        cuts: vec![Cut {
            more: false,
            replica: ReplicaId([0xff; 16]),
            number: 1,
            seen: vector(seen),
            changes: Vec::new(),
        }],
    };
    let moment = |replicas: usize| Frame::Want {
        scope: scope(1),
        what: Want::Moment(vector(replicas)),
    };
    for (most, over) in [
        (digests(MAX_SCOPES), digests(MAX_SCOPES + 1)),
        (vectors(MAX_SCOPES, 1), vectors(MAX_SCOPES + 1, 1)),
        (vectors(1, MAX_REPLICAS), vectors(1, MAX_REPLICAS + 1)),
        (cuts(MAX_REPLICAS), cuts(MAX_REPLICAS + 1)),
        (moment(MAX_REPLICAS), moment(MAX_REPLICAS + 1)),
    ] {
        assert_eq!(Frame::decode(&most.encode()).unwrap(), most);
        let refused = Frame::decode(&over.encode()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
    }
    let page = |length: usize| {
        let (from, next, pause) = (Vec::new(), None, false);
        let page = vec![7; length];
        let scope = scope(1);
        Frame::State {
            scope,
            from,
            next,
            pause,
            page,
        }
        .encode()
    };
    let around = page(1 << 19).len() - (1 << 19);
    let longest = page(MAX_FRAME - around);
    assert_eq!(longest.len(), MAX_FRAME);
    Frame::decode(&longest).unwrap();
    let refused = Frame::decode(&page(MAX_FRAME - around + 1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
}

#[test]
fn where_both_know_the_same_a_frame_of_19_bytes_says_so() {
    let digest = [7; 16];
    let summary = |answer| Frame::Summary { digest, answer }.encode();
    assert_eq!([summary(true).len(), summary(false).len()], [19, 19]);
}
