//! Contents that arrive in pieces, from peers that are not trusted.
//!
//! The bytes go to `staging/r<hash>-<size>-<slot>` at their final offsets, the nodes of the hash
//! tree to a file beside it (`.tree`), and a journal (`.log`) says which groups are there. Nothing
//! gets there that a [`Verifier`] has not followed down from the hash. The journal is believed as
//! far as a restart of the machine allows: what was written before the process died, or what was
//! synced before the power was lost. A complete one becomes a content by renaming its file.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use blake3::Hasher;
use blake3::hazmat::HasherExt;
use parking_lot::Mutex;

use crate::contents::{Contents, Prepared};
use crate::files::{Area, FileHandle, Files, Listed};
use crate::hash_tree::{
    CV_LEN, Cv, GROUP_LEN, NodeBlock, Nodes, TreeBuilder, group_count, is_complete, merge,
    merge_root, node_count, position, spine_slot,
};
use crate::staged::{MOVED, SECOND_NAME, SharedPlace, StagedFile, remove_if_there};

/// The number of bytes of a BLAKE3 chunk, the smallest piece that can be verified.
pub const CHUNK_LEN: u64 = 1024;
/// The number of chunks of a full group.
pub const GROUP_CHUNKS: u64 = GROUP_LEN / CHUNK_LEN;

/// The first letter of the names of partial contents.
const PREFIX: char = 'r';
const TREE_FILE: &str = ".tree";
const LOG_FILE: &str = ".log";
/// How many files one hash may have: sizes that peers claimed, and processes that receive it.
const SLOTS_MAX: usize = 8;
/// How often, and for how long each time, a file that has an owner is waited for.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_millis(1);
/// How many nodes wait to be written.
const NODES_MAX: usize = 1024;
/// How many bytes arrive between two syncs, at least.
const CHECKPOINT: u64 = 16 << 20;

/// Returns the number of chunks a content has: at least one.
pub fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK_LEN).max(1)
}

/// Returns the chaining value of a subtree that is not the root.
///
/// `bytes` are those of up to [`GROUP_CHUNKS`] chunks from `chunk` on, a subtree of the content's.
pub fn subtree_cv(chunk: u64, bytes: &[u8]) -> Cv {
    Hasher::new()
        .set_input_offset(chunk * CHUNK_LEN)
        .update(bytes)
        .finalize_non_root()
}

/// Tells whether two children make a subtree, or the whole content.
pub fn is_parent_of(expected: &Expected, hash: &Hash, left: &Cv, right: &Cv) -> bool {
    match expected.cv {
        None => merge_root(left, right) == *hash,
        Some(cv) => merge(left, right) == cv,
    }
}

/// Tells whether bytes are those of a subtree, or of the whole content.
pub fn is_leaf_of(expected: &Expected, hash: &Hash, bytes: &[u8]) -> bool {
    match expected.cv {
        None => Hash::of(bytes) == *hash,
        Some(cv) => subtree_cv(expected.start, bytes) == cv,
    }
}

/// A subtree whose chaining value is known for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Its first chunk.
    pub start: u64,
    /// The chunk after its last.
    pub end: u64,
    /// Its chaining value; nothing for the whole content, which has its hash.
    pub cv: Option<Cv>,
}

impl Expected {
    /// The whole content of `size` bytes.
    pub fn root(size: u64) -> Self {
        Self {
            start: 0,
            end: chunk_count(size),
            cv: None,
        }
    }

    /// Returns the first chunk of the right child, for a subtree of two chunks or more.
    pub fn middle(&self) -> u64 {
        let chunks = self.end - self.start;
        self.start + chunks.next_power_of_two() / 2
    }

    /// Returns the two children.
    pub fn children(&self, left: Cv, right: Cv) -> [Self; 2] {
        let middle = self.middle();
        let child = |start, end, cv| Self {
            start,
            end,
            cv: Some(cv),
        };
        [
            child(self.start, middle, left),
            child(middle, self.end, right),
        ]
    }

