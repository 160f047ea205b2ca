//! Contents that are elsewhere: fetching them, keeping them here, making room.

use std::time::Instant;

use alknet_fs::{Error, ErrorKind, FetchReport};
use serde::Serialize;

use super::transfer::took;
use crate::app::App;
use crate::args::{Evict, Fetch, Limit, Pin, Policy, Unpin};
use crate::failure::{Failure, Result};
use crate::output::{self, BAD, BOLD, Cell, DIM, Table, Unit, count, printable, size};

#[derive(Serialize)]
struct UnfetchedRecord<'a> {
    path: &'a str,
    hash: String,
    failed: &'a str,
}

#[derive(Serialize)]
struct FetchRecord {
    op: &'static str,
    contents: u64,
    bytes: u64,
    failed: u64,
    seconds: f64,
}

pub(crate) fn fetch(app: &App, args: &Fetch) -> Result<()> {
    let started = Instant::now();
    let (task, bar) = app.out.follow(app.task(), "fetch", Unit::Bytes);
    let mut reports = Vec::new();
    if args.all {
        reports.push(app.bucket()?.fetch(&task)?);
    } else {
        let view = app.view()?;
        for path in &args.path {
            reports.push(view.fetch(path, &task)?);
        }
    }
    drop(bar);
    let failed = |report: &FetchReport| report.failed.len() as u64 + report.more_failed;
    let record = FetchRecord {
        op: "fetch",
        contents: reports.iter().map(|report| report.contents).sum(),
        bytes: reports.iter().map(|report| report.bytes).sum(),
        failed: reports.iter().map(failed).sum(),
        seconds: started.elapsed().as_secs_f64(),
    };
    for missing in reports.iter().flat_map(|report| &report.failed) {
        app.out.record(&UnfetchedRecord {
            path: missing.path.as_str(),
            hash: missing.hash.to_hex(),
            failed: &missing.why,
        })?;
        let path = app.out.paint(BAD, printable(missing.path.as_str()));
        app.out
            .line(format_args!("{path}: {}", printable(&missing.why)))?;
    }
    let more: u64 = reports.iter().map(|report| report.more_failed).sum();
    if more > 0 {
        app.out.line(format_args!("and {more} more"))?;
    }
    let what = app
        .out
        .paint(BOLD, count(record.contents, "content", "contents"));
    let line = match (record.contents, record.failed) {
        (0, 0) => "all of it is here".to_owned(),
        (_, 0) => format!(
            "fetched {what} ({}) in {}",
            size(record.bytes),
            took(record.seconds)
        ),
        (_, failed) => format!(
            "fetched {what} ({}); {} could not be had",
            size(record.bytes),
            count(failed, "other", "others")
        ),
    };
    app.out.done(&record, line)?;
    match record.failed {
        0 => Ok(()),
        _ => Err(Failure::Found),
    }
}

#[derive(Serialize)]
struct PinRecord<'a> {
    op: &'static str,
    pin: &'a str,
}

pub(crate) fn pin(app: &App, args: &Pin) -> Result<()> {
    let bucket = app.bucket()?;
    if args.pattern.is_empty() {
        let pins = bucket.content_settings()?.pins;
        for pin in &pins {
            app.out.record(&PinRecord { op: "list", pin })?;
            app.out.line(printable(pin))?;
        }
        if pins.is_empty() {
            app.out.note("nothing is pinned");
        }
        return Ok(());
    }
    for pattern in &args.pattern {
        bucket.pin(pattern)?;
        let record = PinRecord {
            op: "pin",
            pin: pattern,
        };
        let line = format!("{} is kept here", printable(pattern));
        app.out.done(&record, line)?;
        if !app.global.json && !app.global.quiet && !bucket.has_match(pattern)? {
            app.out.note(format_args!(
                "nothing matches {} yet: what comes there is kept",
                printable(pattern)
            ));
        }
    }
    if !app.store()?.content_queue()?.served {
        app.out
            .note("what is missing of it comes when `alkfs node` runs, or with `alkfs fetch`");
    }
    Ok(())
}

pub(crate) fn unpin(app: &App, args: &Unpin) -> Result<()> {
    let bucket = app.bucket()?;
    for pattern in &args.pattern {
        bucket.unpin(pattern).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Failure::with_hint(e, "see `alkfs pin` for the pins"),
            _ => e.into(),
        })?;
        let record = PinRecord {
            op: "unpin",
            pin: pattern,
        };
        let line = format!("{} is not pinned any more", printable(pattern));
        app.out.done(&record, line)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct EvictRecord {
    op: &'static str,
    contents: u64,
    bytes: u64,
    bytes_here: u64,
    only_here: u64,
    only_here_bytes: u64,
    promised: u64,
    promised_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    promised_until: Option<String>,
    files_deferred: bool,
}

