//! Readers of one version of a file.

use std::sync::{Arc, PoisonError, RwLock};

use alknet_fs::{Error, ErrorKind, Reader as CoreReader, Result};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::args::Offset;
use crate::handle::{Handle, Held, fill};

/// Reads one version of a file, whatever becomes of the file.
#[pyclass(frozen, module = "alknet_fs")]
#[derive(Debug)]
pub(crate) struct Reader(Handle<RwLock<Option<Arc<CoreReader>>>>);

impl Reader {
    pub(crate) fn new<T: Held>(of: &Handle<T>, reader: CoreReader) -> Self {
        Self(of.with(RwLock::new(Some(Arc::new(reader)))))
    }

    fn opened(reader: &RwLock<Option<Arc<CoreReader>>>) -> Result<Arc<CoreReader>> {
        let reader = reader.read().unwrap_or_else(PoisonError::into_inner);
        let closed = || Error::with_detail(ErrorKind::BadHandle, "the reader is closed");
        reader.clone().ok_or_else(closed)
    }
}

#[pymethods]
impl Reader {
    /// The file's size in bytes.
    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.run(py, |reader| Ok(Self::opened(reader)?.size()))
    }

    /// The BLAKE3 hash of the bytes as 64 hexadecimal digits.
    #[getter]
    fn hash(&self, py: Python<'_>) -> PyResult<String> {
        self.0
            .run(py, |reader| Ok(Self::opened(reader)?.hash().to_hex()))
    }

    /// How the store keeps the bytes: `"inline"` in the database, as a `"file"`, or as a `"delta"`
    /// over other bytes.
    #[getter]
    fn form(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.0
            .run(py, |reader| Ok(Self::opened(reader)?.form().name()))
    }

    /// Reads up to `size` bytes at an offset; fewer only at the end.
    fn pread<'py>(
        &self,
        py: Python<'py>,
        size: Offset,
        offset: Offset,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let left = self.size(py)?.saturating_sub(offset.0);
        let reader = self.0.checked(py)?;
        fill(py, size.within(left), move |buffer| {
            Self::opened(&reader)?.read_at(offset.0, buffer)
        })
    }

    /// Lets the content go. Closing again does nothing.
    fn close(&self, py: Python<'_>) {
        self.0.release(py, |reader| {
            let reader = reader
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            drop(reader);
        });
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, py: Python<'_>, _error: &Bound<'_, PyAny>) {
        self.close(py);
    }
}
