//! Writing rows.

use alknet_fs_core::entry::{EntryId, Hash, Node, Timestamp};
use alknet_fs_core::event::{Commit, Cursor};
use alknet_fs_core::store::{
    BranchId, BranchRecord, BucketId, BucketRecord, ContentForm, ContentRecord, DueTask, Epoch,
    Job, JobId, JobOptions, Layer, LineRecord, LockOutcome, Retention, Row, SessionId, SessionOp,
    SessionRecord, SnapshotRecord, Staging, WriteTxn,
};
use alknet_fs_core::{Error, ErrorKind, Result, TreePath};
use rusqlite::types::Null;
use rusqlite::{Connection, Params};

use crate::error::{DbResult, corrupt, missing, to_i64};
use crate::events;
use crate::jobs;
use crate::moving::{self, Parents};
use crate::read::parents_below;
use crate::schedule;
use crate::store::{Handle, Txn, WriteHandle};

/// Updates where the row exists: `REPLACE` would delete it first.
const PUT_ROW: &str = "INSERT INTO entries \
    (bucket, parent, name, branch, epoch, kind, size, hash, target, mode, uid, gid, mtime, ctime, base) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
    ON CONFLICT DO UPDATE SET kind = excluded.kind, size = excluded.size, hash = excluded.hash, \
    target = excluded.target, mode = excluded.mode, uid = excluded.uid, gid = excluded.gid, \
    mtime = excluded.mtime, ctime = excluded.ctime, base = excluded.base";

impl WriteTxn for Txn<WriteHandle> {
    fn commit(self: Box<Self>) -> Result<()> {
        self.0.commit()
    }

    fn add_bucket(&mut self, name: &str, created: Timestamp) -> Result<BucketRecord> {
        let sql = "INSERT INTO buckets (name, created, epoch, generation, pruned) \
                   VALUES (?1, ?2, 1, 1, 0)";
        let id = insert(self.0.conn()?, sql, (name, created.0)).map_err(|e| e.path(name))?;
        Ok(BucketRecord {
            id: BucketId(number(id)?),
            name: name.into(),
            created,
            epoch: Epoch(1),
            generation: 1,
            pruned: Cursor::START,
        })
    }

    fn set_bucket(&mut self, bucket: &BucketRecord) -> Result<()> {
        let sql = "UPDATE buckets SET name = ?2, created = ?3, epoch = ?4, generation = ?5, \
                   pruned = ?6 WHERE id = ?1";
        let params = (
            bucket.id.0,
            &bucket.name,
            bucket.created.0,
            bucket.epoch.0,
            to_i64(bucket.generation)?,
            to_i64(bucket.pruned.0)?,
        );
        let changed = change(self.0.conn()?, sql, params).map_err(|e| e.path(&bucket.name))?;
        expect_one(changed, "bucket", bucket.id)
    }

    fn remove_bucket(&mut self, id: BucketId) -> Result<()> {
        let conn = self.0.conn()?;
        for sql in [
            "DELETE FROM session_ops WHERE session IN (SELECT id FROM sessions WHERE branch IN \
             (SELECT id FROM branches WHERE bucket = ?1))",
            "DELETE FROM sessions WHERE branch IN (SELECT id FROM branches WHERE bucket = ?1)",
            "DELETE FROM lines WHERE branch IN (SELECT id FROM branches WHERE bucket = ?1)",
            "DELETE FROM snapshots WHERE branch IN (SELECT id FROM branches WHERE bucket = ?1)",
            "DELETE FROM conflicts WHERE branch IN (SELECT id FROM branches WHERE bucket = ?1)",
            "DELETE FROM conflict_contents WHERE branch IN \
             (SELECT id FROM branches WHERE bucket = ?1)",
            "DELETE FROM entries WHERE bucket = ?1",
            "DELETE FROM branches WHERE bucket = ?1",
            "DELETE FROM buckets WHERE id = ?1",
        ] {
            change(conn, sql, [id.0])?;
        }
        events::remove_all(conn, id)
    }

    fn add_branch(
        &mut self,
        bucket: BucketId,
        name: &str,
        created: Timestamp,
    ) -> Result<BranchRecord> {
        let sql = "INSERT INTO branches (bucket, name, created) VALUES (?1, ?2, ?3)";
        let params = (bucket.0, name, created.0);
        let id = insert(self.0.conn()?, sql, params).map_err(|e| e.path(name))?;
        Ok(BranchRecord {
            id: BranchId(number(id)?),
            bucket,
            name: name.into(),
            created,
        })
    }