    /// Returns the bytes it covers in a content of `size` bytes.
    pub fn bytes(&self, size: u64) -> Range<u64> {
        self.start * CHUNK_LEN..size.min(self.end * CHUNK_LEN)
    }

    /// Returns the groups it covers.
    pub fn groups(&self) -> Range<u64> {
        self.start / GROUP_CHUNKS..self.end.div_ceil(GROUP_CHUNKS)
    }
}

/// Follows a stream of parents and leaves down from a hash, in pre-order.
///
/// It needs memory for two chaining values per level, and for one group.
#[derive(Debug)]
pub struct Verifier {
    hash: Hash,
    size: u64,
    expected: Vec<Expected>,
    pieces: Pieces,
}

/// A group that arrives in pieces.
#[derive(Debug, Default)]
struct Pieces {
    group: u64,
    chunks: u32,
    bytes: Vec<u8>,
}

fn refused(detail: impl Into<String>) -> Error {
    Error::with_detail(ErrorKind::Corrupt, detail)
}

impl Verifier {
    /// Starts at the root of a content that is said to have `size` bytes.
    pub fn new(hash: Hash, size: u64) -> Self {
        Self {
            hash,
            size,
            expected: vec![Expected::root(size)],
            pieces: Pieces::default(),
        }
    }

    /// Returns the size that the stream claims; proven when the last group is there.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the subtree that starts at a chunk, and forgets those before it: they were left out.
    fn take(&mut self, start: u64) -> Result<Expected> {
        while let Some(top) = self.expected.pop() {
            if top.end > start {
                if top.start == start {
                    return Ok(top);
                }
                break;
            }
        }
        Err(refused(format!(
            "content {}: chunk {start} comes where nothing is known of it",
            self.hash
        )))
    }

    /// Takes a parent: the first chunk below it, the first of its right child, and its children.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it does not follow from the hash.
    pub fn parent(
        &mut self,
        start: u64,
        middle: u64,
        left: Cv,
        right: Cv,
    ) -> Result<[Expected; 2]> {
        let top = self.take(start)?;
        let is_split_here = top.end - top.start > 1 && top.middle() == middle;
        if !is_split_here || !is_parent_of(&top, &self.hash, &left, &right) {
            let hash = self.hash;
            return Err(refused(format!(
                "content {hash}: a parent at chunk {start} does not fit"
            )));
        }
        let children = top.children(left, right);
        self.expected.extend(children.iter().rev());
        Ok(children)
    }

    /// Takes bytes; returns the group that they complete.
    ///
    /// # Errors
    /// As [`parent`](Self::parent).
    pub fn leaf<'a>(&'a mut self, offset: u64, bytes: &'a [u8]) -> Result<Option<(u64, &'a [u8])>> {
        let hash = self.hash;
        let wrong = |what| {
            Err(refused(format!(
                "content {hash}: the bytes at {offset} {what}"
            )))
        };
        if !offset.is_multiple_of(CHUNK_LEN) {
            return wrong("are no chunk");
        }
        let top = self.take(offset / CHUNK_LEN)?;
        let range = top.bytes(self.size);
        let is_in_group = top.groups().end - top.groups().start <= 1;
        if !is_in_group || range != (offset..offset + bytes.len() as u64) {
            return wrong("have another length");
        }
        if !is_leaf_of(&top, &self.hash, bytes) {
            return wrong("do not fit");
        }
        let group = offset / GROUP_LEN;
        let start = group * GROUP_LEN;
        let len = GROUP_LEN.min(self.size - start);
        if bytes.len() as u64 == len {
            return Ok(Some((group, bytes)));
        }
        let pieces = &mut self.pieces;
        if pieces.group != group || pieces.bytes.len() as u64 != len {
            pieces.group = group;
            pieces.chunks = 0;
            pieces.bytes = vec![0; len as usize];
        }
        pieces.bytes[(offset - start) as usize..][..bytes.len()].copy_from_slice(bytes);
        for chunk in top.start..top.end {
            pieces.chunks |= 1 << (chunk % GROUP_CHUNKS);
        }
        let all = u32::MAX >> (u32::BITS - chunk_count(len) as u32);
        Ok((pieces.chunks == all).then_some((group, &pieces.bytes[..])))
    }
}

