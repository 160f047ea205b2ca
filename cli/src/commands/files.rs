//! Single files and directories.

use std::fs::{self, File, FileTimes};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use alknet_fs::{
    Cancel, Entry, Error, ErrorKind, Fetching, Hash, Kind, Node, OpenOptions, Reader, SetAttrs,
    Task, Timestamp, TreePath, View, Walk,
};

use super::records::{DoneRecord, EntryRecord, FileRecord, octal};
use crate::app::{App, file_name};
use crate::args::{Cat, Cp, Get, Ln, Ls, Mkdir, Mv, Put, ReadHow, Rm, Stat};
use crate::failure::{Failure, Result};
use crate::output::{self, Cell, DIM, DIR, GOOD, LINK, Table, Unit, count, printable, size};

/// How much is read and written at a time.
const BLOCK: usize = 1 << 20;

/// How long a stream that has given something may take to fill a block.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn put(app: &App, args: &Put) -> Result<()> {
    let branch = app.branch("put")?;
    let to = args.path.as_deref().unwrap_or_default();
    let (mut source, len, name, mode) = match args.file.as_path() {
        path if path == Path::new("-") => {
            if io::stdin().is_terminal() {
                app.out
                    .note("reading from the terminal; Ctrl-D ends the input");
            }
            (Source::stream(io::stdin(), app.cancel()), None, None, None)
        }
        path => {
            let on_disk = |e: io::Error| Error::from(e).op("put").path(path.display());
            let file = File::open(path).map_err(on_disk)?;
            let meta = file.metadata().map_err(on_disk)?;
            if meta.is_dir() {
                let error = Error::new(ErrorKind::IsADirectory)
                    .op("put")
                    .path(path.display());
                let hint = format!(
                    "bring a directory in with `alkfs import {}`",
                    path.display()
                );
                return Err(Failure::with_hint(error, hint));
            }
            let source = match meta.is_file() {
                true => Source::File(file),
                // A pipe or a device may keep its reader waiting.
                false => Source::stream(file, app.cancel()),
            };
            let len = meta.is_file().then_some(meta.len());
            (source, len, Some(file_name(path)?), permissions(&meta))
        }
    };
    let path = match name {
        Some(name) => destination(&branch.view()?, to, name)?,
        None => TreePath::parse(to)?,
    };
    if args.parents
        && let Some(parent) = path.parent()
    {
        branch.mkdir_all(parent)?;
    }
    let mut options = OpenOptions::new()
        .truncate(args.at.is_none())
        .create_new(args.no_clobber)
        .exclusive(args.exclusive);
    if let Some(mode) = args.mode.or(mode) {
        options = options.mode(mode);
    }
    let session = branch.open_session(&path, &options)?;
    let (task, bar) = app.out.follow(app.task(), "put", Unit::Bytes);
    if let Some(len) = len {
        bar.length(len);
    }
    let on_disk = |e: io::Error| Error::from(e).op("put").path(args.file.display());
    let start = args.at.unwrap_or(0);
    let mut written = 0;
    // A session that is dropped is aborted.
    loop {
        task.cancel().check()?;
        let block = source.block().map_err(on_disk)?;
        if block.is_empty() {
            break;
        }
        session.write_at(start.saturating_add(written), &block)?;
        written += block.len() as u64;
        bar.position(written);
    }
    drop(bar);
    let closed = session.close_with(&SetAttrs {
        mode: args.mode,
        ..SetAttrs::default()
    })?;
    let record = FileRecord {
        op: "put",
        path: closed.path.as_str(),
        file: None,
        size: closed.size,
        hash: closed.hash.to_hex(),
        verified: false,
    };
    let line = format!(
        "{}  {}  {}",
        printable(closed.path.as_str()),
        size(closed.size),
        app.out.paint(DIM, &record.hash)
    );
    app.out.done(&record, line)?;
    Ok(())
}