    fn set_branch(&mut self, branch: &BranchRecord) -> Result<()> {
        let sql = "UPDATE branches SET bucket = ?2, name = ?3, created = ?4 WHERE id = ?1";
        let params = (branch.id.0, branch.bucket.0, &branch.name, branch.created.0);
        let changed = change(self.0.conn()?, sql, params).map_err(|e| e.path(&branch.name))?;
        expect_one(changed, "branch", branch.id)
    }

    fn remove_branch(&mut self, id: BranchId) -> Result<()> {
        let conn = self.0.conn()?;
        for sql in [
            "DELETE FROM session_ops WHERE session IN (SELECT id FROM sessions WHERE branch = ?1)",
            "DELETE FROM sessions WHERE branch = ?1",
            "DELETE FROM lines WHERE branch = ?1",
            "DELETE FROM snapshots WHERE branch = ?1",
            "DELETE FROM conflicts WHERE branch = ?1",
            "DELETE FROM conflict_contents WHERE branch = ?1",
            "DELETE FROM entries WHERE branch = ?1",
            "DELETE FROM branches WHERE id = ?1",
        ] {
            change(conn, sql, [id.0])?;
        }
        Ok(())
    }

    fn add_line(&mut self, line: &LineRecord) -> Result<()> {
        let sql = "INSERT INTO lines \
                   (branch, start, base_branch, base_epoch, stays_live, may_hide) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let base_branch = line.base.map(|base| base.branch.0);
        let base_epoch = line.base.and_then(|base| base.at).map(|epoch| epoch.0);
        let stays_live = line.base.is_some_and(|base| base.stays_live);
        let params = (
            line.branch.0,
            line.start.0,
            base_branch,
            base_epoch,
            stays_live,
            line.base.is_some_and(|base| base.may_hide),
        );
        change(self.0.conn()?, sql, params).map(drop)
    }

    fn add_snapshot(&mut self, snapshot: &SnapshotRecord) -> Result<()> {
        let sql = "INSERT INTO snapshots (branch, name, epoch, created) VALUES (?1, ?2, ?3, ?4)";
        let params = (
            snapshot.branch.0,
            &snapshot.name,
            snapshot.epoch.0,
            snapshot.created.0,
        );
        change(self.0.conn()?, sql, params)
            .map(drop)
            .map_err(|e| e.path(&snapshot.name))
    }

    fn remove_snapshot(&mut self, branch: BranchId, name: &str) -> Result<()> {
        let sql = "DELETE FROM snapshots WHERE branch = ?1 AND name = ?2";
        change(self.0.conn()?, sql, (branch.0, name)).map(drop)
    }

    fn put_row(
        &mut self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        layer: Layer,
        row: &Row,
    ) -> Result<()> {
        let mut stmt = self.0.conn()?.prepare_cached(PUT_ROW).db()?;
        let base = row.base.as_ref().map(|EntryId(id)| id);
        let (branch, epoch) = (layer.branch.0, layer.epoch.0);
        let Some(entry) = &row.entry else {
            let nothing = [Null; 9];
            let [size, hash, target, mode, uid, gid, mtime, ctime, _] = nothing;
            stmt.execute(rusqlite::params![
                bucket.0, parent, name, branch, epoch, 0, size, hash, target, mode, uid, gid,
                mtime, ctime, base
            ])
            .db()?;
            return Ok(());
        };
        let (kind, size, hash, target) = match &entry.node {
            Node::File { hash, size } => (1, Some(to_i64(*size)?), Some(hash.as_bytes()), None),
            Node::Dir => (2, None, None, None),
            Node::Symlink { target } => (3, None, None, Some(&**target)),
        };
        let attrs = &entry.attrs;
        stmt.execute(rusqlite::params![
            bucket.0,
            parent,
            name,
            branch,
            epoch,
            kind,
            size,
            hash,
            target,
            attrs.mode,
            attrs.uid,
            attrs.gid,
            attrs.mtime.0,
            attrs.ctime.0,
            base
        ])
        .db()?;
        Ok(())
    }

    fn remove_row(
        &mut self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        layer: Layer,
    ) -> Result<()> {
        let sql = "DELETE FROM entries WHERE bucket = ?1 AND parent = ?2 AND name = ?3 \
                   AND branch = ?4 AND epoch = ?5";
        let params = (bucket.0, parent, name, layer.branch.0, layer.epoch.0);
        change(self.0.conn()?, sql, params).map(drop)
    }

