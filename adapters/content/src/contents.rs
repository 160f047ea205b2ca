//! The facade: how contents are prepared, committed, opened, verified and removed.

use std::collections::HashSet;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use alknet_fs_core::session::{AssemblyPlan, Source};
use alknet_fs_core::store::{ContentForm, ContentRecord, ReadTxn, SessionId, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Hash, Result, Timestamp};

use crate::assemble::{Assembly, FULL_PART, SEGMENTS_MAX};
use crate::cache::SmallContents;
use crate::delta::Delta;
use crate::files::{Area, DiskFiles, Files};
use crate::hash_tree::{GROUP_LEN, TreeHasher};
use crate::partial::{self, PartialInfo};
use crate::reader::{Body, ContentReader, DELTA, Payload, TREE, corrupt};
use crate::staged::{
    BackgroundHasher, COPY, KeptTree, MOVED, PREPARED, SECOND_NAME, StagedFile, TreeSink,
    WRITEBACK, moved_to,
};
use crate::staging::{LOG, StagingFile};

/// The size of the pieces in which large contents are copied.
const CHUNK: u64 = 1 << 20;

/// Limits of the content store. The defaults are meant for use; others are for tests and
/// measurements. A store may be opened with other limits each time.
#[derive(Debug, Clone)]
pub struct Config {
    /// Contents of at most this many bytes are kept in their record. Default 64 KiB.
    pub inline_max: u64,
    /// Contents below this size, and versions of them, are never kept as deltas. Default 256 KiB.
    pub delta_min: u64,
    /// A delta's bytes are kept in its record up to this many bytes. Default 64 KiB.
    pub delta_inline_max: u64,
    /// A delta over a delta is merged with it into one of at most this many bytes, however
    /// different their sizes. Default 32 KiB.
    pub delta_merge_max: u64,
    /// The longest chain of deltas; at least 1. Default 16.
    pub delta_depth_max: u32,
    /// A hash tree is kept in its record up to this many bytes. Default 32 KiB.
    pub tree_inline_max: u64,
    /// How many bytes of small contents that were read more than once stay in memory. Default 4 MiB;
    /// with 0 none do.
    pub cache_bytes: u64,
    /// The largest content in bytes. Default 1 TiB: hashing it takes minutes even where it is a
    /// single hole.
    pub size_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inline_max: 64 << 10,
            delta_min: 256 << 10,
            delta_inline_max: 64 << 10,
            delta_merge_max: 32 << 10,
            delta_depth_max: 16,
            tree_inline_max: 32 << 10,
            cache_bytes: 4 << 20,
            size_max: 1 << 40,
        }
    }
}

/// Where the staged bytes of an assembly plan are.
#[derive(Debug)]
pub enum Staged<'a> {
    /// Nothing is staged.
    Nothing,
    /// In memory; a staged address is an index.
    Bytes(&'a [u8]),
    /// In the session's file. It may become the content itself; call
    /// [`StagingFile::discard`] when the commit succeeded, [`StagingFile::reopen`] to go on with
    /// the session when it did not.
    File(&'a mut StagingFile),
}

/// A content that is written and hashed, but not part of the store until
/// [`Contents::commit`]. Dropping it removes what it wrote.
#[derive(Debug)]
pub struct Prepared {
    hash: Hash,
    size: u64,
    form: ContentForm,
    base: Option<Hash>,
    data: Vec<u8>,
    files: Vec<(&'static str, StagedFile)>,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Adds the content unless it exists.
    Add,
    /// Stands for a content that exists.
    Existing,
    /// Replaces how an existing content is kept.
    Rewrite,
}

impl Prepared {
    /// Returns the hash of the content.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns how the content will be kept.
    pub fn form(&self) -> ContentForm {
        self.form
    }

    pub(crate) fn delta(
        hash: Hash,
        size: u64,
        base: Option<Hash>,
        data: Vec<u8>,
        payload: Option<StagedFile>,
    ) -> Self {
        Self {
            hash,
            size,
            form: ContentForm::Delta,
            base,
            data,
            files: payload.map(|file| (DELTA, file)).into_iter().collect(),
            role: Role::Add,
        }
    }
}

/// A file that no record and no session owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The directory it is in.
    pub area: Area,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub len: u64,
    /// When it last changed, where the platform tells.
    pub modified: Option<SystemTime>,
}

/// What the files of a store hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The number of files in `blobs/`.
    pub blobs: u64,
    /// Their bytes, by their lengths.
    pub blob_bytes: u64,
    /// The number of files in `staging/`.
    pub staged: u64,
    /// Their bytes, by their lengths.
    pub staged_bytes: u64,
}

