//! Files on their way to `blobs/`, and the hash tree that grows beside one.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use alknet_fs_core::{Error, ErrorKind, Hash, Result};

use crate::files::{Area, FileHandle, Files};
use crate::hash_tree::{CV_LEN, Cv, Nodes, Overrides, TreeHasher, position};

/// The first letter of the names of files that no session owns.
pub(crate) const PREPARED: char = 'p';
/// How much is sent to the disk at once while more is being written: the disk then works before
/// the final sync, which takes less time in the end.
pub(crate) const WRITEBACK: u64 = 8 << 20;
/// The ending of the second name a session's file gets while it is published.
pub(crate) const SECOND_NAME: &str = ".commit";
/// The ending of the file that names the content a session's file was moved to.
pub(crate) const MOVED: &str = ".moved";
/// The ending of the name under which a session's file is copied.
pub(crate) const COPY: &str = ".copy";

/// A file in staging that is to become one of a content. Removed when dropped, unless it was
/// published or belongs to a session.
#[derive(Debug)]
pub(crate) struct StagedFile {
    files: Arc<dyn Files>,
    name: String,
    pub(crate) handle: Arc<dyn FileHandle>,
    synced: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Own,
    Session(Arc<SharedPlace>),
    Published,
}

/// Who else a session's file may belong to by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the session's alone.
    Session,
    /// It has a name in blobs too, and may be a content.
    Linked,
    /// It has its name in blobs only.
    Moved,
}

/// A [`Place`], told by the commit to the session.
#[derive(Debug)]
pub(crate) struct SharedPlace(Mutex<Place>);

impl SharedPlace {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Place::Session)))
    }

    pub(crate) fn get(&self) -> Place {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, place: Place) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }
}

impl StagedFile {
    pub(crate) fn create(files: &Arc<dyn Files>) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let process = std::process::id();
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PREPARED}{process}-{number}");
            match files.create(Area::Staging, &name) {
                Ok(handle) => {
                    return Ok(Self {
                        files: files.clone(),
                        name,
                        handle,
                        synced: false,
                        state: State::Own,
                    });
                }
                // Left by a dead process of the same number, or made by a live one on another
                // machine or in another container.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Stands for the synced file of a session, which keeps it until the session ends.
    pub(crate) fn of_session(
        files: &Arc<dyn Files>,
        name: String,
        handle: Arc<dyn FileHandle>,
        place: &Arc<SharedPlace>,
    ) -> Self {
        Self {
            files: files.clone(),
            name,
            handle,
            synced: true,
            state: State::Session(place.clone()),
        }
    }

    /// Syncs the file of `size` bytes while `work` runs.
    pub(crate) fn sync_while<T>(
        &mut self,
        size: u64,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let done = sync_beside(&*self.handle, size, work)?;
        self.synced = true;
        Ok(done)
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if !self.synced {
            self.handle.sync_data()?;
            self.synced = true;
        }
        Ok(())
    }

    pub(crate) fn start_writeback(&self) {
        if let (false, Ok(len)) = (self.synced, self.handle.size()) {
            self.handle.start_writeback(0, len);
        }
    }

    /// Moves the file to blobs. The name is durable when the directory has been synced.
    pub(crate) fn publish(&mut self, blob: &str) -> io::Result<()> {
        self.sync()?;
        match &self.state {
            State::Own => self.files.publish(&self.name, blob)?,
            State::Session(place) => self.publish_second_name(blob, place)?,
            // By a transaction that was rolled back.
            State::Published => drop(self.files.open(Area::Blobs, blob)?),
        }
        self.state = State::Published;
        Ok(())
    }

    /// A session's file keeps its name until the session is gone from the store: if the process
    /// dies before the commit, the session is still whole.
    ///
    /// Where the file system has no hard links, the file is moved, and a note of where it went
    /// stays in its place: the session copies it back if it goes on.
    fn publish_second_name(&self, blob: &str, place: &SharedPlace) -> io::Result<()> {
        let second = format!("{}{SECOND_NAME}", self.name);
        let mut linked = self.files.link(&self.name, &second);
        if is(&linked, io::ErrorKind::AlreadyExists) {
            self.files.remove(Area::Staging, &second)?;
            linked = self.files.link(&self.name, &second);
        }
        if is(&linked, io::ErrorKind::Unsupported) {
            let note = create_anew(&self.files, &format!("{}{MOVED}", self.name))?;
            note.write_all_at(blob.as_bytes(), 0)?;
            note.sync_data()?;
            self.files.sync_dir(Area::Staging)?;
            place.set(Place::Moved);
            return self.files.publish(&self.name, blob);
        }
        linked?;
        place.set(Place::Linked);
        self.files.publish(&second, blob)
    }
}

/// Creates a file in staging in place of one that was left there.
fn create_anew(files: &Arc<dyn Files>, name: &str) -> io::Result<Arc<dyn FileHandle>> {
    match files.create(Area::Staging, name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            files.remove(Area::Staging, name)?;
            files.create(Area::Staging, name)
        }
        created => created,
    }
}

