//! Hostile input: paths, databases, content files, directories to import, and the modes of files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use alknet_fs::{
    Branch, Durability, Error, ErrorKind, FsckOptions, Hash, IntoPath, Kind, OpenOptions, Options,
    Store, Task, TreePath, Walk,
};
use alknet_fs_tests::worker::{Bytes, Rng};
use alknet_fs_tests::workload::{names, scaled, seed};
use proptest::prelude::*;
use tempfile::TempDir;

fn options() -> Options {
    Options::new()
        .author("tester")
        .durability(Durability::Relaxed)
}

fn main_of(store: &Store) -> Branch {
    store.bucket("default").unwrap().main().unwrap()
}

/// A store that was closed cleanly, with contents of every form.
struct Victim {
    dir: TempDir,
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Victim {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = options().create(dir.path().join("store")).unwrap();
        let main = main_of(&store);
        let mut files = BTreeMap::new();
        main.mkdir("/d").unwrap();
        for (i, (path, len)) in [
            ("/small", 100),
            ("/d/inline", 30_000),
            ("/large", 200_000),
            ("/base", 1 << 20),
        ]
        .into_iter()
        .enumerate()
        {
            let seed = i as u64;
            let bytes = Bytes { seed, len }.make();
            main.write(path, bytes.clone()).unwrap();
            files.insert(path, bytes);
        }
        main.copy("/base", "/edited").unwrap();
        let session = main.open_session("/edited", &OpenOptions::new()).unwrap();
        session.write_at(500_000, b"an edit").unwrap();
        session.close().unwrap();
        let mut edited = files["/base"].clone();
        edited[500_000..500_007].copy_from_slice(b"an edit");
        files.insert("/edited", edited);
        main.snapshot("s").unwrap();
        main.fork("agent").unwrap().write("/own", "x").unwrap();
        drop((main, store));
        assert_eq!(
            names(&dir.path().join("store/staging")),
            Vec::<String>::new()
        );
        Self { dir, files }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn database(&self) -> Vec<u8> {
        assert!(
            !self.store().join("store.db-wal").exists(),
            "not closed cleanly"
        );
        fs::read(self.store().join("store.db")).unwrap()
    }

    /// Puts the database into a directory with the same contents.
    fn with_database(&self, database: &[u8]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&self.store(), dir.path());
        fs::write(dir.path().join("store.db"), database).unwrap();
        dir
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_dir(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

/// Every file below a directory with its bytes.
fn contents_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            out.extend(contents_of(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            out.insert(path, bytes);
        }
    }
    out
}

/// Opens what is no store, and checks that nothing was changed.
fn refused(dir: &Path, what: &str) -> Error {
    let before = contents_of(dir);
    let error = options().open(dir).expect_err(what);
    assert!(
        matches!(error.kind(), ErrorKind::NotAStore | ErrorKind::Corrupt),
        "{what}: {:?}: {error}",
        error.kind()
    );
    assert!(
        error.to_string().contains(&dir.display().to_string()),
        "{what}: {error}"
    );
    assert!(contents_of(dir) == before, "{what}: opening it changed it");
    // Making a store there does not destroy it either.
    let error = options().create(dir).expect_err(what);
    let kind = error.kind();
    assert!(
        matches!(kind, ErrorKind::AlreadyExists | ErrorKind::NotEmpty),
        "{what}: {kind:?}: {error}"
    );
    assert!(
        contents_of(dir) == before,
        "{what}: making a store changed it"
    );
    error
}

// ------------------------------------------------------------------ databases

#[test]
fn a_foreign_database_is_refused() {
    let noise = Bytes {
        seed: 1,
        len: 20_000,
    };
    let mut header = b"SQLite format 3\0".to_vec();
    for (what, bytes) in [
        ("text", b"This is no database.\n".to_vec()),
        ("noise", noise.make()),
        ("zeros", vec![0; 8192]),
        ("a header alone", header.clone()),
        ("a header and zeros", {
            header.resize(8192, 0);
            header
        }),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("store.db"), bytes).unwrap();
        refused(dir.path(), what);
    }
}

#[test]
fn the_database_of_another_program_is_refused() {
    let victim = Victim::new();
    let mut database = victim.database();
    // The application id.
    database[68..72].copy_from_slice(b"abcd");
    let dir = victim.with_database(&database);
    let before = contents_of(dir.path());
    let error = options().open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAStore);
    assert!(error.to_string().contains("another program"), "{error}");
    assert!(contents_of(dir.path()) == before);
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let victim = Victim::new();
    let mut database = victim.database();
    // The user version.
    database[60..64].copy_from_slice(&999_u32.to_be_bytes());
    let dir = victim.with_database(&database);
    let before = contents_of(dir.path());
    let error = options().open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAStore);
    let text = error.to_string();
    assert!(text.contains("999") && text.contains("newer"), "{text}");
    assert!(contents_of(dir.path()) == before);
}