/// A sorted set of numbers, kept as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Returns the ranges, sorted, none touching the next.
    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Returns how many numbers there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// Tells whether a number is there.
    pub fn contains(&self, number: u64) -> bool {
        let next = self.0.partition_point(|r| r.end <= number);
        self.0.get(next).is_some_and(|r| r.start <= number)
    }

    fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        if first == last {
            self.0.insert(first, range);
            return;
        }
        let start = range.start.min(self.0[first].start);
        let end = range.end.max(self.0[last - 1].end);
        self.0[first] = start..end;
        self.0.drain(first + 1..last);
    }
}

/// A file in memory, for what is too small to be kept.
#[derive(Debug, Default)]
struct MemoryFile(Mutex<Vec<u8>>);

impl FileHandle for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock();
        let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..));
        let rest = rest.unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.0.lock();
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        if bytes.len() < at + new.len() {
            bytes.resize(at + new.len(), 0);
        }
        bytes[at..at + new.len()].copy_from_slice(new);
        Ok(new.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.0.lock().resize(len, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The nodes of a partial content's tree, as far as they are known.
#[derive(Debug, Clone)]
pub struct PartialReader {
    hash: Hash,
    size: u64,
    data: Arc<dyn FileHandle>,
    tree: Arc<dyn FileHandle>,
}

impl PartialReader {
    /// Returns the hash of the content.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Returns the size in bytes that was claimed.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buf` from an offset; returns how many bytes. What is not there reads as anything.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let len = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        Ok(self.data.read_full_at(&mut buf[..len], offset)?)
    }

    fn node_at(&self, position: u64) -> Result<Cv> {
        let mut node = [0; CV_LEN as usize];
        let n = self.tree.read_full_at(&mut node, position * CV_LEN)?;
        // Nothing has the chaining value of all zeros: what was never written is not there.
        if n < node.len() || node == [0; CV_LEN as usize] {
            let detail = format!("content {}: a part of its tree is not here", self.hash);
            return Err(Error::with_detail(ErrorKind::NotFound, detail));
        }
        Ok(node)
    }
}

impl Nodes for PartialReader {
    fn node(&self, level: u32, index: u64) -> Result<Cv> {
        self.node_at(position(level, index))
    }

    fn spine(&self, start: u64, end: u64) -> Result<Cv> {
        debug_assert_eq!(end, group_count(self.size));
        self.node_at(node_count(end) + spine_slot(start))
    }
}

/// What is known of a partial content without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialInfo {
    /// The hash that was asked for.
    pub hash: Hash,
    /// The size in bytes that a peer claimed.
    pub size: u64,
    /// When bytes last arrived, where the platform tells.
    pub modified: Option<SystemTime>,
    /// Whether a process is receiving it, or has it open.
    pub in_use: bool,
}

/// A content of which verified groups are there.
#[derive(Debug)]
pub struct Partial {
    reader: PartialReader,
    groups: Ranges,
    /// Groups that the journal does not have yet.
    fresh: Ranges,
    /// Nodes that are not written yet, by their places.
    nodes: BTreeMap<u64, Cv>,
    unsynced: u64,
    journal: Option<Journal>,
    checkpoint: Checkpoint,
}

/// A sync that runs while more arrives.
#[derive(Debug, Default)]
struct Checkpoint(Option<JoinHandle<io::Result<u64>>>);

