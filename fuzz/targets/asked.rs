//! Ranges of a content: as they are asked for, and as they come.
#![no_main]

use alknet_fs_blobs::wire::decoders::{asked, stream};
use libfuzzer_sys::fuzz_target;

type Input = (u64, Vec<(u16, u16)>, u8, usize, Vec<Vec<u8>>);

fuzz_target!(|input: Input| {
    let (size, gaps, shift, turned, pieces) = input;
    let mut end = 0_u64;
    let groups = gaps.into_iter().map(|(gap, count)| {
        let first = end.saturating_add(u64::from(gap) << (shift % 48));
        end = first.saturating_add(count.into());
        (first, count.into())
    });
    let groups: Vec<_> = groups.collect();
    let _ = stream(size, &groups, &pieces);
    let content: Vec<_> = (0..size % 300_000).map(|n| (n / 7 % 251) as u8).collect();
    let _ = asked(&content, &groups, turned);
});
