//! Conflicts: listing and deciding them.

use alknet_fs::{ErrorKind, EventPeer, Fetching, Keep, NameConflict, Node, Side, SideWritten};
use serde::Serialize;

use super::records::{called, octal};
use crate::app::App;
use crate::args::{Conflicts, KeepSide, Resolve};
use crate::failure::{Failure, Result};
use crate::output::{self, BOLD, Cell, DIM, Table, Unit, count, printable, size};

#[derive(Serialize)]
struct ConflictRecord<'a> {
    conflict: &'static str,
    branch: &'a str,
    path: &'a str,
    shown: SideRecord,
    others: Vec<SideRecord>,
}

#[derive(Serialize)]
struct SideRecord {
    /// `file`, `dir`, `symlink` or `removed`.
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    /// Whether the content of a file is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_here: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<EventPeer>,
    here: bool,
}

#[derive(Serialize)]
struct NameRecord<'a> {
    conflict: &'static str,
    branch: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'a str>,
    name: &'a str,
    #[serde(flatten)]
    given: GivenRecord,
}

/// Who gave a name.
#[derive(Default, Serialize)]
struct GivenRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<EventPeer>,
    here: bool,
}

impl GivenRecord {
    fn of(written: Option<&SideWritten>) -> Self {
        written.map_or_else(Self::default, |written| Self {
            replica: Some(written.replica.to_string()),
            peer: written.peer.clone(),
            here: written.here,
        })
    }
}

#[derive(Serialize)]
struct ResolveRecord<'a> {
    op: &'static str,
    branch: &'a str,
    path: &'a str,
    kept: String,
    /// Where the others are.
    beside: Vec<&'a str>,
}

impl SideRecord {
    fn of(side: &Side) -> Self {
        let (entry, written) = (side.entry.as_ref(), side.written.as_ref());
        let attrs = entry.map(|entry| entry.attrs);
        let (size, target) = match entry.map(|entry| &entry.node) {
            Some(Node::File { size, .. }) => (Some(*size), None),
            Some(Node::Symlink { target }) => (None, Some(target.to_string())),
            Some(Node::Dir) | None => (None, None),
        };
        Self {
            what: what(side),
            size,
            hash: entry.and_then(|entry| Some(entry.hash()?.to_hex())),
            content_here: size.map(|_| side.content_here),
            target,
            mode: attrs.map(|attrs| octal(attrs.mode)),
            mtime: attrs.map(|attrs| output::rfc3339(attrs.mtime)),
            written: written.map(|written| output::rfc3339(written.at)),
            replica: written.map(|written| written.replica.to_string()),
            peer: written.and_then(|written| written.peer.clone()),
            here: written.is_some_and(|written| written.here),
        }
    }
}

fn what(side: &Side) -> &'static str {
    match side.entry.as_ref().map(|entry| &entry.node) {
        Some(Node::File { .. }) => "file",
        Some(Node::Dir) => "dir",
        Some(Node::Symlink { .. }) => "symlink",
        None => "removed",
    }
}

pub(crate) fn conflicts(app: &App, args: &Conflicts) -> Result<()> {
    let bucket = app.bucket()?;
    let mut names = bucket.name_conflicts()?;
    let conflicts = match &args.of {
        Some(name) => {
            names.retain(|conflict| conflict.branch == *name);
            bucket.branch(name)?.conflicts()?
        }
        None => bucket.conflicts()?,
    };
    let heads = [
        "branch", "path", ">keep", "what", ">size", "written", "by", "hash",
    ];
    let mut table = Table::new(&heads);
    for conflict in &conflicts {
        app.out.record(&ConflictRecord {
            conflict: "path",
            branch: &conflict.branch,
            path: conflict.path.as_str(),
            shown: SideRecord::of(&conflict.shown),
            others: conflict.others.iter().map(SideRecord::of).collect(),
        })?;
        table.push(row(
            &conflict.branch,
            conflict.path.as_str(),
            "winner",
            &conflict.shown,
        ));
        for (n, other) in (1..).zip(&conflict.others) {
            table.push(row("", "", &n.to_string(), other));
        }
    }
    for conflict in &names {
        app.out.record(&NameRecord {
            conflict: "name",
            branch: &conflict.branch,
            snapshot: conflict.snapshot.as_deref(),
            name: &conflict.name,
            given: GivenRecord::of(conflict.written.as_ref()),
        })?;
    }
    if conflicts.is_empty() && names.is_empty() {
        app.out.note("there are no conflicts");
        return Ok(());
    }
    if !conflicts.is_empty() {
        app.out.table(&table)?;
    }
    for conflict in &names {
        let shown = match &conflict.snapshot {
            None => format!("branch {}", conflict.branch),
            Some(snapshot) => format!("snapshot {}@{snapshot}", conflict.branch),
        };
        let what = match &conflict.snapshot {
            None => "branch",
            Some(_) => "snapshot",
        };
        app.out.line(format_args!(
            "{}: {}; another {what} has that name, too",
            printable(&shown),
            printable(&given(conflict))
        ))?;
    }
    if !conflicts.is_empty() {
        app.out.note(format_args!(
            "{}: what is shown as the winner is at the path; `alkfs resolve PATH --keep winner|N|both` \
             decides, and so does whoever writes the path; `alkfs cat --side N PATH` prints one",
            count(conflicts.len() as u64, "path in conflict", "paths in conflict")
        ));
    }
    if !names.is_empty() {
        app.out.note(format_args!(
            "{}: `alkfs branch rename` and `alkfs snapshot rename` settle it, and so does deleting one",
            count(names.len() as u64, "name in conflict", "names in conflict")
        ));
    }
    Ok(())
}

