//! Measures alknet-fs, each kind of work beside its baseline in the same run.
//!
//! Every group of rows is a module of [`rows`]. It does its work and the baseline's in turn for
//! several rounds, so that whatever disturbs the machine disturbs both, checks that the work was
//! really done, and hands the times to [`harness::Bench`]. [`report`] makes the table.

mod data;
mod fixtures;
mod harness;
mod machine;
mod plain;
mod profile;
mod report;
mod rows;

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::harness::Bench;
use crate::machine::Machine;
use crate::profile::Profile;

const EXAMPLES: &str = "\
Examples:
  alkfs-bench                     everything, writes docs/benchmarks.md
  alkfs-bench --quick             everything at small sizes, prints the table
  alkfs-bench --only put,read     two groups
  alkfs-bench --json              a line of JSON for each row

ALKFS_BENCH_TREE names the directory to import and export. Without it, a tree is assembled from
the sources of the crates that cargo has downloaded.";

/// Measures alknet-fs beside bare SQLite, the filesystem, git and cp.
#[derive(Parser)]
#[command(name = "alkfs-bench", after_help = EXAMPLES)]
struct Arguments {
    /// Uses small sizes and few rounds: about a minute, and too noisy to judge by.
    #[arg(long)]
    quick: bool,

    /// Runs only these groups.
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    only: Vec<Group>,

    /// Prints a line of JSON for each row instead of the table.
    #[arg(long)]
    json: bool,

    /// Prints to standard error how long each tracing span took in all.
    #[arg(long)]
    profile: bool,

    /// Works in this directory, on the filesystem to be measured [default: beside the program].
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// Writes the report there [default: docs/benchmarks.md when everything ran in full].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(subcommand)]
    child: Option<Child>,
}

/// What the program does when it runs itself, to measure a process that does nothing else.
#[derive(Subcommand)]
#[command(disable_help_subcommand = true)]
enum Child {
    /// Imports a directory into a new store and prints the peak of resident memory in bytes.
    #[command(hide = true)]
    MemoryOfImport { tree: PathBuf, store: PathBuf },
    /// Streams bytes into a new store and out again and prints the peak of resident memory.
    #[command(hide = true)]
    MemoryOfStream { len: u64, store: PathBuf },
    /// Runs the node of a store and does what standard input says.
    #[command(hide = true)]
    SyncNode { store: PathBuf },
}

/// A group of rows.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Durable puts, one commit each.
    Put,
    /// 10,000 files in batches.
    Batch,
    /// Read, stat and list.
    Read,
    /// 256 MiB in and out.
    Stream,
    /// One byte of 1 GiB.
    Edit,
    /// Fork and snapshot at 1,000,000 entries.
    Fork,
    /// Resolve and list in deep and in crowded buckets.
    Depth,
    /// Rename a directory of 10,000 files.
    Rename,
    /// Import and export a real tree.
    Tree,
    /// Open a store of 1,000,000 entries.
    Open,
    /// Contents from one store to another over loopback.
    Content,
    /// Two nodes: join, one change, reconnect.
    Sync,
    /// Peak memory.
    Memory,
    /// The Python SDK.
    Python,
    /// The Node SDK.
    Node,
}

impl Group {
    fn run(self, bench: &mut Bench) -> Result<()> {
        match self {
            Self::Put => rows::put::run(bench),
            Self::Batch => rows::batch::run(bench),
            Self::Read => rows::read::run(bench),
            Self::Stream => rows::stream::run(bench),
            Self::Edit => rows::edit::run(bench),
            Self::Fork => rows::fork::run(bench),
            Self::Depth => rows::depth::run(bench),
            Self::Rename => rows::rename::run(bench),
            Self::Tree => rows::tree::run(bench),
            Self::Open => rows::open::run(bench),
            Self::Content => rows::content::run(bench),
            Self::Sync => rows::sync::run(bench),
            Self::Memory => rows::memory::run(bench),
            Self::Python => rows::python::run(bench),
            Self::Node => rows::node::run(bench),
        }
    }

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.child {
        Some(Child::MemoryOfImport { tree, store }) => rows::memory::import(tree, store),
        Some(Child::MemoryOfStream { len, store }) => rows::memory::stream(*len, store),
        Some(Child::SyncNode { store }) => rows::sync::node(store),
        None => measure(arguments),
    }
}

fn measure(arguments: Arguments) -> Result<()> {
    let profile = arguments.profile.then(Profile::install).transpose()?;
    let all = arguments.only.is_empty();
    let groups = if all {
        Group::value_variants().to_vec()
    } else {
        arguments.only
    };
    let scratch = match arguments.scratch {
        Some(dir) => dir,
        None => beside_program()?,
    };
    let machine = Machine::look(&scratch)?;
    let mut bench = Bench::new(&scratch, arguments.quick, arguments.json)?;
    for group in groups {
        bench.begin(&group.name());
        group
            .run(&mut bench)
            .with_context(|| format!("the benchmark `{}` failed", group.name()))?;
    }
    let rows = bench.finish();
    if let Some(profile) = profile {
        profile.print();
    }
    let table = report::markdown(&rows, &machine, arguments.quick);
    let output = match arguments.output {
        None if all && !arguments.quick => Some(report::default_path()),
        given => given,
    };
    if let Some(path) = output {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&path, &table)
            .with_context(|| format!("the report cannot be written to {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    if !arguments.json {
        print!("{table}");
    }
    Ok(())
}

/// The build's folder is on a disk; the system's folder for temporary files may be in memory.
fn beside_program() -> Result<PathBuf> {
    let program = env::current_exe().context("the program's own path is unknown")?;
    let dir = program.parent().context("the program has no directory")?;
    Ok(dir.to_owned())
}
