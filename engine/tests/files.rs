//! Open files: position, flags, and what shows when.
#![allow(clippy::unwrap_used)]

use alknet_fs::{Branch, ErrorKind, File, FileOptions, SetAttrs, Store, Timestamp};

fn main_branch() -> (Store, Branch) {
    let store = Store::memory().unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    (store, main)
}

fn options() -> FileOptions {
    FileOptions::new()
}

fn read_all(file: &File) -> Vec<u8> {
    let mut out = vec![0; file.size() as usize + 1];
    let n = file.read_at(0, &mut out).unwrap();
    out.truncate(n);
    out
}

#[test]
fn a_file_is_read_from_its_position() {
    let (_store, main) = main_branch();
    main.write("/f", "0123456789").unwrap();
    let file = main.open_file("/f", &options().read(true)).unwrap();
    let mut four = [0; 4];
    assert_eq!((file.read(&mut four).unwrap(), &four), (4, b"0123"));
    assert_eq!(
        (file.read_at(8, &mut four).unwrap(), &four[..2]),
        (2, &b"89"[..])
    );
    assert_eq!(file.position(), 4);
    file.set_position(9);
    assert_eq!((file.read(&mut four).unwrap(), file.position()), (1, 10));
    assert_eq!(file.read(&mut four).unwrap(), 0);
    // The version is that of the opening.
    main.write("/f", "new").unwrap();
    assert_eq!(read_all(&file), b"0123456789");
    let error = file.write(b"x").unwrap_err();
    assert_eq!(
        (error.kind(), error.kind().code()),
        (ErrorKind::BadHandle, "EBADF")
    );
    assert_eq!(file.set_size(0).unwrap_err().kind(), ErrorKind::BadHandle);
    assert_eq!(file.close().unwrap(), None);
    assert_eq!(
        file.read(&mut four).unwrap_err().kind(),
        ErrorKind::BadHandle
    );
    assert_eq!(main.read("/f").unwrap(), b"new");
}