impl Checkpoint {
    /// Begins to sync files, of which the journal has so many records.
    fn begin(&mut self, files: [Arc<dyn FileHandle>; 3], records: u64) -> io::Result<()> {
        let sync = move || {
            files.iter().try_for_each(|file| file.sync_data())?;
            Ok(records)
        };
        let builder = std::thread::Builder::new().name("alkfs-sync".to_owned());
        self.0 = Some(builder.spawn(sync)?);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.0.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for its end; returns how many records are true on the disk now.
    fn end(&mut self) -> io::Result<Option<u64>> {
        let thread = self.0.take().map(JoinHandle::join);
        let ended = thread.map(|e| e.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.transpose()
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // The thread holds the files, which another may want to own next.
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Journal {
    files: Arc<dyn Files>,
    name: String,
    log: Arc<dyn FileHandle>,
    len: u64,
    /// Whether the names of the files are on the disk.
    is_named: bool,
}

const RECORD_LEN: usize = 32;
const START: u64 = u64::from_le_bytes(*b"alkfspt1");
const GROUPS: u64 = 1;
/// What the records before it say is on the disk, or what so many records from the start on say.
const SYNCED: u64 = 2;
const BOOT: u64 = 3;

fn encode(kind: u64, a: u64, b: u64) -> [u8; RECORD_LEN] {
    let mut bytes = [0; RECORD_LEN];
    bytes[..8].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&a.to_le_bytes());
    bytes[16..24].copy_from_slice(&b.to_le_bytes());
    let check = blake3::hash(&bytes[..24]);
    bytes[24..].copy_from_slice(&check.as_bytes()[..8]);
    bytes
}

fn decode(bytes: &[u8; RECORD_LEN]) -> Option<(u64, u64, u64)> {
    let number = |at: usize| bytes[at..].first_chunk().copied().map(u64::from_le_bytes);
    let (kind, a, b) = (number(0)?, number(8)?, number(16)?);
    (encode(kind, a, b) == *bytes).then_some((kind, a, b))
}

impl Partial {
    /// Opens what is there of a content, or begins it. One handle at a time owns it; where another
    /// process has it, this one gets a file of its own.
    ///
    /// A content that will be kept in its record is kept in memory until then, and starts anew.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] beyond [`Config::size_max`](crate::Config::size_max),
    /// [`ErrorKind::Busy`] where too many sizes or processes are at it, and what the operating
    /// system reports.
    pub fn open(contents: &Contents, hash: Hash, size: u64) -> Result<Self> {
        contents.check_size(size)?;
        let files = match contents.files() {
            Some(files) if size > contents.config().inline_max => files,
            _ => return Ok(Self::in_memory(hash, size)),
        };
        let mut others = 0;
        for slot in 0..SLOTS_MAX {
            let name = format!("{PREFIX}{hash}-{size}-{slot}");
            match Self::resume(files, &name, hash, size) {
                Ok(Some(partial)) => return Ok(partial),
                Ok(None) => {}
                Err(e) if e.kind() == ErrorKind::Locked => {
                    others += 1;
                    continue;
                }
                Err(e) => return Err(e),
            }
            let of_hash = find(contents)?.into_iter().filter(|p| p.1 == hash);
            if of_hash.count() >= SLOTS_MAX {
                break;
            }
            match Self::create(files, &name, hash, size) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                created => return created,
            }
        }
        let detail =
            format!("content {hash} is being received {others} times, or with other sizes");
        Err(Error::with_detail(ErrorKind::Busy, detail))
    }

    /// Opens what is there of a content, if anything is.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] where somebody else has all of it open; what the operating system
    /// reports.
    pub fn find(contents: &Contents, hash: Hash, size: u64) -> Result<Option<Self>> {
        let Some(files) = contents.files() else {
            return Ok(None);
        };
        let mut none = Ok(None);
        for slot in 0..SLOTS_MAX {
            let name = format!("{PREFIX}{hash}-{size}-{slot}");
            match Self::resume(files, &name, hash, size) {
                Ok(None) => {}
                Err(e) if e.kind() == ErrorKind::Locked => none = Err(e),
                found => return found,
            }
        }
        none
    }

    fn in_memory(hash: Hash, size: u64) -> Self {
        Self {
            reader: PartialReader {
                hash,
                size,
                data: Arc::new(MemoryFile::default()),
                tree: Arc::new(MemoryFile::default()),
            },
            groups: Ranges::default(),
            fresh: Ranges::default(),
            nodes: BTreeMap::new(),
            unsynced: 0,
            checkpoint: Checkpoint::default(),
            journal: None,
        }
    }

    fn create(files: &Arc<dyn Files>, name: &str, hash: Hash, size: u64) -> Result<Self> {
        let data = files.create(Area::Staging, name)?;
        for ending in [TREE_FILE, LOG_FILE, SECOND_NAME, MOVED] {
            remove_if_there(files, &format!("{name}{ending}"))?;
        }
        let tree = files.create(Area::Staging, &format!("{name}{TREE_FILE}"))?;
        let log = files.create(Area::Staging, &format!("{name}{LOG_FILE}"))?;
        data.set_len(size)?;
        log.write_all_at(&encode(START, size, files.boot()), 0)?;
        Ok(Self {
            reader: PartialReader {
                hash,
                size,
                data,
                tree,
            },
            groups: Ranges::default(),
            fresh: Ranges::default(),
            nodes: BTreeMap::new(),
            unsynced: 0,
            checkpoint: Checkpoint::default(),
            journal: Some(Journal {
                files: files.clone(),
                name: name.to_owned(),
                log,
                len: RECORD_LEN as u64,
                is_named: false,
            }),
        })
    }

    /// Returns nothing where there is none, or none that can be gone on with.
    fn resume(files: &Arc<dyn Files>, name: &str, hash: Hash, size: u64) -> Result<Option<Self>> {
        let mut tries = 0;
        let data = loop {
            match files.reopen(Area::Staging, name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                // Whoever looks whether it has an owner has it for a moment.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && tries < LOOKS => {
                    tries += 1;
                    std::thread::sleep(LOOK);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(ErrorKind::Locked.into());
                }
                opened => break opened?,
            }
        };
        let open = |ending| files.reopen(Area::Staging, &format!("{name}{ending}"));
        let rest = open(TREE_FILE).and_then(|tree| Ok((tree, open(LOG_FILE)?)));
        let (tree, log) = match rest {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files.remove(Area::Staging, name)?;
                return Ok(None);
            }
            rest => rest?,
        };
        let (records, lost_power) = read_journal(files, &*log, size)?;
        let Some(records) = records.filter(|_| data.size().is_ok_and(|len| len == size)) else {
            files.remove(Area::Staging, name)?;
            return Ok(None);
        };
        let mut groups = Ranges::default();
        for &(kind, a, b) in &records {
            if kind == GROUPS && a <= b && b <= group_count(size) {
                groups.insert(a..b);
            }
        }
        let mut partial = Self {
            reader: PartialReader {
                hash,
                size,
                data,
                tree,
            },
            groups,
            fresh: Ranges::default(),
            nodes: BTreeMap::new(),
            unsynced: 0,
            checkpoint: Checkpoint::default(),
            journal: Some(Journal {
                files: files.clone(),
                name: name.to_owned(),
                log,
                len: (records.len() * RECORD_LEN) as u64,
                is_named: false,
            }),
        };
        if lost_power {
            if let Some(journal) = &mut partial.journal {
                journal.log.set_len(journal.len)?;
                journal.add(encode(BOOT, journal.files.boot(), 0))?;
            }
            partial.sync()?;
        }
        Ok(Some(partial))
    }

