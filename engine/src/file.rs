//! Open files: what a descriptor is to an operating system.
//!
//! A [`File`] is a reader, or a write session with a position and the rules of `O_APPEND` on top.
//! Every binding and server builds its own kind of file object on it.

use std::sync::atomic::{AtomicU64, Ordering};

use alknet_fs_core::edit::SetAttrs;
use alknet_fs_core::tree::Follow;
use alknet_fs_core::{Attrs, Entry, Error, ErrorKind, Hash, Node, Result, TreePath};
use parking_lot::Mutex;

use crate::branch::Branch;
use crate::reader::Reader;
use crate::session::{Closed, OpenOptions, Session};
use crate::store::IntoPath;
use crate::view::View;

/// How to open a [`File`]: the flags of `open(2)`.
///
/// Nothing is set by default; a file opened with neither [`read`](Self::read) nor
/// [`write`](Self::write) nor [`append`](Self::append) is refused.
#[derive(Debug, Clone)]
pub struct FileOptions {
    read: bool,
    write: bool,
    append: bool,
    session: OpenOptions,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            read: false,
            write: false,
            append: false,
            session: OpenOptions::new().create(false),
        }
    }
}

impl FileOptions {
    /// Creates options with nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether the file can be read.
    #[must_use]
    pub fn read(mut self, read: bool) -> Self {
        self.read = read;
        self
    }

    /// Sets whether the file can be written. What is written shows in the branch after
    /// [`File::close`].
    #[must_use]
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// Sets whether every write goes to the end of the file, as `O_APPEND`; implies
    /// [`write`](Self::write).
    #[must_use]
    pub fn append(mut self, append: bool) -> Self {
        self.append = append;
        self
    }

    /// Sets whether a missing file is created, as `O_CREAT`; a file that can be written only.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.session = self.session.create(create);
        self
    }

    /// Sets whether the file must not exist, as `O_CREAT | O_EXCL`.
    #[must_use]
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.session = self.session.create_new(create_new);
        self
    }

    /// Sets whether the file is emptied, as `O_TRUNC`; a file that can be written only.
    #[must_use]
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.session = self.session.truncate(truncate);
        self
    }

    /// Sets whether to take the path's exclusive lock; see [`OpenOptions::exclusive`].
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.session = self.session.exclusive(exclusive);
        self
    }

    /// Names the owner of the write session.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.session = self.session.owner(owner);
        self
    }

    /// Sets the permission bits of a file that is created; `0o644` otherwise.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.session = self.session.mode(mode);
        self
    }

    fn writes(&self) -> bool {
        self.write || self.append
    }
}

/// An open file with a position.
///
/// One opened for writing is a [`Session`]: readers of the branch see the old version until it is
/// closed, and one that is dropped without [`close`](Self::close) changes nothing.
#[derive(Debug)]
pub struct File {
    /// Nothing for a file of a view, which cannot change.
    branch: Option<Branch>,
    path: TreePath,
    read: bool,
    append: bool,
    access: Access,
    /// What was there when the file was opened, or will be there if it is new.
    entry: Entry,
    state: Mutex<State>,
    /// Moved by reads and writes while they have the state, and by others at any time.
    position: AtomicU64,
}

#[derive(Debug)]
enum Access {
    Read(Reader),
    Write(Box<Session>),
}

#[derive(Debug, Default)]
struct State {
    /// The attributes to set when a file that is being written closes.
    set: SetAttrs,
    /// The size that the file had when it was closed.
    closed: Option<u64>,
}

