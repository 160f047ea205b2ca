//! 256 MiB in through a session, and out through a reader.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;

use alknet_fs::{Hash, OpenOptions};
use anyhow::{Result, ensure};

use crate::data;
use crate::fixtures::new_store;
use crate::harness::{Bench, Times, settle};

const BLOCK: usize = 1 << 20;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, len) = bench.pick((7, 256 << 20), (3, 32 << 20));
    let mut data = data::bytes(1, len);
    for (name, block, target) in [("1 MiB", BLOCK, 1.3), ("32 KiB", 32 << 10, 1.6)] {
        let (mut ours, mut plain) = <(Times, Times)>::default();
        for round in bench.rounds(&format!("writes of {name}"), rounds) {
            // Bytes that the store holds already would not be stored again.
            data[..8].copy_from_slice(&(round * block).to_le_bytes());
            let dir = bench.dir()?;
            let main = new_store(&dir.join("store"))?;
            settle()?;
            let closed = ours.time(1, || {
                let session = main.open_session("/file", &OpenOptions::new().truncate(true))?;
                for (i, bytes) in data.chunks(block).enumerate() {
                    session.write_at((i * block) as u64, bytes)?;
                }
                Ok(session.close()?)
            })?;
            settle()?;
            let file = dir.join("plain");
            plain.time(1, || write_plain(&file, &data, block))?;
            ensure!(closed.hash == Hash::of(&data) && closed.size == len as u64);
            ensure!(file.metadata()?.len() == len as u64);
        }
        let work = format!("256 MiB in through a session, {name} a write");
        bench.compare(work, &ours, "write of one file, fsync", &plain, target);
    }
    read_back(bench, &data)
}

fn write_plain(path: &Path, data: &[u8], block: usize) -> Result<()> {
    let mut file = File::create_new(path)?;
    for bytes in data.chunks(block) {
        file.write_all(bytes)?;
    }
    file.sync_all()?;
    Ok(())
}

fn read_back(bench: &mut Bench, data: &[u8]) -> Result<()> {
    let dir = bench.dir()?;
    let main = new_store(&dir.join("store"))?;
    let session = main.open_session("/file", &OpenOptions::new())?;
    for bytes in data.chunks(BLOCK) {
        session.append(bytes)?;
    }
    session.close()?;
    let file = dir.join("plain");
    write_plain(&file, data, BLOCK)?;
    let mut hasher = blake3::Hasher::new();
    consume(&mut main.open("/file")?, |bytes| {
        hasher.update(bytes);
    })?;
    ensure!(hasher.finalize() == blake3::hash(data));
    let (mut ours, mut plain) = <(Times, Times)>::default();
    for _ in bench.rounds("reads", bench.pick(31, 5)) {
        let read = ours.time(1, || consume(&mut main.open("/file")?, |_| {}))?;
        let base = plain.time(1, || consume(&mut File::open(&file)?, |_| {}))?;
        ensure!(read == data.len() && base == data.len());
    }
    let baseline = "read of a file from the page cache";
    bench.compare("256 MiB out through a reader", &ours, baseline, &plain, 1.3);
    Ok(())
}

/// Reads to the end in blocks of 1 MiB; returns the number of bytes.
fn consume(from: &mut impl Read, mut visit: impl FnMut(&[u8])) -> Result<usize> {
    let mut block = vec![0; BLOCK];
    let mut total = 0;
    loop {
        match from.read(&mut block)? {
            0 => return Ok(total),
            n => {
                visit(&block[..n]);
                total += n;
            }
        }
    }
}
