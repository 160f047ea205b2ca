//! Contents that are elsewhere, and conflicts.

use std::time::Duration;

use alknet_fs::{ContentPolicy, Error, ErrorKind, Keep, Result, Side};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::entry::Entry;
use crate::upkeep::report;
use crate::watch::EventPeer;

report! {
    /// What a bucket does about contents that are elsewhere.
    ContentSettings {
        /// Which contents are fetched before anybody reads them: `"eager"` for all, `"on-read"` for
        /// those of pinned paths only.
        policy: String,
        /// For how many seconds a read waits for a content.
        timeout: f64,
        /// The pinned paths and patterns, as they were given.
        pins: Vec<String>,
    }
}

impl From<alknet_fs::ContentSettings> for ContentSettings {
    fn from(settings: alknet_fs::ContentSettings) -> Self {
        Self {
            policy: settings.policy.name().to_owned(),
            timeout: settings.timeout.as_secs_f64(),
            pins: settings.pins,
        }
    }
}

report! {
    /// A content that could not be fetched.
    Unfetched {
        /// One of the paths that have it.
        path: String,
        /// Its hash.
        hash: String,
        /// Why, and who was asked.
        why: String,
    }
}

report! {
    /// What a fetch brought.
    FetchReport {
        /// Contents that were fetched.
        contents: u64,
        /// Their bytes.
        bytes: u64,
        /// What could not be fetched; at most 100.
        failed: Vec<Unfetched>,
        /// How many more could not be fetched.
        more_failed: u64,
    }
}

impl From<alknet_fs::FetchReport> for FetchReport {
    fn from(report: alknet_fs::FetchReport) -> Self {
        let failed = report.failed.into_iter().map(|unfetched| Unfetched {
            path: unfetched.path.as_str().to_owned(),
            hash: unfetched.hash.to_hex(),
            why: unfetched.why,
        });
        Self {
            contents: report.contents,
            bytes: report.bytes,
            failed: failed.collect(),
            more_failed: report.more_failed,
        }
    }
}

report! {
    /// What an eviction removed.
    EvictReport {
        /// Contents that were removed.
        contents: u64,
        /// The room that they took, in bytes.
        bytes: u64,
        /// The room that is taken now.
        bytes_here: u64,
        /// Contents that nobody else was found to hold, and so stay.
        only_here: u64,
        /// The room that they take, in bytes.
        only_here_bytes: u64,
        /// Contents that peers were promised, and so stay: these removed theirs, and rely on it.
        promised: u64,
        /// The room that they take, in bytes.
        promised_bytes: u64,
        /// When the last of these promises ends, in nanoseconds since 1970-01-01 UTC.
        promised_until_ns: Option<i64>,
        /// Whether removing files was put off because a view was open.
        files_deferred: bool,
    }
}

impl From<alknet_fs::EvictReport> for EvictReport {
    fn from(report: alknet_fs::EvictReport) -> Self {
        Self {
            contents: report.contents,
            bytes: report.bytes,
            bytes_here: report.bytes_here,
            only_here: report.only_here,
            only_here_bytes: report.only_here_bytes,
            promised: report.promised,
            promised_bytes: report.promised_bytes,
            promised_until_ns: report.promised_until.map(|at| at.0),
            files_deferred: report.files_deferred,
        }
    }
}

report! {
    /// One side of a conflict.
    ConflictSide {
        /// What is, or would be, at the path; `None` where it was removed.
        entry: Option<Entry>,
        /// Whether the content of a file is here, too; true for all that has none.
        content_here: bool,
        /// When it was written, by its writer's clock, in nanoseconds since 1970-01-01 UTC; `None` for
        /// a directory that is shown only because something is in it.
        at_ns: Option<i64>,
        /// The replica of the bucket that wrote it.
        replica: Option<String>,
        /// Whether that is this store.
        here: bool,
        /// The node that has the replica, where that is one that this store deals with itself.
        peer: Option<EventPeer>,
    }
}

