//! Durable puts of 4 KiB, one commit each.

use std::fs;

use alknet_fs::Hash;
use anyhow::{Result, ensure};

use crate::data;
use crate::fixtures::new_store;
use crate::harness::{Bench, Times, settle};
use crate::plain::{Bare, durable_put};

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, puts) = bench.pick((9, 400), (3, 60));
    let dir = bench.dir()?;
    let main = new_store(&dir.join("store"))?;
    main.mkdir("/files")?;
    let bare = Bare::create(&dir.join("bare.db"))?;
    let plain = dir.join("plain");
    fs::create_dir(&plain)?;
    settle()?;
    let (mut ours, mut sqlite, mut files) = <(Times, Times, Times)>::default();
    for round in bench.rounds("durable puts", rounds) {
        let blocks = data::blocks(round as u64, puts);
        let names: Vec<_> = (0..puts).map(|i| format!("{round}-{i:04}")).collect();
        let paths: Vec<_> = names.iter().map(|name| format!("/files/{name}")).collect();
        ours.time(puts, || {
            for (path, block) in paths.iter().zip(&blocks) {
                main.write(path, block.as_slice())?;
            }
            Ok(())
        })?;
        sqlite.time(puts, || {
            for (path, block) in paths.iter().zip(&blocks) {
                bare.put(path, block)?;
            }
            Ok(())
        })?;
        files.time(puts, || {
            for (name, block) in names.iter().zip(&blocks) {
                durable_put(&plain, name, block)?;
            }
            Ok(())
        })?;
        for (path, block) in paths.iter().zip(&blocks) {
            ensure!(
                main.stat(path)?.hash() == Some(Hash::of(block)),
                "{path} differs"
            );
        }
    }
    let count = rounds * puts;
    ensure!(main.list("/files")?.len() == count && bare.files()? == count);
    ensure!(fs::read_dir(&plain)?.count() == count);
    let work = "durable put of 4 KiB, one commit each";
    bench.compare(
        work,
        &ours,
        "the same bytes into one bare SQLite table",
        &sqlite,
        1.3,
    );
    bench
        .compare(
            work,
            &ours,
            "write, fsync, rename, fsync of the directory",
            &files,
            1.0 / 3.0,
        )
        .note("the target is to be 3 times as fast");
    Ok(())
}
