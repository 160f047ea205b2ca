//! 10,000 files of 4 KiB in batches of 1,000.

use std::fs;
use std::path::Path;
use std::process::Command;

use alknet_fs::{Branch, Hash};
use anyhow::{Context as _, Result, ensure};

use crate::data;
use crate::fixtures::new_store;
use crate::harness::{self, Bench, Times, settle};
use crate::plain::Bare;

/// The files of a directory.
const PER_DIR: usize = 100;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, count) = bench.pick((7, 10_000), (2, 2_000));
    let per_batch = count / 10;
    let (mut ours, mut sqlite, mut git) = <(Times, Times, Times)>::default();
    for round in bench.rounds("files in batches", rounds) {
        let dir = bench.dir()?;
        let blocks = data::blocks(round as u64, count);
        let main = new_store(&dir.join("store"))?;
        let bare = Bare::create(&dir.join("bare.db"))?;
        let repository = Repository::create(&dir, &blocks)?;
        settle()?;
        ours.time(count, || put_all(&main, &blocks, per_batch))?;
        sqlite.time(count, || insert_all(&bare, &blocks, per_batch))?;
        git.time(count, || repository.add_and_commit())?;
        check(&main, &blocks)?;
        ensure!(bare.files()? == count && repository.files()? == count);
    }
    let rate = |times: &Times| 1.0 / times.stats().median;
    let note = format!(
        "{:.0} files/s where SQLite alone reaches {:.0}; the target is 25,000 where it reaches 40,000",
        rate(&ours),
        rate(&sqlite)
    );
    let work = "put of 4 KiB, 10,000 in batches of 1,000";
    bench
        .compare(work, &ours, "`git add` and `git commit`", &git, 0.2)
        .note("the target is to be 5 times as fast");
    bench
        .compare(work, &ours, "SQLite alone, the same batches", &sqlite, 1.6)
        .note(note);
    Ok(())
}

fn put_all(main: &Branch, blocks: &[Vec<u8>], per_batch: usize) -> Result<()> {
    for (i, blocks) in blocks.chunks(per_batch).enumerate() {
        let mut batch = main.batch();
        for (j, block) in blocks.iter().enumerate() {
            let n = i * per_batch + j;
            if n.is_multiple_of(PER_DIR) {
                batch.mkdir(format!("/{}", dir_name(n)))?;
            }
            batch.write(format!("/{}", file_name(n)), block.as_slice())?;
        }
        batch.commit()?;
    }
    Ok(())
}

fn insert_all(bare: &Bare, blocks: &[Vec<u8>], per_batch: usize) -> Result<()> {
    for (i, blocks) in blocks.chunks(per_batch).enumerate() {
        let transaction = bare.conn.unchecked_transaction()?;
        for (j, block) in blocks.iter().enumerate() {
            bare.put(&file_name(i * per_batch + j), block)?;
        }
        transaction.commit()?;
    }
    Ok(())
}

fn check(main: &Branch, blocks: &[Vec<u8>]) -> Result<()> {
    let view = main.view()?;
    for (n, block) in blocks.iter().enumerate() {
        let path = format!("/{}", file_name(n));
        ensure!(
            view.stat(&path)?.hash() == Some(Hash::of(block)),
            "{path} differs"
        );
    }
    Ok(())
}

fn dir_name(n: usize) -> String {
    format!("dir-{:03}", n / PER_DIR)
}

fn file_name(n: usize) -> String {
    format!("{}/file-{:02}", dir_name(n), n % PER_DIR)
}

/// A git repository whose files wait to be added.
struct Repository<'a> {
    dir: &'a Path,
}

impl<'a> Repository<'a> {
    fn create(dir: &'a Path, blocks: &[Vec<u8>]) -> Result<Self> {
        let repository = Self { dir };
        fs::create_dir(dir.join("git"))?;
        harness::run(repository.git().arg("init"))
            .context("git is needed as a baseline: install it")?;
        for (n, block) in blocks.iter().enumerate() {
            if n.is_multiple_of(PER_DIR) {
                fs::create_dir(dir.join("git").join(dir_name(n)))?;
            }
            fs::write(dir.join("git").join(file_name(n)), block)?;
        }
        Ok(repository)
    }

    fn add_and_commit(&self) -> Result<()> {
        harness::run(self.git().args(["add", "--all"]))?;
        harness::run(self.git().args(["commit", "--quiet", "--message", "files"]))
    }

    fn files(&self) -> Result<usize> {
        let output = self
            .git()
            .args(["ls-tree", "-r", "--name-only", "HEAD"])
            .output()?;
        Ok(output.stdout.split(|&b| b == b'\n').count() - 1)
    }

    /// Prepares a git that nobody's settings change and that leaves no work behind.
    fn git(&self) -> Command {
        let mut command = Command::new("git");
        command
            .current_dir(self.dir.join("git"))
            .env("HOME", self.dir)
            .env("XDG_CONFIG_HOME", self.dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args([
                "-c",
                "user.name=bench",
                "-c",
                "user.email=bench@example.org",
            ])
            .args(["-c", "init.defaultBranch=main", "-c", "gc.auto=0"]);
        command
    }
}
