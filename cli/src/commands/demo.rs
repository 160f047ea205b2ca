//! A tour on real files. Everything it says is checked, and a check that fails fails the command.

mod source;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alknet_fs::{
    Branch, Bucket, Cursor, DEFAULT_BUCKET, Entry, Event, FsckOptions, ImportOptions, ImportReport,
    Kind, OpenOptions, Store, TreePath, TreeRef, Walk, WatchOptions, Watcher,
};
use anstyle::Style;
use serde::Serialize;
use tempfile::TempDir;

use self::source::{Random, Source};
use super::branches::share_table;
use super::history::{event_line, print_diff};
use super::transfer::took;
use crate::app::App;
use crate::args::Demo;
use crate::failure::{Failure, Result};
use crate::output::{BAD, BOLD, Cell, DIM, GOOD, Table, Unit, count, percent, printable, size};

/// Where the generated file goes.
const LARGE: &str = "/large.bin";
/// How many bytes the small edit of the large file writes.
const EDIT: usize = 1000;
/// How much the store may grow by the small edit, log and page rounding included.
const EDIT_GROWTH_MAX: u64 = 512 * 1024;

pub(crate) fn run(app: &App, args: &Demo) -> Result<()> {
    let source = Source::find(args.dir.as_deref())?;
    let place = Place::new(app, args.keep)?;
    let mut tour = Tour::start(app, &place)?;
    tour.import(source.path())?;
    tour.large_file(args.large << 20)?;
    let (agent_a, agent_b) = tour.fork()?;
    let paths = Paths::choose(&tour.main)?;
    tour.agent_a(&agent_a, &paths)?;
    tour.agent_b(&agent_b, &paths)?;
    tour.abort(&agent_b)?;
    tour.snapshot()?;
    let main = tour.main.clone();
    tour.who_sees_what([&main, &agent_a, &agent_b], &paths)?;
    tour.share()?;
    tour.differences()?;
    tour.events()?;
    tour.fsck()?;
    tour.figures()?;
    let failed = tour.failed;
    drop((tour, main, agent_a, agent_b));
    place.farewell(app)?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Found),
    }
}

/// The store that the tour takes place in.
struct Place {
    store: Store,
    bucket: String,
    /// Removed when this is dropped.
    temporary: Option<TempDir>,
    kept: bool,
}

impl Place {
    fn new(app: &App, keep: bool) -> Result<Self> {
        if app.global.store.is_some() {
            let path = app.store_path();
            let opened = app.options().open_or_create(&path);
            let store = opened.map_err(|e| e.path(path.display()))?;
            let bucket = free_bucket(&store, app.global.bucket.as_deref())?;
            store.create_bucket(&bucket)?;
            return Ok(Self {
                store,
                bucket,
                temporary: None,
                kept: true,
            });
        }
        let dir = tempfile::Builder::new().prefix("alkfs-demo-").tempdir()?;
        let store = app.options().create(dir.path().join("store"))?;
        let temporary = match keep {
            true => {
                // Without its guard the directory stays.
                let _ = dir.keep();
                None
            }
            false => Some(dir),
        };
        Ok(Self {
            store,
            bucket: DEFAULT_BUCKET.to_owned(),
            temporary,
            kept: keep,
        })
    }

    fn farewell(self, app: &App) -> Result<()> {
        let path = self.store.path().map(|path| path.display().to_string());
        let path = path.unwrap_or_default();
        app.out.record(&End {
            step: "end",
            store: &path,
            bucket: &self.bucket,
            kept: self.kept,
        })?;
        drop(self.store);
        if let Some(dir) = self.temporary {
            dir.close()?;
            app.out.line(format_args!(
                "The temporary store was removed. `alkfs demo --keep` keeps it, to look around."
            ))?;
            return Ok(());
        }
        app.out.line("Look around in the store:")?;
        let mut options = format!("--store {}", printable(&path));
        if self.bucket != DEFAULT_BUCKET {
            options += &format!(" --bucket {}", self.bucket);
        }
        for command in [
            "ls -l".to_owned(),
            "--branch agent-a log".to_owned(),
            "diff main agent-a --content".to_owned(),
            "share-check".to_owned(),
            "stats".to_owned(),
        ] {
            app.out.line(format_args!("  alkfs {options} {command}"))?;
        }
        Ok(())
    }
}

