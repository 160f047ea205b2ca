//! Replays `tests/vectors/*.json`, as `tests/vectors/README.md` describes them, on the store in
//! memory and on the one on disk.
#![allow(clippy::unwrap_used, reason = "everything here runs in tests only")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use alknet_fs::{
    Batch, Branch, BranchInfo, Bucket, Cancel, Cursor, Difference, Durability, Entry, ErrorKind,
    EventFilter, ExportOptions, File, FileOptions, Follow, FsckOptions, GcOptions, Hash,
    ImportOptions, Kind, OpenOptions, Options, PutMode, Reader, Result, Retention, Session,
    SessionId, SetAttrs, Sharing, Store, Task, Timestamp, TreePath, TreeRef, View, Walk,
    WatchOptions, Watcher,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// What cannot be provoked by operations alone; the README gives the reasons.
const NOT_PROVOKED: &[ErrorKind] = &[
    ErrorKind::PermissionDenied,
    ErrorKind::NoSpace,
    ErrorKind::Busy,
    ErrorKind::ContentUnavailable,
    ErrorKind::Corrupt,
    ErrorKind::Io,
];

#[test]
fn memory() {
    replay_all(false);
}

#[test]
fn disk() {
    replay_all(true);
}

#[test]
fn the_vectors_cover_every_operation_and_error() {
    let mut names = HashSet::new();
    let mut ops = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for (file, vectors) in files() {
        for vector in &vectors {
            let name = text(&vector["name"]);
            assert!(names.insert(name.clone()), "{file}: {name} is not unique");
            assert!(!vector["final"].as_object().unwrap().is_empty(), "{name}");
            for step in vector["steps"].as_array().unwrap() {
                ops.insert(text(&step["op"]));
                if let Some(kind) = step.pointer("/expect/error/kind") {
                    kinds.insert(text(kind));
                }
            }
        }
    }
    assert!(names.len() >= 150, "{} vectors", names.len());
    // Every operation has a row of the README's tables that begins with its name.
    let readme = fs::read_to_string(dir().join("README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<_> = rows
        .filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert_eq!(ops, documented);
    let provoked = ErrorKind::ALL.iter().filter(|k| !NOT_PROVOKED.contains(k));
    let provoked: BTreeSet<_> = provoked.map(|kind| kind.name().to_owned()).collect();
    assert_eq!(kinds, provoked);
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn files() -> BTreeMap<String, Vec<Value>> {
    let mut out = BTreeMap::new();
    for item in fs::read_dir(dir()).unwrap() {
        let path = item.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let file: Value = serde_json::from_slice(&fs::read(&path).unwrap())
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(file["format"], 1, "{name}");
            out.insert(name, file["vectors"].as_array().unwrap().clone());
        }
    }
    out
}

/// Replays everything, and only then fails, with all that differs.
fn replay_all(on_disk: bool) {
    let files = files();
    let failures: String = thread::scope(|scope| {
        let replays: Vec<_> = files
            .iter()
            .map(|(file, vectors)| scope.spawn(move || replay_file(file, vectors, on_disk)))
            .collect();
        let results = replays.into_iter().map(|replay| replay.join().unwrap());
        results.collect()
    });
    assert!(failures.is_empty(), "\n{failures}");
}

fn replay_file(file: &str, vectors: &[Value], on_disk: bool) -> String {
    let mut failures = String::new();
    for vector in vectors {
        let name = text(&vector["name"]);
        let needs_host = vector["needs"] == json!(["host"]);
        assert!(needs_host || vector["needs"].is_null(), "{file}: {name}");
        if needs_host && !cfg!(unix) {
            continue;
        }
        if let Err(why) = replay(vector, on_disk) {
            writeln!(failures, "{file}: {name}: {why}").unwrap();
        }
    }
    failures
}

fn replay(vector: &Value, on_disk: bool) -> Result<(), String> {
    let mut world = World::new(on_disk);
    for (i, step) in vector["steps"].as_array().unwrap().iter().enumerate() {
        let args = Args::new(step);
        let outcome = world.step(&args);
        check(&step["expect"], &outcome)
            .and_then(|()| args.check_all_used())
            .map_err(|why| format!("step {} {step}: {why}", i + 1))?;
    }
    let trees = vector["final"].as_object().unwrap();
    check_trees(&world, trees)?;
    if on_disk {
        world.reopen();
        check_trees(&world, trees).map_err(|why| format!("after reopening: {why}"))?;
    }
    Ok(())
}

fn check(expect: &Value, outcome: &Result<Outcome>) -> Result<(), String> {
    match (expect.get("ok"), expect.get("error"), outcome) {
        (None, None, Ok(_)) => Ok(()),
        (Some(want), None, Ok(Outcome::Bytes(bytes))) if bytes_of(want) == *bytes => Ok(()),
        (Some(want), None, Ok(Outcome::Value(value))) if matches(want, value) => Ok(()),
        (_, None, Ok(Outcome::Value(value))) => Err(format!("got {value}")),
        (_, _, Ok(Outcome::Bytes(bytes))) => {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
            Err(format!("got {} bytes: {head:?}", bytes.len()))
        }
        (_, Some(_), Ok(Outcome::Value(value))) => Err(format!("succeeded with {value}")),
        (None, Some(want), Err(e)) => {
            let got = json!({"kind": e.kind().name(), "code": e.code(), "errno": e.errno()});
            let want = want.as_object().unwrap();
            let known = got.as_object().unwrap();
            let same = known
                .iter()
                .all(|(key, value)| want.get(key) == Some(value));
            let mentions = want.get("mentions").map(text);
            let named = mentions.is_none_or(|words| e.to_string().contains(&words));
            let clean = want
                .keys()
                .all(|k| known.contains_key(k) || k == "mentions");
            if same && named && clean {
                Ok(())
            } else {
                Err(format!("got {got}: {e}"))
            }
        }
        (_, _, Err(e)) => Err(format!("failed with {}: {e}", e.kind().name())),
    }
}

/// Tells whether a result has all that was stated of it.
fn matches(want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::Array(want), Value::Array(got)) => {
            want.len() == got.len() && want.iter().zip(got).all(|(w, g)| matches(w, g))
        }
        (Value::Object(want), Value::Object(got)) => want
            .iter()
            .all(|(key, want)| matches(want, got.get(key).unwrap_or(&Value::Null))),
        (_, Value::String(got)) if !want.is_null() => bytes_of(want) == got.as_bytes(),
        _ => want == got,
    }
}

