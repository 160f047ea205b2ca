//! Streaming reads.

use std::io::{self, Read, Seek, SeekFrom};

use alknet_fs_content::ContentReader;
use alknet_fs_core::{Hash, Result};

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
}

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
