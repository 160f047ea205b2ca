//! What a peer may send, read as it is read from the network: for those who look for bytes that do
//! harm. Not part of the API.

use std::ops::Range;

use alknet_fs_content::hash_tree::{GROUP_LEN, group_count};
use alknet_fs_content::partial::Verifier;
use alknet_fs_content::{ContentReader, Contents};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::session::MAX_FILE_SIZE;
use alknet_fs_core::store::{Durability, Store};
use alknet_fs_core::{Error, Hash, Result, Timestamp};

use super::frames::{self, Question, malformed, put, raw};
use super::large::{Decoder, Item};
use super::serve::chunk_ranges;
use crate::encode::{Encoder, Source};

/// Reads a question and an answer.
///
/// # Panics
/// Where what was understood is not understood again: that would be a mistake.
pub fn frame(bytes: &[u8]) {
    if let Ok(question) = frames::question(bytes) {
        let mut again = Vec::new();
        let written = put(&mut again, &question);
        assert!(written.is_ok(), "a question that cannot be said");
        assert_eq!(frames::question(&again[4..]).ok(), Some(question));
    }
    if let Ok(answer) = frames::answer(bytes) {
        let mut again = Vec::new();
        let written = put(&mut again, &answer);
        assert!(written.is_ok(), "an answer that cannot be said");
        if let frames::Answer::Has(bits) = &answer {
            let _ = frames::has(bits.0, bits.0.len() * 8);
        }
        assert_eq!(frames::answer(&again[4..]).ok(), Some(answer));
    }
}

/// Asks for groups of a content, given by the first and how many, and reads the answer; then again with
/// a bit of the answer turned over. Returns how many bytes are answered.
///
/// # Errors
/// Where the question is refused.
///
/// # Panics
/// Where something else comes than was asked for, or what was turned over is believed.
pub fn asked(content: &[u8], groups: &[(u64, u64)], turned: usize) -> Result<usize> {
    let (groups, mut answer) = answer(content, groups)?;
    let size = content.len() as u64;
    if !are_inside(&groups, size) {
        // Nobody of ours asks so; it is no more than what proves the size.
        return Ok(answer.len());
    }
    let came = receive(content, &groups, &answer)?;
    assert!(came.into_iter().eq(groups.iter().cloned().flatten()));
    if !answer.is_empty() {
        let at = turned / 8 % answer.len();
        answer[at] ^= 1 << (turned % 8);
        assert!(receive(content, &groups, &answer).is_err(), "believed");
    }
    Ok(answer.len())
}

/// What becomes of an answer on its way.
#[derive(Debug, Clone)]
pub struct Altered {
    /// By how much the size differs that the content is said to have.
    pub size: i16,
    /// The bits that are turned over.
    pub turned: Vec<usize>,
    /// Where it ends, if it is cut off.
    pub end: Option<usize>,
    /// What comes behind it.
    pub after: Vec<u8>,
    /// The lengths of the pieces that it comes in; the rest comes at once.
    pub pieces: Vec<u16>,
}

