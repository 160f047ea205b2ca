//! Questions and answers as bytes.

use std::io;

use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::SMALL_MAX;

/// The largest frame of a question.
pub(crate) const QUESTION_MAX: usize = 64 << 10;
/// The largest frame of an answer.
pub(crate) const ANSWER_MAX: usize = SMALL_MAX as usize + 64;
/// How many contents one question may ask for.
pub(crate) const WANTS_MAX: usize = 512;
/// How many hashes one question may name to hear whether they are there.
pub(crate) const HAS_MAX: usize = 1024;
/// How many nodes of a hash tree one question may ask for.
pub(crate) const NODES_MAX: u64 = 1024;
/// How many ranges of groups a question or an answer names.
pub(crate) const RANGES_MAX: usize = 2048;

/// A hash as it is sent: its bytes.
pub(crate) type Raw = [u8; 32];

/// A content that is asked for, and one that the asker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) hash: Raw,
    pub(crate) base: Option<Raw>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Answered by one of `Missing`, `Small`, `Large` and `Changed` for each, in order.
    Wants(Vec<Ask>),
    /// Answered by `Has`.
    Has(Vec<Raw>),
    /// Answered by `Nodes` or `Missing`.
    Nodes {
        hash: Raw,
        level: u8,
        first: u64,
        count: u64,
    },
    /// Answered by verified ranges, as iroh-blobs sends them; the last question of its stream. The
    /// ranges are of groups, in order: the first and how many.
    Ranges { hash: Raw, groups: Vec<(u64, u64)> },
    /// Answered by `Has`, of what is there and stays for a while.
    Keep(Vec<Raw>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer<'a> {
    Missing,
    #[serde(borrow)]
    Small(Slice<'a>),
    Large {
        size: u64,
    },
    Changed {
        size: u64,
        groups: Vec<(u64, u64)>,
    },
    /// A bit for each hash, the first in the lowest bit of the first byte.
    Has(Slice<'a>),
    /// The chaining values, 32 bytes each.
    Nodes(Slice<'a>),
}

/// Bytes that are written and read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice<'a>(pub(crate) &'a [u8]);

impl Serialize for Slice<'_> {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Slice<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Self)
    }
}

pub(crate) fn malformed(what: impl std::fmt::Display) -> Error {
    Error::with_detail(ErrorKind::InvalidInput, format!("the peer sent {what}"))
}

/// Appends a frame: its length, and a message in postcard's format.
pub(crate) fn put(out: &mut Vec<u8>, message: &impl Serialize) -> Result<()> {
    let start = out.len();
    out.extend([0; 4]);
    let written = postcard::to_extend(message, std::mem::take(out));
    *out = written.map_err(|e| Error::new(ErrorKind::InvalidInput).source(e))?;
    let len = u32::try_from(out.len() - start - 4).map_err(|_| ErrorKind::TooLarge)?;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

/// Reads a frame of at most `max` bytes into `frame`; returns whether there was one.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
    frame: &mut Vec<u8>,
) -> Result<bool> {
    let mut len = [0; 4];
    if stream.read(&mut len[..1]).await? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut len[1..]).await.map_err(cut_off)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > max {
        return Err(malformed(format_args!("a frame of {len} bytes")));
    }
    frame.resize(len, 0);
    stream.read_exact(frame).await.map_err(cut_off)?;
    Ok(true)
}

fn cut_off(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => malformed("a frame that is cut off"),
        _ => error.into(),
    }
}

fn decode<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T> {
    match postcard::take_from_bytes(frame) {
        Ok((message, [])) => Ok(message),
        _ => Err(malformed("a frame that does not decode")),
    }
}

/// Decodes a question, and checks what can be checked without the content.
pub(crate) fn question(frame: &[u8]) -> Result<Question> {
    let question = decode(frame)?;
    let is_good = match &question {
        Question::Wants(asks) => asks.len() <= WANTS_MAX,
        Question::Has(hashes) | Question::Keep(hashes) => hashes.len() <= HAS_MAX,
        Question::Nodes { level, count, .. } => *level < 48 && *count <= NODES_MAX,
        Question::Ranges { groups, .. } => are_ranges(groups),
    };
    match is_good {
        true => Ok(question),
        false => Err(malformed("a question beyond its limits")),
    }
}

/// Decodes an answer, and checks what can be checked without the question.
pub(crate) fn answer(frame: &[u8]) -> Result<Answer<'_>> {
    let answer = decode(frame)?;
    let is_good = match &answer {
        Answer::Small(bytes) => bytes.0.len() as u64 <= SMALL_MAX,
        Answer::Changed { groups, .. } => are_ranges(groups),
        _ => true,
    };
    match is_good {
        true => Ok(answer),
        false => Err(malformed("an answer beyond its limits")),
    }
}

