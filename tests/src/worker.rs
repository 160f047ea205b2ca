//! A process that works on a store for another one: what it is asked to do, how it answers, and a
//! model of what the store must show afterwards.
//!
//! The tests start the binary `alknet-fs-worker`, send it one [`Op`] a line and read its
//! [`Reply`]s; they may end it at any moment. [`Model`] knows every byte that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alknet_fs::{
    Branch, Durability, Hash, ImportOptions, Kind, OpenOptions, Options, Result, Session,
    SessionId, Store, Task, TreePath, Walk,
};
use serde::{Deserialize, Serialize};

/// Pseudo-random numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n.max(1)
    }

    /// Tells yes in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns one of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// Bytes that follow from a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// The seed.
    pub seed: u64,
    /// How many.
    pub len: usize,
}

impl Bytes {
    /// Makes the bytes.
    pub fn make(self) -> Vec<u8> {
        let mut rng = Rng::new(self.seed);
        let mut bytes = Vec::with_capacity(self.len + 8);
        while bytes.len() < self.len {
            bytes.extend_from_slice(&rng.number().to_le_bytes());
        }
        bytes.truncate(self.len);
        bytes
    }
}

/// A step of a write session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Writes at an offset.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Cuts or extends.
    Truncate {
        /// The new size.
        size: u64,
    },
    /// Makes what was written survive a power cut.
    Sync,
}

/// How a write session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It is closed.
    Close,
    /// It is aborted.
    Abort,
    /// It stays open as long as the process lives.
    Leave,
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchStep {
    /// Writes a file.
    Put(String, Bytes),
    /// Makes a directory.
    Mkdir(String),
    /// Removes a file.
    Remove(String),
}

/// What a worker is asked to do. Every one but `Import` is one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Writes a whole file.
    Put {
        /// The branch.
        branch: String,
        /// The path.
        path: String,
        /// The content.
        bytes: Bytes,
    },
    /// Writes through a session.
    Session {
        /// The branch.
        branch: String,
        /// The path.
        path: String,
        /// Whether to take the path's lock.
        exclusive: bool,
        /// Whether to start from an empty file.
        truncate: bool,
        /// What is written.
        steps: Vec<Step>,
        /// How it ends.
        end: End,
    },
    /// Goes on with a session that a dead process left.
    Resume {
        /// Its number.
        id: u64,
        /// A file that gets the bytes as the session has them.
        dump: PathBuf,
        /// How it ends.
        end: End,
    },
    /// Commits many changes at once.
    Batch {
        /// The branch.
        branch: String,
        /// The changes.
        steps: Vec<BatchStep>,
    },
    /// Renames a file or a directory.
    Rename {
        /// The branch.
        branch: String,
        /// From where.
        from: String,
        /// To where.
        to: String,
    },
    /// Removes a file.
    Remove {
        /// The branch.
        branch: String,
        /// The path.
        path: String,
    },
    /// Forks a branch.
    Fork {
        /// The branch forked from.
        from: String,
        /// Its snapshot, or nothing for a live fork.
        snapshot: Option<String>,
        /// The new branch.
        name: String,
    },
    /// Deletes a branch.
    DeleteBranch {
        /// The branch.
        name: String,
    },
    /// Takes a snapshot.
    Snapshot {
        /// The branch.
        branch: String,
        /// The snapshot.
        name: String,
    },
    /// Imports a directory of the operating system.
    Import {
        /// The branch.
        branch: String,
        /// The directory.
        source: PathBuf,
        /// Where it goes.
        to: String,
        /// The files of the source, by their names in it.
        files: Vec<(String, Bytes)>,
    },
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The store is open.
    Ready,
    /// A session is open.
    Opened(u64),
    /// So many steps of the session have returned.
    Stepped(usize),
    /// The operation has returned.
    Done,
    /// The operation failed: the kind's name, and the message.
    Failed(String, String),
}

