//! Write sessions.

use std::sync::{PoisonError, RwLock};

use alknet_fs::{Error, ErrorKind, Result, Session as CoreSession};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::{Deserialize, Serialize};

use crate::args::{DataArg, Offset, attrs};
use crate::entry::Closed;
use crate::handle::{Handle, Held, fill};

/// An open write session; nothing once it is detached.
#[pyclass(frozen, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Session(Handle<RwLock<Option<CoreSession>>>);

impl Session {
    pub(crate) fn new<T: Held>(of: &Handle<T>, session: CoreSession) -> Self {
        Self(of.with(RwLock::new(Some(session))))
    }

    fn with<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&CoreSession) -> Result<R> + Send,
    ) -> PyResult<R> {
        self.0.run(py, |session| {
            let session = session.read().unwrap_or_else(PoisonError::into_inner);
            call(session.as_ref().ok_or_else(detached)?)
        })
    }
}

fn detached() -> Error {
    Error::with_detail(ErrorKind::BadHandle, "the session is detached")
}

#[pymethods]
impl Session {
    /// The number by which the session can be found after a crash.
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |session| Ok(session.id().0))
    }

    /// The path the session will write, links resolved.
    #[getter]
    fn path(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |session| Ok(session.path().as_str().to_owned()))
    }

    /// The size the file has in this session, in bytes.
    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |session| Ok(session.size()))
    }

    fn pread<'py>(
        &self,
        py: Python<'py>,
        size: Offset,
        offset: Offset,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let left = self.with(py, |session| Ok(session.size().saturating_sub(offset.0)))?;
        let session = self.0.checked(py)?;
        fill(py, size.within(left), move |buffer| {
            let session = session.read().unwrap_or_else(PoisonError::into_inner);
            session
                .as_ref()
                .ok_or_else(detached)?
                .read_at(offset.0, buffer)
        })
    }

    fn pwrite(&self, py: Python<'_>, data: DataArg<'_>, offset: Offset) -> PyResult<usize> {
        self.with(py, |session| session.write_at(offset.0, &data))?;
        Ok(data.len())
    }

    fn append(&self, py: Python<'_>, data: DataArg<'_>) -> PyResult<u64> {
        self.with(py, |session| session.append(&data))
    }

    fn truncate(&self, py: Python<'_>, size: Offset) -> PyResult<()> {
        self.with(py, |session| session.truncate(size.0))
    }

    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, CoreSession::sync)
    }

    #[pyo3(signature = (*, mode = None, uid = None, gid = None, mtime_ns = None))]
    fn close(
        &self,
        py: Python<'_>,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
    ) -> PyResult<Closed> {
        let set = attrs(mode, uid, gid, mtime_ns);
        self.with(py, |session| session.close_with(&set))
            .map(Closed::from)
    }

    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, CoreSession::abort)
    }

    fn detach(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.run(py, |session| {
            let session = session
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            Ok(session.ok_or_else(detached)?.detach()?.0)
        })
    }
}

/// An open write session as `sessions` lists it.
#[pyclass(frozen, get_all, eq, module = "alknet_fs")]
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionInfo {
    /// Its number.
    id: u64,
    /// The bucket's name.
    bucket: String,
    /// The branch's name.
    branch: String,
    /// The path it will write.
    path: String,
    /// Who opened it.
    owner: String,
    /// Whether it holds the path's exclusive lock.
    exclusive: bool,
    /// Where its bytes are staged: in `"rows"` of the database or in a `"file"`.
    staging: String,
    /// How many bytes are staged; the length of the staging file where they are in one.
    staged: u64,
    /// The size of the version it started from, in bytes; `None` where it started from an empty
    /// file.
    base: Option<u64>,
    /// When it was opened, in nanoseconds since 1970-01-01 UTC.
    created_ns: i64,
    /// When it last wrote; approximate.
    touched_ns: i64,
    /// Whether a living process works on it. One that is not alive can be resumed or aborted.
    alive: bool,
}

#[pymethods]
impl SessionInfo {
    fn __repr__(&self) -> String {
        format!(
            "<SessionInfo {} {} {} owner={}>",
            self.id, self.branch, self.path, self.owner
        )
    }
}

impl From<alknet_fs::SessionInfo> for SessionInfo {
    fn from(info: alknet_fs::SessionInfo) -> Self {
        Self {
            id: info.id.0,
            bucket: info.bucket,
            branch: info.branch,
            path: info.path.as_str().to_owned(),
            owner: info.owner,
            exclusive: info.exclusive,
            staging: info.staging.name().to_owned(),
            staged: info.staged,
            base: info.base,
            created_ns: info.created.0,
            touched_ns: info.touched.0,
            alive: info.alive,
        }
    }
}
