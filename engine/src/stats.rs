//! How much a store holds.

use alknet_fs_core::Result;
use alknet_fs_core::store::ContentForm;

use crate::fsck::away;
use crate::store::Store;

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Buckets.
    pub buckets: u64,
    /// Branches, in all buckets.
    pub branches: u64,
    /// Snapshots, in all buckets.
    pub snapshots: u64,
    /// Open write sessions.
    pub sessions: u64,
    /// Contents, each counted once however many files have it.
    pub contents: u64,
    /// Their sizes, in bytes.
    pub content_bytes: u64,
    /// Contents that are not here and that peers may have.
    pub away_contents: u64,
    /// Their sizes, in bytes.
    pub away_bytes: u64,
    /// Of the contents, kept inside the database.
    pub inline_contents: u64,
    /// Of these, kept as files.
    pub file_contents: u64,
    /// Of these, kept as deltas over others.
    pub delta_contents: u64,
    /// Bytes of the database file; 0 for a store in memory.
    pub database_bytes: u64,
    /// Of these, bytes that are free and that later writes use again.
    pub free_bytes: u64,
    /// Bytes of the database's write-ahead log.
    pub wal_bytes: u64,
    /// Bytes of content files, hash trees and deltas.
    pub blob_bytes: u64,
    /// Bytes staged by large write sessions.
    pub staged_bytes: u64,
}

impl Stats {
    /// Returns the bytes that the store takes on disk.
    pub fn stored_bytes(&self) -> u64 {
        self.database_bytes + self.wal_bytes + self.blob_bytes + self.staged_bytes
    }
}

impl Store {
    /// Counts what the store holds. The cost follows the number of contents.
    pub fn stats(&self) -> Result<Stats> {
        let txn = self.inner.tree.read()?;
        let mut stats = Stats::default();
        for bucket in txn.buckets()? {
            stats.buckets += 1;
            for branch in txn.branches(bucket.id)? {
                stats.branches += 1;
                stats.snapshots += txn.snapshots(branch.id)?.len() as u64;
            }
        }
        stats.sessions = txn.sessions(None)?.len() as u64;
        let mut after = None;
        loop {
            let records = txn.contents_after(after.as_ref(), 256, false)?;
            let Some(last) = records.last() else {
                break;
            };
            after = Some(last.hash);
            for record in records {
                stats.contents += 1;
                stats.content_bytes += record.size;
                match record.form {
                    ContentForm::Inline => stats.inline_contents += 1,
                    ContentForm::File => stats.file_contents += 1,
                    ContentForm::Delta => stats.delta_contents += 1,
                }
            }
        }
        for size in away(&*txn)?.into_values() {
            stats.away_contents += 1;
            stats.away_bytes += size;
        }
        if let Some(disk) = &self.inner.disk {
            let database = disk.sqlite.stats()?;
            stats.database_bytes = database.database_bytes;
            stats.free_bytes = database.free_pages * database.page_size;
            stats.wal_bytes = database.wal_bytes;
            let files = self.inner.contents.usage()?;
            stats.blob_bytes = files.blob_bytes;
            stats.staged_bytes = files.staged_bytes;
        }
        Ok(stats)
    }

    /// Gives the free space inside the database back to the disk; returns how many bytes smaller
    /// the database and its log are. It takes the time and, for a while, the space of a copy of the
    /// database, and writers of all processes wait meanwhile. Readers do not.
    ///
    /// While somebody reads from before, the space stays until the log is next emptied.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) where another writer does not end in time,
    /// [`ErrorKind::NoSpace`](crate::ErrorKind::NoSpace); the database is as it was then.
    pub fn compact(&self) -> Result<u64> {
        let Some(disk) = &self.inner.disk else {
            return Ok(0);
        };
        let bytes = || -> Result<u64> {
            let stats = disk.sqlite.stats()?;
            Ok(stats.database_bytes + stats.wal_bytes)
        };
        let before = bytes()?;
        disk.sqlite.compact().map_err(|e| e.op("compact"))?;
        Ok(before.saturating_sub(bytes()?))
    }
}
