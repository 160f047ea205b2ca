use std::fs;
use std::io::Read;

use crate::bench::{Bench, Ran, damage_the_content, pattern};

#[test]
fn put_and_get_round_trip_every_way() {
    let bench = Bench::new();
    for len in [0, 5, 100_000, 3_000_000] {
        let bytes = pattern(len);
        let file = bench.file("in", &bytes);
        let put = bench.one(&["put", &file, "/from-file"]);
        assert_eq!(
            (put["path"].as_str(), put["size"].as_u64()),
            (Some("/from-file"), Some(len as u64))
        );
        bench.put("/from-pipe", &bytes);
        assert_eq!(bench.one(&["stat", "/from-pipe"])["hash"], put["hash"]);
        for args in [
            &["get", "/from-pipe", "out"][..],
            &["get", "--verify", "/from-file", "out"],
        ] {
            let got = bench.one(args);
            assert_eq!(got["hash"], put["hash"]);
            assert!(fs::read(bench.path("out")).unwrap() == bytes, "{args:?}");
        }
        for args in [
            &["cat", "/from-file"][..],
            &["get", "/from-file", "-"],
            &["cat", "--verify", "/from-file"],
        ] {
            assert!(bench.run(args).stdout == bytes, "{args:?}");
        }
    }
}

#[test]
fn put_takes_names_modes_and_conditions() {
    let bench = Bench::new();
    let file = bench.file("notes.txt", "notes");
    bench.one(&["mkdir", "/docs"]);
    assert_eq!(
        bench.one(&["put", &file, "/docs"])["path"],
        "/docs/notes.txt"
    );
    assert_eq!(bench.one(&["put", &file, "/"])["path"], "/notes.txt");
    bench.one(&["put", "-p", "--mode", "750", &file, "/new/dir/run"]);
    assert_eq!(bench.one(&["stat", "/new/dir/run"])["mode"], "0750");
    // A file that exists keeps its mode, unless another is asked for.
    bench.one(&["put", &file, "/new/dir/run"]);
    assert_eq!(bench.one(&["stat", "/new/dir/run"])["mode"], "0750");
    bench.one(&["put", "-m", "600", &file, "/new/dir/run"]);
    assert_eq!(bench.one(&["stat", "/new/dir/run"])["mode"], "0600");
    let error = bench.fails(&["put", "-n", &file, "/notes.txt"], "AlreadyExists");
    assert_eq!(
        (error["code"].as_str(), error["errno"].as_i64()),
        (Some("EEXIST"), Some(17))
    );
    assert_eq!(error["path"], "/notes.txt");
    bench.fails(&["put", &file, "/missing/dir/x"], "NotFound");
    bench.fails(&["put", "missing-file", "/x"], "NotFound");
    let error = bench.fails(
        &["put", bench.dir.path().to_str().unwrap(), "/x"],
        "IsADirectory",
    );
    assert!(
        error["hint"].as_str().unwrap().contains("alkfs import"),
        "{error}"
    );
    bench.fails(
        &["put", &file, &format!("/{}", "x".repeat(256))],
        "NameTooLong",
    );
}

#[test]
fn get_names_its_file_and_keeps_attributes() {
    let bench = Bench::new();
    bench.json_with(&["put", "-m", "640", "-", "/a.txt"], b"a");
    assert_eq!(bench.one(&["get", "/a.txt"])["file"], "a.txt");
    assert_eq!(fs::read(bench.path("a.txt")).unwrap(), b"a");
    fs::create_dir(bench.path("dir")).unwrap();
    bench.one(&["get", "/a.txt", "dir"]);
    let written = fs::metadata(bench.path("dir/a.txt")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let stat = bench.one(&["stat", "/a.txt"]);
        assert_eq!(written.mode() & 0o7777, 0o640);
        let mtime = stat["mtime"].as_str().unwrap();
        let nanos = format!(".{:09}Z", written.mtime_nsec());
        assert!(mtime.ends_with(&nanos), "{mtime} {nanos}");
        let time: jiff::Timestamp = mtime.parse().unwrap();
        assert_eq!(time.as_second(), written.mtime());
        // What is no regular file is written to, not replaced.
        bench.one(&["get", "/a.txt", "/dev/null"]);
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
    assert_eq!(written.len(), 1);
    bench.fails(&["get", "/missing"], "NotFound");
    bench.fails(&["get", "/"], "IsADirectory");
    bench.fails(&["get", "/a.txt", "no/such/dir/file"], "NotFound");
}

#[test]
fn ranges_are_cut_at_the_end() {
    let bench = Bench::new();
    bench.put("/f", pattern(5000));
    let range = |range: &str| bench.run(&["cat", "--range", range, "/f"]).stdout;
    assert!(range("10..20") == pattern(5000)[10..20]);
    assert!(range("1K..") == pattern(5000)[1024..]);
    assert!(range("4990..9999") == pattern(5000)[4990..]);
    assert_eq!(range("5000.."), b"", "there may be more later");
    for args in [&["cat"][..], &["get"]] {
        let args = [args, &["--range", "9000..9001", "/f", "-"]].concat();
        let args = &args[..args.len() - usize::from(args[0] == "cat")];
        let error = bench.fails(args, "InvalidInput");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("5,000 bytes"), "{error}");
    }
    assert_eq!(bench.run(&["cat", "--range", "20..10", "/f"]).status, 2);
}

