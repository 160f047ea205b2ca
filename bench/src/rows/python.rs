//! The Python SDK.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::harness::Bench;
use crate::rows::sdk::{self, Own, Worker};

/// Names the interpreter that has the SDK and its competitor; `cargo xtask bench` sets it.
const PYTHON: &str = "ALKFS_BENCH_PYTHON";

const OWN: [Own; 2] = [
    Own {
        work: "read 4 KiB, one call",
        ask: "read",
        baseline: "`open().read()`",
        ask_baseline: "plain_read",
        target: 1.0,
    },
    Own {
        work: "stat, one call",
        ask: "stat",
        baseline: "`os.stat`",
        ask_baseline: "plain_stat",
        target: 1.5,
    },
];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let python = env::var_os(PYTHON).with_context(|| {
        format!("run `cargo xtask bench`, or name a Python with the SDK by {PYTHON}")
    })?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/worker.py");
    let mut worker = Worker::start("Python", Command::new(python).arg(script))?;
    sdk::calls(bench, &mut worker, &OWN)?;
    sdk::large(bench, &mut worker, "`open().read(1 MiB)`")?;
    sdk::puts(bench, &mut worker, "the Python SDK of AgentFS 0.6.4")
}
