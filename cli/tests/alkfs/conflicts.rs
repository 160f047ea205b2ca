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
    assert!(
        text.stderr.contains("2 paths in conflict"),
        "{}",
        text.stderr
    );

    // What lost is read before anybody decides, from a pipe or a file, and shown paths stay as they are.
    assert_eq!(
        a.run(&["cat", "--side", "1", "/plan.txt"]).text(),
        "plan of a"
    );
    let piped = a.run(&["get", "--verify", "--side", "1", "/plan.txt", "-"]);
    assert_eq!(piped.text(), "plan of a");
    let part = [
        "cat",
        "--side",
        "1",
        "--verify",
        "--range",
        "5..7",
        "/plan.txt",
    ];
    assert_eq!(a.run(&part).text(), "of");
    let got = a.one(&["get", "--side", "1", "/plan.txt", "theirs.txt"]);
    assert_eq!((&got["size"], &got["hash"]), (&9.into(), &plan(&listed)[1]));
    assert_eq!(std::fs::read(a.path("theirs.txt")).unwrap(), b"plan of a");
    assert_eq!(a.one(&["stat", "/plan.txt"])["hash"], plan(&listed)[0]);
    let error = a.fails(&["cat", "--side", "2", "/plan.txt"], "NotFound");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("one other side")
    );
    assert!(error["hint"].as_str().unwrap().contains("alkfs conflicts"));
    let error = a.fails(&["cat", "--side", "1", "/notes.txt"], "InvalidInput");
    assert!(
        error["message"].as_str().unwrap().contains("a removal"),
        "{error}"
    );
    a.fails(&["cat", "--side", "1", "/none"], "NotFound");
    assert_eq!(a.run(&["cat", "--side", "0", "/plan.txt"]).status, 2);
    let error = b.fails(&["cat", "--side", "1", "/plan.txt"], "ContentUnavailable");
    assert_eq!(error["path"], "/plan.txt");

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

#[test]
fn what_was_given_one_name_is_told_apart_and_renamed() {
    let (a, b) = (Bench::new(), Bench::new());
    a.put("/f", "before");
    meet(&a, &b);
    for (bench, text) in [(&a, "of a"), (&b, "of b")] {
        bench.put(&format!("/{text}"), text);
        bench.one(&["snapshot", "create", "v1"]);
        bench.one(&["branch", "create", "work", "--from", "main@v1"]);
    }
    meet(&a, &b);
    meet(&a, &b);
    let conflicts = a.json(&["conflicts"]);
    let of = |what: &str| {
        let is_snapshot = what == "snapshot";
        let found = conflicts
            .iter()
            .find(|c| c["snapshot"].is_string() == is_snapshot);
        found.unwrap().clone()
    };
    let (branch, snapshot) = (of("branch"), of("snapshot"));
    assert_eq!(
        (&branch["name"], &snapshot["name"]),
        (&"work".into(), &"v1".into())
    );
    let shown = snapshot["snapshot"].as_str().unwrap().to_owned();
    let work = branch["branch"].as_str().unwrap().to_owned();
    assert!(
        shown.starts_with("v1~") && work.starts_with("work~"),
        "{conflicts:?}"
    );
    for conflict in [&branch, &snapshot] {
        let own = conflict["replica"] == "01".repeat(16);
        assert!(own || conflict["replica"] == "02".repeat(16), "{conflict}");
        assert_eq!(conflict["here"], own);
    }
    // People are told whose it is: the replica's digits, as these two are no nodes.
    let by = match snapshot["here"] == true {
        true => "v1 of this store",
        false => "v1 of 02020202",
    };
    let ran = a.run(&["conflicts"]);
    assert!(
        ran.text().contains(&format!("{shown}: {by}; another")),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("2 names in conflict"), "{ran:?}");
    let listed = a.run(&["snapshot", "list"]);
    let line = listed.text().lines().find(|line| line.contains(&shown));
    assert!(line.unwrap().ends_with(by), "{listed:?}");
    assert!(a.run(&["branch", "list"]).text().contains("work of "));
    let records = a.json(&["snapshot", "list"]);
    let given = records.iter().find(|record| record["name"] == shown[..]);
    assert_eq!(given.unwrap()["given"], "v1");

    // Both get names of their own, on both sides, and show what they showed.
    let root = |bench: &Bench, snapshot: &str| bench.names(&format!("main@{snapshot}"), "/");
    let before = [root(&a, "v1"), root(&a, &shown)];
    a.fails(&["snapshot", "rename", &shown, "v1"], "AlreadyExists");
    a.fails(&["snapshot", "rename", "none", "v2"], "NotFound");
    a.fails(&["snapshot", "rename", &shown, "a/b"], "InvalidInput");
    let done = a.one(&["snapshot", "rename", &shown, "v1-too"]);
    assert_eq!(
        (&done["from"], &done["name"]),
        (&shown.as_str().into(), &"v1-too".into())
    );
    a.one(&["branch", "rename", &work, "work-too"]);
    for _ in 0..2 {
        meet(&a, &b);
    }
    for bench in [&a, &b] {
        assert!(bench.json(&["conflicts"]).is_empty());
        assert_eq!([root(bench, "v1"), root(bench, "v1-too")], before);
        let all = bench.json(&["snapshot", "list"]);
        assert_eq!(
            all.iter().filter(|s| s["branch"] == "main").count(),
            2,
            "{all:?}"
        );
    }
}