impl From<Side> for ConflictSide {
    fn from(side: Side) -> Self {
        let written = side.written;
        Self {
            entry: side.entry.map(Entry),
            content_here: side.content_here,
            at_ns: written.as_ref().map(|written| written.at.0),
            replica: written.as_ref().map(|written| written.replica.to_string()),
            here: written.as_ref().is_some_and(|written| written.here),
            peer: written.and_then(|written| written.peer.map(EventPeer::from)),
        }
    }
}

report! {
    /// A path that nodes wrote without knowing of each other, and that nobody has decided about.
    Conflict {
        /// The branch's name.
        branch: String,
        /// The path.
        path: String,
        /// What is shown, on all nodes.
        shown: ConflictSide,
        /// What is not, from what comes next to it.
        others: Vec<ConflictSide>,
    }
}

impl From<alknet_fs::Conflict> for Conflict {
    fn from(conflict: alknet_fs::Conflict) -> Self {
        let others = conflict.others.into_iter().map(ConflictSide::from);
        Self {
            branch: conflict.branch,
            path: conflict.path.as_str().to_owned(),
            shown: conflict.shown.into(),
            others: others.collect(),
        }
    }
}

report! {
    /// A branch or a snapshot that has a suffix here, because another one of its name came from
    /// elsewhere.
    NameConflict {
        /// The name that the branch has here.
        branch: String,
        /// The name that the snapshot of the branch has here; `None` where it is about the branch.
        snapshot: Option<String>,
        /// The name that was given to it.
        name: String,
        /// When it was given that name, by the clock of who gave it, in nanoseconds since 1970-01-01
        /// UTC; `None` where that is not known.
        at_ns: Option<i64>,
        /// The replica of the bucket that gave it that name; `None` where that is not known.
        replica: Option<String>,
        /// Whether that is this store.
        here: bool,
        /// The node that has the replica, where that is one that this store deals with itself.
        peer: Option<EventPeer>,
    }
}

impl From<alknet_fs::NameConflict> for NameConflict {
    fn from(conflict: alknet_fs::NameConflict) -> Self {
        let written = conflict.written;
        Self {
            branch: conflict.branch,
            snapshot: conflict.snapshot,
            name: conflict.name,
            at_ns: written.as_ref().map(|written| written.at.0),
            replica: written.as_ref().map(|written| written.replica.to_string()),
            here: written.as_ref().is_some_and(|written| written.here),
            peer: written.and_then(|written| written.peer.map(EventPeer::from)),
        }
    }
}

/// Reads what a conflict is to keep: `"shown"`, `"both"`, or the place of one of the others.
pub(crate) fn keep(how: &str) -> Result<Keep> {
    match how {
        "shown" => Ok(Keep::Winner),
        "both" => Ok(Keep::Both),
        place => place.parse().map(Keep::Loser).map_err(|_| {
            let detail = format!("{how:?} is neither 'shown' nor 'both' nor the place of a side");
            Error::with_detail(ErrorKind::InvalidInput, detail).op("resolve")
        }),
    }
}

/// Reads the name of a policy.
pub(crate) fn policy(name: &str) -> PyResult<ContentPolicy> {
    let all = [ContentPolicy::Eager, ContentPolicy::OnRead];
    let found = all.into_iter().find(|policy| policy.name() == name);
    found.ok_or_else(|| PyValueError::new_err("a policy is 'eager' or 'on-read'"))
}

/// Reads a time in seconds; `name` is what the argument is called.
pub(crate) fn seconds(name: &str, seconds: f64) -> PyResult<Duration> {
    if seconds == f64::INFINITY {
        return Ok(Duration::MAX);
    }
    Duration::try_from_secs_f64(seconds).map_err(|e| PyValueError::new_err(format!("{name}: {e}")))
}

/// Reads how long to wait, if that is said.
pub(crate) fn timeout(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let timeout = seconds.map(|timeout| self::seconds("timeout", timeout));
    timeout.transpose()
}
