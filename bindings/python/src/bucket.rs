//! Buckets.

use alknet_fs::{Bucket as CoreBucket, BucketId, Result, Retention, Timestamp, TreeRef};
use pyo3::prelude::*;

use crate::args::PathArg;
use crate::content::{Conflict, ContentSettings, FetchReport, NameConflict, policy, seconds};
use crate::entry::{BranchInfo, Difference};
use crate::handle::{Handle, Held};
use crate::store::Store;
use crate::task::{Cancel, Follower};
use crate::tree::{Branch, Tree, View};
use crate::upkeep::Sharing;
use crate::waiting;
use crate::watch::{Event, filter};

/// A bucket: the unit of isolation.
#[pyclass(frozen, subclass, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Bucket {
    bucket: Handle<CoreBucket>,
    /// Tells it from others, also when the store is closed.
    id: BucketId,
}

impl Bucket {
    pub(crate) fn new<T: Held>(of: &Handle<T>, bucket: CoreBucket) -> Self {
        Self {
            id: bucket.id(),
            bucket: of.with(bucket),
        }
    }
}

#[pymethods]
impl Bucket {
    /// Makes another handle of the same bucket.
    #[new]
    fn py_new(other: &Bound<'_, Self>) -> Self {
        let other = other.get();
        Self {
            bucket: other.bucket.clone(),
            id: other.id,
        }
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| {
            let other = other.get();
            self.bucket.is_of(&other.bucket) && self.id == other.id
        })
    }

    fn __hash__(&self) -> usize {
        self.bucket.store_number() ^ self.id.0 as usize
    }

    /// The bucket's name as it is now.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        self.bucket.run(py, CoreBucket::name)
    }

    fn _branch(&self, py: Python<'_>, name: &str) -> PyResult<Py<Branch>> {
        let branch = self.bucket.run(py, |bucket| bucket.branch(name))?;
        Py::new(py, Branch::init(&self.bucket, &branch))
    }

    /// Returns what is known of all branches, from the oldest.
    fn branches(&self, py: Python<'_>) -> PyResult<Vec<BranchInfo>> {
        let branches = self.bucket.run(py, CoreBucket::branches)?;
        Ok(branches.into_iter().map(BranchInfo::from).collect())
    }

    fn _fork(&self, py: Python<'_>, source: &str, name: &str) -> PyResult<Py<Branch>> {
        let fork = |bucket: &CoreBucket| bucket.fork(&source.parse::<TreeRef>()?, name);
        let branch = self.bucket.run(py, fork)?;
        Py::new(py, Branch::init(&self.bucket, &branch))
    }

    fn _view(&self, py: Python<'_>, tree: &str) -> PyResult<Py<View>> {
        let view = self
            .bucket
            .run(py, |bucket| bucket.view(&tree.parse::<TreeRef>()?))?
            .fetching(&waiting::fetching(None));
        Py::new(py, Tree::view(&self.bucket, view))
    }

    /// Compares two trees, each `"BRANCH"` or `"BRANCH@SNAPSHOT"`, at and below a path; sorted by path.
    #[pyo3(signature = (old, new, path = None))]
    fn diff(
        &self,
        py: Python<'_>,
        old: &str,
        new: &str,
        path: Option<PathArg<'_>>,
    ) -> PyResult<Vec<Difference>> {
        let under = path.unwrap_or_default();
        let found = self.bucket.run(py, |bucket| {
            bucket.diff(&old.parse::<TreeRef>()?, &new.parse::<TreeRef>()?, &under)
        })?;
        Ok(found.into_iter().map(Difference::from).collect())
    }

    fn _store(&self, py: Python<'_>) -> PyResult<Store> {
        let store = self.bucket.run(py, |bucket| Ok(bucket.store()))?;
        Ok(Store(self.bucket.with(store)))
    }

    #[pyo3(signature = (limit, branch, glob, under, directly_in, ops, kinds))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn _log(
        &self,
        py: Python<'_>,
        limit: usize,
        branch: Option<String>,
        glob: Vec<String>,
        under: Option<PathArg<'_>>,
        directly_in: Option<PathArg<'_>>,
        ops: Option<Vec<String>>,
        kinds: Option<Vec<String>>,
    ) -> PyResult<Vec<Event>> {
        let filter = filter(branch, &glob, under, directly_in, ops, kinds);
        let events = self.bucket.run(py, |bucket| bucket.log(&filter?, limit))?;
        Ok(events.into_iter().map(Event::from).collect())
    }

    /// Removes events before a time, in nanoseconds since 1970-01-01 UTC, and all but about the
    /// newest `at_most`; returns how many. Watches that had not seen them fail with `Lagged`.
    #[pyo3(signature = (*, at_most = None, before_ns = None))]
    fn prune_events(
        &self,
        py: Python<'_>,
        at_most: Option<u64>,
        before_ns: Option<i64>,
    ) -> PyResult<u64> {
        let retention = Retention {
            not_before: before_ns.map(Timestamp),
            at_most,
        };
        self.bucket
            .run(py, |bucket| bucket.prune_events(&retention))
    }

    /// Finds out how much content some trees, each `"BRANCH"` or `"BRANCH@SNAPSHOT"`, share.
    #[pyo3(signature = (trees, *, progress = None, cancel = None))]
    fn sharing(
        &self,
        py: Python<'_>,
        trees: Vec<String>,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<Sharing> {
        let sharing = Follower { progress, cancel }.run(py, &self.bucket, |bucket, task| {
            let trees = trees.iter().map(|tree| tree.parse());
            bucket.sharing(&trees.collect::<Result<Vec<TreeRef>>>()?, task)
        })?;
        Ok(sharing.into())
    }

    /// Tells what the bucket does about contents that are elsewhere.
    fn content_settings(&self, py: Python<'_>) -> PyResult<ContentSettings> {
        let settings = self.bucket.run(py, CoreBucket::content_settings)?;
        Ok(settings.into())
    }

    /// Sets which contents are fetched before anybody reads them: `"eager"` for all, `"on-read"` for
    /// those of pinned paths only.
    fn set_content_policy(&self, py: Python<'_>, policy: &str) -> PyResult<()> {
        let policy = self::policy(policy)?;
        self.bucket
            .run(py, |bucket| bucket.set_content_policy(policy))
    }

    /// Sets for how many seconds a read waits for a content that is elsewhere.
    fn set_content_timeout(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        let timeout = self::seconds("seconds", seconds)?;
        self.bucket
            .run(py, |bucket| bucket.set_content_timeout(timeout))
    }

    /// Pins a path with all below it, or a pattern, in all branches and snapshots: the contents are
    /// fetched in the background, and stay. `*` and `?` stop at `/`, `**` does not, and a pattern
    /// without a `/` matches names at any depth.
    fn pin(&self, py: Python<'_>, pattern: &str) -> PyResult<()> {
        self.bucket.run(py, |bucket| bucket.pin(pattern))
    }

    /// Tells whether a pin would be of anything that is there: on a branch, or in what was there before
    /// and is not collected yet. The cost follows the size of the bucket where it is not.
    fn has_match(&self, py: Python<'_>, pattern: &str) -> PyResult<bool> {
        self.bucket.run(py, |bucket| bucket.has_match(pattern))
    }

    /// Takes a pin off, given as it was set. What is here stays until it is evicted.
    fn unpin(&self, py: Python<'_>, pattern: &str) -> PyResult<()> {
        self.bucket.run(py, |bucket| bucket.unpin(pattern))
    }

    /// Fetches all contents that are elsewhere, of all branches and snapshots. The progress counts
    /// contents, as `files`, and their bytes. What could not be fetched is in the report.
    #[pyo3(signature = (*, progress = None, cancel = None))]
    fn fetch(
        &self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<FetchReport> {
        let follower = Follower { progress, cancel };
        let report = follower.run(py, &self.bucket, CoreBucket::fetch)?;
        Ok(report.into())
    }

    /// Lists what nodes wrote to one path without knowing of each other, by branch and path.
    fn conflicts(&self, py: Python<'_>) -> PyResult<Vec<Conflict>> {
        let conflicts = self.bucket.run(py, CoreBucket::conflicts)?;
        Ok(conflicts.into_iter().map(Conflict::from).collect())
    }

    /// Lists the branches and snapshots that have a suffix, because another one of their name came
    /// from elsewhere. To rename or delete one of the two settles it.
    fn name_conflicts(&self, py: Python<'_>) -> PyResult<Vec<NameConflict>> {
        let conflicts = self.bucket.run(py, CoreBucket::name_conflicts)?;
        Ok(conflicts.into_iter().map(NameConflict::from).collect())
    }

    /// Deletes a branch with its snapshots.
    fn delete_branch(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.bucket.run(py, |bucket| bucket.delete_branch(name))
    }
}
