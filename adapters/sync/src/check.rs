//! Looking at a change before automerge does.
//!
//! A change of automerge is a table whose columns are compressed by run lengths: a few bytes can
//! stand for any number of operations, all of which automerge would visit. The format is
//! [documented](https://automerge.org/automerge-binary-format-spec/).

use alknet_fs_core::{Error, ErrorKind, Result};

/// The most operations of a change, and the most rows of any of its columns.
pub(crate) const MAX_ROWS: u64 = 1 << 16;

/// The kind of chunk that holds a change as it is, not deflated.
const PLAIN_CHANGE: u8 = 1;

/// The bit of a column's number that says that it is deflated.
const DEFLATED: u64 = 8;

/// Checks that a change is no larger than it looks.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub(crate) fn check_size(change: &[u8]) -> Result<()> {
    rows(change)
        .filter(|rows| *rows <= MAX_ROWS)
        .map(drop)
        .ok_or_else(|| {
            let why = "a change is not in the format expected, or has too many operations";
            Error::with_detail(ErrorKind::Corrupt, why)
        })
}

/// Returns the number of rows of the longest column; nothing where the bytes are no plain change.
fn rows(change: &[u8]) -> Option<u64> {
    let mut chunk = Reader(change);
    // A magic number and a checksum, which automerge checks.
    chunk.take(8)?;
    if chunk.byte()? != PLAIN_CHANGE {
        return None;
    }
    let mut chunk = {
        let length = chunk.number()?;
        let data = chunk.take(length)?;
        chunk.0.is_empty().then_some(Reader(data))?
    };
    let dependencies = chunk.number()?;
    chunk.take(dependencies.checked_mul(32)?)?;
    chunk.prefixed()?;
    for _ in ["sequence number", "first operation", "time"] {
        chunk.number()?;
    }
    chunk.prefixed()?;
    for _ in 0..chunk.number()? {
        chunk.prefixed()?;
    }
    let mut columns = Vec::new();
    for _ in 0..chunk.number()? {
        columns.push((chunk.number()?, chunk.number()?));
    }
    let mut longest = 0;
    for (number, length) in columns {
        if number & DEFLATED != 0 {
            return None;
        }
        let mut column = Reader(chunk.take(length)?);
        let rows = match number & 7 {
            // Groups, actors, integers, deltas and metadata of values: runs of numbers.
            0..=3 | 6 => column.rows(|column| column.number().map(drop))?,
            5 => column.rows(|column| column.prefixed().map(drop))?,
            // Booleans are read as far as there are operations, and raw bytes are no rows.
            _ => 0,
        };
        longest = rows.max(longest);
    }
    Some(longest)
}

/// Reads what is left of a chunk.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    /// Reads a number in LEB128, of up to 64 bits; the bits of a signed one.
    fn number(&mut self) -> Option<u64> {
        self.leb128().map(|(number, _)| number)
    }

    fn signed(&mut self) -> Option<i64> {
        let (number, bits) = self.leb128()?;
        let unused = 64u32.saturating_sub(bits);
        Some((number << unused) as i64 >> unused)
    }

    /// Returns a number, and how many bits it was written with.
    fn leb128(&mut self) -> Option<(u64, u32)> {
        let mut number = 0;
        for bits in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << bits;
            if byte & 0x80 == 0 {
                return Some((number, bits + 7));
            }
        }
        None
    }

    /// Reads bytes with their length before them.
    fn prefixed(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    /// Counts the rows of a column of runs, whose values are read by `skip`.
    fn rows(&mut self, skip: impl Fn(&mut Self) -> Option<()>) -> Option<u64> {
        let mut rows = 0u64;
        while !self.0.is_empty() {
            let run = self.signed()?;
            rows = rows.checked_add(match run {
                0 => self.number()?,
                _ => run.unsigned_abs(),
            })?;
            match run {
                0 => {}
                1.. => skip(self)?,
                _ => {
                    for _ in 0..run.unsigned_abs() {
                        skip(self)?;
                    }
                }
            }
        }
        Some(rows)
    }
}

#[cfg(test)]
mod tests {
    use automerge::transaction::Transactable;
    use automerge::{AutoCommit, ROOT};

    use super::*;

    fn change(keys: usize) -> Vec<u8> {
        let mut doc = AutoCommit::new();
        for n in 0..keys {
            doc.put(ROOT, format!("/{n}"), vec![n as u8; n % 50])
                .unwrap();
        }
        doc.commit();
        doc.get_last_local_change().unwrap().raw_bytes().to_vec()
    }

    #[test]
    fn rows_are_counted_as_automerge_does() {
        for keys in [1, 2, 63, 64, 500, 70_000] {
            assert_eq!(rows(&change(keys)), Some(keys as u64));
        }
        assert!(check_size(&change(500)).is_ok());
        assert!(check_size(&change(70_000)).is_err());
    }

    /// The action's column says one run; it is made to say a longer one.
    #[test]
    fn a_long_run_in_few_bytes_is_seen() {
        let plain = change(40);
        let mut seen = 0;
        for at in 0..plain.len() {
            if plain[at] != 40 {
                continue;
            }
            let mut bomb = plain.clone();
            bomb.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]);
            seen += u32::from(check_size(&bomb).is_err());
        }
        assert!(seen >= 1);
    }

    #[test]
    fn what_is_no_change_is_refused() {
        let plain = change(40);
        for length in 0..plain.len() {
            assert!(check_size(&plain[..length]).is_err(), "{length}");
        }
        for at in 0..plain.len() {
            for bit in 0..8 {
                let mut other = plain.clone();
                other[at] ^= 1 << bit;
                // Whatever it says, it comes to an end.
                let _ = check_size(&other);
            }
        }
    }
}