fn check_trees(world: &World, trees: &Map<String, Value>) -> Result<(), String> {
    for (name, want) in trees {
        let view = world.view_of(name);
        let view = view.map_err(|e| format!("final {name}: {e}"))?;
        let listing = want["tree"].as_array().unwrap();
        let mut entries = Vec::new();
        view.walk("/", |path, entry| {
            entries.push((path.clone(), entry.clone()));
            Ok(Walk::Continue)
        })
        .map_err(|e| e.to_string())?;
        let mut got = Vec::new();
        for (path, entry) in &entries {
            let data = match entry.kind() {
                Kind::File => view.read(path).map_err(|e| e.to_string())?,
                Kind::Symlink => entry.target().unwrap().into(),
                Kind::Dir => Vec::new(),
            };
            got.push(line(
                entry.kind().name(),
                entry.attrs.mode,
                path.as_str(),
                &data,
            ));
        }
        let want_lines: Vec<_> = listing.iter().map(listed).collect();
        if want_lines != got {
            let text = |lines: &[String]| lines.concat();
            let (want, got) = (text(&want_lines), text(&got));
            return Err(format!("final {name}: wanted\n{want}got\n{got}"));
        }
        let hash = Hash::of(want_lines.concat().as_bytes()).to_hex();
        if want["hash"] != *hash {
            return Err(format!("final {name}: the listing's hash is {hash}"));
        }
        let reported = view.tree_hash().map_err(|e| e.to_string())?.to_hex();
        if reported != hash {
            return Err(format!("final {name}: tree_hash says {reported}"));
        }
    }
    Ok(())
}

/// Renders an expected entry as the line that the tree hash is made of.
fn listed(entry: &Value) -> String {
    let mode = u32::from_str_radix(&text(&entry["mode"]), 8).unwrap();
    let data = match entry["kind"].as_str().unwrap() {
        "file" => bytes_of(&entry["data"]),
        "symlink" => bytes_of(&entry["target"]),
        _ => Vec::new(),
    };
    line(
        entry["kind"].as_str().unwrap(),
        mode,
        &text(&entry["path"]),
        &data,
    )
}

fn line(kind: &str, mode: u32, path: &str, data: &[u8]) -> String {
    let what = match kind {
        "dir" => "-".to_owned(),
        _ => blake3::hash(data).to_string(),
    };
    format!("{kind} {mode:o} {what} {path}\n")
}

/// Decodes what the README calls bytes.
fn bytes_of(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Object(object) => {
            if let Some(unit) = object.get("repeat") {
                bytes_of(unit).repeat(integer(&object["times"]) as usize)
            } else if let Some(parts) = object.get("concat") {
                parts
                    .as_array()
                    .unwrap()
                    .iter()
                    .flat_map(bytes_of)
                    .collect()
            } else {
                let digits = object["hex"].as_str().unwrap().as_bytes();
                let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
                pairs
                    .map(|pair| u8::from_str_radix(pair, 16).unwrap())
                    .collect()
            }
        }
        _ => panic!("not bytes: {value}"),
    }
}

fn text(value: &Value) -> String {
    String::from_utf8(bytes_of(value)).unwrap()
}

fn integer(value: &Value) -> u64 {
    match value {
        Value::String(digits) => digits.parse().unwrap(),
        _ => value
            .as_u64()
            .unwrap_or_else(|| panic!("not an integer: {value}")),
    }
}

/// The arguments of a step. A step with one that its operation does not know is an error.
struct Args<'a> {
    step: &'a Map<String, Value>,
    used: RefCell<HashSet<&'static str>>,
}

impl<'a> Args<'a> {
    fn new(step: &'a Value) -> Self {
        Self {
            step: step.as_object().unwrap(),
            used: RefCell::new(HashSet::from(["op", "expect", "as"])),
        }
    }

    fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(key);
        self.step.get(key)
    }

    fn need(&self, key: &'static str) -> &'a Value {
        self.get(key)
            .unwrap_or_else(|| panic!("{:?} lacks {key}", self.step))
    }

    fn check_all_used(&self) -> Result<(), String> {
        let used = self.used.borrow();
        match self.step.keys().find(|key| !used.contains(key.as_str())) {
            None => Ok(()),
            Some(key) => Err(format!("the operation has no argument {key}")),
        }
    }

    fn bytes(&self, key: &'static str) -> Vec<u8> {
        bytes_of(self.need(key))
    }

    fn text(&self, key: &'static str) -> String {
        text(self.need(key))
    }

    fn opt_text(&self, key: &'static str) -> Option<String> {
        self.get(key).map(text)
    }

    fn integer(&self, key: &'static str) -> u64 {
        integer(self.need(key))
    }

    fn flag(&self, key: &'static str, default: bool) -> bool {
        self.get(key).map_or(default, |v| v.as_bool().unwrap())
    }

    fn texts(&self, key: &'static str) -> Vec<String> {
        let list = self.get(key).map(|v| v.as_array().unwrap());
        list.into_iter().flatten().map(text).collect()
    }

    fn mode(&self) -> Option<u32> {
        self.opt_text("mode")
            .map(|digits| u32::from_str_radix(&digits, 8).unwrap())
    }

    fn attrs(&self) -> SetAttrs {
        let number = |key| self.get(key).map(|v| integer(v) as u32);
        SetAttrs {
            mode: self.mode(),
            uid: number("uid"),
            gid: number("gid"),
            mtime: self
                .opt_text("mtime")
                .map(|t| Timestamp(t.parse().unwrap())),
        }
    }

    fn put_mode(&self) -> PutMode {
        match self.opt_text("put").as_deref() {
            None | Some("create_or_replace") => PutMode::CreateOrReplace,
            Some("create_new") => PutMode::CreateNew,
            Some("replace_existing") => PutMode::ReplaceExisting,
            Some(other) => panic!("no such put mode: {other}"),
        }
    }

    fn follow(&self) -> Follow {
        match self.flag("follow", true) {
            true => Follow::Yes,
            false => Follow::No,
        }
    }

    fn task(&self) -> Task {
        let cancel = Cancel::new();
        if self.flag("cancelled", false) {
            cancel.cancel();
        }
        Task::new().cancel_with(&cancel)
    }

    fn filter(&self) -> Result<EventFilter> {
        let mut filter = EventFilter::all();
        if let Some(branch) = self.opt_text("branch") {
            filter = filter.branch(branch);
        }
        if let Some(path) = self.opt_text("under") {
            filter = filter.under(TreePath::parse(&path)?);
        }
        if let Some(path) = self.opt_text("directly_in") {
            filter = filter.directly_in(TreePath::parse(&path)?);
        }
        if self.get("globs").is_some() {
            filter = filter.globs(self.texts("globs"))?;
        }
        Ok(filter)
    }
}

enum Outcome {
    Value(Value),
    Bytes(Vec<u8>),
}

impl From<Value> for Outcome {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

const NOTHING: Outcome = Outcome::Value(Value::Null);

/// Vectors cut no power, so they need not wait for the disk.
fn options() -> Options {
    Options::new()
        .author("tester")
        .durability(Durability::Relaxed)
}

/// A store with all that a vector holds open in it.
struct World {
    sessions: HashMap<String, Session>,
    batches: HashMap<String, Batch>,
    views: HashMap<String, View>,
    readers: HashMap<String, Reader>,
    open_files: HashMap<String, File>,
    watchers: HashMap<String, Watcher>,
    branches: HashMap<String, Branch>,
    ids: HashMap<String, SessionId>,
    store: Option<Store>,
    on_disk: bool,
    temp: TempDir,
}

impl World {
    fn new(on_disk: bool) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let options = options();
        let store = if on_disk {
            options.create(temp.path().join("store"))
        } else {
            options.memory()
        };
        Self {
            sessions: HashMap::new(),
            batches: HashMap::new(),
            views: HashMap::new(),
            readers: HashMap::new(),
            open_files: HashMap::new(),
            watchers: HashMap::new(),
            branches: HashMap::new(),
            ids: HashMap::new(),
            store: Some(store.unwrap()),
            on_disk,
            temp,
        }
    }

    fn reopen(&mut self) {
        if !self.on_disk {
            return;
        }
        self.sessions.clear();
        self.batches.clear();
        self.views.clear();
        self.readers.clear();
        self.open_files.clear();
        self.watchers.clear();
        self.branches.clear();
        self.store = None;
        self.store = Some(options().open(self.temp.path().join("store")).unwrap());
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn host(&self, args: &Args<'_>) -> PathBuf {
        self.temp.path().join("host").join(args.text("dir"))
    }

    fn bucket(&self, args: &Args<'_>) -> Result<Bucket> {
        let name = args.opt_text("bucket");
        self.store().bucket(name.as_deref().unwrap_or("default"))
    }

    /// Splits `[BUCKET:]BRANCH[@SNAPSHOT]` and opens the branch.
    fn find<'n>(&self, name: &'n str) -> Result<(Branch, Option<&'n str>)> {
        let (bucket, rest) = name.split_once(':').unwrap_or(("default", name));
        let (branch, snapshot) = match rest.split_once('@') {
            Some((branch, snapshot)) => (branch, Some(snapshot)),
            None => (rest, None),
        };
        Ok((self.store().bucket(bucket)?.branch(branch)?, snapshot))
    }

    fn view_of(&self, name: &str) -> Result<View> {
        let (branch, snapshot) = self.find(name)?;
        match snapshot {
            None => branch.view(),
            Some(snapshot) => branch.view_at(snapshot),
        }
    }