#[test]
fn what_is_written_shows_after_the_close() {
    let (_store, main) = main_branch();
    main.write("/f", "0123456789").unwrap();
    let file = main
        .open_file("/f", &options().read(true).write(true))
        .unwrap();
    file.write(b"ab").unwrap();
    file.write_at(8, b"yz!").unwrap();
    assert_eq!((file.position(), file.size()), (2, 11));
    assert_eq!(read_all(&file), b"ab234567yz!");
    assert_eq!(main.read("/f").unwrap(), b"0123456789");
    let set = SetAttrs {
        mode: Some(0o600),
        mtime: Some(Timestamp(7)),
        ..SetAttrs::default()
    };
    file.set_attrs(&set).unwrap();
    let bad = SetAttrs {
        mode: Some(0o10000),
        ..SetAttrs::default()
    };
    assert_eq!(
        file.set_attrs(&bad).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let stat = file.stat();
    assert_eq!(
        (stat.size(), stat.attrs.mode, stat.attrs.mtime),
        (11, 0o600, Timestamp(7))
    );
    assert_eq!(main.stat("/f").unwrap().attrs.mode, 0o644);
    assert_eq!(file.close().unwrap().unwrap().size, 11);
    assert_eq!(file.close().unwrap(), None, "closing again does nothing");
    let stat = main.stat("/f").unwrap();
    assert_eq!((stat.attrs.mode, stat.attrs.mtime), (0o600, Timestamp(7)));
    assert_eq!(main.read("/f").unwrap(), b"ab234567yz!");
}

#[test]
fn every_write_of_an_appending_file_goes_to_its_end() {
    let (_store, main) = main_branch();
    let open = || {
        let append = options().append(true).create(true).read(true);
        main.open_file("/log", &append).unwrap()
    };
    let file = open();
    file.write(b"one ").unwrap();
    file.set_position(0);
    file.write(b"two ").unwrap();
    file.write_at(0, b"three").unwrap();
    assert_eq!(
        (file.position(), &*read_all(&file)),
        (8, &b"one two three"[..])
    );
    file.close().unwrap();
    let file = open();
    file.write(b"!").unwrap();
    file.close().unwrap();
    assert_eq!(main.read("/log").unwrap(), b"one two three!");
}

#[test]
fn flags_say_what_must_be_there() {
    let (_store, main) = main_branch();
    main.mkdir("/d").unwrap();
    main.write("/f", "old").unwrap();
    let fails = |path: &str, options: FileOptions| {
        main.open_file(path, &options).map(drop).unwrap_err().kind()
    };
    assert_eq!(fails("/f", options()), ErrorKind::InvalidInput);
    assert_eq!(fails("/no", options().read(true)), ErrorKind::NotFound);
    assert_eq!(fails("/no", options().write(true)), ErrorKind::NotFound);
    assert_eq!(fails("/d", options().read(true)), ErrorKind::IsADirectory);
    assert_eq!(fails("/d", options().write(true)), ErrorKind::IsADirectory);
    let new = options().write(true).create_new(true).mode(0o755);
    assert_eq!(fails("/f", new.clone()), ErrorKind::AlreadyExists);
    let file = main.open_file("/new", &new).unwrap();
    assert_eq!((file.size(), file.stat().attrs.mode), (0, 0o755));
    assert_eq!(
        file.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::BadHandle
    );
    file.close().unwrap();
    assert_eq!(main.stat("/new").unwrap().attrs.mode, 0o755);
    let truncate = options().write(true).create(true).truncate(true);
    main.open_file("/f", &truncate).unwrap().close().unwrap();
    assert_eq!(main.read("/f").unwrap(), b"");
}

#[test]
fn a_file_that_is_dropped_or_aborted_changes_nothing() {
    let (store, main) = main_branch();
    main.write("/f", "old").unwrap();
    main.symlink("f", "/link").unwrap();
    let writing = options().write(true).truncate(true);
    let file = main.open_file("/link", &writing).unwrap();
    assert_eq!(file.path().as_str(), "/f");
    file.write(b"new").unwrap();
    drop(file);
    let file = main.open_file("/f", &writing).unwrap();
    file.write(b"new").unwrap();
    file.abort().unwrap();
    file.abort().unwrap();
    assert_eq!(file.write(b"x").unwrap_err().kind(), ErrorKind::BadHandle);
    assert_eq!(main.read("/f").unwrap(), b"old");
    assert_eq!(store.sessions().unwrap(), []);
}

#[test]
fn a_file_of_a_view_is_read_only() {
    let (_store, main) = main_branch();
    main.write("/f", "old").unwrap();
    main.snapshot("s").unwrap();
    main.write("/f", "new").unwrap();
    let file = main.view_at("s").unwrap().open_file("/f").unwrap();
    assert_eq!(read_all(&file), b"old");
    assert!(file.readable() && !file.writable());
    let set = SetAttrs::default();
    assert_eq!(
        file.set_attrs(&set).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
}

#[test]
fn attributes_set_on_an_unwritten_file_leave_what_others_wrote_meanwhile() {
    let (_store, main) = main_branch();
    main.write("/f", "old").unwrap();
    let file = main.open_file("/f", &options().write(true)).unwrap();
    main.write("/f", "newer").unwrap();
    let mtime = main.stat("/f").unwrap().attrs.mtime;
    let set = SetAttrs {
        mode: Some(0o600),
        ..SetAttrs::default()
    };
    file.set_attrs(&set).unwrap();
    file.close().unwrap();
    let stat = main.stat("/f").unwrap();
    assert_eq!((stat.attrs.mode, stat.attrs.mtime), (0o600, mtime));
    assert_eq!(main.read("/f").unwrap(), b"newer");
}

#[test]
fn threads_share_one_position() {
    let (_store, main) = main_branch();
    let create = options().read(true).write(true).create(true);
    let file = main.open_file("/f", &create).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let file = &file;
            scope.spawn(move || (0..50).for_each(|_| file.write(&[thread; 7]).unwrap()));
        }
    });
    assert_eq!((file.position(), file.size()), (1400, 1400));
    let bytes = read_all(&file);
    file.close().unwrap();
    assert_eq!((file.size(), file.stat().size()), (1400, 1400));
    for thread in 0..4 {
        assert_eq!(bytes.iter().filter(|b| **b == thread).count(), 350);
    }
}

#[test]
fn making_directories_tells_the_first_that_was_missing() {
    let (_store, main) = main_branch();
    main.mkdir("/a").unwrap();
    main.symlink("a", "/l").unwrap();
    let set = SetAttrs {
        mode: Some(0o700),
        ..SetAttrs::default()
    };
    let first = main.mkdir_all_with("/l/b/c", &set).unwrap().unwrap();
    assert_eq!(first.as_str(), "/l/b");
    assert_eq!(main.canonicalize(&first).unwrap().as_str(), "/a/b");
    assert_eq!(main.stat("/a/b").unwrap().attrs.mode, 0o700);
    assert_eq!(main.stat("/a/b/c").unwrap().attrs.mode, 0o700);
    assert_eq!(main.mkdir_all_with("/a/b/c", &set).unwrap(), None);
}
