//! Ranges of a content: as they are asked for, and as they come.
#![no_main]

use alknet_fs_blobs::wire::decoders::{Altered, altered, asked, stream};
use libfuzzer_sys::fuzz_target;

type Asked = (u64, Vec<(u16, u16)>, u8);
type OnItsWay = (i16, Vec<usize>, Option<usize>, Vec<u16>);
type Input = (Asked, OnItsWay, Vec<Vec<u8>>);

fuzz_target!(|input: Input| {
    let ((size, gaps, shift), (by, turned, cut, lengths), pieces) = input;
    let mut end = 0_u64;
    let groups = gaps.into_iter().map(|(gap, count)| {
        let first = end.saturating_add(u64::from(gap) << (shift % 48));
        end = first.saturating_add(count.into());
        (first, count.into())
    });
    let groups: Vec<_> = groups.collect();
    let _ = stream(size, &groups, &pieces);
    let content: Vec<_> = (0..size % 300_000).map(|n| (n / 7 % 251) as u8).collect();
    let _ = asked(&content, &groups, turned.first().copied().unwrap_or(0));
    let on_its_way = Altered {
        size: by,
        turned,
        end: cut,
        after: pieces.concat(),
        pieces: lengths,
    };
    let _ = altered(&content, &groups, &on_its_way);
});
