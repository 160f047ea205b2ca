//! Tests in which processes of several languages share one store.

use anyhow::Result;

use crate::cargo::Workspace;
use crate::{node, python};

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let interpreter = python::install_editable(workspace)?;
    node::build(workspace)?;
    let tool = |name: &str| {
        let tool = python::tool(workspace, &interpreter, name);
        tool.dir(&workspace.root().join("tests/together"))
    };
    let rules = ["--config", "../../sdk-python/pyproject.toml"];
    tool("ruff").args(["format", "--check"]).args(rules).run()?;
    tool("ruff")
        .args(["check", "--quiet", "--extend-ignore", "D"])
        .args(rules)
        .run()?;
    tool("pytest")
        .args(["--quiet", "-c", "../../sdk-python/pyproject.toml"])
        .args(["--rootdir", ".", "."])
        .run()
}
