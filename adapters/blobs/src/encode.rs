//! Verified streams out of the store: a content's hash tree as bao's parents and leaves.

use std::io;
use std::sync::Arc;

use alknet_fs_content::ContentReader;
use alknet_fs_content::hash_tree::{Cv, Nodes, subtree};
use alknet_fs_content::partial::{
    Expected, GROUP_CHUNKS, PartialReader, chunk_count, is_leaf_of, is_parent_of, subtree_cv,
};
use alknet_fs_core::{Hash, Result};
use bao_tree::io::mixed::EncodedItem;
use bao_tree::io::{EncodeError, Leaf, Parent};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges, TreeNode};

use crate::shared::{Entry, to_io};

/// What bytes and nodes are read from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The empty content, which is always there.
    Empty,
    /// A content of the store.
    Whole(ContentReader),
    /// A content of which a part has arrived.
    Partial(
        PartialReader,
        #[expect(
            dead_code,
            reason = "keeps the entry, which owns the files, from being closed"
        )]
        Arc<Entry>,
    ),
}

impl Source {
    pub(crate) fn hash(&self) -> Hash {
        match self {
            Self::Empty => Hash::EMPTY,
            Self::Whole(reader) => reader.hash(),
            Self::Partial(reader, _) => reader.hash(),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Whole(reader) => reader.size(),
            Self::Partial(reader, _) => reader.size(),
        }
    }

    /// Fills `buf` from an offset inside the content.
    fn fill(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let n = match self {
            Self::Empty => Ok(0),
            Self::Whole(reader) => reader.read_at(offset, buf),
            Self::Partial(reader, _) => reader.read_at(offset, buf),
        };
        match n.map_err(to_io)? == buf.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads a range of the content, as far as it goes.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut buf = vec![0; len];
        let n = match self {
            Self::Empty => 0,
            Self::Whole(reader) => reader.read_at(offset, &mut buf)?,
            Self::Partial(reader, _) => reader.read_at(offset, &mut buf)?,
        };
        buf.truncate(n);
        Ok(buf)
    }

    pub(crate) fn nodes(&self) -> Result<Box<dyn Nodes + '_>> {
        Ok(match self {
            Self::Empty => Box::new(Vec::new()),
            Self::Whole(reader) => reader.nodes()?,
            Self::Partial(reader, _) => Box::new(reader.clone()),
        })
    }
}

/// A stream of parents and leaves in the making.
#[derive(Debug)]
pub(crate) struct Encoder {
    source: Source,
    /// The chunks asked for, inside the content.
    ranges: ChunkRanges,
    stack: Vec<(Option<TreeNode>, Expected)>,
}

/// What one step costs at least, so that a batch is bounded where nodes alone are sent.
const PARENT_LEN: usize = 64;

impl Encoder {
    pub(crate) fn new(source: Source, ranges: &ChunkRanges) -> Self {
        let size = source.size();
        let chunks = chunk_count(size);
        let last = ChunkNum(chunks - 1);
        // Whoever asks for what is past the end gets the last chunk, which proves the size.
        let past = !ranges.is_disjoint(&ChunkRanges::from(last..));
        let mut inside = ranges & &ChunkRanges::from(..ChunkNum(chunks));
        if past {
            inside |= ChunkRanges::from(last..ChunkNum(chunks));
        }
        let root = BaoTree::new(size, BlockSize::ZERO)
            .pre_order_nodes_iter()
            .next();
        Self {
            source,
            ranges: inside,
            stack: vec![(root, Expected::root(size))],
        }
    }

    /// Returns the next items, of about `max` bytes; none when all are sent. An error is the last.
    pub(crate) fn next(&mut self, max: usize) -> Vec<EncodedItem> {
        let mut items = Vec::new();
        if let Err(error) = self.fill(max, &mut items) {
            self.stack.clear();
            items.push(EncodedItem::Error(error));
        }
        items
    }

    /// Appends about `max` more bytes of the stream; returns whether there are more.
    ///
    /// # Errors
    /// Where the content is damaged, or cannot be read; nothing must be sent then.
    pub(crate) fn write(&mut self, max: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        self.fill(max, out).map_err(io::Error::from)?;
        Ok(!self.stack.is_empty())
    }

