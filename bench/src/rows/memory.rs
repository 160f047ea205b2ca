//! The peak of resident memory of processes that do one thing.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use alknet_fs::{ImportOptions, OpenOptions, Task};
use anyhow::{Context as _, Result, ensure};

use crate::data;
use crate::fixtures::{new_store, source_tree};
use crate::harness::{Bench, Times, Unit};

const BLOCK: usize = 1 << 20;
const LIMIT: f64 = (100 << 20) as f64;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.pick(3, 1);
    let tree = source_tree(bench)?;
    let len = bench.pick(1_u64 << 30, 128 << 20);
    let (mut of_import, mut of_stream) = <(Times, Times)>::default();
    for _ in bench.rounds("peak memory", rounds) {
        let dir = bench.dir()?;
        let mut import = child("memory-of-import")?;
        import.arg(&tree.path).arg(dir.join("import"));
        of_import.push(peak_of(import)?);
        let mut stream = child("memory-of-stream")?;
        stream.arg(len.to_string()).arg(dir.join("stream"));
        of_stream.push(peak_of(stream)?);
    }
    let work = format!("resident memory, import of {} files", tree.files);
    bench.value(work, Unit::Bytes, &of_import, LIMIT);
    bench.value(
        "resident memory, 1 GiB in and out",
        Unit::Bytes,
        &of_stream,
        LIMIT,
    );
    Ok(())
}

fn child(name: &str) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(name);
    Ok(command)
}

fn peak_of(mut child: Command) -> Result<f64> {
    let output = child.output().context("the program cannot run itself")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{child:?}: {}", said.trim());
    let text = String::from_utf8(output.stdout)?;
    Ok(text.trim().parse()?)
}

/// Imports a tree into a new store and prints the peak.
pub(crate) fn import(tree: &Path, store: &Path) -> Result<()> {
    let main = new_store(store)?;
    let report = main.import(tree, "/tree", &ImportOptions::new(), &Task::new())?;
    ensure!(report.files > 0 && report.files_read == report.files);
    print_peak()
}

/// Streams bytes into a new store and out again and prints the peak.
pub(crate) fn stream(len: u64, store: &Path) -> Result<()> {
    let main = new_store(store)?;
    let session = main.open_session("/file", &OpenOptions::new())?;
    let mut block = vec![0; BLOCK];
    for i in 0..len / BLOCK as u64 {
        data::fill(i, &mut block);
        session.append(&block)?;
    }
    let closed = session.close()?;
    let mut reader = main.open("/file")?;
    let mut hasher = blake3::Hasher::new();
    loop {
        match reader.read(&mut block)? {
            0 => break,
            n => hasher.update(&block[..n]),
        };
    }
    ensure!(closed.size == len && hasher.finalize() == *closed.hash.as_bytes());
    print_peak()
}

fn print_peak() -> Result<()> {
    println!("{}", peak()?);
    Ok(())
}

/// Returns the peak of this process's resident memory in bytes.
pub(crate) fn peak() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")
        .context("the peak of memory is read from /proc, which this system lacks")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|value| value.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("/proc/self/status has no VmHWM")?.parse()?;
    Ok(kib * 1024)
}
