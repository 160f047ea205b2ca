//! Write sessions: branch on write, merge on close.
//!
//! A session stages what is written and commits it on [`Session::close`], in one transaction with
//! its event. Small sessions stage in the database; once [`SPILL_LEN`] bytes are staged they move to
//! a file. Every write that was acknowledged survives a crash of the process: the session can be
//! listed, resumed or aborted by any process afterwards.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use alknet_fs_content::{Area, ContentReader, Files, Staged, StagingFile, is_gone};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{PutMode, SetAttrs};
use alknet_fs_core::session::{AssemblyPlan, ExtentMap, Segment, Source, checked_end};
use alknet_fs_core::store::{
    BranchId, Durability, LockOutcome, ReadTxn, SessionId, SessionOp, SessionRecord, Staging,
};
use alknet_fs_core::tree::{Follow, resolve_target};
use alknet_fs_core::{Entry, Error, ErrorKind, Hash, Result, Timestamp, TreePath};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::branch::Branch;
use crate::content::{Fetching, Named};
use crate::progress::{Progress, Task};
use crate::reader::COPY_BLOCK;
use crate::store::{Inner, Store, locked, now};

/// Staged bytes from which on a session stages in a file instead of the database.
pub(crate) const SPILL_LEN: usize = 256 * 1024;

/// How long an exclusive lock outlives a process that stops renewing it.
const LOCK_SECONDS: u32 = 30;

/// How often a close is tried while garbage collection removes what it was prepared from.
const CLOSE_ATTEMPTS: u32 = 5;

/// How often exclusive locks are renewed.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// How to open a file for writing.
///
/// The default writes to an existing file in place, and creates one that is missing.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    create: bool,
    create_new: bool,
    truncate: bool,
    exclusive: bool,
    owner: Option<String>,
    mode: Option<u32>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            create: true,
            create_new: false,
            truncate: false,
            exclusive: false,
            owner: None,
            mode: None,
        }
    }
}

impl OpenOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether a missing file is created, as `O_CREAT`; otherwise opening it fails with
    /// [`ErrorKind::NotFound`].
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets whether the file must not exist, as `O_EXCL`, neither on open nor on close.
    #[must_use]
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// Sets whether the session starts from an empty file, as `O_TRUNC`.
    #[must_use]
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = truncate;
        self
    }

    /// Sets whether to take the path's exclusive lock: a second exclusive opener then fails with
    /// [`ErrorKind::Locked`], which names the owner. Without it, the last close wins.
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Names the session's owner; otherwise the store's author.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Sets the permission bits of a file that the session creates; `0o644` otherwise.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Returns the permission bits of a file that the session creates.
    pub(crate) fn new_mode(&self) -> u32 {
        self.mode.unwrap_or(0o644)
    }
}

/// What [`Store::sessions`] tells of an open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its number.
    pub id: SessionId,
    /// The bucket's name.
    pub bucket: String,
    /// The branch's name.
    pub branch: String,
    /// The path it will write.
    pub path: TreePath,
    /// Who opened it.
    pub owner: String,
    /// Whether it holds the path's exclusive lock.
    pub exclusive: bool,
    /// Where its bytes are staged.
    pub staging: Staging,
    /// How many bytes are staged; the length of the staging file where they are in one.
    pub staged: u64,
    /// The size of the version it started from, in bytes; nothing where it started from an empty
    /// file.
    pub base: Option<u64>,
    /// When it was opened.
    pub created: Timestamp,
    /// When it last wrote; approximate.
    pub touched: Timestamp,
    /// Whether a living process works on it. One that is not alive can be resumed or aborted.
    pub alive: bool,
}

/// What a closed session committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The path written, links resolved.
    pub path: TreePath,
    /// The content's hash.
    pub hash: Hash,
    /// The file's size in bytes.
    pub size: u64,
}

/// A file open for writing.
///
/// Readers of the branch see the old version until [`close`](Self::close) has committed the new
/// one. A session that is dropped without being closed is aborted; one whose process dies stays,
/// and can be resumed.
pub struct Session {
    inner: Arc<Inner>,
    /// How contents that are not here are waited for.
    fetching: Fetching,
    state: Mutex<State>,
}

struct State {
    record: SessionRecord,
    /// Whether closing without a single write still commits, because opening created or truncated.
    dirty: bool,
    /// Whether all that was written went to the end of what was there.
    appends: bool,
    /// Whether what is staged in the database was promised to survive a power cut.
    synced: bool,
    base: Option<ContentReader>,
    staged: StagedBytes,
    ended: bool,
}

/// A session, or what has to be here for it.
enum Here {
    Yes(Box<Session>),
    Not(Named),
}

enum StagedBytes {
    /// Bytes in order of arrival, as the database has them too.
    Rows {
        log: Vec<u8>,
        extents: ExtentMap,
    },
    File(StagingFile),
}

impl StagedBytes {
    fn extents(&self) -> &ExtentMap {
        match self {
            Self::Rows { extents, .. } => extents,
            Self::File(file) => file.extents(),
        }
    }
}

impl Session {
    pub(crate) fn open(branch: &Branch, path: &TreePath, options: &OpenOptions) -> Result<Self> {
        let set = SetAttrs {
            mode: options.mode,
            ..SetAttrs::default()
        };
        set.check()?;
        let fetching = branch.fetching.as_deref().cloned().unwrap_or_default();
        loop {
            match Self::open_here(branch, path, options, &fetching)? {
                Here::Yes(session) => return Ok(*session),
                Here::Not(base) => drop(branch.inner.fetched(&base, &fetching)?),
            }
        }
    }