fn free_bucket(store: &Store, wanted: Option<&str>) -> Result<String> {
    if let Some(name) = wanted {
        return Ok(name.to_owned());
    }
    let taken = store.buckets()?;
    let names = (1_u32..).map(|n| match n {
        1 => "demo".to_owned(),
        n => format!("demo-{n}"),
    });
    let free = names.into_iter().find(|name| !taken.contains(name));
    Ok(free.unwrap_or_else(|| "demo".to_owned()))
}

#[derive(Serialize)]
struct End<'a> {
    step: &'static str,
    store: &'a str,
    bucket: &'a str,
    kept: bool,
}

/// The files of the imported directory that the agents work on.
struct Paths {
    edited: Option<TreePath>,
    deleted: Option<TreePath>,
    renamed: Option<TreePath>,
}

impl Paths {
    fn choose(branch: &Branch) -> Result<Self> {
        let (mut files, mut hidden) = (Vec::new(), Vec::new());
        branch.view()?.walk("/", |path, entry| {
            let small = entry.is_file() && (1..=16 << 10).contains(&entry.size());
            if small && path.as_str() != LARGE {
                let kept = match path.as_str().contains("/.") {
                    true => &mut hidden,
                    false => &mut files,
                };
                kept.push(path.clone());
            }
            // Any three will do.
            Ok(match files.len() {
                0..3 => Walk::Continue,
                _ => Walk::Stop,
            })
        })?;
        files.append(&mut hidden);
        let mut files = files.into_iter();
        Ok(Self {
            edited: files.next(),
            deleted: files.next(),
            renamed: files.next(),
        })
    }

    fn new_name(path: &TreePath) -> Result<TreePath> {
        let parent = path.parent().unwrap_or_else(TreePath::root);
        Ok(parent.join("renamed-by-agent-a")?)
    }
}

/// One thing that the tour did, and what it cost.
#[derive(Serialize)]
struct Step<'a> {
    step: &'a str,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grown: Option<u64>,
}

#[derive(Serialize)]
struct Check<'a> {
    check: &'a str,
    ok: bool,
}

#[derive(Serialize)]
struct Sight<'a> {
    path: &'a str,
    branch: &'a str,
    seen: String,
}

#[derive(Default, Serialize)]
struct Figures {
    step: &'static str,
    files: u64,
    bytes: u64,
    import_seconds: f64,
    large_bytes: u64,
    large_seconds: f64,
    fork_seconds: f64,
    edit_seconds: f64,
    edit_grown: u64,
    events: u64,
    stored: u64,
    plain_copies: u64,
    seconds: f64,
}

struct Tour<'a> {
    app: &'a App,
    store: Store,
    bucket: Bucket,
    main: Branch,
    /// Before the first event of the tour.
    begin: Cursor,
    witness: Option<Witness>,
    started: Instant,
    figures: Figures,
    failed: u32,
}

impl<'a> Tour<'a> {
    fn start(app: &'a App, place: &Place) -> Result<Self> {
        let store = place.store.clone();
        let bucket = store.bucket(&place.bucket)?;
        let main = bucket.main()?;
        let path = store.path().unwrap_or(Path::new("")).to_owned();
        // Another handle on the store, as another process would have.
        let second = app.options().open(&path)?;
        let watcher = second.watch(&WatchOptions {
            bucket: Some(place.bucket.clone()),
            ..WatchOptions::default()
        })?;
        let begin = watcher.cursor();
        app.out.line(format_args!(
            "{} in {}",
            app.out.paint(BOLD, "alkfs demo"),
            printable(&path.display().to_string())
        ))?;
        Ok(Self {
            app,
            store,
            bucket,
            main,
            begin,
            witness: Some(Witness::new(watcher)?),
            started: Instant::now(),
            figures: Figures {
                step: "figures",
                ..Figures::default()
            },
            failed: 0,
        })
    }

    fn import(&mut self, source: &Path) -> Result<()> {
        self.title("One directory, imported")?;
        let mut options = ImportOptions::new();
        for name in source::LEFT_OUT {
            options = options.exclude(*name);
        }
        let (task, bar) = self.app.out.follow(self.app.task(), "import", Unit::Files);
        let started = Instant::now();
        let report = self.main.import(source, "/", &options, &task)?;
        let seconds = started.elapsed().as_secs_f64();
        drop(bar);
        let ImportReport { files, bytes, .. } = report;
        self.step("import", seconds, Some(files), Some(bytes), None)?;
        self.say(format_args!(
            "{} ({}) from {} in {}: {} files/s, {}/s, safe from a power cut",
            count(files, "file", "files"),
            size(bytes),
            printable(&source.display().to_string()),
            took(seconds),
            rate(files, seconds),
            size(rate(bytes, seconds)),
        ))?;
        self.figures.files = files;
        self.figures.bytes = bytes;
        self.figures.import_seconds = seconds;
        let mut found = (0, 0);
        self.main.view()?.walk("/", |_, entry| {
            if entry.is_file() {
                found = (found.0 + 1, found.1 + entry.size());
            }
            Ok(Walk::Continue)
        })?;
        self.check("main holds every imported file", found == (files, bytes))
    }

