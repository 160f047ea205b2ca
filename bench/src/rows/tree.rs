//! Import and export of a real tree.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use alknet_fs::{Branch, ExportOptions, ExportReport, ImportOptions, ImportReport, Task};
use anyhow::{Result, ensure};

use crate::fixtures::{SourceTree, new_store, source_tree, walk};
use crate::harness::{Bench, Times, run as run_program, settle};

/// Every so many files one is changed.
const CHANGED_EVERY: usize = 100;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.pick(3, 2);
    let mut tree = source_tree(bench)?;
    let [mut import, mut copy] = <[Times; 2]>::default();
    let [mut again, mut copy_again, mut update] = <[Times; 3]>::default();
    let [mut export, mut copy_out] = <[Times; 2]>::default();
    // Once before, so that both sides find the source in the page cache.
    copy_and_sync(&tree.path, &bench.dir()?.join("copy"), "-a")?;
    for round in bench.rounds("import and export", rounds) {
        let dir = bench.dir()?;
        let main = new_store(&dir.join("store"))?;
        let copied = dir.join("copy");

        settle()?;
        let report = import.time(1, || import_into(&main, &tree))?;
        ensure!(report.files == tree.files as u64 && report.bytes == tree.bytes);
        ensure!(report.files_read == report.files && report.skipped.is_empty());
        settle()?;
        copy.time(1, || copy_and_sync(&tree.path, &copied, "-a"))?;

        let changed = change(&mut tree, round)?;
        settle()?;
        let report = again.time(1, || import_into(&main, &tree))?;
        // A file that was young when it was read is read again.
        ensure!(report.files_read >= changed && report.files_read < changed + report.files / 10);
        settle()?;
        update.time(1, || copy_and_sync(&tree.path, &copied, "-auT"))?;
        settle()?;
        copy_again.time(1, || {
            copy_and_sync(&tree.path, &dir.join("copy-again"), "-a")
        })?;

        settle()?;
        let exported = dir.join("exported");
        let report = export.time(1, || export_from(&main, &exported))?;
        ensure!(report.files == tree.files as u64 && report.bytes == tree.bytes);
        settle()?;
        let out = dir.join("copy-out");
        copy_out.time(1, || copy_and_sync(&tree.path, &out, "-a"))?;
        if round == 0 {
            ensure_equal(&tree.path, &exported)?;
        }
    }
    let SourceTree { files, bytes, .. } = tree;
    let size = format!("{files} files, {} MiB", bytes >> 20);
    let baseline = "cp -a, sync";
    bench.compare(format!("import of {size}"), &import, baseline, &copy, 0.5);
    let work = "import again, 1 % changed";
    bench.compare(work, &again, "cp -a, sync, of everything", &copy_again, 1.0);
    bench.compare(work, &again, "cp -a --update, sync", &update, 1.0);
    bench.compare(
        format!("export of {size}"),
        &export,
        baseline,
        &copy_out,
        1.2,
    );
    Ok(())
}

fn import_into(main: &Branch, tree: &SourceTree) -> Result<ImportReport> {
    Ok(main.import(&tree.path, "/tree", &ImportOptions::new(), &Task::new())?)
}

fn export_from(main: &Branch, to: &Path) -> Result<ExportReport> {
    let options = ExportOptions::new().sync(true);
    Ok(main.view()?.export("/tree", to, &options, &Task::new())?)
}

fn copy_and_sync(from: &Path, to: &Path, how: &str) -> Result<()> {
    run_program(Command::new("cp").arg(how).arg(from).arg(to))?;
    run_program(&mut Command::new("sync"))
}

/// Adds a line to one file in a hundred; returns how many were changed.
fn change(tree: &mut SourceTree, round: usize) -> Result<u64> {
    let line = format!("changed in round {round}\n");
    let (mut seen, mut changed) = (0, 0);
    walk(&tree.path, &mut |path, meta| {
        if meta.is_file() {
            if seen % CHANGED_EVERY == round {
                let mut file = File::options().append(true).open(path)?;
                file.write_all(line.as_bytes())?;
                changed += 1;
            }
            seen += 1;
        }
        Ok(())
    })?;
    tree.bytes += changed * line.len() as u64;
    Ok(changed)
}

/// Compares bytes, kinds, modes, times and link texts.
fn ensure_equal(left: &Path, right: &Path) -> Result<()> {
    run_program(
        Command::new("diff")
            .args(["--recursive", "--brief", "--no-dereference"])
            .args([left, right]),
    )?;
    let (left, right) = (attributes(left)?, attributes(right)?);
    ensure!(left == right, "modes, times or links differ");
    Ok(())
}

type Attributes = (std::time::SystemTime, u32, Option<PathBuf>);

fn attributes(dir: &Path) -> Result<BTreeMap<PathBuf, Attributes>> {
    let mut out = BTreeMap::new();
    walk(dir, &mut |path, meta| {
        #[cfg(unix)]
        let mode = std::os::unix::fs::MetadataExt::mode(meta);
        #[cfg(not(unix))]
        let mode = u32::from(meta.permissions().readonly());
        let link = meta.is_symlink().then(|| fs::read_link(path)).transpose()?;
        let name = path.strip_prefix(dir)?.to_owned();
        out.insert(name, (meta.modified()?, mode, link));
        Ok(())
    })?;
    Ok(out)
}
