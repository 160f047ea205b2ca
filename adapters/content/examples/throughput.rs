//! Measures the content store beside plain files, in the same run.
//!
//! `cargo run --release -p alknet-fs-content --example throughput [DIRECTORY] [MIB] [ROUNDS]`

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use alknet_fs_content::{Config, Contents, Staged, StagingFile};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::session::ExtentMap;
use alknet_fs_core::store::{Durability, SessionId, Store};
use alknet_fs_core::{Hash, Timestamp};

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Bench {
    store: MemoryStore,
    contents: Contents,
    next: u64,
}

impl Bench {
    fn commit(&self, prepared: alknet_fs_content::Prepared) -> Outcome<Hash> {
        let mut prepared = [prepared];
        let mut txn = self.store.write(Durability::Full)?;
        self.contents
            .commit(&mut *txn, &mut prepared, Timestamp(0))?;
        txn.commit()?;
        Ok(prepared[0].hash())
    }

    /// Removes a content and its files.
    fn remove(&self, hash: &Hash) -> Outcome<()> {
        let mut txn = self.store.write(Durability::Full)?;
        txn.remove_content(hash)?;
        let orphans = self.contents.orphans(&*txn)?;
        self.contents
            .sweep(&mut *txn, &orphans, std::time::Duration::ZERO)?;
        Ok(txn.commit()?)
    }

    fn session(&mut self, bytes: &[u8], step: usize) -> Outcome<f64> {
        let files = self.contents.files().ok_or("no files")?.clone();
        self.next += 1;
        // Each session has other bytes, or its content would exist.
        let mut step_bytes = self.next.to_le_bytes().to_vec();
        let start = Instant::now();
        let mut staging = StagingFile::create(&files, SessionId(self.next), 0)?;
        let mut at = 0;
        for piece in bytes.chunks(step) {
            staging.write_at(at, piece)?;
            at += piece.len() as u64;
        }
        staging.write_at(at, &step_bytes)?;
        step_bytes.clear();
        let written = start.elapsed();
        let plan = staging.extents().plan();
        let txn = self.store.read()?;
        let prepared =
            self.contents
                .prepare_plan(&*txn, None, Staged::File(&mut staging), &plan)?;
        drop(txn);
        let prepared_at = start.elapsed();
        let hash = self.commit(prepared)?;
        staging.discard()?;
        let time = start.elapsed();
        eprintln!(
            "    written after {:.0} ms, prepared {:.0} ms, committed {:.0} ms",
            written.as_secs_f64() * 1e3,
            prepared_at.as_secs_f64() * 1e3,
            time.as_secs_f64() * 1e3
        );
        self.remove(&hash)?;
        Ok(time.as_secs_f64())
    }
}

fn plain(dir: &Path, bytes: &[u8], step: usize) -> Outcome<f64> {
    let path = dir.join("plain");
    let start = Instant::now();
    let mut file = File::create(&path)?;
    for piece in bytes.chunks(step) {
        file.write_all(piece)?;
    }
    let written = start.elapsed();
    file.sync_all()?;
    let time = start.elapsed();
    eprintln!(
        "    plain written after {:.0} ms, synced {:.0} ms",
        written.as_secs_f64() * 1e3,
        time.as_secs_f64() * 1e3
    );
    std::fs::remove_file(path)?;
    Ok(time.as_secs_f64())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn report(name: &str, ours: Vec<f64>, theirs: Vec<f64>) {
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "{name}: {:.1} ms, plain {:.1} ms, ratio {:.2}",
        ours * 1e3,
        theirs * 1e3,
        ours / theirs
    );
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let dir = match args.next() {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mib: usize = args.next().map_or(Ok(256), |a| a.parse())?;
    let rounds: usize = args.next().map_or(Ok(5), |a| a.parse())?;
    let mut bytes = vec![0; mib << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let contents = Contents::open_store(dir.path(), Config::default())?;
    let mut bench = Bench {
        store: MemoryStore::new(),
        contents,
        next: 0,
    };

    let start = Instant::now();
    let hash = Hash::of(&bytes);
    println!(
        "BLAKE3: {:.1} ms ({hash})",
        start.elapsed().as_secs_f64() * 1e3
    );
    let start = Instant::now();
    let mut hasher = alknet_fs_content::hash_tree::TreeHasher::new();
    bytes.chunks(1 << 20).for_each(|piece| hasher.update(piece));
    assert_eq!(hasher.finish().0, hash);
    println!(
        "with its tree: {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );

    for (name, step) in [("1 MiB", 1 << 20), ("32 KiB", 32 << 10)] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            theirs.push(plain(dir.path(), &bytes, step)?);
            ours.push(bench.session(&bytes, step)?);
        }
        report(
            &format!("session of {mib} MiB in {name} writes"),
            ours,
            theirs,
        );
    }

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        theirs.push(plain(dir.path(), &bytes, 1 << 20)?);
        let start = Instant::now();
        let hash = bench.commit(bench.contents.prepare_read(&mut &bytes[..], None, true)?)?;
        ours.push(start.elapsed().as_secs_f64());
        bench.remove(&hash)?;
    }
    report(&format!("stream of {mib} MiB"), ours, theirs);

    let mut large = &bytes[..];
    let base = bench.commit(bench.contents.prepare_read(&mut large, None, true)?)?;
    let before = bench.contents.usage()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let path = dir.path().join("plain");
    std::fs::write(&path, &bytes)?;
    let file = File::options().write(true).open(&path)?;
    file.sync_all()?;
    let mut record = 0;
    for i in 0..100u64 {
        let at = i * 1_000_003 % bytes.len() as u64;
        let start = Instant::now();
        #[cfg(unix)]
        std::os::unix::fs::FileExt::write_all_at(&file, b"!", at)?;
        file.sync_all()?;
        theirs.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let mut map = ExtentMap::new(bytes.len() as u64);
        map.write(at, 1, 0)?;
        let txn = bench.store.read()?;
        let staged = Staged::Bytes(b"!");
        let prepared = bench
            .contents
            .prepare_plan(&*txn, Some(&base), staged, &map.plan())?;
        drop(txn);
        let hash = bench.commit(prepared)?;
        ours.push(start.elapsed().as_secs_f64());
        let txn = bench.store.read()?;
        record = txn.content(&hash)?.map_or(0, |r| r.data.len());
    }
    report(
        &format!("1 byte of {mib} MiB, without the database"),
        ours,
        theirs,
    );
    assert_eq!(bench.contents.usage()?, before);
    println!("record of that delta: {record} bytes");

    let txn = bench.store.read()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let reader = bench.contents.open(&*txn, &base)?;
        let mut buf = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            match reader.read_at(at, &mut buf)? {
                0 => break,
                n => at += n as u64,
            }
        }
        ours.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let mut file = File::open(&path)?;
        while std::io::Read::read(&mut file, &mut buf)? > 0 {}
        theirs.push(start.elapsed().as_secs_f64());
    }
    report(&format!("read {mib} MiB"), ours, theirs);
    Ok(())
}
