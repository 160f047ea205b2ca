//! Arguments: paths, bytes and attributes as Python programs give them.

use std::borrow::Cow;
use std::ffi::{c_int, c_void};
use std::ops::Deref;
use std::{ptr, slice};

use alknet_fs::{
    Error, ErrorKind, Follow, IntoPath, PutMode, Result, SetAttrs, Timestamp, TreePath,
};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString};

/// A path in a tree: `str`, `bytes`, `os.PathLike`, or what has `__alkfs_path__`. That is what paths
/// of trees have: with `__fspath__`, functions of the operating system would take them. A `str` is
/// borrowed.
#[derive(Debug)]
pub(crate) struct PathArg<'a>(Cow<'a, [u8]>);

impl Default for PathArg<'_> {
    /// The root.
    fn default() -> Self {
        Self(Cow::Borrowed(b"/"))
    }
}

impl PathArg<'_> {
    /// Returns the text as the target of a symbolic link, which need not be a path of a tree.
    pub(crate) fn target(&self) -> Result<&str> {
        std::str::from_utf8(&self.0).map_err(|_| {
            let detail = "the target of a link is not UTF-8";
            Error::with_detail(ErrorKind::InvalidInput, detail).op("symlink")
        })
    }
}

impl IntoPath for &PathArg<'_> {
    fn into_path(self) -> Result<TreePath> {
        TreePath::from_bytes(&self.0)
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for PathArg<'a> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = <&'a str>::extract(object) {
            return Ok(Self(Cow::Borrowed(text.as_bytes())));
        }
        if let Ok(bytes) = <&'a [u8]>::extract(object) {
            return Ok(Self(Cow::Borrowed(bytes)));
        }
        if let Ok(text) = object.cast::<PyString>() {
            return Ok(Self(Cow::Owned(surrogates(&text)?)));
        }
        let to_path = match object.getattr_opt("__alkfs_path__")? {
            None => object.getattr_opt("__fspath__")?,
            found => found,
        };
        let Some(to_path) = to_path else {
            let found = object.get_type().name();
            let found = found.map_or_else(|_| "something else".to_owned(), |n| n.to_string());
            let detail = format!("a path is str, bytes or os.PathLike, not {found}");
            return Err(PyTypeError::new_err(detail));
        };
        let path = to_path.call0()?;
        let bytes = match path.cast::<PyString>() {
            Ok(text) => match text.to_str() {
                Ok(text) => text.as_bytes().to_vec(),
                Err(_) => surrogates(text)?,
            },
            Err(_) => path.cast::<PyBytes>()?.as_bytes().to_vec(),
        };
        Ok(Self(Cow::Owned(bytes)))
    }
}

/// Encodes text that is no UTF-8 because it holds surrogates, for the engine to refuse.
fn surrogates(text: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    let bytes = text.call_method1("encode", ("utf-8", "surrogatepass"))?;
    Ok(bytes.cast::<PyBytes>()?.as_bytes().to_vec())
}

/// Bytes: `bytes` is borrowed, any other object with a buffer is copied once.
#[derive(Debug)]
pub(crate) enum DataArg<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
    Copied(PyBackedBytes),
}

impl Deref for DataArg<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

impl From<DataArg<'_>> for Vec<u8> {
    fn from(data: DataArg<'_>) -> Self {
        match data {
            DataArg::Owned(bytes) => bytes,
            data => data.to_vec(),
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for DataArg<'a> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = <&'a [u8]>::extract(object) {
            return Ok(Self::Borrowed(bytes));
        }
        if let Ok(bytes) = object.cast::<PyByteArray>() {
            return Ok(Self::Owned(bytes.to_vec()));
        }
        if object.is_instance_of::<PyString>() {
            let detail = "a bytes-like object is required, not 'str'";
            return Err(PyTypeError::new_err(detail));
        }
        // `Py_buffer` is no part of the stable ABI of Python 3.10.
        let bytes = PyMemoryView::from(&object)?.call_method0("tobytes")?;
        Ok(Self::Copied(bytes.cast_into::<PyBytes>()?.into()))
    }
}

unsafe extern "C" {
    /// Part of the stable ABI of every version, though no longer of the headers. `Py_buffer`, which
    /// took its place, is no part of that of Python 3.10.
    fn PyObject_AsWriteBuffer(
        object: *mut ffi::PyObject,
        buffer: *mut *mut c_void,
        len: *mut ffi::Py_ssize_t,
    ) -> c_int;
}

/// The bytes of a memoryview that can be written.
#[derive(Debug)]
pub(crate) struct WritableArg<'a>(pub(crate) &'a mut [u8]);

impl<'a, 'py> FromPyObject<'a, 'py> for WritableArg<'a> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let view = object.cast::<PyMemoryView>()?;
        let (mut start, mut len) = (ptr::null_mut(), 0);
        // SAFETY: both pointers are those of variables; a failure sets an exception.
        let found = unsafe { PyObject_AsWriteBuffer(view.as_ptr(), &raw mut start, &raw mut len) };
        match usize::try_from(len) {
            Ok(len) if found == 0 && len == 0 => Ok(Self(&mut [])),
            // SAFETY: as long as the view lives, which the caller holds, its object does not move
            // the bytes. That nothing else uses them meanwhile is up to the program, as with every
            // `readinto` of Python.
            Ok(len) if found == 0 => Ok(Self(unsafe {
                slice::from_raw_parts_mut(start.cast(), len)
            })),
            _ => Err(PyErr::fetch(object.py())),
        }
    }
}

/// Collects the attributes that a call sets.
pub(crate) fn attrs(
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime_ns: Option<i64>,
) -> SetAttrs {
    SetAttrs {
        mode,
        uid,
        gid,
        mtime: mtime_ns.map(Timestamp),
    }
}

/// Tells whether a link at the end of a path is followed.
pub(crate) fn follow(symlinks: bool) -> Follow {
    match symlinks {
        true => Follow::Yes,
        false => Follow::No,
    }
}

/// Tells what a write does where there is a file, and where there is none.
pub(crate) fn put_mode(create: bool, replace: bool) -> PyResult<PutMode> {
    match (create, replace) {
        (true, true) => Ok(PutMode::CreateOrReplace),
        (true, false) => Ok(PutMode::CreateNew),
        (false, true) => Ok(PutMode::ReplaceExisting),
        (false, false) => Err(PyValueError::new_err(
            "create and replace cannot both be False",
        )),
    }
}

/// A position or a size in bytes. What is greater than any file has the greatest value there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offset(pub(crate) u64);

impl<'a, 'py> FromPyObject<'a, 'py> for Offset {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<u64>() {
            Ok(number) => Ok(Self(number)),
            Err(e) if !e.is_instance_of::<PyOverflowError>(object.py()) => Err(e),
            Err(_) if object.lt(0)? => Err(PyValueError::new_err("negative offset or size")),
            Err(_) => Ok(Self(u64::MAX)),
        }
    }
}

impl Offset {
    /// Returns how many bytes to make room for where there are no more than `left`.
    pub(crate) fn within(self, left: u64) -> usize {
        let most = isize::MAX.unsigned_abs();
        usize::try_from(self.0.min(left)).map_or(most, |len| len.min(most))
    }
}
