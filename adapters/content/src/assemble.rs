//! Carrying out an assembly plan: its bytes, and the delta that describes it.
//!
//! # Deltas over deltas
//! A version of a content that is itself a delta is a delta too, and no commit may cost what the
//! file is large. So the deltas of a content form a stack whose sizes grow from the newest down, as
//! the runs of a log-structured merge tree do:
//!
//! - A new delta takes up the delta below it, and then the next, while that has at most
//!   [`MERGE_RATIO`] times the bytes taken up so far (or both together are small,
//!   [`Config::delta_merge_max`]). The result is over the base of the last one taken up. Merging
//!   copies literals and nodes only; the base is not read. A byte that is merged without having
//!   been in the largest of the deltas comes into one that is larger by that ratio, and
//!   the largest is paid for by the others; so each written byte is copied O(log n) times, and the
//!   stack is O(log n) deep.
//! - Where the whole stack would have more than one [`FULL_PART`]th of the content's size, the
//!   content is written in full and the stack is gone. As many bytes were written since the content
//!   was last kept in full, so this costs each of them a constant.
//!
//! A stack deeper than [`Config::delta_depth_max`] is merged further than that, and a delta of more
//! than [`SEGMENTS_MAX`] segments is not merged: only many tiny writes come to that.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use alknet_fs_core::session::{AssemblyPlan, Source};
use alknet_fs_core::{Error, ErrorKind, Result};

use crate::contents::{Config, Prepared, Staged};
use crate::delta::{Delta, Piece, Segment, is_zeros, push, weight};
use crate::files::{FileHandle, Files};
use crate::hash_tree::{
    CV_LEN, GROUP_LEN, Groups, Nodes, Overrides, ZERO_LEVEL, authenticate, changed_groups,
    group_count, group_cv, node_at, node_count, position, rehash, zeros_node,
};
use crate::reader::{Body, ContentReader, DeltaBody, Tree, corrupt};
use crate::staged::StagedFile;

/// The size of the pieces in which literals are copied.
const CHUNK: u64 = 1 << 20;

/// How many times as large a delta may be as those above it to be merged with them.
const MERGE_RATIO: u64 = 4;

/// Deltas have at most this part of the content's size together.
pub(crate) const FULL_PART: u64 = 4;

/// A plan of more segments than this is written in full, and a delta of more is not merged.
pub(crate) const SEGMENTS_MAX: usize = 1 << 16;

/// A plan with what it refers to.
pub(crate) struct Assembly<'a> {
    plan: &'a AssemblyPlan,
    base: Option<&'a ContentReader>,
    staged: StagedBytes<'a>,
}

enum StagedBytes<'a> {
    Slice(&'a [u8]),
    File(Arc<dyn FileHandle>),
}

fn unfit(detail: &str) -> Error {
    Error::with_detail(ErrorKind::InvalidInput, format!("assembly plan: {detail}"))
}

impl<'a> Assembly<'a> {
    pub(crate) fn new(
        plan: &'a AssemblyPlan,
        base: Option<&'a ContentReader>,
        staged: &Staged<'a>,
    ) -> Result<Self> {
        let base_len = base.map_or(0, ContentReader::size);
        let (staged, staged_len) = match staged {
            Staged::Nothing => (StagedBytes::Slice(&[]), 0),
            Staged::Bytes(bytes) => (StagedBytes::Slice(bytes), bytes.len() as u64),
            Staged::File(file) => {
                let data = file.data().clone();
                let len = data.size()?;
                (StagedBytes::File(data), len)
            }
        };
        let mut end = 0u64;
        for s in &plan.segments {
            let inside = |at: u64, len: u64| at.checked_add(s.len).is_some_and(|e| e <= len);
            let fits = match s.source {
                Source::Base(at) => inside(at, base_len),
                Source::Staged(at) => inside(at, staged_len),
                Source::Zeros => true,
            };
            if !fits || s.offset != end || s.len == 0 {
                return Err(unfit("a segment is out of its place"));
            }
            end = end.saturating_add(s.len);
        }
        if end != plan.size {
            return Err(unfit("the segments do not cover the size"));
        }
        Ok(Self { plan, base, staged })
    }