    fn branch(&self, args: &Args<'_>) -> Result<Branch> {
        if let Some(handle) = args.opt_text("handle") {
            return Ok(self.branches[&handle].clone());
        }
        let name = args.opt_text("on").unwrap_or_else(|| "main".to_owned());
        let (branch, snapshot) = self.find(&name)?;
        assert_eq!(snapshot, None, "a snapshot cannot be written");
        Ok(branch)
    }

    /// Reads through the view that the step names, or through one opened for it.
    fn read<R>(&self, args: &Args<'_>, read: impl FnOnce(&View) -> Result<R>) -> Result<R> {
        if let Some(name) = args.opt_text("view") {
            return read(&self.views[&name]);
        }
        match args.opt_text("on") {
            Some(name) => read(&self.view_of(&name)?),
            None => read(&self.branch(args)?.view()?),
        }
    }

    fn session(&self, args: &Args<'_>) -> &Session {
        &self.sessions[&args.text("session")]
    }

    fn session_id(&self, args: &Args<'_>) -> SessionId {
        match args.get("id") {
            Some(id) => SessionId(integer(id)),
            None => self.ids[&args.text("session")],
        }
    }

    fn keep_session(&mut self, name: String, session: Session) {
        self.ids.insert(name.clone(), session.id());
        self.sessions.insert(name, session);
    }

    fn keep_reader(&mut self, args: &Args<'_>, reader: Reader) -> Outcome {
        let outcome = json!({"size": reader.size(), "hash": reader.hash()});
        self.readers.insert(args.text("as"), reader);
        outcome.into()
    }

    fn step(&mut self, args: &Args<'_>) -> Result<Outcome> {
        let op = args.need("op").as_str().unwrap();
        if args.step.contains_key("batch") && !matches!(op, "commit" | "drop") {
            self.collect(op, args)?;
            return Ok(NOTHING);
        }
        let groups = [
            Self::step_store,
            Self::step_upkeep,
            Self::step_branch,
            Self::step_read,
            Self::step_write,
            Self::step_session,
            Self::step_file,
            Self::step_host,
        ];
        for group in groups {
            if let Some(outcome) = group(self, op, args)? {
                return Ok(outcome);
            }
        }
        panic!("no such operation: {op}")
    }

    fn step_store(&mut self, op: &str, args: &Args<'_>) -> Result<Option<Outcome>> {
        match op {
            "create_bucket" => self.store().create_bucket(&args.text("name")).map(drop)?,
            "rename_bucket" => {
                let (from, to) = (args.text("name"), args.text("to"));
                self.store().rename_bucket(&from, &to)?;
            }
            "delete_bucket" => self.store().delete_bucket(&args.text("name"))?,
            "buckets" => return some(json!(self.store().buckets()?)),
            "open_bucket" => {
                let name = self.store().bucket(&args.text("name"))?.name()?;
                return some(json!({"name": name}));
            }
            "reopen" => self.reopen(),
            "drop" => {
                for (key, value) in args.step {
                    let name = value.as_str().unwrap_or_default();
                    let found = match key.as_str() {
                        "op" => continue,
                        "session" => self.sessions.remove(name).is_some(),
                        "batch" => self.batches.remove(name).is_some(),
                        "view" => self.views.remove(name).is_some(),
                        "reader" => self.readers.remove(name).is_some(),
                        "file" => self.open_files.remove(name).is_some(),
                        other => panic!("cannot drop a {other}"),
                    };
                    assert!(found, "there is no {key} {name}");
                }
                for key in ["session", "batch", "view", "reader", "file"] {
                    args.get(key);
                }
            }
            "watch" => {
                let after = match args.get("after") {
                    None => None,
                    Some(Value::String(start)) if start == "start" => Some(Cursor::START),
                    Some(other) => Some(self.watchers[&text(&other["watcher"])].cursor()),
                };
                let bucket = match args.get("bucket") {
                    None => Some("default".to_owned()),
                    Some(Value::Null) => None,
                    Some(name) => Some(text(name)),
                };
                let options = WatchOptions {
                    bucket,
                    filter: args.filter()?,
                    after,
                };
                let watcher = self.store().watch(&options)?;
                self.watchers.insert(args.text("as"), watcher);
            }
            "next" => {
                let watcher = self.watchers.get_mut(&args.text("watcher")).unwrap();
                let event = watcher.next_timeout(Duration::ZERO)?;
                return some(json!(event));
            }
            "log" => {
                let limit = args.integer("limit") as usize;
                let bucket = self.bucket(args)?;
                return some(json!(bucket.log(&args.filter()?, limit)?));
            }
            "prune_events" => {
                let retention = Retention {
                    not_before: args
                        .opt_text("not_before")
                        .map(|t| Timestamp(t.parse().unwrap())),
                    at_most: args.get("at_most").map(integer),
                };
                return some(json!(self.bucket(args)?.prune_events(&retention)?));
            }
            _ => return Ok(None),
        }
        some(NOTHING)
    }

