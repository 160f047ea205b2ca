//! Carrying out an assembly plan: its bytes, and the delta that describes it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use alknet_fs_core::session::{AssemblyPlan, Source};
use alknet_fs_core::{Error, ErrorKind, Result};

use crate::contents::{Config, Prepared, Staged};
use crate::delta::{Delta, Piece, Segment, is_zeros, push};
use crate::files::{FileHandle, Files};
use crate::hash_tree::{
    GROUP_LEN, Groups, Nodes, Overrides, ZERO_LEVEL, authenticate, changed_groups, group_count,
    group_cv, node_at, node_count, position, rehash, touches, zeros_node,
};
use crate::reader::{Body, ContentReader, DeltaBody, Payload, Tree, corrupt};
use crate::staged::StagedFile;

/// The size of the pieces in which literals are copied.
const CHUNK: u64 = 1 << 20;

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

    /// Prepares the new content as a delta; `None` where the chain would become too long.
    pub(crate) fn prepare_delta(
        &self,
        files: &Arc<dyn Files>,
        config: &Config,
    ) -> Result<Option<Prepared>> {
        let size = self.plan.size;
        let own = self.own_changes()?;
        let base_delta = self.base.and_then(|base| match &base.body {
            Body::Delta(body) => Some((base, &**body)),
            _ => None,
        });
        if let Some((base, body)) = base_delta
            && let Payload::Inline { data, start } = &body.payload
            && own.min_len().max(data.len() as u64) <= config.delta_merge_max
        {
            let merged = self.merge(&own, body, &data[*start..])?;
            let delta = Delta::new(size, merged.segments, &merged.overrides);
            let data = delta.encode(Some(&payload(merged.literals, &merged.overrides)));
            if data.len() as u64 <= config.delta_merge_max {
                let below = body.base.as_ref().map(ContentReader::hash);
                debug_assert!(base.depth() > 0);
                return Ok(Some(Prepared::delta(own.hash, size, below, data, None)));
            }
        }
        if self
            .base
            .is_some_and(|b| b.depth() >= config.delta_depth_max)
        {
            return Ok(None);
        }
        let base = self.base.map(ContentReader::hash);
        let delta = Delta::new(size, own.segments, &own.overrides);
        if delta.payload_len() <= config.delta_inline_max {
            let literals = self.literals()?;
            let data = delta.encode(Some(&payload(literals, &own.overrides)));
            return Ok(Some(Prepared::delta(own.hash, size, base, data, None)));
        }
        let mut file = StagedFile::create(files)?;
        let mut at = 0;
        self.each_literal(&mut |bytes| {
            file.handle.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
            Ok(())
        })?;
        let nodes = payload(Vec::new(), &own.overrides);
        file.handle.write_all_at(&nodes, at)?;
        file.sync()?;
        let data = delta.encode(None);
        Ok(Some(Prepared::delta(
            own.hash,
            size,
            base,
            data,
            Some(file),
        )))
    }

    /// Works out the delta over the base as it is: segments, hash and nodes.
    fn own_changes(&self) -> Result<Changes> {
        let size = self.plan.size;
        let mut segments = Vec::new();
        let mut dirty = Vec::new();
        let mut literal = 0;
        for s in &self.plan.segments {
            let piece = match s.source {
                Source::Base(at) => Piece::Base(at),
                Source::Staged(_) => {
                    literal += s.len;
                    Piece::Literal(literal - s.len)
                }
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
            changed,
            overrides,
            literals_len: literal,
        })
    }

    fn each_literal(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buf = Vec::new();
        for s in &self.plan.segments {
            let Source::Staged(at) = s.source else {
                continue;
            };
            let mut done = 0;
            while done < s.len {
                buf.resize((s.len - done).min(CHUNK) as usize, 0);
                self.fill_staged(at + done, &mut buf)?;
                each(&buf)?;
                done += buf.len() as u64;
            }
        }
        Ok(())
    }

    fn literals(&self) -> Result<Vec<u8>> {
        let mut literals = Vec::new();
        self.each_literal(&mut |bytes| {
            literals.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(literals)
    }

    /// Expresses the changes over the base's own base.
    fn merge(&self, own: &Changes, base: &DeltaBody, base_payload: &[u8]) -> Result<Merged> {
        let own_literals = self.literals()?;
        let mut literals = Vec::new();
        let mut segments = Vec::new();
        let mut add_literal = |segments: &mut Vec<Segment>, bytes: &[u8]| {
            let at = literals.len() as u64;
            literals.extend_from_slice(bytes);
            push(segments, bytes.len() as u64, Piece::Literal(at));
        };
        for s in &own.segments {
            match s.piece {
                Piece::Literal(at) => {
                    add_literal(
                        &mut segments,
                        &own_literals[at as usize..][..s.len as usize],
                    );
                }
                Piece::Zeros => push(&mut segments, s.len, Piece::Zeros),
                Piece::Base(at) => {
                    for below in base.delta.range(at..at + s.len) {
                        match below.piece {
                            Piece::Literal(at) => add_literal(
                                &mut segments,
                                &base_payload[at as usize..][..below.len as usize],
                            ),
                            piece => push(&mut segments, below.len, piece),
                        }
                    }
                }
            }
        }
        let groups = group_count(self.plan.size);
        let mut overrides = Overrides::new();
        for at in base.delta.positions() {
            let (level, index) = node_at(at);
            if at < node_count(groups) && !touches(&own.changed, level, index) {
                let from = base.delta.node_at(at).unwrap_or_default() as usize;
                if let Some(node) = base_payload[from..].first_chunk() {
                    overrides.insert(at, *node);
                }
            }
        }
        overrides.extend(&own.overrides);
        // Blocks that were zeros as a whole, and no longer are, need the nodes inside.
        let edges = own.changed.iter().flat_map(|r| [r.start, r.end - 1]);
        let blocks: BTreeSet<u64> = edges
            .chain([groups - 1, groups])
            .map(|group| group >> ZERO_LEVEL)
            .filter(|&block| base.delta.is_zeros(block) && !is_zeros(&segments, block))
            .collect();
        for block in blocks {
            for level in 0..ZERO_LEVEL {
                let width = 1 << (ZERO_LEVEL - level);
                for index in block * width..(block + 1) * width {
                    if (index + 1) << level <= groups {
                        overrides
                            .entry(position(level, index))
                            .or_insert_with(|| zeros_node(level, index));
                    }
                }
            }
        }
        Ok(Merged {
            segments,
            literals,
            overrides,
        })
    }
}

struct Changes {
    hash: alknet_fs_core::Hash,
    segments: Vec<Segment>,
    /// The groups that differ from the base's.
    changed: Vec<std::ops::Range<u64>>,
    overrides: Overrides,
    literals_len: u64,
}

impl Changes {
    /// Returns a lower bound of the encoded length.
    fn min_len(&self) -> u64 {
        self.literals_len + self.overrides.len() as u64 * 32 + self.segments.len() as u64
    }
}

struct Merged {
    segments: Vec<Segment>,
    literals: Vec<u8>,
    overrides: Overrides,
}

fn payload(literals: Vec<u8>, overrides: &Overrides) -> Vec<u8> {
    let mut payload = literals;
    overrides.values().for_each(|node| payload.extend(node));
    payload
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
