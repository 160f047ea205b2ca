//! The event log: a stream of honker in the same database.

use std::collections::HashMap;

use alknet_fs_core::entry::Timestamp;
use alknet_fs_core::event::{Commit, Cursor, Event};
use alknet_fs_core::store::{BucketId, Retention};
use alknet_fs_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{DbResult, corrupt};

const TOPIC: &str = "alkfs:";

pub(crate) fn topic(bucket: BucketId) -> String {
    format!("{TOPIC}{bucket}")
}

/// As much of a record as pruning needs.
#[derive(Deserialize)]
struct Head {
    at: Timestamp,
    changes: Vec<IgnoredAny>,
}

fn decode<'de, T: Deserialize<'de>>(offset: u64, payload: &'de str) -> Result<T> {
    serde_json::from_str(payload).map_err(|e| {
        corrupt(
            "_honker_stream",
            offset,
            &format!("the payload is bad: {e}"),
        )
    })
}

pub(crate) fn publish(conn: &Connection, bucket: BucketId, commit: &Commit) -> Result<Cursor> {
    // The table is honker's shared layout, which all its bindings read and write. Its own
    // `stream_publish` prepares the same statement anew for each record, which takes as long as the
    // rest of a small commit.
    let sql = "INSERT INTO _honker_stream (topic, key, payload) VALUES (?1, NULL, ?2)";
    let mut stmt = conn.prepare_cached(sql).db()?;
    let topic = topic(bucket);
    let mut cursor = None;
    for record in commit.records() {
        let payload =
            serde_json::to_string(&record).map_err(|e| Error::new(ErrorKind::Io).source(e))?;
        let offset = stmt.insert((&topic, payload)).db()?;
        cursor = Some(Cursor::new(offset.unsigned_abs(), record.changes.len() - 1));
    }
    cursor.map_or_else(|| last_cursor(conn), Ok)
}

pub(crate) fn read(
    conn: &Connection,
    bucket: Option<BucketId>,
    after: Cursor,
    limit: usize,
) -> Result<Vec<Event>> {
    refuse_lagging(conn, bucket, after)?;
    let sql = match bucket {
        Some(_) => {
            "SELECT offset, payload, topic FROM _honker_stream \
             WHERE offset >= ?1 AND topic = ?2 ORDER BY offset"
        }
        None => {
            "SELECT offset, payload, topic FROM _honker_stream \
             WHERE offset >= ?1 AND topic GLOB ?2 ORDER BY offset"
        }
    };
    let topic = bucket.map_or_else(|| format!("{TOPIC}*"), topic);
    let mut stmt = conn.prepare_cached(sql).db()?;
    let from = i64::try_from(after.offset()).unwrap_or(i64::MAX);
    let mut rows = stmt.query((from, topic)).db()?;
    let mut names = HashMap::new();
    let mut events = Vec::new();
    let mut records = 0;
    while records < limit
        && let Some(row) = rows.next().db()?
    {
        let (offset, commit) = record(row)?;
        let topic = row.get_ref(2).db()?.as_str().map_err(|e| bad(offset, &e))?;
        let name = bucket_name(conn, &mut names, topic)?;
        let before = events.len();
        events.extend(commit.events(&name, offset, after));
        // The record that the cursor points into may have nothing left to give.
        records += usize::from(events.len() > before);
    }
    Ok(events)
}

pub(crate) const BACKWARDS: &str = "SELECT offset, payload FROM _honker_stream \
     WHERE topic = ?1 AND offset <= ?2 ORDER BY offset DESC";

pub(crate) fn read_before(
    conn: &Connection,
    bucket: BucketId,
    before: Cursor,
    limit: usize,
) -> Result<Vec<Event>> {
    let mut stmt = conn.prepare_cached(BACKWARDS).db()?;
    let until = i64::try_from(before.offset()).unwrap_or(i64::MAX);
    let topic = topic(bucket);
    let mut rows = stmt.query((&topic, until)).db()?;
    let mut names = HashMap::new();
    let mut events = Vec::new();
    let mut records = 0;
    while records < limit
        && let Some(row) = rows.next().db()?
    {
        let (offset, commit) = record(row)?;
        let name = bucket_name(conn, &mut names, &topic)?;
        let found = events.len();
        events.extend(commit.events(&name, offset, Cursor::START));
        events[found..].reverse();
        if before.offset() == offset {
            events.retain(|event| event.cursor < before);
        }
        // Of the record that the cursor points into there may be nothing to give.
        records += usize::from(events.len() > found);
    }
    Ok(events)
}

/// Reads a log record, of which a row begins with the offset and the payload.
fn record(row: &Row<'_>) -> Result<(u64, Commit)> {
    let offset = row.get::<_, i64>(0).db()?.unsigned_abs();
    let payload = row.get_ref(1).db()?.as_str().map_err(|e| bad(offset, &e))?;
    Ok((offset, decode(offset, payload)?))
}

fn bad(offset: u64, error: &rusqlite::types::FromSqlError) -> Error {
    corrupt("_honker_stream", offset, &error.to_string())
}

