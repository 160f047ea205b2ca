//! The files of a store: every call to the file system that the content store makes.
//!
//! [`DiskFiles`] makes them for real; [`SimFiles`](crate::SimFiles) keeps files in memory and
//! injects faults and power cuts.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// One of the two directories of a store that hold content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Area {
    /// Large contents, named by their hash: `blobs/`.
    Blobs,
    /// Unfinished writes: `staging/`.
    Staging,
}

impl Area {
    /// Returns the directory's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Staging => "staging",
        }
    }
}

/// A file found in an [`Area`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub len: u64,
    /// When it last changed, where the platform tells.
    pub modified: Option<SystemTime>,
}

/// An open file. Usable from several threads at once.
pub trait FileHandle: Debug + Send + Sync {
    /// Reads at an offset into `buf`; returns how many bytes, 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at an offset; returns how many bytes, which may be fewer than given.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts the file or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns the size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Waits until the bytes and the size are on the disk.
    fn sync_data(&self) -> io::Result<()>;
    /// Asks for a range to be written to the disk soon; a hint.
    fn start_writeback(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// Fills `buf` from an offset, as far as the file goes; returns how many bytes.
    fn read_full_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Writes all bytes at an offset.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    bytes = &bytes[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// The file system as the content store sees it: two flat directories.
pub trait Files: Debug + Send + Sync {
    /// Creates a file that did not exist, for reading and writing, and owns it: while the handle
    /// lives, [`is_owned`](Self::is_owned) is true in every process.
    fn create(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>>;
    /// Opens a file for reading.
    fn open(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>>;
    /// Opens a file for reading and writing, and owns it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where somebody else owns it.
    fn reopen(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>>;
    /// Tells whether an open handle, of this process or another, owns the file.
    fn is_owned(&self, area: Area, name: &str) -> io::Result<bool>;
    /// Removes a file unless somebody owns it; returns whether it did. Nobody comes to own it
    /// meanwhile.
    fn remove_unowned(&self, area: Area, name: &str) -> io::Result<bool>;
    /// Moves a file from staging to blobs, over one of that name.
    fn publish(&self, staged: &str, blob: &str) -> io::Result<()>;
    /// Gives a staged file a second name in staging.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where the file system has no hard links.
    fn link(&self, staged: &str, second: &str) -> io::Result<()>;
    /// Gives a staged file the name of another, which is replaced if it exists.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, area: Area, name: &str) -> io::Result<()>;
    /// Returns all files of a directory, in no order.
    fn list(&self, area: Area) -> io::Result<Vec<Listed>>;
    /// Waits until the names in a directory are on the disk.
    fn sync_dir(&self, area: Area) -> io::Result<()>;
    /// Returns a number that changes when the machine starts anew, after a power cut for example;
    /// always 0 where the platform has none.
    fn boot(&self) -> u64;
}

/// The files below a store's directory.
#[derive(Debug, Clone)]
pub struct DiskFiles {
    root: PathBuf,
}

impl DiskFiles {
    /// Opens the `blobs/` and `staging/` directories of a store, and makes those that do not
    /// exist, private to their owner.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn open(store: impl Into<PathBuf>) -> io::Result<Self> {
        let files = Self { root: store.into() };
        let mut made = false;
        for area in [Area::Blobs, Area::Staging] {
            let dir = files.root.join(area.name());
            if !dir.is_dir() {
                make_private_dir(&dir)?;
                made = true;
            }
        }
        if made {
            sync_dir(&files.root)?;
        }
        Ok(files)
    }

    fn path(&self, area: Area, name: &str) -> PathBuf {
        self.root.join(area.name()).join(name)
    }
}

fn make_private_dir(dir: &Path) -> io::Result<()> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "a mode is set on Unix only"))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        result => result?,
    }
    // The umask may have taken bits away.
    #[cfg(unix)]
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// Opening a directory works on Unix only; elsewhere the file system's own journal keeps names.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Makes a file that only its owner can use, whatever the umask.
fn create_private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

/// Takes the advisory lock that marks a file as owned; a platform without locks has no owners.
fn own(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(fs::TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(fs::TryLockError::Error(e)) => Err(e),
    }
}

/// Tells whether an open file still has a name, where the platform can tell.
fn has_name(file: &File) -> io::Result<bool> {
    let meta = file.metadata()?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::nlink(&meta) > 0);
    #[cfg(not(unix))]
    return Ok(meta.is_file());
}

impl Files for DiskFiles {
    fn create(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let path = self.path(area, name);
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        loop {
            let file = create_private(&mut options, &path)?;
            // Whoever looks for files without an owner may have it for a moment, and remove it.
            if let Err(error) = file.lock()
                && error.kind() != io::ErrorKind::Unsupported
            {
                let _ = fs::remove_file(path);
                return Err(error);
            }
            if has_name(&file)? {
                return Ok(Arc::new(DiskFile(file)));
            }
        }
    }