#[test]
fn what_is_no_database_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let kind = |path: &Path| options().open(path).unwrap_err().kind();
    assert_eq!(kind(dir.path()), ErrorKind::NotAStore);
    assert_eq!(kind(&dir.path().join("missing")), ErrorKind::NotAStore);
    assert_eq!(names(dir.path()), Vec::<String>::new());
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_eq!(kind(&file), ErrorKind::NotAStore);
    fs::remove_file(&file).unwrap();
    fs::create_dir(dir.path().join("store.db")).unwrap();
    assert_eq!(kind(dir.path()), ErrorKind::NotAStore);
    assert_eq!(names(dir.path()), ["store.db"]);
    fs::remove_dir(dir.path().join("store.db")).unwrap();
    // Zero bytes may be what an interrupted creation left.
    fs::write(dir.path().join("store.db"), "").unwrap();
    assert_eq!(kind(dir.path()), ErrorKind::NotAStore);
    assert_eq!(contents_of(dir.path()).len(), 1);
    options().create(dir.path()).unwrap();
    options().open(dir.path()).unwrap();
}

/// Reads and checks everything there is; returns the errors.
fn read_all(store: &Store) -> Vec<Error> {
    let mut errors = Vec::new();
    match store.fsck(&FsckOptions::new(), &Task::new()) {
        Ok(report) => {
            let found = report.problems.iter();
            let found = found.map(|p| format!("{}: {}", p.subject, p.detail));
            errors.extend(found.map(|p| Error::with_detail(ErrorKind::Corrupt, p)));
        }
        Err(e) => errors.push(e),
    }
    let mut check = || -> alknet_fs::Result<()> {
        for name in store.buckets()? {
            let bucket = store.bucket(&name)?;
            for branch in bucket.branches()? {
                let view = bucket.branch(&branch.name)?.view()?;
                let mut files = Vec::new();
                view.walk("/", |path, entry| {
                    files.extend(entry.hash().map(|hash| (path.clone(), hash)));
                    Ok(Walk::Continue)
                })?;
                for (path, hash) in files {
                    match view.verify(&path) {
                        Ok(()) => assert_eq!(Hash::of(&view.read(&path)?), hash, "{path}"),
                        Err(e) => errors.push(e),
                    }
                }
            }
            bucket.log(&alknet_fs::EventFilter::all(), 1000)?;
        }
        store.sessions()?;
        Ok(())
    };
    if let Err(e) = check() {
        errors.push(e);
    }
    errors
}

#[test]
fn a_truncated_database_is_noticed() {
    let victim = Victim::new();
    let whole = victim.database();
    let mut lens: Vec<usize> = (0..whole.len()).step_by(4096).collect();
    lens.extend([1, 15, 16, 50, 99, 100, 101, 511, 512, 513, 1024, 4095, 4097]);
    lens.extend((1..20).map(|i| whole.len() * i / 20));
    lens.extend([whole.len() - 1, whole.len() - 4095]);
    for len in lens {
        let dir = victim.with_database(&whole[..len]);
        let before = contents_of(dir.path());
        match options().open(dir.path()) {
            Err(e) => {
                let kind = e.kind();
                assert!(
                    matches!(kind, ErrorKind::NotAStore | ErrorKind::Corrupt),
                    "{len}: {kind:?}: {e}"
                );
                assert!(
                    contents_of(dir.path()) == before,
                    "{len}: opening it changed it"
                );
            }
            Ok(store) => {
                let errors = read_all(&store);
                assert!(
                    errors.iter().any(Error::is_corrupt),
                    "{len} of {}: {errors:?}",
                    whole.len()
                );
            }
        }
    }
}

