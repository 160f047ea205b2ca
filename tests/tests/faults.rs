//! Every call of the durable path fails once: in the content files (simulated), and in the whole
//! stack, SQLite included (by `strace`, which lets system calls fail). After each failure the store
//! shows the old state or the new one, is sound, and the same operation succeeds.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use alknet_fs::{Branch, Durability, OpenOptions, Options, Session, Store};
use alknet_fs_content::{Fault, SimFiles};
use alknet_fs_tests::worker::{
    BatchStep, Bytes, End, Mode, Model, Op, Reply, Rng, Step, Worker, apply_step, execute,
};
use alknet_fs_tests::workload::{Depth, fsck, names, scaled, seed};

const WORKER: &str = env!("CARGO_BIN_EXE_alknet-fs-worker");

/// Makes operations that reach every part of the durable path, with new bytes each time.
struct Script {
    count: u64,
    source: PathBuf,
}

impl Script {
    fn bytes(&mut self, len: usize) -> Bytes {
        self.count += 1;
        Bytes {
            seed: self.count,
            len,
        }
    }

    fn prepare(&mut self) -> Op {
        let steps = vec![
            BatchStep::Mkdir("/dir".to_owned()),
            BatchStep::Put("/dir/small".to_owned(), self.bytes(3_000)),
            BatchStep::Put("/dir/large".to_owned(), self.bytes(700_000)),
        ];
        Op::Batch {
            branch: "main".to_owned(),
            steps,
        }
    }

    fn session(&mut self, path: &str, truncate: bool, steps: Vec<Step>) -> Op {
        Op::Session {
            branch: "main".to_owned(),
            path: path.to_owned(),
            exclusive: self.count.is_multiple_of(2),
            truncate,
            steps,
            end: End::Close,
        }
    }

    fn write(&mut self, offset: u64, len: usize) -> Step {
        let bytes = self.bytes(len);
        Step::Write { offset, bytes }
    }

    fn ops(&mut self) -> Vec<Op> {
        let main = || "main".to_owned();
        let put = |path: &str, bytes| Op::Put {
            branch: main(),
            path: path.to_owned(),
            bytes,
        };
        let mut ops = vec![
            put("/dir/small", self.bytes(2_000)),
            put("/dir/file", self.bytes(90_000)),
        ];
        // In rows; a small edit of a large file; sequential and spilled; scattered and spilled.
        let steps = vec![self.write(0, 500), Step::Sync, self.write(700, 9_000)];
        ops.push(self.session("/dir/rows", true, steps));
        let steps = vec![self.write(400_000, 100)];
        ops.push(self.session("/dir/large", false, steps));
        let steps = (0..4).map(|i| self.write(i * 100_000, 100_000)).collect();
        ops.push(self.session("/dir/spilled", true, steps));
        let mut steps = vec![
            self.write(300_000, 200_000),
            self.write(0, 150_000),
            Step::Sync,
        ];
        steps.push(Step::Truncate { size: 320_000 });
        steps.push(self.write(100_000, 210_000));
        ops.push(self.session("/dir/scattered", true, steps));
        let steps = vec![
            BatchStep::Put("/dir/a".to_owned(), self.bytes(1_000)),
            BatchStep::Put("/dir/b".to_owned(), self.bytes(100_000)),
            BatchStep::Put("/dir/c".to_owned(), self.bytes(70_000)),
        ];
        ops.push(Op::Batch {
            branch: main(),
            steps,
        });
        ops.push(Op::Rename {
            branch: main(),
            from: "/dir/file".to_owned(),
            to: "/dir/renamed".to_owned(),
        });
        let n = self.count;
        ops.push(Op::Snapshot {
            branch: main(),
            name: format!("s{n}"),
        });
        ops.push(Op::Fork {
            from: main(),
            snapshot: Some(format!("s{n}")),
            name: format!("b{n}"),
        });
        ops.push(Op::DeleteBranch {
            name: format!("b{n}"),
        });
        std::fs::create_dir_all(&self.source).unwrap();
        let mut files = Vec::new();
        for (i, len) in [10, 80_000, 1_200_000].into_iter().enumerate() {
            let bytes = self.bytes(len);
            std::fs::write(self.source.join(format!("f{i}")), bytes.make()).unwrap();
            files.push((format!("f{i}"), bytes));
        }
        ops.push(Op::Import {
            branch: main(),
            source: self.source.clone(),
            to: "/dir/imported".to_owned(),
            files,
        });
        ops
    }
}