/// Returns where a session's file was moved to, by the note that was left.
pub(crate) fn moved_to(files: &Arc<dyn Files>, session: &str) -> io::Result<Option<String>> {
    let note = match files.open(Area::Staging, &format!("{session}{MOVED}")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // The hexadecimal digits of a hash; a note that is cut off was left before the move.
    let mut name = vec![0; 64];
    let len = note.read_full_at(&mut name, 0)?;
    name.truncate(len);
    Ok(String::from_utf8(name).ok().filter(|name| name.len() == 64))
}

/// Makes a copy of a file the file of a session, synced; returns it.
pub(crate) fn copy_to_session(
    files: &Arc<dyn Files>,
    session: &str,
    from: &dyn FileHandle,
    len: u64,
) -> io::Result<Arc<dyn FileHandle>> {
    let name = format!("{session}{COPY}");
    let copy = create_anew(files, &name)?;
    let mut buf = Vec::new();
    let mut at = 0;
    while at < len {
        buf.resize((len - at).min(BUFFERED_MAX) as usize, 0);
        if from.read_full_at(&mut buf, at)? < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Holes stay holes.
        if buf.iter().any(|&b| b != 0) {
            copy.write_all_at(&buf, at)?;
        }
        at += buf.len() as u64;
    }
    copy.set_len(len)?;
    copy.sync_data()?;
    files.replace(&name, session)?;
    files.sync_dir(Area::Staging)?;
    remove_if_there(files, &format!("{session}{MOVED}"))?;
    Ok(copy)
}

/// Removes a file from staging, if it exists.
pub(crate) fn remove_if_there(files: &Arc<dyn Files>, name: &str) -> io::Result<()> {
    match files.remove(Area::Staging, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn is(result: &io::Result<()>, kind: io::ErrorKind) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == kind)
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if matches!(self.state, State::Own) {
            // What cannot be removed now is removed by the next sweep.
            let _ = self.files.remove(Area::Staging, &self.name);
        }
    }
}

/// A growing hash tree: in memory at first, in a staged file when it is large.
#[derive(Debug)]
pub(crate) struct TreeSink {
    files: Arc<dyn Files>,
    file: Option<StagedFile>,
    in_file: u64,
    buffered: Vec<u8>,
}

/// A finished hash tree, where it will be kept.
#[derive(Debug)]
pub(crate) enum KeptTree {
    Record(Vec<u8>),
    File(StagedFile),
}

/// What is buffered at most before it goes to the file.
const BUFFERED_MAX: u64 = 1 << 20;

impl TreeSink {
    pub(crate) fn new(files: &Arc<dyn Files>) -> Self {
        Self {
            files: files.clone(),
            file: None,
            in_file: 0,
            buffered: Vec::new(),
        }
    }

    pub(crate) fn append(&mut self, nodes: &[u8]) -> io::Result<()> {
        self.buffered.extend_from_slice(nodes);
        if self.buffered.len() as u64 > BUFFERED_MAX {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(StagedFile::create(&self.files)?),
        };
        file.handle.write_all_at(&self.buffered, self.in_file)?;
        self.in_file += self.buffered.len() as u64;
        self.buffered.clear();
        Ok(())
    }

    /// Replaces nodes, and cuts or extends the tree to `nodes` nodes.
    pub(crate) fn apply(&mut self, overrides: &Overrides, nodes: u64) -> io::Result<()> {
        let len = nodes * CV_LEN;
        if let Some(file) = &self.file
            && len < self.in_file
        {
            file.handle.set_len(len)?;
            self.in_file = len;
        }
        self.buffered.resize((len - self.in_file) as usize, 0);
        for (position, node) in overrides {
            let at = position * CV_LEN;
            match (at.checked_sub(self.in_file), &self.file) {
                (None, Some(file)) => file.handle.write_all_at(node, at)?,
                (at, _) => {
                    let at = at.unwrap_or_default() as usize;
                    self.buffered[at..at + node.len()].copy_from_slice(node);
                }
            }
        }
        Ok(())
    }

    /// Returns the nodes for the record, or the file that holds them.
    pub(crate) fn finish(mut self, inline_max: u64, sync: bool) -> io::Result<KeptTree> {
        if self.file.is_none() && self.buffered.len() as u64 <= inline_max {
            return Ok(KeptTree::Record(self.buffered));
        }
        self.spill()?;
        let mut file = self.file.ok_or(io::ErrorKind::NotFound)?;
        if sync {
            file.sync()?;
        }
        Ok(KeptTree::File(file))
    }
}

