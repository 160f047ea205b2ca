//! The BLAKE3 tree of chaining values over groups of 16 KiB.
//!
//! The group is the one iroh-blobs uses, so that verified ranges can be served from the same tree.
//! A node `(level, index)` covers the groups `index << level .. (index + 1) << level`. Every
//! complete subtree has a node; a last group that is shorter is a leaf like any other. Nodes are
//! kept in post-order, 32 bytes each, so that the tree of a growing file is only ever appended to.
//! The root hash merges the largest complete subtrees from the right, as BLAKE3 defines.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// The number of bytes a leaf of the tree covers.
pub const GROUP_LEN: u64 = 16 * 1024;

/// The size of a node in bytes.
pub const CV_LEN: u64 = 32;

/// The level of the blocks (1 MiB) inside which the nodes of zero bytes need not be kept.
pub const ZERO_LEVEL: u32 = 6;

/// The number of bytes of such a block.
pub const ZERO_BLOCK_LEN: u64 = GROUP_LEN << ZERO_LEVEL;

/// A chaining value: the hash of a subtree that is not the root.
pub type Cv = [u8; 32];

/// Nodes that replace those of a base tree, by their position.
pub type Overrides = BTreeMap<u64, Cv>;

/// Returns the number of groups a content of `size` bytes has.
pub fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_LEN)
}

/// Returns the number of nodes a tree over a number of groups has.
pub fn node_count(groups: u64) -> u64 {
    2 * groups - u64::from(groups.count_ones())
}

/// Returns where a node stands in post-order.
pub fn position(level: u32, index: u64) -> u64 {
    let end = (index + 1) << level;
    node_count(end) - 1 - u64::from(end.trailing_zeros() - level)
}

/// Returns the level and the index of the node at a position.
pub fn node_at(position: u64) -> (u32, u64) {
    // The node was added with the first leaf that makes the tree longer than `position` nodes. Of
    // `end` leaves there are at most `2 * end` nodes, and fewer than that by 64 at most.
    let (mut low, mut high) = (position / 2, position / 2 + 64);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if node_count(middle) > position {
            high = middle;
        } else {
            low = middle;
        }
    }
    let above = node_count(high) - 1 - position;
    let level = high.trailing_zeros() - above as u32;
    (level, (high >> level) - 1)
}

/// Returns the chaining value of a group.
///
/// `bytes` are 1 to [`GROUP_LEN`] bytes; fewer than that only in the last group.
pub fn group_cv(index: u64, bytes: &[u8]) -> Cv {
    Hasher::new()
        .set_input_offset(index * GROUP_LEN)
        .update(bytes)
        .finalize_non_root()
}

pub(crate) fn merge(left: &Cv, right: &Cv) -> Cv {
    merge_subtrees_non_root(left, right, Mode::Hash)
}

pub(crate) fn merge_root(left: &Cv, right: &Cv) -> Hash {
    merge_subtrees_root(left, right, Mode::Hash).into()
}

/// Returns the largest complete subtrees from left to right.
fn peaks(groups: u64) -> impl DoubleEndedIterator<Item = (u32, u64)> {
    (0..u64::BITS)
        .rev()
        .filter(move |level| groups >> level & 1 == 1)
        .map(move |level| (level, (groups >> level) - 1))
}

/// Tells whether a subtree over some groups of a content has a node of its own.
pub(crate) fn is_complete(groups: &Range<u64>) -> bool {
    (groups.end - groups.start).is_power_of_two()
}

/// Numbers the subtrees that end with the content and have no node, by the group they start at.
pub(crate) fn spine_slot(start: u64) -> u64 {
    u64::from(start.count_ones()).saturating_sub(1)
}

/// Puts a tree together from the chaining values of its groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct TreeBuilder {
    groups: u64,
    peaks: Vec<Cv>,
    last_merged: Option<(Cv, Cv)>,
    nodes: Vec<u8>,
}

impl TreeBuilder {
    /// Adds the next group.
    pub(crate) fn push(&mut self, mut node: Cv) {
        self.nodes.extend_from_slice(&node);
        self.groups += 1;
        for _ in 0..self.groups.trailing_zeros() {
            let left = self.peaks.pop().expect("a finished left sibling");
            self.last_merged = Some((left, node));
            node = merge(&left, &node);
            self.nodes.extend_from_slice(&node);
        }
        self.peaks.push(node);
    }

