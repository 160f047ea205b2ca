//! A store in a temporary directory, and ways to run the binary on it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Bench {
    pub(crate) dir: TempDir,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Bench {
    /// Makes a directory with a store in `.alkfs`.
    pub(crate) fn new() -> Self {
        let bench = Self::without_store();
        bench.json(&["mkfs"]);
        bench
    }

    pub(crate) fn without_store() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file of the disk and returns its path.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self.text(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alkfs"));
        command.args(args).current_dir(self.dir.path());
        for name in ["STORE", "BUCKET", "BRANCH", "AUTHOR", "LOG"] {
            command.env_remove(format!("ALKFS_{name}"));
        }
        command.env("TZ", "UTC");
        command
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        pipes.stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.spawn(args);
        // A command that does not read its input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input);
        Ran::of(child)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    /// Runs a command that must succeed and returns its records.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        self.json_with(args, b"")
    }

    #[track_caller]
    pub(crate) fn json_with(&self, args: &[&str], input: &[u8]) -> Vec<Value> {
        let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        let ran = self.run_with(&args, input);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}");
        ran.records()
    }

    /// Runs a command that must succeed and returns its only record.
    #[track_caller]
    pub(crate) fn one(&self, args: &[&str]) -> Value {
        let mut records = self.json(args);
        assert_eq!(records.len(), 1, "{args:?}: {records:?}");
        records.remove(0)
    }

    /// Runs a command that must fail with status 1, and returns the record of its error.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str], kind: &str) -> Value {
        let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        let ran = self.run(&args);
        assert_eq!(ran.status, 1, "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, b"", "{args:?}");
        let error: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(error["kind"], kind, "{args:?}: {error}");
        for key in ["code", "errno", "message"] {
            assert!(!error[key].is_null(), "{key} in {error}");
        }
        error
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        self.json_with(&["put", "-", path], bytes.as_ref());
    }

    #[track_caller]
    pub(crate) fn cat(&self, path: &str) -> Vec<u8> {
        self.cat_on("main", path)
    }

    #[track_caller]
    pub(crate) fn cat_on(&self, branch: &str, path: &str) -> Vec<u8> {
        let ran = self.run(&["--branch", branch, "cat", path]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{path}");
        ran.stdout
    }

    /// Returns the names in a directory.
    #[track_caller]
    pub(crate) fn names(&self, branch: &str, path: &str) -> Vec<String> {
        let records = self.json(&["--branch", branch, "ls", path]);
        let name = |record: &Value| {
            let path = record["path"].as_str().unwrap();
            path.rsplit('/').next().unwrap().to_owned()
        };
        records.iter().map(name).collect()
    }
}

impl Ran {
    pub(crate) fn of(child: Child) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        Self {
            status: status.code().unwrap_or(-1),
            stdout,
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn records(&self) -> Vec<Value> {
        let lines = self.text().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

/// Changes one bit of the only content file of a store.
pub(crate) fn damage_the_content(bench: &Bench) {
    fn files(dir: &Path, found: &mut Vec<PathBuf>) {
        for item in fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            match path.is_dir() {
                true => files(&path, found),
                false if path.extension().is_none() => found.push(path),
                false => {}
            }
        }
    }
    let mut found = Vec::new();
    files(&bench.path(".alkfs/blobs"), &mut found);
    let [file] = &found[..] else {
        panic!("one content file was expected: {found:?}");
    };
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    let mut permissions = fs::metadata(file).unwrap().permissions();
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    #[cfg(not(unix))]
    permissions.set_readonly(false);
    fs::set_permissions(file, permissions).unwrap();
    fs::write(file, bytes).unwrap();
}
