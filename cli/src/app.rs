//! What every command works with: the store, the output, the way to cancel.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use alknet_fs::{
    Branch, Bucket, Cancel, DEFAULT_BUCKET, Error, ErrorKind, Options, Store, Task, TreeRef, View,
};
use tracing_subscriber::EnvFilter;

use crate::args::Global;
use crate::failure::Result;
use crate::output::Output;

/// Where the store is unless `--store` or `ALKFS_STORE` says otherwise.
const DEFAULT_STORE: &str = ".alkfs";

/// The exit status after Ctrl-C, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

pub(crate) struct App {
    pub(crate) global: Global,
    pub(crate) out: Output,
    store: OnceCell<Store>,
    cancel: OnceCell<Cancel>,
}

impl App {
    pub(crate) fn new(global: Global) -> Self {
        log_to_stderr(global.verbose, global.quiet);
        Self {
            out: Output::new(global.json, global.quiet, global.verbose > 0),
            global,
            store: OnceCell::new(),
            cancel: OnceCell::new(),
        }
    }

    /// Returns the store's directory.
    pub(crate) fn store_path(&self) -> PathBuf {
        let chosen = self.global.store.clone();
        chosen.unwrap_or_else(|| DEFAULT_STORE.into())
    }

    pub(crate) fn options(&self) -> Options {
        match &self.global.author {
            Some(author) => Options::new().author(author),
            None => Options::new(),
        }
    }

    /// Opens the store, once.
    pub(crate) fn store(&self) -> Result<&Store> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let path = self.store_path();
        let opened = self.options().open(&path);
        let store = opened.map_err(|e| e.path(path.display()))?;
        Ok(self.store.get_or_init(|| store))
    }

    /// Returns the store if it was opened.
    pub(crate) fn opened_store(&self) -> Option<&Store> {
        self.store.get()
    }

    pub(crate) fn bucket_name(&self) -> &str {
        self.global.bucket.as_deref().unwrap_or(DEFAULT_BUCKET)
    }

    pub(crate) fn bucket(&self) -> Result<Bucket> {
        Ok(self.store()?.bucket(self.bucket_name())?)
    }

    /// Returns what `--branch` names: a branch, or one of its snapshots.
    pub(crate) fn tree(&self) -> TreeRef {
        self.global.branch.clone().unwrap_or_else(|| TreeRef {
            branch: "main".to_owned(),
            snapshot: None,
        })
    }

    /// Opens the tree that `--branch` names for reading.
    pub(crate) fn view(&self) -> Result<View> {
        Ok(self.bucket()?.view(&self.tree())?)
    }

    /// Opens the branch that `--branch` names for a command that needs a branch, not a snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`] for a snapshot.
    pub(crate) fn branch(&self, op: &'static str) -> Result<Branch> {
        let tree = self.tree();
        if tree.snapshot.is_some() {
            let detail = format!("{tree} is a snapshot, and snapshots never change");
            return Err(Error::with_detail(ErrorKind::ReadOnly, detail)
                .op(op)
                .into());
        }
        Ok(self.bucket()?.branch(&tree.branch)?)
    }

    /// Returns the switch that Ctrl-C turns, or whoever ends the process in order (`SIGTERM`); a second
    /// time ends it at once.
    pub(crate) fn cancel(&self) -> &Cancel {
        self.cancel.get_or_init(|| {
            let cancel = Cancel::new();
            let switch = cancel.clone();
            let end = move || {
                if switch.is_cancelled() {
                    std::process::exit(i32::from(INTERRUPTED));
                }
                switch.cancel();
            };
            #[cfg(unix)]
            if let Err(error) = on_terminate(end.clone()) {
                eprintln!("warning: SIGTERM ends the work at once: {error}");
            }
            if let Err(error) = ctrlc::set_handler(end) {
                eprintln!("warning: Ctrl-C ends the work at once: {error}");
            }
            cancel
        })
    }

    /// Returns a task that Ctrl-C cancels.
    pub(crate) fn task(&self) -> Task {
        Task::new().cancel_with(self.cancel())
    }
}

/// Does something whenever the process is told to end. That its terminal is gone is left to whoever started
/// it, such as `nohup`.
#[cfg(unix)]
fn on_terminate(end: impl Fn() + Send + 'static) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    let thread = std::thread::Builder::new().name("alkfs-signals".to_owned());
    thread.spawn(move || signals.forever().for_each(|_| end()))?;
    Ok(())
}

/// Returns the name a file has in its directory, for a path inside the store.
pub(crate) fn file_name(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    let invalid = || {
        let detail = "the file has no name that a store can keep: give the whole path";
        Error::with_detail(ErrorKind::InvalidPath, detail).path(path.display())
    };
    Ok(name.ok_or_else(invalid)?)
}

fn log_to_stderr(verbose: u8, quiet: bool) {
    let default = match (quiet, verbose) {
        (true, _) => "off",
        // That a member is not reached is nothing to warn of: others are asked.
        (false, 0) => "warn,iroh_gossip=error",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = std::env::var("ALKFS_LOG").unwrap_or_else(|_| default.to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(crate::output::stderr_has_colors())
        .without_time()
        .init();
}