#[test]
fn put_at_an_offset_changes_these_bytes_only() {
    let bench = Bench::new();
    let mut bytes = pattern(3_000_000);
    bench.put("/large", &bytes);
    let before = bench.one(&["stats"])["stored_bytes"].as_u64().unwrap();
    let put = bench.json_with(&["put", "--at", "1M", "-", "/large"], b"fixed");
    assert_eq!(put[0]["size"], 3_000_000);
    bytes[1 << 20..][..5].copy_from_slice(b"fixed");
    assert!(bench.cat("/large") == bytes);
    assert_eq!(bench.one(&["stat", "/large"])["form"], "delta");
    let after = bench.one(&["stats"])["stored_bytes"].as_u64().unwrap();
    assert!(after < before + (1 << 20), "{before} {after}");
    // From a file, over the end, past the end, and where there is no file yet.
    let file = bench.file("tail", "tail");
    bench.put("/small", "0123456");
    bench.one(&["put", "--at", "5", &file, "/small"]);
    assert_eq!(bench.cat("/small"), b"01234tail");
    bench.one(&["put", "--at", "10", &file, "/small"]);
    assert_eq!(bench.cat("/small"), b"01234tail\0tail");
    bench.one(&["put", "--at", "2", &file, "/new"]);
    assert_eq!(bench.cat("/new"), b"\0\0tail");
    bench.fails(
        &["put", "--at", "9223372036854775807", &file, "/new"],
        "TooLarge",
    );
    assert_eq!(bench.run(&["put", "--at", "-1", &file, "/new"]).status, 2);
}

#[test]
fn put_without_a_destination_is_refused() {
    let bench = Bench::new();
    bench.file("notes.txt", "notes");
    for (given, meant) in [
        ("notes.txt", "`alkfs put notes.txt /notes.txt`"),
        ("/no/such/file", "`alkfs put - /no/such/file`"),
        ("-", "`alkfs put - /PATH`"),
    ] {
        let ran = bench.run_with(&["--json", "put", given], b"input");
        assert_eq!((ran.status, ran.stdout.len()), (2, 0), "{ran:?}");
        let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        assert!(
            error["message"].as_str().unwrap().contains(meant),
            "{error}"
        );
        let ran = bench.run_with(&["put", given], b"input");
        assert!(ran.status == 2 && ran.stderr.contains(meant), "{ran:?}");
        assert!(ran.stderr.contains("Usage: alkfs put"), "{ran:?}");
    }
    assert!(bench.names("main", "/").is_empty());
}