    fn move_rows(
        &mut self,
        bucket: BucketId,
        layer: Layer,
        from: &TreePath,
        to: &TreePath,
    ) -> Result<()> {
        let conn = self.0.conn()?;
        // `substr` counts characters from 1: the rest starts at the `/` after the old prefix.
        let (low, high) = parents_below(from);
        let rest = low.chars().count();
        let prefix = if to.is_root() { "" } else { to.as_str() };
        let below = Parents::Between(&low, &high);
        moving::move_rows(conn, bucket, layer, below, prefix, rest)?;
        let own = Parents::Only(from.as_str());
        moving::move_rows(
            conn,
            bucket,
            layer,
            own,
            to.as_str(),
            from.as_str().chars().count() + 1,
        )
    }

    fn add_content(&mut self, content: &ContentRecord) -> Result<bool> {
        let sql = "INSERT OR IGNORE INTO contents (hash, size, form, base, created, data) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let params = (
            content.hash.as_bytes(),
            to_i64(content.size)?,
            form_number(content.form),
            content.base.as_ref().map(Hash::as_bytes),
            content.created.0,
            &content.data,
        );
        Ok(change(self.0.conn()?, sql, params)? > 0)
    }

    fn set_content(&mut self, content: &ContentRecord) -> Result<()> {
        let sql = "UPDATE contents SET size = ?2, form = ?3, base = ?4, created = ?5, data = ?6 \
                   WHERE hash = ?1";
        let params = (
            content.hash.as_bytes(),
            to_i64(content.size)?,
            form_number(content.form),
            content.base.as_ref().map(Hash::as_bytes),
            content.created.0,
            &content.data,
        );
        expect_one(
            change(self.0.conn()?, sql, params)?,
            "content",
            content.hash,
        )
    }

    fn remove_content(&mut self, hash: &Hash) -> Result<()> {
        let conn = self.0.conn()?;
        for sql in [
            "DELETE FROM contents WHERE hash = ?1",
            "DELETE FROM pins WHERE hash = ?1",
            "DELETE FROM unreferenced WHERE hash = ?1",
        ] {
            change(conn, sql, [hash.as_bytes()])?;
        }
        Ok(())
    }

    fn set_unreferenced(&mut self, hash: &Hash, since: Option<Timestamp>) -> Result<()> {
        let conn = self.0.conn()?;
        match since {
            Some(since) => {
                let sql = "INSERT OR REPLACE INTO unreferenced (hash, since) VALUES (?1, ?2)";
                change(conn, sql, (hash.as_bytes(), since.0)).map(drop)
            }
            None => {
                let sql = "DELETE FROM unreferenced WHERE hash = ?1";
                change(conn, sql, [hash.as_bytes()]).map(drop)
            }
        }
    }

    fn pin_content(&mut self, hash: &Hash, until: Timestamp) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO pins (hash, until) VALUES (?1, ?2)";
        change(self.0.conn()?, sql, (hash.as_bytes(), until.0))?;
        self.set_unreferenced(hash, None)
    }

    fn add_session(&mut self, session: &SessionRecord) -> Result<SessionId> {
        let sql = "INSERT INTO sessions (id, branch, path, owner, holder, exclusive, create_new, \
                   base_hash, base_size, mode, created, touched, staging) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let id = put_session(self.0.conn()?, sql, None, session)?;
        Ok(SessionId(id.unsigned_abs()))
    }

    fn set_session(&mut self, session: &SessionRecord) -> Result<()> {
        let sql = "UPDATE sessions SET branch = ?2, path = ?3, owner = ?4, holder = ?5, \
                   exclusive = ?6, create_new = ?7, base_hash = ?8, base_size = ?9, mode = ?10, \
                   created = ?11, touched = ?12, staging = ?13 WHERE id = ?1";
        let conn = self.0.conn()?;
        put_session(conn, sql, Some(to_i64(session.id.0)?), session)?;
        expect_one(conn.changes() as usize, "session", session.id)
    }

    fn remove_session(&mut self, id: SessionId) -> Result<()> {
        self.clear_session_ops(id)?;
        let sql = "DELETE FROM sessions WHERE id = ?1";
        change(self.0.conn()?, sql, [to_i64(id.0)?]).map(drop)
    }

    fn add_session_op(&mut self, id: SessionId, op: &SessionOp) -> Result<()> {
        let sql = "INSERT INTO session_ops (session, offset, data) VALUES (?1, ?2, ?3)";
        let (offset, data) = match op {
            SessionOp::Write { offset, data } => (*offset, Some(data)),
            SessionOp::Truncate { size } => (*size, None),
        };
        let params = (to_i64(id.0)?, to_i64(offset)?, data);
        change(self.0.conn()?, sql, params).map(drop)
    }

    fn clear_session_ops(&mut self, id: SessionId) -> Result<()> {
        let sql = "DELETE FROM session_ops WHERE session = ?1";
        change(self.0.conn()?, sql, [to_i64(id.0)?]).map(drop)
    }

    fn publish(&mut self, bucket: BucketId, commit: &Commit) -> Result<Cursor> {
        events::publish(self.0.conn()?, bucket, commit)
    }

    fn prune_events(&mut self, bucket: BucketId, retention: &Retention) -> Result<u64> {
        events::prune(self.0.conn()?, bucket, retention)
    }

    fn lock(&mut self, name: &str, owner: &str, seconds: u32) -> Result<LockOutcome> {
        // honker's functions write several times; the transaction makes them one step.
        let conn = self.0.honker()?;
        let mut call = conn
            .prepare_cached("SELECT honker_lock_acquire(?1, ?2, ?3)")
            .db()?;
        if call
            .query_row((name, owner, i64::from(seconds.max(1))), |row| row.get(0))
            .db()?
        {
            // Acquiring again as the same owner leaves the old expiry; renewing sets the new one.
            drop(call);
            if !self.renew_lock(name, owner, seconds)? {
                return Err(corrupt(
                    "_honker_locks",
                    name,
                    "a lock just taken is not there",
                ));
            }
            return Ok(LockOutcome::Acquired);
        }
        let mut stmt = conn
            .prepare_cached("SELECT owner FROM _honker_locks WHERE name = ?1")
            .db()?;
        let owner = stmt.query_row([name], |row| row.get(0)).db()?;
        Ok(LockOutcome::Held { owner })
    }

    fn renew_lock(&mut self, name: &str, owner: &str, seconds: u32) -> Result<bool> {
        let mut call = self
            .0
            .honker()?
            .prepare_cached("SELECT honker_lock_renew(?1, ?2, ?3)")
            .db()?;
        let seconds = i64::from(seconds.max(1));
        call.query_row((name, owner, seconds), |row| row.get(0))
            .db()
    }

    fn unlock(&mut self, name: &str, owner: &str) -> Result<()> {
        let mut call = self
            .0
            .honker()?
            .prepare_cached("SELECT honker_lock_release(?1, ?2)")
            .db()?;
        call.query_row([name, owner], |_| Ok(())).db()
    }

    fn set_schedule(&mut self, name: &str, when: &str, payload: &str) -> Result<()> {
        schedule::set(self.0.honker()?, name, when, payload)
    }

    fn remove_schedule(&mut self, name: &str) -> Result<bool> {
        schedule::remove(self.0.honker()?, name)
    }

    fn claim_due(
        &mut self,
        name: &str,
        now: Timestamp,
        worker: &str,
        seconds: u32,
    ) -> Result<Option<DueTask>> {
        schedule::claim(self.0.honker()?, name, now, worker, seconds)
    }

    fn finish_due(&mut self, task: &DueTask, worker: &str) -> Result<()> {
        schedule::finish(self.0.honker()?, task, worker)
    }

    fn enqueue(&mut self, queue: &str, payload: &str, options: &JobOptions) -> Result<JobId> {
        jobs::enqueue(self.0.honker()?, queue, payload, options)
    }

    fn claim_jobs(
        &mut self,
        queue: &str,
        worker: &str,
        limit: usize,
        seconds: u32,
    ) -> Result<Vec<Job>> {
        jobs::claim(self.0.honker()?, queue, worker, limit, seconds)
    }

    fn renew_job(&mut self, id: JobId, worker: &str, seconds: u32) -> Result<bool> {
        jobs::renew(self.0.honker()?, id, worker, seconds)
    }

    fn finish_jobs(&mut self, ids: &[JobId], worker: &str) -> Result<()> {
        jobs::finish(self.0.honker()?, ids, worker)
    }

    fn cancel_job(&mut self, id: JobId) -> Result<()> {
        jobs::cancel(self.0.honker()?, id)
    }

    fn release_jobs(&mut self, queue: &str) -> Result<()> {
        jobs::release(self.0.conn()?, queue)
    }

    fn hurry_jobs(&mut self, queue: &str) -> Result<()> {
        jobs::hurry(self.0.conn()?, queue)
    }

    fn set_job_result(&mut self, id: JobId, value: &str, seconds: u32) -> Result<()> {
        jobs::set_result(self.0.honker()?, id, value, seconds)
    }

    fn sweep_jobs(&mut self, queue: &str) -> Result<()> {
        jobs::sweep(self.0.honker()?, queue)
    }

    fn set_conflict(
        &mut self,
        branch: BranchId,
        path: &TreePath,
        conflict: &[u8],
        contents: &[(Hash, u64)],
    ) -> Result<()> {
        self.remove_conflict(branch, path)?;
        let conn = self.0.conn()?;
        let sql = "INSERT INTO conflicts (branch, path, data) VALUES (?1, ?2, ?3)";
        change(conn, sql, (branch.0, path.as_str(), conflict))?;
        for (hash, size) in contents {
            let sql = "INSERT OR REPLACE INTO conflict_contents (branch, path, hash, size) \
                       VALUES (?1, ?2, ?3, ?4)";
            let size = to_i64(*size)?;
            let params = (branch.0, path.as_str(), hash.as_bytes(), size);
            change(self.0.conn()?, sql, params)?;
            self.set_unreferenced(hash, None)?;
        }
        Ok(())
    }

    fn remove_conflict(&mut self, branch: BranchId, path: &TreePath) -> Result<()> {
        for sql in [
            "DELETE FROM conflicts WHERE branch = ?1 AND path = ?2",
            "DELETE FROM conflict_contents WHERE branch = ?1 AND path = ?2",
        ] {
            change(self.0.conn()?, sql, (branch.0, path.as_str()))?;
        }
        Ok(())
    }

    fn set_value(&mut self, scope: &str, key: &str, value: Option<&[u8]>) -> Result<()> {
        let conn = self.0.conn()?;
        match value {
            Some(value) => {
                let sql = "INSERT INTO kv (scope, name, value) VALUES (?1, ?2, ?3) \
                           ON CONFLICT DO UPDATE SET value = excluded.value";
                change(conn, sql, (scope, key, value)).map(drop)
            }
            None => {
                let sql = "DELETE FROM kv WHERE scope = ?1 AND name = ?2";
                change(conn, sql, (scope, key)).map(drop)
            }
        }
    }

    fn remove_values(&mut self, scope: &str) -> Result<()> {
        // What follows a `/` is a `0`.
        let sql = "DELETE FROM kv WHERE scope = ?1 OR scope >= ?1 || '/' AND scope < ?1 || '0'";
        change(self.0.conn()?, sql, [scope]).map(drop)
    }
}

