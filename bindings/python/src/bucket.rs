//! Buckets.

use alknet_fs::{Bucket as CoreBucket, TreeRef};
use pyo3::prelude::*;

use crate::args::PathArg;
use crate::entry::{BranchInfo, Difference};
use crate::handle::Handle;
use crate::tree::{Branch, Tree, View};

/// A bucket: the unit of isolation.
#[pyclass(frozen, subclass, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Bucket(pub(crate) Handle<CoreBucket>);

#[pymethods]
impl Bucket {
    /// Makes another handle of the same bucket.
    #[new]
    fn new(other: &Bound<'_, Self>) -> Self {
        Self(other.get().0.clone())
    }

    /// The bucket's name as it is now.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        self.0.run(py, CoreBucket::name)
    }

    fn _branch(&self, py: Python<'_>, name: &str) -> PyResult<Py<Branch>> {
        let branch = self.0.run(py, |bucket| bucket.branch(name))?;
        Py::new(py, Branch::init(self.0.with(branch)))
    }

    /// Returns what is known of all branches, from the oldest.
    fn branches(&self, py: Python<'_>) -> PyResult<Vec<BranchInfo>> {
        let branches = self.0.run(py, CoreBucket::branches)?;
        Ok(branches.into_iter().map(BranchInfo::from).collect())
    }

    fn _fork(&self, py: Python<'_>, source: &str, name: &str) -> PyResult<Py<Branch>> {
        let fork = |bucket: &CoreBucket| bucket.fork(&source.parse::<TreeRef>()?, name);
        let branch = self.0.run(py, fork)?;
        Py::new(py, Branch::init(self.0.with(branch)))
    }

    fn _view(&self, py: Python<'_>, tree: &str) -> PyResult<Py<View>> {
        let view = self
            .0
            .run(py, |bucket| bucket.view(&tree.parse::<TreeRef>()?))?;
        Py::new(py, Tree::view(&self.0, view))
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
        let found = self.0.run(py, |bucket| {
            bucket.diff(&old.parse::<TreeRef>()?, &new.parse::<TreeRef>()?, &under)
        })?;
        Ok(found.into_iter().map(Difference::from).collect())
    }

    /// Deletes a branch with its snapshots.
    fn delete_branch(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.0.run(py, |bucket| bucket.delete_branch(name))
    }
}