/// The contents of one store.
#[derive(Debug, Clone)]
pub struct Contents {
    files: Option<Arc<dyn Files>>,
    config: Config,
    cache: Arc<SmallContents>,
}

impl Contents {
    /// Keeps everything in records: for a store in memory.
    pub fn in_memory() -> Self {
        Self::new(None, Config::default())
    }

    /// Keeps large contents in the `blobs/` directory of a store, which is made if need be.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn open_store(store: impl Into<PathBuf>, config: Config) -> Result<Self> {
        Ok(Self::with_files(Arc::new(DiskFiles::open(store)?), config))
    }

    /// Keeps large contents in files of any kind.
    pub fn with_files(files: Arc<dyn Files>, config: Config) -> Self {
        Self::new(Some(files), config)
    }

    fn new(files: Option<Arc<dyn Files>>, config: Config) -> Self {
        let cache = Arc::new(SmallContents::new(config.cache_bytes));
        Self {
            files,
            config,
            cache,
        }
    }

    /// Returns the files, for [`StagingFile`]; none where everything is in memory.
    pub fn files(&self) -> Option<&Arc<dyn Files>> {
        self.files.as_ref()
    }

    /// Returns the limits.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Opens a content for reading.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the record or a file of it is missing or damaged; the message
    /// names the hash and the file.
    pub fn open(&self, txn: &dyn ReadTxn, hash: &Hash) -> Result<ContentReader> {
        ContentReader::open(txn, self.files.as_ref(), hash)
    }

    /// Opens a content for reading; nothing where the store has no record of it.
    ///
    /// # Errors
    /// As [`open`](Self::open), for what has a record.
    pub fn find(&self, txn: &dyn ReadTxn, hash: &Hash) -> Result<Option<ContentReader>> {
        ContentReader::find(txn, self.files.as_ref(), hash)
    }

    /// Opens a content for reading, from memory where it is small and was read before; nothing where
    /// the store has no record of it.
    ///
    /// # Errors
    /// As [`open`](Self::open), for what has a record; the store may have lost a content that is
    /// still in memory.
    pub fn find_cached(&self, txn: &dyn ReadTxn, hash: &Hash) -> Result<Option<ContentReader>> {
        if let Some(bytes) = self.cache.get(hash) {
            return Ok(Some(ContentReader::of_bytes(*hash, bytes)));
        }
        let reader = self.find(txn, hash)?;
        if let Some(reader) = &reader
            && let Body::Bytes(bytes) = &reader.body
        {
            self.cache.offer(hash, bytes);
        }
        Ok(reader)
    }

    /// Prepares a content from bytes in memory; a large one is written and synced.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn prepare_bytes(&self, bytes: Vec<u8>) -> Result<Prepared> {
        self.prepare_whole(bytes, true)
    }

    fn prepare_whole(&self, bytes: Vec<u8>, sync: bool) -> Result<Prepared> {
        let size = bytes.len() as u64;
        self.check_size(size)?;
        let files = match &self.files {
            Some(files) if size > self.config.inline_max => files,
            _ => {
                return Ok(Prepared {
                    hash: Hash::of(&bytes),
                    size,
                    form: ContentForm::Inline,
                    base: None,
                    data: bytes,
                    files: Vec::new(),
                    role: Role::Add,
                });
            }
        };
        let hash_all = || {
            let mut hasher = TreeHasher::new();
            hasher.update(&bytes);
            hasher.finish()
        };
        let mut staged = StagedFile::create(files)?;
        let finish = |(hash, nodes): (Hash, Vec<u8>)| {
            let mut tree = TreeSink::new(files);
            tree.append(&nodes)?;
            Ok((hash, tree.finish(self.config.tree_inline_max, sync)?))
        };
        let (hash, tree) = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("alkfs-hash".to_owned());
            let thread = (size > CHUNK).then(|| builder.spawn_scoped(scope, hash_all).ok());
            staged.handle.write_all_at(&bytes, 0)?;
            let hashed = || {
                finish(match thread.flatten() {
                    Some(thread) => thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    None => hash_all(),
                })
            };
            if sync {
                staged.sync_while(size, hashed)
            } else {
                hashed()
            }
        })?;
        Ok(self.prepared_file(hash, size, staged, tree))
    }

    fn prepared_file(&self, hash: Hash, size: u64, staged: StagedFile, tree: KeptTree) -> Prepared {
        let mut files = vec![("", staged)];
        let data = match tree {
            KeptTree::Record(nodes) => nodes,
            KeptTree::File(file) => {
                files.push((TREE, file));
                Vec::new()
            }
        };
        Prepared {
            hash,
            size,
            form: ContentForm::File,
            base: None,
            data,
            files,
            role: Role::Add,
        }
    }

    /// Prepares a file that is filled already, while `build` hands over its tree and its hash.
    pub(crate) fn prepare_received(
        &self,
        size: u64,
        mut file: StagedFile,
        build: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<Hash>,
    ) -> Result<Prepared> {
        let files = self.files.as_ref().ok_or(ErrorKind::Unsupported)?;
        let (hash, tree) = file.sync_while(size, || {
            let mut tree = TreeSink::new(files);
            let hash = build(&mut |nodes| tree.append(nodes))?;
            Ok((hash, tree.finish(self.config.tree_inline_max, true)?))
        })?;
        Ok(self.prepared_file(hash, size, file, tree))
    }

    /// Lists the contents of which a part has arrived.
    ///
    /// Their files are no orphans: they are there to be gone on with.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn partials(&self) -> Result<Vec<PartialInfo>> {
        partial::list(self)
    }

    /// Removes partial contents that no process has open and that `doomed` chooses by their hash and
    /// by when bytes last arrived; returns how many, and the bytes they had, by their lengths.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn remove_partials(
        &self,
        doomed: &mut dyn FnMut(&Hash, Option<SystemTime>) -> bool,
    ) -> Result<(u64, u64)> {
        partial::remove(self, doomed)
    }

    /// Refuses sizes beyond [`Config::size_max`].
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`].
    pub fn check_size(&self, size: u64) -> Result<()> {
        let max = self.config.size_max;
        if size <= max {
            return Ok(());
        }
        let detail = format!("a content can have {max} bytes at most");
        Err(Error::with_detail(ErrorKind::TooLarge, detail))
    }

    /// Prepares a content from a stream, in a few MiB of memory, hashing on the way.
    ///
    /// `size_hint` is how many bytes to expect. Without `sync`, a large content is synced by
    /// [`sync`](Self::sync) or at the latest by [`commit`](Self::commit), which is cheaper for
    /// many contents at once.
    ///
    /// # Errors
    /// What the reader or the operating system reports. An [`Error`] that travels in the reader's
    /// `io::Error` comes back as it was.
    pub fn prepare_read(
        &self,
        reader: &mut dyn Read,
        size_hint: Option<u64>,
        sync: bool,
    ) -> Result<Prepared> {
        let Some(files) = &self.files else {
            let mut bytes = Vec::new();
            reader
                .take(self.config.size_max + 1)
                .read_to_end(&mut bytes)?;
            return self.prepare_whole(bytes, sync);
        };
        let start_max = self.config.inline_max.max(CHUNK);
        let expected = size_hint.unwrap_or(0).min(start_max) + 1;
        let mut start = Vec::with_capacity(expected as usize);
        reader.take(start_max + 1).read_to_end(&mut start)?;
        if start.len() as u64 <= start_max {
            return self.prepare_whole(start, sync);
        }
        let mut fill = |buffer: &mut Vec<u8>| {
            if start.is_empty() {
                buffer.clear();
                reader.take(CHUNK).read_to_end(buffer)?;
            } else {
                *buffer = std::mem::take(&mut start);
            }
            Ok(())
        };
        self.ingest(files, &mut fill, sync)
    }

    /// Writes a stream of buffers to a new file; an empty buffer ends it.
    fn ingest(
        &self,
        files: &Arc<dyn Files>,
        fill: &mut dyn FnMut(&mut Vec<u8>) -> Result<()>,
        sync: bool,
    ) -> Result<Prepared> {
        let mut staged = StagedFile::create(files)?;
        let mut hasher = BackgroundHasher::new(TreeSink::new(files));
        let mut buffer = Vec::new();
        let mut size = 0;
        let mut flushed = 0;
        loop {
            fill(&mut buffer)?;
            if buffer.is_empty() {
                break;
            }
            self.check_size(size + buffer.len() as u64)?;
            staged.handle.write_all_at(&buffer, size)?;
            size += buffer.len() as u64;
            buffer = hasher.feed(buffer)?;
            if size - flushed >= WRITEBACK {
                staged.handle.start_writeback(flushed, size - flushed);
                flushed = size;
            }
        }
        let finish = || {
            let (hash, tree) = hasher.finish()?;
            Ok((hash, tree.finish(self.config.tree_inline_max, sync)?))
        };
        let (hash, tree) = if sync {
            staged.sync_while(size, finish)?
        } else {
            finish()?
        };
        Ok(self.prepared_file(hash, size, staged, tree))
    }

    /// Prepares the content that a write session made of a base and its staged bytes.
    ///
    /// The cost is that of the staged bytes where a delta will do, and of the whole content where
    /// much of it is new. Deltas over deltas are merged now and then, which adds to the cost of each
    /// staged byte a factor that grows with the logarithm of the content's size, over many versions. Where the plan changes nothing, the result stands for the base.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the base is damaged where it is needed,
    /// [`ErrorKind::InvalidInput`] where the plan does not fit the base or the staged bytes, and
    /// what the operating system reports.
    pub fn prepare_plan(
        &self,
        txn: &dyn ReadTxn,
        base: Option<&Hash>,
        staged: Staged<'_>,
        plan: &AssemblyPlan,
    ) -> Result<Prepared> {
        let base = match base {
            Some(hash) if uses_base(plan) => Some(self.open(txn, hash)?),
            _ => None,
        };
        self.prepare_plan_over(base.as_ref(), staged, plan)
    }

    /// As [`prepare_plan`](Self::prepare_plan), over a base that was opened before: no transaction
    /// is held while much is copied.
    ///
    /// # Errors
    /// As [`prepare_plan`](Self::prepare_plan).
    pub fn prepare_plan_over(
        &self,
        base: Option<&ContentReader>,
        mut staged: Staged<'_>,
        plan: &AssemblyPlan,
    ) -> Result<Prepared> {
        let size = plan.size;
        self.check_size(size)?;
        let assembly = Assembly::new(plan, base, &staged)?;
        if let (Some(base), [only]) = (base, &plan.segments[..])
            && only.source == Source::Base(0)
            && size == base.size()
        {
            return Ok(Prepared {
                hash: base.hash(),
                size,
                form: ContentForm::Inline,
                base: None,
                data: Vec::new(),
                files: Vec::new(),
                role: Role::Existing,
            });
        }
        let files = match &self.files {
            Some(files) if size > self.config.inline_max => files,
            _ => {
                let len = usize::try_from(size).map_err(|_| ErrorKind::TooLarge)?;
                let mut bytes = Vec::new();
                bytes
                    .try_reserve_exact(len)
                    .map_err(|_| ErrorKind::TooLarge)?;
                bytes.resize(len, 0);
                assembly.fill(0, &mut bytes)?;
                return self.prepare_whole(bytes, true);
            }
        };
        if let Some((bytes, plan)) = hollow(base, &staged, plan) {
            return self.prepare_plan_over(None, Staged::Bytes(&bytes), &plan);
        }
        // A session's file has its bytes where the session wrote them, which need not be where the
        // plan wants them.
        let in_place = plan.is_in_place();
        let is_session_file = matches!(staged, Staged::File(_)) && in_place && !uses_base(plan);
        if !is_session_file
            && self.suits_delta(base, plan)
            && let Some(prepared) = assembly.prepare_delta(files, &self.config)?
        {
            return Ok(prepared);
        }
        if let Staged::File(session) = &mut staged
            && in_place
        {
            let (hash, tree) = session.seal(plan, base, self.config.tree_inline_max)?;
            let name = session.id().to_string();
            let data = session.data().clone();
            let file = StagedFile::of_session(files, name, data, session.place());
            return Ok(self.prepared_file(hash, size, file, tree));
        }
        let mut done = 0;
        let mut fill = |buffer: &mut Vec<u8>| {
            buffer.resize((size - done).min(CHUNK) as usize, 0);
            assembly.fill(done, buffer)?;
            done += buffer.len() as u64;
            Ok(())
        };
        self.ingest(files, &mut fill, true)
    }

    fn suits_delta(&self, base: Option<&ContentReader>, plan: &AssemblyPlan) -> bool {
        let min = self.config.delta_min;
        let base_suits = match base {
            Some(base) if uses_base(plan) => {
                base.size() >= min && !matches!(base.body, Body::Bytes(_))
            }
            _ => true,
        };
        base_suits
            && plan.size >= min
            && plan.staged_len() <= plan.size / FULL_PART
            && plan.segments.len() <= SEGMENTS_MAX
    }

    /// Syncs what was prepared without, so that [`commit`](Self::commit) need not do it inside the
    /// write transaction.
    ///
    /// # Errors
    /// What the operating system reports; then the contents must be prepared again.
    pub fn sync(&self, prepared: &mut [Prepared]) -> Result<()> {
        start_writeback(prepared.iter());
        for (_, file) in prepared.iter_mut().flat_map(|p| &mut p.files) {
            file.sync()?;
        }
        Ok(())
    }

    /// Makes prepared contents part of the store, inside the write transaction that refers to them.
    ///
    /// The files are moved to `blobs/` and the directory is synced once; then the records are
    /// added. A content that exists is not stored again. If the transaction is rolled back, files
    /// may stay behind; they are replaced when the content comes again, and else swept. The same
    /// contents may be committed again after that.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where garbage collection removed the base of a delta meanwhile: prepare
    /// it again. What the operating system reports; the transaction must be rolled back then.
    pub fn commit(
        &self,
        txn: &mut dyn WriteTxn,
        prepared: &mut [Prepared],
        now: Timestamp,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        let mut adding = Vec::with_capacity(prepared.len());
        for content in prepared {
            if !seen.insert(content.hash) {
                continue;
            }
            let exists = match content.role {
                // Adding an inline record tells by itself.
                Role::Add if content.form == ContentForm::Inline => false,
                _ => self.exists(txn, content)?,
            };
            match (content.role, exists) {
                (Role::Existing, true) | (Role::Add, true) => continue,
                (Role::Existing | Role::Rewrite, false) => return Err(gone(&content.hash)),
                (Role::Add, false) | (Role::Rewrite, true) => {}
            }
            if let Some(base) = &content.base
                && !txn.has_content(base)?
            {
                return Err(gone(base));
            }
            adding.push(content);
        }
        start_writeback(adding.iter().map(|content| &**content));
        let mut moved = false;
        for content in &mut adding {
            for (ending, file) in &mut content.files {
                let name = format!("{}{ending}", content.hash);
                file.publish(&name).map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound => gone(&content.hash),
                    _ => Error::from(e),
                })?;
                moved = true;
            }
        }
        if let (true, Some(files)) = (moved, &self.files) {
            files.sync_dir(Area::Blobs)?;
        }
        for content in adding {
            let record = ContentRecord {
                hash: content.hash,
                size: content.size,
                form: content.form,
                base: content.base,
                data: std::mem::take(&mut content.data),
                created: now,
            };
            let added = match content.role {
                Role::Rewrite => txn.set_content(&record),
                _ => match txn.add_content(&record) {
                    // The record of a content whose file was lost.
                    Ok(false) if record.form != ContentForm::Inline => txn.set_content(&record),
                    result => result.map(drop),
                },
            };
            content.data = record.data;
            added?;
        }
        Ok(())
    }

    /// Tells whether the store holds a content; one whose file is missing does not count.
    fn exists(&self, txn: &dyn ReadTxn, content: &Prepared) -> Result<bool> {
        let Some(record) = txn.content(&content.hash)? else {
            return Ok(false);
        };
        if content.role != Role::Add || record.form != ContentForm::File {
            return Ok(true);
        }
        let Some(files) = &self.files else {
            return Ok(true);
        };
        match files.open(Area::Blobs, &content.hash.to_hex()) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads all bytes of a content and compares them and its hash tree with the hash.
    ///
    /// `progress` is told how many bytes are done; `Break` ends the work.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where something differs, naming the hash and the file;
    /// [`ErrorKind::Cancelled`] after `Break`.
    pub fn verify(
        &self,
        txn: &dyn ReadTxn,
        hash: &Hash,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<()> {
        self.open(txn, hash)?.verify(progress)
    }

    /// Prepares a delta to be kept in full; `None` for a content that is none.
    ///
    /// After the commit the delta's own file, if it had one, is an orphan.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the bytes do not fit the hash; what the operating system
    /// reports.
    pub fn flatten(&self, txn: &dyn ReadTxn, hash: &Hash) -> Result<Option<Prepared>> {
        let reader = self.open(txn, hash)?;
        let (Some(files), Body::Delta(_)) = (&self.files, &reader.body) else {
            return Ok(None);
        };
        let mut done = 0;
        let mut fill = |buffer: &mut Vec<u8>| {
            buffer.resize((reader.size() - done).min(CHUNK) as usize, 0);
            done += reader.read_at(done, buffer)? as u64;
            Ok(())
        };
        let mut prepared = self.ingest(files, &mut fill, true)?;
        if prepared.hash != *hash {
            return Err(corrupt(hash, "its bytes do not fit the hash"));
        }
        prepared.role = Role::Rewrite;
        Ok(Some(prepared))
    }

    /// Lists the files that no record and no session owns.
    ///
    /// Files that are being prepared or staged now are not listed. A file whose name is not one of
    /// this store's is left alone.
    ///
    /// # Errors
    /// What the store or the operating system reports.
    pub fn orphans(&self, txn: &dyn ReadTxn) -> Result<Vec<Orphan>> {
        let mut orphans = Vec::new();
        let Some(files) = &self.files else {
            return Ok(orphans);
        };
        let moved = self.moved(txn)?;
        for area in [Area::Blobs, Area::Staging] {
            for file in files.list(area)? {
                if self.is_orphan(txn, area, &file.name, &moved)? {
                    orphans.push(Orphan {
                        area,
                        name: file.name,
                        len: file.len,
                        modified: file.modified,
                    });
                }
            }
        }
        Ok(orphans)
    }

    /// Returns the files in `blobs/` that are a session's only one.
    fn moved(&self, txn: &dyn ReadTxn) -> Result<HashSet<String>> {
        let mut moved = HashSet::new();
        let Some(files) = &self.files else {
            return Ok(moved);
        };
        for file in files.list(Area::Staging)? {
            let session = file.name.strip_suffix(MOVED);
            if let Some(session) = session
                && let Ok(id) = session.parse()
                && txn.session(SessionId(id))?.is_some()
            {
                moved.extend(moved_to(files, session)?);
            }
        }
        Ok(moved)
    }

    fn is_orphan(
        &self,
        txn: &dyn ReadTxn,
        area: Area,
        name: &str,
        moved: &HashSet<String>,
    ) -> Result<bool> {
        match area {
            Area::Blobs if moved.contains(name) => Ok(false),
            Area::Blobs => {
                let Some((hash, ending)) = parse_blob(name) else {
                    return Ok(false);
                };
                let Some(record) = txn.content(&hash)? else {
                    return Ok(true);
                };
                Ok(match (record.form, ending) {
                    (ContentForm::File, "") => false,
                    (ContentForm::File, TREE) => !record.data.is_empty(),
                    (ContentForm::Delta, DELTA) => {
                        matches!(Delta::decode(&record.data, u64::MAX), Ok((_, Some(_))))
                    }
                    _ => true,
                })
            }
            Area::Staging => {
                let Some(session) = parse_staged(name) else {
                    return Ok(false);
                };
                if let Some(id) = session
                    && txn.session(id)?.is_some()
                {
                    return Ok(false);
                }
                Ok(!self.is_owned(name)?)
            }
        }
    }

    fn is_owned(&self, name: &str) -> Result<bool> {
        let Some(files) = &self.files else {
            return Ok(false);
        };
        match files.is_owned(Area::Staging, name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            result => Ok(result?),
        }
    }

    /// Removes those of the files that are still orphans, and changed at least `min_age` ago;
    /// returns how many, and the bytes they had.
    ///
    /// Runs inside a write transaction, because commits move files to `blobs/` inside theirs.
    /// A `min_age` of a minute spares the files that are just being created.
    ///
    /// # Errors
    /// What the store or the operating system reports.
    pub fn sweep(
        &self,
        txn: &mut dyn WriteTxn,
        orphans: &[Orphan],
        min_age: Duration,
    ) -> Result<(u64, u64)> {
        let Some(files) = &self.files else {
            return Ok((0, 0));
        };
        let moved = self.moved(&*txn)?;
        let (mut count, mut bytes) = (0, 0);
        for orphan in orphans {
            let age = orphan.modified.and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age < min_age)
                || !self.is_orphan(&*txn, orphan.area, &orphan.name, &moved)?
            {
                continue;
            }
            let removed = match orphan.area {
                Area::Blobs => files.remove(orphan.area, &orphan.name).map(|()| true),
                Area::Staging => files.remove_unowned(orphan.area, &orphan.name),
            };
            match removed {
                Ok(true) => {
                    count += 1;
                    bytes += orphan.len;
                }
                Ok(false) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok((count, bytes))
    }

    /// Counts the files and their bytes.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        if let Some(files) = &self.files {
            for file in files.list(Area::Blobs)? {
                usage.blobs += 1;
                usage.blob_bytes += file.len;
            }
            for file in files.list(Area::Staging)? {
                usage.staged += 1;
                usage.staged_bytes += file.len;
            }
        }
        Ok(usage)
    }
}

/// Sends the files of several contents to the disk together, before each is waited for.
fn start_writeback<'a>(prepared: impl Iterator<Item = &'a Prepared> + Clone) {
    let files = prepared.flat_map(|content| &content.files);
    if files.clone().count() > 1 {
        files.for_each(|(_, file)| file.start_writeback());
    }
}

/// Returns the bytes and the plan of a content that is mostly a hole, where only a base that is kept
/// as bytes keeps it from being a delta over nothing: the base's bytes go with those that were
/// staged.
fn hollow(
    base: Option<&ContentReader>,
    staged: &Staged<'_>,
    plan: &AssemblyPlan,
) -> Option<(Vec<u8>, AssemblyPlan)> {
    let Body::Bytes(base) = &base?.body else {
        return None;
    };
    let staged = match staged {
        Staged::Nothing => &[],
        Staged::Bytes(bytes) => *bytes,
        Staged::File(_) => return None,
    };
    if !uses_base(plan) || (base.len() + staged.len()) as u64 > plan.size / FULL_PART {
        return None;
    }
    let mut plan = plan.clone();
    for segment in &mut plan.segments {
        segment.source = match segment.source {
            Source::Base(at) => Source::Staged(at),
            Source::Staged(at) => Source::Staged(base.len() as u64 + at),
            Source::Zeros => Source::Zeros,
        };
    }
    Some(([base, staged].concat(), plan))
}

fn uses_base(plan: &AssemblyPlan) -> bool {
    plan.segments
        .iter()
        .any(|s| matches!(s.source, Source::Base(_)))
}

/// What a commit fails with where garbage collection was faster.
const GONE: &str = "was collected meanwhile: try again";

fn gone(hash: &Hash) -> Error {
    Error::with_detail(ErrorKind::Busy, format!("content {hash} {GONE}"))
}

/// Tells whether a [`commit`](Contents::commit) failed because garbage collection removed what the
/// contents were prepared from: preparing them again helps.
pub fn is_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::Busy && error.detail().ends_with(GONE)
}

/// Splits the name of a file in `blobs/`.
fn parse_blob(name: &str) -> Option<(Hash, &str)> {
    let (hash, ending) = name.split_at_checked(64)?;
    let is_ours = matches!(ending, "" | TREE | DELTA);
    let hash = hash.parse().ok().filter(|_| is_ours)?;
    Some((hash, ending))
}

/// Tells which session a file in `staging/` belongs to, or that it belongs to none.
fn parse_staged(name: &str) -> Option<Option<SessionId>> {
    if let Some(numbers) = name.strip_prefix(PREPARED) {
        let is_ours = numbers.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        return is_ours.then_some(None);
    }
    let endings = [LOG, SECOND_NAME, MOVED, COPY];
    let bare = endings.iter().find_map(|ending| name.strip_suffix(ending));
    let id = bare.unwrap_or(name).parse().ok()?;
    Some(Some(SessionId(id)))
}

pub(crate) fn verify(
    reader: &ContentReader,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<()> {
    let tree = match reader.body {
        Body::Bytes(_) => None,
        _ => Some(reader.tree()?),
    };
    let mut check = tree.as_ref().map(|tree| tree.check());
    let mut tree_fits = true;
    let mut hasher = TreeHasher::new();
    let mut buf = vec![0; CHUNK.min(reader.size().max(GROUP_LEN)) as usize];
    while hasher.size() < reader.size() {
        let n = reader.read_at(hasher.size(), &mut buf)?;
        hasher.update(&buf[..n]);
        if let Some(check) = &mut check {
            tree_fits &= check.fits(&hasher.take_nodes())?;
        }
        if progress(hasher.size()).is_break() {
            return Err(ErrorKind::Cancelled.into());
        }
    }
    let (computed, nodes) = hasher.finish();
    if let Some(check) = &mut check {
        tree_fits &= check.fits(&nodes)?;
    }
    let hash = reader.hash();
    let is_good = computed == hash;
    if is_good && tree_fits {
        return Ok(());
    }
    let place = match &reader.body {
        Body::Bytes(_) => "its record".to_owned(),
        Body::File { nodes, .. } if is_good && !nodes.is_empty() => "its record".to_owned(),
        Body::File { .. } if is_good => format!("blobs/{hash}{TREE}"),
        Body::File { .. } => format!("blobs/{hash}"),
        Body::Delta(body) => {
            if let Some(base) = &body.base {
                verify(base, &mut |_| progress(reader.size()))?;
            }
            match body.payload {
                Payload::Inline { .. } => "its record".to_owned(),
                Payload::File(_) => format!("blobs/{hash}{DELTA}"),
            }
        }
    };
    Err(corrupt(&hash, format_args!("{place} is damaged")))
}