/// Opens a store with a damaged database, and reads all of it. Returns whether the damage was
/// noticed; much of a database may change without being wrong.
fn meets_damage(victim: &Victim, database: &[u8], what: &str) -> bool {
    let dir = victim.with_database(database);
    let before = contents_of(dir.path());
    let (errors, allowed) = match options().open(dir.path()) {
        Err(e) => {
            assert!(
                contents_of(dir.path()) == before,
                "{what}: opening it changed it"
            );
            (vec![e], [ErrorKind::NotAStore, ErrorKind::Corrupt])
        }
        Ok(store) => (read_all(&store), [ErrorKind::Corrupt, ErrorKind::NotFound]),
    };
    for e in &errors {
        assert!(allowed.contains(&e.kind()), "{what}: {:?}: {e}", e.kind());
    }
    !errors.is_empty()
}

#[test]
fn a_damaged_header_is_a_clear_error() {
    let victim = Victim::new();
    let whole = victim.database();
    for at in 0..100 {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            meets_damage(&victim, &damaged, &format!("byte {at} ^ {change:#x}"));
        }
    }
}

#[test]
fn a_damaged_database_never_panics_nor_serves_wrong_bytes() {
    let victim = Victim::new();
    let whole = victim.database();
    let mut rng = Rng::new(seed("hostile"));
    let mut noticed = 0;
    let rounds = scaled(200);
    for round in 0..rounds {
        let mut damaged = whole.clone();
        let at = match round % 2 {
            // The beginnings of pages say how to read the rest, some of which is not in use.
            0 => rng.below(whole.len() as u64 / 4096) * 4096 + rng.below(12),
            _ => rng.below(whole.len() as u64),
        } as usize;
        let len = match round % 4 {
            0 | 1 => 512.min(whole.len() - at),
            _ => 1,
        };
        let seed = rng.number();
        let noise = Bytes { seed, len }.make();
        for (byte, noise) in damaged[at..].iter_mut().zip(noise) {
            *byte ^= noise | 1;
        }
        noticed += u64::from(meets_damage(
            &victim,
            &damaged,
            &format!("{len} bytes at {at}"),
        ));
    }
    assert!(noticed > rounds / 4, "{noticed} of {rounds} were noticed");
}

// ------------------------------------------------------------------ content files

