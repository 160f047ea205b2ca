//! Two nodes on this machine, each a process of its own that is told what to do by lines.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alknet_fs::node::{Bind, JoinOptions, Node, NodeOptions, ShareOptions, SyncStatus};
use alknet_fs::{Branch, Bucket, ContentPolicy, DEFAULT_BUCKET, Store, WatchOptions};
use anyhow::{Context as _, Result, bail, ensure};

use crate::data;
use crate::fixtures::{new_store, relaxed_store};
use crate::harness::{Bench, Times, Unit, settle};
use crate::rows::memory;

const MIB: f64 = (1 << 20) as f64;

/// The files of each directory of a bucket that is joined.
const CROWD: usize = 1000;

/// For how long nothing goes over connections that are still: longer than an acknowledgement is delayed,
/// and shorter than it takes until an idle connection is kept alive.
const STILL: Duration = Duration::from_millis(400);

/// The most that anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    puts(bench, false)?;
    puts(bench, true)?;
    one_file(bench)?;
    contents(bench)?;
    let count = bench.pick(100_000, 10_000);
    join(bench, count, bench.pick(3, 1), 5.0, 300.0)?;
    if bench.pick(true, false) {
        join(bench, 1_000_000, 1, 60.0, 1536.0)?;
    }
    Ok(())
}

/// Puts on a node whose bucket a peer has, and the same without any node. The peer either is away, as
/// one with processors and a disk of its own, or takes in all that is put on those of this machine.
fn puts(bench: &mut Bench, together: bool) -> Result<()> {
    // A round is longer than what follows commits pauses.
    let (rounds, puts) = bench.pick((9, 4000), (3, 400));
    let dir = bench.dir()?;
    let plain = new_store(&dir.join("plain"))?;
    let mut here = Remote::create(&dir.join("here"))?;
    let mut there = Remote::create(&dir.join("there"))?;
    there.join(&here.share()?)?;
    let shared = Store::open(dir.join("here"))?
        .bucket(DEFAULT_BUCKET)?
        .main()?;
    let there = match together {
        true => Some(there),
        false => there.end().map(|()| None)?,
    };
    settle()?;
    let [mut on, mut off] = <[Times; 2]>::default();
    for round in bench.rounds("puts", rounds) {
        let blocks = data::blocks(round as u64, puts);
        let mut both = [(&shared, &mut on), (&plain, &mut off)];
        if round % 2 == 1 {
            both.reverse();
        }
        for (main, times) in both {
            // What is left to do of the round before does not disturb this one.
            here.ask(if together { "settled" } else { "gather" })?;
            settle()?;
            times.time(puts, || {
                for (i, block) in blocks.iter().enumerate() {
                    main.write(format!("/{round}-{i}"), block.as_slice())?;
                }
                Ok(())
            })?;
        }
    }
    let work = match together {
        false => "durable put of 4 KiB in a shared bucket",
        true => "durable put of 4 KiB while a peer on the same disk takes it in",
    };
    bench.compare(work, &on, "the same without a node", &off, 1.1);
    there.map_or(Ok(()), Remote::end)?;
    here.end()
}

/// A small file, from the moment it is written on one node until it was read on the other.
fn one_file(bench: &mut Bench) -> Result<()> {
    let count = bench.pick(300, 30);
    let dir = bench.dir()?;
    let (mut here, mut there) = (
        Remote::create(&dir.join("here"))?,
        Remote::create(&dir.join("there"))?,
    );
    there.join(&here.share()?)?;
    settle()?;
    let mut times = Times::default();
    for i in bench.rounds("one file", count) {
        times.push(pass(&mut here, &mut there, &format!("/file-{i}"))?);
    }
    let work = "a small file written on one node is read on another";
    bench.value(format!("{work}, median"), Unit::Seconds, &times, 0.020);
    let mut late = Times::default();
    late.push(times.quantile(0.99));
    bench.value(format!("{work}, 99 %"), Unit::Seconds, &late, 0.100);
    here.end()?;
    there.end()
}

