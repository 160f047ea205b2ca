//! What changed: between trees, over time, and now.

use std::time::{Duration, Instant};

use alknet_fs::{
    Bucket, Cursor, Difference, Entry, Error, ErrorKind, Event, EventFilter, Node, Op, TreePath,
    TreeRef, View, WatchOptions,
};
use anstyle::Style;
use serde::Serialize;
use similar::TextDiff;

use super::records::{EventRecord, called, octal, who};
use crate::app::App;
use crate::args::{Diff, Log, Watch};
use crate::failure::{Failure, Result};
use crate::output::{self, BAD, BOLD, Cell, DIM, GOOD, LINK, Table, WARN, count, printable, size};

/// Files above this size are not compared as text.
const TEXT_MAX: u64 = 8 << 20;

#[derive(Serialize)]
struct DiffRecord<'a> {
    change: &'static str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    kind: alknet_fs::Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// How many differences there are of each kind.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DiffSum {
    pub(crate) added: u64,
    pub(crate) modified: u64,
    pub(crate) deleted: u64,
    pub(crate) renamed: u64,
    pub(crate) added_bytes: u64,
    pub(crate) deleted_bytes: u64,
}

impl DiffSum {
    pub(crate) fn of<'a>(differences: impl IntoIterator<Item = &'a Difference>) -> Self {
        let mut sum = Self::default();
        for difference in differences {
            let (old, new) = sides(difference);
            match difference {
                Difference::Added { .. } => sum.added += 1,
                Difference::Deleted { .. } => sum.deleted += 1,
                Difference::Modified { .. } => sum.modified += 1,
                Difference::Renamed { .. } => sum.renamed += 1,
            }
            let (old, new) = (old.map_or(0, Entry::size), new.map_or(0, Entry::size));
            sum.added_bytes += new.saturating_sub(old);
            sum.deleted_bytes += old.saturating_sub(new);
        }
        sum
    }

    fn total(&self) -> u64 {
        self.added + self.modified + self.deleted + self.renamed
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{} added, {} modified, {} deleted, {} renamed; +{} -{}",
            self.added,
            self.modified,
            self.deleted,
            self.renamed,
            size(self.added_bytes),
            size(self.deleted_bytes)
        )
    }
}

fn sides(difference: &Difference) -> (Option<&Entry>, Option<&Entry>) {
    match difference {
        Difference::Added { new } => (None, Some(new)),
        Difference::Deleted { old } => (Some(old), None),
        Difference::Modified { old, new } | Difference::Renamed { old, new, .. } => {
            (Some(old), Some(new))
        }
    }
}

pub(crate) fn diff(app: &App, args: &Diff) -> Result<()> {
    let bucket = app.bucket()?;
    let differences = bucket.diff(&args.a, &args.b, args.path.as_str())?;
    let content = match args.content {
        true => Some(bucket.view(&args.b)?),
        false => None,
    };
    if !args.stat {
        for (path, difference) in &differences {
            app.cancel().check()?;
            let text = match &content {
                Some(view) => text_diff(view, path, difference)?,
                None => None,
            };
            app.out
                .record(&diff_record(path, difference, text.as_deref()))?;
            app.out.line(diff_line(app, path, difference))?;
            if let Some(text) = text {
                print_text_diff(app, &text)?;
            }
        }
    }
    let sum = DiffSum::of(differences.iter().map(|(_, difference)| difference));
    app.out.record(&sum)?;
    if sum.total() == 0 {
        let path = TreePath::parse(&args.path)?;
        if is_missing(&bucket.view(&args.a)?, &path) && is_missing(&bucket.view(&args.b)?, &path) {
            app.out.warn(format_args!(
                "there is no {} in either of them",
                printable(path.as_str())
            ));
        }
        app.out.line(format_args!(
            "no differences between {} and {}",
            args.a, args.b
        ))?;
        return Ok(());
    }
    app.out.line(app.out.paint(BOLD, sum.line()))?;
    Err(Failure::Found)
}

/// Tells whether nothing is at a path; what cannot be looked at is not missing.
fn is_missing(view: &View, path: &TreePath) -> bool {
    let missing = |e: &Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    view.lstat(path).is_err_and(|e| missing(&e))
}

