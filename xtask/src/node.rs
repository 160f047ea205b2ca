//! The Node package: its native module, its TypeScript layer, and the tests of both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{Step, Workspace};
use crate::report;

/// The oldest Node that the package runs on, as its `engines` say.
const NODE: (u32, u32) = (20, 19);

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let package = build(workspace)?;
    npm(workspace, &package, &["run", "--silent", "lint"]).run()?;
    npm(workspace, &package, &["test", "--silent"]).run()?;
    npm(workspace, &package, &["run", "--silent", "test:package"]).run()?;
    build_reference(workspace, &package)?;
    let integrations = package.join("integrations");
    npm(workspace, &integrations, INSTALL).run()?;
    npm(workspace, &integrations, &["test", "--silent"]).run()
}

/// Builds the reference of the API.
pub(crate) fn document(workspace: &Workspace) -> Result<()> {
    check_node(workspace)?;
    let package = workspace.root().join("sdk-js");
    npm(workspace, &package, INSTALL).run()?;
    let folder = build_reference(workspace, &package)?;
    report::ok(&format!("{}", folder.join("index.html").display()));
    Ok(())
}

fn build_reference(workspace: &Workspace, package: &Path) -> Result<PathBuf> {
    let folder = workspace.metadata.target_directory.join("doc-node");
    let arguments = [
        "run",
        "--silent",
        "docs",
        "--",
        "--logLevel",
        "Warn",
        "--out",
    ];
    npm(workspace, package, &arguments).args([&folder]).run()?;
    Ok(folder.into())
}

/// Builds the package where it is, and returns its folder.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    check_node(workspace)?;
    let package = workspace.root().join("sdk-js");
    npm(workspace, &package, INSTALL).run()?;
    build_native(workspace, &package)?;
    Ok(package)
}

/// What the lock file names, and no scripts: those of the package build a release.
const INSTALL: &[&str] = &["ci", "--ignore-scripts", "--no-audit", "--no-fund"];

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
    let built = native(workspace, &[])?;
    npm(workspace, package, &["run", "--silent", "build"]).run()?;
    let target = package.join(native_name(workspace, package)?);
    // A process may still have the old file mapped; a new one takes its name.
    let fresh = target.with_extension("new");
    copy(&built, &fresh)?;
    fs::rename(&fresh, &target)?;
    report::ok(&format!("{} is the native module", target.display()));
    Ok(())
}

/// Returns a folder whose modules are the release build of the package and what it is measured
/// beside, with the program that measures.
pub(crate) fn for_benchmarks(workspace: &Workspace) -> Result<PathBuf> {
    check_node(workspace)?;
    let package = workspace.root().join("sdk-js");
    npm(workspace, &package, INSTALL).run()?;
    npm(workspace, &package, &["run", "--silent", "build"]).run()?;
    let built = native(workspace, &["--release"])?;
    let folder = workspace.tools().join("node-bench");
    let staged = folder.join("alknet-fs");
    if staged.exists() {
        fs::remove_dir_all(&staged)?;
    }
    fs::create_dir_all(staged.join("dist"))?;
    copy(&package.join("package.json"), &staged.join("package.json"))?;
    for file in fs::read_dir(package.join("dist"))? {
        let file = file?;
        copy(&file.path(), &staged.join("dist").join(file.file_name()))?;
    }
    copy(&built, &staged.join(native_name(workspace, &package)?))?;
    let bench = workspace.root().join("bench/node");
    for name in ["package.json", "package-lock.json", "worker.mjs"] {
        copy(&bench.join(name), &folder.join(name))?;
    }
    // The lock file does not name the others' modules for every platform.
    let arguments = ["install", "--ignore-scripts", "--no-audit", "--no-fund"];
    npm(workspace, &folder, &arguments).run()?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("{} cannot be copied", from.display()))?;
    Ok(())
}

/// Builds the native module and returns where it is.
fn native(workspace: &Workspace, profile: &[&str]) -> Result<PathBuf> {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let arguments = ["build", "--locked", "--package", "alknet-fs-node"];
    workspace.cargo(arguments).args(profile).run()?;
    let target = workspace.metadata.target_directory.as_std_path();
    let profile = if profile.is_empty() {
        "debug"
    } else {
        "release"
    };
    let name = format!("{DLL_PREFIX}alknet_fs_node{DLL_SUFFIX}");
    Ok(target.join(profile).join(name))
}

/// Asks the package for the file's name in it.
fn native_name(workspace: &Workspace, package: &Path) -> Result<String> {
    let script = "console.log(require('./dist/native.js').file())";
    let name = workspace
        .command("node")
        .dir(package)
        .args(["--eval", script])
        .read()?;
    Ok(name.trim().to_owned())
}

fn npm(workspace: &Workspace, package: &Path, arguments: &[&str]) -> Step {
    workspace.command("npm").dir(package).args(arguments)
}
