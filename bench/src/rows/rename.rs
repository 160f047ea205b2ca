//! Renaming a directory of 10,000 files.

use std::path::Path;

use alknet_fs::{Branch, Walk};
use anyhow::{Result, ensure};
use rusqlite::{Connection, params};

use crate::fixtures::new_store;
use crate::harness::{Bench, Times, settle};

const NAMES: [&str; 2] = ["/here", "/there"];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, files) = bench.pick((14, 10_000), (4, 2_000));
    let dir = bench.dir()?;
    // The rows that forks write at the paths would burden the other measurement.
    let [main, parent] = ["store", "forked"].map(|name| new_store(&dir.join(name)));
    let (main, parent) = (main?, parent?);
    let paths: Vec<_> = (0..files)
        .map(|i| format!("dir-{:03}/file-{:02}.txt", i / 100, i % 100))
        .collect();
    fill(&main, &paths)?;
    fill(&parent, &paths)?;
    let table = Table::create(&dir.join("bare.db"), &paths)?;
    settle()?;
    let [mut ours, mut inherited, mut base] = <[Times; 3]>::default();
    for round in bench.rounds("renames", rounds) {
        let (from, to) = (NAMES[round % 2], NAMES[(round + 1) % 2]);
        base.time(1, || table.rename(from, to))?;
        ensure!(table.count(to)? == files && table.count(from)? == 0);
        ours.time(1, || Ok(main.rename(from, to)?))?;
        ensure!(count(&main, to)? == files && !main.exists(from)?);
        let fork = parent.fork(&format!("fork-{round}"))?;
        inherited.time(1, || Ok(fork.rename(NAMES[0], NAMES[1])?))?;
        ensure!(count(&fork, NAMES[1])? == files && !fork.exists(NAMES[0])?);
        ensure!(count(&parent, NAMES[0])? == files);
    }
    let baseline = "UPDATE of as many rows in bare SQLite";
    let work = "rename of a directory of 10,000 files";
    bench.compare(work, &ours, baseline, &base, 2.0);
    let work = "the same in a fork that inherits them";
    bench
        .compare(work, &inherited, baseline, &base, None)
        .note("a fork writes a row at each new path and a tombstone at each old one");
    Ok(())
}

fn fill(main: &Branch, paths: &[String]) -> Result<()> {
    let mut batch = main.batch();
    for (i, path) in paths.iter().enumerate() {
        if i % 100 == 0 {
            batch.mkdir_all(format!("{}/dir-{:03}", NAMES[0], i / 100))?;
        }
        batch.write(format!("{}/{path}", NAMES[0]), i.to_le_bytes())?;
    }
    batch.commit()?;
    Ok(())
}

fn count(branch: &Branch, dir: &str) -> Result<usize> {
    let mut files = 0;
    branch.view()?.walk(dir, |_, entry| {
        files += usize::from(entry.is_file());
        Ok(Walk::Continue)
    })?;
    Ok(files)
}

/// A table that holds about what the store holds of each file, by its path.
struct Table(Connection);

impl Table {
    fn create(path: &Path, paths: &[String]) -> Result<Self> {
        let conn = Connection::open(path)?;
        conn.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             CREATE TABLE entries (
                 path TEXT PRIMARY KEY, kind INTEGER, size INTEGER, hash BLOB,
                 mode INTEGER, uid INTEGER, gid INTEGER, mtime INTEGER, ctime INTEGER
             );",
        )?;
        let transaction = conn.unchecked_transaction()?;
        let mut insert =
            transaction.prepare("INSERT INTO entries VALUES (?1, 1, 8, ?2, 420, 0, 0, ?3, ?3)")?;
        for (i, path) in paths.iter().enumerate() {
            let hash = blake3::hash(&i.to_le_bytes());
            insert.execute(params![
                format!("{}/{path}", NAMES[0]),
                hash.as_bytes(),
                1_700_000_000_000_000_000_i64 + i as i64
            ])?;
        }
        drop(insert);
        transaction.commit()?;
        Ok(Self(conn))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut update = self.0.prepare_cached(
            "UPDATE entries SET path = ?2 || substr(path, length(?1) + 1)
             WHERE path > ?1 || '/' AND path < ?1 || '0'",
        )?;
        update.execute([from, to])?;
        Ok(())
    }

    fn count(&self, dir: &str) -> Result<usize> {
        let sql = "SELECT count(*) FROM entries WHERE path > ?1 || '/' AND path < ?1 || '0'";
        let count: i64 = self.0.query_row(sql, [dir], |row| row.get(0))?;
        Ok(count as usize)
    }
}
