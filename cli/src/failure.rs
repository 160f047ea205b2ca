//! Errors as a person, or a program, gets to see them.

use std::error::Error as StdError;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use alknet_fs::{Error, ErrorKind, TreePath};
use serde::Serialize;

use crate::app::{App, INTERRUPTED};
use crate::commands::short;
use crate::output::{printable, stderr_style};

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command does not exit with success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The operation failed.
    Error {
        error: Error,
        /// What to do next, where the command knows better than the error's kind.
        hint: Option<String>,
    },
    /// The command did its work and found something, or a part was left out; it has said so.
    Found,
    /// Nobody reads the output any more.
    BrokenPipe,
    /// The output could not be written.
    Output(Error),
}

impl Failure {
    pub(crate) fn with_hint(error: Error, hint: impl Into<String>) -> Self {
        Self::Error {
            error,
            hint: Some(hint.into()),
        }
    }

    /// Prints the error and returns the exit status.
    pub(crate) fn report(self, app: &App) -> ExitCode {
        let flushed = app.out.flush();
        match self {
            Self::BrokenPipe => ExitCode::SUCCESS,
            Self::Found => match flushed.map_err(Self::from) {
                Err(failure) => failure.report(app),
                Ok(()) => ExitCode::FAILURE,
            },
            Self::Output(error) => {
                print(&error, None, app.global.json);
                ExitCode::FAILURE
            }
            Self::Error { error, hint } => {
                let hint = hint.or_else(|| hint_for(&error, app));
                print(&error, hint.as_deref(), app.global.json);
                if error.is_cancelled() {
                    return ExitCode::from(INTERRUPTED);
                }
                ExitCode::FAILURE
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let pipe = StdError::source(&error)
            .and_then(|source| source.downcast_ref::<io::Error>())
            .is_some_and(|source| source.kind() == io::ErrorKind::BrokenPipe);
        if pipe {
            return Self::BrokenPipe;
        }
        Self::Error { error, hint: None }
    }
}

impl From<io::Error> for Failure {
    /// Makes the failure of standard output: what fails elsewhere names its file and comes as an
    /// [`Error`].
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::Output(Error::from(error).op("write").path("standard output"))
    }
}

/// An error as a line of JSON.
#[derive(Serialize)]
struct Record<'a> {
    kind: &'a str,
    code: &'a str,
    errno: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Record<'_> {
    fn to_line(&self) -> String {
        // Strings and numbers always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn print(error: &Error, hint: Option<&str>, json: bool) {
    let mut stderr = anstream::stderr().lock();
    // Where standard error is closed there is nobody left to tell.
    if json {
        let record = Record {
            kind: error.kind().name(),
            code: error.code(),
            errno: error.errno(),
            op: error.operation(),
            path: error.subject(),
            message: error.to_string(),
            hint,
        };
        let _ = writeln!(stderr, "{}", record.to_line());
        return;
    }
    let (bad, note) = stderr_style();
    let message = error.to_string();
    let _ = writeln!(stderr, "{bad}error:{bad:#} {}", printable(&message));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{note} hint:{note:#} {}", printable(hint));
    }
}

/// Prints what clap found wrong with the command line, or the help that was asked for.
pub(crate) fn usage_error(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os()
        .take_while(|arg| arg != "--")
        .any(|arg| arg == "--json");
    if error.use_stderr() && json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default();
        let record = Record {
            kind: "Usage",
            code: ErrorKind::InvalidInput.code(),
            errno: ErrorKind::InvalidInput.errno(),
            op: None,
            path: None,
            message: message.trim_start_matches("error: ").to_owned(),
            hint: Some("see `alkfs help`"),
        };
        let _ = writeln!(io::stderr(), "{}", record.to_line());
    } else {
        let _ = error.print();
    }
    ExitCode::from(u8::from(error.use_stderr()) * 2)
}

