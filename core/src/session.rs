//! Write sessions: which bytes of the new version come from where.
//!
//! A session never holds bytes here. [`ExtentMap`] records, in order of arrival, where each
//! written range was staged; the newest write wins wherever writes overlap. [`AssemblyPlan`] says
//! how the content adapter puts the new version together.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};

/// The largest size a file can have, in bytes: the largest offset POSIX `off_t` can express.
pub const MAX_FILE_SIZE: u64 = i64::MAX as u64;

/// Where a range of an assembled file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The base content, from this offset on.
    Base(u64),
    /// The session's staging area, from this address on.
    Staged(u64),
    /// Zero bytes.
    Zeros,
}

impl Source {
    fn advanced(self, by: u64) -> Self {
        match self {
            Self::Base(at) => Self::Base(at + by),
            Self::Staged(at) => Self::Staged(at + by),
            Self::Zeros => Self::Zeros,
        }
    }
}

/// A range of an assembled file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where the range starts in the file.
    pub offset: u64,
    /// Its length in bytes; never 0.
    pub len: u64,
    /// Where its bytes are.
    pub source: Source,
}

/// How to put a file together: segments that cover `0..size` in order, without gap or overlap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssemblyPlan {
    /// The size of the file in bytes.
    pub size: u64,
    /// The segments; neighbours that continue each other are merged.
    pub segments: Vec<Segment>,
}

impl AssemblyPlan {
    /// Returns the number of bytes that come from the staging area.
    pub fn staged_len(&self) -> u64 {
        self.segments
            .iter()
            .filter(|s| matches!(s.source, Source::Staged(_)))
            .map(|s| s.len)
            .sum()
    }

    /// Returns the plan that puts what this one has behind the first `base` bytes behind another
    /// `onto` bytes instead, all of a longer, shorter or different base.
    ///
    /// Meant for a plan that only appends, whose first `base` bytes are its base.
    pub fn appended_to(&self, base: u64, onto: u64) -> Self {
        let kept = Segment {
            offset: 0,
            len: onto,
            source: Source::Base(0),
        };
        let appended = self.segments.iter().filter(|s| s.offset >= base);
        let appended = appended.map(|s| Segment {
            offset: s.offset - base + onto,
            ..*s
        });
        let kept = (onto > 0).then_some(kept).into_iter();
        Self {
            size: self.size - base + onto,
            segments: kept.chain(appended).collect(),
        }
    }

    /// Tells whether every staged byte is staged at its own offset.
    pub fn is_in_place(&self) -> bool {
        let own = |s: &Segment| !matches!(s.source, Source::Staged(at) if at != s.offset);
        self.segments.iter().all(own)
    }

    /// Tells whether the staging area is the file: one segment, staged at its own offset.
    pub fn is_staging_itself(&self) -> bool {
        matches!(&self.segments[..], [only] if only.source == Source::Staged(0))
    }
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    len: u64,
    staged_at: u64,
}

/// What a session wrote, over the base it started from.
///
/// The cost of each operation is logarithmic in the number of separate written ranges, plus the
/// ranges it replaces.
///
/// ```
/// use alknet_fs_core::session::{ExtentMap, Segment, Source};
/// let mut map = ExtentMap::new(10);
/// map.write(4, 2, 0).unwrap(); // bytes 4..6 are staged at 0
/// map.truncate(5).unwrap();
/// assert_eq!(map.plan().segments, [
///     Segment { offset: 0, len: 4, source: Source::Base(0) },
///     Segment { offset: 4, len: 1, source: Source::Staged(0) },
/// ]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct ExtentMap {
    size: u64,
    /// The base shows through below this offset, where nothing was written.
    base_visible: u64,
    extents: BTreeMap<u64, Extent>,
}

impl ExtentMap {
    /// Starts from a base of `base_len` bytes; 0 for an empty file.
    pub fn new(base_len: u64) -> Self {
        Self {
            size: base_len,
            base_visible: base_len,
            extents: BTreeMap::new(),
        }
    }

