//! The binary form of a delta: how a content follows from its base.
//!
//! All numbers are LEB128. A delta is
//!
//! ```text
//! version     1 byte, 1
//! size        of the content
//! literals    length of the literal bytes
//! in file     1 byte: 1 where the payload is in a file, 0 where it follows the runs
//! segments    count, then each: length * 4 + kind (0 base, 1 literal, 2 zeros);
//!             a base segment is followed by its offset in the base minus its own, zigzag
//! runs        count, then each: positions skipped since the last run, nodes in the run
//! payload     the literal bytes in order, then the overriding nodes in order
//! ```
//!
//! Literal segments use the literal bytes up in order, and runs the nodes, so neither needs an
//! offset of its own.

use std::ops::Range;

use alknet_fs_core::{Error, ErrorKind, Result};

use crate::hash_tree::{CV_LEN, Overrides, ZERO_BLOCK_LEN, group_count, node_count};

const VERSION: u8 = 1;

/// Where a segment's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// In the base, from this offset on.
    Base(u64),
    /// In the literals, from this offset on.
    Literal(u64),
    /// Nowhere: they are zero.
    Zeros,
}

impl Piece {
    pub(crate) fn advanced(self, by: u64) -> Self {
        match self {
            Self::Base(at) => Self::Base(at + by),
            Self::Literal(at) => Self::Literal(at + by),
            Self::Zeros => Self::Zeros,
        }
    }
}

/// A range of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) piece: Piece,
}

/// Appends a segment, merging it with the last where it continues it.
pub(crate) fn push(segments: &mut Vec<Segment>, len: u64, piece: Piece) {
    if len == 0 {
        return;
    }
    let mut offset = 0;
    if let Some(last) = segments.last_mut() {
        if last.piece.advanced(last.len) == piece {
            last.len += len;
            return;
        }
        offset = last.offset + last.len;
    }
    segments.push(Segment { offset, len, piece });
}

/// Consecutive positions of overriding nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u64,
    len: u64,
    /// The nodes in all runs before.
    before: u64,
}

/// A delta without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) size: u64,
    pub(crate) segments: Vec<Segment>,
    pub(crate) literals_len: u64,
    runs: Vec<Run>,
}

fn corrupt(detail: &str) -> Error {
    Error::with_detail(ErrorKind::Corrupt, format!("broken delta: {detail}"))
}

