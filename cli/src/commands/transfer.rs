//! Whole trees between the disk and the store.

use std::fs;
use std::time::Instant;

use alknet_fs::{Error, ExportOptions, ImportOptions};
use serde::Serialize;

use crate::app::App;
use crate::args::{Export, Import};
use crate::failure::{Failure, Result};
use crate::output::{BOLD, Unit, count, printable, size};

#[derive(Serialize)]
struct ImportRecord {
    op: &'static str,
    path: String,
    files: u64,
    dirs: u64,
    symlinks: u64,
    bytes: u64,
    unchanged: u64,
    unchanged_files: u64,
    files_read: u64,
    bytes_read: u64,
    removed: u64,
    skipped: Vec<SkippedRecord>,
    seconds: f64,
}

#[derive(Serialize)]
struct SkippedRecord {
    path: String,
    reason: String,
}

pub(crate) fn import(app: &App, args: &Import) -> Result<()> {
    let branch = app.branch("import")?;
    let mut options = ImportOptions::new().delete(args.delete);
    for pattern in &args.exclude {
        options = options.exclude(pattern);
    }
    let started = Instant::now();
    let (task, bar) = app.out.count(app.task(), "import", Unit::Files);
    let imported = branch.import(&args.dir, args.path.as_str(), &options, &task);
    let done = bar.done();
    drop(bar);
    let report = imported.map_err(|e| interrupted(e, done))?;
    let seconds = started.elapsed().as_secs_f64();
    let skipped = report.skipped.iter().map(|skipped| SkippedRecord {
        path: skipped.path.display().to_string(),
        reason: skipped.reason.clone(),
    });
    let record = ImportRecord {
        op: "import",
        path: args.path.clone(),
        files: report.files,
        dirs: report.dirs,
        symlinks: report.symlinks,
        bytes: report.bytes,
        unchanged: report.unchanged,
        unchanged_files: report.unchanged_files,
        files_read: report.files_read,
        bytes_read: report.bytes_read,
        removed: report.removed,
        skipped: skipped.collect(),
        seconds,
    };
    let what = contents(
        app,
        report.files,
        report.dirs,
        report.symlinks,
        report.bytes,
    );
    let mut line = format!("imported {what} in {}", took(seconds));
    if report.unchanged_files > 0 {
        let changed = indicatif::HumanCount(report.files - report.unchanged_files);
        let unchanged = indicatif::HumanCount(report.unchanged_files);
        line = format!(
            "{what}: {changed} new or changed, {unchanged} unchanged, in {}",
            took(seconds)
        );
    }
    if report.removed > 0 {
        line += &format!("; {} removed", report.removed);
    }
    app.out.done(&record, line)?;
    for skipped in &record.skipped {
        let path = printable(&skipped.path);
        app.out
            .note(format_args!("left out {path}: {}", skipped.reason));
    }
    // Nobody wants the store in itself; all else that is left out is missing.
    let own = fs::canonicalize(app.store_path()).ok();
    match report.skipped.iter().all(|s| Some(&s.path) == own.as_ref()) {
        true => Ok(()),
        false => Err(Failure::Found),
    }
}

/// Says what an import that did not end left behind.
fn interrupted(error: Error, done: u64) -> Failure {
    if done == 0 {
        return error.into();
    }
    let done = count(done, "entry is", "entries are");
    Failure::with_hint(
        error,
        format!("{done} there already; running it again goes on with the rest"),
    )
}

#[derive(Serialize)]
struct ExportRecord {
    op: &'static str,
    path: String,
    dir: String,
    files: u64,
    dirs: u64,
    symlinks: u64,
    bytes: u64,
    seconds: f64,
}

pub(crate) fn export(app: &App, args: &Export) -> Result<()> {
    let view = app.view()?;
    let options = ExportOptions::new()
        .overwrite(args.overwrite)
        .sync(args.sync);
    let started = Instant::now();
    let (task, bar) = app.out.follow(app.task(), "export", Unit::Files);
    let path = args.path()?;
    let report = view.export(path, args.dir(), &options, &task)?;
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    let record = ExportRecord {
        op: "export",
        path: path.to_owned(),
        dir: args.dir().display().to_string(),
        files: report.files,
        dirs: report.dirs,
        symlinks: report.symlinks,
        bytes: report.bytes,
        seconds,
    };
    let what = contents(
        app,
        report.files,
        report.dirs,
        report.symlinks,
        report.bytes,
    );
    let line = format!(
        "exported {what} to {} in {}",
        printable(&record.dir),
        took(seconds)
    );
    app.out.done(&record, line)?;
    Ok(())
}

fn contents(app: &App, files: u64, dirs: u64, links: u64, bytes: u64) -> String {
    let mut text = app.out.paint(BOLD, count(files, "file", "files"));
    text += &format!(
        " ({}), {}",
        size(bytes),
        count(dirs, "directory", "directories")
    );
    if links > 0 {
        text += &format!(", {}", count(links, "link", "links"));
    }
    text
}

/// Renders a time that something took.
pub(crate) fn took(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
