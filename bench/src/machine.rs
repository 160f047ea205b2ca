//! What the measurements were made on.

use std::path::Path;
use std::process::Command;
use std::{fs, thread};

use anyhow::{Context as _, Result};

/// The machine, the program and the moment.
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory: String,
    pub(crate) kernel: String,
    pub(crate) filesystem: String,
    pub(crate) rustc: &'static str,
    pub(crate) sqlite: &'static str,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Machine {
    /// Looks at the machine and at the filesystem that a directory is on.
    pub(crate) fn look(scratch: &Path) -> Result<Self> {
        let scratch = fs::canonicalize(scratch)
            .with_context(|| format!("{} cannot be used", scratch.display()))?;
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name"),
            cores: thread::available_parallelism()?.get(),
            memory: memory(),
            kernel: said("uname", &["-sr"]),
            filesystem: filesystem(&scratch),
            rustc: env!("BENCH_RUSTC"),
            sqlite: rusqlite::version(),
            commit: commit(),
            date: jiff::Zoned::now().date().to_string(),
        })
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = output.ok().filter(|output| output.status.success());
    text.map_or_else(unknown, |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// Returns the value of the first line `name : value`.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find(|(key, _)| key.trim() == name);
    value.map_or_else(unknown, |(_, value)| value.trim().to_owned())
}

fn memory() -> String {
    let total = field("/proc/meminfo", "MemTotal");
    let kib = total.split(' ').next().and_then(|n| n.parse::<u64>().ok());
    kib.map_or_else(unknown, |kib| format!("{} GiB", (kib + (1 << 19)) >> 20))
}

/// The type of the filesystem whose mount point is the longest prefix of a path.
fn filesystem(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let holding = mounted.filter(|(point, _)| path.starts_with(point));
    let deepest = holding.max_by_key(|(point, _)| point.len());
    deepest.map_or_else(unknown, |(_, kind)| kind.to_owned())
}

/// The commit that the sources are at, and whether they differ from it.
fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
    let changes = said(
        "git",
        &[
            "status",
            "--porcelain",
            "--",
            "..",
            ":!../docs/benchmarks.md",
        ],
    );
    if changes.is_empty() || commit == "unknown" {
        commit
    } else {
        format!("{commit}, with changes")
    }
}
