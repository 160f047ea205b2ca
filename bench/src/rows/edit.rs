//! One byte of a 1 GiB file.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use alknet_fs::OpenOptions;
use anyhow::{Result, ensure};
use rusqlite::{Connection, OpenFlags};

use crate::data;
use crate::fixtures::new_store;
use crate::harness::{Bench, Times, Unit, settle};
use crate::plain::hash_file;

const BLOCK: usize = 1 << 20;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (edits, blocks) = bench.pick((40, 1024), (12, 64));
    let dir = bench.dir()?;
    let (store, file) = (dir.join("store"), dir.join("plain"));
    let main = new_store(&store)?;
    bench.prepare("writing 1 GiB");
    let mut plain = File::create_new(&file)?;
    let session = main.open_session("/file", &OpenOptions::new())?;
    let mut block = vec![0; BLOCK];
    for i in 0..blocks {
        data::fill(i, &mut block);
        session.append(&block)?;
        plain.write_all(&block)?;
    }
    session.close()?;
    settle()?;

    let (mut ours, mut base) = <(Times, Times)>::default();
    let mut sizes = vec![stored(&store)?];
    let positions = data::shuffled(blocks as usize);
    for edit in bench.rounds("one byte", edits) {
        // Anywhere in the file, and never on the edge of anything.
        let offset = (positions[edit] * BLOCK + 4099 * edit + 1) as u64;
        let byte = [edit as u8];
        ours.time(1, || {
            let session = main.open_session("/file", &OpenOptions::new())?;
            session.write_at(offset, &byte)?;
            Ok(session.close()?)
        })?;
        base.time(1, || {
            plain.seek(SeekFrom::Start(offset))?;
            plain.write_all(&byte)?;
            Ok(plain.sync_all()?)
        })?;
        sizes.push(stored(&store)?);
    }
    let entry = main.stat("/file")?;
    ensure!(entry.hash().map(|hash| *hash.as_bytes()) == Some(hash_file(&file)?));
    main.view()?.verify("/file")?;

    let growth: Vec<_> = sizes
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .collect();
    let mut largest = Times::default();
    largest.push(growth.iter().copied().max().unwrap_or(0) as f64);
    let mean = growth.iter().sum::<u64>() / edits as u64;
    let work = "change of 1 byte in 1 GiB: open, write, close";
    bench.compare(work, &ours, "pwrite, fsync", &base, 3.0);
    bench
        .value(
            "growth of the store by 1 byte in 1 GiB, largest of 40",
            Unit::Bytes,
            &largest,
            65536.0,
        )
        .note(format!(
            "{mean} bytes on average: pages of the database in use, and files of contents"
        ));
    Ok(())
}

/// Returns the bytes that a store holds: the pages in use in its database, and its other files.
fn stored(store: &Path) -> Result<u64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(store.join("store.db"), flags)?;
    let pages: i64 = conn.query_row(
        "SELECT (page_count - freelist_count) * page_size
         FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        [],
        |row| row.get(0),
    )?;
    let mut bytes = pages.unsigned_abs();
    for area in ["blobs", "staging"] {
        for file in fs::read_dir(store.join(area))? {
            bytes += file?.metadata()?.len();
        }
    }
    Ok(bytes)
}