impl Delta {
    /// Puts a delta together; `segments` cover `0..size` and use the literals up in order.
    pub(crate) fn new(size: u64, segments: Vec<Segment>, overrides: &Overrides) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (before, &position) in (0..).zip(overrides.keys()) {
            match runs.last_mut() {
                Some(run) if run.start + run.len == position => run.len += 1,
                _ => runs.push(Run {
                    start: position,
                    len: 1,
                    before,
                }),
            }
        }
        let literals_len = literals_len(&segments);
        Self {
            size,
            segments,
            literals_len,
            runs,
        }
    }

    /// Returns the number of overriding nodes.
    pub(crate) fn node_count(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.before + run.len)
    }

    /// Returns the length of the payload in bytes.
    pub(crate) fn payload_len(&self) -> u64 {
        self.literals_len + self.node_count() * CV_LEN
    }

    /// Returns about how many bytes the delta takes, its segments included.
    pub(crate) fn weight(&self) -> u64 {
        weight(&self.segments, self.node_count())
    }

    /// Returns where in the payload the node of a position is, if the delta overrides it.
    pub(crate) fn node_at(&self, position: u64) -> Option<u64> {
        let next = self.runs.partition_point(|run| run.start <= position);
        let run = &self.runs[next.checked_sub(1)?];
        let at = position - run.start;
        (at < run.len).then(|| self.literals_len + (run.before + at) * CV_LEN)
    }

    /// Returns the positions of the overriding nodes in order.
    pub(crate) fn positions(&self) -> impl Iterator<Item = u64> {
        self.runs
            .iter()
            .flat_map(|run| run.start..run.start + run.len)
    }

    /// Returns the segments that hold the bytes of a range, cut to it.
    pub(crate) fn range(&self, range: Range<u64>) -> impl Iterator<Item = Segment> {
        let first = self
            .segments
            .partition_point(|s| s.offset + s.len <= range.start);
        let end = range.end;
        self.segments[first..]
            .iter()
            .take_while(move |s| s.offset < end)
            .map(move |s| {
                let offset = s.offset.max(range.start);
                Segment {
                    offset,
                    len: (s.offset + s.len).min(range.end) - offset,
                    piece: s.piece.advanced(offset - s.offset),
                }
            })
    }

    /// Tells whether a block of the hash tree is all zeros by construction.
    pub(crate) fn is_zeros(&self, block: u64) -> bool {
        is_zeros(&self.segments, block)
    }

    /// Returns the delta's bytes; `payload` where it is not kept in a file.
    pub(crate) fn encode(&self, payload: Option<&[u8]>) -> Vec<u8> {
        let mut out = vec![VERSION];
        put(&mut out, self.size);
        put(&mut out, self.literals_len);
        out.push(u8::from(payload.is_none()));
        put(&mut out, self.segments.len() as u64);
        for s in &self.segments {
            let kind = match s.piece {
                Piece::Base(_) => 0,
                Piece::Literal(_) => 1,
                Piece::Zeros => 2,
            };
            put(&mut out, s.len << 2 | kind);
            if let Piece::Base(at) = s.piece {
                let shift = (at as i64).wrapping_sub(s.offset as i64);
                put(&mut out, (shift << 1 ^ shift >> 63) as u64);
            }
        }
        put(&mut out, self.runs.len() as u64);
        let mut end = 0;
        for run in &self.runs {
            put(&mut out, run.start - end);
            put(&mut out, run.len);
            end = run.start + run.len;
        }
        out.extend_from_slice(payload.unwrap_or_default());
        out
    }

    /// Reads a delta over a base of `base_size` bytes; returns it with where its payload starts in
    /// `data`, or `None` where the payload is in a file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything that [`encode`](Self::encode) does not write.
    pub(crate) fn decode(data: &[u8], base_size: u64) -> Result<(Self, Option<usize>)> {
        let mut input = Input(data);
        if input.byte()? != VERSION {
            return Err(corrupt("unknown version"));
        }
        let size = input.number()?;
        let literals_len = input.number()?;
        let in_file = match input.byte()? {
            0 => false,
            1 => true,
            _ => return Err(corrupt("unknown place of the payload")),
        };
        let segments = input.segments(base_size)?;
        let covered = segments.last().map_or(0, |s| s.offset + s.len);
        if covered != size || size > alknet_fs_core::session::MAX_FILE_SIZE {
            return Err(corrupt("the segments do not cover the size"));
        }
        if self::literals_len(&segments) != literals_len {
            return Err(corrupt("the segments do not use the literals up"));
        }
        let runs = input.runs(node_count(group_count(size)))?;
        let delta = Self {
            size,
            segments,
            literals_len,
            runs,
        };
        let rest = input.0.len();
        if in_file {
            if rest != 0 {
                return Err(corrupt("bytes after the end"));
            }
            return Ok((delta, None));
        }
        if rest as u64 != delta.payload_len() {
            return Err(corrupt("the payload has another length"));
        }
        Ok((delta, Some(data.len() - rest)))
    }
}

fn literals_len(segments: &[Segment]) -> u64 {
    segments
        .iter()
        .filter(|s| matches!(s.piece, Piece::Literal(_)))
        .map(|s| s.len)
        .sum()
}

/// Returns about how many bytes a delta of these segments and a number of nodes takes.
pub(crate) fn weight(segments: &[Segment], nodes: u64) -> u64 {
    const SEGMENT: u64 = 8;
    literals_len(segments) + nodes * CV_LEN + segments.len() as u64 * SEGMENT
}

