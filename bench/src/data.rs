//! Bytes to store: the same in every run, and not compressible.

/// Fills a buffer with bytes that depend on a seed.
pub(crate) fn fill(seed: u64, buffer: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(buffer);
}

/// Makes bytes that depend on a seed.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    fill(seed, &mut buffer);
    buffer
}

/// Makes `count` different blocks of 4 KiB.
pub(crate) fn blocks(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let all = bytes(seed, count * 4096);
    all.chunks(4096).map(<[u8]>::to_vec).collect()
}

/// Numbers from 0 to `below`, all of them, in an order that looks random.
pub(crate) fn shuffled(below: usize) -> Vec<usize> {
    let mut keyed: Vec<_> = (0..below)
        .map(|i| (blake3::hash(&i.to_le_bytes()).as_bytes().to_owned(), i))
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, i)| i).collect()
}
