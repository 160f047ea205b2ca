//! Readers of one version of a file.

use alknet_fs::Reader;
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;

use crate::bytes::{Filled, room};
use crate::convert::{Bytes, length};
use crate::handle::Handle;
use crate::job::{Outcome, now, run};

/// One version of a file, open for reading.
#[napi]
pub struct ReaderHandle {
    reader: Handle<Reader>,
}

impl From<Handle<Reader>> for ReaderHandle {
    fn from(reader: Handle<Reader>) -> Self {
        Self { reader }
    }
}

#[napi]
impl ReaderHandle {
    #[napi]
    pub fn size(&self) -> napi::Result<f64> {
        now(|| Ok(self.reader.get()?.size() as f64))
    }

    #[napi]
    pub fn hash(&self) -> napi::Result<String> {
        now(|| Ok(self.reader.get()?.hash().to_hex()))
    }

    /// How the store keeps the content.
    #[napi]
    pub fn form(&self) -> napi::Result<&'static str> {
        now(|| Ok(self.reader.get()?.form().name()))
    }

    /// Reads up to so many bytes from an offset.
    #[napi]
    pub fn read(&self, offset: f64, len: f64, later: bool) -> napi::Result<Outcome<Bytes>> {
        let reader = self.reader.clone();
        run(later, move || {
            let reader = reader.get()?;
            let offset = length(offset)?;
            let len = length(len)?.min(reader.size().saturating_sub(offset));
            let mut buffer = room(len)?;
            let n = reader.read_at(offset, &mut buffer)?;
            buffer.truncate(n);
            Ok(Bytes(buffer))
        })
    }

    /// Fills a buffer from an offset. Returns how many bytes it read.
    #[napi]
    pub fn read_into(
        &self,
        buffer: Uint8Array,
        offset: f64,
        later: bool,
    ) -> napi::Result<Outcome<Filled>> {
        let reader = self.reader.clone();
        run(later, move || {
            let (reader, offset) = (reader.get()?, length(offset)?);
            Filled::read(buffer, later, |bytes| reader.read_at(offset, bytes))
        })
    }

    #[napi]
    pub fn close(&self) -> napi::Result<()> {
        now(|| {
            self.reader.close();
            Ok(())
        })
    }
}