    fn step_upkeep(&mut self, op: &str, args: &Args<'_>) -> Result<Option<Outcome>> {
        match op {
            "stats" => {
                let stats = self.store().stats()?;
                some(json!({
                    "buckets": stats.buckets, "branches": stats.branches,
                    "snapshots": stats.snapshots, "sessions": stats.sessions,
                    "contents": stats.contents, "content_bytes": stats.content_bytes,
                }))
            }
            "sharing" => {
                let trees = args.texts("trees");
                let trees: Result<Vec<TreeRef>> = trees.iter().map(|t| t.parse()).collect();
                some(sharing(self.bucket(args)?.sharing(&trees?, &args.task())?))
            }
            "fsck" => {
                let options = FsckOptions::new().fast(args.flag("fast", false));
                let report = self.store().fsck(&options, &args.task())?;
                let problems = report.problems.iter();
                let problems = problems.map(|p| json!({"subject": p.subject, "detail": p.detail}));
                some(json!({
                    "entries": report.entries, "contents": report.contents,
                    "bytes": report.bytes, "problems": problems.collect::<Value>(),
                }))
            }
            "gc" => {
                let mut options = GcOptions::new().dry_run(args.flag("dry_run", false));
                if let Some(seconds) = args.get("grace") {
                    options = options.grace(Duration::from_secs(integer(seconds)));
                }
                if let Some(count) = args.get("keep_events") {
                    options = options.keep_events(integer(count));
                }
                let report = self.store().gc(&options, &args.task())?;
                some(json!({
                    "events": report.events, "versions": report.versions,
                    "contents": report.contents, "content_bytes": report.content_bytes,
                    "waiting": report.waiting,
                }))
            }
            _ => Ok(None),
        }
    }

    fn step_branch(&mut self, op: &str, args: &Args<'_>) -> Result<Option<Outcome>> {
        match op {
            "open_branch" => {
                let branch = self.branch(args)?;
                if let Some(name) = args.opt_text("as") {
                    self.branches.insert(name, branch);
                }
            }
            "branches" => {
                let branches = self.bucket(args)?.branches()?;
                return some(branches.into_iter().map(branch_info).collect::<Value>());
            }
            "info" => return some(branch_info(self.branch(args)?.info()?)),
            "fork" => {
                let (from, name) = (args.text("from"), args.text("name"));
                let from: TreeRef = from.parse()?;
                let branch = self.bucket(args)?.branch(&from.branch)?;
                match from.snapshot {
                    None => branch.fork(&name)?,
                    Some(snapshot) => branch.fork_at(&snapshot, &name)?,
                };
            }
            "rename_branch" => self.branch(args)?.rename_to(&args.text("name"))?,
            "delete_branch" => self.bucket(args)?.delete_branch(&args.text("name"))?,
            "snapshot" => self.branch(args)?.snapshot(&args.text("name")).map(drop)?,
            "snapshots" => {
                let snapshots = self.branch(args)?.snapshots()?;
                let names = snapshots.iter().map(|s| json!({"name": s.name}));
                return some(names.collect::<Value>());
            }
            "delete_snapshot" => self.branch(args)?.delete_snapshot(&args.text("snapshot"))?,
            "restore" => self.branch(args)?.restore(&args.text("snapshot"))?,
            "diff" => {
                let (from, to) = (args.text("from"), args.text("to"));
                let bucket = self.bucket(args)?;
                let under = args.bytes("under");
                let diff = bucket.diff(&from.parse()?, &to.parse()?, &under[..])?;
                return some(diff.into_iter().map(difference).collect::<Value>());
            }
            _ => return Ok(None),
        }
        some(NOTHING)
    }

    fn step_read(&mut self, op: &str, args: &Args<'_>) -> Result<Option<Outcome>> {
        // What a branch offers itself is called on it, unless the step names a view.
        let direct = !args.step.contains_key("view")
            && !args.step.get("on").is_some_and(|on| text(on).contains('@'));
        if op == "view" {
            let name = args.opt_text("on").unwrap_or_else(|| "main".to_owned());
            let view = self.view_of(&name)?;
            self.views.insert(args.text("as"), view);
            return some(NOTHING);
        }
        if op == "tree_hash" {
            let hash = self.read(args, View::tree_hash)?;
            return some(json!(hash));
        }
        if op == "open_content" {
            let hash = args.text("hash").parse()?;
            let reader = self.read(args, |v| v.open_content(&hash))?;
            return some(self.keep_reader(args, reader));
        }
        if op == "read_at" && args.step.contains_key("reader") {
            let reader = &self.readers[&args.text("reader")];
            let mut buffer = vec![0; args.integer("len") as usize];
            let n = reader.read_at(args.integer("offset"), &mut buffer)?;
            buffer.truncate(n);
            return some(Outcome::Bytes(buffer));
        }
        if !matches!(
            op,
            "stat"
                | "lstat"
                | "exists"
                | "canonicalize"
                | "read_link"
                | "list"
                | "walk"
                | "glob"
                | "read"
                | "verify"
                | "open_reader"
        ) {
            return Ok(None);
        }
        let path = args.bytes("path");
        let path = &path[..];
        let branch = match direct {
            true => Some(self.branch(args)?),
            false => None,
        };
        some(match (op, branch) {
            ("stat", Some(b)) => entry(&b.stat(path)?).into(),
            ("stat", None) => entry(&self.read(args, |v| v.stat(path))?).into(),
            ("lstat", Some(b)) => entry(&b.lstat(path)?).into(),
            ("lstat", None) => entry(&self.read(args, |v| v.lstat(path))?).into(),
            ("exists", Some(b)) => json!(b.exists(path)?).into(),
            ("exists", None) => json!(self.read(args, |v| v.exists(path))?).into(),
            ("read_link", Some(b)) => Outcome::Bytes(b.read_link(path)?.into()),
            ("read_link", None) => Outcome::Bytes(self.read(args, |v| v.read_link(path))?.into()),
            ("read", Some(b)) => Outcome::Bytes(b.read(path)?),
            ("read", None) => Outcome::Bytes(self.read(args, |v| v.read(path))?),
            ("open_reader", Some(b)) => {
                let reader = b.open(path)?;
                self.keep_reader(args, reader)
            }
            ("open_reader", None) => {
                let reader = self.read(args, |v| v.open(path))?;
                self.keep_reader(args, reader)
            }
            ("list", branch) => {
                let entries = match branch {
                    Some(b) => b.list(path)?,
                    None => self.read(args, |v| v.list(path))?,
                };
                let named = entries.iter().map(|e| {
                    let mut value = entry(&e.entry);
                    value["name"] = json!(e.name);
                    value
                });
                named.collect::<Value>().into()
            }
            ("canonicalize", _) => {
                let real = self.read(args, |v| v.canonicalize(path))?;
                Outcome::Bytes(real.as_str().into())
            }
            ("walk", _) => {
                let mut found = Vec::new();
                self.read(args, |v| {
                    v.walk(path, |path, e| {
                        found.push((path.clone(), e.clone()));
                        Ok(Walk::Continue)
                    })
                })?;
                found.iter().map(at_path).collect::<Value>().into()
            }
            ("glob", _) => {
                let pattern = args.text("pattern");
                let found = self.read(args, |v| v.glob(path, &pattern))?;
                found.iter().map(at_path).collect::<Value>().into()
            }
            _ => {
                self.read(args, |v| v.verify(path))?;
                NOTHING
            }
        })
    }