    /// Hands over the nodes completed since the last call, in post-order.
    pub(crate) fn take_nodes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.nodes)
    }

    /// Returns the hash; nothing for fewer than two groups, whose hash takes their bytes.
    pub(crate) fn finish(&self) -> Option<Hash> {
        match (&self.peaks[..], self.last_merged) {
            ([], _) | ([_], None) => None,
            ([_], Some((left, right))) => Some(merge_root(&left, &right)),
            ([first, rest @ ..], _) => Some(fold_peaks(first, rest)),
        }
    }
}

/// Hashes bytes in order and collects the nodes of the tree on the way.
///
/// ```
/// use alknet_fs_content::hash_tree::TreeHasher;
/// use alknet_fs_core::Hash;
/// let bytes = vec![7; 100_000];
/// let mut hasher = TreeHasher::new();
/// hasher.update(&bytes[..33_333]);
/// hasher.update(&bytes[33_333..]);
/// let (hash, nodes) = hasher.finish();
/// assert_eq!(hash, Hash::of(&bytes));
/// assert_eq!(nodes.len() % 32, 0);
/// ```
#[derive(Debug, Clone)]
pub struct TreeHasher {
    group: Hasher,
    filled: u64,
    first_root: Hash,
    tree: TreeBuilder,
}

impl Default for TreeHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeHasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self {
            group: Hasher::new(),
            filled: 0,
            first_root: Hash::EMPTY,
            tree: TreeBuilder::default(),
        }
    }

    /// Returns the number of bytes hashed so far.
    pub fn size(&self) -> u64 {
        self.tree.groups * GROUP_LEN + self.filled
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (GROUP_LEN - self.filled) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.group.update(now);
            self.filled += now.len() as u64;
            bytes = later;
            if self.filled == GROUP_LEN {
                self.close_group();
            }
        }
    }

    fn close_group(&mut self) {
        if self.tree.groups == 0 {
            self.first_root = self.group.finalize().into();
        }
        self.tree.push(self.group.finalize_non_root());
        self.filled = 0;
        self.group = Hasher::new();
        self.group.set_input_offset(self.tree.groups * GROUP_LEN);
    }

    /// Hands over the nodes completed since the last call, in post-order.
    ///
    /// A caller that takes them as they come keeps the memory logarithmic in the size.
    pub fn take_nodes(&mut self) -> Vec<u8> {
        self.tree.take_nodes()
    }

    /// Returns the hash, and the nodes that were not taken yet.
    pub fn finish(mut self) -> (Hash, Vec<u8>) {
        if self.filled > 0 {
            self.close_group();
        }
        let hash = self.tree.finish().unwrap_or(self.first_root);
        (hash, self.tree.nodes)
    }
}

/// Merges two or more peaks to the root.
fn fold_peaks(first: &Cv, rest: &[Cv]) -> Hash {
    let mut right = rest[rest.len() - 1];
    for left in rest[..rest.len() - 1].iter().rev() {
        right = merge(left, &right);
    }
    merge_root(first, &right)
}

/// The nodes of a content's tree.
pub trait Nodes {
    /// Returns the chaining value of a complete subtree.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the tree has no such node, or what reading it gives.
    fn node(&self, level: u32, index: u64) -> Result<Cv>;

    /// Returns the chaining value of the groups from `start` to `end`, the end of the content, where
    /// they are a subtree but no complete one.
    ///
    /// # Errors
    /// As [`node`](Self::node).
    fn spine(&self, start: u64, end: u64) -> Result<Cv> {
        let mut folded = None;
        for (level, index) in peaks(end - start).rev() {
            let node = self.node(level, (start >> level) + index)?;
            folded = Some(folded.map_or(node, |right| merge(&node, &right)));
        }
        folded.ok_or_else(|| Error::with_detail(ErrorKind::Corrupt, "the hash tree is too short"))
    }
}

/// Returns the chaining value of a subtree, not the whole tree, over a range of groups.
///
/// # Errors
/// As [`Nodes::node`].
pub fn subtree<N: Nodes + ?Sized>(nodes: &N, groups: Range<u64>) -> Result<Cv> {
    let count = groups.end - groups.start;
    if is_complete(&groups) {
        nodes.node(count.trailing_zeros(), groups.start / count)
    } else {
        nodes.spine(groups.start, groups.end)
    }
}