/// Tells whether an operation that failed is done after all; it must be done or not done.
fn settle(model: &mut Model, store: &Store, op: &Op) -> bool {
    if matches!(op, Op::Import { .. }) {
        let wrong = model.settle_import(store, op);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
    let undone = model.differences(store);
    if undone.is_empty() {
        return false;
    }
    let mut after = model.clone();
    after.apply(op);
    let done = after.differences(store);
    assert!(
        done.is_empty(),
        "{op:?}\nis neither undone: {undone:#?}\nnor done: {done:#?}"
    );
    *model = after;
    true
}

struct Simulated {
    path: PathBuf,
    files: SimFiles,
    store: Option<Store>,
    model: Model,
}

impl Simulated {
    fn new(dir: &Path, script: &mut Script) -> Self {
        let path = dir.join("store");
        let files = SimFiles::new();
        let store = Self::options(&files).create(&path).unwrap();
        let mut model = Model::new();
        let op = script.prepare();
        execute(&store, &op, &mut Vec::new(), &mut |_| {}).unwrap();
        model.apply(&op);
        Self {
            path,
            files,
            store: Some(store),
            model,
        }
    }

    /// The database does not fail here, so that it need not wait for the disk.
    fn options(files: &SimFiles) -> Options {
        Options::new()
            .files(Arc::new(files.clone()))
            .durability(Durability::Relaxed)
    }

    fn store(&mut self) -> &Store {
        let (path, files) = (&self.path, &self.files);
        self.store
            .get_or_insert_with(|| Self::options(files).open(path).unwrap())
    }

    fn execute(&mut self, op: &Op) -> alknet_fs::Result<()> {
        execute(self.store(), op, &mut Vec::new(), &mut |_| {})
    }

    fn check(&mut self, depth: Depth) {
        let model = self.model.clone();
        let store = self.store();
        let wrong = model.differences(store);
        assert!(wrong.is_empty(), "{wrong:#?}");
        fsck(store, depth);
    }

    /// Throws away the sessions that a lost power left, and all garbage.
    fn clean(&mut self) {
        let files = self.files.clone();
        let store = self.store();
        for info in store.sessions().unwrap() {
            store.abort_session(info.id, true).unwrap();
        }
        let gc = alknet_fs::GcOptions::new().grace(std::time::Duration::ZERO);
        store.gc(&gc, &alknet_fs::Task::new()).unwrap();
        let staged = alknet_fs_content::Files::list(&files, alknet_fs_content::Area::Staging);
        assert!(staged.unwrap().is_empty());
        assert_eq!(fsck(store, Depth::Full).orphans, 0);
    }
}

#[test]
fn each_call_to_the_content_files_fails_once() {
    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut script = Script {
        count: 0,
        source: dir.path().join("source"),
    };
    let mut points = 0;
    for (fault, power_cut) in [
        (Fault::Io, false),
        (Fault::NoSpace, false),
        (Fault::ShortWrite, false),
        (Fault::Death, false),
        (Fault::Death, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut sim = Simulated::new(dir.path(), &mut script);
        let kinds = script.ops().len();
        let mut finished = vec![false; kinds];
        for n in 1.. {
            for (op, finished) in script.ops().iter().zip(&mut finished) {
                if !*finished {
                    sim.files.fail_after(n, fault);
                }
                let failed = sim.execute(op);
                let fired = !sim.files.clear_fault() && !*finished;
                points += u64::from(fired);
                *finished |= !fired;
                if fault == Fault::Death && fired {
                    sim.store = None;
                    match power_cut {
                        true => sim.files.power_cut(),
                        false => sim.files.restart(),
                    }
                }
                match failed {
                    Ok(()) => drop(sim.model.apply(op)),
                    Err(e) => {
                        assert!(fired, "{op:?}: {e}");
                        let mut model = sim.model.clone();
                        let done = settle(&mut model, sim.store(), op);
                        sim.model = model;
                        if !done {
                            let again = sim.execute(op);
                            again.unwrap_or_else(|e| panic!("{op:?} again after {fault:?}: {e}"));
                            sim.model.apply(op);
                        }
                    }
                }
                if fired {
                    sim.check(Depth::Fast);
                }
            }
            sim.check(Depth::Full);
            if finished.iter().all(|finished| *finished) {
                break;
            }
        }
        sim.clean();
        sim.check(Depth::Full);
    }
    eprintln!(
        "{points} faults in the content files in {:?}",
        started.elapsed()
    );
    assert!(points > 200, "{points}");
}

/// A session outlives the failure of its writes and of its close.
#[test]
fn each_call_of_a_session_fails_once_and_the_session_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = Script {
        count: 0,
        source: dir.path().join("source"),
    };
    let mut points = 0;
    let mut broken = 0;
    for fault in [Fault::Io, Fault::NoSpace, Fault::ShortWrite] {
        let dir = tempfile::tempdir().unwrap();
        let mut sim = Simulated::new(dir.path(), &mut script);
        for kind in [3, 4, 5] {
            for n in 1.. {
                let op = script.ops().swap_remove(kind);
                let Op::Session {
                    path,
                    truncate,
                    steps,
                    ..
                } = &op
                else {
                    panic!("{op:?}")
                };
                let main = sim.store().bucket("default").unwrap().main().unwrap();
                let session = open(&main, path, *truncate);
                let mut bytes = match truncate {
                    true => Vec::new(),
                    false => sim.model.bytes("main", path),
                };
                sim.files.fail_after(n, fault);
                let mut outcome = Ok(());
                for step in steps {
                    outcome = do_step(&session, step).or_else(|_| do_step(&session, step));
                    if outcome.is_err() {
                        break;
                    }
                    apply_step(&mut bytes, step);
                }
                let outcome =
                    outcome.and_then(|()| session.close().or_else(|_| session.close()).map(drop));
                let fired = !sim.files.clear_fault();
                points += u64::from(fired);
                match outcome {
                    Ok(()) => drop(sim.model.put("main", path, bytes)),
                    // The session said that it must be given up; that is allowed, if rare.
                    Err(e) => {
                        assert!(fired && e.to_string().contains("resume or abort"), "{e}");
                        broken += 1;
                        drop(session);
                    }
                }
                sim.check(Depth::Full);
                if !fired {
                    break;
                }
            }
        }
        sim.clean();
    }
    eprintln!("{points} faults in sessions, of which {broken} ended the session");
    assert!(points > 60 && broken * 4 < points, "{broken} of {points}");
}

fn open(main: &Branch, path: &str, truncate: bool) -> Session {
    let options = OpenOptions::new().truncate(truncate);
    main.open_session(path, &options).unwrap()
}

fn do_step(session: &Session, step: &Step) -> alknet_fs::Result<()> {
    match step {
        Step::Write { offset, bytes } => session.write_at(*offset, &bytes.make()),
        Step::Truncate { size } => session.truncate(*size),
        Step::Sync => session.sync(),
    }
}

/// A store that every faulty run starts from a copy of.
struct Template {
    dir: tempfile::TempDir,
    model: Model,
    ops: Vec<Op>,
}

impl Template {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut script = Script {
            count: 0,
            source: dir.path().join("source"),
        };
        let store = Store::create(&path).unwrap();
        let mut model = Model::new();
        let op = script.prepare();
        execute(&store, &op, &mut Vec::new(), &mut |_| {}).unwrap();
        model.apply(&op);
        Self {
            model,
            ops: script.ops(),
            dir,
        }
    }

    fn copy(&self) -> (tempfile::TempDir, PathBuf) {
        let dir = quick_dir();
        let path = dir.path().join("store");
        copy_dir(&self.dir.path().join("store"), &path);
        (dir, path)
    }
}

