//! What upkeep reports.

use std::path::PathBuf;
use std::time::Duration;

use alknet_fs::GcOptions;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

/// Defines what a call reports: a class with the fields of the engine's, of the same names.
macro_rules! report {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[pyclass(frozen, get_all, eq, module = "alknet_fs", from_py_object)]
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub(crate) struct $name { $($(#[$field_doc])* pub(crate) $field: $type,)* }

        #[pymethods]
        impl $name {
            fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
                let mut text = format!("<{}", stringify!($name));
                for field in [$(stringify!($field)),*] {
                    text += &format!(" {field}={}", slf.getattr(field)?.repr()?);
                }
                Ok(text + ">")
            }
        }
    };
    ($(#[$doc:meta])* $name:ident = $from:ty {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    }) => {
        report! { $(#[$doc])* $name { $($(#[$field_doc])* $field: $type,)* } }

        impl From<$from> for $name {
            fn from(report: $from) -> Self {
                Self { $($field: report.$field,)* }
            }
        }
    };
}

pub(crate) use report;

report! {
    /// What a store holds.
    Stats {
        /// Buckets.
        buckets: u64,
        /// Branches, in all buckets.
        branches: u64,
        /// Snapshots, in all buckets.
        snapshots: u64,
        /// Open write sessions.
        sessions: u64,
        /// Contents, each counted once however many files have it.
        contents: u64,
        /// Their sizes, in bytes.
        content_bytes: u64,
        /// Of these, kept inside the database.
        inline_contents: u64,
        /// Of these, kept as files.
        file_contents: u64,
        /// Of these, kept as deltas over others.
        delta_contents: u64,
        /// Bytes of the database file; 0 for a store in memory.
        database_bytes: u64,
        /// Of these, bytes that are free and that later writes use again.
        free_bytes: u64,
        /// Bytes of the database's write-ahead log.
        wal_bytes: u64,
        /// Bytes of content files, hash trees and deltas.
        blob_bytes: u64,
        /// Bytes staged by large write sessions.
        staged_bytes: u64,
        /// Bytes that the store takes on disk.
        stored_bytes: u64,
    }
}

impl From<alknet_fs::Stats> for Stats {
    fn from(stats: alknet_fs::Stats) -> Self {
        Self {
            buckets: stats.buckets,
            branches: stats.branches,
            snapshots: stats.snapshots,
            sessions: stats.sessions,
            contents: stats.contents,
            content_bytes: stats.content_bytes,
            inline_contents: stats.inline_contents,
            file_contents: stats.file_contents,
            delta_contents: stats.delta_contents,
            database_bytes: stats.database_bytes,
            free_bytes: stats.free_bytes,
            wal_bytes: stats.wal_bytes,
            blob_bytes: stats.blob_bytes,
            staged_bytes: stats.staged_bytes,
            stored_bytes: stats.stored_bytes(),
        }
    }
}

report! {
    /// What a garbage collection removed, or would remove.
    GcReport = alknet_fs::GcReport {
        /// Events that were too old or too many.
        events: u64,
        /// Versions of entries that no branch and no snapshot shows.
        versions: u64,
        /// Contents that nothing has referred to for the grace period.
        contents: u64,
        /// Their sizes, in bytes. A delta counts with its full size.
        content_bytes: u64,
        /// Contents that nothing refers to and whose grace period is not over.
        waiting: u64,
        /// Their sizes, in bytes.
        waiting_bytes: u64,
        /// Deltas that were rewritten in full, because only they kept a base alive.
        flattened: u64,
        /// Files that were removed from the disk.
        files: u64,
        /// Their sizes, in bytes.
        file_bytes: u64,
        /// Whether removing files was put off because a view was open.
        files_deferred: bool,
    }
}

report! {
    /// When garbage is collected.
    GcSchedule {
        /// When: five cron fields in local time, or an interval such as `@every 6h`.
        when: String,
        /// When next, in nanoseconds since 1970-01-01 UTC.
        next_ns: i64,
    }
}

impl From<alknet_fs::GcSchedule> for GcSchedule {
    fn from(schedule: alknet_fs::GcSchedule) -> Self {
        Self {
            when: schedule.when,
            next_ns: schedule.next.0,
        }
    }
}

/// Something that is wrong with a store.
#[pyclass(frozen, get_all, eq, module = "alknet_fs", from_py_object)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// What it is about: a path, a content hash, a branch, a table.
    subject: String,
    /// What is wrong with it.
    detail: String,
    /// Where a damaged content is used, as `BUCKET/BRANCH:PATH`; the first few.
    uses: Vec<String>,
    /// In how many more places it is used.
    more_uses: u64,
}

#[pymethods]
impl Problem {
    fn __repr__(&self) -> String {
        format!("<Problem {}: {}>", self.subject, self.detail)
    }
}

report! {
    /// What a check of a store found.
    FsckReport {
        /// Entries looked at, in all branches and snapshots.
        entries: u64,
        /// Contents looked at.
        contents: u64,
        /// Bytes read and compared with their hash.
        bytes: u64,
        /// Files that nothing owns: harmless leftovers of crashes, which garbage collection removes.
        orphans: u64,
        /// Their sizes, in bytes.
        orphan_bytes: u64,
        /// Contents of which a part has arrived from a peer: no damage, and gone on with.
        partials: u64,
        /// Their sizes when they are complete, in bytes.
        partial_bytes: u64,
        /// What is wrong; empty for a healthy store.
        problems: Vec<Problem>,
    }
}

impl From<alknet_fs::FsckReport> for FsckReport {
    fn from(report: alknet_fs::FsckReport) -> Self {
        let problems = report.problems.into_iter().map(|problem| Problem {
            subject: problem.subject,
            detail: problem.detail,
            uses: problem.uses,
            more_uses: problem.more_uses,
        });
        Self {
            entries: report.entries,
            contents: report.contents,
            bytes: report.bytes,
            orphans: report.orphans,
            orphan_bytes: report.orphan_bytes,
            partials: report.partials,
            partial_bytes: report.partial_bytes,
            problems: problems.collect(),
        }
    }
}

/// What one of several trees holds, and how much of it others of them hold too.
#[pyclass(frozen, get_all, eq, module = "alknet_fs", from_py_object)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeSharing {
    /// The tree, `"BRANCH"` or `"BRANCH@SNAPSHOT"`.
    tree: String,
    /// The number of its files.
    files: u64,
    /// The sum of their sizes.
    bytes: u64,
    /// The files whose content, as a whole, another tree has too.
    shared_files: u64,
    /// The bytes that the tree's contents take in the store, each content once.
    stored: u64,
    /// Of those, the bytes that another tree needs too.
    shared: u64,
}

#[pymethods]
impl TreeSharing {
    fn __repr__(&self) -> String {
        let Self {
            tree,
            stored,
            shared,
            ..
        } = self;
        format!("<TreeSharing {tree} stored={stored} shared={shared}>")
    }
}

report! {
    /// How much content some trees have in common.
    Sharing {
        /// Each tree, in the order asked for.
        trees: Vec<TreeSharing>,
        /// The bytes that all the trees together take, each content once.
        stored: u64,
        /// The bytes that the trees would take as plain copies.
        apart: u64,
    }
}

impl From<alknet_fs::Sharing> for Sharing {
    fn from(sharing: alknet_fs::Sharing) -> Self {
        let trees = sharing.trees.into_iter().map(|tree| TreeSharing {
            tree: tree.tree.to_string(),
            files: tree.files,
            bytes: tree.bytes,
            shared_files: tree.shared_files,
            stored: tree.stored,
            shared: tree.shared,
        });
        Self {
            trees: trees.collect(),
            stored: sharing.stored,
            apart: sharing.apart,
        }
    }
}

report! {
    /// What an import did.
    ImportReport {
        /// Regular files in the source, those not counted that were left out.
        files: u64,
        /// Directories in the source, the imported one not counted.
        dirs: u64,
        /// Symbolic links in the source.
        symlinks: u64,
        /// Bytes in the source's regular files.
        bytes: u64,
        /// Entries that were already as in the source.
        unchanged: u64,
        /// Of these, regular files.
        unchanged_files: u64,
        /// Files whose bytes were read.
        files_read: u64,
        /// Bytes that were read.
        bytes_read: u64,
        /// Entries removed because the source lacks them.
        removed: u64,
        /// What was left out, with the reason.
        skipped: Vec<(PathBuf, String)>,
    }
}

impl From<alknet_fs::ImportReport> for ImportReport {
    fn from(report: alknet_fs::ImportReport) -> Self {
        let skipped = report.skipped.into_iter();
        Self {
            files: report.files,
            dirs: report.dirs,
            symlinks: report.symlinks,
            bytes: report.bytes,
            unchanged: report.unchanged,
            unchanged_files: report.unchanged_files,
            files_read: report.files_read,
            bytes_read: report.bytes_read,
            removed: report.removed,
            skipped: skipped.map(|left| (left.path, left.reason)).collect(),
        }
    }
}

report! {
    /// What an export wrote.
    ExportReport = alknet_fs::ExportReport {
        /// Regular files.
        files: u64,
        /// Directories, the target not counted.
        dirs: u64,
        /// Symbolic links.
        symlinks: u64,
        /// Bytes in the regular files.
        bytes: u64,
    }
}

/// Collects how to collect garbage; times are in seconds.
pub(crate) fn gc_options(
    grace: f64,
    keep_events_for: Option<f64>,
    keep_events: Option<u64>,
) -> PyResult<GcOptions> {
    let duration = |name: &str, seconds| {
        Duration::try_from_secs_f64(seconds)
            .map_err(|e| PyValueError::new_err(format!("{name}: {e}")))
    };
    let mut options = GcOptions::new().grace(duration("grace", grace)?);
    if let Some(age) = keep_events_for {
        options = options.keep_events_for(duration("keep_events_for", age)?);
    }
    if let Some(count) = keep_events {
        options = options.keep_events(count);
    }
    Ok(options)
}
