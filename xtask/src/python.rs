//! The Python package: built, linted, tested, and used as others would use it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cargo::{Step, Workspace};
use crate::{install, report};

/// What an empty project does with the installed package.
const FIRST_USE: &str = "\
import alknet_fs, pathlib, sys
assert 'site-packages' in alknet_fs.__file__, alknet_fs.__file__
assert (pathlib.Path(alknet_fs.__file__).parent / 'py.typed').exists()
with alknet_fs.open(sys.argv[1]) as store:
    store.branch().write_text('/hello.txt', 'hello')
    print(store.branch().fork('agent').read_text('/hello.txt'))
";

pub(crate) fn run(workspace: &Workspace, keep_going: bool) -> Result<()> {
    let python = install_editable(workspace)?;
    let package = workspace.root().join("sdk-python");
    let tool = |name: &str| tool(workspace, &python, name).dir(&package);
    tool("ruff").args(["format", "--check"]).run()?;
    tool("ruff").args(["check", "--quiet"]).run()?;
    tool("mypy").run()?;
    tool("pyright")
        .args(["--pythonpath".as_ref(), python.as_os_str()])
        .run()?;
    let mut tests = tool("pytest").args(["--quiet"]);
    if !keep_going {
        tests = tests.args(["--exitfirst"]);
    }
    tests.run()?;
    build_reference(workspace, &python)?;
    use_wheel(workspace, &python)
}

/// Builds the reference of the API.
pub(crate) fn document(workspace: &Workspace) -> Result<()> {
    let python = install_editable(workspace)?;
    let folder = build_reference(workspace, &python)?;
    report::ok(&format!("{}", folder.join("index.html").display()));
    Ok(())
}

fn build_reference(workspace: &Workspace, python: &Path) -> Result<PathBuf> {
    let folder = workspace.metadata.target_directory.join("doc-python");
    workspace
        .command(python)
        .args(["-W", "error", "reference.py", folder.as_str()])
        .dir(&workspace.root().join("sdk-python"))
        .run()?;
    Ok(folder.into())
}

/// Installs the package as it is in the working tree, beside the tools and the libraries that it
/// is tested with.
pub(crate) fn install_editable(workspace: &Workspace) -> Result<PathBuf> {
    let package = workspace.root().join("sdk-python");
    let requirements = ["requirements-dev.txt", "requirements-integrations.txt"];
    let requirements = requirements.map(|name| package.join(name));
    let python = environment(workspace, &venv(workspace), &requirements)?;
    tool(workspace, &python, "maturin")
        .args(["develop", "--locked", "--quiet"])
        .env("VIRTUAL_ENV", venv(workspace))
        .dir(&package)
        .run()?;
    Ok(python)
}

/// Installs the wheel in an empty environment and runs a program there.
fn use_wheel(workspace: &Workspace, python: &Path) -> Result<()> {
    let folder = workspace.tools().join("python-package");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let wheel = wheel(workspace, python, &folder.join("wheels"), "dev")?;
    let empty = folder.join("venv");
    workspace
        .command(python)
        .args(["-m", "venv"])
        .args([&empty])
        .run()?;
    let python = program(&empty, "python");
    workspace
        .command(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-index"])
        .args([wheel])
        .dir(&folder)
        .run()?;
    let script = folder.join("first_use.py");
    fs::write(&script, FIRST_USE)?;
    workspace
        .command(&python)
        .args([&script, &folder.join("store")])
        .dir(&folder)
        .run()
}

/// Builds the wheel, the only one in its folder.
fn wheel(workspace: &Workspace, python: &Path, folder: &Path, profile: &str) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    tool(workspace, python, "maturin")
        .args([
            "build",
            "--locked",
            "--quiet",
            "--profile",
            profile,
            "--out",
        ])
        .args([folder])
        .dir(&workspace.root().join("sdk-python"))
        .run()?;
    let wheel = fs::read_dir(folder)?.next();
    Ok(wheel.context("maturin built no wheel")??.path())
}

/// Returns an interpreter with the release build of the package and what it is measured beside.
pub(crate) fn for_benchmarks(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.tools().join("python-bench");
    let requirements = workspace.root().join("bench/python/requirements.txt");
    let python = environment(workspace, &folder, &[requirements])?;
    // Not an editable install: that would put the module where the tests have theirs.
    let wheel = wheel(workspace, &python, &folder.join("wheels"), "release")?;
    workspace
        .command(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-index"])
        .args(["--no-deps", "--force-reinstall"])
        .args([wheel])
        .run()?;
    Ok(python)
}

/// Returns the interpreter of an environment with all that is required, made if need be.
fn environment(workspace: &Workspace, folder: &Path, requirements: &[PathBuf]) -> Result<PathBuf> {
    let python = program(folder, "python");
    let wanted = requirements.iter().map(fs::read_to_string);
    let wanted = wanted.collect::<Result<String, _>>()?;
    let stamp = folder.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    if !python.exists() {
        let found = match interpreter(workspace) {
            Some(found) => found,
            None => {
                install::debian_packages(workspace, &["python3", "python3-venv"])?;
                interpreter(workspace).context("this machine has no Python 3.10 or newer")?
            }
        };
        workspace
            .command(found)
            .args(["-m", "venv"])
            .args([folder])
            .run()?;
    }
    let mut install = workspace
        .command(&python)
        .args(["-m", "pip", "install", "--quiet"]);
    for file in requirements {
        install = install.args(["--requirement".as_ref(), file.as_os_str()]);
    }
    install.run()?;
    fs::write(stamp, wanted)?;
    report::ok("the Python environment");
    Ok(python)
}

const SUPPORTED: &str = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))";

fn interpreter(workspace: &Workspace) -> Option<&'static str> {
    ["python3", "python"].into_iter().find(|name| {
        let found = workspace.command(*name).args(["-c", SUPPORTED]).output();
        found.is_ok_and(|output| output.status.success())
    })
}

fn venv(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("python")
}

fn program(venv: &Path, name: &str) -> PathBuf {
    let folder = if cfg!(windows) { "Scripts" } else { "bin" };
    venv.join(folder)
        .join(name)
        .with_extension(env::consts::EXE_EXTENSION)
}

pub(crate) fn tool(workspace: &Workspace, python: &Path, name: &str) -> Step {
    let program = python.with_file_name(name);
    workspace.command(program.with_extension(env::consts::EXE_EXTENSION))
}
