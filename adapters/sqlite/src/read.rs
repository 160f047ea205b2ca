//! Reading rows.

use std::ops::{ControlFlow, RangeInclusive};

use alknet_fs_core::entry::{Attrs, Entry, EntryId, Hash, Node, Timestamp};
use alknet_fs_core::event::{Cursor, Event};
use alknet_fs_core::store::{
    BranchId, BranchRecord, BucketId, BucketRecord, ConflictContent, ConflictVisitor, ContentForm,
    ContentRecord, Epoch, Job, JobId, Layer, LazyRow, LineBase, LineRecord, MissingVisitor,
    ReadTxn, Row, RowVisitor, Schedule, SessionId, SessionOp, SessionRecord, SnapshotRecord,
    Staging, TreeVisitor, Version,
};
use alknet_fs_core::{Result, TreePath};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, OptionalExtension, Params, params_from_iter};

use crate::error::{DbResult, corrupt, to_i64};
use crate::store::{Handle, Txn};

/// The columns that [`decode_row`] reads.
macro_rules! row_columns {
    () => {
        "kind, size, hash, target, mode, uid, gid, mtime, ctime, base"
    };
}

pub(crate) const SEEK: &str = concat!(
    "SELECT branch, epoch, ",
    row_columns!(),
    " FROM entries WHERE bucket = ?1 AND parent = ?2 AND name = ?3 \
     AND (branch, epoch) <= (?4, ?5) ORDER BY branch DESC, epoch DESC"
);

/// Reads one branch's copy of its rows; see the schema for why there are two.
pub(crate) const SEEK_IN: &str = concat!(
    "SELECT branch, epoch, ",
    row_columns!(),
    " FROM entries INDEXED BY entries_by_branch WHERE branch = ?2 AND parent = ?5 AND name = ?6 \
     AND epoch BETWEEN ?3 AND ?4 AND bucket = ?1 ORDER BY epoch DESC"
);

pub(crate) const SCAN_DIR: &str = concat!(
    "SELECT parent, name, branch, epoch, ",
    row_columns!(),
    " FROM entries WHERE bucket = ?1 AND parent = ?2 \
     ORDER BY name, branch DESC, epoch DESC"
);

pub(crate) const SCAN_DIR_AFTER: &str = concat!(
    "SELECT parent, name, branch, epoch, ",
    row_columns!(),
    " FROM entries WHERE bucket = ?1 AND parent = ?2 AND name > ?3 \
     ORDER BY name, branch DESC, epoch DESC"
);

pub(crate) const SCAN_BELOW: &str = concat!(
    "SELECT parent, name, branch, epoch, ",
    row_columns!(),
    " FROM entries WHERE bucket = ?1 AND parent > ?2 AND parent < ?3 \
     ORDER BY parent, name, branch DESC, epoch DESC"
);

pub(crate) const SCAN_DIR_OF: &str = concat!(
    "SELECT name, epoch, ",
    row_columns!(),
    " FROM entries INDEXED BY entries_by_branch WHERE branch = ?2 AND parent = ?5 \
     AND epoch BETWEEN ?3 AND ?4 AND bucket = ?1 ORDER BY name, epoch DESC"
);

pub(crate) const SCAN_DIR_OF_AFTER: &str = concat!(
    "SELECT name, epoch, ",
    row_columns!(),
    " FROM entries INDEXED BY entries_by_branch WHERE branch = ?2 AND parent = ?5 AND name > ?6 \
     AND epoch BETWEEN ?3 AND ?4 AND bucket = ?1 ORDER BY name, epoch DESC"
);

pub(crate) const PATHS_OF: &str = "SELECT parent, name FROM entries INDEXED BY entries_by_branch WHERE branch = ?2 \
     AND epoch BETWEEN ?3 AND ?4 AND bucket = ?1 ORDER BY parent, name";