    fn step_write(&mut self, op: &str, args: &Args<'_>) -> Result<Option<Outcome>> {
        if !matches!(
            op,
            "write"
                | "put"
                | "mkdir"
                | "mkdir_all"
                | "symlink"
                | "hard_link"
                | "remove"
                | "remove_dir"
                | "remove_all"
                | "rename"
                | "rename_new"
                | "copy"
                | "set_attrs"
                | "batch"
                | "commit"
        ) {
            return Ok(None);
        }
        if op == "commit" {
            let batch = self.batches.remove(&args.text("batch")).unwrap();
            batch.commit()?;
            return some(NOTHING);
        }
        let branch = self.branch(args)?;
        let path = |key| args.bytes(key);
        match op {
            "write" => branch.write(&path("path")[..], args.bytes("data"))?,
            "put" => {
                let (data, set) = (args.bytes("data"), args.attrs());
                branch.put(&path("path")[..], data, &set, args.put_mode())?;
            }
            "mkdir" => match args.attrs() {
                set if set == SetAttrs::default() => branch.mkdir(&path("path")[..])?,
                set => branch.mkdir_with(&path("path")[..], &set)?,
            },
            "mkdir_all" => branch.mkdir_all(&path("path")[..])?,
            "symlink" => branch.symlink(&args.text("target"), &path("path")[..])?,
            "hard_link" => branch.hard_link(&path("target")[..], &path("path")[..])?,
            "remove" => branch.remove(&path("path")[..])?,
            "remove_dir" => branch.remove_dir(&path("path")[..])?,
            "remove_all" => return some(json!(branch.remove_all(&path("path")[..])?)),
            "rename" => branch.rename(&path("from")[..], &path("to")[..])?,
            "rename_new" => branch.rename_new(&path("from")[..], &path("to")[..])?,
            "copy" => {
                let copied = branch.copy(&path("from")[..], &path("to")[..])?;
                return some(json!(copied));
            }
            "set_attrs" => {
                branch.set_attrs(&path("path")[..], &args.attrs(), args.follow())?;
            }
            _ => {
                self.batches.insert(args.text("as"), branch.batch());
            }
        }
        some(NOTHING)
    }

    /// Adds a change to a batch.
    fn collect(&mut self, op: &str, args: &Args<'_>) -> Result<()> {
        let batch = self.batches.get_mut(&args.text("batch")).unwrap();
        let path = |key| args.bytes(key);
        match op {
            "write" => batch.write(&path("path")[..], args.bytes("data")),
            "put" => {
                let (data, set) = (args.bytes("data"), args.attrs());
                batch.put(&path("path")[..], data, &set, args.put_mode())
            }
            "mkdir" => match args.attrs() {
                set if set == SetAttrs::default() => batch.mkdir(&path("path")[..]),
                set => batch.mkdir_with(&path("path")[..], &set),
            },
            "mkdir_all" => batch.mkdir_all(&path("path")[..]),
            "symlink" => match args.attrs() {
                set if set == SetAttrs::default() => {
                    batch.symlink(&args.text("target"), &path("path")[..])
                }
                set => batch.symlink_with(&args.text("target"), &path("path")[..], &set),
            },
            "remove" => batch.remove(&path("path")[..]),
            "remove_dir" => batch.remove_dir(&path("path")[..]),
            "remove_all" => batch.remove_all(&path("path")[..]),
            "rename" => batch.rename(&path("from")[..], &path("to")[..]),
            "copy" => batch.copy(&path("from")[..], &path("to")[..]),
            "set_attrs" => batch.set_attrs(&path("path")[..], &args.attrs(), args.follow()),
            _ => panic!("a batch has no {op}"),
        }
    }