/// Checks that exactly the files whose bytes are not what they were fail their verification, that
/// the error names them, and that `fsck` finds something; returns the damaged ones.
fn damaged_files(dir: &Path, files: &BTreeMap<&'static str, Vec<u8>>) -> Vec<&'static str> {
    let store = options().open(dir).unwrap();
    let view = main_of(&store).view().unwrap();
    let mut damaged = Vec::new();
    for (&path, want) in files {
        let good = match view.read(path) {
            Ok(bytes) => bytes == *want,
            Err(e) => {
                assert!(e.is_corrupt(), "{path}: {e}");
                false
            }
        };
        match view.verify(path) {
            Ok(()) => assert!(good, "{path} was served as good"),
            Err(e) => {
                assert!(
                    e.is_corrupt() && e.to_string().contains(path),
                    "{path}: {e}"
                );
                let mut copied = Vec::new();
                let reader = view.open(path);
                let copy = reader.and_then(|r| r.copy_verified(&mut copied, &Task::new()));
                assert!(copy.unwrap_err().is_corrupt());
                assert!(!good, "{path} is good");
                damaged.push(path);
            }
        }
    }
    let report = store.fsck(&FsckOptions::new(), &Task::new()).unwrap();
    let named = |path: &&str| {
        let hash = view.stat(*path).unwrap().hash().unwrap().to_hex();
        let mut problems = report.problems.iter();
        problems.any(|p| {
            [&p.subject, &p.detail]
                .iter()
                .any(|t| t.contains(*path) || t.contains(&hash))
        })
    };
    let unnamed: Vec<_> = damaged.iter().filter(|path| !named(path)).collect();
    assert!(
        unnamed.is_empty(),
        "fsck misses {unnamed:?}: {:?}",
        report.problems
    );
    damaged
}

#[test]
fn damage_to_a_content_file_is_named_and_harms_no_other() {
    let victim = Victim::new();
    let blobs = victim.store().join("blobs");
    let contents = names(&blobs);
    assert!(contents.len() >= 2, "{contents:?}");
    type Damage = fn(&Path, &[u8]);
    let damage: [(&str, Damage); 6] = [
        ("a flipped bit at the start", |path, bytes| {
            flip(path, bytes, 0)
        }),
        ("a flipped bit inside", |path, bytes| {
            flip(path, bytes, bytes.len() / 2)
        }),
        ("a flipped bit at the end", |path, bytes| {
            flip(path, bytes, bytes.len() - 1)
        }),
        ("cut in the middle", |path, bytes| {
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap()
        }),
        ("empty", |path, _| fs::write(path, "").unwrap()),
        ("missing", |path, _| fs::remove_file(path).unwrap()),
    ];
    for name in contents {
        for (what, damage) in damage {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(&victim.store(), dir.path());
            let path = dir.path().join("blobs").join(&name);
            let bytes = fs::read(&path).unwrap();
            damage(&path, &bytes);
            let damaged = damaged_files(dir.path(), &victim.files);
            let large = name.len() == 64;
            assert!(!large || !damaged.is_empty(), "{what} {name}");
            assert!(!damaged.contains(&"/small") && !damaged.contains(&"/d/inline"));
            assert!(
                !damaged.contains(&"/large") || !damaged.contains(&"/base"),
                "{what} {name}"
            );
        }
    }
    assert_eq!(
        damaged_files(&victim.store(), &victim.files),
        Vec::<&str>::new()
    );
}

fn flip(path: &Path, bytes: &[u8], at: usize) {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_content_can_be_replaced() {
    let victim = Victim::new();
    let large = Hash::of(&victim.files["/large"]).to_hex();
    fs::remove_file(victim.store().join("blobs").join(large)).unwrap();
    let store = options().open(victim.store()).unwrap();
    let main = main_of(&store);
    assert!(main.read("/large").unwrap_err().is_corrupt());
    // Everything but its bytes works.
    main.rename("/large", "/renamed").unwrap();
    main.write("/renamed", "other").unwrap();
    main.write("/new", vec![7; 300_000]).unwrap();
    assert_eq!(main.read("/renamed").unwrap(), b"other");
    main.remove("/renamed").unwrap();
}

// ------------------------------------------------------------------ paths

fn nasty() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just(String::new()),
        Just("a".to_owned()),
        Just("A".to_owned()),
        Just("\u{e9}".to_owned()),
        Just("e\u{301}".to_owned()),
        Just("\0".to_owned()),
        Just("C:\\x".to_owned()),
        Just("..\\..".to_owned()),
        Just("%2e%2e".to_owned()),
        Just("\u{202e}\u{200b}".to_owned()),
        Just("con".to_owned()),
        Just("n".repeat(255)),
        Just("n".repeat(256)),
        Just("\u{1f600}".repeat(64)),
        "\\PC{0,8}",
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: scaled(500) as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever the path, the call succeeds inside the tree or fails clearly.
    #[test]
    fn no_path_leaves_the_tree(paths in proptest::collection::vec(nasty(), 1..8)) {
        let store = options().memory().unwrap();
        let main = main_of(&store);
        let mut made = BTreeMap::new();
        for path in &paths {
            if let Ok(dir) = path.as_str().into_path()
                && let Some(dir) = dir.parent()
            {
                let made = main.mkdir_all(dir);
                if let Err(e) = made {
                    prop_assert_eq!(e.kind(), ErrorKind::NotADirectory, "{}", e);
                }
            }
            match main.write(path.as_str(), path.as_str()) {
                Ok(()) => {
                    made.insert(TreePath::parse(path).unwrap(), path.clone());
                }
                Err(e) => prop_assert!(matches!(
                    e.kind(),
                    ErrorKind::InvalidPath | ErrorKind::NameTooLong | ErrorKind::IsADirectory
                        | ErrorKind::NotADirectory | ErrorKind::NotFound
                ), "{path:?}: {e}"),
            }
        }
        let mut found = BTreeMap::new();
        let view = main.view().unwrap();
        view.walk("/", |path, entry| {
            let components = path.components();
            for name in components {
                assert!(!matches!(name, "" | "." | "..") && !name.contains('\0'));
                assert!(name.len() <= 255);
            }
            if entry.kind() == Kind::File {
                found.insert(path.clone(), entry.hash());
            }
            Ok(Walk::Continue)
        }).unwrap();
        prop_assert_eq!(found.len(), made.len());
        for (path, bytes) in made {
            prop_assert_eq!(found[&path], Some(Hash::of(bytes.as_bytes())));
        }
    }
}

#[test]
fn no_name_reaches_a_file_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().create(dir.path().join("store")).unwrap();
    for name in [
        "../outside",
        "a/../../outside",
        "/etc/outside",
        "..",
        "a\0b",
    ] {
        let refused = store.create_bucket(name).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{name:?}");
        let refused = main_of(&store).fork(name).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{name:?}");
        let refused = main_of(&store).snapshot(name).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{name:?}");
    }
    let main = main_of(&store);
    let large = vec![1; 400_000];
    for path in ["/../outside", "../../outside", "/a/../../../outside"] {
        main.write(path, large.clone()).unwrap();
        let exclusive = OpenOptions::new().exclusive(true).owner("../../outside");
        let session = main.open_session(path, &exclusive).unwrap();
        session.write_at(0, &large).unwrap();
        session.close().unwrap();
    }
    assert_eq!(main.list("/").unwrap().len(), 1);
    assert_eq!(names(dir.path()), ["store"]);
}

