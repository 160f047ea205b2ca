//! The schema, its version, and the way from each version to the next.

use alknet_fs_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, TransactionBehavior};

use crate::error::DbResult;

/// `alkf` in ASCII: what `PRAGMA application_id` says of a store.
pub(crate) const APPLICATION_ID: i32 = 0x616c_6b66;

/// The version of the schema that this program writes; it reads this and every older one.
pub const SCHEMA_VERSION: i32 = MIGRATIONS.len() as i32;

/// Takes a database from the version of its index to the next one.
pub(crate) type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// The steps from an empty database to the present schema. A step never changes once released.
pub(crate) const MIGRATIONS: &[Migration] = &[version_1];

fn version_1(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(include_str!("schema.sql"))?;
    conn.execute(
        "INSERT INTO store_info (id, created) VALUES (randomblob(16), unixepoch() * 1000000000)",
        [],
    )?;
    honker_core::bootstrap_honker_schema(conn).map_err(|honker_core::Error::Sqlite(error)| error)
}

/// What a database says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nothing was ever written to it.
    Empty,
    /// A store with this version of the schema.
    Store(i32),
    /// Another program's database.
    Foreign,
}

pub(crate) fn identity(conn: &Connection) -> rusqlite::Result<Identity> {
    let (id, version, objects): (i32, i32, i64) = conn.query_row(
        "SELECT a.application_id, u.user_version, (SELECT count(*) FROM sqlite_master)
         FROM pragma_application_id a, pragma_user_version u",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    Ok(match (id, version, objects) {
        (APPLICATION_ID, version, _) => Identity::Store(version),
        (0, 0, 0) => Identity::Empty,
        _ => Identity::Foreign,
    })
}

/// Makes an empty database a store, in one transaction; returns what it was before.
///
/// Only an empty one is touched. Of several processes that try, one finds it empty.
pub(crate) fn initialise(conn: &mut Connection) -> Result<Identity> {
    let txn = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .db()?;
    let before = identity(&txn).db()?;
    if before == Identity::Empty {
        txn.pragma_update(None, "application_id", APPLICATION_ID)
            .db()?;
        run(&txn, 0, MIGRATIONS)?;
        txn.commit().db()?;
    }
    Ok(before)
}

/// Brings a store to the last version of `migrations`, in one transaction.
///
/// # Errors
/// [`ErrorKind::NotAStore`] where the store's version is newer; [`ErrorKind::Corrupt`] where no
/// store ever had it.
pub(crate) fn migrate(conn: &mut Connection, from: i32, migrations: &[Migration]) -> Result<()> {
    let newest = migrations.len() as i32;
    if from == newest {
        return Ok(());
    }
    if from > newest {
        return Err(newer(from, newest));
    }
    if from < 1 {
        let detail = format!("the schema version is {from}, which no store has");
        return Err(Error::with_detail(ErrorKind::Corrupt, detail));
    }
    let txn = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .db()?;
    // Another process may have migrated it meanwhile.
    let now: i32 = txn
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .db()?;
    if now > newest {
        return Err(newer(now, newest));
    }
    run(&txn, now, migrations)?;
    txn.commit().db()
}

fn run(conn: &Connection, from: i32, migrations: &[Migration]) -> Result<()> {
    let done = usize::try_from(from).unwrap_or(0);
    for step in migrations.iter().skip(done) {
        step(conn).db()?;
    }
    conn.pragma_update(None, "user_version", migrations.len() as i32)
        .db()
}

fn newer(found: i32, known: i32) -> Error {
    let detail = format!(
        "the store has schema version {found} and this program knows versions up to {known}: \
         use a newer alkfs"
    );
    Error::with_detail(ErrorKind::NotAStore, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_2(conn: &Connection) -> rusqlite::Result<()> {
        conn.execute_batch("ALTER TABLE buckets ADD COLUMN colour TEXT")
    }

    fn version_3(conn: &Connection) -> rusqlite::Result<()> {
        conn.execute_batch("UPDATE buckets SET colour = 'red'; SELECT nothing")
    }

    fn version(conn: &Connection) -> i32 {
        conn.pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    }

    fn store() -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        assert_eq!(initialise(&mut conn).unwrap(), Identity::Empty);
        conn
    }

    #[test]
    fn only_an_empty_database_becomes_a_store() {
        let mut conn = store();
        assert_eq!(identity(&conn).unwrap(), Identity::Store(SCHEMA_VERSION));
        assert_eq!(
            initialise(&mut conn).unwrap(),
            Identity::Store(SCHEMA_VERSION)
        );
        let mut other = Connection::open_in_memory().unwrap();
        other.execute_batch("CREATE TABLE t (x)").unwrap();
        assert_eq!(initialise(&mut other).unwrap(), Identity::Foreign);
        assert_eq!(version(&other), 0);
    }

    #[test]
    fn migrations_run_in_order_and_only_once() {
        let mut conn = store();
        let steps: &[Migration] = &[version_1, version_2];
        migrate(&mut conn, 1, steps).unwrap();
        migrate(&mut conn, 2, steps).unwrap();
        assert_eq!(version(&conn), 2);
        // A process that read the version before another one migrated.
        migrate(&mut conn, 1, steps).unwrap();
        conn.execute("UPDATE buckets SET colour = 'x'", []).unwrap();
    }

    #[test]
    fn a_failed_migration_leaves_the_store_as_it_was() {
        let mut conn = store();
        migrate(&mut conn, 1, &[version_1, version_2, version_3]).unwrap_err();
        assert_eq!(version(&conn), 1);
        assert!(conn.execute("UPDATE buckets SET colour = 'x'", []).is_err());
    }

    #[test]
    fn a_newer_version_is_refused_by_both_numbers() {
        let mut conn = store();
        let error = migrate(&mut conn, 7, MIGRATIONS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore);
        assert!(error.to_string().contains("version 7"), "{error}");
        assert!(error.to_string().contains("up to 1"), "{error}");
    }

    #[test]
    fn every_table_and_column_is_documented() {
        let conn = store();
        let mut stmt = conn
            .prepare(
                "SELECT name, sql FROM sqlite_master
                 WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'
                   AND name NOT LIKE 'sqlite%'",
            )
            .unwrap();
        let tables: Vec<(String, String)> = stmt
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(tables.len(), 14);
        for (name, sql) in tables {
            let second = sql.lines().nth(1).unwrap();
            assert!(second.trim_start().starts_with("-- "), "{name}: {second}");
            assert!(sql.contains("STRICT"), "{name}");
        }
    }
}