    fn step_session(&mut self, op: &str, args: &Args<'_>) -> Result<Option<Outcome>> {
        match op {
            "open" => {
                let mut options = OpenOptions::new()
                    .create(args.flag("create", true))
                    .create_new(args.flag("create_new", false))
                    .truncate(args.flag("truncate", false))
                    .exclusive(args.flag("exclusive", false));
                if let Some(owner) = args.opt_text("owner") {
                    options = options.owner(owner);
                }
                if let Some(mode) = args.mode() {
                    options = options.mode(mode);
                }
                let (name, path) = (args.text("as"), args.bytes("path"));
                let session = self.branch(args)?.open_session(&path[..], &options)?;
                self.keep_session(name, session);
            }
            "write_at" => {
                let offset = args.integer("offset");
                self.session(args).write_at(offset, &args.bytes("data"))?;
            }
            "append" => {
                let offset = self.session(args).append(&args.bytes("data"))?;
                return some(json!(offset));
            }
            "truncate" => self.session(args).truncate(args.integer("size"))?,
            "read_at" => {
                let mut buffer = vec![0; args.integer("len") as usize];
                let n = self
                    .session(args)
                    .read_at(args.integer("offset"), &mut buffer)?;
                buffer.truncate(n);
                return some(Outcome::Bytes(buffer));
            }
            "size" => return some(json!(self.session(args).size())),
            "session_path" => {
                return some(Outcome::Bytes(self.session(args).path().as_str().into()));
            }
            "sync" => self.session(args).sync()?,
            "close" => {
                let closed = match args.attrs() {
                    set if set == SetAttrs::default() => self.session(args).close()?,
                    set => self.session(args).close_with(&set)?,
                };
                let (path, hash, size) = (closed.path, closed.hash, closed.size);
                return some(json!({"path": path, "hash": hash, "size": size}));
            }
            "abort" => self.session(args).abort()?,
            "detach" => {
                let session = self.sessions.remove(&args.text("session")).unwrap();
                session.detach()?;
            }
            "resume" => {
                let name = args.text("as");
                let session = self.store().resume_session(self.session_id(args))?;
                self.keep_session(name, session);
            }
            "sessions" => {
                let sessions = self.store().sessions()?;
                let sessions = sessions.into_iter().map(|s| {
                    json!({
                        "bucket": s.bucket, "branch": s.branch, "path": s.path,
                        "owner": s.owner, "exclusive": s.exclusive, "alive": s.alive,
                    })
                });
                return some(sessions.collect::<Value>());
            }
            "abort_session" => {
                let force = args.flag("force", false);
                self.store().abort_session(self.session_id(args), force)?;
            }
            _ => return Ok(None),
        }
        some(NOTHING)
    }

    fn step_file(&mut self, op: &str, args: &Args<'_>) -> Result<Option<Outcome>> {
        if op == "open_file" {
            let mut options = FileOptions::new()
                .read(args.flag("read", false))
                .write(args.flag("write", false))
                .append(args.flag("append", false))
                .create(args.flag("create", false))
                .create_new(args.flag("create_new", false))
                .truncate(args.flag("truncate", false));
            if let Some(mode) = args.mode() {
                options = options.mode(mode);
            }
            let (name, path) = (args.text("as"), args.bytes("path"));
            let file = match args.opt_text("view") {
                Some(view) => self.views[&view].open_file(&path[..])?,
                None => self.branch(args)?.open_file(&path[..], &options)?,
            };
            self.open_files.insert(name, file);
            return some(NOTHING);
        }
        if !op.starts_with("file_") {
            return Ok(None);
        }
        let file = &self.open_files[&args.text("file")];
        let offset = args.get("offset").map(integer);
        match op {
            "file_read" => {
                let mut buffer = vec![0; args.integer("len") as usize];
                let n = match offset {
                    Some(offset) => file.read_at(offset, &mut buffer)?,
                    None => file.read(&mut buffer)?,
                };
                buffer.truncate(n);
                return some(Outcome::Bytes(buffer));
            }
            "file_write" => match offset {
                Some(offset) => file.write_at(offset, &args.bytes("data"))?,
                None => file.write(&args.bytes("data"))?,
            },
            "file_position" => return some(json!(file.position())),
            "file_seek" => file.set_position(args.integer("position")),
            "file_truncate" => file.set_size(args.integer("size"))?,
            "file_stat" => return some(entry(&file.stat())),
            "file_set_attrs" => file.set_attrs(&args.attrs())?,
            "file_sync" => file.sync()?,
            "file_close" => {
                let closed = file.close()?;
                let closed =
                    closed.map(|c| json!({"path": c.path, "hash": c.hash, "size": c.size}));
                return some(json!(closed));
            }
            "file_abort" => file.abort()?,
            _ => return Ok(None),
        }
        some(NOTHING)
    }