    /// Opens a session, unless the content it starts from is not here.
    fn open_here(
        branch: &Branch,
        path: &TreePath,
        options: &OpenOptions,
        fetching: &Fetching,
    ) -> Result<Here> {
        let inner = Arc::clone(&branch.inner);
        let branch = branch.id;
        let holder = inner.keeper.holder()?;
        let mut txn = inner.tree.write(Durability::Relaxed)?;
        let chain = inner.chain(&*txn, branch)?;
        let follow = if options.create_new {
            Follow::No
        } else {
            Follow::Yes
        };
        let target = resolve_target(&*txn, &chain, path, follow)?;
        let fail = |kind| Err(Error::new(kind));
        let base = match &target.entry {
            Some(_) if options.create_new => return fail(ErrorKind::AlreadyExists),
            Some(entry) if entry.is_dir() => return fail(ErrorKind::IsADirectory),
            None if !options.create && !options.create_new => return fail(ErrorKind::NotFound),
            Some(entry) if !options.truncate => entry.hash().map(|hash| (hash, entry.size())),
            _ => None,
        };
        let time = now();
        let mut record = SessionRecord {
            id: SessionId(0),
            branch,
            path: target.path,
            owner: options
                .owner
                .clone()
                .unwrap_or_else(|| inner.options.author.clone()),
            holder,
            exclusive: options.exclusive,
            create_new: options.create_new,
            base,
            mode: options.new_mode(),
            created: time,
            touched: time,
            staging: Staging::Rows,
        };
        record.id = txn.add_session(&record)?;
        let name = lock_name(chain.bucket().0, &record);
        if options.exclusive
            && let LockOutcome::Held { owner } =
                txn.lock(&name, &lock_owner(&record), LOCK_SECONDS)?
        {
            return Err(inner.held_by(&*txn, &record, &owner));
        }
        let base = match base {
            Some((hash, size)) => match inner.contents.find(&*txn, &hash)? {
                Some(base) => Some(base),
                None => {
                    let bucket = chain.bucket();
                    return Ok(Here::Not(Named { bucket, hash, size }));
                }
            },
            None => None,
        };
        txn.commit()?;
        if options.exclusive {
            inner.keeper.hold(&inner, name, lock_owner(&record));
        }
        let base_len = record.base.map_or(0, |(_, len)| len);
        Ok(Here::Yes(Box::new(Self {
            inner,
            fetching: fetching.clone(),
            state: Mutex::new(State {
                dirty: base.is_none(),
                appends: !options.truncate && !options.create_new,
                synced: false,
                base,
                staged: StagedBytes::Rows {
                    log: Vec::new(),
                    extents: ExtentMap::new(base_len),
                },
                record,
                ended: false,
            }),
        })))
    }

    fn resume(inner: Arc<Inner>, id: SessionId) -> Result<Self> {
        let holder = inner.keeper.holder()?;
        let mut txn = inner.tree.write(Durability::Relaxed)?;
        let mut record = session_record(&*txn, id)?;
        if inner.keeper.is_alive(&record.holder) {
            let detail = format!("session {id} is in use by {}", record.owner);
            return Err(locked(detail));
        }
        record.holder = holder;
        txn.set_session(&record)?;
        let bucket = txn.branch(record.branch)?.map_or(0, |b| b.bucket.0);
        let name = lock_name(bucket, &record);
        if record.exclusive
            && let LockOutcome::Held { owner } =
                txn.lock(&name, &lock_owner(&record), LOCK_SECONDS)?
        {
            return Err(inner.held_by(&*txn, &record, &owner));
        }
        let base = match &record.base {
            Some((hash, _)) => Some(inner.contents.open(&*txn, hash)?),
            None => None,
        };
        let base_len = record.base.map_or(0, |(_, len)| len);
        let mut dirty = record.base.is_none() || record.staging == Staging::File;
        let staged = match record.staging {
            Staging::File => StagedBytes::File(StagingFile::resume(inner.files()?, id)?),
            Staging::Rows => {
                inner.remove_staging(id)?;
                let mut log = Vec::new();
                let mut extents = ExtentMap::new(base_len);
                for op in txn.session_ops(id)? {
                    dirty = true;
                    match op {
                        SessionOp::Write { offset, data } => {
                            extents.write(offset, data.len() as u64, log.len() as u64)?;
                            log.extend_from_slice(&data);
                        }
                        SessionOp::Truncate { size } => extents.truncate(size)?,
                    }
                }
                StagedBytes::Rows { log, extents }
            }
        };
        txn.commit()?;
        if record.exclusive {
            inner.keeper.hold(&inner, name, lock_owner(&record));
        }
        Ok(Self {
            inner,
            fetching: Fetching::new(),
            state: Mutex::new(State {
                dirty,
                appends: false,
                synced: true,
                base,
                staged,
                record,
                ended: false,
            }),
        })
    }

    /// Returns the session's number, by which it can be found after a crash.
    pub fn id(&self) -> SessionId {
        self.state.lock().record.id
    }

    /// Returns the path the session will write, links resolved.
    pub fn path(&self) -> TreePath {
        self.state.lock().record.path.clone()
    }

    /// Returns the size the file has in this session, in bytes.
    pub fn size(&self) -> u64 {
        self.state.lock().staged.extents().size()
    }

