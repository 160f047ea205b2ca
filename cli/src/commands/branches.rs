//! Buckets, branches, snapshots, and what they share.

use alknet_fs::{Bucket, Error, ErrorKind, NameConflict, Timestamp, TreeRef};
use serde::Serialize;

use super::sync::{holders, lacking};
use crate::app::App;
use crate::args::{BranchCommand, BucketCommand, ShareCheck, SnapshotCommand};
use crate::failure::{Failure, Result};
use crate::output::{self, BOLD, Cell, DIM, Table, Unit, percent, printable, size};

/// The branch that is used unless another is named.
const MAIN: &str = "main";

/// A change of a bucket, branch or snapshot.
#[derive(Default, Serialize)]
struct Named<'a> {
    op: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<String>,
    /// Whether later writes to what a branch was forked off show through.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<bool>,
}

#[derive(Serialize)]
struct BucketRecord<'a> {
    name: &'a str,
    branches: usize,
}

pub(crate) fn bucket(app: &App, command: BucketCommand) -> Result<()> {
    let store = app.store()?;
    match command {
        BucketCommand::List => {
            let mut table = Table::new(&["bucket", ">branches"]);
            for name in store.buckets()? {
                let branches = store.bucket(&name)?.branches()?.len();
                app.out.record(&BucketRecord {
                    name: &name,
                    branches,
                })?;
                table.push(vec![Cell::new(&name).styled(BOLD), Cell::right(branches)]);
            }
            Ok(app.out.table(&table)?)
        }
        BucketCommand::Create { name } => {
            store.create_bucket(&name)?;
            let record = named("create bucket", &name);
            Ok(app
                .out
                .done(&record, format_args!("made the bucket {name}"))?)
        }
        BucketCommand::Rename { name, new } => {
            store.rename_bucket(&name, &new)?;
            let record = Named {
                from: Some(name.clone()),
                ..named("rename bucket", &new)
            };
            Ok(app
                .out
                .done(&record, format_args!("renamed the bucket {name} to {new}"))?)
        }
        BucketCommand::Delete { name, yes } => {
            let bucket = store.bucket(&name)?;
            if !yes {
                let branches = output::count(bucket.branches()?.len() as u64, "branch", "branches");
                let mut detail = format!("this deletes {branches} with all files and history");
                let holders = holders(app, &name)?;
                if !holders.is_empty() {
                    let mut sharers = vec![format!("shared with {}", holders.join(", "))];
                    let lacking = lacking(app, &name)?.into_iter();
                    sharers.extend(lacking.map(|(who, lacks)| match lacks {
                        Some(lacks) => format!("{who} lacks {lacks}"),
                        None => format!("what {who} lacks is not known"),
                    }));
                    detail += &format!("; {}", printable(&sharers.join("; ")));
                }
                let error = Error::with_detail(ErrorKind::InUse, detail);
                let error = error.op("delete bucket").path(&name);
                return Err(Failure::with_hint(error, "say --yes to delete it for good"));
            }
            store.delete_bucket(&name)?;
            let record = named("delete bucket", &name);
            Ok(app
                .out
                .done(&record, format_args!("deleted the bucket {name}"))?)
        }
    }
}

fn named<'a>(op: &'static str, name: &'a str) -> Named<'a> {
    Named {
        op,
        name,
        ..Named::default()
    }
}

#[derive(Serialize)]
struct BranchRecord<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
    /// Whether later writes to the parent show through.
    live: bool,
    snapshots: usize,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    given: Option<String>,
}