pub(crate) fn evict(app: &App, args: &Evict) -> Result<()> {
    let store = app.store()?;
    let to_bytes = match args.to_bytes {
        Some(bytes) => bytes,
        None => store.cache_limit()?.ok_or_else(|| {
            let detail = "the store has no cache limit";
            let error = Error::with_detail(ErrorKind::InvalidInput, detail).op("evict");
            let hint = "say how much may stay with --to-bytes, or set a limit: `alkfs policy \
                        --cache-limit 50G`";
            Failure::with_hint(error, hint)
        })?,
    };
    let (task, bar) = app.out.follow(app.task(), "evict", Unit::Files);
    let report = store.evict(to_bytes, &task)?;
    drop(bar);
    let record = EvictRecord {
        op: "evict",
        contents: report.contents,
        bytes: report.bytes,
        bytes_here: report.bytes_here,
        only_here: report.only_here,
        only_here_bytes: report.only_here_bytes,
        promised: report.promised,
        promised_bytes: report.promised_bytes,
        promised_until: report.promised_until.map(output::rfc3339),
        files_deferred: report.files_deferred,
    };
    let what = count(report.contents, "content", "contents");
    let line = format!(
        "evicted {} ({}); {} are here",
        app.out.paint(BOLD, what),
        size(report.bytes),
        size(report.bytes_here)
    );
    app.out.done(&record, line)?;
    if report.bytes_here > to_bytes && report.only_here > 0 {
        let contents = count(report.only_here, "content", "contents");
        let bytes = size(report.only_here_bytes);
        app.out.note(format_args!(
            "{contents} ({bytes}) stay, because no peer says to hold them"
        ));
    }
    if report.bytes_here > to_bytes
        && let Some(until) = report.promised_until
    {
        let contents = count(report.promised, "content", "contents");
        let bytes = size(report.promised_bytes);
        let until = output::time(until, output::SECOND);
        app.out.note(format_args!(
            "{contents} ({bytes}) stay, because peers made room relying on them: try again after {until}"
        ));
    }
    if report.files_deferred {
        app.out.note(
            "files stay for now, because another process reads: `alkfs gc` removes them later",
        );
    }
    Ok(())
}

#[derive(Serialize)]
struct PolicyRecord<'a> {
    bucket: &'a str,
    policy: &'static str,
    timeout_seconds: f64,
    pins: &'a [String],
    /// Of the whole store, in bytes.
    cache_limit: Option<u64>,
    /// What the limit is of: the bytes of all contents of the store.
    cached_bytes: u64,
    waiting: u64,
    waiting_bytes: u64,
    retried: u64,
    scanning: bool,
    /// Whether a process fetches what waits.
    served: bool,
}

pub(crate) fn policy(app: &App, args: &Policy) -> Result<()> {
    let (store, bucket) = (app.store()?, app.bucket()?);
    if let Some(policy) = args.policy {
        bucket.set_content_policy(policy)?;
    }
    if let Some(timeout) = args.timeout {
        bucket.set_content_timeout(timeout)?;
    }
    if let Some(Limit(limit)) = args.cache_limit {
        store.set_cache_limit(limit)?;
    }
    let settings = bucket.content_settings()?;
    let queue = store.content_queue()?;
    let (limit, cached) = (store.cache_limit()?, store.cached_bytes()?);
    let name = bucket.name()?;
    app.out.record(&PolicyRecord {
        bucket: &name,
        policy: settings.policy.name(),
        timeout_seconds: settings.timeout.as_secs_f64(),
        pins: &settings.pins,
        cache_limit: limit,
        cached_bytes: cached,
        waiting: queue.contents,
        waiting_bytes: queue.bytes,
        retried: queue.retried,
        scanning: queue.scanning,
        served: queue.served,
    })?;
    let mut table = Table::new(&[]);
    let mut line = |name: &str, value: String| {
        table.push(vec![Cell::right(name).styled(DIM), Cell::new(value)]);
    };
    line("bucket", name.clone());
    line("fetched", settings.policy.name().to_owned());
    let waits = match settings.timeout.is_zero() {
        true => "for nothing: what is not here cannot be read".to_owned(),
        false => format!("{:?} at most", settings.timeout),
    };
    line("reads wait", waits);
    let pins = match settings.pins.is_empty() {
        true => "none".to_owned(),
        false => settings.pins.join(" "),
    };
    line("pins", pins);
    let limit = match limit {
        None => "no limit".to_owned(),
        Some(bytes) => format!("{} at most", size(bytes)),
    };
    line("kept", format!("{} of all buckets, {limit}", size(cached)));
    let waits = match (queue.contents, queue.scanning) {
        (0, false) => "nothing waits to be fetched".to_owned(),
        (0, true) => "it is not known yet what is missing".to_owned(),
        (contents, _) => format!(
            "{} ({}) wait to be fetched",
            count(contents, "content", "contents"),
            size(queue.bytes)
        ),
    };
    line("queue", waits);
    app.out.table(&table)?;
    if (queue.contents > 0 || queue.scanning) && !queue.served {
        app.out
            .note("nobody fetches at this time: `alkfs node` does, while it runs");
    }
    Ok(())
}
