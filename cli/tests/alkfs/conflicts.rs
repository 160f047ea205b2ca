use std::sync::Arc;

use alknet_fs_core::Timestamp;
use alknet_fs_core::branch;
use alknet_fs_core::store::Store;
use alknet_fs_core::sync::{Replica, ReplicaId};
use alknet_fs_sqlite::{Options, SqliteStore};
use alknet_fs_sync::Bucket;
use serde_json::json;

use crate::bench::Bench;

/// Lets the stores of two benches tell each other all that they know, as nodes do.
fn meet(a: &Bench, b: &Bench) {
    let mut buckets = [(a, 1), (b, 2)].map(|(bench, n)| {
        let store = SqliteStore::open(&bench.path(".alkfs"), Options::default()).unwrap();
        let number = branch::bucket(&*store.read().unwrap(), "default").unwrap();
        let mut bucket = Bucket::open(Arc::new(store), number.id, ReplicaId([n; 16])).unwrap();
        bucket.gather(Timestamp(1)).unwrap();
        bucket
    });
    for (to, from) in [(0, 1), (1, 0)] {
        let [to, from] = buckets.get_disjoint_mut([to, from]).unwrap();
        for scope in from.vectors().unwrap().into_keys() {
            let seen = to.vector(scope).unwrap();
            let cuts = from.cuts_after(scope, &seen, usize::MAX).unwrap();
            to.apply(scope, &cuts).unwrap();
        }
    }
}

#[test]
fn a_conflict_is_listed_on_both_sides_and_decided_on_one() {
    let (a, b) = (Bench::new(), Bench::new());
    a.put("/notes.txt", "from a");
    meet(&a, &b);
    assert_eq!(a.json(&["conflicts"]), [] as [serde_json::Value; 0]);
    assert!(a.run(&["conflicts"]).stderr.contains("no conflicts"));
    a.put("/notes.txt", "a again");
    b.json(&["rm", "/notes.txt"]);
    a.put("/plan.txt", "plan of a");
    b.put("/plan.txt", "b's plan");
    meet(&a, &b);
    let listed = a.json(&["conflicts"]);
    let of = |path: &str| {
        let found = listed.iter().find(|conflict| conflict["path"] == path);
        found.unwrap().clone()
    };
    assert_eq!(listed.len(), 2);
    let notes = of("/notes.txt");
    assert_eq!(notes["branch"], "main");
    assert_eq!(notes["shown"]["size"], 7);
    assert_eq!(notes["shown"]["here"], true);
    assert_eq!(notes["shown"]["content_here"], true);
    assert_eq!(notes["others"][0]["what"], "removed");
    assert_eq!(notes["others"][0]["replica"], "02".repeat(16));
    let there = b.json(&["conflicts", "main"]);
    let plan = |listed: &[serde_json::Value]| {
        let found = listed.iter().find(|c| c["path"] == "/plan.txt").unwrap();
        let hash = |side: &serde_json::Value| side["hash"].clone();
        [hash(&found["shown"]), hash(&found["others"][0])]
    };
    assert_eq!(plan(&there), plan(&listed));
    let text = b.run(&["conflicts"]);
    let table = String::from_utf8(text.stdout).unwrap();
    for word in ["/plan.txt", "winner", "removed", "this store", "01010101"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert!(text.stderr.contains("2 conflicts"), "{}", text.stderr);

    // What b has not is not here, and nobody is there to be asked.
    let plan_there = there.iter().find(|c| c["path"] == "/plan.txt").unwrap();
    assert_eq!(plan_there["others"][0]["content_here"], false);
    let text = String::from_utf8(b.run(&["conflicts"]).stdout).unwrap();
    assert!(text.contains("9 B, elsewhere"), "{text}");
    let wanted = ["resolve", "/plan.txt", "--keep", "1"];
    b.fails(&wanted, "ContentUnavailable");
    assert_eq!(b.cat("/plan.txt"), b"b's plan");

    let done = b.json(&["resolve", "/notes.txt", "--keep", "1"]);
    assert_eq!(
        done,
        [json!({
            "op": "resolve", "branch": "main", "path": "/notes.txt", "kept": "1", "beside": []
        })]
    );
    b.fails(&["cat", "/notes.txt"], "NotFound");
    let done = a.json(&["resolve", "/plan.txt", "--keep", "both"]);
    let beside = done[0]["beside"][0].as_str().unwrap().to_owned();
    assert!(beside.starts_with("/plan (conflict "), "{beside}");
    assert!(beside.ends_with(").txt"), "{beside}");
    meet(&a, &b);
    for bench in [&a, &b] {
        assert_eq!(bench.json(&["conflicts"]), [] as [serde_json::Value; 0]);
        bench.fails(&["cat", "/notes.txt"], "NotFound");
        let here = bench.one(&["stat", &beside]);
        assert_eq!(here["hash"], plan(&listed)[1]);
    }
    a.fails(&["resolve", "/plan.txt", "--keep", "winner"], "NotFound");
    let wrong = a.run(&["resolve", "/plan.txt", "--keep", "0"]);
    assert_eq!(wrong.status, 2);
}
