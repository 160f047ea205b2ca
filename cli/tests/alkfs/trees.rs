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
    owner: (u32, u32),
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
                owner: owner_of(&meta),
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

#[cfg(unix)]
fn owner_of(meta: &fs::Metadata) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    (meta.uid(), meta.gid())
}

#[cfg(not(unix))]
fn owner_of(_meta: &fs::Metadata) -> (u32, u32) {
    (0, 0)
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

/// A tree like those that people have, but for its odder corners.
#[cfg(target_os = "linux")]
mod large {
    use std::ffi::CString;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::process::Command;

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::*;

    const DIRS: usize = 250;
    const FILES: usize = 3000;
    const LINKS: usize = 300;

    /// Pseudo-random numbers, the same every time.
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) as usize % n
        }

        fn pick<T: Copy>(&mut self, from: &[T]) -> T {
            from[self.below(from.len())]
        }
    }

    fn set_times(path: &Path, rng: &mut Rng) {
        // From 1938 to 2106, to the nanosecond; a second before 1970 counts down, its part up.
        let time = Timespec {
            tv_sec: rng.below(5_300_000_000) as i64 - 1_000_000_000,
            tv_nsec: rng.pick(&[0, 1, 999_999_999, 123_456_789]),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        let name = CString::new(path.to_str().unwrap()).unwrap();
        utimensat(CWD, &*name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn set_owner(path: &Path, rng: &mut Rng) {
        if rustix::process::geteuid().is_root() {
            let id = |rng: &mut Rng| rng.pick(&[0, 0, 1, 1000, 65_534, 4_000_000_000]);
            let (uid, gid) = (id(rng), id(rng));
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    fn odd_name(n: usize, rng: &mut Rng) -> String {
        let odd = [
            "plain",
            ".hidden",
            "with space",
            "-dash",
            "new\nline",
            "ünï",
            "e\u{301}",
            "日本",
            "*?[a]",
            "a\\b",
            "\"quote\"",
            "CASE",
            "case",
            "tab\there",
            "end.",
            "%41",
            "😀",
        ];
        match rng.below(40) {
            0 => format!("{}{n}", "n".repeat(240)),
            _ => format!("{}{n}", rng.pick(&odd)),
        }
    }

    fn make(root: &Path) {
        let mut rng = Rng(7);
        let mut dirs = vec![root.to_owned()];
        fs::create_dir(root).unwrap();
        for n in 0..DIRS {
            // A few go deep, and the last ones stay empty.
            let above = match rng.below(3) {
                0 => dirs.last().unwrap().clone(),
                _ => dirs[rng.below(dirs.len())].clone(),
            };
            let dir = above.join(odd_name(n, &mut rng));
            if dir.as_os_str().len() < 3000 {
                fs::create_dir(&dir).unwrap();
                dirs.push(dir);
            }
        }
        let used = dirs.len() - 40;
        let mut paths: Vec<PathBuf> = Vec::new();
        for n in 0..FILES {
            let path = dirs[rng.below(used)].join(odd_name(DIRS + n, &mut rng));
            let len = match n {
                0 => 5_000_001,
                1 => 1 << 20,
                2 => 65_536,
                3 => 65_537,
                _ => match rng.below(10) {
                    0 => 0,
                    1 => rng.below(100_000),
                    _ => rng.below(3000),
                },
            };
            let mut bytes = pattern(len);
            // Some contents come more than once; most do not.
            if rng.below(4) > 0 {
                bytes.extend_from_slice(&n.to_le_bytes());
            }
            fs::write(&path, bytes).unwrap();
            set_owner(&path, &mut rng);
            let mut modes = vec![0o644, 0o600, 0o444, 0o755, 0o4755, 0o2711, 0o1666, 0o400];
            if rustix::process::geteuid().is_root() {
                modes.extend([0, 0o7777, 0o111]);
            }
            fs::set_permissions(&path, Permissions::from_mode(rng.pick(&modes))).unwrap();
            set_times(&path, &mut rng);
            paths.push(path);
        }
        for n in 0..LINKS {
            let path = dirs[rng.below(used)].join(odd_name(DIRS + FILES + n, &mut rng));
            let target = match rng.below(6) {
                0 => "no/where".to_owned(),
                1 => "/absolute/and missing".to_owned(),
                2 => path.file_name().unwrap().to_str().unwrap().to_owned(),
                3 => "..//.././x/".to_owned(),
                4 => "x".repeat(4095),
                _ => paths[rng.below(paths.len())].to_str().unwrap().to_owned(),
            };
            symlink(target, &path).unwrap();
            set_owner(&path, &mut rng);
            set_times(&path, &mut rng);
        }
        for dir in dirs.iter().rev() {
            set_owner(dir, &mut rng);
            let mode = rng.pick(&[0o755, 0o700, 0o555, 0o500, 0o2775, 0o1777]);
            fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
            set_times(dir, &mut rng);
        }
    }

    /// Lets the directory of the test be removed by who is not root.
    fn open_up(dir: &Path) {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
        for item in fs::read_dir(dir).unwrap() {
            let item = item.unwrap();
            if item.file_type().unwrap().is_dir() {
                open_up(&item.path());
            }
        }
    }

    #[track_caller]
    fn assert_same(bench: &Bench, a: &str, b: &str) {
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference", a, b]);
        let ran = diff.current_dir(bench.dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{said} {ran:?}");
        let (a, b) = (bench.path(a), bench.path(b));
        let (before, after) = (scan(&a), scan(&b));
        assert!(before.keys().eq(after.keys()));
        for (name, entry) in &before {
            assert!(
                *entry == after[name],
                "{name}: {:?} {:?}, {:?} {:?}",
                (entry.mode, entry.owner, entry.mtime),
                entry.bytes.len(),
                (after[name].mode, after[name].owner, after[name].mtime),
                after[name].bytes.len(),
            );
        }
        let top = |dir: &Path| {
            let meta = fs::metadata(dir).unwrap();
            (mode_of(&meta), owner_of(&meta), meta.modified().unwrap())
        };
        assert_eq!(top(&a), top(&b));
    }

    #[test]
    fn a_large_tree_with_odd_corners_comes_back_as_it_was() {
        let bench = Bench::new();
        make(&bench.path("src"));
        let report = bench.one(&["import", "src", "/deep/tree"]);
        assert_eq!(report["files"], FILES);
        assert_eq!(report["symlinks"], LINKS);
        assert_eq!(report["skipped"].as_array().unwrap().len(), 0);
        bench.one(&["export", "/deep/tree", "out"]);
        assert_same(&bench, "src", "out");
        // From a fork, into a directory that is there.
        bench.json(&["branch", "create", "agent"]);
        fs::create_dir(bench.path("second")).unwrap();
        bench.one(&["--branch", "agent", "export", "/deep/tree", "second"]);
        assert_same(&bench, "src", "second");
        // Over what is there, in directories that pass their group on to what is made in them.
        bench.one(&["export", "/deep/tree", "out", "--overwrite"]);
        assert_same(&bench, "src", "out");
        let stats = bench.one(&["stats"]);
        assert!(
            stats["contents"].as_u64().unwrap() < FILES as u64,
            "{stats}"
        );
        assert_eq!(bench.one(&["fsck"])["ok"], true);
        for dir in ["src", "out", "second"] {
            open_up(&bench.path(dir));
        }
    }
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
    let first = bench.one(&["import", "src"]);
    assert_eq!(first["unchanged_files"], 0);
    let same = bench.one(&["import", "src"]);
    assert_eq!(same["unchanged_files"], same["files"]);
    let said = bench.run(&["import", "src"]);
    assert!(
        said.text().contains(": 0 new or changed, 7 unchanged"),
        "{said:?}"
    );
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
    // The store is in this directory, and is not imported into itself; it says so, and that is no
    // failure.
    let report = bench.one(&["import", ".", "/all"]);
    assert_eq!(bench.names("main", "/all"), ["src"]);
    let left = report["skipped"].as_array().unwrap();
    assert_eq!(left.len(), 1, "{report}");
    assert!(left[0]["path"].as_str().unwrap().ends_with("/.alkfs"));
    assert_eq!(left[0]["reason"], "it is the store itself");
    let again = bench.run(&["import", "."]);
    assert!(
        again.stderr.contains("left out") && again.status == 0,
        "{again:?}"
    );
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

#[cfg(target_os = "linux")]
#[test]
fn what_may_not_be_read_is_not_counted_as_imported() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const NOBODY: u32 = 65_534;
    let bench = Bench::new();
    bench.file("src/open", "12345");
    for n in 0..4 {
        let file = bench.file(&format!("src/closed-{n}"), "secret");
        fs::set_permissions(file, fs::Permissions::from_mode(0o0)).unwrap();
    }
    let mut command = bench.command(&["--json", "import", "src", "/t"]);
    if rustix::process::geteuid().is_root() {
        // Root may read everything, and nobody may not even run what is somewhere below its home.
        let program = bench.path("program");
        fs::copy(command.get_program(), &program).unwrap();
        let mut give = Command::new("chown");
        give.args([
            "-R",
            &NOBODY.to_string(),
            bench.dir.path().to_str().unwrap(),
        ]);
        assert!(give.status().unwrap().success());
        command = Command::new(program);
        command.args(["--json", "import", "src", "/t"]);
        command.current_dir(bench.dir.path()).uid(NOBODY);
    }
    let ran = command.output().unwrap();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&report["files"], &report["bytes"]), (&1.into(), &5.into()));
    assert_eq!(report["skipped"].as_array().unwrap().len(), 4);
}

#[cfg(unix)]
#[test]
fn an_interrupted_import_says_what_is_there_and_goes_on() {
    let bench = Bench::new();
    for n in 0..6000 {
        bench.file(&format!("src/{}/{n}", n / 500), n.to_string());
    }
    let child = bench.spawn(&["--json", "import", "src"]);
    // The first commits are in, and the rest is not.
    crate::bench::eventually("the import begins", || {
        bench.json(&["stats"])[0]["contents"].as_u64() > Some(0)
    });
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.unwrap().success());
    let ran = crate::bench::Ran::of(child);
    if ran.status == 0 {
        return;
    }
    assert_eq!(ran.status, 130, "{ran:?}");
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    let hint = error["hint"].as_str().unwrap();
    assert!(
        hint.contains("there already") && hint.contains("again"),
        "{error}"
    );
    let done = bench.json(&["ls", "-R", "/"]).len();
    let digits: String = hint
        .chars()
        .take_while(|c| *c != ' ')
        .filter(|c| *c != ',')
        .collect();
    assert_eq!(digits.parse::<usize>().unwrap(), done, "{error}");
    assert_eq!(bench.one(&["import", "src"])["files"], 6000);
    assert_eq!(bench.json(&["ls", "-R", "/"]).len(), 6012);
}
