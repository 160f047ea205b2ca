//! The store as a whole: making, checking, cleaning and measuring it.

use alknet_fs::{Error, ErrorKind, FsckOptions, GcOptions};
use serde::Serialize;

use crate::app::App;
use crate::args::{self, Fsck, Gc, Mkfs};
use crate::failure::{Failure, Result};
use crate::output::{
    BAD, BOLD, Cell, DIM, GOOD, MINUTE, Table, Unit, count, printable, rfc3339, size, time,
};

#[derive(Serialize)]
struct MkfsRecord {
    op: &'static str,
    store: String,
    bucket: &'static str,
    branch: &'static str,
}

pub(crate) fn mkfs(app: &App, args: Mkfs) -> Result<()> {
    let path = args.dir.unwrap_or_else(|| app.store_path());
    let named = |e: Error| e.op("mkfs").path(path.display());
    let store = app.options().create(&path).map_err(named)?;
    // A bucket that the environment or the command line names is made along.
    if app.bucket_name() != alknet_fs::DEFAULT_BUCKET {
        store.create_bucket(app.bucket_name())?;
    }
    let record = MkfsRecord {
        op: "mkfs",
        store: path.display().to_string(),
        bucket: alknet_fs::DEFAULT_BUCKET,
        branch: "main",
    };
    let place = app.out.paint(BOLD, printable(&record.store));
    let line = format!("made a store in {place}, with the bucket default and its branch main");
    Ok(app.out.done(&record, line)?)
}

#[derive(Serialize)]
struct ProblemRecord<'a> {
    problem: &'a str,
    subject: &'a str,
    /// Where a damaged content is used.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    uses: &'a [String],
    #[serde(skip_serializing_if = "is_zero")]
    more_uses: u64,
}