/// Prints how two trees differ, at most so many differences.
pub(crate) fn print_diff(
    app: &App,
    bucket: &Bucket,
    a: &TreeRef,
    b: &TreeRef,
    limit: usize,
) -> Result<DiffSum> {
    let differences = bucket.diff(a, b, "/")?;
    for (path, difference) in differences.iter().take(limit) {
        app.out.record(&diff_record(path, difference, None))?;
        app.out
            .line(format_args!("  {}", diff_line(app, path, difference)))?;
    }
    if differences.len() > limit {
        app.out
            .line(format_args!("  and {} more", differences.len() - limit))?;
    }
    Ok(DiffSum::of(differences.iter().map(|(_, d)| d)))
}

fn diff_record<'a>(
    path: &'a TreePath,
    difference: &'a Difference,
    text: Option<&str>,
) -> DiffRecord<'a> {
    let (old, new) = sides(difference);
    let mode = |entry: Option<&Entry>| entry.map(|entry| octal(entry.attrs.mode));
    let hash = |entry: Option<&Entry>| entry.and_then(Entry::hash).map(|hash| hash.to_hex());
    let (change, from) = match difference {
        Difference::Added { .. } => ("added", None),
        Difference::Deleted { .. } => ("deleted", None),
        Difference::Modified { .. } => ("modified", None),
        Difference::Renamed { from, .. } => ("renamed", Some(from.as_str())),
    };
    let shown = match difference {
        Difference::Added { new }
        | Difference::Modified { new, .. }
        | Difference::Renamed { new, .. } => new,
        Difference::Deleted { old } => old,
    };
    DiffRecord {
        change,
        path: path.as_str(),
        from,
        kind: shown.kind(),
        old_size: old.map(Entry::size),
        new_size: new.map(Entry::size),
        old_hash: hash(old),
        new_hash: hash(new),
        old_mode: mode(old),
        new_mode: mode(new),
        text: text.map(str::to_owned),
    }
}

fn diff_line(app: &App, path: &TreePath, difference: &Difference) -> String {
    let path = printable(path.as_str());
    let slash = |entry: &Entry| if entry.is_dir() { "/" } else { "" };
    let sized = |entry: &Entry| match entry.is_file() {
        true => format!("  {}", app.out.paint(DIM, size(entry.size()))),
        false => String::new(),
    };
    let marked =
        |style: Style, mark: char, text: String| format!("{} {text}", app.out.paint(style, mark));
    match difference {
        Difference::Added { new } => {
            marked(GOOD, 'A', format!("{path}{}{}", slash(new), sized(new)))
        }
        Difference::Deleted { old } => {
            marked(BAD, 'D', format!("{path}{}{}", slash(old), sized(old)))
        }
        Difference::Renamed { from, new, .. } => {
            let from = printable(from.as_str());
            marked(LINK, 'R', format!("{from} -> {path}{}", sized(new)))
        }
        Difference::Modified { old, new } => {
            let how = app.out.paint(DIM, changes(old, new));
            marked(WARN, 'M', format!("{path}{}  {how}", slash(new)))
        }
    }
}

fn changes(old: &Entry, new: &Entry) -> String {
    let mut parts = Vec::new();
    match (&old.node, &new.node) {
        (Node::File { hash: a, .. }, Node::File { hash: b, .. }) if a != b => {
            parts.push(match old.size() == new.size() {
                true => size(new.size()),
                false => format!("{} -> {}", size(old.size()), size(new.size())),
            });
        }
        (Node::Symlink { target: a }, Node::Symlink { target: b }) if a != b => {
            parts.push(format!("{} -> {}", printable(a), printable(b)));
        }
        (a, b) if a != b => parts.push(format!("{} -> {}", old.kind().name(), new.kind().name())),
        _ => {}
    }
    let (a, b) = (old.attrs, new.attrs);
    if a.mode != b.mode {
        parts.push(format!("mode {} -> {}", octal(a.mode), octal(b.mode)));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        parts.push(format!("owner {}:{} -> {}:{}", a.uid, a.gid, b.uid, b.gid));
    }
    if parts.is_empty() {
        parts.push("time only".to_owned());
    }
    parts.join(", ")
}