    /// Returns the hash of the content.
    pub fn hash(&self) -> Hash {
        self.reader.hash
    }

    /// Returns the size in bytes that was claimed.
    pub fn size(&self) -> u64 {
        self.reader.size
    }

    /// Returns the groups that are there.
    pub fn groups(&self) -> &Ranges {
        &self.groups
    }

    /// Tells whether the last group is there, which proves the size.
    pub fn is_size_proven(&self) -> bool {
        let count = group_count(self.size());
        count == 0 || self.groups.contains(count - 1)
    }

    /// Tells whether all groups are there.
    pub fn is_complete(&self) -> bool {
        self.groups.count() == group_count(self.size())
    }

    /// Tells whether a crash of the process leaves it.
    pub fn is_kept(&self) -> bool {
        self.journal.is_some()
    }

    /// Returns what reads the bytes and nodes that are there.
    pub fn reader(&self) -> PartialReader {
        self.reader.clone()
    }

    /// Takes a parent: the first chunk below it, the first of its right child, and its children.
    /// Readers see it after [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it does not follow from the hash; what the operating system
    /// reports.
    pub fn parent(
        &mut self,
        verifier: &mut Verifier,
        start: u64,
        middle: u64,
        left: Cv,
        right: Cv,
    ) -> Result<()> {
        let children = verifier.parent(start, middle, left, right)?;
        if children[1].end - children[0].start <= GROUP_CHUNKS {
            return Ok(());
        }
        let places = children.map(|child| self.place_of(&child));
        self.nodes.extend([(places[0], left), (places[1], right)]);
        if self.nodes.len() >= NODES_MAX {
            self.write_nodes()?;
        }
        Ok(())
    }

