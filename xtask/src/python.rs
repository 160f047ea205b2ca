//! The Python package: built, linted, tested, and used as others would use it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

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
    tool("stubtest")
        .args(["--ignore-disjoint-bases", "alknet_fs._native"])
        .run()?;
    let mut tests = tool("pytest").args(["--quiet"]);
    if !keep_going {
        tests = tests.args(["--exitfirst"]);
    }
    tests.run()?;
    build_reference(workspace, &python)?;
    use_packages(workspace, &python)
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

/// Builds the package as pip does, from its folder and from its source distribution, installs it in
/// an empty environment and runs a program there.
fn use_packages(workspace: &Workspace, python: &Path) -> Result<()> {
    let folder = workspace.tools().join("python-package");
    fs::create_dir_all(&folder)?;
    let source = unpack(workspace, python, &folder)?;
    // What the source distribution builds must not pass for what the working tree builds: another
    // setting gives it other file names in the same target folder, and all else is shared. It has
    // fewer members of the workspace than its lock file.
    let mut other = "--profile dev --offline".to_owned();
    for name in [
        "core", "content", "sqlite", "sync", "blobs", "net", "python",
    ]
    .map(|name| format!("alknet-fs-{name}"))
    {
        other += &format!(" --config profile.dev.package.{name}.codegen-units=250");
    }
    other += " --config profile.dev.package.alknet-fs.codegen-units=250";
    let packages = [
        (
            workspace.root().join("sdk-python"),
            "--profile dev --locked",
        ),
        (source, &*other),
    ];
    for (package, arguments) in packages {
        let wheels = emptied(folder.join("wheels"))?;
        workspace
            .command(python)
            .args(["-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"])
            .args(["--no-cache-dir", "--no-build-isolation", "--wheel-dir"])
            .args([&wheels, &package])
            .env("MATURIN_PEP517_ARGS", arguments)
            .env("CARGO_TARGET_DIR", &workspace.metadata.target_directory)
            .env("PATH", path_with(python)?)
            .run()?;
        use_wheel(workspace, python, &only_file(&wheels)?, &folder)?;
    }
    Ok(())
}

/// Makes the source distribution and unpacks it, unless it is the one that is unpacked already.
fn unpack(workspace: &Workspace, python: &Path, folder: &Path) -> Result<PathBuf> {
    let made = emptied(folder.join("sdist"))?;
    tool(workspace, python, "maturin")
        .args(["sdist", "--out"])
        .args([&made])
        .dir(&workspace.root().join("sdk-python"))
        .run()?;
    let made = only_file(&made)?;
    let (unpacked, stamp) = (folder.join("unpacked"), folder.join("unpacked.tar.gz"));
    if !fs::read(&stamp).is_ok_and(|old| fs::read(&made).is_ok_and(|new| old == new)) {
        let unpacked = emptied(unpacked.clone())?;
        // Files get the time of now: those of the archive would make changed sources look old.
        workspace
            .command("tar")
            .args(["-xzmf".as_ref(), made.as_os_str()])
            .args(["-C".as_ref(), unpacked.as_os_str()])
            .run()?;
        fs::copy(&made, stamp)?;
    }
    only_file(&unpacked)
}

fn emptied(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let file = fs::read_dir(folder)?.next();
    Ok(file.context("nothing was built")??.path())
}

/// Returns the search path with the tools of an environment first.
fn path_with(python: &Path) -> Result<OsString> {
    let tools = python.parent().map(ToOwned::to_owned);
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(
        tools.into_iter().chain(env::split_paths(&path)),
    )?)
}

/// What tells pip that a wheel is for Python 3.10 and all that came later.
const FOR_ALL: &str = "-cp310-abi3-";

/// Installs a wheel in an empty environment and runs a program there.
fn use_wheel(workspace: &Workspace, python: &Path, wheel: &Path, folder: &Path) -> Result<()> {
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    ensure!(name.contains(FOR_ALL), "{name} is not for every Python");
    let empty = emptied(folder.join("venv"))?;
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
        .dir(folder)
        .run()?;
    let script = folder.join("first_use.py");
    fs::write(&script, FIRST_USE)?;
    let store = emptied(folder.join("store"))?;
    workspace
        .command(&python)
        .args([&script, &store])
        .dir(folder)
        .run()
}

/// Builds the wheel, the only one in its folder.
fn wheel(workspace: &Workspace, python: &Path, folder: &Path, profile: &str) -> Result<PathBuf> {
    emptied(folder.to_owned())?;
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
    only_file(folder)
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