/// Writes a file on one node and returns after how many seconds the other had read it.
fn pass(from: &mut Remote, to: &mut Remote, path: &str) -> Result<f64> {
    to.tell(&format!("watch {path}"))?;
    ensure!(to.hear()? == "watching");
    let written: f64 = from.ask(&format!("put {path}"))?.parse()?;
    let read: f64 = to.hear()?.parse()?;
    Ok(read - written)
}

/// Joins a bucket of small files and fetches their contents.
fn contents(bench: &mut Bench) -> Result<()> {
    let (rounds, count) = bench.pick((3, 10_000), (1, 2_000));
    let mut times = Times::default();
    let dir = bench.dir()?;
    fill(bench, &dir.join("here"), count, 4096)?;
    let mut here = Remote::open(&dir.join("here"))?;
    let ticket = here.share()?;
    for round in bench.rounds("small files with their contents", rounds) {
        let mut there = Remote::create(&dir.join(format!("there-{round}")))?;
        settle()?;
        times.push(there.ask(&format!("fetch {count} {ticket}"))?.parse()?);
        there.end()?;
    }
    let rate = count as f64 / times.stats().median;
    let work = format!("join {count} files of 4 KiB, contents included");
    bench
        .value(work, Unit::Seconds, &times, count as f64 / 2000.0)
        .note(format!("{rate:.0} a second; the target is 2,000"));
    here.end()
}

/// For how long nothing happens before a change: longer than nodes rest after what they did.
const REST: Duration = Duration::from_secs(1);

/// Joins a large bucket without its contents, and what comes after that.
fn join(bench: &mut Bench, count: usize, rounds: usize, seconds: f64, mib: f64) -> Result<()> {
    let dir = bench.dir()?;
    bench.prepare(&format!("making a bucket of {count} files"));
    fill(bench, &dir.join("here"), count, 8)?;
    let mut here = Remote::open(&dir.join("here"))?;
    let ticket = here.share()?;
    // What was there before is brought into documents once, while others go on writing.
    let mut first = Remote::create(&dir.join("first"))?;
    let beside = Store::open(dir.join("here"))?
        .bucket(DEFAULT_BUCKET)?
        .main()?;
    settle()?;
    let writer = Waits::begin(beside);
    let mut time = Times::default();
    time.push(first.ask(&format!("join {count} {ticket}"))?.parse()?);
    let waits = writer.end()?;
    let work = format!("the first to join a bucket of {count} files, metadata only");
    bench.value(&*work, Unit::Seconds, &time, seconds);
    let mut peak = Times::default();
    peak.push(here.ask("memory")?.parse()?);
    let of = format!("{work}: resident memory of who shares");
    bench.value(of, Unit::Bytes, &peak, mib * MIB);
    for (part, of) in [(0.99, "99 % of the puts"), (1.0, "the longest put")] {
        let mut wait = Times::default();
        wait.push(waits.quantile(part));
        bench.value(format!("{work}: {of} meanwhile"), Unit::Seconds, &wait, 0.1);
    }
    first.end()?;
    here.end()?;
    here = Remote::open(&dir.join("here"))?;
    let [mut times, mut peak_there, mut bytes] = <[Times; 3]>::default();
    let mut last: Option<Remote> = None;
    for round in bench.rounds("joining", rounds) {
        let mut there = Remote::create(&dir.join(format!("there-{round}")))?;
        settle()?;
        times.push(there.ask(&format!("join {count} {ticket}"))?.parse()?);
        peak_there.push(there.ask("memory")?.parse()?);
        bytes.push(there.still()?);
        if let Some(before) = last.replace(there) {
            before.end()?;
        }
    }
    let mut there = last.context("there was no round")?;
    let mut peak_here = Times::default();
    peak_here.push(here.ask("memory")?.parse()?);
    let work = format!("join a bucket of {count} files, metadata only");
    let on_wire = bytes.stats().median / MIB;
    bench
        .value(&*work, Unit::Seconds, &times, seconds)
        .note(format!("{on_wire:.1} MiB on the wire"));
    for (side, peak) in [("who joins", &peak_there), ("who shares", &peak_here)] {
        let work = format!("{work}: resident memory of {side}");
        bench.value(work, Unit::Bytes, peak, mib * MIB);
    }

    let [mut times, mut bytes] = <[Times; 2]>::default();
    settle()?;
    let mut before = there.still()?;
    for i in bench.rounds("one change", bench.pick(30, 5)) {
        times.push(seen(&mut here, &mut there, &format!("/new-{i}"))?);
        there.ask("settled")?;
        here.ask("settled")?;
        let after = there.still()?;
        bytes.push(after - before);
        before = after;
        thread::sleep(REST);
    }
    let mut hurried = Times::default();
    for i in bench.rounds("one change after the other", bench.pick(30, 5)) {
        hurried.push(seen(&mut here, &mut there, &format!("/next-{i}"))?);
        there.ask("settled")?;
        here.ask("settled")?;
    }
    let hurried = 1e3 * hurried.stats().median;
    let work = format!("one change in a bucket of {count} files");
    bench
        .value(
            format!("{work} is seen by a peer"),
            Unit::Seconds,
            &times,
            0.050,
        )
        .note(format!(
            "{hurried:.1} ms where each comes as soon as the one before it is settled"
        ));
    bench.value(format!("{work}, on the wire"), Unit::Bytes, &bytes, 2048.0);

    let [mut times, mut bytes] = <[Times; 2]>::default();
    for _ in bench.rounds("reconnect", bench.pick(9, 3)) {
        times.push(there.ask("reconnect")?.parse()?);
        bytes.push(there.still()?);
    }
    let work = format!("reconnect with nothing new, {count} files");
    bench.value(&*work, Unit::Seconds, &times, 0.100);
    bench.value(format!("{work}, on the wire"), Unit::Bytes, &bytes, 16384.0);
    here.end()?;
    there.end()
}