// ------------------------------------------------------------------ the host's directories

#[cfg(unix)]
mod host {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use alknet_fs::{ExportOptions, ImportOptions};

    use super::*;

    #[test]
    fn an_import_reports_what_it_cannot_hold_and_takes_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("d")).unwrap();
        fs::write(source.join("good"), "good").unwrap();
        fs::write(source.join("d/a\nb"), "a line feed").unwrap();
        let bad = source.join("d").join(OsStr::from_bytes(b"bad\xff"));
        fs::write(&bad, "x").unwrap();
        let bad_dir = source.join(OsStr::from_bytes(b"\xc3\x28"));
        fs::create_dir(&bad_dir).unwrap();
        fs::write(bad_dir.join("below"), "x").unwrap();
        let bad_link = source.join("link");
        symlink(OsStr::from_bytes(b"\xff"), &bad_link).unwrap();
        symlink("../../outside", source.join("outward")).unwrap();
        fs::write(dir.path().join("outside"), "secret").unwrap();
        let socket = source.join("d/socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let fifo = source.join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());

        let store = options().create(dir.path().join("store")).unwrap();
        let main = main_of(&store);
        let import = |to: &str| {
            let task = Task::new();
            main.import(&source, to, &ImportOptions::new(), &task)
                .unwrap()
        };
        for round in 0..2 {
            let report = import("/in");
            let mut skipped: Vec<_> = report.skipped.iter().map(|s| s.path.clone()).collect();
            skipped.sort();
            let mut want = [&bad, &bad_dir, &bad_link, &socket, &fifo].map(Clone::clone);
            want.sort();
            assert_eq!(skipped, want, "round {round}");
            assert!(report.skipped.iter().all(|s| !s.reason.is_empty()));
            assert_eq!((report.files, report.dirs), (2, 1));
        }
        assert_eq!(main.read("/in/good").unwrap(), b"good");
        assert_eq!(main.read("/in/d/a\nb").unwrap(), b"a line feed");
        assert_eq!(main.read_link("/in/outward").unwrap(), "../../outside");
        assert!(!main.exists("/in/outward").unwrap());
        let names = main.list("/in").unwrap();
        let names: Vec<_> = names.iter().map(|e| &*e.name).collect();
        assert_eq!(names, ["d", "good", "outward"]);
    }

    #[test]
    fn an_export_does_not_follow_links_out_of_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let target = dir.path().join("target");
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        symlink(&outside, target.join("d")).unwrap();
        symlink(outside.join("kept"), target.join("f")).unwrap();
        let store = options().memory().unwrap();
        let main = main_of(&store);
        main.mkdir("/d").unwrap();
        main.write("/d/new", "new").unwrap();
        main.write("/d/kept", "overwritten").unwrap();
        main.write("/f", "overwritten").unwrap();
        let overwrite = ExportOptions::new().overwrite(true);
        let view = main.view().unwrap();
        // It may replace the links or refuse; what they point to stays as it is.
        let result = view.export("/", &target, &overwrite, &Task::new());
        assert_eq!(names(&outside), ["kept"], "{result:?}");
        assert_eq!(
            fs::read(outside.join("kept")).unwrap(),
            b"kept",
            "{result:?}"
        );
        if result.is_ok() {
            assert_eq!(fs::read(target.join("d/new")).unwrap(), b"new");
            assert_eq!(fs::read(target.join("f")).unwrap(), b"overwritten");
        }
    }

    const CHILD: &str = "ALKFS_TEST_PRIVATE_STORE";

    /// What the child of the test below does; without its variable, nothing.
    #[test]
    fn child() {
        let Some(path) = std::env::var_os(CHILD) else {
            return;
        };
        let store = Options::new().create(&path).unwrap();
        let main = main_of(&store);
        main.write("/small", "x").unwrap();
        main.write("/large", vec![3; 2 << 20]).unwrap();
        let edit = main.open_session("/large", &OpenOptions::new()).unwrap();
        edit.write_at(9, b"edit").unwrap();
        edit.close().unwrap();
        let exclusive = OpenOptions::new().exclusive(true);
        let session = main.open_session("/staged", &exclusive).unwrap();
        session.write_at(0, &vec![4; 400_000]).unwrap();
        let _view = main.view().unwrap();
        check_private(Path::new(&path));
        session.detach().unwrap();
    }

    fn check_private(dir: &Path) {
        let mut seen = Vec::new();
        let mut todo = vec![dir.to_owned()];
        while let Some(path) = todo.pop() {
            let meta = path.symlink_metadata().unwrap();
            let mode = meta.mode() & 0o7777;
            if meta.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                todo.extend(fs::read_dir(&path).unwrap().map(|i| i.unwrap().path()));
            } else {
                assert_eq!(mode, 0o600, "{}", path.display());
            }
            seen.push(path);
        }
        // All that a store consists of was there to be looked at.
        for part in ["store.db", "store.db-wal", "blobs", "staging", "locks"] {
            assert!(seen.iter().any(|p| p.ends_with(part)), "{part}: {seen:?}");
        }
        let below = |part: &str| seen.iter().any(|p| p.parent() == Some(&*dir.join(part)));
        assert!(
            below("blobs") && below("staging") && below("locks"),
            "{seen:?}"
        );
    }

    #[test]
    fn the_files_of_a_store_are_private_whatever_the_umask() {
        for umask in ["000", "022", "077", "777"] {
            let dir = tempfile::tempdir().unwrap();
            let output = Command::new("sh")
                .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "host::child", "--nocapture"])
                .env(CHILD, dir.path().join("store"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "umask {umask}: {errors}");
            assert!(text.contains("1 passed"), "umask {umask}: {text}");
        }
    }
}
