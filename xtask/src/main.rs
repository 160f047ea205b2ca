//! The tasks of this workspace, run as `cargo xtask`.

mod cargo;
mod core_rules;
mod fuzz;
mod install;
mod lint;
mod node;
mod portable;
mod python;
mod report;
mod together;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::cargo::Workspace;
use crate::report::{Outcome, Summary};

const EXAMPLES: &str = "\
Examples:
  cargo xtask test                  every part, what is missing is installed
  cargo xtask test lint rust        two parts
  cargo xtask test --keep-going     all parts, also after one failed
  cargo xtask bench --quick         short benchmarks";

/// Runs the tests and benchmarks of alknet-fs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the tests, all parts unless some are named.
    ///
    /// Stops at the first part that fails and ends with a table of the parts and their times.
    /// What a part needs and does not find is installed: Rust targets through rustup, packages
    /// through apt-get (as root or with sudo), tools of cargo into target/tools.
    #[command(after_help = EXAMPLES)]
    Test {
        /// Parts to run, in this order.
        #[arg(value_name = "PART")]
        parts: Vec<Part>,

        /// Runs the remaining parts, and the remaining tests of a part, after a failure.
        #[arg(long)]
        keep_going: bool,
    },

    /// Builds the reference of an SDK's API from its sources, into the target folder.
    Docs {
        /// The SDK.
        #[arg(value_name = "SDK")]
        sdk: Sdk,
    },

    /// Looks for bytes that no peer may send and that do harm, by cargo-fuzz, which is installed into
    /// target/tools.
    ///
    /// What was found stays in fuzz/corpus and fuzz/artifacts.
    #[command(after_help = "\
Examples:
  cargo xtask fuzz                       every target for 30 seconds
  cargo xtask fuzz --seconds 3600 page")]
    Fuzz {
        /// Targets: the files of fuzz/targets.
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,

        /// How long each target runs.
        #[arg(long, value_name = "N", default_value_t = 30)]
        seconds: u32,
    },

    /// Builds and runs the benchmarks, which write docs/benchmarks.md.
    #[command(after_help = "\
Examples:
  cargo xtask bench
  cargo xtask bench --quick
  cargo xtask bench -- --help       the options of the benchmark program")]
    Bench {
        /// Arguments of the benchmark program, such as `--quick`.
        #[arg(
            value_name = "ARGUMENT",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        arguments: Vec<String>,
    },
}

/// An SDK.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sdk {
    /// The Python package.
    Python,
    /// The Node package.
    Node,
}

/// A part of the tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Format, clippy, documentation, the rules of core, licences and sources of dependencies.
    Lint,
    /// Every Rust test, documentation examples included.
    Rust,
    /// Builds core for wasm32-unknown-unknown.
    Wasm,
    /// Type-checks the crates for Windows and macOS.
    Cross,
    /// The Python package: types, tests, and the package in an empty environment.
    Python,
    /// Builds, checks and tests the Node package.
    Node,
    /// Python and Node processes on one store.
    Together,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Rust => "rust",
            Self::Wasm => "wasm",
            Self::Cross => "cross",
            Self::Python => "python",
            Self::Node => "node",
            Self::Together => "together",
        }
    }

    fn run(self, workspace: &Workspace, keep_going: bool) -> Result<()> {
        match self {
            Self::Lint => lint::run(workspace),
            Self::Rust => run_rust(workspace, keep_going),
            Self::Wasm => portable::build_wasm(workspace),
            Self::Cross => portable::check_cross(workspace),
            Self::Python => python::run(workspace, keep_going),
            Self::Node => node::run(workspace),
            Self::Together => together::run(workspace),
        }
    }
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().task {
        Task::Test { parts, keep_going } => test(parts, keep_going),
        Task::Docs { sdk } => {
            let workspace = Workspace::find()?;
            match sdk {
                Sdk::Python => python::document(&workspace)?,
                Sdk::Node => node::document(&workspace)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::Fuzz { targets, seconds } => {
            fuzz::run(&Workspace::find()?, targets, seconds)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Bench { arguments } => {
            bench(&arguments)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn test(mut parts: Vec<Part>, keep_going: bool) -> Result<ExitCode> {
    if parts.is_empty() {
        parts = Part::value_variants().to_vec();
    }
    let workspace = Workspace::find()?;
    let mut summary = Summary::default();
    for part in parts {
        if summary.has_failure() && !keep_going {
            summary.add(part.name(), Outcome::NotRun);
            continue;
        }
        report::heading(part.name());
        let start = Instant::now();
        let outcome = match part.run(&workspace, keep_going) {
            Ok(()) => Outcome::Passed(start.elapsed()),
            Err(error) => {
                report::error(part.name(), &error);
                Outcome::Failed(start.elapsed())
            }
        };
        summary.add(part.name(), outcome);
    }
    summary.print();
    Ok(if summary.has_failure() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn bench(arguments: &[String]) -> Result<()> {
    let workspace = Workspace::find()?;
    let mut bench = workspace.cargo([
        "run",
        "--release",
        "--locked",
        "--package",
        "alknet-fs-bench",
        "--",
    ]);
    if measures(arguments, "python") {
        bench = bench.env("ALKFS_BENCH_PYTHON", python::for_benchmarks(&workspace)?);
    }
    if measures(arguments, "node") {
        bench = bench.env("ALKFS_BENCH_NODE", node::for_benchmarks(&workspace)?);
    }
    bench.args(arguments).run()
}

/// Tells whether the benchmark program will measure a group.
fn measures(arguments: &[String], group: &str) -> bool {
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        return false;
    }
    let only = arguments.iter().enumerate().filter_map(|(i, argument)| {
        match argument.strip_prefix("--only")? {
            "" => arguments.get(i + 1).map(String::as_str),
            groups => groups.strip_prefix('='),
        }
    });
    let named: Vec<_> = only.flat_map(|groups| groups.split(',')).collect();
    named.is_empty() || named.contains(&group)
}

fn run_rust(workspace: &Workspace, keep_going: bool) -> Result<()> {
    let mut command = workspace.cargo(["test", "--workspace", "--locked"]);
    if cfg!(target_os = "linux")
        && for_namespaces(workspace)?
        && std::env::var_os(NAMESPACES).is_none()
    {
        command = command.env(NAMESPACES, "require");
    }
    if keep_going {
        command = command.args(["--no-fail-fast"]);
    }
    command.run()
}

/// The variable that says whether tests of nodes fail where they can make no network namespaces
/// (`require`), or are skipped (anything else).
const NAMESPACES: &str = "ALKFS_TEST_NAMESPACES";

/// Installs the program that makes network namespaces, where root may; returns whether it is root.
fn for_namespaces(workspace: &Workspace) -> Result<bool> {
    let is_there = workspace.command("ip").args(["-Version"]).output().is_ok();
    let is_root = workspace.command("id").args(["-u"]).read()?.trim() == "0";
    if !is_there
        && is_root
        && let Err(error) = install::debian_packages(workspace, &["iproute2"])
    {
        report::skip(&format!("installing iproute2: {error:#}"));
    }
    if !is_root {
        report::skip("tests in network namespaces: they need root");
    }
    Ok(is_root)
}