/// Compares the text of a file's two versions; nothing where there is no content to compare.
fn text_diff(view: &View, path: &TreePath, difference: &Difference) -> Result<Option<String>> {
    let (old, new) = sides(difference);
    let files = [old, new].map(|side| side.filter(|entry| entry.is_file()));
    let [old, new] = files;
    if old.and_then(Entry::hash) == new.and_then(Entry::hash) {
        return Ok(None);
    }
    let mut texts = [const { String::new() }; 2];
    for (side, text) in [old, new].into_iter().zip(&mut texts) {
        let Some(entry) = side else { continue };
        let Some(hash) = entry.hash() else { continue };
        if entry.size() > TEXT_MAX {
            return Ok(Some(
                "Files differ and are too large to compare as text\n".to_owned(),
            ));
        }
        let mut bytes = Vec::new();
        let task = alknet_fs::Task::new();
        let reader = view.open_content(&hash)?;
        reader.copy_range(0..entry.size(), &mut bytes, &task)?;
        match String::from_utf8(bytes) {
            Ok(found) if !found.contains('\0') => *text = found,
            _ => return Ok(Some("Binary files differ\n".to_owned())),
        }
    }
    let [old_text, new_text] = &texts;
    let header = |side: Option<&Entry>, letter: &str, path: &TreePath| match side {
        Some(_) => format!("{letter}{path}"),
        None => "/dev/null".to_owned(),
    };
    let (a, b) = (header(old, "a", path), header(new, "b", path));
    let diff = TextDiff::from_lines(old_text.as_str(), new_text.as_str());
    Ok(Some(diff.unified_diff().header(&a, &b).to_string()))
}

fn print_text_diff(app: &App, text: &str) -> Result<()> {
    for line in text.lines() {
        let style = match line.as_bytes().first() {
            _ if line.starts_with("+++") || line.starts_with("---") => BOLD,
            Some(b'+') => GOOD,
            Some(b'-') => BAD,
            Some(b'@') => LINK,
            _ => Style::new(),
        };
        // A tab is part of the text; what else steers a terminal is not to reach it.
        let shown: Vec<_> = line.split('\t').map(printable).collect();
        app.out.line(app.out.paint(style, shown.join("\t")))?;
    }
    Ok(())
}

fn filter(app: &App, path: Option<&str>, globs: &[String], all: bool) -> Result<EventFilter> {
    let mut filter = EventFilter::all();
    if !all {
        filter = filter.branch(app.tree().branch);
    }
    if let Some(path) = path {
        filter = filter.under(TreePath::parse(path)?);
    }
    if !globs.is_empty() {
        filter = filter.globs(globs)?;
    }
    Ok(filter)
}

pub(crate) fn log(app: &App, args: &Log) -> Result<()> {
    let bucket = app.bucket()?;
    let tree = app.tree();
    // A mistyped branch has no events; it is an error, not an empty log.
    let view = bucket.view(&tree)?;
    let filter = filter(app, args.path.as_deref(), &args.glob, args.all_branches)?;
    let events = match &tree.snapshot {
        None => bucket.log(&filter, args.count)?,
        Some(name) => {
            let snapshots = bucket.branch(&tree.branch)?.snapshots()?;
            let taken = snapshots
                .iter()
                .find(|s| s.name == *name)
                .map(|s| s.created);
            let mut events = bucket.log(&filter, usize::MAX)?;
            events.retain(|event| Some(event.at) <= taken);
            events.truncate(args.count);
            events
        }
    };
    let mut table = Table::new(&["when", "who", "branch", "what", "", "cursor"]);
    for event in &events {
        app.out.record(&EventRecord::new(event))?;
        let (what, style, detail) = told(event);
        table.push(vec![
            Cell::new(output::time(event.at, output::SECOND)).styled(DIM),
            Cell::new(who(event)),
            Cell::new(&event.branch),
            Cell::new(what).styled(style),
            Cell::new(detail),
            Cell::new(event.cursor.0).styled(DIM),
        ]);
    }
    if events.is_empty() {
        match &args.path {
            Some(path) if is_missing(&view, &TreePath::parse(path)?) => app.out.warn(format_args!(
                "there is no {path}, and the log knows of none that was"
            )),
            _ => app.out.note("nothing happened there"),
        }
        return Ok(());
    }
    Ok(app.out.table(&table)?)
}

