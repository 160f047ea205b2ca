//! Looking for damage.

use std::ops::ControlFlow;

use alknet_fs_core::store::LazyRow;
use alknet_fs_core::{ErrorKind, Result};
use rusqlite::Connection;

use crate::error::DbResult;
use crate::{events, read};

/// The most problems that are listed of one sort.
const MOST: usize = 100;

/// Queries that return one text for each row that refers to something that is not there. SQLite's
/// foreign keys would look all of them up at every write; the code that writes keeps them instead,
/// and this finds out whether it did.
const REFERENCES: &[&str] = &[
    "SELECT format('branch %d (%s) is of bucket %d, which does not exist', id, name, bucket)
     FROM branches WHERE bucket NOT IN (SELECT id FROM buckets)",
    "SELECT format('a line is of branch %d, which does not exist', branch)
     FROM lines WHERE branch NOT IN (SELECT id FROM branches)",
    "SELECT format('branch %d is based on branch %d, which does not exist', branch, base_branch)
     FROM lines WHERE base_branch NOT IN (SELECT id FROM branches)",
    "SELECT format('branch %d is based on branch %d, which is newer', branch, base_branch)
     FROM lines WHERE base_branch > branch",
    "SELECT format('branch %d is based on branch %d of another bucket', l.branch, l.base_branch)
     FROM lines l JOIN branches a ON a.id = l.branch JOIN branches b ON b.id = l.base_branch
     WHERE a.bucket <> b.bucket",
    "SELECT format('snapshot %s is of branch %d, which does not exist', name, branch)
     FROM snapshots WHERE branch NOT IN (SELECT id FROM branches)",
    "SELECT format('snapshot %s of branch %d shows epoch %d, which is yet to come',
                   s.name, s.branch, s.epoch)
     FROM snapshots s JOIN branches b ON b.id = s.branch JOIN buckets k ON k.id = b.bucket
     WHERE s.epoch > k.epoch",
    "WITH RECURSIVE present(id) AS (
         SELECT min(branch) FROM entries
         UNION ALL
         SELECT (SELECT min(branch) FROM entries WHERE branch > present.id) FROM present
         WHERE present.id IS NOT NULL)
     SELECT format('entries are of branch %d, which does not exist', id)
     FROM present WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM branches)",
    "SELECT format('session %d is of branch %d, which does not exist', id, branch)
     FROM sessions WHERE branch NOT IN (SELECT id FROM branches)",
    "SELECT format('%d staged operations are of session %d, which does not exist',
                   count(*), session)
     FROM session_ops WHERE session NOT IN (SELECT id FROM sessions) GROUP BY session",
    "SELECT format('content %s is a delta over %s, which does not exist',
                   lower(hex(hash)), lower(hex(base)))
     FROM contents c
     WHERE base IS NOT NULL AND NOT EXISTS (SELECT 1 FROM contents b WHERE b.hash = c.base)",
    "SELECT format('event record %d is of topic %s, which is of no bucket', offset, topic)
     FROM _honker_stream
     WHERE topic GLOB 'alkfs:*' AND substr(topic, 7) NOT IN (SELECT id || '' FROM buckets)",
];

/// The same, for what takes a look at every entry.
const ENTRIES: &str =
    "SELECT format('%s/%s in branch %d is in bucket %d, which is not the branch''s',
                   rtrim(e.parent, '/'), e.name, e.branch, e.bucket)
     FROM entries e JOIN branches b ON b.id = e.branch WHERE b.bucket <> e.bucket
     UNION ALL
     SELECT format('%s/%s in branch %d is of epoch %d, which is yet to come',
                   rtrim(e.parent, '/'), e.name, e.branch, e.epoch)
     FROM entries e JOIN buckets k ON k.id = e.bucket WHERE e.epoch > k.epoch";

const ALL_ROWS: &str = "SELECT parent, name, branch, epoch, kind, size, hash, target, mode, uid, \
                        gid, mtime, ctime, base FROM entries WHERE bucket >= ?1";

pub(crate) fn check(conn: &Connection, full: bool) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let pragma = if full {
        "SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'"
    } else {
        "SELECT quick_check FROM pragma_quick_check WHERE quick_check <> 'ok'"
    };
    let entries: &[&str] = if full { &[ENTRIES] } else { &[] };
    for sql in [pragma].iter().chain(REFERENCES).chain(entries) {
        note(&mut problems, |problems| list(conn, sql, problems))?;
    }
    note(&mut problems, |_| check_rows(conn))?;
    note(&mut problems, |problems| check_events(conn, problems))?;
    Ok(problems)
}

/// Makes damage that stopped a part of the check a problem too.
fn note(
    problems: &mut Vec<String>,
    part: impl FnOnce(&mut Vec<String>) -> Result<()>,
) -> Result<()> {
    match part(problems) {
        Err(e) if e.kind() == ErrorKind::Corrupt => {
            let line = e.to_string();
            if !problems.contains(&line) {
                problems.push(line);
            }
            Ok(())
        }
        result => result,
    }
}

fn list(conn: &Connection, sql: &str, problems: &mut Vec<String>) -> Result<()> {
    let mut stmt = conn.prepare(sql).db()?;
    let mut rows = stmt.query([]).db()?;
    let mut more = MOST;
    while let Some(row) = rows.next().db()? {
        if more == 0 {
            problems.push("... and more of these".into());
            break;
        }
        more -= 1;
        problems.push(row.get(0).db()?);
    }
    Ok(())
}

/// Decodes every entry up to the first that does not.
fn check_rows(conn: &Connection) -> Result<()> {
    let visit =
        &mut |_: &str, _: &str, _, row: &LazyRow<'_>| row().map(|_| ControlFlow::Continue(()));
    read::scan(conn, ALL_ROWS, [0], visit).map(drop)
}

fn check_events(conn: &Connection, problems: &mut Vec<String>) -> Result<()> {
    let sql = "SELECT offset, payload FROM _honker_stream WHERE topic GLOB 'alkfs:*'";
    let mut stmt = conn.prepare(sql).db()?;
    let mut rows = stmt.query([]).db()?;
    while let Some(row) = rows.next().db()? {
        let offset = row.get::<_, i64>(0).db()?.unsigned_abs();
        let payload = row.get_ref(1).db()?.as_str().unwrap_or_default();
        note(problems, |_| events::check_record(offset, payload))?;
        if problems.len() > MOST {
            break;
        }
    }
    Ok(())
}