#[derive(Serialize)]
struct FsckRecord {
    ok: bool,
    entries: u64,
    contents: u64,
    bytes: u64,
    away: u64,
    away_bytes: u64,
    orphans: u64,
    orphan_bytes: u64,
    partials: u64,
    partial_bytes: u64,
    problems: usize,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

pub(crate) fn fsck(app: &App, args: &Fsck) -> Result<()> {
    let store = app.store()?;
    let unit = if args.fast { Unit::Files } else { Unit::Bytes };
    let (task, bar) = app.out.follow(app.task(), "fsck", unit);
    let report = store.fsck(&FsckOptions::new().fast(args.fast), &task)?;
    drop(bar);
    for problem in &report.problems {
        app.out.record(&ProblemRecord {
            problem: &problem.detail,
            subject: &problem.subject,
            uses: &problem.uses,
            more_uses: problem.more_uses,
        })?;
        let subject = app.out.paint(BAD, printable(&problem.subject));
        app.out
            .line(format_args!("{subject}: {}", printable(&problem.detail)))?;
        for place in &problem.uses {
            app.out
                .line(format_args!("  used by {}", printable(place)))?;
        }
        if problem.more_uses > 0 {
            app.out
                .line(format_args!("  and {} more", problem.more_uses))?;
        }
    }
    let record = FsckRecord {
        ok: report.problems.is_empty(),
        entries: report.entries,
        contents: report.contents,
        bytes: report.bytes,
        away: report.away,
        away_bytes: report.away_bytes,
        orphans: report.orphans,
        orphan_bytes: report.orphan_bytes,
        partials: report.partials,
        partial_bytes: report.partial_bytes,
        problems: report.problems.len(),
    };
    let looked = format!(
        "{}, {}, {} verified",
        count(report.entries, "entry", "entries"),
        count(report.contents, "content", "contents"),
        size(report.bytes)
    );
    let verdict = match record.ok {
        true => app.out.paint(GOOD, "the store is healthy"),
        false => {
            let problems = count(record.problems as u64, "problem", "problems");
            app.out.paint(BAD, problems)
        }
    };
    app.out.done(&record, format_args!("{verdict}: {looked}"))?;
    if report.away > 0 {
        let contents = count(report.away, "content is", "contents are");
        let bytes = size(report.away_bytes);
        app.out.note(format_args!(
            "{contents} not here ({bytes}), and can be fetched from peers: see `alkfs fetch`"
        ));
    }
    if report.partials > 0 {
        let contents = count(report.partials, "content", "contents");
        let bytes = size(report.partial_bytes);
        app.out.note(format_args!(
            "of {contents} ({bytes}) a part has come from peers: the rest comes when it is fetched again"
        ));
    }
    if report.orphans > 0 {
        let files = count(report.orphans, "leftover file", "leftover files");
        let bytes = size(report.orphan_bytes);
        app.out.note(format_args!(
            "{files} ({bytes}) of crashed writers: `alkfs gc` removes them"
        ));
    }
    if report
        .problems
        .iter()
        .any(|problem| !problem.uses.is_empty())
    {
        app.out.note(
            "a damaged content cannot be read again: restore the store from a backup, or remove \
             these files, run `alkfs gc --grace 0`, and write them again from where they came",
        );
    }
    match record.ok {
        true => Ok(()),
        false => Err(Failure::Found),
    }
}

#[derive(Serialize)]
struct GcRecord {
    dry_run: bool,
    due: bool,
    events: u64,
    versions: u64,
    contents: u64,
    content_bytes: u64,
    waiting: u64,
    waiting_bytes: u64,
    flattened: u64,
    files: u64,
    file_bytes: u64,
    files_deferred: bool,
    /// By how much the database became smaller, where it was compacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    compacted_bytes: Option<u64>,
}

#[derive(Serialize)]
struct ScheduleRecord {
    schedule: Option<String>,
    next: Option<String>,
}

pub(crate) fn gc(app: &App, args: &Gc) -> Result<()> {
    let store = app.store()?;
    let mut options = GcOptions::new().grace(args.grace).dry_run(args.dry_run);
    if let Some(age) = args.keep_events_for {
        options = options.keep_events_for(age);
    }
    if let Some(count) = args.keep_events {
        options = options.keep_events(count);
    }
    if let Some(when) = &args.schedule {
        let accepted = "say \"@every 30m\", with s, m, h or d, or the five fields of cron, such as \
                        \"0 3 * * *\" for every day at three (\"@daily\" and the like are not known)";
        store
            .schedule_gc(when, &options)
            .map_err(|e| match e.kind() {
                ErrorKind::InvalidInput => Failure::with_hint(e, accepted),
                _ => e.into(),
            })?;
        return show_schedule(app, store);
    }
    if args.unschedule {
        store.unschedule_gc()?;
        return show_schedule(app, store);
    }
    let (task, bar) = app.out.follow(app.task(), "gc", Unit::Files);
    let report = match args.due {
        true => store.gc_if_due(&task)?,
        false => Some(store.gc(&options, &task)?),
    };
    drop(bar);
    let due = report.is_some();
    let compacted = match args.compact && due {
        true => Some(store.compact()?),
        false => None,
    };
    let report = report.unwrap_or_default();
    let record = GcRecord {
        dry_run: args.dry_run,
        due,
        events: report.events,
        versions: report.versions,
        contents: report.contents,
        content_bytes: report.content_bytes,
        waiting: report.waiting,
        waiting_bytes: report.waiting_bytes,
        flattened: report.flattened,
        files: report.files,
        file_bytes: report.file_bytes,
        files_deferred: report.files_deferred,
        compacted_bytes: compacted,
    };
    if !due {
        app.out.record(&record)?;
        return match store.gc_schedule()? {
            Some(_) => Ok(app.out.line("it is not time yet")?),
            None => Ok(app
                .out
                .line("there is no schedule: set one with `alkfs gc --schedule \"@every 6h\"`")?),
        };
    }
    let verb = if args.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let mut line = format!(
        "{verb} {} ({}), {}, {} ({})",
        count(report.contents, "content", "contents"),
        size(report.content_bytes),
        count(report.versions, "old version", "old versions"),
        count(report.files, "file", "files"),
        size(report.file_bytes),
    );
    if report.events > 0 {
        line.push_str(&format!(", {}", count(report.events, "event", "events")));
    }
    if let Some(bytes) = compacted {
        line.push_str(&format!("; the database is {} smaller", size(bytes)));
    }
    app.out.done(&record, line)?;
    if report.waiting > 0 {
        let waiting = count(report.waiting, "content", "contents");
        let bytes = size(report.waiting_bytes);
        let verb = if report.waiting == 1 { "waits" } else { "wait" };
        app.out.note(format_args!(
            "{waiting} ({bytes}) {verb} for the end of the grace period: run gc again then, or with --grace 0"
        ));
    }
    if report.files_deferred {
        app.out
            .note("files stay for now, because another process reads: run gc again later");
    }
    Ok(())
}

fn show_schedule(app: &App, store: &alknet_fs::Store) -> Result<()> {
    let schedule = store.gc_schedule()?;
    app.out.record(&ScheduleRecord {
        schedule: schedule.as_ref().map(|s| s.when.clone()),
        next: schedule.as_ref().map(|s| rfc3339(s.next)),
    })?;
    let line = match schedule {
        Some(schedule) => format!(
            "garbage is collected at \"{}\", next at {}, by whoever runs `alkfs gc --due` then",
            schedule.when,
            time(schedule.next, MINUTE)
        ),
        None => "garbage is collected by hand only".to_owned(),
    };
    Ok(app.out.line(line)?)
}

#[derive(Serialize)]
struct StatsRecord {
    buckets: u64,
    branches: u64,
    snapshots: u64,
    sessions: u64,
    contents: u64,
    content_bytes: u64,
    inline_contents: u64,
    file_contents: u64,
    delta_contents: u64,
    away_contents: u64,
    away_bytes: u64,
    database_bytes: u64,
    free_bytes: u64,
    wal_bytes: u64,
    blob_bytes: u64,
    staged_bytes: u64,
    stored_bytes: u64,
}

pub(crate) fn stats(app: &App) -> Result<()> {
    let stats = app.store()?.stats()?;
    app.out.record(&StatsRecord {
        buckets: stats.buckets,
        branches: stats.branches,
        snapshots: stats.snapshots,
        sessions: stats.sessions,
        contents: stats.contents,
        content_bytes: stats.content_bytes,
        inline_contents: stats.inline_contents,
        file_contents: stats.file_contents,
        delta_contents: stats.delta_contents,
        away_contents: stats.away_contents,
        away_bytes: stats.away_bytes,
        database_bytes: stats.database_bytes,
        free_bytes: stats.free_bytes,
        wal_bytes: stats.wal_bytes,
        blob_bytes: stats.blob_bytes,
        staged_bytes: stats.staged_bytes,
        stored_bytes: stats.stored_bytes(),
    })?;
    let mut table = Table::new(&[]);
    let mut line = |name: &str, value: String, note: String| {
        table.push(vec![
            Cell::new(name).styled(DIM),
            Cell::right(value),
            Cell::new(note),
        ]);
    };
    let number = |n: u64| indicatif::HumanCount(n).to_string();
    line("buckets", number(stats.buckets), String::new());
    line("branches", number(stats.branches), String::new());
    line("snapshots", number(stats.snapshots), String::new());
    line("open sessions", number(stats.sessions), String::new());
    let forms = format!(
        "{} inline, {} as files, {} as deltas",
        number(stats.inline_contents),
        number(stats.file_contents),
        number(stats.delta_contents)
    );
    line("contents", number(stats.contents), forms);
    let once = "each content once, in full".to_owned();
    line("size", size(stats.content_bytes), once);
    if stats.away_contents > 0 {
        let away = format!(
            "{} more contents, which peers have",
            number(stats.away_contents)
        );
        line("not here", size(stats.away_bytes), away);
    }
    let parts = format!(
        "database {}, log {}, files {}, staged {}",
        size(stats.database_bytes),
        size(stats.wal_bytes),
        size(stats.blob_bytes),
        size(stats.staged_bytes)
    );
    line("on disk", size(stats.stored_bytes()), parts);
    let again = "in the database, used again by later writes; `alkfs gc --compact` gives it back";
    line("free", size(stats.free_bytes), again.to_owned());
    Ok(app.out.table(&table)?)
}

pub(crate) fn completions(app: &App, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "alkfs", &mut script);
    app.out.raw(|stdout| Ok(stdout.write_all(&script)?))
}
