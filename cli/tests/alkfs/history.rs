use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::bench::{Bench, Ran, pattern};

fn differ(bench: &Bench, args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = ["--json", "diff"].iter().chain(args).copied().collect();
    let ran = bench.run(&args);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""), "{args:?}");
    ran.records()
}

#[test]
fn diff_lists_every_kind_of_change() {
    let bench = Bench::new();
    bench.put("/edited", "one\ntwo\nthree\n");
    bench.put("/deleted", "gone");
    bench.put("/moved", "moved");
    bench.put("/binary", [0, 1, 2]);
    bench.one(&["branch", "create", "agent"]);
    assert_eq!(bench.json(&["diff", "main", "agent"])[0]["added"], 0);
    let on = |args: &[&str], input: &[u8]| {
        let args: Vec<&str> = ["--branch", "agent"].iter().chain(args).copied().collect();
        bench.json_with(&args, input);
    };
    on(&["put", "-", "/edited"], b"one\n2\nthree\n");
    on(&["put", "-", "/binary"], &[0, 1, 2, 3]);
    on(&["put", "-", "/added"], b"12345");
    on(&["rm", "/deleted"], b"");
    on(&["mv", "/moved", "/moved-here"], b"");
    let records = differ(&bench, &["main", "agent", "--content"]);
    let found: Vec<_> = records[..5]
        .iter()
        .map(|r| (r["change"].as_str().unwrap(), r["path"].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ("added", "/added"),
            ("modified", "/binary"),
            ("deleted", "/deleted"),
            ("modified", "/edited"),
            ("renamed", "/moved-here"),
        ]
    );
    assert_eq!(records[4]["from"], "/moved");
    assert_eq!(
        (&records[0]["new_size"], &records[2]["old_size"]),
        (&5.into(), &4.into())
    );
    let text = records[3]["text"].as_str().unwrap();
    assert!(
        text.contains("-two\n+2\n") && text.contains("--- a/edited\n+++ b/edited"),
        "{text}"
    );
    assert_eq!(records[1]["text"], "Binary files differ\n");
    let sum = &records[5];
    assert_eq!(
        (
            &sum["added"],
            &sum["modified"],
            &sum["deleted"],
            &sum["renamed"]
        ),
        (&1.into(), &2.into(), &1.into(), &1.into())
    );
    let only_sum = differ(&bench, &["main", "agent", "--stat"]);
    assert_eq!((only_sum.len(), &only_sum[0]), (1, sum));
    assert_eq!(differ(&bench, &["main", "agent", "/edited"]).len(), 2);
    bench.fails(&["diff", "main", "nobody"], "NotFound");
    assert_eq!(bench.run(&["diff", "main"]).status, 2);
    let human = bench.run(&["diff", "main", "agent", "--content"]);
    assert!(
        human.text().contains("R /moved -> /moved-here"),
        "{human:?}"
    );
    assert!(!human.stdout.contains(&0x1b), "a pipe gets no colours");
}

#[test]
fn log_filters_by_path_glob_and_branch() {
    let bench = Bench::new();
    bench.one(&["mkdir", "/src"]);
    bench.json_with(&["--author", "ada", "put", "-", "/src/a.rs"], b"a");
    bench.put("/notes.txt", "n");
    bench.one(&["branch", "create", "agent"]);
    bench.json_with(&["--branch", "agent", "put", "-", "/own"], b"o");
    let log = bench.json(&["log"]);
    assert_eq!(
        log[0]["path"], "/notes.txt",
        "the newest comes first: {log:?}"
    );
    let a = log
        .iter()
        .find(|event| event["path"] == "/src/a.rs")
        .unwrap();
    assert_eq!(
        (&a["author"], &a["op"], &a["size"]),
        (&"ada".into(), &"create".into(), &1.into())
    );
    assert!(a["new"].is_string() && a["cursor"].is_u64() && a["session"].is_u64());
    let at: jiff::Timestamp = a["at"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(at).as_secs() < 600);
    let paths = |args: &[&str]| -> Vec<String> {
        let args: Vec<&str> = ["log"].iter().chain(args).copied().collect();
        let path = |event: &Value| event["path"].as_str().unwrap_or("-").to_owned();
        bench.json(&args).iter().map(path).collect()
    };
    assert_eq!(paths(&["/src"]), ["/src/a.rs", "/src"]);
    assert_eq!(paths(&["--glob", "*.rs"]), ["/src/a.rs"]);
    assert_eq!(paths(&["-n", "1"]), ["/notes.txt"]);
    assert_eq!(paths(&["--all-branches", "-n", "2"]), ["/own", "-"]);
    bench.fails(&["--branch", "nobody", "log"], "NotFound");
    bench.fails(&["log", "--glob", "a{b"], "InvalidInput");
}

