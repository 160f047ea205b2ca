//! What the rows of an SDK have in common: per call beside the engine and beside the language's own
//! files, 64 MiB beside the engine, and 2,000 durable files beside the SDK of AgentFS.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use alknet_fs::{Branch, OpenOptions};
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::json;

use crate::data;
use crate::fixtures::{PER_DIR, dir_at_depth_2, new_store, open_main, path_at_depth_3, tree_of};
use crate::harness::{Bench, Times, settle};

/// The files of a round.
const SLICE: usize = 500;

/// What a call may cost beyond its share of the engine's time.
const PER_CALL: f64 = 2e-6;

const BLOCK: usize = 1 << 20;

/// A process of another language that does what it is asked and tells how long it took.
pub(crate) struct Worker {
    language: &'static str,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    pub(crate) fn start(language: &'static str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{language} cannot start"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        Ok(Self {
            language,
            child,
            stdin: stdin.context("the process has no input")?,
            stdout: BufReader::new(stdout.context("the process has no output")?),
        })
    }

    /// Has something done that takes no time of interest.
    pub(crate) fn tell(&mut self, what: &str, with: impl Serialize) -> Result<()> {
        self.ask::<()>(what, with)
    }

    /// Has something done and returns the seconds it took.
    pub(crate) fn time(&mut self, what: &str, with: impl Serialize) -> Result<f64> {
        self.ask(what, with)
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &mut self,
        what: &str,
        with: impl Serialize,
    ) -> Result<T> {
        writeln!(self.stdin, "{}", json!({ "do": what, "with": with }))?;
        self.stdin.flush()?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "{} failed at `{what}`", self.language);
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A kind of work that the SDK and the language itself do.
pub(crate) struct Own {
    pub(crate) work: &'static str,
    /// What to ask for.
    pub(crate) ask: &'static str,
    pub(crate) baseline: &'static str,
    pub(crate) ask_baseline: &'static str,
    pub(crate) target: f64,
}

/// Read, stat and exists on 4 KiB, one call each, warm, at depth 3.
pub(crate) fn calls(bench: &mut Bench, worker: &mut Worker, own: &[Own]) -> Result<()> {
    let (rounds, count) = bench.pick((160, 4000), (16, 1000));
    let dir = bench.dir()?;
    let blocks = data::blocks(1, count);
    let store = dir.join("store");
    tree_of(&new_store(&store)?, &blocks)?;
    // The store closed, so its database holds everything and its write-ahead log nothing.
    let main = open_main(&store)?;
    let plain = dir.join("plain");
    for i in 0..count.div_ceil(PER_DIR) {
        fs::create_dir_all(plain.join(dir_at_depth_2(i)))?;
    }
    for (i, block) in blocks.iter().enumerate() {
        fs::write(plain.join(path_at_depth_3(i)), block)?;
    }
    settle()?;
    worker.tell("open", &store)?;
    worker.tell("chdir", &plain)?;
    let paths: Vec<_> = data::shuffled(count)
        .into_iter()
        .map(path_at_depth_3)
        .collect();
    let works = [
        ("read", "read 4 KiB, one call"),
        ("stat", "stat, one call"),
        ("exists", "exists, one call"),
    ];
    let mut engine = <[Times; 3]>::default();
    let mut sdk = <[Times; 3]>::default();
    let mut owns = vec![<[Times; 2]>::default(); own.len()];
    for round in bench.rounds("calls", rounds) {
        let at = round * SLICE % count;
        let paths = &paths[at..at + SLICE];
        let [read, stat, exists] = &mut engine;
        read.time(SLICE, || {
            each(paths, |path| Ok(main.read(path)?.len() == 4096))
        })?;
        stat.time(SLICE, || {
            each(paths, |path| Ok(main.stat(path)?.size() == 4096))
        })?;
        exists.time(SLICE, || each(paths, |path| Ok(main.exists(path)?)))?;
        let mut ask = |what, times: &mut Times| -> Result<()> {
            times.push(worker.time(what, paths)? / SLICE as f64);
            Ok(())
        };
        for ((what, _), times) in works.iter().zip(&mut sdk) {
            ask(what, times)?;
        }
        for (own, [times, base]) in own.iter().zip(&mut owns) {
            ask(own.ask, times)?;
            ask(own.ask_baseline, base)?;
        }
    }
    for (((_, work), sdk), engine) in works.iter().zip(&sdk).zip(&engine) {
        let limit = 1.5 + PER_CALL / engine.stats().median;
        bench
            .compare(*work, sdk, "the engine", engine, limit)
            .note("the target is 1.5 times the engine's time and 2 µs");
    }
    for (own, [times, base]) in own.iter().zip(&owns) {
        bench.compare(own.work, times, own.baseline, base, own.target);
    }
    Ok(())
}