    /// Writes the nodes that wait, neighbours at once.
    fn write_nodes(&mut self) -> Result<()> {
        let mut run = Vec::with_capacity(self.nodes.len() * CV_LEN as usize);
        let mut start = 0;
        for (&place, node) in &self.nodes {
            let end = start + run.len() as u64 / CV_LEN;
            if place != end {
                self.reader.tree.write_all_at(&run, start * CV_LEN)?;
                run.clear();
                start = place;
            }
            run.extend_from_slice(node);
        }
        self.reader.tree.write_all_at(&run, start * CV_LEN)?;
        self.nodes.clear();
        Ok(())
    }

    fn place_of(&self, child: &Expected) -> u64 {
        let groups = child.groups();
        let count = groups.end - groups.start;
        if is_complete(&groups) {
            position(count.trailing_zeros(), groups.start / count)
        } else {
            node_count(groups.end) + spine_slot(groups.start)
        }
    }

    /// Takes bytes. They count when a whole group is there.
    ///
    /// # Errors
    /// As [`parent`](Self::parent).
    pub fn leaf(&mut self, verifier: &mut Verifier, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some((group, bytes)) = verifier.leaf(offset, bytes)? else {
            return Ok(());
        };
        if self.groups.contains(group) {
            return Ok(());
        }
        self.reader.data.write_all_at(bytes, group * GROUP_LEN)?;
        self.groups.insert(group..group + 1);
        self.fresh.insert(group..group + 1);
        self.unsynced += bytes.len() as u64;
        Ok(())
    }

