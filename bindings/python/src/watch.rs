//! Events, and watching for them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use alknet_fs::{Error, ErrorKind, EventFilter, IntoPath, Kind, Op, Watcher};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::args::PathArg;
use crate::error::to_py;
use crate::handle::{Handle, Held};
use crate::task::{Cancel, TICK};
use crate::upkeep::report;

report! {
    /// A node that something came from.
    EventPeer = alknet_fs::EventPeer {
        /// Its key.
        id: String,
        /// What it is called here.
        name: Option<String>,
    }
}

/// One committed change.
#[pyclass(frozen, get_all, eq, module = "alknet_fs")]
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// The event's position: a watch with `after` set to it goes on after this event.
    cursor: u64,
    /// When it was committed, in nanoseconds since 1970-01-01 UTC.
    at_ns: i64,
    /// Who did it.
    author: String,
    /// The bucket's name when the event was read.
    bucket: String,
    /// The branch's name when it happened.
    branch: String,
    /// The number of the write session that was closed, if any.
    session: Option<u64>,
    /// What happened: `"create"`, `"modify"`, `"attributes"`, `"remove"`, `"rename"`, `"fork"`,
    /// `"rename_branch"`, `"delete_branch"`, `"snapshot"`, `"delete_snapshot"` or `"restore"`.
    op: String,
    /// The path it happened to.
    path: Option<String>,
    /// Where a renamed entry was before.
    from_path: Option<String>,
    /// `"file"`, `"dir"` or `"symlink"`: what is there now, or what was removed.
    kind: Option<String>,
    /// The content's hash before.
    old: Option<String>,
    /// The content's hash after.
    new: Option<String>,
    /// The size in bytes after.
    size: Option<u64>,
    /// The other name that `op` speaks of: of a snapshot, or of another branch.
    name: Option<String>,
    /// The node whose store it was written in, where that is one that this store deals with itself;
    /// `None` for what was written in this store. Of what came from a node by way of others, the
    /// author is the id of its replica.
    peer: Option<EventPeer>,
}

#[pymethods]
impl Event {
    fn __repr__(&self) -> String {
        let what = self.path.as_ref().or(self.name.as_ref());
        let what = what.map(|what| format!(" {what}")).unwrap_or_default();
        format!("<Event {} {}{what}>", self.branch, self.op)
    }
}

impl From<alknet_fs::Event> for Event {
    fn from(event: alknet_fs::Event) -> Self {
        let change = event.change;
        Self {
            cursor: event.cursor.0,
            at_ns: event.at.0,
            author: event.author,
            bucket: event.bucket,
            branch: event.branch,
            session: event.session.map(|id| id.0),
            op: change.op.name().to_owned(),
            path: change.path.map(|path| path.as_str().to_owned()),
            from_path: change.from.map(|path| path.as_str().to_owned()),
            kind: change.kind.map(|kind| kind.name().to_owned()),
            old: change.old.map(|hash| hash.to_hex()),
            new: change.new.map(|hash| hash.to_hex()),
            size: change.size,
            name: change.name,
            peer: event.peer.map(EventPeer::from),
        }
    }
}

/// Makes the filter that a caller describes.
pub(crate) fn filter(
    branch: Option<String>,
    glob: &[String],
    under: Option<PathArg<'_>>,
    directly_in: Option<PathArg<'_>>,
    ops: Option<Vec<String>>,
    kinds: Option<Vec<String>>,
) -> alknet_fs::Result<EventFilter> {
    let mut filter = EventFilter::all();
    if let Some(branch) = branch {
        filter = filter.branch(branch);
    }
    if !glob.is_empty() {
        filter = filter.globs(glob)?;
    }
    if let Some(path) = under {
        filter = filter.under((&path).into_path()?);
    }
    if let Some(path) = directly_in {
        filter = filter.directly_in((&path).into_path()?);
    }
    if let Some(ops) = ops {
        let ops = ops.iter().map(|op| op.parse());
        filter = filter.ops(ops.collect::<alknet_fs::Result<Vec<Op>>>()?);
    }
    if let Some(kinds) = kinds {
        let kinds = kinds.iter().map(|kind| kind.parse());
        filter = filter.kinds(kinds.collect::<alknet_fs::Result<Vec<Kind>>>()?);
    }
    Ok(filter)
}

/// Delivers events.
#[pyclass(frozen, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: Handle<Mutex<Option<Watcher>>>,
    cursor: AtomicU64,
    closed: AtomicBool,
}

impl Watch {
    pub(crate) fn new<T: Held>(of: &Handle<T>, watcher: Watcher) -> Self {
        Self {
            cursor: AtomicU64::new(watcher.cursor().0),
            watcher: of.with(Mutex::new(Some(watcher))),
            closed: AtomicBool::new(false),
        }
    }
}

#[pymethods]
impl Watch {
    /// The position after the last event that was delivered.
    #[getter]
    fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed)
    }

    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Waits up to some seconds, or for ever, for an event; returns up to `limit` that are there,
    /// or none when `stop` says so.
    #[pyo3(signature = (timeout, limit, stop = None))]
    fn take(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        limit: usize,
        stop: Option<Py<Cancel>>,
    ) -> PyResult<Vec<Event>> {
        let timeout = timeout.filter(|seconds| *seconds != f64::INFINITY);
        let timeout = timeout.map(Duration::try_from_secs_f64).transpose();
        let timeout = timeout.map_err(|e| PyValueError::new_err(format!("timeout: {e}")))?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if self.closed() {
                let error = Error::with_detail(ErrorKind::BadHandle, "the watch is closed");
                return Err(to_py(py, error));
            }
            let left = deadline.map_or(TICK, |at| at.saturating_duration_since(Instant::now()));
            let events = self.watcher.run(py, |watcher| {
                let mut watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(watcher) = watcher.as_mut() else {
                    return Ok(Vec::new());
                };
                let events = watcher.next_batch(left.min(TICK), limit)?;
                let events: Vec<_> = events.into_iter().map(Event::from).collect();
                self.cursor.store(watcher.cursor().0, Ordering::Relaxed);
                Ok(events)
            })?;
            let over = deadline.is_some_and(|at| at <= Instant::now());
            let stopped = stop.as_ref().is_some_and(|stop| stop.get().cancelled());
            if !events.is_empty() || over || stopped {
                return Ok(events);
            }
            py.check_signals()?;
        }
    }

    /// Ends the watch; a thread that waits in it returns soon.
    fn close(&self, py: Python<'_>) {
        self.closed.store(true, Ordering::Relaxed);
        self.watcher.release(py, |watcher| {
            let watcher = watcher
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            drop(watcher);
        });
    }
}
