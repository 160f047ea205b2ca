//! Long work that is stopped half-way: it says so, and leaves nothing half done.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alknet_fs::{
    Branch, Cancel, ExportOptions, FsckOptions, GcOptions, Hash, OpenOptions, Progress, Store, Task,
};

fn store() -> (tempfile::TempDir, Store, Branch) {
    let dir = tempfile::tempdir().unwrap();
    let options = alknet_fs::Options::new().durability(alknet_fs::Durability::Relaxed);
    let store = options.create(dir.path().join("store")).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    (dir, store, main)
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ seed).collect()
}

fn assert_healthy(store: &Store) {
    let report = store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    assert_eq!(report.problems, []);
}

/// A task that is stopped by its own report number `at`, and what it was told until then.
fn stopped_at(at: u64) -> (Task, Arc<Mutex<Vec<Progress>>>) {
    let cancel = Cancel::new();
    let (switch, seen) = (cancel.clone(), Arc::new(Mutex::new(Vec::new())));
    let (count, told) = (AtomicU64::new(0), Arc::clone(&seen));
    let task = Task::new().cancel_with(&cancel).report_to(move |progress| {
        told.lock().unwrap().push(progress);
        if count.fetch_add(1, Ordering::Relaxed) + 1 >= at {
            switch.cancel();
        }
    });
    (task, seen)
}

/// Everything below a directory that is a file: its path and size, its bytes checked.
fn files_below(dir: &Path, want: &HashMap<PathBuf, Vec<u8>>) -> usize {
    let mut found = 0;
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found += files_below(&path, want);
        } else if let Some(want) = want.get(&path) {
            // What has its final name is whole.
            let got = fs::read(&path).unwrap();
            assert!(got == *want, "{}: {} bytes", path.display(), got.len());
            found += 1;
        }
    }
    found
}

/// Writes many files of several sizes, and returns what an export to `target` must write.
fn fill(main: &Branch, target: &Path) -> HashMap<PathBuf, Vec<u8>> {
    let mut want = HashMap::new();
    let mut batch = main.batch();
    for dir in 0..10 {
        batch.mkdir(format!("/{dir}")).unwrap();
        for n in 0..30 {
            let path = format!("/{dir}/{n}");
            let len = match n % 10 {
                0 => 300_000,
                9 => 0,
                _ => 100 * n,
            };
            let data = bytes(len, (dir * 30 + n) as u8);
            want.insert(target.join(&path[1..]), data.clone());
            batch.write(path, data).unwrap();
        }
    }
    batch.commit().unwrap();
    want
}

#[test]
fn a_stopped_export_ends_and_can_be_done_again() {
    let (dir, store, main) = store();
    let target = dir.path().join("out");
    let want = fill(&main, &target);
    for at in [1, 50, 200] {
        let (task, seen) = stopped_at(at);
        let view = main.view().unwrap();
        let options = ExportOptions::new().overwrite(true);
        let error = view.export("/", &target, &options, &task).unwrap_err();
        assert!(error.is_cancelled(), "{error}");
        assert!(seen.lock().unwrap().len() as u64 >= at);
        let written = files_below(&target, &want);
        assert!(written < want.len(), "{written} after {at}");
        assert_healthy(&store);
        fs::remove_dir_all(&target).unwrap();
    }
    // Over what a stopped one left, a whole one gives everything.
    let view = main.view().unwrap();
    let (task, _) = stopped_at(100);
    let (fresh, over) = (ExportOptions::new(), ExportOptions::new().overwrite(true));
    view.export("/", &target, &fresh, &task).unwrap_err();
    let report = view.export("/", &target, &over, &Task::new()).unwrap();
    assert_eq!(report.files as usize, want.len());
    assert_eq!(files_below(&target, &want), want.len());
}

#[test]
fn a_stopped_fsck_says_so_and_harms_nothing() {
    let (dir, store, main) = store();
    let want = fill(&main, &dir.path().join("out"));
    let hashes: std::collections::HashSet<_> = want.values().map(|data| Hash::of(data)).collect();
    let contents = hashes.len() as u64;
    for at in [1, 20, contents / 2] {
        let (task, seen) = stopped_at(at);
        let error = store.fsck(&FsckOptions::new(), &task).unwrap_err();
        assert!(error.is_cancelled(), "{error}");
        let last = *seen.lock().unwrap().last().unwrap();
        // It stops where it is: it does not go through the rest first.
        assert!(last.files <= at + 1, "{last:?} after {at}");
    }
    // Within one large content, too.
    main.write("/large", bytes(32 << 20, 9)).unwrap();
    let cancel = Cancel::new();
    let switch = cancel.clone();
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    let task = Task::new().cancel_with(&cancel).report_to(move |progress| {
        if progress.total_bytes > 32 << 20 {
            switch.cancel();
        }
        seen.fetch_max(progress.bytes, Ordering::Relaxed);
    });
    assert!(
        store
            .fsck(&FsckOptions::new(), &task)
            .unwrap_err()
            .is_cancelled()
    );
    let all: usize = want.values().map(Vec::len).sum();
    let most = most.load(Ordering::Relaxed);
    assert!(most < (all as u64) + (32 << 20), "{most}");
    // The check holds nothing on to: what it looked at can be collected.
    main.remove("/large").unwrap();
    let options = GcOptions::new().grace(Duration::ZERO);
    let report = store.gc(&options, &Task::new()).unwrap();
    assert!(!report.files_deferred);
    assert_healthy(&store);
}