/// How a worker opens its store.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Mode {
    /// What a commit promises.
    pub durability: Durability,
    /// How long to wait for other writers, in milliseconds.
    pub busy_ms: u64,
}

impl Default for Mode {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            busy_ms: 30_000,
        }
    }
}

impl Mode {
    /// Returns the options of the store.
    pub fn options(self) -> Options {
        Options::new()
            .author("worker")
            .durability(self.durability)
            .busy_timeout(Duration::from_millis(self.busy_ms))
    }
}

/// Opens a branch of the default bucket.
///
/// # Errors
/// The store's.
pub fn branch(store: &Store, name: &str) -> Result<Branch> {
    store.bucket(alknet_fs::DEFAULT_BUCKET)?.branch(name)
}

/// Carries out one operation; `reply` is told of each step that has returned.
///
/// # Errors
/// The store's.
pub fn execute(
    store: &Store,
    op: &Op,
    left: &mut Vec<Session>,
    reply: &mut dyn FnMut(Reply),
) -> Result<()> {
    match op {
        Op::Put {
            branch: name,
            path,
            bytes,
        } => branch(store, name)?.write(path.as_str(), bytes.make()),
        Op::Session {
            branch: name,
            path,
            exclusive,
            truncate,
            steps,
            end,
        } => {
            let options = OpenOptions::new().exclusive(*exclusive).truncate(*truncate);
            let session = branch(store, name)?.open_session(path.as_str(), &options)?;
            reply(Reply::Opened(session.id().0));
            for (done, step) in steps.iter().enumerate() {
                match step {
                    Step::Write { offset, bytes } => session.write_at(*offset, &bytes.make())?,
                    Step::Truncate { size } => session.truncate(*size)?,
                    Step::Sync => session.sync()?,
                }
                reply(Reply::Stepped(done + 1));
            }
            end_session(session, *end, left)
        }
        Op::Resume { id, dump, end } => {
            let session = store.resume_session(SessionId(*id))?;
            let mut bytes = vec![0; session.size() as usize];
            let read = session.read_at(0, &mut bytes)?;
            assert_eq!(read, bytes.len(), "a session reads short of its size");
            std::fs::write(dump, bytes)?;
            end_session(session, *end, left)
        }
        Op::Batch {
            branch: name,
            steps,
        } => {
            let mut batch = branch(store, name)?.batch();
            for step in steps {
                match step {
                    BatchStep::Put(path, bytes) => batch.write(path.as_str(), bytes.make())?,
                    BatchStep::Mkdir(path) => batch.mkdir(path.as_str())?,
                    BatchStep::Remove(path) => batch.remove(path.as_str())?,
                }
            }
            batch.commit().map(drop)
        }
        Op::Rename {
            branch: name,
            from,
            to,
        } => branch(store, name)?.rename(from.as_str(), to.as_str()),
        Op::Remove { branch: name, path } => branch(store, name)?.remove(path.as_str()),
        Op::Fork {
            from,
            snapshot,
            name,
        } => {
            let from = branch(store, from)?;
            match snapshot {
                Some(snapshot) => from.fork_at(snapshot, name).map(drop),
                None => from.fork(name).map(drop),
            }
        }
        Op::DeleteBranch { name } => store.bucket(alknet_fs::DEFAULT_BUCKET)?.delete_branch(name),
        Op::Snapshot { branch: of, name } => branch(store, of)?.snapshot(name).map(drop),
        Op::Import {
            branch: name,
            source,
            to,
            files: _,
        } => {
            let options = ImportOptions::new();
            let report =
                branch(store, name)?.import(source, to.as_str(), &options, &Task::new())?;
            assert!(report.skipped.is_empty(), "{:?}", report.skipped);
            Ok(())
        }
    }
}