    fn fill(&mut self, max: usize, out: &mut impl Items) -> std::result::Result<(), EncodeError> {
        let Self {
            source,
            ranges,
            stack,
        } = self;
        let nodes = source.nodes().map_err(to_io)?;
        let hash = source.hash();
        let mut done = 0;
        while done < max
            && let Some((node, expected)) = stack.pop()
        {
            let chunks = ChunkRanges::from(ChunkNum(expected.start)..ChunkNum(expected.end));
            if ranges.is_disjoint(&chunks) {
                continue;
            }
            let count = expected.end - expected.start;
            let is_small = count <= GROUP_CHUNKS;
            if let (false, Some(node)) = (is_small && ranges.is_superset(&chunks), node) {
                let (left, right) = if is_small {
                    halves(source, &expected)?
                } else {
                    children(&*nodes, &expected).map_err(to_io)?
                };
                if !is_parent_of(&expected, &hash, &left, &right) {
                    return Err(EncodeError::ParentHashMismatch(node));
                }
                let [first, second] = expected.children(left, right);
                let mut right_node = node.right_child();
                while let Some(node) = right_node
                    && node.mid().0 >= second.end
                {
                    right_node = node.left_child();
                }
                stack.push((right_node, second));
                stack.push((node.left_child(), first));
                out.parent(node, left, right);
                done += PARENT_LEN;
                continue;
            }
            let range = expected.bytes(source.size());
            let len = (range.end - range.start) as usize;
            out.leaf(range.start, len, &mut |bytes| {
                source.fill(range.start, bytes)?;
                match is_leaf_of(&expected, &hash, bytes) {
                    true => Ok(()),
                    false => Err(EncodeError::LeafHashMismatch(ChunkNum(expected.start))),
                }
            })?;
            done += len.max(1);
        }
        Ok(())
    }
}

/// Fills the bytes of a leaf, and checks them.
type Fill<'a> = dyn FnMut(&mut [u8]) -> std::result::Result<(), EncodeError> + 'a;

/// What parents and leaves are written to.
trait Items {
    fn parent(&mut self, node: TreeNode, left: Cv, right: Cv);
    fn leaf(
        &mut self,
        offset: u64,
        len: usize,
        fill: &mut Fill<'_>,
    ) -> std::result::Result<(), EncodeError>;
}

impl Items for Vec<EncodedItem> {
    fn parent(&mut self, node: TreeNode, left: Cv, right: Cv) {
        let pair = (left.into(), right.into());
        self.push(EncodedItem::Parent(Parent { node, pair }));
    }

    fn leaf(
        &mut self,
        offset: u64,
        len: usize,
        fill: &mut Fill<'_>,
    ) -> std::result::Result<(), EncodeError> {
        let mut bytes = vec![0; len];
        fill(&mut bytes)?;
        let data = bytes.into();
        self.push(EncodedItem::Leaf(Leaf { offset, data }));
        Ok(())
    }
}

/// The stream's bytes as iroh-blobs sends them.
impl Items for Vec<u8> {
    fn parent(&mut self, _: TreeNode, left: Cv, right: Cv) {
        self.extend_from_slice(&left);
        self.extend_from_slice(&right);
    }

    fn leaf(
        &mut self,
        _: u64,
        len: usize,
        fill: &mut Fill<'_>,
    ) -> std::result::Result<(), EncodeError> {
        let start = self.len();
        self.resize(start + len, 0);
        fill(&mut self[start..])
    }
}

/// Computes the children of a subtree inside a group.
fn halves(source: &Source, expected: &Expected) -> io::Result<(Cv, Cv)> {
    let [left, right] = expected.children([0; 32], [0; 32]);
    let cv = |child: &Expected| {
        let range = child.bytes(source.size());
        let mut bytes = vec![0; (range.end - range.start) as usize];
        source.fill(range.start, &mut bytes)?;
        Ok::<_, io::Error>(subtree_cv(child.start, &bytes))
    };
    Ok((cv(&left)?, cv(&right)?))
}

fn children(nodes: &dyn Nodes, expected: &Expected) -> Result<(Cv, Cv)> {
    let [left, right] = expected.children([0; 32], [0; 32]);
    Ok((
        subtree(nodes, left.groups())?,
        subtree(nodes, right.groups())?,
    ))
}
