//! The file of a store that is open.

use std::path::{Path, PathBuf};

use alknet_fs_core::{Error, ErrorKind, Result};
use file_id::{FileId, get_file_id};

/// The file that a store opened, and where it was.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    path: PathBuf,
    id: FileId,
}

impl Database {
    /// Notes which file is at a path.
    ///
    /// # Errors
    /// Those of looking at it.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            id: get_file_id(path)?,
        })
    }

    /// Returns the path, where it is still that file.
    ///
    /// Whoever opens another one while this is open harms both: SQLite takes what it keeps beside the one
    /// for the other's, and [truncates the memory that is shared](https://sqlite.org/howtocorrupt.html).
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where another file is there now.
    pub(crate) fn path(&self) -> Result<&Path> {
        match get_file_id(&self.path) {
            Ok(id) if id != self.id => Err(replaced()),
            _ => Ok(&self.path),
        }
    }
}

/// The error of whoever uses a store whose file is another one now.
pub(crate) fn replaced() -> Error {
    let why = "store.db was replaced while it was in use: open the store again";
    Error::with_detail(ErrorKind::Io, why)
}