fn end_session(session: Session, end: End, left: &mut Vec<Session>) -> Result<()> {
    match end {
        End::Close => session.close().map(drop),
        End::Abort => session.abort(),
        End::Leave => {
            left.push(session);
            Ok(())
        }
    }
}

/// A file or a directory of the model.
#[derive(Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir,
    /// A file.
    File(File),
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir => f.write_str("dir"),
            Self::File(file) => write!(f, "{} of {} bytes", file.hash, file.bytes.len()),
        }
    }
}

/// A file of the model.
#[derive(Clone)]
pub struct File {
    /// The hash of its bytes.
    pub hash: Hash,
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
}

impl File {
    /// Makes a file of bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            hash: Hash::of(&bytes),
            bytes: Arc::new(bytes),
        }
    }
}

impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.bytes.len() == other.bytes.len()
    }
}

impl Eq for File {}

/// A tree of the model.
pub type Tree = BTreeMap<String, Node>;

/// A branch of the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelBranch {
    /// What it was forked from.
    pub from: Option<String>,
    /// Whether that shows through.
    pub live: bool,
    /// What it wrote; nothing for what it hides.
    pub own: BTreeMap<String, Option<Node>>,
}

/// What a store must show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// The branches.
    pub branches: BTreeMap<String, ModelBranch>,
    /// The snapshots, by branch and name.
    pub snapshots: BTreeMap<(String, String), Tree>,
}