    /// Writes bytes at an offset. A gap before it reads as zeros; where writes overlap, the later
    /// one wins. When this returns, the bytes survive a crash of the process.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`]; then the session stays as it was. After [`ErrorKind::NoSpace`] and
    /// others of the operating system, the bytes of that range are undefined, as POSIX has it.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.state()?;
        state.appends = false;
        self.write_locked(&mut state, offset, bytes)
            .map_err(|e| e.op("write").path(&state.record.path))
    }

    /// Writes bytes at the end of the file as it is in this session; returns the offset.
    ///
    /// What a session only appended to a file goes to the end of what is there when it closes:
    /// nobody's appended bytes are lost, whoever else appends or writes meanwhile.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn append(&self, bytes: &[u8]) -> Result<u64> {
        let mut state = self.state()?;
        let offset = state.staged.extents().size();
        self.write_locked(&mut state, offset, bytes)
            .map_err(|e| e.op("write").path(&state.record.path))?;
        Ok(offset)
    }

    /// Writes all that a reader gives at the end of the file as it is in this session; returns how
    /// many bytes. Memory use does not depend on the length.
    ///
    /// # Errors
    /// Those of the reader; [`ErrorKind::Cancelled`]; as [`write_at`](Self::write_at). What was
    /// written before the error stays in the session.
    pub fn append_from(&self, reader: &mut dyn Read, task: &Task) -> Result<u64> {
        let mut block = Vec::new();
        let mut bytes = 0;
        loop {
            block.clear();
            // A pipe gives little at a time; a session works best by large blocks.
            let n = Read::take(&mut *reader, COPY_BLOCK as u64).read_to_end(&mut block)?;
            if n == 0 {
                return Ok(bytes);
            }
            self.append(&block)?;
            bytes += n as u64;
            task.step(Progress {
                bytes,
                ..Progress::default()
            })?;
        }
    }

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`].
    pub fn truncate(&self, size: u64) -> Result<()> {
        let mut state = self.state()?;
        state.appends = false;
        let State { record, staged, .. } = &mut *state;
        let mut cut = || {
            checked_end(size, 0)?;
            self.inner.contents.check_size(size)?;
            match staged {
                StagedBytes::File(file) => file.truncate(size),
                StagedBytes::Rows { extents, .. } => {
                    self.inner.stage(record, &SessionOp::Truncate { size })?;
                    extents.truncate(size)
                }
            }
        };
        let cut = cut();
        cut.map_err(|e| e.op("truncate").path(&record.path))?;
        state.dirty = true;
        Ok(())
    }

    /// Reads at an offset, what this session wrote included. Returns the number of bytes read,
    /// which is less than the buffer's length only at the end of the file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the base content is damaged.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let state = self.state()?;
        let mut done = 0;
        let len = buffer.len() as u64;
        for Segment { len, source, .. } in state.staged.extents().range(offset, len) {
            let part = &mut buffer[done..done + len as usize];
            match (source, &state.staged, &state.base) {
                (Source::Zeros, ..) => part.fill(0),
                (Source::Staged(at), StagedBytes::Rows { log, .. }, _) => {
                    let at = at as usize;
                    part.copy_from_slice(&log[at..at + part.len()]);
                }
                (Source::Staged(at), StagedBytes::File(file), _) => {
                    file.read_at(at, part)?;
                }
                (Source::Base(at), _, Some(base)) => {
                    base.read_at(at, part)?;
                }
                (Source::Base(_), _, None) => {
                    let detail = "a session without a base refers to one";
                    return Err(Error::with_detail(ErrorKind::Corrupt, detail));
                }
            }
            done += part.len();
        }
        Ok(done)
    }

    /// Makes what was written so far survive a power cut too, without committing it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::NoSpace`].
    pub fn sync(&self) -> Result<()> {
        let mut state = self.state()?;
        let State { record, staged, .. } = &mut *state;
        if let StagedBytes::File(file) = staged {
            file.sync()?;
        }
        // A durable commit takes the relaxed ones before it along.
        let mut txn = self.inner.tree.write(Durability::Full)?;
        session_record(&*txn, record.id)?;
        record.touched = now();
        txn.set_session(record)?;
        txn.commit()?;
        state.synced = true;
        Ok(())
    }

    /// Commits the new version: content, entry and event in one transaction. When this returns, it
    /// is as durable as the store's [`Durability`] says.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the directory is gone; [`ErrorKind::AlreadyExists`] after
    /// [`OpenOptions::create_new`] where the path was taken meanwhile. The session then stays open,
    /// with all that was written, and close can be tried again.
    pub fn close(&self) -> Result<Closed> {
        self.close_with(&SetAttrs::default())
    }

    /// As [`close`](Self::close), and sets attributes of the file in the same commit.
    ///
    /// # Errors
    /// As [`close`](Self::close); [`ErrorKind::InvalidInput`] for a mode beyond `0o7777`.
    pub fn close_with(&self, set: &SetAttrs) -> Result<Closed> {
        let mut state = self.state()?;
        let span = tracing::debug_span!("close session", id = state.record.id.0);
        let _entered = span.enter();
        let mut attempts = 0;
        let closed = loop {
            let result = self.close_locked(&mut state, set);
            if let Ok(Some(closed)) = result {
                break closed;
            }
            if let StagedBytes::File(file) = &mut state.staged {
                file.reopen();
            }
            let Err(error) = result else {
                continue;
            };
            attempts += 1;
            if !is_gone(&error) || attempts == CLOSE_ATTEMPTS {
                return Err(error.op("close").path(&state.record.path));
            }
        };
        state.ended = true;
        self.inner.release(&state.record);
        // The commit made the staged bytes worthless; what cannot be removed is swept later.
        if let Err(error) = self.discard(&mut state) {
            tracing::debug!(%error, "staged bytes stay until the next collection");
        }
        Ok(closed)
    }

    /// Throws away all that was written. The branch is untouched.
    pub fn abort(&self) -> Result<()> {
        let mut state = self.state()?;
        state.ended = true;
        self.inner.release(&state.record);
        self.inner.remove_session(&state.record)?;
        self.discard(&mut state)
    }

    /// Leaves the session open in the store, for this or another process to resume by its number.
    /// After an error it is left as well, but may not survive a power cut.
    pub fn detach(self) -> Result<SessionId> {
        let synced = self.sync();
        let mut state = self.state()?;
        // Whatever fails from here on, dropping the handle must not abort the session.
        state.ended = true;
        self.inner.release(&state.record);
        // Nobody works on it now, so anybody may.
        state.record.holder.clear();
        let mut txn = self.inner.tree.write(Durability::Full)?;
        session_record(&*txn, state.record.id)?;
        txn.set_session(&state.record)?;
        txn.commit()?;
        synced?;
        Ok(state.record.id)
    }

    /// Removes the staged bytes of a session that has ended.
    fn discard(&self, state: &mut State) -> Result<()> {
        let nothing = StagedBytes::Rows {
            log: Vec::new(),
            extents: ExtentMap::default(),
        };
        match std::mem::replace(&mut state.staged, nothing) {
            StagedBytes::Rows { .. } => Ok(()),
            StagedBytes::File(file) => file.discard(),
        }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.ended {
            let detail = "the session is closed";
            return Err(Error::with_detail(ErrorKind::BadHandle, detail).path(&state.record.path));
        }
        Ok(state)
    }

    fn write_locked(&self, state: &mut State, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = checked_end(offset, bytes.len() as u64)?;
        self.inner.contents.check_size(end)?;
        if let StagedBytes::Rows { log, .. } = &state.staged
            && log.len() + bytes.len() > SPILL_LEN
            && self.inner.contents.files().is_some()
        {
            self.spill(state)?;
        }
        let State { record, staged, .. } = &mut *state;
        match staged {
            StagedBytes::File(file) => file.write_at(offset, bytes)?,
            StagedBytes::Rows { log, extents } => {
                let len = bytes.len() as u64;
                let op = SessionOp::Write {
                    offset,
                    data: bytes.to_vec(),
                };
                self.inner.stage(record, &op)?;
                extents.write(offset, len, log.len() as u64)?;
                log.extend_from_slice(bytes);
            }
        }
        state.dirty = true;
        Ok(())
    }

    /// Moves the staged bytes from the database to a file.
    fn spill(&self, state: &mut State) -> Result<()> {
        let StagedBytes::Rows { log, extents } = &state.staged else {
            return Ok(());
        };
        let base_len = state.record.base.map_or(0, |(_, len)| len);
        let files = self.inner.files()?;
        // Left where an earlier attempt to move failed half-way.
        StagingFile::remove(files, state.record.id)?;
        let mut file = StagingFile::create(files, state.record.id, base_len)?;
        let AssemblyPlan { size, segments } = extents.plan();
        // What the base no longer shows must not show through in the file's extents either.
        file.truncate(extents.base_visible().min(size))?;
        for Segment {
            offset,
            len,
            source,
        } in segments
        {
            if let Source::Staged(at) = source {
                file.write_at(offset, &log[at as usize..(at + len) as usize])?;
            }
        }
        file.truncate(size)?;
        if state.synced {
            // Any later durable commit takes the removal of the rows along.
            file.sync()?;
        }
        let record = SessionRecord {
            staging: Staging::File,
            touched: now(),
            ..state.record.clone()
        };
        let mut txn = self.inner.tree.write(Durability::Relaxed)?;
        session_record(&*txn, record.id)?;
        txn.clear_session_ops(record.id)?;
        txn.set_session(&record)?;
        txn.commit()?;
        state.record = record;
        state.staged = StagedBytes::File(file);
        Ok(())
    }

    /// Closes a session that wrote nothing to a file: whatever others made of that stays.
    fn close_unwritten(&self, record: &SessionRecord, set: &SetAttrs) -> Result<()> {
        let inner = &self.inner;
        if *set != SetAttrs::default() {
            return inner.edit(record.branch, Some(record.id), |editor| {
                session_record(editor.txn(), record.id)?;
                inner.keep_lock(editor.txn(), record)?;
                editor.set_attrs(&record.path, set, Follow::Yes)?;
                inner.end_session(editor.txn(), record)
            });
        }
        let mut txn = inner.tree.write(Durability::Relaxed)?;
        // Somebody may have aborted it.
        session_record(&*txn, record.id)?;
        inner.end_session(&mut *txn, record)?;
        txn.commit()
    }

    /// Closes the session. Returns nothing where it only appended, and somebody changed the file
    /// while its bytes were prepared: then it must be tried again.
    fn close_locked(&self, state: &mut State, set: &SetAttrs) -> Result<Option<Closed>> {
        let State {
            record,
            dirty,
            appends,
            staged,
            ..
        } = state;
        let inner = &self.inner;
        let plan = staged.extents().plan();
        let base = record.base;
        if let (false, Some((hash, size))) = (*dirty, base) {
            self.close_unwritten(record, set)?;
            let path = record.path.clone();
            return Ok(Some(Closed { path, hash, size }));
        }
        let staged = match staged {
            StagedBytes::Rows { log, .. } => Staged::Bytes(log),
            StagedBytes::File(file) => Staged::File(file),
        };
        let (mut prepared, end_of) = {
            // The files of the base stay while it is read: no transaction is held for that long.
            let reads = base.is_some() || *appends;
            let _pinned = reads.then(|| inner.keeper.pinned()).transpose()?;
            let txn = inner.tree.read()?;
            // Somebody may have aborted it.
            session_record(&*txn, record.id)?;
            let there = match *appends {
                true => {
                    let chain = inner.chain(&*txn, record.branch)?;
                    file_at(&*txn, &chain, &record.path)?
                }
                false => None,
            };
            let (base, plan) = match there {
                Some(there) if Some(there) != base => {
                    let appended = plan.appended_to(base.map_or(0, |(_, len)| len), there.1);
                    (Some(there), appended)
                }
                _ => (base, plan),
            };
            let is_based = |s: &Segment| matches!(s.source, Source::Base(_));
            let base = base.filter(|_| plan.segments.iter().any(is_based));
            let found = match &base {
                Some((hash, _)) => inner.contents.find(&*txn, hash)?,
                None => None,
            };
            let bucket = txn.branch(record.branch)?.map(|branch| branch.bucket);
            drop(txn);
            let base = match (found, base, bucket) {
                (None, Some((hash, size)), Some(bucket)) => {
                    let named = Named { bucket, hash, size };
                    Some(inner.fetched(&named, &self.fetching)?)
                }
                (found, ..) => found,
            };
            let prepared = inner
                .contents
                .prepare_plan_over(base.as_ref(), staged, &plan)?;
            ([prepared], there)
        };
        let (hash, size) = (prepared[0].hash(), prepared[0].size());
        let (record, appends) = (&*record, *appends);
        let (put, follow) = match record.create_new {
            true => (PutMode::CreateNew, Follow::No),
            false => (PutMode::CreateOrReplace, Follow::Yes),
        };
        let path = inner.edit(record.branch, Some(record.id), |editor| {
            session_record(editor.txn(), record.id)?;
            let there = editor.resolve_target(&record.path, follow)?.entry;
            if appends && file_of(there.as_ref()) != end_of {
                return Ok(None);
            }
            inner.keep_lock(editor.txn(), record)?;
            inner.commit_contents(editor, &mut prepared)?;
            let exists = there.is_some();
            let set = SetAttrs {
                mode: set.mode.or((!exists).then_some(record.mode)),
                ..*set
            };
            let path = editor.put_file(&record.path, hash, size, &set, put)?;
            inner.end_session(editor.txn(), record)?;
            Ok(Some(path))
        })?;
        Ok(path.map(|path| Closed { path, hash, size }))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.state.lock().ended
            && let Err(error) = self.abort()
        {
            tracing::warn!(%error, "a dropped write session could not be removed");
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Session")
            .field("id", &state.record.id)
            .field("path", &state.record.path)
            .field("extents", state.staged.extents())
            .finish_non_exhaustive()
    }
}