/// Returns the node at a position of nodes in post-order.
fn node_of(nodes: &[u8], position: u64) -> Result<Cv> {
    let at = usize::try_from(position * CV_LEN).unwrap_or(usize::MAX);
    nodes
        .get(at..)
        .and_then(|tail| tail.first_chunk())
        .copied()
        .ok_or_else(|| Error::with_detail(ErrorKind::Corrupt, "the hash tree is too short"))
}

/// Nodes in post-order in memory.
impl Nodes for &[u8] {
    fn node(&self, level: u32, index: u64) -> Result<Cv> {
        node_of(self, position(level, index))
    }
}

impl Nodes for Vec<u8> {
    fn node(&self, level: u32, index: u64) -> Result<Cv> {
        self.as_slice().node(level, index)
    }
}

/// A part of a tree in a file, so that neighbours are read at once.
#[derive(Debug, Default)]
pub(crate) struct NodeBlock {
    start: u64,
    nodes: Vec<u8>,
}

impl NodeBlock {
    /// How many nodes are read at once: a page.
    const LEN: u64 = 128;

    /// Returns the node at a position; `read` fills a buffer from an offset, as far as the file goes.
    pub(crate) fn node(
        &mut self,
        position: u64,
        read: impl FnOnce(u64, &mut [u8]) -> Result<usize>,
    ) -> Result<Cv> {
        let end = self.start + self.nodes.len() as u64 / CV_LEN;
        if !(self.start..end).contains(&position) {
            self.start = position - position % Self::LEN;
            self.nodes.resize((Self::LEN * CV_LEN) as usize, 0);
            let len = read(self.start * CV_LEN, &mut self.nodes);
            self.nodes.truncate(*len.as_ref().unwrap_or(&0));
            len?;
        }
        node_of(&self.nodes, position - self.start)
    }
}

/// Replaced nodes before those of a base.
#[derive(Debug)]
pub struct Overlay<'a, B: ?Sized> {
    /// The nodes that differ.
    pub overrides: &'a Overrides,
    /// All other nodes.
    pub base: &'a B,
}

impl<B: Nodes + ?Sized> Nodes for Overlay<'_, B> {
    fn node(&self, level: u32, index: u64) -> Result<Cv> {
        match self.overrides.get(&position(level, index)) {
            Some(node) => Ok(*node),
            None => self.base.node(level, index),
        }
    }
}

/// The bytes of a changed content, as [`rehash`] asks for them.
pub trait Groups {
    /// Fills `buf` with the bytes of a group; `buf` has the group's length.
    fn read(&mut self, index: u64, buf: &mut [u8]) -> Result<()>;

    /// Tells whether all bytes of a block of `1 <<` [`ZERO_LEVEL`] groups are zero by construction.
    ///
    /// Asked for blocks inside the content only. The nodes inside such a block are not collected: [`zeros_node`] computes them.
    fn is_zeros(&self, block: u64) -> bool {
        let _ = block;
        false
    }
}

/// Returns a node over zero bytes only, at most a block of `1 <<` [`ZERO_LEVEL`] groups.
pub fn zeros_node(level: u32, index: u64) -> Cv {
    static ZEROS: [u8; ZERO_BLOCK_LEN as usize] = [0; _];
    let len = GROUP_LEN << level;
    Hasher::new()
        .set_input_offset(index * len)
        .update(&ZEROS[..len as usize])
        .finalize_non_root()
}

/// Sorts ranges and merges those that touch.
pub fn normalize(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|r| r.start < r.end);
    ranges.sort_unstable_by_key(|r| r.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    ranges
}

/// Tells whether a node covers a group of the ranges, which are sorted and do not overlap.
fn touches(ranges: &[Range<u64>], level: u32, index: u64) -> bool {
    let (start, end) = (index << level, (index + 1) << level);
    let next = ranges.partition_point(|r| r.end <= start);
    ranges.get(next).is_some_and(|r| r.start < end)
}

