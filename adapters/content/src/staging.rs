//! Staging files: what a large write session writes to.
//!
//! The bytes go to `staging/<session>` at their own final offsets. The journal
//! `staging/<session>.log` says which ranges were written; from it [`StagingFile::resume`] rebuilds
//! the session after its process died. A record is 32 bytes: a kind, two numbers and a checksum;
//! a torn record ends the journal.
//!
//! A session that only ever writes at the end of its file needs one record: `Tail(from)` says that
//! everything from there to the end of the file was written. So the length of the file is the
//! journal of sequential writes, and a write the kernel took is never lost with the process.
//!
//! While a session writes, a thread follows the part that has no holes and hashes it, from the page
//! cache; what is overwritten later is hashed again at the end.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use alknet_fs_core::session::{AssemblyPlan, ExtentMap, MAX_FILE_SIZE, Segment, Source};
use alknet_fs_core::store::SessionId;
use alknet_fs_core::{Error, ErrorKind, Hash, Result};

use crate::files::{Area, FileHandle, Files};
use crate::hash_tree::{GROUP_LEN, Groups, group_count, node_count, normalize, rehash};
use crate::reader::ContentReader;
use crate::staged::{
    COPY, Hashing, KeptTree, MOVED, Place, SECOND_NAME, SharedPlace, TreeSink, WRITEBACK,
    copy_to_session, moved_to, remove_if_there, sync_beside,
};

/// The ending of a journal's name.
pub(crate) const LOG: &str = ".log";
const RECORD_LEN: usize = 32;
const MAGIC: u64 = u64::from_le_bytes(*b"alkfslg1");

/// One record of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// The first record: the size of the base, and when the machine started.
    Start { base_len: u64, boot: u64 },
    /// A range was written.
    Write { offset: u64, len: u64 },
    /// The file is being cut or extended.
    Truncate { size: u64 },
    /// From here to the end of the file everything is written.
    Tail { from: u64 },
    /// The tail ends here; what follows in the file is not part of it.
    TailEnd { end: u64 },
    /// All before this record is on the disk.
    Synced,
    /// The machine started again; all before this record is on the disk.
    Boot { boot: u64 },
}

impl Record {
    fn encode(self) -> [u8; RECORD_LEN] {
        let (kind, a, b) = match self {
            Self::Start { base_len, boot } => (MAGIC, base_len, boot),
            Self::Write { offset, len } => (1, offset, len),
            Self::Truncate { size } => (2, size, 0),
            Self::Tail { from } => (3, from, 0),
            Self::TailEnd { end } => (4, end, 0),
            Self::Synced => (5, 0, 0),
            Self::Boot { boot } => (6, boot, 0),
        };
        let mut bytes = [0; RECORD_LEN];
        bytes[..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&a.to_le_bytes());
        bytes[16..24].copy_from_slice(&b.to_le_bytes());
        let check = checksum(&bytes[..24]);
        bytes[24..].copy_from_slice(&check);
        bytes
    }

    fn decode(bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        if checksum(&bytes[..24]) != bytes[24..] {
            return None;
        }
        let number = |at: usize| {
            let bytes = bytes[at..].first_chunk().copied();
            bytes.map(u64::from_le_bytes)
        };
        let (kind, a, b) = (number(0)?, number(8)?, number(16)?);
        Some(match kind {
            MAGIC => Self::Start {
                base_len: a,
                boot: b,
            },
            1 => Self::Write { offset: a, len: b },
            2 => Self::Truncate { size: a },
            3 => Self::Tail { from: a },
            4 => Self::TailEnd { end: a },
            5 => Self::Synced,
            6 => Self::Boot { boot: a },
            _ => return None,
        })
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    check
}

/// The file of a write session that is too large for the database.
///
/// One process has it open at a time; the session's bytes survive the death of the process, and
/// after [`sync`](Self::sync) a power cut.
#[derive(Debug)]
pub struct StagingFile {
    files: Arc<dyn Files>,
    id: SessionId,
    data: Arc<dyn FileHandle>,
    data_len: u64,
    log: Arc<dyn FileHandle>,
    log_len: u64,
    /// From where on the file's length says what was written.
    tail: Option<u64>,
    extents: ExtentMap,
    /// Whether holes may hold bytes of writes that were never acknowledged.
    holes_unclean: bool,
    follower: Arc<Follower>,
    state: State,
    place: Arc<SharedPlace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The file has become, or is about to become, a content.
    Sealed,
    /// The file and what is known of it differ after a failure.
    Broken,
}

impl StagingFile {
    /// Creates the file of a session over a base of `base_len` bytes; 0 for an empty file.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where the session has one, or what the operating system
    /// reports.
    pub fn create(files: &Arc<dyn Files>, id: SessionId, base_len: u64) -> Result<Self> {
        let log = files.create(Area::Staging, &format!("{id}{LOG}"))?;
        let data = files.create(Area::Staging, &id.to_string())?;
        let mut staging = Self {
            follower: Follower::new(files, &data),
            files: files.clone(),
            id,
            data,
            data_len: 0,
            log,
            log_len: 0,
            tail: None,
            extents: ExtentMap::new(base_len),
            holes_unclean: false,
            state: State::Open,
            place: SharedPlace::new(),
        };
        staging.record(Record::Start {
            base_len,
            boot: files.boot(),
        })?;
        Ok(staging)
    }