/// Tells whether a block of the hash tree is in one segment of zeros.
pub(crate) fn is_zeros(segments: &[Segment], block: u64) -> bool {
    let start = block.saturating_mul(ZERO_BLOCK_LEN);
    let end = start.saturating_add(ZERO_BLOCK_LEN);
    let at = segments.partition_point(|s| s.offset + s.len <= start);
    segments
        .get(at)
        .is_some_and(|s| s.piece == Piece::Zeros && s.offset <= start && end <= s.offset + s.len)
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8> {
        let (&first, rest) = self
            .0
            .split_first()
            .ok_or_else(|| corrupt("it ends early"))?;
        self.0 = rest;
        Ok(first)
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(corrupt("a number is too large"))
    }

    /// Reads a count of things that take at least one byte each.
    fn count(&mut self) -> Result<usize> {
        let count = self.number()?;
        usize::try_from(count)
            .ok()
            .filter(|&n| n <= self.0.len())
            .ok_or_else(|| corrupt("it ends early"))
    }

    fn segments(&mut self, base_size: u64) -> Result<Vec<Segment>> {
        let count = self.count()?;
        let mut segments = Vec::with_capacity(count);
        let (mut offset, mut literal) = (0u64, 0u64);
        for _ in 0..count {
            let number = self.number()?;
            let (len, kind) = (number >> 2, number & 3);
            let end = offset.checked_add(len).filter(|_| len > 0);
            let end = end.ok_or_else(|| corrupt("a segment has no length"))?;
            let piece = match kind {
                0 => {
                    let zigzag = self.number()?;
                    let shift = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
                    let at = offset.checked_add_signed(shift);
                    let inside = |&at: &u64| at.checked_add(len).is_some_and(|e| e <= base_size);
                    let at = at.filter(inside);
                    Piece::Base(at.ok_or_else(|| corrupt("a segment leaves the base"))?)
                }
                1 => {
                    let at = literal;
                    literal += len;
                    Piece::Literal(at)
                }
                2 => Piece::Zeros,
                _ => return Err(corrupt("unknown kind of segment")),
            };
            segments.push(Segment { offset, len, piece });
            offset = end;
        }
        Ok(segments)
    }

    fn runs(&mut self, positions: u64) -> Result<Vec<Run>> {
        let count = self.count()?;
        let mut runs = Vec::with_capacity(count);
        let (mut end, mut before) = (0u64, 0u64);
        for _ in 0..count {
            let start = end.checked_add(self.number()?);
            let len = self.number()?;
            let start = start.filter(|_| len > 0);
            let start = start.ok_or_else(|| corrupt("a run has no length"))?;
            end = start
                .checked_add(len)
                .filter(|&e| e <= positions)
                .ok_or_else(|| corrupt("a run leaves the tree"))?;
            runs.push(Run { start, len, before });
            before += len;
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> (Delta, Vec<u8>) {
        let mut segments = Vec::new();
        push(&mut segments, 100_000, Piece::Base(0));
        push(&mut segments, 3, Piece::Literal(0));
        push(&mut segments, 50_000, Piece::Base(200_000));
        push(&mut segments, 5, Piece::Literal(3));
        push(&mut segments, 3 << 20, Piece::Zeros);
        let size = segments.iter().map(|s| s.len).sum();
        let overrides: Overrides = [1, 2, 3, 7, 11, 12].map(|p| (p, [p as u8; 32])).into();
        let mut payload = b"abcdefgh".to_vec();
        overrides.values().for_each(|cv| payload.extend(cv));
        (Delta::new(size, segments, &overrides), payload)
    }

    #[test]
    fn round_trips() {
        let (delta, payload) = sample();
        assert_eq!(delta.payload_len(), payload.len() as u64);
        let data = delta.encode(Some(&payload));
        let (decoded, at) = Delta::decode(&data, 300_000).unwrap();
        assert_eq!(decoded, delta);
        assert_eq!(data[at.unwrap()..], payload);
        let in_file = delta.encode(None);
        assert_eq!(Delta::decode(&in_file, 300_000).unwrap(), (delta, None));
        assert!(Delta::decode(&in_file, 249_999).is_err());
    }

    #[test]
    fn finds_nodes() {
        let (delta, payload) = sample();
        for position in 0..20 {
            let found = delta.node_at(position).map(|at| payload[at as usize]);
            let expected = delta.positions().find(|&p| p == position).map(|p| p as u8);
            assert_eq!(found, expected, "{position}");
        }
        assert!(!delta.is_zeros(0));
        assert!(delta.is_zeros(1));
        assert!(!delta.is_zeros(3));
    }

    #[test]
    fn every_cut_is_noticed() {
        let (delta, payload) = sample();
        let data = delta.encode(Some(&payload));
        for len in 0..data.len() {
            assert!(Delta::decode(&data[..len], 300_000).is_err(), "{len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn garbage_never_panics(
            data in proptest::collection::vec(any::<u8>(), 0..60),
            base_size in any::<u64>(),
        ) {
            let mut data = data;
            if let Some(first) = data.first_mut() {
                *first = VERSION;
            }
            if let Ok((delta, _)) = Delta::decode(&data, base_size) {
                let _ = delta.range(0..delta.size).count();
                let _ = (delta.node_at(1), delta.is_zeros(0), delta.payload_len());
            }
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0..100usize, to in any::<u8>()) {
            let (delta, payload) = sample();
            let mut data = delta.encode(Some(&payload));
            let at = at % data.len();
            data[at] = to;
            if let Ok((delta, _)) = Delta::decode(&data, 300_000) {
                prop_assert_eq!(delta.range(0..delta.size).map(|s| s.len).sum::<u64>(), delta.size);
            }
        }
    }
}
