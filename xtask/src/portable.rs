//! Builds for other systems, on whatever machine runs the tests.
//!
//! Where rustup has the target, its toolchain builds for it. Where it does not, Debian's newest
//! compiler does: it comes with the source of the standard library and builds that first.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{Step, Workspace};
use crate::install;
use crate::report;

const WASM: &str = "wasm32-unknown-unknown";
const DEBIAN_COMPILER: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_LINKER: &str = "lld-22";
const DEBIAN_WASM_LD: &str = "/usr/bin/wasm-ld-22";

/// Builds core as a module for the browser and checks that one came out.
pub(crate) fn build_wasm(workspace: &Workspace) -> Result<()> {
    let compiler = Compiler::find(workspace, WASM, &[DEBIAN_LINKER])?;
    let target_folder = compiler.target_folder(workspace);
    let module = target_folder
        .join(WASM)
        .join("debug")
        .join("alknet_fs_core.wasm");
    if module.exists() {
        fs::remove_file(&module).with_context(|| module.display().to_string())?;
    }
    compiler
        .cargo(workspace, "rustc", WASM, "std,panic_abort")
        .env("CARGO_PROFILE_DEV_PANIC", "abort")
        .args([
            "--package",
            "alknet-fs-core",
            "--lib",
            "--crate-type",
            "cdylib",
        ])
        .run()?;

    let bytes =
        fs::read(&module).with_context(|| format!("no module came out: {}", module.display()))?;
    ensure!(
        bytes.starts_with(b"\0asm\x01\0\0\0"),
        "{} is not a WebAssembly module",
        module.display()
    );
    report::ok(&format!("{}, {} bytes", module.display(), bytes.len()));
    Ok(())
}

/// Type-checks what runs on Windows and macOS, where the tests do not run.
pub(crate) fn check_cross(workspace: &Workspace) -> Result<()> {
    ensure!(
        cfg!(unix),
        "the stand-in for a C compiler is a shell script: run this part on a Unix system"
    );
    let no_cc = workspace.root().join("xtask/no-cc");
    for target in ["x86_64-pc-windows-msvc", "aarch64-apple-darwin"] {
        let compiler = Compiler::find(workspace, target, &[])?;
        let name = target.replace('-', "_");
        compiler
            .cargo(workspace, "check", target, "std,panic_unwind")
            .env(&format!("CC_{name}"), &no_cc)
            .env(&format!("AR_{name}"), &no_cc)
            .args([
                "--package",
                "alknet-fs-core",
                "--package",
                "alknet-fs-content",
            ])
            .args(["--package", "alknet-fs-sqlite", "--package", "alknet-fs"])
            .args(["--package", "alknet-fs-cli"])
            .run()?;
    }
    Ok(())
}

/// What builds for a target.
enum Compiler {
    Rustup,
    Debian,
}

impl Compiler {
    fn find(workspace: &Workspace, target: &str, more_packages: &[&str]) -> Result<Self> {
        if install::rustup_target(workspace, target)? {
            return Ok(Self::Rustup);
        }
        let packages = [DEBIAN_COMPILER, more_packages].concat();
        install::debian_packages(workspace, &packages).with_context(|| {
            format!("Rust for {target} is missing: `rustup target add {target}` installs it")
        })?;
        Ok(Self::Debian)
    }

    /// Returns where artefacts go: two compilers must not share a folder.
    fn target_folder(&self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::Rustup => workspace.metadata.target_directory.clone().into(),
            Self::Debian => workspace.root().join("target-wasm"),
        }
    }

    fn cargo(
        &self,
        workspace: &Workspace,
        subcommand: &str,
        target: &str,
        std_crates: &str,
    ) -> Step {
        match self {
            Self::Rustup => workspace.cargo([subcommand, "--locked", "--target", target]),
            Self::Debian => {
                let step = workspace
                    .command("/usr/bin/cargo")
                    // `cargo run` points it at the libraries of its own compiler.
                    .without_env("LD_LIBRARY_PATH")
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_DIR", self.target_folder(workspace))
                    .args([subcommand, "--locked", "--target", target])
                    .args(["-Z", &format!("build-std={std_crates}")]);
                if target == WASM {
                    step.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_WASM_LD)
                } else {
                    step
                }
            }
        }
    }
}
