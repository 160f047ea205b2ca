//! Importing and exporting where the system is not as usual.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alknet_fs::{
    Branch, ExportOptions, FsckOptions, GcOptions, ImportOptions, Progress, Store, Task,
};

fn branch(dir: &Path) -> Branch {
    let store = Store::create(dir.join("store")).unwrap();
    store.bucket("default").unwrap().main().unwrap()
}

/// Makes a tree with many directories, and files of all sizes.
fn make_tree(dir: &Path) -> u64 {
    let mut files = 0;
    for i in 0..40 {
        let sub = dir.join(format!("d{}/e{i}", i % 7));
        fs::create_dir_all(&sub).unwrap();
        for j in 0..i {
            fs::write(sub.join(format!("f{j}")), format!("{i} {j}")).unwrap();
            files += 1;
        }
        fs::write(sub.join("large"), vec![i as u8; i * 20_000]).unwrap();
        files += 1;
    }
    files
}

fn assert_same(a: &Path, b: &Path) {
    let diff = Command::new("diff")
        .arg("-r")
        .args([a, b])
        .output()
        .unwrap();
    assert!(
        diff.status.success(),
        "{}",
        String::from_utf8_lossy(&diff.stdout)
    );
}

/// Set for the process that can have no threads: where it works.
const WORKPLACE: &str = "ALKNET_FS_TEST_NO_THREADS";

#[test]
fn a_process_without_threads_imports_and_exports() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("source"));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_without_threads", "--nocapture"])
        .env(WORKPLACE, dir.path())
        // No thread gets a stack this large.
        .env("RUST_MIN_STACK", (1_u64 << 60).to_string())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(dir.path().join("done").exists());
    assert_same(&dir.path().join("source"), &dir.path().join("target"));
}

#[test]
fn child_without_threads() {
    let Some(dir) = std::env::var_os(WORKPLACE).map(PathBuf::from) else {
        return;
    };
    assert!(std::thread::Builder::new().spawn(|| {}).is_err());
    let main = branch(&dir);
    let task = Task::new();
    let source = dir.join("source");
    let first = main
        .import(&source, "/t", &ImportOptions::new(), &task)
        .unwrap();
    let again = main
        .import(&source, "/t", &ImportOptions::new(), &task)
        .unwrap();
    assert_eq!(again.unchanged, first.files + first.dirs);
    let view = main.view().unwrap();
    let options = ExportOptions::new();
    view.export("/t", dir.join("target"), &options, &task)
        .unwrap();
    fs::write(dir.join("done"), "").unwrap();
}

#[test]
fn an_export_restores_every_owner() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for sub in ["root", "other"] {
        fs::create_dir_all(source.join(sub)).unwrap();
        fs::write(source.join(sub).join("file"), sub).unwrap();
        std::os::unix::fs::symlink("file", source.join(sub).join("link")).unwrap();
        if sub == "other" {
            for name in ["other", "other/file", "other/link"] {
                lchown(source.join(name), Some(1001), Some(1002)).unwrap();
            }
        }
    }
    let main = branch(dir.path());
    main.import(&source, "/", &ImportOptions::new(), &Task::new())
        .unwrap();
    // Everything is there already, with other owners, and the directories hand theirs down.
    fs::create_dir(&target).unwrap();
    for sub in ["root", "other"] {
        fs::create_dir_all(target.join(sub)).unwrap();
        fs::write(target.join(sub).join("file"), "old").unwrap();
    }
    for name in ["", "root", "other", "root/file", "other/file"] {
        chown(target.join(name), Some(2001), Some(2002)).unwrap();
    }
    for name in ["", "root", "other"] {
        fs::set_permissions(target.join(name), fs::Permissions::from_mode(0o2755)).unwrap();
    }
    let options = ExportOptions::new().overwrite(true);
    let view = main.view().unwrap();
    view.export("/", &target, &options, &Task::new()).unwrap();
    for name in [
        "",
        "root",
        "root/file",
        "root/link",
        "other",
        "other/file",
        "other/link",
    ] {
        let owner = |dir: &Path| {
            let meta = fs::symlink_metadata(dir.join(name)).unwrap();
            (meta.uid(), meta.gid(), meta.mode())
        };
        assert_eq!(owner(&target), owner(&source), "{name}");
    }
}

/// Returns a task and what it reports.
fn followed() -> (Task, Arc<Mutex<Vec<Progress>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let reports = seen.clone();
    let task = Task::new().report_to(move |progress| reports.lock().unwrap().push(progress));
    (task, seen)
}

#[test]
fn an_export_tells_how_much_there_is_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let files = make_tree(&source);
    let main = branch(dir.path());
    main.import(&source, "/", &ImportOptions::new(), &Task::new())
        .unwrap();
    let (task, seen) = followed();
    let view = main.view().unwrap();
    let report = view
        .export("/", dir.path().join("target"), &ExportOptions::new(), &task)
        .unwrap();
    assert_eq!(report.files, files);
    let seen = seen.lock().unwrap();
    for progress in &*seen {
        assert_eq!(progress.total_files, report.files);
        assert_eq!(progress.total_bytes, report.bytes);
    }
    assert!(
        seen.iter()
            .any(|p| p.files == files && p.bytes == report.bytes)
    );
}

#[test]
fn a_check_tells_how_much_there_is_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    make_tree(&source);
    let store = Store::create(dir.path().join("store")).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    main.import(&source, "/", &ImportOptions::new(), &Task::new())
        .unwrap();
    let stats = store.stats().unwrap();
    for fast in [false, true] {
        let (task, seen) = followed();
        let report = store.fsck(&FsckOptions::new().fast(fast), &task).unwrap();
        assert_eq!(report.problems, []);
        let bytes = if fast { 0 } else { stats.content_bytes };
        let seen = seen.lock().unwrap();
        for progress in &*seen {
            assert_eq!(progress.total_files, stats.contents);
            assert_eq!(progress.total_bytes, bytes);
        }
        let last = seen.last().unwrap();
        assert_eq!((last.files, last.bytes), (stats.contents, bytes));
        assert!(seen.is_sorted_by_key(|p| (p.files, p.bytes)));
    }
}

#[test]
fn a_collection_tells_how_far_it_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let main = branch(dir.path());
    main.write("/f", [1; 300_000]).unwrap();
    main.remove("/f").unwrap();
    let (task, seen) = followed();
    let store = Store::open(dir.path().join("store")).unwrap();
    let options = GcOptions::new().grace(Duration::ZERO);
    let report = store.gc(&options, &task).unwrap();
    assert_eq!(report.content_bytes, 300_000);
    let seen = seen.lock().unwrap();
    let last = seen.last().unwrap();
    assert_eq!((last.files, last.bytes), (last.total_files, 300_000));
    assert!(seen.iter().all(|p| p.total_files == last.total_files));
    assert!(seen.is_sorted_by_key(|p| (p.files, p.bytes)));
}
