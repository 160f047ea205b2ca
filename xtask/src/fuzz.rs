//! Fuzzing of what decodes the bytes of peers.

use std::fs;

use anyhow::{Context as _, Result};

use crate::cargo::Workspace;
use crate::install;

/// Runs fuzz targets, all unless some are named, each for a number of seconds.
pub(crate) fn run(workspace: &Workspace, mut targets: Vec<String>, seconds: u32) -> Result<()> {
    let tools = install::cargo_fuzz(workspace)?;
    if targets.is_empty() {
        let folder = workspace.root().join("fuzz/targets");
        for file in fs::read_dir(&folder).context("the fuzz targets cannot be listed")? {
            let name = file?.path();
            targets.extend(name.file_stem().map(|n| n.to_string_lossy().into_owned()));
        }
        targets.sort();
    }
    for target in &targets {
        // Sanitizers need a nightly compiler, and there is no unsafe code to look at.
        workspace
            .command(&tools)
            .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir", "fuzz"])
            .args([target.as_str(), "--"])
            .args([format!("-max_total_time={seconds}")])
            .args(["-rss_limit_mb=2048", "-timeout=20"])
            .run()?;
    }
    Ok(())
}
