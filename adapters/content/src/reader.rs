//! Reading contents.

use std::cell::RefCell;
use std::io;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::sync::Arc;

use alknet_fs_core::store::{ContentForm, ContentRecord, ReadTxn};
use alknet_fs_core::{Error, ErrorKind, Hash, Result};

use crate::delta::{Delta, Piece};
use crate::files::{Area, FileHandle, Files};
use crate::hash_tree::{
    CV_LEN, Cv, NodeBlock, Nodes, TreeHasher, ZERO_LEVEL, node_at, position, zeros_node,
};

/// No chain this deep is ever written: a deeper one is a cycle.
const DEPTH_LIMIT: u32 = 1024;

/// The ending of the file that holds a content's hash tree.
pub(crate) const TREE: &str = ".tree";
/// The ending of the file that holds a delta's payload.
pub(crate) const DELTA: &str = ".delta";

/// An open content.
///
/// It holds the bytes or open files, so it goes on reading whatever becomes of the transaction it
/// was opened in, and of the content.
#[derive(Debug)]
pub struct ContentReader {
    hash: Hash,
    size: u64,
    files: Option<Arc<dyn Files>>,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Bytes(Arc<Vec<u8>>),
    File {
        file: Arc<dyn FileHandle>,
        /// The hash tree; empty where it is in a file.
        nodes: Vec<u8>,
    },
    Delta(Box<DeltaBody>),
}

#[derive(Debug)]
pub(crate) struct DeltaBody {
    pub(crate) delta: Delta,
    pub(crate) payload: Payload,
    pub(crate) base: Option<ContentReader>,
    depth: u32,
}

#[derive(Debug)]
pub(crate) enum Payload {
    Inline { data: Vec<u8>, start: usize },
    File(Arc<dyn FileHandle>),
}

pub(crate) fn corrupt(hash: &Hash, what: impl std::fmt::Display) -> Error {
    Error::with_detail(ErrorKind::Corrupt, format!("content {hash}: {what}"))
}

/// Makes the error for a content that has no record.
pub fn no_record(hash: &Hash) -> Error {
    corrupt(hash, "the store has no record of it")
}

/// Names the file of an error that reading a content's file gave.
fn broken(hash: &Hash, ending: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => corrupt(hash, format_args!("blobs/{hash}{ending} is missing")),
        _ => Error::from(error),
    }
}

impl ContentReader {
    pub(crate) fn open(
        txn: &dyn ReadTxn,
        files: Option<&Arc<dyn Files>>,
        hash: &Hash,
    ) -> Result<Self> {
        Self::open_in_chain(txn, files, hash, 0)
    }

    pub(crate) fn find(
        txn: &dyn ReadTxn,
        files: Option<&Arc<dyn Files>>,
        hash: &Hash,
    ) -> Result<Option<Self>> {
        let record = txn.content(hash)?;
        record
            .map(|record| Self::open_record(txn, files, record, 0))
            .transpose()
    }

    fn open_in_chain(
        txn: &dyn ReadTxn,
        files: Option<&Arc<dyn Files>>,
        hash: &Hash,
        above: u32,
    ) -> Result<Self> {
        if above > DEPTH_LIMIT {
            return Err(corrupt(hash, "its deltas go round in a circle"));
        }
        let Some(record) = txn.content(hash)? else {
            return Err(no_record(hash));
        };
        Self::open_record(txn, files, record, above)
    }

    fn open_record(
        txn: &dyn ReadTxn,
        files: Option<&Arc<dyn Files>>,
        record: ContentRecord,
        above: u32,
    ) -> Result<Self> {
        let hash = record.hash;
        let hash = &hash;
        if record.form == ContentForm::Inline {
            if record.size != record.data.len() as u64 {
                return Err(corrupt(hash, "its record has another size"));
            }
            return Ok(Self::of_bytes(*hash, Arc::new(record.data)));
        }
        let Some(files) = files else {
            return Err(corrupt(
                hash,
                "it is in a file, and this store has no files",
            ));
        };
        if record.form == ContentForm::File {
            return Self::open_file(files, hash, record.size, record.data);
        }
        let size = record.size;
        Self::open_delta(txn, files, record, above).or_else(|error| {
            // The content may have been flattened after this transaction began, and what the delta
            // needed may be gone since; then there is a whole file.
            Self::open_file(files, hash, size, Vec::new()).map_err(|_| error)
        })
    }

