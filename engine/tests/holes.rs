//! Files that are mostly holes.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;

use alknet_fs::{ErrorKind, FsckOptions, OpenOptions, Options, Task};

/// The bytes that the files below a directory take on the disk.
#[cfg(unix)]
fn taken(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let size = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => taken(&entry.path()),
        false => entry.metadata().unwrap().blocks() * 512,
    };
    entries.map(size).sum()
}

#[test]
#[cfg(unix)]
fn a_file_that_grows_by_a_hole_takes_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().create(dir.path().join("store")).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    let long = 1 << 28;
    for content in [&b""[..], b"x", &[7; 40_000], &[7; 300_000]] {
        let before = taken(dir.path());
        main.write("/a", content).unwrap();
        main.truncate("/a", long).unwrap();
        let session = main.open_session("/a", &OpenOptions::new()).unwrap();
        session.write_at(long - 1, b"z").unwrap();
        session.write_at(1000, b"y").unwrap();
        session.close().unwrap();
        let grown = taken(dir.path()) - before;
        assert!(grown < 4 << 20, "{grown} for {}", content.len());
        let view = main.view().unwrap();
        let reader = view.reader("/a").unwrap();
        assert_eq!(reader.size(), long);
        let mut start = vec![0; content.len() + 2000];
        reader.read_at(0, &mut start).unwrap();
        let mut want = content.to_vec();
        want.resize(content.len() + 2000, 0);
        want[1000] = b'y';
        assert_eq!(start, want);
        let mut end = [0; 2];
        assert_eq!(reader.read_at(long - 2, &mut end).unwrap(), 2);
        assert_eq!(end, [0, b'z']);
        main.remove("/a").unwrap();
    }
    let report = store.fsck(&FsckOptions::default(), &Task::new()).unwrap();
    assert_eq!(report.problems, []);
}

/// A store in memory has no holes; what does not fit is refused, and the program goes on.
#[test]
fn a_hole_that_does_not_fit_into_memory_is_an_error() {
    let store = Options::new().memory().unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    main.write("/a", "x").unwrap();
    let error = main.truncate("/a", 1 << 39).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let session = main.open_session("/a", &OpenOptions::new()).unwrap();
    session.truncate(1 << 39).unwrap();
    assert_eq!(session.close().unwrap_err().kind(), ErrorKind::TooLarge);
    drop(session);
    assert_eq!(main.read("/a").unwrap(), b"x");
}
