//! Open files.

use std::sync::Arc;

use alknet_fs::File;
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;

use crate::convert::{Attributes, StatNumbers, length, stat_numbers};
use crate::job::{Kept, Outcome, run};

/// The flags of an open file, as the TypeScript layer makes them from Node's.
pub(crate) mod flags {
    use alknet_fs::FileOptions;

    pub(crate) const READ: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const APPEND: u32 = 4;
    pub(crate) const CREATE: u32 = 8;
    pub(crate) const EXCLUSIVE: u32 = 16;
    pub(crate) const TRUNCATE: u32 = 32;

    /// Those that a view refuses.
    pub(crate) const CHANGING: u32 = !READ;

    pub(crate) fn options(bits: u32, mode: Option<u32>) -> FileOptions {
        let on = |flag| bits & flag != 0;
        let options = FileOptions::new()
            .read(on(READ))
            .write(on(WRITE))
            .append(on(APPEND))
            .create(on(CREATE))
            .create_new(on(CREATE) && on(EXCLUSIVE))
            .truncate(on(TRUNCATE));
        match mode {
            None => options,
            Some(mode) => options.mode(mode),
        }
    }
}

/// A file with a position. One that was written and is not closed changes nothing.
#[napi]
pub struct OpenFile {
    file: Arc<File>,
}

impl From<File> for OpenFile {
    fn from(file: File) -> Self {
        Self {
            file: Arc::new(file),
        }
    }
}

#[napi]
impl OpenFile {
    #[napi]
    pub fn path(&self) -> &str {
        self.file.path().as_str()
    }

    #[napi]
    pub fn stat(&self, later: bool) -> napi::Result<Outcome<StatNumbers>> {
        let file = Arc::clone(&self.file);
        run(later, move || Ok(stat_numbers(&file.stat())))
    }

    /// Fills a buffer from an offset, or from the position. Returns how many bytes it read.
    #[napi]
    pub fn read(
        &self,
        mut buffer: Uint8Array,
        offset: Option<f64>,
        later: bool,
    ) -> napi::Result<Outcome<Kept<f64>>> {
        let file = Arc::clone(&self.file);
        run(later, move || {
            // SAFETY: whoever reads into a buffer does not look at it before the read is over, as
            // with Node's own files.
            let bytes = unsafe { buffer.as_mut() };
            let n = match offset {
                Some(offset) => file.read_at(length(offset)?, bytes)?,
                None => file.read(bytes)?,
            };
            Ok(Kept::new(n as f64, buffer))
        })
    }

    /// Writes all bytes at an offset, or at the position.
    #[napi]
    pub fn write(
        &self,
        data: Uint8Array,
        offset: Option<f64>,
        later: bool,
    ) -> napi::Result<Outcome<Kept<()>>> {
        let file = Arc::clone(&self.file);
        run(later, move || {
            match offset {
                Some(offset) => file.write_at(length(offset)?, &data)?,
                None => file.write(&data)?,
            }
            Ok(Kept::new((), data))
        })
    }

    #[napi]
    pub fn truncate(&self, size: f64, later: bool) -> napi::Result<Outcome<()>> {
        let file = Arc::clone(&self.file);
        run(later, move || file.set_size(length(size)?))
    }

    #[napi]
    pub fn sync(&self, later: bool) -> napi::Result<Outcome<()>> {
        let file = Arc::clone(&self.file);
        run(later, move || file.sync())
    }

    #[napi]
    pub fn set_attributes(&self, attributes: Attributes, later: bool) -> napi::Result<Outcome<()>> {
        let file = Arc::clone(&self.file);
        run(later, move || file.set_attrs(&attributes.set()?))
    }

    /// Commits what was written.
    #[napi]
    pub fn close(&self, later: bool) -> napi::Result<Outcome<()>> {
        let file = Arc::clone(&self.file);
        run(later, move || file.close().map(drop))
    }

    /// Throws away what was written.
    #[napi]
    pub fn abort(&self, later: bool) -> napi::Result<Outcome<()>> {
        let file = Arc::clone(&self.file);
        run(later, move || file.abort())
    }
}