#[test]
fn a_stopped_gc_removes_nothing_that_is_shown_and_the_next_one_ends_its_work() {
    let (dir, store, main) = store();
    let want = fill(&main, &dir.path().join("out"));
    main.snapshot("old").unwrap();
    let held = bytes(400_000, 77);
    main.write("/held", held.clone()).unwrap();
    let session = main.open_session("/held", &OpenOptions::new()).unwrap();
    session.write_at(7, b"edit").unwrap();
    main.remove("/held").unwrap();
    for n in 0..2500u32 {
        // Twice what one step of the collection removes.
        main.write("/gone", n.to_le_bytes()).unwrap();
    }
    main.write("/gone", bytes(500_000, 3)).unwrap();
    main.remove("/gone").unwrap();
    main.write("/0/1", "newer").unwrap();
    main.snapshot("newer").unwrap();
    main.write("/0/1", "newest").unwrap();
    main.delete_snapshot("newer").unwrap();
    let options = GcOptions::new().grace(Duration::ZERO);
    let before = store.stats().unwrap().contents;
    let mut left = vec![before];
    // Already stopped before it begins; then at its first reports.
    let cancel = Cancel::new();
    cancel.cancel();
    let tasks = [
        Task::new().cancel_with(&cancel),
        stopped_at(1).0,
        stopped_at(2).0,
    ];
    for task in tasks {
        match store.gc(&options, &task) {
            Err(error) => assert!(error.is_cancelled(), "{error}"),
            // One that had so little to do that it made fewer reports.
            Ok(report) => assert!(left.len() == 3, "{report:?}"),
        }
        left.push(store.stats().unwrap().contents);
        assert_healthy(&store);
        let old = main.view_at("old").unwrap();
        for (path, data) in &want {
            let path = path.strip_prefix(dir.path().join("out")).unwrap();
            let path = format!("/{}", path.to_str().unwrap());
            assert!(old.read(&path).unwrap() == *data, "{path}");
        }
        assert_eq!(main.read("/0/1").unwrap(), b"newest");
    }
    assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
    // Stopped before it began, it did nothing.
    assert_eq!(left[1], before);
    assert_eq!(session.size(), held.len() as u64);
    let mut edited = held;
    edited[7..11].copy_from_slice(b"edit");
    let mut read = vec![0; edited.len()];
    session.read_at(0, &mut read).unwrap();
    assert!(read == edited);
    store.gc(&options, &Task::new()).unwrap();
    let again = store.gc(&options, &Task::new()).unwrap();
    assert_eq!((again.versions, again.contents, again.files), (0, 0, 0));
    session.close().unwrap();
    assert!(main.read("/held").unwrap() == edited);
    assert_healthy(&store);
}
/// The switch is turned while one large file is being written.
#[test]
fn an_export_stopped_within_a_file_leaves_no_part_of_it_under_its_name() {
    let (dir, store, main) = store();
    let data = bytes(64 << 20, 1);
    main.write("/large", data.clone()).unwrap();
    let target = dir.path().join("out");
    let want = HashMap::from([(target.join("large"), data)]);
    let cancel = Cancel::new();
    let task = Task::new().cancel_with(&cancel);
    let view = main.view().unwrap();
    let error = std::thread::scope(|scope| {
        let export = scope.spawn(|| view.export("/", &target, &ExportOptions::new(), &task));
        // As soon as any byte of it is on the disk.
        let begun = || {
            let items = fs::read_dir(&target).into_iter().flatten();
            let sizes = items.map(|item| item.unwrap().metadata().map_or(0, |m| m.len()));
            sizes.sum::<u64>() > 0
        };
        while !begun() && !export.is_finished() {
            std::thread::yield_now();
        }
        cancel.cancel();
        export.join().unwrap().unwrap_err()
    });
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(files_below(&target, &want), 0);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "nothing is left");
    assert_healthy(&store);
}