/// Tells whether ranges are few, not empty, and in order.
fn are_ranges(groups: &[(u64, u64)]) -> bool {
    let mut end = 0;
    groups.len() <= RANGES_MAX
        && groups.iter().all(|&(first, count)| {
            let after = first
                .checked_add(count)
                .filter(|_| count > 0 && first >= end);
            end = after.unwrap_or(end);
            after.is_some()
        })
}

/// Returns the bits of an answer to [`Question::Has`].
pub(crate) fn bits(has: &[bool]) -> Vec<u8> {
    let mut bits = vec![0; has.len().div_ceil(8)];
    for (at, _) in has.iter().enumerate().filter(|(_, has)| **has) {
        bits[at / 8] |= 1 << (at % 8);
    }
    bits
}

/// Returns what the bits say of `count` hashes.
pub(crate) fn has(bits: &[u8], count: usize) -> Result<Vec<bool>> {
    if bits.len() != count.div_ceil(8) {
        return Err(malformed("an answer of another length"));
    }
    Ok((0..count)
        .map(|at| bits[at / 8] >> (at % 8) & 1 == 1)
        .collect())
}

/// Returns a hash as it is sent.
pub(crate) fn raw(hash: &Hash) -> Raw {
    *hash.as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(message: &impl Serialize) -> Vec<u8> {
        let mut out = vec![7; 3];
        put(&mut out, message).unwrap();
        out.split_off(7)
    }

    #[test]
    fn the_largest_messages_fit_their_frames() {
        let ask = Ask {
            hash: [255; 32],
            base: Some([255; 32]),
        };
        let last = u64::MAX - RANGES_MAX as u64 * 2;
        let groups: Vec<_> = (0..RANGES_MAX as u64).map(|n| (last + n * 2, 1)).collect();
        for question in [
            Question::Wants(vec![ask; WANTS_MAX]),
            Question::Has(vec![[255; 32]; HAS_MAX]),
            Question::Ranges {
                hash: [255; 32],
                groups: groups.clone(),
            },
        ] {
            let frame = frame(&question);
            assert!(frame.len() <= QUESTION_MAX, "{}", frame.len());
            assert_eq!(super::question(&frame).unwrap(), question);
        }
        let bytes = vec![1; SMALL_MAX as usize];
        let size = u64::MAX;
        for answer in [
            Answer::Small(Slice(&bytes)),
            Answer::Nodes(Slice(&bytes[..NODES_MAX as usize * 32])),
            Answer::Changed { size, groups },
        ] {
            let frame = frame(&answer);
            assert!(frame.len() <= ANSWER_MAX, "{}", frame.len());
            assert_eq!(super::answer(&frame).unwrap(), answer);
        }
    }

    #[test]
    fn what_is_beyond_its_limits_is_refused() {
        let hash = [1; 32];
        let ask = Ask { hash, base: None };
        let nodes = |level, count| Question::Nodes {
            hash,
            level,
            first: 0,
            count,
        };
        let ranges = |groups: &[(u64, u64)]| Question::Ranges {
            hash,
            groups: groups.to_vec(),
        };
        for bad in [
            Question::Wants(vec![ask; WANTS_MAX + 1]),
            Question::Has(vec![hash; HAS_MAX + 1]),
            Question::Keep(vec![hash; HAS_MAX + 1]),
            nodes(48, 1),
            nodes(0, NODES_MAX + 1),
            ranges(&[(0, 0)]),
            ranges(&[(5, 1), (4, 1)]),
            ranges(&[(0, 2), (1, 1)]),
            ranges(&[(u64::MAX, 1)]),
            ranges(&vec![(0, 1); RANGES_MAX + 1]),
        ] {
            assert!(question(&frame(&bad)).is_err(), "{bad:?}");
        }
        assert!(question(&frame(&ranges(&[(0, 2), (2, 1), (9, 3)]))).is_ok());
        let too_long = vec![0; SMALL_MAX as usize + 1];
        assert!(answer(&frame(&Answer::Small(Slice(&too_long)))).is_err());
        let mut longer = frame(&Question::Has(vec![hash]));
        longer.push(0);
        assert!(question(&longer).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(
            kind in 0..8u8,
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            bytes.insert(0, kind);
            if let Ok(question) = question(&bytes) {
                prop_assert_eq!(super::question(&frame(&question)).unwrap(), question);
            }
            if let Ok(answer) = answer(&bytes) {
                let again = frame(&answer);
                prop_assert_eq!(super::answer(&again).unwrap(), answer);
            }
        }

        #[test]
        fn bits_say_what_is_there(there in proptest::collection::vec(any::<bool>(), 0..40)) {
            prop_assert_eq!(has(&bits(&there), there.len()).unwrap(), there);
        }
    }
}