fn each(paths: &[String], visit: impl Fn(&String) -> Result<bool>) -> Result<()> {
    paths.iter().try_for_each(|path| {
        ensure!(visit(path)?, "{path} is not as it was written");
        Ok(())
    })
}

/// 64 MiB in and out, whole and by blocks.
pub(crate) fn large(bench: &mut Bench, worker: &mut Worker, own: &str) -> Result<()> {
    let (rounds, len) = bench.pick((15, 64 << 20), (3, 8 << 20));
    let dir = bench.dir()?;
    let store = dir.join("store");
    let main = new_store(&store)?;
    worker.tell("open", &store)?;
    let mut data = data::bytes(2, len);
    let file = dir.join("data");
    let [mut put, mut write, mut get, mut read] = <[[Times; 2]; 4]>::default();
    let mut own_read = Times::default();
    for round in bench.rounds("64 MiB", rounds) {
        for (ours, turn) in [(true, 0_u64), (false, 1)] {
            for (whole, kind) in [(true, 0), (false, 2)] {
                // Bytes that the store holds already would not be stored again.
                data[..8].copy_from_slice(&(round as u64 * 4 + turn + kind).to_le_bytes());
                let path = format!("/{round}-{turn}-{kind}");
                // Both turns: what was written before makes the disk slower for a while.
                fs::write(&file, &data)?;
                if ours {
                    worker.tell("load", &file)?;
                }
                settle()?;
                match (ours, whole) {
                    (true, true) => put[0].push(worker.time("write_whole", &path)?),
                    (true, false) => write[0].push(worker.time("write_blocks", &path)?),
                    (false, true) => put[1].time(1, || Ok(main.write(&path, data.as_slice())?))?,
                    (false, false) => write[1].time(1, || write_blocks(&main, &path, &data))?,
                }
                ensure!(main.stat(&path)?.size() == len as u64);
                if ours {
                    get[0].push(worker.time("read_whole", &path)?);
                    read[0].push(worker.time("read_blocks", &path)?);
                    own_read.push(worker.time("plain_read_blocks", &file)?);
                } else {
                    let found = get[1].time(1, || Ok(main.read(&path)?))?;
                    ensure!(found == data, "{path} differs");
                    read[1].time(1, || read_blocks(&main, &path))?;
                }
            }
        }
    }
    let [one, blocks] = ["one call", "1 MiB at a time"];
    let rows = [
        (format!("write of 64 MiB, {one}"), &put, Some(1.2)),
        (format!("write of 64 MiB, {blocks}"), &write, Some(1.2)),
        (format!("read of 64 MiB, {one}"), &get, Some(1.2)),
        (format!("read of 64 MiB, {blocks}"), &read, Some(1.2)),
    ];
    for (work, [sdk, engine], target) in rows {
        bench.compare(work, sdk, "the engine", engine, target);
    }
    let work = format!("read of 64 MiB, {blocks}");
    bench.compare(work, &read[0], own, &own_read, None);
    Ok(())
}

fn write_blocks(main: &Branch, path: &str, data: &[u8]) -> Result<()> {
    let session = main.open_session(path, &OpenOptions::new().truncate(true))?;
    for block in data.chunks(BLOCK) {
        session.append(block)?;
    }
    session.close()?;
    Ok(())
}

/// Reads every block into the same memory. Python's `read` returns new memory each time, which its
/// allocator takes from the same place.
fn read_blocks(main: &Branch, path: &str) -> Result<()> {
    let reader = main.open(path)?;
    let mut at = 0;
    let mut block = vec![0; BLOCK];
    loop {
        match reader.read_at(at, &mut block)? {
            0 => return Ok(()),
            n => at += n as u64,
        }
    }
}

/// 2,000 durable files of 4 KiB.
pub(crate) fn puts(bench: &mut Bench, worker: &mut Worker, baseline: &str) -> Result<()> {
    let (rounds, count) = bench.pick((5, 2000), (2, 200));
    let asked = ["put", "put_batch", "put_agentfs"];
    let mut times = <[Times; 3]>::default();
    for round in bench.rounds("durable files", rounds) {
        let dir = bench.dir()?;
        fs::write(
            dir.join("data"),
            data::bytes(100 + round as u64, count * 4096),
        )?;
        worker.tell("load", dir.join("data"))?;
        for (what, times) in asked.iter().zip(&mut times) {
            settle()?;
            times.push(worker.time(what, dir.join(what))? / count as f64);
        }
    }
    let [each, batch, agentfs] = &times;
    for (way, times) in [("in one batch", batch), ("a commit each", each)] {
        let work = format!("durable put of 4 KiB, 2,000 files {way}");
        bench
            .compare(work, times, baseline, agentfs, 0.1)
            .note("the target is to be 10 times as fast");
    }
    Ok(())
}
