//! Copying between sessions, readers and streams, and what trees share.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read};

use alknet_fs::{
    Branch, Cancel, ContentForm, Error, ErrorKind, ImportOptions, OpenOptions, SetAttrs, Store,
    Task, TreeRef,
};

fn on_disk() -> (tempfile::TempDir, Store, Branch) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("store")).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    (dir, store, main)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn a_session_takes_a_stream_and_a_reader_gives_it_back() {
    let (_dir, _store, main) = on_disk();
    let bytes = pattern(2_500_000);
    let session = main.open_session("/f", &OpenOptions::new()).unwrap();
    // A stream that gives one small piece at a time.
    let mut pieces = &mut bytes
        .chunks(7_000)
        .map(io::Cursor::new)
        .fold(Box::new(io::empty()) as Box<dyn Read>, |all, piece| {
            Box::new(all.chain(piece))
        });
    let copied = session.append_from(&mut pieces, &Task::new()).unwrap();
    assert_eq!(copied, bytes.len() as u64);
    session.close().unwrap();
    let reader = main.open("/f").unwrap();
    let mut out = Vec::new();
    assert_eq!(
        reader.copy_verified(&mut out, &Task::new()).unwrap(),
        copied
    );
    assert!(out == bytes);
    out.clear();
    let range = 1_000_000..u64::MAX;
    assert_eq!(
        reader.copy_range(range, &mut out, &Task::new()).unwrap(),
        1_500_000
    );
    assert!(out == bytes[1_000_000..]);
    let beyond = reader.copy_range(9_000_000..9_000_001, &mut out, &Task::new());
    assert_eq!(beyond.unwrap(), 0);
}

#[test]
fn cancelling_and_failing_streams_keep_their_error() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(Error::new(ErrorKind::Cancelled).into())
        }
    }
    let (_dir, _store, main) = on_disk();
    main.write("/f", pattern(100_000)).unwrap();
    let session = main.open_session("/g", &OpenOptions::new()).unwrap();
    let failed = session.append_from(&mut Broken, &Task::new()).unwrap_err();
    assert!(failed.is_cancelled());
    let cancel = Cancel::new();
    cancel.cancel();
    let task = Task::new().cancel_with(&cancel);
    let reader = main.open("/f").unwrap();
    assert!(
        reader
            .copy_verified(&mut io::sink(), &task)
            .unwrap_err()
            .is_cancelled()
    );
}

#[test]
fn damaged_bytes_are_found_while_they_are_copied() {
    let (dir, _store, main) = on_disk();
    let bytes = pattern(1_000_000);
    main.write("/f", bytes.clone()).unwrap();
    let reader = main.open("/f").unwrap();
    assert_eq!(reader.form(), ContentForm::File);
    let path = find(&dir.path().join("store/blobs"), &reader.hash().to_hex());
    let mut damaged = bytes;
    damaged[777_777] ^= 1;
    overwrite(&path.unwrap(), &damaged);
    let reader = main.open("/f").unwrap();
    let error = reader
        .copy_verified(&mut io::sink(), &Task::new())
        .unwrap_err();
    assert!(error.is_corrupt(), "{error}");
}

fn find(dir: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.file_name().is_some_and(|found| found == name) {
            return Some(path);
        }
        if path.is_dir()
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}

fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    let mut permissions = std::fs::metadata(path).unwrap().permissions();
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    #[cfg(not(unix))]
    permissions.set_readonly(false);
    std::fs::set_permissions(path, permissions).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn closing_sets_attributes_in_the_same_commit() {
    let (_dir, store, main) = on_disk();
    main.write("/f", "old").unwrap();
    let before = store.bucket("default").unwrap();
    let events = |bucket: &alknet_fs::Bucket| {
        bucket
            .log(&alknet_fs::EventFilter::all(), 100)
            .unwrap()
            .len()
    };
    let count = events(&before);
    let mode = |mode| SetAttrs {
        mode: Some(mode),
        ..SetAttrs::default()
    };
    let options = OpenOptions::new();
    let session = main.open_session("/f", &options).unwrap();
    session.append(b"er").unwrap();
    session.close_with(&mode(0o600)).unwrap();
    assert_eq!(main.read("/f").unwrap(), b"older");
    assert_eq!(main.stat("/f").unwrap().attrs.mode, 0o600);
    assert_eq!(events(&before), count + 1);
    // Attributes alone are a reason to commit, too.
    let session = main.open_session("/f", &options).unwrap();
    session.close_with(&mode(0o640)).unwrap();
    assert_eq!(main.stat("/f").unwrap().attrs.mode, 0o640);
    let session = main.open_session("/f", &options).unwrap();
    let refused = session.close_with(&mode(0o10_000)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_small_edit_of_a_large_file_shares_the_rest() {
    let (_dir, store, main) = on_disk();
    let large = pattern(4_000_000);
    main.write("/large", large).unwrap();
    main.write("/same", "the same").unwrap();
    let agent = main.fork("agent").unwrap();
    let session = agent.open_session("/large", &OpenOptions::new()).unwrap();
    session.write_at(2_000_000, b"edit").unwrap();
    session.close().unwrap();
    assert_eq!(agent.open("/large").unwrap().form(), ContentForm::Delta);
    agent.write("/own", "only here").unwrap();
    let trees: Vec<TreeRef> = ["main", "agent"]
        .iter()
        .map(|t| t.parse().unwrap())
        .collect();
    let bucket = store.bucket("default").unwrap();
    let sharing = bucket.sharing(&trees, &Task::new()).unwrap();
    let [m, a] = &sharing.trees[..] else {
        panic!("two trees were asked for");
    };
    assert_eq!((m.files, m.bytes, m.shared_files), (2, 4_000_008, 1));
    assert_eq!((m.stored, m.shared), (4_000_008, 4_000_008));
    assert_eq!((a.files, a.bytes, a.shared_files), (3, 4_000_017, 1));
    assert_eq!(a.shared, 4_000_008);
    assert!(a.stored - a.shared < 64 * 1024, "{a:?}");
    assert_eq!(sharing.stored, a.stored);
    assert_eq!(sharing.apart, m.bytes + a.bytes);
    assert!(
        bucket
            .sharing(&["missing".parse().unwrap()], &Task::new())
            .is_err()
    );
}

#[test]
fn an_import_leaves_the_store_itself_out() {
    let (dir, store, main) = on_disk();
    std::fs::write(dir.path().join("a"), "a").unwrap();
    let import =
        |source: &std::path::Path| main.import(source, "/", &ImportOptions::new(), &Task::new());
    let report = import(dir.path()).unwrap();
    assert_eq!((report.files, report.dirs), (1, 0));
    assert!(main.exists("/a").unwrap() && !main.exists("/store").unwrap());
    let refused = import(store.path().unwrap()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
}

#[test]
fn the_log_goes_on_before_a_position() {
    let (_dir, store, main) = on_disk();
    for n in 0..5 {
        let mut batch = main.batch();
        batch.write(format!("/{n}-a"), "").unwrap();
        batch.write(format!("/{n}-b"), "").unwrap();
        batch.commit().unwrap();
    }
    let bucket = store.bucket("default").unwrap();
    let filter = alknet_fs::EventFilter::all();
    let whole = bucket.log(&filter, 100).unwrap();
    assert!(whole.len() >= 10);
    let mut pages = Vec::new();
    let mut before = alknet_fs::Cursor(u64::MAX);
    loop {
        let page = bucket.log_before(before, &filter, 3).unwrap();
        let Some(last) = page.last() else {
            break;
        };
        before = last.cursor;
        pages.extend(page);
    }
    assert_eq!(pages, whole);
}
