use crate::bench::{Bench, pattern};

#[test]
fn mkfs_makes_a_store_once() {
    let bench = Bench::without_store();
    let error = bench.fails(&["ls"], "NotAStore");
    assert!(
        error["hint"].as_str().unwrap().contains("alkfs mkfs"),
        "{error}"
    );
    let made = bench.one(&["mkfs", "here"]);
    assert_eq!(
        (&made["bucket"], &made["branch"]),
        (&"default".into(), &"main".into())
    );
    assert!(bench.path("here/store.db").exists());
    bench.fails(&["mkfs", "here"], "AlreadyExists");
    bench.file("full/x", "x");
    bench.fails(&["mkfs", "full"], "NotEmpty");
    assert!(bench.json(&["--store", "here", "ls"]).is_empty());
    let mut command = bench.command(&["--json", "ls"]);
    let ran = command.env("ALKFS_STORE", "here").output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
}

#[test]
fn fsck_gc_and_stats_agree() {
    let bench = Bench::new();
    for n in 0..3 {
        bench.put(&format!("/{n}"), pattern(200_000 + n));
    }
    let before = bench.one(&["stats"]);
    assert_eq!(
        (&before["contents"], &before["file_contents"]),
        (&3.into(), &3.into())
    );
    assert_eq!(before["content_bytes"], 600_003);
    let report = bench.one(&["fsck"]);
    assert_eq!(
        (&report["ok"], &report["bytes"]),
        (&true.into(), &600_003.into())
    );
    assert_eq!(bench.one(&["fsck", "--fast"])["ok"], true);
    bench.json(&["rm", "/1", "/2"]);
    assert_eq!(
        bench.one(&["gc"])["contents"],
        0,
        "the grace period spares them"
    );
    let dry = bench.one(&["gc", "--grace", "0", "--dry-run"]);
    assert_eq!(
        (&dry["dry_run"], &dry["contents"]),
        (&true.into(), &2.into())
    );
    assert_eq!(bench.one(&["stats"])["contents"], 3);
    assert_eq!(bench.one(&["gc", "--grace", "0s"])["contents"], 2);
    let after = bench.one(&["stats"]);
    assert_eq!(
        (&after["contents"], &after["content_bytes"]),
        (&1.into(), &200_000.into())
    );
    assert!(bench.cat("/0") == pattern(200_000));
    assert_eq!(bench.one(&["fsck"])["problems"], 0);
    assert_eq!(bench.run(&["gc", "--grace", "later"]).status, 2);
}

#[test]
fn compaction_gives_space_back() {
    let bench = Bench::new();
    for n in 0..300 {
        bench.file(&format!("src/{n}"), pattern(8000 + n));
    }
    bench.one(&["import", "src", "/src"]);
    bench.one(&["rm", "-r", "/src"]);
    bench.put("/kept", "kept");
    let report = bench.one(&["gc", "--grace", "0"]);
    assert!(report["compacted_bytes"].is_null(), "{report}");
    let before = bench.one(&["stats"]);
    assert!(before["free_bytes"].as_u64() > Some(2_000_000), "{before}");
    let shown = bench.run(&["stats"]);
    assert!(shown.text().contains("gc --compact"), "{shown:?}");
    let report = bench.one(&["gc", "--grace", "0", "--compact"]);
    assert!(
        report["compacted_bytes"].as_u64() > Some(2_000_000),
        "{report}"
    );
    let after = bench.one(&["stats"]);
    assert_eq!(after["free_bytes"], 0);
    let bytes = |stats: &serde_json::Value| stats["database_bytes"].as_u64().unwrap();
    assert!(
        bytes(&after) + 2_000_000 < bytes(&before),
        "{before} {after}"
    );
    assert_eq!(bench.cat("/kept"), b"kept");
    assert_eq!(bench.one(&["fsck"])["ok"], true);
    assert_eq!(bench.run(&["gc", "--compact", "--dry-run"]).status, 2);
}

#[test]
fn schedules_take_days_and_say_what_they_take() {
    let bench = Bench::new();
    let set = [
        "gc",
        "--schedule",
        "@every 6h",
        "--grace",
        "7d",
        "--keep-events-for",
        "90d",
    ];
    let schedule = bench.one(&set);
    assert_eq!(schedule["schedule"], "@every 6h");
    let next: jiff::Timestamp = schedule["next"].as_str().unwrap().parse().unwrap();
    assert!(next > jiff::Timestamp::now());
    bench.one(&["gc", "--grace", "1w"]);
    for when in ["@daily", "soon", "@every 5w"] {
        let error = bench.fails(&["gc", "--schedule", when], "InvalidInput");
        let hint = error["hint"].as_str().unwrap();
        assert!(
            hint.contains("@every 30m") && hint.contains("0 3 * * *"),
            "{error}"
        );
    }
}

#[test]
fn hints_fit_what_is_there() {
    let bench = Bench::new();
    bench.file("other/file", "x");
    let hint = |store: &str| {
        let error = bench.fails(&["--store", store, "ls"], "NotAStore");
        error["hint"].as_str().unwrap().to_owned()
    };
    assert!(hint("missing").contains("--store missing mkfs"));
    assert!(!hint("other").contains("mkfs"));
    std::fs::remove_file(bench.path(".alkfs/store.db")).unwrap();
    assert!(hint(".alkfs").contains("backup"));
}

#[test]
fn a_foreign_store_is_refused() {
    let bench = Bench::without_store();
    bench.file(
        ".alkfs/store.db",
        "this is no database, and it is long enough to tell",
    );
    for args in [&["ls"][..], &["fsck"], &["stats"], &["gc"]] {
        bench.fails(args, "NotAStore");
    }
}
