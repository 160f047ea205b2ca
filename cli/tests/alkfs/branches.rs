use serde_json::Value;

use crate::bench::{Bench, pattern};

#[test]
fn branches_are_forked_renamed_and_deleted() {
    let bench = Bench::new();
    bench.put("/f", "main");
    let forked = bench.one(&["branch", "create", "agent"]);
    assert_eq!(forked["live"], true);
    bench.json_with(&["--branch", "agent", "put", "-", "/f"], b"agent");
    assert_eq!(bench.cat("/f"), b"main");
    assert_eq!(bench.cat_on("agent", "/f"), b"agent");
    let list = bench.json(&["branch", "list"]);
    assert_eq!(list[1]["name"], "agent");
    assert_eq!(
        (&list[1]["parent"], &list[1]["live"]),
        (&"main".into(), &true.into())
    );
    bench.fails(&["branch", "create", "agent"], "AlreadyExists");
    bench.fails(&["branch", "create", "a/b"], "InvalidInput");
    bench.fails(&["branch", "delete", "main"], "InUse");
    bench.one(&["branch", "rename", "agent", "review"]);
    let error = bench.fails(&["--branch", "reveiw", "ls"], "NotFound");
    assert!(
        error["hint"].as_str().unwrap().contains("review"),
        "{error}"
    );
    bench.one(&["branch", "delete", "review"]);
    let error = bench.fails(&["branch", "delete", "review"], "NotFound");
    assert!(
        error["hint"]
            .as_str()
            .unwrap()
            .contains("alkfs branch list"),
        "{error}"
    );
}

#[test]
fn a_pinned_fork_does_not_change_with_its_parent() {
    let bench = Bench::new();
    bench.put("/f", "before");
    bench.one(&["branch", "create", "live"]);
    let forked = bench.one(&["branch", "create", "pinned", "--pinned"]);
    assert_eq!(
        (&forked["live"], &forked["from"]),
        (&false.into(), &"main@pinned-base".into())
    );
    bench.put("/f", "after");
    assert_eq!(bench.cat_on("live", "/f"), b"after");
    assert_eq!(bench.cat_on("pinned", "/f"), b"before");
    // A fork of a snapshot is pinned already.
    let again = ["branch", "create", "again", "--from", "main@pinned-base"];
    bench.one(&[&again[..], &["--pinned"]].concat());
    assert_eq!(bench.cat_on("again", "/f"), b"before");
    // What fails leaves no snapshot.
    bench.fails(&["branch", "create", "live", "--pinned"], "AlreadyExists");
    bench.fails(&["branch", "create", "a/b", "--pinned"], "InvalidInput");
    assert_eq!(bench.json(&["snapshot", "list"]).len(), 1);
    let said = bench.run(&["branch", "create", "other"]);
    assert!(said.text().contains("live"), "{said:?}");
    let said = bench.run(&["branch", "create", "another", "--pinned"]);
    assert!(
        said.text().contains("main@another-base (pinned"),
        "{said:?}"
    );
}

#[test]
fn what_is_hard_to_undo_needs_a_yes() {
    let bench = Bench::new();
    bench.one(&["branch", "create", "agent"]);
    bench.one(&["--branch", "agent", "snapshot", "create", "v1"]);
    for args in [
        &["branch", "delete", "agent"][..],
        &["branch", "rename", "main", "trunk"],
    ] {
        let error = bench.fails(args, "InUse");
        assert!(error["hint"].as_str().unwrap().contains("--yes"), "{error}");
    }
    assert_eq!(bench.json(&["branch", "list"]).len(), 2);
    bench.one(&["branch", "delete", "agent", "--yes"]);
    bench.one(&["branch", "rename", "main", "trunk", "--yes"]);
    assert_eq!(bench.one(&["branch", "list"])["name"], "trunk");
}

