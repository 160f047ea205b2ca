//! What several groups of rows work on.

use std::path::{Path, PathBuf};
use std::{env, fs};

use alknet_fs::{Branch, Durability, Options, Store};
use anyhow::{Context as _, Result, bail, ensure};

use crate::harness::Bench;

/// The entries of each directory that [`tree_of`] makes.
pub(crate) const PER_DIR: usize = 40;

/// Makes a store and returns its main branch.
pub(crate) fn new_store(path: &Path) -> Result<Branch> {
    let store = Store::create(path)?;
    Ok(store.bucket(alknet_fs::DEFAULT_BUCKET)?.main()?)
}

/// Makes a store to be filled: its commits need not survive a power cut.
pub(crate) fn relaxed_store(path: &Path) -> Result<Branch> {
    let options = Options::new().durability(Durability::Relaxed);
    let store = options.create(path)?;
    Ok(store.bucket(alknet_fs::DEFAULT_BUCKET)?.main()?)
}

/// Opens the main branch of a store.
pub(crate) fn open_main(path: &Path) -> Result<Branch> {
    let store = Store::open(path)?;
    Ok(store.bucket(alknet_fs::DEFAULT_BUCKET)?.main()?)
}

/// The path, at depth 3 and relative, of a file of a tree with [`PER_DIR`] files in each
/// directory.
pub(crate) fn path_at_depth_3(i: usize) -> String {
    format!(
        "{}/file-{:02}.txt",
        dir_at_depth_2(i / PER_DIR),
        i % PER_DIR
    )
}

/// The path of a directory of such a tree.
pub(crate) fn dir_at_depth_2(i: usize) -> String {
    format!("part-{:02}/dir-{:02}", i / 10, i % 10)
}

/// Fills a branch with files below [`path_at_depth_3`] and commits them together.
pub(crate) fn tree_of(branch: &Branch, contents: &[Vec<u8>]) -> Result<()> {
    let mut batch = branch.batch();
    for dir in 0..contents.len().div_ceil(PER_DIR) {
        batch.mkdir_all(format!("/{}", dir_at_depth_2(dir)))?;
    }
    for (i, data) in contents.iter().enumerate() {
        batch.write(format!("/{}", path_at_depth_3(i)), data.as_slice())?;
    }
    batch.commit()?;
    Ok(())
}

/// The files of each directory that [`store_of`] makes.
const CROWD: usize = 1000;

/// Makes a store whose main branch has `count` small files, 1,000 in each directory.
pub(crate) fn store_of(path: &Path, count: usize) -> Result<()> {
    let main = relaxed_store(path)?;
    for first in (0..count).step_by(10 * CROWD) {
        let mut batch = main.batch();
        for i in first..count.min(first + 10 * CROWD) {
            if i % CROWD == 0 {
                batch.mkdir(format!("/dir-{:05}", i / CROWD))?;
            }
            let path = format!("/dir-{:05}/file-{:05}", i / CROWD, i % CROWD);
            batch.write(path, (i % CROWD).to_le_bytes())?;
        }
        batch.commit()?;
    }
    Ok(())
}

/// Returns a store of 1,000,000 entries, which is made only once in a run, and their number.
pub(crate) fn million(bench: &Bench) -> Result<(PathBuf, usize)> {
    let count = bench.pick(1_000_000, 30_000);
    let path = bench.lasting("million");
    if !path.exists() {
        bench.prepare("making a store of 1,000,000 entries");
        store_of(&path, count)?;
    }
    Ok((path, count))
}

/// A directory to import.
#[derive(Debug, Clone)]
pub(crate) struct SourceTree {
    pub(crate) path: PathBuf,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// Returns a real tree of 20,000 files and more, which is made only once in a run and may be
/// changed: `ALKFS_BENCH_TREE`, or the sources of the crates that cargo has downloaded, as often
/// as need be, each time with another last line.
pub(crate) fn source_tree(bench: &Bench) -> Result<SourceTree> {
    let path = bench.lasting("tree");
    if !path.exists() {
        bench.prepare("making a directory to import");
        match env::var_os("ALKFS_BENCH_TREE") {
            Some(tree) => {
                copy_tree(Path::new(&tree), &path, None, usize::MAX)?;
            }
            None => assemble(&path, bench.pick(20_000, 2_000))?,
        }
    }
    let mut tree = SourceTree {
        path: path.clone(),
        files: 0,
        bytes: 0,
    };
    walk(&path, &mut |_, meta| {
        if meta.is_file() {
            tree.files += 1;
            tree.bytes += meta.len();
        }
        Ok(())
    })?;
    Ok(tree)
}

/// Crates larger than this are left out: they are archives of libraries, not trees of sources.
const LARGE_CRATE: u64 = 4_000_000;

fn assemble(target: &Path, wanted: usize) -> Result<()> {
    let cargo = match (env::var_os("CARGO_HOME"), env::home_dir()) {
        (Some(dir), _) => dir.into(),
        (None, Some(home)) => home.join(".cargo"),
        (None, None) => bail!("there is no home directory: name a tree with ALKFS_BENCH_TREE"),
    };
    let mut crates = Vec::new();
    for registry in sorted(&cargo.join("registry/src")).context(
        "cargo has downloaded no crates: name a tree of 20,000 files with ALKFS_BENCH_TREE",
    )? {
        for source in sorted(&registry)? {
            let mut bytes = 0;
            walk(&source, &mut |_, meta| {
                bytes += meta.len();
                Ok(())
            })?;
            if bytes <= LARGE_CRATE {
                crates.push(source);
            }
        }
    }
    ensure!(!crates.is_empty(), "cargo has downloaded no crates");
    let mut files = 0;
    for copy in 1.. {
        for source in &crates {
            let Some(name) = source.file_name() else {
                continue;
            };
            let marker = (copy > 1).then(|| format!("copy {copy}\n"));
            let to = target.join(format!("copy-{copy}")).join(name);
            files += copy_tree(source, &to, marker.as_deref(), wanted - files)?;
            if files == wanted {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Copies up to `limit` files, with another last line where one is given; returns how many.
fn copy_tree(from: &Path, to: &Path, last_line: Option<&str>, limit: usize) -> Result<usize> {
    fs::create_dir_all(to)?;
    let mut files = 0;
    walk(from, &mut |path, meta| {
        let here = to.join(path.strip_prefix(from)?);
        if meta.is_dir() {
            fs::create_dir_all(here)?;
        } else if meta.is_symlink() {
            #[cfg(unix)]
            std::os::unix::fs::symlink(fs::read_link(path)?, here)?;
        } else if meta.is_file() && files < limit {
            let mut data = fs::read(path)?;
            data.extend_from_slice(last_line.unwrap_or_default().as_bytes());
            fs::write(&here, data)?;
            fs::set_permissions(&here, meta.permissions())?;
            files += 1;
        }
        Ok(())
    })?;
    Ok(files)
}

/// Visits all that is below a directory, by name, each directory before what is in it.
pub(crate) fn walk(
    dir: &Path,
    visit: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>,
) -> Result<()> {
    for path in sorted(dir)? {
        let meta = fs::symlink_metadata(&path)?;
        visit(&path, &meta)?;
        if meta.is_dir() {
            walk(&path, visit)?;
        }
    }
    Ok(())
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let items = fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    let mut paths = items
        .map(|item| Ok(item?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}