pub(crate) fn get(app: &App, args: &Get) -> Result<()> {
    if args.file.as_deref() == Some(Path::new("-")) {
        return print(app, app.view()?, &args.path, &args.how).map(drop);
    }
    let view = app.view()?;
    let path = TreePath::parse(&args.path)?;
    let (view, entry, reader) = open(app, view, &path, args.how.side)?;
    let target = match &args.file {
        None => PathBuf::from(path.name()),
        Some(target) if target.is_dir() => target.join(path.name()),
        Some(target) => target.clone(),
    };
    let (task, bar) = app.out.follow(app.task(), "get", Unit::Bytes);
    let copied = to_file(&view, &path, &entry, &reader, &target, &args.how, &task)?;
    drop(bar);
    let record = FileRecord {
        op: "get",
        path: path.as_str(),
        file: Some(target.display().to_string()),
        size: copied,
        hash: reader.hash().to_hex(),
        verified: args.how.verify,
    };
    let verified = match args.how.verify {
        true => app.out.paint(GOOD, "  verified"),
        false => String::new(),
    };
    let shown = record.file.as_deref().unwrap_or_default();
    let line = format!("{}  {}{verified}", printable(shown), size(copied));
    app.out.done(&record, line)?;
    Ok(())
}

/// Writes a file of the disk. It appears under its name only once it is complete.
fn to_file(
    view: &View,
    path: &TreePath,
    entry: &Entry,
    reader: &Reader,
    target: &Path,
    how: &ReadHow,
    task: &Task,
) -> Result<u64> {
    let on_disk = |e: io::Error| Error::from(e).op("get").path(target.display());
    // A link is written through, and what is no regular file is written in place.
    let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    if fs::metadata(&target).is_ok_and(|meta| !meta.is_file()) {
        let mut file = File::options().write(true).open(&target).map_err(on_disk)?;
        return copy(view, path, reader, &mut file, how, task);
    }
    let dir = match target.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".alkfs-get-")
        .tempfile_in(dir)
        .map_err(on_disk)?;
    let copied = if how.verify && how.range.is_none() {
        reader
            .copy_verified(file.as_file_mut(), task)
            .map_err(|e| e.op("get").path(path))?
    } else {
        copy(view, path, reader, file.as_file_mut(), how, task)?
    };
    set_attrs(file.as_file(), entry).map_err(on_disk)?;
    file.persist(&target).map_err(|e| on_disk(e.error))?;
    Ok(copied)
}

/// Copies what was asked for; where it is to be verified, only after it was.
fn copy(
    view: &View,
    path: &TreePath,
    reader: &Reader,
    writer: &mut dyn Write,
    how: &ReadHow,
    task: &Task,
) -> Result<u64> {
    if let Some(range) = &how.range
        && range.start > reader.size()
    {
        let size = count(reader.size(), "byte", "bytes");
        let detail = format!("the range begins after the end of the file, which has {size}");
        return Err(Error::with_detail(ErrorKind::InvalidInput, detail)
            .op("read")
            .path(path)
            .into());
    }
    match how.side {
        _ if !how.verify => {}
        None => view.verify(path)?,
        Some(_) => {
            let verified = reader.copy_verified(&mut io::sink(), task);
            verified.map_err(|e| e.op("verify").path(path))?;
        }
    }
    let copied = match &how.range {
        Some(range) => reader.copy_range(range.clone(), writer, task),
        // What the disk gives now may differ from what it gave a moment ago.
        None if how.verify => reader.copy_verified(writer, task),
        None => reader.copy_range(0..reader.size(), writer, task),
    };
    Ok(copied.map_err(|e| e.op("read").path(path))?)
}

fn set_attrs(file: &File, entry: &Entry) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(entry.attrs.mode))?;
    }
    let Timestamp(nanos) = entry.attrs.mtime;
    let since = Duration::from_nanos(nanos.unsigned_abs());
    let time = match nanos {
        0.. => SystemTime::UNIX_EPOCH + since,
        _ => SystemTime::UNIX_EPOCH - since,
    };
    file.set_times(FileTimes::new().set_modified(time))
}

