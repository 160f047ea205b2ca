//! Open files.

use alknet_fs::File as CoreFile;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::args::{DataArg, Offset, WritableArg, attrs};
use crate::entry::{Closed, Entry};
use crate::handle::{Handle, fill};

/// An open file with a position.
#[pyclass(frozen, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct File(pub(crate) Handle<CoreFile>);

#[pymethods]
impl File {
    /// The path of the file, links resolved.
    #[getter]
    fn path(&self, py: Python<'_>) -> PyResult<String> {
        self.0.run(py, |file| Ok(file.path().as_str().to_owned()))
    }

    /// Reads up to `len` bytes at an offset, or at the position, which moves.
    #[pyo3(signature = (len, offset = None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        len: Offset,
        offset: Option<Offset>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let at = offset.map(|at| at.0);
        let left = self.0.run(py, |file| {
            let start = at.unwrap_or_else(|| file.position());
            Ok(file.size().saturating_sub(start))
        })?;
        let file = self.0.checked(py)?;
        fill(py, len.within(left), move |buffer| match at {
            Some(at) => file.read_at(at, buffer),
            None => file.read(buffer),
        })
    }

    /// Reads into a memoryview from the position, which moves; returns how many bytes, fewer than
    /// there is room for only at the end of the file.
    fn readinto(&self, py: Python<'_>, buffer: WritableArg<'_>) -> PyResult<usize> {
        self.0.run(py, |file| file.read(buffer.0))
    }

    /// Writes all bytes at an offset, or at the position, which moves; of a file opened for
    /// appending, at its end.
    #[pyo3(signature = (data, offset = None))]
    fn write(&self, py: Python<'_>, data: DataArg<'_>, offset: Option<Offset>) -> PyResult<usize> {
        let at = offset.map(|at| at.0);
        self.0.run(py, |file| match at {
            Some(at) => file.write_at(at, &data),
            None => file.write(&data),
        })?;
        Ok(data.len())
    }

    /// Returns the position in bytes.
    fn tell(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.run(py, |file| Ok(file.position()))
    }

    /// Moves the position.
    fn seek(&self, py: Python<'_>, position: Offset) -> PyResult<()> {
        self.0.run(py, |file| {
            file.set_position(position.0);
            Ok(())
        })
    }

    /// Returns the size in bytes, what was written included.
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.run(py, |file| Ok(file.size()))
    }

    /// Cuts the file, or extends it with zeros. The position stays.
    fn truncate(&self, py: Python<'_>, size: Offset) -> PyResult<()> {
        self.0.run(py, |file| file.set_size(size.0))
    }

    /// Returns what is known of the file.
    fn stat(&self, py: Python<'_>) -> PyResult<Entry> {
        self.0.run(py, |file| Ok(Entry(file.stat())))
    }

    /// Changes attributes: at once, or with the close of a file that can be written.
    #[pyo3(signature = (*, mode = None, uid = None, gid = None, mtime_ns = None))]
    fn set_attrs(
        &self,
        py: Python<'_>,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
    ) -> PyResult<()> {
        let set = attrs(mode, uid, gid, mtime_ns);
        self.0.run(py, |file| file.set_attrs(&set))
    }

    /// Makes what was written so far survive a power cut, without committing it.
    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.0.run(py, CoreFile::sync)
    }

    /// Closes the file and commits what was written; returns what was.
    fn close(&self, py: Python<'_>) -> PyResult<Option<Closed>> {
        Ok(self.0.run(py, CoreFile::close)?.map(Closed::from))
    }

    /// Closes the file and throws away what was written.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.0.run(py, CoreFile::abort)
    }
}