    pub(crate) fn of_bytes(hash: Hash, bytes: Arc<Vec<u8>>) -> Self {
        Self {
            hash,
            size: bytes.len() as u64,
            files: None,
            body: Body::Bytes(bytes),
        }
    }

    fn open_file(files: &Arc<dyn Files>, hash: &Hash, size: u64, nodes: Vec<u8>) -> Result<Self> {
        let opened = files.open(Area::Blobs, &hash.to_hex());
        let file = opened.map_err(|e| broken(hash, "", e))?;
        Ok(Self {
            hash: *hash,
            size,
            files: Some(files.clone()),
            body: Body::File { file, nodes },
        })
    }

    fn open_delta(
        txn: &dyn ReadTxn,
        files: &Arc<dyn Files>,
        record: ContentRecord,
        above: u32,
    ) -> Result<Self> {
        let hash = record.hash;
        let base = match &record.base {
            Some(base) => Some(Self::open_in_chain(txn, Some(files), base, above + 1)?),
            None => None,
        };
        let base_size = base.as_ref().map_or(0, Self::size);
        let (delta, start) =
            Delta::decode(&record.data, base_size).map_err(|e| corrupt(&hash, e))?;
        if delta.size != record.size {
            return Err(corrupt(&hash, "its record has another size"));
        }
        let payload = match start {
            Some(start) => Payload::Inline {
                data: record.data,
                start,
            },
            None => {
                let opened = files.open(Area::Blobs, &format!("{hash}{DELTA}"));
                Payload::File(opened.map_err(|e| broken(&hash, DELTA, e))?)
            }
        };
        let depth = base.as_ref().map_or(0, Self::depth) + 1;
        Ok(Self {
            hash,
            size: record.size,
            files: Some(files.clone()),
            body: Body::Delta(Box::new(DeltaBody {
                delta,
                payload,
                base,
                depth,
            })),
        })
    }

    /// Reads all bytes and compares them and the hash tree with the hash.
    ///
    /// `progress` is told how many bytes are done; `Break` ends the work.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where something differs, naming the hash and the file;
    /// [`ErrorKind::Cancelled`] after `Break`.
    pub fn verify(&self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<()> {
        crate::contents::verify(self, progress)
    }

    /// Returns the hash of the content.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns how the content is kept.
    pub fn form(&self) -> ContentForm {
        match &self.body {
            Body::Bytes(_) => ContentForm::Inline,
            Body::File { .. } => ContentForm::File,
            Body::Delta(_) => ContentForm::Delta,
        }
    }

    /// Visits what is kept so that this content can be read: the content itself and, where it is a
    /// delta, all that it builds on; each with the number of bytes kept for it alone.
    pub fn for_each_part(&self, visit: &mut dyn FnMut(Hash, u64)) {
        match &self.body {
            Body::Bytes(_) | Body::File { .. } => visit(self.hash, self.size),
            Body::Delta(body) => {
                visit(self.hash, body.delta.payload_len());
                if let Some(base) = &body.base {
                    base.for_each_part(visit);
                }
            }
        }
    }

    /// Returns the number of deltas that a read goes through at most.
    pub fn depth(&self) -> u32 {
        match &self.body {
            Body::Delta(delta) => delta.depth,
            _ => 0,
        }
    }

    /// Returns about how many bytes the deltas take that a read goes through at most.
    pub(crate) fn stacked_weight(&self) -> u64 {
        match &self.body {
            Body::Delta(body) => {
                let below = body.base.as_ref();
                body.delta.weight() + below.map_or(0, Self::stacked_weight)
            }
            _ => 0,
        }
    }

    /// Fills `buf` from an offset, as far as the content goes; returns how many bytes.
    ///
    /// The bytes are not verified; see [`Contents::verify`](crate::Contents::verify).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where a file is shorter than it must be, or what the operating system
    /// reports.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = self.size.saturating_sub(offset);
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        if len > 0 {
            self.fill(offset, &mut buf[..len])?;
        }
        Ok(len)
    }