impl File {
    pub(crate) fn open(branch: &Branch, path: TreePath, options: &FileOptions) -> Result<Self> {
        let (access, path, entry) = if options.writes() {
            let session = branch.open_session(&path, &options.session)?;
            let path = session.path();
            let entry = match branch.stat(&path) {
                Ok(entry) => entry,
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    branch.new_file(options.session.new_mode())
                }
                Err(e) => return Err(e),
            };
            (Access::Write(Box::new(session)), path, entry)
        } else if options.read {
            let (path, entry, reader) = branch.open_entry(&path)?;
            (Access::Read(reader), path, entry)
        } else {
            let detail = "a file is opened for reading, writing or both";
            return Err(Error::with_detail(ErrorKind::InvalidInput, detail));
        };
        Ok(Self {
            branch: Some(branch.clone()),
            path,
            read: options.read,
            append: options.append,
            access,
            entry,
            state: Mutex::default(),
            position: AtomicU64::new(0),
        })
    }

    fn of_view(view: &View, path: &TreePath) -> Result<Self> {
        let (path, entry, reader) = view.open_entry(path)?;
        Ok(Self {
            branch: None,
            path,
            read: true,
            append: false,
            access: Access::Read(reader),
            entry,
            state: Mutex::default(),
            position: AtomicU64::new(0),
        })
    }

    /// Returns the path of the file, links resolved.
    pub fn path(&self) -> &TreePath {
        &self.path
    }

    /// Tells whether the file can be read.
    pub fn readable(&self) -> bool {
        self.read
    }

    /// Tells whether the file can be written.
    pub fn writable(&self) -> bool {
        matches!(self.access, Access::Write(_))
    }

    /// Returns the write session below a file that can be written.
    pub fn session(&self) -> Option<&Session> {
        match &self.access {
            Access::Write(session) => Some(session),
            Access::Read(_) => None,
        }
    }

    /// Returns the file's size in bytes, what was written to it included; of a closed file, what it
    /// was then.
    pub fn size(&self) -> u64 {
        self.state.lock().closed.unwrap_or_else(|| self.open_size())
    }

    fn open_size(&self) -> u64 {
        match &self.access {
            Access::Read(reader) => reader.size(),
            Access::Write(session) => session.size(),
        }
    }

    /// Returns what is known of the file: as it was when it was opened, with the size it has now
    /// and the attributes set since. The hash of a file that can be written is that of the version
    /// it started from.
    pub fn stat(&self) -> Entry {
        let mut entry = self.entry.clone();
        if let Node::File { size, .. } = &mut entry.node {
            *size = self.size();
        }
        let SetAttrs {
            mode,
            uid,
            gid,
            mtime,
        } = self.state.lock().set;
        let Attrs {
            mode: m,
            uid: u,
            gid: g,
            mtime: t,
            ..
        } = &mut entry.attrs;
        *m = mode.unwrap_or(*m);
        *u = uid.unwrap_or(*u);
        *g = gid.unwrap_or(*g);
        *t = mtime.unwrap_or(*t);
        entry
    }

    /// Changes attributes: at once, or with the close of a file that can be written.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a mode beyond `0o7777`; as [`Branch::set_attrs`].
    pub fn set_attrs(&self, set: &SetAttrs) -> Result<()> {
        match &self.access {
            Access::Read(_) => match &self.branch {
                Some(branch) => branch.set_attrs(&self.path, set, Follow::Yes),
                None => Err(self.named(Error::new(ErrorKind::ReadOnly), "set attributes")),
            },
            Access::Write(_) => {
                set.check().map_err(|e| self.named(e, "set attributes"))?;
                let pending = &mut self.state.lock().set;
                pending.mode = set.mode.or(pending.mode);
                pending.uid = set.uid.or(pending.uid);
                pending.gid = set.gid.or(pending.gid);
                pending.mtime = set.mtime.or(pending.mtime);
                Ok(())
            }
        }
    }

    /// Reads at an offset, not moving the position. Returns the number of bytes read, which is
    /// less than the buffer's length only at the end of the file.
    ///
    /// # Errors
    /// [`ErrorKind::BadHandle`] where the file is closed or was not opened for reading.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.check_open(&self.state.lock(), "read")?;
        self.read_open(offset, buffer)
    }

    fn read_open(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if !self.read {
            return Err(self.bad("read", "the file was not opened for reading"));
        }
        let read = match &self.access {
            Access::Read(reader) => reader.read_at(offset, buffer),
            Access::Write(session) => session.read_at(offset, buffer),
        };
        read.map_err(|e| self.named(e, "read"))
    }

    /// Writes all bytes at an offset, or at the end of a file opened for appending, not moving the
    /// position.
    ///
    /// # Errors
    /// [`ErrorKind::BadHandle`] where the file is closed or was not opened for writing; as
    /// [`Session::write_at`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let session = self.to_write(&self.state.lock(), "write")?;
        match self.append {
            true => session.append(bytes).map(drop),
            false => session.write_at(offset, bytes),
        }
    }

    /// Reads at the position and moves it by what was read, as one step.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let state = self.state.lock();
        self.check_open(&state, "read")?;
        let start = self.position();
        let n = self.read_open(start, buffer)?;
        self.advance(start, start + n as u64);
        Ok(n)
    }

    /// Writes all bytes at the position, or at the end of a file opened for appending, and moves
    /// the position behind them, as one step.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let state = self.state.lock();
        let session = self.to_write(&state, "write")?;
        let start = self.position();
        let at = match self.append {
            true => session.append(bytes)?,
            false => session.write_at(start, bytes).map(|()| start)?,
        };
        self.advance(start, at + bytes.len() as u64);
        Ok(())
    }

    /// Moves the position on, unless somebody has moved it meanwhile.
    fn advance(&self, from: u64, to: u64) {
        let order = Ordering::SeqCst;
        let _ = self.position.compare_exchange(from, to, order, order);
    }

    /// Returns the position in bytes, not waiting for an operation that is at work.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::SeqCst)
    }

    /// Moves the position; it may lie beyond the end of the file. A read or a write that is at work
    /// does not move it any more.
    pub fn set_position(&self, position: u64) {
        self.position.store(position, Ordering::SeqCst);
    }

    /// Cuts the file, or extends it with zeros. The position stays.
    ///
    /// # Errors
    /// As [`Session::truncate`]; [`ErrorKind::BadHandle`] where the file was not opened for writing.
    pub fn set_size(&self, size: u64) -> Result<()> {
        let session = self.to_write(&self.state.lock(), "truncate")?;
        session.truncate(size)
    }

    /// Makes what was written so far survive a power cut, without committing it.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn sync(&self) -> Result<()> {
        self.check_open(&self.state.lock(), "sync")?;
        match &self.access {
            Access::Read(_) => Ok(()),
            Access::Write(session) => session.sync(),
        }
    }

    /// Closes the file. What was written is committed, in one transaction with the attributes that
    /// were set; returns what was, nothing for a file that was only read. Closing again does nothing.
    ///
    /// # Errors
    /// As [`Session::close`]: then the file stays open with all that was written.
    pub fn close(&self) -> Result<Option<Closed>> {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return Ok(None);
        }
        let size = self.open_size();
        let closed = match &self.access {
            Access::Read(_) => None,
            Access::Write(session) => Some(session.close_with(&state.set)?),
        };
        state.closed = Some(size);
        Ok(closed)
    }

    /// Closes the file and throws away all that was written.
    pub fn abort(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return Ok(());
        }
        state.closed = Some(self.open_size());
        match &self.access {
            Access::Read(_) => Ok(()),
            Access::Write(session) => session.abort(),
        }
    }

    fn to_write(&self, state: &State, op: &'static str) -> Result<&Session> {
        self.check_open(state, op)?;
        self.session()
            .ok_or_else(|| self.bad(op, "the file was not opened for writing"))
    }

    fn check_open(&self, state: &State, op: &'static str) -> Result<()> {
        match state.closed {
            Some(_) => Err(self.bad(op, "the file is closed")),
            None => Ok(()),
        }
    }

    fn bad(&self, op: &'static str, detail: &str) -> Error {
        self.named(Error::with_detail(ErrorKind::BadHandle, detail), op)
    }

    fn named(&self, error: Error, op: &'static str) -> Error {
        error.op(op).path(&self.path)
    }
}