/// Renders an event: the word, its style, and what it happened to.
fn told(event: &Event) -> (&'static str, Style, String) {
    let change = &event.change;
    let path = change.path.as_ref().map_or("", |path| path.as_str());
    let name = change.name.as_deref().unwrap_or_default();
    let sized = || match change.size {
        Some(bytes) => format!("{path}  {}", size(bytes)),
        None => path.to_owned(),
    };
    match change.op {
        Op::Create => ("create", GOOD, sized()),
        Op::Modify => ("modify", WARN, sized()),
        Op::Attributes => ("attributes", WARN, path.to_owned()),
        Op::Remove => ("remove", BAD, path.to_owned()),
        Op::Rename => {
            let from = change.from.as_ref().map_or("", |from| from.as_str());
            ("rename", LINK, format!("{from} -> {path}"))
        }
        Op::Fork => ("fork", BOLD, format!("off {name}")),
        Op::RenameBranch => ("rename branch", BOLD, format!("was {name}")),
        Op::DeleteBranch => ("delete branch", BOLD, String::new()),
        Op::Snapshot => ("snapshot", BOLD, name.to_owned()),
        Op::DeleteSnapshot => ("delete snapshot", BOLD, name.to_owned()),
        Op::Restore => ("restore", BOLD, format!("to {name}")),
        _ => ("change", Style::new(), sized()),
    }
}

/// Renders an event as a line.
pub(crate) fn event_line(app: &App, event: &Event) -> String {
    let (what, style, detail) = told(event);
    let line = format!(
        "{}  {:<10}  {}{:pad$}  {}",
        app.out.paint(DIM, output::time(event.at, "%H:%M:%S%.3f")),
        printable(&event.branch),
        app.out.paint(style, what),
        "",
        printable(&detail),
        pad = 10_usize.saturating_sub(what.len()),
    );
    match &event.peer {
        None => line,
        Some(peer) => {
            let from = format!("from {}", printable(called(peer)));
            format!("{line}  {}", app.out.paint(DIM, from))
        }
    }
}

pub(crate) fn watch(app: &App, args: &Watch) -> Result<()> {
    let bucket = app.bucket()?;
    let branch = app.branch("watch")?;
    let info = branch.info()?;
    if let Some(path) = &args.path
        && is_missing(&branch.view()?, &TreePath::parse(path)?)
    {
        app.out
            .warn(format_args!("there is no {path} yet: watching for it"));
    }
    let options = WatchOptions {
        bucket: Some(app.bucket_name().to_owned()),
        filter: filter(app, args.path.as_deref(), &args.glob, args.all_branches)?,
        after: args.after.map(Cursor),
    };
    let mut watcher = app.store()?.watch(&options)?;
    drop((bucket, branch));
    if let (Some(parent), true, false) = (&info.parent, info.live, args.all_branches) {
        app.out.note(app.out.paint(
            DIM,
            format_args!(
                "commits to {parent}, which {} shows too, are events of {parent}: see them with \
                 --all-branches",
                info.name
            ),
        ));
    }
    let deadline = args.timeout.and_then(|t| Instant::now().checked_add(t));
    let wanted = args.count.unwrap_or(u64::MAX);
    app.out.note(app.out.paint(
        DIM,
        format_args!(
            "watching after cursor {}; Ctrl-C ends it",
            watcher.cursor().0
        ),
    ));
    let mut seen = 0;
    while seen < wanted {
        if app.cancel().is_cancelled() {
            return Ok(());
        }
        let step = Duration::from_millis(200);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait = left.map_or(step, |left| left.min(step));
        match watcher.next_timeout(wait)? {
            Some(event) => {
                seen += 1;
                app.out.record(&EventRecord::new(&event))?;
                let cursor = app.out.paint(DIM, event.cursor.0);
                app.out
                    .line(format_args!("{}  {cursor}", event_line(app, &event)))?;
                app.out.flush()?;
            }
            None if left.is_some_and(|left| left.is_zero()) => {
                if args.count.is_some() {
                    let events = count(seen, "event", "events");
                    app.out.note(format_args!("the time passed after {events}"));
                    return Err(Failure::Found);
                }
                return Ok(());
            }
            None => {}
        }
    }
    Ok(())
}