#[test]
fn snapshots_are_read_everywhere_and_written_nowhere() {
    let bench = Bench::new();
    bench.put("/f", "one");
    bench.one(&["snapshot", "create", "v1"]);
    bench.fails(&["snapshot", "create", "v1"], "AlreadyExists");
    bench.put("/f", "two");
    bench.put("/g", "new");
    assert_eq!(bench.cat_on("main@v1", "/f"), b"one");
    assert_eq!(bench.names("main@v1", "/"), ["f"]);
    let old = bench.one(&["--branch", "main@v1", "stat", "/f"]);
    assert_eq!(old["size"], 3);
    let log = bench.json(&["--branch", "main@v1", "log"]);
    assert_eq!(log[0]["op"], "snapshot");
    assert!(log.iter().all(|event| event["path"] != "/g"), "{log:?}");
    bench.one(&["--branch", "main@v1", "export", "out"]);
    assert_eq!(std::fs::read(bench.path("out/f")).unwrap(), b"one");
    let file = bench.file("x", "x");
    for args in [
        &["put", &file, "/x"][..],
        &["mkdir", "/x"],
        &["rm", "/f"],
        &["mv", "/f", "/x"],
        &["cp", "/f", "/x"],
        &["ln", "-s", "f", "/x"],
        &["import", ".", "/x"],
        &["snapshot", "create", "v2"],
    ] {
        let args: Vec<&str> = ["--branch", "main@v1"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let error = bench.fails(&args, "ReadOnly");
        assert_eq!(error["code"], "EROFS");
        assert!(
            error["hint"].as_str().unwrap().contains("--from main@v1"),
            "{error}"
        );
    }
    bench.one(&["branch", "create", "fix", "--from", "main@v1"]);
    bench.put("/f", "three");
    assert_eq!(bench.cat_on("fix", "/f"), b"one");
    let list = bench.json(&["snapshot", "list"]);
    assert_eq!(
        (list.len(), &list[0]["branch"], &list[0]["name"]),
        (1, &"main".into(), &"v1".into())
    );
    let error = bench.fails(&["--branch", "main@v0", "ls"], "NotFound");
    assert!(
        error["hint"]
            .as_str()
            .unwrap()
            .contains("alkfs snapshot list"),
        "{error}"
    );
    bench.one(&["snapshot", "delete", "v1"]);
    bench.fails(&["snapshot", "delete", "v1"], "NotFound");
}

#[test]
fn a_restore_keeps_what_was_there() {
    let bench = Bench::new();
    bench.put("/f", "one");
    bench.one(&["snapshot", "create", "v1"]);
    bench.put("/f", "two");
    let restored = bench.one(&["branch", "restore", "main", "v1"]);
    assert_eq!(bench.cat("/f"), b"one");
    let saved = restored["saved"].as_str().unwrap();
    assert_eq!(bench.cat_on(&format!("main@{saved}"), "/f"), b"two");
    bench.put("/f", "three");
    let restored = bench.one(&["branch", "restore", "main", "v1", "--discard"]);
    assert_eq!(restored["saved"], Value::Null);
    assert_eq!(bench.json(&["snapshot", "list"]).len(), 2);
    bench.fails(&["branch", "restore", "main", "v9"], "NotFound");
    assert_eq!(
        bench.json(&["snapshot", "list"]).len(),
        2,
        "a failed restore saves nothing"
    );
}

#[test]
fn buckets_are_apart() {
    let bench = Bench::new();
    bench.one(&["bucket", "create", "tenant"]);
    bench.fails(&["bucket", "create", "tenant"], "AlreadyExists");
    bench.json_with(&["--bucket", "tenant", "put", "-", "/t"], b"t");
    assert!(bench.names("main", "/").is_empty());
    assert_eq!(bench.one(&["--bucket", "tenant", "ls"])["path"], "/t");
    bench.one(&["bucket", "rename", "tenant", "tenant-2"]);
    let error = bench.fails(&["--bucket", "tenant", "ls"], "NotFound");
    assert!(
        error["hint"].as_str().unwrap().contains("tenant-2"),
        "{error}"
    );
    let names: Vec<_> = bench
        .json(&["bucket", "list"])
        .iter()
        .map(|b| b["name"].clone())
        .collect();
    assert_eq!(names, ["default", "tenant-2"]);
    let error = bench.fails(&["bucket", "delete", "tenant-2"], "InUse");
    assert!(error["hint"].as_str().unwrap().contains("--yes"), "{error}");
    bench.one(&["bucket", "delete", "tenant-2", "--yes"]);
    bench.fails(&["bucket", "delete", "tenant-2", "--yes"], "NotFound");
}

#[test]
fn share_check_counts_what_branches_have_in_common() {
    let bench = Bench::new();
    bench.put("/large", pattern(2_000_000));
    bench.one(&["branch", "create", "agent"]);
    bench.json_with(&["--branch", "agent", "put", "-", "/own"], &pattern(1000));
    let records = bench.json(&["share-check"]);
    let [main, agent, sum] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(
        (&main["tree"], &main["files"], &main["own"]),
        (&"main".into(), &1.into(), &0.into())
    );
    assert_eq!(
        (&agent["files"], &agent["shared_files"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&agent["shared"], &agent["own"]),
        (&2_000_000.into(), &1000.into())
    );
    assert_eq!(
        (&sum["apart"], &sum["stored"]),
        (&4_001_000.into(), &2_001_000.into())
    );
    assert_eq!(bench.json(&["share-check", "agent"])[0]["shared"], 0);
    bench.fails(&["share-check", "main", "nobody"], "NotFound");
}