    /// Notes what has arrived, so that it outlives the process; syncs now and then.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn flush(&mut self) -> Result<()> {
        self.write_nodes()?;
        if let Some(journal) = &mut self.journal {
            for range in &self.fresh.0 {
                journal.add(encode(GROUPS, range.start, range.end))?;
            }
        }
        self.fresh.0.clear();
        if self.checkpoint.is_done() {
            self.end_checkpoint()?;
        }
        if self.unsynced >= CHECKPOINT && !self.is_complete() && self.checkpoint.0.is_none() {
            self.begin_checkpoint()?;
        }
        Ok(())
    }

    fn begin_checkpoint(&mut self) -> Result<()> {
        if let Some(journal) = &self.journal {
            let files = [&self.reader.tree, &self.reader.data, &journal.log].map(Arc::clone);
            let records = journal.len / RECORD_LEN as u64;
            self.checkpoint.begin(files, records)?;
        }
        self.unsynced = 0;
        Ok(())
    }

    fn end_checkpoint(&mut self) -> Result<()> {
        if let (Some(records), Some(journal)) = (self.checkpoint.end()?, &mut self.journal) {
            journal.add(encode(SYNCED, records, 0))?;
            if !journal.is_named {
                journal.files.sync_dir(Area::Staging)?;
                journal.is_named = true;
            }
        }
        Ok(())
    }

    /// Makes what has arrived outlive a power cut.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn sync(&mut self) -> Result<()> {
        self.write_nodes()?;
        self.end_checkpoint()?;
        if let Some(journal) = &mut self.journal {
            self.reader.tree.sync_data()?;
            self.reader.data.sync_data()?;
            journal.add(encode(SYNCED, 0, 0))?;
            journal.log.sync_data()?;
            if !journal.is_named {
                journal.files.sync_dir(Area::Staging)?;
                journal.is_named = true;
            }
        }
        self.unsynced = 0;
        Ok(())
    }

    /// Prepares the content, of which all groups are there. The bytes are not read again: the
    /// groups' chaining values must make the hash.
    ///
    /// After the commit call [`discard`](Self::discard).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where they do not, [`ErrorKind::InvalidInput`] where groups are
    /// missing; what the operating system reports.
    pub fn prepare(&self, contents: &Contents) -> Result<Prepared> {
        if !self.is_complete() {
            return Err(ErrorKind::InvalidInput.into());
        }
        let (hash, size) = (self.hash(), self.size());
        let differs = || refused(format!("content {hash}: what has arrived does not fit"));
        let Some(journal) = &self.journal else {
            let mut bytes = vec![0; usize::try_from(size).map_err(|_| ErrorKind::TooLarge)?];
            self.reader.data.read_full_at(&mut bytes, 0)?;
            let prepared = contents.prepare_bytes(bytes)?;
            let fits = prepared.hash() == hash;
            return fits.then_some(prepared).ok_or_else(differs);
        };
        let handle = self.reader.data.clone();
        let place = SharedPlace::new();
        let file = StagedFile::of_session(&journal.files, journal.name.clone(), handle, &place);
        let built = contents.prepare_received(size, file, |append| {
            if group_count(size) == 1 {
                let mut bytes = vec![0; size as usize];
                self.reader.read_at(0, &mut bytes)?;
                append(&subtree_cv(0, &bytes))?;
                return Ok(Hash::of(&bytes));
            }
            let mut builder = TreeBuilder::default();
            let mut block = NodeBlock::default();
            for group in 0..group_count(size) {
                let node = block.node(position(0, group), |at, nodes| {
                    Ok(self.reader.tree.read_full_at(nodes, at)?)
                })?;
                builder.push(node);
                append(&builder.take_nodes())?;
            }
            builder.finish().ok_or_else(differs)
        })?;
        let fits = built.hash() == hash;
        fits.then_some(built).ok_or_else(differs)
    }

    /// Removes the files of a partial content that has become a content, or is given up.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn discard(self) -> Result<()> {
        let Some(Journal { files, name, .. }) = &self.journal else {
            return Ok(());
        };
        for ending in [SECOND_NAME, MOVED, LOG_FILE, TREE_FILE, ""] {
            remove_if_there(files, &format!("{name}{ending}"))?;
        }
        Ok(())
    }
}

impl Journal {
    fn add(&mut self, record: [u8; RECORD_LEN]) -> io::Result<()> {
        self.log.write_all_at(&record, self.len)?;
        self.len += RECORD_LEN as u64;
        Ok(())
    }
}

type Records = Vec<(u64, u64, u64)>;

/// Returns the records that can be believed, and whether the machine started again since.
fn read_journal(
    files: &Arc<dyn Files>,
    log: &dyn FileHandle,
    size: u64,
) -> Result<(Option<Records>, bool)> {
    let mut bytes = vec![0; usize::try_from(log.size()?).map_err(|_| ErrorKind::TooLarge)?];
    let len = log.read_full_at(&mut bytes, 0)?;
    let (records, _torn) = bytes[..len].as_chunks::<RECORD_LEN>();
    let mut records: Records = records.iter().map_while(decode).collect();
    let Some(&(START, started_size, boot)) = records.first() else {
        return Ok((None, false));
    };
    let last = records.iter().rev().find(|r| r.0 == BOOT);
    let lost_power = last.map_or(boot, |r| r.1) != files.boot() || files.boot() == 0;
    if lost_power {
        let durable = records.iter().enumerate().map(|(at, r)| match *r {
            (SYNCED, 0, _) | (BOOT, ..) => at + 1,
            (SYNCED, before, _) => at.min(usize::try_from(before).unwrap_or(at)),
            _ => 1,
        });
        records.truncate(durable.max().unwrap_or(1));
    }
    Ok(((started_size == size).then_some(records), lost_power))
}

