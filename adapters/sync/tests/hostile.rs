//! Changes that no honest replica makes.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use alknet_fs_core::ErrorKind;
use alknet_fs_core::entry::{Attrs, Entry, Node, Timestamp};
use alknet_fs_core::sync::{ReplicaId, Stamp, State, Value};
use alknet_fs_sync::{Document, shard};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Automerge, ObjType, ROOT, ReadDoc, ScalarValue};

const PEER: ReplicaId = ReplicaId([7; 16]);

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

fn register(path: &str, time: u64) -> (String, Vec<u8>) {
    (path.to_owned(), value(time).encode())
}

/// A document with one register, as this node has it.
fn document() -> (Document, u16) {
    let number = shard("/dir");
    let mut document = Document::new(ReplicaId([1; 16]));
    document.put(vec![register("/dir/a", 1)]).unwrap();
    (document, number)
}

/// Makes a change of its own by whatever it does to a document.
fn change(make: impl FnOnce(&mut AutoCommit)) -> Vec<u8> {
    let mut doc = AutoCommit::new().with_actor(ActorId::from(&PEER.0[..]));
    make(&mut doc);
    doc.commit();
    doc.get_last_local_change().unwrap().raw_bytes().to_vec()
}

fn bytes(value: &Value) -> ScalarValue {
    ScalarValue::Bytes(value.encode())
}

#[test]
fn only_changes_that_put_values_are_applied() {
    let good = change(|doc| doc.put(ROOT, "/dir/b", bytes(&value(2))).unwrap());
    let bad: Vec<(&str, Vec<u8>)> = vec![
        (
            "no bytes",
            change(|doc| doc.put(ROOT, "/dir/b", "text").unwrap()),
        ),
        (
            "no value",
            change(|doc| {
                doc.put(ROOT, "/dir/b", ScalarValue::Bytes(vec![1, 2]))
                    .unwrap()
            }),
        ),
        (
            "no path",
            change(|doc| doc.put(ROOT, "/dir/../b", bytes(&value(2))).unwrap()),
        ),
        (
            "another document's path",
            change(|doc| doc.put(ROOT, "/elsewhere/b", bytes(&value(2))).unwrap()),
        ),
        (
            "an object",
            change(|doc| drop(doc.put_object(ROOT, "/dir/b", ObjType::Map).unwrap())),
        ),
        (
            "below the root",
            change(|doc| {
                let map = doc.put_object(ROOT, "/dir/b", ObjType::Map).unwrap();
                doc.put(map, "/dir/b", bytes(&value(2))).unwrap();
            }),
        ),
        (
            "a removal",
            change(|doc| {
                doc.put(ROOT, "/dir/b", bytes(&value(2))).unwrap();
                doc.commit();
                doc.delete(ROOT, "/dir/b").unwrap();
            }),
        ),
        ("a whole document", {
            let mut doc = AutoCommit::load(&document().0.save()).unwrap();
            doc.put(ROOT, "/dir/b", bytes(&value(2))).unwrap();
            doc.save()
        }),
        ("nothing", Vec::new()),
        ("noise", vec![0x85; 100]),
    ];
    for (what, change) in &bad {
        let (mut document, number) = document();
        let before = document.heads();
        let error = document.apply(change, PEER, number).unwrap_err();
        let kinds = [ErrorKind::Corrupt, ErrorKind::InvalidPath];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
        assert_eq!(document.heads(), before, "{what}");
        // It goes on.
        let written = document.apply(&good, PEER, number).unwrap();
        assert_eq!(written, [register("/dir/b", 2)], "{what}");
        assert_eq!(
            document.values("/dir/b", None).unwrap(),
            [value(2).encode()]
        );
    }
}

#[test]
fn nobody_speaks_for_another_replica() {
    let change = change(|doc| doc.put(ROOT, "/dir/b", bytes(&value(2))).unwrap());
    let (mut document, number) = document();
    let error = document
        .apply(&change, ReplicaId([8; 16]), number)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_change_whose_base_is_not_there_is_refused() {
    let second = change(|doc| {
        doc.put(ROOT, "/dir/b", bytes(&value(2))).unwrap();
        doc.commit();
        doc.put(ROOT, "/dir/b", bytes(&value(3))).unwrap();
    });
    let (mut document, number) = document();
    let error = document.apply(&second, PEER, number).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(document.values("/dir/b", None).unwrap().is_empty());
}

/// A deflated change is refused before it is inflated, and so is one that was changed on the way.
#[test]
fn changes_come_plain_and_whole() {
    let mut doc = AutoCommit::new().with_actor(ActorId::from(&PEER.0[..]));
    for n in 0..200 {
        doc.put(ROOT, format!("/dir/{n}"), bytes(&value(n)))
            .unwrap();
    }
    doc.commit();
    let mut change = doc.get_last_local_change().unwrap();
    let deflated = change.bytes().into_owned();
    assert!(deflated.len() < change.raw_bytes().len());
    let (mut document, number) = document();
    assert!(document.apply(&deflated, PEER, number).is_err());
    let plain = change.raw_bytes().to_vec();
    for at in 0..plain.len() {
        let mut other = plain.clone();
        other[at] ^= 1;
        assert!(document.apply(&other, PEER, number).is_err(), "{at}");
    }
    assert_eq!(document.apply(&plain, PEER, number).unwrap().len(), 200);
}

/// The document can be read by any program that knows automerge.
#[test]
fn documents_are_those_of_automerge() {
    let (document, _) = document();
    let doc = Automerge::load(&document.save()).unwrap();
    let (held, _) = doc.get(ROOT, "/dir/a").unwrap().unwrap();
    assert_eq!(held.as_bytes().unwrap(), &value(1).encode()[..]);
}