/// Returns the content and size of the file at a path; nothing where something else is, or nothing.
fn file_at(txn: &dyn ReadTxn, chain: &Chain, path: &TreePath) -> Result<Option<(Hash, u64)>> {
    let target = resolve_target(txn, chain, path, Follow::Yes)?;
    Ok(file_of(target.entry.as_ref()))
}

fn file_of(entry: Option<&Entry>) -> Option<(Hash, u64)> {
    entry.and_then(|entry| Some((entry.hash()?, entry.size())))
}

fn session_record(txn: &dyn ReadTxn, id: SessionId) -> Result<SessionRecord> {
    txn.session(id)?
        .ok_or_else(|| Error::with_detail(ErrorKind::NotFound, "no such write session").path(id))
}

/// Returns the name of the honker lock of a session's path. Buckets and branches appear by number,
/// so that renaming them does not lose the lock.
fn lock_name(bucket: u32, record: &SessionRecord) -> String {
    format!("path:{bucket}:{}:{}", record.branch, record.path)
}

fn lock_owner(record: &SessionRecord) -> String {
    format!("{} (session {})", record.owner, record.id)
}

impl Store {
    /// Takes over an open write session whose process is gone, with all that it had written.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Locked`] where a living process works on it.
    pub fn resume_session(&self, id: SessionId) -> Result<Session> {
        Session::resume(Arc::clone(&self.inner), id).map_err(|e| e.op("resume session").path(id))
    }
}