pub(crate) const PATHS_IN_OF: &str = "SELECT parent, name FROM entries INDEXED BY entries_by_branch WHERE branch = ?2 \
     AND parent = ?5 AND epoch BETWEEN ?3 AND ?4 AND bucket = ?1 ORDER BY name";

pub(crate) const PATHS_BELOW_OF: &str = "SELECT parent, name FROM entries INDEXED BY entries_by_branch WHERE branch = ?2 \
     AND parent > ?5 AND parent < ?6 AND epoch BETWEEN ?3 AND ?4 AND bucket = ?1 \
     ORDER BY parent, name";

/// The bounds, both exclusive, of the parents that lie below a directory: all that start with its
/// path and a `/`. `0` is the byte after `/`.
pub(crate) fn parents_below(dir: &TreePath) -> (String, String) {
    let prefix = if dir.is_root() { "" } else { dir.as_str() };
    (format!("{prefix}/"), format!("{prefix}0"))
}

impl<H: Handle> ReadTxn for Txn<H> {
    fn version(&self) -> Option<Version> {
        self.0.version()
    }

    fn bucket_named(&self, name: &str) -> Result<Option<BucketRecord>> {
        let sql = "SELECT id, name, created, epoch, generation, pruned FROM buckets WHERE name = ?";
        one(self.0.conn()?, sql, [name], decode_bucket)
    }

    fn bucket(&self, id: BucketId) -> Result<Option<BucketRecord>> {
        let sql = "SELECT id, name, created, epoch, generation, pruned FROM buckets WHERE id = ?";
        one(self.0.conn()?, sql, [id.0], decode_bucket)
    }

    fn buckets(&self) -> Result<Vec<BucketRecord>> {
        let sql = "SELECT id, name, created, epoch, generation, pruned FROM buckets ORDER BY name";
        all(self.0.conn()?, sql, [], decode_bucket)
    }

    fn branch_named(&self, bucket: BucketId, name: &str) -> Result<Option<BranchRecord>> {
        let sql = "SELECT id, bucket, name, created FROM branches \
                   WHERE bucket = ? AND name = ?";
        one(self.0.conn()?, sql, (bucket.0, name), decode_branch)
    }

    fn branch(&self, id: BranchId) -> Result<Option<BranchRecord>> {
        let sql = "SELECT id, bucket, name, created FROM branches WHERE id = ?";
        one(self.0.conn()?, sql, [id.0], decode_branch)
    }

    fn branches(&self, bucket: BucketId) -> Result<Vec<BranchRecord>> {
        let sql = "SELECT id, bucket, name, created FROM branches \
                   WHERE bucket = ? ORDER BY id";
        all(self.0.conn()?, sql, [bucket.0], decode_branch)
    }

    fn lines(&self, branch: BranchId) -> Result<Vec<LineRecord>> {
        let sql = "SELECT branch, start, base_branch, base_epoch, stays_live, may_hide FROM lines \
                   WHERE branch = ? ORDER BY start";
        all(self.0.conn()?, sql, [branch.0], decode_line)
    }

    fn lines_on(&self, branch: BranchId) -> Result<Vec<LineRecord>> {
        let sql = "SELECT branch, start, base_branch, base_epoch, stays_live, may_hide FROM lines \
                   WHERE base_branch = ? ORDER BY branch, start";
        all(self.0.conn()?, sql, [branch.0], decode_line)
    }

    fn snapshot(&self, branch: BranchId, name: &str) -> Result<Option<SnapshotRecord>> {
        let sql = "SELECT branch, name, epoch, created FROM snapshots \
                   WHERE branch = ? AND name = ?";
        one(self.0.conn()?, sql, (branch.0, name), decode_snapshot)
    }

    fn snapshots(&self, branch: BranchId) -> Result<Vec<SnapshotRecord>> {
        let sql = "SELECT branch, name, epoch, created FROM snapshots \
                   WHERE branch = ? ORDER BY epoch, name";
        all(self.0.conn()?, sql, [branch.0], decode_snapshot)
    }