    fn large_file(&mut self, len: u64) -> Result<()> {
        self.title("One large file, streamed through a write session")?;
        let started = Instant::now();
        let session = self
            .main
            .open_session(LARGE, &OpenOptions::new().truncate(true))?;
        let (task, bar) = self.app.out.follow(self.app.task(), "write", Unit::Bytes);
        bar.length(len);
        session.append_from(&mut Random::new(len), &task)?;
        let unseen = !self.main.exists(LARGE)?;
        let closed = session.close()?;
        drop(bar);
        let seconds = started.elapsed().as_secs_f64();
        self.step("large file", seconds, Some(1), Some(closed.size), None)?;
        self.say(format_args!(
            "{LARGE} ({}) in {}: {}/s",
            size(closed.size),
            took(seconds),
            size(rate(closed.size, seconds))
        ))?;
        self.figures.large_bytes = closed.size;
        self.figures.large_seconds = seconds;
        self.check("nobody saw the file before its session was closed", unseen)?;
        let verified = self.main.view()?.verify(LARGE).is_ok();
        self.check("its bytes are those of its hash", verified)
    }

    fn fork(&mut self) -> Result<(Branch, Branch)> {
        self.title("Two agents, each on a fork of main")?;
        let started = Instant::now();
        let agent_a = self.main.fork("agent-a")?;
        let seconds = started.elapsed().as_secs_f64();
        let agent_b = self.main.fork("agent-b")?;
        self.step("fork", seconds, None, None, None)?;
        self.say(format_args!(
            "a fork took {}, whatever it holds, and no space",
            took(seconds)
        ))?;
        self.figures.fork_seconds = seconds;
        let hash = self.main.view()?.tree_hash()?;
        let same = agent_a.view()?.tree_hash()? == hash && agent_b.view()?.tree_hash()? == hash;
        self.check("both forks show exactly what main shows", same)?;
        Ok((agent_a, agent_b))
    }

    fn agent_a(&mut self, agent: &Branch, paths: &Paths) -> Result<()> {
        let edits = match &paths.edited {
            Some(path) => format!(" and {path}"),
            None => String::new(),
        };
        self.title(format_args!(
            "agent-a edits {LARGE}{edits}, and deletes and renames others"
        ))?;
        let main = self.main.view()?.tree_hash()?;
        let middle = self.figures.large_bytes / 2;
        let before = self.store.stats()?.stored_bytes();
        let started = Instant::now();
        let session = agent.open_session(LARGE, &OpenOptions::new())?;
        session.write_at(middle, &[b'a'; EDIT])?;
        session.close()?;
        let seconds = started.elapsed().as_secs_f64();
        let grown = self.store.stats()?.stored_bytes().saturating_sub(before);
        self.step("edit", seconds, Some(1), Some(EDIT as u64), Some(grown))?;
        self.say(format_args!(
            "{EDIT} bytes in the middle of {LARGE}: {}, and the store grew by {} of {}",
            took(seconds),
            self.app.out.paint(BOLD, size(grown)),
            size(self.figures.large_bytes)
        ))?;
        self.figures.edit_seconds = seconds;
        self.figures.edit_grown = grown;
        if let Some(path) = &paths.edited {
            let session = agent.open_session(path, &OpenOptions::new())?;
            session.append(b"\n// agent-a was here\n")?;
            session.close()?;
        }
        if let Some(path) = &paths.deleted {
            agent.remove(path)?;
        }
        if let Some(path) = &paths.renamed {
            agent.rename(path, Paths::new_name(path)?)?;
        }
        self.check("a small edit costs little space", grown < EDIT_GROWTH_MAX)?;
        let mut read = [0; EDIT + 2];
        agent.open(LARGE)?.read_at(middle - 1, &mut read)?;
        let edited = read[1..=EDIT].iter().all(|byte| *byte == b'a');
        self.check("agent-a reads its edit", edited)?;
        let verified = agent.view()?.verify(LARGE).is_ok();
        self.check("the edited file's bytes are those of its hash", verified)?;
        let untouched = self.main.view()?.tree_hash()? == main;
        self.check("main did not change", untouched)
    }

