//! The baselines: SQLite with one bare table, and plain files.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::Result;
use rusqlite::{Connection, params};

/// A database of files with nothing around it: one table, durable commits.
pub(crate) struct Bare {
    pub(crate) conn: Connection,
}

impl Bare {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let conn = Connection::open(path)?;
        conn.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             CREATE TABLE files (path TEXT PRIMARY KEY, data BLOB NOT NULL);
             CREATE TABLE counter (n INTEGER NOT NULL);
             INSERT INTO counter VALUES (0);",
        )?;
        Ok(Self { conn })
    }

    /// Inserts a file; outside a transaction, that is one durable commit.
    pub(crate) fn put(&self, path: &str, data: &[u8]) -> Result<()> {
        let mut insert = self
            .conn
            .prepare_cached("INSERT INTO files (path, data) VALUES (?1, ?2)")?;
        insert.execute(params![path, data])?;
        Ok(())
    }

    /// Changes one number: the least that a durable commit can do.
    pub(crate) fn smallest_commit(&self) -> Result<()> {
        self.conn
            .prepare_cached("UPDATE counter SET n = n + 1")?
            .execute([])?;
        Ok(())
    }

    pub(crate) fn files(&self) -> Result<usize> {
        let count: i64 = self
            .conn
            .query_row("SELECT count(*) FROM files", [], |row| row.get(0))?;
        Ok(count as usize)
    }
}

/// Writes a file so that a power cut leaves either none or all of it.
pub(crate) fn durable_put(dir: &Path, name: &str, data: &[u8]) -> Result<()> {
    let draft = dir.join(format!("{name}.tmp"));
    let mut file = File::create_new(&draft)?;
    file.write_all(data)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&draft, dir.join(name))?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// Hashes a file.
pub(crate) fn hash_file(path: &Path) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            n => hasher.update(&block[..n]),
        };
    }
}
