//! Queues of jobs: honker's.
//!
//! A job waits until it is done or cancelled, however often that fails: who tries again, and when, is
//! for those who queue it.

use alknet_fs_core::store::{Job, JobId, JobOptions};
use alknet_fs_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension};
use serde::Deserialize;

use crate::error::{DbResult, corrupt};
use crate::write::change;

/// How often a job may be claimed: honker counts, and gives up at a number it is given.
const CLAIMS_MAX: i64 = i64::MAX;

/// One claimed entry of a queue, as honker tells it.
#[derive(Deserialize)]
struct Claimed {
    id: i64,
    payload: String,
}

pub(crate) fn enqueue(
    conn: &Connection,
    queue: &str,
    payload: &str,
    options: &JobOptions,
) -> Result<JobId> {
    let sql = "SELECT honker_enqueue(?1, ?2, NULL, ?3, ?4, ?5, ?6)";
    let mut call = conn.prepare_cached(sql).db()?;
    let JobOptions {
        priority,
        delay,
        expires,
    } = *options;
    let params = (queue, payload, delay, priority, CLAIMS_MAX, expires);
    call.query_row(params, |row| row.get(0)).db().map(JobId)
}

pub(crate) fn claim(
    conn: &Connection,
    queue: &str,
    worker: &str,
    limit: usize,
    seconds: u32,
) -> Result<Vec<Job>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut call = conn
        .prepare_cached("SELECT honker_claim_batch(?1, ?2, ?3, ?4)")
        .db()?;
    let claimed: String = call
        .query_row((queue, worker, limit, seconds), |row| row.get(0))
        .db()?;
    let claimed: Vec<Claimed> = serde_json::from_str(&claimed)
        .map_err(|e| corrupt("_honker_live", queue, &format!("a claim is bad: {e}")))?;
    let job = |claimed: Claimed| Job {
        id: JobId(claimed.id),
        payload: claimed.payload,
        claimed: true,
    };
    Ok(claimed.into_iter().map(job).collect())
}

pub(crate) fn renew(conn: &Connection, id: JobId, worker: &str, seconds: u32) -> Result<bool> {
    let mut call = conn
        .prepare_cached("SELECT honker_heartbeat(?1, ?2, ?3)")
        .db()?;
    call.query_row((id.0, worker, seconds), |row| row.get(0))
        .db()
}

pub(crate) fn finish(conn: &Connection, ids: &[JobId], worker: &str) -> Result<()> {
    let ids = serde_json::to_string(ids).map_err(|e| Error::new(ErrorKind::Io).source(e))?;
    let mut call = conn
        .prepare_cached("SELECT honker_ack_batch(?1, ?2)")
        .db()?;
    call.query_row((ids, worker), |_| Ok(())).db()
}

pub(crate) fn cancel(conn: &Connection, id: JobId) -> Result<()> {
    let mut call = conn.prepare_cached("SELECT honker_cancel(?1)").db()?;
    call.query_row([id.0], |_| Ok(())).db()
}

/// Takes back all claims. The table is honker's shared layout; it has no function for this.
pub(crate) fn release(conn: &Connection, queue: &str) -> Result<()> {
    let sql = "UPDATE _honker_live SET state = 'pending', worker_id = NULL, \
               claim_expires_at = NULL WHERE queue = ?1 AND state = 'processing'";
    change(conn, sql, [queue]).map(drop)
}

/// Ends what jobs still have to wait. As with [`release`], honker has no function for this.
pub(crate) fn hurry(conn: &Connection, queue: &str) -> Result<()> {
    let sql = "UPDATE _honker_live SET run_at = unixepoch() WHERE queue = ?1 \
               AND state = 'pending' AND run_at > unixepoch()";
    change(conn, sql, [queue]).map(drop)
}

pub(crate) fn any_due(conn: &Connection, queue: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM _honker_live WHERE queue = ?1 \
               AND state IN ('pending', 'processing') \
               AND (expires_at IS NULL OR expires_at > unixepoch()) \
               AND ((state = 'pending' AND run_at <= unixepoch()) \
                 OR (state = 'processing' AND claim_expires_at < unixepoch())) LIMIT 1";
    conn.prepare_cached(sql).db()?.exists([queue]).db()
}

pub(crate) fn set_result(conn: &Connection, id: JobId, value: &str, seconds: u32) -> Result<()> {
    let mut call = conn
        .prepare_cached("SELECT honker_result_save(?1, ?2, ?3)")
        .db()?;
    call.query_row((id.0, value, seconds), |_| Ok(())).db()
}

pub(crate) fn result(conn: &Connection, id: JobId) -> Result<Option<String>> {
    let sql = "SELECT value FROM _honker_results WHERE job_id = ?1 \
               AND (expires_at IS NULL OR expires_at > unixepoch())";
    let mut stmt = conn.prepare_cached(sql).db()?;
    let value = stmt.query_row([id.0], |row| row.get(0));
    value.optional().db()
}

pub(crate) fn all(conn: &Connection, queue: &str, visit: &mut dyn FnMut(Job)) -> Result<()> {
    let sql = "SELECT id, payload, state = 'processing' FROM _honker_live WHERE queue = ?1 \
               AND state IN ('pending', 'processing') \
               AND (expires_at IS NULL OR expires_at > unixepoch()) ORDER BY id";
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.query([queue]).db()?;
    while let Some(row) = rows.next().db()? {
        visit(Job {
            id: JobId(row.get(0).db()?),
            payload: row.get(1).db()?,
            claimed: row.get(2).db()?,
        });
    }
    Ok(())
}

pub(crate) fn sweep(conn: &Connection, queue: &str) -> Result<()> {
    for sql in [
        "SELECT honker_sweep_expired(?1)",
        "SELECT honker_result_sweep() WHERE ?1 IS NOT NULL",
    ] {
        let mut call = conn.prepare_cached(sql).db()?;
        call.query_row([queue], |_| Ok(())).db()?;
    }
    // What expired has no further use, and honker keeps it for ever.
    change(conn, "DELETE FROM _honker_dead WHERE queue = ?1", [queue]).map(drop)
}