    /// Fills `buf` with a range of the new content.
    pub(crate) fn fill(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.each(offset, buf, |source, part| match source {
            Source::Base(at) => {
                let base = self.base.ok_or_else(|| unfit("it has no base"))?;
                match base.read_at(at, part)? {
                    n if n == part.len() => Ok(()),
                    _ => Err(unfit("the base is shorter")),
                }
            }
            Source::Staged(at) => self.fill_staged(at, part),
            Source::Zeros => {
                part.fill(0);
                Ok(())
            }
        })
    }

    /// Calls for each part of `buf` with where its bytes come from.
    fn each(
        &self,
        offset: u64,
        buf: &mut [u8],
        mut fill: impl FnMut(Source, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let end = offset + buf.len() as u64;
        let segments = &self.plan.segments;
        let first = segments.partition_point(|s| s.offset + s.len <= offset);
        for s in segments[first..].iter().take_while(|s| s.offset < end) {
            let from = s.offset.max(offset);
            let to = (s.offset + s.len).min(end);
            let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
            let skipped = from - s.offset;
            let source = match s.source {
                Source::Base(at) => Source::Base(at + skipped),
                Source::Staged(at) => Source::Staged(at + skipped),
                Source::Zeros => Source::Zeros,
            };
            fill(source, part)?;
        }
        Ok(())
    }

    fn fill_staged(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        match &self.staged {
            StagedBytes::Slice(bytes) => buf.copy_from_slice(&bytes[at as usize..][..buf.len()]),
            StagedBytes::File(file) => {
                if file.read_full_at(buf, at)? < buf.len() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
        Ok(())
    }

    /// Prepares the new content as a delta, as the module's documentation says; `None` where it is
    /// to be written in full.
    pub(crate) fn prepare_delta(
        &self,
        files: &Arc<dyn Files>,
        config: &Config,
    ) -> Result<Option<Prepared>> {
        let size = self.plan.size;
        let mut changes = self.own_changes()?;
        let depth_max = config.delta_depth_max.max(1);
        let mut literals = Literals {
            assembly: self,
            levels: Vec::new(),
        };
        let mut base = self.base;
        let (mut weight, mut count) = (changes.weight(), changes.segments.len());
        while let Some(reader) = base
            && let Body::Delta(body) = &reader.body
        {
            let below = body.delta.weight();
            let is_due = weight + below <= config.delta_merge_max
                || below <= weight.saturating_mul(MERGE_RATIO)
                || reader.depth() >= depth_max;
            count += body.delta.segments.len();
            if !is_due || count > SEGMENTS_MAX {
                break;
            }
            let start = literals.add(reader, body);
            changes.fold(reader, body, start, size)?;
            weight += below;
            base = body.base.as_ref();
        }
        if base.is_some_and(|base| base.depth() >= depth_max) {
            return Ok(None);
        }
        let stacked = base.map_or(0, ContentReader::stacked_weight);
        if changes.weight() + stacked > size / FULL_PART {
            return Ok(None);
        }
        let base = base.map(ContentReader::hash);
        let Changes {
            hash,
            segments: merged,
            overrides,
        } = changes;
        let mut segments = Vec::with_capacity(merged.len());
        let mut len = 0;
        for s in &merged {
            let piece = match s.piece {
                Piece::Literal(_) => {
                    len += s.len;
                    Piece::Literal(len - s.len)
                }
                piece => piece,
            };
            push(&mut segments, s.len, piece);
        }
        let delta = Delta::new(size, segments, &overrides);
        if delta.payload_len() <= config.delta_inline_max {
            let mut payload = Vec::with_capacity(delta.payload_len() as usize);
            literals.each(&merged, &mut |bytes| {
                payload.extend_from_slice(bytes);
                Ok(())
            })?;
            overrides.values().for_each(|node| payload.extend(node));
            let data = delta.encode(Some(&payload));
            return Ok(Some(Prepared::delta(hash, size, base, data, None)));
        }
        let mut file = StagedFile::create(files)?;
        let mut at = 0;
        literals.each(&merged, &mut |bytes| {
            file.handle.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
            Ok(())
        })?;
        let nodes: Vec<u8> = overrides.values().flatten().copied().collect();
        file.handle.write_all_at(&nodes, at)?;
        file.sync()?;
        let data = delta.encode(None);
        Ok(Some(Prepared::delta(hash, size, base, data, Some(file))))
    }

    /// Works out the delta over the base as it is: segments, hash and nodes.
    fn own_changes(&self) -> Result<Changes> {
        let size = self.plan.size;
        let mut segments = Vec::new();
        let mut dirty = Vec::new();
        for s in &self.plan.segments {
            let piece = match s.source {
                Source::Base(at) => Piece::Base(at),
                Source::Staged(at) => Piece::Literal(at),
                Source::Zeros => Piece::Zeros,
            };
            if piece != Piece::Base(s.offset) {
                dirty.push(s.offset / GROUP_LEN..(s.offset + s.len).div_ceil(GROUP_LEN));
            }
            push(&mut segments, s.len, piece);
        }
        let base_len = self.base.map_or(0, ContentReader::size);
        let changed = changed_groups(base_len, size, &dirty);
        let tree = self.base.map(ContentReader::tree).transpose()?;
        let no_nodes: &[u8] = &[];
        let nodes: &dyn Nodes = match &tree {
            Some(tree) => tree,
            None => &no_nodes,
        };
        let mut groups = PlanGroups {
            assembly: self,
            tree: tree.as_ref(),
            segments: &segments,
            read: BTreeSet::new(),
            group: None,
        };
        let (hash, overrides) = rehash(nodes, base_len, size, &dirty, &mut groups)?;
        if let Some(base) = self.base {
            // A damaged base must not lend its damage to a new hash.
            let edges = changed.iter().flat_map(|r| [r.start, r.end - 1]);
            let leaves = edges.chain(groups.read);
            authenticate(nodes, base_len, &base.hash(), leaves)
                .map_err(|e| corrupt(&base.hash(), e.detail()))?;
        }
        Ok(Changes {
            hash,
            segments,
            overrides,
        })
    }
}

/// What a delta does to a base, before its literals are put in order.
struct Changes {
    hash: alknet_fs_core::Hash,
    /// The literals are in the address space of [`Literals`].
    segments: Vec<Segment>,
    overrides: Overrides,
}

impl Changes {
    /// Returns about how many bytes the delta takes.
    fn weight(&self) -> u64 {
        weight(&self.segments, self.overrides.len() as u64)
    }

    /// Expresses the changes, which are over a delta, over that delta's own base; its literals
    /// start at an address.
    fn fold(
        &mut self,
        reader: &ContentReader,
        below: &DeltaBody,
        start: u64,
        size: u64,
    ) -> Result<()> {
        let mut segments = Vec::with_capacity(self.segments.len());
        for s in &self.segments {
            let Piece::Base(at) = s.piece else {
                push(&mut segments, s.len, s.piece);
                continue;
            };
            for below in below.delta.range(at..at + s.len) {
                let piece = match below.piece {
                    Piece::Literal(at) => Piece::Literal(start + at),
                    piece => piece,
                };
                push(&mut segments, below.len, piece);
            }
        }
        let groups = group_count(size);
        let mut nodes = vec![0; (below.delta.node_count() * CV_LEN) as usize];
        reader.fill_payload(below, below.delta.literals_len, &mut nodes)?;
        let (nodes, _) = nodes.as_chunks();
        for (at, node) in below.delta.positions().zip(nodes) {
            let (level, index) = node_at(at);
            let in_zeros =
                || level < ZERO_LEVEL && is_zeros(&self.segments, index >> (ZERO_LEVEL - level));
            if at < node_count(groups) && !self.overrides.contains_key(&at) && !in_zeros() {
                self.overrides.insert(at, *node);
            }
        }
        // Blocks that were zeros as a whole, and no longer are, need the nodes inside.
        let own = self.segments.iter();
        let edges = own
            .filter(|s| s.piece != Piece::Base(s.offset))
            .flat_map(|s| [s.offset, s.offset + s.len - 1])
            .map(|offset| offset / GROUP_LEN);
        let blocks: BTreeSet<u64> = edges
            .chain([groups - 1, groups])
            .map(|group| group >> ZERO_LEVEL)
            .filter(|&block| below.delta.is_zeros(block) && !is_zeros(&segments, block))
            .collect();
        for block in blocks {
            for level in 0..ZERO_LEVEL {
                let width = 1 << (ZERO_LEVEL - level);
                for index in block * width..(block + 1) * width {
                    if (index + 1) << level <= groups {
                        self.overrides
                            .entry(position(level, index))
                            .or_insert_with(|| zeros_node(level, index));
                    }
                }
            }
        }
        self.segments = segments;
        Ok(())
    }
}

/// The literals of several deltas in one address space: first what is staged, then the payloads,
/// each after a gap of one, so that no segment reaches from one into the next.
struct Literals<'a> {
    assembly: &'a Assembly<'a>,
    levels: Vec<(u64, &'a ContentReader, &'a DeltaBody)>,
}

impl<'a> Literals<'a> {
    /// Adds a delta's literals; returns where they start.
    fn add(&mut self, reader: &'a ContentReader, body: &'a DeltaBody) -> u64 {
        let end = match self.levels.last() {
            Some((start, _, body)) => start + body.delta.literals_len,
            None => {
                let segments = self.assembly.plan.segments.iter();
                let ends = segments.filter_map(|s| match s.source {
                    Source::Staged(at) => Some(at + s.len),
                    _ => None,
                });
                ends.max().unwrap_or(0)
            }
        };
        self.levels.push((end + 1, reader, body));
        end + 1
    }

    /// Visits the literal bytes of segments in order.
    fn each(&self, segments: &[Segment], each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buf = Vec::new();
        for s in segments {
            let Piece::Literal(from) = s.piece else {
                continue;
            };
            let level = self.levels.partition_point(|(start, ..)| *start <= from);
            let level = level.checked_sub(1).map(|at| &self.levels[at]);
            let mut done = 0;
            while done < s.len {
                buf.resize((s.len - done).min(CHUNK) as usize, 0);
                let at = from + done;
                match level {
                    Some((start, reader, body)) => {
                        reader.fill_payload(body, at - start, &mut buf)?;
                    }
                    None => self.assembly.fill_staged(at, &mut buf)?,
                }
                each(&buf)?;
                done += buf.len() as u64;
            }
        }
        Ok(())
    }
}

/// The groups of the new content. Base bytes are checked against the base's tree.
struct PlanGroups<'a> {
    assembly: &'a Assembly<'a>,
    tree: Option<&'a Tree<'a>>,
    segments: &'a [Segment],
    /// The base's groups that were read.
    read: BTreeSet<u64>,
    /// The last of them.
    group: Option<(u64, Vec<u8>)>,
}

impl PlanGroups<'_> {
    fn fill_from_base(&mut self, mut at: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let index = at / GROUP_LEN;
            let group = self.base_group(index)?;
            let part = &group[(at - index * GROUP_LEN) as usize..];
            let n = part.len().min(buf.len());
            let (now, later) = buf.split_at_mut(n);
            now.copy_from_slice(&part[..n]);
            buf = later;
            at += n as u64;
        }
        Ok(())
    }

    fn base_group(&mut self, index: u64) -> Result<&[u8]> {
        let cached = self.group.take().filter(|(at, _)| *at == index);
        let group = match cached {
            Some(group) => group,
            None => {
                let base = self.assembly.base.ok_or_else(|| unfit("it has no base"))?;
                let tree = self.tree.ok_or_else(|| unfit("it has no base"))?;
                let start = index * GROUP_LEN;
                let mut bytes = vec![0; GROUP_LEN.min(base.size() - start) as usize];
                base.read_at(start, &mut bytes)?;
                if group_cv(index, &bytes) != tree.node(0, index)? {
                    let what = format_args!("the bytes from {start} on do not fit its hash tree");
                    return Err(corrupt(&base.hash(), what));
                }
                self.read.insert(index);
                (index, bytes)
            }
        };
        Ok(&self.group.insert(group).1)
    }
}

impl Groups for PlanGroups<'_> {
    fn read(&mut self, index: u64, buf: &mut [u8]) -> Result<()> {
        let assembly = self.assembly;
        assembly.each(index * GROUP_LEN, buf, |source, part| match source {
            Source::Base(at) => self.fill_from_base(at, part),
            Source::Staged(at) => assembly.fill_staged(at, part),
            Source::Zeros => {
                part.fill(0);
                Ok(())
            }
        })
    }

    fn is_zeros(&self, block: u64) -> bool {
        is_zeros(self.segments, block)
    }
}