impl Nodes for TreeSink {
    fn node(&self, level: u32, index: u64) -> Result<Cv> {
        let at = position(level, index) * CV_LEN;
        let mut node = [0; CV_LEN as usize];
        let found = match (at.checked_sub(self.in_file), &self.file) {
            (None, Some(file)) => file.handle.read_full_at(&mut node, at)? == node.len(),
            (at, _) => {
                let at = at.unwrap_or_default() as usize;
                let bytes = self.buffered.get(at..at + node.len());
                bytes.inspect(|b| node.copy_from_slice(b)).is_some()
            }
        };
        found
            .then_some(node)
            .ok_or_else(|| Error::with_detail(ErrorKind::Corrupt, "the hash tree is too short"))
    }
}

/// A file of at least this size is synced while it is still hashed; a thread costs more below.
const SYNC_BESIDE_MIN: u64 = 1 << 20;

/// Syncs a file of `size` bytes while `work` runs, so that what `work` syncs shares the wait.
pub(crate) fn sync_beside<T>(
    file: &dyn FileHandle,
    size: u64,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if size < SYNC_BESIDE_MIN {
        let done = work()?;
        file.sync_data()?;
        return Ok(done);
    }
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("alkfs-sync".to_owned());
        let thread = builder.spawn_scoped(scope, || file.sync_data());
        let done = work();
        match thread {
            Ok(thread) => {
                let synced = thread.join();
                synced.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Err(_) => file.sync_data()?,
        }
        done
    })
}

/// Hashes buffers on a thread of its own, in order.
#[derive(Debug)]
pub(crate) struct BackgroundHasher {
    worker: Option<Worker>,
    here: Option<Hashing>,
}

#[derive(Debug)]
struct Worker {
    full: std::sync::mpsc::SyncSender<Vec<u8>>,
    empty: std::sync::mpsc::Receiver<Vec<u8>>,
    thread: std::thread::JoinHandle<io::Result<Hashing>>,
}

/// A hash in the making, with its tree.
#[derive(Debug)]
pub(crate) struct Hashing {
    hasher: TreeHasher,
    sink: TreeSink,
}

impl Hashing {
    pub(crate) fn new(sink: TreeSink) -> Self {
        Self {
            hasher: TreeHasher::new(),
            sink,
        }
    }

    pub(crate) fn finish(mut self) -> io::Result<(Hash, TreeSink)> {
        let (hash, nodes) = self.hasher.finish();
        self.sink.append(&nodes)?;
        Ok((hash, self.sink))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.sink.append(&self.hasher.take_nodes())
    }
}

/// How many buffers may wait to be hashed.
const QUEUE: usize = 4;

impl BackgroundHasher {
    pub(crate) fn new(sink: TreeSink) -> Self {
        Self {
            worker: None,
            here: Some(Hashing::new(sink)),
        }
    }

    /// Starts the thread; where there can be none, the caller's does the work.
    fn start(&mut self) {
        use std::sync::mpsc;
        let (full, to_hash) = mpsc::sync_channel::<Vec<u8>>(QUEUE);
        let (done, empty) = mpsc::channel();
        let (start, started) = mpsc::sync_channel::<Hashing>(1);
        let work = move || {
            let mut hashing = started
                .recv()
                .map_err(|_| io::Error::other("the hashing was given up"))?;
            for buffer in to_hash {
                hashing.update(&buffer)?;
                // The other side may have no use for more buffers.
                let _ = done.send(buffer);
            }
            Ok(hashing)
        };
        let builder = std::thread::Builder::new().name("alkfs-hash".to_owned());
        if let Ok(thread) = builder.spawn(work)
            && let Some(hashing) = self.here.take()
        {
            match start.send(hashing) {
                Ok(()) => {
                    self.worker = Some(Worker {
                        full,
                        empty,
                        thread,
                    });
                }
                Err(back) => self.here = Some(back.0),
            }
        }
    }

    /// Hashes a buffer; returns one to fill next, with any content.
    pub(crate) fn feed(&mut self, buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        if self.worker.is_none() {
            self.start();
        }
        if let Some(hashing) = &mut self.here {
            hashing.update(&buffer)?;
            return Ok(buffer);
        }
        let Some(worker) = &self.worker else {
            return Err(io::Error::other("the hashing failed before"));
        };
        if worker.full.send(buffer).is_err() {
            // The thread ended with an error, which the join gives.
            let worker = self.worker.take();
            let ended = worker.map(|w| join(w.thread));
            return Err(ended
                .and_then(Result::err)
                .unwrap_or_else(|| io::Error::other("the hashing ended early")));
        }
        Ok(worker.empty.try_recv().unwrap_or_default())
    }

    pub(crate) fn finish(mut self) -> io::Result<(Hash, TreeSink)> {
        let hashing = match (self.worker.take(), self.here.take()) {
            (Some(Worker { full, thread, .. }), _) => {
                drop(full);
                join(thread)?
            }
            (None, Some(hashing)) => hashing,
            (None, None) => return Err(io::Error::other("the hashing failed before")),
        };
        hashing.finish()
    }
}

fn join<T>(thread: std::thread::JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