/// Returns the groups whose leaves differ between a base and a version of it.
///
/// `dirty` are the groups that hold changed bytes; those that differ because the size changed are
/// added.
pub fn changed_groups(base_size: u64, new_size: u64, dirty: &[Range<u64>]) -> Vec<Range<u64>> {
    let groups = group_count(new_size);
    let mut changed = dirty.to_vec();
    if base_size < new_size {
        changed.push(base_size / GROUP_LEN..groups);
    } else if base_size > new_size && !new_size.is_multiple_of(GROUP_LEN) {
        changed.push(groups - 1..groups);
    }
    for range in &mut changed {
        range.end = range.end.min(groups);
    }
    normalize(changed)
}

/// Returns the groups of a content that another one does not have in the same place, by comparing
/// their trees from the top down; nothing where there are more than `max`.
///
/// The cost is a logarithm of the size for each group returned.
///
/// # Errors
/// What reading the nodes gives.
pub fn differing_groups(
    base: &dyn Nodes,
    base_size: u64,
    new: &dyn Nodes,
    new_size: u64,
    max: u64,
) -> Result<Option<Vec<Range<u64>>>> {
    let count = group_count(new_size);
    let common = group_count(base_size).min(count);
    let mut differing: Vec<Range<u64>> = Vec::new();
    let mut found = count - common;
    let mut left: Vec<_> = peaks(common).rev().collect();
    while let Some((level, index)) = left.pop() {
        if base.node(level, index)? == new.node(level, index)? {
            continue;
        }
        if level > 0 {
            left.extend([(level - 1, index * 2 + 1), (level - 1, index * 2)]);
            continue;
        }
        found += 1;
        if found > max {
            return Ok(None);
        }
        match differing.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => differing.push(index..index + 1),
        }
    }
    differing.push(common..count);
    Ok((found <= max).then(|| normalize(differing)))
}

/// Computes the hash of a changed content from the tree of its base, and the nodes that differ.
///
/// `dirty` are the ranges of groups that hold changed bytes; groups that differ only because the
/// size changed are found here. The cost is that of hashing the changed groups, and a logarithm
/// of the size for each.
///
/// # Errors
/// What reading the base's nodes or the groups gives.
pub fn rehash(
    base: &dyn Nodes,
    base_size: u64,
    new_size: u64,
    dirty: &[Range<u64>],
    groups: &mut dyn Groups,
) -> Result<(Hash, Overrides)> {
    let changed = changed_groups(base_size, new_size, dirty);
    let count = group_count(new_size);
    let mut rehash = Rehash {
        base,
        new_size,
        changed: &changed,
        groups,
        overrides: Overrides::new(),
        buf: vec![0; GROUP_LEN as usize],
    };
    let mut tops = Vec::new();
    for (level, index) in peaks(count) {
        tops.push(rehash.node(level, index)?);
    }
    let hash = match &tops[..] {
        [] => Hash::EMPTY,
        [_] if count == 1 => {
            let buf = &mut rehash.buf[..new_size as usize];
            rehash.groups.read(0, buf)?;
            Hash::of(buf)
        }
        [_] => {
            let level = count.trailing_zeros() - 1;
            merge_root(&rehash.known(level, 0)?, &rehash.known(level, 1)?)
        }
        [first, rest @ ..] => fold_peaks(first, rest),
    };
    Ok((hash, rehash.overrides))
}

struct Rehash<'a> {
    base: &'a dyn Nodes,
    new_size: u64,
    changed: &'a [Range<u64>],
    groups: &'a mut dyn Groups,
    overrides: Overrides,
    buf: Vec<u8>,
}

impl Rehash<'_> {
    fn node(&mut self, level: u32, index: u64) -> Result<Cv> {
        if !touches(self.changed, level, index) {
            return self.base.node(level, index);
        }
        let is_full_block = level == ZERO_LEVEL && (index + 1) * ZERO_BLOCK_LEN <= self.new_size;
        let node = if is_full_block && self.groups.is_zeros(index) {
            zeros_node(level, index)
        } else if level == 0 {
            let start = index * GROUP_LEN;
            let buf = &mut self.buf[..GROUP_LEN.min(self.new_size - start) as usize];
            self.groups.read(index, buf)?;
            group_cv(index, buf)
        } else {
            let left = self.node(level - 1, index * 2)?;
            merge(&left, &self.node(level - 1, index * 2 + 1)?)
        };
        self.overrides.insert(position(level, index), node);
        Ok(node)
    }

    /// Returns a node that was computed before or is the base's.
    fn known(&self, level: u32, index: u64) -> Result<Cv> {
        if let Some(node) = self.overrides.get(&position(level, index)) {
            return Ok(*node);
        }
        if touches(self.changed, level, index) {
            return Ok(zeros_node(level, index));
        }
        self.base.node(level, index)
    }
}

