//! Checks of the sources and of what they depend on.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{Step, Workspace};
use crate::{core_rules, install, report};

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    install::rustup_component(workspace, "rustfmt", "fmt")?;
    install::rustup_component(workspace, "clippy", "clippy")?;

    workspace.cargo(["fmt", "--all", "--check"]).run()?;
    core_rules::check(workspace)?;
    check_rust_version(workspace)?;
    workspace
        .cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])
        .run()?;
    workspace
        .cargo(["doc", "--workspace", "--no-deps", "--locked"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    check_dependencies(workspace)
}

/// Checks that every crate states the workspace's oldest Rust, and that no dependency needs a newer one.
fn check_rust_version(workspace: &Workspace) -> Result<()> {
    report::step("the oldest Rust that builds the workspace");
    let metadata = &workspace.metadata;
    let members = metadata.workspace_packages();
    let first = members.first().context("the workspace has no crate")?;
    let oldest = first
        .rust_version
        .as_ref()
        .with_context(|| format!("{} states no rust-version", first.name))?;
    for package in members {
        ensure!(
            package.rust_version.as_ref() == Some(oldest),
            "{} does not state `rust-version.workspace = true`",
            package.name
        );
    }
    let newer: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| {
            package
                .rust_version
                .as_ref()
                .is_some_and(|version| version > oldest)
        })
        .map(|package| format!("{} {}", package.name, package.version))
        .collect();
    ensure!(
        newer.is_empty(),
        "need a newer Rust than {oldest}: {}",
        newer.join(", ")
    );
    report::ok(&format!(
        "{oldest}, enough for all {} packages of the lock file",
        metadata.packages.len()
    ));
    Ok(())
}

/// Checks licences, banned crates, sources and, if their database can be had, advisories.
fn check_dependencies(workspace: &Workspace) -> Result<()> {
    let program = install::cargo_deny(workspace)?;
    deny(
        workspace,
        &program,
        &["check", "licenses", "bans", "sources"],
    )
    .run()?;

    let fetched = deny(workspace, &program, &["fetch", "db"]).output()?;
    if !fetched.status.success() {
        report::skip("security advisories: their database cannot be reached");
        return Ok(());
    }
    deny(
        workspace,
        &program,
        &["check", "--disable-fetch", "advisories"],
    )
    .run()
}

fn deny(workspace: &Workspace, program: &Path, arguments: &[&str]) -> Step {
    workspace
        .command(program)
        .args(["--locked", "--workspace"])
        .args(arguments)
}