impl Inner {
    /// Stages one operation of a session in the database.
    fn stage(&self, record: &mut SessionRecord, op: &SessionOp) -> Result<()> {
        let mut txn = self.tree.write(Durability::Relaxed)?;
        session_record(&*txn, record.id)?;
        txn.add_session_op(record.id, op)?;
        let time = now();
        if time.0 - record.touched.0 > 1_000_000_000 {
            record.touched = time;
            txn.set_session(record)?;
        }
        txn.commit()
    }

    fn files(&self) -> Result<&Arc<dyn Files>> {
        self.contents.files().ok_or_else(|| {
            Error::with_detail(
                ErrorKind::Unsupported,
                "a store in memory stages in no files",
            )
        })
    }

    /// Removes the staged files of a session that is not in use. Even one that stages in the
    /// database has some where its process ended while it moved them to a file.
    fn remove_staging(&self, id: SessionId) -> Result<()> {
        match self.contents.files() {
            Some(files) => StagingFile::remove(files, id),
            None => Ok(()),
        }
    }

    pub(crate) fn sessions(&self, branch: Option<BranchId>) -> Result<Vec<SessionInfo>> {
        let txn = self.tree.read()?;
        let mut out = Vec::new();
        let records = txn.sessions(branch)?;
        let mut files = Vec::new();
        if records.iter().any(|r| r.staging == Staging::File)
            && let Some(all) = self.contents.files()
        {
            files = all.list(Area::Staging)?;
        }
        for record in records {
            let staged = match record.staging {
                Staging::File => {
                    let name = record.id.to_string();
                    files.iter().find(|f| f.name == name).map_or(0, |f| f.len)
                }
                Staging::Rows => {
                    let len = |op: &SessionOp| match op {
                        SessionOp::Write { data, .. } => data.len() as u64,
                        SessionOp::Truncate { .. } => 0,
                    };
                    txn.session_ops(record.id)?.iter().map(len).sum()
                }
            };
            let branch = txn.branch(record.branch)?;
            let bucket = match &branch {
                Some(branch) => txn.bucket(branch.bucket)?,
                None => None,
            };
            out.push(SessionInfo {
                id: record.id,
                bucket: bucket.map(|b| b.name).unwrap_or_default(),
                branch: branch.map(|b| b.name).unwrap_or_default(),
                alive: self.keeper.is_alive(&record.holder),
                path: record.path,
                owner: record.owner,
                exclusive: record.exclusive,
                staging: record.staging,
                staged,
                base: record.base.map(|(_, size)| size),
                created: record.created,
                touched: record.touched,
            });
        }
        Ok(out)
    }

