//! Errors of the engine as Python exceptions.

use alknet_fs::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Lists every kind of error: its name, POSIX code, Linux number and meaning.
#[pyfunction]
pub(crate) fn kinds() -> Vec<(&'static str, &'static str, i32, &'static str)> {
    let row = |kind: &ErrorKind| (kind.name(), kind.code(), kind.errno(), kind.text());
    ErrorKind::ALL.iter().map(row).collect()
}

/// Makes the exception that stands for an error: `alknet_fs._errors.make` knows the classes.
pub(crate) fn to_py(py: Python<'_>, error: Error) -> PyErr {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || {
        let make = MAKE.import(py, "alknet_fs._errors", "make")?;
        make.call1((
            error.kind().name(),
            error.message(),
            error.subject(),
            error.operation(),
            error.missing_content().map(|hash| hash.to_hex()),
            error.asked(),
        ))
    };
    match make() {
        Ok(exception) => PyErr::from_value(exception),
        Err(e) => e,
    }
}