    fn seek(
        &self,
        bucket: BucketId,
        parent: &str,
        name: &str,
        at_most: Layer,
    ) -> Result<Option<(Layer, Row)>> {
        let Layer { branch, epoch } = at_most;
        let params = (bucket.0, parent, name, branch.0, epoch.0);
        newest(self.0.conn()?, SEEK, params, parent, name)
    }

    fn seek_in(
        &self,
        bucket: BucketId,
        branch: BranchId,
        epochs: RangeInclusive<Epoch>,
        parent: &str,
        name: &str,
    ) -> Result<Option<(Layer, Row)>> {
        let (first, last) = (epochs.start().0, epochs.end().0);
        let params = (bucket.0, branch.0, first, last, parent, name);
        newest(self.0.conn()?, SEEK_IN, params, parent, name)
    }

    fn scan_dir(
        &self,
        bucket: BucketId,
        parent: &str,
        after: Option<&str>,
        visit: &mut RowVisitor<'_>,
    ) -> Result<()> {
        let conn = self.0.conn()?;
        let visit = &mut |_: &str, name: &str, layer, row: &LazyRow<'_>| visit(name, layer, row);
        match after {
            None => scan(conn, SCAN_DIR, (bucket.0, parent), visit),
            Some(after) => scan(conn, SCAN_DIR_AFTER, (bucket.0, parent, after), visit),
        }
        .map(drop)
    }