    pub(crate) fn abort_session(&self, id: SessionId, force: bool) -> Result<()> {
        // Nobody can resume it between the look at it and its removal.
        let mut txn = self.tree.write(Durability::Relaxed)?;
        let record = session_record(&*txn, id).map_err(|e| e.op("abort session"))?;
        if !force && self.keeper.is_alive(&record.holder) {
            let detail = format!("in use by {}; its process is alive", record.owner);
            return Err(locked(detail).op("abort session").path(id));
        }
        self.end_session(&mut *txn, &record)?;
        txn.commit()?;
        self.remove_staging(id)
    }

    fn remove_session(&self, record: &SessionRecord) -> Result<()> {
        let mut txn = self.tree.write(Durability::Relaxed)?;
        self.end_session(&mut *txn, record)?;
        txn.commit()
    }

    /// Removes a session's record and lock within a transaction.
    fn end_session(
        &self,
        txn: &mut dyn alknet_fs_core::store::WriteTxn,
        record: &SessionRecord,
    ) -> Result<()> {
        if record.exclusive
            && let Some(branch) = txn.branch(record.branch)?
        {
            txn.unlock(&lock_name(branch.bucket.0, record), &lock_owner(record))?;
        }
        txn.remove_session(record.id)
    }

    /// Stops renewing a session's lock.
    fn release(&self, record: &SessionRecord) {
        if record.exclusive {
            self.keeper.release(&lock_owner(record));
        }
    }

    /// Makes sure that an exclusive session has had its lock all the time: it lapses where the process
    /// could not renew it, and another session may have taken it since, and be over by now.
    fn keep_lock(
        &self,
        txn: &mut dyn alknet_fs_core::store::WriteTxn,
        record: &SessionRecord,
    ) -> Result<()> {
        if !record.exclusive {
            return Ok(());
        }
        let bucket = txn.branch(record.branch)?.map_or(0, |b| b.bucket.0);
        let name = lock_name(bucket, record);
        if txn.renew_lock(&name, &lock_owner(record), LOCK_SECONDS)? {
            return Ok(());
        }
        let detail = "its exclusive lock lapsed and another session had it since: look at what is \
                      there now, then detach and resume the session to take the lock again, or \
                      abort it";
        Err(locked(detail.to_owned()))
    }

    /// Makes the error for a path whose exclusive lock another session has.
    fn held_by(&self, txn: &dyn ReadTxn, record: &SessionRecord, owner: &str) -> Error {
        let others = txn.sessions(Some(record.branch)).unwrap_or_default();
        let holder = others.iter().find(|other| lock_owner(other) == owner);
        let detail = match holder {
            Some(other) if !self.keeper.is_alive(&other.holder) => format!(
                "locked by {owner}, whose process is gone; resume or abort session {}",
                other.id
            ),
            _ => format!("locked by {owner}"),
        };
        locked(detail)
    }
}

/// Tells other processes which sessions this open store works on and whether it has views open,
/// and renews locks.
pub(crate) struct Keeper {
    /// Where lock files are; nothing for a store in memory.
    dir: Option<PathBuf>,
    /// How long a view waits to be opened.
    busy_timeout: Duration,
    holder: Mutex<Option<Holder>>,
    views: Mutex<Views>,
    held: Arc<Held>,
}

struct Holder {
    name: String,
    /// Locked for as long as this store is open; the system unlocks it when the process dies.
    _file: File,
    path: PathBuf,
}

/// The views open now, and the shared lock that they hold together.
#[derive(Default)]
struct Views {
    open: usize,
    lock: Option<File>,
}

/// The lock file that views share and that the removal of files takes alone.
const VIEWS: &str = "views";

/// The lock file of the process that fetches contents for all others.
const SERVING: &str = "serving";

/// The lock file that the process takes alone which runs the store's node.
#[cfg(feature = "sync")]
const NODE: &str = "node";

/// The lock file that a garbage collection takes alone.
const COLLECTING: &str = "gc";

#[derive(Default)]
struct Held {
    locks: Mutex<HeldLocks>,
    changed: Condvar,
}

#[derive(Default)]
struct HeldLocks {
    /// Lock names by owner.
    names: HashMap<String, String>,
    /// Whether a thread renews them.
    renewing: bool,
}

impl Keeper {
    pub(crate) fn new(dir: Option<PathBuf>, busy_timeout: Duration) -> Self {
        Self {
            dir,
            busy_timeout,
            holder: Mutex::new(None),
            views: Mutex::default(),
            held: Arc::default(),
        }
    }

    /// Returns the name under which this open store holds sessions.
    fn holder(&self) -> Result<String> {
        let Some(dir) = &self.dir else {
            return Ok("memory".to_owned());
        };
        let mut holder = self.holder.lock();
        if let Some(holder) = &*holder {
            return Ok(holder.name.clone());
        }
        let name = format!("{}-{}", std::process::id(), now().0);
        let path = dir.join(&name);
        create_private_dir(dir)?;
        let file = create_private(File::options().create_new(true), &path)?;
        file.lock()?;
        *holder = Some(Holder {
            name: name.clone(),
            _file: file,
            path,
        });
        Ok(name)
    }

