//! Open files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use alknet_fs::{Error, File, SetAttrs, Timestamp};
use napi::bindgen_prelude::{ToNapiValue, Uint8Array};
use napi_derive::napi;

use crate::bytes::{Filled, Given};
use crate::convert::{Attributes, ClosedInfo, EntryInfo, StatNumbers, length, stat_numbers};
use crate::handle::Handle;
use crate::job::{Outcome, now, run, run_on};

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
            .exclusive(on(CREATE) && on(EXCLUSIVE))
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
    file: Handle<File>,
    /// What only reads waits for nobody.
    writable: bool,
    /// Whether a time of modification was set, which the next write replaces.
    dated: Arc<AtomicBool>,
}

impl From<Handle<File>> for OpenFile {
    fn from(file: Handle<File>) -> Self {
        let writable = file.get().is_ok_and(|file| file.writable());
        let dated = Arc::default();
        Self {
            file,
            writable,
            dated,
        }
    }
}

impl OpenFile {
    fn with<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        call: impl FnOnce(&File) -> Result<T, Error> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let file = self.file.clone();
        let work = move || call(&*file.get()?);
        match self.writable {
            true => run_on(self.file.writes(), later, work),
            false => run(later, work),
        }
    }

    /// Changes the content, and with it the time of modification.
    fn change(
        &self,
        later: bool,
        change: impl FnOnce(&File) -> Result<(), Error> + Send + 'static,
    ) -> napi::Result<Outcome<()>> {
        let dated = Arc::clone(&self.dated);
        self.with(later, move |file| {
            change(file)?;
            if dated.swap(false, Ordering::SeqCst) {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                let nanos = since.map_or(0, |since| since.as_nanos() as i64);
                file.set_attrs(&SetAttrs {
                    mtime: Some(Timestamp(nanos)),
                    ..SetAttrs::default()
                })?;
            }
            Ok(())
        })
    }
}

#[napi]
impl OpenFile {
    #[napi]
    pub fn path(&self) -> napi::Result<String> {
        now(|| Ok(self.file.get()?.path().as_str().to_owned()))
    }

    /// The position in bytes.
    #[napi]
    pub fn position(&self) -> napi::Result<f64> {
        now(|| Ok(self.file.get()?.position() as f64))
    }

    /// Moves the position.
    #[napi]
    pub fn seek(&self, position: f64) -> napi::Result<()> {
        now(|| {
            self.file.get()?.set_position(length(position)?);
            Ok(())
        })
    }

    #[napi]
    pub fn entry(&self, later: bool) -> napi::Result<Outcome<EntryInfo>> {
        self.with(later, move |file| Ok(EntryInfo::from(&file.stat())))
    }

    #[napi]
    pub fn stat(&self, later: bool) -> napi::Result<Outcome<StatNumbers>> {
        self.with(later, move |file| Ok(stat_numbers(&file.stat())))
    }

    /// Fills a buffer from an offset, or from the position. Returns how many bytes it read.
    #[napi]
    pub fn read(
        &self,
        buffer: Uint8Array,
        offset: Option<f64>,
        later: bool,
    ) -> napi::Result<Outcome<Filled>> {
        self.with(later, move |file| {
            let offset = offset.map(length).transpose()?;
            Filled::read(buffer, later, |bytes| match offset {
                Some(offset) => file.read_at(offset, bytes),
                None => file.read(bytes),
            })
        })
    }

    /// Writes all bytes at an offset, or at the position.
    #[napi]
    pub fn write(
        &self,
        data: Uint8Array,
        offset: Option<f64>,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        let data = Given::new(data, later);
        self.change(later, move |file| match offset {
            Some(offset) => file.write_at(length(offset)?, &data),
            None => file.write(&data),
        })
    }

    #[napi]
    pub fn truncate(&self, size: f64, later: bool) -> napi::Result<Outcome<()>> {
        self.change(later, move |file| file.set_size(length(size)?))
    }

    #[napi]
    pub fn sync(&self, later: bool) -> napi::Result<Outcome<()>> {
        self.with(later, move |file| file.sync())
    }

    #[napi]
    pub fn set_attributes(&self, attributes: Attributes, later: bool) -> napi::Result<Outcome<()>> {
        let dated = Arc::clone(&self.dated);
        self.with(later, move |file| {
            let set = attributes.set()?;
            file.set_attrs(&set)?;
            dated.fetch_or(set.mtime.is_some(), Ordering::SeqCst);
            Ok(())
        })
    }

    /// Commits what was written.
    #[napi]
    pub fn close(&self, later: bool) -> napi::Result<Outcome<()>> {
        self.with(later, |file| file.close().map(drop))
    }

    /// Commits what was written, and tells what that was.
    #[napi]
    pub fn commit(&self, later: bool) -> napi::Result<Outcome<Option<ClosedInfo>>> {
        self.with(later, |file| Ok(file.close()?.map(ClosedInfo::from)))
    }

    /// Throws away what was written.
    #[napi]
    pub fn abort(&self, later: bool) -> napi::Result<Outcome<()>> {
        self.with(later, move |file| file.abort())
    }
}