#[test]
fn damaged_bytes_are_never_given_out_as_verified() {
    let bench = Bench::new();
    bench.put("/f", pattern(1_000_000));
    damage_the_content(&bench);
    bench.file("out", "before");
    let error = bench.fails(&["get", "--verify", "/f", "out"], "Corrupt");
    assert!(error["hint"].as_str().unwrap().contains("fsck"), "{error}");
    assert_eq!(fs::read(bench.path("out")).unwrap(), b"before");
    let left = fs::read_dir(bench.dir.path()).unwrap();
    assert_eq!(left.count(), 2, "the store and `out` are all there is");
    for args in [
        &["get", "--verify", "/f", "-"][..],
        &["cat", "--verify", "/f"],
        &["cat", "--verify", "--range", "..10", "/f"],
    ] {
        bench.fails(args, "Corrupt");
    }
    let ran = bench.run(&["--json", "fsck"]);
    assert_eq!(ran.status, 1);
    let records = ran.records();
    assert_eq!(records.last().unwrap()["ok"], false);
    assert_eq!(records.len(), 2, "{records:?}");
    let problem = &records[0];
    let hash = problem["subject"].as_str().unwrap();
    let hash = hash.strip_prefix("content ").unwrap();
    assert!(
        !problem["problem"].as_str().unwrap().contains(hash),
        "{problem}"
    );
    assert_eq!(problem["uses"], serde_json::json!(["default/main:/f"]));
    let human = bench.run(&["fsck"]);
    assert!(
        human.text().contains("used by default/main:/f"),
        "{human:?}"
    );
    assert_eq!(human.text().matches(hash).count(), 1, "{human:?}");
    assert!(human.stderr.contains("backup"), "{human:?}");
    bench.json(&["fsck", "--fast"]);
    // What the note says mends it.
    for n in 0..6 {
        bench.one(&["cp", "/f", &format!("/f{n}")]);
    }
    let ran = bench.run(&["--json", "fsck"]);
    let problem = &ran.records()[0];
    assert_eq!(problem["uses"].as_array().unwrap().len(), 5);
    assert_eq!(problem["more_uses"], 2);
    bench.json(&["rm", "/f", "/f0", "/f1", "/f2", "/f3", "/f4", "/f5"]);
    bench.json(&["gc", "--grace", "0"]);
    bench.put("/f", pattern(1_000_000));
    assert_eq!(bench.one(&["fsck"])["ok"], true);
}