/// As [`pass`], but what is waited for is the name alone.
fn seen(from: &mut Remote, to: &mut Remote, path: &str) -> Result<f64> {
    to.tell(&format!("look {path}"))?;
    ensure!(to.hear()? == "watching");
    let written: f64 = from.ask(&format!("put {path}"))?.parse()?;
    let read: f64 = to.hear()?.parse()?;
    Ok(read - written)
}

/// Somebody who puts small files, and how long that took each time.
struct Waits {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<Times>>,
}

impl Waits {
    fn begin(branch: Branch) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut waits = Times::default();
            while !stopped.load(Ordering::Relaxed) {
                waits.time(1, || Ok(branch.write("/file", "some bytes")?))?;
                thread::sleep(Duration::from_millis(5));
            }
            Ok(waits)
        });
        Self { stop, thread }
    }

    fn end(self) -> Result<Times> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Makes a store of small files of which no two are the same.
fn fill(bench: &Bench, path: &Path, count: usize, len: usize) -> Result<()> {
    let main = relaxed_store(path)?;
    let step = 10 * CROWD;
    for first in bench
        .rounds("making files", count.div_ceil(step))
        .map(|round| round * step)
    {
        let mut batch = main.batch();
        for i in first..count.min(first + step) {
            if i % CROWD == 0 {
                batch.mkdir(format!("/dir-{:05}", i / CROWD))?;
            }
            let path = format!("/dir-{:05}/file-{:05}", i / CROWD, i % CROWD);
            let mut bytes = vec![0; len];
            bytes[..8].copy_from_slice(&i.to_le_bytes());
            batch.write(path, bytes)?;
        }
        batch.commit()?;
    }
    Ok(())
}

/// A node in another process.
struct Remote {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Remote {
    /// Makes a store and starts its node.
    fn create(store: &Path) -> Result<Self> {
        new_store(store)?;
        Self::open(store)
    }

