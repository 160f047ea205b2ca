//! Stores.

use std::path::PathBuf;
use std::time::Duration;

use alknet_fs::{Durability, Options, Store as CoreStore};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::bucket::Bucket;
use crate::error::to_py;
use crate::handle::Handle;

/// An open store.
#[pyclass(frozen, subclass, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Store(Handle<CoreStore>);

#[pymethods]
impl Store {
    /// Opens or makes a store as `how` says: `"open"`, `"create"`, `"open_or_create"` or, without a
    /// path, `"memory"`.
    #[new]
    #[pyo3(signature = (how, path = None, *, author = None, durability = "full", busy_timeout = None))]
    fn new(
        py: Python<'_>,
        how: &str,
        path: Option<PathBuf>,
        author: Option<String>,
        durability: &str,
        busy_timeout: Option<f64>,
    ) -> PyResult<Self> {
        let mut options = Options::new().durability(match durability {
            "full" => Durability::Full,
            "relaxed" => Durability::Relaxed,
            _ => return Err(PyValueError::new_err("durability is 'full' or 'relaxed'")),
        });
        if let Some(author) = author {
            options = options.author(author);
        }
        if let Some(seconds) = busy_timeout {
            let timeout = Duration::try_from_secs_f64(seconds);
            options = options.busy_timeout(
                timeout.map_err(|e| PyValueError::new_err(format!("busy_timeout: {e}")))?,
            );
        }
        let open = || match (how, path) {
            ("open", Some(path)) => Some(options.open(path)),
            ("create", Some(path)) => Some(options.create(path)),
            ("open_or_create", Some(path)) => Some(options.open_or_create(path)),
            ("memory", None) => Some(options.memory()),
            _ => None,
        };
        let store = py.detach(open);
        let store = store.ok_or_else(|| PyValueError::new_err("no such way to open a store"))?;
        Ok(Self(Handle::root(store.map_err(|e| to_py(py, e))?)))
    }

    /// The store's directory; `None` for a store in memory.
    #[getter]
    fn path(&self, py: Python<'_>) -> PyResult<Option<PathBuf>> {
        self.0
            .run(py, |store| Ok(store.path().map(ToOwned::to_owned)))
    }

    /// Whether the store was closed, or belongs to the process that this one was forked from.
    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Closes the store: whatever was made from it fails from now on.
    fn close(&self) {
        self.0.close_store();
    }

    fn _bucket(&self, py: Python<'_>, name: &str) -> PyResult<Bucket> {
        let bucket = self.0.run(py, |store| store.bucket(name))?;
        Ok(Bucket(self.0.with(bucket)))
    }

    fn _create_bucket(&self, py: Python<'_>, name: &str) -> PyResult<Bucket> {
        let bucket = self.0.run(py, |store| store.create_bucket(name))?;
        Ok(Bucket(self.0.with(bucket)))
    }

    /// Returns the names of all buckets, sorted.
    fn buckets(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.0.run(py, CoreStore::buckets)
    }

    /// Gives a bucket another name.
    fn rename_bucket(&self, py: Python<'_>, name: &str, new: &str) -> PyResult<()> {
        self.0.run(py, |store| store.rename_bucket(name, new))
    }

    /// Deletes a bucket with all in it.
    fn delete_bucket(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.0.run(py, |store| store.delete_bucket(name))
    }
}
