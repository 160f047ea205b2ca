//! Reading 4 KiB, stat, and listing 40 entries, warm, at depth 3.

use std::env;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::data;
use crate::fixtures::{PER_DIR, dir_at_depth_2, new_store, open_main, path_at_depth_3, tree_of};
use crate::harness::{Bench, Times, settle};

/// The files of a round; short rounds, and many of them, tell the work from what else the machine
/// does. The lists of a round are a tenth.
const SLICE: usize = 250;

/// How the store is read, and the baseline.
const WAYS: [&str; 3] = ["in a view, the first time", "in a view, again", "one call"];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, count) = bench.pick((320, 4000), (32, 1000));
    let dir = bench.dir()?;
    let blocks = data::blocks(1, count);
    let store = dir.join("store");
    tree_of(&new_store(&store)?, &blocks)?;
    // The store closed, so its database holds everything and its write-ahead log nothing.
    let main = open_main(&store)?;
    plain_tree(&dir, &blocks)?;
    settle()?;
    let order = data::shuffled(count);
    let files: Vec<_> = order.iter().map(|&i| path_at_depth_3(i)).collect();
    let dirs: Vec<_> = data::shuffled(count / PER_DIR)
        .into_iter()
        .map(dir_at_depth_2)
        .collect();
    let view = main.view()?;
    for (path, &i) in files.iter().zip(&order) {
        ensure!(view.read(path)? == blocks[i], "{path} differs");
    }
    drop(view);

    // The baseline gets paths as short as the store's: relative to the tree.
    let home = env::current_dir()?;
    env::set_current_dir(dir.join("plain"))?;
    let [mut reads, mut stats, mut lists] = <[[Times; 4]; 3]>::default();
    for round in bench.rounds("reads", rounds) {
        let files = slice(&files, round, SLICE);
        let dirs = slice(&dirs, round, SLICE / 10);
        let mut buffer = vec![0; 8192];
        let view = main.view()?;
        for times in &mut reads[..2] {
            times.time(files.len(), || {
                each(files, |path| expect(view.read(path)?.len(), 4096))
            })?;
        }
        reads[2].time(files.len(), || {
            each(files, |path| expect(main.read(path)?.len(), 4096))
        })?;
        reads[3].time(files.len(), || {
            each(files, |path| {
                let n = File::open(path)?.read(&mut buffer)?;
                black_box(&buffer);
                expect(n, 4096)
            })
        })?;
        // What a view has resolved for a read, it need not resolve for a stat.
        let view = main.view()?;
        for times in &mut stats[..2] {
            times.time(files.len(), || {
                each(files, |path| expect(view.stat(path)?.size(), 4096))
            })?;
        }
        stats[2].time(files.len(), || {
            each(files, |path| expect(main.stat(path)?.size(), 4096))
        })?;
        stats[3].time(files.len(), || {
            each(files, |path| expect(fs::metadata(path)?.len(), 4096))
        })?;
        for times in &mut lists[..2] {
            times.time(dirs.len(), || {
                each(dirs, |dir| expect(view.list(dir)?.len(), PER_DIR))
            })?;
        }
        lists[2].time(dirs.len(), || {
            each(dirs, |dir| expect(main.list(dir)?.len(), PER_DIR))
        })?;
        lists[3].time(dirs.len(), || {
            each(dirs, |dir| {
                let names = fs::read_dir(dir)?.map(|item| Ok(item?.file_name()));
                expect(names.collect::<Result<Vec<_>>>()?.len(), PER_DIR)
            })
        })?;
    }
    env::set_current_dir(home)?;
    let rows = [
        ("read 4 KiB", "open, read, close", reads, [1.0, 2.0]),
        ("stat", "stat", stats, [2.0, 4.0]),
        ("list 40 entries", "readdir", lists, [1.0, 2.0]),
    ];
    for (work, baseline, [ours @ .., plain], [of_view, of_call]) in rows {
        let targets = [of_view, of_view, of_call];
        for ((way, times), target) in WAYS.iter().zip(&ours).zip(targets) {
            bench.compare(format!("{work}, {way}"), times, baseline, &plain, target);
        }
    }
    Ok(())
}

/// Returns the part of the paths that a round reads.
fn slice(paths: &[String], round: usize, len: usize) -> &[String] {
    let mut parts = paths.chunks_exact(len);
    let count = parts.len();
    parts.nth(round % count).unwrap_or(paths)
}

fn plain_tree(dir: &Path, blocks: &[Vec<u8>]) -> Result<()> {
    let plain = dir.join("plain");
    for i in 0..blocks.len().div_ceil(PER_DIR) {
        fs::create_dir_all(plain.join(dir_at_depth_2(i)))?;
    }
    for (i, block) in blocks.iter().enumerate() {
        fs::write(plain.join(path_at_depth_3(i)), block)?;
    }
    Ok(())
}

fn each(paths: &[String], visit: impl FnMut(&String) -> Result<()>) -> Result<()> {
    paths.iter().try_for_each(visit)
}

fn expect<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Result<()> {
    ensure!(
        found == expected,
        "{found:?} where {expected:?} was expected"
    );
    Ok(())
}
