//! Resolve and list at depth 1,000, and beside 1,000 siblings.

use std::path::Path;

use alknet_fs::Branch;
use anyhow::{Result, ensure};

use crate::data;
use crate::fixtures::{
    PER_DIR, dir_at_depth_2, open_main, path_at_depth_3, relaxed_store, tree_of,
};
use crate::harness::{Bench, Times, settle};

/// The files of the tree.
const FILES: usize = 1000;

/// What is done in each branch, in the order of [`Lane::times`].
const KINDS: [&str; 4] = [
    "resolve, in a view",
    "resolve, one call",
    "list, in a view",
    "list, one call",
];

/// A branch to measure.
struct Lane {
    name: &'static str,
    branch: Branch,
    times: [Times; 4],
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let depth = bench.pick(1000, 60);
    let dir = bench.dir()?;
    let [alone, chain, snapshots, versions, crowd] =
        ["alone", "chain", "snapshots", "versions", "crowd"].map(|name| dir.join(name));
    make_tree(&alone)?;
    bench.prepare("forking 1,000 branches off one another");
    make_chain(&chain, depth)?;
    bench.prepare("taking 1,000 snapshots");
    make_snapshots(&snapshots, depth)?;
    bench.prepare("changing 1,000 files before each of 100 snapshots");
    make_versions(&versions, bench.pick(100, 30))?;
    bench.prepare("changing 1,000 files in each of 1,000 branches");
    make_crowd(&crowd, depth)?;
    let sibling = format!("sibling-{}", depth / 2);
    let mut lanes = [
        Lane::open("depth 1, alone", &alone, "main")?,
        Lane::open("at depth 1,000", &chain, &format!("depth-{depth}"))?,
        Lane::open("above 1,000 snapshots", &snapshots, "main")?,
        Lane::open("above 100 snapshots of 1,000 changes", &versions, "main")?,
        Lane::open("beside 1,000 siblings of 1,000 changes", &crowd, &sibling)?,
        Lane::open("below 1,000 forks of 1,000 changes", &crowd, "main")?,
    ];
    let paths = Paths::new();
    settle()?;
    for _ in bench.rounds("resolve and list", bench.pick(51, 7)) {
        for lane in &mut lanes {
            lane.measure(&paths)?;
        }
    }
    let [alone, others @ ..] = &lanes;
    for lane in others {
        for (i, kind) in KINDS.iter().enumerate() {
            let work = format!("{kind}, {}", lane.name);
            bench.compare(work, &lane.times[i], alone.name, &alone.times[i], 2.0);
        }
    }
    Ok(())
}

/// The paths of the tree.
struct Paths {
    files: Vec<String>,
    dirs: Vec<String>,
}

impl Paths {
    fn new() -> Self {
        let files = data::shuffled(FILES).into_iter().map(path_at_depth_3);
        let dirs = (0..FILES / PER_DIR).map(dir_at_depth_2);
        Self {
            files: files.map(|path| format!("/{path}")).collect(),
            dirs: dirs.map(|path| format!("/{path}")).collect(),
        }
    }

    fn stat_all(&self, size: impl Fn(&String) -> alknet_fs::Result<u64>) -> Result<()> {
        for path in &self.files {
            ensure!(size(path)? == 4096, "{path} has another size");
        }
        Ok(())
    }

    fn list_all(&self, len: impl Fn(&String) -> alknet_fs::Result<usize>) -> Result<()> {
        for dir in &self.dirs {
            ensure!(len(dir)? == PER_DIR, "{dir} has another number of entries");
        }
        Ok(())
    }
}

impl Lane {
    fn open(name: &'static str, store: &Path, branch: &str) -> Result<Self> {
        let branch = open_main(store)?.bucket().branch(branch)?;
        Ok(Self {
            name,
            branch,
            times: <[Times; 4]>::default(),
        })
    }

    fn measure(&mut self, paths: &Paths) -> Result<()> {
        let Self { branch, .. } = self;
        // Once before, so that the pages are as warm in every lane; then a new view, because a view
        // remembers what it resolved.
        let view = branch.view()?;
        paths.stat_all(|path| Ok(view.stat(path)?.size()))?;
        paths.list_all(|dir| Ok(view.list(dir)?.len()))?;
        drop(view);
        let view = branch.view()?;
        let works: [&dyn Fn() -> Result<()>; 4] = [
            &|| paths.stat_all(|path| Ok(view.stat(path)?.size())),
            &|| paths.stat_all(|path| Ok(branch.stat(path)?.size())),
            &|| paths.list_all(|dir| Ok(view.list(dir)?.len())),
            &|| paths.list_all(|dir| Ok(branch.list(dir)?.len())),
        ];
        for (i, (work, times)) in works.iter().zip(&mut self.times).enumerate() {
            let count = if i < 2 { FILES } else { FILES / PER_DIR };
            times.time(count, work)?;
        }
        Ok(())
    }
}

/// Makes a store with the tree in its main branch.
fn make_tree(store: &Path) -> Result<Branch> {
    let main = relaxed_store(store)?;
    tree_of(&main, &data::blocks(1, FILES))?;
    Ok(main)
}

/// Changes a file, one of every second: half of the tree stays as the first branch has it.
fn change(branch: &Branch, i: usize) -> Result<()> {
    let path = format!("/{}", path_at_depth_3(i * 2 % FILES));
    branch.write(path, data::bytes(1_000_000 + i as u64, 4096))?;
    Ok(())
}

fn make_chain(store: &Path, depth: usize) -> Result<()> {
    let mut last = make_tree(store)?;
    for i in 1..=depth {
        last = last.fork(&format!("depth-{i}"))?;
        change(&last, i)?;
    }
    Ok(())
}

fn make_snapshots(store: &Path, count: usize) -> Result<()> {
    let main = make_tree(store)?;
    for i in 1..=count {
        change(&main, i)?;
        main.snapshot(&format!("snapshot-{i}"))?;
    }
    Ok(())
}

/// Makes a store in which every file has `count` older versions.
fn make_versions(store: &Path, count: usize) -> Result<()> {
    let main = make_tree(store)?;
    for i in 0..count {
        main.snapshot(&format!("snapshot-{i}"))?;
        // Two sets of bytes in turn: what is measured is the rows.
        let changed = data::blocks(3 + i as u64 % 2, FILES);
        let mut batch = main.batch();
        for (n, block) in changed.iter().enumerate() {
            batch.write(format!("/{}", path_at_depth_3(n)), block.as_slice())?;
        }
        batch.commit()?;
    }
    Ok(())
}

/// Makes a store in which `count` branches changed every file of the tree.
fn make_crowd(store: &Path, count: usize) -> Result<()> {
    let main = make_tree(store)?;
    // All siblings write the same bytes: what is measured is their rows.
    let changed = data::blocks(2, FILES);
    for i in 0..count {
        let fork = main.fork(&format!("sibling-{i}"))?;
        let mut batch = fork.batch();
        for (n, block) in changed.iter().enumerate() {
            batch.write(format!("/{}", path_at_depth_3(n)), block.as_slice())?;
        }
        batch.commit()?;
    }
    Ok(())
}
