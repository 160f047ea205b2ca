use std::io::Write;
use std::process::Child;

use serde_json::Value;

use crate::bench::{Bench, Ran, eventually, pattern};

/// Starts a `put` that has staged a MiB and waits for more.
fn half_written(bench: &Bench, args: &[&str]) -> (Child, Value) {
    let staged = |bench: &Bench| bench.one(&["stats"])["staged_bytes"].as_u64().unwrap();
    let before = staged(bench);
    let mut child = bench.spawn(&[&["put", "-"], args].concat());
    let input = child.stdin.as_mut().unwrap();
    input.write_all(&pattern(1 << 20)).unwrap();
    input.flush().unwrap();
    eventually("the session stages a MiB", || {
        staged(bench) >= before + (1 << 20)
    });
    let sessions = bench.json(&["sessions", "list"]);
    (child, sessions.last().unwrap().clone())
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_crashed_writer_is_listed_and_committed() {
    let bench = Bench::new();
    bench.put("/f", "old");
    let (child, session) = half_written(&bench, &["/f"]);
    assert_eq!(
        (&session["path"], &session["alive"]),
        (&"/f".into(), &true.into())
    );
    let id = session["id"].to_string();
    bench.fails(&["sessions", "close", &id], "Locked");
    bench.fails(&["sessions", "abort", &id], "Locked");
    kill(child);
    assert_eq!(bench.one(&["sessions", "list"])["alive"], false);
    assert_eq!(bench.cat("/f"), b"old", "a crash changes nothing");
    let error = bench.fails(&["sessions", "close", &id], "InUse");
    let said = |key: &str| error[key].as_str().unwrap();
    assert!(said("message").contains("1.00 MiB"), "{error}");
    assert!(said("hint").contains("--yes"), "{error}");
    let closed = bench.one(&["sessions", "close", &id, "--yes"]);
    assert_eq!(
        (&closed["path"], &closed["size"]),
        (&"/f".into(), &(1 << 20).into())
    );
    assert!(bench.cat("/f") == pattern(1 << 20));
    assert!(bench.json(&["sessions", "list"]).is_empty());
    let error = bench.fails(&["sessions", "close", &id, "--yes"], "NotFound");
    assert!(
        error["hint"].as_str().unwrap().contains("sessions list"),
        "{error}"
    );
    bench.fails(&["sessions", "abort", "999"], "NotFound");
}

#[test]
fn what_a_slow_input_gave_is_staged_while_more_is_waited_for() {
    let bench = Bench::new();
    bench.put("/f", "an old version");
    let mut child = bench.spawn(&["put", "--at", "3", "-", "/f"]);
    let mut input = child.stdin.take().unwrap();
    let staged = |len: u64| {
        eventually("the session stages what came", || {
            let sessions = bench.json(&["sessions", "list"]);
            sessions.first().is_some_and(|s| s["staged"] == len)
        });
    };
    input.write_all(b"new").unwrap();
    staged(3);
    input.write_all(b" and more").unwrap();
    staged(12);
    let session = bench.one(&["sessions", "list"]);
    assert_eq!(session["base"], 14);
    let time = session["touched"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.len() == 30, "{time}");
    kill(child);
    drop(input);
    let id = session["id"].to_string();
    bench.fails(&["sessions", "close", &id], "InUse");
    assert_eq!(bench.one(&["sessions", "list"])["alive"], false);
    let table = bench.run(&["sessions", "list"]);
    assert!(table.text().contains("12 B"), "{table:?}");
    bench.one(&["sessions", "close", &id, "--yes"]);
    assert_eq!(bench.cat("/f"), b"an new and more");
}

#[test]
fn clean_removes_dead_sessions_only() {
    let bench = Bench::new();
    let (dead, _) = half_written(&bench, &["/dead"]);
    kill(dead);
    let (alive, session) = half_written(&bench, &["/alive"]);
    let cleaned = bench.json(&["sessions", "clean"]);
    assert_eq!((cleaned.len(), &cleaned[0]["path"]), (1, &"/dead".into()));
    assert_eq!(bench.one(&["sessions", "list"])["id"], session["id"]);
    let ran = Ran::of(alive);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(bench.names("main", "/"), ["alive"]);
    assert!(bench.json(&["sessions", "clean"]).is_empty());
}

#[test]
fn an_exclusive_writer_keeps_others_out() {
    let bench = Bench::new();
    let (child, session) = half_written(&bench, &["--author", "ada", "-x", "/f"]);
    assert_eq!(
        (&session["exclusive"], &session["owner"]),
        (&true.into(), &"ada".into())
    );
    let error = bench.fails(&["put", "-x", "-", "/f"], "Locked");
    assert_eq!(error["code"], "EBUSY");
    assert!(
        error["message"].as_str().unwrap().contains("ada"),
        "{error}"
    );
    bench.one(&["sessions", "abort", &session["id"].to_string(), "--force"]);
    let ran = Ran::of(child);
    assert_eq!(ran.status, 1, "its session is gone: {ran:?}");
    bench.put("/f", "free again");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_trace() {
    let bench = Bench::new();
    let (child, _) = half_written(&bench, &["/f"]);
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.unwrap().success());
    let mut child = child;
    // The input stays open: only the signal can end it.
    let input = child.stdin.take();
    let ran = Ran::of(child);
    drop(input);
    assert_eq!(ran.status, 130, "{ran:?}");
    assert!(bench.json(&["sessions", "list"]).is_empty());
    assert!(bench.names("main", "/").is_empty());
}
