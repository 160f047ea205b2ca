//! Schedules: honker's scheduler, and the queue it puts due tasks in.
//!
//! Each schedule has a queue of its own name. Whoever asks for due tasks makes the scheduler move
//! what is due into the queues first, so nothing has to run all the time.

use alknet_fs_core::entry::Timestamp;
use alknet_fs_core::store::{DueTask, Schedule};
use alknet_fs_core::{Error, ErrorKind, Result};
use rusqlite::Connection;
use serde::Deserialize;

use crate::error::{DbResult, corrupt};

/// The most runs that are claimed as one; the scheduler catches up with at most 64.
const MOST: u32 = 64;

/// One claimed entry of a queue, as honker tells it.
#[derive(Deserialize)]
struct Claimed {
    id: i64,
    payload: String,
}

pub(crate) fn all(conn: &Connection) -> Result<Vec<Schedule>> {
    let sql = "SELECT name, cron_expr, payload, next_fire_at FROM _honker_scheduler_tasks \
               WHERE enabled = 1 ORDER BY name";
    let mut stmt = conn.prepare_cached(sql).db()?;
    let schedules = stmt
        .query_map([], |row| {
            Ok(Schedule {
                name: row.get(0)?,
                when: row.get(1)?,
                payload: row.get(2)?,
                next: Timestamp(row.get::<_, i64>(3)?.saturating_mul(1_000_000_000)),
            })
        })
        .db()?;
    schedules.collect::<rusqlite::Result<_>>().db()
}

pub(crate) fn set(conn: &Connection, name: &str, when: &str, payload: &str) -> Result<()> {
    honker_core::cron::next_after_unix(when, 0)
        .map_err(|why| Error::with_detail(ErrorKind::InvalidInput, why))?;
    let sql = "SELECT honker_scheduler_register(?1, ?1, ?2, ?3, 0, NULL)";
    let mut call = conn.prepare_cached(sql).db()?;
    call.query_row((name, when, payload), |_| Ok(())).db()
}

pub(crate) fn remove(conn: &Connection, name: &str) -> Result<bool> {
    let mut call = conn
        .prepare_cached("SELECT honker_scheduler_unregister(?1)")
        .db()?;
    call.query_row([name], |row| row.get(0)).db()
}

pub(crate) fn claim(
    conn: &Connection,
    name: &str,
    now: Timestamp,
    worker: &str,
    seconds: u32,
) -> Result<Option<DueTask>> {
    let mut tick = conn
        .prepare_cached("SELECT honker_scheduler_tick(?1)")
        .db()?;
    tick.query_row([now.0.div_euclid(1_000_000_000)], |_| Ok(()))
        .db()?;
    let mut call = conn
        .prepare_cached("SELECT honker_claim_batch(?1, ?2, ?3, ?4)")
        .db()?;
    let claimed: String = call
        .query_row((name, worker, MOST, seconds), |row| row.get(0))
        .db()?;
    let mut claimed: Vec<Claimed> = serde_json::from_str(&claimed)
        .map_err(|e| corrupt("_honker_live", name, &format!("a claim is bad: {e}")))?;
    claimed.sort_by_key(|job| job.id);
    let jobs = claimed.iter().map(|job| job.id).collect();
    Ok(claimed.pop().map(|newest| DueTask {
        payload: newest.payload,
        jobs,
    }))
}

pub(crate) fn finish(conn: &Connection, task: &DueTask, worker: &str) -> Result<()> {
    let jobs =
        serde_json::to_string(&task.jobs).map_err(|e| Error::new(ErrorKind::Io).source(e))?;
    let mut call = conn
        .prepare_cached("SELECT honker_ack_batch(?1, ?2)")
        .db()?;
    call.query_row((jobs, worker), |_| Ok(())).db()
}
