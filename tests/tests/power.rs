//! The power is cut in the middle of work, dozens of times; see `alknet_fs_tests::power`.
//!
//! Needs root, `unshare`, `mkfs.ext4` and loop devices; where something is missing, the tests say
//! so and do nothing.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::{Command, Stdio};
use std::time::Instant;

use alknet_fs::Durability;
use alknet_fs_tests::power::{CANNOT_MOUNT, Plan, Report};
use alknet_fs_tests::workload::{scaled, seed};

fn cut(test: &str, cuts: u64, durability: Durability) -> Option<Report> {
    let skip = |reason: &str| {
        eprintln!("{test}: SKIPPED, no power was cut: {reason}");
        None
    };
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan {
        dir: dir.path().to_owned(),
        seed: seed(test),
        cuts,
        durability,
    };
    let started = Instant::now();
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(env!("CARGO_BIN_EXE_alknet-fs-worker"))
        .arg("power")
        .arg(serde_json::to_string(&plan).unwrap())
        .stderr(Stdio::piped())
        .output();
    let output = match output {
        Err(e) => return skip(&format!("unshare: {e}")),
        Ok(output) => output,
    };
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    match output.status.code() {
        Some(CANNOT_MOUNT) => return skip(out.trim()),
        Some(1) if err.starts_with("unshare:") => return skip(err.trim()),
        _ => assert!(output.status.success(), "{err}"),
    }
    let report: Report = serde_json::from_str(out.trim()).unwrap();
    eprintln!("{test}: {report:?} in {:?}", started.elapsed());
    assert_eq!(report.cuts, cuts);
    Some(report)
}

#[test]
fn nothing_acknowledged_is_lost() {
    if let Some(report) = cut("power", scaled(48), Durability::Full) {
        assert_eq!(report.lost, 0);
        assert!(
            report.acknowledged > report.cuts && report.under_way > 0,
            "{report:?}"
        );
    }
}

/// With relaxed durability the same cuts lose commits: so the test above can fail. What is left is
/// sound, and at one point of its history.
#[test]
fn relaxed_commits_are_lost_whole_and_in_order() {
    if let Some(report) = cut("relaxed power", scaled(8), Durability::Relaxed) {
        assert!(report.losing_cuts > 0, "{report:?}");
    }
}