/// Reads an answer that somebody altered. Returns how many groups were believed.
///
/// # Errors
/// Where the question is refused, or nobody asks so.
///
/// # Panics
/// Where anything is believed that the content does not have or that was not asked for, or something
/// else than the answer for all of it.
pub fn altered(content: &[u8], groups: &[(u64, u64)], altered: &Altered) -> Result<usize> {
    let (groups, honest) = answer(content, groups)?;
    let mut came = honest.clone();
    for turned in &altered.turned {
        let at = turned / 8 % honest.len().max(1);
        if let Some(byte) = came.get_mut(at) {
            *byte ^= 1 << (turned % 8);
        }
    }
    came.truncate(altered.end.unwrap_or(usize::MAX));
    came.extend_from_slice(&altered.after);
    let size = (content.len() as u64).saturating_add_signed(altered.size.into());
    if !are_inside(&groups, size) {
        return Err(malformed("no ranges"));
    }
    let mut pieces = Vec::new();
    let mut rest = &came[..];
    for length in &altered.pieces {
        let (piece, behind) = rest.split_at(rest.len().min(usize::from(*length)));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    let (believed, all) = take(content, size, &groups, pieces);
    let wanted: Vec<_> = groups.into_iter().flatten().collect();
    assert!(wanted.starts_with(&believed), "what was not asked for");
    let is_all = matches!(all, Ok(true));
    assert!(!is_all || believed == wanted, "not all of it");
    if altered.size == 0 {
        assert_eq!(is_all, came == honest);
    }
    Ok(believed.len())
}

/// Cuts a stream that is to be groups of a content into its parts, as it comes in pieces, and in one.
/// Returns how many parts there are.
///
/// # Errors
/// Where there is more than was asked for.
///
/// # Panics
/// Where a part is of something else, or the pieces make a difference.
pub fn stream(size: u64, groups: &[(u64, u64)], pieces: &[Vec<u8>]) -> Result<usize> {
    // No entry of a store says more.
    let size = size.min(MAX_FILE_SIZE);
    chunk_ranges(groups)?;
    let groups: Vec<_> = groups.iter().map(|(first, n)| *first..first + n).collect();
    if !groups.is_sorted_by(|a, b| a.end <= b.start) || !are_inside(&groups, size) {
        return Err(malformed("no ranges"));
    }
    let cut = |pieces: &[Vec<u8>]| {
        let mut decoder = Decoder::new(size, groups.clone());
        let mut parts = Vec::new();
        for piece in pieces {
            decoder.feed(piece, &mut |item| {
                match item {
                    Item::Parent { start, middle, .. } => {
                        assert!(start < middle);
                        parts.push(start..middle);
                    }
                    Item::Leaf { offset, bytes } => {
                        let end = offset + bytes.len() as u64;
                        let group = offset / GROUP_LEN;
                        assert!(end <= size && end <= (group + 1) * GROUP_LEN);
                        assert!(groups.iter().any(|groups| groups.contains(&group)));
                        parts.push(offset..end);
                    }
                }
                Ok(())
            })?;
        }
        Ok::<_, Error>((parts, decoder.is_done()))
    };
    let in_pieces = cut(pieces);
    let in_one = cut(&[pieces.concat()]);
    assert_eq!(in_pieces.as_ref().ok(), in_one.as_ref().ok());
    in_pieces.map(|(parts, _)| parts.len())
}

fn are_inside(groups: &[Range<u64>], size: u64) -> bool {
    groups
        .last()
        .is_none_or(|last| last.end <= group_count(size))
}

fn reader(content: &[u8]) -> Result<ContentReader> {
    let (store, contents) = (MemoryStore::new(), Contents::in_memory());
    let mut prepared = [contents.prepare_bytes(content.to_vec())?];
    let mut txn = store.write(Durability::Relaxed)?;
    contents.commit(&mut *txn, &mut prepared, Timestamp(1))?;
    txn.commit()?;
    contents.open(&*store.read()?, &Hash::of(content))
}

/// Asks for groups of a content, and answers that.
fn answer(content: &[u8], groups: &[(u64, u64)]) -> Result<(Vec<Range<u64>>, Vec<u8>)> {
    let hash = Hash::of(content);
    let mut frame = Vec::new();
    let question = Question::Ranges {
        hash: raw(&hash),
        groups: groups.to_vec(),
    };
    put(&mut frame, &question)?;
    let Question::Ranges { groups, .. } = frames::question(&frame[4..])? else {
        return Err(malformed("another question"));
    };
    let reader = reader(content)?;
    let mut encoder = Encoder::new(Source::Whole(reader), &chunk_ranges(&groups)?);
    let mut answer = Vec::new();
    while encoder.write(GROUP_LEN as usize, &mut answer)? {}
    let groups = groups.iter().map(|(first, n)| *first..first + n).collect();
    Ok((groups, answer))
}

/// Returns the groups that an answer brings.
fn receive(content: &[u8], groups: &[Range<u64>], answer: &[u8]) -> Result<Vec<u64>> {
    let (came, all) = take(content, content.len() as u64, groups, [answer]);
    assert!(all?, "not all of it");
    Ok(came)
}

/// Takes groups of a content of which a size is said, as they come in pieces: until something is wrong.
/// Returns those that came, and whether that is all.
fn take<'a>(
    content: &[u8],
    size: u64,
    groups: &[Range<u64>],
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u64>, Result<bool>) {
    let mut decoder = Decoder::new(size, groups.to_vec());
    let mut verifier = Verifier::new(Hash::of(content), size);
    let mut came = Vec::new();
    let fed = pieces.into_iter().try_for_each(|piece| {
        decoder.feed(piece, &mut |item| match item {
            Item::Parent {
                start,
                middle,
                left,
                right,
            } => verifier.parent(start, middle, left, right).map(drop),
            Item::Leaf { offset, bytes } => {
                if let Some((group, bytes)) = verifier.leaf(offset, bytes)? {
                    let start = (group * GROUP_LEN) as usize;
                    let end = content.len().min(start + GROUP_LEN as usize);
                    assert!(content.get(start..end) == Some(bytes), "other bytes");
                    came.push(group);
                }
                Ok(())
            }
        })
    });
    (came, fed.map(|()| decoder.is_done()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::large::{Sink, ToEntry};
    use super::*;
    use crate::Options;
    use crate::shared::{Begun, Shared};

    /// Groups, given by how many are left out, and how many not.
    fn groups(gaps: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut end = 0;
        let groups = gaps.iter().map(|(gap, count)| {
            let first = end + gap;
            end = first + count;
            (first, *count)
        });
        groups.collect()
    }

    proptest! {
        #[test]
        fn what_is_asked_for_comes_and_nothing_else(
            size in 0..300_000_usize,
            gaps in proptest::collection::vec((0..5_u64, 1..4_u64), 0..6),
            turned in any::<usize>(),
        ) {
            let content: Vec<_> = (0..size).map(|n| (n / 7 % 251) as u8).collect();
            let groups = groups(&gaps);
            let answered = asked(&content, &groups, turned).unwrap();
            let most: u64 = groups.iter().map(|(_, count)| count * (GROUP_LEN + 64 * 20)).sum();
            prop_assert!(answered as u64 <= most);
        }

        #[test]
        fn of_what_was_altered_only_what_is_right_is_believed(
            size in 0..150_000_usize,
            gaps in proptest::collection::vec((0..3_u64, 1..4_u64), 1..4),
            by in prop_oneof![3 => Just(0), 1 => any::<i16>()],
            turned in proptest::collection::vec(any::<usize>(), 0..3),
            end in proptest::option::of(0..150_000_usize),
            after in proptest::collection::vec(any::<u8>(), 0..3),
            pieces in proptest::collection::vec(any::<u16>(), 0..6),
        ) {
            let content: Vec<_> = (0..size).map(|n| (n / 7 % 251) as u8).collect();
            let on_its_way = Altered { size: by, turned, end, after, pieces };
            let _ = altered(&content, &groups(&gaps), &on_its_way);
        }

        #[test]
        fn any_stream_is_cut_alike_or_refused(
            size in prop_oneof![0..200_000_u64, any::<u64>()],
            gaps in proptest::collection::vec((0..5_u64, 1..4_u64), 0..4),
            pieces in proptest::collection::vec(0..20_000_usize, 0..6),
        ) {
            let pieces: Vec<_> = pieces.into_iter().map(|len| vec![7; len]).collect();
            let _ = stream(size, &groups(&gaps), &pieces);
        }
    }

    /// Whether a batch of what comes ends before the end of the answer, at it, or after it.
    #[tokio::test]
    async fn more_than_was_asked_for_is_refused_however_it_is_cut() {
        let content: Vec<_> = (0..100_000).map(|n| (n / 7 % 251) as u8).collect();
        let (hash, size) = (Hash::of(&content), content.len() as u64);
        let (groups, answer) = answer(&content, &[(0, group_count(size))]).unwrap();
        for at in [0, 1, answer.len() - 1, answer.len()] {
            let store = Arc::new(MemoryStore::new());
            let shared = Shared::new(store, Contents::in_memory(), Options::default());
            let Begun::Arriving(entry) = shared.begin(hash, size).unwrap() else {
                panic!("it is there");
            };
            let verifier = || Verifier::new(hash, size);
            let mut sink = ToEntry {
                entry: entry.clone(),
                verifier: verifier(),
            };
            let mut decoder = Decoder::new(size, groups.clone());
            let (first, last) = answer.split_at(at);
            sink.take(&shared, &mut decoder, first).unwrap();
            let more = [last, &[0; 100]].concat();
            let refused = sink.take(&shared, &mut decoder, &more).unwrap_err();
            assert!(refused.to_string().contains("more than"), "{refused}");
            // What was right is not lost.
            assert!(entry.take(&shared, |_| Ok(())).unwrap().is_some());
            // Nor is more taken of whoever comes too late.
            let verifier = verifier();
            let mut sink = ToEntry { entry, verifier };
            let mut decoder = Decoder::new(size, groups.clone());
            sink.take(&shared, &mut decoder, &answer).unwrap();
            assert!(sink.take(&shared, &mut decoder, &[0]).is_err());
        }
    }

    #[test]
    fn ranges_that_no_content_has_are_refused() {
        let content = vec![1; 40_000];
        for groups in [[(u64::MAX, 1)], [(u64::MAX / GROUP_LEN, 1)], [(1, 0)]] {
            assert!(asked(&content, &groups, 0).is_err());
        }
        // The last chunk proves the size.
        let past = asked(&content, &[(u64::MAX / GROUP_LEN - 1, 1)], 0).unwrap();
        assert!((1..2000).contains(&past), "{past}");
        assert_eq!(asked(&content, &[(0, 3)], 9).unwrap(), 40_000 + 2 * 64);
        let all = [vec![0; 40_000], vec![0; 2 * 64]];
        assert_eq!(stream(40_000, &[(0, 3)], &all).unwrap(), 5);
        let as_it_is = Altered {
            size: 0,
            turned: Vec::new(),
            end: None,
            after: Vec::new(),
            pieces: vec![1, 20_000],
        };
        let believed = |by: &Altered| altered(&content, &[(0, 3)], by).unwrap();
        assert_eq!(believed(&as_it_is), 3);
        let turned = vec![8 * (2 * 64 + 20_000)];
        let one_bit = Altered { turned, ..as_it_is };
        assert_eq!(believed(&one_bit), 1);
        let more = [all.concat(), vec![0]];
        assert!(stream(40_000, &[(0, 3)], &more).is_err());
    }
}