    /// Reads the whole content.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); [`ErrorKind::TooLarge`] where it does not fit the memory.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        if let Body::Bytes(bytes) = &self.body {
            return Ok(bytes.to_vec());
        }
        let mut bytes = Vec::new();
        let len = usize::try_from(self.size).map_err(|_| ErrorKind::TooLarge)?;
        bytes
            .try_reserve_exact(len)
            .map_err(|_| ErrorKind::TooLarge)?;
        bytes.resize(len, 0);
        self.fill(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Turns the reader into the whole content; one that is in memory already is not copied.
    ///
    /// # Errors
    /// As [`read_all`](Self::read_all).
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        match self.body {
            Body::Bytes(bytes) => Ok(Arc::unwrap_or_clone(bytes)),
            _ => self.read_all(),
        }
    }

    /// Fills `buf` with a range inside the content.
    fn fill(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.body {
            Body::Bytes(bytes) => buf.copy_from_slice(&bytes[offset as usize..][..buf.len()]),
            Body::File { file, .. } => self.fill_from(&**file, "", offset, buf)?,
            Body::Delta(body) => {
                for s in body.delta.range(offset..offset + buf.len() as u64) {
                    let part = &mut buf[(s.offset - offset) as usize..][..s.len as usize];
                    match (s.piece, &body.base) {
                        (Piece::Zeros, _) => part.fill(0),
                        (Piece::Literal(at), _) => self.fill_payload(body, at, part)?,
                        (Piece::Base(at), Some(base)) => base.fill(at, part)?,
                        (Piece::Base(_), None) => {
                            return Err(corrupt(&self.hash, "its delta has no base"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn fill_payload(&self, body: &DeltaBody, at: u64, buf: &mut [u8]) -> Result<()> {
        match &body.payload {
            Payload::Inline { data, start } => {
                buf.copy_from_slice(&data[start + at as usize..][..buf.len()]);
                Ok(())
            }
            Payload::File(file) => self.fill_from(&**file, DELTA, at, buf),
        }
    }

    fn fill_from(
        &self,
        file: &dyn FileHandle,
        ending: &str,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        if file.read_full_at(buf, offset)? < buf.len() {
            let hash = &self.hash;
            return Err(corrupt(
                hash,
                format_args!("blobs/{hash}{ending} is cut off"),
            ));
        }
        Ok(())
    }

    /// Opens the content's hash tree; one of a small content is computed.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where its file is missing; what the operating system reports.
    pub fn nodes(&self) -> Result<Box<dyn Nodes + '_>> {
        Ok(Box::new(self.tree()?))
    }

    pub(crate) fn tree(&self) -> Result<Tree<'_>> {
        let source = match &self.body {
            Body::Bytes(bytes) => {
                let mut hasher = TreeHasher::new();
                hasher.update(bytes);
                TreeSource::Bytes(hasher.finish().1)
            }
            Body::File { nodes, .. } if nodes.is_empty() => {
                let hash = &self.hash;
                let files = self.files.as_ref().ok_or(ErrorKind::Unsupported)?;
                let opened = files.open(Area::Blobs, &format!("{hash}{TREE}"));
                let file = opened.map_err(|e| broken(hash, TREE, e))?;
                TreeSource::File(file, RefCell::default())
            }
            Body::File { nodes, .. } => TreeSource::Slice(nodes),
            Body::Delta(body) => TreeSource::Delta {
                body,
                base: match &body.base {
                    Some(base) => Some(Box::new(base.tree()?)),
                    None => None,
                },
            },
        };
        Ok(Tree {
            reader: self,
            source,
        })
    }
}

/// The hash tree of an open content.
pub(crate) struct Tree<'a> {
    reader: &'a ContentReader,
    source: TreeSource<'a>,
}

enum TreeSource<'a> {
    Bytes(Vec<u8>),
    Slice(&'a [u8]),
    File(Arc<dyn FileHandle>, RefCell<NodeBlock>),
    Delta {
        body: &'a DeltaBody,
        base: Option<Box<Tree<'a>>>,
    },
}

impl<'a> Tree<'a> {
    /// Starts to compare the nodes that this content keeps itself with computed ones.
    pub(crate) fn check(&'a self) -> TreeCheck<'a> {
        let own: Option<Box<dyn Iterator<Item = u64>>> = match &self.source {
            TreeSource::Delta { body, .. } => Some(Box::new(body.delta.positions())),
            _ => None,
        };
        TreeCheck {
            tree: self,
            own: own.map(Iterator::peekable),
            done: 0,
            buf: Vec::new(),
        }
    }
}

/// A comparison of a tree with computed nodes, in order.
pub(crate) struct TreeCheck<'a> {
    tree: &'a Tree<'a>,
    /// The positions a delta overrides; nothing where all nodes are the content's own.
    own: Option<Peekable<Box<dyn Iterator<Item = u64> + 'a>>>,
    done: u64,
    buf: Vec<u8>,
}

impl TreeCheck<'_> {
    /// Tells whether the next computed nodes are those of the tree.
    pub(crate) fn fits(&mut self, computed: &[u8]) -> Result<bool> {
        let start = self.done * CV_LEN;
        let end = self.done + computed.len() as u64 / CV_LEN;
        self.buf.resize(computed.len(), 0);
        let mut fits = true;
        match (&self.tree.source, &mut self.own) {
            (TreeSource::Slice(nodes), _) => {
                let nodes = nodes.get(start as usize..).unwrap_or_default();
                fits = nodes.starts_with(computed);
            }
            (TreeSource::Bytes(_), _) => {}
            (TreeSource::File(file, _), _) => {
                let reader = self.tree.reader;
                reader.fill_from(&**file, TREE, start, &mut self.buf)?;
                fits = self.buf == computed;
            }
            (TreeSource::Delta { .. }, None) => {}
            (TreeSource::Delta { .. }, Some(own)) => {
                while let Some(at) = own.next_if(|&at| at < end) {
                    let (level, index) = node_at(at);
                    let node = self.tree.node(level, index)?;
                    let from = ((at - self.done) * CV_LEN) as usize;
                    fits &= computed[from..].starts_with(&node);
                }
            }
        }
        self.done = end;
        Ok(fits)
    }
}

impl Nodes for Tree<'_> {
    fn node(&self, level: u32, index: u64) -> Result<Cv> {
        let reader = self.reader;
        match &self.source {
            TreeSource::Bytes(nodes) => nodes.node(level, index),
            TreeSource::Slice(nodes) => nodes.node(level, index),
            TreeSource::File(file, block) => {
                let read = |at, nodes: &mut [u8]| Ok(file.read_full_at(nodes, at)?);
                let node = block.borrow_mut().node(position(level, index), read);
                node.map_err(|e| match e.kind() {
                    ErrorKind::Corrupt => {
                        let hash = reader.hash;
                        corrupt(&hash, format_args!("blobs/{hash}{TREE} is cut off"))
                    }
                    _ => e,
                })
            }
            TreeSource::Delta { body, base } => {
                let delta = &body.delta;
                if let Some(at) = delta.node_at(position(level, index)) {
                    let mut node = [0; CV_LEN as usize];
                    reader.fill_payload(body, at, &mut node)?;
                    return Ok(node);
                }
                if level < ZERO_LEVEL && delta.is_zeros(index >> (ZERO_LEVEL - level)) {
                    return Ok(zeros_node(level, index));
                }
                match base {
                    Some(base) => base.node(level, index),
                    None => Err(corrupt(&reader.hash, "its hash tree has a gap")),
                }
            }
        }
    }
}
