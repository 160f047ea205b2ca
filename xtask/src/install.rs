//! Gets what a part needs and the machine lacks.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::cargo::Workspace;
use crate::report;

const CARGO_DENY: &str = "0.20.2";
const CARGO_FUZZ: &str = "0.13.2";

/// Installs the Debian packages that are missing, as root or with sudo.
///
/// # Errors
///
/// Fails where there is no apt-get, or no right to use it.
pub(crate) fn debian_packages(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    if workspace
        .command("apt-get")
        .args(["--version"])
        .output()
        .is_err()
    {
        bail!(
            "this machine has no apt-get to install {}",
            packages.join(" ")
        );
    }
    let mut missing = Vec::new();
    for package in packages {
        let status = workspace
            .command("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status}", package])
            .output()?;
        if status.stdout != b"installed" {
            missing.push(*package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !workspace.apt_is_updated.replace(true) {
        apt_get(workspace, &["update", "--quiet"])?;
    }
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(&missing);
    apt_get(workspace, &arguments)
}

fn apt_get(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    let user = workspace.command("id").args(["-u"]).read()?;
    let step = if user.trim() == "0" {
        workspace.command("env")
    } else {
        let sudo = workspace.command("sudo").args(["--version"]).output();
        if sudo.is_err() {
            bail!(
                "run as root or install sudo: apt-get {} is needed",
                arguments.join(" ")
            );
        }
        let sudo = workspace.command("sudo");
        if env::var_os("CI").is_some() {
            sudo.args(["--non-interactive", "env"])
        } else {
            sudo.args(["env"])
        }
    };
    step.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .args(arguments)
        .run()
}

/// Returns whether the target's standard library is there for the cargo that runs this program,
/// after asking rustup for it.
pub(crate) fn rustup_target(workspace: &Workspace, target: &str) -> Result<bool> {
    let Ok(installed) = workspace
        .command("rustup")
        .args(["target", "list", "--installed"])
        .read()
    else {
        return Ok(false);
    };
    if installed.lines().any(|line| line == target) {
        return Ok(true);
    }
    if workspace.rustup_is_offline.get() {
        return Ok(false);
    }
    report::step(&format!("rustup target add {target}"));
    let added = workspace
        .command("rustup")
        .args(["target", "add", target])
        .output()?;
    if !added.status.success() {
        workspace.rustup_is_offline.set(true);
        let said = String::from_utf8_lossy(&added.stderr);
        let reason = said
            .lines()
            .find(|line| line.starts_with("error"))
            .unwrap_or("no reason given");
        report::skip(&format!("rustup has no {target} to give ({reason})"));
    }
    Ok(added.status.success())
}

/// Adds a component of the toolchain where the command it brings is missing.
///
/// # Errors
///
/// Fails if the component is missing and rustup cannot add it.
pub(crate) fn rustup_component(
    workspace: &Workspace,
    component: &str,
    command: &str,
) -> Result<()> {
    if workspace.cargo([command, "--version"]).read().is_ok() {
        return Ok(());
    }
    workspace
        .command("rustup")
        .args(["component", "add", component])
        .run()
        .with_context(|| format!("`cargo {command}` needs the component {component} of Rust"))
}

/// Returns the path of cargo-deny, built on the first call.
pub(crate) fn cargo_deny(workspace: &Workspace) -> Result<PathBuf> {
    cargo_tool(workspace, "cargo-deny", CARGO_DENY)
}

/// Returns the path of cargo-fuzz, built on the first call.
pub(crate) fn cargo_fuzz(workspace: &Workspace) -> Result<PathBuf> {
    cargo_tool(workspace, "cargo-fuzz", CARGO_FUZZ)
}

fn cargo_tool(workspace: &Workspace, name: &str, version: &str) -> Result<PathBuf> {
    let root = workspace.tools();
    let program = root
        .join("bin")
        .join(name)
        .with_extension(env::consts::EXE_EXTENSION);
    let wanted = format!("{name} {version}");
    let found = workspace.command(&program).args(["--version"]).read();
    if found.is_ok_and(|version| version.trim() == wanted) {
        return Ok(program);
    }
    workspace
        .cargo(["install", name, "--locked", "--force", "--version", version])
        .args(["--root".as_ref(), root.as_os_str()])
        .without_env("CARGO_TARGET_DIR")
        // Building it takes far longer than running it once.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .run()?;
    Ok(program)
}
