//! Reading by single calls, which remember what they saw for as long as nothing is committed.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use alknet_fs::{Branch, ErrorKind, Follow, SetAttrs, Store};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Every path of three levels of four names, and the root.
fn paths() -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut last = paths.clone();
    for _ in 0..3 {
        let below = |dir: &String| NAMES.map(|name| format!("{dir}/{name}"));
        last = last.iter().flat_map(below).collect();
        paths.extend(last.iter().cloned());
    }
    paths[0] = "/".to_owned();
    paths
}

fn kind<T: std::fmt::Debug>(result: alknet_fs::Result<T>) -> Result<T, ErrorKind> {
    result.map_err(|e| e.kind())
}

/// Asks everything about a path, and compares with a view, which remembers nothing from before.
fn compare(branch: &Branch, path: &str) {
    let view = branch.view().unwrap();
    assert_eq!(kind(branch.stat(path)), kind(view.stat(path)), "{path}");
    assert_eq!(kind(branch.lstat(path)), kind(view.lstat(path)), "{path}");
    assert_eq!(kind(branch.exists(path)), kind(view.exists(path)), "{path}");
    assert_eq!(kind(branch.read(path)), kind(view.read(path)), "{path}");
    assert_eq!(kind(branch.list(path)), kind(view.list(path)), "{path}");
    let links = [branch.read_link(path), view.read_link(path)].map(kind);
    assert_eq!(links[0], links[1], "{path}");
    let real = [branch.canonicalize(path), view.canonicalize(path)].map(kind);
    assert_eq!(real[0], real[1], "{path}");
}

/// Returns one of the next `below` numbers of a sequence that looks random.
fn next(state: &mut u64, below: usize) -> usize {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    (*state >> 33) as usize % below
}

fn change(branch: &Branch, paths: &[String], state: &mut u64) {
    let path = &paths[next(state, paths.len())];
    let other = &paths[next(state, paths.len())];
    // Most of these fail, as they must, and change nothing.
    let _ = match next(state, 11) {
        0..3 => branch.write(path, format!("{state}")),
        3 => branch.mkdir(path),
        4 => branch.mkdir_all(path),
        5 => branch.remove(path),
        6 => branch.remove_all(path).map(drop),
        7 => branch.rename(path, other),
        8 => branch.symlink(other, path),
        9 => {
            let mode = Some(0o600 + next(state, 8) as u32);
            let set = SetAttrs {
                mode,
                ..SetAttrs::default()
            };
            branch.set_attrs(path, &set, Follow::No)
        }
        _ => {
            let _ = branch.delete_snapshot("s");
            let _ = branch.snapshot("s");
            match next(state, 2) {
                0 => Ok(()),
                _ => branch.restore("s"),
            }
        }
    };
}

fn open(dir: &Path) -> Branch {
    let store = Store::open(dir).unwrap();
    store.bucket("default").unwrap().branch("main").unwrap()
}

#[test]
fn what_anyone_commits_shows_in_the_next_call() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    Store::create(&dir).unwrap();
    let (main, seen) = (open(&dir), open(&dir));
    let fork = main.fork("fork").unwrap();
    let seen_fork = seen.bucket().branch("fork").unwrap();
    let paths = paths();
    let mut state = 1;
    for round in 0..400 {
        match round % 3 {
            0 => change(&fork, &paths, &mut state),
            _ => change(&main, &paths, &mut state),
        }
        for _ in 0..12 {
            let path = &paths[next(&mut state, paths.len())];
            compare(&seen, path);
            compare(&seen_fork, path);
            compare(&main, path);
        }
    }
}

#[test]
fn a_call_never_shows_less_than_was_committed_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    let store = Store::create(&dir).unwrap();
    let writer = store.bucket("default").unwrap().branch("main").unwrap();
    writer.write("/n", "0").unwrap();
    let committed = AtomicU64::new(0);
    const LAST: u64 = 300;
    thread::scope(|scope| {
        for reader in [writer.clone(), open(&dir), open(&dir)] {
            let committed = &committed;
            scope.spawn(move || {
                let mut reads = 0;
                let mut last = 0;
                while last < LAST {
                    let before = committed.load(Ordering::Acquire);
                    let text = String::from_utf8(reader.read("/n").unwrap()).unwrap();
                    let size = reader.stat("/n").unwrap().size();
                    last = text.parse().unwrap();
                    assert!(last >= before, "{last} is older than {before}");
                    assert!(size as usize >= text.len());
                    reads += 1;
                }
                assert!(reads > 0);
            });
        }
        for n in 1..=LAST {
            writer.write("/n", n.to_string()).unwrap();
            committed.store(n, Ordering::Release);
        }
    });
}

#[test]
fn a_call_of_many_reads_shows_one_state() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    Store::create(&dir).unwrap();
    let writer = open(&dir);
    // A link to a directory, both of which change their names in one commit.
    let replace = |from: &str, to: &str| {
        let mut batch = writer.batch();
        if writer.exists("/now").unwrap() {
            batch.remove("/now").unwrap();
            batch.rename(from, to).unwrap();
        } else {
            batch.mkdir(to).unwrap();
            batch.write(format!("{to}/file"), "text").unwrap();
        }
        batch.symlink(to, "/now").unwrap();
        batch.commit().unwrap();
    };
    replace("/b", "/a");
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in [writer.clone(), open(&dir)] {
            let done = &done;
            scope.spawn(move || {
                while done.load(Ordering::Acquire) == 0 {
                    assert_eq!(reader.read("/now/file").unwrap(), b"text");
                    assert_eq!(reader.list("/now").unwrap().len(), 1);
                }
            });
        }
        for _ in 0..150 {
            replace("/a", "/b");
            replace("/b", "/a");
        }
        done.store(1, Ordering::Release);
    });
}