/// Splits the name of a partial content's data file.
fn parse_name(name: &str) -> Option<(Hash, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let (hash, size, slot) = (parts.next()?, parts.next()?, parts.next()?);
    slot.parse::<u32>().ok()?;
    let is_whole = parts.next().is_none();
    Some((hash.parse().ok()?, size.parse().ok()?)).filter(|_| is_whole)
}

/// Returns the data file's name and what ends the name of another file of a partial content.
fn split_ending(name: &str) -> Option<(&str, &str)> {
    let at = name.find('.').unwrap_or(name.len());
    let (bare, ending) = name.split_at(at);
    parse_name(bare)?;
    Some((bare, ending))
}

/// Finds the data files, and does not look who owns them: that takes their locks for a moment.
fn find(contents: &Contents) -> Result<Vec<(Listed, Hash, u64)>> {
    let Some(files) = contents.files() else {
        return Ok(Vec::new());
    };
    let listed = files.list(Area::Staging)?.into_iter();
    let named = listed.filter_map(|file| {
        let (hash, size) = parse_name(&file.name)?;
        Some((file, hash, size))
    });
    Ok(named.collect())
}

pub(crate) fn list(contents: &Contents) -> Result<Vec<PartialInfo>> {
    let mut found = Vec::new();
    let Some(files) = contents.files() else {
        return Ok(found);
    };
    for (file, hash, size) in find(contents)? {
        let in_use = match files.is_owned(Area::Staging, &file.name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            owned => owned?,
        };
        found.push(PartialInfo {
            hash,
            size,
            modified: file.modified,
            in_use,
        });
    }
    Ok(found)
}

/// Removes those that nobody uses and that `doomed` chooses, and what others left behind.
pub(crate) fn remove(
    contents: &Contents,
    doomed: &mut dyn FnMut(&Hash, Option<SystemTime>) -> bool,
) -> Result<(u64, u64)> {
    let mut removed = (0, 0);
    let Some(files) = contents.files() else {
        return Ok(removed);
    };
    let remove = |name: &str| match files.remove_unowned(Area::Staging, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result,
    };
    for (file, hash, _) in find(contents)? {
        if doomed(&hash, file.modified) && remove(&file.name)? {
            removed.0 += 1;
            removed.1 += file.len;
        }
    }
    let listed = files.list(Area::Staging)?;
    for file in &listed {
        if let Some((bare, ending)) = split_ending(&file.name)
            && !ending.is_empty()
            && !listed.iter().any(|other| other.name == bare)
        {
            remove(&file.name)?;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge() {
        let mut ranges = Ranges::default();
        for range in [5..7, 1..2, 8..9, 7..8, 2..5, 20..30, 10..25, 3..3] {
            ranges.insert(range);
        }
        assert_eq!(ranges.as_slice(), [1..9, 10..30]);
        assert_eq!(ranges.count(), 28);
        assert!(ranges.contains(8) && !ranges.contains(9) && ranges.contains(10));
    }

    #[test]
    fn names_parse() {
        let hash = Hash::of(b"a");
        let name = format!("r{hash}-100000-3");
        assert_eq!(parse_name(&name), Some((hash, 100_000)));
        assert_eq!(parse_name(&format!("{name}-4")), None);
        assert_eq!(parse_name("r1-2-3"), None);
        assert_eq!(parse_name("12"), None);
        let log = format!("{name}.log");
        assert_eq!(split_ending(&log), Some((&*name, ".log")));
    }
}