impl View {
    /// Opens a file with a position for reading; a link at the end of the path is followed.
    ///
    /// # Errors
    /// As [`View::open`].
    pub fn open_file(&self, path: impl IntoPath) -> Result<File> {
        let path = path.into_path().map_err(|e| e.op("open"))?;
        File::of_view(self, &path).map_err(|e| e.op("open").path(path))
    }
}

impl Branch {
    /// Opens a file with a position, as `open(2)` does; a link at the end of the path is followed.
    ///
    /// # Errors
    /// As the [`FileOptions`] say; [`ErrorKind::IsADirectory`].
    pub fn open_file(&self, path: impl IntoPath, options: &FileOptions) -> Result<File> {
        let path = path.into_path().map_err(|e| e.op("open"))?;
        File::open(self, path.clone(), options).map_err(|e| e.op("open").path(path))
    }

    /// Cuts a file, or extends it with zeros, in one commit.
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file), [`File::set_size`] and [`File::close`].
    pub fn truncate(&self, path: impl IntoPath, size: u64) -> Result<()> {
        let file = self.open_file(path, &FileOptions::new().write(true))?;
        file.set_size(size)?;
        file.close().map(drop)
    }

    /// What [`File::stat`] tells of a file that does not exist yet.
    fn new_file(&self, mode: u32) -> Entry {
        let context = self.inner.context();
        Entry {
            node: Node::File {
                hash: Hash::EMPTY,
                size: 0,
            },
            attrs: Attrs {
                mode,
                uid: context.uid,
                gid: context.gid,
                mtime: context.now,
                ctime: context.now,
            },
        }
    }
}