    /// Opens the file of a session whose process died.
    ///
    /// Every write that was acknowledged is there; if the machine lost its power since, those
    /// before the last [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the session has no file, [`ErrorKind::Locked`] where somebody
    /// has it open, [`ErrorKind::Corrupt`] where the journal is unreadable from its start.
    pub fn resume(files: &Arc<dyn Files>, id: SessionId) -> Result<Self> {
        let open = |name: &str| {
            files
                .reopen(Area::Staging, name)
                .map_err(|e| match e.kind() {
                    io::ErrorKind::WouldBlock => Error::with_detail(
                        ErrorKind::Locked,
                        format!("session {id} is open elsewhere"),
                    ),
                    _ => Error::from(e),
                })
        };
        let log = open(&format!("{id}{LOG}"))?;
        let name = id.to_string();
        let data = match (open(&name), moved_to(files, &name)?) {
            (Err(e), Some(blob)) if e.is_not_found() => {
                let moved = files.open(Area::Blobs, &blob)?;
                copy_to_session(files, &name, &*moved, moved.size()?)?
            }
            (data, _) => data?,
        };
        let records = read_records(&*log)?;
        let Some(&Record::Start { base_len, boot }) = records.first() else {
            let detail = format!("the journal staging/{id}{LOG} is unreadable");
            return Err(Error::with_detail(ErrorKind::Corrupt, detail));
        };
        let last_boot = records.iter().rev().find_map(|r| match *r {
            Record::Boot { boot } => Some(boot),
            _ => None,
        });
        let lost_power = last_boot.unwrap_or(boot) != files.boot();
        let mut kept = &records[..];
        if lost_power {
            let is_durable = |r: &Record| matches!(r, Record::Synced | Record::Boot { .. });
            kept = &records[..=records.iter().rposition(is_durable).unwrap_or(0)];
        }
        let data_len = data.size()?;
        let (extents, tail) = replay(kept, base_len, data_len)?;
        let mut staging = Self {
            follower: Follower::new(files, &data),
            files: files.clone(),
            id,
            data,
            data_len,
            log,
            log_len: (kept.len() * RECORD_LEN) as u64,
            tail,
            extents,
            holes_unclean: true,
            state: State::Open,
            place: SharedPlace::new(),
        };
        // What is past the end of all ranges was never acknowledged, or was being truncated.
        let end = staging.staged_end();
        if data_len < end && !lost_power {
            let detail = format!("staging/{id} is shorter than its journal says");
            return Err(Error::with_detail(ErrorKind::Corrupt, detail));
        }
        // A truncate that the journal has lost may have reached the disk; then zeros are left.
        if data_len != end {
            staging.data.set_len(end)?;
            staging.data_len = end;
        }
        staging.close_tail()?;
        if lost_power {
            staging.log.set_len(staging.log_len)?;
            let boot = files.boot();
            staging.record(Record::Boot { boot })?;
            staging.sync()?;
        }
        staging.advance(0, 0);
        Ok(staging)
    }

    /// Removes the files of a session, as far as they exist.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn remove(files: &Arc<dyn Files>, id: SessionId) -> Result<()> {
        for ending in ["", SECOND_NAME, COPY, MOVED, LOG] {
            remove_if_there(files, &format!("{id}{ending}"))?;
        }
        Ok(())
    }