#[test]
fn ls_and_stat_show_all_kinds() {
    let bench = Bench::new();
    bench.one(&["mkdir", "-p", "/d/sub"]);
    bench.put("/d/file", "12345");
    bench.one(&["ln", "-s", "file", "/d/link"]);
    assert_eq!(bench.names("main", "/d"), ["file", "link", "sub"]);
    let records = bench.json(&["ls", "-R", "/"]);
    let paths: Vec<_> = records
        .iter()
        .map(|r| r["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/d", "/d/file", "/d/link", "/d/sub"]);
    let kinds: Vec<_> = records
        .iter()
        .map(|r| r["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["dir", "file", "symlink", "dir"]);
    assert_eq!(bench.one(&["ls", "-d", "/d"])["path"], "/d");
    let link = bench.one(&["stat", "/d/link"]);
    assert_eq!(
        (&link["kind"], &link["target"]),
        (&"symlink".into(), &"file".into())
    );
    let file = bench.one(&["stat", "-L", "/d/link"]);
    assert_eq!(
        (&file["kind"], &file["size"], &file["form"]),
        (&"file".into(), &5.into(), &"inline".into())
    );
    let long = bench.run(&["ls", "-l", "/d"]);
    let lines: Vec<_> = long.text().lines().collect();
    assert!(
        lines[0].starts_with("-rw-r--r--") && lines[0].ends_with("file"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with('l') && lines[1].ends_with("link -> file"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with('d') && lines[2].ends_with("sub/"),
        "{lines:?}"
    );
    assert_eq!(bench.run(&["ls", "/"]).text(), "d/\n");
    let error = bench.fails(&["ls", "/d/fiel"], "NotFound");
    assert!(
        error["hint"].as_str().unwrap().contains("/d/file"),
        "{error}"
    );
    bench.fails(&["stat", "/d/file/below"], "NotADirectory");
}

#[test]
fn names_cannot_steer_the_terminal() {
    let bench = Bench::new();
    bench.put("/a\x1b[31mb", "x");
    let ran = bench.run(&["ls", "-l"]);
    assert!(!ran.stdout.contains(&0x1b), "{ran:?}");
    assert!(ran.text().contains("a\\u{1b}[31mb"), "{ran:?}");
    assert_eq!(bench.one(&["ls"])["path"], "/a\x1b[31mb");
}

#[test]
fn directories_moves_copies_and_links() {
    let bench = Bench::new();
    assert_eq!(bench.one(&["mkdir", "/a"])["op"], "mkdir");
    let error = bench.fails(&["mkdir", "/a"], "AlreadyExists");
    assert!(error["hint"].as_str().unwrap().contains("-p"), "{error}");
    bench.one(&["mkdir", "-p", "/a"]);
    bench.put("/a-file", "");
    let error = bench.fails(&["mkdir", "/a-file"], "AlreadyExists");
    assert!(!error["hint"].as_str().unwrap().contains("-p"), "{error}");
    bench.one(&["rm", "/a-file"]);
    bench.fails(&["mkdir", "/x/y"], "NotFound");
    bench.put("/a/one", "1");
    bench.put("/a/two", "2");

    bench.json(&["mv", "/a/one", "/a/three"]);
    bench.fails(&["mv", "-n", "/a/two", "/a/three"], "AlreadyExists");
    bench.one(&["mkdir", "/b"]);
    bench.json(&["mv", "/a/two", "/a/three", "/b"]);
    assert_eq!(bench.names("main", "/b"), ["three", "two"]);
    bench.fails(&["mv", "/b/two", "/b/three", "/b/missing"], "NotFound");
    bench.fails(&["mv", "/b", "/b/below"], "InvalidInput");

    let error = bench.fails(&["cp", "/b", "/c"], "IsADirectory");
    assert!(error["hint"].as_str().unwrap().contains("cp -r"), "{error}");
    assert_eq!(bench.one(&["cp", "-r", "/b", "/c"])["entries"], 3);
    bench.one(&["cp", "/c/two", "/c/copy"]);
    assert_eq!(bench.cat("/c/copy"), b"2");
    bench.fails(&["cp", "/missing", "/x"], "NotFound");

    let error = bench.fails(&["ln", "/b/two", "/hard"], "Unsupported");
    assert!(
        error["message"].as_str().unwrap().contains("hard links"),
        "{error}"
    );
    bench.one(&["ln", "-s", "b/two", "/soft"]);
    assert_eq!(bench.cat("/soft"), b"2");
    bench.fails(&["ln", "-s", "b/three", "/soft"], "AlreadyExists");
    bench.one(&["ln", "-sf", "b/three", "/soft"]);
    assert_eq!(bench.cat("/soft"), b"1");

    let error = bench.fails(&["rm", "/b"], "IsADirectory");
    assert!(error["hint"].as_str().unwrap().contains("rm -r"), "{error}");
    // One path fails, so none goes.
    bench.fails(&["rm", "/soft", "/missing"], "NotFound");
    bench.fails(&["rm", "/soft", "/b"], "IsADirectory");
    assert_eq!(bench.cat("/soft"), b"1");
    assert_eq!(
        bench.json(&["rm", "-rf", "/soft", "/b", "/missing"]).len(),
        2
    );
    assert_eq!(bench.names("main", "/"), ["a", "c"]);
    bench.fails(&["rm", "-r", "/"], "InUse");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_output_is_said_to_be_full() {
    let bench = Bench::new();
    bench.put("/f", pattern(1_000_000));
    bench.put("/g", "g");
    bench.one(&["branch", "create", "agent"]);
    bench.json(&["--branch", "agent", "rm", "/g"]);
    for args in [
        &["cat", "/f"][..],
        &["cat", "/g"],
        &["get", "/f", "-"],
        &["ls"],
        &["diff", "main", "agent"],
        &["stats"],
        &["completions", "bash"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = bench.command(&[&["--json"], args].concat());
        let ran = command.stdout(full).output().unwrap();
        assert_eq!(ran.status.code(), Some(1), "{args:?}: {ran:?}");
        let error: serde_json::Value = serde_json::from_slice(&ran.stderr).unwrap();
        assert_eq!(
            (&error["kind"], &error["path"], &error["hint"]),
            (
                &"NoSpace".into(),
                &"standard output".into(),
                &serde_json::Value::Null
            ),
            "{args:?}: {error}"
        );
    }
}

#[test]
fn cat_ends_quietly_when_nobody_reads() {
    let bench = Bench::new();
    bench.put("/large", pattern(8_000_000));
    let mut child = bench.spawn(&["cat", "/large"]);
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut [0; 10]).unwrap();
    drop(pipe);
    let ran = Ran::of(child);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    for n in 0..2000 {
        bench.file(&format!("many/{n}"), "");
    }
    bench.json(&["import", "many", "/many"]);
    let mut child = bench.spawn(&["ls", "-l", "/many"]);
    drop(child.stdout.take());
    let ran = Ran::of(child);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
}