/// An event that must have been published: branch, operation, path or name, new hash.
pub type Expected = (String, &'static str, String, Option<Hash>);

impl Model {
    /// Starts with an empty branch `main`.
    pub fn new() -> Self {
        let mut model = Self::default();
        model
            .branches
            .insert("main".to_owned(), ModelBranch::default());
        model
    }

    /// Returns what a branch shows.
    pub fn tree(&self, name: &str) -> Tree {
        let branch = &self.branches[name];
        let mut tree = match (&branch.from, branch.live) {
            (Some(from), true) => self.tree(from),
            _ => Tree::new(),
        };
        for (path, node) in &branch.own {
            match node {
                Some(node) => tree.insert(path.clone(), node.clone()),
                None => tree.remove(path),
            };
        }
        tree
    }

    fn set(&mut self, branch: &str, path: &str, node: Node) {
        let branch = self.branches.get_mut(branch).unwrap();
        branch.own.insert(path.to_owned(), Some(node));
    }

    fn unset(&mut self, branch: &str, path: &str) {
        let record = &self.branches[branch];
        let inherits = match (&record.from, record.live) {
            (Some(from), true) => self.tree(from).contains_key(path),
            _ => false,
        };
        let own = &mut self.branches.get_mut(branch).unwrap().own;
        if inherits {
            own.insert(path.to_owned(), None);
        } else {
            own.remove(path);
        }
    }

    /// Puts a file; returns the event.
    pub fn put(&mut self, branch: &str, path: &str, bytes: Vec<u8>) -> Expected {
        let file = File::new(bytes);
        let op = match self.tree(branch).contains_key(path) {
            true => "modify",
            false => "create",
        };
        let hash = file.hash;
        self.set(branch, path, Node::File(file));
        (branch.to_owned(), op, path.to_owned(), Some(hash))
    }

    /// Returns what a file holds that may not exist.
    pub fn bytes(&self, branch: &str, path: &str) -> Vec<u8> {
        match self.tree(branch).get(path) {
            Some(Node::File(file)) => file.bytes.to_vec(),
            _ => Vec::new(),
        }
    }

    /// Does what an operation does; returns the events it publishes. Those of an import come in no
    /// particular order, and are left out.
    pub fn apply(&mut self, op: &Op) -> Vec<Expected> {
        match op {
            Op::Put {
                branch,
                path,
                bytes,
            } => vec![self.put(branch, path, bytes.make())],
            Op::Session {
                branch,
                path,
                truncate,
                steps,
                end: End::Close,
                ..
            } => {
                let mut bytes = match truncate {
                    true => Vec::new(),
                    false => self.bytes(branch, path),
                };
                for step in steps {
                    apply_step(&mut bytes, step);
                }
                vec![self.put(branch, path, bytes)]
            }
            Op::Session { .. } | Op::Resume { .. } => Vec::new(),
            Op::Batch { branch, steps } => steps
                .iter()
                .map(|step| match step {
                    BatchStep::Put(path, bytes) => self.put(branch, path, bytes.make()),
                    BatchStep::Mkdir(path) => {
                        self.set(branch, path, Node::Dir);
                        (branch.clone(), "create", path.clone(), None)
                    }
                    BatchStep::Remove(path) => {
                        self.unset(branch, path);
                        (branch.clone(), "remove", path.clone(), None)
                    }
                })
                .collect(),
            Op::Rename { branch, from, to } => {
                let below = format!("{from}/");
                let moved: Vec<_> = self
                    .tree(branch)
                    .into_iter()
                    .filter(|(path, _)| path == from || path.starts_with(&below))
                    .collect();
                let hash = match &moved[0].1 {
                    Node::File(file) => Some(file.hash),
                    Node::Dir => None,
                };
                for (path, node) in moved {
                    self.unset(branch, &path);
                    self.set(branch, &format!("{to}{}", &path[from.len()..]), node);
                }
                vec![(branch.clone(), "rename", to.clone(), hash)]
            }
            Op::Remove { branch, path } => {
                self.unset(branch, path);
                vec![(branch.clone(), "remove", path.clone(), None)]
            }
            Op::Fork {
                from,
                snapshot,
                name,
            } => {
                let own = match snapshot {
                    None => BTreeMap::new(),
                    Some(snapshot) => self.snapshots[&(from.clone(), snapshot.clone())]
                        .iter()
                        .map(|(path, node)| (path.clone(), Some(node.clone())))
                        .collect(),
                };
                let branch = ModelBranch {
                    from: Some(from.clone()),
                    live: snapshot.is_none(),
                    own,
                };
                self.branches.insert(name.clone(), branch);
                vec![(name.clone(), "fork", String::new(), None)]
            }
            Op::DeleteBranch { name } => {
                self.branches.remove(name);
                self.snapshots.retain(|(branch, _), _| branch != name);
                vec![(name.clone(), "delete_branch", String::new(), None)]
            }
            Op::Snapshot { branch, name } => {
                let tree = self.tree(branch);
                self.snapshots.insert((branch.clone(), name.clone()), tree);
                vec![(branch.clone(), "snapshot", name.clone(), None)]
            }
            Op::Import {
                branch, to, files, ..
            } => {
                self.set(branch, to, Node::Dir);
                for (name, bytes) in files {
                    let file = File::new(bytes.make());
                    self.set(branch, &format!("{to}/{name}"), Node::File(file));
                }
                Vec::new()
            }
        }
    }

    /// Reads what a store shows, as far as names, kinds, sizes and hashes go, and compares it.
    /// Returns the differences.
    pub fn differences(&self, store: &Store) -> Vec<String> {
        let mut out = Vec::new();
        let bucket = store.bucket(alknet_fs::DEFAULT_BUCKET).unwrap();
        let infos = bucket.branches().unwrap();
        let names: BTreeSet<_> = infos.iter().map(|info| info.name.clone()).collect();
        for name in names.union(&self.branches.keys().cloned().collect()) {
            if !names.contains(name) || !self.branches.contains_key(name) {
                out.push(format!(
                    "branch {name}: in the store {}",
                    names.contains(name)
                ));
                continue;
            }
            let branch = bucket.branch(name).unwrap();
            compare(name, &self.tree(name), &branch.view().unwrap(), &mut out);
            let taken: BTreeSet<_> = branch
                .snapshots()
                .unwrap()
                .into_iter()
                .map(|s| s.name)
                .collect();
            let known: BTreeSet<_> = self
                .snapshots
                .keys()
                .filter(|(of, _)| of == name)
                .map(|(_, snapshot)| snapshot.clone())
                .collect();
            if taken != known {
                out.push(format!(
                    "snapshots of {name}: {taken:?}, expected {known:?}"
                ));
                continue;
            }
            for snapshot in known {
                let tree = &self.snapshots[&(name.clone(), snapshot.clone())];
                let view = branch.view_at(&snapshot).unwrap();
                compare(&format!("{name}@{snapshot}"), tree, &view, &mut out);
            }
        }
        out
    }

    /// Takes over from a store, for one directory, what an interrupted import left there: each file
    /// is as before or as imported. Returns what is neither.
    pub fn settle_import(&mut self, store: &Store, op: &Op) -> Vec<String> {
        let Op::Import {
            branch: name, to, ..
        } = op
        else {
            return Vec::new();
        };
        let before = self.tree(name);
        let mut imported = self.clone();
        imported.apply(op);
        let after = imported.tree(name);
        let mut out = Vec::new();
        let below = format!("{to}/");
        let there = read_tree(&branch(store, name).unwrap().view().unwrap());
        let within = |path: &String| path == to || path.starts_with(&below);
        let mut paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        paths.extend(there.keys());
        for path in paths.into_iter().filter(|path| within(path)) {
            let found = there.get(path);
            let fits = |tree: &Tree| same(tree.get(path), found);
            if fits(&after) {
                if let Some(node) = after.get(path) {
                    self.set(name, path, node.clone());
                }
            } else if !fits(&before) {
                out.push(format!("{name}:{path}: {found:?} after half an import"));
            }
        }
        out
    }

    /// Reads the bytes of all files that a store shows and compares them; files whose hash is in
    /// `known` are left out, and those read are added to it.
    pub fn wrong_bytes(&self, store: &Store, known: &mut BTreeSet<Hash>) -> Vec<String> {
        let mut out = Vec::new();
        for name in self.branches.keys() {
            let view = branch(store, name).unwrap().view().unwrap();
            for (path, node) in self.tree(name) {
                if let Node::File(file) = node
                    && known.insert(file.hash)
                {
                    match view.read(path.as_str()) {
                        Ok(bytes) if bytes == *file.bytes => {}
                        Ok(_) => out.push(format!("{name}:{path}: other bytes")),
                        Err(e) => out.push(format!("{name}:{path}: {e}")),
                    }
                }
            }
        }
        out
    }
}

/// Does to a byte vector what a step does to a session.
pub fn apply_step(file: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write { offset, bytes } => {
            let (at, end) = (*offset as usize, *offset as usize + bytes.len);
            if file.len() < end {
                file.resize(end, 0);
            }
            file[at..end].copy_from_slice(&bytes.make());
        }
        Step::Truncate { size } => file.resize(*size as usize, 0),
        Step::Sync => {}
    }
}