    /// Ends the session's staging and removes its files.
    ///
    /// Call it after the commit that closed the session, and after an abort.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn discard(self) -> Result<()> {
        let (files, id) = (self.files.clone(), self.id);
        drop(self);
        Self::remove(&files, id)
    }

    /// Returns the session's number.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Returns what was written; a range is staged at its own offset.
    pub fn extents(&self) -> &ExtentMap {
        &self.extents
    }

    /// Writes bytes at an offset. They survive the death of the process when this returns.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] past the largest file size, [`ErrorKind::InvalidInput`] after the
    /// session was closed, [`ErrorKind::NoSpace`] and others of the operating system; then the
    /// bytes of the range that were written before are undefined, as POSIX has it.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_open()?;
        let len = bytes.len() as u64;
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= MAX_FILE_SIZE)
            .ok_or(ErrorKind::TooLarge)?;
        if len == 0 {
            return Ok(());
        }
        self.part_from_content()?;
        let old_len = self.data_len;
        if offset >= old_len && (self.tail.is_none() || offset > old_len) {
            self.close_tail()?;
            self.record(Record::Tail { from: offset })?;
            self.tail = Some(offset);
        }
        let written = self.data.write_all_at(bytes, offset);
        self.follower.changed(offset, end);
        if let Err(error) = written {
            self.holes_unclean = true;
            let restored = end <= old_len || self.data.set_len(old_len).is_ok();
            if !restored || self.close_tail().is_err() {
                self.state = State::Broken;
            }
            return Err(error.into());
        }
        self.data_len = old_len.max(end);
        let in_tail = self.tail.is_some() && end > old_len;
        if !(in_tail || end <= old_len) || !self.covers(offset, end.min(old_len)) {
            // The bytes are in the file by now, whatever becomes of the record.
            self.record(Record::Write { offset, len })
                .inspect_err(|_| self.holes_unclean = true)?;
        }
        self.extents.write(offset, len, offset)?;
        self.advance(offset, end);
        Ok(())
    }

    /// Tells whether all of a range was written before.
    fn covers(&self, start: u64, end: u64) -> bool {
        start >= end
            || matches!(
                &self.extents.range(start, end - start)[..],
                [s] if s.len == end - start && matches!(s.source, Source::Staged(_))
            )
    }

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        self.check_open()?;
        if size > MAX_FILE_SIZE {
            return Err(ErrorKind::TooLarge.into());
        }
        if size == self.extents.size() {
            return Ok(());
        }
        self.part_from_content()?;
        self.close_tail()?;
        self.record(Record::Truncate { size })?;
        if size < self.data_len {
            if let Err(error) = self.data.set_len(size) {
                self.state = State::Broken;
                return Err(error.into());
            }
            self.data_len = size;
            self.follower.cut(size);
        }
        self.extents.truncate(size)
    }

    /// Reads staged bytes at an offset; returns how many, fewer than asked for only at the end of
    /// what is staged. Ranges that were never written read as anything.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        Ok(self.data.read_full_at(buf, offset)?)
    }

    /// Waits until everything written so far would survive a power cut.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn sync(&mut self) -> Result<()> {
        self.check_open()?;
        self.come_back()?;
        self.close_tail()?;
        self.data.sync_data()?;
        self.record(Record::Synced)?;
        self.log.sync_data()?;
        self.files.sync_dir(Area::Staging)?;
        Ok(())
    }

    /// Makes the file the session's alone, before it changes: a commit that failed may have come
    /// about nevertheless, and then the file is a content.
    fn part_from_content(&mut self) -> Result<()> {
        if self.place.get() == Place::Session {
            return Ok(());
        }
        let name = self.id.to_string();
        let copy = copy_to_session(&self.files, &name, &*self.data, self.data_len)?;
        self.follower.stop();
        self.follower = Follower::new(&self.files, &copy);
        self.data = copy;
        self.place.set(Place::Session);
        self.advance(0, 0);
        Ok(())
    }

    /// Makes sure that the session has a file of its name.
    fn come_back(&mut self) -> Result<()> {
        match self.place.get() {
            Place::Moved => self.part_from_content(),
            Place::Session | Place::Linked => Ok(()),
        }
    }

    /// Goes on with a session whose close failed. Nothing that was written is lost, and the close
    /// can be tried again.
    pub fn reopen(&mut self) {
        if self.state == State::Sealed {
            self.state = State::Open;
            self.follower.stop();
            self.follower = Follower::new(&self.files, &self.data);
            self.advance(0, 0);
        }
    }

    fn check_open(&self) -> Result<()> {
        let detail = match self.state {
            State::Open => return Ok(()),
            State::Sealed => "the session is closed",
            State::Broken => "the session failed before; resume or abort it",
        };
        Err(Error::with_detail(ErrorKind::InvalidInput, detail))
    }

    fn record(&mut self, record: Record) -> Result<()> {
        self.log.write_all_at(&record.encode(), self.log_len)?;
        self.log_len += RECORD_LEN as u64;
        Ok(())
    }

    fn close_tail(&mut self) -> Result<()> {
        if self.tail.is_some() {
            self.record(Record::TailEnd { end: self.data_len })?;
            self.tail = None;
        }
        Ok(())
    }

    /// Returns the end of the last staged range.
    fn staged_end(&self) -> u64 {
        let segments = self.extents.range(0, self.extents.size());
        let staged = segments
            .iter()
            .rfind(|s| matches!(s.source, Source::Staged(_)));
        staged.map_or(0, |s| s.offset + s.len)
    }

    /// Lets the follower go on where a write made the part without holes longer.
    fn advance(&self, offset: u64, end: u64) {
        let frontier = self.follower.frontier();
        if offset > frontier || (end > 0 && end <= frontier) {
            return;
        }
        let mut reached = end.max(frontier);
        let joins_next = self.extents.extent_count() > 1 && self.covers(end, end + 1);
        if joins_next || end == 0 {
            let next = self.extents.range(frontier, u64::MAX);
            if let Some(s) = next.first()
                && matches!(s.source, Source::Staged(_))
            {
                reached = s.offset + s.len;
            }
        }
        Follower::advance(&self.follower, reached);
    }

    /// Makes the staging file the content itself: fills what comes from the base, hashes what is
    /// not hashed yet, and syncs.
    pub(crate) fn seal(
        &mut self,
        plan: &AssemblyPlan,
        base: Option<&ContentReader>,
        tree_inline_max: u64,
    ) -> Result<(Hash, KeptTree)> {
        self.check_open()?;
        self.come_back()?;
        self.close_tail()?;
        for s in &plan.segments {
            match (s.source, base) {
                (Source::Base(_), None) => return Err(ErrorKind::InvalidInput.into()),
                (Source::Base(_), Some(base)) => self.fill_from_base(s, base)?,
                (Source::Zeros, _) if self.holes_unclean => self.clean_hole(s)?,
                _ => {}
            }
        }
        if self.data_len != plan.size {
            self.data.set_len(plan.size)?;
            self.data_len = plan.size;
        }
        self.state = State::Sealed;
        let sealed = sync_beside(&*self.data, plan.size, || {
            let (hash, tree) = Follower::finish(&self.follower, plan.size)?;
            Ok((hash, tree.finish(tree_inline_max, true)?))
        });
        if sealed.is_err() {
            self.reopen();
        }
        sealed
    }

    /// Writes bytes that are no write of the session.
    fn overwrite(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = offset + bytes.len() as u64;
        let written = self.data.write_all_at(bytes, offset);
        self.follower.changed(offset, end);
        self.data_len = self.data_len.max(end);
        Ok(written?)
    }

    fn fill_from_base(&mut self, s: &Segment, base: &ContentReader) -> Result<()> {
        let Source::Base(from) = s.source else {
            return Ok(());
        };
        let mut buf = Vec::new();
        let mut done = 0;
        while done < s.len {
            buf.resize((s.len - done).min(CHUNK) as usize, 0);
            if base.read_at(from + done, &mut buf)? < buf.len() {
                return Err(ErrorKind::InvalidInput.into());
            }
            self.overwrite(&buf, s.offset + done)?;
            done += buf.len() as u64;
        }
        Ok(())
    }

    /// Puts zeros where a hole is not one.
    fn clean_hole(&mut self, s: &Segment) -> Result<()> {
        let end = (s.offset + s.len).min(self.data_len);
        let mut buf = Vec::new();
        let mut at = s.offset;
        while at < end {
            buf.resize((end - at).min(CHUNK) as usize, 0);
            self.data.read_full_at(&mut buf, at)?;
            if buf.iter().any(|&b| b != 0) {
                buf.fill(0);
                self.overwrite(&buf, at)?;
            }
            at += buf.len() as u64;
        }
        Ok(())
    }

    pub(crate) fn data(&self) -> &Arc<dyn FileHandle> {
        &self.data
    }

    pub(crate) fn place(&self) -> &Arc<SharedPlace> {
        &self.place
    }
}