#[cfg(unix)]
fn permissions(meta: &fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    meta.is_file().then(|| meta.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn permissions(_meta: &fs::Metadata) -> Option<u32> {
    None
}

pub(crate) fn cat(app: &App, args: &Cat) -> Result<()> {
    let mut view = app.view()?;
    for path in &args.path {
        view = print(app, view, path, &args.how)?;
    }
    Ok(())
}

/// Opens a file, or what lost at its path in a conflict; where the content has to come from a peer first,
/// a bar shows how it comes.
fn open(
    app: &App,
    view: View,
    path: &TreePath,
    side: Option<usize>,
) -> Result<(View, Entry, Reader)> {
    let lost = side.map(|side| lost(app, path, side)).transpose()?;
    let (task, bar) = app.out.follow(app.task(), "fetch", Unit::Bytes);
    let view = view.fetching(&Fetching::new().task(&task));
    let opened = match lost {
        Some((entry, hash)) => view.open_content(&hash).map(|reader| (entry, reader)),
        None => view
            .open(path)
            .and_then(|reader| Ok((view.stat(path)?, reader))),
    };
    drop(bar);
    let (entry, reader) = opened?;
    Ok((view, entry, reader))
}

/// Finds what lost at a path, as `alkfs conflicts` counts it.
fn lost(app: &App, path: &TreePath, side: usize) -> Result<(Entry, Hash)> {
    let error = |kind, detail: String| Error::with_detail(kind, detail).op("read").path(path);
    let conflicts = app.branch("read")?.conflicts()?;
    let conflict = conflicts.into_iter().find(|c| c.path == *path);
    let sides = conflict.map_or(Vec::new(), |conflict| conflict.others);
    let Some(found) = sides.get(side - 1) else {
        let detail = match sides.len() {
            0 => "there is no conflict at this path".to_owned(),
            1 => "the conflict has one other side".to_owned(),
            sides => format!("the conflict has {sides} other sides"),
        };
        let hint = "`alkfs conflicts` lists the sides that there are";
        return Err(Failure::with_hint(error(ErrorKind::NotFound, detail), hint));
    };
    let other = |what: &str| error(ErrorKind::InvalidInput, format!("side {side} is {what}"));
    match &found.entry {
        Some(entry) => match (&entry.node, entry.hash()) {
            (_, Some(hash)) => Ok((entry.clone(), hash)),
            (Node::Symlink { target }, _) => Err(other(&format!("a link to {target}")).into()),
            _ => Err(error(ErrorKind::IsADirectory, format!("side {side}")).into()),
        },
        None => Err(other("a removal: there is nothing to read").into()),
    }
}

fn print(app: &App, view: View, path: &str, how: &ReadHow) -> Result<View> {
    let path = TreePath::parse(path)?;
    let (view, _, reader) = open(app, view, &path, how.side)?;
    let task = app.task();
    app.out.raw(|stdout| {
        copy(&view, &path, &reader, stdout, how, &task)?;
        Ok(stdout.flush()?)
    })?;
    Ok(view)
}

pub(crate) fn ls(app: &App, args: &Ls) -> Result<()> {
    let view = app.view()?;
    let several = args.path.len() > 1;
    for (i, path) in args.path.iter().enumerate() {
        let path = TreePath::parse(path)?;
        let entry = view.lstat(&path)?;
        // A link to a directory lists the directory, as ls(1) does without -l.
        let is_dir =
            entry.is_dir() || (entry.is_symlink() && !args.long && view.list(&path).is_ok());
        let items = if args.directory || !is_dir {
            vec![(path.clone(), path.as_str().to_owned(), entry)]
        } else if args.recursive {
            below(&view, &path)?
        } else {
            let mut items = Vec::new();
            for item in view.list(&path)? {
                let name = String::from(item.name);
                items.push((path.join(&name)?, name, item.entry));
            }
            items
        };
        if several && is_dir && !args.directory {
            let gap = if i > 0 { "\n" } else { "" };
            app.out
                .line(format_args!("{gap}{}:", printable(path.as_str())))?;
        }
        let mut table = Table::new(&[]);
        for (path, name, entry) in &items {
            app.out.record(&EntryRecord::new(path, entry))?;
            let (name, style) = dressed(name, entry);
            if args.long {
                table.push(vec![
                    Cell::new(output::mode_text(entry.kind(), entry.attrs.mode)),
                    Cell::right(size(entry.size())),
                    Cell::new(output::time(entry.attrs.mtime, output::MINUTE)).styled(DIM),
                    Cell::new(name).styled(style),
                ]);
            } else {
                app.out.line(app.out.paint(style, printable(&name)))?;
            }
        }
        app.out.table(&table)?;
    }
    Ok(())
}

fn below(view: &View, path: &TreePath) -> Result<Vec<(TreePath, String, Entry)>> {
    let base = view.canonicalize(path)?;
    let mut items = Vec::new();
    view.walk(&base, |found, entry| {
        let rest = found.strip_prefix(&base).unwrap_or_default().to_owned();
        items.push((found.clone(), rest, entry.clone()));
        Ok(Walk::Continue)
    })?;
    Ok(items)
}

fn dressed(name: &str, entry: &Entry) -> (String, anstyle::Style) {
    match &entry.node {
        Node::Dir => (format!("{name}/"), DIR),
        Node::Symlink { target } => (format!("{name} -> {target}"), LINK),
        Node::File { .. } if entry.attrs.mode & 0o111 != 0 => (name.to_owned(), GOOD),
        Node::File { .. } => (name.to_owned(), anstyle::Style::new()),
    }
}

pub(crate) fn stat(app: &App, args: &Stat) -> Result<()> {
    let view = app.view()?;
    for (i, path) in args.path.iter().enumerate() {
        let path = TreePath::parse(path)?;
        let entry = match args.follow {
            true => view.stat(&path)?,
            false => view.lstat(&path)?,
        };
        let mut record = EntryRecord::new(&path, &entry);
        if entry.is_file() {
            record.form = view.content_form(&path)?;
            record.here = Some(record.form.is_some());
        }
        app.out.record(&record)?;
        let mut table = Table::new(&[]);
        let mut line = |name: &str, value: String| {
            table.push(vec![Cell::right(name).styled(DIM), Cell::new(value)]);
        };
        line("path", path.to_string());
        line("kind", entry.kind().name().to_owned());
        if entry.kind() != Kind::Dir {
            let exact = count(entry.size(), "byte", "bytes");
            line("size", format!("{} ({exact})", size(entry.size())));
        }
        let mode = entry.attrs.mode;
        let text = output::mode_text(entry.kind(), mode);
        line("mode", format!("{} ({text})", octal(mode)));
        line("owner", format!("{}:{}", entry.attrs.uid, entry.attrs.gid));
        line("modified", output::time(entry.attrs.mtime, output::FULL));
        line("changed", output::time(entry.attrs.ctime, output::FULL));
        if let Some(target) = entry.target() {
            line("target", target.to_owned());
        }
        if let Some(hash) = entry.hash() {
            line("hash", hash.to_hex());
        }
        match (record.form, record.here) {
            (Some(form), _) => line("kept", form_text(form).to_owned()),
            (None, Some(_)) => line("kept", "not here".to_owned()),
            (None, None) => {}
        }
        if i > 0 {
            app.out.line("")?;
        }
        app.out.table(&table)?;
    }
    Ok(())
}

fn form_text(form: alknet_fs::ContentForm) -> &'static str {
    match form {
        alknet_fs::ContentForm::Inline => "inline, in the database",
        alknet_fs::ContentForm::File => "as a file",
        alknet_fs::ContentForm::Delta => "as a delta over another content",
    }
}

pub(crate) fn mkdir(app: &App, args: &Mkdir) -> Result<()> {
    let branch = app.branch("mkdir")?;
    for path in &args.path {
        let path = TreePath::parse(path)?;
        let set = SetAttrs {
            mode: args.mode,
            ..SetAttrs::default()
        };
        match args.parents {
            true => branch.mkdir_all(&path)?,
            false => branch.mkdir_with(&path, &set)?,
        }
        let record = DoneRecord {
            op: "mkdir",
            path: path.as_str(),
            ..DoneRecord::default()
        };
        app.out
            .silent(&record, format_args!("made {}", printable(path.as_str())))?;
    }
    Ok(())
}

pub(crate) fn rm(app: &App, args: &Rm) -> Result<()> {
    let branch = app.branch("rm")?;
    let view = branch.view()?;
    let mut batch = branch.batch();
    let mut removed = Vec::new();
    for path in &args.path {
        let path = TreePath::parse(path)?;
        let missing =
            |e: &Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        match view.lstat(&path) {
            Err(e) if args.force && missing(&e) => continue,
            Err(e) => return Err(e.into()),
            Ok(_) => {}
        }
        match args.recursive {
            true => batch.remove_all(&path)?,
            false => batch.remove(&path)?,
        }
        removed.push(path);
    }
    drop(view);
    batch.commit()?;
    for path in &removed {
        let record = DoneRecord {
            op: "rm",
            path: path.as_str(),
            ..DoneRecord::default()
        };
        app.out.silent(
            &record,
            format_args!("removed {}", printable(path.as_str())),
        )?;
    }
    Ok(())
}

pub(crate) fn mv(app: &App, args: &Mv) -> Result<()> {
    let branch = app.branch("mv")?;
    for from in &args.from {
        let from = TreePath::parse(from)?;
        let view = branch.view()?;
        let to = move_target(&view, &from, &args.to, args.from.len() > 1, "mv")?;
        drop(view);
        match args.no_clobber {
            true => branch.rename_new(&from, &to)?,
            false => branch.rename(&from, &to)?,
        }
        let record = DoneRecord {
            op: "mv",
            path: to.as_str(),
            from: Some(from.as_str()),
            ..DoneRecord::default()
        };
        app.out.silent(&record, arrow("moved", &from, &to))?;
    }
    Ok(())
}

pub(crate) fn cp(app: &App, args: &Cp) -> Result<()> {
    let branch = app.branch("cp")?;
    for from in &args.from {
        let from = TreePath::parse(from)?;
        let view = branch.view()?;
        if !args.recursive && view.lstat(&from)?.is_dir() {
            let error = Error::new(ErrorKind::IsADirectory).op("copy").path(&from);
            return Err(Failure::with_hint(
                error,
                "copy a directory with `alkfs cp -r`",
            ));
        }
        let to = move_target(&view, &from, &args.to, args.from.len() > 1, "cp")?;
        drop(view);
        let entries = branch.copy(&from, &to)?;
        let record = DoneRecord {
            op: "cp",
            path: to.as_str(),
            from: Some(from.as_str()),
            entries: Some(entries),
            ..DoneRecord::default()
        };
        app.out.silent(&record, arrow("copied", &from, &to))?;
    }
    Ok(())
}

fn arrow(verb: &str, from: &TreePath, to: &TreePath) -> String {
    format!(
        "{verb} {} -> {}",
        printable(from.as_str()),
        printable(to.as_str())
    )
}

pub(crate) fn ln(app: &App, args: &Ln) -> Result<()> {
    let branch = app.branch("ln")?;
    let path = TreePath::parse(&args.path)?;
    if !args.symbolic {
        return Ok(branch.hard_link(&args.target, &path)?);
    }
    let mut batch = branch.batch();
    if args.force && branch.lstat(&path).is_ok() {
        batch.remove(&path)?;
    }
    batch.symlink(&args.target, &path)?;
    batch.commit()?;
    let record = DoneRecord {
        op: "ln",
        path: path.as_str(),
        target: Some(&args.target),
        ..DoneRecord::default()
    };
    let line = format!(
        "linked {} -> {}",
        printable(path.as_str()),
        printable(&args.target)
    );
    app.out.silent(&record, line)?;
    Ok(())
}

/// Returns where a file of a name goes: into the path, where that is or must be a directory.
fn destination(view: &View, path: &str, name: &str) -> Result<TreePath> {
    let to = TreePath::parse(path)?;
    let is_dir = view.stat(&to).is_ok_and(|entry| entry.is_dir());
    match is_dir || path.ends_with('/') {
        true => Ok(to.join(name)?),
        false => Ok(to),
    }
}

/// Returns where one of the sources of `mv` and `cp` goes.
fn move_target(
    view: &View,
    from: &TreePath,
    to: &str,
    several: bool,
    op: &'static str,
) -> Result<TreePath> {
    if several && !view.stat(to)?.is_dir() {
        return Err(Error::new(ErrorKind::NotADirectory).op(op).path(to).into());
    }
    // The root has no name to go under.
    match from.is_root() {
        true => Ok(TreePath::parse(to)?),
        false => destination(view, to, from.name()),
    }
}

/// Where `put` reads from.
enum Source {
    File(File),
    Stream(Stream),
}

impl Source {
    fn stream(source: impl Read + Send + 'static, cancel: &Cancel) -> Self {
        Self::Stream(Stream::new(source, cancel))
    }

    /// Returns the next bytes; nothing at the end.
    fn block(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::File(file) => {
                let mut block = Vec::with_capacity(BLOCK);
                file.take(BLOCK as u64).read_to_end(&mut block)?;
                Ok(block)
            }
            Self::Stream(stream) => stream.block(),
        }
    }
}

