//! Batches.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use alknet_fs::{Batch as CoreBatch, Error, ErrorKind, Result};
use pyo3::prelude::*;

use crate::args::{DataArg, PathArg, attrs, follow, put_mode};
use crate::error::to_py;
use crate::handle::Handle;
use crate::tree::Branch;

/// Changes of one branch that are committed together.
#[pyclass(frozen, subclass, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Batch {
    batch: Handle<Mutex<Option<CoreBatch>>>,
    // As the last call left them: nobody waits for a call that goes on to learn them.
    closed: AtomicBool,
    len: AtomicUsize,
    content_bytes: AtomicU64,
}

impl Batch {
    /// Takes the batch out, to end it.
    fn take(&self, batch: &Mutex<Option<CoreBatch>>) -> Option<CoreBatch> {
        let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        batch.take()
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        self.batch.checked(py)?;
        match self.closed.load(Ordering::Relaxed) {
            true => Err(to_py(py, ended())),
            false => Ok(()),
        }
    }

    /// Calls the engine with the batch, which is there until it is committed or aborted.
    fn with<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut CoreBatch) -> Result<R> + Send,
    ) -> PyResult<R> {
        self.batch.run(py, |batch| {
            let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
            let batch = batch.as_mut().ok_or_else(ended)?;
            let result = call(batch);
            self.len.store(batch.len(), Ordering::Relaxed);
            self.content_bytes
                .store(batch.content_bytes(), Ordering::Relaxed);
            result
        })
    }
}

fn ended() -> Error {
    Error::with_detail(ErrorKind::BadHandle, "the batch was committed or aborted")
}

#[pymethods]
impl Batch {
    /// Begins a batch of changes of a branch.
    #[new]
    fn new(branch: &Bound<'_, Branch>) -> PyResult<Self> {
        let branch_handle = branch.get().handle();
        let batch = branch_handle.run(branch.py(), |branch| Ok(branch.batch()))?;
        Ok(Self {
            batch: branch_handle.with(Mutex::new(Some(batch))),
            closed: AtomicBool::new(false),
            len: AtomicUsize::new(0),
            content_bytes: AtomicU64::new(0),
        })
    }

    /// The number of content bytes collected so far. Small contents are held in memory until the
    /// commit; large ones are on disk already.
    #[getter]
    fn content_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.check_open(py)?;
        Ok(self.content_bytes.load(Ordering::Relaxed))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_open(py)?;
        Ok(self.len.load(Ordering::Relaxed))
    }

    /// A batch is true, even an empty one.
    fn __bool__(&self) -> bool {
        true
    }

    /// Whether the batch was committed or aborted.
    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes a whole file and returns its size. Commits nothing yet; a conflict comes with the
    /// commit, when there is a file unless `replace`, and when there is none unless `create`.
    #[pyo3(signature = (
        path, data, *, create = true, replace = true, mode = None, uid = None, gid = None, mtime_ns = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn write_bytes(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        data: DataArg<'_>,
        create: bool,
        replace: bool,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
    ) -> PyResult<usize> {
        let put = put_mode(create, replace)?;
        let set = attrs(mode, uid, gid, mtime_ns);
        let size = data.len();
        self.with(py, |batch| batch.put(&path, data, &set, put))?;
        Ok(size)
    }

    /// Makes a directory.
    #[pyo3(signature = (path, mode = None, *, uid = None, gid = None, mtime_ns = None))]
    fn mkdir(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
    ) -> PyResult<()> {
        let set = attrs(mode, uid, gid, mtime_ns);
        self.with(py, |batch| batch.mkdir_with(&path, &set))
    }

    /// Makes a directory and those above it that are missing. Where it exists, does nothing if
    /// `exist_ok`, and the commit fails otherwise.
    #[pyo3(signature = (path, exist_ok = false))]
    fn makedirs(&self, py: Python<'_>, path: PathArg<'_>, exist_ok: bool) -> PyResult<()> {
        self.with(py, |batch| {
            let path = alknet_fs::IntoPath::into_path(&path)?;
            if exist_ok {
                return batch.mkdir_all(&path);
            }
            if let Some(parent) = path.parent() {
                batch.mkdir_all(&parent)?;
            }
            batch.mkdir(&path)
        })
    }

    /// Makes a symbolic link at `path` that points to `target`, which need not exist.
    #[pyo3(signature = (target, path, *, mode = None, uid = None, gid = None, mtime_ns = None))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn symlink(
        &self,
        py: Python<'_>,
        target: PathArg<'_>,
        path: PathArg<'_>,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
    ) -> PyResult<()> {
        let set = attrs(mode, uid, gid, mtime_ns);
        self.with(py, |batch| {
            batch.symlink_with(target.target()?, &path, &set)
        })
    }

    /// Removes a file or a link.
    fn remove(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.with(py, |batch| batch.remove(&path))
    }

    /// Removes a file or a link, as `remove`.
    fn unlink(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.remove(py, path)
    }

    /// Removes an empty directory.
    fn rmdir(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.with(py, |batch| batch.remove_dir(&path))
    }

    /// Removes whatever is at a path, a directory with all below it.
    fn rmtree(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.with(py, |batch| batch.remove_all(&path))
    }

    /// Renames a file, link or directory, replacing what `dst` was.
    fn rename(&self, py: Python<'_>, src: PathArg<'_>, dst: PathArg<'_>) -> PyResult<()> {
        self.with(py, |batch| batch.rename(&src, &dst))
    }

    /// Renames, replacing what `dst` was, as `rename`.
    fn replace(&self, py: Python<'_>, src: PathArg<'_>, dst: PathArg<'_>) -> PyResult<()> {
        self.rename(py, src, dst)
    }

    /// Copies a file, link or directory with all below it; contents are shared.
    fn copy(&self, py: Python<'_>, src: PathArg<'_>, dst: PathArg<'_>) -> PyResult<()> {
        self.with(py, |batch| batch.copy(&src, &dst))
    }

    /// Changes attributes; what is `None` stays.
    #[pyo3(signature = (
        path, *, mode = None, uid = None, gid = None, mtime_ns = None, follow_symlinks = true
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn set_attrs(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
        follow_symlinks: bool,
    ) -> PyResult<()> {
        let set = attrs(mode, uid, gid, mtime_ns);
        let follow = follow(follow_symlinks);
        self.with(py, |batch| batch.set_attrs(&path, &set, follow))
    }

    /// Commits all changes, in the order they were collected, as one. Where one of them fails,
    /// nothing changes. The batch is closed either way.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        self.batch
            .run(py, |batch| self.take(batch).ok_or_else(ended)?.commit())
    }

    /// Throws the changes away. Does nothing where the batch is closed.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.batch.run(py, |batch| {
            drop(self.take(batch));
            Ok(())
        })
    }
}