fn bucket_name(
    conn: &Connection,
    names: &mut HashMap<String, String>,
    topic: &str,
) -> Result<String> {
    if let Some(name) = names.get(topic) {
        return Ok(name.clone());
    }
    let id = topic.strip_prefix(TOPIC).unwrap_or(topic);
    let mut stmt = conn
        .prepare_cached("SELECT name FROM buckets WHERE id = ?")
        .db()?;
    let name: Option<String> = stmt.query_row([id], |row| row.get(0)).optional().db()?;
    let name = name.ok_or_else(|| corrupt("_honker_stream", topic, "the topic is of no bucket"))?;
    names.insert(topic.to_owned(), name.clone());
    Ok(name)
}

fn refuse_lagging(conn: &Connection, bucket: Option<BucketId>, after: Cursor) -> Result<()> {
    let sql = "SELECT max(pruned) FROM buckets WHERE ?1 IS NULL OR id = ?1";
    let mut stmt = conn.prepare_cached(sql).db()?;
    let pruned: Option<i64> = stmt
        .query_row([bucket.map(|b| b.0)], |row| row.get(0))
        .db()?;
    let pruned = Cursor(pruned.unwrap_or(0).unsigned_abs());
    if after >= pruned {
        return Ok(());
    }
    let detail = format!(
        "events after the cursor {} were pruned: the oldest cursor that works is {}",
        after.0, pruned.0
    );
    Err(Error::with_detail(ErrorKind::Lagged, detail))
}

pub(crate) fn last_cursor(conn: &Connection) -> Result<Cursor> {
    // The sequence outlives the records: it says which offset was the last one ever given.
    let sql = "SELECT q.seq, CASE WHEN s.topic GLOB ?1 THEN s.payload END FROM sqlite_sequence q \
               LEFT JOIN _honker_stream s ON s.offset = q.seq WHERE q.name = '_honker_stream'";
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.query([format!("{TOPIC}*")]).db()?;
    let Some(row) = rows.next().db()? else {
        return Ok(Cursor::START);
    };
    let offset = row.get::<_, i64>(0).db()?.unsigned_abs();
    let payload = row
        .get_ref(1)
        .db()?
        .as_str_or_null()
        .map_err(|e| bad(offset, &e))?;
    let Some(payload) = payload else {
        return Ok(Cursor::end_of(offset));
    };
    let head: Head = decode(offset, payload)?;
    Ok(match head.changes.len().checked_sub(1) {
        Some(last) => Cursor::new(offset, last),
        None => Cursor::end_of(offset),
    })
}

pub(crate) fn prune(conn: &Connection, bucket: BucketId, retention: &Retention) -> Result<u64> {
    let topic = topic(bucket);
    let mut newest_gone = None;
    let mut removed = 0;
    // Walks from the newest record down: what is newer than the first record that may go stays.
    let sql = "SELECT offset, payload FROM _honker_stream WHERE topic = ?1 ORDER BY offset DESC";
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.query([&topic]).db()?;
    let mut newer = 0;
    while let Some(row) = rows.next().db()? {
        let offset = row.get::<_, i64>(0).db()?.unsigned_abs();
        let payload = row.get_ref(1).db()?.as_str().map_err(|e| bad(offset, &e))?;
        let head: Head = decode(offset, payload)?;
        let enough = retention.at_most.is_some_and(|most| newer >= most);
        let too_old = retention.not_before.is_some_and(|time| head.at < time);
        if newest_gone.is_none() && (enough || too_old) {
            newest_gone = Some(Cursor::new(offset, head.changes.len().saturating_sub(1)));
        }
        if newest_gone.is_some() {
            removed += head.changes.len() as u64;
        } else {
            newer += head.changes.len() as u64;
        }
    }
    drop(rows);
    let Some(newest_gone) = newest_gone else {
        return Ok(0);
    };
    let sql = "DELETE FROM _honker_stream WHERE topic = ?1 AND offset <= ?2";
    let bound = crate::error::to_i64(newest_gone.offset())?;
    conn.prepare_cached(sql)
        .db()?
        .execute((&topic, bound))
        .db()?;
    let sql = "UPDATE buckets SET pruned = max(pruned, ?2) WHERE id = ?1";
    // Who has seen the last event that goes misses nothing.
    let pruned = crate::error::to_i64(newest_gone.0)?;
    conn.prepare_cached(sql)
        .db()?
        .execute((bucket.0, pruned))
        .db()?;
    Ok(removed)
}

pub(crate) fn remove_all(conn: &Connection, bucket: BucketId) -> Result<()> {
    let sql = "DELETE FROM _honker_stream WHERE topic = ?1";
    conn.prepare_cached(sql)
        .db()?
        .execute([topic(bucket)])
        .db()?;
    Ok(())
}

/// Checks that a record of the log decodes.
pub(crate) fn check_record(offset: u64, payload: &str) -> Result<()> {
    decode::<Commit>(offset, payload).map(drop)
}