/// What is found at a path: nothing inside for a directory, the hash and the size of a file.
type Found = Option<(Hash, u64)>;

fn read_tree(view: &alknet_fs::View) -> BTreeMap<String, Found> {
    let mut found = BTreeMap::new();
    view.walk(TreePath::root(), |path, entry| {
        let file = match entry.kind() {
            Kind::Dir => None,
            _ => entry.hash().map(|hash| (hash, entry.size())),
        };
        found.insert(path.to_string(), file);
        Ok(Walk::Continue)
    })
    .unwrap();
    found
}

fn same(node: Option<&Node>, found: Option<&Found>) -> bool {
    match (node, found) {
        (None, None) | (Some(Node::Dir), Some(None)) => true,
        (Some(Node::File(file)), Some(Some((hash, size)))) => {
            file.hash == *hash && file.bytes.len() as u64 == *size
        }
        _ => false,
    }
}

fn compare(name: &str, tree: &Tree, view: &alknet_fs::View, out: &mut Vec<String>) {
    let there = read_tree(view);
    let paths: BTreeSet<_> = tree.keys().chain(there.keys()).collect();
    for path in paths {
        if !same(tree.get(path), there.get(path)) {
            let (expected, found) = (tree.get(path), there.get(path));
            out.push(format!("{name}:{path}: {found:?}, expected {expected:?}"));
        }
    }
}

