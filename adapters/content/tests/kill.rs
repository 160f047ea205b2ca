//! A process that dies while it writes to a session loses nothing that was acknowledged.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use alknet_fs_content::{Contents, Staged, StagingFile};
use alknet_fs_core::Hash;
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{SessionId, Store};
use common::{Bench, painted, tiny};

const DIR: &str = "ALKNET_FS_TEST_KILL_DIR";
const ID: SessionId = SessionId(1);

/// The `i`-th write of the child: where and what.
fn nth_write(i: u64) -> (u64, Vec<u8>) {
    let len = 1 + (i * 48_271) % 200_000;
    let at = match i % 5 {
        // Most are at the end, some leave a hole, some overwrite.
        4 => (i * 16_807) % (i * 100_000),
        3 => i * 200_000 + 50_000,
        _ => i * 200_000,
    };
    (at, painted(len as usize, i))
}

fn open(dir: &Path) -> Bench {
    let contents = Contents::open_store(dir, tiny()).unwrap();
    let store = MemoryStore::new();
    Bench { store, contents }
}

/// Not a test of its own: what the child process of the other one does.
#[test]
fn child_writes() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let bench = open(Path::new(&dir));
    let files = bench.contents.files().unwrap();
    let mut staging = StagingFile::create(files, ID, 0).unwrap();
    for i in 1.. {
        let (at, bytes) = nth_write(i);
        staging.write_at(at, &bytes).unwrap();
        println!("\nacknowledged {i}");
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    for round in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |line: std::io::Result<String>| {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = number.parse().unwrap();
            }
            acknowledged
        };
        let wanted = 1 + round * 9;
        while take(lines.next().unwrap()) < wanted {}
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died.
        lines.for_each(|line| {
            take(line);
        });

        let bench = open(dir.path());
        let files = bench.contents.files().unwrap();
        let mut staging = StagingFile::resume(files, ID).unwrap();
        let mut model = Vec::new();
        let mut apply = |i: u64| {
            let (at, bytes) = nth_write(i);
            let range = at as usize..at as usize + bytes.len();
            model.resize(model.len().max(range.end), 0);
            model[range.clone()].copy_from_slice(&bytes);
            range
        };
        for i in 1..=acknowledged {
            apply(i);
        }
        // The write it died in may be there in any part, and so may one it had no time to tell of.
        let unsure = [apply(acknowledged + 1), apply(acknowledged + 2)];
        let plan = staging.extents().plan();
        let txn = bench.store.read().unwrap();
        let staged = Staged::File(&mut staging);
        let prepared = bench.contents.prepare_plan(&*txn, None, staged, &plan);
        let hash = bench.commit(prepared.unwrap()).unwrap();
        staging.discard().unwrap();
        bench.verify(&hash).unwrap();
        let mut found = bench.read(&hash).unwrap();
        assert_eq!(hash, Hash::of(&found));
        assert!(found.len() <= model.len());
        found.resize(model.len(), 0);
        for range in unsure {
            found[range.clone()].fill(0);
            model[range].fill(0);
        }
        assert!(found == model, "after {acknowledged} writes");
    }
}
