//! Moving many rows at once.

use alknet_fs_core::Result;
use alknet_fs_core::store::{BucketId, Layer};
use rusqlite::Connection;

use crate::error::DbResult;
use crate::write::change;

/// The directories whose rows move.
#[derive(Clone, Copy)]
pub(crate) enum Parents<'a> {
    /// This one.
    Only(&'a str),
    /// Those whose path lies between the two, both exclusive.
    Between(&'a str, &'a str),
}

impl<'a> Parents<'a> {
    fn condition(self) -> &'static str {
        match self {
            Self::Only(_) => "parent >= ?2 AND parent <= ?3",
            Self::Between(..) => "parent > ?2 AND parent < ?3",
        }
    }

    fn bounds(self) -> (&'a str, &'a str) {
        match self {
            Self::Only(parent) => (parent, parent),
            Self::Between(low, high) => (low, high),
        }
    }
}

/// How the rows of one layer in some directories are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the primary key they lie side by side, which makes the move a third faster; but so do
    /// those of all other layers, which may be many.
    Key,
    /// By branch, only the branch's own rows are met.
    Branch,
}

impl Way {
    fn index(self) -> &'static str {
        match self {
            Self::Key => "NOT INDEXED",
            Self::Branch => "INDEXED BY entries_by_branch",
        }
    }

    /// Chooses the key unless most rows in the directories are those of other layers.
    pub(crate) fn choose(
        conn: &Connection,
        bucket: BucketId,
        layer: Layer,
        parents: Parents<'_>,
    ) -> Result<Self> {
        let condition = parents.condition();
        let (low, high) = parents.bounds();
        let own = format!(
            "SELECT count(*) FROM entries {} WHERE bucket = ?1 AND {condition} AND branch = ?4",
            Self::Branch.index()
        );
        let own: i64 = conn
            .prepare_cached(&own)
            .db()?
            .query_row((bucket.0, low, high, layer.branch.0), |row| row.get(0))
            .db()?;
        let all = format!(
            "SELECT count(*) FROM (SELECT 1 FROM entries {} WHERE bucket = ?1 AND {condition} \
             LIMIT ?4)",
            Self::Key.index()
        );
        let most = own * 2 + 1;
        let all: i64 = conn
            .prepare_cached(&all)
            .db()?
            .query_row((bucket.0, low, high, most), |row| row.get(0))
            .db()?;
        Ok(if all < most { Self::Key } else { Self::Branch })
    }

    /// Returns the statements that copy the rows and remove the old ones. An `UPDATE` takes a
    /// quarter longer, because it looks up each row in both trees once more.
    pub(crate) fn statements(self, parents: Parents<'_>) -> [String; 2] {
        let rows = format!(
            "FROM entries {} WHERE bucket = ?1 AND {} AND branch = ?4 AND epoch = ?5",
            self.index(),
            parents.condition()
        );
        [
            format!(
                "INSERT INTO entries SELECT bucket, ?6 || substr(parent, ?7), name, branch, epoch, \
                 kind, size, hash, target, mode, uid, gid, mtime, ctime, base {rows}"
            ),
            format!("DELETE {rows}"),
        ]
    }
}

/// Moves the rows of a layer in some directories: each parent becomes `prefix` and what it has from
/// its `rest`-th character on, counted from 1.
pub(crate) fn move_rows(
    conn: &Connection,
    bucket: BucketId,
    layer: Layer,
    parents: Parents<'_>,
    prefix: &str,
    rest: usize,
) -> Result<()> {
    let [copy, remove] = Way::choose(conn, bucket, layer, parents)?.statements(parents);
    let (low, high) = parents.bounds();
    let (bucket, branch, epoch) = (bucket.0, layer.branch.0, layer.epoch.0);
    let params = (bucket, low, high, branch, epoch, prefix, rest as i64);
    if change(conn, &copy, params)? > 0 {
        change(conn, &remove, (bucket, low, high, branch, epoch))?;
    }
    Ok(())
}