#[test]
fn watch_sees_the_writes_of_another_process_and_resumes() {
    let bench = Bench::new();
    let start = bench.json(&["log", "--all-branches"]);
    let cursor = start
        .first()
        .map_or(0, |event| event["cursor"].as_u64().unwrap())
        .to_string();
    let args = [
        "--json",
        "watch",
        "--after",
        &cursor,
        "--timeout",
        "120",
        "--count",
        "3",
    ];
    let mut child = bench.spawn(&args);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    bench.put("/one", pattern(10));
    let first = next();
    assert_eq!(
        (&first["op"], &first["path"], &first["size"]),
        (&"create".into(), &"/one".into(), &10.into())
    );
    bench.put("/one", pattern(20));
    assert_eq!(next()["op"], "modify");
    bench.one(&["branch", "create", "agent"]);
    bench.json_with(&["--branch", "agent", "put", "-", "/unseen"], b"x");
    bench.one(&["rm", "/one"]);
    let last = next();
    assert_eq!(
        (&last["op"], &last["branch"]),
        (&"remove".into(), &"main".into())
    );
    assert_eq!(Ran::of(child).status, 0, "it ends after --count events");

    let after = first["cursor"].to_string();
    let again = bench.json(&["watch", "--after", &after, "--count", "2"]);
    assert_eq!((&again[0]["op"], &again[1]), (&"modify".into(), &last));
    let glob = [
        "watch",
        "--after",
        "0",
        "--glob",
        "uns*",
        "--all-branches",
        "-n",
        "1",
    ];
    assert_eq!(bench.one(&glob)["branch"], "agent");
}

#[test]
fn paths_that_never_were_are_named() {
    let bench = Bench::new();
    bench.put("/there", "x");
    bench.put("/gone", "x");
    bench.one(&["rm", "/gone"]);
    bench.one(&["branch", "create", "agent"]);
    for args in [
        &["log", "/nope"][..],
        &["diff", "main", "agent", "/nope"],
        &["watch", "/nope", "--timeout", "0"],
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
        assert!(
            ran.stderr.contains("there is no /nope"),
            "{args:?}: {ran:?}"
        );
        let ran = bench.run(&[&["--json"], args].concat());
        let warning: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert!(warning["warning"].as_str().unwrap().contains("/nope"));
    }
    for args in [
        &["log", "/gone"][..],
        &["log", "/there"],
        &["diff", "main", "agent", "/there"],
        &["watch", "/there", "--timeout", "0"],
    ] {
        bench.json(args);
    }
}

#[test]
fn watch_tells_where_the_commits_of_a_parent_are() {
    let bench = Bench::new();
    bench.one(&["branch", "create", "live"]);
    bench.one(&["branch", "create", "pinned", "--pinned"]);
    let said = |args: &[&str]| {
        bench
            .run(&[args, &["watch", "--timeout", "0"]].concat())
            .stderr
    };
    assert!(said(&["--branch", "live"]).contains("--all-branches"));
    assert!(!said(&["--branch", "pinned"]).contains("--all-branches"));
    assert!(!said(&[]).contains("--all-branches"));
}

#[test]
fn watch_ends_in_time() {
    let bench = Bench::new();
    assert!(bench.json(&["watch", "--timeout", "0.1"]).is_empty());
    let ran = bench.run(&["--json", "watch", "--timeout", "100ms", "--count", "1"]);
    assert_eq!((ran.status, ran.stdout.len()), (1, 0), "no event came");
    bench.fails(
        &["--branch", "nobody", "watch", "--timeout", "0"],
        "NotFound",
    );
    assert_eq!(bench.run(&["watch", "--timeout", "soon"]).status, 2);
}