/// Says what to do about an error, with names that the user may have meant.
fn hint_for(error: &Error, app: &App) -> Option<String> {
    let op = error.operation().unwrap_or_default();
    let hint = match error.kind() {
        ErrorKind::NotAStore if !app.store_path().join("store.db").exists() => {
            no_store(&app.store_path(), app.global.store.is_some())
        }
        ErrorKind::NotFound => return not_found(error, app),
        ErrorKind::IsADirectory if op == "unlink" => {
            "remove a directory with `alkfs rm -r`".to_owned()
        }
        ErrorKind::IsADirectory if matches!(op, "export" | "get") => {
            "a directory of the disk is where the file would go: move it away, or write elsewhere"
                .to_owned()
        }
        ErrorKind::IsADirectory => "it is a directory: see `alkfs ls`".to_owned(),
        ErrorKind::NotEmpty if op == "export" => {
            "use --overwrite to write into it all the same".to_owned()
        }
        ErrorKind::AlreadyExists if op == "mkdir" => {
            let there = app.view().ok()?.stat(error.subject()?).ok();
            match there.is_some_and(|entry| entry.is_dir()) {
                true => "use -p to accept directories that exist".to_owned(),
                false => "what is there is no directory: remove it, or use another name".to_owned(),
            }
        }
        ErrorKind::AlreadyExists if op == "mkfs" => "it can be used as it is".to_owned(),
        ErrorKind::ReadOnly => {
            let tree = app.tree();
            format!("fork it: `alkfs branch create NAME --from {tree}`, then use --branch NAME")
        }
        ErrorKind::Locked if op == "start node" => return None,
        ErrorKind::InvalidInput if op == "revoke" => {
            "`alkfs peers` shows the keys, `alkfs peers grants` the ids".to_owned()
        }
        ErrorKind::ContentUnavailable if op == "evict" => {
            "only what a peer is known to hold is evicted: start `alkfs node`".to_owned()
        }
        ErrorKind::Locked => "see who holds it with `alkfs sessions list`".to_owned(),
        ErrorKind::Lagged => {
            "watch with --after and a later cursor, or without --after from now on".to_owned()
        }
        ErrorKind::Corrupt => "run `alkfs fsck` to see all that is damaged".to_owned(),
        ErrorKind::ContentUnavailable => {
            "it comes from another node: `alkfs sync status` tells whether one runs here, who is \
             connected, and why others are not"
                .to_owned()
        }
        ErrorKind::NoSpace => "free some space; `alkfs gc` removes what nothing uses".to_owned(),
        ErrorKind::Busy => "another process writes for very long: try again".to_owned(),
        ErrorKind::Unsupported if op == "link" => {
            "use `alkfs cp`, or `alkfs ln -s` for a symbolic link".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// Says what to do where a directory has no store.
fn no_store(dir: &Path, named: bool) -> String {
    let has = |name: &str| dir.join(name).exists();
    let is_empty = fs::read_dir(dir).map_or(!dir.exists(), |mut items| items.next().is_none());
    if has("blobs") || has("locks") || has("store.db-turn") {
        "its store.db is gone: put it back from a backup; until then, change nothing there"
            .to_owned()
    } else if !is_empty {
        "it is no store: name the right one with --store or ALKFS_STORE".to_owned()
    } else {
        let at = match named {
            true => format!("alkfs --store {} mkfs", dir.display()),
            false => "alkfs mkfs".to_owned(),
        };
        format!("run `{at}` first, or name another store with --store or ALKFS_STORE")
    }
}

fn not_found(error: &Error, app: &App) -> Option<String> {
    match error.operation() {
        Some("name peer" | "forget peer") => {
            return Some(known_peers(app, "`alkfs peers` lists them"));
        }
        Some("revoke") => {
            let lists = "`alkfs peers` and `alkfs peers grants` list what there is";
            return Some(known_peers(app, lists));
        }
        _ => {}
    }
    let name = error.subject()?;
    let store = app.opened_store()?;
    match error.detail() {
        "no such bucket" => {
            let names = store.buckets().ok()?;
            Some(meant(name, names, "alkfs bucket list"))
        }
        "no such branch" => {
            let branches = app.bucket().ok()?.branches().ok()?;
            let names = branches.into_iter().map(|branch| branch.name);
            Some(meant(name, names, "alkfs branch list"))
        }
        "no such snapshot" => {
            let mut names = Vec::new();
            for branch in app.bucket().ok()?.branches().ok()? {
                let branch = app.bucket().ok()?.branch(&branch.name).ok()?;
                names.extend(branch.snapshots().ok()?.into_iter().map(|s| s.name));
            }
            Some(meant(name, names, "alkfs snapshot list"))
        }
        "no such write session" => Some("see `alkfs sessions list`".to_owned()),
        _ => similar_path(name, app),
    }
}

/// Says by what names peers are known, and what lists them.
fn known_peers(app: &App, lists: &str) -> String {
    let peers = app.opened_store().and_then(|store| store.peers().ok());
    let names = peers.into_iter().flatten().map(|peer| match peer.name {
        Some(name) => name,
        None => short(&peer.id).to_owned(),
    });
    let names: Vec<_> = names.take(10).collect();
    match names.is_empty() {
        true => lists.to_owned(),
        false => format!("there is {}; {lists}", names.join(", ")),
    }
}

/// Looks beside a path that does not exist, or beside its nearest ancestor that does not.
fn similar_path(name: &str, app: &App) -> Option<String> {
    let mut path = TreePath::parse(name)
        .ok()
        .filter(|_| name.starts_with('/'))?;
    let view = app.view().ok()?;
    loop {
        let parent = path.parent()?;
        if let Ok(entries) = view.list(&parent) {
            let names = entries.iter().map(|entry| &*entry.name);
            let near = nearest(path.name(), names)?;
            let near = parent.join(near).ok()?;
            return Some(format!("did you mean {near}? See `alkfs ls {parent}`"));
        }
        path = parent;
    }
}

fn meant<S: AsRef<str>>(name: &str, names: impl IntoIterator<Item = S>, list: &str) -> String {
    let names: Vec<S> = names.into_iter().collect();
    match nearest(name, names.iter().map(AsRef::as_ref)) {
        Some(near) => format!("did you mean {near:?}? See `{list}`"),
        None => format!("see `{list}`"),
    }
}

fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names
        .into_iter()
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(score, other)| *score > 0.8 && *other != name);
    scored
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_near() {
        let names = ["main", "agent-a", "agent-b"];
        assert_eq!(nearest("mian", names), Some("main"));
        assert_eq!(nearest("agent-aa", names), Some("agent-a"));
        assert_eq!(nearest("zebra", names), None);
    }

    #[test]
    fn a_broken_pipe_is_found_inside_an_error() {
        let io = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::from(io), Failure::BrokenPipe));
        let inside = Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(Failure::from(inside), Failure::BrokenPipe));
        let other = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(Failure::from(other), Failure::Output(_)));
    }
}