/// A stream that may keep its reader waiting, which gives up when the work is cancelled.
struct Stream {
    parts: Receiver<io::Result<Vec<u8>>>,
    /// What arrived after the block that was returned last was full, or the error that ended it.
    next: Option<io::Result<Vec<u8>>>,
    cancel: Cancel,
}

impl Stream {
    fn new(mut source: impl Read + Send + 'static, cancel: &Cancel) -> Self {
        let (sender, parts) = sync_channel(4);
        // The thread ends with the stream, or with the process.
        thread::spawn(move || {
            let mut part = vec![0; BLOCK / 4];
            loop {
                let read = source.read(&mut part).map(|n| part[..n].to_vec());
                let end = !matches!(&read, Ok(bytes) if !bytes.is_empty());
                let interrupted = matches!(&read, Err(e) if e.kind() == io::ErrorKind::Interrupted);
                if !interrupted && (sender.send(read).is_err() || end) {
                    return;
                }
            }
        });
        Self {
            parts,
            next: None,
            cancel: cancel.clone(),
        }
    }

    /// Waits for bytes, and gathers what comes right after them: a session works best by large
    /// blocks, but what has arrived must not be lost because the rest takes its time.
    fn block(&mut self) -> io::Result<Vec<u8>> {
        let mut block = self.wait()?;
        if block.is_empty() {
            return Ok(block);
        }
        let deadline = Instant::now() + PAUSE;
        while block.len() < BLOCK {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.parts.recv_timeout(left) {
                Ok(Ok(part)) if !part.is_empty() && block.len() + part.len() <= BLOCK => {
                    block.extend_from_slice(&part);
                }
                Ok(other) => {
                    self.next = Some(other);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    self.next = Some(Ok(Vec::new()));
                    break;
                }
            }
        }
        Ok(block)
    }

    fn wait(&mut self) -> io::Result<Vec<u8>> {
        if let Some(next) = self.next.take() {
            return next;
        }
        loop {
            self.cancel.check()?;
            match self.parts.recv_timeout(Duration::from_millis(100)) {
                Ok(part) => return part,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Vec::new()),
            }
        }
    }
}