/// Makes a directory in memory, where the system has one: what is asked of the files is the same.
fn quick_dir() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    tempfile::tempdir_in(shared).unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// Runs all operations in a worker that the command makes fail somewhere. Where an operation fails,
/// it is checked that it is done or undone, and it is tried again: by the same process, or, if that
/// dies of it, by a healthy one.
fn run_faulty(template: &Template, command: &mut Command, dies: bool) -> u64 {
    let (_dir, path) = template.copy();
    let mut model = template.model.clone();
    let mut failures = 0;
    command.env("ALKFS_WORKER_STOP", if dies { "1" } else { "0" });
    let mut worker = Some(Worker::start(command, &path, Mode::default()));
    if worker.as_mut().unwrap().reply() != Some(Reply::Ready) {
        failures += 1;
        worker.take().unwrap().end();
    }
    for op in &template.ops {
        let mut tries = 0;
        loop {
            tries += 1;
            let running = worker.get_or_insert_with(|| {
                let mut command = Command::new(WORKER);
                let mut worker = Worker::start(&mut command, &path, Mode::default());
                assert_eq!(worker.reply(), Some(Reply::Ready));
                worker
            });
            let reply = running.run(op);
            if reply == Some(Reply::Done) {
                model.apply(op);
                break;
            }
            failures += 1;
            // A limit on the size of files fails for as long as the process lives.
            if dies || reply.is_none() || tries > 1 {
                worker.take().unwrap().end();
            }
            assert!(tries < 4, "{op:?}: {reply:?}");
            let store = Store::open(&path).unwrap();
            let done = settle(&mut model, &store, op);
            fsck(&store, Depth::Fast);
            for info in store.sessions().unwrap() {
                // One that the process could not remove, or did not live to remove.
                if !info.alive {
                    store.abort_session(info.id, false).unwrap();
                }
            }
            if done {
                break;
            }
        }
    }
    if let Some(worker) = worker {
        worker.finish();
    }
    let store = Store::open(&path).unwrap();
    let wrong = model.differences(&store);
    assert!(wrong.is_empty(), "{wrong:#?}");
    fsck(&store, Depth::Full);
    failures
}