    /// Keeps files from being removed until [`unpin_view`](Self::unpin_view).
    pub(crate) fn pin_view(&self) -> Result<()> {
        let deadline = Instant::now().checked_add(self.busy_timeout);
        loop {
            let mut views = self.views.lock();
            if views.open == 0 {
                let file = self.lock_file(VIEWS)?;
                match file.as_ref().map_or(Ok(()), File::try_lock_shared) {
                    Ok(()) => views.lock = file,
                    Err(TryLockError::Error(e)) => return Err(e.into()),
                    Err(TryLockError::WouldBlock) => {
                        drop(views);
                        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                            let detail = "garbage collection keeps views from being opened";
                            return Err(Error::with_detail(ErrorKind::Busy, detail));
                        }
                        // The other side holds it for a batch of files at a time.
                        thread::sleep(Duration::from_millis(1));
                        continue;
                    }
                }
            }
            views.open += 1;
            return Ok(());
        }
    }

    pub(crate) fn unpin_view(&self) {
        let mut views = self.views.lock();
        views.open -= 1;
        if views.open == 0
            && let Some(file) = views.lock.take()
        {
            unlock(&file);
        }
    }

    /// Keeps files from being removed while the result lives.
    pub(crate) fn pinned(&self) -> Result<Pinned<'_>> {
        self.pin_view()?;
        Ok(Pinned(self))
    }

    /// Tells whether a process fetches contents for all others.
    pub(crate) fn is_serving(&self) -> Result<bool> {
        let Some(file) = self.lock_file(SERVING)? else {
            return Ok(false);
        };
        match file.try_lock_shared() {
            Ok(()) => {
                unlock(&file);
                Ok(false)
            }
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(e)) => Err(e.into()),
        }
    }

    /// Makes this process the one that fetches contents for all others while the result lives; nothing
    /// where another one does.
    pub(crate) fn serving(&self) -> Result<Option<Alone>> {
        try_alone(self.lock_file(SERVING)?)
    }

    /// Makes this process the one that runs the store's node while the result lives; where another one
    /// does, returns what that calls itself.
    #[cfg(feature = "sync")]
    pub(crate) fn running_node(&self, owner: &str) -> Result<std::result::Result<Alone, String>> {
        let name = self
            .dir
            .as_ref()
            .map(|dir| dir.join(format!("{NODE}.owner")));
        for _ in 0..50 {
            if let Some(alone) = try_alone(self.lock_file(NODE)?)? {
                if let Some(name) = name {
                    fs::write(name, owner)?;
                }
                return Ok(Ok(alone));
            }
            // Somebody may only be looking whether one runs, or where it will.
            thread::sleep(Duration::from_millis(20));
        }
        let owner = name.and_then(|name| fs::read_to_string(name).ok());
        Ok(Err(owner.unwrap_or_else(|| "another process".to_owned())))
    }

    /// Returns what the process calls itself that runs the store's node, if one does.
    #[cfg(feature = "sync")]
    pub(crate) fn node_owner(&self) -> Result<Option<String>> {
        let Some(dir) = &self.dir else {
            return Ok(None);
        };
        match File::open(dir.join(NODE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(e.into()),
                Err(TryLockError::WouldBlock) => {}
            },
        }
        let owner = fs::read_to_string(dir.join(format!("{NODE}.owner"))).ok();
        Ok(Some(owner.unwrap_or_else(|| "another process".to_owned())))
    }

    /// Keeps views from being opened while the result lives; nothing where some are open.
    pub(crate) fn no_views(&self) -> Result<Option<Alone>> {
        try_alone(self.lock_file(VIEWS)?)
    }

    /// Opens a lock file, which is made where it does not exist.
    fn lock_file(&self, name: &str) -> Result<Option<File>> {
        let Some(dir) = &self.dir else {
            return Ok(None);
        };
        let path = dir.join(name);
        let file = match File::options().write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                create_private_dir(dir)?;
                create_private(File::options().create(true).truncate(false), &path)?
            }
            opened => opened?,
        };
        Ok(Some(file))
    }

    fn is_alive(&self, holder: &str) -> bool {
        let Some(dir) = &self.dir else {
            return !holder.is_empty();
        };
        if self
            .holder
            .lock()
            .as_ref()
            .is_some_and(|own| own.name == holder)
        {
            return true;
        }
        // A name is a process number and a time; anything else was not written by this program.
        if holder.is_empty() || !holder.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            return false;
        }
        match File::open(dir.join(holder)).map(|file| file.try_lock_shared()) {
            Ok(Err(_)) => true,
            Ok(Ok(())) => {
                // Its process is gone, and so is the use of its file.
                let _ = fs::remove_file(dir.join(holder));
                false
            }
            Err(_) => false,
        }
    }

    /// Renews a lock until it is released.
    fn hold(&self, inner: &Arc<Inner>, name: String, owner: String) {
        let mut locks = self.held.locks.lock();
        locks.names.insert(owner, name);
        if !locks.renewing {
            let (held, inner) = (Arc::clone(&self.held), Arc::downgrade(inner));
            let spawned = thread::Builder::new()
                .name("alknet-fs-locks".to_owned())
                .spawn(move || renew(&held, &inner));
            match spawned {
                Ok(_) => locks.renewing = true,
                Err(error) => tracing::warn!(%error, "exclusive locks cannot be renewed"),
            }
        }
    }

    fn release(&self, owner: &str) {
        self.held.locks.lock().names.remove(owner);
        self.held.changed.notify_all();
    }

    /// Makes this the only garbage collection while the result lives; nothing where one runs.
    pub(crate) fn collecting(&self) -> Result<Option<Alone>> {
        try_alone(self.lock_file(COLLECTING)?)
    }
}

