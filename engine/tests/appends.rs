//! Several writers append to one file at once, and nobody's bytes are lost.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use alknet_fs::{Branch, ErrorKind, FileOptions, OpenOptions, Store};

fn open(dir: &Path) -> Branch {
    let store = Store::open(dir).unwrap();
    store.bucket("default").unwrap().branch("main").unwrap()
}

fn append(branch: &Branch, path: &str, bytes: &[u8]) {
    let options = FileOptions::new().append(true).create(true);
    let file = branch.open_file(path, &options).unwrap();
    file.write(bytes).unwrap();
    file.close().unwrap();
}

fn lines(branch: &Branch, path: &str) -> Vec<String> {
    let text = String::from_utf8(branch.read(path).unwrap()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_line_that_anyone_appends_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    Store::create(&dir).unwrap();
    let (one, two) = (open(&dir), open(&dir));
    let writers = [&one, &one, &two, &two];
    thread::scope(|scope| {
        for (who, branch) in writers.into_iter().enumerate() {
            scope.spawn(move || {
                for n in 0..40 {
                    append(branch, "/log", format!("{who} {n}\n").as_bytes());
                }
            });
        }
    });
    let lines = lines(&one, "/log");
    assert_eq!(lines.len(), 160);
    for who in 0..4 {
        let of = lines
            .iter()
            .filter(|line| line.starts_with(&format!("{who} ")));
        let expected: Vec<_> = (0..40).map(|n| format!("{who} {n}")).collect();
        assert!(of.eq(&expected), "the lines of each stay in order");
    }
}

#[test]
fn what_is_appended_goes_to_the_end_of_what_is_there_at_the_close() {
    let store = Store::memory().unwrap();
    let branch = store.bucket("default").unwrap().branch("main").unwrap();
    let both = || {
        let options = FileOptions::new().append(true).create(true).read(true);
        [0, 1].map(|_| branch.open_file("/f", &options).unwrap())
    };
    // Neither was there before.
    let [a, b] = both();
    a.write(b"a").unwrap();
    b.write(b"bb").unwrap();
    a.close().unwrap();
    // The other still reads what it has itself.
    let mut buffer = [0; 9];
    assert_eq!(b.read_at(0, &mut buffer).unwrap(), 2);
    assert_eq!(b.close().unwrap().unwrap().size, 3);
    assert_eq!(branch.read("/f").unwrap(), b"abb");
    // Somebody writes a shorter file meanwhile, or a longer one, or none.
    for (now, then) in [("x", "xcd"), ("", "cd"), ("longer", "longercd")] {
        branch.write("/f", "base").unwrap();
        let [a, b] = both();
        a.write(b"c").unwrap();
        a.write(b"d").unwrap();
        b.abort().unwrap();
        branch.write("/f", now).unwrap();
        a.close().unwrap();
        assert_eq!(branch.read("/f").unwrap(), then.as_bytes());
    }
    branch.write("/f", "base").unwrap();
    let [a, b] = both();
    a.write(b"+").unwrap();
    branch.remove("/f").unwrap();
    a.close().unwrap();
    assert_eq!(branch.read("/f").unwrap(), b"base+");
    // One that wrote nothing takes nothing away.
    b.close().unwrap();
    assert_eq!(branch.read("/f").unwrap(), b"base+");
    let [a, b] = both();
    a.write(b"!").unwrap();
    branch.remove("/f").unwrap();
    branch.mkdir("/f").unwrap();
    assert_eq!(a.close().unwrap_err().kind(), ErrorKind::IsADirectory);
    b.abort().unwrap();
}

#[test]
fn a_session_that_also_wrote_elsewhere_replaces_the_file() {
    let store = Store::memory().unwrap();
    let branch = store.bucket("default").unwrap().branch("main").unwrap();
    for (replace, expected) in [(false, "Base+"), (true, "b+")] {
        branch.write("/f", "base").unwrap();
        let session = branch.open_session("/f", &OpenOptions::new()).unwrap();
        match replace {
            false => session.write_at(0, b"B").unwrap(),
            true => session.truncate(1).unwrap(),
        }
        session.append(b"+").unwrap();
        branch.write("/f", "other").unwrap();
        session.close().unwrap();
        assert_eq!(branch.read("/f").unwrap(), expected.as_bytes());
    }
}

#[test]
fn a_copy_that_must_be_new_has_one_winner() {
    let store = Store::memory().unwrap();
    let branch = store.bucket("default").unwrap().branch("main").unwrap();
    branch.write("/f", "text").unwrap();
    assert_eq!(branch.copy_new("/f", "/g").unwrap(), 1);
    let error = branch.copy_new("/f", "/g").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn large_files_grow_at_once_too() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    Store::create(&dir).unwrap();
    let branch = open(&dir);
    let block = |n: u8| vec![n; 700_000];
    branch.write("/f", block(0)).unwrap();
    // Large enough to be staged in files, each a different one.
    thread::scope(|scope| {
        for n in 1..=6 {
            let branch = &branch;
            scope.spawn(move || append(branch, "/f", &block(n)));
        }
    });
    let bytes = branch.read("/f").unwrap();
    assert_eq!(bytes.len(), 7 * 700_000);
    let mut parts = BTreeSet::new();
    for part in bytes.chunks(700_000) {
        assert!(part.iter().all(|&byte| byte == part[0]));
        parts.insert(part[0]);
    }
    assert_eq!(parts.len(), 7);
    branch.view().unwrap().verify("/f").unwrap();
    // Where the file shrank to nothing, the session's file is not what goes there either.
    let options = FileOptions::new().append(true);
    let file = branch.open_file("/f", &options).unwrap();
    file.write(&block(9)).unwrap();
    branch.write("/f", "").unwrap();
    file.close().unwrap();
    assert_eq!(branch.read("/f").unwrap(), block(9));
    branch.view().unwrap().verify("/f").unwrap();
}
