//! Reading 4 KiB, stat, and listing 40 entries, warm, at depth 3.

use std::env;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::data;
use crate::fixtures::{PER_DIR, dir_at_depth_2, new_store, path_at_depth_3, tree_of};
use crate::harness::{Bench, Times, settle};

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, count) = bench.pick((15, 4000), (5, 800));
    let dir = bench.dir()?;
    let blocks = data::blocks(1, count);
    let main = new_store(&dir.path().join("store"))?;
    tree_of(&main, &blocks)?;
    plain_tree(dir.path(), &blocks)?;
    settle()?;
    let order = data::shuffled(count);
    let plain_files: Vec<_> = order.iter().map(|&i| path_at_depth_3(i)).collect();
    let plain_dirs: Vec<_> = data::shuffled(count / PER_DIR)
        .into_iter()
        .map(dir_at_depth_2)
        .collect();
    let rooted = |paths: &[String]| -> Vec<_> { paths.iter().map(|p| format!("/{p}")).collect() };
    let (files, dirs) = (rooted(&plain_files), rooted(&plain_dirs));
    let repeat = 10;
    let lists = dirs.len() * repeat;
    let view = main.view()?;
    for (path, &i) in files.iter().zip(&order) {
        ensure!(view.read(path)? == blocks[i], "{path} differs");
    }

    // The baseline gets paths as short as the store's: relative to the tree.
    let home = env::current_dir()?;
    env::set_current_dir(dir.path().join("plain"))?;
    let [mut reads, mut stats, mut listings] = <[[Times; 3]; 3]>::default();
    for _ in bench.rounds("reads", rounds) {
        let mut buffer = vec![0; 8192];
        reads[0].time(count, || {
            each(&files, |path| expect(view.read(path)?.len(), 4096))
        })?;
        reads[1].time(count, || {
            each(&files, |path| expect(main.read(path)?.len(), 4096))
        })?;
        reads[2].time(count, || {
            each(&plain_files, |path| {
                let n = File::open(path)?.read(&mut buffer)?;
                black_box(&buffer);
                expect(n, 4096)
            })
        })?;
        stats[0].time(count, || {
            each(&files, |path| expect(view.stat(path)?.size(), 4096))
        })?;
        stats[1].time(count, || {
            each(&files, |path| expect(main.stat(path)?.size(), 4096))
        })?;
        stats[2].time(count, || {
            each(&plain_files, |path| expect(fs::metadata(path)?.len(), 4096))
        })?;
        listings[0].time(lists, || {
            (0..repeat).try_for_each(|_| each(&dirs, |dir| expect(view.list(dir)?.len(), PER_DIR)))
        })?;
        listings[1].time(lists, || {
            (0..repeat).try_for_each(|_| each(&dirs, |dir| expect(main.list(dir)?.len(), PER_DIR)))
        })?;
        listings[2].time(lists, || {
            (0..repeat).try_for_each(|_| {
                each(&plain_dirs, |dir| {
                    let names = fs::read_dir(dir)?.map(|item| Ok(item?.file_name()));
                    expect(names.collect::<Result<Vec<_>>>()?.len(), PER_DIR)
                })
            })
        })?;
    }
    env::set_current_dir(home)?;
    let rows = [
        ("read 4 KiB", "open, read, close", reads, [1.0, 2.0]),
        ("stat", "stat", stats, [2.0, 4.0]),
        ("list 40 entries", "readdir", listings, [1.0, 2.0]),
    ];
    for (work, baseline, [view, call, plain], [of_view, of_call]) in rows {
        bench.compare(
            format!("{work}, in a view"),
            &view,
            baseline,
            &plain,
            of_view,
        );
        bench.compare(
            format!("{work}, one call"),
            &call,
            baseline,
            &plain,
            of_call,
        );
    }
    Ok(())
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