impl Drop for StagingFile {
    fn drop(&mut self) {
        self.follower.stop();
    }
}

fn read_records(log: &dyn FileHandle) -> Result<Vec<Record>> {
    let mut bytes = vec![0; usize::try_from(log.size()?).map_err(|_| ErrorKind::TooLarge)?];
    let len = log.read_full_at(&mut bytes, 0)?;
    let (records, _torn) = bytes[..len].as_chunks::<RECORD_LEN>();
    Ok(records.iter().map_while(Record::decode).collect())
}

/// Returns what the records say was written, and the start of a tail that is still open.
fn replay(records: &[Record], base_len: u64, data_len: u64) -> Result<(ExtentMap, Option<u64>)> {
    let mut extents = ExtentMap::new(base_len);
    let mut tail = None;
    let end_tail = |extents: &mut ExtentMap, tail: Option<u64>, end: u64| match tail {
        Some(from) => extents.write(from, end.saturating_sub(from), from),
        None => Ok(()),
    };
    for record in &records[1..] {
        match *record {
            Record::Start { .. } => return Err(ErrorKind::Corrupt.into()),
            Record::Write { offset, len } => extents.write(offset, len, offset)?,
            Record::Truncate { size } => extents.truncate(size)?,
            Record::Tail { from } => tail = Some(from),
            Record::TailEnd { end } => end_tail(&mut extents, tail.take(), end)?,
            Record::Synced | Record::Boot { .. } => {}
        }
    }
    end_tail(&mut extents, tail, data_len)?;
    Ok((extents, tail))
}