/// Takes a lock file alone, unless somebody has it.
fn try_alone(file: Option<File>) -> Result<Option<Alone>> {
    match file.as_ref().map_or(Ok(()), File::try_lock) {
        Ok(()) => Ok(Some(Alone { file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e.into()),
    }
}

/// Holds a pin of [`Keeper::pinned`].
pub(crate) struct Pinned<'a>(&'a Keeper);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.0.unpin_view();
    }
}

/// Holds the lock of [`Keeper::no_views`].
pub(crate) struct Alone {
    file: Option<File>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.file.iter().for_each(unlock);
    }
}

/// Gives a lock back. Closing the file would not do where a child of a fork has it too.
fn unlock(file: &File) {
    // Fails only where locking failed.
    let _ = file.unlock();
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.held.locks.lock().names.clear();
        self.held.changed.notify_all();
        if let Some(holder) = self.holder.get_mut() {
            let _ = fs::remove_file(&holder.path);
        }
    }
}

/// Renews all held locks in time, until none is left.
fn renew(held: &Held, inner: &Weak<Inner>) {
    let mut next = Instant::now() + RENEW_EVERY;
    loop {
        let mut locks = held.locks.lock();
        // Locks come and go meanwhile; that must not put off the renewal of the others.
        while !locks.names.is_empty() {
            if held.changed.wait_until(&mut locks, next).timed_out() {
                break;
            }
        }
        let names = locks.names.clone();
        let store = inner.upgrade().filter(|_| !names.is_empty());
        let Some(inner) = store else {
            locks.renewing = false;
            return;
        };
        drop(locks);
        next = Instant::now() + RENEW_EVERY;
        match renew_all(&*inner.tree, &names) {
            // The close of a session that lost its lock fails; there is nothing left to renew.
            Ok(lost) => {
                for owner in lost {
                    tracing::warn!(owner, "an exclusive lock lapsed and was taken");
                    held.locks.lock().names.remove(&owner);
                }
            }
            Err(error) => tracing::warn!(%error, "exclusive locks could not be renewed"),
        }
    }
}

/// Renews locks, given by owner; returns the owners who had lost theirs.
fn renew_all(
    tree: &dyn alknet_fs_core::store::Store,
    locks: &HashMap<String, String>,
) -> Result<Vec<String>> {
    let mut txn = tree.write(Durability::Relaxed)?;
    let mut lost = Vec::new();
    for (owner, name) in locks {
        if !txn.renew_lock(name, owner, LOCK_SECONDS)? {
            lost.push(owner.clone());
        }
    }
    txn.commit()?;
    Ok(lost)
}

#[cfg(unix)]
fn create_private_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    // The umask may have taken bits away.
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?)
}

#[cfg(not(unix))]
fn create_private_dir(dir: &Path) -> Result<()> {
    Ok(fs::create_dir_all(dir)?)
}

fn create_private(options: &mut fs::OpenOptions, path: &Path) -> Result<File> {
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCLUSIVE: fn(&str) -> OpenOptions =
        |owner| OpenOptions::new().exclusive(true).owner(owner);

    fn tree(store: &Store) -> Box<dyn alknet_fs_core::store::WriteTxn> {
        store.inner.tree.write(Durability::Full).unwrap()
    }

    /// Takes a session's lock away, as if its time had run out.
    fn lapse(store: &Store, session: &Session) {
        let record = session.state.lock().record.clone();
        let mut txn = tree(store);
        txn.unlock(&lock_name(1, &record), &lock_owner(&record))
            .unwrap();
        txn.commit().unwrap();
    }

    #[test]
    fn a_session_whose_lock_another_had_meanwhile_cannot_commit_unless_resumed() {
        let store = Store::memory().unwrap();
        let main = store.bucket("default").unwrap().main().unwrap();
        let late = main.open_session("/f", &EXCLUSIVE("sleeper")).unwrap();
        late.write_at(0, b"late").unwrap();
        lapse(&store, &late);
        let other = main.open_session("/f", &EXCLUSIVE("other")).unwrap();
        other.write_at(0, b"other").unwrap();
        for _ in 0..2 {
            let error = late.close().unwrap_err();
            assert!(error.is_locked(), "{error}");
        }
        // The other one is over, and what it wrote must not be lost unseen.
        other.close().unwrap();
        let error = late.close().unwrap_err();
        assert!(
            error.is_locked() && error.to_string().contains("resume"),
            "{error}"
        );
        assert_eq!(main.read("/f").unwrap(), b"other");
        // Nothing is lost: who resumes the session takes the lock again.
        let id = late.detach().unwrap();
        store.resume_session(id).unwrap().close().unwrap();
        assert_eq!(main.read("/f").unwrap(), b"late");
    }

    #[test]
    fn a_renewal_tells_which_locks_were_lost() {
        let store = Store::memory().unwrap();
        let main = store.bucket("default").unwrap().main().unwrap();
        let kept = main.open_session("/a", &EXCLUSIVE("kept")).unwrap();
        let lost = main.open_session("/b", &EXCLUSIVE("lost")).unwrap();
        lapse(&store, &lost);
        let held = store.inner.keeper.held.locks.lock().names.clone();
        assert_eq!(held.len(), 2);
        let owners = renew_all(&*store.inner.tree, &held).unwrap();
        assert_eq!(owners, [format!("lost (session {})", lost.id())]);
        kept.close().unwrap();
        lost.close().unwrap_err();
    }
}