/// A worker process, as its parent sees it.
#[derive(Debug)]
pub struct Worker {
    child: Arc<Mutex<Child>>,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// Ends a worker from another thread.
#[derive(Debug, Clone)]
pub struct Killer(Arc<Mutex<Child>>);

impl Killer {
    /// Kills the process (SIGKILL on Unix).
    pub fn kill(&self) {
        // The process may have ended by itself.
        let _ = self.0.lock().unwrap().kill();
    }
}

impl Worker {
    /// Starts a worker on a store. `command` runs the worker's binary with the arguments it is
    /// given.
    pub fn start(command: &mut Command, store: &Path, mode: Mode) -> Self {
        let mode = serde_json::to_string(&mode).unwrap();
        let mut child = command
            .arg("work")
            .arg(store)
            .arg(mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            to: child.stdin.take().unwrap(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child: Arc::new(Mutex::new(child)),
        }
    }

    /// Returns what ends this process.
    pub fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.child))
    }

    /// Asks for an operation. Fails where the process is gone.
    ///
    /// # Errors
    /// Those of the pipe.
    pub fn ask(&mut self, op: &Op) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(op).unwrap();
        line.push(b'\n');
        self.to.write_all(&line)
    }

    /// Waits for the next reply; nothing where the process is gone.
    pub fn reply(&mut self) -> Option<Reply> {
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => Some(serde_json::from_str(&line).unwrap()),
            _ => None,
        }
    }

    /// Asks for an operation and waits for its last reply; nothing where the process died.
    pub fn run(&mut self, op: &Op) -> Option<Reply> {
        self.ask(op).ok()?;
        loop {
            match self.reply()? {
                Reply::Opened(_) | Reply::Stepped(_) => {}
                last => return Some(last),
            }
        }
    }

    /// Kills the process and waits for its end.
    pub fn end(self) {
        self.killer().kill();
        self.child.lock().unwrap().wait().unwrap();
    }

    /// Lets the process end by itself, with a clean close of its store.
    pub fn finish(self) -> ExitStatus {
        drop(self.to);
        self.child.lock().unwrap().wait().unwrap()
    }
}

/// The worker's side: opens a store and carries out what it is asked, until its input ends.
///
/// With `ALKFS_WORKER_STOP=1` in the environment it aborts at the first failure, right after it has
/// replied.
pub fn serve(store: &Path, mode: Mode) {
    let mut out = std::io::stdout().lock();
    let mut reply = |reply: Reply| {
        let mut line = serde_json::to_vec(&reply).unwrap();
        line.push(b'\n');
        if out.write_all(&line).and_then(|()| out.flush()).is_err() {
            std::process::exit(3);
        }
    };
    let stop = std::env::var_os("ALKFS_WORKER_STOP").is_some_and(|v| v == "1");
    let failed = |e: &alknet_fs::Error| Reply::Failed(e.kind().name().to_owned(), e.to_string());
    let store = match mode.options().open(store) {
        Ok(store) => store,
        Err(e) => {
            reply(failed(&e));
            std::process::exit(2);
        }
    };
    reply(Reply::Ready);
    let mut left = Vec::new();
    for line in std::io::stdin().lines() {
        let op: Op = serde_json::from_str(&line.unwrap()).unwrap();
        match execute(&store, &op, &mut left, &mut reply) {
            Ok(()) => reply(Reply::Done),
            Err(e) => {
                reply(failed(&e));
                if stop {
                    std::process::abort();
                }
            }
        }
    }
}