/// Says which name a branch or a snapshot was given that has another one here, and by whom.
pub(crate) fn given(conflict: &NameConflict) -> String {
    match conflict.written.as_ref().map(by) {
        Some(by) => format!("{} of {by}", conflict.name),
        None => format!("called {} elsewhere", conflict.name),
    }
}

/// Says who wrote, for people.
fn by(written: &SideWritten) -> String {
    match &written.peer {
        _ if written.here => "this store".to_owned(),
        Some(peer) => called(peer).to_owned(),
        None => written.replica.to_string()[..8].to_owned(),
    }
}

fn row(branch: &str, path: &str, keep: &str, side: &Side) -> Vec<Cell> {
    let entry = side.entry.as_ref();
    let bytes = entry.filter(|entry| entry.is_file());
    let written = side.written.as_ref();
    let (written, by) = (written.map(|written| written.at), written.map(by));
    let hash = entry.and_then(alknet_fs::Entry::hash);
    let size = match bytes.map(|entry| size(entry.size())) {
        Some(size) if !side.content_here => format!("{size}, elsewhere"),
        Some(size) => size,
        None => "-".to_owned(),
    };
    vec![
        Cell::new(branch),
        Cell::new(path).styled(BOLD),
        Cell::right(keep),
        Cell::new(what(side)),
        Cell::right(size),
        Cell::new(written.map_or("-".to_owned(), |at| output::time(at, output::SECOND)))
            .styled(DIM),
        Cell::new(by.unwrap_or_else(|| "-".to_owned())),
        Cell::new(hash.map_or("-".to_owned(), |hash| hash.to_hex()[..10].to_owned())).styled(DIM),
    ]
}

pub(crate) fn resolve(app: &App, args: &Resolve) -> Result<()> {
    let branch = app.branch("resolve")?;
    let (keep, kept) = match args.keep {
        KeepSide::Winner => (Keep::Winner, "winner".to_owned()),
        KeepSide::Both => (Keep::Both, "both".to_owned()),
        KeepSide::Other(n) => (Keep::Loser(n - 1), n.to_string()),
    };
    let (task, bar) = app.out.follow(app.task(), "fetch", Unit::Bytes);
    let branch = branch.fetching(&Fetching::new().task(&task));
    let done = branch.resolve(&args.path, keep);
    drop(bar);
    let done = done.map_err(|e| {
        let known = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput);
        match known {
            true => Failure::with_hint(e, "`alkfs conflicts` lists what there is to decide"),
            false => e.into(),
        }
    })?;
    let beside: Vec<_> = done.beside.iter().map(|path| path.as_str()).collect();
    let record = ResolveRecord {
        op: "resolve",
        branch: &branch.name()?,
        path: &args.path,
        kept,
        beside,
    };
    let path = printable(&args.path);
    let line = match (args.keep, &done.beside[..]) {
        (KeepSide::Winner, _) | (KeepSide::Both, []) => format!("kept what was at {path}"),
        (KeepSide::Other(n), _) => format!("kept {n} at {path}"),
        (KeepSide::Both, beside) => {
            let beside = beside.iter().map(|path| printable(path.as_str()));
            let beside = beside.collect::<Vec<_>>().join(", ");
            format!("kept {path}, and beside it {beside}")
        }
    };
    Ok(app.out.done(&record, line)?)
}