    fn open(store: &Path) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("sync-node").arg(store);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().context("the program cannot run itself")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let mut node = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        ensure!(node.hear()? == "runs");
        Ok(node)
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}")?;
        Ok(self.input.flush()?)
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "a node ended before its time");
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.tell(line)?;
        self.hear()
    }

    fn share(&mut self) -> Result<String> {
        self.ask("share")
    }

    /// Joins an empty bucket.
    fn join(&mut self, ticket: &str) -> Result<()> {
        self.ask(&format!("join 0 {ticket}")).map(drop)
    }

    /// Returns how many bytes went over the node's connections, both ways, once none go any more.
    fn still(&mut self) -> Result<f64> {
        let mut last = self.ask("traffic")?;
        loop {
            thread::sleep(STILL);
            let now = self.ask("traffic")?;
            if now == last {
                return Ok(now.parse()?);
            }
            last = now;
        }
    }

    fn end(mut self) -> Result<()> {
        drop(self.input);
        let status = self.child.wait()?;
        ensure!(status.success(), "a node ended with {status}");
        Ok(())
    }
}

/// Runs the node of a store, and does what the lines of standard input say.
pub(crate) fn node(path: &Path) -> Result<()> {
    let store = Store::open(path)?;
    let options = NodeOptions::new().bind(Bind::Loopback);
    let mut node = Node::start(&store, &options)?;
    let mut bucket = store.bucket(DEFAULT_BUCKET)?;
    println!("runs");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let said = match word() {
            "share" => store
                .share(DEFAULT_BUCKET, &ShareOptions::new())?
                .to_string(),
            how @ ("join" | "fetch") => {
                let (count, ticket) = (word().parse()?, word().parse()?);
                let begun = Instant::now();
                bucket = store.join(&ticket, &JoinOptions::new().name("joined"))?;
                if how == "fetch" {
                    bucket.set_content_policy(ContentPolicy::Eager)?;
                }
                until(|| {
                    let status = node.status()?;
                    let all_here =
                        |s: &SyncStatus| s.peers.iter().all(|p| p.contents_here.contents == 0);
                    Ok(in_step(&status) && (how == "join" || all_here(&status)))
                })?;
                let seconds = begun.elapsed().as_secs_f64();
                ensure!(files(&bucket)? >= count, "files are missing");
                seconds.to_string()
            }
            "put" => {
                let begun = clock()?;
                let path = word();
                bucket.main()?.write(path, path)?;
                begun.to_string()
            }
            how @ ("watch" | "look") => {
                let path = word();
                let mut watcher = store.watch(&WatchOptions::default())?;
                println!("watching");
                io::stdout().flush()?;
                loop {
                    let event = watcher.next_timeout(PATIENCE)?.context("nothing came")?;
                    if event.change.path.is_some_and(|of| of.as_str() == path) {
                        break;
                    }
                }
                let main = bucket.main()?;
                match how {
                    "watch" => ensure!(main.read(path)? == path.as_bytes()),
                    _ => ensure!(main.stat(path)?.size() == path.len() as u64),
                }
                clock()?.to_string()
            }
            "settled" => {
                until(|| Ok(in_step(&node.status()?)))?;
                String::new()
            }
            "gather" => {
                node.status()?;
                String::new()
            }
            "traffic" => node.traffic().to_string(),
            "memory" => memory::peak()?.to_string(),
            "reconnect" => {
                node.stop();
                let begun = Instant::now();
                node = Node::start(&store, &options)?;
                until(|| Ok(in_step(&node.status()?)))?;
                begun.elapsed().as_secs_f64().to_string()
            }
            other => bail!("there is no command {other:?}"),
        };
        println!("{said}");
        io::stdout().flush()?;
    }
    node.stop();
    Ok(())
}

/// Tells whether all peers that are there are known to know the same as this node.
fn in_step(status: &SyncStatus) -> bool {
    let mut connected = status.peers.iter().filter(|peer| peer.connected).peekable();
    connected.peek().is_some() && connected.all(|peer| peer.in_step)
}

fn until(mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "nothing came of it in time");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The files of a bucket made by [`fill`].
fn files(bucket: &Bucket) -> Result<usize> {
    let main = bucket.main()?;
    let mut files = 0;
    for entry in main.list("/")? {
        files += match entry.entry.is_dir() {
            true => main.list(format!("/{}", entry.name))?.len(),
            false => 1,
        };
    }
    Ok(files)
}

/// Seconds of the clock that all processes have in common.
fn clock() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}
