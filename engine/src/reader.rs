//! Streaming reads.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use alknet_fs_content::ContentReader;
use alknet_fs_core::store::ContentForm;
use alknet_fs_core::{Error, ErrorKind, Hash, Result};

use crate::branch::Branch;
use crate::progress::{Progress, Task};
use crate::store::IntoPath;
use crate::view::View;

/// Reads one version of a file, from any offset.
///
/// The version is fixed when the reader is opened: later writes, deletions and garbage collection
/// do not affect it. Bytes come as they are stored; to have them checked against the hash, use
/// [`View::verify`](crate::View::verify).
#[derive(Debug)]
pub struct Reader {
    content: ContentReader,
    position: u64,
}

impl Reader {
    pub(crate) fn new(content: ContentReader) -> Self {
        Self {
            content,
            position: 0,
        }
    }

    /// Returns the file's size in bytes.
    pub fn size(&self) -> u64 {
        self.content.size()
    }

    /// Returns the content's hash.
    pub fn hash(&self) -> Hash {
        self.content.hash()
    }

    /// Reads at an offset, not moving the reader's position. Returns the number of bytes read,
    /// which is less than the buffer's length only at the end of the file.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.content.read_at(offset, buffer)
    }

    /// Reads the whole file, as [`View::read`](crate::View::read) does. The caller may have looked
    /// at its [`size`](Self::size) before.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the content is damaged.
    ///
    /// ```
    /// # fn main() -> alknet_fs::Result<()> {
    /// # let main = alknet_fs::Store::memory()?.bucket("default")?.main()?;
    /// main.write("/a", "data")?;
    /// assert_eq!(main.open("/a")?.into_bytes()?, b"data");
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        self.content.into_bytes()
    }

    /// Returns how the store keeps the content.
    pub fn form(&self) -> ContentForm {
        self.content.form()
    }

    /// Copies a range of bytes, cut at the end of the file, to a writer. Returns how many.
    ///
    /// # Errors
    /// Those of reading and of the writer; [`ErrorKind::Cancelled`].
    pub fn copy_range(
        &self,
        range: Range<u64>,
        writer: &mut dyn Write,
        task: &Task,
    ) -> Result<u64> {
        self.copy_blocks(range, task, &mut |block| Ok(writer.write_all(block)?))
    }

    /// Copies the whole file to a writer, and checks what was copied against the hash.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the bytes are not those of the hash: what the writer got is of
    /// no use then. As [`copy_range`](Self::copy_range).
    pub fn copy_verified(&self, writer: &mut dyn Write, task: &Task) -> Result<u64> {
        let mut hasher = blake3::Hasher::new();
        let copied = self.copy_blocks(0..self.size(), task, &mut |block| {
            hasher.update(block);
            Ok(writer.write_all(block)?)
        })?;
        let (want, found) = (self.hash(), Hash::from(hasher.finalize()));
        if want != found {
            let detail = format!("content {want}: the stored bytes have the hash {found}");
            return Err(Error::with_detail(ErrorKind::Corrupt, detail));
        }
        Ok(copied)
    }

    fn copy_blocks(
        &self,
        range: Range<u64>,
        task: &Task,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<u64> {
        let end = range.end.min(self.size());
        let total_bytes = end.saturating_sub(range.start);
        let mut block = vec![0; total_bytes.min(COPY_BLOCK as u64) as usize];
        let mut at = range.start;
        while at < end {
            let len = (end - at).min(block.len() as u64) as usize;
            let n = self.read_at(at, &mut block[..len])?;
            if n == 0 {
                let detail = "the content ends before its size";
                return Err(Error::with_detail(ErrorKind::Corrupt, detail).path(self.hash()));
            }
            write(&block[..n])?;
            at += n as u64;
            task.step(Progress {
                bytes: at - range.start,
                total_bytes,
                ..Progress::default()
            })?;
        }
        Ok(total_bytes)
    }
}

impl View {
    /// Opens a file that is read whole into memory of the caller's own, where
    /// [`read`](Self::read) would make some.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn reader(&self, path: impl IntoPath) -> Result<Reader> {
        let path = path.into_path().map_err(|e| e.op("read"))?;
        let opened = self.open_entry(&path).map(|(_, _, reader)| reader);
        opened.map_err(|e| e.op("read").path(path))
    }
}

impl Branch {
    /// As [`View::reader`], now.
    ///
    /// ```
    /// # fn main() -> alknet_fs::Result<()> {
    /// # let main = alknet_fs::Store::memory()?.bucket("default")?.main()?;
    /// main.write("/a", "data")?;
    /// let reader = main.reader("/a")?;
    /// let mut memory = vec![0; reader.size() as usize];
    /// assert_eq!(reader.read_at(0, &mut memory)?, 4);
    /// assert_eq!(memory, b"data");
    /// assert_eq!(main.reader("/b").unwrap_err().operation(), Some("read"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reader(&self, path: impl IntoPath) -> Result<Reader> {
        let path = path.into_path().map_err(|e| e.op("read"))?;
        let opened = self.open_entry(&path).map(|(_, _, reader)| reader);
        opened.map_err(|e| e.op("read").path(path))
    }
}

/// Bytes that streams are copied by.
pub(crate) const COPY_BLOCK: usize = 1 << 20;

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read_at(self.position, buffer)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.content.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek to before the first byte")
        })?;
        Ok(self.position)
    }
}
