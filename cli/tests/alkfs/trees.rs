use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::bench::{Bench, pattern};

/// What there is to compare about one entry of the disk.
#[derive(Debug, PartialEq)]
struct Found {
    kind: &'static str,
    mode: u32,
    mtime: SystemTime,
    /// The content, or the text of a link.
    bytes: Vec<u8>,
}

fn scan(root: &Path) -> BTreeMap<String, Found> {
    fn visit(root: &Path, dir: &Path, found: &mut BTreeMap<String, Found>) {
        for item in fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let (kind, bytes) = if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                ("link", target.to_str().unwrap().as_bytes().to_vec())
            } else if meta.is_dir() {
                visit(root, &path, found);
                ("dir", Vec::new())
            } else {
                ("file", fs::read(&path).unwrap())
            };
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let entry = Found {
                kind,
                mode: mode_of(&meta),
                mtime: meta.modified().unwrap(),
                bytes,
            };
            found.insert(name, entry);
        }
    }
    let mut found = BTreeMap::new();
    visit(root, root, &mut found);
    found
}

#[cfg(unix)]
fn mode_of(meta: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&meta.permissions())
}

#[cfg(not(unix))]
fn mode_of(_meta: &fs::Metadata) -> u32 {
    0
}

fn set_time(path: &Path, nanos: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    let file = File::open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

fn make_tree(bench: &Bench) {
    for (i, len) in [0, 1, 4096, 65_537, 1_500_000].into_iter().enumerate() {
        bench.file(&format!("src/dir-{i}/file-{len}"), pattern(len));
    }
    bench.file("src/ünïcode/naïve name.txt", "x");
    bench.file("src/build/out.o", "object");
    fs::create_dir_all(bench.path("src/empty/deep")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::{PermissionsExt, symlink};
        symlink("../dir-1/file-1", bench.path("src/dir-0/link")).unwrap();
        symlink("nowhere/at all", bench.path("src/dangling")).unwrap();
        let mode = |name: &str, mode| {
            fs::set_permissions(bench.path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("src/dir-2/file-4096", 0o4755);
        mode("src/dir-3/file-65537", 0o400);
        mode("src/empty", 0o1750);
    }
    set_time(&bench.path("src/dir-0/file-0"), 1_000_000_000_123_456_789);
    set_time(&bench.path("src/empty/deep"), 1_234_567_890_000_000_001);
    set_time(&bench.path("src"), 1_111_111_111_111_111_111);
}

#[test]
fn import_then_export_gives_the_same_tree() {
    let bench = Bench::new();
    make_tree(&bench);
    let report = bench.one(&["import", "src", "/tree"]);
    let before = scan(&bench.path("src"));
    let number = |kind| before.values().filter(|f| f.kind == kind).count() as u64;
    assert_eq!(report["files"].as_u64(), Some(number("file")));
    assert_eq!(report["dirs"].as_u64(), Some(number("dir")));
    assert_eq!(report["symlinks"].as_u64(), Some(number("link")));
    let exported = bench.one(&["export", "/tree", "out", "--sync"]);
    assert_eq!(exported["bytes"], report["bytes"]);
    let after = scan(&bench.path("out"));
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    for (name, entry) in &before {
        assert!(entry == &after[name], "{name} differs");
    }
    let time = |name: &str| fs::metadata(bench.path(name)).unwrap().modified().unwrap();
    assert_eq!(time("src"), time("out"));

    let error = bench.fails(&["export", "/tree", "out"], "NotEmpty");
    assert!(
        error["hint"].as_str().unwrap().contains("--overwrite"),
        "{error}"
    );
    bench.one(&["export", "/tree", "--overwrite", "out"]);
    assert!(before == scan(&bench.path("out")));
    bench.fails(&["export", "/missing", "out2"], "NotFound");
}

#[test]
fn importing_again_reads_only_what_changed() {
    let bench = Bench::new();
    make_tree(&bench);
    // What was written within the clock's last tick is read again, so the files are made older.
    for name in scan(&bench.path("src")).keys() {
        let path = bench.path("src").join(name);
        if path.is_file() && !path.is_symlink() {
            set_time(&path, 1_600_000_000_000_000_000);
        }
    }
    bench.one(&["import", "src"]);
    fs::remove_file(bench.path("src/build/out.o")).unwrap();
    bench.file("src/dir-1/new", "new");
    let again = bench.one(&["import", "src", "/"]);
    assert!(again["unchanged"].as_u64().unwrap() > 5, "{again}");
    assert_eq!(again["removed"], 0);
    bench.one(&["stat", "/build/out.o"]);
    let exact = bench.one(&["import", "src", "/", "--delete"]);
    assert_eq!(exact["removed"], 1);
    bench.fails(&["stat", "/build/out.o"], "NotFound");
    assert_eq!(bench.cat("/dir-1/new"), b"new");
}

#[test]
fn import_leaves_out_what_it_is_told_to_and_says_what_it_cannot_keep() {
    let bench = Bench::new();
    make_tree(&bench);
    let args = [
        "import",
        "src",
        "/t",
        "--exclude",
        "*.o",
        "--exclude",
        "/empty",
    ];
    bench.one(&args);
    bench.fails(&["stat", "/t/build/out.o"], "NotFound");
    bench.fails(&["stat", "/t/empty"], "NotFound");
    bench.one(&["stat", "/t/build"]);
    bench.fails(&["import", "missing", "/t"], "NotFound");
    bench.fails(&["import", "src", "/t", "--exclude", "a{b"], "InvalidInput");
    // The store is in this directory, and is not imported into itself.
    bench.one(&["import", ".", "/all"]);
    assert_eq!(bench.names("main", "/all"), ["src"]);
    #[cfg(unix)]
    {
        let _socket = std::os::unix::net::UnixListener::bind(bench.path("src/socket")).unwrap();
        let ran = bench.run(&["--json", "import", "src", "/t"]);
        assert_eq!(ran.status, 1);
        let skipped = &ran.records()[0]["skipped"];
        assert!(
            skipped[0]["path"].as_str().unwrap().ends_with("src/socket"),
            "{skipped}"
        );
    }
}
