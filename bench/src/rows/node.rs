//! The Node SDK.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::data;
use crate::fixtures::new_store;
use crate::harness::{Bench, Times, settle};
use crate::rows::sdk::{self, Own, Worker};

/// Names the folder whose modules are the SDK and its competitor; `cargo xtask bench` sets it.
const NODE: &str = "ALKFS_BENCH_NODE";

const OWN: [Own; 4] = [
    Own {
        work: "readFileSync of 4 KiB",
        ask: "read",
        baseline: "`fs.readFileSync`",
        ask_baseline: "plain_read",
        target: 1.0,
    },
    Own {
        work: "statSync",
        ask: "stat",
        baseline: "`fs.statSync`",
        ask_baseline: "plain_stat",
        target: 1.5,
    },
    Own {
        work: "promises.readFile of 4 KiB",
        ask: "read_later",
        baseline: "`fs.promises.readFile`",
        ask_baseline: "plain_read_later",
        target: 0.7,
    },
    Own {
        work: "promises.stat",
        ask: "stat_later",
        baseline: "`fs.promises.stat`",
        ask_baseline: "plain_stat_later",
        target: 0.7,
    },
];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = env::var_os(NODE).with_context(|| {
        format!("run `cargo xtask bench`, or name a folder with the SDK by {NODE}")
    })?;
    let script = Path::new(&folder).join("worker.mjs");
    let mut worker = Worker::start("Node", Command::new("node").arg(script))?;
    sdk::calls(bench, &mut worker, &OWN)?;
    writes(bench, &mut worker)?;
    sdk::large(bench, &mut worker, "`fs.readSync` of 1 MiB")?;
    sdk::puts(bench, &mut worker, "the Node SDK of AgentFS 0.6.4")
}

/// `promises.writeFile` of 4 KiB, one after the other, which of the SDK are durable.
fn writes(bench: &mut Bench, worker: &mut Worker) -> Result<()> {
    let (rounds, count) = bench.pick((15, 100), (3, 30));
    let dir = bench.dir()?;
    let store = dir.join("store");
    new_store(&store)?;
    let plain = dir.join("plain");
    fs::create_dir(&plain)?;
    worker.tell("open", &store)?;
    worker.tell("chdir", &plain)?;
    let asked = ["write_later", "plain_write_durably", "plain_write_later"];
    let mut times = <[Times; 3]>::default();
    for round in bench.rounds("writes", rounds) {
        fs::write(
            dir.join("data"),
            data::bytes(200 + round as u64, count * 4096),
        )?;
        worker.tell("load", dir.join("data"))?;
        settle()?;
        for (what, times) in asked.iter().zip(&mut times) {
            times.push(worker.time(what, json!(round))? / count as f64);
        }
    }
    let [ours, durable, plain] = &times;
    let work = "promises.writeFile of 4 KiB, durable";
    let baseline = "`fs.promises`: write, fsync, rename";
    bench.compare(work, ours, baseline, durable, 0.7);
    let baseline = "`fs.promises.writeFile`, which a power cut undoes";
    bench.compare(work, ours, baseline, plain, None);
    Ok(())
}