    fn agent_b(&mut self, agent: &Branch, paths: &Paths) -> Result<()> {
        let edits = match &paths.edited {
            Some(path) => format!("edits {path} in its own way, and "),
            None => String::new(),
        };
        self.title(format_args!("agent-b {edits}adds a directory"))?;
        let mut batch = agent.batch();
        batch.mkdir("/agent-b-notes")?;
        for n in 1..=3 {
            batch.write(
                format!("/agent-b-notes/{n}.md"),
                format!("# Note {n}\n\nWritten by agent-b.\n"),
            )?;
        }
        batch.commit()?;
        self.say("four entries in one commit: all of them, or none")?;
        if let Some(path) = &paths.edited {
            let mut text = b"// agent-b was here\n".to_vec();
            text.extend(agent.read(path)?);
            agent.write(path, text)?;
            let others = self.bucket.branch("agent-a")?.read(path)?;
            let separate = agent.read(path)? != others && self.main.read(path)? != others;
            self.check("three branches read three versions of one file", separate)?;
        }
        Ok(())
    }

    fn abort(&mut self, agent: &Branch) -> Result<()> {
        self.title("agent-b starts to overwrite /large.bin, and thinks better of it")?;
        let before = agent.view()?.tree_hash()?;
        let open = self.store.sessions()?.len();
        let session = agent.open_session(LARGE, &OpenOptions::new())?;
        let len = self.figures.large_bytes.min(8 << 20);
        session.write_at(0, &vec![0; usize::try_from(len).unwrap_or(EDIT)])?;
        let listed = self.store.sessions()?.len() == open + 1;
        session.abort()?;
        self.say(format_args!("{} written and aborted", size(len)))?;
        self.check("the open session was listed", listed)?;
        let gone = self.store.sessions()?.len() == open;
        let same = agent.view()?.tree_hash()? == before;
        self.check("after the abort nothing had changed", same && gone)
    }

    fn snapshot(&mut self) -> Result<()> {
        self.title("A snapshot of main, before main moves on")?;
        let before = self.main.view()?.tree_hash()?;
        let started = Instant::now();
        self.main.snapshot("before")?;
        let seconds = started.elapsed().as_secs_f64();
        self.main.write("/news.txt", "main moved on\n")?;
        self.step("snapshot", seconds, None, None, None)?;
        self.say(format_args!("main@before took {}", took(seconds)))?;
        let pinned = self.main.view_at("before")?.tree_hash()? == before;
        let moved = self.main.view()?.tree_hash()? != before;
        self.check("the snapshot still shows what main was", pinned && moved)?;
        let seen = self.bucket.branch("agent-a")?.exists("/news.txt")?;
        self.check("what main adds shows through in its live forks", seen)
    }

    fn who_sees_what(&mut self, branches: [&Branch; 3], paths: &Paths) -> Result<()> {
        self.title("Who sees what")?;
        let mut shown = vec![TreePath::parse(LARGE)?];
        shown.extend(paths.edited.clone());
        shown.extend(paths.deleted.clone());
        if let Some(path) = &paths.renamed {
            shown.push(path.clone());
            shown.push(Paths::new_name(path)?);
        }
        shown.push(TreePath::parse("/agent-b-notes/1.md")?);
        shown.push(TreePath::parse("/news.txt")?);
        let names = branches.iter().map(|branch| branch.name());
        let names: Vec<String> = names.collect::<alknet_fs::Result<_>>()?;
        let mut heads = vec!["path"];
        heads.extend(names.iter().map(String::as_str));
        let mut table = Table::new(&heads);
        for path in &shown {
            let mut row = vec![Cell::new(path)];
            let reference = branches[0].lstat(path).ok();
            for (branch, name) in branches.iter().zip(&names) {
                let entry = branch.lstat(path).ok();
                self.app.out.record(&Sight {
                    path: path.as_str(),
                    branch: name,
                    seen: sight(entry.as_ref()),
                })?;
                let same = entry == reference;
                let style = match (&entry, same) {
                    (None, _) => DIM,
                    (Some(_), true) => Style::new(),
                    (Some(_), false) => GOOD,
                };
                row.push(Cell::new(sight(entry.as_ref())).styled(style));
            }
            table.push(row);
        }
        self.app.out.table(&table)?;
        if let Some(path) = &paths.deleted {
            let [main, a, b] = [0, 1, 2].map(|i| branches[i].exists(path).unwrap_or(false));
            let hidden = main && !a && b;
            self.check("what agent-a deleted is gone for agent-a only", hidden)?;
        }
        Ok(())
    }