    fn open(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        Ok(Arc::new(DiskFile(File::open(self.path(area, name))?)))
    }

    fn reopen(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let path = self.path(area, name);
        let file = File::options().read(true).write(true).open(path)?;
        own(&file)?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn is_owned(&self, area: Area, name: &str) -> io::Result<bool> {
        match own(&File::open(self.path(area, name))?) {
            Ok(()) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn remove_unowned(&self, area: Area, name: &str) -> io::Result<bool> {
        let path = self.path(area, name);
        let file = File::open(&path)?;
        match own(&file) {
            Ok(()) => fs::remove_file(&path).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn publish(&self, staged: &str, blob: &str) -> io::Result<()> {
        fs::rename(
            self.path(Area::Staging, staged),
            self.path(Area::Blobs, blob),
        )
    }

    fn link(&self, staged: &str, second: &str) -> io::Result<()> {
        let (from, to) = (
            self.path(Area::Staging, staged),
            self.path(Area::Staging, second),
        );
        fs::hard_link(from, to).map_err(|e| match e.kind() {
            // How Linux says that a file system has no hard links.
            io::ErrorKind::PermissionDenied => io::ErrorKind::Unsupported.into(),
            _ => e,
        })
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(Area::Staging, from), self.path(Area::Staging, to))
    }

    fn remove(&self, area: Area, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(area, name))
    }

    fn list(&self, area: Area) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(self.root.join(area.name()))? {
            let entry = entry?;
            // A file that another process has just removed, or a name that is not this store's.
            let (Ok(meta), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else {
                continue;
            };
            if meta.is_file() {
                listed.push(Listed {
                    name,
                    len: meta.len(),
                    modified: meta.modified().ok(),
                });
            }
        }
        Ok(listed)
    }

    fn sync_dir(&self, area: Area) -> io::Result<()> {
        sync_dir(&self.root.join(area.name()))
    }

    fn boot(&self) -> u64 {
        static BOOT: OnceLock<u64> = OnceLock::new();
        *BOOT.get_or_init(|| {
            let id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let hash = *blake3::hash(&id).as_bytes();
            match (id.is_empty(), hash.first_chunk()) {
                (false, Some(first)) => u64::from_le_bytes(*first),
                _ => 0,
            }
        })
    }
}

#[derive(Debug)]
struct DiskFile(File);

impl FileHandle for DiskFile {
    #[cfg(unix)]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buf, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.0, buf, offset)
    }

    #[cfg(not(any(unix, windows)))]
    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(&self.0, bytes, offset)
    }

    #[cfg(not(any(unix, windows)))]
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn start_writeback(&self, offset: u64, len: u64) {
        use rustix::fs::{Advice, fadvise};
        // Linux starts the write of dirty pages here and keeps them; a failed hint costs nothing.
        let _ = fadvise(
            &self.0,
            offset,
            std::num::NonZeroU64::new(len),
            Advice::DontNeed,
        );
    }
}