/// Runs a change; returns how many rows it met.
pub(crate) fn change(conn: &Connection, sql: &str, params: impl Params) -> Result<usize> {
    conn.prepare_cached(sql).db()?.execute(params).db()
}

/// Inserts a row; returns its number.
fn insert(conn: &Connection, sql: &str, params: impl Params) -> Result<i64> {
    conn.prepare_cached(sql).db()?.insert(params).db()
}

fn put_session(
    conn: &Connection,
    sql: &str,
    id: Option<i64>,
    session: &SessionRecord,
) -> Result<i64> {
    let (hash, size) = match &session.base {
        Some((hash, size)) => (Some(hash.as_bytes()), Some(to_i64(*size)?)),
        None => (None, None),
    };
    let staging = match session.staging {
        Staging::Rows => 1,
        Staging::File => 2,
    };
    let params = rusqlite::params![
        id,
        session.branch.0,
        session.path.as_str(),
        session.owner,
        session.holder,
        session.exclusive,
        session.create_new,
        hash,
        size,
        session.mode,
        session.created.0,
        session.touched.0,
        staging
    ];
    conn.prepare_cached(sql).db()?.execute(params).db()?;
    Ok(conn.last_insert_rowid())
}

fn form_number(form: ContentForm) -> u8 {
    match form {
        ContentForm::Inline => 1,
        ContentForm::File => 2,
        ContentForm::Delta => 3,
    }
}

fn expect_one(changed: usize, what: &str, key: impl std::fmt::Display) -> Result<()> {
    if changed == 0 {
        return Err(missing(what, key));
    }
    Ok(())
}

fn number(id: i64) -> Result<u32> {
    u32::try_from(id).map_err(|_| {
        Error::with_detail(
            ErrorKind::NoSpace,
            "the store has used up its numbers for this",
        )
    })
}