    fn share(&mut self) -> Result<()> {
        self.title("What they share")?;
        let trees = [tree("main"), tree("agent-a"), tree("agent-b")];
        let sharing = self.bucket.sharing(&trees, &self.app.task())?;
        self.app.out.table(&share_table(&sharing))?;
        for tree in &sharing.trees {
            self.app.out.record(&serde_json::json!({
                "tree": tree.tree.to_string(),
                "files": tree.files,
                "bytes": tree.bytes,
                "stored": tree.stored,
                "shared": tree.shared,
                "shared_files": tree.shared_files,
            }))?;
        }
        self.figures.plain_copies = sharing.apart;
        let stored = sharing.stored;
        self.say(format_args!(
            "together {}, where plain copies would take {} ({})",
            self.app.out.paint(BOLD, size(stored)),
            size(sharing.apart),
            percent(stored, sharing.apart)
        ))?;
        let common = sharing.trees.iter().all(|t| t.shared * 10 >= t.stored * 9);
        self.check(
            "the branches share nine tenths of their content or more",
            common,
        )
    }

    fn differences(&mut self) -> Result<()> {
        for agent in ["agent-a", "agent-b"] {
            self.title(format_args!("What {agent} did: alkfs diff main {agent}"))?;
            let sum = print_diff(self.app, &self.bucket, &tree("main"), &tree(agent), 10)?;
            self.app.out.record(&sum)?;
            self.say(sum.line())?;
            let all = sum.added + sum.modified + sum.deleted + sum.renamed;
            self.check(
                "the diff shows its changes and nothing else",
                (1..=6).contains(&all),
            )?;
        }
        Ok(())
    }

    fn events(&mut self) -> Result<()> {
        self.title("What a watcher in another thread saw")?;
        let mut replay = self.store.watch(&WatchOptions {
            bucket: Some(self.bucket.name()?),
            after: Some(self.begin),
            ..WatchOptions::default()
        })?;
        let mut expected = Vec::new();
        while let Some(event) = replay.next_ready()? {
            expected.push(event.cursor);
        }
        let Some(witness) = self.witness.take() else {
            return Ok(());
        };
        let seen = witness.until(expected.last().copied())?;
        for (event, _) in seen.iter().rev().take(6).rev() {
            self.app.out.record(event)?;
            let line = event_line(self.app, event);
            self.app.out.line(format_args!("  {line}"))?;
        }
        let mut delays: Vec<i64> = seen
            .iter()
            .filter(|(event, _)| event.branch != "main")
            .map(|(event, arrived)| arrived - event.at.0)
            .collect();
        delays.sort_unstable();
        let median = delays.get(delays.len() / 2).copied().unwrap_or_default();
        self.say(format_args!(
            "{}; those of the agents' commits came {} after the commit began (median)",
            count(seen.len() as u64, "event", "events"),
            took(median as f64 / 1e9),
        ))?;
        self.figures.events = seen.len() as u64;
        let cursors: Vec<Cursor> = seen.iter().map(|(event, _)| event.cursor).collect();
        self.check(
            "the watcher saw every event, once and in order",
            !cursors.is_empty() && cursors == expected,
        )
    }

    fn fsck(&mut self) -> Result<()> {
        self.title("Is the store healthy?")?;
        let (task, bar) = self.app.out.follow(self.app.task(), "fsck", Unit::Bytes);
        let started = Instant::now();
        let report = self.store.fsck(&FsckOptions::new(), &task)?;
        drop(bar);
        self.say(format_args!(
            "{} and {} read and verified in {}",
            count(report.entries, "entry", "entries"),
            size(report.bytes),
            took(started.elapsed().as_secs_f64())
        ))?;
        self.check("fsck finds nothing wrong", report.problems.is_empty())
    }