pub(crate) fn branch(app: &App, command: BranchCommand) -> Result<()> {
    let bucket = app.bucket()?;
    match command {
        BranchCommand::List => {
            let given = Given::of(&bucket)?;
            let mut table = given.table(&["branch", "forked off", ">snapshots", "made"]);
            for info in bucket.branches()? {
                let conflict = given.find(&info.name, None);
                app.out.record(&BranchRecord {
                    name: &info.name,
                    parent: info.parent.as_deref(),
                    live: info.live,
                    snapshots: info.snapshots,
                    created: output::rfc3339(info.created),
                    given: conflict.map(|conflict| conflict.name.clone()),
                })?;
                let parent = match (&info.parent, info.live) {
                    (None, _) => "-".to_owned(),
                    (Some(parent), true) => format!("{parent} (live)"),
                    (Some(parent), false) => format!("{parent} (pinned)"),
                };
                table.push(vec![
                    Cell::new(&info.name).styled(BOLD),
                    Cell::new(parent),
                    Cell::right(info.snapshots),
                    Cell::new(output::time(info.created, output::MINUTE)).styled(DIM),
                    Cell::new(conflict.map(super::conflicts::given).unwrap_or_default()),
                ]);
            }
            Ok(app.out.table(&table)?)
        }
        BranchCommand::Create { name, from, pinned } => {
            let mut from = from.unwrap_or_else(|| app.tree());
            if pinned && from.snapshot.is_none() {
                from = fork_pinned(&bucket, &from.branch, &name)?;
            } else {
                bucket.fork(&from, &name)?;
            }
            let live = from.snapshot.is_none();
            let record = Named {
                from: Some(from.to_string()),
                live: Some(live),
                ..named("create branch", &name)
            };
            let what = match live {
                true => format!("live: later writes to {from} show through"),
                false => "pinned: nothing changes under it".to_owned(),
            };
            Ok(app
                .out
                .done(&record, format_args!("forked {name} off {from} ({what})"))?)
        }
        BranchCommand::Rename { name, new, yes } => {
            let branch = bucket.branch(&name)?;
            if name == MAIN && !yes {
                let detail = "commands and programs use main unless another branch is named";
                let error = Error::with_detail(ErrorKind::InUse, detail);
                let error = error.op("rename branch").path(&name);
                return Err(Failure::with_hint(
                    error,
                    "say --yes to rename it all the same",
                ));
            }
            branch.rename_to(&new)?;
            let record = Named {
                from: Some(name.clone()),
                ..named("rename branch", &new)
            };
            Ok(app
                .out
                .done(&record, format_args!("renamed the branch {name} to {new}"))?)
        }
        BranchCommand::Delete { name, yes } => {
            let snapshots = bucket.branch(&name)?.snapshots()?.len();
            if snapshots > 0 && !yes {
                let snapshots = output::count(snapshots as u64, "snapshot", "snapshots");
                let detail = format!("this deletes {snapshots} too");
                let error = Error::with_detail(ErrorKind::InUse, detail);
                let error = error.op("delete branch").path(&name);
                return Err(Failure::with_hint(
                    error,
                    "say --yes to delete them for good",
                ));
            }
            bucket.delete_branch(&name)?;
            let record = named("delete branch", &name);
            Ok(app
                .out
                .done(&record, format_args!("deleted the branch {name}"))?)
        }
        BranchCommand::Restore {
            name,
            snapshot,
            discard,
        } => {
            let branch = bucket.branch(&name)?;
            // Where the snapshot is missing, nothing is to be left behind.
            drop(branch.view_at(&snapshot)?);
            let mut saved = None;
            if !discard {
                let time = Timestamp(nanos_now());
                let before = format!("before-restore-{}", output::time(time, "%Y%m%d-%H%M%S-%6f"));
                saved = Some(branch.snapshot(&before)?.name);
            }
            branch.restore(&snapshot)?;
            let mut line = format!("{name} looks as it did at {snapshot}");
            if let Some(saved) = &saved {
                line += &format!("; what it was before is {name}@{saved}");
            }
            let record = Named {
                from: Some(format!("{name}@{snapshot}")),
                saved,
                ..named("restore", &name)
            };
            Ok(app.out.done(&record, line)?)
        }
    }
}

/// Forks a branch off a snapshot that is taken for it; returns which.
fn fork_pinned(bucket: &Bucket, from: &str, name: &str) -> Result<TreeRef> {
    let source = bucket.branch(from)?;
    // Where the name is taken, no snapshot is to be left behind.
    if bucket.branch(name).is_ok() {
        let error = Error::new(ErrorKind::AlreadyExists).op("fork").path(name);
        return Err(error.into());
    }
    let snapshot = source.snapshot(&format!("{name}-base"))?.name;
    let tree = TreeRef {
        branch: from.to_owned(),
        snapshot: Some(snapshot.clone()),
    };
    if let Err(error) = bucket.fork(&tree, name) {
        source.delete_snapshot(&snapshot)?;
        return Err(error.into());
    }
    Ok(tree)
}

fn nanos_now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The branches and snapshots of a bucket that have other names here than they were given.
struct Given(Vec<NameConflict>);

impl Given {
    fn of(bucket: &Bucket) -> Result<Self> {
        Ok(Self(bucket.name_conflicts()?))
    }

    fn find(&self, branch: &str, snapshot: Option<&str>) -> Option<&NameConflict> {
        let is_it = |c: &&NameConflict| c.branch == branch && c.snapshot.as_deref() == snapshot;
        self.0.iter().find(is_it)
    }

    /// Makes a table with a column for them, where there are any.
    fn table(&self, heads: &[&str]) -> Table {
        match self.0.is_empty() {
            true => Table::new(heads),
            false => Table::new(&[heads, &["is"]].concat()),
        }
    }
}

#[derive(Serialize)]
struct SnapshotRecord<'a> {
    branch: &'a str,
    name: &'a str,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    given: Option<String>,
}

