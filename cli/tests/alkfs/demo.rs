use std::path::Path;

use serde_json::Value;

use crate::bench::{Bench, pattern};

fn sources(bench: &Bench) -> String {
    for n in 0..20 {
        bench.file(&format!("project/src/{n}.rs"), format!("fn f{n}() {{}}\n"));
    }
    bench.file("project/data.bin", pattern(300_000));
    bench.file("project/target/left-out", "x");
    bench.text("project")
}

fn check(records: &[Value]) -> &Value {
    let checks: Vec<_> = records.iter().filter(|r| r["check"].is_string()).collect();
    assert!(checks.len() >= 15, "{checks:?}");
    assert!(checks.iter().all(|check| check["ok"] == true), "{checks:?}");
    let figures = records.iter().find(|r| r["step"] == "figures").unwrap();
    assert_eq!(figures["files"], 21);
    assert_eq!(figures["large_bytes"], 8 << 20);
    assert!(
        figures["edit_grown"].as_u64().unwrap() < 1 << 19,
        "{figures}"
    );
    records.last().unwrap()
}

#[test]
fn the_demo_checks_itself_and_cleans_up() {
    let bench = Bench::without_store();
    let project = sources(&bench);
    let records = bench.json(&["demo", &project, "--large", "8"]);
    let end = check(&records);
    assert_eq!(end["kept"], false);
    assert!(!Path::new(end["store"].as_str().unwrap()).exists());
    let human = bench.run(&["demo", &project, "--large", "1"]);
    assert_eq!((human.status, human.stderr.as_str()), (0, ""));
    assert!(
        human.text().contains("All checks passed."),
        "{}",
        human.text()
    );
    bench.fails(&["demo", "missing"], "NotFound");
}

#[test]
fn the_demo_uses_a_bucket_of_its_own_in_a_given_store() {
    let bench = Bench::new();
    bench.put("/mine", "stays");
    let project = sources(&bench);
    for bucket in ["demo", "demo-2"] {
        let args = ["--store", ".alkfs", "demo", &project, "--large", "8"];
        let records = bench.json(&args);
        assert_eq!(check(&records)["bucket"], bucket);
    }
    assert_eq!(bench.names("main", "/"), ["mine"]);
    let seen = bench.json(&[
        "--bucket",
        "demo",
        "--branch",
        "agent-b",
        "ls",
        "/agent-b-notes",
    ]);
    assert_eq!(seen.len(), 3);
    assert_eq!(bench.one(&["fsck"])["ok"], true);
}

#[test]
fn a_kept_store_can_be_looked_at() {
    let bench = Bench::without_store();
    let project = sources(&bench);
    let records = bench.json(&["demo", &project, "--large", "8", "--keep"]);
    let end = check(&records);
    let store = end["store"].as_str().unwrap();
    let log = bench.json(&["--store", store, "--branch", "agent-a", "log"]);
    assert!(log.iter().any(|event| event["op"] == "rename"), "{log:?}");
    std::fs::remove_dir_all(Path::new(store).parent().unwrap()).unwrap();
}