    fn figures(&mut self) -> Result<()> {
        self.title("Figures")?;
        self.figures.stored = self.store.stats()?.stored_bytes();
        self.figures.seconds = self.started.elapsed().as_secs_f64();
        let f = &self.figures;
        self.app.out.record(f)?;
        let mut table = Table::new(&[]);
        let mut line = |name: &str, value: String, note: String| {
            table.push(vec![
                Cell::new(format_args!("  {name}")).styled(DIM),
                Cell::right(value).styled(BOLD),
                Cell::new(note).styled(DIM),
            ]);
        };
        let none = String::new;
        line(
            "files imported",
            count(f.files, "file", "files"),
            size(f.bytes),
        );
        let speed = format!("{} files/s", rate(f.files, f.import_seconds));
        line("import", took(f.import_seconds), speed);
        let speed = format!("{}/s", size(rate(f.large_bytes, f.large_seconds)));
        line("large file written", took(f.large_seconds), speed);
        line("fork", took(f.fork_seconds), none());
        let note = format!("the store grew by {}", size(f.edit_grown));
        line("small edit of it", took(f.edit_seconds), note);
        line("events", count(f.events, "event", "events"), none());
        let note = format!(
            "plain copies of the three branches: {}",
            size(f.plain_copies)
        );
        line("the whole store on disk", size(f.stored), note);
        line("the whole tour", took(f.seconds), none());
        self.app.out.table(&table)?;
        let verdict = match self.failed {
            0 => self.app.out.paint(GOOD, "All checks passed."),
            n => {
                let failed = count(u64::from(n), "check", "checks");
                self.app.out.paint(BAD, format_args!("{failed} failed."))
            }
        };
        self.app.out.line(format_args!("\n{verdict}"))?;
        Ok(())
    }

    fn title(&self, title: impl std::fmt::Display) -> Result<()> {
        self.app.cancel().check()?;
        self.app
            .out
            .line(format_args!("\n{}", self.app.out.paint(BOLD, title)))?;
        Ok(self.app.out.flush()?)
    }

    fn say(&self, line: impl std::fmt::Display) -> Result<()> {
        Ok(self.app.out.line(format_args!("  {line}"))?)
    }

    fn step(
        &self,
        step: &str,
        seconds: f64,
        files: Option<u64>,
        bytes: Option<u64>,
        grown: Option<u64>,
    ) -> Result<()> {
        Ok(self.app.out.record(&Step {
            step,
            seconds,
            files,
            bytes,
            grown,
        })?)
    }

    fn check(&mut self, check: &str, ok: bool) -> Result<()> {
        self.app.out.record(&Check { check, ok })?;
        let mark = match ok {
            true => self.app.out.paint(GOOD, "✓"),
            false => self.app.out.paint(BAD, "✗ not so:"),
        };
        self.app.out.line(format_args!("  {mark} {check}"))?;
        self.failed += u32::from(!ok);
        Ok(self.app.out.flush()?)
    }
}

fn tree(branch: &str) -> TreeRef {
    TreeRef {
        branch: branch.to_owned(),
        snapshot: None,
    }
}

fn sight(entry: Option<&Entry>) -> String {
    match entry {
        None => "-".to_owned(),
        Some(entry) => match entry.hash() {
            Some(hash) => format!("{} {}", size(entry.size()), &hash.to_hex()[..6]),
            None => match entry.kind() {
                Kind::Dir => "directory".to_owned(),
                _ => "link".to_owned(),
            },
        },
    }
}

fn rate(amount: u64, seconds: f64) -> u64 {
    (amount as f64 / seconds.max(1e-9)) as u64
}

/// Watches in a thread of its own, and notes when each event arrived.
struct Witness {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<alknet_fs::Result<Vec<(Event, i64)>>>,
}

impl Witness {
    fn new(mut watcher: Watcher) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watch = move || {
            let mut seen = Vec::new();
            loop {
                // Asked before reading, so that what was committed before the stop is still read.
                let last = stopped.load(Ordering::Acquire);
                while let Some(event) = watcher.next_timeout(Duration::from_millis(20))? {
                    seen.push((event, now()));
                }
                if last {
                    return Ok(seen);
                }
            }
        };
        let thread = thread::Builder::new()
            .name("witness".to_owned())
            .spawn(watch)?;
        Ok(Self { stop, thread })
    }

    /// Ends the watch and returns what was seen, up to a cursor.
    fn until(self, last: Option<Cursor>) -> Result<Vec<(Event, i64)>> {
        self.stop.store(true, Ordering::Release);
        let mut seen = self.thread.join().unwrap_or_else(|_| Ok(Vec::new()))?;
        seen.retain(|(event, _)| Some(event.cursor) <= last);
        Ok(seen)
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}
