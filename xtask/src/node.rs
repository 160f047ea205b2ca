//! The Node package: its native module, its TypeScript layer, and the tests of both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{Step, Workspace};
use crate::report;

/// The oldest Node that the package runs on, as its `engines` say.
const NODE: (u32, u32) = (20, 19);

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    check_node(workspace)?;
    let package = workspace.root().join("sdk-js");
    npm(workspace, &package, INSTALL).run()?;
    build_native(workspace, &package)?;
    npm(workspace, &package, &["run", "--silent", "lint"]).run()?;
    npm(workspace, &package, &["run", "--silent", "build"]).run()?;
    npm(workspace, &package, &["test", "--silent"]).run()?;
    let integrations = package.join("integrations");
    npm(workspace, &integrations, INSTALL).run()?;
    npm(workspace, &integrations, &["test", "--silent"]).run()
}

const INSTALL: &[&str] = &["install", "--no-audit", "--no-fund"];

fn check_node(workspace: &Workspace) -> Result<()> {
    let (major, minor) = NODE;
    let version = workspace
        .command("node")
        .args(["--version"])
        .read()
        .with_context(|| format!("install Node {major}.{minor} or later, with npm"))?;
    let version = version.trim();
    let mut numbers = version.trim_start_matches('v').split('.');
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    ensure!(
        (next(), next()) >= (Some(major), Some(minor)),
        "the package needs Node {major}.{minor} or later, and this is {version}"
    );
    Ok(())
}

/// Builds the native module in the profile of all tests and puts it where the package looks.
fn build_native(workspace: &Workspace, package: &Path) -> Result<()> {
    let arguments = ["build", "--locked", "--package", "alknet-fs-node"];
    workspace.cargo(arguments).run()?;
    let built = library(workspace);
    let script = "console.log(require('./dist/native.js').file)";
    npm(workspace, package, &["run", "--silent", "build"]).run()?;
    let name = workspace
        .command("node")
        .dir(package)
        .args(["--eval", script])
        .read()?;
    let target = package.join(name.trim());
    // A process may still have the old file mapped; a new one takes its name.
    let fresh = target.with_extension("new");
    fs::copy(&built, &fresh).with_context(|| format!("{} cannot be copied", built.display()))?;
    fs::rename(&fresh, &target)?;
    report::ok(&format!("{} is the native module", target.display()));
    Ok(())
}

fn library(workspace: &Workspace) -> PathBuf {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let target = workspace.metadata.target_directory.as_std_path();
    target
        .join("debug")
        .join(format!("{DLL_PREFIX}alknet_fs_node{DLL_SUFFIX}"))
}

fn npm(workspace: &Workspace, package: &Path, arguments: &[&str]) -> Step {
    workspace.command("npm").dir(package).args(arguments)
}