    fn scan_dir_of(
        &self,
        bucket: BucketId,
        branch: BranchId,
        epochs: RangeInclusive<Epoch>,
        parent: &str,
        after: Option<&str>,
        visit: &mut RowVisitor<'_>,
    ) -> Result<()> {
        let sql = match after {
            None => SCAN_DIR_OF,
            Some(_) => SCAN_DIR_OF_AFTER,
        };
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        let (first, last) = (epochs.start().0, epochs.end().0);
        let mut rows = match after {
            None => stmt.query((bucket.0, branch.0, first, last, parent)),
            Some(after) => stmt.query((bucket.0, branch.0, first, last, parent, after)),
        }
        .db()?;
        while let Some(row) = rows.next().db()? {
            let fields = Fields {
                row,
                table: "entries",
                key: &|| format!("of a name below {parent}"),
            };
            let name = fields.text(0, "name")?;
            let fields = Fields {
                key: &|| TreePath::from_stored(parent, name).to_string(),
                ..fields
            };
            let epoch = Epoch(fields.number(1, "epoch")?);
            let row = || decode_row(&fields, 2);
            if visit(name, Layer { branch, epoch }, &row)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_tree(
        &self,
        bucket: BucketId,
        under: &TreePath,
        visit: &mut TreeVisitor<'_>,
    ) -> Result<()> {
        let conn = self.0.conn()?;
        let visit = &mut |parent: &str, name: &str, layer, row: &LazyRow<'_>| {
            visit(parent, name, layer, row()?)
        };
        if scan(conn, SCAN_DIR, (bucket.0, under.as_str()), visit)?.is_break() {
            return Ok(());
        }
        let (low, high) = parents_below(under);
        scan(conn, SCAN_BELOW, (bucket.0, low, high), visit).map(drop)
    }

    fn paths_of(
        &self,
        bucket: BucketId,
        branch: BranchId,
        epochs: RangeInclusive<Epoch>,
        under: &TreePath,
        visit: &mut dyn FnMut(&str, &str) -> Result<()>,
    ) -> Result<()> {
        let conn = self.0.conn()?;
        let (first, last) = (epochs.start().0, epochs.end().0);
        if under.is_root() {
            let range = (bucket.0, branch.0, first, last);
            return paths(conn, PATHS_OF, range, visit);
        }
        let direct = (bucket.0, branch.0, first, last, under.as_str());
        paths(conn, PATHS_IN_OF, direct, visit)?;
        let (low, high) = parents_below(under);
        let below = (bucket.0, branch.0, first, last, low, high);
        paths(conn, PATHS_BELOW_OF, below, visit)
    }

    fn content(&self, hash: &Hash) -> Result<Option<ContentRecord>> {
        let sql = "SELECT hash, size, form, base, created, data FROM contents WHERE hash = ?";
        one(self.0.conn()?, sql, [hash.as_bytes()], decode_content)
    }

    fn contents_after(
        &self,
        after: Option<&Hash>,
        limit: usize,
        with_data: bool,
    ) -> Result<Vec<ContentRecord>> {
        let sql = "SELECT hash, size, form, base, created, \
                       CASE WHEN NOT ?3 THEN x'' ELSE data END \
                   FROM contents WHERE hash > ?1 ORDER BY hash LIMIT ?2";
        let after: &[u8] = after.map_or(&[], |hash| hash.as_bytes());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        all(
            self.0.conn()?,
            sql,
            (after, limit, with_data),
            decode_content,
        )
    }

    fn has_content(&self, hash: &Hash) -> Result<bool> {
        let sql = "SELECT 1 FROM contents WHERE hash = ?";
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        stmt.exists([hash.as_bytes()]).db()
    }

    fn is_base(&self, hash: &Hash) -> Result<bool> {
        let sql = "SELECT 1 FROM contents WHERE base = ? LIMIT 1";
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        stmt.exists([hash.as_bytes()]).db()
    }

    fn unreferenced(&self, visit: &mut dyn FnMut(Hash, Timestamp)) -> Result<()> {
        let sql = "SELECT hash, since FROM unreferenced ORDER BY hash";
        let marks = all(self.0.conn()?, sql, [], decode_mark)?;
        marks
            .into_iter()
            .for_each(|(hash, since)| visit(hash, since));
        Ok(())
    }

    fn unreferenced_since(&self, hash: &Hash) -> Result<Option<Timestamp>> {
        let sql = "SELECT hash, since FROM unreferenced WHERE hash = ?";
        let mark = one(self.0.conn()?, sql, [hash.as_bytes()], decode_mark)?;
        Ok(mark.map(|(_, since)| since))
    }

    fn referenced(&self, now: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()> {
        let conn = self.0.conn()?;
        let sources: [(_, _, &[i64]); 5] = [
            (
                "entries",
                "SELECT hash FROM entries WHERE hash IS NOT NULL",
                &[],
            ),
            (
                "sessions",
                "SELECT base_hash FROM sessions WHERE base_hash IS NOT NULL",
                &[],
            ),
            (
                "contents",
                "SELECT base FROM contents WHERE base IS NOT NULL",
                &[],
            ),
            ("pins", "SELECT hash FROM pins WHERE until > ?1", &[now.0]),
            ("conflicts", "SELECT hash FROM conflict_contents", &[]),
        ];
        for (table, sql, params) in sources {
            let mut stmt = conn.prepare_cached(sql).db()?;
            let mut rows = stmt.query(params_from_iter(params)).db()?;
            while let Some(row) = rows.next().db()? {
                let key = || "with a reference to a content".into();
                let fields = Fields {
                    row,
                    table,
                    key: &key,
                };
                visit(Hash::from_bytes(fields.get(0, "hash")?));
            }
        }
        Ok(())
    }

    fn missing_contents(&self, bucket: BucketId, visit: &mut MissingVisitor<'_>) -> Result<()> {
        let sql = "SELECT parent, name, hash, size FROM entries WHERE bucket = ?1 \
                   AND hash IS NOT NULL \
                   AND NOT EXISTS (SELECT 1 FROM contents WHERE contents.hash = entries.hash)";
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        let mut rows = stmt.query([bucket.0]).db()?;
        while let Some(row) = rows.next().db()? {
            let fields = Fields {
                row,
                table: "entries",
                key: &|| "with a missing content".into(),
            };
            let (parent, name) = (fields.text(0, "parent")?, fields.text(1, "name")?);
            let hash = Hash::from_bytes(fields.get(2, "hash")?);
            if visit(parent, name, hash, fields.number(3, "size")?)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn held_contents(&self, until: Timestamp, visit: &mut dyn FnMut(Hash)) -> Result<()> {
        let sql = "SELECT base_hash FROM sessions WHERE base_hash IS NOT NULL \
                   UNION ALL SELECT hash FROM pins WHERE until > ?1";
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        let mut rows = stmt.query([until.0]).db()?;
        while let Some(row) = rows.next().db()? {
            let fields = Fields {
                row,
                table: "sessions and pins",
                key: &|| "with a reference to a content".into(),
            };
            visit(Hash::from_bytes(fields.get(0, "hash")?));
        }
        Ok(())
    }

    fn jobs(&self, queue: &str, visit: &mut dyn FnMut(Job)) -> Result<()> {
        crate::jobs::all(self.0.conn()?, queue, visit)
    }

    fn has_due_job(&self, queue: &str) -> Result<bool> {
        crate::jobs::any_due(self.0.conn()?, queue)
    }

    fn job_result(&self, id: JobId) -> Result<Option<String>> {
        crate::jobs::result(self.0.conn()?, id)
    }

    fn session(&self, id: SessionId) -> Result<Option<SessionRecord>> {
        let sql = "SELECT id, branch, path, owner, holder, exclusive, create_new, base_hash, \
                       base_size, mode, created, touched, staging FROM sessions WHERE id = ?";
        let id = i64::try_from(id.0).unwrap_or(-1);
        one(self.0.conn()?, sql, [id], decode_session)
    }

    fn sessions(&self, branch: Option<BranchId>) -> Result<Vec<SessionRecord>> {
        let sql = "SELECT id, branch, path, owner, holder, exclusive, create_new, base_hash, \
                       base_size, mode, created, touched, staging FROM sessions WHERE ?1 IS NULL OR branch = ?1 ORDER BY id";
        all(self.0.conn()?, sql, [branch.map(|b| b.0)], decode_session)
    }

    fn session_ops(&self, id: SessionId) -> Result<Vec<SessionOp>> {
        let sql = "SELECT id, offset, data FROM session_ops WHERE session = ? ORDER BY id";
        let id = i64::try_from(id.0).unwrap_or(-1);
        all(self.0.conn()?, sql, [id], decode_op)
    }

    fn events(&self, bucket: Option<BucketId>, after: Cursor, limit: usize) -> Result<Vec<Event>> {
        crate::events::read(self.0.conn()?, bucket, after, limit)
    }

    fn events_before(&self, bucket: BucketId, before: Cursor, limit: usize) -> Result<Vec<Event>> {
        crate::events::read_before(self.0.conn()?, bucket, before, limit)
    }

    fn last_cursor(&self) -> Result<Cursor> {
        crate::events::last_cursor(self.0.conn()?)
    }

    fn schedules(&self) -> Result<Vec<Schedule>> {
        crate::schedule::all(self.0.conn()?)
    }

    fn conflict(&self, branch: BranchId, path: &TreePath) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT data FROM conflicts WHERE branch = ? AND path = ?";
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        stmt.query_row((branch.0, path.as_str()), |row| row.get(0))
            .optional()
            .db()
    }

    fn conflicts(&self, branch: BranchId, visit: &mut ConflictVisitor<'_>) -> Result<()> {
        let sql = "SELECT path, data FROM conflicts WHERE branch = ? ORDER BY path";
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        let mut rows = stmt.query([branch.0]).db()?;
        while let Some(row) = rows.next().db()? {
            let fields = Fields {
                row,
                table: "conflicts",
                key: &|| format!("of branch {branch}"),
            };
            let path = fields.text(0, "path")?;
            let path = TreePath::parse(path).map_err(|e| fields.bad("path", &e.to_string()))?;
            if visit(path, fields.get(1, "data")?)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn conflict_contents(
        &self,
        bucket: BucketId,
        after: u64,
        visit: &mut dyn FnMut(ConflictContent) -> Result<()>,
    ) -> Result<()> {
        let sql = "SELECT number, branch, path, hash, size FROM conflict_contents \
                   WHERE number > ? AND branch IN (SELECT id FROM branches WHERE bucket = ?) \
                   ORDER BY number";
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        let mut rows = stmt.query((to_i64(after)?, bucket.0)).db()?;
        while let Some(row) = rows.next().db()? {
            let fields = Fields {
                row,
                table: "conflict_contents",
                key: &|| "with a reference to a content".into(),
            };
            let path = fields.text(2, "path")?;
            visit(ConflictContent {
                number: fields.number(0, "number")?,
                branch: BranchId(fields.number(1, "branch")?),
                path: TreePath::parse(path).map_err(|e| fields.bad("path", &e.to_string()))?,
                hash: Hash::from_bytes(fields.get(3, "hash")?),
                size: fields.number(4, "size")?,
            })?;
        }
        Ok(())
    }

    fn value(&self, scope: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT value FROM kv WHERE scope = ? AND name = ?";
        let mut stmt = self.0.conn()?.prepare_cached(sql).db()?;
        stmt.query_row([scope, key], |row| row.get(0))
            .optional()
            .db()
    }
}

/// Finds one record.
pub(crate) fn one<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    decode: fn(&rusqlite::Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.query(params).db()?;
    rows.next().db()?.map(decode).transpose()
}

/// Reads records in the order of the statement.
fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    decode: fn(&rusqlite::Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.query(params).db()?;
    let mut records = Vec::new();
    while let Some(row) = rows.next().db()? {
        records.push(decode(row)?);
    }
    Ok(records)
}

/// Returns the first row of a statement whose first columns are branch and epoch.
fn newest(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    parent: &str,
    name: &str,
) -> Result<Option<(Layer, Row)>> {
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.query(params).db()?;
    let Some(row) = rows.next().db()? else {
        return Ok(None);
    };
    let fields = Fields {
        row,
        table: "entries",
        key: &|| TreePath::from_stored(parent, name).to_string(),
    };
    Ok(Some((decode_layer(&fields, 0)?, decode_row(&fields, 2)?)))
}

/// Calls for each row of a scan, with the parent and the name; `Break` ends it.
type Visitor<'a> = dyn FnMut(&str, &str, Layer, &LazyRow<'_>) -> Result<ControlFlow<()>> + 'a;

/// Visits the rows of a statement whose first columns are parent, name, branch and epoch.
pub(crate) fn scan(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    visit: &mut Visitor<'_>,
) -> Result<ControlFlow<()>> {
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.query(params).db()?;
    while let Some(row) = rows.next().db()? {
        let path = Fields {
            row,
            table: "entries",
            key: &|| "with a bad path".into(),
        };
        let (parent, name) = (path.text(0, "parent")?, path.text(1, "name")?);
        let key = || TreePath::from_stored(parent, name).to_string();
        let fields = Fields {
            row,
            table: "entries",
            key: &key,
        };
        let layer = decode_layer(&fields, 2)?;
        if visit(parent, name, layer, &|| decode_row(&fields, 4))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Visits the parents and names that a statement returns.
fn paths(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    visit: &mut dyn FnMut(&str, &str) -> Result<()>,
) -> Result<()> {
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.query(params).db()?;
    while let Some(row) = rows.next().db()? {
        let path = Fields {
            row,
            table: "entries",
            key: &|| "with a bad path".into(),
        };
        visit(path.text(0, "parent")?, path.text(1, "name")?)?;
    }
    Ok(())
}

/// The columns of one row of a table, and what to call the row where one does not decode.
struct Fields<'a> {
    row: &'a rusqlite::Row<'a>,
    table: &'static str,
    key: &'a dyn Fn() -> String,
}

impl<'a> Fields<'a> {
    fn bad(&self, column: &str, why: &str) -> alknet_fs_core::Error {
        corrupt(self.table, (self.key)(), &format!("{column} {why}"))
    }

    fn value(&self, at: usize) -> Result<ValueRef<'a>> {
        self.row.get_ref(at).db()
    }

    fn get<T: FromSql>(&self, at: usize, column: &str) -> Result<T> {
        T::column_result(self.value(at)?).map_err(|e| self.bad(column, &format!("is bad: {e}")))
    }

    fn text(&self, at: usize, column: &str) -> Result<&'a str> {
        let value = self.value(at)?;
        value
            .as_str()
            .map_err(|e| self.bad(column, &format!("is bad: {e}")))
    }

    fn number<T: TryFrom<i64>>(&self, at: usize, column: &str) -> Result<T> {
        match self.value(at)? {
            ValueRef::Integer(number) => T::try_from(number)
                .map_err(|_| self.bad(column, &format!("is {number}, which is out of range"))),
            other => Err(self.bad(column, &format!("is {}", other.data_type()))),
        }
    }

    fn flag(&self, at: usize, column: &str) -> Result<bool> {
        Ok(self.number::<u8>(at, column)? != 0)
    }

    fn time(&self, at: usize, column: &str) -> Result<Timestamp> {
        self.number(at, column).map(Timestamp)
    }
}

fn decode_layer(fields: &Fields<'_>, at: usize) -> Result<Layer> {
    Ok(Layer {
        branch: BranchId(fields.number(at, "branch")?),
        epoch: Epoch(fields.number(at + 1, "epoch")?),
    })
}

fn decode_row(fields: &Fields<'_>, at: usize) -> Result<Row> {
    let node = match fields.number::<u8>(at, "kind")? {
        0 => None,
        1 => Some(Node::File {
            size: fields.number(at + 1, "size")?,
            hash: Hash::from_bytes(fields.get(at + 2, "hash")?),
        }),
        2 => Some(Node::Dir),
        3 => Some(Node::Symlink {
            target: fields.text(at + 3, "target")?.into(),
        }),
        other => return Err(fields.bad("kind", &format!("is {other}, which no entry has"))),
    };
    let entry = match node {
        None => None,
        Some(node) => Some(Entry {
            node,
            attrs: Attrs {
                mode: fields.number(at + 4, "mode")?,
                uid: fields.number(at + 5, "uid")?,
                gid: fields.number(at + 6, "gid")?,
                mtime: fields.time(at + 7, "mtime")?,
                ctime: fields.time(at + 8, "ctime")?,
            },
        }),
    };
    let base = match fields.value(at + 9)? {
        ValueRef::Null => None,
        _ => Some(EntryId(fields.get(at + 9, "base")?)),
    };
    Ok(Row { entry, base })
}

/// Names a row by its first column.
fn first_column(row: &rusqlite::Row<'_>) -> String {
    match row.get_ref(0) {
        Ok(ValueRef::Integer(number)) => number.to_string(),
        Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        Ok(ValueRef::Blob(bytes)) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        _ => "without a key".into(),
    }
}

fn decode_bucket(row: &rusqlite::Row<'_>) -> Result<BucketRecord> {
    let f = Fields {
        row,
        table: "buckets",
        key: &|| first_column(row),
    };
    Ok(BucketRecord {
        id: BucketId(f.number(0, "id")?),
        name: f.text(1, "name")?.into(),
        created: f.time(2, "created")?,
        epoch: Epoch(f.number(3, "epoch")?),
        generation: f.number(4, "generation")?,
        pruned: Cursor(f.number(5, "pruned")?),
    })
}

fn decode_branch(row: &rusqlite::Row<'_>) -> Result<BranchRecord> {
    let f = Fields {
        row,
        table: "branches",
        key: &|| first_column(row),
    };
    Ok(BranchRecord {
        id: BranchId(f.number(0, "id")?),
        bucket: BucketId(f.number(1, "bucket")?),
        name: f.text(2, "name")?.into(),
        created: f.time(3, "created")?,
    })
}

fn decode_line(row: &rusqlite::Row<'_>) -> Result<LineRecord> {
    let f = Fields {
        row,
        table: "lines",
        key: &|| first_column(row),
    };
    let base = match f.value(2)? {
        ValueRef::Null => None,
        _ => Some(LineBase {
            branch: BranchId(f.number(2, "base_branch")?),
            at: match f.value(3)? {
                ValueRef::Null => None,
                _ => Some(Epoch(f.number(3, "base_epoch")?)),
            },
            stays_live: f.flag(4, "stays_live")?,
            may_hide: f.flag(5, "may_hide")?,
        }),
    };
    Ok(LineRecord {
        branch: BranchId(f.number(0, "branch")?),
        start: Epoch(f.number(1, "start")?),
        base,
    })
}

fn decode_snapshot(row: &rusqlite::Row<'_>) -> Result<SnapshotRecord> {
    let f = Fields {
        row,
        table: "snapshots",
        key: &|| first_column(row),
    };
    Ok(SnapshotRecord {
        branch: BranchId(f.number(0, "branch")?),
        name: f.text(1, "name")?.into(),
        epoch: Epoch(f.number(2, "epoch")?),
        created: f.time(3, "created")?,
    })
}

fn decode_content(row: &rusqlite::Row<'_>) -> Result<ContentRecord> {
    let f = Fields {
        row,
        table: "contents",
        key: &|| first_column(row),
    };
    Ok(ContentRecord {
        hash: Hash::from_bytes(f.get(0, "hash")?),
        size: f.number(1, "size")?,
        form: match f.number::<u8>(2, "form")? {
            1 => ContentForm::Inline,
            2 => ContentForm::File,
            3 => ContentForm::Delta,
            other => return Err(f.bad("form", &format!("is {other}, which no content has"))),
        },
        base: f.get::<Option<[u8; 32]>>(3, "base")?.map(Hash::from_bytes),
        created: f.time(4, "created")?,
        data: f.get(5, "data")?,
    })
}

fn decode_mark(row: &rusqlite::Row<'_>) -> Result<(Hash, Timestamp)> {
    let f = Fields {
        row,
        table: "unreferenced",
        key: &|| first_column(row),
    };
    Ok((Hash::from_bytes(f.get(0, "hash")?), f.time(1, "since")?))
}

fn decode_session(row: &rusqlite::Row<'_>) -> Result<SessionRecord> {
    let f = Fields {
        row,
        table: "sessions",
        key: &|| first_column(row),
    };
    let base = match f.get::<Option<[u8; 32]>>(7, "base_hash")? {
        None => None,
        Some(hash) => Some((Hash::from_bytes(hash), f.number(8, "base_size")?)),
    };
    Ok(SessionRecord {
        id: SessionId(f.number(0, "id")?),
        branch: BranchId(f.number(1, "branch")?),
        path: TreePath::parse(f.text(2, "path")?).map_err(|e| f.bad("path", e.detail()))?,
        owner: f.text(3, "owner")?.into(),
        holder: f.text(4, "holder")?.into(),
        exclusive: f.flag(5, "exclusive")?,
        create_new: f.flag(6, "create_new")?,
        base,
        mode: f.number(9, "mode")?,
        created: f.time(10, "created")?,
        touched: f.time(11, "touched")?,
        staging: match f.number::<u8>(12, "staging")? {
            1 => Staging::Rows,
            2 => Staging::File,
            other => return Err(f.bad("staging", &format!("is {other}, which no session has"))),
        },
    })
}

fn decode_op(row: &rusqlite::Row<'_>) -> Result<SessionOp> {
    let f = Fields {
        row,
        table: "session_ops",
        key: &|| first_column(row),
    };
    let offset = f.number(1, "offset")?;
    Ok(match f.get::<Option<Vec<u8>>>(2, "data")? {
        Some(data) => SessionOp::Write { offset, data },
        None => SessionOp::Truncate { size: offset },
    })
}