pub(crate) fn snapshot(app: &App, command: SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::List => {
            let bucket = app.bucket()?;
            let names = match &app.global.branch {
                Some(tree) => vec![tree.branch.clone()],
                None => bucket.branches()?.into_iter().map(|b| b.name).collect(),
            };
            let given = Given::of(&bucket)?;
            let mut table = given.table(&["snapshot", "taken"]);
            for branch in &names {
                for snapshot in bucket.branch(branch)?.snapshots()? {
                    let conflict = given.find(branch, Some(&snapshot.name));
                    app.out.record(&SnapshotRecord {
                        branch,
                        name: &snapshot.name,
                        created: output::rfc3339(snapshot.created),
                        given: conflict.map(|conflict| conflict.name.clone()),
                    })?;
                    table.push(vec![
                        Cell::new(format_args!("{branch}@{}", snapshot.name)).styled(BOLD),
                        Cell::new(output::time(snapshot.created, output::SECOND)).styled(DIM),
                        Cell::new(conflict.map(super::conflicts::given).unwrap_or_default()),
                    ]);
                }
            }
            Ok(app.out.table(&table)?)
        }
        SnapshotCommand::Create { name } => {
            let branch = app.branch("snapshot")?;
            branch.snapshot(&name)?;
            let of = app.tree().branch;
            let record = Named {
                branch: Some(&of),
                ..named("create snapshot", &name)
            };
            Ok(app
                .out
                .done(&record, format_args!("took the snapshot {of}@{name}"))?)
        }
        SnapshotCommand::Rename { name, new } => {
            app.branch("rename snapshot")?
                .rename_snapshot(&name, &new)?;
            let of = app.tree().branch;
            let record = Named {
                branch: Some(&of),
                from: Some(name.clone()),
                ..named("rename snapshot", &new)
            };
            let line = format!("renamed the snapshot {of}@{name} to {of}@{new}");
            Ok(app.out.done(&record, line)?)
        }
        SnapshotCommand::Delete { name } => {
            app.branch("delete snapshot")?.delete_snapshot(&name)?;
            let of = app.tree().branch;
            let record = Named {
                branch: Some(&of),
                ..named("delete snapshot", &name)
            };
            Ok(app
                .out
                .done(&record, format_args!("forgot the snapshot {of}@{name}"))?)
        }
    }
}

#[derive(Serialize)]
struct ShareRecord {
    tree: String,
    files: u64,
    bytes: u64,
    shared_files: u64,
    stored: u64,
    shared: u64,
    own: u64,
}

#[derive(Serialize)]
struct ShareSum {
    trees: usize,
    apart: u64,
    stored: u64,
}

pub(crate) fn share_check(app: &App, args: ShareCheck) -> Result<()> {
    let bucket = app.bucket()?;
    let mut trees = args.tree;
    if trees.is_empty() {
        let names = bucket.branches()?.into_iter().map(|branch| TreeRef {
            branch: branch.name,
            snapshot: None,
        });
        trees.extend(names);
    }
    let (task, bar) = app.out.follow(app.task(), "share-check", Unit::Files);
    let sharing = bucket.sharing(&trees, &task)?;
    drop(bar);
    for tree in &sharing.trees {
        app.out.record(&ShareRecord {
            tree: tree.tree.to_string(),
            files: tree.files,
            bytes: tree.bytes,
            shared_files: tree.shared_files,
            stored: tree.stored,
            shared: tree.shared,
            own: tree.stored - tree.shared,
        })?;
    }
    app.out.table(&share_table(&sharing))?;
    let sum = ShareSum {
        trees: trees.len(),
        apart: sharing.apart,
        stored: sharing.stored,
    };
    app.out.record(&sum)?;
    app.out.line(format_args!(
        "together {}; plain copies would take {}",
        app.out.paint(BOLD, size(sum.stored)),
        size(sum.apart),
    ))?;
    Ok(())
}

/// Makes the table of what each tree holds and shares with the others.
pub(crate) fn share_table(sharing: &alknet_fs::Sharing) -> Table {
    let heads = [
        "branch",
        ">files",
        ">size",
        ">shared files",
        ">shared",
        ">share",
        ">its own",
    ];
    let mut table = Table::new(&heads);
    for tree in &sharing.trees {
        table.push(vec![
            Cell::new(&tree.tree).styled(BOLD),
            Cell::right(tree.files),
            Cell::right(size(tree.bytes)),
            Cell::right(tree.shared_files),
            Cell::right(size(tree.shared)),
            Cell::right(percent(tree.shared, tree.stored)),
            Cell::right(size(tree.stored - tree.shared)),
        ]);
    }
    table
}