    /// Returns the present size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns below which offset the base shows through where nothing was written.
    pub fn base_visible(&self) -> u64 {
        self.base_visible
    }

    /// Tells whether the file is still exactly the base.
    pub fn is_unchanged(&self, base_len: u64) -> bool {
        self.extents.is_empty() && self.size == base_len && self.base_visible == base_len
    }

    /// Returns the number of separate written ranges.
    pub fn extent_count(&self) -> usize {
        self.extents.len()
    }

    /// Returns the number of bytes that would be taken from the staging area.
    pub fn staged_len(&self) -> u64 {
        self.extents.values().map(|e| e.len).sum()
    }

    /// Records `len` bytes written at `offset` and staged at `staged_at`; they win over all earlier
    /// writes they overlap. A write of no bytes changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] where the file would exceed [`MAX_FILE_SIZE`].
    pub fn write(&mut self, offset: u64, len: u64, staged_at: u64) -> Result<()> {
        let end = checked_end(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.cut(offset, end);
        let previous = self.extents.range_mut(..offset).next_back();
        match previous {
            Some((&start, extent))
                if start + extent.len == offset && extent.staged_at + extent.len == staged_at =>
            {
                extent.len += len;
            }
            _ => {
                self.extents.insert(offset, Extent { len, staged_at });
            }
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] where the file would exceed [`MAX_FILE_SIZE`].
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        checked_end(size, 0)?;
        if size < self.size {
            self.cut(size, self.size);
            self.base_visible = self.base_visible.min(size);
        }
        self.size = size;
        Ok(())
    }

    /// Removes what was written in `start..end`, keeping the parts of extents outside it.
    fn cut(&mut self, start: u64, end: u64) {
        if let Some((&at, extent)) = self.extents.range_mut(..start).next_back() {
            let extent_end = at + extent.len;
            if extent_end > start {
                let staged_at = extent.staged_at;
                extent.len = start - at;
                if extent_end > end {
                    self.extents.insert(
                        end,
                        Extent {
                            len: extent_end - end,
                            staged_at: staged_at + (end - at),
                        },
                    );
                }
            }
        }
        while let Some((&at, &extent)) = self.extents.range(start..end).next() {
            self.extents.remove(&at);
            let extent_end = at + extent.len;
            if extent_end > end {
                self.extents.insert(
                    end,
                    Extent {
                        len: extent_end - end,
                        staged_at: extent.staged_at + (end - at),
                    },
                );
            }
        }
    }

    /// Returns how to put the whole file together.
    pub fn plan(&self) -> AssemblyPlan {
        AssemblyPlan {
            size: self.size,
            segments: self.range(0, self.size),
        }
    }

    /// Returns where the bytes of `offset..offset + len` are, cut at the end of the file.
    pub fn range(&self, offset: u64, len: u64) -> Vec<Segment> {
        let end = offset.saturating_add(len).min(self.size);
        let mut out = Vec::new();
        if offset >= end {
            return out;
        }
        let mut at = offset;
        let before = self.extents.range(..offset).next_back();
        let after = self.extents.range(offset..end);
        for (&start, extent) in before.into_iter().chain(after) {
            let extent_end = (start + extent.len).min(end);
            if extent_end <= at || start >= end {
                continue;
            }
            self.unwritten(&mut out, at, start);
            let from = start.max(at);
            let source = Source::Staged(extent.staged_at + (from - start));
            push(&mut out, from, extent_end - from, source);
            at = extent_end;
        }
        self.unwritten(&mut out, at, end);
        out
    }

    fn unwritten(&self, out: &mut Vec<Segment>, start: u64, end: u64) {
        let base_end = end.min(self.base_visible);
        if start < base_end {
            push(out, start, base_end - start, Source::Base(start));
        }
        let zeros = start.max(self.base_visible);
        if zeros < end {
            push(out, zeros, end - zeros, Source::Zeros);
        }
    }
}

/// Appends a segment, merging it with the last where it continues it.
fn push(out: &mut Vec<Segment>, offset: u64, len: u64, source: Source) {
    if let Some(last) = out.last_mut()
        && last.source.advanced(last.len) == source
    {
        last.len += len;
        return;
    }
    out.push(Segment {
        offset,
        len,
        source,
    });
}

/// Returns where a write of `len` bytes at `offset` ends.
///
/// # Errors
/// [`ErrorKind::TooLarge`] where that is beyond [`MAX_FILE_SIZE`].
pub fn checked_end(offset: u64, len: u64) -> Result<u64> {
    offset
        .checked_add(len)
        .filter(|&end| end <= MAX_FILE_SIZE)
        .ok_or_else(|| {
            Error::with_detail(
                ErrorKind::TooLarge,
                format!("a file can have {MAX_FILE_SIZE} bytes at most"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, u64),
        Truncate(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..60u64, 0..25u64).prop_map(|(at, len)| Step::Write(at, len)),
            1 => (0..80u64).prop_map(Step::Truncate),
        ]
    }

    fn assemble(segments: &[Segment], base: &[u8], staged: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for s in segments {
            let n = s.len as usize;
            match s.source {
                Source::Base(at) => out.extend_from_slice(&base[at as usize..][..n]),
                Source::Staged(at) => out.extend_from_slice(&staged[at as usize..][..n]),
                Source::Zeros => out.resize(out.len() + n, 0),
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Random overlapping writes and truncates give what a plain byte vector gives.
        #[test]
        fn agrees_with_a_byte_vector(
            base_len in 0..50usize,
            steps in proptest::collection::vec(step(), 0..30),
            (from, len) in (0..90u64, 0..90u64),
        ) {
            let base: Vec<u8> = (0..base_len).map(|i| 100 + i as u8).collect();
            let mut model = base.clone();
            let mut map = ExtentMap::new(base_len as u64);
            let mut staged = Vec::new();
            for (i, step) in steps.iter().enumerate() {
                match *step {
                    Step::Write(at, len) => {
                        map.write(at, len, staged.len() as u64).unwrap();
                        staged.resize(staged.len() + len as usize, i as u8 + 1);
                        if len > 0 {
                            let end = (at + len) as usize;
                            model.resize(model.len().max(end), 0);
                            model[at as usize..end].fill(i as u8 + 1);
                        }
                    }
                    Step::Truncate(size) => {
                        map.truncate(size).unwrap();
                        model.resize(size as usize, 0);
                    }
                }
                let plan = map.plan();
                prop_assert_eq!(plan.size, model.len() as u64);
                prop_assert_eq!(assemble(&plan.segments, &base, &staged), &model[..]);
            }
            let start = (from as usize).min(model.len());
            let end = ((from + len) as usize).min(model.len());
            let part = assemble(&map.range(from, len), &base, &staged);
            prop_assert_eq!(part, &model[start..end.max(start)]);
        }
    }

    #[test]
    fn sequential_writes_are_one_extent() {
        let mut map = ExtentMap::new(0);
        for i in 0..1000 {
            map.write(i * 10, 10, i * 10).unwrap();
        }
        assert_eq!(map.extent_count(), 1);
        assert!(map.plan().is_staging_itself());
    }

    #[test]
    fn refuses_more_than_the_largest_file() {
        let mut map = ExtentMap::new(0);
        let kind = |r: Result<()>| r.unwrap_err().kind();
        assert_eq!(kind(map.write(u64::MAX, 1, 0)), ErrorKind::TooLarge);
        assert_eq!(kind(map.write(MAX_FILE_SIZE, 1, 0)), ErrorKind::TooLarge);
        assert_eq!(kind(map.truncate(MAX_FILE_SIZE + 1)), ErrorKind::TooLarge);
        map.truncate(MAX_FILE_SIZE).unwrap();
        assert_eq!(map.plan().segments.len(), 1);
    }
}