    fn step_host(&mut self, op: &str, args: &Args<'_>) -> Result<Option<Outcome>> {
        match op {
            "host_put" => {
                let root = self.host(args);
                fs::create_dir_all(&root)?;
                for entry in args.need("entries").as_array().unwrap() {
                    host_put(&root, entry)?;
                }
            }
            "host_remove" => {
                fs::remove_file(self.host(args).join(&args.text("path")[1..]))?;
            }
            "host_tree" => {
                let mut out = Vec::new();
                let root = self.host(args);
                host_tree(&root, &root, &mut out)?;
                return some(Value::Array(out));
            }
            "open_store" => Store::open(self.host(args)).map(drop)?,
            "create_store" => Store::create(self.host(args)).map(drop)?,
            "import" => {
                let mut source = self.host(args);
                if let Some(path) = args.opt_text("path") {
                    source.push(&path[1..]);
                }
                let mut options = ImportOptions::new().delete(args.flag("delete", false));
                for pattern in args.texts("exclude") {
                    options = options.exclude(pattern);
                }
                let to = args.bytes("to");
                let branch = self.branch(args)?;
                let done = branch.import(source, &to[..], &options, &args.task())?;
                return some(json!({
                    "files": done.files, "dirs": done.dirs, "symlinks": done.symlinks,
                    "bytes": done.bytes, "unchanged": done.unchanged,
                    "removed": done.removed, "skipped": done.skipped.len(),
                }));
            }
            "export" => {
                let target = self.host(args);
                let options = ExportOptions::new()
                    .overwrite(args.flag("overwrite", false))
                    .sync(args.flag("sync", false));
                let (path, task) = (args.bytes("path"), args.task());
                let done = self.read(args, |v| v.export(&path[..], target, &options, &task))?;
                return some(json!({
                    "files": done.files, "dirs": done.dirs, "symlinks": done.symlinks,
                    "bytes": done.bytes,
                }));
            }
            _ => return Ok(None),
        }
        some(NOTHING)
    }
}

fn some(outcome: impl Into<Outcome>) -> Result<Option<Outcome>> {
    Ok(Some(outcome.into()))
}

fn entry(entry: &Entry) -> Value {
    let attrs = entry.attrs;
    json!({
        "kind": entry.kind(), "size": entry.size(), "hash": entry.hash(), "target": entry.target(),
        "mode": format!("{:o}", attrs.mode), "uid": attrs.uid, "gid": attrs.gid,
        "mtime": attrs.mtime.0.to_string(), "ctime": attrs.ctime.0.to_string(),
    })
}

fn at_path((path, found): &(TreePath, Entry)) -> Value {
    let mut value = entry(found);
    value["path"] = json!(path);
    value
}

fn sharing(sharing: Sharing) -> Value {
    let trees = sharing.trees.iter().map(|tree| {
        json!({
            "tree": tree.tree.to_string(), "files": tree.files, "bytes": tree.bytes,
            "shared_files": tree.shared_files, "stored": tree.stored, "shared": tree.shared,
        })
    });
    let trees: Value = trees.collect();
    json!({"trees": trees, "stored": sharing.stored, "apart": sharing.apart})
}

fn branch_info(info: BranchInfo) -> Value {
    json!({
        "name": info.name, "parent": info.parent, "live": info.live, "snapshots": info.snapshots,
    })
}

fn difference((path, difference): (TreePath, Difference)) -> Value {
    match difference {
        Difference::Added { new } => json!({"path": path, "what": "added", "new": entry(&new)}),
        Difference::Deleted { old } => json!({"path": path, "what": "deleted", "old": entry(&old)}),
        Difference::Modified { old, new } => json!({
            "path": path, "what": "modified", "old": entry(&old), "new": entry(&new),
        }),
        Difference::Renamed { from, old, new } => json!({
            "path": path, "what": "renamed", "from": from, "old": entry(&old), "new": entry(&new),
        }),
    }
}

/// Makes an entry in a directory of the operating system.
#[cfg(unix)]
fn host_put(root: &Path, entry: &Value) -> std::io::Result<()> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let path = root.join(&text(&entry["path"])[1..]);
    match entry["kind"].as_str().unwrap() {
        "symlink" => return symlink(text(&entry["target"]), path),
        "dir" => fs::create_dir(&path)?,
        _ => fs::write(&path, bytes_of(&entry["data"]))?,
    }
    let mode = u32::from_str_radix(&text(&entry["mode"]), 8).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Lists a directory of the operating system as a tree is listed.
#[cfg(unix)]
fn host_tree(root: &Path, dir: &Path, out: &mut Vec<Value>) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let items: std::io::Result<Vec<_>> = fs::read_dir(dir)?.collect();
    let mut items = items?;
    items.sort_by_key(fs::DirEntry::file_name);
    for item in items {
        let path = item.path();
        let meta = path.symlink_metadata()?;
        let mode = format!("{:o}", meta.permissions().mode() & 0o7777);
        let name = format!("/{}", path.strip_prefix(root).unwrap().display());
        let mut value = json!({"mode": mode, "path": name});
        if meta.is_symlink() {
            value["kind"] = json!("symlink");
            value["target"] = json!(fs::read_link(&path)?);
        } else if meta.is_dir() {
            value["kind"] = json!("dir");
        } else {
            value["kind"] = json!("file");
            value["data"] = json!(fs::read_to_string(&path)?);
        }
        let is_dir = meta.is_dir();
        out.push(value);
        if is_dir {
            host_tree(root, &path, out)?;
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn host_put(_: &Path, _: &Value) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
fn host_tree(_: &Path, _: &Path, _: &mut Vec<Value>) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
