//! Moving many rows at once.

use alknet_fs_core::Result;
use alknet_fs_core::store::{BucketId, Layer};
use rusqlite::Connection;

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

    /// Returns the statements that copy the rows and remove the old ones. An `UPDATE` takes a
    /// quarter longer, because it looks up each row in both trees once more.
    pub(crate) fn statements(self) -> [String; 2] {
        let rows = format!(
            "FROM entries INDEXED BY entries_by_branch \
             WHERE bucket = ?1 AND {} AND branch = ?4 AND epoch = ?5",
            self.condition()
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
    let [copy, remove] = parents.statements();
    let (low, high) = parents.bounds();
    let (bucket, branch, epoch) = (bucket.0, layer.branch.0, layer.epoch.0);
    let params = (bucket, low, high, branch, epoch, prefix, rest as i64);
    if change(conn, &copy, params)? > 0 {
        change(conn, &remove, (bucket, low, high, branch, epoch))?;
    }
    Ok(())
}