fn strace(syscall: &str, error: &str, n: u64, trace: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-qq", "-o"]);
    command.arg(trace);
    command.args(["-e", &format!("trace={syscall}"), "-e"]);
    command.arg(format!("inject={syscall}:error={error}:when={n}"));
    command.arg(WORKER);
    command
}

/// How often a thread of the worker makes a system call, over the whole script.
fn calls(template: &Template, syscall: &str, trace: &Path) -> u64 {
    let failures = run_faulty(template, &mut strace(syscall, "EIO", 65_535, trace), false);
    assert_eq!(failures, 0);
    let mut counts = std::collections::HashMap::new();
    for line in std::fs::read_to_string(trace).unwrap().lines() {
        if !line.contains("resumed>") {
            let thread = line.split(' ').next().unwrap().to_owned();
            *counts.entry(thread).or_insert(0) += 1;
        }
    }
    counts.into_values().max().unwrap_or(0)
}

#[test]
fn each_system_call_fails_once() {
    let started = Instant::now();
    let template = Template::make();
    let trace = template.dir.path().join("trace");
    let works = strace("fsync", "EIO", 1, &trace).arg("nothing").output();
    match works {
        Err(e) => return eprintln!("SKIPPED, no system call failed: strace: {e}"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            if let Some(line) = text.lines().find(|line| line.starts_with("strace:")) {
                return eprintln!("SKIPPED, no system call failed: {line}");
            }
        }
    }
    let mut rng = Rng::new(seed("faults"));
    let each = scaled(20);
    let mut points = 0;
    let mut failures = 0;
    // Not `fcntl`: SQLite does not expect a lock that cannot be given back, and nor does anybody.
    for (syscall, errors) in [
        ("pwrite64", &["ENOSPC", "EIO"][..]),
        ("fdatasync", &["EIO", "ENOSPC"]),
        ("fsync", &["EIO"]),
        ("openat", &["EMFILE", "EIO"]),
        ("rename", &["EIO"]),
        ("linkat", &["EIO"]),
        ("unlink", &["EIO"]),
        ("ftruncate", &["EIO"]),
        ("pread64", &["EIO"]),
        ("flock", &["EIO"]),
    ] {
        let total = calls(&template, syscall, &trace);
        for error in errors {
            // All of them where there are few; else some everywhere, others in each run.
            let stride = total.div_ceil(each).max(1);
            let mut n = 1 + rng.below(stride);
            let mut covered = 0;
            let mut failed = 0;
            while n <= total {
                let dies = rng.percent(50);
                eprintln!("{syscall} {n} of {total}: {error}, the process dies of it: {dies}");
                let mut command = strace(syscall, error, n, &trace);
                failed += run_faulty(&template, &mut command, dies);
                covered += 1;
                n += stride;
            }
            eprintln!(
                "{syscall}: {covered} of {total} calls failed with {error}: {failed} failures"
            );
            points += covered;
            failures += failed;
        }
    }
    eprintln!(
        "{points} system calls failed, {failures} operations with them, in {:?}",
        started.elapsed()
    );
    assert!(failures > 20, "{failures}");
}

/// Writes are cut short, and then fail: the system lets no file grow beyond a limit.
#[test]
fn files_stop_growing_at_any_size() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return eprintln!("SKIPPED, no write was cut short: there is no prlimit");
    }
    let template = Template::make();
    let mut rng = Rng::new(seed("short writes"));
    let mut failures = 0;
    let runs = scaled(30);
    for n in 0..runs {
        // Around the sizes of the shared memory, of the log and of the largest contents.
        let limit = match n % 3 {
            0 => 32_768 + rng.below(200_000),
            1 => 200_000 + rng.below(1_500_000),
            _ => 60_000 + rng.below(700_000),
        };
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; exec prlimit --fsize={limit} \"$0\" \"$@\"");
        command.args(["-c", &script, WORKER]);
        eprintln!("no file grows beyond {limit} bytes");
        failures += run_faulty(&template, &mut command, n % 2 == 0);
    }
    eprintln!("{failures} operations failed in {runs} runs");
    assert!(failures > runs, "{failures}");
}