/// Checks that the nodes on the way from the root to some leaves, and those beside them, belong to
/// a hash.
///
/// A tree of a single group has nothing to check.
///
/// # Errors
/// [`ErrorKind::Corrupt`] where they do not, or what reading the nodes gives.
pub fn authenticate(
    nodes: &dyn Nodes,
    size: u64,
    hash: &Hash,
    leaves: impl IntoIterator<Item = u64>,
) -> Result<()> {
    let count = group_count(size);
    if count < 2 {
        return Ok(());
    }
    let corrupt = || Error::with_detail(ErrorKind::Corrupt, "the hash tree does not fit the hash");
    let tops: Vec<_> = peaks(count)
        .map(|(level, index)| nodes.node(level, index))
        .collect::<Result<_>>()?;
    let root = match &tops[..] {
        [first, rest @ ..] if !rest.is_empty() => fold_peaks(first, rest),
        _ => {
            let level = count.trailing_zeros() - 1;
            merge_root(&nodes.node(level, 0)?, &nodes.node(level, 1)?)
        }
    };
    if root != *hash {
        return Err(corrupt());
    }
    let mut checked = HashSet::new();
    for leaf in leaves.into_iter().filter(|&leaf| leaf < count) {
        let top = peaks(count).find(|&(level, index)| leaf >> level == index);
        let (top, _) = top.ok_or_else(corrupt)?;
        for level in 1..=top {
            let index = leaf >> level;
            if !checked.insert((level, index)) {
                break;
            }
            let left = nodes.node(level - 1, index * 2)?;
            let right = nodes.node(level - 1, index * 2 + 1)?;
            if merge(&left, &right) != nodes.node(level, index)? {
                return Err(corrupt());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(bytes: &[u8]) -> (Hash, Vec<u8>) {
        let mut hasher = TreeHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    fn painted(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut reader = Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        reader.fill(&mut bytes);
        bytes
    }

    struct Bytes<'a>(&'a [u8]);

    impl Groups for Bytes<'_> {
        fn read(&mut self, index: u64, buf: &mut [u8]) -> Result<()> {
            buf.copy_from_slice(&self.0[(index * GROUP_LEN) as usize..][..buf.len()]);
            Ok(())
        }

        fn is_zeros(&self, block: u64) -> bool {
            let len = ZERO_BLOCK_LEN as usize;
            self.0[block as usize * len..][..len]
                .iter()
                .all(|&b| b == 0)
        }
    }

    #[test]
    fn hashes_as_blake3_does_around_every_boundary() {
        let group = GROUP_LEN as usize;
        let mut sizes = vec![0, 1, 1023, 1024, 1025];
        for groups in 1..20 {
            sizes.extend([groups * group - 1, groups * group, groups * group + 1]);
        }
        for size in sizes {
            let bytes = painted(size, 1);
            let (hash, nodes) = tree(&bytes);
            assert_eq!(hash, Hash::of(&bytes), "{size}");
            let groups = group_count(size as u64);
            assert_eq!(nodes.len() as u64, node_count(groups) * CV_LEN, "{size}");
            authenticate(&nodes, size as u64, &hash, 0..groups).unwrap();
        }
    }

    #[test]
    fn nodes_are_where_positions_say() {
        let bytes = painted(11 * GROUP_LEN as usize + 5, 2);
        let (_, nodes) = tree(&bytes);
        let mut seen = HashSet::new();
        for level in 0..4 {
            for index in 0..12 >> level {
                let start = (index << level) * GROUP_LEN as usize;
                let len = (GROUP_LEN as usize) << level;
                let span = &bytes[start..(start + len).min(bytes.len())];
                let expected = Hasher::new()
                    .set_input_offset(start as u64)
                    .update(span)
                    .finalize_non_root();
                assert_eq!(nodes.node(level, index as u64).unwrap(), expected);
                let at = position(level, index as u64);
                assert_eq!(node_at(at), (level, index as u64));
                seen.insert(at);
            }
        }
        assert_eq!(seen.len() as u64, node_count(12));
        assert!(nodes.node(0, 12).is_err());
    }

    #[test]
    fn positions_and_nodes_are_each_others_inverse() {
        for at in (0..5000).chain((1 << 45) - 200..(1 << 45) + 200) {
            let (level, index) = node_at(at);
            assert_eq!(position(level, index), at);
        }
    }

    #[test]
    fn a_changed_node_is_noticed() {
        let bytes = painted(13 * GROUP_LEN as usize, 3);
        let (hash, nodes) = tree(&bytes);
        for at in 0..nodes.len() / 32 {
            let mut broken = nodes.clone();
            broken[at * 32] ^= 1;
            let result = authenticate(&broken, bytes.len() as u64, &hash, 0..13);
            // The top of a tree of one peak is not part of its root; here there are three.
            assert!(result.is_err(), "node {at}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn rehash_agrees_with_hashing_everything(
            base_len in 0..150_000usize,
            new_len in 0..150_000usize,
            edits in proptest::collection::vec((0..150_000usize, 0..40_000usize), 0..4),
            seed in any::<u64>(),
        ) {
            let base = painted(base_len, seed);
            let mut new = base.clone();
            new.resize(new_len, 0xee);
            let mut dirty = Vec::new();
            for (at, len) in edits {
                let end = (at + len).min(new_len);
                if at < end {
                    let bytes = painted(end - at, seed ^ 1);
                    new[at..end].copy_from_slice(&bytes);
                    dirty.push(at as u64 / GROUP_LEN..(end as u64).div_ceil(GROUP_LEN));
                }
            }
            let (_, base_nodes) = tree(&base);
            let (hash, overrides) = rehash(
                &base_nodes, base_len as u64, new_len as u64, &dirty, &mut Bytes(&new),
            )?;
            let (expected, nodes) = tree(&new);
            prop_assert_eq!(hash, expected);
            let overlay = Overlay { overrides: &overrides, base: &base_nodes };
            for level in 0..10 {
                for index in 0..group_count(new_len as u64) >> level {
                    prop_assert_eq!(overlay.node(level, index)?, nodes.node(level, index)?);
                }
            }
        }

        #[test]
        fn differing_groups_are_those_whose_bytes_differ(
            base_len in 0..600_000usize,
            new_len in 0..600_000usize,
            edits in proptest::collection::vec((0..600_000usize, 0..40_000usize), 0..4),
            max in 0..40u64,
        ) {
            let base = painted(base_len, 1);
            let mut new = base.clone();
            new.resize(new_len, 0xee);
            for (at, len) in edits {
                let end = (at + len).min(new_len);
                if at < end {
                    new[at..end].copy_from_slice(&painted(end - at, 2));
                }
            }
            let group = GROUP_LEN as usize;
            let at = |bytes: &[u8], index: usize| {
                bytes.chunks(group).nth(index).map(<[u8]>::to_vec)
            };
            let expected: Vec<_> = (0..new_len.div_ceil(group))
                .filter(|&index| at(&base, index) != at(&new, index))
                .map(|index| index as u64)
                .collect();
            let found = differing_groups(
                &tree(&base).1, base_len as u64, &tree(&new).1, new_len as u64, max,
            )?;
            let found = found.map(|ranges| ranges.into_iter().flatten().collect::<Vec<_>>());
            let fits = expected.len() as u64 <= max;
            prop_assert_eq!(found, fits.then_some(expected));
        }

        #[test]
        fn rehash_skips_blocks_of_zeros(
            base_len in 0..100_000usize,
            new_len in 0..5_000_000usize,
            at in 0..5_000_000usize,
        ) {
            let base = painted(base_len, 1);
            let mut new = base.clone();
            new.resize(new_len, 0);
            let mut dirty = Vec::new();
            if at < new_len {
                new[at] = 1;
                dirty.push(at as u64 / GROUP_LEN..at as u64 / GROUP_LEN + 1);
            }
            let (_, base_nodes) = tree(&base);
            let (hash, overrides) = rehash(
                &base_nodes, base_len as u64, new_len as u64, &dirty, &mut Bytes(&new),
            )?;
            prop_assert_eq!(hash, Hash::of(&new));
            prop_assert!(overrides.len() <= 450);
        }
    }
}
