//! The workspace, and commands run in it.

use std::cell::Cell;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::report;

/// The workspace the tasks work on.
pub(crate) struct Workspace {
    /// All packages of the lock file, for every platform and feature.
    pub(crate) metadata: Metadata,
    /// Whether `apt-get update` ran already.
    pub(crate) apt_is_updated: Cell<bool>,
    /// Whether rustup was found unable to download.
    pub(crate) rustup_is_offline: Cell<bool>,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let metadata = MetadataCommand::new()
            .manifest_path(manifest)
            .other_options(["--locked".to_owned(), "--all-features".to_owned()])
            .exec()
            .context("the workspace cannot be read")?;
        Ok(Self {
            metadata,
            apt_is_updated: Cell::new(false),
            rustup_is_offline: Cell::new(false),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        self.metadata.workspace_root.as_std_path()
    }

    /// The folder for tools that tests need, kept between runs.
    pub(crate) fn tools(&self) -> PathBuf {
        self.metadata.target_directory.join("tools").into()
    }

    /// Prepares a command that runs in the root of the workspace.
    pub(crate) fn command(&self, program: impl Into<OsString>) -> Step {
        let program = program.into();
        let mut command = Command::new(&program);
        command.current_dir(self.root());
        // What `cargo run` says of the xtask package is no business of another build.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
            {
                command.env_remove(&name);
            }
        }
        Step {
            variables: String::new(),
            shown: display_name(&program),
            command,
        }
    }

    /// Prepares a command of the cargo that runs this program.
    pub(crate) fn cargo<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Step {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        self.command(cargo).args(arguments)
    }
}

fn display_name(program: &OsStr) -> String {
    let path = Path::new(program);
    let name = path.file_stem().unwrap_or(program);
    name.to_string_lossy().into_owned()
}

/// A command, and the text that announces it.
pub(crate) struct Step {
    variables: String,
    shown: String,
    command: Command,
}

impl Step {
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        for argument in arguments {
            self.shown.push(' ');
            self.shown.push_str(&argument.as_ref().to_string_lossy());
            self.command.arg(argument);
        }
        self
    }

    /// Sets a variable of the environment and shows it in front of the command.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let text = value.as_ref().to_string_lossy();
        let quote = if text.contains(' ') { "'" } else { "" };
        self.variables
            .push_str(&format!("{name}={quote}{text}{quote} "));
        self.command.env(name, value);
        self
    }

    /// Runs the command in another folder than the root of the workspace.
    pub(crate) fn dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs the command with its output on this program's own.
    ///
    /// # Errors
    ///
    /// Fails if the command cannot start or does not exit with 0.
    pub(crate) fn run(mut self) -> Result<()> {
        report::step(&format!("{}{}", self.variables, self.shown));
        let status = self
            .command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("`{}` cannot start", self.shown))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.shown);
        }
        Ok(())
    }

    /// Runs the command without showing it or its output.
    ///
    /// # Errors
    ///
    /// Fails only if the command cannot start.
    pub(crate) fn output(mut self) -> Result<Output> {
        self.command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("`{}` cannot start", self.shown))
    }

    /// Runs the command without showing it and returns what it printed.
    ///
    /// # Errors
    ///
    /// Fails if the command cannot start or does not exit with 0, with what it said.
    pub(crate) fn read(self) -> Result<String> {
        let shown = self.shown.clone();
        let output = self.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{shown}` failed: {}", said.trim());
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{shown}` did not print text"))
    }
}