/// How much the follower claims at once.
const CHUNK: u64 = 1 << 20;
/// How much of it the follower reads at once: what stays in a processor's cache.
const PIECE: u64 = 256 << 10;
/// How far the follower lets the session get ahead before it starts.
const LAG: u64 = 4 << 20;
/// How long the thread waits for more before it ends.
const LINGER: Duration = Duration::from_millis(20);

/// Hashes a file while it is written.
#[derive(Debug)]
struct Follower {
    files: Arc<dyn Files>,
    data: Arc<dyn FileHandle>,
    state: Mutex<Following>,
    changed: Condvar,
}

#[derive(Debug)]
struct Following {
    /// All bytes before this offset are written.
    frontier: u64,
    /// All bytes before this offset are hashed, or being hashed.
    claimed: u64,
    /// Groups that changed after they were claimed.
    dirty: Vec<Range<u64>>,
    dirty_max: usize,
    is_running: bool,
    thread: Option<JoinHandle<()>>,
    is_ending: bool,
    hashing: Option<Hashing>,
    error: Option<io::Error>,
}

impl Follower {
    fn new(files: &Arc<dyn Files>, data: &Arc<dyn FileHandle>) -> Arc<Self> {
        Arc::new(Self {
            files: files.clone(),
            data: data.clone(),
            state: Mutex::new(Following {
                frontier: 0,
                claimed: 0,
                dirty: Vec::new(),
                dirty_max: 1024,
                is_running: false,
                thread: None,
                is_ending: false,
                hashing: None,
                error: None,
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Following> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn frontier(&self) -> u64 {
        self.lock().frontier
    }

    /// Notes that a range was written. Called after the write: what is claimed later reads the new
    /// bytes.
    fn changed(&self, start: u64, end: u64) {
        let mut state = self.lock();
        let end = end.min(state.claimed);
        state.mark(start, end);
    }

    /// Notes that the file was cut.
    fn cut(&self, size: u64) {
        let mut state = self.lock();
        let claimed = state.claimed;
        state.mark(size, claimed);
        state.frontier = state.frontier.min(size);
    }

    fn advance(this: &Arc<Self>, frontier: u64) {
        let mut state = this.lock();
        state.frontier = frontier;
        let ahead = frontier.saturating_sub(state.claimed);
        if state.is_running {
            if ahead >= CHUNK {
                this.changed.notify_all();
            }
        } else if ahead >= LAG {
            Self::start(this, &mut state);
        }
    }

    /// Starts the thread; where there can be none, the end does all the work.
    fn start(this: &Arc<Self>, state: &mut Following) {
        let mut hashing = state.hashing.take().unwrap_or_else(|| this.fresh());
        let (give, given) = std::sync::mpsc::sync_channel::<Hashing>(1);
        let follower = this.clone();
        let work = move || {
            if let Ok(mut hashing) = given.recv() {
                let error = follower.follow(&mut hashing).err();
                let mut state = follower.lock();
                state.is_running = false;
                state.hashing = Some(hashing);
                state.error = error;
                follower.changed.notify_all();
            }
        };
        if let Some(last) = state.thread.take() {
            // It has given up the lock for the last time.
            let _ = last.join();
        }
        let builder = std::thread::Builder::new().name("alkfs-follow".to_owned());
        if let Ok(thread) = builder.spawn(work) {
            match give.send(hashing) {
                Ok(()) => {
                    state.is_running = true;
                    state.thread = Some(thread);
                    return;
                }
                Err(back) => hashing = back.0,
            }
        }
        state.hashing = Some(hashing);
    }

    fn fresh(&self) -> Hashing {
        Hashing::new(TreeSink::new(&self.files))
    }

    fn follow(&self, hashing: &mut Hashing) -> io::Result<()> {
        let mut buf = vec![0; PIECE as usize];
        while let Some(range) = self.claim(CHUNK) {
            self.hash(hashing, range, &mut buf)?;
        }
        Ok(())
    }

    fn hash(&self, hashing: &mut Hashing, range: Range<u64>, buf: &mut [u8]) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let buf = &mut buf[..PIECE.min(range.end - at) as usize];
            let n = self.data.read_full_at(buf, at)?;
            // The file was cut since; the range is marked as changed.
            buf[n..].fill(0);
            hashing.update(buf)?;
            at += buf.len() as u64;
        }
        if range.end.is_multiple_of(WRITEBACK) {
            self.data.start_writeback(range.end - WRITEBACK, WRITEBACK);
        }
        Ok(())
    }

    /// Waits for bytes to hash; `None` when the thread is to end.
    fn claim(&self, at_least: u64) -> Option<Range<u64>> {
        let mut state = self.lock();
        loop {
            let ahead = state.frontier.saturating_sub(state.claimed);
            if ahead >= at_least || (state.is_ending && ahead > 0) {
                let start = state.claimed;
                state.claimed += ahead.min(CHUNK);
                return Some(start..state.claimed);
            }
            if state.is_ending {
                return None;
            }
            let waited = self.changed.wait_timeout(state, LINGER);
            let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = next;
            let ahead = state.frontier.saturating_sub(state.claimed);
            if timeout.timed_out() && ahead < at_least && !state.is_ending {
                return None;
            }
        }
    }

    /// Hashes the rest of the file and what changed meanwhile.
    fn finish(this: &Arc<Self>, size: u64) -> Result<(Hash, TreeSink)> {
        let mut state = this.lock();
        state.frontier = size;
        state.is_ending = true;
        if !state.is_running && size.saturating_sub(state.claimed) >= LAG {
            Self::start(this, &mut state);
        }
        this.changed.notify_all();
        while state.is_running {
            state = this
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = state.error.take() {
            return Err(error.into());
        }
        let mut hashing = state.hashing.take().unwrap_or_else(|| this.fresh());
        drop(state);
        let mut buf = vec![0; PIECE as usize];
        while let Some(range) = this.claim(1) {
            this.hash(&mut hashing, range, &mut buf)?;
        }
        let mut state = this.lock();
        let dirty = normalize(std::mem::take(&mut state.dirty));
        let hashed = state.claimed;
        drop(state);
        let (hash, mut tree) = hashing.finish()?;
        if dirty.is_empty() && hashed == size {
            return Ok((hash, tree));
        }
        let mut groups = FileGroups(&*this.data);
        let (hash, overrides) = rehash(&tree, hashed, size, &dirty, &mut groups)?;
        tree.apply(&overrides, node_count(group_count(size)))?;
        Ok((hash, tree))
    }

    /// Ends the thread. The file is not in use any more when this returns.
    fn stop(&self) {
        let mut state = self.lock();
        state.is_ending = true;
        state.frontier = 0;
        let thread = state.thread.take();
        self.changed.notify_all();
        drop(state);
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Following {
    fn mark(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        self.dirty.push(start / GROUP_LEN..end.div_ceil(GROUP_LEN));
        if self.dirty.len() > self.dirty_max {
            self.dirty = normalize(std::mem::take(&mut self.dirty));
            self.dirty_max = 1024.max(self.dirty.len() * 2);
        }
    }
}

struct FileGroups<'a>(&'a dyn FileHandle);

impl Groups for FileGroups<'_> {
    fn read(&mut self, index: u64, buf: &mut [u8]) -> Result<()> {
        match self.0.read_full_at(buf, index * GROUP_LEN)? {
            n if n == buf.len() => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}
